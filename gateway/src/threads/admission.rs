//! When a further thread helps, and when it goes to sleep again. No clock and no threads here, so that tests can play
//! any load through it.

use std::time::Duration;

/// A round that takes longer than this means that turns queue.
const LONG: Duration = Duration::from_millis(5);
/// So many long rounds running, and a thread is admitted. One alone may be a single slow turn, or the system running
/// something else.
const LONG_ROUNDS: u32 = 2;
/// A round below this could do with one thread less.
const SHORT: Duration = Duration::from_millis(1);
/// For so long all rounds must have been short before a thread leaves.
const CALM: Duration = Duration::from_millis(100);

/// Decides how many threads beside the first take turns.
///
/// Two threads that share what one could carry wake each other for every few messages and fetch each other's cache
/// lines: a message costs twice as much. So the first works alone until a round, which is the time until all turns that
/// were ready at its beginning have been taken, is long.
#[derive(Debug)]
pub(super) struct Admission {
    allowed: usize,
    admitted: usize,
    long_rounds: u32,
    /// Since when all rounds were short.
    calm_since: Option<Duration>,
}

/// Whether turns queue where a round takes so long.
pub(super) fn is_long(round: Duration) -> bool {
    round >= LONG
}

impl Admission {
    /// `allowed`: helpers there are.
    pub(super) fn new(allowed: usize) -> Admission {
        Admission {
            allowed,
            admitted: 0,
            long_rounds: 0,
            calm_since: None,
        }
    }

    /// Nothing could change anything: there is nobody to admit.
    pub(super) fn is_idle(&self) -> bool {
        self.allowed == 0
    }

    /// Threads that help now.
    pub(super) fn admitted(&self) -> usize {
        self.admitted
    }

    #[cfg(test)]
    pub(super) fn admit(&mut self, count: usize) {
        self.admitted = count;
    }

    /// The next long round would admit a thread. It must be long in processor time too: where the system runs others in
    /// between, another thread of ours would only wait beside us.
    pub(super) fn is_about_to_admit(&self) -> bool {
        self.admitted < self.allowed && self.long_rounds + 1 >= LONG_ROUNDS
    }

    /// A round has ended at `now` and took `took`.
    pub(super) fn round(&mut self, now: Duration, took: Duration) {
        if !is_long(took) {
            self.long_rounds = 0;
        } else {
            self.long_rounds += 1;
            if self.long_rounds >= LONG_ROUNDS && self.admitted < self.allowed {
                self.admitted += 1;
                // The next thread only if it is long with this one too.
                self.long_rounds = 0;
            }
        }
        if took >= SHORT {
            self.calm_since = None;
            return;
        }
        let since = *self.calm_since.get_or_insert(now);
        if self.admitted > 0 && now.saturating_sub(since) >= CALM {
            self.admitted -= 1;
            self.calm_since = Some(now);
        }
    }
}
