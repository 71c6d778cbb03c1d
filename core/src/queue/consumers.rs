//! Who consumes a queue, and whose turn it is.

use super::credit::Credit;
use super::entry::EntryFlags;
use crate::command::{Channel, ConsumerToken};
use crate::ledger::Charge;
use crate::properties::{Name, Table};
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
    /// For deliveries that it settles. A session's consumers share the session's.
    pub(crate) credit: Credit,
    /// Passed over for lack of room in its link, and on the link's list of such.
    pub(crate) starved: bool,
    /// Offered nothing until somebody settles, and on its link's list of such.
    pub(crate) throttled: bool,
    /// Messages handed out since the flow map was last brought up to date.
    pub(crate) flowed: u32,
    /// The MQTT session behind it, and the QoS it granted.
    pub(crate) session: Option<(SessionKey, u8)>,
    /// On a group's queue: the identifier of this member's subscription. Each member has its own, so neither the queue's
    /// binding nor its entries can have it.
    pub(crate) subscription_ids: Option<Arc<[u32]>>,
    /// What only those who list consumers ask for. Sessions' consumers have none.
    pub(crate) described: Option<Box<Described>>,
}

/// See [`Consumer::described`].
pub(crate) struct Described {
    pub(crate) tag: Name,
    pub(crate) priority: i32,
    pub(crate) arguments: Table,
    /// What this costs.
    #[expect(dead_code, reason = "it is given back when it is dropped")]
    pub(crate) charge: Charge,
}

impl Described {
    /// What it costs. The session has the tag, too, and counts nothing for it.
    pub(crate) fn memory(tag: &str, arguments: &Table) -> usize {
        let own = crate::ledger::allocation(std::mem::size_of::<Described>());
        own + crate::ledger::text(tag.len()) + arguments.memory()
    }
}

impl Consumer {
    /// Whether a delivery of an entry with these flags counts against its credit.
    #[inline]
    pub(crate) fn counts(&self, flags: EntryFlags) -> bool {
        match self.session {
            Some((_, granted)) => flags.qos().min(granted) > 0,
            None => !self.no_ack,
        }
    }
}

/// The consumers of a queue: by priority, then by turns.
///
/// Laid out in this order: what each turn touches lies together, so that a turn meets few cold cache lines.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Consumers {
    /// Sorted by falling priority; stable.
    list: Vec<(i32, ConsumerKey)>,
    /// Where the next turn begins, within its priority.
    turn: usize,
    // Seldom used.
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
        // A channel with many consumers ends them latest first: see `Engine::close_channel`.
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
    /// Asks the consumers, by priority and then in turn, until `ready` holds for one. Returns whose turn it is after that one,
    /// for [`Consumers::took`].
    #[inline]
    pub(crate) fn next(&self, mut ready: impl FnMut(ConsumerKey) -> bool) -> Option<usize> {
        // Most queues have one.
        if let [(_, key)] = self.list[..] {
            return ready(key).then_some(0);
        }
        self.next_of_many(ready)
    }

    fn next_of_many(&self, mut ready: impl FnMut(ConsumerKey) -> bool) -> Option<usize> {
        let n = self.list.len();
        let mut start = 0;
        while start < n {
            let priority = self.list[start].0;
            let size = self.list[start..].partition_point(|(p, _)| *p == priority);
            for i in 0..size {
                let turn = (self.turn + i) % size;
                if ready(self.list[start + turn].1) {
                    return Some((turn + 1) % size);
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
        let mut found = None;
        assert!(c.next(|k| found.replace(k).is_none()).is_some());
        assert_eq!(found, Some(key(3)));
        let mut low = Vec::new();
        for _ in 0..4 {
            let mut found = key(3);
            let turn = c.next(|k| std::mem::replace(&mut found, k) != k && k != key(3));
            c.took(turn.unwrap());
            low.push(found.slot);
        }
        assert_eq!(low, [1, 2, 1, 2]);
        assert_eq!(c.next(|_| false), None);
    }
}
