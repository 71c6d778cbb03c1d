//! The memory of unsettled deliveries: counted by link, limited by throttling, and reduced by evicting bodies.

use super::Engine;
use super::memory::Memory;
use super::staging::Staging;
use super::throttling::Listed;
use crate::command::Channel as ChannelNumber;
use crate::queue::Queue;
use crate::queue::entry::{Body, EntryFlags};
use crate::queue::unsettled::{Delivered, DeliveredMut, Shed};
use crate::slots::{ConsumerKey, Link};
use crate::store::{Route, Routes};

/// The most bodies of unsettled deliveries looked at in one hold of the lock.
const SHED_STEPS: usize = 2048;

impl Engine {
    /// Adds a delivery to the channel's unsettled ones under that number.
    pub(crate) fn note_unsettled(&mut self, link: Link, channel: ChannelNumber, number: u64, delivered: Delivered) {
        self.count_unsettled(link, delivered.cost());
        let Some(l) = self.links.get_mut(link) else {
            return;
        };
        let c = l.channel(channel);
        if let Body::Memory(_) = &delivered.entry.body {
            // It is only written if it is spilled, so no report of the log would cause another look at it.
            self.throttling.unseen |= !delivered.entry.flags.has(EntryFlags::LOGGED);
            if c.listed == 0 {
                self.throttling.unseen = true;
                self.throttling.numbered += 1;
                c.listed = self.throttling.numbered;
                self.throttling.bodies.push_back(Listed {
                    link,
                    channel,
                    number: c.listed,
                });
            }
        }
        c.unsettled.push(number, delivered);
    }

    /// Counts bytes that the link has unsettled in addition.
    pub(crate) fn count_unsettled(&mut self, link: Link, bytes: usize) {
        if let Some(l) = self.links.get_mut(link) {
            l.unsettled_bytes += bytes;
        }
        self.throttling.bytes += bytes;
        if self.throttling.bytes > self.settings.unsettled_bytes_max && !self.throttling.over {
            self.throttling.over = true;
            tracing::warn!(
                vhost = %self.settings.vhost,
                bytes = self.throttling.bytes,
                "too much is delivered and not settled: consumers with the most of it are offered no more"
            );
        }
    }

    /// Counts bytes that the link no longer has unsettled. Throttled consumers may be offered something again.
    pub(crate) fn count_released(&mut self, link: Link, bytes: usize) {
        self.throttling.bytes -= bytes;
        if let Some(l) = self.links.get_mut(link) {
            l.unsettled_bytes -= bytes;
            if l.rare.get().is_some_and(|rare| !rare.throttled.is_empty()) && !self.throttling.limits(l) {
                self.offer_again(link);
            }
        }
        let resume = self.settings.unsettled_bytes_max / 8 * 7;
        if self.throttling.over && self.throttling.bytes <= resume {
            self.throttling.over = false;
            while let Some(&link) = self.throttling.throttled.last() {
                self.offer_again(link);
            }
        }
    }

    /// Dispatches the queues at which the link's consumers were throttled.
    fn offer_again(&mut self, link: Link) {
        self.throttling.forget(link);
        let keys = self
            .links
            .get_mut(link)
            .and_then(|l| l.rare.get_mut())
            .map_or(Vec::new(), |rare| std::mem::take(&mut rare.throttled));
        self.listed_units += keys.len() / super::dispatch::CONSUMERS_PER_UNIT;
        for key in keys {
            if let Some(c) = self.consumers.get_mut(key) {
                c.throttled = false;
                let queue = c.queue;
                self.touch(queue);
            }
        }
    }

    /// The consumer is removed, so it is not throttled any more.
    pub(crate) fn forget_throttled(&mut self, key: ConsumerKey) {
        let Some(c) = self.consumers.get(key).filter(|c| c.throttled) else {
            return;
        };
        let link = c.link;
        if let Some(rare) = self.links.get_mut(link).and_then(|l| l.rare.get_mut()) {
            rare.throttled.retain(|k| *k != key);
            if rare.throttled.is_empty() {
                self.throttling.forget(link);
            }
        }
    }

    /// A channel on the list of those with bodies in memory was closed. Entries of closed channels are removed when
    /// there are many: where channels are opened and closed often, memory may never be short, so that the list would
    /// never be looked at.
    pub(crate) fn forget_bodies(&mut self) {
        let Engine { links, throttling, .. } = self;
        throttling.gone += 1;
        if throttling.gone > 64 && throttling.gone * 2 > throttling.bodies.len() {
            throttling.gone = 0;
            throttling.bodies.retain(|listed| {
                let channel = links.get_mut(listed.link).and_then(|l| l.find_channel(listed.channel));
                channel.is_some_and(|c| c.listed == listed.number)
            });
        }
    }

    /// Evicts bodies of unsettled deliveries if memory is short: they are only needed if the deliveries come back.
    /// Transient messages are written to the log for that, unsynced. A queue that dead-letters needs its bodies in
    /// memory. Returns whether any were evicted, or are being written.
    pub(crate) fn shed_unsettled(&mut self) -> bool {
        let written = self.staging.written_ticket();
        if self.throttling.bodies.is_empty()
            || !(self.memory.is_short() || self.throttling.over)
            || (written == self.throttling.seen_at && !self.throttling.unseen)
        {
            return false;
        }
        self.throttling.seen_at = written;
        self.throttling.unseen = false;
        let progress = self.shed_some();
        self.dispatch_touched();
        progress
    }

    fn shed_some(&mut self) -> bool {
        let mut shedding = Shedding {
            spills: self.memory.bytes() > self.settings.cache_bytes_max && !self.is_full(),
            backlog_bytes_max: self.settings.log_backlog_bytes_max,
            freed: 0,
            evicted: 0,
            progress: false,
        };
        let mut steps = SHED_STEPS;
        for _ in 0..self.throttling.bodies.len() {
            if steps == 0 {
                self.throttling.unseen = true;
                break;
            }
            steps -= 1;
            let Some(listed) = self.throttling.bodies.pop_front() else {
                break;
            };
            let Engine {
                links,
                queues,
                memory,
                staging,
                throttling,
                ..
            } = self;
            let c = links.get_mut(listed.link).and_then(|l| l.find_channel(listed.channel));
            let Some(c) = c.filter(|c| c.listed == listed.number) else {
                throttling.gone = throttling.gone.saturating_sub(1);
                continue;
            };
            let all_done = c
                .unsettled
                .shed(&mut steps, |delivered| match queues.get_mut(delivered.queue) {
                    Some(q) => shedding.shed(delivered, q, memory, staging),
                    None => Shed::Done,
                });
            if all_done {
                c.listed = 0;
            } else {
                throttling.bodies.push_back(listed);
            }
            self.counters.bodies_evicted += std::mem::take(&mut shedding.evicted);
            let freed = std::mem::take(&mut shedding.freed);
            if freed > 0 {
                self.count_released(listed.link, freed);
            }
        }
        shedding.progress
    }
}

/// One scan of the bodies of unsettled deliveries.
struct Shedding {
    /// Whether bodies of transient messages may be written to the log, unsynced.
    spills: bool,
    /// Bytes that may still be written: less if much waits for the log already.
    backlog_bytes_max: usize,
    /// Bytes evicted.
    freed: usize,
    /// The number of bodies evicted.
    evicted: u64,
    /// Some were evicted, or are being written to the log.
    progress: bool,
}

impl Shedding {
    /// Evicts the body of an unsettled delivery, if the log has it or can get it.
    fn shed(&mut self, delivery: DeliveredMut<'_>, q: &mut Queue, memory: &mut Memory, staging: &mut Staging) -> Shed {
        let DeliveredMut {
            seq,
            priority,
            flags,
            body,
            ..
        } = delivery;
        let Body::Memory(message) = &*body else {
            return Shed::Done;
        };
        // A queue that dead-letters needs its bodies in memory.
        if q.arguments.dead_letter_exchange.is_some() {
            return Shed::Done;
        }
        if flags.has(EntryFlags::LOGGED) {
            let bytes = message.memory();
            if !memory.evict_body(body, *flags) {
                return Shed::Stop;
            }
            self.freed += bytes;
            self.evicted += 1;
            self.progress = true;
            return Shed::Done;
        }
        if !self.spills || staging.backlog_bytes() > self.backlog_bytes_max {
            return Shed::Stop;
        }
        if !message.log_state().join() {
            return Shed::Done;
        }
        flags.set(EntryFlags::LOGGED | EntryFlags::SPILLED);
        q.spilled = Some(staging.open_ticket());
        let route = Route {
            queue: q.id,
            seq,
            flags: q.logged_flags(*flags, priority),
        };
        staging.message(message.clone(), Routes::from_iter([route]));
        self.progress = true;
        Shed::OnItsWay
    }
}
