//! Finds packets in the input. A packet's length is checked on its header, before the rest of it is kept.

use crate::error::{Error, Reason};
use crate::frame::{Header, Kind, Packet, Sender, Version};

/// Maximum size of a whole packet (header included) in bytes, by type. Checked on the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// CONNECT. The limit is low, because the sender is unknown.
    pub connect: usize,
    /// PUBLISH.
    pub publish: usize,
    /// SUBSCRIBE and UNSUBSCRIBE.
    pub subscribe: usize,
    /// All other types: they hold a code and at most a few texts.
    pub other: usize,
}

impl Limits {
    /// No limits but those of the wire format.
    pub const WIRE: Limits = Limits {
        connect: usize::MAX,
        publish: usize::MAX,
        subscribe: usize::MAX,
        other: usize::MAX,
    };

    fn of(&self, kind: Kind) -> usize {
        match kind {
            Kind::Connect => self.connect,
            Kind::Publish => self.publish,
            Kind::Subscribe | Kind::SubAck | Kind::Unsubscribe | Kind::UnsubAck => self.subscribe,
            _ => self.other,
        }
    }
}

/// A complete packet that is not decoded yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its fixed header.
    pub header: Header,
    /// The bytes after the header.
    pub body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes the first packet from `input`. `Ok(None)`: more bytes are needed, within the limits.
    ///
    /// # Errors
    /// The header is bad, or the packet is over its limit. Nothing can be parsed after that.
    pub fn cut(input: &'a [u8], version: Version, limits: &Limits) -> Result<Option<Frame<'a>>, Error> {
        let Some(header) = Header::read(input, version)? else {
            return Ok(None);
        };
        if header.size() > limits.of(header.kind) {
            return Err(Error::Reason(Reason::PACKET_TOO_LARGE, "the packet is too large"));
        }
        Ok(input.get(header.len..header.size()).map(|body| Frame { header, body }))
    }

    /// Size of the packet in the input, in bytes.
    pub fn size(&self) -> usize {
        self.header.size()
    }
}

/// Decodes the first packet of `input` and returns it with its size in bytes. `Ok(None)`: more bytes are needed.
///
/// # Errors
/// Those of [`Frame::cut`] and [`Packet::decode`].
pub fn decode<'a>(
    input: &'a [u8],
    version: Version,
    sender: Sender,
    limits: &Limits,
) -> Result<Option<(Packet<'a>, usize)>, Error> {
    let Some(frame) = Frame::cut(input, version, limits)? else {
        return Ok(None);
    };
    Ok(Some((
        Packet::decode(&frame.header, frame.body, version, sender)?,
        frame.size(),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        connect: 20,
        publish: 300,
        subscribe: 30,
        other: 10,
    };

    #[test]
    fn a_packet_over_its_limit_is_refused_on_its_header() {
        for (first, largest) in [(0x10, 20), (0x82, 30), (0xA2, 30), (0xE0, 10), (0x40, 10)] {
            assert_eq!(Frame::cut(&[first, largest - 2], Version::V5, &LIMITS), Ok(None));
            assert!(matches!(
                Frame::cut(&[first, largest - 1], Version::V5, &LIMITS),
                Err(Error::Reason(Reason::PACKET_TOO_LARGE, _))
            ));
        }
        // The header's three bytes count too.
        assert_eq!(Frame::cut(&[0x30, 0xA9, 0x02], Version::V5, &LIMITS), Ok(None));
        assert!(Frame::cut(&[0x30, 0xAA, 0x02], Version::V5, &LIMITS).is_err());
    }

    #[test]
    fn a_packet_is_cut_off_exactly_and_only_when_whole() {
        let input = [0x30, 4, 0, 1, b't', 0, 0xC0, 0];
        for len in 0..6 {
            assert_eq!(decode(&input[..len], Version::V5, Sender::Client, &LIMITS), Ok(None));
        }
        let (packet, used) = decode(&input, Version::V5, Sender::Client, &LIMITS).unwrap().unwrap();
        assert!(matches!(packet, Packet::Publish(_)));
        assert_eq!(
            decode(&input[used..], Version::V5, Sender::Client, &LIMITS),
            Ok(Some((Packet::PingReq, 2)))
        );
    }
}
