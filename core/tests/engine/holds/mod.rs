//! Operations that take more than one hold of the engine's lock: they continue where they stopped, and other commands
//! come in between.

use crate::support::*;
use gatepost_core::command::Command;
use gatepost_core::testing::world::{Client, World};

mod channels;
mod dead_letters;
mod deletions;
mod limits;
mod policies;
mod publishing;
mod rounds;
mod sessions;
mod sizes;
mod transactions;
mod wills;

/// Enough for several holds of each operation.
const MANY: usize = 5_000;

/// Applies commands in as many holds as needed. Returns their number.
fn holds(w: &mut World, c: Client, mut commands: Vec<Command>) -> usize {
    let mut holds = 1;
    while w.hold(c, &mut commands) {
        holds += 1;
    }
    holds
}

/// The body of a redelivery.
fn redelivered(line: &str) -> Option<usize> {
    line.strip_prefix("deliver c2 ")?
        .strip_suffix(" again")?
        .split(' ')
        .nth(1)?
        .parse()
        .ok()
}

/// Binds `queue` by `count` keys. A fanout exchange ignores keys.
fn bind_often(w: &mut World, c: Client, source: &str, queue: &str, count: usize) {
    for part in 0..count.div_ceil(500) {
        let keys = part * 500..count.min((part + 1) * 500);
        let binds: Vec<_> = keys.map(|n| bind(source, queue, &format!("k{n}"))).collect();
        run(w, c, binds);
    }
}

fn fan(key: &str, body: &str) -> Command {
    let flags = gatepost_core::command::PublishFlags::CONFIRM;
    publish(flags, message("fan", key, body, false))
}

/// Holds of a few units: an operation on a thousand bindings takes several.
fn small_holds() -> World {
    let settings = gatepost_core::testing::world::Settings {
        hold_units_max: 8,
        ..Default::default()
    };
    let mut w = World::with(1, settings, Default::default());
    w.set_audits(false);
    w
}

/// How far the longest hold may exceed the limit, in work units, in tests with default settings.
const LONGEST_UNITS: u64 = 4 * 1024;

/// The numbers in the delivered bodies.
fn delivered(heard: &[String]) -> Vec<usize> {
    let bodies = heard.iter().filter(|line| line.starts_with("deliver"));
    let mut numbers: Vec<usize> = bodies
        .map(|line| line.split(' ').nth(3).expect("a body").parse().expect("a number"))
        .collect();
    numbers.sort_unstable();
    numbers
}

/// All filters with this many levels that are `a` or `+`: each matches `a/a/…`.
fn combinations(levels: usize) -> Vec<gatepost_core::command::Subscription> {
    let filters = (0..1_usize << levels).map(|bits| {
        let words: Vec<_> = (0..levels)
            .map(|level| if bits >> level & 1 == 1 { "+" } else { "a" })
            .collect();
        filter(&words.join("/"), 1)
    });
    filters.collect()
}
