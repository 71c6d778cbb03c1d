//! MQTT sessions at the engine: open, take over, subscribe, deliver with packet ids, leave, end.
//!
//! ```text
//!             OpenSession                     SessionOpened is taken
//!   (none) ───────────────► opening ──────────────────────────────► connected
//!     ▲                        (waits for the log if kept)           │      ▲
//!     │ expiry, clean start                              Detach,     │      │ OpenSession
//!     └───────────────────────────── away ◄──────────────takeover────┘──────┘ (resends first)
//! ```

use super::link::Out;
use super::timers::Timer;
use super::{Engine, Link, Wakes, link_at};
use crate::binding::{Destination, Grant, QueueSlot};
use crate::command::{OpenSession, Outcome, RetainHandling, Subscribe, Subscription, Unsubscribe, Will};
use crate::durable_session::{DurableSession, InFlight, Outgoing, Subscribed};
use crate::event::{CloseReason, Delivery, DeliveryFlags, Event, Op};
use crate::fault::{Fault, FaultKind};
use crate::message::Dialect;
use crate::properties::Name;
use crate::queue::consumers::{Consumer, ConsumerKey};
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::queue::unsettled::QueueRef;
use crate::queue::{Queue, QueueKind};
use crate::retained::Cursor;
use crate::store::{Loaded, Read, Record, State};
use crate::topic::Pattern;
use std::time::Duration;

/// The channel of everything an MQTT session says and hears.
const CHANNEL: u16 = 0;

/// Retained messages still to be sent for a new subscription.
pub(crate) struct Replay {
    cursor: Cursor,
    qos: u8,
    subscription_id: Option<u32>,
}

/// Look-ups of a replay in one turn.
const REPLAY_STEPS: usize = 256;

impl Engine {
    pub(crate) fn open_session(&mut self, link: Link, c: OpenSession, wakes: &mut Wakes) {
        // What the log keeps, it keeps no longer than the node allows.
        let expiry = match (c.expiry, self.settings.session_expiry_max) {
            (Some(e), Some(max)) => Some(e.min(max)),
            (None, max) => max,
            (e, None) => e,
        };
        let mut present = false;
        let mut gate = None;
        if let Some(&session) = self.session_ids.get(&c.client_id) {
            if let Some(old) = self.sessions[session as usize].link {
                self.take_over(old, c.clean_start, wakes);
            }
            // The session may have ended with its old connection.
            if let Some(&session) = self.session_ids.get(&c.client_id) {
                if c.clean_start {
                    gate = self.end_session(session, wakes);
                } else {
                    present = true;
                }
            }
        }
        let kept = expiry != Some(0);
        let session = match self.session_ids.get(&c.client_id) {
            Some(&session) => session,
            None => {
                let session = self.sessions.insert(DurableSession {
                    client_id: c.client_id.clone(),
                    link: None,
                    queue: None,
                    expiry,
                    expires_at: None,
                    kept,
                    in_flight: InFlight::default(),
                    used: 0,
                    incoming: Default::default(),
                    subscriptions: Default::default(),
                    consumers: Vec::new(),
                    receive_maximum: c.receive_maximum,
                    delayed_will: None,
                    resend_awaits: 0,
                }) as u32;
                self.session_ids.insert(c.client_id.clone(), session);
                session
            }
        };
        let s = &mut self.sessions[session as usize];
        s.link = Some(link);
        s.expiry = expiry;
        s.expires_at = None;
        s.receive_maximum = c.receive_maximum.max(1);
        s.delayed_will = None;
        s.kept |= kept;
        if let Some(l) = link_at(&mut self.links, link) {
            l.session = Some(session);
            l.will = c.will.map(Box::new);
        }
        if self.sessions[session as usize].kept {
            self.session_queue(session);
            gate = Some(self.log_session(session));
        }
        match gate {
            Some(ticket) => self.opening.push((ticket, session, link, present)),
            None => self.session_open(session, link, present, wakes),
        }
    }

    /// The log has what the open session promises: tell its client, resend, and let messages flow.
    pub(crate) fn session_open(&mut self, session: u32, link: Link, present: bool, wakes: &mut Wakes) {
        let Some(s) = self.sessions.get(session as usize).filter(|s| s.link == Some(link)) else {
            return;
        };
        let _ = s;
        self.answer(link, CHANNEL, Event::SessionOpened { present }, None);
        let s = &mut self.sessions[session as usize];
        s.used = 0;
        let mut reads = Vec::new();
        for outgoing in s.in_flight.iter_mut() {
            if outgoing.released {
                continue;
            }
            s.used += 1;
            if let Body::Disk { at, .. } = outgoing.entry.body {
                reads.push(Read {
                    queue: outgoing.queue.id,
                    seq: outgoing.entry.seq,
                    at,
                });
            }
        }
        s.resend_awaits = reads.len();
        if reads.is_empty() {
            self.resend(session, wakes);
        } else {
            self.memory.reads.append(&mut reads);
        }
        if let Some(l) = link_at(&mut self.links, link) {
            l.wake(wakes);
        }
    }

    /// A body that a resend waits for. Returns whether it was one.
    pub(crate) fn resend_loaded(&mut self, session: u32, loaded: &Loaded) -> bool {
        let Some(s) = self.sessions.get_mut(session as usize) else {
            return false;
        };
        if s.resend_awaits == 0 {
            return false;
        }
        let queue = loaded.queue;
        let Some(outgoing) = s
            .in_flight
            .iter_mut()
            .find(|o| o.queue.id == queue && o.entry.seq == loaded.seq)
        else {
            return false;
        };
        let Body::Disk { at, .. } = outgoing.entry.body else {
            return false;
        };
        s.resend_awaits -= 1;
        if let Some(message) = &loaded.message {
            message.log_state().written(at);
            outgoing.entry.body = Body::Memory(message.clone());
            if message.log_state().hold() {
                self.memory.add(message);
            }
        }
        if s.resend_awaits == 0 {
            self.resends_ready.push(session);
        }
        true
    }

    /// Sends again what the client did not finish with, in the order it was sent; then new messages may follow.
    // MQTT 5 4.4 [MQTT-4.4.0-1], 4.6 [MQTT-4.6.0-1]
    pub(crate) fn resend(&mut self, session: u32, wakes: &mut Wakes) {
        let Some(s) = self.sessions.get_mut(session as usize) else {
            return;
        };
        let Some(link) = s.link else { return };
        let mut events = Vec::new();
        for packet_id in s.in_flight.ids() {
            let Some(o) = s.in_flight.find_mut(packet_id) else {
                continue;
            };
            if o.released {
                events.push(Event::ReleaseDue { packet_id, known: true });
            } else if let Body::Memory(message) = &o.entry.body {
                events.push(Event::Deliver(Delivery {
                    channel: CHANNEL,
                    qos: o.qos,
                    flags: o.entry.flags.delivery() | DeliveryFlags::REDELIVERED,
                    consumer: 0,
                    number: u64::from(packet_id),
                    message: message.clone(),
                    extra: super::consuming::delivery_extra(&o.entry),
                }));
            }
        }
        for event in events {
            self.counters.redelivered += u64::from(matches!(event, Event::Deliver(_)));
            self.answer(link, CHANNEL, event, None);
        }
        self.add_session_consumers(session);
        self.dispatch_touched(wakes);
        if let Some(l) = link_at(&mut self.links, link) {
            l.wake(wakes);
        }
    }

    fn add_session_consumers(&mut self, session: u32) {
        let s = &self.sessions[session as usize];
        let mut wanted: Vec<(QueueRef, u8)> = s.queue.map(|q| (q, 2)).into_iter().collect();
        for ((filter, share), options) in &s.subscriptions {
            if let Some(share) = share
                && let Some(slot) = self.router.queue(&shared_queue_name(share, filter))
            {
                let id = self.queues[slot.0 as usize].id;
                wanted.push((QueueRef { slot: slot.0, id }, options.qos));
            }
        }
        for (queue, qos) in wanted {
            self.add_session_consumer(session, queue, qos);
        }
    }

    /// Has the connected session consume a queue, once.
    fn add_session_consumer(&mut self, session: u32, queue: QueueRef, qos: u8) {
        let s = &self.sessions[session as usize];
        let Some(link) = s.link else { return };
        let existing = s
            .consumers
            .iter()
            .find(|k| self.consumer(**k).is_some_and(|c| c.queue == queue))
            .copied();
        if let Some(key) = existing {
            if let Some(c) = self.consumer_mut(key) {
                c.session = Some((session, qos));
            }
            return;
        }
        let consumer = Consumer {
            key: ConsumerKey { slot: 0, generation: 0 },
            link,
            channel: CHANNEL,
            token: 0,
            queue,
            no_ack: false,
            exclusive: false,
            prefetch: 0,
            in_flight: 0,
            starved: false,
            session: Some((session, qos)),
        };
        let key = self.add_consumer(consumer, 0);
        self.sessions[session as usize].consumers.push(key);
    }

    /// The session's own queue, made if need be.
    fn session_queue(&mut self, session: u32) -> QueueRef {
        let s = &self.sessions[session as usize];
        if let Some(queue) = s.queue {
            return queue;
        }
        let (client_id, kept) = (s.client_id.clone(), s.kept);
        let mut name: Name = format!("mqtt-subscription-{client_id}").into();
        if self.router.queue(&name).is_some() {
            // Somebody declared a queue of that name: it stays theirs.
            name = format!("{name}~{}", self.next_queue).into();
        }
        let queue = self.add_special_queue(name, QueueKind::Session(session), kept);
        self.sessions[session as usize].queue = Some(queue);
        queue
    }

    fn add_special_queue(&mut self, name: Name, kind: QueueKind, durable: bool) -> QueueRef {
        let q = Queue::new(self.next_queue_id(), name, kind, durable, self.now.monotonic);
        let queue = self.add_queue(q);
        if durable {
            let (key, value) = super::recovery::encode_queue(&self.queues[queue.slot as usize]);
            self.staging.record(Record::Key {
                key,
                value: Some(value),
            });
        }
        queue
    }

    /// Stages the session's record. Returns what to wait for.
    fn log_session(&mut self, session: u32) -> u64 {
        self.stage_session(session);
        self.staging.wait()
    }

    fn stage_session(&mut self, session: u32) {
        let now = self.now;
        let s = &self.sessions[session as usize];
        let away = s.delayed_will.as_ref().map(|(w, due)| (&**w, Some(now.wall + (*due - now.monotonic))));
        let connected = s.link.and_then(|l| self.link(l)).and_then(|l| l.will.as_deref()).map(|w| (w, None));
        let (key, value) = super::recovery::encode_session(s, away.or(connected));
        self.staging.record(Record::Key { key, value: Some(value) });
    }

    pub(crate) fn session_expiry(&mut self, link: Link, expiry: Option<u32>) {
        let max = self.settings.session_expiry_max;
        if let Some((session, s)) = self.session_of(link) {
            s.expiry = match (expiry, max) {
                (Some(e), Some(m)) => Some(e.min(m)),
                (e, m) => e.or(m),
            };
            if s.kept {
                self.log_session(session);
            }
        }
    }

    pub(crate) fn subscribe(&mut self, link: Link, c: Subscribe) -> usize {
        let Some((session, _)) = self.session_of(link) else {
            let fault = Fault::new(FaultKind::NotAllowed, "no session is open");
            self.fail(link, CHANNEL, Op::Subscribe, fault);
            return 1;
        };
        let work = c.filters.len();
        let mut waits = false;
        let mut results = Vec::with_capacity(c.filters.len());
        for filter in c.filters {
            results.push(match filter {
                Err(kind) => Err(kind),
                Ok(sub) => {
                    let qos = sub.qos;
                    match self.subscribe_one(link, session, sub, c.subscription_id) {
                        Ok(logged) => {
                            waits |= logged;
                            Ok(qos)
                        }
                        Err(fault) => Err(fault.kind),
                    }
                }
            });
        }
        let gate = waits.then(|| self.staging.wait());
        let event = Event::Subscribed {
            packet_id: c.packet_id,
            results: results.into(),
        };
        self.answer(link, CHANNEL, event, gate);
        work
    }

    /// Returns whether the log must have it before the answer leaves.
    fn subscribe_one(
        &mut self,
        link: Link,
        session: u32,
        sub: Subscription,
        subscription_id: Option<u32>,
    ) -> Result<bool, Fault> {
        let exchange = self.settings.topic_exchange.clone();
        let options = Subscribed {
            qos: sub.qos,
            no_local: sub.no_local,
            retain_as_published: sub.retain_as_published,
            subscription_id,
        };
        let kept = self.sessions[session as usize].kept;
        let queue = match &sub.share {
            None => self.session_queue(session),
            Some(share) => {
                let name = shared_queue_name(share, &sub.filter);
                match self.router.queue(&name) {
                    Some(slot) => QueueRef {
                        slot: slot.0,
                        id: self.queues[slot.0 as usize].id,
                    },
                    None => self.add_special_queue(name, QueueKind::Shared, kept),
                }
            }
        };
        self.bind_subscription(queue, &exchange, &sub.filter, sub.share.is_some(), options)?;
        let id = (sub.filter.clone(), sub.share.clone());
        let new = self.sessions[session as usize]
            .subscriptions
            .insert(id, options)
            .is_none();
        if kept {
            let client_id = &self.sessions[session as usize].client_id;
            let (key, value) =
                super::recovery::encode_subscription(client_id, &sub.filter, sub.share.as_ref(), options);
            self.staging.record(Record::Key {
                key,
                value: Some(value),
            });
        }
        let granted = if sub.share.is_some() { sub.qos } else { 2 };
        self.add_session_consumer(session, queue, granted);
        let replay = match sub.retain_handling {
            RetainHandling::Always => true,
            RetainHandling::IfNew => new,
            RetainHandling::Never => false,
        };
        // MQTT 5 4.8.2: a shared subscription gets no retained messages.
        if replay
            && sub.share.is_none()
            && let Ok(pattern) = Pattern::parse(&sub.filter, Dialect::Slash)
            && let Some(l) = link_at(&mut self.links, link)
        {
            let cursor = self.retained.matching(pattern);
            l.replays.push_back(Replay {
                cursor,
                qos: sub.qos,
                subscription_id,
            });
        }
        Ok(kept)
    }

    /// Makes the binding of a subscription. A group's members all feed the group's one queue, each capping QoS itself.
    pub(crate) fn bind_subscription(
        &mut self,
        queue: QueueRef,
        exchange: &str,
        filter: &str,
        shared: bool,
        options: Subscribed,
    ) -> Result<(), Fault> {
        let q = &self.queues[queue.slot as usize];
        let destination = Destination::Queue {
            slot: QueueSlot(queue.slot),
            name: q.name.clone(),
            durable: q.durable,
        };
        let grant = Grant {
            qos: if shared { 2 } else { options.qos },
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            subscription_id: options.subscription_id,
        };
        self.router.subscribe(exchange, destination, filter, grant).map(|_| ())
    }

    /// Puts some of the retained messages a subscription asked for into its session's queue. Returns whether it did.
    pub(crate) fn replay_retained(&mut self, link: Link, wakes: &mut Wakes) -> bool {
        let wall = self.now.wall;
        let Some(l) = link_at(&mut self.links, link) else {
            return false;
        };
        let Some(session) = l.session else { return false };
        let Some(mut replay) = l.replays.pop_front() else {
            return false;
        };
        let mut found = Vec::new();
        let more = self
            .retained
            .next_batch(&mut replay.cursor, wall, REPLAY_STEPS, &mut found);
        let queue = self.session_queue(session);
        for message in found {
            let Some(q) = self.queues.get_mut(queue.slot as usize) else {
                break;
            };
            let mut flags = EntryFlags::new(message.envelope().qos.min(replay.qos));
            flags.set(EntryFlags::RETAIN);
            if message.log_state().hold() {
                self.memory.add(&message);
            }
            let seq = q.next_seq;
            q.next_seq += 1;
            let subscription_ids = replay.subscription_id.map(|id| [id].into());
            q.ready.push_back(Entry {
                seq,
                body: Body::Memory(message),
                flags,
                subscription_ids,
            });
        }
        if more && let Some(l) = link_at(&mut self.links, link) {
            l.replays.push_front(replay);
        }
        self.dispatch(queue.slot, wakes);
        true
    }

    pub(crate) fn unsubscribe(&mut self, link: Link, c: Unsubscribe, wakes: &mut Wakes) {
        let Some((session, _)) = self.session_of(link) else {
            return;
        };
        let mut waits = false;
        let mut existed = Vec::with_capacity(c.filters.len());
        for (filter, share) in c.filters {
            let s = &mut self.sessions[session as usize];
            let (kept, client_id) = (s.kept, s.client_id.clone());
            let known = s.subscriptions.remove(&(filter.clone(), share.clone())).is_some();
            existed.push(known);
            if !known {
                continue;
            }
            if kept {
                let key = super::recovery::subscription_key(&client_id, &filter, share.as_ref());
                self.staging.record(Record::Key { key, value: None });
                waits = true;
            }
            self.drop_subscription(session, &filter, share.as_ref(), wakes);
        }
        let gate = waits.then(|| self.staging.wait());
        let event = Event::Unsubscribed {
            packet_id: c.packet_id,
            existed: existed.into(),
        };
        self.answer(link, CHANNEL, event, gate);
    }

    /// Takes back what a subscription bound. A group's queue goes with its last member.
    fn drop_subscription(&mut self, session: u32, filter: &Name, share: Option<&Name>, wakes: &mut Wakes) {
        let exchange = self.settings.topic_exchange.clone();
        let Some(share) = share else {
            if let Some(queue) = self.sessions[session as usize].queue {
                self.router.unsubscribe(&exchange, QueueSlot(queue.slot), filter);
            }
            return;
        };
        let Some(slot) = self.router.queue(&shared_queue_name(share, filter)) else {
            return;
        };
        let queue = QueueRef {
            slot: slot.0,
            id: self.queues[slot.0 as usize].id,
        };
        let key = self.sessions[session as usize]
            .consumers
            .iter()
            .copied()
            .find(|k| self.consumer(*k).is_some_and(|c| c.queue == queue));
        if let Some(key) = key {
            self.sessions[session as usize].consumers.retain(|k| *k != key);
            self.remove_consumer(key, wakes);
        }
        let id = (filter.clone(), Some(share.clone()));
        if !self.sessions.iter().any(|(_, s)| s.subscriptions.contains_key(&id)) {
            self.delete_queue(queue, wakes);
        }
    }

    /// Hands a message out under the session's next packet id.
    pub(crate) fn hand_out_to_session(
        &mut self,
        link: Link,
        session: u32,
        granted: u8,
        queue: QueueRef,
        entry: Entry,
        events: &mut Vec<Event>,
    ) {
        let Body::Memory(message) = &entry.body else {
            debug_assert!(false, "only what is in memory is reserved");
            return;
        };
        let message = message.clone();
        let qos = entry.flags.qos().min(granted);
        let mut flags = entry.flags.delivery();
        if qos == 0
            || self
                .queues
                .get(queue.slot as usize)
                .is_some_and(|q| q.kind == QueueKind::Shared)
        {
            // DUP is for the same client being sent the same message again. MQTT 5 3.3.1.1
            flags = DeliveryFlags(flags.0 & !DeliveryFlags::REDELIVERED.0);
        }
        let extra = super::consuming::delivery_extra(&entry);
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
            self.settle_entry(queue, entry, false, &mut Wakes::default());
            events.push(Event::Deliver(delivery));
            return;
        }
        self.counters.delivered += 1;
        let (seq, logged) = (entry.seq, entry.flags.has(EntryFlags::LOGGED));
        let Some(s) = self.sessions.get_mut(session as usize) else {
            return;
        };
        let kept = s.kept;
        let mut outgoing = Outgoing {
            queue,
            entry,
            qos,
            released: false,
            order: 0,
        };
        self.memory.shed(&mut outgoing.entry);
        let Some(packet_id) = s.in_flight.assign(outgoing) else {
            debug_assert!(false, "the receive maximum keeps an id free");
            return;
        };
        delivery.number = u64::from(packet_id);
        if qos == 2 && kept && logged {
            // The id is in the log before the message goes: after a crash it is the same id that is sent again.
            self.staging.record(Record::State(State::PacketId {
                queue: queue.id,
                seq,
                packet_id,
            }));
            let gate = Some(self.staging.wait());
            self.push_out(link, CHANNEL, Out::Event(Event::Deliver(delivery)), gate);
        } else {
            events.push(Event::Deliver(delivery));
        }
    }

    /// PUBACK, PUBCOMP, or a refusal: the packet id is free.
    pub(crate) fn settle_packet(&mut self, link: Link, number: u64, outcome: Outcome, wakes: &mut Wakes) {
        let Ok(packet_id) = u16::try_from(number) else { return };
        let Some((_, s)) = self.session_of(link) else { return };
        let Some(outgoing) = s.in_flight.remove(packet_id) else {
            return;
        };
        s.used = s.used.saturating_sub(1);
        let Outgoing { queue, mut entry, .. } = outgoing;
        match outcome {
            Outcome::Accept | Outcome::Reject => {
                self.counters.acknowledged += 1;
                self.settle_entry(queue, entry, true, wakes);
            }
            Outcome::Requeue => {
                entry.flags.set(EntryFlags::REDELIVERED);
                self.put_back(queue, entry);
            }
        }
        let own = self.session_of(link).and_then(|(_, s)| s.queue);
        self.touch(queue);
        if let Some(own) = own {
            self.touch(own);
        }
    }

    /// PUBREC: from here on only PUBREL is sent.
    pub(crate) fn received(&mut self, link: Link, packet_id: u16) {
        let Some((_, s)) = self.session_of(link) else { return };
        let kept = s.kept;
        let known = match s.in_flight.find_mut(packet_id) {
            Some(outgoing) if outgoing.qos == 2 => {
                let first = !outgoing.released;
                outgoing.released = true;
                let (queue, seq) = (outgoing.queue.id, outgoing.entry.seq);
                if first && kept && outgoing.entry.flags.has(EntryFlags::LOGGED) {
                    self.staging
                        .record(Record::State(State::PacketIdReleased { queue, seq, packet_id }));
                }
                true
            }
            _ => false,
        };
        self.answer(link, CHANNEL, Event::ReleaseDue { packet_id, known }, None);
    }

    /// PUBREL: the publisher's packet id is free.
    pub(crate) fn release(&mut self, link: Link, packet_id: u16) {
        let Some((_, s)) = self.session_of(link) else { return };
        let known = s.incoming.remove(&packet_id);
        let queue = s.queue.filter(|_| s.kept && known).map(|q| q.id);
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

    /// Another connection opens the session of `old`.
    fn take_over(&mut self, old: Link, clean_start: bool, wakes: &mut Wakes) {
        let Some(l) = link_at(&mut self.links, old) else { return };
        l.closed = Some(CloseReason::TakenOver);
        l.wake(wakes);
        let mut will = l.will.take();
        // MQTT 5 3.1.3.2.2 [MQTT-3.1.3-9]: back before the delay is over, unless the session ends.
        if !clean_start && will.as_ref().is_some_and(|w| !w.delay.is_zero()) {
            will = None;
        }
        self.leave_session(old, will, wakes);
    }

    /// The link lets go of its session: the connection ended, or another took over.
    pub(crate) fn leave_session(&mut self, link: Link, will: Option<Box<Will>>, wakes: &mut Wakes) {
        let Some(session) = link_at(&mut self.links, link).and_then(|l| {
            l.replays.clear();
            l.session.take()
        }) else {
            return;
        };
        let Some(s) = self.sessions.get_mut(session as usize).filter(|s| s.link == Some(link)) else {
            return;
        };
        s.link = None;
        s.resend_awaits = 0;
        let consumers = std::mem::take(&mut s.consumers);
        let (expiry, kept) = (s.expiry, s.kept);
        for key in consumers {
            self.remove_consumer(key, wakes);
        }
        let ends_now = expiry == Some(0);
        match will {
            Some(will) if ends_now || will.delay.is_zero() => self.fire_will(&will, wakes),
            Some(will) => {
                // At the end of the delay or of the session, whichever is first.
                let delay = expiry.map_or(will.delay, |e| will.delay.min(Duration::from_secs(u64::from(e))));
                let due = self.now.monotonic + delay;
                self.timers.set(due, Timer::Will(session));
                self.sessions[session as usize].delayed_will = Some((will, due));
            }
            None => {}
        }
        if ends_now {
            self.end_session(session, wakes);
            return;
        }
        if let Some(expiry) = expiry {
            let left = Duration::from_secs(u64::from(expiry));
            self.sessions[session as usize].expires_at = Some(self.now.wall + left);
            self.timers
                .set(self.now.monotonic + left, Timer::SessionExpiry(session));
        }
        if kept {
            // Nobody waits for it: a loss only prolongs the session.
            self.stage_session(session);
        }
    }

    fn fire_will(&mut self, will: &Will, wakes: &mut Wakes) {
        let mut envelope = *will.message.envelope();
        envelope.received = self.now.wall;
        envelope.deadline = will.expiry.map(|e| self.now.wall + e);
        let m = &will.message;
        let message = m.readdressed(envelope, m.exchange(), m.key(), m.properties_raw());
        self.publish_internally(&message, &[], wakes);
    }

    pub(crate) fn fire_delayed_will(&mut self, session: u32, wakes: &mut Wakes) {
        let now = self.now.monotonic;
        let Some(s) = self.sessions.get_mut(session as usize) else {
            return;
        };
        if s.link.is_none()
            && let Some((will, _)) = s.delayed_will.take_if(|(_, due)| *due <= now)
        {
            self.fire_will(&will, wakes);
        }
    }

    pub(crate) fn expire_session(&mut self, session: u32, wakes: &mut Wakes) {
        let wall = self.now.wall;
        let due = self
            .sessions
            .get(session as usize)
            .filter(|s| s.link.is_none())
            .and_then(|s| s.expires_at);
        if due.is_some_and(|due| due <= wall) {
            self.end_session(session, wakes);
        }
    }

    /// Ends a session: its subscriptions, its backlog, its record. Returns what to wait for.
    fn end_session(&mut self, session: u32, wakes: &mut Wakes) -> Option<u64> {
        let s = self.sessions.get_mut(session as usize)?;
        if let Some((will, _)) = s.delayed_will.take() {
            self.fire_will(&will, wakes);
        }
        let s = self.sessions.get_mut(session as usize)?;
        let own = s.queue;
        let subscriptions = std::mem::take(&mut s.subscriptions);
        let (kept, client_id) = (s.kept, s.client_id.clone());
        for outgoing in s.in_flight.drain() {
            let Outgoing {
                queue,
                mut entry,
                qos,
                released,
                ..
            } = outgoing;
            if Some(queue) == own {
                // It goes with the queue.
                self.memory.drop_body(&entry.body);
            } else if qos == 2 || released {
                // MQTT 5 4.8.2 [MQTT-4.8.2-5]: not to another member of the group.
                self.settle_entry(queue, entry, true, wakes);
            } else {
                entry.flags.set(EntryFlags::REDELIVERED);
                self.put_back(queue, entry);
            }
        }
        for (filter, share) in subscriptions.into_keys() {
            if kept {
                let key = super::recovery::subscription_key(&client_id, &filter, share.as_ref());
                self.staging.record(Record::Key { key, value: None });
            }
            self.drop_subscription(session, &filter, share.as_ref(), wakes);
        }
        if let Some(queue) = own {
            self.delete_queue(queue, wakes);
        }
        self.session_ids.remove(&client_id);
        self.sessions.remove(session as usize);
        if !kept {
            return None;
        }
        self.staging.record(Record::Key {
            key: super::recovery::session_key(&client_id),
            value: None,
        });
        Some(self.staging.wait())
    }

    pub(crate) fn expire_retained(&mut self) {
        let wall = self.now.wall;
        self.retained.expire(wall, 256);
        for message in self.retained.take_expired() {
            let key = super::recovery::retained_key(&crate::retained::Retained::key_of(&message));
            self.staging.record(Record::Key { key, value: None });
        }
        if let Some(next) = self.retained.next_expiry() {
            self.timers.set(
                self.now.monotonic + (next - wall).max(Duration::from_millis(1)),
                Timer::Retained,
            );
        }
    }
}

/// The name of a `$share` group's queue.
pub(crate) fn shared_queue_name(share: &str, filter: &str) -> Name {
    format!("mqtt-share-{share}-{filter}").into()
}
