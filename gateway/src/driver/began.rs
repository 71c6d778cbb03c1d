//! Guesses a client's protocol from its first bytes, when it is not the listener's. Only the log uses the guess.

use crate::protocols;
use gatepost_core::session::FirstBytes;

/// What a client's first bytes look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Began {
    /// A handshake record (RFC 8446 5.1).
    Tls,
    /// The method of a request. `CONNECT` is left out: it begins STOMP, too.
    Http,
    /// A PROXY header (version 1 or 2).
    Proxy,
    /// Another protocol that the gateway serves on another port, by name.
    Other(&'static str),
}

impl Began {
    /// The guess for `bytes`. `None`: they may be `protocol`, or are unknown.
    pub(super) fn with(bytes: &[u8], protocol: &str) -> Option<Began> {
        if matches!(bytes, [0x16] | [0x16, 0x03, ..]) {
            return Some(Began::Tls);
        }
        if METHODS.iter().any(|method| bytes.starts_with(method)) {
            return Some(Began::Http);
        }
        if bytes.starts_with(b"PROXY ") || bytes.starts_with(b"\r\n\r\n\0\r\nQ") {
            return Some(Began::Proxy);
        }
        let other = protocols::ALL
            .iter()
            .find(|other| (other.first_bytes)(bytes) == FirstBytes::Yes)?;
        (other.name != protocol).then_some(Began::Other(other.name))
    }

    /// A sentence for the log.
    pub(super) fn text(self) -> String {
        match self {
            Began::Tls => "a client speaks TLS where the listener has plain text".to_owned(),
            Began::Http => "a client speaks HTTP where the listener does not: wrong port?".to_owned(),
            Began::Proxy => "a proxy sends a PROXY header, and the listener's proxy_protocol is off".to_owned(),
            Began::Other(name) => format!("a client speaks {name} where the listener does not: wrong port?"),
        }
    }
}

const METHODS: [&[u8]; 7] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PRI * HTTP",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_what_a_client_speaks() {
        let mqtt = b"\x10\x10\0\x04MQTT\x04\x02";
        for (bytes, protocol, began) in [
            (&b"\x16\x03\x01\x02\0\x01"[..], "amqp", Some(Began::Tls)),
            (b"GET / HTTP", "mqtt", Some(Began::Http)),
            (b"PRI * HTTP", "amqp", Some(Began::Http)),
            (b"PROXY TCP4", "mqtt", Some(Began::Proxy)),
            (b"AMQP\0\0\x09\x01", "mqtt", Some(Began::Other("amqp"))),
            (mqtt, "stomp", Some(Began::Other("mqtt"))),
            (b"CONNECT\nac", "mqtt", Some(Began::Other("stomp"))),
            (b"CONNECT\nac", "stomp", None),
            (mqtt, "mqtt", None),
            (b"\0\0\0\0", "mqtt", None),
            (b"", "mqtt", None),
        ] {
            assert_eq!(Began::with(bytes, protocol), began, "{bytes:?} at {protocol}");
        }
    }
}
