//! What the index keeps of each key and queue, apart for each vhost: a vhost that is deleted is taken out at once, and what it
//! had is given back afterwards, some at a time.

use super::VhostId;
use crate::store::{QueueId, key};
use hashbrown::HashMap;
use hashbrown::hash_map::IntoIter;
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

/// Values by key, in a table for each vhost that has some.
#[derive(Debug)]
pub(crate) struct ByVhost<K, V>(BTreeMap<VhostId, HashMap<K, V>>);

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
        V: Default,
    {
        self.0.entry(key.vhost()).or_default().entry(key).or_default()
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
    pub(crate) fn take(&mut self, vhost: VhostId) -> HashMap<K, V> {
        self.0.remove(&vhost).unwrap_or_default()
    }
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.values().flatten()
    }
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.0.values_mut().flatten()
    }
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values().flat_map(HashMap::values)
    }
    pub(crate) fn into_all(self) -> impl Iterator<Item = (K, V)> {
        self.0.into_values().flatten()
    }
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(HashMap::len).sum()
    }
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.0.values().map(HashMap::capacity).sum()
    }
    /// Gives back the memory of what was removed, where that is most of a table.
    pub(crate) fn shrink(&mut self) {
        const SMALL: usize = 1024;
        for table in self.0.values_mut() {
            if table.capacity() > SMALL && table.capacity() / 4 > table.len() {
                table.shrink_to(table.len() * 2);
            }
        }
    }
}

/// What a deleted vhost had, on its way out.
#[derive(Debug)]
pub(crate) struct Leaving<A, B> {
    /// Keys.
    pub(crate) keys: IntoIter<Box<[u8]>, A>,
    /// Queues.
    pub(crate) queues: IntoIter<QueueId, B>,
}
