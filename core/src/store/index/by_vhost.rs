//! What the index keeps of each key and queue, apart for each vhost: a vhost that is deleted is taken out at once, and what it
//! had is given back afterwards, some at a time.

use super::VhostId;
use crate::segmented::{IntoEntries, SegmentedMap};
use crate::store::{QueueId, key};
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::hash::Hash;

/// What belongs to a vhost.
pub(crate) trait OfVhost {
    /// Whose it is.
    fn vhost(&self) -> VhostId;
}

impl OfVhost for [u8] {
    fn vhost(&self) -> VhostId {
        key::vhost_of(self).unwrap_or(VhostId::NODE)
    }
}

impl OfVhost for Box<[u8]> {
    fn vhost(&self) -> VhostId {
        (**self).vhost()
    }
}

impl OfVhost for QueueId {
    fn vhost(&self) -> VhostId {
        QueueId::vhost(*self)
    }
}

/// Values by key, in a table for each vhost that has some. The committer adds keys while batches wait for it, so the tables
/// grow in small steps.
#[derive(Debug)]
pub(crate) struct ByVhost<K, V>(BTreeMap<VhostId, SegmentedMap<K, V>>);

impl<K, V> Default for ByVhost<K, V> {
    fn default() -> ByVhost<K, V> {
        ByVhost(BTreeMap::new())
    }
}

impl<K: OfVhost + Hash + Eq, V> ByVhost<K, V> {
    pub(crate) fn get<Q: OfVhost + Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(&key.vhost())?.get(key)
    }
    pub(crate) fn get_mut<Q: OfVhost + Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.0.get_mut(&key.vhost())?.get_mut(key)
    }
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.0.entry(key.vhost()).or_default().insert(key, value)
    }
    /// The value of a key, the default one if there is none yet.
    pub(crate) fn get_or_default(&mut self, key: K) -> &mut V
    where
        K: Clone,
        V: Default,
    {
        self.0.entry(key.vhost()).or_default().get_or_default(key)
    }
    pub(crate) fn remove<Q: OfVhost + Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let vhost = key.vhost();
        let table = self.0.get_mut(&vhost)?;
        let removed = table.remove(key);
        if table.is_empty() {
            self.0.remove(&vhost);
        }
        removed
    }
    /// All that a vhost has, which it has no more.
    pub(crate) fn take(&mut self, vhost: VhostId) -> SegmentedMap<K, V> {
        self.0.remove(&vhost).unwrap_or_default()
    }
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.values().flat_map(SegmentedMap::iter)
    }
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.0.values_mut().flat_map(SegmentedMap::iter_mut)
    }
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
    pub(crate) fn into_all(self) -> impl Iterator<Item = (K, V)> {
        self.0.into_values().flat_map(SegmentedMap::into_entries)
    }
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(SegmentedMap::len).sum()
    }
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a deleted vhost had, on its way out.
#[derive(Debug)]
pub(crate) struct Leaving<A, B> {
    /// Keys.
    pub(crate) keys: IntoEntries<(Box<[u8]>, A)>,
    /// Queues.
    pub(crate) queues: IntoEntries<(QueueId, B)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::hash::Hasher;

    thread_local! {
        static HASHED: Cell<usize> = const { Cell::new(0) };
    }

    /// A key that counts how often it is hashed.
    #[derive(PartialEq, Eq)]
    struct Counted(u32);

    impl Hash for Counted {
        fn hash<H: Hasher>(&self, state: &mut H) {
            HASHED.set(HASHED.get() + 1);
            self.0.hash(state);
        }
    }

    impl OfVhost for Counted {
        fn vhost(&self) -> VhostId {
            VhostId(1)
        }
    }

    /// A vhost's table of keys moved all of them when it was full, while every batch of the log waited.
    #[test]
    fn no_key_makes_many_others_move() {
        const COUNT: u32 = 50_000;
        let mut keys = ByVhost::default();
        let mut most = 0;
        let mut step = |act: &mut dyn FnMut()| {
            HASHED.set(0);
            act();
            most = most.max(HASHED.get());
        };
        for n in 0..COUNT {
            step(&mut || _ = keys.insert(Counted(n), n));
        }
        assert_eq!(keys.len(), COUNT as usize);
        for n in 0..COUNT {
            step(&mut || assert_eq!(keys.remove(&Counted(n)), Some(n)));
        }
        assert!(keys.is_empty());
        assert!((2..2 * 1024).contains(&most), "{most} keys in one step");
    }
}
