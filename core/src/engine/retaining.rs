//! Retained messages at the engine: kept and logged when published, dropped when their time is over.

use super::Engine;
use crate::catalog;
use crate::ledger::ObjectKind;
use crate::message::Message;
use crate::retained::{Change, Retained};
use crate::store::Record;
use std::time::Duration;

impl Engine {
    /// Whether there is memory for what is to be retained of the message, if anything is.
    pub(super) fn can_retain(&self, message: &Message) -> bool {
        let retains = message.envelope().retain && *message.exchange() == *self.settings.topic_exchange;
        !retains || self.fits_retained(message)
    }

    /// Keeps the message as its topic's last value if there is memory for it. Returns whether the log must be waited for.
    pub(super) fn retain_or_drop(&mut self, message: &Message) -> bool {
        if self.fits_retained(message) {
            return self.retain(message);
        }
        self.refuse(ObjectKind::Retained);
        self.drop_retained(message)
    }

    /// Keeps the message as its topic's last value if there is memory for it, and tells nothing to the log.
    pub(super) fn retain_unlogged(&mut self, message: &Message) {
        if self.fits_retained(message) {
            self.retained.set(message);
        }
    }

    /// Keeps the message as its topic's last value, in memory and in the log. Returns whether that must be waited for.
    fn retain(&mut self, message: &Message) -> bool {
        let key = catalog::retained_key(self.settings.number, &Retained::key_of(message));
        match self.retained.set(message) {
            Change::Stored(_) => {
                let value = catalog::encode_retained(message);
                self.staging.record(Record::Key {
                    key,
                    value: Some(value),
                });
                if let Some(deadline) = message.envelope().deadline {
                    let at = self.now.monotonic + (deadline - self.now.wall);
                    self.timers.set_retained(at);
                }
            }
            Change::Cleared(_) => self.staging.record(Record::Key { key, value: None }),
            Change::Nothing => return false,
        }
        message.envelope().durable
    }

    /// There is no memory for a new last value, and nobody who could be told (QoS 0, MQTT 3, a will): subscribers get the
    /// message, and the topic has no retained one. An outdated one would be worse than none.
    fn drop_retained(&mut self, message: &Message) -> bool {
        let envelope = *message.envelope();
        let empty = Message::new(envelope, message.exchange(), message.key(), &[], &[]);
        self.retain(&empty)
    }

    pub(crate) fn expire_retained(&mut self) {
        let wall = self.now.wall;
        let next = self.retained.next_expiry();
        if next.is_some_and(|next| next <= wall && !self.may_expire_retained(next)) {
            return;
        }
        // Not those whose time is not noted yet, either.
        let noted = self.time.noted.min(wall);
        self.retained.expire(noted, 256);
        for message in self.retained.take_expired() {
            let key = catalog::retained_key(self.settings.number, &Retained::key_of(&message));
            self.staging.record(Record::Key { key, value: None });
        }
        if let Some(next) = self.retained.next_expiry() {
            self.timers
                .set_retained(self.now.monotonic + (next - wall).max(Duration::from_millis(1)));
        }
    }
}
