//! Publishes whose queues take more than one hold of the lock to find.
//!
//! How many bindings, filters and headers there are to compare is for clients to choose, so a publish that meets many of
//! them stops when the hold's work units are spent ([`Walk`]), and goes on in a later one. Until all its queues are known it
//! is in none of them. Its publisher's later commands wait behind it; other links take their turns.

use super::Engine;
use super::budget::Budget;
use super::internal::{Internal, Source};
use crate::ledger::Charge;
use crate::message::Message;
use crate::properties::Name;
use crate::queue::entry::{Body, EntryFlags};
use crate::router::{Target, Walk};
use crate::slots::Link;

/// Dead letters and wills that wait to be published, and their part of the memory for messages. Wills cannot wait anywhere else:
/// with them there may be more.
const INTERNAL_MAX: usize = 4096;
const INTERNAL_PART: usize = 8;

/// How the queues of a message are found.
pub(super) enum RouteBy<'a> {
    /// By a walk that may stop, and go on where it stopped.
    Steps(&'a mut Option<Box<Walk>>, &'a mut Budget),
    /// They were found before.
    Targets(&'a [Target]),
}

impl Engine {
    /// Publishes something no connection publishes now (a will, a dead-lettered message), but not to the queues named
    /// in `skip`. Behind others that wait, and at the end of the turn: a chain of queues must not become a chain of calls.
    pub(crate) fn publish_internally(&mut self, message: Message, skip: Vec<Name>, source: Source) {
        // No queue has it while it waits, but it takes memory.
        self.memory.pin(&message);
        self.internal_bytes += message.memory();
        if let Source::Entry { queue, seq, .. } = source {
            self.spare_from_purge(queue, seq);
        }
        self.internal.push_back(Internal { message, skip, source });
    }

    /// Whether so much waits to be published internally that what would cause more of it waits too: a consumer that rejects
    /// faster than its dead letters find their queues would fill the memory with them.
    pub(crate) fn has_many_internal(&self) -> bool {
        self.internal.len() >= INTERNAL_MAX || self.internal_bytes > self.settings.memory_bytes_max / INTERNAL_PART
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
            self.timers.set_deferred(self.now.monotonic);
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
        let units = match self.route_and_enqueue(Link::NOBODY, &first.message, route, &first.skip) {
            Ok(None) => {
                self.internal_walk = stopped;
                self.internal.push_front(first);
                return true;
            }
            Ok(Some(enqueued)) => 1 + enqueued.offered,
            // A missing exchange is no fault here: the message is dropped.
            Err(fault) => {
                self.trace_refused(Link::NOBODY, &first.message, &fault.text);
                1
            }
        };
        budget.spend(units);
        let logged = self.staging.group_start() > start;
        self.forget_source(first.source, logged);
        self.staging.group_end(start);
        self.internal_bytes -= first.message.memory();
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
                    if let Some(wills) = s.wills.get_mut() {
                        wills.firing = None;
                        wills.charge = Charge::default();
                    }
                    self.stage_session(session);
                }
            }
        }
    }
}
