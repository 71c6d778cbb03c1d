//! What clients were promised, and what they have seen: a confirmed message is not lost.

use std::collections::HashMap;

/// The durable queue without limits, which nothing in a script deletes or purges.
pub(crate) const SAFE: &str = "safe";

/// See the module.
#[derive(Default)]
pub(crate) struct Book {
    /// By number, which is the message's body.
    messages: Vec<State>,
    /// Numbers by connection and publish number, until confirmed.
    unconfirmed: HashMap<(u64, u64), usize>,
    /// Someone sent octets of their own making: whatever is gone may have been deleted by them.
    pub(crate) wild: bool,
}

#[derive(Clone, Copy, Default)]
struct State {
    confirmed: bool,
    seen: bool,
}

const PREFIX: &[u8] = b"safe message ";

impl Book {
    /// The body of the next message, published by `connection` under `number`.
    pub(crate) fn publish(&mut self, connection: u64, number: u64) -> Vec<u8> {
        let id = self.messages.len();
        self.messages.push(State::default());
        self.unconfirmed.insert((connection, number), id);
        let mut body = PREFIX.to_vec();
        body.extend_from_slice(id.to_string().as_bytes());
        body
    }

    /// A client was told that this is safe.
    pub(crate) fn confirm(&mut self, connection: u64, number: u64) {
        if let Some(id) = self.unconfirmed.remove(&(connection, number)) {
            self.messages[id].confirmed = true;
        }
    }

    /// A client was given this.
    pub(crate) fn see(&mut self, body: &[u8]) {
        let id = body
            .strip_prefix(PREFIX)
            .and_then(|id| std::str::from_utf8(id).ok()?.parse::<usize>().ok());
        if let Some(message) = id.and_then(|id| self.messages.get_mut(id)) {
            message.seen = true;
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Asserts that what was confirmed was seen: call it once everything that is left was taken.
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
