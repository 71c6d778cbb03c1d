//! The only module that reads clocks. Every turn gets its `Now` from here.
//!
//! Small machines have no real-time clock. They boot in 1970 or at the time of their last shutdown, and their clock jumps when
//! NTP answers. So this wall clock starts at the system's time or the highest time in the log, whichever is later. It advances
//! with the monotonic clock, follows steps forwards, and never goes back, so a deadline that has passed stays passed.

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

    /// The current time.
    pub(crate) fn now(&self) -> Now {
        let elapsed = self.elapsed_ms();
        Now {
            monotonic: Time(elapsed),
            wall: Wall(self.wall_at_start.load(Ordering::Relaxed).saturating_add(elapsed)),
        }
    }

    /// Advances the wall clock to `wall`, if it is behind.
    pub(crate) fn advance_wall(&self, wall: Wall) {
        self.wall_at_start
            .fetch_max(wall.0.saturating_sub(self.elapsed_ms()), Ordering::Relaxed);
    }

    /// Follows a step forwards of the system's clock. Called about once a second: reading it in each turn would
    /// double the cost of `now`.
    pub(crate) fn follow_system(&self) {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.advance_wall(Wall(u64::try_from(system.as_millis()).unwrap_or(u64::MAX)));
    }

    /// The moment of tokio's clock at which `at` has come.
    pub(crate) fn instant(&self, at: Time) -> tokio::time::Instant {
        // One millisecond later than asked: `now` rounds down to milliseconds, so a wake at `at` could read `at - 1`.
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
