//! The client's side of a connection: what it sends, receives, and still has to answer.

use super::book::Book;

/// A client of one protocol.
pub(crate) trait Wire {
    /// Bytes that log in.
    fn hello(&mut self, detail: u8) -> Vec<u8>;

    /// Well-formed bytes: the `index`th thing that a client can send; `detail` chooses what it is about.
    fn phrase(&mut self, index: u8, detail: u8) -> Vec<u8>;

    /// A publish to the safe queue that is to be confirmed. Empty if this protocol or this connection cannot do that.
    fn publish_safely(&mut self, book: &mut Book) -> Vec<u8> {
        let _ = book;
        Vec::new()
    }

    /// Settles the oldest unsettled delivery; `detail` chooses how.
    fn settle(&mut self, detail: u8) -> Vec<u8>;

    /// Reads the first whole frame, and appends to `answer` what the protocol requires. Returns the frame's length, or 0
    /// if it is not complete. Panics at bytes that no server may send.
    fn receive(&mut self, octets: &[u8], answer: &mut Vec<u8>, book: &mut Book) -> usize;
}
