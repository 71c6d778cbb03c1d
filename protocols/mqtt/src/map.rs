//! Translates between MQTT and the core: reasons of a refusal, properties of messages.
//!
//! A message of MQTT 5 keeps its PUBLISH properties as they were on the wire, without those that belong to one hop
//! (topic alias, subscription identifiers) or to the envelope (expiry). MQTT 3 messages have none.

use crate::error::Reason;
use crate::frame::{Properties as Block, Property, PropertyBuf, is_plain, topic_name};
use gatepost_core::fault::FaultKind;
use gatepost_core::interop::Field;
use gatepost_core::message::Dialect;
use gatepost_core::properties::{Name, Origin, Properties, PropertyCodec, ReplyTo, Value, mentions};
use gatepost_core::topic::translate;

/// The on-disk code of MQTT 5 properties. It never changes.
pub const ORIGIN: Origin = Origin(2);

/// The decoder of MQTT 5 properties.
#[derive(Clone, Copy, Debug, Default)]
pub struct MqttProperties;

impl PropertyCodec for MqttProperties {
    fn origin(&self) -> Origin {
        ORIGIN
    }
    fn decode(&self, raw: &[u8]) -> Properties {
        neutral(&Block::stored(raw))
    }
    fn may_mention(&self, raw: &[u8], text: &str) -> bool {
        mentions(raw, text.as_bytes())
    }
}

/// The reason code for a refused message, subscription or session.
pub(crate) fn reason(kind: FaultKind) -> Reason {
    match kind {
        FaultKind::AccessRefused => Reason::NOT_AUTHORIZED,
        // A full disk is a quota of the whole node.
        FaultKind::QuotaExceeded | FaultKind::ResourceError => Reason::QUOTA_EXCEEDED,
        FaultKind::Internal => Reason::UNSPECIFIED,
        FaultKind::NotFound
        | FaultKind::ResourceLocked
        | FaultKind::PreconditionFailed
        | FaultKind::NotAllowed
        | FaultKind::NotImplemented => Reason::IMPLEMENTATION_SPECIFIC,
    }
}

/// The reason code for a refused filter. `PreconditionFailed` means that the filter is malformed.
pub(crate) fn filter_reason(kind: FaultKind) -> Reason {
    if kind == FaultKind::PreconditionFailed {
        Reason::FILTER_INVALID
    } else {
        reason(kind)
    }
}

/// The reason code for a refused session, in CONNACK.
pub(crate) fn connect_reason(kind: FaultKind) -> Reason {
    match kind {
        // A missing vhost is answered like a forbidden one, so that names cannot be guessed.
        FaultKind::NotFound | FaultKind::NotAllowed => Reason::NOT_AUTHORIZED,
        FaultKind::ResourceError => Reason::SERVER_UNAVAILABLE,
        kind => reason(kind),
    }
}

/// Prefixes of response topics that stand for reply addresses other than topics.
const QUEUE_PREFIX: &str = "$queue/";
const EXCHANGE_PREFIX: &str = "$exchange/";

/// Names of the user properties that stand for neutral properties which MQTT does not have.
mod user {
    pub(super) const CONTENT_ENCODING: &str = "content-encoding";
    pub(super) const PRIORITY: &str = "priority";
    pub(super) const MESSAGE_ID: &str = "message-id";
    pub(super) const TIMESTAMP: &str = "timestamp";
    pub(super) const TYPE: &str = "type";
    pub(super) const APP_ID: &str = "app-id";
}

/// The neutral view of a PUBLISH's properties.
fn neutral(block: &Block<'_>) -> Properties {
    let mut to = Properties::default();
    for property in block.iter() {
        match property {
            Property::PayloadFormat(utf8) => to.utf8_body = utf8,
            Property::ContentType(text) => to.content_type = Some(text.into()),
            Property::ResponseTopic(topic) => to.reply_to = reply_to(topic),
            Property::CorrelationData(bytes) => to.correlation = Some(bytes.into()),
            Property::User(name, value) => user_property(&mut to, name, value),
            _ => {}
        }
    }
    to
}

/// Reads a user property. The first valid one of each name above sets that property; all others are headers.
fn user_property(to: &mut Properties, name: &str, value: &str) {
    fn once<T>(field: &mut Option<T>, value: Option<T>) -> bool {
        let free = field.is_none() && value.is_some();
        if free {
            *field = value;
        }
        free
    }
    let taken = match name {
        user::CONTENT_ENCODING => once(&mut to.content_encoding, Some(value.into())),
        user::PRIORITY => once(&mut to.priority, value.parse().ok()),
        user::MESSAGE_ID => once(&mut to.message_id, Some(value.into())),
        user::TIMESTAMP => once(&mut to.timestamp, value.parse().ok()),
        user::TYPE => once(&mut to.kind, Some(value.into())),
        user::APP_ID => once(&mut to.app_id, Some(value.into())),
        _ => false,
    };
    if !taken {
        to.headers.push(name, Value::text(value));
    }
}

fn reply_to(topic: &str) -> Option<ReplyTo> {
    if let Some(queue) = topic.strip_prefix(QUEUE_PREFIX) {
        return Some(ReplyTo::Queue(queue.into()));
    }
    if let Some((exchange, key)) = topic
        .strip_prefix(EXCHANGE_PREFIX)
        .and_then(|rest| rest.split_once('/'))
    {
        return Some(ReplyTo::Exchange(exchange.into(), key.into()));
    }
    translate(topic, Dialect::Slash, Dialect::Dot).map(|key| ReplyTo::Topic(key.into()))
}

/// PUBLISH properties for a message of another protocol. What MQTT cannot express (binary values, lists, tables, null
/// characters, texts too long for the wire) is left out and reported to `dropped`. The expiry is added by the caller,
/// from the envelope.
pub(crate) fn publish_properties(from: &Properties, mut dropped: impl FnMut(Field)) -> PropertyBuf {
    let mut block = PropertyBuf::default();
    let mut push = |field: Field, property: Option<Property<'_>>| {
        if property.is_none_or(|property| block.push(property).is_err()) {
            dropped(field);
        }
    };
    if from.utf8_body {
        push(Field::ContentType, Some(Property::PayloadFormat(true)));
    }
    if let Some(text) = from.content_type.as_deref() {
        push(Field::ContentType, expressible(text).map(Property::ContentType));
    }
    if let Some(address) = &from.reply_to {
        let topic = response_topic(address);
        push(Field::ReplyTo, topic.as_deref().map(Property::ResponseTopic));
    }
    if let Some(bytes) = &from.correlation {
        push(Field::Correlation, Some(Property::CorrelationData(bytes)));
    }
    let mut user = |field: Field, name: &str, value: Option<&str>| {
        if let Some(value) = value {
            push(field, expressible(value).map(|value| Property::User(name, value)));
        }
    };
    user(
        Field::ContentEncoding,
        user::CONTENT_ENCODING,
        from.content_encoding.as_deref(),
    );
    // Numbers always have a text form.
    let number = from.priority.map(|p| p.to_string());
    user(Field::Header, user::PRIORITY, number.as_deref());
    user(Field::MessageId, user::MESSAGE_ID, from.message_id.as_deref());
    let number = from.timestamp.map(|t| t.to_string());
    user(Field::Header, user::TIMESTAMP, number.as_deref());
    user(Field::Type, user::TYPE, from.kind.as_deref());
    user(Field::AppId, user::APP_ID, from.app_id.as_deref());
    for (name, value) in &from.headers.0 {
        let value = text(value);
        let pair = expressible(name).zip(value.as_deref().and_then(expressible));
        push(Field::Header, pair.map(|(name, value)| Property::User(name, value)));
    }
    if from.user_id.is_some() {
        // Devices must not learn the names of the backend's users.
        push(Field::UserId, None);
    }
    block
}

/// The text, if an MQTT string can contain it.
fn expressible(text: &str) -> Option<&str> {
    (!text.contains('\0')).then_some(text)
}

/// A header's value as text, for types that have a text form.
fn text(value: &Value) -> Option<String> {
    Some(match value {
        Value::Void => String::new(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i, _) => i.to_string(),
        Value::Uint(u, _) => u.to_string(),
        Value::Float(f) => f.to_string(),
        Value::Double(f) => f.to_string(),
        Value::Decimal(scale, unscaled) => decimal(*scale, *unscaled),
        Value::Text(bytes) => std::str::from_utf8(bytes).ok()?.to_owned(),
        Value::Timestamp(seconds) => seconds.to_string(),
        Value::Binary(_) | Value::Array(_) | Value::Table(_) => return None,
    })
}

/// `unscaled` as a decimal number with `scale` digits after the point.
fn decimal(scale: u8, unscaled: u32) -> String {
    let scale = usize::from(scale);
    let digits = format!("{unscaled:0>width$}", width = scale + 1);
    match digits.split_at_checked(digits.len() - scale) {
        Some((whole, fraction)) if scale > 0 => format!("{whole}.{fraction}"),
        _ => digits,
    }
}

fn response_topic(to: &ReplyTo) -> Option<Name> {
    let topic: Name = match to {
        ReplyTo::Queue(queue) => format!("{QUEUE_PREFIX}{queue}").into(),
        ReplyTo::Exchange(exchange, key) => format!("{EXCHANGE_PREFIX}{exchange}/{key}").into(),
        ReplyTo::Topic(key) => translate(key, Dialect::Dot, Dialect::Slash)?.into(),
    };
    (is_plain(&topic) && topic_name(topic.as_bytes()).is_ok()).then_some(topic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepost_core::properties::Table;

    fn decoded(properties: &[Property<'_>]) -> Properties {
        MqttProperties.decode(PropertyBuf::from_iter(properties.iter().copied()).as_properties().raw())
    }

    #[test]
    fn user_properties_become_headers_in_order_with_duplicates() {
        let view = decoded(&[
            Property::PayloadFormat(true),
            Property::ContentType("text/plain"),
            Property::CorrelationData(&[0, 255]),
            Property::User("k", "1"),
            Property::User("k", "2"),
            Property::User("", ""),
        ]);
        assert!(view.utf8_body);
        assert_eq!(view.content_type.as_deref(), Some("text/plain"));
        assert_eq!(view.correlation.as_deref(), Some(&[0, 255][..]));
        let headers = [("k", "1"), ("k", "2"), ("", "")].map(|(k, v)| (k.into(), Value::text(v)));
        assert_eq!(view.headers.0, headers);
    }

    /// A trace by property decodes only messages that may have it.
    #[test]
    fn a_property_that_decodes_may_be_mentioned() {
        let properties = [
            Property::ContentType("text/plain"),
            Property::CorrelationData(b"c-1"),
            Property::User("colour", "red"),
            Property::User("message-id", "m-1"),
        ];
        let block = PropertyBuf::from_iter(properties);
        let raw = block.as_properties().raw();
        for text in ["text/plain", "c-1", "colour", "red", "m-1", ""] {
            assert!(MqttProperties.may_mention(raw, text), "{text}");
        }
        assert!(!MqttProperties.may_mention(raw, "c-2") && !MqttProperties.may_mention(raw, "color"));
    }

    #[test]
    fn every_reply_address_survives_as_a_response_topic() {
        for to in [
            ReplyTo::Queue("amq.gen-1".into()),
            ReplyTo::Exchange("e".into(), "k.l".into()),
            ReplyTo::Exchange("".into(), "k/l".into()),
        ] {
            let topic = response_topic(&to).unwrap();
            assert_eq!(decoded(&[Property::ResponseTopic(&topic)]).reply_to, Some(to));
        }
        assert_eq!(
            response_topic(&ReplyTo::Queue("a#b".into())),
            None,
            "a response topic has no wildcards"
        );
    }

    #[test]
    fn properties_that_mqtt_lacks_survive_as_user_properties() {
        let mut headers = Table::default();
        headers.push("type", Value::text("a header of that name"));
        let there = Properties {
            content_encoding: Some("gzip".into()),
            priority: Some(7),
            message_id: Some("m".into()),
            timestamp: Some(1_700_000_000),
            kind: Some("t".into()),
            app_id: Some("a".into()),
            headers,
            ..Properties::default()
        };
        let block = publish_properties(&there, |field| panic!("dropped: {field:?}"));
        assert_eq!(MqttProperties.decode(block.as_properties().raw()), there);
        assert_eq!(
            decoded(&[Property::User("priority", "high")]).headers.0.len(),
            1,
            "not a number, so a header"
        );
    }

    #[test]
    fn typed_headers_become_text_and_others_are_left_out() {
        let mut headers = Table::default();
        headers.push("i", Value::Int(-3, 32));
        headers.push("u", Value::Uint(255, 8));
        headers.push("b", Value::Bool(true));
        headers.push("v", Value::Void);
        headers.push("f", Value::Double(1.5));
        headers.push("d", Value::Decimal(2, 5));
        headers.push("t", Value::Timestamp(9));
        headers.push("s", Value::text("x"));
        headers.push("bytes", Value::Text([0xFF].into()));
        headers.push("null", Value::text("a\0b"));
        headers.push("long", Value::Text(vec![b'x'; 65_536].into()));
        headers.push("list", Value::Array([].into()));
        headers.push("table", Value::Table(Table::default()));
        let from = Properties {
            headers,
            content_type: Some("a\0b".into()),
            reply_to: Some(ReplyTo::Queue("a#b".into())),
            correlation: Some(vec![0; 65_536].into()),
            user_id: Some("u".into()),
            ..Properties::default()
        };
        let mut dropped = Vec::new();
        let block = publish_properties(&from, |field| dropped.push(field));
        let header = Field::Header;
        assert_eq!(
            dropped,
            [
                Field::ContentType,
                Field::ReplyTo,
                Field::Correlation,
                header,
                header,
                header,
                header,
                header,
                Field::UserId
            ]
        );
        let sent: Vec<_> = block.as_properties().iter().collect();
        let expected = [
            ("i", "-3"),
            ("u", "255"),
            ("b", "true"),
            ("v", ""),
            ("f", "1.5"),
            ("d", "0.05"),
            ("t", "9"),
            ("s", "x"),
        ];
        assert_eq!(sent, expected.map(|(name, value)| Property::User(name, value)));
    }

    #[test]
    fn damaged_bytes_give_what_can_be_read() {
        let view = MqttProperties.decode(&[0x01, 1, 0x26, 0, 1, b'k', 0, 9, b'v']);
        assert!(view.utf8_body && view.headers.is_empty());
    }
}
