//! A store under random load, and a model of what it must, may and must not return.

use super::{bodies, entries};
use crate::message::{Envelope, Message};
use crate::store::{
    Batch, Durability, LogEntry, Lsn, QueueAcks, QueueId, Read, Record, Recovered, RecoveredQueue, Route, Routes,
    State, Store, StoreError, StoreSettings, Ticket,
};
use crate::testing::disk::{Rng, SimDisk};
use crate::time::{Now, Time, Wall};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

mod checks;

/// Small segments, so that a short run seals, checkpoints, compacts and recycles.
pub(super) fn settings() -> StoreSettings {
    StoreSettings {
        segment_bytes: 16 << 10,
        checkpoint_every: Duration::from_secs(5),
        checkpoint_cost_percent_max: 400,
        compact_live_percent_max: 40,
        compact_age_min: 2,
        slice_bytes: 4 << 10,
        salt: 0x5eed,
        interval: Duration::from_millis(500),
        confirm_written: false,
        open_files_max: 4,
    }
}

/// The number of random runs of one kind: `usual`, or the value of `GATEPOST_SIM_RUNS`.
pub(super) fn runs(usual: u64) -> u64 {
    number("GATEPOST_SIM_RUNS").unwrap_or(usual)
}

/// The seeds to run: from 0, or from the value of `GATEPOST_SIM_SEED`, which is then the only one unless
/// `GATEPOST_SIM_RUNS` says otherwise.
pub(super) fn seeds(usual: u64) -> std::ops::Range<u64> {
    let first = number("GATEPOST_SIM_SEED");
    let count = runs(first.map_or(usual, |_| 1));
    let first = first.unwrap_or(0);
    first..first + count
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A message whose body contains its content number.
pub(super) fn message(content: u64, len: usize) -> Message {
    let mut rng = Rng::new(content);
    let mut body = vec![0; len];
    body.chunks_mut(8)
        .for_each(|chunk| chunk.copy_from_slice(&rng.word().to_le_bytes()[..chunk.len()]));
    let envelope = Envelope {
        durable: true,
        qos: 1,
        received: Wall(1000 + content),
        ..Envelope::default()
    };
    Message::new(envelope, "amq.topic", &format!("plant.{content}"), b"p", &body)
}

pub(super) fn route(queue: u64, seq: u64) -> Route {
    Route {
        queue: QueueId(queue),
        seq,
        flags: (seq % 7) as u8,
    }
}

pub(super) fn batch(records: Vec<Record>, sync: bool) -> Batch {
    Batch {
        records,
        need: sync.then_some(Durability::Always),
        ticket: Ticket(1),
        ..Batch::default()
    }
}

/// One message of one queue in the model. Commits are counted from 1.
#[derive(Clone, Debug)]
struct Entry {
    content: u64,
    len: usize,
    written: u64,
    /// The commit that settled it.
    settled: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Queue {
    next_seq: u64,
    entries: BTreeMap<u64, Entry>,
    handed_out: Vec<(u64, u64)>,
    incoming: BTreeMap<u16, Vec<(u64, bool)>>,
    /// By sequence: the commit, the packet id, whether it was released.
    packet_ids: BTreeMap<u64, Vec<(u64, u16, bool)>>,
    deleted: Option<u64>,
}

/// The commit that gave a key its value, and the value.
type Version = (u64, Option<Vec<u8>>);

/// What the store was asked to do, and how much of it was confirmed.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    queues: BTreeMap<u64, Queue>,
    keys: BTreeMap<u8, Vec<Version>>,
    /// (queue, seq) pairs written by one group.
    groups: Vec<(u64, Vec<(u64, u64)>)>,
    /// A message that moved from one place to another in one group.
    moves: Vec<((u64, u64), (u64, u64))>,
    commit: u64,
    confirmed: u64,
    next_queue: u64,
    next_content: u64,
}

/// A store, its disk, and its model.
pub(super) struct Script {
    pub(super) disk: SimDisk,
    pub(super) store: Option<Store<SimDisk>>,
    pub(super) book: Book,
    pub(super) rng: Rng,
    pub(super) now: Now,
    pub(super) settings: StoreSettings,
    /// The durability that each commit in the model needs.
    pub(super) need: Durability,
    /// Messages in memory, to be routed again.
    held: Vec<(Message, u64, usize)>,
    waiting: Option<(u64, Lsn)>,
    /// Messages only get into a queue by their own records, so that losing a file loses only what was in it.
    pub(super) is_plain: bool,
    pub(super) seed: u64,
}

impl Script {
    pub(super) fn new(seed: u64) -> Script {
        Script {
            disk: SimDisk::new(seed),
            store: None,
            book: Book {
                next_queue: 4,
                next_content: 1,
                ..Book::default()
            },
            rng: Rng::new(seed),
            now: Now {
                monotonic: Time(0),
                wall: Wall(5_000),
            },
            settings: settings(),
            need: Durability::Always,
            held: Vec::new(),
            waiting: None,
            is_plain: false,
            seed,
        }
    }
    /// Opens the store, checks what it found against the model, and continues from that.
    pub(super) fn open(&mut self) -> Result<(), StoreError> {
        let (store, recovered) = Store::open(Arc::new(self.disk.clone()), self.settings.clone(), Wall(0))?;
        // A start leaves failed background work to the next one, so it may not have noticed a failure.
        if self.disk.is_crashed() {
            return Err(StoreError::Poisoned("the machine has stopped".into()));
        }
        // No faults while the result of a start is checked.
        self.disk.heal_reads();
        let damaged = store.stats().quarantined.load(Ordering::Relaxed);
        let notes = || -> Vec<String> {
            let paths = self.disk.paths().into_iter();
            let notes = paths.filter(|path| path.starts_with("quarantine/") && path.ends_with(".txt"));
            let read = |path: String| String::from_utf8_lossy(&self.disk.read(&path).unwrap_or_default()).into_owned();
            notes.map(read).collect()
        };
        assert_eq!(
            damaged,
            0,
            "seed {}: a crash was taken for damage: {:?}",
            self.seed,
            notes()
        );
        self.check(&store, &recovered);
        self.adopt(&store, &recovered);
        self.store = Some(store);
        Ok(())
    }
    /// Works until `commits` are done or the machine stops.
    pub(super) fn work(&mut self, commits: u64) -> Result<(), StoreError> {
        for _ in 0..commits {
            self.commit()?;
            self.now.monotonic = self.now.monotonic + Duration::from_millis(self.rng.below(2000));
            let ticks = self.rng.below(4);
            for _ in 0..ticks {
                self.tick()?;
            }
        }
        Ok(())
    }
    pub(super) fn tick(&mut self) -> Result<Option<Time>, StoreError> {
        let next = self.store.as_mut().unwrap().tick(self.now)?;
        self.note_confirms();
        Ok(next)
    }
    fn note_confirms(&mut self) {
        if let Some((commit, must)) = self.waiting
            && self.store.as_ref().unwrap().durable() >= must
        {
            self.book.confirmed = commit;
            self.waiting = None;
        }
    }
    fn commit(&mut self) -> Result<(), StoreError> {
        self.book.commit += 1;
        let mut batches = Vec::new();
        // All of a commit has one answer: batches behind the last one that needs a sync are not promised.
        let sync = self.rng.chance(1, 2);
        let mut any_sync = false;
        for _ in 0..1 + self.rng.below(3) {
            let mut batch = Batch {
                ticket: Ticket(self.book.commit),
                ..Batch::default()
            };
            for _ in 0..self.rng.below(6) {
                self.step(&mut batch);
            }
            let unsynced = [None, Some(Durability::Os)][self.rng.below(2) as usize];
            batch.need = if sync { Some(self.need) } else { unsynced };
            any_sync |= sync && !batch.records.is_empty();
            batches.push(batch);
        }
        let must = self.store.as_mut().unwrap().commit(&mut batches, self.now)?;
        if any_sync && must > Lsn(0) {
            self.waiting = Some((self.book.commit, must));
        }
        self.note_confirms();
        Ok(())
    }
    /// A queue that is not deleted.
    fn queue(&mut self) -> u64 {
        loop {
            let queue = 1 + self.rng.below(self.book.next_queue);
            if self.book.queues.entry(queue).or_default().deleted.is_none() {
                return queue;
            }
            self.book.next_queue = self.book.next_queue.max(queue + 1);
        }
    }
    fn give(&mut self, queue: u64, content: u64, len: usize) -> Route {
        let commit = self.book.commit;
        let queue_book = self.book.queues.entry(queue).or_default();
        let seq = queue_book.next_seq;
        queue_book.next_seq += 1;
        queue_book.entries.insert(
            seq,
            Entry {
                content,
                len,
                written: commit,
                settled: None,
            },
        );
        route(queue, seq)
    }
    fn publish(&mut self, batch: &mut Batch) -> Vec<(u64, u64)> {
        let content = self.book.next_content;
        self.book.next_content += 1;
        let len = match self.rng.below(20) {
            0 => 20_000,
            1..4 => 2500,
            _ => self.rng.below(300) as usize,
        };
        let message = message(content, len);
        let mut routes = Routes::new();
        for _ in 0..1 + self.rng.below(3) {
            let queue = self.queue();
            if routes.iter().all(|route| route.queue.0 != queue) {
                routes.push(self.give(queue, content, len));
            }
        }
        message.log_state().stage(routes.len() as u32);
        let given = routes.iter().map(|route| (route.queue.0, route.seq)).collect();
        batch.records.push(Record::Message {
            message: message.clone(),
            routes,
        });
        self.held.push((message, content, len));
        if self.held.len() > 8 {
            self.held.remove(0);
        }
        given
    }
    /// One operation of an engine.
    fn step(&mut self, batch: &mut Batch) {
        match self.rng.below(24) {
            0..8 => _ = self.publish(batch),
            8 => self.settle_unwritten(batch),
            9 => self.skip_numbers(),
            10..15 => self.settle_some(batch),
            15 => self.set_key(batch),
            16 => self.mark_handed_out(batch),
            17 => self.note_incoming_id(batch),
            18 => self.note_packet_id(batch),
            19 => self.transaction(batch),
            20 if !self.is_plain => self.dead_letter(batch),
            21 if !self.is_plain && !self.held.is_empty() => self.publish_again(batch),
            22 if self.rng.chance(1, 6) => self.delete_queue(batch),
            23 if self.rng.chance(1, 4) => self.purge(batch),
            _ => {}
        }
    }
    /// A message settled by all before it was written.
    fn settle_unwritten(&mut self, batch: &mut Batch) {
        let given = self.publish(batch);
        if let Some(Record::Message { message, .. }) = batch.records.last() {
            given.iter().for_each(|_| _ = message.log_state().settle());
        }
        self.held.pop();
        let mut acks = Vec::new();
        for (queue, seq) in given {
            self.book.queues.get_mut(&queue).unwrap().entries.remove(&seq);
            acks.push(QueueAcks {
                queue: QueueId(queue),
                settled: vec![(seq, seq)],
            });
        }
        if self.rng.chance(1, 2) {
            batch.records.push(Record::Acks(acks.into()));
        }
    }
    /// Sequences that are never logged: transient messages.
    fn skip_numbers(&mut self) {
        let queue = self.queue();
        self.book.queues.get_mut(&queue).unwrap().next_seq += 1 + u64::from(self.rng.chance(1, 30)) * 5000;
    }
    /// Settles some neighbouring entries of a queue.
    fn settle_some(&mut self, batch: &mut Batch) {
        let commit = self.book.commit;
        let queue = self.queue();
        let book = self.book.queues.get_mut(&queue).unwrap();
        let live: Vec<u64> = book
            .entries
            .iter()
            .filter(|(_, entry)| entry.settled.is_none())
            .map(|(seq, _)| *seq)
            .collect();
        if live.is_empty() {
            return;
        }
        let from = if self.rng.chance(2, 3) {
            0
        } else {
            self.rng.below(live.len() as u64) as usize
        };
        let upto = (from + self.rng.below(6) as usize).min(live.len() - 1);
        // A range must not include what another record settles: that one may be torn, together with where it moved the
        // message.
        let mut settled: Vec<(u64, u64)> = Vec::new();
        for &seq in &live[from..=upto] {
            book.entries.get_mut(&seq).unwrap().settled = Some(commit);
            match settled.last_mut() {
                Some((_, hi)) if *hi + 1 == seq => *hi = seq,
                _ => settled.push((seq, seq)),
            }
        }
        batch.records.push(Record::Acks(
            [QueueAcks {
                queue: QueueId(queue),
                settled,
            }]
            .into(),
        ));
    }
    /// A keyed record, or its deletion.
    fn set_key(&mut self, batch: &mut Batch) {
        let commit = self.book.commit;
        let key = self.rng.below(12) as u8;
        let len = self.rng.below(200) as usize;
        let value = self
            .rng
            .chance(3, 4)
            .then(|| (0..len).map(|_| self.rng.word() as u8).collect::<Vec<u8>>());
        self.book.keys.entry(key).or_default().push((commit, value.clone()));
        batch.records.push(Record::Key {
            key: [7, key].into(),
            value: value.map(Into::into),
        });
    }
    /// A hand-out mark.
    fn mark_handed_out(&mut self, batch: &mut Batch) {
        let commit = self.book.commit;
        let queue = self.queue();
        let book = self.book.queues.get_mut(&queue).unwrap();
        let upto = book.next_seq + self.rng.below(3);
        book.handed_out.push((commit, upto));
        batch.records.push(Record::State(State::HandedOut {
            queue: QueueId(queue),
            upto,
        }));
    }
    /// A publisher's packet id is taken or freed.
    fn note_incoming_id(&mut self, batch: &mut Batch) {
        let commit = self.book.commit;
        let queue = self.queue();
        let (id, held) = (self.rng.below(5) as u16, self.rng.chance(2, 3));
        let book = self.book.queues.get_mut(&queue).unwrap();
        book.incoming.entry(id).or_default().push((commit, held));
        let state = State::IncomingId {
            queue: QueueId(queue),
            packet_id: id,
            held,
        };
        batch.records.push(Record::State(state));
    }
    /// A delivery gets a packet id, or its id is released.
    fn note_packet_id(&mut self, batch: &mut Batch) {
        let commit = self.book.commit;
        let queue = self.queue();
        let book = self.book.queues.get_mut(&queue).unwrap();
        let Some((&seq, _)) = book.entries.iter().find(|(_, entry)| entry.settled.is_none()) else {
            return;
        };
        let changes = book.packet_ids.entry(seq).or_default();
        let queue = QueueId(queue);
        let state = match changes.last() {
            Some(&(_, packet_id, _)) => {
                changes.push((commit, packet_id, true));
                State::PacketIdReleased { queue, seq, packet_id }
            }
            None => {
                let packet_id = self.rng.below(60_000) as u16;
                changes.push((commit, packet_id, false));
                State::PacketId { queue, seq, packet_id }
            }
        };
        batch.records.push(Record::State(state));
    }
    /// Several messages in one group.
    fn transaction(&mut self, batch: &mut Batch) {
        let commit = self.book.commit;
        let start = batch.records.len();
        let mut given = Vec::new();
        for _ in 0..2 + self.rng.below(3) {
            given.extend(self.publish(batch));
        }
        batch.groups.push((start, batch.records.len()));
        self.book.groups.push((commit, given));
    }
    /// The same message again, in another queue.
    fn publish_again(&mut self, batch: &mut Batch) {
        let nth = self.rng.below(self.held.len() as u64) as usize;
        let (message, content, len) = self.held[nth].clone();
        let queue = self.queue();
        let routes = Routes::from_iter([self.give(queue, content, len)]);
        batch.records.push(Record::Message { message, routes });
    }
    /// A queue is deleted, and a new one takes its place.
    fn delete_queue(&mut self, batch: &mut Batch) {
        let commit = self.book.commit;
        let queue = self.queue();
        let book = self.book.queues.get_mut(&queue).unwrap();
        book.deleted = Some(commit);
        self.book.next_queue += 1;
        batch.records.push(Record::QueueDelete { queue: QueueId(queue) });
    }
    /// All messages before a sequence are purged.
    fn purge(&mut self, batch: &mut Batch) {
        let commit = self.book.commit;
        let queue = self.queue();
        let book = self.book.queues.get_mut(&queue).unwrap();
        let upto = book.next_seq - self.rng.below(book.next_seq.min(4) + 1);
        for (_, entry) in book.entries.range_mut(..upto) {
            entry.settled.get_or_insert(commit);
        }
        batch.records.push(Record::Purge {
            queue: QueueId(queue),
            upto,
        });
    }
    fn dead_letter(&mut self, batch: &mut Batch) {
        let (from, to) = (self.queue(), self.queue());
        let commit = self.book.commit;
        let book = self.book.queues.get_mut(&from).unwrap();
        let Some((&seq, entry)) = book.entries.iter_mut().find(|(_, entry)| entry.settled.is_none()) else {
            return;
        };
        if from == to {
            return;
        }
        entry.settled = Some(commit);
        let (content, len) = (entry.content, entry.len);
        let route = self.give(to, content, len);
        let start = batch.records.len();
        let state = State::DeadLettered {
            from: QueueId(from),
            from_seq: seq,
            to: route,
        };
        batch.records.push(Record::State(state));
        let acks = QueueAcks {
            queue: QueueId(from),
            settled: vec![(seq, seq)],
        };
        batch.records.push(Record::Acks([acks].into()));
        batch.groups.push((start, start + 2));
        self.book.moves.push(((from, seq), (to, route.seq)));
    }
    /// From here on, what was recovered counts.
    pub(super) fn adopt(&mut self, store: &Store<SimDisk>, recovered: &Recovered) {
        let mut queues = BTreeMap::new();
        for (id, found) in &recovered.queues {
            let book = &self.book.queues[&id.0];
            let mut queue = Queue {
                next_seq: found.next_seq.max(book.next_seq),
                ..Queue::default()
            };
            for entry in entries(store, *id) {
                let known = book.entries[&entry.seq].clone();
                queue.entries.insert(
                    entry.seq,
                    Entry {
                        written: 0,
                        settled: None,
                        ..known
                    },
                );
            }
            queue.handed_out.push((0, found.handed_out));
            for id in &found.incoming_ids {
                queue.incoming.insert(*id, vec![(0, true)]);
            }
            for id in book.incoming.keys() {
                queue.incoming.entry(*id).or_insert_with(|| vec![(0, false)]);
            }
            for (seq, id, done) in &found.packet_ids {
                queue.packet_ids.insert(*seq, vec![(0, *id, *done)]);
            }
            queues.insert(id.0, queue);
        }
        // A deleted queue must not come back.
        for (id, _) in self
            .book
            .queues
            .iter()
            .filter(|(id, _)| !recovered.queues.contains_key(&QueueId(**id)))
        {
            let deleted = self.book.queues[id].deleted.map(|_| 0);
            queues.insert(
                *id,
                Queue {
                    deleted,
                    ..Queue::default()
                },
            );
        }
        self.book.queues = queues;
        for (key, versions) in &mut self.book.keys {
            *versions = vec![(0, recovered.keys.get([7, *key].as_slice()).map(|value| value.to_vec()))];
        }
        self.book.groups.clear();
        self.book.moves.clear();
        self.held.clear();
        self.waiting = None;
        self.book.confirmed = self.book.commit;
    }
}

impl Script {
    /// The message that a queue got under a sequence.
    pub(super) fn content(&self, (queue, seq): (u64, u64)) -> Option<(u64, usize)> {
        let entry = self.book.queues.get(&queue)?.entries.get(&seq)?;
        Some((entry.content, entry.len))
    }
    /// The messages that one group wrote together with this one, itself included.
    pub(super) fn group_of(&self, at: (u64, u64)) -> Vec<(u64, u64)> {
        let groups = self.book.groups.iter().map(|(_, group)| group);
        groups
            .filter(|group| group.contains(&at))
            .flatten()
            .copied()
            .chain([at])
            .collect()
    }
    /// Whether a key ever had a value.
    pub(super) fn ever_had(&self, key: &[u8], value: &[u8]) -> bool {
        let Some(versions) = key.get(1).and_then(|key| self.book.keys.get(key)) else {
            return false;
        };
        versions.iter().any(|(_, known)| known.as_deref() == Some(value))
    }
    /// A clean stop was answered, so everything is confirmed.
    pub(super) fn book_all_confirmed(&mut self) {
        self.book.confirmed = self.book.commit;
    }
}
