//! What a link's first command has come to, where the hold of the engine's lock ended before it was done.
//!
//! The command comes back to the driver and is the first of the link's next hold, in which it goes on where it stopped.

use crate::fault::FaultKind;
use crate::message::Message;
use crate::properties::Name;
use crate::retained::Cursor;
use crate::router::{Target, Walk};
use crate::slots::QueueKey;

/// A publish whose queues are not all found yet.
pub(crate) struct Routing {
    message: Message,
    walk: Box<Walk>,
}

impl Routing {
    pub(super) fn new(message: &Message, walk: Box<Walk>) -> Routing {
        Routing {
            message: message.clone(),
            walk,
        }
    }
    /// The walk, if it is for this very message: the command it belonged to may never have come back.
    pub(super) fn of(self, message: &Message) -> Option<Box<Walk>> {
        std::ptr::eq(self.message.payload(), message.payload()).then_some(self.walk)
    }
}

/// The part of a transaction whose queues are found.
#[derive(Default)]
pub(crate) struct Committing {
    /// One for each command before the one that it stopped at: where it goes, with the numbers of the queues, because a slot
    /// may have another queue by the time that all are found.
    pub(super) found: Vec<Box<[(Target, QueueKey)]>>,
    /// Targets in `found`.
    pub(super) deliveries: usize,
    pub(super) stopped: Option<Box<Walk>>,
}

/// What a SUBSCRIBE or UNSUBSCRIBE has come to so far: one result for each filter that is done.
#[derive(Default)]
pub(crate) struct Answered {
    pub(super) granted: Vec<Result<u8, FaultKind>>,
    pub(super) existed: Vec<bool>,
    /// The log must have it before the answer leaves.
    pub(super) waits: bool,
}

/// A replay that its bind waits for.
pub(crate) struct BoundReplay {
    pub(super) queue: QueueKey,
    pub(super) cursor: Cursor,
    /// What the answer to the bind waits for after it.
    pub(super) gate: Option<u64>,
}

/// A deletion that has begun, and goes on without its link. See [`LinkState::deleting`](super::link::LinkState::deleting).
pub(crate) enum Deleting {
    Queue(QueueKey),
    Exchange(Name),
}
