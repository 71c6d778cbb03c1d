//! AMQP 0-9-1, server side, as RabbitMQ speaks it: frames and the session state machine.
//!
//! ```text
//!   octets ─► codec ─► frame ─► session ─► Command ─► engine
//!   octets ◄───────── frame ◄─ session ◄─ Event ◄─── engine
//! ```
//!
//! A session translates: channels, consumer tags and content assembly live here; queues, credit, delivery numbers and
//! confirms are the engine's. A publish that lies whole in the input becomes a message with one allocation, the message
//! itself; a delivery of a message that came in over AMQP is copied out with its property list as it came.
//!
//! What this crate does not do: sockets, TLS, deciding who may do what, and AMQP 1.0. SASL EXTERNAL is not offered. In a
//! transaction, publishes are routed at commit and not when they are sent, so a missing exchange is reported there.

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
use gatepost_core::properties::PropertyCodec;
use gatepost_core::session::{Protocol, Session};
use gatepost_core::time::Now;
use std::sync::Arc;

/// The protocol: makes a session per connection.
pub struct Amqp {
    settings: Arc<Settings>,
}

impl Amqp {
    /// AMQP under these settings.
    pub fn new(settings: Settings) -> Amqp {
        Amqp {
            settings: Arc::new(settings),
        }
    }
}

impl Protocol for Amqp {
    fn name(&self) -> &'static str {
        "amqp"
    }

    fn codec(&self) -> Arc<dyn PropertyCodec> {
        Arc::new(AmqpProperties)
    }

    fn open(&self, now: Now, _peer: Peer) -> Box<dyn Session> {
        Box::new(session::AmqpSession::new(Arc::clone(&self.settings), now))
    }
}
