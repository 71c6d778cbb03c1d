//! The connections of a vhost.

use super::link::LinkState;
use crate::slots::{Link, Slots};

/// All attached connections.
#[derive(Default)]
pub(crate) struct Links {
    // Boxed, because most slots are unused in a vhost that once had many connections.
    slots: Slots<Link, Box<LinkState>>,
}

impl Links {
    /// Adds a connection, which `make` creates for its key.
    pub(crate) fn attach(&mut self, make: impl FnOnce(Link) -> LinkState) -> Link {
        self.slots.insert_with(|link| Box::new(make(link)))
    }
    /// Removes a connection.
    pub(crate) fn remove(&mut self, link: Link) -> Option<Box<LinkState>> {
        self.slots.remove(link)
    }
    #[inline]
    pub(crate) fn get(&self, link: Link) -> Option<&LinkState> {
        self.slots.get(link).map(|l| &**l)
    }
    #[inline]
    pub(crate) fn get_mut(&mut self, link: Link) -> Option<&mut LinkState> {
        self.slots.get_mut(link).map(|l| &mut **l)
    }
    /// See [`Slots::slots_end`].
    pub(crate) fn slots_end(&self) -> u32 {
        self.slots.slots_end()
    }
    /// The connection in a slot.
    pub(crate) fn at(&self, slot: u32) -> Option<&LinkState> {
        self.get(self.slots.key_at(slot)?)
    }
    /// The connection in a slot, mutably.
    pub(crate) fn at_mut(&mut self, slot: u32) -> Option<&mut LinkState> {
        self.get_mut(self.slots.key_at(slot)?)
    }
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &LinkState> {
        self.slots.values().map(|l| &**l)
    }
}
