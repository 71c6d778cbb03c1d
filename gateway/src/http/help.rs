//! Help texts of the metric families that have none in [`super::families`].

use super::families::{
    CLIENTS, CONSUMING, COUNTERS, DEAD_LETTERS, GAUGES, PUBLISHING, STORE_COUNTERS, STORE_GAUGES, TRAFFIC,
};

/// The help of a family.
pub(super) fn of(name: &str) -> &'static str {
    let traffic = PUBLISHING.iter().chain(CONSUMING).chain(TRAFFIC).chain(CLIENTS);
    let traffic = traffic.map(|(name, help, _)| (*name, *help));
    let engines = COUNTERS.iter().chain(DEAD_LETTERS).chain(GAUGES);
    let engines = engines.map(|(name, help, _)| (*name, *help));
    let store = STORE_COUNTERS.iter().chain(STORE_GAUGES);
    let store = store.map(|(name, help, _)| (*name, *help));
    let others = HELP.iter().copied();
    let mut all = traffic.chain(engines).chain(store).chain(others);
    all.find(|(known, _)| *known == name).map_or("", |(_, help)| help)
}

/// The help of a family on a page of single objects.
pub(super) fn of_single(name: &str) -> &'static str {
    super::objects::help(name).unwrap_or_else(|| of(name))
}

/// Help of the families that are written one by one.
const HELP: &[(&str, &str)] = &[
    ("gatepost_connections_attached", "Connections at a vhost."),
    ("gatepost_mqtt_sessions", "MQTT sessions."),
    (
        "gatepost_objects_bytes",
        "Bytes of memory that objects of the kind take.",
    ),
    (
        "gatepost_flow_edge_messages_per_second",
        "Messages a second along an edge of the flow map, of the fastest (metrics.flow_edges).",
    ),
    (
        "gatepost_flow_edge_latency_seconds",
        "How long messages have waited from when they were received until they were delivered along that edge.",
    ),
    (
        "gatepost_flow_edges_left_out",
        "Edges of the flow map that are not shown here.",
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
        "Users that the gateway does not keep itself, which tokens have brought or a server knows.",
    ),
    (
        "gatepost_auth_requests_waiting",
        "Logins and questions that wait for their turn at the HTTP back end.",
    ),
    ("gatepost_outside_bytes", "Memory of those users (auth.outside_memory)."),
    ("gatepost_logins_waiting", "Logins whose password waits to be checked."),
    ("rabbitmq_erlang_uptime_seconds", "Time since the start."),
    ("rabbitmq_process_resident_memory_bytes", "Memory the process occupies."),
    ("rabbitmq_resident_memory_limit_bytes", "Memory messages may fill."),
    (
        "process_cpu_seconds_total",
        "Processor time used, in user mode and in the kernel.",
    ),
    ("process_resident_memory_bytes", "Memory the process occupies."),
    ("process_open_fds", "Open files and sockets."),
    ("process_max_fds", "Files and sockets that may be open."),
    (
        "process_start_time_seconds",
        "When the process started, in Unix seconds.",
    ),
    ("rabbitmq_process_open_tcp_sockets", "Open connections of clients."),
    (
        "rabbitmq_process_max_tcp_sockets",
        "Connections of clients that may be open.",
    ),
    (
        "rabbitmq_alarms_file_descriptor_limit",
        "1 while no further file or socket can be opened.",
    ),
    (
        "rabbitmq_io_sync_time_seconds_total",
        "Time that syncs of the log took.",
    ),
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
        "gatepost_publish_blocked",
        "Vhosts whose publishers wait, by what for. They do not wait long for the log.",
    ),
    (
        "gatepost_client_throttled_total",
        "Times that a connection was not read because its client or user had published more than [protection] allows.",
    ),
    (
        "gatepost_certificate_not_after_seconds",
        "When the first of the listener's certificates that are in use expires, in Unix seconds.",
    ),
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
        "gatepost_tls_handshake_failures_total",
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
    ("rabbitmq_global_publishers", "Connections that have published."),
    (
        "rabbitmq_channels_opened_total",
        "Channels that AMQP clients have opened.",
    ),
    (
        "rabbitmq_channels_closed_total",
        "Channels of AMQP clients that are closed.",
    ),
    (
        "rabbitmq_message_size_bytes",
        "Sizes of the bodies of published messages.",
    ),
    (
        "rabbitmq_alarms_memory_used_watermark",
        "1 while publishers of a vhost wait because memory is short.",
    ),
    (
        "rabbitmq_exchange_messages_published_total",
        "Messages published to the exchange.",
    ),
    ("rabbitmq_cluster_exchange_name", "1 for each exchange."),
    ("rabbitmq_cluster_vhost_status", "1 for each vhost that runs."),
    (
        "gatepost_metrics_objects_truncated",
        "Objects that are not shown because there are more than metrics.per_object_limit.",
    ),
    (
        "gatepost_log_commit_seconds",
        "Time of a group commit, its sync included.",
    ),
    ("gatepost_store_fsync_seconds", "Time of a sync of the log."),
    (
        "gatepost_engine_lock_wait_seconds",
        "Time callers waited for an engine's lock, of those that had to.",
    ),
    (
        "gatepost_engine_lock_hold_seconds",
        "Time an engine's lock was held, of one turn in 64.",
    ),
    ("gatepost_uptime_seconds", "Time since the start."),
];
