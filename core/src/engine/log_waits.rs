//! Everything that waits for the log to report a batch.
//!
//! A batch is reported twice: when it is written, and when it is as durable as it needs to be. Each report continues
//! what waited for it, in the order of the batches, in one loop: see `Engine::release_waits`.

use super::staging::{Gate, Reached};
use crate::command::Channel as ChannelNumber;
use crate::slots::{Link, QueueKey, SessionKey};
use crate::time::Wall;
use std::collections::VecDeque;

/// Something that continues when its batch is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiter {
    /// A channel with confirms or gated answers.
    Channel(Link, ChannelNumber),
    /// A queue whose next message must not be handed out before its hand-out mark is written.
    Marked(QueueKey),
    /// A session that is being opened, and its new connection.
    Session(SessionKey, Link),
    /// Messages that have expired by this time, and may be dropped once it is logged.
    Time(Wall),
}

/// Waiters, each with the batch it waits for, in the order of the batches.
#[derive(Default)]
pub(crate) struct LogWaits {
    written: VecDeque<(u64, Waiter)>,
    durable: VecDeque<(u64, Waiter)>,
    /// A hold had no time for all whose batches were reported. A later one continues.
    pub(crate) continues: bool,
}

impl LogWaits {
    /// Adds a waiter for a gate.
    pub(crate) fn at(&mut self, gate: Gate, waiter: Waiter) {
        match gate {
            Gate::Open | Gate::Never => {}
            Gate::Written(ticket) => self.for_written(ticket, waiter),
            Gate::Durable(ticket) => self.for_durable(ticket, waiter),
        }
    }
    /// Adds a waiter for a batch to be written.
    pub(crate) fn for_written(&mut self, ticket: u64, waiter: Waiter) {
        add(&mut self.written, ticket, waiter);
    }
    /// Adds a waiter for a batch to be as durable as it needs to be.
    pub(crate) fn for_durable(&mut self, ticket: u64, waiter: Waiter) {
        add(&mut self.durable, ticket, waiter);
    }
    /// Takes one whose batch has been reported.
    pub(crate) fn next(&mut self, log: Reached) -> Option<Waiter> {
        let written = self.written.pop_front_if(|(ticket, _)| *ticket <= log.written);
        let next = written.or_else(|| self.durable.pop_front_if(|(ticket, _)| *ticket <= log.durable));
        next.map(|(_, waiter)| waiter)
    }
    /// Whether there is one whose batch has been reported.
    pub(crate) fn is_due(&self, log: Reached) -> bool {
        let upto = |list: &VecDeque<(u64, Waiter)>, reached| list.front().is_some_and(|(ticket, _)| *ticket <= reached);
        upto(&self.written, log.written) || upto(&self.durable, log.durable)
    }
    pub(crate) fn len(&self) -> usize {
        self.written.len() + self.durable.len()
    }
    /// Waiters for batches to be written, with the batches' numbers.
    #[cfg(feature = "testing")]
    pub(crate) fn until_written(&self) -> impl Iterator<Item = (u64, Waiter)> {
        self.written.iter().copied()
    }
    /// Whether no waiter belongs to a connection.
    #[cfg(feature = "testing")]
    pub(crate) fn has_no_links(&self) -> bool {
        let mut all = self.written.iter().chain(&self.durable);
        all.all(|(_, waiter)| matches!(waiter, Waiter::Marked(_) | Waiter::Time(_)))
    }
}

/// Inserts a waiter in order. Usually its batch is the newest, but a hand-out mark may be in an earlier one.
fn add(list: &mut VecDeque<(u64, Waiter)>, ticket: u64, waiter: Waiter) {
    let at = match list.back() {
        Some((last, _)) if *last > ticket => list.partition_point(|(t, _)| *t <= ticket),
        _ => list.len(),
    };
    // A channel registers for each of its publishes, but has to be continued only once.
    if at == 0 || list[at - 1] != (ticket, waiter) {
        list.insert(at, (ticket, waiter));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiters_go_on_in_the_order_of_their_batches_and_no_earlier() {
        let link = Link { slot: 0, generation: 1 };
        let channel = |number| Waiter::Channel(link, number);
        let mut waits = LogWaits::default();
        waits.at(Gate::Durable(2), channel(1));
        waits.at(Gate::Durable(2), channel(1));
        waits.at(Gate::Written(3), channel(2));
        waits.for_written(2, channel(3));
        waits.at(Gate::Open, channel(4));
        waits.at(Gate::Never, channel(5));
        assert_eq!(waits.len(), 3);
        let is_due = |written, durable| waits.is_due(Reached { written, durable });
        assert!(!is_due(1, 1) && is_due(2, 1) && is_due(0, 2));
        let mut released = |written, durable| {
            let log = Reached { written, durable };
            std::iter::from_fn(|| waits.next(log)).collect::<Vec<_>>()
        };
        assert_eq!(released(1, 1), []);
        assert_eq!(released(2, 1), [channel(3)]);
        assert_eq!(released(3, 2), [channel(2), channel(1)]);
        assert!(waits.len() == 0 && waits.has_no_links());
    }
}
