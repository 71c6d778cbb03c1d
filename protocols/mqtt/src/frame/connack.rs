//! CONNACK (MQTT 5 3.2; MQTT 3.1.1 3.2).

use crate::error::{Error, Reason};
use crate::frame::property::Place;
use crate::frame::{Kind, Parsed, Properties, Version, frame, text};

/// The server's answer to CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// Whether the session existed before. MQTT 3.1 cannot express it.
    pub session_present: bool,
    /// In MQTT 3 the return code, 0 to 5, instead of a reason code.
    pub reason: Reason,
    /// MQTT 5 only.
    pub properties: Properties<'a>,
}

impl<'a> ConnAck<'a> {
    /// Decodes the body.
    ///
    /// # Errors
    /// The body is malformed, or breaks a rule of the protocol.
    pub fn decode(body: &'a [u8], version: Version) -> Result<ConnAck<'a>, Error> {
        text::whole(fields(body, version))
    }

    /// Appends the whole packet.
    ///
    /// # Errors
    /// [`Error::TooLong`]; nothing was appended.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Error> {
        frame(Kind::ConnAck.first_byte(), out, |out| {
            // MQTT 3.1 reserves the whole byte.
            let present = self.session_present && version != Version::V31;
            out.extend_from_slice(&[u8::from(present), self.reason.0]);
            // An empty block still has its length [MQTT-2.2.2-1].
            if version == Version::V5 {
                self.properties.put(out)
            } else {
                Ok(())
            }
        })
    }
}

fn fields(input: &[u8], version: Version) -> Parsed<'_, ConnAck<'_>> {
    const CODES: &[u8] = &[
        0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A,
        0x9B, 0x9C, 0x9D, 0x9F,
    ];
    let (rest, flags) = text::u8(input)?;
    if flags > 1 {
        return Err(Error::Malformed("reserved flags of CONNACK are set").into()); // [MQTT-3.2.2-1]
    }
    let (rest, code) = text::u8(rest)?;
    let legal = if version == Version::V5 {
        CODES.contains(&code)
    } else {
        code <= 5
    };
    if !legal {
        return Err(Error::Protocol("a reason code is not for this packet").into());
    }
    if flags == 1 && code != 0 {
        return Err(Error::Protocol("a refusal with a session").into()); // [MQTT-3.2.2-6]
    }
    let (rest, properties) = if version == Version::V5 {
        Properties::parse(Place::ConnAck, rest)?
    } else {
        (rest, Properties::EMPTY)
    };
    Ok((
        rest,
        ConnAck {
            // MQTT 3.1 3.2 declares this byte "not used".
            session_present: flags == 1 && version != Version::V31,
            reason: Reason(code),
            properties,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::golden::{both_ways, decode};
    use crate::frame::{Packet, Property, PropertyBuf, Sender};

    #[test]
    fn golden_bytes() {
        let accepted = ConnAck {
            session_present: true,
            reason: Reason::SUCCESS,
            properties: Properties::EMPTY,
        };
        both_ways(
            Version::V311,
            Sender::Server,
            &[0x20, 2, 1, 0],
            &Packet::ConnAck(accepted.clone()),
        );
        both_ways(
            Version::V5,
            Sender::Server,
            &[0x20, 3, 1, 0, 0],
            &Packet::ConnAck(accepted),
        );
        let properties = PropertyBuf::from_iter([Property::ReceiveMaximum(1024), Property::RetainAvailable(false)]);
        let packet = ConnAck {
            session_present: false,
            reason: Reason(0x87),
            properties: properties.as_properties(),
        };
        let bytes = [0x20, 8, 0, 0x87, 5, 0x21, 4, 0, 0x25, 0];
        both_ways(Version::V5, Sender::Server, &bytes, &Packet::ConnAck(packet));
    }

    #[test]
    fn mqtt_3_1_never_reports_a_session() {
        let mut out = Vec::new();
        let packet = ConnAck {
            session_present: true,
            reason: Reason::SUCCESS,
            properties: Properties::EMPTY,
        };
        packet.encode(Version::V31, &mut out).unwrap();
        assert_eq!(out, [0x20, 2, 0, 0]);
    }

    /// The bug: the fuzzer read an MQTT 3.1 server's unused byte as a session, and the packet could not be encoded
    /// again.
    #[test]
    fn the_unused_byte_of_mqtt_3_1_means_nothing() {
        let Ok(Packet::ConnAck(packet)) = decode(Version::V31, Sender::Server, &[0x20, 2, 1, 0]) else {
            panic!("a CONNACK");
        };
        assert!(!packet.session_present);
    }

    #[test]
    fn reserved_flags_and_foreign_codes_are_refused() {
        for bytes in [
            &[0x20, 3, 2, 0, 0][..],
            &[0x20, 3, 0, 0x8E, 0],
            &[0x20, 3, 1, 0x87, 0],
            &[0x20, 2, 0, 0],
        ] {
            assert!(decode(Version::V5, Sender::Server, bytes).is_err());
        }
        assert!(decode(Version::V311, Sender::Server, &[0x20, 2, 0, 6]).is_err());
    }
}
