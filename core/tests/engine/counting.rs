//! What is counted for those who look at queues, channels and exchanges.

use crate::support::*;
use gatepost_core::command::{Command, DeclareQueue};
use gatepost_core::testing::world::World;

/// Declarations of queues that were there counted for nothing, and a start counted all queues of the log as new.
#[test]
fn every_declaration_counts_and_only_a_new_queue_is_created() {
    let mut w = World::new(1);
    let c = w.connect("test");
    let passive = DeclareQueue {
        passive: true,
        ..DeclareQueue::durable(CH, "a")
    };
    let passive = Command::DeclareQueue(Box::new(passive));
    run(&mut w, c, [durable("a"), durable("a"), durable("b"), passive]);
    // One that is refused is none.
    run(&mut w, c, [transient("a")]);
    let mqtt = w.connect("MQTT 5.0");
    run(&mut w, mqtt, [kept("m"), subscribe(vec![filter("x", 1)])]);
    let counts = |w: &World| {
        let c = w.counters();
        (c.queues_declared, c.queues_created, c.queues_deleted)
    };
    assert_eq!(counts(&w), (4, 3, 0), "`a` twice, `b`, and the session's");
    w.stop_and_start();
    assert_eq!((w.counters().queues, counts(&w)), (3, (0, 0, 0)));
}

#[test]
fn a_message_that_comes_again_counts_as_redelivered_however_it_is_settled() {
    let mut w = World::new(1);
    let (c, second) = (w.connect("test"), w.connect("test"));
    run(&mut w, c, [durable("q"), put("q", "1"), put("q", "2"), consume("q", 1)]);
    run(&mut w, c, [cancel(1), requeue(1), requeue(2), get_no_ack("q")]);
    run(&mut w, second, [consume_no_ack("q", 1)]);
    let (counts, ..) = w.turn(|engine| engine.queue_counts("q")).expect("the queue");
    assert_eq!(
        (counts.delivered, counts.delivered_no_ack, counts.got_no_ack),
        (2, 1, 1)
    );
    assert_eq!(counts.redelivered, 2, "the fetched one, and the one settled when taken");
    assert_eq!(w.counters().traffic.redelivered, 2);
}

#[test]
fn what_a_session_is_sent_again_counts_as_redelivered() {
    let mut w = World::new(1);
    let first = w.connect("MQTT 5.0");
    run(&mut w, first, [kept("m"), subscribe(vec![filter("t", 1)])]);
    run(&mut w, first, [mqtt("t", "1", 1, 0)]);
    w.drop_client(first);
    let second = w.connect("MQTT 5.0");
    assert_eq!(run(&mut w, second, [kept("m")])[1..], ["publish q1 #1 t 1 dup"]);
    let name = "mqtt-subscription-m";
    let (counts, ..) = w.turn(|engine| engine.queue_counts(name)).expect("the queue");
    assert_eq!((counts.delivered, counts.redelivered), (2, 1));
    assert_eq!(w.counters().traffic.redelivered, 1);
}
