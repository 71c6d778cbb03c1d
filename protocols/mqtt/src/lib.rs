//! MQTT 3.1, 3.1.1 and 5.0, server side: packets and the state machine of a connection.
//!
//! ```text
//!   bytes ─► codec ─► frame ─► session ─► Command
//!   bytes ◄────────── frame ◄─ session ◄─ Event
//! ```
//!
//! The engine owns state that outlives a packet: sessions, packet identifiers of outgoing messages, in-flight windows,
//! retained messages, wills, the state of QoS 2. The session translates, enforces the protocol's rules, and keeps only
//! the state of the connection: topic aliases, pending acknowledgements, when input last came.
//!
//! Not here: sockets and clocks (in the gateway), topic matching and permissions (in the engine), the mechanisms of
//! MQTT 5's authentication (in the gateway; the session only passes their data).

pub mod codec;
mod error;
pub mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod map;
mod session;
mod settings;

pub use error::{Error, Reason};
pub use map::{MqttProperties, ORIGIN};
pub use settings::Settings;

use crate::frame::is_too_deep;
use crate::session::Connection;
use gatepost_core::command::Peer;
use gatepost_core::engine::Limit;
use gatepost_core::interop::{Drops, Field};
use gatepost_core::keys::Values;
use gatepost_core::properties::PropertyCodec;
use gatepost_core::session::{Description, FirstBytes, Protocol, Session, WebSocket};
use gatepost_core::time::Now;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// How the gateway describes and starts MQTT.
pub const PROTOCOL: Description = Description {
    name: NAME,
    port: Some(1883),
    tls_port: Some(8883),
    metrics_label: NAME,
    versions: &[
        ("MQTT 3.1", "mqtt310"),
        ("MQTT 3.1.1", "mqtt311"),
        ("MQTT 5.0", "mqtt50"),
    ],
    nameless_logins: true,
    strangers_are_nameless: true,
    first_bytes,
    // MQTT 5 6: binary messages, and `mqtt` among the subprotocols. Clients of 3.1 offer `mqttv3.1`; Mosquitto uses
    // that name.
    websocket: Some(&WebSocket {
        port: Some(15675),
        tls_port: Some(15676),
        paths: &["/mqtt", "/ws"],
        subprotocols: &["mqtt", "mqttv3.1"],
        subprotocol_optional: false,
        text: false,
    }),
    quic: true,
    keys: settings::KEYS,
    // Two commands for two terminals. The subscriber must be connected first, because a message published earlier is
    // not kept for it. In one line the publisher could be faster.
    try_it: Some(
        "mosquitto_sub -p {port} -t 'plant/#'   then, beside it: mosquitto_pub -p {port} -t plant/1/temp -m 21.5",
    ),
    make: |values| Box::new(Mqtt::new(Settings::read(values))),
};

const NAME: &str = "mqtt";

/// MQTT 5 3.1: CONNECT, its length in one to four bytes, and the protocol's name, `MQTT` or (3.1) `MQIsdp`.
fn first_bytes(bytes: &[u8]) -> FirstBytes {
    let Some((&kind, rest)) = bytes.split_first() else {
        return FirstBytes::More;
    };
    let continued = rest.iter().take_while(|byte| **byte >= 0x80).count();
    if kind != 0x10 || continued > 3 {
        return FirstBytes::No;
    }
    let name = rest.get(continued + 1..).unwrap_or_default();
    match [&b"\x00\x04MQTT"[..], b"\x00\x06MQIsdp"].map(|known| FirstBytes::starts_with(name, known)) {
        [FirstBytes::No, other] => other,
        [answer, _] => answer,
    }
}

/// The protocol: makes a session for each connection.
#[derive(Debug)]
pub struct Mqtt {
    /// Settings and counters of new connections. A reload replaces the settings and keeps the counters.
    shared: RwLock<Arc<Shared>>,
}

/// Settings that all connections read, and counters that they share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    counts: Arc<Counts>,
    /// Counts properties that were lost: those of other protocols' messages that MQTT cannot express, and all towards
    /// MQTT 3 clients.
    pub(crate) drops: Arc<Drops>,
}

#[derive(Debug, Default)]
struct Counts {
    oversize: AtomicU64,
    /// Refused topics and filters with more levels than `limits.topic_levels_max`.
    too_deep: AtomicU64,
}

/// Messages that were taken from a queue and not sent, since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Larger than the client's maximum packet size.
    pub oversize: u64,
    /// No MQTT topic can express their routing key.
    pub untranslatable: u64,
}

impl Mqtt {
    /// MQTT with these settings.
    pub fn new(settings: Settings) -> Mqtt {
        Mqtt {
            shared: RwLock::new(Arc::new(Shared {
                settings,
                ..Shared::default()
            })),
        }
    }

    /// Messages dropped so far, for the metrics.
    pub fn dropped(&self) -> Dropped {
        let shared = self.shared();
        Dropped {
            oversize: shared.counts.oversize.load(Ordering::Relaxed),
            untranslatable: shared.drops.total(Field::Topic),
        }
    }

    fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for Mqtt {
    fn default() -> Self {
        Mqtt::new(Settings::default())
    }
}

impl Shared {
    pub(crate) fn count_oversize(&self) {
        self.counts.oversize.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a topic or filter has too many levels. The caller then refuses it, so this counts it.
    pub(crate) fn refuses_levels(&self, text: &str) -> bool {
        let refuses = is_too_deep(text, self.settings.topic_levels_max);
        if refuses {
            self.counts.too_deep.fetch_add(1, Ordering::Relaxed);
        }
        refuses
    }
}

impl Protocol for Mqtt {
    fn name(&self) -> &'static str {
        NAME
    }
    fn codec(&self) -> Arc<dyn PropertyCodec> {
        Arc::new(MqttProperties)
    }
    fn open(&self, now: Now, _: Peer) -> Box<dyn Session> {
        Box::new(Connection::new(self.shared(), now))
    }
    fn configure(&self, values: &Values) {
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        *shared = Arc::new(Shared {
            settings: Settings::read(values),
            counts: Arc::clone(&shared.counts),
            drops: Arc::clone(&shared.drops),
        });
    }
    fn limit_refusals(&self, limit: Limit) -> u64 {
        match limit {
            Limit::TopicLevels => self.shared().counts.too_deep.load(Ordering::Relaxed),
            _ => 0,
        }
    }
    fn drops(&self) -> Option<Arc<Drops>> {
        Some(Arc::clone(&self.shared().drops))
    }
}
