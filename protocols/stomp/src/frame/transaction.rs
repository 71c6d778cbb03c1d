//! BEGIN, COMMIT, ABORT: each names a transaction.

use super::Frame;
use crate::error::Refusal;

/// The transaction that a BEGIN, COMMIT or ABORT is about.
pub(crate) fn transaction_name<'a>(frame: &Frame<'a>) -> Result<&'a str, Refusal> {
    frame.require("transaction", || Refusal::missing_transaction(frame.headers.command()))
}
