//! What a trace asks for, and what it finds: see `trace.rs`.

use super::flowed::Party;
use crate::message::{Dialect, Message};
use crate::properties::{Codecs, Name, Properties, ReplyTo, Value};
use crate::time::{Now, Time, Wall};
use crate::topic::{InvalidFilter, Levels, Pattern};
use std::time::Duration;

/// Which messages a trace is of. What is `None` is not asked for.
#[derive(Clone, Debug)]
pub struct TraceRequest {
    /// Published to that exchange; empty: the default one.
    pub exchange: Option<Name>,
    /// With a routing key that this matches.
    pub topic: Option<TopicFilter>,
    /// With that property or header.
    pub property: Option<(PropertyName, Name)>,
    /// It catches so many messages.
    pub messages: usize,
    /// It catches and follows messages for so long.
    pub lasts: Duration,
}

/// A filter of routing keys, whatever dialect they are in.
#[derive(Clone, Debug)]
pub struct TopicFilter {
    /// As it was asked for.
    pub text: Name,
    dialect: Dialect,
    pattern: Pattern,
}

impl TopicFilter {
    /// Reads a filter in MQTT's spelling (`plant/+/temp`) or AMQP's (`plant.*.temp`).
    ///
    /// # Errors
    /// It is none, in the slash dialect.
    pub fn parse(text: &str, dialect: Dialect) -> Result<TopicFilter, InvalidFilter> {
        Ok(TopicFilter {
            text: text.into(),
            dialect,
            pattern: Pattern::parse(text, dialect)?,
        })
    }

    /// How it is spelled.
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
    /// The queue, topic or routing key that an answer goes to.
    ReplyTo,
    /// The application's message type.
    Type,
    /// The application's id.
    AppId,
    /// The sender, as it is written in the message.
    UserId,
    /// A header or user property.
    Header(Name),
}

impl PropertyName {
    /// `message-id` and its like, or `header:NAME`.
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

    /// As [`PropertyName::parse`] reads it.
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

    /// Whether the message may have it with that value, as far as that can be told without decoding its properties.
    pub(crate) fn may_be(&self, value: &str, message: &Message, codecs: &Codecs) -> bool {
        let raw = message.properties_raw();
        if raw.is_empty() {
            return false;
        }
        let text = match self {
            PropertyName::Header(name) => name,
            // It is put together from parts, and may be spelled otherwise.
            PropertyName::ReplyTo => return true,
            _ => value,
        };
        codecs.may_mention(message.envelope().origin, raw, text)
    }

    /// Whether the message has it with that value.
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

/// Whether the value reads as that text.
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
    /// Whether it asks for the message. What costs most is looked at last.
    pub(crate) fn matches(&self, message: &Message, levels: &Levels<'_>, codecs: &Codecs) -> bool {
        self.asks_for_address(message, levels)
            && self
                .property
                .as_ref()
                .is_none_or(|(name, value)| name.is(value, &message.properties(codecs)))
    }

    /// Whether it asks for messages with that one's exchange and key, or some of them.
    pub(crate) fn asks_for_address(&self, message: &Message, levels: &Levels<'_>) -> bool {
        let exchange = self.exchange.as_deref();
        exchange.is_none_or(|exchange| exchange.as_bytes() == message.exchange_bytes())
            && self.topic.as_ref().is_none_or(|topic| topic.matches(levels))
    }
}

/// Where a trace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceState {
    /// It catches messages, and follows those it has.
    Catching,
    /// It has as many messages as it was to catch, and follows them.
    Following,
    /// It is over: nothing is added.
    Ended,
}

/// A trace, without its messages.
#[derive(Clone, Debug)]
pub struct TraceInfo {
    /// Its number at this engine.
    pub id: u64,
    /// What it was asked for.
    pub request: TraceRequest,
    /// Where it is.
    pub state: TraceState,
    /// When it began.
    pub began: Wall,
    /// When its time is over.
    pub until: Wall,
    /// Messages it has caught.
    pub caught: usize,
    /// Messages it asked for and had no memory for.
    pub missed: u64,
}

/// Who has published a message.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A client.
    Client(Party),
    /// The gateway: the will of the client of that name.
    Will(Name),
    /// The gateway: it died in that queue.
    DeadLetter(Name),
    /// The gateway itself.
    Gateway,
}

/// A message that a trace has caught. Nothing of its body is kept.
#[derive(Clone, Debug)]
pub struct TracedMessage {
    /// Its number in the trace, from 0.
    pub number: usize,
    /// When it was published.
    pub at: Now,
    /// By whom.
    pub origin: Origin,
    /// To which exchange; empty: the default one.
    pub exchange: Name,
    /// With which routing key, as its publisher spells it.
    pub key: Name,
    /// The key's dialect.
    pub dialect: Dialect,
    /// Bytes of its body.
    pub bytes: usize,
    /// Quality of service it was published with.
    pub qos: u8,
    /// It was to be stored.
    pub durable: bool,
    /// It was to be retained.
    pub retain: bool,
    /// What has happened to it, in order.
    pub hops: Vec<Hop>,
    /// Further hops that there was no room for.
    pub left_out: u64,
}

/// What has happened to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopKind {
    /// It was published.
    Published,
    /// It was refused; see [`Hop::reason`].
    Refused,
    /// It was routed to so many queues: [`Hop::number`].
    Routed,
    /// No queue is to have it.
    Unroutable,
    /// A queue has it, under this number.
    Queued,
    /// A queue was to have it and did not take it.
    NotQueued,
    /// It is its topic's retained message.
    Retained,
    /// It is its topic's retained message no longer: another took its place, or its time was over.
    NotRetained,
    /// The log has written it.
    Written,
    /// The log keeps it as safely as its queues want.
    Stored,
    /// It was never written: all its consumers had it before.
    NotStored,
    /// Its publisher is told that it is through.
    Confirmed,
    /// A consumer was given it, under this number.
    Delivered,
    /// A client has fetched it, under this number.
    Fetched,
    /// A session's client was sent it again, or only its release, under this packet id.
    SentAgain,
    /// A session's client has it (MQTT's PUBREC). Its acknowledgement follows.
    Received,
    /// Its publisher knows that it is here, and forgets its packet id (MQTT's PUBREL).
    Released,
    /// A consumer has acknowledged it.
    Acknowledged,
    /// It came back to its queue.
    Requeued,
    /// A consumer has rejected it.
    Rejected,
    /// Its time was over.
    Expired,
    /// Its queue has dropped it.
    Dropped,
    /// It went on to another exchange.
    DeadLettered,
    /// Its queue was purged.
    Purged,
    /// Its queue was deleted.
    QueueDeleted,
}

impl HopKind {
    /// As it is shown.
    pub fn word(self) -> &'static str {
        match self {
            HopKind::Published => "published",
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

/// One step of a message.
#[derive(Clone, Debug)]
pub struct Hop {
    /// When.
    pub at: Time,
    /// What.
    pub kind: HopKind,
    /// In which queue.
    pub queue: Option<Name>,
    /// Who did it, or was given the message.
    pub party: Option<Box<Party>>,
    /// The consumer's tag.
    pub consumer: Option<Name>,
    /// Exchange and routing key that it went on to.
    pub to: Option<(Name, Name)>,
    /// Why.
    pub reason: Option<Name>,
    /// See the kinds.
    pub number: Option<u64>,
    /// It was handed out before.
    pub redelivered: bool,
    /// It is not to be acknowledged.
    pub no_ack: bool,
}

impl Hop {
    /// A hop of that kind, of which no more is known.
    pub(crate) fn new(kind: HopKind) -> Hop {
        Hop {
            at: Time::default(),
            kind,
            queue: None,
            party: None,
            consumer: None,
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
