//! What is live and where, by queue and segment, not by message.
//!
//! The committer owns the index and tells it about every record it writes; a start rebuilds it. It answers which
//! segment has a message, and which segments have nothing live any more. A queue that is settled in order costs one
//! [`super::spans::Span`] per segment, which takes 4 to 9 bytes in a deep queue. Messages settled out of order cost
//! runs or bits in a [`super::seqset::SeqSet`].

use super::{QueueId, Route, State, VhostId, key};
use crate::message::Position;
use hashbrown::HashMap;
use std::collections::{BTreeMap, VecDeque};

mod by_vhost;
mod keys;
mod queue;
mod segments;

pub(crate) use by_vhost::ByVhost;
use by_vhost::Leaving;
pub(crate) use keys::{KeyEntry, KeyRecord};
pub(crate) use queue::{QueueIndex, forget_returned};
pub(crate) use segments::Segments;

/// The index of everything that is live.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) queues: ByVhost<QueueId, QueueIndex>,
    pub(crate) keys: ByVhost<Box<[u8]>, KeyEntry>,
    /// What deleted vhosts had, and what still counts as live: see [`Index::go_on_deleting`].
    leaving: VecDeque<Leaving<KeyEntry, QueueIndex>>,
    /// Messages that a later record put into a queue, not the message's own: dead letters, and messages routed again.
    pub(crate) moves: BTreeMap<(QueueId, u64), Move>,
    pub(crate) vhosts: BTreeMap<VhostId, VhostIndex>,
    live: HashMap<u32, Live>,
    /// By segment: deletions of queues and vhosts that must outlive it, even if it has no record of their keys.
    outlived: HashMap<u32, Vec<Box<[u8]>>>,
    pub(crate) listed: ListedBytes,
}

/// Bytes that a checkpoint takes to list the keys, roughly, without the segments of their older copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListedBytes {
    /// Bytes for keys with a value.
    pub(crate) values: u64,
    /// Bytes for deletions, which are listed only until the older copies no longer exist.
    pub(crate) deletions: u64,
}

/// A vhost of which the log has records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VhostIndex {
    /// The highest number of one of its queues so far.
    pub(crate) queue_max: u64,
    /// The segment with its first record. No older segment has any.
    pub(crate) first_segment: u32,
    /// Cold segments with copies of its records.
    pub(crate) copies: Segments,
}

/// The number of live records in one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Live {
    /// (queue, sequence) pairs.
    pub(crate) routes: u64,
    /// Newest keyed records, including deletions that are still needed.
    pub(crate) keys: u64,
    /// Deletions among `keys`. They are dropped when the older copies that they outlive no longer exist.
    pub(crate) deletions: u64,
}

impl Live {
    /// Routes and keys that stay until a client ends them.
    pub(crate) fn lasting(&self) -> u64 {
        self.routes + self.keys - self.deletions
    }
    /// Whether only deletions are left.
    pub(crate) fn has_deletions_only(&self) -> bool {
        self.lasting() == 0
    }
}

/// The place of a moved message's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) root: Root,
    /// The flags of the new route.
    pub(crate) flags: u8,
    /// Bytes of its body, if the root is a position.
    pub(crate) body_len: u32,
}

/// What identifies a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Root {
    /// The record that lists this route.
    Route(QueueId, u64),
    /// The record at this position.
    At(Position),
}

impl Index {
    /// What is live in a segment.
    pub(crate) fn live(&self, segment: u32) -> Live {
        self.live.get(&segment).copied().unwrap_or_default()
    }
    /// Everything that is live, as (routes, keys).
    pub(crate) fn live_total(&self) -> (u64, u64) {
        self.live
            .values()
            .fold((0, 0), |(routes, keys), live| (routes + live.routes, keys + live.keys))
    }
    /// Forgets the counts of a segment that no longer exists.
    pub(crate) fn forget(&mut self, segment: u32) {
        let left = self.live.remove(&segment).unwrap_or_default();
        debug_assert_eq!(
            left,
            Live::default(),
            "segment {segment} is recycled with live records in it"
        );
    }
    /// Counts routes of a segment that were inserted into queues' indexes one by one.
    pub(crate) fn add_live(&mut self, segment: u32, routes: u64) {
        if routes > 0 {
            self.count(segment).routes += routes;
        }
    }
    fn count(&mut self, segment: u32) -> &mut Live {
        self.live.entry(segment).or_default()
    }
    /// The segment that holds a message, if it is live.
    pub(crate) fn lookup(&self, queue: QueueId, seq: u64) -> Option<u32> {
        self.queues.get(&queue)?.lookup(seq)
    }
    /// A queue gets a message.
    pub(crate) fn insert(&mut self, queue: QueueId, seq: u64, segment: u32) {
        if self.queues.get_or_default(queue).insert(seq, segment) {
            self.count(segment).routes += 1;
        }
    }
    /// A message of a queue is in another segment now. If it was moved, that is forgotten, because the copy lists the
    /// route.
    pub(crate) fn relocate(&mut self, queue: QueueId, seq: u64, segment: u32) {
        let Some(index) = self.queues.get_mut(&queue) else {
            return;
        };
        let live = &mut self.live;
        index.settle(seq, seq, |from, count| live.entry(from).or_default().routes -= count);
        if index.insert(seq, segment) {
            live.entry(segment).or_default().routes += 1;
        }
        self.moves.remove(&(queue, seq));
    }
    /// `lo..=hi` of a queue are settled.
    pub(crate) fn settle(&mut self, queue: QueueId, lo: u64, hi: u64) {
        if lo > hi {
            return;
        }
        let index = self.queues.get_or_default(queue);
        index.next_seq = index.next_seq.max(hi.saturating_add(1));
        let live = &mut self.live;
        index.settle(lo, hi, |segment, count| {
            live.entry(segment).or_default().routes -= count
        });
        index.packet_ids.retain(|(seq, ..)| !(lo..=hi).contains(seq));
        forget_returned(&mut index.returned, lo, hi);
        self.forget_moves(queue, lo, hi);
    }
    fn forget_moves(&mut self, queue: QueueId, lo: u64, hi: u64) {
        while let Some(key) = self.moves.range((queue, lo)..=(queue, hi)).next().map(|(key, _)| *key) {
            self.moves.remove(&key);
        }
    }
    /// All messages of a queue below `upto` are removed.
    pub(crate) fn purge(&mut self, queue: QueueId, upto: u64) {
        match upto.checked_sub(1) {
            Some(last) => self.settle(queue, 0, last),
            None => _ = self.queues.get_or_default(queue),
        }
    }
    /// A queue is deleted.
    pub(crate) fn delete(&mut self, queue: QueueId) {
        match self.queues.remove(&queue) {
            Some(index) => self.gone_queue(queue, &index),
            None => self.forget_moves(queue, 0, u64::MAX),
        }
    }
    fn gone_queue(&mut self, queue: QueueId, index: &QueueIndex) {
        for span in index.spans.iter() {
            self.count(span.segment).routes -= u64::from(span.live);
        }
        self.forget_moves(queue, 0, u64::MAX);
    }
    /// Adds a message to a queue without writing it again: its payload is the one that `root` identifies, in `segment`.
    /// `body_len` is the length of a payload identified by its position.
    pub(crate) fn join(&mut self, to: Route, root: Root, segment: u32, body_len: u32) {
        self.insert(to.queue, to.seq, segment);
        let flags = to.flags;
        self.moves.insert((to.queue, to.seq), Move { root, flags, body_len });
    }
    /// A small change of state.
    pub(crate) fn state(&mut self, state: &State) {
        match *state {
            State::HandedOut { queue, upto } => {
                let queue = self.queues.get_or_default(queue);
                queue.handed_out = queue.handed_out.max(upto);
                queue.next_seq = queue.next_seq.max(upto);
            }
            State::PacketId { queue, seq, packet_id } => {
                let queue = self.queues.get_or_default(queue);
                queue.next_seq = queue.next_seq.max(seq.saturating_add(1));
                queue.packet_ids.retain(|(other, ..)| *other != seq);
                queue.packet_ids.push((seq, packet_id, false));
            }
            State::PacketIdReleased { queue, seq, packet_id } => {
                let queue = self.queues.get_or_default(queue);
                queue.next_seq = queue.next_seq.max(seq.saturating_add(1));
                match queue.packet_ids.iter_mut().find(|(other, ..)| *other == seq) {
                    Some(held) => *held = (seq, packet_id, true),
                    None => queue.packet_ids.push((seq, packet_id, true)),
                }
            }
            State::IncomingId { queue, packet_id, held } => {
                let queue = self.queues.get_or_default(queue);
                queue.incoming_ids.retain(|other| *other != packet_id);
                if held {
                    queue.incoming_ids.push(packet_id);
                }
            }
            State::Returned { queue, seq, count } => {
                // A message that was settled before it was written never arrives.
                if let Some(queue) = self.queues.get_mut(&queue).filter(|q| q.lookup(seq).is_some()) {
                    queue.returned.insert(seq, count);
                }
            }
            State::DeadLettered { from, from_seq, to } => {
                // A chain of moves leads back to the record with the payload.
                let before = self.moves.get(&(from, from_seq));
                let (root, body_len) = before.map_or((Root::Route(from, from_seq), 0), |before| {
                    (before.root, before.body_len)
                });
                if let Some(segment) = self.lookup(from, from_seq) {
                    self.join(to, root, segment, body_len);
                }
            }
        }
    }
    /// A record of a vhost was written to `segment`, or found there.
    fn saw_vhost(&mut self, vhost: VhostId, segment: u32) -> &mut VhostIndex {
        let known = self.vhosts.entry(vhost).or_insert(VhostIndex {
            first_segment: segment,
            ..VhostIndex::default()
        });
        known.first_segment = known.first_segment.min(segment);
        known
    }
    /// A record that uses a queue's number was written to `segment`, or found there.
    pub(crate) fn saw_number(&mut self, queue: QueueId, segment: u32) {
        let vhost = self.saw_vhost(queue.vhost(), segment);
        vhost.queue_max = vhost.queue_max.max(queue.number());
    }
    /// A keyed record was written to `segment`, or found there.
    pub(crate) fn saw_key(&mut self, key: &[u8], segment: u32) {
        if let Some(queue) = key::as_queue(key) {
            self.saw_number(queue, segment);
        } else if let Some(vhost) = key::as_vhost(key).or_else(|| key::vhost_of(key)) {
            self.saw_vhost(vhost, segment);
        }
    }
    /// A record of a queue was written to `segment`, or found there.
    pub(crate) fn saw_queue(&mut self, queue: QueueId, segment: u32) {
        self.saw_number(queue, segment);
        let queue = self.queues.get_or_default(queue);
        if queue.first_segment == 0 || queue.first_segment > segment {
            queue.first_segment = segment;
        }
    }
    /// A vhost is deleted, with all keys and queues of it, none of which is found any more. They count as live until
    /// [`Index::go_on_deleting`] has come to them: a client chooses how many there are.
    pub(crate) fn delete_vhost(&mut self, vhost: VhostId) {
        let (keys, queues) = (self.keys.take(vhost), self.queues.take(vhost));
        self.vhosts.remove(&vhost);
        if !keys.is_empty() || !queues.is_empty() {
            let (keys, queues) = (keys.into_entries(), queues.into_entries());
            self.leaving.push_back(Leaving { keys, queues });
        }
    }
    /// Whether deleted vhosts are gone altogether. Until then no segment is judged by what is live in it, and no checkpoint is
    /// written.
    pub(crate) fn is_deleting(&self) -> bool {
        !self.leaving.is_empty()
    }
    /// Goes on with the deletion of vhosts: so many keys and queues. Returns whether there is more.
    pub(crate) fn go_on_deleting(&mut self, steps: usize) -> bool {
        for _ in 0..steps {
            let Some(leaving) = self.leaving.front_mut() else {
                return false;
            };
            if let Some((key, entry)) = leaving.keys.next() {
                self.gone_key(&key, &entry);
            } else if let Some((id, queue)) = leaving.queues.next() {
                self.gone_queue(id, &queue);
            } else {
                self.leaving.pop_front();
            }
        }
        self.is_deleting()
    }
    /// A cold segment got a copy of a record of a vhost. Segments that no longer exist are forgotten.
    pub(crate) fn copied(&mut self, vhost: VhostId, segment: u32, is_there: impl Fn(u32) -> bool) {
        let copies = &mut self.vhosts.entry(vhost).or_default().copies;
        if !copies.contains(segment) {
            copies.retain(is_there);
            copies.insert(segment);
        }
    }
    /// A cold segment got a copy of a message.
    pub(crate) fn message_copied(&mut self, queue: QueueId, segment: u32, is_there: impl Fn(u32) -> bool) {
        if let Some(known) = self
            .queues
            .get_mut(&queue)
            .filter(|known| !known.copies.contains(segment))
        {
            known.copies.retain(&is_there);
            known.copies.insert(segment);
        }
        self.copied(queue.vhost(), segment, is_there);
    }
}

#[cfg(test)]
mod tests;
