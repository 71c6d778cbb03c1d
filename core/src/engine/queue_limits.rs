//! Length limits of queues: drops the oldest messages above them.

use super::Engine;
use super::death::Death;
use super::dispatch::DEAD_LETTER_WORK;
use super::internal::Source;
use super::timers::SOON;
use crate::message::Message;
use crate::queue::Queue;
use crate::queue::entry::Body;
use crate::queue::ready::Head;
use crate::slots::QueueKey;

impl Engine {
    /// Drops the oldest messages of a queue that is above its limit.
    pub(crate) fn enforce_limit(&mut self, queue: QueueKey) {
        if !self.queues.get(queue).is_some_and(Queue::drops_head) {
            return;
        }
        // With a limit of 0, a message still goes to a consumer that is ready for it at once.
        self.dispatch(queue);
        let (dead_letters, short) = (self.has_dead_letters(queue), self.is_disk_short());
        let mut work = self.side_work();
        while let Some(q) = self.queues.get_mut(queue)
            && q.is_over_limit()
        {
            if let Head::Entry(front) = q.head()
                && short
                && dead_letters
            {
                let body = front.body.clone();
                if self.dies_later(queue, &body) {
                    // Continues when the disk has space.
                    return;
                }
            }
            if !dead_letters && self.drop_run(queue) {
                work = work.saturating_sub(1);
                continue;
            }
            let Some(q) = self.queues.get_mut(queue) else { return };
            let is_here = match q.head() {
                // A dead letter needs its body in memory.
                Head::Entry(front) => !dead_letters || matches!(front.body, Body::Memory(_)),
                Head::Paged | Head::Empty => false,
            };
            if !is_here {
                // Continues when it has been read.
                self.load_head(queue);
                return;
            }
            match self.death_work(queue) {
                Some(units) if work > 0 => {
                    work = work.saturating_sub(units);
                    self.side_budget.spend(units);
                }
                // One large message may displace very many small ones.
                _ => return self.enforce_limit_later(queue),
            }
            let Some(entry) = self.queues.get_mut(queue).and_then(Queue::drop_head) else {
                return;
            };
            self.counters.dropped_full += 1;
            self.drop_entry(queue, entry, Death::MaxLength);
        }
    }

    /// Drops the run at the front of a long queue in one step, if all of it has to go.
    fn drop_run(&mut self, queue: QueueKey) -> bool {
        let Some(q) = self.queues.get_mut(queue) else {
            return false;
        };
        let Some((dropped, run)) = q.drop_run() else {
            return false;
        };
        if self.flow.is_tracing() {
            for seq in self.traces.entries_of(queue, false) {
                if run.contains(&seq) {
                    self.trace_death(queue, seq, Death::MaxLength);
                    self.traces.forget(queue, seq);
                }
            }
        }
        self.counters.dropped_full += dropped;
        self.queues.has_unlogged_acks(queue);
        self.stage_acks();
        true
    }

    /// Dead-letters a message that a full queue has refused. Its publisher is told that it was refused. Thousands of
    /// queues may refuse the same message, and each dead letter is a copy of its body. If there is no time or memory
    /// for them now, they are created later, from the one message that all share until then.
    pub(crate) fn dead_letter_refused(&mut self, queue: QueueKey, message: &Message) {
        if self.behind.refused.is_empty() && !self.side_budget.is_spent() && !self.has_many_internal() {
            self.side_budget.spend(DEAD_LETTER_WORK);
            let _ = self.dead_letter(queue, message, Death::MaxLength, Source::Nothing);
            return;
        }
        self.memory.pin(message);
        if self.flow.is_tracing() {
            self.traces.postpone(message);
        }
        self.behind.refused.push_back((queue, message.clone()));
        self.timers.set_deferred(self.now.monotonic + SOON);
    }

    /// Continues to dead-letter refused messages.
    pub(crate) fn go_on_with_refused(&mut self) {
        while !self.side_budget.is_spent()
            && !self.has_many_internal()
            && let Some((queue, message)) = self.behind.refused.pop_front()
        {
            self.side_budget.spend(DEAD_LETTER_WORK);
            if self.flow.is_tracing() {
                self.traces.begin(&message);
            }
            let _ = self.dead_letter(queue, &message, Death::MaxLength, Source::Nothing);
            self.memory.drop_body(&Body::Memory(message));
        }
        if !self.behind.refused.is_empty() {
            self.timers.set_deferred(self.now.monotonic + SOON);
        }
    }

    /// Continues later with a queue that is still above its limit.
    pub(crate) fn enforce_limit_later(&mut self, queue: QueueKey) {
        if let Some(q) = self.queues.get_mut(queue)
            && !q.overfull
        {
            q.overfull = true;
            self.behind.overfull.push_back(queue);
            self.timers.set_deferred(self.now.monotonic + SOON);
        }
    }

    /// Dispatches touched queues, and continues with those above their limits. For commands that show how many messages a
    /// queue has, or take one: a message that was requeued into a full queue may be dropped with a delay, but is never seen.
    pub(crate) fn settle_touched(&mut self) {
        self.dispatch_touched();
        if !self.behind.overfull.is_empty() {
            self.enforce_limits();
        }
    }

    /// Continues with queues that are above their limits.
    pub(crate) fn enforce_limits(&mut self) {
        for _ in 0..self.behind.overfull.len() {
            let Some(queue) = self.behind.overfull.pop_front() else {
                return;
            };
            if let Some(q) = self.queues.get_mut(queue) {
                q.overfull = false;
                self.enforce_limit(queue);
            }
            if self.side_budget.is_spent() {
                break;
            }
        }
        if !self.behind.overfull.is_empty() {
            self.timers.set_deferred(self.now.monotonic + SOON);
        }
    }
}
