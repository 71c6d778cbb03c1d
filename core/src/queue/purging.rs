//! A purge of a queue some of whose messages are outstanding (reserved or unsettled): these must not be purged.

use super::ready::Ready;
use super::{Queue, RETURN_BYTES};
use crate::slots::Link;
use std::collections::{BTreeMap, BTreeSet};

/// A purge whose records are not all staged yet. All messages that waited were removed from the queue when it began.
pub(crate) struct Purging {
    /// All lower sequences are purged, except those that were outstanding.
    pub(crate) upto: u64,
    /// Sequences that were outstanding when the purge began, as far as the search has found them.
    outstanding: BTreeSet<u64>,
    /// Counts of returns at that time. Those of outstanding messages are kept.
    pub(crate) counted: BTreeMap<u64, u32>,
    pub(crate) stage: Stage,
}

/// The stages of a purge.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stage {
    /// Searching for outstanding messages, link by link.
    Looking(Place),
    /// Telling the log what is purged, from this sequence on.
    Telling(u64),
    /// Forgetting the counts of purged messages.
    Forgetting,
}

/// The place in the search for outstanding messages.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    /// Slot of the link.
    pub(crate) slot: u32,
    /// The link in this slot, once its outbox has been searched. Then its channels before `channel` are done, too.
    pub(crate) link: Option<Link>,
    pub(crate) channel: usize,
    /// The channel's unsettled deliveries are done. Its rejected ones, whose dead-lettering is postponed, are searched.
    pub(crate) postponed: bool,
    /// The delivery to continue at.
    pub(crate) number: u64,
}

impl Purging {
    pub(crate) fn new(upto: u64, counted: BTreeMap<u64, u32>) -> Purging {
        Purging {
            upto,
            outstanding: BTreeSet::new(),
            counted,
            stage: Stage::Looking(Place::default()),
        }
    }

    /// Notes an outstanding message, which is not purged. Returns how often it has come back, if that was counted.
    pub(crate) fn note_outstanding(&mut self, seq: u64) -> Option<u32> {
        if seq >= self.upto {
            return None;
        }
        self.outstanding.insert(seq);
        self.counted.remove(&seq)
    }

    /// The next range of purged sequences at or behind `from`, and where to continue.
    pub(crate) fn next_gone(&mut self, from: u64) -> Option<((u64, u64), u64)> {
        let mut from = from;
        while from < self.upto {
            match self.outstanding.pop_first() {
                Some(kept) if kept < from => {}
                Some(kept) if kept == from => from += 1,
                Some(kept) => return Some(((from, kept - 1), kept + 1)),
                None => return Some(((from, self.upto - 1), self.upto)),
            }
        }
        None
    }
}

/// What a purge removed from a queue.
pub(crate) struct Purged {
    pub(crate) ready: Ready,
    /// Whether the log has records of some of it.
    pub(crate) logged: bool,
}

impl Queue {
    /// Removes all waiting messages. `has_outstanding`: some messages are outstanding and stay. The log is then told in
    /// steps: see [`Queue::purging`].
    pub(crate) fn purge(&mut self, has_outstanding: bool) -> Purged {
        // The log has records of a transient queue only if messages were spilled.
        let logged = self.durable || self.spilled.is_some();
        if logged {
            self.charge.shrink(self.returns_bytes());
            let counted = std::mem::take(&mut self.returned);
            self.purging = has_outstanding.then(|| Box::new(Purging::new(self.next_seq, counted)));
        }
        Purged {
            ready: self.take_ready(),
            logged,
        }
    }

    /// A message is unsettled, or its dead-lettering is postponed. If the queue is being purged, it stays.
    #[inline]
    pub(crate) fn keep_outstanding(&mut self, seq: u64) {
        if let Some(purging) = &mut self.purging
            && let Some(count) = purging.note_outstanding(seq)
            && self.returned.insert(seq, count).is_none()
        {
            self.charge.grow(RETURN_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_not_outstanding_is_purged() {
        let mut purging = Purging::new(10, [(3, 7), (4, 1)].into());
        assert_eq!(purging.note_outstanding(3), Some(7));
        assert_eq!(
            (
                purging.note_outstanding(0),
                purging.note_outstanding(4),
                purging.note_outstanding(12)
            ),
            (None, Some(1), None)
        );
        let (mut from, mut gone) = (0, Vec::new());
        while let Some((range, next)) = purging.next_gone(from) {
            gone.push(range);
            // It comes back meanwhile, which changes nothing.
            purging.note_outstanding(3);
            from = next;
        }
        assert_eq!(gone, [(1, 2), (5, 9)]);
    }
}
