//! A set of sequence numbers: which messages behind a queue's head are settled.
//!
//! It is divided into chunks of 4,096 numbers, each a list of runs or a bitmap, whichever is smaller. So a queue that
//! is settled in order costs nothing, and one settled at random at most one bit per message.

use std::collections::BTreeMap;

const CHUNK: u64 = 4096;
const WORDS: usize = (CHUNK / 64) as usize;
/// With this many runs of four bytes, a bitmap is not larger.
const RUNS_MAX: usize = WORDS * 8 / 4;

/// A set of sequence numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct SeqSet {
    chunks: BTreeMap<u64, Chunk>,
}

#[derive(Clone, Debug)]
enum Chunk {
    /// Ascending, inclusive, not adjacent.
    Runs(Vec<(u16, u16)>),
    Bits(Box<[u64; WORDS]>),
}

impl Chunk {
    fn contains(&self, at: u16) -> bool {
        match self {
            Chunk::Runs(runs) => runs.iter().any(|&(lo, hi)| lo <= at && at <= hi),
            Chunk::Bits(bits) => bits[usize::from(at) / 64] >> (at % 64) & 1 == 1,
        }
    }
    fn count(&self, lo: u16, hi: u16) -> u64 {
        match self {
            Chunk::Runs(runs) => runs
                .iter()
                .map(|&(a, b)| (u64::from(b.min(hi)) + 1).saturating_sub(u64::from(a.max(lo))))
                .sum(),
            Chunk::Bits(bits) => words(lo, hi)
                .map(|(word, mask)| u64::from((bits[word] & mask).count_ones()))
                .sum(),
        }
    }
    fn insert(&mut self, lo: u16, hi: u16) {
        match self {
            Chunk::Runs(runs) => {
                let from = runs.partition_point(|&(_, b)| u32::from(b) + 1 < u32::from(lo));
                let to = from + runs[from..].partition_point(|&(a, _)| u32::from(a) <= u32::from(hi) + 1);
                let merged = match runs.get(from..to) {
                    Some([first, .., last]) => (first.0.min(lo), last.1.max(hi)),
                    Some([one]) => (one.0.min(lo), one.1.max(hi)),
                    _ => (lo, hi),
                };
                runs.splice(from..to, [merged]);
                if runs.len() > RUNS_MAX {
                    let mut bits = Box::new([0; WORDS]);
                    for &(a, b) in runs.iter() {
                        words(a, b).for_each(|(word, mask)| bits[word] |= mask);
                    }
                    *self = Chunk::Bits(bits);
                }
            }
            Chunk::Bits(bits) => {
                words(lo, hi).for_each(|(word, mask)| bits[word] |= mask);
                if bits.iter().all(|word| *word == u64::MAX) {
                    *self = Chunk::Runs(vec![(0, (CHUNK - 1) as u16)]);
                }
            }
        }
    }
    fn remove(&mut self, lo: u16, hi: u16) {
        match self {
            Chunk::Runs(runs) => {
                let old = std::mem::take(runs);
                for (a, b) in old {
                    if a < lo {
                        runs.push((a, b.min(lo - 1)));
                    }
                    if b > hi {
                        runs.push((a.max(hi + 1), b));
                    }
                }
            }
            Chunk::Bits(bits) => words(lo, hi).for_each(|(word, mask)| bits[word] &= !mask),
        }
    }
    fn is_empty(&self) -> bool {
        match self {
            Chunk::Runs(runs) => runs.is_empty(),
            Chunk::Bits(bits) => bits.iter().all(|word| *word == 0),
        }
    }
    fn runs(&self) -> Vec<(u16, u16)> {
        match self {
            Chunk::Runs(runs) => runs.clone(),
            Chunk::Bits(_) => {
                let mut runs: Vec<(u16, u16)> = Vec::new();
                for at in (0..CHUNK as u16).filter(|at| self.contains(*at)) {
                    match runs.last_mut() {
                        Some(last) if last.1 + 1 == at => last.1 = at,
                        _ => runs.push((at, at)),
                    }
                }
                runs
            }
        }
    }
}

/// The words and masks that cover `lo..=hi`.
fn words(lo: u16, hi: u16) -> impl Iterator<Item = (usize, u64)> {
    (usize::from(lo) / 64..=usize::from(hi) / 64).map(move |word| {
        let first = usize::from(lo).max(word * 64) % 64;
        let last = usize::from(hi).min(word * 64 + 63) % 64;
        (word, (u64::MAX >> (63 - (last - first))) << first)
    })
}

/// The chunks that cover `lo..=hi`.
fn chunks(lo: u64, hi: u64) -> impl Iterator<Item = (u64, u16, u16)> {
    (lo / CHUNK..=hi / CHUNK).map(move |chunk| {
        let start = chunk * CHUNK;
        (
            chunk,
            (lo.max(start) - start) as u16,
            (hi.min(start + (CHUNK - 1)) - start) as u16,
        )
    })
}

impl SeqSet {
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
    pub(crate) fn contains(&self, seq: u64) -> bool {
        if self.chunks.is_empty() {
            return false;
        }
        self.chunks
            .get(&(seq / CHUNK))
            .is_some_and(|chunk| chunk.contains((seq % CHUNK) as u16))
    }
    /// The number of `lo..=hi` in the set.
    pub(crate) fn count(&self, lo: u64, hi: u64) -> u64 {
        if self.chunks.is_empty() {
            return 0;
        }
        chunks(lo, hi)
            .filter_map(|(chunk, a, b)| Some(self.chunks.get(&chunk)?.count(a, b)))
            .sum()
    }
    /// Adds `lo..=hi`. The caller limits the range: it costs a chunk per 4,096 numbers.
    pub(crate) fn insert(&mut self, lo: u64, hi: u64) {
        for (chunk, a, b) in chunks(lo, hi) {
            self.chunks
                .entry(chunk)
                .or_insert_with(|| Chunk::Runs(Vec::new()))
                .insert(a, b);
        }
    }
    /// Removes `lo..=hi`.
    pub(crate) fn remove(&mut self, lo: u64, hi: u64) {
        if self.chunks.is_empty() {
            return;
        }
        for (chunk, a, b) in chunks(lo, hi) {
            if let Some(found) = self.chunks.get_mut(&chunk) {
                found.remove(a, b);
                if found.is_empty() {
                    self.chunks.remove(&chunk);
                }
            }
        }
    }
    /// The first number at or behind `seq` that is not in the set.
    pub(crate) fn first_missing(&self, mut seq: u64) -> u64 {
        while let Some(chunk) = self.chunks.get(&(seq / CHUNK)) {
            let at = (seq % CHUNK) as u16;
            let next = match chunk {
                Chunk::Runs(runs) => match runs.iter().find(|&&(lo, hi)| lo <= at && at <= hi) {
                    Some(&(_, hi)) => u64::from(hi) + 1,
                    None => return seq,
                },
                Chunk::Bits(_) => (u64::from(at)..CHUNK)
                    .find(|at| !chunk.contains(*at as u16))
                    .unwrap_or(CHUNK),
            };
            let stop = seq / CHUNK * CHUNK + next;
            if next < CHUNK {
                return stop;
            }
            seq = stop;
        }
        seq
    }
    /// Ascending runs. A run that crosses the border of a chunk is returned in pieces.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, u64)> {
        self.runs_within(0, u64::MAX)
    }
    /// The same for the chunks that `lo..=hi` touches.
    pub(crate) fn runs_within(&self, lo: u64, hi: u64) -> impl Iterator<Item = (u64, u64)> {
        self.chunks.range(lo / CHUNK..=hi / CHUNK).flat_map(|(chunk, found)| {
            let start = chunk * CHUNK;
            found
                .runs()
                .into_iter()
                .map(move |(a, b)| (start + u64::from(a), start + u64::from(b)))
        })
    }
}

/// A set with runs of any length, for the start: settled sequences of everything that is replayed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(crate) fn insert(&mut self, mut lo: u64, mut hi: u64) {
        while let Some((&a, &b)) = self.0.range(..=hi.saturating_add(1)).next_back() {
            if b.saturating_add(1) < lo {
                break;
            }
            self.0.remove(&a);
            lo = lo.min(a);
            hi = hi.max(b);
        }
        self.0.insert(lo, hi);
    }
    pub(crate) fn contains(&self, seq: u64) -> bool {
        self.0.range(..=seq).next_back().is_some_and(|(_, hi)| *hi >= seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_set_agrees_with_a_plain_set_under_random_operations() {
        for seed in 0..40u64 {
            let mut state = seed;
            let mut random = |below: u64| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            let (mut set, mut model, mut ranges) = (SeqSet::default(), BTreeSet::new(), Ranges::default());
            let mut inserted = BTreeSet::new();
            for _ in 0..400 {
                let lo = random(9000);
                let hi = lo + if random(8) == 0 { random(5000) } else { random(3) };
                if random(6) == 0 {
                    set.remove(lo, hi);
                    (lo..=hi).for_each(|seq| _ = model.remove(&seq));
                } else {
                    set.insert(lo, hi);
                    ranges.insert(lo, hi);
                    model.extend(lo..=hi);
                    inserted.extend(lo..=hi);
                }
                let (a, b) = (random(14_000), random(14_000));
                let (a, b) = (a.min(b), a.max(b));
                assert_eq!(set.count(a, b), model.range(a..=b).count() as u64, "seed {seed}");
                assert_eq!(set.contains(a), model.contains(&a), "seed {seed}");
                assert_eq!(ranges.contains(a), inserted.contains(&a), "seed {seed}");
                assert_eq!(
                    set.first_missing(a),
                    (a..).find(|seq| !model.contains(seq)).unwrap(),
                    "seed {seed}"
                );
            }
            let listed: Vec<u64> = set.runs().flat_map(|(lo, hi)| lo..=hi).collect();
            assert_eq!(listed, model.into_iter().collect::<Vec<_>>(), "seed {seed}");
        }
    }
}
