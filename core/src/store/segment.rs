//! One file of the log: its header, the writer that fills it, the footer that ends it.
//!
//! ```text
//!   0        512       4096     4608                                        end          file end - 512
//!   ├────────┼─ ... ───┼────────┼───────────────────────────────────────────┼────────────┼─────────┤
//!   │ header │    0    │ header │ writes: BATCH, records, 0 to the sector… 0│   FOOTER   │ trailer │
//!   └────────┴─ ... ───┴────────┴───────────────────────────────────────────┴────────────┴─────────┘
//!
//!   header   magic 8 │ crc32c 4 │ version 4 │ id 4 │ epoch 4 │ kind 1, 0 3 │ 0 4 │ salt 8 │ base lsn 8 │ size 8
//!   trailer  magic 8 │ crc32c 4 │ header 56 │ footer offset 4 │ end 4 │ ending 4
//! ```
//!
//! - The header is stored twice, in two pages, and a third time in the trailer: damage to one costs nothing.
//! - A write begins on a fresh 512-byte sector if everything before it was synced, so that no later tear can take it
//!   back. Every write begins with a BATCH that says where the one before ended: the bytes between are padding, and
//!   other bytes that are no record are a hole. The kernel writes blocks of 4 KiB, and so rewrites the synced sectors
//!   of the last block with the same bytes: a medium that writes whole sectors has the old bytes or the same. If each
//!   write began on a block of its own, that would also survive a medium that loses a block which it fails to write. It
//!   costs no bytes written (a sync of 200 bytes writes 4 KiB either way), but eight times the space: a device that
//!   publishes 200 bytes at a time would fill 4 KiB with each.
//! - The footer begins on a block of its own, so that sealing a segment, by a start after a power cut or by a repair,
//!   never rewrites a block with records in it.
//! - The footer is written when the segment is full and everything in it is synced (*sealed*). A start that finds a
//!   segment without one reads its records and seals it. That footer says so, and lists the holes, because they were
//!   judged then and must not be judged again.
//! - Space for the footer is kept while the segment fills, so sealing needs no more disk than was allocated at the
//!   start.

use super::directory::Directory;
use super::disk::{BLOCK, Disk, DiskFile, SECTOR};
use super::footer::{Ending, Footer};
use super::record::{self, ALIGN, BatchHead, Encoder, HEADER_BYTES, Kind, MessageHead};
use super::varint::Input;
use super::{Route, StoreError};
use crate::message::Message;
use crate::time::Wall;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The offset of the first record.
pub(crate) const RECORDS_AT: u32 = HEADER_COPY_AT + SECTOR;
/// The offset of the header's second copy.
const HEADER_COPY_AT: u32 = 4096;
/// The offsets of the header's copies at the beginning of a segment.
const HEADERS_AT: [u64; 2] = [0, HEADER_COPY_AT as u64];
/// Bytes of a header.
const SEGMENT_HEADER_BYTES: usize = 56;
/// The format that this release writes and reads.
pub(crate) const VERSION: u32 = 3;
/// Bytes kept for the footer without the directory: its head, alignment before and behind it, and the trailer.
pub(crate) const FOOTER_ROOM: usize = HEADER_BYTES + 32 + BLOCK as usize + 2 * SECTOR as usize;
const MAGIC: [u8; 8] = *b"GATEPSEG";
const TRAILER_MAGIC: [u8; 8] = *b"GATEPEND";

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SegmentKind {
    /// The log as it was written.
    Log = 0,
    /// Messages copied by compaction.
    Messages = 1,
    /// Keyed records copied by compaction.
    Keys = 2,
}

impl SegmentKind {
    pub(crate) fn from_u8(kind: u8) -> Option<SegmentKind> {
        Some(match kind {
            0 => SegmentKind::Log,
            1 => SegmentKind::Messages,
            2 => SegmentKind::Keys,
            _ => return None,
        })
    }
    /// The directory of such segments.
    pub(crate) fn dir(self) -> &'static str {
        match self {
            SegmentKind::Log => LOG_DIR,
            SegmentKind::Messages | SegmentKind::Keys => COLD_DIR,
        }
    }
}

/// The directory of the log.
pub(crate) const LOG_DIR: &str = "log";
/// The directory of segments written by compaction.
pub(crate) const COLD_DIR: &str = "cold";

/// The path of a segment.
pub(crate) fn path(dir: &str, id: u32) -> String {
    format!("{dir}/{id:08}.seg")
}

/// The id in a segment's file name.
pub(crate) fn id_of(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) id: u32,
    /// It grows with each start that writes.
    pub(crate) epoch: u32,
    pub(crate) kind: SegmentKind,
    /// Unpredictable, so that no body can imitate a record.
    pub(crate) salt: u64,
    /// The LSN of offset 0.
    pub(crate) base: u64,
    /// Bytes allocated for the segment.
    pub(crate) size: u32,
}

/// Why a header is not usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// Its checksum is wrong.
    Damaged,
    /// It is valid, and from another release.
    Version(u32),
}

impl SegmentHeader {
    /// The seed of its records' checksums.
    pub(crate) fn seed(&self) -> u32 {
        let seed = crc32c::crc32c_append(self.epoch, &self.id.to_le_bytes());
        crc32c::crc32c_append(seed, &self.salt.to_le_bytes())
    }
    fn encode(&self, magic: [u8; 8]) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        out.extend_from_slice(&magic);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&[self.kind as u8, 0, 0, 0]);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.base.to_le_bytes());
        out.extend_from_slice(&u64::from(self.size).to_le_bytes());
        let crc = crc32c::crc32c(&out[12..]);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        let mut header = [0; SEGMENT_HEADER_BYTES];
        header.copy_from_slice(&out);
        header
    }
    pub(crate) fn decode(bytes: &[u8]) -> Result<SegmentHeader, BadHeader> {
        let parse = || -> Option<Result<SegmentHeader, BadHeader>> {
            let mut input = Input(bytes.get(..SEGMENT_HEADER_BYTES)?);
            if input.bytes(8)? != MAGIC || input.u32()? != crc32c::crc32c(input.0) {
                return None;
            }
            let version = input.u32()?;
            if version != VERSION {
                return Some(Err(BadHeader::Version(version)));
            }
            let id = input.u32()?;
            let epoch = input.u32()?;
            let kind = SegmentKind::from_u8(input.bytes(4)?.first().copied()?)?;
            input.bytes(4)?;
            let (salt, base) = (input.u64()?, input.u64()?);
            let size = u32::try_from(input.u64()?).ok()?;
            Some(Ok(SegmentHeader {
                id,
                epoch,
                kind,
                salt,
                base,
                size,
            }))
        };
        parse().unwrap_or(Err(BadHeader::Damaged))
    }
    /// Whether both copies at the file's start say this.
    pub(crate) fn is_whole<F: DiskFile>(&self, file: &F) -> io::Result<bool> {
        for at in HEADERS_AT {
            let mut bytes = [0; SEGMENT_HEADER_BYTES];
            file.read_at(&mut bytes, at)?;
            if SegmentHeader::decode(&bytes) != Ok(*self) {
                return Ok(false);
            }
        }
        Ok(true)
    }
    /// Writes both copies.
    pub(crate) fn write<F: DiskFile>(&self, file: &F) -> io::Result<()> {
        let mut sector = [0; SECTOR as usize];
        sector[..SEGMENT_HEADER_BYTES].copy_from_slice(&self.encode(MAGIC));
        HEADERS_AT.iter().try_for_each(|at| file.write_at(&sector, *at))
    }
    /// Reads the header of a file, from whichever copy is valid.
    ///
    /// # Errors
    /// No copy that could be read is valid, and one could not be read.
    pub(crate) fn read<F: DiskFile>(file: &F) -> io::Result<Result<SegmentHeader, BadHeader>> {
        let mut sector = [0; SECTOR as usize];
        let mut unread = None;
        for at in HEADERS_AT {
            match file.read_at(&mut sector, at).map(|_| SegmentHeader::decode(&sector)) {
                Ok(Err(BadHeader::Damaged)) => {}
                Ok(found) => return Ok(found),
                Err(error) => unread = Some(error),
            }
        }
        match (Trailer::read(file), unread) {
            (Ok(Some(trailer)), _) => Ok(Ok(trailer.header)),
            (Ok(None), None) => Ok(Err(BadHeader::Damaged)),
            (Err(error), _) | (_, Some(error)) => Err(error),
        }
    }
}

/// The last sector of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) header: SegmentHeader,
    /// Offset of the FOOTER.
    pub(crate) footer: u32,
    /// Where the records end.
    pub(crate) end: u32,
    /// Who sealed it.
    pub(crate) ending: Ending,
}

impl Trailer {
    fn encode(&self) -> [u8; SECTOR as usize] {
        let mut sector = [0; SECTOR as usize];
        let mut out = Vec::with_capacity(96);
        out.extend_from_slice(&self.header.encode(MAGIC));
        out.extend_from_slice(&self.footer.to_le_bytes());
        out.extend_from_slice(&self.end.to_le_bytes());
        out.extend_from_slice(&u32::from(self.ending as u8).to_le_bytes());
        sector[..8].copy_from_slice(&TRAILER_MAGIC);
        sector[8..12].copy_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        sector[12..12 + out.len()].copy_from_slice(&out);
        sector
    }
    /// `Ok(None)` if what was read is no trailer.
    pub(crate) fn read<F: DiskFile>(file: &F) -> io::Result<Option<Trailer>> {
        let Some(at) = file.len()?.checked_sub(u64::from(SECTOR)) else {
            return Ok(None);
        };
        let mut sector = [0; SECTOR as usize];
        file.read_at(&mut sector, at)?;
        Ok(Trailer::decode(&sector))
    }
    fn decode(sector: &[u8]) -> Option<Trailer> {
        let mut input = Input(sector);
        if input.bytes(8)? != TRAILER_MAGIC {
            return None;
        }
        let crc = input.u32()?;
        let body = input.bytes(SEGMENT_HEADER_BYTES + 12)?;
        if crc != crc32c::crc32c(body) {
            return None;
        }
        let header = SegmentHeader::decode(body).ok()?;
        let mut input = Input(body.get(SEGMENT_HEADER_BYTES..)?);
        Some(Trailer {
            header,
            footer: input.u32()?,
            end: input.u32()?,
            ending: Ending::from_u32(input.u32()?)?,
        })
    }
}

/// The length up to which a file is read: missing bytes of its last block read as zeros. A later footer would make them
/// part of the file, and a record of which a power cut took only zeros would become valid then. This way it is valid from
/// the start.
pub(crate) fn room<F: DiskFile>(file: &F) -> io::Result<u64> {
    Ok(file.len()?.next_multiple_of(u64::from(BLOCK)))
}

/// The directory of a sealed segment, if its footer is valid.
///
/// # Errors
/// It could not be read. That does not say whether it is valid.
pub(crate) fn read_directory<F: DiskFile>(file: &F, header: &SegmentHeader) -> io::Result<Option<(Footer, Vec<u8>)>> {
    let Some(trailer) = Trailer::read(file)?.filter(|t| t.header == *header) else {
        return Ok(None);
    };
    let lsn = header.base + u64::from(trailer.footer);
    let mut start = [0; HEADER_BYTES];
    file.read_at(&mut start, u64::from(trailer.footer))?;
    let Some(len) = record::peek(&start, lsn) else {
        return Ok(None);
    };
    if u64::from(trailer.footer) + len as u64 > file.len()? {
        return Ok(None);
    }
    let mut bytes = vec![0; len];
    file.read_at(&mut bytes, u64::from(trailer.footer))?;
    let raw = record::open(&bytes, lsn, header.seed()).filter(|raw| raw.kind == Kind::Footer);
    let Some((footer, listed)) = raw.and_then(|raw| Some((Footer::parse(raw.head)?, raw.payload.len()))) else {
        return Ok(None);
    };
    bytes.drain(..len - listed);
    Ok(Some((footer, bytes)))
}

/// Fills one segment.
pub(crate) struct SegmentWriter<F> {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<F>,
    seed: u32,
    /// The end of what was written.
    end: u32,
    /// The end of what was synced.
    synced: u32,
    /// Encoded and not written yet. It begins at `pending_at`.
    pending: Vec<u8>,
    pending_at: u32,
    /// The directory so far. Readers of the unfinished segment look things up in it.
    pub(crate) directory: Arc<Mutex<Directory>>,
}

impl<F: DiskFile> SegmentWriter<F> {
    /// Creates the segment's file: from `spare`, a file of at least its size, if there is one. It is durable when this
    /// returns.
    pub(crate) fn create<D: Disk<File = F>>(
        disk: &D,
        header: SegmentHeader,
        spare: Option<&str>,
    ) -> io::Result<SegmentWriter<F>> {
        let dir = header.kind.dir();
        // The file gets its name only when its header is on the medium. So a segment with an invalid header is always
        // damage, and never the result of a crash.
        let draft = format!("{dir}/draft");
        let file = match spare {
            Some(spare) => {
                let file = disk.open(spare)?;
                disk.rename(spare, &draft)?;
                file
            }
            None => disk.create(&draft)?,
        };
        if spare.is_some() {
            // A trailer of the former content would be taken for this segment's.
            file.write_at(&[0; SECTOR as usize], file.len()?.saturating_sub(u64::from(SECTOR)))?;
        }
        // Allocate space for the records, which something else could use up meanwhile. If that fails, there may still
        // be space.
        let _ = file.allocate(u64::from(header.size));
        header.write(&file)?;
        file.sync_data()?;
        disk.rename(&draft, &path(dir, header.id))?;
        disk.sync_dir(dir)?;
        Ok(SegmentWriter::resume(
            header,
            Arc::new(file),
            RECORDS_AT,
            Arc::default(),
        ))
    }
    /// Continues behind `end`, where everything is synced.
    pub(crate) fn resume(header: SegmentHeader, file: Arc<F>, end: u32, directory: Arc<Mutex<Directory>>) -> Self {
        let seed = header.seed();
        SegmentWriter {
            header,
            file,
            seed,
            end,
            synced: end,
            pending: Vec::new(),
            pending_at: end,
            directory,
        }
    }
    /// The offset of the next record.
    pub(crate) fn position(&self) -> u32 {
        if self.pending.is_empty() {
            self.begin_at()
        } else {
            self.pending_at + self.pending.len() as u32
        }
    }
    /// The end of what was written.
    pub(crate) fn end(&self) -> u32 {
        self.end
    }
    /// LSN behind everything that was written.
    pub(crate) fn end_lsn(&self) -> u64 {
        self.header.base + u64::from(self.end)
    }
    /// LSN behind everything that was synced.
    pub(crate) fn durable_lsn(&self) -> u64 {
        self.header.base + u64::from(self.synced)
    }
    /// Whether something was written and not synced.
    pub(crate) fn is_unsynced(&self) -> bool {
        self.synced < self.end
    }
    /// Whether it contains no record.
    pub(crate) fn is_blank(&self) -> bool {
        self.end == RECORDS_AT && self.pending.is_empty()
    }
    /// Bytes encoded and not yet written.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }
    /// Whether `bytes` more of records, whose directory entries take `listed` bytes, leave space for the footer and
    /// keep the directory within its limit.
    pub(crate) fn has_room(&self, bytes: usize, listed: usize) -> bool {
        let after = self.position() as usize + BATCH_BYTES_MAX + bytes;
        let lists = self.directory.lock().len();
        let is_short = lists == 0 || lists + listed <= directory_bytes_max(self.header.size);
        is_short && after + lists + listed + FOOTER_ROOM <= self.header.size as usize
    }
    /// The offset at which a new write begins.
    fn begin_at(&self) -> u32 {
        if self.synced < self.end {
            self.end
        } else {
            self.end.next_multiple_of(SECTOR)
        }
    }
    /// Begins a write, unless one has begun.
    pub(crate) fn begin(&mut self, durable: u64, wall: Wall) {
        if self.pending.is_empty() {
            self.pending_at = self.begin_at();
            let head = BatchHead {
                durable,
                wall,
                previous_end: self.end,
                term: 0,
                index: 0,
            };
            self.put(Kind::Batch, 0, &[], |out| head.put(out));
        }
    }
    /// Appends a record to the write. Returns its offset and length.
    pub(crate) fn put(&mut self, kind: Kind, flags: u8, payload: &[u8], head: impl FnOnce(&mut Vec<u8>)) -> (u32, u32) {
        let before = self.pending.len() as u32;
        let offset = self.pending_at + before;
        let mut encoder = Encoder::begin(
            &mut self.pending,
            self.header.base + u64::from(offset),
            self.seed,
            kind,
            flags,
        );
        head(encoder.head());
        encoder.finish(payload);
        (offset, self.pending.len() as u32 - before)
    }
    /// Appends a message and adds it to the directory. Returns its offset.
    pub(crate) fn put_message(&mut self, message: &Message, routes: &[Route], flags: u8) -> u32 {
        let (envelope, lengths, payload) = (message.envelope(), message.lengths(), message.payload());
        let (offset, _) = self.put(Kind::Message, flags, payload, |out| {
            MessageHead::put(envelope, None, lengths, routes, out)
        });
        let body_len = u32::try_from(message.body().len()).unwrap_or(u32::MAX);
        self.directory.lock().message(offset, body_len, routes);
        offset
    }
    /// Appends a copy of a stored message with other routes, and adds it to the directory. Returns its offset.
    pub(crate) fn put_copy(&mut self, head: &MessageHead, payload: &[u8], routes: &[Route]) -> u32 {
        let (offset, _) = self.put(Kind::Message, 0, payload, |out| {
            MessageHead::put(&head.envelope, head.user.as_deref(), head.lengths, routes, out)
        });
        self.directory
            .lock()
            .message(offset, head.body_len(payload.len()), routes);
        offset
    }
    /// Appends a keyed record and adds it to the directory. `version` 0: its own LSN. Returns its offset, length and
    /// version.
    pub(crate) fn put_key(&mut self, version: u64, key: &[u8], value: Option<&[u8]>, flags: u8) -> (u32, u32, u64) {
        let flags = if value.is_none() {
            flags | record::DELETED
        } else {
            flags
        };
        let (offset, len) = self.put(Kind::Key, flags, value.unwrap_or_default(), |out| {
            record::put_key(version, key, out)
        });
        let version = if version == 0 {
            self.header.base + u64::from(offset)
        } else {
            version
        };
        self.directory.lock().key(offset, len, version, value.is_none(), key);
        (offset, len, version)
    }
    /// Writes what is encoded. Returns the number of bytes.
    pub(crate) fn write(&mut self) -> io::Result<u64> {
        if self.pending.is_empty() {
            return Ok(0);
        }
        self.file.write_at(&self.pending, u64::from(self.pending_at))?;
        let len = self.pending.len();
        self.end = self.pending_at + len as u32;
        self.pending.clear();
        // Free the buffer of a big message, which later small ones do not need.
        self.pending.shrink_to(WRITE_BUFFER_KEPT);
        Ok(len as u64)
    }
    /// Syncs what was written. Returns how long it took, or `None` if there was nothing to do.
    pub(crate) fn sync(&mut self) -> io::Result<Option<Duration>> {
        if !self.is_unsynced() {
            return Ok(None);
        }
        let took = self.file.sync_data()?;
        self.synced = self.end;
        Ok(Some(took))
    }
    /// Seals the segment. Everything in it must be synced; the footer is synced when this returns. Returns the bytes
    /// written. `holes` are not judged again from now on; `log_upto` goes into the footer.
    pub(crate) fn seal(&mut self, ending: Ending, log_upto: u64, holes: Vec<(u32, u32)>) -> io::Result<u64> {
        debug_assert!(self.pending.is_empty() && !self.is_unsynced());
        let end = self.end;
        let (footer, footer_len) = self.write_footer(&Footer::new(end, ending, log_upto, holes))?;
        self.end = footer + footer_len;
        let file_end = u64::from(footer + footer_len).next_multiple_of(u64::from(SECTOR)) + u64::from(SECTOR);
        // A segment that ends early frees its unused space. A full one keeps its length, so that its blocks are there
        // when it is recycled.
        let len = self.file.len()?;
        let keep = len >= file_end && len - file_end <= u64::from(self.header.size / 8 + BLOCK);
        let trailer_at = if keep { len } else { file_end } - u64::from(SECTOR);
        if !keep {
            self.file.set_len(file_end)?;
        }
        let trailer = Trailer {
            header: self.header,
            footer,
            end,
            ending,
        };
        self.file.write_at(&trailer.encode(), trailer_at)?;
        self.file.sync_data()?;
        self.synced = self.end;
        Ok(u64::from(footer_len) + u64::from(SECTOR))
    }
    /// Writes the footer, piece by piece as the directory is in memory. Returns its offset and length.
    fn write_footer(&self, head: &Footer) -> io::Result<(u32, u32)> {
        let footer = self.end.next_multiple_of(BLOCK);
        let directory = self.directory.lock();
        let mut start = Vec::new();
        let lsn = self.header.base + u64::from(footer);
        let mut encoder = Encoder::begin(&mut start, lsn, self.seed, Kind::Footer, 0);
        head.put(encoder.head());
        let len = encoder.finish_before(directory.pieces());
        let padding = &[0; ALIGN][..len.next_multiple_of(ALIGN) - len];
        let mut at = u64::from(footer);
        for piece in std::iter::once(&*start).chain(directory.pieces()).chain([padding]) {
            self.file.write_at(piece, at)?;
            at += piece.len() as u64;
        }
        Ok((footer, len.next_multiple_of(ALIGN) as u32))
    }
}

/// How long the directory of a segment of this size may get, beyond what one unit needs. A segment with more to list is
/// sealed before it is full. The directory is in memory while the segment is written, and whenever something is looked
/// up in it later. Most loads never reach the limit: a message of 100 bytes that continues its queue takes 4 bytes of
/// the directory. But of a segment full of small keyed records, a third would be directory.
pub(crate) fn directory_bytes_max(size: u32) -> usize {
    (size as usize / DIRECTORY_SHARE).clamp(DIRECTORY_BYTES_MIN, DIRECTORY_BYTES_MAX)
}

/// A directory may take this part of its segment...
const DIRECTORY_SHARE: usize = 16;
/// ... or this many bytes, below which a short segment would not pay...
const DIRECTORY_BYTES_MIN: usize = 64 << 10;
/// ... and never more than this.
const DIRECTORY_BYTES_MAX: usize = 2 << 20;

/// The most bytes of a BATCH record.
const BATCH_BYTES_MAX: usize = (HEADER_BYTES + 25).next_multiple_of(ALIGN) + SECTOR as usize;
/// Bytes of write buffer that a segment keeps between writes.
pub(crate) const WRITE_BUFFER_KEPT: usize = 256 << 10;

/// Picks the size of a segment that has to take `needed` bytes.
///
/// # Errors
/// [`StoreError::TooLarge`] over 4 GiB.
pub(crate) fn size_for(needed: usize, usual: u32) -> Result<u32, StoreError> {
    let whole = needed + RECORDS_AT as usize + BATCH_BYTES_MAX + FOOTER_ROOM;
    let size = u32::try_from(whole.next_multiple_of(SECTOR as usize)).map_err(|_| StoreError::TooLarge(needed))?;
    Ok(size.max(usual))
}
