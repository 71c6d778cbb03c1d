//! Topic exchanges: a binding matches if its pattern matches the levels of the message's key. AMQP 0-9-1 3.1.3.3. MQTT
//! subscriptions are bindings of a topic exchange too.

use super::BindingId;
use crate::topic::{Levels, Pattern, Trie, Walk};

/// Bindings by pattern. Patterns of both dialects are in one trie.
#[derive(Default)]
pub(crate) struct Topic(Trie);

impl Topic {
    pub(crate) fn insert(&mut self, pattern: &Pattern, id: BindingId) {
        self.0.insert(pattern, id);
    }

    pub(crate) fn remove(&mut self, pattern: &Pattern, id: BindingId) {
        self.0.remove(pattern, id);
    }

    pub(crate) fn memory(&self) -> usize {
        self.0.memory()
    }

    /// Continues a walk. Returns whether there may be more.
    pub(crate) fn matches(
        &self,
        levels: &Levels<'_>,
        walk: &mut Walk,
        steps: &mut usize,
        found: &mut Vec<BindingId>,
    ) -> bool {
        self.0.walk(levels, walk, steps, |id| found.push(id))
    }
}
