//! What an operator can configure for NATS.

use gatepost_core::keys::{Applies, Key, Kind, Values};
use gatepost_core::properties::Name;
use std::time::Duration;

/// Settings of NATS.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The exchange that subjects are published to and subscriptions bind to.
    pub exchange: Name,
    /// The vhost of all clients: a NATS client cannot name one.
    pub vhost: Name,
    /// The server's name in INFO.
    pub server_name: Name,
    /// Time from the accepted socket to a finished login. A slower client is disconnected.
    pub login_timeout: Duration,
    /// Silence after which the server sends PING; zero: never.
    pub ping_interval: Duration,
    /// Maximum bytes of a message's body.
    pub max_payload: usize,
    /// Maximum subscriptions of a connection.
    pub subscriptions_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            exchange: "amq.topic".into(),
            vhost: "/".into(),
            server_name: "gatepost".into(),
            login_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(60),
            max_payload: 16 << 20,
            subscriptions_max: 1_000,
        }
    }
}

impl Settings {
    /// Reads the settings from the configuration's values.
    pub fn read(values: &Values) -> Settings {
        let mut s = Settings::default();
        values.set("mqtt.exchange", &mut s.exchange);
        values.set("node.name", &mut s.server_name);
        values.set("limits.handshake_timeout", &mut s.login_timeout);
        values.set("limits.heartbeat", &mut s.ping_interval);
        values.set("limits.max_message_size", &mut s.max_payload);
        values.set("nats.subscriptions_max", &mut s.subscriptions_max);
        s
    }
}

/// The configuration keys that only NATS reads.
pub(crate) const KEYS: &[Key] = &[Key {
    name: "nats.subscriptions_max",
    kind: Kind::Count { min: 1, max: 60_000 },
    default: "1000",
    applies: Applies::NewConnections,
    text: "Subscriptions of a connection.",
}];
