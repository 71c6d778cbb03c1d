//! The log: what makes a confirm true after a power cut.
//!
//! One log per data directory. The engine hands over [`Batch`]es of records that reference messages; a committer encodes,
//! checksums, writes and syncs them, holding no lock; a reader fetches bodies back, and tells which messages a queue has
//! in the log. This module knows queues only by
//! number: it never imports `queue` or `exchange`.
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
//! The files, top down: `log` (the committer's side), `reader` and `page`, `recovery` (the start), `log/compact`,
//! `checkpoint`, `backup` (a copy while it runs), `check` and `repair` (offline); below them `index` (what is live), `files` (what
//! both sides share), `values`, `missing`, `quarantine`, `segment`, `footer`, `scan`, `directory`, `record`, `disk`.
//!
//! What the store assumes of a medium: what was synced stays, in units of 512 bytes; a write may otherwise vanish, tear
//! and be reordered as it likes; renames become durable in order, and by `sync_dir`. What it does not assume: that bytes
//! stay what they were. Damage costs the records it hits, never the start.
//!
//! Not here: bodies in files of their own (`blob/`). A body that does not fit a segment gets a segment of its size.

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

/// A queue's number: never reused in the life of a data directory. The upper 24 bits are its vhost's, so that queues of a
/// vhost are neighbours, and whose a queue is can be told when nothing else is left of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u64);

impl QueueId {
    const NUMBER_BITS: u32 = 40;

    /// A queue of a vhost. `None` if there is no such number: a vhost has had 2^40 queues, there are 2^24 vhosts.
    pub fn new(vhost: VhostId, number: u64) -> Option<QueueId> {
        let is_one = vhost <= VhostId::MAX && number < 1 << Self::NUMBER_BITS;
        is_one.then_some(QueueId(u64::from(vhost.0) << Self::NUMBER_BITS | number))
    }
    /// Whose it is.
    pub fn vhost(self) -> VhostId {
        VhostId((self.0 >> Self::NUMBER_BITS) as u32)
    }
    /// Its number among the vhost's.
    pub fn number(self) -> u64 {
        self.0 & ((1 << Self::NUMBER_BITS) - 1)
    }
    /// All queues of a vhost.
    pub(crate) fn all_of(vhost: VhostId) -> std::ops::RangeInclusive<QueueId> {
        let first = u64::from(vhost.0) << Self::NUMBER_BITS;
        QueueId(first)..=QueueId(first | ((1 << Self::NUMBER_BITS) - 1))
    }
}

/// Counts batches of one engine, from 1. `durable(ticket)` covers that batch and all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One queue a message goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which queue.
    pub queue: QueueId,
    /// Its sequence number there: grows by one per message of the queue, logged or not.
    pub seq: u64,
    /// The entry's QoS and flags, given back when it is listed. Opaque to the store but for [`Route::TRANSIENT`].
    pub flags: u8,
}

impl Route {
    /// The bit of `flags` that is the store's, too: the message was logged for this queue to free memory only. A restart
    /// drops it.
    pub const TRANSIENT: u8 = 1 << 5;
}

/// The routes of one message.
pub type Routes = SmallVec<[Route; 1]>;

/// What the engine wants written.
#[derive(Debug)]
pub enum Record {
    /// A message and the queues that hold it. Skipped if the engine cancelled it before the committer took it.
    Message {
        /// What.
        message: Message,
        /// Where.
        routes: Routes,
    },
    /// What consumers settled since the last such record.
    Acks(Box<[QueueAcks]>),
    /// Something smaller changed about a message or a session.
    State(State),
    /// A keyed record: the newest value under a key wins; `None` deletes it.
    Key {
        /// The key: vhost, kind and name, see [`key()`].
        key: Box<[u8]>,
        /// The value.
        value: Option<Box<[u8]>>,
    },
    /// Nothing but the time: whoever writes it may rely, once it is durable, on no later start going on from an earlier
    /// one. It has no record of its own on disk; the head of its batch carries the time.
    Time,
    /// All messages of the queue below `upto` are gone.
    Purge {
        /// Which queue.
        queue: QueueId,
        /// First sequence that stays.
        upto: u64,
    },
    /// The queue and all its messages are gone.
    QueueDelete {
        /// Which queue.
        queue: QueueId,
    },
}

/// Settled sequence numbers of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueAcks {
    /// Which queue.
    pub queue: QueueId,
    /// Inclusive ranges, ascending, not touching.
    pub settled: Vec<(u64, u64)>,
}

/// Small state changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Messages of the queue below `upto` may have been handed out before a crash.
    HandedOut {
        /// Which queue.
        queue: QueueId,
        /// First sequence that was not.
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
    /// PUBREC arrived for an outgoing QoS 2 message: from here on only PUBREL is sent. The message's own sequence is
    /// settled by [`Record::Acks`] at PUBCOMP, and the packet id is forgotten with it.
    PacketIdReleased {
        /// The session's queue.
        queue: QueueId,
        /// The message.
        seq: u64,
        /// Its packet id.
        packet_id: u16,
    },
    /// An incoming QoS 2 packet id is held (its message is stored), or forgotten.
    IncomingId {
        /// The session's queue.
        queue: QueueId,
        /// The publisher's packet id.
        packet_id: u16,
        /// Held or forgotten.
        held: bool,
    },
    /// A message came back from its consumers, this many times by now. Forgotten when it is settled.
    Returned {
        /// Which queue.
        queue: QueueId,
        /// The message.
        seq: u64,
        /// How often.
        count: u32,
    },
    /// The message left one queue for others (dead-lettering): the payload is not written again. Acks of `from` follow
    /// in the same group.
    DeadLettered {
        /// The queue it leaves.
        from: QueueId,
        /// Its sequence there.
        from_seq: u64,
        /// One of the queues it goes to.
        to: Route,
    },
}

/// What the engine hands over before every unlock.
#[derive(Debug, Default)]
pub struct Batch {
    /// In order.
    pub records: Vec<Record>,
    /// Ranges of `records` (start, end) that count together or not at all: recovery drops an incomplete group.
    pub groups: Vec<(usize, usize)>,
    /// The batch's number; `durable` reports it back.
    pub ticket: Ticket,
    /// The most that anything in it waits for. `None`: nobody waits, and it may wait for company.
    pub need: Option<Durability>,
    /// Estimate of the bytes it will write, for the 4 MiB limit.
    pub bytes: usize,
}

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// A body the engine wants back in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Engine's own number for the queue, returned as it is.
    pub queue: QueueId,
    /// Which message.
    pub seq: u64,
    /// Where its record lies.
    pub at: Position,
    /// Bytes of body that the engine waits for, returned as they are; 0 if it does not count them.
    pub waited: u32,
}

/// A part of a queue that the engine forgot and wants to know again: which messages, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRead {
    /// Which queue.
    pub queue: QueueId,
    /// The first sequence that is wanted.
    pub from: u64,
    /// The last one.
    pub upto: u64,
    /// About how many messages are wanted: a page ends early, but is empty only if there is nothing.
    pub count: usize,
}

/// The value of a keyed record that the engine wants back in memory. Ask for it only once the log has reported the batch
/// with the record as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRead {
    /// Which record: see [`Record::Key`].
    pub key: Arc<[u8]>,
    /// Engine's own number of the value it wants, returned as it is. The newest value in the log may be a later one.
    pub number: u64,
    /// Bytes that the engine waits for, returned as they are.
    pub waited: u32,
}

/// What the engine asks the reader for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A body.
    Body(Read),
    /// A part of a queue.
    Page(PageRead),
    /// The value of a keyed record.
    Key(KeyRead),
}

/// What the reader answers.
#[derive(Debug)]
pub enum Answer {
    /// A body, or that there is none.
    Body(Loaded),
    /// A part of a queue.
    Page(Page),
    /// The value of a keyed record, or that there is none.
    Key(LoadedKey),
}

/// What came back of a keyed record.
#[derive(Debug)]
pub struct LoadedKey {
    /// As asked.
    pub number: u64,
    /// As asked.
    pub waited: u32,
    /// What was found.
    pub found: FoundKey,
}

/// What is there under a key.
#[derive(Debug, PartialEq, Eq)]
pub enum FoundKey {
    /// The newest value that is written.
    Value(Box<[u8]>),
    /// A newer one that is not written yet. Whoever wrote it has it in memory.
    Newer,
    /// No value: it was deleted since, or its record is damaged. A damaged one was set aside and counted.
    Nothing,
}

/// Messages of a queue that are in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Of which queue.
    pub queue: QueueId,
    /// As asked.
    pub from: u64,
    /// The last sequence the page speaks for: what it does not list up to here is not there.
    pub upto: u64,
    /// Live messages, ascending by sequence.
    pub entries: Vec<LogEntry>,
}

/// What came back.
#[derive(Debug)]
pub struct Loaded {
    /// As asked.
    pub queue: QueueId,
    /// As asked.
    pub seq: u64,
    /// As asked.
    pub waited: u32,
    /// The message, or `None` if its record is damaged (it was set aside and counted; the queue goes on without it).
    pub message: Option<Message>,
}

/// How far a start has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The log's files are looked at, and read as far as no checkpoint covers them.
    Read {
        /// Files done.
        files: usize,
        /// Files there are.
        of: usize,
    },
    /// What the checkpoint has live is counted.
    Counted {
        /// Files done.
        files: usize,
        /// Files with something live.
        of: usize,
    },
}

/// Everything a start finds, in the order the engine wants it.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Live keyed records. [`Store::open_watched`] leaves out sessions, subscriptions and retained messages, of which there
    /// may be millions: [`Recovered::each`] reads them.
    pub keys: BTreeMap<Box<[u8]>, Box<[u8]>>,
    /// What was left out, and where it is to be read.
    values: Option<Arc<dyn Values>>,
    /// Per queue: numbers and live messages. Queues that no keyed record knows are included: their definitions are
    /// damaged, if they have messages; the engine deletes those that have none.
    pub queues: BTreeMap<QueueId, RecoveredQueue>,
    /// Sessions whose deletion a record says. A session that is not there and not here is damaged.
    pub deleted_sessions: BTreeSet<Box<[u8]>>,
    /// Keys of queues, bindings and subscriptions whose records may not have been synced: what they name may have been
    /// torn off before them, and is then no damage.
    pub unsure: BTreeSet<Box<[u8]>>,
    /// Highest wall clock in any record.
    pub wall: Wall,
    /// Per vhost, the highest queue number in any record: see [`QueueId::number`].
    pub queue_max: BTreeMap<VhostId, u64>,
    /// Highest number of a vhost in any record.
    pub vhost_max: VhostId,
}

impl Recovered {
    /// Takes out what belongs to a vhost, or to the node.
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
    /// Calls `take` with each key of a vhost's kind, without what it begins with, and its value. What `keys` leaves out is
    /// read from the log, each time anew, and no more of it is in memory at a time than a few records.
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
    /// Reads what `keys` leaves out.
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

/// See [`Recovered`].
#[derive(Debug, Default)]
pub struct RecoveredQueue {
    /// One past the highest sequence in any record, acks and hand-out marks included.
    pub next_seq: u64,
    /// Messages below it may have been handed out.
    pub handed_out: u64,
    /// Live messages, counted by their flags. Which ones they are, [`Reader::pages`] tells when it matters.
    pub messages: BTreeMap<u8, RecoveredMessages>,
    /// Live messages that `packet_ids` names, in no order. They are not counted in `messages`.
    pub in_flight: Vec<LogEntry>,
    /// Incoming QoS 2 packet ids held.
    pub incoming_ids: Vec<u16>,
    /// Outgoing QoS 2 packet ids: sequence, packet id, whether PUBREC arrived. Ascending in order of assignment.
    pub packet_ids: Vec<(u64, u16, bool)>,
    /// How often live messages came back from consumers, by sequence: see [`State::Returned`].
    pub returned: BTreeMap<u64, u32>,
    /// Its messages may have been torn from a definition that was not synced: nobody was told that either is there.
    pub is_torn: bool,
}

/// The live messages of one queue that have the same flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveredMessages {
    /// Lowest sequence.
    pub first: u64,
    /// Highest sequence.
    pub last: u64,
    /// How many.
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
