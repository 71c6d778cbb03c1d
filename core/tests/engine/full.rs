//! A disk that fills up: publishers wait, then are refused in time; consumers always flow; what they settle makes room.

use crate::support::*;
use gatepost_core::command::{Command, PublishFlags};
use gatepost_core::event::Pressure;
use gatepost_core::store::StoreSettings;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{Client, Settings, World};

const KIB: usize = 1 << 10;
const SEGMENT: u64 = 64 << 10;

fn full(w: &mut World, is_full: bool) {
    w.set_pressure(is_full.then_some(Pressure::Full));
}

#[test]
fn a_publish_that_needs_the_log_is_refused_and_nothing_is_kept_of_it() {
    let mut w = World::new(1);
    let c = w.connect("test");
    let queues = [
        exchange("x", "fanout"),
        durable("d"),
        transient("t"),
        bind("x", "d", ""),
        bind("x", "t", ""),
    ];
    run(&mut w, c, queues);
    run(&mut w, c, [put("d", "before")]);
    full(&mut w, true);
    let both = publish(PublishFlags::CONFIRM, message("x", "", "both", true));
    let heard = run(&mut w, c, [put("d", "1"), both]);
    let expected = [
        "flow Some(Full)",
        "refused 2 ResourceError",
        "refused 3 ResourceError",
        "confirmed 3",
    ];
    assert_eq!(heard, expected);
    // What needs no log is taken.
    let heard = run(&mut w, c, [put("t", "4"), put_transient("d", "5"), put("nowhere", "6")]);
    assert_eq!(heard, ["confirmed 6"]);
    assert_eq!(run(&mut w, c, [get("t"), get("t")]), ["got #1 4 left 0", "empty"]);
    // Without a confirm nobody can be told: it is lost, and counted.
    let silent = publish(PublishFlags::default(), message("", "d", "7", true));
    assert!(run(&mut w, c, [silent]).is_empty());
    assert_eq!(w.counters().refused, 3);
    full(&mut w, false);
    assert_eq!(run(&mut w, c, [put("d", "8")]), ["flow None", "confirmed 7"]);
    let heard = run(&mut w, c, [get("d"), get("d"), get("d"), get("d")]);
    let expected = ["got #2 before left 2", "got #3 5 left 1", "got #4 8 left 0", "empty"];
    assert_eq!(heard, expected);
}

#[test]
fn consumers_definitions_and_settles_go_on() {
    let mut w = World::new(2);
    let (c, consumer) = (w.connect("test"), w.connect("test"));
    run(&mut w, c, [durable("d"), put("d", "1"), put("d", "2")]);
    full(&mut w, true);
    let heard = run(&mut w, consumer, [consume("d", 1), durable("e")]);
    assert_eq!(
        heard,
        ["consuming c1", "declared e 0/0", "deliver c1 #1 1", "deliver c1 #2 2"]
    );
    run(&mut w, consumer, [ack(1)]);
    w.advance(ms(300));
    w.catch_up();
    w.crash(Crash::Power);
    let c = w.connect("test");
    assert_eq!(run(&mut w, c, [get("d"), get("d")])[1..], ["empty"], "one was settled");
}

#[test]
fn a_transaction_is_refused_as_a_whole() {
    let mut w = World::new(3);
    let c = w.connect("test");
    run(&mut w, c, [durable("d"), transient("t"), put("d", "1"), get("d")]);
    full(&mut w, true);
    let plain = |queue| publish(PublishFlags::default(), message("", queue, "m", true));
    let heard = run(&mut w, c, [transaction(vec![plain("t"), plain("d"), ack(1)])]);
    let refused = "failed Commit PreconditionFailed partial tx completion";
    assert_eq!(heard, ["flow Some(Full)", refused]);
    assert_eq!(run(&mut w, c, [get("t")]), ["empty"]);
    assert_eq!(run(&mut w, c, [transaction(vec![plain("t"), ack(1)])]), ["done Commit"]);
}

#[test]
fn an_mqtt_publish_is_refused_and_its_packet_id_is_new_the_next_time() {
    let mut w = World::new(4);
    let (device, sensor) = (w.connect("mqtt"), w.connect("mqtt"));
    run(&mut w, device, [kept("device"), subscribe(vec![filter("a/#", 2)])]);
    run(&mut w, sensor, [kept("sensor"), mqtt("a/b", "0", 1, 0)]);
    full(&mut w, true);
    let heard = run(&mut w, sensor, [mqtt("a/b", "1", 1, 0), mqtt("a/b", "2", 2, 7)]);
    let expected = [
        "flow Some(Full)",
        "refused 2 ResourceError",
        "refused 3 ResourceError",
        "confirmed 3",
    ];
    assert_eq!(heard, expected);
    assert_eq!(run(&mut w, sensor, [mqtt("a/b", "3", 0, 0)]), [""; 0]);
    assert_eq!(hear(&mut w, device), ["publish q1 #1 a/b 0", "publish q0 #0 a/b 3"]);
    full(&mut w, false);
    assert_eq!(
        run(&mut w, sensor, [mqtt("a/b", "4", 2, 7)]),
        ["flow None", "confirmed 4"]
    );
    assert_eq!(hear(&mut w, device), ["publish q2 #2 a/b 4"]);
}

#[test]
fn retained_messages_are_kept_as_they_were_and_can_be_cleared() {
    let mut w = World::new(5);
    let c = w.connect("mqtt");
    run(&mut w, c, [clean("c"), retain("a", "old"), retain("b", "old")]);
    full(&mut w, true);
    let at_most_once = topic_message("a", "newer", |e| {
        e.retain = true;
        e.qos = 0;
        e.durable = false;
    });
    let heard = run(
        &mut w,
        c,
        [retain("a", "new"), mqtt_message(at_most_once, 0), retain("b", "")],
    );
    let expected = ["flow Some(Full)", "refused 3 ResourceError", "confirmed 4"];
    assert_eq!(heard, expected);
    let heard = run(&mut w, c, [subscribe(vec![filter("#", 1)])]);
    assert_eq!(heard, ["suback 1 [Ok(1)]", "publish q1 #1 a old retain"]);
}

/// What the gateway does when it looks at the disk: waits under four segments, refuses at the reserve.
fn look(w: &mut World) -> Option<Pressure> {
    let room = w.free_space() + w.reserved();
    let pressure = if room < 3 * SEGMENT {
        Some(Pressure::Full)
    } else {
        (w.free_space() < 4 * SEGMENT).then_some(Pressure::Disk)
    };
    w.set_pressure(pressure);
    pressure
}

fn small(seed: u64) -> World {
    let settings = Settings {
        cache_bytes_max: 64 * KIB,
        ..Settings::default()
    };
    let store = StoreSettings {
        segment_bytes: SEGMENT as u32,
        checkpoint_every: ms(1_000),
        ..StoreSettings::default()
    };
    let mut w = World::with(seed, settings, store);
    w.set_audits(false);
    w
}

/// Publishes numbers from `next` on, whatever the pressure, until one is refused. Returns how many were confirmed.
fn fill(w: &mut World, c: Client, next: usize) -> usize {
    for n in next.. {
        let heard = run(w, c, [put("d", &padded(&n.to_string(), KIB))]);
        w.advance(ms(20));
        look(w);
        if heard.iter().any(|line| line.starts_with("refused")) {
            return n;
        }
        assert!(w.is_running(), "it never fails for want of disk");
    }
    next
}

/// Takes and settles everything, and lets a minute pass.
fn drain(w: &mut World, expected: usize) {
    let consumer = w.connect("test");
    let mut heard = run(w, consumer, [consume_with("d", 1, |c| c.prefetch = Some(50))]);
    let mut numbers = Vec::new();
    while numbers.len() < expected {
        let deliveries = heard.iter().filter_map(|l| l.strip_prefix("deliver c1 #"));
        let mut last = 0;
        for line in deliveries {
            let mut words = line.split(' ');
            last = words.next().and_then(|n| n.parse().ok()).expect("a number");
            numbers.push(words.next().and_then(|n| n.parse::<usize>().ok()).expect("a body"));
        }
        heard = run(w, consumer, [ack_upto(last)]);
        w.advance(ms(100));
        assert!(w.is_running(), "draining needs no disk that is not there");
    }
    assert_counted(&numbers, expected);
    w.drop_client(consumer);
    for _ in 0..60 {
        w.advance(ms(1_000));
        w.catch_up();
    }
}

#[test]
fn a_full_disk_refuses_drains_and_recovers_by_itself() {
    for how in [None, Some(Crash::Process), Some(Crash::Power)] {
        let mut w = small(6);
        w.disk().set_capacity(Some(20 * SEGMENT));
        let mut c = w.connect("test");
        run(&mut w, c, [durable("d")]);
        let confirmed = fill(&mut w, c, 0);
        assert!(confirmed > 500, "{confirmed} of a mebibyte and a quarter");
        if let Some(how) = how {
            // Also a start on a full disk finds everything, and drains.
            w.crash(how);
            look(&mut w);
            c = w.connect("test");
        }
        drain(&mut w, confirmed);
        assert_eq!(look(&mut w), None, "{} bytes free", w.free_space());
        assert!(
            run(&mut w, c, [put("d", "0")])
                .iter()
                .any(|line| line.starts_with("confirmed"))
        );
        w.crash(Crash::Power);
        let c = w.connect("test");
        // A hand-out mark reaches ahead, so it may be said to come again.
        assert_eq!(run(&mut w, c, [get("d")])[0].replace(" again", ""), "got #1 0 left 0");
    }
}

#[test]
fn a_disk_that_somebody_else_fills_is_drained_from_the_reserve() {
    for seed in 0..4 {
        let mut w = small(7 + seed);
        let c = w.connect("test");
        run(&mut w, c, [durable("d")]);
        for first in (0..600).step_by(20) {
            run(
                &mut w,
                c,
                (first..first + 20)
                    .map(|n| put("d", &padded(&n.to_string(), KIB)))
                    .collect::<Vec<Command>>(),
            );
            w.advance(ms(50));
        }
        assert_eq!(w.reserved(), 2 * SEGMENT);
        // Not a byte is left.
        let used = w.disk().bytes_used();
        w.disk().set_capacity(Some(used));
        assert_eq!(look(&mut w), Some(Pressure::Full));
        assert!(
            run(&mut w, c, [put("d", "refused")])
                .iter()
                .any(|line| line.starts_with("refused"))
        );
        if seed % 2 == 1 {
            w.crash(Crash::Process);
            look(&mut w);
        }
        drain(&mut w, 600);
        assert_eq!(look(&mut w), None, "{} bytes free", w.free_space());
    }
}
