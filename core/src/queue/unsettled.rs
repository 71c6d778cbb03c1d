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

/// The unsettled deliveries of a channel. Numbers grow by one, so a number's place is its distance from the front.
#[derive(Default)]
pub(crate) struct Unsettled {
    /// `held[i]` has number `base + i`; `None`: settled already, or settled when taken.
    held: VecDeque<Option<Held>>,
    base: u64,
    /// How many are `Some`.
    count: usize,
}

impl Unsettled {
    /// Adds the delivery `number`, which is higher than all before.
    pub(crate) fn push(&mut self, number: u64, held: Held) {
        if self.held.is_empty() {
            self.base = number;
        }
        while self.base + (self.held.len() as u64) < number {
            self.held.push_back(None);
        }
        self.held.push_back(Some(held));
        self.count += 1;
    }
    pub(crate) fn contains(&self, number: u64) -> bool {
        number
            .checked_sub(self.base)
            .and_then(|i| usize::try_from(i).ok())
            .and_then(|i| self.held.get(i))
            .is_some_and(Option::is_some)
    }
    /// Removes one.
    pub(crate) fn remove(&mut self, number: u64) -> Option<Held> {
        let i = usize::try_from(number.checked_sub(self.base)?).ok()?;
        let held = self.held.get_mut(i)?.take()?;
        self.count -= 1;
        self.trim();
        Some(held)
    }
    /// Removes the oldest if its number is at most `upto`.
    pub(crate) fn pop_upto(&mut self, upto: u64) -> Option<Held> {
        self.trim();
        if self.held.is_empty() || self.base > upto {
            return None;
        }
        let held = self.held.pop_front().flatten();
        self.base += 1;
        self.count -= usize::from(held.is_some());
        self.trim();
        held
    }
    fn trim(&mut self) {
        while let Some(None) = self.held.front() {
            self.held.pop_front();
            self.base += 1;
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
}
