//! A copy of the log while it is in use.
//!
//! [`Store::cut`] lists the files that make up the log at this moment, and their lengths. Those bytes do not change: a
//! segment only grows, and a checkpoint is replaced, never changed. So another thread can copy them slowly while the
//! log continues behind them. The copy is what a crash at the moment of the cut would leave if everything written had
//! reached the medium, and a start reads it as that. So a cut writes and syncs nothing.
//!
//! Two things must not happen meanwhile. A segment must not be recycled before it is copied, so none is while a [`Cut`]
//! exists. And a slow copy must not fill the disk: when disk space gets short, segments are recycled all the same, and
//! the cut is broken ([`Cut::is_broken`]).
//!
//! Hard links would not work instead: segments are recycled by overwriting them, which changes the linked file, too.

use super::checkpoint;
use super::disk::{Disk, DiskFile};
use super::files::Shared;
use super::log::{Hold, Store};
use super::segment::path;
use super::settings::StoreError;
use std::io;
use std::sync::{Arc, Weak};

/// The log's files at one moment. While it exists, no segment is recycled, unless disk space gets short.
pub struct Cut<D: Disk> {
    shared: Arc<Shared<D>>,
    files: Vec<CutFile<D::File>>,
    hold: Arc<Hold>,
}

/// A file of a cut.
struct CutFile<F> {
    path: String,
    /// The number of bytes that belong to the cut.
    len: u64,
    /// A checkpoint is opened at once, because the next one takes its name. A segment is opened for each read, so that
    /// a copy that waits takes no descriptor from sockets.
    open: Option<Arc<F>>,
}

/// Why there is no cut.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// Another cut exists.
    #[error("another backup is being made")]
    Taken,
    /// The log needs the space that a cut would keep.
    #[error("the disk is short: the log cannot keep segments for a backup")]
    DiskShort,
    /// A checkpoint could not be opened.
    #[error("the checkpoint cannot be opened: {0}")]
    Checkpoint(#[source] io::Error),
    /// The log itself had failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<D: Disk> Cut<D> {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len).sum()
    }

    /// Each file: its path in the data directory, and its length. Checkpoints are last.
    pub fn files(&self) -> impl ExactSizeIterator<Item = (&str, u64)> {
        self.files.iter().map(|file| (&*file.path, file.len))
    }

    /// Fills `into` with the bytes of the `nth` of [`Cut::files`] at offset `at`.
    ///
    /// # Errors
    /// The file cannot be read or is too short, or the cut is broken. What was read before is valid.
    pub fn read(&self, nth: usize, at: u64, into: &mut [u8]) -> io::Result<()> {
        let file = self.files.get(nth).ok_or(io::ErrorKind::NotFound)?;
        let read = match &file.open {
            Some(open) => open.read_at(into, at),
            None => self
                .shared
                .disk
                .open(&file.path)
                .and_then(|open| open.read_at(into, at)),
        };
        // A segment of a broken cut may contain another segment's bytes now, or not exist any more.
        if self.is_broken() {
            return Err(io::Error::other(
                "the disk is short, and the log took back the segments it kept for the backup",
            ));
        }
        let is_whole = at + into.len() as u64 <= file.len && read? == into.len();
        is_whole
            .then_some(())
            .ok_or_else(|| io::Error::other(format!("{} is shorter than it was", file.path)))
    }

    /// Whether disk space got short, so that segments of the cut may have been recycled.
    pub fn is_broken(&self) -> bool {
        self.hold.is_broken()
    }
}

impl<D: Disk> Store<D> {
    /// The files of the log as they are now. They contain everything committed so far. Nothing is written or synced for
    /// that; the cost is two open files, and a name and a length for each segment.
    ///
    /// # Errors
    /// There is no cut, and the log continues. Except after [`CutError::Store`]: the log had failed before.
    pub fn cut(&mut self) -> Result<Cut<D>, CutError> {
        self.check_poison()?;
        if self.disk_short {
            return Err(CutError::DiskShort);
        }
        if self.hold.strong_count() > 0 {
            return Err(CutError::Taken);
        }
        let mut files = Vec::with_capacity(self.segments.len() + 2);
        for segment in self.segments.values() {
            // A segment that is being written has allocated space behind its records, which need not be copied. `end`
            // may be behind what an abandoned segment of compaction has.
            let written = match segment.sealed {
                true => segment.file_bytes,
                false => segment.file_bytes.min(u64::from(segment.end)),
            };
            files.push(CutFile {
                path: path(segment.header.kind.dir(), segment.header.id),
                len: written,
                open: None,
            });
        }
        // Both, as after a crash: if the newest is damaged, a start uses the one before.
        for name in [checkpoint::OLD, checkpoint::FILE] {
            let opened = match self.shared.disk.open(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.and_then(|open| Ok((open.len()?, open))),
            };
            let (len, open) = opened.map_err(CutError::Checkpoint)?;
            files.push(CutFile {
                path: name.to_owned(),
                len,
                open: Some(Arc::new(open)),
            });
        }
        let hold = Arc::new(Hold::default());
        self.hold = Arc::downgrade(&hold);
        let shared = self.shared.clone();
        Ok(Cut { shared, files, hold })
    }

    /// Whether segments are kept for a cut. While disk space is short they are not, and the cut is marked as broken.
    pub(super) fn keeps_for_cut(&mut self) -> bool {
        let Some(hold) = self.hold.upgrade() else {
            return false;
        };
        if self.disk_short {
            tracing::warn!("the disk is short: the backup that is being made is given up");
            hold.give_up();
            self.hold = Weak::new();
        }
        !self.disk_short
    }
}
