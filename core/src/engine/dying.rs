//! Deaths that wait: while publishers wait for free disk nothing is dead-lettered that the log would have to keep.
//!
//! A dead letter is a message of its own in the log, so it would eat what is left for settles, and that once was the end of
//! the process: a consumer that rejected all it got had the log fail for want of room. What expires or is over a limit stays
//! in its queue, and what is rejected stays with its channel, though no longer against its prefetch: consumers go on, and
//! what they accept makes room. A channel that closes meanwhile gives back what it rejected.

use super::Engine;
use super::budget::{Budget, Unfinished};
use super::consuming::Death;
use super::timers::Timer;
use crate::command::Channel as ChannelNumber;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::queue::unsettled::{Held, cost};
use crate::slots::{Link, QueueKey};
use std::time::Duration;

/// Postponed deaths at once, and how long after that the next ones follow: not so fast that the disk were full again before
/// the node has looked at it.
const DYING_AT_ONCE: usize = 128;
const DYING_EVERY: Duration = Duration::from_millis(50);

impl Engine {
    /// Whether a message with this body cannot die in the queue now.
    pub(crate) fn dies_later(&self, queue: QueueKey, body: &Body) -> bool {
        self.is_disk_short()
            && self.has_dead_letters(queue)
            && match body {
                Body::Memory(message) => message.envelope().durable,
                Body::Disk { .. } => true,
            }
    }

    /// A rejected delivery waits with its channel.
    pub(crate) fn postpone_death(&mut self, link: Link, channel: ChannelNumber, queue: QueueKey, entry: Entry) {
        self.count_held(link, cost(&entry.body));
        let Some(l) = self.links.get_mut(link) else {
            return;
        };
        let c = l.channel(channel);
        if c.dying.is_none() {
            self.dying.push((link, channel));
        }
        let dying = c.dying.get_or_insert_default();
        dying.numbered += 1;
        let held = Held {
            queue,
            consumer: None,
            entry,
        };
        dying.held.push(dying.numbered, held);
    }

    /// The disk has room again: what waited for that dies, in the holds that follow.
    pub(crate) fn resume_dying(&mut self) {
        if !self.dying.is_empty() {
            self.timers.set(self.now.monotonic + DYING_EVERY, Timer::Dying);
        }
        let dead_letters = self
            .queues
            .iter()
            .filter(|(_, q)| q.arguments.dead_letter_exchange.is_some());
        let waiting: Vec<QueueKey> = dead_letters.map(|(queue, _)| queue).collect();
        for queue in waiting {
            self.touch(queue);
        }
    }

    /// What was rejected dies.
    pub(crate) fn end_dying(&mut self, budget: &mut Budget) {
        let mut left = DYING_AT_ONCE;
        while !self.is_disk_short()
            && let Some(&(link, channel)) = self.dying.last()
        {
            if left == 0 {
                return self.timers.set(self.now.monotonic + DYING_EVERY, Timer::Dying);
            }
            left -= 1;
            budget.spend(1);
            match self.next_dying(link, channel) {
                Some(Held { queue, entry, .. }) => {
                    if let Some(q) = self.queues.get_mut(queue) {
                        q.unsettled -= 1;
                        self.drop_entry(queue, entry, Death::Rejected);
                    } else {
                        self.memory.drop_body(&entry.body);
                    }
                }
                None => self.dying.retain(|of| *of != (link, channel)),
            }
        }
    }

    /// The channel goes: what it has rejected comes back, as after a crash that hid the rejection.
    pub(crate) fn give_back_dying(
        &mut self,
        link: Link,
        channel: ChannelNumber,
        budget: &mut Budget,
    ) -> Result<(), Unfinished> {
        loop {
            budget.check()?;
            let Some(Held { queue, mut entry, .. }) = self.next_dying(link, channel) else {
                return Ok(());
            };
            entry.flags.set(EntryFlags::REDELIVERED);
            self.put_back(queue, entry);
            budget.spend(1);
        }
    }

    fn next_dying(&mut self, link: Link, channel: ChannelNumber) -> Option<Held> {
        let c = self.links.get_mut(link)?.find_channel(channel)?;
        let Some(held) = c.dying.as_mut()?.held.pop_upto(u64::MAX) else {
            c.dying = None;
            self.dying.retain(|of| *of != (link, channel));
            return None;
        };
        self.count_released(link, held.cost());
        Some(held)
    }
}
