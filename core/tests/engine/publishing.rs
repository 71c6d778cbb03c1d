//! Publishing: routes, returned and refused messages, and when a confirm is due.

use crate::support::*;
use gatepost_core::command::{Command, PublishFlags, TryPublish};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::testing::world::World;

#[test]
fn a_message_goes_to_every_queue_it_matches_and_is_stored_once() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [
            exchange("x", "fanout"),
            durable("a"),
            durable("b"),
            bind("x", "a", ""),
            bind("x", "b", ""),
        ],
    );
    let before = w.counters().memory_bytes;
    run(
        &mut w,
        c,
        [publish(PublishFlags::default(), message("x", "", "m", true))],
    );
    let one = w.counters().memory_bytes - before;
    assert_eq!(w.counters().messages_ready, 2);
    assert_eq!(one as usize, message("x", "", "m", true).memory());
    assert_eq!(
        run(&mut w, c, [get_no_ack("a"), get_no_ack("b")]),
        ["got #1 m left 0", "got #2 m left 0"]
    );
    assert_eq!(w.counters().memory_bytes, 0);
}

#[test]
fn a_durable_message_in_a_durable_queue_is_confirmed_when_the_log_has_it() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [durable("d"), transient("t")]);
    w.send(c, vec![put("d", "1"), put("d", "2")]);
    assert!(now(&mut w, c).is_empty());
    assert!(w.commit());
    assert!(now(&mut w, c).is_empty());
    w.report();
    assert!(w.is_due(c));
    assert_eq!(now(&mut w, c), ["confirmed 2"]);
}

/// Found by the simulator: an entry outlived its connection until something else was written, because the log had
/// reported the batch, and the connection ended before it took its confirm.
#[test]
fn a_confirm_that_was_not_taken_is_dropped_with_its_connection() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [durable("d")]);
    w.send(c, vec![put("d", "a")]);
    w.catch_up();
    w.drop_client(c);
    w.assert_idle();
}

#[test]
fn transient_messages_and_queues_are_confirmed_at_once() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [durable("d"), transient("t")]);
    w.send(c, vec![put_transient("d", "1"), put("t", "2"), put("nowhere", "3")]);
    assert_eq!(now(&mut w, c), ["confirmed 3"]);
    assert!(w.submitted().is_empty());
}

#[test]
fn confirms_are_a_watermark_a_later_one_waits_for_an_earlier_one() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [durable("d"), transient("t")]);
    w.send(c, vec![put_transient("t", "1"), put("d", "2"), put_transient("t", "3")]);
    assert_eq!(now(&mut w, c), ["confirmed 1"]);
    assert_eq!(hear(&mut w, c), ["confirmed 3"]);
}

#[test]
fn a_message_settled_before_it_is_written_is_confirmed_and_never_written() {
    let mut w = World::new(1);
    let (p, c) = (w.connect("test"), w.connect("test"));
    run(&mut w, p, [durable("d")]);
    run(&mut w, c, [consume("d", 1)]);
    w.send(p, vec![put("d", "early")]);
    assert_eq!(now(&mut w, c), ["deliver c1 #1 early"]);
    w.send(c, vec![ack(1)]);
    assert!(w.is_due(p), "the settle is the publisher's confirm");
    assert_eq!(now(&mut w, p), ["confirmed 1"]);
    w.catch_up();
    assert_eq!(w.counters().cancelled_writes, 1);
    w.crash(gatepost_core::testing::disk::Crash::Process);
    assert_eq!(w.counters().messages_ready, 0);
}

#[test]
fn a_message_in_two_queues_is_confirmed_early_only_when_both_settled_it() {
    let mut w = World::new(1);
    let (p, c) = (w.connect("test"), w.connect("test"));
    run(
        &mut w,
        p,
        [
            exchange("x", "fanout"),
            durable("a"),
            durable("b"),
            bind("x", "a", ""),
            bind("x", "b", ""),
        ],
    );
    run(&mut w, c, [consume("a", 1), consume("b", 2)]);
    w.send(p, vec![publish(PublishFlags::CONFIRM, message("x", "", "m", true))]);
    assert_eq!(now(&mut w, c).len(), 2);
    w.send(c, vec![ack(1)]);
    assert!(now(&mut w, p).is_empty());
    w.send(c, vec![ack(2)]);
    assert_eq!(now(&mut w, p), ["confirmed 1"]);
}

#[test]
fn a_hand_out_that_needs_no_settle_does_not_replace_the_sync() {
    let mut w = World::new(1);
    let (p, c) = (w.connect("test"), w.connect("test"));
    run(&mut w, p, [durable("d")]);
    run(&mut w, c, [consume_no_ack("d", 1)]);
    w.send(p, vec![put("d", "m")]);
    assert_eq!(now(&mut w, c), ["deliver c1 #1 m"]);
    assert!(now(&mut w, p).is_empty());
    assert_eq!(hear(&mut w, p), ["confirmed 1"]);
}

#[test]
fn an_unroutable_mandatory_message_comes_back_before_its_confirm() {
    let mut w = World::new(1);
    let c = w.connect("test");
    let mandatory = PublishFlags::CONFIRM | PublishFlags::MANDATORY;
    w.send(c, vec![publish(mandatory, message("", "nowhere", "m", true))]);
    assert_eq!(now(&mut w, c), ["returned 1 m", "confirmed 1"]);
}

#[test]
fn a_missing_exchange_is_a_fault_unless_the_publish_permits_it() {
    let mut w = World::new(1);
    let c = w.connect("test");
    let lenient = PublishFlags::CONFIRM | PublishFlags::LENIENT;
    assert_eq!(
        run(&mut w, c, [publish(lenient, message("no", "k", "m", true))]),
        ["confirmed 1"]
    );
    let heard = run(
        &mut w,
        c,
        [publish(PublishFlags::CONFIRM, message("no", "k", "m", true))],
    );
    assert!(
        heard
            .iter()
            .any(|l| l == "failed Publish NotFound no exchange 'no' in vhost '/'"),
        "{heard:?}"
    );
}

/// A publish of a transaction heard of its missing exchange at the commit only, and one with a bad property heard of that
/// before anybody looked for the exchange.
#[test]
fn a_publish_is_tried_for_its_exchange_first_and_then_for_what_its_session_says() {
    let mut w = World::new(1);
    let mut tried = |exchange: &str, refused: Option<&str>| {
        let c = w.connect("test");
        let c_try = TryPublish {
            channel: CH,
            message: message(exchange, "k", "m", true),
            refused: refused.map(|text| Fault::new(FaultKind::PreconditionFailed, text)),
        };
        run(&mut w, c, [Command::TryPublish(Box::new(c_try))])
    };
    let missing = ["failed Publish NotFound no exchange 'no' in vhost '/'"];
    assert_eq!(tried("no", None), missing);
    assert_eq!(tried("no", Some("bad property")), missing);
    let internal = "failed Publish AccessRefused cannot publish to internal exchange 'amq.rabbitmq.trace' in vhost '/'";
    assert_eq!(tried("amq.rabbitmq.trace", Some("bad property")), [internal]);
    for exchange in ["", "amq.topic"] {
        let refused = ["failed Publish PreconditionFailed bad property"];
        assert_eq!(tried(exchange, Some("bad property")), refused);
        assert!(tried(exchange, None).is_empty(), "nothing is wrong");
    }
    assert_eq!(w.counters().traffic.published, 0);
}

#[test]
fn a_full_queue_refuses_before_the_confirm_that_passes_the_refused_one() {
    let mut w = World::new(1);
    let c = w.connect("test");
    let full = declare("q", |d| {
        d.arguments
            .push("x-max-length", gatepost_core::properties::Value::Int(1, 32));
        d.arguments
            .push("x-overflow", gatepost_core::properties::Value::text("reject-publish"));
    });
    run(&mut w, c, [full]);
    w.send(c, vec![put("q", "1"), put("q", "2")]);
    assert_eq!(now(&mut w, c), ["refused 2 QuotaExceeded"]);
    assert_eq!(hear(&mut w, c), ["confirmed 2"]);
    assert_eq!(run(&mut w, c, [get_no_ack("q")]), ["got #1 1 left 0"]);
}

#[test]
fn a_full_queue_drops_its_oldest_for_a_new_one() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [with_arguments("q", &[("x-max-length", 2)])]);
    assert_eq!(
        run(&mut w, c, [put("q", "1"), put("q", "2"), put("q", "3")]),
        ["confirmed 3"]
    );
    let heard = run(&mut w, c, [get_no_ack("q"), get_no_ack("q"), get_no_ack("q")]);
    assert_eq!(heard, ["got #1 2 left 1", "got #2 3 left 0", "empty"]);
}

/// What came back from a consumer made a queue longer than its limit, until the next publish.
#[test]
fn what_comes_back_to_a_full_queue_makes_it_drop_its_oldest() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [with_arguments("q", &[("x-max-length", 2)])]);
    run(
        &mut w,
        c,
        [put("q", "1"), put("q", "2"), get("q"), put("q", "3"), requeue(1)],
    );
    w.advance(ms(10));
    let heard = run(&mut w, c, [get_no_ack("q"), get_no_ack("q"), get_no_ack("q")]);
    assert_eq!(heard, ["got #2 2 left 1", "got #3 3 left 0", "empty"]);
}

#[test]
fn a_limit_in_bytes_counts_ready_bodies() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [with_arguments("q", &[("x-max-length-bytes", 10)])]);
    run(&mut w, c, [put("q", "aaaa"), put("q", "bbbb"), put("q", "cccc")]);
    assert_eq!(run(&mut w, c, [get_no_ack("q")]), ["got #1 bbbb left 1"]);
}

#[test]
fn a_transaction_is_atomic_even_after_a_crash() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [durable("a"), durable("b"), put("a", "old")]);
    run(&mut w, c, [get("a")]);
    let publish_both = || {
        vec![
            publish(PublishFlags::default(), message("", "a", "1", true)),
            publish(PublishFlags::default(), message("", "b", "2", true)),
            ack(1),
        ]
    };
    w.send(c, vec![transaction(publish_both())]);
    assert!(now(&mut w, c).is_empty(), "it waits for the log");
    assert_eq!(hear(&mut w, c), ["done Commit"]);
    w.crash(gatepost_core::testing::disk::Crash::Power);
    let c = w.connect("test");
    let heard = run(&mut w, c, [get_no_ack("a"), get_no_ack("b")]);
    assert_eq!(heard, ["got #1 1 again left 0", "got #2 2 left 0"], "marks are ahead");
}

/// The whole transaction failed, though its other messages had queues.
#[test]
fn a_message_whose_exchange_was_deleted_before_the_commit_is_unroutable() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [exchange("x", "fanout"), transient("q"), delete_exchange("x")],
    );
    let flags = PublishFlags::LENIENT | PublishFlags::MANDATORY;
    let both = vec![
        publish(flags, message("x", "", "gone", false)),
        publish(flags, message("", "q", "here", false)),
    ];
    let heard = run(&mut w, c, [transaction(both), get_no_ack("q")]);
    assert_eq!(heard, ["returned 0 gone", "done Commit", "got #1 here left 0"]);
}

#[test]
fn a_transaction_with_an_invalid_part_changes_nothing() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [durable("a")]);
    let commands = vec![publish(PublishFlags::default(), message("", "a", "1", true)), ack(1)];
    assert_eq!(
        run(&mut w, c, [transaction(commands)]),
        ["failed Commit PreconditionFailed unknown delivery tag 1"]
    );
    assert_eq!(run(&mut w, c, [get("a")]), ["empty"]);
}

#[test]
fn a_transaction_that_would_overfill_a_queue_changes_nothing() {
    // Each publish was checked against what was in the queue before, so all passed, and the last ones were lost without
    // an error.
    let mut w = World::new(1);
    let c = w.connect("test");
    let full = declare("q", |d| {
        d.arguments
            .push("x-max-length", gatepost_core::properties::Value::Int(2, 32));
        d.arguments
            .push("x-overflow", gatepost_core::properties::Value::text("reject-publish"));
    });
    run(&mut w, c, [full]);
    let three = (0..3)
        .map(|n| publish(PublishFlags::default(), message("", "q", &n.to_string(), true)))
        .collect();
    assert_eq!(
        run(&mut w, c, [transaction(three)]),
        ["failed Commit PreconditionFailed partial tx completion"]
    );
    assert_eq!(run(&mut w, c, [get("q")]), ["empty"]);
}

#[test]
fn a_transaction_settles_a_delivery_once() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [durable("a"), put("a", "1"), get("a")]);
    let heard = run(&mut w, c, [transaction(vec![ack(1), ack(1)])]);
    assert_eq!(heard, ["failed Commit PreconditionFailed unknown delivery tag 1"]);
    assert_eq!(run(&mut w, c, [transaction(vec![ack(1)])]), ["done Commit"]);
}

#[test]
fn a_batch_of_thousands_is_applied_in_several_holds() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [transient("t")]);
    let many: Vec<Command> = (0..3_000).map(|n| put("t", &n.to_string())).collect();
    w.set_audits(false);
    assert_eq!(run(&mut w, c, many), ["confirmed 3000"]);
    assert_eq!(w.counters().messages_ready, 3_000);
}

#[test]
fn only_publishers_are_told_about_pressure_and_its_end() {
    let mut w = World::new(1);
    let (p, c) = (w.connect("test"), w.connect("test"));
    run(&mut w, p, [transient("t"), put("t", "1")]);
    run(&mut w, c, [consume("t", 1)]);
    w.set_pressure(Some(gatepost_core::event::Pressure::Disk));
    assert!(w.is_due(p) && !w.is_due(c));
    assert_eq!(now(&mut w, p), ["flow Some(Disk)"]);
    w.set_pressure(None);
    assert_eq!(now(&mut w, p), ["flow None"]);
}

#[test]
fn connections_leave_nothing_behind() {
    let mut w = World::new(1);
    let (p, c) = (w.connect("test"), w.connect("test"));
    run(
        &mut w,
        p,
        [durable("d"), transient("t"), declare("e", |d| d.exclusive = true)],
    );
    run(&mut w, c, [consume("d", 1), consume("t", 2), prefetch(3, true)]);
    w.send(p, vec![put("d", "1"), put("t", "2"), put("e", "3"), put("d", "4")]);
    w.take(
        c,
        gatepost_core::testing::world::Room {
            messages: 1,
            bytes: 100,
            large: true,
        },
    );
    w.drop_client(p);
    w.drop_client(c);
    w.catch_up();
    w.assert_idle();
    let c = w.connect("test");
    let heard = run(&mut w, c, [delete("d"), delete("t"), delete("e")]);
    assert_eq!(heard, ["deleted 2", "deleted 1", "deleted 0"]);
    w.drop_client(c);
    w.catch_up();
    w.assert_idle();
}
