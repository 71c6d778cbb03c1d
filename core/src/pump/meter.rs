//! What a connection publishes, for brokers that allow only so much of it.
//!
//! A connection that is metered parses no more commands in a turn than it may publish messages, and then is not read until
//! the broker allows more. So its publisher waits, and nothing that was read is refused or lost.

use crate::command::Command;
use crate::session::TURN_WORK;
use crate::time::Time;

/// Publishes that went to the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// How many.
    pub messages: u32,
    /// Their bodies.
    pub bytes: u64,
}

impl Published {
    fn add(&mut self, command: &Command) {
        match command {
            Command::Publish { message, .. } => {
                self.messages = self.messages.saturating_add(1);
                self.bytes = self.bytes.saturating_add(message.body().len() as u64);
            }
            Command::Transaction(transaction) => transaction.commands.iter().for_each(|command| self.add(command)),
            _ => {}
        }
    }
}

/// The state of one connection.
#[derive(Default)]
pub(super) struct Meter {
    /// There are limits, so it counts.
    is_on: bool,
    /// In this turn.
    published: Published,
    /// Nothing is read before.
    until: Option<Time>,
}

impl Meter {
    /// A turn begins, in which so many messages may be published; `None`: any number. Returns the work that the turn has
    /// done already, in the eyes of its session.
    pub(super) fn begin(&mut self, now: Time, allowed: Option<usize>) -> usize {
        self.is_on = allowed.is_some();
        self.published = Published::default();
        self.until.take_if(|until| now >= *until || allowed.is_none());
        // One at least, or a connection would never go on.
        allowed.map_or(0, |allowed| TURN_WORK.saturating_sub(allowed.max(1)))
    }

    /// Counts commands that are new.
    pub(super) fn count(&mut self, commands: &[Command]) {
        if self.is_on {
            commands.iter().for_each(|command| self.published.add(command));
        }
    }

    /// What was published in this turn, if there are limits on it.
    pub(super) fn published(&self) -> Option<Published> {
        (self.published.messages > 0).then_some(self.published)
    }

    /// The broker allows more from then on.
    pub(super) fn wait(&mut self, until: Option<Time>) {
        self.until = until;
    }

    /// When it goes on, if it waits.
    pub(super) fn until(&self) -> Option<Time> {
        self.until
    }
}
