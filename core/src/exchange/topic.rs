//! Topic: bindings whose pattern matches the message's levels. AMQP 0-9-1 3.1.3.3; MQTT subscriptions live here too.

use super::BindingId;
use crate::topic::{Levels, Pattern, Trie};

/// Bindings by pattern, of both dialects.
#[derive(Default)]
pub(crate) struct Topic(Trie<BindingId>);

impl Topic {
    pub(crate) fn insert(&mut self, pattern: &Pattern, id: BindingId) {
        self.0.insert(pattern, id);
    }

    pub(crate) fn remove(&mut self, pattern: &Pattern, id: BindingId) {
        self.0.remove(pattern, &id);
    }

    pub(crate) fn memory(&self) -> usize {
        self.0.memory()
    }

    pub(crate) fn matches(&self, levels: &Levels<'_>, found: &mut Vec<BindingId>) {
        self.0.visit(levels, |&id| found.push(id));
    }
}
