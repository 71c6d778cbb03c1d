//! Why a command was refused. All protocols share these kinds, and each session translates them into its own codes.

use std::fmt;

/// The kind of a refusal. Sessions translate it to a reply code, a reason code or a `message` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// A queue, exchange, vhost or consumer that does not exist.
    NotFound,
    /// The user may not do that, or the name is reserved.
    AccessRefused,
    /// An exclusive queue of another connection.
    ResourceLocked,
    /// The object exists with other properties, is in use, or an argument is bad or unknown, such as an exchange type.
    PreconditionFailed,
    /// It violates a rule of the vhost or node (a limit, a duplicate).
    NotAllowed,
    /// The command is valid and not implemented.
    NotImplemented,
    /// A named limit was reached; trying later may work.
    QuotaExceeded,
    /// The store cannot take it: no disk space, or poisoned.
    ResourceError,
    /// A bug of ours.
    Internal,
}

/// A refusal: its kind, and a text that does not repeat the kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What went wrong.
    pub kind: FaultKind,
    /// For example `no queue 'x' in vhost '/'`.
    pub text: Box<str>,
}

impl Fault {
    /// A refusal of `kind`, explained by `text`.
    pub fn new(kind: FaultKind, text: impl Into<Box<str>>) -> Self {
        Fault {
            kind,
            text: text.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Fault {}
