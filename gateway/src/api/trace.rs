//! `/api/gatepost/trace`: follows single messages from their publish to their end.
//!
//! A trace belongs to one vhost, whose engine keeps it. Requests are checked here. For monitors, as the flow map: a
//! trace shows clients, queues and routing keys, but never a body.

use super::body::Body;
use super::caller::Caller;
use super::fields::Fields;
use super::flow::called;
use super::messages::{DEFAULT, short};
use super::query::Query;
use super::rates::Spans;
use super::view::{Pages, Row, View};
use super::{Answer, Api, Refusal, done};
use crate::node::Node;
use crate::vhost::Vhost;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::routing::get;
use gatepost_core::engine::flow::Party;
use gatepost_core::engine::trace::{
    Hop, HopKind, Origin, PropertyName, TRACE_LASTS_MAX, TRACED_MESSAGES_MAX, TopicFilter, TraceInfo, TraceRequest,
    TraceState, TracedMessage,
};
use gatepost_core::message::Dialect;
use gatepost_core::properties::Name;
use gatepost_core::topic::LEVELS_MAX;
use std::sync::Arc;
use std::time::Duration;

pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/gatepost/trace", get(list).post(start))
        .route("/api/gatepost/trace/{id}", get(show).delete(delete))
}

/// Defaults of a request.
const MESSAGES: i64 = 100;
const SECONDS: i64 = 600;
/// Maximum bytes of a filter, a property's name and its value.
const TEXT_MAX: usize = 1024;
/// Maximum messages that are copied from an engine in one hold.
const PER_HOLD: usize = 32;

/// A trace and its vhost.
struct Found {
    vhost: Arc<Vhost>,
    info: TraceInfo,
}

impl Row for Found {
    fn name(&self) -> &str {
        ""
    }
    fn write(&self, fields: &mut Fields<'_>, _: &Spans) {
        write_trace(fields, self);
    }
}

async fn start(caller: Caller, view: View, State(node): Api, body: Bytes) -> Answer {
    caller.monitors()?;
    let body = Body::parse(&body)?;
    let request = request(&body)?;
    let vhost = caller.vhost(&node, body.text("vhost")?.unwrap_or("/"))?;
    let now = node.clock.now();
    let (id, infos) = vhost.enter(|engine| engine.start_trace(now, request).map(|id| (id, engine.traces(now))))?;
    let info = infos
        .into_iter()
        .find(|info| info.id == id)
        .ok_or_else(Refusal::not_found)?;
    tracing::info!(vhost = %vhost.name, by = %caller.name(), id = name_of(&vhost, id), "messages are traced");
    let answer = view.object(|fields| write_trace(fields, &Found { vhost, info }))?;
    Ok((StatusCode::CREATED, answer).into_response())
}

/// Parses the request for a trace.
fn request(body: &Body) -> Result<TraceRequest, Refusal> {
    let bounded = |key: &str| match body.text(key)? {
        Some(text) if text.len() > TEXT_MAX => {
            Err(Refusal::bad_request(format!("{key}: longer than {TEXT_MAX} bytes")))
        }
        text => Ok(text),
    };
    let exchange = body
        .text("exchange")?
        .map(|name| if name == DEFAULT { "" } else { name });
    if let Some(exchange) = exchange {
        short("exchange", exchange)?;
    }
    let topic = match (bounded("topic")?, bounded("routing_key")?) {
        (Some(_), Some(_)) => return Err(Refusal::bad_request("topic, routing_key: give one of the two")),
        (Some(topic), None) => Some(("topic", topic, Dialect::Slash)),
        (None, Some(key)) => Some(("routing_key", key, Dialect::Dot)),
        (None, None) => None,
    };
    let topic = topic
        .map(|(key, text, dialect)| filter(key, text, dialect))
        .transpose()?;
    let property = match (bounded("property")?, bounded("value")?) {
        (Some(property), Some(value)) => {
            let known =
                PropertyName::parse(property).ok_or_else(|| Refusal::bad_request(format!("property: {KNOWN}")))?;
            Some((known, value.into()))
        }
        (Some(_), None) => return Err(Refusal::bad_request("key_missing: value")),
        (None, Some(_)) => return Err(Refusal::bad_request("key_missing: property")),
        (None, None) => None,
    };
    if exchange.is_none() && topic.is_none() && property.is_none() {
        return Err(Refusal::bad_request(
            "say what to trace: topic, routing_key, exchange or property",
        ));
    }
    let within = |key: &str, usual: i64, max: i64| {
        let number = body.number(key)?.unwrap_or(usual);
        if (1..=max).contains(&number) {
            Ok(number.unsigned_abs())
        } else {
            Err(Refusal::bad_request(format!("{key}: expected 1 to {max}")))
        }
    };
    Ok(TraceRequest {
        exchange: exchange.map(Name::from),
        topic,
        property,
        messages: within("messages", MESSAGES, TRACED_MESSAGES_MAX as i64)? as usize,
        lasts: Duration::from_secs(within("seconds", SECONDS, TRACE_LASTS_MAX.as_secs() as i64)?),
    })
}

const KNOWN: &str = "expected message-id, correlation-id, content-type, reply-to, type, app-id, user-id or header:NAME";

fn filter(key: &str, text: &str, dialect: Dialect) -> Result<TopicFilter, Refusal> {
    let wrong = || Refusal::bad_request(format!("{key}: '{text}' is no topic filter"));
    let filter = TopicFilter::parse(text, dialect).map_err(|_| wrong())?;
    let levels = text.split(if dialect == Dialect::Slash { '/' } else { '.' }).count();
    if levels > LEVELS_MAX { Err(wrong()) } else { Ok(filter) }
}

/// The id of a trace: its vhost's number, and its own number there.
fn name_of(vhost: &Vhost, id: u64) -> String {
    format!("{}-{id:x}", vhost.number.0)
}

/// The trace with that id.
fn find(caller: &Caller, node: &Node, name: &str) -> Result<Found, Refusal> {
    caller.monitors()?;
    let parts = name.split_once('-').and_then(|(number, id)| {
        let id = u64::from_str_radix(id, 16).ok()?;
        Some((number.parse::<u32>().ok()?, id))
    });
    let (number, id) = parts.ok_or_else(Refusal::not_found)?;
    let vhosts = caller.vhosts(node);
    let vhost = vhosts
        .into_iter()
        .find(|vhost| u64::from(vhost.number.0) == u64::from(number));
    let vhost = vhost.ok_or_else(Refusal::not_found)?;
    let now = node.clock.now();
    let infos = vhost.enter(|engine| engine.traces(now));
    let info = infos
        .into_iter()
        .find(|info| info.id == id)
        .ok_or_else(Refusal::not_found)?;
    Ok(Found { vhost, info })
}

async fn list(caller: Caller, query: Query, State(node): Api) -> Answer {
    caller.monitors()?;
    let vhosts = match query.get("vhost") {
        Some(name) => vec![caller.vhost(&node, name)?],
        None => caller.vhosts(&node),
    };
    let view = View::of(&query)?;
    let now = node.clock.now();
    let mut found = Vec::new();
    for vhost in vhosts {
        let infos = vhost.enter(|engine| engine.traces(now)).into_iter();
        found.extend(infos.map(|info| Found {
            vhost: Arc::clone(&vhost),
            info,
        }));
        tokio::task::yield_now().await;
    }
    view.list(found, Pages::None)
}

/// Parameters `from` and `count`: which of its messages.
async fn show(caller: Caller, query: Query, State(node): Api, Path(name): Path<String>) -> Answer {
    let found = find(&caller, &node, &name)?;
    let view = View::of(&query)?;
    let number = |key: &str, usual: usize| {
        let wrong = |_| Refusal::bad_request(format!("{key}: expected a number"));
        query.get(key).map_or(Ok(usual), |text| text.parse().map_err(wrong))
    };
    let (from, count) = (number("from", 0)?, number("count", MESSAGES as usize)?);
    let mut messages: Vec<TracedMessage> = Vec::new();
    while messages.len() < count {
        let next = from.saturating_add(messages.len());
        let more = PER_HOLD.min(count - messages.len());
        let page = found.vhost.enter(|engine| engine.traced(found.info.id, next, more));
        if page.is_empty() {
            break;
        }
        messages.extend(page);
        tokio::task::yield_now().await;
    }
    view.object(|fields| {
        write_trace(fields, &found);
        fields.list("messages", &messages, write_message);
    })
}

async fn delete(caller: Caller, State(node): Api, Path(name): Path<String>) -> Answer {
    let Found { vhost, info } = find(&caller, &node, &name)?;
    if !vhost.enter(|engine| engine.remove_trace(info.id)) {
        return Err(Refusal::not_found());
    }
    done()
}

fn write_trace(fields: &mut Fields<'_>, Found { vhost, info }: &Found) {
    let request = &info.request;
    fields.text("id", &name_of(vhost, info.id));
    fields.text("vhost", &vhost.name);
    fields.optional("exchange", request.exchange.as_deref());
    let topic = |dialect| request.topic.as_ref().filter(|topic| topic.dialect() == dialect);
    fields.optional("topic", topic(Dialect::Slash).map(|topic| &*topic.text));
    fields.optional("routing_key", topic(Dialect::Dot).map(|topic| &*topic.text));
    fields.optional(
        "property",
        request.property.as_ref().map(|(name, _)| name.text()).as_deref(),
    );
    fields.optional("value", request.property.as_ref().map(|(_, value)| &**value));
    fields.text(
        "state",
        match info.state {
            TraceState::Catching => "catching",
            TraceState::Following => "following",
            TraceState::Ended => "ended",
        },
    );
    fields.count("messages_max", request.messages);
    fields.count("began", info.began.0);
    fields.count("until", info.until.0);
    fields.count("caught", info.caught);
    fields.count("missed", info.missed);
}

fn write_message(fields: &mut Fields<'_>, message: &TracedMessage) {
    fields.count("number", message.number);
    fields.count("at", message.at.wall.0);
    fields.object("publisher", |fields| match &message.origin {
        Origin::Client(party) => write_party(fields, "client", party),
        Origin::Will(client) => {
            fields.text("kind", "will");
            fields.text("name", client);
        }
        Origin::DeadLetter(queue) => {
            fields.text("kind", "dead_letter");
            fields.text("name", queue);
        }
        Origin::Gateway => {
            fields.text("kind", "gateway");
            fields.text("name", "");
        }
    });
    fields.text("exchange", &message.exchange);
    fields.text("routing_key", &message.key);
    fields.count("bytes", message.bytes);
    fields.count("qos", message.qos);
    fields.flag("durable", message.durable);
    fields.flag("retain", message.retain);
    fields.list("hops", &message.hops, |fields, hop| write_hop(fields, message, hop));
    fields.count("hops_left_out", message.left_out);
}

/// Unknown parts of a hop are left out.
fn write_hop(fields: &mut Fields<'_>, message: &TracedMessage, hop: &Hop) {
    let after = hop.at - message.at.monotonic;
    fields.count("at", (message.at.wall + after).0);
    fields.count("after_ms", after.as_millis());
    fields.text("hop", hop.kind.word());
    if let Some(queue) = &hop.queue {
        fields.text("queue", queue);
    }
    if let Some(number) = hop.number {
        let key = match hop.kind {
            HopKind::Routed => "queues",
            HopKind::Queued => "ahead",
            _ => "packet_id",
        };
        fields.count(key, number);
    }
    if let Some(party) = &hop.party {
        fields.object("client", |fields| write_party(fields, "client", party));
    }
    if let Some(tag) = hop.consumer.as_deref().filter(|tag| !tag.is_empty()) {
        fields.text("consumer_tag", tag);
    }
    if let Some(source) = &hop.source {
        fields.text("source", source);
    }
    if let Some((exchange, key)) = &hop.to {
        fields.text("exchange", exchange);
        fields.text("routing_key", key);
    }
    if matches!(hop.kind, HopKind::Delivered | HopKind::Fetched | HopKind::SentAgain) {
        fields.flag("redelivered", hop.redelivered);
        fields.flag("ack_required", !hop.no_ack);
    }
    if let Some(reason) = &hop.reason {
        fields.text("reason", reason);
    }
}

fn write_party(fields: &mut Fields<'_>, kind: &str, party: &Party) {
    fields.text("kind", kind);
    fields.text("name", &called(party));
    fields.text("protocol", party.protocol);
    fields.text("user", &party.user);
    fields.optional(
        "address",
        party.peer.address.map(|address| address.to_string()).as_deref(),
    );
}
