//! `/api/queues`: queues, including those of MQTT sessions and shared subscriptions.

use super::bindings;
use super::caller::Caller;
use super::collect::collect;
use super::connections;
use super::consumers::{self, Consumer};
use super::fields::Fields;
use super::query::Query;
use super::rates::{Figure, QueueHistory, QueueSample, Spans};
use super::view::{Pages, Row, View};
use super::{Answer, Api, Refusal};
use crate::node::Node;
use crate::vhost::Vhost;
use axum::Router;
use axum::extract::{Path, State};
use axum::routing;
use gatepost_core::engine::inspect::{Item, Kind};
use gatepost_core::engine::{Link, QueueCounts};
use gatepost_core::policy::Applied;
use gatepost_core::properties::{Name, Table};
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/queues", routing::get(list))
        .route("/api/queues/{vhost}", routing::get(of_vhost))
        .route("/api/queues/{vhost}/{queue}", routing::get(get))
        .route("/api/queues/{vhost}/{queue}/bindings", routing::get(bindings))
}

/// A queue.
struct Queue {
    vhost: Name,
    node: Arc<str>,
    name: Name,
    is_durable: bool,
    owner: Option<Link>,
    is_auto_delete: bool,
    ready: usize,
    unsettled: usize,
    consumers: usize,
    policy: Option<Arc<Applied>>,
    arguments: Table,
    queue_type: &'static str,
    ready_bytes: u64,
    unsettled_bytes: u64,
    ready_in_memory: usize,
    counts: QueueCounts,
    exclusive_consumer: Option<Name>,
    single_active_consumer: Option<Name>,
    history: QueueHistory,
    detail: Detail,
}

/// How many members of a queue are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Detail {
    Everything,
    /// Its definition, and its message counts.
    Totals,
    /// Its definition.
    Definition,
}

impl Detail {
    /// The parameters with which RabbitMQ's tools ask for cheap lists.
    fn of(query: &Query) -> Detail {
        match (query.is_true("disable_stats"), query.is_true("enable_queue_totals")) {
            (false, _) => Detail::Everything,
            (true, true) => Detail::Totals,
            (true, false) => Detail::Definition,
        }
    }
}

/// Approximate memory of a message without its body.
const MESSAGE_BYTES: u64 = 96;
/// Approximate memory of an empty queue.
const QUEUE_BYTES: u64 = 1024;

impl Queue {
    fn of(node: &Arc<str>, vhost: &Name, item: Item, detail: Detail) -> Option<Queue> {
        let Item::Queue {
            name,
            durable,
            exclusive,
            auto_delete,
            ready,
            unsettled,
            consumers,
            policy,
            arguments,
            queue_type,
            ready_bytes,
            unsettled_bytes,
            ready_in_memory,
            counts,
            exclusive_consumer,
            single_active_consumer,
            ..
        } = item
        else {
            return None;
        };
        Some(Queue {
            vhost: vhost.clone(),
            node: Arc::clone(node),
            name,
            is_durable: durable,
            owner: exclusive,
            is_auto_delete: auto_delete,
            ready,
            unsettled,
            consumers,
            policy,
            arguments,
            queue_type,
            ready_bytes,
            unsettled_bytes,
            ready_in_memory,
            counts,
            exclusive_consumer,
            single_active_consumer,
            history: QueueHistory::default(),
            detail,
        })
    }

    fn sample(&self) -> QueueSample {
        QueueSample::new(&self.counts, self.ready as u64, self.unsettled as u64)
    }

    fn write_definition(&self, fields: &mut Fields<'_>) {
        fields.text("name", &self.name);
        fields.text("vhost", &self.vhost);
        fields.text("type", self.queue_type);
        fields.text("node", &self.node);
        fields.text("state", "running");
        fields.flag("durable", self.is_durable);
        fields.flag("auto_delete", self.is_auto_delete);
        fields.flag("exclusive", self.owner.is_some());
        fields.table("arguments", &self.arguments);
    }

    fn write_policy(&self, fields: &mut Fields<'_>) {
        let policy = self.policy.as_deref();
        fields.optional("policy", policy.and_then(|policy| policy.policy.as_deref()));
        fields.optional("operator_policy", policy.and_then(|policy| policy.operator.as_deref()));
        let none = Table::default();
        let definition = policy.map_or(&none, |policy| &policy.definition.0);
        fields.table("effective_policy_definition", definition);
    }

    fn write_lengths(&self, fields: &mut Fields<'_>, spans: &Spans) {
        let (sample, history) = (self.sample(), &self.history);
        let lengths: [(&str, Of); 3] = [
            ("messages", QueueSample::messages),
            ("messages_ready", |sample| sample.of(Figure::Ready)),
            ("messages_unacknowledged", |sample| sample.of(Figure::Unacknowledged)),
        ];
        for (key, of) in lengths {
            history.write(fields, key, of(&sample), spans.lengths, of);
        }
        let (ready, unsettled) = (self.ready as u64, self.unsettled as u64);
        let in_memory = self.ready_in_memory as u64;
        fields.count("messages_ram", in_memory + unsettled);
        fields.count("messages_ready_ram", in_memory);
        fields.count("messages_unacknowledged_ram", unsettled);
        fields.count("messages_paged_out", ready.saturating_sub(in_memory));
        fields.count(
            "messages_persistent",
            if self.is_durable { ready + unsettled } else { 0 },
        );
        let bytes = self.ready_bytes + self.unsettled_bytes;
        fields.count("message_bytes", bytes);
        fields.count("message_bytes_ready", self.ready_bytes);
        fields.count("message_bytes_unacknowledged", self.unsettled_bytes);
        // How many bodies are in memory, and how many messages of a durable queue are persistent, is not counted per
        // message. These are upper bounds.
        fields.count("message_bytes_ram", bytes);
        fields.count("message_bytes_paged_out", 0u64);
        fields.count("message_bytes_persistent", if self.is_durable { bytes } else { 0 });
        fields.count("memory", QUEUE_BYTES + (in_memory + unsettled) * MESSAGE_BYTES);
    }

    fn write_rates(&self, fields: &mut Fields<'_>, spans: &Spans) {
        let (sample, history) = (self.sample(), &self.history);
        fields.object("message_stats", |fields| {
            for (key, figure) in QUEUE_STATS {
                let of = |sample: &QueueSample| sample.of(figure);
                history.write(fields, key, of(&sample), spans.messages, of);
            }
            let of = QueueSample::deliver_get;
            history.write(fields, "deliver_get", of(&sample), spans.messages, of);
        });
    }
}

/// A function that reads one value of a sample.
type Of = fn(&QueueSample) -> u64;

const QUEUE_STATS: [(&str, Figure); 8] = [
    ("publish", Figure::Publish),
    ("deliver", Figure::Deliver),
    ("deliver_no_ack", Figure::DeliverNoAck),
    ("get", Figure::Get),
    ("get_no_ack", Figure::GetNoAck),
    ("get_empty", Figure::GetEmpty),
    ("ack", Figure::Ack),
    ("redeliver", Figure::Redeliver),
];

impl Row for Queue {
    fn name(&self) -> &str {
        &self.name
    }

    fn write(&self, fields: &mut Fields<'_>, spans: &Spans) {
        self.write_definition(fields);
        match self.detail {
            Detail::Definition => return,
            Detail::Totals => {
                fields.count("messages", self.ready + self.unsettled);
                fields.count("messages_ready", self.ready);
                fields.count("messages_unacknowledged", self.unsettled);
                return;
            }
            Detail::Everything => {}
        }
        self.write_policy(fields);
        self.write_lengths(fields, spans);
        self.write_rates(fields, spans);
        fields.count("consumers", self.consumers);
        // Whether consumers could accept more now: if there are consumers and messages wait, they could not.
        let keeps_up = self.consumers > 0 && self.ready == 0;
        for key in ["consumer_utilisation", "consumer_capacity"] {
            fields.float(key, if keeps_up { 1.0 } else { 0.0 });
        }
        fields.optional("exclusive_consumer_tag", self.exclusive_consumer.as_deref());
        fields.optional("single_active_consumer_tag", self.single_active_consumer.as_deref());
        fields.null("head_message_timestamp");
        fields.null("recoverable_slaves");
        fields.object("garbage_collection", |_| {});
    }
}

/// A queue with its consumers.
struct Whole {
    queue: Queue,
    consumers: Vec<Consumer>,
    owner: Option<connections::Connection>,
}

impl Row for Whole {
    fn name(&self) -> &str {
        self.queue.name()
    }

    fn write(&self, fields: &mut Fields<'_>, spans: &Spans) {
        self.queue.write(fields, spans);
        fields.list("consumer_details", &self.consumers, |fields, consumer| {
            consumer.write(fields, spans);
        });
        if let Some(owner) = &self.owner {
            fields.object("owner_pid_details", |fields| {
                fields.text("name", &owner.name);
                owner.write_peer(fields);
            });
        }
        // There are no statistics per publisher or consumer of a queue: their number is not bounded.
        for key in ["incoming", "deliveries"] {
            fields.list(key, [], |_, ()| {});
        }
    }
}

/// The queues of a vhost, by name.
async fn in_vhost(node: &Node, vhost: &Vhost, query: &Query, spans: &Spans) -> Vec<Queue> {
    let name: Arc<str> = node.config().node.name.as_str().into();
    let detail = Detail::of(query);
    let items = collect(vhost, Kind::Queues).await.into_iter();
    let all = items.filter_map(|item| Queue::of(&name, &vhost.name, item, detail));
    let mut all: Vec<Queue> = all.collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    if detail == Detail::Everything {
        let now = node.clock.now().wall.0;
        for queue in &mut all {
            queue.history = node.rates.queue(now, vhost.number, &queue.name, queue.sample(), spans);
        }
    }
    all
}

async fn list(caller: Caller, view: View, query: Query, State(node): Api) -> Answer {
    let mut all = Vec::new();
    for vhost in caller.vhosts(&node) {
        all.extend(in_vhost(&node, &vhost, &query, &view.spans).await);
    }
    view.list(all, Pages::Known)
}

async fn of_vhost(caller: Caller, view: View, query: Query, State(node): Api, Path(vhost): Path<String>) -> Answer {
    let vhost = caller.vhost(&node, &vhost)?;
    view.list(in_vhost(&node, &vhost, &query, &view.spans).await, Pages::Known)
}

async fn get(
    caller: Caller,
    view: View,
    query: Query,
    State(node): Api,
    Path((vhost, queue)): Path<(String, String)>,
) -> Answer {
    let vhost = caller.vhost(&node, &vhost)?;
    let item = vhost.enter(|engine| engine.inspect_queue(&queue));
    let name: Arc<str> = node.config().node.name.as_str().into();
    let found = item.and_then(|item| Queue::of(&name, &vhost.name, item, Detail::of(&query)));
    let mut queue = found.ok_or_else(Refusal::not_found)?;
    if queue.detail != Detail::Everything {
        return view.one(&queue);
    }
    let now = node.clock.now().wall.0;
    queue.history = node
        .rates
        .queue(now, vhost.number, &queue.name, queue.sample(), &view.spans);
    let mut consumers = Vec::new();
    if queue.consumers > 0 {
        consumers = consumers::in_vhost(&node, &vhost).await;
        consumers.retain(|consumer| consumer.queue == queue.name);
    }
    let mut owner = None;
    if let Some(link) = queue.owner {
        let all = connections::in_vhost(&node, &vhost).await;
        owner = all.into_iter().find(|connection| connection.link == link);
    }
    view.one(&Whole {
        queue,
        consumers,
        owner,
    })
}

/// The list of an unknown queue is empty, as in RabbitMQ: tools that remove a binding look for it first.
async fn bindings(
    caller: Caller,
    view: View,
    State(node): Api,
    Path((vhost, queue)): Path<(String, String)>,
) -> Answer {
    let vhost = caller.vhost(&node, &vhost)?;
    view.list(bindings::to_queue(&vhost, &queue).await, Pages::None)
}
