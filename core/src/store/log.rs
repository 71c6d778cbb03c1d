//! The committer's side of the store: one owner, no locks.
//!
//! `commit` turns batches into one write and at most one sync. `tick` does background work, a slice at a time: syncs at
//! intervals, checkpoints, zeroing the next segment, recycling, compaction. An idle store writes nothing.

use super::checkpoint::Marks;
use super::disk::Disk;
use super::files::{Rescued, Shared};
use super::index::KeyEntry;
use super::reader::Reader;
use super::segment::SegmentWriter;
use super::segment_entry::Segment;
use super::settings::{Durability, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, StoreError, StoreSettings};
use super::spare::{AHEAD, Spare};
use super::stats::StoreStats;
use super::{Batch, Opening, Recovered, recovery};
use crate::message::{Message, Position};
use crate::time::{Now, Time, Wall};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

mod compact;
mod encoding;
mod reserve;
mod segments;
mod upkeep;

use compact::{Compaction, Unread};

/// A position in the whole log. Never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// The log of a data directory. See [`super`] for how to use it.
///
/// ```
/// use gatepost_core::store::disk::RealDisk;
/// use gatepost_core::store::{Batch, Record, Store, StoreSettings};
/// use gatepost_core::time::{Now, Wall};
/// use std::sync::Arc;
///
/// let directory = std::env::temp_dir().join(format!("gatepost-example-{}", std::process::id()));
/// let open = || {
///     let disk = RealDisk::new(&directory).map_err(|error| error.to_string())?;
///     Store::open(Arc::new(disk), StoreSettings::default(), Wall(0)).map_err(|error| error.to_string())
/// };
/// let now = Now::default();
///
/// let (mut store, recovered) = open()?;
/// assert!(recovered.queues.is_empty(), "a new directory");
/// let mut batch = Batch::default();
/// batch.records.push(Record::Key { key: [9, 1].into(), value: Some([42].into()) });
/// store.commit(&mut [batch], now).map_err(|error| error.to_string())?;
/// store.close(now).map_err(|error| error.to_string())?;
///
/// let (store, recovered) = open()?;
/// assert_eq!(recovered.keys.get(&[9, 1][..]).map(|value| &value[..]), Some(&[42][..]));
/// # drop(store);
/// # std::fs::remove_dir_all(&directory).map_err(|error| error.to_string())?;
/// # Ok::<(), String>(())
/// ```
pub struct Store<D: Disk> {
    pub(super) shared: Arc<Shared<D>>,
    pub(super) settings: StoreSettings,
    pub(super) segments: BTreeMap<u32, Segment>,
    pub(super) marks: Marks,
    /// The segment at the log's end. The first commit creates it, so that a start that logs nothing leaves no file.
    pub(super) active: Option<SegmentWriter<D::File>>,
    /// Where compaction writes messages, and where it writes keys.
    pub(super) cold: [Option<SegmentWriter<D::File>>; 2],
    compaction: Option<Compaction>,
    /// The segment that is to be compacted and cannot be read.
    unread: Option<Unread>,
    /// The segment that was found, since the last checkpoint, not to need its deletions copied.
    pub(super) examined: Option<u32>,
    /// Prepared files for the next segments.
    pub(super) spares: Vec<Spare>,
    /// A spare that is being filled with zeros, and how far.
    ahead: Option<(D::File, u64)>,
    /// How long the medium took for background syncs in this `tick`.
    pub(super) slice_took: Duration,
    /// The number of syncs of the active segment.
    syncs_here: u32,
    /// Zeroing ahead failed for this segment. It is tried again for the next.
    ahead_failed: bool,
    /// There was no space for a spare. It is tried again for the next segment, and when a spare is returned.
    spare_failed: bool,
    /// Everything below is synced.
    durable: u64,
    /// Everything below is written.
    written: u64,
    /// When the interval's sync is due.
    sync_due: Option<Time>,
    pub(super) disk_short: bool,
    pub(super) checkpoint: CheckpointState,
    poisoned: Option<String>,
    /// Keys whose newest record is lost and whose value is known from a checkpoint or an older copy. They are written
    /// again.
    pub(super) rescued: Vec<Rescued>,
    /// Keeps segments for a copy of the log that is being made.
    pub(super) hold: Weak<Hold>,
    /// A buffer reused by `commit`.
    placed: Vec<(Message, Position)>,
    _lock: D::Lock,
}

/// Keeps segments from being recycled while a copy of the log is made, unless disk space is short.
#[derive(Debug, Default)]
pub(super) struct Hold {
    broken: AtomicBool,
}

impl Hold {
    /// Permits recycling, which breaks the copy.
    pub(super) fn give_up(&self) {
        self.broken.store(true, Ordering::Release);
    }
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }
}

#[derive(Debug, Default)]
pub(super) struct CheckpointState {
    /// When the last one was written or tried.
    last: Time,
    /// A segment was sealed since then; and one since the last `tick`.
    sealed: bool,
    sealed_just_now: bool,
    /// Something was logged since then.
    pub(super) dirty: bool,
    /// Bytes of the last one without its list of keys; `None` if none was written since the start. See
    /// `checkpoint_due`.
    bytes_besides_keys: Option<u64>,
    /// Bytes logged since then.
    logged: u64,
    /// When a segment was last found sealed.
    grown: Time,
}

/// Background work continues after this time...
const SLICE_PAUSE: Duration = Duration::from_millis(10);
/// ... or after this many times the time that the medium took for the slice, so that background work uses at most a
/// quarter of the medium.
const SLICE_PAUSE_SHARE: u32 = 3;

impl<D: Disk> Store<D> {
    /// Locks the data directory, reads it, and opens it for writing. `wall` is the clock's time, used if the files have
    /// none.
    ///
    /// # Errors
    /// Another process has the directory; it cannot be listed or created; something in it could not be read for longer
    /// than the disk waits; or it belongs to another release. Damage is no error.
    pub fn open(disk: Arc<D>, settings: StoreSettings, wall: Wall) -> Result<(Store<D>, Recovered), StoreError> {
        let (store, mut recovered) = Store::open_as(disk, settings, wall, false, &mut |_| {})?;
        recovered.read_all(|recovered, key, value| _ = recovered.keys.insert(key, value.into()));
        store.check_start()?;
        Ok((store, recovered))
    }
    /// The same for directories that may be large: some keys are left out of [`Recovered::keys`] and read when an
    /// engine needs them. [`Store::check_start`] says whether they could be read; call it before anything is committed.
    /// `progress` is called after each file.
    ///
    /// # Errors
    /// As for [`Store::open`].
    pub fn open_watched(
        disk: Arc<D>,
        settings: StoreSettings,
        wall: Wall,
        progress: &mut dyn FnMut(Opening),
    ) -> Result<(Store<D>, Recovered), StoreError> {
        Store::open_as(disk, settings, wall, false, progress)
    }
    /// The same, reading every record, whatever the checkpoint says.
    pub(super) fn open_thoroughly(
        disk: Arc<D>,
        settings: StoreSettings,
        wall: Wall,
    ) -> Result<(Store<D>, Recovered), StoreError> {
        let (store, mut recovered) = Store::open_as(disk, settings, wall, true, &mut |_| {})?;
        // So all damage is found.
        recovered.read_all(|_, _, _| {});
        store.check_start()?;
        Ok((store, recovered))
    }
    /// Whether everything could be read that engines took from what was recovered.
    ///
    /// # Errors
    /// Something could not be read for longer than the disk waits. Nothing must be written then, because the next start
    /// may be able to read it.
    pub fn check_start(&self) -> Result<(), StoreError> {
        match self.shared.start.lock().failed.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
    fn open_as(
        disk: Arc<D>,
        mut settings: StoreSettings,
        wall: Wall,
        is_thorough: bool,
        progress: &mut dyn FnMut(Opening),
    ) -> Result<(Store<D>, Recovered), StoreError> {
        settings.segment_bytes = settings.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        let lock = disk.lock().map_err(StoreError::Lock)?;
        let found = recovery::recover(&disk, &settings, disk.has_run_on(&lock), is_thorough, progress)?;
        if found.is_settled
            && let Err(error) = disk.set_in_use(&lock)
        {
            // If this fails, the next start treats a crash of the process like a power cut.
            tracing::warn!(%error, "cannot note that the directory is in use");
        }
        let mut marks = found.marks;
        marks.wall = marks.wall.max(wall);
        // Syncs of this epoch say nothing about what another epoch wrote.
        marks.epoch = marks.epoch.saturating_add(1);
        let mut store = Store {
            shared: found.shared,
            settings,
            segments: found.segments,
            durable: marks.next_base,
            written: marks.next_base,
            marks,
            active: None,
            cold: [None, None],
            compaction: None,
            unread: None,
            examined: None,
            spares: found.spares,
            ahead: None,
            slice_took: Duration::ZERO,
            syncs_here: 0,
            ahead_failed: false,
            spare_failed: false,
            sync_due: None,
            disk_short: false,
            checkpoint: CheckpointState {
                dirty: found.replayed,
                ..CheckpointState::default()
            },
            poisoned: None,
            rescued: Vec::new(),
            hold: Weak::new(),
            placed: Vec::new(),
            _lock: lock,
        };
        store.set_written(store.written);
        store.gauge();
        Ok((store, found.recovered))
    }
    /// A reader of messages, which can be cloned for other threads.
    pub fn reader(&self) -> Reader<D> {
        Reader::new(self.shared.clone())
    }
    /// Its counters.
    pub fn stats(&self) -> Arc<StoreStats> {
        self.shared.stats.clone()
    }
    /// Everything below is on the medium.
    pub fn durable(&self) -> Lsn {
        Lsn(self.durable)
    }
    /// When [`Store::tick`] is due at the latest after a commit: a sync may be due, and settles may have emptied
    /// segments.
    pub fn due_after(&self, committed: Time) -> Time {
        let look = committed + upkeep::RECLAIM_LOOK;
        self.sync_due.map_or(look, |due| due.min(look))
    }
    /// Sets whether disk space is short. If so, compaction does more and starts earlier, and dead segments are freed
    /// earlier.
    pub fn set_disk_short(&mut self, short: bool) {
        self.disk_short = short;
    }

    /// Changes the setting for durability `interval` from the next commit on: how long the interval is, and whether
    /// data is confirmed when it is written.
    pub fn set_interval(&mut self, interval: Duration, confirm_written: bool) {
        self.settings.interval = interval;
        self.settings.confirm_written = confirm_written;
    }

    /// Writes the batches in order, and does what the highest of their durabilities needs: syncs at once, within the
    /// interval, or not at all. Their records are removed; tickets and durabilities stay. Messages that the engine
    /// cancelled are skipped.
    ///
    /// Returns the LSN that [`Store::durable`] must reach before the batches are as durable as they need to be. It has
    /// already, except for batches that wait for the interval's sync. All of them are written.
    ///
    /// # Errors
    /// After any failure the store is poisoned: nothing of this call may be confirmed, and nothing later.
    pub fn commit(&mut self, batches: &mut [Batch], now: Now) -> Result<Lsn, StoreError> {
        self.check_poison()?;
        self.marks.wall = self.marks.wall.max(now.wall);
        let (mut must, mut need) = (Lsn::default(), None);
        self.log_rescued()?;
        for batch in batches.iter() {
            if self.stage(batch)? {
                need = need.max(batch.need);
                let waits = match batch.need {
                    Some(Durability::Always) => true,
                    Some(Durability::Interval) => !self.settings.confirm_written,
                    Some(Durability::Os) | None => false,
                };
                if waits {
                    must = Lsn(self.end_lsn());
                }
            }
        }
        self.write()?;
        match need {
            Some(Durability::Always) => self.sync()?,
            Some(Durability::Interval) => _ = self.sync_due.get_or_insert(now.monotonic + self.settings.interval),
            Some(Durability::Os) | None => {}
        }
        for (message, at) in self.placed.drain(..) {
            message.log_state().written(at);
        }
        for batch in batches {
            batch.records.clear();
            batch.groups.clear();
        }
        Ok(must)
    }

    /// Does what is due, and a slice of background work. Returns when to call it again; commits may make that earlier,
    /// see [`Store::due_after`] and [`Store::is_due`].
    ///
    /// # Errors
    /// The log itself failed and is poisoned. Failures of checkpoints, zeroing and compaction are only logged and
    /// counted.
    pub fn tick(&mut self, now: Now) -> Result<Option<Time>, StoreError> {
        self.check_poison()?;
        self.marks.wall = self.marks.wall.max(now.wall);
        if std::mem::take(&mut self.checkpoint.sealed_just_now) {
            self.checkpoint.grown = now.monotonic;
        }
        if self.sync_due.is_some_and(|due| due <= now.monotonic) {
            self.sync()?;
        }
        if self
            .checkpoint_due(now.monotonic)
            .is_some_and(|due| due <= now.monotonic)
        {
            self.write_checkpoint(now)?;
        }
        self.slice_took = Duration::ZERO;
        let mut more = self.zero_ahead();
        if self.go_on_deleting() {
            more = true;
        } else {
            more |= self.compact(now.monotonic)?;
            more |= self.retire();
        }
        more |= self.keep_reserve();
        self.gauge();
        // On a slow medium the slices are far apart, so that the log gets most of it.
        let pause = SLICE_PAUSE.max(self.slice_took * SLICE_PAUSE_SHARE);
        let background = more.then(|| now.monotonic + pause);
        let retry = self.unread.map(|unread| unread.retry_at);
        Ok([self.sync_due, self.checkpoint_due(now.monotonic), background, retry]
            .into_iter()
            .flatten()
            .min())
    }

    /// Closes the log, so that the next start has nothing to replay.
    ///
    /// # Errors
    /// The log is or becomes poisoned.
    pub fn close(mut self, now: Now) -> Result<(), StoreError> {
        self.check_poison()?;
        // Nothing may have been committed since the start.
        self.log_rescued()?;
        self.write()?;
        self.sync()?;
        if self.active.as_ref().is_some_and(|active| !active.is_blank()) {
            self.seal_active(0)?;
        }
        self.seal_cold();
        if self.checkpoint.dirty || self.checkpoint.sealed {
            self.write_checkpoint(now)?;
        }
        if self.ahead.take().is_some() {
            let _ = self.shared.disk.remove(AHEAD);
        }
        Ok(())
    }

    // Writing.

    fn end_lsn(&self) -> u64 {
        self.active
            .as_ref()
            .map_or(self.written, |active| active.header.base + u64::from(active.position()))
    }

    /// Everything below `upto` is in the log's files.
    fn set_written(&mut self, upto: u64) {
        self.written = upto;
        self.shared.written.store(upto, Ordering::Release);
    }

    /// Writes keys again whose newest record is lost, or their deletions. Until then the index and every checkpoint
    /// remember them.
    fn log_rescued(&mut self) -> Result<(), StoreError> {
        self.rescued.append(&mut self.shared.start.lock().rescued);
        while let Some((key, value)) = self.rescued.pop() {
            let Some(lost) = self.shared.index.write().take_key(&key) else {
                continue;
            };
            let bytes = value.as_ref().map_or(0, |value| value.len());
            self.make_room(96 + key.len() + bytes, 40 + key.len())?;
            let Some(active) = &mut self.active else { continue };
            active.begin(self.durable, self.marks.wall);
            let (offset, len, version) = active.put_key(0, &key, value.as_deref(), 0);
            let segment = active.header.id;
            let entry = KeyEntry {
                at: Position { segment, offset },
                version,
                len,
                deleted: value.is_none(),
                ..lost
            };
            self.shared.index.write().restore_key(key, entry);
        }
        Ok(())
    }

    /// Does the same at once, in a segment that is sealed with them. Returns their number.
    pub(super) fn write_rescued(&mut self) -> Result<usize, StoreError> {
        let count = self.rescued.len() + self.shared.start.lock().rescued.len();
        if count > 0 {
            self.log_rescued()?;
            self.write()?;
            self.sync()?;
            self.seal_active(0)?;
        }
        Ok(count)
    }

    /// Writes what is encoded.
    fn write(&mut self) -> Result<(), StoreError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        match active.write() {
            Ok(0) => Ok(()),
            Ok(bytes) => {
                let stats = &self.shared.stats;
                StoreStats::add(&stats.bytes_written, bytes);
                StoreStats::add(&stats.record_bytes_written, bytes);
                self.checkpoint.dirty = true;
                self.checkpoint.logged += bytes;
                let (id, end, written) = (active.header.id, active.end(), active.end_lsn());
                self.set_written(written);
                if let Some(segment) = self.segments.get_mut(&id) {
                    segment.end = end;
                    segment.file_bytes = segment.file_bytes.max(u64::from(end));
                }
                Ok(())
            }
            Err(error) => Err(self.poison("write", &error)),
        }
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.sync_due = None;
        let Some(active) = &mut self.active else { return Ok(()) };
        match active.sync() {
            Ok(took) => {
                if let Some(took) = took {
                    self.shared.stats.synced(took);
                    self.syncs_here = self.syncs_here.saturating_add(1);
                }
                self.durable = active.end_lsn();
                Ok(())
            }
            Err(error) => Err(self.poison("sync", &error)),
        }
    }

    fn gauge(&self) {
        let stats = &self.shared.stats;
        let (routes, keys) = self.shared.index.read().live_total();
        StoreStats::set(&stats.live_messages, routes);
        StoreStats::set(&stats.live_keys, keys);
        StoreStats::set(&stats.segments, self.segments.len() as u64);
        StoreStats::set(
            &stats.segment_bytes,
            self.segments.values().map(|segment| segment.file_bytes).sum(),
        );
    }

    // Failing.

    pub(super) fn check_poison(&self) -> Result<(), StoreError> {
        self.poisoned
            .clone()
            .map_or(Ok(()), |why| Err(StoreError::Poisoned(why)))
    }

    /// After a failed sync, the kernel may have dropped the pages that it could not write, and the next sync would
    /// succeed without them. So the store never tries again.
    fn poison(&mut self, what: &str, error: &io::Error) -> StoreError {
        let why = format!("cannot {what}: {error}");
        tracing::error!(%error, what, "the log failed; nothing is confirmed any more");
        self.shared.stats.poisoned.store(true, Ordering::Relaxed);
        self.poisoned = Some(why.clone());
        self.placed.clear();
        StoreError::Poisoned(why)
    }

    fn or_poison<T>(&mut self, what: &str, result: io::Result<T>) -> Result<T, StoreError> {
        result.map_err(|error| self.poison(what, &error))
    }
}
