//! What an operator can configure for STOMP: defaults, intervals and limits.

use gatepost_core::keys::{Applies, Key, Kind, Values};
use gatepost_core::properties::Name;
use std::time::Duration;

/// Settings of STOMP. The defaults suit most uses.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Virtual host of a CONNECT without `host`, or whose `host` is the server's address.
    pub default_vhost: Name,
    /// The exchange behind `/topic/…`.
    pub topic_exchange: Name,
    /// Time from the accepted socket to CONNECTED. A slower client is disconnected.
    pub login_timeout: Duration,
    /// Minimum heart-beat interval. A smaller one is raised to it.
    pub heart_beat_min: Duration,
    /// Maximum heart-beat interval. A larger one is lowered to it.
    pub heart_beat_max: Duration,
    /// Maximum size of a SEND's body, in bytes.
    pub max_message_size: usize,
    /// Maximum unsettled deliveries of a subscription with client acknowledgement that names no limit; 0: unlimited.
    pub default_prefetch: u32,
    /// Whether a NACK without `requeue` requeues the message. If not, it is dead-lettered.
    pub default_nack_requeue: bool,
    /// Keep the connection open after those ERROR frames after which RabbitMQ does. STOMP 1.2 ERROR forbids it.
    pub keep_open_on_error: bool,
    /// Maximum bytes of a frame's headers, the command included.
    pub header_bytes_max: usize,
    /// Maximum distinct headers of a frame.
    pub headers_max: usize,
    /// Maximum bytes of a header's name or value, as on the wire.
    pub header_part_bytes_max: usize,
    /// Maximum bytes of a frame before login.
    pub login_frame_bytes_max: usize,
    /// Maximum subscriptions of a connection. Each needs a channel, so values over 65,535 act as 65,535.
    pub subscriptions_max: usize,
    /// Maximum open transactions of a connection.
    pub transactions_max: usize,
    /// Maximum frames in a transaction.
    pub transaction_actions_max: usize,
    /// Maximum bytes of messages and receipts in all open transactions of a connection.
    pub transaction_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            default_vhost: "/".into(),
            topic_exchange: "amq.topic".into(),
            login_timeout: Duration::from_secs(10),
            heart_beat_min: Duration::from_secs(1),
            heart_beat_max: Duration::from_secs(60),
            max_message_size: 16 << 20,
            default_prefetch: 0,
            default_nack_requeue: true,
            keep_open_on_error: false,
            header_bytes_max: 4 << 20,
            headers_max: 100,
            header_part_bytes_max: 100 << 10,
            login_frame_bytes_max: 64 << 10,
            subscriptions_max: 10_000,
            transactions_max: 16,
            transaction_actions_max: 1024,
            transaction_bytes_max: 64 << 20,
        }
    }
}

impl Settings {
    /// Reads the settings from the configuration's values.
    pub fn read(values: &Values) -> Settings {
        let mut s = Settings::default();
        values.set("stomp.default_vhost", &mut s.default_vhost);
        values.set("mqtt.exchange", &mut s.topic_exchange);
        values.set("limits.handshake_timeout", &mut s.login_timeout);
        values.set("limits.heartbeat", &mut s.heart_beat_max);
        s.heart_beat_max = s.heart_beat_max.max(s.heart_beat_min);
        values.set("limits.max_message_size", &mut s.max_message_size);
        s
    }
}

/// The configuration keys that only STOMP reads.
pub(crate) const KEYS: &[Key] = &[Key {
    name: "stomp.default_vhost",
    kind: Kind::Checked {
        expected: "\"/\" (set a listener's `vhost` for another one)",
        check: |vhost| vhost == "/",
    },
    default: "\"/\"",
    applies: Applies::NewConnections,
    text: "Vhost of clients that name none.",
}];
