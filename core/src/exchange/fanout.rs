//! Fanout exchanges: every binding matches, whatever the key. AMQP 0-9-1 3.1.3.2.

use super::BindingId;
use crate::topic::Ids;

/// All bindings, in order of their numbers.
#[derive(Default)]
pub(crate) struct Fanout(Ids);

impl Fanout {
    pub(crate) fn insert(&mut self, id: BindingId) {
        self.0.insert(id);
    }

    pub(crate) fn remove(&mut self, id: BindingId) {
        self.0.remove(id);
    }

    /// Continues after `cursor`. Returns whether there may be more.
    pub(crate) fn matches(
        &self,
        cursor: &mut Option<BindingId>,
        steps: &mut usize,
        found: &mut Vec<BindingId>,
    ) -> bool {
        self.0.visit(cursor, steps, |id| found.push(id))
    }
}
