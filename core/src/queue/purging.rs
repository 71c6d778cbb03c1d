//! A purge of a queue some of whose messages are outstanding: what it must not take away, as far as that is known.

use super::ready::Ready;
use super::{Queue, RETURN_BYTES};
use crate::slots::Link;
use std::collections::{BTreeMap, BTreeSet};

/// A purge that is not all in the log yet. What waited in the queue is gone from it since the purge began.
pub(crate) struct Purging {
    /// All below that number is purged, but for what was outstanding then.
    pub(crate) upto: u64,
    /// Sequences that were outstanding when the purge began: those that were found so far.
    outstanding: BTreeSet<u64>,
    /// How often messages came back, as of then. Counts of those that are outstanding stay.
    pub(crate) counted: BTreeMap<u64, u32>,
    pub(crate) stage: Stage,
}

/// How far a purge is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stage {
    /// Looking for what is outstanding, link by link.
    Looking(Place),
    /// Telling the log what is not outstanding, from that number on.
    Telling(u64),
    /// Forgetting the counts of what is gone.
    Forgetting,
}

/// Where the search for what is outstanding is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    /// Slot of the link.
    pub(crate) slot: u32,
    /// The link there whose outbox is done, and then the channels before that place.
    pub(crate) link: Option<Link>,
    pub(crate) channel: usize,
    /// The channel's unsettled deliveries are done; those that it has rejected are looked at.
    pub(crate) postponed: bool,
    /// From that delivery on.
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

    /// A message that was not purged. Returns how often it has come back, if that was counted: the count stays.
    pub(crate) fn note_outstanding(&mut self, seq: u64) -> Option<u32> {
        if seq >= self.upto {
            return None;
        }
        self.outstanding.insert(seq);
        self.counted.remove(&seq)
    }

    /// The next range of what is purged, from `from` on, and where to go on behind it.
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

/// What was taken out of a queue.
pub(crate) struct Purged {
    pub(crate) ready: Ready,
    /// The log had some of it.
    pub(crate) logged: bool,
}

impl Queue {
    /// Takes out what waits. `has_outstanding`: some of the queue's messages are outstanding, and stay. Then the log is told
    /// in steps: see [`Queue::purging`].
    pub(crate) fn purge(&mut self, has_outstanding: bool) -> Purged {
        // A transient queue has something in the log only if it was spilled.
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

    /// A message is unsettled, or on its way to where dead letters go: if the queue is being purged, it stays.
    #[inline]
    pub(crate) fn spare(&mut self, seq: u64) {
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
    fn what_is_gone_is_all_that_is_not_outstanding() {
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
            // It comes back meanwhile, which is not news.
            purging.note_outstanding(3);
            from = next;
        }
        assert_eq!(gone, [(1, 2), (5, 9)]);
    }
}
