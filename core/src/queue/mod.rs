//! A queue: entries that wait ([`ready`]), entries that consumers hold ([`unsettled`]), and who consumes
//! ([`consumers`]). The engine moves messages between them; nothing here knows links, exchanges or the log's files.
//!
//! ```text
//!   publish ──► ready ──reserve──► a link's outbox ──take──► unsettled ──settle──► gone (acks)
//!                 ▲                      │                       │
//!                 └──────────────────────┴──── given back ───────┘   always to the old place
//! ```
//!
//! A long queue is mostly not here: [`ready`] knows its middle by first sequence, last sequence and count, and reads it
//! back from the log a page at a time. So memory does not grow with what waits, and a start need not list it.

pub(crate) mod arguments;
pub(crate) mod consumers;
pub(crate) mod credit;
pub(crate) mod entry;
pub(crate) mod poll;
pub(crate) mod queue_type;
pub(crate) mod ready;
pub(crate) mod unsettled;

use crate::ledger::{self, Charge};
use crate::message::{Envelope, Message};
use crate::properties::{Name, Table};
use crate::slots::{Link, SessionKey};
use crate::store::QueueId;
use crate::time::Time;
use arguments::{Arguments, Overflow};
use consumers::Consumers;
use entry::EntryFlags;
use ready::Ready;
use std::collections::BTreeMap;

/// What a queue serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueKind {
    /// Declared by name.
    Plain,
    /// Holds what an MQTT session is to receive.
    Session(SessionKey),
    /// A `$share` group's.
    Shared,
}

/// Whether a queue takes a message. See [`Queue::room_for`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Yes,
    /// It goes without, and nobody is told: QoS 0.
    Dropped,
    /// It is full, and its publisher is told.
    Refused,
}

/// One queue of a vhost.
pub(crate) struct Queue {
    /// Its number in the log; never reused.
    pub(crate) id: QueueId,
    pub(crate) name: Name,
    pub(crate) kind: QueueKind,
    /// Its definition and its durable messages survive a restart.
    pub(crate) durable: bool,
    /// The link it belongs to and goes with.
    pub(crate) exclusive: Option<Link>,
    /// Deleted when its last consumer goes.
    pub(crate) auto_delete: bool,
    /// It is being deleted, which takes more than one hold: nothing is bound to it any more.
    pub(crate) ending: bool,
    pub(crate) arguments: Arguments,
    /// Sequence number of the next message.
    pub(crate) next_seq: u64,
    pub(crate) ready: Ready,
    /// Entries reserved to or held by consumers.
    pub(crate) unsettled: usize,
    pub(crate) consumers: Consumers,
    /// On the engine's list of queues to dispatch.
    pub(crate) touched: bool,
    /// Settled sequences that the log does not know yet.
    acks: Vec<(u64, u64)>,
    pub(crate) marks: HandOutMarks,
    /// Bodies on their way from disk.
    pub(crate) loading: u32,
    /// On the engine's list of queues that want bodies from disk when others have got theirs.
    pub(crate) hungry: bool,
    /// A page of the run of that priority is on its way from disk.
    pub(crate) paging: Option<u8>,
    /// Sequences that the log has and that do not wait here, although they lie in a run: deliveries that were in flight
    /// when the process started. Ascending.
    pub(crate) absent: Vec<u64>,
    /// What is read back and older than this may have been handed out before.
    pub(crate) redelivered_below: u64,
    /// How often messages came back from consumers, by sequence, where the queue's type counts that. Only of messages that
    /// came back and are not settled.
    pub(crate) returned: BTreeMap<u64, u32>,
    /// On the engine's list of queues whose bodies may leave memory.
    pub(crate) deep: bool,
    /// The last batch that spilled some of its transient messages, if any did.
    pub(crate) spilled: Option<u64>,
    /// When the queue was last used, for `x-expires`.
    pub(crate) used_at: Time,
    /// When the engine looks at its head for expired messages, if that is scheduled.
    pub(crate) expiry_check: Option<Time>,
    /// When the engine looks whether it is still used, if that is scheduled.
    pub(crate) expiry_timer: Option<Time>,
    /// What it costs in memory, beside its messages.
    pub(crate) charge: Charge,
}

/// Hand-out marks: before a crash can hide that a message was handed out, the log says that it may have been.
///
/// A mark is staged ahead, 1,024 messages at a time. An entry may be handed out when a mark above it is in the log, or
/// stands in the same batch as the entry's own record or in an earlier one: if the entry survives, so does the mark.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HandOutMarks {
    /// Entries below it may go: their mark is written.
    pub(crate) written: u64,
    /// Entries below it may go once `ticket` is written, or at once if they are not older than `staged_at`.
    pub(crate) staged: u64,
    /// `next_seq` when the mark was staged.
    pub(crate) staged_at: u64,
    /// The batch the staged mark is in.
    pub(crate) ticket: u64,
    /// The batch whose report the queue is on the list for.
    pub(crate) awaited: u64,
}

/// Messages a mark is ahead.
pub(crate) const HAND_OUT_AHEAD: u64 = 1024;

impl HandOutMarks {
    /// Whether the entry may be handed out, given that all batches up to `upto` are written.
    pub(crate) fn allow(&mut self, seq: u64, upto: u64) -> bool {
        if seq < self.written {
            return true;
        }
        self.written_if(upto);
        seq < self.written || (seq < self.staged && seq >= self.staged_at)
    }
    /// Takes note of the staged mark if its batch is written, before another one takes its place.
    pub(crate) fn written_if(&mut self, upto: u64) {
        if self.ticket <= upto {
            self.written = self.written.max(self.staged);
        }
    }
    /// A mark for `seq`, which is published now, and those after it.
    pub(crate) fn stage_at_publish(&mut self, seq: u64, ticket: u64, upto: u64) {
        self.written_if(upto);
        // An unwritten mark before this one covers what lies between the two: its entries need not wait for this one.
        if self.ticket <= upto || seq > self.staged {
            self.staged_at = seq;
        }
        self.staged = seq + HAND_OUT_AHEAD;
        self.ticket = ticket;
    }
    /// A mark for `seq`, which waits in the queue, and those after it.
    pub(crate) fn stage_ahead(&mut self, seq: u64, next_seq: u64, ticket: u64, upto: u64) {
        self.written_if(upto);
        self.staged = self.staged.max(seq) + HAND_OUT_AHEAD;
        self.staged_at = next_seq;
        self.ticket = ticket;
    }
    /// Whether a new mark should be staged before `seq` is handed out, or soon.
    pub(crate) fn due(&self, seq: u64, upto: u64) -> bool {
        seq >= self.staged || (seq + HAND_OUT_AHEAD / 2 >= self.staged && self.ticket <= upto)
    }
}

impl Queue {
    /// What a queue costs in memory: its entry, its places in the tables of names, slots and bindings, and in the log's index.
    pub(crate) fn memory(name: &str, arguments: &Table, durable: bool) -> usize {
        let tables = ledger::hashed::<(Name, u32)>() + 2 * ledger::hashed::<(u64, [usize; 3])>();
        let log = if durable { ledger::indexed(9) } else { 0 };
        std::mem::size_of::<Queue>() * 5 / 4 + tables + ledger::text(name.len()) + arguments.memory() + log
    }

    pub(crate) fn new(id: QueueId, name: Name, kind: QueueKind, durable: bool, now: Time) -> Queue {
        Queue {
            id,
            name,
            kind,
            durable,
            exclusive: None,
            auto_delete: false,
            ending: false,
            arguments: Arguments::default(),
            next_seq: 0,
            ready: Ready::default(),
            unsettled: 0,
            consumers: Consumers::default(),
            touched: false,
            acks: Vec::new(),
            marks: HandOutMarks::default(),
            loading: 0,
            hungry: false,
            paging: None,
            absent: Vec::new(),
            redelivered_below: 0,
            returned: BTreeMap::new(),
            deep: false,
            spilled: None,
            used_at: now,
            expiry_check: None,
            expiry_timer: None,
            charge: Charge::default(),
        }
    }

    /// Whether a message with this envelope, delivered with `qos`, is kept by the log for this queue.
    pub(crate) fn logs(&self, envelope: &Envelope, qos: u8) -> bool {
        self.durable
            && match self.kind {
                QueueKind::Plain => envelope.durable || self.arguments.queue_type.stores_transient(),
                // A QoS 0 delivery is lost with its session's connection anyway: no record, no settle.
                QueueKind::Session(_) | QueueKind::Shared => envelope.durable && qos > 0,
            }
    }

    /// Whether the queue is that session's own.
    #[inline]
    pub(crate) fn is_of(&self, session: Option<SessionKey>) -> bool {
        matches!((self.kind, session), (QueueKind::Session(of), Some(session)) if of == session)
    }

    /// Whether the queue takes a message delivered with `qos`. `backlog_max`: messages that a session's or group's queue keeps
    /// for a slow subscriber.
    #[inline]
    pub(crate) fn room_for(&self, message: &Message, qos: u8, backlog_max: usize) -> Room {
        match self.kind {
            QueueKind::Plain if self.refuses(message, (0, 0)) => Room::Refused,
            QueueKind::Plain => Room::Yes,
            // At most once: a subscriber that is away or too slow does without. Others are not held up by it.
            _ if qos == 0 && (self.ready.len() >= backlog_max || self.consumers.is_empty()) => Room::Dropped,
            _ => Room::Yes,
        }
    }

    /// Whether a full queue turns the message away, if `ahead` (messages, bytes) are put into it before.
    pub(crate) fn refuses(&self, message: &Message, ahead: (u64, u64)) -> bool {
        let a = &self.arguments;
        if a.overflow == Overflow::DropHead {
            return false;
        }
        let bytes = self.ready.bytes() + ahead.1 + message.body().len() as u64;
        a.length_max.is_some_and(|max| self.ready.len() as u64 + ahead.0 >= max)
            || a.bytes_max.is_some_and(|max| bytes > max)
    }

    /// Whether there is a limit for what waits.
    pub(crate) fn is_limited(&self) -> bool {
        self.arguments.length_max.is_some() || self.arguments.bytes_max.is_some()
    }

    /// Whether the oldest messages are to make room. A queue that refuses may be over its limit by what came back to it: that
    /// was confirmed, and stays.
    pub(crate) fn drops_head(&self) -> bool {
        self.arguments.overflow == Overflow::DropHead && self.is_over_limit()
    }

    /// Whether more waits than the limits allow.
    pub(crate) fn is_over_limit(&self) -> bool {
        let a = &self.arguments;
        a.length_max.is_some_and(|max| self.ready.len() as u64 > max)
            || a.bytes_max.is_some_and(|max| self.ready.bytes() > max)
    }

    /// The priority that the queue tells a message by.
    #[inline]
    pub(crate) fn priority_of(&self, envelope: &Envelope) -> u8 {
        envelope.priority.unwrap_or(0).min(self.arguments.priority_max)
    }

    /// The flags of an entry as the log keeps them for this queue.
    #[inline]
    pub(crate) fn logged_flags(&self, flags: EntryFlags, priority: u8) -> u8 {
        if self.arguments.priority_max > 0 {
            flags.with_priority(priority).0
        } else {
            flags.0
        }
    }

    /// The number of the next message, which is given to it.
    #[inline]
    pub(crate) fn next_number(&mut self) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        seq
    }

    /// Counts a return of the message `seq` from a consumer. Returns how often it came back by now, if the queue's type
    /// counts that.
    pub(crate) fn count_return(&mut self, seq: u64) -> Option<u32> {
        if !self.arguments.queue_type.counts_returns() {
            return None;
        }
        let count = self.returned.entry(seq).or_insert(0);
        *count = count.saturating_add(1);
        Some(*count)
    }

    /// Whether a message that came back this often dies.
    pub(crate) fn is_over_delivery_limit(&self, count: u32) -> bool {
        self.arguments
            .delivery_limit
            .is_some_and(|limit| u64::from(count) > limit)
    }

    /// Remembers for the log that `seq` is settled. Returns whether it is the first since the acks were taken.
    pub(crate) fn note_ack(&mut self, seq: u64) -> bool {
        match self.acks.last_mut() {
            Some((_, last)) if *last + 1 == seq => {
                *last = seq;
                false
            }
            Some(_) => {
                self.acks.push((seq, seq));
                false
            }
            None => {
                self.acks.push((seq, seq));
                true
            }
        }
    }

    /// Remembers for the log that all of `first..=last` is settled.
    pub(crate) fn note_acks(&mut self, first: u64, last: u64) {
        self.acks.push((first, last));
    }

    /// Whether the log knows all that is settled.
    pub(crate) fn acks_empty(&self) -> bool {
        self.acks.is_empty()
    }
    /// The settled sequences as ascending, merged ranges; clears them.
    pub(crate) fn take_acks(&mut self) -> Vec<(u64, u64)> {
        let mut acks = std::mem::take(&mut self.acks);
        if acks.is_sorted_by(|a, b| a.1 + 1 < b.0) {
            return acks;
        }
        acks.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(acks.len());
        for (first, last) in acks {
            match merged.last_mut() {
                Some(m) if first <= m.1 + 1 => m.1 = m.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acks_out_of_order_merge_into_ranges() {
        let mut q = Queue::new(QueueId(1), "q".into(), QueueKind::Plain, true, Time(0));
        for seq in [5, 6, 2, 1, 9, 3] {
            q.note_ack(seq);
        }
        assert_eq!(q.take_acks(), [(1, 3), (5, 6), (9, 9)]);
        assert!(q.take_acks().is_empty());
    }

    #[test]
    fn an_entry_published_with_its_mark_may_go_at_once_an_older_one_waits() {
        let mut m = HandOutMarks {
            staged: 1124,
            staged_at: 100,
            ticket: 7,
            ..HandOutMarks::default()
        };
        assert!(m.allow(100, 6));
        assert!(!m.allow(99, 6));
        assert!(m.allow(99, 7));
        assert!(!m.allow(1124, 7));
    }
}
