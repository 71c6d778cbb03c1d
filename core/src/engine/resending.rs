//! Deliveries that a session's client has not completed, which are sent again when it reconnects.

use super::Engine;
use super::flow::party;
use super::outbox::Out;
use super::traced::{Hop, HopKind};
use crate::durable_session::CHANNEL;
use crate::event::{Delivery, DeliveryFlags, Event};
use crate::queue::entry::Body;
use crate::seldom::Seldom;
use crate::slots::{Link, QueueKey, SessionKey};
use crate::store::{Loaded, Read, Request};
use crate::subscription_ids::ids_of;

/// How many deliveries to be sent again are read from disk at once; and how many bytes of bodies, after which no more
/// are.
const RESENDS_AT_ONCE: usize = 256;
const RESEND_BYTES: usize = 256 << 10;

impl Engine {
    /// Puts deliveries to be sent again into the outbox, up to the client's receive maximum. Others stay out of it,
    /// because answers behind them would have to wait.
    // MQTT 5 3.3.4 [MQTT-3.3.4-9]: resends count.
    pub(crate) fn resend_more(&mut self, session: SessionKey) {
        let Engine { links, sessions, .. } = self;
        let Some(s) = sessions.get_mut(session).filter(|s| s.open) else {
            return;
        };
        let Some(resends) = s.resends.get_mut() else { return };
        let Some(l) = s.link.and_then(|link| links.get_mut(link)) else {
            return;
        };
        while let Some(&packet_id) = resends.front() {
            // A PUBREL does not count against the receive maximum (MQTT 5 4.9), and nothing is sent for an id
            // acknowledged meanwhile.
            if let Some(outgoing) = s.in_flight.find_mut(packet_id).filter(|o| !o.released) {
                if s.credit.is_spent() {
                    break;
                }
                outgoing.counted = true;
                s.credit.spend();
            }
            resends.pop_front();
            l.outbox.push(Out::Resend(packet_id));
        }
        if resends.is_empty() {
            s.resends = Seldom::default();
        }
        l.wake(&mut self.wakes);
    }

    /// Bytes of the body to be sent again under that packet id; 0 for a PUBREL, or if there is nothing to send. `None`:
    /// the body is being read.
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
                // Its group ended and the message with it, so there is nothing to send.
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

    /// Requests the next bodies that the link waits for.
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

    /// A body to be sent again has been read, or is damaged.
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
                    // After a restart the entry comes from the log, which does not store them.
                    o.entry.subscription_ids = ids_of(&s.subscriptions, &o.entry);
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

    /// Sends again what is in flight under that packet id: the message, marked as duplicate, or its PUBREL.
    pub(crate) fn resend(&mut self, link: Link, packet_id: u16, events: &mut Vec<Event>) {
        if let Some(l) = self.links.get_mut(link) {
            l.outbox.pop();
        }
        let Engine {
            links,
            sessions,
            queues,
            ..
        } = self;
        let session = links.get_mut(link).and_then(|l| l.session);
        let Some(s) = session.and_then(|s| sessions.get_mut(s)) else {
            return;
        };
        let Some(o) = s.in_flight.find_mut(packet_id) else {
            return;
        };
        if self.traces.is_any_followed()
            && let (Some(l), Some(q)) = (links.get(link), queues.get(o.queue))
        {
            self.traces.note(self.now, o.queue, o.entry.seq, || {
                let hop = Hop {
                    party: Some(Box::new(party(l))),
                    number: Some(packet_id.into()),
                    redelivered: true,
                    ..Hop::at_queue(HopKind::SentAgain, &q.name)
                };
                if o.released {
                    hop.because("its client has it, and is told again to forget the packet id")
                } else {
                    hop
                }
            });
        }
        let Body::Memory(message) = &o.entry.body else {
            events.push(Event::ReleaseDue { packet_id, known: true });
            return;
        };
        if o.released {
            events.push(Event::ReleaseDue { packet_id, known: true });
            return;
        }
        let bytes = message.body().len() as u64;
        events.push(Event::Deliver(Delivery {
            channel: CHANNEL,
            qos: o.qos,
            flags: o.entry.flags.delivery() | DeliveryFlags::REDELIVERED,
            consumer: 0,
            number: u64::from(packet_id),
            message: message.clone(),
            extra: o.entry.delivery_extra(),
        }));
        self.memory.shed(&mut o.entry);
        if let Some(q) = queues.get_mut(o.queue) {
            q.delivered += 1;
            q.seldom.redelivered += 1;
        }
        if let Some(l) = links.get(link) {
            let traffic = self.counters.of(l.traffic);
            traffic.redelivered += 1;
            traffic.delivered += 1;
            traffic.delivered_bytes += bytes;
        }
    }
}
