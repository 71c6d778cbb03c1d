//! An MQTT session: the state that outlives its connections. Its packet ids, what is in flight in both directions, and
//! the queue with its waiting messages.
//!
//! ```text
//!   outgoing QoS 1:  Sent ──PUBACK──► gone
//!   outgoing QoS 2:  Sent ──PUBREC──► Released ──PUBCOMP──► gone
//!   incoming QoS 2:  held ──PUBREL──► forgotten
//! ```

use crate::command::{Channel, Will};
use crate::in_flight::InFlight;
use crate::ledger::{self, Charge, Ledger, ObjectKind};
use crate::packet_ids::{self, PacketIds};
use crate::properties::Name;
use crate::queue::credit::Credit;
use crate::segmented::SegmentedMap;
use crate::seldom::Seldom;
use crate::slots::{ConsumerKey, Link, QueueKey, SessionKey, Slots};
use crate::time::{Time, Wall};
use std::collections::{BTreeMap, VecDeque};
use std::mem::size_of;
use std::ops::{Index, IndexMut};
use std::sync::Arc;

/// One session of a vhost.
pub(crate) struct DurableSession {
    pub(crate) client_id: Name,
    /// The user who opened it. Empty: not known.
    pub(crate) owner: Name,
    /// An external server knows its owner's rights, and has permitted its will.
    pub(crate) will_granted: bool,
    /// The link that drives it; `None` while the client is away.
    pub(crate) link: Option<Link>,
    /// The queue for its messages; created with its first subscription.
    pub(crate) queue: Option<QueueKey>,
    /// Seconds that it outlives its connection; `None`: without limit.
    pub(crate) expiry: Option<u32>,
    /// When it ends; set while its client is away.
    pub(crate) expires_at: Option<Wall>,
    /// What the log has of it.
    pub(crate) logged: Logged,
    pub(crate) in_flight: InFlight,
    /// The part of `charge` for `incoming`, and for `in_flight` without bodies.
    ids_bytes: u32,
    /// Limits the QoS 1 and 2 deliveries that are reserved or in flight (the receive maximum).
    pub(crate) credit: Credit,
    /// QoS 2 packet ids of the client's publishes that wait for PUBREL.
    pub(crate) incoming: PacketIds,
    /// Its subscriptions: options by (filter, share group).
    pub(crate) subscriptions: Subscriptions,
    /// How many of `subscriptions` are shared. If there are none, a client that reconnects need not look for its
    /// groups.
    pub(crate) shared: u32,
    /// Its consumers, on its own queue and on groups' queues, while it is connected.
    pub(crate) consumers: Vec<ConsumerKey>,
    /// Packet ids of deliveries that are to be sent again on this connection and have to wait for the receive maximum,
    /// in order. While there are any, `credit` is spent, so that no new message overtakes them.
    pub(crate) resends: Seldom<VecDeque<u16>>,
    /// The will of an ended connection, as long as it is not done.
    pub(crate) wills: Seldom<Wills>,
    /// When the engine checks whether it has expired, if that is scheduled.
    pub(crate) expiry_timer: Option<Time>,
    /// Its connection was told that it is open, so messages may be sent.
    pub(crate) open: bool,
    /// It has ended, and is being removed.
    pub(crate) ending: bool,
    /// Its share of the memory budget, including its client's QoS 2 ids.
    pub(crate) charge: Charge,
    /// The memory of its subscriptions, without their bindings.
    pub(crate) subscriptions_charge: Charge,
}

/// An idle client costs this much, and half as much again, because the vector of sessions grows by doubling.
const _: () = assert!(size_of::<DurableSession>() <= 312);

/// What the log has of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Logged {
    /// It ends with its connection.
    Nothing,
    /// It ends with its connection, but has a will that is to be published after a crash, too. Its record has the will.
    Will,
    /// It was opened to outlive its connection: its record, subscriptions and messages are logged.
    Whole,
}

/// The will of a session whose client is away.
#[derive(Default)]
pub(crate) struct Wills {
    /// A will that waits for its delay, and when that ends.
    pub(crate) delayed: Option<(Box<Will>, Time)>,
    /// A will that is being published. The log keeps it until its publish is logged.
    pub(crate) firing: Option<Box<Will>>,
    /// Their memory.
    pub(crate) charge: Charge,
}

impl DurableSession {
    /// A session without subscriptions whose client is away.
    pub(crate) fn new(client_id: Name, expiry: Option<u32>, kept: bool, ledger: &Arc<Ledger>) -> DurableSession {
        DurableSession {
            charge: ledger.charge(ObjectKind::Sessions, DurableSession::memory(&client_id)),
            subscriptions_charge: ledger.charge(ObjectKind::Routes, 0),
            client_id,
            owner: Name::default(),
            will_granted: false,
            link: None,
            queue: None,
            expiry,
            expires_at: None,
            logged: if kept { Logged::Whole } else { Logged::Nothing },
            in_flight: InFlight::default(),
            ids_bytes: 0,
            credit: Credit::window(1),
            incoming: PacketIds::default(),
            subscriptions: Subscriptions::new(),
            shared: 0,
            consumers: Vec::new(),
            resends: Seldom::default(),
            wills: Seldom::default(),
            expiry_timer: None,
            open: false,
            ending: false,
        }
    }

    /// Whether it was opened to outlive its connection, so that all of it is logged.
    pub(crate) fn kept(&self) -> bool {
        self.logged == Logged::Whole
    }

    /// The will that waits for its delay, and when that ends.
    pub(crate) fn delayed_will(&self) -> Option<&(Box<Will>, Time)> {
        self.wills.get()?.delayed.as_ref()
    }
    /// The will that is being published.
    pub(crate) fn firing_will(&self) -> Option<&Will> {
        self.wills.get()?.firing.as_deref()
    }
    /// Makes a will wait. `charge`: its memory.
    pub(crate) fn delay_will(&mut self, will: Box<Will>, due: Time, charge: Charge) {
        let wills = self.wills.make();
        wills.delayed = Some((will, due));
        wills.charge = charge;
    }

    /// Updates the charge for `in_flight` and `incoming`. To be called when they have changed. Most calls change
    /// nothing: their capacity is what counts, and it is kept from message to message.
    #[inline]
    pub(crate) fn account_ids(&mut self) {
        let bytes = (self.in_flight.memory() + packet_ids::memory(&self.incoming)) as u32;
        if bytes != self.ids_bytes {
            self.charge.exchange(self.ids_bytes, bytes);
            self.ids_bytes = bytes;
        }
    }

    /// Forgets a QoS 2 id of the client. Returns whether it was known.
    #[inline]
    pub(crate) fn forget_incoming(&mut self, packet_id: u16) -> bool {
        let known = packet_ids::remove(&mut self.incoming, packet_id);
        self.account_ids();
        known
    }

    /// Bytes of a session without subscriptions and queue.
    pub(crate) fn memory(client_id: &str) -> usize {
        let id = ledger::text(client_id.len()) + ledger::hashed::<(Name, u32)>();
        size_of::<DurableSession>() * 5 / 4 + id + ledger::indexed(1 + client_id.len())
    }
}

/// The sessions of a vhost, by key and by client id.
#[derive(Default)]
pub(crate) struct Sessions {
    slots: Slots<SessionKey, DurableSession>,
    by_id: SegmentedMap<Name, SessionKey>,
}

impl Sessions {
    /// Adds a session. Its client must not have another one.
    pub(crate) fn insert(&mut self, session: DurableSession) -> SessionKey {
        let client_id = session.client_id.clone();
        let key = self.slots.insert(session);
        self.by_id.insert(client_id, key);
        key
    }
    pub(crate) fn remove(&mut self, key: SessionKey) -> Option<DurableSession> {
        let session = self.slots.remove(key)?;
        self.by_id.remove(&session.client_id);
        Some(session)
    }
    /// See [`Slots::slots_end`].
    pub(crate) fn slots_end(&self) -> u32 {
        self.slots.slots_end()
    }
    /// The key of the session in a slot.
    pub(crate) fn key_at(&self, slot: u32) -> Option<SessionKey> {
        self.slots.key_at(slot)
    }
    /// The session in a slot.
    pub(crate) fn at(&self, slot: u32) -> Option<&DurableSession> {
        self.get(self.slots.key_at(slot)?)
    }
    /// The session of the client with that id.
    pub(crate) fn named(&self, client_id: &str) -> Option<SessionKey> {
        self.by_id.get(client_id).copied()
    }
    #[inline]
    pub(crate) fn get(&self, key: SessionKey) -> Option<&DurableSession> {
        self.slots.get(key)
    }
    #[inline]
    pub(crate) fn get_mut(&mut self, key: SessionKey) -> Option<&mut DurableSession> {
        self.slots.get_mut(key)
    }
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SessionKey, &DurableSession)> {
        self.slots.iter()
    }
}

impl Index<SessionKey> for Sessions {
    type Output = DurableSession;
    fn index(&self, key: SessionKey) -> &DurableSession {
        &self.slots[key]
    }
}

impl IndexMut<SessionKey> for Sessions {
    fn index_mut(&mut self, key: SessionKey) -> &mut DurableSession {
        &mut self.slots[key]
    }
}

/// The name of a session's queue.
pub(crate) fn queue_name(client_id: &str) -> Name {
    format!("mqtt-subscription-{client_id}").into()
}

/// The channel number that MQTT sessions use for everything.
pub(crate) const CHANNEL: Channel = 0;

/// The name of a `$share` group's queue. Names of groups contain no slash.
pub(crate) fn shared_queue_name(share: &str, filter: &str) -> Name {
    format!("mqtt-share-{share}/{filter}").into()
}

/// Bytes of a subscription at its session: its entry, and its record in the log's index. The router counts the binding.
pub(crate) fn subscription_bytes(client_id: &str, filter: &str, share: Option<&Name>) -> usize {
    let share = share.map_or(0, |share| ledger::text(share.len()));
    let entry = ledger::sorted::<(Name, Option<Name>), Subscribed>() + ledger::text(filter.len());
    entry + share + ledger::indexed(3 + client_id.len() + filter.len())
}

/// Options by (filter, share group).
pub(crate) type Subscriptions = BTreeMap<(Name, Option<Name>), Subscribed>;

/// Options of a subscription, as the log stores them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscribed {
    pub(crate) qos: u8,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) subscription_id: Option<u32>,
}
