//! The list of protocols. A new protocol needs a folder in `protocols/`, a line here, and entries in two manifests.

use gatepost_core::keys::Values;
use gatepost_core::session::{Description, Protocol};

/// All protocols. Their order numbers them for the life of the process.
pub(crate) const ALL: &[&Description] = &[
    &gatepost_amqp::PROTOCOL,
    &gatepost_mqtt::PROTOCOL,
    &gatepost_stomp::PROTOCOL,
    #[cfg(feature = "nats")]
    &gatepost_nats::PROTOCOL,
];

/// The index of the protocol of that name.
pub(crate) fn find(name: &str) -> Option<usize> {
    ALL.iter().position(|protocol| protocol.name == name)
}

/// The protocol with that version, and the version's label in metrics.
pub(crate) fn of_version(version: &str) -> Option<(&'static Description, &'static str)> {
    ALL.iter().find_map(|protocol| {
        let known = protocol.versions.iter().find(|(name, _)| *name == version);
        known.map(|(_, label)| (*protocol, *label))
    })
}

/// All protocols, set up as configured, in the order of the list.
pub(crate) fn all(values: &Values) -> Vec<Box<dyn Protocol>> {
    ALL.iter().map(|protocol| (protocol.make)(values)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepost_core::session::FirstBytes;

    /// The protocols whose connections may begin with these bytes.
    fn begin(bytes: &[u8], answer: FirstBytes) -> Vec<&'static str> {
        ALL.iter()
            .filter(|p| (p.first_bytes)(bytes) == answer)
            .map(|p| p.name)
            .collect()
    }

    #[test]
    fn the_first_bytes_tell_the_protocols_apart() {
        let amqp = b"AMQP\x00\x00\x09\x01";
        let mqtt = b"\x10\x80\x01\x00\x04MQTT\x05";
        let mqtt_3_1 = b"\x10\x20\x00\x06MQIsdp\x03";
        let stomp = b"\r\nSTOMP\nhost:x\n\n\0";
        for (bytes, name) in [
            (&amqp[..], "amqp"),
            (mqtt, "mqtt"),
            (mqtt_3_1, "mqtt"),
            (stomp, "stomp"),
        ] {
            assert_eq!(begin(bytes, FirstBytes::Yes), [name], "{bytes:?}");
            for len in 0..bytes.len() {
                let more = begin(&bytes[..len], FirstBytes::More);
                assert!(
                    more.contains(&name) || begin(&bytes[..len], FirstBytes::Yes) == [name],
                    "{len} of {bytes:?}"
                );
            }
        }
        // Only NATS, if it is built in.
        assert!(begin(b"CONNECT {", FirstBytes::Yes).iter().all(|name| *name == "nats"));
        for other in [
            &b"GET / HTTP/1.1"[..],
            b"AMQP\x00\x01\x00\x00",
            b"\x10\xff\xff\xff\xff\x01",
        ] {
            assert!(begin(other, FirstBytes::Yes).is_empty(), "{other:?}");
        }
    }
}
