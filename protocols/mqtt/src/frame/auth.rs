//! AUTH (MQTT 5 3.15).

use crate::error::{Error, Reason};
use crate::frame::property::Place;
use crate::frame::{Kind, Properties, Sender, frame, put_reason_and_properties, reason_and_properties, text};

/// A step of enhanced authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Success, continue, or re-authenticate.
    pub reason: Reason,
    /// Authentication method and data.
    pub properties: Properties<'a>,
}

impl<'a> Auth<'a> {
    /// Decodes the body.
    ///
    /// # Errors
    /// The body is malformed, or breaks a rule of the protocol.
    pub fn decode(body: &'a [u8], sender: Sender) -> Result<Auth<'a>, Error> {
        // [MQTT-3.15.2-1]. An empty body means success, which only the server may report.
        let legal: &[u8] = match sender {
            Sender::Client => &[0x18, 0x19],
            Sender::Server => &[0x00, 0x18],
        };
        let (reason, properties) = text::whole(reason_and_properties(body, Place::Auth, legal))?;
        if sender == Sender::Client && reason == Reason::SUCCESS {
            return Err(Error::Protocol("a client reports the success of its authentication"));
        }
        Ok(Auth { reason, properties })
    }

    /// Appends the whole packet.
    ///
    /// # Errors
    /// [`Error::TooLong`]; nothing was appended.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        frame(Kind::Auth.first_byte(), out, |out| {
            put_reason_and_properties(self.reason, &self.properties, out)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::golden::{both_ways, decode};
    use crate::frame::{Packet, Property, PropertyBuf, Version};

    #[test]
    fn golden_bytes() {
        let properties = PropertyBuf::from_iter([Property::AuthenticationMethod("m")]);
        let packet = Auth {
            reason: Reason::CONTINUE_AUTHENTICATION,
            properties: properties.as_properties(),
        };
        let bytes = b"\xf0\x06\x18\x04\x15\0\x01m";
        both_ways(Version::V5, Sender::Client, bytes, &Packet::Auth(packet.clone()));
        both_ways(Version::V5, Sender::Server, bytes, &Packet::Auth(packet));
        assert!(decode(Version::V5, Sender::Server, &[0xF0, 0]).is_ok());
        assert!(decode(Version::V5, Sender::Client, &[0xF0, 0]).is_err());
        assert!(decode(Version::V5, Sender::Server, &[0xF0, 1, 0x19]).is_err());
        assert!(decode(Version::V5, Sender::Client, &[0xF0, 1, 0x19]).is_ok());
    }
}
