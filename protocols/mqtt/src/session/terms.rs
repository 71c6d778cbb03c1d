//! What CONNECT and the settings fix for the life of a connection.

use crate::frame::{Connect, Property, Version};
use crate::settings::Settings;
use gatepost_core::properties::Name;

/// Maximum unacknowledged messages sent to a bridge of MQTT 3. Mosquitto's bridge accepts 20 by default
/// (`max_inflight_messages`), cannot announce this, and closes the connection if it receives one more of QoS 2. After a
/// reconnect it would be sent the same messages, without end.
const BRIDGE_INFLIGHT_MAX: u16 = 20;

/// The parameters of a connection that CONNECT and the settings determine.
pub(super) struct Terms {
    pub(super) version: Version,
    /// The client is an MQTT 3 bridge: it is not sent its own messages, and retain flags stay as published.
    pub(super) bridge: bool,
    pub(super) client_id: Name,
    /// Keep-alive in seconds; 0 is off.
    pub(super) keep_alive: u16,
    /// The client's limit: the largest packet it accepts, in bytes.
    pub(super) packet_bytes_max: usize,
    /// Maximum unacknowledged messages sent to the client.
    pub(super) receive_maximum: u16,
    /// Highest topic alias that we may use towards the client.
    pub(super) topic_alias_maximum_out: u16,
    /// Highest topic alias that the client may use towards us.
    pub(super) topic_alias_maximum_in: u16,
    /// DISCONNECT may set a session expiry other than 0.
    pub(super) may_extend: bool,
}

impl Terms {
    pub(super) fn of(connect: &Connect<'_>, settings: &Settings) -> Terms {
        let v5 = connect.version == Version::V5;
        let mut terms = Terms {
            version: connect.version,
            bridge: connect.bridge,
            client_id: connect.client_id.into(),
            keep_alive: connect.keep_alive,
            packet_bytes_max: usize::MAX,
            receive_maximum: if v5 {
                settings.max_inflight_v5
            } else if connect.bridge {
                settings.max_inflight.min(BRIDGE_INFLIGHT_MAX)
            } else {
                settings.max_inflight
            }
            .max(1),
            topic_alias_maximum_out: 0,
            topic_alias_maximum_in: if v5 { settings.topic_alias_maximum } else { 0 },
            may_extend: false,
        };
        for property in connect.properties.iter() {
            match property {
                Property::ReceiveMaximum(most) => terms.receive_maximum = terms.receive_maximum.min(most),
                Property::MaximumPacketSize(bytes) => {
                    terms.packet_bytes_max = usize::try_from(bytes).unwrap_or(usize::MAX);
                }
                Property::TopicAliasMaximum(most) => {
                    terms.topic_alias_maximum_out = most.min(settings.topic_alias_maximum_out);
                }
                _ => {}
            }
        }
        terms
    }
}

/// Seconds on the wire as the engine has them: all bits set means for ever.
pub(super) fn forever(seconds: u32) -> Option<u32> {
    (seconds != u32::MAX).then_some(seconds)
}

/// The session expiry that a client gets.
pub(super) fn capped(asked: u32, most: Option<u32>) -> Option<u32> {
    match (forever(asked), most) {
        (Some(asked), Some(most)) => Some(asked.min(most)),
        (asked, most) => asked.or(most),
    }
}
