//! The byte stream under a pump.

use std::io;

/// The byte stream under a pump. No call blocks: if one cannot make progress, the stream wakes the connection when it
/// can.
pub trait Stream {
    /// Reads available bytes into `space`. `None`: nothing yet. `Some(0)`: the end of the stream.
    ///
    /// # Errors
    /// The stream is broken.
    fn read(&mut self, space: &mut [u8]) -> io::Result<Option<usize>>;

    /// As [`Stream::read`], appending at most `bytes_max` to `onto`, which has room for them.
    ///
    /// # Errors
    /// The stream is broken.
    fn read_onto(&mut self, onto: &mut Vec<u8>, bytes_max: usize) -> io::Result<Option<usize>>;

    /// Whether a read would return something (or the end, or an error) now. If not, the connection is woken when it would.
    ///
    /// # Errors
    /// The stream is broken.
    fn has_more(&mut self) -> io::Result<bool>;

    /// Writes as much of `bytes` as the stream takes, and returns how much that was. If that was not all, the connection is
    /// woken when the stream takes more.
    ///
    /// # Errors
    /// The stream is broken.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Memory of the stream's own buffers: data that is encrypted and not sent, or received and not decrypted. It is counted like
    /// the connection's buffers.
    fn buffered(&self) -> usize {
        0
    }
}
