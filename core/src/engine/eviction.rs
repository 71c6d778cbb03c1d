//! Bodies leave memory for the log when there are too many, and publishers wait if that is not enough.

use super::Engine;
use super::counters::Counters;
use super::memory::{EVICT_STEPS, Memory, PAGED_PRIORITIES, RELIEF_AGAIN, RELIEF_NEXT, SPARE};
use super::staging::Staging;
use crate::event::Pressure;
use crate::message::Message;
use crate::queue::Queue;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::queue::ready::Leave;
use crate::slots::QueueKey;
use crate::store::{QueueId, Record, Route, Routes};
use smallvec::SmallVec;

impl Engine {
    /// Evicts bodies if there are too many in memory, and makes publishers wait if that is not enough.
    ///
    /// While publishers wait, no event may be left that would call this again: the log has reported all its batches,
    /// publishers are not read, and consumers need not send anything to take messages. So a timer continues the
    /// eviction as long as publishers wait for memory.
    pub(crate) fn relieve_memory(&mut self) {
        if self.memory.drop_some() {
            self.timers.set_deferred(self.now.monotonic);
        }
        self.memory.shed_above = self.settings.cache_bytes_max / 2;
        let mut progress = false;
        if self.has_too_much_in_memory() {
            // Nobody needs the retained messages now; a later replay reads them from the log.
            progress = self.evict_retained();
            if self.has_too_much_in_memory() {
                progress |= self.evict_bodies();
            }
        } else if self.memory.bytes() < self.settings.cache_bytes_max / 2 {
            self.memory.relax(self.now.monotonic);
        }
        progress |= self.shed_unsettled();
        let high = |used: usize, max: usize, now: bool| if now { used > max / 5 * 4 } else { used > max };
        let memory_now = self.pressure == Some(Pressure::Memory);
        let backlog_now = self.pressure == Some(Pressure::Backlog);
        let pressure = if let Some(p) = self.node_pressure {
            Some(p)
        } else if high(
            self.memory.bytes_with_entries(),
            self.settings.memory_bytes_max,
            memory_now,
        ) {
            Some(Pressure::Memory)
        } else if high(
            self.staging.backlog_bytes(),
            self.settings.log_backlog_bytes_max,
            backlog_now,
        ) {
            Some(Pressure::Backlog)
        } else {
            None
        };
        if pressure == Some(Pressure::Memory) {
            let pause = if progress { RELIEF_NEXT } else { RELIEF_AGAIN };
            self.timers.set_relief(self.now.monotonic + pause);
        }
        if pressure != self.pressure {
            self.pressure = pressure;
            self.tell_of_pressure();
        }
    }

    /// A link has taken messages, which may have freed the memory that publishers wait for.
    pub(crate) fn relieve_after_take(&mut self) {
        if self.pressure == Some(Pressure::Memory) {
            self.relieve_memory();
        }
    }

    /// Whether bodies are to be evicted: they exceed the cache, or together with their entries the limit at which
    /// publishers wait.
    fn has_too_much_in_memory(&self) -> bool {
        self.memory.bytes() > self.settings.cache_bytes_max
            || self.memory.bytes_with_entries() > self.settings.memory_bytes_max / 5 * 4
    }

    /// Evicts some bodies. Returns whether any were evicted, or are being written to the log first.
    fn evict_bodies(&mut self) -> bool {
        let mut eviction = Eviction {
            target: self.settings.cache_bytes_max / 10 * 9,
            entries_target: self.settings.memory_bytes_max / 4 * 3,
            progress: false,
            steps: EVICT_STEPS,
            is_full: self.is_full(),
        };
        let now = self.now.monotonic;
        if self.memory.bytes() < self.memory.rescan_above && self.pressure != Some(Pressure::Memory) {
            return false;
        }
        // Once more than there are queues: the last round notices that all of them were scanned without success.
        for _ in 0..=self.memory.evictable.len() {
            if eviction.is_enough(&self.memory) {
                self.memory.rescan_above = 0;
                break;
            }
            if eviction.steps == 0 {
                break;
            }
            let Some(queue) = self.memory.evictable.pop_front() else {
                self.memory.looked(false, now);
                break;
            };
            let Engine {
                queues,
                memory,
                staging,
                counters,
                ..
            } = self;
            let Some(q) = queues.get_mut(queue) else {
                continue;
            };
            let has_left = eviction.evict_from(q, queue, memory, staging, counters);
            if memory.looked(has_left, now) {
                break;
            }
        }
        eviction.progress
    }

    /// Logs the deletion of a transient queue that has spilled messages to the log.
    pub(crate) fn forget_spills(&mut self, q: &Queue) {
        if !q.durable && q.spilled.is_some() {
            self.staging.record(Record::QueueDelete { queue: q.id });
        }
    }
}

/// Entries that stay, and are looked at for the cost of one that is evicted.
const STAYS_PER_STEP: usize = 16;

/// One scan of the queues whose bodies may be evicted.
struct Eviction {
    /// Bytes of bodies, and of bodies with their entries, at which the scan ends.
    target: usize,
    entries_target: usize,
    /// Something was evicted, or is being written to the log first.
    progress: bool,
    /// The number of entries that may still be looked at.
    steps: usize,
    /// The rest of the disk is reserved for settles, so nothing may be spilled.
    is_full: bool,
}

/// The result of scanning one queue.
struct Leaving {
    /// At least one entry was offered for eviction.
    offered: bool,
    /// Some entries can be evicted once they are written.
    later: bool,
    /// Transient messages to be written to the log, unsynced, to free memory.
    spills: Vec<(Message, Route)>,
}

impl Eviction {
    fn is_enough(&self, memory: &Memory) -> bool {
        memory.bytes() <= self.target && memory.bytes_with_entries() <= self.entries_target
    }

    /// Scans a queue. Returns whether anything was evicted, or will be once it is written.
    fn evict_from(
        &mut self,
        q: &mut Queue,
        key: QueueKey,
        memory: &mut Memory,
        staging: &mut Staging,
        counters: &mut Counters,
    ) -> bool {
        self.steps -= 1;
        let (bytes_before, paged_before) = (memory.bytes(), q.ready().paged());
        let mut head = Spare::of(q, memory.spare_bytes());
        // Entries that would be handed out first stay in memory longest.
        let stays: SmallVec<[(u8, usize); 1]> = (q.ready().priorities().rev())
            .map(|priority| {
                let stays = q.ready().front_of(priority).take_while(|entry| head.keeps(entry));
                (priority, stays.count())
            })
            .collect();
        let looked_at: usize = stays.iter().map(|(_, stay)| stay).sum();
        self.steps = self.steps.saturating_sub(looked_at / STAYS_PER_STEP);
        let mut leaving = Leaving {
            offered: false,
            later: false,
            spills: Vec::new(),
        };
        for (priority, stay) in stays.into_iter().rev() {
            if priority >= PAGED_PRIORITIES && q.arguments.priority_max > PAGED_PRIORITIES {
                break;
            }
            let about = About {
                id: q.id,
                spilled: q.spilled,
                priority_max: q.arguments.priority_max,
            };
            q.page_out(priority, stay, |entry| {
                self.offer(entry, about, &mut leaving, memory, staging, counters)
            });
        }
        let has_left = memory.bytes() < bytes_before || q.ready().paged() > paged_before;
        self.progress |= has_left || !leaving.spills.is_empty();
        if !leaving.spills.is_empty() {
            leaving.later = true;
            q.spilled = Some(staging.open_ticket());
        }
        for (message, route) in leaving.spills {
            staging.message(message, Routes::from_iter([route]));
        }
        // Entries that stay for now may be evicted when the spare is halved.
        q.evictable = leaving.offered || !head.is_whole();
        if q.evictable {
            memory.evictable.push_back(key);
        }
        leaving.later || memory.bytes() < bytes_before
    }

    /// Offers an entry for eviction.
    fn offer(
        &mut self,
        entry: &mut Entry,
        about: About,
        leaving: &mut Leaving,
        memory: &mut Memory,
        staging: &Staging,
        counters: &mut Counters,
    ) -> Leave {
        leaving.offered = true;
        if self.steps == 0 || self.is_enough(memory) {
            return Leave::Stop;
        }
        self.steps -= 1;
        let was_here = matches!(entry.body, Body::Memory(_));
        if memory.evict(entry) {
            counters.bodies_evicted += u64::from(was_here);
            // The log may have the message because of another queue, while this queue's record is not written yet.
            let is_listed = !entry.flags.has(EntryFlags::SPILLED)
                || about.spilled.is_none_or(|ticket| ticket <= staging.written_ticket());
            return if is_listed { Leave::Paged } else { Leave::Stay };
        }
        if entry.flags.has(EntryFlags::LOGGED) {
            // It is not written yet: this entry and the following ones are left for later.
            leaving.later = true;
            return Leave::Stop;
        }
        if let Body::Memory(message) = &entry.body
            && !self.is_full
            && message.log_state().join()
        {
            // A transient message is spilled: written to the log, unsynced. It is evicted by a later scan, once it is
            // written.
            entry.flags.set(EntryFlags::LOGGED | EntryFlags::SPILLED);
            let route = Route {
                queue: about.id,
                seq: entry.seq,
                flags: about.logged_flags(entry),
            };
            leaving.spills.push((message.clone(), route));
        }
        Leave::Stay
    }
}

/// What eviction needs to know of the queue.
#[derive(Clone, Copy)]
struct About {
    id: QueueId,
    spilled: Option<u64>,
    priority_max: u8,
}

impl About {
    fn logged_flags(self, entry: &Entry) -> u8 {
        if self.priority_max > 0 {
            entry.flags.with_priority(entry.priority).0
        } else {
            entry.flags.0
        }
    }
}

/// What stays in memory at the head of a queue that has consumers or whose bodies are being read.
struct Spare {
    entries: usize,
    bytes: u64,
    /// The number of entries that stay.
    kept: usize,
}

impl Spare {
    fn of(q: &Queue, bytes: u64) -> Spare {
        // While bodies are being read, those in front of them stay: otherwise they would never be in memory at the same
        // time.
        let is_loading = q.loading > 0;
        let nobody = q.consumers.is_empty() && !is_loading;
        Spare {
            entries: if nobody { 0 } else { SPARE },
            bytes: if nobody { 0 } else { bytes.max(u64::from(is_loading)) },
            kept: 0,
        }
    }
    /// Whether the spare is unused: no entry stays because of it.
    fn is_whole(&self) -> bool {
        self.kept == 0
    }
    fn keeps(&mut self, entry: &Entry) -> bool {
        let keeps = self.entries > 0 && self.bytes > 0;
        self.kept += usize::from(keeps);
        self.entries = self.entries.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(entry.body.len() as u64);
        keeps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Envelope;
    use crate::queue::QueueKind;
    use crate::slots::ConsumerKey;
    use crate::store::Durability;
    use crate::time::Time;

    /// A queue that keeps all it has for its consumer cost a step, however much that was: with two thousand of them, one hold
    /// looked at a million entries.
    #[test]
    fn what_stays_in_a_queue_is_paid_for() {
        let id = QueueId(1);
        let mut q = Queue::new(id, "q".into(), QueueKind::Plain, false, Time::default());
        let key = QueueKey { slot: 0, generation: 1 };
        q.consumers.add(0, ConsumerKey { slot: 0, generation: 1 });
        let (mut memory, mut staging) = (Memory::default(), Staging::new(Durability::Always));
        for _ in 0..SPARE {
            let message = Message::new(Envelope::default(), "", "q", b"", b"m");
            memory.pin(&message);
            q.push_copy(message, EntryFlags::default(), None);
        }
        let mut eviction = Eviction {
            target: 0,
            entries_target: 0,
            progress: false,
            steps: EVICT_STEPS,
            is_full: false,
        };
        assert!(!eviction.evict_from(&mut q, key, &mut memory, &mut staging, &mut Counters::default()));
        assert_eq!(q.depth(), SPARE, "all of it stays");
        let spent = EVICT_STEPS - eviction.steps;
        assert!((SPARE / STAYS_PER_STEP..SPARE).contains(&spent), "{spent} steps");
    }
}
