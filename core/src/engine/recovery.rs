//! Definitions and sessions as keyed records of the log, and the vhost as it stands after a start.
//!
//! ```text
//!   key     x name                     exchange
//!           q number                   queue (declared, a session's, a group's)
//!           b source target key args   binding
//!           s client-id                MQTT session
//!           u client-id filter share   its subscription
//!           r topic                    retained message
//!   value   version (1), then the fields in postcard's encoding
//! ```
//!
//! Postcard's encoding is stable and documented; a change of fields takes a new version.

use super::Engine;
use super::link::will_bytes;
use super::timers::Timer;
use crate::binding::{Binding, Destination};
use crate::command::Will;
use crate::durable_session::{DurableSession, INCOMING_ID_BYTES, InFlight, Outgoing, Subscribed};
use crate::ledger::{Charge, ObjectKind};
use crate::message::{Dialect, Envelope, Message, PayloadLengths};
use crate::properties::{Name, Origin, Table};
use crate::queue::arguments::Arguments;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::queue::ready::Run;
use crate::queue::unsettled::QueueRef;
use crate::queue::{Queue, QueueKind};
use crate::router::ExchangeSpec;
use crate::store::{QueueId, Recovered, RecoveredQueue};
use crate::time::{Now, Wall};
use hashbrown::HashSet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Version of all values.
const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct ExchangeRecord {
    kind: Name,
    auto_delete: bool,
    internal: bool,
    arguments: Table,
}

#[derive(Serialize, Deserialize)]
struct QueueRecord {
    name: Name,
    auto_delete: bool,
    /// 0 declared, 1 a session's, 2 a group's.
    kind: u8,
    arguments: Table,
}

#[derive(Serialize, Deserialize)]
struct BindingRecord {
    source: Name,
    /// Target queue, if it is one.
    queue: Option<Name>,
    /// Target exchange, if it is one.
    exchange: Option<Name>,
    key: Name,
    arguments: Table,
}

#[derive(Serialize, Deserialize)]
struct SessionRecord {
    queue: Option<u64>,
    expiry: Option<u32>,
    /// Wall clock, if its client was away.
    expires_at: Option<u64>,
    will: Option<WillRecord>,
}

#[derive(Serialize, Deserialize)]
struct WillRecord {
    message: MessageRecord,
    delay_ms: u64,
    expiry_ms: Option<u64>,
    /// Wall clock, if the connection had ended.
    due: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct SubscriptionRecord {
    client_id: Name,
    filter: Name,
    share: Option<Name>,
    qos: u8,
    no_local: bool,
    retain_as_published: bool,
    subscription_id: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct MessageRecord {
    origin: u8,
    slash: bool,
    durable: bool,
    retain: bool,
    qos: u8,
    extra_keys: bool,
    priority: Option<u8>,
    deadline: Option<u64>,
    received: u64,
    exchange_len: u8,
    key_len: u16,
    properties_len: u32,
    payload: Vec<u8>,
}

fn encode<T: Serialize>(value: &T) -> Box<[u8]> {
    match postcard::to_extend(value, vec![VERSION]) {
        Ok(bytes) => bytes.into(),
        // Plain data into a growing buffer: there is nothing to fail.
        Err(e) => unreachable!("postcard refused plain data: {e}"),
    }
}

fn decode<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Option<T> {
    let (version, fields) = value.split_first()?;
    (*version == VERSION).then_some(())?;
    postcard::from_bytes(fields).ok()
}

fn key(kind: u8, parts: &[&[u8]]) -> Box<[u8]> {
    let mut key = vec![kind];
    for part in parts {
        key.extend_from_slice(part);
    }
    key.into()
}

pub(crate) fn exchange_key(name: &str) -> Box<[u8]> {
    key(b'x', &[name.as_bytes()])
}
pub(crate) fn queue_key(id: QueueId) -> Box<[u8]> {
    key(b'q', &[&id.0.to_be_bytes()])
}
pub(crate) fn session_key(client_id: &str) -> Box<[u8]> {
    key(b's', &[client_id.as_bytes()])
}
pub(crate) fn retained_key(topic: &[u8]) -> Box<[u8]> {
    key(b'r', &[topic])
}
pub(crate) fn subscription_key(client_id: &str, filter: &str, share: Option<&Name>) -> Box<[u8]> {
    // No client id, filter or share name holds a NUL.
    key(
        b'u',
        &[
            client_id.as_bytes(),
            &[0],
            filter.as_bytes(),
            &[0],
            share.map_or(b"", |s| s.as_bytes()),
        ],
    )
}

pub(crate) fn encode_exchange(spec: &ExchangeSpec) -> (Box<[u8]>, Box<[u8]>) {
    let record = ExchangeRecord {
        kind: spec.kind.clone(),
        auto_delete: spec.auto_delete,
        internal: spec.internal,
        arguments: spec.arguments.clone(),
    };
    (exchange_key(&spec.name), encode(&record))
}

pub(crate) fn encode_queue(q: &Queue) -> (Box<[u8]>, Box<[u8]>) {
    let kind = match q.kind {
        QueueKind::Plain => 0,
        QueueKind::Session(_) => 1,
        QueueKind::Shared => 2,
    };
    let record = QueueRecord {
        name: q.name.clone(),
        auto_delete: q.auto_delete,
        kind,
        arguments: q.arguments.declared.clone(),
    };
    (queue_key(q.id), encode(&record))
}

fn binding_record(source: &str, destination: &Destination, binding_key: &str, arguments: &Table) -> Box<[u8]> {
    let (queue, exchange) = match destination {
        Destination::Queue { name, .. } => (Some(name.clone()), None),
        Destination::Exchange(name) => (None, Some(name.clone())),
    };
    let mut arguments = arguments.clone();
    // The order of arguments is no part of a binding's identity.
    arguments.0.sort_by(|a, b| a.0.cmp(&b.0));
    encode(&BindingRecord {
        source: source.into(),
        queue,
        exchange,
        key: binding_key.into(),
        arguments,
    })
}

/// A binding's identity is all there is to it: it is its own key.
pub(crate) fn encode_binding(
    source: &str,
    destination: &Destination,
    binding_key: &str,
    arguments: &Table,
) -> (Box<[u8]>, Box<[u8]>) {
    (
        key(b'b', &[&binding_record(source, destination, binding_key, arguments)]),
        Box::from([VERSION]),
    )
}

pub(crate) fn binding_key(b: &Binding) -> Box<[u8]> {
    key(
        b'b',
        &[&binding_record(&b.source, &b.destination, &b.key, &b.arguments)],
    )
}

/// `will`: what is to be published if the connection does not end well; if it ended, when.
pub(crate) fn encode_session(s: &DurableSession, will: Option<(&Will, Option<Wall>)>) -> (Box<[u8]>, Box<[u8]>) {
    let record = SessionRecord {
        queue: s.queue.map(|q| q.id.0),
        expiry: s.expiry,
        expires_at: s.expires_at.filter(|_| s.link.is_none()).map(|w| w.0),
        will: will.map(|(w, due)| WillRecord {
            message: message_record(&w.message),
            delay_ms: millis(w.delay),
            expiry_ms: w.expiry.map(millis),
            due: due.map(|d| d.0),
        }),
    };
    (session_key(&s.client_id), encode(&record))
}

pub(crate) fn encode_subscription(
    client_id: &Name,
    filter: &Name,
    share: Option<&Name>,
    options: Subscribed,
) -> (Box<[u8]>, Box<[u8]>) {
    let record = SubscriptionRecord {
        client_id: client_id.clone(),
        filter: filter.clone(),
        share: share.cloned(),
        qos: options.qos,
        no_local: options.no_local,
        retain_as_published: options.retain_as_published,
        subscription_id: options.subscription_id,
    };
    (subscription_key(client_id, filter, share), encode(&record))
}

pub(crate) fn encode_retained(message: &Message) -> Box<[u8]> {
    encode(&message_record(message))
}

fn message_record(message: &Message) -> MessageRecord {
    let e = message.envelope();
    let lengths = message.lengths();
    MessageRecord {
        origin: e.origin.0,
        slash: e.dialect == Dialect::Slash,
        durable: e.durable,
        retain: e.retain,
        qos: e.qos,
        extra_keys: e.extra_keys,
        priority: e.priority,
        deadline: e.deadline.map(|d| d.0),
        received: e.received.0,
        exchange_len: lengths.exchange,
        key_len: lengths.key,
        properties_len: lengths.properties,
        payload: message.payload().to_vec(),
    }
}

fn message_of(r: &MessageRecord) -> Option<Message> {
    let envelope = Envelope {
        origin: Origin(r.origin),
        dialect: if r.slash { Dialect::Slash } else { Dialect::Dot },
        durable: r.durable,
        qos: r.qos.min(2),
        retain: r.retain,
        extra_keys: r.extra_keys,
        priority: r.priority,
        deadline: r.deadline.map(Wall),
        received: Wall(r.received),
    };
    let lengths = PayloadLengths {
        exchange: r.exchange_len,
        key: r.key_len,
        properties: r.properties_len,
    };
    Message::from_payload(envelope, lengths, &r.payload)
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

impl Engine {
    /// Takes over what the log remembers. Call once, before anything else; follow it with `drain`.
    pub fn recover(&mut self, now: Now, mut recovered: Recovered) {
        self.now = now;
        self.time.noted = recovered.wall;
        self.next_queue = self.next_queue.max(recovered.queue_id_max.0 + 1);
        let keys = std::mem::take(&mut recovered.keys);
        let of = |kind: u8| {
            keys.iter()
                .filter(move |(k, _)| k.first() == Some(&kind))
                .map(|(k, v)| (&k[1..], &v[..]))
        };
        let mut damaged = 0u32;
        for (k, v) in of(b'x') {
            let Some((name, r)) = text(k).zip(decode::<ExchangeRecord>(v)) else {
                damaged += 1;
                continue;
            };
            let spec = ExchangeSpec {
                name: name.into(),
                kind: r.kind,
                durable: true,
                auto_delete: r.auto_delete,
                internal: r.internal,
                arguments: r.arguments,
            };
            damaged += u32::from(self.router.restore_exchange(spec).is_err());
        }
        let mut sessions: BTreeMap<u64, u32> = BTreeMap::new();
        // Sessions whose expiry begins now: from here on, not anew with each restart.
        let mut expiring = Vec::new();
        for (k, v) in of(b's') {
            let Some((client_id, r)) = text(k).zip(decode::<SessionRecord>(v)) else {
                damaged += 1;
                continue;
            };
            let session = self.recover_session(client_id.into(), &r);
            if let Some(queue) = r.queue {
                sessions.insert(queue, session);
            }
            if r.expires_at.is_none() && r.expiry.is_some() {
                expiring.push(session);
            }
        }
        for (k, v) in of(b'q') {
            let id = <[u8; 8]>::try_from(k).ok().map(|b| QueueId(u64::from_be_bytes(b)));
            let Some((id, r)) = id.zip(decode::<QueueRecord>(v)) else {
                damaged += 1;
                continue;
            };
            // The log knows the numbers of queues that have had messages; one that has not has its number here.
            self.next_queue = self.next_queue.max(id.0 + 1);
            self.recover_queue(id, r, &sessions, recovered.queues.remove(&id).unwrap_or_default());
        }
        for (k, _) in of(b'b') {
            let restored = decode::<BindingRecord>(k).and_then(|r| self.recover_binding(r));
            damaged += u32::from(restored.is_none());
        }
        for (_, v) in of(b'u') {
            let restored = decode::<SubscriptionRecord>(v).and_then(|r| self.recover_subscription(r));
            damaged += u32::from(restored.is_none());
        }
        for (_, v) in of(b'r') {
            match decode::<MessageRecord>(v).as_ref().and_then(message_of) {
                Some(message) => {
                    self.retained.set(&message);
                    if let Some(deadline) = message.envelope().deadline {
                        self.timers.set_retained(now.monotonic + (deadline - now.wall));
                    }
                }
                None => damaged += 1,
            }
        }
        self.drop_memberless_groups();
        for session in expiring {
            self.stage_session(session);
        }
        if damaged > 0 {
            tracing::warn!(damaged, "some definitions in the log could not be restored");
        }
        // Queues the log has messages of and no definition: deleted ones, and transient ones that spilled.
        for id in recovered.queues.into_keys() {
            self.staging.record(crate::store::Record::QueueDelete { queue: id });
        }
        self.touched.clear();
        // Messages expire in queues that nobody consumes, too.
        let queues: Vec<_> = self
            .queues
            .iter()
            .map(|(slot, q)| QueueRef {
                slot: slot as u32,
                id: q.id,
            })
            .collect();
        for queue in queues {
            if let Some(q) = self.queue_mut(queue) {
                q.touched = false;
                self.watch_head(queue);
            }
        }
    }

    /// Groups whose last members did not survive the restart.
    fn drop_memberless_groups(&mut self) {
        let subscriptions = self.sessions.iter().flat_map(|(_, s)| s.subscriptions.keys());
        let named: HashSet<Name> = subscriptions
            .filter_map(|(filter, share)| Some(super::subscriptions::shared_queue_name(share.as_ref()?, filter)))
            .collect();
        let shared = self.queues.iter().filter(|(_, q)| q.kind == QueueKind::Shared);
        let left: Vec<QueueRef> = shared
            .filter(|(_, q)| !named.contains(&q.name))
            .map(|(slot, q)| QueueRef {
                slot: slot as u32,
                id: q.id,
            })
            .collect();
        for queue in left {
            self.delete_queue(queue);
        }
    }

    fn recover_session(&mut self, client_id: Name, r: &SessionRecord) -> u32 {
        let now = self.now;
        // One that was connected starts its expiry now: its connection ended with the crash.
        let expires_at = match (r.expires_at, r.expiry) {
            (Some(at), _) => Some(Wall(at)),
            (None, Some(expiry)) => Some(now.wall + std::time::Duration::from_secs(u64::from(expiry))),
            (None, None) => None,
        };
        let session = self.sessions.insert(DurableSession {
            client_id: client_id.clone(),
            link: None,
            queue: None,
            expiry: r.expiry,
            expires_at,
            kept: true,
            in_flight: InFlight::default(),
            used: 0,
            incoming: Default::default(),
            subscriptions: Default::default(),
            consumers: Vec::new(),
            resends: Default::default(),
            receive_maximum: 1,
            delayed_will: None,
            expiry_timer: None,
            open: false,
            ending: false,
            charge: self
                .ledger
                .charge(ObjectKind::Sessions, DurableSession::memory(&client_id)),
            subscriptions_charge: self.ledger.charge(ObjectKind::Routes, 0),
            will_charge: Charge::default(),
        }) as u32;
        self.session_ids.insert(client_id, session);
        self.watch_session_expiry(session);
        // The crash ended the connection without goodbye.
        if let Some(w) = &r.will
            && let Some(message) = message_of(&w.message)
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
            self.sessions[session as usize].will_charge = self.ledger.charge(ObjectKind::Sessions, will_bytes(&will));
            self.sessions[session as usize].delayed_will = Some((Box::new(will), due));
            self.timers.set(due, Timer::Will(session));
        }
        session
    }

    fn recover_queue(&mut self, id: QueueId, r: QueueRecord, sessions: &BTreeMap<u64, u32>, found: RecoveredQueue) {
        let kind = match r.kind {
            1 => match sessions.get(&id.0) {
                Some(session) => QueueKind::Session(*session),
                None => {
                    // Its session ended; the crash came between the two records.
                    let key = queue_key(id);
                    self.staging.record(crate::store::Record::Key { key, value: None });
                    self.staging.record(crate::store::Record::QueueDelete { queue: id });
                    return;
                }
            },
            2 => QueueKind::Shared,
            _ => QueueKind::Plain,
        };
        let mut q = Queue::new(id, r.name.clone(), kind, true, self.now.monotonic);
        q.auto_delete = r.auto_delete;
        q.arguments = Arguments::parse(r.arguments, &self.queue_text(&r.name)).unwrap_or_else(|fault| {
            tracing::warn!(queue = %r.name, %fault, "a queue's stored arguments are not understood: ignored");
            Arguments::default()
        });
        q.next_seq = found.next_seq.max(found.handed_out);
        q.marks.written = found.handed_out;
        q.marks.staged = found.handed_out;
        q.redelivered_below = found.handed_out;
        q.returned = found.returned;
        let (exact, mut outgoing) = (q.arguments.priority_max > 0, Vec::new());
        for (flags, messages) in found.messages {
            let priority = if exact { EntryFlags(flags).split_priority().0 } else { 0 };
            let run = Run {
                first: messages.first,
                last: messages.last,
                count: messages.count,
                bytes: messages.bytes,
            };
            q.ready.restore_run(priority, run);
        }
        let packet_ids: BTreeMap<u64, (u16, bool)> = (found.packet_ids.iter())
            .map(|(seq, id, released)| (*seq, (*id, *released)))
            .collect();
        for e in &found.in_flight {
            match packet_ids.get(&e.seq) {
                // Whose packet id it is, the log does not say: what its holder has received is not for another member
                // of the group, what it may not have is.
                Some((_, true)) if kind == QueueKind::Shared => {
                    q.note_ack(e.seq);
                    q.absent.push(e.seq);
                }
                Some((packet_id, released)) if kind != QueueKind::Shared => {
                    let mut flags = EntryFlags(e.flags);
                    flags.set(EntryFlags::LOGGED);
                    if e.seq < found.handed_out {
                        flags.set(EntryFlags::REDELIVERED);
                    }
                    let entry = Entry {
                        priority: 0,
                        seq: e.seq,
                        body: Body::Disk {
                            at: e.at,
                            body_len: e.body_len,
                        },
                        flags,
                        subscription_ids: None,
                    };
                    q.absent.push(e.seq);
                    outgoing.push((e.seq, *packet_id, *released, entry));
                }
                _ => q.ready.restore_run(
                    0,
                    Run {
                        first: e.seq,
                        last: e.seq,
                        count: 1,
                        bytes: u64::from(e.body_len),
                    },
                ),
            }
        }
        q.absent.sort_unstable();
        q.unsettled = outgoing.len();
        let queue = self.add_queue(q);
        if let QueueKind::Session(session) = kind {
            let s = &mut self.sessions[session as usize];
            s.queue = Some(queue);
            s.incoming = found.incoming_ids.iter().copied().collect();
            s.charge.grow(s.incoming.len() * INCOMING_ID_BYTES);
            // In the order the ids were given.
            for (seq, packet_id, _) in &found.packet_ids {
                let Some(at) = outgoing.iter().position(|o| o.0 == *seq && o.1 == *packet_id) else {
                    continue;
                };
                let (_, packet_id, released, entry) = outgoing.swap_remove(at);
                let qos = entry.flags.qos();
                s.in_flight.insert(
                    packet_id,
                    Outgoing {
                        queue,
                        entry,
                        qos,
                        released,
                        counted: false,
                        order: 0,
                    },
                );
            }
        }
        if !self.queues[queue.slot as usize].acks_empty() {
            self.acks_dirty.push(queue.slot);
        }
        self.watch_queue_expiry(queue);
    }

    fn recover_binding(&mut self, r: BindingRecord) -> Option<()> {
        let destination = match (r.queue, r.exchange) {
            (Some(name), _) => {
                let slot = self.router.queue(&name)?;
                Destination::Queue {
                    slot,
                    name,
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

    fn recover_subscription(&mut self, r: SubscriptionRecord) -> Option<()> {
        let session = *self.session_ids.get(&r.client_id)?;
        let options = Subscribed {
            qos: r.qos.min(2),
            no_local: r.no_local,
            retain_as_published: r.retain_as_published,
            subscription_id: r.subscription_id,
        };
        let queue = match &r.share {
            None => self.sessions[session as usize].queue?,
            Some(share) => self.shared_queue(share, &r.filter, true).ok()?,
        };
        let exchange = self.settings.topic_exchange.clone();
        self.bind_subscription(queue, &exchange, &r.filter, r.share.is_some(), options)
            .ok()?;
        self.note_subscription(session, (r.filter, r.share), options);
        Some(())
    }
}
