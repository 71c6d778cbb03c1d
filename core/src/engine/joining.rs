//! A session that comes back consumes the queues of its `$share` groups again. It may be a member of thousands, so that
//! takes as many holds as are needed. Until it has come to a group, others get the group's messages.

use super::Engine;
use super::budget::Budget;
use super::dispatch::DISPATCH_LEAST;
use super::timers::Timer;
use crate::durable_session::shared_queue_name;
use crate::properties::Name;
use crate::slots::SessionKey;
use std::collections::BTreeMap;
use std::ops::Bound;

/// A subscription: its filter, and its group if it has one.
type Id = (Name, Option<Name>);

/// Sessions that are still to consume their groups' queues, each with the last subscription that is done. `None`: it is
/// to begin.
#[derive(Default)]
pub(crate) struct Joining(BTreeMap<SessionKey, Option<Id>>);

/// Subscriptions that are looked at in one go.
const LOOKED_AT_ONCE: usize = 64;
/// Subscriptions that are looked at for one work unit.
const LOOKED_PER_UNIT: usize = 16;
/// Work units of a consumer that is added, whose queue is dispatched.
const JOIN_WORK: usize = DISPATCH_LEAST;

impl Engine {
    /// The session begins to consume its groups' queues. What there is time for is done at once.
    pub(super) fn join_groups(&mut self, session: SessionKey) {
        self.joining.0.insert(session, None);
        let mut budget = std::mem::take(&mut self.side_budget);
        self.go_on_with_joining(&mut budget);
        self.side_budget = budget;
    }

    /// Whether the session will come to that subscription, and consume the group's queue then.
    pub(super) fn is_yet_to_join(&self, session: SessionKey, id: &Id) -> bool {
        let done = self.joining.0.get(&session);
        id.1.is_some() && done.is_some_and(|done| done.as_ref().is_none_or(|done| done < id))
    }

    /// Goes on with the sessions that consume their groups' queues.
    pub(crate) fn go_on_with_joining(&mut self, budget: &mut Budget) {
        while !budget.is_spent() {
            let Some((session, done)) = self.joining.0.pop_first() else {
                return;
            };
            // The connection may be gone meanwhile. When the client comes back, it begins again.
            if self.sessions.get(session).is_some_and(|s| s.open)
                && let Some(done) = self.join_some(session, done, budget)
            {
                self.joining.0.insert(session, Some(done));
            }
        }
        if !self.joining.0.is_empty() {
            self.timers.set(self.now.monotonic, Timer::Joining);
        }
    }

    /// Looks at some subscriptions behind `done`. Returns the last one, unless there are no more.
    fn join_some(&mut self, session: SessionKey, done: Option<Id>, budget: &mut Budget) -> Option<Id> {
        let from = done.map_or(Bound::Unbounded, Bound::Excluded);
        let s = &self.sessions[session];
        let (mut looked, mut last, mut groups) = (0, None, Vec::new());
        for (id, options) in s.subscriptions.range((from, Bound::Unbounded)).take(LOOKED_AT_ONCE) {
            looked += 1;
            last = Some(id);
            if let (filter, Some(share)) = id {
                groups.push((shared_queue_name(share, filter), (options.qos, options.subscription_id)));
                if groups.len() * JOIN_WORK >= budget.left() {
                    break;
                }
            }
        }
        let last = last.filter(|_| looked == LOOKED_AT_ONCE || groups.len() * JOIN_WORK >= budget.left());
        let last = last.cloned();
        budget.spend(1 + looked / LOOKED_PER_UNIT + groups.len() * JOIN_WORK);
        for (name, granted) in groups {
            // Added without looking for an earlier one, which would cost more and more.
            if let Some(queue) = self.queue_named(&name) {
                self.push_session_consumer(session, queue, granted);
            }
        }
        last
    }
}
