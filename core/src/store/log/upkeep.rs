//! The store's background: checkpoints and recycling, from `tick`.

use super::{CheckpointState, Segment, Store};
use crate::store::checkpoint::{self, Covered};
use crate::store::directory::{Entries, Listed};
use crate::store::disk::Disk;
use crate::store::index::{Index, Live};
use crate::store::segment::{path, read_directory};
use crate::store::settings::StoreError;
use crate::store::stats::StoreStats;
use crate::time::{Now, Time};
use std::io;
use std::time::Duration;

impl<D: Disk> Store<D> {
    /// Whether a commit has made [`Store::tick`] due earlier than it said. Costs nothing to ask after each.
    pub fn is_due(&self) -> bool {
        let pays = || self.pays(self.checkpoint_cost(&self.shared.index.read()), self.checkpoint.logged);
        (self.checkpoint.sealed_just_now && pays()) || self.wants_zeros() || self.wants_spare()
    }

    /// What the next checkpoint is going to cost, as far as that is known.
    fn checkpoint_cost(&self, index: &Index) -> Cost {
        let listed = index.listed;
        match self.checkpoint.bytes_besides_keys {
            Some(bytes) => Cost {
                lasting: bytes + listed.values,
                passing: listed.deletions,
            },
            None => Cost::default(),
        }
    }

    /// Whether a checkpoint costs little beside these bytes.
    fn pays(&self, cost: Cost, earned: u64) -> bool {
        cost.lasting <= earned / 100 * u64::from(self.settings.checkpoint_cost_percent_max) && cost.passing <= earned
    }

    /// When the next checkpoint is due, or, if it would not pay then, when to ask again.
    ///
    /// A checkpoint says all that is live, so its cost has to be earned: by what was logged since the last one, which
    /// a start need not replay any more, or by the segments that it frees. An idle store, and one that logs little
    /// beside a lot of queues and keys, does not write the same thing over and over.
    ///
    /// Segments with nothing but deletions count like dead ones. What they outlive lies in the dead ones, so that they
    /// follow as soon as two checkpoints know them.
    ///
    /// A store that has come to rest is made small even where that is dear: it is done once.
    pub(super) fn checkpoint_due(&self, now: Time) -> Option<Time> {
        let state = &self.checkpoint;
        let (mut waiting, mut freed) = (0, 0);
        let index = self.shared.index.read();
        let cost = self.checkpoint_cost(&index);
        for s in self.segments.values() {
            if s.sealed && !s.doomed && !s.outlives && index.live(s.header.id).has_deletions_only() {
                waiting += s.file_bytes;
                // It takes a second one that covers it.
                freed += if s.covered >= s.end { s.file_bytes } else { 0 };
            }
        }
        drop(index);
        // Not both: with a steady load, what is logged is freed a little later.
        let pays = self.pays(cost, state.logged.max(freed));
        if state.sealed && pays {
            return Some(state.last);
        }
        let every = match waiting {
            0 => self.settings.checkpoint_every,
            _ if self.disk_short => self.settings.checkpoint_every.min(DISK_SHORT_CHECKPOINT),
            _ => self.settings.checkpoint_every.min(RECLAIM_CHECKPOINT),
        };
        let few = u64::from(self.settings.segment_bytes) * RESTING_SEGMENTS;
        let shrinks = waiting >= few.max(cost.lasting * RESTING_SHARE).max(cost.passing);
        if pays || (waiting > 0 && self.disk_short) {
            (state.dirty || state.sealed || waiting > 0).then(|| state.last + every)
        } else if shrinks {
            Some((state.last + every).max(state.grown + RESTING_AFTER))
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
        self.checkpoint.last = now.monotonic;
        let mut written = self.draft_checkpoint(&covered);
        // On a full disk it is what frees segments: worth more than room for another one.
        while written.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::StorageFull) && self.give_up_spare() {
            written = self.draft_checkpoint(&covered);
        }
        let Written { bytes, besides_keys } = match written {
            Ok(written) => written,
            Err(error) => {
                // The log is as good as before; the next start is longer. Tried again when the next one is due.
                tracing::warn!(%error, "the checkpoint was not written");
                StoreStats::add(&self.shared.stats.background_failures, 1);
                self.checkpoint.dirty = true;
                self.checkpoint.sealed = false;
                return Ok(());
            }
        };
        self.checkpoint = CheckpointState {
            last: now.monotonic,
            bytes_besides_keys: Some(besides_keys),
            grown: self.checkpoint.grown,
            ..CheckpointState::default()
        };
        StoreStats::add(&self.shared.stats.bytes_written, bytes);
        StoreStats::add(&self.shared.stats.checkpoint_bytes_written, bytes);
        StoreStats::add(&self.shared.stats.checkpoints, 1);
        self.examined = None;
        let index = self.shared.index.read();
        for segment in self.segments.values_mut() {
            segment.covered_before = std::mem::replace(&mut segment.covered, segment.end);
            let live = index.live(segment.header.id);
            let is_covered = segment.sealed && segment.covered_before >= segment.end;
            segment.doomed |= is_covered && live == Live::default();
            segment.outlives = is_covered && live.has_deletions_only();
        }
        Ok(())
    }

    /// Writes a checkpoint and makes it the newest. Readers use the index meanwhile; only the committer changes it.
    fn draft_checkpoint(&self, covered: &[Covered]) -> io::Result<Written> {
        let disk = &*self.shared.disk;
        let index = self.shared.index.read();
        let draft = checkpoint::draft(disk, &self.marks, covered, &index)?;
        let values = index.listed.values;
        drop(index);
        let written = Written {
            bytes: draft.len,
            besides_keys: draft.len.saturating_sub(values + draft.deletions),
        };
        draft.publish(disk)?;
        Ok(written)
    }

    /// Recycles or removes segments that are doomed and not being read, a few at once. Returns whether there are more.
    ///
    /// A deletion dies with the last older copy of its key on disk, and not before the removal of that copy's file is
    /// on the medium: whatever a power cut takes back, the deletion is there as long as the copy may be. Its own
    /// segment, if nothing else is in it, follows at once, and so on along the chain.
    pub(super) fn retire(&mut self) -> bool {
        if self.keeps_for_cut() {
            return false;
        }
        for _ in 0..RETIRED_AT_ONCE {
            let Some((segment, directory)) = self.doomed() else {
                return false;
            };
            let id = segment.header.id;
            self.segments.remove(&id);
            self.spare_failed = false;
            self.shared.index.write().forget(id);
            if let Err(error) = self.retire_one(&segment, directory.as_deref()) {
                // It stays on disk, and so do the deletions of what is in it. The next start sets it aside.
                tracing::warn!(segment = id, %error, "a segment could not be recycled");
                StoreStats::add(&self.shared.stats.background_failures, 1);
            }
        }
        true
    }

    /// Takes out a segment that is doomed, and gives its directory if that holds and the segment has keys.
    fn doomed(&mut self) -> Option<(Segment, Option<Vec<u8>>)> {
        let index = self.shared.index.read();
        // What a checkpoint knows to hold deletions only needs no other checkpoint to go: none expects it.
        let is_doomed = |s: &&Segment| s.doomed || (s.outlives && index.live(s.header.id) == Live::default());
        let doomed: Vec<Segment> = self.segments.values().filter(is_doomed).copied().collect();
        drop(index);
        for segment in doomed {
            let id = segment.header.id;
            match self.directory_of(&segment) {
                Ok(directory) if self.shared.take_out(id) => return Some((segment, directory)),
                Ok(_) => {}
                // The copies of its keys must be known before it goes. The next call tries again.
                Err(error) => {
                    StoreStats::add(&self.shared.stats.read_errors, 1);
                    if let Some(known) = self.segments.get_mut(&id).filter(|known| !known.stuck) {
                        known.stuck = true;
                        tracing::warn!(segment = id, %error, "a segment is not recycled yet: its directory cannot be read");
                    }
                }
            }
        }
        None
    }

    fn directory_of(&self, segment: &Segment) -> io::Result<Option<Vec<u8>>> {
        if segment.keys == 0 {
            return Ok(None);
        }
        let Some(pinned) = self.shared.pin(segment.header.id)? else {
            return Ok(None);
        };
        let read = read_directory(&*pinned.file, &segment.header)?;
        Ok(read.map(|(_, directory)| directory))
    }

    fn retire_one(&mut self, segment: &Segment, directory: Option<&[u8]>) -> io::Result<()> {
        let (disk, header) = (self.shared.disk.clone(), &segment.header);
        let name = path(header.kind.dir(), header.id);
        if !self.keep_as_spare(header, segment.file_bytes, &name)? {
            disk.remove(&name)?;
            disk.sync_dir(header.kind.dir())?;
        }
        if let Some(directory) = directory {
            let mut keys = Entries::new(directory).filter_map(|listed| match listed {
                Listed::Key { key, .. } => Some(key),
                Listed::Message { .. } => None,
            });
            // Readers wait for the index, so it is not held for all of them.
            while let Some(first) = keys.next() {
                let mut index = self.shared.index.write();
                for key in std::iter::once(first).chain(keys.by_ref().take(KEYS_AT_ONCE)) {
                    index.key_copy_gone(key, header.id);
                }
            }
        } else if segment.keys > 0 {
            self.shared.index.write().all_copies_gone(header.id);
        }
        let mut index = self.shared.index.write();
        index.segment_gone(header.id);
        index.shrink();
        Ok(())
    }
}

/// Bytes of a checkpoint that was written.
#[derive(Clone, Copy, Debug)]
struct Written {
    bytes: u64,
    /// See `CheckpointState::bytes_besides_keys`.
    besides_keys: u64,
}

/// Bytes of the next checkpoint.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    /// That every one after it has to repeat.
    lasting: u64,
    /// That list deletions. Each is listed two or three times, as a rule: then what it deleted is gone from the disk. A
    /// limit as low as for what lasts would put checkpoints off for longer and longer while many names come and go, because
    /// the deletions of all that waits are in each.
    passing: u64,
}

/// A store rests if no segment was filled for this time. Then dead segments are worth a checkpoint...
const RESTING_AFTER: Duration = Duration::from_secs(20);
/// ... if they are this many times its size...
const RESTING_SHARE: u64 = 4;
/// ... and as much as this many full segments.
const RESTING_SEGMENTS: u64 = 4;
/// Segments recycled in one `tick`.
const RETIRED_AT_ONCE: usize = 4;
/// Keys looked up while the index is held.
const KEYS_AT_ONCE: usize = 1024;
/// How soon after a commit segments with nothing in them are noticed.
pub(super) const RECLAIM_LOOK: Duration = Duration::from_secs(5);
/// Time between checkpoints while segments wait for one to be recycled. It takes two, and no more than a minute.
const RECLAIM_CHECKPOINT: Duration = Duration::from_secs(10);
/// The same while the disk is short.
const DISK_SHORT_CHECKPOINT: Duration = Duration::from_secs(5);
