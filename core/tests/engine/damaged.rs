//! One flipped bit in one small record takes nothing with it but that record.

use crate::support::*;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::World;

/// Flips a bit in the last record of the newest segment that has this text, which is the only record that does.
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

/// The story: one flipped bit in a queue's definition dropped the queue and its 20,000 messages.
#[test]
fn a_queue_whose_definition_is_damaged_lives_on_under_the_name_that_its_binding_has() {
    let mut w = filled();
    flip(&w, "x-max-length");
    w.crash(Crash::Process);
    has_all(&mut w, "orders");
    // And it stays, with its binding, without another repair.
    let c = w.connect("test");
    let sent = publish(
        gatepost_core::command::PublishFlags::CONFIRM,
        message("plant", "new", "more", true),
    );
    run(&mut w, c, [sent]);
    w.stop_and_start();
    let c = w.connect("test");
    assert_eq!(w.counters().queues, 1);
    // The others came back when their consumer went.
    let heard = run(&mut w, c, [consume("orders", 1)]);
    assert_eq!(heard.len(), 22, "{heard:?}");
    assert!(heard[21].contains(" more"), "{heard:?}");
}

#[test]
fn a_queue_that_nothing_names_lives_on_under_its_number() {
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
fn a_definition_that_a_checkpoint_has_comes_back_as_it_was() {
    let mut w = filled();
    w.stop_and_start();
    flip(&w, "x-max-length");
    w.crash(Crash::Process);
    has_all(&mut w, "orders");
    // It is the old definition: another one is refused.
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

/// What a power cut tears off was told to nobody, and is no damage.
#[test]
fn what_was_deleted_or_never_synced_is_not_taken_for_damaged() {
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
