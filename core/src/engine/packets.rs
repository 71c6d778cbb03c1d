//! MQTT packet ids at the engine: hand out, acknowledge, and send again what a client did not finish with.

use super::Engine;
use super::memory::subscription_ids;
use super::outbox::Out;
use super::sessions::CHANNEL;
use crate::command::Outcome;
use crate::durable_session::INCOMING_ID_BYTES;
use crate::durable_session::Outgoing;
use crate::event::{Delivery, DeliveryFlags, Event, Op};
use crate::fault::{Fault, FaultKind};
use crate::queue::QueueKind;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::slots::{Link, QueueKey, SessionKey};
use crate::store::{Loaded, Read, Record, Request, State};
use std::sync::Arc;

/// Deliveries to be sent again that are fetched from disk at once, and bytes of body after which no more are.
const RESENDS_AT_ONCE: usize = 256;
const RESEND_BYTES: usize = 256 << 10;

impl Engine {
    /// Bytes of the body that is sent again under that packet id; 0 for a PUBREL, or if there is nothing to send. `None`
    /// if it is on its way from disk.
    pub(crate) fn resend_size(&mut self, link: Link, packet_id: u16) -> Option<usize> {
        let Some(session) = self.links.get(link).and_then(|l| l.session) else {
            return Some(0);
        };
        let outgoing = self
            .sessions
            .get_mut(session)
            .and_then(|s| s.in_flight.find_mut(packet_id));
        let Some(o) = outgoing.filter(|o| !o.released) else {
            return Some(0);
        };
        match &o.entry.body {
            Body::Memory(message) => Some(message.body().len()),
            Body::Disk { .. } if !self.queues.contains(o.queue) => {
                // Its group ended, and its record with that: there is nothing to send.
                self.free_packet(session, packet_id);
                self.resend_more(session);
                Some(0)
            }
            Body::Disk { .. } => {
                self.load_resends(link, session);
                None
            }
        }
    }

    /// Asks for the next bodies that the link waits for.
    fn load_resends(&mut self, link: Link, session: SessionKey) {
        let Engine {
            links,
            queues,
            sessions,
            memory,
            ..
        } = self;
        let Some(l) = links.get_mut(link).filter(|l| !l.resend_loading) else {
            return;
        };
        l.resend_loading = true;
        let s = &mut sessions[session];
        let mut bytes = 0;
        for out in l.outbox.iter().take(RESENDS_AT_ONCE) {
            let Out::Resend(packet_id) = *out else { continue };
            if let Some(o) = s.in_flight.find_mut(packet_id).filter(|o| !o.released)
                && let Body::Disk { at, body_len } = o.entry.body
                && bytes < RESEND_BYTES
                && let Some(q) = queues.get(o.queue)
            {
                bytes += body_len as usize;
                let (queue, seq) = (q.id, o.entry.seq);
                memory.resends.insert((queue, seq), (session, packet_id));
                memory.requests.push(Request::Body(Read {
                    queue,
                    seq,
                    at,
                    waited: 0,
                }));
            }
        }
    }

    /// A body that is to be sent again has come, or is damaged.
    pub(crate) fn resend_loaded(&mut self, (session, packet_id): (SessionKey, u16), queue: QueueKey, loaded: Loaded) {
        let Engine {
            links,
            sessions,
            memory,
            ..
        } = self;
        let Some(s) = sessions.get_mut(session) else {
            return;
        };
        if let Some(l) = s.link.and_then(|link| links.get_mut(link)) {
            l.resend_loading = false;
            l.wake(&mut self.wakes);
        }
        let Some(o) = s
            .in_flight
            .find_mut(packet_id)
            .filter(|o| o.queue == queue && o.entry.seq == loaded.seq)
        else {
            return;
        };
        let Body::Disk { at, .. } = o.entry.body else { return };
        let own = s.queue == Some(queue);
        match loaded.message {
            Some(message) => {
                message.log_state().written(at);
                memory.pin(&message);
                o.entry.body = Body::Memory(message);
                if own && o.entry.subscription_ids.is_none() {
                    // After a restart it comes from the log, which does not keep them.
                    o.entry.subscription_ids = subscription_ids(&s.subscriptions, &o.entry);
                }
                self.counters.bodies_loaded += 1;
            }
            None => {
                tracing::warn!(client = %s.client_id, packet_id, "a message's record is damaged: not sent again");
                self.counters.damaged += 1;
                self.free_packet(session, packet_id);
                self.resend_more(session);
            }
        }
    }

    /// Sends again what is in flight under that packet id: the message, marked as such, or its PUBREL.
    pub(crate) fn resend(&mut self, link: Link, packet_id: u16, events: &mut Vec<Event>) {
        if let Some(l) = self.links.get_mut(link) {
            l.outbox.pop();
        }
        let Engine { links, sessions, .. } = self;
        let session = links.get_mut(link).and_then(|l| l.session);
        let Some(s) = session.and_then(|s| sessions.get_mut(s)) else {
            return;
        };
        let Some(o) = s.in_flight.find_mut(packet_id) else {
            return;
        };
        let Body::Memory(message) = &o.entry.body else {
            events.push(Event::ReleaseDue { packet_id, known: true });
            return;
        };
        if o.released {
            events.push(Event::ReleaseDue { packet_id, known: true });
            return;
        }
        events.push(Event::Deliver(Delivery {
            channel: CHANNEL,
            qos: o.qos,
            flags: o.entry.flags.delivery() | DeliveryFlags::REDELIVERED,
            consumer: 0,
            number: u64::from(packet_id),
            message: message.clone(),
            extra: super::take::delivery_extra(&o.entry),
        }));
        self.memory.shed(&mut o.entry);
        self.counters.redelivered += 1;
    }

    /// Hands a message out under the session's next packet id.
    pub(crate) fn hand_out_to_session(
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
        let message = message.clone();
        let qos = entry.flags.qos().min(granted);
        let mut flags = entry.flags.delivery();
        let shared = self.queues.get(queue).is_some_and(|q| q.kind == QueueKind::Shared);
        if shared {
            // Another member may have had it before.
            entry.subscription_ids = ids;
        }
        if qos == 0 || shared {
            // DUP is for the same client being sent the same message again. MQTT 5 3.3.1.1
            flags = DeliveryFlags(flags.0 & !DeliveryFlags::REDELIVERED.0);
        }
        let extra = super::take::delivery_extra(&entry);
        let mut delivery = Delivery {
            channel: CHANNEL,
            qos,
            flags,
            consumer: 0,
            number: 0,
            message,
            extra,
        };
        if qos == 0 {
            self.counters.delivered_no_ack += 1;
            self.settle_entry(queue, entry, false);
            events.push(Event::Deliver(delivery));
            return;
        }
        self.counters.delivered += 1;
        let (seq, logged) = (entry.seq, entry.flags.has(EntryFlags::LOGGED));
        let Some(s) = self.sessions.get_mut(session) else {
            return;
        };
        let kept = s.kept;
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
        delivery.number = u64::from(packet_id);
        if qos == 2
            && kept
            && logged
            && let Some(q) = self.queues.get(queue)
        {
            // The id is in the log before the message goes: after a crash it is the same id that is sent again.
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

    /// PUBACK, PUBCOMP, or a refusal: the packet id is free.
    pub(crate) fn settle_packet(&mut self, link: Link, number: u64, outcome: Outcome) {
        let Ok(packet_id) = u16::try_from(number) else { return };
        let Some((session, s)) = self.session_of(link) else {
            return;
        };
        match outcome {
            Outcome::Accept | Outcome::Reject => {
                self.counters.acknowledged += u64::from(s.in_flight.find_mut(packet_id).is_some());
                self.free_packet(session, packet_id);
            }
            Outcome::Requeue => {
                if let Some(outgoing) = self.take_packet(session, packet_id) {
                    let Outgoing { queue, mut entry, .. } = outgoing;
                    entry.flags.set(EntryFlags::REDELIVERED);
                    self.put_back(queue, entry);
                }
            }
        }
        self.resend_more(session);
    }

    /// Puts out what is to be sent again, as far as the client's receive maximum allows. The rest stays out of the outbox,
    /// where it would hold up the answers behind it.
    // MQTT 5 3.3.4 [MQTT-3.3.4-9]: resends count.
    pub(crate) fn resend_more(&mut self, session: SessionKey) {
        let Engine { links, sessions, .. } = self;
        let Some(s) = sessions.get_mut(session).filter(|s| s.open && !s.resends.is_empty()) else {
            return;
        };
        let Some(l) = s.link.and_then(|link| links.get_mut(link)) else {
            return;
        };
        while let Some(&packet_id) = s.resends.front() {
            // A PUBREL takes no room (MQTT 5 4.9), nor does what the client has acknowledged meanwhile.
            if let Some(outgoing) = s.in_flight.find_mut(packet_id).filter(|o| !o.released) {
                if s.used >= u32::from(s.receive_maximum) {
                    break;
                }
                outgoing.counted = true;
                s.used += 1;
            }
            s.resends.pop_front();
            l.outbox.push(Out::Resend(packet_id));
        }
        l.wake(&mut self.wakes);
    }

    /// The client is done with a packet id, and so are we with its message.
    fn free_packet(&mut self, session: SessionKey, packet_id: u16) {
        if let Some(Outgoing { queue, entry, .. }) = self.take_packet(session, packet_id) {
            self.settle_entry(queue, entry, true);
        }
    }

    fn take_packet(&mut self, session: SessionKey, packet_id: u16) -> Option<Outgoing> {
        let outgoing = self.sessions.get_mut(session)?.in_flight.remove(packet_id)?;
        if outgoing.counted {
            self.free_session_credit(session);
        }
        Some(outgoing)
    }

    /// PUBREC: from here on only PUBREL is sent.
    pub(crate) fn received(&mut self, link: Link, packet_id: u16) {
        let Some((_, s)) = self.session_of(link) else { return };
        let kept = s.kept;
        let mut gate = None;
        let known = match s.in_flight.find_mut(packet_id) {
            Some(outgoing) if outgoing.qos == 2 => {
                let first = !outgoing.released;
                outgoing.released = true;
                let (queue, seq) = (outgoing.queue, outgoing.entry.seq);
                if kept && outgoing.entry.flags.has(EntryFlags::LOGGED) {
                    if first && let Some(queue) = self.queues.get(queue).map(|q| q.id) {
                        self.staging
                            .record(Record::State(State::PacketIdReleased { queue, seq, packet_id }));
                    }
                    // After PUBREL the client may forget the id: were the message sent again then, it would be new.
                    gate = self.staging.wait_for_all();
                }
                true
            }
            Some(_) => return self.wrong_acknowledgement(link),
            None => false,
        };
        self.answer(link, CHANNEL, Event::ReleaseDue { packet_id, known }, gate);
    }

    /// An acknowledgement of QoS 2 that fits no QoS 2 delivery of the connection. What it means for other ids does not
    /// matter: the client has answered a PUBREL that said "unknown", or says again what it said before.
    pub(crate) fn stray(&mut self, link: Link, packet_id: u16) {
        let Some((_, s)) = self.session_of(link) else { return };
        if s.in_flight
            .find_mut(packet_id)
            .is_some_and(|outgoing| outgoing.qos == 1)
        {
            self.wrong_acknowledgement(link);
        }
    }

    // MQTT 5 4.3.2: the receiver of a QoS 1 message answers with PUBACK.
    fn wrong_acknowledgement(&mut self, link: Link) {
        let fault = Fault::new(FaultKind::NotAllowed, "the delivery is of QoS 1");
        self.fail(link, CHANNEL, Op::Settle, fault);
    }

    /// PUBREL: the publisher's packet id is free.
    pub(crate) fn release(&mut self, link: Link, packet_id: u16) {
        let Some((_, s)) = self.session_of(link) else { return };
        let known = s.incoming.remove(&packet_id);
        if known {
            s.charge.shrink(INCOMING_ID_BYTES);
        }
        let queue = s.queue.filter(|_| s.kept && known);
        let queue = queue.and_then(|queue| self.queues.get(queue)).map(|q| q.id);
        let gate = queue.map(|queue| {
            self.staging.record(Record::State(State::IncomingId {
                queue,
                packet_id,
                held: false,
            }));
            self.staging.wait()
        });
        self.answer(link, CHANNEL, Event::Released { packet_id, known }, gate);
    }
}
