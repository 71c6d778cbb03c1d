//! STOMP 1.0, 1.1 and 1.2, server side: frames and the session state machine.
//!
//! ```text
//!   octets ─► codec ─► frame ─► session ─► Command ─► engine
//!   octets ◄───────── frame ◄─ session ◄─ Event ◄─── engine
//! ```
//!
//! A destination is an address of the engine: `/queue/N` a queue behind the default exchange, `/topic/K` a key of the
//! topic exchange, `/exchange/E/K` any exchange. Publishing uses channel 0; each subscription has a channel of its own,
//! so that a cumulative ACK settles that subscription and no other (STOMP 1.2 SUBSCRIBE, `ack:client`).
//!
//! What this crate does not do: sockets, TLS, WebSocket framing (the gateway joins messages into one octet stream), and
//! deciding who may do what (the engine does). Of ActiveMQ's extensions, `selector`, `browser`, message groups and the
//! like are answered `Unsupported header` rather than ignored: a consumer that asked for a filter must not get everything.

mod codec;
mod destination;
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
pub use properties::{ORIGIN, StompProperties};
pub use settings::Settings;

use gatepost_core::command::Peer;
use gatepost_core::properties::PropertyCodec;
use gatepost_core::session::{Protocol, Session};
use gatepost_core::time::Now;
use std::sync::Arc;

/// The protocol: makes a session per connection.
pub struct Stomp {
    settings: Arc<Settings>,
}

impl Stomp {
    /// STOMP under these settings.
    pub fn new(settings: Settings) -> Stomp {
        Stomp {
            settings: Arc::new(settings),
        }
    }
}

impl Protocol for Stomp {
    fn name(&self) -> &'static str {
        "stomp"
    }

    fn codec(&self) -> Arc<dyn PropertyCodec> {
        Arc::new(StompProperties)
    }

    fn open(&self, now: Now, _peer: Peer) -> Box<dyn Session> {
        Box::new(session::StompSession::new(Arc::clone(&self.settings), now))
    }
}
