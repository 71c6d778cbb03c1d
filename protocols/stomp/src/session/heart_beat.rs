//! Heart-beats: sends a line feed after silence of ours, and detects a silent peer (STOMP 1.2 "Heart-beating").

use gatepost_core::time::Time;
use std::time::Duration;

/// Minimum extra time for a late heart-beat.
const GRACE_MIN: Duration = Duration::from_millis(500);

/// Timers of both directions.
#[derive(Debug, Default)]
pub(super) struct HeartBeat {
    /// The peer expects something this often. Heart-beats are sent twice as often, so that a slow turn does no harm.
    send_every: Option<Duration>,
    /// The peer counts as gone after this much silence: twice the interval it promised.
    patience: Option<Duration>,
    last_sent: Time,
    last_received: Time,
    /// The driver does not read, so silence of the peer proves nothing.
    suspended: bool,
}

impl HeartBeat {
    /// Starts with the negotiated intervals.
    pub(super) fn start(&mut self, now: Time, send: Option<Duration>, receive: Option<Duration>) {
        self.send_every = send.map(|interval| interval / 2);
        self.patience = receive.map(|interval| interval.saturating_mul(2).max(interval.saturating_add(GRACE_MIN)));
        self.last_sent = now;
        self.last_received = now;
    }

    /// Stops both timers.
    pub(super) fn stop(&mut self) {
        self.send_every = None;
        self.patience = None;
    }

    /// Something was written.
    pub(super) fn sent(&mut self, now: Time) {
        self.last_sent = now;
    }

    /// Something was read, be it part of a frame.
    pub(super) fn received(&mut self, now: Time) {
        self.last_received = now;
    }

    /// Reading stops or resumes.
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

    /// Whether a heart-beat is due.
    pub(super) fn is_due(&self, now: Time) -> bool {
        self.write_deadline().is_some_and(|deadline| now >= deadline)
    }

    /// When either timer fires next.
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
