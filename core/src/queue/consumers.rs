//! The consumers of a queue, and which of them is next.

use super::credit::Credit;
use super::entry::EntryFlags;
use crate::command::{Channel, ConsumerToken};
use crate::ledger::Charge;
use crate::properties::{Name, Table};
use crate::slots::{ConsumerKey, Link, QueueKey, SessionKey};
use std::sync::Arc;

/// One consumer: a channel's on a declared queue, or an MQTT session's on its own or a group's queue.
pub(crate) struct Consumer {
    pub(crate) link: Link,
    pub(crate) channel: Channel,
    pub(crate) token: ConsumerToken,
    pub(crate) queue: QueueKey,
    pub(crate) no_ack: bool,
    pub(crate) exclusive: bool,
    /// Limits deliveries that have to be settled. Consumers of an MQTT session share the session's credit.
    pub(crate) credit: Credit,
    /// It was passed over because its link had no room, and is on the link's list of such consumers.
    pub(crate) starved: bool,
    /// It is offered nothing until something is settled, and is on its link's list of such consumers.
    pub(crate) throttled: bool,
    /// Messages handed out since the flow map was last updated.
    pub(crate) flowed: u32,
    /// The MQTT session behind it, and the QoS it granted.
    pub(crate) session: Option<(SessionKey, u8)>,
    /// For a group's queue: the identifiers of this member's subscription. Members may have different ones, so the
    /// queue's binding and its entries cannot carry them.
    pub(crate) subscription_ids: Option<Arc<[u32]>>,
    /// What only listings show. Consumers of MQTT sessions have none.
    pub(crate) described: Option<Box<Described>>,
}

/// See [`Consumer::described`].
pub(crate) struct Described {
    pub(crate) tag: Name,
    pub(crate) priority: i32,
    pub(crate) arguments: Table,
    /// Its share of the memory budget.
    #[expect(dead_code, reason = "it is given back when it is dropped")]
    pub(crate) charge: Charge,
}

impl Described {
    /// Bytes that it occupies. The session also keeps the tag, which is not counted.
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

/// The consumers of a queue, served by priority and, within a priority, in turn.
///
/// Fields are in this order so that those a turn touches lie together: cold cache lines are most of the cost of a turn.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Consumers {
    /// Sorted by falling priority; equal ones in order of arrival. Behind the active consumer, if only one is served.
    list: Vec<(i32, ConsumerKey)>,
    /// The index at which the next turn begins, within its priority.
    turn: usize,
    // Rarely used fields follow.
    /// Whether it ever had a consumer. An auto-delete queue is only deleted after its first one.
    pub(crate) had_any: bool,
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
        self.had_any = true;
    }
    /// Adds a consumer to a queue that serves only one. The first consumer stays the active one, whatever the priority of later
    /// ones.
    pub(crate) fn add_waiting(&mut self, priority: i32, key: ConsumerKey) {
        let active = self.list.len().min(1);
        let at = active + self.list[active..].partition_point(|(p, _)| *p >= priority);
        self.list.insert(at, (priority, key));
        self.had_any = true;
    }
    pub(crate) fn remove(&mut self, key: ConsumerKey) {
        // A channel with many consumers cancels the latest first (`Engine::close_channel`), so search from the end.
        if let Some(at) = self.list.iter().rposition(|(_, k)| *k == key) {
            self.list.remove(at);
            self.turn = 0;
        }
    }
    pub(crate) fn iter(&self) -> impl Iterator<Item = ConsumerKey> + '_ {
        self.list.iter().map(|(_, k)| *k)
    }
    /// The active consumer, if only one is served.
    pub(crate) fn first(&self) -> Option<ConsumerKey> {
        self.list.first().map(|(_, k)| *k)
    }
    /// Asks the consumers, by priority and then in turn, until `ready` is true for one. Returns the index at which the
    /// next turn begins, for [`Consumers::took`].
    #[inline]
    pub(crate) fn next(&self, mut ready: impl FnMut(ConsumerKey) -> bool) -> Option<usize> {
        // Most queues have one consumer.
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
    /// The consumer that `next` found took a message: its turn is over.
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
    fn consumers_of_equal_priority_take_turns_behind_those_of_higher_priority() {
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
