//! Bodies in memory: counted once however many queues hold them; over the budget they leave for the log, and with them the
//! places of the entries behind the head. Both come back when their turn comes: first a page of entries, then their bodies.
//!
//! A queue with consumers keeps some bytes at its head, its spare, and fetches as much at once. Where that is too much for all
//! such queues together, the spare of each is halved, and doubled again when there is room.

use super::Engine;
use super::queues::Queues;
use crate::command::Get;
use crate::durable_session::Subscriptions;
use crate::event::Pressure;
use crate::message::Dialect;
use crate::message::Message;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::queue::ready::{Leave, Ready};
use crate::queue::{Queue, QueueKind};
use crate::slots::{Link, QueueKey, SessionKey};
use crate::store::{Answer, Loaded, Page, PageRead, QueueId, Read, Record, Request, Route, Routes};
use crate::time::{Now, Time};
use crate::topic::{Levels, Pattern};
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// The message memory of a vhost.
#[derive(Default)]
pub(crate) struct Memory {
    /// Messages whose bodies are in memory.
    bytes: usize,
    /// Entries that hold them.
    entries: usize,
    /// Above it, bodies of unsettled deliveries are evicted if the log has them.
    shed_above: usize,
    /// Queues long enough to have bodies that may leave.
    deep: VecDeque<QueueKey>,
    /// How many of `deep` are gone.
    deep_gone: usize,
    /// How often the spare of the queues was halved.
    halved: u32,
    /// The spare is not doubled before then.
    double_after: Time,
    /// Queues scanned in a row without evicting anything.
    fruitless_scans: usize,
    /// The last scan evicted nothing: scan again only above so many bytes.
    rescan_above: usize,
    /// Bytes of body on their way from disk.
    loading: usize,
    /// Pages on their way from disk.
    pages: usize,
    /// Queues that want something when some of that is here.
    hungry: VecDeque<QueueKey>,
    /// Bodies of deliveries to be sent again that are on their way from disk: whose, and under which packet id.
    pub(crate) resends: HashMap<(QueueId, u64), (SessionKey, u16)>,
    /// Entries of purged and deleted queues. They are dropped in slices: all at once would be a long hold.
    doomed: VecDeque<Ready>,
    /// What the reader is to fetch; taken by `drain`.
    pub(crate) requests: Vec<Request>,
    /// `Get`s whose message is on its way from disk.
    pub(crate) waiting_gets: Vec<(QueueKey, Link, Get)>,
}

/// An entry of a queue, with a share of the room that its list keeps free. A fan-out to many queues is one message and many of
/// them. Entries without a body in memory are few: the middle of a queue is not here.
const ENTRY_BYTES: usize = std::mem::size_of::<Entry>() * 5 / 4;
/// Entries at the head of a queue with consumers whose bodies stay in memory.
const SPARE: usize = 512;
/// Bytes of body after which no more stay there, nor are fetched at once, where there is room.
const SPARE_BYTES: u64 = 256 << 10;
/// How often they may be halved: down to 4 KiB.
const HALVED_MAX: u32 = 6;
/// How soon they are doubled again.
const DOUBLE_AFTER: Duration = Duration::from_millis(100);
/// Part of the cache that may be on its way from disk, and one body more.
const LOADING_SHARE: usize = 4;
/// Entries fetched at once, at most.
const READ_ENTRIES: usize = 256;
/// Entries looked at in one hold of the lock.
const EVICT_STEPS: usize = 2048;
/// Doomed entries dropped in one hold of the lock.
const BURY_STEPS: usize = 1024;
/// Entries read back from the log at once, at most. When half as many are left, the next ones are asked for.
const PAGE_ENTRIES: usize = 128;
/// Pages on their way at once. The more there are, the less often a segment's directory is opened for them.
const PAGES_MAX: usize = 1024;
/// Entries read back at least.
const PAGE_MIN: usize = 16;
/// Priorities the log tells apart. Entries of a higher one never leave memory.
const PAGED_PRIORITIES: u8 = 31;

impl Memory {
    /// Bytes of queued messages in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
    /// Bytes of queued messages in memory and of the entries that hold them: a message that is in many queues has many. Over the
    /// limit publishers wait; eviction looks at the messages alone, because an entry goes with its body.
    pub(crate) fn bytes_with_entries(&self) -> usize {
        self.bytes + self.entries * ENTRY_BYTES
    }
    /// One more entry pins the message in memory. Its bytes are counted with the first.
    pub(crate) fn pin(&mut self, message: &Message) {
        self.entries += 1;
        if message.log_state().hold() {
            self.bytes += message.memory();
        }
    }
    /// A queue lets go of a body.
    pub(crate) fn drop_body(&mut self, body: &Body) {
        if let Body::Memory(message) = body {
            self.entries -= 1;
            if message.log_state().release() {
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
    fn evict(&mut self, entry: &mut Entry) -> bool {
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
    /// Drops what a queue held, at once or in the holds that follow.
    pub(crate) fn doom(&mut self, ready: Ready) {
        self.doomed.push_back(ready);
        self.bury();
    }
    /// Drops some of what is doomed. Returns whether there is more.
    fn bury(&mut self) -> bool {
        for _ in 0..BURY_STEPS {
            let Some(ready) = self.doomed.front_mut() else {
                return false;
            };
            match ready.pop_any() {
                Some(entry) => self.drop_body(&entry.body),
                None => _ = self.doomed.pop_front(),
            }
        }
        !self.doomed.is_empty()
    }
    /// Entries that are doomed and not dropped yet.
    #[cfg(feature = "testing")]
    pub(crate) fn doomed(&self) -> impl Iterator<Item = &Entry> {
        self.doomed.iter().flat_map(Ready::entries)
    }
    /// Notes that the queue has bodies that may leave: one that nobody consumes, or a long one.
    pub(crate) fn note_deep(&mut self, queue: &mut Queue, key: QueueKey) {
        let deep = if queue.consumers.is_empty() {
            queue.ready.in_memory() > 0
        } else {
            queue.ready.in_memory() > SPARE || queue.ready.bytes() > self.spare_bytes()
        };
        if deep && !queue.deep {
            queue.deep = true;
            self.deep.push_back(key);
        }
    }
    /// The queue wants what is on disk, and has to wait its turn.
    fn is_hungry(&mut self, queue: &mut Queue, at: QueueKey) {
        if !queue.hungry {
            queue.hungry = true;
            self.hungry.push_back(at);
        }
    }
    fn spare_bytes(&self) -> u64 {
        SPARE_BYTES >> self.halved
    }
    /// Notes the scan of a queue. `left`: it evicted something, or soon will. Returns whether to stop scanning.
    fn looked(&mut self, left: bool, now: Time) -> bool {
        self.fruitless_scans = if left { 0 } else { self.fruitless_scans + 1 };
        if self.fruitless_scans <= self.deep.len() {
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
    fn relax(&mut self, now: Time) {
        self.rescan_above = 0;
        if self.halved > 0 && now >= self.double_after {
            self.halved -= 1;
            self.double_after = now + DOUBLE_AFTER;
        }
    }
    /// The queue is gone. Its note goes too, if there are many of that kind: a vhost whose queues come and go may never
    /// be short of memory, and never look at the notes.
    pub(crate) fn forget_deep(&mut self, queue: &Queue, queues: &Queues) {
        if !queue.deep {
            return;
        }
        self.deep_gone += 1;
        if self.deep_gone > 64 && self.deep_gone * 2 > self.deep.len() {
            self.deep_gone = 0;
            self.deep.retain(|key| queues.contains(*key));
        }
    }
}

impl Engine {
    /// Lets bodies go if there are too many, and tells publishers to wait if that is not enough.
    pub(crate) fn relieve_memory(&mut self) {
        if self.memory.bury() {
            self.timers.set_burial(self.now.monotonic);
        }
        self.memory.shed_above = self.settings.cache_bytes_max / 2;
        if self.memory.bytes > self.settings.cache_bytes_max {
            self.evict_bodies();
        } else if self.memory.bytes < self.settings.cache_bytes_max / 2 {
            self.memory.relax(self.now.monotonic);
        }
        self.shed_unsettled();
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
        if pressure != self.pressure {
            self.pressure = pressure;
            for l in self.links.iter_mut() {
                if l.publishes && l.told != pressure {
                    l.wake(&mut self.wakes);
                }
            }
        }
    }

    fn evict_bodies(&mut self) {
        let target = self.settings.cache_bytes_max / 10 * 9;
        let (now, full) = (self.now.monotonic, self.node_pressure == Some(Pressure::Full));
        let mut steps = EVICT_STEPS;
        let Engine {
            queues,
            memory,
            staging,
            counters,
            ..
        } = self;
        if memory.bytes < memory.rescan_above {
            return;
        }
        // Once more for the first one, which notes that all of them were looked at.
        for _ in 0..=memory.deep.len() {
            if memory.bytes <= target {
                memory.rescan_above = 0;
                return;
            }
            if steps == 0 {
                return;
            }
            let Some(queue) = memory.deep.pop_front() else {
                memory.looked(false, now);
                return;
            };
            let Some(q) = queues.get_mut(queue) else {
                continue;
            };
            steps -= 1;
            let mut spills = Vec::new();
            let (id, spilled, priority_max) = (q.id, q.spilled, q.arguments.priority_max);
            let (mut offered, mut later, mut redelivered_below) = (false, false, q.redelivered_below);
            let bytes_before = memory.bytes;
            let mut head = Spare::of(q, memory.spare_bytes());
            // What would be taken first stays longest.
            let stays: SmallVec<[(u8, usize); 1]> = (q.ready.priorities().rev())
                .map(|priority| {
                    let stays = q.ready.fresh(priority).take_while(|entry| head.keeps(entry));
                    (priority, stays.count())
                })
                .collect();
            for (priority, stay) in stays.into_iter().rev() {
                if priority >= PAGED_PRIORITIES && priority_max > PAGED_PRIORITIES {
                    break;
                }
                q.ready.page_out(priority, stay, |entry| {
                    offered = true;
                    if steps == 0 || memory.bytes <= target {
                        return Leave::Stop;
                    }
                    steps -= 1;
                    let was_here = matches!(entry.body, Body::Memory(_));
                    if memory.evict(entry) {
                        counters.bodies_evicted += u64::from(was_here);
                        if entry.flags.has(EntryFlags::REDELIVERED) {
                            redelivered_below = redelivered_below.max(entry.seq + 1);
                        }
                        // Another queue's record may be why the log has it, and this queue's still be on its way.
                        let listed = !entry.flags.has(EntryFlags::SPILLED)
                            || spilled.is_none_or(|ticket| ticket <= staging.written_ticket());
                        return if listed { Leave::Paged } else { Leave::Stay };
                    }
                    if entry.flags.has(EntryFlags::LOGGED) {
                        // Not written yet: this one and what follows is for later.
                        later = true;
                        return Leave::Stop;
                    }
                    // What is left of a full disk is for settles.
                    if let Body::Memory(message) = &entry.body
                        && !full
                        && message.log_state().join()
                    {
                        // A transient backlog goes to disk too, unsynced; it is looked at again once it is written.
                        entry.flags.set(EntryFlags::LOGGED | EntryFlags::SPILLED);
                        let flags = if priority_max > 0 {
                            entry.flags.with_priority(entry.priority)
                        } else {
                            entry.flags
                        };
                        let route = Route {
                            queue: id,
                            seq: entry.seq,
                            flags: flags.0,
                        };
                        spills.push((message.clone(), route));
                    }
                    Leave::Stay
                });
            }
            q.redelivered_below = redelivered_below;
            if !spills.is_empty() {
                later = true;
                q.spilled = Some(staging.open_ticket());
            }
            for (message, route) in spills {
                staging.message(message, Routes::from_iter([route]));
            }
            // What stays for now may have to leave when the spare is halved.
            q.deep = offered || !head.is_whole();
            if q.deep {
                memory.deep.push_back(queue);
            }
            if memory.looked(later || memory.bytes < bytes_before, now) {
                return;
            }
        }
    }

    /// Asks for the bodies at the head of the queue.
    pub(crate) fn load_head(&mut self, queue: QueueKey) {
        self.load_entries(queue, READ_ENTRIES);
    }

    /// Asks for the bodies among the first `count` entries of the queue, unless some are on their way, and for the next
    /// entries if few are here.
    pub(crate) fn load_entries(&mut self, queue: QueueKey, count: usize) {
        let loading_max = self.loading_max();
        let Engine { queues, memory, .. } = self;
        let Some(q) = queues.get_mut(queue) else {
            return;
        };
        let spare = memory.spare_bytes();
        if q.paging.is_none() && q.ready.paged() > 0 {
            match q.ready.wanted_run(count.min(PAGE_ENTRIES / 2)) {
                Some(_) if memory.pages >= PAGES_MAX => memory.is_hungry(q, queue),
                Some((priority, run)) => {
                    q.paging = Some(priority);
                    memory.pages += 1;
                    memory.requests.push(Request::Page(PageRead {
                        queue: q.id,
                        from: run.first,
                        upto: run.last,
                        count: count.clamp(PAGE_MIN, PAGE_ENTRIES),
                    }));
                }
                None => {}
            }
        }
        if q.loading > 0 || q.hungry {
            return;
        }
        let (mut room, mut full) = (usize::try_from(spare).unwrap_or(usize::MAX), false);
        for entry in q.ready.front_entries().take(count) {
            let Body::Disk { at, body_len } = entry.body else {
                continue;
            };
            if memory.loading >= loading_max {
                full = true;
                break;
            }
            memory.requests.push(Request::Body(Read {
                queue: q.id,
                seq: entry.seq,
                at,
                waited: body_len,
            }));
            q.loading += 1;
            memory.loading += body_len as usize;
            room = room.saturating_sub(body_len as usize);
            if room == 0 {
                break;
            }
        }
        if full && q.loading == 0 {
            memory.is_hungry(q, queue);
        }
        // What comes back may have to leave again.
        if q.loading > 0 && !q.deep {
            q.deep = true;
            memory.deep.push_back(queue);
        }
    }
    fn loading_max(&self) -> usize {
        // Without a cache, one after the other.
        (self.settings.cache_bytes_max / LOADING_SHARE).max(1)
    }

    /// The reader reports: these bodies are in memory, and these messages are in the log.
    pub fn loaded(&mut self, now: Now, answers: Vec<Answer>) {
        self.begin(now);
        let mut woken = Vec::new();
        for answer in answers {
            match answer {
                Answer::Body(loaded) => self.body_loaded(loaded, &mut woken),
                Answer::Page(page) => self.page_loaded(page, &mut woken),
            }
        }
        while self.memory.loading < self.loading_max()
            && self.memory.pages < PAGES_MAX
            && let Some(queue) = self.memory.hungry.pop_front()
        {
            if let Some(q) = self.queues.get_mut(queue) {
                q.hungry = false;
                woken.push(queue);
                if !q.consumers.is_empty() {
                    // Here, so that the next one finds less room.
                    self.load_head(queue);
                }
            }
        }
        for queue in woken {
            self.enforce_limit(queue);
            self.touch(queue);
        }
        self.dispatch_touched();
        self.retry_gets();
        self.dispatch_touched();
        self.relieve_memory();
    }

    /// Answers the gets that need not wait any more.
    pub(crate) fn retry_gets(&mut self) {
        let gets = std::mem::take(&mut self.memory.waiting_gets);
        for (queue, link, get) in gets {
            if self
                .queues
                .get_mut(queue)
                .is_some_and(|q| q.loading > 0 || q.hungry || q.paging.is_some())
            {
                self.memory.waiting_gets.push((queue, link, get));
            } else {
                self.get_again(link, get);
            }
        }
    }

    fn body_loaded(&mut self, l: Loaded, woken: &mut Vec<QueueKey>) {
        self.memory.loading -= l.waited as usize;
        let Some(queue) = self.queues.numbered(l.queue) else {
            return;
        };
        if let Some(resend) = self.memory.resends.remove(&(l.queue, l.seq)) {
            return self.resend_loaded(resend, queue, l);
        }
        let Some(q) = self.queues.get_mut(queue) else {
            return;
        };
        q.loading = q.loading.saturating_sub(1);
        if q.loading == 0 {
            woken.push(queue);
        }
        match l.message {
            Some(message) => {
                if let Some(entry) = q.ready.find_mut(l.seq)
                    && let Body::Disk { at, .. } = entry.body
                {
                    message.log_state().written(at);
                    self.memory.pin(&message);
                    entry.body = Body::Memory(message);
                    self.counters.bodies_loaded += 1;
                    if let QueueKind::Session(session) = q.kind {
                        let subscriptions = self.sessions.get(session).map(|s| &s.subscriptions);
                        entry.subscription_ids = subscriptions.and_then(|s| subscription_ids(s, entry));
                    }
                }
            }
            None => {
                if let Some(entry) = q.ready.remove(l.seq) {
                    tracing::warn!(queue = %q.name, seq = entry.seq, "a message's record is damaged: dropped");
                    self.queues.note_ack(queue, entry.seq);
                    self.counters.damaged += 1;
                }
            }
        }
    }

    fn page_loaded(&mut self, page: Page, woken: &mut Vec<QueueKey>) {
        self.memory.pages -= 1;
        let Some(queue) = self.queues.numbered(page.queue) else {
            return;
        };
        let Some(q) = self.queues.get_mut(queue) else {
            return;
        };
        let Some(priority) = q.paging.take() else { return };
        woken.push(queue);
        let Queue {
            ready,
            arguments,
            absent,
            redelivered_below,
            ..
        } = q;
        let entries = page.entries.into_iter().filter_map(|found| {
            let mut flags = EntryFlags(found.flags);
            let mut its_priority = 0;
            if arguments.priority_max > 0 {
                (its_priority, flags) = flags.split_priority();
            }
            if its_priority != priority || absent.binary_search(&found.seq).is_ok() {
                return None;
            }
            flags.set(EntryFlags::LOGGED);
            if found.seq < *redelivered_below {
                flags.set(EntryFlags::REDELIVERED);
            }
            Some(Entry {
                seq: found.seq,
                body: Body::Disk {
                    at: found.at,
                    body_len: found.body_len,
                },
                flags,
                priority,
                subscription_ids: None,
            })
        });
        let lost = ready.page_in(priority, page.upto, entries);
        if lost > 0 {
            tracing::warn!(queue = %q.name, lost, "messages in a damaged part of the log: dropped");
            self.counters.damaged += lost;
        }
    }

    /// Tells the log that nothing more is held of a queue that is gone; its spilled records die with it.
    pub(crate) fn forget_spills(&mut self, q: &Queue) {
        if !q.durable && q.spilled.is_some() {
            self.staging.record(Record::QueueDelete { queue: q.id });
        }
    }
}

/// The identifiers of those of a session's subscriptions that an entry of its queue matches: the log does not keep them.
pub(crate) fn subscription_ids(subscriptions: &Subscriptions, entry: &Entry) -> Option<Arc<[u32]>> {
    let Body::Memory(message) = &entry.body else {
        return entry.subscription_ids.clone();
    };
    if entry.subscription_ids.is_some() {
        return entry.subscription_ids.clone();
    }
    let with_ids = subscriptions
        .iter()
        .filter_map(|((filter, share), s)| s.subscription_id.filter(|_| share.is_none()).map(|id| (filter, id)));
    let levels = Levels::new(message.key(), message.envelope().dialect);
    let ids: Vec<u32> = with_ids
        .filter(|(filter, _)| Pattern::parse(filter, Dialect::Slash).is_ok_and(|p| p.matches(&levels)))
        .map(|(_, id)| id)
        .collect();
    (!ids.is_empty()).then(|| ids.into())
}

/// What stays in memory at the head of a queue with consumers, or whose bodies are being fetched.
struct Spare {
    entries: usize,
    bytes: u64,
    /// Entries that stay.
    kept: usize,
}

impl Spare {
    fn of(q: &Queue, bytes: u64) -> Spare {
        // What is on its way is wanted, and with it what came before it: else the two would never be here together.
        let nobody = q.consumers.is_empty() && q.loading == 0;
        Spare {
            entries: if nobody { 0 } else { SPARE },
            bytes: if nobody { 0 } else { bytes },
            kept: 0,
        }
    }
    /// Whether nothing stays because of it.
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
