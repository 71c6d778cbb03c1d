//! Handles the engine's timers.

use super::Engine;
use super::budget::Budget;
use super::timers::Timer;
use crate::freed;
use crate::time::{Now, Time};

/// Work units of a timer, without the work that it causes.
const TIMER_WORK: usize = 4;

impl Engine {
    /// Does what is due: expiry, delayed wills, logging of settles. Call `drain` afterwards.
    pub fn handle_timeout(&mut self, now: Now) {
        self.begin(now);
        let mut budget = Budget::of_hold(&self.settings);
        while !budget.is_spent() {
            let Some(timer) = self.timers.pop(now.monotonic) else {
                break;
            };
            match timer {
                Timer::SessionExpiry(session) => self.expire_session(session, &mut budget),
                Timer::Will(session) => self.fire_delayed_will(session),
                Timer::Head(queue) => self.expire_head(queue),
                Timer::QueueExpiry(queue) => self.expire_queue(queue),
                Timer::Retained => self.expire_retained(),
                Timer::Deferred => {
                    self.end_orphans(&mut budget);
                    self.end_deletions(&mut budget);
                    self.enforce_limits();
                    self.go_on_with_refused();
                    self.retry_gets();
                }
                // Done below, as at the end of every turn.
                Timer::Relief => {}
                Timer::Walks => self.call_walkers(),
                Timer::Policies => self.review_later(&mut budget),
                Timer::Clock => self.go_on_with_clock(&mut budget),
                Timer::Trace(id) => self.look_at_trace(id),
                Timer::Rounds => self.go_on_with_rounds(&mut budget),
                Timer::Reported => self.release_waits(&mut budget),
                Timer::Joining => self.go_on_with_joining(&mut budget),
                Timer::Postponed => self.end_postponed(&mut budget),
            }
            budget.spend(TIMER_WORK);
        }
        if budget.is_spent() {
            freed::put_together();
        }
        self.dispatch_touched();
        self.relieve_memory();
        self.note_hold(&budget);
    }

    /// When `handle_timeout` is due next.
    pub fn poll_timeout(&self) -> Option<Time> {
        match (self.timers.next(), self.acks_due) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}
