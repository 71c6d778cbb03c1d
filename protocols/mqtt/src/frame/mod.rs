//! The packets of MQTT 3.1, 3.1.1 and 5: one file for each, with decoder and encoder.
//!
//! A decoder gets a body whose size the remaining length bounds, and must consume all of it. The properties within are
//! bounded again by their own length. A decoded packet is legal by itself; rules that depend on the state are checked
//! by the session. Decoded packets borrow from their input; they own only lists.

mod ack;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod header;
mod property;
mod publish;
mod suback;
mod subscribe;
mod text;
mod unsuback;
mod unsubscribe;
pub mod varint;

pub use ack::Ack;
pub use auth::Auth;
pub use connack::ConnAck;
pub use connect::{Connect, LastWill};
pub use disconnect::Disconnect;
pub use header::{Header, Kind};
pub use property::{Properties, Property, PropertyBuf};
pub use publish::Publish;
pub use suback::SubAck;
pub use subscribe::{Filter, Subscribe};
pub use text::{filter, is_plain, is_too_deep, topic_name};
pub use unsuback::UnsubAck;
pub use unsubscribe::Unsubscribe;

pub(crate) use publish::{first_byte as publish_first_byte, write as write_publish};

use crate::error::{Error, Reason};
use smallvec::SmallVec;

/// The result of a parser over a bounded slice: the remaining bytes, and the value.
pub(crate) type Parsed<'a, T> = nom::IResult<&'a [u8], T, Error>;

/// The versions of the protocol that are supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// MQTT 3.1 (`MQIsdp`, level 3).
    V31,
    /// MQTT 3.1.1 (`MQTT`, level 4).
    V311,
    /// MQTT 5.0 (`MQTT`, level 5).
    V5,
}

impl Version {
    /// The version's name in lists and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Version::V31 => "MQTT 3.1",
            Version::V311 => "MQTT 3.1.1",
            Version::V5 => "MQTT 5.0",
        }
    }
}

/// The sender of a packet. A few properties and codes are allowed for only one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// The packet goes to the server.
    Client,
    /// The packet goes to the client.
    Server,
}

/// Any packet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the packet of that name")]
pub enum Packet<'a> {
    Connect(Connect<'a>),
    ConnAck(ConnAck<'a>),
    Publish(Publish<'a>),
    PubAck(Ack<'a>),
    PubRec(Ack<'a>),
    PubRel(Ack<'a>),
    PubComp(Ack<'a>),
    Subscribe(Subscribe<'a>),
    SubAck(SubAck<'a>),
    Unsubscribe(Unsubscribe<'a>),
    UnsubAck(UnsubAck<'a>),
    PingReq,
    PingResp,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
}

impl<'a> Packet<'a> {
    /// Decodes the body of a packet. `version` does not matter for CONNECT.
    ///
    /// # Errors
    /// The packet is malformed, or breaks a rule that does not depend on the session's state.
    pub fn decode(header: &Header, body: &'a [u8], version: Version, sender: Sender) -> Result<Packet<'a>, Error> {
        Ok(match header.kind {
            Kind::Connect => Packet::Connect(Connect::decode(header.flags, body)?),
            Kind::ConnAck => Packet::ConnAck(ConnAck::decode(body, version)?),
            Kind::Publish => Packet::Publish(Publish::decode(header.flags, body, version, sender)?),
            Kind::PubAck => Packet::PubAck(Ack::decode(header.kind, body, version)?),
            Kind::PubRec => Packet::PubRec(Ack::decode(header.kind, body, version)?),
            Kind::PubRel => Packet::PubRel(Ack::decode(header.kind, body, version)?),
            Kind::PubComp => Packet::PubComp(Ack::decode(header.kind, body, version)?),
            Kind::Subscribe => Packet::Subscribe(Subscribe::decode(body, version)?),
            Kind::SubAck => Packet::SubAck(SubAck::decode(body, version)?),
            Kind::Unsubscribe => Packet::Unsubscribe(Unsubscribe::decode(body, version)?),
            Kind::UnsubAck => Packet::UnsubAck(UnsubAck::decode(body, version)?),
            Kind::PingReq => Packet::PingReq,
            Kind::PingResp => Packet::PingResp,
            Kind::Disconnect => Packet::Disconnect(Disconnect::decode(body, version, sender)?),
            Kind::Auth => Packet::Auth(Auth::decode(body, sender)?),
        })
    }

    /// Appends the whole packet. `version` does not matter for CONNECT. Fields that MQTT 3 does not have are left out.
    ///
    /// # Errors
    /// [`Error::TooLong`]; nothing was appended.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Error> {
        match self {
            Packet::Connect(packet) => packet.encode(out),
            Packet::ConnAck(packet) => packet.encode(version, out),
            Packet::Publish(packet) => packet.encode(version, out),
            Packet::PubAck(packet) => packet.encode(Kind::PubAck, version, out),
            Packet::PubRec(packet) => packet.encode(Kind::PubRec, version, out),
            Packet::PubRel(packet) => packet.encode(Kind::PubRel, version, out),
            Packet::PubComp(packet) => packet.encode(Kind::PubComp, version, out),
            Packet::Subscribe(packet) => packet.encode(version, out),
            Packet::SubAck(packet) => packet.encode(version, out),
            Packet::Unsubscribe(packet) => packet.encode(version, out),
            Packet::UnsubAck(packet) => packet.encode(version, out),
            Packet::PingReq => frame(Kind::PingReq.first_byte(), out, |_| Ok(())),
            Packet::PingResp => frame(Kind::PingResp.first_byte(), out, |_| Ok(())),
            Packet::Disconnect(packet) => packet.encode(version, out),
            Packet::Auth(packet) => packet.encode(out),
        }
    }
}

/// Appends a packet whose body `body` writes. The length is inserted afterwards, so bodies of 128 bytes and more move
/// by up to three bytes. PUBLISH is long and frequent, so it computes its length first instead.
pub(crate) fn frame(
    first: u8,
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    let start = out.len();
    out.extend_from_slice(&[first, 0]);
    let body_start = out.len();
    let remaining = body(out).and_then(|()| {
        u32::try_from(out.len() - body_start)
            .ok()
            .filter(|&len| len <= varint::MAX)
            .ok_or(Error::TooLong)
    });
    match remaining {
        Ok(remaining) => {
            let mut len = SmallVec::<[u8; 4]>::new();
            varint::write(remaining, &mut len);
            out.splice(start + 1..body_start, len);
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

/// The packet identifier. It must be present and not 0 [MQTT-2.2.1-3].
pub(crate) fn packet_id(input: &[u8]) -> Parsed<'_, u16> {
    match text::u16(input)? {
        (_, 0) => Err(Error::Protocol("a packet identifier is 0").into()),
        ok => Ok(ok),
    }
}

/// Reason code and properties at the end of acks, DISCONNECT and AUTH. Both may be absent.
pub(crate) fn reason_and_properties<'a>(
    input: &'a [u8],
    place: property::Place,
    legal: &[u8],
) -> Parsed<'a, (Reason, Properties<'a>)> {
    if input.is_empty() {
        return Ok((input, (Reason::SUCCESS, Properties::EMPTY)));
    }
    let (rest, code) = text::u8(input)?;
    if !legal.contains(&code) {
        return Err(Error::Protocol("a reason code is not for this packet").into());
    }
    if rest.is_empty() {
        return Ok((rest, (Reason(code), Properties::EMPTY)));
    }
    let (rest, properties) = Properties::parse(place, rest)?;
    Ok((rest, (Reason(code), properties)))
}

/// Appends reason code and properties in their shortest form.
pub(crate) fn put_reason_and_properties(
    reason: Reason,
    properties: &Properties<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    if reason == Reason::SUCCESS && properties.is_empty() {
        return Ok(());
    }
    out.push(reason.0);
    if properties.is_empty() {
        Ok(())
    } else {
        properties.put(out)
    }
}

#[cfg(test)]
mod golden {
    //! Checks decoding and encoding of the bytes in the packets' tests.

    use super::*;

    /// Asserts that `bytes` decode to `packet`, and `packet` encodes to `bytes`.
    pub(super) fn both_ways(version: Version, sender: Sender, bytes: &[u8], packet: &Packet<'_>) {
        assert_eq!(decode(version, sender, bytes).as_ref(), Ok(packet));
        let mut out = b"before".to_vec();
        packet.encode(version, &mut out).unwrap();
        assert_eq!(out.strip_prefix(b"before"), Some(bytes));
    }

    /// The single packet in `bytes`.
    pub(super) fn decode(version: Version, sender: Sender, bytes: &[u8]) -> Result<Packet<'_>, Error> {
        let header = Header::read(bytes, version)?.expect("a whole header");
        assert_eq!(header.size(), bytes.len(), "a whole packet");
        Packet::decode(&header, &bytes[header.len..], version, sender)
    }

    #[test]
    fn pings_are_two_bytes() {
        for version in [Version::V31, Version::V311, Version::V5] {
            both_ways(version, Sender::Client, &[0xC0, 0], &Packet::PingReq);
            both_ways(version, Sender::Server, &[0xD0, 0], &Packet::PingResp);
        }
    }

    #[test]
    fn a_packet_too_long_for_the_wire_appends_nothing() {
        let topic = "t".repeat(65_536);
        let mut out = vec![1];
        let publish = Publish {
            topic: &topic,
            ..Publish::default()
        };
        assert_eq!(publish.encode(Version::V5, &mut out), Err(Error::TooLong));
        let unsubscribe = Unsubscribe {
            packet_id: 1,
            properties: Properties::EMPTY,
            filters: vec!["a", &topic],
        };
        assert_eq!(unsubscribe.encode(Version::V5, &mut out), Err(Error::TooLong));
        assert_eq!(out, [1]);
    }
}
