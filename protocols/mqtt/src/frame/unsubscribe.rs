//! UNSUBSCRIBE (MQTT 5 3.10; MQTT 3.1.1 3.10).

use crate::error::Error;
use crate::frame::property::Place;
use crate::frame::{Kind, Properties, Version, frame, packet_id, text};

/// Ends subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Packet identifier, repeated in UNSUBACK.
    pub packet_id: u16,
    /// MQTT 5 only.
    pub properties: Properties<'a>,
    /// At least one; as subscribed, with the share prefix.
    pub filters: Vec<&'a str>,
}

impl<'a> Unsubscribe<'a> {
    /// Decodes the body.
    ///
    /// # Errors
    /// The body is malformed, or breaks a rule of the protocol.
    pub fn decode(body: &'a [u8], version: Version) -> Result<Unsubscribe<'a>, Error> {
        let (rest, packet_id) = packet_id(body)?;
        let (mut rest, properties) = match version {
            Version::V5 => Properties::parse(Place::Unsubscribe, rest)?,
            _ => (rest, Properties::EMPTY),
        };
        let mut filters = Vec::new();
        while !rest.is_empty() {
            let (after, filter) = text::binary(rest)?;
            filters.push(text::filter(filter)?);
            rest = after;
        }
        if filters.is_empty() {
            return Err(Error::Protocol("UNSUBSCRIBE without a filter")); // [MQTT-3.10.3-2]
        }
        Ok(Unsubscribe {
            packet_id,
            properties,
            filters,
        })
    }

    /// Appends the whole packet.
    ///
    /// # Errors
    /// [`Error::TooLong`]; nothing was appended.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Error> {
        frame(Kind::Unsubscribe.first_byte(), out, |out| {
            out.extend_from_slice(&self.packet_id.to_be_bytes());
            if version == Version::V5 {
                self.properties.put(out)?;
            }
            self.filters
                .iter()
                .try_for_each(|filter| text::put(filter.as_bytes(), out))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::golden::{both_ways, decode};
    use crate::frame::{Packet, Sender};

    #[test]
    fn golden_bytes() {
        let packet = Unsubscribe {
            packet_id: 7,
            properties: Properties::EMPTY,
            filters: vec!["a", "#"],
        };
        both_ways(
            Version::V311,
            Sender::Client,
            b"\xa2\x08\0\x07\0\x01a\0\x01#",
            &Packet::Unsubscribe(packet.clone()),
        );
        both_ways(
            Version::V5,
            Sender::Client,
            b"\xa2\x09\0\x07\0\0\x01a\0\x01#",
            &Packet::Unsubscribe(packet),
        );
        for bytes in [
            &b"\xa2\x03\0\x07\0"[..],
            b"\xa2\x05\0\x07\0\0\0",
            b"\xa2\x07\0\x07\0\0\x02a#",
        ] {
            assert!(decode(Version::V5, Sender::Client, bytes).is_err());
        }
    }
}
