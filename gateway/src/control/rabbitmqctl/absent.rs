//! Verbs of `rabbitmqctl` and `rabbitmq-diagnostics` without a counterpart, and what to use instead.

/// What to use instead of a verb; `None`: it is not a known verb of RabbitMQ.
pub(super) fn instead_of(name: &str) -> Option<&'static str> {
    absent().find(|(verb, _)| *verb == name).map(|(_, instead)| instead)
}

/// Each absent verb, with what to use instead.
pub(in crate::control) fn absent() -> impl Iterator<Item = (&'static str, &'static str)> {
    ABSENT
        .iter()
        .flat_map(|(verbs, instead)| verbs.split(' ').map(move |verb| (verb, *instead)))
}

/// Verbs separated by spaces, and the advice for all of them.
const ABSENT: &[(&str, &str)] = &[
    (
        "await_online_nodes cancel_sync_queue change_cluster_node_type discover_peers force_boot forget_cluster_node \
         join_cluster rename_cluster_node sync_queue update_cluster_nodes",
        "a gateway is one node, without a cluster and mirrors; use await_startup to wait for it",
    ),
    ("cluster_status", "a gateway is one node, without a cluster; use status"),
    (
        "reset force_reset",
        "stop the gateway, move its data directory away, and start it again",
    ),
    (
        "start_app stop_app",
        "a gateway has no application apart from its process; use stop, and start it by its service manager",
    ),
    ("wait is_booting", "use await_startup"),
    (
        "restart_vhost",
        "a vhost does not fail by itself; use stop, and start the gateway by its service manager",
    ),
    ("autocomplete", "use `gatepost completions bash`, zsh or fish"),
    (
        "list_ciphers cipher_suites tls_versions",
        "ciphers cannot be chosen; tls.min_version says the oldest version of TLS (`gatepost config tls`)",
    ),
    (
        "decode encode list_hashes",
        "the configuration holds no secrets: its keys name files that do (`gatepost config`)",
    ),
    (
        "disable_auth_attempt_source_tracking enable_auth_attempt_source_tracking list_node_auth_attempt_stats \
         reset_node_auth_attempt_metrics",
        "use the metrics rabbitmq_auth_attempts_total, and the log, which has a line for each refused login",
    ),
    (
        "list_unresponsive_queues",
        "a vhost's queues answer all or not at all; use ping",
    ),
    ("schema_info", "there is no database with tables; use report"),
    (
        "trace_on trace_off",
        "use `gatepost trace start`, which follows the messages that it names, and no others",
    ),
    (
        "set_disk_free_limit",
        "set disk.free_limit in the configuration, and use reload",
    ),
    (
        "set_vm_memory_high_watermark",
        "set memory.budget in the configuration, and use reload",
    ),
    ("enable_feature_flag list_feature_flags", "there are no feature flags"),
    (
        "eval eval_file exec observer remote_shell",
        "there is no Erlang to run; use the management API",
    ),
    (
        "erlang_cookie_hash erlang_cookie_sources erlang_version",
        "there is no Erlang; the control socket's file says who may use it",
    ),
    (
        "force_gc hipe_compile reclaim_quorum_memory",
        "memory is given back by itself; use memory_breakdown to see where it is",
    ),
    (
        "suspend_listeners resume_listeners",
        "listeners cannot be suspended; set limits.max_connections in the configuration, and use reload",
    ),
    (
        "node_health_check",
        "use check_running and check_alarms, or `gatepost health` for monitoring",
    ),
    ("alarms", "use check_alarms, or status"),
    (
        "check_port_connectivity",
        "use check_port_listener, or connect to the port",
    ),
    (
        "certificates",
        "use check_certificate_expiration, and openssl x509 for a certificate's file",
    ),
    (
        "consume_event_stream log_tail log_tail_stream",
        "use report for the newest lines of the log, or top for what goes on",
    ),
    ("log_location", "use environment: log.target says where the log goes"),
    (
        "command_line_arguments os_env",
        "use environment: it has the configuration from all of its sources",
    ),
    (
        "maybe_stuck runtime_thread_stats",
        "use ping, and the metrics gatepost_io_threads_helping and gatepost_log_commit_seconds",
    ),
    (
        "list_network_interfaces resolve_hostname resolver_info",
        "use the system's own tools, such as ip and getent",
    ),
    (
        "quorum_status stream_status",
        "every queue is on this one node, and there are no streams; use list_queues",
    ),
    ("server_version", "use status"),
];
