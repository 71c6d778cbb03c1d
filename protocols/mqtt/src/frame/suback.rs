//! SUBACK (MQTT 5 3.9; MQTT 3.1.1 3.9).

use crate::error::Error;
use crate::frame::property::Place;
use crate::frame::{Kind, Properties, Version, frame, packet_id};

/// The answer to SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// Packet identifier of the SUBSCRIBE.
    pub packet_id: u16,
    /// MQTT 5 only.
    pub properties: Properties<'a>,
    /// One per filter, in order: the granted QoS, or a failure.
    pub codes: &'a [u8],
}

impl<'a> SubAck<'a> {
    /// Decodes the body.
    ///
    /// # Errors
    /// The body is malformed, or breaks a rule of the protocol.
    pub fn decode(body: &'a [u8], version: Version) -> Result<SubAck<'a>, Error> {
        const CODES: &[u8] = &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2];
        const CODES_3: &[u8] = &[0x00, 0x01, 0x02, 0x80];
        let (rest, packet_id) = packet_id(body)?;
        let (legal, (codes, properties)) = match version {
            Version::V5 => (CODES, Properties::parse(Place::Ack, rest)?),
            _ => (CODES_3, (rest, Properties::EMPTY)),
        };
        if codes.is_empty() {
            return Err(Error::Protocol("SUBACK without a code"));
        }
        if !codes.iter().all(|code| legal.contains(code)) {
            return Err(Error::Protocol("a reason code is not for this packet"));
        }
        Ok(SubAck {
            packet_id,
            properties,
            codes,
        })
    }

    /// Appends the whole packet.
    ///
    /// # Errors
    /// [`Error::TooLong`]; nothing was appended.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Error> {
        frame(Kind::SubAck.first_byte(), out, |out| {
            out.extend_from_slice(&self.packet_id.to_be_bytes());
            if version == Version::V5 {
                self.properties.put(out)?;
            }
            out.extend_from_slice(self.codes);
            Ok(())
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
        let packet = SubAck {
            packet_id: 7,
            properties: Properties::EMPTY,
            codes: &[1, 0x80],
        };
        both_ways(
            Version::V311,
            Sender::Server,
            &[0x90, 4, 0, 7, 1, 0x80],
            &Packet::SubAck(packet.clone()),
        );
        both_ways(
            Version::V5,
            Sender::Server,
            &[0x90, 5, 0, 7, 0, 1, 0x80],
            &Packet::SubAck(packet),
        );
        assert!(decode(Version::V311, Sender::Server, &[0x90, 3, 0, 7, 0x87]).is_err());
        assert!(decode(Version::V5, Sender::Server, &[0x90, 4, 0, 7, 0, 3]).is_err());
        assert!(decode(Version::V5, Sender::Server, &[0x90, 3, 0, 7, 0]).is_err());
    }
}
