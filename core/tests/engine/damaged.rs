//! One flipped bit in one small record affects only that record.

use crate::support::*;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::World;

/// Flips a bit in the last record of the newest segment with this text, which is the only record that has it.
fn flip(w: &World, text: &str) {
    let disk = w.disk();
    let mut segments: Vec<String> = disk.paths().into_iter().filter(|path| path.ends_with(".seg")).collect();
    segments.reverse();
    let place = |path: &String| {
        let bytes = disk.read(path)?;
        bytes.windows(text.len()).position(|part| part == text.as_bytes())
    };
    let (path, at) = segments
        .iter()
        .find_map(|path| Some((path, place(path)?)))
        .unwrap_or_else(|| panic!("no record has '{text}'"));
    disk.damage(path, |bytes| bytes[at] ^= 1);
}

/// A world with an exchange, a queue, a binding between them and twenty messages.
fn filled() -> World {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [
            exchange("plant", "direct"),
            with_arguments("orders", &[("x-max-length", 1000)]),
            bind("plant", "orders", "new"),
        ],
    );
    for n in 0..20 {
        run(&mut w, c, [put("orders", &n.to_string())]);
    }
    w
}

fn has_all(w: &mut World, queue: &str) {
    let c = w.connect("test");
    for n in 0..20 {
        let heard = run(w, c, [get(queue)]);
        let number = format!("got #{} {n} ", n + 1);
        assert!(heard[0].starts_with(&number), "{heard:?}, not {number}");
    }
}

/// One flipped bit in a queue's definition dropped the queue and its 20,000 messages.
#[test]
fn a_queue_with_a_damaged_definition_gets_the_name_in_its_binding() {
    let mut w = filled();
    flip(&w, "x-max-length");
    w.crash(Crash::Process);
    has_all(&mut w, "orders");
    // It stays, with its binding, without another repair.
    let c = w.connect("test");
    let sent = publish(
        gatepost_core::command::PublishFlags::CONFIRM,
        message("plant", "new", "more", true),
    );
    run(&mut w, c, [sent]);
    w.stop_and_start();
    let c = w.connect("test");
    assert_eq!(w.counters().queues, 1);
    // The others returned when their consumer left.
    let heard = run(&mut w, c, [consume("orders", 1)]);
    assert_eq!(heard.len(), 22, "{heard:?}");
    assert!(heard[21].contains(" more"), "{heard:?}");
}

#[test]
fn a_queue_that_no_record_names_is_kept_under_its_number() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [durable("orders")]);
    for n in 0..20 {
        run(&mut w, c, [put("orders", &n.to_string())]);
    }
    flip(&w, "orders");
    w.crash(Crash::Process);
    has_all(&mut w, "damaged-queue-1");
}

#[test]
fn a_definition_in_the_checkpoint_is_restored() {
    let mut w = filled();
    w.stop_and_start();
    flip(&w, "x-max-length");
    w.crash(Crash::Process);
    has_all(&mut w, "orders");
    // It is the old definition: a different one is refused.
    let c = w.connect("test");
    let heard = run(&mut w, c, [with_arguments("orders", &[("x-max-length", 1000)])]);
    assert!(heard[0].starts_with("declared orders"), "{heard:?}");
}

#[test]
fn an_exchange_whose_definition_is_damaged_keeps_its_bindings() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [exchange("plant", "direct")]);
    flip(&w, "direct");
    run(&mut w, c, [durable("orders"), bind("plant", "orders", "new")]);
    w.crash(Crash::Process);
    let c = w.connect("test");
    let sent = publish(
        gatepost_core::command::PublishFlags::CONFIRM,
        message("plant", "new", "one", true),
    );
    run(&mut w, c, [sent]);
    assert_eq!(run(&mut w, c, [get("orders")]), ["got #1 one left 0"]);
}

/// What a power cut tears off was never confirmed, and is no damage.
#[test]
fn deleted_or_unsynced_objects_do_not_count_as_damaged() {
    for seed in 0..40 {
        let mut w = World::new(seed);
        let c = w.connect("test");
        run(&mut w, c, [durable("kept"), put("kept", "1")]);
        for _ in 0..3 {
            run(
                &mut w,
                c,
                [durable("gone"), bind("amq.direct", "gone", "k"), put("gone", "1")],
            );
            w.send(c, vec![delete("gone")]);
            if seed % 2 == 0 {
                w.catch_up();
            }
        }
        // Staged together, written together, torn anywhere.
        w.send(
            c,
            vec![durable("torn"), bind("amq.direct", "torn", "k"), put("torn", "1")],
        );
        w.crash(if seed % 4 < 2 { Crash::Power } else { Crash::Process });
        let c = w.connect("test");
        let declared = run(&mut w, c, [durable("kept")]);
        assert_eq!(declared, ["declared kept 1/0"], "seed {seed}");
        assert_eq!(w.damaged_definitions(), 0, "seed {seed}");
    }
}

/// A client that is away, with a subscription.
fn away() -> World {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [kept("boiler"), subscribe(vec![filter("plant/+", 1)])]);
    w.drop_client(c);
    w.catch_up();
    w
}

/// Publishes, and checks the confirm.
fn publish_to_plant(w: &mut World, body: &str) {
    let c = w.connect("test");
    assert_eq!(run(w, c, [mqtt("plant/1", body, 1, 0)]), ["confirmed 1"]);
    w.drop_client(c);
}

/// The client reconnects to its session, and gets the waiting messages and, after another restart, later ones.
fn has_its_session(w: &mut World, waiting: &[&str]) {
    let back = |w: &mut World| {
        let c = w.connect("test");
        let heard = run(w, c, [kept("boiler")]);
        assert_eq!(heard[0], "open present");
        (c, heard)
    };
    let (c, heard) = back(w);
    let bodies: Vec<&str> = heard[1..].iter().filter_map(|line| line.split(' ').nth(4)).collect();
    assert_eq!(bodies, waiting, "{heard:?}");
    let got = run(w, c, (1..=waiting.len() as u16).map(puback).collect::<Vec<_>>());
    assert_eq!(got, [""; 0]);
    w.drop_client(c);
    w.stop_and_start();
    publish_to_plant(w, "more");
    let (_, heard) = back(w);
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(heard[1].contains("plant/1 more"), "{heard:?}");
}

/// The beginnings of the keys of the session and of its subscription, and text that only the record of its queue has.
const SESSION: &str = "\0\0\x01\x40boiler";
const SUBSCRIPTION: &str = "\0\0\x01\x41boiler";
const QUEUE: &str = "mqtt-subscription-boiler";

/// Flips a bit in every record with this text, in all files.
fn flip_all(w: &World, text: &str) {
    let disk = w.disk();
    let mut flipped = 0;
    for path in disk.paths().into_iter().filter(|path| path.ends_with(".seg")) {
        disk.damage(&path, |bytes| {
            let places = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(text.as_bytes()));
            for at in places.collect::<Vec<_>>() {
                bytes[at + text.len() - 1] ^= 1;
                flipped += 1;
            }
        });
    }
    assert!(flipped > 0, "no record has '{text}'");
}

/// One flipped bit in the definition of a session's queue: the session was there, but its message was in a queue
/// without an owner, because only the queue's record said whose it was.
#[test]
fn the_queue_of_a_session_is_known_by_its_session_and_subscriptions() {
    // Known by the subscription alone, and also by the session's record after the client was away.
    for leaves_first in [false, true] {
        let mut w = World::new(1);
        let c = w.connect("test");
        run(&mut w, c, [kept("boiler"), subscribe(vec![filter("plant/+", 1)])]);
        if leaves_first {
            w.drop_client(c);
            w.catch_up();
        }
        flip(&w, "mqtt-subscription-boiler");
        publish_to_plant(&mut w, "hello");
        w.crash(Crash::Process);
        assert_eq!(w.damaged_definitions(), 1);
        has_its_session(&mut w, &["hello"]);
        assert_eq!(w.counters().queues, 1);
        assert_eq!(w.damaged_definitions(), 0);
    }
}

#[test]
fn the_queue_of_a_group_is_known_by_its_members() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [kept("boiler"), subscribe(vec![shared("crew", "plant/+", 1)])],
    );
    w.drop_client(c);
    let queues = w.counters().queues;
    flip(&w, "mqtt-share-crew/plant/+");
    publish_to_plant(&mut w, "hello");
    w.crash(Crash::Process);
    assert_eq!((w.damaged_definitions(), w.counters().queues), (1, queues));
    has_its_session(&mut w, &["hello"]);
    assert_eq!(w.counters().queues, queues);
}

#[test]
fn a_session_with_a_damaged_record_is_restored_from_its_queue_or_subscriptions() {
    for harmed in [&[SESSION][..], &[SESSION, QUEUE]] {
        for covered in [false, true] {
            let mut w = away();
            if covered {
                // A checkpoint has the keys, but not the values.
                w.stop_and_start();
            }
            harmed.iter().for_each(|text| flip_all(&w, text));
            publish_to_plant(&mut w, "hello");
            w.crash(Crash::Process);
            assert!(w.damaged_definitions() >= 1, "{harmed:?}, covered {covered}");
            has_its_session(&mut w, &["hello"]);
            assert_eq!(w.damaged_definitions(), 0, "{harmed:?}, covered {covered}");
        }
    }
}

/// The session was logged when it was opened and when its client left; one of the two copies is enough.
#[test]
fn a_session_is_restored_from_another_copy_of_its_record() {
    let mut w = away();
    let text = SESSION.as_bytes();
    let segments = w.disk().paths().into_iter().filter(|path| path.ends_with(".seg"));
    let mut places = 0;
    for path in segments.collect::<Vec<_>>() {
        w.disk().damage(&path, |bytes| {
            let found: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(text)).collect();
            places += found.len();
            if let Some(last) = found.last() {
                bytes[last + text.len() - 1] ^= 1;
            }
        });
    }
    assert_eq!(places, 2);
    publish_to_plant(&mut w, "hello");
    w.crash(Crash::Process);
    assert_eq!(w.damaged_definitions(), 0);
    has_its_session(&mut w, &["hello"]);
}

#[test]
fn a_damaged_subscription_affects_nothing_else() {
    for covered in [false, true] {
        let mut w = away();
        let c = w.connect("test");
        run(&mut w, c, [kept("boiler"), subscribe(vec![filter("other/+", 1)])]);
        w.drop_client(c);
        w.catch_up();
        publish_to_plant(&mut w, "hello");
        if covered {
            w.stop_and_start();
        }
        flip_all(&w, &format!("{SUBSCRIPTION}\0other"));
        w.crash(Crash::Process);
        has_its_session(&mut w, &["hello"]);
    }
}
