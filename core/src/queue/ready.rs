//! The waiting entries, ordered by priority and then by sequence. Within a priority, entries that came back from
//! consumers precede fresh ones, which are in order of arrival. The middle of a long queue is in the log only.
//!
//! ```text
//!   front                                                                        back
//!   ┌──────────┬───────────────┬──────────────────────────────────┬──────────────────┐
//!   │ returned │ fresh         │ run: first, last, count, bytes   │ tail             │
//!   │ entries  │ entries       │ 32 bytes, however long           │ entries          │
//!   └──────────┴───────────────┴──────────────────────────────────┴──────────────────┘
//!                        ◄── pages, read back ──┘◄── page_out ──┘
//! ```

use super::entry::{Body, Entry};
use std::collections::{BTreeMap, VecDeque};

/// The waiting entries of a queue, highest priority and lowest sequence first.
///
/// Fields are in this order so that those a turn touches lie together: cold cache lines are most of the cost of a turn.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Ready {
    len: usize,
    /// Bytes of the bodies of all entries.
    bytes: u64,
    /// The number of entries that are in runs.
    paged: usize,
    /// Priority 0. Most queues use no other.
    base: Level,
    // Rarely used fields follow.
    /// Priorities from 1 to the highest one used so far.
    higher: Vec<Level>,
}

/// Entries of one priority, lowest sequence first.
///
/// Fields are in this order so that those a turn touches lie together: cold cache lines are most of the cost of a turn.
#[derive(Default)]
#[repr(C)]
struct Level {
    fresh: VecDeque<Entry>,
    /// Entries that came back from a consumer. Each was at the front once, so all of them precede the fresh ones.
    returned: BTreeMap<u64, Entry>,
    /// Entries behind the fresh ones that are in the log only.
    run: Option<Run>,
    // Rarely used fields follow.
    /// Entries behind the run. Empty if there is no run.
    tail: VecDeque<Entry>,
}

/// Consecutive entries of one priority that are in the log only. All that is known of them is this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The sequence of the first one.
    pub(crate) first: u64,
    /// The sequence of the last one. The run has all sequences of its priority in `first..=last` that the log has,
    /// without those that the queue lists as absent.
    pub(crate) last: u64,
    pub(crate) count: u64,
    /// Bytes of their bodies.
    pub(crate) bytes: u64,
}

/// The front of a queue.
pub(crate) enum Head<'a> {
    /// Nothing waits.
    Empty,
    /// The first entry is in a run and has to be read from the log.
    Paged,
    Entry(&'a Entry),
}

/// The most entries at the front of a queue whose bodies are read back at once.
pub(crate) const READ_BACK_MAX: usize = 256;

/// Whether an entry may leave memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It leaves: the log has it, so the run is enough to find it again.
    Paged,
    /// It stays for now. Entries behind it may still leave.
    Stay,
    /// It stays, and so do all behind it.
    Stop,
}

impl Ready {
    pub(crate) fn len(&self) -> usize {
        self.len
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Bytes of the bodies.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
    /// The number of entries that are in the log only.
    pub(crate) fn paged(&self) -> usize {
        self.paged
    }
    /// The number of entries in memory.
    pub(crate) fn in_memory(&self) -> usize {
        self.len - self.paged
    }
    #[inline]
    pub(crate) fn push_back(&mut self, entry: Entry) {
        self.count(&entry);
        let level = self.level(entry.priority);
        let behind = if level.run.is_some() {
            &mut level.tail
        } else {
            &mut level.fresh
        };
        debug_assert!(behind.back().is_none_or(|b| b.seq < entry.seq));
        behind.push_back(entry);
    }
    #[inline]
    pub(crate) fn head(&self) -> Head<'_> {
        // Most queues have no priorities.
        if self.higher.is_empty() {
            return self.base.head();
        }
        let higher = self.higher.iter().rev().map(Level::head);
        let mut heads = higher.filter(|head| !matches!(head, Head::Empty));
        heads.next().unwrap_or_else(|| self.base.head())
    }
    /// Takes the first entry. `None` if nothing waits or the first one is in the log only.
    #[inline]
    pub(crate) fn pop_front(&mut self) -> Option<Entry> {
        let entry = if self.higher.is_empty() {
            self.base.pop_front()?
        } else {
            self.pop_highest()?
        };
        self.uncount(&entry);
        Some(entry)
    }
    fn pop_highest(&mut self) -> Option<Entry> {
        let mut higher = self.higher.iter_mut().rev();
        let level = higher.find(|level| !matches!(level.head(), Head::Empty));
        level.unwrap_or(&mut self.base).pop_front()
    }
    /// Puts an entry back into its former place.
    pub(crate) fn put_back(&mut self, entry: Entry) {
        self.count(&entry);
        self.level(entry.priority).put_back(entry);
    }
    /// The waiting entry with that sequence, if it is in memory.
    pub(crate) fn find_mut(&mut self, seq: u64) -> Option<&mut Entry> {
        self.levels_mut().find_map(|level| level.find_mut(seq))
    }
    /// Whether an entry in a run may have that sequence.
    pub(crate) fn may_be_paged(&self, seq: u64) -> bool {
        let mut levels = std::iter::once(&self.base).chain(&self.higher);
        levels.any(|level| {
            level
                .run
                .as_ref()
                .is_some_and(|run| (run.first..=run.last).contains(&seq))
        })
    }
    /// Removes a waiting entry whose record is damaged.
    pub(crate) fn remove(&mut self, seq: u64) -> Option<Entry> {
        let entry = self.levels_mut().find_map(|level| level.remove(seq))?;
        self.uncount(&entry);
        Some(entry)
    }
    /// Removes any entry that is in memory, from a queue that is deleted.
    pub(crate) fn pop_any(&mut self) -> Option<Entry> {
        let taken = self.levels_mut().find_map(|level| {
            let last = level.tail.pop_back().or_else(|| level.fresh.pop_back());
            last.or_else(|| Some(level.returned.pop_first()?.1))
        });
        let entry = taken?;
        self.uncount(&entry);
        Some(entry)
    }
    /// Entries in order from the front, up to the first one that is in the log only.
    pub(crate) fn front_entries(&self) -> impl Iterator<Item = &Entry> {
        let mut ended = false;
        let levels = self.levels().take_while(move |level| {
            let reached = !ended;
            ended |= level.run.is_some();
            reached
        });
        levels.flat_map(Level::front_entries)
    }
    /// All entries that are in memory, in order.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.levels().flat_map(|level| level.front_entries().chain(&level.tail))
    }

    // Paging.

    /// The runs, by priority.
    #[cfg(feature = "testing")]
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u8, Run)> {
        let levels = std::iter::once(&self.base).chain(&self.higher);
        levels
            .zip(0..)
            .filter_map(|(level, priority)| Some((priority, level.run?)))
    }
    /// The run whose first page should be read, if fewer than `ahead` entries are in front of it.
    pub(crate) fn wanted_run(&self, ahead: usize) -> Option<(u8, Run)> {
        let mut here = 0;
        for priority in self.priorities().rev() {
            let Some(level) = self.find_level(priority) else {
                continue;
            };
            here += level.returned.len() + level.fresh.len();
            if here >= ahead {
                return None;
            }
            if let Some(run) = level.run {
                return Some((priority, run));
            }
        }
        None
    }
    /// Adds the entries of a priority that a start found in the log. They are behind all that are in memory.
    pub(crate) fn restore_run(&mut self, priority: u8, found: Run) {
        self.len += found.count as usize;
        self.paged += found.count as usize;
        self.bytes += found.bytes;
        let level = self.level(priority);
        debug_assert!(
            level.fresh.is_empty() && level.tail.is_empty(),
            "nothing is published before the start is over"
        );
        level.run = Some(match level.run {
            Some(run) => Run {
                first: run.first.min(found.first),
                last: run.last.max(found.last),
                count: run.count + found.count,
                bytes: run.bytes + found.bytes,
            },
            None => found,
        });
    }
    /// Adds the first page of a run, which was read from the log: `entries` are all that the log has of it up to
    /// `upto`. Returns how many of those counted are missing.
    pub(crate) fn page_in(&mut self, priority: u8, upto: u64, entries: impl Iterator<Item = Entry>) -> u64 {
        let level = self.level(priority);
        let Some(run) = &mut level.run else { return 0 };
        let mut found = 0;
        if level.fresh.is_empty() {
            // The former buffer may be large.
            level.fresh = VecDeque::new();
        }
        // Reserve exactly, because thousands of queues may have a page each.
        level.fresh.reserve_exact(entries.size_hint().1.unwrap_or(0));
        for entry in entries {
            if entry.seq < run.first || entry.seq > run.last {
                continue;
            }
            // There cannot be more than were counted; further ones would belong to something else.
            if run.count == 0 {
                break;
            }
            found += 1;
            run.count -= 1;
            run.bytes = run.bytes.saturating_sub(entry.body.len() as u64);
            level.fresh.push_back(entry);
        }
        run.first = run.first.max(upto.saturating_add(1));
        let mut lost = (0, 0);
        if run.count == 0 || run.first > run.last {
            lost = (run.count, run.bytes);
            level.run = None;
            if level.tail.is_empty() {
                level.tail = VecDeque::new();
            } else {
                for entry in level.fresh.drain(..).rev() {
                    level.tail.push_front(entry);
                }
                level.fresh = std::mem::take(&mut level.tail);
            }
        }
        self.paged -= found + lost.0 as usize;
        self.len -= lost.0 as usize;
        self.bytes -= lost.1;
        lost.0
    }
    /// The run of a queue without priorities, if nothing in memory precedes it.
    pub(crate) fn leading_run(&self) -> Option<Run> {
        let is_first = self.higher.is_empty() && matches!(self.base.head(), Head::Paged);
        self.base.run.filter(|_| is_first)
    }
    /// Forgets the run that `leading_run` returned.
    pub(crate) fn drop_leading_run(&mut self) {
        let Some(run) = self.leading_run() else { return };
        self.len -= run.count as usize;
        self.paged -= run.count as usize;
        self.bytes -= run.bytes;
        self.base.run = None;
        self.base.fresh = std::mem::take(&mut self.base.tail);
    }
    /// Offers the entries of a priority behind the first `stay` to `leave`. Those that leave are added to the run, as
    /// long as no entry between them and the run stays. If there is no run yet, the oldest that leaves begins it.
    ///
    /// `front_too`: entries in front of an existing run are offered, too. They were read back from it, and their bodies
    /// would otherwise stay until a consumer takes them. Not while a page of the run is being read: the page would not
    /// contain them.
    pub(crate) fn page_out(
        &mut self,
        priority: u8,
        stay: usize,
        front_too: bool,
        mut leave: impl FnMut(&mut Entry) -> Leave,
    ) {
        let mut gone = 0;
        let level = self.level(priority);
        if !level.offer_returned(stay, &mut leave) {
            return;
        }
        let mut at = stay.saturating_sub(level.returned.len());
        while front_too
            && level.fresh.len() > at
            && let Some(run) = &mut level.run
            && let Some(entry) = level.fresh.back_mut()
        {
            let left = leave(entry);
            if left != Leave::Paged {
                break;
            }
            run.extend_front(entry);
            level.fresh.pop_back();
            gone += 1;
        }
        while level.run.is_none() {
            let Some(entry) = level.fresh.get_mut(at) else { return };
            match leave(entry) {
                Leave::Paged => {
                    let front = level.fresh.drain(..at).collect();
                    level.tail = std::mem::replace(&mut level.fresh, front);
                    let Some(first) = level.tail.pop_front() else { return };
                    level.run = Some(Run::of(&first));
                    gone = 1;
                }
                Leave::Stay => at += 1,
                Leave::Stop => return,
            }
        }
        let Some(mut run) = level.run else { return };
        let mut at = 0;
        while let Some(entry) = level.tail.get_mut(at) {
            match leave(entry) {
                Leave::Paged if at == 0 => {
                    if let Some(entry) = level.tail.pop_front() {
                        run.extend(&entry);
                        gone += 1;
                    }
                }
                Leave::Paged | Leave::Stay => at += 1,
                Leave::Stop => break,
            }
        }
        level.run = Some(run);
        // Free memory that was allocated for a burst.
        if level.tail.capacity() > 4096 && level.tail.len() < level.tail.capacity() / 4 {
            level.tail.shrink_to(level.tail.len() * 2);
        }
        self.paged += gone;
    }
    /// The entries of a priority that are in memory and in front of its run.
    pub(crate) fn front_of(&self, priority: u8) -> impl Iterator<Item = &Entry> {
        self.find_level(priority).into_iter().flat_map(Level::front_entries)
    }
    /// The sequence of the first entry, which may be in the log only.
    pub(crate) fn first_seq(&self) -> Option<u64> {
        let level = self.levels().find(|level| !matches!(level.head(), Head::Empty))?;
        match level.head() {
            Head::Entry(entry) => Some(entry.seq),
            Head::Paged => level.run.map(|run| run.first),
            Head::Empty => None,
        }
    }
    /// The priorities in use, lowest first.
    pub(crate) fn priorities(&self) -> std::ops::RangeInclusive<u8> {
        0..=u8::try_from(self.higher.len()).unwrap_or(u8::MAX)
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
    fn find_level(&self, priority: u8) -> Option<&Level> {
        match usize::from(priority).checked_sub(1) {
            None => Some(&self.base),
            Some(above) => self.higher.get(above),
        }
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

impl Run {
    fn of(entry: &Entry) -> Run {
        Run {
            first: entry.seq,
            last: entry.seq,
            count: 1,
            bytes: entry.body.len() as u64,
        }
    }
    fn extend_front(&mut self, entry: &Entry) {
        debug_assert!(entry.seq < self.first);
        self.first = entry.seq;
        self.count += 1;
        self.bytes += entry.body.len() as u64;
    }
    fn extend(&mut self, entry: &Entry) {
        debug_assert!(entry.seq > self.last);
        self.last = entry.seq;
        self.count += 1;
        self.bytes += entry.body.len() as u64;
    }
}

impl Level {
    #[inline]
    fn head(&self) -> Head<'_> {
        match (self.returned.first_key_value(), self.fresh.front()) {
            (Some((_, entry)), _) | (None, Some(entry)) => Head::Entry(entry),
            _ if self.run.is_some() => Head::Paged,
            _ => Head::Empty,
        }
    }
    fn front_entries(&self) -> impl Iterator<Item = &Entry> {
        self.returned.values().chain(&self.fresh)
    }
    /// Offers the bodies of entries that came back. The entries stay, because they are not consecutive. Only the first
    /// ones can have been read back; the bodies of others left memory when they came back, if it was short. Returns
    /// false if `leave` wants no more.
    fn offer_returned(&mut self, stay: usize, leave: &mut impl FnMut(&mut Entry) -> Leave) -> bool {
        let first = self.returned.values_mut().take(READ_BACK_MAX).skip(stay);
        for entry in first.filter(|entry| matches!(entry.body, Body::Memory(_))) {
            if leave(entry) == Leave::Stop {
                return false;
            }
        }
        true
    }
    #[inline]
    fn pop_front(&mut self) -> Option<Entry> {
        // Asked first: little ever comes back.
        if !self.returned.is_empty()
            && let Some((_, entry)) = self.returned.pop_first()
        {
            return Some(entry);
        }
        let entry = self.fresh.pop_front()?;
        if self.fresh.is_empty() && self.fresh.capacity() > 4096 {
            // Free memory that was allocated for a burst.
            self.fresh = VecDeque::new();
        }
        Some(entry)
    }
    fn put_back(&mut self, entry: Entry) {
        match self.fresh.front() {
            // The common case: the entry taken last comes back first.
            Some(f) if self.returned.is_empty() && entry.seq + 1 == f.seq => self.fresh.push_front(entry),
            _ => {
                self.returned.insert(entry.seq, entry);
            }
        }
        debug_assert!(
            self.returned.last_key_value().is_none_or(
                |(s, _)| self.fresh.front().is_none_or(|f| *s < f.seq) && self.run.is_none_or(|run| *s < run.first)
            ),
            "returned entries precede fresh ones"
        );
    }
    fn find_mut(&mut self, seq: u64) -> Option<&mut Entry> {
        if let Some(e) = self.returned.get_mut(&seq) {
            return Some(e);
        }
        [&mut self.fresh, &mut self.tail].into_iter().find_map(|entries| {
            let i = entries.partition_point(|e| e.seq < seq);
            entries.get_mut(i).filter(|e| e.seq == seq)
        })
    }
    fn remove(&mut self, seq: u64) -> Option<Entry> {
        if let Some(e) = self.returned.remove(&seq) {
            return Some(e);
        }
        [&mut self.fresh, &mut self.tail].into_iter().find_map(|entries| {
            let i = entries.partition_point(|e| e.seq < seq);
            entries.get(i).filter(|e| e.seq == seq)?;
            entries.remove(i)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u64) -> Entry {
        Entry::on_disk(seq, 10)
    }

    #[test]
    fn entries_that_come_back_take_their_former_places_in_any_order() {
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
    fn the_highest_priority_goes_first_and_returns_to_its_own_place() {
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
        assert_eq!(r.front_entries().map(|e| e.seq).collect::<Vec<_>>(), [2, 1, 3, 0, 4]);
        while r.pop_any().is_some() {}
        assert!(r.is_empty() && r.bytes() == 0);
    }

    /// The entries that the log would list for `first..=last`.
    fn page(first: u64, last: u64) -> impl Iterator<Item = Entry> {
        (first..=last).map(entry)
    }

    #[test]
    fn the_middle_is_paged_out_and_read_back_in_order() {
        let mut r = Ready::default();
        (0..10).for_each(|s| r.push_back(entry(s)));
        r.page_out(0, 2, true, |e| if e.seq < 8 { Leave::Paged } else { Leave::Stop });
        r.push_back(entry(10));
        assert_eq!((r.len(), r.paged(), r.in_memory(), r.bytes()), (11, 6, 5, 110));
        // What is written later joins the run, as long as no entry before it stays.
        r.page_out(0, 2, true, |e| if e.seq == 9 { Leave::Stay } else { Leave::Paged });
        assert_eq!(
            r.wanted_run(3).map(|(_, run)| (run.first, run.last, run.count)),
            Some((2, 8, 7))
        );
        assert_eq!(r.wanted_run(2), None);
        assert_eq!(r.page_in(0, 4, page(2, 4)), 0);
        let taken: Vec<_> = std::iter::from_fn(|| r.pop_front()).map(|e| e.seq).collect();
        assert_eq!(taken, [0, 1, 2, 3, 4]);
        assert!(matches!(r.head(), Head::Paged));
        r.put_back(entry(4));
        assert!(matches!(r.head(), Head::Entry(e) if e.seq == 4));
        assert_eq!(r.page_in(0, 8, page(5, 8)), 0);
        let taken: Vec<_> = std::iter::from_fn(|| r.pop_front()).map(|e| e.seq).collect();
        assert_eq!(taken, [4, 5, 6, 7, 8, 9, 10]);
        assert!(r.is_empty() && r.bytes() == 0 && r.paged() == 0);
    }

    #[test]
    fn entries_that_the_log_has_lost_are_no_longer_counted() {
        let mut r = Ready::default();
        (0..10).for_each(|s| r.push_back(entry(s)));
        r.page_out(0, 0, true, |_| Leave::Paged);
        assert_eq!(r.page_in(0, 5, page(0, 2)), 0);
        assert_eq!(r.page_in(0, 9, page(6, 8)), 4);
        assert_eq!((r.len(), r.bytes(), r.paged()), (6, 60, 0));
    }

    /// A body that was read back stayed until a consumer took it, however short memory was. So a few queues with large
    /// messages and no consumers could stop all publishers for good.
    #[test]
    fn entries_that_were_read_back_return_to_the_run() {
        let mut r = Ready::default();
        (0..10).for_each(|s| r.push_back(entry(s)));
        r.page_out(0, 0, true, |_| Leave::Paged);
        assert_eq!(r.page_in(0, 5, page(0, 5)), 0);
        // While the next page is being read, what is in front of it stays.
        r.page_out(0, 0, false, |_| Leave::Paged);
        assert_eq!(r.in_memory(), 6);
        let back = r.pop_front().unwrap();
        r.pop_front().unwrap();
        r.page_out(0, 1, true, |e| if e.seq > 3 { Leave::Paged } else { Leave::Stay });
        assert_eq!((r.in_memory(), r.paged(), r.bytes()), (2, 6, 80));
        assert_eq!(r.page_in(0, 9, page(4, 9)), 0);
        r.put_back(back);
        assert_eq!(r.first_seq(), Some(0));
        let order: Vec<_> = std::iter::from_fn(|| r.pop_front()).map(|e| e.seq).collect();
        assert_eq!(order, [0, 2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn each_priority_has_a_run_of_its_own_and_the_highest_is_wanted_first() {
        let mut r = Ready::default();
        for seq in 0..12 {
            let priority = (seq % 3) as u8;
            r.push_back(Entry { priority, ..entry(seq) });
        }
        for priority in r.priorities() {
            r.page_out(priority, 0, true, |_| Leave::Paged);
        }
        assert_eq!(r.front_entries().count(), 0);
        let (priority, run) = r.wanted_run(1).unwrap();
        assert_eq!((priority, run.first, run.last, run.count), (2, 2, 11, 4));
        r.page_in(
            2,
            5,
            [2, 5]
                .map(|seq| Entry {
                    priority: 2,
                    ..entry(seq)
                })
                .into_iter(),
        );
        // Entries behind the run are not next, however many there are.
        r.push_back(Entry {
            priority: 1,
            ..entry(12)
        });
        assert_eq!(r.front_entries().map(|e| e.seq).collect::<Vec<_>>(), [2, 5]);
        assert_eq!((r.pop_front().unwrap().seq, r.pop_front().unwrap().seq), (2, 5));
        assert!(r.pop_front().is_none() && matches!(r.head(), Head::Paged));
    }
}
