//! What the committer knows about each segment, apart from what is in the file.

use super::index::Segments;
use super::segment::{FOOTER_ROOM, RECORDS_AT, SegmentHeader, SegmentKind};

/// A segment on disk, as the committer knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    /// The end of its records.
    pub(super) end: u32,
    /// The file's size in bytes.
    pub(super) file_bytes: u64,
    pub(super) sealed: bool,
    /// Routes and keys in its directory.
    pub(super) routes: u64,
    pub(super) keys: u64,
    /// The offset up to which the newest checkpoint covers it, and up to which the one before does.
    pub(super) covered: u32,
    pub(super) covered_before: u32,
    /// Nothing in it is live in a synced checkpoint: it is recycled as soon as no read points into it.
    pub(super) is_dead: bool,
    /// Two checkpoints cover it, and in a synced one it only contains deletions: it is removed with the last of these.
    pub(super) outlives: bool,
    /// It has records that cannot be copied, and waits until its queues are drained.
    pub(super) stuck: bool,
}

impl Segment {
    pub(super) fn new(header: SegmentHeader, file_bytes: u64) -> Segment {
        Segment {
            header,
            end: RECORDS_AT,
            file_bytes,
            sealed: false,
            routes: 0,
            keys: 0,
            covered: 0,
            covered_before: 0,
            is_dead: false,
            outlives: false,
            stuck: false,
        }
    }
    /// The length of its directory, roughly, if it is sealed and short. 0 if its directory has the maximal length,
    /// because then its share does not matter.
    pub(super) fn directory_bytes(&self) -> u64 {
        let is_short = self.file_bytes < u64::from(self.header.size - self.header.size / 8);
        let behind = self.file_bytes.saturating_sub(u64::from(self.end) + FOOTER_ROOM as u64);
        if self.sealed && is_short { behind } else { 0 }
    }
    /// Whether it may contain a record of an object whose first record is in the segment `first`, and that has copies in
    /// the cold segments `copies`.
    pub(super) fn may_have(&self, first: u32, copies: &Segments) -> bool {
        match self.header.kind {
            SegmentKind::Log => self.header.id >= first,
            SegmentKind::Messages | SegmentKind::Keys => copies.contains(self.header.id),
        }
    }
}
