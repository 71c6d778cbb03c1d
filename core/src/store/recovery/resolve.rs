//! From what was found to what is live: settled, moved, collapsed, with the values of the keys.

use super::{FoundQueue, Recovery};
use crate::message::Position;
use crate::store::disk::Disk;
use crate::store::index::{Move, Root};
use crate::store::reader::Chunk;
use crate::store::record::{Kind, MessageHead, Raw, parse_key};
use crate::store::stats::StoreStats;
use crate::store::{Recovered, RecoveredEntry, RecoveredQueue};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

impl<D: Disk> Recovery<D> {
    /// Builds the index and the answer from everything that was found.
    pub(super) fn settle(&mut self) -> Recovered {
        for queue in self.queues.values_mut() {
            // Copies lie in younger segments; of two, the younger stays.
            queue
                .entries
                .sort_unstable_by_key(|entry| (entry.seq, std::cmp::Reverse(entry.at)));
            queue.entries.dedup_by_key(|entry| entry.seq);
        }
        self.resolve_moves();
        let mut recovered = Recovered::default();
        for (id, mut queue) in std::mem::take(&mut self.queues) {
            if queue.deleted {
                continue;
            }
            let settled = &queue.settled;
            queue.entries.retain(|entry| !settled.contains(entry.seq));
            // A packet id may outlive its message only where the message is not needed any more: after PUBREC.
            let entries = &queue.entries;
            let is_live = |seq: &u64| entries.binary_search_by_key(seq, |entry| entry.seq).is_ok();
            queue.packet_ids.retain(|(seq, _, released)| *released || is_live(seq));
            let index = self.index.queues.entry(id).or_default();
            index.next_seq = queue.next_seq;
            index.handed_out = queue.handed_out;
            index.incoming_ids = queue.incoming_ids.clone();
            index.packet_ids = queue.packet_ids.clone();
            for entry in &queue.entries {
                self.index.insert(id, entry.seq, entry.at.segment);
            }
            recovered.queues.insert(
                id,
                RecoveredQueue {
                    next_seq: queue.next_seq,
                    handed_out: queue.handed_out,
                    entries: queue.entries,
                    incoming_ids: queue.incoming_ids,
                    packet_ids: queue.packet_ids,
                },
            );
        }
        recovered
    }

    /// Gives moved messages the payloads of their roots.
    fn resolve_moves(&mut self) {
        for ((queue, seq), moved) in std::mem::take(&mut self.moves) {
            let is_gone = |found: &FoundQueue| found.deleted || found.settled.contains(seq);
            if self.queues.get(&queue).is_some_and(is_gone) {
                continue;
            }
            // Compaction may have made it a record of its own.
            let own = |found: &FoundQueue| found.entries.binary_search_by_key(&seq, |entry| entry.seq).is_ok();
            if self.queues.get(&queue).is_some_and(own) {
                continue;
            }
            let Some((at, body_len)) = self.root(moved.root) else {
                let is_damaged = self.shared.stats.quarantined.load(Ordering::Relaxed) > 0;
                if is_damaged || self.was_covered(moved.root) {
                    tracing::error!(queue = queue.0, seq, "the payload of a moved message is gone");
                    StoreStats::add(&self.shared.stats.quarantined, 1);
                } else {
                    tracing::info!(queue = queue.0, seq, "a message was moved while its payload was torn");
                }
                continue;
            };
            let entry = RecoveredEntry {
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
                },
            );
        }
    }

    /// Whether a checkpoint knew a payload, so that no crash can have torn it.
    fn was_covered(&self, root: Root) -> bool {
        match root {
            Root::At(at) => self
                .segments
                .get(&at.segment)
                .is_none_or(|segment| at.offset < segment.covered),
            Root::Route(..) => self.wanted.contains(&root),
        }
    }

    /// Where a payload lies, and the length of its body.
    fn root(&self, root: Root) -> Option<(Position, u32)> {
        if let Some(found) = self.roots.get(&root) {
            return Some(*found);
        }
        match root {
            Root::Route(queue, seq) => {
                let entries = &self.queues.get(&queue)?.entries;
                let entry = entries.get(entries.binary_search_by_key(&seq, |entry| entry.seq).ok()?)?;
                Some((entry.at, entry.body_len))
            }
            Root::At(at) => {
                let mut chunk = Chunk::new(self.shared.pin(at.segment).ok()??);
                let raw = chunk.record(at.offset).ok()??;
                let head = MessageHead::parse(raw.head).filter(|_| raw.kind == Kind::Message)?;
                Some((at, head.body_len(raw.payload.len())))
            }
        }
    }

    /// Reads the values of the live keys. What is lost is forgotten.
    pub(super) fn read_keys(&mut self, recovered: &mut Recovered) {
        self.index.drop_needless_deletions();
        let (mut order, mut lost) = (Vec::new(), Vec::new());
        let mut gone: BTreeMap<u32, u64> = BTreeMap::new();
        for (key, entry) in &self.index.keys {
            if !self.segments.contains_key(&entry.at.segment) {
                *gone.entry(entry.at.segment).or_default() += 1;
                lost.push(key.clone());
            } else if !entry.deleted {
                order.push((entry.at, key.clone()));
            }
        }
        order.sort_unstable();
        let mut chunk: Option<Chunk<D::File>> = None;
        for (at, key) in order {
            if chunk.as_ref().is_none_or(|chunk| chunk.header().id != at.segment) {
                chunk = self.shared.pin(at.segment).ok().flatten().map(Chunk::new);
            }
            let Some(chunk) = &mut chunk else {
                *gone.entry(at.segment).or_default() += 1;
                continue;
            };
            let value = |raw: &Raw<'_>| parse_key(raw.head).is_some_and(|(_, found)| *found == *key);
            match chunk.record(at.offset) {
                Ok(Some(raw)) if raw.kind == Kind::Key && value(&raw) => {
                    recovered.keys.insert(key, raw.payload.into());
                }
                found => {
                    // What cannot be read now may be readable at another start.
                    if found.is_ok() {
                        lost.push(key);
                    }
                    let sample = chunk.sample(at.offset);
                    self.shared
                        .damaged(chunk.header(), at.offset, &sample, "a keyed record does not hold");
                }
            }
        }
        for (segment, keys) in gone {
            tracing::error!(segment, keys, "keyed records are gone with their segment");
            StoreStats::add(&self.shared.stats.quarantined, 1);
        }
        for key in lost {
            self.index.lose_key(&key);
        }
    }
}
