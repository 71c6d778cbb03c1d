//! QUIC: one bidirectional stream, which the client opens, carries the session like a socket.
//!
//! quinn handles packets, their loss, a client's change of address, and windows. The windows in `tls::quic` bound its
//! buffers: data that the peer has not acknowledged, and data that has arrived and is not read.
//!
//! Closing a QUIC connection discards data still on its way. So a connection ends in this order: our last bytes, the end of our
//! stream, then the client closes; if it does not in time, we do.

mod arriving;
mod endpoint;

pub(crate) use arriving::{Arrival, Arriving, Unfit};
pub(crate) use endpoint::Endpoint;
pub(crate) use quinn::Incoming;

use crate::tls::quic::STREAM_WINDOW;
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::task::{Context, Poll, ready};
use tokio::io::ReadBuf;

/// The session ended normally, or the peer closed first.
const DONE: VarInt = VarInt::from_u32(0);
/// The session ended because of a client's error. Its protocol has reported the error, if it can.
const BROKEN_OFF: VarInt = VarInt::from_u32(1);
/// The client opened no stream in time.
const NO_STREAM: VarInt = VarInt::from_u32(3);
/// A stream beside the one that carries the session.
const FURTHER_STREAM: VarInt = VarInt::from_u32(4);

/// Why a connection is closed over streams beside its session's.
const TOO_MANY_STREAMS: &str = "more further streams than limits.quic_further_streams";

/// A node's QUIC counters.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Handshakes in progress, which end when the client has opened its stream.
    pub(crate) underway: AtomicUsize,
    /// Clients that were asked to prove their addresses.
    pub(crate) retries: AtomicU64,
    /// Refused streams beside a session's.
    pub(crate) streams_refused: AtomicU64,
}

/// A connection whose stream is open.
pub(crate) struct Quic {
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    /// Bytes that `poll_more` read ahead; the next read returns them first.
    ahead: Vec<u8>,
    /// The last read filled the buffer, so there may be more.
    has_more: bool,
    /// The last write was not accepted: the window is full until the peer acknowledges data.
    is_full: bool,
    /// The code to close with.
    code: VarInt,
}

/// How many bytes `poll_more` reads ahead.
const LOOK: usize = 512;
/// Maximum bytes written and not acknowledged.
const UNCONFIRMED: usize = 128 << 10;

impl Quic {
    fn new(connection: Connection, send: SendStream, receive: RecvStream) -> Quic {
        Quic {
            connection,
            send,
            receive,
            ahead: Vec::new(),
            has_more: false,
            is_full: false,
            code: DONE,
        }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(self.ahead.drain(..count).as_slice());
            if self.ahead.is_empty() {
                self.ahead = Vec::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        self.has_more = false;
        ready!(self.receive.poll_read_buf(cx, buffer)).map_err(unread)?;
        self.has_more = buffer.filled().len() > before && buffer.remaining() == 0;
        Poll::Ready(Ok(()))
    }

    /// quinn does not report whether there is something to read, so a little of it is read.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut space = [0; LOOK];
        let mut buffer = ReadBuf::new(&mut space);
        ready!(self.poll_read(cx, &mut buffer))?;
        self.ahead.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.send).poll_write(cx, bytes).map_err(unwritten);
        self.is_full = written.is_pending();
        written
    }

    /// Ends our stream. The connection stays open, so that the last bytes and this end arrive.
    pub(super) fn poll_close(&mut self) -> Poll<io::Result<()>> {
        // Has an effect only the first time.
        let _ = self.send.finish();
        Poll::Ready(Ok(()))
    }

    /// The session ended because of an error.
    pub(super) fn ends_abnormally(&mut self) {
        self.code = BROKEN_OFF;
    }

    /// Upper bound of the bytes in its buffers; quinn does not report the exact number.
    pub(super) fn buffered(&self) -> usize {
        let unread = if self.has_more { STREAM_WINDOW as usize } else { 0 };
        let unconfirmed = if self.is_full { UNCONFIRMED } else { 0 };
        self.ahead.len() + unread + unconfirmed
    }

    /// What broke the connection.
    pub(super) fn take_error(&self) -> Option<io::Error> {
        self.connection.close_reason().map(io::Error::from)
    }
}

impl Drop for Quic {
    fn drop(&mut self) {
        // The task that refuses further streams holds the connection too, so dropping ours does not close it.
        self.connection.close(self.code, b"");
    }
}

fn unread(error: ReadError) -> io::Error {
    match error {
        // The client's MQTT code, or 0. Either way nothing follows.
        ReadError::Reset(_) => io::ErrorKind::ConnectionReset.into(),
        // Before the session ends, nothing else on our side closes the connection.
        ReadError::ConnectionLost(ConnectionError::LocallyClosed) => io::Error::other(TOO_MANY_STREAMS),
        other => other.into(),
    }
}

fn unwritten(error: WriteError) -> io::Error {
    match error {
        WriteError::Stopped(_) => io::ErrorKind::BrokenPipe.into(),
        other => other.into(),
    }
}
