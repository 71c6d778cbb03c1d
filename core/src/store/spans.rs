//! Where the messages of one queue are: neighbours in one segment form a [`Span`]. A deep queue has one in every
//! segment of the log, and there may be thousands of deep queues. So all but the last few spans of a queue are kept
//! packed.
//!
//! ```text
//!   packed, 16 spans each                                          back
//!   ┌─────────────┬─────────────┬─────────────┬─────────────┐ ┌──────────────┐
//!   │ 4-6 B a span│ (opened)    │             │             │ │ 24 B a span  │ ◄── what is logged
//!   └─────────────┴──────┬──────┴─────────────┴─────────────┘ └──────────────┘
//!                        └─► opened: the spans of the chunk that was changed last
//!
//!   packed span   first - (last before + 1), segment - segment before (zigzag), extent, extent + 1 - live
//! ```

use super::varint::{Input, put_varint};
use std::collections::VecDeque;

/// Neighbouring messages of one queue in one segment. The first and the last are live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) segment: u32,
    /// The last sequence minus the first.
    pub(crate) extent: u32,
    pub(crate) live: u32,
}

impl Span {
    /// One message.
    pub(crate) fn of(seq: u64, segment: u32) -> Span {
        Span {
            first: seq,
            segment,
            extent: 0,
            live: 1,
        }
    }
    pub(crate) fn last(&self) -> u64 {
        self.first + u64::from(self.extent)
    }
}

/// The spans of a queue, ascending and disjoint.
#[derive(Debug, Default)]
pub(crate) struct Spans {
    /// The spans before `back`. None of the chunks is empty.
    chunks: VecDeque<Chunk>,
    /// The chunk whose spans are in `opened`, if any.
    open: usize,
    opened: Vec<Span>,
    /// The last spans. Empty only if the queue has none at all.
    back: Vec<Span>,
    len: usize,
}

/// Neighbouring spans.
#[derive(Debug)]
struct Chunk {
    first: u64,
    last: u64,
    len: usize,
    /// Not valid while the chunk is open.
    packed: Box<[u8]>,
}

/// The number of spans packed together.
const CHUNK: usize = 16;

impl Chunk {
    fn new(spans: &[Span]) -> Chunk {
        let mut packed = Vec::with_capacity(6 * spans.len());
        let first = spans.first().map_or(0, |span| span.first);
        let (mut next, mut segment) = (first, 0);
        for span in spans {
            let delta = i64::from(span.segment) - segment;
            put_varint(&mut packed, span.first.wrapping_sub(next));
            put_varint(&mut packed, (delta << 1 ^ delta >> 63) as u64);
            put_varint(&mut packed, u64::from(span.extent));
            put_varint(
                &mut packed,
                u64::from(span.extent.wrapping_add(1).wrapping_sub(span.live)),
            );
            (next, segment) = (span.last().wrapping_add(1), i64::from(span.segment));
        }
        Chunk {
            first,
            last: spans.last().map_or(0, Span::last),
            len: spans.len(),
            packed: packed.into(),
        }
    }
    fn unpack(&self) -> impl Iterator<Item = Span> {
        let mut input = Input(&self.packed);
        let (mut next, mut segment) = (self.first, 0);
        (0..self.len).map_while(move |_| {
            let first = next.wrapping_add(input.varint()?);
            let delta = input.varint()?;
            segment += (delta >> 1) as i64 ^ -((delta & 1) as i64);
            let extent: u32 = input.number()?;
            let span = Span {
                first,
                segment: segment as u32,
                extent,
                live: extent.wrapping_add(1).wrapping_sub(input.number()?),
            };
            next = span.last().wrapping_add(1);
            Some(span)
        })
    }
}

/// One of a queue's lists of spans: a chunk, or the back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Chunk(usize),
    Back,
}

impl Spans {
    /// From spans that are ascending and disjoint.
    pub(crate) fn from_sorted(spans: &[Span]) -> Spans {
        let behind = spans.len().saturating_sub(1) / CHUNK * CHUNK;
        let (packed, back) = spans.split_at(behind);
        Spans {
            chunks: packed.chunks(CHUNK).map(Chunk::new).collect(),
            back: back.to_vec(),
            len: spans.len(),
            ..Spans::default()
        }
    }
    pub(crate) fn len(&self) -> usize {
        self.len
    }
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(|chunk| chunk.packed.len()).sum();
        self.chunks.capacity() * size_of::<Chunk>()
            + chunks
            + (self.opened.capacity() + self.back.capacity()) * size_of::<Span>()
    }
    pub(crate) fn last_mut(&mut self) -> Option<&mut Span> {
        self.back.last_mut()
    }
    pub(crate) fn iter(&self) -> impl Iterator<Item = Span> {
        self.lists_from(0)
    }
    /// The spans that end at or behind `seq`.
    pub(crate) fn iter_from(&self, seq: u64) -> impl Iterator<Item = Span> {
        let at = self.chunks.partition_point(|chunk| chunk.last < seq);
        self.lists_from(at).skip_while(move |span| span.last() < seq)
    }
    fn lists_from(&self, at: usize) -> impl Iterator<Item = Span> {
        let chunks = self.chunks.range(at.min(self.chunks.len())..).zip(at..);
        let chunks = chunks.flat_map(|(chunk, at)| {
            let open = at == self.open && !self.opened.is_empty();
            let opened: &[Span] = if open { &self.opened } else { &[] };
            let packed = (!open).then(|| chunk.unpack());
            opened.iter().copied().chain(packed.into_iter().flatten())
        });
        chunks.chain(self.back.iter().copied())
    }
    /// Appends a span behind all others.
    pub(crate) fn push(&mut self, span: Span) {
        if self.back.len() >= CHUNK {
            if self.chunks.len() == self.chunks.capacity() {
                self.chunks.reserve_exact(self.chunks.len() / 8 + 1);
            }
            self.chunks.push_back(Chunk::new(&self.back));
            self.back.clear();
        }
        if self.back.len() == self.back.capacity() {
            // Most queues have one.
            self.back.reserve_exact(self.back.len().max(1));
        }
        self.back.push(span);
        self.len += 1;
    }
    /// Changes the list in which `seq` is or would be inserted, or that it would continue.
    pub(crate) fn change_around<T>(&mut self, seq: u64, change: impl FnOnce(&mut Vec<Span>) -> T) -> T {
        let at = self.chunks.partition_point(|chunk| chunk.last < seq);
        let first = match self.chunks.get(at) {
            Some(chunk) => Some(chunk.first),
            None => self.back.first().map(|span| span.first),
        };
        // A sequence before a list continues the list before it.
        let at = if first.is_some_and(|first| seq < first) {
            at.saturating_sub(1)
        } else {
            at
        };
        self.change(self.place(at), change)
    }
    /// Changes the lists with spans within `lo..=hi`, one after the other.
    pub(crate) fn change_within(&mut self, lo: u64, hi: u64, mut change: impl FnMut(&mut Vec<Span>)) {
        let mut at = self.chunks.partition_point(|chunk| chunk.last < lo);
        while let Some(chunk) = self.chunks.get(at) {
            if chunk.first > hi {
                return;
            }
            let before = self.chunks.len();
            self.change(Place::Chunk(at), &mut change);
            // An emptied chunk is removed, and one that grew too long is split.
            at = (at + 1 + self.chunks.len()).saturating_sub(before);
        }
        if self.back.first().is_some_and(|span| span.first <= hi) {
            self.change(Place::Back, change);
        }
    }
    fn place(&self, at: usize) -> Place {
        if at < self.chunks.len() {
            Place::Chunk(at)
        } else {
            Place::Back
        }
    }
    fn change<T>(&mut self, place: Place, change: impl FnOnce(&mut Vec<Span>) -> T) -> T {
        let list = match place {
            Place::Chunk(at) => {
                self.open(at);
                &mut self.opened
            }
            Place::Back => &mut self.back,
        };
        let before = list.len();
        let result = change(list);
        self.len = self.len + list.len() - before;
        match place {
            Place::Chunk(at) => self.changed(at),
            Place::Back if self.back.is_empty() => self.refill_back(),
            Place::Back => {}
        }
        result
    }
    fn open(&mut self, at: usize) {
        if !self.opened.is_empty() {
            if self.open == at {
                return;
            }
            self.close();
        }
        if let Some(chunk) = self.chunks.get(at) {
            self.opened.extend(chunk.unpack());
            self.open = at;
        }
    }
    fn close(&mut self) {
        if let Some(chunk) = self.chunks.get_mut(self.open) {
            *chunk = Chunk::new(&self.opened);
        }
        self.opened.clear();
    }
    /// The chunk `at`, which is open, has changed.
    fn changed(&mut self, at: usize) {
        match (self.opened.first(), self.opened.last(), self.chunks.get_mut(at)) {
            (Some(first), Some(last), Some(chunk)) => {
                (chunk.first, chunk.last, chunk.len) = (first.first, last.last(), self.opened.len());
                // Its packed bytes are out of date.
                chunk.packed = Box::default();
            }
            _ => {
                self.chunks.remove(at);
                if self.chunks.is_empty() {
                    (self.chunks, self.opened) = (VecDeque::new(), Vec::new());
                }
            }
        }
        if self.opened.len() >= 2 * CHUNK {
            let upper = Chunk::new(&self.opened[CHUNK..]);
            self.opened.truncate(CHUNK);
            self.chunks.insert(at + 1, upper);
            self.changed(at);
        }
    }
    /// The back is empty: the last chunk becomes the back.
    fn refill_back(&mut self) {
        if let Some(last) = self.chunks.len().checked_sub(1) {
            self.open(last);
            self.chunks.pop_back();
            self.back = std::mem::take(&mut self.opened);
        } else {
            self.back = Vec::new();
        }
    }
}
