//! Histograms with fixed buckets: recorded with a few atomic additions, of constant size, rendered for Prometheus with
//! the bucket names given. (The exporter's own would keep raw samples until somebody scrapes.)

use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A histogram of durations over [`BOUNDS`].
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// Not cumulative; the last is what is over all bounds.
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

    /// Appends the series `name` in Prometheus's text format.
    pub(crate) fn render(&self, out: &mut String, name: &str, help: &str) {
        let buckets = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let names = BOUNDS.iter().map(|(_, le)| *le).chain(["+Inf"]);
        let sum = self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9;
        render(out, name, help, names.zip(buckets), sum);
    }
}

/// Appends a histogram in Prometheus's text format. `buckets` are upper bounds and counts, not cumulative; the last
/// bound is `+Inf`.
pub(crate) fn render(
    out: &mut String,
    name: &str,
    help: &str,
    buckets: impl Iterator<Item = (impl Display, u64)>,
    sum: f64,
) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
    let mut total = 0;
    for (le, count) in buckets {
        total += count;
        let _ = writeln!(out, "{name}_bucket{{le=\"{le}\"}} {total}");
    }
    let _ = writeln!(out, "{name}_sum {sum}\n{name}_count {total}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_end_with_the_count() {
        let histogram = Histogram::default();
        for us in [1, 3, 3, 10_000_000] {
            histogram.record(Duration::from_micros(us));
        }
        let mut text = String::new();
        histogram.render(&mut text, "x_seconds", "help");
        assert!(text.contains("x_seconds_bucket{le=\"1e-06\"} 1\n"), "{text}");
        assert!(text.contains("x_seconds_bucket{le=\"4e-06\"} 3\n"), "{text}");
        assert!(text.contains("x_seconds_bucket{le=\"4.0\"} 3\n"), "{text}");
        assert!(text.contains("x_seconds_bucket{le=\"+Inf\"} 4\n"), "{text}");
        assert!(text.contains("x_seconds_count 4\n"), "{text}");
    }
}
