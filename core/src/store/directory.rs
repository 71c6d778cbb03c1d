//! A segment's directory: what a start needs to know about its messages and keys, without their bodies. It is built
//! while the segment is written, and becomes the payload of its FOOTER.
//!
//! ```text
//!   entry    tag, (offset - offset of the entry before) / 8, then by tag:
//!     NEXT     body len                      one route: the last route's queue and flags, and its seq + 1
//!     MESSAGE  body len, route count, (queue, seq, flags)*
//!     KEY      record len, version, key len, key
//!     DELETED  the same, for a deletion
//! ```
//!
//! A message that continues its queue costs four to six bytes.

use super::record::{parse_routes, put_routes};
use super::varint::{Input, put_varint};
use super::{QueueId, Route, Routes};

const NEXT: u8 = 0;
const MESSAGE: u8 = 1;
const KEY: u8 = 2;
const DELETED: u8 = 3;

/// Bytes of a piece of a directory, roughly. One long list would be copied whenever it grows, and leave a hole in the
/// heap each time. The store's own tests use small pieces, so that simulated crashes happen between them.
const PIECE_BYTES: usize = if cfg!(test) { 1 << 10 } else { 64 << 10 };
/// Most entries are at most this long. A piece with less space left is full.
const ENTRY_BYTES: usize = 256;

/// A directory that is being built.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// In order, each with whole entries. Only the last one grows.
    pieces: Vec<Vec<u8>>,
    /// Bytes of all pieces but the last.
    behind: usize,
    last: Last,
    /// Routes of all messages in it.
    pub(crate) routes: u64,
    /// Keyed records in it.
    pub(crate) keys: u64,
}

/// What the next entry is encoded relative to.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    offset: u32,
    route: Route,
}

impl Default for Route {
    fn default() -> Self {
        Route {
            queue: QueueId(0),
            seq: 0,
            flags: 0,
        }
    }
}

impl Last {
    fn next(&self) -> Route {
        Route {
            seq: self.route.seq.wrapping_add(1),
            ..self.route
        }
    }
}

/// One record, as the directory lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listed<'a> {
    Message {
        offset: u32,
        body_len: u32,
        routes: Routes,
    },
    Key {
        offset: u32,
        len: u32,
        version: u64,
        deleted: bool,
        key: &'a [u8],
    },
}

impl Directory {
    /// Bytes in all.
    pub(crate) fn len(&self) -> usize {
        self.behind + self.pieces.last().map_or(0, Vec::len)
    }
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.pieces.iter().map(Vec::as_slice)
    }
    /// The rest of the piece around `at`. Empty if there is nothing more.
    pub(crate) fn following(&self, at: usize) -> &[u8] {
        let mut at = at;
        for piece in &self.pieces {
            match at.checked_sub(piece.len()) {
                Some(rest) => at = rest,
                None => return piece.get(at..).unwrap_or_default(),
            }
        }
        &[]
    }
    /// The entries.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Listed<'_>> {
        let mut pieces = self.pieces();
        let mut current = Entries::new(&[]);
        std::iter::from_fn(move || {
            loop {
                if let Some(listed) = current.next() {
                    return Some(listed);
                }
                current = Entries::following(pieces.next()?, current.cursor());
            }
        })
    }
    /// Begins an entry. Returns the buffer for the rest of it.
    fn entry(&mut self, tag: u8, offset: u32) -> &mut Vec<u8> {
        debug_assert!(offset >= self.last.offset && offset.is_multiple_of(8));
        if let Some(full) = self
            .pieces
            .last()
            .map(Vec::len)
            .filter(|len| *len >= PIECE_BYTES - ENTRY_BYTES)
        {
            self.behind += full;
            self.pieces.push(Vec::with_capacity(PIECE_BYTES));
        } else if self.pieces.is_empty() {
            // A segment with few records needs no whole piece. Doubling reaches the size of one.
            self.pieces.push(Vec::with_capacity(PIECE_BYTES / 64));
        }
        let delta = u64::from(offset.wrapping_sub(self.last.offset) / 8);
        self.last.offset = offset;
        let at = self.pieces.len() - 1;
        let piece = &mut self.pieces[at];
        piece.push(tag);
        put_varint(piece, delta);
        piece
    }
    pub(crate) fn message(&mut self, offset: u32, body_len: u32, routes: &[Route]) {
        let continues = matches!(routes, [route] if *route == self.last.next());
        let piece = self.entry(if continues { NEXT } else { MESSAGE }, offset);
        put_varint(piece, u64::from(body_len));
        if !continues {
            put_routes(routes, piece);
        }
        if let Some(last) = routes.last() {
            self.last.route = *last;
        }
        self.routes += routes.len() as u64;
    }
    pub(crate) fn key(&mut self, offset: u32, len: u32, version: u64, deleted: bool, key: &[u8]) {
        let piece = self.entry(if deleted { DELETED } else { KEY }, offset);
        put_varint(piece, u64::from(len));
        put_varint(piece, version);
        put_varint(piece, key.len() as u64);
        piece.extend_from_slice(key);
        self.keys += 1;
    }
}

/// A place in a directory.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    pub(crate) at: usize,
    last: Last,
}

impl Cursor {
    /// The same place, if what was read begins at byte `at`.
    pub(crate) fn behind(self, at: usize) -> Cursor {
        Cursor {
            at: at + self.at,
            ..self
        }
    }
}

/// Reads a directory. Ends early at invalid bytes: see [`Entries::is_whole`].
pub(crate) struct Entries<'a> {
    len: usize,
    input: Input<'a>,
    last: Last,
    broken: bool,
}

impl<'a> Entries<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Entries::resume(bytes, Cursor::default())
    }
    /// Continues where another reader of the same directory stopped.
    pub(crate) fn resume(bytes: &'a [u8], cursor: Cursor) -> Self {
        Entries {
            len: bytes.len(),
            input: Input(bytes.get(cursor.at..).unwrap_or_default()),
            last: cursor.last,
            broken: false,
        }
    }
    pub(crate) fn cursor(&self) -> Cursor {
        Cursor {
            at: self.len - self.input.0.len(),
            last: self.last,
        }
    }
    /// Continues with the bytes that follow that place.
    pub(crate) fn following(bytes: &'a [u8], cursor: Cursor) -> Self {
        Entries::resume(bytes, Cursor { at: 0, ..cursor })
    }
    /// Whether everything could be read. Valid once it has ended.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn is_whole(&self) -> bool {
        !self.broken && self.input.0.is_empty()
    }
    fn read(&mut self) -> Option<Listed<'a>> {
        let tag = self.input.u8()?;
        let delta: u32 = self.input.number()?;
        let offset = self.last.offset.checked_add(delta.checked_mul(8)?)?;
        self.last.offset = offset;
        Some(match tag {
            NEXT | MESSAGE => {
                let body_len = self.input.number()?;
                let routes = match tag {
                    NEXT => Routes::from_slice(&[self.last.next()]),
                    _ => parse_routes(&mut self.input)?,
                };
                if let Some(last) = routes.last() {
                    self.last.route = *last;
                }
                Listed::Message {
                    offset,
                    body_len,
                    routes,
                }
            }
            KEY | DELETED => {
                let len = self.input.number()?;
                let version = self.input.varint()?;
                let key_len = self.input.number()?;
                Listed::Key {
                    offset,
                    len,
                    version,
                    deleted: tag == DELETED,
                    key: self.input.bytes(key_len)?,
                }
            }
            _ => return None,
        })
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Listed<'a>;
    fn next(&mut self) -> Option<Listed<'a>> {
        if self.broken || self.input.0.is_empty() {
            return None;
        }
        let entry = self.read();
        self.broken = entry.is_none();
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallvec::smallvec;

    #[test]
    fn a_directory_lists_its_entries_and_a_run_of_one_queue_is_small() {
        let mut directory = Directory::default();
        let two: Routes = smallvec![
            Route {
                queue: QueueId(7),
                seq: 10,
                flags: 0
            },
            Route {
                queue: QueueId(8),
                seq: 3,
                flags: 1
            },
        ];
        directory.message(4608, 100, &two);
        directory.key(4808, 60, 12, false, b"queue");
        directory.key(4868 / 8 * 8 + 8, 60, 13, true, b"gone");
        let before = directory.len();
        for n in 0..100u32 {
            directory.message(
                8192 + n * 104,
                64,
                &[Route {
                    queue: QueueId(8),
                    seq: u64::from(n) + 4,
                    flags: 1,
                }],
            );
        }
        assert!(directory.len() - before <= 100 * 3 + 2, "{}", directory.len() - before);
        let bytes: Vec<u8> = directory.pieces().flatten().copied().collect();
        let mut entries = Entries::new(&bytes);
        assert_eq!(
            entries.next(),
            Some(Listed::Message {
                offset: 4608,
                body_len: 100,
                routes: two
            })
        );
        assert_eq!(
            entries.next(),
            Some(Listed::Key {
                offset: 4808,
                len: 60,
                version: 12,
                deleted: false,
                key: b"queue"
            })
        );
        assert!(matches!(
            entries.next(),
            Some(Listed::Key {
                deleted: true,
                key: b"gone",
                ..
            })
        ));
        assert_eq!(entries.by_ref().count(), 100);
        assert!(entries.is_whole());
    }

    /// The directory of a full segment has many pieces. They must read like one list, from any entry on, and none may
    /// be much larger than intended.
    #[test]
    fn pieces_read_like_one_list() {
        let mut directory = Directory::default();
        let key = |n: u32| format!("a key with a number {n}");
        for n in 0..20_000u32 {
            directory.key(4608 + n * 64, 64, u64::from(n), n % 2 == 0, key(n).as_bytes());
            let routes = [QueueId(8), QueueId(9)].map(|queue| Route {
                queue,
                seq: u64::from(n),
                flags: 0,
            });
            directory.message(4608 + n * 64 + 32, 5, &routes);
        }
        assert!(directory.pieces().count() > 10);
        assert!(directory.pieces().all(|piece| piece.len() <= PIECE_BYTES));
        assert!(directory.pieces.iter().all(|piece| piece.capacity() <= PIECE_BYTES));
        let bytes: Vec<u8> = directory.pieces().flatten().copied().collect();
        assert_eq!(bytes.len(), directory.len());
        assert!(Entries::new(&bytes).eq(directory.entries()));
        assert_eq!(directory.entries().count(), 40_000);
        // As a reader that read a part earlier.
        let (mut cursor, mut read) = (Cursor::default(), 0);
        while let following = directory.following(cursor.at)
            && !following.is_empty()
        {
            let mut entries = Entries::following(&following[..following.len()], cursor);
            read += entries.by_ref().take(1 + read % 700).count();
            cursor = entries.cursor().behind(cursor.at);
        }
        assert_eq!((cursor.at, read), (directory.len(), 40_000));
    }
}
