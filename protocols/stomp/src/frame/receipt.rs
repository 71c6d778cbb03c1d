//! RECEIPT: the frame that asked for it was handled.

use super::escape::escape;
use super::{Version, push_end};

/// Appends a RECEIPT frame.
pub(crate) fn push_receipt(out: &mut Vec<u8>, version: Version, receipt: &str) {
    out.extend_from_slice(b"RECEIPT\nreceipt-id:");
    escape(receipt.as_bytes(), version, out);
    out.extend_from_slice(b"\n\n");
    push_end(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipt_ids_are_escaped_for_the_version() {
        let mut out = Vec::new();
        push_receipt(&mut out, Version::V1_2, "a:1");
        push_receipt(&mut out, Version::V1_0, "a:1");
        assert_eq!(out, b"RECEIPT\nreceipt-id:a\\c1\n\n\0\nRECEIPT\nreceipt-id:a:1\n\n\0\n");
    }
}
