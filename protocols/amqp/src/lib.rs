//! AMQP 0-9-1, server side, as RabbitMQ speaks it: frames and the session state machine.
//!
//! ```text
//!   octets ─► codec ─► frame ─► session ─► Command ─► engine
//!   octets ◄───────── frame ◄─ session ◄─ Event ◄─── engine
//! ```
//!
//! A session translates. Channels, consumer tags and the assembly of content live here; queues, credit, delivery
//! numbers and confirms belong to the engine. A publish that is complete in the input becomes a message with one
//! allocation, the message itself. A delivery of a message that came in over AMQP is written with its property list
//! unchanged.
//!
//! This crate does not do: sockets, TLS, decisions about who may do what, AMQP 1.0. Publishes in a transaction are
//! routed at commit, not when they are sent, so a missing exchange is reported at commit.

mod codec;
mod error;
mod frame;
#[cfg(feature = "fuzzing")]
mod fuzz;
mod map;
mod properties;
mod session;
mod settings;

#[cfg(feature = "fuzzing")]
pub use fuzz::{fuzz_codec, fuzz_session};
pub use properties::{AmqpProperties, ORIGIN};
pub use settings::Settings;

use gatepost_core::command::Peer;
use gatepost_core::interop::Drops;
use gatepost_core::keys::Values;
use gatepost_core::properties::PropertyCodec;
use gatepost_core::session::{Description, FirstBytes, Protocol, Session, WebSocket};
use gatepost_core::time::Now;
use std::sync::{Arc, PoisonError, RwLock};

/// How the gateway describes and starts AMQP 0-9-1.
pub const PROTOCOL: Description = Description {
    name: NAME,
    port: Some(5672),
    tls_port: Some(5671),
    // RabbitMQ's name for the protocol: dashboards made for RabbitMQ look for it.
    metrics_label: "amqp091",
    versions: &[("AMQP 0-9-1", "amqp091")],
    // No login without a name. AMQP has a SASL mechanism for that, ANONYMOUS, which `auth.mechanisms` can offer.
    nameless_logins: false,
    strangers_are_nameless: false,
    // AMQP 0-9-1 4.2.2: the protocol header. AMQP 1.0 has 0, 1, 0, 0 or 3, 1, 0, 0 after the name.
    first_bytes: |bytes| FirstBytes::starts_with(bytes, b"AMQP\x00\x00\x09\x01"),
    // No default port: browsers' clients of AMQP 0-9-1 are told where, and others use a socket.
    websocket: Some(&WebSocket {
        port: None,
        tls_port: None,
        paths: &["/amqp", "/ws"],
        subprotocols: &["amqp"],
        subprotocol_optional: false,
        text: false,
    }),
    quic: false,
    keys: settings::KEYS,
    try_it: Some("amqp://guest:guest@localhost:{port}   (topic plant/1/temp is amq.topic, key plant.1.temp)"),
    make: |values| Box::new(Amqp::new(Settings::read(values))),
};

const NAME: &str = "amqp";

/// The protocol: makes a session per connection.
pub struct Amqp {
    /// What new sessions are given; replaced by a reload.
    settings: RwLock<Arc<Settings>>,
    /// What messages of other protocols lost on their way out.
    drops: Arc<Drops>,
}

impl Amqp {
    /// AMQP under these settings.
    pub fn new(settings: Settings) -> Amqp {
        Amqp {
            settings: RwLock::new(Arc::new(settings)),
            drops: Arc::default(),
        }
    }
}

impl Protocol for Amqp {
    fn name(&self) -> &'static str {
        NAME
    }

    fn codec(&self) -> Arc<dyn PropertyCodec> {
        Arc::new(AmqpProperties)
    }

    fn open(&self, now: Now, peer: Peer) -> Box<dyn Session> {
        let settings = Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner));
        let drops = Arc::clone(&self.drops);
        Box::new(session::AmqpSession::new(
            settings,
            drops,
            now,
            peer.certificate.is_some(),
        ))
    }

    fn configure(&self, values: &Values) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Settings::read(values));
    }

    fn drops(&self) -> Option<Arc<Drops>> {
        Some(Arc::clone(&self.drops))
    }
}
