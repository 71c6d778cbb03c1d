//! DISCONNECT (MQTT 5 3.14; MQTT 3.1.1 3.14).

use crate::error::{Error, Reason};
use crate::frame::property::Place;
use crate::frame::{Kind, Properties, Sender, Version, frame, put_reason_and_properties, reason_and_properties, text};

/// Ends a connection. In MQTT 3 only clients send it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// MQTT 5 only; success in MQTT 3.
    pub reason: Reason,
    /// MQTT 5 only.
    pub properties: Properties<'a>,
}

impl<'a> Disconnect<'a> {
    /// Decodes the body.
    ///
    /// # Errors
    /// The body is malformed, or breaks a rule of the protocol. Any code that DISCONNECT has is accepted from either
    /// side, since some clients use the server's (Mosquitto's test vectors).
    pub fn decode(body: &'a [u8], version: Version, sender: Sender) -> Result<Disconnect<'a>, Error> {
        const CODES: &[u8] = &[
            0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97,
            0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
        ];
        if version != Version::V5 {
            return text::whole(Ok((body, Disconnect::default())));
        }
        let place = match sender {
            Sender::Client => Place::DisconnectToServer,
            Sender::Server => Place::DisconnectToClient,
        };
        let (reason, properties) = text::whole(reason_and_properties(body, place, CODES))?;
        Ok(Disconnect { reason, properties })
    }

    /// Appends the whole packet.
    ///
    /// # Errors
    /// [`Error::TooLong`]; nothing was appended.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Error> {
        frame(Kind::Disconnect.first_byte(), out, |out| match version {
            Version::V5 => put_reason_and_properties(self.reason, &self.properties, out),
            _ => Ok(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::golden::{both_ways, decode};
    use crate::frame::{Packet, Property, PropertyBuf};

    #[test]
    fn golden_bytes() {
        for version in [Version::V31, Version::V311, Version::V5] {
            both_ways(
                version,
                Sender::Client,
                &[0xE0, 0],
                &Packet::Disconnect(Disconnect::default()),
            );
        }
        let with_will = Disconnect {
            reason: Reason::DISCONNECT_WITH_WILL,
            ..Disconnect::default()
        };
        both_ways(
            Version::V5,
            Sender::Client,
            &[0xE0, 1, 4],
            &Packet::Disconnect(with_will),
        );
        let properties = PropertyBuf::from_iter([Property::SessionExpiry(1)]);
        let packet = Disconnect {
            reason: Reason::SUCCESS,
            properties: properties.as_properties(),
        };
        let bytes = [0xE0, 7, 0, 5, 0x11, 0, 0, 0, 1];
        both_ways(Version::V5, Sender::Client, &bytes, &Packet::Disconnect(packet));
        assert!(
            decode(Version::V5, Sender::Server, &bytes).is_err(),
            "the server never sends it"
        );
    }

    #[test]
    fn undefined_codes_are_refused() {
        let legal = (0..=255)
            .filter(|code| decode(Version::V5, Sender::Client, &[0xE0, 1, *code]).is_ok())
            .count();
        assert_eq!(legal, 29);
    }
}
