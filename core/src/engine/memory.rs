//! Message bodies in memory. A body is counted once, however many queues have it. Over the budget, bodies that are in the log are
//! dropped from memory, and so are the entries in the middle of a queue. When their turn comes, they are read back: first a page
//! of entries, then the bodies.
//!
//! A queue with consumers keeps some bodies at its head in memory, its *spare*, and fetches as many bytes at once. If the spares
//! of all queues together do not fit, each is halved, and doubled again when there is room.

use super::queues::Queues;
use crate::command::Get;
use crate::message::Message;
use crate::queue::Queue;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::queue::ready::Ready;
use crate::slots::{Link, QueueKey, SessionKey};
use crate::store::{QueueId, Request};
use crate::time::Time;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::time::Duration;

/// The message memory of a vhost.
#[derive(Default)]
pub(crate) struct Memory {
    /// Messages whose bodies are in memory, retained ones included.
    bytes: usize,
    /// Entries that pin them.
    entries: usize,
    /// Above it, bodies of unsettled deliveries are evicted if the log has them.
    pub(super) shed_above: usize,
    /// Queues long enough to have bodies that may leave.
    pub(super) evictable: VecDeque<QueueKey>,
    /// How many of `evictable` are gone.
    evictable_gone: usize,
    /// How often the spare of the queues was halved.
    halved: u32,
    /// The spare is not doubled before then.
    double_after: Time,
    /// Queues scanned in a row without evicting anything.
    fruitless_scans: usize,
    /// The last scan evicted nothing: scan again only above so many bytes, or while publishers wait.
    pub(super) rescan_above: usize,
    /// Bytes of body on their way from disk.
    pub(super) loading: usize,
    /// Pages on their way from disk.
    pub(super) pages: usize,
    /// Queues that want something when some of that is here.
    pub(super) awaiting_reads: VecDeque<QueueKey>,
    /// Bodies of deliveries to be sent again that are on their way from disk: whose, and under which packet id.
    pub(crate) resends: HashMap<(QueueId, u64), (SessionKey, u16)>,
    /// Entries of purged and deleted queues. They are dropped in slices: all at once would be a long hold.
    to_drop: VecDeque<Ready>,
    /// What the reader is to fetch; taken by `drain`.
    pub(crate) requests: Vec<Request>,
    /// `Get`s whose message is on its way from disk.
    pub(crate) waiting_gets: Vec<(QueueKey, Link, Get)>,
}

/// An entry of a queue, with a share of the room that its list keeps free. A fan-out to many queues is one message and many of
/// them. Entries without a body in memory are few: the middle of a queue is not here.
const ENTRY_BYTES: usize = std::mem::size_of::<Entry>() * 5 / 4;
/// Entries at the head of a queue with consumers whose bodies stay in memory.
pub(super) const SPARE: usize = 512;
/// Bytes of body after which no more stay there, nor are fetched at once, where there is room.
const SPARE_BYTES: u64 = 256 << 10;
/// How often they may be halved: down to 4 KiB.
const HALVED_MAX: u32 = 6;
/// How soon they are doubled again.
const DOUBLE_AFTER: Duration = Duration::from_millis(100);
/// While publishers wait for memory, more bodies are let go so soon after a hold that let some go...
pub(super) const RELIEF_NEXT: Duration = Duration::from_millis(1);
/// ...and so soon after one that found none.
pub(super) const RELIEF_AGAIN: Duration = Duration::from_millis(100);
/// Part of the cache that may be on its way from disk, and one body more.
pub(super) const LOADING_SHARE: usize = 4;
/// Entries fetched at once, at most.
pub(super) const READ_ENTRIES: usize = 256;
/// Entries looked at in one hold of the lock.
pub(super) const EVICT_STEPS: usize = 2048;
/// Doomed entries dropped in one hold of the lock.
const DROP_STEPS: usize = 1024;
/// Entries read back from the log at once, at most. When half as many are left, the next ones are asked for.
pub(super) const PAGE_ENTRIES: usize = 128;
/// Pages on their way at once. The more there are, the less often a segment's directory is opened for them.
pub(super) const PAGES_MAX: usize = 1024;
/// Entries read back at least.
pub(super) const PAGE_MIN: usize = 16;
/// Priorities the log tells apart. Entries of a higher one never leave memory.
pub(super) const PAGED_PRIORITIES: u8 = 31;

impl Memory {
    /// Bytes of queued messages in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
    /// Bytes of queued messages in memory and of the entries that pin them: a message that is in many queues has many. Over the
    /// limit publishers wait; eviction looks at the messages alone, because an entry goes with its body.
    pub(crate) fn bytes_with_entries(&self) -> usize {
        self.bytes + self.entries * ENTRY_BYTES
    }
    /// One more entry pins the message in memory. Its bytes are counted with the first.
    pub(crate) fn pin(&mut self, message: &Message) {
        self.entries += 1;
        if message.log_state().pin() {
            self.bytes += message.memory();
        }
    }
    /// The message is kept in memory, and by no queue's entry.
    pub(crate) fn keep(&mut self, message: &Message) {
        if message.log_state().pin() {
            self.bytes += message.memory();
        }
    }
    /// Undoes [`Memory::keep`].
    pub(crate) fn release(&mut self, message: &Message) {
        if message.log_state().unpin() {
            self.bytes -= message.memory();
        }
    }
    /// A queue lets go of a body.
    pub(crate) fn drop_body(&mut self, body: &Body) {
        if let Body::Memory(message) = body {
            self.entries -= 1;
            if message.log_state().unpin() {
                self.bytes -= message.memory();
            }
        }
    }
    /// Evicts the body of an unsettled delivery if memory is short and the log has it. It is needed again only if the delivery
    /// comes back.
    pub(crate) fn shed(&mut self, entry: &mut Entry) {
        if self.is_short() {
            self.evict(entry);
        }
    }
    /// Whether bodies of unsettled deliveries are to be evicted.
    pub(crate) fn is_short(&self) -> bool {
        self.bytes > self.shed_above
    }
    pub(super) fn evict(&mut self, entry: &mut Entry) -> bool {
        self.evict_body(&mut entry.body, entry.flags)
    }
    /// Replaces the body by its place in the log, if it is there.
    pub(crate) fn evict_body(&mut self, body: &mut Body, flags: EntryFlags) -> bool {
        let Body::Memory(message) = &*body else {
            return true;
        };
        if !flags.has(EntryFlags::LOGGED) {
            return false;
        }
        let Some(at) = message.position() else { return false };
        let disk = Body::Disk {
            at,
            body_len: u32::try_from(message.body().len()).unwrap_or(u32::MAX),
        };
        self.drop_body(body);
        *body = disk;
        true
    }
    /// Drops what a queue had, at once or in the holds that follow.
    pub(crate) fn drop_later(&mut self, ready: Ready) {
        self.to_drop.push_back(ready);
        self.drop_some();
    }
    /// Drops some of what is doomed. Returns whether there is more.
    pub(super) fn drop_some(&mut self) -> bool {
        for _ in 0..DROP_STEPS {
            let Some(ready) = self.to_drop.front_mut() else {
                return false;
            };
            match ready.pop_any() {
                Some(entry) => self.drop_body(&entry.body),
                None => _ = self.to_drop.pop_front(),
            }
        }
        !self.to_drop.is_empty()
    }
    /// Entries that are doomed and not dropped yet.
    #[cfg(feature = "testing")]
    pub(crate) fn to_drop(&self) -> impl Iterator<Item = &Entry> {
        self.to_drop.iter().flat_map(Ready::entries)
    }
    /// Notes that the queue has bodies that may leave: one that nobody consumes, or a long one.
    pub(crate) fn note_evictable(&mut self, queue: &mut Queue, key: QueueKey) {
        let deep = if queue.consumers.is_empty() {
            queue.ready().in_memory() > 0
        } else {
            queue.ready().in_memory() > SPARE || queue.ready().bytes() > self.spare_bytes()
        };
        if deep && !queue.evictable {
            queue.evictable = true;
            self.evictable.push_back(key);
        }
    }
    /// The queue wants what is on disk, and has to wait its turn.
    pub(super) fn await_reads(&mut self, queue: &mut Queue, at: QueueKey) {
        if !queue.awaits_reads {
            queue.awaits_reads = true;
            self.awaiting_reads.push_back(at);
        }
    }
    pub(super) fn spare_bytes(&self) -> u64 {
        SPARE_BYTES >> self.halved
    }
    /// Notes the scan of a queue. `left`: it evicted something, or soon will. Returns whether to stop scanning.
    pub(super) fn looked(&mut self, left: bool, now: Time) -> bool {
        self.fruitless_scans = if left { 0 } else { self.fruitless_scans + 1 };
        if self.fruitless_scans <= self.evictable.len() {
            return false;
        }
        self.fruitless_scans = 0;
        if self.halved == HALVED_MAX {
            self.rescan_above = self.bytes + self.bytes / 16;
            return true;
        }
        self.halved += 1;
        self.double_after = now + DOUBLE_AFTER;
        false
    }
    /// There is room again.
    pub(super) fn relax(&mut self, now: Time) {
        self.rescan_above = 0;
        if self.halved > 0 && now >= self.double_after {
            self.halved -= 1;
            self.double_after = now + DOUBLE_AFTER;
        }
    }
    /// The queue is gone. Its note goes too, if there are many of that kind: a vhost whose queues come and go may never
    /// be short of memory, and never look at the notes.
    pub(crate) fn forget_evictable(&mut self, queue: &Queue, queues: &Queues) {
        if !queue.evictable {
            return;
        }
        self.evictable_gone += 1;
        if self.evictable_gone > 64 && self.evictable_gone * 2 > self.evictable.len() {
            self.evictable_gone = 0;
            self.evictable.retain(|key| queues.contains(*key));
        }
    }
}
