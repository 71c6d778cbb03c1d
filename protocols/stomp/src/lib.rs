//! STOMP 1.0, 1.1 and 1.2, server side: frames and the session state machine.
//!
//! ```text
//!   octets ─► codec ─► frame ─► session ─► Command ─► engine
//!   octets ◄───────── frame ◄─ session ◄─ Event ◄─── engine
//! ```
//!
//! A destination is an address in the engine: `/queue/N` is a queue behind the default exchange, `/topic/K` a key of
//! the topic exchange, `/exchange/E/K` any exchange. Channel 0 publishes. Each subscription has a channel of its own,
//! so that a cumulative ACK settles that subscription alone (STOMP 1.2 SUBSCRIBE, `ack:client`).
//!
//! This crate does not do: sockets, TLS, WebSocket framing (the gateway joins messages into one octet stream),
//! decisions about who may do what (the engine makes them). Of ActiveMQ's extensions, `selector`, `browser`, message
//! groups and the like are answered with `Unsupported header` rather than ignored: a consumer that asked for a filter
//! must not get everything.

mod codec;
mod destination;
mod error;
mod frame;
#[cfg(feature = "fuzzing")]
mod fuzz;
mod map;
mod message;
mod properties;
mod session;
mod settings;

#[cfg(feature = "fuzzing")]
pub use fuzz::{fuzz_codec, fuzz_session};
pub use properties::{ORIGIN, StompProperties};
pub use settings::Settings;

use gatepost_core::command::Peer;
use gatepost_core::interop::Drops;
use gatepost_core::keys::Values;
use gatepost_core::properties::PropertyCodec;
use gatepost_core::session::{Description, FirstBytes, Protocol, Session, WebSocket};
use gatepost_core::time::Now;
use std::sync::{Arc, PoisonError, RwLock};

/// How the gateway describes and starts STOMP.
pub const PROTOCOL: Description = Description {
    name: NAME,
    port: Some(61613),
    tls_port: Some(61614),
    metrics_label: NAME,
    versions: &[("STOMP 1.0", NAME), ("STOMP 1.1", NAME), ("STOMP 1.2", NAME)],
    nameless_logins: true,
    strangers_are_nameless: false,
    first_bytes,
    // CONNECT negotiates the version, so some clients offer no subprotocol.
    websocket: Some(&WebSocket {
        port: Some(15674),
        tls_port: Some(15673),
        paths: &["/ws"],
        subprotocols: &["v12.stomp", "v11.stomp", "v10.stomp"],
        subprotocol_optional: true,
        text: true,
    }),
    quic: false,
    keys: settings::KEYS,
    try_it: None,
    make: |values| Box::new(Stomp::new(Settings::read(values))),
};

const NAME: &str = "stomp";

/// STOMP 1.2 CONNECT: the first frame is CONNECT or STOMP. Line ends before it are early heart-beats.
fn first_bytes(bytes: &[u8]) -> FirstBytes {
    let start = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    let frame = bytes.get(start..).unwrap_or_default();
    // The line's end is part of the test, because other protocols have a CONNECT too.
    let lines = [&b"CONNECT\n"[..], b"CONNECT\r\n", b"STOMP\n", b"STOMP\r\n"];
    let answers = lines.map(|line| FirstBytes::starts_with(frame, line));
    let is = |answer| answers.contains(&answer);
    match (is(FirstBytes::Yes), is(FirstBytes::More)) {
        (true, _) => FirstBytes::Yes,
        (false, true) => FirstBytes::More,
        (false, false) => FirstBytes::No,
    }
}

/// The protocol: makes a session for each connection.
pub struct Stomp {
    /// Settings of new sessions; a reload replaces them.
    settings: RwLock<Arc<Settings>>,
    /// Counts properties of other protocols' messages that STOMP cannot express.
    drops: Arc<Drops>,
}

impl Stomp {
    /// STOMP with these settings.
    pub fn new(settings: Settings) -> Stomp {
        Stomp {
            settings: RwLock::new(Arc::new(settings)),
            drops: Arc::default(),
        }
    }
}

impl Protocol for Stomp {
    fn name(&self) -> &'static str {
        NAME
    }

    fn codec(&self) -> Arc<dyn PropertyCodec> {
        Arc::new(StompProperties)
    }

    fn open(&self, now: Now, _peer: Peer) -> Box<dyn Session> {
        let settings = Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner));
        Box::new(session::StompSession::new(settings, Arc::clone(&self.drops), now))
    }

    fn configure(&self, values: &Values) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Settings::read(values));
    }

    fn drops(&self) -> Option<Arc<Drops>> {
        Some(Arc::clone(&self.drops))
    }
}
