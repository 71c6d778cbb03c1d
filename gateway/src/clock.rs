//! The only reader of clocks: hands every turn its `Now`.
//!
//! Small machines have no real-time clock: they boot in 1970 or at their last shutdown, and jump when the network
//! answers. So the wall clock here starts at the larger of the system's and the highest the log has seen, runs with the
//! monotonic one, follows a step forwards, and never goes back: a deadline that passed stays passed.

use gatepost_core::time::{Now, Time, Wall};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The process's clock.
#[derive(Debug)]
pub(crate) struct Clock {
    started: Instant,
    /// The wall clock at `started`, in milliseconds since the epoch. Only grows.
    wall_at_start: AtomicU64,
}

impl Clock {
    /// A clock that starts now. Call [`Clock::advance_wall`] with what the log remembers before it is used.
    pub(crate) fn start() -> Clock {
        let clock = Clock {
            started: Instant::now(),
            wall_at_start: AtomicU64::new(0),
        };
        clock.follow_system();
        clock
    }

    /// The time.
    pub(crate) fn now(&self) -> Now {
        let elapsed = self.elapsed_ms();
        Now {
            monotonic: Time(elapsed),
            wall: Wall(self.wall_at_start.load(Ordering::Relaxed).saturating_add(elapsed)),
        }
    }

    /// The wall clock is at least `wall`.
    pub(crate) fn advance_wall(&self, wall: Wall) {
        self.wall_at_start
            .fetch_max(wall.0.saturating_sub(self.elapsed_ms()), Ordering::Relaxed);
    }

    /// Takes over a step forwards of the system's clock. Called every second or so: reading it for each turn would
    /// double the price of a turn's time.
    pub(crate) fn follow_system(&self) {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.advance_wall(Wall(u64::try_from(system.as_millis()).unwrap_or(u64::MAX)));
    }

    /// The moment of tokio's clock at which `at` has come.
    pub(crate) fn instant(&self, at: Time) -> tokio::time::Instant {
        // One millisecond more than asked: time is cut to milliseconds, so that waking at `at` might read `at - 1`.
        let after = std::time::Duration::from_millis(at.0.min(FAR_MS).saturating_add(1));
        tokio::time::Instant::from_std(self.started + after)
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A hundred years.
const FAR_MS: u64 = 100 * 365 * 86_400_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_never_falls_behind_what_the_log_remembers() {
        let clock = Clock::start();
        let future = Wall(clock.now().wall.0 + 86_400_000);
        clock.advance_wall(future);
        assert!(clock.now().wall >= future);
        clock.advance_wall(Wall(1));
        clock.follow_system();
        assert!(clock.now().wall >= future);
    }
}
