//! The middle of a long queue is only in the log. Every operation on the queue must include that part.

use crate::support::*;
use gatepost_core::command::Command;
use gatepost_core::message::{Envelope, Message};
use gatepost_core::store::StoreSettings;
use gatepost_core::testing::disk::{Crash, Rng};
use gatepost_core::testing::world::{Client, Settings, World};
use std::collections::{BTreeSet, VecDeque};

fn small(seed: u64) -> World {
    let settings = Settings {
        cache_bytes_max: 16 << 10,
        memory_bytes_max: 1 << 20,
        log_backlog_bytes_max: 1 << 20,
        ..Settings::default()
    };
    let store = StoreSettings {
        segment_bytes: 64 << 10,
        checkpoint_every: ms(300),
        compact_live_percent_max: 50,
        compact_age_min: 1,
        ..StoreSettings::default()
    };
    let mut w = World::with(seed, settings, store);
    w.set_audits(false);
    w
}

/// Publishes messages named `from..to`, some at a time.
fn fill(w: &mut World, c: Client, queue: &str, from: usize, to: usize) {
    for first in (from..to).step_by(50) {
        let some: Vec<Command> = (first..to.min(first + 50))
            .map(|n| put(queue, &padded(&n.to_string(), 100)))
            .collect();
        run(w, c, some);
    }
}

/// The messages delivered or fetched, each with whether it is marked as redelivered.
fn handed_out(heard: &[String]) -> Vec<(usize, bool)> {
    let of = |line: &String| {
        let words: Vec<&str> = line.split(' ').collect();
        let at = match words[0] {
            "deliver" => 3,
            "got" => 2,
            "publish" => 4,
            _ => return None,
        };
        Some((words[at].parse().unwrap(), words.contains(&"again")))
    };
    heard.iter().filter_map(of).collect()
}

fn numbers(heard: &[String]) -> Vec<usize> {
    handed_out(heard).into_iter().map(|(n, _)| n).collect()
}

/// Takes everything the queue has.
fn empty(w: &mut World, queue: &str) -> Vec<usize> {
    let c = w.connect("test");
    w.send(c, vec![consume_no_ack(queue, 1)]);
    let heard = numbers(&hear(w, c));
    w.drop_client(c);
    heard
}

#[test]
fn the_middle_of_a_long_queue_is_not_in_memory_before_and_after_a_restart() {
    let mut w = small(1);
    let c = w.connect("test");
    run(&mut w, c, [durable("d")]);
    fill(&mut w, c, "d", 0, 5_000);
    let counted = w.counters();
    assert_eq!(counted.messages_ready, 5_000);
    assert!(counted.messages_paged > 4_800, "{counted:?}");
    w.crash(Crash::Power);
    let c = w.connect("test");
    let counted = w.counters();
    assert_eq!(counted.messages_ready, 5_000);
    assert!(counted.messages_paged > 4_900, "{counted:?}");
    fill(&mut w, c, "d", 5_000, 5_100);
    w.set_audits(true);
    assert_counted(&empty(&mut w, "d"), 5_100);
}

#[test]
fn messages_purged_on_disk_do_not_return_and_unsettled_ones_do() {
    for crash in [Crash::Process, Crash::Power] {
        let mut w = small(2);
        let c = w.connect("test");
        run(&mut w, c, [durable("d")]);
        fill(&mut w, c, "d", 0, 2_000);
        let holder = w.connect("test");
        run(&mut w, holder, [consume_with("d", 1, |c| c.prefetch = Some(5))]);
        run(&mut w, holder, [ack(2)]);
        let purged = run(&mut w, c, [purge("d")]);
        assert_eq!(purged, ["purged 1994"]);
        fill(&mut w, c, "d", 2_000, 2_010);
        w.crash(crash);
        let mut left = vec![0, 2, 3, 4, 5];
        left.extend(2_000..2_010);
        assert_eq!(empty(&mut w, "d"), left);
    }
}

#[test]
fn deleting_a_queue_on_disk_frees_the_disk() {
    let mut w = small(3);
    let c = w.connect("test");
    run(&mut w, c, [durable("d"), durable("e")]);
    fill(&mut w, c, "d", 0, 5_000);
    fill(&mut w, c, "e", 0, 10);
    run(&mut w, c, [delete("d")]);
    for _ in 0..200 {
        w.advance(ms(500));
        w.catch_up();
    }
    let bytes: usize = w
        .disk()
        .paths()
        .iter()
        .map(|path| w.disk().read(path).unwrap().len())
        .sum();
    assert!(bytes < 512 << 10, "{bytes} bytes in {:?}", w.disk().paths());
    w.crash(Crash::Power);
    assert_counted(&empty(&mut w, "e"), 10);
}

#[test]
fn messages_of_purged_and_deleted_queues_are_dropped_in_steps() {
    let mut w = World::new(8);
    w.set_audits(false);
    let c = w.connect("test");
    run(&mut w, c, [transient("t"), transient("u")]);
    fill(&mut w, c, "t", 0, 5_000);
    fill(&mut w, c, "u", 0, 5_000);
    w.set_audits(true);
    w.send(c, vec![purge("t"), delete("u")]);
    assert_eq!(now(&mut w, c), ["purged 5000", "deleted 5000"]);
    let mut before = w.counters().memory_bytes;
    assert!(before > 0, "one hold does not drop them all");
    while before > 0 {
        w.advance(ms(1));
        let left = w.counters().memory_bytes;
        assert!(left < before);
        before = left;
    }
}

#[test]
fn a_limit_drops_the_oldest_messages_even_if_they_are_on_disk() {
    let mut w = small(4);
    let c = w.connect("test");
    run(&mut w, c, [with_arguments("d", &[("x-max-length", 1_500)])]);
    fill(&mut w, c, "d", 0, 4_000);
    assert_eq!(w.counters().messages_ready, 1_500);
    assert!(w.counters().messages_paged > 1_000);
    assert_eq!(empty(&mut w, "d"), (2_500..4_000).collect::<Vec<_>>());
    run(&mut w, c, [with_arguments("b", &[("x-max-length-bytes", 100_000)])]);
    fill(&mut w, c, "b", 0, 4_000);
    // "3000." and a hundred letters.
    let left = 100_000 / 105;
    assert_eq!(empty(&mut w, "b"), (4_000 - left..4_000).collect::<Vec<_>>());
}

#[test]
fn messages_that_expire_on_disk_are_dead_lettered_in_order() {
    let mut w = small(5);
    let c = w.connect("test");
    let dying = declare("d", |d| {
        use gatepost_core::properties::Value;
        d.arguments.push("x-message-ttl", Value::Int(60_000, 64));
        d.arguments.push("x-dead-letter-exchange", Value::Text(Box::default()));
        d.arguments
            .push("x-dead-letter-routing-key", Value::Text(Box::from(*b"dead")));
    });
    run(&mut w, c, [durable("dead"), dying]);
    for first in (0..2_000).step_by(50) {
        let some: Vec<Command> = (first..first + 50)
            .map(|n| {
                let envelope = Envelope {
                    durable: true,
                    received: w.now().wall,
                    ..Envelope::default()
                };
                let body = padded(&n.to_string(), 100);
                publish(
                    Default::default(),
                    Message::new(envelope, "", "d", &[], body.as_bytes()),
                )
            })
            .collect();
        run(&mut w, c, some);
    }
    w.crash(Crash::Process);
    assert_eq!((w.counters().messages_ready, w.counters().expired), (2_000, 0));
    for _ in 0..200 {
        w.advance(ms(1_000));
        w.catch_up();
    }
    assert_eq!(w.counters().dead_lettered_expired, 2_000);
    assert_counted(&empty(&mut w, "dead"), 2_000);
    assert!(empty(&mut w, "d").is_empty());
}

#[test]
fn each_priority_is_paged_on_its_own_and_delivered_in_order() {
    let mut w = small(6);
    let c = w.connect("test");
    run(&mut w, c, [with_arguments("q", &[("x-max-priority", 3)])]);
    for first in (0..3_000).step_by(50) {
        let some: Vec<Command> = (first..first + 50)
            .map(|n| {
                let envelope = Envelope {
                    durable: true,
                    priority: Some((n % 3) as u8),
                    // As in a message published by MQTT; a declared queue does not use it.
                    qos: 1,
                    ..Envelope::default()
                };
                let body = padded(&n.to_string(), 100);
                publish(
                    Default::default(),
                    Message::new(envelope, "", "q", &[], body.as_bytes()),
                )
            })
            .collect();
        run(&mut w, c, some);
    }
    assert!(w.counters().messages_paged > 2_500);
    let by_priority: Vec<usize> = [2, 1, 0]
        .into_iter()
        .flat_map(|p| (0..3_000).filter(move |n| n % 3 == p))
        .collect();
    let holder = w.connect("test");
    let heard = run(&mut w, holder, [consume_with("q", 1, |c| c.prefetch = Some(1_200))]);
    assert_eq!(numbers(&heard), by_priority[..1_200]);
    w.crash(Crash::Process);
    assert_eq!(empty(&mut w, "q"), by_priority);
}

#[test]
fn a_session_with_deliveries_in_flight_gets_them_first_and_each_once() {
    let mut w = small(7);
    let (c, p) = (w.connect("mqtt"), w.connect("mqtt"));
    run(&mut w, c, [kept("c"), subscribe(vec![filter("t", 1)])]);
    w.drop_client(c);
    run(&mut w, p, [clean("p")]);
    for first in (0..2_000).step_by(50) {
        let some: Vec<Command> = (first..first + 50)
            .map(|n| mqtt("t", &padded(&n.to_string(), 100), 1, (n + 1) as u16))
            .collect();
        run(&mut w, p, some);
    }
    assert!(w.counters().messages_paged > 1_500);
    let c = w.connect("mqtt");
    let reopen = || session("c", |s| s.receive_maximum = 20);
    let heard = run(&mut w, c, [reopen()]);
    assert_counted(&numbers(&heard), 20);
    w.crash(Crash::Process);
    let c = w.connect("mqtt");
    let (mut seen, mut heard) = (Vec::new(), run(&mut w, c, [reopen()]));
    while !numbers(&heard).is_empty() {
        seen.extend(numbers(&heard));
        let ids = heard
            .iter()
            .filter_map(|l| l.strip_prefix("publish q1 #")?.split(' ').next()?.parse().ok());
        let acks: Vec<Command> = ids.map(puback).collect();
        heard = run(&mut w, c, acks);
    }
    let distinct: BTreeSet<usize> = seen.iter().copied().collect();
    assert_eq!((seen.len(), distinct.len()), (2_000, 2_000));
    assert!(seen.is_sorted());
}

/// Random operations on one long queue, compared with a list of what must be in it.
#[test]
fn a_long_queue_agrees_with_a_list_under_random_operations() {
    for seed in 0..12 {
        let mut rng = Rng::new(seed);
        let mut w = small(seed);
        let mut c = w.connect("test");
        run(&mut w, c, [durable("d"), durable("sync")]);
        let mut waiting: VecDeque<usize> = VecDeque::new();
        // Delivery number, message.
        let mut held: Vec<(u64, usize)> = Vec::new();
        let mut back: BTreeSet<usize> = BTreeSet::new();
        let (mut next, mut deliveries) = (0, 0u64);
        for _ in 0..60 {
            match rng.below(10) {
                0..=3 => {
                    let more = rng.below(400) as usize;
                    fill(&mut w, c, "d", next, next + more);
                    waiting.extend(next..next + more);
                    next += more;
                }
                4..=6 => {
                    for _ in 0..rng.below(300) {
                        let heard = run(&mut w, c, [get("d")]);
                        let first = back.first().copied().filter(|b| waiting.front().is_none_or(|f| b < f));
                        let expected = match first {
                            Some(first) => back.take(&first),
                            None => waiting.pop_front(),
                        };
                        assert_eq!(numbers(&heard).first().copied(), expected, "seed {seed}");
                        if let Some(n) = expected {
                            deliveries += 1;
                            held.push((deliveries, n));
                        }
                    }
                }
                7 => {
                    let (now, later) = held.drain(..).partition::<Vec<_>, _>(|_| rng.chance(1, 2));
                    held = later;
                    for (number, n) in now {
                        let gone = rng.chance(1, 2);
                        run(&mut w, c, [if gone { ack(number) } else { requeue(number) }]);
                        if !gone {
                            back.insert(n);
                        }
                    }
                }
                8 if rng.chance(1, 4) => {
                    run(&mut w, c, [purge("d")]);
                    waiting.clear();
                    back.clear();
                }
                _ => {
                    // Settles are written when they are due, and synced with what is confirmed next.
                    w.advance(ms(400));
                    w.catch_up();
                    run(&mut w, c, [put("sync", "m"), purge("sync")]);
                    w.crash(if rng.chance(1, 2) { Crash::Process } else { Crash::Power });
                    c = w.connect("test");
                    back.extend(held.drain(..).map(|(_, n)| n));
                    deliveries = 0;
                }
            }
            assert_eq!(
                w.counters().messages_ready as usize,
                waiting.len() + back.len(),
                "seed {seed}"
            );
        }
        w.drop_client(c);
        w.set_audits(true);
        back.extend(held.drain(..).map(|(_, n)| n));
        back.extend(waiting);
        assert_eq!(empty(&mut w, "d"), back.into_iter().collect::<Vec<_>>(), "seed {seed}");
    }
}
