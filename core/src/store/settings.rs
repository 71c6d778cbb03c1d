//! Settings of the store, and its errors.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::time::Duration;

/// What a confirm waits for, from the weakest to the strongest. A message that goes to several queues waits for the
/// strongest of theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// The kernel has the data. A crash of the process loses nothing; a power cut loses what the kernel had not
    /// written.
    Os,
    /// A sync covers the data within [`StoreSettings::interval`].
    Interval,
    /// A sync has covered the data. A power cut loses nothing that was confirmed.
    #[default]
    Always,
}

impl Durability {
    /// The durability with that name in configuration and arguments.
    pub fn of(word: &str) -> Option<Durability> {
        Some(match word {
            "always" => Durability::Always,
            "interval" => Durability::Interval,
            "os" => Durability::Os,
            _ => return None,
        })
    }
}

/// Settings of the store.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// Bytes of a segment. 8 MiB suit an SD card, 32 MiB an SSD.
    pub segment_bytes: u32,
    /// The longest time that data with durability `interval` waits to be synced.
    pub interval: Duration,
    /// Whether such data is confirmed when it is written, so that a power cut may lose the interval. Otherwise its
    /// confirm waits for the sync.
    pub confirm_written: bool,
    /// A changed log gets a checkpoint after this time, and whenever a segment is full...
    pub checkpoint_every: Duration,
    /// ... but only if the last one cost at most this share, in percent, of what was logged since, or of the segments
    /// that it frees. A start has to replay more for that.
    pub checkpoint_cost_percent_max: u32,
    /// A segment may be compacted if at most this share of a full one is live, in percent. So much is written once
    /// more. Where everything is overwritten at random, the log takes about twice the size of what is live.
    pub compact_live_percent_max: u8,
    /// Only segments at least this far behind the log's end are compacted, in segments.
    pub compact_age_min: u32,
    /// Bytes that compaction, or zeroing ahead, handles in one `tick`.
    pub slice_bytes: usize,
    /// The most segment files kept open for reading, without those being read.
    pub open_files_max: usize,
    /// Seeds the checksums of new segments. Must be unpredictable to peers, or a body could imitate a record.
    pub salt: u64,
}

impl Default for StoreSettings {
    fn default() -> Self {
        StoreSettings {
            segment_bytes: 8 << 20,
            interval: Duration::from_secs(1),
            confirm_written: false,
            checkpoint_every: Duration::from_secs(60),
            checkpoint_cost_percent_max: 10,
            compact_live_percent_max: 15,
            compact_age_min: 4,
            slice_bytes: 512 << 10,
            open_files_max: 64,
            salt: RandomState::new().hash_one("gatepost"),
        }
    }
}

/// The smallest usable segment.
pub(crate) const SEGMENT_BYTES_MIN: u32 = 16 << 10;
/// The largest segment: offsets have 32 bits.
pub(crate) const SEGMENT_BYTES_MAX: u32 = 1 << 30;

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the directory, or it cannot be locked.
    #[error("cannot lock the data directory: {0}")]
    Lock(#[source] io::Error),
    /// An operation on the directory failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// The system's error.
        source: io::Error,
    },
    /// Bytes could not be read for longer than the limit. This is not treated as damage: nothing was changed, and a
    /// later start that can read them finds them unchanged.
    #[error(
        "cannot read {path}: {source}. Nothing in it was changed. If the medium is failing, copy the directory to another with a \
         tool that skips unreadable sectors, and let `gatepost check --repair` make the best of the copy"
    )]
    Read {
        /// The file.
        path: String,
        /// The system's last error.
        source: io::Error,
    },
    /// The format belongs to another release.
    #[error(
        "{path} has format {found}; this release reads format {known}. Use the release that wrote it, or a newer one"
    )]
    Version {
        /// The file.
        path: String,
        /// Its format.
        found: u32,
        /// The format of this release.
        known: u32,
    },
    /// A write or a sync failed, now or earlier. Unconfirmed data may be lost; nothing is confirmed any more.
    #[error("the log is poisoned: {0}")]
    Poisoned(String),
    /// Records of one group take more than 4 GiB.
    #[error("records that count together take {0} bytes, more than a segment can have")]
    TooLarge(usize),
}

impl StoreError {
    pub(crate) fn unread(path: &str, source: io::Error) -> StoreError {
        StoreError::Read {
            path: path.to_owned(),
            source,
        }
    }
}
