//! The engine's keys for its objects, and the arena that stores them.
//!
//! A key is a slot and a generation. Slots are reused with a higher generation, so a key of a removed
//! object finds nothing. The log uses other identifiers, which survive a restart: a queue's is its [`QueueId`].
//!
//! [`QueueId`]: crate::store::QueueId

use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// A key of [`Slots`].
pub(crate) trait Key: Copy + Eq + std::fmt::Debug {
    /// The key of what is in `slot` in its `generation`.
    fn new(slot: u32, generation: u32) -> Self;
    /// Index of the slot.
    fn slot(self) -> u32;
    /// The slot's generation.
    fn generation(self) -> u32;
}

macro_rules! key {
    ($key:ident, $vis:vis, $what:literal) => {
        #[doc = $what]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        $vis struct $key {
            /// Index of its slot.
            $vis slot: u32,
            /// Increases each time the slot is reused.
            $vis generation: u32,
        }

        impl Key for $key {
            fn new(slot: u32, generation: u32) -> $key {
                $key { slot, generation }
            }
            fn slot(self) -> u32 {
                self.slot
            }
            fn generation(self) -> u32 {
                self.generation
            }
        }
    };
}

key!(Link, pub, "A connection at its engine.");
key!(ConsumerKey, pub(crate), "A consumer.");
key!(QueueKey, pub(crate), "A queue in memory.");
key!(SessionKey, pub(crate), "An MQTT session.");

impl Link {
    /// Stands for no connection: the publisher of wills and dead letters.
    pub(crate) const NOBODY: Link = Link {
        slot: u32::MAX,
        generation: 0,
    };
}

/// An arena: each value has a key until it is removed.
pub(crate) struct Slots<K, T> {
    slots: Vec<Slot<T>>,
    /// Free slots; the one that was freed last is used next.
    free: Vec<u32>,
    keys: PhantomData<fn(K) -> K>,
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<K, T> Default for Slots<K, T> {
    fn default() -> Self {
        Slots {
            slots: Vec::new(),
            free: Vec::new(),
            keys: PhantomData,
        }
    }
}

impl<K: Key, T> Slots<K, T> {
    /// Adds the value that `make` makes of its key.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(K) -> T) -> K {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                value: None,
            });
            (self.slots.len() - 1) as u32
        });
        let place = &mut self.slots[slot as usize];
        place.generation = place.generation.wrapping_add(1);
        let key = K::new(slot, place.generation);
        place.value = Some(make(key));
        key
    }
    /// Adds a value.
    pub(crate) fn insert(&mut self, value: T) -> K {
        self.insert_with(|_| value)
    }
    pub(crate) fn remove(&mut self, key: K) -> Option<T> {
        let place = self.slots.get_mut(key.slot() as usize)?;
        if place.generation != key.generation() {
            return None;
        }
        let value = place.value.take()?;
        self.free.push(key.slot());
        Some(value)
    }
    #[inline]
    pub(crate) fn get(&self, key: K) -> Option<&T> {
        let place = self.slots.get(key.slot() as usize)?;
        if place.generation != key.generation() {
            return None;
        }
        place.value.as_ref()
    }
    #[inline]
    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut T> {
        let place = self.slots.get_mut(key.slot() as usize)?;
        if place.generation != key.generation() {
            return None;
        }
        place.value.as_mut()
    }
    pub(crate) fn contains(&self, key: K) -> bool {
        self.get(key).is_some()
    }
    /// The key of what is in `slot` now.
    #[inline]
    pub(crate) fn key_at(&self, slot: u32) -> Option<K> {
        let place = self.slots.get(slot as usize)?;
        place.value.is_some().then(|| K::new(slot, place.generation))
    }
    #[inline]
    pub(crate) fn at_mut(&mut self, slot: u32) -> Option<(K, &mut T)> {
        let place = self.slots.get_mut(slot as usize)?;
        Some((K::new(slot, place.generation), place.value.as_mut()?))
    }
    /// Above the highest slot ever used.
    pub(crate) fn slots_end(&self) -> u32 {
        self.slots.len() as u32
    }
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// All of them, in the order of their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(slot, place)| Some((K::new(slot as u32, place.generation), place.value.as_ref()?)))
    }
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|place| place.value.as_ref())
    }
    #[cfg(test)]
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|place| place.value.as_mut())
    }
}

/// For a key whose value must exist. Panics if it does not, because continuing would use another object's state.
impl<K: Key, T> Index<K> for Slots<K, T> {
    type Output = T;
    fn index(&self, key: K) -> &T {
        match self.get(key) {
            Some(value) => value,
            None => panic!("{key:?} is gone"),
        }
    }
}

/// See [`Index`].
impl<K: Key, T> IndexMut<K> for Slots<K, T> {
    fn index_mut(&mut self, key: K) -> &mut T {
        match self.get_mut(key) {
            Some(value) => value,
            None => panic!("{key:?} is gone"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_its_own_value_and_no_later_one() {
        let mut slots: Slots<QueueKey, &str> = Slots::default();
        let (a, b) = (slots.insert("a"), slots.insert("b"));
        assert_eq!((slots.get(a), slots[b], slots.len()), (Some(&"a"), "b", 2));
        assert_eq!(slots.remove(a), Some("a"));
        assert_eq!((slots.get(a), slots.key_at(a.slot)), (None, None));
        let c = slots.insert_with(|key| if key.slot == a.slot { "c" } else { "elsewhere" });
        assert_eq!((slots[c], slots.key_at(a.slot)), ("c", Some(c)));
        assert!(!slots.contains(a) && slots.get_mut(a).is_none() && slots.remove(a).is_none());
        let all: Vec<_> = slots.iter().map(|(key, value)| (key, *value)).collect();
        assert_eq!(all, [(c, "c"), (b, "b")]);
        *slots.get_mut(b).unwrap() = "B";
        slots.values_mut().for_each(|value| *value = "x");
        assert_eq!(slots.values().collect::<Vec<_>>(), [&"x", &"x"]);
        slots.remove(b);
        slots.remove(c);
        assert!(slots.is_empty());
    }
}
