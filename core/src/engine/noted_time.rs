//! Keeps expired messages expired after a restart, even if the clock is wrong then.
//!
//! A small machine's clock may stand in 1970 after a power cut, or have stood decades ahead before it. A restart goes on
//! from the latest time that is in the log. So before something that the log has expires, the log must have a time at
//! which it has: otherwise a crash could bring it back, after somebody was told that it is gone.
//!
//! ```text
//!   head expired ─ time not noted ─► Record::Time ─ batch durable ─► noted ─► dispatched again: it expires
//! ```

use crate::slots::QueueKey;
use crate::time::Wall;
use std::collections::BTreeSet;

/// The latest time that the log has, and what waits for a later one.
#[derive(Default)]
pub(crate) struct NotedTime {
    /// The log has this time, as durably as the node promises: no restart begins before it.
    pub(crate) noted: Wall,
    /// A later time that is on its way to the log.
    pub(super) underway: Option<Wall>,
    /// Queues whose heads have expired by a later time.
    pub(super) queues: BTreeSet<QueueKey>,
    /// Retained messages have.
    pub(super) retained: bool,
    /// The clock has jumped ahead: what is due by it is looked at, queues and sessions from these slots on.
    pub(super) looking_again: Option<(u32, u32)>,
}

impl NotedTime {
    /// Whether the head of the queue waits to expire.
    #[cfg(feature = "testing")]
    pub(crate) fn has_waiting(&self, queue: QueueKey) -> bool {
        self.queues.contains(&queue)
    }
}
