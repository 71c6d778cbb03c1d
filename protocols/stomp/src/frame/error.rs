//! ERROR frames.

use super::escape::escape;
use super::{Version, push_decimal, push_end};
use crate::error::Refusal;

/// Appends an ERROR frame. `receipt` is the receipt that the refused frame asked for; `subscription` the subscription
/// concerned.
pub(crate) fn push_error(
    out: &mut Vec<u8>,
    version: Version,
    refusal: &Refusal,
    receipt: Option<&str>,
    subscription: Option<&str>,
) {
    out.extend_from_slice(b"ERROR\nmessage:");
    escape(refusal.message.as_bytes(), version, out);
    for (name, value) in [("receipt-id", receipt), ("subscription", subscription)] {
        if let Some(value) = value {
            out.push(b'\n');
            out.extend_from_slice(name.as_bytes());
            out.push(b':');
            escape(value.as_bytes(), version, out);
        }
    }
    out.extend_from_slice(b"\ncontent-type:text/plain\nversion:1.0,1.1,1.2\ncontent-length:");
    push_decimal(out, refusal.body.len() as u64);
    out.extend_from_slice(b"\n\n");
    out.extend_from_slice(refusal.body.as_bytes());
    push_end(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_receipt_it_answers() {
        let mut out = Vec::new();
        push_error(&mut out, Version::V1_2, &Refusal::bad_command("FOO"), Some("r:1"), None);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "ERROR\nmessage:Bad command\nreceipt-id:r\\c1\ncontent-type:text/plain\nversion:1.0,1.1,1.2\n\
             content-length:34\n\nCould not interpret command \"FOO\"\n\0\n"
        );
    }
}
