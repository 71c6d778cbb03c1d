//! What Prometheus sees. Nothing here is touched per message: the counters are plain integers of the engine, the
//! sessions and the threads, copied at scrape into a recorder that only renders them.

use super::families::{
    CONSUMING, COUNTERS, DEAD_LETTERS, GAUGES, PROTOCOLS, PUBLISHING, QUEUE_TYPE, STORE_COUNTERS, STORE_GAUGES, TRAFFIC,
};
use crate::histogram::render;
use crate::machine;
use crate::node::Node;
use crate::protocols;
use crate::threads::IoThreads;
use gatepost_core::engine::{Counters, Limit, ObjectKind, PerKind, Traffic};
use gatepost_core::properties::Origin;
use gatepost_core::store::SYNC_BUCKETS_US;
use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Renders `/metrics`.
pub(crate) struct Exporter {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    started: Instant,
    scrape_ns: AtomicU64,
}

impl Exporter {
    /// An exporter that knows who it speaks for.
    pub(crate) fn new(node: &Node) -> Exporter {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            identity(node);
        });
        Exporter {
            recorder,
            handle,
            started: node.started,
            scrape_ns: AtomicU64::new(0),
        }
    }

    /// The text of one scrape.
    pub(crate) fn scrape(&self, node: &Node, threads: &IoThreads) -> String {
        let began = Instant::now();
        metrics::with_local_recorder(&self.recorder, || {
            self.process(node);
            connections(node, threads);
            log(node);
            engines(node);
            interop(node);
        });
        let mut text = self.handle.render();
        syncs(node, &mut text);
        node.commit_times.render(
            &mut text,
            "gatepost_log_commit_seconds",
            "Time of a group commit, its sync included.",
        );
        for vhost in node.vhosts.list().iter() {
            let lock = &vhost.lock;
            let help = "Time callers waited for an engine's lock, of those that had to.";
            lock.waited.render(&mut text, "gatepost_engine_lock_wait_seconds", help);
            let help = "Time an engine's lock was held, of one turn in 64.";
            lock.held.render(&mut text, "gatepost_engine_lock_hold_seconds", help);
        }
        self.scrape_ns.store(
            u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
        text
    }

    fn process(&self, node: &Node) {
        let health = &node.health;
        gauge!("rabbitmq_erlang_uptime_seconds").set(self.started.elapsed().as_secs_f64());
        gauge!("rabbitmq_process_resident_memory_bytes").set(machine::resident_bytes() as f64);
        gauge!("rabbitmq_resident_memory_limit_bytes").set(machine::memory_budget(node.config().memory.budget) as f64);
        gauge!("rabbitmq_process_open_fds").set(machine::open_files() as f64);
        gauge!("rabbitmq_process_max_fds").set(machine::open_files_max() as f64);
        gauge!("rabbitmq_disk_space_available_bytes").set(health.disk_free.load(Ordering::Relaxed) as f64);
        gauge!("rabbitmq_disk_space_available_limit_bytes").set(health.disk_limit.load(Ordering::Relaxed) as f64);
        gauge!("rabbitmq_alarms_free_disk_space_watermark").set(flag(health.disk_alarm.load(Ordering::Relaxed)));
        gauge!("gatepost_buffers_bytes").set(node.buffers.bytes() as f64);
        gauge!("gatepost_buffers_bytes_max").set(node.buffers.bytes_max() as f64);
        counter!("gatepost_buffers_held_back_total").absolute(node.buffers.held_back());
        counter!("gatepost_buffers_stalled_total").absolute(node.buffers.stalled());
        logins(node);
        gauge!("gatepost_disk_full").set(flag(health.disk_full.load(Ordering::Relaxed)));
        gauge!("gatepost_log_reserved_bytes").set(health.log_reserved.load(Ordering::Relaxed) as f64);
        gauge!("gatepost_log_poisoned").set(flag(health.poisoned.load(Ordering::Relaxed)));
        gauge!("gatepost_log_reads_failing").set(health.reads_failing.load(Ordering::Relaxed) as f64);
        gauge!("gatepost_scrape_duration_seconds").set(self.scrape_ns.load(Ordering::Relaxed) as f64 / 1e9);
    }
}

fn logins(node: &Node) {
    let logins = node.directory.figures();
    for (how, count) in [
        ("hashed", &logins.hashed),
        ("remembered", &logins.remembered),
        ("abandoned", &logins.abandoned),
        ("busy", &logins.busy),
    ] {
        counter!("gatepost_logins_checked_total", "how" => how).absolute(count.load(Ordering::Relaxed));
    }
    gauge!("gatepost_logins_waiting").set(logins.waiting.load(Ordering::Relaxed) as f64);
    let (bytes, users) = node.directory.outside();
    gauge!("gatepost_outside_users").set(users as f64);
    gauge!("gatepost_outside_bytes").set(bytes as f64);
    let requests = &node.directory.key_requests;
    for (outcome, count) in [("answered", &requests.answered), ("failed", &requests.failed)] {
        let family = "gatepost_auth_requests_total";
        counter!(family, "of" => "jwks", "outcome" => outcome).absolute(count.load(Ordering::Relaxed));
    }
    counter!("gatepost_limit_refusals_total", "limit" => "user_max_connections")
        .absolute(node.directory.connections_refused());
}

fn connections(node: &Node, threads: &IoThreads) {
    let (mut opened, mut closed) = (0, 0);
    for (counts, protocol) in node.connections.iter().zip(protocols::ALL) {
        let (name, label) = (protocol.name, protocol.metrics_label);
        closed += counts.closed.load(Ordering::Relaxed);
        opened += counts.opened.load(Ordering::Relaxed);
        gauge!("gatepost_connections", "protocol" => name).set(counts.open() as f64);
        let (good, bad) = (
            counts.logged_in.load(Ordering::Relaxed),
            counts.login_refused.load(Ordering::Relaxed),
        );
        let attempts = [
            ("rabbitmq_auth_attempts_total", good + bad),
            ("rabbitmq_auth_attempts_succeeded_total", good),
            ("rabbitmq_auth_attempts_failed_total", bad),
        ];
        for (family, count) in attempts {
            counter!(family, "protocol" => label).absolute(count);
        }
        let refused = counts.refused.load(Ordering::Relaxed);
        counter!("gatepost_connections_refused_total", "protocol" => name).absolute(refused);
        let tls_refused = counts.tls_refused.load(Ordering::Relaxed);
        counter!("gatepost_tls_refused_total", "protocol" => name).absolute(tls_refused);
        let websocket_refused = counts.websocket_refused.load(Ordering::Relaxed);
        counter!("gatepost_websocket_refused_total", "protocol" => name).absolute(websocket_refused);
        let quic_refused = counts.quic_refused.load(Ordering::Relaxed);
        counter!("gatepost_quic_refused_total", "protocol" => name).absolute(quic_refused);
        let proxy_refused = counts.proxy_refused.load(Ordering::Relaxed);
        counter!("gatepost_proxy_refused_total", "protocol" => name).absolute(proxy_refused);
    }
    protection(node);
    gauge!("gatepost_quic_handshakes").set(node.quic.underway.load(Ordering::Relaxed) as f64);
    counter!("gatepost_quic_retries_total").absolute(node.quic.retries.load(Ordering::Relaxed));
    counter!("gatepost_quic_streams_refused_total").absolute(node.quic.streams_refused.load(Ordering::Relaxed));
    gauge!("rabbitmq_connections").set(node.connections_open() as f64);
    counter!("rabbitmq_connections_opened_total").absolute(opened);
    counter!("rabbitmq_connections_closed_total").absolute(closed);
    for (number, thread) in threads.figures().enumerate() {
        let number = number.to_string();
        let counters = [
            ("gatepost_io_turns_total", &thread.turns),
            ("gatepost_io_read_bytes_total", &thread.bytes_in),
            ("gatepost_io_written_bytes_total", &thread.bytes_out),
        ];
        for (name, value) in counters {
            counter!(name, "thread" => number.clone()).absolute(value.load(Ordering::Relaxed));
        }
    }
    gauge!("gatepost_io_threads").set(threads.count() as f64);
    gauge!("gatepost_io_threads_helping").set(threads.helping() as f64);
}

fn protection(node: &Node) {
    let protection = &node.protection;
    let counts = &protection.counts;
    for (rule, count) in [
        ("address_rate", &counts.address_rate),
        ("banned", &counts.banned),
        ("half_open", &counts.half_open),
        ("listener_rate", &counts.listener_rate),
        ("login_ban", &counts.bans),
        ("login_delay", &counts.delayed),
        ("slow_reader", &counts.slow_readers),
        ("told_full", &counts.told_full),
    ] {
        counter!("gatepost_protection_total", "rule" => rule).absolute(count.load(Ordering::Relaxed));
    }
    counter!("gatepost_protection_total", "rule" => "publish_quota").absolute(protection.quotas.waits());
    gauge!("gatepost_half_open_connections").set(protection.half_open.count() as f64);
    let banned = protection.addresses_banned(node.clock.now().monotonic);
    gauge!("gatepost_addresses_banned").set(banned as f64);
}

fn log(node: &Node) {
    let (bytes, since) = node.log.backlog();
    gauge!("gatepost_log_backlog_bytes").set(bytes as f64);
    gauge!("gatepost_log_backlog_seconds").set(since.as_secs_f64());
    for (name, _, of) in STORE_COUNTERS {
        counter!(*name).absolute(of(&node.store_stats).load(Ordering::Relaxed));
    }
    for (name, _, of) in STORE_GAUGES {
        gauge!(*name).set(of(&node.store_stats).load(Ordering::Relaxed) as f64);
    }
}

fn syncs(node: &Node, text: &mut String) {
    let stats = &node.store_stats;
    let bounds = SYNC_BUCKETS_US
        .iter()
        .map(|us| (*us as f64 / 1e6).to_string())
        .chain(["+Inf".to_owned()]);
    let counts = stats.sync_latency.iter().map(|count| count.load(Ordering::Relaxed));
    let sum = stats.sync_us_total.load(Ordering::Relaxed) as f64 / 1e6;
    render(
        text,
        "gatepost_store_fsync_seconds",
        "Time of a sync of the log.",
        bounds.zip(counts),
        sum,
    );
}

/// What the engines counted, over all vhosts.
fn engines(node: &Node) {
    let vhosts = node.vhosts.list();
    let all: Vec<Counters> = vhosts.iter().map(|vhost| vhost.counters()).collect();
    for (label, traffic) in by_label(&all) {
        for (name, _, of) in PUBLISHING.iter().chain(TRAFFIC) {
            counter!(*name, "protocol" => label).absolute(of(&traffic));
        }
        for (name, _, of) in CONSUMING {
            counter!(*name, "protocol" => label, "queue_type" => QUEUE_TYPE).absolute(of(&traffic));
        }
        gauge!("gatepost_connections_attached", "protocol" => label).set(traffic.links() as f64);
    }
    for (name, _, of) in DEAD_LETTERS {
        counter!(*name, "protocol" => PROTOCOLS, "queue_type" => QUEUE_TYPE).absolute(all.iter().map(of).sum());
    }
    let consumers: u64 = all.iter().map(|c| c.consumers).sum();
    gauge!("rabbitmq_global_consumers", "protocol" => PROTOCOLS).set(consumers as f64);
    for (name, _, of) in COUNTERS {
        counter!(*name).absolute(all.iter().map(of).sum());
    }
    for (name, _, of) in GAUGES {
        gauge!(*name).set(all.iter().map(of).sum::<u64>() as f64);
    }
    for kind in ObjectKind::ALL {
        let sum = |of: fn(&Counters) -> &PerKind| all.iter().map(|c| of(c)[kind as usize]).sum::<usize>();
        gauge!("gatepost_objects_bytes", "kind" => kind.name()).set(sum(|c| &c.objects_bytes) as f64);
        counter!("gatepost_objects_refused_total", "kind" => kind.name()).absolute(sum(|c| &c.objects_refused) as u64);
    }
    for limit in Limit::ALL {
        let by_engines: u64 = all.iter().map(|c| c.limit_refusals[limit as usize]).sum();
        let by_sessions: u64 = node.protocols.iter().map(|p| p.limit_refusals(limit)).sum();
        let sum = by_engines + by_sessions;
        counter!("gatepost_limit_refusals_total", "limit" => limit.name()).absolute(sum);
    }
    let longest = all.iter().map(|c| c.longest_hold_units).max();
    gauge!("gatepost_longest_hold_units").set(longest.unwrap_or(0) as f64);
    for (state, of) in [("connected", true), ("kept", false)] {
        let sessions = |c: &Counters| {
            if of {
                c.sessions_connected
            } else {
                c.sessions - c.sessions_connected
            }
        };
        gauge!("gatepost_mqtt_sessions", "state" => state).set(all.iter().map(sessions).sum::<u64>() as f64);
    }
}

/// What connections did, by the label of their protocol. Every protocol that is built in is there from the start.
fn by_label(all: &[Counters]) -> BTreeMap<&'static str, Traffic> {
    let labels = protocols::ALL.iter().flat_map(|protocol| protocol.versions);
    let mut sums: BTreeMap<&'static str, Traffic> = labels.map(|(_, label)| (*label, Traffic::default())).collect();
    for (version, traffic) in all.iter().flat_map(|c| &c.by_protocol) {
        let label = protocols::of_version(version).map_or(*version, |(_, label)| label);
        let sum = sums.entry(label).or_default();
        *sum = [*sum, *traffic].into_iter().sum();
    }
    sums
}

/// What messages lost between protocols. Only what was lost at least once is shown: most pairs never occur.
fn interop(node: &Node) {
    let origins: Vec<_> = node.protocols.iter().map(|p| (p.codec().origin(), p.name())).collect();
    for to in &node.protocols {
        for (from, field, count) in to.drops().iter().flat_map(|drops| drops.all()) {
            let name = match from {
                Origin::NONE => "none",
                Origin::NEUTRAL => "gatepost",
                from => origins
                    .iter()
                    .find(|(code, _)| *code == from)
                    .map_or("unknown", |o| o.1),
            };
            let labels = [("field", field.name()), ("from", name), ("to", to.name())];
            counter!("gatepost_interop_dropped_total", &labels).absolute(count);
        }
    }
}

/// Help of the gauges that are set one by one, above.
const GAUGES_HELP: &[(&str, &str)] = &[
    ("gatepost_connections_attached", "Connections at a vhost."),
    ("gatepost_mqtt_sessions", "MQTT sessions."),
    (
        "gatepost_objects_bytes",
        "Bytes of memory that objects of the kind take.",
    ),
    ("rabbitmq_identity_info", "Who this is."),
    (
        "rabbitmq_build_info",
        "What this is, in the words of dashboards made for RabbitMQ.",
    ),
    (
        "gatepost_longest_hold_units",
        "Work units of the longest hold of an engine's lock so far: what others had to wait for.",
    ),
    ("gatepost_build_info", "What this is."),
    (
        "gatepost_outside_users",
        "Users that the gateway does not keep itself, which tokens have brought.",
    ),
    ("gatepost_outside_bytes", "Memory of those users (auth.outside_memory)."),
    ("gatepost_logins_waiting", "Logins whose password waits to be checked."),
    ("rabbitmq_erlang_uptime_seconds", "Time since the start."),
    ("rabbitmq_process_resident_memory_bytes", "Memory the process occupies."),
    ("rabbitmq_resident_memory_limit_bytes", "Memory messages may fill."),
    ("rabbitmq_process_open_fds", "Open files and sockets."),
    ("rabbitmq_process_max_fds", "Files and sockets that may be open."),
    (
        "rabbitmq_disk_space_available_bytes",
        "Free disk in the data directory.",
    ),
    (
        "rabbitmq_disk_space_available_limit_bytes",
        "Free disk under which publishers wait.",
    ),
    (
        "rabbitmq_alarms_free_disk_space_watermark",
        "1 while free disk is under its limit.",
    ),
    (
        "gatepost_buffers_bytes",
        "Bytes that connections buffer: unfinished packets, publishes that wait, output.",
    ),
    (
        "gatepost_buffers_bytes_max",
        "Bytes of that over which unfinished large packets are read one at a time.",
    ),
    (
        "gatepost_disk_full",
        "1 while durable publishes are refused for want of disk.",
    ),
    (
        "gatepost_log_reserved_bytes",
        "Disk set aside for the log, beside what is free.",
    ),
    ("gatepost_log_poisoned", "1 once the message log failed."),
    (
        "gatepost_log_reads_failing",
        "Reads of the log that failed and are tried again; their queues wait.",
    ),
    ("gatepost_log_backlog_bytes", "Bytes that wait for the log."),
    ("gatepost_log_backlog_seconds", "How long the oldest of them waits."),
    ("gatepost_scrape_duration_seconds", "Time the last scrape took."),
    ("rabbitmq_global_consumers", "Consumers."),
    (
        "gatepost_half_open_connections",
        "Connections that have not tried to log in yet.",
    ),
    (
        "gatepost_addresses_banned",
        "Addresses that are banned for failed logins now.",
    ),
    ("gatepost_quic_handshakes", "QUIC handshakes under way."),
    ("gatepost_connections", "Open connections."),
    ("rabbitmq_connections", "Open connections."),
    ("gatepost_io_threads", "I/O threads, at work or asleep."),
    (
        "gatepost_io_threads_helping",
        "I/O threads that help the first, because turns queue.",
    ),
];

/// Help of the counters that are set one by one, above.
const COUNTERS_HELP: &[(&str, &str)] = &[
    (
        "gatepost_interop_dropped_total",
        "Fields, headers and (topic) whole messages that the receiver's protocol could not say.",
    ),
    (
        "gatepost_objects_refused_total",
        "Objects refused, or retained messages not kept, for want of memory.",
    ),
    (
        "gatepost_limit_refusals_total",
        "Messages, filters, bindings, subscriptions, transactions, connections, channels and queues that a limit refused.",
    ),
    (
        "gatepost_auth_requests_total",
        "HTTP requests to what the gateway asks about users and tokens: answered, or not (in time, or with sense).",
    ),
    (
        "gatepost_logins_checked_total",
        "Logins by password: hashed, known from memory, refused as busy, or given up by their client before.",
    ),
    (
        "gatepost_buffers_held_back_total",
        "Times that a connection was not read for want of memory.",
    ),
    (
        "gatepost_buffers_stalled_total",
        "Connections closed because they stopped in the middle of a large packet while memory was short.",
    ),
    ("rabbitmq_auth_attempts_total", "Logins."),
    ("rabbitmq_auth_attempts_succeeded_total", "Logins that were good."),
    ("rabbitmq_auth_attempts_failed_total", "Logins that were not."),
    (
        "gatepost_connections_refused_total",
        "Connections turned away because there were too many.",
    ),
    (
        "gatepost_tls_refused_total",
        "Connections to TLS listeners that failed or were too slow to agree on TLS.",
    ),
    (
        "gatepost_websocket_refused_total",
        "Requests to WebSocket listeners that were refused or were too slow.",
    ),
    (
        "gatepost_protection_total",
        "Times that a rule of [protection] held somebody up, by rule.",
    ),
    (
        "gatepost_quic_refused_total",
        "QUIC handshakes that failed, or after which no stream was opened in time.",
    ),
    (
        "gatepost_quic_retries_total",
        "QUIC clients that were asked to prove their address first.",
    ),
    (
        "gatepost_quic_streams_refused_total",
        "QUIC streams refused because their connection's session has one.",
    ),
    (
        "gatepost_proxy_refused_total",
        "Connections closed for a bad PROXY header, or for want of one.",
    ),
    ("rabbitmq_connections_opened_total", "Connections accepted."),
    ("rabbitmq_connections_closed_total", "Connections ended."),
    ("gatepost_io_turns_total", "Turns of connections."),
    ("gatepost_io_read_bytes_total", "Bytes read from sockets."),
    ("gatepost_io_written_bytes_total", "Bytes written to sockets."),
];

fn describe() {
    let traffic = PUBLISHING.iter().chain(CONSUMING).chain(TRAFFIC);
    let traffic = traffic.map(|(name, help, _)| (*name, *help));
    let counters = COUNTERS.iter().chain(DEAD_LETTERS);
    let counters = traffic.chain(counters.map(|(name, help, _)| (*name, *help)));
    let of_store = STORE_COUNTERS.iter().map(|(name, help, _)| (*name, *help));
    for (name, help) in counters.chain(of_store).chain(COUNTERS_HELP.iter().copied()) {
        describe_counter!(name, help);
    }
    let gauges = GAUGES.iter().map(|(name, help, _)| (*name, *help));
    let of_store = STORE_GAUGES.iter().map(|(name, help, _)| (*name, *help));
    for (name, help) in gauges.chain(of_store).chain(GAUGES_HELP.iter().copied()) {
        describe_gauge!(name, help);
    }
}

/// What never changes: who this is. Dashboards made for RabbitMQ join on it.
fn identity(node: &Node) {
    let name = node.config().node.name.clone();
    let cluster = node.config().node.cluster_name.clone();
    gauge!(
        "rabbitmq_identity_info",
        "rabbitmq_node" => name,
        "rabbitmq_cluster" => cluster.clone(),
        "rabbitmq_cluster_permanent_id" => cluster,
        "rabbitmq_endpoint" => "aggregated"
    )
    .set(1.0);
    // The version whose formats these are.
    gauge!(
        "rabbitmq_build_info",
        "rabbitmq_version" => "3.10.8",
        "erlang_version" => "n/a",
        "prometheus_plugin_version" => env!("CARGO_PKG_VERSION"),
        "prometheus_client_version" => "n/a"
    )
    .set(1.0);
    gauge!("gatepost_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

fn flag(set: bool) -> f64 {
    if set { 1.0 } else { 0.0 }
}
