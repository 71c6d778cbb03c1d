//! The store's only access to the outside. [`RealDisk`] is a directory; `testing::disk` has the simulated disk.
//!
//! Paths are relative to the data directory and use `/`. Nothing here is asynchronous: the store runs on the committer's
//! thread, and its readers on theirs.

use parking_lot::Mutex;
use rustix::io::Errno;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The unit that a disk writes as a whole or not at all.
pub(crate) const SECTOR: u32 = 512;
/// The unit in which the kernel writes.
pub(crate) const BLOCK: u32 = 4096;

/// A data directory.
pub trait Disk: Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;
    /// Keeps other processes out until it is dropped.
    type Lock: Send + Sync;

    /// Locks the directory for this process.
    ///
    /// # Errors
    /// `WouldBlock` if another process has it; the text names that process.
    fn lock(&self) -> io::Result<Self::Lock>;
    /// Whether the machine has kept running since [`Disk::set_in_use`] was last called. If so, everything written is
    /// there, and nothing is torn. `false` if that is not known.
    fn has_run_on(&self, lock: &Self::Lock) -> bool;
    /// Notes that everything written before is on the medium, and that this process is about to write more.
    fn set_in_use(&self, lock: &Self::Lock) -> io::Result<()>;
    /// Creates a directory in the data directory, if it does not exist, durably.
    fn make_dir(&self, dir: &str) -> io::Result<()>;
    /// Creates a file, or empties the existing one.
    fn create(&self, path: &str) -> io::Result<Self::File>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &str) -> io::Result<Self::File>;
    /// Renames a file, replacing an existing one with that name. Durable after [`Disk::sync_dir`] of its directory.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Names of the files in a directory, in any order; `""` is the data directory itself.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Bytes that can still be written.
    fn free_space(&self) -> io::Result<u64>;
    /// Called after a read or an open failed `failures` times in a row. Waits, longer each time, and returns `true` to try
    /// again; returns `false` when it has failed for longer than the limit.
    fn wait_to_retry(&self, failures: u32, error: &io::Error) -> bool;
    /// [`Disk::open`], repeated until it succeeds or the limit is reached. It does not wait for a file that does not
    /// exist.
    fn open_patiently(&self, path: &str) -> io::Result<Self::File> {
        patiently(
            |failures, error| self.wait_to_retry(failures, error),
            || self.open(path),
        )
    }
}

/// An open file. Reads and writes take an offset and move no cursor, so that readers and the writer can share it.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads at `offset` like `pread`: possibly fewer bytes than requested, none at the end.
    fn read_some_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Reads at `offset`. Returns fewer bytes than requested only at the end of the file.
    ///
    /// # Errors
    /// The bytes could not be read. That says nothing about them: it is never damage.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.read_some_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
    /// See [`Disk::wait_to_retry`].
    fn wait_to_retry(&self, failures: u32, error: &io::Error) -> bool;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Returns when everything written is on the medium. Returns how long that took, so that the store needs no clock.
    fn sync_data(&self) -> io::Result<Duration>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Truncates or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Allocates space for the first `len` bytes, without changing the content or the length: writes within it do not
    /// run out of disk space. [`DiskFile::set_len`] frees space behind the new end.
    ///
    /// # Errors
    /// There is not that much space. It is no error if the file system cannot allocate in advance; then nothing is
    /// guaranteed.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Writes zeros. Later writes there change no metadata, so that a sync is one write of the medium.
    fn zero(&self, from: u64, to: u64) -> io::Result<()> {
        static CHUNK: [u8; 64 << 10] = [0; 64 << 10];
        let mut at = from;
        while at < to {
            let len = (to - at).min(CHUNK.len() as u64);
            self.write_at(&CHUNK[..len as usize], at)?;
            at += len;
        }
        Ok(())
    }
    /// Whether it holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Whether an operation failed because the process or the machine has no file descriptor left.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE]
        .iter()
        .any(|errno| code == Some(errno.raw_os_error()))
}

/// Repeats `attempt` until it succeeds or `wait` returns false. A file that does not exist is not waited for.
fn patiently<T>(wait: impl Fn(u32, &io::Error) -> bool, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut failures = 0;
    loop {
        match attempt() {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                failures += 1;
                if !wait(failures, &error) {
                    return Err(error);
                }
            }
            done => return done,
        }
    }
}

/// A file whose reads are repeated until they succeed or the limit is reached. For the start and offline commands,
/// which cannot continue without the bytes and delay nobody.
pub(crate) struct Patient<F>(pub(crate) Arc<F>);

impl<F: DiskFile> DiskFile for Patient<F> {
    fn read_some_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        patiently(
            |failures, error| self.wait_to_retry(failures, error),
            || match self.0.read_some_at(into, offset) {
                Err(error) if error.kind() == ErrorKind::Interrupted => self.0.read_some_at(into, offset),
                done => done,
            },
        )
    }
    fn wait_to_retry(&self, failures: u32, error: &io::Error) -> bool {
        self.0.wait_to_retry(failures, error)
    }
    fn len(&self) -> io::Result<u64> {
        patiently(|failures, error| self.wait_to_retry(failures, error), || self.0.len())
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<Duration> {
        self.0.sync_data()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }
}

/// How long the [`RealDisk`] repeats reads, unless set otherwise.
pub const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause before a failed read is first repeated. Each further one is twice as long...
const RETRY_FIRST: Duration = Duration::from_millis(10);
/// ... up to this.
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// The pause after this many failures in a row.
#[must_use]
pub fn retry_pause(failures: u32) -> Duration {
    let doubled = 1u32 << failures.saturating_sub(1).min(16);
    RETRY_FIRST.saturating_mul(doubled).min(RETRY_LONGEST)
}

/// Descriptors that a [`RealDisk`] reserves for when sockets have taken all others: a segment, a checkpoint or a
/// directory must still be opened then, or the log fails.
const DESCRIPTORS_KEPT: usize = 8;

/// A directory of the file system.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    read_timeout: Duration,
    kept: Mutex<Vec<File>>,
}

impl RealDisk {
    /// The directory at `root`, which is created if it does not exist.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<RealDisk> {
        let root = root.into();
        std::fs::create_dir_all(&root)?;
        let disk = RealDisk {
            root,
            read_timeout: READ_TIMEOUT,
            kept: Mutex::default(),
        };
        disk.keep_descriptors();
        Ok(disk)
    }
    /// Sets how long a start and the offline commands repeat a failing read.
    #[must_use]
    pub fn with_read_timeout(self, read_timeout: Duration) -> RealDisk {
        RealDisk { read_timeout, ..self }
    }
    fn keep_descriptors(&self) {
        let mut kept = self.kept.lock();
        while kept.len() < DESCRIPTORS_KEPT
            && let Ok(file) = File::open("/dev/null")
        {
            kept.push(file);
        }
    }
    /// Opens something. If there is no free descriptor, a reserved one is closed for it.
    fn with_descriptor<T>(&self, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
        loop {
            match open() {
                // A socket may take the closed one at once, so several may be needed.
                Err(error) if is_out_of_descriptors(&error) && self.kept.lock().pop().is_some() => {}
                Ok(opened) => {
                    // Reserve new ones as soon as possible.
                    if self.kept.lock().len() < DESCRIPTORS_KEPT {
                        self.keep_descriptors();
                    }
                    return Ok(opened);
                }
                error => return error,
            }
        }
    }
    /// Its path.
    pub fn root(&self) -> &std::path::Path {
        &self.root
    }
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
    fn file(&self, file: File) -> RealFile {
        RealFile {
            file,
            read_timeout: self.read_timeout,
        }
    }
}

/// An open file of a [`RealDisk`].
#[derive(Debug)]
pub struct RealFile {
    file: File,
    read_timeout: Duration,
}

/// Waits, unless it has waited for longer than `read_timeout` in all.
fn wait_to_retry(read_timeout: Duration, failures: u32, error: &io::Error) -> bool {
    let waited: Duration = (1..failures).map(retry_pause).sum();
    if waited >= read_timeout {
        return false;
    }
    if failures == 1 {
        tracing::warn!(%error, "a read failed and is tried again");
    }
    std::thread::sleep(retry_pause(failures));
    true
}

/// The locked `LOCK` file: the process id of its holder, and the kernel's id of the boot in which the directory was
/// last written.
#[derive(Debug)]
pub struct RealLock {
    file: File,
    last_boot: String,
}

/// The kernel's id of the present boot; empty if it has none.
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

impl RealLock {
    fn write(&self, boot: &str) -> io::Result<()> {
        let text = format!("{}\n{boot}\n", std::process::id());
        self.file.write_all_at(text.as_bytes(), 0)?;
        self.file.set_len(text.len() as u64)
    }
}

impl Disk for RealDisk {
    type File = RealFile;
    type Lock = RealLock;

    fn lock(&self) -> io::Result<RealLock> {
        let path = self.path("LOCK");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        let locked = file.try_lock();
        let mut text = String::new();
        // The holder may be writing it just now. An empty name is still an answer.
        let _ = file.read_to_string(&mut text);
        let mut lines = text.lines().map(str::trim);
        let (pid, last_boot) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = format!("{} is in use by process {pid}", self.root.display());
                return Err(io::Error::new(ErrorKind::WouldBlock, text));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let last_boot = last_boot.to_owned();
        let lock = RealLock { file, last_boot };
        lock.write(&lock.last_boot)?;
        Ok(lock)
    }
    fn has_run_on(&self, lock: &RealLock) -> bool {
        !lock.last_boot.is_empty() && lock.last_boot == boot_id()
    }
    fn set_in_use(&self, lock: &RealLock) -> io::Result<()> {
        lock.write(&boot_id())
    }
    fn make_dir(&self, dir: &str) -> io::Result<()> {
        match std::fs::create_dir(self.path(dir)) {
            Ok(()) => self.sync_dir(""),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }
    fn create(&self, path: &str) -> io::Result<RealFile> {
        let path = self.path(path);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = self.with_descriptor(|| options.open(&path))?;
        Ok(self.file(file))
    }
    fn open(&self, path: &str) -> io::Result<RealFile> {
        let path = self.path(path);
        let file = self.with_descriptor(|| OpenOptions::new().read(true).write(true).open(&path))?;
        Ok(self.file(file))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(path))
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let dir = self.path(dir);
        for entry in self.with_descriptor(|| std::fs::read_dir(&dir))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                // A name that is not UTF-8 is not one of the store's files.
                names.extend(entry.file_name().into_string().ok());
            }
        }
        Ok(names)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let dir = self.path(dir);
        self.with_descriptor(|| File::open(&dir))?.sync_all()
    }
    fn free_space(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
    fn wait_to_retry(&self, failures: u32, error: &io::Error) -> bool {
        wait_to_retry(self.read_timeout, failures, error)
    }
}

impl DiskFile for RealFile {
    fn read_some_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(into, offset)
    }
    fn wait_to_retry(&self, failures: u32, error: &io::Error) -> bool {
        wait_to_retry(self.read_timeout, failures, error)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "the medium's own time is measured here, so that nobody else needs to"
    )]
    fn sync_data(&self) -> io::Result<Duration> {
        let start = Instant::now();
        self.file.sync_data()?;
        Ok(start.elapsed())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        // Extending a file keeps space allocated behind its new end; truncating it to the same length frees that.
        self.file.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, len) {
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => Err(error.into()),
            // The file system cannot allocate, or writes will meet a limit anyway.
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
