//! Deletes queues. Clients choose how many bindings and consumers a queue has, so a deletion takes as many holds as it
//! needs, and continues even if its link ends.

use super::Engine;
use super::bindings::BINDING_WORK;
use super::budget::{Budget, Unfinished};
use super::queues::router_slot;
use super::traced::HopKind;
use super::unfinished::Deleting;
use crate::access::Permission;
use crate::command::{Channel as ChannelNumber, DeleteQueue};
use crate::event::{Event, Op};
use crate::fault::{Fault, FaultKind};
use crate::router::BINDINGS_AT_ONCE;
use crate::slots::{ConsumerKey, Link, QueueKey};
use crate::store::{Record, queue_key};

impl Engine {
    /// Continues the deletion of a queue that a client asked for.
    pub(crate) fn delete_queue_command(
        &mut self,
        link: Link,
        c: &DeleteQueue,
        budget: &mut Budget,
    ) -> Result<(), Unfinished> {
        let channel = c.channel;
        let (queue, messages) = match self.take_deleting(link) {
            Some(Deleting::Queue { queue, messages }) => (queue, messages),
            _ => match self.queue_to_delete(link, c) {
                Ok(Some(queue)) => (queue, self.queues[queue].reported_depth()),
                // It is no fault if the queue does not exist.
                Ok(None) => {
                    if c.reply {
                        self.answer(link, channel, Event::QueueDeleted { channel, messages: 0 }, None);
                    }
                    return Ok(());
                }
                Err(fault) => {
                    self.fail(link, channel, Op::DeleteQueue, fault);
                    return Ok(());
                }
            },
        };
        if !self.queues.contains(queue) {
            // A client declared a queue with that name, which first finished this deletion. The new queue stays.
            self.answer_deleted(link, c.reply, channel, Event::QueueDeleted { channel, messages });
            return Ok(());
        }
        if let Err(unfinished) = self.unbind_queue(queue, budget) {
            self.note_deleting(link, Deleting::Queue { queue, messages });
            return Err(unfinished);
        }
        let asker = c.reply.then_some((link, channel));
        self.delete_queue_asked(queue, asker);
        Ok(())
    }

    /// The queue that a client asks to delete, if it exists, and its conditions hold.
    fn queue_to_delete(&mut self, link: Link, c: &DeleteQueue) -> Result<Option<QueueKey>, Fault> {
        let queue = match self.find_queue(link, c.channel, &c.name, Permission::Configure) {
            Ok(queue) => queue,
            Err(fault) if fault.kind == FaultKind::NotFound && !c.name.is_empty() => return Ok(None),
            Err(fault) => return Err(fault),
        };
        let q = &self.queues[queue];
        let queue_type = q.arguments.queue_type;
        queue_type.refuse_conditional_delete(c.if_empty, c.if_unused, &self.queue_text(&q.name))?;
        let refusal = if q.ending {
            // Its deletion has begun, so the conditions held then.
            None
        } else if c.if_empty && q.depth() > 0 {
            Some("not empty")
        } else if c.if_unused && !q.consumers.is_empty() {
            Some("in use")
        } else {
            None
        };
        if let Some(why) = refusal {
            let text = format!("{} {why}", self.queue_text(&q.name));
            return Err(Fault::new(FaultKind::PreconditionFailed, text));
        }
        Ok(Some(queue))
    }

    /// Answers a deletion that something else finished, perhaps just before: the answer waits for everything staged for
    /// the log.
    pub(super) fn answer_deleted(&mut self, link: Link, reply: bool, channel: ChannelNumber, event: Event) {
        if reply {
            let gate = self.staging.wait_for_all();
            self.answer(link, channel, event, gate);
        }
    }

    /// Deletes a queue with everything in it: bindings, consumers, messages. One with many bindings is deleted in
    /// steps.
    pub(crate) fn delete_queue(&mut self, queue: QueueKey) {
        if self.router.count_bindings_of(router_slot(queue)) <= BINDINGS_AT_ONCE {
            return self.delete_queue_asked(queue, None);
        }
        if let Some(q) = self.queues.get_mut(queue)
            && !q.ending
        {
            q.ending = true;
            self.ending_queues.push_back(queue);
            self.timers.set_deferred(self.now.monotonic);
        }
    }

    /// Removes the bindings of a queue that is being deleted, except the last few. They must be removed before the
    /// queue: otherwise a queue declared with the same name afterwards could lose its own bindings in the log.
    fn unbind_queue(&mut self, queue: QueueKey, budget: &mut Budget) -> Result<(), Unfinished> {
        // The router knows a queue by its slot. If this queue no longer exists, the slot's bindings belong to another
        // one.
        while let Some(q) = self.queues.get_mut(queue)
            && self.router.count_bindings_of(router_slot(queue)) > BINDINGS_AT_ONCE
        {
            q.ending = true;
            budget.check()?;
            let removed = self
                .router
                .remove_some_bindings_of(router_slot(queue), BINDINGS_AT_ONCE);
            budget.spend(removed.len() * BINDING_WORK);
            self.log_removed(&removed);
        }
        Ok(())
    }

    /// Notes what the link's first command deletes, for the next hold.
    pub(crate) fn note_deleting(&mut self, link: Link, deleting: Deleting) {
        if let Some(l) = self.links.get_mut(link) {
            l.rare.make().deleting = Some(deleting);
        }
    }

    /// Takes what [`Engine::note_deleting`] noted.
    pub(crate) fn take_deleting(&mut self, link: Link) -> Option<Deleting> {
        self.links.get_mut(link)?.rare.get_mut()?.deleting.take()
    }

    /// The link ends: its deletion continues without it.
    pub(crate) fn delete_without(&mut self, link: Link) {
        match self.take_deleting(link) {
            None => return,
            Some(Deleting::Queue { queue, .. }) => self.ending_queues.push_back(queue),
            Some(Deleting::Messages { queue, .. }) => self.ending_purges.push_back(queue),
            Some(Deleting::Exchange(name)) => self.router.postpone_deletion(name),
        }
        self.timers.set_deferred(self.now.monotonic);
    }

    /// Finishes the deletion of a queue with that name, if one has begun.
    pub(crate) fn end_namesake(&mut self, name: &str, budget: &mut Budget) -> Result<(), Unfinished> {
        let Some(queue) = self.queue_named(name) else {
            return Ok(());
        };
        if self.queues[queue].ending {
            self.unbind_queue(queue, budget)?;
            self.delete_queue_asked(queue, None);
        }
        Ok(())
    }

    /// Continues deletions and purges that no command waits for.
    pub(crate) fn end_deletions(&mut self, budget: &mut Budget) {
        while let Some(&queue) = self.ending_purges.front() {
            if self.go_on_purging(queue, budget).is_err() {
                break;
            }
            self.ending_purges.pop_front();
        }
        while let Some(&queue) = self.ending_queues.front() {
            if self.unbind_queue(queue, budget).is_err() {
                break;
            }
            self.ending_queues.pop_front();
            self.delete_queue_asked(queue, None);
        }
        while !budget.is_spent() && self.router.has_pending_deletions() {
            let removed = self.router.continue_deletions();
            budget.spend(removed.len() * BINDING_WORK);
            self.log_removed(&removed);
        }
        if !(self.ending_queues.is_empty() && self.ending_purges.is_empty()) || self.router.has_pending_deletions() {
            self.timers.set_deferred(self.now.monotonic);
        }
    }

    /// Deletes a queue. The channel that asked for it is answered before its own consumers are cancelled, as in
    /// RabbitMQ: a client that closes the channel on `basic.cancel` would lose the answer (as amqplib's tests do).
    fn delete_queue_asked(&mut self, queue: QueueKey, asker: Option<(Link, ChannelNumber)>) {
        if !self.queues.contains(queue) {
            return;
        }
        // All or none: bindings of a queue that does not exist would count as damage.
        let start = self.staging.group_start();
        let removed = self.router.remove_queue(router_slot(queue));
        let mut gate = self.log_removed(&removed);
        self.trace_gone(queue, HopKind::QueueDeleted);
        let Some(mut q) = self.queues.remove(queue) else { return };
        self.forget_spills(&q);
        self.memory.forget_evictable(&q, &self.queues);
        self.cancel_queue_timers(queue, &q);
        self.counters.queues_deleted += 1;
        let messages = q.reported_depth();
        self.memory.drop_later(q.take_ready());
        if q.durable {
            let key = queue_key(q.id);
            self.staging.record(Record::Key { key, value: None });
            self.staging.record(Record::QueueDelete { queue: q.id });
            self.staging.group_end(start);
            gate = Some(self.staging.wait());
        }
        if let Some((link, channel)) = asker {
            self.answer(link, channel, Event::QueueDeleted { channel, messages }, gate);
        }
        if !q.consumers.is_empty() {
            // A few at once, because most queues have no more. Not a hold's budget for each queue: a client may delete
            // many queues in one hold, each with hundreds of consumers.
            self.orphans.extend(q.consumers.iter());
            let mut budget = std::mem::take(&mut self.side_budget);
            self.end_orphans(&mut budget);
            self.side_budget = budget;
        }
        if let Some(owner) = q.exclusive
            && let Some(rare) = self.links.get_mut(owner).and_then(|l| l.rare.get_mut())
        {
            rare.exclusive_queues.retain(|e| *e != queue);
        }
        let waiting = self.memory.waiting_gets.extract_if(.., |(of, ..)| *of == queue);
        for (_, link, get) in waiting.collect::<Vec<_>>() {
            self.get_again(link, get);
        }
    }

    /// Cancels consumers of deleted queues, as many as the budget permits; the others follow in later holds. Until then
    /// they get nothing.
    pub(crate) fn end_orphans(&mut self, budget: &mut Budget) {
        let mut channels = Vec::new();
        while !budget.is_spent()
            && let Some(key) = self.orphans.pop_front()
        {
            let Some(c) = self.consumers.get(key) else { continue };
            let (link, channel, consumer, session) = (c.link, c.channel, c.token, c.session);
            // Reservations are dropped with the queue, and the consumer before its reservations.
            let units = self.remove_consumer(key);
            budget.spend(units);
            if session.is_none() {
                channels.push((link, channel));
                self.answer(link, channel, Event::ConsumerGone { channel, consumer }, None);
                if let Some(l) = self.links.get_mut(link) {
                    l.wake(&mut self.wakes);
                }
            }
        }
        // Once for each channel, which may have had very many of them.
        channels.sort_unstable_by_key(|(link, channel)| (link.slot, link.generation, *channel));
        channels.dedup();
        for (link, channel) in channels {
            let Engine { links, consumers, .. } = self;
            if let Some(c) = links.get_mut(link).and_then(|l| l.find_channel(channel)) {
                let is_there = |k: &ConsumerKey| consumers.contains(*k);
                c.consumers.retain(is_there);
            }
        }
        if !self.orphans.is_empty() {
            self.timers.set_deferred(self.now.monotonic);
        }
    }
}
