//! CONNECT (MQTT 5 3.1; MQTT 3.1.1 3.1).

use crate::error::{Error, Reason};
use crate::frame::property::Place;
use crate::frame::{Kind, Parsed, Properties, Version, frame, text};

/// The first packet of a client.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version that it speaks.
    pub version: Version,
    /// The top bit of the level, which Mosquitto's bridges set (`try_private`). MQTT 3 only.
    pub bridge: bool,
    /// Clean start (MQTT 5) or clean session (MQTT 3).
    pub clean_start: bool,
    /// Keep-alive in seconds; 0 is off.
    pub keep_alive: u16,
    /// MQTT 5 only.
    pub properties: Properties<'a>,
    /// Client identifier. May be empty.
    pub client_id: &'a str,
    /// The will, published when the connection ends without DISCONNECT.
    pub will: Option<LastWill<'a>>,
    /// User name.
    pub user: Option<&'a str>,
    /// Password.
    pub password: Option<&'a [u8]>,
}

/// The will in a CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastWill<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Payload.
    pub payload: &'a [u8],
    /// QoS, 0 to 2.
    pub qos: u8,
    /// Whether it is retained.
    pub retain: bool,
    /// MQTT 5 only.
    pub properties: Properties<'a>,
}

const USER: u8 = 0x80;
const PASSWORD: u8 = 0x40;
const WILL_RETAIN: u8 = 0x20;
const WILL_QOS: u8 = 0x18;
const WILL: u8 = 0x04;
const CLEAN: u8 = 0x02;
const RESERVED: u8 = 0x01;
const BRIDGE: u8 = 0x80;

impl<'a> Connect<'a> {
    /// Decodes the body.
    ///
    /// # Errors
    /// Also [`Error::NotMqtt`] and [`Error::Version`]. A client id with control characters has its own reason code.
    pub fn decode(flags: u8, body: &'a [u8]) -> Result<Connect<'a>, Error> {
        let (rest, (version, bridge)) = protocol(body)?;
        // Clients of 3.1 set bits here that they should not (Mosquitto's test vectors).
        if flags != 0 && version != Version::V31 {
            return Err(Error::Malformed("reserved flags of CONNECT are set"));
        }
        text::whole(fields(rest, version, bridge))
    }

    /// The version that a CONNECT announces, even if the rest of it is wrong.
    pub fn announced(body: &[u8]) -> Option<Version> {
        protocol(body).ok().map(|(_, (version, _))| version)
    }

    /// Appends the whole packet.
    ///
    /// # Errors
    /// [`Error::TooLong`]; nothing was appended.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        frame(Kind::Connect.first_byte(), out, |out| {
            let (name, level) = match self.version {
                Version::V31 => ("MQIsdp", 3),
                Version::V311 => ("MQTT", 4),
                Version::V5 => ("MQTT", 5),
            };
            text::put(name.as_bytes(), out)?;
            out.push(if self.bridge && self.version != Version::V5 {
                level | BRIDGE
            } else {
                level
            });
            let mut flags = 0;
            let mut set = |bit, on| flags |= if on { bit } else { 0 };
            set(USER, self.user.is_some());
            set(PASSWORD, self.password.is_some());
            set(CLEAN, self.clean_start);
            if let Some(will) = &self.will {
                set(WILL, true);
                set(WILL_RETAIN, will.retain);
                set(will.qos << 3 & WILL_QOS, true);
            }
            out.push(flags);
            out.extend_from_slice(&self.keep_alive.to_be_bytes());
            if self.version == Version::V5 {
                self.properties.put(out)?;
            }
            text::put(self.client_id.as_bytes(), out)?;
            if let Some(will) = &self.will {
                if self.version == Version::V5 {
                    will.properties.put(out)?;
                }
                text::put(will.topic.as_bytes(), out)?;
                text::put(will.payload, out)?;
            }
            if let Some(user) = self.user {
                text::put(user.as_bytes(), out)?;
            }
            self.password.map_or(Ok(()), |password| text::put(password, out))
        })
    }
}

impl std::fmt::Debug for Connect<'_> {
    /// Leaves out the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("keep_alive", &self.keep_alive)
            .field("properties", &self.properties)
            .field("client_id", &self.client_id)
            .field("will", &self.will)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

fn protocol(body: &[u8]) -> Parsed<'_, (Version, bool)> {
    let (rest, name) = text::binary(body)?;
    let (rest, level) = text::u8(rest)?;
    let version = match (name, level) {
        (b"MQIsdp", 3) => (Version::V31, false),
        (b"MQIsdp", l) if l == 3 | BRIDGE => (Version::V31, true),
        (b"MQTT", 4) => (Version::V311, false),
        (b"MQTT", l) if l == 4 | BRIDGE => (Version::V311, true),
        (b"MQTT", 5) => (Version::V5, false),
        // [MQTT-3.1.2-2]. The answer has a form that a client of this name can read.
        (b"MQIsdp", level) => return Err(Error::Version { level, old: true }.into()),
        (b"MQTT", level) => {
            return Err(Error::Version {
                level,
                old: level & !BRIDGE < 5,
            }
            .into());
        }
        // [MQTT-3.1.2-1]
        _ => return Err(Error::NotMqtt.into()),
    };
    Ok((rest, version))
}

fn fields(input: &[u8], version: Version, bridge: bool) -> Parsed<'_, Connect<'_>> {
    let (rest, mut flags) = text::u8(input)?;
    if version == Version::V31 {
        // In 3.1 the last bit is unused and may be set, and so may the will's bits without a will.
        flags &= !RESERVED;
        if flags & WILL == 0 {
            flags &= !(WILL_QOS | WILL_RETAIN);
        }
    }
    check_flags(flags, version)?;
    let (rest, keep_alive) = text::u16(rest)?;
    let (rest, properties) = properties(rest, version, Place::Connect)?;
    let (rest, client_id) = text::string(rest)?;
    if !text::is_plain(client_id) {
        return Err(Error::Reason(Reason::CLIENT_ID_NOT_VALID, "the client id has a control character").into());
    }
    let (rest, will) = if flags & WILL == 0 {
        (rest, None)
    } else {
        let (rest, properties) = self::properties(rest, version, Place::Will)?;
        let (rest, topic) = text::binary(rest)?;
        let topic = text::topic_name(topic)?;
        let (rest, payload) = text::binary(rest)?;
        let qos = (flags & WILL_QOS) >> 3;
        (
            rest,
            Some(LastWill {
                topic,
                payload,
                qos,
                retain: flags & WILL_RETAIN != 0,
                properties,
            }),
        )
    };
    // A 3.1 client may announce a user name or password and then leave it out (MQTT 3.1, 3.1 "user name").
    let present = |bit, rest: &[u8]| flags & bit != 0 && !(version == Version::V31 && rest.is_empty());
    let (rest, user) = if present(USER, rest) {
        let (rest, user) = text::string(rest)?;
        if !text::is_plain(user) {
            return Err(Error::Malformed("the user name has a control character").into());
        }
        (rest, Some(user))
    } else {
        (rest, None)
    };
    let (rest, password) = if present(PASSWORD, rest) {
        text::binary(rest).map(|(rest, password)| (rest, Some(password)))?
    } else {
        (rest, None)
    };
    let clean_start = flags & CLEAN != 0;
    Ok((
        rest,
        Connect {
            version,
            bridge,
            clean_start,
            keep_alive,
            properties,
            client_id,
            will,
            user,
            password,
        },
    ))
}

fn check_flags(flags: u8, version: Version) -> Result<(), Error> {
    if flags & RESERVED != 0 {
        return Err(Error::Malformed("the reserved connect flag is set")); // [MQTT-3.1.2-3]
    }
    if flags & WILL == 0 && flags & (WILL_QOS | WILL_RETAIN) != 0 {
        return Err(Error::Malformed("will flags without a will")); // [MQTT-3.1.2-11], [MQTT-3.1.2-13]
    }
    if flags & WILL_QOS == WILL_QOS {
        return Err(Error::Malformed("the will's quality of service is 3")); // [MQTT-3.1.2-12]
    }
    if version != Version::V5 && flags & (USER | PASSWORD) == PASSWORD {
        return Err(Error::Malformed("a password without a user name")); // MQTT 3.1.1 [MQTT-3.1.2-22]
    }
    Ok(())
}

fn properties(input: &[u8], version: Version, place: Place) -> Parsed<'_, Properties<'_>> {
    match version {
        Version::V5 => Properties::parse(place, input),
        _ => Ok((input, Properties::EMPTY)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::golden::{both_ways, decode};
    use crate::frame::{Packet, Property, PropertyBuf, Sender};

    fn bare(version: Version) -> Connect<'static> {
        Connect {
            version,
            bridge: false,
            clean_start: true,
            keep_alive: 60,
            properties: Properties::EMPTY,
            client_id: "c",
            will: None,
            user: None,
            password: None,
        }
    }

    #[test]
    fn the_three_versions_have_their_golden_bytes() {
        for (version, bytes) in [
            (Version::V31, &b"\x10\x0f\0\x06MQIsdp\x03\x02\0\x3c\0\x01c"[..]),
            (Version::V311, b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01c"),
            (Version::V5, b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01c"),
        ] {
            both_ways(version, Sender::Client, bytes, &Packet::Connect(bare(version)));
        }
        let bridge = Connect {
            bridge: true,
            ..bare(Version::V311)
        };
        let bytes = b"\x10\x0d\0\x04MQTT\x84\x02\0\x3c\0\x01c";
        both_ways(Version::V311, Sender::Client, bytes, &Packet::Connect(bridge));
    }

    #[test]
    fn payload_fields_come_in_their_order() {
        let properties = PropertyBuf::from_iter([Property::SessionExpiry(9)]);
        let will_properties = PropertyBuf::from_iter([Property::WillDelay(5), Property::User("a", "b")]);
        let connect = Connect {
            clean_start: false,
            properties: properties.as_properties(),
            will: Some(LastWill {
                topic: "w",
                payload: b"x",
                qos: 1,
                retain: true,
                properties: will_properties.as_properties(),
            }),
            user: Some("u"),
            password: Some(b"p"),
            ..bare(Version::V5)
        };
        let bytes = b"\x10\x2c\0\x04MQTT\x05\xec\0\x3c\x05\x11\0\0\0\x09\0\x01c\
            \x0c\x18\0\0\0\x05\x26\0\x01a\0\x01b\0\x01w\0\x01x\0\x01u\0\x01p";
        both_ways(Version::V5, Sender::Client, bytes, &Packet::Connect(connect));
    }

    #[test]
    fn unknown_names_and_levels_say_what_can_be_answered() {
        let level = |name: &[u8], level| {
            let mut body = vec![0, name.len() as u8];
            body.extend_from_slice(name);
            body.extend_from_slice(&[level, 2, 0, 0, 0, 0]);
            Connect::decode(0, &body).map(|c| c.version)
        };
        assert_eq!(level(b"MQTX", 5), Err(Error::NotMqtt));
        assert_eq!(level(b"MQTT", 6), Err(Error::Version { level: 6, old: false }));
        assert_eq!(level(b"MQTT", 3), Err(Error::Version { level: 3, old: true }));
        assert_eq!(level(b"MQIsdp", 9), Err(Error::Version { level: 9, old: true }));
        assert_eq!(level(b"MQTT", 4), Ok(Version::V311));
    }

    #[test]
    fn flags_and_payload_must_agree() {
        let with_flags = |version: &[u8], flags: u8, payload: &[u8]| {
            let mut body = version.to_vec();
            body.extend_from_slice(&[flags, 0, 0]);
            body.extend_from_slice(payload);
            Connect::decode(0, &body).map(|_| ())
        };
        let v311 = b"\0\x04MQTT\x04";
        let v31 = b"\0\x06MQIsdp\x03";
        for flags in [0x01, 0x08, 0x10, 0x20, 0x1C, 0x40, 0x80, 0x04] {
            assert!(with_flags(v311, flags | 2, b"\0\x01c").is_err(), "{flags:02x}");
        }
        assert!(with_flags(v311, 2, b"\0\x01c\0\x01u").is_err(), "a surplus user name");
        for flags in [0x01, 0x08, 0x20, 0x80] {
            assert!(with_flags(v31, flags | 2, b"\0\x01c").is_ok(), "{flags:02x}");
        }
        assert!(
            with_flags(b"\0\x04MQTT\x05", 0x42, b"\0\0\x01c\0\x01p").is_ok(),
            "MQTT 5 has passwords alone"
        );
        assert!(matches!(
            with_flags(v311, 2, b"\0\x01\x07"),
            Err(Error::Reason(Reason::CLIENT_ID_NOT_VALID, _))
        ));
    }

    #[test]
    fn a_connect_cut_off_anywhere_is_malformed() {
        let body = b"\0\x04MQTT\x05\xc6\0\x3c\x05\x11\0\0\0\x09\0\x01c\0\0\x01w\0\x01x\0\x01u\0\x01p";
        assert!(Connect::decode(0, body).is_ok());
        for len in 0..body.len() {
            assert!(Connect::decode(0, &body[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn stray_header_flags_pass_in_3_1_only() {
        assert!(
            decode(
                Version::V31,
                Sender::Client,
                b"\x14\x0f\0\x06MQIsdp\x03\x02\0\x3c\0\x01c"
            )
            .is_ok()
        );
        assert!(decode(Version::V5, Sender::Client, b"\x14\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01c").is_err());
    }
}
