//! The commands of a channel's transaction, held until its commit (AMQP 0-9-1 1.9).

use super::env::Env;
use crate::error::Error;
use gatepost_core::command::Command;

/// Publishes and settles held until commit.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    commands: Vec<Command>,
    /// Octets held until commit.
    pub(super) bytes: usize,
}

/// What a command of a transaction counts in addition to its payload: roughly the memory of one with an empty message.
/// A commit is one hold of the engine's lock, so this and `unfinished_bytes_max` bound the hold too: 262,144 commands,
/// about 40 ms.
const COMMAND_BYTES: usize = 256;

impl Transaction {
    /// Adds a command with `payload` octets of message.
    pub(super) fn push(
        &mut self,
        env: &mut Env<'_, '_>,
        command: Command,
        payload: usize,
        method: (u16, u16),
    ) -> Result<(), Error> {
        let bytes = payload + COMMAND_BYTES;
        self.bytes += bytes;
        self.commands.push(command);
        env.count_unfinished(bytes, method)
    }

    /// Empties it.
    pub(super) fn take(&mut self, env: &mut Env<'_, '_>) -> Vec<Command> {
        *env.unfinished_bytes -= self.bytes;
        self.bytes = 0;
        std::mem::take(&mut self.commands)
    }
}
