//! What takes more than one hold of the engine's lock: it goes on where it stopped, and others come in between.

use crate::support::*;
use gatepost_core::command::{Command, Unsubscribe};
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{Client, World};

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
    // Who publishes meanwhile may still find the session's queue, and is confirmed all the same.
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
    assert_eq!(w.counters().links_detached, 2);
}

#[test]
fn a_client_that_comes_back_while_its_session_ends_gets_a_new_one() {
    // It must neither be given what is being taken apart, nor have its own subscriptions taken away with it.
    let mut w = World::new(1);
    let old = w.connect("mqtt");
    run(&mut w, old, [clean("c")]);
    subscribe_to_many(&mut w, old);
    let mut ending = vec![Command::Detach];
    assert!(w.hold(old, &mut ending));
    let new = w.connect("mqtt");
    let mut opening = vec![kept("c"), subscribe(vec![filter("t/0/#", 1), filter("t/4999/#", 1)])];
    // Both work at it in turns.
    let (mut ends, mut opens) = (true, true);
    while ends || opens {
        opens = opens && w.hold(new, &mut opening);
        ends = ends && w.hold(old, &mut ending);
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
    let mut opening = vec![clean("c")];
    assert!(w.hold(new, &mut opening));
    assert_eq!(now(&mut w, old), ["closed TakenOver"]);
    assert!(now(&mut w, new).is_empty(), "the old session is not gone yet");
    w.drop_client(old);
    assert!(holds(&mut w, new, opening) > 10);
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
    // Who subscribed and unsubscribed faster than the replays were served piled them up without limit.
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
