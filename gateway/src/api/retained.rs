//! Retained messages: `/api/gatepost/retained/{vhost}`. RabbitMQ has no paths for them.
//!
//! They are read and set as an MQTT client would, so the caller's permissions apply, topic permissions included.

use super::body::Body;
use super::caller::Caller;
use super::collect::collect;
use super::errand::{CHANNEL, Errand};
use super::fields::Fields;
use super::messages::{in_json, payload, shown_properties, within_limit};
use super::query::Query;
use super::rates::Spans;
use super::view::{Pages, Row, View};
use super::{Answer, Api, Refusal, answer, done};
use crate::node::Node;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::routing;
use gatepost_core::command::{Command, OpenSession, PublishFlags, RetainHandling, Subscribe, Subscription};
use gatepost_core::engine::inspect::{Item, Kind};
use gatepost_core::event::{DeliveryFlags, Event};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::message::{Dialect, Envelope, Message};
use gatepost_core::properties::{Name, Origin};
use gatepost_core::topic::{Levels, Pattern};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::json;
use std::sync::Arc;

/// For every user of the API, in vhosts that it may use.
pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/gatepost/retained/{vhost}", routing::get(list))
        .route(
            "/api/gatepost/retained/{vhost}/{topic}",
            routing::get(get).put(put).delete(clear),
        )
}

/// Maximum retained messages in an answer, unless the request asks for fewer or for a page.
const RETAINED_MAX: usize = 1000;
/// Maximum bytes of an MQTT topic.
const TOPIC_MAX: usize = 65_535;

struct Retained {
    topic: Name,
    bytes: u32,
}

impl Row for Retained {
    fn name(&self) -> &str {
        &self.topic
    }

    fn write(&self, fields: &mut Fields<'_>, _: &Spans) {
        fields.text("topic", &self.topic);
        fields.count("bytes", self.bytes);
    }
}

/// Lists topics. Parameters: an MQTT `filter`; and `limit`, or pages.
async fn list(caller: Caller, view: View, query: Query, State(node): Api, Path(vhost): Path<String>) -> Answer {
    let vhost = caller.vhost_to_use(&node, &vhost)?;
    let filter = query.get("filter").unwrap_or("#");
    let filter = Pattern::parse(filter, Dialect::Slash).map_err(|_| Refusal::bad_request("filter: no MQTT filter"))?;
    let limit = query.get("limit").map_or(Ok(RETAINED_MAX), str::parse);
    let limit = limit.map_err(|_| Refusal::bad_request("limit: expected a number"))?;
    let items = collect(&vhost, Kind::Retained).await.into_iter();
    let found = items.filter_map(|item| match item {
        Item::Retained { topic, bytes } if filter.matches(&Levels::new(&topic, Dialect::Slash)) => {
            Some(Retained { topic, bytes })
        }
        _ => None,
    });
    let found: Vec<Retained> = found.collect();
    if view.has_page() {
        return view.list(found, Pages::Known);
    }
    let shown = found.iter().take(limit.min(RETAINED_MAX));
    let shown = shown.map(|r| json!({ "topic": &*r.topic, "bytes": r.bytes }));
    answer(&json!({ "total": found.len(), "items": shown.collect::<Vec<_>>() }))
}

/// One message with its body, cut if `truncate` is given.
async fn get(caller: Caller, query: Query, State(node): Api, Path((vhost, topic)): Path<(String, String)>) -> Answer {
    let topic = checked(&topic)?;
    let truncate = query.get("truncate").map_or(Ok(usize::MAX), str::parse);
    let truncate = truncate.map_err(|_| Refusal::bad_request("truncate: expected a number"))?;
    let vhost = caller.vhost_to_use(&node, &vhost)?;
    let mut errand = Errand::of(&caller, &node, &vhost)?;
    let found = retained(&mut errand, topic).await?;
    let message = found.ok_or_else(Refusal::not_found)?;
    let (payload, encoding) = in_json(message.body(), true, truncate);
    answer(&json!({
        "topic": topic,
        "payload": payload,
        "payload_encoding": encoding,
        "payload_bytes": message.body().len(),
        "published_at": message.envelope().received.0,
        "expires_at": message.envelope().deadline.map(|at| at.0),
        "properties": shown_properties(&message, &node.codecs),
    }))
}

/// The retained message of a topic, as a client would get it that subscribes to the topic.
///
/// # Errors
/// The user may not subscribe to the topic; or those of [`Errand::next`].
async fn retained(errand: &mut Errand, topic: &str) -> Result<Option<Message>, Refusal> {
    let open = OpenSession {
        client_id: made_up()?,
        clean_start: true,
        expiry: Some(0),
        receive_maximum: 1,
        will: None,
    };
    errand.ask(Command::OpenSession(Box::new(open))).await?;
    let subscription = Subscription {
        filter: topic.into(),
        share: None,
        qos: 0,
        no_local: true,
        retain_as_published: false,
        retain_handling: RetainHandling::Always,
    };
    errand.send(Command::Subscribe(Box::new(Subscribe {
        packet_id: 1,
        filters: vec![Ok(subscription)],
        subscription_id: None,
    })));
    while let Some(event) = errand.next_of_replay().await? {
        match event {
            Event::Subscribed { results, .. } => {
                if let Some(Err(kind)) = results.first() {
                    return Err(Fault::new(*kind, "the user may not read this topic".to_owned()).into());
                }
            }
            Event::Deliver(delivery) if delivery.flags.contains(DeliveryFlags::RETAIN) => {
                return Ok(Some(delivery.message));
            }
            Event::Failed { fault, .. } => return Err((*fault).into()),
            _ => {}
        }
    }
    Ok(None)
}

/// A random client id: a client with the same id would lose its session.
fn made_up() -> Result<Name, Fault> {
    let mut bytes = [0; 16];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| Fault::new(FaultKind::Internal, "there is no randomness".to_owned()))?;
    Ok(format!("management-api-{:032x}", u128::from_be_bytes(bytes)).into())
}

/// Sets it as a client would, durable.
async fn put(caller: Caller, State(node): Api, Path((vhost, topic)): Path<(String, String)>, body: Bytes) -> Answer {
    let topic = checked(&topic)?;
    let body = Body::parse(&body)?;
    let payload = payload(&body)?;
    if payload.is_empty() {
        let text = "payload: a retained message with an empty body would clear the topic: delete it instead";
        return Err(Refusal::bad_request(text));
    }
    within_limit(&payload, &node)?;
    retain(&caller, &node, &vhost, topic, &payload).await
}

/// Clears it as a client would, with an empty retained message.
async fn clear(caller: Caller, State(node): Api, Path((vhost, topic)): Path<(String, String)>) -> Answer {
    retain(&caller, &node, &vhost, &topic, &[]).await
}

async fn retain(caller: &Caller, node: &Arc<Node>, vhost: &str, topic: &str, payload: &[u8]) -> Answer {
    let vhost = caller.vhost_to_use(node, vhost)?;
    let mut errand = Errand::of(caller, node, &vhost)?;
    let envelope = Envelope {
        origin: Origin::NEUTRAL,
        dialect: Dialect::Slash,
        durable: true,
        qos: 1,
        retain: true,
        received: node.clock.now().wall,
        ..Envelope::default()
    };
    let exchange = node.config().mqtt.exchange.clone();
    errand.send(Command::Publish {
        channel: CHANNEL,
        flags: PublishFlags::CONFIRM,
        packet_id: 0,
        message: Message::new(envelope, &exchange, topic, &[], payload),
    });
    loop {
        match errand.next().await? {
            Event::Refused { why, .. } => return Err(Refusal::bad_request(format!("it is refused: {why:?}"))),
            Event::Failed { fault, .. } => return Err((*fault).into()),
            Event::Confirmed { .. } => return done(),
            _ => {}
        }
    }
}

/// Checks that an MQTT client could publish to the topic.
///
/// # Errors
/// It could not.
fn checked(topic: &str) -> Result<&str, Refusal> {
    let why = if topic.is_empty() || topic.len() > TOPIC_MAX {
        "a topic has from 1 to 65535 bytes"
    } else if topic.contains(['+', '#']) {
        "a topic has no wildcards"
    } else if topic.contains(char::is_control) {
        "a topic has no control characters"
    } else {
        return Ok(topic);
    };
    Err(Refusal::bad_request(format!("topic: {why}")))
}
