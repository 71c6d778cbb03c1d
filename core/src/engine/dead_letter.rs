//! Dead-lettering: what a queue could not deliver is published to another exchange, with its history.
//!
//! The history for clients is the `x-death` header. It counts on from whatever the message carried, also where a client
//! wrote the header: retry counters rely on it. The engine itself relies on nothing a client can write: the queues a
//! message died in on its own are a [`Trail`](crate::properties::Trail), stored behind the properties in the neutral encoding
//! ([`Origin::NEUTRAL`]), which only the engine writes.

use super::Engine;
use super::death::Death;
use super::internal::Source;
use crate::message::{Dialect, EXCHANGE_NAME_MAX, KEY_MAX, Message};
use crate::properties::{CC, Name, Origin, Table, Value, encode_neutral, texts, trail_of};
use crate::slots::QueueKey;
use crate::topic;

/// The most entries kept of an `x-death` header, newest first. A client may send thousands, and every death reads all
/// of them.
const DEATHS_MAX: usize = 256;

impl Engine {
    /// Whether the queue has a dead-letter exchange.
    pub(crate) fn has_dead_letters(&self, queue: QueueKey) -> bool {
        self.queues
            .get(queue)
            .is_some_and(|q| q.arguments.dead_letter_exchange.is_some())
    }

    /// Publishes a message that died in `queue` to the queue's dead-letter exchange. If that does not exist, the
    /// message is dropped. On success `source` is no longer needed; it is returned if the message goes nowhere.
    pub(crate) fn dead_letter(
        &mut self,
        queue: QueueKey,
        message: &Message,
        death: Death,
        source: Source,
    ) -> Result<(), Source> {
        let Some(q) = self.queues.get_mut(queue) else {
            return Err(source);
        };
        let Some(exchange) = q.arguments.dead_letter_exchange.clone() else {
            return Err(source);
        };
        let (name, key) = (q.name.clone(), q.arguments.dead_letter_key.clone());
        let dotted = topic::translate(message.key(), message.envelope().dialect, Dialect::Dot);
        let old_key: Name = dotted.as_deref().unwrap_or(message.key()).into();
        let envelope = *message.envelope();
        let mut properties = message.properties(&self.codecs);
        let mut trail = trail_of(envelope.origin, message.properties_raw());
        let original_expiration = properties.expiration_ms.take();
        let headers = &mut properties.headers;
        let cc = if envelope.extra_keys {
            texts(headers.lookup(CC))
        } else {
            Vec::new()
        };
        if key.is_some() {
            // The key that the queue sets replaces all keys of the message.
            if envelope.extra_keys {
                headers.0.retain(|(name, _)| &**name != CC);
            }
            trail.hidden_keys.clear();
        } else if envelope.extra_keys {
            let mut hidden = self.codecs.extra_keys(envelope.origin, message.properties_raw());
            hidden.retain(|key| !cc.contains(key));
            trail.hidden_keys = hidden;
        }
        // Without a rejection, a message could go round in a cycle of queues for ever. It is dropped where it would
        // come back.
        if death == Death::Rejected {
            trail.died_in.clear();
        } else if !trail.died_in.contains(&name) {
            trail.died_in.push(name.clone());
        }
        let mut history = take_history(headers);
        add_death(&mut history, &name, death, || {
            let mut table = Table::default();
            table.push("count", Value::Int(1, 64));
            table.push("reason", Value::text(death.reason()));
            table.push("queue", Value::text(&name));
            table.push("time", Value::Timestamp(self.now.wall.0 / 1000));
            table.push("exchange", Value::text(message.exchange()));
            let keys = std::iter::once(&old_key).chain(&cc);
            table.push("routing-keys", Value::Array(keys.map(|key| Value::text(key)).collect()));
            if let Some(ms) = original_expiration {
                table.push("original-expiration", Value::text(&ms.to_string()));
            }
            table
        });
        headers.push("x-death", Value::Array(history.into_iter().map(Value::Table).collect()));
        if headers.lookup("x-first-death-reason").is_none() {
            push_all(headers, "x-first-death", &name, death, message.exchange());
        }
        headers.0.retain(|(n, _)| !n.starts_with("x-last-death-"));
        push_all(headers, "x-last-death", &name, death, message.exchange());
        let mut new_envelope = envelope;
        new_envelope.origin = Origin::NEUTRAL;
        new_envelope.dialect = Dialect::Dot;
        new_envelope.deadline = None;
        new_envelope.retain = false;
        new_envelope.extra_keys = envelope.extra_keys && key.is_none();
        new_envelope.received = self.now.wall;
        let key = key.unwrap_or(old_key);
        if exchange.len() > EXCHANGE_NAME_MAX || key.len() > KEY_MAX {
            // The exchange's name is too long to exist, or the key became too long by its escapes: dropped.
            return Err(source);
        }
        let dead = message.readdressed(new_envelope, &exchange, &key, &encode_neutral(&properties, &trail));
        match death {
            Death::Rejected => self.counters.dead_lettered_rejected += 1,
            Death::Expired => self.counters.dead_lettered_expired += 1,
            Death::MaxLength => self.counters.dead_lettered_maxlen += 1,
            Death::DeliveryLimit => self.counters.dead_lettered_delivery_limit += 1,
        }
        self.note_dead_letter(&name, &exchange, &dead);
        if self.flow.is_tracing() {
            self.trace_dead_letter(&name, &dead, &source);
        }
        self.publish_internally(dead, trail.died_in, source);
        Ok(())
    }
}

fn push_all(headers: &mut Table, prefix: &str, queue: &str, death: Death, exchange: &str) {
    for (part, value) in [("reason", death.reason()), ("queue", queue), ("exchange", exchange)] {
        headers.push(format!("{prefix}-{part}"), Value::text(value));
    }
}

/// Removes the history from the headers. A client may have written it, so anything but a list of tables is ignored.
fn take_history(headers: &mut Table) -> Vec<Table> {
    let mut found = None;
    headers.0.retain_mut(|(name, value)| {
        let is_history = &**name == "x-death";
        if is_history && found.is_none() {
            found = Some(std::mem::replace(value, Value::Void));
        }
        !is_history
    });
    let Some(Value::Array(deaths)) = found else {
        return Vec::new();
    };
    let tables = deaths.into_iter().filter_map(|death| match death {
        Value::Table(table) => Some(table),
        _ => None,
    });
    tables.take(DEATHS_MAX).collect()
}

/// Counts a death: it is merged with earlier ones in the same queue for the same reason, and moved to the front. `new`
/// creates the entry for a first death.
fn add_death(history: &mut Vec<Table>, queue: &str, death: Death, new: impl FnOnce() -> Table) {
    let same = |t: &Table| {
        t.lookup("queue").and_then(Value::as_str) == Some(queue)
            && t.lookup("reason").and_then(Value::as_str) == Some(death.reason())
    };
    let mut entry = match history.iter().position(same) {
        Some(at) => history.remove(at),
        None => {
            history.truncate(DEATHS_MAX - 1);
            history.insert(0, new());
            return;
        }
    };
    // Only a forged history has more than one.
    history.retain(|other| !same(other));
    let count = entry.lookup("count").and_then(Value::as_int).unwrap_or(0);
    let count = Value::Int(count.max(0).saturating_add(1), 64);
    entry.0.retain(|(name, _)| &**name != "count");
    entry.0.insert(0, ("count".into(), count));
    history.insert(0, entry);
}
