//! Publishes whose queues take more than one hold of the lock to find.
//!
//! How many bindings, filters and headers there are to compare is for clients to choose, so a publish that meets many of
//! them stops when the hold's work units are spent ([`Walk`]), and goes on in a later one. Until all its queues are known it
//! is in none of them. Its publisher's later commands wait behind it; other links take their turns.

use super::Engine;
use super::budget::Budget;
use super::publishing::NOBODY;
use crate::message::Message;
use crate::properties::Name;
use crate::router::{Target, Walk};

/// How the queues of a message are found.
pub(super) enum RouteBy<'a> {
    /// By a walk that may stop, and go on where it stopped.
    Steps(&'a mut Option<Box<Walk>>, &'a mut Budget),
    /// They were found before.
    Targets(&'a [Target]),
}

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

impl Engine {
    /// Publishes something no connection publishes now (a will, a dead-lettered message), but not to the queues named
    /// in `skip`. Behind others that wait.
    pub(crate) fn publish_internally(&mut self, message: Message, skip: Vec<Name>) {
        self.internal.push_back((message, skip));
        if self.internal.len() == 1 {
            self.publish_next_internal();
        }
    }

    /// Publishes the first of what waits to be published internally. Returns whether there is more, and time for it.
    ///
    /// One whose queues take more than a hold to find goes on with the next turn. If the process ends before that, it is
    /// lost: its settle may be in the log already.
    pub(crate) fn publish_next_internal(&mut self) -> bool {
        let Some((message, skip)) = self.internal.pop_front() else {
            return false;
        };
        let mut stopped = self.internal_walk.take();
        let mut budget = std::mem::take(&mut self.internal_budget);
        let route = RouteBy::Steps(&mut stopped, &mut budget);
        let routed = self.route_and_enqueue(NOBODY, &message, route, &skip);
        self.internal_budget = budget;
        // A missing exchange is no fault here: the message is dropped.
        let unfinished = matches!(routed, Ok(None));
        if unfinished {
            self.internal_walk = stopped;
            self.internal.push_front((message, skip));
            self.timers.set_burial(self.now.monotonic);
        }
        !unfinished
    }
}
