//! Adds and removes bindings, and deletes auto-delete exchanges that lose their last one.

use super::edge::{Edge, identity_hash};
use super::memory::binding_bytes;
use super::{BINDINGS_AT_ONCE, BINDINGS_MAX, End, Router};
use crate::arguments;
use crate::binding::{Binding, Destination, Grant, QueueSlot, Removed};
use crate::exchange::{BindingId, Scope};
use crate::fault::{Fault, FaultKind};
use crate::message::Dialect;
use crate::properties::Table;
use crate::topic::check_filter;
use std::collections::BTreeSet;

/// What a removal has deleted so far, and the auto-delete exchanges that have no bindings left.
#[derive(Default)]
pub(super) struct Removal {
    pub(super) removed: Vec<Removed>,
    idle: Vec<u32>,
}

impl Router {
    /// Binds by a key in the dot dialect. Returns whether the binding is new. Repeating a binding replaces its grant.
    ///
    /// # Errors
    /// AccessRefused for the default exchange. NotFound for the source, then for a destination exchange; if both the
    /// source and the destination queue are missing, the source has to be reported: see [`Router::require_exchange`].
    /// PreconditionFailed for bad arguments. QuotaExceeded at [`BINDINGS_MAX`].
    pub fn bind(
        &mut self,
        source: &str,
        destination: Destination,
        key: &str,
        arguments: Table,
        grant: Option<Grant>,
    ) -> Result<bool, Fault> {
        self.refuse_default(source)?;
        self.add_binding(source, destination, key, Dialect::Dot, arguments, grant)
    }

    /// Removes a binding made with [`Router::bind`], and auto-delete exchanges that lose their last binding with it. It
    /// is no fault if the binding or its source does not exist. Of a `Destination::Queue` only the slot is looked at.
    ///
    /// # Errors
    /// AccessRefused for the default exchange.
    pub fn unbind(
        &mut self,
        source: &str,
        destination: &Destination,
        key: &str,
        arguments: &Table,
    ) -> Result<Vec<Removed>, Fault> {
        self.refuse_default(source)?;
        let end = match destination {
            Destination::Queue { slot, .. } => Some(End::Queue(*slot)),
            Destination::Exchange(name) => {
                self.refuse_default(name)?;
                self.find_exchange(name).map(End::Exchange)
            }
        };
        Ok(end.map_or_else(Vec::new, |end| {
            self.remove_binding(source, end, key, Dialect::Dot, arguments)
        }))
    }

    /// Binds by an MQTT topic filter. Returns whether the subscription is new. Repeating it replaces its grant in
    /// place: no message is missed or duplicated meanwhile.
    ///
    /// # Errors
    /// As [`Router::bind`]. PreconditionFailed if the filter is not valid.
    pub fn subscribe(
        &mut self,
        exchange: &str,
        destination: Destination,
        filter: &str,
        grant: Grant,
    ) -> Result<bool, Fault> {
        self.refuse_default(exchange)?;
        if let Err(invalid) = check_filter(filter) {
            return Err(Fault::new(FaultKind::PreconditionFailed, invalid.to_string()));
        }
        self.add_binding(
            exchange,
            destination,
            filter,
            Dialect::Slash,
            Table::default(),
            Some(grant),
        )
    }

    /// Removes a binding made with [`Router::subscribe`]. Returns an empty list if there was none.
    pub fn unsubscribe(&mut self, exchange: &str, queue: QueueSlot, filter: &str) -> Vec<Removed> {
        self.remove_binding(exchange, End::Queue(queue), filter, Dialect::Slash, &Table::default())
    }

    /// Whether the binding exists that [`Router::bind`] would make.
    pub(crate) fn is_bound(&self, source: &str, destination: &Destination, key: &str, arguments: &Table) -> bool {
        let end = match destination {
            Destination::Queue { slot, .. } => Some(End::Queue(*slot)),
            Destination::Exchange(name) => self.find_exchange(name).map(End::Exchange),
        };
        let ends = self.find_exchange(source).zip(end);
        ends.is_some_and(|(source, end)| self.find_binding(source, end, key, Dialect::Dot, arguments).is_some())
    }

    /// The number of bindings that lead to a queue.
    pub(crate) fn count_bindings_of(&self, queue: QueueSlot) -> usize {
        self.queues.get(&queue).map_or(0, |queue| queue.bindings.len())
    }

    /// Removes at most `max` of the bindings that lead to a queue. Clients choose how many there are, so a deletion
    /// removes them in steps before it removes the queue.
    pub(crate) fn remove_some_bindings_of(&mut self, queue: QueueSlot, max: usize) -> Vec<Removed> {
        let ids = self.queues.get(&queue).into_iter().flat_map(|queue| &queue.bindings);
        let some: Vec<BindingId> = ids.take(max).copied().collect();
        let mut removal = Removal::default();
        for id in some {
            self.drop_binding(id, &mut removal);
        }
        self.cascade(&mut removal);
        removal.removed
    }

    /// Removes `max` bindings of an exchange that is being deleted. `None`: it has no more than `max` left, so one step
    /// deletes it.
    pub(super) fn remove_some_bindings(&mut self, id: u32, max: usize) -> Option<Vec<Removed>> {
        let exchange = &mut self.exchanges[id as usize];
        if exchange.outgoing.len() + exchange.incoming.len() <= max {
            return None;
        }
        exchange.ending = true;
        let some: BTreeSet<BindingId> = exchange.outgoing.union(&exchange.incoming).take(max).copied().collect();
        let mut removal = Removal::default();
        for binding in some {
            self.drop_binding(binding, &mut removal);
        }
        self.cascade(&mut removal);
        Some(removal.removed)
    }

    fn add_binding(
        &mut self,
        source: &str,
        destination: Destination,
        key: &str,
        dialect: Dialect,
        arguments: Table,
        grant: Option<Grant>,
    ) -> Result<bool, Fault> {
        if let Destination::Exchange(name) = &destination {
            self.refuse_default(name)?;
        }
        let source = self.require(source)?;
        self.refuse_ending(source)?;
        let (end, end_durable) = match &destination {
            Destination::Queue { slot, durable, .. } => (End::Queue(*slot), *durable),
            Destination::Exchange(name) => {
                let id = self.require(name)?;
                self.refuse_ending(id)?;
                (End::Exchange(id), self.exchanges[id as usize].durable)
            }
        };
        let exchange = &mut self.exchanges[source as usize];
        exchange.table.check(&arguments)?;
        if let Some(id) = self.find_binding(source, end, key, dialect, &arguments) {
            self.bindings[id as usize].binding.grant = grant;
            self.touch(id);
            return Ok(false);
        }
        if self.bindings.len() >= BINDINGS_MAX {
            let text = format!("binding limit ({BINDINGS_MAX}) in vhost '{}' is reached", self.vhost);
            return Err(Fault::new(FaultKind::QuotaExceeded, text));
        }
        let exchange = &mut self.exchanges[source as usize];
        let binding = Binding {
            source: exchange.name.clone(),
            destination,
            key: key.into(),
            dialect,
            arguments,
            grant,
            durable: exchange.durable && end_durable,
        };
        let id = self.bindings.vacant_key() as BindingId;
        let shared = exchange.table.memory();
        exchange.table.insert(id, &binding);
        self.bytes += exchange.table.memory() - shared;
        self.bytes += binding_bytes(exchange.table.kind(), key, &binding.arguments, is_logged(&binding));
        exchange.outgoing.insert(id);
        match end {
            End::Queue(slot) => self.queues.get_or_default(slot).bindings.insert(id),
            End::Exchange(other) => self.exchanges[other as usize].incoming.insert(id),
        };
        let serial = self.next_serial();
        let edge = Edge {
            binding,
            source,
            end,
            serial,
        };
        let hash = edge.identity_hash(&self.hasher);
        self.bindings.insert(edge);
        let Router {
            identities,
            bindings,
            hasher,
            ..
        } = self;
        identities.insert_unique(hash, id, |&id| bindings[id as usize].identity_hash(hasher));
        self.touch(id);
        Ok(true)
    }

    fn find_binding(&self, source: u32, end: End, key: &str, dialect: Dialect, arguments: &Table) -> Option<BindingId> {
        let same = |&id: &BindingId| {
            let edge = &self.bindings[id as usize];
            edge.source == source
                && edge.end == end
                && edge.binding.dialect == dialect
                && *edge.binding.key == *key
                && arguments::same_table(&edge.binding.arguments, arguments)
        };
        let hash = identity_hash(&self.hasher, source, end, key, dialect, arguments);
        self.identities.find(hash, same).copied()
    }

    fn remove_binding(
        &mut self,
        source: &str,
        end: End,
        key: &str,
        dialect: Dialect,
        arguments: &Table,
    ) -> Vec<Removed> {
        let found = self
            .find_exchange(source)
            .and_then(|id| self.find_binding(id, end, key, dialect, arguments));
        let mut removal = Removal::default();
        if let Some(id) = found {
            self.drop_binding(id, &mut removal);
            self.cascade(&mut removal);
        }
        removal.removed
    }

    /// Invalidates remembered routes that depend on the binding.
    fn touch(&mut self, id: BindingId) {
        let edge = &self.bindings[id as usize];
        let source = &self.exchanges[edge.source as usize];
        source
            .table
            .with_scope_of(&edge.binding, |scope| self.generations.bump(&source.name, scope));
    }

    pub(super) fn drop_binding(&mut self, id: BindingId, removal: &mut Removal) {
        self.touch(id);
        let Router {
            identities,
            bindings,
            hasher,
            ..
        } = self;
        let hash_of = |&id: &BindingId| bindings[id as usize].identity_hash(hasher);
        identities.remove(hash_of(&id), |&other| other == id, hash_of);
        let edge = self.bindings.remove(id as usize);
        let source = &mut self.exchanges[edge.source as usize];
        let shared = source.table.memory();
        source.table.remove(id, &edge.binding);
        self.bytes -= shared - source.table.memory();
        let Binding { key, arguments, .. } = &edge.binding;
        self.bytes -= binding_bytes(source.table.kind(), key, arguments, is_logged(&edge.binding));
        source.outgoing.remove(&id);
        if source.auto_delete && source.outgoing.is_empty() {
            removal.idle.push(edge.source);
        }
        match edge.end {
            End::Queue(slot) => {
                if let Some(queue) = self.queues.get_mut(&slot) {
                    queue.bindings.remove(&id);
                }
            }
            End::Exchange(other) => {
                self.exchanges[other as usize].incoming.remove(&id);
            }
        }
        removal.removed.push(Removed::Binding(edge.binding));
    }

    pub(super) fn drop_exchange(&mut self, id: u32, removal: &mut Removal) {
        let exchange = &self.exchanges[id as usize];
        self.generations.bump(&exchange.name, Scope::Whole);
        // A binding of the exchange to itself is in both sets.
        let mine: BTreeSet<BindingId> = exchange.outgoing.union(&exchange.incoming).copied().collect();
        for binding in mine {
            self.drop_binding(binding, removal);
        }
        let exchange = self.exchanges.remove(id as usize);
        self.bytes -= exchange.bytes;
        self.exchange_names.remove(&exchange.name);
        removal.removed.push(Removed::Exchange {
            name: exchange.name,
            durable: exchange.durable,
        });
    }

    /// Deletes the auto-delete exchanges that lost their last binding, and those that lose it in turn. An exchange to
    /// which many others lead, and the rest of a long chain, are left to [`Router::continue_deletions`], so that one
    /// step stays short.
    pub(super) fn cascade(&mut self, removal: &mut Removal) {
        while let Some(id) = removal.idle.pop() {
            // It may have been deleted meanwhile. Nothing is created here, so its number has no other meaning yet.
            let Some(exchange) = self.exchanges.get_mut(id as usize) else {
                continue;
            };
            if exchange.incoming.len() > BINDINGS_AT_ONCE || removal.removed.len() > CASCADE_MAX {
                if !exchange.ending {
                    exchange.ending = true;
                    self.pending_deletions.push(exchange.name.clone());
                }
            } else {
                self.drop_exchange(id, removal);
            }
        }
    }
}

/// The most bindings and exchanges that one step of a cascade deletes.
const CASCADE_MAX: usize = 4 * BINDINGS_AT_ONCE;

/// Whether the log has a record of the binding itself. Subscriptions are logged with their session instead.
fn is_logged(binding: &Binding) -> bool {
    binding.durable && binding.grant.is_none()
}
