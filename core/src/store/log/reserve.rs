//! Space that is allocated before it is needed: the reserve with which a full disk is drained.
//!
//! ```text
//!   log/<id>.free    a spare: allocated space for a segment, from which the next segment is made
//!   log/ahead        a spare that is being made, or filled with zeros
//! ```
//!
//! Two spares are kept if the disk has space. When the disk is full, the owner refuses publishers (see
//! [`Store::reserved`]), but settles are still logged, in the spares. So segments become empty, and become the next
//! spares.

use super::Store;
use crate::store::disk::{Disk, DiskFile, is_out_of_descriptors};
use crate::store::segment::{LOG_DIR, SegmentHeader, SegmentKind, SegmentWriter};
use crate::store::spare::{AHEAD, SPARES_MAX, Spare};
use crate::store::stats::StoreStats;
use std::io;

/// Bytes that a sync writes to the file system's journal if it changes a file's blocks. Zeroing ahead pays if it saves
/// that much.
const JOURNAL_BYTES: u64 = 8 << 10;

impl<D: Disk> Store<D> {
    /// Bytes allocated for the log, in addition to the file system's free space.
    pub fn reserved(&self) -> u64 {
        let spares = self.spares.len() as u64 + u64::from(self.ahead.is_some());
        spares * u64::from(self.settings.segment_bytes)
    }

    /// Creates the file of the log's next segment, from a spare if one is large enough.
    pub(super) fn create_segment(&mut self, header: SegmentHeader) -> io::Result<SegmentWriter<D::File>> {
        let fits = header.size == self.settings.segment_bytes && !self.spares.is_empty();
        let best = || self.spares.iter().rposition(|spare| spare.written);
        let spare = fits.then(|| best().unwrap_or(self.spares.len() - 1));
        let spare = spare.map(|at| self.spares.remove(at).path);
        let create = || SegmentWriter::create(&*self.shared.disk, header, spare.as_deref());
        match create() {
            // The log comes first when descriptors are short. If the file could not be opened, nothing has changed yet.
            Err(error) if is_out_of_descriptors(&error) && self.shared.close_idle() => create(),
            created => created,
        }
    }

    /// Whether compaction may begin a file. It must not use the spares: without them no checkpoint could be written on
    /// a full disk, and no dead segment be freed.
    pub(in crate::store) fn has_room_to_compact(&self) -> bool {
        self.has_free(1)
    }

    fn has_free(&self, segments: u64) -> bool {
        let free = self.shared.disk.free_space().unwrap_or(0);
        free >= segments * u64::from(self.settings.segment_bytes)
    }

    /// Whether a spare is missing and may be made. A store that logs nothing makes none.
    pub(super) fn wants_spare(&self) -> bool {
        self.active.is_some() && self.ahead.is_none() && self.spares.len() < SPARES_MAX && !self.spare_failed
    }

    /// Makes one of the missing spares. Returns whether there is more to do.
    pub(super) fn keep_reserve(&mut self) -> bool {
        if !self.wants_spare() {
            return false;
        }
        if !self.has_free(1) {
            self.spare_failed = true;
            return false;
        }
        match self.make_spare() {
            Ok(()) => self.wants_spare(),
            Err(error) => {
                self.spare_failed = true;
                tracing::warn!(%error, "no room was set aside for a segment");
                StoreStats::add(&self.shared.stats.background_failures, 1);
                let _ = self.shared.disk.remove(AHEAD);
                false
            }
        }
    }

    fn make_spare(&mut self) -> io::Result<()> {
        let disk = self.shared.disk.clone();
        let size = u64::from(self.settings.segment_bytes);
        let file = disk.create(AHEAD)?;
        file.allocate(size)?;
        file.set_len(size)?;
        self.finish_spare(false)
    }

    fn finish_spare(&mut self, written: bool) -> io::Result<()> {
        let path = format!("{LOG_DIR}/{:08}.free", self.marks.next_id);
        self.marks.next_id += 1;
        self.shared.disk.rename(AHEAD, &path)?;
        self.shared.disk.sync_dir(LOG_DIR)?;
        self.spares.push(Spare { path, written });
        Ok(())
    }

    /// Removes a spare, so that something smaller can be written. Returns whether there was one.
    pub(super) fn give_up_spare(&mut self) -> bool {
        let Some(spare) = self.spares.pop() else { return false };
        self.shared.disk.remove(&spare.path).is_ok()
    }

    /// Keeps a dead segment's file as a spare, if it has the right size and one is missing. Returns whether the file
    /// has the name of a spare now; if so, the name is durable.
    ///
    /// # Errors
    /// If the rename is not known to be durable, the file is left for the next start.
    pub(super) fn keep_as_spare(&mut self, header: &SegmentHeader, file_bytes: u64, name: &str) -> io::Result<bool> {
        let size = u64::from(self.settings.segment_bytes);
        let usual = header.kind == SegmentKind::Log && (size..=size * 2).contains(&file_bytes);
        if !usual {
            return Ok(false);
        }
        if self.spares.len() >= SPARES_MAX {
            // Its blocks were written before, which makes it a better spare than one with new blocks.
            let Some(at) = self.spares.iter().position(|spare| !spare.written) else {
                return Ok(false);
            };
            self.shared.disk.remove(&self.spares.remove(at).path)?;
        }
        let path = format!("{LOG_DIR}/{:08}.free", header.id);
        self.shared.disk.rename(name, &path)?;
        self.shared.disk.sync_dir(LOG_DIR)?;
        self.spares.push(Spare { path, written: true });
        Ok(true)
    }

    /// Whether to begin filling a spare with zeros: once the active segment is half full, if it was synced often. A
    /// sync that changes a file's blocks also writes the file system's journal, which wears the medium more than the
    /// zeros do.
    pub(super) fn wants_zeros(&self) -> bool {
        let half = self.settings.segment_bytes / 2;
        let half_full = |active: &SegmentWriter<D::File>| active.position() >= half;
        u64::from(self.syncs_here) * JOURNAL_BYTES >= u64::from(half)
            && !self.ahead_failed
            && !self.disk_short
            && self.ahead.is_none()
            && self.active.as_ref().is_some_and(half_full)
            && !self.spares.iter().any(|spare| spare.written)
    }

    /// Zeroes a slice, if there is anything to zero. Returns whether there is more to do.
    pub(super) fn zero_ahead(&mut self) -> bool {
        if self.ahead.is_none() && !self.wants_zeros() {
            return false;
        }
        let size = u64::from(self.settings.segment_bytes);
        match self.zero_slice(size) {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(%error, "the next segment was not zeroed ahead");
                StoreStats::add(&self.shared.stats.background_failures, 1);
                self.ahead = None;
                self.ahead_failed = true;
                let _ = self.shared.disk.remove(AHEAD);
                false
            }
        }
    }

    fn zero_slice(&mut self, size: u64) -> io::Result<bool> {
        let disk = self.shared.disk.clone();
        let (file, from) = match self.ahead.take() {
            Some(ahead) => ahead,
            None => match self.spares.pop() {
                Some(spare) => {
                    disk.rename(&spare.path, AHEAD)?;
                    (disk.open(AHEAD)?, 0)
                }
                None => (disk.create(AHEAD)?, 0),
            },
        };
        let to = (from + self.settings.slice_bytes as u64).min(size);
        file.zero(from, to)?;
        StoreStats::add(&self.shared.stats.bytes_written, to - from);
        if to < size {
            self.ahead = Some((file, to));
            return Ok(true);
        }
        file.sync_data()?;
        self.finish_spare(true)?;
        Ok(false)
    }
}
