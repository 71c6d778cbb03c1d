//! MQTT sessions at the engine: open, subscribe, deliver with packet ids, leave, end. Two connections that want one
//! session: `takeover.rs`.
//!
//! ```text
//!             OpenSession                     SessionOpened is taken
//!   (none) ───────────────► opening ──────────────────────────────► connected
//!     ▲                        (waits for the log if kept)           │      ▲
//!     │ expiry, clean start                              Detach,     │      │ OpenSession
//!     └───────────────────────────── away ◄──────────────takeover────┘──────┘ (resends first)
//! ```

use super::Engine;
use super::budget::{Budget, Unfinished};
use super::internal::Source;
use super::link::will_bytes;
use super::log_waits::Waiter;
use super::timers::Timer;
use super::traced::Origin;
use super::traces::Ofs;
use crate::catalog;
use crate::command::{OpenSession, Will};
use crate::durable_session::{CHANNEL, DurableSession, Logged, queue_name};
use crate::event::{Event, Op};
use crate::in_flight::Outgoing;
use crate::ledger::{Charge, ObjectKind};
use crate::properties::Name;
use crate::properties::Table;
use crate::queue::consumers::Consumer;
use crate::queue::credit::Credit;
use crate::queue::entry::EntryFlags;
use crate::queue::{Queue, QueueKind};
use crate::seldom::Seldom;
use crate::slots::{Link, QueueKey, SessionKey};
use crate::store::Record;
use std::time::Duration;

impl Engine {
    /// Whether a session has expired, perhaps a moment before its timer fires.
    // MQTT 5 4.1 [MQTT-4.1.0-2]
    pub(crate) fn is_over(&self, session: SessionKey) -> bool {
        let s = &self.sessions[session];
        s.ending || (s.link.is_none() && s.expires_at.is_some_and(|at| at <= self.now.wall))
    }

    /// Opens a session. `gate`: the batch that the end of its predecessor waits for.
    pub(crate) fn open_session(&mut self, link: Link, c: OpenSession, mut gate: Option<u64>) {
        // The stored expiry is at most what the node allows.
        let expiry = match (c.expiry, self.settings.session_expiry_max) {
            (Some(e), Some(max)) => Some(e.min(max)),
            (None, max) => max,
            (e, None) => e,
        };
        let owner = self
            .links
            .get(link)
            .map_or_else(Name::default, |l| l.access.user.clone());
        let will_granted = self.links.get(link).is_some_and(|l| l.access.is_asked());
        let present = self.sessions.named(&c.client_id).is_some();
        let kept = expiry != Some(0);
        if !present {
            let will = c.will.as_ref().map_or(0, will_bytes);
            let queue = if kept {
                Queue::memory(&c.client_id, &Table::default(), true)
            } else {
                0
            };
            let bytes = DurableSession::memory(&c.client_id) + will + queue;
            // A session that ends with its connection is not counted separately.
            let kind = if kept {
                ObjectKind::Sessions
            } else {
                ObjectKind::Connections
            };
            if let Err(fault) = self.admit(kind, bytes) {
                return self.fail(link, CHANNEL, Op::OpenSession, fault);
            }
        }
        let session = match self.sessions.named(&c.client_id) {
            Some(session) => session,
            None => {
                let session = DurableSession::new(c.client_id.clone(), expiry, kept, &self.ledger);
                self.sessions.insert(session)
            }
        };
        self.cancel_session_timers(session);
        // A power cut ends the connection as well. Without a record, a retained "online" would be wrong for ever.
        let logs_will = match &c.will {
            Some(will) if will.outlives_restart() && !self.is_full() => Logged::Will,
            _ => Logged::Nothing,
        };
        let s = &mut self.sessions[session];
        s.link = Some(link);
        s.owner = owner;
        s.will_granted = will_granted;
        s.expiry = expiry;
        s.expires_at = None;
        s.credit.resize(u32::from(c.receive_maximum.max(1)));
        if let Some(wills) = s.wills.get_mut() {
            wills.delayed = None;
            wills.charge = Charge::default();
        }
        s.logged = s.logged.max(if kept { Logged::Whole } else { logs_will });
        if let Some(l) = self.links.get_mut(link) {
            l.session = Some(session);
            l.set_will(c.will);
        }
        if self.sessions[session].kept() {
            self.session_queue(session);
            gate = Some(self.log_session(session));
        } else if self.sessions[session].logged == Logged::Will {
            // If this record is lost, so is the will, so the client need not wait for it. But one that comes and goes faster
            // than the log writes has to: what waits for the log must not grow without end.
            self.stage_session(session);
            if self.staging.backlog_bytes() > self.settings.log_backlog_bytes_max {
                gate = Some(self.staging.wait());
            }
        }
        self.answer(link, CHANNEL, Event::SessionOpened { present }, gate);
        match gate {
            Some(ticket) => self.waits.for_durable(ticket, Waiter::Session(session, link)),
            None => self.session_open(session, link),
        }
    }

    /// The log has the opened session. Deliveries that its client had not completed are sent again in their former
    /// order; new messages follow.
    // MQTT 5 4.4 [MQTT-4.4.0-1], 4.6 [MQTT-4.6.0-1]
    pub(crate) fn session_open(&mut self, session: SessionKey, link: Link) {
        if self.links.get(link).is_none_or(|l| l.taken_over) {
            return;
        }
        let Some(s) = self.sessions.get_mut(session).filter(|s| s.link == Some(link)) else {
            return;
        };
        s.open = true;
        s.credit.clear();
        for outgoing in s.in_flight.iter_mut() {
            outgoing.counted = false;
        }
        s.resends = Seldom::default();
        if !s.in_flight.is_empty() {
            *s.resends.make() = s.in_flight.ids().into();
        }
        self.resend_more(session);
        if let Some(l) = self.links.get_mut(link) {
            l.wake(&mut self.wakes);
        }
        let s = &self.sessions[session];
        debug_assert!(s.consumers.is_empty(), "they went with the connection before");
        let is_member = s.shared > 0;
        if let Some(queue) = s.queue {
            self.push_session_consumer(session, queue, (2, None));
        }
        if is_member {
            self.join_groups(session);
        }
        self.dispatch_touched();
    }

    /// Makes the connected session consume a queue, once: its own, or a group's, with the identifier of that
    /// subscription.
    pub(crate) fn add_session_consumer(
        &mut self,
        session: SessionKey,
        queue: QueueKey,
        (qos, subscription_id): (u8, Option<u32>),
    ) {
        let s = &self.sessions[session];
        let existing = s
            .consumers
            .iter()
            .find(|k| self.consumers.get(**k).is_some_and(|c| c.queue == queue))
            .copied();
        let subscription_ids = subscription_id.map(|id| [id].into());
        if let Some(key) = existing {
            if let Some(c) = self.consumers.get_mut(key)
                && c.session == Some((session, qos))
            {
                c.subscription_ids = subscription_ids;
                return;
            }
            // Reservations were counted with the former QoS, so they are returned.
            self.sessions[session].consumers.retain(|k| *k != key);
            self.remove_consumer(key);
        }
        self.push_session_consumer(session, queue, (qos, subscription_id));
    }

    pub(super) fn push_session_consumer(
        &mut self,
        session: SessionKey,
        queue: QueueKey,
        (qos, subscription_id): (u8, Option<u32>),
    ) {
        let Some(link) = self.sessions[session].link else {
            return;
        };
        let subscription_ids = subscription_id.map(|id| [id].into());
        let consumer = Consumer {
            link,
            channel: CHANNEL,
            token: 0,
            queue,
            no_ack: false,
            exclusive: false,
            credit: Credit::UNLIMITED,
            starved: false,
            throttled: false,
            flowed: 0,
            session: Some((session, qos)),
            subscription_ids,
            described: None,
        };
        let key = self.add_consumer(consumer, 0);
        self.sessions[session].consumers.push(key);
    }

    /// The session's own queue, which is created if it does not exist.
    pub(crate) fn session_queue(&mut self, session: SessionKey) -> QueueKey {
        let s = &self.sessions[session];
        if let Some(queue) = s.queue {
            return queue;
        }
        let (client_id, kept) = (s.client_id.clone(), s.kept());
        let mut name = queue_name(&client_id);
        if self.router.queue(&name).is_some() {
            // A client declared a queue with that name, and keeps it.
            name = format!("{name}~{}", self.queues.next_number()).into();
        }
        let queue = self.add_special_queue(name, QueueKind::Session(session), kept);
        self.sessions[session].queue = Some(queue);
        queue
    }

    pub(crate) fn add_special_queue(&mut self, name: Name, kind: QueueKind, durable: bool) -> QueueKey {
        let q = Queue::new(self.queues.new_number(), name, kind, durable, self.now.monotonic);
        let queue = self.add_queue(q);
        self.count_new_queue();
        if durable {
            let client_id = match kind {
                QueueKind::Session(session) => Some(&self.sessions[session].client_id),
                QueueKind::Plain | QueueKind::Shared => None,
            };
            let (key, value) = catalog::encode_queue(&self.queues[queue], client_id);
            self.staging.record(Record::Key {
                key,
                value: Some(value),
            });
        }
        queue
    }

    /// Stages the session's record. Returns the batch to wait for.
    fn log_session(&mut self, session: SessionKey) -> u64 {
        self.stage_session(session);
        self.staging.wait()
    }

    pub(crate) fn stage_session(&mut self, session: SessionKey) {
        let now = self.now;
        let s = &self.sessions[session];
        let away = s
            .delayed_will()
            .map(|(w, due)| (&**w, Some(now.wall + (*due - now.monotonic))));
        // Until its publish is logged, the record keeps the will as due.
        let firing = s.firing_will().map(|w| (w, Some(now.wall)));
        let connected = s
            .link
            .and_then(|l| self.links.get(l))
            .and_then(|l| l.will.as_deref())
            .map(|w| (w, None));
        let queue = s.queue.and_then(|queue| self.queues.get(queue)).map(|q| q.id);
        let (key, value) = catalog::encode_session(self.settings.number, s, queue, firing.or(away).or(connected));
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
            if s.kept() {
                self.log_session(session);
            }
        }
    }

    /// Separates the link from its session, because the connection ended. The link keeps it until that is done.
    pub(crate) fn leave_session(&mut self, link: Link, budget: &mut Budget) -> Result<(), Unfinished> {
        let Some(l) = self.links.get_mut(link) else {
            return Ok(());
        };
        l.replays = None;
        let Some(session) = l.session else { return Ok(()) };
        if self.sessions.get(session).is_none_or(|s| s.link != Some(link)) {
            l.session = None;
            return Ok(());
        }
        self.stop_session(session, budget)?;
        if self.has_many_internal() && self.links.get(link).is_some_and(|l| l.will.is_some()) {
            // Another will would be added to those that wait. Each hold publishes some.
            return Err(Unfinished);
        }
        let client_id = self.sessions[session].client_id.clone();
        if self.sessions[session].ending {
            self.end_session(session, budget)?;
            self.call_successor(&client_id);
            return Ok(());
        }
        let goes_on = self.goes_on_elsewhere(link, session);
        let Some(l) = self.links.get_mut(link) else {
            return Ok(());
        };
        // MQTT 5 3.1.3.2.2 [MQTT-3.1.3-9]: no will is published if the client reconnects before the delay is over. But
        // a session that ends with its connection (clean start, or an expiry of 0) ends here, and publishes the will.
        let will = l.will.take().filter(|will| !goes_on || will.delay.is_zero());
        let s = &mut self.sessions[session];
        let (expiry, kept) = (s.expiry, s.kept());
        let ends_now = expiry == Some(0);
        match will {
            Some(will) if ends_now || will.delay.is_zero() => self.fire_will(session, will),
            Some(will) => {
                // At the end of the delay or of the session, whichever comes first.
                let delay = expiry.map_or(will.delay, |e| will.delay.min(Duration::from_secs(u64::from(e))));
                let due = self.now.monotonic + delay;
                self.timers.set(due, Timer::Will(session));
                let charge = self.ledger.charge(ObjectKind::Sessions, will_bytes(&will));
                self.sessions[session].delay_will(will, due, charge);
            }
            None => {}
        }
        if ends_now {
            self.end_session(session, budget)?;
            self.call_successor(&client_id);
            return Ok(());
        }
        if let Some(l) = self.links.get_mut(link) {
            l.session = None;
        }
        self.sessions[session].link = None;
        if let Some(expiry) = expiry {
            let left = Duration::from_secs(u64::from(expiry));
            self.sessions[session].expires_at = Some(self.now.wall + left);
            self.watch_session_expiry(session);
        }
        if kept {
            // Nobody waits for this record. If it is lost, the session only lives longer.
            self.stage_session(session);
        }
        self.call_successor(&client_id);
        Ok(())
    }

    /// Stops sending anything to the session's connection.
    pub(crate) fn stop_session(&mut self, session: SessionKey, budget: &mut Budget) -> Result<(), Unfinished> {
        let s = &mut self.sessions[session];
        s.open = false;
        s.resends = Seldom::default();
        while let Some(key) = self.sessions[session].consumers.pop() {
            let units = self.remove_consumer(key);
            budget.spend(units);
            budget.check()?;
        }
        Ok(())
    }

    fn fire_will(&mut self, session: SessionKey, will: Box<Will>) {
        if !self.permits_will(session, &will) {
            if let Some(wills) = self.sessions.get_mut(session).and_then(|s| s.wills.get_mut()) {
                wills.charge = Charge::default();
            }
            return;
        }
        let mut envelope = *will.message.envelope();
        if envelope.durable && self.is_full() {
            // Durable publishes are refused now, but nobody could be told. The will is delivered to present subscribers
            // without being logged, so a restart loses it; it is not retained.
            envelope.durable = false;
            self.counters.wills_not_logged += 1;
        }
        envelope.received = self.now.wall;
        envelope.deadline = will.expiry.map(|e| self.now.wall + e);
        let m = &will.message;
        let message = m.readdressed(envelope, m.exchange(), m.key(), m.properties_raw());
        let logged = self.sessions.get_mut(session).filter(|s| s.logged > Logged::Nothing);
        let source = match logged {
            Some(s) => {
                s.wills.make().firing = Some(will);
                Source::Will(session)
            }
            None => Source::Nothing,
        };
        if self.flow.is_tracing()
            && let Some(s) = self.sessions.get(session)
        {
            let origin = Origin::Will(s.client_id.clone());
            self.traces.send_on(&message, Ofs::new(), origin);
        }
        self.publish_internally(message, Vec::new(), source);
        while self.publish_next_internal() {}
    }

    /// Whether the session's will has been published. Until that is logged, the session's record keeps the will.
    pub(super) fn check_will(&self, session: SessionKey) -> Result<(), Unfinished> {
        let firing = self.sessions.get(session).is_some_and(|s| s.firing_will().is_some());
        if firing { Err(Unfinished) } else { Ok(()) }
    }

    pub(crate) fn fire_delayed_will(&mut self, session: SessionKey) {
        let now = self.now.monotonic;
        let Some(s) = self.sessions.get_mut(session) else {
            return;
        };
        if s.link.is_none()
            && let Some(wills) = s.wills.get_mut()
            && let Some((will, _)) = wills.delayed.take_if(|(_, due)| *due <= now)
        {
            self.fire_will(session, will);
        }
    }

    pub(crate) fn expire_session(&mut self, session: SessionKey, budget: &mut Budget) {
        let wall = self.now.wall;
        let Some(s) = self.sessions.get_mut(session) else {
            return;
        };
        s.expiry_timer = None;
        let Some(due) = s.expires_at.filter(|_| s.link.is_none()) else {
            return;
        };
        if due <= wall {
            self.note_end(session, due);
            if self.end_session(session, budget).is_ok() {
                self.counters.sessions_expired += 1;
            } else {
                // Soon, but not in this hold.
                let at = self.now.monotonic;
                self.sessions[session].expiry_timer = Some(at);
                self.timers.set(at, Timer::SessionExpiry(session));
            }
        } else {
            // The wall clock had stopped for a while.
            self.watch_session_expiry(session);
        }
    }

    /// Sets the timer for the session's expiry.
    pub(crate) fn watch_session_expiry(&mut self, session: SessionKey) {
        let now = self.now;
        let s = &mut self.sessions[session];
        let Some(due) = s.expires_at else { return };
        let at = now.monotonic + (due - now.wall).max(Duration::from_millis(1));
        if let Some(before) = s.expiry_timer.replace(at) {
            self.timers.cancel(before, Timer::SessionExpiry(session));
        }
        self.timers.set(at, Timer::SessionExpiry(session));
    }

    fn cancel_session_timers(&mut self, session: SessionKey) {
        let s = &mut self.sessions[session];
        if let Some(at) = s.expiry_timer.take() {
            self.timers.cancel(at, Timer::SessionExpiry(session));
        }
        if let Some((_, at)) = s.delayed_will() {
            self.timers.cancel(*at, Timer::Will(session));
        }
    }

    /// Continues the end of a session: its subscriptions, its waiting messages, its record. Until that is done the
    /// session exists, and belongs to the command that ends it. Returns the batch to wait for.
    pub(crate) fn end_session(&mut self, session: SessionKey, budget: &mut Budget) -> Result<Option<u64>, Unfinished> {
        self.cancel_session_timers(session);
        let Some(s) = self.sessions.get_mut(session) else {
            return Ok(None);
        };
        s.ending = true;
        if let Some((will, _)) = s.wills.get_mut().and_then(|wills| wills.delayed.take()) {
            self.fire_will(session, will);
        }
        self.drop_in_flight(session, budget)?;
        loop {
            let s = &mut self.sessions[session];
            if s.subscriptions.is_empty() {
                break;
            }
            budget.check()?;
            if let Some(((filter, share), _)) = s.subscriptions.pop_first() {
                s.shared -= u32::from(share.is_some());
                self.forget_subscription(session, &filter, share.as_ref());
                self.drop_subscription(session, &filter, share.as_ref(), budget);
            }
        }
        self.check_will(session)?;
        self.traces.released(self.now, session, None, None);
        let s = &self.sessions[session];
        let (own, logged, client_id, link) = (s.queue, s.logged, s.client_id.clone(), s.link);
        if let Some(l) = link.and_then(|link| self.links.get_mut(link)) {
            l.session = None;
        }
        if let Some(queue) = own {
            self.delete_queue(queue);
        }
        self.sessions.remove(session);
        if logged > Logged::Nothing {
            self.staging.record(Record::Key {
                key: catalog::session_key(self.settings.number, &client_id),
                value: None,
            });
        }
        // If the record was only there for the will, nobody waits until it is gone.
        Ok((logged == Logged::Whole).then(|| self.staging.wait()))
    }

    /// Drops deliveries that a session which ends has not completed.
    fn drop_in_flight(&mut self, session: SessionKey, budget: &mut Budget) -> Result<(), Unfinished> {
        loop {
            let s = &mut self.sessions[session];
            let own = s.queue;
            if s.in_flight.is_empty() {
                return Ok(());
            }
            budget.check()?;
            budget.spend(1);
            let Some(outgoing) = s.in_flight.pop() else {
                return Ok(());
            };
            s.account_ids();
            if outgoing.counted && s.credit.used() > 0 {
                s.credit.release();
            }
            let Outgoing {
                queue,
                mut entry,
                qos,
                released,
                ..
            } = outgoing;
            if self.is_any_followed() {
                self.trace_session_end(queue, entry.seq, qos == 2 || released);
            }
            if Some(queue) == own {
                // It is dropped with the queue.
                if let Some(q) = self.queues.get_mut(queue) {
                    q.settled(&entry.body);
                }
                self.memory.drop_body(&entry.body);
            } else if qos == 2 || released {
                // MQTT 5 4.8.2 [MQTT-4.8.2-5]: it must not go to another member of the group.
                self.settle_entry(queue, entry, true);
            } else {
                entry.flags.set(EntryFlags::REDELIVERED);
                self.put_back(queue, entry);
            }
        }
    }
}
