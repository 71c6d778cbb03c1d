//! A sparse set of small numbers, stored as words of 64 bits, so that one operation compares 64 numbers of two sets.

use crate::ledger::allocation;
use smallvec::SmallVec;

/// A set of numbers. Stores only words that are not zero.
#[derive(Default)]
pub(super) struct Bits {
    /// Ascending by index; none is zero.
    words: SmallVec<[Word; 1]>,
}

/// 64 neighbours: the numbers from `64 * index` on.
#[derive(Clone, Copy)]
pub(super) struct Word {
    pub(super) index: u32,
    pub(super) bits: u64,
}

impl Bits {
    /// Adds a number. Returns whether it is new.
    pub(super) fn insert(&mut self, number: u32) -> bool {
        let (index, bit) = place(number);
        match self.words.binary_search_by_key(&index, |word| word.index) {
            Ok(at) => {
                let before = self.words[at].bits;
                self.words[at].bits |= bit;
                before & bit == 0
            }
            Err(at) => {
                self.words.insert(at, Word { index, bits: bit });
                true
            }
        }
    }

    pub(super) fn remove(&mut self, number: u32) {
        let (index, bit) = place(number);
        if let Ok(at) = self.words.binary_search_by_key(&index, |word| word.index) {
            self.words[at].bits &= !bit;
            if self.words[at].bits == 0 {
                self.words.remove(at);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// All numbers, ascending.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.words.iter().flat_map(|word| {
            let (mut bits, first) = (word.bits, word.index * u64::BITS);
            std::iter::from_fn(move || {
                let number = (bits != 0).then(|| first + bits.trailing_zeros());
                bits &= bits.wrapping_sub(1);
                number
            })
        })
    }

    /// Whether all numbers are in a map. Costs a step for each word, up to the first one that is not.
    pub(super) fn is_within(&self, map: &Bitmap, steps: &mut usize) -> bool {
        self.words.iter().all(|word| {
            *steps = steps.saturating_sub(1);
            word.bits & !map.word(word.index) == 0
        })
    }

    /// The words from an index on.
    pub(super) fn from(&self, index: u32) -> &[Word] {
        let start = self.words.partition_point(|word| word.index < index);
        self.words.get(start..).unwrap_or(&[])
    }
}

/// A set of numbers with one bit for each number up to the highest. A few low ones need no allocation.
#[derive(Default)]
pub(super) struct Bitmap {
    words: SmallVec<[u64; 4]>,
}

/// Words that are cleared for the cost of one step.
const CLEARED_PER_STEP: usize = 64;

impl Bitmap {
    /// Adds a number. Clearing the words up to it costs steps.
    pub(super) fn insert(&mut self, number: u32, steps: &mut usize) {
        let (index, bit) = place(number);
        let (index, len) = (index as usize, self.words.len());
        if index >= len {
            *steps = steps.saturating_sub((index + 1 - len) / CLEARED_PER_STEP);
            self.words.resize(index + 1, 0);
        }
        self.words[index] |= bit;
    }

    pub(super) fn word(&self, index: u32) -> u64 {
        self.words.get(index as usize).copied().unwrap_or(0)
    }

    /// Memory beside its own size.
    pub(super) fn memory(&self) -> usize {
        match self.words.spilled() {
            true => allocation(self.words.capacity() * size_of::<u64>()),
            false => 0,
        }
    }
}

/// The word that has a number, and its bit there.
fn place(number: u32) -> (u32, u64) {
    (number / u64::BITS, 1 << (number % u64::BITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_words_have_the_numbers_that_were_put_in_and_not_taken_out() {
        let (mut bits, mut model) = (Bits::default(), BTreeSet::new());
        for n in 0..2_000_u32 {
            let number = n * 7919 % 1_009;
            if n % 3 < 2 {
                bits.insert(number);
                model.insert(number);
            } else {
                bits.remove(number);
                model.remove(&number);
            }
            let from = n % 20;
            let words = bits.from(from).iter();
            let numbers = words.flat_map(|word| {
                (0..64)
                    .filter(|bit| word.bits >> bit & 1 == 1)
                    .map(|bit| 64 * word.index + bit)
            });
            assert!(numbers.eq(model.range(64 * from..).copied()), "after {n}");
            assert!(bits.numbers().eq(model.iter().copied()), "after {n}");
        }
        for number in model {
            bits.remove(number);
        }
        assert!(bits.is_empty());
    }
}
