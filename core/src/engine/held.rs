//! Settles that wait for the commit of their channel's transaction, or are forgotten when it is rolled back.
//!
//! They are kept here and not by the session, because only the engine knows which deliveries a settle covers when it is
//! said. Later deliveries must not be settled with it, and a delivery must not be settled twice.

use super::Engine;
use super::budget::{Budget, Unfinished};
use super::settling::Verdict;
use crate::command::{Channel as ChannelNumber, Outcome};
use crate::event::Op;
use crate::fault::{Fault, FaultKind};
use crate::slots::Link;
use std::collections::BTreeSet;

/// The held settles of a channel.
#[derive(Default)]
pub(crate) struct Held {
    /// In the order in which they came. None has number 0.
    verdicts: Vec<Verdict>,
    /// Deliveries with numbers up to this one are covered.
    upto: u64,
    /// Deliveries with higher numbers that are covered.
    singles: BTreeSet<u64>,
    /// An unfinished `Recover` continues at this number.
    recovered: u64,
}

impl Held {
    /// Whether the delivery with that number, if it is unsettled, is covered by a held settle.
    fn covers(&self, number: u64) -> bool {
        number <= self.upto || self.singles.contains(&number)
    }

    fn add(&mut self, verdict: Verdict) {
        if verdict.multiple {
            self.upto = self.upto.max(verdict.number);
            self.singles = self.singles.split_off(&self.upto.saturating_add(1));
        } else {
            self.singles.insert(verdict.number);
        }
        self.verdicts.push(verdict);
    }
}

impl Engine {
    /// Holds a settle until the commit, or fails at once if it names an unknown delivery.
    pub(crate) fn hold_settle(&mut self, link: Link, channel: ChannelNumber, verdict: Verdict) {
        let Some(l) = self.links.get_mut(link) else {
            return;
        };
        let c = l.channel(channel);
        let all = verdict.multiple && verdict.number == 0;
        let is_covered = |held: &Held| held.covers(verdict.number);
        if !all && (!c.unsettled.contains(verdict.number) || c.held.get().is_some_and(is_covered)) {
            return self.fail_unknown_delivery(link, channel, verdict.number);
        }
        // Everything so far: what is delivered after it is not settled with it.
        let number = if all { c.delivered } else { verdict.number };
        c.held.make().add(Verdict { number, ..verdict });
    }

    /// Forgets the held settles: their deliveries are unsettled as before.
    pub(crate) fn forget_held(&mut self, link: Link, channel: ChannelNumber) {
        if let Some(l) = self.links.get_mut(link) {
            l.channel(channel).held.take();
        }
    }

    /// The number of deliveries that the held settles cover, or more. Settled ones between them may be counted as well.
    pub(crate) fn count_held(&mut self, link: Link, channel: ChannelNumber) -> usize {
        let channel = self.links.get_mut(link).and_then(|l| l.find_channel(channel));
        channel.map_or(0, |c| {
            let held = c.held.get();
            held.map_or(0, |held| c.unsettled.count_upto(held.upto) + held.singles.len())
        })
    }

    /// Whether a held settle is not an acceptance.
    pub(crate) fn holds_rejections(&mut self, link: Link, channel: ChannelNumber) -> bool {
        let channel = self.links.get_mut(link).and_then(|l| l.find_channel(channel));
        let held = channel.and_then(|c| c.held.get());
        held.is_some_and(|held| held.verdicts.iter().any(|v| v.outcome != Outcome::Accept))
    }

    /// Settles what the held settles say, in one hold. Returns the work units spent.
    pub(crate) fn settle_held(&mut self, link: Link, channel: ChannelNumber) -> usize {
        let found = self.links.get_mut(link).and_then(|l| l.find_channel(channel));
        let Some(held) = found.and_then(|c| c.held.take()) else {
            return 0;
        };
        let mut whole = Budget::whole();
        for verdict in held.verdicts {
            // With an unlimited budget it always finishes.
            let _ = if verdict.multiple {
                self.settle_upto(link, channel, verdict.number, verdict.outcome, &mut whole)
            } else {
                self.settle(link, channel, verdict, &mut whole)
            };
        }
        usize::MAX - whole.left()
    }

    /// Returns the channel's deliveries up to a number to their queues, oldest first, but those that held settles cover.
    pub(crate) fn requeue_not_held(
        &mut self,
        link: Link,
        channel: ChannelNumber,
        upto: u64,
        budget: &mut Budget,
    ) -> Result<(), Unfinished> {
        loop {
            let waits = !budget.is_whole() && self.has_many_internal();
            let Some(l) = self.links.get_mut(link) else {
                return Ok(());
            };
            let c = l.channel(channel);
            let Some(held) = c.held.get_mut() else {
                return self.settle_upto(link, channel, upto, Outcome::Requeue, budget);
            };
            let from = held.recovered.max(held.upto.saturating_add(1));
            let Some(number) = c.unsettled.next_from(from).filter(|number| *number <= upto) else {
                held.recovered = 0;
                return Ok(());
            };
            budget.check()?;
            if waits {
                return Err(Unfinished);
            }
            held.recovered = number.saturating_add(1);
            if !held.singles.contains(&number)
                && let Some(delivered) = c.unsettled.remove(number)
            {
                self.settle_delivered(link, channel, delivered, Outcome::Requeue);
            }
            budget.spend(1 + self.take_listed_units());
        }
    }

    /// Fails a settle of a delivery that is not unsettled.
    pub(super) fn fail_unknown_delivery(&mut self, link: Link, channel: ChannelNumber, number: u64) {
        let fault = Fault::new(FaultKind::PreconditionFailed, format!("unknown delivery tag {number}"));
        self.fail(link, channel, Op::Settle, fault);
    }
}
