//! Gatepost's MQTT: the packets of 3.1, 3.1.1 and 5.0, and the state machine of one connection.
//!
//! ```text
//!   bytes ─► codec ─► frame ─► session ─► Command
//!   bytes ◄────────── frame ◄─ session ◄─ Event
//! ```
//!
//! The engine owns what outlives a packet: sessions, packet identifiers of what is sent, in-flight windows, retained
//! messages, wills, the memory of QoS 2. The session translates, keeps the peer to the rules, and remembers only what
//! belongs to the connection: topic aliases, which acknowledgements are owed, when the peer was last heard.
//!
//! Not here: sockets and clocks (the gateway's), topic matching and permissions (the engine's), extended
//! authentication (refused as an unknown method, which is the standard's own "not implemented").

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

use crate::session::Connection;
use gatepost_core::command::Peer;
use gatepost_core::properties::PropertyCodec;
use gatepost_core::session::{Protocol, Session};
use gatepost_core::time::Now;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The protocol, as the gateway lists it.
#[derive(Debug)]
pub struct Mqtt {
    shared: Arc<Shared>,
}

/// What all connections read, and the few numbers that they count together.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    oversize: AtomicU64,
    unspeakable: AtomicU64,
}

/// Messages that were taken from a queue and not sent, since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Larger than the client's maximum packet size.
    pub oversize: u64,
    /// Their routing key cannot be said as a topic name.
    pub unspeakable: u64,
}

impl Mqtt {
    /// MQTT as `settings` say.
    pub fn new(settings: Settings) -> Mqtt {
        Mqtt {
            shared: Arc::new(Shared {
                settings,
                ..Shared::default()
            }),
        }
    }

    /// What was dropped so far, for the metrics.
    pub fn dropped(&self) -> Dropped {
        Dropped {
            oversize: self.shared.oversize.load(Ordering::Relaxed),
            unspeakable: self.shared.unspeakable.load(Ordering::Relaxed),
        }
    }
}

impl Default for Mqtt {
    fn default() -> Self {
        Mqtt::new(Settings::default())
    }
}

impl Shared {
    pub(crate) fn count_oversize(&self) {
        self.oversize.fetch_add(1, Ordering::Relaxed);
    }
    pub(crate) fn count_unspeakable(&self) {
        self.unspeakable.fetch_add(1, Ordering::Relaxed);
    }
}

impl Protocol for Mqtt {
    fn name(&self) -> &'static str {
        "mqtt"
    }
    fn codec(&self) -> Arc<dyn PropertyCodec> {
        Arc::new(MqttProperties)
    }
    fn open(&self, now: Now, _: Peer) -> Box<dyn Session> {
        Box::new(Connection::new(Arc::clone(&self.shared), now))
    }
}
