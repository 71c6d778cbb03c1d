//! Transactions: commands that a client wants applied together. They are kept here until COMMIT. ABORT, DISCONNECT or
//! the loss of the connection drops them, so deliveries acknowledged in a transaction stay unsettled.

use super::{Handled, StompSession};
use crate::error::Refusal;
use crate::frame::receipt::push_receipt;
use crate::frame::transaction::transaction_name;
use crate::frame::{Frame, Verb};
use crate::settings::Settings;
use gatepost_core::command::{Channel, Command, Transaction};
use gatepost_core::session::{Cx, TRANSACTION_BYTES_SHORT};
use std::collections::VecDeque;

/// The transactions of a connection.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    open: Vec<Open>,
    /// Committed transactions that the engine has not answered yet, in order.
    committing: VecDeque<Receipts>,
    /// Bytes of messages and receipts in all open transactions.
    bytes: usize,
    /// Bytes of the receipts in `committing`.
    owed_bytes: usize,
}

#[derive(Debug)]
struct Open {
    name: Box<str>,
    /// Publishes and settlements, in order.
    commands: Vec<Command>,
    /// Receipts that its frames asked for.
    receipts: Vec<Box<str>>,
    bytes: usize,
}

/// The receipts due when a COMMIT is answered: those of its frames, then its own.
#[derive(Debug)]
pub(super) struct Receipts {
    pub(super) of_frames: Vec<Box<str>>,
    pub(super) own: Option<Box<str>>,
}

impl Receipts {
    fn bytes(&self) -> usize {
        let receipts = self.of_frames.iter().chain(&self.own);
        receipts.map(|receipt| receipt.len() + size_of::<Box<str>>()).sum()
    }
}

impl Transactions {
    /// Bytes of all open transactions.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Checks whether one more frame of `bytes` fits into transaction `name`.
    pub(super) fn check(&self, cx: &Cx<'_>, name: &str, bytes: usize, settings: &Settings) -> Result<(), Refusal> {
        let open = self
            .open
            .iter()
            .find(|open| *open.name == *name)
            .ok_or_else(|| Refusal::bad_transaction(name))?;
        if open.commands.len() >= settings.transaction_actions_max {
            return Err(Refusal::transaction_too_long(settings.transaction_actions_max));
        }
        if self.bytes.saturating_add(bytes) > settings.transaction_bytes_max {
            return Err(Refusal::transactions_too_large(settings.transaction_bytes_max));
        }
        if cx.is_memory_short && self.bytes.saturating_add(bytes) > TRANSACTION_BYTES_SHORT {
            return Err(Refusal::no_memory_for_transactions());
        }
        Ok(())
    }

    /// Adds a command to transaction `name`. [`Transactions::check`] must have accepted it.
    pub(super) fn push(&mut self, name: &str, command: Command, bytes: usize, receipt: Option<&str>) {
        if let Some(open) = self.open.iter_mut().find(|open| *open.name == *name) {
            open.commands.push(command);
            open.receipts.extend(receipt.map(Box::from));
            open.bytes += bytes;
            self.bytes += bytes;
        }
    }

    /// The engine answered the oldest COMMIT; returns the receipts that are due.
    pub(super) fn committed(&mut self) -> Option<Receipts> {
        let receipts = self.committing.pop_front()?;
        self.owed_bytes -= receipts.bytes();
        Some(receipts)
    }

    /// Bytes of the receipts that wait for the engine's answer.
    pub(super) fn owed_bytes(&self) -> usize {
        self.owed_bytes
    }

    /// Whether a COMMIT is unanswered.
    pub(super) fn are_committing(&self) -> bool {
        !self.committing.is_empty()
    }

    fn take(&mut self, name: &str) -> Result<Open, Refusal> {
        let at = self
            .open
            .iter()
            .position(|open| *open.name == *name)
            .ok_or_else(|| Refusal::bad_transaction(name))?;
        let open = self.open.remove(at);
        self.bytes -= open.bytes;
        Ok(open)
    }
}

impl StompSession {
    /// BEGIN, COMMIT, ABORT.
    pub(super) fn transaction(&mut self, cx: &mut Cx<'_>, frame: &Frame<'_>) -> Result<Handled, Refusal> {
        let name = transaction_name(frame)?;
        let receipt = frame.headers.lookup("receipt");
        match frame.verb {
            Verb::Begin => self.begin(name)?,
            Verb::Commit => {
                let open = self.transactions.take(name)?;
                if !open.commands.is_empty() {
                    self.commit(cx, open, receipt);
                    return Ok(Handled::Done);
                }
            }
            _ => drop(self.transactions.take(name)?),
        }
        if let Some(receipt) = receipt {
            push_receipt(cx.out, self.version, receipt);
        }
        Ok(Handled::Done)
    }

    fn begin(&mut self, name: &str) -> Result<(), Refusal> {
        let transactions = &mut self.transactions;
        if transactions.open.iter().any(|open| *open.name == *name) {
            // RabbitMQ empties the open transaction without an error. Silently losing messages is worse than an ERROR.
            return Err(Refusal::transaction_open(name));
        }
        if transactions.open.len() >= self.settings.transactions_max {
            return Err(Refusal::too_many_transactions(self.settings.transactions_max));
        }
        transactions.open.push(Open {
            name: name.into(),
            commands: Vec::new(),
            receipts: Vec::new(),
            bytes: 0,
        });
        Ok(())
    }

    fn commit(&mut self, cx: &mut Cx<'_>, open: Open, receipt: Option<&str>) {
        let settles: Vec<(Channel, u64)> = open
            .commands
            .iter()
            .filter_map(|command| match command {
                Command::Settle { channel, number, .. } => Some((*channel, *number)),
                _ => None,
            })
            .collect();
        let receipts = Receipts {
            of_frames: open.receipts,
            own: receipt.map(Box::from),
        };
        self.transactions.owed_bytes += receipts.bytes();
        self.transactions.committing.push_back(receipts);
        cx.commands.push(Command::Transaction(Box::new(Transaction {
            channel: 0,
            commands: open.commands,
        })));
        for (channel, number) in settles {
            if let Some(subscription) = self.subscriptions.on(channel) {
                subscription.settle(number);
            }
            self.close_if_settled(cx, channel);
        }
    }
}
