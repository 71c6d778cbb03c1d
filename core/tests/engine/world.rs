//! The world itself: a seed always gives the same history.

use crate::support::*;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{Step, World};

fn history(seed: u64) -> u64 {
    let mut w = World::new(seed);
    let a = w.connect("test");
    w.queue(a, [durable("d"), transient("t"), consume("d", 1), prefetch(3, true)]);
    w.queue(
        a,
        (0..40).map(|n| put(if n % 3 == 0 { "t" } else { "d" }, &n.to_string())),
    );
    let b = w.connect("test");
    w.queue(
        b,
        [
            kept("b"),
            subscribe(vec![filter("#", 1)]),
            mqtt("a/b", "m", 1, 0),
            mqtt("a/c", "n", 2, 7),
        ],
    );
    for n in 0..400 {
        if let Step::Took(client, events) = w.step() {
            let acks = events.iter().filter_map(|e| match e {
                gatepost_core::event::Event::Deliver(d) if d.consumer == 1 => Some(ack(d.number)),
                _ => None,
            });
            w.queue(client, acks.collect::<Vec<_>>());
        }
        if n == 300 {
            w.crash(Crash::Power);
            let c = w.connect("test");
            w.queue(c, [consume("d", 1)]);
        }
    }
    w.trace()
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_another() {
    let first = history(42);
    assert_eq!(history(42), first);
    assert_ne!(history(43), first);
}
