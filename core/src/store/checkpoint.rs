//! The checkpoint: saves a start from replaying the log. It is derived from the log and can be rebuilt.
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
//! Small and precious values, those of definitions, are repeated here, so that damage to one of their records loses
//! nothing. Retained messages are not listed unless they were deleted: a start finds them in the directories.
//!
//! It covers each segment up to `end`, and says what is live below. The former one is kept as `checkpoint.old`, and no
//! segment is recycled that it does not cover: damage to one checkpoint makes the start longer and loses nothing. If
//! both are damaged, the start reads every record there is. Messages whose settling was recorded in a segment recycled
//! since may then be delivered once more.

use super::disk::{Disk, DiskFile, Patient};
use super::index::{Index, KeyEntry, Move, QueueIndex, Root, Segments, VhostIndex};
use super::record::{parse_queue_id, parse_runs};
use super::segment::{SegmentHeader, SegmentKind};
use super::settings::StoreError;
use super::spans::Span;
use super::varint::Input;
use super::{QueueId, VhostId};
use crate::message::Position;
use crate::time::Wall;
use std::io;
use std::sync::Arc;

mod writing;

pub(crate) use writing::draft;

/// The newest checkpoint.
pub(crate) const FILE: &str = "checkpoint";
/// The one before.
pub(crate) const OLD: &str = "checkpoint.old";
/// One that is being written.
pub(crate) const DRAFT: &str = "checkpoint.draft";
const MAGIC: [u8; 8] = *b"GATEPCKP";
const VERSION: u32 = 4;
const HEADER_BYTES: usize = 24;
/// Bytes that are written or checked in one piece, roughly. A checkpoint is as long as what exists, which may be a lot.
/// The store's own tests use small pieces, so that simulated crashes happen between them.
const PIECE_BYTES: usize = if cfg!(test) { 256 } else { 64 << 10 };

/// What a checkpoint says about a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Covered {
    pub(crate) header: SegmentHeader,
    /// The checkpoint covers all records before this offset.
    pub(crate) end: u32,
    pub(crate) sealed: bool,
    /// Routes in its directory.
    pub(crate) routes: u64,
    /// Keys in its directory.
    pub(crate) keys: u64,
}

/// The single numbers of a checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Marks {
    pub(crate) epoch: u32,
    pub(crate) next_id: u32,
    pub(crate) next_base: u64,
    pub(crate) wall: Wall,
    /// The highest number of a vhost in any record.
    pub(crate) vhost_max: VhostId,
}

/// A checkpoint that was read.
#[derive(Debug, Default)]
pub(crate) struct Checkpoint {
    pub(crate) marks: Marks,
    pub(crate) segments: Vec<Covered>,
    /// Only what checkpoints store: counts by segment are missing.
    pub(crate) index: Index,
}

/// The result of reading a checkpoint file.
pub(crate) enum Read {
    Good(Box<Checkpoint>),
    Missing,
    Damaged,
}

/// Reads a checkpoint file.
///
/// # Errors
/// [`StoreError::Version`] if it is valid and belongs to another release, [`StoreError::Read`] if it could not be read
/// for too long.
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

/// Whether a checkpoint file is missing or valid. It is read piece by piece.
///
/// # Errors
/// [`StoreError::Read`] if it could not be read for too long.
pub(crate) fn holds<D: Disk>(disk: &D, path: &str) -> Result<bool, StoreError> {
    let checked = with_file(disk, path, |file| {
        let mut header = [0; HEADER_BYTES];
        let got = file.read_at(&mut header, 0)?;
        let Some(header) = header.get(..got).and_then(Header::parse) else {
            return Ok(false);
        };
        let mut crc = header.crc_of_itself();
        let (mut at, end) = (HEADER_BYTES as u64, (HEADER_BYTES as u64).saturating_add(header.len));
        let mut piece = vec![0; PIECE_BYTES];
        while at < end {
            let want = (end - at).min(PIECE_BYTES as u64) as usize;
            let got = file.read_at(&mut piece[..want], at)?;
            crc = crc32c::crc32c_append(crc, &piece[..got]);
            if got < want {
                return Ok(false);
            }
            at += got as u64;
        }
        Ok(crc == header.crc)
    })?;
    Ok(checked.unwrap_or(true))
}

/// The bytes of a file; `None` if it does not exist.
fn load<D: Disk>(disk: &D, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
    with_file(disk, path, |file| {
        let len = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = vec![0; len];
        let got = file.read_at(&mut bytes, 0)?;
        bytes.truncate(got);
        Ok(bytes)
    })
}

/// Reads a file with `read`; `None` if it does not exist.
fn with_file<D: Disk, T>(
    disk: &D,
    path: &str,
    read: impl FnOnce(&Patient<D::File>) -> io::Result<T>,
) -> Result<Option<T>, StoreError> {
    let opened = disk.open_patiently(path);
    match opened.and_then(|file| read(&Patient(Arc::new(file)))) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::unread(path, error)),
    }
}

/// The header, before the body.
struct Header {
    crc: u32,
    version: u32,
    /// Bytes of the body.
    len: u64,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Header> {
        let mut input = Input(bytes);
        if input.bytes(8)? != MAGIC {
            return None;
        }
        Some(Header {
            crc: input.u32()?,
            version: input.u32()?,
            len: input.u64()?,
        })
    }
    /// The checksum of the header's own fields, from which the body's continues.
    fn crc_of_itself(&self) -> u32 {
        let crc = crc32c::crc32c(&self.version.to_le_bytes());
        crc32c::crc32c_append(crc, &self.len.to_le_bytes())
    }
}

/// The result of decoding.
pub(crate) enum Decoded {
    Good(Box<Checkpoint>),
    Damaged,
    Version(u32),
}

/// The version and the body of a checkpoint with a valid checksum.
fn open(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let header = Header::parse(bytes)?;
    let body = bytes.get(HEADER_BYTES..)?.get(..usize::try_from(header.len).ok()?)?;
    let crc = crc32c::crc32c_append(header.crc_of_itself(), body);
    (crc == header.crc).then_some((header.version, body))
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
    // A start finds the payload, and its length.
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
        let disk = crate::testing::disk::SimDisk::new(0);
        let draft = draft(&disk, &found.marks, &found.segments, &found.index);
        draft.and_then(|draft| draft.publish(&disk)).expect("the disk has room");
        let bytes = disk.read(FILE).expect("it was written");
        assert!(
            matches!(decode(&bytes), Decoded::Good(_)),
            "what was parsed encodes to something that parses"
        );
    }
}
