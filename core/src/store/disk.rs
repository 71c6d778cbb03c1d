//! The only way the store touches the world. [`RealDisk`] is a directory; the simulated one is in `testing::disk`.
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

/// The unit a disk writes whole or not at all.
pub(crate) const SECTOR: u32 = 512;
/// The unit in which the kernel writes.
pub(crate) const BLOCK: u32 = 4096;

/// A data directory.
pub trait Disk: Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;
    /// Keeps other processes out until it is dropped.
    type Lock: Send + Sync;

    /// Takes the directory for this process.
    ///
    /// # Errors
    /// `WouldBlock` if another process has it; the text names that process.
    fn lock(&self) -> io::Result<Self::Lock>;
    /// Whether the machine has run on since [`Disk::set_in_use`] was last called: all that was written is there then,
    /// and none of it torn. `false` if that is not known.
    fn has_run_on(&self, lock: &Self::Lock) -> bool;
    /// What was written before is on the medium, and this process is about to write more.
    fn set_in_use(&self, lock: &Self::Lock) -> io::Result<()>;
    /// Makes a directory in the data directory, if it is not there yet, durably.
    fn make_dir(&self, dir: &str) -> io::Result<()>;
    /// Makes a file, or empties the one that is there.
    fn create(&self, path: &str) -> io::Result<Self::File>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &str) -> io::Result<Self::File>;
    /// Renames a file, replacing what has that name. Durable after [`Disk::sync_dir`] of its directory.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Names of the files in a directory, in any order; `""` is the data directory itself.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Bytes that can still be written.
    fn free_space(&self) -> io::Result<u64>;
    /// Called after a read or an open failed `failures` times in a row: waits, longer each time, and returns `true` if it
    /// is to be tried again. `false`: it has failed for longer than the limit.
    fn wait_to_retry(&self, failures: u32, error: &io::Error) -> bool;
    /// [`Disk::open`], tried again until it succeeds or the limit has passed. A file that is not there is not waited for.
    fn open_patiently(&self, path: &str) -> io::Result<Self::File> {
        patiently(
            |failures, error| self.wait_to_retry(failures, error),
            || self.open(path),
        )
    }
}

/// An open file. Reads and writes do not move a cursor, so that readers and the writer share it.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads at `offset` as `pread` does: possibly fewer bytes than asked, none at the end.
    fn read_some_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Reads what there is at `offset`, fewer bytes than asked only at the end.
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
    /// Returns when everything written is on the medium. Says how long that took, so that the store needs no clock.
    fn sync_data(&self) -> io::Result<Duration>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or extends.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Takes room for the first `len` bytes, and changes neither what is read nor the length: writes within it do not
    /// run out of disk. [`DiskFile::set_len`] gives back what lies behind the new end.
    ///
    /// # Errors
    /// There is not that much room. Where it cannot be taken in advance that is no error, and nothing is promised.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Writes zeros, so that later writes there change no metadata and a sync is one write of the medium.
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

/// Whether an operation failed because the process, or the machine, has no file descriptor left.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE]
        .iter()
        .any(|errno| code == Some(errno.raw_os_error()))
}

/// Repeats `attempt` until it succeeds or `wait` says that it has failed for too long. What is not there does not come.
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

/// A file whose reads are tried again until they succeed or the limit has passed: for whoever cannot go on without the
/// bytes and keeps nobody waiting, which is the start and the offline commands.
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

/// How long the [`RealDisk`] tries reads again, if nothing else is set.
pub const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The first wait before a failed read is tried again; each later one is twice as long...
const RETRY_FIRST: Duration = Duration::from_millis(10);
/// ... up to this.
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// How long to wait after so many failures in a row.
#[must_use]
pub fn retry_pause(failures: u32) -> Duration {
    let doubled = 1u32 << failures.saturating_sub(1).min(16);
    RETRY_FIRST.saturating_mul(doubled).min(RETRY_LONGEST)
}

/// Descriptors that a [`RealDisk`] keeps for the time when sockets have taken all others: a segment, a checkpoint or a
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
    /// The directory at `root`, made if it is not there.
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
    /// Sets for how long a start, and the offline commands, try a read that fails again.
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
    /// Opens something; with a descriptor that was kept for this if there is no other.
    fn with_descriptor<T>(&self, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
        loop {
            match open() {
                // One that was closed may be taken by a socket at once, so this may take several.
                Err(error) if is_out_of_descriptors(&error) && self.kept.lock().pop().is_some() => {}
                Ok(opened) => {
                    // What was used up is replaced as soon as that is possible.
                    if self.kept.lock().len() < DESCRIPTORS_KEPT {
                        self.keep_descriptors();
                    }
                    return Ok(opened);
                }
                error => return error,
            }
        }
    }
    /// Where it is.
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

/// Waits, unless it has been waited for longer than `read_timeout` in all.
// Only starts and offline commands wait here, and they have nothing else to do.
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

/// The `LOCK` file, locked: the pid of its holder, and the kernel's word for the boot in which the directory was last
/// written.
#[derive(Debug)]
pub struct RealLock {
    file: File,
    last_boot: String,
}

/// The kernel's word for the time since the machine started; empty if it has none.
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
        // The holder may just be writing it; an empty name is still an answer.
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
                // A name that is not UTF-8 is not one of ours.
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
        // To extend a file leaves what was allocated behind its new end; to cut it there does not.
        self.file.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, len) {
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => Err(error.into()),
            // A file system that cannot, or a limit that the writes will meet where it is.
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
