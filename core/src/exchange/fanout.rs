//! Fanout: every binding, whatever the key. AMQP 0-9-1 3.1.3.2.

use super::BindingId;

/// All bindings, in order of their numbers.
#[derive(Default)]
pub(crate) struct Fanout(Vec<BindingId>);

impl Fanout {
    pub(crate) fn insert(&mut self, id: BindingId) {
        if let Err(at) = self.0.binary_search(&id) {
            self.0.insert(at, id);
        }
    }

    pub(crate) fn remove(&mut self, id: BindingId) {
        if let Ok(at) = self.0.binary_search(&id) {
            self.0.remove(at);
        }
    }

    pub(crate) fn matches(&self, found: &mut Vec<BindingId>) {
        found.extend_from_slice(&self.0);
    }
}
