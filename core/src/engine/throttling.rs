//! Unsettled deliveries: the memory they take, and which consumers are throttled for it.
//!
//! A consumer without prefetch is offered whatever there is, as clients expect it. What it does not settle stays: 32 bytes a
//! delivery ([`PLACE_BYTES`]) and, until the log has it, the body. Bodies leave memory like those that wait. The rest is
//! bounded over the whole vhost. Limits per consumer or channel would bound nothing: a client can open more of them.
//! While the bound is exceeded, a connection that itself holds more than [`GUARANTEED_BYTES`] gets one delivery at a time on
//! each of its channels, and no `Get` is served to it. So whoever settles goes on, whatever others hold.
//!
//! [`PLACE_BYTES`]: crate::queue::unsettled::PLACE_BYTES

use super::Engine;
use super::link::LinkState;
use crate::command::Channel as ChannelNumber;
use crate::event::Pressure;
use crate::queue::consumers::Consumer;
use crate::queue::entry::{Body, EntryFlags};
use crate::queue::unsettled::{Held, HeldMut, Shed};
use crate::slots::{ConsumerKey, Link};
use crate::store::{Route, Routes};
use std::collections::VecDeque;

/// Bytes a connection may hold whatever others hold: places of 8,192 deliveries.
pub(crate) const GUARANTEED_BYTES: usize = 256 << 10;
/// Held bodies looked at in one hold of the lock.
const SHED_STEPS: usize = 2048;

/// The books of what is held in a vhost.
#[derive(Default)]
pub(crate) struct Throttling {
    /// Of all that is held or fetched: places, and bodies in memory.
    bytes: usize,
    /// It was more than [`unsettled_bytes_max`](super::Settings::unsettled_bytes_max), and has not become much less.
    over: bool,
    /// Channels that hold bodies in memory that could leave, numbered: a channel may be another one of the same number.
    bodies: VecDeque<Listed>,
    /// The number given last.
    numbered: u64,
    /// How many of `bodies` are gone.
    gone: usize,
    /// There are some that were not looked at since then.
    unseen: bool,
    /// The last batch that was written when they were looked at.
    seen_at: u64,
    /// Links with consumers that are offered nothing.
    throttled: Vec<Link>,
}

/// A channel on the list of those that hold bodies.
#[derive(Clone, Copy)]
struct Listed {
    link: Link,
    channel: ChannelNumber,
    number: u64,
}

impl Throttling {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }
    /// Whether the link is to settle before it is given more.
    pub(crate) fn limits(&self, link: &LinkState) -> bool {
        self.over && link.unsettled_bytes >= GUARANTEED_BYTES
    }
    /// Notes a consumer that is offered nothing until somebody settles.
    pub(crate) fn throttle(&mut self, key: ConsumerKey, consumer: &mut Consumer, link: &mut LinkState) {
        if consumer.throttled {
            return;
        }
        consumer.throttled = true;
        if link.throttled.is_empty() {
            self.throttled.push(link.id);
        }
        link.throttled.push(key);
    }
    /// The link has nobody any more who waits for settles.
    fn forget(&mut self, link: Link) {
        self.throttled.retain(|l| *l != link);
    }
}

impl Engine {
    /// A delivery is held under that number from now on.
    pub(crate) fn hold(&mut self, link: Link, channel: ChannelNumber, number: u64, held: Held) {
        self.count_unsettled(link, held.cost());
        let Some(l) = self.links.get_mut(link) else {
            return;
        };
        let c = l.channel(channel);
        if let Body::Memory(_) = &held.entry.body {
            // Nothing is written for it unless it is spilled: no report of the log will have it looked at.
            self.throttling.unseen |= !held.entry.flags.has(EntryFlags::LOGGED);
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
        c.unsettled.push(number, held);
    }

    /// The link holds so much more.
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
                "too much is delivered and not settled: who holds most of it is offered no more"
            );
        }
    }

    /// The link holds so much less. Whoever waited for that is offered something again.
    pub(crate) fn count_released(&mut self, link: Link, bytes: usize) {
        self.throttling.bytes -= bytes;
        if let Some(l) = self.links.get_mut(link) {
            l.unsettled_bytes -= bytes;
            if !l.throttled.is_empty() && !self.throttling.limits(l) {
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

    /// Has the queues dispatched that the link's consumers wait at.
    fn offer_again(&mut self, link: Link) {
        self.throttling.forget(link);
        let keys = self
            .links
            .get_mut(link)
            .map_or(Vec::new(), |l| std::mem::take(&mut l.throttled));
        for key in keys {
            if let Some(c) = self.consumers.get_mut(key) {
                c.throttled = false;
                let queue = c.queue;
                self.touch(queue);
            }
        }
    }

    /// The consumer goes: nobody need think of it.
    pub(crate) fn forget_throttled(&mut self, key: ConsumerKey) {
        let Some(c) = self.consumers.get(key).filter(|c| c.throttled) else {
            return;
        };
        let link = c.link;
        if let Some(l) = self.links.get_mut(link) {
            l.throttled.retain(|k| *k != key);
            if l.throttled.is_empty() {
                self.throttling.forget(link);
            }
        }
    }

    /// A channel is gone that was on the list of those that hold bodies. Its place goes too, if there are many of that kind:
    /// where channels come and go, memory may never be short, and the list never looked at.
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

    /// Lets bodies of held deliveries go if memory is short: they are only needed if they come back. Those of transient
    /// messages go to the log for that, unsynced. A queue that dead-letters needs its bodies at hand.
    pub(crate) fn shed_unsettled(&mut self) {
        let written = self.staging.written_ticket();
        if self.throttling.bodies.is_empty()
            || !(self.memory.is_short() || self.throttling.over)
            || (written == self.throttling.seen_at && !self.throttling.unseen)
        {
            return;
        }
        self.throttling.seen_at = written;
        self.throttling.unseen = false;
        self.shed_some();
        self.dispatch_touched();
    }

    fn shed_some(&mut self) {
        let spills = self.memory.bytes() > self.settings.cache_bytes_max && self.node_pressure != Some(Pressure::Full);
        let mut steps = SHED_STEPS;
        for _ in 0..self.throttling.bodies.len() {
            if steps == 0 {
                self.throttling.unseen = true;
                return;
            }
            steps -= 1;
            let Some(listed) = self.throttling.bodies.pop_front() else {
                return;
            };
            let Engine {
                links,
                queues,
                memory,
                staging,
                settings,
                counters,
                throttling,
                ..
            } = self;
            let c = links.get_mut(listed.link).and_then(|l| l.find_channel(listed.channel));
            let Some(c) = c.filter(|c| c.listed == listed.number) else {
                throttling.gone = throttling.gone.saturating_sub(1);
                continue;
            };
            let mut freed = 0;
            let all_done = c.unsettled.shed(&mut steps, |held| {
                let HeldMut {
                    queue,
                    seq,
                    priority,
                    flags,
                    body,
                } = held;
                let Body::Memory(message) = &*body else {
                    return Shed::Done;
                };
                let Some(q) = queues.get_mut(queue) else {
                    return Shed::Done;
                };
                if q.arguments.dead_letter_exchange.is_some() {
                    return Shed::Done;
                }
                if flags.has(EntryFlags::LOGGED) {
                    let bytes = message.memory();
                    if !memory.evict_body(body, *flags) {
                        return Shed::Stop;
                    }
                    freed += bytes;
                    counters.bodies_evicted += 1;
                    return Shed::Done;
                }
                if !spills || staging.backlog_bytes() > settings.log_backlog_bytes_max {
                    return Shed::Stop;
                }
                if !message.log_state().join() {
                    return Shed::Done;
                }
                flags.set(EntryFlags::LOGGED | EntryFlags::SPILLED);
                q.spilled = Some(staging.open_ticket());
                let flags = if q.arguments.priority_max > 0 {
                    flags.with_priority(priority)
                } else {
                    *flags
                };
                let route = Route {
                    queue: q.id,
                    seq,
                    flags: flags.0,
                };
                staging.message(message.clone(), Routes::from_iter([route]));
                Shed::OnItsWay
            });
            if all_done {
                c.listed = 0;
            } else {
                throttling.bodies.push_back(listed);
            }
            if freed > 0 {
                self.count_released(listed.link, freed);
            }
        }
    }
}
