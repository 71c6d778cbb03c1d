//! MQTT packet ids at the engine: what a client acknowledges. Deliveries that it had not completed when it disconnected
//! are sent again by `resending.rs`.

use super::Engine;
use crate::command::Outcome;
use crate::durable_session::CHANNEL;
use crate::event::{Event, Op};
use crate::fault::{Fault, FaultKind};
use crate::in_flight::Outgoing;
use crate::queue::entry::EntryFlags;
use crate::slots::{Link, SessionKey};
use crate::store::{Record, State};

impl Engine {
    /// PUBACK, PUBCOMP, or a refusal: frees the packet id.
    pub(crate) fn settle_packet(&mut self, link: Link, number: u64, outcome: Outcome) {
        let Ok(packet_id) = u16::try_from(number) else { return };
        let Some(l) = self.links.get(link) else { return };
        let (traffic, session) = (l.traffic, l.session);
        let Some(session) = session else { return };
        if self.is_any_followed()
            && let Some(o) = self
                .sessions
                .get_mut(session)
                .and_then(|s| s.in_flight.find_mut(packet_id))
        {
            let (queue, seq) = (o.queue, o.entry.seq);
            self.trace_settled(link, queue, seq, outcome);
        }
        match outcome {
            Outcome::Accept | Outcome::Reject => {
                let known = self.free_packet(session, packet_id);
                self.counters.of(traffic).acknowledged += u64::from(known);
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

    /// Frees a packet id and settles its message. Returns whether the id was in use.
    pub(super) fn free_packet(&mut self, session: SessionKey, packet_id: u16) -> bool {
        let Some(Outgoing { queue, entry, .. }) = self.take_packet(session, packet_id) else {
            return false;
        };
        self.settle_entry(queue, entry, true);
        true
    }

    fn take_packet(&mut self, session: SessionKey, packet_id: u16) -> Option<Outgoing> {
        let s = self.sessions.get_mut(session)?;
        let outgoing = s.in_flight.remove(packet_id)?;
        s.account_ids();
        if outgoing.counted {
            self.free_session_credit(session);
        }
        Some(outgoing)
    }

    /// PUBREC: from now on only PUBREL is sent.
    pub(crate) fn received(&mut self, link: Link, packet_id: u16) {
        if self.is_any_followed()
            && let Some((_, s)) = self.session_of(link)
            && let Some(o) = s.in_flight.find_mut(packet_id).filter(|o| o.qos == 2 && !o.released)
        {
            let (queue, seq) = (o.queue, o.entry.seq);
            self.trace_received(link, queue, seq);
        }
        let Some((_, s)) = self.session_of(link) else { return };
        let kept = s.kept();
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
                    // After PUBREL the client may forget the id. If the message were sent again then, it would count as
                    // a new one.
                    gate = self.staging.wait_for_all();
                }
                true
            }
            Some(_) => return self.wrong_acknowledgement(link),
            None => false,
        };
        self.answer(link, CHANNEL, Event::ReleaseDue { packet_id, known }, gate);
    }

    /// An acknowledgement of QoS 2 that fits no QoS 2 delivery of the connection. It is ignored for unknown ids: the
    /// client answers a PUBREL that it did not expect, or repeats an earlier acknowledgement.
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

    /// PUBREL: frees the publisher's packet id.
    pub(crate) fn release(&mut self, link: Link, packet_id: u16) {
        self.trace_released(link, packet_id);
        let Some((_, s)) = self.session_of(link) else { return };
        let known = s.forget_incoming(packet_id);
        let queue = s.queue.filter(|_| s.kept() && known);
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
