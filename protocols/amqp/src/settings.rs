//! What an operator can configure for AMQP: names, offers and limits.

use gatepost_core::keys::{Applies, Key, Kind, Values};
use gatepost_core::properties::Name;
use std::time::Duration;

/// Settings of AMQP. The defaults suit most uses.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Maximum open channels of a connection, 1 to 65,535. Offered in `tune`; clients may lower it.
    pub channel_max: u16,
    /// Maximum frame size in octets, the eight octets of overhead included; at least 4,096. Offered in `tune`; clients
    /// may lower it.
    pub frame_max: u32,
    /// Heartbeat interval offered in `tune`, in whole seconds up to 65,535; zero offers none. The client's answer
    /// counts.
    pub heartbeat: Duration,
    /// Time from the accepted socket to `connection.open-ok`. A slower client is disconnected.
    pub handshake_timeout: Duration,
    /// Time for which a client whose login failed gets no answer before it is disconnected.
    pub refusal_delay: Duration,
    /// Maximum size of a message's body, in octets.
    pub max_message_size: usize,
    /// Maximum octets of unfinished bodies and uncommitted transactions of a connection.
    pub unfinished_bytes_max: usize,
    /// Maximum consumers of a channel.
    pub consumers_max: usize,
    /// SASL mechanisms offered, in this order: `PLAIN`, `AMQPLAIN`, `EXTERNAL`, `ANONYMOUS`. Others are ignored.
    /// `EXTERNAL` is offered only to clients that have shown a certificate. The node decides which user an anonymous
    /// client is, and from which addresses it may log in.
    pub mechanisms: Vec<Name>,
    /// `product` in the server properties.
    pub product: Name,
    /// `version` in the server properties.
    pub version: Name,
    /// `platform` in the server properties.
    pub platform: Name,
    /// `copyright` in the server properties.
    pub copyright: Name,
    /// `information` in the server properties.
    pub information: Name,
    /// `cluster_name` in the server properties.
    pub cluster_name: Name,
    /// `node` in the server properties.
    pub node: Name,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(10),
            refusal_delay: Duration::from_secs(3),
            max_message_size: 16 << 20,
            unfinished_bytes_max: 64 << 20,
            consumers_max: 10_000,
            mechanisms: vec!["PLAIN".into(), "AMQPLAIN".into(), "EXTERNAL".into()],
            product: "Gatepost".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            platform: "Rust".into(),
            copyright: "The Gatepost authors".into(),
            information: "Licensed under MIT or Apache-2.0".into(),
            cluster_name: "gatepost".into(),
            node: "gatepost".into(),
        }
    }
}

impl Settings {
    /// Reads the settings from the configuration's values.
    pub fn read(values: &Values) -> Settings {
        let mut s = Settings::default();
        values.set("limits.channel_max", &mut s.channel_max);
        values.set("limits.frame_max", &mut s.frame_max);
        let mut mechanisms: Vec<String> = Vec::new();
        values.set("auth.mechanisms", &mut mechanisms);
        if values.value("auth.mechanisms").is_some() {
            s.mechanisms = mechanisms.iter().map(|name| name.as_str().into()).collect();
        }
        values.set("limits.heartbeat", &mut s.heartbeat);
        values.set("limits.handshake_timeout", &mut s.handshake_timeout);
        values.set("limits.max_message_size", &mut s.max_message_size);
        values.set("node.cluster_name", &mut s.cluster_name);
        values.set("node.name", &mut s.node);
        s
    }
}

/// The configuration keys that only AMQP reads.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "limits.channel_max",
        kind: Kind::Count { min: 1, max: 65_535 },
        default: "2047",
        applies: Applies::NewConnections,
        text: "AMQP channels per connection.",
    },
    Key {
        name: "limits.frame_max",
        // AMQP 0-9-1 4.2.3: every peer accepts frames of 4096 octets.
        kind: Kind::Size {
            min: 4 << 10,
            max: 16 << 20,
        },
        default: "\"128KiB\"",
        applies: Applies::NewConnections,
        text: "AMQP frame size offered.",
    },
    Key {
        name: "auth.mechanisms",
        kind: Kind::Words(MECHANISMS),
        default: "[\"PLAIN\", \"AMQPLAIN\", \"EXTERNAL\"]",
        applies: Applies::NewConnections,
        text: "How AMQP clients may log in, in the order in which they are told. `EXTERNAL`, which takes the user from the \
               client's certificate, is offered only where there is one.",
    },
];

/// All SASL mechanisms of this crate.
pub(crate) const MECHANISMS: &[&str] = &["PLAIN", "AMQPLAIN", "EXTERNAL", "ANONYMOUS"];

/// The smallest frame-max that a client may choose, and the limit until one is negotiated (AMQP 0-9-1 4.9).
pub(crate) const FRAME_MIN: u32 = 4096;
