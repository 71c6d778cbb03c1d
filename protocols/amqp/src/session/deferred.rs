//! Answers that need no engine, and yet must not overtake the answers to earlier commands.

use crate::frame::{Access, Confirm, Queue, Tx};
use crate::map::REPLY_TO;

/// Answers that the session makes itself. The engine echoes the token once all earlier commands are answered, which
/// keeps answers in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Deferred {
    AccessRequestOk,
    ConfirmSelectOk,
    FlowOk,
    ReplyToDeclared,
    TxCommitOk,
    TxRollbackOk,
    TxSelectOk,
}

impl Deferred {
    pub(super) const ALL: [Deferred; 7] = [
        Deferred::AccessRequestOk,
        Deferred::ConfirmSelectOk,
        Deferred::FlowOk,
        Deferred::ReplyToDeclared,
        Deferred::TxCommitOk,
        Deferred::TxRollbackOk,
        Deferred::TxSelectOk,
    ];

    pub(super) fn encode(self, channel: u16, out: &mut Vec<u8>) {
        match self {
            Deferred::AccessRequestOk => Access::RequestOk { ticket: 1 }.encode(channel, out),
            Deferred::ConfirmSelectOk => Confirm::SelectOk {}.encode(channel, out),
            Deferred::FlowOk => crate::frame::Channel::FlowOk { active: true }.encode(channel, out),
            Deferred::ReplyToDeclared => {
                Queue::DeclareOk {
                    queue: REPLY_TO,
                    messages: 0,
                    consumers: 1,
                }
                .encode(channel, out);
            }
            Deferred::TxCommitOk => Tx::CommitOk {}.encode(channel, out),
            Deferred::TxRollbackOk => Tx::RollbackOk {}.encode(channel, out),
            Deferred::TxSelectOk => Tx::SelectOk {}.encode(channel, out),
        }
    }
}
