//! The middle of a long queue, which is in the log only: reading it back page by page, and adding to it.

use super::Queue;
use super::entry::{Body, Entry, EntryFlags};
use super::ready::{Leave, Run};
use crate::store::LogEntry;
use std::ops::RangeInclusive;

impl Queue {
    /// The priority and run whose first page should be read next: if fewer than `ahead` entries are in front of it, and
    /// no page is being read.
    pub(crate) fn wanted_page(&self, ahead: usize) -> Option<(u8, Run)> {
        if self.paging.is_some() || self.ready.paged() == 0 {
            return None;
        }
        self.ready.wanted_run(ahead)
    }
    /// Notes that a page of this priority is being read.
    pub(crate) fn page_asked(&mut self, priority: u8) {
        self.paging = Some(priority);
    }
    /// Notes that the page has been read. Returns its priority; `None` if the queue was purged meanwhile.
    pub(crate) fn page_came(&mut self) -> Option<u8> {
        self.paging.take()
    }
    pub(crate) fn is_paging(&self) -> bool {
        self.paging.is_some()
    }
    /// Takes the entries that the log has for a run, up to sequence `upto`. Returns how many of those counted are
    /// missing.
    pub(crate) fn page_in(&mut self, priority: u8, upto: u64, found: Vec<LogEntry>) -> u64 {
        let Queue {
            ready,
            arguments,
            absent,
            redelivered_below,
            ..
        } = self;
        let entries = found.into_iter().filter_map(|found| {
            let mut flags = EntryFlags(found.flags);
            let mut its_priority = 0;
            if arguments.priority_max > 0 {
                (its_priority, flags) = flags.split_priority();
            }
            if its_priority != priority || absent.binary_search(&found.seq).is_ok() {
                return None;
            }
            flags.set(EntryFlags::LOGGED);
            if found.seq < *redelivered_below {
                flags.set(EntryFlags::REDELIVERED);
            }
            Some(Entry {
                seq: found.seq,
                body: Body::Disk {
                    at: found.at,
                    body_len: found.body_len,
                },
                flags,
                priority,
                subscription_ids: None,
            })
        });
        ready.page_in(priority, upto, entries)
    }
    /// Offers the entries of a priority behind the first `stay` to `leave`, as `Ready` says. For those that
    /// leave, it is remembered whether they may have been handed out before.
    pub(crate) fn page_out(&mut self, priority: u8, stay: usize, mut leave: impl FnMut(&mut Entry) -> Leave) {
        let front_too = self.paging != Some(priority);
        let redelivered_below = &mut self.redelivered_below;
        self.ready.page_out(priority, stay, front_too, |entry| {
            let left = leave(entry);
            let is_gone = left != Leave::Stop && matches!(entry.body, Body::Disk { .. });
            if is_gone && entry.flags.has(EntryFlags::REDELIVERED) {
                *redelivered_below = (*redelivered_below).max(entry.seq + 1);
            }
            left
        });
    }
    /// Drops the run at the front if the queue stays over its limit even without it, and if all sequences in it are to
    /// be dropped. The caller stages the acks noted so far first. Returns how many messages were dropped, and the range
    /// of their sequences.
    pub(crate) fn drop_run(&mut self) -> Option<(u64, RangeInclusive<u64>)> {
        if self.arguments.priority_max > 0 {
            return None;
        }
        let run = self.ready.leading_run()?;
        let stays = (self.ready.len() as u64 - run.count, self.ready.bytes() - run.bytes);
        let is_over = self.arguments.length_max.is_some_and(|max| stays.0 >= max)
            || self.arguments.bytes_max.is_some_and(|max| stays.1 > max);
        let within = run.first..=run.last;
        // A range cannot be used if some of it was in flight at the start or has counted returns: those are handled one
        // by one.
        let is_plain =
            !self.absent.iter().any(|seq| within.contains(seq)) && self.returned.range(within).next().is_none();
        if !is_over || !is_plain {
            return None;
        }
        self.ready.drop_leading_run();
        self.paging = None;
        self.note_acks(run.first, run.last);
        Some((run.count, run.first..=run.last))
    }
    /// The waiting entry with that sequence, if it is in memory.
    pub(crate) fn waiting_mut(&mut self, seq: u64) -> Option<&mut Entry> {
        self.ready.find_mut(seq)
    }
    /// Removes a waiting entry whose record is damaged.
    pub(crate) fn remove_waiting(&mut self, seq: u64) -> Option<Entry> {
        self.ready.remove(seq)
    }
}
