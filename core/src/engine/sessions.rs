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
/// Deliveries to be sent again that are fetched from disk at once, and bytes of body after which no more are.
const RESENDS_AT_ONCE: usize = 256;
const RESEND_BYTES: usize = 256 << 10;

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
                    expiry_timer: None,
                    open: false,
                }) as u32;
                self.session_ids.insert(c.client_id.clone(), session);
                session
            }
        };
        self.cancel_session_timers(session);
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
        self.answer(link, CHANNEL, Event::SessionOpened { present }, gate);
        match gate {
            Some(ticket) => self.opening.push((ticket, session, link)),
            None => self.session_open(session, link, wakes),
        }
    }

    /// The log has what the open session promises: what its client did not finish with is sent again, in the order it
    /// was sent; then new messages follow.
    // MQTT 5 4.4 [MQTT-4.4.0-1], 4.6 [MQTT-4.6.0-1]
    pub(crate) fn session_open(&mut self, session: u32, link: Link, wakes: &mut Wakes) {
        let Some(s) = self.sessions.get_mut(session as usize).filter(|s| s.link == Some(link)) else {
            return;
        };
        s.open = true;
        s.used = 0;
        for outgoing in s.in_flight.iter_mut() {
            // MQTT 5 4.9: a PUBREL from before does not count.
            outgoing.counted = !outgoing.released;
            s.used += u32::from(outgoing.counted);
        }
        if let Some(l) = link_at(&mut self.links, link) {
            l.outbox.extend(s.in_flight.ids().into_iter().map(Out::Resend));
            l.wake(wakes);
        }
        self.add_session_consumers(session, wakes);
        self.dispatch_touched(wakes);
    }

    /// Bytes of the body that is sent again under that packet id; 0 for a PUBREL, or if there is nothing to send. `None`
    /// if it is on its way from disk.
    pub(crate) fn resend_size(&mut self, link: Link, packet_id: u16) -> Option<usize> {
        let Some((session, s)) = self.session_of(link) else {
            return Some(0);
        };
        let Some(o) = s.in_flight.find_mut(packet_id).filter(|o| !o.released) else {
            return Some(0);
        };
        match &o.entry.body {
            Body::Memory(message) => Some(message.body().len()),
            Body::Disk { .. } => {
                self.load_resends(link, session);
                None
            }
        }
    }

    /// Asks for the next bodies that the link waits for.
    fn load_resends(&mut self, link: Link, session: u32) {
        let Engine {
            links,
            sessions,
            memory,
            ..
        } = self;
        let Some(l) = link_at(links, link).filter(|l| !l.resend_loading) else {
            return;
        };
        l.resend_loading = true;
        let s = &mut sessions[session as usize];
        let mut bytes = 0;
        for out in l.outbox.iter().take(RESENDS_AT_ONCE) {
            let Out::Resend(packet_id) = *out else { continue };
            if let Some(o) = s.in_flight.find_mut(packet_id).filter(|o| !o.released)
                && let Body::Disk { at, body_len } = o.entry.body
                && bytes < RESEND_BYTES
            {
                bytes += body_len as usize;
                let (queue, seq) = (o.queue.id, o.entry.seq);
                memory.resends.insert((queue, seq), (session, packet_id));
                memory.reads.push(Read { queue, seq, at });
            }
        }
    }

    /// A body that is to be sent again has come, or is damaged.
    pub(crate) fn resend_loaded(
        &mut self,
        (session, packet_id): (u32, u16),
        queue: QueueRef,
        loaded: Loaded,
        wakes: &mut Wakes,
    ) {
        let Engine {
            links,
            sessions,
            memory,
            ..
        } = self;
        let Some(s) = sessions.get_mut(session as usize) else {
            return;
        };
        if let Some(l) = s.link.and_then(|link| link_at(links, link)) {
            l.resend_loading = false;
            l.wake(wakes);
        }
        let Some(o) = s
            .in_flight
            .find_mut(packet_id)
            .filter(|o| o.queue == queue && o.entry.seq == loaded.seq)
        else {
            return;
        };
        let Body::Disk { at, .. } = o.entry.body else { return };
        match loaded.message {
            Some(message) => {
                message.log_state().written(at);
                if message.log_state().hold() {
                    memory.add(&message);
                }
                o.entry.body = Body::Memory(message);
                self.counters.bodies_loaded += 1;
            }
            None => {
                tracing::warn!(client = %s.client_id, packet_id, "a message's record is damaged: not sent again");
                self.counters.damaged += 1;
                self.free_packet(session, packet_id, wakes);
            }
        }
    }

    /// Sends again what is in flight under that packet id: the message, marked as such, or its PUBREL.
    pub(crate) fn resend(&mut self, link: Link, packet_id: u16, events: &mut Vec<Event>) {
        if let Some(l) = link_at(&mut self.links, link) {
            l.outbox.pop_front();
        }
        let Engine { links, sessions, .. } = self;
        let session = link_at(links, link).and_then(|l| l.session);
        let Some(s) = session.and_then(|s| sessions.get_mut(s as usize)) else {
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
            extra: super::consuming::delivery_extra(&o.entry),
        }));
        self.memory.shed(&mut o.entry);
        self.counters.redelivered += 1;
    }

    fn add_session_consumers(&mut self, session: u32, wakes: &mut Wakes) {
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
            self.add_session_consumer(session, queue, qos, wakes);
        }
    }

    /// Has the connected session consume a queue, once.
    fn add_session_consumer(&mut self, session: u32, queue: QueueRef, qos: u8, wakes: &mut Wakes) {
        let s = &self.sessions[session as usize];
        let Some(link) = s.link else { return };
        let existing = s
            .consumers
            .iter()
            .find(|k| self.consumer(**k).is_some_and(|c| c.queue == queue))
            .copied();
        if let Some(key) = existing {
            if self.consumer(key).is_some_and(|c| c.session == Some((session, qos))) {
                return;
            }
            // What is reserved to it was counted as of its old QoS: it goes back.
            self.sessions[session as usize].consumers.retain(|k| *k != key);
            self.remove_consumer(key, wakes);
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

    /// The queue of a `$share` group, made if need be. It survives a restart if one of its members does.
    pub(crate) fn shared_queue(&mut self, share: &str, filter: &str, kept: bool) -> Result<QueueRef, Fault> {
        let name = shared_queue_name(share, filter);
        let Some(slot) = self.router.queue(&name) else {
            return Ok(self.add_special_queue(name, QueueKind::Shared, kept));
        };
        let q = &mut self.queues[slot.0 as usize];
        if q.kind != QueueKind::Shared {
            let text = format!("{} is no shared subscription's", self.queue_text(&name));
            return Err(Fault::new(FaultKind::AccessRefused, text));
        }
        if kept && !q.durable {
            q.durable = true;
            let (key, value) = super::recovery::encode_queue(q);
            self.staging.record(Record::Key {
                key,
                value: Some(value),
            });
        }
        let id = self.queues[slot.0 as usize].id;
        Ok(QueueRef { slot: slot.0, id })
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

    pub(crate) fn stage_session(&mut self, session: u32) {
        let now = self.now;
        let s = &self.sessions[session as usize];
        let away = s
            .delayed_will
            .as_ref()
            .map(|(w, due)| (&**w, Some(now.wall + (*due - now.monotonic))));
        let connected = s
            .link
            .and_then(|l| self.link(l))
            .and_then(|l| l.will.as_deref())
            .map(|w| (w, None));
        let (key, value) = super::recovery::encode_session(s, away.or(connected));
        self.staging.record(Record::Key {
            key,
            value: Some(value),
        });
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

    pub(crate) fn subscribe(&mut self, link: Link, c: Subscribe, wakes: &mut Wakes) -> usize {
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
                    match self.subscribe_one(link, session, sub, c.subscription_id, wakes) {
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
        wakes: &mut Wakes,
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
            Some(share) => self.shared_queue(share, &sub.filter, kept)?,
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
        // Before that, what is in flight is to be sent again first: see `session_open`.
        if self.sessions[session as usize].open {
            self.add_session_consumer(session, queue, granted, wakes);
        }
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
        // What its client has no credit for waits where it is; the next settle comes back here.
        let s = &self.sessions[session as usize];
        let waiting = s.queue.and_then(|q| self.queues.get(q.slot as usize));
        if !s.open || waiting.is_some_and(|q| q.ready.len() >= REPLAY_STEPS) {
            return false;
        }
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
                priority: 0,
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
            counted: true,
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
        let Some((session, s)) = self.session_of(link) else {
            return;
        };
        match outcome {
            Outcome::Accept | Outcome::Reject => {
                self.counters.acknowledged += u64::from(s.in_flight.find_mut(packet_id).is_some());
                self.free_packet(session, packet_id, wakes);
            }
            Outcome::Requeue => {
                if let Some(outgoing) = self.take_packet(session, packet_id) {
                    let Outgoing { queue, mut entry, .. } = outgoing;
                    entry.flags.set(EntryFlags::REDELIVERED);
                    self.put_back(queue, entry);
                }
            }
        }
    }

    /// The client is done with a packet id, and so are we with its message.
    fn free_packet(&mut self, session: u32, packet_id: u16, wakes: &mut Wakes) {
        if let Some(Outgoing { queue, entry, .. }) = self.take_packet(session, packet_id) {
            self.settle_entry(queue, entry, true, wakes);
        }
    }

    fn take_packet(&mut self, session: u32, packet_id: u16) -> Option<Outgoing> {
        let outgoing = self.sessions.get_mut(session as usize)?.in_flight.remove(packet_id)?;
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
                let (queue, seq) = (outgoing.queue.id, outgoing.entry.seq);
                if kept && outgoing.entry.flags.has(EntryFlags::LOGGED) {
                    if first {
                        self.staging
                            .record(Record::State(State::PacketIdReleased { queue, seq, packet_id }));
                    }
                    // After PUBREL the client may forget the id: were the message sent again then, it would be new.
                    gate = self.staging.wait_for_all();
                }
                true
            }
            _ => false,
        };
        self.answer(link, CHANNEL, Event::ReleaseDue { packet_id, known }, gate);
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
        l.taken_over = true;
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
        s.open = false;
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
            self.watch_session_expiry(session);
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
        let Some(s) = self.sessions.get_mut(session as usize) else {
            return;
        };
        s.expiry_timer = None;
        let Some(due) = s.expires_at.filter(|_| s.link.is_none()) else {
            return;
        };
        if due <= wall {
            self.end_session(session, wakes);
        } else {
            // The wall clock stood still for a while.
            self.watch_session_expiry(session);
        }
    }

    /// Has the session end when its time is over.
    pub(crate) fn watch_session_expiry(&mut self, session: u32) {
        let now = self.now;
        let s = &mut self.sessions[session as usize];
        let Some(due) = s.expires_at else { return };
        let at = now.monotonic + (due - now.wall).max(Duration::from_millis(1));
        s.expiry_timer = Some(at);
        self.timers.set(at, Timer::SessionExpiry(session));
    }

    fn cancel_session_timers(&mut self, session: u32) {
        let s = &mut self.sessions[session as usize];
        if let Some(at) = s.expiry_timer.take() {
            self.timers.cancel(at, Timer::SessionExpiry(session));
        }
        if let Some((_, at)) = &s.delayed_will {
            self.timers.cancel(*at, Timer::Will(session));
        }
    }

    /// Ends a session: its subscriptions, its backlog, its record. Returns what to wait for.
    fn end_session(&mut self, session: u32, wakes: &mut Wakes) -> Option<u64> {
        self.cancel_session_timers(session);
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
            self.timers
                .set_retained(self.now.monotonic + (next - wall).max(Duration::from_millis(1)));
        }
    }
}

/// The name of a `$share` group's queue. A group's name holds no slash.
pub(crate) fn shared_queue_name(share: &str, filter: &str) -> Name {
    format!("mqtt-share-{share}/{filter}").into()
}
