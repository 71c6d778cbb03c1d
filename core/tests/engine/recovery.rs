//! After a crash: confirmed messages are there, settled ones are not, and those that may have been handed out are
//! marked.

use crate::support::*;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::World;

#[test]
fn confirmed_messages_survive_in_order_and_transient_ones_do_not() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [durable("d"), transient("t")]);
    run(
        &mut w,
        c,
        [put("d", "1"), put_transient("d", "2"), put("d", "3"), put("t", "4")],
    );
    w.crash(Crash::Power);
    assert_eq!(w.counters().queues, 1);
    let c = w.connect("test");
    assert_eq!(
        run(&mut w, c, [get("d"), get("d"), get("d")]),
        ["got #1 1 left 1", "got #2 3 left 0", "empty"]
    );
}

#[test]
fn messages_handed_out_before_a_crash_are_marked_and_others_are_not() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [durable("d"), put("d", "1"), put("d", "2")]);
    run(&mut w, c, [get("d")]);
    w.crash(Crash::Process);
    let c = w.connect("test");
    // A mark is ahead of what was really handed out.
    assert_eq!(
        run(&mut w, c, [get("d"), get("d")]),
        ["got #1 1 again left 1", "got #2 2 again left 0"]
    );
    run(&mut w, c, [put("d", "3")]);
    w.crash(Crash::Process);
    let c = w.connect("test");
    run(&mut w, c, [get("d"), get("d")]);
    assert_eq!(run(&mut w, c, [get("d")]), ["got #3 3 left 0"]);
}

#[test]
fn a_message_handed_out_to_a_waiting_consumer_is_marked() {
    let mut w = World::new(1);
    let (p, c) = (w.connect("test"), w.connect("test"));
    run(&mut w, p, [durable("d")]);
    run(&mut w, c, [consume("d", 1)]);
    w.send(p, vec![put("d", "1")]);
    assert_eq!(now(&mut w, c), ["deliver c1 #1 1"]);
    w.catch_up();
    w.crash(Crash::Power);
    let c = w.connect("test");
    assert_eq!(run(&mut w, c, [get("d")]), ["got #1 1 again left 0"]);
}

#[test]
fn a_backlog_is_handed_out_when_the_log_has_its_mark() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [durable("d"), put("d", "1")]);
    w.crash(Crash::Process);
    let c = w.connect("test");
    w.send(c, vec![consume("d", 1)]);
    assert_eq!(now(&mut w, c), ["consuming c1"]);
    // First the list of messages is read, then the first body.
    for _ in 0..2 {
        w.fetch();
        w.bring();
    }
    assert!(now(&mut w, c).is_empty(), "the mark is not written");
    w.commit();
    w.report();
    assert!(w.is_due(c));
    assert_eq!(now(&mut w, c), ["deliver c1 #1 1"]);
}

#[test]
fn settled_messages_do_not_return_once_their_settle_is_written() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [
            durable("d"),
            put("d", "1"),
            put("d", "2"),
            put("d", "3"),
            consume("d", 1),
        ],
    );
    run(&mut w, c, [ack(2), reject(1)]);
    assert!(w.submitted().is_empty(), "settles wait for company");
    w.advance(ms(250));
    w.catch_up();
    w.crash(Crash::Process);
    let c = w.connect("test");
    assert_eq!(run(&mut w, c, [get("d"), get("d")]), ["got #1 3 again left 0", "empty"]);
}

#[test]
fn a_clean_stop_writes_the_last_settles() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [durable("d"), put("d", "1"), put("d", "2"), consume("d", 1)]);
    run(&mut w, c, [ack(1)]);
    w.stop_and_start();
    let c = w.connect("test");
    assert_eq!(run(&mut w, c, [get("d")]), ["got #1 2 again left 0"]);
}

#[test]
fn sequence_numbers_are_never_used_again() {
    // Settles of messages that were never written contain numbers that no message record has.
    let mut w = World::new(1);
    let (p, c) = (w.connect("test"), w.connect("test"));
    run(&mut w, p, [durable("d")]);
    run(&mut w, c, [consume("d", 1)]);
    for n in 1..=3 {
        w.send(p, vec![put("d", "early")]);
        now(&mut w, c);
        w.send(c, vec![ack(n)]);
        w.catch_up();
    }
    w.advance(ms(250));
    w.catch_up();
    w.crash(Crash::Power);
    let p = w.connect("test");
    run(&mut w, p, [put("d", "a"), put("d", "b"), put("d", "c"), put("d", "d")]);
    w.crash(Crash::Power);
    assert_eq!(w.counters().messages_ready, 4);
}

#[test]
fn a_dead_letter_is_in_one_of_its_queues_after_a_crash() {
    let mut w = World::new(1);
    let c = w.connect("test");
    let dying = declare("q", |d| {
        d.arguments
            .push("x-dead-letter-exchange", gatepost_core::properties::Value::text(""));
        d.arguments.push(
            "x-dead-letter-routing-key",
            gatepost_core::properties::Value::text("dead"),
        );
    });
    run(&mut w, c, [durable("dead"), dying, put("q", "m"), get("q")]);
    w.send(c, vec![reject(1)]);
    w.catch_up();
    w.crash(Crash::Power);
    let c = w.connect("test");
    let heard = run(&mut w, c, [get("q"), get("dead")]);
    assert!(heard.iter().filter(|l| l.starts_with("got")).count() == 1, "{heard:?}");
}

#[test]
fn a_message_that_dies_during_a_take_is_published_in_that_turn() {
    // Dead letters were only published after a batch of commands: a message that died during a take was in no queue.
    let mut w = World::new(1);
    let (p, c) = (w.connect("test"), w.connect("test"));
    let dying = declare("q", |d| {
        d.durable = false;
        d.arguments
            .push("x-dead-letter-exchange", gatepost_core::properties::Value::text(""));
        d.arguments.push(
            "x-dead-letter-routing-key",
            gatepost_core::properties::Value::text("dead"),
        );
        d.arguments
            .push("x-message-ttl", gatepost_core::properties::Value::Int(50, 32));
    });
    run(&mut w, p, [transient("dead"), dying]);
    run(&mut w, c, [consume("q", 1)]);
    w.take(c, gatepost_core::testing::world::NO_ROOM);
    let envelope = gatepost_core::message::Envelope {
        received: w.now().wall,
        ..Default::default()
    };
    let m = gatepost_core::message::Message::new(envelope, "", "q", &[], b"m");
    w.send(p, vec![publish(Default::default(), m)]);
    w.advance(ms(51));
    assert!(now(&mut w, c).is_empty());
    assert_eq!(run(&mut w, p, [get("dead")]), ["got #1 m left 0"]);
}

#[test]
fn the_number_of_a_queue_without_messages_is_not_reused() {
    // Only numbers in messages, settles and marks were considered: after a restart a new queue got the number of an
    // old, empty one, and after the next restart each had the other's messages.
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [durable("old")]);
    w.crash(Crash::Process);
    let c = w.connect("test");
    run(&mut w, c, [durable("new"), put("new", "m")]);
    w.crash(Crash::Process);
    let c = w.connect("test");
    assert_eq!(run(&mut w, c, [get("old"), get("new")]), ["empty", "got #1 m left 0"]);
}

#[test]
fn a_dead_letter_to_a_name_no_exchange_can_have_is_dropped() {
    // A queue argument may be any text. A message cannot store an exchange name of more than 255 bytes, and trying to
    // ended the process.
    let mut w = World::new(1);
    let c = w.connect("test");
    let dying = declare("q", |d| {
        d.arguments.push(
            "x-dead-letter-exchange",
            gatepost_core::properties::Value::text(&"x".repeat(300)),
        );
    });
    run(&mut w, c, [dying, put("q", "m"), get("q")]);
    w.send(c, vec![reject(1)]);
    w.catch_up();
    assert_eq!(w.counters().messages_ready, 0);
    assert_eq!(w.counters().memory_bytes, 0);
}
