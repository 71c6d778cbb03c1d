//! An MQTT session: what outlives its connections. Its packet ids, what is in flight in both directions, and where its
//! backlog is.
//!
//! ```text
//!   outgoing QoS 1:  Sent ──PUBACK──► gone
//!   outgoing QoS 2:  Sent ──PUBREC──► Released ──PUBCOMP──► gone
//!   incoming QoS 2:  held ──PUBREL──► forgotten
//! ```

use crate::command::{Channel, Will};
use crate::ledger::{self, Charge, Ledger, ObjectKind};
use crate::message::Dialect;
use crate::properties::Name;
use crate::queue::credit::Credit;
use crate::queue::entry::{Body, Entry};
use crate::slots::{ConsumerKey, Link, QueueKey, SessionKey, Slots};
use crate::time::{Time, Wall};
use crate::topic::{Levels, Pattern};
use hashbrown::HashMap;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem::size_of;
use std::ops::{Index, IndexMut};
use std::sync::Arc;

/// One session of a vhost.
pub(crate) struct DurableSession {
    pub(crate) client_id: Name,
    /// The user who opened it. Empty: not known.
    pub(crate) owner: Name,
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
    /// QoS 1 and 2 deliveries that its client takes at once (the receive maximum). Reserved or in flight, they count.
    pub(crate) credit: Credit,
    /// QoS 2 packet ids of the client's own publishes that await PUBREL.
    pub(crate) incoming: BTreeSet<u16>,
    /// Its subscriptions: (filter, share group) to options.
    pub(crate) subscriptions: Subscriptions,
    /// Consumers it has on queues (its own, groups'), while connected.
    pub(crate) consumers: Vec<ConsumerKey>,
    /// Packet ids of what is to be sent again on this connection and has to wait for the receive maximum, in order. While
    /// there are any, `credit` is spent, so that no new message goes before them.
    pub(crate) resends: VecDeque<u16>,
    /// A will that waits for its delay, and when that is over.
    pub(crate) delayed_will: Option<(Box<Will>, Time)>,
    /// A will that is being published: the log keeps it until the log has what becomes of it.
    pub(crate) firing_will: Option<Box<Will>>,
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
    /// What `delayed_will` or `firing_will` costs.
    pub(crate) will_charge: Charge,
}

impl DurableSession {
    /// A session without subscriptions, whose client is away.
    pub(crate) fn new(client_id: Name, expiry: Option<u32>, kept: bool, ledger: &Arc<Ledger>) -> DurableSession {
        DurableSession {
            charge: ledger.charge(ObjectKind::Sessions, DurableSession::memory(&client_id)),
            subscriptions_charge: ledger.charge(ObjectKind::Routes, 0),
            will_charge: Charge::default(),
            client_id,
            owner: Name::default(),
            link: None,
            queue: None,
            expiry,
            expires_at: None,
            kept,
            in_flight: InFlight::default(),
            credit: Credit::window(1),
            incoming: BTreeSet::new(),
            subscriptions: Subscriptions::new(),
            consumers: Vec::new(),
            resends: VecDeque::new(),
            delayed_will: None,
            firing_will: None,
            expiry_timer: None,
            open: false,
            ending: false,
        }
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

/// What a QoS 2 id costs: an entry of a B-tree, at the end of which the next one is added.
pub(crate) const INCOMING_ID_BYTES: usize = 6;

/// What a subscription costs at its session: its entry, and its record in the log's index. The binding is the router's.
pub(crate) fn subscription_bytes(client_id: &str, filter: &str, share: Option<&Name>) -> usize {
    let share = share.map_or(0, |share| ledger::text(share.len()));
    let entry = ledger::sorted::<(Name, Option<Name>), Subscribed>() + ledger::text(filter.len());
    entry + share + ledger::indexed(3 + client_id.len() + filter.len())
}

/// (Filter, share group) to options.
pub(crate) type Subscriptions = BTreeMap<(Name, Option<Name>), Subscribed>;

/// The identifiers of those of a session's subscriptions that an entry of its queue matches: the log does not keep them.
pub(crate) fn ids_of(subscriptions: &Subscriptions, entry: &Entry) -> Option<Arc<[u32]>> {
    let Body::Memory(message) = &entry.body else {
        return entry.subscription_ids.clone();
    };
    if entry.subscription_ids.is_some() {
        return entry.subscription_ids.clone();
    }
    let with_ids = subscriptions
        .iter()
        .filter_map(|((filter, share), s)| s.subscription_id.filter(|_| share.is_none()).map(|id| (filter, id)));
    let levels = Levels::new(message.key(), message.envelope().dialect);
    let ids: Vec<u32> = with_ids
        .filter(|(filter, _)| Pattern::parse(filter, Dialect::Slash).is_ok_and(|p| p.matches(&levels)))
        .map(|(_, id)| id)
        .collect();
    (!ids.is_empty()).then(|| ids.into())
}

/// Options of a subscription, as the log keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscribed {
    pub(crate) qos: u8,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) subscription_id: Option<u32>,
}

/// An outgoing QoS 1 or 2 message that the client has not finished with.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) queue: QueueKey,
    pub(crate) entry: Entry,
    /// QoS it is delivered with.
    pub(crate) qos: u8,
    /// PUBREC arrived: only PUBREL is sent from here on.
    pub(crate) released: bool,
    /// It counts against the receive maximum of the present connection.
    pub(crate) counted: bool,
    /// Grows with each id given; set by [`InFlight`].
    pub(crate) order: u64,
}

/// Outgoing packet ids. Ids grow by one (skipping those still busy from the last lap), so an id's place is its distance
/// from the oldest.
#[derive(Default)]
pub(crate) struct InFlight {
    /// `ring[i]` has id `base + i`, wrapping from 65,535 to 1.
    ring: VecDeque<Option<Outgoing>>,
    /// Id of `ring[0]`; meaningless while the ring is empty.
    base: u16,
    /// The id given last.
    last: u16,
    /// Ids given so far.
    given: u64,
    count: usize,
}

impl InFlight {
    /// Gives `outgoing` the next free packet id; `None` if all 65,535 are busy.
    pub(crate) fn assign(&mut self, outgoing: Outgoing) -> Option<u16> {
        if self.count >= usize::from(u16::MAX) {
            return None;
        }
        let mut id = Self::step(self.last, 1);
        while self.find_mut(id).is_some() {
            id = Self::step(id, 1);
        }
        self.insert(id, outgoing);
        Some(id)
    }
    /// Adds one whose id is known (after a restart). Ids come in the order they were given.
    pub(crate) fn insert(&mut self, id: u16, mut outgoing: Outgoing) {
        self.given += 1;
        outgoing.order = self.given;
        if self.ring.is_empty() {
            self.base = id;
        }
        let at = usize::from(Self::distance(self.base, id));
        while self.ring.len() <= at {
            self.ring.push_back(None);
        }
        // An id in use twice is damage: the newer wins.
        self.count += usize::from(self.ring[at].is_none());
        self.ring[at] = Some(outgoing);
        self.last = id;
    }
    pub(crate) fn find_mut(&mut self, id: u16) -> Option<&mut Outgoing> {
        if id == 0 || self.ring.is_empty() {
            return None;
        }
        self.ring.get_mut(usize::from(Self::distance(self.base, id)))?.as_mut()
    }
    pub(crate) fn remove(&mut self, id: u16) -> Option<Outgoing> {
        if id == 0 || self.ring.is_empty() {
            return None;
        }
        let outgoing = self.ring.get_mut(usize::from(Self::distance(self.base, id)))?.take()?;
        self.count -= 1;
        while let Some(None) = self.ring.front() {
            self.ring.pop_front();
            self.base = Self::step(self.base, 1);
        }
        Some(outgoing)
    }
    /// Packet ids in the order they were given.
    pub(crate) fn ids(&self) -> Vec<u16> {
        let live = self
            .ring
            .iter()
            .enumerate()
            .filter_map(|(i, o)| Some((o.as_ref()?.order, i)));
        let mut order: Vec<(u64, usize)> = live.collect();
        order.sort_unstable();
        order
            .into_iter()
            .map(|(_, i)| Self::step(self.base, i as u16))
            .collect()
    }
    /// Every outgoing message, in no particular order.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Outgoing> {
        self.ring.iter_mut().flatten()
    }
    /// Every outgoing message, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Outgoing> {
        self.ring.iter().flatten()
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }
    /// Removes one, the one with the oldest id.
    pub(crate) fn pop(&mut self) -> Option<Outgoing> {
        if self.count == 0 {
            self.ring = VecDeque::new();
            return None;
        }
        let first = self.ring.iter().position(Option::is_some)?;
        self.remove(Self::step(self.base, first as u16))
    }
    /// `id` plus `n`, from 1 to 65,535.
    fn step(id: u16, n: u16) -> u16 {
        let zero_based = u32::from(id.wrapping_sub(1)) % 65_535;
        let zero_based = if id == 0 { 65_534 } else { zero_based };
        ((zero_based + u32::from(n)) % 65_535) as u16 + 1
    }
    /// Steps from `from` to `to`.
    fn distance(from: u16, to: u16) -> u16 {
        ((u32::from(to) + 65_535 - u32::from(from)) % 65_535) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(seq: u64) -> Outgoing {
        Outgoing {
            queue: QueueKey { slot: 0, generation: 1 },
            entry: Entry::on_disk(seq, 1),
            qos: 1,
            released: false,
            counted: true,
            order: 0,
        }
    }

    #[test]
    fn ids_start_at_1_and_wrap_from_65535_to_1() {
        let mut f = InFlight::default();
        for round in 0..140_000u64 {
            let id = f.assign(outgoing(round)).unwrap();
            assert_eq!(u64::from(id), round % 65_535 + 1);
            assert_eq!(f.remove(id).unwrap().entry.seq, round);
        }
    }

    #[test]
    fn an_id_is_found_wherever_it_stands_and_only_once() {
        let mut f = InFlight::default();
        let ids: Vec<_> = (0..10).map(|s| f.assign(outgoing(s)).unwrap()).collect();
        assert_eq!(f.remove(ids[3]).unwrap().entry.seq, 3);
        assert!(f.remove(ids[3]).is_none());
        assert!(f.find_mut(0).is_none() && f.find_mut(999).is_none());
        assert_eq!(f.remove(ids[0]).unwrap().entry.seq, 0);
        assert_eq!(f.ids(), [2, 3, 5, 6, 7, 8, 9, 10]);
    }

    #[test]
    fn a_full_ring_gives_no_id_instead_of_a_busy_one() {
        let mut f = InFlight::default();
        for s in 0..65_535 {
            assert!(f.assign(outgoing(s)).is_some());
        }
        assert!(f.assign(outgoing(0)).is_none());
        f.remove(7).unwrap();
        assert_eq!(f.assign(outgoing(0)), Some(7));
        assert_eq!(f.ids().last(), Some(&7), "it was given last");
    }

    #[test]
    fn ids_held_for_a_whole_lap_are_skipped() {
        let mut f = InFlight::default();
        let held: Vec<_> = (0..3).map(|s| f.assign(outgoing(s)).unwrap()).collect();
        for s in 0..70_000 {
            let id = f.assign(outgoing(s)).unwrap();
            assert!(id != 0 && !held.contains(&id));
            f.remove(id).unwrap();
        }
        assert_eq!(f.ids(), held);
    }
}
