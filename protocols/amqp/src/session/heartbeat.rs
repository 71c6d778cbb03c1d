//! Heartbeats (AMQP 0-9-1 4.2.7): when to send one, and when the peer has been silent for too long.

use gatepost_core::time::Time;
use std::time::Duration;

/// Both directions' silence.
#[derive(Debug)]
pub(super) struct Heartbeat {
    interval: Option<Duration>,
    /// When octets last came in, whatever they were.
    received: Time,
    /// When octets last went out.
    sent: Time,
    /// We do not read, so the peer's silence is our doing.
    paused: bool,
    /// The session reads nothing itself, which comes to the same.
    waiting: bool,
}

impl Heartbeat {
    /// None until an interval is agreed on.
    pub(super) fn new(now: Time) -> Heartbeat {
        Heartbeat {
            interval: None,
            received: now,
            sent: now,
            paused: false,
            waiting: false,
        }
    }

    pub(super) fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// The client's value counts as it is; zero turns heartbeats off in both directions.
    pub(super) fn agree(&mut self, now: Time, seconds: u16) {
        self.interval = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        self.received = now;
    }

    pub(super) fn received(&mut self, now: Time) {
        self.received = now;
    }

    pub(super) fn sent(&mut self, now: Time) {
        self.sent = now;
    }

    pub(super) fn set_paused(&mut self, now: Time, paused: bool) {
        self.paused = paused;
        self.received = now;
    }

    /// Nothing of the peer's is looked at while the session waits for an answer of the engine's.
    pub(super) fn set_waiting(&mut self, now: Time, waiting: bool) {
        if waiting != self.waiting {
            self.waiting = waiting;
            self.received = now;
        }
    }

    /// Half an interval without output: time for a heartbeat.
    pub(super) fn is_due(&self, now: Time) -> bool {
        self.send_at().is_some_and(|at| now >= at)
    }

    /// The peer is taken for gone.
    pub(super) fn is_dead(&self, now: Time) -> bool {
        self.dead_at().is_some_and(|at| now >= at)
    }

    /// When either is next to be looked at.
    pub(super) fn next(&self) -> Option<Time> {
        let send = self.send_at()?;
        Some(self.dead_at().map_or(send, |dead| dead.min(send)))
    }

    fn send_at(&self) -> Option<Time> {
        self.interval.map(|interval| self.sent + interval / 2)
    }

    /// Two intervals may be missed. The half on top is for networks; RabbitMQ too notices between two and three.
    fn dead_at(&self) -> Option<Time> {
        self.interval
            .filter(|_| !self.paused && !self.waiting)
            .map(|interval| self.received + interval * 5 / 2)
    }
}
