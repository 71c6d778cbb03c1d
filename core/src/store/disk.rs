//! The only way the store touches the world. [`RealDisk`] is a directory; the simulated one is in `testing::disk`.
//!
//! Paths are relative to the data directory and use `/`. Nothing here is asynchronous: the store runs on the committer's
//! thread, and its readers on theirs.

use rustix::io::Errno;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

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
}

/// An open file. Reads and writes do not move a cursor, so that readers and the writer share it.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads what there is at `offset`, fewer bytes than asked only at the end.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
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

/// A directory of the file system.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// The directory at `root`, made if it is not there.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<RealDisk> {
        let root = root.into();
        std::fs::create_dir_all(&root)?;
        Ok(RealDisk { root })
    }
    /// Where it is.
    pub fn root(&self) -> &std::path::Path {
        &self.root
    }
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

/// An open file of a [`RealDisk`].
#[derive(Debug)]
pub struct RealFile(File);

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
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path(path))?;
        Ok(RealFile(file))
    }
    fn open(&self, path: &str) -> io::Result<RealFile> {
        Ok(RealFile(
            OpenOptions::new().read(true).write(true).open(self.path(path))?,
        ))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(path))
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.path(dir))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                // A name that is not UTF-8 is not one of ours.
                names.extend(entry.file_name().into_string().ok());
            }
        }
        Ok(names)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.path(dir))?.sync_all()
    }
    fn free_space(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "the medium's own time is measured here, so that nobody else needs to"
    )]
    fn sync_data(&self) -> io::Result<Duration> {
        let start = Instant::now();
        self.0.sync_data()?;
        Ok(start.elapsed())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)?;
        // To extend a file leaves what was allocated behind its new end; to cut it there does not.
        self.0.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::KEEP_SIZE, 0, len) {
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => Err(error.into()),
            // A file system that cannot, or a limit that the writes will meet where it is.
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
