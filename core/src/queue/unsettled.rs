//! What the consumers of one channel hold: numbered deliveries, settled in any order.

use super::consumers::ConsumerKey;
use super::entry::Entry;
use crate::store::QueueId;
use std::collections::VecDeque;

/// A queue by slot, with the number that tells whether the slot still holds the same queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueRef {
    pub(crate) slot: u32,
    pub(crate) id: QueueId,
}

/// One delivery that awaits its verdict.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) queue: QueueRef,
    /// `None` for a `Get`.
    pub(crate) consumer: Option<ConsumerKey>,
    pub(crate) entry: Entry,
}

/// The unsettled deliveries of a channel. Numbers mostly grow by one, so a number's place is at or near its distance from
/// the front.
#[derive(Default)]
pub(crate) struct Unsettled {
    /// By number, ascending; `None`: settled already.
    held: VecDeque<(u64, Option<Held>)>,
    /// How many are `Some`. At least a quarter, if there are many: one that is never settled costs no more than itself.
    count: usize,
}

/// Places up to which the share of settled ones does not matter.
const SPARSE_MIN: usize = 64;

impl Unsettled {
    /// Adds the delivery `number`, which is higher than all before.
    pub(crate) fn push(&mut self, number: u64, held: Held) {
        debug_assert!(self.held.back().is_none_or(|(n, _)| *n < number));
        self.held.push_back((number, Some(held)));
        self.count += 1;
    }
    pub(crate) fn contains(&self, number: u64) -> bool {
        self.find(number).is_some_and(|i| self.held[i].1.is_some())
    }
    /// Removes one.
    pub(crate) fn remove(&mut self, number: u64) -> Option<Held> {
        let i = self.find(number)?;
        let held = self.held[i].1.take()?;
        self.count -= 1;
        self.trim();
        Some(held)
    }
    /// Removes the oldest if its number is at most `upto`.
    pub(crate) fn pop_upto(&mut self, upto: u64) -> Option<Held> {
        if self.held.front()?.0 > upto {
            return None;
        }
        let (_, held) = self.held.pop_front()?;
        self.count -= usize::from(held.is_some());
        self.trim();
        held
    }
    /// Whether there is one whose number is at most `upto`.
    pub(crate) fn reaches(&self, upto: u64) -> bool {
        self.held.front().is_some_and(|(number, _)| *number <= upto)
    }
    /// All of them, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.held.iter().filter_map(|(_, held)| held.as_ref())
    }
    fn find(&self, number: u64) -> Option<usize> {
        let first = self.held.front()?.0;
        let distance = usize::try_from(number.checked_sub(first)?).ok()?;
        if self.held.get(distance).is_some_and(|(n, _)| *n == number) {
            return Some(distance);
        }
        self.held.binary_search_by_key(&number, |(n, _)| *n).ok()
    }
    /// Sees to it that the first is not settled.
    fn trim(&mut self) {
        while let Some((_, None)) = self.held.front() {
            self.held.pop_front();
        }
        if self.held.len() > SPARSE_MIN && self.count * 4 < self.held.len() {
            self.held.retain(|(_, held)| held.is_some());
        }
        if self.held.is_empty() && self.held.capacity() > 1024 {
            self.held = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Position;
    use crate::queue::entry::{Body, EntryFlags};

    fn held(seq: u64) -> Held {
        let body = Body::Disk {
            at: Position { segment: 1, offset: 0 },
            body_len: 1,
        };
        let entry = Entry {
            seq,
            body,
            flags: EntryFlags::default(),
            subscription_ids: None,
            priority: 0,
        };
        Held {
            queue: QueueRef {
                slot: 0,
                id: QueueId(1),
            },
            consumer: None,
            entry,
        }
    }

    #[test]
    fn numbers_with_gaps_are_found_and_settled_once() {
        let mut u = Unsettled::default();
        for n in [1, 2, 5, 6] {
            u.push(n, held(n));
        }
        assert!(u.contains(5) && !u.contains(3) && !u.contains(7));
        assert_eq!(u.remove(2).unwrap().entry.seq, 2);
        assert!(u.remove(2).is_none());
        assert_eq!(u.pop_upto(5).unwrap().entry.seq, 1);
        assert_eq!(u.pop_upto(5).unwrap().entry.seq, 5);
        assert!(u.pop_upto(5).is_none());
        assert_eq!(u.count, 1);
    }

    #[test]
    fn one_that_is_never_settled_costs_no_more_than_itself() {
        // A consumer that hangs on one message and settles all others made the list grow by a place per delivery.
        let mut u = Unsettled::default();
        u.push(1, held(1));
        for n in 2..10_000 {
            u.push(n, held(n));
            assert!(u.remove(n).is_some());
        }
        assert!(u.held.len() <= SPARSE_MIN + 1);
        assert!(u.contains(1) && !u.contains(2));
    }
}
