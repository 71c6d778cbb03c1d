//! SUBSCRIBE (MQTT 5 3.8; MQTT 3.1.1 3.8).

use crate::error::Error;
use crate::frame::property::Place;
use crate::frame::{Kind, Parsed, Properties, Version, frame, packet_id, text};
use gatepost_core::command::RetainHandling;

/// Adds subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Packet identifier, repeated in SUBACK.
    pub packet_id: u16,
    /// MQTT 5 only.
    pub properties: Properties<'a>,
    /// At least one.
    pub filters: Vec<Filter<'a>>,
}

/// A topic filter and its options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter<'a> {
    /// As sent, with the share prefix.
    pub text: &'a str,
    /// Maximum QoS, 0 to 2.
    pub qos: u8,
    /// MQTT 5: do not deliver this client's own messages.
    pub no_local: bool,
    /// MQTT 5: keep the retain flag as the publisher set it.
    pub retain_as_published: bool,
    /// MQTT 5: when retained messages are replayed.
    pub retain_handling: RetainHandling,
}

const NO_LOCAL: u8 = 0x04;
const RETAIN_AS_PUBLISHED: u8 = 0x08;
const RESERVED: u8 = 0xC0;

impl<'a> Subscribe<'a> {
    /// Decodes the body.
    ///
    /// # Errors
    /// The body is malformed, or breaks a rule of the protocol.
    pub fn decode(body: &'a [u8], version: Version) -> Result<Subscribe<'a>, Error> {
        let (rest, packet_id) = packet_id(body)?;
        let (mut rest, properties) = match version {
            Version::V5 => Properties::parse(Place::Subscribe, rest)?,
            _ => (rest, Properties::EMPTY),
        };
        let mut filters = Vec::new();
        while !rest.is_empty() {
            let (after, filter) = filter(rest, version)?;
            filters.push(filter);
            rest = after;
        }
        if filters.is_empty() {
            return Err(Error::Protocol("SUBSCRIBE without a filter")); // [MQTT-3.8.3-2]
        }
        Ok(Subscribe {
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
        frame(Kind::Subscribe.first_byte(), out, |out| {
            out.extend_from_slice(&self.packet_id.to_be_bytes());
            if version == Version::V5 {
                self.properties.put(out)?;
            }
            for filter in &self.filters {
                text::put(filter.text.as_bytes(), out)?;
                out.push(if version == Version::V5 {
                    filter.options()
                } else {
                    filter.qos
                });
            }
            Ok(())
        })
    }
}

impl Filter<'_> {
    fn options(&self) -> u8 {
        let handling = match self.retain_handling {
            RetainHandling::Always => 0,
            RetainHandling::IfNew => 1,
            RetainHandling::Never => 2,
        };
        self.qos
            | if self.no_local { NO_LOCAL } else { 0 }
            | if self.retain_as_published {
                RETAIN_AS_PUBLISHED
            } else {
                0
            }
            | handling << 4
    }
}

fn filter(input: &[u8], version: Version) -> Parsed<'_, Filter<'_>> {
    let (rest, filter) = text::binary(input)?;
    let text = text::filter(filter)?;
    let (rest, options) = text::u8(rest)?;
    let reserved = if version == Version::V5 { RESERVED } else { !0x03 };
    if options & reserved != 0 {
        return Err(Error::Malformed("reserved subscription options are set").into()); // [MQTT-3.8.3-5]
    }
    let qos = options & 0x03;
    if qos == 3 {
        return Err(Error::Protocol("quality of service 3 is asked for").into());
    }
    let retain_handling = match options >> 4 & 3 {
        0 => RetainHandling::Always,
        1 => RetainHandling::IfNew,
        2 => RetainHandling::Never,
        _ => return Err(Error::Protocol("retain handling 3").into()),
    };
    let no_local = options & NO_LOCAL != 0;
    let retain_as_published = options & RETAIN_AS_PUBLISHED != 0;
    Ok((
        rest,
        Filter {
            text,
            qos,
            no_local,
            retain_as_published,
            retain_handling,
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
        let filters = vec![Filter {
            text: "a/+",
            qos: 1,
            ..Filter::default()
        }];
        let packet = Subscribe {
            packet_id: 10,
            properties: Properties::EMPTY,
            filters,
        };
        let bytes = b"\x82\x08\0\x0a\0\x03a/+\x01";
        both_ways(Version::V311, Sender::Client, bytes, &Packet::Subscribe(packet));
        let properties = PropertyBuf::from_iter([Property::SubscriptionId(200)]);
        let all = Filter {
            text: "#",
            qos: 2,
            no_local: true,
            retain_as_published: true,
            retain_handling: RetainHandling::Never,
        };
        let new = Filter {
            text: "$share/g/x",
            retain_handling: RetainHandling::IfNew,
            ..Filter::default()
        };
        let packet = Subscribe {
            packet_id: 1,
            properties: properties.as_properties(),
            filters: vec![all, new],
        };
        let bytes = b"\x82\x17\0\x01\x03\x0b\xc8\x01\0\x01#\x2e\0\x0a$share/g/x\x10";
        both_ways(Version::V5, Sender::Client, bytes, &Packet::Subscribe(packet));
    }

    #[test]
    fn options_out_of_range_and_missing_filters_are_refused() {
        for options in [0x40, 0x80, 0x03, 0x30] {
            assert!(decode(Version::V5, Sender::Client, &[0x82, 7, 0, 1, 0, 0, 1, b'a', options]).is_err());
        }
        for options in [0x03, 0x04, 0x08, 0x10] {
            assert!(decode(Version::V311, Sender::Client, &[0x82, 6, 0, 1, 0, 1, b'a', options]).is_err());
        }
        assert!(matches!(
            decode(Version::V5, Sender::Client, &[0x82, 3, 0, 1, 0]),
            Err(Error::Protocol("SUBSCRIBE without a filter"))
        ));
        assert!(decode(Version::V311, Sender::Client, &[0x82, 5, 0, 1, 0, 1, b'a']).is_err());
        assert!(decode(Version::V311, Sender::Client, &[0x82, 6, 0, 0, 0, 1, b'a', 0]).is_err());
    }
}
