//! The headers of a message.

use crate::ledger::hashed;
use crate::properties::{Name, Table, Value};
use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// A message's headers with an index by name. If a name is repeated, its first header counts.
pub(crate) struct MessageHeaders {
    table: Table,
    /// Never iterated.
    first: HashMap<Name, u32, RandomState>,
}

impl MessageHeaders {
    pub(crate) fn new(table: Table) -> MessageHeaders {
        let mut first = HashMap::with_capacity_and_hasher(table.0.len(), RandomState::default());
        for (at, (name, _)) in table.0.iter().enumerate() {
            first.entry(name.clone()).or_insert(at as u32);
        }
        MessageHeaders { table, first }
    }

    /// The number of headers.
    pub(super) fn len(&self) -> usize {
        self.table.0.len()
    }

    /// Bytes that it occupies.
    pub(crate) fn memory(&self) -> usize {
        self.table.memory() + self.first.capacity() * hashed::<(Name, u32)>()
    }

    pub(super) fn lookup(&self, name: &str) -> Option<&Value> {
        let at = self.first.get(name)?;
        self.table.0.get(*at as usize).map(|(_, value)| value)
    }

    /// The header at `place`, unless an earlier one has the same name.
    pub(super) fn at(&self, place: usize) -> Option<(&str, &Value)> {
        let (name, value) = self.table.0.get(place)?;
        (self.first.get(name) == Some(&(place as u32))).then_some((&**name, value))
    }
}
