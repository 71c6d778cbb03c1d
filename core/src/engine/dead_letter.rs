//! Dead-lettering: what a queue could not deliver is published to another exchange, with its history.
//!
//! The history travels as the `x-death` header, in the neutral encoding ([`Origin::NEUTRAL`]), which only the engine
//! writes: a header of that name from a client is carried but never steers anything.

use super::Engine;
use super::consuming::Death;
use crate::message::{Dialect, EXCHANGE_NAME_MAX, KEY_MAX, Message};
use crate::properties::{Name, Origin, Properties, Table, Value};
use crate::queue::unsettled::QueueRef;
use crate::topic;

impl Death {
    fn reason(self) -> &'static str {
        match self {
            Death::Rejected => "rejected",
            Death::Expired => "expired",
            Death::MaxLength => "maxlen",
        }
    }
}

impl Engine {
    /// Whether the queue sends its dead somewhere.
    pub(crate) fn has_dead_letters(&self, queue: QueueRef) -> bool {
        self.queues
            .get(queue.slot as usize)
            .is_some_and(|q| q.arguments.dead_letter_exchange.is_some())
    }

    /// Publishes a message that died in `queue` to the queue's dead-letter exchange. A missing exchange drops it.
    pub(crate) fn dead_letter(&mut self, queue: QueueRef, message: &Message, death: Death) {
        let Some(q) = self.queue_mut(queue) else { return };
        let Some(exchange) = q.arguments.dead_letter_exchange.clone() else {
            return;
        };
        let (name, key) = (q.name.clone(), q.arguments.dead_letter_key.clone());
        let dotted = topic::translate(message.key(), message.envelope().dialect, Dialect::Dot);
        let old_key: Name = dotted.as_deref().unwrap_or(message.key()).into();
        let mut properties = message.properties(&self.codecs);
        let original_expiration = properties.expiration_ms.take();
        let ours = message.envelope().origin == Origin::NEUTRAL;
        let mut history = take_history(&mut properties.headers, ours);
        // A cycle in which nobody rejected the message would never end: it ends where it comes back.
        let visited = if death == Death::Rejected {
            Vec::new()
        } else {
            visited(&history, &name)
        };
        let seconds = self.now.wall.0 / 1000;
        add_death(
            &mut history,
            &name,
            death,
            message.exchange(),
            &old_key,
            seconds,
            original_expiration,
        );
        let headers = &mut properties.headers;
        headers.push("x-death", Value::Array(history.into_iter().map(Value::Table).collect()));
        if headers.lookup("x-first-death-reason").is_none() {
            push_all(headers, "x-first-death", &name, death, message.exchange());
        }
        headers.0.retain(|(n, _)| !n.starts_with("x-last-death-"));
        push_all(headers, "x-last-death", &name, death, message.exchange());
        let mut envelope = *message.envelope();
        envelope.origin = Origin::NEUTRAL;
        envelope.dialect = Dialect::Dot;
        envelope.deadline = None;
        envelope.retain = false;
        envelope.extra_keys = false;
        envelope.received = self.now.wall;
        let key = key.unwrap_or(old_key);
        if exchange.len() > EXCHANGE_NAME_MAX || key.len() > KEY_MAX {
            // No exchange has so long a name, and a key that grew by its escapes cannot be said: dropped.
            return;
        }
        let dead = message.readdressed(envelope, &exchange, &key, &properties.encode());
        match death {
            Death::Rejected => self.counters.dead_lettered_rejected += 1,
            Death::Expired => self.counters.dead_lettered_expired += 1,
            Death::MaxLength => self.counters.dead_lettered_maxlen += 1,
        }
        // Published at the end of the turn: a chain of queues must not become a chain of calls.
        self.dead_letters.push_back((dead, visited));
    }
}

fn push_all(headers: &mut Table, prefix: &str, queue: &str, death: Death, exchange: &str) {
    for (part, value) in [("reason", death.reason()), ("queue", queue), ("exchange", exchange)] {
        headers.push(format!("{prefix}-{part}"), Value::text(value));
    }
}

/// Takes the history out of the headers: ours, or none if a client wrote it.
fn take_history(headers: &mut Table, ours: bool) -> Vec<Table> {
    let found = headers
        .0
        .iter()
        .position(|(n, _)| &**n == "x-death")
        .map(|at| headers.0.remove(at).1);
    match found {
        Some(Value::Array(deaths)) if ours => deaths
            .into_iter()
            .filter_map(|d| match d {
                Value::Table(t) => Some(t),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// Queues the message died in since it was last rejected, latest first, the present one included.
fn visited(history: &[Table], here: &Name) -> Vec<Name> {
    let text = |t: &Table, key: &str| t.lookup(key).and_then(|v| v.as_str().map(Name::from));
    let since = history
        .iter()
        .take_while(|t| text(t, "reason").as_deref() != Some("rejected"));
    // The history is merged by queue and reason: a rejection anywhere in it that is not older cannot be told apart, so
    // any rejection ends the look back, as peers do it.
    if history.iter().any(|t| text(t, "reason").as_deref() == Some("rejected")) {
        return Vec::new();
    }
    since.filter_map(|t| text(t, "queue")).chain([here.clone()]).collect()
}

/// Counts a death: merged with the earlier ones in the same queue for the same reason, and moved to the front.
fn add_death(
    history: &mut Vec<Table>,
    queue: &str,
    death: Death,
    exchange: &str,
    key: &str,
    seconds: u64,
    original_expiration: Option<u64>,
) {
    let same = |t: &Table| {
        t.lookup("queue").and_then(Value::as_str) == Some(queue)
            && t.lookup("reason").and_then(Value::as_str) == Some(death.reason())
    };
    if let Some(at) = history.iter().position(same) {
        let mut table = history.remove(at);
        for (name, value) in &mut table.0 {
            if &**name == "count" {
                *value = Value::Int(value.as_int().unwrap_or(0).saturating_add(1), 64);
            }
        }
        history.insert(0, table);
        return;
    }
    let mut table = Table::default();
    table.push("count", Value::Int(1, 64));
    table.push("reason", Value::text(death.reason()));
    table.push("queue", Value::text(queue));
    table.push("time", Value::Timestamp(seconds));
    table.push("exchange", Value::text(exchange));
    table.push("routing-keys", Value::Array(Box::from([Value::text(key)])));
    if let Some(ms) = original_expiration {
        table.push("original-expiration", Value::text(&ms.to_string()));
    }
    history.insert(0, table);
}

impl Properties {
    /// The neutral encoding: a version, then postcard.
    fn encode(&self) -> Vec<u8> {
        match postcard::to_extend(self, vec![1]) {
            Ok(bytes) => bytes,
            // Plain data into a growing buffer: there is nothing to fail.
            Err(e) => unreachable!("postcard refused plain data: {e}"),
        }
    }
}
