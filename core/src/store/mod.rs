//! The log: what makes a confirm hold after a power cut.
//!
//! One log per data directory. The engine hands over [`Batch`]es of records that reference messages. A committer
//! encodes, checksums, writes and syncs them, holding no lock. A reader fetches bodies back, and tells which messages
//! of a queue the log has. This module knows queues only by number: it never imports `queue` or `exchange`.
//!
//! How to use it, from the committer's thread:
//!
//! ```text
//!   let (mut store, recovered) = Store::open(disk, settings, wall)?;   // recovered goes to the engines
//!   let reader = store.reader();                                       // to the reader's thread: reader.serve(&requests)
//!   loop {
//!       let must = store.commit(&mut batches, now)?;    // empties the batches' records, keeps tickets and needs
//!       // the batches are written, and are as durable as they need as soon as store.durable() >= must
//!       // when wake_at or store.due_after(now) has come, or store.is_due():
//!       wake_at = store.tick(now)?;                     // background work; store.durable() may have grown
//!   }
//!   store.close(now)?;
//! ```
//!
//! The files, from the top: `log` (the committer's side), `reader` and `page`, `recovery` (the start), `log/compact`,
//! `checkpoint`, `backup` (a copy of a running store), `check` and `repair` (offline); below them `index` (what is
//! live), `files` (shared by committer and readers), `values`, `missing`, `quarantine`, `segment`, `footer`, `scan`,
//! `directory`, `record`, `disk`.
//!
//! What the store assumes of a medium: bytes that were synced stay, in units of 512 bytes. Other writes may vanish,
//! tear and be reordered. Renames become durable in order, and by `sync_dir`. It does not assume that bytes stay what
//! they were: damage costs the records it hits, never the start.
//!
//! Not implemented: bodies in files of their own. A body that does not fit into a segment gets a segment of its size.

mod backup;
mod check;
mod checkpoint;
mod directory;
pub mod disk;
mod files;
mod footer;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod index;
mod key;
mod log;
mod missing;
mod page;
mod quarantine;
mod reader;
mod record;
mod recovery;
mod repair;
mod scan;
mod segment;
mod segment_entry;
mod seqset;
mod settings;
mod spans;
mod spare;
mod stats;
#[cfg(test)]
mod tests;
mod values;
mod varint;

pub use backup::{Cut, CutError};
pub use check::{Checked, DamagedKey, Loss, Progress, Report, check};
pub use key::{
    KeyKind, VhostId, as_queue, as_vhost, describe, key, parse as parse_key, queue_key, vhost_key, vhost_of,
};
pub use log::{Lsn, Store};
pub use reader::{Reader, Served};
pub use repair::{Repaired, repair};
pub use settings::{Durability, StoreError, StoreSettings};
pub use stats::{SYNC_BUCKETS_US, StoreStats};

use crate::message::{Message, Position};
use crate::time::Wall;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use values::Values;

/// A queue's number, which is never reused within a data directory. The upper 24 bits are its vhost's number, so that
/// queues of a vhost are neighbours, and the vhost of a queue is known even if all its definitions are lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u64);

impl QueueId {
    const NUMBER_BITS: u32 = 40;

    /// A queue of a vhost. `None` if the numbers are exhausted: 2^40 queues of a vhost, 2^24 vhosts.
    pub fn new(vhost: VhostId, number: u64) -> Option<QueueId> {
        let is_one = vhost <= VhostId::MAX && number < 1 << Self::NUMBER_BITS;
        is_one.then_some(QueueId(u64::from(vhost.0) << Self::NUMBER_BITS | number))
    }
    /// The queue's vhost.
    pub fn vhost(self) -> VhostId {
        VhostId((self.0 >> Self::NUMBER_BITS) as u32)
    }
    /// Its number within the vhost.
    pub fn number(self) -> u64 {
        self.0 & ((1 << Self::NUMBER_BITS) - 1)
    }
    /// The range of all queues of a vhost.
    pub(crate) fn all_of(vhost: VhostId) -> std::ops::RangeInclusive<QueueId> {
        let first = u64::from(vhost.0) << Self::NUMBER_BITS;
        QueueId(first)..=QueueId(first | ((1 << Self::NUMBER_BITS) - 1))
    }
}

/// Numbers the batches of one engine, from 1. A report for a ticket covers that batch and all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A message's place in one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The queue.
    pub queue: QueueId,
    /// The message's sequence number there. It grows by one for each message of the queue, logged or not.
    pub seq: u64,
    /// The entry's QoS and flags, which are returned when it is listed. Opaque to the store except
    /// [`Route::TRANSIENT`].
    pub flags: u8,
}

impl Route {
    /// The one bit of `flags` that the store knows: the message was logged for this queue only to free memory. A
    /// restart drops it.
    pub const TRANSIENT: u8 = 1 << 5;
}

/// The routes of one message.
pub type Routes = SmallVec<[Route; 1]>;

/// What the engine wants written.
#[derive(Debug)]
pub enum Record {
    /// A message, and its places in queues. It is skipped if the engine cancelled it before the committer took it.
    Message {
        /// The message.
        message: Message,
        /// Its places.
        routes: Routes,
    },
    /// What consumers have settled since the last such record.
    Acks(Box<[QueueAcks]>),
    /// A small change of a message or a session.
    State(State),
    /// A keyed record: the newest value of a key counts; `None` deletes the key.
    Key {
        /// The key: vhost, kind and name, see [`key()`].
        key: Box<[u8]>,
        /// The value.
        value: Option<Box<[u8]>>,
    },
    /// Only the time. Once it is durable, no later start continues from an earlier time. On disk it has no record of its
    /// own; the batch's header carries the time.
    Time,
    /// All messages of the queue below `upto` are removed.
    Purge {
        /// The queue.
        queue: QueueId,
        /// The first sequence that stays.
        upto: u64,
    },
    /// The queue and all its messages are removed.
    QueueDelete {
        /// The queue.
        queue: QueueId,
    },
}

/// Settled sequence numbers of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueAcks {
    /// Which queue.
    pub queue: QueueId,
    /// Inclusive ranges, ascending and not adjacent.
    pub settled: Vec<(u64, u64)>,
}

/// Small changes of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Messages of the queue below `upto` may have been handed out.
    HandedOut {
        /// The queue.
        queue: QueueId,
        /// The first sequence that was not handed out.
        upto: u64,
    },
    /// An outgoing QoS 2 message was given a packet id.
    PacketId {
        /// The session's queue.
        queue: QueueId,
        /// The message.
        seq: u64,
        /// Its packet id.
        packet_id: u16,
    },
    /// PUBREC arrived for an outgoing QoS 2 message: from now on only PUBREL is sent. The message's own sequence is
    /// settled by [`Record::Acks`] at PUBCOMP, which also forgets the packet id.
    PacketIdReleased {
        /// The session's queue.
        queue: QueueId,
        /// The message.
        seq: u64,
        /// Its packet id.
        packet_id: u16,
    },
    /// An incoming QoS 2 packet id is remembered, because its message is stored, or forgotten.
    IncomingId {
        /// The session's queue.
        queue: QueueId,
        /// The publisher's packet id.
        packet_id: u16,
        /// Whether it is remembered; else it is forgotten.
        held: bool,
    },
    /// A message came back from its consumers. Forgotten when the message is settled.
    Returned {
        /// The queue.
        queue: QueueId,
        /// The message.
        seq: u64,
        /// How often it has come back so far.
        count: u32,
    },
    /// The message moved from one queue to another (dead-lettering); its payload is not written again. The acks of
    /// `from` follow in the same group.
    DeadLettered {
        /// The queue that it leaves.
        from: QueueId,
        /// Its sequence there.
        from_seq: u64,
        /// Its place in one of the queues that it goes to.
        to: Route,
    },
}

/// What the engine hands over before every unlock.
#[derive(Debug, Default)]
pub struct Batch {
    /// In order.
    pub records: Vec<Record>,
    /// Ranges of `records` (start, end) that count as a whole or not at all: recovery drops an incomplete group.
    pub groups: Vec<(usize, usize)>,
    /// The batch's number, which the log's reports carry.
    pub ticket: Ticket,
    /// The highest durability that something in it waits for. `None`: nothing waits, and it may be written with a later
    /// batch.
    pub need: Option<Durability>,
    /// Bytes that it will write, roughly, for the limit of 4 MiB.
    pub bytes: usize,
}

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// A request for a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// The engine's own number for the queue, returned unchanged.
    pub queue: QueueId,
    /// The message.
    pub seq: u64,
    /// The position of its record.
    pub at: Position,
    /// Bytes of body that the engine counts as being read, returned unchanged; 0 if it does not count them.
    pub waited: u32,
}

/// A request for a part of a queue whose entries are not in memory: which messages are there, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRead {
    /// Which queue.
    pub queue: QueueId,
    /// The first sequence wanted.
    pub from: u64,
    /// The last sequence wanted.
    pub upto: u64,
    /// The most messages wanted. A page may have fewer, or none, and more may follow behind [`Page::upto`].
    pub count: usize,
}

/// A request for the value of a keyed record. It must not be made before the log has reported the batch with the record
/// as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRead {
    /// The key: see [`Record::Key`].
    pub key: Arc<[u8]>,
    /// The engine's own number for the value that it wants, returned unchanged. The newest value in the log may be a
    /// later one.
    pub number: u64,
    /// Bytes that the engine counts as being read, returned unchanged.
    pub waited: u32,
}

/// A request to the reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A body.
    Body(Read),
    /// A part of a queue.
    Page(PageRead),
    /// The value of a keyed record.
    Key(KeyRead),
}

/// An answer of the reader.
#[derive(Debug)]
pub enum Answer {
    /// A body, or that it is lost.
    Body(Loaded),
    /// A part of a queue.
    Page(Page),
    /// The value of a keyed record, or that there is none.
    Key(LoadedKey),
}

/// The answer about a keyed record.
#[derive(Debug)]
pub struct LoadedKey {
    /// As requested.
    pub number: u64,
    /// As requested.
    pub waited: u32,
    /// What was found.
    pub found: FoundKey,
}

/// What the log has under a key.
#[derive(Debug, PartialEq, Eq)]
pub enum FoundKey {
    /// The newest value that is written.
    Value(Box<[u8]>),
    /// A newer one that is not written yet. Its writer still has it in memory.
    Newer,
    /// No value: it was deleted, or its record is damaged. Damage was set aside and counted.
    Nothing,
}

/// Messages of a queue that are in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The queue.
    pub queue: QueueId,
    /// As requested.
    pub from: u64,
    /// The page lists everything up to this sequence: messages not listed are not there.
    pub upto: u64,
    /// Live messages, ascending by sequence.
    pub entries: Vec<LogEntry>,
}

/// The answer about a body.
#[derive(Debug)]
pub struct Loaded {
    /// As requested.
    pub queue: QueueId,
    /// As requested.
    pub seq: u64,
    /// As requested.
    pub waited: u32,
    /// The message. `None` if its record is damaged; that was set aside and counted, and the queue continues without
    /// it.
    pub message: Option<Message>,
}

/// The progress of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The log's files are opened, and read as far as no checkpoint covers them.
    Read {
        /// Files done.
        files: usize,
        /// Files in all.
        of: usize,
    },
    /// The live messages that the checkpoint knows are counted.
    Counted {
        /// Files done.
        files: usize,
        /// Files with live messages.
        of: usize,
    },
}

/// Everything that a start finds, in the order in which the engine needs it.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Live keyed records. [`Store::open_watched`] leaves out sessions, subscriptions and retained messages, of which
    /// there may be millions: [`Recovered::each`] reads them.
    pub keys: BTreeMap<Box<[u8]>, Box<[u8]>>,
    /// The keys that were left out, and where to read them.
    values: Option<Arc<dyn Values>>,
    /// By queue: numbers and live messages. Queues without a keyed record are included. If they have messages, their
    /// definitions are damaged; if not, the engine deletes them.
    pub queues: BTreeMap<QueueId, RecoveredQueue>,
    /// Sessions for which a record of their deletion exists. A session that is neither here nor in `keys` is damaged.
    pub deleted_sessions: BTreeSet<Box<[u8]>>,
    /// Keys of queues, bindings and subscriptions whose records may not have been synced. The objects that they refer
    /// to may have been cut off in the same crash, which is no damage.
    pub unsure: BTreeSet<Box<[u8]>>,
    /// The highest wall clock in any record.
    pub wall: Wall,
    /// By vhost, the highest queue number in any record: see [`QueueId::number`].
    pub queue_max: BTreeMap<VhostId, u64>,
    /// The highest number of a vhost in any record.
    pub vhost_max: VhostId,
}

impl Recovered {
    /// Removes and returns what belongs to a vhost, or to the node.
    pub fn take(&mut self, vhost: VhostId) -> Recovered {
        let first = key(vhost, KeyKind::Vhost, &[])[..3].to_vec().into_boxed_slice();
        let behind = (vhost < VhostId::MAX).then(|| {
            let next = VhostId(vhost.0 + 1);
            key(next, KeyKind::Vhost, &[])[..3].to_vec().into_boxed_slice()
        });
        let mut keys = self.keys.split_off(&first);
        let mut sessions = self.deleted_sessions.split_off(&first);
        let mut unsure = self.unsure.split_off(&first);
        if let Some(behind) = behind {
            self.unsure.append(&mut unsure.split_off(&behind));
            self.keys.append(&mut keys.split_off(&behind));
            self.deleted_sessions.append(&mut sessions.split_off(&behind));
        }
        let range = QueueId::all_of(vhost);
        let mut queues = self.queues.split_off(range.start());
        if range.end().0 < u64::MAX {
            self.queues.append(&mut queues.split_off(&QueueId(range.end().0 + 1)));
        }
        Recovered {
            keys,
            values: self.values.clone(),
            queues,
            deleted_sessions: sessions,
            unsure,
            wall: self.wall,
            queue_max: self.queue_max.remove_entry(&vhost).into_iter().collect(),
            vhost_max: self.vhost_max,
        }
    }
    /// The vhosts that anything is left of.
    pub fn vhosts(&self) -> BTreeSet<VhostId> {
        let keys = self.keys.keys().filter_map(|key| vhost_of(key));
        let queues = self.queues.keys().map(|queue| queue.vhost());
        let left_out = self.values.iter().flat_map(|values| values.vhosts());
        let all = keys.chain(queues).chain(left_out);
        all.filter(|vhost| *vhost != VhostId::NODE).collect()
    }
    /// Calls `take` with each key of that kind and vhost, without its prefix, and its value. Keys that `keys` leaves
    /// out are read from the log each time, and only a few records are in memory at a time.
    pub fn each(&self, vhost: VhostId, kind: KeyKind, take: &mut dyn FnMut(&[u8], &[u8])) {
        let prefix = key(vhost, kind, &[]);
        let from = self
            .keys
            .range::<[u8], _>((Bound::Included(&*prefix), Bound::Unbounded));
        for (name, value) in from.map_while(|(key, value)| Some((key.strip_prefix(&*prefix)?, value))) {
            take(name, value);
        }
        if let Some(values) = &self.values {
            values.each(vhost, kind, take);
        }
    }
    /// Reads the keys that `keys` leaves out.
    fn read_all(&mut self, mut take: impl FnMut(&mut Recovered, Box<[u8]>, &[u8])) {
        let Some(values) = self.values.take() else { return };
        for vhost in values.vhosts() {
            for kind in [KeyKind::Session, KeyKind::Subscription, KeyKind::Retained] {
                values.each(vhost, kind, &mut |name, value| {
                    take(self, key(vhost, kind, &[name]), value)
                });
            }
        }
    }
}

/// A queue as a start finds it.
#[derive(Debug, Default)]
pub struct RecoveredQueue {
    /// One more than the highest sequence in any record, acks and hand-out marks included.
    pub next_seq: u64,
    /// Messages with lower sequences may have been handed out.
    pub handed_out: u64,
    /// Live messages, counted by their flags. [`Reader::pages`] lists them when they are needed.
    pub messages: BTreeMap<u8, RecoveredMessages>,
    /// Live messages that have packet ids, in no order. They are not counted in `messages`.
    pub in_flight: Vec<LogEntry>,
    /// Incoming QoS 2 packet ids that are remembered.
    pub incoming_ids: Vec<u16>,
    /// Outgoing QoS 2 packet ids: sequence, packet id, whether PUBREC arrived. In the order in which they were given.
    pub packet_ids: Vec<(u64, u16, bool)>,
    /// How often live messages came back from consumers, by sequence: see [`State::Returned`].
    pub returned: BTreeMap<u64, u32>,
    /// Whether the queue's definition may have been cut off unsynced while its messages were kept. Neither was
    /// confirmed then.
    pub is_torn: bool,
}

/// Live messages of one queue that have the same flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveredMessages {
    /// The lowest sequence.
    pub first: u64,
    /// The highest sequence.
    pub last: u64,
    /// Their number.
    pub count: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

/// One live message in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its sequence.
    pub seq: u64,
    /// Where its record lies.
    pub at: Position,
    /// Bytes of its body.
    pub body_len: u32,
    /// As in its [`Route`].
    pub flags: u8,
}
