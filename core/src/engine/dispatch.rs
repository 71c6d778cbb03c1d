//! From a queue to its consumers: reserving messages, in order, to whoever has credit and room.

use super::link::Out;
use super::{Engine, Link, Wakes, link_at};
use crate::durable_session::DurableSession;
use crate::message::Message;
use crate::queue::Queue;
use crate::queue::consumers::{Consumer, ConsumerKey};
use crate::queue::entry::{Body, EntryFlags};
use crate::queue::unsettled::QueueRef;
use crate::store::{Record, State};
use crate::time::Wall;
use std::time::Duration;

impl Engine {
    /// Has the queue dispatched at the end of the turn.
    pub(crate) fn touch(&mut self, queue: QueueRef) {
        if let Some(q) = self.queue_mut(queue)
            && !q.touched
        {
            q.touched = true;
            self.touched.push(queue.slot);
        }
    }

    /// Dispatches every touched queue, and publishes what died meanwhile.
    pub(crate) fn dispatch_touched(&mut self, wakes: &mut Wakes) {
        loop {
            while let Some(slot) = self.touched.pop() {
                if let Some(q) = self.queues.get_mut(slot as usize) {
                    q.touched = false;
                    self.dispatch(slot, wakes);
                }
            }
            let Some((message, skip)) = self.dead_letters.pop_front() else {
                return;
            };
            self.publish_internally(&message, &skip, wakes);
        }
    }

    /// Reserves messages from the head of the queue while a consumer can take them.
    pub(crate) fn dispatch(&mut self, slot: u32, wakes: &mut Wakes) {
        loop {
            let durable = self.staging.durable_ticket();
            let Some(q) = self.queues.get_mut(slot as usize) else {
                return;
            };
            let Some(front) = q.ready.front() else { return };
            let queue = QueueRef { slot, id: q.id };
            if q.consumers.is_empty() {
                self.watch_head(queue);
                return;
            }
            let Body::Memory(message) = &front.body else {
                self.load_head(queue);
                return;
            };
            // A time to live of nothing still lets a message pass straight to a consumer.
            if deadline(q, message).is_some_and(|d| d < self.now.wall) {
                if let Some(entry) = q.ready.pop_front() {
                    self.counters.expired += 1;
                    self.drop_entry(queue, entry, super::consuming::Death::Expired, wakes);
                }
                continue;
            }
            let (seq, flags, size) = (front.seq, front.flags, front.body.len());
            if flags.has(EntryFlags::LOGGED) && !q.marks.allow(seq, durable) {
                if q.marks.due(seq, durable) {
                    self.stage_mark(queue, seq);
                }
                let ticket = self.queues[slot as usize].marks.ticket;
                if !self.waiting_marks.contains(&(ticket, queue)) {
                    self.waiting_marks.push((ticket, queue));
                }
                return;
            }
            let Engine {
                queues,
                consumers,
                links,
                sessions,
                ..
            } = self;
            let q = &mut queues[slot as usize];
            let chosen = if q.arguments.single_active {
                q.consumers
                    .first()
                    .filter(|key| eligible(consumers, links, sessions, *key, flags))
            } else {
                q.consumers.next(|key| eligible(consumers, links, sessions, key, flags))
            };
            let Some(key) = chosen else {
                self.watch_head(queue);
                return;
            };
            let Some(entry) = q.ready.pop_front() else { return };
            q.unsettled += 1;
            let mark_due = flags.has(EntryFlags::LOGGED) && q.marks.due(seq, durable) && !q.ready.is_empty();
            let consumer = &mut consumers[key.slot as usize];
            let counts = counts_in_flight(consumer, flags);
            if counts {
                match consumer.session {
                    Some((session, _)) => sessions[session as usize].used += 1,
                    None => consumer.in_flight += 1,
                }
            }
            let (link, channel, in_channel) = (consumer.link, consumer.channel, consumer.session.is_none() && counts);
            if let Some(l) = link_at(links, link) {
                if in_channel && let Some(c) = l.find_channel(channel) {
                    c.in_flight += 1;
                }
                l.reserved_messages += 1;
                l.reserved_bytes += size;
                l.outbox.push_back(Out::Reserved {
                    consumer: key,
                    queue,
                    entry,
                });
                l.wake(wakes);
            }
            if mark_due {
                self.stage_mark(queue, seq);
            }
        }
    }

    /// Stages a hand-out mark ahead of `seq`.
    fn stage_mark(&mut self, queue: QueueRef, seq: u64) {
        let durable = self.staging.durable_ticket();
        let ticket = self.staging.open_ticket();
        let Some(q) = self.queue_mut(queue) else { return };
        q.marks.stage_ahead(seq, q.next_seq, ticket, durable);
        let upto = q.marks.staged;
        self.staging
            .record(Record::State(State::HandedOut { queue: queue.id, upto }));
        self.staging.hurry();
    }

    /// The link has room again: feeds the consumers that were passed over. Returns whether something was reserved.
    pub(crate) fn feed_starved(&mut self, link: Link, wakes: &mut Wakes) -> bool {
        let Some(l) = link_at(&mut self.links, link) else {
            return false;
        };
        if l.starved.is_empty() {
            return false;
        }
        // It takes at this moment: no need to wake it.
        l.mute(true);
        for key in std::mem::take(&mut l.starved) {
            let slot = self.consumer_mut(key).map(|c| {
                c.starved = false;
                c.queue.slot
            });
            if let Some(slot) = slot {
                self.dispatch(slot, wakes);
            }
        }
        let Some(l) = link_at(&mut self.links, link) else {
            return false;
        };
        l.mute(false);
        !l.outbox.is_empty()
    }

    /// The link has no room: what was reserved to it goes back, in order, so that others can have it.
    pub(crate) fn give_back_reservations(&mut self, link: Link) {
        let Some(l) = link_at(&mut self.links, link) else {
            return;
        };
        if l.reserved_messages == 0 {
            return;
        }
        let outbox = std::mem::take(&mut l.outbox);
        l.reserved_messages = 0;
        l.reserved_bytes = 0;
        let mut kept = std::collections::VecDeque::new();
        let mut returned = Vec::new();
        for out in outbox {
            match out {
                Out::Event(_) => kept.push_back(out),
                Out::Reserved { consumer, queue, entry } => returned.push((consumer, queue, entry)),
            }
        }
        l.outbox = kept;
        for (consumer, queue, entry) in returned.into_iter().rev() {
            self.release_reservation(consumer, queue, entry);
        }
    }

    /// One reserved entry goes back to its queue, as if it had not been reserved.
    pub(crate) fn release_reservation(
        &mut self,
        consumer: ConsumerKey,
        queue: QueueRef,
        entry: crate::queue::entry::Entry,
    ) {
        let flags = entry.flags;
        self.uncount(Some(consumer), flags);
        match self.queue_mut(queue) {
            Some(q) => {
                q.unsettled -= 1;
                q.ready.put_back(entry);
                self.touch(queue);
                if let Some(c) = self.consumer_mut(consumer)
                    && !c.starved
                {
                    c.starved = true;
                    let link = c.link;
                    if let Some(l) = link_at(&mut self.links, link) {
                        l.starved.push(consumer);
                    }
                }
            }
            None => self.memory.drop_body(&entry.body),
        }
    }

    /// A delivery no longer counts against its consumer's credit.
    pub(crate) fn uncount(&mut self, consumer: Option<ConsumerKey>, flags: EntryFlags) {
        let Some(key) = consumer else { return };
        let Engine {
            consumers,
            links,
            sessions,
            ..
        } = self;
        let Some(c) = consumers.get_mut(key.slot as usize).filter(|c| c.key == key) else {
            return;
        };
        if !counts_in_flight(c, flags) {
            return;
        }
        if let Some((session, _)) = c.session {
            let s = &mut sessions[session as usize];
            s.used = s.used.saturating_sub(1);
            return;
        }
        c.in_flight = c.in_flight.saturating_sub(1);
        if let Some(l) = link_at(links, c.link)
            && let Some(channel) = l.find_channel(c.channel)
        {
            channel.in_flight = channel.in_flight.saturating_sub(1);
        }
    }

    /// Sees to it that the head's expiry is noticed though nobody takes it.
    pub(crate) fn watch_head(&mut self, queue: QueueRef) {
        let now = self.now;
        let Some(q) = self.queue_mut(queue) else { return };
        let Some(front) = q.ready.front() else { return };
        let Body::Memory(message) = &front.body else {
            // Its time is in its record: fetch that one.
            self.load_entries(queue, 1);
            return;
        };
        let Some(deadline) = deadline(q, message) else {
            return;
        };
        let at = now.monotonic + (deadline - now.wall);
        if q.expiry_check.is_none_or(|t| t > at || t <= now.monotonic) {
            q.expiry_check = Some(at);
            self.timers.set(at, super::timers::Timer::Head(queue.slot, queue.id.0));
        }
    }

    /// Drops expired messages from the head of the queue.
    pub(crate) fn expire_head(&mut self, queue: QueueRef, wakes: &mut Wakes) {
        let wall = self.now.wall;
        if let Some(q) = self.queue_mut(queue) {
            q.expiry_check = None;
        }
        while let Some(q) = self.queue_mut(queue)
            && let Some(front) = q.ready.front()
            && let Body::Memory(message) = &front.body
            && expired(q, message, wall)
        {
            let Some(entry) = q.ready.pop_front() else { break };
            self.counters.expired += 1;
            self.drop_entry(queue, entry, super::consuming::Death::Expired, wakes);
        }
        if self.queue_mut(queue).and_then(|q| q.ready.front()).is_some_and(|e| matches!(e.body, Body::Disk { .. })) {
            // What follows an expired message has probably expired too.
            self.load_head(queue);
        } else {
            self.watch_head(queue);
        }
    }
}

/// When the message's time in this queue is over.
fn deadline(queue: &Queue, message: &Message) -> Option<Wall> {
    let envelope = message.envelope();
    let by_queue = queue
        .arguments
        .message_ttl_ms
        .map(|ttl| envelope.received + Duration::from_millis(ttl));
    match (envelope.deadline, by_queue) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

pub(crate) fn expired(queue: &Queue, message: &Message, now: Wall) -> bool {
    deadline(queue, message).is_some_and(|d| d <= now)
}

/// Whether a delivery of an entry with these flags counts against the consumer's credit.
pub(crate) fn counts_in_flight(consumer: &Consumer, flags: EntryFlags) -> bool {
    match consumer.session {
        Some((_, granted)) => flags.qos().min(granted) > 0,
        None => !consumer.no_ack,
    }
}

/// Whether the consumer can be given an entry with these flags now. Notes who was passed over for lack of room.
fn eligible(
    consumers: &mut slab::Slab<Consumer>,
    links: &mut [super::Slot],
    sessions: &slab::Slab<DurableSession>,
    key: ConsumerKey,
    flags: EntryFlags,
) -> bool {
    let Some(c) = consumers.get_mut(key.slot as usize).filter(|c| c.key == key) else {
        return false;
    };
    let counts = counts_in_flight(c, flags);
    if let Some((session, _)) = c.session {
        let s = &sessions[session as usize];
        if counts && s.used >= u32::from(s.receive_maximum) {
            return false;
        }
    } else if counts && c.prefetch > 0 && c.in_flight >= c.prefetch {
        return false;
    }
    let Some(l) = link_at(links, c.link) else { return false };
    let mut room = l.has_room();
    if c.session.is_none()
        && let Some(channel) = l.find_channel(c.channel)
    {
        if counts && channel.prefetch_all > 0 && channel.in_flight >= channel.prefetch_all {
            return false;
        }
        // An answer of the channel (its consume-ok, say) waits for the log: deliveries do not overtake it.
        room &= channel.held.is_empty();
    }
    if !room && !c.starved {
        c.starved = true;
        l.starved.push(key);
    }
    room
}
