//! What is live, and where: per queue and segment, not per message.
//!
//! The committer owns it and feeds it with every record it writes; a start rebuilds it. It answers which segment holds
//! a message, and which segments hold nothing any more. A queue that is settled in order costs one [`Span`] per segment,
//! which takes 4 to 9 bytes in a deep queue; what is settled out of order costs runs or bits in a [`SeqSet`].

use super::seqset::SeqSet;
use super::spans::{Span, Spans};
use super::{QueueId, Route, State, VhostId, key};
use crate::message::Position;
use hashbrown::HashMap;
use std::collections::BTreeMap;

/// Everything that is live.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) queues: HashMap<QueueId, QueueIndex>,
    pub(crate) keys: HashMap<Box<[u8]>, KeyEntry>,
    /// Messages that are in a queue because a record said so later, not the message's own: dead-lettered ones, and
    /// those routed again.
    pub(crate) moves: BTreeMap<(QueueId, u64), Move>,
    pub(crate) vhosts: BTreeMap<VhostId, VhostIndex>,
    live: HashMap<u32, Live>,
    /// By segment: deletions of queues and vhosts that outlive it, also if it has no record of their keys.
    outlived: HashMap<u32, Vec<Box<[u8]>>>,
    pub(crate) listed: ListedBytes,
}

/// About how many bytes a checkpoint takes to list the keys, without the segments of their older copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListedBytes {
    /// Of keys that have a value.
    pub(crate) values: u64,
    /// Of deletions, which are listed only until the older copies have gone.
    pub(crate) deletions: u64,
}

/// A vhost that the log has records of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VhostIndex {
    /// The highest number that one of its queues has had.
    pub(crate) queue_max: u64,
    /// The segment with its first record: no older one has any.
    pub(crate) first_segment: u32,
    /// Cold segments that got copies of its records.
    pub(crate) copies: Segments,
}

/// What is live in one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Live {
    /// (queue, sequence) pairs.
    pub(crate) routes: u64,
    /// Newest keyed records, and deletions that are still needed.
    pub(crate) keys: u64,
    /// Deletions among `keys`: they go when the older copies that they outlive have gone.
    pub(crate) deletions: u64,
}

impl Live {
    /// Routes and keys that are there until somebody ends them.
    pub(crate) fn lasting(&self) -> u64 {
        self.routes + self.keys - self.deletions
    }
    /// Whether nothing is left but deletions.
    pub(crate) fn has_deletions_only(&self) -> bool {
        self.lasting() == 0
    }
}

/// One queue.
#[derive(Debug, Default)]
pub(crate) struct QueueIndex {
    spans: Spans,
    /// What is not live within the spans.
    dead: SeqSet,
    pub(crate) next_seq: u64,
    pub(crate) handed_out: u64,
    pub(crate) incoming_ids: Vec<u16>,
    /// Sequence, packet id, whether it was released; in order of assignment.
    pub(crate) packet_ids: Vec<(u64, u16, bool)>,
    /// How often live messages came back from consumers, by sequence.
    pub(crate) returned: BTreeMap<u64, u32>,
    /// The segment with the first record of the queue: no older one has any.
    pub(crate) first_segment: u32,
    /// Cold segments that got copies of its messages.
    pub(crate) copies: Segments,
}

/// A keyed record.
#[derive(Clone, Debug)]
pub(crate) struct KeyRecord {
    pub(crate) at: Position,
    /// See [`KeyEntry::version`].
    pub(crate) version: u64,
    pub(crate) len: u32,
    pub(crate) deleted: bool,
    /// Its value, if checkpoints repeat it.
    pub(crate) value: Option<Box<[u8]>>,
}

/// Takes the counts of `lo..=hi` out.
pub(crate) fn forget_returned(returned: &mut BTreeMap<u64, u32>, lo: u64, hi: u64) {
    if !returned.is_empty() {
        let settled: Vec<u64> = returned.range(lo..=hi).map(|(seq, _)| *seq).collect();
        for seq in settled {
            returned.remove(&seq);
        }
    }
}

/// The newest record of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyEntry {
    pub(crate) at: Position,
    /// LSN of the record that first said so; copies keep it.
    pub(crate) version: u64,
    /// Bytes of the record.
    pub(crate) len: u32,
    /// Its value, if checkpoints repeat it.
    pub(crate) value: Option<Box<[u8]>>,
    /// Other segments on disk that have older records of this key.
    pub(crate) older: Segments,
    /// The newest record is a deletion. It is needed as long as another segment has an older record of the key; older
    /// records in its own segment go together with it.
    pub(crate) deleted: bool,
}

/// A few segments, ascending. Most keys have none, and none takes no memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segments(Box<[u32]>);

impl Segments {
    pub(crate) fn from_sorted(segments: Vec<u32>) -> Segments {
        debug_assert!(segments.is_sorted_by(|a, b| a < b));
        Segments(segments.into())
    }
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = u32> {
        self.0.iter().copied()
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub(crate) fn contains(&self, segment: u32) -> bool {
        self.0.binary_search(&segment).is_ok()
    }
    pub(crate) fn insert(&mut self, segment: u32) {
        if let Err(at) = self.0.binary_search(&segment) {
            let mut list = std::mem::take(&mut self.0).into_vec();
            list.insert(at, segment);
            self.0 = list.into();
        }
    }
    /// Keeps some of them.
    pub(crate) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        if !self.0.iter().all(|segment| keep(*segment)) {
            self.0 = self.0.iter().copied().filter(|segment| keep(*segment)).collect();
        }
    }
}

/// Where the payload of a moved message is to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) root: Root,
    /// The flags of the new route.
    pub(crate) flags: u8,
    /// Bytes of its body, if the root is a place.
    pub(crate) body_len: u32,
}

/// What names a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Root {
    /// The record that lists this route.
    Route(QueueId, u64),
    /// The record at this place.
    At(Position),
}

/// Holes longer than this start a new span rather than being remembered as dead.
const HOLE_MAX: u64 = 4096;

impl QueueIndex {
    pub(crate) fn span_count(&self) -> usize {
        self.spans.len()
    }
    pub(crate) fn spans(&self) -> impl Iterator<Item = Span> {
        self.spans.iter()
    }
    /// The spans that end at or behind `seq`.
    pub(crate) fn spans_from(&self, seq: u64) -> impl Iterator<Item = Span> {
        self.spans.iter_from(seq)
    }
    /// How many of `lo..=hi` are known to be dead.
    pub(crate) fn count_dead(&self, lo: u64, hi: u64) -> u64 {
        self.dead.count(lo, hi)
    }
    /// Runs of what is dead that touch `lo..=hi`, ascending.
    pub(crate) fn dead_within(&self, lo: u64, hi: u64) -> impl Iterator<Item = (u64, u64)> {
        self.dead.runs_within(lo, hi)
    }
    pub(crate) fn dead_runs(&self) -> impl Iterator<Item = (u64, u64)> {
        self.dead.runs()
    }
    /// Rebuilds a queue from what a checkpoint says of it. `None` if that makes no sense.
    pub(crate) fn from_parts(spans: &[Span], dead: &[(u64, u64)]) -> Option<QueueIndex> {
        let ordered = spans.windows(2).all(|pair| pair[0].last() < pair[1].first);
        let widest: u64 = spans.iter().map(|span| u64::from(span.extent) + 1).sum();
        let width = dead
            .iter()
            .fold(0u64, |sum, (lo, hi)| sum.saturating_add(hi - lo).saturating_add(1));
        if !ordered || width > widest {
            return None;
        }
        let mut queue = QueueIndex {
            spans: Spans::from_sorted(spans),
            ..QueueIndex::default()
        };
        for &(lo, hi) in dead {
            queue.dead.insert(lo, hi);
        }
        Some(queue)
    }
    /// The segment that holds `seq`, if it is live.
    pub(crate) fn lookup(&self, seq: u64) -> Option<u32> {
        let span = self.spans.iter_from(seq).next().filter(|span| span.first <= seq)?;
        (!self.dead.contains(seq)).then_some(span.segment)
    }
    /// Whether `seq` is known to be dead, if a span is around it.
    pub(crate) fn is_dead(&self, seq: u64) -> bool {
        self.dead.contains(seq)
    }
    /// Adds `seq`; `false` if it was live already.
    pub(crate) fn insert(&mut self, seq: u64, segment: u32) -> bool {
        self.next_seq = self.next_seq.max(seq.saturating_add(1));
        let QueueIndex { spans, dead, .. } = self;
        if let Some(last) = spans.last_mut() {
            if last.last() >= seq {
                return spans.change_around(seq, |list| insert_into(list, dead, seq, segment));
            }
            if continues(last, dead, seq, segment) {
                return true;
            }
        }
        spans.push(Span::of(seq, segment));
        true
    }
    /// Takes `lo..=hi` out and reports what each segment lost.
    fn settle(&mut self, lo: u64, hi: u64, mut lost: impl FnMut(u32, u64)) {
        let QueueIndex { spans, dead, .. } = self;
        spans.change_within(lo, hi, |list| settle_in(list, dead, lo, hi, &mut lost));
    }
}

/// See [`ListedBytes`]. Changes of `older` do not count: what is added is what will be taken off.
fn listed_bytes(key: &[u8], entry: &KeyEntry) -> u64 {
    const FIXED: usize = 16;
    if !entry.deleted && key::is_bulk(key) {
        return 0;
    }
    let value = entry.value.as_ref().map_or(0, |value| value.len());
    (FIXED + key.len() + value) as u64
}

/// Makes `seq`, which follows a span, part of it, if it can be.
fn continues(before: &mut Span, dead: &mut SeqSet, seq: u64, segment: u32) -> bool {
    let gap = seq - before.last() - 1;
    let can = before.segment == segment && gap <= HOLE_MAX && seq - before.first <= u64::from(u32::MAX);
    if can {
        if gap > 0 {
            dead.insert(before.last() + 1, seq - 1);
        }
        before.extent = (seq - before.first) as u32;
        before.live += 1;
    }
    can
}

/// Adds `seq` to a part of a queue; `false` if it was live already.
fn insert_into(list: &mut Vec<Span>, dead: &mut SeqSet, seq: u64, segment: u32) -> bool {
    let mut at = list.partition_point(|span| span.last() < seq);
    if let Some(span) = list.get_mut(at).filter(|span| span.first <= seq) {
        if !dead.contains(seq) {
            return false;
        }
        if span.segment == segment {
            dead.remove(seq, seq);
            span.live += 1;
            return true;
        }
        split(list, dead, at, seq);
        at += 1;
    }
    let mut before = at.checked_sub(1).and_then(|at| list.get_mut(at));
    if !before
        .as_mut()
        .is_some_and(|before| continues(before, dead, seq, segment))
    {
        list.insert(at, Span::of(seq, segment));
    }
    true
}

/// Cuts the span at `at` in two around `seq`, which is dead and inside it.
fn split(list: &mut Vec<Span>, dead: &mut SeqSet, at: usize, seq: u64) {
    let Some(span) = list.get(at).copied() else {
        return;
    };
    let left = (seq - span.first) - dead.count(span.first, seq - 1);
    let first = dead.first_missing(seq);
    let mut head = Span {
        extent: (seq - 1 - span.first) as u32,
        live: left as u32,
        ..span
    };
    let tail = Span {
        first,
        extent: (span.last() - first) as u32,
        live: span.live - head.live,
        ..span
    };
    // The head must end with a live message, too.
    while dead.contains(head.last()) {
        dead.remove(head.last(), head.last());
        head.extent -= 1;
    }
    dead.remove(seq, first - 1);
    if let Some(span) = list.get_mut(at) {
        *span = head;
    }
    list.insert(at + 1, tail);
}

/// Takes `lo..=hi` out of a part of a queue and reports what each segment lost.
fn settle_in(list: &mut Vec<Span>, dead: &mut SeqSet, lo: u64, hi: u64, lost: &mut impl FnMut(u32, u64)) {
    let mut at = list.partition_point(|span| span.last() < lo);
    while let Some(span) = list.get_mut(at) {
        if span.first > hi {
            break;
        }
        let (from, to) = (lo.max(span.first), hi.min(span.last()));
        let newly = (to - from + 1) - dead.count(from, to);
        lost(span.segment, newly);
        span.live -= newly as u32;
        if span.live == 0 {
            dead.remove(span.first, span.last());
            list.remove(at);
            continue;
        }
        // The ends of a span are live, so that a queue settled in order needs no set at all.
        if from == span.first {
            let first = dead.first_missing(to + 1);
            dead.remove(span.first, first - 1);
            span.extent = (span.last() - first) as u32;
            span.first = first;
        } else if to == span.last() {
            dead.insert(from, to);
            let mut last = to;
            while dead.contains(last) {
                last -= 1;
            }
            dead.remove(last + 1, to);
            span.extent = (last - span.first) as u32;
        } else {
            dead.insert(from, to);
        }
        at += 1;
    }
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
    /// Forgets the counts of a segment that is gone.
    pub(crate) fn forget(&mut self, segment: u32) {
        let left = self.live.remove(&segment).unwrap_or_default();
        debug_assert_eq!(
            left,
            Live::default(),
            "segment {segment} is recycled with live records in it"
        );
    }
    /// Counts routes of a segment that were put into queues' indexes one by one.
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
    /// A queue got a message.
    pub(crate) fn insert(&mut self, queue: QueueId, seq: u64, segment: u32) {
        if self.queues.entry(queue).or_default().insert(seq, segment) {
            self.count(segment).routes += 1;
        }
    }
    /// A message of a queue is in another segment now. Its move, if it had one, is forgotten: the copy lists the route.
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
        let index = self.queues.entry(queue).or_default();
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
    /// All of a queue below `upto` is gone.
    pub(crate) fn purge(&mut self, queue: QueueId, upto: u64) {
        match upto.checked_sub(1) {
            Some(last) => self.settle(queue, 0, last),
            None => _ = self.queues.entry(queue).or_default(),
        }
    }
    /// A queue is gone.
    pub(crate) fn delete(&mut self, queue: QueueId) {
        if let Some(index) = self.queues.remove(&queue) {
            for span in index.spans.iter() {
                self.count(span.segment).routes -= u64::from(span.live);
            }
        }
        self.forget_moves(queue, 0, u64::MAX);
    }
    /// A message joins a queue without being written again: its payload is what `root` names, in `segment`.
    /// `body_len` is that of a payload named by its place.
    pub(crate) fn join(&mut self, to: Route, root: Root, segment: u32, body_len: u32) {
        self.insert(to.queue, to.seq, segment);
        let flags = to.flags;
        self.moves.insert((to.queue, to.seq), Move { root, flags, body_len });
    }
    /// A small state change.
    pub(crate) fn state(&mut self, state: &State) {
        match *state {
            State::HandedOut { queue, upto } => {
                let queue = self.queues.entry(queue).or_default();
                queue.handed_out = queue.handed_out.max(upto);
                queue.next_seq = queue.next_seq.max(upto);
            }
            State::PacketId { queue, seq, packet_id } => {
                let queue = self.queues.entry(queue).or_default();
                queue.next_seq = queue.next_seq.max(seq.saturating_add(1));
                queue.packet_ids.retain(|(other, ..)| *other != seq);
                queue.packet_ids.push((seq, packet_id, false));
            }
            State::PacketIdReleased { queue, seq, packet_id } => {
                let queue = self.queues.entry(queue).or_default();
                queue.next_seq = queue.next_seq.max(seq.saturating_add(1));
                match queue.packet_ids.iter_mut().find(|(other, ..)| *other == seq) {
                    Some(held) => *held = (seq, packet_id, true),
                    None => queue.packet_ids.push((seq, packet_id, true)),
                }
            }
            State::IncomingId { queue, packet_id, held } => {
                let queue = self.queues.entry(queue).or_default();
                queue.incoming_ids.retain(|other| *other != packet_id);
                if held {
                    queue.incoming_ids.push(packet_id);
                }
            }
            State::Returned { queue, seq, count } => {
                // A message that was settled before it was written never comes.
                if let Some(queue) = self.queues.get_mut(&queue).filter(|q| q.lookup(seq).is_some()) {
                    queue.returned.insert(seq, count);
                }
            }
            State::DeadLettered { from, from_seq, to } => {
                // A chain of moves leads back to the record that carries the payload.
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
        let queue = self.queues.entry(queue).or_default();
        if queue.first_segment == 0 || queue.first_segment > segment {
            queue.first_segment = segment;
        }
    }
    /// A keyed record was written or copied.
    pub(crate) fn key(&mut self, key: &[u8], record: KeyRecord) {
        self.found_key(key, record);
        self.drop_needless_deletion(key);
    }
    /// A deletion was written that other records depend on than those of its key: it must outlive those `segments`, too.
    pub(crate) fn deletion_of_more(&mut self, key: &[u8], record: KeyRecord, segments: impl Iterator<Item = u32>) {
        let own = record.at.segment;
        self.found_key(key, record);
        self.outlives(key, segments.filter(|segment| *segment != own));
        self.drop_needless_deletion(key);
    }
    /// A deletion must outlive these segments.
    pub(crate) fn outlives(&mut self, key: &[u8], segments: impl Iterator<Item = u32>) {
        if let Some(entry) = self.keys.get_mut(key) {
            let mut all: Vec<u32> = entry.older.iter().collect();
            for segment in segments {
                all.push(segment);
                self.outlived.entry(segment).or_default().push(key.into());
            }
            all.sort_unstable();
            all.dedup();
            entry.older = Segments::from_sorted(all);
        }
    }
    /// A vhost is gone, with all that its keys and its queues' numbers begin with.
    pub(crate) fn delete_vhost(&mut self, vhost: VhostId) {
        let keys = self.keys.keys().filter(|key| key::vhost_of(key) == Some(vhost));
        for key in keys.cloned().collect::<Vec<_>>() {
            self.take_key(&key);
        }
        let queues = self.queues.keys().filter(|queue| queue.vhost() == vhost);
        for queue in queues.copied().collect::<Vec<_>>() {
            self.delete(queue);
        }
        self.vhosts.remove(&vhost);
        self.shrink();
    }
    /// A keyed record was found at the start. Deletions are kept until all records were seen: an older copy may follow.
    pub(crate) fn found_key(&mut self, key: &[u8], record: KeyRecord) {
        let KeyRecord {
            at, version, deleted, ..
        } = record;
        let mut entry = KeyEntry {
            at,
            version,
            len: record.len,
            value: record.value,
            older: Segments::default(),
            deleted,
        };
        match self.keys.get_mut(key) {
            Some(newest) if newest.version > version => {
                if newest.at.segment != at.segment {
                    newest.older.insert(at.segment);
                }
            }
            Some(newest) => {
                let before = (newest.at.segment, newest.deleted, listed_bytes(key, newest));
                entry.older = std::mem::take(&mut newest.older);
                // A copy of the same record.
                if newest.version == version && entry.value.is_none() {
                    entry.value = newest.value.take();
                }
                entry.older.insert(newest.at.segment);
                entry.older.retain(|segment| segment != at.segment);
                let bytes = listed_bytes(key, &entry);
                *newest = entry;
                self.count_key(at.segment, deleted, bytes);
                self.discount_key(before);
            }
            None => {
                self.count_key(at.segment, deleted, listed_bytes(key, &entry));
                self.keys.insert(key.into(), entry);
            }
        }
    }
    fn count_key(&mut self, segment: u32, deleted: bool, bytes: u64) {
        let live = self.count(segment);
        live.keys += 1;
        if deleted {
            live.deletions += 1;
            self.listed.deletions += bytes;
        } else {
            self.listed.values += bytes;
        }
    }
    fn discount_key(&mut self, (segment, deleted, bytes): (u32, bool, u64)) {
        let live = self.count(segment);
        live.keys -= 1;
        if deleted {
            live.deletions -= 1;
            self.listed.deletions -= bytes;
        } else {
            self.listed.values -= bytes;
        }
    }
    /// The newest record of a key is not to be counted any more: it is lost, or needless.
    pub(crate) fn take_key(&mut self, key: &[u8]) -> Option<KeyEntry> {
        let entry = self.keys.remove(key)?;
        self.discount_key((entry.at.segment, entry.deleted, listed_bytes(key, &entry)));
        Some(entry)
    }
    /// A cold segment got a copy of something of a vhost. Segments that are not there any more are forgotten.
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
    /// A copy of a key's newest record was written, and nothing will point to it.
    pub(crate) fn key_copied_in_vain(&mut self, key: &[u8], segment: u32, is_there: impl Fn(u32) -> bool) {
        if let Some(vhost) = key::vhost_of(key) {
            self.copied(vhost, segment, is_there);
        }
        if let Some(entry) = self.keys.get_mut(key)
            && entry.at.segment != segment
        {
            entry.older.insert(segment);
        }
    }
    /// All records were seen, and only these segments are on disk.
    pub(crate) fn drop_needless_deletions(&mut self, is_there: impl Fn(u32) -> bool) {
        for entry in self.keys.values_mut() {
            entry.older.retain(&is_there);
        }
        let needless = self
            .keys
            .iter()
            .filter(|(_, entry)| entry.deleted && entry.older.is_empty());
        for key in needless.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.take_key(&key);
        }
    }
    /// A segment with a record of this key is gone from the disk.
    pub(crate) fn key_copy_gone(&mut self, key: &[u8], segment: u32) {
        if let Some(entry) = self.keys.get_mut(key) {
            entry.older.retain(|other| other != segment);
            self.drop_needless_deletion(key);
        }
    }
    /// A segment is gone from the disk: see `outlived`.
    pub(crate) fn segment_gone(&mut self, segment: u32) {
        for key in self.outlived.remove(&segment).unwrap_or_default() {
            self.key_copy_gone(&key, segment);
        }
    }
    /// A segment is gone, and which keys it had cannot be told.
    pub(crate) fn all_copies_gone(&mut self, segment: u32) {
        self.drop_needless_deletions(|other| other != segment);
    }
    /// A deletion deletes nothing once no other segment has an older record of its key.
    fn drop_needless_deletion(&mut self, key: &[u8]) {
        if self
            .keys
            .get(key)
            .is_some_and(|entry| entry.deleted && entry.older.is_empty())
        {
            self.take_key(key);
        }
    }
    /// Takes over the keys of a checkpoint.
    pub(crate) fn restore_key(&mut self, key: Box<[u8]>, entry: KeyEntry) {
        self.count_key(entry.at.segment, entry.deleted, listed_bytes(&key, &entry));
        if entry.deleted && (key::as_queue(&key).is_some() || key::as_vhost(&key).is_some()) {
            for segment in entry.older.iter() {
                self.outlived.entry(segment).or_default().push(key.clone());
            }
        }
        self.keys.insert(key, entry);
    }
    /// Gives back the memory of what was deleted, once it is most of it.
    pub(crate) fn shrink(&mut self) {
        const SMALL: usize = 1024;
        fn is_wide(len: usize, capacity: usize) -> bool {
            capacity > SMALL && capacity / 4 > len
        }
        if is_wide(self.keys.len(), self.keys.capacity()) {
            self.keys.shrink_to(self.keys.len() * 2);
        }
        if is_wide(self.queues.len(), self.queues.capacity()) {
            self.queues.shrink_to(self.queues.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap as Model;

    #[test]
    fn a_queue_settled_in_order_keeps_one_span_and_no_set() {
        let mut index = Index::default();
        for seq in 0..100_000 {
            index.insert(QueueId(1), seq, 1);
        }
        for seq in 0..99_999 {
            index.settle(QueueId(1), seq, seq);
            let queue = &index.queues[&QueueId(1)];
            assert!(queue.spans.len() == 1 && queue.dead.is_empty());
        }
        assert_eq!(index.live(1).routes, 1);
        index.settle(QueueId(1), 99_999, 99_999);
        assert_eq!(index.live(1), Live::default());
    }

    /// The fuzzer wrote checkpoints, with checksums that held, whose settled runs were together wider than a number, or
    /// one wider than the spans: written again, that one could not be read.
    #[test]
    fn runs_that_no_spans_can_hold_are_no_queue() {
        let span = Span {
            first: 0,
            extent: 9,
            segment: 1,
            live: 1,
        };
        assert!(QueueIndex::from_parts(&[span], &[(0, u64::MAX - 2), (u64::MAX - 1, u64::MAX)]).is_none());
        assert!(QueueIndex::from_parts(&[], &[(0, 0), (1, 1)]).is_none());
        assert!(QueueIndex::from_parts(&[span], &[(2, 3)]).is_some());
    }

    #[test]
    fn a_deep_queue_takes_less_than_nine_bytes_a_segment_and_a_short_one_a_span() {
        let mut queue = QueueIndex::default();
        queue.insert(0, 1);
        assert_eq!(queue.spans.memory(), size_of::<Span>());
        for seq in 0..10_000 {
            queue.insert(seq, 1 + (seq / 31) as u32);
        }
        assert_eq!(queue.span_count(), 323);
        assert!(queue.spans.memory() <= 323 * 9, "{}", queue.spans.memory());
        for seq in 0..9_999 {
            queue.settle(seq, seq, |segment, count| {
                assert_eq!((segment, count), (1 + (seq / 31) as u32, 1))
            });
            assert_eq!(queue.lookup(seq + 1), Some(1 + ((seq + 1) / 31) as u32));
        }
        assert_eq!(queue.span_count(), 1);
        assert!(
            queue.spans.memory() <= 32 * size_of::<Span>(),
            "{}",
            queue.spans.memory()
        );
    }

    fn record(at: Position, version: u64, deleted: bool) -> KeyRecord {
        KeyRecord {
            at,
            version,
            len: 40,
            deleted,
            value: None,
        }
    }

    #[test]
    fn a_deletion_is_kept_as_long_as_an_older_copy_is_on_disk() {
        let mut index = Index::default();
        index.key(b"k", record(Position { segment: 1, offset: 8 }, 8, false));
        index.key(b"k", record(Position { segment: 2, offset: 8 }, 108, true));
        assert_eq!((index.live(1).keys, index.live(2).keys), (0, 1));
        assert!(index.live(2).has_deletions_only());
        index.key_copy_gone(b"k", 1);
        assert_eq!(index.live(2), Live::default());
        assert!(index.keys.is_empty());
    }

    /// Deletions pinned their own segment: what they deleted lay in it, and could not go before they did.
    #[test]
    fn a_deletion_beside_the_only_older_copy_is_not_kept() {
        let mut index = Index::default();
        for round in 0..10 {
            let at = |offset| Position { segment: 1, offset };
            index.key(b"k", record(at(round * 80 + 8), u64::from(round) * 80 + 8, false));
            index.key(b"k", record(at(round * 80 + 48), u64::from(round) * 80 + 48, true));
            assert_eq!(index.live(1), Live::default());
            assert!(index.keys.is_empty());
        }
    }

    /// A key that came back after its deletion was forgotten had one copy too few in the books: the next deletion was
    /// forgotten while a value was still on disk.
    #[test]
    fn a_key_that_comes_back_is_protected_from_all_its_values() {
        let mut index = Index::default();
        let at = |segment| Position { segment, offset: 8 };
        index.key(b"k", record(at(1), 8, false));
        index.key(b"k", record(at(1), 48, true));
        index.key(b"k", record(at(2), 108, false));
        index.key_copy_gone(b"k", 1);
        index.key(b"k", record(at(3), 208, true));
        assert_eq!(index.live(3).deletions, 1, "segment 2 still has a value");
        index.key_copy_gone(b"k", 2);
        assert_eq!(index.live(3), Live::default());
    }

    /// The index beside a plain map that is told the same, and a generator of what to do to both.
    #[derive(Default)]
    struct Compared {
        state: u64,
        index: Index,
        model: Model<u64, u32>,
        next: u64,
    }

    const QUEUE: QueueId = QueueId(9);

    impl Compared {
        fn random(&mut self, below: u64) -> u64 {
            self.state = self
                .state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.state >> 33) % below
        }

        fn do_something(&mut self, step: u64) {
            let segment = (step / 50) as u32 + 1;
            match self.random(10) {
                0..5 => {
                    self.next += if self.random(5) == 0 {
                        self.random(6000)
                    } else {
                        self.random(2)
                    };
                    let segment = if self.random(9) == 0 {
                        self.random(u64::from(segment)) as u32 + 1
                    } else {
                        segment
                    };
                    self.index.insert(QUEUE, self.next, segment);
                    self.model.insert(self.next, segment);
                    self.next += 1;
                }
                5..8 => {
                    let lo = self.random(self.next + 1);
                    let hi = lo + self.random(40);
                    self.index.settle(QUEUE, lo, hi);
                    self.model.retain(|seq, _| !(lo..=hi).contains(seq));
                }
                _ => {
                    let target = 1000 + (step / 100) as u32;
                    let live: Vec<u64> = self.model.keys().copied().collect();
                    let at = self.random(live.len() as u64 + 1);
                    if let Some(seq) = live.get(at as usize) {
                        self.index.relocate(QUEUE, *seq, target);
                        self.model.insert(*seq, target);
                    }
                }
            }
        }

        fn assert_same_counts(&self, step: &str) {
            let mut live: Model<u32, u64> = Model::new();
            let segments = self.model.values();
            segments.for_each(|segment| *live.entry(*segment).or_default() += 1);
            for segment in (1..20).chain(1000..1010) {
                let expected = live.get(&segment).copied().unwrap_or(0);
                assert_eq!(self.index.live(segment).routes, expected, "{step}");
            }
        }

        fn assert_finds(&self, seq: u64, step: &str) {
            let expected = self.model.get(&seq).copied();
            assert_eq!(self.index.lookup(QUEUE, seq), expected, "{step} seq {seq}");
        }

        /// Returns how many spans there are.
        fn assert_same_spans(&mut self, step: &str) -> usize {
            let from = self.random(self.next + 2);
            let Some(known) = self.index.queues.get(&QUEUE) else {
                return 0;
            };
            let spans: Vec<Span> = known.spans().collect();
            assert_eq!(spans.len(), known.span_count());
            for span in &spans {
                for end in [span.first, span.last()] {
                    assert_eq!(self.model.get(&end), Some(&span.segment), "{step}");
                }
            }
            let behind = spans.iter().copied().filter(|span| span.last() >= from);
            assert!(known.spans_from(from).eq(behind));
            let runs: Vec<(u64, u64)> = known.dead_runs().collect();
            let again = QueueIndex::from_parts(&spans, &runs).expect("what is known makes sense");
            assert!(again.spans().eq(spans.iter().copied()));
            spans.len()
        }
    }

    #[test]
    fn it_agrees_with_a_plain_map_whatever_is_done_to_it() {
        let mut most = 0;
        for seed in 0..60 {
            let mut compared = Compared {
                state: seed,
                ..Compared::default()
            };
            for step in 0..600 {
                compared.do_something(step);
                let at = format!("seed {seed} step {step}");
                compared.assert_same_counts(&at);
                for _ in 0..40 {
                    let seq = compared.random(compared.next + 2);
                    compared.assert_finds(seq, &at);
                }
                if step % 20 == 0 {
                    compared.model.keys().for_each(|seq| compared.assert_finds(*seq, &at));
                }
                most = most.max(compared.assert_same_spans(&at));
            }
        }
        assert!(most > 100, "many lists were in play: {most}");
    }
}
