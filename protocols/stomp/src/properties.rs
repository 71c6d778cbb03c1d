//! The stored properties of a message that came in by STOMP: those header lines of its SEND that are passed on.
//!
//! ```text
//!   ┌ 1 byte ┬ lines ─────────────────────────────────────┐
//!   │ marks  │ name ':' value LF  name ':' value LF  …    │
//!   └────────┴────────────────────────────────────────────┘
//!   marks: bit 0: some escape occurs; bit 1: `\r` occurs; the others are 0
//! ```
//!
//! Names and values are UTF-8 with the escapes of STOMP 1.2. A 1.2 client gets the stored lines unchanged; so does a
//! 1.0 or 1.1 client, unless a mark says otherwise. Without headers nothing is stored, not even the marks. **This is
//! stored on disk under origin code 3: it may be extended, never changed.** Left out are headers that the server itself
//! sends in a MESSAGE ([`is_server_owned`]), and those that the envelope already holds (`x-mqtt-retain`, a `persistent`
//! that is not true).

use crate::destination::Destination;
use crate::frame::escape::{escape, unescape};
use crate::frame::{Headers, Version, is_true, push_decimal};
use base64::Engine as _;
use gatepost_core::properties::{Origin, Properties, PropertyCodec, Value, mentions};

/// The on-disk code of this encoding.
pub const ORIGIN: Origin = Origin(3);

const ESCAPED: u8 = 1;
const CARRIAGE_RETURN: u8 = 2;

/// Decodes properties of origin [`ORIGIN`].
#[derive(Clone, Copy, Debug, Default)]
pub struct StompProperties;

impl PropertyCodec for StompProperties {
    fn origin(&self) -> Origin {
        ORIGIN
    }

    fn decode(&self, raw: &[u8]) -> Properties {
        let mut properties = Properties::default();
        let mut correlation = None;
        let mut base64_correlation = false;
        for (name, value) in lines(raw) {
            match &*name {
                "content-type" => properties.content_type = Some(value.into()),
                "content-encoding" => properties.content_encoding = Some(value.into()),
                "correlation-id" => correlation = Some(value),
                "correlation-id-encoding" if value == "base64" => base64_correlation = true,
                "reply-to" => properties.reply_to = Some(Destination::parse_reply_to(&value)),
                "amqp-message-id" => properties.message_id = Some(value.into()),
                "type" => properties.kind = Some(value.into()),
                "app-id" => properties.app_id = Some(value.into()),
                "user-id" => properties.user_id = Some(value.into()),
                "priority" => properties.priority = value.trim().parse().ok(),
                "expiration" => properties.expiration_ms = value.trim().parse().ok(),
                // A number is a time of the sender; any other value is just a header of that name.
                "timestamp" if value.trim().parse::<u64>().is_ok() => properties.timestamp = value.trim().parse().ok(),
                "persistent" => {}
                _ => properties.headers.push(name, Value::text(&value)),
            }
        }
        properties.correlation = correlation.map(|text| match base64_correlation.then(|| decode_base64(&text)) {
            Some(Some(octets)) => octets.into(),
            _ => text.into_bytes().into(),
        });
        properties
    }

    /// Escaped text, and a correlation in base64, are not there as they are.
    fn may_mention(&self, raw: &[u8], text: &str) -> bool {
        let is_escaped = raw.first().is_some_and(|flags| *flags != 0);
        is_escaped || mentions(raw, text.as_bytes()) || mentions(raw, b"base64")
    }
}

/// Headers about this connection or this delivery. They are not passed on, because a sender could forge what the server
/// says. (RabbitMQ passes them on.)
pub(crate) fn is_server_owned(name: &str) -> bool {
    matches!(
        name,
        "destination"
            | "content-length"
            | "message-id"
            | "receipt"
            | "transaction"
            | "ack"
            | "subscription"
            | "redelivered"
    )
}

/// Writes those headers of a SEND that are passed on. `reply_to` replaces a temporary queue's name; `expiration_ms` is
/// added.
pub(crate) fn write(headers: &Headers, reply_to: Option<&str>, expiration_ms: Option<u64>, out: &mut Vec<u8>) {
    out.clear();
    out.push(0);
    for (name, value) in headers.iter() {
        if is_server_owned(name) || name == "x-mqtt-retain" || (name == "persistent" && !is_true(value)) {
            continue;
        }
        let value = match reply_to {
            Some(queue) if name == "reply-to" => {
                out.extend_from_slice(b"reply-to:/reply-queue/");
                queue
            }
            _ => {
                escape(name.as_bytes(), Version::V1_2, out);
                out.push(b':');
                value
            }
        };
        escape(value.as_bytes(), Version::V1_2, out);
        out.push(b'\n');
    }
    if let Some(ms) = expiration_ms {
        out.extend_from_slice(b"expiration:");
        push_decimal(out, ms);
        out.push(b'\n');
    }
    if out.len() == 1 {
        out.clear();
        return;
    }
    let mut marks = 0;
    // A backslash always begins an escape.
    if memchr::memchr(b'\\', out).is_some() {
        marks = ESCAPED;
        if out.windows(2).any(|pair| pair == b"\\r") {
            marks |= CARRIAGE_RETURN;
        }
    }
    if let Some(first) = out.first_mut() {
        *first = marks;
    }
}

/// Appends the lines of `raw` for a peer of `version`.
pub(crate) fn push_lines(raw: &[u8], version: Version, out: &mut Vec<u8>) {
    let Some((marks, text)) = raw.split_first() else { return };
    let as_they_are = match version {
        Version::V1_2 => true,
        Version::V1_1 => marks & CARRIAGE_RETURN == 0,
        Version::V1_0 => marks & ESCAPED == 0,
    };
    if as_they_are {
        out.extend_from_slice(text);
        return;
    }
    for (name, value) in lines(raw) {
        push_line(out, version, &name, value.as_bytes());
    }
}

/// Appends one header line for a client of `version`. STOMP 1.0 cannot express a name with a colon: such a line is left
/// out. Returns whether it was written.
pub(crate) fn push_line(out: &mut Vec<u8>, version: Version, name: &str, value: &[u8]) -> bool {
    if name.is_empty() || (version == Version::V1_0 && name.contains(':')) {
        return false;
    }
    escape(name.as_bytes(), version, out);
    out.push(b':');
    escape(value, version, out);
    out.push(b'\n');
    true
}

/// Names and values, unescaped. Damaged lines are skipped.
fn lines(raw: &[u8]) -> impl Iterator<Item = (String, String)> {
    let text = raw.get(1..).unwrap_or(&[]);
    text.split(|octet| *octet == b'\n').filter_map(|line| {
        let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
        let plain = |text| {
            let mut plain = String::with_capacity(name.len());
            unescape(text, Version::V1_2, &mut plain).ok().map(|()| plain)
        };
        Some((plain(name)?, plain(value)?))
    })
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::tests::headers;
    use gatepost_core::properties::ReplyTo;

    fn written(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut out = vec![9, 9];
        write(&headers("SEND", pairs), None, None, &mut out);
        out
    }

    fn pushed(raw: &[u8], version: Version) -> String {
        let mut out = Vec::new();
        push_lines(raw, version, &mut out);
        String::from_utf8(out).expect("lines are UTF-8")
    }

    /// The bytes on disk. If this test has to change, old logs can no longer be read.
    #[test]
    fn the_encoding_on_disk_stays_as_it_is() {
        assert_eq!(written(&[("destination", "/queue/a")]), b"");
        assert_eq!(written(&[("foo", "bar"), ("baz", "")]), b"\x00foo:bar\nbaz:\n");
        assert_eq!(written(&[("a:b", "c\\d\n")]), b"\x01a\\cb:c\\\\d\\n\n");
        assert_eq!(written(&[("foo", "a\rb")]), b"\x03foo:a\\rb\n");
        assert_eq!(ORIGIN, Origin(3));
    }

    /// A trace by property decodes only messages that may have it.
    #[test]
    fn a_property_that_decodes_may_be_mentioned() {
        let raw = written(&[("foo", "a b"), ("correlation-id", "c-1"), ("amqp-message-id", "m-1")]);
        for text in ["foo", "a b", "c-1", "m-1", ""] {
            assert!(StompProperties.may_mention(&raw, text), "{text}");
        }
        assert!(!StompProperties.may_mention(&raw, "c-2") && !StompProperties.may_mention(&raw, "fob"));
        for (name, value) in [("a:b", "c\\d"), ("foo", "a\rb"), ("x", "two\nlines")] {
            let raw = written(&[(name, value)]);
            let known = StompProperties.decode(&raw).headers;
            assert_eq!(known.lookup(name).and_then(Value::as_str), Some(value));
            assert!(StompProperties.may_mention(&raw, name) && StompProperties.may_mention(&raw, value));
        }
        let raw = written(&[("correlation-id", "aGk="), ("correlation-id-encoding", "base64")]);
        assert_eq!(StompProperties.decode(&raw).correlation.as_deref(), Some(&b"hi"[..]));
        assert!(StompProperties.may_mention(&raw, "hi"));
    }

    #[test]
    fn a_sender_cannot_forge_the_servers_headers() {
        let forged = [
            "receipt",
            "transaction",
            "ack",
            "subscription",
            "redelivered",
            "content-length",
            "message-id",
        ];
        for name in forged {
            assert_eq!(written(&[(name, "x"), ("foo", "bar")]), b"\x00foo:bar\n", "{name}");
        }
        assert_eq!(written(&[("persistent", "1"), ("x-mqtt-retain", "true")]), b"");
        assert_eq!(written(&[("persistent", "true")]), b"\x00persistent:true\n");
    }

    #[test]
    fn each_version_gets_the_headers_it_can_express() {
        let raw = written(&[("a:b", "1"), ("foo", "c:d\r\\")]);
        assert_eq!(pushed(&raw, Version::V1_2), "a\\cb:1\nfoo:c\\cd\\r\\\\\n");
        assert_eq!(pushed(&raw, Version::V1_1), "a\\cb:1\nfoo:c\\cd \\\\\n");
        assert_eq!(pushed(&raw, Version::V1_0), "foo:c:d \\\n");
        assert_eq!(pushed(b"", Version::V1_0), "");
    }

    #[test]
    fn temporary_queues_and_absolute_expiries_are_rewritten() {
        let mut out = Vec::new();
        let headers = headers("SEND", &[("reply-to", "/temp-queue/x"), ("foo", "1")]);
        write(&headers, Some("amq.gen-1"), Some(700), &mut out);
        assert_eq!(out, b"\x00reply-to:/reply-queue/amq.gen-1\nfoo:1\nexpiration:700\n");
    }

    #[test]
    fn other_protocols_see_typed_properties() {
        let raw = written(&[
            ("content-type", "text/plain"),
            ("correlation-id", "AP8="),
            ("correlation-id-encoding", "base64"),
            ("reply-to", "/topic/a.b"),
            ("priority", "3"),
            ("expiration", "500"),
            ("timestamp", "not a number"),
            ("persistent", "true"),
            ("user", "de\nfined"),
        ]);
        let properties = StompProperties.decode(&raw);
        assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
        assert_eq!(properties.correlation.as_deref(), Some(&[0, 255][..]));
        assert_eq!(properties.reply_to, Some(ReplyTo::Topic("a.b".into())));
        assert_eq!(
            (properties.priority, properties.expiration_ms, properties.timestamp),
            (Some(3), Some(500), None)
        );
        let names: Vec<_> = properties.headers.0.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["timestamp", "user"]);
        assert_eq!(properties.headers.lookup("user"), Some(&Value::text("de\nfined")));
    }

    #[test]
    fn damaged_bytes_give_what_can_be_read() {
        let properties = StompProperties.decode(b"\x01\xff:x\nno colon\nbad:\\q\nok:1\ncut");
        assert_eq!(properties.headers.0.len(), 1);
        assert_eq!(StompProperties.decode(b""), Properties::default());
    }
}
