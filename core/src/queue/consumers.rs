//! Who consumes a queue, and whose turn it is.

use crate::command::{Channel, ConsumerToken};
use crate::slots::{ConsumerKey, Link, QueueKey, SessionKey};
use std::sync::Arc;

/// One consumer: a channel's on a declared queue, or an MQTT session's on its own queue or a group's.
pub(crate) struct Consumer {
    pub(crate) link: Link,
    pub(crate) channel: Channel,
    pub(crate) token: ConsumerToken,
    pub(crate) queue: QueueKey,
    pub(crate) no_ack: bool,
    pub(crate) exclusive: bool,
    /// Deliveries it may hold unsettled; 0: no limit.
    pub(crate) prefetch: u32,
    /// Reserved or unsettled.
    pub(crate) in_flight: u32,
    /// Passed over for lack of room in its link, and on the link's list of such.
    pub(crate) starved: bool,
    /// Offered nothing until somebody settles, and on its link's list of such.
    pub(crate) throttled: bool,
    /// The MQTT session behind it, and the QoS it granted.
    pub(crate) session: Option<(SessionKey, u8)>,
    /// On a group's queue: the identifier of this member's subscription. Each member has its own, so neither the queue's
    /// binding nor its entries can have it.
    pub(crate) subscription_ids: Option<Arc<[u32]>>,
}

/// The consumers of a queue: by priority, then by turns.
#[derive(Default)]
pub(crate) struct Consumers {
    /// Sorted by falling priority; stable.
    list: Vec<(i32, ConsumerKey)>,
    /// Where the next turn begins, within its priority.
    turn: usize,
    /// There was one once (for auto-delete).
    pub(crate) ever: bool,
}

impl Consumers {
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
    pub(crate) fn add(&mut self, priority: i32, key: ConsumerKey) {
        let at = self.list.partition_point(|(p, _)| *p >= priority);
        self.list.insert(at, (priority, key));
        self.ever = true;
    }
    pub(crate) fn remove(&mut self, key: ConsumerKey) {
        // Who goes as one of many mostly goes latest first: see `Engine::close_channel`.
        if let Some(at) = self.list.iter().rposition(|(_, k)| *k == key) {
            self.list.remove(at);
            self.turn = 0;
        }
    }
    pub(crate) fn iter(&self) -> impl Iterator<Item = ConsumerKey> + '_ {
        self.list.iter().map(|(_, k)| *k)
    }
    /// The consumer that has been there longest among the highest priority: the active one where only one may be.
    pub(crate) fn first(&self) -> Option<ConsumerKey> {
        self.list.first().map(|(_, k)| *k)
    }
    /// The next consumer, by priority and then in turn, for which `ready` holds; and whose turn it is after that one:
    /// see [`Consumers::took`].
    pub(crate) fn next(&self, mut ready: impl FnMut(ConsumerKey) -> bool) -> Option<(ConsumerKey, usize)> {
        let n = self.list.len();
        let mut start = 0;
        while start < n {
            let priority = self.list[start].0;
            let size = self.list[start..].partition_point(|(p, _)| *p == priority);
            for i in 0..size {
                let turn = (self.turn + i) % size;
                let key = self.list[start + turn].1;
                if ready(key) {
                    return Some((key, (turn + 1) % size));
                }
            }
            start += size;
        }
        None
    }
    /// The consumer that `next` found was given something.
    pub(crate) fn took(&mut self, next_turn: usize) {
        self.turn = next_turn;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(slot: u32) -> ConsumerKey {
        ConsumerKey { slot, generation: 0 }
    }

    #[test]
    fn equals_take_turns_and_the_higher_priority_goes_first() {
        let mut c = Consumers::default();
        c.add(0, key(1));
        c.add(0, key(2));
        c.add(5, key(3));
        assert_eq!(c.next(|_| true).map(|(k, _)| k), Some(key(3)));
        let mut low = Vec::new();
        for _ in 0..4 {
            let (found, turn) = c.next(|k| k != key(3)).unwrap();
            c.took(turn);
            low.push(found.slot);
        }
        assert_eq!(low, [1, 2, 1, 2]);
        assert_eq!(c.next(|_| false), None);
    }
}
