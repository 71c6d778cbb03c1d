//! Bodies are evicted to the log and read back in order. Publishers wait only when that is not enough.

use crate::support::*;
use gatepost_core::command::Command;
use gatepost_core::message::{Envelope, Message};
use gatepost_core::properties::Value;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{Client, NO_ROOM, Room, Settings, World};

const KIB: usize = 1 << 10;

fn small(seed: u64) -> World {
    let settings = Settings {
        cache_bytes_max: 64 * KIB,
        memory_bytes_max: 512 * KIB,
        log_backlog_bytes_max: 256 * KIB,
        ..Settings::default()
    };
    let mut w = World::with(seed, settings, Default::default());
    w.set_audits(false);
    w
}

/// Publishes `n` messages of a KiB each, some at a time, like a publisher that waits for its confirms.
fn fill(w: &mut World, c: Client, queue: &str, n: usize) {
    for first in (0..n).step_by(50) {
        let some: Vec<Command> = (first..n.min(first + 50))
            .map(|n| put(queue, &padded(&n.to_string(), KIB)))
            .collect();
        run(w, c, some);
    }
}

fn numbers(heard: &[String]) -> Vec<usize> {
    let delivered = heard
        .iter()
        .filter(|l| l.starts_with("deliver") || l.starts_with("got"));
    delivered
        .map(|l| {
            l.split(' ')
                .nth(if l.starts_with("got") { 2 } else { 3 })
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect()
}

#[test]
fn a_long_durable_queue_is_kept_on_disk_and_read_back_in_order() {
    let mut w = small(1);
    let c = w.connect("test");
    run(&mut w, c, [durable("d")]);
    fill(&mut w, c, "d", 2_000);
    assert!(
        w.counters().memory_bytes < 128 << 10,
        "{} bytes",
        w.counters().memory_bytes
    );
    assert_eq!(w.counters().publishers_wait_for, None);
    w.set_audits(true);
    w.send(c, vec![consume_no_ack("d", 1)]);
    assert_counted(&numbers(&hear(&mut w, c)), 2_000);
    assert_eq!(w.counters().memory_bytes, 0);
}

#[test]
fn a_long_transient_queue_spills_and_is_gone_after_a_crash() {
    let mut w = small(2);
    let c = w.connect("test");
    run(&mut w, c, [transient("t"), durable("d")]);
    fill(&mut w, c, "t", 1_000);
    assert!(
        w.counters().memory_bytes < 128 << 10,
        "{} bytes",
        w.counters().memory_bytes
    );
    let heard = run(&mut w, c, [consume_with("t", 1, |c| c.prefetch = Some(300))]);
    assert_counted(&numbers(&heard), 300);
    run(&mut w, c, [ack_upto(100)]);
    w.crash(Crash::Process);
    assert_eq!((w.counters().queues, w.counters().messages_ready), (1, 0));
}

#[test]
fn a_message_of_a_durable_and_a_transient_queue_is_evicted_from_both() {
    // A message that another queue had logged could not be spilled, and prevented the eviction of everything behind it.
    let mut w = small(3);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [
            exchange("x", "fanout"),
            durable("d"),
            transient("t"),
            bind("x", "d", ""),
            bind("x", "t", ""),
        ],
    );
    for n in 0..1_000 {
        let m = message("x", "", &padded(&n.to_string(), KIB), true);
        run(&mut w, c, [publish(Default::default(), m)]);
    }
    assert!(
        w.counters().memory_bytes < 256 << 10,
        "{} bytes",
        w.counters().memory_bytes
    );
    let heard = run(&mut w, c, [consume_no_ack("t", 1)]);
    assert_counted(&numbers(&heard), 1_000);
    let heard = run(&mut w, c, [consume_no_ack("d", 2)]);
    assert_counted(&numbers(&heard), 1_000);
}

#[test]
fn many_short_queues_without_consumers_are_evicted() {
    // Only queues of more than 512 messages were evicted: thousands of sessions with a few messages each blocked all
    // publishers.
    let mut w = small(4);
    let c = w.connect("test");
    for n in 0..100 {
        run(&mut w, c, [durable(&format!("q{n}"))]);
        fill(&mut w, c, &format!("q{n}"), 10);
    }
    assert!(
        w.counters().memory_bytes < 256 << 10,
        "{} bytes",
        w.counters().memory_bytes
    );
    assert_eq!(w.counters().publishers_wait_for, None);
    assert_eq!(run(&mut w, c, [get("q7")]), ["got #1 0 left 9"]);
}

#[test]
fn a_few_big_messages_are_evicted() {
    let mut w = small(5);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [
            durable("d"),
            durable("e"),
            consume_with("e", 1, |c| c.prefetch = Some(1)),
        ],
    );
    for n in 0..20 {
        run(&mut w, c, [put("d", &padded(&n.to_string(), 100 * KIB))]);
        run(&mut w, c, [put("e", &padded(&n.to_string(), 100 * KIB))]);
    }
    assert_eq!(w.counters().publishers_wait_for, None);
    assert!(
        w.counters().memory_bytes < 512 << 10,
        "{} bytes",
        w.counters().memory_bytes
    );
}

#[test]
fn bodies_are_not_fetched_for_a_consumer_without_credit_or_room() {
    let mut w = small(6);
    let c = w.connect("test");
    run(&mut w, c, [durable("d")]);
    fill(&mut w, c, "d", 1_000);
    w.crash(Crash::Process);
    let (c, full) = (w.connect("test"), w.connect("test"));
    w.take(full, NO_ROOM);
    w.send(full, vec![consume("d", 2)]);
    w.take(full, NO_ROOM);
    w.catch_up();
    assert!(
        w.counters().bodies_loaded <= 1,
        "the head alone, to see when it expires"
    );
    let heard = run(&mut w, c, [consume_with("d", 1, |c| c.prefetch = Some(1))]);
    assert_eq!(numbers(&heard), [0]);
    let loaded = w.counters().bodies_loaded;
    assert!(loaded <= 256);
    run(&mut w, c, [echo(1)]);
    assert_eq!(w.counters().bodies_loaded, loaded);
}

#[test]
fn a_get_whose_message_is_on_disk_keeps_its_place_among_the_answers() {
    // Later answers of the channel overtook it.
    let mut w = small(7);
    let c = w.connect("test");
    run(&mut w, c, [durable("d"), put("d", "1"), put("d", "2")]);
    w.crash(Crash::Process);
    let c = w.connect("test");
    w.send(c, vec![get("d"), echo(1), get("d"), transient("t")]);
    assert!(now(&mut w, c).is_empty());
    let heard = hear(&mut w, c);
    assert_eq!(
        heard,
        ["got #1 1 left 1", "echo 1", "got #2 2 left 0", "declared t 0/0"]
    );
}

#[test]
fn a_get_of_a_connection_that_is_gone_takes_nothing() {
    // The message was read from disk, and removed from the queue for nobody.
    let mut w = small(8);
    let c = w.connect("test");
    run(&mut w, c, [durable("d"), put("d", "1")]);
    w.crash(Crash::Process);
    let (a, b) = (w.connect("test"), w.connect("test"));
    w.send(a, vec![get("d")]);
    w.send(b, vec![get("d"), close_channel()]);
    w.drop_client(a);
    w.catch_up();
    let c = w.connect("test");
    assert_eq!(run(&mut w, c, [get("d")]), ["got #1 1 left 0"]);
}

#[test]
fn a_get_of_a_queue_that_is_deleted_meanwhile_fails() {
    // It was only checked when a body was read, and none was any more.
    let mut w = small(9);
    let c = w.connect("test");
    run(&mut w, c, [durable("d"), put("d", "1")]);
    w.crash(Crash::Process);
    let (a, b) = (w.connect("test"), w.connect("test"));
    w.send(a, vec![get("d")]);
    w.send(b, vec![delete("d")]);
    assert_eq!(now(&mut w, a), ["failed Get NotFound no queue 'd' in vhost '/'"]);
}

#[test]
fn a_slow_log_makes_publishers_wait_for_a_moment() {
    let mut w = small(10);
    let c = w.connect("test");
    run(&mut w, c, [durable("d")]);
    w.send(c, (0..400).map(|n| put("d", &padded(&n.to_string(), KIB))).collect());
    assert_eq!(now(&mut w, c), ["flow Some(Backlog)"]);
    assert_eq!(hear(&mut w, c), ["flow None", "confirmed 400"]);
}

#[test]
fn bodies_of_unsettled_deliveries_are_evicted_and_read_back() {
    let mut w = small(11);
    let c = w.connect("test");
    run(&mut w, c, [durable("d")]);
    fill(&mut w, c, "d", 500);
    let heard = run(&mut w, c, [consume("d", 1)]);
    assert_counted(&numbers(&heard), 500);
    assert!(
        w.counters().memory_bytes < 256 << 10,
        "{} bytes",
        w.counters().memory_bytes
    );
    run(&mut w, c, [close_channel()]);
    w.set_audits(true);
    let mut again = Vec::new();
    w.send(c, vec![consume("d", 1)]);
    while again.len() < 500 {
        w.catch_up();
        again.extend(numbers(
            &w.take(
                c,
                Room {
                    messages: 7,
                    bytes: 5_000,
                    large: true,
                },
            )
            .iter()
            .map(line)
            .collect::<Vec<_>>(),
        ));
    }
    assert_counted(&again, 500);
}

#[test]
fn deleted_queues_leave_no_notes_for_eviction() {
    let mut w = small(12);
    let c = w.connect("test");
    for n in 0..500 {
        run(&mut w, c, [transient("t"), put("t", &n.to_string()), delete("t")]);
    }
    w.drop_client(c);
    w.catch_up();
    w.assert_idle();
}

#[test]
fn a_message_of_high_priority_does_not_prevent_eviction_of_others() {
    let mut w = small(13);
    let c = w.connect("test");
    run(&mut w, c, [with_arguments("q", &[("x-max-priority", 1)])]);
    fill(&mut w, c, "q", 500);
    let envelope = gatepost_core::message::Envelope {
        priority: Some(1),
        ..Default::default()
    };
    let m = gatepost_core::message::Message::new(envelope, "", "q", &[], b"first");
    run(&mut w, c, [publish(Default::default(), m)]);
    fill(&mut w, c, "q", 500);
    assert!(
        w.counters().memory_bytes < 128 << 10,
        "{} bytes",
        w.counters().memory_bytes
    );
    assert_eq!(run(&mut w, c, [get("q")]), ["got #1 first left 1000"]);
}

#[test]
fn publishers_continue_when_the_log_reports_everything_at_once() {
    // On a busy disk, everything was written in one group. Its single report evicted a few thousand bodies, which did
    // not relieve the pressure. Publishers waited, so no further event continued the eviction, and nobody was served
    // any more.
    let settings = Settings {
        cache_bytes_max: 1 << 20,
        memory_bytes_max: 8 << 20,
        ..Settings::default()
    };
    let mut w = World::with(21, settings, Default::default());
    w.set_audits(false);
    let (stopped, p) = (w.connect("amqp"), w.connect("amqp"));
    run(&mut w, stopped, [transient("t"), consume_no_ack("t", 1)]);
    w.take(stopped, NO_ROOM);
    let m = message("", "t", &padded("x", 64), false);
    while now(&mut w, p) != ["flow Some(Memory)"] {
        let again = |m: &Message| Message::new(*m.envelope(), m.exchange(), m.key(), &[], m.body());
        let some = (0..200).map(|_| publish(Default::default(), again(&m)));
        w.send(p, some.collect());
    }
    for _ in 0..100 {
        w.catch_up();
        w.advance(ms(1));
    }
    assert_eq!(now(&mut w, p), ["flow None"]);
}

#[test]
fn publishers_continue_when_a_consumer_frees_memory() {
    // A consumer that does not settle sends no commands, and memory was only checked after commands.
    let mut w = small(22);
    let (c, p) = (w.connect("amqp"), w.connect("amqp"));
    let queue = declare("t", |d| {
        d.durable = false;
        d.arguments.push("x-max-priority", Value::Int(100, 64));
    });
    run(&mut w, c, [queue, consume_no_ack("t", 1)]);
    w.take(c, NO_ROOM);
    // Messages of such a high priority are never evicted.
    let envelope = Envelope {
        priority: Some(50),
        ..Envelope::default()
    };
    while now(&mut w, p) != ["flow Some(Memory)"] {
        let m = Message::new(envelope, "", "t", &[], &[b'x'; KIB]);
        w.send(p, vec![publish(Default::default(), m)]);
    }
    w.catch_up();
    assert!(!now(&mut w, c).is_empty());
    assert_eq!(now(&mut w, p), ["flow None"]);
}

/// Bodies that were read back, to look at their deadline, stayed in memory. A few queues without consumers stopped all
/// publishers for good.
#[test]
fn queues_without_consumers_keep_no_body_that_was_read_back() {
    let mut w = small(11);
    let c = w.connect("test");
    let queues: Vec<String> = (0..8).map(|n| format!("q{n}")).collect();
    let declared: Vec<Command> = queues.iter().map(|q| durable(q)).collect();
    run(&mut w, c, declared);
    for n in 0..24 {
        for q in &queues {
            let heard = run(&mut w, c, [put(q, &padded(&n.to_string(), 96 * KIB))]);
            assert!(heard.iter().any(|l| l.starts_with("confirmed")), "{n} {q}: {heard:?}");
        }
    }
    let counters = w.counters();
    assert_eq!(counters.publishers_wait_for, None);
    assert!(counters.memory_bytes < 128 << 10, "{} bytes", counters.memory_bytes);
    // A page's first bodies are read once for each queue, not once for each message.
    assert!(counters.bodies_loaded <= 8 * 2, "{} bodies", counters.bodies_loaded);
    w.set_audits(true);
    w.send(c, vec![consume_no_ack("q3", 1)]);
    assert_counted(&numbers(&hear(&mut w, c)), 24);
}

/// The same for queues with consumers that take nothing.
#[test]
fn consumers_without_credit_keep_no_large_body_in_memory() {
    let mut w = small(12);
    let (c, idle) = (w.connect("test"), w.connect("test"));
    let queues: Vec<String> = (0..8).map(|n| format!("q{n}")).collect();
    let declared: Vec<Command> = queues.iter().map(|q| durable(q)).collect();
    run(&mut w, c, declared);
    for (n, q) in queues.iter().enumerate() {
        let consume = consume_with(q, n as u32 + 1, |c| c.prefetch = Some(1));
        run(&mut w, idle, [consume]);
    }
    for n in 0..24 {
        for q in &queues {
            let heard = run(&mut w, c, [put(q, &padded(&n.to_string(), 96 * KIB))]);
            assert!(heard.iter().any(|l| l.starts_with("confirmed")), "{n} {q}: {heard:?}");
        }
    }
    assert_eq!(w.counters().publishers_wait_for, None);
    w.set_audits(true);
}

/// A client that asks for many large messages at once and reads none had all of them in memory.
#[test]
fn fetched_messages_that_are_not_read_wait_in_their_queue() {
    let mut w = small(13);
    let (p, c) = (w.connect("test"), w.connect("test"));
    run(&mut w, p, [durable("d"), durable("e")]);
    for n in 0..20 {
        run(&mut w, p, [put("d", &padded(&n.to_string(), 100 * KIB))]);
    }
    w.take(c, NO_ROOM);
    w.send(c, (0..20).map(|_| get("d")).collect::<Vec<_>>());
    w.catch_up();
    let bytes = w.counters().memory_bytes;
    assert!(bytes < 512 << 10, "{bytes} bytes");
    let heard = run(&mut w, p, [put("e", "beside")]);
    assert!(heard.iter().any(|l| l.starts_with("confirmed")), "{heard:?}");
    // A get has room like a delivery: one message, if it is large.
    let one = Room {
        messages: 10,
        bytes: 1,
        large: true,
    };
    let mut heard = Vec::new();
    for _ in 0..100 {
        let some: Vec<String> = w.take(c, one).iter().map(line).collect();
        assert!(some.len() <= 1, "{} at once", some.len());
        heard.extend(some);
        w.advance(ms(1));
        w.catch_up();
        w.send(c, Vec::new());
    }
    assert_counted(&numbers(&heard), 20);
}
