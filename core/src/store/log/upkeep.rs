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
        (self.checkpoint.sealed_just_now && self.pays(self.checkpoint.logged))
            || (self.ahead.is_none() && self.wants_ahead())
    }

    /// Whether a checkpoint costs little beside these bytes.
    fn pays(&self, earned: u64) -> bool {
        self.checkpoint.bytes <= earned / 100 * u64::from(self.settings.checkpoint_cost_percent_max)
    }

    /// When the next checkpoint is due, or, if it would not pay then, when to ask again.
    ///
    /// A checkpoint says all that is live, so its cost has to be earned: by what was logged since the last one, which
    /// a start need not replay any more, or by the segments that it frees. An idle store, and one that logs little
    /// beside a lot of queues and keys, does not write the same thing over and over.
    pub(super) fn checkpoint_due(&self, now: Time) -> Option<Time> {
        let state = &self.checkpoint;
        let (mut waiting, mut freed) = (0, 0);
        let index = self.shared.index.lock();
        for s in self.segments.values() {
            if s.sealed && !s.doomed && index.live(s.header.id) == Live::default() {
                waiting += s.file_bytes;
                // It takes a second one that covers it.
                freed += if s.covered >= s.end { s.file_bytes } else { 0 };
            }
        }
        drop(index);
        // Not both: with a steady load, what is logged is freed a little later.
        let pays = self.pays(state.logged.max(freed));
        if state.sealed && pays {
            return Some(state.last);
        }
        let every = match waiting {
            0 => self.settings.checkpoint_every,
            _ if self.disk_short => self.settings.checkpoint_every.min(DISK_SHORT_CHECKPOINT),
            _ => self.settings.checkpoint_every.min(RECLAIM_CHECKPOINT),
        };
        if pays || (waiting > 0 && self.disk_short) {
            (state.dirty || state.sealed || waiting > 0).then(|| state.last + every)
        } else {
            (state.dirty || state.sealed).then(|| now + every)
        }
    }

    pub(in crate::store) fn write_checkpoint(&mut self, now: Now) -> Result<(), StoreError> {
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
        self.checkpoint.last = now.monotonic;
        if let Err(error) = checkpoint::write(&*self.shared.disk, &bytes) {
            // The log is as good as before; the next start is longer. Tried again when the next one is due.
            tracing::warn!(%error, "the checkpoint was not written");
            StoreStats::add(&self.shared.stats.background_failures, 1);
            self.checkpoint.dirty = true;
            self.checkpoint.sealed = false;
            return Ok(());
        }
        self.checkpoint = CheckpointState {
            last: now.monotonic,
            bytes: bytes.len() as u64,
            ..CheckpointState::default()
        };
        StoreStats::add(&self.shared.stats.bytes_written, bytes.len() as u64);
        StoreStats::add(&self.shared.stats.checkpoint_bytes_written, bytes.len() as u64);
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
    /// grows also writes the file system's journal. Returns whether there is more to do.
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

/// Time between checkpoints while segments wait for one to be recycled. It takes two, and no more than a minute.
const RECLAIM_CHECKPOINT: Duration = Duration::from_secs(10);
/// The same while the disk is short.
const DISK_SHORT_CHECKPOINT: Duration = Duration::from_secs(5);
/// What a sync of a file that grows writes besides, into the file system's journal. Zeros are worth as much of it as they
/// save.
const JOURNAL_BYTES: u64 = 8 << 10;
