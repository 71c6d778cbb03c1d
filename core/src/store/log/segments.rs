//! The segments of the log: the next one is made when a record finds no room, and the one before is sealed.

use super::Store;
use crate::store::disk::{Disk, DiskFile};
use crate::store::footer::Ending;
use crate::store::index::Segments;
use crate::store::segment::{FOOTER_ROOM, RECORDS_AT, SegmentHeader, SegmentKind, SegmentWriter, size_for};
use crate::store::settings::StoreError;
use crate::store::stats::StoreStats;
use std::io;

/// A segment on disk.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Segment {
    pub(in crate::store) header: SegmentHeader,
    /// Where its records end.
    pub(in crate::store) end: u32,
    /// Bytes of the file.
    pub(in crate::store) file_bytes: u64,
    pub(in crate::store) sealed: bool,
    /// Routes and keys in its directory.
    pub(in crate::store) routes: u64,
    pub(in crate::store) keys: u64,
    /// Up to where the newest checkpoint covers it, and up to where the one before does.
    pub(in crate::store) covered: u32,
    pub(in crate::store) covered_before: u32,
    /// Dead in a synced checkpoint: to be recycled as soon as no read points into it.
    pub(in crate::store) doomed: bool,
    /// Covered twice and with nothing in it but deletions, for a synced checkpoint: it goes with the last of them.
    pub(in crate::store) outlives: bool,
    /// Has records that cannot be copied; waits for its queues to drain.
    pub(in crate::store) stuck: bool,
}

impl Segment {
    pub(in crate::store) fn new(header: SegmentHeader, file_bytes: u64) -> Segment {
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
    pub(in crate::store) fn directory_bytes(&self) -> u64 {
        let is_short = self.file_bytes < u64::from(self.header.size - self.header.size / 8);
        let behind = self.file_bytes.saturating_sub(u64::from(self.end) + FOOTER_ROOM as u64);
        if self.sealed && is_short { behind } else { 0 }
    }
    /// Whether it may have a record of what has its first in the segment `first`, and copies in the cold segments `copies`.
    pub(in crate::store) fn may_have(&self, first: u32, copies: &Segments) -> bool {
        match self.header.kind {
            SegmentKind::Log => self.header.id >= first,
            SegmentKind::Messages | SegmentKind::Keys => copies.contains(self.header.id),
        }
    }
}

impl<D: Disk> Store<D> {
    /// Sees to it that the active segment takes `bytes` of records, which its directory lists in `listed` bytes.
    pub(super) fn make_room(&mut self, bytes: usize, listed: usize) -> Result<(), StoreError> {
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.has_room(bytes, listed))
        {
            return Ok(());
        }
        let size = size_for(bytes + listed, self.settings.segment_bytes)?;
        if self.active.is_some() {
            self.write()?;
            self.sync()?;
        }
        let header = self.next_header(SegmentKind::Log, size);
        let created = self.create_segment(header);
        let active = self.or_poison("make a segment", created)?;
        // Now that the next one is there, this one can say so.
        self.seal_active(self.marks.next_base)?;
        self.durable = active.end_lsn();
        self.set_written(self.durable);
        self.add_segment(&active);
        self.active = Some(active);
        self.ahead_failed = false;
        self.spare_failed = false;
        self.syncs_here = 0;
        Ok(())
    }

    pub(in crate::store) fn next_header(&mut self, kind: SegmentKind, size: u32) -> SegmentHeader {
        let marks = &mut self.marks;
        marks.next_id = marks.next_id.max(1);
        let header = SegmentHeader {
            id: marks.next_id,
            epoch: marks.epoch,
            kind,
            salt: self.settings.salt,
            base: marks.next_base,
            size,
        };
        marks.next_id += 1;
        // Room behind the nominal end keeps LSNs apart even if a footer had to go beyond it.
        marks.next_base += u64::from(size) * 2;
        header
    }

    pub(in crate::store) fn add_segment(&mut self, writer: &SegmentWriter<D::File>) {
        let header = writer.header;
        self.shared
            .add(header, Some(writer.file.clone()), Some(writer.directory.clone()));
        let file_bytes = writer.file.len().unwrap_or(0);
        self.segments.insert(header.id, Segment::new(header, file_bytes));
    }

    /// Ends the active segment; everything in it is synced.
    pub(super) fn seal_active(&mut self, log_upto: u64) -> Result<(), StoreError> {
        let Some(mut active) = self.active.take() else {
            return Ok(());
        };
        let sealed = self.seal_as(&mut active, Ending::Full, log_upto, Vec::new());
        self.or_poison("seal a segment", sealed)?;
        self.checkpoint.sealed = true;
        self.checkpoint.sealed_just_now = true;
        Ok(())
    }

    pub(in crate::store) fn seal(&mut self, writer: &mut SegmentWriter<D::File>) -> io::Result<()> {
        self.seal_as(writer, Ending::Full, 0, Vec::new())
    }

    pub(in crate::store) fn seal_as(
        &mut self,
        writer: &mut SegmentWriter<D::File>,
        ending: Ending,
        log_upto: u64,
        holes: Vec<(u32, u32)>,
    ) -> io::Result<()> {
        let (routes, keys) = {
            let directory = writer.directory.lock();
            (directory.routes, directory.keys)
        };
        let end = writer.end();
        let bytes = writer.seal(ending, log_upto, holes)?;
        self.shared.sealed(writer.header.id);
        StoreStats::add(&self.shared.stats.bytes_written, bytes);
        let file_bytes = writer.file.len()?;
        if let Some(segment) = self.segments.get_mut(&writer.header.id) {
            *segment = Segment {
                end,
                routes,
                keys,
                sealed: true,
                file_bytes,
                ..*segment
            };
        }
        Ok(())
    }
}
