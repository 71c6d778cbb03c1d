//! Counts what a connection publishes, for brokers with publish quotas.
//!
//! With a quota, a connection parses no more commands in a turn than it may publish messages. Then it is not read until
//! the broker allows more. So the publisher waits, and nothing that was read is refused or lost.

use crate::command::Command;
use crate::session::TURN_WORK;
use crate::time::Time;

/// Publishes that went to the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Number of messages.
    pub messages: u32,
    /// Bytes of their bodies.
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

/// The meter of one connection.
#[derive(Default)]
pub(super) struct Meter {
    /// Whether there are quotas.
    is_on: bool,
    /// Published in this turn.
    published: Published,
    /// Nothing is read before this time.
    until: Option<Time>,
}

impl Meter {
    /// Begins a turn. `allowed`: messages that may be published; `None`: no limit. Returns the work with which the turn starts,
    /// so that it stops parsing after that many commands.
    pub(super) fn begin(&mut self, now: Time, allowed: Option<usize>) -> usize {
        self.is_on = allowed.is_some();
        self.published = Published::default();
        self.until.take_if(|until| now >= *until || allowed.is_none());
        // At least one, or the connection would never make progress.
        allowed.map_or(0, |allowed| TURN_WORK.saturating_sub(allowed.max(1)))
    }

    /// Counts new commands.
    pub(super) fn count(&mut self, commands: &[Command]) {
        if self.is_on {
            commands.iter().for_each(|command| self.published.add(command));
        }
    }

    /// What was published in this turn, if there are quotas.
    pub(super) fn published(&self) -> Option<Published> {
        (self.published.messages > 0).then_some(self.published)
    }

    /// Sets the time from which the broker allows more.
    pub(super) fn wait(&mut self, until: Option<Time>) {
        self.until = until;
    }

    /// The time until which the connection waits, if it does.
    pub(super) fn until(&self) -> Option<Time> {
        self.until
    }
}
