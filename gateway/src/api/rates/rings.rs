//! Rings of fixed length: of values that are always sampled, and of viewed objects, which have a limit on their memory.

use super::figures::Sample;
use super::history::{History, Point, Spans};
use super::{RATE_POINTS, VIEWED, VIEWED_POINTS};
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Instant;

/// A ring.
pub(super) struct Series<const N: usize> {
    points: VecDeque<Point<N>>,
    pub(super) keep: usize,
    viewed: Instant,
}

impl<const N: usize> Series<N> {
    pub(super) fn new(keep: usize) -> Series<N> {
        Series {
            points: VecDeque::new(),
            keep,
            viewed: Instant::now(),
        }
    }

    pub(super) fn push(&mut self, at: u64, sample: Sample<N>) {
        while self.points.len() >= self.keep {
            self.points.pop_front();
        }
        if self.points.capacity() < self.keep {
            self.points.reserve_exact(self.keep - self.points.len());
        }
        self.points.push_back(Point { at, sample });
    }

    pub(super) fn history(&mut self) -> History<N> {
        self.viewed = Instant::now();
        History(self.points.iter().copied().collect())
    }

    /// Whether it was viewed lately.
    pub(super) fn is_viewed(&self) -> bool {
        self.viewed.elapsed() <= VIEWED
    }

    /// Memory of a ring with this many points.
    const fn bytes(points: usize) -> usize {
        points * std::mem::size_of::<Point<N>>() + 128
    }
}

/// The rings of objects of one kind. An object has one from its first view on, and keeps it for [`VIEWED`] after the
/// last.
pub(super) struct Rings<K, const N: usize> {
    all: HashMap<K, Series<N>>,
    bytes: usize,
    bytes_max: usize,
}

impl<K: Clone + Eq + Hash + Ord, const N: usize> Rings<K, N> {
    pub(super) fn new(bytes_max: usize) -> Rings<K, N> {
        Rings {
            all: HashMap::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// The history of an object whose current values are in the sample. Empty if there is no room for its ring.
    pub(super) fn view(&mut self, now: u64, key: &K, sample: Sample<N>, spans: &Spans) -> History<N> {
        let keep = if spans.are_wanted() { VIEWED_POINTS } else { RATE_POINTS };
        let kept = self.all.get(key).map_or(0, |series| Series::<N>::bytes(series.keep));
        let wanted = Series::<N>::bytes(keep);
        let has_room = self.bytes + wanted.saturating_sub(kept) <= self.bytes_max;
        if kept == 0 && !has_room {
            return History::default();
        }
        if wanted > kept && has_room {
            self.bytes += wanted - kept;
            let series = self.all.entry(key.clone()).or_insert_with(|| Series::new(keep));
            series.keep = keep;
            if kept == 0 {
                series.push(now, sample);
            }
        }
        let history = self.all.get_mut(key).map(Series::history).unwrap_or_default();
        history.up_to_now(now, sample)
    }

    /// Drops the rings that were not viewed lately. Returns the keys of the others, in order.
    pub(super) fn viewed(&mut self) -> Vec<K> {
        let bytes = &mut self.bytes;
        self.all.retain(|_, series| {
            if !series.is_viewed() {
                *bytes -= Series::<N>::bytes(series.keep);
            }
            series.is_viewed()
        });
        if self.all.is_empty() {
            self.all.shrink_to_fit();
        }
        let mut viewed: Vec<K> = self.all.keys().cloned().collect();
        viewed.sort_unstable();
        viewed
    }

    pub(super) fn push(&mut self, key: &K, at: u64, sample: Sample<N>) {
        if let Some(series) = self.all.get_mut(key) {
            series.push(at, sample);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::query::Query;
    use super::*;

    #[test]
    fn rings_take_no_more_than_they_may() {
        const BYTES_MAX: usize = 8 << 20;
        let mut rings: Rings<String, 10> = Rings::new(BYTES_MAX);
        let (shortly, long) = (
            Spans::default(),
            Spans::of(&Query::parse("lengths_age=60&lengths_incr=5")),
        );
        let sample = Sample::default();
        for n in 0..20_000 {
            rings.view(5_000, &format!("q{n}"), sample, &shortly);
        }
        assert_eq!(rings.view(5_000, &"q0".to_owned(), sample, &long).0.len(), 1);
        assert_eq!(rings.all.len(), 20_000);
        for n in 0..20_000 {
            rings.view(5_000, &format!("long{n}"), sample, &long);
        }
        assert!(rings.bytes <= BYTES_MAX && rings.all.len() < 30_000);
        let bytes = rings.all.values().map(|series| Series::<10>::bytes(series.keep));
        assert_eq!(bytes.sum::<usize>(), rings.bytes);
        assert!(rings.view(5_000, &"new".to_owned(), sample, &long).0.is_empty());
    }
}
