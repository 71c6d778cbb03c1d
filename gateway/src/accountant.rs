//! Divides `memory.budget` among its uses and among vhosts.
//!
//! ```text
//!   budget ─┬─ unsettled   deliveries that consumers have not settled   (memory.unsettled)
//!           ├─ input       incomplete packets                          (memory.input)
//!           ├─ hashing     checks of passwords                         (auth.hashing_memory)
//!           ├─ outside     users of tokens and of the HTTP back end    (auth.outside_memory)
//!           ├─ objects     queues, sessions and the like, which cannot leave memory (memory.objects, at most)
//!           └─ messages    the rest, and what objects and the flow map do not use
//! ```
//!
//! The pools belong to the node. Each engine has a share of each pool: what it uses, and an equal part of what is free. So a
//! vhost without traffic takes little from a busy one. Engines report their use at the end of each hold and get new shares here;
//! no engine waits for another.

use crate::config::{Budget, Config, Size};
use crate::machine;
use crate::node::Node;
use gatepost_core::engine::{Share, Usage};
use gatepost_core::keys::{Value, Values};
use std::sync::Arc;
use std::time::Duration;

/// Parts of the node's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pools {
    /// Messages in memory, and objects. The more objects there are, the less room is left for messages.
    pub messages_and_objects: usize,
    /// Maximum for objects.
    pub objects: usize,
    /// Unsettled deliveries.
    pub unsettled: usize,
    /// Incomplete packets.
    pub input: usize,
    /// Users of tokens and of the HTTP back end.
    pub outside: usize,
    /// Bodies in memory. Over this, bodies that are in the log are dropped from memory.
    pub cache: usize,
}

impl Pools {
    /// The pools that the configuration states.
    pub(crate) fn of(config: &Config) -> Pools {
        let memory = &config.memory;
        let budget = machine::memory_budget(memory.budget);
        let part = |part: Budget, least: u64| {
            match part {
                Budget::Fixed(Size(bytes)) => bytes,
                Budget::Share(share) => (budget as f64 * share) as u64,
            }
            .max(least)
        };
        let (objects, unsettled, input) = (
            part(memory.objects, OBJECTS_LEAST),
            part(memory.unsettled, 0),
            part(memory.input, INPUT_LEAST),
        );
        let brings_users = |name: &String| matches!(name.as_str(), "jwt" | "http");
        let outside = match config.auth.backends.iter().any(brings_users) {
            true => config.auth.outside_memory.0,
            false => 0,
        };
        let rest = budget
            .saturating_sub(unsettled)
            .saturating_sub(part(memory.input, 0))
            .saturating_sub(config.auth.hashing_memory.0)
            .saturating_sub(outside);
        let rest = rest.max(budget / LEAST_PART);
        Pools {
            messages_and_objects: bytes(rest),
            objects: bytes(objects),
            unsettled: bytes(unsettled),
            input: bytes(input),
            outside: bytes(outside),
            cache: config.store.cache.bytes().min(bytes(rest / 4 * 3)),
        }
    }

    /// The pools if something that belongs to no engine takes this many bytes of the messages' part.
    fn beside(self, bytes: usize) -> Pools {
        let rest = self.messages_and_objects.saturating_sub(bytes);
        Pools {
            messages_and_objects: rest.max(self.messages_and_objects / LEAST_PART as usize),
            ..self
        }
    }

    /// Computes the engines' shares from their use.
    pub(crate) fn shares(&self, usage: &[Usage]) -> Vec<Share> {
        let total = |of: fn(&Usage) -> usize| usage.iter().map(of).fold(0, usize::saturating_add);
        let objects_used = total(|u| u.objects);
        let messages = self.messages_and_objects.saturating_sub(objects_used);
        let messages = messages.max(self.messages_and_objects / LEAST_PART as usize);
        let (messages_used, unsettled_used) = (total(|u| u.messages), total(|u| u.unsettled));
        let share = |used, total| move |pool| share(pool, used, total, usage.len());
        let shares = usage.iter().map(|u| {
            let of_messages = share(u.messages, messages_used);
            Share {
                cache_bytes_max: of_messages(self.cache.min(messages / 4 * 3)),
                memory_bytes_max: of_messages(messages),
                unsettled_bytes_max: share(u.unsettled, unsettled_used)(self.unsettled),
                objects_bytes_max: share(u.objects, objects_used)(self.objects),
            }
        });
        shares.collect()
    }
}

/// The share of one of `count` engines in a pool: its use and an equal part of what is free. If nothing is free, the pool is
/// divided in proportion to use. In any case an engine gets enough to begin.
fn share(pool: usize, used: usize, total: usize, count: usize) -> usize {
    let count = count.max(1);
    let share = match pool.checked_sub(total) {
        Some(free) => used + free / count,
        None => (used as u128 * pool as u128 / total.max(1) as u128) as usize,
    };
    share.max(pool / count / FLOOR_PART)
}

/// `limits.max_message_size`, but not more than a message may take of the memory. A large message is in memory several times for
/// a moment: as a packet, as a message, on its way to the log, and for whoever reads it.
pub(crate) fn message_bytes_max(config: &Config) -> u64 {
    let budget = machine::memory_budget(config.memory.budget);
    let most = (budget / MESSAGE_PART).max(MESSAGE_BYTES_LEAST);
    config.limits.max_message_size.0.min(most)
}

/// The values from which protocols read their settings.
pub(crate) fn values_within_memory(config: &Config) -> Values {
    let mut values = config.values.clone();
    values.insert("limits.max_message_size", Value::Size(message_bytes_max(config)));
    values
}

/// Gives the engines new shares every second, and when an engine has used half of the free part of its share. Also
/// frees deleted vhosts. Never returns.
/// vhosts. Never returns.
pub(crate) async fn run(node: &Node) {
    let mut config = node.config();
    let mut pools = Pools::of(&config);
    loop {
        // `Pools::of` reads the machine's memory, so it runs only after a change of the configuration.
        let current = node.config();
        if !Arc::ptr_eq(&config, &current) {
            config = current;
            pools = Pools::of(&config);
        }
        settle(node, &pools);
        let unused = node.vhosts.take_unused();
        if !unused.is_empty() {
            drop(tokio::task::spawn_blocking(move || drop(unused)));
        }
        let _ = tokio::time::timeout(EVERY, node.short_of_memory.notified()).await;
    }
}

fn settle(node: &Node, pools: &Pools) {
    let pools = pools.beside(node.flow.bytes());
    let vhosts = node.vhosts.list();
    let usage: Vec<Usage> = vhosts.iter().map(|vhost| vhost.usage()).collect();
    for ((vhost, usage), share) in vhosts.iter().zip(&usage).zip(pools.shares(&usage)) {
        vhost.set_share(share, *usage);
    }
}

/// The use above which an engine asks for a new share: half of the free part of its share.
pub(crate) fn ask_above(share: &Share, usage: &Usage) -> Usage {
    let half = |used: usize, max: usize| used + max.saturating_sub(used) / 2;
    Usage {
        messages: half(usage.messages, share.memory_bytes_max),
        unsettled: half(usage.unsettled, share.unsettled_bytes_max),
        objects: half(usage.objects, share.objects_bytes_max),
    }
}

fn bytes(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

const EVERY: Duration = Duration::from_secs(1);
/// A message may have the budget divided by this...
const MESSAGE_PART: u64 = 4;
/// ...and this much, however small the budget is.
const MESSAGE_BYTES_LEAST: u64 = 1 << 20;
/// Messages get at least the budget divided by this, even if the configuration gives too much to the other pools.
const LEAST_PART: u64 = 10;
/// An engine gets at least an equal division's part divided by this.
const FLOOR_PART: usize = 8;
/// Minimum bytes to work with, whatever the budget.
const OBJECTS_LEAST: u64 = 1 << 20;
const INPUT_LEAST: u64 = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const POOLS: Pools = Pools {
        messages_and_objects: 700,
        objects: 250,
        unsettled: 200,
        input: 100,
        outside: 0,
        cache: 160,
    };

    fn usage(messages: usize, objects: usize) -> Usage {
        Usage {
            messages,
            objects,
            unsettled: 0,
        }
    }

    /// With a budget of 25 MiB, a few messages of 15 MiB took 140.
    #[test]
    fn a_message_takes_a_part_of_the_memory() {
        let mut config = Config::default();
        for (budget, expected) in [(25, 25 << 18), (64, 16 << 20), (1 << 20, 16 << 20), (1, 1 << 20)] {
            config.memory.budget = Budget::Fixed(Size(budget << 20));
            assert_eq!(message_bytes_max(&config), expected, "{budget} MiB");
            let values = values_within_memory(&config);
            assert_eq!(values.value("limits.max_message_size"), Some(&Value::Size(expected)));
        }
    }

    #[test]
    fn one_engine_has_it_all_but_what_its_objects_take_from_its_messages() {
        let share = |messages, objects| POOLS.shares(&[usage(messages, objects)])[0];
        let idle = share(0, 0);
        assert_eq!((idle.memory_bytes_max, idle.objects_bytes_max), (700, 250));
        assert_eq!((idle.unsettled_bytes_max, idle.cache_bytes_max), (200, 160));
        let full = share(450, 250);
        assert_eq!((full.memory_bytes_max, full.objects_bytes_max), (450, 250));
        // An engine over its limit gets no larger share.
        assert_eq!(share(900, 300).memory_bytes_max, 400);
        assert_eq!(share(900, 300).objects_bytes_max, 250);
    }

    #[test]
    fn what_is_no_engines_is_taken_from_messages_and_not_from_objects() {
        let share = |besides| POOLS.beside(besides).shares(&[usage(0, 0)])[0];
        assert_eq!((share(100).memory_bytes_max, share(100).objects_bytes_max), (600, 250));
        // Messages keep a part, whatever else takes memory.
        assert_eq!(share(10_000).memory_bytes_max, 70);
    }

    #[test]
    fn an_idle_engine_does_not_starve_a_busy_one() {
        let mut busy = usage(0, 0);
        for _ in 0..10 {
            let shares = POOLS.shares(&[busy, usage(0, 0)]);
            busy = usage(shares[0].memory_bytes_max, shares[0].objects_bytes_max);
            let all: usize = shares.iter().map(|s| s.objects_bytes_max).sum();
            assert!(all <= POOLS.objects + POOLS.objects / 8, "{shares:?}");
        }
        assert!(busy.objects > 230, "{busy:?}");
        assert!(busy.messages > 400, "{busy:?}");
        // The idle engine can begin too.
        let idle = POOLS.shares(&[busy, usage(0, 0)])[1];
        assert!(
            idle.objects_bytes_max >= 250 / 16 && idle.memory_bytes_max > 0,
            "{idle:?}"
        );
    }

    #[test]
    fn an_engine_asks_again_when_half_of_its_room_is_gone() {
        let share = POOLS.shares(&[usage(100, 50)])[0];
        let asks = ask_above(&share, &usage(100, 50));
        assert_eq!((asks.messages, asks.objects), (375, 150));
    }
}
