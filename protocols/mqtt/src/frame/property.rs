//! The properties of MQTT 5 (2.2.2): a block of identifiers and values behind a length.
//!
//! A decoded [`Properties`] is the block as it was on the wire, checked: each property is known, allowed in this
//! packet, in range, and present once (except user properties and, from a server, subscription identifiers). It is read
//! by iteration, because almost all blocks hold three properties at most.

use crate::error::Error;
use crate::frame::{Parsed, text, varint};

/// One property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each is named as in MQTT 5 table 2-4; seconds where it is a time"
)]
pub enum Property<'a> {
    /// Whether the payload is UTF-8 text.
    PayloadFormat(bool),
    MessageExpiry(u32),
    ContentType(&'a str),
    ResponseTopic(&'a str),
    CorrelationData(&'a [u8]),
    SubscriptionId(u32),
    SessionExpiry(u32),
    AssignedClientId(&'a str),
    ServerKeepAlive(u16),
    AuthenticationMethod(&'a str),
    AuthenticationData(&'a [u8]),
    RequestProblemInformation(bool),
    WillDelay(u32),
    RequestResponseInformation(bool),
    ResponseInformation(&'a str),
    ServerReference(&'a str),
    ReasonString(&'a str),
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    TopicAlias(u16),
    MaximumQos(u8),
    RetainAvailable(bool),
    User(&'a str, &'a str),
    MaximumPacketSize(u32),
    WildcardAvailable(bool),
    SubscriptionIdAvailable(bool),
    SharedAvailable(bool),
}

/// The packet that a block belongs to, and its sender where that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Connect,
    Will,
    ConnAck,
    PublishToServer,
    PublishToClient,
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK.
    Ack,
    Subscribe,
    Unsubscribe,
    DisconnectToServer,
    DisconnectToClient,
    Auth,
}

impl Place {
    /// The identifiers that are allowed here, as a set of bits.
    fn allowed(self) -> u64 {
        const fn bits(ids: &[u8]) -> u64 {
            let mut set = 1 << 0x26; // User properties go everywhere.
            let mut at = 0;
            while at < ids.len() {
                set |= 1 << ids[at];
                at += 1;
            }
            set
        }
        const CONNECT: u64 = bits(&[0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x27]);
        const WILL: u64 = bits(&[0x01, 0x02, 0x03, 0x08, 0x09, 0x18]);
        const CONNACK: u64 = bits(&[
            0x11, 0x12, 0x13, 0x15, 0x16, 0x1A, 0x1C, 0x1F, 0x21, 0x22, 0x24, 0x25, 0x27, 0x28, 0x29, 0x2A,
        ]);
        const PUBLISH: u64 = bits(&[0x01, 0x02, 0x03, 0x08, 0x09, 0x0B, 0x23]);
        const ACK: u64 = bits(&[0x1F]);
        const SUBSCRIBE: u64 = bits(&[0x0B]);
        const UNSUBSCRIBE: u64 = bits(&[]);
        const DISCONNECT_TO_SERVER: u64 = bits(&[0x11, 0x1F]);
        const DISCONNECT_TO_CLIENT: u64 = bits(&[0x1C, 0x1F]);
        const AUTH: u64 = bits(&[0x15, 0x16, 0x1F]);
        match self {
            Place::Connect => CONNECT,
            Place::Will => WILL,
            Place::ConnAck => CONNACK,
            Place::PublishToServer | Place::PublishToClient => PUBLISH,
            Place::Ack => ACK,
            Place::Subscribe => SUBSCRIBE,
            Place::Unsubscribe => UNSUBSCRIBE,
            Place::DisconnectToServer => DISCONNECT_TO_SERVER,
            Place::DisconnectToClient => DISCONNECT_TO_CLIENT,
            Place::Auth => AUTH,
        }
    }

    fn may_repeat(self, id: u8) -> bool {
        id == 0x26 || (id == 0x0B && self == Place::PublishToClient)
    }
}

/// A checked block of properties, without its length.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Properties<'a> {
    raw: &'a [u8],
}

impl<'a> Properties<'a> {
    /// No properties.
    pub const EMPTY: Properties<'static> = Properties { raw: &[] };

    /// Bytes that were checked when they came in. If they have been damaged since, iteration stops there.
    pub(crate) fn stored(raw: &'a [u8]) -> Self {
        Properties { raw }
    }

    /// The block as on the wire.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Whether the block is empty.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The properties in order.
    pub fn iter(&self) -> impl Iterator<Item = Property<'a>> + use<'a> {
        self.spans().map(|(property, _)| property)
    }

    /// The properties in order, each with its bytes.
    pub(crate) fn spans(&self) -> impl Iterator<Item = (Property<'a>, &'a [u8])> + use<'a> {
        let mut rest = self.raw;
        std::iter::from_fn(move || {
            let (after, property) = property(rest).ok()?;
            let span = rest.get(..rest.len() - after.len())?;
            rest = after;
            Some((property, span))
        })
    }

    /// Parses a length and the block after it.
    pub(crate) fn parse(place: Place, input: &'a [u8]) -> Parsed<'a, Properties<'a>> {
        let (rest, len) = varint::parse(input)?;
        if len == 0 {
            return Ok((rest, Properties::EMPTY));
        }
        let (rest, raw) = text::exactly(len, rest)?;
        check(place, raw)?;
        Ok((rest, Properties { raw }))
    }

    /// Appends the length and the block.
    pub(crate) fn put(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        let len = u32::try_from(self.raw.len())
            .ok()
            .filter(|&len| len <= varint::MAX)
            .ok_or(Error::TooLong)?;
        varint::write(len, out);
        out.extend_from_slice(self.raw);
        Ok(())
    }
}

impl std::fmt::Debug for Properties<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A block of properties under construction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PropertyBuf(Vec<u8>);

impl PropertyBuf {
    /// Appends a property.
    ///
    /// # Errors
    /// [`Error::TooLong`]: a text is longer than 65,535 bytes. Nothing was appended.
    pub fn push(&mut self, property: Property<'_>) -> Result<(), Error> {
        let start = self.0.len();
        property.put(&mut self.0).inspect_err(|_| self.0.truncate(start))
    }

    /// The block.
    pub fn as_properties(&self) -> Properties<'_> {
        Properties { raw: &self.0 }
    }
}

impl<'a> FromIterator<Property<'a>> for PropertyBuf {
    /// Leaves out properties that are too long for the wire.
    fn from_iter<T: IntoIterator<Item = Property<'a>>>(properties: T) -> Self {
        let mut block = PropertyBuf::default();
        for property in properties {
            let _ = block.push(property);
        }
        block
    }
}

fn check(place: Place, raw: &[u8]) -> Result<(), Error> {
    let allowed = place.allowed();
    let mut seen = 0u64;
    let mut rest = raw;
    while let Some(&id) = rest.first() {
        let bit = 1u64.checked_shl(id.into()).unwrap_or(0);
        if allowed & bit == 0 {
            return Err(Error::Malformed("a property is unknown or not for this packet"));
        }
        if place == Place::PublishToServer && id == 0x0B {
            // [MQTT-3.3.4-6]
            return Err(Error::Protocol(
                "a client may not send a subscription identifier with a message",
            ));
        }
        if seen & bit != 0 && !place.may_repeat(id) {
            return Err(Error::Protocol("a property is there twice"));
        }
        seen |= bit;
        rest = property(rest)?.0;
    }
    if seen & (1 << 0x15 | 1 << 0x16) == 1 << 0x16 {
        // MQTT 5 3.1.2.11.10
        return Err(Error::Protocol("authentication data without a method"));
    }
    Ok(())
}

fn property(input: &[u8]) -> Parsed<'_, Property<'_>> {
    use Property as P;
    // Identifiers are variable byte integers, but all that exist take one byte.
    let (input, id) = text::u8(input)?;
    let flag = |input| -> Parsed<'_, bool> {
        match text::u8(input)? {
            (rest, byte @ 0..=1) => Ok((rest, byte == 1)),
            _ => Err(Error::Protocol("a property that is 0 or 1 has another value").into()),
        }
    };
    let positive16 = |input| -> Parsed<'_, u16> {
        match text::u16(input)? {
            (_, 0) => Err(Error::Protocol("a property that is not 0 is 0").into()),
            ok => Ok(ok),
        }
    };
    Ok(match id {
        0x01 => flag(input).map(|(rest, v)| (rest, P::PayloadFormat(v)))?,
        0x02 => text::u32(input).map(|(rest, v)| (rest, P::MessageExpiry(v)))?,
        0x03 => text::string(input).map(|(rest, v)| (rest, P::ContentType(v)))?,
        0x08 => {
            // [MQTT-3.3.2-13], [MQTT-3.3.2-14]
            let (rest, bytes) = text::binary(input)?;
            (rest, P::ResponseTopic(text::topic_name(bytes)?))
        }
        0x09 => text::binary(input).map(|(rest, v)| (rest, P::CorrelationData(v)))?,
        0x0B => match varint::parse(input)? {
            (_, 0) => return Err(Error::Protocol("a subscription identifier is 0").into()),
            (rest, v) => (rest, P::SubscriptionId(v)),
        },
        0x11 => text::u32(input).map(|(rest, v)| (rest, P::SessionExpiry(v)))?,
        0x12 => text::string(input).map(|(rest, v)| (rest, P::AssignedClientId(v)))?,
        0x13 => text::u16(input).map(|(rest, v)| (rest, P::ServerKeepAlive(v)))?,
        0x15 => text::string(input).map(|(rest, v)| (rest, P::AuthenticationMethod(v)))?,
        0x16 => text::binary(input).map(|(rest, v)| (rest, P::AuthenticationData(v)))?,
        0x17 => flag(input).map(|(rest, v)| (rest, P::RequestProblemInformation(v)))?,
        0x18 => text::u32(input).map(|(rest, v)| (rest, P::WillDelay(v)))?,
        0x19 => flag(input).map(|(rest, v)| (rest, P::RequestResponseInformation(v)))?,
        0x1A => text::string(input).map(|(rest, v)| (rest, P::ResponseInformation(v)))?,
        0x1C => text::string(input).map(|(rest, v)| (rest, P::ServerReference(v)))?,
        0x1F => text::string(input).map(|(rest, v)| (rest, P::ReasonString(v)))?,
        0x21 => positive16(input).map(|(rest, v)| (rest, P::ReceiveMaximum(v)))?,
        0x22 => text::u16(input).map(|(rest, v)| (rest, P::TopicAliasMaximum(v)))?,
        // An alias of 0 has a reason code of its own. The session checks it, since it knows the maximum too.
        0x23 => text::u16(input).map(|(rest, v)| (rest, P::TopicAlias(v)))?,
        0x24 => flag(input).map(|(rest, v)| (rest, P::MaximumQos(u8::from(v))))?,
        0x25 => flag(input).map(|(rest, v)| (rest, P::RetainAvailable(v)))?,
        0x26 => {
            let (rest, name) = text::string(input)?;
            let (rest, value) = text::string(rest)?;
            (rest, P::User(name, value))
        }
        0x27 => match text::u32(input)? {
            (_, 0) => return Err(Error::Protocol("a maximum packet size is 0").into()),
            (rest, v) => (rest, P::MaximumPacketSize(v)),
        },
        0x28 => flag(input).map(|(rest, v)| (rest, P::WildcardAvailable(v)))?,
        0x29 => flag(input).map(|(rest, v)| (rest, P::SubscriptionIdAvailable(v)))?,
        0x2A => flag(input).map(|(rest, v)| (rest, P::SharedAvailable(v)))?,
        _ => return Err(Error::Malformed("a property is unknown").into()),
    })
}

impl Property<'_> {
    /// Appends the identifier and the value.
    pub(crate) fn put(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        use Property as P;
        fn flag(id: u8, v: bool, out: &mut Vec<u8>) {
            out.extend_from_slice(&[id, u8::from(v)]);
        }
        fn short(id: u8, v: u16, out: &mut Vec<u8>) {
            out.push(id);
            out.extend_from_slice(&v.to_be_bytes());
        }
        fn long(id: u8, v: u32, out: &mut Vec<u8>) {
            out.push(id);
            out.extend_from_slice(&v.to_be_bytes());
        }
        fn bytes(id: u8, v: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
            out.push(id);
            text::put(v, out)
        }
        match *self {
            P::PayloadFormat(v) => flag(0x01, v, out),
            P::MessageExpiry(v) => long(0x02, v, out),
            P::ContentType(v) => bytes(0x03, v.as_bytes(), out)?,
            P::ResponseTopic(v) => bytes(0x08, v.as_bytes(), out)?,
            P::CorrelationData(v) => bytes(0x09, v, out)?,
            P::SubscriptionId(v) => {
                out.push(0x0B);
                varint::write(v, out);
            }
            P::SessionExpiry(v) => long(0x11, v, out),
            P::AssignedClientId(v) => bytes(0x12, v.as_bytes(), out)?,
            P::ServerKeepAlive(v) => short(0x13, v, out),
            P::AuthenticationMethod(v) => bytes(0x15, v.as_bytes(), out)?,
            P::AuthenticationData(v) => bytes(0x16, v, out)?,
            P::RequestProblemInformation(v) => flag(0x17, v, out),
            P::WillDelay(v) => long(0x18, v, out),
            P::RequestResponseInformation(v) => flag(0x19, v, out),
            P::ResponseInformation(v) => bytes(0x1A, v.as_bytes(), out)?,
            P::ServerReference(v) => bytes(0x1C, v.as_bytes(), out)?,
            P::ReasonString(v) => bytes(0x1F, v.as_bytes(), out)?,
            P::ReceiveMaximum(v) => short(0x21, v, out),
            P::TopicAliasMaximum(v) => short(0x22, v, out),
            P::TopicAlias(v) => short(0x23, v, out),
            P::MaximumQos(v) => out.extend_from_slice(&[0x24, v]),
            P::RetainAvailable(v) => flag(0x25, v, out),
            P::User(name, value) => {
                bytes(0x26, name.as_bytes(), out)?;
                text::put(value.as_bytes(), out)?;
            }
            P::MaximumPacketSize(v) => long(0x27, v, out),
            P::WildcardAvailable(v) => flag(0x28, v, out),
            P::SubscriptionIdAvailable(v) => flag(0x29, v, out),
            P::SharedAvailable(v) => flag(0x2A, v, out),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Property<'static>; 27] = [
        Property::PayloadFormat(true),
        Property::MessageExpiry(1),
        Property::ContentType("t"),
        Property::ResponseTopic("r/t"),
        Property::CorrelationData(&[0, 255]),
        Property::SubscriptionId(268_435_455),
        Property::SessionExpiry(u32::MAX),
        Property::AssignedClientId("c"),
        Property::ServerKeepAlive(60),
        Property::AuthenticationMethod("m"),
        Property::AuthenticationData(b"d"),
        Property::RequestProblemInformation(false),
        Property::WillDelay(3),
        Property::RequestResponseInformation(true),
        Property::ResponseInformation("i"),
        Property::ServerReference("s"),
        Property::ReasonString("why"),
        Property::ReceiveMaximum(10),
        Property::TopicAliasMaximum(16),
        Property::TopicAlias(1),
        Property::MaximumQos(1),
        Property::RetainAvailable(false),
        Property::User("k", "v"),
        Property::MaximumPacketSize(64),
        Property::WildcardAvailable(true),
        Property::SubscriptionIdAvailable(true),
        Property::SharedAvailable(true),
    ];
    const PLACES: [Place; 11] = [
        Place::Connect,
        Place::Will,
        Place::ConnAck,
        Place::PublishToServer,
        Place::PublishToClient,
        Place::Ack,
        Place::Subscribe,
        Place::Unsubscribe,
        Place::DisconnectToServer,
        Place::DisconnectToClient,
        Place::Auth,
    ];

    fn block(properties: &[Property<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        PropertyBuf::from_iter(properties.iter().copied())
            .as_properties()
            .put(&mut out)
            .unwrap();
        out
    }

    #[test]
    fn every_property_reads_back_where_it_is_allowed_and_is_malformed_elsewhere() {
        let mut accepted = Vec::new();
        for place in PLACES {
            let mut here = 0;
            for property in ALL {
                let lone_data = matches!(property, Property::AuthenticationData(_));
                let with_method = [Property::AuthenticationMethod("m"), property];
                let bytes = if lone_data {
                    block(&with_method)
                } else {
                    block(&[property])
                };
                match Properties::parse(place, &bytes) {
                    Ok((rest, properties)) => {
                        assert!(rest.is_empty());
                        assert_eq!(properties.iter().last(), Some(property));
                        here += 1;
                    }
                    Err(e) => {
                        let sub_id = place == Place::PublishToServer && matches!(property, Property::SubscriptionId(_));
                        assert_eq!(
                            matches!(e, nom::Err::Failure(Error::Protocol(_))),
                            sub_id,
                            "{property:?}"
                        );
                    }
                }
            }
            accepted.push(here);
        }
        assert_eq!(accepted, [9, 7, 17, 7, 8, 2, 2, 1, 3, 3, 4]);
    }

    #[test]
    fn a_property_that_is_there_twice_is_a_protocol_error_but_for_user_properties() {
        let place = |p: &Property<'_>| {
            PLACES
                .into_iter()
                .find(|pl| Properties::parse(*pl, &block(&[*p])).is_ok())
        };
        for property in ALL {
            let Some(place) = place(&property) else { continue };
            let bytes = block(&[property, property]);
            let twice = Properties::parse(place, &bytes);
            match (property, place) {
                (Property::User(..), _) | (Property::SubscriptionId(_), Place::PublishToClient) => {
                    assert!(twice.is_ok());
                }
                _ => assert!(
                    matches!(twice, Err(nom::Err::Failure(Error::Protocol(_)))),
                    "{property:?}"
                ),
            }
        }
    }

    #[test]
    fn values_out_of_range_are_protocol_errors() {
        for (place, bytes) in [
            (Place::PublishToServer, &[2, 0x01, 2][..]),
            (Place::Connect, &[3, 0x21, 0, 0]),
            (Place::Connect, &[5, 0x27, 0, 0, 0, 0]),
            (Place::Connect, &[2, 0x17, 2]),
            (Place::Connect, &[2, 0x19, 9]),
            (Place::Subscribe, &[2, 0x0B, 0]),
            (Place::ConnAck, &[2, 0x24, 2]),
            (Place::Connect, &[4, 0x16, 0, 1, 7]),
            (Place::PublishToServer, &[3, 0x08, 0, 0]),
        ] {
            let parsed = Properties::parse(place, bytes);
            assert!(
                matches!(parsed, Err(nom::Err::Failure(Error::Protocol(_)))),
                "{place:?} {bytes:?}"
            );
        }
    }

    #[test]
    fn the_block_ends_where_its_length_says() {
        // The value would extend beyond the block.
        assert!(Properties::parse(Place::PublishToServer, &[2, 0x02, 0, 0, 0, 1]).is_err());
        // The block is longer than the input.
        assert!(Properties::parse(Place::PublishToServer, &[9, 0x01, 1]).is_err());
        assert!(Properties::parse(Place::PublishToServer, &[0x80, 0x00]).is_err());
        assert!(Properties::parse(Place::PublishToServer, &[]).is_err());
        assert!(Properties::parse(Place::Ack, &[1, 0xA6]).is_err());
    }
}
