//! One vhost's exchanges and bindings: which queues a message goes to.
//!
//! Queues are slot numbers here; what is in them, who may do what, and the log are the engine's business. Declaring,
//! binding and deleting are rare and go by name; routing is the hottest code of the product and goes through a cache
//! of whole routes, so that a repeated address costs one look-up and allocates nothing.

use crate::arguments;
use crate::binding::{Binding, QueueSlot, Removed};
use crate::exchange::{BindingId, BindingTable, Exchange, Scope};
use crate::fault::{Fault, FaultKind};
use crate::message::{Dialect, route_hash};
use crate::policy::Applied;
use crate::properties::{Codecs, Name, Table, Value};
use bindings::Removal;
use cache::RouteCache;
use counts::Named;
use edge::Edge;
use foldhash::fast::RandomState;
use generations::Generations;
use hashbrown::{HashMap, HashTable};
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
mod route;
mod target;

pub use crate::exchange::ExchangeCounts;
pub(crate) use flow::RouteTally;
pub(crate) use route::{KnownRoute, Walk};
pub use target::{Admission, Granted, Target};

/// Exchanges in a vhost at most.
pub const EXCHANGES_MAX: usize = 65_536;
/// Bindings in a vhost at most, MQTT subscriptions included.
pub const BINDINGS_MAX: usize = 1 << 20;

/// Headers of a message that headers exchanges take, and of a binding to one, unless [`Router::set_headers_max`] says
/// otherwise.
pub const HEADERS_MAX: usize = 1_000;

/// Bindings that a deletion takes away at once.
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
    /// Index into `exchanges`; the default exchange is not there: it has a name, and no table but `queue_names`.
    exchange_names: BTreeMap<Name, u32>,
    bindings: Slab<Edge>,
    /// All bindings by their identity. Never iterated: its order is random.
    identities: HashTable<BindingId>,
    /// Slots by name, under the hash that messages to the default exchange carry. Never iterated.
    queue_names: HashTable<(Name, QueueSlot)>,
    /// Never iterated.
    queues: HashMap<QueueSlot, Queue, RandomState>,
    hasher: RandomState,
    generations: Generations,
    cache: RouteCache,
    /// What exchanges and bindings cost.
    bytes: usize,
    scratch: route::Walk,
    /// Exchanges, bindings and queues made so far: tells one from an earlier one of the same number.
    births: u64,
    /// Auto-delete exchanges that end by and by.
    doomed: Vec<Name>,
    /// Headers of a message that headers exchanges take at most.
    headers_max: usize,
    /// The exchange of the message that was routed last.
    named: Named,
    /// What the default exchange has done: it has no place in `exchanges`.
    default_counts: ExchangeCounts,
    /// The exchange whose keys the flow map shows one by one.
    topics_of: Name,
}

/// Where a binding leads, as numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum End {
    Queue(QueueSlot),
    Exchange(u32),
}

#[derive(Default)]
struct Queue {
    /// Its name in `queue_names`, if it is there.
    name: Option<Name>,
    bindings: BTreeSet<BindingId>,
    /// Tells it from an earlier queue in the same slot.
    born: u64,
}

/// An exchange as people and the log see it.
#[derive(Clone, Debug)]
pub struct ExchangeInfo {
    /// Its name.
    pub name: Name,
    /// `direct`, `fanout`, `topic` or `headers`.
    pub kind: &'static str,
    /// Survives a restart.
    pub durable: bool,
    /// Deleted when its last binding goes.
    pub auto_delete: bool,
    /// Only other exchanges can publish to it.
    pub internal: bool,
    /// As declared.
    pub arguments: Table,
    /// The policies that apply to it.
    pub policy: Option<Arc<Applied>>,
    /// What it has done since the start of the process.
    pub counts: ExchangeCounts,
}

/// What [`Router::declare_exchange`] is asked for.
#[derive(Clone, Debug)]
pub struct ExchangeSpec {
    /// Its name.
    pub name: Name,
    /// `direct`, `fanout`, `topic`, `headers`.
    pub kind: Name,
    /// Survives a restart.
    pub durable: bool,
    /// Deleted when its last binding goes.
    pub auto_delete: bool,
    /// Only other exchanges can publish to it.
    pub internal: bool,
    /// Further arguments; `alternate-exchange` is known.
    pub arguments: Table,
}

/// The answer to a declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Whether it is new (and to be logged, if durable).
    pub created: bool,
}

impl Router {
    /// A router with the predeclared exchanges. `vhost` is for the texts of faults, `codecs` for headers exchanges.
    pub fn new(vhost: Name, codecs: Codecs) -> Router {
        let mut router = Router {
            vhost,
            codecs: Arc::new(codecs),
            exchanges: Slab::new(),
            exchange_names: BTreeMap::new(),
            bindings: Slab::new(),
            identities: HashTable::new(),
            queue_names: HashTable::new(),
            queues: HashMap::default(),
            hasher: RandomState::default(),
            generations: Generations::new(),
            cache: RouteCache::new(),
            bytes: 0,
            scratch: route::Walk::default(),
            births: 0,
            doomed: Vec::new(),
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

    /// Limits the headers that a headers exchange looks at: those of a message, and those that a binding asks for.
    pub fn set_headers_max(&mut self, max: usize) {
        self.headers_max = max;
    }

    fn next_birth(&mut self) -> u64 {
        self.births += 1;
        self.births
    }

    /// The checks of a declare that come before permissions: the type is known (unless `passive`), and it is not the
    /// default exchange. The declares make them too.
    ///
    /// # Errors
    /// PreconditionFailed for an unknown type, AccessRefused for the default exchange.
    pub fn check_declare(&self, name: &str, kind: &str, passive: bool) -> Result<(), Fault> {
        if !passive {
            table_of(kind)?;
        }
        self.refuse_default(name)
    }

    /// Refuses the default exchange, where an operation is not permitted on it (bind, unbind, declare, delete).
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

    /// The exchange of that name.
    pub fn exchange(&self, name: &str) -> Option<ExchangeInfo> {
        if name.is_empty() {
            return Some(self.default_exchange());
        }
        self.find_exchange(name).map(|id| info(&self.exchanges[id as usize]))
    }

    /// Whether there is an exchange of that name whose keys are topics.
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
    /// Unknown type, default exchange, inequivalent, reserved name, bad alternate exchange, too many.
    pub fn declare_exchange(&mut self, spec: ExchangeSpec) -> Result<Declared, Fault> {
        self.declare(spec, true)
    }

    /// The same at recovery: without the check on reserved names.
    ///
    /// # Errors
    /// As [`Router::declare_exchange`], but for reserved names.
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

    /// Takes away some of the bindings of an exchange that is to be deleted and has many: call [`Router::delete_exchange`]
    /// when it returns `None`.
    ///
    /// # Errors
    /// As [`Router::delete_exchange`].
    pub(crate) fn thin_exchange(&mut self, name: &str, if_unused: bool) -> Result<Option<Vec<Removed>>, Fault> {
        let found = self.check_delete(name, if_unused)?;
        Ok(found.and_then(|id| self.thin(id, BINDINGS_AT_ONCE)))
    }

    /// Whether an exchange is being deleted.
    pub(crate) fn is_ending(&self, name: &str) -> bool {
        self.find_exchange(name)
            .is_some_and(|id| self.exchanges[id as usize].ending)
    }

    /// Leaves the rest of a deletion to [`Router::delete_doomed`].
    pub(crate) fn doom(&mut self, name: Name) {
        self.doomed.push(name);
    }

    /// Whether [`Router::delete_doomed`] has something to do.
    pub(crate) fn has_doomed(&self) -> bool {
        !self.doomed.is_empty()
    }

    /// Goes on with the deletion of auto-delete exchanges that many others lead to.
    pub(crate) fn delete_doomed(&mut self) -> Vec<Removed> {
        let Some(name) = self.doomed.last().cloned() else {
            return Vec::new();
        };
        let found = self
            .find_exchange(&name)
            .filter(|id| self.exchanges[*id as usize].ending);
        if let Some(removed) = found.and_then(|id| self.thin(id, BINDINGS_AT_ONCE)) {
            return removed;
        }
        self.doomed.retain(|other| *other != name);
        let mut removal = Removal::default();
        if let Some(id) = found {
            self.drop_exchange(id, &mut removal);
            self.cascade(&mut removal);
        }
        removal.removed
    }

    /// Deletes an exchange with its bindings, and auto-delete exchanges whose last binding that was. Deleting one that
    /// does not exist succeeds.
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

    /// NotFound where an exchange is being deleted.
    fn refuse_ending(&self, id: u32) -> Result<(), Fault> {
        let exchange = &self.exchanges[id as usize];
        if exchange.ending {
            let text = format!("no {}", self.describe(&exchange.name));
            return Err(Fault::new(FaultKind::NotFound, text));
        }
        Ok(())
    }

    /// NotFound unless the exchange exists (the default one does).
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

    /// Makes a queue reachable through the default exchange. Every queue is added before it is bound. A name that is
    /// added again leads to the new slot.
    pub fn add_queue(&mut self, name: &Name, slot: QueueSlot) {
        self.forget_name(slot);
        if let Some(other) = self.queue(name) {
            self.forget_name(other);
        }
        let hash = queue_hash(name);
        self.queue_names
            .insert_unique(hash, (name.clone(), slot), |(name, _)| queue_hash(name));
        let born = self.next_birth();
        let queue = self.queues.entry(slot).or_default();
        queue.name = Some(name.clone());
        queue.born = born;
    }

    /// Forgets a queue: its name, all its bindings, and auto-delete exchanges that go with them.
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

    /// The slot of the queue of that name.
    pub fn queue(&self, name: &str) -> Option<QueueSlot> {
        self.queue_names
            .find(queue_hash(name), |(other, _)| **other == *name)
            .map(|(_, slot)| *slot)
    }

    /// All exchanges by name, the default one first.
    pub fn exchanges(&self) -> impl Iterator<Item = ExchangeInfo> + '_ {
        let named = self
            .exchange_names
            .values()
            .map(|&id| info(&self.exchanges[id as usize]));
        std::iter::once_with(|| self.default_exchange()).chain(named)
    }

    /// How many exchanges there are, the default one with them.
    pub(crate) fn exchanges_len(&self) -> usize {
        self.exchange_names.len() + 1
    }

    /// Exchanges by name, behind a name. The default one is first.
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

    /// The names of at most `count` exchanges behind one, the default exchange's not among them.
    pub(crate) fn names_after(&self, after: Option<&str>, count: usize) -> Vec<Name> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let names = self.exchange_names.range::<str, _>((from, Bound::Unbounded));
        names.map(|(name, _)| name.clone()).take(count).collect()
    }

    /// The policies that apply to an exchange change.
    pub(crate) fn set_policy(&mut self, name: &str, policy: Option<Arc<Applied>>) {
        let Some(id) = self.find_exchange(name) else { return };
        let exchange = &mut self.exchanges[id as usize];
        let declared = exchange.arguments.lookup(ALTERNATE).and_then(Value::as_str);
        let by_policy = || policy.as_ref()?.effective.alternate_exchange.clone();
        let alternate = declared.map(Name::from).or_else(by_policy);
        exchange.policy = policy;
        if exchange.alternate != alternate {
            exchange.alternate = alternate;
            // Routes that went to the other one, or nowhere.
            self.generations.bump(name, Scope::Whole);
        }
    }

    /// The bindings in `count` places from a place on, and the place behind them, if there is more.
    pub(crate) fn bindings_from(&self, place: u32, count: usize) -> (Option<u32>, Vec<Binding>) {
        let end = self.bindings.capacity();
        let first = (place as usize).min(end);
        let to = first.saturating_add(count).min(end);
        let found = (first..to).filter_map(|place| self.bindings.get(place));
        let next = (to < end).then_some(to as u32);
        (next, found.map(|edge| edge.binding.clone()).collect())
    }

    /// All bindings, in the same order in every run of the same history. Those of the default exchange are implied.
    pub fn bindings(&self) -> impl Iterator<Item = &Binding> + '_ {
        self.bindings.iter().map(|(_, edge)| &edge.binding)
    }

    /// The bindings that lead to one queue, in the same order in every run.
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
        // Routes that looked for it (as an alternate exchange) and did not find it.
        self.generations.bump(&spec.name, Scope::Whole);
        let name = spec.name.clone();
        let bytes = memory::exchange_bytes(&spec);
        self.bytes += bytes;
        let born = self.next_birth();
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
            born,
            ending: false,
            counts: ExchangeCounts::default(),
        });
        self.exchange_names.insert(name, id as u32);
    }

    fn forget_name(&mut self, slot: QueueSlot) {
        if let Some(name) = self.queues.get_mut(&slot).and_then(|queue| queue.name.take())
            && let Ok(entry) = self
                .queue_names
                .find_entry(queue_hash(&name), |(other, _)| *other == name)
        {
            entry.remove();
        }
    }
}

pub(crate) const ALTERNATE: &str = "alternate-exchange";

/// The hash that a message to the default exchange with this key carries.
fn queue_hash(name: &str) -> u64 {
    route_hash(b"", name.as_bytes(), Dialect::Dot)
}

fn table_of(kind: &str) -> Result<BindingTable, Fault> {
    BindingTable::new(kind).ok_or_else(|| {
        let what = if kind.is_empty() { "invalid" } else { "unknown" };
        Fault::new(FaultKind::InvalidCommand, format!("{what} exchange type '{kind}'"))
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
