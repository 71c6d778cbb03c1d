//! A channel's transaction until its commit (AMQP 0-9-1 1.9): its publishes wait here, its settles in the engine.

use super::env::Env;
use crate::error::{Code, Error};
use gatepost_core::command::Command;
use gatepost_core::session::TRANSACTION_BYTES_SHORT;

/// What waits for the commit.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    publishes: Vec<Command>,
    /// The engine holds settles of it.
    holds_settles: bool,
    /// Octets held until commit.
    pub(super) bytes: usize,
}

/// What a command of a transaction counts in addition to its payload: roughly the memory of one with an empty message.
/// A commit is one hold of the engine's lock, so this and `unfinished_bytes_max` bound the hold too: 262,144 commands,
/// about 40 ms.
const COMMAND_BYTES: usize = 256;

impl Transaction {
    /// Adds a publish with `payload` octets of message.
    pub(super) fn push(
        &mut self,
        env: &mut Env<'_, '_>,
        publish: Command,
        payload: usize,
        method: (u16, u16),
    ) -> Result<(), Error> {
        self.publishes.push(publish);
        self.count(env, payload, method)
    }

    /// The engine gets a settle to hold.
    pub(super) fn hold_settle(&mut self, env: &mut Env<'_, '_>, method: (u16, u16)) -> Result<(), Error> {
        self.holds_settles = true;
        self.count(env, 0, method)
    }

    fn count(&mut self, env: &mut Env<'_, '_>, payload: usize, method: (u16, u16)) -> Result<(), Error> {
        let bytes = payload + COMMAND_BYTES;
        if env.cx.is_memory_short && self.bytes + bytes > TRANSACTION_BYTES_SHORT {
            let detail = "no memory left for transactions (memory.input)";
            return Err(Error::new(Code::PreconditionFailed, detail, method));
        }
        self.bytes += bytes;
        env.count_unfinished(bytes, method)
    }

    /// Begins a new one. Returns the publishes of this one, and whether the engine holds settles of it.
    pub(super) fn take(&mut self, env: &mut Env<'_, '_>) -> (Vec<Command>, bool) {
        *env.unfinished_bytes -= self.bytes;
        let taken = std::mem::take(self);
        (taken.publishes, taken.holds_settles)
    }
}
