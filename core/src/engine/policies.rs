//! Applies policies to queues and exchanges: to new ones in the hold that creates them, and to existing ones soon after policies
//! have changed.
//!
//! ```text
//!   SetPolicies ──► records staged, policies replaced ──► review: queue by queue, exchange by exchange, in steps
//! ```
//!
//! A review continues in the holds of the command that caused it, and by a timer if that link is gone. Messages above a
//! lowered limit are dropped in the steps of `queue_limits.rs`. A restart finds the policies in the log, and drops what
//! is still above a limit.

use super::budget::{Budget, Unfinished};
use super::timers::{SOON, Timer};
use super::{Engine, done};
use crate::binding::QueueSlot;
use crate::catalog::directory::{self, OperatorPolicyRecord, PolicyRecord};
use crate::catalog::{decode, of_kind};
use crate::command::{PolicyChange, SetPolicies};
use crate::event::Op;
use crate::fault::{Fault, FaultKind};
use crate::ledger::ObjectKind;
use crate::policy::{Applied, COMPILED_BYTES_TOTAL_MAX, Object, POLICIES_MAX, Policies, Policy, PolicyKind};
use crate::properties::Name;
use crate::queue::QueueKind;
use crate::slots::{Link, QueueKey};
use crate::store::{KeyKind, Record, Recovered};
use std::sync::Arc;

/// Work units of applying a changed policy to a queue or an exchange.
const CHANGE_WORK: usize = 4;
/// The number of exchanges that a review looks up at once.
const EXCHANGES_AT_ONCE: usize = 16;

/// A well-formed change of a policy; `None`: the policy is deleted.
type Checked = (PolicyKind, Name, Option<(Policy, PolicyRecord)>);

/// The progress of a review.
#[derive(Debug, Default)]
pub(crate) struct Review {
    /// The next queue.
    slot: u32,
    /// Queues are done, and exchanges up to this name.
    exchange: Option<Name>,
}

impl Engine {
    /// The policies of one kind, ordered by falling priority.
    pub fn policies(&self, kind: PolicyKind) -> Vec<(Name, PolicyRecord)> {
        let all = self.policies.all(kind);
        all.map(|(name, record)| (name.clone(), record.clone())).collect()
    }

    /// The policy with that name.
    pub fn policy(&self, kind: PolicyKind, name: &str) -> Option<&PolicyRecord> {
        self.policies.get(kind, name)
    }

    /// Sets policies; called again, continues until they are applied everywhere.
    pub(crate) fn set_policies(
        &mut self,
        link: Link,
        c: &mut SetPolicies,
        budget: &mut Budget,
    ) -> Result<(), Unfinished> {
        let channel = c.channel;
        if let Err(fault) = self.change_policies(link, std::mem::take(&mut c.changes)) {
            self.fail(link, channel, Op::SetPolicies, fault);
            return Ok(());
        }
        self.go_on_with_review(budget)?;
        if c.reply {
            let gate = self.staging.wait_for_all();
            self.answer(link, channel, done(channel, Op::SetPolicies), gate);
        }
        Ok(())
    }

    /// Makes all of the changes, or none.
    fn change_policies(&mut self, link: Link, changes: Vec<PolicyChange>) -> Result<(), Fault> {
        if changes.is_empty() {
            return Ok(());
        }
        self.permit_everything(link)?;
        let mut checked: Vec<Checked> = Vec::with_capacity(changes.len());
        for change in changes {
            let current = self.policies.get(change.kind, &change.name);
            let Some(record) = change.policy else {
                if current.is_none() {
                    let text = format!("no policy '{}' in vhost '{}'", change.name, self.settings.vhost);
                    return Err(Fault::new(FaultKind::NotFound, text));
                }
                checked.push((change.kind, change.name, None));
                continue;
            };
            if current == Some(&record) {
                continue;
            }
            let policy = Policy::parse(change.kind, change.name.clone(), record.clone())
                .map_err(|what| Fault::new(FaultKind::PreconditionFailed, format!("Validation failed\n\n{what}\n")))?;
            if current.is_none() {
                self.admit(ObjectKind::Queues, policy.memory())?;
            }
            checked.push((change.kind, change.name, Some((policy, record))));
        }
        let more = |kind| {
            checked
                .iter()
                .filter(|(of, _, policy)| *of == kind && policy.is_some())
                .count()
        };
        for kind in [PolicyKind::User, PolicyKind::Operator] {
            if !self.policies.has_room(kind, more(kind)) {
                let text = format!(
                    "policy limit in vhost '{}' ({POLICIES_MAX}) is reached",
                    self.settings.vhost
                );
                return Err(Fault::new(FaultKind::QuotaExceeded, text));
            }
        }
        if checked.is_empty() {
            return Ok(());
        }
        self.permit_patterns(&checked)?;
        // All or none: with half of the policies, a queue could drop messages that it should keep.
        let start = self.staging.group_start();
        for (kind, name, policy) in checked {
            self.staging
                .record(self.policy_record(kind, &name, policy.as_ref().map(|(_, record)| record)));
            match policy {
                Some((policy, _)) => self.put_policy(kind, policy),
                None => _ = self.policies.remove(kind, &name),
            }
        }
        self.staging.group_end(start);
        self.staging.wait();
        self.review = Some(Review::default());
        self.timers.set(self.now.monotonic + SOON, Timer::Policies);
        Ok(())
    }

    /// Whether all patterns together can still be matched against a name within one hold.
    fn permit_patterns(&self, changes: &[Checked]) -> Result<(), Fault> {
        let (mut after, mut more) = (self.policies.compiled_bytes(), 0);
        for (kind, name, policy) in changes {
            let before = self.policies.compiled_bytes_of(*kind, name);
            let compiled = policy.as_ref().map_or(0, |(policy, _)| policy.compiled);
            after = (after + compiled).saturating_sub(before);
            more += compiled.saturating_sub(before);
        }
        if more > 0 && after > COMPILED_BYTES_TOTAL_MAX {
            let text = format!(
                "policy limit in vhost '{}' is reached: all patterns together take {COMPILED_BYTES_TOTAL_MAX} bytes at most, \
                 and these would take {after}. Patterns such as ^name take none",
                self.settings.vhost
            );
            return Err(Fault::new(FaultKind::QuotaExceeded, text));
        }
        Ok(())
    }

    fn put_policy(&mut self, kind: PolicyKind, mut policy: Policy) {
        policy.charge = self.ledger.charge(ObjectKind::Queues, policy.memory());
        self.policies.put(kind, policy);
    }

    fn policy_record(&self, kind: PolicyKind, name: &Name, record: Option<&PolicyRecord>) -> Record {
        let id = (self.settings.number, name.clone());
        match (kind, record) {
            (PolicyKind::User, Some(record)) => directory::record(&id, record),
            (PolicyKind::User, None) => directory::deletion::<PolicyRecord>(&id),
            (PolicyKind::Operator, Some(record)) => directory::record(&id, &OperatorPolicyRecord(record.clone())),
            (PolicyKind::Operator, None) => directory::deletion::<OperatorPolicyRecord>(&id),
        }
    }

    /// Continues the review, if there is one.
    pub(crate) fn go_on_with_review(&mut self, budget: &mut Budget) -> Result<(), Unfinished> {
        let each = 1 + self.policies.match_units();
        while let Some(review) = &mut self.review {
            budget.check()?;
            if review.exchange.is_none() && review.slot < self.queues.slots_end() {
                let slot = QueueSlot(review.slot);
                review.slot += 1;
                if let Some(queue) = self.queues.at(slot) {
                    budget.spend(each);
                    self.review_queue(queue, budget);
                }
                continue;
            }
            let names = self.router.names_after(review.exchange.as_deref(), EXCHANGES_AT_ONCE);
            if names.is_empty() {
                self.review = None;
                return Ok(());
            }
            for name in names {
                // Each name is matched with all patterns, which may take milliseconds.
                budget.check()?;
                if let Some(review) = &mut self.review {
                    review.exchange = Some(name.clone());
                }
                budget.spend(each);
                self.apply_to_exchange(&name);
            }
        }
        Ok(())
    }

    /// Continues the review by its timer.
    pub(crate) fn review_later(&mut self, budget: &mut Budget) {
        if self.go_on_with_review(budget).is_err() {
            self.timers.set(self.now.monotonic + SOON, Timer::Policies);
        }
    }

    /// Applies the policies to an existing queue.
    fn review_queue(&mut self, queue: QueueKey, budget: &mut Budget) {
        let Some(q) = self.queues.get_mut(queue) else { return };
        let applied = self.policies.applied_to(Object::Queue(q.arguments.queue_type), &q.name);
        if is_same(q.policy.as_ref(), applied.as_ref()) {
            return;
        }
        budget.spend(CHANGE_WORK);
        let (expires, ttl) = (q.arguments.expires_ms, q.arguments.message_ttl_ms);
        let dead_letters = q.arguments.dead_letter_exchange.is_some();
        q.apply_policy(applied);
        let changes_head = ttl != q.arguments.message_ttl_ms
            // Messages that waited because dead-lettering was postponed need not wait if the queue no longer
            // dead-letters.
            || dead_letters != q.arguments.dead_letter_exchange.is_some();
        let changes_expiry = expires != q.arguments.expires_ms;
        if q.drops_head() {
            self.enforce_limit_later(queue);
        }
        if changes_expiry {
            self.watch_queue_expiry_anew(queue);
        }
        if changes_head {
            self.touch(queue);
        }
    }

    /// Applies the policies to an exchange, if it exists.
    pub(crate) fn apply_to_exchange(&mut self, name: &str) {
        let applied = self.policies.applied_to(Object::Exchange, name);
        self.router.set_policy(name, applied);
    }

    /// The policies that apply to a queue.
    pub(crate) fn policy_of_queue(&mut self, q: &crate::queue::Queue) -> Option<Arc<Applied>> {
        self.policies.applied_to(Object::Queue(q.arguments.queue_type), &q.name)
    }

    /// Recovers the policies from the log, before the queues and exchanges that they apply to.
    pub(crate) fn recover_policies(&mut self, recovered: &Recovered) {
        let vhost = self.settings.number;
        self.policies = Policies::default();
        for (kind, key_kind) in [
            (PolicyKind::User, KeyKind::Policy),
            (PolicyKind::Operator, KeyKind::OperatorPolicy),
        ] {
            for (k, v) in of_kind(recovered, vhost, key_kind) {
                // Both kinds of records have the same fields.
                let record = std::str::from_utf8(k).ok().zip(decode::<PolicyRecord>(v));
                let policy = record.and_then(|(name, record)| Policy::parse(kind, name.into(), record).ok());
                match policy {
                    Some(policy) => self.put_policy(kind, policy),
                    None => self.report_key(key_kind, k),
                }
            }
        }
    }

    /// After a start, drops messages above a limit: a crash may have come before all of them were dropped.
    pub(crate) fn enforce_recovered_limits(&mut self) {
        let over: Vec<QueueKey> = self
            .queues
            .iter()
            .filter(|(_, q)| q.policy.is_some() && q.drops_head())
            .map(|(queue, _)| queue)
            .collect();
        for queue in over {
            self.enforce_limit_later(queue);
        }
    }
}

/// Whether two policies have the same effect, so that nothing is to be done.
fn is_same(a: Option<&Arc<Applied>>, b: Option<&Arc<Applied>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
        (None, None) => true,
        _ => false,
    }
}

impl crate::queue::Queue {
    /// Applies a policy in place of the former one.
    pub(crate) fn apply_policy(&mut self, applied: Option<Arc<Applied>>) {
        let own = std::mem::take(&mut self.arguments);
        self.arguments = own.effective(applied.as_deref().map(|applied| &applied.effective));
        if self.kind != QueueKind::Plain {
            // The queue of a session or a group lives as long as that does.
            self.arguments.expires_ms = None;
        }
        // The time to live may be another one.
        self.watched = None;
        self.policy = applied;
    }
}
