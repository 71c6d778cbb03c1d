//! Whatever waits for the log to report a batch.
//!
//! A batch is reported twice: when it is written, and when it is as durable as it needs to be. Each report lets go on what
//! waited for it, in the order of the batches, in one loop: see `Engine::release_waits`.

use super::staging::{Gate, Reached};
use crate::command::Channel as ChannelNumber;
use crate::slots::{Link, QueueKey, SessionKey};
use crate::time::Wall;
use std::collections::VecDeque;

/// What goes on when its batch is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiter {
    /// A channel with confirms or gated answers.
    Channel(Link, ChannelNumber),
    /// A queue whose next message must not leave before the log has its hand-out mark.
    Marked(QueueKey),
    /// A session that opens, and its new connection.
    Session(SessionKey, Link),
    /// What expires by this time: it may once the log has a time that is as late.
    Time(Wall),
}

/// Waiters, each with the batch it waits for, in the order of the batches.
#[derive(Default)]
pub(crate) struct LogWaits {
    written: VecDeque<(u64, Waiter)>,
    durable: VecDeque<(u64, Waiter)>,
}

impl LogWaits {
    /// The waiter goes on when its gate opens.
    pub(crate) fn at(&mut self, gate: Gate, waiter: Waiter) {
        match gate {
            Gate::Open | Gate::Never => {}
            Gate::Written(ticket) => self.for_written(ticket, waiter),
            Gate::Durable(ticket) => self.for_durable(ticket, waiter),
        }
    }
    /// The waiter goes on when that batch is written.
    pub(crate) fn for_written(&mut self, ticket: u64, waiter: Waiter) {
        add(&mut self.written, ticket, waiter);
    }
    /// The waiter goes on when that batch is as durable as it needs to be.
    pub(crate) fn for_durable(&mut self, ticket: u64, waiter: Waiter) {
        add(&mut self.durable, ticket, waiter);
    }
    /// Takes out one that has waited long enough.
    pub(crate) fn next(&mut self, log: Reached) -> Option<Waiter> {
        let written = self.written.pop_front_if(|(ticket, _)| *ticket <= log.written);
        let next = written.or_else(|| self.durable.pop_front_if(|(ticket, _)| *ticket <= log.durable));
        next.map(|(_, waiter)| waiter)
    }
    pub(crate) fn len(&self) -> usize {
        self.written.len() + self.durable.len()
    }
    /// Those that wait for a batch to be written, with its number.
    #[cfg(feature = "testing")]
    pub(crate) fn until_written(&self) -> impl Iterator<Item = (u64, Waiter)> {
        self.written.iter().copied()
    }
    /// Whether nobody waits on behalf of a connection.
    #[cfg(feature = "testing")]
    pub(crate) fn has_no_links(&self) -> bool {
        let mut all = self.written.iter().chain(&self.durable);
        all.all(|(_, waiter)| matches!(waiter, Waiter::Marked(_) | Waiter::Time(_)))
    }
}

/// Mostly the batch is the newest. A hand-out mark that is on its way may be in an earlier one than what waits already.
fn add(list: &mut VecDeque<(u64, Waiter)>, ticket: u64, waiter: Waiter) {
    let at = match list.back() {
        Some((last, _)) if *last > ticket => list.partition_point(|(t, _)| *t <= ticket),
        _ => list.len(),
    };
    // A channel asks for each of its publishes, and needs to be looked at once.
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
