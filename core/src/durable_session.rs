//! An MQTT session: what outlives its connections. Its packet ids, what is in flight in both directions, and where its
//! backlog is.
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
use crate::seldom::Seldom;
use crate::slots::{ConsumerKey, Link, QueueKey, SessionKey, Slots};
use crate::time::{Time, Wall};
use hashbrown::HashMap;
use std::collections::{BTreeMap, VecDeque};
use std::mem::size_of;
use std::ops::{Index, IndexMut};
use std::sync::Arc;

/// One session of a vhost.
pub(crate) struct DurableSession {
    pub(crate) client_id: Name,
    /// The user who opened it. Empty: not known.
    pub(crate) owner: Name,
    /// Somebody outside knows what its owner may do, and has permitted its will.
    pub(crate) will_granted: bool,
    /// The link that drives it; `None` while the client is away.
    pub(crate) link: Option<Link>,
    /// Where its messages wait; made with its first subscription.
    pub(crate) queue: Option<QueueKey>,
    /// Seconds it outlives its connection; `None`: for ever.
    pub(crate) expiry: Option<u32>,
    /// When it ends, while its client is away.
    pub(crate) expires_at: Option<Wall>,
    /// It is in the log: it was opened to outlive its connection.
    pub(crate) kept: bool,
    pub(crate) in_flight: InFlight,
    /// What of `charge` is for `in_flight`, without the bodies, and for `incoming`.
    ids_bytes: u32,
    /// QoS 1 and 2 deliveries that its client takes at once (the receive maximum). Reserved or in flight, they count.
    pub(crate) credit: Credit,
    /// QoS 2 packet ids of the client's own publishes that await PUBREL.
    pub(crate) incoming: PacketIds,
    /// Its subscriptions: (filter, share group) to options.
    pub(crate) subscriptions: Subscriptions,
    /// How many of `subscriptions` are shared. Without any, a client that comes back need not look for its groups.
    pub(crate) shared: u32,
    /// Consumers it has on queues (its own, groups'), while connected.
    pub(crate) consumers: Vec<ConsumerKey>,
    /// Packet ids of what is to be sent again on this connection and has to wait for the receive maximum, in order. While
    /// there are any, `credit` is spent, so that no new message goes before them.
    pub(crate) resends: Seldom<VecDeque<u16>>,
    /// What is left of the will of a connection that is gone.
    pub(crate) wills: Seldom<Wills>,
    /// When the engine looks whether it has ended, if that is scheduled.
    pub(crate) expiry_timer: Option<Time>,
    /// Its connection was told that it is open: messages may flow.
    pub(crate) open: bool,
    /// It is over, and being taken apart.
    pub(crate) ending: bool,
    /// What it costs in memory, with the QoS 2 ids of its client.
    pub(crate) charge: Charge,
    /// What its subscriptions cost, beside their bindings.
    pub(crate) subscriptions_charge: Charge,
}

/// An idle client costs this. A vector of sessions grows by doubling, so half as much again.
const _: () = assert!(size_of::<DurableSession>() <= 312);

/// The will of a session whose client is away.
#[derive(Default)]
pub(crate) struct Wills {
    /// One that waits for its delay, and when that is over.
    pub(crate) delayed: Option<(Box<Will>, Time)>,
    /// One that is being published: the log keeps it until the log has what becomes of it.
    pub(crate) firing: Option<Box<Will>>,
    /// What they cost.
    pub(crate) charge: Charge,
}

impl DurableSession {
    /// A session without subscriptions, whose client is away.
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
            kept,
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

    /// A will that waits for its delay, and when that is over.
    pub(crate) fn delayed_will(&self) -> Option<&(Box<Will>, Time)> {
        self.wills.get()?.delayed.as_ref()
    }
    /// A will that is being published.
    pub(crate) fn firing_will(&self) -> Option<&Will> {
        self.wills.get()?.firing.as_deref()
    }
    /// Has a will wait. `charge`: what it costs.
    pub(crate) fn delay_will(&mut self, will: Box<Will>, due: Time, charge: Charge) {
        let wills = self.wills.make();
        wills.delayed = Some((will, due));
        wills.charge = charge;
    }

    /// Counts what `in_flight` and `incoming` cost now. To be called when they have changed; most calls find nothing new: it is
    /// their places that cost, and they are kept from message to message.
    #[inline]
    pub(crate) fn account_ids(&mut self) {
        let bytes = (self.in_flight.memory() + packet_ids::memory(&self.incoming)) as u32;
        if bytes != self.ids_bytes {
            self.charge.exchange(self.ids_bytes, bytes);
            self.ids_bytes = bytes;
        }
    }

    /// Forgets a QoS 2 id of the client's. Returns whether it was known.
    #[inline]
    pub(crate) fn forget_incoming(&mut self, packet_id: u16) -> bool {
        let known = packet_ids::remove(&mut self.incoming, packet_id);
        self.account_ids();
        known
    }

    /// What a session costs in memory without subscriptions and queue.
    pub(crate) fn memory(client_id: &str) -> usize {
        let id = ledger::text(client_id.len()) + ledger::hashed::<(Name, u32)>();
        size_of::<DurableSession>() * 5 / 4 + id + ledger::indexed(1 + client_id.len())
    }
}

/// The sessions of a vhost, by key and by client identifier.
#[derive(Default)]
pub(crate) struct Sessions {
    slots: Slots<SessionKey, DurableSession>,
    by_id: HashMap<Name, SessionKey>,
}

impl Sessions {
    /// Adds a session. Its client has no other.
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
    /// The key of what is in a slot now.
    pub(crate) fn key_at(&self, slot: u32) -> Option<SessionKey> {
        self.slots.key_at(slot)
    }
    /// What is in a slot now.
    pub(crate) fn at(&self, slot: u32) -> Option<&DurableSession> {
        self.get(self.slots.key_at(slot)?)
    }
    /// The session of the client with that identifier.
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

/// The channel of everything an MQTT session says and hears.
pub(crate) const CHANNEL: Channel = 0;

/// The name of a `$share` group's queue. A group's name has no slash.
pub(crate) fn shared_queue_name(share: &str, filter: &str) -> Name {
    format!("mqtt-share-{share}/{filter}").into()
}

/// What a subscription costs at its session: its entry, and its record in the log's index. The binding is the router's.
pub(crate) fn subscription_bytes(client_id: &str, filter: &str, share: Option<&Name>) -> usize {
    let share = share.map_or(0, |share| ledger::text(share.len()));
    let entry = ledger::sorted::<(Name, Option<Name>), Subscribed>() + ledger::text(filter.len());
    entry + share + ledger::indexed(3 + client_id.len() + filter.len())
}

/// (Filter, share group) to options.
pub(crate) type Subscriptions = BTreeMap<(Name, Option<Name>), Subscribed>;

/// Options of a subscription, as the log keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscribed {
    pub(crate) qos: u8,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) subscription_id: Option<u32>,
}
