//! Decides by trial how many threads help the first one. Reads no clock and starts no thread, so tests can simulate any
//! load.

use std::time::Duration;

/// Throughput is measured over this time.
const WINDOW: Duration = Duration::from_millis(100);
/// A trial ends after this many windows with one more thread. One window alone proves nothing: a load that just begins
/// carries more in each window than in the one before.
const WINDOWS_WITH: u32 = 2;
/// After a failed trial, the next one waits this long; after each further failure twice as long, up to `PAUSE_MAX`.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How often a thread that helps is sent to sleep for a window, to see whether throughput drops.
const CHECK: Duration = Duration::from_secs(5);
/// From this part of a window spent in rounds on, the first thread may have more to do than it can.
const SATURATED: f64 = 0.9;
/// Below it, the threads that help are not needed.
const CALM: f64 = 0.3;

/// Decides how many threads besides the first take turns.
///
/// Two threads that share what one could carry wake each other for every few messages and fetch each other's cache
/// lines: a message costs up to twice as much. So the first works alone until it is busy all the time. Whether a further
/// thread then increases the throughput depends on what the turns share, and on whether a processor is free. So it is
/// tried: the thread helps in every second window, and continues only if those windows carry clearly more bytes.
#[derive(Debug)]
pub(super) struct Admission {
    allowed: usize,
    admitted: usize,
    window: Option<Window>,
    stage: Stage,
    /// The length of the next pause.
    pause: Duration,
}

#[derive(Debug)]
struct Window {
    began: Duration,
    /// Time spent in rounds.
    busy: Duration,
    /// Bytes that all threads had read and written when it began.
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    /// The number of threads stays. A trial begins no earlier than `try_at`, if the load needs one. At `check_at`, the
    /// thread that was admitted last sleeps for a window.
    Steady { try_at: Duration, check_at: Duration },
    /// One more thread is being tried.
    Trying(Series),
    /// The thread that was admitted last sleeps for a window; with it this many bytes a second were carried.
    Checking { with: f64 },
}

/// The windows of a trial, in turn without and with the thread in question: bytes a second, summed up.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Series {
    without: f64,
    windows_without: u32,
    with: f64,
    windows_with: u32,
}

impl Series {
    /// Whether the windows with the thread carried clearly more.
    fn is_gain(&self) -> bool {
        is_more(
            self.with / f64::from(self.windows_with),
            self.without / f64::from(self.windows_without),
        )
    }
}

impl Admission {
    /// `allowed`: number of helper threads.
    pub(super) fn new(allowed: usize) -> Admission {
        Admission {
            allowed,
            admitted: 0,
            window: None,
            stage: Stage::Steady {
                try_at: Duration::ZERO,
                check_at: Duration::ZERO,
            },
            pause: PAUSE,
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

    /// Takes into account a round that ended at `now` and lasted `took`: the time until all turns that were ready at its
    /// beginning had been taken. `bytes`: all bytes that the threads have read and written so far.
    pub(super) fn round(&mut self, now: Duration, took: Duration, bytes: impl FnOnce() -> u64) {
        let Some(window) = &mut self.window else {
            self.begin(now, bytes());
            return;
        };
        window.busy += took;
        let elapsed = now.saturating_sub(window.began);
        if elapsed < WINDOW {
            return;
        }
        let (busy, before, bytes) = (window.busy.as_secs_f64() / elapsed.as_secs_f64(), window.bytes, bytes());
        self.begin(now, bytes);
        let rate = bytes.saturating_sub(before) as f64 / elapsed.as_secs_f64();
        self.stage = self.judge(now, rate, busy);
    }

    fn begin(&mut self, now: Duration, bytes: u64) {
        self.window = Some(Window {
            began: now,
            busy: Duration::ZERO,
            bytes,
        });
    }

    /// Changes the number of threads after a window. `busy`: the part of it that was spent in rounds.
    fn judge(&mut self, now: Duration, rate: f64, busy: f64) -> Stage {
        match self.stage {
            Stage::Steady { .. } if self.admitted > 0 && busy < CALM => {
                self.admitted -= 1;
                steady(now, Duration::ZERO)
            }
            Stage::Steady { check_at, .. } if self.admitted > 0 && now >= check_at => {
                self.admitted -= 1;
                Stage::Checking { with: rate }
            }
            Stage::Steady { try_at, .. } if busy >= SATURATED && self.admitted < self.allowed && now >= try_at => {
                self.admitted += 1;
                Stage::Trying(Series {
                    without: rate,
                    windows_without: 1,
                    with: 0.0,
                    windows_with: 0,
                })
            }
            Stage::Trying(series) => self.goes_on(now, series, rate, busy),
            Stage::Checking { with } if busy >= SATURATED && is_more(with, rate) => {
                self.admitted += 1;
                steady(now, Duration::ZERO)
            }
            Stage::Checking { .. } => steady(now, PAUSE),
            stage => stage,
        }
    }

    /// A window of a trial has ended.
    fn goes_on(&mut self, now: Duration, mut series: Series, rate: f64, busy: f64) -> Stage {
        let was_with = series.windows_with < series.windows_without;
        if was_with {
            series.with += rate;
            series.windows_with += 1;
            self.admitted -= 1;
        } else {
            series.without += rate;
            series.windows_without += 1;
            if busy < SATURATED {
                // The load has ended.
                return steady(now, Duration::ZERO);
            }
        }
        if !series.is_gain() {
            let pause = self.pause;
            self.pause = (pause * 2).min(PAUSE_MAX);
            return steady(now, pause);
        }
        if !was_with {
            self.admitted += 1;
            if series.windows_with == WINDOWS_WITH {
                self.pause = PAUSE;
                return steady(now, Duration::ZERO);
            }
        }
        Stage::Trying(series)
    }
}

/// The number of threads stays for now. `pause`: until the next trial.
fn steady(now: Duration, pause: Duration) -> Stage {
    Stage::Steady {
        try_at: now + pause,
        check_at: now + CHECK,
    }
}

/// Whether `rate` exceeds `than` by enough to justify a thread: two threads fetch each other's cache lines, and windows
/// vary by some per cent anyway.
fn is_more(rate: f64, than: f64) -> bool {
    rate > 1.15 * than
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A load that keeps each thread busy for `busy` per cent of the time, and the bytes per millisecond carried then, by
    /// number of helpers.
    #[derive(Clone, Copy)]
    struct Load {
        busy: [u32; 3],
        bytes: [u64; 3],
    }

    struct World {
        admission: Admission,
        now: Duration,
        bytes: u64,
        /// State of the noise.
        noise: u64,
    }

    impl World {
        fn new(helpers: usize) -> World {
            World {
                admission: Admission::new(helpers),
                now: Duration::ZERO,
                bytes: 0,
                noise: 1,
            }
        }

        /// Simulates a load. Returns the share of the time in which a thread helped.
        fn play(&mut self, load: Load, time: Duration) -> f64 {
            self.play_as(time, |helping, _| (load.busy[helping], load.bytes[helping]))
        }

        /// As `play`. `load`: busy part and bytes of a millisecond, by number of helpers and the time since the start.
        fn play_as(&mut self, time: Duration, load: impl Fn(usize, Duration) -> (u32, u64)) -> f64 {
            let (start, mut helped) = (self.now, 0);
            while self.now < start + time {
                self.now += MS;
                let helping = self.admission.admitted();
                let (busy, bytes) = load(helping, self.now - start);
                self.bytes += bytes;
                helped += usize::from(helping > 0);
                let total = self.bytes;
                self.admission.round(self.now, MS * busy / 100, || total);
            }
            helped as f64 / time.as_millis() as f64
        }

        /// A load that a helper does not increase, but that varies by up to `percent` from window to window.
        fn play_noisy(&mut self, percent: u64, time: Duration) -> f64 {
            let (mut helped, windows) = (0.0, time.as_millis() / WINDOW.as_millis());
            for _ in 0..windows {
                // Knuth's generator of 64 bits.
                self.noise = self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let bytes = 1_000 - 10 * percent + (self.noise >> 33) % (20 * percent);
                helped += self.play_as(WINDOW, |_, _| (100, bytes));
            }
            helped / windows as f64
        }
    }

    const GAINS: Load = Load {
        busy: [100, 70, 70],
        bytes: [1000, 1500, 1500],
    };
    const LOSES: Load = Load {
        busy: [100, 100, 100],
        bytes: [1000, 800, 700],
    };
    const PACED: Load = Load {
        busy: [85, 60, 60],
        bytes: [900, 900, 900],
    };
    const SMALL: Load = Load {
        busy: [10, 10, 10],
        bytes: [100, 100, 100],
    };

    #[test]
    fn a_thread_that_gets_more_done_stays() {
        let mut world = World::new(1);
        world.play(GAINS, 700 * MS);
        assert_eq!(world.admission.admitted(), 1);
        let helped = world.play(GAINS, 100_000 * MS);
        assert!(helped > 0.97, "{helped}");
    }

    #[test]
    fn a_thread_in_vain_is_tried_ever_more_rarely() {
        let mut world = World::new(1);
        let helped = world.play(LOSES, 10_000 * MS);
        assert!(helped > 0.0 && helped < 0.05, "{helped}");
        let helped = world.play(LOSES, 600_000 * MS);
        assert!(helped > 0.0 && helped < 0.003, "{helped}");
    }

    #[test]
    fn what_one_thread_carries_is_not_tried_with_two() {
        let mut world = World::new(1);
        assert_eq!(world.play(PACED, 10_000 * MS), 0.0);
        assert_eq!(world.play(SMALL, 10_000 * MS), 0.0);
    }

    #[test]
    fn a_thread_leaves_with_the_load_and_when_it_is_not_missed() {
        let mut world = World::new(1);
        world.play(GAINS, 1_000 * MS);
        world.play(SMALL, 250 * MS);
        assert_eq!(world.admission.admitted(), 0, "a small load");
        world.play(GAINS, 1_000 * MS);
        assert_eq!(world.admission.admitted(), 1);
        world.play(PACED, 6_000 * MS);
        assert_eq!(world.admission.admitted(), 0, "a load that one thread carries");
        world.play(GAINS, 2_000 * MS);
        assert_eq!(world.admission.admitted(), 1);
        world.play(LOSES, 6_000 * MS);
        assert_eq!(world.admission.admitted(), 0, "a load that two carry no better");
    }

    #[test]
    fn nothing_done_is_not_more_than_nothing() {
        let mut world = World::new(1);
        let idle = Load {
            busy: [100; 3],
            bytes: [0; 3],
        };
        world.play(idle, 1_000 * MS);
        assert_eq!(world.admission.admitted(), 0);
    }

    /// While clients connect and start, each window carries more than the one before, with a helper or without.
    #[test]
    fn a_load_that_begins_is_not_taken_for_a_gain() {
        let mut world = World::new(1);
        let ramp = |_, since: Duration| (100, 200 + since.as_millis() as u64);
        world.play_as(1_000 * MS, ramp);
        world.play(LOSES, 2_000 * MS);
        assert_eq!(world.admission.admitted(), 0);
    }

    /// On a machine with other work, windows differ by chance.
    #[test]
    fn chance_is_rarely_taken_for_a_gain_and_not_for_long() {
        let mut world = World::new(1);
        let helped = world.play_noisy(20, 3_600_000 * MS);
        assert!(helped < 0.02, "{helped}");
    }

    #[test]
    fn threads_are_admitted_and_dismissed_one_after_the_other() {
        let mut world = World::new(2);
        let third = Load {
            busy: [100, 100, 90],
            bytes: [1000, 1500, 2000],
        };
        world.play(third, 600 * MS);
        assert_eq!(world.admission.admitted(), 1);
        world.play(third, 600 * MS);
        assert_eq!(world.admission.admitted(), 2);
        world.play(SMALL, 150 * MS);
        assert_eq!(world.admission.admitted(), 1);
        world.play(SMALL, 150 * MS);
        assert_eq!(world.admission.admitted(), 0);

        let mut world = World::new(2);
        let two = Load {
            busy: [100, 100, 100],
            bytes: [1000, 1500, 1400],
        };
        world.play(two, 20_000 * MS);
        assert_eq!(world.admission.admitted(), 1, "a third carries no more");
    }

    /// A storm of TLS handshakes keeps the first thread busy for as long as it lasts.
    #[test]
    fn a_storm_of_handshakes_admits_a_thread_that_leaves_after_it() {
        let mut world = World::new(1);
        let storm = Load {
            busy: [100, 100, 100],
            bytes: [10, 19, 19],
        };
        for _ in 0..3 {
            assert_eq!(world.play(SMALL, 500 * MS), 0.0, "before the storm");
            world.play(storm, 1_000 * MS);
            assert_eq!(world.admission.admitted(), 1, "in it");
            world.play(SMALL, 250 * MS);
            assert_eq!(world.admission.admitted(), 0, "after it");
        }
    }
}
