//! Headers: bindings whose arguments match the message's headers. AMQP 0-9-1 3.1.3.4, with RabbitMQ's `*-with-x` modes.
//!
//! Clients choose how much a message costs. The most that it can cost, in steps:
//! - two for each header: one look-up of the pair of name and value, and one of the name alone;
//! - for each binding of mode `all` that is filed under one of these pairs: one, and one for each group of 64 pair
//!   numbers that contains a pair of the binding, up to the first group that the message does not match. Pairs that were
//!   bound together have numbers close to each other. A binding is filed under one pair only, so it is checked once.
//!   Before, each pair was compared: 400 bindings of 200 pairs each that nearly match took 80,000 steps; now 2,000;
//! - one for each binding of mode `any` that matches, however many of its pairs do. Finding that nothing is left under
//!   a pair takes a step for each 64 of the exchange's bindings of mode `any`, and none once all of them match. Without
//!   that, 400 bindings of 200 headers each, and a message that has all these headers, took 80,000 visits; now less
//!   than 2,000;
//! - one for each 4,096 pairs and bindings of mode `any` of the exchange, to clear the bits.
//!
//! Bindings may be added and removed between two holds of a search, and a pair's number may be reused. The search detects
//! this by a count of changes, and then compares names and values.

use super::BindingId;
use super::bits::{Bitmap, Bits, Word};
use crate::ledger::{allocation, hashed};
use crate::properties::{Table, Value};
use crate::segmented::SegmentedMap;
use crate::topic::Ids;
use pairs::{Pair, Pairs, pair_bytes};
use slab::Slab;
use smallvec::SmallVec;

mod criteria;
mod message;
mod pairs;
#[cfg(test)]
mod tests;
mod values;

pub(super) use criteria::check_arguments;
pub(crate) use message::MessageHeaders;

/// Bindings, found by the pairs of name and value that they require. A binding of mode `any` is filed under each of its
/// pairs, one of mode `all` under its pair with the fewest bindings. So a message only visits bindings that have
/// one of its headers.
#[derive(Default)]
pub(crate) struct Headers {
    /// Never iterated: its order is random.
    bindings: SegmentedMap<BindingId, Criteria>,
    pairs: Pairs,
    /// Bindings without criteria, which match every message.
    always: Ids,
    /// Bindings that are filed under each of their pairs. Their numbers are dense, so that few words hold them.
    numbered: Slab<BindingId>,
    /// Counts the changes of `numbered`.
    changes: u64,
}

/// The criteria of a binding.
struct Criteria {
    /// Numbers of pairs.
    asked: Bits,
    filed: Filed,
}

/// Where a binding is filed. This also says how many of its pairs must match.
#[derive(Clone, Copy)]
enum Filed {
    /// Nowhere: it has no criteria and matches every message.
    Always,
    /// Under one pair, because all must match.
    UnderOne(u32),
    /// Under each pair, because one match is enough; by this number.
    UnderEach(u32),
}

/// The state of the search for a message's bindings.
#[derive(Default)]
pub(crate) struct Search {
    stage: Stage,
    cursor: Option<BindingId>,
    /// Look-ups done so far: two for each header, by value and by presence.
    looked: usize,
    /// [`Pairs::changes`] at the first of them.
    pairs_changes: u64,
    /// The message's pairs, as bits and in the order found.
    meets: Bitmap,
    pairs: SmallVec<[u32; 4]>,
    /// The index in `pairs` that is visited, and the lowest number of its [`Pair::each`] that is not checked yet.
    visiting: usize,
    number: u32,
    met: Met,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    /// Visiting the bindings that always match.
    #[default]
    Always,
    /// Looking up the message's pairs.
    Looking,
    /// Checking the bindings that are filed under them.
    Visiting,
}

/// Bindings of mode `any` that matched already, by number.
#[derive(Default)]
struct Met {
    bits: Bitmap,
    count: usize,
    /// [`Headers::changes`] when the first one matched.
    changes: u64,
}

/// Bindings checked at once under a pair. Each may require as many pairs as a message may have headers.
const CHECKED_AT_ONCE: usize = 8;

impl Search {
    /// Bytes on the heap.
    pub(super) fn memory(&self) -> usize {
        let pairs = if self.pairs.spilled() {
            allocation(self.pairs.capacity() * size_of::<u32>())
        } else {
            0
        };
        pairs + self.meets.memory() + self.met.bits.memory()
    }
}

/// Bytes that the table of a headers exchange keeps for a binding with this many criteria, without the copy of its
/// arguments: its entry, its number, and for each criterion a pair and words of bits.
pub(crate) fn binding_bytes(criteria: usize) -> usize {
    let pair = pair_bytes() + 2 * size_of::<Word>();
    hashed::<(BindingId, Criteria)>() + 2 * size_of::<(usize, BindingId)>() + criteria * pair
}

impl Headers {
    pub(crate) fn insert(&mut self, arguments: &Table, id: BindingId) {
        let (pairs, any) = criteria::criteria(arguments);
        let mut asked = Bits::default();
        for (name, wanted) in pairs {
            let number = self.pairs.add(name, wanted);
            if !asked.insert(number) {
                // The binding has this pair twice.
                self.pairs.release(number);
            }
        }
        // With a single pair, `any` is the same as `all`, which needs no record of matches.
        let filed = if any && asked.numbers().take(2).count() != 1 {
            let number = self.numbered.insert(id) as u32;
            self.changes += 1;
            for pair in asked.numbers() {
                self.change(pair, |pair| _ = pair.each.insert(number));
            }
            Filed::UnderEach(number)
        } else {
            let others = |pair: &u32| self.pairs.get(*pair).map_or(0, |pair| pair.one.len());
            match asked.numbers().min_by_key(others) {
                Some(pair) => {
                    self.change(pair, |pair| _ = pair.one.insert(id));
                    Filed::UnderOne(pair)
                }
                None => {
                    self.always.insert(id);
                    Filed::Always
                }
            }
        };
        self.bindings.insert(id, Criteria { asked, filed });
    }

    pub(crate) fn remove(&mut self, id: BindingId) {
        let Some(Criteria { asked, filed }) = self.bindings.remove(&id) else {
            return;
        };
        match filed {
            Filed::Always => _ = self.always.remove(id),
            Filed::UnderOne(pair) => self.change(pair, |pair| _ = pair.one.remove(id)),
            Filed::UnderEach(number) => {
                self.numbered.try_remove(number as usize);
                self.changes += 1;
                for pair in asked.numbers() {
                    self.change(pair, |pair| pair.each.remove(number));
                }
            }
        }
        asked.numbers().for_each(|pair| self.pairs.release(pair));
    }

    fn change(&mut self, pair: u32, change: impl FnOnce(&mut Pair)) {
        if let Some(pair) = self.pairs.get_mut(pair) {
            change(pair);
        }
    }

    /// Continues a search, with the costs described at the top of this file (the last binding may take more steps than
    /// are left). Returns whether there may be more.
    pub(crate) fn matches(
        &self,
        headers: &MessageHeaders,
        search: &mut Search,
        steps: &mut usize,
        found: &mut Vec<BindingId>,
    ) -> bool {
        if search.stage == Stage::Always {
            if self.always.visit(&mut search.cursor, steps, |id| found.push(id)) {
                return true;
            }
            (search.stage, search.cursor) = (Stage::Looking, None);
            search.pairs_changes = self.pairs.changes();
        }
        if search.stage == Stage::Looking {
            if self.look(headers, search, steps) {
                return true;
            }
            search.stage = Stage::Visiting;
        }
        while let Some(&number) = search.pairs.get(search.visiting) {
            if *steps == 0 {
                return true;
            }
            // The pair may be gone and its number reused.
            let pair = self.pairs.get(number);
            if let Some(pair) = pair.filter(|pair| self.is_current(search) || pair.is_met(headers))
                && (self.check_each(&pair.each, search, steps, found)
                    || self.check_one(&pair.one, headers, search, steps, found))
            {
                return true;
            }
            search.visiting += 1;
            (search.cursor, search.number) = (None, 0);
        }
        false
    }

    /// Whether no pair was removed since the search looked its pairs up.
    fn is_current(&self, search: &Search) -> bool {
        search.pairs_changes == self.pairs.changes()
    }

    /// Continues the look-up of the message's pairs. Returns whether there may be more.
    fn look(&self, headers: &MessageHeaders, search: &mut Search, steps: &mut usize) -> bool {
        while search.looked < 2 * headers.len() {
            if *steps == 0 {
                return true;
            }
            *steps -= 1;
            let (place, by_value) = (search.looked / 2, search.looked.is_multiple_of(2));
            search.looked += 1;
            // A header without a value is looked up once, by its name.
            let header = headers.at(place);
            if let Some((name, value)) = header.filter(|(_, value)| !(by_value && matches!(value, Value::Void)))
                && let Some(number) = self.pairs.find(name, if by_value { value } else { &Value::Void })
            {
                search.meets.insert(number, steps);
                search.pairs.push(number);
            }
        }
        false
    }

    /// Continues with a pair's bindings of mode `any` that have not matched yet. Returns whether there are more.
    fn check_each(&self, each: &Bits, search: &mut Search, steps: &mut usize, found: &mut Vec<BindingId>) -> bool {
        let met = &mut search.met;
        if met.count == 0 {
            met.changes = self.changes;
        } else if met.count == self.numbered.len() && met.changes == self.changes {
            // All have matched already. If bindings changed between two holds, the numbers cannot be compared.
            return false;
        }
        for word in each.from(search.number / u64::BITS) {
            if *steps == 0 {
                return true;
            }
            *steps -= 1;
            let first = word.index * u64::BITS;
            let left = u64::MAX << search.number.saturating_sub(first);
            let mut new = word.bits & left & !met.bits.word(word.index);
            while new != 0 {
                let number = first + new.trailing_zeros();
                new &= new - 1;
                search.number = number + 1;
                if let Some(&id) = self.numbered.get(number as usize) {
                    *steps = steps.saturating_sub(1);
                    met.bits.insert(number, steps);
                    met.count += 1;
                    found.push(id);
                }
                // Stop only after at least one binding: the step for the word may have been the last.
                if *steps == 0 && new != 0 {
                    return true;
                }
            }
            search.number = first.saturating_add(u64::BITS);
        }
        false
    }

    /// Continues with the bindings of mode `all` that are filed under this pair. Returns whether there are more.
    fn check_one(
        &self,
        one: &Ids,
        headers: &MessageHeaders,
        search: &mut Search,
        steps: &mut usize,
        found: &mut Vec<BindingId>,
    ) -> bool {
        if one.is_empty() {
            return false;
        }
        let is_current = self.is_current(search);
        while *steps > 0 {
            let mut some: SmallVec<[BindingId; CHECKED_AT_ONCE]> = SmallVec::new();
            let mut most = CHECKED_AT_ONCE.min(*steps);
            let more = one.visit(&mut search.cursor, &mut most, |id| some.push(id));
            *steps -= some.len();
            let mut is_met = |id: &BindingId| {
                let criteria = self.bindings.get(id);
                criteria.is_some_and(|criteria| match is_current {
                    true => criteria.asked.is_within(&search.meets, steps),
                    false => self.has_all_met(criteria, headers, steps),
                })
            };
            found.extend(some.into_iter().filter(|id| is_met(id)));
            if !more {
                return false;
            }
        }
        true
    }

    /// Whether the headers match all of a binding's criteria, comparing names and values.
    fn has_all_met(&self, criteria: &Criteria, headers: &MessageHeaders, steps: &mut usize) -> bool {
        criteria.asked.numbers().all(|number| {
            *steps = steps.saturating_sub(1);
            self.pairs.get(number).is_some_and(|pair| pair.is_met(headers))
        })
    }
}
