//! `/api/nodes`: this node as the only one of a cluster.

use super::caller::{administrators, monitors};
use super::fields::Fields;
use super::overview::{self, CHURN, is_this};
use super::rates::{Figure, NodeHistory, NodeSample, Spans};
use super::view::{Pages, Row, View};
use super::{Answer, Api, done};
use crate::machine;
use crate::node::Node;
use axum::Router;
use axum::extract::{Path, State};
use axum::middleware::from_fn;
use axum::routing;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// For users who may see all statistics.
pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/nodes", routing::get(list))
        .route("/api/nodes/{node}", routing::get(get))
        .route_layer(from_fn(monitors))
        .merge(
            Router::new()
                .route("/api/rebalance/queues", routing::post(rebalance))
                .route_layer(from_fn(administrators)),
        )
}

struct Shown<'a> {
    node: &'a Node,
    name: String,
    sample: NodeSample,
    history: NodeHistory,
}

/// A strictly typed client reads the uptime as 32 bits of milliseconds. If the value does not fit, it fails to read the
/// whole list.
const UPTIME_MAX: u128 = u32::MAX as u128;
/// Tools divide by this limit, so it is not 0.
const PROCESSES_MAX: u64 = 1_048_576;

impl Row for Shown<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn write(&self, fields: &mut Fields<'_>, spans: &Spans) {
        let (node, config) = (self.node, self.node.config());
        fields.text("name", &self.name);
        fields.text("type", "disc");
        fields.flag("running", true);
        fields.flag("being_drained", node.is_stopping());
        fields.text("os_pid", &std::process::id().to_string());
        let uptime = node.started.elapsed().as_millis().min(UPTIME_MAX);
        fields.count("uptime", uptime);
        fields.count("run_queue", 0u64);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        fields.count("processors", processors);
        fields.text("rates_mode", "basic");
        fields.text("mem_calculation_strategy", "rss");
        let gauges = [
            ("mem_used", Figure::MemoryUsed),
            ("fd_used", Figure::FilesUsed),
            ("sockets_used", Figure::SocketsUsed),
            ("disk_free", Figure::DiskFree),
        ];
        for (key, figure) in gauges.into_iter().chain(CHURN) {
            let of = |sample: &NodeSample| sample.of(figure);
            self.history.write(fields, key, of(&self.sample), spans.node, of);
        }
        // RabbitMQ counts Erlang's processes here. Threads are the closest counterpart, and tools take 0 for a node
        // without statistics.
        let threads = machine::threads();
        self.history
            .write(fields, "proc_used", threads, spans.node, |_| threads);
        for key in ["gc_num", "gc_bytes_reclaimed", "context_switches"] {
            self.history.write(fields, key, 0, spans.node, |_| 0);
        }
        fields.count("fd_total", machine::open_files_max());
        fields.count("sockets_total", node.connections_limit());
        fields.count("proc_total", PROCESSES_MAX);
        fields.count("mem_limit", machine::memory_budget(config.memory.budget));
        fields.flag("mem_alarm", alarms(node).contains(&"memory"));
        fields.count("disk_free_limit", node.health.disk_limit.load(Ordering::Relaxed));
        fields.flag("disk_free_alarm", alarms(node).contains(&"disk"));
        for key in [
            "partitions",
            "cluster_links",
            "applications",
            "auth_mechanisms",
            "contexts",
            "log_files",
            "config_files",
        ] {
            fields.list(key, [], |_, ()| {});
        }
        fields.value("enabled_plugins", &serde_json::json!(["rabbitmq_management"]));
        overview::write_exchange_types(fields);
        let data = std::fs::canonicalize(&config.node.data_dir).unwrap_or_else(|_| config.node.data_dir.clone());
        fields.text("db_dir", &data.display().to_string());
        fields.count("net_ticktime", 60u64);
    }
}

/// The alarms that make publishers wait: `memory`, `disk`.
pub(super) fn alarms(node: &Node) -> Vec<&'static str> {
    let health = &node.health;
    let disk = health.disk_alarm.load(Ordering::Relaxed) || health.disk_full.load(Ordering::Relaxed);
    let vhosts = node.vhosts.list();
    let is_short = |vhost: &Arc<crate::vhost::Vhost>| vhost.enter(|engine| engine.is_short_of_memory());
    let memory = vhosts.iter().any(is_short);
    [(memory, "memory"), (disk, "disk")]
        .into_iter()
        .filter_map(|(is_set, name)| is_set.then_some(name))
        .collect()
}

fn shown(node: &Node) -> Shown<'_> {
    Shown {
        node,
        name: node.config().node.name.clone(),
        sample: overview::sample(node, &node.vhosts.list()),
        history: node.rates.node(),
    }
}

async fn list(view: View, State(node): Api) -> Answer {
    view.list(vec![shown(&node)], Pages::None)
}

async fn get(view: View, State(node): Api, Path(name): Path<String>) -> Answer {
    is_this(&node, &name)?;
    view.one(&shown(&node))
}

/// A single node leads all its queues, so there is nothing to move.
async fn rebalance() -> Answer {
    done()
}
