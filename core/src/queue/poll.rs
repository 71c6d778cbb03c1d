//! What a queue can give its consumers now.
//!
//! A classic or a quorum queue begins with the message: its head goes to whichever consumer can take it. A stream,
//! which is not built, would begin with the consumer, because each consumer reads at a position of its own.

use super::Queue;
use super::entry::{Body, Entry, EntryFlags};
use super::ready::Head;
use crate::message::Message;
use crate::slots::ConsumerKey;
use crate::time::Wall;
use std::time::Duration;

/// See [`Queue::poll`].
pub(crate) enum Polled {
    /// The head goes to a consumer that accepted it. It counts as unsettled now.
    Entry {
        entry: Entry,
        /// A new hand-out mark should be staged, so that later entries need not wait for one.
        is_mark_due: bool,
    },
    /// Nothing waits.
    Empty,
    /// No consumer can take the head. It may expire meanwhile.
    Waits,
    /// A consumer can take the head, which has to be read from the log first.
    Load,
    /// The head has expired.
    Expired,
    /// A consumer can take the head, which has this sequence, but no written hand-out mark covers it.
    Unmarked(u64),
}

impl Queue {
    /// Hands the head to a consumer that can take it. `offer` is asked for each consumer, by priority and then in turn,
    /// whether it can take an entry with these flags. If its last argument (`is_given`) is true, a consumer that
    /// answers yes has the entry. All batches of the log up to `written` are written.
    #[inline]
    pub(crate) fn poll(
        &mut self,
        now: Wall,
        written: u64,
        mut offer: impl FnMut(ConsumerKey, EntryFlags, bool) -> bool,
    ) -> Polled {
        let is_alone = self.consumers.is_empty();
        let front = match self.ready.head() {
            Head::Empty => return Polled::Empty,
            Head::Paged if is_alone => return Polled::Waits,
            Head::Paged => return Polled::Load,
            Head::Entry(front) => front,
        };
        let (seq, flags) = (front.seq, front.flags);
        let is_here = match &front.body {
            Body::Memory(message) => {
                // A message with a time to live of 0 still goes to a consumer that is ready for it at once, but only once.
                let comes_now = !is_alone && !flags.has(EntryFlags::REDELIVERED);
                let is_over = |deadline| deadline < now || (!comes_now && deadline == now);
                if self.deadline(message).is_some_and(is_over) {
                    return Polled::Expired;
                }
                true
            }
            Body::Disk { .. } => false,
        };
        if is_alone {
            return Polled::Waits;
        }
        let is_logged = flags.has(EntryFlags::LOGGED);
        let is_marked = !is_logged || self.marks.allow(seq, written);
        let is_given = is_here && is_marked;
        let chosen = if self.arguments.single_active {
            let active = self.consumers.first();
            active.filter(|key| offer(*key, flags, is_given)).map(|_| 0)
        } else {
            self.consumers.next(|key| offer(key, flags, is_given))
        };
        // Do not read a body or stage a mark for a head that no consumer can take.
        let Some(next_turn) = chosen else {
            return Polled::Waits;
        };
        if !is_here {
            return Polled::Load;
        }
        if !is_marked {
            return Polled::Unmarked(seq);
        }
        self.consumers.took(next_turn);
        let Some(entry) = self.ready.pop_front() else {
            return Polled::Empty;
        };
        self.unsettled += 1;
        self.unsettled_bytes += entry.body.len() as u64;
        Polled::Entry {
            entry,
            is_mark_due: is_logged && self.marks.due(seq, written) && !self.ready.is_empty(),
        }
    }

    /// When the message expires in this queue.
    #[inline]
    pub(crate) fn deadline(&self, message: &Message) -> Option<Wall> {
        let envelope = message.envelope();
        let time_to_live = self.arguments.message_ttl_ms;
        let by_queue = time_to_live.map(|ttl| envelope.received + Duration::from_millis(ttl));
        match (envelope.deadline, by_queue) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    pub(crate) fn is_expired(&self, message: &Message, now: Wall) -> bool {
        self.deadline(message).is_some_and(|deadline| deadline <= now)
    }
}
