//! Exit codes of the process: those of sysexits.h, which service managers and scripts know.

use std::io::{self, Write as _};
use std::process::ExitCode;

/// Why the process failed, with the text for the operator.
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
    /// An exit code of monitoring plugins. The result was printed already.
    #[error("")]
    Check(u8),
    /// A signal with this number ended it.
    #[error("interrupted")]
    Interrupted(u8),
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
    TimedOut(String),
    #[error("{0}")]
    Configuration(String),
}

impl Failure {
    /// The code of `sysexits.h`; 1, like `fsck`, for damage that was found and repaired.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Check(code) => *code,
            // As in shells.
            Failure::Interrupted(signal) => 128 + signal,
            Failure::DataRepaired(_) => 1,
            Failure::Usage(_) => 64,
            Failure::DataDamaged(_) => 65,
            Failure::NoSuchUser(_) => 67,
            Failure::PortUnavailable(_) | Failure::Unavailable(_) => 69,
            Failure::Internal(_) => 70,
            Failure::DataUnwritable(_) => 73,
            Failure::StoreFailed(_) => 74,
            Failure::DataInUse(_) | Failure::TimedOut(_) => 75,
            Failure::Configuration(_) => 78,
        })
    }
}

/// Writes to standard output. Its reader, such as `head`, may have closed it: that is not a failure.
///
/// # Errors
/// It cannot be written to.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::StoreFailed(format!(
            "standard output cannot be written: {error}"
        ))),
        _ => Ok(()),
    }
}
