//! Hash tables that grow and shrink in small steps.
//!
//! A common hash table that is full moves all its entries to a larger one. With a million entries that takes a tenth of a second, in
//! which nobody else gets the engine's lock; and a client chooses when it happens. So entries are kept in segments, of some hundred
//! entries each, and an insertion moves those of one segment at most.
//!
//! ```text
//!   segments    0   1   2   3   4   5          6 segments: an entry's number is its hash modulo 8,
//!               └───────────────┼───┘          or modulo 4, where there is no segment of that number
//!                   6 is next to be split off 2
//! ```
//!
//! This is linear hashing (Litwin, 1980). When segments are full on average, the next one is split off the segment that has its
//! entries so far; when few entries are left, the last segment goes back into that one. So the work is spread evenly over
//! insertions and removals.

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::borrow::Borrow;
use std::fmt::{Debug, Formatter};
use std::hash::{BuildHasher, Hash};
use std::iter::{Chain, Flatten, Once};

/// Entries of a segment on average, when the next one is split off. A segment that is not split yet has twice as many: with what
/// hashes deviate, that fits in 1,024 places, seven eighths of which may be used.
const SEGMENT: usize = 384;
/// Entries that a new segment has room for.
const ROOM: usize = 448;
/// The bits of a hash that choose the segment: neither those that choose the place in it, which are the lowest, nor those that a
/// place is marked with, the highest.
const SHIFT: u32 = 24;

/// Entries by their hashes.
pub(crate) struct Segmented<T> {
    /// Most tables have no other.
    first: HashTable<T>,
    more: Vec<HashTable<T>>,
    len: usize,
}

impl<T> Default for Segmented<T> {
    fn default() -> Segmented<T> {
        Segmented {
            first: HashTable::new(),
            more: Vec::new(),
            len: 0,
        }
    }
}

/// All entries of a table, which is gone.
pub(crate) type IntoEntries<T> = Flatten<Chain<Once<HashTable<T>>, std::vec::IntoIter<HashTable<T>>>>;

impl<T> Segmented<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.first).chain(&self.more).flatten()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        std::iter::once(&mut self.first).chain(&mut self.more).flatten()
    }

    fn into_entries(self) -> IntoEntries<T> {
        std::iter::once(self.first).chain(self.more).flatten()
    }

    /// The entry with that hash that `is_it` knows.
    #[inline]
    pub(crate) fn find(&self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&T> {
        self.segment(hash).find(hash, is_it)
    }

    /// Like [`Segmented::find`], mutable. The entry's hash must stay as it is.
    #[inline]
    pub(crate) fn find_mut(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&mut T> {
        self.segment_mut(hash).find_mut(hash, is_it)
    }

    /// Adds an entry that is not there. `hash_of` gives the hash of any entry.
    pub(crate) fn insert_unique(&mut self, hash: u64, entry: T, hash_of: impl Fn(&T) -> u64) {
        self.segment_mut(hash).insert_unique(hash, entry, &hash_of);
        self.len += 1;
        if self.len > (self.more.len() + 1) * SEGMENT {
            self.split(hash_of);
        }
    }

    /// Takes an entry out. `hash_of` gives the hash of any entry.
    pub(crate) fn remove(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&T) -> bool,
        hash_of: impl Fn(&T) -> u64,
    ) -> Option<T> {
        let found = self.segment_mut(hash).find_entry(hash, is_it).ok()?;
        let (entry, _) = found.remove();
        self.len -= 1;
        if self.len < self.more.len() * SEGMENT / 2 {
            self.merge(hash_of);
        }
        Some(entry)
    }

    #[inline]
    fn segment(&self, hash: u64) -> &HashTable<T> {
        match number(hash, self.more.len() + 1) {
            0 => &self.first,
            number => &self.more[number - 1],
        }
    }

    #[inline]
    fn segment_mut(&mut self, hash: u64) -> &mut HashTable<T> {
        match number(hash, self.more.len() + 1) {
            0 => &mut self.first,
            number => &mut self.more[number - 1],
        }
    }

    fn numbered(&mut self, number: usize) -> &mut HashTable<T> {
        match number {
            0 => &mut self.first,
            number => &mut self.more[number - 1],
        }
    }

    /// One segment more.
    fn split(&mut self, hash_of: impl Fn(&T) -> u64) {
        let new = self.more.len() + 1;
        let full = std::mem::replace(self.numbered(origin(new)), HashTable::with_capacity(ROOM));
        self.more.push(HashTable::with_capacity(ROOM));
        for entry in full {
            let hash = hash_of(&entry);
            self.segment_mut(hash).insert_unique(hash, entry, &hash_of);
        }
    }

    /// One segment less.
    fn merge(&mut self, hash_of: impl Fn(&T) -> u64) {
        let last = self.more.pop().unwrap_or_default();
        if self.more.capacity() / 4 > self.more.len() {
            self.more.shrink_to(self.more.len() * 2);
        }
        for entry in last {
            let hash = hash_of(&entry);
            self.segment_mut(hash).insert_unique(hash, entry, &hash_of);
        }
    }
}

/// The segment that an entry is in, if there are so many.
#[inline]
fn number(hash: u64, segments: usize) -> usize {
    if segments == 1 {
        return 0;
    }
    let mask = segments.next_power_of_two() - 1;
    let number = (hash >> SHIFT) as usize & mask;
    if number < segments {
        number
    } else {
        number & (mask >> 1)
    }
}

/// The segment off which a new one is split: the one without the highest bit of its number.
fn origin(new: usize) -> usize {
    new & !(1 << new.ilog2())
}

/// Values by key.
pub(crate) struct SegmentedMap<K, V> {
    table: Segmented<(K, V)>,
    hasher: RandomState,
}

impl<K, V> Default for SegmentedMap<K, V> {
    fn default() -> SegmentedMap<K, V> {
        SegmentedMap {
            table: Segmented::default(),
            hasher: RandomState::default(),
        }
    }
}

impl<K: Debug, V: Debug> Debug for SegmentedMap<K, V> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K, V> SegmentedMap<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.table.iter().map(|(key, value)| (key, value))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.table.iter_mut().map(|(key, value)| (&*key, value))
    }

    pub(crate) fn into_entries(self) -> IntoEntries<(K, V)> {
        self.table.into_entries()
    }
}

impl<K: Hash + Eq, V> SegmentedMap<K, V> {
    #[inline]
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let found = self.table.find(self.hasher.hash_one(key), |(k, _)| k.borrow() == key);
        found.map(|(_, value)| value)
    }

    #[inline]
    pub(crate) fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let found = self
            .table
            .find_mut(self.hasher.hash_one(key), |(k, _)| k.borrow() == key);
        found.map(|(_, value)| value)
    }

    /// Sets the value of a key. Returns the one before it.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(before) = self.get_mut(&key) {
            return Some(std::mem::replace(before, value));
        }
        let Self { table, hasher } = self;
        table.insert_unique(hasher.hash_one(&key), (key, value), |(k, _)| hasher.hash_one(k));
        None
    }

    /// The value of a key, the default one if there is none yet.
    pub(crate) fn get_or_default(&mut self, key: K) -> &mut V
    where
        K: Clone,
        V: Default,
    {
        let Self { table, hasher } = self;
        let hash = hasher.hash_one(&key);
        if table.find(hash, |(k, _)| *k == key).is_none() {
            let entry = (key.clone(), V::default());
            table.insert_unique(hash, entry, |(k, _)| hasher.hash_one(k));
        }
        match table.find_mut(hash, |(k, _)| *k == key) {
            Some((_, value)) => value,
            None => unreachable!("it was just inserted"),
        }
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let Self { table, hasher } = self;
        let removed = table.remove(
            hasher.hash_one(key),
            |(k, _)| k.borrow() == key,
            |(k, _)| hasher.hash_one(k),
        );
        removed.map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::collections::HashMap;

    /// However it grows and shrinks, what is in it is found.
    #[test]
    fn a_segmented_map_is_a_map() {
        let (mut map, mut model) = (SegmentedMap::default(), HashMap::new());
        let mut random = 1_u64;
        // Up to 20,000 entries, down to none, and again.
        for round in 0..200_000_u64 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let key = (random >> 33) % 30_000;
            if (round / 50_000).is_multiple_of(2) {
                assert_eq!(map.insert(key, round), model.insert(key, round));
            } else {
                assert_eq!(map.remove(&key), model.remove(&key));
                assert!(map.remove(&key).is_none());
            }
            assert_eq!(map.len(), model.len());
        }
        for (_, value) in map.iter_mut() {
            *value += 1;
        }
        model.values_mut().for_each(|value| *value += 1);
        let all: HashMap<u64, u64> = map.iter().map(|(key, value)| (*key, *value)).collect();
        assert_eq!(all, model);
        for key in 0..30_000 {
            assert_eq!(map.get(&key), model.get(&key));
            map.remove(&key);
        }
        assert_eq!(
            (map.len(), map.table.more.len()),
            (0, 0),
            "its segments went with its entries"
        );
        *map.get_or_default(7) += 1;
        *map.get_or_default(7) += 1;
        assert_eq!(map.get(&7), Some(&2));
    }

    /// A table of a million entries moved all of them in one insertion, which took a tenth of a second.
    #[test]
    fn no_step_moves_many_entries() {
        let hasher = RandomState::default();
        let moved = Cell::new(0);
        let hash_of = |n: &u32| {
            moved.set(moved.get() + 1);
            hasher.hash_one(n)
        };
        let mut table = Segmented::default();
        let mut most = 0;
        for n in 0..300_000_u32 {
            moved.set(0);
            table.insert_unique(hasher.hash_one(n), n, hash_of);
            most = most.max(moved.get());
        }
        for n in 0..300_000_u32 {
            moved.set(0);
            assert_eq!(table.remove(hasher.hash_one(n), |it| *it == n, hash_of), Some(n));
            most = most.max(moved.get());
        }
        assert!(most < 2 * 1024, "{most} entries in one step");
    }
}
