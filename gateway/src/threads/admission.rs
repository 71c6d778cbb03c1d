//! Decides when a further thread helps, and when it goes back to sleep. Reads no clock and starts no thread, so tests can
//! simulate any load.

use super::trial::{Change, Trial};
use std::time::Duration;

/// A round that takes longer than this means that turns queue.
const LONG: Duration = Duration::from_millis(5);
/// After this many long rounds in a row a thread is admitted. A single long round may be one slow turn, or the system running
/// another process.
const LONG_ROUNDS: u32 = 2;
/// A round shorter than this would be short with one thread fewer, too.
const SHORT: Duration = Duration::from_millis(1);
/// All rounds must have been short for this long before a thread leaves.
const CALM: Duration = Duration::from_millis(100);

/// Decides how many threads besides the first take turns.
///
/// Two threads that share what one could carry wake each other for every few messages and fetch each other's cache
/// lines: a message costs twice as much. So the first works alone until a round, which is the time until all turns that
/// were ready at its beginning have been taken, is long, or until a [`Trial`] has shown that two get more done.
#[derive(Debug)]
pub(super) struct Admission {
    allowed: usize,
    admitted: usize,
    long_rounds: u32,
    /// When the current series of short rounds began.
    calm_since: Option<Duration>,
    trial: Trial,
}

/// Whether a round is so long that turns must be waiting.
pub(super) fn is_long(round: Duration) -> bool {
    round >= LONG
}

impl Admission {
    /// `allowed`: number of helper threads.
    pub(super) fn new(allowed: usize) -> Admission {
        Admission {
            allowed,
            admitted: 0,
            long_rounds: 0,
            calm_since: None,
            trial: Trial::default(),
        }
    }

    /// Whether there are no helpers, so that rounds need not be measured.
    pub(super) fn is_idle(&self) -> bool {
        self.allowed == 0
    }

    /// Number of threads that help now.
    pub(super) fn admitted(&self) -> usize {
        self.admitted
    }

    #[cfg(test)]
    pub(super) fn admit(&mut self, count: usize) {
        self.admitted = count;
    }

    /// Whether the next long round admits a thread. That round must be long in processor time too: if it is long because other
    /// processes ran, one more thread would wait as well and not help.
    pub(super) fn is_about_to_admit(&self) -> bool {
        self.admitted < self.allowed && self.long_rounds + 1 >= LONG_ROUNDS
    }

    /// Takes into account a round that ended at `now` and lasted `took`.
    pub(super) fn round(&mut self, now: Duration, took: Duration) {
        if !is_long(took) {
            self.long_rounds = 0;
        } else {
            self.long_rounds += 1;
            if self.long_rounds >= LONG_ROUNDS && self.admitted < self.allowed {
                self.admitted += 1;
                // Admit another only if rounds stay long with this one.
                self.long_rounds = 0;
            }
        }
        if took >= SHORT {
            self.calm_since = None;
            return;
        }
        let since = *self.calm_since.get_or_insert(now);
        if self.admitted > usize::from(self.trial.has_helper()) && now.saturating_sub(since) >= CALM {
            self.admitted -= 1;
            self.calm_since = Some(now);
        }
    }

    /// As [`Admission::round`], for the trial. `took` may contain time in which other processes ran. `bytes`: all bytes
    /// that the threads have read and written so far.
    pub(super) fn carried(&mut self, now: Duration, took: Duration, bytes: impl FnOnce() -> u64) {
        match self.trial.round(now, took, bytes, self.admitted < self.allowed) {
            Some(Change::Admit) => self.admitted += 1,
            Some(Change::Dismiss) => self.admitted = self.admitted.saturating_sub(1),
            None => {}
        }
    }
}
