//! Message bodies in memory. A body is counted once, however many queues have it. Above the budget, bodies that the log
//! has are evicted, and so are entries in the middle of a queue. They are read back when needed: first a page of
//! entries, then the bodies.
//!
//! A queue with consumers keeps some bodies at its head in memory, its *spare*, and reads as many bytes at once. If the
//! spares of all queues together do not fit, each is halved; they are doubled again when there is room.

use super::queues::Queues;
use crate::command::Get;
use crate::message::Message;
use crate::queue::Queue;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::queue::ready::{READ_BACK_MAX, Ready};
use crate::segmented::SegmentedMap;
use crate::slots::{Link, QueueKey, SessionKey};
use crate::store::{QueueId, Request};
use crate::time::Time;
use std::collections::VecDeque;
use std::time::Duration;

/// The message memory of a vhost.
#[derive(Default)]
pub(crate) struct Memory {
    /// Bytes of messages in memory, retained ones included.
    bytes: usize,
    /// The number of entries that pin them.
    entries: usize,
    /// Above so many bytes, bodies of unsettled deliveries are evicted if the log has them.
    pub(super) shed_above: usize,
    /// Queues with bodies that may be evicted.
    pub(super) evictable: VecDeque<QueueKey>,
    /// How many of `evictable` were deleted.
    evictable_gone: usize,
    /// How often the spares were halved.
    halved: u32,
    /// The spares are not doubled before this time.
    double_after: Time,
    /// Queues scanned in a row without evicting anything.
    fruitless_scans: usize,
    /// The last scan evicted nothing: scan again only above so many bytes, or while publishers wait.
    pub(super) rescan_above: usize,
    /// Bytes of bodies being read.
    pub(super) loading: usize,
    /// The number of pages being read.
    pub(super) pages: usize,
    /// Queues that wait for others' reads to finish before their own can be requested.
    pub(super) awaiting_reads: VecDeque<QueueKey>,
    /// Bodies being read for deliveries that are sent again: the session, and the packet id.
    pub(crate) resends: SegmentedMap<(QueueId, u64), (SessionKey, u16)>,
    /// Entries of purged and deleted queues, to be dropped in slices. Dropping all at once would be a long hold.
    to_drop: VecDeque<Ready>,
    /// Requests for the reader, taken by `drain`.
    pub(crate) requests: Vec<Request>,
    /// `Get`s whose message is being read.
    pub(crate) waiting_gets: Vec<(QueueKey, Link, Get)>,
}

/// Bytes of an entry, and of the free capacity that its list keeps for each. A message that fans out to many queues has
/// many entries. Entries without a body in memory are few, because the middle of a queue is not in memory.
const ENTRY_BYTES: usize = std::mem::size_of::<Entry>() * 5 / 4;
/// The number of entries at the head of a queue with consumers whose bodies stay in memory.
pub(super) const SPARE: usize = 512;
/// Bytes of bodies after which no further ones stay there, nor are read at once, before halving.
const SPARE_BYTES: u64 = 256 << 10;
/// How often the spares may be halved: down to 4 KiB, and then to nothing. Otherwise the first message of each queue whose
/// consumers take nothing would stay in memory, whatever its size.
const HALVED_MAX: u32 = 7;
/// How soon the spares are doubled again.
const DOUBLE_AFTER: Duration = Duration::from_millis(100);
/// While publishers wait for memory: the pause before the next eviction, if the last one evicted something...
pub(super) const RELIEF_NEXT: Duration = Duration::from_millis(1);
/// ...and if it did not.
pub(super) const RELIEF_AGAIN: Duration = Duration::from_millis(100);
/// Bodies being read may occupy one part in `LOADING_SHARE` of the cache, and one body more.
pub(super) const LOADING_SHARE: usize = 4;
/// The most entries whose bodies are read at once.
pub(super) const READ_ENTRIES: usize = READ_BACK_MAX;
/// The most entries looked at in one hold of the lock.
pub(super) const EVICT_STEPS: usize = 2048;
/// The most deferred entries dropped in one hold of the lock.
const DROP_STEPS: usize = 1024;
/// The most entries in a page. The next page is requested when half as many are left.
pub(super) const PAGE_ENTRIES: usize = 128;
/// The most pages being read at the same time. The more there are, the less often a segment's directory is opened for
/// them.
pub(super) const PAGES_MAX: usize = 1024;
/// The fewest entries in a page.
pub(super) const PAGE_MIN: usize = 16;
/// Priorities that the log can store. Entries of higher priority are never evicted.
pub(super) const PAGED_PRIORITIES: u8 = 31;

impl Memory {
    /// Bytes of queued messages in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
    /// Bytes of queued messages in memory, and of the entries that pin them: a message in many queues has many. Above a
    /// limit on this sum, publishers wait. Eviction looks at the messages alone, because an entry is evicted with its
    /// body.
    pub(crate) fn bytes_with_entries(&self) -> usize {
        self.bytes + self.entries * ENTRY_BYTES
    }
    /// Counts an entry that pins the message. The message's bytes count with its first entry.
    pub(crate) fn pin(&mut self, message: &Message) {
        self.entries += 1;
        if message.log_state().pin() {
            self.bytes += message.memory();
        }
    }
    /// Counts a message that is kept in memory without an entry in a queue.
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
    /// Uncounts an entry's body.
    pub(crate) fn drop_body(&mut self, body: &Body) {
        if let Body::Memory(message) = body {
            self.entries -= 1;
            if message.log_state().unpin() {
                self.bytes -= message.memory();
            }
        }
    }
    /// Evicts the body of an unsettled delivery if memory is short and the log has it. It is needed again only if the
    /// delivery comes back.
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
    /// Replaces the body by its position in the log, if it is there.
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
    /// Drops a queue's entries, in this hold and in following ones.
    pub(crate) fn drop_later(&mut self, ready: Ready) {
        self.to_drop.push_back(ready);
        self.drop_some();
    }
    /// Drops some of the deferred entries. Returns whether there are more.
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
    /// Deferred entries that are not dropped yet.
    #[cfg(feature = "testing")]
    pub(crate) fn to_drop(&self) -> impl Iterator<Item = &Entry> {
        self.to_drop.iter().flat_map(Ready::entries)
    }
    /// Notes a queue whose bodies may be evicted: a long one, or one without consumers.
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
    /// Notes that the queue needs a read, and has to wait for others' reads.
    pub(super) fn await_reads(&mut self, queue: &mut Queue, at: QueueKey) {
        if !queue.awaits_reads {
            queue.awaits_reads = true;
            self.awaiting_reads.push_back(at);
        }
    }
    pub(super) fn spare_bytes(&self) -> u64 {
        if self.halved == HALVED_MAX {
            return 0;
        }
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
    /// There is room again: doubles the spares after a while.
    pub(super) fn relax(&mut self, now: Time) {
        self.rescan_above = 0;
        if self.halved > 0 && now >= self.double_after {
            self.halved -= 1;
            self.double_after = now + DOUBLE_AFTER;
        }
    }
    /// The queue is deleted. Notes of deleted queues are removed when there are many: a vhost that often creates and
    /// deletes queues may never be short of memory, and so never scan its notes.
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
