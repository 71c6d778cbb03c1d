//! `/api/vhosts`.

use super::body::Body;
use super::caller::{Caller, administrators};
use super::fields::Fields;
use super::overview;
use super::rates::{Figure, NodeHistory, NodeSample, Spans, clients};
use super::view::{Pages, Row, View};
use super::{Answer, Api, done, is_new, made};
use crate::directory::permissions::Permission;
use crate::directory::{DirectoryError, Put};
use crate::node::Node;
use crate::vhost::Vhost;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::middleware::from_fn;
use axum::routing;
use gatepost_core::catalog::VhostRecord;
use gatepost_core::engine::Counters;
use gatepost_core::properties::Name;
use std::sync::Arc;

/// Everybody who sees a vhost may read it; administrators may change it.
pub(super) fn routes() -> Router<Arc<Node>> {
    let change = routing::put(put).delete(delete);
    Router::new().route("/api/vhosts", routing::get(list)).route(
        "/api/vhosts/{vhost}",
        change.route_layer(from_fn(administrators)).get(get),
    )
}

struct Shown {
    vhost: Arc<Vhost>,
    node: String,
    counters: Counters,
    history: NodeHistory,
}

impl Shown {
    fn new(node: &Node, vhost: Arc<Vhost>, spans: &Spans) -> Shown {
        Shown {
            node: node.config().node.name.clone(),
            counters: vhost.counters(),
            history: node.rates.vhost(vhost.number, spans),
            vhost,
        }
    }
}

impl Row for Shown {
    fn name(&self) -> &str {
        &self.vhost.name
    }

    fn write(&self, fields: &mut Fields<'_>, spans: &Spans) {
        let record = self.vhost.record();
        let tags: Vec<&str> = record.tags.iter().map(|tag| &**tag).collect();
        let tags = serde_json::json!(tags);
        let queue_type = match &*record.default_queue_type {
            "" => "classic",
            set => set,
        };
        fields.text("name", &record.name);
        fields.text("description", &record.description);
        fields.value("tags", &tags);
        fields.text("default_queue_type", queue_type);
        fields.object("metadata", |fields| {
            fields.text("description", &record.description);
            fields.value("tags", &tags);
            fields.text("default_queue_type", queue_type);
        });
        fields.flag("tracing", false);
        fields.object("cluster_state", |fields| fields.text(&self.node, "running"));
        let sample = NodeSample::new(&self.counters);
        overview::write_queue_totals(fields, &sample, &self.history, spans);
        fields.object("message_stats", |fields| {
            overview::write_message_stats(fields, &sample, &self.history, spans);
        });
        for (key, figure) in [("recv_oct", Figure::ReceivedBytes), ("send_oct", Figure::SentBytes)] {
            let of = |sample: &NodeSample| sample.of(figure);
            self.history.write(fields, key, of(&sample), spans.data, of);
        }
        fields.count("queues", self.counters.queues);
        fields.count("connections", clients(&self.counters).links());
    }
}

async fn list(caller: Caller, view: View, State(node): Api) -> Answer {
    let vhosts = caller.vhosts(&node).into_iter();
    let vhosts = vhosts.map(|vhost| Shown::new(&node, vhost, &view.spans)).collect();
    view.list(vhosts, Pages::Known)
}

async fn get(caller: Caller, view: View, State(node): Api, Path(vhost): Path<String>) -> Answer {
    let vhost = caller.vhost(&node, &vhost)?;
    view.one(&Shown::new(&node, vhost, &view.spans))
}

/// Creates a vhost, or sets its description and tags to those in the request (none if it has none), as in RabbitMQ; its
/// contents stay. With `If-None-Match: *` an existing vhost is not changed, and the request is refused. The user that
/// creates a vhost gets all permissions in it, as in RabbitMQ: tools create a vhost and then declare objects in it.
async fn put(caller: Caller, State(node): Api, Path(vhost): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let body = Body::parse(&body)?;
    let tags = body.texts("tags")?.unwrap_or_default();
    let tags = tags.iter().map(|tag| Name::from(tag.as_str())).collect();
    let description = body.text("description")?.unwrap_or_default().to_owned();
    let queue_type = body.text("default_queue_type")?.map(Name::from);
    if node.vhost(&vhost).is_some() && !is_new(&headers) {
        let change = |record: &mut VhostRecord| {
            record.description = description;
            record.tags = tags;
            if let Some(queue_type) = queue_type {
                record.default_queue_type = queue_type;
            }
        };
        node.change_vhost(&vhost, change).await?;
        return made(Put::Changed);
    }
    let record = VhostRecord {
        name: vhost.as_str().into(),
        description,
        tags,
        default_queue_type: queue_type.unwrap_or_default(),
    };
    node.create_vhost(record).await?;
    if !caller.is_operator() {
        match node
            .set_permission(caller.name(), &vhost, Permission::everything())
            .await
        {
            // The user belongs to another back end, or the vhost has just been deleted.
            Ok(_) | Err(DirectoryError::NoSuchUser(_) | DirectoryError::NoSuchVhost(_)) => {}
            Err(other) => return Err(other.into()),
        }
    }
    made(Put::Created)
}

async fn delete(State(node): Api, Path(vhost): Path<String>) -> Answer {
    node.delete_vhost(&vhost).await?;
    done()
}
