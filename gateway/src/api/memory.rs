//! Memory in use: `/api/nodes/{node}/memory` in RabbitMQ's categories, `/api/gatepost/memory` by the parts of the
//! budget.

use super::caller::monitors;
use super::overview::is_this;
use super::view::View;
use super::{Answer, Api, answer};
use crate::accountant::Pools;
use crate::machine;
use crate::node::Node;
use axum::Router;
use axum::extract::{Path, State};
use axum::middleware::from_fn;
use axum::routing;
use gatepost_core::engine::{ObjectKind, PerKind};
use serde_json::{Value, json};
use std::sync::Arc;

/// For users who may see all statistics.
pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/nodes/{node}/memory", routing::get(of_node))
        .route("/api/gatepost/memory", routing::get(accounts))
        .route_layer(from_fn(monitors))
}

/// Counted memory, in bytes.
struct Used {
    messages: u64,
    objects: PerKind,
    unsettled: u64,
    buffers: u64,
    hashing: u64,
    outside: u64,
    flow: u64,
    resident: u64,
}

impl Used {
    fn of(node: &Node) -> Used {
        let counters: Vec<_> = node.vhosts.list().iter().map(|vhost| vhost.counters()).collect();
        let sum = |kind: usize| counters.iter().map(|counters| counters.objects_bytes[kind]).sum();
        Used {
            messages: counters.iter().map(|counters| counters.memory_bytes).sum(),
            objects: std::array::from_fn(sum),
            unsettled: counters.iter().map(|counters| counters.unsettled_bytes).sum(),
            buffers: node.buffers.bytes() as u64,
            hashing: node.directory.hashing_bytes(),
            outside: node.directory.outside().0 as u64,
            flow: node.flow.bytes() as u64,
            resident: machine::resident_bytes(),
        }
    }

    fn object(&self, kind: ObjectKind) -> u64 {
        self.objects[kind as usize] as u64
    }
}

/// Each part of the budget with its use and its limit. Objects are followed by their kinds, which have no limits of
/// their own. Bodies of unsettled deliveries that are in memory count in `messages` too.
async fn accounts(State(node): Api) -> Answer {
    let (used, config) = (Used::of(&node), node.config());
    let pools = Pools::of(&config);
    let objects = used.objects.iter().sum::<usize>();
    let beside = objects.saturating_add(usize::try_from(used.flow).unwrap_or(usize::MAX));
    let part = |name: &str, bytes: u64, limit: usize| json!({ "name": name, "bytes": bytes, "limit": limit });
    let mut rows = vec![
        part(
            "messages",
            used.messages,
            pools.messages_and_objects.saturating_sub(beside),
        ),
        part("objects", objects as u64, pools.objects),
    ];
    rows.extend(ObjectKind::ALL.map(|kind| {
        let name = format!("objects.{}", kind.name());
        json!({ "name": name, "bytes": used.object(kind), "limit": Value::Null })
    }));
    rows.push(part("unsettled", used.unsettled, pools.unsettled));
    rows.push(part("input", used.buffers, pools.input));
    let for_hashing = usize::try_from(config.auth.hashing_memory.0).unwrap_or(usize::MAX);
    rows.push(part("hashing", used.hashing, for_hashing));
    if pools.outside > 0 {
        rows.push(part("outside", used.outside, pools.outside));
    }
    rows.push(json!({ "name": "flow", "bytes": used.flow, "limit": Value::Null }));
    let budget = machine::memory_budget(config.memory.budget);
    let counted = used.messages + objects as u64 + used.buffers + used.hashing + used.outside + used.flow;
    rows.push(json!({ "name": "counted", "bytes": counted, "limit": budget }));
    rows.push(json!({ "name": "resident", "bytes": used.resident, "limit": Value::Null }));
    answer(&rows.into())
}

/// RabbitMQ's categories, by content. Categories without a counterpart here are 0.
async fn of_node(view: View, State(node): Api, Path(name): Path<String>) -> Answer {
    is_this(&node, &name)?;
    let used = Used::of(&node);
    let parts = [
        ("binary", used.messages),
        (
            "queue_procs",
            used.object(ObjectKind::Queues) + used.object(ObjectKind::Sessions),
        ),
        ("connection_channels", used.object(ObjectKind::Connections)),
        ("connection_other", used.buffers),
        ("mnesia", used.object(ObjectKind::Routes)),
        ("msg_index", used.object(ObjectKind::Retained)),
        ("other_ets", used.outside),
        ("other_proc", used.hashing),
        ("metrics", used.flow),
    ];
    let counted = parts.iter().map(|(_, bytes)| bytes).sum();
    view.object(|fields| {
        fields.object("memory", |fields| {
            for (key, bytes) in parts {
                fields.count(key, bytes);
            }
            fields.count("other_system", used.resident.saturating_sub(counted));
            for key in ZEROS {
                fields.count(key, 0u64);
            }
            fields.text("strategy", "rss");
            fields.object("total", |fields| {
                for key in ["rss", "allocated", "erlang"] {
                    fields.count(key, used.resident);
                }
            });
        });
    })
}

const ZEROS: [&str; 17] = [
    "connection_readers",
    "connection_writers",
    "queue_slave_procs",
    "quorum_queue_procs",
    "quorum_queue_dlx_procs",
    "stream_queue_procs",
    "stream_queue_replica_reader_procs",
    "stream_queue_coordinator_procs",
    "plugins",
    "mgmt_db",
    "quorum_ets",
    "code",
    "atom",
    "allocated_unused",
    "reserved_unallocated",
    "metadata_store",
    "metadata_store_ets",
];
