//! Routing one message: from the cache, or by walking the exchanges it reaches.

use super::generations::Cell;
use super::{End, Router, Target};
use crate::binding::QueueSlot;
use crate::exchange::{BindingId, BindingTable, Scope, Subject};
use crate::fault::{Fault, FaultKind};
use crate::message::{Dialect, Message};
use crate::properties::Name;
use std::sync::Arc;

/// Room for one routing, kept from message to message.
#[derive(Default)]
pub(super) struct Scratch {
    targets: Vec<Target>,
    /// Bindings of the exchange being visited.
    matched: Vec<BindingId>,
    /// Exchanges still to visit.
    exchanges: Vec<u32>,
    /// Queues reached, and the binding that led there ([`PLAIN`]: an implied one).
    queues: Vec<(QueueSlot, BindingId)>,
    /// What the route depends on.
    cells: Vec<Cell>,
    /// Counts walks.
    turn: u64,
}

/// In place of a binding: the default exchange's.
const PLAIN: BindingId = BindingId::MAX;

impl Router {
    /// Where a message goes: each queue once, in ascending order of slots. `extra_keys` are further routing keys (CC,
    /// BCC) in the dot dialect; the message's own key is always used.
    ///
    /// An exchange whose bindings do not match hands the message to its alternate exchange. Each exchange is visited
    /// once, so that bindings between exchanges may form circles.
    ///
    /// # Errors
    /// NotFound for the exchange, AccessRefused if it is internal.
    pub fn route(&mut self, message: &Message, extra_keys: &[Name]) -> Result<&[Target], Fault> {
        if extra_keys.is_empty() {
            if message.exchange_bytes().is_empty() {
                return Ok(self.route_by_name(message));
            }
            if let Some(index) = self.cache.find(message, &self.generations) {
                return Ok(self.cache.targets(index));
            }
        }
        self.route_by_walk(message, extra_keys)
    }

    /// The default exchange: the key is a queue's name, not levels.
    fn route_by_name(&mut self, message: &Message) -> &[Target] {
        let targets = &mut self.scratch.targets;
        targets.clear();
        if message.envelope().dialect == Dialect::Dot {
            let key = message.key_bytes();
            let found = self
                .queue_names
                .find(message.route_hash(), |(name, _)| name.as_bytes() == key);
            targets.extend(found.map(|(_, slot)| Target::plain(*slot)));
        } else {
            let mut subject = Subject::new(message, &[], &self.codecs);
            let found = subject.keys.iter_mut().find_map(|key| self.queue(key.dotted()));
            self.scratch.targets.extend(found.map(Target::plain));
        }
        &self.scratch.targets
    }

    pub(super) fn route_by_walk(&mut self, message: &Message, extra_keys: &[Name]) -> Result<&[Target], Fault> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let walked = self.walk(message, extra_keys, &mut scratch);
        if let Ok(true) = walked {
            self.cache
                .insert(message, &scratch.targets, &scratch.cells, &self.generations);
        }
        self.scratch = scratch;
        walked.map(|_| &*self.scratch.targets)
    }

    /// Fills `scratch.targets` and `scratch.cells`. Returns whether the route depends on nothing else.
    fn walk(&mut self, message: &Message, extra_keys: &[Name], scratch: &mut Scratch) -> Result<bool, Fault> {
        scratch.targets.clear();
        scratch.exchanges.clear();
        scratch.queues.clear();
        scratch.cells.clear();
        scratch.turn += 1;
        let mut cacheable = extra_keys.is_empty();
        let codecs = Arc::clone(&self.codecs);
        let mut subject = Subject::new(message, extra_keys, &codecs);
        if message.exchange().is_empty() {
            self.match_names(&mut subject, &mut scratch.queues);
        } else {
            let id = self.require(message.exchange())?;
            let exchange = &mut self.exchanges[id as usize];
            if exchange.internal {
                let text = format!("cannot publish to internal {}", self.describe(message.exchange()));
                return Err(Fault::new(FaultKind::AccessRefused, text));
            }
            exchange.visited = scratch.turn;
            scratch.exchanges.push(id);
        }
        while let Some(id) = scratch.exchanges.pop() {
            let exchange = &self.exchanges[id as usize];
            scratch.cells.push(self.generations.cell(&exchange.name, Scope::Whole));
            if let BindingTable::Headers(_) = exchange.table {
                // What else is in the message counts, not only its address.
                cacheable = false;
            } else if cacheable {
                for key in &mut subject.keys {
                    let scope = exchange.table.scope_of_key(key);
                    if scope != Scope::Whole {
                        scratch.cells.push(self.generations.cell(&exchange.name, scope));
                    }
                }
            }
            scratch.matched.clear();
            exchange.table.matches(&mut subject, &mut scratch.matched);
            if scratch.matched.is_empty()
                && let Some(alternate) = exchange.alternate.clone()
            {
                if alternate.is_empty() {
                    // By the names of queues, which no cell counts.
                    cacheable = false;
                    self.match_names(&mut subject, &mut scratch.queues);
                    continue;
                }
                // Whether it exists counts as well.
                scratch.cells.push(self.generations.cell(&alternate, Scope::Whole));
                if let Some(other) = self.find_exchange(&alternate) {
                    self.visit_later(other, scratch);
                }
            }
            for index in 0..scratch.matched.len() {
                let binding = scratch.matched[index];
                match self.bindings[binding as usize].end {
                    End::Queue(slot) => scratch.queues.push((slot, binding)),
                    End::Exchange(other) => self.visit_later(other, scratch),
                }
            }
        }
        self.merge(scratch);
        Ok(cacheable)
    }

    fn match_names(&self, subject: &mut Subject<'_>, queues: &mut Vec<(QueueSlot, BindingId)>) {
        let slots = subject.keys.iter_mut().filter_map(|key| self.queue(key.dotted()));
        queues.extend(slots.map(|slot| (slot, PLAIN)));
    }

    fn visit_later(&mut self, id: u32, scratch: &mut Scratch) {
        let exchange = &mut self.exchanges[id as usize];
        if exchange.visited != scratch.turn {
            exchange.visited = scratch.turn;
            scratch.exchanges.push(id);
        }
    }

    /// One target per queue.
    fn merge(&self, scratch: &mut Scratch) {
        scratch.queues.sort_unstable();
        scratch.queues.dedup();
        let grant = |binding: BindingId| self.bindings.get(binding as usize).and_then(|link| link.binding.grant);
        let groups = scratch.queues.chunk_by(|a, b| a.0 == b.0);
        scratch.targets.extend(groups.filter_map(|group| {
            let (queue, _) = *group.first()?;
            Some(Target::merged(queue, group.iter().map(|&(_, binding)| grant(binding))))
        }));
    }
}
