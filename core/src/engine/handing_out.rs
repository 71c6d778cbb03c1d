//! Hands messages out. A message gets its delivery number or packet id only when its link takes it.

use super::Engine;
use super::flow_counts::Watch;
use super::outbox::Fetched;
use super::trace;
use crate::durable_session::CHANNEL;
use crate::event::{Delivery, DeliveryExtra, DeliveryFlags, Event};
use crate::in_flight::Outgoing;
use crate::message::Message;
use crate::queue::QueueKind;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::queue::unsettled::{Delivered, cost};
use crate::slots::{ConsumerKey, Link, QueueKey, SessionKey};
use crate::store::{Record, State};
use std::sync::Arc;

impl Engine {
    /// Numbers a fetched message and hands it to its link. If it were numbered earlier, a settle of all deliveries up
    /// to a later number would cover a message that the client has not received.
    pub(crate) fn hand_out_fetched(&mut self, link: Link, fetched: Fetched, events: &mut Vec<Event>) {
        let Fetched {
            channel,
            queue,
            entry,
            no_ack,
            remaining,
        } = fetched;
        let Some(l) = self.links.get_mut(link) else {
            return;
        };
        let place = l.traffic;
        let c = l.channel(channel);
        c.delivered += 1;
        let number = c.delivered;
        let seldom = c.seldom.make();
        seldom.got += u64::from(!no_ack);
        seldom.got_no_ack += u64::from(no_ack);
        seldom.redelivered += u64::from(entry.flags.has(EntryFlags::REDELIVERED));
        let Body::Memory(message) = &entry.body else {
            debug_assert!(false, "only what is in memory is fetched");
            return;
        };
        let message = message.clone();
        let flags = self.queue_delivery_flags(&entry, &message);
        // As in RabbitMQ, a fetched message reports a count of 0 returns, but a delivery to a consumer does not.
        let counts = self.queues.get_mut(queue).is_some_and(|q| {
            q.seldom.got += u64::from(!no_ack);
            q.seldom.got_no_ack += u64::from(no_ack);
            q.seldom.redelivered += u64::from(entry.flags.has(EntryFlags::REDELIVERED));
            q.arguments.queue_type.counts_returns()
        });
        let extra = counts.then(|| returned_extra(self.returned(queue, &entry).unwrap_or(0)));
        let traffic = self.counters.of(place);
        traffic.got += 1;
        traffic.got_no_ack += u64::from(no_ack);
        traffic.redelivered += u64::from(entry.flags.has(EntryFlags::REDELIVERED));
        traffic.delivered_bytes += message.body().len() as u64;
        self.flow.note_got(link, queue);
        if self.is_any_followed() {
            self.trace_fetched(link, queue, &entry, no_ack);
        }
        // It was counted as fetched until now.
        self.count_released(link, cost(&entry.body));
        if no_ack {
            self.settle_entry(queue, entry, false);
        } else {
            let delivered = Delivered {
                queue,
                consumer: None,
                entry,
            };
            self.note_unsettled(link, channel, number, delivered);
        }
        let delivery = Delivery {
            channel,
            qos: u8::from(!no_ack),
            flags,
            consumer: 0,
            number,
            message,
            extra,
        };
        events.push(Event::Got { delivery, remaining });
    }

    /// How often a message came back from consumers. `None` if never, or if its queue does not count it.
    fn returned(&self, queue: QueueKey, entry: &Entry) -> Option<u32> {
        if !entry.flags.has(EntryFlags::REDELIVERED) {
            return None;
        }
        let q = self.queues.get(queue)?;
        q.returns_of(entry.seq)
    }

    /// The flags of a delivery from a declared queue. They say whether the publish set or cleared its topic's retained
    /// message, so that each protocol can report it in its own words. The entry's flags cannot say it: in the log, a
    /// declared queue uses those bits for the priority.
    fn queue_delivery_flags(&self, entry: &Entry, message: &Message) -> DeliveryFlags {
        let flags = entry.flags.delivery();
        if message.envelope().retain && *message.exchange() == *self.settings.topic_exchange {
            flags | DeliveryFlags::RETAIN
        } else {
            flags
        }
    }

    /// Numbers a reserved message and hands it to its consumer's link.
    pub(crate) fn hand_out(
        &mut self,
        link: Link,
        key: ConsumerKey,
        queue: QueueKey,
        entry: Entry,
        events: &mut Vec<Event>,
    ) {
        let Some(c) = self.consumers.get_mut(key) else {
            debug_assert!(false, "reservations are given back before their consumer goes");
            return;
        };
        let watch = self.flow.watch();
        if matches!(watch, Watch::Flow | Watch::TracesAndFlow)
            && self.flow.count_delivered(c)
            && let Body::Memory(message) = &entry.body
        {
            self.flow.note_wait(key, self.now.wall - message.envelope().received);
        }
        if watch >= Watch::Traces
            && self.traces.is_any_followed()
            && let Some(l) = self.links.get(link)
            && let Some(q) = self.queues.get(queue)
        {
            trace::delivered(&mut self.traces, self.now, (l, c), q, &entry);
        }
        if let Some((session, granted)) = c.session {
            let ids = c.subscription_ids.clone();
            return self.hand_out_to_session(link, session, (granted, ids), queue, entry, events);
        }
        let (channel, token, no_ack) = (c.channel, c.token, c.no_ack);
        let Body::Memory(message) = &entry.body else {
            debug_assert!(false, "only what is in memory is reserved");
            return;
        };
        let flags = self.queue_delivery_flags(&entry, message);
        let bytes = message.body().len() as u64;
        let extra = self.returned(queue, &entry).map(returned_extra);
        let Some(l) = self.links.get_mut(link) else {
            return;
        };
        let traffic = self.counters.of(l.traffic);
        traffic.redelivered += u64::from(flags.contains(DeliveryFlags::REDELIVERED));
        traffic.delivered_bytes += bytes;
        let ch = l.channel(channel);
        ch.delivered += 1;
        ch.delivered_no_ack += u64::from(no_ack);
        if flags.contains(DeliveryFlags::REDELIVERED) {
            ch.seldom.make().redelivered += 1;
        }
        let number = ch.delivered;
        if flags.contains(DeliveryFlags::REDELIVERED)
            && let Some(q) = self.queues.get_mut(queue)
        {
            q.seldom.redelivered += 1;
        }
        let message = if no_ack {
            traffic.delivered_no_ack += 1;
            self.settle_taken(queue, entry)
        } else {
            traffic.delivered += 1;
            let message = entry.body.message().cloned();
            let mut delivered = Delivered {
                queue,
                consumer: Some(key),
                entry,
            };
            self.count_and_shed(queue, &mut delivered.entry);
            self.note_unsettled(link, channel, number, delivered);
            message
        };
        let Some(message) = message else { return };
        let qos = u8::from(!no_ack);
        let delivery = Delivery {
            channel,
            qos,
            flags,
            consumer: token,
            number,
            message,
            extra,
        };
        events.push(Event::Deliver(delivery));
    }

    /// Counts a delivery of a queue to a session. Returns whether the queue is a group's.
    #[inline]
    fn count_to_session(&mut self, queue: QueueKey, qos: u8, again: bool) -> bool {
        self.queues.get_mut(queue).is_some_and(|q| {
            q.delivered += u64::from(qos > 0);
            if again {
                q.seldom.redelivered += 1;
            }
            q.kind == QueueKind::Shared
        })
    }

    /// Hands a message out under the session's next packet id.
    fn hand_out_to_session(
        &mut self,
        link: Link,
        session: SessionKey,
        (granted, ids): (u8, Option<Arc<[u32]>>),
        queue: QueueKey,
        mut entry: Entry,
        events: &mut Vec<Event>,
    ) {
        let Body::Memory(message) = &entry.body else {
            debug_assert!(false, "only what is in memory is reserved");
            return;
        };
        let bytes = message.body().len() as u64;
        let qos = entry.flags.qos().min(granted);
        let mut flags = entry.flags.delivery();
        let again = entry.flags.has(EntryFlags::REDELIVERED);
        let shared = self.count_to_session(queue, qos, again);
        if shared {
            // Another member of the group may have had it before.
            entry.subscription_ids = ids;
        }
        if qos == 0 || shared {
            // DUP means that the same client is sent the message again. MQTT 5 3.3.1.1
            flags = DeliveryFlags(flags.0 & !DeliveryFlags::REDELIVERED.0);
        }
        let extra = entry.delivery_extra();
        let Some(l) = self.links.get(link) else {
            debug_assert!(false, "it takes");
            return;
        };
        let traffic = self.counters.of(l.traffic);
        traffic.delivered_bytes += bytes;
        traffic.redelivered += u64::from(again);
        let delivery = |message: Message, number: u64, extra| Delivery {
            channel: CHANNEL,
            qos,
            flags,
            consumer: 0,
            number,
            message,
            extra,
        };
        if qos == 0 {
            traffic.delivered_no_ack += 1;
            if let Some(message) = self.settle_taken(queue, entry) {
                events.push(Event::Deliver(delivery(message, 0, extra)));
            }
            return;
        }
        traffic.delivered += 1;
        let message = message.clone();
        let (seq, logged) = (entry.seq, entry.flags.has(EntryFlags::LOGGED));
        let Some(s) = self.sessions.get_mut(session) else {
            return;
        };
        let kept = s.kept();
        let mut outgoing = Outgoing {
            queue,
            entry,
            qos,
            released: false,
            counted: true,
            order: 0,
        };
        self.memory.shed(&mut outgoing.entry);
        let Some(packet_id) = s.in_flight.assign(outgoing) else {
            debug_assert!(false, "the receive maximum keeps an id free");
            return;
        };
        s.account_ids();
        let delivery = delivery(message, u64::from(packet_id), extra);
        if qos == 2
            && kept
            && logged
            && let Some(q) = self.queues.get(queue)
        {
            // The id is logged before the message is sent: after a crash it is sent again with the same id.
            self.staging.record(Record::State(State::PacketId {
                queue: q.id,
                seq,
                packet_id,
            }));
            let gate = Some(self.staging.wait());
            self.answer(link, CHANNEL, Event::Deliver(delivery), gate);
        } else {
            events.push(Event::Deliver(delivery));
        }
    }
}

fn returned_extra(count: u32) -> Box<DeliveryExtra> {
    Box::new(DeliveryExtra {
        returned: Some(count),
        ..DeliveryExtra::default()
    })
}
