//! Retained messages at the engine: stored and logged when published, dropped when they expire.

use super::Engine;
use super::memory::EVICT_STEPS;
use crate::catalog;
use crate::ledger::ObjectKind;
use crate::message::Message;
use crate::retained::{Change, Kept, Retained};
use crate::store::Record;
use std::time::Duration;

impl Engine {
    /// Whether there is memory for what is to be retained of the message, if anything.
    pub(super) fn can_retain(&self, message: &Message) -> bool {
        let retains = message.envelope().retain && *message.exchange() == *self.settings.topic_exchange;
        !retains || self.fits_retained(message)
    }

    /// Stores the message as its topic's retained message if there is memory for it. Returns whether the log must be
    /// waited for.
    pub(super) fn retain_or_drop(&mut self, message: &Message) -> bool {
        if self.fits_retained(message) {
            return self.retain(message);
        }
        self.refuse(ObjectKind::Retained);
        self.drop_retained(message)
    }

    /// Stores the message as its topic's retained message if there is memory for it, without logging it.
    pub(super) fn retain_unlogged(&mut self, message: &Message) {
        if self.fits_retained(message) {
            self.trace_not_retained(|| Retained::key_of(message));
            let (_, before) = self.retained.set(message, Kept::InMemory);
            self.let_go_of_retained(before);
        }
    }

    /// Uncounts a retained message that was in memory and was replaced, cleared or evicted.
    fn let_go_of_retained(&mut self, message: Option<Message>) {
        if let Some(message) = message {
            self.memory.release(&message);
        }
    }

    /// Evicts retained messages that the log has, those in memory for longest first, until there is enough room.
    /// Returns whether any were evicted.
    pub(super) fn evict_retained(&mut self) -> bool {
        let target = self.settings.cache_bytes_max / 10 * 9;
        let written = self.staging.written_ticket();
        let mut steps = EVICT_STEPS;
        while steps > 0
            && self.memory.bytes() > target
            && let Some(message) = self.retained.evict(written)
        {
            self.counters.bodies_evicted += 1;
            self.memory.release(&message);
            steps -= 1;
        }
        steps < EVICT_STEPS
    }

    /// Stores the message as its topic's retained message, in memory and in the log. Returns whether the log must be
    /// waited for.
    fn retain(&mut self, message: &Message) -> bool {
        let topic = Retained::key_of(message);
        let key = catalog::retained_key(self.settings.number, &topic);
        self.trace_not_retained(|| topic);
        let (change, before) = self.retained.set(message, Kept::InLog(self.staging.open_ticket()));
        self.let_go_of_retained(before);
        match change {
            Change::Stored => {
                self.memory.keep(message);
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
            Change::Cleared => self.staging.record(Record::Key { key, value: None }),
            Change::Nothing => return false,
        }
        message.envelope().durable
    }

    /// There is no memory for a new retained message, and the publisher cannot be told (QoS 0, MQTT 3, a will).
    /// Subscribers get the message, but its topic has no retained message any more: an outdated one would be worse than
    /// none.
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
        // Messages whose expiry the log has no time for are not dropped yet.
        let noted = self.time.noted.min(wall);
        self.retained.expire(noted, 256);
        for (topic, message) in self.retained.take_expired() {
            let key = catalog::retained_key(self.settings.number, &topic);
            self.trace_not_retained(|| (*topic).into());
            self.staging.record(Record::Key { key, value: None });
            self.let_go_of_retained(message);
        }
        if let Some(next) = self.retained.next_expiry() {
            self.timers
                .set_retained(self.now.monotonic + (next - wall).max(Duration::from_millis(1)));
        }
    }
}
