//! `/api/overview`, `/api/whoami`, and other paths about the node as a whole.

use super::body::Body;
use super::caller::{Caller, administrators};
use super::fields::Fields;
use super::rates::{Figure, NodeHistory, NodeSample, Spans, clients};
use super::view::View;
use super::{Answer, Api, Refusal, answer, done};
use crate::directory::parameters::CLUSTER_NAME;
use crate::node::Node;
use crate::protocols;
use crate::vhost::Vhost;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::middleware::from_fn;
use axum::routing;
use gatepost_core::engine::Counters;
use gatepost_core::properties::Value;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(super) fn routes() -> Router<Arc<Node>> {
    let name_cluster = routing::put(set_cluster_name).route_layer(from_fn(administrators));
    Router::new()
        .route("/api/overview", routing::get(get))
        .route("/api/whoami", routing::get(whoami))
        .route("/api/cluster-name", name_cluster.get(cluster_name))
        .route("/api/extensions", routing::get(none))
        .route("/api/feature-flags", routing::get(none))
        .route("/api/deprecated-features", routing::get(none))
        .route("/api/deprecated-features/used", routing::get(none))
        // Tools ask for these without knowing which plugins there are, and some report a 404 as an error each time.
        .route("/api/federation-links", routing::get(none))
        .route("/api/federation-links/{vhost}", routing::get(none))
        .route("/api/shovels", routing::get(none))
        .route("/api/shovels/{vhost}", routing::get(none))
        .route("/api/auth/attempts/{node}", routing::get(auth_attempts))
        .route("/api/auth/attempts/{node}/source", routing::get(none))
        .route("/api/auth", routing::get(auth))
        .route("/api/version", routing::get(version))
}

/// The RabbitMQ version that tools see. They compare versions, so it is a plain one.
pub(super) const COMPATIBLE: &str = "3.10.8";
const PRODUCT: &str = "Gatepost";

/// Totals: of the node for users who may see all of it, otherwise of the vhosts that the caller sees.
async fn get(caller: Caller, view: View, State(node): Api) -> Answer {
    let vhosts = caller.vhosts(&node);
    let counters: Vec<Counters> = vhosts.iter().map(|vhost| vhost.counters()).collect();
    let sum = |of: fn(&Counters) -> u64| counters.iter().map(of).sum::<u64>();
    let (sample, history) = if caller.is_monitor() {
        (added(&counters).of_node(&node), node.rates.node())
    } else {
        let mut history = NodeHistory::default();
        for vhost in &vhosts {
            history.add(&node.rates.vhost(vhost.number, &view.spans));
        }
        (added(&counters), history)
    };
    let config = node.config();
    view.object(|fields| {
        write_names(fields, &node);
        fields.text("node", &config.node.name);
        fields.text("cluster_name", &node.cluster_name());
        fields.count("uptime", node.started.elapsed().as_millis());
        write_exchange_types(fields);
        fields.object("message_stats", |fields| {
            write_message_stats(fields, &sample, &history, &view.spans);
            for (key, figure) in [("disk_reads", Figure::DiskReads), ("disk_writes", Figure::DiskWrites)] {
                let of = |sample: &NodeSample| sample.of(figure);
                history.write(fields, key, of(&sample), view.spans.messages, of);
            }
        });
        fields.object("churn_rates", |fields| {
            for (key, figure) in CHURN {
                let of = |sample: &NodeSample| sample.of(figure);
                history.write(fields, key, of(&sample), view.spans.messages, of);
            }
        });
        fields.object("queue_totals", |fields| {
            write_queue_totals(fields, &sample, &history, &view.spans);
        });
        fields.object("object_totals", |fields| {
            fields.count("connections", sum(|c| clients(c).links()));
            fields.count("channels", sum(|c| c.channels));
            fields.count("consumers", sum(|c| c.consumers));
            fields.count("queues", sum(|c| c.queues));
            let exchanges: usize = vhosts
                .iter()
                .map(|vhost| vhost.enter(|engine| engine.exchanges()))
                .sum();
            fields.count("exchanges", exchanges);
            fields.count("vhosts", vhosts.len());
            fields.count("users", node.users().len());
        });
        fields.count("statistics_db_event_queue", 0u64);
        fields.flag("disable_stats", false);
        fields.flag("enable_queue_totals", false);
        if caller.is_monitor() {
            write_listeners(fields, &node, &config.node.name);
        }
    })
}

fn write_names(fields: &mut Fields<'_>, _: &Node) {
    fields.text("management_version", COMPATIBLE);
    fields.text("rabbitmq_version", COMPATIBLE);
    fields.text("product_name", PRODUCT);
    fields.text("product_version", env!("CARGO_PKG_VERSION"));
    fields.text("erlang_version", "n/a");
    fields.text("erlang_full_version", "n/a");
    fields.text("release_series_support_status", "supported");
    fields.text("rates_mode", "basic");
    let kept = json!({ "global": [600], "basic": [600], "detailed": [600] });
    fields.value("sample_retention_policies", &kept);
}

/// Counters of created and deleted objects, of a node or of all vhosts.
pub(super) const CHURN: [(&str, Figure); 7] = [
    ("connection_created", Figure::ConnectionCreated),
    ("connection_closed", Figure::ConnectionClosed),
    ("channel_created", Figure::ChannelCreated),
    ("channel_closed", Figure::ChannelClosed),
    ("queue_declared", Figure::QueueDeclared),
    ("queue_created", Figure::QueueCreated),
    ("queue_deleted", Figure::QueueDeleted),
];

/// RabbitMQ's message statistics: of a channel, a vhost and the node.
pub(super) const MESSAGE_STATS: [(&str, Figure); 11] = [
    ("publish", Figure::Publish),
    ("confirm", Figure::Confirm),
    ("deliver", Figure::Deliver),
    ("deliver_no_ack", Figure::DeliverNoAck),
    ("get", Figure::Get),
    ("get_no_ack", Figure::GetNoAck),
    ("get_empty", Figure::GetEmpty),
    ("ack", Figure::Ack),
    ("redeliver", Figure::Redeliver),
    ("drop_unroutable", Figure::DropUnroutable),
    ("return_unroutable", Figure::ReturnUnroutable),
];

/// A function that reads one value of a sample.
type Of = fn(&NodeSample) -> u64;

/// For the node or a vhost.
pub(super) fn write_message_stats(fields: &mut Fields<'_>, now: &NodeSample, history: &NodeHistory, spans: &Spans) {
    for (key, figure) in MESSAGE_STATS {
        let of = |sample: &NodeSample| sample.of(figure);
        history.write(fields, key, of(now), spans.messages, of);
    }
    let of = NodeSample::deliver_get;
    history.write(fields, "deliver_get", of(now), spans.messages, of);
}

/// For the node or a vhost.
pub(super) fn write_queue_totals(fields: &mut Fields<'_>, now: &NodeSample, history: &NodeHistory, spans: &Spans) {
    let lengths: [(&str, Of); 3] = [
        ("messages", NodeSample::messages),
        ("messages_ready", |sample| sample.of(Figure::Ready)),
        ("messages_unacknowledged", |sample| sample.of(Figure::Unacknowledged)),
    ];
    for (key, of) in lengths {
        history.write(fields, key, of(now), spans.lengths, of);
    }
}

pub(super) fn write_exchange_types(fields: &mut Fields<'_>) {
    fields.list(
        "exchange_types",
        ["direct", "fanout", "headers", "topic"],
        |fields, kind| {
            fields.text("name", kind);
            fields.text("description", "");
            fields.flag("enabled", true);
        },
    );
}

fn write_listeners(fields: &mut Fields<'_>, node: &Node, name: &str) {
    let all = node.listeners.all();
    fields.list("listeners", all, |fields, listener| {
        fields.text("node", name);
        fields.text("protocol", &listener.protocol);
        fields.text("ip_address", &listener.at.ip().to_string());
        fields.count("port", listener.at.port());
        fields.object("socket_opts", |_| {});
    });
    let contexts = all.iter().filter(|listener| listener.is_management);
    fields.list("contexts", contexts, |fields, listener| {
        fields.text("node", name);
        fields.text("description", "Management");
        fields.text("path", "/");
        fields.text("ip", &listener.at.ip().to_string());
        fields.text("port", &listener.at.port().to_string());
    });
}

fn added(counters: &[Counters]) -> NodeSample {
    let mut sum = NodeSample::default();
    for counters in counters {
        sum.add(&NodeSample::new(counters));
    }
    sum
}

/// The node's current sample.
pub(super) fn sample(node: &Node, vhosts: &[Arc<Vhost>]) -> NodeSample {
    let counters: Vec<Counters> = vhosts.iter().map(|vhost| vhost.counters()).collect();
    added(&counters).of_node(node)
}

async fn whoami(caller: Caller) -> Answer {
    let tags: Vec<&str> = caller.tags().iter().map(|tag| &**tag).collect();
    answer(&json!({ "name": &**caller.name(), "tags": tags, "is_internal_user": true }))
}

async fn cluster_name(State(node): Api) -> Answer {
    answer(&json!({ "name": node.cluster_name() }))
}

/// The name is kept over a restart, and takes precedence over the configuration's.
async fn set_cluster_name(State(node): Api, body: Bytes) -> Answer {
    let body = Body::parse(&body)?;
    let name = body.required("name")?;
    node.set_global_parameter(CLUSTER_NAME, Value::text(name)).await?;
    done()
}

/// An empty list: there are no such objects.
async fn none() -> Answer {
    answer(&json!([]))
}

/// Logins since the start, by protocol. Their addresses are not kept.
async fn auth_attempts(caller: Caller, State(node): Api, Path(name): Path<String>) -> Answer {
    caller.monitors()?;
    is_this(&node, &name)?;
    let counted = protocols::ALL.iter().zip(&node.connections).map(|(protocol, counts)| {
        let protocol = protocol.metrics_label;
        let good = counts.logged_in.load(Ordering::Relaxed);
        let bad = counts.login_refused.load(Ordering::Relaxed);
        json!({
            "protocol": protocol, "auth_attempts": good + bad, "auth_attempts_failed": bad, "auth_attempts_succeeded": good,
        })
    });
    answer(&counted.collect::<Vec<_>>().into())
}

async fn auth() -> Answer {
    answer(&json!({ "enable_uaa": false, "oauth_enabled": false, "uaa_client_id": "", "uaa_location": "" }))
}

async fn version() -> Answer {
    answer(&json!(COMPATIBLE))
}

/// Checks that a path names this node.
///
/// # Errors
/// The name belongs to another node.
pub(super) fn is_this(node: &Node, name: &str) -> Result<(), Refusal> {
    if node.config().node.name == name {
        Ok(())
    } else {
        Err(Refusal::not_found())
    }
}
