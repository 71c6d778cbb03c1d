//! Heart-beats: a line feed when we have been silent, an end when the peer has been (STOMP 1.2 "Heart-beating").

use gatepost_core::time::Time;
use std::time::Duration;

/// The least grace a late heart-beat gets.
const GRACE_MIN: Duration = Duration::from_millis(500);

/// Both directions' timers.
#[derive(Debug, Default)]
pub(super) struct HeartBeat {
    /// The peer is told to expect something this often; it gets it twice as often, so that a slow turn is forgiven.
    send_every: Option<Duration>,
    /// The peer is gone when silent for this long: twice what it promised.
    patience: Option<Duration>,
    last_sent: Time,
    last_received: Time,
    /// We are not reading: the peer's silence is ours.
    suspended: bool,
}

impl HeartBeat {
    /// Begins with the intervals agreed on.
    pub(super) fn start(&mut self, now: Time, send: Option<Duration>, receive: Option<Duration>) {
        self.send_every = send.map(|interval| interval / 2);
        self.patience = receive.map(|interval| interval.saturating_mul(2).max(interval.saturating_add(GRACE_MIN)));
        self.last_sent = now;
        self.last_received = now;
    }

    /// No more of either.
    pub(super) fn stop(&mut self) {
        self.send_every = None;
        self.patience = None;
    }

    /// Something was written.
    pub(super) fn sent(&mut self, now: Time) {
        self.last_sent = now;
    }

    /// Something was read; partial frames count.
    pub(super) fn received(&mut self, now: Time) {
        self.last_received = now;
    }

    /// Reading stops or goes on.
    pub(super) fn suspend(&mut self, now: Time, suspended: bool) {
        if self.suspended && !suspended {
            self.last_received = now;
        }
        self.suspended = suspended;
    }

    /// Whether the peer has been silent for too long.
    pub(super) fn is_lost(&self, now: Time) -> bool {
        self.read_deadline().is_some_and(|deadline| now >= deadline)
    }

    /// Whether we have been silent for long enough.
    pub(super) fn is_due(&self, now: Time) -> bool {
        self.write_deadline().is_some_and(|deadline| now >= deadline)
    }

    /// When one of them will be.
    pub(super) fn next(&self) -> Option<Time> {
        [self.read_deadline(), self.write_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    fn read_deadline(&self) -> Option<Time> {
        self.patience
            .filter(|_| !self.suspended)
            .map(|patience| self.last_received + patience)
    }

    fn write_deadline(&self) -> Option<Time> {
        self.send_every.map(|interval| self.last_sent + interval)
    }
}
