//! Consumers: starting, cancelling, prefetch.

use super::dispatch::CONSUMERS_PER_UNIT;
use super::outbox::Reservation;
use super::{Engine, done};
use crate::access::Permission;
use crate::command::{Channel as ChannelNumber, Consume, ConsumerToken};
use crate::event::{Event, Op};
use crate::fault::{Fault, FaultKind};
use crate::ledger::ObjectKind;
use crate::queue::consumers::{Consumer, Described};
use crate::queue::credit::Credit;
use crate::queue_type::QueueType;
use crate::slots::{ConsumerKey, Link, QueueKey};

/// Work units of removing a consumer from its queue, without its reservations.
const CONSUMER_WORK: usize = 4;
/// Items of an outbox searched for one work unit.
pub(super) const OUTBOX_PER_UNIT: usize = 16;
/// Consumers of a queue searched for one work unit.
const LISTED_PER_UNIT: usize = 256;

impl Engine {
    pub(crate) fn consume(&mut self, link: Link, c: Consume) {
        let channel = c.channel;
        match self.try_consume(link, &c) {
            Ok(queue) => {
                if c.reply {
                    self.answer(
                        link,
                        channel,
                        Event::Consuming {
                            channel,
                            consumer: c.consumer,
                        },
                        None,
                    );
                }
                self.touch(queue);
            }
            Err(fault) => self.fail(link, channel, Op::Consume, fault),
        }
    }

    fn try_consume(&mut self, link: Link, c: &Consume) -> Result<QueueKey, Fault> {
        let queue = self.find_queue(link, c.channel, &c.queue, Permission::Read)?;
        let q = &self.queues[queue];
        self.listed_units += q.consumers.len() / CONSUMERS_PER_UNIT;
        let exclusive_already = q
            .consumers
            .iter()
            .any(|k| self.consumers.get(k).is_some_and(|c| c.exclusive));
        if exclusive_already || (c.exclusive && (!q.consumers.is_empty() || q.arguments.single_active)) {
            let text = format!("{} in exclusive use", self.queue_text(&q.name));
            return Err(Fault::new(FaultKind::AccessRefused, text));
        }
        let queue_type = q.arguments.queue_type;
        let text = self.queue_text(&q.name);
        if self
            .links
            .get_mut(link)
            .is_some_and(|l| l.channel(c.channel).credit.is_limited())
        {
            queue_type.refuse_global_prefetch(&text)?;
        }
        let description = Described::memory(&c.tag, &c.arguments);
        let bytes = super::admission::CONSUMER_BYTES + description;
        self.admit(ObjectKind::Connections, bytes)?;
        let prefetch = match c.prefetch {
            Some(p) => p,
            None => self
                .links
                .get_mut(link)
                .map_or(0, |l| l.channel(c.channel).prefetch_each),
        };
        let consumer = Consumer {
            link,
            channel: c.channel,
            token: c.consumer,
            queue,
            no_ack: c.no_ack,
            exclusive: c.exclusive,
            credit: Credit::window(prefetch),
            starved: false,
            throttled: false,
            flowed: 0,
            session: None,
            subscription_ids: None,
            described: Some(Box::new(Described {
                tag: c.tag.clone(),
                priority: c.priority,
                arguments: c.arguments.clone(),
                charge: self.ledger.charge(ObjectKind::Connections, description),
            })),
        };
        let key = self.add_consumer(consumer, c.priority);
        if let Some(l) = self.links.get_mut(link) {
            l.channel(c.channel).consumers.push(key);
        }
        Ok(queue)
    }

    /// Adds a consumer to its queue.
    pub(crate) fn add_consumer(&mut self, consumer: Consumer, priority: i32) -> ConsumerKey {
        let queue = consumer.queue;
        let key = self.consumers.insert(consumer);
        if let Some(q) = self.queues.get_mut(queue) {
            // As RabbitMQ does: a quorum queue's active consumer gives way to one of a higher priority, a classic queue's does not.
            if q.arguments.single_active && q.arguments.queue_type == QueueType::Classic {
                q.consumers.add_waiting(priority, key);
            } else {
                q.consumers.add(priority, key);
            }
        }
        self.touch(queue);
        key
    }

    /// Removes a consumer from its queue. Its unsettled deliveries stay with its channel; its reservations return.
    /// Returns its cost in work units.
    pub(crate) fn remove_consumer(&mut self, key: ConsumerKey) -> usize {
        let Some(c) = self.consumers.get(key) else { return 1 };
        let (link, queue) = (c.link, c.queue);
        let mut units = CONSUMER_WORK;
        if let Some(l) = self.links.get_mut(link) {
            if l.outbox.has_reservations() {
                units += l.outbox.len() / OUTBOX_PER_UNIT;
            }
            for Reservation { consumer, queue, entry } in l.outbox.give_back_of(key) {
                self.release_reservation(consumer, queue, entry);
            }
        }
        self.forget_throttled(key);
        self.note_consumer_gone(key);
        self.consumers.remove(key);
        let now = self.now.monotonic;
        let Some(q) = self.queues.get_mut(queue) else {
            return units;
        };
        units += q.consumers.len() / LISTED_PER_UNIT;
        q.consumers.remove(key);
        q.used_at = now;
        if q.auto_delete && q.consumers.is_empty() {
            self.delete_queue(queue);
        } else {
            self.touch(queue);
            self.watch_queue_expiry(queue);
            let Engine { queues, memory, .. } = self;
            if let Some(q) = queues.get_mut(queue) {
                memory.note_evictable(q, queue);
            }
        }
        units
    }

    pub(crate) fn cancel(&mut self, link: Link, channel: ChannelNumber, token: ConsumerToken, reply: bool) {
        let Engine { links, consumers, .. } = self;
        let mut found = None;
        if let Some(c) = links.get_mut(link).map(|l| l.channel(channel)) {
            self.listed_units += c.consumers.len() / CONSUMERS_PER_UNIT;
            let is_it = |k: &ConsumerKey| consumers.get(*k).is_some_and(|c| c.token == token);
            found = c.consumers.iter().position(is_it).map(|at| c.consumers.remove(at));
        }
        if let Some(key) = found {
            self.listed_units += self.remove_consumer(key);
        }
        if reply {
            self.answer(
                link,
                channel,
                Event::Done {
                    channel,
                    op: Op::Cancel,
                    consumer: token,
                },
                None,
            );
        }
    }

    pub(crate) fn qos(&mut self, link: Link, channel: ChannelNumber, count: u32, global: bool) {
        let Some(l) = self.links.get_mut(link) else {
            return;
        };
        let c = l.channel(channel);
        if global {
            c.credit.resize(count);
            let consumers = c.consumers.clone();
            self.touch_queues_of(&consumers);
        } else {
            c.prefetch_each = count;
        }
        self.answer(link, channel, done(channel, Op::Qos), None);
    }
}
