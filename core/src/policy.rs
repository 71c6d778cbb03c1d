//! Policies: settings of queues and exchanges whose names match a pattern.
//!
//! ```text
//!   policies (the highest priority that matches)  ─┐ lower of limits,
//!   operator policies (likewise)                  ─┴ else the operator's ──► Applied ──► queues, exchanges
//! ```
//!
//! Patterns are matched under the engine's lock, so their text, their compiled size and the number of
//! policies are bounded. Matching takes time linear in the name.

mod definition;

pub(crate) use definition::{Definition, lower};

use crate::access::NamePattern;
use crate::ledger::{Charge, allocation};
use crate::properties::{Name, Table};
use crate::queue_type::QueueType;
use definition::merged_tables;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The most policies of a vhost, and the most operator policies. Each is matched with each new queue.
pub const POLICIES_MAX: usize = 512;
/// The most bytes of a policy's name.
const NAME_BYTES_MAX: usize = 255;
/// The most bytes of a pattern's text.
const PATTERN_BYTES_MAX: usize = 1024;
/// The most bytes of memory of a policy's definition. It is kept unchanged, including keys that are ignored.
const DEFINITION_BYTES_MAX: usize = 16 << 10;
/// The most bytes of memory of a compiled pattern. Patterns of permissions may be larger, because they are not matched with every queue.
const COMPILED_BYTES_MAX: usize = 16 << 10;

/// The most compiled bytes of all patterns of a vhost together. A name is matched with all of them in one hold of the engine's
/// lock. The worst patterns and a name of 255 bytes take 60 µs for each KiB, so 30 ms; most take less than 1 µs.
/// `^text`, `^text.*` and `^text$` are not compiled.
pub(crate) const COMPILED_BYTES_TOTAL_MAX: usize = 512 << 10;

/// The weight of a pattern is one, and one more for this many bytes of its compiled form. This much weight is one work unit.
const COMPILED_BYTES_PER_WEIGHT: usize = 64;
const WEIGHT_PER_UNIT: usize = 16;

/// A policy as it is set and stored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyRecord {
    /// A regular expression over names.
    pub pattern: String,
    /// What it applies to: `queues`, `exchanges`, `all`, or one type of queue.
    pub apply_to: Name,
    /// The settings.
    pub definition: Table,
    /// If several policies match a name, the one with the highest priority applies.
    pub priority: i64,
    /// Fields that later releases add.
    pub more: Table,
}

/// The kind of a policy. Each kind has its own list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// A user's policy.
    User,
    /// An operator policy. It only sets limits, which users' policies cannot exceed.
    Operator,
}

/// The objects that a policy applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ApplyTo {
    Queues,
    ClassicQueues,
    QuorumQueues,
    /// Streams, which are not implemented.
    Streams,
    Exchanges,
    All,
}

impl ApplyTo {
    fn parse(text: &str) -> Option<ApplyTo> {
        Some(match text {
            "queues" => ApplyTo::Queues,
            "classic_queues" => ApplyTo::ClassicQueues,
            "quorum_queues" => ApplyTo::QuorumQueues,
            "streams" => ApplyTo::Streams,
            "exchanges" => ApplyTo::Exchanges,
            // The default is all objects.
            "all" | "" => ApplyTo::All,
            _ => return None,
        })
    }

    fn covers(self, object: Object) -> bool {
        match (self, object) {
            (ApplyTo::All, _) | (ApplyTo::Queues, Object::Queue(_)) | (ApplyTo::Exchanges, Object::Exchange) => true,
            (ApplyTo::ClassicQueues, Object::Queue(queue_type)) => queue_type == QueueType::Classic,
            (ApplyTo::QuorumQueues, Object::Queue(queue_type)) => queue_type == QueueType::Quorum,
            _ => false,
        }
    }
}

/// The kind of an object that policies apply to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    Queue(QueueType),
    Exchange,
}

/// One policy, checked.
pub(crate) struct Policy {
    name: Name,
    record: PolicyRecord,
    pattern: NamePattern,
    apply_to: ApplyTo,
    definition: Definition,
    /// Bytes of the compiled pattern, roughly.
    pub(crate) compiled: usize,
    /// Bytes of memory that it occupies.
    pub(crate) charge: Charge,
}

impl Policy {
    /// Checks a policy.
    ///
    /// # Errors
    /// What is wrong with it, in RabbitMQ's words.
    pub(crate) fn parse(kind: PolicyKind, name: Name, record: PolicyRecord) -> Result<Policy, String> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(format!("a policy's name has 1 to {NAME_BYTES_MAX} bytes"));
        }
        let pattern = NamePattern::search(&record.pattern, PATTERN_BYTES_MAX, COMPILED_BYTES_MAX)
            .map_err(|why| format!("pattern should be regular expression but is invalid: {why}"))?;
        let apply_to = ApplyTo::parse(&record.apply_to).ok_or_else(|| {
            let known = "'queues', 'classic_queues', 'quorum_queues', 'streams', 'exchanges' or 'all'";
            format!("apply-to '{}' unrecognised; should be {known}", record.apply_to)
        })?;
        if record.definition.memory() > DEFINITION_BYTES_MAX {
            return Err(format!(
                "a definition takes {DEFINITION_BYTES_MAX} bytes of memory at most"
            ));
        }
        let definition = Definition::parse(&record.definition, kind == PolicyKind::Operator)?;
        Ok(Policy {
            name,
            record,
            compiled: pattern.compiled_bytes(COMPILED_BYTES_MAX),
            pattern,
            apply_to,
            definition,
            charge: Charge::default(),
        })
    }

    /// Bytes of memory that it occupies.
    pub(crate) fn memory(&self) -> usize {
        let text = allocation(self.record.pattern.len()) + allocation(self.name.len());
        // Each character of the pattern compiles to an instruction of several words.
        std::mem::size_of::<Policy>() + text + 64 * self.record.pattern.len() + 2 * self.record.definition.memory()
    }
}

/// Checks a policy without setting it.
///
/// # Errors
/// What is wrong with it, in RabbitMQ's words.
pub fn check(kind: PolicyKind, name: &str, record: &PolicyRecord) -> Result<(), String> {
    Policy::parse(kind, name.into(), record.clone()).map(drop)
}

/// The combined effect of the policies on a queue or an exchange.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The policy that applies.
    pub policy: Option<Name>,
    /// The operator policy that applies.
    pub operator: Option<Name>,
    /// The combined definition, for listings.
    pub definition: AppliedTable,
    pub(crate) effective: Definition,
}

/// See [`Applied::definition`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AppliedTable(pub Table);

// A checked definition contains no NaN, so equality is reflexive.
impl Eq for AppliedTable {}

/// The policies of a vhost.
#[derive(Default)]
pub(crate) struct Policies {
    user: Ranked,
    operator: Ranked,
    /// The combined effect of each pair of policy and operator policy, shared by all queues with that pair. Never iterated.
    applied: HashMap<(Option<Name>, Option<Name>), Arc<Applied>>,
}

/// Policies of one kind, highest priority first; of the same priority, by name.
#[derive(Default)]
struct Ranked(Vec<Policy>);

impl Policies {
    fn of(&self, kind: PolicyKind) -> &Ranked {
        match kind {
            PolicyKind::User => &self.user,
            PolicyKind::Operator => &self.operator,
        }
    }

    /// The number of policies.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.user.0.len() + self.operator.0.len()
    }

    /// Work units of matching a name with all patterns.
    pub(crate) fn match_units(&self) -> usize {
        let all = self.user.0.len() + self.operator.0.len();
        (all + self.compiled_bytes() / COMPILED_BYTES_PER_WEIGHT) / WEIGHT_PER_UNIT
    }

    /// Compiled bytes of all patterns together.
    pub(crate) fn compiled_bytes(&self) -> usize {
        let all = self.user.0.iter().chain(&self.operator.0);
        all.map(|policy| policy.compiled).sum()
    }

    /// Compiled bytes of the pattern of one policy; 0 if there is no policy with that name.
    pub(crate) fn compiled_bytes_of(&self, kind: PolicyKind, name: &str) -> usize {
        let mut all = self.of(kind).0.iter();
        all.find(|policy| *policy.name == *name)
            .map_or(0, |policy| policy.compiled)
    }

    /// Whether `more` policies may be added.
    pub(crate) fn has_room(&self, kind: PolicyKind, more: usize) -> bool {
        self.of(kind).0.len() + more <= POLICIES_MAX
    }

    /// The policy with that name.
    pub(crate) fn get(&self, kind: PolicyKind, name: &str) -> Option<&PolicyRecord> {
        let mut all = self.of(kind).0.iter();
        all.find(|policy| *policy.name == *name).map(|policy| &policy.record)
    }

    /// All policies of one kind, highest priority first.
    pub(crate) fn all(&self, kind: PolicyKind) -> impl Iterator<Item = (&Name, &PolicyRecord)> {
        self.of(kind).0.iter().map(|policy| (&policy.name, &policy.record))
    }

    /// Adds a policy, or replaces the one with that name.
    pub(crate) fn put(&mut self, kind: PolicyKind, policy: Policy) {
        self.remove(kind, &policy.name.clone());
        let ranked = self.of_mut(kind);
        let rank = |policy: &Policy| (std::cmp::Reverse(policy.record.priority), policy.name.clone());
        let at = ranked.0.partition_point(|other| rank(other) < rank(&policy));
        ranked.0.insert(at, policy);
    }

    /// Removes a policy. Returns whether it existed.
    pub(crate) fn remove(&mut self, kind: PolicyKind, name: &str) -> bool {
        self.applied.clear();
        let ranked = self.of_mut(kind);
        let before = ranked.0.len();
        ranked.0.retain(|policy| *policy.name != *name);
        ranked.0.len() < before
    }

    fn of_mut(&mut self, kind: PolicyKind) -> &mut Ranked {
        match kind {
            PolicyKind::User => &mut self.user,
            PolicyKind::Operator => &mut self.operator,
        }
    }

    /// The combined policies of an object, if any match.
    pub(crate) fn applied_to(&mut self, object: Object, name: &str) -> Option<Arc<Applied>> {
        let user = self.user.best(object, name);
        let operator = self.operator.best(object, name);
        if user.is_none() && operator.is_none() {
            return None;
        }
        let pair = (user.map(|p| p.name.clone()), operator.map(|p| p.name.clone()));
        if let Some(applied) = self.applied.get(&pair) {
            return Some(Arc::clone(applied));
        }
        let nothing = (Definition::default(), Table::default());
        let parts = |policy: Option<&Policy>| {
            policy.map_or_else(
                || nothing.clone(),
                |policy| (policy.definition.clone(), policy.record.definition.clone()),
            )
        };
        let ((own, own_table), (limits, limits_table)) = (parts(user), parts(operator));
        let applied = Arc::new(Applied {
            policy: pair.0.clone(),
            operator: pair.1.clone(),
            definition: AppliedTable(merged_tables(&own_table, &limits_table)),
            effective: own.merged(&limits),
        });
        self.applied.insert(pair, Arc::clone(&applied));
        Some(applied)
    }
}

impl Ranked {
    fn best(&self, object: Object, name: &str) -> Option<&Policy> {
        let mut all = self.0.iter();
        all.find(|policy| policy.apply_to.covers(object) && policy.pattern.matches(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::Value;

    fn policy(name: &str, pattern: &str, apply_to: &str, priority: i64) -> Policy {
        let mut definition = Table::default();
        definition.push("max-length", Value::Int(priority.abs() + 1, 64));
        let record = PolicyRecord {
            pattern: pattern.into(),
            apply_to: apply_to.into(),
            definition,
            priority,
            more: Table::default(),
        };
        Policy::parse(PolicyKind::User, name.into(), record).expect("good")
    }

    #[test]
    fn the_highest_priority_that_matches_and_covers_the_object_applies() {
        let mut policies = Policies::default();
        for one in [
            policy("rest", "", "all", -1),
            policy("b", "^ops", "queues", 2),
            policy("a", "^ops", "queues", 2),
            policy("quorum", "ops", "quorum_queues", 5),
            policy("exchanges", ".", "exchanges", 9),
        ] {
            policies.put(PolicyKind::User, one);
        }
        let mut applied = |object, name: &str| policies.applied_to(object, name)?.policy.as_deref().map(str::to_owned);
        let classic = Object::Queue(QueueType::Classic);
        assert_eq!(applied(classic, "ops.q").as_deref(), Some("a"));
        assert_eq!(
            applied(Object::Queue(QueueType::Quorum), "my.ops").as_deref(),
            Some("quorum")
        );
        assert_eq!(applied(classic, "my.ops").as_deref(), Some("rest"));
        assert_eq!(applied(Object::Exchange, "x").as_deref(), Some("exchanges"));
        assert!(policies.remove(PolicyKind::User, "rest") && !policies.remove(PolicyKind::User, "rest"));
        assert!(policies.applied_to(classic, "my.ops").is_none());
    }

    #[test]
    fn a_replaced_policy_applies_as_it_is_now() {
        let mut policies = Policies::default();
        policies.put(PolicyKind::User, policy("p", "", "queues", 1));
        let classic = Object::Queue(QueueType::Classic);
        let before = policies.applied_to(classic, "q").expect("it applies");
        policies.put(PolicyKind::User, policy("p", "", "queues", 4));
        let now = policies.applied_to(classic, "q").expect("it applies");
        assert_eq!(
            (before.effective.length_max, now.effective.length_max),
            (Some(2), Some(5))
        );
        assert_eq!(policies.len(), 1);
    }

    #[test]
    fn a_definition_is_bounded_in_memory() {
        let mut definition = Table::default();
        definition.push("ha-params", Value::text(&"x".repeat(20_000)));
        let record = PolicyRecord {
            definition,
            apply_to: "all".into(),
            ..PolicyRecord::default()
        };
        let refused = check(PolicyKind::User, "p", &record).expect_err("refused");
        assert!(refused.starts_with("a definition takes"), "{refused}");
    }

    #[test]
    fn a_pattern_that_would_take_long_to_match_is_refused() {
        let record = |pattern: &str| PolicyRecord {
            pattern: pattern.into(),
            apply_to: "nothing".into(),
            ..PolicyRecord::default()
        };
        let refused = |pattern: &str| Policy::parse(PolicyKind::User, "p".into(), record(pattern)).err();
        for pattern in ["(", "(a{100}){100}", &"a".repeat(PATTERN_BYTES_MAX + 1)] {
            let why = refused(pattern).expect("refused");
            assert!(why.starts_with("pattern should be regular expression"), "{why}");
        }
        assert!(
            refused("a")
                .expect("refused")
                .starts_with("apply-to 'nothing' unrecognised")
        );
    }

    /// Weights are of the compiled form: a short text may have a large one. The most common forms have none.
    #[test]
    fn matching_a_pattern_costs_by_its_compiled_size() {
        let compiled = |pattern: &str| policy("p", pattern, "all", 0).compiled;
        for literal in ["", ".*", "^ops\\.", "^ops/line 7.*", "^ops$", "^a-b:c_d@e%f#g"] {
            assert_eq!(compiled(literal), 0, "{literal}");
        }
        assert_eq!(compiled("^(a|b)"), 512);
        assert!(compiled("a{100}") >= 2 << 10 && compiled("a{100}") <= COMPILED_BYTES_MAX);
        let mut policies = Policies::default();
        for n in 0..POLICIES_MAX {
            policies.put(PolicyKind::User, policy(&format!("p{n:03}"), "^ops\\.", "all", 0));
        }
        assert_eq!(
            (policies.compiled_bytes(), policies.match_units()),
            (0, 512 / WEIGHT_PER_UNIT)
        );
        policies.put(PolicyKind::User, policy("p000", "a{100}", "all", 0));
        let one = policies.compiled_bytes_of(PolicyKind::User, "p000");
        assert_eq!(one, policies.compiled_bytes());
        assert_eq!(
            policies.match_units(),
            (512 + one / COMPILED_BYTES_PER_WEIGHT) / WEIGHT_PER_UNIT
        );
    }
}
