//! NATS core, server side: publish and subscribe, at most once. An example of what a protocol needs: this folder, a
//! line in the gateway's list, and the manifests that name it. Off unless the gateway is built with `--features nats`.
//!
//! ```text
//!   octets ─► operation ─► session ─► Command ─► engine
//!   octets ◄────────────── session ◄─ Event ◄─── engine
//! ```
//!
//! A subject is a routing key of the topic exchange: tokens are levels, `*` is one level, `>` at the end is one or more.
//! A subscription is a queue of its own; those of one queue group and subject share a queue.
//!
//! Not here: JetStream, headers (`HPUB`), TLS, `echo: false`. A subscription with the token `#`, which is a wildcard for
//! the engine, is refused. A message whose topic has an empty level is not delivered: no subject can name it.

mod operation;
mod properties;
mod session;
mod settings;
mod subject;

pub use properties::{NatsProperties, ORIGIN};
pub use session::Nats;
pub use settings::Settings;

use gatepost_core::session::{Description, FirstBytes};

/// What the gateway knows of NATS.
pub const PROTOCOL: Description = Description {
    name: NAME,
    // An example does not open a port unasked: `listeners.nats.bind` says where.
    port: None,
    tls_port: None,
    metrics_label: NAME,
    versions: &[("NATS", NAME)],
    nameless_logins: true,
    strangers_are_nameless: false,
    // Clients wait for the server's INFO and begin with CONNECT then, as STOMP's do: the blank tells them apart.
    first_bytes: |bytes| FirstBytes::starts_with(bytes, b"CONNECT {"),
    websocket: None,
    quic: false,
    keys: settings::KEYS,
    try_it: Some("nats -s nats://guest:guest@localhost:{port} sub 'plant.>'"),
    make: |values| Box::new(Nats::new(Settings::read(values))),
};

const NAME: &str = "nats";
