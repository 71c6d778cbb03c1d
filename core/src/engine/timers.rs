//! What the engine does when time passes: one ordered set, looked at from the front.

use crate::slots::{QueueKey, SessionKey};
use crate::time::Time;
use std::collections::BTreeSet;

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
    /// What purged and deleted queues had is not all dropped yet, or not all their consumers are ended, or the queues of a
    /// dead letter are not all found: work that goes on in slices.
    Burial,
}

/// The engine's timers. Whoever sets one remembers when it is due, and cancels it before it sets another: what comes and
/// goes more often than its timers are due would pile them up.
#[derive(Default)]
pub(crate) struct Timers {
    due: BTreeSet<(Time, Timer)>,
    /// When [`Timer::Retained`] is due.
    retained: Option<Time>,
}

impl Timers {
    pub(crate) fn set(&mut self, at: Time, timer: Timer) {
        self.due.insert((at, timer));
    }
    pub(crate) fn cancel(&mut self, at: Time, timer: Timer) {
        self.due.remove(&(at, timer));
    }
    /// Has retained messages looked at by then.
    pub(crate) fn set_retained(&mut self, at: Time) {
        if let Some(before) = self.retained {
            if before <= at {
                return;
            }
            self.cancel(before, Timer::Retained);
        }
        self.retained = Some(at);
        self.set(at, Timer::Retained);
    }
    /// Schedules the next slice of deferred drops; any timer call runs one.
    pub(crate) fn set_burial(&mut self, now: Time) {
        if !matches!(self.due.first(), Some((_, Timer::Burial))) {
            self.set(now, Timer::Burial);
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
        if timer == Timer::Retained {
            self.retained = None;
        }
        Some(timer)
    }
    #[cfg(feature = "testing")]
    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }
}
