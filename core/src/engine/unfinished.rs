//! The state of a link's first command when the hold of the engine's lock ended before it was done.
//!
//! The command goes back to the driver and is the first one of the link's next hold, in which it continues.

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
    /// The walk, if it belongs to this message. The command that it belonged to may never have come back.
    pub(super) fn of(self, message: &Message) -> Option<Box<Walk>> {
        std::ptr::eq(self.message.payload(), message.payload()).then_some(self.walk)
    }
}

/// The progress of a transaction: the queues found so far.
#[derive(Default)]
pub(crate) struct Committing {
    /// For each command before the one at which it stopped: its targets, with the keys of the queues, because a slot
    /// may be reused before all are found.
    pub(super) found: Vec<Box<[(Target, QueueKey)]>>,
    /// The number of targets in `found`, and of deliveries that it settles.
    pub(super) deliveries: usize,
    pub(super) stopped: Option<Box<Walk>>,
}

impl Committing {
    /// Refuses a transaction that would take too long, because it has to be applied in one hold.
    pub(super) fn check(&self, max: usize) -> Result<(), Fault> {
        if self.deliveries <= max {
            return Ok(());
        }
        let text = format!("transaction exceeds the limit of {max} messages times queues, and settled deliveries");
        Err(Fault::new(FaultKind::PreconditionFailed, text))
    }

    /// Bytes that it occupies.
    pub(super) fn memory(&self) -> usize {
        let found = self.found.capacity() * size_of::<Box<[(Target, QueueKey)]>>();
        let deliveries = self.deliveries * size_of::<(Target, QueueKey)>();
        size_of::<Committing>() + found + deliveries + self.stopped.as_ref().map_or(0, |walk| walk.memory())
    }
}

/// The results of a SUBSCRIBE or UNSUBSCRIBE so far: one for each filter that is done.
#[derive(Default)]
pub(crate) struct Answered {
    pub(super) granted: Vec<Result<u8, FaultKind>>,
    pub(super) existed: Vec<bool>,
    /// The answer must wait for the log.
    pub(super) waits: bool,
}

/// A replay that its bind waits for.
pub(crate) struct BoundReplay {
    pub(super) queue: QueueKey,
    pub(super) cursor: Cursor,
    /// What the bind's answer waits for after the replay.
    pub(super) gate: Option<u64>,
    /// It waits for a retained message that is being read from the log.
    pub(super) waits: bool,
}

/// A deletion or a purge that has begun, and is finished even if its link goes. See
/// [`LinkState::deleting`](super::link::LinkState::deleting). It refers to its queue by key, because a queue declared
/// with the same name meanwhile is another one.
pub(crate) enum Deleting {
    /// `messages`: the number of messages in the queue when its deletion began.
    Queue {
        queue: QueueKey,
        messages: u32,
    },
    Exchange(Name),
    /// `messages`: the number of messages that waited in the queue. `logged`: the log had records of some.
    Messages {
        queue: QueueKey,
        messages: u32,
        logged: bool,
    },
}
