//! A policy's definition: its keys, checked once, and how it is combined with another policy.

use crate::overflow::Overflow;
use crate::properties::{Name, Table, Value};
use crate::store::Durability;

/// The settings of a policy that this gateway supports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Definition {
    pub(crate) message_ttl_ms: Option<u64>,
    pub(crate) expires_ms: Option<u64>,
    pub(crate) length_max: Option<u64>,
    pub(crate) bytes_max: Option<u64>,
    pub(crate) delivery_limit: Option<u64>,
    pub(crate) overflow: Option<Overflow>,
    pub(crate) dead_letter_exchange: Option<Name>,
    pub(crate) dead_letter_key: Option<Name>,
    pub(crate) durability: Option<Durability>,
    pub(crate) alternate_exchange: Option<Name>,
}

/// A key that policies may have: its name, the check of its value, RabbitMQ's name of it in errors, and who may set it.
struct Known(&'static str, Check, &'static str, By);

/// The check of a key's value.
#[derive(Clone, Copy)]
enum Check {
    /// A whole number that is not lower than this.
    From(i64),
    Text,
    OneOf(&'static [&'static str]),
    /// Ignored, so any value is accepted.
    Any,
}

/// Which policies may have a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Anyone,
    /// Not operator policies.
    Users,
}

/// RabbitMQ 3.10's keys, and `gatepost-durability`. Keys about replicas and storage are accepted and ignored, because there is
/// one node and one form of storage.
const KNOWN: [Known; 28] = [
    Known("message-ttl", Check::From(0), "message TTL", By::Anyone),
    Known("expires", Check::From(1), "queue expiry", By::Anyone),
    Known("max-length", Check::From(0), "maximum length", By::Anyone),
    Known(
        "max-length-bytes",
        Check::From(0),
        "maximum length in bytes",
        By::Anyone,
    ),
    Known("delivery-limit", Check::From(0), "delivery limit", By::Anyone),
    Known("overflow", Check::OneOf(OVERFLOWS), "overflow value", By::Anyone),
    Known(
        "dead-letter-exchange",
        Check::Text,
        "dead letter exchange name",
        By::Users,
    ),
    Known(
        "dead-letter-routing-key",
        Check::Text,
        "dead letter routing key",
        By::Users,
    ),
    Known("alternate-exchange", Check::Text, "alternate exchange name", By::Users),
    Known(
        "gatepost-durability",
        Check::OneOf(&["always", "interval", "os"]),
        "durability",
        By::Users,
    ),
    Known(
        "dead-letter-strategy",
        Check::OneOf(STRATEGIES),
        "dead letter strategy",
        By::Users,
    ),
    Known(
        "max-in-memory-length",
        Check::From(0),
        "maximum length of messages in memory",
        By::Anyone,
    ),
    Known(
        "max-in-memory-bytes",
        Check::From(0),
        "maximum memory in bytes",
        By::Anyone,
    ),
    Known(
        "queue-mode",
        Check::OneOf(&["default", "lazy"]),
        "queue-mode value",
        By::Users,
    ),
    Known("queue-version", Check::From(1), "queue-version value", By::Users),
    Known("queue-master-locator", Check::Text, "queue master locator", By::Users),
    Known(
        "queue-leader-locator",
        Check::OneOf(LOCATORS),
        "queue leader locator value",
        By::Users,
    ),
    Known("ha-mode", Check::Any, "", By::Users),
    Known("ha-params", Check::Any, "", By::Users),
    Known("ha-sync-mode", Check::Any, "", By::Users),
    Known("ha-sync-batch-size", Check::Any, "", By::Users),
    Known("ha-promote-on-shutdown", Check::Any, "", By::Users),
    Known("ha-promote-on-failure", Check::Any, "", By::Users),
    Known("max-age", Check::Any, "", By::Users),
    Known("stream-max-segment-size-bytes", Check::Any, "", By::Users),
    Known("initial-cluster-size", Check::Any, "", By::Users),
    Known("target-group-size", Check::From(1), "target group size", By::Anyone),
    Known("consumer-timeout", Check::Any, "", By::Users),
];

const OVERFLOWS: &[&str] = &["drop-head", "reject-publish", "reject-publish-dlx"];
const STRATEGIES: &[&str] = &["at-most-once", "at-least-once"];
const LOCATORS: &[&str] = &["client-local", "balanced", "random", "least-leaders"];

impl Definition {
    /// Checks a policy's definition. `operator`: it is an operator policy, which may only set limits.
    ///
    /// # Errors
    /// What is wrong with it, in RabbitMQ's words.
    pub(crate) fn parse(table: &Table, operator: bool) -> Result<Definition, String> {
        if table.is_empty() {
            return Err("no policy provided".to_owned());
        }
        let mut unknown: Vec<&(Name, Value)> = table
            .0
            .iter()
            .filter(|(key, _)| known(key).is_none_or(|known| operator && known.3 == By::Users))
            .collect();
        if !unknown.is_empty() {
            unknown.sort_by(|a, b| a.0.cmp(&b.0));
            let pairs: Vec<String> = unknown
                .iter()
                .map(|(key, value)| format!("{{<<\"{key}\">>,{}}}", shown(value)))
                .collect();
            return Err(format!("[{}] are not recognised policy settings", pairs.join(",")));
        }
        let mut definition = Definition::default();
        for (key, value) in &table.0 {
            let Some(Known(_, check, what, _)) = known(key) else {
                continue;
            };
            if !is_good(*check, value) {
                return Err(format!("{} is not a valid {what}", shown(value)));
            }
            definition.set(key, value);
        }
        Ok(definition)
    }

    /// Sets a checked value.
    fn set(&mut self, key: &str, value: &Value) {
        let count = || value.as_int().and_then(|n| u64::try_from(n).ok());
        let text = || value.as_str().map(Name::from);
        match key {
            "message-ttl" => self.message_ttl_ms = count(),
            "expires" => self.expires_ms = count(),
            "max-length" => self.length_max = count(),
            "max-length-bytes" => self.bytes_max = count(),
            "delivery-limit" => self.delivery_limit = count(),
            "overflow" => self.overflow = value.as_str().and_then(Overflow::of),
            "dead-letter-exchange" => self.dead_letter_exchange = text(),
            "dead-letter-routing-key" => self.dead_letter_key = text(),
            "alternate-exchange" => self.alternate_exchange = text(),
            "gatepost-durability" => self.durability = value.as_str().and_then(Durability::of),
            _ => {}
        }
    }

    /// Combines a policy with an operator policy: the lower of two limits, and the operator's value of other keys.
    pub(crate) fn merged(&self, operator: &Definition) -> Definition {
        let (a, b) = (self, operator);
        let either = |a: &Option<Name>, b: &Option<Name>| b.clone().or_else(|| a.clone());
        Definition {
            message_ttl_ms: lower(a.message_ttl_ms, b.message_ttl_ms),
            expires_ms: lower(a.expires_ms, b.expires_ms),
            length_max: lower(a.length_max, b.length_max),
            bytes_max: lower(a.bytes_max, b.bytes_max),
            delivery_limit: lower(a.delivery_limit, b.delivery_limit),
            overflow: b.overflow.or(a.overflow),
            dead_letter_exchange: either(&a.dead_letter_exchange, &b.dead_letter_exchange),
            dead_letter_key: either(&a.dead_letter_key, &b.dead_letter_key),
            durability: b.durability.or(a.durability),
            alternate_exchange: either(&a.alternate_exchange, &b.alternate_exchange),
        }
    }
}

/// The same for two tables, for listings.
pub(super) fn merged_tables(user: &Table, operator: &Table) -> Table {
    let mut merged = user.clone();
    for (key, value) in &operator.0 {
        match merged.0.iter_mut().find(|(other, _)| other == key) {
            Some((_, own)) => {
                if own.as_int().zip(value.as_int()).is_none_or(|(own, value)| value < own) {
                    *own = value.clone();
                }
            }
            None => merged.push(key.clone(), value.clone()),
        }
    }
    merged
}

/// The lower of two limits, or the one that is set.
pub(crate) fn lower(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn known(key: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.0 == key)
}

fn is_good(check: Check, value: &Value) -> bool {
    match check {
        Check::From(least) => value.as_int().is_some_and(|n| n >= least),
        Check::Text => value.as_str().is_some(),
        Check::OneOf(words) => value.as_str().is_some_and(|word| words.contains(&word)),
        Check::Any => true,
    }
}

/// A value in RabbitMQ's error texts.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Text(_) => format!("<<\"{}\">>", crate::arguments::text_of(value)),
        other => crate::arguments::text_of(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(pairs: &[(&str, Value)]) -> Table {
        Table(pairs.iter().map(|(k, v)| ((*k).into(), v.clone())).collect())
    }

    /// The texts are RabbitMQ 3.10.8's.
    #[test]
    fn errors_in_a_definition_are_worded_as_in_rabbitmq() {
        let wrong = |pairs: &[(&str, Value)]| Definition::parse(&table(pairs), false).expect_err("refused");
        assert_eq!(wrong(&[]), "no policy provided");
        assert_eq!(
            wrong(&[("foo", Value::Int(1, 64)), ("bar", Value::text("x"))]),
            "[{<<\"bar\">>,<<\"x\">>},{<<\"foo\">>,1}] are not recognised policy settings"
        );
        assert_eq!(
            wrong(&[("max-length", Value::Int(-5, 64))]),
            "-5 is not a valid maximum length"
        );
        assert_eq!(
            wrong(&[("message-ttl", Value::text("5"))]),
            "<<\"5\">> is not a valid message TTL"
        );
        assert_eq!(
            wrong(&[("expires", Value::Int(0, 64))]),
            "0 is not a valid queue expiry"
        );
        assert_eq!(
            wrong(&[("overflow", Value::text("x"))]),
            "<<\"x\">> is not a valid overflow value"
        );
        assert_eq!(
            wrong(&[("dead-letter-exchange", Value::Int(5, 64))]),
            "5 is not a valid dead letter exchange name"
        );
        let operator = Definition::parse(&table(&[("dead-letter-exchange", Value::text("x"))]), true);
        assert_eq!(
            operator.expect_err("refused"),
            "[{<<\"dead-letter-exchange\">>,<<\"x\">>}] are not recognised policy settings"
        );
    }

    #[test]
    fn an_operator_lowers_limits_and_replaces_the_rest() {
        let user = table(&[
            ("max-length", Value::Int(10, 64)),
            ("message-ttl", Value::Int(5, 64)),
            ("overflow", Value::text("reject-publish")),
            ("dead-letter-exchange", Value::text("dlx")),
        ]);
        let operator = table(&[
            ("max-length", Value::Int(20, 64)),
            ("message-ttl", Value::Int(3, 64)),
            ("expires", Value::Int(7, 64)),
            ("overflow", Value::text("drop-head")),
        ]);
        let parse = |table: &Table, operator| Definition::parse(table, operator).expect("good");
        let merged = parse(&user, false).merged(&parse(&operator, true));
        assert_eq!(
            (merged.length_max, merged.message_ttl_ms, merged.expires_ms),
            (Some(10), Some(3), Some(7))
        );
        assert_eq!(merged.overflow, Some(Overflow::DropHead));
        assert_eq!(merged.dead_letter_exchange.as_deref(), Some("dlx"));
        // The table for listings has the same effect.
        assert_eq!(parse(&merged_tables(&user, &operator), false), merged);
    }
}
