//! What the engine does when time passes: one ordered set, looked at from the front.

use crate::slots::{QueueKey, SessionKey};
use crate::time::Time;
use std::collections::BTreeSet;
use std::time::Duration;

/// Things that are due at a time. A timer whose object is gone or has changed does nothing.
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
    /// Walks wait for memory that may be there.
    Walks,
    /// The clock has jumped ahead: what is due by the wall clock is due sooner.
    Clock,
    /// Policies have changed: queues and exchanges that they are for are looked at.
    Policies,
    /// The time of that trace may be over.
    Trace(u64),
    /// Publishers wait for memory: more bodies are to leave it.
    Relief,
    /// What purged and deleted queues had is not all dropped yet, or not all their consumers are ended, or the queues of a
    /// dead letter are not all found: work that goes on in slices.
    Deferred,
}

/// The engine's timers. Whoever sets one remembers when it is due, and cancels it before it sets another: what comes and
/// goes more often than its timers are due would pile them up.
#[derive(Default)]
pub(crate) struct Timers {
    due: BTreeSet<(Time, Timer)>,
    /// When [`Timer::Retained`] is due.
    retained: Option<Time>,
    /// When [`Timer::Relief`] is due.
    relief: Option<Time>,
}

/// When work goes on for which a turn had no time, unless there is another turn before.
pub(crate) const SOON: Duration = Duration::from_millis(1);

impl Timers {
    pub(crate) fn set(&mut self, at: Time, timer: Timer) {
        self.due.insert((at, timer));
    }
    pub(crate) fn cancel(&mut self, at: Time, timer: Timer) {
        self.due.remove(&(at, timer));
    }
    /// Has retained messages looked at by then.
    pub(crate) fn set_retained(&mut self, at: Time) {
        self.retained = Some(self.set_by(at, Timer::Retained, self.retained));
    }
    /// Has bodies leave memory by then.
    pub(crate) fn set_relief(&mut self, at: Time) {
        self.relief = Some(self.set_by(at, Timer::Relief, self.relief));
    }
    /// Sets a timer of which there is one, unless it is due sooner. Returns when it is due.
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
