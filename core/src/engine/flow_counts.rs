//! What is counted for the flow map between two readings. `flow.rs` reads it.
//!
//! | edge | where it is counted | what a message costs |
//! |---|---|---|
//! | client to topic or exchange | [`Sent`], at the link; of fast clients one message in eight | two additions and a compare |
//! | topic or exchange to queues | the remembered route (`router/cache.rs`) | two additions |
//! | default exchange to a queue | [`FlowCounts::by_name`], by the queue's slot | two additions |
//! | exchange to queues, where no route can be remembered | [`FlowCounts::walked`] | a look-up, beside the walk over all bindings |
//! | queue to client | the consumer (`queue/consumers.rs`) | an addition |
//! | queue to its dead-letter exchange | [`FlowCounts::dead`], by name | a look-up, beside the making of the dead letter |

use super::flowed::Flowed;
use crate::binding::QueueSlot;
use crate::ledger::{Charge, hashed};
use crate::properties::Name;
use crate::queue::consumers::Consumer;
use crate::router::{Hop, Target};
use crate::slots::{ConsumerKey, Link, QueueKey};
use crate::tally::{Source, Tally};
use hashbrown::HashMap;
use std::mem::size_of;
use std::time::Duration;

/// What a link has published since the last reading, by topic or exchange.
///
/// The table is small: sixteen topics are counted one by one, in four sets of four, so that a set fits into a cache
/// line. A message to another topic replaces one of them, whose counts are added to `others`. That costs about as much
/// as a hit, so a client that publishes to ten thousand topics in turn is not slowed down.
///
/// The first messages after a reading are counted one by one, so that slow edges are exact. Of the further ones, one in
/// about eight is counted, at random distances, and stands for those since the one before. So a client's messages add up
/// exactly, and those of its topics nearly; and a client that publishes much pays little for each message.
#[derive(Default)]
pub(crate) struct Sent {
    /// Messages since the last one that was counted.
    run: Tally,
    /// The next message is counted if the run has got so long.
    distance: u64,
    /// How many were counted since the last reading, up to `EACH_FIRST`.
    counted: u32,
    /// State of the random distances.
    random: u32,
    /// Where the last message went that was counted.
    last: u64,
    sets: [Set; SETS],
    others: Tally,
}

/// Fields are in this order because a look-up reads the first half only.
#[derive(Default)]
#[repr(C)]
struct Set {
    /// The sources; 0: unused.
    to: [u64; WAYS],
    messages: [u32; WAYS],
    bytes: [u32; WAYS],
}

/// How many messages of a client are counted one by one after each reading.
const EACH_FIRST: u32 = 64;
/// The greatest distance between two messages that are counted after those.
const DISTANCE_MAX: u32 = 15;
const SETS: usize = 4;
const WAYS: usize = 4;

impl Sent {
    /// Notes a message. Returns whether that was all; else it is to be counted.
    #[inline]
    pub(crate) fn passes(&mut self, bytes: usize) -> bool {
        self.run.count(bytes);
        self.run.messages < self.distance
    }

    /// Counts the message that was just noted, and with it those that were not counted.
    #[inline(never)]
    pub(crate) fn count(&mut self, Source(to): Source) {
        self.last = to.get();
        self.end_run();
        if self.counted < EACH_FIRST {
            self.counted += 1;
            return;
        }
        // Marsaglia's generator of 32 bits. At equal distances, a client that publishes to eight topics in turn would be
        // shown with one of them.
        let mut random = self.random.max(1);
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        self.random = random;
        self.distance = 1 + u64::from(random % DISTANCE_MAX);
    }

    /// Adds the run to the topic that was counted last.
    fn end_run(&mut self) {
        let Tally { messages, bytes } = std::mem::take(&mut self.run);
        let to = self.last;
        if messages == 0 {
            return;
        }
        let set = &mut self.sets[to as usize % SETS];
        let usual = (to >> 2) as usize % WAYS;
        let way = if set.to[usual] == to {
            usual
        } else {
            set.place_of(to, usual, &mut self.others)
        };
        // Readings are seconds apart, so the counts reach 2^32 only at rates that no link has.
        let short = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        set.messages[way] = set.messages[way].saturating_add(short(messages));
        set.bytes[way] = set.bytes[way].saturating_add(short(bytes));
    }

    /// Takes what was counted: each source, and the others together.
    pub(crate) fn take(&mut self) -> (Vec<(Source, Tally)>, Tally) {
        self.end_run();
        self.distance = 0;
        self.counted = 0;
        let mut to = Vec::new();
        for set in &mut self.sets {
            let set = std::mem::take(set);
            let counted = (0..WAYS).filter(|way| set.messages[*way] > 0);
            to.extend(counted.map(|way| (Source::topic(set.to[way]), set.tally(way))));
        }
        (to, std::mem::take(&mut self.others))
    }
}

impl Set {
    fn tally(&self, way: usize) -> Tally {
        Tally {
            messages: self.messages[way].into(),
            bytes: self.bytes[way].into(),
        }
    }

    /// The index at which a topic is counted that is not at its usual place.
    #[inline]
    fn place_of(&mut self, to: u64, usual: usize, others: &mut Tally) -> usize {
        if let Some(way) = self.to.iter().position(|known| *known == to) {
            return way;
        }
        let way = self.to.iter().position(|known| *known == 0).unwrap_or(usual);
        others.add(self.tally(way));
        self.to[way] = to;
        self.messages[way] = 0;
        self.bytes[way] = 0;
        way
    }
}

/// Why messages are watched. One value for both reasons, so that a message costs one test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Watch {
    Nothing,
    /// Counting for the flow map alone, which is the usual case.
    Flow,
    Traces,
    TracesAndFlow,
}

/// Dead letters from a queue to a topic or exchange.
pub(crate) struct Dead {
    /// The exchange, if messages to it are counted together whatever their keys.
    pub(crate) exchange: Option<Name>,
    pub(crate) tally: Tally,
}

/// Counts for the flow map, except those kept in routes, links and consumers.
pub(crate) struct FlowCounts {
    watch: Watch,
    /// Whether anything was counted since the last reading.
    any: bool,
    /// Routes, links and consumers may have counts from before counting was turned off. The next reading drops them.
    stale: bool,
    /// The source that stands for the default exchange.
    default_exchange: Source,
    /// Messages to the default exchange, by the slot of their queue.
    by_name: Vec<Tally>,
    /// The memory of `by_name`.
    charge: Charge,
    /// Messages whose route cannot be remembered, by exchange and where it passed them on to.
    walked: HashMap<Name, HashMap<Hop, Tally>>,
    /// The number of pairs in `walked`.
    pairs: usize,
    /// Dead letters of a queue, by where they went.
    dead: HashMap<(Name, Source), Dead>,
    /// Messages fetched by `Get`.
    got: HashMap<(Link, QueueKey), u64>,
    /// How long deliveries have waited, in milliseconds.
    waits: Vec<(ConsumerKey, u32)>,
    /// Counts of links and consumers that were removed.
    gone: Vec<Flowed>,
}

/// The most pairs of exchange and queue, or of two exchanges, for which messages without a remembered route are counted.
const PAIRS_MAX: usize = 4096;
/// The most queues of such a message that are counted.
const WALKED_QUEUES_MAX: usize = 64;
/// The most pairs of queue and topic or exchange for which dead letters are counted. Further topics are counted with their exchange,
/// in as many pairs again.
const DEAD_MAX: usize = 1024;
/// The most pairs of link and queue for which fetches are counted.
const GOT_MAX: usize = 1024;
/// The most samples of waiting times between two readings: 192 KiB.
const WAITS_MAX: usize = 16_384;
/// The most removed links and consumers whose counts are kept.
const GONE_MAX: usize = 512;
/// Bytes of a pair with its exchange's name, and of the counts of a removed client with some topics.
const PAIR_BYTES: usize = hashed::<(Hop, Tally)>() + 64;
const GONE_BYTES: usize = size_of::<Flowed>() + 16 * size_of::<(Source, Tally)>();
/// How many of a consumer's deliveries are timed between two readings: the first ones, then one in `TIMED_EVERY`.
const TIMED_FIRST: u32 = 4;
const TIMED_EVERY: u32 = 256;

impl FlowCounts {
    pub(crate) fn new(charge: Charge) -> FlowCounts {
        FlowCounts {
            watch: Watch::Nothing,
            any: false,
            stale: false,
            default_exchange: Source::exchange(""),
            by_name: Vec::new(),
            charge,
            walked: HashMap::new(),
            pairs: 0,
            dead: HashMap::new(),
            got: HashMap::new(),
            waits: Vec::new(),
            gone: Vec::new(),
        }
    }

    /// Why messages are watched.
    #[inline]
    pub(crate) fn watch(&self) -> Watch {
        self.watch
    }

    /// Whether messages are traced.
    #[inline]
    pub(crate) fn is_tracing(&self) -> bool {
        self.watch >= Watch::Traces
    }

    /// Notes that a message is counted.
    #[inline]
    pub(crate) fn note(&mut self) {
        self.any = true;
    }

    /// Whether messages are counted.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        matches!(self.watch, Watch::Flow | Watch::TracesAndFlow)
    }

    fn set(&mut self, flow: bool, traces: bool) {
        self.watch = match (flow, traces) {
            (false, false) => Watch::Nothing,
            (true, false) => Watch::Flow,
            (false, true) => Watch::Traces,
            (true, true) => Watch::TracesAndFlow,
        };
    }

    /// Turns tracing on or off.
    pub(crate) fn turn_traces(&mut self, on: bool) {
        self.set(self.is_on(), on);
    }

    /// Bytes that the counts between two readings may occupy, roughly; 0 while counting is off. `by_name` is charged on
    /// its own.
    pub(crate) fn memory(&self) -> usize {
        self.pairs * PAIR_BYTES
            + self.dead.len() * hashed::<((Name, Source), Dead)>()
            + self.got.len() * hashed::<((Link, QueueKey), u64)>()
            + self.waits.capacity() * size_of::<(ConsumerKey, u32)>()
            + self.gone.len() * GONE_BYTES
    }

    /// Turns counting on or off.
    pub(crate) fn turn(&mut self, on: bool) {
        if self.is_on() != on {
            self.charge.shrink(self.by_name.capacity() * size_of::<Tally>());
            let charge = std::mem::take(&mut self.charge);
            let (stale, traces) = (self.stale || self.is_on(), self.is_tracing());
            *self = FlowCounts::new(charge);
            self.set(on, traces);
            self.stale = stale;
        }
    }

    /// Whether anything was counted since the last call.
    pub(crate) fn take_any(&mut self) -> bool {
        std::mem::take(&mut self.any)
    }

    /// Whether the counts found by this reading are to be dropped.
    pub(crate) fn take_stale(&mut self) -> bool {
        self.is_on() && std::mem::take(&mut self.stale)
    }

    /// Counts a message to the default exchange.
    #[inline]
    pub(crate) fn note_by_name(&mut self, targets: &[Target], bytes: usize) -> Source {
        match targets {
            [one] => self.count_by_name(one.queue, bytes),
            // The message names further keys, or its queue is gone.
            _ => targets.iter().for_each(|one| self.count_by_name(one.queue, bytes)),
        }
        self.default_exchange
    }

    /// As [`FlowCounts::note_by_name`], while messages are traced.
    pub(crate) fn note_by_slots(&mut self, queues: &[QueueSlot], bytes: usize) -> Source {
        queues.iter().for_each(|queue| self.count_by_name(*queue, bytes));
        self.default_exchange
    }

    #[inline]
    fn count_by_name(&mut self, QueueSlot(slot): QueueSlot, bytes: usize) {
        let slot = slot as usize;
        match self.by_name.get_mut(slot) {
            Some(tally) => tally.count(bytes),
            None => self.grow_and_note(slot, bytes),
        }
    }

    #[cold]
    fn grow_and_note(&mut self, slot: usize, bytes: usize) {
        let before = self.by_name.capacity();
        self.by_name.resize(slot + 1, Tally::default());
        self.charge
            .grow((self.by_name.capacity() - before) * size_of::<Tally>());
        self.by_name[slot].count(bytes);
    }

    /// The end of the range of slots for [`FlowCounts::take_by_name`].
    pub(crate) fn names_end(&self) -> u32 {
        self.by_name.len() as u32
    }

    /// Takes the counts of messages to the default exchange for the queue in a slot.
    pub(crate) fn take_by_name(&mut self, slot: u32) -> Tally {
        let tally = self.by_name.get_mut(slot as usize);
        tally.map(std::mem::take).unwrap_or_default()
    }

    /// Counts a message whose route cannot be remembered: along its path over several exchanges, where that is known.
    pub(crate) fn note_walked(
        &mut self,
        exchange: &str,
        path: Option<&[(Name, Hop)]>,
        queues: &[QueueSlot],
        bytes: usize,
    ) -> Source {
        match path {
            Some(path) => path
                .iter()
                .for_each(|(from, hop)| self.note_hop(from, Some(hop), bytes)),
            None if queues.is_empty() => self.note_hop(exchange, None, bytes),
            None => {
                for queue in queues.iter().take(WALKED_QUEUES_MAX) {
                    self.note_hop(exchange, Some(&Hop::Queue(*queue)), bytes);
                }
            }
        }
        Source::exchange(exchange)
    }

    /// Counts a message that an exchange has passed on. `None`: it went nowhere; the exchange is told of all the same.
    fn note_hop(&mut self, exchange: &str, to: Option<&Hop>, bytes: usize) {
        if !self.walked.contains_key(exchange) && self.pairs < PAIRS_MAX {
            // The exchange counts as a pair, too. Otherwise exchanges whose messages reach no queue would be unlimited.
            self.pairs += 1;
            self.walked.insert(exchange.into(), HashMap::new());
        }
        let (Some(counted), Some(hop)) = (self.walked.get_mut(exchange), to) else {
            return;
        };
        if let Some(tally) = counted.get_mut(hop) {
            tally.count(bytes);
        } else if self.pairs < PAIRS_MAX {
            self.pairs += 1;
            counted.entry(hop.clone()).or_default().count(bytes);
        }
    }

    /// Counts a dead letter of a queue, on its way to a topic or exchange.
    pub(crate) fn note_dead(&mut self, queue: &Name, exchange: &Name, to: Source, bytes: usize) {
        self.any = true;
        let whole = Source::exchange(exchange);
        let mut key = (queue.clone(), to);
        if self.dead.len() >= DEAD_MAX && !self.dead.contains_key(&key) {
            key.1 = whole;
            if self.dead.len() >= 2 * DEAD_MAX && !self.dead.contains_key(&key) {
                return;
            }
        }
        let dead = self.dead.entry(key).or_insert_with_key(|(_, to)| Dead {
            exchange: (*to == whole).then(|| exchange.clone()),
            tally: Tally::default(),
        });
        dead.tally.count(bytes);
    }

    /// Takes what [`FlowCounts::note_dead`] counted.
    pub(crate) fn take_dead(&mut self) -> Vec<((Name, Source), Dead)> {
        let mut dead: Vec<_> = std::mem::take(&mut self.dead).into_iter().collect();
        dead.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        dead
    }

    /// Takes what [`FlowCounts::note_walked`] counted.
    pub(crate) fn take_walked(&mut self) -> Vec<(Name, Vec<(Hop, Tally)>)> {
        self.pairs = 0;
        let walked = std::mem::take(&mut self.walked).into_iter();
        let mut walked: Vec<_> = walked.map(|(name, to)| (name, to.into_iter().collect())).collect();
        walked.sort_unstable_by(|a: &(Name, Vec<_>), b| a.0.cmp(&b.0));
        walked
    }

    /// Counts a message that a link fetched.
    pub(crate) fn note_got(&mut self, link: Link, queue: QueueKey) {
        if !self.is_on() {
            return;
        }
        self.any = true;
        if let Some(got) = self.got.get_mut(&(link, queue)) {
            *got += 1;
        } else if self.got.len() < GOT_MAX {
            self.got.insert((link, queue), 1);
        }
    }

    /// Takes what [`FlowCounts::note_got`] counted.
    pub(crate) fn take_got(&mut self) -> Vec<((Link, QueueKey), u64)> {
        let mut got: Vec<_> = std::mem::take(&mut self.got).into_iter().collect();
        got.sort_unstable();
        got
    }

    /// Counts a delivery of a consumer. Returns whether to note how long it has waited.
    #[inline]
    pub(crate) fn count_delivered(&mut self, consumer: &mut Consumer) -> bool {
        self.any = true;
        let delivered = consumer.flowed.wrapping_add(1);
        consumer.flowed = delivered;
        delivered <= TIMED_FIRST || delivered.is_multiple_of(TIMED_EVERY)
    }

    /// Notes how long a delivery has waited.
    pub(crate) fn note_wait(&mut self, consumer: ConsumerKey, waited: Duration) {
        if self.is_on() && self.waits.len() < WAITS_MAX {
            let ms = u32::try_from(waited.as_millis()).unwrap_or(u32::MAX);
            self.waits.push((consumer, ms));
        }
    }

    /// Takes the samples of waiting times.
    pub(crate) fn take_waits(&mut self) -> Vec<(ConsumerKey, u32)> {
        std::mem::take(&mut self.waits)
    }

    /// Keeps the counts of a link or consumer that is removed before the next reading.
    pub(crate) fn keep(&mut self, last: Flowed) {
        if self.is_on() && self.gone.len() < GONE_MAX {
            self.any = true;
            self.gone.push(last);
        }
    }

    /// Takes the counts of removed links and consumers.
    pub(crate) fn take_gone(&mut self) -> Vec<Flowed> {
        std::mem::take(&mut self.gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(sent: &mut Sent, to: Source, bytes: usize) {
        if !sent.passes(bytes) {
            sent.count(to);
        }
    }

    /// Publishes to each of these topics in turn, `rounds` times, and reads.
    fn in_turn(sent: &mut Sent, topics: &[Source], rounds: u64) -> (Vec<(Source, Tally)>, Tally) {
        for _ in 0..rounds {
            topics.iter().for_each(|to| note(sent, *to, 7));
        }
        let (mut to, others) = sent.take();
        to.sort_unstable_by_key(|(to, _)| *to);
        (to, others)
    }

    /// Two topics of a client that belong to the same place replaced each other with every message, so neither was ever
    /// shown.
    #[test]
    fn topics_whose_numbers_are_alike_are_counted_side_by_side() {
        let alike = [0x10, 0x20, 0x30, 0x40].map(Source::topic);
        let (to, others) = in_turn(&mut Sent::default(), &alike, 16);
        let tally = Tally {
            messages: 16,
            bytes: 16 * 7,
        };
        assert_eq!(to, alike.map(|to| (to, tally)));
        assert!(others.is_empty());
    }

    #[test]
    fn one_topic_is_counted_exactly_however_fast() {
        let mut sent = Sent::default();
        for messages in [1, 63, 64, 65, 100, 10_001] {
            let expected = Tally {
                messages,
                bytes: 7 * messages,
            };
            let (to, others) = in_turn(&mut sent, &[Source::topic(9)], messages);
            assert_eq!(to, [(Source::topic(9), expected)]);
            assert!(others.is_empty());
        }
    }

    /// At equal distances of eight, one of eight topics in turn would get all.
    #[test]
    fn topics_in_turn_are_counted_alike() {
        for topics in 2..=16 {
            let topics: Vec<Source> = (1..=topics).map(Source::topic).collect();
            let mut sent = Sent::default();
            for _ in 0..3 {
                let (to, others) = in_turn(&mut sent, &topics, 20_000);
                assert!(others.is_empty());
                let all: u64 = to.iter().map(|(_, tally)| tally.messages).sum();
                assert_eq!(all, 20_000 * topics.len() as u64, "a client's messages add up");
                assert_eq!(to.len(), topics.len());
                for (_, tally) in to {
                    assert!((17_500..22_500).contains(&tally.messages), "{tally:?}");
                }
            }
        }
    }

    #[test]
    fn topics_without_a_place_are_counted_together() {
        let mut sent = Sent::default();
        for n in 0..10_000 {
            note(&mut sent, Source::topic(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(n)), 1);
        }
        let (to, mut all) = sent.take();
        assert_eq!(to.len(), SETS * WAYS);
        to.iter().for_each(|(_, tally)| all.add(*tally));
        assert_eq!((all.messages, all.bytes), (10_000, 10_000));
        let (to, others) = sent.take();
        assert!(to.is_empty() && others.is_empty());
    }

    #[test]
    fn counts_between_two_readings_are_limited() {
        let mut counts = FlowCounts::new(Charge::default());
        counts.turn(true);
        let queues: Vec<QueueSlot> = (0..1000).map(QueueSlot).collect();
        let link = |slot| Link { slot, generation: 1 };
        for n in 0..10_000 {
            let exchange: Name = format!("x{n}").into();
            counts.note_walked(&exchange, None, &queues, 1);
            counts.note_dead(&"q".into(), &"amq.topic".into(), Source::topic(u64::from(n) + 1), 1);
            counts.note_dead(&exchange, &exchange, Source::exchange(&exchange), 1);
            counts.note_got(link(n), QueueKey { slot: n, generation: 1 });
        }
        for n in 0..100_000 {
            counts.note_wait(ConsumerKey { slot: n, generation: 1 }, Duration::from_millis(1));
            counts.keep(Flowed::Waited(Vec::new()));
        }
        let full = counts.memory();
        assert!((256 << 10..2 << 20).contains(&full), "{full} bytes");
        let walked = counts.take_walked();
        let pairs = walked.iter().map(|(_, to)| to.len() + 1).sum::<usize>();
        assert_eq!(pairs, PAIRS_MAX);
        assert_eq!(counts.take_dead().len(), 2 * DEAD_MAX);
        assert_eq!(counts.take_got().len(), GOT_MAX);
        assert_eq!(counts.take_waits().len(), WAITS_MAX);
        assert_eq!(counts.take_gone().len(), GONE_MAX);
        assert_eq!(counts.memory(), 0);
    }
}
