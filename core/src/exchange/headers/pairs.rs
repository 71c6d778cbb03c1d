//! The pairs of name and value that bindings of an exchange require. Each pair has a number, which stays the same as
//! long as any binding requires it.

use super::message::MessageHeaders;
use super::values::{Number, alike, is_empty_list};
use crate::arguments::hash_value;
use crate::exchange::bits::Bits;
use crate::ledger::hashed;
use crate::properties::{Name, Value};
use crate::segmented::SegmentedMap;
use crate::topic::Ids;
use foldhash::fast::RandomState;
use slab::Slab;
use smallvec::SmallVec;
use std::hash::BuildHasher;

/// All pairs of an exchange.
#[derive(Default)]
pub(super) struct Pairs {
    /// Places are the pairs' numbers. They are dense, so that a binding's numbers need few words of bits.
    list: Slab<Pair>,
    /// Numbers of pairs by hash. Where hashes collide, names and values are compared.
    by_hash: SegmentedMap<u64, Numbers>,
    /// Counts pairs removed, after which a number may be reused.
    changes: u64,
    hasher: RandomState,
}

type Numbers = SmallVec<[u32; 1]>;

/// One pair, and the bindings filed under it.
pub(super) struct Pair {
    name: Name,
    /// The value required. `Void` requires only that the header is present.
    wanted: Value,
    /// The number of bindings that require it.
    users: u32,
    /// Bindings of mode `all` that are filed under this pair only.
    pub(super) one: Ids,
    /// Bindings of mode `any`, filed under each of their pairs: places in [`super::Headers::numbered`].
    pub(super) each: Bits,
}

/// Bytes that the table keeps for a pair that only one binding requires.
pub(super) fn pair_bytes() -> usize {
    hashed::<(u64, Numbers)>() + size_of::<(usize, Pair)>()
}

impl Pair {
    /// Whether the message has the pair.
    pub(super) fn is_met(&self, headers: &MessageHeaders) -> bool {
        let value = headers.lookup(&self.name);
        value.is_some_and(|value| matches!(self.wanted, Value::Void) || alike(value, &self.wanted))
    }
}

impl Pairs {
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn get(&self, number: u32) -> Option<&Pair> {
        self.list.get(number as usize)
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Pair> {
        self.list.get_mut(number as usize)
    }

    /// The number of the pair that a header with this value matches. With `Void`: of the pair that requires the
    /// header's presence.
    pub(super) fn find(&self, name: &str, value: &Value) -> Option<u32> {
        let numbers = self.by_hash.get(&self.hash(name, value))?;
        numbers
            .iter()
            .copied()
            .find(|number| self.is_same(*number, name, value))
    }

    fn is_same(&self, number: u32, name: &str, value: &Value) -> bool {
        self.get(number).is_some_and(|pair| {
            let same_kind = matches!(pair.wanted, Value::Void) == matches!(value, Value::Void);
            *pair.name == *name && same_kind && (matches!(value, Value::Void) || alike(value, &pair.wanted))
        })
    }

    /// Counts one more binding that requires a pair, adding the pair if it is new. Returns its number.
    pub(super) fn add(&mut self, name: Name, wanted: Value) -> u32 {
        if let Some(number) = self.find(&name, &wanted)
            && let Some(pair) = self.get_mut(number)
        {
            pair.users += 1;
            return number;
        }
        self.changes += 1;
        let hash = self.hash(&name, &wanted);
        let number = self.list.insert(Pair {
            name,
            wanted,
            users: 1,
            one: Ids::default(),
            each: Bits::default(),
        }) as u32;
        self.by_hash.get_or_default(hash).push(number);
        number
    }

    /// Counts one binding less that requires a pair. The last one removes the pair.
    pub(super) fn release(&mut self, number: u32) {
        let Some(pair) = self.get_mut(number) else { return };
        pair.users -= 1;
        if pair.users > 0 {
            return;
        }
        debug_assert!(pair.one.is_empty() && pair.each.is_empty());
        self.changes += 1;
        let pair = self.list.remove(number as usize);
        let hash = self.hash(&pair.name, &pair.wanted);
        if let Some(numbers) = self.by_hash.get_mut(&hash) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_hash.remove(&hash);
            }
        }
    }

    fn hash(&self, name: &str, wanted: &Value) -> u64 {
        let value = match (wanted, Number::of(wanted)) {
            (Value::Void, _) => 0,
            (_, Some(number)) => self.hasher.hash_one(number),
            (wanted, None) if is_empty_list(wanted) => 1,
            (wanted, None) => hash_value(wanted, &self.hasher),
        };
        self.hasher.hash_one((name, matches!(wanted, Value::Void), value))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty() && self.by_hash.len() == 0
    }
}
