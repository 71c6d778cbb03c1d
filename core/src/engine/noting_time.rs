//! Before a logged message expires, a time after its deadline is logged: see `noted_time.rs`.

use super::Engine;
use super::budget::Budget;
use super::log_waits::Waiter;
use super::timers::Timer;
use crate::binding::QueueSlot;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::queue::ready::Head;
use crate::slots::{QueueKey, SessionKey};
use crate::store::Record;
use crate::time::{Now, Wall};

impl Engine {
    /// Whether the log has a time after `deadline`. If not, such a time is staged.
    fn is_past_for_good(&mut self, deadline: Wall) -> bool {
        if deadline <= self.time.noted {
            return true;
        }
        if self.time.underway.is_none_or(|wall| wall < deadline) {
            self.staging.record(Record::Time);
            self.time.underway = Some(self.now.wall);
            self.waits.for_durable(self.staging.wait(), Waiter::Time(self.now.wall));
        }
        false
    }

    /// Whether the queue's head, which has expired, may be dropped now. If not, the queue is dispatched again when it
    /// may.
    pub(crate) fn may_expire(&mut self, queue: QueueKey) -> bool {
        let Some(q) = self.queues.get_mut(queue) else {
            return true;
        };
        let Head::Entry(Entry {
            flags,
            body: Body::Memory(message),
            ..
        }) = q.head()
        else {
            return true;
        };
        // This only matters for a message that a restart would restore: one that is logged, and not only spilled.
        let is_kept = flags.has(EntryFlags::LOGGED) && !flags.has(EntryFlags::SPILLED);
        if !is_kept || !message.log_state().is_taken() {
            return true;
        }
        let Some(deadline) = q.deadline(message) else {
            return true;
        };
        if self.is_past_for_good(deadline) {
            return true;
        }
        self.time.queues.insert(queue);
        false
    }

    /// A durable session ends. It ends at once; the time is logged together with the records of its end.
    pub(crate) fn note_end(&mut self, session: SessionKey, due: Wall) {
        if self.sessions.get(session).is_some_and(|s| s.kept()) {
            self.is_past_for_good(due);
        }
    }

    /// The same for a retained message.
    pub(crate) fn may_expire_retained(&mut self, deadline: Wall) -> bool {
        if self.is_past_for_good(deadline) {
            return true;
        }
        self.time.retained = true;
        false
    }

    /// The wall clock has jumped ahead. Timers run by the monotonic clock and were set before, so everything due by the
    /// wall clock is checked now, some in each hold.
    pub fn follow_clock(&mut self, now: Now) {
        self.begin(now);
        self.time.looking_again = Some((0, 0));
        if let Some(next) = self.retained.next_expiry() {
            self.timers.set_retained(now.monotonic + (next - now.wall));
        }
        let mut budget = Budget::of_hold(&self.settings);
        self.go_on_with_clock(&mut budget);
        self.dispatch_touched();
        self.relieve_memory();
    }

    /// Continues [`Engine::follow_clock`].
    pub(crate) fn go_on_with_clock(&mut self, budget: &mut Budget) {
        let Some((mut queue, mut session)) = self.time.looking_again.take() else {
            return;
        };
        while !budget.is_spent() {
            budget.spend(1);
            if queue < self.queues.slots_end() {
                let key = self.queues.at(QueueSlot(queue));
                queue += 1;
                if let Some(key) = key.filter(|key| self.queues[*key].expiry_check.is_some()) {
                    self.queues[key].watched = None;
                    self.watch_head(key);
                }
            } else if session < self.sessions.slots_end() {
                let key = self.sessions.key_at(session);
                session += 1;
                if let Some(key) = key.filter(|key| self.sessions[*key].link.is_none()) {
                    self.watch_session_expiry(key);
                }
            } else {
                return;
            }
        }
        self.time.looking_again = Some((queue, session));
        self.timers.set(self.now.monotonic, Timer::Clock);
    }

    /// The log has that time: everything that waited for it continues, if it is late enough.
    pub(crate) fn note_time(&mut self, wall: Wall) {
        self.time.noted = self.time.noted.max(wall);
        self.time.underway = self.time.underway.filter(|later| *later > wall);
        let queues = std::mem::take(&mut self.time.queues);
        self.touch_some(queues);
        if std::mem::take(&mut self.time.retained) {
            self.timers.set_retained(self.now.monotonic);
        }
        self.dispatch_touched();
        self.retry_gets();
    }
}
