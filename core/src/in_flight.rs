//! Outgoing packet ids of an MQTT session: messages that were sent and are not fully acknowledged.
//!
//! Ids increase by one, so an id's place in a ring is its distance from the oldest. A client that never acknowledges one id
//! but the others would make the ring grow to all 65,535 places for a single message. So if the ring becomes
//! sparse, its oldest messages move to a tree:
//!
//! ```text
//!   stragglers  3  9          ring  | 40,001 | free | 40,003 | ... |  last
//! ```

use crate::queue::entry::Entry;
use crate::seldom::Seldom;
use crate::slots::QueueKey;
use std::collections::{BTreeMap, VecDeque};
use std::mem::size_of;

/// An outgoing QoS 1 or 2 message that the client has not completely acknowledged.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) queue: QueueKey,
    pub(crate) entry: Entry,
    /// The QoS that it is delivered with.
    pub(crate) qos: u8,
    /// PUBREC has arrived: only PUBREL is sent from now on.
    pub(crate) released: bool,
    /// Whether it counts against the receive maximum of the present connection.
    pub(crate) counted: bool,
    /// A number that grows with each id given; set by [`InFlight`].
    pub(crate) order: u64,
}

/// The outgoing packet ids of a session.
#[derive(Default)]
pub(crate) struct InFlight {
    /// `ring[i]` has id `base + i`, wrapping from 65,535 to 1.
    ring: VecDeque<Option<Outgoing>>,
    /// Messages moved out of the ring because it had become sparse.
    stragglers: Seldom<BTreeMap<u16, Outgoing>>,
    /// The id of `ring[0]`; meaningless while the ring is empty.
    base: u16,
    /// The id given last.
    last: u16,
    /// The number of ids given so far.
    given: u64,
    count: usize,
}

/// The ring may have this many unused places, and in addition as many as are in use.
const FREE_PLACES: usize = 64;

impl InFlight {
    /// The number of ids given so far.
    pub(crate) fn given(&self) -> u64 {
        self.given
    }
    /// Gives `outgoing` the next free packet id; `None` if all 65,535 are in use.
    pub(crate) fn assign(&mut self, outgoing: Outgoing) -> Option<u16> {
        if self.count >= usize::from(u16::MAX) {
            return None;
        }
        let mut id = Self::step(self.last, 1);
        // Usually it follows the newest id, and no message was moved out of the ring.
        let follows = self.ring.is_empty()
            || (usize::from(Self::distance(self.base, id)) == self.ring.len() && !self.is_sparse_up_to(id));
        if follows && self.left_behind() == 0 {
            self.append(id, outgoing);
            return Some(id);
        }
        while self.find_mut(id).is_some() {
            id = Self::step(id, 1);
        }
        self.insert(id, outgoing);
        Some(id)
    }
    /// Adds a message whose place is behind all of the ring.
    fn append(&mut self, id: u16, mut outgoing: Outgoing) {
        self.given += 1;
        outgoing.order = self.given;
        if self.ring.is_empty() {
            self.base = id;
        }
        self.ring.push_back(Some(outgoing));
        self.count += 1;
        self.last = id;
    }
    /// Adds a message with a known id, after a restart. Ids must come in the order in which they were given.
    pub(crate) fn insert(&mut self, id: u16, mut outgoing: Outgoing) {
        self.given += 1;
        outgoing.order = self.given;
        // An id that is used twice is damage; the newer message counts.
        let older = self.stragglers.get_mut().and_then(|left| left.remove(&id));
        self.count -= usize::from(older.is_some());
        while !self.ring.is_empty() && self.is_sparse_up_to(id) {
            self.leave_behind();
        }
        if self.ring.is_empty() {
            self.base = id;
        }
        let at = usize::from(Self::distance(self.base, id));
        while self.ring.len() <= at {
            self.ring.push_back(None);
        }
        self.count += usize::from(self.ring[at].is_none());
        self.ring[at] = Some(outgoing);
        self.last = id;
    }
    /// Whether the ring, extended to a place for `id`, would be mostly unused.
    #[inline]
    fn is_sparse_up_to(&self, id: u16) -> bool {
        let taken = self.count - self.left_behind();
        usize::from(Self::distance(self.base, id)) > FREE_PLACES + 2 * taken
    }
    /// Moves the oldest message of the ring to the stragglers.
    fn leave_behind(&mut self) {
        if let Some(Some(outgoing)) = self.ring.pop_front() {
            self.stragglers.make().insert(self.base, outgoing);
        }
        self.base = Self::step(self.base, 1);
        self.trim();
    }
    /// Drops unused places in front, so that the first place of the ring is used, or there is none.
    #[inline]
    fn trim(&mut self) {
        while let Some(None) = self.ring.front() {
            self.ring.pop_front();
            self.base = Self::step(self.base, 1);
        }
    }
    #[inline]
    pub(crate) fn find_mut(&mut self, id: u16) -> Option<&mut Outgoing> {
        if id == 0 {
            return None;
        }
        // An unused place may belong to a straggler, because the ring has come round to its id.
        if !self.ring.is_empty()
            && let Some(Some(outgoing)) = self.ring.get_mut(usize::from(Self::distance(self.base, id)))
        {
            return Some(outgoing);
        }
        self.stragglers.get_mut()?.get_mut(&id)
    }
    #[inline]
    pub(crate) fn remove(&mut self, id: u16) -> Option<Outgoing> {
        if id == 0 {
            return None;
        }
        let place = if self.ring.is_empty() {
            None
        } else {
            self.ring.get_mut(usize::from(Self::distance(self.base, id)))
        };
        let outgoing = match place.and_then(Option::take) {
            Some(outgoing) => outgoing,
            None => self.stragglers.get_mut()?.remove(&id)?,
        };
        self.count -= 1;
        self.trim();
        if self.ring.is_empty() && self.ring.capacity() > KEPT_PLACES {
            // Free memory allocated for a burst, so that an idle session stays small.
            self.ring = VecDeque::new();
        }
        Some(outgoing)
    }
    /// Packet ids in the order in which they were given.
    pub(crate) fn ids(&self) -> Vec<u16> {
        let ring = self.ring.iter().enumerate();
        let ring = ring.filter_map(|(i, o)| Some((o.as_ref()?.order, Self::step(self.base, i as u16))));
        let behind = self.stragglers.get().into_iter().flatten();
        let behind = behind.map(|(id, o)| (o.order, *id));
        let mut order: Vec<(u64, u16)> = ring.chain(behind).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, id)| id).collect()
    }
    /// Every outgoing message, in no particular order.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Outgoing> {
        let behind = self.stragglers.get_mut().into_iter();
        self.ring
            .iter_mut()
            .flatten()
            .chain(behind.flat_map(BTreeMap::values_mut))
    }
    /// Every outgoing message, in no particular order.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Outgoing> {
        let behind = self.stragglers.get().into_iter();
        self.ring.iter().flatten().chain(behind.flat_map(BTreeMap::values))
    }
    #[inline]
    fn left_behind(&self) -> usize {
        self.stragglers.get().map_or(0, BTreeMap::len)
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }
    pub(crate) fn len(&self) -> usize {
        self.count
    }
    /// Removes any one.
    pub(crate) fn pop(&mut self) -> Option<Outgoing> {
        if let Some((_, outgoing)) = self.stragglers.get_mut().and_then(BTreeMap::pop_first) {
            self.count -= 1;
            return Some(outgoing);
        }
        if self.count == 0 {
            self.ring = VecDeque::new();
            return None;
        }
        // The first place is taken.
        self.remove(self.base)
    }
    /// Bytes of memory on the heap, without the messages' bodies.
    pub(crate) fn memory(&self) -> usize {
        self.ring.capacity() * size_of::<Option<Outgoing>>()
            + self.left_behind() * crate::ledger::sorted::<u16, Outgoing>()
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

/// The capacity that an empty ring keeps.
const KEPT_PLACES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Position;
    use crate::queue::entry::{Body, EntryFlags};

    fn outgoing(seq: u64) -> Outgoing {
        let body = Body::Disk {
            at: Position { segment: 1, offset: 0 },
            body_len: 1,
        };
        Outgoing {
            queue: QueueKey { slot: 0, generation: 1 },
            entry: Entry {
                seq,
                body,
                flags: EntryFlags::default(),
                subscription_ids: None,
                priority: 0,
            },
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

    /// One message that its client never acknowledged kept a place for each of the 65,535 ids behind it: 5 MB for a
    /// session, which were not counted anywhere.
    #[test]
    fn one_that_is_never_finished_with_costs_no_more_than_itself() {
        let mut f = InFlight::default();
        let held = f.assign(outgoing(0)).unwrap();
        for s in 1..65_000 {
            let id = f.assign(outgoing(s)).unwrap();
            f.remove(id).unwrap();
        }
        let places = f.memory() / size_of::<Option<Outgoing>>();
        assert!(places <= 4 * FREE_PLACES, "{places}");
        assert_eq!((f.len(), f.ids()), (1, vec![held]));
        assert_eq!(f.find_mut(held).unwrap().entry.seq, 0);
        assert_eq!(f.remove(held).unwrap().entry.seq, 0);
        assert!(f.is_empty() && f.pop().is_none());
        assert!(f.memory() <= KEPT_PLACES * size_of::<Option<Outgoing>>());
    }

    /// Compared with a plain map, with a client that acknowledges in any order and leaves some for long.
    #[test]
    fn whatever_is_acknowledged_in_whatever_order_is_found_once() {
        let mut f = InFlight::default();
        let mut book: Vec<(u16, u64)> = Vec::new();
        let mut state = 7u64;
        let mut below = |limit: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % limit
        };
        for seq in 0..200_000 {
            if book.len() < 300 && below(2) == 0 {
                let id = f.assign(outgoing(seq)).unwrap();
                assert!(book.iter().all(|(other, _)| *other != id), "{id} is busy");
                book.push((id, seq));
            } else if !book.is_empty() {
                // Mostly the last ones, so that the first ones stay.
                let at = if below(20) == 0 {
                    below(book.len())
                } else {
                    book.len() - 1 - below(book.len().min(5))
                };
                let (id, seq) = book.remove(at);
                assert_eq!(f.find_mut(id).unwrap().entry.seq, seq);
                assert_eq!(f.remove(id).unwrap().entry.seq, seq);
                assert!(f.remove(id).is_none());
            }
            assert_eq!(f.len(), book.len());
        }
        assert_eq!(f.ids(), book.iter().map(|(id, _)| *id).collect::<Vec<_>>());
        let mut popped: Vec<u64> = std::iter::from_fn(|| f.pop()).map(|o| o.entry.seq).collect();
        popped.sort_unstable();
        assert_eq!(popped, book.iter().map(|(_, seq)| *seq).collect::<Vec<_>>());
    }
}
