//! What the committer knows of each segment, beside what is in the file.

use super::index::Segments;
use super::segment::{FOOTER_ROOM, RECORDS_AT, SegmentHeader, SegmentKind};

/// A segment on disk, as the committer knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    /// Where its records end.
    pub(super) end: u32,
    /// Bytes of the file.
    pub(super) file_bytes: u64,
    pub(super) sealed: bool,
    /// Routes and keys in its directory.
    pub(super) routes: u64,
    pub(super) keys: u64,
    /// Up to where the newest checkpoint covers it, and up to where the one before does.
    pub(super) covered: u32,
    pub(super) covered_before: u32,
    /// Dead in a synced checkpoint: to be recycled as soon as no read points into it.
    pub(super) doomed: bool,
    /// Covered twice and with nothing in it but deletions, for a synced checkpoint: it goes with the last of them.
    pub(super) outlives: bool,
    /// Has records that cannot be copied; waits for its queues to drain.
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
            doomed: false,
            outlives: false,
            stuck: false,
        }
    }
    /// About how long the directory is of one that is sealed and short. Of one that is as long as it may be, the directory
    /// does not matter: 0.
    pub(super) fn directory_bytes(&self) -> u64 {
        let is_short = self.file_bytes < u64::from(self.header.size - self.header.size / 8);
        let behind = self.file_bytes.saturating_sub(u64::from(self.end) + FOOTER_ROOM as u64);
        if self.sealed && is_short { behind } else { 0 }
    }
    /// Whether it may have a record of what has its first in the segment `first`, and copies in the cold segments `copies`.
    pub(super) fn may_have(&self, first: u32, copies: &Segments) -> bool {
        match self.header.kind {
            SegmentKind::Log => self.header.id >= first,
            SegmentKind::Messages | SegmentKind::Keys => copies.contains(self.header.id),
        }
    }
}
