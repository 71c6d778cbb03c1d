//! The start: finds out from the files what is live.
//!
//! ```text
//!   checkpoint ──► what is live below `covered`, segment by segment
//!        │
//!   cold/, log/ ──► covered and sealed: left for later; nothing live: for ever
//!        │          else: every record; below `covered` filtered, behind it replayed
//!        ▼
//!   settle, resolve moves, collapse duplicates
//!        ▼
//!   covered and sealed: the directory, filtered by all that ──► Recovered, and an index built from what is really there
//! ```
//!
//! Covered segments may have many millions of messages, of which only counts are kept: their directories are read one
//! after the other, once it is known what was settled since.
//!
//! Rules:
//! - The next sequence of a queue is one more than the highest in *any* record, including dropped groups, acks and
//!   hand-out marks. A number that was ever on disk is never used again; otherwise old acks would apply to new
//!   messages.
//! - A hole below what its epoch knew to be synced is damage, and copied to `quarantine/`. Above it is a torn tail.
//!   Reading continues behind both.
//! - Bytes that could not be read are no damage. The start tries again, and fails if that lasts; then it has changed
//!   nothing.
//! - An incomplete group is dropped, unless it was synced and is damaged: then the rest of it counts.
//! - What was read is synced before it is used, because it may have been in the page cache only. If that fails, so does
//!   the start: as after any failed sync, the next power cut could take away what the start had answered for.

use super::checkpoint::{self, Checkpoint, Covered, Marks};
use super::directory::{Directory, Entries, Listed};
use super::disk::{Disk, DiskFile, Patient, SECTOR};
use super::files::Shared;
use super::footer::Ending;
use super::index::{Index, KeyEntry, KeyRecord, Move, Root, Segments};
use super::missing::{self, Expected};
use super::record::{ALIGN, DELETED, legible_key, parse_key};
use super::segment::{
    BadHeader, COLD_DIR, LOG_DIR, SegmentHeader, SegmentKind, SegmentWriter, VERSION, id_of, path, read_directory,
};
use super::segment_entry::Segment;
use super::seqset::Ranges;
use super::settings::{StoreError, StoreSettings};
use super::spare::{AHEAD, SPARES_MAX, Spare};
use super::stats::StoreStats;
use super::values::LiveKeys;
use super::{LogEntry, Opening, QueueId, Recovered, Route, key, quarantine};
use crate::message::Position;
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

mod reading;
mod replay;
mod resolve;

pub(super) use replay::{Op, list};

/// What a start found.
pub(super) struct Found<D: Disk> {
    pub(super) shared: Arc<Shared<D>>,
    pub(super) recovered: Recovered,
    pub(super) segments: BTreeMap<u32, Segment>,
    pub(super) marks: Marks,
    pub(super) spares: Vec<Spare>,
    /// Something was found that no checkpoint covers.
    pub(super) replayed: bool,
    /// All of it is sealed, so that no later start judges it again.
    pub(super) is_settled: bool,
}

/// Reads a locked data directory.
pub(super) fn recover<D: Disk>(
    disk: &Arc<D>,
    settings: &StoreSettings,
    has_run_on: bool,
    is_thorough: bool,
    progress: &mut dyn FnMut(Opening),
) -> Result<Found<D>, StoreError> {
    for dir in [LOG_DIR, COLD_DIR, quarantine::DIR] {
        disk.make_dir(dir).map_err(failed(format!("make {dir}/")))?;
    }
    let stats = Arc::new(StoreStats::default());
    let mut recovery = Recovery {
        shared: Arc::new(Shared::new(disk.clone(), stats, settings.open_files_max)),
        has_run_on,
        is_settled: true,
        is_thorough,
        checkpoint: None,
        expected: Expected::default(),
        log_upto: 0,
        known_roots: HashSet::new(),
        wanted: HashSet::new(),
        needed: HashSet::new(),
        roots: HashMap::new(),
        queues: BTreeMap::new(),
        moves: BTreeMap::new(),
        index: Index::default(),
        segments: BTreeMap::new(),
        marks: Marks::default(),
        durable: HashMap::new(),
        holes: Vec::new(),
        incomplete: Vec::new(),
        doubtful: Vec::new(),
        unsure: Vec::new(),
        unsealed: Vec::new(),
        listed: Vec::new(),
        replayed: false,
    };
    recovery.read_checkpoint()?;
    let spares = recovery.tidy(settings)?;
    let mut files = Vec::new();
    for dir in [COLD_DIR, LOG_DIR] {
        let names = disk.list(dir).map_err(failed(format!("list {dir}/")))?;
        let mut ids: Vec<u32> = names.iter().filter_map(|name| id_of(name)).collect();
        ids.sort_unstable();
        files.extend(ids.into_iter().map(|id| (dir, id)));
    }
    for (n, (dir, id)) in files.iter().enumerate() {
        recovery.read_file(dir, *id)?;
        progress(Opening::Read {
            files: n + 1,
            of: files.len(),
        });
    }
    recovery.miss(&files);
    recovery.judge();
    recovery.apply_deletions();
    let mut recovered = recovery.settle(progress)?;
    let lost = recovery.lost_deletions(&mut recovered);
    recovery.hand_over_keys(lost, &mut recovered)?;
    recovery.seal_leftovers();
    recovered.wall = recovery.marks.wall;
    let highest = recovered.queue_max.keys().next_back().copied().unwrap_or_default();
    recovery.marks.vhost_max = recovery.marks.vhost_max.max(highest);
    recovered.vhost_max = recovery.marks.vhost_max;
    let Recovery {
        shared,
        segments,
        marks,
        replayed,
        is_settled,
        ..
    } = recovery;
    Ok(Found {
        shared,
        recovered,
        segments,
        marks,
        spares,
        replayed,
        is_settled,
    })
}

fn failed(what: String) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io { what, source }
}

struct Recovery<D: Disk> {
    shared: Arc<Shared<D>>,
    /// The process died without a power cut, so nothing is torn: only the end of a file may be missing.
    has_run_on: bool,
    /// Everything found is sealed, so that no later start judges it again.
    is_settled: bool,
    /// Every record is read, so that all damage is found.
    is_thorough: bool,
    checkpoint: Option<Box<Checkpoint>>,
    /// Segments that must exist according to the newest checkpoint, if that could be read.
    expected: Expected,
    /// How far the log went, according to the footers.
    log_upto: u64,
    /// Payloads that moves in the checkpoint refer to.
    known_roots: HashSet<Root>,
    /// Payloads that moves refer to, and those that were found.
    wanted: HashSet<Root>,
    /// Segments in which the checkpoint has live messages.
    needed: HashSet<u32>,
    roots: HashMap<Root, (Position, u32)>,
    queues: BTreeMap<QueueId, FoundQueue>,
    moves: BTreeMap<(QueueId, u64), Move>,
    /// Filled with keys while reading, and with queues at the end.
    index: Index,
    segments: BTreeMap<u32, Segment>,
    marks: Marks,
    /// By epoch, the highest LSN of the log known to be synced.
    durable: HashMap<u32, u64>,
    holes: Vec<Hole>,
    incomplete: Vec<Incomplete>,
    /// Purges and deletions of queues behind a hole. A lost record may have moved a message out of the queue before.
    doubtful: Vec<(SegmentHeader, u32, Op)>,
    /// Keys that refer to others, in records that may not have been synced.
    unsure: Vec<(SegmentHeader, u32, Box<[u8]>)>,
    unsealed: Vec<Unsealed>,
    /// Segments of which only the directory has to be read.
    listed: Vec<u32>,
    replayed: bool,
}

#[derive(Default)]
struct FoundQueue {
    /// All messages that records put into it, in any order and with duplicates, except those that `listed` segments
    /// list.
    entries: Vec<LogEntry>,
    settled: Ranges,
    next_seq: u64,
    handed_out: u64,
    incoming_ids: Vec<u16>,
    packet_ids: Vec<(u64, u16, bool)>,
    returned: BTreeMap<u64, u32>,
    deleted: bool,
    /// See [`super::index::QueueIndex::first_segment`].
    first_segment: u32,
    /// See [`super::index::QueueIndex::copies`].
    copies: Segments,
    /// Its first message that no checkpoint covers.
    first_message: Option<(SegmentHeader, u32)>,
    /// Whether a checkpoint knows it, or a message of it was certainly synced.
    is_sure: bool,
}

struct Hole {
    header: SegmentHeader,
    from: u32,
    to: u32,
    /// It is known to have been synced, whatever batches say.
    certain: bool,
}

/// A group of which some records are missing.
struct Incomplete {
    header: SegmentHeader,
    /// The offset of its first record.
    at: u32,
    ops: Vec<Op>,
    /// It is known to have been synced as a whole.
    certain: bool,
}

/// A segment without a footer.
struct Unsealed {
    header: SegmentHeader,
    end: u32,
    /// Its holes, whether damage or torn tails.
    holes: Vec<(u32, u32)>,
    directory: Directory,
}

impl<D: Disk> Recovery<D> {
    fn disk(&self) -> &D {
        &self.shared.disk
    }
    fn set_aside(&self, header: &SegmentHeader, offset: u32, bytes: &[u8], why: &str) {
        self.shared.damaged(header, offset, bytes, why);
    }

    fn read_checkpoint(&mut self) -> Result<(), StoreError> {
        const WHY: &str = "its checksum does not hold";
        for file in [checkpoint::FILE, checkpoint::OLD] {
            if self.checkpoint.is_some() {
                if !checkpoint::holds(self.disk(), file)? {
                    quarantine::move_file(self.disk(), &self.shared.stats, file, WHY);
                }
                continue;
            }
            match checkpoint::read(self.disk(), file)? {
                checkpoint::Read::Missing => {}
                // Set aside at once; otherwise the next checkpoint would replace the valid one.
                checkpoint::Read::Damaged => {
                    quarantine::move_file(self.disk(), &self.shared.stats, file, WHY);
                    self.replayed = true;
                }
                checkpoint::Read::Good(found) => {
                    // Segments in which an older checkpoint has something live may have been recycled since.
                    if file == checkpoint::FILE {
                        self.expected = missing::expected(&found);
                    }
                    self.take_checkpoint(found);
                }
            }
        }
        Ok(())
    }

    fn take_checkpoint(&mut self, mut found: Box<Checkpoint>) {
        self.marks = found.marks;
        self.moves = std::mem::take(&mut found.index.moves);
        self.wanted = self.moves.values().map(|moved| moved.root).collect();
        self.known_roots = self.wanted.clone();
        self.index.vhosts = found.index.vhosts.clone();
        for (key, entry) in std::mem::take(&mut found.index.keys).into_all() {
            self.index.restore_key(key, entry);
        }
        for (id, queue) in found.index.queues.iter_mut() {
            self.needed.extend(queue.spans().map(|span| span.segment));
            let into = self.queues.entry(*id).or_default();
            (into.next_seq, into.handed_out) = (queue.next_seq, queue.handed_out);
            into.incoming_ids = std::mem::take(&mut queue.incoming_ids);
            into.packet_ids = std::mem::take(&mut queue.packet_ids);
            into.returned = std::mem::take(&mut queue.returned);
            into.first_segment = queue.first_segment;
            into.copies = std::mem::take(&mut queue.copies);
            into.is_sure = true;
        }
        self.checkpoint = Some(found);
    }

    /// The index is complete. Reads the values that are read at once, and notes where the others are.
    fn hand_over_keys(&mut self, lost: Vec<Box<[u8]>>, recovered: &mut Recovered) -> Result<(), StoreError> {
        let numbers = self.index.vhosts.iter().map(|(id, vhost)| (*id, vhost.queue_max));
        recovered.queue_max = numbers.collect();
        *self.shared.index.write() = std::mem::take(&mut self.index);
        self.shared.start.lock().rescued = lost.into_iter().map(|key| (key, None)).collect();
        let with_keys = self.segments.values().filter(|segment| segment.keys > 0);
        let values = LiveKeys::of(&self.shared, with_keys.map(|segment| segment.header.id).collect());
        values.read_at_once(&mut recovered.keys)?;
        recovered.values = Some(Arc::new(values));
        Ok(())
    }

    /// Removes drafts, and collects the spares.
    fn tidy(&mut self, settings: &StoreSettings) -> Result<Vec<Spare>, StoreError> {
        let disk = self.shared.disk.clone();
        let mut spares = Vec::new();
        for dir in [LOG_DIR, COLD_DIR] {
            for name in disk.list(dir).map_err(failed(format!("list {dir}/")))? {
                let file = format!("{dir}/{name}");
                let is_spare = name.ends_with(".free");
                if is_spare {
                    // Its number is used up.
                    let id = name
                        .strip_suffix(".free")
                        .and_then(|id| id.parse().ok())
                        .unwrap_or(0u32);
                    self.marks.next_id = self.marks.next_id.max(id.saturating_add(1));
                }
                let whole = || {
                    disk.open(&file)?
                        .len()
                        .map(|len| len >= u64::from(settings.segment_bytes))
                };
                if is_spare && dir == LOG_DIR && spares.len() < SPARES_MAX && whole().unwrap_or(false) {
                    // Most of them have been segments.
                    spares.push(Spare {
                        path: file,
                        written: true,
                    });
                } else if is_spare || name == "draft" || file == AHEAD {
                    // This is not durable and need not be: the next start repeats it.
                    let _ = disk.remove(&file);
                }
            }
        }
        // A process that died may have renamed them just before. See `Spare`.
        if !spares.is_empty()
            && let Err(error) = disk.sync_dir(LOG_DIR)
        {
            tracing::warn!(%error, "the spare segments are not used");
            spares.clear();
        }
        let _ = disk.remove(checkpoint::DRAFT);
        Ok(spares)
    }

    /// Reports segments that are missing although something was live in them, or others were written behind them.
    fn miss(&mut self, files: &[(&str, u32)]) {
        // Places of missing segments are not used again.
        self.marks.next_base = self.marks.next_base.max(self.log_upto);
        let there: Vec<SegmentHeader> = self.segments.values().map(|segment| segment.header).collect();
        let found = missing::Found {
            headers: &there,
            log_upto: self.log_upto,
        };
        for gone in missing::find(self.checkpoint.as_deref(), &self.expected, &found, |id| {
            files.iter().any(|(_, file)| *file == id)
        }) {
            quarantine::note_missing(self.disk(), &self.shared.stats, &gone);
        }
    }

    fn covered(&self, id: u32) -> Option<Covered> {
        self.checkpoint
            .as_ref()?
            .segments
            .iter()
            .find(|segment| segment.header.id == id)
            .copied()
    }

    /// Whether a segment was recycled before the checkpoint, although its file still exists or exists again.
    fn is_retired(&self, id: u32) -> bool {
        let before = self
            .checkpoint
            .as_ref()
            .is_some_and(|checkpoint| id < checkpoint.marks.next_id);
        before && self.covered(id).is_none()
    }

    fn read_file(&mut self, dir: &str, id: u32) -> Result<(), StoreError> {
        let name = path(dir, id);
        if self.is_retired(id) {
            // What it contains was settled long ago, by records that no longer exist.
            let header = self.disk().open_patiently(&name);
            let header = header.and_then(|file| SegmentHeader::read(&Patient(Arc::new(file))));
            if let Err(error) = header {
                // It is not needed, and will be handled when it can be read.
                tracing::warn!(file = name, %error, "a file that is not needed cannot be read");
            } else if matches!(header, Ok(Ok(header)) if header.id == id) {
                quarantine::move_leftover(self.disk(), &name, "it was recycled before");
            } else {
                let why = "no copy of the header holds, and it could not be set aside before";
                quarantine::move_file(self.disk(), &self.shared.stats, &name, why);
            }
            return Ok(());
        }
        self.marks.next_id = self.marks.next_id.max(id.saturating_add(1));
        let unread = |error| StoreError::unread(&name, error);
        let file = self.disk().open_patiently(&name).map_err(unread)?;
        let file = Patient(Arc::new(file));
        let covered = self.covered(id);
        let header = match (SegmentHeader::read(&file).map_err(unread)?, covered) {
            (Ok(header), _) => header,
            (Err(BadHeader::Version(found)), _) => {
                return Err(StoreError::Version {
                    path: name,
                    found,
                    known: VERSION,
                });
            }
            // The checkpoint knows what the file has lost.
            (Err(BadHeader::Damaged), Some(covered)) => {
                tracing::warn!(file = name, "no copy of the header holds; the checkpoint has it");
                covered.header
            }
            (Err(BadHeader::Damaged), None) => {
                quarantine::move_file(self.disk(), &self.shared.stats, &name, "no copy of the header holds");
                return Ok(());
            }
        };
        if header.id != id || header.kind.dir() != dir {
            quarantine::move_file(
                self.disk(),
                &self.shared.stats,
                &name,
                "its header is another segment's",
            );
            return Ok(());
        }
        self.heal_header(&file, &header);
        self.marks.epoch = self.marks.epoch.max(header.epoch);
        let end = header.base.saturating_add(u64::from(header.size) * 2);
        self.marks.next_base = self.marks.next_base.max(end);
        let covered = covered.filter(|covered| covered.header == header);
        self.shared.add(header, None, None);
        let mut segment = Segment::new(header, file.len().map_err(unread)?);
        if let Some(covered) = covered {
            segment.covered = covered.end;
            (segment.end, segment.sealed) = (covered.end, covered.sealed);
            (segment.routes, segment.keys) = (covered.routes, covered.keys);
        }
        self.segments.insert(id, segment);
        match covered {
            Some(covered)
                if covered.sealed && !self.is_thorough && self.is_listed(&file, &covered).map_err(unread)? =>
            {
                Ok(())
            }
            _ => {
                file.sync_data().map_err(failed(format!("sync {name}")))?;
                self.scan(&file, header, covered).map_err(unread)
            }
        }
    }

    /// Writes a header again whose first copy is damaged, because the next start may find no valid one.
    fn heal_header(&self, file: &Patient<D::File>, header: &SegmentHeader) {
        let mut first = [0; SECTOR as usize];
        if let Err(error) = file.read_at(&mut first, 0) {
            // It is not known to be damaged, so nothing is written over it.
            tracing::warn!(segment = header.id, %error, "the first copy of the header cannot be read");
            return;
        }
        if SegmentHeader::decode(&first) == Ok(*header) {
            return;
        }
        self.set_aside(header, 0, &first, "the first copy of the header does not hold");
        if let Err(error) = header.write(file).and_then(|()| file.sync_data().map(drop)) {
            tracing::warn!(segment = header.id, %error, "the header could not be written again");
        }
    }

    /// Whether the directory of a covered and sealed segment is enough to find what is live in it, so that it is left
    /// for later.
    fn is_listed(&mut self, file: &Patient<D::File>, covered: &Covered) -> io::Result<bool> {
        let id = covered.header.id;
        let is_needed = self.needed.contains(&id);
        if !is_needed && covered.keys == 0 {
            return Ok(true);
        }
        if let Some((_, directory)) = read_directory(file, &covered.header)? {
            if is_needed {
                self.listed.push(id);
            }
            if covered.keys > 0 {
                self.find_bulk_keys(id, &directory);
            }
            return Ok(true);
        }
        self.set_aside(
            &covered.header,
            covered.end,
            &[],
            "the footer does not hold; the records are read",
        );
        Ok(false)
    }

    /// Whether a checkpoint that covers a key's record leaves the key out, although it may exist. A vhost that the
    /// checkpoint does not know is deleted. The record of its deletion may have been in the same segment, and the
    /// checkpoint need not know about it either.
    fn is_covered_bulk(&self, key: &[u8]) -> bool {
        let checkpoint = self.checkpoint.as_ref();
        let has_vhost = |vhost| checkpoint.is_none_or(|checkpoint| checkpoint.index.vhosts.contains_key(&vhost));
        key::is_bulk(key) && key::vhost_of(key).is_none_or(has_vhost)
    }

    /// Reads the keys from a directory that checkpoints leave out.
    fn find_bulk_keys(&mut self, segment: u32, directory: &[u8]) {
        for listed in Entries::new(directory) {
            if let Listed::Key {
                offset,
                len,
                version,
                deleted,
                key,
            } = listed
                && self.is_covered_bulk(key)
            {
                let record = KeyRecord {
                    at: Position { segment, offset },
                    version,
                    len,
                    deleted,
                    value: None,
                };
                self.index.found_key(key, record);
            }
        }
    }

    fn covered_message(&mut self, at: Position, body_len: u32, routes: &[Route]) {
        self.found_root(at, body_len, routes);
        let Some(checkpoint) = &self.checkpoint else { return };
        for route in routes {
            if checkpoint.index.lookup(route.queue, route.seq) == Some(at.segment) {
                let entry = LogEntry {
                    seq: route.seq,
                    at,
                    body_len,
                    flags: route.flags,
                };
                self.queues.entry(route.queue).or_default().entries.push(entry);
            }
        }
    }

    /// Whether a place is known to have been synced.
    fn is_synced(&self, header: &SegmentHeader, at: u32) -> bool {
        let durable = self.durable.get(&header.epoch).copied().unwrap_or(0);
        header.kind != SegmentKind::Log || header.base + u64::from(at) < durable
    }

    /// Tells damage from torn tails, now that all batches have been read.
    fn judge(&mut self) {
        let durable = |header: &SegmentHeader| self.durable.get(&header.epoch).copied().unwrap_or(0);
        let is_synced = |header: &SegmentHeader, at: u32| {
            header.kind == SegmentKind::Log && header.base + u64::from(at) < durable(header)
        };
        let mut damaged: Vec<(SegmentHeader, u32, u32)> = Vec::new();
        for hole in &self.holes {
            if hole.certain || is_synced(&hole.header, hole.from) {
                let bytes = self.bytes(&hole.header, hole.from, hole.to);
                self.set_aside(&hole.header, hole.from, &bytes, "records that were synced do not hold");
                damaged.push((hole.header, hole.from, hole.to));
            } else {
                tracing::info!(
                    segment = hole.header.id,
                    from = hole.from,
                    to = hole.to,
                    "a torn tail was cut"
                );
            }
        }
        for leftover in &self.unsealed {
            // The tail of an unsealed segment that its own epoch knew to be longer.
            if is_synced(&leftover.header, leftover.end.next_multiple_of(SECTOR)) {
                self.shared
                    .damaged(&leftover.header, leftover.end, &[], "the segment's end is missing");
                damaged.push((leftover.header, leftover.end, leftover.header.size));
            }
        }
        let mut doubtful = std::mem::take(&mut self.doubtful);
        doubtful.retain(|(header, at, _)| is_synced(header, *at));
        let incomplete = std::mem::take(&mut self.incomplete);
        let kept: Vec<Incomplete> = incomplete
            .into_iter()
            .filter(|group| group.certain || is_synced(&group.header, group.at))
            .collect();
        damaged.retain(|(header, ..)| self.unsealed.iter().any(|leftover| leftover.header.id == header.id));
        for (header, _, op) in doubtful {
            self.apply(&header, op);
        }
        for group in kept {
            // Its segment's directory does not list it, so the records must be read again.
            self.unsealed.retain(|leftover| leftover.header.id != group.header.id);
            for op in group.ops {
                self.apply(&group.header, op);
            }
        }
        // Done last, when all older values of a key are known.
        for (header, from, to) in damaged {
            let bytes = self.bytes(&header, from, to);
            if self.find_legible_keys(&header, from, &bytes) {
                // A directory would not list them, so the next start must read the records again.
                self.unsealed.retain(|leftover| leftover.header.id != header.id);
            }
        }
    }

    /// Looks for damaged records of retained messages in a segment without a footer, where no directory says what was
    /// lost. A key that is still readable makes the older value of that key outdated: the start must not restore that
    /// value. Returns whether it found any.
    fn find_legible_keys(&mut self, header: &SegmentHeader, from: u32, bytes: &[u8]) -> bool {
        let covered_end = self.segments.get(&header.id).map_or(0, |segment| segment.covered);
        let mut found = false;
        for at in (0..bytes.len()).step_by(ALIGN) {
            let offset = from + at as u32;
            let lsn = header.base + u64::from(offset);
            let Some(record) = legible_key(&bytes[at..], lsn, header.seed()) else {
                continue;
            };
            let Some((version, key)) = parse_key(&record.head) else {
                continue;
            };
            let version = if version == 0 { lsn } else { version };
            let is_outdated = |entry: &KeyEntry| entry.version < version;
            let is_judged = offset < covered_end && !self.is_covered_bulk(key);
            if !key::is_bulk(key) || is_judged || !self.index.keys.get(key).is_some_and(is_outdated) {
                continue;
            }
            let record = KeyRecord {
                at: Position {
                    segment: header.id,
                    offset,
                },
                version,
                len: record.len.next_multiple_of(ALIGN) as u32,
                deleted: record.flags & DELETED != 0,
                value: None,
            };
            self.index.found_key(key, record);
            found = true;
        }
        found
    }

    fn bytes(&self, header: &SegmentHeader, from: u32, to: u32) -> Vec<u8> {
        const MOST: u32 = 64 << 20;
        let mut bytes = vec![0; (to - from).min(MOST) as usize];
        let got = match self.shared.pin(header.id) {
            Ok(Some(pinned)) => pinned.file.read_at(&mut bytes, u64::from(from)).unwrap_or(0),
            _ => 0,
        };
        bytes.truncate(got);
        bytes
    }

    /// Writes footers for segments without one, so that their records need not be read again.
    fn seal_leftovers(&mut self) {
        for leftover in std::mem::take(&mut self.unsealed) {
            // Also a segment that never got a record: without it there would be a gap, as if it had been lost.
            let (id, header) = (leftover.header.id, leftover.header);
            let directory = Arc::new(Mutex::new(leftover.directory));
            let sealed = || -> io::Result<(u32, u64)> {
                let file = Arc::new(self.disk().open_patiently(&path(header.kind.dir(), id))?);
                let mut writer = SegmentWriter::resume(header, file.clone(), leftover.end, directory.clone());
                writer.seal(Ending::Cut, 0, leftover.holes)?;
                Ok((leftover.end, file.len()?))
            };
            match sealed() {
                Ok((end, file_bytes)) => {
                    if let Some(segment) = self.segments.get_mut(&id) {
                        *segment = Segment {
                            end,
                            file_bytes,
                            sealed: true,
                            ..*segment
                        };
                    }
                }
                Err(error) => {
                    self.is_settled = false;
                    // Bytes at the file's end are no directory, and no damage.
                    self.shared.add(header, None, Some(directory));
                    tracing::warn!(segment = id, %error, "a segment was not sealed; the next start reads it");
                }
            }
        }
    }
}
