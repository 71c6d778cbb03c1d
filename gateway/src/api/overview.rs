//! `/api/overview` and `/api/whoami`.

use super::caller::Caller;
use super::{Answer, Api, answer};
use crate::node::Node;
use axum::Router;
use axum::extract::State;
use axum::routing;
use gatepost_core::engine::Counters;
use serde_json::json;
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/overview", routing::get(get))
        .route("/api/whoami", routing::get(whoami))
}

/// What there is, in numbers: one short hold of each engine's lock.
async fn get(State(node): Api) -> Answer {
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

async fn whoami(caller: Caller) -> Answer {
    let tags: Vec<&str> = caller.tags().iter().map(|tag| &**tag).collect();
    answer(&json!({ "name": &**caller.name(), "tags": tags, "is_internal_user": true }))
}
