//! What becomes of a delivery: it is accepted, comes back to its queue, or dies.

use super::budget::{Budget, Unfinished};
use super::death::Death;
use super::internal::Source;
use super::{Engine, done};
use crate::command::{Channel as ChannelNumber, Outcome};
use crate::event::Op;
use crate::ledger::ObjectKind;
use crate::message::{Message, Settled};
use crate::queue::RETURN_BYTES;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::queue::unsettled::Delivered;
use crate::slots::{Link, QueueKey};
use crate::store::{Record, State};

/// What a consumer says about one delivery, or about all up to one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict {
    pub(crate) number: u64,
    pub(crate) multiple: bool,
    pub(crate) outcome: Outcome,
}

impl Engine {
    pub(crate) fn settle(
        &mut self,
        link: Link,
        channel: ChannelNumber,
        Verdict {
            number,
            multiple,
            outcome,
        }: Verdict,
        budget: &mut Budget,
    ) -> Result<(), Unfinished> {
        // Rejected messages may become dead letters. Each hold publishes some of these.
        let waits = outcome != Outcome::Accept && !budget.is_whole() && self.has_many_internal();
        let Some(l) = self.links.get_mut(link) else {
            return Ok(());
        };
        if l.session.is_some() {
            self.settle_packet(link, number, outcome);
            return Ok(());
        }
        let unsettled = &mut l.channel(channel).unsettled;
        if multiple && (number == 0 || unsettled.contains(number)) {
            let upto = if number == 0 { u64::MAX } else { number };
            return self.settle_upto(link, channel, upto, outcome, budget);
        }
        if waits && unsettled.contains(number) {
            return Err(Unfinished);
        }
        if !multiple && let Some(delivered) = unsettled.remove(number) {
            self.settle_delivered(link, channel, delivered, outcome);
            return Ok(());
        }
        self.fail_unknown_delivery(link, channel, number);
        Ok(())
    }

    /// Settles the channel's deliveries up to a number, oldest first. The one with that number is last, so that the
    /// command still finds it when it is repeated in the next hold.
    pub(super) fn settle_upto(
        &mut self,
        link: Link,
        channel: ChannelNumber,
        upto: u64,
        outcome: Outcome,
        budget: &mut Budget,
    ) -> Result<(), Unfinished> {
        loop {
            let waits = outcome != Outcome::Accept && !budget.is_whole() && self.has_many_internal();
            let Some(l) = self.links.get_mut(link) else {
                return Ok(());
            };
            let unsettled = &mut l.channel(channel).unsettled;
            if !unsettled.reaches(upto) {
                return Ok(());
            }
            budget.check()?;
            if waits {
                return Err(Unfinished);
            }
            if let Some(delivered) = unsettled.pop_upto(upto) {
                self.settle_delivered(link, channel, delivered, outcome);
            }
            budget.spend(1 + self.take_listed_units());
        }
    }

    /// Settles a delivery of `channel` of `link`.
    pub(super) fn settle_delivered(
        &mut self,
        link: Link,
        channel: ChannelNumber,
        delivered: Delivered,
        outcome: Outcome,
    ) {
        if self.is_any_followed() {
            self.trace_settled(link, delivered.queue, delivered.entry.seq, outcome);
        }
        self.count_released(link, delivered.cost());
        let Delivered {
            queue,
            consumer,
            mut entry,
        } = delivered;
        if let Some(key) = consumer {
            // This counts even if the consumer was cancelled, because its channel had the delivery.
            self.free_channel_credit(link, channel);
            if let Some(c) = self.consumers.get_mut(key) {
                c.credit.release();
                let queue = c.queue;
                self.touch(queue);
            }
        }
        let place = self.links.get_mut(link).map(|l| {
            if outcome == Outcome::Accept
                && let Some(c) = l.find_channel(channel)
            {
                c.acknowledged += 1;
            }
            l.traffic
        });
        let traffic = place.map(|place| self.counters.of(place));
        match outcome {
            Outcome::Accept => {
                if let Some(traffic) = traffic {
                    traffic.acknowledged += 1;
                }
                self.settle_entry(queue, entry, true);
            }
            Outcome::Requeue => {
                entry.flags.set(EntryFlags::REDELIVERED);
                self.return_entry(queue, entry);
            }
            Outcome::Reject => {
                if let Some(traffic) = traffic {
                    traffic.rejected += 1;
                }
                if self.dies_later(queue, &entry.body) {
                    self.postpone_death(link, channel, queue, entry);
                } else if self.is_offered_again(queue, &entry.body) {
                    entry.flags.set(EntryFlags::REDELIVERED);
                    self.put_back(queue, entry);
                } else if let Some(q) = self.queues.get_mut(queue) {
                    q.settled(&entry.body);
                    self.drop_entry(queue, entry, Death::Rejected);
                } else {
                    self.memory.drop_body(&entry.body);
                }
            }
        }
    }

    /// Whether a rejected delivery must wait in its queue again because it cannot be dead-lettered now: its body left
    /// memory while its queue had no dead-letter exchange, and a policy has set one since. It is read again for its
    /// next delivery, and dead-lettered when it is rejected again.
    fn is_offered_again(&self, queue: QueueKey, body: &Body) -> bool {
        matches!(body, Body::Disk { .. }) && self.has_dead_letters(queue)
    }

    /// Returns a delivery from its consumer to its queue, unless it has come back too often.
    fn return_entry(&mut self, queue: QueueKey, entry: Entry) {
        let grows = self.queues.get(queue).is_some_and(|q| q.is_first_return(entry.seq));
        if grows && self.admit(ObjectKind::Queues, RETURN_BYTES).is_err() {
            // Without memory for a count, the return is not counted, and the delivery limit does not apply to it.
            self.put_back(queue, entry);
            return;
        }
        let counted = self.queues.get_mut(queue).and_then(|q| {
            let count = q.count_return(entry.seq)?;
            Some((q.id, count, q.is_over_delivery_limit(count)))
        });
        let Some((id, count, is_over)) = counted else {
            self.put_back(queue, entry);
            return;
        };
        // While disk space is short no dead letter is written, so the message is offered once more.
        if is_over && !self.dies_later(queue, &entry.body) && !self.is_offered_again(queue, &entry.body) {
            if let Some(q) = self.queues.get_mut(queue) {
                q.settled(&entry.body);
            }
            return self.drop_entry(queue, entry, Death::DeliveryLimit);
        }
        if entry.flags.has(EntryFlags::LOGGED) {
            self.staging.record(Record::State(State::Returned {
                queue: id,
                seq: entry.seq,
                count,
            }));
        }
        self.put_back(queue, entry);
    }

    /// Returns a reserved or unsettled entry to its former place. Returns false if its queue was deleted; the entry is
    /// dropped then.
    pub(crate) fn put_back(&mut self, queue: QueueKey, mut entry: Entry) -> bool {
        // While memory is short, entries that come back wait on disk like those behind them.
        self.shed(queue, &mut entry);
        let Some(q) = self.queues.get_mut(queue) else {
            self.memory.drop_body(&entry.body);
            return false;
        };
        let seq = entry.seq;
        q.put_back(entry);
        let is_too_long = q.drops_head();
        self.keep_from_purge(queue, seq);
        self.touch(queue);
        if is_too_long {
            // Newer messages took its place meanwhile.
            self.enforce_limit_later(queue);
        }
        true
    }

    /// An entry is handed to a consumer that settles it. See [`Engine::shed`].
    pub(crate) fn count_and_shed(&mut self, queue: QueueKey, entry: &mut Entry) {
        let keeps_body = self.queues.get_mut(queue).is_some_and(|q| {
            q.delivered += 1;
            q.arguments.dead_letter_exchange.is_some()
        });
        if !keeps_body {
            self.memory.shed(entry);
        }
    }

    /// Evicts an entry's body if memory is short and the log has it. It is only needed if the entry comes back. A queue
    /// that dead-letters needs its bodies in memory.
    pub(crate) fn shed(&mut self, queue: QueueKey, entry: &mut Entry) {
        if !self.has_dead_letters(queue) {
            self.memory.shed(entry);
        }
    }

    /// An unsettled entry is done. `explicit`: a consumer settled it. If it needed no settling, its message is still
    /// written to the log.
    pub(crate) fn settle_entry(&mut self, queue: QueueKey, entry: Entry, explicit: bool) {
        if let Some(q) = self.queues.get_mut(queue) {
            q.settled(&entry.body);
            if explicit {
                q.acknowledged += 1;
            } else {
                q.taken += 1;
            }
            self.forget_entry(queue, &entry, explicit);
        }
        self.memory.drop_body(&entry.body);
    }

    /// Settles an entry that a consumer takes without acknowledging it. Returns its message, which is moved to the consumer.
    #[inline]
    pub(crate) fn settle_taken(&mut self, queue: QueueKey, entry: Entry) -> Option<Message> {
        if let Some(q) = self.queues.get_mut(queue) {
            q.settled(&entry.body);
            q.taken += 1;
            // Most are of queues without a log, and were never handed out before.
            if entry.flags.has(EntryFlags::LOGGED | EntryFlags::REDELIVERED) {
                self.forget_dead(queue, entry.seq, entry.flags);
            }
        }
        self.memory.drop_body(&entry.body);
        match entry.body {
            Body::Memory(message) => Some(message),
            Body::Disk { .. } => None,
        }
    }

    /// Tells the log that an entry has left its queue.
    fn forget_entry(&mut self, queue: QueueKey, entry: &Entry, explicit: bool) {
        if explicit
            && entry.flags.has(EntryFlags::LOGGED)
            && let Body::Memory(message) = &entry.body
            && message.log_state().settle() == Settled::Cancelled
        {
            let message = message.clone();
            self.forget_returns(queue, entry.seq, entry.flags);
            self.confirm_cancelled(&message);
            return;
        }
        self.forget_dead(queue, entry.seq, entry.flags);
    }

    fn forget_returns(&mut self, queue: QueueKey, seq: u64, flags: EntryFlags) {
        if flags.has(EntryFlags::REDELIVERED)
            && let Some(q) = self.queues.get_mut(queue)
        {
            q.forget_returns(seq);
        }
    }

    /// The same for an entry of which only this is known.
    pub(crate) fn forget_dead(&mut self, queue: QueueKey, seq: u64, flags: EntryFlags) {
        self.forget_returns(queue, seq, flags);
        if !flags.has(EntryFlags::LOGGED) {
            return;
        }
        if self.queues.note_ack(queue, seq) {
            let due = self.now.monotonic + std::time::Duration::from_millis(super::ACKS_DELAY_MS);
            self.acks_due.get_or_insert(due);
        }
    }

    /// Drops or dead-letters an entry that is no longer in its queue, nor unsettled.
    pub(crate) fn drop_entry(&mut self, queue: QueueKey, entry: Entry, death: Death) {
        let dead_letters = self.has_dead_letters(queue);
        let mut published = false;
        if self.is_any_followed() {
            self.trace_death(queue, entry.seq, death);
        }
        if dead_letters && let Body::Memory(message) = &entry.body {
            let message = message.clone();
            let source = Source::Entry {
                queue,
                seq: entry.seq,
                flags: entry.flags,
            };
            published = self.dead_letter(queue, &message, death, source).is_ok();
        }
        if !published {
            // A dead letter is a new route and does not count as a settle: the publisher is confirmed when it is
            // logged.
            self.forget_entry(queue, &entry, death == Death::Rejected && !dead_letters);
        }
        if self.is_any_followed() {
            self.traces.forget(queue, entry.seq);
        }
        self.memory.drop_body(&entry.body);
    }

    /// Stages what was settled since the last time, for all queues together.
    pub(crate) fn stage_acks(&mut self) {
        self.acks_due = None;
        let all = self.queues.take_acks();
        if !all.is_empty() {
            self.staging.record(Record::Acks(all.into()));
        }
    }

    /// Returns the deliveries to their queues that were unsettled when the channel asked for that, oldest first. Those
    /// that a transaction will settle stay. Its
    /// consumers are offered nothing meanwhile: otherwise returned messages would be delivered to them and returned
    /// again, for ever.
    pub(crate) fn recover_channel(
        &mut self,
        link: Link,
        channel: ChannelNumber,
        reply: bool,
        budget: &mut Budget,
    ) -> Result<(), Unfinished> {
        let Some(l) = self.links.get_mut(link) else {
            return Ok(());
        };
        let c = l.channel(channel);
        let upto = *c.recovering.get_or_insert(c.delivered);
        self.requeue_not_held(link, channel, upto, budget)?;
        if let Some(l) = self.links.get_mut(link) {
            let c = l.channel(channel);
            c.recovering = None;
            let consumers = c.consumers.clone();
            self.touch_queues_of(&consumers);
        }
        if reply {
            self.answer(link, channel, done(channel, Op::Recover), None);
        }
        Ok(())
    }
}
