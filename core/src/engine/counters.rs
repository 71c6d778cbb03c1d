//! What the engine counts, in plain integers that are summed at scrape. No message goes through a metrics registry.
//!
//! Activity of connections is counted by protocol: each connection has the index of its protocol's counters. Gauges
//! without a counter (channels, ready messages) come from a walk over queues and connections, which takes as many holds
//! as it needs: see [`Engine::count`].

use crate::event::Pressure;
use crate::fault::{Fault, FaultKind};
use crate::ledger::PerKind;

/// A limit of the configuration, of a vhost or of a user. Refusals are counted for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Headers in a message to a headers exchange, and in a binding to one.
    MessageHeaders,
    /// Routing keys of a message beside its own: CC and BCC.
    MessageKeys,
    /// Wildcards in a filter or binding key.
    FilterWildcards,
    /// Subscriptions of a session.
    SessionFilters,
    /// Deliveries (messages times queues) of a transaction.
    TransactionDeliveries,
    /// Levels in a topic, filter or binding key.
    TopicLevels,
    /// Connections of a vhost.
    VhostConnections,
    /// Queues of a vhost.
    VhostQueues,
    /// Channels of a user.
    UserChannels,
}

impl Limit {
    /// All of them, in the order of their numbers.
    pub const ALL: [Limit; 9] = [
        Limit::MessageHeaders,
        Limit::MessageKeys,
        Limit::FilterWildcards,
        Limit::SessionFilters,
        Limit::TransactionDeliveries,
        Limit::TopicLevels,
        Limit::VhostConnections,
        Limit::VhostQueues,
        Limit::UserChannels,
    ];
    /// Its label in metrics: its key in the section `limits`, or for vhosts and users the name of the limit.
    pub fn name(self) -> &'static str {
        match self {
            Limit::MessageHeaders => "message_headers_max",
            Limit::MessageKeys => "message_keys_max",
            Limit::FilterWildcards => "filter_wildcards_max",
            Limit::SessionFilters => "session_filters_max",
            Limit::TransactionDeliveries => "transaction_deliveries_max",
            Limit::TopicLevels => "topic_levels_max",
            Limit::VhostConnections => "vhost_max_connections",
            Limit::VhostQueues => "vhost_max_queues",
            Limit::UserChannels => "user_max_channels",
        }
    }
}

impl Counters {
    /// Counts a message that has too many headers to be routed. That is the only fault of routing that a limit causes.
    pub(super) fn note_unroutable(&mut self, fault: &Fault) {
        if fault.kind == FaultKind::PreconditionFailed {
            self.refused_by(Limit::MessageHeaders);
        }
    }
    /// Counts something that a limit refused.
    pub(super) fn refused_by(&mut self, limit: Limit) {
        // The array has an element for each limit.
        if let Some(count) = self.limit_refusals.get_mut(limit as usize) {
            *count += 1;
        }
    }
}

/// What connections did since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections attached.
    pub links_attached: u64,
    /// Connections detached.
    pub links_detached: u64,
    /// Bytes read from their sockets, as of their last visits.
    pub bytes_in: u64,
    /// Bytes written to them.
    pub bytes_out: u64,
    /// Messages published.
    pub published: u64,
    /// Bytes of the bodies of these messages.
    pub published_bytes: u64,
    /// Messages published that are to be confirmed.
    pub published_confirm: u64,
    /// Publishes confirmed.
    pub confirmed: u64,
    /// Publishes refused.
    pub refused: u64,
    /// Publishes that reached at least one queue.
    pub routed: u64,
    /// Publishes that reached no queue and were dropped.
    pub unroutable_dropped: u64,
    /// Publishes that reached no queue and were returned.
    pub unroutable_returned: u64,
    /// Deliveries to consumers that settle them.
    pub delivered: u64,
    /// Deliveries that were settled when taken.
    pub delivered_no_ack: u64,
    /// Messages fetched by `Get`.
    pub got: u64,
    /// Of these, the ones settled when taken.
    pub got_no_ack: u64,
    /// Bytes of bodies delivered and fetched.
    pub delivered_bytes: u64,
    /// `Get`s on an empty queue.
    pub get_empty: u64,
    /// Deliveries of messages that were handed out before.
    pub redelivered: u64,
    /// Deliveries settled as accepted.
    pub acknowledged: u64,
    /// Messages rejected by a consumer.
    pub rejected: u64,
    /// Messages published, by the size of their bodies: see [`MESSAGE_SIZES`].
    pub message_sizes: [u64; MESSAGE_SIZES.len() + 1],
    /// Connections that have published (gauge).
    pub publishers: u64,
    /// Consumers of connections that are attached (gauge).
    pub consumers: u64,
}

/// Upper bounds of [`Traffic::message_sizes`], in bytes. Larger messages count in a last bucket.
pub const MESSAGE_SIZES: [usize; 8] = [
    100,
    1_000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
];

impl Traffic {
    /// Connections that are attached now.
    pub fn links(&self) -> u64 {
        self.links_attached - self.links_detached
    }
    /// Counts a message that was published, by its size.
    #[inline]
    pub(super) fn note_size(&mut self, bytes: usize) {
        // Most messages are small and match one of the first two.
        let bucket = MESSAGE_SIZES.iter().position(|bound| bytes <= *bound);
        if let Some(count) = self.message_sizes.get_mut(bucket.unwrap_or(MESSAGE_SIZES.len())) {
            *count += 1;
        }
    }
    fn add(&mut self, other: &Traffic) {
        for (sum, other) in self.message_sizes.iter_mut().zip(other.message_sizes) {
            *sum += other;
        }
        self.links_attached += other.links_attached;
        self.links_detached += other.links_detached;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.published += other.published;
        self.published_bytes += other.published_bytes;
        self.published_confirm += other.published_confirm;
        self.confirmed += other.confirmed;
        self.refused += other.refused;
        self.routed += other.routed;
        self.unroutable_dropped += other.unroutable_dropped;
        self.unroutable_returned += other.unroutable_returned;
        self.delivered += other.delivered;
        self.delivered_no_ack += other.delivered_no_ack;
        self.got += other.got;
        self.got_no_ack += other.got_no_ack;
        self.delivered_bytes += other.delivered_bytes;
        self.get_empty += other.get_empty;
        self.redelivered += other.redelivered;
        self.acknowledged += other.acknowledged;
        self.rejected += other.rejected;
        self.publishers += other.publishers;
        self.consumers += other.consumers;
    }
}

impl std::iter::Sum for Traffic {
    fn sum<I: Iterator<Item = Traffic>>(all: I) -> Traffic {
        let mut sum = Traffic::default();
        all.for_each(|traffic| sum.add(&traffic));
        sum
    }
}

impl Counters {
    /// The index of a protocol's counters, which its connections keep.
    pub(super) fn place_of(&mut self, protocol: &'static str) -> u8 {
        let known = self.by_protocol.iter().position(|(name, _)| *name == protocol);
        let place = known.unwrap_or_else(|| {
            self.by_protocol.push((protocol, Traffic::default()));
            self.by_protocol.len() - 1
        });
        // There are only a few protocols and versions. If there were over 256, the rest would share the last index.
        u8::try_from(place).unwrap_or(u8::MAX)
    }
    /// The counters at that index.
    #[inline]
    pub(super) fn of(&mut self, place: u8) -> &mut Traffic {
        &mut self.by_protocol[usize::from(place)].1
    }
}

/// Counters since the process started, and gauges.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Activity of connections, by the protocol they attached with (`MQTT 5.0`), in the order in which protocols were
    /// first seen.
    pub by_protocol: Vec<(&'static str, Traffic)>,
    /// Work units of the longest hold of the engine's lock so far.
    pub longest_hold_units: u64,
    /// The sum of `by_protocol`.
    pub traffic: Traffic,
    /// Sessions that expired.
    pub sessions_expired: u64,
    /// Commands, filters and wills refused by access checks.
    pub access_refused: u64,
    /// Refusals by each limit, indexed by [`Limit`].
    pub limit_refusals: [u64; Limit::ALL.len()],
    /// Channels that clients have opened explicitly.
    pub channels_opened: u64,
    /// Of these, closed.
    pub channels_closed: u64,
    /// Copies put into queues.
    pub enqueued: u64,
    /// Messages dropped because they expired.
    pub expired: u64,
    /// Messages dropped because their queue was full (or, at QoS 0, their subscriber too slow).
    pub dropped_full: u64,
    /// Messages dead-lettered because a consumer rejected them.
    pub dead_lettered_rejected: u64,
    /// Messages dead-lettered because they expired.
    pub dead_lettered_expired: u64,
    /// Messages dead-lettered because their queue was full.
    pub dead_lettered_maxlen: u64,
    /// Messages dead-lettered because they came back from consumers too often.
    pub dead_lettered_delivery_limit: u64,
    /// Messages whose record was damaged.
    pub damaged: u64,
    /// Messages settled before they were written, and so never logged.
    pub cancelled_writes: u64,
    /// Wills that were not logged because the disk was full. A restart loses them.
    pub wills_not_logged: u64,
    /// Accepted declarations of queues, whether they created the queue or it existed.
    pub queues_declared: u64,
    /// Queues created. Queues that a restart finds in the log do not count.
    pub queues_created: u64,
    /// Queues deleted.
    pub queues_deleted: u64,
    /// Bodies evicted from memory.
    pub bodies_evicted: u64,
    /// Bodies read back from the log.
    pub bodies_loaded: u64,

    /// Channels (gauge).
    pub channels: u64,
    /// Consumers (gauge).
    pub consumers: u64,
    /// Queues (gauge).
    pub queues: u64,
    /// MQTT sessions, connected or not (gauge).
    pub sessions: u64,
    /// MQTT sessions whose client is connected (gauge).
    pub sessions_connected: u64,
    /// Subscriptions of MQTT sessions (gauge).
    pub subscriptions: u64,
    /// Messages ready in all queues (gauge).
    pub messages_ready: u64,
    /// Bytes of their bodies (gauge).
    pub messages_ready_bytes: u64,
    /// Of these, messages that are in the log only, without an entry in memory (gauge).
    pub messages_paged: u64,
    /// Messages reserved for consumers or unsettled (gauge).
    pub messages_unsettled: u64,
    /// Bytes of memory that unsettled deliveries occupy: 32 each, and bodies that are in memory (gauge).
    pub unsettled_bytes: u64,
    /// Throttled consumers: they are offered nothing until something is settled, because too much is unsettled (gauge).
    pub consumers_held_back: u64,
    /// Retained messages (gauge).
    pub retained: u64,
    /// Bytes of memory that retained messages occupy, without their bodies (gauge).
    pub retained_bytes: u64,
    /// Bytes of memory that each kind of object occupies (gauge).
    pub objects_bytes: PerKind,
    /// Bytes of memory that objects may occupy together (gauge).
    pub objects_bytes_max: u64,
    /// Objects refused, or retained messages not kept, because memory was short.
    pub objects_refused: PerKind,
    /// Bytes of queued and retained messages in memory (gauge).
    pub memory_bytes: u64,
    /// Bytes handed to the log that it has not reported as written (gauge).
    pub log_backlog_bytes: u64,
    /// Why publishers have to wait at present (gauge).
    pub publishers_wait_for: Option<Pressure>,
}
