//! The store's background: checkpoints and recycling, from `tick`.

use super::{CheckpointState, Segment, Store};
use crate::store::checkpoint::{self, Covered};
use crate::store::directory::{Entries, Listed};
use crate::store::disk::Disk;
use crate::store::index::Live;
use crate::store::segment::{path, read_directory};
use crate::store::settings::StoreError;
use crate::store::stats::StoreStats;
use crate::time::{Now, Time};
use std::io;
use std::time::Duration;

impl<D: Disk> Store<D> {
    /// Whether a commit has made [`Store::tick`] due earlier than it said. Costs nothing to ask after each.
    pub fn is_due(&self) -> bool {
        self.is_checkpoint_cheap() || self.wants_zeros() || self.wants_spare()
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
        let mut written = checkpoint::write(&*self.shared.disk, &bytes);
        // On a full disk it is what frees segments: worth more than room for another one.
        while written.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::StorageFull) && self.give_up_spare() {
            written = checkpoint::write(&*self.shared.disk, &bytes);
        }
        if let Err(error) = written {
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
            self.spare_failed = false;
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
        if !self.keep_as_spare(header, segment.file_bytes, &name)? {
            disk.remove(&name)?;
        }
        disk.sync_dir(header.kind.dir())
    }
}

/// A segment's end moves the checkpoint's due date only if the checkpoint costs at most this share of what was logged
/// since the last one. With very many queues and segments a checkpoint is big.
const CHECKPOINT_SHARE: u64 = 4;
/// Time between checkpoints while the disk is short.
const DISK_SHORT_CHECKPOINT: Duration = Duration::from_secs(5);
