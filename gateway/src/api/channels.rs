//! `/api/channels`.

use super::caller::Caller;
use super::collect::collect;
use super::connections::{self, Connection};
use super::consumers::{self, Consumer};
use super::fields::Fields;
use super::overview;
use super::rates::{ChannelHistory, ChannelSample, Figure, Spans};
use super::view::{Pages, Row, View};
use super::{Answer, Api, Refusal};
use crate::node::Node;
use crate::vhost::Vhost;
use axum::Router;
use axum::extract::{Path, State};
use axum::routing;
use gatepost_core::command::ChannelMode;
use gatepost_core::engine::ChannelCounts;
use gatepost_core::engine::inspect::{Item, Kind};
use std::collections::HashMap;
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/channels", routing::get(list))
        .route("/api/channels/{name}", routing::get(get))
        .route("/api/vhosts/{vhost}/channels", routing::get(of_vhost))
        .route("/api/connections/{name}/channels", routing::get(of_connection))
}

/// A channel. A protocol without channels is shown with one for each connection, as in RabbitMQ.
struct Channel {
    name: String,
    connection: Arc<Connection>,
    number: u16,
    figures: Figures,
    history: ChannelHistory,
}

#[derive(Clone, Copy, Default)]
struct Figures {
    consumers: usize,
    counts: ChannelCounts,
    unconfirmed: u64,
    unsettled: usize,
    prefetch_each: u32,
    prefetch_all: u32,
    mode: ChannelMode,
}

impl Channel {
    fn new(connection: &Arc<Connection>, number: u16, figures: Figures, history: ChannelHistory) -> Channel {
        let number = connection.shown_channel(number);
        Channel {
            name: format!("{} ({number})", connection.name),
            connection: Arc::clone(connection),
            number,
            figures,
            history,
        }
    }
}

impl Row for Channel {
    fn name(&self) -> &str {
        &self.name
    }

    fn write(&self, fields: &mut Fields<'_>, spans: &Spans) {
        let (of, f) = (&self.connection, &self.figures);
        fields.text("name", &self.name);
        fields.count("number", self.number);
        fields.text("node", &of.node);
        fields.text("vhost", &of.vhost);
        fields.text("user", &of.user);
        fields.text("user_who_performed_action", &of.user);
        fields.text("state", "running");
        fields.object("connection_details", |fields| {
            fields.text("name", &of.name);
            of.write_peer(fields);
        });
        fields.flag("confirm", f.mode == ChannelMode::Confirm);
        fields.flag("transactional", f.mode == ChannelMode::Transactional);
        fields.count("prefetch_count", f.prefetch_each);
        fields.count("global_prefetch_count", f.prefetch_all);
        fields.count("consumer_count", f.consumers);
        let now = ChannelSample::new(&f.counts, f.unsettled as u64);
        let unsettled = |sample: &ChannelSample| sample.of(Figure::Unacknowledged);
        self.history.write(
            fields,
            "messages_unacknowledged",
            unsettled(&now),
            spans.lengths,
            unsettled,
        );
        fields.count("messages_unconfirmed", f.unconfirmed);
        for key in ["messages_uncommitted", "acks_uncommitted", "pending_raft_commands"] {
            fields.count(key, 0u64);
        }
        fields.object("message_stats", |fields| {
            for (key, figure) in overview::MESSAGE_STATS {
                let of = |sample: &ChannelSample| sample.of(figure);
                self.history.write(fields, key, of(&now), spans.messages, of);
            }
            let of = ChannelSample::deliver_get;
            self.history.write(fields, "deliver_get", of(&now), spans.messages, of);
        });
    }
}

/// One as its own path shows it: with its consumers.
struct Whole {
    channel: Channel,
    consumers: Vec<Consumer>,
}

impl Row for Whole {
    fn name(&self) -> &str {
        &self.channel.name
    }

    fn write(&self, fields: &mut Fields<'_>, spans: &Spans) {
        self.channel.write(fields, spans);
        fields.list("consumer_details", &self.consumers, |fields, consumer| {
            consumer.write(fields, spans);
        });
    }
}

async fn in_vhost(caller: &Caller, node: &Node, vhost: &Vhost, spans: &Spans) -> Vec<Channel> {
    let now = node.clock.now().wall.0;
    let connections = connections::in_vhost(node, vhost).await.into_iter().map(Arc::new);
    let shown = connections.filter(|connection| connections::shown(caller, connection));
    let by_link: HashMap<_, _> = shown.map(|connection| (connection.link, connection)).collect();
    let mut bare: HashMap<_, _> = by_link.iter().filter(|(_, of)| !of.has_channels()).collect();
    let mut all = Vec::new();
    for item in collect(vhost, Kind::Channels).await {
        let Item::Channel {
            link,
            number,
            consumers,
            counts,
            unconfirmed,
            unsettled,
            prefetch_each,
            prefetch_all,
            mode,
            ..
        } = item
        else {
            continue;
        };
        let Some(connection) = by_link.get(&link) else { continue };
        bare.remove(&link);
        let figures = Figures {
            consumers,
            counts,
            unconfirmed,
            unsettled,
            prefetch_each,
            prefetch_all,
            mode,
        };
        let sample = ChannelSample::new(&counts, unsettled as u64);
        let history = node.rates.channel(now, vhost.number, (link, number), sample, spans);
        all.push(Channel::new(connection, number, figures, history));
    }
    let bare = bare
        .into_values()
        .map(|connection| Channel::new(connection, 0, Figures::default(), ChannelHistory::default()));
    all.extend(bare);
    all.sort_by(|a, b| (&a.connection.name, a.number).cmp(&(&b.connection.name, b.number)));
    all
}

async fn everywhere(caller: &Caller, node: &Node, spans: &Spans) -> Vec<Channel> {
    let mut all = Vec::new();
    for vhost in caller.vhosts(node) {
        all.extend(in_vhost(caller, node, &vhost, spans).await);
    }
    all
}

async fn list(caller: Caller, view: View, State(node): Api) -> Answer {
    view.list(everywhere(&caller, &node, &view.spans).await, Pages::Known)
}

async fn of_vhost(caller: Caller, view: View, State(node): Api, Path(vhost): Path<String>) -> Answer {
    let vhost = caller.vhost(&node, &vhost)?;
    view.list(in_vhost(&caller, &node, &vhost, &view.spans).await, Pages::Known)
}

async fn of_connection(caller: Caller, view: View, State(node): Api, Path(name): Path<String>) -> Answer {
    let connection = connections::named(&caller, &node, &name).await?;
    let vhost = caller.vhost(&node, &connection.vhost)?;
    let mut all = in_vhost(&caller, &node, &vhost, &view.spans).await;
    all.retain(|channel| channel.connection.name == name);
    view.list(all, Pages::None)
}

async fn get(caller: Caller, view: View, State(node): Api, Path(name): Path<String>) -> Answer {
    let all = everywhere(&caller, &node, &view.spans).await;
    let found = all.into_iter().find(|channel| channel.name == name);
    let channel = found.ok_or_else(Refusal::not_found)?;
    let vhost = caller.vhost(&node, &channel.connection.vhost)?;
    let mut consumers = consumers::in_vhost(&node, &vhost).await;
    consumers.retain(|consumer| consumer.is_of(channel.connection.link, channel.number));
    view.one(&Whole { channel, consumers })
}
