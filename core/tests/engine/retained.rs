//! Retained messages are evicted to the log, and read back when a subscriber needs them.

use crate::support::*;
use gatepost_core::command::{Bind, BindTarget, Command};
use gatepost_core::properties::{Table, Value};
use gatepost_core::store::StoreSettings;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{Client, ROOM, Settings, World};

const KIB: usize = 1 << 10;

/// A world with room for few bodies.
fn with_cache(cache: usize) -> World {
    let settings = Settings {
        cache_bytes_max: cache,
        ..Settings::default()
    };
    let store = StoreSettings {
        segment_bytes: 64 << 10,
        ..StoreSettings::default()
    };
    World::with(1, settings, store)
}

fn topic(n: usize) -> String {
    format!("t/{n:04}")
}

/// Publishes retained messages of a KiB each.
fn fill(w: &mut World, topics: usize) {
    let c = w.connect("mqtt");
    run(w, c, [clean("p")]);
    for n in 0..topics {
        run(w, c, [retain(&topic(n), &padded(&n.to_string(), KIB))]);
    }
    w.drop_client(c);
    w.catch_up();
}

/// The numbers of the retained messages among these events, checked against their topics.
fn numbers(heard: &[String]) -> Vec<usize> {
    let retained = heard.iter().filter(|line| line.ends_with(" retain"));
    retained
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let n = words[4].parse().expect("a number");
            assert_eq!(words[3], topic(n), "{line}");
            n
        })
        .collect()
}

/// A subscriber that settles its deliveries. Returns the numbers, in order.
fn subscribe_to(w: &mut World, filter_text: &str, qos: u8) -> Vec<usize> {
    let c = w.connect("mqtt");
    let mut heard = run(w, c, [clean("s"), subscribe(vec![filter(filter_text, qos)])]);
    let mut found = Vec::new();
    while !heard.is_empty() {
        found.extend(numbers(&heard));
        let ids = heard.iter().filter_map(|line| line.strip_prefix("publish q1 #"));
        let acks: Vec<Command> = ids
            .map(|rest| puback(rest.split(' ').next().and_then(|id| id.parse().ok()).expect("an id")))
            .collect();
        heard = run(w, c, acks);
    }
    w.drop_client(c);
    found
}

fn bytes_in_memory(w: &World) -> usize {
    w.counters().memory_bytes as usize
}

/// 100,000 retained messages of 1 KiB stayed in memory for ever: 100 MB.
#[test]
fn bodies_are_evicted_and_every_subscriber_gets_them_in_order() {
    let mut w = with_cache(64 * KIB);
    fill(&mut w, 500);
    assert!(bytes_in_memory(&w) <= 64 * KIB, "{} bytes", bytes_in_memory(&w));
    assert!(w.counters().bodies_evicted > 400);
    for restart in 0..4 {
        match restart {
            0 => {}
            1 => w.stop_and_start(),
            2 => w.crash(Crash::Process),
            _ => w.crash(Crash::Power),
        }
        assert_eq!(w.counters().retained, 501, "with the version");
        for qos in [0, 1] {
            assert_counted(&subscribe_to(&mut w, "t/#", qos), 500);
            assert!(bytes_in_memory(&w) <= 64 * KIB, "{} bytes", bytes_in_memory(&w));
        }
        assert_eq!(subscribe_to(&mut w, "t/0007", 1), [7]);
    }
}

/// If there is room for none, they are read one after the other.
#[test]
fn a_replay_works_without_a_cache() {
    for cache in [0, 1, 3 * KIB] {
        let mut w = with_cache(cache);
        fill(&mut w, 60);
        assert!(bytes_in_memory(&w) <= 3 * KIB, "{} bytes", bytes_in_memory(&w));
        for qos in [0, 1] {
            assert_counted(&subscribe_to(&mut w, "#", qos), 60);
        }
    }
}

/// A start with little memory must not fill it with messages that nobody has asked for.
#[test]
fn a_start_keeps_as_many_in_memory_as_fit() {
    let mut w = with_cache(64 * KIB);
    fill(&mut w, 100);
    w.stop_and_start();
    let kept = bytes_in_memory(&w);
    assert!((16 * KIB..=32 * KIB).contains(&kept), "{kept} bytes");
    let read = w.counters().bodies_loaded;
    assert_eq!(subscribe_to(&mut w, "t/0000", 0), [0]);
    assert_eq!(w.counters().bodies_loaded, read, "it was in memory");
}

/// A hundred clients that reconnect after a restart need the same messages: each is read once.
#[test]
fn a_message_that_many_wait_for_is_read_once() {
    let mut w = with_cache(256 * KIB);
    fill(&mut w, 300);
    w.stop_and_start();
    let clients: Vec<Client> = (0..100).map(|_| w.connect("mqtt")).collect();
    for (n, c) in clients.iter().enumerate() {
        w.send(*c, vec![clean(&format!("s{n}")), subscribe(vec![filter("t/0299", 0)])]);
        w.take(*c, ROOM);
    }
    w.fetch();
    for c in clients {
        assert_eq!(numbers(&hear(&mut w, c)), [299]);
    }
    assert_eq!(w.counters().bodies_loaded, 1);
}

/// A subscriber whose replay waits for the reader.
fn waiting(w: &mut World, filter_text: &str) -> Client {
    let c = w.connect("mqtt");
    run(w, c, [clean(&format!("waits-{}", c.0))]);
    w.send(c, vec![subscribe(vec![filter(filter_text, 1)])]);
    let heard = now(w, c);
    assert!(numbers(&heard).is_empty(), "{heard:?}");
    c
}

/// A change made while a message is being read counts, whenever the read began: no outdated message is sent, and none
/// twice.
#[test]
fn a_message_that_is_replaced_or_cleared_while_it_is_read_is_not_sent() {
    // The change is written before the read, between the read and its answer, or after both.
    for when in 0..3 {
        for body in ["new", ""] {
            let mut w = with_cache(4 * KIB);
            fill(&mut w, 20);
            let p = w.connect("mqtt");
            run(&mut w, p, [clean("p")]);
            let c = waiting(&mut w, "t/0003");
            if when == 1 {
                w.fetch();
            }
            w.send(p, vec![retain("t/0003", body)]);
            if when < 2 {
                w.commit();
                w.report();
            }
            w.fetch();
            w.bring();
            let heard = hear(&mut w, c);
            let live = format!("publish q1 #1 t/0003 {body}");
            let expected = match body {
                "" => vec![live],
                _ => vec![live.clone(), "publish q1 #2 t/0003 new retain".to_owned()],
            };
            assert_eq!(heard, expected, "when {when}");
        }
    }
}

/// The message is replaced, written and evicted again. The answer to the earlier read has the older message, and is
/// ignored.
#[test]
fn an_answer_for_a_replaced_message_is_ignored_and_the_new_one_requested() {
    let mut w = with_cache(4 * KIB);
    fill(&mut w, 20);
    let p = w.connect("mqtt");
    run(&mut w, p, [clean("p")]);
    let c = waiting(&mut w, "t/0003");
    w.fetch();
    w.send(p, vec![retain("t/0003", &padded("new", KIB))]);
    for n in 0..20 {
        w.send(p, vec![retain(&format!("u/{n}"), &padded("other", KIB))]);
        w.commit();
        w.report();
    }
    let heard = hear(&mut w, c);
    assert_eq!(heard, ["publish q1 #1 t/0003 new", "publish q1 #2 t/0003 new retain"]);
}

/// A client that unsubscribes or disconnects during a read leaves nothing, and others get their messages.
#[test]
fn a_replay_may_end_while_its_messages_are_read() {
    let mut w = with_cache(4 * KIB);
    fill(&mut w, 40);
    let c = waiting(&mut w, "t/#");
    let gone = waiting(&mut w, "t/#");
    let stays = waiting(&mut w, "t/#");
    w.drop_client(gone);
    let heard = run(&mut w, c, [unsubscribe("t/#", None)]);
    assert_eq!(heard.last().map(String::as_str), Some("unsuback 2 [true]"));
    // It may subscribe to others at once.
    let heard = run(&mut w, c, [subscribe(vec![filter("t/0001", 0)])]);
    assert_eq!(numbers(&heard), [1], "{heard:?}");
    assert_counted(&numbers(&hear(&mut w, stays)), 40);
    for c in [c, stays] {
        w.drop_client(c);
    }
    w.catch_up();
    w.assert_idle();
}

/// A client that takes nothing delays only itself.
#[test]
fn a_client_that_takes_nothing_does_not_delay_others() {
    let mut w = with_cache(4 * KIB);
    fill(&mut w, 40);
    let stalled: Vec<Client> = (0..10).map(|_| waiting(&mut w, "t/#")).collect();
    for c in &stalled {
        w.take(*c, gatepost_core::testing::world::NO_ROOM);
    }
    w.catch_up();
    assert_counted(&subscribe_to(&mut w, "t/#", 0), 40);
    for c in stalled {
        assert_counted(&numbers(&hear(&mut w, c)), 40);
    }
}

/// A damaged record affects nothing else, and its message does not come back.
#[test]
fn a_damaged_record_only_loses_the_message_of_its_topic() {
    let mut w = with_cache(4 * KIB);
    fill(&mut w, 60);
    let disk = w.disk().clone();
    let text = format!("t/0031{}", padded("31", KIB));
    let mut hit = 0;
    for path in disk.paths() {
        disk.damage(&path, |bytes| {
            if let Some(at) = bytes.windows(text.len()).position(|part| part == text.as_bytes()) {
                bytes[at + text.len() - 1] ^= 1;
                hit += 1;
            }
        });
    }
    assert_eq!(hit, 1);
    let all_but_one: Vec<usize> = (0..60).filter(|n| *n != 31).collect();
    for restart in [false, true] {
        if restart {
            w.stop_and_start();
        }
        assert_eq!(subscribe_to(&mut w, "t/#", 1), all_but_one);
        assert_eq!(w.counters().retained, 60, "59 and the version");
    }
    let p = w.connect("mqtt");
    run(&mut w, p, [clean("p"), retain("t/0031", &padded("31", KIB))]);
    assert_counted(&subscribe_to(&mut w, "t/#", 1), 60);
}

#[test]
fn a_bind_that_replays_waits_for_reads_and_keeps_its_order() {
    for cache in [0, 8 * KIB] {
        let mut w = with_cache(cache);
        fill(&mut w, 80);
        let c = w.connect("test");
        let mut arguments = Table::default();
        arguments.push("x-retained", Value::Bool(true));
        let bind = Command::Bind(Box::new(Bind {
            channel: CH,
            source: "amq.topic".into(),
            target: BindTarget::Queue("q".into()),
            key: "t.*".into(),
            arguments,
            reply: true,
        }));
        w.send(c, vec![durable("q"), bind, echo(1)]);
        assert!(w.waits(c), "for the first message");
        let heard = hear(&mut w, c);
        assert_eq!(heard[1..], ["done Bind", "echo 1"], "{heard:?}");
        let heard = run(&mut w, c, [consume_no_ack("q", 1)]);
        let bodies: Vec<usize> = heard
            .iter()
            .filter_map(|line| line.strip_prefix("deliver c1 #"))
            .map(|line| {
                line.split(' ')
                    .nth(1)
                    .and_then(|body| body.parse().ok())
                    .expect("a number")
            })
            .collect();
        assert_counted(&bodies, 80);
        // Its queue is deleted while another one waits.
        w.drop_client(c);
        let (a, b) = (w.connect("test"), w.connect("test"));
        let mut arguments = Table::default();
        arguments.push("x-retained", Value::Bool(true));
        let bind = Command::Bind(Box::new(Bind {
            channel: CH,
            source: "amq.topic".into(),
            target: BindTarget::Queue("r".into()),
            key: "t.#".into(),
            arguments,
            reply: true,
        }));
        w.send(a, vec![durable("r"), bind, echo(2)]);
        run(&mut w, b, [delete("r")]);
        let heard = hear(&mut w, a);
        assert_eq!(heard.last().map(String::as_str), Some("echo 2"), "{heard:?}");
    }
}

/// A topic that expires while it is not in memory is dropped like any other.
#[test]
fn an_evicted_message_that_expires_is_neither_read_nor_sent() {
    let mut w = with_cache(4 * KIB);
    fill(&mut w, 20);
    let p = w.connect("mqtt");
    let deadline = w.now().wall + ms(5_000);
    let expiring = topic_message("t/0005", &padded("5", KIB), |e| {
        e.retain = true;
        e.deadline = Some(deadline);
    });
    run(&mut w, p, [clean("p"), mqtt_message(expiring, 0)]);
    fill(&mut w, 5);
    assert_counted(&subscribe_to(&mut w, "t/#", 0), 20);
    w.stop_and_start();
    assert_counted(&subscribe_to(&mut w, "t/#", 0), 20);
    w.advance(ms(6_000));
    w.catch_up();
    let left: Vec<usize> = (0..20).filter(|n| *n != 5).collect();
    assert_eq!(subscribe_to(&mut w, "t/#", 0), left);
    assert_eq!(w.counters().retained, 20, "with the version");
}
