//! The store's background: checkpoints, recycling, zeroing ahead. Each a slice at a time, from `tick`.

use super::{AHEAD, CheckpointState, SPARES_MAX, Segment, Store};
use crate::store::checkpoint::{self, Covered};
use crate::store::directory::{Entries, Listed};
use crate::store::disk::{Disk, DiskFile};
use crate::store::index::Live;
use crate::store::segment::{LOG_DIR, SegmentKind, path, read_directory};
use crate::store::settings::StoreError;
use crate::store::stats::StoreStats;
use crate::time::{Now, Time};
use std::io;
use std::time::Duration;

impl<D: Disk> Store<D> {
    /// Whether a commit has made [`Store::tick`] due earlier than it said. Costs nothing to ask after each.
    pub fn is_due(&self) -> bool {
        self.is_checkpoint_cheap() || (self.ahead.is_none() && self.wants_ahead())
    }

    /// Whether a segment was sealed, and the checkpoint is small beside what was logged since the last one.
    fn is_checkpoint_cheap(&self) -> bool {
        let state = &self.checkpoint;
        state.sealed && state.bytes <= state.logged / CHECKPOINT_SHARE
    }

    pub(super) fn checkpoint_due(&self) -> Option<Time> {
        let state = &self.checkpoint;
        let waiting = || {
            let index = self.shared.index.lock();
            let dead = |s: &Segment| s.sealed && !s.doomed && index.live(s.header.id) == Live::default();
            self.segments.values().any(dead)
        };
        if self.is_checkpoint_cheap() {
            return Some(state.last);
        }
        let most = if self.disk_short {
            DISK_SHORT_CHECKPOINT
        } else {
            Duration::MAX
        };
        let every = self.settings.checkpoint_every.min(most);
        (state.dirty || state.sealed || waiting()).then(|| state.last + every)
    }

    pub(super) fn write_checkpoint(&mut self, now: Now) -> Result<(), StoreError> {
        // What it covers must be there after a power cut.
        self.sync()?;
        for segment in self.segments.values_mut() {
            if let Some(writer) = self
                .cold
                .iter()
                .flatten()
                .find(|writer| writer.header.id == segment.header.id)
            {
                segment.end = writer.end();
            }
        }
        let covered: Vec<Covered> = self
            .segments
            .values()
            .map(|s| Covered {
                header: s.header,
                end: s.end,
                sealed: s.sealed,
                routes: s.routes,
                keys: s.keys,
            })
            .collect();
        let bytes = checkpoint::encode(&self.marks, &covered, &self.shared.index.lock());
        self.checkpoint = CheckpointState {
            last: now.monotonic,
            bytes: bytes.len() as u64,
            ..CheckpointState::default()
        };
        if let Err(error) = checkpoint::write(&*self.shared.disk, &bytes) {
            // The log is as good as before; the next start is longer. Tried again when the next one is due.
            tracing::warn!(%error, "the checkpoint was not written");
            StoreStats::add(&self.shared.stats.background_failures, 1);
            self.checkpoint.dirty = true;
            return Ok(());
        }
        StoreStats::add(&self.shared.stats.bytes_written, bytes.len() as u64);
        StoreStats::add(&self.shared.stats.checkpoints, 1);
        let index = self.shared.index.lock();
        for segment in self.segments.values_mut() {
            segment.covered_before = std::mem::replace(&mut segment.covered, segment.end);
            let dead = segment.sealed && index.live(segment.header.id) == Live::default();
            segment.doomed |= dead && segment.covered_before >= segment.end;
        }
        Ok(())
    }

    /// Recycles or removes the segments that are doomed and not being read.
    pub(super) fn retire(&mut self) {
        let doomed: Vec<Segment> = self
            .segments
            .values()
            .filter(|segment| segment.doomed)
            .copied()
            .collect();
        for segment in doomed {
            let id = segment.header.id;
            if !self.shared.take_out(id) {
                continue;
            }
            self.segments.remove(&id);
            self.shared.index.lock().forget(id);
            if let Err(error) = self.retire_one(&segment) {
                // It stays on disk; the next start finds it dead.
                tracing::warn!(segment = id, %error, "a segment could not be recycled");
                StoreStats::add(&self.shared.stats.background_failures, 1);
            }
        }
    }

    fn retire_one(&mut self, segment: &Segment) -> io::Result<()> {
        let (disk, header) = (self.shared.disk.clone(), &segment.header);
        let name = path(header.kind.dir(), header.id);
        if segment.keys > 0
            && let Some((_, directory)) = read_directory(&disk.open(&name)?, header)
        {
            for listed in Entries::new(&directory) {
                if let Listed::Key { key, .. } = listed {
                    self.shared.index.lock().key_copy_gone(key);
                }
            }
        }
        let usual = segment.file_bytes >= u64::from(self.settings.segment_bytes) && header.kind == SegmentKind::Log;
        if usual && segment.file_bytes <= u64::from(self.settings.segment_bytes) * 2 && self.spares.len() < SPARES_MAX {
            let spare = format!("{LOG_DIR}/{:08}.free", header.id);
            disk.rename(&name, &spare)?;
            self.spares.push(spare);
        } else {
            disk.remove(&name)?;
        }
        disk.sync_dir(header.kind.dir())
    }

    /// Fills a spare with zeros once the active segment is half full, if it was synced often: a sync of a file that
    /// grows also writes the file system's journal, which wears more than the zeros do. Returns whether there is more
    /// to do.
    pub(super) fn zero_ahead(&mut self) -> bool {
        if self.ahead.is_none() && !self.wants_ahead() {
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

    fn wants_ahead(&self) -> bool {
        let half = self.settings.segment_bytes / 2;
        let half_full = self.active.as_ref().is_some_and(|active| active.position() >= half);
        let worth = u64::from(self.syncs_here) * JOURNAL_BYTES >= u64::from(half);
        half_full && worth && !self.ahead_failed && self.spares.is_empty()
    }

    fn zero_slice(&mut self, size: u64) -> io::Result<bool> {
        let disk = self.shared.disk.clone();
        let (file, from) = match self.ahead.take() {
            Some(ahead) => ahead,
            None => (disk.create(AHEAD)?, 0),
        };
        let to = (from + self.settings.slice_bytes as u64).min(size);
        file.zero(from, to)?;
        StoreStats::add(&self.shared.stats.bytes_written, to - from);
        if to < size {
            self.ahead = Some((file, to));
            return Ok(true);
        }
        file.sync_data()?;
        let spare = format!("{LOG_DIR}/{:08}.free", self.marks.next_id);
        self.marks.next_id += 1;
        disk.rename(AHEAD, &spare)?;
        disk.sync_dir(LOG_DIR)?;
        self.spares.push(spare);
        Ok(false)
    }
}

/// A segment's end moves the checkpoint's due date only if the checkpoint costs at most this share of what was logged
/// since the last one. With very many queues and segments a checkpoint is big.
const CHECKPOINT_SHARE: u64 = 4;
/// Time between checkpoints while the disk is short.
const DISK_SHORT_CHECKPOINT: Duration = Duration::from_secs(5);
/// What a sync of a file that grows writes besides, into the file system's journal. Zeros are worth as much of it as they
/// save.
const JOURNAL_BYTES: u64 = 8 << 10;
