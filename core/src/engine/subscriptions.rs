//! MQTT subscriptions at the engine: bind, group, replay what is retained, and take it all back.

use super::sessions::CHANNEL;
use super::{Engine, Link, Wakes, link_at};
use crate::binding::{Destination, Grant, QueueSlot};
use crate::command::{RetainHandling, Subscribe, Subscription, Unsubscribe};
use crate::durable_session::Subscribed;
use crate::event::{Event, Op};
use crate::fault::{Fault, FaultKind};
use crate::message::Dialect;
use crate::properties::Name;
use crate::queue::QueueKind;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::queue::unsettled::QueueRef;
use crate::retained::Cursor;
use crate::store::Record;
use crate::topic::Pattern;
use std::time::Duration;

/// Retained messages still to be sent for a new subscription.
pub(crate) struct Replay {
    cursor: Cursor,
    qos: u8,
    subscription_id: Option<u32>,
}

/// Work units of one filter: a binding, a record and a replay cost several times what a publish does.
const SUBSCRIBE_WORK: usize = 8;
/// Look-ups of a replay in one turn.
const REPLAY_STEPS: usize = 256;

impl Engine {
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

    pub(crate) fn subscribe(&mut self, link: Link, c: Subscribe, wakes: &mut Wakes) -> usize {
        let Some((session, _)) = self.session_of(link) else {
            let fault = Fault::new(FaultKind::NotAllowed, "no session is open");
            self.fail(link, CHANNEL, Op::Subscribe, fault);
            return 1;
        };
        let work = c.filters.len() * SUBSCRIBE_WORK;
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
    pub(crate) fn drop_subscription(&mut self, session: u32, filter: &Name, share: Option<&Name>, wakes: &mut Wakes) {
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
