//! From a queue to its consumers: reserving messages, in order, to whoever has credit and room.

use super::Engine;
use super::links::Links;
use super::log_waits::Waiter;
use super::throttling::Throttling;
use super::timers::Timer;
use crate::command::Channel as ChannelNumber;
use crate::durable_session::Sessions;
use crate::message::Message;
use crate::queue::Queue;
use crate::queue::consumers::Consumer;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::queue::ready::Head;
use crate::slots::{ConsumerKey, Link, QueueKey, SessionKey, Slots};
use crate::store::{Durability, Record, State};
use crate::time::Wall;
use std::time::Duration;

/// Expired messages dropped from one queue in one go.
const EXPIRE_STEPS: usize = 1024;

impl Engine {
    /// Has the queue dispatched at the end of the turn.
    pub(crate) fn touch(&mut self, queue: QueueKey) {
        self.queues.touch(queue);
    }

    /// Dispatches every touched queue, and publishes what died meanwhile.
    pub(crate) fn dispatch_touched(&mut self) {
        loop {
            while let Some(queue) = self.queues.next_touched() {
                self.dispatch(queue);
            }
            if !self.publish_next_internal() {
                return;
            }
        }
    }

    /// Reserves messages from the head of the queue while a consumer can take them.
    pub(crate) fn dispatch(&mut self, queue: QueueKey) {
        loop {
            let written = self.staging.written_ticket();
            let Some(q) = self.queues.get_mut(queue) else {
                return;
            };
            let front = match q.ready.head() {
                Head::Empty => return,
                Head::Paged => {
                    if q.consumers.is_empty() {
                        self.watch_head(queue);
                    } else {
                        self.load_head(queue);
                    }
                    return;
                }
                Head::Entry(front) => front,
            };
            if q.consumers.is_empty() {
                // Now and not by a timer: a body that was fetched to see its time may have to leave again at once.
                match &front.body {
                    Body::Memory(message) if expired(q, message, self.now.wall) => self.expire_head(queue),
                    _ => self.watch_head(queue),
                }
                return;
            }
            let on_disk = match &front.body {
                // A time to live of nothing still lets a message pass straight to a consumer.
                Body::Memory(message) if deadline(q, message).is_some_and(|d| d < self.now.wall) => {
                    let body = front.body.clone();
                    if self.dies_later(queue, &body) || !self.may_expire(queue) {
                        return;
                    }
                    let Some(q) = self.queues.get_mut(queue) else { return };
                    if let Some(entry) = q.ready.pop_front() {
                        self.counters.expired += 1;
                        self.drop_entry(queue, entry, super::consuming::Death::Expired);
                    }
                    continue;
                }
                Body::Memory(_) => false,
                Body::Disk { .. } => true,
            };
            let (seq, flags) = (front.seq, front.flags);
            let Engine {
                queues,
                consumers,
                links,
                sessions,
                throttling,
                ..
            } = self;
            let q = &mut queues[queue];
            let chosen = if q.arguments.single_active {
                let active = q.consumers.first();
                active
                    .filter(|key| eligible(consumers, links, sessions, throttling, *key, flags))
                    .map(|key| (key, 0))
            } else {
                q.consumers
                    .next(|key| eligible(consumers, links, sessions, throttling, key, flags))
            };
            let Some((key, next_turn)) = chosen else {
                self.watch_head(queue);
                return;
            };
            // Only for somebody who can have it: a body or a mark that nobody waits for would be work for nothing.
            if on_disk {
                self.load_head(queue);
                return;
            }
            if flags.has(EntryFlags::LOGGED) && !q.marks.allow(seq, written) {
                if q.marks.due(seq, written) {
                    self.stage_mark(queue, seq);
                }
                let marks = &mut self.queues[queue].marks;
                if marks.awaited != marks.ticket {
                    marks.awaited = marks.ticket;
                    self.waits.for_written(marks.ticket, Waiter::Marked(queue));
                }
                return;
            }
            q.consumers.took(next_turn);
            let Some(entry) = q.ready.pop_front() else { return };
            q.unsettled += 1;
            let mark_due = flags.has(EntryFlags::LOGGED) && q.marks.due(seq, written) && !q.ready.is_empty();
            let consumer = &mut consumers[key];
            let counts = counts_in_flight(consumer, flags);
            if counts {
                match consumer.session {
                    Some((session, _)) => sessions[session].used += 1,
                    None => consumer.in_flight += 1,
                }
            }
            let (link, channel, in_channel) = (consumer.link, consumer.channel, consumer.session.is_none() && counts);
            if let Some(l) = links.get_mut(link) {
                if in_channel && let Some(c) = l.find_channel(channel) {
                    c.in_flight += 1;
                }
                l.outbox.reserve(key, queue, entry);
                l.wake(&mut self.wakes);
            }
            if mark_due {
                self.stage_mark(queue, seq);
            }
        }
    }

    /// Stages a hand-out mark ahead of `seq`. Returns the batch it is in.
    pub(crate) fn stage_mark(&mut self, queue: QueueKey, seq: u64) -> u64 {
        let written = self.staging.written_ticket();
        // Written is enough: see `HandOutMarks`.
        let ticket = self.staging.wait_for(Durability::Os);
        let Some(q) = self.queues.get_mut(queue) else {
            return ticket;
        };
        q.marks.stage_ahead(seq, q.next_seq, ticket, written);
        let (queue, upto) = (q.id, q.marks.staged);
        self.staging.record(Record::State(State::HandedOut { queue, upto }));
        ticket
    }

    /// The link has room again: feeds the consumers that were passed over. Returns whether something was reserved.
    pub(crate) fn feed_starved(&mut self, link: Link) -> bool {
        let Some(l) = self.links.get_mut(link) else {
            return false;
        };
        if l.starved.is_empty() {
            return false;
        }
        for _ in 0..l.starved.len() {
            // Those who find no room keep their turn; those who get something wait for the next one.
            let l = self.links.get_mut(link).filter(|l| l.has_room());
            let Some(key) = l.and_then(|l| l.starved.pop_front()) else {
                break;
            };
            if let Some(c) = self.consumers.get_mut(key) {
                c.starved = false;
                let queue = c.queue;
                self.dispatch(queue);
            }
        }
        self.links.get_mut(link).is_some_and(|l| !l.outbox.is_empty())
    }

    /// One delivery fewer counts against the channel's prefetch. If that is what its consumers waited for, they can have
    /// more, whichever queues they are on.
    pub(crate) fn free_channel_credit(&mut self, link: Link, channel: ChannelNumber) {
        let Some(c) = self.links.get_mut(link).and_then(|l| l.find_channel(channel)) else {
            return;
        };
        let was_full = c.prefetch_all > 0 && c.in_flight >= c.prefetch_all;
        c.in_flight -= 1;
        // A channel that holds nothing is offered one whatever its connection holds.
        if was_full || (self.throttling.is_over() && c.in_flight == 0) {
            let consumers = c.consumers.clone();
            self.touch_queues_of(&consumers);
        }
    }

    /// One delivery fewer counts against the session's receive maximum: see [`Engine::free_channel_credit`].
    pub(crate) fn free_session_credit(&mut self, session: SessionKey) {
        let Some(s) = self.sessions.get_mut(session) else {
            return;
        };
        let was_full = s.used >= u32::from(s.receive_maximum);
        s.used -= 1;
        if was_full {
            let consumers = s.consumers.clone();
            self.touch_queues_of(&consumers);
        }
    }

    pub(crate) fn touch_queues_of(&mut self, consumers: &[ConsumerKey]) {
        for key in consumers {
            if let Some(queue) = self.consumers.get(*key).map(|c| c.queue) {
                self.touch(queue);
            }
        }
    }

    /// Sees to it that the head's expiry is noticed though nobody takes it.
    pub(crate) fn watch_head(&mut self, queue: QueueKey) {
        let now = self.now;
        let Some(q) = self.queues.get_mut(queue) else { return };
        let message = match q.ready.head() {
            Head::Empty => return,
            Head::Entry(Entry {
                body: Body::Memory(message),
                ..
            }) => message,
            Head::Entry(_) | Head::Paged => {
                // Its time is in its record: fetch that one.
                self.load_entries(queue, 1);
                return;
            }
        };
        let Some(deadline) = deadline(q, message) else {
            return;
        };
        let at = now.monotonic + (deadline - now.wall).max(Duration::from_millis(1));
        match q.expiry_check {
            Some(scheduled) if scheduled <= at && scheduled > now.monotonic => return,
            Some(scheduled) => self.timers.cancel(scheduled, Timer::Head(queue)),
            None => {}
        }
        if let Some(q) = self.queues.get_mut(queue) {
            q.expiry_check = Some(at);
        }
        self.timers.set(at, Timer::Head(queue));
    }

    /// Drops expired messages from the head of the queue.
    pub(crate) fn expire_head(&mut self, queue: QueueKey) {
        let wall = self.now.wall;
        if let Some(q) = self.queues.get_mut(queue) {
            q.expiry_check = None;
        }
        for _ in 0..EXPIRE_STEPS {
            let Some(q) = self.queues.get_mut(queue) else { return };
            let message = match q.ready.head() {
                Head::Empty => return,
                Head::Entry(Entry {
                    body: Body::Memory(message),
                    ..
                }) => message,
                // What follows an expired message has probably expired too.
                Head::Entry(_) | Head::Paged => return self.load_head(queue),
            };
            if !expired(q, message, wall) {
                break;
            }
            let body = Body::Memory(message.clone());
            if self.dies_later(queue, &body) || !self.may_expire(queue) {
                return;
            }
            let Some(q) = self.queues.get_mut(queue) else { return };
            let Some(entry) = q.ready.pop_front() else { return };
            self.counters.expired += 1;
            self.drop_entry(queue, entry, super::consuming::Death::Expired);
        }
        self.watch_head(queue);
    }
}

/// When the message's time in this queue is over.
pub(crate) fn deadline(queue: &Queue, message: &Message) -> Option<Wall> {
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

/// Whether the consumer can be given an entry with these flags now. Notes who was passed over for lack of room, or until
/// somebody settles.
fn eligible(
    consumers: &mut Slots<ConsumerKey, Consumer>,
    links: &mut Links,
    sessions: &Sessions,
    throttling: &mut Throttling,
    key: ConsumerKey,
    flags: EntryFlags,
) -> bool {
    let Some(c) = consumers.get_mut(key) else {
        return false;
    };
    let counts = counts_in_flight(c, flags);
    if let Some((session, _)) = c.session {
        let s = &sessions[session];
        if counts && s.used >= u32::from(s.receive_maximum) {
            return false;
        }
    } else if counts && c.prefetch > 0 && c.in_flight >= c.prefetch {
        return false;
    }
    let Some(l) = links.get_mut(c.link) else { return false };
    let mut room = l.has_room();
    let limited = counts && c.session.is_none() && throttling.limits(l);
    if c.session.is_none()
        && let Some(channel) = l.find_channel(c.channel)
    {
        if limited && channel.in_flight > 0 {
            throttling.throttle(key, c, l);
            return false;
        }
        if counts && channel.prefetch_all > 0 && channel.in_flight >= channel.prefetch_all {
            return false;
        }
        if channel.recovering.is_some() {
            return false;
        }
        // An answer of the channel (its consume-ok, say) waits for the log: deliveries do not overtake it.
        room &= channel.gated.is_empty();
    }
    if !room && !c.starved {
        c.starved = true;
        l.starved.push_back(key);
    }
    room
}
