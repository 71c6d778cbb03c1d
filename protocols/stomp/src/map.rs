//! Messages of other protocols as STOMP header lines.
//!
//! The other direction, from a SEND's headers to neutral properties, is in [`crate::properties`].

use crate::destination::push_reply_to;
use crate::frame::Version;
use crate::frame::escape::escape;
use crate::properties::{is_server_owned, push_line};
use base64::Engine as _;
use gatepost_core::interop::{Drops, Field};
use gatepost_core::message::{Dialect, Message};
use gatepost_core::properties::{Codecs, Properties, Value};
use gatepost_core::time::Wall;

/// The part of a MESSAGE frame that does not depend on the subscription.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) version: Version,
    pub(crate) topic_exchange: &'a str,
    pub(crate) drops: &'a Drops,
    pub(crate) codecs: &'a Codecs,
    pub(crate) now: Wall,
}

/// Appends the header lines of a message that did not come in by STOMP.
pub(crate) fn push_foreign(out: &mut Vec<u8>, context: &Context<'_>, message: &Message, properties: &Properties) {
    let (version, now) = (context.version, context.now);
    let mut text = |name: &str, value: &str| {
        push_line(out, version, name, value.as_bytes());
    };
    match (&properties.content_type, properties.utf8_body) {
        (Some(kind), true) if !kind.contains("charset=") => text("content-type", &format!("{kind};charset=utf-8")),
        (Some(kind), _) => text("content-type", kind),
        (None, true) => text("content-type", "text/plain;charset=utf-8"),
        (None, false) => {}
    }
    for (name, value) in [
        ("content-encoding", &properties.content_encoding),
        ("amqp-message-id", &properties.message_id),
        ("type", &properties.kind),
        ("app-id", &properties.app_id),
        ("user-id", &properties.user_id),
    ] {
        if let Some(value) = value {
            text(name, value);
        }
    }
    if let Some(octets) = &properties.correlation {
        match std::str::from_utf8(octets) {
            Ok(id) => text("correlation-id", id),
            Err(_) => {
                text(
                    "correlation-id",
                    &base64::engine::general_purpose::STANDARD.encode(octets),
                );
                text("correlation-id-encoding", "base64");
            }
        }
    }
    for (name, value) in [
        ("priority", properties.priority.map(u64::from)),
        ("timestamp", properties.timestamp),
        ("expiration", expiration_ms(message, properties, now)),
    ] {
        if let Some(value) = value {
            text(name, &value.to_string());
        }
    }
    // RabbitMQ shows an AMQP delivery mode of 1 as `persistent:1`, which clients take for true. So it is written for
    // durable messages only.
    if message.envelope().durable {
        text("persistent", "true");
    }
    if let Some(reply_to) = &properties.reply_to {
        let mut address = Vec::new();
        push_reply_to(&mut address, reply_to, context.topic_exchange);
        out.extend_from_slice(b"reply-to:");
        escape(&address, version, out);
        out.push(b'\n');
    }
    for (name, value) in &properties.headers.0 {
        if is_server_owned(name) || is_mapped(name) || !push_value(out, version, name, value) {
            context.drops.count(message.envelope().origin, Field::Header);
        }
    }
}

/// Time to live in milliseconds: the sender's value, or for MQTT, whose expiry counts down, the time left.
fn expiration_ms(message: &Message, properties: &Properties, now: Wall) -> Option<u64> {
    let envelope = message.envelope();
    match (envelope.dialect, envelope.deadline) {
        (Dialect::Slash, Some(deadline)) => Some(deadline.0.saturating_sub(now.0)),
        _ => properties.expiration_ms,
    }
}

/// Headers that were already written from a property.
fn is_mapped(name: &str) -> bool {
    matches!(
        name,
        "content-type"
            | "content-encoding"
            | "amqp-message-id"
            | "type"
            | "app-id"
            | "user-id"
            | "correlation-id"
            | "correlation-id-encoding"
            | "priority"
            | "timestamp"
            | "expiration"
            | "persistent"
            | "reply-to"
            | "x-mqtt-retain"
    )
}

/// Writes a header. Values without a text form are dropped: tables, lists, octets that are not UTF-8. Returns whether
/// it was written.
fn push_value(out: &mut Vec<u8>, version: Version, name: &str, value: &Value) -> bool {
    let mut text = |value: &dyn std::fmt::Display| push_line(out, version, name, value.to_string().as_bytes());
    match value {
        Value::Void => text(&""),
        Value::Bool(b) => text(b),
        Value::Int(i, _) => text(i),
        Value::Uint(u, _) => text(u),
        Value::Float(f) => text(f),
        Value::Double(d) => text(d),
        Value::Decimal(scale, unscaled) => text(&format_args!("{unscaled}e-{scale}")),
        Value::Timestamp(seconds) => text(seconds),
        Value::Text(octets) => {
            std::str::from_utf8(octets).is_ok_and(|value| push_line(out, version, name, value.as_bytes()))
        }
        Value::Binary(_) | Value::Array(_) | Value::Table(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepost_core::interop::Drops;
    use gatepost_core::message::Envelope;
    use gatepost_core::properties::{Codecs, ReplyTo, Table};

    fn pushed(envelope: Envelope, properties: &Properties) -> String {
        counted(Version::V1_2, envelope, properties).0
    }

    /// The lines, and the number of dropped headers.
    fn counted(version: Version, envelope: Envelope, properties: &Properties) -> (String, u64) {
        let message = Message::new(envelope, "amq.topic", "a", b"", b"");
        let (codecs, drops) = (Codecs::default(), Drops::default());
        let context = Context {
            version,
            topic_exchange: "amq.topic",
            drops: &drops,
            codecs: &codecs,
            now: Wall(1000),
        };
        let mut out = Vec::new();
        push_foreign(&mut out, &context, &message, properties);
        (
            String::from_utf8(out).expect("lines are UTF-8"),
            drops.total(Field::Header),
        )
    }

    #[test]
    fn properties_become_headers() {
        let properties = Properties {
            content_type: Some("text/css".into()),
            utf8_body: true,
            correlation: Some(vec![0xff].into()),
            reply_to: Some(ReplyTo::Queue("amq.gen-1".into())),
            priority: Some(4),
            timestamp: Some(12),
            expiration_ms: Some(5000),
            ..Properties::default()
        };
        assert_eq!(
            pushed(
                Envelope {
                    durable: true,
                    ..Envelope::default()
                },
                &properties
            ),
            "content-type:text/css;charset=utf-8\ncorrelation-id:/w==\ncorrelation-id-encoding:base64\npriority:4\n\
             timestamp:12\nexpiration:5000\npersistent:true\nreply-to:/reply-queue/amq.gen-1\n"
        );
    }

    #[test]
    fn an_mqtt_expiry_counts_down() {
        let envelope = Envelope {
            dialect: Dialect::Slash,
            deadline: Some(Wall(4000)),
            ..Envelope::default()
        };
        let properties = Properties {
            expiration_ms: Some(30_000),
            ..Properties::default()
        };
        assert_eq!(pushed(envelope, &properties), "expiration:3000\n");
    }

    #[test]
    fn typed_headers_become_text_and_forgeries_are_dropped() {
        let mut headers = Table::default();
        for (name, value) in [
            ("sev", Value::Int(3, 32)),
            ("on", Value::Bool(true)),
            ("none", Value::Void),
            ("half", Value::Double(0.5)),
            ("zones", Value::Array([Value::Int(1, 8)].into())),
            ("raw", Value::Text(vec![0xff].into())),
            ("destination", Value::text("/queue/forged")),
            ("redelivered", Value::text("true")),
            ("twice", Value::text("a:1")),
            ("twice", Value::text("2")),
        ] {
            headers.push(name, value);
        }
        let properties = Properties {
            headers,
            ..Properties::default()
        };
        let expected = "sev:3\non:true\nnone:\nhalf:0.5\ntwice:a\\c1\ntwice:2\n";
        // Dropped are the list, the octets, and the two headers that only the server may set.
        assert_eq!(
            counted(Version::V1_2, Envelope::default(), &properties),
            (expected.to_owned(), 4)
        );
    }

    #[test]
    fn a_name_that_a_version_cannot_express_is_dropped_and_counted() {
        let mut headers = Table::default();
        headers.push("a:b", Value::Int(1, 32));
        headers.push("", Value::Int(1, 32));
        let properties = Properties {
            headers,
            ..Properties::default()
        };
        for (version, expected, dropped) in [(Version::V1_0, "", 2), (Version::V1_2, "a\\cb:1\n", 1)] {
            assert_eq!(
                counted(version, Envelope::default(), &properties),
                (expected.to_owned(), dropped)
            );
        }
    }

    #[test]
    fn reply_topics_and_exchanges_are_destinations() {
        for (reply_to, text) in [
            (ReplyTo::Topic("a.b%2Ec".into()), "/topic/a.b%2Ec"),
            (ReplyTo::Exchange("e".into(), "k".into()), "/exchange/e/k"),
            (ReplyTo::Exchange("".into(), "q".into()), "/queue/q"),
            (ReplyTo::Queue("a/b".into()), "/reply-queue/a/b"),
        ] {
            let properties = Properties {
                reply_to: Some(reply_to),
                ..Properties::default()
            };
            assert_eq!(pushed(Envelope::default(), &properties), format!("reply-to:{text}\n"));
        }
    }
}
