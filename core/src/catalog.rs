//! Definitions, sessions and retained messages as keyed records of the log: the only place that knows their layout.
//!
//! ```text
//!   key     vhost 3 │ kind 1 │ name
//!
//!   of the node (vhost 0)    vhost             its number
//!                            user, permission, topic permission, limit    see `directory`
//!   of a vhost               exchange          name
//!                            queue             its number (declared, a session's, a group's)
//!                            binding           source, the queue's number or the exchange, key, arguments
//!                            policy, operator policy, parameter           see `directory`
//!                            session           client id
//!                            subscription      client id 0 filter 0 share
//!                            retained          topic
//!   value   version (2), then the fields in postcard's encoding
//! ```
//!
//! - A record's key names its vhost and object, even if the value cannot be read.
//! - Absence never means deletion: a vhost or a queue is deleted by a record, and the log keeps this record as long
//!   as older records of it are on disk. An object that is absent but was not deleted is damaged.
//! - A binding has its queue's number in the key and its name in the value, a session's queue has the client id, sessions
//!   and subscriptions have the numbers of their queues. So a queue or session whose own record is damaged can still be
//!   identified and named.
//! - Postcard's encoding is stable and documented. A change of fields needs a new version. Some fields are unused so far;
//!   a later release can use them without a new format.

pub mod directory;
mod words;

pub use words::words;

use crate::binding::{Binding, Destination};
use crate::durable_session::{DurableSession, Subscribed};
use crate::message::{Dialect, Envelope, Message, PayloadLengths};
use crate::properties::{Name, Origin, Table};
use crate::queue::{Queue, QueueKind};
use crate::queue_type::QueueType;
use crate::router::ExchangeSpec;
use crate::store::{KeyKind, QueueId, Record, Recovered, VhostId, key, parse_key, queue_key, vhost_key};
use crate::time::Wall;
use crate::will::Will;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Version of all values.
const VERSION: u8 = 2;

/// What the log keeps of a vhost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VhostRecord {
    /// Its name.
    pub name: Name,
    /// For people.
    pub description: String,
    /// For people and their tools.
    pub tags: Vec<Name>,
    /// Type of a queue whose declarer names none; empty: classic.
    pub default_queue_type: Name,
}

/// The record that creates or changes a vhost.
pub fn vhost_record(vhost: VhostId, record: &VhostRecord) -> Record {
    Record::Key {
        key: vhost_key(vhost),
        value: Some(encode(record)),
    }
}

/// The record that deletes a vhost with everything in it.
pub fn vhost_deletion(vhost: VhostId) -> Record {
    Record::Key {
        key: vhost_key(vhost),
        value: None,
    }
}

/// The vhosts that the log knows. One whose own record is damaged has a name that says so.
pub fn vhosts(recovered: &Recovered) -> BTreeMap<VhostId, VhostRecord> {
    let mut vhosts: BTreeMap<VhostId, VhostRecord> = BTreeMap::new();
    for vhost in recovered.vhosts() {
        vhosts.insert(
            vhost,
            VhostRecord {
                name: format!("damaged-vhost-{vhost}").into(),
                description: "The record of this vhost is damaged".into(),
                ..VhostRecord::default()
            },
        );
    }
    for (key, value) in &recovered.keys {
        if let Some(vhost) = crate::store::as_vhost(key)
            && let Some(record) = decode(value)
        {
            vhosts.insert(vhost, record);
        }
    }
    vhosts
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ExchangeRecord {
    pub(crate) kind: Name,
    pub(crate) auto_delete: bool,
    pub(crate) internal: bool,
    /// The declaring user; may be empty.
    pub(crate) user: Name,
    /// As they were declared.
    pub(crate) arguments: Table,
    /// With what policies change, where they do.
    pub(crate) effective: Option<Table>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct QueueRecord {
    pub(crate) name: Name,
    pub(crate) auto_delete: bool,
    /// 0 declared, 1 a session's, 2 a group's.
    pub(crate) kind: u8,
    /// 0 classic, 1 quorum, 2 stream. Repeats the arguments, for readers that cannot decode them.
    pub(crate) queue_type: u8,
    /// Who declared it, where that is kept.
    pub(crate) user: Name,
    /// The session's client id, if it is a session's.
    pub(crate) client_id: Name,
    /// As they were declared.
    pub(crate) arguments: Table,
    /// With what policies change, where they do.
    pub(crate) effective: Option<Table>,
}

/// A binding's identity: the part of its key after the kind.
#[derive(Serialize, Deserialize)]
pub(crate) struct BindingRecord {
    pub(crate) source: Name,
    /// Number of the target queue, if it is one.
    pub(crate) queue: Option<u64>,
    /// Target exchange, if it is one.
    pub(crate) exchange: Option<Name>,
    pub(crate) key: Name,
    pub(crate) arguments: Table,
}

/// A binding's value.
#[derive(Serialize, Deserialize)]
pub(crate) struct BoundRecord {
    /// Name of the target queue, if it is one.
    pub(crate) queue: Name,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct SessionRecord {
    pub(crate) queue: Option<u64>,
    /// The session's user; may be empty.
    pub(crate) user: Name,
    pub(crate) expiry: Option<u32>,
    /// Wall clock, if its client was away.
    pub(crate) expires_at: Option<u64>,
    pub(crate) will: Option<WillRecord>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct WillRecord {
    pub(crate) message: MessageRecord,
    pub(crate) delay_ms: u64,
    pub(crate) expiry_ms: Option<u64>,
    /// Wall clock, if the connection had ended.
    pub(crate) due: Option<u64>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct SubscriptionRecord {
    /// Number of the queue that it fills: the session's, or the group's. Identifies a queue whose own record is damaged, even
    /// if the session's record is older than the queue.
    pub(crate) queue: u64,
    pub(crate) qos: u8,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) subscription_id: Option<u32>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct MessageRecord {
    origin: u8,
    slash: bool,
    durable: bool,
    retain: bool,
    qos: u8,
    extra_keys: bool,
    priority: Option<u8>,
    deadline: Option<u64>,
    received: u64,
    /// The publishing user; may be empty. For a will: its user, if an external server has permitted the will.
    pub(crate) user: Name,
    exchange_len: u8,
    key_len: u16,
    properties_len: u32,
    payload: Vec<u8>,
}

fn encode<T: Serialize>(value: &T) -> Box<[u8]> {
    match postcard::to_extend(value, vec![VERSION]) {
        Ok(bytes) => bytes.into(),
        // Writing plain data into a growing buffer cannot fail.
        Err(e) => unreachable!("postcard refused plain data: {e}"),
    }
}

/// Decodes a value, or the part of a binding's key after the kind. `None` if it is not valid.
pub(crate) fn decode<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Option<T> {
    let (version, fields) = value.split_first()?;
    (*version == VERSION).then_some(())?;
    postcard::from_bytes(fields).ok()
}

pub(crate) fn exchange_key(vhost: VhostId, name: &str) -> Box<[u8]> {
    key(vhost, KeyKind::Exchange, &[name.as_bytes()])
}
pub(crate) fn session_key(vhost: VhostId, client_id: &str) -> Box<[u8]> {
    key(vhost, KeyKind::Session, &[client_id.as_bytes()])
}
pub(crate) fn retained_key(vhost: VhostId, topic: &[u8]) -> Box<[u8]> {
    key(vhost, KeyKind::Retained, &[topic])
}
pub(crate) fn subscription_key(vhost: VhostId, client_id: &str, filter: &str, share: Option<&Name>) -> Box<[u8]> {
    // No client id, filter or share name contains a NUL.
    let share = share.map_or(b"".as_slice(), |s| s.as_bytes());
    let parts = [client_id.as_bytes(), &[0], filter.as_bytes(), &[0], share];
    key(vhost, KeyKind::Subscription, &parts)
}

/// Parses the part of a subscription's key after the kind: client id, filter and share.
pub(crate) fn parse_subscription(name: &[u8]) -> Option<(Name, Name, Option<Name>)> {
    let mut parts = std::str::from_utf8(name).ok()?.split('\0');
    let (client_id, filter, share) = (parts.next()?, parts.next()?, parts.next()?);
    let share = (!share.is_empty()).then(|| share.into());
    parts.next().is_none().then(|| (client_id.into(), filter.into(), share))
}

pub(crate) fn encode_exchange(vhost: VhostId, spec: &ExchangeSpec) -> (Box<[u8]>, Box<[u8]>) {
    let record = ExchangeRecord {
        kind: spec.kind.clone(),
        auto_delete: spec.auto_delete,
        internal: spec.internal,
        user: Name::default(),
        arguments: spec.arguments.clone(),
        effective: None,
    };
    (exchange_key(vhost, &spec.name), encode(&record))
}

/// Encodes a queue's record. `client_id`: the session's, if it is a session's queue.
pub(crate) fn encode_queue(q: &Queue, client_id: Option<&Name>) -> (Box<[u8]>, Box<[u8]>) {
    let kind = match q.kind {
        QueueKind::Plain => 0,
        QueueKind::Session(_) => 1,
        QueueKind::Shared => 2,
    };
    let record = QueueRecord {
        name: q.name.clone(),
        auto_delete: q.auto_delete,
        kind,
        queue_type: match q.arguments.queue_type {
            QueueType::Classic => 0,
            QueueType::Quorum => 1,
        },
        user: Name::default(),
        client_id: client_id.cloned().unwrap_or_default(),
        arguments: q.arguments.declared.clone(),
        effective: None,
    };
    (queue_key(q.id), encode(&record))
}

/// Encodes a binding's key. `queue`: the target's number, if it is a queue.
pub(crate) fn binding_key(vhost: VhostId, b: &Binding, queue: Option<QueueId>) -> Box<[u8]> {
    let exchange = match &b.destination {
        Destination::Queue { .. } => None,
        Destination::Exchange(name) => Some(name.clone()),
    };
    let mut arguments = b.arguments.clone();
    // Sorted, because the order of arguments is not part of a binding's identity.
    arguments.0.sort_by(|a, b| a.0.cmp(&b.0));
    let record = BindingRecord {
        source: b.source.clone(),
        queue: queue.map(QueueId::number),
        exchange,
        key: b.key.clone(),
        arguments,
    };
    key(vhost, KeyKind::Binding, &[&encode(&record)])
}

pub(crate) fn encode_bound(destination: &Destination) -> Box<[u8]> {
    let queue = match destination {
        Destination::Queue { name, .. } => name.clone(),
        Destination::Exchange(_) => Name::default(),
    };
    encode(&BoundRecord { queue })
}

/// Encodes a session's record. `will`: published if the connection ends without DISCONNECT; with the time at which it is due, if
/// the connection has ended.
pub(crate) fn encode_session(
    vhost: VhostId,
    s: &DurableSession,
    queue: Option<QueueId>,
    will: Option<(&Will, Option<Wall>)>,
) -> (Box<[u8]>, Box<[u8]>) {
    let record = SessionRecord {
        queue: queue.map(QueueId::number),
        user: s.owner.clone(),
        expiry: s.expiry,
        expires_at: s.expires_at.filter(|_| s.link.is_none()).map(|w| w.0),
        will: will.map(|(w, due)| WillRecord {
            message: MessageRecord {
                user: if s.will_granted {
                    s.owner.clone()
                } else {
                    Name::default()
                },
                ..message_record(&w.message)
            },
            delay_ms: millis(w.delay),
            expiry_ms: w.expiry.map(millis),
            due: due.map(|d| d.0),
        }),
    };
    (session_key(vhost, &s.client_id), encode(&record))
}

pub(crate) fn encode_subscription(
    vhost: VhostId,
    client_id: &Name,
    filter: &Name,
    share: Option<&Name>,
    options: Subscribed,
    queue: QueueId,
) -> (Box<[u8]>, Box<[u8]>) {
    let record = SubscriptionRecord {
        queue: queue.number(),
        qos: options.qos,
        no_local: options.no_local,
        retain_as_published: options.retain_as_published,
        subscription_id: options.subscription_id,
    };
    (subscription_key(vhost, client_id, filter, share), encode(&record))
}

pub(crate) fn encode_retained(message: &Message) -> Box<[u8]> {
    encode(&message_record(message))
}

/// The message of a retained record. `None` if it is not valid.
pub(crate) fn decode_retained(value: &[u8]) -> Option<Message> {
    message_of(&decode::<MessageRecord>(value)?)
}

/// All records of one kind: the part of the key after the kind, and the value.
pub(crate) fn of_kind(recovered: &Recovered, vhost: VhostId, kind: KeyKind) -> impl Iterator<Item = (&[u8], &[u8])> {
    let parsed = recovered
        .keys
        .iter()
        .filter_map(|(key, value)| Some((parse_key(key)?, value)));
    parsed
        .filter(move |((of, found, _), _)| *of == vhost && *found == kind)
        .map(|((_, _, name), value)| (name, &**value))
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
        user: Name::default(),
        exchange_len: lengths.exchange,
        key_len: lengths.key,
        properties_len: lengths.properties,
        payload: message.payload().to_vec(),
    }
}

pub(crate) fn message_of(r: &MessageRecord) -> Option<Message> {
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
