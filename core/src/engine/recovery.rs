//! Restores the vhost at a start from what the log has, and replaces what is damaged.
//!
//! Damage to one record affects nothing else. A queue whose definition is lost is restored as the queue of the session
//! or group that knows its number, else under the name in one of its bindings, or else under a name that says what
//! happened. A session whose record is lost is restored from its queue and its subscriptions. Replaced definitions are
//! logged, so that they stay.

use super::Engine;
use super::link::will_bytes;
use super::queues::router_slot;
use super::timers::Timer;
use crate::binding::Destination;
use crate::catalog::{
    self, BindingRecord, BoundRecord, ExchangeRecord, QueueRecord, SessionRecord, SubscriptionRecord,
};
use crate::command::Will;
use crate::durable_session::{DurableSession, Subscribed, queue_name, shared_queue_name};
use crate::in_flight::Outgoing;
use crate::ledger::ObjectKind;
use crate::properties::{Name, Table};
use crate::queue::arguments::Arguments;
use crate::queue::restore::InFlightBefore;
use crate::queue::{Queue, QueueKind};
use crate::router::ExchangeSpec;
use crate::slots::{QueueKey, SessionKey};
use crate::store::{KeyKind, QueueId, Record, Recovered, RecoveredQueue, VhostId, describe, key, queue_key};
use crate::time::{Now, Wall};
use hashbrown::{HashMap, HashSet};
use std::collections::BTreeMap;
use std::time::Duration;

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// The session or group that owns a queue, as the records of others say.
enum Owner {
    Session(Name),
    Group { share: Name, filter: Name },
}

/// The queues whose numbers sessions and subscriptions have.
fn owners(recovered: &Recovered, vhost: VhostId) -> HashMap<u64, Owner> {
    let mut owners = HashMap::new();
    recovered.each(vhost, KeyKind::Subscription, &mut |k, v| {
        if let Some((client_id, filter, share)) = catalog::parse_subscription(k)
            && let Some(r) = catalog::decode::<SubscriptionRecord>(v)
        {
            let owner = match share {
                Some(share) => Owner::Group { share, filter },
                None => Owner::Session(client_id),
            };
            owners.insert(r.queue, owner);
        }
    });
    recovered.each(vhost, KeyKind::Session, &mut |k, v| {
        if let Some((client_id, r)) = text(k).zip(catalog::decode::<SessionRecord>(v))
            && let Some(queue) = r.queue
        {
            owners.insert(queue, Owner::Session(client_id.into()));
        }
    });
    owners
}

impl Engine {
    /// Takes what the log has of this vhost and leaves other vhosts' data. Call it once, before anything else, and
    /// `drain` after it.
    pub fn recover(&mut self, now: Now, mut recovered: Recovered) {
        self.begin(now);
        self.time.noted = recovered.wall;
        let vhost = self.settings.number;
        let mut recovered = recovered.take(vhost);
        let seen = recovered.queue_max.get(&vhost).copied().unwrap_or_default();
        self.queues.given_up_to(seen);
        self.recover_policies(&recovered);
        self.recover_exchanges(&recovered);
        let mut sessions = HashMap::new();
        let expiring = self.recover_sessions(&recovered, &mut sessions);
        self.recover_queues(&mut recovered, &sessions);
        self.recover_bindings(&recovered);
        self.recover_subscriptions(&recovered);
        self.recover_retained(&recovered);
        self.drop_memberless_groups();
        for session in expiring {
            self.stage_session(session);
        }
        // Queues of which the log has only numbers are transient ones with spilled messages.
        for id in recovered.queues.into_keys() {
            self.staging.record(Record::QueueDelete { queue: id });
        }
        self.queues.forget_touched();
        // Messages also expire in queues without consumers.
        let queues: Vec<_> = self.queues.iter().map(|(queue, _)| queue).collect();
        for queue in queues {
            self.watch_head(queue);
        }
        self.enforce_recovered_limits();
    }

    /// Definitions that were damaged in the log at the start.
    pub fn damaged_definitions(&self) -> u64 {
        self.damaged_definitions
    }

    /// Reports what is damaged, and how it was restored.
    fn report(&mut self, what: &str, outcome: &str) {
        self.damaged_definitions += 1;
        tracing::error!(vhost = %self.settings.vhost, what, outcome, "a definition is damaged");
    }

    pub(super) fn report_key(&mut self, kind: KeyKind, name: &[u8]) {
        let what = describe(&key(self.settings.number, kind, &[name]));
        self.report(&what, "it is not there any more");
    }

    fn recover_exchanges(&mut self, recovered: &Recovered) {
        for (k, v) in catalog::of_kind(recovered, self.settings.number, KeyKind::Exchange) {
            let restored = text(k).zip(catalog::decode::<ExchangeRecord>(v)).and_then(|(name, r)| {
                let spec = ExchangeSpec {
                    name: name.into(),
                    kind: r.kind,
                    durable: true,
                    auto_delete: r.auto_delete,
                    internal: r.internal,
                    arguments: r.arguments,
                };
                self.router.restore_exchange(spec).ok()
            });
            if restored.is_none() {
                self.report_key(KeyKind::Exchange, k);
            }
        }
        self.recover_undefined_exchanges(recovered);
        let mut last = None;
        while let Some(name) = self.router.names_after(last.as_deref(), 1).pop() {
            self.apply_to_exchange(&name);
            last = Some(name);
        }
    }

    /// Restores exchanges that bindings lead from and that have no definition. Their type is derived from their
    /// bindings.
    fn recover_undefined_exchanges(&mut self, recovered: &Recovered) {
        let vhost = self.settings.number;
        let mut kinds: BTreeMap<Name, &str> = BTreeMap::new();
        for (k, _) in catalog::of_kind(recovered, vhost, KeyKind::Binding) {
            let Some(r) = catalog::decode::<BindingRecord>(k) else {
                continue;
            };
            if self.router.exchange(&r.source).is_some()
                || recovered.unsure.contains(&key(vhost, KeyKind::Binding, &[k]))
            {
                continue;
            }
            let is_headers = r.arguments.0.iter().any(|(name, _)| &**name == "x-match");
            let is_topic = r.key.split('.').any(|level| level == "*" || level == "#");
            let kind = kinds.entry(r.source).or_insert("direct");
            *kind = match () {
                () if is_headers => "headers",
                () if is_topic && *kind == "direct" => "topic",
                () => *kind,
            };
        }
        for (name, kind) in kinds {
            let what = describe(&catalog::exchange_key(vhost, &name));
            self.report(&what, &format!("it goes on as a {kind} exchange, with its bindings"));
            let spec = ExchangeSpec {
                name,
                kind: kind.into(),
                durable: true,
                auto_delete: false,
                internal: false,
                arguments: Table::default(),
            };
            let (key, value) = catalog::encode_exchange(vhost, &spec);
            if self.router.restore_exchange(spec).is_ok() {
                let value = Some(value);
                self.staging.record(Record::Key { key, value });
            }
        }
    }

    /// Returns the sessions whose expiry starts now and is to be logged, so that another restart does not start it
    /// again.
    fn recover_sessions(&mut self, recovered: &Recovered, sessions: &mut HashMap<Name, SessionKey>) -> Vec<SessionKey> {
        let mut expiring = Vec::new();
        let vhost = self.settings.number;
        recovered.each(vhost, KeyKind::Session, &mut |k, v| {
            let Some((client_id, r)) = text(k).zip(catalog::decode::<SessionRecord>(v)) else {
                // It may be restored from its queue.
                return self.report_key(KeyKind::Session, k);
            };
            let session = self.recover_session(client_id.into(), &r);
            sessions.insert(client_id.into(), session);
            if r.expires_at.is_none() && r.expiry.is_some() {
                expiring.push(session);
            }
        });
        // Sessions that queues and subscriptions name, and that have no record, are damaged, unless a record says that
        // they ended.
        let is_sure = |kind, name: &[u8]| !recovered.unsure.contains(&key(vhost, kind, &[name]));
        let mut missing: Vec<Name> = Vec::new();
        let mut named = |client_id: Name| {
            let key = catalog::session_key(vhost, &client_id);
            if !sessions.contains_key(&client_id) && !recovered.deleted_sessions.contains(&key) {
                missing.push(client_id);
            }
        };
        let queues = catalog::of_kind(recovered, vhost, KeyKind::Queue)
            .filter(|(k, _)| is_sure(KeyKind::Queue, k))
            .filter_map(|(_, v)| catalog::decode::<QueueRecord>(v));
        queues.filter(|r| r.kind == 1).for_each(|r| named(r.client_id));
        recovered.each(vhost, KeyKind::Subscription, &mut |k, _| {
            if let Some((client_id, ..)) = catalog::parse_subscription(k).filter(|_| is_sure(KeyKind::Subscription, k))
            {
                named(client_id);
            }
        });
        for client_id in missing {
            if sessions.contains_key(&client_id) {
                continue;
            }
            let key = catalog::session_key(vhost, &client_id);
            self.report(
                &describe(&key),
                "it goes on with its queue and subscriptions, without its will",
            );
            let r = SessionRecord {
                queue: None,
                user: Name::default(),
                expiry: self.settings.session_expiry_max,
                expires_at: None,
                will: None,
            };
            let session = self.recover_session(client_id.clone(), &r);
            sessions.insert(client_id, session);
            expiring.push(session);
        }
        expiring
    }

    fn recover_queues(&mut self, recovered: &mut Recovered, sessions: &HashMap<Name, SessionKey>) {
        let vhost = self.settings.number;
        let mut undefined = Vec::new();
        let defined: Vec<(Option<QueueId>, Option<QueueRecord>)> = catalog::of_kind(recovered, vhost, KeyKind::Queue)
            .map(|(k, v)| {
                let number = <[u8; 8]>::try_from(k).ok().map(u64::from_be_bytes);
                let id = number.and_then(|number| QueueId::new(vhost, number));
                (id, catalog::decode(v))
            })
            .collect();
        for (id, r) in defined {
            let Some(id) = id else { continue };
            // The log knows the numbers of queues that have had messages. The number of another queue is in its
            // definition.
            self.queues.given_up_to(id.number());
            match r {
                Some(r) => {
                    let found = recovered.queues.remove(&id).unwrap_or_default();
                    self.recover_queue(id, r, sessions, found);
                }
                None => undefined.push(id),
            }
        }
        let has_messages = |found: &RecoveredQueue| !found.messages.is_empty() || !found.in_flight.is_empty();
        let orphans = recovered
            .queues
            .iter()
            .filter(|(_, found)| has_messages(found) && !found.is_torn);
        undefined.extend(orphans.map(|(id, _)| *id));
        // A queue that bindings name existed, with or without messages.
        let bindings = catalog::of_kind(recovered, vhost, KeyKind::Binding);
        for (k, _) in bindings.filter(|(k, _)| !recovered.unsure.contains(&key(vhost, KeyKind::Binding, &[k]))) {
            let bound = catalog::decode::<BindingRecord>(k).and_then(|r| QueueId::new(vhost, r.queue?));
            undefined.extend(bound.filter(|id| self.queues.numbered(*id).is_none()));
        }
        undefined.sort_unstable();
        undefined.dedup();
        if undefined.is_empty() {
            return;
        }
        let owners = owners(recovered, vhost);
        for id in undefined {
            let found = recovered.queues.remove(&id).unwrap_or_default();
            let r = self.redefine(id, recovered, owners.get(&id.number()), sessions);
            self.recover_undefined(id, r, sessions, found);
        }
    }

    /// What is known of a queue whose definition is lost: its owner, the name in one of its bindings, or only its
    /// number.
    fn redefine(
        &self,
        id: QueueId,
        recovered: &Recovered,
        owner: Option<&Owner>,
        sessions: &HashMap<Name, SessionKey>,
    ) -> QueueRecord {
        let mut r = QueueRecord {
            name: format!("damaged-queue-{}", id.number()).into(),
            auto_delete: false,
            kind: 0,
            queue_type: 0,
            user: Name::default(),
            client_id: Name::default(),
            arguments: Table::default(),
            effective: None,
        };
        let is_free = |name: &Name| self.router.queue(name).is_none();
        match owner {
            // A session has one queue. If it has one already, that stays.
            Some(Owner::Session(client_id)) => {
                let session = sessions.get(client_id).map(|session| &self.sessions[*session]);
                if session.is_some_and(|s| s.queue.is_none()) {
                    r.kind = 1;
                    r.client_id = client_id.clone();
                    let name = queue_name(client_id);
                    r.name = Some(name).filter(is_free).unwrap_or(r.name);
                }
                return r;
            }
            Some(Owner::Group { share, filter }) => {
                let name = shared_queue_name(share, filter);
                if is_free(&name) {
                    return QueueRecord { kind: 2, name, ..r };
                }
            }
            None => {}
        }
        let named = catalog::of_kind(recovered, id.vhost(), KeyKind::Binding).find_map(|(k, v)| {
            let bound = catalog::decode::<BoundRecord>(v)?;
            let r = catalog::decode::<BindingRecord>(k)?;
            (r.queue == Some(id.number()) && !bound.queue.is_empty()).then_some(bound.queue)
        });
        r.name = named.filter(is_free).unwrap_or(r.name);
        r
    }

    /// Restores a queue whose definition is lost, with the definition `r`.
    fn recover_undefined(
        &mut self,
        id: QueueId,
        r: QueueRecord,
        sessions: &HashMap<Name, SessionKey>,
        found: RecoveredQueue,
    ) {
        let messages: u64 = found.messages.values().map(|counted| counted.count).sum();
        let messages = messages + found.in_flight.len() as u64;
        let name = &r.name;
        self.report(
            &describe(&queue_key(id)),
            &format!("it goes on as '{name}', without arguments, with {messages} messages"),
        );
        self.queues.given_up_to(id.number());
        let client_id = Some(r.client_id.clone()).filter(|_| r.kind == 1);
        self.recover_queue(id, r, sessions, found);
        if let Some(queue) = self.queues.numbered(id) {
            let (key, value) = catalog::encode_queue(&self.queues[queue], client_id.as_ref());
            let value = Some(value);
            self.staging.record(Record::Key { key, value });
        }
    }

    fn recover_bindings(&mut self, recovered: &Recovered) {
        for (k, _) in catalog::of_kind(recovered, self.settings.number, KeyKind::Binding) {
            let restored = catalog::decode::<BindingRecord>(k).and_then(|r| self.recover_binding(r));
            let key = key(self.settings.number, KeyKind::Binding, &[k]);
            if restored.is_none() && recovered.unsure.contains(&key) {
                // Its source or destination was cut off in the same crash, before either was confirmed.
                self.staging.record(Record::Key { key, value: None });
            } else if restored.is_none() {
                self.report_key(KeyKind::Binding, k);
            }
        }
    }

    fn recover_subscriptions(&mut self, recovered: &Recovered) {
        let vhost = self.settings.number;
        recovered.each(vhost, KeyKind::Subscription, &mut |k, v| {
            let parsed = catalog::parse_subscription(k);
            if let Some((client_id, ..)) = &parsed
                && self.sessions.named(client_id).is_none()
            {
                // Its session ended, and the crash came between the two records.
                let key = key(vhost, KeyKind::Subscription, &[k]);
                return self.staging.record(Record::Key { key, value: None });
            }
            let options = catalog::decode::<SubscriptionRecord>(v);
            let restored = parsed
                .zip(options)
                .and_then(|(id, r)| self.recover_subscription(id, &r));
            if restored.is_none() {
                self.report_key(KeyKind::Subscription, k);
            }
        });
    }

    fn recover_retained(&mut self, recovered: &Recovered) {
        let now = self.now;
        recovered.each(self.settings.number, KeyKind::Retained, &mut |k, v| {
            match catalog::decode_retained(v) {
                Some(message) => {
                    // The first ones stay in memory as long as there is room.
                    let fits = self.memory.bytes() + message.memory() <= self.settings.cache_bytes_max / 2;
                    self.retained.restore(&message, fits);
                    if fits {
                        self.memory.keep(&message);
                    }
                    if let Some(deadline) = message.envelope().deadline {
                        self.timers.set_retained(now.monotonic + (deadline - now.wall));
                    }
                }
                None => self.report_key(KeyKind::Retained, k),
            }
        });
    }

    /// Deletes the queues of groups whose last members did not survive the restart.
    fn drop_memberless_groups(&mut self) {
        let subscriptions = self.sessions.iter().flat_map(|(_, s)| s.subscriptions.keys());
        let named: HashSet<Name> = subscriptions
            .filter_map(|(filter, share)| Some(shared_queue_name(share.as_ref()?, filter)))
            .collect();
        let shared = self.queues.iter().filter(|(_, q)| q.kind == QueueKind::Shared);
        let left: Vec<QueueKey> = shared
            .filter(|(_, q)| !named.contains(&q.name))
            .map(|(queue, _)| queue)
            .collect();
        for queue in left {
            self.delete_queue(queue);
        }
    }

    fn recover_session(&mut self, client_id: Name, r: &SessionRecord) -> SessionKey {
        let now = self.now;
        // The crash ended its connection, so its expiry starts now.
        let expires_at = match (r.expires_at, r.expiry) {
            (Some(at), _) => Some(Wall(at)),
            (None, Some(expiry)) => Some(now.wall + std::time::Duration::from_secs(u64::from(expiry))),
            (None, None) => None,
        };
        let mut session = DurableSession::new(client_id, r.expiry, true, &self.ledger);
        session.owner = r.user.clone();
        session.will_granted = r.will.as_ref().is_some_and(|will| !will.message.user.is_empty());
        session.expires_at = expires_at;
        let session = self.sessions.insert(session);
        self.watch_session_expiry(session);
        // The crash ended the connection without a DISCONNECT.
        if let Some(w) = &r.will
            && let Some(message) = catalog::message_of(&w.message)
        {
            let delay = Duration::from_millis(w.delay_ms);
            let due = match w.due {
                Some(due) => now.monotonic + (Wall(due) - now.wall),
                None => now.monotonic + r.expiry.map_or(delay, |e| delay.min(Duration::from_secs(u64::from(e)))),
            };
            let will = Will {
                message,
                delay,
                expiry: w.expiry_ms.map(Duration::from_millis),
            };
            let charge = self.ledger.charge(ObjectKind::Sessions, will_bytes(&will));
            self.sessions[session].delay_will(Box::new(will), due, charge);
            self.timers.set(due, Timer::Will(session));
        }
        session
    }

    fn recover_queue(
        &mut self,
        id: QueueId,
        r: QueueRecord,
        sessions: &HashMap<Name, SessionKey>,
        mut found: RecoveredQueue,
    ) {
        let Some(kind) = kind_of(&r, sessions) else {
            // Its session ended, and the crash came between the two records.
            let key = queue_key(id);
            self.staging.record(Record::Key { key, value: None });
            self.staging.record(Record::QueueDelete { queue: id });
            return;
        };
        let mut q = Queue::new(id, r.name.clone(), kind, true, self.now.monotonic);
        q.auto_delete = r.auto_delete;
        q.arguments = Arguments::parse(r.arguments, &self.queue_text(&r.name)).unwrap_or_else(|fault| {
            tracing::warn!(queue = %r.name, %fault, "a queue's stored arguments are not understood: ignored");
            Arguments::default()
        });
        let mut outgoing = q.restore(&mut found);
        let queue = self.add_queue(q);
        if let QueueKind::Session(session) = kind {
            let s = &mut self.sessions[session];
            s.queue = Some(queue);
            s.incoming = found.incoming_ids.iter().copied().collect();
            s.account_ids();
            // In the order in which the ids were given.
            for (seq, packet_id, _) in &found.packet_ids {
                let at = outgoing
                    .iter()
                    .position(|o| o.entry.seq == *seq && o.packet_id == *packet_id);
                if let Some(at) = at {
                    let InFlightBefore {
                        packet_id,
                        released,
                        entry,
                    } = outgoing.swap_remove(at);
                    let qos = entry.flags.qos();
                    let outgoing = Outgoing {
                        queue,
                        entry,
                        qos,
                        released,
                        counted: false,
                        order: 0,
                    };
                    s.in_flight.insert(packet_id, outgoing);
                    s.account_ids();
                }
            }
        }
        if !self.queues[queue].acks_empty() {
            self.queues.has_unlogged_acks(queue);
        }
        self.watch_queue_expiry(queue);
    }

    fn recover_binding(&mut self, r: BindingRecord) -> Option<()> {
        let destination = match (r.queue, r.exchange) {
            (Some(number), _) => {
                let queue = self.queues.numbered(QueueId::new(self.settings.number, number)?)?;
                Destination::Queue {
                    slot: router_slot(queue),
                    name: self.queues[queue].name.clone(),
                    durable: true,
                }
            }
            (None, Some(name)) => Destination::Exchange(name),
            (None, None) => return None,
        };
        self.router
            .bind(&r.source, destination, &r.key, r.arguments, None)
            .ok()
            .map(|_| ())
    }

    fn recover_subscription(
        &mut self,
        (client_id, filter, share): (Name, Name, Option<Name>),
        r: &SubscriptionRecord,
    ) -> Option<()> {
        let session = self.sessions.named(&client_id)?;
        let options = Subscribed {
            qos: r.qos.min(2),
            no_local: r.no_local,
            retain_as_published: r.retain_as_published,
            subscription_id: r.subscription_id,
        };
        let queue = match &share {
            // Its definition may be lost.
            None => self.session_queue(session),
            Some(share) => self.shared_queue(share, &filter, true).ok()?,
        };
        let exchange = self.settings.topic_exchange.clone();
        self.bind_subscription(queue, &exchange, &filter, share.is_some(), options)
            .ok()?;
        let shared = share.is_some();
        if self.note_subscription(session, (filter, share), options) && shared {
            self.queues[queue].members += 1;
        }
        Some(())
    }
}

/// What the queue is for. `None` if it belongs to a session that no longer exists.
fn kind_of(r: &QueueRecord, sessions: &HashMap<Name, SessionKey>) -> Option<QueueKind> {
    match r.kind {
        1 => sessions.get(&r.client_id).copied().map(QueueKind::Session),
        2 => Some(QueueKind::Shared),
        _ => Some(QueueKind::Plain),
    }
}
