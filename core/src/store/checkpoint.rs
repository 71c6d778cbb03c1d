//! The checkpoint: what a start would otherwise have to replay. Derived from the log and replaceable.
//!
//! ```text
//!   magic 8 │ crc32c 4 │ version 4 │ length 8 │ body
//!
//!   body    epoch, next segment, next base, wall, highest vhost
//!           vhosts     count, (vhost, highest queue, first segment, copies count, segment*)*
//!           segments   count, (id, kind, epoch, salt, base, size, end, sealed, routes, keys)*
//!           queues     count, (vhost, number, next seq, handed out, first segment, copies count, segment*,
//!                              spans count, (gap, extent, segment, live)*, dead runs,
//!                              incoming count, id*, outgoing count, (seq, id, released)*,
//!                              returned count, (seq, times)*)*
//!           moves      count, (vhost, number, seq, flags, 0 vhost number seq | 1 segment offset)*
//!           keys       count, (key len, key, segment, offset, version, len, deleted, older count, segment*,
//!                              0 | 1 value len, value)*
//! ```
//!
//! Small and precious values, those of definitions, are said once more, so that damage to the record of one loses nothing.
//! Retained messages are not listed, unless deleted: a start finds them in the directories.
//!
//! It covers each segment up to `end`, and says of everything below what is live. The one before is kept as
//! `checkpoint.old`, and nothing is reclaimed that it does not cover: damage to one checkpoint makes the start longer
//! and loses nothing. If both are damaged, the start reads every record there is; what was settled in a segment that
//! has been recycled since may then come once more.

use super::disk::{Disk, DiskFile, Patient};
use super::index::{Index, KeyEntry, Move, QueueIndex, Root, Segments, VhostIndex};
use super::key;
use super::record::{self, parse_queue_id, parse_runs, put_runs};
use super::segment::{SegmentHeader, SegmentKind};
use super::settings::StoreError;
use super::spans::Span;
use super::varint::{Input, put_varint};
use super::{QueueId, VhostId};
use crate::message::Position;
use crate::time::Wall;
use std::io;
use std::sync::Arc;

/// The newest.
pub(crate) const FILE: &str = "checkpoint";
/// The one before.
pub(crate) const OLD: &str = "checkpoint.old";
/// One being written.
pub(crate) const DRAFT: &str = "checkpoint.draft";
const MAGIC: [u8; 8] = *b"GATEPCKP";
const VERSION: u32 = 4;
const HEADER_BYTES: usize = 24;

/// What is said of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Covered {
    pub(crate) header: SegmentHeader,
    /// The index speaks for all records before this offset.
    pub(crate) end: u32,
    pub(crate) sealed: bool,
    /// Routes in its directory.
    pub(crate) routes: u64,
    /// Keys in its directory.
    pub(crate) keys: u64,
}

/// The scalars.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Marks {
    pub(crate) epoch: u32,
    pub(crate) next_id: u32,
    pub(crate) next_base: u64,
    pub(crate) wall: Wall,
    /// Highest number of a vhost in any record.
    pub(crate) vhost_max: VhostId,
}

/// A checkpoint that was read.
#[derive(Debug, Default)]
pub(crate) struct Checkpoint {
    pub(crate) marks: Marks,
    pub(crate) segments: Vec<Covered>,
    /// Only what checkpoints carry: counts per segment are not there.
    pub(crate) index: Index,
}

/// A checkpoint to be written.
pub(crate) struct Encoded {
    pub(crate) bytes: Vec<u8>,
    /// How many of the bytes list deletions.
    pub(crate) deletions: u64,
}

/// The bytes of a checkpoint.
pub(crate) fn encode(marks: &Marks, segments: &[Covered], index: &Index) -> Encoded {
    let mut out = vec![0; HEADER_BYTES];
    let o = &mut out;
    put_marks(o, marks);
    put_varint(o, index.vhosts.len() as u64);
    for (id, vhost) in &index.vhosts {
        let first = u64::from(vhost.first_segment);
        put_all(o, [u64::from(id.0), vhost.queue_max, first]);
        put_segments(o, &vhost.copies);
    }
    put_varint(o, segments.len() as u64);
    for segment in segments {
        put_segment(o, segment);
    }
    put_varint(o, index.queues.len() as u64);
    for (id, queue) in &index.queues {
        put_queue(o, *id, queue);
    }
    put_varint(o, index.moves.len() as u64);
    for ((queue, seq), moved) in &index.moves {
        put_move(o, (*queue, *seq), moved);
    }
    let listed = || {
        let keys = index.keys.iter();
        keys.filter(|(key, entry)| entry.deleted || !key::is_bulk(key))
    };
    put_varint(o, listed().count() as u64);
    let mut deletions = 0;
    for (key, entry) in listed() {
        let before = o.len();
        put_key(o, key, entry);
        deletions += if entry.deleted { (o.len() - before) as u64 } else { 0 };
    }
    let len = (out.len() - HEADER_BYTES) as u64;
    out[..8].copy_from_slice(&MAGIC);
    out[12..16].copy_from_slice(&VERSION.to_le_bytes());
    out[16..24].copy_from_slice(&len.to_le_bytes());
    let crc = crc32c::crc32c(&out[12..]);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
    Encoded { bytes: out, deletions }
}

fn put_segments(o: &mut Vec<u8>, segments: &Segments) {
    put_varint(o, segments.iter().len() as u64);
    let mut before = 0;
    for segment in segments.iter() {
        put_varint(o, u64::from(segment - before));
        before = segment;
    }
}

fn parse_segments(i: &mut Input<'_>) -> Option<Segments> {
    let count = i.count(1)?;
    let (mut segments, mut before) = (Vec::with_capacity(count), 0u32);
    for _ in 0..count {
        let gap: u32 = i.number()?;
        before = before.checked_add(gap).filter(|_| gap > 0)?;
        segments.push(before);
    }
    Some(Segments::from_sorted(segments))
}

fn put_all<const N: usize>(o: &mut Vec<u8>, values: [u64; N]) {
    for value in values {
        put_varint(o, value);
    }
}

fn put_marks(o: &mut Vec<u8>, marks: &Marks) {
    let vhost_max = u64::from(marks.vhost_max.0);
    let (epoch, next_id) = (u64::from(marks.epoch), u64::from(marks.next_id));
    put_all(o, [epoch, next_id, marks.next_base, marks.wall.0, vhost_max]);
}

fn put_segment(o: &mut Vec<u8>, segment: &Covered) {
    let h = &segment.header;
    let header = [u64::from(h.id), h.kind as u64, u64::from(h.epoch), h.salt, h.base];
    put_all(o, header);
    let sealed = u64::from(segment.sealed);
    let (size, end) = (u64::from(h.size), u64::from(segment.end));
    put_all(o, [size, end, sealed, segment.routes, segment.keys]);
}

fn put_move(o: &mut Vec<u8>, (queue, seq): (QueueId, u64), moved: &Move) {
    record::put_queue(queue, o);
    put_varint(o, seq);
    o.push(moved.flags);
    match moved.root {
        Root::Route(queue, seq) => {
            o.push(0);
            record::put_queue(queue, o);
            put_varint(o, seq);
        }
        Root::At(at) => {
            o.push(1);
            put_position(o, at);
        }
    }
}

fn put_position(o: &mut Vec<u8>, at: Position) {
    put_all(o, [u64::from(at.segment), u64::from(at.offset)]);
}

fn put_key(o: &mut Vec<u8>, key: &[u8], entry: &KeyEntry) {
    put_varint(o, key.len() as u64);
    o.extend_from_slice(key);
    put_position(o, entry.at);
    put_all(o, [entry.version, u64::from(entry.len), u64::from(entry.deleted)]);
    put_segments(o, &entry.older);
    o.push(u8::from(entry.value.is_some()));
    if let Some(value) = &entry.value {
        put_varint(o, value.len() as u64);
        o.extend_from_slice(value);
    }
}

fn put_queue(o: &mut Vec<u8>, id: QueueId, queue: &QueueIndex) {
    record::put_queue(id, o);
    put_varint(o, queue.next_seq);
    put_varint(o, queue.handed_out);
    put_varint(o, u64::from(queue.first_segment));
    put_segments(o, &queue.copies);
    put_varint(o, queue.span_count() as u64);
    let mut next = 0;
    for span in queue.spans() {
        put_varint(o, span.first - next);
        put_varint(o, u64::from(span.extent));
        put_varint(o, u64::from(span.segment));
        put_varint(o, u64::from(span.live));
        next = span.last();
    }
    let runs: Vec<(u64, u64)> = queue.dead_runs().collect();
    put_runs(runs.iter().copied(), runs.len(), o);
    put_varint(o, queue.incoming_ids.len() as u64);
    for id in &queue.incoming_ids {
        put_varint(o, u64::from(*id));
    }
    put_varint(o, queue.packet_ids.len() as u64);
    for (seq, id, released) in &queue.packet_ids {
        put_varint(o, *seq);
        put_varint(o, u64::from(*id));
        o.push(u8::from(*released));
    }
    put_varint(o, queue.returned.len() as u64);
    for (seq, times) in &queue.returned {
        put_varint(o, *seq);
        put_varint(o, u64::from(*times));
    }
}

/// Writes a checkpoint beside the newest one and puts it in its place. Returns when it is durable.
pub(crate) fn write<D: Disk>(disk: &D, bytes: &[u8]) -> io::Result<()> {
    let file = disk.create(DRAFT)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    match disk.rename(FILE, OLD) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    disk.rename(DRAFT, FILE)?;
    disk.sync_dir("")
}

/// What a checkpoint file turned out to be.
pub(crate) enum Read {
    Good(Box<Checkpoint>),
    Missing,
    Damaged,
}

/// Reads a checkpoint file.
///
/// # Errors
/// [`StoreError::Version`] if it holds and is another release's, [`StoreError::Read`] if it could not be read for long.
pub(crate) fn read<D: Disk>(disk: &D, path: &str) -> Result<Read, StoreError> {
    let Some(bytes) = load(disk, path)? else {
        return Ok(Read::Missing);
    };
    match decode(&bytes) {
        Decoded::Good(checkpoint) => Ok(Read::Good(checkpoint)),
        Decoded::Damaged => Ok(Read::Damaged),
        Decoded::Version(found) => Err(StoreError::Version {
            path: path.into(),
            found,
            known: VERSION,
        }),
    }
}

/// Whether a checkpoint file is missing or its checksum holds.
///
/// # Errors
/// [`StoreError::Read`] if it could not be read for long.
pub(crate) fn holds<D: Disk>(disk: &D, path: &str) -> Result<bool, StoreError> {
    Ok(load(disk, path)?.is_none_or(|bytes| open(&bytes).is_some()))
}

/// The bytes of a file; `None` if it is not there.
fn load<D: Disk>(disk: &D, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let read = || -> io::Result<Vec<u8>> {
        let file = Patient(Arc::new(disk.open_patiently(path)?));
        let len = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = vec![0; len];
        let got = file.read_at(&mut bytes, 0)?;
        bytes.truncate(got);
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::unread(path, error)),
    }
}

/// What bytes turned out to be.
pub(crate) enum Decoded {
    Good(Box<Checkpoint>),
    Damaged,
    Version(u32),
}

/// The version and the body of a checkpoint whose checksum holds.
fn open(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut input = Input(bytes);
    if input.bytes(8)? != MAGIC {
        return None;
    }
    let crc = input.u32()?;
    let mut fields = input;
    let (version, len) = (fields.u32()?, fields.u64()?);
    let body = fields.bytes(usize::try_from(len).ok()?)?;
    let covered = input.bytes(12 + body.len())?;
    (crc == crc32c::crc32c(covered)).then_some((version, body))
}

pub(crate) fn decode(bytes: &[u8]) -> Decoded {
    match open(bytes) {
        Some((VERSION, body)) => parse(body).map_or(Decoded::Damaged, |found| Decoded::Good(Box::new(found))),
        Some((version, _)) => Decoded::Version(version),
        None => Decoded::Damaged,
    }
}

fn parse(body: &[u8]) -> Option<Checkpoint> {
    let mut i = Input(body);
    let marks = Marks {
        epoch: i.number()?,
        next_id: i.number()?,
        next_base: i.varint()?,
        wall: Wall(i.varint()?),
        vhost_max: VhostId(i.number()?),
    };
    let mut index = Index::default();
    for _ in 0..i.count(4)? {
        let id = VhostId(i.number()?);
        let vhost = VhostIndex {
            queue_max: i.varint()?,
            first_segment: i.number()?,
            copies: parse_segments(&mut i)?,
        };
        index.vhosts.insert(id, vhost);
    }
    let count = i.count(10)?;
    let mut segments = Vec::with_capacity(count);
    for _ in 0..count {
        segments.push(parse_segment(&mut i)?);
    }
    for _ in 0..i.count(10)? {
        let (id, queue) = parse_queue(&mut i)?;
        index.queues.insert(id, queue);
    }
    for _ in 0..i.count(7)? {
        let (to, moved) = parse_move(&mut i)?;
        index.moves.insert(to, moved);
    }
    for _ in 0..i.count(8)? {
        let (key, entry) = parse_key(&mut i)?;
        index.restore_key(key, entry);
    }
    i.0.is_empty().then_some(Checkpoint { marks, segments, index })
}

fn parse_segment(i: &mut Input<'_>) -> Option<Covered> {
    let id = i.number()?;
    let kind = SegmentKind::from_u8(i.number()?)?;
    let header = SegmentHeader {
        id,
        kind,
        epoch: i.number()?,
        salt: i.varint()?,
        base: i.varint()?,
        size: i.number()?,
    };
    let end = i.number()?;
    let sealed = i.varint()? != 0;
    Some(Covered {
        header,
        end,
        sealed,
        routes: i.varint()?,
        keys: i.varint()?,
    })
}

fn parse_move(i: &mut Input<'_>) -> Option<((QueueId, u64), Move)> {
    let to = (parse_queue_id(i)?, i.varint()?);
    let flags = i.u8()?;
    let root = match i.u8()? {
        0 => Root::Route(parse_queue_id(i)?, i.varint()?),
        1 => Root::At(parse_position(i)?),
        _ => return None,
    };
    // The start finds the payload, and its length.
    let body_len = 0;
    Some((to, Move { root, flags, body_len }))
}

fn parse_position(i: &mut Input<'_>) -> Option<Position> {
    let segment = i.number()?;
    let offset = i.number()?;
    Some(Position { segment, offset })
}

fn parse_key(i: &mut Input<'_>) -> Option<(Box<[u8]>, KeyEntry)> {
    let len = i.number()?;
    let key = i.bytes(len)?.into();
    let at = parse_position(i)?;
    let (version, len, deleted) = (i.varint()?, i.number()?, i.varint()? != 0);
    let older = parse_segments(i)?;
    let value = match i.u8()? {
        0 => None,
        1 => {
            let len = i.number()?;
            Some(i.bytes(len)?.into())
        }
        _ => return None,
    };
    let entry = KeyEntry {
        at,
        version,
        len,
        value,
        older,
        deleted,
    };
    Some((key, entry))
}

fn parse_queue(i: &mut Input<'_>) -> Option<(QueueId, QueueIndex)> {
    let id = parse_queue_id(i)?;
    let (next_seq, handed_out, first_segment) = (i.varint()?, i.varint()?, i.number()?);
    let copies = parse_segments(i)?;
    let count = i.count(4)?;
    let mut spans = Vec::with_capacity(count);
    let mut next = 0u64;
    for _ in 0..count {
        let first = next.checked_add(i.varint()?)?;
        let span = Span {
            first,
            extent: i.number()?,
            segment: i.number()?,
            live: i.number()?,
        };
        next = first.checked_add(u64::from(span.extent))?;
        spans.push(span);
    }
    let dead = parse_runs(i)?;
    let mut queue = QueueIndex::from_parts(&spans, &dead)?;
    (queue.next_seq, queue.handed_out) = (next_seq, handed_out);
    (queue.first_segment, queue.copies) = (first_segment, copies);
    for _ in 0..i.count(1)? {
        queue.incoming_ids.push(i.number()?);
    }
    for _ in 0..i.count(3)? {
        queue.packet_ids.push((i.varint()?, i.number()?, i.u8()? != 0));
    }
    for _ in 0..i.count(2)? {
        queue.returned.insert(i.varint()?, i.number()?);
    }
    Some((id, queue))
}

/// Parses bytes as the body of a checkpoint whose checksum held.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzz(body: &[u8]) {
    if let Some(found) = parse(body) {
        let bytes = encode(&found.marks, &found.segments, &found.index).bytes;
        assert!(
            matches!(decode(&bytes), Decoded::Good(_)),
            "what was parsed encodes to something that parses"
        );
    }
}
