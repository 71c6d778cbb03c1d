//! What a link's first command has come to, where the hold of the engine's lock ended before it was done.
//!
//! The command comes back to the driver and is the first of the link's next hold, in which it goes on where it stopped.

use crate::fault::{Fault, FaultKind};
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
    /// Targets in `found`, and deliveries that it settles.
    pub(super) deliveries: usize,
    pub(super) stopped: Option<Box<Walk>>,
}

impl Committing {
    /// Refuses what would take too long, because it has to be done in one hold.
    pub(super) fn check(&self, max: usize) -> Result<(), Fault> {
        if self.deliveries <= max {
            return Ok(());
        }
        let text = format!("transaction exceeds the limit of {max} messages times queues, and settled deliveries");
        Err(Fault::new(FaultKind::PreconditionFailed, text))
    }

    /// What it takes in memory.
    pub(super) fn memory(&self) -> usize {
        let found = self.found.capacity() * size_of::<Box<[(Target, QueueKey)]>>();
        let deliveries = self.deliveries * size_of::<(Target, QueueKey)>();
        size_of::<Committing>() + found + deliveries + self.stopped.as_ref().map_or(0, |walk| walk.memory())
    }
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
    /// It waits for a retained message that is on its way from the log.
    pub(super) waits: bool,
}

/// A deletion or a purge that has begun, and goes on without its link. See [`LinkState::deleting`](super::link::LinkState::deleting).
/// It names its queue by key: a queue of the same name that is declared meanwhile is another one.
pub(crate) enum Deleting {
    /// `messages`: how many the queue had when its deletion began.
    Queue {
        queue: QueueKey,
        messages: u32,
    },
    Exchange(Name),
    /// What waits in a queue: so many messages. `logged`: the log had some of them.
    Messages {
        queue: QueueKey,
        messages: u32,
        logged: bool,
    },
}
