//! The node: the state that all threads share.

use crate::accountant::{self, Pools};
use crate::api::flow::Flow;
use crate::api::rates::Rates;
use crate::clock::Clock;
use crate::committer::LogQueue;
use crate::config::{self, Config};
use crate::directory::Directory;
use crate::exit::Failure;
use crate::histogram::Histogram;
use crate::http::answers::Answers;
use crate::listener::Listeners;
use crate::logging::lines::Lines;
use crate::machine;
use crate::protection::Protection;
use crate::random::random;
use crate::reader::ReadQueue;
use crate::reload::Desk;
use crate::tls;
use crate::transport::quic;
use crate::vhost::Vhost;
use crate::vhosts::Vhosts;
use gatepost_core::buffers::Buffers;
use gatepost_core::catalog::{self, VhostRecord};
use gatepost_core::engine::{Engine, Settings, Share, Usage};
use gatepost_core::keys;
use gatepost_core::properties::{Codecs, Name};
use gatepost_core::session::Protocol;
use gatepost_core::store::{Durability, Recovered, StoreStats, VhostId};
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;
use tokio::sync::Notify;

/// Shared state of the process.
pub(crate) struct Node {
    /// The current configuration; see [`Node::config`].
    config: RwLock<Arc<Config>>,
    /// The process's clock.
    pub clock: Clock,
    /// Users and their rights.
    pub directory: Directory,
    /// TLS settings of the listeners.
    pub tls: tls::Ports,
    /// The vhosts.
    pub vhosts: Vhosts,
    /// The protocols; a connection refers to its protocol by index.
    pub protocols: Vec<Box<dyn Protocol>>,
    /// Property codecs of all protocols.
    pub codecs: Codecs,
    /// Batches for the committer.
    pub log: Arc<LogQueue>,
    /// Requests for the reader.
    pub reads: Arc<ReadQueue>,
    /// Durations of commits.
    pub commit_times: Histogram,
    /// Counters of connections, by protocol.
    pub connections: Vec<ConnectionCounts>,
    /// Connections of vhosts that have not been closed yet. A stop waits for them.
    pub attached: AtomicUsize,
    /// Rate limits for log lines about single connections.
    pub lines: Lines,
    /// The node's state for `/readyz` and `/healthz`.
    pub health: Health,
    /// When the process started.
    pub started: Instant,
    /// The log's counters.
    pub store_stats: Arc<StoreStats>,
    /// Notified when an engine has used much of its share: see [`crate::accountant`].
    pub short_of_memory: Arc<Notify>,
    /// Limits that keep a few clients from blocking all others.
    pub protection: Protection,
    /// Counters of QUIC.
    pub quic: Arc<quic::Counts>,
    /// Memory of all connections' buffers.
    pub buffers: Arc<Buffers>,
    /// HTTP answers, which are a part of that.
    pub answers: Arc<Answers>,
    /// Past values of counters, for computing rates.
    pub rates: Rates,
    /// The flow map: which clients exchange messages with which.
    pub flow: Flow,
    /// The addresses that the node listens on.
    pub listeners: Listeners,
    /// Requests of the management API to reload the configuration, and to stop.
    pub desk: Desk,
    /// Notified when `mqtt.sys_interval` may have changed.
    pub sys_interval_changed: Notify,
    /// Held during an import over the management API, so that there is one at a time: a document takes several times
    /// its size in memory.
    pub importing: tokio::sync::Mutex<()>,
    /// Wakes [`crate::watch`] before its next second.
    pub look: Notify,
    failure: Mutex<Option<Failure>>,
    failed: Notify,
}

/// Counters of one protocol's connections.
#[derive(Debug, Default)]
pub(crate) struct ConnectionCounts {
    /// Accepted so far.
    pub opened: AtomicU64,
    /// Closed so far.
    pub closed: AtomicU64,
    /// Successful logins.
    pub logged_in: AtomicU64,
    /// Refused logins.
    pub login_refused: AtomicU64,
    /// Connections refused by a limit, a rate or a ban.
    pub refused: AtomicU64,
    /// Failed TLS handshakes.
    pub tls_refused: AtomicU64,
    /// Times that a connection was not read because its client or user was over a quota.
    pub throttled: AtomicU64,
    /// Requests at a WebSocket listener that were refused.
    pub websocket_refused: AtomicU64,
    /// QUIC connections that ended before they had a session.
    pub quic_refused: AtomicU64,
    /// Connections closed because their PROXY header was missing or not valid.
    pub proxy_refused: AtomicU64,
}

impl ConnectionCounts {
    /// Open connections.
    pub(crate) fn open(&self) -> u64 {
        // `closed` is read first: otherwise a connection that opens and closes between the reads would make the result negative.
        let closed = self.closed.load(Ordering::Relaxed);
        self.opened.load(Ordering::Relaxed).saturating_sub(closed)
    }
}

/// The node's state, as `/readyz` and `/healthz` report it.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// The listeners are up.
    pub listening: AtomicBool,
    /// The gateway is stopping.
    pub stopping: AtomicBool,
    /// The log failed, so nothing is confirmed any more.
    pub poisoned: AtomicBool,
    /// Reads of the log that failed and are being retried.
    pub reads_failing: AtomicU64,
    /// Free disk is below the limit, so publishers wait.
    pub disk_alarm: AtomicBool,
    /// Free disk is down to the reserve, so durable publishes are refused.
    pub disk_full: AtomicBool,
    /// Disk that the log has reserved, in addition to free disk.
    pub log_reserved: AtomicU64,
    /// Free disk as last seen.
    pub disk_free: AtomicU64,
    /// The limit for free disk.
    pub disk_limit: AtomicU64,
}

impl Node {
    /// A node with the state that was read from the log.
    pub(crate) fn new(
        config: Config,
        directory: Directory,
        tls: tls::Ports,
        protocols: Vec<Box<dyn Protocol>>,
        clock: Clock,
        mut recovered: Recovered,
        store_stats: Arc<StoreStats>,
    ) -> Node {
        let log = Arc::new(LogQueue::default());
        let reads = Arc::new(ReadQueue::default());
        let codecs = Codecs::new(protocols.iter().map(|p| p.codec()).collect());
        clock.advance_wall(recovered.wall);
        let buffers = Arc::new(Buffers::new(Pools::of(&config).input));
        let short_of_memory = Arc::new(Notify::new());
        let mut known = catalog::vhosts(&recovered);
        // The log is new: create the default vhost. In later starts a deleted vhost stays deleted, even the default one.
        let fresh = recovered.vhost_max == VhostId::NODE && known.is_empty();
        if fresh {
            let record = VhostRecord {
                name: DEFAULT_VHOST.into(),
                description: "Default virtual host".into(),
                ..VhostRecord::default()
            };
            known.insert(VhostId(1), record);
        }
        let highest = known.keys().next_back().copied().unwrap_or_default();
        let highest = highest.max(recovered.vhost_max);
        let damaged = directory.recover(&recovered, &config);
        store_stats.quarantined.fetch_add(damaged, Ordering::Relaxed);
        let first = if fresh { directory.begin(VhostId(1)) } else { Vec::new() };
        let shares = Pools::of(&config).shares(&vec![Usage::default(); known.len()]);
        let mut vhosts = Vec::new();
        for ((number, record), share) in known.into_iter().zip(shares) {
            let settings = engine_settings(&config, record.name.clone(), number, share);
            let mut engine = Engine::new(settings, codecs.clone(), random());
            directory.instruct(number, &mut engine);
            engine.recover(clock.now(), recovered.take(number));
            // Counted in health and metrics, like other damage.
            let damaged = engine.damaged_definitions();
            store_stats.quarantined.fetch_add(damaged, Ordering::Relaxed);
            let (log, reads) = (Arc::clone(&log), Arc::clone(&reads));
            let short = Arc::clone(&short_of_memory);
            vhosts.push(Arc::new(Vhost::new(record, number, engine, log, reads, short)));
        }
        let vhosts = Vhosts::new(vhosts, highest, Arc::clone(&log));
        if fresh {
            // One write, before any record of the vhost. The vhost's own record is last: a start that finds it also finds the
            // users created with it; a start that does not find it creates them again.
            let list = vhosts.list();
            let vhost = list
                .iter()
                .map(|vhost| catalog::vhost_record(vhost.number, &vhost.record()));
            drop(vhosts.log().submit(first.into_iter().chain(vhost).collect()));
        }
        let node = Node {
            connections: protocols.iter().map(|_| ConnectionCounts::default()).collect(),
            protection: Protection::new(&config),
            config: RwLock::new(Arc::new(config)),
            clock,
            directory,
            tls,
            vhosts,
            protocols,
            codecs,
            log,
            reads,
            commit_times: Histogram::default(),
            attached: AtomicUsize::new(0),
            lines: Lines::new(Instant::now()),
            health: Health::default(),
            started: Instant::now(),
            store_stats,
            short_of_memory,
            quic: Arc::default(),
            answers: Arc::new(Answers::new(Arc::clone(&buffers))),
            buffers,
            rates: Rates::default(),
            flow: Flow::default(),
            listeners: Listeners::default(),
            desk: Desk::default(),
            sys_interval_changed: Notify::new(),
            importing: tokio::sync::Mutex::default(),
            look: Notify::new(),
            failure: Mutex::new(None),
            failed: Notify::new(),
        };
        // The log may contain a name of the cluster. It takes precedence over the configuration's.
        node.configure_protocols();
        node
    }

    /// The current configuration. A reload replaces it, so call this each time instead of keeping the result.
    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read())
    }

    /// Replaces the configuration.
    pub(crate) fn replace_config(&self, config: Config) {
        self.protection.configure(&config);
        let config = Arc::new(config);
        *self.config.write() = Arc::clone(&config);
        self.configure_protocols();
        for vhost in self.vhosts.list().iter() {
            let settings = engine_settings(&config, vhost.name.clone(), vhost.number, NO_SHARE);
            vhost.enter(|engine| engine.reconfigure(settings));
        }
        self.buffers.set_bytes_max(Pools::of(&config).input);
        self.short_of_memory.notify_one();
        self.look.notify_one();
        self.sys_interval_changed.notify_one();
    }

    /// Passes the configuration to all protocols, with the cluster's name as it is shown elsewhere.
    pub(crate) fn configure_protocols(&self) {
        let mut values = accountant::values_within_memory(&self.config());
        values.insert("node.cluster_name", keys::Value::Text(self.cluster_name()));
        for protocol in &self.protocols {
            protocol.configure(&values);
        }
    }

    /// The vhost of that name.
    pub(crate) fn vhost(&self, name: &str) -> Option<Arc<Vhost>> {
        self.vhosts.named(name)
    }

    /// Creates a vhost of this node around an engine.
    pub(crate) fn vhost_of(&self, record: VhostRecord, number: VhostId, engine: Engine) -> Vhost {
        let (log, reads) = (Arc::clone(&self.log), Arc::clone(&self.reads));
        Vhost::new(record, number, engine, log, reads, Arc::clone(&self.short_of_memory))
    }

    /// Connections open now, over all protocols.
    pub(crate) fn connections_open(&self) -> u64 {
        self.connections.iter().map(ConnectionCounts::open).sum()
    }

    /// Maximum connections: as configured, but never so many that the log would lack descriptors.
    pub(crate) fn connections_limit(&self) -> u64 {
        let config = self.config();
        let files = machine::open_files_max();
        let reserved = machine::files_reserved(config.store.open_files) + self.refusals_max() as u64;
        connections_max(config.limits.max_connections, files, reserved)
    }

    /// Connections over that limit that are accepted only to be refused in their protocol's words.
    pub(crate) fn refusals_max(&self) -> usize {
        let room = usize::try_from(machine::open_files_max() / 16).unwrap_or(usize::MAX);
        self.config().protection.refusals_max.min(room)
    }

    /// Maximum connections that have not logged in.
    pub(crate) fn half_open_max(&self) -> usize {
        match self.config().protection.half_open_max {
            0 => {
                let by_connections = usize::try_from(self.connections_limit() / 2).unwrap_or(usize::MAX);
                let by_memory = (self.buffers.bytes_max() / HALF_OPEN_BYTES).max(HALF_OPEN_LEAST);
                by_connections.min(by_memory).max(1)
            }
            set => set,
        }
    }

    /// Whether the gateway is stopping.
    pub(crate) fn is_stopping(&self) -> bool {
        self.health.stopping.load(Ordering::Relaxed)
    }

    /// Makes the process end because of a fatal failure. Only the first failure is kept.
    pub(crate) fn fail(&self, failure: Failure) {
        tracing::error!("{failure}");
        self.failure.lock().get_or_insert(failure);
        self.failed.notify_one();
    }

    /// Returns once [`Node::fail`] was called.
    pub(crate) async fn failed(&self) {
        self.failed.notified().await;
    }

    /// The failure that ends the process, if there is one.
    pub(crate) fn take_failure(&self) -> Option<Failure> {
        self.failure.lock().take()
    }
}

/// Maximum connections: as configured, but never so many that the log would lack descriptors. A log that cannot open a
/// file ends the process, whereas a refused connection costs one client a retry.
fn connections_max(set: u64, open_files: u64, reserved: u64) -> u64 {
    let room = open_files.saturating_sub(reserved).max(1);
    match set {
        0 => room,
        set => set.min(room),
    }
}

/// The vhost that the first start creates.
pub(crate) const DEFAULT_VHOST: &str = "/";

/// What a connection that has not logged in takes of `memory.input`: 10 to 25 KiB during a TLS handshake, 9 of a WebSocket's request.
const HALF_OPEN_BYTES: usize = 12 << 10;
/// So many may log in at the same time, however small the memory is.
const HALF_OPEN_LEAST: usize = 64;

/// For a running engine: when its settings change, it keeps the share that the accountant gave it.
const NO_SHARE: Share = Share {
    cache_bytes_max: 0,
    memory_bytes_max: 0,
    unsettled_bytes_max: 0,
    objects_bytes_max: 0,
};

/// Settings of a vhost's engine, with its initial share of memory.
pub(crate) fn engine_settings(config: &Config, vhost: Name, number: VhostId, share: Share) -> Settings {
    let expiry = config.mqtt.session_expiry_max.0;
    Settings {
        vhost,
        number,
        cache_bytes_max: share.cache_bytes_max,
        memory_bytes_max: share.memory_bytes_max,
        unsettled_bytes_max: share.unsettled_bytes_max,
        objects_bytes_max: share.objects_bytes_max,
        log_backlog_bytes_max: config.store.backlog.bytes(),
        durability: match config.store.durability {
            config::Durability::Always => Durability::Always,
            config::Durability::Interval => Durability::Interval,
            config::Durability::Os => Durability::Os,
        },
        queues_max: config.limits.max_queues,
        message_headers_max: config.limits.message_headers_max,
        message_keys_max: config.limits.message_keys_max,
        filter_wildcards_max: config.limits.filter_wildcards_max,
        session_filters_max: config.limits.session_filters_max,
        topic_levels_max: config.limits.topic_levels_max,
        transaction_deliveries_max: config.limits.transaction_deliveries_max,
        session_expiry_max: Some(u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX)),
        topic_exchange: config.mqtt.exchange.as_str().into(),
        flow: config.management.flow,
        ..Settings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bug: `limits.max_connections = 500` with 256 descriptors let clients take the last one, and the log failed.
    #[test]
    fn connections_never_take_the_descriptors_of_the_log() {
        assert_eq!(connections_max(0, 256, 128), 128);
        assert_eq!(connections_max(500, 256, 128), 128);
        assert_eq!(connections_max(100, 256, 128), 100);
        assert_eq!(connections_max(0, 64, 128), 1);
    }
}
