//! The queues of a vhost, and lists of those with work to do.

use crate::binding::QueueSlot;
use crate::message::Message;
use crate::queue::Queue;
use crate::segmented::SegmentedMap;
use crate::slots::{QueueKey, Slots};
use crate::store::{QueueAcks, QueueId, VhostId};
use std::collections::VecDeque;
use std::ops::{Index, IndexMut};

/// All queues. The log identifies a queue by its number, the router by its slot. The router finds queues by name.
pub(crate) struct Queues {
    slots: Slots<QueueKey, Queue>,
    by_number: SegmentedMap<QueueId, QueueKey>,
    vhost: VhostId,
    /// The number of the next queue in the vhost. Numbers are never reused.
    next_number: u64,
    touched: Touched,
    /// Durable queues with settled sequences that are not logged yet.
    unlogged_acks: Vec<QueueKey>,
}

/// Queues to be dispatched before the turn ends. Each is listed once: see [`Queue::touched`].
#[derive(Default)]
pub(crate) struct Touched(Vec<QueueKey>);

/// Queues with more work than their turn had time for. Each is on a list once.
#[derive(Default)]
pub(crate) struct Behind {
    /// To be dispatched in the next turn: see [`Queue::dispatched_later`].
    pub(super) dispatches: VecDeque<QueueKey>,
    /// Above their limits: see [`Queue::overfull`].
    pub(super) overfull: VecDeque<QueueKey>,
    /// Messages that full queues refused and that are still to be dead-lettered.
    pub(super) refused: VecDeque<(QueueKey, Message)>,
}

impl Touched {
    /// Adds a queue to be dispatched before the turn ends.
    #[inline]
    pub(crate) fn add(&mut self, key: QueueKey, queue: &mut Queue) {
        if !queue.touched {
            queue.touched = true;
            self.0.push(key);
        }
    }
}

impl Queues {
    pub(crate) fn new(vhost: VhostId) -> Queues {
        Queues {
            vhost,
            slots: Slots::default(),
            by_number: SegmentedMap::default(),
            next_number: 1,
            touched: Touched::default(),
            unlogged_acks: Vec::new(),
        }
    }

    /// Takes the number for a new queue.
    pub(crate) fn new_number(&mut self) -> QueueId {
        // 2^40 numbers would last for twelve days at a million a second; declaring takes far longer.
        let id = QueueId::new(self.vhost, self.next_number)
            .unwrap_or_else(|| panic!("vhost {} has had all the queues that there are numbers for", self.vhost));
        self.next_number += 1;
        id
    }
    /// The number that the next queue will get.
    pub(crate) fn next_number(&self) -> u64 {
        self.next_number
    }
    /// Notes that numbers up to `last` were used before the start.
    pub(crate) fn given_up_to(&mut self, last: u64) {
        self.next_number = self.next_number.max(last + 1);
    }

    pub(crate) fn insert(&mut self, queue: Queue) -> QueueKey {
        let id = queue.id;
        let key = self.slots.insert(queue);
        self.by_number.insert(id, key);
        key
    }
    pub(crate) fn remove(&mut self, key: QueueKey) -> Option<Queue> {
        let queue = self.slots.remove(key)?;
        self.by_number.remove(&queue.id);
        Some(queue)
    }
    #[inline]
    pub(crate) fn get(&self, key: QueueKey) -> Option<&Queue> {
        self.slots.get(key)
    }
    #[inline]
    pub(crate) fn get_mut(&mut self, key: QueueKey) -> Option<&mut Queue> {
        self.slots.get_mut(key)
    }
    /// The queue in a slot of the router.
    #[inline]
    pub(crate) fn at(&self, slot: QueueSlot) -> Option<QueueKey> {
        self.slots.key_at(slot.0)
    }
    #[inline]
    pub(crate) fn at_mut(&mut self, slot: QueueSlot) -> Option<(QueueKey, &mut Queue, &mut Touched)> {
        let (key, queue) = self.slots.at_mut(slot.0)?;
        Some((key, queue, &mut self.touched))
    }
    /// The queue with a number of the log.
    pub(crate) fn numbered(&self, id: QueueId) -> Option<QueueKey> {
        self.by_number.get(&id).copied()
    }
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
    #[cfg(feature = "testing")]
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
    /// See [`Slots::slots_end`].
    pub(crate) fn slots_end(&self) -> u32 {
        self.slots.slots_end()
    }
    pub(crate) fn contains(&self, key: QueueKey) -> bool {
        self.slots.contains(key)
    }
    pub(crate) fn iter(&self) -> impl Iterator<Item = (QueueKey, &Queue)> {
        self.slots.iter()
    }

    /// Adds a queue to be dispatched before the turn ends.
    pub(crate) fn touch(&mut self, key: QueueKey) {
        if let Some(queue) = self.slots.get_mut(key) {
            self.touched.add(key, queue);
        }
    }
    /// Forgets which queues are to be dispatched.
    pub(crate) fn forget_touched(&mut self) {
        while self.next_touched().is_some() {}
    }
    /// Takes the next queue to dispatch.
    pub(crate) fn next_touched(&mut self) -> Option<QueueKey> {
        loop {
            let key = self.touched.0.pop()?;
            if let Some(queue) = self.slots.get_mut(key) {
                queue.touched = false;
                return Some(key);
            }
        }
    }
    #[cfg(feature = "testing")]
    pub(crate) fn is_any_touched(&self) -> bool {
        !self.touched.0.is_empty()
    }

    /// Notes for the log that a message is settled. Returns whether it is the queue's first since the last record.
    pub(crate) fn note_ack(&mut self, key: QueueKey, seq: u64) -> bool {
        let first = self.slots.get_mut(key).is_some_and(|queue| queue.note_ack(seq));
        if first {
            self.unlogged_acks.push(key);
        }
        first
    }
    /// Notes that the queue has settled sequences to be logged.
    pub(crate) fn has_unlogged_acks(&mut self, key: QueueKey) {
        self.unlogged_acks.push(key);
    }
    /// Whether any settled sequence is not logged yet.
    pub(crate) fn is_any_ack_unlogged(&self) -> bool {
        !self.unlogged_acks.is_empty()
    }
    /// Takes the sequences settled since the last call, by queue.
    pub(crate) fn take_acks(&mut self) -> Vec<QueueAcks> {
        let mut all = Vec::with_capacity(self.unlogged_acks.len());
        for key in self.unlogged_acks.drain(..) {
            if let Some(queue) = self.slots.get_mut(key) {
                let settled = queue.take_acks();
                if !settled.is_empty() {
                    all.push(QueueAcks {
                        queue: queue.id,
                        settled,
                    });
                }
            }
        }
        all
    }
}

impl Index<QueueKey> for Queues {
    type Output = Queue;
    fn index(&self, key: QueueKey) -> &Queue {
        &self.slots[key]
    }
}

impl IndexMut<QueueKey> for Queues {
    fn index_mut(&mut self, key: QueueKey) -> &mut Queue {
        &mut self.slots[key]
    }
}

/// The slot by which the router knows the queue. It is half of a key, so that a route's targets are small. The engine
/// removes a queue from the router before the slot is reused.
pub(crate) fn router_slot(key: QueueKey) -> QueueSlot {
    QueueSlot(key.slot)
}
