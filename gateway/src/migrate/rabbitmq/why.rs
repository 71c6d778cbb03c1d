//! The reasons why keys of a `rabbitmq.conf` have no counterpart.

/// The reason for a key, found by its prefix. The first matching prefix counts.
pub(super) fn why(key: &str) -> &'static str {
    let found = REASONS
        .iter()
        .find(|(beginnings, _)| beginnings.iter().any(|beginning| key.starts_with(beginning)));
    found.map_or("this key is not known here", |(_, reason)| reason)
}

const REASONS: &[(&[&str], &str)] = &[
    (
        &[
            "cluster_",
            "distribution.",
            "metadata_store.",
            "mirroring_",
            "mnesia_",
            "net_ticktime",
            "node_tags.",
            "queue_leader_locator",
            "queue_master_locator",
            "quorum_queue.",
            "raft.",
        ],
        "there is one node, and no queue has copies elsewhere",
    ),
    (&["stream."], "streams are not built"),
    (
        &[
            "auth_ldap.",
            "auth_oauth2.",
            "management.oauth_",
            "ssl_cert_login",
            "mqtt.ssl_cert_",
            "stomp.ssl_cert_login",
            "auth_cache.",
        ],
        "see docs/security.md for how users log in here: [auth], [auth.jwt], [auth.certificate]",
    ),
    (
        &["auth_http."],
        "see [auth.http] for what can be set about the server that is asked",
    ),
    (
        &["credential_validator.", "password_hashing_module"],
        "passwords are not judged, and are kept as argon2id",
    ),
    (
        &[
            "default_users.",
            "default_permissions.",
            "default_user_tags.",
            "anonymous_login_",
        ],
        "make users with `gatepost user add`, or have definitions imported",
    ),
    (
        &["default_policies.", "default_limits.", "runtime_parameters."],
        "set policies and limits with definitions or over the management API",
    ),
    (
        &["disk_free_limit.relative"],
        "it is a number of bytes here: disk.free_limit",
    ),
    (
        &["default_queue_type"],
        "a queue has the type that its client declares, classic if none",
    ),
    (
        &["consumer_timeout", "consumer_disconnected_timeout"],
        "a consumer may take its time; no channel is closed for it",
    ),
    (
        &["log."],
        "the gateway writes one log, to standard error or to a file: log.target and log.level",
    ),
    (
        &["management.", "http_dispatch.", "management_agent.", "prometheus."],
        "see [management] and [metrics] for what can be set",
    ),
    (
        &["web_mqtt.", "web_stomp."],
        "see [listeners.web_mqtt] and [listeners.web_stomp] for what can be set",
    ),
    (
        &["mqtt.", "stomp."],
        "see [mqtt], [stomp] and [limits] for what can be set",
    ),
    (
        &["amqp_client.", "amqp10_client."],
        "the gateway opens no connections by AMQP",
    ),
    (
        &[
            "background_gc",
            "channel_interceptor.",
            "link_max_per_session",
            "session_max_per_connection",
            "channel_max_per_node",
            "classic_queue.",
            "collect_statistics",
            "consumer_max_per_channel",
            "delegate_count",
            "deprecated_features.",
            "erlang.",
            "handshake_timeout",
            "hipe_compile",
            "initial_frame_max",
            "memory_monitor_interval",
            "message_interceptors.",
            "message_store_",
            "num_acceptors",
            "product.",
            "queue_index_",
            "queue_types.",
            "ranch_connection_max",
            "reverse_dns_lookups",
            "socket_writer",
            "ssl_handshake_timeout",
            "sysmon_handler.",
            "tcp_listen_options",
            "total_memory_available_override_value",
            "vhost_restart_strategy",
            "vm_memory_calculation_strategy",
            "vm_memory_high_watermark_paging_ratio",
        ],
        "it is about how RabbitMQ works inside",
    ),
];
