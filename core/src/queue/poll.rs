//! What a queue has for its consumers now.
//!
//! A classic queue and a quorum queue look at the message first: its head goes to whoever can take it. A stream would look at
//! the consumer first, because each has a place of its own.

use super::Queue;
use super::entry::{Body, Entry, EntryFlags};
use super::ready::Head;
use crate::message::Message;
use crate::slots::ConsumerKey;
use crate::time::Wall;
use std::time::Duration;

/// See [`Queue::poll`].
pub(crate) enum Polled {
    /// The head goes to the consumer that was offered it and took it. It counts as unsettled.
    Entry {
        entry: Entry,
        /// The next hand-out mark should be staged, so that later entries need not wait for it.
        is_mark_due: bool,
    },
    /// There is nothing.
    Empty,
    /// Nobody can take the head. It may expire while it waits.
    Waits,
    /// Somebody can take the head, which is to be read from the log first.
    Load,
    /// The head's time is over.
    Expired,
    /// Somebody can take the head, whose sequence this is, but its hand-out mark is not written.
    Unmarked(u64),
}

impl Queue {
    /// Hands the head to a consumer, if there is one for it. `offer` is asked about consumers, by priority and then in turn:
    /// whether the consumer can have an entry with these flags; if `is_given`, it has it once the answer is yes.
    /// `written`: all batches of the log up to this one are written.
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
                // A time to live of nothing still lets a message pass straight to a consumer.
                let is_over = |deadline| deadline < now || (is_alone && deadline == now);
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
        // A body or a mark that nobody waits for would be work for nothing.
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

    /// When the message's time in this queue is over.
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
