//! Waiting times of deliveries.

/// A histogram of fixed size whose old samples fade: each look halves the earlier counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waits([u32; BOUNDS_MS.len() + 1]);

/// Upper bounds in milliseconds. The last bucket has none.
const BOUNDS_MS: [u32; 22] = [
    0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 60_000, 120_000, 300_000, 600_000,
    1_800_000, 3_600_000, 86_400_000,
];

impl Waits {
    pub(super) fn record(&mut self, ms: u32) {
        let bucket = BOUNDS_MS.partition_point(|bound| *bound < ms);
        self.0[bucket] = self.0[bucket].saturating_add(1);
    }

    pub(super) fn add(&mut self, other: &Waits) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count = count.saturating_add(more);
        }
    }

    pub(super) fn halve(&mut self) {
        self.0.iter_mut().for_each(|count| *count /= 2);
    }

    /// The bound below which this percentage of the samples is, if there are samples.
    pub(crate) fn quantile_ms(&self, hundredths: u64) -> Option<f64> {
        let all: u64 = self.0.iter().map(|count| u64::from(*count)).sum();
        let wanted = (all * hundredths).div_ceil(100);
        let mut seen = 0;
        for (n, count) in self.0.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted && seen > 0 {
                let last = BOUNDS_MS.len() - 1;
                return Some(BOUNDS_MS[n.min(last)].into());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_the_bounds_above_and_old_samples_fade() {
        let mut waits = Waits::default();
        assert_eq!(waits.quantile_ms(50), None);
        for ms in [0, 3, 3, 4, 700] {
            waits.record(ms);
        }
        assert_eq!(
            (waits.quantile_ms(50), waits.quantile_ms(99)),
            (Some(5.0), Some(1000.0))
        );
        waits.halve();
        assert_eq!(waits.quantile_ms(99), Some(5.0), "one of one is forgotten");
        waits.halve();
        assert_eq!(waits.quantile_ms(99), None);
        waits.record(u32::MAX);
        assert_eq!(waits.quantile_ms(50), Some(86_400_000.0));
    }
}
