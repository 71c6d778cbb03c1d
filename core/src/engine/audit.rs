//! Checks, for tests, that everything the engine counts agrees with its state, which it walks completely.

use super::Engine;
use super::link::{Channel, LinkState};
use super::log_waits::Waiter;
use super::outbox::Out;
use crate::message::Message;
use crate::queue::Queue;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::queue::ready::Head;
use crate::queue::unsettled::cost;
use crate::slots::{ConsumerKey, Link, QueueKey, SessionKey};
use hashbrown::HashMap;

/// What the walk has found.
#[derive(Default)]
struct Found<'a> {
    /// By queue: their number, and the bytes of their bodies.
    unsettled: HashMap<QueueKey, (usize, u64)>,
    by_consumer: HashMap<ConsumerKey, u32>,
    messages: HashMap<*const u8, (&'a Message, u32)>,
    unsettled_bytes: usize,
}

impl<'a> Found<'a> {
    fn entry(&mut self, entry: &'a Entry) {
        self.body(&entry.body);
    }
    fn body(&mut self, body: &'a Body) {
        if let Body::Memory(message) = body {
            self.message(message);
        }
    }
    fn message(&mut self, message: &'a Message) {
        let (_, pins) = self
            .messages
            .entry(std::ptr::from_ref(message.envelope()).cast())
            .or_insert((message, 0));
        *pins += 1;
    }
    /// An entry that is reserved or unsettled.
    fn taken(&mut self, queue: QueueKey, engine: &Engine, body: &'a Body) {
        self.body(body);
        if engine.queues.contains(queue) {
            let (count, bytes) = self.unsettled.entry(queue).or_default();
            *count += 1;
            *bytes += body.len() as u64;
        }
    }
    fn counted(&mut self, key: ConsumerKey) {
        *self.by_consumer.entry(key).or_default() += 1;
    }
}

impl Engine {
    /// Asserts that all counts are right.
    ///
    /// # Panics
    /// If one is wrong.
    pub fn audit(&self) {
        assert!(
            !self.queues.is_any_touched(),
            "a turn ends with every touched queue dispatched"
        );
        assert!(
            self.internal.is_empty() || self.internal_walk.is_some() || self.internal_budget.is_spent(),
            "a turn ends with every dead letter and will published, but for those behind one that takes longer"
        );
        let mut found = Found::default();
        for l in self.links.iter() {
            self.audit_link(l, &mut found);
        }
        self.audit_sessions(&mut found);
        assert_eq!(
            self.throttling.bytes(),
            found.unsettled_bytes,
            "bytes of unsettled deliveries"
        );
        for waiting in &self.internal {
            found.message(waiting.message());
        }
        for (_, message) in &self.behind.refused {
            found.message(message);
        }
        for entry in self.memory.to_drop() {
            found.entry(entry);
        }
        for (key, q) in self.queues.iter() {
            self.audit_queue(key, q, &mut found);
            self.audit_served(key);
        }
        for (key, c) in self.consumers.iter() {
            assert!(self.links.get(c.link).is_some(), "a consumer has a link");
            let q = self.queues.get(c.queue);
            assert!(
                q.is_some_and(|q| q.consumers.iter().any(|k| k == key)) || self.orphans.contains(&key),
                "a consumer is on its queue, or that is gone"
            );
            let counted = found.by_consumer.get(&key).copied().unwrap_or(0);
            assert_eq!(c.credit.used(), counted, "credit that a consumer uses");
        }
        self.retained.in_memory().for_each(|message| found.message(message));
        let bytes: usize = found.messages.values().map(|(m, _)| m.memory()).sum();
        assert_eq!(self.memory.bytes(), bytes, "message memory");
        for (message, pins) in found.messages.values() {
            assert_eq!(message.log_state().pins(), *pins, "entries that pin {message:?}");
        }
    }

    fn audit_link<'a>(&'a self, l: &'a LinkState, found: &mut Found<'a>) {
        let (mut reserved, mut bytes) = (0, 0);
        let mut in_channel: HashMap<u16, u32> = HashMap::new();
        for out in l.outbox.iter() {
            if let Out::Reserved { consumer, queue, entry } = out {
                reserved += 1;
                bytes += entry.body.len();
                found.taken(*queue, self, &entry.body);
                let c = self.consumers.get(*consumer).expect("a reservation has a consumer");
                assert_eq!(c.link, l.id);
                if c.counts(entry.flags) && c.session.is_none() {
                    found.counted(*consumer);
                    *in_channel.entry(c.channel).or_default() += 1;
                }
            }
        }
        assert_eq!(l.outbox.reserved(), (reserved, bytes), "reservations");
        let gated: usize = l.channels().map(|c| c.gated().len()).sum();
        assert_eq!(gated, l.gated_answers(), "answers that wait for the log");
        let gated = l.channels().flat_map(|c| c.gated().iter().map(|(_, out)| out));
        let mut unsettled_bytes = 0;
        for out in l.outbox.iter().chain(gated) {
            if let Out::Got(fetched) = out {
                found.taken(fetched.queue, self, &fetched.entry.body);
                unsettled_bytes += cost(&fetched.entry.body);
            }
        }
        assert!(
            l.rare
                .get()
                .iter()
                .flat_map(|rare| &rare.throttled)
                .all(|k| self.consumers.get(*k).is_some_and(|c| c.throttled)),
            "a link lists consumers that do not wait for settles"
        );
        for c in l.channels() {
            let in_channel = in_channel.get(&c.number).copied().unwrap_or(0);
            unsettled_bytes += self.audit_channel(c, in_channel, found);
        }
        assert_eq!(
            l.unsettled_bytes, unsettled_bytes,
            "bytes of a link's unsettled deliveries"
        );
        found.unsettled_bytes += unsettled_bytes;
    }

    /// Returns the bytes of its unsettled deliveries. `reserved`: deliveries reserved to its consumers that count.
    fn audit_channel<'a>(&'a self, c: &'a Channel, reserved: u32, found: &mut Found<'a>) -> usize {
        let (mut bytes, mut counted) = (0, reserved);
        let postponed = c.postponed.iter().flat_map(|postponed| postponed.rejected.iter());
        for (queue, consumer, _, body) in c.unsettled.iter().chain(postponed) {
            found.taken(queue, self, body);
            bytes += cost(body);
            if let Some(key) = consumer {
                found.counted(key);
                counted += 1;
            }
        }
        assert_eq!(c.credit.used(), counted, "credit that channel {} uses", c.number);
        for key in &c.consumers {
            assert!(
                self.consumers.get(*key).is_some(),
                "a channel lists a consumer that is gone"
            );
        }
        if c.gated()
            .front()
            .is_some_and(|(gate, _)| self.staging.log().opens(*gate))
            && !self.is_releasing()
        {
            panic!("an answer is gated that the log has released");
        }
        bytes
    }

    fn audit_queue<'a>(&'a self, key: QueueKey, q: &'a Queue, found: &mut Found<'a>) {
        let mut last = None;
        let mut bytes = 0;
        let mut here = 0;
        for entry in q.ready().entries() {
            let place = (std::cmp::Reverse(entry.priority), entry.seq);
            assert!(last.is_none_or(|last| last < place), "queue '{}' in order", q.name);
            assert!(entry.seq < q.next_seq());
            last = Some(place);
            bytes += entry.body.len() as u64;
            here += 1;
            found.entry(entry);
        }
        let mut paged = 0;
        for (priority, run) in q.ready().runs() {
            assert!(run.first <= run.last && run.count > 0, "a run is not empty");
            let inside = |e: &&Entry| e.priority == priority && (run.first..=run.last).contains(&e.seq);
            assert!(
                q.ready().entries().find(inside).is_none(),
                "an entry in its run's place"
            );
            bytes += run.bytes;
            paged += run.count as usize;
        }
        assert_eq!((q.depth(), q.ready().paged()), (here + paged, paged));
        assert_eq!(q.ready().bytes(), bytes);
        let unsettled = found.unsettled.get(&key).copied().unwrap_or_default();
        let counted = (q.unsettled(), q.unsettled_bytes());
        assert_eq!(counted, unsettled, "unsettled of queue '{}', and their bytes", q.name);
        for consumer in q.consumers.iter() {
            let c = self
                .consumers
                .get(consumer)
                .expect("a queue lists a consumer that is gone");
            assert_eq!(c.queue, key);
        }
        assert_eq!(self.queues.numbered(q.id), Some(key));
    }

    fn audit_sessions<'a>(&'a self, found: &mut Found<'a>) {
        let mut used: HashMap<SessionKey, u32> = HashMap::new();
        for l in self.links.iter() {
            for out in l.outbox.iter() {
                if let Out::Reserved { consumer, entry, .. } = out
                    && let Some(c) = self.consumers.get(*consumer)
                    && let Some((session, _)) = c.session
                    && c.counts(entry.flags)
                {
                    *used.entry(session).or_default() += 1;
                }
            }
        }
        for (key, s) in self.sessions.iter() {
            let mut counted = used.get(&key).copied().unwrap_or(0);
            for o in s.in_flight.iter() {
                found.taken(o.queue, self, &o.entry.body);
                counted += u32::from(o.counted);
            }
            if s.link.is_some() {
                assert_eq!(
                    s.credit.used(),
                    counted,
                    "deliveries counted against the receive maximum of '{}'",
                    s.client_id
                );
            }
            assert_eq!(self.sessions.named(&s.client_id), Some(key));
            let shared = s.subscriptions.keys().filter(|(_, share)| share.is_some());
            assert_eq!(
                s.shared as usize,
                shared.count(),
                "shared subscriptions of '{}'",
                s.client_id
            );
            for key in &s.consumers {
                assert!(
                    self.consumers.get(*key).is_some(),
                    "a session lists a consumer that is gone"
                );
            }
        }
    }

    /// Asserts that no consumer that could be served waits.
    fn audit_served(&self, queue: QueueKey) {
        let q = &self.queues[queue];
        if q.dispatched_later {
            // The next turn continues it.
            return;
        }
        let written = self.staging.written_ticket();
        let mark_is_due = self
            .waits
            .until_written()
            .any(|(ticket, waiter)| waiter == Waiter::Marked(queue) && ticket > written);
        let front = match q.head() {
            Head::Empty => return,
            // The head left memory while it waited for its hand-out mark; the mark continues the queue.
            Head::Paged if mark_is_due => return,
            Head::Paged => {
                let flags = EntryFlags::new(2);
                let active = q.arguments.single_active.then(|| q.consumers.first()).flatten();
                let mut served = q.consumers.iter().filter(|k| active.is_none_or(|a| a == *k));
                let wanted = served.any(|key| self.has_credit(key, flags) && !self.is_noted(key));
                assert!(!wanted || q.is_paging() || q.awaits_reads, "a page is waited for");
                return;
            }
            Head::Entry(front) => front,
        };
        // An expired head that cannot be dead-lettered yet goes to nobody.
        if let Body::Memory(message) = &front.body
            && q.is_expired(message, self.now.wall)
            && (self.dies_later(queue, &front.body) || self.time.has_waiting(queue))
        {
            return;
        }
        if !q.would_be_marked(front.seq, front.flags, written) {
            // Without a consumer to serve there is nothing to wait for.
            let wanted = q
                .consumers
                .iter()
                .any(|key| self.has_credit(key, front.flags) && !self.is_noted(key));
            assert!(
                mark_is_due || q.loading > 0 || q.awaits_reads || !wanted,
                "a mark is waited for"
            );
            return;
        }
        // Its mark was reported, and a later hold continues it.
        let continues = || {
            self.waits
                .until_written()
                .any(|(_, waiter)| waiter == Waiter::Marked(queue))
        };
        assert!(
            !self.could_serve(queue) || continues(),
            "queue '{}' could be served",
            q.name
        );
    }

    /// Whether the log has reported more than the hold had time to continue.
    pub fn is_releasing(&self) -> bool {
        self.waits.continues
    }

    /// Whether a consumer could be given the queue's head, and nothing is noted that will do so.
    fn could_serve(&self, queue: QueueKey) -> bool {
        let q = &self.queues[queue];
        let active = q.arguments.single_active.then(|| q.consumers.first()).flatten();
        q.consumers
            .iter()
            .filter(|k| active.is_none_or(|a| a == *k))
            .any(|key| self.is_servable(queue, key) && !self.is_noted(key))
    }

    /// Whether the consumer was passed over for lack of room in its link, and will be fed by the link's next take.
    fn is_noted(&self, key: ConsumerKey) -> bool {
        let link = self.consumers.get(key).and_then(|c| self.links.get(c.link));
        link.is_some_and(|l| l.starved.contains(&key))
    }

    /// Whether the consumer has credit and room for the head of its queue, and the head may go.
    fn is_servable(&self, queue: QueueKey, key: ConsumerKey) -> bool {
        let q = &self.queues[queue];
        let Head::Entry(front) = q.head() else {
            return false;
        };
        q.loading == 0
            && !q.awaits_reads
            && q.would_be_marked(front.seq, front.flags, self.staging.written_ticket())
            && self.has_credit(key, front.flags)
    }

    /// Whether the consumer has credit and room for an entry with these flags.
    fn has_credit(&self, key: ConsumerKey, flags: EntryFlags) -> bool {
        let Some(c) = self.consumers.get(key) else { return false };
        let counts = c.counts(flags);
        let credit = match c.session {
            Some((session, _)) => {
                let s = &self.sessions[session];
                !counts || !s.credit.is_spent()
            }
            None => !counts || !c.credit.is_spent(),
        };
        let Some(l) = self.links.get(c.link) else { return false };
        let channel = l.channels().find(|ch| ch.number == c.channel);
        let channel = c.session.is_some()
            || channel.is_none_or(|ch| {
                let limited = counts && self.throttling.limits(l) && ch.credit.used() > 0;
                ch.gated().is_empty() && !limited && ch.recovering.is_none() && !ch.credit.is_spent()
            });
        credit && channel && l.has_room()
    }

    /// Whether the link would get something from a take with room.
    pub fn has_work(&self, link: Link) -> bool {
        let Some(l) = self.links.get(link) else { return false };
        // It has been told that it ends, and takes nothing more.
        if l.closed.is_none() && (l.taken_over || self.ended.is_some()) {
            return false;
        }
        let confirms = l.confirm_dirty.iter().any(|n| {
            l.channels()
                .find(|c| c.number == *n)
                .is_some_and(|c| self.confirms.has_news(&c.publisher, &self.staging))
        });
        let starved = l.starved.iter().any(|key| {
            self.consumers
                .get(*key)
                .is_some_and(|c| self.queues.contains(c.queue) && self.is_servable(c.queue, *key))
        });
        l.closed.is_some()
            || (l.publishes && l.told != self.pressure && !self.rounds.tells_of_pressure())
            || !l.verdicts.is_empty()
            || confirms
            || l.has_more()
            || (starved && l.outbox.is_empty())
    }

    /// Asserts that connections that are gone left nothing but queues and their messages.
    ///
    /// # Panics
    /// If something is left.
    pub fn assert_idle(&self) {
        assert!(self.links.is_empty(), "links");
        assert!(self.consumers.is_empty(), "consumers");
        assert!(self.confirms.is_empty(), "confirm entries");
        assert!(self.waits.has_no_links(), "answers or sessions waiting for the log");
        assert!(self.successors.is_empty(), "links that wait for a session");
        assert!(self.memory.waiting_gets.is_empty(), "gets waiting");
        assert!(
            self.queues.iter().all(|(_, q)| q.exclusive.is_none()),
            "exclusive queues"
        );
        let in_flight: usize = self.sessions.iter().map(|(_, s)| s.in_flight.iter().count()).sum();
        let unsettled: usize = self.queues.iter().map(|(_, q)| q.unsettled()).sum();
        assert!(unsettled <= in_flight, "unsettled messages that no connection has");
        let timers = 2 * (self.sessions.len() + self.queues.len()) + 1;
        assert!(self.timers.len() <= timers, "{} timers", self.timers.len());
        assert!(self.retained_loads.is_empty(), "retained messages on their way");
        if self.queues.is_empty() {
            let retained: usize = self.retained.in_memory().map(Message::memory).sum();
            assert_eq!(self.memory.bytes(), retained, "message memory");
        }
    }
}
