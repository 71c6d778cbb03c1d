//! BEGIN, COMMIT and ABORT: each contains the name of a transaction.

use super::Frame;
use crate::error::Refusal;

/// The transaction's name in a BEGIN, COMMIT or ABORT.
pub(crate) fn transaction_name<'a>(frame: &Frame<'a>) -> Result<&'a str, Refusal> {
    frame.require("transaction", || Refusal::missing_transaction(frame.headers.command()))
}
