//! UNSUBACK (MQTT 5 3.11; MQTT 3.1.1 3.11).

use crate::error::Error;
use crate::frame::property::Place;
use crate::frame::{Kind, Properties, Version, frame, packet_id};

/// The answer to UNSUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsubAck<'a> {
    /// Packet identifier of the UNSUBSCRIBE.
    pub packet_id: u16,
    /// MQTT 5 only.
    pub properties: Properties<'a>,
    /// MQTT 5: one per filter, in order. MQTT 3: empty.
    pub codes: &'a [u8],
}

impl<'a> UnsubAck<'a> {
    /// Decodes the body.
    ///
    /// # Errors
    /// The body is malformed, or breaks a rule of the protocol.
    pub fn decode(body: &'a [u8], version: Version) -> Result<UnsubAck<'a>, Error> {
        const CODES: &[u8] = &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];
        let (rest, packet_id) = packet_id(body)?;
        if version != Version::V5 {
            return match rest {
                [] => Ok(UnsubAck {
                    packet_id,
                    properties: Properties::EMPTY,
                    codes: &[],
                }),
                _ => Err(Error::Malformed("bytes are left over")),
            };
        }
        let (codes, properties) = Properties::parse(Place::Ack, rest)?;
        if codes.is_empty() {
            return Err(Error::Protocol("UNSUBACK without a code"));
        }
        if !codes.iter().all(|code| CODES.contains(code)) {
            return Err(Error::Protocol("a reason code is not for this packet"));
        }
        Ok(UnsubAck {
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
        frame(Kind::UnsubAck.first_byte(), out, |out| {
            out.extend_from_slice(&self.packet_id.to_be_bytes());
            if version == Version::V5 {
                self.properties.put(out)?;
                out.extend_from_slice(self.codes);
            }
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
        let packet = UnsubAck {
            packet_id: 7,
            properties: Properties::EMPTY,
            codes: &[],
        };
        both_ways(
            Version::V311,
            Sender::Server,
            &[0xB0, 2, 0, 7],
            &Packet::UnsubAck(packet),
        );
        let packet = UnsubAck {
            packet_id: 7,
            properties: Properties::EMPTY,
            codes: &[0, 0x11],
        };
        both_ways(
            Version::V5,
            Sender::Server,
            &[0xB0, 5, 0, 7, 0, 0, 0x11],
            &Packet::UnsubAck(packet),
        );
        assert!(decode(Version::V5, Sender::Server, &[0xB0, 3, 0, 7, 0]).is_err());
        assert!(decode(Version::V5, Sender::Server, &[0xB0, 4, 0, 7, 0, 1]).is_err());
    }
}
