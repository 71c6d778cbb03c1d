//! The unsettled deliveries of one channel: numbered, and settled in any order.
//!
//! Numbers mostly grow by one, and a client that never settles can have millions of deliveries. Each takes 32 bytes, in
//! chunks: so no list of all of them is ever copied, and one delivery that is never settled does not keep the places of
//! all later ones.

use super::entry::{Body, Entry, EntryFlags};
use crate::slots::{ConsumerKey, QueueKey};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// One delivery that is not settled.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) queue: QueueKey,
    /// `None`: fetched by a `Get`.
    pub(crate) consumer: Option<ConsumerKey>,
    pub(crate) entry: Entry,
}

impl Delivered {
    /// Bytes of memory that it occupies while it is unsettled.
    pub(crate) fn cost(&self) -> usize {
        cost(&self.entry.body)
    }
}

/// The parts of an unsettled delivery that may be changed in place.
pub(crate) struct DeliveredMut<'a> {
    pub(crate) queue: QueueKey,
    pub(crate) seq: u64,
    pub(crate) priority: u8,
    pub(crate) flags: &'a mut EntryFlags,
    pub(crate) body: &'a mut Body,
}

/// What happened to the body of an unsettled delivery that could leave memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shed {
    /// It is not in memory, or has to stay there.
    Done,
    /// It is being written to the log. It and later ones have to be looked at again.
    OnItsWay,
    /// Nothing more is to be released now.
    Stop,
}

/// The unsettled deliveries of a channel.
#[derive(Default)]
pub(crate) struct Unsettled {
    /// By number, ascending. The first place of the first chunk is unsettled.
    chunks: VecDeque<Chunk>,
    /// The number of unsettled deliveries.
    count: usize,
    /// No delivery with a lower number has a body in memory that could leave.
    shed_below: u64,
}

/// Deliveries with neighbouring numbers.
#[derive(Default)]
struct Chunk {
    /// Numbers are stored as distances from this one.
    base: u64,
    /// The queues and consumers of its deliveries.
    sources: SmallVec<[(QueueKey, Option<ConsumerKey>); 1]>,
    /// By number, ascending.
    places: VecDeque<Place>,
    /// The number of unsettled ones. If the chunk has many places, at least a quarter of them are.
    unsettled: usize,
}

struct Place {
    /// Its number minus the chunk's base.
    distance: u32,
    /// Index of its source.
    source: u8,
    flags: EntryFlags,
    priority: u8,
    seq: u64,
    /// `None`: already settled.
    body: Option<Body>,
}

/// Bytes of an unsettled delivery without its body.
pub(crate) const PLACE_BYTES: usize = size_of::<Place>();
const _: () = assert!(PLACE_BYTES <= 32);

/// The most places in a chunk.
const CHUNK: usize = 256;
/// The most sources in a chunk: `Place::source` is one byte.
const SOURCES: usize = 256;
/// Chunks with at most this many places are kept however many of them are settled.
const SPARSE_MIN: usize = 64;

/// Bytes of memory that a delivery occupies while it is unsettled.
pub(crate) fn cost(body: &Body) -> usize {
    match body {
        Body::Memory(message) => PLACE_BYTES + message.memory(),
        Body::Disk { .. } => PLACE_BYTES,
    }
}

impl Unsettled {
    /// Adds the delivery `number`, which is higher than all before.
    pub(crate) fn push(&mut self, number: u64, delivered: Delivered) {
        let source = (delivered.queue, delivered.consumer);
        let found = self.chunks.back_mut().and_then(|chunk| chunk.place(number, source));
        let (distance, source) = found.unwrap_or_else(|| {
            self.chunks.push_back(Chunk {
                base: number,
                sources: SmallVec::from_iter([source]),
                ..Chunk::default()
            });
            (0, 0)
        });
        debug_assert!(
            delivered.entry.subscription_ids.is_none(),
            "only entries of a session's queue have subscription identifiers"
        );
        let Entry {
            seq,
            body,
            flags,
            priority,
            ..
        } = delivered.entry;
        if let Some(chunk) = self.chunks.back_mut() {
            debug_assert!(chunk.places.back().is_none_or(|p| p.distance < distance));
            chunk.places.push_back(Place {
                distance,
                source,
                flags,
                priority,
                seq,
                body: Some(body),
            });
            chunk.unsettled += 1;
            self.count += 1;
        }
    }
    /// The number of unsettled deliveries.
    pub(crate) fn len(&self) -> usize {
        self.count
    }
    pub(crate) fn contains(&self, number: u64) -> bool {
        self.find(number)
            .is_some_and(|(chunk, at)| self.chunks[chunk].places[at].body.is_some())
    }
    /// Removes the delivery with that number.
    pub(crate) fn remove(&mut self, number: u64) -> Option<Delivered> {
        let (chunk, at) = self.find(number)?;
        let delivered = self.chunks[chunk].take(at)?;
        self.count -= 1;
        self.trim(chunk);
        Some(delivered)
    }
    /// Removes the oldest one, if its number is at most `upto`.
    pub(crate) fn pop_upto(&mut self, upto: u64) -> Option<Delivered> {
        if !self.reaches(upto) {
            return None;
        }
        let delivered = self.chunks.front_mut()?.take(0)?;
        self.count -= 1;
        self.trim(0);
        Some(delivered)
    }
    /// The number of unsettled deliveries with numbers up to `upto`. Settled ones between them may be counted as well.
    pub(crate) fn count_upto(&self, upto: u64) -> usize {
        let numbers = self
            .first()
            .map_or(0, |first| upto.saturating_add(1).saturating_sub(first));
        self.count.min(usize::try_from(numbers).unwrap_or(usize::MAX))
    }
    /// Whether there is one with a number up to `upto`.
    pub(crate) fn reaches(&self, upto: u64) -> bool {
        self.first().is_some_and(|number| number <= upto)
    }
    /// The lowest number of one from `number` on.
    pub(crate) fn next_from(&self, number: u64) -> Option<u64> {
        let first = self.chunks.partition_point(|c| c.base <= number).saturating_sub(1);
        self.chunks.range(first..).find_map(|chunk| {
            let at = |p: &Place| chunk.base + u64::from(p.distance);
            let from = chunk.places.partition_point(|p| at(p) < number);
            let mut places = chunk.places.range(from..);
            places.find(|p| p.body.is_some()).map(at)
        })
    }
    /// All of them, oldest first: queue, consumer, sequence, body.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (QueueKey, Option<ConsumerKey>, u64, &Body)> {
        self.chunks.iter().flat_map(|chunk| {
            chunk.places.iter().filter_map(|place| {
                let (queue, consumer) = chunk.sources[usize::from(place.source)];
                Some((queue, consumer, place.seq, place.body.as_ref()?))
            })
        })
    }
    /// Calls `note` with queue and sequence of the unsettled deliveries from `number` on, oldest first. Each costs a
    /// step. Returns the number to continue at when the steps are used up.
    pub(crate) fn look_from(&self, number: u64, steps: &mut usize, mut note: impl FnMut(QueueKey, u64)) -> Option<u64> {
        let first = self.chunks.partition_point(|c| c.base <= number).saturating_sub(1);
        for chunk in self.chunks.range(first..) {
            let from = chunk
                .places
                .partition_point(|p| chunk.base + u64::from(p.distance) < number);
            for place in chunk.places.range(from..) {
                if *steps == 0 {
                    return Some(chunk.base + u64::from(place.distance));
                }
                *steps -= 1;
                if place.body.is_some() {
                    note(chunk.sources[usize::from(place.source)].0, place.seq);
                }
            }
        }
        None
    }
    /// Offers deliveries to `shed`, oldest first, from where the last call stopped. Each costs a step. Returns whether
    /// all have been seen and none has to be looked at again.
    pub(crate) fn shed(&mut self, steps: &mut usize, mut shed: impl FnMut(DeliveredMut<'_>) -> Shed) -> bool {
        let mut all_done = true;
        let first = self
            .chunks
            .partition_point(|c| c.base <= self.shed_below)
            .saturating_sub(1);
        for chunk in self.chunks.range_mut(first..) {
            let from = chunk
                .places
                .partition_point(|p| chunk.base + u64::from(p.distance) < self.shed_below);
            for place in chunk.places.range_mut(from..) {
                let Some(body) = &mut place.body else { continue };
                if *steps == 0 {
                    return false;
                }
                *steps -= 1;
                let verdict = shed(DeliveredMut {
                    queue: chunk.sources[usize::from(place.source)].0,
                    seq: place.seq,
                    priority: place.priority,
                    flags: &mut place.flags,
                    body,
                });
                match verdict {
                    Shed::Done if all_done => self.shed_below = chunk.base + u64::from(place.distance) + 1,
                    Shed::Done => {}
                    Shed::OnItsWay => all_done = false,
                    Shed::Stop => return false,
                }
            }
        }
        all_done
    }
    fn first(&self) -> Option<u64> {
        let chunk = self.chunks.front()?;
        Some(chunk.base + u64::from(chunk.places.front()?.distance))
    }
    fn find(&self, number: u64) -> Option<(usize, usize)> {
        let chunk = self.chunks.partition_point(|c| c.base <= number).checked_sub(1)?;
        let found = &self.chunks[chunk];
        let distance = u32::try_from(number - found.base).ok()?;
        let first = found.places.front()?.distance;
        let at = usize::try_from(distance.checked_sub(first)?).ok()?;
        if found.places.get(at).is_some_and(|p| p.distance == distance) {
            return Some((chunk, at));
        }
        let at = found.places.binary_search_by_key(&distance, |p| p.distance).ok()?;
        Some((chunk, at))
    }
    /// Removes places and chunks that are no longer needed after a delivery was settled.
    fn trim(&mut self, at: usize) {
        if let Some(chunk) = self.chunks.get_mut(at)
            && chunk.unsettled > 0
        {
            return chunk.trim(at == 0);
        }
        if self.chunks.len() > 1 {
            self.chunks.remove(at);
            if let Some(chunk) = self.chunks.front_mut() {
                chunk.trim(true);
            }
        } else if let Some(chunk) = self.chunks.front_mut() {
            // Most channels have one chunk at a time and use it again at once.
            chunk.places.clear();
            chunk.sources.clear();
        }
    }
}

impl Chunk {
    /// The distance and source index of the next number, if it fits into this chunk.
    fn place(&mut self, number: u64, source: (QueueKey, Option<ConsumerKey>)) -> Option<(u32, u8)> {
        if self.places.is_empty() {
            self.base = number;
        }
        let distance = u32::try_from(number - self.base).ok()?;
        if self.places.len() >= CHUNK {
            return None;
        }
        // Usually it is the source of the delivery before.
        if let Some(last) = self.places.back()
            && self.sources[usize::from(last.source)] == source
        {
            return Some((distance, last.source));
        }
        let known = self.sources.iter().position(|s| *s == source);
        let at = known.unwrap_or(self.sources.len());
        if at >= SOURCES {
            return None;
        }
        if known.is_none() {
            self.sources.push(source);
        }
        Some((distance, u8::try_from(at).ok()?))
    }
    fn take(&mut self, at: usize) -> Option<Delivered> {
        let place = self.places.get_mut(at)?;
        let body = place.body.take()?;
        let (queue, consumer) = self.sources[usize::from(place.source)];
        self.unsettled -= 1;
        Some(Delivered {
            queue,
            consumer,
            entry: Entry {
                seq: place.seq,
                body,
                flags: place.flags,
                priority: place.priority,
                subscription_ids: None,
            },
        })
    }
    /// Drops settled places: those before the first unsettled one if `is_first`, and all of them if they are many.
    fn trim(&mut self, is_first: bool) {
        while is_first && self.places.front().is_some_and(|p| p.body.is_none()) {
            self.places.pop_front();
        }
        if self.places.len() > SPARSE_MIN && self.unsettled * 4 < self.places.len() {
            self.places.retain(|p| p.body.is_some());
            self.places.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(seq: u64) -> Delivered {
        Delivered {
            queue: QueueKey { slot: 0, generation: 1 },
            consumer: None,
            entry: Entry::on_disk(seq, 1),
        }
    }

    #[test]
    fn numbers_with_gaps_are_found_and_settled_once() {
        let mut u = Unsettled::default();
        for n in [1, 2, 5, 6] {
            u.push(n, delivered(n));
        }
        assert!(u.contains(5) && !u.contains(3) && !u.contains(7));
        assert_eq!(u.remove(2).unwrap().entry.seq, 2);
        assert!(u.remove(2).is_none());
        assert_eq!(u.pop_upto(5).unwrap().entry.seq, 1);
        assert_eq!(u.pop_upto(5).unwrap().entry.seq, 5);
        assert!(u.pop_upto(5).is_none());
        assert_eq!(u.count, 1);
    }

    #[test]
    fn a_delivery_that_is_never_settled_keeps_only_its_own_memory() {
        // A consumer that keeps one message and settles all others made the list grow by a place for each delivery.
        let mut u = Unsettled::default();
        u.push(1, delivered(1));
        for n in 2..10_000 {
            u.push(n, delivered(n));
            assert!(u.remove(n).is_some());
        }
        assert_eq!(u.chunks.len(), 1);
        assert!(u.chunks[0].places.len() <= SPARSE_MIN + 1);
        assert!(u.contains(1) && !u.contains(2));
    }

    /// Compares random deliveries and settles, from several consumers and with gaps in their numbers, with a plain map.
    #[test]
    fn deliveries_are_found_once_in_whatever_order_they_are_settled() {
        for seed in 0..50 {
            let mut rng = crate::testing::disk::Rng::new(seed);
            let mut u = Unsettled::default();
            let mut expected = std::collections::BTreeMap::new();
            let mut number = 0;
            let steps = 200 + rng.below(2_000);
            for step in 0..steps {
                let known: Vec<u64> = expected.keys().copied().collect();
                // Some channels only grow at first; some are often empty.
                let grows = (seed % 3 == 0 && step < steps / 2) || rng.below(if seed % 3 == 1 { 2 } else { 8 }) == 0;
                match rng.below(8) {
                    0 if !known.is_empty() => {
                        let upto = known[rng.below(known.len() as u64) as usize];
                        if rng.below(8) == 0 {
                            while let Some(delivered) = u.pop_upto(upto) {
                                assert_eq!(expected.pop_first().map(|(n, _)| n), Some(delivered.entry.seq));
                            }
                            assert!(!u.reaches(upto));
                        }
                    }
                    1..=3 if !known.is_empty() && !grows => {
                        let number = known[rng.below(known.len() as u64) as usize];
                        assert!(u.contains(number));
                        let delivered = u.remove(number).unwrap();
                        assert_eq!(
                            (delivered.entry.seq, Some(delivered.queue.slot)),
                            (number, expected.remove(&number))
                        );
                        assert!(!u.contains(number) && u.remove(number).is_none());
                    }
                    _ => {
                        number += match rng.below(100) {
                            0 => 1 << 33,
                            1..=5 => 1 + rng.below(300),
                            _ => 1,
                        };
                        let slot = rng.below(if seed % 5 == 0 { 400 } else { 3 }) as u32;
                        let mut delivered = delivered(number);
                        delivered.queue.slot = slot;
                        u.push(number, delivered);
                        expected.insert(number, slot);
                    }
                }
                assert_eq!(u.count, expected.len());
            }
            let found: Vec<(u64, u32)> = u.iter().map(|(queue, _, seq, _)| (seq, queue.slot)).collect();
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "seed {seed}");
            let places: usize = u.chunks.iter().map(|c| c.places.len()).sum();
            assert!(places <= 4 * u.count + u.chunks.len() * SPARSE_MIN, "seed {seed}");
        }
    }

    #[test]
    fn bodies_are_offered_in_order_from_where_the_last_call_stopped() {
        let mut u = Unsettled::default();
        for n in 1..=1_000 {
            u.push(n, delivered(n));
        }
        let mut seen = Vec::new();
        let mut see = |u: &mut Unsettled, mut steps: usize, on_its_way: u64, stop: u64| {
            seen.clear();
            let all = u.shed(&mut steps, |delivered| {
                if delivered.seq == stop {
                    return Shed::Stop;
                }
                seen.push(delivered.seq);
                if delivered.seq == on_its_way {
                    Shed::OnItsWay
                } else {
                    Shed::Done
                }
            });
            (all, seen.first().copied(), seen.last().copied())
        };
        assert_eq!(see(&mut u, 300, 0, 0), (false, Some(1), Some(300)));
        assert!(u.remove(301).is_some());
        assert_eq!(see(&mut u, 1_000, 0, 400), (false, Some(302), Some(399)));
        assert_eq!(see(&mut u, 1_000, 500, 0), (false, Some(400), Some(1_000)));
        assert_eq!(see(&mut u, 1_000, 0, 0), (true, Some(500), Some(1_000)));
        assert_eq!(see(&mut u, 1_000, 0, 0), (true, None, None));
    }
}
