//! Headers: bindings whose arguments the message's headers meet. AMQP 0-9-1 3.1.3.4, with RabbitMQ's `*-with-x` modes.
//!
//! What a message costs is for clients to choose, so here is the most that it can be, in steps:
//! - two for each header: the pair of its name and value is looked up, and its name alone;
//! - for each binding of mode `all` that is filed under one of these pairs: one, and one for each 64 numbers of pairs among which
//!   some are that it asks for, up to the first that the message has not all of. Pairs that were bound together have numbers
//!   near each other. A binding is filed under one pair only, so it is looked at once. 400 bindings of 200 pairs each that
//!   nearly match took 80,000 steps when each pair was compared; now 2,000;
//! - one for each binding of mode `any` that is met, however many of its pairs are. To find that nothing is left to do under
//!   a pair takes a step for each 64 of the exchange's bindings of mode `any`, and none once all of them are met. Without
//!   that, 400 bindings by 200 headers each, and a message that has them all, took 80,000 visits; now less than 2,000;
//! - one for each 4,096 pairs and bindings of mode `any` that there are, to clear the bits.
//!
//! Bindings may come and go between two holds of a search, and then a pair's number may be another pair's. The search sees
//! that by a count of changes, and compares names and values from there on.

use super::BindingId;
use super::bits::{Bitmap, Bits, Word};
use crate::ledger::{allocation, hashed};
use crate::properties::{Table, Value};
use crate::topic::Ids;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
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

/// Bindings, found by the pairs of name and value that they ask for. A binding of mode `any` is filed under each of its
/// pairs, one of mode `all` under the one that fewest others are filed under. So a message meets the bindings that one of
/// its own headers leads to, and no others.
#[derive(Default)]
pub(crate) struct Headers {
    /// Never iterated: its order is random.
    bindings: HashMap<BindingId, Criteria, RandomState>,
    pairs: Pairs,
    /// Those that ask for nothing and are met by everything.
    always: Ids,
    /// Those that are filed under each of their pairs: these numbers are dense, so that few words have them all.
    numbered: Slab<BindingId>,
    /// Counts the changes of `numbered`.
    changes: u64,
}

/// What a binding asks of the headers.
struct Criteria {
    /// Numbers of pairs.
    asked: Bits,
    filed: Filed,
}

/// Where a binding is filed, which also tells how many of its pairs must be met.
#[derive(Clone, Copy)]
enum Filed {
    /// Nowhere: it asks for nothing, and everything meets it.
    Always,
    /// All of its pairs must be met: under one of them.
    UnderOne(u32),
    /// One is enough: under each, by this number.
    UnderEach(u32),
}

/// Where the search for the bindings of a message is.
#[derive(Default)]
pub(crate) struct Search {
    stage: Stage,
    cursor: Option<BindingId>,
    /// Look-ups done: two for each header, by value and by presence.
    looked: usize,
    /// [`Pairs::changes`] at the first of them.
    pairs_changes: u64,
    /// Pairs that the message meets: a bit for each, and in the order found.
    meets: Bitmap,
    pairs: SmallVec<[u32; 4]>,
    /// The place in `pairs` that is visited, and the least number of [`Pair::each`] there that is not looked at yet.
    visiting: usize,
    number: u32,
    met: Met,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    /// Those that are always met.
    #[default]
    Always,
    /// Which pairs the message meets.
    Looking,
    /// The bindings that are filed under these.
    Visiting,
}

/// Bindings of mode `any` that the message has met already, by number.
#[derive(Default)]
struct Met {
    bits: Bitmap,
    count: usize,
    /// [`Headers::changes`] when the first was met.
    changes: u64,
}

/// Bindings taken from a pair at once: each may ask for as many others as a message may have headers.
const CHECKED_AT_ONCE: usize = 8;

impl Search {
    /// Memory beside its own size.
    pub(super) fn memory(&self) -> usize {
        let pairs = if self.pairs.spilled() {
            allocation(self.pairs.capacity() * size_of::<u32>())
        } else {
            0
        };
        pairs + self.meets.memory() + self.met.bits.memory()
    }
}

/// What a table keeps for a binding, beside a copy of its arguments: its entry, its number, and for each of so many criteria a
/// pair with a word, and a word of its own.
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
                // It was asked for before.
                self.pairs.release(number);
            }
        }
        // To meet one of one is to meet all: then nothing has to be remembered about it.
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

    /// Goes on with a search, by the steps that this file's head tells (the last binding may take more steps than there
    /// are). Returns whether there may be more.
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
            // It may be gone, and its number another's.
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

    /// Whether the pairs have the numbers that they had when the search looked for them.
    fn is_current(&self, search: &Search) -> bool {
        search.pairs_changes == self.pairs.changes()
    }

    /// Goes on to find the pairs that the message meets. Returns whether there may be more.
    fn look(&self, headers: &MessageHeaders, search: &mut Search, steps: &mut usize) -> bool {
        while search.looked < 2 * headers.len() {
            if *steps == 0 {
                return true;
            }
            *steps -= 1;
            let (place, by_value) = (search.looked / 2, search.looked.is_multiple_of(2));
            search.looked += 1;
            // A header without a value is looked for once: by its presence.
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

    /// Goes on with the bindings of a pair that are filed elsewhere too: with those that are not met yet. Returns whether there
    /// are more.
    fn check_each(&self, each: &Bits, search: &mut Search, steps: &mut usize, found: &mut Vec<BindingId>) -> bool {
        let met = &mut search.met;
        if met.count == 0 {
            met.changes = self.changes;
        } else if met.count == self.numbered.len() && met.changes == self.changes {
            // All are met. (If some came or went between two holds, the numbers tell nothing.)
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
                // After one at least: the step for the word may have been the last.
                if *steps == 0 && new != 0 {
                    return true;
                }
            }
            search.number = first.saturating_add(u64::BITS);
        }
        false
    }

    /// Goes on with the bindings that are filed under one pair only. Returns whether there are more.
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

    /// Whether the headers meet all that a binding asks for, by names and values.
    fn has_all_met(&self, criteria: &Criteria, headers: &MessageHeaders, steps: &mut usize) -> bool {
        criteria.asked.numbers().all(|number| {
            *steps = steps.saturating_sub(1);
            self.pairs.get(number).is_some_and(|pair| pair.is_met(headers))
        })
    }
}
