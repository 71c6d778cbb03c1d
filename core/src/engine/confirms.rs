//! Confirms: up to which number each publisher's publishes are confirmed.
//!
//! A confirm is a watermark per publisher. A publish that must wait for the log joins the publisher's *confirm entry*
//! of the open batch. The entry is done when the batch is as durable as it has to be, or earlier, if every one of its
//! messages was settled by all its consumers before it was written.

use super::staging::Staging;
use crate::command::Channel as ChannelNumber;
use crate::slots::Link;
use crate::store::Durability;
use slab::Slab;
use std::collections::VecDeque;

/// The confirm entries of all publishers.
#[derive(Default)]
pub(crate) struct Confirms {
    entries: Slab<ConfirmEntry>,
    /// Entries whose publisher is gone. They are freed when their batch is done, because messages may refer to them
    /// until then.
    orphans: Vec<(u64, u32)>,
}

/// The publishes of one channel that wait for one batch.
struct ConfirmEntry {
    link: Link,
    channel: ChannelNumber,
    ticket: u64,
    /// The highest durability that one of them needs.
    need: Durability,
    /// Messages that are neither written nor settled by all their consumers.
    outstanding: u32,
}

/// The publishing side of a channel: the numbers of its publishes, and the watermark that follows them.
#[derive(Default)]
pub(crate) struct Publisher {
    /// Confirmed publishes numbered so far.
    numbered: u64,
    /// The number up to which all are confirmed by the next take at the latest.
    ready: u64,
    /// The number up to which the session was told.
    told: u64,
    /// Later publishes, in order, each with the confirm entry it waits for.
    pending: VecDeque<(u64, u32)>,
}

/// A publish that waits for a batch.
pub(crate) struct Waiting {
    pub(crate) link: Link,
    pub(crate) channel: ChannelNumber,
    /// Its number on the channel.
    pub(crate) number: u64,
    pub(crate) ticket: u64,
    /// How durable the batch has to be.
    pub(crate) need: Durability,
}

impl Publisher {
    /// Numbers a publish that is to be confirmed.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.numbered += 1;
        self.numbered
    }
    /// The number of publishes numbered so far.
    pub(crate) fn numbered(&self) -> u64 {
        self.numbered
    }
    /// The number of publishes that the session was not told about yet.
    pub(crate) fn unconfirmed(&self) -> u64 {
        self.numbered - self.told
    }
    /// Marks a publish as needing no wait of its own.
    pub(crate) fn needs_no_wait(&mut self, number: u64) {
        match self.pending.back_mut() {
            // An earlier publish waits: both are confirmed together.
            Some((upto, _)) => *upto = number,
            None => self.ready = number,
        }
    }
    /// The watermark that the session is to be told, and how many publishes it newly confirms. `None` if it has not
    /// moved.
    pub(crate) fn tell(&mut self) -> Option<(u64, u64)> {
        let more = self.ready - self.told;
        self.told = self.ready;
        (more > 0).then_some((self.ready, more))
    }
    /// The confirm entries of a channel that is closed.
    pub(crate) fn into_entries(self) -> impl Iterator<Item = u32> {
        self.pending.into_iter().map(|(_, key)| key)
    }
}

impl Confirms {
    /// Adds a publish that waits. Returns the confirm entry it joins, and whether the log's report must be requested,
    /// because the entry is new or needs a higher durability than before.
    pub(crate) fn add(&mut self, publisher: &mut Publisher, waiting: Waiting) -> (u32, bool) {
        let Waiting {
            link,
            channel,
            number,
            ticket,
            need,
        } = waiting;
        if let Some((upto, key)) = publisher.pending.back_mut()
            && let Some(entry) = self.entries.get_mut(*key as usize)
            && entry.ticket == ticket
        {
            *upto = number;
            entry.outstanding += 1;
            let needs_more = need > entry.need;
            entry.need = entry.need.max(need);
            return (*key, needs_more);
        }
        let entry = ConfirmEntry {
            link,
            channel,
            ticket,
            need,
            outstanding: 1,
        };
        let key = self.entries.insert(entry) as u32;
        publisher.pending.push_back((number, key));
        (key, true)
    }
    /// A message of the entry was settled by all its consumers before it was written. If it was the last of the entry,
    /// returns the channel that can be told.
    pub(crate) fn settled_early(&mut self, key: u32) -> Option<(Link, ChannelNumber)> {
        let entry = self.entries.get_mut(key as usize)?;
        entry.outstanding = entry.outstanding.saturating_sub(1);
        (entry.outstanding == 0).then_some((entry.link, entry.channel))
    }
    /// Moves the publisher's watermark past entries that are done.
    pub(crate) fn pass(&mut self, publisher: &mut Publisher, staging: &Staging) {
        while let Some(&(upto, key)) = publisher.pending.front() {
            if !self.is_over(key, staging) {
                return;
            }
            publisher.ready = upto;
            publisher.pending.pop_front();
            self.entries.try_remove(key as usize);
        }
    }
    /// Nobody waits for the entry any more. `durable`: the last batch that the log has reported.
    pub(crate) fn orphan(&mut self, key: u32, durable: u64) {
        match self.entries.get(key as usize) {
            // Its batch is done: no later report would free it, and no message refers to it any more.
            Some(e) if e.ticket <= durable => drop(self.entries.remove(key as usize)),
            Some(e) => self.orphans.push((e.ticket, key)),
            None => {}
        }
    }
    /// All batches up to `durable` are done, so no message refers to their entries any more.
    pub(crate) fn free_orphans(&mut self, durable: u64) {
        self.orphans.retain(|&(ticket, key)| {
            if ticket <= durable {
                self.entries.try_remove(key as usize);
            }
            ticket > durable
        });
    }
    /// Whether the entry's batch is as durable as it needs to be, or the entry no longer needs it.
    fn is_over(&self, key: u32, staging: &Staging) -> bool {
        let entry = self.entries.get(key as usize);
        entry.is_none_or(|e| e.outstanding == 0 || e.ticket <= staging.reached(e.need))
    }
    /// The number of entries that wait for a batch.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
    #[cfg(feature = "testing")]
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.orphans.is_empty()
    }
    /// Whether the publisher's watermark would move now.
    #[cfg(feature = "testing")]
    pub(crate) fn has_news(&self, publisher: &Publisher, staging: &Staging) -> bool {
        let first = publisher.pending.front();
        publisher.ready > publisher.told || first.is_some_and(|(_, key)| self.is_over(*key, staging))
    }
}
