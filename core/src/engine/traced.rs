//! The request of a trace, and what it has found: see `trace.rs`.

use super::flowed::Party;
use crate::message::{Dialect, Message};
use crate::properties::{Codecs, Name, Properties, ReplyTo, Value};
use crate::time::{Now, Time, Wall};
use crate::topic::{InvalidFilter, Levels, Pattern};
use std::time::Duration;

/// Which messages to trace. `None`: any.
#[derive(Clone, Debug)]
pub struct TraceRequest {
    /// Published to this exchange; empty: the default one.
    pub exchange: Option<Name>,
    /// With a routing key that matches this.
    pub topic: Option<TopicFilter>,
    /// With this value of a property or header.
    pub property: Option<(PropertyName, Name)>,
    /// The number of messages to catch.
    pub messages: usize,
    /// How long messages are caught and followed.
    pub lasts: Duration,
}

/// A filter of routing keys in any dialect.
#[derive(Clone, Debug)]
pub struct TopicFilter {
    /// The text in the request.
    pub text: Name,
    dialect: Dialect,
    pattern: Pattern,
}

impl TopicFilter {
    /// Parses a filter in MQTT's spelling (`plant/+/temp`) or AMQP's (`plant.*.temp`).
    ///
    /// # Errors
    /// The text is no filter; in the slash dialect only.
    pub fn parse(text: &str, dialect: Dialect) -> Result<TopicFilter, InvalidFilter> {
        Ok(TopicFilter {
            text: text.into(),
            dialect,
            pattern: Pattern::parse(text, dialect)?,
        })
    }

    /// The dialect of its text.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    fn matches(&self, levels: &Levels<'_>) -> bool {
        self.pattern.matches(levels)
    }
}

/// A property or header by which messages are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PropertyName {
    /// The application's message id.
    MessageId,
    /// MQTT's correlation data.
    CorrelationId,
    /// MIME type of the body.
    ContentType,
    /// The queue, topic or routing key for an answer.
    ReplyTo,
    /// The application's message type.
    Type,
    /// The application's id.
    AppId,
    /// The sender, as the message names it.
    UserId,
    /// A header or user property.
    Header(Name),
}

impl PropertyName {
    /// Parses `message-id` and the like, or `header:NAME`.
    pub fn parse(text: &str) -> Option<PropertyName> {
        Some(match text {
            "message-id" => PropertyName::MessageId,
            "correlation-id" => PropertyName::CorrelationId,
            "content-type" => PropertyName::ContentType,
            "reply-to" => PropertyName::ReplyTo,
            "type" => PropertyName::Type,
            "app-id" => PropertyName::AppId,
            "user-id" => PropertyName::UserId,
            _ => PropertyName::Header(text.strip_prefix("header:").filter(|name| !name.is_empty())?.into()),
        })
    }

    /// The text that [`PropertyName::parse`] parses.
    pub fn text(&self) -> String {
        match self {
            PropertyName::MessageId => "message-id".to_owned(),
            PropertyName::CorrelationId => "correlation-id".to_owned(),
            PropertyName::ContentType => "content-type".to_owned(),
            PropertyName::ReplyTo => "reply-to".to_owned(),
            PropertyName::Type => "type".to_owned(),
            PropertyName::AppId => "app-id".to_owned(),
            PropertyName::UserId => "user-id".to_owned(),
            PropertyName::Header(name) => format!("header:{name}"),
        }
    }

    /// Whether the message can have this property with that value, as far as it can be told without decoding its
    /// properties.
    pub(crate) fn may_be(&self, value: &str, message: &Message, codecs: &Codecs) -> bool {
        let raw = message.properties_raw();
        if raw.is_empty() {
            return false;
        }
        let text = match self {
            PropertyName::Header(name) => name,
            // The reply address is built from parts, which may be spelled differently.
            PropertyName::ReplyTo => return true,
            _ => value,
        };
        codecs.may_mention(message.envelope().origin, raw, text)
    }

    /// Whether the message has the property with that value.
    fn is(&self, value: &str, properties: &Properties) -> bool {
        let text = |found: &Option<Name>| found.as_deref() == Some(value);
        match self {
            PropertyName::MessageId => text(&properties.message_id),
            PropertyName::CorrelationId => properties.correlation.as_deref() == Some(value.as_bytes()),
            PropertyName::ContentType => text(&properties.content_type),
            PropertyName::ReplyTo => properties.reply_to.as_ref().is_some_and(|to| match to {
                ReplyTo::Queue(name) | ReplyTo::Topic(name) | ReplyTo::Exchange(_, name) => **name == *value,
            }),
            PropertyName::Type => text(&properties.kind),
            PropertyName::AppId => text(&properties.app_id),
            PropertyName::UserId => text(&properties.user_id),
            PropertyName::Header(header) => {
                // Names may repeat.
                let mut headers = properties.headers.0.iter().filter(|(name, _)| name == header);
                headers.any(|(_, found)| reads(found, value))
            }
        }
    }
}

/// Whether the value, as text, equals `text`.
fn reads(found: &Value, text: &str) -> bool {
    match found {
        Value::Text(octets) | Value::Binary(octets) => **octets == *text.as_bytes(),
        Value::Bool(is) => text == if *is { "true" } else { "false" },
        Value::Int(number, _) => text == number.to_string(),
        Value::Uint(number, _) => text == number.to_string(),
        Value::Timestamp(seconds) => text == seconds.to_string(),
        Value::Float(number) => text.parse() == Ok(*number),
        Value::Double(number) => text.parse() == Ok(*number),
        Value::Void | Value::Decimal(..) | Value::Array(_) | Value::Table(_) => false,
    }
}

impl TraceRequest {
    /// Whether it asks for the message. The most expensive test is last.
    pub(crate) fn matches(&self, message: &Message, levels: &Levels<'_>, codecs: &Codecs) -> bool {
        self.asks_for_address(message, levels)
            && self
                .property
                .as_ref()
                .is_none_or(|(name, value)| name.is(value, &message.properties(codecs)))
    }

    /// Whether it asks for any messages with the exchange and key of this one.
    pub(crate) fn asks_for_address(&self, message: &Message, levels: &Levels<'_>) -> bool {
        let exchange = self.exchange.as_deref();
        exchange.is_none_or(|exchange| exchange.as_bytes() == message.exchange_bytes())
            && self.topic.as_ref().is_none_or(|topic| topic.matches(levels))
    }
}

/// The state of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceState {
    /// It catches messages, and follows those caught.
    Catching,
    /// It has as many messages as requested, and follows them.
    Following,
    /// It has ended: nothing is added.
    Ended,
}

/// A trace without its messages.
#[derive(Clone, Debug)]
pub struct TraceInfo {
    /// Its number in this engine.
    pub id: u64,
    /// The request.
    pub request: TraceRequest,
    /// Its state.
    pub state: TraceState,
    /// When it began.
    pub began: Wall,
    /// When it ends at the latest.
    pub until: Wall,
    /// The number of messages caught.
    pub caught: usize,
    /// The number of messages it asked for and had no memory for.
    pub missed: u64,
}

/// The publisher of a message.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A client.
    Client(Party),
    /// The gateway: the will of the client with that name.
    Will(Name),
    /// The gateway: a dead letter from that queue.
    DeadLetter(Name),
    /// The gateway itself.
    Gateway,
}

/// A message that a trace has caught, without its body.
#[derive(Clone, Debug)]
pub struct TracedMessage {
    /// Its number in the trace, from 0.
    pub number: usize,
    /// When it was published.
    pub at: Now,
    /// The publisher.
    pub origin: Origin,
    /// The exchange; empty: the default one.
    pub exchange: Name,
    /// The routing key, as its publisher spelled it.
    pub key: Name,
    /// The key's dialect.
    pub dialect: Dialect,
    /// Bytes of its body.
    pub bytes: usize,
    /// The quality of service that it was published with.
    pub qos: u8,
    /// Whether it is durable.
    pub durable: bool,
    /// Whether it was to be retained.
    pub retain: bool,
    /// What happened to it, in order.
    pub hops: Vec<Hop>,
    /// Further hops that there was no room for.
    pub left_out: u64,
}

/// What happened to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopKind {
    /// It was published.
    Published,
    /// An exchange passed it on to another one: from [`Hop::source`] to [`Hop::to`].
    PassedOn,
    /// It was refused; see [`Hop::reason`].
    Refused,
    /// It was routed. [`Hop::number`]: the number of queues.
    Routed,
    /// It was routed to no queue.
    Unroutable,
    /// A queue took it. [`Hop::number`]: its sequence there.
    Queued,
    /// A queue did not take it.
    NotQueued,
    /// It became its topic's retained message.
    Retained,
    /// It is its topic's retained message no longer: another took its place, or its time was over.
    NotRetained,
    /// The log has written it.
    Written,
    /// It is as durable as its queues need.
    Stored,
    /// It was never written, because all its consumers had settled it before.
    NotStored,
    /// It was confirmed to its publisher.
    Confirmed,
    /// It was delivered to a consumer, with this number.
    Delivered,
    /// A client fetched it, with this number.
    Fetched,
    /// A session's client was sent it again, or only its release, under this packet id.
    SentAgain,
    /// A session's client has it (MQTT's PUBREC). Its acknowledgement follows.
    Received,
    /// Its publisher knows that it is here, and forgets its packet id (MQTT's PUBREL).
    Released,
    /// A consumer has acknowledged it.
    Acknowledged,
    /// It returned to its queue.
    Requeued,
    /// A consumer rejected it.
    Rejected,
    /// It expired.
    Expired,
    /// Its queue dropped it.
    Dropped,
    /// It was published to another exchange.
    DeadLettered,
    /// Its queue was purged.
    Purged,
    /// Its queue was deleted.
    QueueDeleted,
}

impl HopKind {
    /// The word that is shown for it.
    pub fn word(self) -> &'static str {
        match self {
            HopKind::Published => "published",
            HopKind::PassedOn => "passed_on",
            HopKind::Refused => "refused",
            HopKind::Routed => "routed",
            HopKind::Unroutable => "unroutable",
            HopKind::Queued => "queued",
            HopKind::NotQueued => "not_queued",
            HopKind::Retained => "retained",
            HopKind::NotRetained => "not_retained",
            HopKind::Written => "written",
            HopKind::Stored => "stored",
            HopKind::NotStored => "not_stored",
            HopKind::Confirmed => "confirmed",
            HopKind::Delivered => "delivered",
            HopKind::Fetched => "fetched",
            HopKind::SentAgain => "sent_again",
            HopKind::Received => "received",
            HopKind::Released => "released",
            HopKind::Acknowledged => "acknowledged",
            HopKind::Requeued => "requeued",
            HopKind::Rejected => "rejected",
            HopKind::Expired => "expired",
            HopKind::Dropped => "dropped",
            HopKind::DeadLettered => "dead_lettered",
            HopKind::Purged => "purged",
            HopKind::QueueDeleted => "queue_deleted",
        }
    }
}

/// One thing that happened to a message.
#[derive(Clone, Debug)]
pub struct Hop {
    /// When it happened.
    pub at: Time,
    /// What happened.
    pub kind: HopKind,
    /// The queue, if one is involved.
    pub queue: Option<Name>,
    /// Who did it, or got the message.
    pub party: Option<Box<Party>>,
    /// The consumer's tag.
    pub consumer: Option<Name>,
    /// The exchange that passed it on to another one or to the queue. Only known where a message passes several.
    pub source: Option<Name>,
    /// The exchange and routing key that it was published or passed on to next.
    pub to: Option<(Name, Name)>,
    /// The reason.
    pub reason: Option<Name>,
    /// A number whose meaning depends on the kind.
    pub number: Option<u64>,
    /// It was handed out before.
    pub redelivered: bool,
    /// It needs no settle.
    pub no_ack: bool,
}

impl Hop {
    /// A hop of that kind with nothing else known.
    pub(crate) fn new(kind: HopKind) -> Hop {
        Hop {
            at: Time::default(),
            kind,
            queue: None,
            party: None,
            consumer: None,
            source: None,
            to: None,
            reason: None,
            number: None,
            redelivered: false,
            no_ack: false,
        }
    }

    /// The same in a queue.
    pub(crate) fn at_queue(kind: HopKind, queue: &Name) -> Hop {
        Hop {
            queue: Some(Name::clone(queue)),
            ..Hop::new(kind)
        }
    }

    pub(crate) fn because(self, reason: &str) -> Hop {
        Hop {
            reason: Some(reason.into()),
            ..self
        }
    }
}
