//! Reads a segment's records in order, skipping holes.
//!
//! A record's LSN is its address. So to find the next record behind a hole, eight bytes are compared at each multiple
//! of eight, and only the few matches are checked further.

use super::disk::{DiskFile, SECTOR};
use super::record::{self, ALIGN, BatchHead, HEADER_BYTES, Kind, Raw};
use super::segment::{RECORDS_AT, room};
use super::varint::Input;
use std::io;

/// What lies in a segment.
pub(crate) enum Scanned<'a> {
    /// A valid record. `len` includes its padding to 8 bytes.
    Record { offset: u32, len: u32, raw: Raw<'a> },
    /// Bytes without a valid record, with records behind them.
    Hole { from: u32, to: u32 },
}

/// Walks over a segment.
pub(crate) struct Scanner<'f, F> {
    window: Window<'f, F>,
    base: u64,
    seed: u32,
    /// The end of the last valid record.
    end: u32,
    /// Where the next valid record was found, if that is known already.
    found: Option<u32>,
}

impl<'f, F: DiskFile> Scanner<'f, F> {
    pub(crate) fn new(file: &'f F, base: u64, seed: u32) -> Self {
        Scanner {
            window: Window::new(file),
            base,
            seed,
            end: RECORDS_AT,
            found: None,
        }
    }
    /// The end of the last valid record: the end of the log, once [`Scanner::next`] has returned `None`.
    pub(crate) fn end(&self) -> u32 {
        self.end
    }
    /// # Errors
    /// The scan ended early because bytes could not be read. Call it after [`Scanner::next`] has returned `None`.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.window.failed.take().map_or(Ok(()), Err)
    }
    /// The length up to which the file may be read.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn file_len(&self) -> u64 {
        self.window.len
    }
    /// The next record or hole.
    pub(crate) fn next(&mut self) -> Option<Scanned<'_>> {
        let offset = match self.found.take() {
            Some(offset) => offset,
            None => {
                let offset = self.find(self.end)?;
                if offset > self.end && !self.is_padding(offset) {
                    self.found = Some(offset);
                    let from = std::mem::replace(&mut self.end, offset);
                    return Some(Scanned::Hole { from, to: offset });
                }
                offset
            }
        };
        let lsn = self.base + u64::from(offset);
        let header = self.window.bytes(u64::from(offset), HEADER_BYTES)?;
        let len = record::peek(header, lsn)?;
        let padded = u32::try_from(len.next_multiple_of(ALIGN)).ok()?;
        self.end = offset.checked_add(padded)?;
        let raw = record::open(self.window.bytes(u64::from(offset), len)?, lsn, self.seed)?;
        Some(Scanned::Record {
            offset,
            len: padded,
            raw,
        })
    }
    /// The first valid record at or behind `from`.
    fn find(&mut self, from: u32) -> Option<u32> {
        let mut at = from;
        loop {
            let lsn = self.base + u64::from(at);
            let header = self.window.bytes(u64::from(at), HEADER_BYTES)?;
            if let Some(len) = record::peek(header, lsn)
                && let Some(bytes) = self.window.bytes(u64::from(at), len)
                && record::open(bytes, lsn, self.seed).is_some()
            {
                return Some(at);
            }
            at = at.checked_add(ALIGN as u32)?;
        }
    }
    /// Whether the record at `offset` says that the write before it ended where the last valid record did.
    fn is_padding(&mut self, offset: u32) -> bool {
        let lsn = self.base + u64::from(offset);
        let Some(len) = self
            .window
            .bytes(u64::from(offset), HEADER_BYTES)
            .and_then(|h| record::peek(h, lsn))
        else {
            return false;
        };
        let end = self.end;
        self.window
            .bytes(u64::from(offset), len)
            .and_then(|b| record::open(b, lsn, self.seed))
            .is_some_and(|raw| match raw.kind {
                Kind::Batch => BatchHead::parse(raw.head).is_some_and(|head| head.previous_end == end),
                Kind::Footer => Input(raw.head).varint() == Some(u64::from(end)),
                _ => false,
            })
    }
}

/// A part of the file in memory.
struct Window<'f, F> {
    file: &'f F,
    /// See [`room`].
    len: u64,
    start: u64,
    bytes: Vec<u8>,
    /// Why nothing more is read.
    failed: Option<io::Error>,
}

/// Bytes read at once.
const WINDOW_BYTES: usize = 256 << 10;

impl<'f, F: DiskFile> Window<'f, F> {
    fn new(file: &'f F) -> Self {
        let (len, failed) = match room(file) {
            Ok(len) => (len, None),
            Err(error) => (0, Some(error)),
        };
        Window {
            file,
            failed,
            len,
            start: 0,
            bytes: Vec::new(),
        }
    }
    /// `len` bytes at `at`, if the file has them.
    fn bytes(&mut self, at: u64, len: usize) -> Option<&[u8]> {
        if self.failed.is_some() || at + len as u64 > self.len {
            return None;
        }
        let here = at
            .checked_sub(self.start)
            .is_some_and(|skip| skip + len as u64 <= self.bytes.len() as u64);
        if !here {
            self.fill(at, len);
        }
        let skip = usize::try_from(at - self.start).ok()?;
        self.bytes.get(skip..skip + len)
    }
    fn fill(&mut self, at: u64, len: usize) {
        let start = at / u64::from(SECTOR) * u64::from(SECTOR);
        let want = (len as u64 + (at - start))
            .max(WINDOW_BYTES as u64)
            .min(self.len - start);
        self.start = start;
        self.bytes.clear();
        self.bytes.resize(usize::try_from(want).unwrap_or(usize::MAX), 0);
        if let Err(error) = self.file.read_at(&mut self.bytes, start) {
            self.bytes.clear();
            self.failed = Some(error);
        }
    }
}
