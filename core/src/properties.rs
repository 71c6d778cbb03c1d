//! The neutral view of a message's properties, decoded when a message crosses protocols, reaches a headers exchange, or
//! is dead-lettered. For delivery by the same protocol, the original bytes are used and nothing here runs.

use crate::ledger;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A shared, immutable name: of a queue, an exchange, a client, a header.
pub type Name = Arc<str>;

/// A typed value of a header or an argument.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// No value. In a binding to a headers exchange: the header must be present.
    Void,
    /// A boolean.
    Bool(bool),
    /// A signed integer and its width in bits (8, 16, 32, 64), with which it is encoded again.
    Int(i64, u8),
    /// An unsigned integer and its width in bits (8, 16, 32).
    Uint(u32, u8),
    /// A 32-bit float.
    Float(f32),
    /// A 64-bit float.
    Double(f64),
    /// Scale and unscaled value.
    Decimal(u8, u32),
    /// Bytes that are usually UTF-8 text.
    Text(Box<[u8]>),
    /// Bytes.
    Binary(Box<[u8]>),
    /// Seconds since the Unix epoch.
    Timestamp(u64),
    /// A list.
    Array(Box<[Value]>),
    /// A nested table.
    Table(Table),
}

/// An ordered multimap from name to value. Names may repeat; a look-up finds the first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Table(pub Vec<(Name, Value)>);

impl Table {
    /// The first value under `name`.
    pub fn lookup(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(n, _)| &**n == name).map(|(_, v)| v)
    }
    /// Appends a pair.
    pub fn push(&mut self, name: impl Into<Name>, value: Value) {
        self.0.push((name.into(), value));
    }
    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Bytes of memory on the heap. Walks all of it.
    pub(crate) fn memory(&self) -> usize {
        if self.0.is_empty() {
            return 0;
        }
        let parts = self
            .0
            .iter()
            .map(|(name, value)| ledger::text(name.len()) + value.memory());
        ledger::allocation(self.0.capacity() * std::mem::size_of::<(Name, Value)>()) + parts.sum::<usize>()
    }
}

impl Value {
    /// A text value.
    pub fn text(s: &str) -> Value {
        Value::Text(s.as_bytes().into())
    }
    /// Bytes of memory on the heap.
    fn memory(&self) -> usize {
        match self {
            Value::Text(octets) | Value::Binary(octets) => ledger::allocation(octets.len()),
            Value::Array(values) => {
                let list = ledger::allocation(values.len() * std::mem::size_of::<Value>());
                list + values.iter().map(Value::memory).sum::<usize>()
            }
            Value::Table(table) => table.memory(),
            _ => 0,
        }
    }
    /// The value as text, if it is UTF-8 text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Text(b) => std::str::from_utf8(b).ok(),
            _ => None,
        }
    }
    /// The value as an integer of any width.
    pub fn as_int(&self) -> Option<i64> {
        match *self {
            Value::Int(i, _) => Some(i),
            Value::Uint(u, _) => Some(i64::from(u)),
            _ => None,
        }
    }
}

/// Where an answer is to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplyTo {
    /// A queue, by name.
    Queue(Name),
    /// A topic, as a routing key in the dot dialect.
    Topic(Name),
    /// An exchange and a routing key.
    Exchange(Name, Name),
}

/// All properties that a message can carry between protocols. An absent one differs from an empty one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Properties {
    /// MIME type of the body.
    pub content_type: Option<Name>,
    /// MIME encoding of the body.
    pub content_encoding: Option<Name>,
    /// Bytes that connect an answer with its request.
    pub correlation: Option<Box<[u8]>>,
    /// Where the answer goes.
    pub reply_to: Option<ReplyTo>,
    /// 0 to 255.
    pub priority: Option<u8>,
    /// Application message id.
    pub message_id: Option<Name>,
    /// Sender's clock, seconds since the Unix epoch.
    pub timestamp: Option<u64>,
    /// The application's type of the message.
    pub kind: Option<Name>,
    /// The application's id.
    pub app_id: Option<Name>,
    /// The authenticated sender.
    pub user_id: Option<Name>,
    /// Time to live as the sender wrote it, in milliseconds.
    pub expiration_ms: Option<u64>,
    /// The body is UTF-8 text (MQTT payload format 1).
    pub utf8_body: bool,
    /// The sender said that the message need not be stored, where others say nothing. The neutral encoding keeps it in
    /// its version.
    #[serde(skip)]
    pub said_transient: bool,
    /// Everything else, in order.
    pub headers: Table,
}

/// Decodes the properties of one origin. Each protocol crate has one. The log stores [`Origin`] with the bytes, so its
/// codes are part of the on-disk format and never change.
pub trait PropertyCodec: Send + Sync {
    /// The stable code of this encoding.
    fn origin(&self) -> Origin;
    /// The neutral view of `raw`, which a session of this origin has accepted before. From damaged bytes it returns
    /// what could be read.
    fn decode(&self, raw: &[u8]) -> Properties;
    /// Whether `raw` may contain `text` as a name or a value. Called for each message while messages with a certain
    /// property are traced, before they are decoded. False must be right, true need not be.
    fn may_mention(&self, raw: &[u8], text: &str) -> bool {
        let _ = (raw, text);
        true
    }
    /// Further routing keys that `raw` names. Called if [`Envelope::extra_keys`](crate::message::Envelope) is set.
    fn extra_keys(&self, raw: &[u8]) -> Vec<Name> {
        let _ = raw;
        Vec::new()
    }
}

/// The stable on-disk code of a property encoding. 0: no properties.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Origin(pub u8);

impl Origin {
    /// No properties at all.
    pub const NONE: Origin = Origin(0);
    /// The encoding of [`Properties`] that the engine writes when it had to change them: version 1, or 2 if the sender said
    /// that the message need not be stored; then the properties and a `Trail`, both in postcard's encoding.
    pub const NEUTRAL: Origin = Origin(255);
}

/// The codecs of all protocols in this process.
#[derive(Clone, Default)]
pub struct Codecs(Vec<Arc<dyn PropertyCodec>>);

impl Codecs {
    /// A registry of these codecs.
    pub fn new(codecs: Vec<Arc<dyn PropertyCodec>>) -> Self {
        Codecs(codecs)
    }
    /// The neutral view of `raw`; empty for an origin that is not registered.
    pub fn decode(&self, origin: Origin, raw: &[u8]) -> Properties {
        if origin == Origin::NEUTRAL {
            return decode_neutral(raw).0;
        }
        self.0
            .iter()
            .find(|c| c.origin() == origin)
            .map(|c| c.decode(raw))
            .unwrap_or_default()
    }
    /// Whether `raw` may contain `text`: see [`PropertyCodec::may_mention`].
    pub fn may_mention(&self, origin: Origin, raw: &[u8], text: &str) -> bool {
        if origin == Origin::NEUTRAL {
            return mentions(raw, text.as_bytes());
        }
        let mut codecs = self.0.iter();
        let codec = codecs.find(|c| c.origin() == origin);
        codec.is_some_and(|c| c.may_mention(raw, text))
    }
    /// Further routing keys that `raw` names; none for an origin that is not registered.
    pub fn extra_keys(&self, origin: Origin, raw: &[u8]) -> Vec<Name> {
        if origin == Origin::NEUTRAL {
            let (properties, trail) = decode_neutral(raw);
            let mut keys = texts(properties.headers.lookup(CC));
            keys.extend(trail.hidden_keys);
            return keys;
        }
        self.0
            .iter()
            .find(|c| c.origin() == origin)
            .map(|c| c.extra_keys(raw))
            .unwrap_or_default()
    }
}

/// The header with further routing keys that receivers see, an array of texts. Keys that receivers must not see are not
/// stored in a header by the engine: see [`Trail::hidden_keys`].
pub(crate) const CC: &str = "CC";

/// The texts of an array.
pub(crate) fn texts(value: Option<&Value>) -> Vec<Name> {
    let Some(Value::Array(values)) = value else {
        return Vec::new();
    };
    values.iter().filter_map(|v| v.as_str().map(Name::from)).collect()
}

/// What the engine stores with a dead-lettered message, and no client can write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trail {
    /// Routing keys that receivers must not see (BCC).
    pub(crate) hidden_keys: Vec<Name>,
    /// Queues in which the message died since a client last published or rejected it. It is not dead-lettered into any
    /// of them again: a cycle without a client would never end.
    pub(crate) died_in: Vec<Name>,
}

/// The trail in a message's properties. Empty before its first dead-lettering.
pub(crate) fn trail_of(origin: Origin, raw: &[u8]) -> Trail {
    if origin == Origin::NEUTRAL {
        decode_neutral(raw).1
    } else {
        Trail::default()
    }
}

/// Versions of the neutral encoding, which differ in [`Properties::said_transient`] alone.
const NEUTRAL: u8 = 1;
const NEUTRAL_TRANSIENT: u8 = 2;

/// The neutral encoding: see [`Origin::NEUTRAL`].
pub(crate) fn encode_neutral(properties: &Properties, trail: &Trail) -> Vec<u8> {
    let version = if properties.said_transient {
        NEUTRAL_TRANSIENT
    } else {
        NEUTRAL
    };
    match postcard::to_extend(&(properties, trail), vec![version]) {
        Ok(bytes) => bytes,
        // Writing plain data into a growing buffer cannot fail.
        Err(e) => unreachable!("postcard refused plain data: {e}"),
    }
}

/// Encodes properties so that every protocol can read them ([`Origin::NEUTRAL`]), for messages that no protocol's
/// client publishes. `hidden_keys`: further routing keys that receivers must not see.
pub fn neutral(properties: &Properties, hidden_keys: Vec<Name>) -> Vec<u8> {
    let trail = Trail {
        hidden_keys,
        ..Trail::default()
    };
    encode_neutral(properties, &trail)
}

fn decode_neutral(raw: &[u8]) -> (Properties, Trail) {
    let Some((&version @ (NEUTRAL | NEUTRAL_TRANSIENT), fields)) = raw.split_first() else {
        return Default::default();
    };
    let (properties, trail) = postcard::from_bytes(fields).unwrap_or_default();
    let said_transient = version == NEUTRAL_TRANSIENT;
    let properties = Properties {
        said_transient,
        ..properties
    };
    (properties, trail)
}

/// Whether `raw` contains the bytes of `text`.
pub fn mentions(raw: &[u8], text: &[u8]) -> bool {
    let Some((first, rest)) = text.split_first() else {
        return true;
    };
    let mut raw = raw;
    while let Some(at) = raw.iter().position(|octet| octet == first) {
        raw = &raw[at + 1..];
        if raw.starts_with(rest) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_neutral_encoding_keeps_that_a_message_was_called_transient() {
        for said_transient in [false, true] {
            let properties = Properties {
                said_transient,
                kind: Some("t".into()),
                ..Properties::default()
            };
            let trail = Trail {
                hidden_keys: vec!["h".into()],
                died_in: vec!["q".into()],
            };
            let raw = encode_neutral(&properties, &trail);
            assert_eq!(decode_neutral(&raw), (properties, trail));
        }
        assert_eq!(decode_neutral(&[]), Default::default());
        assert_eq!(
            decode_neutral(&[3, 0, 0]),
            Default::default(),
            "a version that is not known"
        );
    }
}
