//! Collects the next batch for the log, and knows what became of earlier batches.

use crate::message::Message;
use crate::store::{Batch, Durability, Record, Routes, Ticket};

/// What an answer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Nothing.
    Open,
    /// For a batch to be written.
    Written(u64),
    /// For a batch to be as durable as it needs to be.
    Durable(u64),
    /// Not opened by the log: `fill_awaited` replaces it.
    Never,
}

/// How far the log is: all batches up to these were reported.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached {
    pub(crate) written: u64,
    pub(crate) durable: u64,
}

impl Reached {
    pub(crate) fn opens(self, gate: Gate) -> bool {
        match gate {
            Gate::Open => true,
            Gate::Written(ticket) => ticket <= self.written,
            Gate::Durable(ticket) => ticket <= self.durable,
            Gate::Never => false,
        }
    }
}

/// The open batch. Its number is the ticket that answers and confirms wait for.
pub(crate) struct Staging {
    /// The node's durability, for queues that do not set their own.
    durability: Durability,
    batch: Batch,
    /// The number of the open batch, from 1.
    open: u64,
    /// The highest batch that is as durable as it needs to be.
    durable: u64,
    /// The highest batch that is written. At least the durable one.
    written: u64,
    /// Batches handed over that are not written yet: (ticket, bytes).
    in_log: std::collections::VecDeque<(u64, usize)>,
    in_log_bytes: usize,
}

impl Staging {
    pub(crate) fn new(durability: Durability) -> Staging {
        Staging {
            durability,
            batch: Batch::default(),
            open: 1,
            durable: 0,
            written: 0,
            in_log: Default::default(),
            in_log_bytes: 0,
        }
    }

    /// The number of the open batch.
    pub(crate) fn open_ticket(&self) -> u64 {
        self.open
    }
    /// All batches up to this one are as durable as they need to be.
    pub(crate) fn durable_ticket(&self) -> u64 {
        self.durable
    }
    /// The node's durability, for queues that do not set their own.
    pub(crate) fn durability(&self) -> Durability {
        self.durability
    }
    /// Changes the node's durability. What is staged already keeps the former one.
    pub(crate) fn set_durability(&mut self, durability: Durability) {
        self.durability = durability;
    }
    /// All batches up to this one are written.
    pub(crate) fn written_ticket(&self) -> u64 {
        self.written
    }
    /// How far the log is.
    pub(crate) fn log(&self) -> Reached {
        Reached {
            written: self.written,
            durable: self.durable,
        }
    }
    /// The highest batch that has reached this durability.
    pub(crate) fn reached(&self, need: Durability) -> u64 {
        match need {
            Durability::Os => self.written,
            Durability::Interval | Durability::Always => self.durable,
        }
    }
    /// Bytes that wait for the committer, including the open batch.
    pub(crate) fn backlog_bytes(&self) -> usize {
        self.in_log_bytes + self.batch.bytes
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Stages a message for its durable queues.
    pub(crate) fn message(&mut self, message: Message, routes: Routes) {
        self.batch.bytes += RECORD_OVERHEAD + message.payload().len();
        self.batch.records.push(Record::Message { message, routes });
    }
    /// Stages any other record.
    pub(crate) fn record(&mut self, record: Record) {
        self.batch.bytes += RECORD_OVERHEAD
            + match &record {
                Record::Key { key, value } => key.len() + value.as_ref().map_or(0, |v| v.len()),
                Record::Acks(acks) => acks.iter().map(|a| 8 + 16 * a.settled.len()).sum(),
                _ => 0,
            };
        self.batch.records.push(record);
    }
    /// Makes the open batch as durable as the node's setting. Returns its ticket, to wait for.
    pub(crate) fn wait(&mut self) -> u64 {
        self.wait_for(self.durability)
    }
    /// Makes the open batch that durable. Returns its ticket, to wait for.
    pub(crate) fn wait_for(&mut self, need: Durability) -> u64 {
        self.batch.need = self.batch.need.max(Some(need));
        self.open
    }
    /// The batch to wait for until everything staged so far is durable; `None` if it is.
    pub(crate) fn wait_for_all(&mut self) -> Option<u64> {
        if !self.batch.is_empty() {
            return Some(self.wait());
        }
        let last = self.open - 1;
        (last > self.durable).then_some(last)
    }
    /// Begins a group of records that is recovered as a whole or not at all. Returns its start.
    pub(crate) fn group_start(&self) -> usize {
        self.batch.records.len()
    }
    /// Ends the group that began at `start`. Groups within it become part of it.
    pub(crate) fn group_end(&mut self, start: usize) {
        while self.batch.groups.pop_if(|(inner, _)| *inner >= start).is_some() {}
        if self.batch.records.len() > start + 1 {
            self.batch.groups.push((start, self.batch.records.len()));
        }
    }

    /// Hands the open batch over and opens the next. `batch` must be empty.
    pub(crate) fn drain(&mut self, batch: &mut Batch) {
        if self.batch.is_empty() {
            return;
        }
        debug_assert!(batch.is_empty(), "the previous batch was submitted");
        std::mem::swap(batch, &mut self.batch);
        batch.ticket = Ticket(self.open);
        self.in_log.push_back((self.open, batch.bytes));
        self.in_log_bytes += batch.bytes;
        self.open += 1;
        self.batch.records.clear();
        self.batch.groups.clear();
        self.batch.bytes = 0;
        self.batch.need = None;
    }

    /// Takes the log's report that a batch is durable, and so written. Returns whether that was new.
    pub(crate) fn durable(&mut self, ticket: Ticket) -> bool {
        self.written(ticket);
        let news = ticket.0 > self.durable;
        self.durable = self.durable.max(ticket.0);
        news
    }
    /// Takes the log's report that a batch is written. Returns whether that was new.
    pub(crate) fn written(&mut self, ticket: Ticket) -> bool {
        if ticket.0 <= self.written {
            return false;
        }
        self.written = ticket.0;
        while let Some(&(t, bytes)) = self.in_log.front()
            && t <= ticket.0
        {
            self.in_log.pop_front();
            self.in_log_bytes -= bytes;
        }
        true
    }
}

/// Bytes of a record on disk without its payload, roughly.
const RECORD_OVERHEAD: usize = 64;
