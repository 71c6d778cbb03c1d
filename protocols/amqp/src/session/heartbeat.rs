//! Heartbeats (AMQP 0-9-1 4.2.7): when to send one, and when a silent peer counts as gone.

use gatepost_core::time::Time;
use std::time::Duration;

/// Timers of both directions.
#[derive(Debug)]
pub(super) struct Heartbeat {
    interval: Option<Duration>,
    /// When octets last came in, of whatever kind.
    received: Time,
    /// When octets last went out.
    sent: Time,
    /// The driver does not read, so silence of the peer proves nothing.
    paused: bool,
    /// The session does not parse, so silence of the peer proves nothing.
    waiting: bool,
}

impl Heartbeat {
    /// Without heartbeats, until an interval is negotiated.
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

    /// The client's value counts, even if it is higher than ours. Zero turns heartbeats off in both directions.
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

    /// While the session waits for an answer of the engine it parses nothing, heartbeats included.
    pub(super) fn set_waiting(&mut self, now: Time, waiting: bool) {
        if waiting != self.waiting {
            self.waiting = waiting;
            self.received = now;
        }
    }

    /// Half an interval without output has passed: a heartbeat is due.
    pub(super) fn is_due(&self, now: Time) -> bool {
        self.send_at().is_some_and(|at| now >= at)
    }

    /// The peer has been silent for too long.
    pub(super) fn is_dead(&self, now: Time) -> bool {
        self.dead_at().is_some_and(|at| now >= at)
    }

    /// When either timer fires next.
    pub(super) fn next(&self) -> Option<Time> {
        let send = self.send_at()?;
        Some(self.dead_at().map_or(send, |dead| dead.min(send)))
    }

    fn send_at(&self) -> Option<Time> {
        self.interval.map(|interval| self.sent + interval / 2)
    }

    /// The peer may miss two intervals. Half an interval is added for delays of the network; RabbitMQ also decides
    /// between two and three.
    fn dead_at(&self) -> Option<Time> {
        self.interval
            .filter(|_| !self.paused && !self.waiting)
            .map(|interval| self.received + interval * 5 / 2)
    }
}
