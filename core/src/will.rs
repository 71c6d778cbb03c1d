//! Wills: what a client has published in its name if its connection ends without a DISCONNECT. MQTT 5 3.1.2.5.
//!
//! Commands carry them from a session to the engine, and the catalog stores them with a durable session.

use crate::message::Message;
use std::time::Duration;

/// A message to publish when a connection ends without a DISCONNECT.
#[derive(Clone, Debug)]
pub struct Will {
    /// The message.
    pub message: Message,
    /// How long after the end it is published. If the client reconnects to its session before, it is not.
    pub delay: Duration,
    /// Time to live, counted from when it is published. `None`: it does not expire.
    pub expiry: Option<Duration>,
}

impl Will {
    /// Whether anybody can get it after a restart: subscribers who were away, or later ones because it is retained.
    pub(crate) fn outlives_restart(&self) -> bool {
        let envelope = self.message.envelope();
        envelope.durable || envelope.retain
    }
}
