//! The end of a channel, and of a connection. What they leave is taken apart in as many holds as it takes.

use super::Engine;
use super::budget::{Budget, Unfinished};
use super::consuming::OUTBOX_PER_UNIT;
use super::dispatch::CONSUMERS_PER_UNIT;
use super::link::LinkState;
use super::outbox::Fetched;
use crate::command::{Channel as ChannelNumber, Get, Outcome};
use crate::queue::unsettled::cost;
use crate::slots::Link;

/// How many messages that a closing channel has fetched and not taken are returned at once.
const FETCHED_AT_ONCE: usize = 256;
/// Work units of deleting a queue.
const QUEUE_WORK: usize = 16;

impl Engine {
    /// Closes a channel: cancels its consumers, and returns its unsettled deliveries to their queues, marked as
    /// redelivered.
    pub(crate) fn close_channel(
        &mut self,
        link: Link,
        channel: ChannelNumber,
        budget: &mut Budget,
    ) -> Result<(), Unfinished> {
        loop {
            let Some(c) = self.links.get_mut(link).and_then(|l| l.find_channel(channel)) else {
                return Ok(());
            };
            if c.consumers.is_empty() {
                break;
            }
            budget.check()?;
            if let Some(key) = c.consumers.pop() {
                // An auto-delete queue is deleted with its last consumer, and with it deliveries that the channel has
                // of it.
                let units = self.remove_consumer(key);
                budget.spend(units);
            }
        }
        self.give_back_postponed(link, channel, budget)?;
        // Without consumers no new deliveries come, however many holds this takes.
        self.settle_upto(link, channel, u64::MAX, Outcome::Requeue, budget)?;
        let answers = |of: &Link, get: &Get| *of == link && get.channel == channel;
        let before = self.memory.waiting_gets.len();
        self.memory.waiting_gets.retain(|(_, of, get)| !answers(of, get));
        budget.spend(before / CONSUMERS_PER_UNIT);
        if let Some(l) = self.links.get_mut(link) {
            l.forget_waiting_gets(before - self.memory.waiting_gets.len());
        }
        self.put_back_fetched(link, channel, budget)?;
        let (log, durable) = (self.staging.log(), self.staging.durable_ticket());
        if let Some(l) = self.links.get_mut(link) {
            let found = l.find_channel(channel);
            let listed = found.as_ref().is_some_and(|c| c.listed != 0);
            self.counters.channels_closed += u64::from(found.is_some_and(|c| c.strict));
            // Other links may be throttled because of them.
            l.release_gated(channel, log);
            for key in l.close_channel(channel).into_entries() {
                self.confirms.orphan(key, durable);
            }
            if listed {
                self.forget_bodies();
            }
        }
        let outbox = self.links.get(link).map_or(0, |l| l.outbox.len());
        budget.spend(1 + outbox / OUTBOX_PER_UNIT);
        Ok(())
    }

    /// Returns messages that a channel has fetched and not taken to their queues. It still has to settle those it takes
    /// meanwhile.
    fn put_back_fetched(&mut self, link: Link, channel: ChannelNumber, budget: &mut Budget) -> Result<(), Unfinished> {
        loop {
            let Some(l) = self.links.get_mut(link) else {
                return Ok(());
            };
            let listed = l.outbox.len() / OUTBOX_PER_UNIT;
            let fetched = l.take_fetched(channel, FETCHED_AT_ONCE);
            if fetched.is_empty() {
                return Ok(());
            }
            budget.spend(listed + fetched.len());
            for Fetched { queue, entry, .. } in fetched {
                self.count_released(link, cost(&entry.body));
                self.put_back(queue, entry);
            }
            budget.check()?;
        }
    }

    /// The connection is gone. Its session, channels and queues are removed step by step.
    pub(crate) fn detach(&mut self, link: Link, budget: &mut Budget) -> Result<(), Unfinished> {
        let Some(l) = self.links.get_mut(link) else {
            return Ok(());
        };
        // Nothing may be reserved for it any more. All reservations return at once; otherwise each consumer would have
        // to search for its own.
        l.stalled = true;
        self.forget_unfinished(link);
        self.give_back_reservations(link);
        if let Some(l) = self.links.get_mut(link) {
            l.forget_answers();
        }
        self.delete_without(link);
        self.leave_session(link, budget)?;
        self.forget_successor(link);
        while let Some(channel) = self.links.get(link).and_then(LinkState::some_channel) {
            budget.check()?;
            self.close_channel(link, channel, budget)?;
        }
        while let Some(queue) = self
            .links
            .get_mut(link)
            .and_then(|l| l.rare.get_mut()?.exclusive_queues.pop())
        {
            self.delete_queue(queue);
            budget.spend(QUEUE_WORK);
            budget.check()?;
        }
        self.note_link_gone(link);
        if let Some(l) = self.links.remove(link) {
            self.counters.of(l.traffic).links_detached += 1;
        }
        Ok(())
    }
}
