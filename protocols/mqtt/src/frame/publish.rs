//! PUBLISH (MQTT 5 3.3; MQTT 3.1.1 3.3).

use crate::error::Error;
use crate::frame::property::Place;
use crate::frame::{Kind, Parsed, Properties, Sender, Version, packet_id, text, varint};

/// A message, in either direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publish<'a> {
    /// It may have been sent before.
    pub dup: bool,
    /// QoS, 0 to 2.
    pub qos: u8,
    /// From a client: the message is to be retained. From a server: it is a retained one.
    pub retain: bool,
    /// Topic name. Empty only together with a topic alias.
    pub topic: &'a str,
    /// Packet identifier; 0 at QoS 0.
    pub packet_id: u16,
    /// MQTT 5 only.
    pub properties: Properties<'a>,
    /// The message's body.
    pub payload: &'a [u8],
}

const DUP: u8 = 0x08;
const RETAIN: u8 = 0x01;

impl<'a> Publish<'a> {
    /// Decodes the body of a PUBLISH whose first byte has these flags.
    ///
    /// # Errors
    /// The body is malformed, or breaks a rule of the protocol. In MQTT 5 the session checks that an empty topic comes
    /// with a known alias.
    pub fn decode(flags: u8, body: &'a [u8], version: Version, sender: Sender) -> Result<Publish<'a>, Error> {
        Publish::decode_with(flags, body, version, sender, "")
    }

    /// The same for a peer that has published to the topic `known` before: it is not checked again, and becomes the packet's.
    ///
    /// # Errors
    /// As [`Publish::decode`].
    #[inline]
    pub(crate) fn decode_with(
        flags: u8,
        body: &'a [u8],
        version: Version,
        sender: Sender,
        known: &'a str,
    ) -> Result<Publish<'a>, Error> {
        let qos = flags >> 1 & 3;
        if qos == 3 {
            return Err(Error::Malformed("quality of service 3")); // [MQTT-3.3.1-4]
        }
        if qos == 0 && flags & DUP != 0 {
            return Err(Error::Malformed("DUP at quality of service 0")); // [MQTT-3.3.1-2]
        }
        let (payload, (topic, packet_id, properties)) = variable_header(body, qos, version, sender, known)?;
        Ok(Publish {
            dup: flags & DUP != 0,
            qos,
            retain: flags & RETAIN != 0,
            topic,
            packet_id,
            properties,
            payload,
        })
    }

    /// Appends the whole packet.
    ///
    /// # Errors
    /// [`Error::TooLong`]; nothing was appended.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Error> {
        let properties = (version == Version::V5).then_some([self.properties.raw(), &[], &[]]);
        let topic = self.topic.as_bytes();
        let first = first_byte(self.dup, self.qos, self.retain);
        write(out, usize::MAX, first, topic, self.packet_id, properties, self.payload).map(drop)
    }
}

/// The first byte of a PUBLISH.
pub(crate) fn first_byte(dup: bool, qos: u8, retain: bool) -> u8 {
    Kind::Publish.first_byte() | if dup { DUP } else { 0 } | (qos & 3) << 1 | u8::from(retain)
}

/// Appends a PUBLISH whose properties are given in three parts (MQTT 3: `None`), unless the packet would be longer than
/// `size_max`. Returns whether it was appended.
///
/// # Errors
/// [`Error::TooLong`]: too long for the wire; nothing was appended.
pub(crate) fn write(
    out: &mut Vec<u8>,
    size_max: usize,
    first: u8,
    topic: &[u8],
    packet_id: u16,
    properties: Option<[&[u8]; 3]>,
    payload: &[u8],
) -> Result<bool, Error> {
    let numbered = first & 0x06 != 0;
    let properties_len = properties.map(|parts| parts.iter().map(|p| p.len()).sum::<usize>());
    let remaining = 2
        + topic.len()
        + if numbered { 2 } else { 0 }
        + properties_len.map_or(0, |len| varint::len(len) + len)
        + payload.len();
    let topic_len = u16::try_from(topic.len()).map_err(|_| Error::TooLong)?;
    let wire_len = u32::try_from(remaining)
        .ok()
        .filter(|&len| len <= varint::MAX)
        .ok_or(Error::TooLong)?;
    let size = 1 + varint::len(remaining) + remaining;
    if size > size_max {
        return Ok(false);
    }
    out.reserve(size);
    out.push(first);
    varint::write(wire_len, out);
    out.extend_from_slice(&topic_len.to_be_bytes());
    out.extend_from_slice(topic);
    if numbered {
        out.extend_from_slice(&packet_id.to_be_bytes());
    }
    if let (Some(parts), Some(len)) = (properties, properties_len) {
        // Shorter than `remaining`, so it fits.
        varint::write(len as u32, out);
        for part in parts {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(payload);
    Ok(true)
}

type VariableHeader<'a> = (&'a str, u16, Properties<'a>);

#[inline]
fn variable_header<'a>(
    input: &'a [u8],
    qos: u8,
    version: Version,
    sender: Sender,
    known: &'a str,
) -> Parsed<'a, VariableHeader<'a>> {
    let (rest, topic) = text::binary(input)?;
    let topic = match topic {
        [] if version == Version::V5 => "",
        topic if topic == known.as_bytes() && !topic.is_empty() => known,
        topic => text::topic_name(topic)?,
    };
    let (rest, id) = if qos == 0 { (rest, 0) } else { packet_id(rest)? };
    let (rest, properties) = match (version, sender) {
        (Version::V5, Sender::Client) => Properties::parse(Place::PublishToServer, rest)?,
        (Version::V5, Sender::Server) => Properties::parse(Place::PublishToClient, rest)?,
        _ => (rest, Properties::EMPTY),
    };
    Ok((rest, (topic, id, properties)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::golden::{both_ways, decode};
    use crate::frame::{Packet, Property, PropertyBuf};

    #[test]
    fn golden_bytes() {
        let plain = Publish {
            topic: "a/b",
            payload: b"hi",
            ..Publish::default()
        };
        both_ways(
            Version::V311,
            Sender::Client,
            b"\x30\x07\0\x03a/bhi",
            &Packet::Publish(plain.clone()),
        );
        both_ways(
            Version::V5,
            Sender::Server,
            b"\x30\x08\0\x03a/b\0hi",
            &Packet::Publish(plain),
        );
        let full = Publish {
            dup: true,
            qos: 2,
            retain: true,
            topic: "t",
            packet_id: 0x1234,
            properties: Properties::EMPTY,
            payload: b"",
        };
        both_ways(
            Version::V31,
            Sender::Client,
            b"\x3d\x05\0\x01t\x12\x34",
            &Packet::Publish(full.clone()),
        );
        let properties = PropertyBuf::from_iter([Property::TopicAlias(1), Property::User("k", "v")]);
        let with = Publish {
            topic: "",
            properties: properties.as_properties(),
            ..full
        };
        let bytes = b"\x3d\x0f\0\0\x12\x34\x0a\x23\0\x01\x26\0\x01k\0\x01v";
        both_ways(Version::V5, Sender::Client, bytes, &Packet::Publish(with));
    }

    #[test]
    fn lengths_beyond_one_byte_of_varint_read_back() {
        for len in [120, 127, 128, 16_383, 16_384, 2_097_152] {
            let payload = vec![7; len];
            let mut out = Vec::new();
            let packet = Publish {
                topic: "t",
                payload: &payload,
                ..Publish::default()
            };
            packet.encode(Version::V5, &mut out).unwrap();
            assert_eq!(decode(Version::V5, Sender::Client, &out), Ok(Packet::Publish(packet)));
        }
    }

    #[test]
    fn flags_ids_and_topics_are_checked() {
        for bytes in [
            &b"\x36\x05\0\x01t\0\x01"[..], // QoS 3
            b"\x38\x03\0\x01t",            // DUP at QoS 0
            b"\x32\x05\0\x01t\0\0",        // packet id 0
            b"\x32\x03\0\x01t",            // no packet id
            b"\x30\x02\0\0",               // no topic
            b"\x30\x03\0\x01+",
            b"\x30\x03\0\x02t",
        ] {
            assert!(decode(Version::V311, Sender::Client, bytes).is_err(), "{bytes:?}");
        }
        assert!(decode(Version::V5, Sender::Client, b"\x30\x05\0\0\x03\x23\0").is_err());
        let sub_id = b"\x30\x06\0\x01t\x02\x0b\x01";
        assert!(matches!(
            decode(Version::V5, Sender::Client, sub_id),
            Err(Error::Protocol(_))
        ));
        assert!(decode(Version::V5, Sender::Server, sub_id).is_ok());
    }
}
