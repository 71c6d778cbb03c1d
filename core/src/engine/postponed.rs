//! Postponed dead-lettering: while publishers wait for free disk, nothing durable is dead-lettered.
//!
//! A dead letter is a new record in the log. Written while disk space is short, it would use up the reserve for
//! settles: a consumer that rejected everything once made the log fail for lack of space. So an expired message, and
//! one above its queue's limit, stays in its queue. A rejected one stays with its channel, but no longer counts against
//! the prefetch: consumers continue, and what they accept frees space. A channel that closes meanwhile returns the
//! messages that it rejected to their queues.

use super::Engine;
use super::budget::{Budget, Unfinished};
use super::death::Death;
use super::timers::Timer;
use crate::command::Channel as ChannelNumber;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::queue::unsettled::{Delivered, cost};
use crate::slots::{Link, QueueKey};
use std::time::Duration;

/// How many postponed messages are dead-lettered at once, and the pause before the next ones. Without the pause, the
/// disk could be full again before the node has measured it.
const POSTPONED_AT_ONCE: usize = 128;
const POSTPONED_EVERY: Duration = Duration::from_millis(50);

impl Engine {
    /// Whether dead-lettering a message with this body from the queue is postponed.
    pub(crate) fn dies_later(&self, queue: QueueKey, body: &Body) -> bool {
        self.is_disk_short()
            && self.has_dead_letters(queue)
            && match body {
                Body::Memory(message) => message.envelope().durable,
                Body::Disk { .. } => true,
            }
    }

    /// Keeps a rejected delivery with its channel.
    pub(crate) fn postpone_death(&mut self, link: Link, channel: ChannelNumber, queue: QueueKey, entry: Entry) {
        self.count_unsettled(link, cost(&entry.body));
        let Some(l) = self.links.get_mut(link) else {
            return;
        };
        let c = l.channel(channel);
        if c.postponed.is_none() {
            self.postponed.insert((link, channel));
        }
        let postponed = c.postponed.get_or_insert_default();
        postponed.numbered += 1;
        let seq = entry.seq;
        let delivered = Delivered {
            queue,
            consumer: None,
            entry,
        };
        postponed.rejected.push(postponed.numbered, delivered);
        self.keep_from_purge(queue, seq);
    }

    /// The disk has space again: postponed messages are dead-lettered in the following holds.
    pub(crate) fn resume_postponed(&mut self) {
        if !self.postponed.is_empty() {
            self.timers.set(self.now.monotonic + POSTPONED_EVERY, Timer::Postponed);
        }
        self.dispatch_postponed();
    }

    /// Dead-letters some of what was postponed.
    pub(crate) fn end_postponed(&mut self, budget: &mut Budget) {
        let mut left = POSTPONED_AT_ONCE;
        while !self.is_disk_short()
            && let Some(&(link, channel)) = self.postponed.last()
        {
            if left == 0 || self.has_many_internal() {
                return self.timers.set(self.now.monotonic + POSTPONED_EVERY, Timer::Postponed);
            }
            left -= 1;
            budget.spend(1);
            match self.next_postponed(link, channel) {
                Some(Delivered { queue, entry, .. }) => {
                    if let Some(q) = self.queues.get_mut(queue) {
                        q.settled(&entry.body);
                        self.drop_entry(queue, entry, Death::Rejected);
                    } else {
                        self.memory.drop_body(&entry.body);
                    }
                }
                None => _ = self.postponed.remove(&(link, channel)),
            }
        }
    }

    /// The channel is removed: messages that it rejected return to their queues, as after a crash that hid the
    /// rejection.
    pub(crate) fn give_back_postponed(
        &mut self,
        link: Link,
        channel: ChannelNumber,
        budget: &mut Budget,
    ) -> Result<(), Unfinished> {
        loop {
            budget.check()?;
            let Some(Delivered { queue, mut entry, .. }) = self.next_postponed(link, channel) else {
                return Ok(());
            };
            entry.flags.set(EntryFlags::REDELIVERED);
            self.put_back(queue, entry);
            budget.spend(1);
        }
    }

    fn next_postponed(&mut self, link: Link, channel: ChannelNumber) -> Option<Delivered> {
        let c = self.links.get_mut(link)?.find_channel(channel)?;
        let Some(delivered) = c.postponed.as_mut()?.rejected.pop_upto(u64::MAX) else {
            c.postponed = None;
            self.postponed.remove(&(link, channel));
            return None;
        };
        self.count_released(link, delivered.cost());
        Some(delivered)
    }
}
