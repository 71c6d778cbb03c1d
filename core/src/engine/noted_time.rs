//! Keeps expired messages expired after a restart, even if the clock is wrong then.
//!
//! After a power cut, the clock of a small machine may stand in 1970; before it, it may have been decades ahead. A
//! restart continues from the latest time in the log. So before a logged message expires, the log must contain a time
//! after its deadline. Otherwise a crash could bring it back, although somebody was told that it has expired.
//!
//! ```text
//!   head expired ─ time not noted ─► Record::Time ─ batch durable ─► noted ─► dispatched again: it expires
//! ```

use crate::slots::QueueKey;
use crate::time::Wall;
use std::collections::BTreeSet;

/// The latest time in the log, and what waits for a later one.
#[derive(Default)]
pub(crate) struct NotedTime {
    /// The log has this time, as durably as the node's setting says. No restart begins before it.
    pub(crate) noted: Wall,
    /// A later time that is being logged.
    pub(super) underway: Option<Wall>,
    /// Queues whose heads have expired and wait for it.
    pub(super) queues: BTreeSet<QueueKey>,
    /// Retained messages wait for it, too.
    pub(super) retained: bool,
    /// The clock has jumped ahead. Everything due by it is being checked: queues and sessions from these slots on.
    pub(super) looking_again: Option<(u32, u32)>,
}

impl NotedTime {
    /// Whether the queue's head waits to expire.
    #[cfg(feature = "testing")]
    pub(crate) fn has_waiting(&self, queue: QueueKey) -> bool {
        self.queues.contains(&queue)
    }
}
