//! The fixed header (MQTT 5 2.1): packet type and flags in one byte, then the remaining length.

use crate::error::Error;
use crate::frame::{Version, varint};

/// The control packet types (MQTT 5 table 2-1), by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "each is named as in the standard")]
pub enum Kind {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl Kind {
    /// The type in the high nibble of a packet's first byte. 0 is not a type.
    pub fn of(first: u8) -> Option<Kind> {
        Some(match first >> 4 {
            1 => Kind::Connect,
            2 => Kind::ConnAck,
            3 => Kind::Publish,
            4 => Kind::PubAck,
            5 => Kind::PubRec,
            6 => Kind::PubRel,
            7 => Kind::PubComp,
            8 => Kind::Subscribe,
            9 => Kind::SubAck,
            10 => Kind::Unsubscribe,
            11 => Kind::UnsubAck,
            12 => Kind::PingReq,
            13 => Kind::PingResp,
            14 => Kind::Disconnect,
            15 => Kind::Auth,
            _ => return None,
        })
    }

    /// The first byte of a packet of this type, with all flags of PUBLISH off.
    #[inline]
    pub fn first_byte(self) -> u8 {
        (self as u8) << 4 | self.flags()
    }

    /// The flags that the standard requires. A table of bits, since each packet needs it.
    #[inline]
    fn flags(self) -> u8 {
        const SECOND: u16 = 1 << Kind::PubRel as u16 | 1 << Kind::Subscribe as u16 | 1 << Kind::Unsubscribe as u16;
        ((SECOND >> self as u16 & 1) as u8) << 1
    }

    /// The only legal remaining length in MQTT 3, for the types that have a fixed one.
    #[inline]
    fn fixed_length(self) -> Option<u32> {
        match self {
            Kind::Publish => None,
            Kind::ConnAck | Kind::PubAck | Kind::PubRec | Kind::PubRel | Kind::PubComp | Kind::UnsubAck => Some(2),
            Kind::PingReq | Kind::PingResp | Kind::Disconnect => Some(0),
            _ => None,
        }
    }
}

/// A checked fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The packet's type.
    pub kind: Kind,
    /// The low nibble of the first byte.
    pub flags: u8,
    /// Length of the header in bytes.
    pub len: usize,
    /// Length of the rest of the packet in bytes.
    pub remaining: u32,
}

impl Header {
    /// Reads a header. `Ok(None)`: more bytes are needed.
    ///
    /// # Errors
    /// The header is illegal. It is refused as soon as the byte in question is there: reserved types and flags
    /// [MQTT-2.1.3-1], bad lengths. CONNECT's flags are checked later, when its version is known.
    pub fn read(input: &[u8], version: Version) -> Result<Option<Header>, Error> {
        let Some((&first, rest)) = input.split_first() else {
            return Ok(None);
        };
        let kind = Kind::of(first).ok_or(Error::Malformed("packet type 0"))?;
        let flags = first & 0x0F;
        if kind == Kind::Auth && version != Version::V5 {
            return Err(Error::Malformed("packet type 15 before MQTT 5"));
        }
        let expected = kind.flags();
        if flags != expected {
            let free = match kind {
                Kind::Publish | Kind::Connect => true,
                // A 3.1 client sets DUP when it repeats one of these (MQTT 3.1, 3.1's "DUP flag").
                Kind::PubRel | Kind::Subscribe | Kind::Unsubscribe if version == Version::V31 => {
                    flags & !0b1000 == expected
                }
                _ => false,
            };
            if !free {
                return Err(Error::Malformed("reserved flags of a packet are set"));
            }
        }
        let Some((remaining, varint)) = varint::read(rest)? else {
            return Ok(None);
        };
        let fixed = match version {
            Version::V5 => matches!(kind, Kind::PingReq | Kind::PingResp).then_some(0),
            _ => kind.fixed_length(),
        };
        if fixed.is_some_and(|fixed| fixed != remaining) {
            return Err(Error::Malformed("a packet of fixed length has another"));
        }
        Ok(Some(Header {
            kind,
            flags,
            len: 1 + varint,
            remaining,
        }))
    }

    /// Size of the whole packet in bytes.
    pub fn size(&self) -> usize {
        self.len + self.remaining as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_wrong_flag_nibbles_are_malformed() {
        for first in 0x10..=0xFFu8 {
            let kind = Kind::of(first).unwrap();
            let legal = matches!(kind, Kind::Publish | Kind::Connect) || first == kind.first_byte();
            assert_eq!(Header::read(&[first], Version::V5).is_ok(), legal, "{first:02x}");
            let legal = legal && kind != Kind::Auth;
            assert_eq!(Header::read(&[first], Version::V311).is_ok(), legal, "{first:02x}");
        }
        assert!(Header::read(&[0x0F], Version::V5).is_err());
    }

    #[test]
    fn mqtt_3_1_may_set_dup_on_what_it_repeats() {
        for first in [0x6A, 0x8A, 0xAA] {
            assert!(Header::read(&[first], Version::V31).is_ok());
            assert!(Header::read(&[first], Version::V311).is_err());
        }
    }

    #[test]
    fn a_length_that_cannot_be_is_refused_on_the_header() {
        assert!(Header::read(&[0xC0, 1], Version::V5).is_err());
        assert!(Header::read(&[0x40, 3], Version::V311).is_err());
        assert!(Header::read(&[0x40, 3], Version::V5).is_ok());
        assert!(Header::read(&[0xE0, 1], Version::V311).is_err());
        assert!(Header::read(&[0x30, 0x80, 0x00], Version::V5).is_err());
        let header = Header::read(&[0x3D, 0x80, 0x01], Version::V5).unwrap().unwrap();
        assert_eq!(
            (header.kind, header.flags, header.len, header.size()),
            (Kind::Publish, 0x0D, 3, 131)
        );
    }
}
