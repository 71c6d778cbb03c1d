//! A disk in memory that fails as real disks do when the power goes: writes that were not synced vanish, tear and are
//! reordered.
//!
//! The model: a file has bytes on the medium, and pending writes; a sync moves these to the medium. At a power cut each
//! pending write happens as a whole, in part or not at all: by 512-byte sector or by 4 KiB page, and a sector that was
//! being written may become garbage. Creations, renames and removals become durable in order, so that some prefix of
//! them survives. After a crash every call fails until [`SimDisk::restart`].
//!
//! Reads may fail: see [`SimDisk::fail_reads`]. So may opens, if the process may have only a number of files open
//! ([`SimDisk::set_open_files_max`]), and reads may return fewer bytes than requested ([`SimDisk::set_short_reads`]). A
//! failed read says nothing about the bytes: a later read that succeeds returns them unchanged.

use crate::store::disk::{Disk, DiskFile};
use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

const SECTOR: usize = 512;
const PAGE: usize = 4096;

/// A small random generator. Its own, so that a seed gives the same trace with every version of every library.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that `seed` determines.
    pub fn new(seed: u64) -> Rng {
        Rng(seed ^ 0x9e37_79b9_7f4a_7c15)
    }
    /// The next 64 bits (splitmix64).
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.word() % limit.max(1)
    }
    /// True with the probability `numerator` / `denominator`.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }
}

/// How the machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process dies. What it has written stays, until the power goes.
    Process,
    /// The power goes.
    Power,
}

/// The error with which a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The medium reports an error.
    Io,
    /// There is no space.
    NoSpace,
}

/// A simulated disk. Clones share it.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    files: BTreeMap<u64, Inode>,
    next_inode: u64,
    /// File names as the running process sees them, and as the medium has them.
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Changes of names since they were synced.
    pending_names: Vec<NameChange>,
    dirs: BTreeSet<String>,
    rng: Rng,
    /// The number of calls so far that change something.
    changes: u64,
    crash_at: Option<u64>,
    crashed: bool,
    fail_at: Option<(u64, Fault)>,
    locked: bool,
    /// Whether the machine has kept running since a store said that the directory is in use, and what the next start is
    /// told.
    in_use: bool,
    has_run_on: bool,
    read_faults: Vec<ReadFault>,
    /// Failed reads and opens so far.
    reads_failed: u64,
    /// The failures in a row after which a start gives up.
    patience: u32,
    short_reads: bool,
    open_files: u64,
    open_files_peak: u64,
    open_files_max: Option<u64>,
    free: Option<u64>,
    sync_takes: Duration,
    syncs: u64,
    bytes_written: u64,
    bytes_read: u64,
    largest_write: u64,
    largest_read: u64,
}

/// Reads that are to fail.
#[derive(Clone, Debug)]
struct ReadFault {
    /// If set, only reads of this file.
    path: Option<String>,
    /// Reads that still succeed first.
    after: u64,
    /// Reads that fail after that.
    times: u64,
}

#[derive(Clone, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
    /// Bytes allocated in advance.
    allocated: usize,
}

impl Inode {
    fn room(&self) -> usize {
        self.now.len().max(self.allocated)
    }
}

#[derive(Clone)]
enum Pending {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

#[derive(Clone)]
enum NameChange {
    Link(String, u64),
    Rename(String, String),
    Remove(String),
}

impl NameChange {
    /// The file that got its first name.
    fn inode(&self) -> Option<u64> {
        match self {
            NameChange::Link(_, inode) => Some(*inode),
            NameChange::Rename(..) | NameChange::Remove(_) => None,
        }
    }
    fn dir(&self) -> &str {
        let (Self::Link(path, _) | Self::Rename(_, path) | Self::Remove(path)) = self;
        dir_of(path)
    }
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Link(path, inode) => _ = names.insert(path.clone(), *inode),
            NameChange::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            NameChange::Remove(path) => _ = names.remove(path),
        }
    }
}

fn dir_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl SimDisk {
    /// An empty disk. `seed` decides what a power cut does.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State {
            files: BTreeMap::new(),
            next_inode: 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            dirs: BTreeSet::from([String::new()]),
            rng: Rng::new(seed),
            changes: 0,
            crash_at: None,
            crashed: false,
            fail_at: None,
            locked: false,
            in_use: false,
            has_run_on: false,
            read_faults: Vec::new(),
            reads_failed: 0,
            patience: 8,
            short_reads: false,
            open_files: 0,
            open_files_peak: 0,
            open_files_max: None,
            free: None,
            sync_takes: Duration::from_micros(500),
            syncs: 0,
            bytes_written: 0,
            bytes_read: 0,
            largest_write: 0,
            largest_read: 0,
        })))
    }
    /// The number of calls so far that change something: writes, syncs, names.
    pub fn changes(&self) -> u64 {
        self.0.lock().changes
    }
    /// Syncs of files so far.
    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }
    /// Bytes written so far.
    pub fn bytes_written(&self) -> u64 {
        self.0.lock().bytes_written
    }
    /// Bytes read so far.
    pub fn bytes_read(&self) -> u64 {
        self.0.lock().bytes_read
    }
    /// Bytes of the largest single write and read so far. Their callers had as much in memory.
    pub fn largest(&self) -> (u64, u64) {
        let state = self.0.lock();
        (state.largest_write, state.largest_read)
    }
    /// The machine stops in the middle of the `nth` such call from now, counted from 0.
    pub fn crash_after(&self, nth: u64) {
        let mut state = self.0.lock();
        state.crash_at = Some(state.changes + nth);
    }
    /// Whether it has stopped.
    pub fn is_crashed(&self) -> bool {
        self.0.lock().crashed
    }
    /// The `nth` such call from now fails and changes nothing; later ones succeed.
    pub fn fail_after(&self, nth: u64, fault: Fault) {
        let mut state = self.0.lock();
        state.fail_at = Some((state.changes + nth, fault));
    }
    /// Reads of `path`, or of any file, fail with an I/O error: the first `after` of them succeed, the next `times`
    /// fail (`u64::MAX`: for ever). Adds to earlier faults.
    pub fn fail_reads(&self, path: Option<&str>, after: u64, times: u64) {
        let path = path.map(str::to_owned);
        self.0.lock().read_faults.push(ReadFault { path, after, times });
    }
    /// All reads succeed again.
    pub fn heal_reads(&self) {
        self.0.lock().read_faults.clear();
    }
    /// Chooses some of these faults by `rng`: reads that fail once, for a while or for ever, of any file or of one;
    /// short reads; few descriptors; little space.
    pub fn harm(&self, rng: &mut Rng) {
        for _ in 0..rng.below(4) {
            let paths = self.paths();
            let path = paths.get(rng.below(paths.len() as u64 * 2) as usize);
            let times = match rng.below(8) {
                0 => u64::MAX,
                1..4 => 1,
                _ => 1 + rng.below(12),
            };
            self.fail_reads(path.map(String::as_str), rng.below(60), times);
        }
        self.set_short_reads(rng.chance(1, 4));
        if rng.chance(1, 5) {
            self.set_open_files_max(Some(2 + rng.below(10)));
        }
        if rng.chance(1, 5) {
            self.set_capacity(Some(self.bytes_used() + rng.below(200 << 10)));
        }
    }
    /// The same, but only faults that end by themselves, and with which a store continues: nothing is lost, and nobody
    /// has to repair the disk.
    pub fn hinder(&self, rng: &mut Rng) {
        for _ in 0..rng.below(4) {
            let paths = self.paths();
            let path = paths.get(rng.below(paths.len() as u64 * 2) as usize);
            self.fail_reads(path.map(String::as_str), rng.below(60), 1 + rng.below(6));
        }
        self.set_short_reads(rng.chance(1, 4));
        self.set_open_files_max(rng.chance(1, 5).then(|| 12 + rng.below(8)));
    }
    /// Removes all faults.
    pub fn relieve(&self) {
        self.heal_reads();
        self.set_short_reads(false);
        self.set_open_files_max(None);
        self.set_capacity(None);
    }
    /// Reads that failed so far.
    pub fn reads_failed(&self) -> u64 {
        self.0.lock().reads_failed
    }
    /// Sets after how many failures in a row a start gives up.
    pub fn set_patience(&self, failures: u32) {
        self.0.lock().patience = failures;
    }
    /// Sets whether reads return fewer bytes than requested, as `pread` may.
    pub fn set_short_reads(&self, on: bool) {
        self.0.lock().short_reads = on;
    }
    /// Sets how many files the process may have open. Opening another one fails with EMFILE.
    pub fn set_open_files_max(&self, files: Option<u64>) {
        self.0.lock().open_files_max = files;
    }
    /// The number of open files, and the highest number so far.
    pub fn open_files(&self) -> (u64, u64) {
        let state = self.0.lock();
        (state.open_files, state.open_files_peak)
    }
    /// Limits the bytes of all files together.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().free = bytes;
    }
    /// Bytes that all files together have or have allocated.
    pub fn bytes_used(&self) -> u64 {
        self.0.lock().used()
    }
    /// Sets how long a sync is reported to take.
    pub fn set_sync_time(&self, takes: Duration) {
        self.0.lock().sync_takes = takes;
    }
    /// Stops the machine, if it runs, and starts it again. Returns a disk with what survived.
    pub fn restart(&self, crash: Crash) -> SimDisk {
        let mut state = self.0.lock();
        state.crashed = true;
        let mut rng = Rng::new(state.rng.word());
        let next = SimDisk::new(rng.word());
        {
            let mut after = next.0.lock();
            after.dirs = state.dirs.clone();
            after.next_inode = state.next_inode;
            after.sync_takes = state.sync_takes;
            after.free = state.free;
            after.patience = state.patience;
            after.short_reads = state.short_reads;
            after.open_files_max = state.open_files_max;
            after.has_run_on = crash == Crash::Process && state.in_use;
            // The kernel has what the process did not sync, and may still lose it.
            let (names, pending_names) = match crash {
                Crash::Process => (state.durable_names.clone(), state.pending_names.clone()),
                Crash::Power => {
                    let mut names = state.durable_names.clone();
                    let kept = rng.below(state.pending_names.len() as u64 + 1) as usize;
                    state
                        .pending_names
                        .iter()
                        .take(kept)
                        .for_each(|change| change.apply(&mut names));
                    (names, Vec::new())
                }
            };
            after.durable_names = names.clone();
            after.names = names;
            for change in &pending_names {
                change.apply(&mut after.names);
            }
            after.pending_names = pending_names;
            let linked = after.pending_names.iter().filter_map(NameChange::inode);
            let named = after.names.values().chain(after.durable_names.values()).copied();
            let named: BTreeSet<u64> = named.chain(linked).collect();
            for (inode, file) in state.files.iter().filter(|(inode, _)| named.contains(inode)) {
                let file = match crash {
                    Crash::Process => file.clone(),
                    Crash::Power => file.after_power_cut(&mut rng),
                };
                after.files.insert(*inode, file);
            }
        }
        next
    }
    /// All files.
    pub fn paths(&self) -> Vec<String> {
        self.0.lock().names.keys().cloned().collect()
    }
    /// The bytes of a file.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.0.lock();
        Some(state.files.get(state.names.get(path)?)?.now.clone())
    }
    /// Changes the bytes of a file without a call of the store, as a failing medium does.
    pub fn damage(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.0.lock();
        if let Some(inode) = state.names.get(path).copied()
            && let Some(file) = state.files.get_mut(&inode)
        {
            change(&mut file.now);
            file.durable = file.now.clone();
            file.pending.clear();
        }
    }
    /// Makes files durable without a call of the store, as the kernel may do at any time.
    pub fn write_back(&self) {
        let mut state = self.0.lock();
        for file in state.files.values_mut() {
            file.durable = file.now.clone();
            file.pending.clear();
        }
    }
    fn running(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.0.lock();
        if state.crashed {
            Err(io::Error::other("the machine has stopped"))
        } else {
            Ok(state)
        }
    }
    /// Counts a call that changes something. `Err` if it is to fail; `Ok(true)` if the machine stops in the middle of
    /// it.
    fn change(&self) -> io::Result<(MutexGuard<'_, State>, bool)> {
        let mut state = self.running()?;
        let nth = state.changes;
        state.changes += 1;
        if let Some((at, fault)) = state.fail_at
            && at == nth
        {
            return Err(match fault {
                Fault::Io => io::Error::other("simulated I/O error"),
                Fault::NoSpace => ErrorKind::StorageFull.into(),
            });
        }
        let stops = state.crash_at == Some(nth);
        Ok((state, stops))
    }
    fn file(&self, inode: u64) -> SimFile {
        let mut state = self.0.lock();
        state.open_files += 1;
        state.open_files_peak = state.open_files_peak.max(state.open_files);
        SimFile {
            disk: self.clone(),
            inode,
        }
    }
}

impl Inode {
    fn after_power_cut(&self, rng: &mut Rng) -> Inode {
        let mut bytes = self.durable.clone();
        // Half of the power cuts are simple: all pending writes happened, or none.
        let mood = rng.below(4);
        for pending in &self.pending {
            match (mood, pending) {
                (0, _) => {}
                (1, pending) => pending.apply(&mut bytes),
                (_, Pending::SetLen(len)) => {
                    if rng.chance(1, 2) {
                        bytes.resize(*len, 0);
                    }
                }
                (_, Pending::Write(at, data)) => match rng.below(4) {
                    0 => {}
                    1 => pending.apply(&mut bytes),
                    2 => tear(&mut bytes, *at, data, SECTOR, rng),
                    _ => tear(&mut bytes, *at, data, PAGE, rng),
                },
            }
        }
        Inode {
            now: bytes.clone(),
            durable: bytes,
            pending: Vec::new(),
            allocated: self.allocated,
        }
    }
}

impl Pending {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Pending::Write(at, data) => put(bytes, *at, data),
            Pending::SetLen(len) => bytes.resize(*len, 0),
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

/// Writes some units of `data`. If they are sectors, one may become garbage.
fn tear(bytes: &mut Vec<u8>, at: usize, data: &[u8], unit: usize, rng: &mut Rng) {
    let end = at + data.len();
    let garbage = (unit == SECTOR && rng.chance(1, 3)).then(|| {
        let first = at / unit;
        first + rng.below((end.div_ceil(unit) - first) as u64) as usize
    });
    for nth in at / unit..end.div_ceil(unit) {
        let (from, to) = ((nth * unit).max(at), ((nth + 1) * unit).min(end));
        if garbage == Some(nth) {
            let whole: Vec<u8> = (0..unit).map(|_| rng.word() as u8).collect();
            let room = bytes.len().max(to) - nth * unit;
            put(bytes, nth * unit, &whole[..unit.min(room)]);
        } else if rng.chance(1, 2) {
            put(bytes, from, &data[from - at..to - at]);
        }
    }
}

/// The lock of a [`SimDisk`].
pub struct SimLock(SimDisk);

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.0.lock().locked = false;
    }
}

impl Disk for SimDisk {
    type File = SimFile;
    type Lock = SimLock;

    fn lock(&self) -> io::Result<SimLock> {
        let mut state = self.running()?;
        if std::mem::replace(&mut state.locked, true) {
            return Err(io::Error::new(ErrorKind::WouldBlock, "in use by process 4711"));
        }
        Ok(SimLock(self.clone()))
    }
    fn has_run_on(&self, _: &SimLock) -> bool {
        self.0.lock().has_run_on
    }
    fn set_in_use(&self, _: &SimLock) -> io::Result<()> {
        let mut state = self.running()?;
        (state.in_use, state.has_run_on) = (true, true);
        Ok(())
    }
    fn make_dir(&self, dir: &str) -> io::Result<()> {
        self.running()?.dirs.insert(dir.to_owned());
        Ok(())
    }
    fn create(&self, path: &str) -> io::Result<SimFile> {
        self.running()?.find_descriptor()?;
        let (mut state, stops) = self.change()?;
        let inode = state.next_inode;
        state.next_inode += 1;
        state.files.insert(inode, Inode::default());
        state.names.insert(path.to_owned(), inode);
        state.pending_names.push(NameChange::Link(path.to_owned(), inode));
        state.stop_if(stops)?;
        drop(state);
        Ok(self.file(inode))
    }
    fn open(&self, path: &str) -> io::Result<SimFile> {
        let state = self.running()?;
        let inode = state.names.get(path).copied().ok_or(ErrorKind::NotFound)?;
        state.find_descriptor()?;
        drop(state);
        Ok(self.file(inode))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (mut state, stops) = self.change()?;
        let inode = state.names.remove(from).ok_or(ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), inode);
        state
            .pending_names
            .push(NameChange::Rename(from.to_owned(), to.to_owned()));
        state.stop_if(stops)
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        let (mut state, stops) = self.change()?;
        state.names.remove(path).ok_or(ErrorKind::NotFound)?;
        state.pending_names.push(NameChange::Remove(path.to_owned()));
        state.stop_if(stops)
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = self.running()?;
        if !state.dirs.contains(dir) {
            return Err(ErrorKind::NotFound.into());
        }
        let here = state.names.keys().filter(|path| dir_of(path) == dir);
        Ok(here
            .map(|path| path.rsplit('/').next().unwrap_or(path).to_owned())
            .collect())
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let (mut state, stops) = self.change()?;
        state.stop_if(stops)?;
        // The journal has one order: syncing a directory makes everything before its last change durable, too.
        let upto = state
            .pending_names
            .iter()
            .rposition(|change| change.dir() == dir)
            .map_or(0, |at| at + 1);
        let state = &mut *state;
        for change in state.pending_names.drain(..upto) {
            change.apply(&mut state.durable_names);
        }
        Ok(())
    }
    fn free_space(&self) -> io::Result<u64> {
        let state = self.running()?;
        Ok(state.free.map_or(u64::MAX, |free| free.saturating_sub(state.used())))
    }
    fn wait_to_retry(&self, failures: u32, _: &io::Error) -> bool {
        let state = self.0.lock();
        !state.crashed && failures < state.patience
    }
}

impl State {
    fn stop_if(&mut self, stops: bool) -> io::Result<()> {
        self.crashed |= stops;
        if stops {
            Err(io::Error::other("the machine stops"))
        } else {
            Ok(())
        }
    }
    fn find_descriptor(&self) -> io::Result<()> {
        if self.open_files_max.is_some_and(|max| self.open_files >= max) {
            return Err(io::Error::from_raw_os_error(Errno::MFILE.raw_os_error()));
        }
        Ok(())
    }
    /// Whether a read of that file is to fail. Counts it.
    fn read_fails(&mut self, inode: u64) -> bool {
        let mut fails = false;
        for fault in &mut self.read_faults {
            let hits = |path: &String| self.names.get(path) == Some(&inode);
            if !fault.path.as_ref().is_none_or(hits) {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
            } else if fault.times > 0 {
                fault.times -= u64::from(fault.times < u64::MAX);
                fails = true;
            }
        }
        self.reads_failed += u64::from(fails);
        fails
    }
    fn used(&self) -> u64 {
        self.names
            .values()
            .filter_map(|inode| self.files.get(inode))
            .map(|file| file.room() as u64)
            .sum()
    }
}

/// An open file of a [`SimDisk`].
pub struct SimFile {
    disk: SimDisk,
    inode: u64,
}

impl SimFile {
    fn change(&self, pending: Pending) -> io::Result<()> {
        let (mut state, stops) = self.disk.change()?;
        let used = state.used();
        let (free, inode) = (state.free, self.inode);
        let file = state.files.get_mut(&inode).ok_or(ErrorKind::NotFound)?;
        let needs = match &pending {
            Pending::Write(at, data) => at + data.len(),
            Pending::SetLen(len) => *len,
        };
        let grows = needs.saturating_sub(file.room()) as u64;
        if free.is_some_and(|free| used + grows > free) {
            return Err(ErrorKind::StorageFull.into());
        }
        pending.apply(&mut file.now);
        if let Pending::SetLen(len) = &pending {
            file.allocated = file.allocated.min(*len);
        }
        let written = if let Pending::Write(_, data) = &pending {
            data.len() as u64
        } else {
            0
        };
        file.pending.push(pending);
        state.bytes_written += written;
        state.largest_write = state.largest_write.max(written);
        state.stop_if(stops)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.0.lock().open_files -= 1;
    }
}

impl DiskFile for SimFile {
    fn read_some_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.running()?;
        if state.read_fails(self.inode) {
            return Err(io::Error::from_raw_os_error(Errno::IO.raw_os_error()));
        }
        let state = &mut *state;
        let file = state.files.get(&self.inode).ok_or(ErrorKind::NotFound)?;
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| file.now.get(offset..))
            .unwrap_or_default();
        let mut len = rest.len().min(into.len());
        if state.short_reads && len > 1 {
            len = 1 + state.rng.below(len as u64) as usize;
        }
        into[..len].copy_from_slice(&rest[..len]);
        state.bytes_read += len as u64;
        state.largest_read = state.largest_read.max(len as u64);
        Ok(len)
    }
    fn wait_to_retry(&self, failures: u32, error: &io::Error) -> bool {
        self.disk.wait_to_retry(failures, error)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Pending::Write(offset as usize, bytes.to_vec()))
    }
    fn sync_data(&self) -> io::Result<Duration> {
        let (mut state, stops) = self.disk.change()?;
        state.stop_if(stops)?;
        state.syncs += 1;
        let takes = state.sync_takes;
        let file = state.files.get_mut(&self.inode).ok_or(ErrorKind::NotFound)?;
        file.durable = file.now.clone();
        file.pending.clear();
        Ok(takes)
    }
    fn len(&self) -> io::Result<u64> {
        let state = self.disk.running()?;
        Ok(state.files.get(&self.inode).ok_or(ErrorKind::NotFound)?.now.len() as u64)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Pending::SetLen(len as usize))
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.running()?;
        let (used, free) = (state.used(), state.free);
        let file = state.files.get_mut(&self.inode).ok_or(ErrorKind::NotFound)?;
        let grows = (len as usize).saturating_sub(file.room()) as u64;
        if free.is_some_and(|free| used + grows > free) {
            return Err(ErrorKind::StorageFull.into());
        }
        file.allocated = file.allocated.max(len as usize);
        Ok(())
    }
}
