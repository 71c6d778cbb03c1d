//! Latencies, measured from when a message was *scheduled* to leave.

use hdrhistogram::Histogram;

/// Records latencies. Equal ones in a row, as a batch brings them, cost one look-up.
#[derive(Debug)]
pub(crate) struct Recorder {
    histogram: Histogram<u64>,
    run: (u64, u64),
}

/// The latencies of a report, in microseconds.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

/// When each message of a publisher is scheduled to leave.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// As soon as possible.
    Free,
    /// At a fixed rate from `start_ns` on, independent of earlier messages. A message that leaves late keeps its
    /// scheduled time, so a stall shows in every message it delayed and not only in one (no coordinated omission).
    Every { start_ns: u64, per_second: f64 },
}

/// Longer than any run.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

impl Recorder {
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are constants in order");
        Self { histogram, run: (0, 0) }
    }

    #[inline]
    pub(crate) fn record(&mut self, ns: u64) {
        if self.run.0 == ns {
            self.run.1 += 1;
        } else {
            self.flush();
            self.run = (ns, 1);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.histogram.is_empty() && self.run.1 == 0
    }

    /// Adds another recorder's latencies.
    pub(crate) fn merge(&mut self, other: &mut Self) {
        self.flush();
        other.flush();
        self.histogram
            .add(&other.histogram)
            .expect("all recorders have the same bounds");
    }

    pub(crate) fn percentiles(&mut self) -> Percentiles {
        self.flush();
        let at = |quantile| self.histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Percentiles {
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.histogram.max() as f64 / 1000.0,
        }
    }

    fn flush(&mut self) {
        let (ns, count) = std::mem::take(&mut self.run);
        if count > 0 {
            self.histogram.saturating_record_n(ns, count);
        }
    }
}

impl Pace {
    /// When message `sequence` is scheduled to leave, if the time is `now_ns`.
    #[inline]
    pub(crate) fn intended_ns(&self, sequence: u64, now_ns: u64) -> u64 {
        match self {
            Self::Free => now_ns,
            Self::Every { start_ns, per_second } => start_ns + (sequence as f64 * 1e9 / per_second) as u64,
        }
    }

    /// How many messages should have left by `now_ns`.
    #[inline]
    pub(crate) fn due(&self, now_ns: u64) -> u64 {
        match self {
            Self::Free => u64::MAX,
            Self::Every { start_ns, .. } if now_ns < *start_ns => 0,
            Self::Every { start_ns, per_second } => ((now_ns - start_ns) as f64 * per_second / 1e9) as u64 + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A publisher that sends every millisecond to a broker that answers in 0.1 ms, and that once stalls for 500 ms.
    fn one_stall(stamp: impl Fn(Pace, u64, u64) -> u64) -> Percentiles {
        let pace = Pace::Every {
            start_ns: 0,
            per_second: 1000.0,
        };
        let (mut recorder, mut now, mut sequence) = (Recorder::new(), 0, 0);
        while sequence < 2000 {
            while sequence < pace.due(now) && sequence < 2000 {
                let stamped = stamp(pace, sequence, now);
                sequence += 1;
                if sequence == 1000 {
                    now += 500 * MS;
                }
                recorder.record(now + MS / 10 - stamped);
            }
            now += MS / 10;
        }
        recorder.percentiles()
    }

    #[test]
    fn a_stall_counts_for_every_message_it_held_up() {
        let honest = one_stall(|pace, sequence, now| pace.intended_ns(sequence, now));
        // A quarter of all messages was scheduled during the stall, evenly spread over it.
        assert!((honest.p50_us - 100.0).abs() < 5.0, "{honest:?}");
        assert!((honest.p90_us - 300_000.0).abs() < 2_000.0, "{honest:?}");
        assert!((honest.p99_us - 480_000.0).abs() < 2_000.0, "{honest:?}");
        // Stamped when they left, all but one look fast: coordinated omission hides the stall.
        let omitting = one_stall(|_, _, now| now);
        assert!(omitting.p999_us < 110.0 && omitting.max_us > 499_000.0, "{omitting:?}");
    }

    #[test]
    fn the_schedule_keeps_its_rate_over_a_long_run() {
        let pace = Pace::Every {
            start_ns: 5,
            per_second: 3000.0,
        };
        assert_eq!((pace.due(4), pace.due(5)), (0, 1));
        assert_eq!(pace.intended_ns(3_000_000, 0), 5 + 1000 * 1_000_000_000);
        assert_eq!(pace.due(5 + 1000 * 1_000_000_000), 3_000_001);
    }

    #[test]
    fn merged_recorders_count_everything_once() {
        let (mut one, mut two) = (Recorder::new(), Recorder::new());
        for _ in 0..99 {
            one.record(1000);
        }
        two.record(1_000_000);
        one.merge(&mut two);
        let seen = one.percentiles();
        assert!(
            (seen.p50_us - 1.0).abs() < 0.01 && (seen.max_us - 1000.0).abs() < 1.0,
            "{seen:?}"
        );
        assert_eq!(one.histogram.len(), 100);
    }
}
