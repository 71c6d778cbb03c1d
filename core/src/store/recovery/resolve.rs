//! Finds out what is live from what was found: applies settles and moves, and merges duplicates.

use super::{FoundQueue, Recovery};
use crate::message::Position;
use crate::store::directory::{Entries, Listed};
use crate::store::disk::Disk;
use crate::store::index::{KeyEntry, Move, QueueIndex, Root};
use crate::store::key::{self, KeyKind};
use crate::store::reader::Chunk;
use crate::store::record::{Kind, MessageHead};
use crate::store::segment::read_directory;
use crate::store::settings::StoreError;
use crate::store::spans::Span;
use crate::store::stats::StoreStats;
use crate::store::{LogEntry, Opening, QueueId, Recovered, RecoveredMessages, RecoveredQueue, Route};
use hashbrown::{HashMap, HashSet};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;

/// What is live of a queue, counted.
struct Messages {
    by_flags: BTreeMap<u8, RecoveredMessages>,
    /// Sequences with packet ids, and which of them are live.
    outgoing: HashSet<u64>,
    in_flight: Vec<LogEntry>,
}

impl Messages {
    fn new(queue: &FoundQueue) -> Messages {
        Messages {
            by_flags: BTreeMap::new(),
            outgoing: queue.packet_ids.iter().map(|(seq, ..)| *seq).collect(),
            in_flight: Vec::new(),
        }
    }
    fn add(&mut self, entry: LogEntry) {
        if !self.outgoing.is_empty() && self.outgoing.contains(&entry.seq) {
            self.in_flight.push(entry);
            return;
        }
        let counted = self.by_flags.entry(entry.flags).or_insert(RecoveredMessages {
            first: entry.seq,
            last: entry.seq,
            count: 0,
            bytes: 0,
        });
        counted.first = counted.first.min(entry.seq);
        counted.last = counted.last.max(entry.seq);
        counted.count += 1;
        counted.bytes += u64::from(entry.body_len);
    }
}

fn find_roots(
    wanted: &HashSet<Root>,
    found: &mut HashMap<Root, (Position, u32)>,
    at: Position,
    body_len: u32,
    routes: &[Route],
) {
    let roots = routes.iter().map(|route| Root::Route(route.queue, route.seq));
    for root in roots.chain([Root::At(at)]).filter(|root| wanted.contains(root)) {
        found.insert(root, (at, body_len));
    }
}

/// A queue of the checkpoint while the directories are read.
struct Counting<'a> {
    /// What the checkpoint knows about it, and what was found behind the checkpoint.
    known: &'a QueueIndex,
    found: &'a FoundQueue,
    /// The part of it that was used last.
    span: Option<Span>,
    /// What exists.
    index: QueueIndex,
    messages: Messages,
}

impl<'a> Counting<'a> {
    fn new(known: &'a QueueIndex, found: &'a FoundQueue) -> Counting<'a> {
        Counting {
            known,
            found,
            span: None,
            index: QueueIndex::default(),
            messages: Messages::new(found),
        }
    }
    /// Counts an entry of a directory, if it is live there.
    fn count(&mut self, entry: LogEntry) -> bool {
        let seq = entry.seq;
        let around = |span: &Span| (span.first..=span.last()).contains(&seq);
        if !self.span.as_ref().is_some_and(around) {
            self.span = self.known.spans_from(seq).next().filter(|span| around(span));
        }
        let listed = self.span.is_some_and(|span| span.segment == entry.at.segment);
        // A copy of it in a segment that is not covered is newer.
        let live = listed
            && !self.known.is_dead(seq)
            && self.found.counts(&entry)
            && self.found.find(seq).is_none()
            && self.index.insert(seq, entry.at.segment);
        if live {
            self.messages.add(entry);
        }
        live
    }
}

impl FoundQueue {
    /// Whether a message exists after the start: it was not settled, and not only spilled to free memory.
    fn counts(&self, entry: &LogEntry) -> bool {
        entry.flags & Route::TRANSIENT == 0 && !self.settled.contains(entry.seq)
    }
    fn find(&self, seq: u64) -> Option<&LogEntry> {
        let at = self.entries.binary_search_by_key(&seq, |entry| entry.seq).ok()?;
        self.entries.get(at)
    }
}

impl<D: Disk> Recovery<D> {
    /// Builds the index and the result from everything that was found.
    pub(super) fn settle(&mut self, progress: &mut dyn FnMut(Opening)) -> Result<Recovered, StoreError> {
        for queue in self.queues.values_mut() {
            // Copies are in younger segments; of two, the younger stays.
            queue
                .entries
                .sort_unstable_by_key(|entry| (entry.seq, std::cmp::Reverse(entry.at)));
            queue.entries.dedup_by_key(|entry| entry.seq);
        }
        self.wanted = self.moves.values().map(|moved| moved.root).collect();
        let mut found = self.count_listed(progress)?;
        self.resolve_moves()?;
        let mut recovered = Recovered::default();
        for (id, queue) in std::mem::take(&mut self.queues) {
            if queue.deleted {
                continue;
            }
            let mut messages = found.remove(&id).unwrap_or_else(|| Messages::new(&queue));
            for entry in queue.entries.iter().filter(|entry| queue.counts(entry)) {
                self.index.insert(id, entry.seq, entry.at.segment);
                messages.add(*entry);
            }
            let index = self.index.queues.get_or_default(id);
            // A packet id outlives its message only when the message is not needed any more: after PUBREC.
            let mut packet_ids = queue.packet_ids;
            packet_ids.retain(|(seq, _, released)| *released || index.lookup(*seq).is_some());
            index.next_seq = queue.next_seq;
            index.handed_out = queue.handed_out;
            index.incoming_ids = queue.incoming_ids.clone();
            index.packet_ids = packet_ids.clone();
            let mut returned = queue.returned;
            returned.retain(|seq, _| index.lookup(*seq).is_some());
            index.returned = returned.clone();
            index.first_segment = queue.first_segment;
            index.copies = queue.copies;
            let first = queue.first_message.filter(|_| !queue.is_sure);
            let is_torn = first.is_some_and(|(header, at)| !self.is_synced(&header, at));
            recovered.queues.insert(
                id,
                RecoveredQueue {
                    next_seq: queue.next_seq,
                    handed_out: queue.handed_out,
                    messages: messages.by_flags,
                    in_flight: messages.in_flight,
                    incoming_ids: queue.incoming_ids,
                    packet_ids,
                    returned,
                    is_torn,
                },
            );
        }
        Ok(recovered)
    }

    /// Applies deletions: a queue's to its messages, a vhost's to everything in it.
    pub(super) fn apply_deletions(&mut self) {
        let segments = &self.segments;
        // What a checkpoint covers already knows which segments it must outlive.
        let is_new = |at: Position| segments.get(&at.segment).is_some_and(|s| at.offset >= s.covered);
        let deletions: Vec<(Box<[u8]>, Position)> = (self.index.keys.iter())
            .filter(|(key, entry)| entry.deleted && (key::as_vhost(key).is_some() || key::as_queue(key).is_some()))
            .map(|(key, entry)| (key.clone(), entry.at))
            .collect();
        for (key, at) in deletions {
            let others = segments.values().filter(|s| s.header.id != at.segment);
            if let Some(vhost) = key::as_vhost(&key) {
                let known = self.index.vhosts.get(&vhost).cloned().unwrap_or_default();
                self.index.delete_vhost(vhost);
                while self.index.go_on_deleting(usize::MAX) {}
                for (_, queue) in self.queues.range_mut(QueueId::all_of(vhost)) {
                    queue.deleted = true;
                }
                if is_new(at) {
                    let may_have = others.filter(|s| s.may_have(known.first_segment, &known.copies));
                    self.index.outlives(&key, may_have.map(|s| s.header.id));
                }
            } else if let Some(queue) = key::as_queue(&key)
                && let Some(found) = self.queues.get_mut(&queue)
            {
                found.deleted = true;
                if is_new(at) {
                    let may_have = others.filter(|s| s.may_have(found.first_segment, &found.copies));
                    self.index.outlives(&key, may_have.map(|s| s.header.id));
                }
            }
        }
    }

    /// Counts entries in the directories of covered segments that were not settled since.
    fn count_listed(&mut self, progress: &mut dyn FnMut(Opening)) -> Result<BTreeMap<QueueId, Messages>, StoreError> {
        let Some(checkpoint) = self.checkpoint.take() else {
            return Ok(BTreeMap::new());
        };
        let mut counting: HashMap<QueueId, Counting<'_>> = HashMap::new();
        for (id, known) in checkpoint.index.queues.iter() {
            if let Some(found) = self.queues.get(id).filter(|found| !found.deleted) {
                counting.insert(*id, Counting::new(known, found));
            }
        }
        let listed = std::mem::take(&mut self.listed);
        let of = listed.len();
        for (n, id) in listed.into_iter().enumerate() {
            progress(Opening::Counted { files: n, of });
            let directory = match self.shared.pin_patiently(id)? {
                Some(pinned) => read_directory(&*pinned.file, &pinned.header).map_err(|e| self.unread(id, e))?,
                None => None,
            };
            let Some((_, directory)) = directory else {
                // It was valid a moment ago.
                tracing::error!(segment = id, "the directory of a segment does not hold any more");
                StoreStats::add(&self.shared.stats.quarantined, 1);
                continue;
            };
            let mut live = 0;
            for listed in Entries::new(&directory) {
                let Listed::Message {
                    offset,
                    body_len,
                    routes,
                } = listed
                else {
                    continue;
                };
                let at = Position { segment: id, offset };
                if !self.wanted.is_empty() {
                    find_roots(&self.wanted, &mut self.roots, at, body_len, &routes);
                }
                for route in &routes {
                    let entry = LogEntry {
                        seq: route.seq,
                        at,
                        body_len,
                        flags: route.flags,
                    };
                    if let Some(queue) = counting.get_mut(&route.queue) {
                        live += u64::from(queue.count(entry));
                    }
                }
            }
            self.index.add_live(id, live);
        }
        let counted = counting.into_iter().map(|(id, queue)| {
            self.index.queues.insert(id, queue.index);
            (id, queue.messages)
        });
        Ok(counted.collect())
    }

    fn unread(&self, segment: u32, error: io::Error) -> StoreError {
        StoreError::unread(&self.shared.path_of(segment), error)
    }

    /// Notes a payload that a move refers to.
    pub(super) fn found_root(&mut self, at: Position, body_len: u32, routes: &[Route]) {
        if !self.wanted.is_empty() {
            find_roots(&self.wanted, &mut self.roots, at, body_len, routes);
        }
    }

    /// Gives moved messages the payloads of their roots.
    fn resolve_moves(&mut self) -> Result<(), StoreError> {
        for ((queue, seq), moved) in std::mem::take(&mut self.moves) {
            let is_gone = |found: &FoundQueue| found.deleted || found.settled.contains(seq);
            if moved.flags & Route::TRANSIENT != 0 || self.queues.get(&queue).is_some_and(is_gone) {
                continue;
            }
            // Compaction may have written it as a record of its own.
            let own = |found: &FoundQueue| found.find(seq).is_some();
            if self.queues.get(&queue).is_some_and(own) {
                continue;
            }
            let Some((at, body_len)) = self.root(moved.root)? else {
                let is_damaged = self.shared.stats.quarantined.load(Ordering::Relaxed) > 0;
                if is_damaged || self.was_covered(moved.root) {
                    tracing::error!(queue = queue.0, seq, "the payload of a moved message is gone");
                    StoreStats::add(&self.shared.stats.quarantined, 1);
                } else {
                    tracing::info!(queue = queue.0, seq, "a message was moved while its payload was torn");
                }
                continue;
            };
            let entry = LogEntry {
                seq,
                at,
                body_len,
                flags: moved.flags,
            };
            let entries = &mut self.queues.entry(queue).or_default().entries;
            let place = entries.partition_point(|other| other.seq < seq);
            entries.insert(place, entry);
            self.index.moves.insert(
                (queue, seq),
                Move {
                    root: Root::At(at),
                    flags: moved.flags,
                    body_len,
                },
            );
        }
        Ok(())
    }

    /// Whether a checkpoint knew a payload, so that no crash can have torn it.
    fn was_covered(&self, root: Root) -> bool {
        match root {
            Root::At(at) => self
                .segments
                .get(&at.segment)
                .is_none_or(|segment| at.offset < segment.covered),
            Root::Route(..) => self.known_roots.contains(&root),
        }
    }

    /// The position of a payload, and the length of its body.
    fn root(&self, root: Root) -> Result<Option<(Position, u32)>, StoreError> {
        if let Some(found) = self.roots.get(&root) {
            return Ok(Some(*found));
        }
        let at = match root {
            Root::Route(queue, seq) => {
                let entry = self.queues.get(&queue).and_then(|queue| queue.find(seq));
                return Ok(entry.map(|entry| (entry.at, entry.body_len)));
            }
            Root::At(at) => at,
        };
        let Some(pinned) = self.shared.pin_patiently(at.segment)? else {
            return Ok(None);
        };
        let mut chunk = Chunk::new(pinned);
        let raw = chunk.record(at.offset).map_err(|e| self.unread(at.segment, e))?;
        let raw = raw.filter(|raw| raw.kind == Kind::Message);
        Ok(raw.and_then(|raw| {
            let head = MessageHead::parse(raw.head)?;
            Some((at, head.body_len(raw.payload.len())))
        }))
    }

    /// Drops deletions that nothing is left to delete for. Returns those that only the checkpoint knows, because their
    /// segment no longer exists.
    pub(super) fn lost_deletions(&mut self, recovered: &mut Recovered) -> Vec<Box<[u8]>> {
        let segments = &self.segments;
        let is_session = |key: &[u8]| matches!(key::parse(key), Some((_, KeyKind::Session, _)));
        let deleted = self.index.keys.iter().filter(|(_, entry)| entry.deleted);
        recovered.deleted_sessions = (deleted.map(|(key, _)| key).filter(|key| is_session(key)).cloned()).collect();
        let unsure = self
            .unsure
            .iter()
            .filter(|(header, at, _)| !self.is_synced(header, *at));
        recovered.unsure = unsure.map(|(.., key)| key.clone()).collect();
        self.index
            .drop_needless_deletions(|segment| segments.contains_key(&segment));
        let is_lost = |entry: &KeyEntry| entry.deleted && !segments.contains_key(&entry.at.segment);
        let lost = self.index.keys.iter().filter(|(_, entry)| is_lost(entry));
        let lost: Vec<Box<[u8]>> = lost.map(|(key, _)| key.clone()).collect();
        if !lost.is_empty() {
            tracing::error!(
                deletions = lost.len(),
                "deletions are gone with their segment: they are written again"
            );
            StoreStats::add(&self.shared.stats.quarantined, 1);
        }
        lost
    }
}
