//! PUBACK, PUBREC, PUBREL and PUBCOMP (MQTT 5 3.4 to 3.7): four packets of the same format.

use crate::error::{Error, Reason};
use crate::frame::property::Place;
use crate::frame::{
    Kind, Properties, Version, frame, packet_id, put_reason_and_properties, reason_and_properties, text,
};

/// A step of the handshake of a QoS 1 or 2 message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// Packet identifier of the message.
    pub packet_id: u16,
    /// MQTT 5 only; success in MQTT 3.
    pub reason: Reason,
    /// MQTT 5 only.
    pub properties: Properties<'a>,
}

impl<'a> Ack<'a> {
    /// Decodes the body of a packet of one of the four kinds.
    ///
    /// # Errors
    /// The body is malformed, or breaks a rule of the protocol.
    pub fn decode(kind: Kind, body: &'a [u8], version: Version) -> Result<Ack<'a>, Error> {
        const TAKEN: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
        const RELEASED: &[u8] = &[0x00, 0x92];
        let (rest, packet_id) = packet_id(body)?;
        if version != Version::V5 {
            return text::whole(Ok((
                rest,
                Ack {
                    packet_id,
                    reason: Reason::SUCCESS,
                    properties: Properties::EMPTY,
                },
            )));
        }
        let legal = if matches!(kind, Kind::PubAck | Kind::PubRec) {
            TAKEN
        } else {
            RELEASED
        };
        let (reason, properties) = text::whole(reason_and_properties(rest, Place::Ack, legal))?;
        Ok(Ack {
            packet_id,
            reason,
            properties,
        })
    }

    /// Appends the whole packet, as one of the four kinds.
    ///
    /// # Errors
    /// [`Error::TooLong`]; nothing was appended.
    pub fn encode(&self, kind: Kind, version: Version, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.properties.is_empty() {
            Ack::write(kind, self.packet_id, self.reason, version, out);
            return Ok(());
        }
        frame(kind.first_byte(), out, |out| {
            out.extend_from_slice(&self.packet_id.to_be_bytes());
            match version {
                Version::V5 => put_reason_and_properties(self.reason, &self.properties, out),
                _ => Ok(()),
            }
        })
    }

    /// Appends one without properties: four bytes, and in MQTT 5 a fifth if the reason is not plain success.
    pub(crate) fn write(kind: Kind, packet_id: u16, reason: Reason, version: Version, out: &mut Vec<u8>) {
        let [high, low] = packet_id.to_be_bytes();
        if version == Version::V5 && reason != Reason::SUCCESS {
            out.extend_from_slice(&[kind.first_byte(), 3, high, low, reason.0]);
        } else {
            out.extend_from_slice(&[kind.first_byte(), 2, high, low]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::golden::{both_ways, decode};
    use crate::frame::{Packet, Property, PropertyBuf, Sender};

    #[test]
    fn golden_bytes() {
        let ack = Ack {
            packet_id: 0x0102,
            reason: Reason::SUCCESS,
            properties: Properties::EMPTY,
        };
        for version in [Version::V31, Version::V311, Version::V5] {
            both_ways(version, Sender::Client, &[0x40, 2, 1, 2], &Packet::PubAck(ack.clone()));
            both_ways(version, Sender::Client, &[0x50, 2, 1, 2], &Packet::PubRec(ack.clone()));
            both_ways(version, Sender::Client, &[0x62, 2, 1, 2], &Packet::PubRel(ack.clone()));
            both_ways(version, Sender::Client, &[0x70, 2, 1, 2], &Packet::PubComp(ack.clone()));
        }
        let refused = Ack {
            reason: Reason(0x92),
            ..ack.clone()
        };
        both_ways(
            Version::V5,
            Sender::Server,
            &[0x62, 3, 1, 2, 0x92],
            &Packet::PubRel(refused),
        );
        let properties = PropertyBuf::from_iter([Property::ReasonString("w")]);
        let explained = Ack {
            reason: Reason(0x97),
            properties: properties.as_properties(),
            ..ack
        };
        both_ways(
            Version::V5,
            Sender::Server,
            b"\x40\x08\x01\x02\x97\x04\x1f\0\x01w",
            &Packet::PubAck(explained),
        );
    }

    #[test]
    fn a_success_may_be_spelled_out_and_have_an_empty_block() {
        for bytes in [&[0x40, 3, 0, 1, 0][..], &[0x40, 4, 0, 1, 0, 0]] {
            assert!(matches!(
                decode(Version::V5, Sender::Client, bytes),
                Ok(Packet::PubAck(Ack {
                    packet_id: 1,
                    reason: Reason::SUCCESS,
                    ..
                }))
            ));
        }
    }

    #[test]
    fn each_kind_has_its_codes() {
        let codes = |first: u8| {
            (0..=255u8)
                .filter(|code| decode(Version::V5, Sender::Client, &[first, 3, 0, 1, *code]).is_ok())
                .count()
        };
        assert_eq!([codes(0x40), codes(0x50), codes(0x62), codes(0x70)], [9, 9, 2, 2]);
        assert!(decode(Version::V5, Sender::Client, &[0x40, 2, 0, 0]).is_err());
        assert!(decode(Version::V5, Sender::Client, &[0x40, 1, 0]).is_err());
        assert!(decode(Version::V5, Sender::Client, &[0x40, 5, 0, 1, 0, 0, 0]).is_err());
    }
}
