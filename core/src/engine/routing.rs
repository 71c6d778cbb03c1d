//! Publishes whose queues take more than one hold of the lock to find.
//!
//! Clients decide how many bindings, filters and headers there are to compare. So a publish that has to compare many
//! stops when the hold's work units are spent ([`Walk`]), and continues in a later hold. Until all its queues are known
//! it is in none of them. Later commands of its publisher wait; other links are served.

use super::Engine;
use super::budget::Budget;
use super::internal::{Internal, Source};
use crate::ledger::Charge;
use crate::message::Message;
use crate::properties::Name;
use crate::queue::entry::{Body, EntryFlags};
use crate::router::{Target, Walk};
use crate::slots::Link;

/// The most dead letters and wills that wait to be published, and the part of the memory for messages that they may
/// occupy. Wills are added even above that, because they cannot wait anywhere else.
const INTERNAL_MAX: usize = 4096;
const INTERNAL_PART: usize = 8;

/// How a message's queues are found.
pub(super) enum RouteBy<'a> {
    /// By a walk that may stop, and continue where it stopped.
    Steps(&'a mut Option<Box<Walk>>, &'a mut Budget),
    /// They were found earlier.
    Targets(&'a [Target]),
}

impl Engine {
    /// Publishes a message that no connection publishes now (a will, a dead letter), but not to the queues named in
    /// `skip`. It waits for others of its kind until the end of the turn: otherwise a chain of queues would become a
    /// recursion.
    pub(crate) fn publish_internally(&mut self, message: Message, skip: Vec<Name>, source: Source) {
        // No queue has it while it waits, but it occupies memory.
        self.memory.pin(&message);
        self.internal_bytes += message.memory();
        if let Source::Entry { queue, seq, .. } = source {
            self.keep_from_purge(queue, seq);
        }
        self.internal.push_back(Internal { message, skip, source });
    }

    /// Whether so much waits to be published internally that commands causing more must wait, too. Otherwise a consumer
    /// that rejects faster than dead letters can be published would fill the memory with them.
    pub(crate) fn has_many_internal(&self) -> bool {
        self.internal.len() >= INTERNAL_MAX || self.internal_bytes > self.settings.memory_bytes_max / INTERNAL_PART
    }

    /// Publishes the first message that waits to be published internally. Returns whether there is more, and time for
    /// it.
    ///
    /// Its source is settled in the same group of the log's records: after a crash there is exactly one of the two.
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
            // If the exchange does not exist, the message is dropped.
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
