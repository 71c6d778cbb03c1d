//! Consumers and their deliveries: start, stop, hand out, settle, fetch one.

use super::asking;
use super::budget::{Budget, Unfinished};
use super::death::Death;
use super::dispatch::CONSUMERS_PER_UNIT;
use super::internal::Source;
use super::link::LinkState;
use super::log_waits::Waiter;
use super::outbox::{Fetched, Out, Reservation};
use super::staging::Gate;
use super::timers::SOON;
use super::{Engine, done};
use crate::access::Permission;
use crate::command::{Channel as ChannelNumber, Consume, ConsumerToken, Get, Outcome};
use crate::event::{Event, Op};
use crate::fault::{Fault, FaultKind};
use crate::ledger::ObjectKind;
use crate::message::Settled;
use crate::properties::Name;
use crate::queue::RETURN_BYTES;
use crate::queue::consumers::{Consumer, Described};
use crate::queue::credit::Credit;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::queue::ready::Head;
use crate::queue::unsettled::{Delivered, cost};
use crate::slots::{ConsumerKey, Link, QueueKey};
use crate::store::{Record, State};

/// Work units of taking a consumer off its queue, beside what was reserved to it.
const CONSUMER_WORK: usize = 4;
/// Places of an outbox that are looked through for the cost of a work unit.
const OUTBOX_PER_UNIT: usize = 16;
/// Messages that a closing channel has fetched and not taken, of which so many go back at once.
const FETCHED_AT_ONCE: usize = 256;
/// Consumers of a queue that are looked through for the cost of a work unit.
const LISTED_PER_UNIT: usize = 256;
/// `Get`s of a connection whose messages are on their way from disk at once.
const GETS_WAITING_MAX: usize = 64;
/// Work units of deleting a queue.
const QUEUE_WORK: usize = 16;

/// What a consumer says of a delivery, or of all up to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict {
    pub(crate) number: u64,
    pub(crate) multiple: bool,
    pub(crate) outcome: Outcome,
}

impl Engine {
    pub(crate) fn consume(&mut self, link: Link, c: Consume) {
        let channel = c.channel;
        match self.try_consume(link, &c) {
            Ok(queue) => {
                if c.reply {
                    self.answer(
                        link,
                        channel,
                        Event::Consuming {
                            channel,
                            consumer: c.consumer,
                        },
                        None,
                    );
                }
                self.touch(queue);
            }
            Err(fault) => self.fail(link, channel, Op::Consume, fault),
        }
    }

    fn try_consume(&mut self, link: Link, c: &Consume) -> Result<QueueKey, Fault> {
        let queue = self.find_queue(link, c.channel, &c.queue, Permission::Read)?;
        let q = &self.queues[queue];
        self.listed_units += q.consumers.len() / CONSUMERS_PER_UNIT;
        let exclusive_already = q
            .consumers
            .iter()
            .any(|k| self.consumers.get(k).is_some_and(|c| c.exclusive));
        if exclusive_already || (c.exclusive && (!q.consumers.is_empty() || q.arguments.single_active)) {
            let text = format!("{} in exclusive use", self.queue_text(&q.name));
            return Err(Fault::new(FaultKind::AccessRefused, text));
        }
        let queue_type = q.arguments.queue_type;
        let text = self.queue_text(&q.name);
        if self
            .links
            .get_mut(link)
            .is_some_and(|l| l.channel(c.channel).credit.is_limited())
        {
            queue_type.refuse_global_prefetch(&text)?;
        }
        let description = Described::memory(&c.tag, &c.arguments);
        let bytes = super::admission::CONSUMER_BYTES + description;
        self.admit(ObjectKind::Connections, bytes)?;
        let prefetch = match c.prefetch {
            Some(p) => p,
            None => self
                .links
                .get_mut(link)
                .map_or(0, |l| l.channel(c.channel).prefetch_each),
        };
        let consumer = Consumer {
            link,
            channel: c.channel,
            token: c.consumer,
            queue,
            no_ack: c.no_ack,
            exclusive: c.exclusive,
            credit: Credit::window(prefetch),
            starved: false,
            throttled: false,
            flowed: 0,
            session: None,
            subscription_ids: None,
            described: Some(Box::new(Described {
                tag: c.tag.clone(),
                priority: c.priority,
                arguments: c.arguments.clone(),
                charge: self.ledger.charge(ObjectKind::Connections, description),
            })),
        };
        let key = self.add_consumer(consumer, c.priority);
        if let Some(l) = self.links.get_mut(link) {
            l.channel(c.channel).consumers.push(key);
        }
        Ok(queue)
    }

    /// Puts a consumer on its queue.
    pub(crate) fn add_consumer(&mut self, consumer: Consumer, priority: i32) -> ConsumerKey {
        let queue = consumer.queue;
        let key = self.consumers.insert(consumer);
        if let Some(q) = self.queues.get_mut(queue) {
            q.consumers.add(priority, key);
        }
        self.touch(queue);
        key
    }

    /// Takes a consumer off its queue. Its unsettled deliveries stay with its channel; what was only reserved to it
    /// goes back. Returns its cost in work units.
    pub(crate) fn remove_consumer(&mut self, key: ConsumerKey) -> usize {
        let Some(c) = self.consumers.get(key) else { return 1 };
        let (link, queue) = (c.link, c.queue);
        let mut units = CONSUMER_WORK;
        if let Some(l) = self.links.get_mut(link) {
            if l.outbox.has_reservations() {
                units += l.outbox.len() / OUTBOX_PER_UNIT;
            }
            for Reservation { consumer, queue, entry } in l.outbox.give_back_of(key) {
                self.release_reservation(consumer, queue, entry);
            }
        }
        self.forget_throttled(key);
        self.note_consumer_gone(key);
        self.consumers.remove(key);
        let now = self.now.monotonic;
        let Some(q) = self.queues.get_mut(queue) else {
            return units;
        };
        units += q.consumers.len() / LISTED_PER_UNIT;
        q.consumers.remove(key);
        q.used_at = now;
        if q.auto_delete && q.consumers.is_empty() {
            self.delete_queue(queue);
        } else {
            self.touch(queue);
            self.watch_queue_expiry(queue);
            let Engine { queues, memory, .. } = self;
            if let Some(q) = queues.get_mut(queue) {
                memory.note_deep(q, queue);
            }
        }
        units
    }

    pub(crate) fn cancel(&mut self, link: Link, channel: ChannelNumber, token: ConsumerToken, reply: bool) {
        let Engine { links, consumers, .. } = self;
        let mut found = None;
        if let Some(c) = links.get_mut(link).map(|l| l.channel(channel)) {
            self.listed_units += c.consumers.len() / CONSUMERS_PER_UNIT;
            let is_it = |k: &ConsumerKey| consumers.get(*k).is_some_and(|c| c.token == token);
            found = c.consumers.iter().position(is_it).map(|at| c.consumers.remove(at));
        }
        if let Some(key) = found {
            self.listed_units += self.remove_consumer(key);
        }
        if reply {
            self.answer(
                link,
                channel,
                Event::Done {
                    channel,
                    op: Op::Cancel,
                    consumer: token,
                },
                None,
            );
        }
    }

    pub(crate) fn qos(&mut self, link: Link, channel: ChannelNumber, count: u32, global: bool) {
        let Some(l) = self.links.get_mut(link) else {
            return;
        };
        let c = l.channel(channel);
        if global {
            c.credit.resize(count);
            let consumers = c.consumers.clone();
            self.touch_queues_of(&consumers);
        } else {
            c.prefetch_each = count;
        }
        self.answer(link, channel, done(channel, Op::Qos), None);
    }

    /// Answers with the queue's first message. Where that is on its way from disk, the answer comes when it is here. Many
    /// of those, and the next `Get` waits until one is answered: each looks through all that wait.
    pub(crate) fn get(&mut self, link: Link, g: Box<Get>) -> Result<(), Box<Get>> {
        if let Some(l) = self.links.get_mut(link)
            && l.waiting_gets() >= GETS_WAITING_MAX
        {
            l.waits = true;
            return Err(g);
        }
        self.get_first(link, *g, false);
        Ok(())
    }

    /// A `Get` whose message was on its way from disk, and whose answer has kept its place, is tried again.
    pub(crate) fn get_again(&mut self, link: Link, g: Get) {
        self.get_first(link, g, true);
        if let Some(l) = self.links.get_mut(link) {
            if l.waits && l.waiting_gets() < GETS_WAITING_MAX {
                l.call(&mut self.wakes);
            } else {
                l.wake(&mut self.wakes);
            }
        }
    }

    fn get_first(&mut self, link: Link, g: Get, again: bool) {
        let channel = g.channel;
        let queue = match self.find_queue_to_get_from(link, channel, &g.queue, again) {
            Ok(queue) => queue,
            Err(fault) if asking::is_open(&fault) => return,
            Err(fault) => {
                let op = Op::Get;
                let fault = Box::new(fault);
                self.note_failure(link, channel);
                let answer = Out::Event(Event::Failed { channel, op, fault });
                return self.answer_get(link, channel, again, answer, Gate::Open);
            }
        };
        if self.links.get(link).is_some_and(|l| self.throttling.limits(l)) {
            let text = "the connection has too many unsettled deliveries: settle some first";
            let fault = Box::new(Fault::new(FaultKind::QuotaExceeded, text));
            self.note_failure(link, channel);
            let op = Op::Get;
            let answer = Out::Event(Event::Failed { channel, op, fault });
            return self.answer_get(link, channel, again, answer, Gate::Open);
        }
        let now = self.now;
        let written = self.staging.written_ticket();
        let mut work = self.side_work();
        loop {
            let Some(q) = self.queues.get_mut(queue) else { return };
            q.used_at = now.monotonic;
            let front = match q.head() {
                Head::Empty => {
                    q.seldom.get_empty += 1;
                    if let Some(l) = self.links.get_mut(link) {
                        self.counters.of(l.traffic).get_empty += 1;
                        if let Some(c) = l.find_channel(channel) {
                            c.seldom.make().get_empty += 1;
                        }
                    }
                    let answer = Out::Event(Event::GetEmpty { channel });
                    return self.answer_get(link, channel, again, answer, Gate::Open);
                }
                Head::Paged => return self.get_later(link, g, queue, again),
                Head::Entry(front) => front,
            };
            match &front.body {
                Body::Memory(m) if q.is_expired(m, now.wall) => {
                    let body = front.body.clone();
                    if self.dies_later(queue, &body) {
                        let answer = Out::Event(Event::GetEmpty { channel });
                        return self.answer_get(link, channel, again, answer, Gate::Open);
                    }
                    if !self.may_expire(queue) {
                        return self.get_again_later(link, g, queue, again);
                    }
                    let Some(units) = self.death_work(queue).filter(|_| work > 0) else {
                        // Behind many that have expired: it goes on in the next turn.
                        self.timers.set_burial(now.monotonic + SOON);
                        return self.get_again_later(link, g, queue, again);
                    };
                    work = work.saturating_sub(units);
                    self.side_budget.spend(units);
                    let Some(q) = self.queues.get_mut(queue) else { return };
                    let Some(entry) = q.drop_head() else { return };
                    self.counters.expired += 1;
                    self.drop_entry(queue, entry, Death::Expired);
                }
                Body::Memory(_) => {
                    let (seq, flags) = (front.seq, front.flags);
                    // The mark must be written before the message goes; the answer waits for it, and not for a sync.
                    let gate = if q.is_marked(seq, flags, written) {
                        Gate::Open
                    } else if let Some(ticket) = q.mark_staged_for(seq) {
                        Gate::Written(ticket)
                    } else {
                        Gate::Written(self.stage_mark(queue, seq))
                    };
                    return self.got(link, g, queue, again, gate);
                }
                Body::Disk { .. } => return self.get_later(link, g, queue, again),
            }
        }
    }

    fn find_queue_to_get_from(
        &mut self,
        link: Link,
        channel: ChannelNumber,
        name: &Name,
        again: bool,
    ) -> Result<QueueKey, Fault> {
        let is_asked = self.links.get(link).is_some_and(|l| l.access.is_asked());
        let queue = if again && is_asked {
            // It was permitted when it was first tried. It is no command any more, so it cannot wait for another answer.
            let name = self.meant(link, channel, name)?;
            self.find_permitted_queue(link, &name)?
        } else {
            self.find_queue(link, channel, name, Permission::Read)?
        };
        let q = &self.queues[queue];
        if q.arguments.single_active {
            let queue_type = q.arguments.queue_type;
            queue_type.refuse_get_beside_active(&self.queue_text(&q.name))?;
        }
        Ok(queue)
    }

    /// Comes back when the body is here.
    fn get_later(&mut self, link: Link, g: Get, queue: QueueKey, again: bool) {
        self.load_head(queue);
        self.get_again_later(link, g, queue, again);
    }

    fn get_again_later(&mut self, link: Link, g: Get, queue: QueueKey, again: bool) {
        if !again && let Some(l) = self.links.get_mut(link) {
            l.rare.make().waiting_gets += 1;
            l.gate(g.channel, Gate::Never, Out::Awaited);
        }
        self.memory.waiting_gets.push((queue, link, g));
    }

    fn answer_get(&mut self, link: Link, channel: ChannelNumber, again: bool, out: Out, gate: Gate) {
        if !again {
            return self.push_out(link, channel, out, gate);
        }
        let log = self.staging.log();
        if let Some(l) = self.links.get_mut(link) {
            l.forget_waiting_gets(1);
            l.fill_awaited(channel, out, gate, log);
            self.waits.at(gate, Waiter::Channel(link, channel));
        }
    }

    fn got(&mut self, link: Link, g: Get, queue: QueueKey, again: bool, gate: Gate) {
        let channel = g.channel;
        let Some(l) = self.links.get_mut(link) else {
            return;
        };
        // It returns the message if it closes before that is taken.
        l.channel(channel);
        let Some(q) = self.queues.get_mut(queue) else { return };
        let Some(entry) = q.fetch() else { return };
        let bytes = cost(&entry.body);
        let fetched = Fetched {
            channel,
            queue,
            entry,
            no_ack: g.no_ack,
            remaining: q.depth_told(),
        };
        self.touch(queue);
        self.count_unsettled(link, bytes);
        self.answer_get(link, channel, again, Out::Got(Box::new(fetched)), gate);
    }

    pub(crate) fn settle(
        &mut self,
        link: Link,
        channel: ChannelNumber,
        Verdict {
            number,
            multiple,
            outcome,
        }: Verdict,
        budget: &mut Budget,
    ) -> Result<(), Unfinished> {
        // What is rejected may die. Each hold publishes some of those that have.
        let waits = outcome != Outcome::Accept && !budget.is_whole() && self.has_many_internal();
        let Some(l) = self.links.get_mut(link) else {
            return Ok(());
        };
        if l.session.is_some() {
            self.settle_packet(link, number, outcome);
            return Ok(());
        }
        let unsettled = &mut l.channel(channel).unsettled;
        if multiple && (number == 0 || unsettled.contains(number)) {
            let upto = if number == 0 { u64::MAX } else { number };
            return self.settle_upto(link, channel, upto, outcome, budget);
        }
        if waits && unsettled.contains(number) {
            return Err(Unfinished);
        }
        if !multiple && let Some(delivered) = unsettled.remove(number) {
            self.settle_delivered(link, channel, delivered, outcome);
            return Ok(());
        }
        let text = format!("unknown delivery tag {number}");
        let fault = Fault::new(FaultKind::PreconditionFailed, text);
        self.fail(link, channel, Op::Settle, fault);
        Ok(())
    }

    /// Settles the channel's deliveries up to a number, oldest first. The last of them is that number, so that a settle which
    /// is repeated in the next hold still means the same.
    fn settle_upto(
        &mut self,
        link: Link,
        channel: ChannelNumber,
        upto: u64,
        outcome: Outcome,
        budget: &mut Budget,
    ) -> Result<(), Unfinished> {
        loop {
            let waits = outcome != Outcome::Accept && !budget.is_whole() && self.has_many_internal();
            let Some(l) = self.links.get_mut(link) else {
                return Ok(());
            };
            let unsettled = &mut l.channel(channel).unsettled;
            if !unsettled.reaches(upto) {
                return Ok(());
            }
            budget.check()?;
            if waits {
                return Err(Unfinished);
            }
            if let Some(delivered) = unsettled.pop_upto(upto) {
                self.settle_delivered(link, channel, delivered, outcome);
            }
            budget.spend(1 + self.take_listed_units());
        }
    }

    /// A delivery of `channel` of `link` is settled.
    fn settle_delivered(&mut self, link: Link, channel: ChannelNumber, delivered: Delivered, outcome: Outcome) {
        if self.flow.is_tracing() {
            self.trace_settled(link, delivered.queue, delivered.entry.seq, outcome);
        }
        self.count_released(link, delivered.cost());
        let Delivered {
            queue,
            consumer,
            mut entry,
        } = delivered;
        if let Some(key) = consumer {
            // Also if the consumer is gone: its channel had it all the same.
            self.free_channel_credit(link, channel);
            if let Some(c) = self.consumers.get_mut(key) {
                c.credit.release();
                let queue = c.queue;
                self.touch(queue);
            }
        }
        let place = self.links.get_mut(link).map(|l| {
            if outcome == Outcome::Accept
                && let Some(c) = l.find_channel(channel)
            {
                c.acknowledged += 1;
            }
            l.traffic
        });
        let traffic = place.map(|place| self.counters.of(place));
        match outcome {
            Outcome::Accept => {
                if let Some(traffic) = traffic {
                    traffic.acknowledged += 1;
                }
                self.settle_entry(queue, entry, true);
            }
            Outcome::Requeue => {
                entry.flags.set(EntryFlags::REDELIVERED);
                self.return_entry(queue, entry);
            }
            Outcome::Reject => {
                if let Some(traffic) = traffic {
                    traffic.rejected += 1;
                }
                if self.dies_later(queue, &entry.body) {
                    self.postpone_death(link, channel, queue, entry);
                } else if self.is_offered_again(queue, &entry.body) {
                    entry.flags.set(EntryFlags::REDELIVERED);
                    self.put_back(queue, entry);
                } else if let Some(q) = self.queues.get_mut(queue) {
                    q.settled(&entry.body);
                    self.drop_entry(queue, entry, Death::Rejected);
                } else {
                    self.memory.drop_body(&entry.body);
                }
            }
        }
    }

    /// Whether a delivery cannot die now and waits again instead. Its body left memory while its queue had no dead letters; a
    /// policy gave it some since. It comes back with its body, and dies when it is rejected again.
    fn is_offered_again(&self, queue: QueueKey, body: &Body) -> bool {
        matches!(body, Body::Disk { .. }) && self.has_dead_letters(queue)
    }

    /// A delivery comes back from its consumer. It waits again, unless it has come back too often.
    fn return_entry(&mut self, queue: QueueKey, entry: Entry) {
        let grows = self.queues.get(queue).is_some_and(|q| q.is_first_return(entry.seq));
        if grows && self.admit(ObjectKind::Queues, RETURN_BYTES).is_err() {
            // Without memory for its count the message is not counted: it waits again, and never dies of its returns.
            self.put_back(queue, entry);
            return;
        }
        let counted = self.queues.get_mut(queue).and_then(|q| {
            let count = q.count_return(entry.seq)?;
            Some((q.id, count, q.is_over_delivery_limit(count)))
        });
        let Some((id, count, is_over)) = counted else {
            self.put_back(queue, entry);
            return;
        };
        // While the disk is short no dead letter is written: the message is offered once more instead.
        if is_over && !self.dies_later(queue, &entry.body) && !self.is_offered_again(queue, &entry.body) {
            if let Some(q) = self.queues.get_mut(queue) {
                q.settled(&entry.body);
            }
            return self.drop_entry(queue, entry, Death::DeliveryLimit);
        }
        if entry.flags.has(EntryFlags::LOGGED) {
            self.staging.record(Record::State(State::Returned {
                queue: id,
                seq: entry.seq,
                count,
            }));
        }
        self.put_back(queue, entry);
    }

    /// Returns a reserved or unsettled entry to its old place. False if its queue is gone, and the entry with it.
    pub(crate) fn put_back(&mut self, queue: QueueKey, mut entry: Entry) -> bool {
        // While memory is short, what comes back waits on disk like what is behind it.
        self.shed(queue, &mut entry);
        let Some(q) = self.queues.get_mut(queue) else {
            self.memory.drop_body(&entry.body);
            return false;
        };
        let seq = entry.seq;
        q.put_back(entry);
        self.spare_from_purge(queue, seq);
        self.touch(queue);
        true
    }

    /// An entry is handed to a consumer that settles it. See [`Engine::shed`].
    pub(crate) fn count_and_shed(&mut self, queue: QueueKey, entry: &mut Entry) {
        let keeps_body = self.queues.get_mut(queue).is_some_and(|q| {
            q.delivered += 1;
            q.arguments.dead_letter_exchange.is_some()
        });
        if !keeps_body {
            self.memory.shed(entry);
        }
    }

    /// Lets the body of an entry go if memory is short and the log has it: it is only needed if it comes back. A queue
    /// that dead-letters needs its bodies at hand.
    pub(crate) fn shed(&mut self, queue: QueueKey, entry: &mut Entry) {
        if !self.has_dead_letters(queue) {
            self.memory.shed(entry);
        }
    }

    /// An unsettled entry is done with. `explicit`: its consumer said so (a hand-out that needs no settling is no reason not
    /// to write the message).
    pub(crate) fn settle_entry(&mut self, queue: QueueKey, entry: Entry, explicit: bool) {
        if let Some(q) = self.queues.get_mut(queue) {
            q.settled(&entry.body);
            if explicit {
                q.acknowledged += 1;
            } else {
                q.taken += 1;
            }
            self.forget_entry(queue, &entry, explicit);
        }
        self.memory.drop_body(&entry.body);
    }

    /// Tells the log that an entry is gone from its queue.
    fn forget_entry(&mut self, queue: QueueKey, entry: &Entry, explicit: bool) {
        if explicit
            && entry.flags.has(EntryFlags::LOGGED)
            && let Body::Memory(message) = &entry.body
            && message.log_state().settle() == Settled::Cancelled
        {
            let message = message.clone();
            self.forget_returns(queue, entry.seq, entry.flags);
            self.confirm_cancelled(&message);
            return;
        }
        self.forget_dead(queue, entry.seq, entry.flags);
    }

    fn forget_returns(&mut self, queue: QueueKey, seq: u64, flags: EntryFlags) {
        if flags.has(EntryFlags::REDELIVERED)
            && let Some(q) = self.queues.get_mut(queue)
        {
            q.forget_returns(seq);
        }
    }

    /// The same of an entry of which no more is known.
    pub(crate) fn forget_dead(&mut self, queue: QueueKey, seq: u64, flags: EntryFlags) {
        self.forget_returns(queue, seq, flags);
        if !flags.has(EntryFlags::LOGGED) {
            return;
        }
        if self.queues.note_ack(queue, seq) {
            let due = self.now.monotonic + std::time::Duration::from_millis(super::ACKS_DELAY_MS);
            self.acks_due.get_or_insert(due);
        }
    }

    /// An entry dies that neither waits in its queue nor is unsettled any more.
    pub(crate) fn drop_entry(&mut self, queue: QueueKey, entry: Entry, death: Death) {
        let dead_letters = self.has_dead_letters(queue);
        let mut published = false;
        if self.flow.is_tracing() {
            self.trace_death(queue, entry.seq, death);
        }
        if dead_letters && let Body::Memory(message) = &entry.body {
            let message = message.clone();
            let source = Source::Entry {
                queue,
                seq: entry.seq,
                flags: entry.flags,
            };
            published = self.dead_letter(queue, &message, death, source).is_ok();
        }
        if !published {
            // A new route is no settle: the publisher is confirmed when the log has it.
            self.forget_entry(queue, &entry, death == Death::Rejected && !dead_letters);
        }
        if self.flow.is_tracing() {
            self.traces.forget(queue, entry.seq);
        }
        self.memory.drop_body(&entry.body);
    }

    /// Stages what was settled since the last time, for all queues at once.
    pub(crate) fn stage_acks(&mut self) {
        self.acks_due = None;
        let all = self.queues.take_acks();
        if !all.is_empty() {
            self.staging.record(Record::Acks(all.into()));
        }
    }

    /// Gives back the deliveries that were unsettled when the channel asked for that, oldest first. Its consumers are
    /// offered nothing meanwhile: what is given back would come to them, and be given back, for ever.
    pub(crate) fn recover_channel(
        &mut self,
        link: Link,
        channel: ChannelNumber,
        reply: bool,
        budget: &mut Budget,
    ) -> Result<(), Unfinished> {
        let Some(l) = self.links.get_mut(link) else {
            return Ok(());
        };
        let c = l.channel(channel);
        let upto = *c.recovering.get_or_insert(c.delivered);
        self.settle_upto(link, channel, upto, Outcome::Requeue, budget)?;
        if let Some(l) = self.links.get_mut(link) {
            let c = l.channel(channel);
            c.recovering = None;
            let consumers = c.consumers.clone();
            self.touch_queues_of(&consumers);
        }
        if reply {
            self.answer(link, channel, done(channel, Op::Recover), None);
        }
        Ok(())
    }

    /// Ends a channel: its consumers go, its unsettled deliveries go back, marked redelivered.
    pub(crate) fn close_channel(
        &mut self,
        link: Link,
        channel: ChannelNumber,
        budget: &mut Budget,
    ) -> Result<(), Unfinished> {
        loop {
            let Some(c) = self.links.get_mut(link).and_then(|l| l.find_channel(channel)) else {
                return Ok(());
            };
            if c.consumers.is_empty() {
                break;
            }
            budget.check()?;
            if let Some(key) = c.consumers.pop() {
                // An auto-delete queue goes with its last consumer, and what the channel has of it with the queue.
                let units = self.remove_consumer(key);
                budget.spend(units);
            }
        }
        self.give_back_postponed(link, channel, budget)?;
        // Without consumers nothing new comes, however many holds this takes.
        self.settle_upto(link, channel, u64::MAX, Outcome::Requeue, budget)?;
        let answers = |of: &Link, get: &Get| *of == link && get.channel == channel;
        let before = self.memory.waiting_gets.len();
        self.memory.waiting_gets.retain(|(_, of, get)| !answers(of, get));
        budget.spend(before / CONSUMERS_PER_UNIT);
        if let Some(l) = self.links.get_mut(link) {
            l.forget_waiting_gets(before - self.memory.waiting_gets.len());
        }
        self.put_back_fetched(link, channel, budget)?;
        let (log, durable) = (self.staging.log(), self.staging.durable_ticket());
        if let Some(l) = self.links.get_mut(link) {
            let found = l.find_channel(channel);
            let listed = found.as_ref().is_some_and(|c| c.listed != 0);
            self.counters.channels_closed += u64::from(found.is_some_and(|c| c.strict));
            // They may have been what the others waited behind.
            l.release_gated(channel, log);
            for key in l.close_channel(channel).into_entries() {
                self.confirms.orphan(key, durable);
            }
            if listed {
                self.forget_bodies();
            }
        }
        let outbox = self.links.get(link).map_or(0, |l| l.outbox.len());
        budget.spend(1 + outbox / OUTBOX_PER_UNIT);
        Ok(())
    }

    /// What a channel has fetched and not taken goes back to its queues. What it takes while that lasts it has to settle.
    fn put_back_fetched(&mut self, link: Link, channel: ChannelNumber, budget: &mut Budget) -> Result<(), Unfinished> {
        loop {
            let Some(l) = self.links.get_mut(link) else {
                return Ok(());
            };
            let listed = l.outbox.len() / OUTBOX_PER_UNIT;
            let fetched = l.take_fetched(channel, FETCHED_AT_ONCE);
            if fetched.is_empty() {
                return Ok(());
            }
            budget.spend(listed + fetched.len());
            for Fetched { queue, entry, .. } in fetched {
                self.count_released(link, cost(&entry.body));
                self.put_back(queue, entry);
            }
            budget.check()?;
        }
    }

    /// The connection is gone. What it leaves is taken apart piece by piece: its session, its channels, its queues.
    pub(crate) fn detach(&mut self, link: Link, budget: &mut Budget) -> Result<(), Unfinished> {
        let Some(l) = self.links.get_mut(link) else {
            return Ok(());
        };
        // Nothing is to be reserved to it while it goes. What is goes back at once, or each consumer would look for its own.
        l.stalled = true;
        self.forget_unfinished(link);
        self.give_back_reservations(link);
        if let Some(l) = self.links.get_mut(link) {
            l.forget_answers();
        }
        self.delete_without(link);
        self.leave_session(link, budget)?;
        self.forget_successor(link);
        while let Some(channel) = self.links.get(link).and_then(LinkState::some_channel) {
            budget.check()?;
            self.close_channel(link, channel, budget)?;
        }
        while let Some(queue) = self
            .links
            .get_mut(link)
            .and_then(|l| l.rare.get_mut()?.exclusive_queues.pop())
        {
            self.delete_queue(queue);
            budget.spend(QUEUE_WORK);
            budget.check()?;
        }
        self.note_link_gone(link);
        if let Some(l) = self.links.remove(link) {
            self.counters.of(l.traffic).links_detached += 1;
        }
        Ok(())
    }
}
