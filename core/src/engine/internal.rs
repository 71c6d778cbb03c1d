//! Messages that the engine itself publishes: dead letters and wills, on their way to their queues.

use crate::message::Message;
use crate::properties::Name;
use crate::queue::entry::EntryFlags;
use crate::slots::{QueueKey, SessionKey};

/// A dead letter or a will on its way to its queues.
pub(crate) struct Internal {
    pub(super) message: Message,
    /// Queues that it must not return to.
    pub(super) skip: Vec<Name>,
    pub(super) source: Source,
}

/// What the log keeps until an internal publish is logged. After a crash before that, it is found again and published.
pub(crate) enum Source {
    /// Nothing: its publisher was told that it was refused, or it need not survive a restart.
    Nothing,
    /// The entry that died.
    Entry {
        queue: QueueKey,
        seq: u64,
        flags: EntryFlags,
    },
    /// The will in that session's record.
    Will(SessionKey),
}

impl Internal {
    /// The sequence of the entry that died in that queue, which the log still has.
    pub(super) fn died_in(&self, queue: QueueKey) -> Option<u64> {
        match self.source {
            Source::Entry { queue: of, seq, .. } if of == queue => Some(seq),
            _ => None,
        }
    }
    #[cfg(feature = "testing")]
    pub(super) fn message(&self) -> &Message {
        &self.message
    }
}
