//! A queue: entries that wait ([`ready`]), entries that consumers have not settled ([`unsettled`]), and its consumers
//! ([`consumers`]). The engine moves messages between them. Nothing here knows links, exchanges or the log's files.
//!
//! ```text
//!   publish ──► ready ──reserve──► a link's outbox ──take──► unsettled ──settle──► gone (acks)
//!                 ▲                      │                       │
//!                 └──────────────────────┴──── given back ───────┘   always to the old place
//! ```
//!
//! Most of a long queue is not in memory: [`ready`] knows its middle by first sequence, last sequence and count, and
//! reads it back from the log a page at a time. So memory does not grow with the number of waiting messages, and a
//! start need not list them.

pub(crate) mod arguments;
pub(crate) mod consumers;
pub(crate) mod credit;
pub(crate) mod entry;
mod marks;
mod paging;
pub(crate) mod poll;
pub(crate) mod purging;
pub(crate) mod ready;
pub(crate) mod restore;
pub(crate) mod unsettled;

use crate::ledger::{self, Charge};
use crate::message::{Envelope, Message};
use crate::overflow::Overflow;
use crate::policy::Applied;
use crate::properties::{Name, Table};
use crate::slots::{Link, SessionKey};
use crate::store::{QueueId, State};
use crate::time::Time;
use arguments::Arguments;
use consumers::Consumers;
use entry::{Body, Entry, EntryFlags};
use marks::HandOutMarks;
use purging::Purging;
use ready::{Head, Ready};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueKind {
    /// Declared by name, by a client.
    Plain,
    /// Holds the messages for an MQTT session.
    Session(SessionKey),
    /// Holds the messages for a `$share` group.
    Shared,
}

/// Whether a queue takes a message. See [`Queue::room_for`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Yes,
    /// The message is dropped for this queue, and its publisher is not told: QoS 0.
    Dropped,
    /// The queue is full, and the publisher is told.
    Refused,
}

/// Counts of a queue since the process started, for listings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Messages put into it.
    pub published: u64,
    /// Deliveries to consumers that settle them.
    pub delivered: u64,
    /// Deliveries that were settled when taken.
    pub delivered_no_ack: u64,
    /// Messages fetched by `Get`, to be settled.
    pub got: u64,
    /// Messages fetched by `Get`, settled when taken.
    pub got_no_ack: u64,
    /// `Get`s that found it empty.
    pub get_empty: u64,
    /// Deliveries settled as accepted.
    pub acknowledged: u64,
    /// Deliveries of messages handed out before.
    pub redelivered: u64,
}

/// The rarely changed part of [`QueueCounts`].
#[derive(Default)]
pub(crate) struct SeldomCounts {
    /// The next sequence when the process started. `published` is the difference to it.
    first_seq: u64,
    pub(crate) got: u64,
    pub(crate) got_no_ack: u64,
    pub(crate) get_empty: u64,
    pub(crate) redelivered: u64,
}

/// One queue of a vhost.
///
/// Fields are in this order so that those a turn touches lie together: cold cache lines are most of the cost of a turn.
#[repr(C)]
pub(crate) struct Queue {
    pub(crate) kind: QueueKind,
    /// Whether its definition and its durable messages survive a restart.
    pub(crate) durable: bool,
    /// It is on the engine's list of queues to dispatch.
    pub(crate) touched: bool,
    /// It is on the engine's list of queues whose bodies may leave memory.
    pub(crate) evictable: bool,
    /// It is on the engine's list of queues that wait for others' reads to finish before their own bodies are read.
    pub(crate) awaits_reads: bool,
    /// Its deletion has begun and takes more than one hold. Nothing is bound to it any more.
    pub(crate) ending: bool,
    /// It is deleted when its last consumer is cancelled.
    pub(crate) auto_delete: bool,
    /// It is on the engine's list of queues to dispatch in the next turn.
    pub(crate) dispatched_later: bool,
    /// It is on the engine's list of queues that are over their limits.
    pub(crate) overfull: bool,
    /// Its number in the log, which is never reused.
    pub(crate) id: QueueId,
    /// Sequence number of the next message.
    next_seq: u64,
    /// The number of entries that are reserved for consumers or unsettled.
    unsettled: usize,
    /// Bytes of their bodies.
    unsettled_bytes: u64,
    /// Deliveries to consumers that settle them.
    pub(crate) delivered: u64,
    /// Messages that were settled when they were taken, by consumers and by `Get`.
    pub(crate) taken: u64,
    /// Deliveries settled as accepted.
    pub(crate) acknowledged: u64,
    /// A purge whose records are not all staged yet.
    pub(crate) purging: Option<Box<Purging>>,
    pub(crate) consumers: Consumers,
    marks: HandOutMarks,
    ready: Ready,
    pub(crate) arguments: Arguments,
    // Rarely used fields follow.
    pub(crate) seldom: SeldomCounts,
    pub(crate) name: Name,
    /// The policies that apply. Their effect is in `arguments`.
    pub(crate) policy: Option<Arc<Applied>>,
    /// The link that owns the queue. The queue is deleted with it.
    pub(crate) exclusive: Option<Link>,
    /// The number of subscriptions to the `$share` group that the queue belongs to.
    pub(crate) members: u32,
    /// Settled sequences that the log has no record of yet.
    acks: Vec<(u64, u64)>,
    /// The number of bodies being read from the log.
    pub(crate) loading: u32,
    /// A page of the run of this priority is being read.
    paging: Option<u8>,
    /// Sequences within a run that the log has and that do not wait here: deliveries that were in flight when the process
    /// started. Ascending.
    absent: Vec<u64>,
    /// Entries read back with a lower sequence may have been handed out before.
    redelivered_below: u64,
    /// How often each message came back from consumers, by sequence. Only for queue types that count it, and only
    /// messages that came back and are not settled yet.
    returned: BTreeMap<u64, u32>,
    /// The last batch that some of its transient messages were spilled with.
    pub(crate) spilled: Option<u64>,
    /// When the queue was last used, for `x-expires`.
    pub(crate) used_at: Time,
    /// When the engine next checks its head for expired messages, if that is scheduled.
    pub(crate) expiry_check: Option<Time>,
    /// The sequence of the head whose deadline was looked at: it has none, or `expiry_check` is set for it. Without this,
    /// the body of the head would be read from the log whenever a message is published behind it.
    pub(crate) watched: Option<u64>,
    /// When the engine next checks whether it is still used, if that is scheduled.
    pub(crate) expiry_timer: Option<Time>,
    /// What it costs in memory without its messages.
    pub(crate) charge: Charge,
}

/// Bytes that a count of returns occupies: an entry here, and one in the log's index.
pub(crate) const RETURN_BYTES: usize = 2 * ledger::sorted::<u64, u32>();

impl Queue {
    /// Bytes that a queue occupies: its entry, and its places in the tables of names, slots and bindings and in the
    /// log's index.
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
            policy: None,
            next_seq: 0,
            ready: Ready::default(),
            unsettled: 0,
            unsettled_bytes: 0,
            delivered: 0,
            taken: 0,
            acknowledged: 0,
            seldom: SeldomCounts::default(),
            consumers: Consumers::default(),
            touched: false,
            dispatched_later: false,
            overfull: false,
            purging: None,
            members: 0,
            acks: Vec::new(),
            marks: HandOutMarks::default(),
            loading: 0,
            awaits_reads: false,
            paging: None,
            absent: Vec::new(),
            redelivered_below: 0,
            returned: BTreeMap::new(),
            evictable: false,
            spilled: None,
            used_at: now,
            expiry_check: None,
            watched: None,
            expiry_timer: None,
            charge: Charge::default(),
        }
    }

    /// Whether the log keeps a message with this envelope, delivered with `qos`, for this queue.
    pub(crate) fn logs(&self, envelope: &Envelope, qos: u8) -> bool {
        self.durable
            && match self.kind {
                QueueKind::Plain => envelope.durable || self.arguments.queue_type.stores_transient(),
                // A QoS 0 delivery is lost with the session's connection anyway, so it needs no record.
                QueueKind::Session(_) | QueueKind::Shared => envelope.durable && qos > 0,
            }
    }

    /// Whether it is the queue of that session.
    #[inline]
    pub(crate) fn belongs_to(&self, session: Option<SessionKey>) -> bool {
        matches!((self.kind, session), (QueueKind::Session(of), Some(session)) if of == session)
    }

    /// Whether the queue takes a message delivered with `qos`. `backlog_max`: the most QoS 0 messages that the queue of
    /// a session or group keeps for a slow subscriber.
    #[inline]
    pub(crate) fn room_for(&self, message: &Message, qos: u8, backlog_max: usize) -> Room {
        match self.kind {
            QueueKind::Plain if self.refuses(message, (0, 0)) => Room::Refused,
            QueueKind::Plain => Room::Yes,
            // QoS 0 is at most once: a subscriber that is away or too slow loses messages, so that nobody else has to wait
            // for it.
            _ if qos == 0 && (self.ready.len() >= backlog_max || self.consumers.is_empty()) => Room::Dropped,
            // A policy may limit the queue, too.
            _ if self.refuses(message, (0, 0)) && qos == 0 => Room::Dropped,
            _ if self.refuses(message, (0, 0)) => Room::Refused,
            _ => Room::Yes,
        }
    }

    /// Whether the queue is too full for the message. `ahead`: messages and bytes that are put into it before.
    pub(crate) fn refuses(&self, message: &Message, ahead: (u64, u64)) -> bool {
        let a = &self.arguments;
        if a.overflow == Overflow::DropHead {
            return false;
        }
        let bytes = self.ready.bytes() + ahead.1 + message.body().len() as u64;
        a.length_max.is_some_and(|max| self.ready.len() as u64 + ahead.0 >= max)
            || a.bytes_max.is_some_and(|max| bytes > max)
    }

    /// Whether the number or the bytes of waiting messages are limited.
    pub(crate) fn is_limited(&self) -> bool {
        self.arguments.length_max.is_some() || self.arguments.bytes_max.is_some()
    }

    /// Whether the oldest messages are to be dropped. A queue that refuses messages instead can be over its limit
    /// because messages came back from consumers. Those were confirmed, so they stay.
    pub(crate) fn drops_head(&self) -> bool {
        self.arguments.overflow == Overflow::DropHead && self.is_over_limit()
    }

    /// Whether more messages wait than the limits allow.
    pub(crate) fn is_over_limit(&self) -> bool {
        let a = &self.arguments;
        a.length_max.is_some_and(|max| self.ready.len() as u64 > max)
            || a.bytes_max.is_some_and(|max| self.ready.bytes() > max)
    }

    /// The priority of a message in this queue.
    #[inline]
    pub(crate) fn priority_of(&self, envelope: &Envelope) -> u8 {
        envelope.priority.unwrap_or(0).min(self.arguments.priority_max)
    }

    /// The flags of an entry as this queue's records have them.
    #[inline]
    pub(crate) fn logged_flags(&self, flags: EntryFlags, priority: u8) -> u8 {
        if self.arguments.priority_max > 0 {
            flags.with_priority(priority).0
        } else {
            flags.0
        }
    }

    /// The waiting entries.
    #[inline]
    pub(crate) fn ready(&self) -> &Ready {
        &self.ready
    }
    /// The entry at the front.
    #[inline]
    pub(crate) fn head(&self) -> Head<'_> {
        self.ready.head()
    }
    /// The number of waiting messages.
    pub(crate) fn depth(&self) -> usize {
        self.ready.len()
    }
    /// The number of waiting messages as protocols report it, in 32 bits.
    pub(crate) fn reported_depth(&self) -> u32 {
        u32::try_from(self.ready.len()).unwrap_or(u32::MAX)
    }
    /// The number of entries that are reserved for consumers or unsettled.
    pub(crate) fn unsettled(&self) -> usize {
        self.unsettled
    }
    /// Bytes of their bodies.
    pub(crate) fn unsettled_bytes(&self) -> u64 {
        self.unsettled_bytes
    }
    /// The sequence of the next message. All messages that were ever in the queue have lower ones.
    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Counts since the process started.
    pub(crate) fn counts(&self) -> QueueCounts {
        let seldom = &self.seldom;
        QueueCounts {
            published: self.next_seq - seldom.first_seq,
            delivered: self.delivered,
            delivered_no_ack: self.taken.saturating_sub(seldom.got_no_ack),
            got: seldom.got,
            got_no_ack: seldom.got_no_ack,
            get_empty: seldom.get_empty,
            acknowledged: self.acknowledged,
            redelivered: seldom.redelivered,
        }
    }

    /// Takes the sequence for the next message.
    #[inline]
    pub(crate) fn next_number(&mut self) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        seq
    }
    /// Appends a message that has its sequence already.
    #[inline]
    pub(crate) fn push(&mut self, entry: Entry) {
        self.ready.push_back(entry);
    }
    /// Appends a copy of a message that the log does not keep for this queue.
    pub(crate) fn push_copy(&mut self, message: Message, flags: EntryFlags, subscription_ids: Option<Arc<[u32]>>) {
        let entry = Entry {
            priority: self.priority_of(message.envelope()),
            seq: self.next_number(),
            body: Body::Memory(message),
            flags,
            subscription_ids,
        };
        self.push(entry);
    }
    /// Removes the head, if it is in memory.
    pub(crate) fn drop_head(&mut self) -> Option<Entry> {
        self.ready.pop_front()
    }
    /// Removes the head for a `Get`. It counts as unsettled.
    pub(crate) fn fetch(&mut self) -> Option<Entry> {
        let entry = self.ready.pop_front()?;
        self.unsettled += 1;
        self.unsettled_bytes += entry.body.len() as u64;
        Some(entry)
    }
    /// Counts an unsettled entry as settled.
    #[inline]
    pub(crate) fn settled(&mut self, body: &Body) {
        self.unsettled -= 1;
        self.unsettled_bytes -= body.len() as u64;
    }
    /// Puts an unsettled entry back into its former place.
    pub(crate) fn put_back(&mut self, entry: Entry) {
        self.unsettled -= 1;
        self.unsettled_bytes -= entry.body.len() as u64;
        self.ready.put_back(entry);
    }
    /// Removes all waiting entries.
    pub(crate) fn take_ready(&mut self) -> Ready {
        self.paging = None;
        std::mem::take(&mut self.ready)
    }

    /// Whether a message published with this sequence should be staged with a hand-out mark: a consumer may take it at
    /// once, and the present mark ends soon.
    #[inline]
    pub(crate) fn needs_mark(&self, seq: u64) -> bool {
        self.marks.is_near(seq) && !self.consumers.is_empty()
    }
    /// The mark to be staged with a message published with this sequence, so that it can be handed out at once.
    pub(crate) fn mark_at_publish(&mut self, seq: u64, open: u64, written: u64) -> State {
        self.marks.stage_at_publish(seq, open, written);
        self.mark()
    }
    /// The mark to be staged so that a waiting message with this sequence can be handed out once batch `ticket` is
    /// written.
    pub(crate) fn mark_ahead(&mut self, seq: u64, ticket: u64, written: u64) -> State {
        self.marks.stage_ahead(seq, self.next_seq, ticket, written);
        self.mark()
    }
    fn mark(&self) -> State {
        State::HandedOut {
            queue: self.id,
            upto: self.marks.upto(),
        }
    }
    /// Whether a new mark should be staged before `seq`, or one of the next, is handed out.
    pub(crate) fn is_mark_due(&self, seq: u64, written: u64) -> bool {
        self.marks.due(seq, written)
    }
    /// The batch with the mark that the head waits for, if nothing waits for that batch yet.
    pub(crate) fn mark_to_await(&mut self) -> Option<u64> {
        self.marks.await_batch()
    }
    /// Whether a written mark covers the entry, or it needs none, so that it may be handed out.
    pub(crate) fn is_marked(&mut self, seq: u64, flags: EntryFlags, written: u64) -> bool {
        !flags.has(EntryFlags::LOGGED) || self.marks.allow(seq, written)
    }
    /// The same without changing anything, for the audit.
    #[cfg(feature = "testing")]
    pub(crate) fn would_be_marked(&self, seq: u64, flags: EntryFlags, written: u64) -> bool {
        let mut marks = self.marks;
        !flags.has(EntryFlags::LOGGED) || marks.allow(seq, written)
    }
    /// The batch with the mark that covers the sequence, if one is staged.
    pub(crate) fn mark_staged_for(&self, seq: u64) -> Option<u64> {
        self.marks.staged_for(seq)
    }

    /// How often a message came back from consumers. `None` if it never did, or the queue does not count it.
    pub(crate) fn returns_of(&self, seq: u64) -> Option<u32> {
        self.returned.get(&seq).copied()
    }
    /// Forgets the count of a message that has left the queue.
    pub(crate) fn forget_returns(&mut self, seq: u64) {
        if self.returned.remove(&seq).is_some() {
            self.charge.shrink(RETURN_BYTES);
        }
    }
    /// Bytes that the counts occupy.
    pub(crate) fn returns_bytes(&self) -> usize {
        self.returned.len() * RETURN_BYTES
    }

    /// Whether counting another return of message `seq` takes more memory.
    pub(crate) fn is_first_return(&self, seq: u64) -> bool {
        self.arguments.queue_type.counts_returns() && !self.returned.contains_key(&seq)
    }

    /// Counts a return of message `seq` from a consumer. Returns the new count; `None` if the queue's type does not
    /// count.
    pub(crate) fn count_return(&mut self, seq: u64) -> Option<u32> {
        if !self.arguments.queue_type.counts_returns() {
            return None;
        }
        let count = self.returned.entry(seq).or_insert_with(|| {
            self.charge.grow(RETURN_BYTES);
            0
        });
        *count = count.saturating_add(1);
        Some(*count)
    }

    /// Whether a message that came back this often is to be dead-lettered.
    pub(crate) fn is_over_delivery_limit(&self, count: u32) -> bool {
        self.arguments
            .delivery_limit
            .is_some_and(|limit| u64::from(count) > limit)
    }

    /// Notes for the log that `seq` is settled. Returns whether it is the first one since [`Queue::take_acks`].
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

    /// Notes for the log that all of `first..=last` are settled.
    pub(crate) fn note_acks(&mut self, first: u64, last: u64) {
        self.acks.push((first, last));
    }

    /// Whether no settled sequence waits to be staged.
    pub(crate) fn acks_empty(&self) -> bool {
        self.acks.is_empty()
    }
    /// Takes the settled sequences, as ascending and merged ranges.
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
}
