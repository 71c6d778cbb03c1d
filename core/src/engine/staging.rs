//! What the next batch for the log will have in it, and what the log has done with the earlier ones.

use crate::message::Message;
use crate::store::{Batch, Durability, Record, Routes, Ticket};

/// What an answer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Nothing.
    Open,
    /// That batch, written.
    Written(u64),
    /// That batch, as durable as it needs.
    Durable(u64),
    /// Not opened by the log: `fill_awaited` replaces it.
    Never,
}

/// How far the log is: all batches up to these.
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
    /// What the node promises where no queue says otherwise.
    durability: Durability,
    batch: Batch,
    /// Number of the open batch, from 1.
    open: u64,
    /// Highest batch that is as durable as it needs.
    durable: u64,
    /// Highest batch that is written: this one, or one behind it.
    written: u64,
    /// Bytes handed over that the log has not written: (ticket, bytes).
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

    /// The batch that is being filled.
    pub(crate) fn open_ticket(&self) -> u64 {
        self.open
    }
    /// All batches up to this one are as durable as they asked for.
    pub(crate) fn durable_ticket(&self) -> u64 {
        self.durable
    }
    /// What the node promises where no queue says otherwise.
    pub(crate) fn durability(&self) -> Durability {
        self.durability
    }
    /// Promises something else from here on. What was staged keeps what it was promised.
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
    /// The batch that is reached by what waits for this much.
    pub(crate) fn reached(&self, need: Durability) -> u64 {
        match need {
            Durability::Os => self.written,
            Durability::Interval | Durability::Always => self.durable,
        }
    }
    /// Bytes that wait for the committer, the open batch included.
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
    /// Stages anything else.
    pub(crate) fn record(&mut self, record: Record) {
        self.batch.bytes += RECORD_OVERHEAD
            + match &record {
                Record::Key { key, value } => key.len() + value.as_ref().map_or(0, |v| v.len()),
                Record::Acks(acks) => acks.iter().map(|a| 8 + 16 * a.settled.len()).sum(),
                _ => 0,
            };
        self.batch.records.push(record);
    }
    /// Something waits for the open batch, for what the node promises. Returns its ticket.
    pub(crate) fn wait(&mut self) -> u64 {
        self.wait_for(self.durability)
    }
    /// Something waits for the open batch to be that durable. Returns its ticket.
    pub(crate) fn wait_for(&mut self, need: Durability) -> u64 {
        self.batch.need = self.batch.need.max(Some(need));
        self.open
    }
    /// The batch to wait for if what was staged so far is to be durable; `None` if it is.
    pub(crate) fn wait_for_all(&mut self) -> Option<u64> {
        if !self.batch.is_empty() {
            return Some(self.wait());
        }
        let last = self.open - 1;
        (last > self.durable).then_some(last)
    }
    /// Where a group starts that is recovered as a whole or not at all.
    pub(crate) fn group_start(&self) -> usize {
        self.batch.records.len()
    }
    /// Ends the group begun at `start`. Groups within it become part of it.
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

    /// The log's report: durable, and so written. Returns whether it was news.
    pub(crate) fn durable(&mut self, ticket: Ticket) -> bool {
        self.written(ticket);
        let news = ticket.0 > self.durable;
        self.durable = self.durable.max(ticket.0);
        news
    }
    /// The log's report: written. Returns whether it was news.
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

/// What a record costs on disk beyond its payload, roughly.
const RECORD_OVERHEAD: usize = 64;
