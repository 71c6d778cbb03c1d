//! `Get`: takes one message from a queue.

use super::Engine;
use super::asking;
use super::death::Death;
use super::log_waits::Waiter;
use super::outbox::{Fetched, Out};
use super::staging::Gate;
use super::timers::SOON;
use crate::access::Permission;
use crate::command::{Channel as ChannelNumber, Get};
use crate::event::{Event, Op};
use crate::fault::{Fault, FaultKind};
use crate::properties::Name;
use crate::queue::Queue;
use crate::queue::entry::Body;
use crate::queue::ready::Head;
use crate::queue::unsettled::cost;
use crate::slots::{Link, QueueKey};

/// The most `Get`s of a connection whose messages are being read at the same time.
pub(super) const GETS_WAITING_MAX: usize = 64;

impl Engine {
    /// Answers with the queue's first message. If that has to be read first, the answer comes after the read. If many
    /// such `Get`s wait, the next one waits until one is answered, because each report looks through all of them. It also
    /// waits while the client does not read the messages that it has fetched.
    pub(crate) fn get(&mut self, link: Link, g: Box<Get>) -> Result<(), Box<Get>> {
        if let Some(l) = self.links.get_mut(link)
            && !l.may_get()
        {
            l.waits = true;
            return Err(g);
        }
        self.get_first(link, *g, false);
        Ok(())
    }

    /// Tries a `Get` again whose message was being read, and whose answer has kept its place.
    pub(crate) fn get_again(&mut self, link: Link, g: Get) {
        self.get_first(link, g, true);
        if let Some(l) = self.links.get_mut(link) {
            if l.waits && l.may_get() {
                l.call(&mut self.wakes);
            } else {
                l.wake(&mut self.wakes);
            }
        }
    }

    /// The link has taken a fetched message: its `Get`s that waited for that continue.
    pub(crate) fn get_on(&mut self, link: Link) {
        let Some(l) = self.links.get_mut(link).filter(|l| l.outbox.may_fetch()) else {
            return;
        };
        if l.waiting_gets() > 0 {
            self.timers.set_deferred(self.now.monotonic);
        }
        if l.waits && l.may_get() {
            l.call(&mut self.wakes);
        }
    }

    fn get_first(&mut self, link: Link, g: Get, again: bool) {
        let channel = g.channel;
        let queue = match self.find_queue_to_get_from(link, channel, &g.queue, again) {
            Ok(queue) => queue,
            Err(fault) if asking::is_unanswered(&fault) => return,
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
                        // Many expired messages precede it: it continues in the next turn.
                        self.timers.set_deferred(now.monotonic + SOON);
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
                    // The mark must be written before the message is handed out; the answer waits for that, not for a
                    // sync.
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
            // It was permitted when it was first tried. It is no longer a command, so it could not wait for another
            // answer.
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

    /// It is tried again when the body has been read.
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
        // The channel returns the message if it is closed before the answer is taken.
        l.channel(channel);
        let Some(q) = self.queues.get_mut(queue) else { return };
        let Some(entry) = q.fetch() else { return };
        // Expired messages behind it are not counted as remaining.
        self.drop_expired_heads(queue);
        let remaining = self.queues.get(queue).map_or(0, Queue::reported_depth);
        let bytes = cost(&entry.body);
        let fetched = Fetched {
            channel,
            queue,
            entry,
            no_ack: g.no_ack,
            remaining,
        };
        self.touch(queue);
        self.count_unsettled(link, bytes);
        self.answer_get(link, channel, again, Out::Got(Box::new(fetched)), gate);
    }
}
