//! Entries that wait: by priority, then by sequence. Within a priority, the fresh ones in arrival order, and in front of
//! them those that came back.

use super::entry::Entry;
use std::collections::{BTreeMap, VecDeque};

/// The waiting entries of a queue, highest priority and lowest sequence first.
#[derive(Default)]
pub(crate) struct Ready {
    /// Priority 0: all there is, in most queues.
    base: Level,
    /// Priorities from 1 on, up to the highest that was ever used.
    higher: Vec<Level>,
    len: usize,
    /// Bytes of body of all entries.
    bytes: u64,
}

/// Entries of one priority, lowest sequence first.
#[derive(Default)]
struct Level {
    /// Came back from a consumer. Every one of them once was at the front, so it precedes all fresh ones.
    returned: BTreeMap<u64, Entry>,
    fresh: VecDeque<Entry>,
}

impl Ready {
    pub(crate) fn len(&self) -> usize {
        self.len
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Bytes of body.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
    pub(crate) fn push_back(&mut self, entry: Entry) {
        self.count(&entry);
        let fresh = &mut self.level(entry.priority).fresh;
        debug_assert!(fresh.back().is_none_or(|b| b.seq < entry.seq));
        fresh.push_back(entry);
    }
    pub(crate) fn front(&self) -> Option<&Entry> {
        self.levels().find_map(Level::front)
    }
    pub(crate) fn pop_front(&mut self) -> Option<Entry> {
        let entry = self.levels_mut().find_map(Level::pop_front)?;
        self.uncount(&entry);
        Some(entry)
    }
    /// Puts an entry back to its old place.
    pub(crate) fn put_back(&mut self, entry: Entry) {
        self.count(&entry);
        self.level(entry.priority).put_back(entry);
    }
    /// The entry with that sequence, if it waits.
    pub(crate) fn find_mut(&mut self, seq: u64) -> Option<&mut Entry> {
        self.levels_mut().find_map(|level| level.find_mut(seq))
    }
    /// Removes one entry wherever it waits (its record turned out damaged).
    pub(crate) fn remove(&mut self, seq: u64) -> Option<Entry> {
        let entry = self.levels_mut().find_map(|level| level.remove(seq))?;
        self.uncount(&entry);
        Some(entry)
    }
    /// Removes all entries.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Entry> + use<> {
        let Ready { base, higher, .. } = std::mem::take(self);
        let levels = higher.into_iter().rev().chain([base]);
        levels.flat_map(|level| level.returned.into_values().chain(level.fresh))
    }
    /// Entries from the front on, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.levels()
            .flat_map(|level| level.returned.values().chain(level.fresh.iter()))
    }
    /// Fresh entries of the lowest priority from sequence `from` on: candidates for leaving memory. Entries of a higher
    /// priority stay, as those that will be taken first.
    pub(crate) fn evictable(&mut self, from: u64) -> impl Iterator<Item = &mut Entry> {
        let start = self.base.fresh.partition_point(|e| e.seq < from);
        self.base.fresh.range_mut(start..)
    }

    fn level(&mut self, priority: u8) -> &mut Level {
        let Some(above) = usize::from(priority).checked_sub(1) else {
            return &mut self.base;
        };
        if self.higher.len() <= above {
            self.higher.resize_with(above + 1, Level::default);
        }
        &mut self.higher[above]
    }
    fn levels(&self) -> impl Iterator<Item = &Level> {
        self.higher.iter().rev().chain([&self.base])
    }
    fn levels_mut(&mut self) -> impl Iterator<Item = &mut Level> {
        self.higher.iter_mut().rev().chain([&mut self.base])
    }
    fn count(&mut self, entry: &Entry) {
        self.len += 1;
        self.bytes += entry.body.len() as u64;
    }
    fn uncount(&mut self, entry: &Entry) {
        self.len -= 1;
        self.bytes -= entry.body.len() as u64;
    }
}

impl Level {
    fn front(&self) -> Option<&Entry> {
        match self.returned.first_key_value() {
            Some((_, e)) => Some(e),
            None => self.fresh.front(),
        }
    }
    fn pop_front(&mut self) -> Option<Entry> {
        let entry = match self.returned.pop_first() {
            Some((_, e)) => e,
            None => self.fresh.pop_front()?,
        };
        if self.fresh.is_empty() && self.fresh.capacity() > 4096 {
            // A burst must not hold its memory for ever.
            self.fresh = VecDeque::new();
        }
        Some(entry)
    }
    fn put_back(&mut self, entry: Entry) {
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
    fn find_mut(&mut self, seq: u64) -> Option<&mut Entry> {
        if let Some(e) = self.returned.get_mut(&seq) {
            return Some(e);
        }
        let i = self.fresh.partition_point(|e| e.seq < seq);
        self.fresh.get_mut(i).filter(|e| e.seq == seq)
    }
    fn remove(&mut self, seq: u64) -> Option<Entry> {
        if let Some(e) = self.returned.remove(&seq) {
            return Some(e);
        }
        let i = self.fresh.partition_point(|e| e.seq < seq);
        if self.fresh.get(i).is_some_and(|e| e.seq == seq) {
            self.fresh.remove(i)
        } else {
            None
        }
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
            priority: 0,
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

    #[test]
    fn the_highest_priority_goes_first_and_comes_back_to_its_own_place() {
        let mut r = Ready::default();
        for (seq, priority) in [(0, 0), (1, 2), (2, 9), (3, 2), (4, 0)] {
            r.push_back(Entry { priority, ..entry(seq) });
        }
        let first = r.pop_front().unwrap();
        let second = r.pop_front().unwrap();
        assert_eq!((first.seq, second.seq), (2, 1));
        r.put_back(second);
        r.put_back(first);
        assert_eq!(r.len(), 5);
        assert_eq!(r.iter().map(|e| e.seq).collect::<Vec<_>>(), [2, 1, 3, 0, 4]);
        assert_eq!(r.drain().map(|e| e.seq).collect::<Vec<_>>(), [2, 1, 3, 0, 4]);
        assert!(r.is_empty() && r.bytes() == 0);
    }
}
