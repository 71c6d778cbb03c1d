//! Decides by trial whether one more thread increases the throughput. Reads no clock, so tests can simulate any load.

use std::time::Duration;

/// Throughput is measured over this time.
const WINDOW: Duration = Duration::from_millis(100);
/// After a failed trial, the next one waits this long; after each further failure twice as long, up to `PAUSE_MAX`.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How often a thread that helps is sent to sleep for a window, to see whether throughput drops.
const CHECK: Duration = Duration::from_secs(5);

/// A load can keep one thread busy without long rounds: a fan-out over TLS has many turns, each of them short. Whether
/// a further thread increases the throughput depends on what the turns share, and on whether a processor is free. So it
/// is tried: the thread helps for a window, and continues only if that window carries clearly more bytes than the one
/// before.
#[derive(Debug, Default)]
pub(super) struct Trial {
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
    /// No thread was admitted by trial. The next trial begins at this time, if the load needs one.
    Without { not_before: Duration },
    /// A thread is being tried; without it this many bytes a second were carried.
    Trying { without: f64 },
    /// A thread has proved useful.
    With { check_at: Duration },
    /// The thread sleeps for a window; with it this many bytes a second were carried.
    Checking { with: f64 },
}

impl Default for Stage {
    fn default() -> Stage {
        Stage::Without {
            not_before: Duration::ZERO,
        }
    }
}

/// How the number of threads changes.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum Change {
    Admit,
    Dismiss,
}

impl Trial {
    /// Whether a thread helps that was admitted by trial.
    pub(super) fn has_helper(&self) -> bool {
        matches!(self.stage, Stage::Trying { .. } | Stage::With { .. })
    }

    /// Takes into account a round that ended at `now` and lasted `took`. `bytes`: all bytes that the threads have read
    /// and written so far. `may_admit`: a thread is free to help.
    pub(super) fn round(
        &mut self,
        now: Duration,
        took: Duration,
        bytes: impl FnOnce() -> u64,
        may_admit: bool,
    ) -> Option<Change> {
        let Some(window) = &mut self.window else {
            self.begin(now, bytes());
            return None;
        };
        window.busy += took;
        let elapsed = now.saturating_sub(window.began);
        if elapsed < WINDOW {
            return None;
        }
        let (busy, before, bytes) = (window.busy.as_secs_f64() / elapsed.as_secs_f64(), window.bytes, bytes());
        self.begin(now, bytes);
        let rate = bytes.saturating_sub(before) as f64 / elapsed.as_secs_f64();
        self.judge(now, rate, busy, may_admit)
    }

    fn begin(&mut self, now: Duration, bytes: u64) {
        self.window = Some(Window {
            began: now,
            busy: Duration::ZERO,
            bytes,
        });
    }

    /// `busy`: the part of the window that was spent in rounds.
    fn judge(&mut self, now: Duration, rate: f64, busy: f64, may_admit: bool) -> Option<Change> {
        let is_saturated = busy >= 0.9;
        let (stage, change) = match self.stage {
            Stage::Without { not_before } if is_saturated && may_admit && now >= not_before => {
                (Stage::Trying { without: rate }, Some(Change::Admit))
            }
            Stage::Trying { without } if is_more(rate, without) => {
                self.pause = PAUSE;
                (Stage::With { check_at: now + CHECK }, None)
            }
            Stage::Trying { .. } => {
                let pause = self.pause.max(PAUSE);
                self.pause = (pause * 2).min(PAUSE_MAX);
                let not_before = now + pause;
                (Stage::Without { not_before }, Some(Change::Dismiss))
            }
            // The load has ended.
            Stage::With { .. } if busy < 0.3 => (Stage::Without { not_before: now }, Some(Change::Dismiss)),
            Stage::With { check_at } if now >= check_at => (Stage::Checking { with: rate }, Some(Change::Dismiss)),
            Stage::Checking { with } if is_saturated && may_admit && is_more(with, rate) => {
                (Stage::With { check_at: now + CHECK }, Some(Change::Admit))
            }
            Stage::Checking { .. } => (
                Stage::Without {
                    not_before: now + PAUSE,
                },
                None,
            ),
            stage => (stage, None),
        };
        self.stage = stage;
        change
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

    /// A load that keeps one thread, or each of two, busy for `busy` per cent of the time, and the bytes per
    /// millisecond carried then.
    #[derive(Clone, Copy)]
    struct Load {
        busy: [u32; 2],
        bytes: [u64; 2],
    }

    #[derive(Default)]
    struct World {
        trial: Trial,
        now: Duration,
        bytes: u64,
        helping: usize,
    }

    impl World {
        /// Simulates a load. Returns the share of the time in which a thread helped.
        fn play(&mut self, load: Load, time: Duration) -> f64 {
            let end = self.now + time;
            let mut helped = 0;
            while self.now < end {
                self.now += MS;
                self.bytes += load.bytes[self.helping];
                helped += self.helping;
                let (bytes, took) = (self.bytes, MS * load.busy[self.helping] / 100);
                match self.trial.round(self.now, took, || bytes, self.helping == 0) {
                    Some(Change::Admit) => self.helping += 1,
                    Some(Change::Dismiss) => self.helping -= 1,
                    None => {}
                }
            }
            helped as f64 / time.as_millis() as f64
        }
    }

    const GAINS: Load = Load {
        busy: [100, 70],
        bytes: [1000, 1500],
    };
    const LOSES: Load = Load {
        busy: [100, 100],
        bytes: [1000, 800],
    };
    const PACED: Load = Load {
        busy: [80, 60],
        bytes: [900, 900],
    };
    const SMALL: Load = Load {
        busy: [10, 10],
        bytes: [100, 100],
    };

    #[test]
    fn a_thread_that_gets_more_done_stays() {
        let mut world = World::default();
        world.play(GAINS, 300 * MS);
        assert_eq!(world.helping, 1);
        let helped = world.play(GAINS, 100_000 * MS);
        assert!(helped > 0.97, "{helped}");
    }

    #[test]
    fn a_thread_in_vain_is_tried_ever_more_rarely() {
        let mut world = World::default();
        let helped = world.play(LOSES, 10_000 * MS);
        assert!(helped > 0.0 && helped < 0.05, "{helped}");
        let helped = world.play(LOSES, 600_000 * MS);
        assert!(helped > 0.0 && helped < 0.003, "{helped}");
    }

    #[test]
    fn what_one_thread_carries_is_not_tried_with_two() {
        let mut world = World::default();
        assert_eq!(world.play(PACED, 10_000 * MS), 0.0);
        assert_eq!(world.play(SMALL, 10_000 * MS), 0.0);
    }

    #[test]
    fn a_thread_leaves_with_the_load_and_when_it_is_not_missed() {
        let mut world = World::default();
        world.play(GAINS, 1_000 * MS);
        world.play(SMALL, 250 * MS);
        assert_eq!(world.helping, 0, "a small load");
        world.play(GAINS, 1_000 * MS);
        assert_eq!(world.helping, 1);
        world.play(PACED, 6_000 * MS);
        assert_eq!(world.helping, 0, "a load that one thread carries");
        world.play(GAINS, 2_000 * MS);
        world.play(LOSES, 6_000 * MS);
        assert_eq!(world.helping, 0, "a load that two carry no better");
    }

    #[test]
    fn nothing_done_is_not_more_than_nothing() {
        let mut world = World::default();
        let idle = Load {
            busy: [100, 100],
            bytes: [0, 0],
        };
        world.play(idle, 1_000 * MS);
        assert_eq!(world.helping, 0);
    }
}
