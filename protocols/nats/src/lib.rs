//! NATS core, server side: publish and subscribe, at most once. An example of what a protocol needs: this folder, a
//! line in the gateway's list, and the manifests that name it. Off unless the gateway is built with `--features nats`.
//!
//! ```text
//!   octets ─► operation ─► session ─► Command ─► engine
//!   octets ◄────────────── session ◄─ Event ◄─── engine
//! ```
//!
//! A subject is a routing key of the topic exchange: tokens are levels, `*` matches one level, `>` at the end one or
//! more. A subscription has a queue of its own; subscriptions of one queue group and subject share one.
//!
//! Not here: JetStream, headers (`HPUB`), TLS, `echo: false`. A subscription with the token `#` is refused, because the
//! engine would read a wildcard. A message whose topic has an empty level is not delivered, because no subject can
//! express it.

mod operation;
mod properties;
mod session;
mod settings;
mod subject;

pub use properties::{NatsProperties, ORIGIN};
pub use session::Nats;
pub use settings::Settings;

use gatepost_core::session::{Description, FirstBytes};

/// How the gateway describes and starts NATS.
pub const PROTOCOL: Description = Description {
    name: NAME,
    // An example opens no port by default. `listeners.nats.bind` names one.
    port: None,
    tls_port: None,
    metrics_label: NAME,
    versions: &[("NATS", NAME)],
    nameless_logins: true,
    strangers_are_nameless: false,
    // NATS clients wait for the server's INFO, then send CONNECT as STOMP's clients do. The blank and the brace tell
    // them apart.
    first_bytes: |bytes| FirstBytes::starts_with(bytes, b"CONNECT {"),
    websocket: None,
    quic: false,
    keys: settings::KEYS,
    try_it: Some("nats -s nats://guest:guest@localhost:{port} sub 'plant.>'"),
    make: |values| Box::new(Nats::new(Settings::read(values))),
};

const NAME: &str = "nats";
