//! What an operator can configure for MQTT, the same for all its connections.

use crate::codec::Limits;
use crate::error::Reason;
use gatepost_core::keys::{Applies, Key, Kind, Values};
use gatepost_core::properties::Name;
use std::time::Duration;

/// Settings of MQTT. The defaults suit most uses.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The exchange that messages are published to.
    pub exchange: Name,
    /// Vhost of clients that name none.
    pub default_vhost: Name,
    /// Whether a user name `vhost:user` names the vhost, up to its last colon.
    pub vhost_in_username: bool,
    /// Maximum time until CONNECT is complete, and again until it is answered.
    pub connect_timeout: Duration,
    /// Maximum size of a CONNECT packet in bytes. The sender is unknown, so it is low. MQTT 5 clients over it are told
    /// 0x95.
    pub connect_bytes_max: usize,
    /// Maximum size of a message's or will's payload in bytes. The packet may have 128 KiB more of headers.
    pub max_message_size: usize,
    /// Maximum levels of a topic or filter.
    pub topic_levels_max: usize,
    /// Maximum unacknowledged QoS 1 and 2 messages from a client.
    pub receive_maximum: u16,
    /// Whether an MQTT 5 client that exceeds `receive_maximum` is disconnected (reason 0x93). If not, no more is read
    /// until it is below the limit, as with MQTT 3 clients; Mosquitto does that because some clients exceed it.
    pub enforce_receive_maximum: bool,
    /// Maximum unacknowledged QoS 1 and 2 messages to an MQTT 3 client, which cannot state a limit of its own.
    pub max_inflight: u16,
    /// Maximum unacknowledged QoS 1 and 2 messages to an MQTT 5 client, even if its own limit is higher.
    pub max_inflight_v5: u16,
    /// Maximum seconds that a session outlives its connection; `None`: unlimited.
    pub session_expiry_max: Option<u32>,
    /// Whether messages may be retained.
    pub retain_available: bool,
    /// Maximum QoS, 0 to 2. Publishes above it are refused; subscriptions above it are granted it.
    pub maximum_qos: u8,
    /// Highest topic alias that an MQTT 5 client may use.
    pub topic_alias_maximum: u16,
    /// Highest topic alias used towards an MQTT 5 client, if it allows that many.
    pub topic_alias_maximum_out: u16,
    /// Maximum keep-alive of an MQTT 5 client in seconds. A client whose own value is larger or 0 is told to use this
    /// one.
    pub keep_alive_max: Option<u16>,
    /// Whether SUBACK, PUBACK and PUBREC of MQTT 5 report missing rights. If not, they give no reason.
    pub reveal_denied: bool,
    /// Response information for a client that asks for it: this, a slash, and its client id.
    pub response_prefix: Option<Name>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            exchange: "amq.topic".into(),
            default_vhost: "/".into(),
            vhost_in_username: true,
            connect_timeout: Duration::from_secs(10),
            // Fits a will of the largest size, its topic, and a token as password.
            connect_bytes_max: 192 << 10,
            max_message_size: 16 << 20,
            topic_levels_max: gatepost_core::topic::LEVELS_MAX,
            receive_maximum: 1024,
            enforce_receive_maximum: true,
            max_inflight: 64,
            max_inflight_v5: 1024,
            session_expiry_max: Some(86_400),
            retain_available: true,
            maximum_qos: 2,
            topic_alias_maximum: 16,
            topic_alias_maximum_out: 16,
            keep_alive_max: None,
            reveal_denied: true,
            response_prefix: None,
        }
    }
}

impl Settings {
    /// Reads the settings from the configuration's values.
    pub fn read(values: &Values) -> Settings {
        let mut s = Settings::default();
        let mut session_expiry_max = Duration::from_secs(86_400);
        let mut keep_alive_max = Duration::ZERO;
        values.set("mqtt.exchange", &mut s.exchange);
        values.set("mqtt.default_vhost", &mut s.default_vhost);
        values.set("limits.handshake_timeout", &mut s.connect_timeout);
        values.set("limits.max_message_size", &mut s.max_message_size);
        values.set("limits.topic_levels_max", &mut s.topic_levels_max);
        values.set("mqtt.connect_size_max", &mut s.connect_bytes_max);
        values.set("mqtt.receive_maximum", &mut s.receive_maximum);
        values.set("mqtt.max_inflight", &mut s.max_inflight);
        values.set("mqtt.session_expiry_max", &mut session_expiry_max);
        values.set("mqtt.keep_alive_max", &mut keep_alive_max);
        values.set("mqtt.reveal_denied", &mut s.reveal_denied);
        values.set("mqtt.retain_available", &mut s.retain_available);
        values.set("mqtt.maximum_qos", &mut s.maximum_qos);
        s.keep_alive_max = u16::try_from(keep_alive_max.as_secs()).ok().filter(|most| *most > 0);
        s.session_expiry_max = Some(u32::try_from(session_expiry_max.as_secs()).unwrap_or(u32::MAX));
        s
    }

    /// The code that an acknowledgement gives for `reason`. MQTT 5 has one for a server that does not wish to give its
    /// reason (3.4.2.1, 3.9.3).
    pub(crate) fn disclosed(&self, reason: Reason) -> Reason {
        match reason {
            Reason::NOT_AUTHORIZED if !self.reveal_denied => Reason::UNSPECIFIED,
            reason => reason,
        }
    }

    /// The packet limits that follow from the settings.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            connect: self.connect_bytes_max,
            publish: self.packet_bytes_max(),
            // Fits a thousand filters of a kilobyte, or sixteen of the longest. A client may legally send more; it is
            // then told 0x95.
            subscribe: self.packet_bytes_max().min(1 << 20),
            other: self.packet_bytes_max().min(64 << 10),
        }
    }

    /// The largest packet accepted, in bytes, as announced in CONNACK.
    pub(crate) fn packet_bytes_max(&self) -> usize {
        // The longest topic, and properties of the same size.
        const HEADERS: usize = 128 << 10;
        // The wire format has no larger packets.
        self.max_message_size
            .saturating_add(HEADERS)
            .min(crate::frame::varint::MAX as usize + 5)
    }
}

/// The configuration keys that only MQTT reads.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "mqtt.default_vhost",
        kind: Kind::Checked {
            expected: "\"/\" (set a listener's `vhost` for another one)",
            check: |vhost| vhost == "/",
        },
        default: "\"/\"",
        applies: Applies::NewConnections,
        text: "Vhost of clients that name none.",
    },
    Key {
        name: "mqtt.connect_size_max",
        kind: Kind::Size {
            min: 1 << 10,
            max: 16 << 20,
        },
        default: "\"192KiB\"",
        applies: Applies::NewConnections,
        text: "A CONNECT packet as a whole, which comes from somebody unknown.",
    },
    Key {
        name: "mqtt.keep_alive_max",
        kind: Kind::secs(0, 65_535),
        default: "\"0s\"",
        applies: Applies::NewConnections,
        text: "Keep-alive that an MQTT 5 client is told to use if its own is longer or off; 0: its own. In whole seconds.",
    },
    Key {
        name: "mqtt.reveal_denied",
        kind: Kind::Flag,
        default: "true",
        applies: Applies::NewConnections,
        text: "Whether an MQTT 5 client is told in SUBACK, PUBACK and PUBREC that it has no right (0x87, not authorized). If not, \
               it is told 0x80, no reason given, which is also what MQTT 3.1.1 has. The log and the metrics say the reason.",
    },
    Key {
        name: "mqtt.max_inflight",
        kind: Kind::Count { min: 1, max: 65_535 },
        default: "64",
        applies: Applies::NewConnections,
        text: "Unsettled deliveries to a client that does not say its own limit.",
    },
    Key {
        name: "mqtt.receive_maximum",
        kind: Kind::Count { min: 1, max: 65_535 },
        default: "1024",
        applies: Applies::NewConnections,
        text: "Unconfirmed publishes of one client.",
    },
    Key {
        name: "mqtt.maximum_qos",
        kind: Kind::Count { min: 0, max: 2 },
        default: "2",
        applies: Applies::NewConnections,
        text: "Highest QoS. A client that publishes above it is disconnected (0x9B), and a subscription above it gets it.",
    },
    Key {
        name: "mqtt.retain_available",
        kind: Kind::Flag,
        default: "true",
        applies: Applies::NewConnections,
        text: "Whether messages may be retained. If not, a client that retains one is disconnected (0x9A).",
    },
];
