//! Fanout: every binding, whatever the key. AMQP 0-9-1 3.1.3.2.

use super::BindingId;
use std::collections::BTreeSet;

/// All bindings, in order of their numbers.
#[derive(Default)]
pub(crate) struct Fanout(BTreeSet<BindingId>);

impl Fanout {
    pub(crate) fn insert(&mut self, id: BindingId) {
        self.0.insert(id);
    }

    pub(crate) fn remove(&mut self, id: BindingId) {
        self.0.remove(&id);
    }

    pub(crate) fn matches(&self, found: &mut Vec<BindingId>) {
        found.extend(&self.0);
    }
}
