//! Direct: bindings whose key equals the message's. AMQP 0-9-1 3.1.3.1.

use super::BindingId;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::{SmallVec, smallvec};

/// Bindings by key. Never iterated: its order is random.
#[derive(Default)]
pub(crate) struct Direct(HashMap<Box<str>, SmallVec<[BindingId; 2]>, RandomState>);

impl Direct {
    pub(crate) fn insert(&mut self, key: &str, id: BindingId) {
        match self.0.get_mut(key) {
            Some(ids) => ids.push(id),
            None => {
                self.0.insert(key.into(), smallvec![id]);
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &str, id: BindingId) {
        if let Some(ids) = self.0.get_mut(key) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.0.remove(key);
            }
        }
    }

    pub(crate) fn matches(&self, key: &str, found: &mut Vec<BindingId>) {
        if let Some(ids) = self.0.get(key) {
            found.extend_from_slice(ids);
        }
    }
}
