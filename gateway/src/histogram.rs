//! Histograms with fixed buckets and constant size. Recording is a few atomic additions. (The histograms of the usual exporter
//! crates keep raw samples until a scrape.)

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A histogram of durations over [`BOUNDS`].
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// Counts by bucket, not cumulative; the last is for durations over all bounds.
    counts: [AtomicU64; BOUNDS.len() + 1],
    sum_ns: AtomicU64,
}

/// Upper bounds in nanoseconds, and as Prometheus shows them in seconds.
const BOUNDS: [(u64, &str); 12] = [
    (1_000, "1e-06"),
    (4_000, "4e-06"),
    (16_000, "1.6e-05"),
    (64_000, "6.4e-05"),
    (250_000, "0.00025"),
    (1_000_000, "0.001"),
    (4_000_000, "0.004"),
    (16_000_000, "0.016"),
    (64_000_000, "0.064"),
    (250_000_000, "0.25"),
    (1_000_000_000, "1.0"),
    (4_000_000_000, "4.0"),
];

impl Histogram {
    /// Counts one duration.
    pub(crate) fn record(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS
            .iter()
            .position(|(bound, _)| ns <= *bound)
            .unwrap_or(BOUNDS.len());
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// The counts and the sum so far.
    pub(crate) fn sums(&self) -> Sums {
        Sums {
            counts: std::array::from_fn(|n| self.counts.get(n).map_or(0, |count| count.load(Ordering::Relaxed))),
            ns: self.sum_ns.load(Ordering::Relaxed),
        }
    }
}

/// Counts and sum of one histogram, or of several added up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    counts: [u64; BOUNDS.len() + 1],
    ns: u64,
}

impl Sums {
    /// Upper bounds as Prometheus shows them, and counts, not cumulative. The last bound is `+Inf`.
    pub(crate) fn buckets(self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = BOUNDS.iter().map(|(_, le)| *le).chain(["+Inf"]);
        names.zip(self.counts)
    }

    /// The sum of all durations.
    pub(crate) fn seconds(self) -> f64 {
        self.ns as f64 / 1e9
    }
}

impl std::iter::Sum for Sums {
    fn sum<I: Iterator<Item = Sums>>(all: I) -> Sums {
        all.fold(Sums::default(), |sum, one| Sums {
            counts: std::array::from_fn(|n| sum.counts[n] + one.counts[n]),
            ns: sum.ns + one.ns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_in_their_buckets_and_sums_are_added() {
        let histogram = Histogram::default();
        for us in [1, 3, 3, 10_000_000] {
            histogram.record(Duration::from_micros(us));
        }
        let both: Sums = [histogram.sums(), histogram.sums()].into_iter().sum();
        let filled: Vec<_> = both.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [("1e-06", 2), ("4e-06", 4), ("+Inf", 2)]);
        assert!((both.seconds() - 20.000_014).abs() < 1e-9, "{}", both.seconds());
    }
}
