//! One vhost's exchanges and bindings: which queues a message goes to.
//!
//! The router knows queues by their slot numbers only. Their contents, permissions and the log belong to the engine.
//! Declaring, binding and deleting are rare and go by name. Routing is the hottest code of the product: it looks in a
//! cache of whole routes first, so that an address seen before costs one look-up and allocates nothing.

use crate::arguments;
use crate::binding::{Binding, QueueSlot, Removed};
use crate::exchange::{BindingId, BindingTable, Exchange, Scope};
use crate::fault::{Fault, FaultKind};
use crate::message::{Dialect, route_hash};
use crate::policy::Applied;
use crate::properties::{Codecs, Name, Table, Value};
use crate::segmented::{Segmented, SegmentedMap};
use bindings::Removal;
use cache::RouteCache;
use counts::Named;
use edge::Edge;
use foldhash::fast::RandomState;
use generations::Generations;
use slab::Slab;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

mod bindings;
mod cache;
mod counts;
mod edge;
mod flow;
mod generations;
pub(crate) mod memory;
mod path;
mod route;
mod target;

pub use crate::exchange::ExchangeCounts;
pub(crate) use flow::RouteTally;
pub(crate) use path::{Hop, passes, source_of_queue};
pub(crate) use route::{KnownRoute, Walk};
pub use target::{Admission, Granted, Target};

/// The most exchanges in a vhost.
pub const EXCHANGES_MAX: usize = 65_536;
/// The most bindings in a vhost, MQTT subscriptions included.
pub const BINDINGS_MAX: usize = 1 << 20;

/// The most headers that a headers exchange accepts in a message, and in the arguments of a binding to it, unless
/// [`Router::set_headers_max`] says otherwise.
pub const HEADERS_MAX: usize = 1_000;

/// The most bindings that one step of a deletion removes.
pub(crate) const BINDINGS_AT_ONCE: usize = 8;

/// The exchanges that every vhost has, beside the default one.
const PREDECLARED: [(&str, &str, bool); 6] = [
    ("amq.direct", "direct", false),
    ("amq.fanout", "fanout", false),
    ("amq.headers", "headers", false),
    ("amq.match", "headers", false),
    ("amq.rabbitmq.trace", "topic", true),
    ("amq.topic", "topic", false),
];

/// The exchanges and bindings of one vhost.
pub struct Router {
    vhost: Name,
    codecs: Arc<Codecs>,
    exchanges: Slab<Exchange>,
    /// Index into `exchanges`. The default exchange is not in there: it has no table of bindings but `queue_names`.
    exchange_names: BTreeMap<Name, u32>,
    bindings: Slab<Edge>,
    /// All bindings by their identity. Never iterated: its order is random.
    identities: Segmented<BindingId>,
    /// Slots of queues by name. The hash is the one that messages to the default exchange carry. Never iterated.
    queue_names: Segmented<(Name, QueueSlot)>,
    /// Never iterated.
    queues: SegmentedMap<QueueSlot, Queue>,
    hasher: RandomState,
    generations: Generations,
    cache: RouteCache,
    /// Bytes of memory that exchanges and bindings occupy.
    bytes: usize,
    scratch: route::Walk,
    /// The last serial number given out. Exchanges, bindings and queues each get one, because their slot numbers are
    /// reused.
    serials: u64,
    /// Auto-delete exchanges whose deletion has begun and takes further steps.
    pending_deletions: Vec<Name>,
    /// The most headers that a headers exchange accepts in a message.
    headers_max: usize,
    /// The exchange named by the message that was routed last.
    named: Named,
    /// Counts of the default exchange, which has no place in `exchanges`.
    default_counts: ExchangeCounts,
    /// The exchange whose topics the flow map shows one by one.
    topics_of: Name,
}

/// The destination of a binding, as a number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum End {
    Queue(QueueSlot),
    Exchange(u32),
}

#[derive(Default)]
struct Queue {
    /// Its name in `queue_names`; `None` if it is not reachable by name.
    name: Option<Name>,
    bindings: BTreeSet<BindingId>,
    /// Tells it from an earlier queue in the same slot.
    serial: u64,
}

/// An exchange as the management API lists it and the log keeps it.
#[derive(Clone, Debug)]
pub struct ExchangeInfo {
    /// Its name.
    pub name: Name,
    /// `direct`, `fanout`, `topic` or `headers`.
    pub kind: &'static str,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it is deleted when its last binding is removed.
    pub auto_delete: bool,
    /// Whether only other exchanges can publish to it.
    pub internal: bool,
    /// Arguments as declared.
    pub arguments: Table,
    /// The policies that apply to it.
    pub policy: Option<Arc<Applied>>,
    /// Messages counted since the process started.
    pub counts: ExchangeCounts,
}

/// The arguments of [`Router::declare_exchange`].
#[derive(Clone, Debug)]
pub struct ExchangeSpec {
    /// Its name.
    pub name: Name,
    /// `direct`, `fanout`, `topic`, `headers`.
    pub kind: Name,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it is deleted when its last binding is removed.
    pub auto_delete: bool,
    /// Whether only other exchanges can publish to it.
    pub internal: bool,
    /// Further arguments. Of these, `alternate-exchange` has a meaning here.
    pub arguments: Table,
}

/// The answer to a declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Whether the exchange is new, and so has to be logged if it is durable.
    pub created: bool,
}

impl Router {
    /// A router with the predeclared exchanges. `vhost` appears in the texts of faults; `codecs` decode the headers
    /// that headers exchanges match.
    pub fn new(vhost: Name, codecs: Codecs) -> Router {
        let mut router = Router {
            vhost,
            codecs: Arc::new(codecs),
            exchanges: Slab::new(),
            exchange_names: BTreeMap::new(),
            bindings: Slab::new(),
            identities: Segmented::default(),
            queue_names: Segmented::default(),
            queues: SegmentedMap::default(),
            hasher: RandomState::default(),
            generations: Generations::new(),
            cache: RouteCache::new(),
            bytes: 0,
            scratch: route::Walk::default(),
            serials: 0,
            pending_deletions: Vec::new(),
            headers_max: HEADERS_MAX,
            named: Named::default(),
            default_counts: ExchangeCounts::default(),
            topics_of: Name::default(),
        };
        for (name, kind, internal) in PREDECLARED {
            let table = BindingTable::new(kind).expect("PREDECLARED names known types");
            let spec = ExchangeSpec {
                name: name.into(),
                kind: kind.into(),
                durable: true,
                auto_delete: false,
                internal,
                arguments: Table::default(),
            };
            router.add_exchange(spec, table, None);
        }
        router
    }

    /// Limits the headers that a headers exchange accepts: in a message, and in the arguments of a binding.
    pub fn set_headers_max(&mut self, max: usize) {
        self.headers_max = max;
    }

    fn next_serial(&mut self) -> u64 {
        self.serials += 1;
        self.serials
    }

    /// The checks of a declare that precede permissions: the type is known (not checked if `passive`), and it is not
    /// the default exchange. [`Router::declare_exchange`] repeats them.
    ///
    /// # Errors
    /// PreconditionFailed for an unknown type, AccessRefused for the default exchange.
    pub fn check_declare(&self, name: &str, kind: &str, passive: bool) -> Result<(), Fault> {
        if !passive {
            table_of(kind)?;
        }
        self.refuse_default(name)
    }

    /// Refuses operations that the default exchange does not permit: bind, unbind, declare and delete.
    ///
    /// # Errors
    /// AccessRefused.
    pub fn refuse_default(&self, name: &str) -> Result<(), Fault> {
        if name.is_empty() {
            return Err(Fault::new(
                FaultKind::AccessRefused,
                "operation not permitted on the default exchange",
            ));
        }
        Ok(())
    }

    /// The exchange with that name.
    pub fn exchange(&self, name: &str) -> Option<ExchangeInfo> {
        if name.is_empty() {
            return Some(self.default_exchange());
        }
        self.find_exchange(name).map(|id| info(&self.exchanges[id as usize]))
    }

    /// Whether there is an exchange with that name and of type topic.
    pub(crate) fn is_topic_exchange(&self, name: &str) -> bool {
        let id = self.find_exchange(name);
        id.is_some_and(|id| matches!(self.exchanges[id as usize].table, BindingTable::Topic(_)))
    }

    /// Checks that the exchange exists.
    ///
    /// # Errors
    /// NotFound; AccessRefused for the default exchange.
    pub fn declare_passive(&self, name: &str) -> Result<(), Fault> {
        self.refuse_default(name)?;
        self.require(name).map(|_| ())
    }

    /// Creates an exchange, or checks that the one that exists is equivalent.
    ///
    /// # Errors
    /// InvalidCommand for an unknown type; AccessRefused for the default exchange and reserved names;
    /// PreconditionFailed for an exchange that differs or a bad alternate exchange; QuotaExceeded at [`EXCHANGES_MAX`].
    pub fn declare_exchange(&mut self, spec: ExchangeSpec) -> Result<Declared, Fault> {
        self.declare(spec, true)
    }

    /// The same when the log is recovered: reserved names are permitted.
    ///
    /// # Errors
    /// As [`Router::declare_exchange`], except for reserved names.
    pub fn restore_exchange(&mut self, spec: ExchangeSpec) -> Result<Declared, Fault> {
        self.declare(spec, false)
    }

    fn declare(&mut self, spec: ExchangeSpec, reserve: bool) -> Result<Declared, Fault> {
        let table = table_of(&spec.kind)?;
        self.refuse_default(&spec.name)?;
        let object = self.describe(&spec.name);
        if let Some(id) = self.find_exchange(&spec.name) {
            equivalent(&object, &self.exchanges[id as usize], &spec)?;
            return Ok(Declared { created: false });
        }
        if reserve && spec.name.starts_with("amq.") {
            let text = format!("exchange name '{}' contains reserved prefix 'amq.*'", spec.name);
            return Err(Fault::new(FaultKind::AccessRefused, text));
        }
        let alternate = match spec.arguments.lookup(ALTERNATE) {
            None => None,
            Some(value @ Value::Text(_)) => value.as_str().map(Name::from),
            Some(other) => {
                let kind = arguments::type_name(other);
                let text = format!("invalid type '{kind}' for arg '{ALTERNATE}' in {object}");
                return Err(Fault::new(FaultKind::PreconditionFailed, text));
            }
        };
        if self.exchanges.len() >= EXCHANGES_MAX {
            let text = format!("cannot declare {object}: exchange limit ({EXCHANGES_MAX}) is reached");
            return Err(Fault::new(FaultKind::QuotaExceeded, text));
        }
        self.add_exchange(spec, table, alternate);
        Ok(Declared { created: true })
    }

    /// Removes some bindings of an exchange that has too many to be deleted in one step. `None`: few are left, and
    /// [`Router::delete_exchange`] can follow.
    ///
    /// # Errors
    /// As [`Router::delete_exchange`].
    pub(crate) fn delete_some_bindings(&mut self, name: &str, if_unused: bool) -> Result<Option<Vec<Removed>>, Fault> {
        let found = self.check_delete(name, if_unused)?;
        Ok(found.and_then(|id| self.remove_some_bindings(id, BINDINGS_AT_ONCE)))
    }

    /// Whether the exchange's deletion has begun and is not finished.
    pub(crate) fn is_ending(&self, name: &str) -> bool {
        self.find_exchange(name)
            .is_some_and(|id| self.exchanges[id as usize].ending)
    }

    /// Leaves the rest of an exchange's deletion to [`Router::continue_deletions`].
    pub(crate) fn postpone_deletion(&mut self, name: Name) {
        self.pending_deletions.push(name);
    }

    /// Whether [`Router::continue_deletions`] has work.
    pub(crate) fn has_pending_deletions(&self) -> bool {
        !self.pending_deletions.is_empty()
    }

    /// Takes the next step of the deletions that need several, because many bindings lead to the exchange.
    pub(crate) fn continue_deletions(&mut self) -> Vec<Removed> {
        let Some(name) = self.pending_deletions.last().cloned() else {
            return Vec::new();
        };
        let found = self
            .find_exchange(&name)
            .filter(|id| self.exchanges[*id as usize].ending);
        if let Some(removed) = found.and_then(|id| self.remove_some_bindings(id, BINDINGS_AT_ONCE)) {
            return removed;
        }
        self.pending_deletions.retain(|other| *other != name);
        let mut removal = Removal::default();
        if let Some(id) = found {
            self.drop_exchange(id, &mut removal);
            self.cascade(&mut removal);
        }
        removal.removed
    }

    /// Deletes an exchange, its bindings, and auto-delete exchanges that lose their last binding with it. Deleting an
    /// exchange that does not exist succeeds.
    ///
    /// # Errors
    /// AccessRefused for the default exchange and `amq.*`; PreconditionFailed if `if_unused` and it has bindings.
    pub fn delete_exchange(&mut self, name: &str, if_unused: bool) -> Result<Vec<Removed>, Fault> {
        let mut removal = Removal::default();
        if let Some(id) = self.check_delete(name, if_unused)? {
            self.drop_exchange(id, &mut removal);
            self.cascade(&mut removal);
        }
        Ok(removal.removed)
    }

    /// The exchange to be deleted, if there is one.
    fn check_delete(&self, name: &str, if_unused: bool) -> Result<Option<u32>, Fault> {
        self.refuse_default(name)?;
        if name.starts_with("amq.") {
            let text = format!("deletion of system {} not allowed", self.describe(name));
            return Err(Fault::new(FaultKind::AccessRefused, text));
        }
        let found = self.find_exchange(name);
        if if_unused && found.is_some_and(|id| !self.exchanges[id as usize].outgoing.is_empty()) {
            let text = format!("{} in use", self.describe(name));
            return Err(Fault::new(FaultKind::PreconditionFailed, text));
        }
        Ok(found)
    }

    /// NotFound if the exchange's deletion has begun.
    fn refuse_ending(&self, id: u32) -> Result<(), Fault> {
        let exchange = &self.exchanges[id as usize];
        if exchange.ending {
            let text = format!("no {}", self.describe(&exchange.name));
            return Err(Fault::new(FaultKind::NotFound, text));
        }
        Ok(())
    }

    /// NotFound unless the exchange exists. The default exchange always does.
    ///
    /// # Errors
    /// `no exchange 'x' in vhost '/'`.
    pub fn require_exchange(&self, name: &str) -> Result<(), Fault> {
        if name.is_empty() {
            Ok(())
        } else {
            self.require(name).map(|_| ())
        }
    }

    /// Adds a queue and makes it reachable through the default exchange. A queue must be added before it is bound. If
    /// the name is known already, it leads to the new slot from now on.
    pub fn add_queue(&mut self, name: &Name, slot: QueueSlot) {
        self.forget_name(slot);
        if let Some(other) = self.queue(name) {
            self.forget_name(other);
        }
        let hash = queue_hash(name);
        self.queue_names
            .insert_unique(hash, (name.clone(), slot), |(name, _)| queue_hash(name));
        let serial = self.next_serial();
        let queue = self.queues.get_or_default(slot);
        queue.name = Some(name.clone());
        queue.serial = serial;
    }

    /// Removes a queue: its name, all its bindings, and auto-delete exchanges that lose their last binding with it.
    pub fn remove_queue(&mut self, slot: QueueSlot) -> Vec<Removed> {
        self.forget_name(slot);
        let mut removal = Removal::default();
        if let Some(queue) = self.queues.remove(&slot) {
            for id in queue.bindings {
                self.drop_binding(id, &mut removal);
            }
        }
        self.cascade(&mut removal);
        removal.removed
    }

    /// The slot of the queue with that name.
    pub fn queue(&self, name: &str) -> Option<QueueSlot> {
        self.queue_names
            .find(queue_hash(name), |(other, _)| **other == *name)
            .map(|(_, slot)| *slot)
    }

    /// All exchanges, ordered by name. The default one comes first, as its name is empty.
    pub fn exchanges(&self) -> impl Iterator<Item = ExchangeInfo> + '_ {
        let named = self
            .exchange_names
            .values()
            .map(|&id| info(&self.exchanges[id as usize]));
        std::iter::once_with(|| self.default_exchange()).chain(named)
    }

    /// The number of exchanges, the default one included.
    pub(crate) fn exchanges_len(&self) -> usize {
        self.exchange_names.len() + 1
    }

    /// The exchanges whose names follow `after`, ordered by name. Without `after` the default exchange comes first.
    pub(crate) fn exchanges_after(&self, after: Option<&str>) -> impl Iterator<Item = ExchangeInfo> + '_ {
        let first = after.is_none().then(|| self.default_exchange());
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let named = self.exchange_names.range::<str, _>((from, Bound::Unbounded));
        let named = named.map(|(_, &id)| info(&self.exchanges[id as usize]));
        first.into_iter().chain(named)
    }

    fn default_exchange(&self) -> ExchangeInfo {
        ExchangeInfo {
            name: "".into(),
            kind: "direct",
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: Table::default(),
            policy: None,
            counts: self.default_counts,
        }
    }

    /// The names of at most `count` exchanges that follow `after`, without the default exchange.
    pub(crate) fn names_after(&self, after: Option<&str>, count: usize) -> Vec<Name> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let names = self.exchange_names.range::<str, _>((from, Bound::Unbounded));
        names.map(|(name, _)| name.clone()).take(count).collect()
    }

    /// Sets the policies that apply to an exchange. A changed alternate exchange invalidates its remembered routes.
    pub(crate) fn set_policy(&mut self, name: &str, policy: Option<Arc<Applied>>) {
        let Some(id) = self.find_exchange(name) else { return };
        let exchange = &mut self.exchanges[id as usize];
        let declared = exchange.arguments.lookup(ALTERNATE).and_then(Value::as_str);
        let by_policy = || policy.as_ref()?.effective.alternate_exchange.clone();
        let alternate = declared.map(Name::from).or_else(by_policy);
        exchange.policy = policy;
        if exchange.alternate != alternate {
            exchange.alternate = alternate;
            // Remembered routes led to the former alternate exchange, or nowhere.
            self.generations.bump(name, Scope::Whole);
        }
    }

    /// The bindings at `count` places from `place` on, and the next place if there are more.
    pub(crate) fn bindings_from(&self, place: u32, count: usize) -> (Option<u32>, Vec<Binding>) {
        let end = self.bindings.capacity();
        let first = (place as usize).min(end);
        let to = first.saturating_add(count).min(end);
        let found = (first..to).filter_map(|place| self.bindings.get(place));
        let next = (to < end).then_some(to as u32);
        (next, found.map(|edge| edge.binding.clone()).collect())
    }

    /// All bindings, without the implied ones of the default exchange. The same history of commands gives the same
    /// order.
    pub fn bindings(&self) -> impl Iterator<Item = &Binding> + '_ {
        self.bindings.iter().map(|(_, edge)| &edge.binding)
    }

    /// The bindings that lead to one queue. The same history of commands gives the same order.
    pub fn bindings_of(&self, queue: QueueSlot) -> impl Iterator<Item = &Binding> + '_ {
        let ids = self.queues.get(&queue).into_iter().flat_map(|queue| &queue.bindings);
        ids.map(|&id| &self.bindings[id as usize].binding)
    }

    fn find_exchange(&self, name: &str) -> Option<u32> {
        self.exchange_names.get(name).copied()
    }

    fn require(&self, name: &str) -> Result<u32, Fault> {
        self.find_exchange(name)
            .ok_or_else(|| Fault::new(FaultKind::NotFound, format!("no {}", self.describe(name))))
    }

    fn describe(&self, name: &str) -> String {
        format!("exchange '{name}' in vhost '{}'", self.vhost)
    }

    fn add_exchange(&mut self, spec: ExchangeSpec, table: BindingTable, alternate: Option<Name>) {
        // Remembered routes may have looked for it, as an alternate exchange, and not found it.
        self.generations.bump(&spec.name, Scope::Whole);
        let name = spec.name.clone();
        let bytes = memory::exchange_bytes(&spec);
        self.bytes += bytes;
        let serial = self.next_serial();
        let id = self.exchanges.insert(Exchange {
            name: spec.name,
            durable: spec.durable,
            auto_delete: spec.auto_delete,
            internal: spec.internal,
            arguments: spec.arguments,
            alternate,
            policy: None,
            table,
            outgoing: BTreeSet::new(),
            incoming: BTreeSet::new(),
            bytes,
            serial,
            ending: false,
            counts: ExchangeCounts::default(),
        });
        self.exchange_names.insert(name, id as u32);
    }

    fn forget_name(&mut self, slot: QueueSlot) {
        if let Some(name) = self.queues.get_mut(&slot).and_then(|queue| queue.name.take()) {
            let hash_of = |(name, _): &(Name, QueueSlot)| queue_hash(name);
            self.queue_names
                .remove(queue_hash(&name), |(other, _)| *other == name, hash_of);
        }
    }
}

pub(crate) const ALTERNATE: &str = "alternate-exchange";

/// The route hash of a message to the default exchange with this key.
fn queue_hash(name: &str) -> u64 {
    route_hash(b"", name.as_bytes(), Dialect::Dot)
}

fn table_of(kind: &str) -> Result<BindingTable, Fault> {
    BindingTable::new(kind).ok_or_else(|| {
        let what = if kind.is_empty() { "invalid" } else { "unknown" };
        Fault::new(FaultKind::PreconditionFailed, format!("{what} exchange type '{kind}'"))
    })
}

fn equivalent(object: &str, current: &Exchange, received: &ExchangeSpec) -> Result<(), Fault> {
    if *received.kind != *current.table.kind() {
        let (received, current) = (format!("'{}'", received.kind), format!("'{}'", current.table.kind()));
        return Err(arguments::inequivalent(object, "type", &received, &current));
    }
    arguments::require_flag(object, "durable", received.durable, current.durable)?;
    arguments::require_flag(object, "auto_delete", received.auto_delete, current.auto_delete)?;
    arguments::require_flag(object, "internal", received.internal, current.internal)?;
    let (received, current) = (
        received.arguments.lookup(ALTERNATE),
        current.arguments.lookup(ALTERNATE),
    );
    arguments::require_same(object, ALTERNATE, received, current)
}

fn info(exchange: &Exchange) -> ExchangeInfo {
    ExchangeInfo {
        name: exchange.name.clone(),
        kind: exchange.table.kind(),
        durable: exchange.durable,
        auto_delete: exchange.auto_delete,
        internal: exchange.internal,
        arguments: exchange.arguments.clone(),
        policy: exchange.policy.clone(),
        counts: exchange.counts,
    }
}

#[cfg(test)]
mod tests;
