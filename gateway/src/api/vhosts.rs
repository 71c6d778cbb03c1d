//! `/api/vhosts`.

use super::body::Body;
use super::caller::{Caller, administrators};
use super::{Answer, Api, Refusal, answer, done, is_new, made};
use crate::directory::Put;
use crate::node::Node;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::middleware::from_fn;
use axum::routing;
use gatepost_core::catalog::VhostRecord;
use gatepost_core::properties::Name;
use serde_json::{Value, json};
use std::sync::Arc;

/// To look at for those who see them, to change for administrators.
pub(super) fn routes() -> Router<Arc<Node>> {
    let change = routing::put(put).delete(delete);
    Router::new().route("/api/vhosts", routing::get(list)).route(
        "/api/vhosts/{vhost}",
        change.route_layer(from_fn(administrators)).get(get),
    )
}

async fn list(caller: Caller, State(node): Api) -> Answer {
    let mut vhosts: Vec<VhostRecord> = node.list_vhosts().into_iter().map(|(_, record)| record).collect();
    vhosts.retain(|record| caller.sees(&record.name));
    vhosts.sort_by(|a, b| a.name.cmp(&b.name));
    let vhosts: Vec<Value> = vhosts.iter().map(|record| shape(&node, record)).collect();
    answer(&vhosts.into())
}

async fn get(caller: Caller, State(node): Api, Path(vhost): Path<String>) -> Answer {
    caller.vhost(&node, &vhost)?;
    let all = node.list_vhosts().into_iter().map(|(_, record)| record);
    let found = all.into_iter().find(|record| *record.name == *vhost);
    answer(&shape(&node, &found.ok_or_else(Refusal::not_found)?))
}

/// One that is there already stays as it is. With `If-None-Match: *` the request is refused then.
async fn put(State(node): Api, Path(vhost): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let body = Body::parse(&body)?;
    if node.vhost(&vhost).is_some() && !is_new(&headers) {
        return made(Put::Changed);
    }
    let tags = body.texts("tags")?.unwrap_or_default();
    let record = VhostRecord {
        name: vhost.as_str().into(),
        description: body.text("description")?.unwrap_or_default().to_owned(),
        tags: tags.iter().map(|tag| Name::from(tag.as_str())).collect(),
        default_queue_type: body.text("default_queue_type")?.unwrap_or_default().into(),
    };
    node.create_vhost(record).await?;
    made(Put::Created)
}

async fn delete(State(node): Api, Path(vhost): Path<String>) -> Answer {
    node.delete_vhost(&vhost).await?;
    done()
}

fn shape(node: &Node, record: &VhostRecord) -> Value {
    let counters = node
        .vhost(&record.name)
        .map(|vhost| vhost.enter(|engine| engine.counters()));
    let counters = counters.unwrap_or_default();
    let tags: Vec<&str> = record.tags.iter().map(|tag| &**tag).collect();
    json!({
        "name": &*record.name,
        "description": record.description,
        "tags": tags,
        "default_queue_type": &*record.default_queue_type,
        "metadata": { "description": record.description, "tags": tags },
        "tracing": false,
        "queues": counters.queues,
        "connections": counters
            .traffic
            .links_attached
            .saturating_sub(counters.traffic.links_detached),
    })
}
