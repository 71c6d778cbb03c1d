//! From a queue to its consumers: reserves messages, in order, for consumers with credit and room.

use super::Engine;
use super::budget::Budget;
use super::death::Death;
use super::links::Links;
use super::log_waits::Waiter;
use super::throttling::Throttling;
use super::timers::{SOON, Timer};
use crate::command::Channel as ChannelNumber;
use crate::durable_session::Sessions;
use crate::queue::Queue;
use crate::queue::consumers::Consumer;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::queue::poll::Polled;
use crate::queue::ready::Head;
use crate::slots::{ConsumerKey, Link, QueueKey, SessionKey, Slots};
use crate::store::{Durability, Record};
use std::time::Duration;

/// Work units that each queue's dispatch still has for work other than handing out (expired messages, consumers passed
/// over) when the turn has spent its own. So a queue that takes long does not stop the others.
pub(super) const DISPATCH_LEAST: usize = 32;
/// The most queues of a list that are dispatched in one turn. Each may cost [`DISPATCH_LEAST`].
const DISPATCHED_AT_ONCE: usize = 32;
/// Consumers passed over that cost one work unit.
const PASSED_OVER_PER_UNIT: usize = 16;
/// Entries of a channel's or session's list of consumers that cost one work unit.
pub(crate) const CONSUMERS_PER_UNIT: usize = 16;
/// Work units of a message that dies, and of one that is published to another exchange when it dies.
const DEATH_WORK: usize = 1;
pub(super) const DEAD_LETTER_WORK: usize = 8;

impl Engine {
    /// Makes the queue be dispatched at the end of the turn.
    pub(crate) fn touch(&mut self, queue: QueueKey) {
        self.queues.touch(queue);
    }

    /// Dispatches every touched queue, and publishes messages that died meanwhile.
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

    /// Work units that the turn still has for work within a queue.
    pub(crate) fn side_work(&self) -> usize {
        self.side_budget.left_or(DISPATCH_LEAST)
    }

    /// Work units for letting a message of the queue die. `None`: not in this turn, because too many dead letters wait
    /// to be published already.
    pub(crate) fn death_work(&self, queue: QueueKey) -> Option<usize> {
        match self.has_dead_letters(queue) {
            true if self.has_many_internal() => None,
            true => Some(DEAD_LETTER_WORK),
            false => Some(DEATH_WORK),
        }
    }

    /// Reserves messages from the head of the queue while a consumer can take them.
    pub(crate) fn dispatch(&mut self, queue: QueueKey) {
        let most = self.side_work();
        let mut work = most;
        let done = self.dispatch_some(queue, &mut work);
        self.side_budget.spend(most - work);
        if !done {
            self.dispatch_later(queue);
        }
    }

    /// The same with a limit on the `work` other than handing out. Returns false if the limit was reached.
    fn dispatch_some(&mut self, queue: QueueKey, work: &mut usize) -> bool {
        while *work > 0 {
            match self.reserve_some(queue, work) {
                Stopped::MarkDue(seq) => _ = self.stage_mark(queue, seq),
                Stopped::Busy => {}
                Stopped::Expired => {
                    let Some(units) = self.death_work(queue) else {
                        return false;
                    };
                    *work = work.saturating_sub(units);
                    if !self.expire_first(queue) {
                        return true;
                    }
                }
                Stopped::Empty => return true,
                Stopped::Waits => {
                    self.watch_head(queue);
                    return true;
                }
                Stopped::Load => {
                    self.load_head(queue);
                    return true;
                }
                Stopped::Unmarked(seq) => {
                    self.await_mark(queue, seq);
                    return true;
                }
            }
        }
        false
    }

    /// Leaves the rest of a queue's dispatch to the next turn.
    fn dispatch_later(&mut self, queue: QueueKey) {
        if let Some(q) = self.queues.get_mut(queue)
            && !q.dispatched_later
        {
            q.dispatched_later = true;
            self.behind.dispatches.push_back(queue);
            self.timers.set_deferred(self.now.monotonic + SOON);
        }
    }

    /// At the beginning of a turn: touches some of the queues whose dispatch former turns did not finish.
    #[inline]
    pub(crate) fn touch_deferred(&mut self) {
        if self.behind.dispatches.is_empty() {
            return;
        }
        for _ in 0..DISPATCHED_AT_ONCE {
            let Some(queue) = self.behind.dispatches.pop_front() else {
                return;
            };
            if let Some(q) = self.queues.get_mut(queue) {
                q.dispatched_later = false;
                self.queues.touch(queue);
            }
        }
        if !self.behind.dispatches.is_empty() {
            self.timers.set_deferred(self.now.monotonic + SOON);
        }
    }

    /// Has queues dispatched: a few in this turn, the others in those that follow. For lists of which a client chooses how long
    /// they are.
    pub(crate) fn touch_some(&mut self, queues: impl IntoIterator<Item = QueueKey>) {
        let mut left = DISPATCHED_AT_ONCE;
        for queue in queues {
            if self.queues.get(queue).is_none_or(|q| q.touched) {
                continue;
            }
            if left > 0 {
                left -= 1;
                self.touch(queue);
            } else {
                self.dispatch_later(queue);
            }
        }
    }

    /// Reserves messages up to the first one that cannot be given to a consumer as it is. `work`: see
    /// [`Engine::dispatch_some`].
    fn reserve_some(&mut self, queue: QueueKey, work: &mut usize) -> Stopped {
        let (wall, written) = (self.now.wall, self.staging.written_ticket());
        let Engine {
            queues,
            consumers,
            links,
            sessions,
            throttling,
            wakes,
            ..
        } = self;
        let Some(q) = queues.get_mut(queue) else {
            return Stopped::Empty;
        };
        loop {
            let mut to = None;
            let mut asked = 0;
            let polled = q.poll(wall, written, |key, flags, is_given| {
                asked += 1;
                let offer = Offer { key, flags, is_given };
                to = offer.to(consumers, links, sessions, throttling);
                to.is_some()
            });
            *work = work.saturating_sub(asked / PASSED_OVER_PER_UNIT);
            let (entry, is_mark_due) = match polled {
                Polled::Entry { entry, is_mark_due } => (entry, is_mark_due),
                Polled::Empty => return Stopped::Empty,
                Polled::Waits => return Stopped::Waits,
                Polled::Load => return Stopped::Load,
                Polled::Unmarked(seq) => return Stopped::Unmarked(seq),
                Polled::Expired => return Stopped::Expired,
            };
            let seq = entry.seq;
            if let Some((link, key)) = to
                && let Some(l) = links.get_mut(link)
            {
                l.outbox.reserve(key, queue, entry);
                l.wake(wakes);
            }
            if is_mark_due {
                return Stopped::MarkDue(seq);
            }
            if *work == 0 {
                return Stopped::Busy;
            }
        }
    }

    /// Drops the head, which has expired. Returns whether to continue with the next entry.
    fn expire_first(&mut self, queue: QueueKey) -> bool {
        let Some(q) = self.queues.get_mut(queue) else {
            return false;
        };
        if q.consumers.is_empty() {
            // Expire it now and not by a timer: its body was read to see its deadline, and may be evicted again at
            // once.
            self.expire_head(queue);
            return false;
        }
        self.drop_expired(queue)
    }

    /// Drops the head, which has expired, unless it has to stay for now. Returns whether it was dropped.
    fn drop_expired(&mut self, queue: QueueKey) -> bool {
        let Some(Head::Entry(front)) = self.queues.get(queue).map(Queue::head) else {
            return false;
        };
        if self.dies_later(queue, &front.body) || !self.may_expire(queue) {
            return false;
        }
        let Some(entry) = self.queues.get_mut(queue).and_then(Queue::drop_head) else {
            return false;
        };
        self.counters.expired += 1;
        self.drop_entry(queue, entry, Death::Expired);
        true
    }

    /// The head may not be handed out before its hand-out mark is written. The queue is dispatched again then.
    fn await_mark(&mut self, queue: QueueKey, seq: u64) {
        let written = self.staging.written_ticket();
        if self.queues[queue].is_mark_due(seq, written) {
            self.stage_mark(queue, seq);
        }
        if let Some(ticket) = self.queues[queue].mark_to_await() {
            self.waits.for_written(ticket, Waiter::Marked(queue));
        }
    }

    /// Stages a hand-out mark ahead of `seq`. Returns the batch with it.
    pub(crate) fn stage_mark(&mut self, queue: QueueKey, seq: u64) -> u64 {
        let written = self.staging.written_ticket();
        // A mark need not be synced: see `HandOutMarks`.
        let ticket = self.staging.wait_for(Durability::Os);
        let Some(q) = self.queues.get_mut(queue) else {
            return ticket;
        };
        let mark = q.mark_ahead(seq, ticket, written);
        self.staging.record(Record::State(mark));
        ticket
    }

    /// The link has room again: dispatches the queues whose consumers were passed over. Returns whether anything was
    /// reserved.
    pub(crate) fn feed_starved(&mut self, link: Link, budget: &mut Budget) -> bool {
        let Some(l) = self.links.get_mut(link) else {
            return false;
        };
        if l.starved.is_empty() {
            return false;
        }
        for _ in 0..l.starved.len() {
            if budget.is_spent() {
                break;
            }
            budget.spend(1);
            // Consumers that find no room keep their place in the list; others go to its end the next time they are
            // passed over.
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

    /// Counts one delivery less against the channel's credit. If its consumers waited for that, the queues of all of
    /// them are dispatched.
    pub(crate) fn free_channel_credit(&mut self, link: Link, channel: ChannelNumber) {
        let Some(c) = self.links.get_mut(link).and_then(|l| l.find_channel(channel)) else {
            return;
        };
        let was_spent = c.credit.release();
        // While consumers are throttled, a channel with nothing unsettled is still offered one message.
        if was_spent || (self.throttling.is_over() && c.credit.used() == 0) {
            let mut consumers = c.consumers.clone();
            // Another queue begins each time. Else one of them would have all the credit until it is empty.
            let turn = usize::try_from(c.delivered).unwrap_or(0);
            let turn = turn.checked_rem(consumers.len()).unwrap_or(0);
            consumers.rotate_left(turn);
            self.touch_queues_of(&consumers);
        }
    }

    /// Counts one delivery less against the session's credit: see [`Engine::free_channel_credit`].
    pub(crate) fn free_session_credit(&mut self, session: SessionKey) {
        let Some(s) = self.sessions.get_mut(session) else {
            return;
        };
        if !s.credit.release() {
            return;
        }
        if let [only] = s.consumers[..] {
            // Most sessions have only their own queue.
            if let Some(queue) = self.consumers.get(only).map(|c| c.queue) {
                self.touch(queue);
            }
            return;
        }
        let mut consumers = s.consumers.clone();
        // As for a channel: else the session's own queue would have all the credit, or one of its groups.
        let turn = usize::try_from(s.in_flight.given()).unwrap_or(0);
        let turn = turn.checked_rem(consumers.len()).unwrap_or(0);
        consumers.rotate_left(turn);
        self.touch_queues_of(&consumers);
    }

    pub(crate) fn touch_queues_of(&mut self, consumers: &[ConsumerKey]) {
        self.listed_units += consumers.len() / CONSUMERS_PER_UNIT;
        let queues: Vec<QueueKey> = (consumers.iter())
            .filter_map(|key| Some(self.consumers.get(*key)?.queue))
            .collect();
        self.touch_some(queues);
    }

    /// Schedules a check of the head for the time when it expires, because no consumer takes it.
    pub(crate) fn watch_head(&mut self, queue: QueueKey) {
        let now = self.now;
        let Some(q) = self.queues.get_mut(queue) else { return };
        let first = q.ready().first_seq();
        let deadline = match q.head() {
            Head::Empty => return,
            Head::Entry(Entry {
                body: Body::Memory(message),
                ..
            }) => q.deadline(message),
            Head::Entry(_) | Head::Paged => {
                // Its deadline is in its record, which has to be read, but only once.
                if q.watched != first {
                    self.load_entries(queue, 1);
                }
                return;
            }
        };
        q.watched = first;
        let Some(deadline) = deadline else { return };
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
        if let Some(q) = self.queues.get_mut(queue) {
            q.expiry_check = None;
            q.watched = None;
        }
        if !self.drop_expired_heads(queue) {
            return;
        }
        match self.queues.get(queue).map(Queue::head) {
            // Messages behind an expired one have probably expired too, so read them.
            Some(
                Head::Paged
                | Head::Entry(Entry {
                    body: Body::Disk { .. },
                    ..
                }),
            ) => self.load_head(queue),
            // Continues in a millisecond, if the next one has expired too.
            _ => self.watch_head(queue),
        }
    }

    /// Drops expired messages from the head of the queue, as far as they are in memory and there is time for it.
    /// Returns false if one has expired and has to stay for now.
    pub(crate) fn drop_expired_heads(&mut self, queue: QueueKey) -> bool {
        let wall = self.now.wall;
        let mut work = self.side_work();
        while work > 0
            && let Some(q) = self.queues.get(queue)
            && let Head::Entry(Entry {
                body: Body::Memory(message),
                ..
            }) = q.head()
            && q.is_expired(message, wall)
            && let Some(units) = self.death_work(queue)
        {
            work = work.saturating_sub(units);
            self.side_budget.spend(units);
            if !self.drop_expired(queue) {
                return false;
            }
        }
        true
    }
}

/// Why reserving stopped.
enum Stopped {
    /// A new hand-out mark should be staged, ahead of this sequence. There may be more to reserve.
    MarkDue(u64),
    /// The work limit was reached. There may be more to reserve.
    Busy,
    Empty,
    /// No consumer can take the head.
    Waits,
    /// The head has to be read from the log first.
    Load,
    /// The head has expired.
    Expired,
    /// The head, which has this sequence, waits for its hand-out mark to be written.
    Unmarked(u64),
}

/// An entry that is offered to a consumer.
struct Offer {
    key: ConsumerKey,
    /// The entry's flags.
    flags: EntryFlags,
    /// Whether the consumer is given the entry if it can take it.
    is_given: bool,
}

impl Offer {
    /// The consumer and its link, if the consumer can take the entry now. A consumer that cannot, because its link has
    /// no room or because it is throttled, is noted in a list of its link.
    #[inline]
    fn to(
        self,
        consumers: &mut Slots<ConsumerKey, Consumer>,
        links: &mut Links,
        sessions: &mut Sessions,
        throttling: &mut Throttling,
    ) -> Option<(Link, ConsumerKey)> {
        let Offer { key, flags, is_given } = self;
        let c = consumers.get_mut(key)?;
        let counts = c.counts(flags);
        let has_room = match c.session {
            Some((session, _)) => {
                let credit = &mut sessions[session].credit;
                if counts && credit.is_spent() {
                    return None;
                }
                let has_room = links.get_mut(c.link)?.has_room();
                if has_room && is_given && counts {
                    credit.spend();
                }
                has_room
            }
            None => {
                if counts && c.credit.is_spent() {
                    return None;
                }
                let l = links.get_mut(c.link)?;
                let mut has_room = l.has_room();
                let is_limited = counts && throttling.limits(l);
                let channel = l.find_channel(c.channel)?;
                if is_limited && channel.credit.used() > 0 {
                    throttling.throttle(key, c, l);
                    return None;
                }
                // Who settles nothing spends nothing of the channel's window, but waits while others have all of it.
                if channel.credit.is_spent() || channel.recovering.is_some() {
                    return None;
                }
                // An answer of the channel (consume-ok, for example) waits for the log. Deliveries must not overtake
                // it.
                has_room &= channel.gated().is_empty();
                if has_room && is_given && counts {
                    channel.credit.spend();
                    c.credit.spend();
                }
                has_room
            }
        };
        if !has_room {
            if !c.starved {
                c.starved = true;
                links.get_mut(c.link)?.starved.push_back(key);
            }
            return None;
        }
        Some((c.link, key))
    }
}
