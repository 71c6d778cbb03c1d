//! MQTT subscriptions at the engine: binding, `$share` groups, replay of retained messages, and removal.

use super::budget::{Budget, Unfinished};
use super::queues::router_slot;
use super::replays::Replay;
use super::unfinished::Answered;
use super::{Engine, Limit};
use crate::binding::{Destination, Grant};
use crate::catalog;
use crate::command::{RetainHandling, Subscribe, Subscription, Unsubscribe};
use crate::durable_session::{CHANNEL, Subscribed, shared_queue_name, subscription_bytes};
use crate::event::{Event, Op};
use crate::fault::{Fault, FaultKind};
use crate::ledger::ObjectKind;
use crate::message::Dialect;
use crate::properties::Name;
use crate::properties::Table;
use crate::queue::Queue;
use crate::queue::QueueKind;
use crate::queue::entry::EntryFlags;
use crate::retained::Walked;
use crate::router::memory::binding_bytes_max;
use crate::slots::{Link, QueueKey, SessionKey};
use crate::store::Record;
use crate::topic::{Pattern, count_levels, wildcards};

/// Work units of one filter. A binding, a record and a replay cost several times what a publish does.
pub(crate) const SUBSCRIBE_WORK: usize = 24;
/// The most look-ups of a replay in one go.
const REPLAY_STEPS: usize = 256;
/// Work units of a replay without its look-ups.
const REPLAY_WORK: usize = 8;
/// Entries of short lists that are searched for one work unit.
const LISTED_PER_UNIT: usize = 8;

fn over_limit(text: String) -> Fault {
    Fault::new(FaultKind::QuotaExceeded, text)
}

impl Engine {
    /// The queue of a `$share` group, which is created if it does not exist. It survives a restart if one of its
    /// members does.
    pub(crate) fn shared_queue(&mut self, share: &str, filter: &str, kept: bool) -> Result<QueueKey, Fault> {
        let name = shared_queue_name(share, filter);
        let Some(queue) = self.queue_named(&name) else {
            return Ok(self.add_special_queue(name, QueueKind::Shared, kept));
        };
        let q = &mut self.queues[queue];
        if q.kind != QueueKind::Shared {
            let text = format!("{} is no shared subscription's", self.queue_text(&name));
            return Err(Fault::new(FaultKind::AccessRefused, text));
        }
        if kept && !q.durable {
            q.durable = true;
            let (key, value) = catalog::encode_queue(q, None);
            self.staging.record(Record::Key {
                key,
                value: Some(value),
            });
        }
        Ok(queue)
    }

    /// Continues a SUBSCRIBE where the last hold stopped.
    pub(crate) fn subscribe(&mut self, link: Link, c: &mut Subscribe, budget: &mut Budget) -> Result<(), Unfinished> {
        let Some((session, _)) = self.session_of(link) else {
            let fault = Fault::new(FaultKind::NotAllowed, "no session is open");
            self.fail(link, CHANNEL, Op::Subscribe, fault);
            return Ok(());
        };
        let mut answered = self.take_answered(link);
        while let Some(filter) = c.filters.get_mut(answered.granted.len()) {
            if budget.is_spent() {
                self.keep_answered(link, answered);
                return Err(Unfinished);
            }
            let wanted = std::mem::replace(filter, Err(FaultKind::NotAllowed));
            answered.granted.push(match wanted {
                Err(kind) => Err(kind),
                Ok(sub) => {
                    let permitted = self.permit_subscription(link, session, &sub);
                    if self.awaits_answer(link) {
                        *filter = Ok(sub);
                        self.keep_answered(link, answered);
                        return Err(Unfinished);
                    }
                    self.go_on(link);
                    let qos = sub.qos;
                    let subscribed = permitted.and_then(|()| self.subscribe_one(link, session, sub, c.subscription_id));
                    match subscribed {
                        Ok(logged) => {
                            answered.waits |= logged;
                            Ok(qos)
                        }
                        Err(fault) => Err(fault.kind),
                    }
                }
            });
            // A member of several groups has one consumer for each, in a list.
            let listed = self.sessions[session].consumers.len();
            budget.spend(SUBSCRIBE_WORK + listed / LISTED_PER_UNIT);
        }
        // The records of earlier holds may be in a batch that was handed over already, and the open batch may stay
        // empty, so that it would never be reported. So wait for all that is staged.
        let gate = if answered.waits {
            self.staging.wait_for_all()
        } else {
            None
        };
        let event = Event::Subscribed {
            packet_id: c.packet_id,
            results: answered.granted.into(),
        };
        self.answer(link, CHANNEL, event, gate);
        Ok(())
    }

    fn take_answered(&mut self, link: Link) -> Box<Answered> {
        let kept = self.links.get_mut(link).and_then(|l| l.rare.get_mut()?.answered.take());
        kept.unwrap_or_default()
    }

    fn keep_answered(&mut self, link: Link, answered: Box<Answered>) {
        if let Some(l) = self.links.get_mut(link) {
            l.rare.make().answered = Some(answered);
        }
    }

    /// Refuses a filter or binding key that would make every publish search in too many places.
    pub(crate) fn check_pattern(&mut self, text: &str, dialect: Dialect) -> Result<(), Fault> {
        let (wildcards, max) = (wildcards(text, dialect), self.settings.filter_wildcards_max);
        if wildcards > max {
            self.counters.refused_by(Limit::FilterWildcards);
            return Err(over_limit(format!(
                "filter has {wildcards} wildcards, more than the limit ({max})"
            )));
        }
        let (levels, max) = (count_levels(text, dialect), self.settings.topic_levels_max);
        if levels > max {
            self.counters.refused_by(Limit::TopicLevels);
            return Err(over_limit(format!(
                "filter has {levels} levels, more than the limit ({max})"
            )));
        }
        Ok(())
    }

    /// Returns whether the answer must wait for the log.
    fn subscribe_one(
        &mut self,
        link: Link,
        session: SessionKey,
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
        self.check_pattern(&sub.filter, Dialect::Slash)?;
        let s = &self.sessions[session];
        let kept = s.kept();
        if !s.subscriptions.contains_key(&(sub.filter.clone(), sub.share.clone())) {
            let max = self.settings.session_filters_max;
            if s.subscriptions.len() >= max {
                self.counters.refused_by(Limit::SessionFilters);
                return Err(over_limit(format!(
                    "subscriptions of the session: the limit ({max}) is reached"
                )));
            }
            let own = subscription_bytes(&s.client_id, &sub.filter, sub.share.as_ref());
            let queue = match &sub.share {
                Some(_) => Queue::memory(&sub.filter, &Table::default(), kept),
                None => 0,
            };
            let binding = binding_bytes_max(&sub.filter, &Table::default());
            self.admit(ObjectKind::Routes, own + queue + binding)?;
        }
        let queue = match &sub.share {
            None => self.session_queue(session),
            Some(share) => self.shared_queue(share, &sub.filter, kept)?,
        };
        self.bind_subscription(queue, &exchange, &sub.filter, sub.share.is_some(), options)?;
        let id = (sub.filter.clone(), sub.share.clone());
        let joins_later = self.is_yet_to_join(session, &id);
        let new = self.note_subscription(session, id, options);
        if new && sub.share.is_some() {
            self.queues[queue].members += 1;
        }
        if kept {
            let client_id = &self.sessions[session].client_id;
            let (key, value) = catalog::encode_subscription(
                self.settings.number,
                client_id,
                &sub.filter,
                sub.share.as_ref(),
                options,
                self.queues[queue].id,
            );
            self.staging.record(Record::Key {
                key,
                value: Some(value),
            });
        }
        let granted = match sub.share {
            Some(_) => (sub.qos, subscription_id),
            None => (2, None),
        };
        // Before that, deliveries in flight are sent again first: see `session_open`.
        if self.sessions[session].open && !joins_later {
            self.add_session_consumer(session, queue, granted);
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
            && let Some(cursor) = self.retained.matching(pattern)
            && let Some(l) = self.links.get_mut(link)
        {
            l.replays.get_or_insert_default().add(Replay {
                filter: sub.filter,
                cursor,
                qos: sub.qos,
                subscription_id,
            });
        }
        Ok(kept)
    }

    /// Adds a subscription to its session. Returns whether it is new.
    pub(crate) fn note_subscription(
        &mut self,
        session: SessionKey,
        id: (Name, Option<Name>),
        options: Subscribed,
    ) -> bool {
        let s = &mut self.sessions[session];
        let bytes = subscription_bytes(&s.client_id, &id.0, id.1.as_ref());
        let is_shared = id.1.is_some();
        let new = s.subscriptions.insert(id, options).is_none();
        if new {
            s.shared += u32::from(is_shared);
            s.subscriptions_charge.grow(bytes);
        }
        new
    }

    /// Removes a subscription from its session. Returns whether it existed.
    fn remove_subscription(&mut self, session: SessionKey, id: &(Name, Option<Name>)) -> bool {
        let s = &mut self.sessions[session];
        let known = s.subscriptions.remove(id).is_some();
        if known {
            s.shared -= u32::from(id.1.is_some());
            s.subscriptions_charge
                .shrink(subscription_bytes(&s.client_id, &id.0, id.1.as_ref()));
        }
        known
    }

    /// Creates the binding of a subscription. The members of a group share one queue; each caps the QoS itself, and has
    /// its own subscription identifier.
    pub(crate) fn bind_subscription(
        &mut self,
        queue: QueueKey,
        exchange: &str,
        filter: &str,
        shared: bool,
        options: Subscribed,
    ) -> Result<(), Fault> {
        let q = &self.queues[queue];
        let destination = Destination::Queue {
            slot: router_slot(queue),
            name: q.name.clone(),
            durable: q.durable,
        };
        let grant = Grant {
            qos: if shared { 2 } else { options.qos },
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            subscription_id: options.subscription_id.filter(|_| !shared),
        };
        self.router.subscribe(exchange, destination, filter, grant).map(|_| ())
    }

    /// Puts some of the retained messages that a subscription asked for into its session's queue. Returns whether there
    /// were any.
    pub(crate) fn replay_retained(&mut self, link: Link, budget: &mut Budget) -> bool {
        let wall = self.now.wall;
        let Some(l) = self.links.get_mut(link) else {
            return false;
        };
        let Some(session) = l.session else { return false };
        // If the client has no credit, the replay waits; the next settle continues it.
        let s = &self.sessions[session];
        let waiting = s.queue.and_then(|q| self.queues.get(q));
        if !s.open || waiting.is_some_and(|q| q.depth() >= REPLAY_STEPS) {
            return false;
        }
        let Some(replays) = l.replays.as_mut().filter(|replays| !replays.waits) else {
            return false;
        };
        let Some(replay) = replays.first() else { return false };
        let mut found = Vec::new();
        let most = REPLAY_STEPS.min(budget.left());
        let mut steps = most;
        let walked = self
            .retained
            .next_batch(&mut replay.cursor, wall, &mut steps, &mut found);
        let (qos, subscription_id) = (replay.qos, replay.subscription_id);
        match walked {
            Walked::More => {}
            Walked::End => {
                if replays.finish() {
                    l.replays = None;
                }
            }
            Walked::Absent => {
                let cursor = replay.cursor.clone();
                replays.waits = true;
                self.load_retained(link, &cursor);
            }
        }
        budget.spend(REPLAY_WORK + most - steps);
        if found.is_empty() {
            // A replay that waits for a read is continued by that.
            return walked != Walked::Absent;
        }
        let queue = self.session_queue(session);
        for message in found {
            let Some(q) = self.queues.get_mut(queue) else {
                break;
            };
            let mut flags = EntryFlags::new(message.envelope().qos.min(qos));
            flags.set(EntryFlags::RETAIN);
            self.memory.pin(&message);
            q.push_copy(message.clone(), flags, subscription_id.map(|id| [id].into()));
            self.trace_replayed(queue, &message);
        }
        self.dispatch(queue);
        true
    }

    /// Continues an UNSUBSCRIBE where the last hold stopped.
    pub(crate) fn unsubscribe(&mut self, link: Link, c: &Unsubscribe, budget: &mut Budget) -> Result<(), Unfinished> {
        let Some((session, _)) = self.session_of(link) else {
            return Ok(());
        };
        let mut answered = self.take_answered(link);
        while let Some(id) = c.filters.get(answered.existed.len()) {
            if budget.is_spent() {
                self.keep_answered(link, answered);
                return Err(Unfinished);
            }
            let known = self.remove_subscription(session, id);
            answered.existed.push(known);
            budget.spend(1);
            if known {
                let (filter, share) = id;
                answered.waits |= self.forget_subscription(session, filter, share.as_ref());
                self.drop_subscription(session, filter, share.as_ref(), budget);
                if let Some(l) = self.links.get_mut(link)
                    && share.is_none()
                    && let Some(replays) = &mut l.replays
                {
                    replays.cancel(filter);
                }
            }
        }
        // The records of earlier holds may be in a batch that was handed over already, and the open batch may stay
        // empty, so that it would never be reported. So wait for all that is staged.
        let gate = if answered.waits {
            self.staging.wait_for_all()
        } else {
            None
        };
        let event = Event::Unsubscribed {
            packet_id: c.packet_id,
            existed: answered.existed.into(),
        };
        self.answer(link, CHANNEL, event, gate);
        Ok(())
    }

    /// Logs that a subscription is removed, if the log has it.
    pub(crate) fn forget_subscription(&mut self, session: SessionKey, filter: &Name, share: Option<&Name>) -> bool {
        let s = &self.sessions[session];
        if s.kept() {
            let key = catalog::subscription_key(self.settings.number, &s.client_id, filter, share);
            self.staging.record(Record::Key { key, value: None });
        }
        s.kept()
    }

    /// Removes the binding of a subscription. A group's queue is deleted with its last member.
    pub(crate) fn drop_subscription(
        &mut self,
        session: SessionKey,
        filter: &Name,
        share: Option<&Name>,
        budget: &mut Budget,
    ) {
        let exchange = self.settings.topic_exchange.clone();
        budget.spend(SUBSCRIBE_WORK);
        let Some(share) = share else {
            if let Some(queue) = self.sessions[session].queue {
                self.router.unsubscribe(&exchange, router_slot(queue), filter);
            }
            return;
        };
        budget.spend(self.sessions[session].consumers.len() / LISTED_PER_UNIT);
        let Some(queue) = self.queue_named(&shared_queue_name(share, filter)) else {
            return;
        };
        let key = self.sessions[session]
            .consumers
            .iter()
            .copied()
            .find(|k| self.consumers.get(*k).is_some_and(|c| c.queue == queue));
        if let Some(key) = key {
            self.sessions[session].consumers.retain(|k| *k != key);
            self.remove_consumer(key);
        }
        let q = &mut self.queues[queue];
        q.members = q.members.saturating_sub(1);
        if q.members == 0 {
            self.delete_queue(queue);
        }
    }
}
