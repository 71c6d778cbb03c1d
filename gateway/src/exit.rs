//! Why the process ends, as its exit code: sysexits, as service managers and scripts know them.

use std::process::ExitCode;

/// An end that is not a success, with the line an operator reads.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each names its cause, and its field is the text")]
pub enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    DataDamaged(String),
    #[error("{0}")]
    NoSuchUser(String),
    #[error("{0}")]
    Unavailable(String),
    /// A code of monitoring plugins.
    #[error("{1}")]
    Check(u8, String),
    #[error("{0}")]
    DataRepaired(String),
    #[error("{0}")]
    PortUnavailable(String),
    #[error("{0}")]
    Internal(String),
    #[error("{0}")]
    DataUnwritable(String),
    #[error("{0}")]
    StoreFailed(String),
    #[error("{0}")]
    DataInUse(String),
    #[error("{0}")]
    Configuration(String),
}

impl Failure {
    /// The code of `sysexits.h`; 1, as `fsck` has it, for damage that was found and repaired.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Check(code, _) => *code,
            Failure::DataRepaired(_) => 1,
            Failure::Usage(_) => 64,
            Failure::DataDamaged(_) => 65,
            Failure::NoSuchUser(_) => 67,
            Failure::PortUnavailable(_) | Failure::Unavailable(_) => 69,
            Failure::Internal(_) => 70,
            Failure::DataUnwritable(_) => 73,
            Failure::StoreFailed(_) => 74,
            Failure::DataInUse(_) => 75,
            Failure::Configuration(_) => 78,
        })
    }
}
