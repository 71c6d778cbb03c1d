//! `/api/vhosts`.

use super::body::Body;
use super::{Answer, Api, Refusal, answer, done, is_new, made};
use crate::directory::Put;
use crate::node::Node;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use gatepost_core::catalog::VhostRecord;
use gatepost_core::properties::Name;
use serde_json::{Value, json};

pub(super) async fn list(State(node): Api) -> Answer {
    let mut vhosts: Vec<VhostRecord> = node.list_vhosts().into_iter().map(|(_, record)| record).collect();
    vhosts.sort_by(|a, b| a.name.cmp(&b.name));
    let vhosts: Vec<Value> = vhosts.iter().map(|record| shape(&node, record)).collect();
    answer(&vhosts.into())
}

pub(super) async fn get(State(node): Api, Path(vhost): Path<String>) -> Answer {
    let all = node.list_vhosts().into_iter().map(|(_, record)| record);
    let found = all.into_iter().find(|record| *record.name == *vhost);
    answer(&shape(&node, &found.ok_or_else(Refusal::not_found)?))
}

/// One that is there already stays as it is. With `If-None-Match: *` the request is refused then.
pub(super) async fn put(State(node): Api, Path(vhost): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
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

pub(super) async fn delete(State(node): Api, Path(vhost): Path<String>) -> Answer {
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
