//! The arguments of a queue: checked when it is declared, compared when it is declared again, and combined with its
//! policies.

use crate::arguments::{self, type_name};
use crate::fault::{Fault, FaultKind};
use crate::overflow::Overflow;
use crate::policy::{Definition, lower};
use crate::properties::{Name, Table, Value};
use crate::queue_type::QueueType;
use crate::store::Durability;

/// What holds for a queue: its known arguments, combined with its policies by [`Arguments::effective`]. Unknown `x-`
/// arguments are ignored.
///
/// Fields are in this order so that those a turn touches lie together: cold cache lines are most of the cost of a turn.
#[derive(Clone, Debug, Default, PartialEq)]
#[repr(C)]
pub(crate) struct Arguments {
    pub(crate) overflow: Overflow,
    /// Only the first consumer gets messages.
    pub(crate) single_active: bool,
    /// The highest priority; 0: the queue has no priorities.
    pub(crate) priority_max: u8,
    /// What a confirm of its messages waits for. `None`: the node's setting.
    pub(crate) durability: Option<Durability>,
    pub(crate) queue_type: QueueType,
    /// Time to live of each message, in milliseconds.
    pub(crate) message_ttl_ms: Option<u64>,
    /// The most messages that may wait.
    pub(crate) length_max: Option<u64>,
    /// The most bytes of bodies that may wait.
    pub(crate) bytes_max: Option<u64>,
    pub(crate) dead_letter_exchange: Option<Name>,
    // Rarely used fields follow.
    /// Time without use after which the queue is deleted, in milliseconds.
    pub(crate) expires_ms: Option<u64>,
    pub(crate) dead_letter_key: Option<Name>,
    /// How often a message may come back from consumers before it is dead-lettered; `None`: without limit.
    pub(crate) delivery_limit: Option<u64>,
    /// The arguments as declared, for comparison, the log and listings.
    pub(crate) declared: Table,
}

/// Longest time to live and queue expiry: ten years.
const INTERVAL_MS_MAX: i64 = 315_360_000_000;

impl Arguments {
    /// Checks the arguments of a declaration. `queue` names the queue in texts: `queue 'q' in vhost '/'`.
    ///
    /// # Errors
    /// PreconditionFailed for a bad value, NotImplemented for a value that is known and not supported.
    pub(crate) fn parse(declared: Table, queue: &str) -> Result<Arguments, Fault> {
        let arguments = Arguments::read(&declared, queue)?;
        Ok(Arguments { declared, ..arguments })
    }

    /// Reads the arguments without keeping the table itself.
    fn read(declared: &Table, queue: &str) -> Result<Arguments, Fault> {
        let asked = Asked { declared, queue };
        let queue_type = QueueType::parse(declared.lookup("x-queue-type"), queue)?;
        // Of several faults the first in RabbitMQ's order is reported: values first, then what the type does not have.
        let expires_ms = asked.int("x-expires", 1, INTERVAL_MS_MAX)?;
        let message_ttl_ms = asked.int("x-message-ttl", 0, INTERVAL_MS_MAX)?;
        let dead_letter_exchange = asked.text("x-dead-letter-exchange")?;
        let dead_letter_key = asked.text("x-dead-letter-routing-key")?;
        if dead_letter_key.is_some() && dead_letter_exchange.is_none() {
            return Err(asked.bad("x-dead-letter-routing-key", "routing_key_but_no_dlx_defined"));
        }
        asked.check_dead_letter_strategy()?;
        let length_max = asked.int("x-max-length", 0, i64::MAX)?;
        let bytes_max = asked.int("x-max-length-bytes", 0, i64::MAX)?;
        asked.int("x-max-in-memory-length", 0, i64::MAX)?;
        asked.int("x-max-in-memory-bytes", 0, i64::MAX)?;
        let priority_max = asked.priority_max()?;
        let overflow = asked.overflow()?;
        asked.check_storage()?;
        let single_active = asked.flag("x-single-active-consumer")?;
        let delivery_limit = queue_type.delivery_limit(asked.delivery_limit()?);
        asked.check_replicas()?;
        let durability = asked.durability()?;
        for (key, _) in &declared.0 {
            queue_type.check_argument(key, queue)?;
        }
        Ok(Arguments {
            message_ttl_ms,
            expires_ms,
            length_max,
            bytes_max,
            overflow,
            dead_letter_exchange,
            dead_letter_key,
            single_active,
            priority_max,
            durability,
            queue_type,
            delivery_limit,
            declared: Table::default(),
        })
    }

    /// Combines the arguments with a policy: of two limits the lower holds, in all else the arguments win.
    pub(crate) fn effective(self, policy: Option<&Definition>) -> Arguments {
        // They were checked at declaration. If a record is damaged and they are invalid now, they count as not
        // declared.
        let own = Arguments::read(&self.declared, "").unwrap_or_default();
        let declared = self.declared;
        let Some(policy) = policy else {
            return Arguments { declared, ..own };
        };
        let delivery_limit = match declared.lookup("x-delivery-limit") {
            _ if !own.queue_type.counts_returns() => own.delivery_limit,
            Some(_) => lower(own.delivery_limit, policy.delivery_limit),
            // Nobody chose the default limit, so a policy's limit wins even if it is higher.
            None => policy.delivery_limit.or(own.delivery_limit),
        };
        let overflow = match declared.lookup("x-overflow") {
            None => policy.overflow.unwrap_or_default(),
            Some(_) => own.overflow,
        };
        Arguments {
            overflow,
            delivery_limit,
            durability: own.durability.or(policy.durability),
            message_ttl_ms: lower(own.message_ttl_ms, policy.message_ttl_ms),
            length_max: lower(own.length_max, policy.length_max),
            bytes_max: lower(own.bytes_max, policy.bytes_max),
            expires_ms: lower(own.expires_ms, policy.expires_ms),
            dead_letter_exchange: own.dead_letter_exchange.or_else(|| policy.dead_letter_exchange.clone()),
            dead_letter_key: own.dead_letter_key.or_else(|| policy.dead_letter_key.clone()),
            declared,
            ..own
        }
    }

    /// Checks that a declaration with `other` describes the same queue.
    ///
    /// # Errors
    /// PreconditionFailed, naming the first argument that differs.
    pub(crate) fn check_equivalent(&self, other: &Table, queue: &str) -> Result<(), Fault> {
        for key in self.queue_type.compared() {
            let (current, received) = (self.declared.lookup(key), other.lookup(key));
            if key == "x-queue-type" && is_classic(current) && is_classic(received) {
                continue;
            }
            arguments::require_same(queue, key, received, current)?;
        }
        Ok(())
    }
}

fn is_classic(value: Option<&Value>) -> bool {
    value.is_none_or(|v| v.as_str() == Some("classic"))
}

/// The arguments of a declaration that is being checked.
struct Asked<'a> {
    declared: &'a Table,
    /// The queue as texts name it.
    queue: &'a str,
}

impl Asked<'_> {
    fn bad(&self, key: &str, error: &str) -> Fault {
        let text = format!("invalid arg '{key}' for {}: {error}", self.queue);
        Fault::new(FaultKind::PreconditionFailed, text)
    }

    fn int(&self, key: &str, min: i64, max: i64) -> Result<Option<u64>, Fault> {
        let Some(value) = self.declared.lookup(key) else {
            return Ok(None);
        };
        let Some(n) = value.as_int() else {
            return Err(self.bad(key, &format!("\"expected integer, got {}\"", type_name(value))));
        };
        if n < 0 {
            return Err(self.bad(key, &format!("{{value_negative,{n}}}")));
        }
        if n < min {
            return Err(self.bad(key, "{value_zero,0}"));
        }
        if n > max {
            return Err(self.bad(key, &format!("{{value_too_large,{n}}}")));
        }
        Ok(Some(n.unsigned_abs()))
    }

    fn text(&self, key: &str) -> Result<Option<Name>, Fault> {
        match self.declared.lookup(key) {
            None => Ok(None),
            Some(v) => v.as_str().map(|s| Some(s.into())).ok_or_else(|| {
                let text = format!("invalid type '{}' for arg '{key}' in {}", type_name(v), self.queue);
                Fault::new(FaultKind::PreconditionFailed, text)
            }),
        }
    }

    /// The value of an argument that must be one of a few words.
    fn choice(&self, key: &str) -> Result<Option<&str>, Fault> {
        match self.declared.lookup(key) {
            None => Ok(None),
            Some(v) => v.as_str().map(Some).ok_or_else(|| self.unacceptable(key, v)),
        }
    }

    fn flag(&self, key: &str) -> Result<bool, Fault> {
        match self.declared.lookup(key) {
            None => Ok(false),
            Some(Value::Bool(b)) => Ok(*b),
            Some(v) => Err(self.unacceptable(key, v)),
        }
    }

    fn unacceptable(&self, key: &str, value: &Value) -> Fault {
        self.bad(key, &format!("{{unacceptable_type,{}}}", type_name(value)))
    }

    fn overflow(&self) -> Result<Overflow, Fault> {
        let word = self.choice("x-overflow")?.unwrap_or("drop-head");
        Overflow::of(word).ok_or_else(|| self.bad("x-overflow", "invalid_overflow"))
    }

    fn priority_max(&self) -> Result<u8, Fault> {
        let max = self.int("x-max-priority", 0, i64::MAX)?.unwrap_or(0);
        u8::try_from(max).map_err(|_| self.bad("x-max-priority", &format!("{{max_value_exceeded,{max}}}")))
    }

    fn durability(&self) -> Result<Option<Durability>, Fault> {
        let key = "x-gatepost-durability";
        let Some(word) = self.choice(key)? else {
            return Ok(None);
        };
        let unsupported = || self.bad(key, &format!("\"unsupported durability '{word}'\""));
        Durability::of(word).map(Some).ok_or_else(unsupported)
    }

    fn delivery_limit(&self) -> Result<Option<i64>, Fault> {
        let key = "x-delivery-limit";
        let Some(value) = self.declared.lookup(key) else {
            return Ok(None);
        };
        let wrong = || self.bad(key, &format!("\"expected integer, got {}\"", type_name(value)));
        value.as_int().map(Some).ok_or_else(wrong)
    }

    /// Checks the arguments about storage of a classic queue. They change nothing: every durable queue is lazy.
    fn check_storage(&self) -> Result<(), Fault> {
        match self.choice("x-queue-mode")? {
            None | Some("default" | "lazy") => {}
            Some(other) => {
                let error = format!("\"unsupported queue mode '{other}'\"");
                return Err(self.bad("x-queue-mode", &error));
            }
        }
        match self.int("x-queue-version", 0, i64::MAX)? {
            None | Some(1 | 2) => Ok(()),
            Some(v) => {
                let error = format!("\"unsupported queue version '{v}'\"");
                Err(self.bad("x-queue-version", &error))
            }
        }
    }

    fn check_dead_letter_strategy(&self) -> Result<(), Fault> {
        match self.choice("x-dead-letter-strategy")? {
            // Dead letters are published within the engine and never lost on the way, so both values mean the same.
            None | Some("at-most-once" | "at-least-once") => Ok(()),
            Some(_) => Err(self.bad("x-dead-letter-strategy", "invalid_dlx_strategy")),
        }
    }

    /// Checks the arguments about replicas of a quorum queue. They change nothing: there are no replicas.
    fn check_replicas(&self) -> Result<(), Fault> {
        self.int("x-quorum-initial-group-size", 1, i64::MAX)?;
        self.int("x-quorum-target-group-size", 1, i64::MAX)?;
        match self.choice("x-queue-leader-locator")? {
            // There is only one node.
            None | Some("client-local" | "balanced" | "random" | "least-leaders") => Ok(()),
            Some(_) => Err(self.bad("x-queue-leader-locator", "invalid_queue_locator_arg")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: &str = "queue 'q' in vhost '/'";

    fn table(pairs: &[(&str, Value)]) -> Table {
        Table(pairs.iter().map(|(k, v)| ((*k).into(), v.clone())).collect())
    }

    #[test]
    fn bad_values_are_named_as_clients_expect() {
        let text = |k, v| Arguments::parse(table(&[(k, v)]), Q).unwrap_err().text;
        let arg = "invalid arg 'x-message-ttl' for queue 'q' in vhost '/': ";
        assert_eq!(
            &*text("x-message-ttl", Value::text("1")),
            format!("{arg}\"expected integer, got longstr\"")
        );
        assert_eq!(
            &*text("x-message-ttl", Value::Int(-1, 32)),
            format!("{arg}{{value_negative,-1}}")
        );
        assert!(text("x-expires", Value::Int(0, 32)).ends_with("{value_zero,0}"));
        assert!(text("x-overflow", Value::text("x")).ends_with("invalid_overflow"));
        assert!(text("x-dead-letter-routing-key", Value::text("k")).ends_with("routing_key_but_no_dlx_defined"));
    }

    /// Clients that redeclare with several differences, and their tests, expect the text that RabbitMQ would give.
    #[test]
    fn of_several_faults_the_first_in_order_is_reported() {
        let overflow = || ("x-overflow", Value::text("x"));
        let text = |pairs: &[(&str, Value)]| Arguments::parse(table(pairs), Q).unwrap_err().text;
        let with_key = text(&[overflow(), ("x-dead-letter-routing-key", Value::text("k"))]);
        assert!(with_key.ends_with("routing_key_but_no_dlx_defined"), "{with_key}");
        let of_another_type = text(&[("x-delivery-limit", Value::Int(1, 32)), overflow()]);
        assert!(of_another_type.ends_with("invalid_overflow"), "{of_another_type}");
        let current = Arguments::parse(table(&[("x-max-priority", Value::Int(1, 32))]), Q).unwrap();
        let others = table(&[
            ("x-overflow", Value::text("drop-head")),
            ("x-max-length", Value::Int(1, 32)),
            ("x-dead-letter-exchange", Value::text("x")),
        ]);
        let fault = current.check_equivalent(&others, Q).unwrap_err();
        assert!(
            fault.text.starts_with("inequivalent arg 'x-dead-letter-exchange'"),
            "{fault}"
        );
    }

    #[test]
    fn a_durability_is_one_of_three_words_and_part_of_equivalence() {
        let key = "x-gatepost-durability";
        let modes = [
            ("always", Durability::Always),
            ("interval", Durability::Interval),
            ("os", Durability::Os),
        ];
        for (word, mode) in modes {
            let parsed = Arguments::parse(table(&[(key, Value::text(word))]), Q).unwrap();
            assert_eq!(parsed.durability, Some(mode));
            let fault = parsed.check_equivalent(&Table::default(), Q).unwrap_err();
            assert!(
                fault.text.starts_with("inequivalent arg 'x-gatepost-durability'"),
                "{fault}"
            );
        }
        assert_eq!(Arguments::parse(Table::default(), Q).unwrap().durability, None);
        let refused = |value| Arguments::parse(table(&[(key, value)]), Q).unwrap_err();
        let fault = refused(Value::text("sometimes"));
        assert_eq!(fault.kind, FaultKind::PreconditionFailed);
        let arg = "invalid arg 'x-gatepost-durability' for queue 'q' in vhost '/': ";
        assert_eq!(&*fault.text, format!("{arg}\"unsupported durability 'sometimes'\""));
        assert_eq!(
            &*refused(Value::Int(1, 32)).text,
            format!("{arg}{{unacceptable_type,signedint}}")
        );
    }

    #[test]
    fn under_a_policy_the_lower_limit_holds_and_other_arguments_win() {
        let policy = Definition {
            length_max: Some(5),
            message_ttl_ms: Some(100),
            delivery_limit: Some(3),
            overflow: Some(Overflow::RejectPublish),
            dead_letter_exchange: Some("policy".into()),
            dead_letter_key: Some("key".into()),
            ..Definition::default()
        };
        let declared = [
            ("x-max-length", Value::Int(9, 32)),
            ("x-message-ttl", Value::Int(50, 32)),
            ("x-overflow", Value::text("drop-head")),
            ("x-dead-letter-exchange", Value::text("own")),
        ];
        let own = Arguments::parse(table(&declared), Q).unwrap();
        let effective = own.clone().effective(Some(&policy));
        assert_eq!((effective.length_max, effective.message_ttl_ms), (Some(5), Some(50)));
        assert_eq!(effective.overflow, Overflow::DropHead);
        assert_eq!(effective.dead_letter_exchange.as_deref(), Some("own"));
        assert_eq!(effective.dead_letter_key.as_deref(), Some("key"));
        // A classic queue does not count returns.
        assert_eq!(effective.delivery_limit, None);
        assert!(effective.check_equivalent(&table(&declared), Q).is_ok());
        // Removing the policy restores the arguments.
        assert_eq!(effective.effective(None), own);
        let quorum = |more: &[(&str, Value)]| {
            let declared = [&[("x-queue-type", Value::text("quorum"))], more].concat();
            let own = Arguments::parse(table(&declared), Q).unwrap();
            own.effective(Some(&Definition {
                delivery_limit: Some(30),
                ..policy.clone()
            }))
            .delivery_limit
        };
        // RabbitMQ's default is 20. A negative limit is no limit, but a policy may still set one.
        assert_eq!(quorum(&[]), Some(30));
        assert_eq!(quorum(&[("x-delivery-limit", Value::Int(7, 32))]), Some(7));
        assert_eq!(quorum(&[("x-delivery-limit", Value::Int(-1, 32))]), Some(30));
    }

    /// A redeclaration failed because of an argument that a classic queue does not have.
    #[test]
    fn arguments_of_the_other_type_are_not_compared() {
        let limit = [("x-delivery-limit", Value::Int(2, 32))];
        let classic = Arguments::parse(Table::default(), Q).unwrap();
        assert!(classic.check_equivalent(&table(&limit), Q).is_ok());
        let declared = [("x-queue-type", Value::text("quorum"))];
        let quorum = Arguments::parse(table(&declared), Q).unwrap();
        let more = |more: (&str, Value)| quorum.check_equivalent(&table(&[declared[0].clone(), more]), Q);
        assert!(more(("x-queue-mode", Value::text("lazy"))).is_ok());
        let fault = more(limit[0].clone()).unwrap_err();
        assert!(fault.text.starts_with("inequivalent arg 'x-delivery-limit'"), "{fault}");
    }

    #[test]
    fn integer_width_is_no_difference_and_absence_is() {
        let a = Arguments::parse(table(&[("x-max-length", Value::Int(10, 32))]), Q).unwrap();
        assert!(
            a.check_equivalent(&table(&[("x-max-length", Value::Int(10, 64))]), Q)
                .is_ok()
        );
        assert!(
            a.check_equivalent(
                &table(&[("x-max-length", Value::Int(10, 64)), ("x-foo", Value::Void)]),
                Q
            )
            .is_ok()
        );
        let fault = a.check_equivalent(&Table::default(), Q).unwrap_err();
        assert_eq!(
            &*fault.text,
            "inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received none but current is the value '10' of type 'signedint'"
        );
    }
}
