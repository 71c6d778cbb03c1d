//! The store's background work in `tick`: checkpoints and recycling.

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
    /// Whether a commit made [`Store::tick`] due earlier than it returned. Cheap enough to ask after each commit.
    pub fn is_due(&self) -> bool {
        let pays = || self.pays(self.checkpoint_cost(&self.shared.index.read()), self.checkpoint.logged);
        (self.checkpoint.sealed_just_now && pays()) || self.wants_zeros() || self.wants_spare()
    }

    /// The cost of the next checkpoint, as far as it is known.
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

    /// Whether a checkpoint costs little compared with these bytes.
    fn pays(&self, cost: Cost, earned: u64) -> bool {
        cost.lasting <= earned / 100 * u64::from(self.settings.checkpoint_cost_percent_max) && cost.passing <= earned
    }

    /// When the next checkpoint is due or, if it would not pay then, when to ask again.
    ///
    /// A checkpoint lists all that is live, so its cost has to pay: by what was logged since the last one, which a
    /// start need not replay any more, or by the segments that it frees. So an idle store, and one that logs little
    /// compared with its queues and keys, does not write the same again and again.
    ///
    /// Segments that only have deletions count like dead ones. What their deletions must outlive is in dead segments,
    /// so they follow as soon as two checkpoints know those.
    ///
    /// A store that has become idle is made small even if that is expensive, because it is done once.
    pub(super) fn checkpoint_due(&self, now: Time) -> Option<Time> {
        let state = &self.checkpoint;
        let (mut waiting, mut freed) = (0, 0);
        let index = self.shared.index.read();
        let cost = self.checkpoint_cost(&index);
        for s in self.segments.values() {
            if s.sealed && !s.is_dead && !s.outlives && index.live(s.header.id).has_deletions_only() {
                waiting += s.file_bytes;
                // It takes a second checkpoint that covers it.
                freed += if s.covered >= s.end { s.file_bytes } else { 0 };
            }
        }
        drop(index);
        // Not the sum of both: with a steady load, what is logged is freed a little later.
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
        // It says nothing of what a deleted vhost had.
        while self.go_on_deleting() {}
        // What it covers must survive a power cut.
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
        // On a full disk, a checkpoint frees segments, which is worth more than keeping a spare.
        while written.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::StorageFull) && self.give_up_spare() {
            written = self.draft_checkpoint(&covered);
        }
        let Written { bytes, besides_keys } = match written {
            Ok(written) => written,
            Err(error) => {
                // The log is not affected; only the next start takes longer. It is tried again when the next one is
                // due.
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
            segment.is_dead |= is_covered && live == Live::default();
            segment.outlives = is_covered && live.has_deletions_only();
        }
        Ok(())
    }

    /// Writes a checkpoint to the draft's file. Readers use the index meanwhile; only the committer changes it.
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

    /// Goes on with the deletion of vhosts. Returns whether there is more.
    pub(super) fn go_on_deleting(&mut self) -> bool {
        let is_deleting = self.shared.index.read().is_deleting();
        is_deleting && self.shared.index.write().go_on_deleting(DELETED_AT_ONCE)
    }

    /// Recycles or removes some segments that are dead and not being read. Returns whether there are more.
    ///
    /// A deletion is dropped with the last older copy of its key on disk, and not before the removal of that copy's
    /// file is on the medium: whatever a power cut undoes, the deletion exists as long as the copy may. Its own
    /// segment, if it has nothing else, follows at once, and so on along the chain.
    pub(super) fn retire(&mut self) -> bool {
        if self.keeps_for_cut() {
            return false;
        }
        for _ in 0..RETIRED_AT_ONCE {
            let Some((segment, directory)) = self.take_dead() else {
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

    /// Removes a dead segment from the table. Returns its directory, if that is valid and the segment has keys.
    fn take_dead(&mut self) -> Option<(Segment, Option<Vec<u8>>)> {
        let index = self.shared.index.read();
        // A segment that a checkpoint knows to have only deletions needs no other checkpoint, because none expects it
        // to exist.
        let can_go = |s: &&Segment| s.is_dead || (s.outlives && index.live(s.header.id) == Live::default());
        let dead: Vec<Segment> = self.segments.values().filter(can_go).copied().collect();
        drop(index);
        for segment in dead {
            let id = segment.header.id;
            match self.directory_of(&segment) {
                Ok(directory) if self.shared.take_out(id) => return Some((segment, directory)),
                Ok(_) => {}
                // The copies of its keys must be known before it is removed. The next call tries again.
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
            // Readers wait for the index, so it is not locked for all of them at once.
            while let Some(first) = keys.next() {
                let mut index = self.shared.index.write();
                for key in std::iter::once(first).chain(keys.by_ref().take(KEYS_AT_ONCE)) {
                    index.key_copy_gone(key, header.id);
                }
            }
        } else if segment.keys > 0 {
            self.shared.index.write().all_copies_gone(header.id);
        }
        self.shared.index.write().segment_gone(header.id);
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
    /// That every later one has to repeat.
    lasting: u64,
    /// That list deletions. Each is usually listed two or three times, until what it deleted is removed from disk. If
    /// these counted like the rest, checkpoints would be put off longer and longer while many names are created and
    /// deleted, because the deletions of everything that waits are in each of them.
    passing: u64,
}

/// A store is idle if no segment was filled for this time. Then dead segments are worth a checkpoint...
const RESTING_AFTER: Duration = Duration::from_secs(20);
/// ... if they are this many times its size...
const RESTING_SHARE: u64 = 4;
/// ... and as large as this many full segments.
const RESTING_SEGMENTS: u64 = 4;
/// The most segments recycled in one `tick`.
const RETIRED_AT_ONCE: usize = 4;
/// The most keys looked up while the index is locked.
const KEYS_AT_ONCE: usize = 1024;
/// The most keys and queues of deleted vhosts that are forgotten at once.
const DELETED_AT_ONCE: usize = 8 * 1024;
/// How soon after a commit empty segments are noticed.
pub(super) const RECLAIM_LOOK: Duration = Duration::from_secs(5);
/// Time between checkpoints while segments wait for one to be recycled. It takes two, and so at most a minute.
const RECLAIM_CHECKPOINT: Duration = Duration::from_secs(10);
/// The same while disk space is short.
const DISK_SHORT_CHECKPOINT: Duration = Duration::from_secs(5);
