//! The metrics for Prometheus. They cost nothing per message: the engine, the sessions and the threads count in plain
//! integers, and a scrape copies those.

use super::families::{
    CLIENTS, CONSUMING, COUNTERS, DEAD_LETTERS, GAUGES, PROTOCOLS, PUBLISHING, QUEUE_TYPE, STORE_COUNTERS,
    STORE_GAUGES, TRAFFIC,
};
use super::page::Page;
use super::{flow, help, objects};
use crate::histogram::Sums;
use crate::machine;
use crate::node::{ConnectionCounts, Node};
use crate::protocols;
use crate::threads::IoThreads;
use gatepost_core::engine::{Counters, Limit, MESSAGE_SIZES, ObjectKind, PerKind, Traffic};
use gatepost_core::event::Pressure;
use gatepost_core::properties::Origin;
use gatepost_core::store::SYNC_BUCKETS_US;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Renders the pages for Prometheus.
pub(crate) struct Exporter {
    started: Instant,
    /// The same in Unix seconds, by the clock as it was then.
    started_at: f64,
    scrape_ns: AtomicU64,
}

/// The level of detail of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Sums over all objects.
    Aggregated,
    /// Queues, channels and connections one by one, instead of their sums.
    PerObject,
}

impl Exporter {
    pub(crate) fn new(node: &Node) -> Exporter {
        Exporter {
            started: node.started,
            started_at: node.clock.now().wall.0 as f64 / 1e3 - node.started.elapsed().as_secs_f64(),
            scrape_ns: AtomicU64::new(0),
        }
    }

    /// The text of `/metrics` or `/metrics/per-object`.
    pub(crate) fn scrape(&self, node: &Node, threads: &IoThreads, detail: Detail) -> String {
        let began = Instant::now();
        let mut page = Page::new(match detail {
            Detail::Aggregated => help::of,
            Detail::PerObject => help::of_single,
        });
        identity(
            &mut page,
            node,
            match detail {
                Detail::Aggregated => "aggregated",
                Detail::PerObject => "per-object",
            },
        );
        build(&mut page);
        self.process(&mut page, node);
        connections(&mut page, node, threads);
        log(&mut page, node);
        engines(&mut page, node, detail);
        interop(&mut page, node);
        times(&mut page, node);
        flow::edges(&mut page, node);
        if detail == Detail::PerObject {
            objects::all(&mut page, node);
        }
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.scrape_ns.store(took, Ordering::Relaxed);
        page.into_text()
    }

    /// The text of `/metrics/detailed`: these families, of these vhosts (if empty, of all).
    pub(crate) fn detailed(&self, node: &Node, families: &[String], vhosts: &[String]) -> String {
        let mut page = Page::new(help::of_single).prefixed("rabbitmq_detailed_");
        identity(&mut page, node, "detailed");
        objects::some(&mut page, node, families, vhosts);
        if families.iter().any(|family| family == "connection_churn_metrics") {
            churn(&mut page, node);
        }
        page.into_text()
    }

    fn process(&self, page: &mut Page, node: &Node) {
        let health = &node.health;
        self.standard(page);
        page.gauge(
            "rabbitmq_erlang_uptime_seconds",
            &[],
            self.started.elapsed().as_secs_f64(),
        );
        page.gauge(
            "rabbitmq_process_resident_memory_bytes",
            &[],
            machine::resident_bytes() as f64,
        );
        page.gauge(
            "rabbitmq_resident_memory_limit_bytes",
            &[],
            machine::memory_budget(node.config().memory.budget) as f64,
        );
        page.gauge("rabbitmq_process_open_fds", &[], machine::open_files() as f64);
        page.gauge("rabbitmq_process_max_fds", &[], machine::open_files_max() as f64);
        let (open, limit) = (node.connections_open(), node.connections_limit());
        page.gauge("rabbitmq_process_open_tcp_sockets", &[], open as f64);
        page.gauge("rabbitmq_process_max_tcp_sockets", &[], limit as f64);
        let none_left = machine::open_files() >= machine::open_files_max();
        page.gauge("rabbitmq_alarms_file_descriptor_limit", &[], flag(none_left));
        page.gauge(
            "rabbitmq_disk_space_available_bytes",
            &[],
            health.disk_free.load(Ordering::Relaxed) as f64,
        );
        page.gauge(
            "rabbitmq_disk_space_available_limit_bytes",
            &[],
            health.disk_limit.load(Ordering::Relaxed) as f64,
        );
        page.gauge(
            "rabbitmq_alarms_free_disk_space_watermark",
            &[],
            flag(health.disk_alarm.load(Ordering::Relaxed)),
        );
        page.gauge("gatepost_buffers_bytes", &[], node.buffers.bytes() as f64);
        page.gauge("gatepost_buffers_bytes_max", &[], node.buffers.bytes_max() as f64);
        page.counter("gatepost_buffers_held_back_total", &[], node.buffers.held_back());
        page.counter("gatepost_buffers_stalled_total", &[], node.buffers.stalled());
        logins(page, node);
        page.gauge(
            "gatepost_disk_full",
            &[],
            flag(health.disk_full.load(Ordering::Relaxed)),
        );
        page.gauge(
            "gatepost_log_reserved_bytes",
            &[],
            health.log_reserved.load(Ordering::Relaxed) as f64,
        );
        page.gauge(
            "gatepost_log_poisoned",
            &[],
            flag(health.poisoned.load(Ordering::Relaxed)),
        );
        page.gauge(
            "gatepost_log_reads_failing",
            &[],
            health.reads_failing.load(Ordering::Relaxed) as f64,
        );
        page.gauge(
            "gatepost_scrape_duration_seconds",
            &[],
            self.scrape_ns.load(Ordering::Relaxed) as f64 / 1e9,
        );
    }
}

impl Exporter {
    /// What Prometheus's own libraries tell of every process. Dashboards and alerts for processes ask for it.
    fn standard(&self, page: &mut Page) {
        page.seconds("process_cpu_seconds_total", &[], machine::cpu_seconds());
        page.gauge("process_resident_memory_bytes", &[], machine::resident_bytes() as f64);
        page.gauge("process_open_fds", &[], machine::open_files() as f64);
        page.gauge("process_max_fds", &[], machine::open_files_max() as f64);
        page.gauge("process_start_time_seconds", &[], self.started_at);
    }
}

fn logins(page: &mut Page, node: &Node) {
    let logins = node.directory.figures();
    for (how, count) in [
        ("hashed", &logins.hashed),
        ("remembered", &logins.remembered),
        ("abandoned", &logins.abandoned),
        ("busy", &logins.busy),
    ] {
        page.counter(
            "gatepost_logins_checked_total",
            &[("how", how)],
            count.load(Ordering::Relaxed),
        );
    }
    page.gauge(
        "gatepost_logins_waiting",
        &[],
        logins.waiting.load(Ordering::Relaxed) as f64,
    );
    let (bytes, users) = node.directory.outside();
    page.gauge("gatepost_outside_users", &[], users as f64);
    page.gauge("gatepost_outside_bytes", &[], bytes as f64);
    let directory = &node.directory;
    for (of, requests) in [("jwks", &directory.key_requests), ("http", &directory.errands.counts)] {
        for (outcome, count) in [("answered", &requests.answered), ("failed", &requests.failed)] {
            let labels = [("of", of), ("outcome", outcome)];
            page.counter("gatepost_auth_requests_total", &labels, count.load(Ordering::Relaxed));
        }
    }
    let waiting = directory.errands.waiting() as f64;
    page.gauge("gatepost_auth_requests_waiting", &[], waiting);
    page.counter(
        "gatepost_limit_refusals_total",
        &[("limit", "user_max_connections")],
        node.directory.connections_refused(),
    );
}

fn connections(page: &mut Page, node: &Node, threads: &IoThreads) {
    let (mut opened, mut closed) = (0, 0);
    for (counts, protocol) in node.connections.iter().zip(protocols::ALL) {
        let (name, label) = (protocol.name, protocol.metrics_label);
        closed += counts.closed.load(Ordering::Relaxed);
        opened += counts.opened.load(Ordering::Relaxed);
        page.gauge("gatepost_connections", &[("protocol", name)], counts.open() as f64);
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
            page.counter(family, &[("protocol", label)], count);
        }
        let refused = counts.refused.load(Ordering::Relaxed);
        page.counter("gatepost_connections_refused_total", &[("protocol", name)], refused);
        let tls_refused = counts.tls_refused.load(Ordering::Relaxed);
        page.counter(
            "gatepost_tls_handshake_failures_total",
            &[("protocol", name)],
            tls_refused,
        );
        let throttled = counts.throttled.load(Ordering::Relaxed);
        page.counter("gatepost_client_throttled_total", &[("protocol", name)], throttled);
        let websocket_refused = counts.websocket_refused.load(Ordering::Relaxed);
        page.counter(
            "gatepost_websocket_refused_total",
            &[("protocol", name)],
            websocket_refused,
        );
        let quic_refused = counts.quic_refused.load(Ordering::Relaxed);
        page.counter("gatepost_quic_refused_total", &[("protocol", name)], quic_refused);
        let proxy_refused = counts.proxy_refused.load(Ordering::Relaxed);
        page.counter("gatepost_proxy_refused_total", &[("protocol", name)], proxy_refused);
    }
    for (listener, until) in node.tls.good_until() {
        let labels = [("listener", &*listener)];
        page.gauge("gatepost_certificate_not_after_seconds", &labels, until as f64);
    }
    protection(page, node);
    page.gauge(
        "gatepost_quic_handshakes",
        &[],
        node.quic.underway.load(Ordering::Relaxed) as f64,
    );
    page.counter(
        "gatepost_quic_retries_total",
        &[],
        node.quic.retries.load(Ordering::Relaxed),
    );
    page.counter(
        "gatepost_quic_streams_refused_total",
        &[],
        node.quic.streams_refused.load(Ordering::Relaxed),
    );
    page.gauge("rabbitmq_connections", &[], node.connections_open() as f64);
    page.counter("rabbitmq_connections_opened_total", &[], opened);
    page.counter("rabbitmq_connections_closed_total", &[], closed);
    for (number, thread) in threads.figures().enumerate() {
        let number = number.to_string();
        let counters = [
            ("gatepost_io_turns_total", &thread.turns),
            ("gatepost_io_read_bytes_total", &thread.bytes_in),
            ("gatepost_io_written_bytes_total", &thread.bytes_out),
        ];
        for (name, value) in counters {
            page.counter(name, &[("thread", &number.clone())], value.load(Ordering::Relaxed));
        }
    }
    page.gauge("gatepost_io_threads", &[], threads.count() as f64);
    page.gauge("gatepost_io_threads_helping", &[], threads.helping() as f64);
}

/// Counters of opened and closed connections, channels and queues.
fn churn(page: &mut Page, node: &Node) {
    let sum = |of: fn(&ConnectionCounts) -> &AtomicU64| -> u64 {
        node.connections
            .iter()
            .map(|counts| of(counts).load(Ordering::Relaxed))
            .sum()
    };
    page.counter("rabbitmq_connections_opened_total", &[], sum(|counts| &counts.opened));
    page.counter("rabbitmq_connections_closed_total", &[], sum(|counts| &counts.closed));
    let vhosts = node.vhosts.list();
    let all: Vec<Counters> = vhosts.iter().map(|vhost| vhost.counters()).collect();
    for (name, _, of) in COUNTERS.iter().filter(|(name, ..)| name.starts_with("rabbitmq_")) {
        page.counter(name, &[], all.iter().map(of).sum());
    }
}

fn protection(page: &mut Page, node: &Node) {
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
        page.counter(
            "gatepost_protection_total",
            &[("rule", rule)],
            count.load(Ordering::Relaxed),
        );
    }
    page.counter(
        "gatepost_protection_total",
        &[("rule", "publish_quota")],
        protection.quotas.waits(),
    );
    page.gauge(
        "gatepost_half_open_connections",
        &[],
        protection.half_open.count() as f64,
    );
    let banned = protection.addresses_banned(node.clock.now().monotonic);
    page.gauge("gatepost_addresses_banned", &[], banned as f64);
}

fn log(page: &mut Page, node: &Node) {
    let (bytes, since) = node.log.backlog();
    page.gauge("gatepost_log_backlog_bytes", &[], bytes as f64);
    page.gauge("gatepost_log_backlog_seconds", &[], since.as_secs_f64());
    for (name, _, of) in STORE_COUNTERS {
        page.counter(name, &[], of(&node.store_stats).load(Ordering::Relaxed));
    }
    for (name, _, of) in STORE_GAUGES {
        page.gauge(name, &[], of(&node.store_stats).load(Ordering::Relaxed) as f64);
    }
}

/// Histograms of durations.
fn times(page: &mut Page, node: &Node) {
    let stats = &node.store_stats;
    let bounds = SYNC_BUCKETS_US
        .iter()
        .map(|us| (*us as f64 / 1e6).to_string())
        .chain(["+Inf".to_owned()]);
    let counts = stats.sync_latency.iter().map(|count| count.load(Ordering::Relaxed));
    let sum = stats.sync_us_total.load(Ordering::Relaxed) as f64 / 1e6;
    page.histogram("gatepost_store_fsync_seconds", bounds.zip(counts), sum);
    page.seconds("rabbitmq_io_sync_time_seconds_total", &[], sum);
    let mut histogram = |name: &str, sums: Sums| page.histogram(name, sums.buckets(), sums.seconds());
    histogram("gatepost_log_commit_seconds", node.commit_times.sums());
    let vhosts = node.vhosts.list();
    let locks = || vhosts.iter().map(|vhost| &vhost.lock);
    histogram(
        "gatepost_engine_lock_wait_seconds",
        locks().map(|lock| lock.waited.sums()).sum(),
    );
    histogram(
        "gatepost_engine_lock_hold_seconds",
        locks().map(|lock| lock.held.sums()).sum(),
    );
}

/// The engines' counters, summed over all vhosts.
fn engines(page: &mut Page, node: &Node, detail: Detail) {
    let vhosts = node.vhosts.list();
    let all: Vec<Counters> = vhosts.iter().map(|vhost| vhost.counters()).collect();
    let labelled = by_label(&all);
    for (label, traffic) in &labelled {
        for (name, _, of) in PUBLISHING.iter().chain(TRAFFIC) {
            page.counter(name, &[("protocol", label)], of(traffic));
        }
        for (name, _, of) in CONSUMING {
            page.counter(name, &[("protocol", label), ("queue_type", QUEUE_TYPE)], of(traffic));
        }
        page.gauge(
            "gatepost_connections_attached",
            &[("protocol", label)],
            traffic.links() as f64,
        );
        page.gauge(
            "rabbitmq_global_publishers",
            &[("protocol", label)],
            traffic.publishers as f64,
        );
        page.gauge(
            "rabbitmq_global_consumers",
            &[("protocol", label)],
            traffic.consumers as f64,
        );
    }
    for (name, _, of) in DEAD_LETTERS {
        page.counter(
            name,
            &[("protocol", PROTOCOLS), ("queue_type", QUEUE_TYPE)],
            all.iter().map(of).sum(),
        );
    }
    for (name, _, of) in COUNTERS {
        page.counter(name, &[], all.iter().map(of).sum());
    }
    let clients = of_clients(&labelled);
    // What this page shows one by one, it does not show as a sum.
    let is_sum = |name: &str| detail == Detail::Aggregated || !objects::is_on_page(name);
    for (name, _, of) in CLIENTS.iter().filter(|(name, ..)| is_sum(name)) {
        page.counter(name, &[], of(&clients));
    }
    sizes(page, &clients);
    blocked(page, &all);
    for (name, _, of) in GAUGES.iter().filter(|(name, ..)| is_sum(name)) {
        page.gauge(name, &[], all.iter().map(of).sum::<u64>() as f64);
    }
    objects_memory(page, &all);
    for limit in Limit::ALL {
        let by_engines: u64 = all.iter().map(|c| c.limit_refusals[limit as usize]).sum();
        let by_sessions: u64 = node.protocols.iter().map(|p| p.limit_refusals(limit)).sum();
        let sum = by_engines + by_sessions;
        page.counter("gatepost_limit_refusals_total", &[("limit", limit.name())], sum);
    }
    let longest = all.iter().map(|c| c.longest_hold_units).max();
    page.gauge("gatepost_longest_hold_units", &[], longest.unwrap_or(0) as f64);
    for (state, of) in [("connected", true), ("kept", false)] {
        let sessions = |c: &Counters| {
            if of {
                c.sessions_connected
            } else {
                c.sessions - c.sessions_connected
            }
        };
        page.gauge(
            "gatepost_mqtt_sessions",
            &[("state", state)],
            all.iter().map(sessions).sum::<u64>() as f64,
        );
    }
}

/// The memory of what clients have made, and what was refused for want of it.
fn objects_memory(page: &mut Page, all: &[Counters]) {
    for kind in ObjectKind::ALL {
        let sum = |of: fn(&Counters) -> &PerKind| all.iter().map(|c| of(c)[kind as usize]).sum::<usize>();
        page.gauge(
            "gatepost_objects_bytes",
            &[("kind", kind.name())],
            sum(|c| &c.objects_bytes) as f64,
        );
        page.counter(
            "gatepost_objects_refused_total",
            &[("kind", kind.name())],
            sum(|c| &c.objects_refused) as u64,
        );
    }
}

/// What makes publishers wait, and in which vhosts.
fn blocked(page: &mut Page, all: &[Counters]) {
    for (reason, pressure) in BLOCKED {
        let vhosts = all.iter().filter(|c| c.publishers_wait_for == Some(pressure)).count();
        page.gauge("gatepost_publish_blocked", &[("reason", reason)], vhosts as f64);
    }
    let short = all.iter().any(|c| c.publishers_wait_for == Some(Pressure::Memory));
    page.gauge("rabbitmq_alarms_memory_used_watermark", &[], flag(short));
}

/// The causes for which publishers may have to wait.
const BLOCKED: [(&str, Pressure); 4] = [
    ("disk", Pressure::Disk),
    ("disk_full", Pressure::Full),
    ("log", Pressure::Backlog),
    ("memory", Pressure::Memory),
];

/// What clients do, without what the gateway itself publishes in `$SYS`.
fn of_clients(labelled: &BTreeMap<&'static str, Traffic>) -> Traffic {
    let labels = protocols::ALL.iter().flat_map(|protocol| protocol.versions);
    let clients = labelled
        .iter()
        .filter(|(label, _)| labels.clone().any(|(_, known)| known == *label));
    clients.map(|(_, traffic)| *traffic).sum()
}

/// Sizes of published messages.
fn sizes(page: &mut Page, clients: &Traffic) {
    page.histogram(
        "rabbitmq_message_size_bytes",
        SIZE_BOUNDS.into_iter().zip(clients.message_sizes),
        clients.published_bytes as f64,
    );
}

/// Connections' traffic by their protocol's label. Contains every protocol that is built in, even if unused.
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

/// Message properties that could not be translated between protocols. Zeros are left out, because most pairs never occur.
fn interop(page: &mut Page, node: &Node) {
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
            page.counter("gatepost_interop_dropped_total", &labels, count);
        }
    }
}

/// The identity metric, which dashboards made for RabbitMQ join on.
fn identity(page: &mut Page, node: &Node, endpoint: &str) {
    let config = node.config();
    let (name, cluster) = (&*config.node.name, &*node.cluster_name());
    let labels = [
        ("rabbitmq_node", name),
        ("rabbitmq_cluster", cluster),
        ("rabbitmq_cluster_permanent_id", cluster),
        ("rabbitmq_endpoint", endpoint),
    ];
    page.gauge("rabbitmq_identity_info", &labels, 1.0);
}

/// Version and build.
fn build(page: &mut Page) {
    let labels = [
        // The RabbitMQ version whose metrics format we follow.
        ("rabbitmq_version", "3.10.8"),
        ("erlang_version", "n/a"),
        ("prometheus_plugin_version", env!("CARGO_PKG_VERSION")),
        ("prometheus_client_version", "n/a"),
    ];
    page.gauge("rabbitmq_build_info", &labels, 1.0);
    page.gauge("gatepost_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
}

/// The bounds of [`MESSAGE_SIZES`] as RabbitMQ spells them: its dashboard compares them as text.
const SIZE_BOUNDS: [&str; MESSAGE_SIZES.len() + 1] = [
    "100.0", "1000.0", "10000.0", "100000.0", "1e+06", "1e+07", "5e+07", "1e+08", "+Inf",
];

fn flag(set: bool) -> f64 {
    if set { 1.0 } else { 0.0 }
}
