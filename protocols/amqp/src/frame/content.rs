//! Content headers and the property list in them (AMQP 0-9-1 4.2.6).
//!
//! ```text
//!   flags u16 │ content-type ss │ content-encoding ss │ headers table │ delivery-mode u8 │ priority u8 │ correlation-id ss
//!   │ reply-to ss │ expiration ss │ message-id ss │ timestamp u64 │ type ss │ user-id ss │ app-id ss │ cluster-id ss
//! ```
//!
//! A property is present if its flag is set. Bit 0 of the flags says that another word of flags follows.

use super::field::{Field, Flaw, Parsed, long, put_long, put_short, short};
use super::{HEADER, put_frame, table};

/// The fixed part of a content header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentHeader<'a> {
    pub(crate) class: u16,
    pub(crate) weight: u16,
    /// Octets of body announced.
    pub(crate) size: u64,
    /// Flags and values, not decoded.
    pub(crate) properties: &'a [u8],
}

impl<'a> ContentHeader<'a> {
    /// Decodes a header frame's payload.
    pub(crate) fn decode(payload: &'a [u8]) -> Result<ContentHeader<'a>, Flaw> {
        let (rest, class) = u16::decode(payload)?;
        let (rest, weight) = u16::decode(rest)?;
        let (properties, size) = u64::decode(rest)?;
        Ok(ContentHeader {
            class,
            weight,
            size,
            properties,
        })
    }
}

/// Writes a header frame of class 60. `properties` writes the flags and the values.
pub(crate) fn put_header(out: &mut Vec<u8>, channel: u16, size: u64, properties: impl FnOnce(&mut Vec<u8>)) {
    put_frame(out, HEADER, channel, |out| {
        out.extend_from_slice(&[0, 60, 0, 0]);
        out.extend_from_slice(&size.to_be_bytes());
        properties(out);
    });
}

/// A decoded property list with borrowed values. An absent property differs from an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BasicProperties<'a> {
    pub(crate) content_type: Option<&'a [u8]>,
    pub(crate) content_encoding: Option<&'a [u8]>,
    /// The table's content, without its length.
    pub(crate) headers: Option<&'a [u8]>,
    pub(crate) delivery_mode: Option<u8>,
    pub(crate) priority: Option<u8>,
    pub(crate) correlation_id: Option<&'a [u8]>,
    pub(crate) reply_to: Option<&'a [u8]>,
    pub(crate) expiration: Option<&'a [u8]>,
    pub(crate) message_id: Option<&'a [u8]>,
    pub(crate) timestamp: Option<u64>,
    pub(crate) kind: Option<&'a [u8]>,
    pub(crate) user_id: Option<&'a [u8]>,
    pub(crate) app_id: Option<&'a [u8]>,
    pub(crate) cluster_id: Option<&'a [u8]>,
}

const CONTENT_TYPE: u16 = 0x8000;
const CONTENT_ENCODING: u16 = 0x4000;
const HEADERS: u16 = 0x2000;
const DELIVERY_MODE: u16 = 0x1000;
const PRIORITY: u16 = 0x0800;
const CORRELATION_ID: u16 = 0x0400;
const REPLY_TO: u16 = 0x0200;
const EXPIRATION: u16 = 0x0100;
const MESSAGE_ID: u16 = 0x0080;
const TIMESTAMP: u16 = 0x0040;
const KIND: u16 = 0x0020;
const USER_ID: u16 = 0x0010;
const APP_ID: u16 = 0x0008;
const CLUSTER_ID: u16 = 0x0004;
const CONTINUATION: u16 = 0x0001;

impl<'a> BasicProperties<'a> {
    /// Decodes flags and values. `raw` must contain nothing else. The headers table is checked too.
    pub(crate) fn decode(raw: &'a [u8]) -> Result<BasicProperties<'a>, Flaw> {
        let (mut rest, flags) = u16::decode(raw)?;
        let mut word = flags;
        while word & CONTINUATION != 0 {
            (rest, word) = u16::decode(rest)?;
            // No property is defined in a further flag word, so the length of its value would be unknown.
            if word & !CONTINUATION != 0 {
                return Err(Flaw::Syntax);
            }
        }
        let given = |flag: u16| flags & flag != 0;
        let (rest, content_type) = optional(given(CONTENT_TYPE), short, rest)?;
        let (rest, content_encoding) = optional(given(CONTENT_ENCODING), short, rest)?;
        let (rest, headers) = optional(given(HEADERS), long, rest)?;
        let (rest, delivery_mode) = optional(given(DELIVERY_MODE), u8::decode, rest)?;
        let (rest, priority) = optional(given(PRIORITY), u8::decode, rest)?;
        let (rest, correlation_id) = optional(given(CORRELATION_ID), short, rest)?;
        let (rest, reply_to) = optional(given(REPLY_TO), short, rest)?;
        let (rest, expiration) = optional(given(EXPIRATION), short, rest)?;
        let (rest, message_id) = optional(given(MESSAGE_ID), short, rest)?;
        let (rest, timestamp) = optional(given(TIMESTAMP), u64::decode, rest)?;
        let (rest, kind) = optional(given(KIND), short, rest)?;
        let (rest, user_id) = optional(given(USER_ID), short, rest)?;
        let (rest, app_id) = optional(given(APP_ID), short, rest)?;
        let (rest, cluster_id) = optional(given(CLUSTER_ID), short, rest)?;
        if !rest.is_empty() {
            return Err(Flaw::Syntax);
        }
        if let Some(content) = headers {
            table::check(content)?;
        }
        Ok(BasicProperties {
            content_type,
            content_encoding,
            headers,
            delivery_mode,
            priority,
            correlation_id,
            reply_to,
            expiration,
            message_id,
            timestamp,
            kind,
            user_id,
            app_id,
            cluster_id,
        })
    }

    /// Writes flags and values.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let bit = |given: bool, flag: u16| if given { flag } else { 0 };
        let flags = bit(self.content_type.is_some(), CONTENT_TYPE)
            | bit(self.content_encoding.is_some(), CONTENT_ENCODING)
            | bit(self.headers.is_some(), HEADERS)
            | bit(self.delivery_mode.is_some(), DELIVERY_MODE)
            | bit(self.priority.is_some(), PRIORITY)
            | bit(self.correlation_id.is_some(), CORRELATION_ID)
            | bit(self.reply_to.is_some(), REPLY_TO)
            | bit(self.expiration.is_some(), EXPIRATION)
            | bit(self.message_id.is_some(), MESSAGE_ID)
            | bit(self.timestamp.is_some(), TIMESTAMP)
            | bit(self.kind.is_some(), KIND)
            | bit(self.user_id.is_some(), USER_ID)
            | bit(self.app_id.is_some(), APP_ID)
            | bit(self.cluster_id.is_some(), CLUSTER_ID);
        out.extend_from_slice(&flags.to_be_bytes());
        let text = |out: &mut Vec<u8>, value: Option<&[u8]>| {
            if let Some(octets) = value {
                put_short(out, octets);
            }
        };
        text(out, self.content_type);
        text(out, self.content_encoding);
        if let Some(content) = self.headers {
            put_long(out, content);
        }
        out.extend(self.delivery_mode);
        out.extend(self.priority);
        text(out, self.correlation_id);
        text(out, self.reply_to);
        text(out, self.expiration);
        text(out, self.message_id);
        if let Some(seconds) = self.timestamp {
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        text(out, self.kind);
        text(out, self.user_id);
        text(out, self.app_id);
        text(out, self.cluster_id);
    }
}

fn optional<'a, T>(
    given: bool,
    field: impl FnOnce(&'a [u8]) -> Parsed<'a, T>,
    input: &'a [u8],
) -> Parsed<'a, Option<T>> {
    if !given {
        return Ok((input, None));
    }
    let (rest, value) = field(input)?;
    Ok((rest, Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_property_roundtrips_in_order() {
        let all = BasicProperties {
            content_type: Some(b"text/plain"),
            content_encoding: Some(b""),
            headers: Some(b"\x01at\x01"),
            delivery_mode: Some(2),
            priority: Some(9),
            correlation_id: Some(b"c"),
            reply_to: Some(b"r"),
            expiration: Some(b"100"),
            message_id: Some(b"m"),
            timestamp: Some(1),
            kind: Some(b"t"),
            user_id: Some(b"u"),
            app_id: Some(b"a"),
            cluster_id: Some(b""),
        };
        let mut raw = Vec::new();
        all.encode(&mut raw);
        assert_eq!(raw[..2], [0xFF, 0xFC]);
        assert_eq!(BasicProperties::decode(&raw), Ok(all));
    }

    #[test]
    fn unset_is_not_empty() {
        let raw = [0x80, 0, 0];
        let properties = BasicProperties::decode(&raw).unwrap();
        assert_eq!(properties.content_type, Some(b"".as_slice()));
        assert_eq!(properties.content_encoding, None);
    }

    #[test]
    fn header_golden_octets() {
        let mut out = Vec::new();
        let persistent = BasicProperties {
            delivery_mode: Some(2),
            ..BasicProperties::default()
        };
        put_header(&mut out, 1, 5, |out| persistent.encode(out));
        assert_eq!(
            out,
            [
                2, 0, 1, 0, 0, 0, 15, 0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0x10, 0, 2, 0xCE
            ]
        );
    }

    #[test]
    fn malformed_lists_are_refused() {
        let trailing = [0, 0, 1].as_slice();
        let missing = [0x10, 0].as_slice();
        let bad_headers = [0x20, 0, 0, 0, 0, 3, 1, b'a', b'Z'].as_slice();
        let endless_flags = [0, 1, 0, 1].as_slice();
        let unknown_flag = [0, 1, 0x80, 0].as_slice();
        for raw in [trailing, missing, bad_headers, endless_flags, unknown_flag, &[]] {
            assert_eq!(BasicProperties::decode(raw), Err(Flaw::Syntax), "{raw:?}");
        }
        assert!(
            BasicProperties::decode(&[0, 1, 0, 0]).is_ok(),
            "an empty second word of flags"
        );
    }
}
