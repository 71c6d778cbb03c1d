//! What a confirm means, by the durability of the node and of the queue: it never comes before that is reached, and
//! there is no sync that no durability needs.

use crate::support::*;
use gatepost_core::command::{Command, PublishFlags};
use gatepost_core::properties::Value;
use gatepost_core::store::{Durability, StoreSettings};
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{Client, Settings, World};

const INTERVAL_MS: u64 = 500;
const MODES: [Durability; 3] = [Durability::Os, Durability::Interval, Durability::Always];

fn world(node: Durability, confirm_written: bool) -> World {
    let settings = Settings {
        durability: node,
        ..Settings::default()
    };
    let store = StoreSettings {
        interval: ms(INTERVAL_MS),
        confirm_written,
        ..StoreSettings::default()
    };
    World::with(1, settings, store)
}

fn word(mode: Durability) -> &'static str {
    match mode {
        Durability::Always => "always",
        Durability::Interval => "interval",
        Durability::Os => "os",
    }
}

/// A durable queue with its own durability, or without.
fn queue(name: &str, mode: Option<Durability>) -> Command {
    declare(name, |d| {
        if let Some(mode) = mode {
            d.arguments.push("x-gatepost-durability", Value::text(word(mode)));
        }
    })
}

/// Syncs everything so far, so that only what follows is measured.
fn settle_down(w: &mut World, c: Client) {
    // The first record after a start creates a segment, which causes a sync of its own.
    w.send(c, vec![queue("warm", None), delete("warm")]);
    w.catch_up();
    w.advance(ms(2 * INTERVAL_MS));
    w.disk().write_back();
    hear(w, c);
}

/// Publishes, and returns when the confirm came and how often the log was synced for it.
fn confirmed_when(w: &mut World, c: Client, publish: Command) -> (&'static str, u64) {
    let before = w.disk().syncs();
    w.send(c, vec![publish]);
    let confirmed = |heard: Vec<String>| heard.iter().any(|line| line.starts_with("confirmed"));
    assert!(!confirmed(now(w, c)), "before it was written");
    assert!(w.commit());
    assert!(!confirmed(now(w, c)), "before the log reported");
    let at_once = w.disk().syncs() - before;
    w.report();
    if confirmed(now(w, c)) {
        return (if at_once > 0 { "synced" } else { "written" }, at_once);
    }
    w.advance(ms(INTERVAL_MS - 1));
    assert!(!confirmed(now(w, c)), "before the interval was over");
    assert_eq!(w.disk().syncs() - before, at_once);
    w.advance(ms(1));
    assert!(confirmed(now(w, c)), "the interval's sync covered it");
    ("interval", w.disk().syncs() - before)
}

#[test]
fn a_confirm_waits_for_the_durability_of_its_queue_or_of_the_node() {
    for node in MODES {
        for own in [
            None,
            Some(Durability::Os),
            Some(Durability::Interval),
            Some(Durability::Always),
        ] {
            let mut w = world(node, false);
            let c = w.connect("test");
            run(&mut w, c, [queue("q", own)]);
            settle_down(&mut w, c);
            let expected = match own.unwrap_or(node) {
                Durability::Os => ("written", 0),
                Durability::Interval => ("interval", 1),
                Durability::Always => ("synced", 1),
            };
            let when = confirmed_when(&mut w, c, put("q", "1"));
            assert_eq!(when, expected, "node {node:?}, queue {own:?}");
            // What the durability promises exists after the failures that it covers.
            w.crash(match own.unwrap_or(node) {
                Durability::Os => Crash::Process,
                Durability::Interval | Durability::Always => Crash::Power,
            });
            let c = w.connect("test");
            assert_eq!(
                run(&mut w, c, [get("q")]),
                ["got #1 1 left 0"],
                "node {node:?}, queue {own:?}"
            );
        }
    }
}

#[test]
fn a_confirm_of_several_queues_waits_for_the_strictest() {
    for (left, right, expected) in [
        (Durability::Os, Durability::Always, ("synced", 1)),
        (Durability::Always, Durability::Os, ("synced", 1)),
        (Durability::Os, Durability::Interval, ("interval", 1)),
        (Durability::Interval, Durability::Always, ("synced", 1)),
        (Durability::Os, Durability::Os, ("written", 0)),
    ] {
        let mut w = world(Durability::Os, false);
        let c = w.connect("test");
        let fanout = [
            exchange("x", "fanout"),
            queue("l", Some(left)),
            queue("r", Some(right)),
            bind("x", "l", ""),
            bind("x", "r", ""),
        ];
        run(&mut w, c, fanout);
        settle_down(&mut w, c);
        let both = publish(PublishFlags::CONFIRM, message("x", "", "1", true));
        assert_eq!(confirmed_when(&mut w, c, both), expected, "{left:?}, {right:?}");
    }
}

#[test]
fn an_interval_confirmed_when_written_is_synced_all_the_same() {
    let mut w = world(Durability::Interval, true);
    let c = w.connect("test");
    run(&mut w, c, [queue("q", None)]);
    settle_down(&mut w, c);
    assert_eq!(confirmed_when(&mut w, c, put("q", "1")), ("written", 0));
    let before = w.disk().syncs();
    w.advance(ms(INTERVAL_MS));
    assert_eq!(w.disk().syncs(), before + 1);
}

#[test]
fn an_os_queue_does_not_wait_for_the_interval_of_another() {
    let mut w = world(Durability::Always, false);
    let c = w.connect("test");
    let slow = w.connect("test");
    run(
        &mut w,
        c,
        [
            queue("os", Some(Durability::Os)),
            queue("interval", Some(Durability::Interval)),
        ],
    );
    settle_down(&mut w, c);
    w.send(slow, vec![put("interval", "1")]);
    w.send(c, vec![put("os", "1")]);
    w.catch_up();
    assert_eq!(now(&mut w, c), ["confirmed 1"]);
    assert!(now(&mut w, slow).is_empty());
    w.advance(ms(INTERVAL_MS));
    assert_eq!(now(&mut w, slow), ["confirmed 1"]);
}

#[test]
fn confirms_of_one_channel_keep_their_order_over_queues_of_different_modes() {
    let mut w = world(Durability::Always, false);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [
            queue("os", Some(Durability::Os)),
            queue("interval", Some(Durability::Interval)),
        ],
    );
    settle_down(&mut w, c);
    w.send(c, vec![put("os", "1"), put("interval", "2"), put("os", "3")]);
    w.catch_up();
    assert!(now(&mut w, c).is_empty(), "one batch waits for the neediest");
    w.advance(ms(INTERVAL_MS));
    assert_eq!(now(&mut w, c), ["confirmed 3"]);
    w.send(c, vec![put("os", "4")]);
    w.catch_up();
    w.send(c, vec![put("interval", "5")]);
    w.catch_up();
    w.send(c, vec![put("os", "6")]);
    w.catch_up();
    assert_eq!(now(&mut w, c), ["confirmed 4"]);
    w.advance(ms(INTERVAL_MS));
    assert_eq!(now(&mut w, c), ["confirmed 6"]);
}

#[test]
fn a_message_settled_by_all_is_confirmed_before_any_sync() {
    for own in MODES {
        let mut w = world(Durability::Always, false);
        let (c, consumer) = (w.connect("test"), w.connect("test"));
        run(&mut w, c, [queue("q", Some(own))]);
        run(&mut w, consumer, [consume("q", 1)]);
        settle_down(&mut w, c);
        // The first one brings the hand-out mark.
        run(&mut w, c, [put("q", "0")]);
        w.advance(ms(INTERVAL_MS));
        hear(&mut w, c);
        hear(&mut w, consumer);
        let before = w.disk().syncs();
        w.send(c, vec![put("q", "1")]);
        assert_eq!(now(&mut w, consumer), ["deliver c1 #2 1"]);
        w.send(consumer, vec![ack_upto(2)]);
        assert_eq!(now(&mut w, c), ["confirmed 2"], "{own:?}");
        assert_eq!(w.disk().syncs(), before);
    }
}

#[test]
fn a_transaction_is_answered_when_its_strictest_queue_is_satisfied() {
    let mut w = world(Durability::Os, false);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [queue("os", None), queue("always", Some(Durability::Always))],
    );
    settle_down(&mut w, c);
    for (queues, syncs) in [(["os", "os"], 0), (["os", "always"], 1)] {
        let before = w.disk().syncs();
        let publishes = queues.map(|q| publish(PublishFlags::default(), message("", q, "1", true)));
        assert_eq!(run(&mut w, c, [transaction(publishes.into())]), ["done Commit"]);
        assert_eq!(w.disk().syncs() - before, syncs, "{queues:?}");
    }
}

#[test]
fn sessions_definitions_and_retained_messages_take_the_nodes_mode() {
    for (node, syncs) in [(Durability::Os, 0), (Durability::Always, 1)] {
        let mut w = world(node, false);
        let (device, sensor) = (w.connect("mqtt"), w.connect("mqtt"));
        run(&mut w, device, [kept("device"), subscribe(vec![filter("a/#", 1)])]);
        run(&mut w, sensor, [kept("sensor")]);
        w.drop_client(device);
        settle_down(&mut w, sensor);
        let steps: [(&str, Command); 5] = [
            ("QoS 1", mqtt("a/b", "1", 1, 0)),
            ("QoS 2", mqtt("a/b", "2", 2, 7)),
            ("retained", retain("r", "3")),
            ("subscription", subscribe(vec![filter("s", 1)])),
            ("queue", durable("q")),
        ];
        for (what, command) in steps {
            let before = w.disk().syncs();
            w.send(sensor, vec![command]);
            assert!(now(&mut w, sensor).is_empty(), "{what}: not before it is in the log");
            w.catch_up();
            assert!(!now(&mut w, sensor).is_empty(), "{what}: once it is");
            assert_eq!(w.disk().syncs() - before, syncs, "{what}, {node:?}");
        }
    }
}

#[test]
fn a_queues_durability_survives_a_restart_and_is_compared() {
    let mut w = world(Durability::Always, false);
    let c = w.connect("test");
    run(&mut w, c, [queue("q", Some(Durability::Os))]);
    w.crash(Crash::Power);
    let c = w.connect("test");
    settle_down(&mut w, c);
    assert_eq!(confirmed_when(&mut w, c, put("q", "1")), ("written", 0));
    assert_eq!(run(&mut w, c, [queue("q", Some(Durability::Os))]), ["declared q 1/0"]);
    let other = run(&mut w, c, [queue("q", Some(Durability::Always))]);
    let text =
        "inequivalent arg 'x-gatepost-durability' for queue 'q' in vhost '/': received 'always' but current is 'os'";
    assert_eq!(other, [format!("failed DeclareQueue PreconditionFailed {text}")]);
}

#[test]
fn a_consumer_does_not_wait_for_the_interval_of_its_publishers() {
    // A hand-out mark staged behind messages with durability `interval` waited for their sync: a thousand messages per
    // interval.
    let mut w = world(Durability::Interval, false);
    let (c, consumer) = (w.connect("test"), w.connect("test"));
    run(&mut w, c, [queue("q", None)]);
    settle_down(&mut w, c);
    for first in (0..4_000).step_by(500) {
        w.send(c, (first..first + 500).map(|n| put("q", &n.to_string())).collect());
        w.catch_up();
    }
    let heard = run(&mut w, consumer, [consume_no_ack("q", 1)]);
    assert_eq!(heard.len(), 1 + 4_000, "no time has passed");
}

#[test]
fn written_batches_do_not_delay_publishers_until_the_interval() {
    let settings = Settings {
        durability: Durability::Interval,
        log_backlog_bytes_max: 16 << 10,
        ..Settings::default()
    };
    let mut w = World::with(1, settings, StoreSettings::default());
    let c = w.connect("test");
    run(&mut w, c, [queue("q", None)]);
    settle_down(&mut w, c);
    for n in 0..40 {
        w.send(c, vec![put("q", &padded(&n.to_string(), 1 << 10))]);
        w.catch_up();
        assert!(now(&mut w, c).is_empty(), "neither a confirm nor a word of waiting");
    }
    w.advance(ms(1_000));
    assert_eq!(now(&mut w, c), ["confirmed 40"]);
}

/// `basic.get` waited with the answers that wait for the interval's sync, although its mark only has to be written.
#[test]
fn a_fetched_message_waits_for_its_mark_to_be_written_and_for_no_sync() {
    for mode in [Durability::Interval, Durability::Always] {
        let mut w = world(Durability::Always, false);
        let (c, other) = (w.connect("test"), w.connect("test"));
        run(&mut w, c, [queue("q", Some(mode)), queue("r", None)]);
        w.send(c, (0..3).map(|n| put("q", &n.to_string())).collect());
        settle_down(&mut w, c);
        let syncs = w.disk().syncs();
        // In the same batch, and before it, something waits for the interval.
        w.send(other, vec![put_transient("r", "x")]);
        if mode == Durability::Interval {
            w.send(other, vec![put("q", "3")]);
        }
        w.send(c, vec![get("q"), get("q"), echo(1), get_no_ack("q")]);
        assert!(now(&mut w, c).is_empty(), "the mark is not written");
        assert!(w.commit());
        w.report();
        let left = if mode == Durability::Interval { 3 } else { 2 };
        let expected = [
            format!("got #1 0 left {left}"),
            format!("got #2 1 left {}", left - 1),
            "echo 1".into(),
            format!("got #3 2 left {}", left - 2),
        ];
        assert_eq!(now(&mut w, c), expected, "{mode:?}");
        assert_eq!(w.disk().syncs(), syncs, "a mark forces no sync");
        // After a crash they may have been received, and the settle is not known yet.
        w.crash(Crash::Process);
        let c = w.connect("test");
        assert_eq!(run(&mut w, c, [get("q")]), [format!("got #1 0 again left {left}")]);
    }
}

/// A reload changes the durability and limits while connections continue.
#[test]
fn durability_and_limits_change_while_the_engine_runs() {
    let mut w = World::new(1);
    let c = w.connect("amqp");
    run(&mut w, c, [durable("q")]);
    // Published before the change, so it waits for the sync.
    w.send(c, vec![put("q", "1")]);
    let next = Settings {
        durability: Durability::Os,
        queues_max: 2,
        vhost: "another".into(),
        ..Settings::default()
    };
    w.reconfigure(next);
    assert!(now(&mut w, c).is_empty());
    assert_eq!(hear(&mut w, c), ["confirmed 1"]);
    w.send(c, vec![put("q", "2")]);
    w.commit();
    w.report();
    assert_eq!(now(&mut w, c), ["confirmed 2"], "written is enough");
    assert_eq!(run(&mut w, c, [durable("r")]), ["declared r 0/0"]);
    let refused = run(&mut w, c, [durable("s")]);
    assert!(refused[0].starts_with("failed DeclareQueue"), "{refused:?}");
    assert!(refused[0].contains("vhost '/'"), "the vhost is the same: {refused:?}");
}
