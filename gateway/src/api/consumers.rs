//! `/api/consumers`.

use super::caller::Caller;
use super::collect::collect;
use super::connections::{self, Connection};
use super::fields::Fields;
use super::rates::Spans;
use super::view::{Pages, Row, View};
use super::{Answer, Api};
use crate::node::Node;
use crate::vhost::Vhost;
use axum::Router;
use axum::extract::{Path, State};
use axum::routing;
use gatepost_core::engine::Link;
use gatepost_core::engine::inspect::{Item, Kind};
use gatepost_core::properties::{Name, Table};
use std::collections::HashMap;
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/consumers", routing::get(list))
        .route("/api/consumers/{vhost}", routing::get(of_vhost))
}

/// A consumer. The subscriptions of an MQTT session are shown as one consumer for each queue.
pub(super) struct Consumer {
    pub(super) queue: Name,
    connection: Arc<Connection>,
    channel: u16,
    tag: Name,
    arguments: Table,
    no_ack: bool,
    is_exclusive: bool,
    prefetch: u32,
    is_active: bool,
}

/// RabbitMQ closes the channel of a consumer that keeps a message for longer than this, and tools expect the value.
/// This gateway does not close it.
const CONSUMER_TIMEOUT_MS: u64 = 1_800_000;

impl Row for Consumer {
    fn name(&self) -> &str {
        &self.tag
    }

    fn write(&self, fields: &mut Fields<'_>, _: &Spans) {
        let of = &self.connection;
        fields.text("consumer_tag", &self.tag);
        fields.object("queue", |fields| {
            fields.text("name", &self.queue);
            fields.text("vhost", &of.vhost);
        });
        fields.flag("ack_required", !self.no_ack);
        fields.flag("active", self.is_active);
        fields.text("activity_status", if self.is_active { "up" } else { "waiting" });
        fields.flag("exclusive", self.is_exclusive);
        fields.count("prefetch_count", self.prefetch);
        fields.table("arguments", &self.arguments);
        fields.count("consumer_timeout", CONSUMER_TIMEOUT_MS);
        fields.object("channel_details", |fields| {
            fields.text("name", &format!("{} ({})", of.name, self.channel));
            fields.count("number", self.channel);
            fields.text("connection_name", &of.name);
            fields.text("node", &of.node);
            of.write_peer(fields);
            fields.text("user", &of.user);
        });
    }
}

impl Consumer {
    /// Whether the consumer belongs to that channel.
    pub(super) fn is_of(&self, link: Link, channel: u16) -> bool {
        self.connection.link == link && self.channel == channel
    }
}

/// The consumers of a vhost, by queue and tag.
pub(super) async fn in_vhost(node: &Node, vhost: &Vhost) -> Vec<Consumer> {
    let connections = connections::in_vhost(node, vhost).await;
    let by_link: HashMap<_, _> = connections.into_iter().map(|of| (of.link, Arc::new(of))).collect();
    let items = collect(vhost, Kind::Consumers).await.into_iter();
    let shown = items.filter_map(|item| {
        let Item::Consumer {
            link,
            channel,
            queue,
            no_ack,
            exclusive,
            prefetch,
            tag,
            arguments,
            active,
            ..
        } = item
        else {
            return None;
        };
        let connection = by_link.get(&link)?;
        let unnamed = tag.is_empty().then(|| connection.client_name().map(Name::from));
        Some(Consumer {
            connection: Arc::clone(connection),
            channel: connection.shown_channel(channel),
            tag: unnamed.flatten().unwrap_or(tag),
            queue,
            arguments,
            no_ack,
            is_exclusive: exclusive,
            prefetch,
            is_active: active,
        })
    });
    let mut all: Vec<Consumer> = shown.collect();
    all.sort_by(|a, b| (&a.queue, &a.tag).cmp(&(&b.queue, &b.tag)));
    all
}

async fn list(caller: Caller, view: View, State(node): Api) -> Answer {
    let mut all = Vec::new();
    for vhost in caller.vhosts(&node) {
        all.extend(in_vhost(&node, &vhost).await);
    }
    view.list(all, Pages::None)
}

async fn of_vhost(caller: Caller, view: View, State(node): Api, Path(vhost): Path<String>) -> Answer {
    let vhost = caller.vhost(&node, &vhost)?;
    view.list(in_vhost(&node, &vhost).await, Pages::None)
}
