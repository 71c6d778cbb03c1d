//! Translates between an AMQP property list and the core's neutral properties.
//!
//! An AMQP message keeps its list unchanged (flags and values, BCC header included), and another AMQP client is sent
//! the same octets. The code here serves messages that cross protocols, have BCC, or are routed by a headers exchange.

use crate::frame::content::BasicProperties;
use crate::frame::field::SHORT_MAX;
use crate::frame::table::{self, Fields, Items, Raw};
use gatepost_core::interop::{Drops, Field};
use gatepost_core::message::{Dialect, Message};
use gatepost_core::properties::{Codecs, Name, Origin, Properties, PropertyCodec, ReplyTo, Table, Value, mentions};
use gatepost_core::time::Wall;
use std::borrow::Cow;
use std::collections::HashSet;

/// The on-disk code of AMQP property lists. Part of the log's format: it never changes.
pub const ORIGIN: Origin = Origin(1);

/// Values of the property delivery-mode.
const TRANSIENT: u8 = 1;
const PERSISTENT: u8 = 2;

/// Prefix of a reply address that is a topic. A service publishes to it through the default exchange.
const REPLY_TOPIC: &str = "amq.gatepost.topic.";
/// Prefix of a reply address that is an exchange and a key: `<exchange>/<key>` follows.
const REPLY_EXCHANGE: &str = "amq.gatepost.x.";
/// Headers for properties that AMQP does not have.
const X_CORRELATION_ID: &str = "x-correlation-id";
const X_REPLY_TO_TOPIC: &str = "x-reply-to-topic";
const X_UTF8: &str = "x-mqtt-utf8";
pub(crate) const X_RETAIN: &str = "x-mqtt-retain";
/// How often consumers returned this message of a quorum queue. Clients read it to give up on a message.
const X_DELIVERY_COUNT: &str = "x-delivery-count";
/// Headers with further routing keys. `BCC` is removed before delivery.
pub(crate) const CC: &str = "CC";
pub(crate) const BCC: &str = "BCC";

/// Decodes AMQP property lists.
#[derive(Clone, Copy, Debug, Default)]
pub struct AmqpProperties;

impl PropertyCodec for AmqpProperties {
    fn origin(&self) -> Origin {
        ORIGIN
    }

    fn decode(&self, raw: &[u8]) -> Properties {
        BasicProperties::decode(raw)
            .map(|list| neutral(&list))
            .unwrap_or_default()
    }

    fn may_mention(&self, raw: &[u8], text: &str) -> bool {
        mentions(raw, text.as_bytes())
    }

    /// The keys in the headers CC and BCC, in that order. A value that is not text is skipped, as in RabbitMQ.
    fn extra_keys(&self, raw: &[u8]) -> Vec<Name> {
        let headers = BasicProperties::decode(raw)
            .ok()
            .and_then(|list| list.headers)
            .unwrap_or_default();
        let arrays = [CC, BCC]
            .into_iter()
            .filter_map(|name| lookup(headers, name))
            .filter(|raw| raw.letter == b'A');
        let texts = arrays
            .flat_map(|raw| Items(raw.octets).flatten())
            .filter(|item| item.letter == b'S');
        texts.filter_map(|item| text(item.octets)).collect()
    }
}

/// The first value under `name` in a table's content.
fn lookup<'a>(content: &'a [u8], name: &str) -> Option<Raw<'a>> {
    Fields(content)
        .flatten()
        .find(|(n, _)| *n == name.as_bytes())
        .map(|(_, value)| value)
}

fn text(octets: &[u8]) -> Option<Name> {
    std::str::from_utf8(octets).ok().map(Name::from)
}

/// Whether a header's value means true. Client libraries encode booleans in different types.
pub(crate) fn is_true(value: Raw<'_>) -> bool {
    match value.letter {
        b't' => value.octets != [0],
        b'S' => value.octets == b"true",
        _ => false,
    }
}

fn neutral(list: &BasicProperties<'_>) -> Properties {
    let mut headers = list
        .headers
        .and_then(|content| table::decode(content).ok())
        .unwrap_or_default();
    let retained_marks = [BCC, X_RETAIN];
    headers.0.retain(|(name, _)| !retained_marks.contains(&&**name));
    let correlation = match list.correlation_id {
        Some(id) => Some(id.into()),
        None => take(&mut headers, X_CORRELATION_ID).and_then(|value| match value {
            Value::Text(octets) | Value::Binary(octets) => Some(octets),
            _ => None,
        }),
    };
    let reply_topic = take(&mut headers, X_REPLY_TO_TOPIC);
    let reply_to = match list.reply_to.and_then(text) {
        Some(address) => Some(reply_address(&address)),
        None => reply_topic
            .as_ref()
            .and_then(Value::as_str)
            .map(|key| ReplyTo::Topic(key.into())),
    };
    let utf8_body = matches!(take(&mut headers, X_UTF8), Some(Value::Bool(true)));
    Properties {
        content_type: list.content_type.and_then(text),
        content_encoding: list.content_encoding.and_then(text),
        correlation,
        reply_to,
        priority: list.priority,
        message_id: list.message_id.and_then(text),
        timestamp: list.timestamp,
        kind: list.kind.and_then(text),
        app_id: list.app_id.and_then(text),
        user_id: list.user_id.and_then(text),
        expiration_ms: list.expiration.and_then(|e| expiration(e).ok()),
        utf8_body,
        said_transient: list.delivery_mode == Some(TRANSIENT),
        headers,
    }
}

/// Removes all values under `name` and returns the first.
fn take(headers: &mut Table, name: &str) -> Option<Value> {
    let value = headers.lookup(name)?.clone();
    headers.0.retain(|(n, _)| &**n != name);
    Some(value)
}

fn reply_address(address: &str) -> ReplyTo {
    if let Some(key) = address.strip_prefix(REPLY_TOPIC) {
        return ReplyTo::Topic(key.into());
    }
    match address
        .strip_prefix(REPLY_EXCHANGE)
        .and_then(|rest| rest.split_once('/'))
    {
        Some((exchange, key)) => ReplyTo::Exchange(exchange.into(), key.into()),
        None => ReplyTo::Queue(address.into()),
    }
}

/// Maximum time to live in milliseconds: ten years, RabbitMQ's limit.
const EXPIRATION_MAX_MS: u64 = 315_360_000_000;

/// Reads an expiration property.
///
/// # Errors
/// Why the octets are not an expiration, in RabbitMQ's words.
pub(crate) fn expiration(octets: &[u8]) -> Result<u64, String> {
    let (negative, unsigned) = match octets {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let end = unsigned
        .iter()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(unsigned.len());
    let (digits, leftover) = unsigned.split_at_checked(end).unwrap_or((unsigned, &[]));
    if digits.is_empty() {
        return Err("no_integer".into());
    }
    if !leftover.is_empty() {
        return Err(format!("{{leftover_string,\"{}\"}}", String::from_utf8_lossy(leftover)));
    }
    let zeros = digits.iter().take_while(|b| **b == b'0').count();
    let significant = String::from_utf8_lossy(digits.get(zeros..).unwrap_or_default());
    if significant.is_empty() {
        return Ok(0);
    }
    if negative {
        return Err(format!("{{value_negative,-{significant}}}"));
    }
    match significant.parse::<u64>() {
        Ok(ms) if ms <= EXPIRATION_MAX_MS => Ok(ms),
        _ => Err(format!("{{value_too_large,{significant}}}")),
    }
}

/// Headers that a delivery adds to those of its message.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Notes {
    /// The message set or cleared its topic's retained message, or is a replayed retained message.
    pub(crate) retained: bool,
    /// How often consumers returned it. `None` where the queue does not count that.
    pub(crate) returned: Option<u32>,
}

/// Writes the property list of an AMQP message without its BCC header, and with the count of returns where there is
/// one.
pub(crate) fn put_own(out: &mut Vec<u8>, raw: &[u8], returned: Option<u32>) {
    match BasicProperties::decode(raw) {
        Ok(list) => {
            let mut headers = Vec::new();
            let is_ours =
                |name: &[u8]| name == BCC.as_bytes() || (returned.is_some() && name == X_DELIVERY_COUNT.as_bytes());
            let content = list.headers.unwrap_or_default();
            for (name, value) in Fields(content).flatten().filter(|(name, _)| !is_ours(name)) {
                table::put_raw_pair(&mut headers, name, value);
            }
            put_delivery_count(&mut headers, returned);
            BasicProperties {
                headers: (list.headers.is_some() || returned.is_some()).then_some(&*headers),
                ..list
            }
            .encode(out);
        }
        Err(_) => BasicProperties::default().encode(out),
    }
}

fn put_delivery_count(headers: &mut Vec<u8>, returned: Option<u32>) {
    if let Some(count) = returned {
        let count = Value::Int(count.into(), 64);
        table::put_pair(headers, X_DELIVERY_COUNT.as_bytes(), &count);
    }
}

/// Writes the property list for a message of another protocol, or of none. What AMQP cannot express is left out and
/// counted in `drops`.
pub(crate) fn put_foreign(
    out: &mut Vec<u8>,
    message: &Message,
    codecs: &Codecs,
    now: Wall,
    notes: Notes,
    drops: &Drops,
) {
    let properties = message.properties(codecs);
    let envelope = message.envelope();
    let dropped = |field| drops.count(envelope.origin, field);
    let mut headers = Vec::new();
    let mut seen = HashSet::new();
    for (name, value) in &properties.headers.0 {
        if notes.returned.is_some() && &**name == X_DELIVERY_COUNT {
            continue;
        }
        // Client libraries turn a table into a map, and in some the last duplicate wins. Only the first is written,
        // since the first one counts.
        if name.len() > SHORT_MAX || !seen.insert(&**name) {
            dropped(Field::Header);
            continue;
        }
        table::put_pair(&mut headers, name.as_bytes(), value);
    }
    let correlation_id = properties
        .correlation
        .as_deref()
        .and_then(|octets| match std::str::from_utf8(octets) {
            Ok(id) if octets.len() <= SHORT_MAX && !id.contains('\0') => Some(octets),
            _ => {
                table::put_pair(&mut headers, X_CORRELATION_ID.as_bytes(), &Value::Text(octets.into()));
                None
            }
        });
    let reply_to: Option<Cow<'_, str>> = match &properties.reply_to {
        None => None,
        Some(ReplyTo::Queue(name)) => Some(Cow::Borrowed(name)),
        Some(ReplyTo::Exchange(exchange, key)) => Some(Cow::Owned(format!("{REPLY_EXCHANGE}{exchange}/{key}"))),
        Some(ReplyTo::Topic(key)) => {
            table::put_pair(&mut headers, X_REPLY_TO_TOPIC.as_bytes(), &Value::text(key));
            Some(Cow::Owned(format!("{REPLY_TOPIC}{key}")))
        }
    };
    if properties.utf8_body {
        table::put_pair(&mut headers, X_UTF8.as_bytes(), &Value::Bool(true));
    }
    if notes.retained {
        table::put_pair(&mut headers, X_RETAIN.as_bytes(), &Value::Bool(true));
    }
    put_delivery_count(&mut headers, notes.returned);
    let expiration = envelope
        .deadline
        .map(|deadline| (deadline - now).as_millis().to_string());
    BasicProperties {
        content_type: short(properties.content_type.as_deref(), Field::ContentType, &dropped),
        content_encoding: short(properties.content_encoding.as_deref(), Field::ContentEncoding, &dropped),
        headers: (!headers.is_empty()).then_some(headers.as_slice()),
        delivery_mode: delivery_mode(message, &properties),
        priority: properties.priority.or(envelope.priority),
        correlation_id,
        reply_to: short(reply_to.as_deref(), Field::ReplyTo, &dropped),
        expiration: expiration.as_deref().map(str::as_bytes),
        message_id: short(properties.message_id.as_deref(), Field::MessageId, &dropped),
        timestamp: properties.timestamp,
        kind: short(properties.kind.as_deref(), Field::Type, &dropped),
        user_id: short(properties.user_id.as_deref(), Field::UserId, &dropped),
        app_id: short(properties.app_id.as_deref(), Field::AppId, &dropped),
        cluster_id: None,
    }
    .encode(out);
}

/// Delivery mode 1 only where the sender said it: with AMQP's own property, or with MQTT's QoS 0. Absent means the same.
fn delivery_mode(message: &Message, properties: &Properties) -> Option<u8> {
    let envelope = message.envelope();
    // A protocol that spells topics with slashes says in every publish whether it is stored.
    let said_transient = properties.said_transient || envelope.dialect == Dialect::Slash;
    if envelope.durable {
        Some(PERSISTENT)
    } else {
        said_transient.then_some(TRANSIENT)
    }
}

/// A text that fits into a short string. A longer one is left out: cut, it would be another text.
fn short<'a>(text: Option<&'a str>, field: Field, dropped: &impl Fn(Field)) -> Option<&'a [u8]> {
    let octets = text?.as_bytes();
    if octets.len() > SHORT_MAX {
        dropped(field);
        return None;
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepost_core::message::Envelope;
    use std::sync::Arc;

    fn list(properties: &BasicProperties<'_>) -> Vec<u8> {
        let mut raw = Vec::new();
        properties.encode(&mut raw);
        raw
    }

    fn headers(pairs: &[(&str, Value)]) -> Vec<u8> {
        let mut content = Vec::new();
        for (name, value) in pairs {
            table::put_pair(&mut content, name.as_bytes(), value);
        }
        content
    }

    /// A foreign protocol whose messages all have the same properties.
    struct Foreign(Properties);

    impl PropertyCodec for Foreign {
        fn origin(&self) -> Origin {
            Origin(200)
        }
        fn decode(&self, _: &[u8]) -> Properties {
            self.0.clone()
        }
    }

    fn cross(properties: Properties, envelope: Envelope, now: Wall) -> Properties {
        cross_counted(properties, envelope, now, &Drops::default())
    }

    fn cross_counted(properties: Properties, envelope: Envelope, now: Wall, drops: &Drops) -> Properties {
        let codecs = Codecs::new(vec![Arc::new(Foreign(properties))]);
        let envelope = Envelope {
            origin: Origin(200),
            ..envelope
        };
        let mut out = Vec::new();
        put_foreign(
            &mut out,
            &Message::new(envelope, "e", "k", b"", b""),
            &codecs,
            now,
            Notes::default(),
            drops,
        );
        AmqpProperties.decode(&out)
    }

    /// A trace by property decodes only messages that may have it.
    #[test]
    fn a_property_that_decodes_may_be_mentioned() {
        let table = headers(&[("colour", Value::text("red")), ("size", Value::Int(7, 32))]);
        let raw = list(&BasicProperties {
            content_type: Some(b"text/plain"),
            correlation_id: Some(b"c-1"),
            headers: Some(&table),
            message_id: Some(b"m-1"),
            kind: Some(b"order"),
            user_id: Some(b"mia"),
            app_id: Some(b"shop"),
            ..BasicProperties::default()
        });
        for text in [
            "text/plain",
            "c-1",
            "colour",
            "red",
            "size",
            "m-1",
            "order",
            "mia",
            "shop",
            "",
        ] {
            assert!(AmqpProperties.may_mention(&raw, text), "{text}");
        }
        for text in ["c-2", "color", "m-1x", "mia\u{0}"] {
            assert!(!AmqpProperties.may_mention(&raw, text), "{text}");
        }
    }

    /// Every message of STOMP was shown with delivery mode 1, and every dead letter, though nobody had said so.
    #[test]
    fn the_delivery_mode_is_shown_only_where_somebody_said_it() {
        let shown = |said_transient, durable, dialect| {
            let properties = Properties {
                said_transient,
                ..Properties::default()
            };
            let envelope = Envelope {
                durable,
                dialect,
                ..Envelope::default()
            };
            let message = Message::new(envelope, "e", "k", b"", b"");
            delivery_mode(&message, &properties)
        };
        assert_eq!(shown(false, false, Dialect::Dot), None);
        assert_eq!(shown(true, false, Dialect::Dot), Some(1));
        assert_eq!(shown(false, true, Dialect::Dot), Some(2));
        assert_eq!(shown(false, false, Dialect::Slash), Some(1), "QoS 0 says it");
        for (mode, said) in [(None, false), (Some(1), true), (Some(2), false)] {
            let raw = list(&BasicProperties {
                delivery_mode: mode,
                ..BasicProperties::default()
            });
            assert_eq!(AmqpProperties.decode(&raw).said_transient, said, "{mode:?}");
        }
    }

    #[test]
    fn properties_of_another_protocol_survive_the_way_to_amqp_and_back() {
        let mut table = Table::default();
        table.push("a", Value::text("1"));
        let before = Properties {
            content_type: Some("text/plain".into()),
            content_encoding: Some("gzip".into()),
            correlation: Some(b"id".as_slice().into()),
            reply_to: Some(ReplyTo::Topic("resp.c1".into())),
            priority: Some(3),
            message_id: Some("m".into()),
            timestamp: Some(17),
            kind: Some("t".into()),
            app_id: Some("a".into()),
            user_id: Some("u".into()),
            expiration_ms: Some(20_000),
            utf8_body: true,
            said_transient: true,
            headers: table,
        };
        let envelope = Envelope {
            deadline: Some(Wall(30_000)),
            ..Envelope::default()
        };
        assert_eq!(cross(before.clone(), envelope, Wall(10_000)), before);
    }

    #[test]
    fn properties_too_long_for_amqp_are_left_out_and_counted() {
        let (long, fits): (Name, Name) = ("x".repeat(256).into(), "x".repeat(255).into());
        for (text, kept) in [(&long, 0), (&fits, 1)] {
            let drops = Drops::default();
            let mut table = Table::default();
            table.push(text.clone(), Value::text("1"));
            let said = Some(text.clone());
            let before = Properties {
                content_type: said.clone(),
                content_encoding: said.clone(),
                reply_to: Some(ReplyTo::Queue(text.clone())),
                message_id: said.clone(),
                kind: said.clone(),
                app_id: said.clone(),
                user_id: said,
                headers: table,
                ..Properties::default()
            };
            let after = cross_counted(before.clone(), Envelope::default(), Wall(0), &drops);
            let expected = if kept == 1 { before } else { Properties::default() };
            assert_eq!(after, expected);
            let all = [
                Field::Header,
                Field::ContentType,
                Field::ContentEncoding,
                Field::ReplyTo,
                Field::MessageId,
                Field::Type,
                Field::AppId,
                Field::UserId,
            ];
            let lost = all.map(|field| drops.total(field));
            assert_eq!(lost, [1 - kept; 8]);
        }
    }

    #[test]
    fn binary_and_long_correlations_travel_as_a_header() {
        for octets in [[0xff, 0x7f].as_slice(), &[b'a'; 300], b"a\0b"] {
            let before = Properties {
                correlation: Some(octets.into()),
                ..Properties::default()
            };
            assert_eq!(cross(before.clone(), Envelope::default(), Wall(0)), before);
        }
    }

    #[test]
    fn exchange_reply_addresses_roundtrip() {
        let reply_to = Some(ReplyTo::Exchange("e".into(), "a/b".into()));
        let before = Properties {
            reply_to,
            ..Properties::default()
        };
        assert_eq!(cross(before.clone(), Envelope::default(), Wall(0)), before);
    }

    #[test]
    fn the_first_of_duplicate_headers_wins() {
        let mut table = Table::default();
        table.push("a", Value::text("1"));
        table.push("a", Value::text("2"));
        let after = cross(
            Properties {
                headers: table,
                ..Properties::default()
            },
            Envelope::default(),
            Wall(0),
        );
        assert_eq!(after.headers.0, [("a".into(), Value::text("1"))]);
    }

    #[test]
    fn extra_keys_are_those_of_cc_and_bcc_and_bcc_is_stripped() {
        let keys = |names: &[&str]| Value::Array(names.iter().map(|n| Value::text(n)).collect());
        let content = headers(&[("BCC", keys(&["c"])), ("x", Value::Void), ("CC", keys(&["a", "b"]))]);
        let raw = list(&BasicProperties {
            headers: Some(&content),
            ..BasicProperties::default()
        });
        let found = AmqpProperties.extra_keys(&raw);
        assert_eq!(found, [Name::from("a"), "b".into(), "c".into()]);

        let mut stripped = Vec::new();
        put_own(&mut stripped, &raw, None);
        let kept = headers(&[("x", Value::Void), ("CC", keys(&["a", "b"]))]);
        assert_eq!(
            stripped,
            list(&BasicProperties {
                headers: Some(&kept),
                ..BasicProperties::default()
            })
        );
    }

    /// A client that republishes a delivery sends the old count in its headers.
    #[test]
    fn the_delivery_count_is_the_queues_and_replaces_a_senders() {
        let content = headers(&[("x-delivery-count", Value::Int(77, 64)), ("x", Value::Void)]);
        for (sent, kept) in [(Some(&content[..]), vec![("x", Value::Void)]), (None, vec![])] {
            let raw = list(&BasicProperties {
                headers: sent,
                ..BasicProperties::default()
            });
            let mut written = Vec::new();
            put_own(&mut written, &raw, Some(2));
            let expected = headers(&[&kept[..], &[("x-delivery-count", Value::Int(2, 64))]].concat());
            assert_eq!(
                written,
                list(&BasicProperties {
                    headers: Some(&expected),
                    ..BasicProperties::default()
                })
            );
        }
    }

    #[test]
    fn expiration_texts() {
        assert_eq!(expiration(b"0"), Ok(0));
        assert_eq!(expiration(b"+0060"), Ok(60));
        assert_eq!(expiration(b"315360000000"), Ok(315_360_000_000));
        for (text, why) in [
            ("", "no_integer"),
            ("abc", "no_integer"),
            ("10x", "{leftover_string,\"x\"}"),
            ("-1", "{value_negative,-1}"),
            ("315360000001", "{value_too_large,315360000001}"),
            ("99999999999999999999999", "{value_too_large,99999999999999999999999}"),
        ] {
            assert_eq!(expiration(text.as_bytes()), Err(why.into()), "{text}");
        }
    }

    #[test]
    fn damaged_lists_give_empty_properties() {
        assert_eq!(AmqpProperties.decode(&[0xff]), Properties::default());
        assert!(AmqpProperties.extra_keys(&[0x20, 0, 0, 0]).is_empty());
    }
}
