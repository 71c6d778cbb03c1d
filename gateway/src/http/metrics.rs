//! What Prometheus sees. Nothing here is touched per message: the counters are plain integers of the engine, the
//! sessions and the threads, copied at scrape into a recorder that only renders them.

use crate::histogram::render;
use crate::machine;
use crate::node::Node;
use crate::threads::IoThreads;
use gatepost_core::engine::Counters;
use gatepost_core::store::{SYNC_BUCKETS_US, StoreStats};
use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
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
        metrics::with_local_recorder(&recorder, || describe(node));
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
        });
        let mut text = self.handle.render();
        syncs(node, &mut text);
        node.commit_times.render(
            &mut text,
            "gatepost_log_commit_seconds",
            "Time of a group commit, its sync included.",
        );
        for vhost in &node.vhosts {
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
        gauge!("rabbitmq_resident_memory_limit_bytes").set(machine::memory_budget(node.config.memory.budget) as f64);
        gauge!("rabbitmq_process_open_fds").set(machine::open_files() as f64);
        gauge!("rabbitmq_process_max_fds").set(machine::open_files_max() as f64);
        gauge!("rabbitmq_disk_space_available_bytes").set(health.disk_free.load(Ordering::Relaxed) as f64);
        gauge!("rabbitmq_disk_space_available_limit_bytes").set(health.disk_limit.load(Ordering::Relaxed) as f64);
        gauge!("rabbitmq_alarms_free_disk_space_watermark").set(flag(health.disk_alarm.load(Ordering::Relaxed)));
        gauge!("gatepost_log_poisoned").set(flag(health.poisoned.load(Ordering::Relaxed)));
        gauge!("gatepost_scrape_duration_seconds").set(self.scrape_ns.load(Ordering::Relaxed) as f64 / 1e9);
        counter!("rabbitmq_auth_attempts_succeeded_total").absolute(node.directory.succeeded.load(Ordering::Relaxed));
        counter!("rabbitmq_auth_attempts_failed_total").absolute(node.directory.failed.load(Ordering::Relaxed));
    }
}

fn connections(node: &Node, threads: &IoThreads) {
    let (mut opened, mut closed) = (0, 0);
    for (counts, protocol) in node.connections.iter().zip(&node.protocols) {
        let name = protocol.name();
        closed += counts.closed.load(Ordering::Relaxed);
        opened += counts.opened.load(Ordering::Relaxed);
        gauge!("gatepost_connections", "protocol" => name).set(counts.open() as f64);
        let refused = counts.refused.load(Ordering::Relaxed);
        counter!("gatepost_connections_refused_total", "protocol" => name).absolute(refused);
    }
    gauge!("rabbitmq_connections").set(node.connections_open() as f64);
    counter!("rabbitmq_connections_opened_total").absolute(opened);
    counter!("rabbitmq_connections_closed_total").absolute(closed);
    for (number, thread) in threads.shared().enumerate() {
        let number = number.to_string();
        let counters = [
            ("gatepost_io_turns_total", &thread.turns),
            ("gatepost_io_read_bytes_total", &thread.bytes_in),
            ("gatepost_io_written_bytes_total", &thread.bytes_out),
        ];
        for (name, value) in counters {
            counter!(name, "thread" => number.clone()).absolute(value.load(Ordering::Relaxed));
        }
        let connections = thread.connections.load(Ordering::Relaxed);
        gauge!("gatepost_io_connections", "thread" => number).set(connections as f64);
    }
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

type StoreField = fn(&StoreStats) -> &AtomicU64;

const STORE_COUNTERS: &[(&str, &str, StoreField)] = &[
    (
        "gatepost_store_bytes_written_total",
        "Bytes written to files, footers and checkpoints included.",
        |s| &s.bytes_written,
    ),
    (
        "gatepost_store_record_bytes_written_total",
        "Bytes of records among them.",
        |s| &s.record_bytes_written,
    ),
    ("gatepost_store_messages_written_total", "Messages written.", |s| {
        &s.messages_written
    }),
    (
        "gatepost_store_messages_skipped_total",
        "Messages settled before they were written.",
        |s| &s.messages_skipped,
    ),
    ("gatepost_store_checkpoints_total", "Checkpoints written.", |s| {
        &s.checkpoints
    }),
    (
        "gatepost_store_records_compacted_total",
        "Records moved to free their segment.",
        |s| &s.records_compacted,
    ),
    (
        "gatepost_store_background_failures_total",
        "Chores of the store that failed.",
        |s| &s.background_failures,
    ),
    ("gatepost_store_quarantined_total", "Damaged places set aside.", |s| {
        &s.quarantined
    }),
];

const STORE_GAUGES: &[(&str, &str, StoreField)] = &[
    ("gatepost_store_segments", "Segments on disk.", |s| &s.segments),
    ("gatepost_store_segment_bytes", "Their bytes.", |s| &s.segment_bytes),
    (
        "gatepost_store_live_messages",
        "Live messages, counted once per queue.",
        |s| &s.live_messages,
    ),
    ("gatepost_store_live_keys", "Live keyed records.", |s| &s.live_keys),
];

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

/// What the engines counted, over all vhosts: one short hold of each lock.
fn engines(node: &Node) {
    let all: Vec<Counters> = node
        .vhosts
        .iter()
        .map(|vhost| vhost.enter(|engine, _| engine.counters()))
        .collect();
    for (name, _, of) in COUNTERS {
        counter!(*name, "protocol" => PROTOCOLS, "queue_type" => QUEUE_TYPE).absolute(all.iter().map(of).sum());
    }
    for (name, _, of) in PLAIN_COUNTERS {
        counter!(*name).absolute(all.iter().map(of).sum());
    }
    for (name, _, of) in GAUGES {
        gauge!(*name).set(all.iter().map(of).sum::<u64>() as f64);
    }
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

type Field = fn(&Counters) -> u64;

/// The engine does not count by protocol: whoever sums over the label gets the same.
const PROTOCOLS: &str = "all";
const QUEUE_TYPE: &str = "rabbit_classic_queue";

/// With the labels that dashboards made for RabbitMQ add and subtract over; so all of them have the same.
const COUNTERS: &[(&str, &str, Field)] = &[
    ("rabbitmq_global_messages_received_total", "Messages published.", |c| {
        c.published
    }),
    (
        "rabbitmq_global_messages_received_confirm_total",
        "Messages published to be confirmed.",
        |c| c.published_confirm,
    ),
    (
        "rabbitmq_global_messages_confirmed_total",
        "Publishes confirmed.",
        |c| c.confirmed,
    ),
    (
        "rabbitmq_global_messages_routed_total",
        "Publishes that reached a queue.",
        |c| c.routed,
    ),
    (
        "rabbitmq_global_messages_unroutable_dropped_total",
        "Publishes that reached no queue.",
        |c| c.unroutable_dropped,
    ),
    (
        "rabbitmq_global_messages_unroutable_returned_total",
        "Publishes that were returned.",
        |c| c.unroutable_returned,
    ),
    ("rabbitmq_global_messages_delivered_total", "Messages delivered.", |c| {
        c.delivered + c.delivered_no_ack + c.got
    }),
    (
        "rabbitmq_global_messages_delivered_consume_auto_ack_total",
        "Deliveries settled when sent.",
        |c| c.delivered_no_ack,
    ),
    (
        "rabbitmq_global_messages_delivered_consume_manual_ack_total",
        "Deliveries to be settled.",
        |c| c.delivered,
    ),
    (
        "rabbitmq_global_messages_delivered_get_manual_ack_total",
        "Messages fetched one by one.",
        |c| c.got,
    ),
    (
        "rabbitmq_global_messages_delivered_get_auto_ack_total",
        "Counted with those to be settled.",
        |_| 0,
    ),
    (
        "rabbitmq_global_messages_redelivered_total",
        "Deliveries of messages handed out before.",
        |c| c.redelivered,
    ),
    (
        "rabbitmq_global_messages_acknowledged_total",
        "Deliveries settled.",
        |c| c.acknowledged,
    ),
    (
        "rabbitmq_global_messages_get_empty_total",
        "Fetches from an empty queue.",
        |c| c.get_empty,
    ),
    (
        "rabbitmq_global_messages_dead_lettered_expired_total",
        "Messages whose time was over.",
        |c| c.expired,
    ),
    (
        "rabbitmq_global_messages_dead_lettered_maxlen_total",
        "Messages a full queue dropped.",
        |c| c.dropped_full,
    ),
    (
        "rabbitmq_global_messages_dead_lettered_rejected_total",
        "Messages consumers rejected.",
        |c| c.rejected,
    ),
];

const PLAIN_COUNTERS: &[(&str, &str, Field)] = &[
    (
        "rabbitmq_queues_declared_total",
        "Queues declared that were not there.",
        |c| c.queues_created,
    ),
    ("rabbitmq_queues_created_total", "Queues created.", |c| c.queues_created),
    ("rabbitmq_queues_deleted_total", "Queues deleted.", |c| c.queues_deleted),
    ("gatepost_publishes_refused_total", "Publishes refused.", |c| c.refused),
    ("gatepost_messages_enqueued_total", "Copies put into queues.", |c| {
        c.enqueued
    }),
    (
        "gatepost_messages_damaged_total",
        "Messages whose record in the log was damaged.",
        |c| c.damaged,
    ),
    (
        "gatepost_log_writes_cancelled_total",
        "Messages settled before they were written.",
        |c| c.cancelled_writes,
    ),
    ("gatepost_bodies_evicted_total", "Bodies that left memory.", |c| {
        c.bodies_evicted
    }),
    ("gatepost_bodies_loaded_total", "Bodies read back.", |c| c.bodies_loaded),
];

const GAUGES: &[(&str, &str, Field)] = &[
    ("rabbitmq_queue_messages_ready", "Messages ready for consumers.", |c| {
        c.messages_ready
    }),
    ("rabbitmq_queue_messages_unacked", "Messages with consumers.", |c| {
        c.messages_unsettled
    }),
    ("rabbitmq_queues", "Queues.", |c| c.queues),
    ("rabbitmq_channels", "Channels.", |c| c.channels),
    ("rabbitmq_consumers", "Consumers.", |c| c.consumers),
    ("gatepost_retained_messages", "Retained messages.", |c| c.retained),
    ("gatepost_retained_bytes", "Bytes of retained messages.", |c| {
        c.retained_bytes
    }),
    (
        "gatepost_message_memory_bytes",
        "Bytes of queued messages in memory.",
        |c| c.memory_bytes,
    ),
    ("gatepost_log_unreported_bytes", "Bytes the engine waits for.", |c| {
        c.log_backlog_bytes
    }),
    ("gatepost_publishers_blocked", "Vhosts whose publishers wait.", |c| {
        u64::from(c.publishers_blocked)
    }),
];

fn describe(node: &Node) {
    for (name, help, _) in COUNTERS.iter().chain(PLAIN_COUNTERS) {
        describe_counter!(*name, *help);
    }
    for (name, help, _) in GAUGES {
        describe_gauge!(*name, *help);
    }
    for (name, help, _) in STORE_COUNTERS {
        describe_counter!(*name, *help);
    }
    for (name, help, _) in STORE_GAUGES {
        describe_gauge!(*name, *help);
    }
    describe_gauge!("gatepost_mqtt_sessions", "MQTT sessions.");
    let name = node.config.node.name.clone();
    let cluster = node.config.node.cluster_name.clone();
    gauge!(
        "rabbitmq_identity_info",
        "rabbitmq_node" => name,
        "rabbitmq_cluster" => cluster.clone(),
        "rabbitmq_cluster_permanent_id" => cluster,
        "rabbitmq_endpoint" => "aggregated"
    )
    .set(1.0);
    // What dashboards made for RabbitMQ join on. Its version is the one whose formats these are.
    gauge!(
        "rabbitmq_build_info",
        "rabbitmq_version" => "3.10.8",
        "erlang_version" => "n/a",
        "prometheus_plugin_version" => env!("CARGO_PKG_VERSION"),
        "prometheus_client_version" => "n/a"
    )
    .set(1.0);
    gauge!("gatepost_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    describe_gauge!("rabbitmq_identity_info", "Who this is.");
    describe_gauge!(
        "rabbitmq_build_info",
        "What this is, in the words of dashboards made for RabbitMQ."
    );
    describe_gauge!("gatepost_build_info", "What this is.");
    describe_gauge!("rabbitmq_erlang_uptime_seconds", "Time since the start.");
    describe_gauge!("rabbitmq_process_resident_memory_bytes", "Memory the process occupies.");
    describe_gauge!("rabbitmq_resident_memory_limit_bytes", "Memory messages may fill.");
    describe_gauge!("rabbitmq_process_open_fds", "Open files and sockets.");
    describe_gauge!("rabbitmq_process_max_fds", "Files and sockets that may be open.");
    describe_gauge!(
        "rabbitmq_disk_space_available_bytes",
        "Free disk in the data directory."
    );
    describe_gauge!(
        "rabbitmq_disk_space_available_limit_bytes",
        "Free disk under which publishers wait."
    );
    describe_gauge!(
        "rabbitmq_alarms_free_disk_space_watermark",
        "1 while free disk is under its limit."
    );
    describe_gauge!("gatepost_log_poisoned", "1 once the message log failed.");
    describe_gauge!("gatepost_log_backlog_bytes", "Bytes that wait for the log.");
    describe_gauge!("gatepost_log_backlog_seconds", "How long the oldest of them waits.");
    describe_gauge!("gatepost_scrape_duration_seconds", "Time the last scrape took.");
    describe_counter!("rabbitmq_auth_attempts_succeeded_total", "Logins that were good.");
    describe_counter!("rabbitmq_auth_attempts_failed_total", "Logins that were not.");
    describe_gauge!("gatepost_connections", "Open connections.");
    describe_counter!(
        "gatepost_connections_refused_total",
        "Connections turned away because there were too many."
    );
    describe_gauge!("rabbitmq_connections", "Open connections.");
    describe_counter!("rabbitmq_connections_opened_total", "Connections accepted.");
    describe_counter!("rabbitmq_connections_closed_total", "Connections ended.");
    describe_counter!("gatepost_io_turns_total", "Turns of connections.");
    describe_counter!("gatepost_io_read_bytes_total", "Bytes read from sockets.");
    describe_counter!("gatepost_io_written_bytes_total", "Bytes written to sockets.");
    describe_gauge!("gatepost_io_connections", "Connections of the thread.");
}

fn flag(set: bool) -> f64 {
    if set { 1.0 } else { 0.0 }
}
