//! Records what clients were confirmed and what they have received: a confirmed message must not be lost.

use std::collections::HashMap;

/// The durable queue without limits, which no script deletes or purges.
pub(crate) const SAFE: &str = "safe";

/// Messages confirmed and messages received.
#[derive(Default)]
pub(crate) struct Book {
    /// By number, which is the message's body.
    messages: Vec<State>,
    /// Numbers by connection and publish number, until they are confirmed.
    unconfirmed: HashMap<(u64, u64), usize>,
    /// A client has sent arbitrary bytes, which may have deleted messages. So a missing message proves nothing.
    pub(crate) wild: bool,
}

#[derive(Clone, Copy, Default)]
struct State {
    confirmed: bool,
    seen: bool,
}

const PREFIX: &[u8] = b"safe message ";

impl Book {
    /// The body of the next message, which `connection` publishes with this publish number.
    pub(crate) fn publish(&mut self, connection: u64, number: u64) -> Vec<u8> {
        let id = self.messages.len();
        self.messages.push(State::default());
        self.unconfirmed.insert((connection, number), id);
        let mut body = PREFIX.to_vec();
        body.extend_from_slice(id.to_string().as_bytes());
        body
    }

    /// A client got a confirm for this message.
    pub(crate) fn confirm(&mut self, connection: u64, number: u64) {
        if let Some(id) = self.unconfirmed.remove(&(connection, number)) {
            self.messages[id].confirmed = true;
        }
    }

    /// A client received this message.
    pub(crate) fn see(&mut self, body: &[u8]) {
        let id = body
            .strip_prefix(PREFIX)
            .and_then(|id| std::str::from_utf8(id).ok()?.parse::<usize>().ok());
        if let Some(message) = id.and_then(|id| self.messages.get_mut(id)) {
            message.seen = true;
        }
    }

    /// The number of messages.
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Asserts that everything confirmed was received. To be called when all remaining messages were taken.
    pub(crate) fn check(&self) {
        if self.wild {
            return;
        }
        for (id, message) in self.messages.iter().enumerate() {
            assert!(
                message.seen || !message.confirmed,
                "message {id} was confirmed, and is lost"
            );
        }
    }
}
