//! Queues, exchanges and bindings: what repeated declarations mean, who may use them, and how they are deleted.

use crate::support::*;
use gatepost_core::command::{BindTarget, Command, DeleteExchange, DeleteQueue};
use gatepost_core::properties::Value;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{Settings, World};

#[test]
fn a_durable_declaration_is_answered_when_the_log_has_it() {
    let mut w = World::new(1);
    let c = w.connect("test");
    w.send(c, vec![transient("t"), durable("d"), echo(7)]);
    assert_eq!(now(&mut w, c), ["declared t 0/0"], "what follows waits");
    w.commit();
    w.report();
    assert_eq!(now(&mut w, c), ["declared d 0/0", "echo 7"]);
}

#[test]
fn a_repeated_declaration_waits_for_the_log_like_the_first_one() {
    // Only the open batch was checked: if the first declaration was being logged, the second was answered at once, and
    // a power cut undid what it had promised.
    let mut w = World::new(1);
    let (a, b) = (w.connect("test"), w.connect("test"));
    w.send(a, vec![durable("d"), exchange("x", "direct"), bind("x", "d", "k")]);
    w.send(b, vec![durable("d"), exchange("x", "direct"), bind("x", "d", "k")]);
    assert!(now(&mut w, b).is_empty());
    w.catch_up();
    assert_eq!(now(&mut w, b), ["declared d 0/0", "done DeclareExchange", "done Bind"]);
}

#[test]
fn a_server_named_queue_is_the_channels_last_declared() {
    let mut w = World::new(1);
    let c = w.connect("test");
    let heard = run(&mut w, c, [transient(""), bind("amq.topic", "", "k"), consume("", 1)]);
    let name = heard[0].split(' ').nth(1).unwrap();
    assert!(name.starts_with("amq.gen-") && name.len() == 30, "{name}");
    assert_eq!(heard[1..], ["done Bind", "consuming c1"]);
    assert_eq!(run(&mut w, c, [put(name, "m")]), ["confirmed 1", "deliver c1 #1 m"]);
}

#[test]
fn passive_declarations_check_and_equivalent_ones_succeed() {
    let mut w = World::new(1);
    let c = w.connect("test");
    let passive = |name: &str| declare(name, |d| d.passive = true);
    assert_eq!(
        run(&mut w, c, [passive("q")]),
        ["failed DeclareQueue NotFound no queue 'q' in vhost '/'"]
    );
    run(&mut w, c, [with_arguments("q", &[("x-max-length", 5)]), put("q", "m")]);
    assert_eq!(run(&mut w, c, [passive("q")]), ["declared q 1/0"]);
    assert_eq!(
        run(&mut w, c, [with_arguments("q", &[("x-max-length", 5)])]),
        ["declared q 1/0"]
    );
    assert_eq!(
        run(&mut w, c, [with_arguments("q", &[("x-max-length", 6)])]),
        [
            "failed DeclareQueue PreconditionFailed inequivalent arg 'x-max-length' for queue 'q' in vhost '/': \
          received '6' but current is '5'"
        ]
    );
    assert_eq!(
        run(&mut w, c, [transient("q")]),
        [
            "failed DeclareQueue PreconditionFailed inequivalent arg 'durable' for queue 'q' in vhost '/': received \
          'false' but current is 'true'"
        ]
    );
    assert_eq!(run(&mut w, c, [declare("q", |d| d.lenient = true)]), ["declared q 1/0"]);
}

#[test]
fn an_exclusive_queue_belongs_to_its_connection_and_ends_with_it() {
    let mut w = World::new(1);
    let (a, b) = (w.connect("test"), w.connect("test"));
    run(&mut w, a, [declare("e", |d| d.exclusive = true), consume("e", 1)]);
    for command in [
        consume("e", 2),
        get("e"),
        purge("e"),
        delete("e"),
        durable("e"),
        bind("amq.topic", "e", "k"),
    ] {
        let heard = run(&mut w, b, [command]);
        assert!(
            heard[0].contains("ResourceLocked cannot obtain exclusive access to locked queue 'e'"),
            "{heard:?}"
        );
    }
    assert_eq!(run(&mut w, b, [put("e", "m")]), ["confirmed 1"], "anybody may publish");
    assert_eq!(run(&mut w, a, []), ["deliver c1 #1 m"]);
    w.drop_client(a);
    let passive = declare("e", |d| d.passive = true);
    assert_eq!(
        run(&mut w, b, [passive]),
        ["failed DeclareQueue NotFound no queue 'e' in vhost '/'"]
    );
    w.drop_client(b);
    w.catch_up();
    w.assert_idle();
}

#[test]
fn an_auto_delete_queue_is_deleted_with_its_last_consumer() {
    let mut w = World::new(1);
    let (a, b) = (w.connect("test"), w.connect("test"));
    run(
        &mut w,
        a,
        [declare("q", |d| d.auto_delete = true), put("q", "m"), consume("q", 1)],
    );
    run(&mut w, b, [consume("q", 2)]);
    run(&mut w, a, [cancel(1)]);
    assert_eq!(w.counters().queues, 1);
    w.drop_client(b);
    assert_eq!(w.counters().queues, 0);
    assert!(run(&mut w, a, [ack(1)]).is_empty(), "what was held is still known");
    assert_eq!(w.counters().memory_bytes, 0);
}

#[test]
fn deleting_a_queue_drops_its_messages_and_cancels_its_consumers() {
    let mut w = World::new(1);
    let (a, b) = (w.connect("test"), w.connect("test"));
    run(&mut w, a, [durable("q"), put("q", "1"), put("q", "2"), get("q")]);
    run(&mut w, b, [consume_with("q", 4, |c| c.prefetch = Some(1))]);
    run(&mut w, a, [put("q", "3"), put("q", "4")]);
    assert_eq!(run(&mut w, a, [delete("q")]), ["deleted 2"]);
    assert_eq!(hear(&mut w, b), ["gone c4"]);
    assert!(run(&mut w, b, [ack(1)]).is_empty());
    assert!(run(&mut w, a, [requeue(1)]).is_empty());
    assert_eq!(w.counters().memory_bytes, 0);
    assert_eq!(run(&mut w, a, [delete("q")]), ["deleted 0"], "no fault if it is gone");
    w.crash(Crash::Power);
    assert_eq!(w.counters().queues, 0);
}

/// amqplib's test "cancelled consumer" closes its channel on `basic.cancel`, and fails if the answer to its own
/// `queue.delete` has not arrived by then. RabbitMQ answers first, so Gatepost does, too.
#[test]
fn a_channel_that_deletes_its_queue_is_answered_before_its_consumer_is_cancelled() {
    let mut w = World::new(1);
    let a = w.connect("test");
    for queue in [durable("q"), declare("q", |_| {})] {
        run(&mut w, a, [queue, consume("q", 4)]);
        assert_eq!(run(&mut w, a, [delete("q")]), ["deleted 0", "gone c4"]);
    }
}

#[test]
fn deleting_checks_if_empty_before_if_unused() {
    let mut w = World::new(1);
    let c = w.connect("test");
    let conditional = |if_unused, if_empty| {
        Command::DeleteQueue(Box::new(DeleteQueue {
            channel: CH,
            name: "q".into(),
            if_unused,
            if_empty,
            reply: true,
        }))
    };
    run(
        &mut w,
        c,
        [
            transient("q"),
            consume_with("q", 1, |c| c.prefetch = Some(1)),
            put("q", "1"),
            put("q", "2"),
        ],
    );
    let fault = "failed DeleteQueue PreconditionFailed queue 'q' in vhost '/'";
    assert_eq!(
        run(&mut w, c, [conditional(true, true)]),
        [format!("{fault} not empty")]
    );
    assert_eq!(run(&mut w, c, [conditional(true, false)]), [format!("{fault} in use")]);
}

#[test]
fn a_purge_keeps_unsettled_messages() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [durable("q"), put("q", "1"), put("q", "2"), put("q", "3"), get("q")],
    );
    assert_eq!(run(&mut w, c, [purge("q")]), ["purged 2"]);
    w.crash(Crash::Power);
    let c = w.connect("test");
    assert_eq!(run(&mut w, c, [get("q")]), ["got #1 1 again left 0"]);
    run(&mut w, c, [ack(1), put("q", "4"), purge("q"), put("q", "5")]);
    w.advance(ms(500));
    w.catch_up();
    w.crash(Crash::Power);
    let c = w.connect("test");
    assert_eq!(run(&mut w, c, [get("q"), get("q")]), ["got #1 5 left 0", "empty"]);
}

#[test]
fn an_unused_queue_expires_and_use_postpones_it() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [with_arguments("q", &[("x-expires", 1_000)])]);
    w.advance(ms(900));
    run(&mut w, c, [get("q")]);
    w.advance(ms(900));
    assert_eq!(w.counters().queues, 1);
    run(&mut w, c, [consume("q", 1)]);
    w.advance(ms(5_000));
    assert_eq!(w.counters().queues, 1);
    run(&mut w, c, [cancel(1)]);
    w.advance(ms(999));
    assert_eq!(w.counters().queues, 1);
    w.advance(ms(2));
    assert_eq!(w.counters().queues, 0);
}

#[test]
fn consumers_started_again_and_again_do_not_accumulate_timers() {
    // Each consumer that left a queue with an expiry added a timer.
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [with_arguments("q", &[("x-expires", 1_000_000)])]);
    for _ in 0..100 {
        run(&mut w, c, [consume("q", 1), cancel(1)]);
        w.advance(ms(10));
    }
    w.drop_client(c);
    w.catch_up();
    w.assert_idle();
}

#[test]
fn reserved_names_and_the_limit_of_queues_are_refused() {
    let settings = Settings {
        queues_max: 1,
        ..Settings::default()
    };
    let mut w = World::with(1, settings, Default::default());
    let c = w.connect("test");
    let heard = run(
        &mut w,
        c,
        [durable("amq.mine"), durable("a"), durable("b"), durable("a")],
    );
    assert!(heard[0].ends_with("AccessRefused queue name 'amq.mine' contains reserved prefix 'amq.*'"));
    assert_eq!(heard[1], "declared a 0/0");
    assert!(heard[2].ends_with("cannot declare queue 'b': queue limit in vhost '/' (1) is reached"));
    assert_eq!(heard[3], "declared a 0/0");
}

#[test]
fn bindings_and_exchanges_survive_a_restart_and_deleted_ones_do_not_come_back() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [
            exchange("x", "topic"),
            exchange("y", "fanout"),
            durable("q"),
            durable("r"),
        ],
    );
    run(
        &mut w,
        c,
        [bind("x", "q", "a.*"), bind("x", "r", "a.*"), bind("y", "q", "")],
    );
    let unbind = Command::Unbind(Box::new(gatepost_core::command::Bind {
        channel: CH,
        source: "x".into(),
        target: BindTarget::Queue("r".into()),
        key: "a.*".into(),
        arguments: Default::default(),
        reply: true,
    }));
    let delete = Command::DeleteExchange(Box::new(DeleteExchange {
        channel: CH,
        name: "y".into(),
        if_unused: false,
        reply: true,
    }));
    assert_eq!(run(&mut w, c, [unbind, delete]), ["done Unbind", "done DeleteExchange"]);
    w.crash(Crash::Power);
    let c = w.connect("test");
    let heard = run(
        &mut w,
        c,
        [
            publish(Default::default(), message("x", "a.b", "m", false)),
            get("q"),
            get("r"),
            publish(Default::default(), message("y", "", "m", false)),
        ],
    );
    assert_eq!(
        heard,
        [
            "got #1 m left 0",
            "empty",
            "failed Publish NotFound no exchange 'y' in vhost '/'"
        ]
    );
}

#[test]
fn a_bad_argument_creates_no_queue() {
    let mut w = World::new(1);
    let c = w.connect("test");
    let heard = run(
        &mut w,
        c,
        [declare("q", |d| d.arguments.push("x-message-ttl", Value::text("soon")))],
    );
    assert!(
        heard[0].starts_with("failed DeclareQueue PreconditionFailed invalid arg 'x-message-ttl'"),
        "{heard:?}"
    );
    assert_eq!(w.counters().queues, 0);
}

/// Which queue is meant comes before whether the exchange is there.
#[test]
fn a_bind_without_a_queue_is_refused_for_that_first() {
    let mut w = World::new(1);
    let c = w.connect("test");
    let heard = run(&mut w, c, [bind("no", "", "k")]);
    assert_eq!(heard, ["failed Bind NotFound no previously declared queue"]);
    let c = w.connect("test");
    let heard = run(&mut w, c, [bind("no", "no", "k")]);
    assert_eq!(heard, ["failed Bind NotFound no exchange 'no' in vhost '/'"]);
    let c = w.connect("test");
    let heard = run(&mut w, c, [bind("", "", "k")]);
    assert_eq!(heard, ["failed Bind NotFound no previously declared queue"]);
    let heard = run(&mut w, c, [bind("", "no", "k")]);
    assert!(heard[0].starts_with("failed Bind AccessRefused"), "{heard:?}");
}
