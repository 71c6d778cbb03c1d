//! Settles that wait for the commit of their channel: what they cover, and what becomes of it.

use crate::support::*;
use gatepost_core::command::{Command, Outcome};
use gatepost_core::testing::world::{Client, World};

fn hold(number: u64, multiple: bool, outcome: Outcome) -> Command {
    Command::HoldSettle {
        channel: CH,
        number,
        multiple,
        outcome,
    }
}

fn hold_ack(number: u64) -> Command {
    hold(number, false, Outcome::Accept)
}

fn hold_acks_upto(number: u64) -> Command {
    hold(number, true, Outcome::Accept)
}

fn recover() -> Command {
    Command::Recover {
        channel: CH,
        reply: true,
    }
}

const UNKNOWN: &str = "failed Settle PreconditionFailed unknown delivery tag";

/// A client that has fetched `count` messages, numbered from 1.
fn fetched(w: &mut World, count: usize) -> Client {
    let c = w.connect("test");
    run(w, c, [durable("q")]);
    for n in 1..=count {
        run(w, c, [put("q", &n.to_string()), get("q")]);
    }
    c
}

/// Ends the client, and returns the bodies of what is in the queue then.
fn left(w: &mut World, c: Client) -> Vec<String> {
    w.drop_client(c);
    let c = w.connect("test");
    let mut bodies = Vec::new();
    while let [got] = &run(w, c, [get_no_ack("q")])[..] {
        let Some(body) = got.split(' ').nth(2) else { break };
        bodies.push(body.to_owned());
    }
    bodies
}

/// "All so far" was looked up at the commit, so messages that came after it were settled too, and lost if their consumer
/// failed.
#[test]
fn a_held_settle_of_all_does_not_cover_later_deliveries() {
    let mut w = World::new(1);
    let c = fetched(&mut w, 2);
    run(&mut w, c, [hold_acks_upto(0)]);
    run(&mut w, c, [put("q", "3"), get("q")]);
    assert_eq!(run(&mut w, c, [transaction(vec![])]), ["done Commit"]);
    assert_eq!(left(&mut w, c), ["3"]);
}

/// A second settle of a delivery was found at the commit only.
#[test]
fn a_held_settle_of_what_is_not_unsettled_fails_at_once() {
    for (held, then) in [
        (vec![], 4),
        (vec![hold_ack(1)], 1),
        (vec![hold_acks_upto(2)], 1),
        (vec![hold_acks_upto(2)], 2),
        (vec![hold_acks_upto(0)], 3),
        (vec![hold_ack(1), hold_acks_upto(2)], 1),
        (vec![hold_ack(3), hold_acks_upto(2)], 3),
    ] {
        for multiple in [false, true] {
            let mut w = World::new(1);
            let c = fetched(&mut w, 3);
            assert!(run(&mut w, c, held.clone()).is_empty());
            let again = hold(then, multiple, Outcome::Accept);
            assert_eq!(run(&mut w, c, [again]), [format!("{UNKNOWN} {then}")]);
            assert_eq!(left(&mut w, c), ["1", "2", "3"]);
        }
    }
}

#[test]
fn a_commit_settles_in_order_what_was_held() {
    let mut w = World::new(1);
    let c = fetched(&mut w, 5);
    let held = [
        hold(2, false, Outcome::Requeue),
        hold_acks_upto(3),
        hold_ack(5),
        hold_acks_upto(0),
        hold_acks_upto(0),
    ];
    assert!(run(&mut w, c, held).is_empty(), "nothing happens before the commit");
    assert_eq!(run(&mut w, c, [get("q")]), ["empty"]);
    assert_eq!(run(&mut w, c, [transaction(vec![put("q", "6")])]), ["done Commit"]);
    assert_eq!(run(&mut w, c, [transaction(vec![])]), ["done Commit"]);
    assert_eq!(left(&mut w, c), ["2", "6"]);
}

#[test]
fn what_was_rolled_back_is_unsettled_as_before() {
    let mut w = World::new(1);
    let c = fetched(&mut w, 3);
    let rolled_back = [hold_ack(1), hold_acks_upto(0), Command::ForgetHeld { channel: CH }];
    assert!(run(&mut w, c, rolled_back).is_empty());
    assert_eq!(run(&mut w, c, [transaction(vec![])]), ["done Commit"]);
    assert_eq!(run(&mut w, c, [hold_ack(2), transaction(vec![])]), ["done Commit"]);
    assert_eq!(left(&mut w, c), ["1", "3"]);
}

/// They were returned to their queue, and the commit then failed because it did not find them.
#[test]
fn deliveries_that_are_held_are_not_recovered() {
    for (held, recovered, settled) in [
        (
            vec![hold_ack(2), hold_ack(4)],
            ["1", "3", "5"].as_slice(),
            ["1", "3", "5"].as_slice(),
        ),
        (vec![hold_ack(5), hold_acks_upto(3)], &["4"], &["4"]),
        (vec![hold_acks_upto(0)], &[], &[]),
    ] {
        let mut w = World::new(1);
        let c = fetched(&mut w, 5);
        run(&mut w, c, held);
        assert_eq!(run(&mut w, c, [recover()]), ["done Recover"]);
        assert_eq!(w.counters().messages_ready, recovered.len() as u64);
        assert_eq!(run(&mut w, c, [transaction(vec![])]), ["done Commit"]);
        assert_eq!(left(&mut w, c), settled);
    }
}

/// Whatever a client holds, a hold of the engine's lock stays short.
#[test]
fn thousands_of_held_settles_are_passed_over_in_several_holds() {
    let mut w = World::new(1);
    w.set_audits(false);
    let c = w.connect("test");
    run(&mut w, c, [transient("q")]);
    run(
        &mut w,
        c,
        (0..4_000)
            .map(|n| put_transient("q", &n.to_string()))
            .collect::<Vec<_>>(),
    );
    run(&mut w, c, (0..4_000).map(|_| get("q")).collect::<Vec<_>>());
    let held: Vec<Command> = (1..=4_000).filter(|n| n % 4 != 0).map(hold_ack).collect();
    run(&mut w, c, held);
    assert_eq!(run(&mut w, c, [recover()]), ["done Recover"]);
    assert_eq!(w.counters().messages_ready, 1_000);
    assert_eq!(run(&mut w, c, [transaction(vec![])]), ["done Commit"]);
    assert_eq!(w.counters().messages_ready, 1_000);
    assert_eq!(w.counters().messages_unsettled, 0);
}

/// The limit of a transaction counts what it settles.
#[test]
fn held_settles_count_towards_the_limit_of_a_transaction() {
    let settings = gatepost_core::testing::world::Settings {
        transaction_deliveries_max: 3,
        ..Default::default()
    };
    for (held, fits) in [(3, true), (4, false)] {
        let mut w = World::with(1, settings.clone(), Default::default());
        let c = fetched(&mut w, 4);
        run(&mut w, c, (1..=held).map(hold_ack).collect::<Vec<_>>());
        let heard = run(&mut w, c, [transaction(vec![])]);
        assert_eq!(heard == ["done Commit"], fits, "{heard:?}");
        assert_eq!(left(&mut w, c).len(), if fits { 1 } else { 4 });
    }
}

/// It began when the message was published, so a transaction that was open for longer put nothing into the queue.
#[test]
fn a_time_to_live_begins_at_the_commit() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [with_arguments("q", &[("x-message-ttl", 100)]), durable("own")],
    );
    let received = w.now().wall;
    let to = |queue: &str, deadline| {
        let envelope = gatepost_core::message::Envelope {
            received,
            deadline,
            ..Default::default()
        };
        let m = gatepost_core::message::Message::new(envelope, "", queue, &[], b"m");
        publish(Default::default(), m)
    };
    let publishes = vec![to("q", None), to("own", Some(received + ms(100)))];
    w.advance(ms(1_000));
    assert_eq!(run(&mut w, c, [transaction(publishes)]), ["done Commit"]);
    assert_eq!(w.counters().messages_ready, 2);
    w.advance(ms(101));
    assert_eq!(run(&mut w, c, [get("q"), get("own")]), ["empty", "empty"]);
}
