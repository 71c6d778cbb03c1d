//! Publishing and fetching single messages, for trying things out.

use super::body::Body;
use super::caller::Caller;
use super::errand::{CHANNEL, Errand};
use super::{Answer, Api, Refusal, answer, door, table};
use crate::accountant;
use crate::node::Node;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::routing;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gatepost_core::command::{Command, Get, Outcome, PublishFlags};
use gatepost_core::event::{Delivery, DeliveryFlags, Event};
use gatepost_core::message::{Dialect, EXCHANGE_NAME_MAX, Envelope, Message};
use gatepost_core::properties::{Codecs, Name, Origin, Properties, ReplyTo, Value as CoreValue, neutral};
use gatepost_core::topic;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Routes for every user of the API, within its permissions.
pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/exchanges/{vhost}/{exchange}/publish", routing::post(publish))
        .route("/api/queues/{vhost}/{queue}/get", routing::post(get))
}

/// Maximum messages that one request fetches, and the bytes after which it fetches no more. If there is little memory for
/// answers, they are fewer, because JSON takes some times as much.
const FETCHED_MAX: i64 = 1_000;
const FETCHED_BYTES_MAX: usize = 32 << 20;
/// For the values, which may be in base64, and the text.
const TIMES_IN_MEMORY: usize = 3;
/// Maximum expiration of a message: ten years, as for AMQP clients.
const EXPIRATION_MS_MAX: u64 = 315_360_000_000;

/// The default exchange's name in paths.
pub(super) const DEFAULT: &str = "amq.default";

async fn publish(
    caller: Caller,
    State(node): Api,
    Path((vhost, exchange)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let body = Body::parse(&body)?;
    body.needs(&["properties", "routing_key", "payload", "payload_encoding"])?;
    let key = body.required("routing_key")?;
    let payload = payload(&body)?;
    let members = body.members("properties")?.unwrap_or_default();
    within_limit(&payload, &node)?;
    let exchange = if exchange == DEFAULT { "" } else { &exchange };
    short("exchange", exchange)?;
    short("routing_key", key)?;
    let (mut envelope, mut properties) = properties(&members, &caller, &node)?;
    // Consumers see CC, but not BCC.
    let shown = further_keys(&properties, CC)?;
    let hidden = further_keys(&properties, BCC)?;
    properties.headers.0.retain(|(name, _)| **name != *BCC);
    envelope.extra_keys = !shown.is_empty() || !hidden.is_empty();
    let vhost = caller.vhost_to_use(&node, &vhost)?;
    let mut errand = Errand::of(&caller, &node, &vhost)?;
    errand.send(Command::Publish {
        channel: CHANNEL,
        flags: PublishFlags::CONFIRM | PublishFlags::MANDATORY,
        packet_id: 0,
        message: Message::new(envelope, exchange, key, &neutral(&properties, hidden), &payload),
    });
    let mut routed = true;
    loop {
        match errand.next().await? {
            Event::Returned { .. } => routed = false,
            Event::Refused { why, .. } => return Err(Refusal::bad_request(format!("the message is refused: {why:?}"))),
            Event::Failed { fault, .. } => return Err((*fault).into()),
            Event::Confirmed { .. } => return answer(&json!({ "routed": routed })),
            _ => {}
        }
    }
}

/// Checks a message's size against the limit.
pub(super) fn within_limit(payload: &[u8], node: &Node) -> Result<(), Refusal> {
    let (size, max) = (payload.len(), accountant::message_bytes_max(&node.config()));
    if size as u64 > max {
        let text = format!("message size {size} is larger than configured max size {max}");
        return Err(Refusal::bad_request(text));
    }
    Ok(())
}

/// Checks that `text` can be sent to AMQP consumers: names, routing keys and properties are short strings there (AMQP
/// 0-9-1 4.2.5.3).
pub(super) fn short(field: &str, text: &str) -> Result<(), Refusal> {
    if text.len() > EXCHANGE_NAME_MAX {
        return Err(Refusal::bad_request(format!(
            "{field}: at most {EXCHANGE_NAME_MAX} bytes"
        )));
    }
    Ok(())
}

/// Headers with further routing keys.
const CC: &str = "CC";
const BCC: &str = "BCC";

/// The keys in a header of a message.
fn further_keys(properties: &Properties, header: &str) -> Result<Vec<Name>, Refusal> {
    let keys = match properties.headers.lookup(header) {
        None => return Ok(Vec::new()),
        Some(CoreValue::Array(keys)) => keys,
        Some(_) => {
            return Err(Refusal::bad_request(format!(
                "invalid message: the header {header} is a list of routing keys"
            )));
        }
    };
    let keys: Vec<Name> = keys.iter().filter_map(|key| key.as_str().map(Name::from)).collect();
    keys.iter().try_for_each(|key| short(header, key))?;
    Ok(keys)
}

/// The body of a message to publish.
pub(super) fn payload(body: &Body) -> Result<Vec<u8>, Refusal> {
    let payload = body.required("payload")?;
    match body.required("payload_encoding")? {
        "string" => Ok(payload.as_bytes().to_vec()),
        "base64" => STANDARD
            .decode(payload)
            .map_err(|error| Refusal::bad_request(format!("payload: no base64: {error}"))),
        other => Err(Refusal::bad_request(format!("unsupported_encoding: {other}"))),
    }
}

/// A message's properties, named as in AMQP. Unknown ones are ignored.
fn properties(members: &Map<String, Value>, caller: &Caller, node: &Node) -> Result<(Envelope, Properties), Refusal> {
    let members = Body::of(members.clone());
    let short_text = |key: &str| {
        let text = members.text(key)?;
        text.map_or(Ok(()), |text| short(key, text))?;
        Ok::<_, Refusal>(text)
    };
    let text = |key: &str| Ok::<_, Refusal>(short_text(key)?.map(Into::into));
    let within = |key: &str, max: i64| {
        let number = members.number(key)?;
        match number {
            Some(n) if !(0..=max).contains(&n) => Err(Refusal::bad_request(format!("{key}: from 0 to {max}"))),
            number => Ok(number),
        }
    };
    let mut properties = Properties {
        content_type: text("content_type")?,
        content_encoding: text("content_encoding")?,
        correlation: short_text("correlation_id")?.map(|id| id.as_bytes().into()),
        reply_to: text("reply_to")?.map(ReplyTo::Queue),
        priority: within("priority", 255)?.and_then(|n| u8::try_from(n).ok()),
        message_id: text("message_id")?,
        timestamp: within("timestamp", i64::MAX)?.map(i64::unsigned_abs),
        kind: text("type")?,
        app_id: text("app_id")?,
        user_id: text("user_id")?,
        expiration_ms: within("expiration", EXPIRATION_MS_MAX as i64)?.map(i64::unsigned_abs),
        ..Properties::default()
    };
    if let Some(user) = &properties.user_id
        && !caller.is_operator()
        && user != caller.name()
    {
        let name = caller.name();
        let text = format!("user_id property set to '{user}' but authenticated user was '{name}'");
        return Err(Refusal::bad_request(text));
    }
    if let Some(headers) = members.members("headers")? {
        properties.headers = table::table(&headers).map_err(Refusal::bad_request)?;
    }
    let delivery_mode = within("delivery_mode", 2)?;
    let durable = delivery_mode == Some(2);
    properties.said_transient = delivery_mode == Some(1);
    let now = node.clock.now().wall;
    let envelope = Envelope {
        origin: Origin::NEUTRAL,
        dialect: Dialect::Dot,
        durable,
        qos: u8::from(durable),
        priority: properties.priority,
        deadline: properties.expiration_ms.map(|ms| now + Duration::from_millis(ms)),
        received: now,
        ..Envelope::default()
    };
    Ok((envelope, properties))
}

/// How fetched messages are settled.
fn outcome(mode: &str) -> Result<Outcome, Refusal> {
    match mode {
        "ack_requeue_true" | "reject_requeue_true" => Ok(Outcome::Requeue),
        "ack_requeue_false" => Ok(Outcome::Accept),
        "reject_requeue_false" => Ok(Outcome::Reject),
        other => Err(Refusal::bad_request(format!("unknown ackmode '{other}'"))),
    }
}

async fn get(caller: Caller, State(node): Api, Path((vhost, queue)): Path<(String, String)>, body: Bytes) -> Answer {
    let body = Body::parse(&body)?;
    body.needs(&["count", "ackmode", "encoding"])?;
    let outcome = outcome(body.required("ackmode")?)?;
    let count = body.number("count")?.unwrap_or_default();
    let as_text = match body.required("encoding")? {
        "auto" => true,
        "base64" => false,
        other => return Err(Refusal::bad_request(format!("unsupported_encoding: {other}"))),
    };
    let truncate = body.number("truncate")?;
    let truncate = truncate.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(0));
    let vhost = caller.vhost_to_use(&node, &vhost)?;
    let _turn = node.answers.turn().await.ok_or_else(door::busy)?;
    let bytes_max = FETCHED_BYTES_MAX.min(node.answers.bytes_max() / TIMES_IN_MEMORY);
    let mut errand = Errand::of(&caller, &node, &vhost)?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    for _ in 0..count.min(FETCHED_MAX) {
        let get = Get {
            channel: CHANNEL,
            queue: queue.as_str().into(),
            no_ack: false,
        };
        let Event::Got { delivery, remaining } = errand.ask(Command::Get(Box::new(get))).await? else {
            break;
        };
        bytes += delivery.message.body().len().min(truncate);
        found.push(shape(&delivery, remaining, as_text, truncate, &node.codecs));
        if bytes >= bytes_max {
            break;
        }
    }
    if !found.is_empty() {
        // All at once, after the last was fetched: a requeued message would be fetched again.
        errand.send(Command::Settle {
            channel: CHANNEL,
            number: 0,
            multiple: true,
            outcome,
        });
        let token = 1;
        errand
            .ask(Command::Echo {
                channel: CHANNEL,
                token,
            })
            .await?;
    }
    answer(&found.into())
}

fn shape(delivery: &Delivery, remaining: u32, as_text: bool, truncate: usize, codecs: &Codecs) -> Value {
    let message = &delivery.message;
    let body = message.body();
    let (payload, encoding) = in_json(body, as_text, truncate);
    let key = topic::translate(message.key(), message.envelope().dialect, Dialect::Dot);
    json!({
        "payload_bytes": body.len(),
        "redelivered": delivery.flags.contains(DeliveryFlags::REDELIVERED),
        "exchange": message.exchange(),
        "routing_key": key.as_deref().unwrap_or(message.key()),
        "message_count": remaining,
        "properties": shown_properties(message, codecs),
        "payload": payload,
        "payload_encoding": encoding,
    })
}

/// A body and its encoding: text, if it is text and `as_text`.
pub(super) fn in_json(body: &[u8], as_text: bool, truncate: usize) -> (String, &'static str) {
    let shown = body.get(..truncate).unwrap_or(body);
    match std::str::from_utf8(shown) {
        Ok(text) if as_text => (text.to_owned(), "string"),
        _ => (STANDARD.encode(shown), "base64"),
    }
}

pub(super) fn shown_properties(message: &Message, codecs: &Codecs) -> Value {
    let p = message.properties(codecs);
    let text = |name: &Option<gatepost_core::properties::Name>| name.as_ref().map(|name| Value::from(&**name));
    let reply_to = p.reply_to.as_ref().map(|to| match to {
        ReplyTo::Queue(name) | ReplyTo::Topic(name) => Value::from(&**name),
        ReplyTo::Exchange(exchange, key) => Value::from(format!("{exchange}/{key}")),
    });
    let correlation = p.correlation.as_ref().map(|id| String::from_utf8_lossy(id).into());
    let delivery_mode = if message.envelope().durable {
        Some(2)
    } else {
        p.said_transient.then_some(1)
    };
    let all = [
        ("content_type", text(&p.content_type)),
        ("content_encoding", text(&p.content_encoding)),
        ("correlation_id", correlation),
        ("reply_to", reply_to),
        ("priority", p.priority.map(Value::from)),
        ("message_id", text(&p.message_id)),
        ("timestamp", p.timestamp.map(Value::from)),
        ("type", text(&p.kind)),
        ("app_id", text(&p.app_id)),
        ("user_id", text(&p.user_id)),
        ("expiration", p.expiration_ms.map(|ms| ms.to_string().into())),
        // Absent where the sender said nothing, which AMQP takes for 1.
        ("delivery_mode", delivery_mode.map(Value::from)),
        ("headers", (!p.headers.is_empty()).then(|| table::json(&p.headers))),
    ];
    let set = all
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(set.collect())
}
