//! Quorum queues: how they are declared, and what happens to a message that comes back again and again.

use crate::support::*;
use gatepost_core::command::{Command, Outcome};
use gatepost_core::event::{Event, Pressure};
use gatepost_core::properties::Value;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{Client, ROOM, World};

/// A quorum queue that dead-letters to `dead`, with a delivery limit if `limit` has one.
fn quorum(name: &str, limit: Option<i64>) -> Command {
    declare(name, |d| {
        d.arguments.push("x-queue-type", Value::text("quorum"));
        d.arguments.push("x-dead-letter-exchange", Value::text(""));
        d.arguments.push("x-dead-letter-routing-key", Value::text("dead"));
        if let Some(limit) = limit {
            d.arguments.push("x-delivery-limit", Value::Int(limit, 32));
        }
    })
}

/// The next delivery: body, number, and how often it came back, if that is reported.
fn next(w: &mut World, c: Client, commands: Vec<Command>) -> Vec<(String, u64, Option<u32>)> {
    w.send(c, commands);
    let mut found = Vec::new();
    loop {
        w.catch_up();
        for event in w.take(c, ROOM) {
            if let Event::Deliver(delivery) | Event::Got { delivery, .. } = event {
                let body = String::from_utf8_lossy(delivery.message.body()).into_owned();
                found.push((body, delivery.number, delivery.extra.and_then(|extra| extra.returned)));
            }
        }
        if !w.is_due(c) && w.is_caught_up() {
            return found;
        }
    }
}

fn fetch(w: &mut World, c: Client, queue: &str) -> Option<(u64, Option<u32>)> {
    let found = next(w, c, vec![get(queue)]);
    found.first().map(|(_, number, returned)| (*number, *returned))
}

#[test]
fn every_kind_of_return_counts_and_above_the_limit_the_message_dies() {
    type Way = fn(&mut World, Client, u64) -> Client;
    let ways: [(&str, Way); 4] = [
        ("requeue", |w, c, number| {
            run(w, c, [requeue(number)]);
            c
        }),
        ("recover", |w, c, _| {
            run(
                w,
                c,
                [Command::Recover {
                    channel: CH,
                    reply: true,
                }],
            );
            c
        }),
        ("close", |w, c, _| {
            run(w, c, [close_channel()]);
            c
        }),
        ("loss", |w, c, _| {
            w.drop_client(c);
            w.catch_up();
            w.connect("test")
        }),
    ];
    for (way, give_back) in ways {
        let mut w = World::new(1);
        let mut c = w.connect("test");
        run(&mut w, c, [quorum("q", Some(2)), durable("dead"), put("q", "m")]);
        for round in 0..3 {
            let (number, returned) = fetch(&mut w, c, "q").unwrap_or_else(|| panic!("{way}: round {round}"));
            assert_eq!(returned, Some(round), "{way}");
            c = give_back(&mut w, c, number);
        }
        assert_eq!(fetch(&mut w, c, "q"), None, "{way}");
        assert!(fetch(&mut w, c, "dead").is_some(), "{way}");
        assert_eq!(w.counters().dead_lettered_delivery_limit, 1, "{way}");
    }
}

#[test]
fn a_consumer_gets_the_count_from_the_first_return_on_and_the_limit_is_20() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [quorum("q", None), durable("dead"), put("q", "m")]);
    let mut heard = next(&mut w, c, vec![prefetch(1, false), consume("q", 1)]);
    for round in 0..=20 {
        let expected = (round > 0).then_some(round);
        let [(_, number, returned)] = heard[..] else {
            panic!("round {round}: {heard:?}");
        };
        assert_eq!(returned, expected);
        heard = next(&mut w, c, vec![requeue(number)]);
    }
    assert_eq!(heard, []);
    assert_eq!(w.counters().dead_lettered_delivery_limit, 1);
}

#[test]
fn a_negative_limit_is_no_limit_and_without_a_dead_letter_exchange_the_message_is_dropped() {
    let mut w = World::new(1);
    let c = w.connect("test");
    let bare = declare("bare", |d| {
        d.arguments.push("x-queue-type", Value::text("quorum"));
        d.arguments.push("x-delivery-limit", Value::Int(0, 32));
    });
    run(
        &mut w,
        c,
        [quorum("q", Some(-1)), bare, put("q", "m"), put("bare", "m")],
    );
    for _ in 0..100 {
        let (number, _) = fetch(&mut w, c, "q").expect("it comes back for ever");
        run(&mut w, c, [requeue(number)]);
    }
    let (number, _) = fetch(&mut w, c, "bare").expect("the message");
    run(&mut w, c, [requeue(number)]);
    assert_eq!(w.counters().messages_ready, 1);
}

/// A message that was only reserved has never reached its consumer, so that is no failed delivery.
#[test]
fn a_returned_reservation_does_not_count() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [quorum("q", Some(2)), durable("dead"), put("q", "m")]);
    for _ in 0..5 {
        let other = w.connect("other");
        w.send(other, vec![consume("q", 1)]);
        w.drop_client(other);
        w.catch_up();
    }
    assert_eq!(fetch(&mut w, c, "q").map(|(_, returned)| returned), Some(Some(0)));
}

#[test]
fn counts_of_returns_survive_a_restart_and_end_with_their_messages() {
    for crash in [Crash::Process, Crash::Power] {
        let mut w = World::new(1);
        let c = w.connect("test");
        run(
            &mut w,
            c,
            [
                quorum("q", Some(3)),
                durable("dead"),
                put("q", "1"),
                put("q", "2"),
                put_transient("q", "3"),
            ],
        );
        // The first comes back twice, the second once, and is then settled; the third, transient, once.
        let numbers = |heard: Vec<(String, u64, Option<u32>)>| heard.into_iter().map(|h| h.1).collect::<Vec<_>>();
        let held = numbers(next(&mut w, c, vec![get("q"), get("q"), get("q")]));
        run(&mut w, c, held.iter().rev().map(|n| requeue(*n)).collect::<Vec<_>>());
        let held = numbers(next(&mut w, c, vec![get("q"), get("q")]));
        // The confirm of a later publish shows that all of this is logged.
        run(&mut w, c, [requeue(held[0]), ack(held[1]), put("q", "4")]);
        w.advance(ms(1_000));
        w.catch_up();
        w.crash(crash);
        let c = w.connect("test");
        let heard = next(&mut w, c, vec![get("q"), get("q"), get("q")]);
        let found: Vec<_> = heard.iter().map(|(body, _, returned)| (&**body, *returned)).collect();
        assert_eq!(found, [("1", Some(2)), ("3", Some(1)), ("4", Some(0))], "{crash:?}");
        // The limit continues from there.
        let mut number = heard[0].1;
        for expected in [Some(3), None] {
            run(&mut w, c, [requeue(number)]);
            let again = fetch(&mut w, c, "q");
            assert_eq!(again.and_then(|(_, returned)| returned), expected, "{crash:?}");
            number = again.map_or(0, |(number, _)| number);
        }
        assert!(fetch(&mut w, c, "dead").is_some());
    }
}

#[test]
fn a_purge_drops_waiting_messages_and_keeps_unsettled_ones() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [quorum("q", Some(9)), durable("dead"), put("q", "1"), put("q", "2")],
    );
    let heard = next(&mut w, c, vec![get("q"), get("q")]);
    run(&mut w, c, [requeue(heard[0].1), requeue(heard[1].1)]);
    let (held, _) = fetch(&mut w, c, "q").expect("the first");
    assert_eq!(run(&mut w, c, [purge("q")]), ["purged 1"]);
    run(&mut w, c, [requeue(held)]);
    assert_eq!(fetch(&mut w, c, "q").map(|(_, returned)| returned), Some(Some(2)));
}

/// Nothing is dead-lettered while disk space is short: the message is offered again, and dies when it comes back later.
#[test]
fn while_the_disk_is_short_a_message_over_its_limit_is_offered_again() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [quorum("q", Some(0)), durable("dead"), put("q", "m")]);
    let (number, _) = fetch(&mut w, c, "q").expect("the message");
    w.set_pressure(Some(Pressure::Full));
    run(&mut w, c, [requeue(number)]);
    let (number, returned) = fetch(&mut w, c, "q").expect("it again");
    assert_eq!(returned, Some(1));
    w.set_pressure(None);
    run(&mut w, c, [settle(number, false, Outcome::Requeue)]);
    assert_eq!(fetch(&mut w, c, "q"), None);
    assert!(fetch(&mut w, c, "dead").is_some());
}

/// Declares a quorum queue modified by `change`.
fn typed(name: &str, change: fn(&mut gatepost_core::command::DeclareQueue)) -> Command {
    declare(name, |d| {
        d.arguments.push("x-queue-type", Value::text("quorum"));
        change(d);
    })
}

#[test]
fn properties_that_a_quorum_queue_cannot_have_are_refused_as_in_rabbitmq() {
    let mut w = World::new(1);
    let c = w.connect("test");
    let property = |wrong| format!("PreconditionFailed invalid property '{wrong}' for queue 'q' in vhost '/'");
    let cases = [
        (typed("q", |d| d.durable = false), property("non-durable")),
        (typed("q", |d| d.exclusive = true), property("exclusive-owner")),
        (typed("q", |d| d.auto_delete = true), property("auto-delete")),
        (
            typed("", |_| {}),
            "PreconditionFailed Cannot declare a server-named queue for type rabbit_quorum_queue".into(),
        ),
        (
            typed("q", |d| d.arguments.push("x-max-priority", Value::Int(5, 32))),
            "PreconditionFailed invalid arg 'x-max-priority' for queue 'q' in vhost '/' of queue type \
             rabbit_quorum_queue"
                .into(),
        ),
        (
            with_arguments("q", &[("x-delivery-limit", 5)]),
            "PreconditionFailed invalid arg 'x-delivery-limit' for queue 'q' in vhost '/' of queue type \
             rabbit_classic_queue"
                .into(),
        ),
        (
            typed("q", |d| d.arguments.push("x-dead-letter-strategy", Value::text("x"))),
            "PreconditionFailed invalid arg 'x-dead-letter-strategy' for queue 'q' in vhost '/': \
             invalid_dlx_strategy"
                .into(),
        ),
        (
            declare("q", |d| d.arguments.push("x-queue-type", Value::text("stream"))),
            "NotImplemented queues of type 'stream' are not implemented (queue 'q' in vhost '/')".into(),
        ),
    ];
    for (declare, expected) in cases {
        assert_eq!(run(&mut w, c, [declare]), [format!("failed DeclareQueue {expected}")]);
    }
}

#[test]
fn operations_that_a_quorum_queue_does_not_support_are_refused_as_in_rabbitmq() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [typed("q", |d| {
            d.arguments.push("x-quorum-initial-group-size", Value::Int(3, 32))
        })],
    );
    let heard = run(&mut w, c, [durable("q"), typed("q", |_| {})]);
    let inequivalent = "failed DeclareQueue PreconditionFailed inequivalent arg";
    assert_eq!(
        heard,
        [
            format!(
                "{inequivalent} 'x-queue-type' for queue 'q' in vhost '/': received none but current is the value \
                 'quorum' of type 'longstr'"
            ),
            format!(
                "{inequivalent} 'x-quorum-initial-group-size' for queue 'q' in vhost '/': received none but current is \
                 the value '3' of type 'signedint'"
            ),
        ]
    );
    let conditional = Command::DeleteQueue(Box::new(gatepost_core::command::DeleteQueue {
        channel: CH,
        name: "q".into(),
        if_unused: false,
        if_empty: true,
        reply: true,
    }));
    assert_eq!(
        run(&mut w, c, [conditional]),
        [
            "failed DeleteQueue NotImplemented cannot delete queue 'q' in vhost '/'. queue.delete operations with if-empty \
          flag set are not supported by quorum queues"
        ]
    );
    let heard = run(&mut w, c, [prefetch(1, true), consume("q", 1)]);
    assert_eq!(
        heard[1..],
        ["failed Consume NotImplemented queue 'q' in vhost '/' does not support global qos"]
    );
}
