//! Dashboards and alerts that people have for RabbitMQ, against a real Prometheus: their queries, each of which must find data.
//!
//! The queries are put together here from the families and forms of the dashboards: each panel of RabbitMQ-Overview (10991 on
//! grafana.com) joins on `rabbitmq_identity_info`, which says the cluster and the endpoint.

use crate::metrics::{Prometheus, has, page};
use crate::support::Gatepost;
use crate::support::amqp::Amqp;
use crate::support::raw::eventually;

/// Sums of gauges: today's dashboard, and those of RabbitMQ 3.8 to 3.12.
const GAUGES: &[&str] = &[
    "queue_messages_ready",
    "queue_messages_unacked",
    "global_publishers",
    "global_consumers",
    "consumers",
    "connections",
    "queues",
    "channels",
    "alarms_memory_used_watermark",
    "alarms_free_disk_space_watermark",
    "alarms_file_descriptor_limit",
];

/// Rates of counters, likewise.
const COUNTERS: &[&str] = &[
    "global_messages_received",
    "global_messages_received_confirm",
    "global_messages_confirmed",
    "global_messages_routed",
    "global_messages_unroutable_dropped",
    "global_messages_unroutable_returned",
    "global_messages_delivered",
    "global_messages_delivered_consume_auto_ack",
    "global_messages_delivered_consume_manual_ack",
    "global_messages_delivered_get_auto_ack",
    "global_messages_delivered_get_manual_ack",
    "global_messages_get_empty",
    "global_messages_redelivered",
    "global_messages_acknowledged",
    "queues_declared",
    "queues_created",
    "queues_deleted",
    "channels_opened",
    "channels_closed",
    "connections_opened",
    "connections_closed",
    "channel_messages_published",
    "channel_messages_confirmed",
    "channel_messages_unroutable_dropped",
    "channel_messages_unroutable_returned",
    "channel_messages_delivered",
    "channel_messages_delivered_ack",
    "channel_messages_redelivered",
    "channel_messages_acked",
    "channel_get",
    "channel_get_ack",
    "channel_get_empty",
    "queue_messages_published",
];

/// What is left of a limit: the limit, and what is used.
const HEADROOM: &[(&str, &str)] = &[
    ("resident_memory_limit_bytes", "process_resident_memory_bytes"),
    ("disk_space_available_bytes", "disk_space_available_limit_bytes"),
    ("process_max_fds", "process_open_fds"),
    ("process_max_tcp_sockets", "process_open_tcp_sockets"),
];

/// Bounds of the message sizes, which panels compare as text.
const SIZES: [&str; 9] = [
    "100.0", "1000.0", "10000.0", "100000.0", "1e+06", "1e+07", "5e+07", "1e+08", "+Inf",
];

/// Of alerts, RabbitMQ's own and those of collections: they join on nothing.
const ALERTS: &[&str] = &[
    "sum(rabbitmq_build_info) > 0",
    "count(count by (rabbitmq_version) (rabbitmq_build_info)) == 1",
    "rabbitmq_process_resident_memory_bytes / rabbitmq_resident_memory_limit_bytes * 100 >= 0",
    "rabbitmq_process_open_fds / rabbitmq_process_max_fds * 100 >= 0",
    "predict_linear(rabbitmq_disk_space_available_bytes[5m], 60 * 60 * 24) != 0",
    "sum by (queue) (rabbitmq_queue_messages_ready) >= 0",
    "sum by (queue) (rabbitmq_queue_messages_unacked) >= 0",
    "rabbitmq_connections > 0",
    "rabbitmq_queue_consumers >= 0",
    "increase(rabbitmq_channel_messages_unroutable_returned_total[5m]) >= 0",
    "rate(rabbitmq_connections_closed_total[5m]) * on(instance) group_left(rabbitmq_cluster, rabbitmq_node) rabbitmq_identity_info >= 0",
    "sum by (rabbitmq_cluster, instance, rabbitmq_node) (rabbitmq_queue_messages_ready * on(instance) \
     group_left(rabbitmq_cluster, rabbitmq_node) rabbitmq_identity_info) >= 0",
    "time() - process_start_time_seconds >= 0",
    "rate(process_cpu_seconds_total[5m]) >= 0",
    "process_resident_memory_bytes > 0",
    "process_open_fds / process_max_fds > 0",
    "rate(rabbitmq_auth_attempts_failed_total[5m]) >= 0",
    "rate(rabbitmq_io_sync_time_seconds_total[5m]) >= 0",
    "rate(rabbitmq_global_messages_dead_lettered_rejected_total[5m]) >= 0",
];

fn queries(cluster: &str) -> Vec<String> {
    let identity = format!(
        "rabbitmq_identity_info{{rabbitmq_cluster=\"{cluster}\", namespace=\"\", rabbitmq_endpoint=\"aggregated\"}}"
    );
    let joined = format!("* on(instance, job) group_left(rabbitmq_cluster, rabbitmq_node) {identity}");
    let mut all = vec![
        format!("count({identity})"),
        format!(
            "rabbitmq_erlang_uptime_seconds * on(instance, job) group_left(rabbitmq_version, erlang_version) \
             rabbitmq_build_info {joined}"
        ),
        format!(
            "sum(rate(rabbitmq_global_messages_received_confirm_total[5m]) {joined} - \
             rate(rabbitmq_global_messages_confirmed_total[5m]) {joined}) by(rabbitmq_node)"
        ),
        format!(
            "sum((rate(rabbitmq_global_messages_delivered_consume_auto_ack_total[5m]) {joined}) + \
             (rate(rabbitmq_global_messages_delivered_consume_manual_ack_total[5m]) {joined})) by(rabbitmq_node)"
        ),
        format!(
            "sum(increase(rabbitmq_message_size_bytes_sum[5m]) {joined}) / \
             sum(increase(rabbitmq_message_size_bytes_count[5m]) {joined})"
        ),
    ];
    for name in GAUGES {
        all.push(format!("sum(rabbitmq_{name} {joined}) by(rabbitmq_node)"));
        all.push(format!("rabbitmq_{name} {joined}"));
    }
    for name in COUNTERS {
        for over in ["rate", "irate"] {
            all.push(format!(
                "sum({over}(rabbitmq_{name}_total[5m]) {joined}) by(rabbitmq_node)"
            ));
        }
    }
    for (limit, used) in HEADROOM {
        all.push(format!("(rabbitmq_{limit} - rabbitmq_{used}) {joined}"));
        all.push(format!("(rabbitmq_{limit} {joined}) - (rabbitmq_{used} {joined})"));
    }
    let bucket = |le: &str| format!("sum(increase(rabbitmq_message_size_bytes_bucket{{le=\"{le}\"}}[5m]) {joined})");
    for (smaller, larger) in SIZES.iter().zip(&SIZES[1..]) {
        let (below, upto) = (bucket(smaller), bucket(larger));
        all.push(format!("({upto} - {below}) / {}", bucket("+Inf")));
    }
    all.extend(ALERTS.iter().map(|query| (*query).to_owned()));
    all
}

#[test]
fn each_query_of_dashboards_for_rabbitmq_finds_data() {
    let gatepost = Gatepost::start();
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.declare_queue("q", true).expect("a queue");
    amqp.publish("", "q", true, b"x");
    amqp.flush().expect("sent");
    let prometheus = Prometheus::start(&gatepost);
    eventually("three scrapes", || {
        prometheus
            .query("count_over_time(up[5m]) > 2")
            .is_ok_and(|count| count == 1)
    });
    let identity = page(&gatepost, "/metrics");
    let cluster = identity
        .split_once("rabbitmq_cluster=\"")
        .and_then(|(_, rest)| rest.split_once('"'));
    let all = queries(cluster.expect("the cluster's name").0);
    assert!(all.len() > 110, "{}", all.len());
    for query in all {
        let mut last = Ok(0);
        eventually(&format!("data for {query}"), || {
            last = prometheus.query(&query);
            assert!(last.is_ok(), "{last:?}");
            last != Ok(0)
        });
    }
}

/// What the families of single objects count, where `/metrics/detailed` is asked for them by RabbitMQ's names of their groups.
#[test]
fn groups_of_families_are_shown_to_who_asks_for_them() {
    let gatepost = Gatepost::start();
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.declare_queue("work", true).expect("a queue");
    for _ in 0..3 {
        amqp.publish("", "work", true, b"four");
    }
    amqp.publish("amq.topic", "nobody", false, b"x");
    amqp.flush().expect("sent");
    eventually("three messages", || amqp.depth("work").expect("a queue") == 3);
    let port = gatepost.amqp;
    let detailed = |group: &str| page(&gatepost, &format!("/metrics/detailed?family={group}"));
    let of_channel = |text: &str, name: &str, value: u32| {
        let ends = format!("-> 127.0.0.1:{port} (1)\"}} {value}");
        let begins = format!("rabbitmq_detailed_{name}{{channel=\"");
        let is_there = |line: &str| line.starts_with(&begins) && line.ends_with(&ends);
        assert!(text.lines().any(is_there), "{name} {value} in:\n{text}");
    };

    let queues = detailed("queue_metrics");
    for (name, value) in [
        ("messages", 3),
        ("messages_bytes", 12),
        ("messages_ready_bytes", 12),
        ("messages_unacked_bytes", 0),
        ("messages_ram", 3),
        ("messages_persistent", 3),
        ("consumers", 0),
        ("consumer_utilisation", 0),
    ] {
        has(
            &queues,
            &format!("rabbitmq_detailed_queue_{name}{{vhost=\"/\",queue=\"work\"}} {value}"),
        );
    }
    let deliveries = detailed("queue_delivery_metrics");
    has(
        &deliveries,
        r#"rabbitmq_detailed_queue_messages_published_total{vhost="/",queue="work"} 3"#,
    );
    has(
        &deliveries,
        r#"rabbitmq_detailed_queue_messages_acked_total{vhost="/",queue="work"} 0"#,
    );
    assert!(deliveries.contains("# TYPE rabbitmq_detailed_queue_get_empty_total counter\n"));
    let published = detailed("channel_exchange_metrics");
    of_channel(&published, "channel_messages_published_total", 4);
    of_channel(&published, "channel_messages_unroutable_dropped_total", 1);
    of_channel(&detailed("channel_queue_metrics"), "channel_get_empty_total", 0);
    has(
        &detailed("exchange_metrics"),
        r#"rabbitmq_detailed_exchange_messages_published_total{vhost="/",exchange="amq.topic"} 1"#,
    );
    has(
        &detailed("exchange_names"),
        r#"rabbitmq_cluster_exchange_name{vhost="/",exchange="amq.fanout",type="fanout"} 1"#,
    );
    has(
        &detailed("vhost_status"),
        r#"rabbitmq_cluster_vhost_status{vhost="/"} 1"#,
    );
    for group in [
        "queue_metrics",
        "queue_delivery_metrics",
        "channel_queue_metrics",
        "exchange_names",
        "connection_metrics",
    ] {
        for line in detailed(group).lines().filter_map(|line| line.strip_prefix("# HELP ")) {
            let help = line.split_once(' ').expect("a name and its help").1;
            assert!(help.len() > 5, "{group}: {line}");
        }
    }
    // On this page the sum of all clients is the only one.
    let sums = page(&gatepost, "/metrics/per-object");
    has(&sums, "rabbitmq_channel_messages_published_total 4");
    has(&sums, r#"rabbitmq_queue_messages{vhost="/",queue="work"} 3"#);
    assert!(!sums.contains("\nrabbitmq_queue_messages 3"), "{sums}");
}
