//! Entries that wait, by sequence: the fresh ones in arrival order, and in front of them those that came back.

use super::entry::Entry;
use std::collections::{BTreeMap, VecDeque};

/// The waiting entries of a queue, lowest sequence first.
#[derive(Default)]
pub(crate) struct Ready {
    /// Came back from a consumer. Every one of them once was at the front, so it precedes all fresh ones.
    returned: BTreeMap<u64, Entry>,
    fresh: VecDeque<Entry>,
    /// Bytes of body of all entries.
    bytes: u64,
}

impl Ready {
    pub(crate) fn len(&self) -> usize {
        self.returned.len() + self.fresh.len()
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.returned.is_empty()
    }
    /// Bytes of body.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
    pub(crate) fn push_back(&mut self, entry: Entry) {
        debug_assert!(self.fresh.back().is_none_or(|b| b.seq < entry.seq));
        self.bytes += entry.body.len() as u64;
        self.fresh.push_back(entry);
    }
    pub(crate) fn front(&self) -> Option<&Entry> {
        match self.returned.first_key_value() {
            Some((_, e)) => Some(e),
            None => self.fresh.front(),
        }
    }
    pub(crate) fn pop_front(&mut self) -> Option<Entry> {
        let entry = match self.returned.pop_first() {
            Some((_, e)) => e,
            None => self.fresh.pop_front()?,
        };
        self.bytes -= entry.body.len() as u64;
        if self.fresh.is_empty() && self.fresh.capacity() > 4096 {
            // A burst must not hold its memory for ever.
            self.fresh = VecDeque::new();
        }
        Some(entry)
    }
    /// Puts an entry back to its old place.
    pub(crate) fn put_back(&mut self, entry: Entry) {
        self.bytes += entry.body.len() as u64;
        match self.fresh.front() {
            // The common case: the one taken last comes back first.
            Some(f) if self.returned.is_empty() && entry.seq + 1 == f.seq => self.fresh.push_front(entry),
            _ => {
                self.returned.insert(entry.seq, entry);
            }
        }
        debug_assert!(
            self.returned
                .last_key_value()
                .is_none_or(|(s, _)| self.fresh.front().is_none_or(|f| *s < f.seq)),
            "what comes back precedes what is fresh"
        );
    }
    /// The entry with that sequence, if it waits.
    pub(crate) fn find_mut(&mut self, seq: u64) -> Option<&mut Entry> {
        if let Some(e) = self.returned.get_mut(&seq) {
            return Some(e);
        }
        let i = self.fresh.partition_point(|e| e.seq < seq);
        self.fresh.get_mut(i).filter(|e| e.seq == seq)
    }
    /// Removes one entry wherever it waits (its record turned out damaged).
    pub(crate) fn remove(&mut self, seq: u64) -> Option<Entry> {
        let entry = match self.returned.remove(&seq) {
            Some(e) => Some(e),
            None => {
                let i = self.fresh.partition_point(|e| e.seq < seq);
                if self.fresh.get(i).is_some_and(|e| e.seq == seq) {
                    self.fresh.remove(i)
                } else {
                    None
                }
            }
        }?;
        self.bytes -= entry.body.len() as u64;
        Some(entry)
    }
    /// Removes all entries.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Entry> + use<> {
        self.bytes = 0;
        let returned = std::mem::take(&mut self.returned);
        let fresh = std::mem::take(&mut self.fresh);
        returned.into_values().chain(fresh)
    }
    /// Entries from the front on, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.returned.values().chain(self.fresh.iter())
    }
    /// Fresh entries from sequence `from` on: candidates for leaving memory.
    pub(crate) fn evictable(&mut self, from: u64) -> impl Iterator<Item = &mut Entry> {
        let start = self.fresh.partition_point(|e| e.seq < from);
        self.fresh.range_mut(start..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Position;
    use crate::queue::entry::{Body, EntryFlags};

    fn entry(seq: u64) -> Entry {
        let body = Body::Disk {
            at: Position { segment: 1, offset: 0 },
            body_len: 10,
        };
        Entry {
            seq,
            body,
            flags: EntryFlags::default(),
            subscription_ids: None,
        }
    }

    #[test]
    fn what_comes_back_takes_its_old_place_in_any_order() {
        let mut r = Ready::default();
        (0..6).for_each(|s| r.push_back(entry(s)));
        let taken: Vec<_> = (0..4).map(|_| r.pop_front().unwrap()).collect();
        for i in [2, 0, 3, 1] {
            r.put_back(taken[i].clone());
        }
        let order: Vec<_> = std::iter::from_fn(|| r.pop_front()).map(|e| e.seq).collect();
        assert_eq!(order, [0, 1, 2, 3, 4, 5]);
        assert_eq!(r.bytes(), 0);
    }
}
