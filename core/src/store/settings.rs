//! What can be set about the store, and what can go wrong with it.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::time::Duration;

/// What a confirm waits for, from the weakest promise to the strongest: what goes to several places waits for the
/// greatest of theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// The kernel has it. A crash of the process loses nothing, a power cut what the kernel had not written.
    Os,
    /// A sync covers it within [`StoreSettings::interval`].
    Interval,
    /// A sync covered it. A power cut loses nothing confirmed.
    #[default]
    Always,
}

impl Durability {
    /// The one that clients and operators call so.
    pub fn of(word: &str) -> Option<Durability> {
        Some(match word {
            "always" => Durability::Always,
            "interval" => Durability::Interval,
            "os" => Durability::Os,
            _ => return None,
        })
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// Bytes of a segment: 8 MiB suit an SD card, 32 MiB an SSD.
    pub segment_bytes: u32,
    /// What is to be synced within an interval waits for company at most this long.
    pub interval: Duration,
    /// It is confirmed when written: a power cut may lose the interval. Otherwise its confirm waits for the sync.
    pub confirm_written: bool,
    /// A changed log gets a checkpoint after this time, and whenever a segment is full...
    pub checkpoint_every: Duration,
    /// ... but only if the last one cost at most this share, in percent, of what was logged since, or of the segments
    /// that it frees. A start replays so much more.
    pub checkpoint_cost_percent_max: u32,
    /// A segment with at most this share of a full one live, in percent, may be compacted: so much is written once more,
    /// and, where everything is overwritten at random, the log takes about twice what is live.
    pub compact_live_percent_max: u8,
    /// Only segments that are at least this many behind the log's end are compacted.
    pub compact_age_min: u32,
    /// Bytes compaction, or zeroing ahead, moves in one `tick`.
    pub slice_bytes: usize,
    /// Files of segments kept open for reading, besides those being read.
    pub open_files_max: usize,
    /// Unpredictable to peers; seeds the checksums of new segments.
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

/// The smallest segment that makes sense.
pub(crate) const SEGMENT_BYTES_MIN: u32 = 16 << 10;
/// The largest: offsets are 32 bits wide.
pub(crate) const SEGMENT_BYTES_MAX: u32 = 1 << 30;

/// Why the store does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the directory, or it cannot be locked.
    #[error("cannot lock the data directory: {0}")]
    Lock(#[source] io::Error),
    /// The directory cannot be used at all.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes could not be read for longer than the limit. They are not taken for damage: nothing was changed, and a later
    /// start that can read them finds them as they were.
    #[error(
        "cannot read {path}: {source}. Nothing in it was changed. If the medium is failing, copy the directory to another with a \
         tool that skips unreadable sectors, and let `gatepost check --repair` make the best of the copy"
    )]
    Read {
        /// Which file.
        path: String,
        /// What the system said last.
        source: io::Error,
    },
    /// The format is another release's.
    #[error(
        "{path} has format {found}; this release reads format {known}. Use the release that wrote it, or a newer one"
    )]
    Version {
        /// Which file.
        path: String,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A write or a sync failed, now or before. What was not confirmed by then may be lost; nothing is confirmed any
    /// more.
    #[error("the log is poisoned: {0}")]
    Poisoned(String),
    /// Records that count together take more than 4 GiB.
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
