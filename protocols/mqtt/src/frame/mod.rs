//! The packets of MQTT 3.1, 3.1.1 and 5: one file each, decoded and encoded.
//!
//! A decoder is given a body bounded by the remaining length and must use it up; the properties in it are bounded a
//! second time by their own length. What decodes is legal by itself; what is legal only in a certain state is the
//! session's business. Decoded packets borrow from their input and own nothing but lists.

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

/// What a parser over a bounded slice gives: the rest and the value.
pub(crate) type Parsed<'a, T> = nom::IResult<&'a [u8], T, Error>;

/// The protocol versions spoken.
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
    /// As people and metrics know it.
    pub fn name(self) -> &'static str {
        match self {
            Version::V31 => "MQTT 3.1",
            Version::V311 => "MQTT 3.1.1",
            Version::V5 => "MQTT 5.0",
        }
    }
}

/// Who sends a packet: the rules differ for a few properties and codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// Towards the server.
    Client,
    /// Towards the client.
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
    /// Decodes the body behind a header. `version` does not matter for CONNECT.
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

    /// Appends the whole packet. `version` does not matter for CONNECT. MQTT 3 leaves out what it cannot say.
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

/// Appends a packet whose body is written by `body`. The length is put in afterwards, so bodies of 128 bytes and more
/// move by up to three bytes: PUBLISH, which is long and frequent, sums up its length beforehand instead.
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

/// The packet identifier that must be there and may not be 0 [MQTT-2.2.1-3].
pub(crate) fn packet_id(input: &[u8]) -> Parsed<'_, u16> {
    match text::u16(input)? {
        (_, 0) => Err(Error::Protocol("a packet identifier is 0").into()),
        ok => Ok(ok),
    }
}

/// The reason code and properties at the end of acks, DISCONNECT and AUTH: both may be left out.
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

/// Appends them in their shortest form.
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
    //! Both directions of the bytes in the packets' tests.

    use super::*;

    /// Asserts that `bytes` decode to `packet`, and `packet` encodes to `bytes`.
    pub(super) fn both_ways(version: Version, sender: Sender, bytes: &[u8], packet: &Packet<'_>) {
        assert_eq!(decode(version, sender, bytes).as_ref(), Ok(packet));
        let mut out = b"before".to_vec();
        packet.encode(version, &mut out).unwrap();
        assert_eq!(out.strip_prefix(b"before"), Some(bytes));
    }

    /// The one packet that `bytes` hold.
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
    fn a_packet_too_long_for_the_wire_leaves_nothing_behind() {
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
