//! One vhost: applies batches of commands and hands out events. Its state belongs to one thread at a time, behind one
//! lock. It does no I/O.
//!
//! ```text
//!   apply ─┬─ publishing: route, enqueue, stage for the log ──► dispatch: reserve to consumers' outboxes
//!          ├─ consuming, fetching, settling: consume, get, settle     │
//!          ├─ definitions, exchanges, bindings, deletions             ▼
//!          └─ sessions: MQTT sessions and subscriptions     take: number, hand out, confirm
//!
//!   staging ──drain──► log ──durable──► what waited: answers, confirms
//!   throttling: unsettled deliveries are bounded
//!   memory: bodies leave to the log, then the middle of their queues does; both come back (loaded)
//! ```

mod access_checks;
mod admission;
mod asked;
mod asking;
#[cfg(feature = "testing")]
mod audit;
mod bindings;
mod bound_replay;
mod budget;
mod closing;
mod commands;
mod confirms;
mod consuming;
mod counters;
mod dead_letter;
mod death;
mod definitions;
mod deletions;
mod dispatch;
mod enqueuing;
mod eviction;
mod exchanges;
mod fetching;
pub mod flow;
mod flow_counts;
mod flowed;
mod gauges;
mod handing_out;
mod held;
pub mod inspect;
mod internal;
mod joining;
mod link;
mod links;
mod loading;
mod log_waits;
mod memory;
mod noted_time;
mod noting_time;
mod outbox;
mod packets;
mod policies;
mod postponed;
mod publishing;
mod purging;
mod queue_expiry;
mod queue_limits;
mod queues;
mod recovery;
mod replays;
mod reply_address;
mod resending;
mod retained_loads;
mod retaining;
mod rounds;
mod routing;
mod sessions;
mod settling;
mod staging;
mod subscriptions;
mod successors;
mod take;
mod takeover;
mod throttling;
mod timeouts;
mod timers;
pub mod trace;
mod traced;
mod traces;
mod transactions;
mod unfinished;
mod unsettled_memory;
mod walks;

pub use crate::ledger::{ObjectKind, PerKind};
pub use crate::queue::QueueCounts;
pub use crate::slots::Link;
pub use admission::{Share, Usage};
pub use counters::{Counters, Limit, MESSAGE_SIZES, Traffic};
pub use gauges::Counting;
pub use link::{Carried, ChannelCounts};

use crate::access::{Access, UserRights};
use crate::command::{Attach, Channel as ChannelNumber, Command, Peer};
use crate::durable_session::{DurableSession, Sessions};
use crate::event::{CloseReason, Event, Op, Pressure};
use crate::fault::{Fault, FaultKind};
use crate::ledger::Ledger;
use crate::message::{Dialect, Envelope, Message};
use crate::policy::Policies;
use crate::properties::{Codecs, Name};
use crate::queue::consumers::Consumer;
use crate::quota::VhostLimits;
use crate::retained::{Kept, Retained};
use crate::router::{HEADERS_MAX, Router, Walk};
use crate::slots::{ConsumerKey, QueueKey, SessionKey, Slots};
use crate::store::{Batch, Durability, Request, Ticket, VhostId};
use crate::time::{Now, Time};
use crate::topic::LEVELS_MAX;
use budget::Budget;
use confirms::Confirms;
use flow_counts::FlowCounts;
use internal::Internal;
use link::LinkState;
use links::Links;
use log_waits::{LogWaits, Waiter};
use memory::Memory;
use outbox::Out;
use queues::{Behind, Queues};
use retained_loads::RetainedLoads;
use staging::{Gate, Staging};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use successors::Successors;
use take::Taking;
use throttling::Throttling;
use timers::Timers;
use traces::Traces;

/// Wakes the task that drives a link.
pub trait Wake: Send + Sync {
    /// Called after the engine's lock was released, at most once per link and turn.
    fn wake(&self);
}

/// Links that now have something to take, as collected by [`Engine::drain`]. Dropping it wakes them. Declare it before
/// the engine's lock guard: then it is dropped after the guard, and no link is woken while the lock is held.
#[derive(Default)]
pub struct Wakes(Vec<Arc<dyn Wake>>);

impl Wakes {
    /// Wakes all of them now. Not to be called under the engine's lock.
    pub fn fire(&mut self) {
        for wake in self.0.drain(..) {
            wake.wake();
        }
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.fire();
    }
}

/// How far [`Engine::apply`] got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// All commands were applied.
    All,
    /// The work limit of the hold was reached and some commands are left: unlock, then call again.
    Some,
    /// The first command that is left waits for something. The link is woken when it can continue; calling earlier is
    /// useless.
    Waits,
}

/// The result of [`Engine::visit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visited {
    /// How far the commands were applied.
    pub applied: Applied,
    /// The link has more to take.
    pub more: bool,
    /// The next message to take needs a larger [`Room`].
    pub wants_large: bool,
}

/// How much a link's socket has room for.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Messages.
    pub messages: usize,
    /// Bytes of message payload.
    pub bytes: usize,
    /// Whether the first message may have more bytes than that. Otherwise no large message would ever be delivered.
    pub large: bool,
}

/// Limits and defaults of a vhost.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the vhost.
    pub vhost: Name,
    /// Its number in the log.
    pub number: VhostId,
    /// Bytes of messages in memory above which bodies of durable messages are evicted.
    pub cache_bytes_max: usize,
    /// Bytes of messages in memory above which publishers wait.
    pub memory_bytes_max: usize,
    /// Bytes of unsettled deliveries (32 each, and their bodies while these are in memory). Above it, a client that
    /// uses more than its guaranteed part is offered no more until it settles some.
    pub unsettled_bytes_max: usize,
    /// Bytes of everything else that clients create (retained messages, subscriptions, bindings, queues, sessions,
    /// connections). Above it, further objects are refused.
    pub objects_bytes_max: usize,
    /// Bytes that wait for the committer, above which publishers wait.
    pub log_backlog_bytes_max: usize,
    /// What a confirm waits for, unless a queue says otherwise.
    pub durability: Durability,
    /// The most queues.
    pub queues_max: usize,
    /// Messages in the queue of an MQTT session or group from which further QoS 0 messages are dropped.
    pub qos0_backlog_max: usize,
    /// Seconds that an MQTT session may outlive its connection; `None`: without limit.
    pub session_expiry_max: Option<u32>,
    /// The exchange that subscriptions by topic filter bind to.
    pub topic_exchange: Name,
    /// Work units of one hold of the lock: commands, each with its destinations. Tests use other values.
    pub hold_units_max: usize,
    /// The most headers that a headers exchange accepts in a message, and in a binding to it.
    pub message_headers_max: usize,
    /// The most routing keys of a message beside its own. Each is looked up in each exchange that the message reaches.
    pub message_keys_max: usize,
    /// The most wildcards in a topic filter or binding key.
    pub filter_wildcards_max: usize,
    /// The most subscriptions of an MQTT session.
    pub session_filters_max: usize,
    /// The most levels in a topic name or filter.
    pub topic_levels_max: usize,
    /// The most deliveries (messages times queues) of a transaction, because it is applied in one hold of the lock.
    pub transaction_deliveries_max: usize,
    /// Whether messages are counted for the flow map: see [`flow`].
    pub flow: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            vhost: "/".into(),
            number: VhostId(1),
            cache_bytes_max: 16 << 20,
            memory_bytes_max: 256 << 20,
            unsettled_bytes_max: 64 << 20,
            objects_bytes_max: 64 << 20,
            log_backlog_bytes_max: 4 << 20,
            durability: Durability::Always,
            queues_max: 10_000,
            qos0_backlog_max: 50_000,
            session_expiry_max: Some(86_400),
            topic_exchange: "amq.topic".into(),
            hold_units_max: 1024,
            message_headers_max: HEADERS_MAX,
            message_keys_max: 1024,
            filter_wildcards_max: 32,
            session_filters_max: 10_000,
            topic_levels_max: LEVELS_MAX,
            transaction_deliveries_max: 32_768,
            flow: false,
        }
    }
}

/// One vhost's state machine.
///
/// A program calls it under a lock: a visit of a connection, then [`Engine::drain`], which says what to log and fetch,
/// and which links to wake after the lock is released.
///
/// ```
/// use gatepost_core::access::Rights;
/// use gatepost_core::command::{Attach, Command, Get, Peer};
/// use gatepost_core::engine::{Engine, Room, Settings, Wake, Wakes};
/// use gatepost_core::event::Event;
/// use gatepost_core::properties::Codecs;
/// use gatepost_core::store::Batch;
/// use gatepost_core::time::Now;
/// use std::sync::Arc;
///
/// struct Bell;
/// impl Wake for Bell {
///     fn wake(&self) { /* have the connection visit the engine */ }
/// }
///
/// let now = Now::default();
/// let mut engine = Engine::new(Settings::default(), Codecs::default(), 1);
/// engine.set_rights("app".into(), Rights::all().into());
/// let attach = Attach { vhost: "/".into(), protocol: "example", ..Attach::default() };
/// let link = engine.attach(now, &attach, "app".into(), Peer::on_this_machine(), Arc::new(Bell));
///
/// let get = Get { channel: 1, queue: "q".into(), no_ack: true };
/// let (mut commands, mut events) = (vec![Command::Get(Box::new(get))], Vec::new());
/// engine.visit(now, link, &mut commands, Room { messages: 10, bytes: 1 << 20, large: true }, &mut events);
/// assert!(matches!(events[..], [Event::Failed { .. }]), "there is no such queue");
///
/// let (mut batch, mut requests, mut wakes) = (Batch::default(), Vec::new(), Wakes::default());
/// engine.drain(&mut batch, &mut requests, &mut wakes);
/// assert!(batch.is_empty(), "nothing is to be logged");
/// ```
pub struct Engine {
    settings: Settings,
    codecs: Codecs,
    /// The state of the generator of names.
    random: u64,
    /// The time of the call in progress.
    now: Now,
    router: Router,
    retained: Retained,
    /// Retained messages being read from the log.
    retained_loads: RetainedLoads,
    queues: Queues,
    /// Channels with rejected deliveries whose dead-lettering is postponed.
    postponed: BTreeSet<(Link, ChannelNumber)>,
    /// Dead letters and wills that are not published yet.
    internal: VecDeque<Internal>,
    /// How far the routing of the first of `internal` got when it stopped.
    internal_walk: Option<Box<Walk>>,
    /// What is left of this turn's budget for routing `internal`.
    internal_budget: Budget,
    /// Bytes of `internal`.
    internal_bytes: usize,
    /// What is left of this turn's budget for work that its commands only cause: messages that expire or exceed their
    /// queue's limit, and consumers that are passed over.
    side_budget: Budget,
    /// Work units that the current command has spent on going through lists.
    listed_units: usize,
    /// Queues whose dispatch or limit needs more work than the turn had.
    behind: Behind,
    /// Queues with a purge that no command waits for.
    ending_purges: VecDeque<QueueKey>,
    /// Routings that stopped: the memory they occupy, and the links that wait for some.
    walks: walks::Walks,
    /// What is being told to all links or queues.
    rounds: rounds::Rounds,
    /// See [`Engine::damaged_definitions`].
    damaged_definitions: u64,
    links: Links,
    consumers: Slots<ConsumerKey, Consumer>,
    /// Queues with many bindings, whose deletion has begun.
    ending_queues: VecDeque<QueueKey>,
    /// Consumers of deleted queues. They are cancelled some at a time.
    orphans: VecDeque<ConsumerKey>,
    /// Memory of links, channels, queues, sessions and subscriptions.
    ledger: Arc<Ledger>,
    /// When a refused object may be logged again.
    refusal_log_after: Option<Time>,
    sessions: Sessions,
    /// Sessions that are still to consume their groups' queues.
    joining: joining::Joining,
    /// Links that wait for a session that another link still has.
    successors: Successors,
    staging: Staging,
    confirms: Confirms,
    /// Everything that waits for a batch of the log.
    waits: LogWaits,
    acks_due: Option<Time>,
    time: noted_time::NotedTime,
    memory: Memory,
    throttling: Throttling,
    timers: Timers,
    /// Links to be woken after the lock is released; `drain` hands them over.
    wakes: Vec<Arc<dyn Wake>>,
    /// The pressure that the node reported last.
    node_pressure: Option<Pressure>,
    /// The pressure that publishers were told last.
    pressure: Option<Pressure>,
    /// Why all links are closed, also new ones. `None`: they are not.
    ended: Option<CloseReason>,
    counters: Counters,
    /// Unlogged wills already reported in a warning.
    wills_reported: u64,
    /// The rights of users in this vhost.
    rights: UserRights,
    /// The vhost's limits on connections and queues.
    vhost_limits: VhostLimits,
    policies: Policies,
    /// Progress of applying changed policies to queues and exchanges.
    review: Option<policies::Review>,
    /// Counts for the flow map.
    flow: FlowCounts,
    /// Messages that are traced: see [`trace`].
    traces: Traces,
}

/// Answers that are released, or deliveries that are sent again, for one work unit.
const RELEASED_PER_UNIT: usize = 8;
/// How long settles wait to be logged together with others.
const ACKS_DELAY_MS: u64 = 200;

impl Engine {
    /// An empty vhost with the predeclared exchanges. `seed` determines the names it generates.
    pub fn new(settings: Settings, codecs: Codecs, seed: u64) -> Engine {
        let ledger = Arc::new(Ledger::default());
        let mut engine = Engine {
            flow: FlowCounts::new(ledger.charge(ObjectKind::Queues, 0)),
            router: Router::new(settings.vhost.clone(), codecs.clone()),
            staging: Staging::new(settings.durability),
            queues: Queues::new(settings.number),
            settings,
            codecs,
            random: seed,
            now: Now::default(),
            retained: Retained::default(),
            retained_loads: RetainedLoads::default(),
            postponed: BTreeSet::new(),
            internal: VecDeque::new(),
            internal_walk: None,
            internal_budget: Budget::default(),
            internal_bytes: 0,
            side_budget: Budget::default(),
            listed_units: 0,
            behind: Behind::default(),
            ending_purges: VecDeque::new(),
            walks: walks::Walks::default(),
            rounds: rounds::Rounds::default(),
            damaged_definitions: 0,
            links: Links::default(),
            consumers: Slots::default(),
            ending_queues: VecDeque::new(),
            orphans: VecDeque::new(),
            ledger,
            refusal_log_after: None,
            sessions: Sessions::default(),
            joining: joining::Joining::default(),
            successors: Successors::default(),
            confirms: Confirms::default(),
            waits: LogWaits::default(),
            acks_due: None,
            time: noted_time::NotedTime::default(),
            memory: Memory::default(),
            throttling: Throttling::default(),
            timers: Timers::default(),
            wakes: Vec::new(),
            node_pressure: None,
            pressure: None,
            ended: None,
            counters: Counters::default(),
            wills_reported: 0,
            rights: UserRights::default(),
            vhost_limits: VhostLimits::default(),
            policies: Policies::default(),
            review: None,
            traces: Traces::default(),
        };
        engine.traces.set_charge(engine.ledger.charge(ObjectKind::Queues, 0));
        engine.router.set_headers_max(engine.settings.message_headers_max);
        engine.router.set_topics_of(engine.settings.topic_exchange.clone());
        engine.flow.turn(engine.settings.flow);
        // MQTT clients read this topic to find out which broker it is. It is never logged.
        let envelope = Envelope {
            dialect: Dialect::Slash,
            retain: true,
            ..Envelope::default()
        };
        let version = concat!("gatepost version ", env!("CARGO_PKG_VERSION"));
        let topic_exchange = &engine.settings.topic_exchange;
        let message = Message::new(envelope, topic_exchange, "$SYS/broker/version", &[], version.as_bytes());
        engine.retained.set(&message, Kept::InMemory);
        let routes = admission::route_cache_bytes_max(engine.settings.objects_bytes_max);
        engine.router.set_cache_bytes_max(routes);
        engine
    }

    /// The vhost's name.
    pub fn vhost(&self) -> &Name {
        &self.settings.vhost
    }

    /// Attaches a connection of an authenticated `user`. Its rights are those of [`Engine::set_rights`].
    pub fn attach(
        &mut self,
        now: Now,
        attach: &Attach,
        user: Name,
        peer: impl Into<Arc<Peer>>,
        wake: Arc<dyn Wake>,
    ) -> Link {
        let peer = peer.into();
        tracing::debug!(%user, ?peer, protocol = attach.protocol, client = ?attach.client_name, "attached");
        let access = Access::new(user, &self.rights);
        self.attach_with(now, attach, access, peer, wake)
    }

    /// As [`Engine::attach`], for a connection of the node itself, which belongs to no user and may do everything.
    pub(crate) fn attach_as_node(&mut self, now: Now, attach: &Attach, wake: Arc<dyn Wake>) -> Link {
        let access = Access::of_node(&self.rights);
        self.attach_with(now, attach, access, Peer::on_this_machine().into(), wake)
    }

    fn attach_with(&mut self, now: Now, attach: &Attach, access: Access, peer: Arc<Peer>, wake: Arc<dyn Wake>) -> Link {
        self.begin(now);
        let charge = self.ledger.charge(ObjectKind::Connections, link::LINK_BYTES);
        let ended = self.ended;
        let traffic = self.counters.place_of(attach.protocol);
        let id = self.links.attach(|id| {
            let mut state = LinkState::new(id, wake, attach, access, peer, charge);
            state.traffic = traffic;
            state.connected_at = now.wall;
            state.closed = ended;
            state
        });
        self.counters.of(traffic).links_attached += 1;
        id
    }

    /// Adds to what a connection's socket has carried.
    pub fn note_carried(&mut self, link: Link, more: Carried) {
        if let Some(l) = self.links.get_mut(link) {
            l.carried.add(more);
            let traffic = self.counters.of(l.traffic);
            traffic.bytes_in += more.bytes_in;
            traffic.bytes_out += more.bytes_out;
        }
    }

    /// One visit of a link: applies commands as [`Engine::apply`] does, then takes events as [`Engine::take`] does, in
    /// the same hold of the lock. The link is not woken for what its own commands cause, because this call takes it.
    pub fn visit(
        &mut self,
        now: Now,
        link: Link,
        commands: &mut Vec<Command>,
        room: Room,
        events: &mut Vec<Event>,
    ) -> Visited {
        if let Some(l) = self.links.get_mut(link) {
            l.visits();
        }
        let applied = if commands.is_empty() {
            Applied::All
        } else {
            self.apply(now, link, commands)
        };
        let mut taking = Taking::of(room);
        let more = self.take_within(now, link, &mut taking, events);
        Visited {
            applied,
            more,
            wants_large: taking.wants_large,
        }
    }

    /// Moves out what is to be logged and fetched, and which links to wake. Call it before every unlock. Submit the
    /// batch (if it is not empty) to the log before unlocking, so that batches arrive in ticket order; fire the wakes
    /// after unlocking.
    pub fn drain(&mut self, batch: &mut Batch, requests: &mut Vec<Request>, wakes: &mut Wakes) {
        wakes.0.append(&mut self.wakes);
        // Settles are logged with whatever else is written, or on their own when they have waited long enough.
        if self.queues.is_any_ack_unlogged()
            && (!self.staging.is_empty() || self.acks_due.is_some_and(|due| self.now.monotonic >= due))
        {
            self.stage_acks();
        }
        self.staging.drain(batch);
        requests.append(&mut self.memory.requests);
    }

    /// Reports that the batch `ticket` and all before it are written.
    pub fn written(&mut self, now: Now, ticket: Ticket) {
        self.begin(now);
        if self.staging.written(ticket) {
            if self.flow.is_tracing() {
                self.traces.written(now, ticket.0);
            }
            self.release_reported();
        }
    }

    /// Continues what waited for the batches that were just reported.
    fn release_reported(&mut self) {
        let mut budget = Budget::of_hold(&self.settings);
        self.release_waits(&mut budget);
        self.dispatch_touched();
        self.relieve_memory();
        self.note_hold(&budget);
    }

    /// Continues what waited for batches reported by now. How much that is is for clients to choose: what is left
    /// continues in the next hold.
    pub(crate) fn release_waits(&mut self, budget: &mut Budget) {
        let log = self.staging.log();
        self.waits.continues = false;
        while !budget.is_spent() {
            let Some(waiter) = self.waits.next(log) else { return };
            let units = match waiter {
                Waiter::Channel(link, channel) => match self.links.get_mut(link) {
                    Some(l) => {
                        let released = l.release_gated(channel, log);
                        l.note_confirms(channel);
                        l.wake(&mut self.wakes);
                        released / RELEASED_PER_UNIT
                    }
                    None => 0,
                },
                Waiter::Marked(queue) => {
                    self.queues.touch(queue);
                    dispatch::DISPATCH_LEAST
                }
                Waiter::Session(session, link) => {
                    let resent = self.sessions.get(session).map_or(0, |s| s.in_flight.len());
                    self.session_open(session, link);
                    resent / RELEASED_PER_UNIT
                }
                Waiter::Time(wall) => {
                    self.note_time(wall);
                    dispatch::DISPATCH_LEAST
                }
            };
            budget.spend(1 + units);
        }
        if self.waits.is_due(log) {
            self.waits.continues = true;
            self.timers.set(self.now.monotonic, timers::Timer::Reported);
        }
    }

    /// Reports that the batch `ticket` and all before it are as durable as they need to be (and so written).
    pub fn durable(&mut self, now: Now, ticket: Ticket) {
        self.begin(now);
        if !self.staging.durable(ticket) {
            return;
        }
        if self.flow.is_tracing() {
            self.trace_stored(ticket.0);
        }
        self.confirms.free_orphans(self.staging.durable_ticket());
        self.release_reported();
    }

    /// Reports pressure from outside the engine (free disk space, slow commits), or its end.
    pub fn set_pressure(&mut self, pressure: Option<Pressure>) {
        self.renew_budgets();
        let was_short = self.is_disk_short();
        self.node_pressure = pressure;
        if was_short && !self.is_disk_short() {
            self.resume_postponed();
            let wills = self.counters.wills_not_logged - self.wills_reported;
            if wills > 0 {
                self.wills_reported += wills;
                tracing::warn!(vhost = %self.settings.vhost, wills, "wills were not logged while the disk was full");
            }
        }
        self.dispatch_touched();
        self.relieve_memory();
        self.note_hold(&Budget::default());
    }

    /// Whether publishers wait or are refused because disk space is short.
    fn is_disk_short(&self) -> bool {
        matches!(self.node_pressure, Some(Pressure::Disk | Pressure::Full))
    }
    /// Whether the rest of the disk is reserved for settles, so that nothing else is logged.
    fn is_full(&self) -> bool {
        self.node_pressure == Some(Pressure::Full)
    }

    /// Closes one link on request of an operator, who may give a reason. Its driver then sends `Detach`.
    pub fn end_link(&mut self, link: Link, why: Option<Name>) {
        if let Some(l) = self.links.get_mut(link) {
            l.closed = Some(CloseReason::Forced);
            if let Some(why) = why {
                l.rare.make().closed_because = Some(why);
            }
            l.wake(&mut self.wakes);
        }
    }

    /// Whether a link is still to get retained messages that its subscriptions asked for.
    pub fn replays(&self, link: Link) -> bool {
        self.links.get(link).is_some_and(|l| l.replays.is_some())
    }

    /// What a link's socket has carried, as of its last visit.
    pub fn carried(&self, link: Link) -> Option<Carried> {
        self.links.get(link).map(|l| l.carried)
    }

    /// Whether publishers wait because memory is short.
    pub fn is_short_of_memory(&self) -> bool {
        self.pressure == Some(Pressure::Memory)
    }

    /// The number of exchanges, the default one included.
    pub fn exchanges(&self) -> usize {
        self.router.exchanges_len()
    }

    /// Stages settles that are not logged yet, before a clean stop. Call `drain` next.
    pub fn flush(&mut self) {
        self.stage_acks();
    }

    /// Whether any connection is attached.
    pub fn has_links(&self) -> bool {
        !self.links.is_empty()
    }

    /// Begins a turn.
    fn begin(&mut self, now: Now) {
        self.now = now;
        self.renew_budgets();
        self.touch_deferred();
    }
    fn renew_budgets(&mut self) {
        self.internal_budget = Budget::of_hold(&self.settings);
        self.side_budget = Budget::of_hold(&self.settings);
    }

    /// Notes how much work a hold did. Others waited that long.
    fn note_hold(&mut self, budget: &Budget) {
        let units = budget.spent() + self.internal_budget.spent() + self.side_budget.spent();
        let longest = &mut self.counters.longest_hold_units;
        *longest = (*longest).max(units as u64);
    }

    /// Takes the work units that the current command has spent on going through lists.
    fn take_listed_units(&mut self) -> usize {
        std::mem::take(&mut self.listed_units)
    }

    fn session_of(&mut self, link: Link) -> Option<(SessionKey, &mut DurableSession)> {
        let session = self.links.get(link)?.session?;
        self.sessions.get_mut(session).map(|s| (session, s))
    }

    /// Queues an answer for the link. With `gate` it waits until that batch is durable.
    fn answer(&mut self, link: Link, channel: ChannelNumber, event: Event, gate: Option<u64>) {
        let gate = gate.map_or(Gate::Open, Gate::Durable);
        self.push_out(link, channel, Out::Event(event), gate);
    }
    fn push_out(&mut self, link: Link, channel: ChannelNumber, out: Out, gate: Gate) {
        let log = self.staging.log();
        if let Some(l) = self.links.get_mut(link) {
            l.push(channel, out, gate, log);
            self.waits.at(gate, Waiter::Channel(link, channel));
        }
    }
    /// Closes the channel if its protocol closes channels at their first failure.
    fn note_failure(&mut self, link: Link, channel: ChannelNumber) {
        if let Some(l) = self.links.get_mut(link)
            && let Some(c) = l.find_channel(channel).filter(|c| c.strict)
        {
            c.failed = true;
            l.failures = true;
        }
    }
    fn fail(&mut self, link: Link, channel: ChannelNumber, op: Op, fault: Fault) {
        if asking::is_unanswered(&fault) {
            return;
        }
        self.note_failure(link, channel);
        self.answer(
            link,
            channel,
            Event::Failed {
                channel,
                op,
                fault: Box::new(fault),
            },
            None,
        );
    }

    /// Names a queue in texts: `queue 'q' in vhost '/'`.
    fn queue_text(&self, name: &str) -> String {
        format!("queue '{name}' in vhost '{}'", self.settings.vhost)
    }
    fn no_queue(&self, name: &str) -> Fault {
        Fault::new(FaultKind::NotFound, format!("no {}", self.queue_text(name)))
    }

    /// SplitMix64: good enough for names. A seed gives the same names in every run.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

fn done(channel: ChannelNumber, op: Op) -> Event {
    Event::Done {
        channel,
        op,
        consumer: 0,
    }
}
