//! Time as the engine and the sessions see it: handed in, never read.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on the monotonic clock, in milliseconds since some start. Never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

/// A point on the wall clock, in milliseconds since the Unix epoch.
///
/// The gateway advances it monotonically from the highest value the log has seen, because small machines have no
/// real-time clock and a step backwards must not revive what has expired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub u64);

/// Both clocks at the start of a turn. Every decision of that turn uses the same values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For time-outs and intervals.
    pub monotonic: Time,
    /// For deadlines that outlive the process.
    pub wall: Wall,
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, rhs: Duration) -> Time {
        Time(
            self.0
                .saturating_add(u64::try_from(rhs.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub for Time {
    type Output = Duration;
    /// The time from `rhs` to `self`; zero if `rhs` is later.
    fn sub(self, rhs: Time) -> Duration {
        Duration::from_millis(self.0.saturating_sub(rhs.0))
    }
}

impl Add<Duration> for Wall {
    type Output = Wall;
    fn add(self, rhs: Duration) -> Wall {
        Wall(
            self.0
                .saturating_add(u64::try_from(rhs.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub for Wall {
    type Output = Duration;
    /// The time from `rhs` to `self`; zero if `rhs` is later.
    fn sub(self, rhs: Wall) -> Duration {
        Duration::from_millis(self.0.saturating_sub(rhs.0))
    }
}
