//! The core's words in AMQP: faults become reply codes, operations method ids, reasons texts.

use crate::error::{Code, Reply};
use gatepost_core::event::{CloseReason, Op, Pressure};
use gatepost_core::fault::{Fault, FaultKind};
use std::borrow::Cow;

/// A client that consumes from a queue of this name uses direct reply-to.
pub(crate) const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// The reply for a command that the engine refused.
pub(crate) fn reply(fault: &Fault, method: (u16, u16)) -> Reply {
    Reply::new(code(fault.kind), fault.text.to_string(), method)
}

fn code(kind: FaultKind) -> Code {
    match kind {
        FaultKind::NotFound => Code::NotFound,
        FaultKind::AccessRefused => Code::AccessRefused,
        FaultKind::ResourceLocked => Code::ResourceLocked,
        // RabbitMQ answers a queue's limit with 406, which closes the channel. A limit must not cost the whole
        // connection.
        FaultKind::PreconditionFailed | FaultKind::QuotaExceeded => Code::PreconditionFailed,
        FaultKind::NotAllowed => Code::NotAllowed,
        FaultKind::NotImplemented => Code::NotImplemented,
        FaultKind::ResourceError => Code::ResourceError,
        FaultKind::Internal => Code::InternalError,
    }
}

/// Class and method id for `op`. Where two methods share an operation (bindings to queues and to exchanges, ways to
/// settle) the channel remembers which one it was.
pub(crate) fn method(op: Op) -> (u16, u16) {
    match op {
        Op::OpenChannel => (20, 10),
        Op::CloseChannel => (20, 40),
        Op::DeclareExchange => (40, 10),
        Op::DeleteExchange => (40, 20),
        Op::DeclareQueue => (50, 10),
        Op::Bind => (50, 20),
        Op::PurgeQueue => (50, 30),
        Op::DeleteQueue => (50, 40),
        Op::Unbind => (50, 50),
        Op::Qos => (60, 10),
        Op::Consume => (60, 20),
        Op::Cancel => (60, 30),
        Op::Publish => (60, 40),
        Op::Get => (60, 70),
        Op::Settle => (60, 80),
        Op::Recover => (60, 110),
        Op::Commit => (90, 20),
        // Operations of other protocols, or of operators.
        Op::OpenSession | Op::Subscribe | Op::Unsubscribe | Op::SetPolicies => (0, 0),
    }
}

/// The reason in `connection.blocked`; `None` for pressure that ends before a client could react.
pub(crate) fn blocked(pressure: Pressure) -> Option<&'static str> {
    match pressure {
        Pressure::Memory => Some("low on memory"),
        Pressure::Disk | Pressure::Full => Some("low on disk"),
        Pressure::Backlog => None,
    }
}

/// The reply for a connection that the engine ends.
pub(crate) fn forced(reason: CloseReason, user: &str, vhost: &str) -> Reply {
    let detail: Cow<'static, str> = match reason {
        CloseReason::Shutdown => "broker forced connection closure with reason 'shutdown'".into(),
        // RabbitMQ's text.
        CloseReason::VhostDeleted => format!("vhost '{vhost}' is down").into(),
        CloseReason::UserDeleted => format!("user '{user}' is deleted").into(),
        CloseReason::CredentialsExpired => "the credentials of this connection have expired".into(),
        CloseReason::TakenOver | CloseReason::Forced => "connection closed by an operator".into(),
    };
    Reply::frame(Code::ConnectionForced, detail)
}
