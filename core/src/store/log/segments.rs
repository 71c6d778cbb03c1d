//! The segments of the log: when a record finds no space, the next one is created and the former one sealed.

use super::Store;
use crate::store::disk::{Disk, DiskFile};
use crate::store::footer::Ending;
use crate::store::segment::{SegmentHeader, SegmentKind, SegmentWriter, size_for};
use crate::store::segment_entry::Segment;
use crate::store::settings::StoreError;
use crate::store::stats::StoreStats;
use std::io;

impl<D: Disk> Store<D> {
    /// Makes sure that the active segment can take `bytes` of records, whose directory entries take `listed` bytes.
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
        // The next one exists now, so the footer of this one can say so.
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
        // The gap behind the nominal end keeps LSNs distinct even if a footer had to go beyond it.
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

    /// Seals the active segment. Everything in it is synced.
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
