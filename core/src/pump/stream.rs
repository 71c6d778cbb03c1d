//! The byte stream under a pump.

use std::io;

/// The byte stream under a pump. None of its calls waits: where one cannot go on, the stream has the connection's next
/// turn come once it can.
pub trait Stream {
    /// Reads what there is into `space`. `None`: nothing yet. `Some(0)`: nothing will come any more.
    ///
    /// # Errors
    /// The stream is broken.
    fn read(&mut self, space: &mut [u8]) -> io::Result<Option<usize>>;

    /// As [`Stream::read`], appending at most `bytes_max` to `onto`, which has room for them.
    ///
    /// # Errors
    /// The stream is broken.
    fn read_onto(&mut self, onto: &mut Vec<u8>, bytes_max: usize) -> io::Result<Option<usize>>;

    /// Whether a read would bring something (or an end, or an error) right now. If not, there is a turn once it would.
    ///
    /// # Errors
    /// The stream is broken.
    fn has_more(&mut self) -> io::Result<bool>;

    /// Writes as much of `bytes` as the stream takes, and returns how much that was. After less than all of it there is a
    /// turn once the stream takes more.
    ///
    /// # Errors
    /// The stream is broken.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Memory that the stream uses for what is under way: encrypted and not sent, received and not decrypted. It counts like the
    /// connection's own buffers.
    fn buffered(&self) -> usize {
        0
    }
}
