//! Direct exchanges: a binding matches if its key equals the message's key. AMQP 0-9-1 3.1.3.1.

use super::BindingId;
use crate::segmented::SegmentedMap;
use crate::topic::Ids;

/// Bindings by key. Never iterated: its order is random.
#[derive(Default)]
pub(crate) struct Direct(SegmentedMap<Box<str>, Ids>);

impl Direct {
    pub(crate) fn insert(&mut self, key: &str, id: BindingId) {
        match self.0.get_mut(key) {
            Some(ids) => _ = ids.insert(id),
            None => {
                let mut ids = Ids::default();
                ids.insert(id);
                self.0.insert(key.into(), ids);
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &str, id: BindingId) {
        if let Some(ids) = self.0.get_mut(key) {
            ids.remove(id);
            if ids.is_empty() {
                self.0.remove(key);
            }
        }
    }

    /// Continues after `cursor`. Returns whether there may be more.
    pub(crate) fn matches(
        &self,
        key: &str,
        cursor: &mut Option<BindingId>,
        steps: &mut usize,
        found: &mut Vec<BindingId>,
    ) -> bool {
        self.0
            .get(key)
            .is_some_and(|ids| ids.visit(cursor, steps, |id| found.push(id)))
    }
}
