//! Publishes whose queues take more than one hold of the lock to find.
//!
//! How many bindings, filters and headers there are to compare is for clients to choose, so a publish that meets many of
//! them stops when the hold's work units are spent ([`Walk`]), and goes on in a later one. Until all its queues are known it
//! is in none of them. Its publisher's later commands wait behind it; other links take their turns.

use super::Engine;
use super::budget::Budget;
use super::publishing::NOBODY;
use crate::ledger::Charge;
use crate::message::Message;
use crate::properties::Name;
use crate::queue::entry::{Body, EntryFlags};
use crate::router::{Target, Walk};
use crate::slots::{QueueKey, SessionKey};

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

/// A dead letter or a will on its way to its queues.
pub(crate) struct Internal {
    message: Message,
    /// Queues that it must not come back to.
    skip: Vec<Name>,
    source: Source,
}

/// What the log keeps until an internal publish is logged. A crash before that brings it back, and it is published then.
pub(crate) enum Source {
    /// Nothing: its publisher was told that it was refused, or it was not to outlive the process anyway.
    Nothing,
    /// The entry that died.
    Entry {
        queue: QueueKey,
        seq: u64,
        flags: EntryFlags,
    },
    /// The will in the record of that session.
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

impl Engine {
    /// Publishes something no connection publishes now (a will, a dead-lettered message), but not to the queues named
    /// in `skip`. Behind others that wait, and at the end of the turn: a chain of queues must not become a chain of calls.
    pub(crate) fn publish_internally(&mut self, message: Message, skip: Vec<Name>, source: Source) {
        // No queue holds it while it waits, but memory does.
        self.memory.pin(&message);
        self.internal.push_back(Internal { message, skip, source });
    }

    /// Publishes the first of what waits to be published internally. Returns whether there is more, and time for it.
    ///
    /// Its source is settled in the same group of the log: a crash leaves one of the two, never none and never both.
    pub(crate) fn publish_next_internal(&mut self) -> bool {
        if self.internal.is_empty() {
            return false;
        }
        let mut budget = std::mem::take(&mut self.internal_budget);
        let unfinished = if budget.is_spent() {
            true
        } else {
            self.publish_first_internal(&mut budget)
        };
        self.internal_budget = budget;
        if unfinished {
            self.timers.set_burial(self.now.monotonic);
        }
        !unfinished
    }

    /// Returns whether its queues are not all found yet.
    fn publish_first_internal(&mut self, budget: &mut Budget) -> bool {
        let Some(first) = self.internal.pop_front() else {
            return false;
        };
        let mut stopped = self.internal_walk.take();
        let start = self.staging.group_start();
        let route = RouteBy::Steps(&mut stopped, budget);
        let units = match self.route_and_enqueue(NOBODY, &first.message, route, &first.skip) {
            Ok(None) => {
                self.internal_walk = stopped;
                self.internal.push_front(first);
                return true;
            }
            Ok(Some(enqueued)) => 1 + enqueued.queues,
            // A missing exchange is no fault here: the message is dropped.
            Err(_) => 1,
        };
        budget.spend(units);
        let logged = self.staging.group_start() > start;
        self.forget_source(first.source, logged);
        self.staging.group_end(start);
        self.memory.drop_body(&Body::Memory(first.message));
        false
    }

    fn forget_source(&mut self, source: Source, logged: bool) {
        match source {
            Source::Nothing => {}
            Source::Entry { queue, seq, flags } => {
                self.forget_dead(queue, seq, flags);
                if logged && flags.has(EntryFlags::LOGGED) {
                    self.stage_acks();
                }
            }
            Source::Will(session) => {
                if let Some(s) = self.sessions.get_mut(session) {
                    s.firing_will = None;
                    s.will_charge = Charge::default();
                    self.stage_session(session);
                }
            }
        }
    }
}
