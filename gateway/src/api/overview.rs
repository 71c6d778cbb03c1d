//! `/api/overview` and `/api/whoami`.

use super::{Answer, Api, answer};
use axum::extract::State;
use gatepost_core::engine::Counters;
use serde_json::json;

/// What there is, in numbers: one short hold of each engine's lock.
pub(super) async fn get(State(node): Api) -> Answer {
    let vhosts = node.vhosts.list();
    let all: Vec<Counters> = vhosts
        .iter()
        .map(|vhost| vhost.enter(|engine| engine.counters()))
        .collect();
    let sum = |of: fn(&Counters) -> u64| all.iter().map(of).sum::<u64>();
    let config = node.config();
    answer(&json!({
        "product_name": "Gatepost",
        "product_version": env!("CARGO_PKG_VERSION"),
        "node": config.node.name,
        "cluster_name": config.node.cluster_name,
        "uptime": node.started.elapsed().as_millis() as u64,
        "object_totals": {
            "connections": node.connections_open(),
            "consumers": sum(|c| c.consumers),
            "queues": sum(|c| c.queues),
            "vhosts": vhosts.len(),
            "users": node.users().len(),
        },
    }))
}

/// Whoever may open the socket's file.
pub(super) async fn whoami() -> Answer {
    answer(&json!({ "name": "control socket", "tags": ["administrator"] }))
}
