//! The engine's timers: one ordered set.

use crate::slots::{QueueKey, SessionKey};
use crate::time::Time;
use std::collections::BTreeSet;
use std::time::Duration;

/// What is due at a time. A timer whose object was removed or changed does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// An MQTT session whose client is away may end.
    SessionExpiry(SessionKey),
    /// A delayed will is due.
    Will(SessionKey),
    /// A queue's first message may have expired.
    Head(QueueKey),
    /// An unused queue may have expired.
    QueueExpiry(QueueKey),
    /// Retained messages may have expired.
    Retained,
    /// Postponed dead-lettering is due.
    Postponed,
    /// Walks wait for memory that may be available now.
    Walks,
    /// The clock has jumped ahead, so that what depends on it is due sooner.
    Clock,
    /// Links or queues are still to be told something.
    Rounds,
    /// More waits for what the log has reported than one hold had time for.
    Reported,
    /// Sessions are still to consume their groups' queues.
    Joining,
    /// Policies have changed: the queues and exchanges they apply to are to be reviewed.
    Policies,
    /// That trace may have ended.
    Trace(u64),
    /// Publishers wait for memory: continue to evict bodies.
    Relief,
    /// Continue deferred work: entries of purged and deleted queues to be dropped, consumers of deleted queues to be
    /// cancelled, queues of dead letters to be found.
    Deferred,
}

/// The engine's timers. Code that sets one remembers its time, and cancels it before it sets another. Otherwise objects
/// that change more often than their timers fire would make the set grow without limit.
#[derive(Default)]
pub(crate) struct Timers {
    due: BTreeSet<(Time, Timer)>,
    /// When [`Timer::Retained`] is due.
    retained: Option<Time>,
    /// When [`Timer::Relief`] is due.
    relief: Option<Time>,
}

/// When deferred work continues if no other turn comes earlier.
pub(crate) const SOON: Duration = Duration::from_millis(1);

impl Timers {
    pub(crate) fn set(&mut self, at: Time, timer: Timer) {
        self.due.insert((at, timer));
    }
    pub(crate) fn cancel(&mut self, at: Time, timer: Timer) {
        self.due.remove(&(at, timer));
    }
    /// Makes expired retained messages be looked for by this time.
    pub(crate) fn set_retained(&mut self, at: Time) {
        self.retained = Some(self.set_by(at, Timer::Retained, self.retained));
    }
    /// Makes eviction continue by this time.
    pub(crate) fn set_relief(&mut self, at: Time) {
        self.relief = Some(self.set_by(at, Timer::Relief, self.relief));
    }
    /// Sets a timer that exists once, unless it is due earlier. Returns when it is due.
    fn set_by(&mut self, at: Time, timer: Timer, before: Option<Time>) -> Time {
        if let Some(before) = before {
            if before <= at {
                return before;
            }
            self.cancel(before, timer);
        }
        self.set(at, timer);
        at
    }
    /// Schedules the next slice of deferred drops; any timer call runs one.
    pub(crate) fn set_deferred(&mut self, now: Time) {
        if !matches!(self.due.first(), Some((_, Timer::Deferred))) {
            self.set(now, Timer::Deferred);
        }
    }
    pub(super) fn next(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }
    pub(super) fn pop(&mut self, now: Time) -> Option<Timer> {
        let &(at, timer) = self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        match timer {
            Timer::Retained => self.retained = None,
            Timer::Relief => self.relief = None,
            _ => {}
        }
        Some(timer)
    }
    #[cfg(feature = "testing")]
    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }
}
