//! Confirms: how far each publisher may be told that its publishes are through.
//!
//! A confirm is a watermark per publisher. A publish that must wait for the log joins the publisher's *confirm entry* of
//! the open batch. The entry is over when the batch is as durable as it needs, or as soon as every one of its messages was
//! settled by all its consumers before it was written.

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
    /// Entries whose publisher is gone, freed when their batch is over: until then messages may still name them.
    orphans: Vec<(u64, u32)>,
}

/// The publishes of one channel in one batch that wait for it.
struct ConfirmEntry {
    link: Link,
    channel: ChannelNumber,
    ticket: u64,
    /// The most that one of them waits for.
    need: Durability,
    /// Messages that are neither written nor settled by all.
    outstanding: u32,
}

/// The publishing side of a channel: numbers, and the watermark that follows them.
#[derive(Default)]
pub(crate) struct Publisher {
    /// Confirmed publishes numbered so far.
    numbered: u64,
    /// Everything up to here is confirmed, or will be by the next take.
    ready: u64,
    /// What the session was told.
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
    /// The number of a publish that is to be confirmed.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.numbered += 1;
        self.numbered
    }
    /// Publishes numbered so far.
    pub(crate) fn numbered(&self) -> u64 {
        self.numbered
    }
    /// Of those, how many the session was not told of.
    pub(crate) fn unconfirmed(&self) -> u64 {
        self.numbered - self.told
    }
    /// The publish need not wait for anything itself.
    pub(crate) fn is_through(&mut self, number: u64) {
        match self.pending.back_mut() {
            // Behind one that waits: it is passed together with that one.
            Some((upto, _)) => *upto = number,
            None => self.ready = number,
        }
    }
    /// Up to where the session may be told now, and how many publishes that are, if that is news.
    pub(crate) fn tell(&mut self) -> Option<(u64, u64)> {
        let more = self.ready - self.told;
        self.told = self.ready;
        (more > 0).then_some((self.ready, more))
    }
    /// The channel is gone. Returns the confirm entries that nobody waits for any more.
    pub(crate) fn into_entries(self) -> impl Iterator<Item = u32> {
        self.pending.into_iter().map(|(_, key)| key)
    }
}

impl Confirms {
    /// One more publish waits. Returns the confirm entry it joins, and whether the log's report has to be asked for: the entry
    /// is new, or needs more than before.
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
    /// A message of the entry was settled by all before it was written. Returns the channel to be told if it was the last.
    pub(crate) fn settled_early(&mut self, key: u32) -> Option<(Link, ChannelNumber)> {
        let entry = self.entries.get_mut(key as usize)?;
        entry.outstanding = entry.outstanding.saturating_sub(1);
        (entry.outstanding == 0).then_some((entry.link, entry.channel))
    }
    /// Moves the publisher's watermark past what is over.
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
    /// Nobody waits for the entry any more. `durable`: the last batch the log has reported.
    pub(crate) fn orphan(&mut self, key: u32, durable: u64) {
        match self.entries.get(key as usize) {
            // Its batch is over: no report will come that frees it, and no message names it any more.
            Some(e) if e.ticket <= durable => drop(self.entries.remove(key as usize)),
            Some(e) => self.orphans.push((e.ticket, key)),
            None => {}
        }
    }
    /// The batches up to this one are durable: nothing names their entries any more.
    pub(crate) fn free_orphans(&mut self, durable: u64) {
        self.orphans.retain(|&(ticket, key)| {
            if ticket <= durable {
                self.entries.try_remove(key as usize);
            }
            ticket > durable
        });
    }
    /// Whether what the entry waits for has come, or is not needed any more.
    fn is_over(&self, key: u32, staging: &Staging) -> bool {
        let entry = self.entries.get(key as usize);
        entry.is_none_or(|e| e.outstanding == 0 || e.ticket <= staging.reached(e.need))
    }
    /// Publishers' batches that are waited for.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
    #[cfg(feature = "testing")]
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.orphans.is_empty()
    }
    /// Whether the publisher would be told something now.
    #[cfg(feature = "testing")]
    pub(crate) fn has_news(&self, publisher: &Publisher, staging: &Staging) -> bool {
        let first = publisher.pending.front();
        publisher.ready > publisher.told || first.is_some_and(|(_, key)| self.is_over(*key, staging))
    }
}
