//! What takes more than one hold of the engine's lock: it goes on where it stopped, and others come in between.

use crate::support::*;
use gatepost_core::command::{BindTarget, Command, Outcome, Unsubscribe};
use gatepost_core::engine::{Limit, ObjectKind};
use gatepost_core::message::{Envelope, Message};
use gatepost_core::properties::{Codecs, Origin, Properties, PropertyCodec, Value};
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{Client, World};
use gatepost_core::topic::LEVELS_MAX;

/// Enough for several holds of whatever is done to each.
const MANY: usize = 5_000;

/// Applies in as many holds as it takes; how many that were.
fn holds(w: &mut World, c: Client, mut commands: Vec<Command>) -> usize {
    let mut holds = 1;
    while w.hold(c, &mut commands) {
        holds += 1;
    }
    holds
}

fn subscribe_to_many(w: &mut World, c: Client) {
    run(
        w,
        c,
        [subscribe((0..MANY).map(|n| filter(&format!("t/{n}/#"), 1)).collect())],
    );
}

fn unsubscribe_from_many() -> Command {
    Command::Unsubscribe(Box::new(Unsubscribe {
        packet_id: 3,
        filters: (0..MANY).map(|n| (format!("t/{n}/#").into(), None)).collect(),
    }))
}

#[test]
fn many_filters_take_many_holds_and_one_answer() {
    let mut w = World::new(1);
    let (c, p) = (w.connect("mqtt"), w.connect("mqtt"));
    run(&mut w, c, [kept("c")]);
    run(&mut w, p, [clean("p")]);
    let filters = (0..MANY).map(|n| filter(&format!("t/{n}/#"), 1)).collect();
    let mut left = vec![subscribe(filters), mqtt("t/0", "behind", 1, 0)];
    assert!(w.hold(c, &mut left));
    assert!(now(&mut w, c).is_empty(), "the answer is one");
    run(&mut w, p, [mqtt("t/0", "between", 1, 0), mqtt("t/4999", "early", 1, 0)]);
    assert!(holds(&mut w, c, left) > 10);
    let heard = hear(&mut w, c);
    assert_eq!(heard.iter().filter(|line| line.starts_with("suback")).count(), 1);
    let granted = heard.iter().find(|line| line.starts_with("suback")).expect("an answer");
    assert_eq!(granted.matches("Ok(1)").count(), MANY);
    let messages: Vec<_> = heard.iter().filter(|line| line.starts_with("publish")).collect();
    assert_eq!(messages, ["publish q1 #1 t/0 between", "publish q1 #2 t/0 behind"]);

    let mut left = vec![unsubscribe_from_many()];
    assert!(w.hold(c, &mut left));
    assert!(holds(&mut w, c, left) > 10);
    let heard = hear(&mut w, c);
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].matches("true").count(), MANY);
    w.crash(Crash::Power);
    let c = w.connect("mqtt");
    run(&mut w, c, [kept("c"), mqtt("t/0", "unheard", 1, 0)]);
    assert_eq!(run(&mut w, c, [unsubscribe("t/0/#", None)]), ["unsuback 2 [false]"]);
}

#[test]
fn a_session_with_many_subscriptions_ends_in_many_holds() {
    let mut w = World::new(1);
    let (c, p) = (w.connect("mqtt"), w.connect("mqtt"));
    run(&mut w, p, [clean("p")]);
    run(&mut w, c, [clean("c")]);
    subscribe_to_many(&mut w, c);
    let mut left = vec![Command::Detach];
    assert!(w.hold(c, &mut left));
    // A publisher may still find the session's queue meanwhile, and is confirmed all the same.
    for n in [0, MANY / 2, MANY - 1] {
        let confirmed = run(&mut w, p, [mqtt(&format!("t/{n}"), "m", 1, 0)]);
        assert!(
            confirmed.len() == 1 && confirmed[0].starts_with("confirmed"),
            "{confirmed:?}"
        );
    }
    assert!(holds(&mut w, c, left) > 10);
    w.drop_client(p);
    w.assert_idle();
    assert_eq!(w.counters().traffic.links_detached, 2);
}

#[test]
fn a_client_that_comes_back_while_its_session_ends_gets_a_new_one() {
    // The new session must neither get what is left of the old one, nor lose its own subscriptions with it.
    let mut w = World::new(1);
    let old = w.connect("mqtt");
    run(&mut w, old, [clean("c")]);
    subscribe_to_many(&mut w, old);
    let mut ending = vec![Command::Detach];
    assert!(w.hold(old, &mut ending));
    let new = w.connect("mqtt");
    let mut opening = vec![kept("c"), subscribe(vec![filter("t/0/#", 1), filter("t/4999/#", 1)])];
    assert!(!w.hold(new, &mut opening));
    assert!(w.waits(new));
    while w.hold(old, &mut ending) {
        assert!(now(&mut w, new).is_empty(), "the old session is not gone yet");
    }
    assert_eq!(hear(&mut w, new), ["open new", "suback 1 [Ok(1), Ok(1)]"]);
    let heard = run(
        &mut w,
        new,
        [
            mqtt("t/0", "a", 0, 0),
            mqtt("t/1", "b", 0, 0),
            mqtt("t/4999", "c", 0, 0),
        ],
    );
    assert_eq!(heard, ["publish q0 #0 t/0 a", "publish q0 #0 t/4999 c"]);
}

#[test]
fn a_clean_start_waits_for_the_end_of_what_was_kept() {
    let mut w = World::new(1);
    let old = w.connect("mqtt");
    run(&mut w, old, [kept("c")]);
    subscribe_to_many(&mut w, old);
    let new = w.connect("mqtt");
    w.send(new, vec![clean("c")]);
    assert_eq!(now(&mut w, old), ["closed TakenOver"]);
    assert!(now(&mut w, new).is_empty(), "the old session is not gone yet");
    w.drop_client(old);
    assert!(holds(&mut w, new, Vec::new()) > 10);
    assert!(now(&mut w, new).is_empty(), "the log does not know yet");
    assert_eq!(hear(&mut w, new), ["open new"]);
    w.crash(Crash::Power);
    let c = w.connect("mqtt");
    assert_eq!(
        run(&mut w, c, [kept("c"), mqtt("t/7", "m", 1, 0)]),
        ["open new", "confirmed 1"]
    );
}

#[test]
fn a_session_expires_in_many_holds() {
    let mut w = World::new(1);
    let c = w.connect("mqtt");
    run(&mut w, c, [session("c", |s| s.expiry = Some(1))]);
    subscribe_to_many(&mut w, c);
    w.drop_client(c);
    w.advance(ms(1_500));
    w.catch_up();
    let c = w.connect("mqtt");
    assert_eq!(run(&mut w, c, [session("c", |s| s.expiry = Some(0))]), ["open new"]);
    assert_eq!(run(&mut w, c, [unsubscribe("t/4999/#", None)]), ["unsuback 2 [false]"]);
    w.drop_client(c);
    w.assert_idle();
}

#[test]
fn what_a_channel_holds_goes_back_in_order_over_many_holds() {
    let mut w = World::new(1);
    let (a, b) = (w.connect("amqp"), w.connect("amqp"));
    run(&mut w, a, [transient("q"), consume("q", 1)]);
    let puts: Vec<_> = (0..MANY).map(|n| put_transient("q", &n.to_string())).collect();
    run(&mut w, b, puts);
    assert_eq!(hear(&mut w, a).len(), MANY);
    let mut closing = vec![close_channel(), echo(1)];
    assert!(w.hold(a, &mut closing));
    let mut heard = run(&mut w, b, [consume_no_ack("q", 2)]);
    assert!(holds(&mut w, a, closing) > 2);
    assert_eq!(now(&mut w, a), ["done CloseChannel", "echo 1"]);
    // Who consumes in between gets the oldest of what is back.
    heard.extend(hear(&mut w, b));
    let numbers: Vec<usize> = heard.iter().filter_map(|line| redelivered(line)).collect();
    assert_counted(&numbers, MANY);
}

#[test]
fn a_recover_of_many_takes_many_holds_and_gives_back_each_once() {
    let mut w = World::new(1);
    let (a, b) = (w.connect("amqp"), w.connect("amqp"));
    run(&mut w, a, [transient("q"), consume("q", 2)]);
    let puts: Vec<_> = (0..MANY).map(|n| put_transient("q", &n.to_string())).collect();
    run(&mut w, b, puts);
    assert_eq!(hear(&mut w, a).len(), MANY);
    let mut recovering = vec![
        Command::Recover {
            channel: CH,
            reply: true,
        },
        echo(1),
    ];
    assert!(w.hold(a, &mut recovering));
    // What is given back goes to others, or stays until all is back: it does not come again to be given back again.
    assert!(now(&mut w, a).is_empty());
    let other = run(&mut w, b, [get_no_ack("q"), get_no_ack("q")]);
    assert!(other[0].starts_with("got #1 0 again"), "{other:?}");
    assert!(other[1].starts_with("got #2 1 again"), "{other:?}");
    assert!(holds(&mut w, a, recovering) > 2);
    let heard = hear(&mut w, a);
    assert_eq!(heard[..2], ["done Recover", "echo 1"]);
    let again: Vec<usize> = heard.iter().filter_map(|line| redelivered(line)).collect();
    assert_eq!(again, (2..MANY).collect::<Vec<_>>());
    // The numbers of before mean nothing any more.
    assert!(run(&mut w, a, [ack(1)])[0].starts_with("failed Settle"));
}

#[test]
fn a_queue_with_many_consumers_is_deleted_at_once_and_they_end_in_many_holds() {
    for with_session_between in [false, true] {
        let mut w = World::new(1);
        let (one, p) = (w.connect("amqp"), w.connect("amqp"));
        w.set_audits(false);
        let mut commands = vec![durable("q")];
        commands.extend((1..=MANY as u32).map(|n| consume_with("q", n, |c| c.reply = false)));
        run(&mut w, one, commands);
        run(&mut w, p, (0..10).map(|n| put("q", &n.to_string())).collect::<Vec<_>>());
        // Some have something reserved, which goes with the queue; a delivery that was taken is settled as ever.
        let first = now(&mut w, one);
        assert!(!first.is_empty());
        run(&mut w, p, [put("q", "reserved")]);
        w.send(p, vec![delete("q")]);
        let early = now(&mut w, one).iter().filter(|line| line.starts_with("gone")).count();
        assert!((1..MANY).contains(&early), "{early} in the first hold");
        if with_session_between {
            // Cancelled, closed, declared again and consumed, while the rest waits for its end.
            let heard = run(
                &mut w,
                one,
                [cancel(MANY as u32), ack(1), durable("q"), consume("q", 1_000_000)],
            );
            assert!(heard.contains(&format!("done Cancel c{MANY}")), "{heard:?}");
            assert!(heard.contains(&"consuming c1000000".into()), "{heard:?}");
        }
        let mut gone = early;
        let mut turns = 0;
        while w.counters().consumers > u64::from(with_session_between) {
            w.advance(ms(1));
            gone += hear(&mut w, one).iter().filter(|line| line.starts_with("gone")).count();
            turns += 1;
        }
        assert!(turns > 0);
        gone += hear(&mut w, one).iter().filter(|line| line.starts_with("gone")).count();
        w.set_audits(true);
        assert_eq!(gone, MANY - usize::from(with_session_between));
        if with_session_between {
            run(&mut w, p, [put("q", "new")]);
            let heard = hear(&mut w, one);
            assert!(
                heard[0].starts_with("deliver c1000000") && heard[0].ends_with(" new"),
                "{heard:?}"
            );
        }
        w.drop_client(one);
        w.drop_client(p);
        w.assert_idle();
    }
}

/// The body of a redelivery.
fn redelivered(line: &str) -> Option<usize> {
    line.strip_prefix("deliver c2 ")?
        .strip_suffix(" again")?
        .split(' ')
        .nth(1)?
        .parse()
        .ok()
}

#[test]
fn a_settle_of_many_takes_many_holds() {
    let mut w = World::new(1);
    let (a, b) = (w.connect("amqp"), w.connect("amqp"));
    run(&mut w, a, [durable("q"), consume("q", 1)]);
    let puts: Vec<_> = (0..MANY).map(|n| put("q", &n.to_string())).collect();
    run(&mut w, b, puts);
    assert_eq!(hear(&mut w, a).len(), MANY);
    assert!(holds(&mut w, a, vec![ack_upto(MANY as u64), echo(1)]) > 2);
    assert_eq!(now(&mut w, a), ["echo 1"], "the number was known all the time");
    w.drop_client(a);
    assert_eq!(run(&mut w, b, [get("q")]), ["empty"]);
}

#[test]
fn a_link_with_many_channels_and_queues_is_detached_in_many_holds() {
    let mut w = World::new(1);
    let c = w.connect("amqp");
    let open = (1..=2047).map(|channel| Command::OpenChannel { channel });
    run(&mut w, c, open.collect::<Vec<_>>());
    let queues = (0..500).map(|n| declare(&format!("q{n}"), |d| (d.durable, d.exclusive) = (false, true)));
    run(&mut w, c, queues.collect::<Vec<_>>());
    assert!(holds(&mut w, c, vec![Command::Detach]) > 5);
    w.assert_idle();
}

#[test]
fn retained_messages_are_sent_once_for_a_filter_however_often_it_is_asked_for() {
    // A client that subscribed and unsubscribed faster than replays were served piled them up without limit.
    let mut w = World::new(1);
    let (p, c) = (w.connect("mqtt"), w.connect("mqtt"));
    run(&mut w, p, [clean("p"), retain("r/1", "m"), retain("s/1", "m")]);
    run(&mut w, c, [clean("c")]);
    let mut commands = Vec::new();
    for _ in 0..100 {
        commands.extend([
            subscribe(vec![filter("r/#", 0)]),
            subscribe(vec![filter("s/#", 0)]),
            unsubscribe("s/#", None),
        ]);
    }
    let heard = run(&mut w, c, commands);
    let messages: Vec<_> = heard.iter().filter(|line| line.starts_with("publish")).collect();
    assert_eq!(messages, ["publish q0 #0 r/1 m retain"]);
    // Asked for again, it is sent again. MQTT 5 3.8.4 [MQTT-3.8.4-4]
    let heard = run(&mut w, c, [subscribe(vec![filter("r/#", 0)])]);
    assert_eq!(heard, ["suback 1 [Ok(0)]", "publish q0 #0 r/1 m retain"]);
}

/// All filters of `levels` levels that are `a` or `+`: every one matches `a/a/…`.
fn combinations(levels: usize) -> Vec<gatepost_core::command::Subscription> {
    let filters = (0..1_usize << levels).map(|bits| {
        let words: Vec<_> = (0..levels)
            .map(|level| if bits >> level & 1 == 1 { "+" } else { "a" })
            .collect();
        filter(&words.join("/"), 1)
    });
    filters.collect()
}

#[test]
fn a_publish_that_meets_many_filters_takes_many_holds_and_keeps_its_place() {
    // 262,000 filters of one client cost each publish of any other 0.4 to 1.9 s under the lock.
    let mut w = World::new(1);
    w.set_audits(false);
    let (c, p, q) = (w.connect("mqtt"), w.connect("mqtt"), w.connect("mqtt"));
    run(&mut w, c, [clean("c")]);
    run(&mut w, c, [subscribe(combinations(13))]);
    run(&mut w, p, [clean("p")]);
    run(&mut w, q, [clean("q")]);
    let topic = ["a"; 13].join("/");
    let mut left = vec![mqtt(&topic, "first", 1, 0), mqtt(&topic, "second", 1, 0)];
    let mut holds = 0;
    while w.hold(p, &mut left) {
        holds += 1;
        if left.len() == 2 {
            assert!(now(&mut w, p).is_empty(), "it is in no queue yet");
        }
        // Others have their turn in between.
        let between = run(&mut w, q, [mqtt("elsewhere", "m", 1, 0)]);
        assert_eq!(between, [format!("confirmed {holds}")]);
    }
    assert!(holds > 4, "{holds} holds");
    assert_eq!(hear(&mut w, p), ["confirmed 2"]);
    let messages = hear(&mut w, c);
    let bodies: Vec<_> = messages.iter().filter_map(|line| line.split(' ').nth(4)).collect();
    assert_eq!(bodies, ["first", "second"]);
}

/// Binds `queue` by `count` keys. A fanout exchange looks at none of them.
fn bind_often(w: &mut World, c: Client, source: &str, queue: &str, count: usize) {
    for part in 0..count.div_ceil(500) {
        let keys = part * 500..count.min((part + 1) * 500);
        let binds: Vec<_> = keys.map(|n| bind(source, queue, &format!("k{n}"))).collect();
        run(w, c, binds);
    }
}

fn fan(key: &str, body: &str) -> Command {
    let flags = gatepost_core::command::PublishFlags::CONFIRM;
    publish(flags, message("fan", key, body, false))
}

#[test]
fn a_queue_that_comes_and_goes_while_a_message_is_on_its_way_changes_nothing_for_the_others() {
    let mut w = World::new(1);
    w.set_audits(false);
    let (a, p) = (w.connect("amqp"), w.connect("amqp"));
    run(
        &mut w,
        a,
        [
            exchange("fan", "fanout"),
            transient("gone"),
            transient("stays"),
            transient("late"),
        ],
    );
    bind_often(&mut w, a, "fan", "gone", MANY);
    bind_often(&mut w, a, "fan", "stays", MANY);
    let mut left = vec![fan("", "m")];
    assert!(w.hold(p, &mut left));
    // The slot and the numbers of its bindings go to queues and bindings that have nothing to do with the message.
    let mut deleting = vec![delete("gone")];
    while w.hold(a, &mut deleting) {}
    run(&mut w, a, [transient("new"), exchange("other", "fanout")]);
    bind_often(&mut w, a, "other", "new", MANY);
    bind_often(&mut w, a, "other", "late", 10);
    assert!(holds(&mut w, p, left) > 1);
    assert_eq!(hear(&mut w, p), ["confirmed 1"]);
    let heard = run(
        &mut w,
        a,
        [
            get_no_ack("stays"),
            get_no_ack("stays"),
            get_no_ack("new"),
            get_no_ack("late"),
        ],
    );
    let got: Vec<_> = heard
        .iter()
        .filter(|line| line.starts_with("got") || line.contains("empty"))
        .collect();
    assert_eq!(got.len(), 4, "{heard:?}");
    assert!(
        got[0].contains(" m ") && got[1..].iter().all(|line| line.contains("empty")),
        "{heard:?}"
    );
}

#[test]
fn a_queue_and_an_exchange_with_many_bindings_are_deleted_in_many_holds() {
    let mut w = World::new(1);
    w.set_audits(false);
    let (a, b) = (w.connect("amqp"), w.connect("amqp"));
    run(&mut w, a, [exchange("fan", "fanout"), durable("q"), transient("other")]);
    bind_often(&mut w, a, "fan", "q", MANY);
    let mut deleting = vec![delete("q"), echo(1)];
    assert!(w.hold(a, &mut deleting));
    // Nothing is bound to it any more, and who declares it anew gets a new one.
    let refused = run(&mut w, b, [bind("fan", "q", "more")]);
    assert!(refused[0].starts_with("failed Bind"), "{refused:?}");
    assert!(holds(&mut w, a, deleting) > 10);
    assert_eq!(hear(&mut w, a).last().map(String::as_str), Some("echo 1"));
    assert!(run(&mut w, a, [get("q")])[0].starts_with("failed"));

    let b = w.connect("amqp");
    bind_often(&mut w, b, "fan", "other", MANY);
    let mut deleting = vec![delete_exchange("fan"), echo(2)];
    assert!(w.hold(b, &mut deleting));
    assert!(holds(&mut w, b, deleting) > 10);
    assert_eq!(hear(&mut w, b), ["done DeleteExchange", "echo 2"]);
    run(&mut w, b, [exchange("fan", "fanout"), fan("", "m")]);
    assert_eq!(run(&mut w, b, [get("other")]), ["empty"]);
}

#[test]
fn a_deletion_goes_on_when_its_connection_is_gone_or_nobody_asked_for_it() {
    let mut w = World::new(1);
    w.set_audits(false);
    let (a, b) = (w.connect("amqp"), w.connect("amqp"));
    run(
        &mut w,
        a,
        [exchange("fan", "fanout"), exchange("fan2", "fanout"), durable("q")],
    );
    run(
        &mut w,
        a,
        [declare("auto", |d| d.auto_delete = true), consume("auto", 1)],
    );
    for queue in ["q", "auto"] {
        bind_often(&mut w, a, "fan", queue, MANY);
    }
    bind_often(&mut w, a, "fan2", "q", MANY);
    run(&mut w, a, [cancel(1)]);
    let mut deleting = vec![delete("q")];
    assert!(w.hold(a, &mut deleting));
    w.drop_client(a);
    let mut deleting = vec![delete_exchange("fan2")];
    assert!(w.hold(b, &mut deleting));
    w.drop_client(b);
    for _ in 0..2_000 {
        w.advance(ms(1));
    }
    w.catch_up();
    let c = w.connect("amqp");
    for name in ["q", "auto"] {
        assert!(run(&mut w, c, [get(name)])[0].starts_with("failed Get"), "{name}");
    }
}

#[test]
fn a_transaction_that_meets_many_bindings_takes_many_holds_and_counts_as_one() {
    let mut w = World::new(1);
    w.set_audits(false);
    let (a, p) = (w.connect("amqp"), w.connect("amqp"));
    run(
        &mut w,
        a,
        [exchange("fan", "fanout"), transient("gone"), transient("stays")],
    );
    bind_often(&mut w, a, "fan", "gone", MANY);
    bind_often(&mut w, a, "fan", "stays", MANY);
    let unconfirmed = |n: usize| publish(Default::default(), message("fan", "", &n.to_string(), false));
    let mut left = vec![transaction((0..5).map(unconfirmed).collect())];
    assert!(w.hold(p, &mut left));
    assert_eq!(run(&mut w, a, [get_no_ack("stays")]), ["empty"]);
    let mut deleting = vec![delete("gone")];
    while w.hold(a, &mut deleting) {}
    run(&mut w, a, [transient("new")]);
    assert!(holds(&mut w, p, left) > 1);
    assert_eq!(hear(&mut w, p), ["done Commit"]);
    let heard = run(&mut w, a, (0..6).map(|_| get_no_ack("stays")).collect::<Vec<_>>());
    for n in 0..5 {
        assert!(
            heard
                .iter()
                .any(|line| line.starts_with(&format!("got #{} {n} ", n + 2)) || line.contains(&format!(" {n} left"))),
            "{heard:?}"
        );
    }
    assert_eq!(run(&mut w, a, [get("new")]), ["empty"]);
}

#[test]
fn a_transaction_of_too_many_deliveries_is_refused_whole() {
    let settings = gatepost_core::testing::world::Settings {
        transaction_deliveries_max: 5,
        ..Default::default()
    };
    let mut w = World::with(1, settings, Default::default());
    let (a, p) = (w.connect("amqp"), w.connect("amqp"));
    run(&mut w, a, [exchange("fan", "fanout"), transient("x"), transient("y")]);
    run(&mut w, a, [bind("fan", "x", ""), bind("fan", "y", "")]);
    let put = |_| publish(Default::default(), message("fan", "", "m", false));
    let puts = |count: usize| transaction((0..count).map(put).collect());
    assert_eq!(run(&mut w, p, [puts(2)]), ["done Commit"]);
    let refused = run(&mut w, p, [puts(3)]);
    assert!(refused[0].contains("limit of 5"), "{refused:?}");
    assert_eq!(w.counters().limit_refusals[Limit::TransactionDeliveries as usize], 1);
    assert_eq!(run(&mut w, a, [purge("x")]), ["purged 2"]);
}

#[test]
fn a_dead_letter_that_meets_many_bindings_goes_on_in_later_turns() {
    let mut w = World::new(1);
    w.set_audits(false);
    let (a, p) = (w.connect("amqp"), w.connect("amqp"));
    let mut source = declare("source", |d| d.durable = false);
    if let Command::DeclareQueue(d) = &mut source {
        d.arguments
            .push("x-dead-letter-exchange", gatepost_core::properties::Value::text("fan"));
    }
    run(&mut w, a, [exchange("fan", "fanout"), transient("dead"), source]);
    bind_often(&mut w, a, "fan", "dead", 2 * MANY);
    run(&mut w, p, [put_transient("source", "1"), put_transient("source", "2")]);
    run(&mut w, a, [get("source"), get("source")]);
    run(&mut w, a, [reject(1), reject(2)]);
    for _ in 0..20 {
        w.advance(ms(1));
    }
    let heard = run(&mut w, p, [get_no_ack("dead"), get_no_ack("dead"), get_no_ack("dead")]);
    assert!(
        heard[0].contains(" 1 ") && heard[1].contains(" 2 ") && heard[2] == "empty",
        "{heard:?}"
    );
}

#[test]
fn limits_on_filters_are_refused_in_words() {
    let settings = gatepost_core::testing::world::Settings {
        filter_wildcards_max: 2,
        session_filters_max: 3,
        message_headers_max: 2,
        ..Default::default()
    };
    let mut w = World::with(1, settings, Default::default());
    let (c, a) = (w.connect("mqtt"), w.connect("amqp"));
    run(&mut w, c, [clean("c")]);
    let filters = ["+/+/#", "a/+/#", "b", "a/b+", "c", "d"].map(|f| filter(f, 0)).into();
    let answer = run(&mut w, c, [subscribe(filters)]);
    assert_eq!(
        answer,
        ["suback 1 [Err(QuotaExceeded), Ok(0), Ok(0), Err(PreconditionFailed), Ok(0), Err(QuotaExceeded)]"]
    );
    // Repeating one that is there is no new one.
    assert_eq!(run(&mut w, c, [subscribe(vec![filter("b", 1)])]), ["suback 1 [Ok(1)]"]);
    run(&mut w, a, [transient("q")]);
    let refused = run(&mut w, a, [bind("amq.topic", "q", "#.*.#")]);
    assert!(
        refused[0].contains("filter has 3 wildcards, more than the limit (2)"),
        "{refused:?}"
    );
    let deep = vec!["l"; LEVELS_MAX + 1].join(".");
    let refused = run(&mut w, a, [bind("amq.topic", "q", &deep)]);
    assert!(refused[0].contains("levels, more than the limit"), "{refused:?}");
    let mut asks = bind("h", "q", "");
    if let Command::Bind(asks) = &mut asks {
        for name in ["a", "b", "c"] {
            asks.arguments.push(name, Value::Bool(true));
        }
    }
    let refused = run(&mut w, a, [exchange("h", "headers"), asks]);
    assert!(refused[1].contains("binding asks for 3 headers"), "{refused:?}");
    let counted = Limit::ALL.map(|limit| (limit.name(), w.counters().limit_refusals[limit as usize]));
    let expected = [
        ("message_headers_max", 1),
        ("filter_wildcards_max", 2),
        ("session_filters_max", 1),
        ("transaction_deliveries_max", 0),
        ("topic_levels_max", 1),
        ("vhost_max_connections", 0),
        ("vhost_max_queues", 0),
        ("user_max_channels", 0),
    ];
    assert_eq!(counted, expected);
}

/// Holds of a few units: what meets a thousand bindings takes several.
fn small_holds() -> World {
    let settings = gatepost_core::testing::world::Settings {
        hold_units_max: 8,
        ..Default::default()
    };
    let mut w = World::with(1, settings, Default::default());
    w.set_audits(false);
    w
}

#[test]
fn a_crash_between_the_holds_of_a_dead_letter_loses_nothing() {
    // The settle of its source could be in the log before the dead letter was in a queue.
    let mut places = [0, 0];
    for turns in [0, 1, 2, 4, 6, 9, 60] {
        let mut w = small_holds();
        let (a, p) = (w.connect("amqp"), w.connect("amqp"));
        let mut source = declare("source", |_| {});
        if let Command::DeclareQueue(d) = &mut source {
            d.arguments
                .push("x-dead-letter-exchange", gatepost_core::properties::Value::text("fan"));
        }
        run(
            &mut w,
            a,
            [exchange("fan", "fanout"), durable("dead"), durable("other"), source],
        );
        bind_often(&mut w, a, "fan", "dead", 1_500);
        run(&mut w, p, [put("source", "1"), put("source", "2")]);
        assert!(run(&mut w, a, [get("source")])[0].starts_with("got"));
        w.send(a, vec![reject(1)]);
        // What is purged is what waits in the queue, and not what has died there.
        w.send(p, vec![purge("source")]);
        for n in 0..turns {
            // The settles that are known go to the log with it.
            w.send(p, vec![put("other", &n.to_string())]);
        }
        w.commit();
        w.crash(Crash::Power);
        for _ in 0..20 {
            w.advance(ms(1));
        }
        w.catch_up();
        let c = w.connect("amqp");
        let heard = run(&mut w, c, [get("source"), get("source"), get("dead"), get("dead")]);
        let bodies = |at: usize| heard[at].split(' ').nth(2).unwrap_or("").to_owned();
        let found = [bodies(0), bodies(1), bodies(2), bodies(3)];
        let died = match found.each_ref().map(String::as_str) {
            ["1", "", "", ""] => false,
            ["", "", "1", ""] => true,
            _ => panic!("after {turns} turns: {heard:?}"),
        };
        places[usize::from(died)] += 1;
    }
    assert!(
        places[0] > 2 && places[1] > 0,
        "crashes before and after it was logged: {places:?}"
    );
}

#[test]
fn a_crash_between_the_holds_of_a_will_does_not_lose_it() {
    for ends in [false, true] {
        for turns in 0..12 {
            let mut w = small_holds();
            let (watcher, p) = (w.connect("mqtt"), w.connect("mqtt"));
            run(&mut w, watcher, [kept("watcher"), subscribe(combinations(10))]);
            run(&mut w, p, [clean("p")]);
            let topic = ["a"; 10].join("/");
            let will = gatepost_core::command::Will {
                message: topic_message(&topic, "will", |_| {}),
                delay: ms(0),
                expiry: None,
            };
            let c = w.connect("mqtt");
            run(&mut w, c, [session("c", |s| s.will = Some(will))]);
            if ends {
                run(&mut w, c, [Command::SessionExpiry(Some(0))]);
            }
            let mut left = vec![Command::Detach];
            for _ in 0..turns {
                if !left.is_empty() {
                    w.hold(c, &mut left);
                }
                w.send(p, vec![mqtt("nobody", "m", 1, 0)]);
                w.commit();
            }
            w.crash(Crash::Power);
            for _ in 0..40 {
                w.advance(ms(1));
            }
            w.catch_up();
            let watcher = w.connect("mqtt");
            let heard = run(&mut w, watcher, [kept("watcher")]);
            let wills = heard.iter().filter(|line| line.contains(" will")).count();
            assert_eq!(wills, 1, "{turns} turns, ends {ends}: {heard:?}");
        }
    }
}

#[test]
fn a_client_that_comes_back_while_its_will_is_published_keeps_both_wills() {
    let mut w = small_holds();
    let (watcher, c) = (w.connect("mqtt"), w.connect("mqtt"));
    run(&mut w, watcher, [kept("watcher"), subscribe(combinations(10))]);
    let topic = ["a"; 10].join("/");
    let with_will = |body: &str| {
        let will = gatepost_core::command::Will {
            message: topic_message(&topic, body, |_| {}),
            delay: ms(0),
            expiry: None,
        };
        session("c", |s| s.will = Some(will))
    };
    run(&mut w, c, [with_will("first")]);
    w.drop_client(c);
    let again = w.connect("mqtt");
    let mut opening = vec![with_will("second")];
    assert!(w.hold(again, &mut opening), "the first will is on its way");
    while w.hold(again, &mut opening) {}
    assert_eq!(hear(&mut w, again), ["open present"]);
    w.crash(Crash::Power);
    for _ in 0..40 {
        w.advance(ms(1));
    }
    w.catch_up();
    let watcher = w.connect("mqtt");
    let heard = run(&mut w, watcher, [kept("watcher")]);
    let bodies: Vec<_> = heard.iter().filter_map(|line| line.split(' ').nth(4)).collect();
    assert_eq!(bodies, ["first", "second"], "{heard:?}");
}

/// The numbers that the delivered bodies are.
fn delivered(heard: &[String]) -> Vec<usize> {
    let bodies = heard.iter().filter(|line| line.starts_with("deliver"));
    let mut numbers: Vec<usize> = bodies
        .map(|line| line.split(' ').nth(3).expect("a body").parse().expect("a number"))
        .collect();
    numbers.sort_unstable();
    numbers
}

/// A queue of 1,500 messages, of which a consumer holds 1,000.
fn held_and_waiting(w: &mut World, a: Client, c: Client) {
    run(w, a, [durable("q")]);
    for first in (0..1_500).step_by(100) {
        let some: Vec<_> = (first..first + 100).map(|n| put("q", &n.to_string())).collect();
        run(w, a, some);
    }
    let heard = run(w, c, [consume_with("q", 1, |c| c.prefetch = Some(1_000))]);
    assert_eq!(delivered(&heard), (0..1_000).collect::<Vec<_>>());
}

#[test]
fn a_purge_of_a_queue_whose_messages_are_held_takes_many_holds_and_spares_them() {
    // It looked through everything that anybody held, in one hold: two million deliveries if clients like.
    let mut w = small_holds();
    let (a, c) = (w.connect("amqp"), w.connect("amqp"));
    held_and_waiting(&mut w, a, c);
    let mut left = vec![purge("q"), echo(1)];
    let mut holds = 1;
    while w.hold(a, &mut left) {
        holds += 1;
        if holds == 2 {
            // What is held moves meanwhile: back to the queue and out again, and away.
            run(
                &mut w,
                c,
                [requeue(1), ack(2), reject(3), settle(700, false, Outcome::Requeue)],
            );
            run(&mut w, c, [put("q", "5000")]);
        }
    }
    assert!(holds > 3, "{holds} holds");
    assert_eq!(hear(&mut w, a), ["purged 500", "echo 1"]);
    w.crash(Crash::Power);
    let c = w.connect("amqp");
    let heard = run(&mut w, c, [consume("q", 1)]);
    let mut expected: Vec<_> = (0..1_000).filter(|n| ![1, 2].contains(n)).collect();
    expected.push(5_000);
    assert_eq!(delivered(&heard), expected);
}

#[test]
fn a_purge_goes_on_without_its_connection() {
    let mut w = small_holds();
    let (a, b, c) = (w.connect("amqp"), w.connect("amqp"), w.connect("amqp"));
    held_and_waiting(&mut w, a, c);
    let mut left = vec![purge("q")];
    assert!(w.hold(a, &mut left) && w.hold(a, &mut left));
    w.drop_client(a);
    // Another purge meanwhile waits for its end.
    run(&mut w, b, [put("q", "6000")]);
    assert_eq!(run(&mut w, b, [purge("q")]), ["purged 1"]);
    for _ in 0..100 {
        w.advance(ms(1));
    }
    w.catch_up();
    w.crash(Crash::Power);
    let c = w.connect("amqp");
    let heard = run(&mut w, c, [consume("q", 1)]);
    assert_eq!(delivered(&heard), (0..1_000).collect::<Vec<_>>());
    assert_eq!(run(&mut w, c, [purge("q")]), ["purged 0"]);
}

#[test]
fn walks_that_stop_take_bounded_memory_and_all_come_to_their_end() {
    // Each publisher had one, as large as the bindings it met were many, and nobody counted them.
    let settings = gatepost_core::testing::world::Settings {
        objects_bytes_max: 8 << 20,
        hold_units_max: 64,
        ..Default::default()
    };
    let mut w = World::with(1, settings, Default::default());
    w.set_audits(false);
    let a = w.connect("amqp");
    run(&mut w, a, [exchange("fan", "fanout"), transient("q")]);
    bind_often(&mut w, a, "fan", "q", MANY);
    let publishers: Vec<_> = (0..40).map(|_| w.connect("amqp")).collect();
    let objects = |w: &World| w.counters().objects_bytes[ObjectKind::Connections as usize];
    let (before, mut most, mut waited) = (objects(&w), 0, 0);
    let mut left: Vec<Vec<Command>> = publishers.iter().map(|_| vec![fan("", "m")]).collect();
    let mut confirmed = 0;
    for _ in 0..20_000 {
        for (p, left) in publishers.iter().zip(&mut left) {
            if !left.is_empty() {
                w.hold(*p, left);
            }
            waited += usize::from(w.waits(*p));
            most = most.max(objects(&w));
            confirmed += now(&mut w, *p).iter().filter(|line| *line == "confirmed 1").count();
        }
        if confirmed == publishers.len() {
            break;
        }
        w.advance(ms(1));
    }
    assert_eq!(confirmed, publishers.len(), "all are published");
    assert!(waited > 0, "some waited for room");
    // An eighth of the memory for objects, and a walk that goes on all the same.
    assert!(
        most - before < (1 << 20) + (512 << 10),
        "{} bytes of walks",
        most - before
    );
    assert_eq!(run(&mut w, a, [purge("q")]), ["purged 40"]);
}

#[test]
fn a_connection_that_ends_while_it_waits_to_walk_holds_nobody_up() {
    let settings = gatepost_core::testing::world::Settings {
        objects_bytes_max: 8 << 20,
        hold_units_max: 64,
        ..Default::default()
    };
    let mut w = World::with(2, settings, Default::default());
    w.set_audits(false);
    let a = w.connect("amqp");
    run(&mut w, a, [exchange("fan", "fanout"), transient("q")]);
    bind_often(&mut w, a, "fan", "q", MANY);
    let publishers: Vec<_> = (0..40).map(|_| w.connect("amqp")).collect();
    let mut left: Vec<Vec<Command>> = publishers.iter().map(|_| vec![fan("", "m")]).collect();
    for _ in 0..60 {
        for (p, left) in publishers.iter().zip(&mut left) {
            if !left.is_empty() {
                w.hold(*p, left);
            }
        }
    }
    assert!(publishers.iter().any(|p| w.waits(*p)));
    for p in &publishers[..39] {
        w.drop_client(*p);
    }
    for _ in 0..2_000 {
        if !left[39].is_empty() {
            w.hold(publishers[39], &mut left[39]);
        }
        now(&mut w, publishers[39]);
        w.advance(ms(1));
    }
    assert!(left[39].is_empty() && !w.waits(publishers[39]));
}

#[test]
fn a_transaction_that_settles_too_much_is_refused_whole() {
    let settings = gatepost_core::testing::world::Settings {
        transaction_deliveries_max: 5,
        ..Default::default()
    };
    let mut w = World::with(1, settings, Default::default());
    let (a, c) = (w.connect("amqp"), w.connect("amqp"));
    run(&mut w, a, [transient("q")]);
    run(
        &mut w,
        a,
        (0..6).map(|n| put_transient("q", &n.to_string())).collect::<Vec<_>>(),
    );
    run(&mut w, c, [consume("q", 1)]);
    let refused = run(&mut w, c, [transaction(vec![ack_upto(6)])]);
    assert!(refused[0].contains("limit of 5"), "{refused:?}");
    assert_eq!(run(&mut w, c, [transaction(vec![ack_upto(5)])]), ["done Commit"]);
    assert_eq!(run(&mut w, c, [transaction(vec![ack(6)])]), ["done Commit"]);
}

/// Work units of the longest hold, over those of a hold, that a test of the default settings allows.
const LONGEST_UNITS: u64 = 4 * 1024;

#[test]
fn consumers_that_are_passed_over_do_not_stretch_a_hold() {
    // Each message looked at all of them to find the one that could take it.
    let mut w = World::new(1);
    w.set_audits(false);
    let (a, c, p) = (w.connect("amqp"), w.connect("amqp"), w.connect("amqp"));
    run(&mut w, a, [transient("q")]);
    for part in 0..10 {
        let some = (0..MANY as u32 / 10).map(|n| consume_with("q", 1 + part * 1_000 + n, |c| c.prefetch = Some(1)));
        run(&mut w, c, some.collect::<Vec<_>>());
    }
    for _ in 0..MANY / 500 {
        run(&mut w, p, (0..500).map(|_| put_transient("q", "m")).collect::<Vec<_>>());
        hear(&mut w, c);
    }
    assert_eq!(w.counters().messages_unsettled, MANY as u64);
    run(&mut w, a, [consume_no_ack("q", 1)]);
    w.send(p, (0..500).map(|_| put_transient("q", "m")).collect());
    let mut heard = 0;
    for _ in 0..1_000 {
        heard += now(&mut w, a).len();
        w.advance(ms(1));
    }
    assert_eq!(heard, 500);
    let longest = w.counters().longest_hold_units;
    assert!(longest < LONGEST_UNITS, "{longest} units");
}

#[test]
fn what_expires_all_at_once_takes_many_holds() {
    let mut w = World::new(1);
    w.set_audits(false);
    let (a, p) = (w.connect("amqp"), w.connect("amqp"));
    let with_dead_letters = declare("source", |d| {
        d.durable = false;
        d.arguments.push("x-dead-letter-exchange", Value::text(""));
        d.arguments.push("x-dead-letter-routing-key", Value::text("dead"));
    });
    run(&mut w, a, [transient("dead"), with_dead_letters, transient("plain")]);
    let deadline = w.now().wall + ms(1_000);
    for queue in ["source", "plain"] {
        for _ in 0..MANY / 500 {
            let envelope = Envelope {
                deadline: Some(deadline),
                ..Envelope::default()
            };
            let some = (0..500).map(|_| publish(Default::default(), Message::new(envelope, "", queue, &[], b"m")));
            w.send(p, some.collect());
        }
    }
    w.advance(ms(999));
    assert_eq!(w.counters().expired, 0);
    w.advance(ms(1));
    // A get meets what is left of them, and comes to its end all the same.
    w.send(p, vec![get("source"), get("plain")]);
    for _ in 0..200 {
        w.advance(ms(1));
    }
    assert_eq!(w.counters().expired, 2 * MANY as u64);
    assert_eq!(now(&mut w, p), ["empty", "empty"]);
    assert_eq!(run(&mut w, a, [purge("dead")]), [format!("purged {MANY}")]);
    let longest = w.counters().longest_hold_units;
    assert!(longest < LONGEST_UNITS, "{longest} units");
}

#[test]
fn one_message_that_pushes_out_thousands_takes_many_holds() {
    let mut w = World::new(1);
    w.set_audits(false);
    let (a, p) = (w.connect("amqp"), w.connect("amqp"));
    let limited = declare("q", |d| {
        d.durable = false;
        d.arguments.push("x-max-length-bytes", Value::Int(MANY as i64, 64));
        d.arguments.push("x-dead-letter-exchange", Value::text(""));
        d.arguments.push("x-dead-letter-routing-key", Value::text("dead"));
    });
    run(&mut w, a, [transient("dead"), limited]);
    for _ in 0..MANY / 500 {
        run(&mut w, p, (0..500).map(|_| put_transient("q", "m")).collect::<Vec<_>>());
    }
    assert_eq!(w.counters().messages_ready, MANY as u64);
    assert_eq!(run(&mut w, p, [put_transient("q", &"x".repeat(MANY))]).len(), 1);
    assert!(w.counters().messages_ready > 2, "not all at once");
    for _ in 0..200 {
        w.advance(ms(1));
    }
    assert_eq!(
        run(&mut w, a, [purge("q"), purge("dead")]),
        ["purged 1".to_owned(), format!("purged {MANY}")]
    );
    let longest = w.counters().longest_hold_units;
    assert!(longest < LONGEST_UNITS, "{longest} units");
}

#[test]
fn rejects_wait_when_their_dead_letters_pile_up() {
    // A consumer that rejected faster than they found their queues filled the memory with them.
    let settings = gatepost_core::testing::world::Settings {
        memory_bytes_max: 8 << 20,
        cache_bytes_max: 8 << 20,
        hold_units_max: 256,
        ..Default::default()
    };
    let mut w = World::with(1, settings, Default::default());
    w.set_audits(false);
    let (a, c, p) = (w.connect("amqp"), w.connect("amqp"), w.connect("amqp"));
    let source = declare("source", |d| {
        d.durable = false;
        d.arguments.push("x-dead-letter-exchange", Value::text("fan"));
    });
    run(&mut w, a, [exchange("fan", "fanout"), transient("dead"), source]);
    bind_often(&mut w, a, "fan", "dead", 500);
    let body = padded("m", 1 << 10);
    for _ in 0..30 {
        run(
            &mut w,
            p,
            (0..100).map(|_| put_transient("source", &body)).collect::<Vec<_>>(),
        );
        hear(&mut w, c);
    }
    run(&mut w, c, [consume("source", 1)]);
    let before = w.counters().memory_bytes;
    let (mut left, mut most, mut holds) = (vec![settle(0, true, Outcome::Reject), echo(1)], 0, 1);
    while w.hold(c, &mut left) {
        holds += 1;
        let dead = w.counters().dead_lettered_rejected as usize;
        let routed = w.counters().messages_ready as usize;
        most = most.max(dead - routed);
    }
    // An eighth of the memory, at some 1.3 KiB each.
    assert!(
        most < 1_200 && holds > 10,
        "{most} at most in {holds} holds; {before} bytes before"
    );
    for _ in 0..2_000 {
        w.advance(ms(1));
    }
    assert_eq!(hear(&mut w, c).last().map(String::as_str), Some("echo 1"));
    assert_eq!(run(&mut w, a, [purge("dead")]), ["purged 3000"]);
}

#[test]
fn gets_of_what_is_on_disk_wait_for_each_other() {
    // Each body that came looked through all that waited.
    let mut w = World::new(1);
    let a = w.connect("amqp");
    run(&mut w, a, [durable("q")]);
    for first in (0..300).step_by(100) {
        run(
            &mut w,
            a,
            (first..first + 100)
                .map(|n| put("q", &n.to_string()))
                .collect::<Vec<_>>(),
        );
    }
    w.crash(Crash::Process);
    let a = w.connect("amqp");
    let gets: Vec<_> = (0..301).map(|_| get("q")).chain([echo(1)]).collect();
    w.send(a, gets);
    assert!(w.waits(a), "not all of them wait for the disk at once");
    let heard = hear(&mut w, a);
    let got: Vec<_> = heard
        .iter()
        .filter_map(|line| line.split(' ').nth(2)?.parse::<usize>().ok())
        .collect();
    assert_eq!(got, (0..300).collect::<Vec<_>>());
    assert_eq!(heard[300..], ["empty", "echo 1"]);
}

/// A protocol whose messages all have three headers.
struct ThreeHeaders;

impl PropertyCodec for ThreeHeaders {
    fn origin(&self) -> Origin {
        Origin(77)
    }
    fn decode(&self, _: &[u8]) -> Properties {
        let mut properties = Properties::default();
        for name in ["a", "b", "c"] {
            properties.headers.push(name, Value::Bool(true));
        }
        properties
    }
}

#[test]
fn a_message_of_too_many_headers_is_counted_where_it_is_refused() {
    let settings = gatepost_core::testing::world::Settings {
        message_headers_max: 2,
        ..Default::default()
    };
    let codecs = Codecs::new(vec![std::sync::Arc::new(ThreeHeaders)]);
    let mut w = World::speaking(1, settings, Default::default(), codecs);
    let a = w.connect("amqp");
    let envelope = Envelope {
        origin: ThreeHeaders.origin(),
        ..Envelope::default()
    };
    let m = || publish(Default::default(), Message::new(envelope, "amq.headers", "", b"", b"m"));
    let heard = run(&mut w, a, [m()]);
    assert!(heard[0].contains("headers"), "{heard:?}");
    assert!(run(&mut w, a, [transaction(vec![m()])])[0].starts_with("failed Commit"));
    assert_eq!(w.counters().limit_refusals[Limit::MessageHeaders as usize], 2);
}

#[test]
fn a_chain_of_exchanges_that_go_with_each_other_goes_by_and_by() {
    // The end of its last binding took all of it along, in one hold.
    const CHAIN: usize = 2_000;
    let mut w = World::new(1);
    w.set_audits(false);
    let a = w.connect("amqp");
    let auto = |n: usize| {
        let mut declare = exchange(&format!("x{n}"), "fanout");
        if let Command::DeclareExchange(d) = &mut declare {
            d.auto_delete = true;
        }
        declare
    };
    let lead = |n: usize| {
        let mut lead = bind(&format!("x{n}"), "", "");
        if let Command::Bind(lead) = &mut lead {
            lead.target = BindTarget::Exchange(format!("x{}", n + 1).into());
        }
        lead
    };
    run(&mut w, a, [transient("q")]);
    for part in (0..CHAIN).step_by(500) {
        run(&mut w, a, (part..part + 500).map(auto).collect::<Vec<_>>());
    }
    for part in (0..CHAIN - 1).step_by(500) {
        let to = (CHAIN - 1).min(part + 500);
        run(&mut w, a, (part..to).map(lead).collect::<Vec<_>>());
    }
    run(&mut w, a, [bind(&format!("x{}", CHAIN - 1), "q", "")]);
    let Command::Bind(last) = bind(&format!("x{}", CHAIN - 1), "q", "") else {
        unreachable!()
    };
    let there = || publish(Default::default(), message("x0", "", "m", false));
    let heard = run(&mut w, a, [Command::Unbind(last), there()]);
    assert_eq!(heard, ["done Unbind"], "the far end is still there");
    for _ in 0..200 {
        w.advance(ms(1));
    }
    let heard = run(&mut w, a, [there(), exchange("x0", "direct")]);
    assert!(
        heard[0].contains("no exchange 'x0'") && heard[1] == "done DeclareExchange",
        "{heard:?}"
    );
}
