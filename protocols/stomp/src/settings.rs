//! What an operator can set about STOMP: defaults, intervals and limits.

use gatepost_core::keys::{Applies, Key, Kind, Values};
use gatepost_core::properties::Name;
use std::time::Duration;

/// Settings of the STOMP protocol. `Default` is right for most.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Virtual host of a CONNECT without `host`, or whose `host` is the server's address.
    pub default_vhost: Name,
    /// Exchange that `/topic/…` means.
    pub topic_exchange: Name,
    /// From the first octet awaited to CONNECTED.
    pub login_timeout: Duration,
    /// Heart-beat intervals below are raised to this.
    pub heart_beat_min: Duration,
    /// Heart-beat intervals above are lowered to this.
    pub heart_beat_max: Duration,
    /// Body of a SEND at most, in bytes.
    pub max_message_size: usize,
    /// Unsettled deliveries of a subscription with client acknowledgement that names no limit; 0 for none.
    pub default_prefetch: u32,
    /// Whether a NACK without `requeue` gives the message back to its queue (else it is dead-lettered).
    pub default_nack_requeue: bool,
    /// Go on after those ERROR frames after which RabbitMQ goes on. STOMP 1.2 ERROR forbids it.
    pub keep_open_on_error: bool,
    /// Bytes of one frame's headers at most, command included.
    pub header_bytes_max: usize,
    /// Distinct headers of a frame at most.
    pub headers_max: usize,
    /// Bytes of a header's name or value at most, as they are on the wire.
    pub header_part_bytes_max: usize,
    /// Bytes of a frame before login at most.
    pub login_frame_bytes_max: usize,
    /// Subscriptions of a connection at most; 65,535 is the highest that makes a difference.
    pub subscriptions_max: usize,
    /// Open transactions of a connection at most.
    pub transactions_max: usize,
    /// Frames in a transaction at most.
    pub transaction_actions_max: usize,
    /// Bytes of messages in all open transactions of a connection at most.
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
    /// The settings that these values stand for.
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

/// The keys that STOMP alone reads.
pub(crate) const KEYS: &[Key] = &[Key {
    name: "stomp.default_vhost",
    kind: Kind::Checked {
        expected: "\"/\" (other vhosts are not supported yet)",
        check: |vhost| vhost == "/",
    },
    default: "\"/\"",
    applies: Applies::NewConnections,
    text: "Vhost of clients that name none.",
}];
