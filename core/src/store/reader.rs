//! Fetches bodies back. It can be cloned into any number of threads, and never waits for the committer.

use super::disk::{Disk, DiskFile};
use super::files::{Pinned, Shared};
use super::page::{self, DirectoryCache};
use super::record::{self, HEADER_BYTES, Kind, MessageHead, RECORD_BYTES_MAX, parse_key};
use super::segment::{SegmentHeader, room};
use super::stats::StoreStats;
use super::{Answer, FoundKey, KeyRead, Loaded, LoadedKey, Page, PageRead, Read, Request};
use crate::message::{Message, Position};
use std::io;
use std::sync::Arc;

/// The most bytes read at once: from a message to the last wanted one that fits.
const READ_BYTES: usize = 64 << 10;
/// What is read in addition to the body of the last wanted message: usually its header and properties.
const READ_BEHIND: usize = 4 << 10;
/// If two messages are further apart than this, the second is read separately: the bytes between would cost more than a
/// read.
const READ_GAP: u32 = 8 << 10;

/// Reads messages, pages of queues, and values of keys.
pub struct Reader<D: Disk> {
    shared: Arc<Shared<D>>,
    directories: DirectoryCache,
}

impl<D: Disk> Clone for Reader<D> {
    fn clone(&self) -> Self {
        Reader::new(self.shared.clone())
    }
}

/// The results of requests.
#[derive(Debug, Default)]
pub struct Served {
    /// Answers for the engine.
    pub answers: Vec<Answer>,
    /// Requests that could not be read.
    pub failed: Vec<Request>,
    /// The error of the last of these.
    pub error: Option<io::Error>,
}

/// A part of a segment in memory.
pub(super) struct Chunk<F> {
    pinned: Pinned<F>,
    start: u64,
    bytes: Vec<u8>,
    /// Bytes to read at once.
    ahead: usize,
    /// The file's length, once it is known.
    file_len: Option<u64>,
}

impl<D: Disk> Reader<D> {
    pub(crate) fn new(shared: Arc<Shared<D>>) -> Self {
        Reader {
            shared,
            directories: DirectoryCache::default(),
        }
    }
    /// Answers requests: first pages in the order requested, then bodies, then keys. Requests that could not be read
    /// are in [`Served::failed`], to be tried again: nothing is known about them.
    pub fn serve(&mut self, requests: &[Request]) -> Served {
        let mut served = Served::default();
        let (mut pages, mut bodies, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for request in requests {
            match request {
                Request::Page(asked) => pages.push(*asked),
                Request::Body(read) => bodies.push(*read),
                Request::Key(read) => keys.push(read.clone()),
            }
        }
        for (asked, page) in pages.iter().zip(self.pages(&pages)) {
            served.add(Request::Page(*asked), page.map(Answer::Page));
        }
        if !bodies.is_empty() {
            for (read, loaded) in bodies.iter().zip(self.read(&bodies)) {
                served.add(Request::Body(*read), loaded.map(Answer::Body));
            }
        }
        let found = self.keys(&keys);
        for (read, found) in keys.into_iter().zip(found) {
            let answer = found.map(|found| {
                Answer::Key(LoadedKey {
                    number: read.number,
                    waited: read.waited,
                    found,
                })
            });
            served.add(Request::Key(read), answer);
        }
        StoreStats::add(&self.shared.stats.read_errors, served.failed.len() as u64);
        served
    }
    /// Lists which messages of queues the log has, in the order requested.
    ///
    /// # Errors
    /// An error of a page means that a segment with a part of it could not be read.
    pub fn pages(&mut self, asked: &[PageRead]) -> Vec<io::Result<Page>> {
        page::read(&self.shared, &mut self.directories, asked)
    }
    /// Reads messages in the order requested. A record with a wrong checksum or position is set aside and counted, and
    /// returned as `None`. So is one that was settled and recycled meanwhile.
    ///
    /// # Errors
    /// The bytes of a message could not be read. It is not lost if a later read succeeds.
    pub fn read(&self, reads: &[Read]) -> Vec<io::Result<Loaded>> {
        let mut order: Vec<(Position, usize)> = reads
            .iter()
            .enumerate()
            .map(|(n, read)| (self.shared.resolve(read.at), n))
            .collect();
        order.sort_unstable();
        let mut loaded: Vec<io::Result<Loaded>> = reads
            .iter()
            .map(|read| {
                Ok(Loaded {
                    queue: read.queue,
                    seq: read.seq,
                    waited: read.waited,
                    message: None,
                })
            })
            .collect();
        let mut chunk = None;
        for (i, &(at, n)) in order.iter().enumerate() {
            let body_len = |n: usize| reads.get(n).map_or(0, |read| read.waited);
            let following = order.iter().skip(i + 1).map(|&(next, n)| (next, body_len(n)));
            let ahead = read_ahead(at, body_len(n), following);
            // A record may move between the look-up and the pin. The second look-up then finds it.
            let message = match self.message(&mut chunk, at, ahead) {
                Ok(Fetched::Gone) => match reads.get(n).map(|read| self.shared.resolve(read.at)) {
                    Some(now) if now != at => self.message(&mut chunk, now, READ_BEHIND),
                    _ => Ok(Fetched::Gone),
                },
                fetched => fetched,
            };
            let Some(slot) = loaded.get_mut(n) else { continue };
            match (message, &mut *slot) {
                (Ok(Fetched::Message(message)), Ok(loaded)) => loaded.message = Some(message),
                (Err(error), _) => *slot = Err(error),
                _ => {}
            }
        }
        loaded
    }
    /// Reads the newest values of keys in the order requested. A damaged record is set aside and counted.
    ///
    /// # Errors
    /// The bytes of a record could not be read. It is not lost if a later read succeeds.
    pub fn keys(&self, reads: &[KeyRead]) -> Vec<io::Result<FoundKey>> {
        let mut order: Vec<(Position, usize)> = Vec::with_capacity(reads.len());
        let mut found: Vec<io::Result<FoundKey>> = Vec::with_capacity(reads.len());
        for (n, read) in reads.iter().enumerate() {
            match self.place_of(&read.key) {
                Ok(at) => order.push((at, n)),
                Err(nowhere) => {
                    found.push(Ok(nowhere));
                    continue;
                }
            }
            found.push(Ok(FoundKey::Nothing));
        }
        order.sort_unstable();
        let mut chunk = None;
        for (i, &(at, n)) in order.iter().enumerate() {
            let len = |n: usize| reads.get(n).map_or(0, |read| read.waited);
            let following = order.iter().skip(i + 1).map(|&(next, n)| (next, len(n)));
            let ahead = read_ahead(at, len(n), following);
            if let (Some(read), Some(slot)) = (reads.get(n), found.get_mut(n)) {
                *slot = self.value(&mut chunk, &read.key, at, ahead);
            }
        }
        found
    }
    /// The position of the newest record of a key, or the answer that needs no read.
    fn place_of(&self, key: &[u8]) -> Result<Position, FoundKey> {
        let index = self.shared.index.read();
        let newest = index.keys.get(key).filter(|entry| !entry.deleted).map(|entry| entry.at);
        drop(index);
        match newest {
            None => Err(FoundKey::Nothing),
            Some(at) if self.shared.is_written(at) => Ok(at),
            Some(_) => Err(FoundKey::Newer),
        }
    }
    /// The value of a key whose newest record was at `at` a moment ago.
    fn value(
        &self,
        chunk: &mut Option<Chunk<D::File>>,
        key: &[u8],
        mut at: Position,
        ahead: usize,
    ) -> io::Result<FoundKey> {
        loop {
            if let Some(value) = self.value_at(chunk, key, at, ahead)? {
                return Ok(FoundKey::Value(value));
            }
            // It may have been copied, or written again, between the look-up and the pin.
            match self.place_of(key) {
                Ok(now) if now != at => at = now,
                Ok(_) => break,
                Err(nowhere) => return Ok(nowhere),
            }
            // Bytes that were read ahead may not have been written then.
            *chunk = None;
        }
        // The segment no longer exists, or the record there is damaged.
        if let Some(chunk) = chunk {
            let bytes = chunk.sample(at.offset);
            let why = format!("the record of {} does not hold", super::describe(key));
            self.shared.damaged(&chunk.pinned.header, at.offset, &bytes, &why);
        }
        Ok(FoundKey::Nothing)
    }
    /// The value of a key at that position; `Ok(None)` if there is no valid record of it.
    fn value_at(
        &self,
        chunk: &mut Option<Chunk<D::File>>,
        key: &[u8],
        at: Position,
        ahead: usize,
    ) -> io::Result<Option<Box<[u8]>>> {
        if chunk.as_ref().is_none_or(|chunk| chunk.pinned.header.id != at.segment) {
            // Release the pin of the former segment first.
            *chunk = None;
            *chunk = self.shared.pin(at.segment)?.map(Chunk::new);
        }
        let Some(chunk) = chunk else { return Ok(None) };
        chunk.ahead = ahead;
        let raw = chunk.record(at.offset)?.filter(|raw| raw.kind == Kind::Key);
        let raw = raw.filter(|raw| parse_key(raw.head).is_some_and(|(_, found)| found == key));
        Ok(raw.map(|raw| raw.payload.into()))
    }
    fn message(&self, chunk: &mut Option<Chunk<D::File>>, at: Position, ahead: usize) -> io::Result<Fetched> {
        if chunk.as_ref().is_none_or(|chunk| chunk.pinned.header.id != at.segment) {
            // Release the pin of the former segment first.
            *chunk = None;
            *chunk = self.shared.pin(at.segment)?.map(Chunk::new);
        }
        let Some(chunk) = chunk else { return Ok(Fetched::Gone) };
        chunk.ahead = ahead;
        if let Some(message) = chunk.message(at.offset)? {
            let state = message.log_state();
            state.stage(1);
            state.take();
            state.written(at);
            return Ok(Fetched::Message(message));
        }
        let why = "the record's checksum or place does not hold";
        let bytes = chunk.sample(at.offset);
        self.shared.damaged(&chunk.pinned.header, at.offset, &bytes, why);
        Ok(Fetched::Damaged)
    }
}

impl Served {
    fn add(&mut self, request: Request, answer: io::Result<Answer>) {
        match answer {
            Ok(answer) => self.answers.push(answer),
            Err(error) => {
                self.failed.push(request);
                self.error = Some(error);
            }
        }
    }
}

/// How many bytes to read at `at`, where a body of that length is, if those at `following` are wanted next.
fn read_ahead(at: Position, body_len: u32, following: impl Iterator<Item = (Position, u32)>) -> usize {
    let end = |from: Position, body_len: u32| from.offset.saturating_add(body_len);
    let mut last = end(at, body_len);
    for (next, body_len) in following {
        let near = next.segment == at.segment && next.offset.saturating_sub(last) <= READ_GAP;
        let until = end(next, body_len);
        if !near || (until - at.offset) as usize > READ_BYTES - READ_BEHIND {
            break;
        }
        last = last.max(until);
    }
    (last - at.offset) as usize + READ_BEHIND
}

enum Fetched {
    Message(Message),
    Gone,
    Damaged,
}

impl<F: DiskFile> Chunk<F> {
    pub(super) fn new(pinned: Pinned<F>) -> Self {
        Chunk {
            pinned,
            start: 0,
            bytes: Vec::new(),
            ahead: READ_BYTES,
            file_len: None,
        }
    }
    pub(super) fn header(&self) -> &SegmentHeader {
        &self.pinned.header
    }
    /// The message at `offset`; `Ok(None)` if it is damaged.
    fn message(&mut self, offset: u32) -> io::Result<Option<Message>> {
        let found = self.record(offset)?.filter(|raw| raw.kind == Kind::Message);
        Ok(found.and_then(|raw| MessageHead::parse(raw.head)?.message(raw.payload)))
    }
    /// The record at `offset`; `Ok(None)` if it is damaged.
    pub(super) fn record(&mut self, offset: u32) -> io::Result<Option<record::Raw<'_>>> {
        let lsn = self.pinned.header.base + u64::from(offset);
        let seed = self.pinned.header.seed();
        let Some(header) = self.bytes(offset, HEADER_BYTES)? else {
            return Ok(None);
        };
        let Some(len) = record::peek(header, lsn) else {
            return Ok(None);
        };
        let Some(bytes) = self.bytes(offset, len)? else {
            return Ok(None);
        };
        Ok(record::open(bytes, lsn, seed))
    }
    /// `len` bytes at `offset`; `Ok(None)` if the file ends before.
    fn bytes(&mut self, offset: u32, len: usize) -> io::Result<Option<&[u8]>> {
        let at = u64::from(offset);
        let skip = |chunk: &Self| {
            let skip = usize::try_from(at.checked_sub(chunk.start)?).ok()?;
            (skip + len <= chunk.bytes.len()).then_some(skip)
        };
        if skip(self).is_none() {
            let file_len = match self.file_len {
                Some(len) => len,
                None => *self.file_len.insert(room(&*self.pinned.file)?),
            };
            if at + len as u64 > file_len || len > RECORD_BYTES_MAX {
                return Ok(None);
            }
            let want = (len.max(self.ahead) as u64).min(file_len - at) as usize;
            self.bytes.clear();
            self.bytes.resize(want, 0);
            self.start = at;
            let mut read = self.pinned.file.read_at(&mut self.bytes, at);
            if read.is_err() && want > len {
                // If only bytes read ahead are unreadable, this read must not fail.
                self.bytes.truncate(len);
                read = self.pinned.file.read_at(&mut self.bytes, at);
            }
            if let Err(error) = read {
                // Bytes that were not read must not be used later.
                self.bytes.clear();
                return Err(error);
            }
        }
        Ok(skip(self).and_then(|skip| self.bytes.get(skip..skip + len)))
    }
    /// Some bytes at `offset`, for the note in the quarantine.
    pub(super) fn sample(&mut self, offset: u32) -> Vec<u8> {
        let mut bytes = vec![0; READ_BYTES];
        let got = self.pinned.file.read_at(&mut bytes, u64::from(offset)).unwrap_or(0);
        bytes.truncate(got);
        bytes
    }
}
