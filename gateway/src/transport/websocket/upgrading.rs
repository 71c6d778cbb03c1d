//! Reads and answers the HTTP request for a WebSocket on a transport. After a refusal it reads on until the peer has the answer.

use super::upgrade::{self, Rules, Verdict};
use crate::driver::next_round;
use crate::transport::Transport;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead as _, ReadBuf};

/// Bytes of one read.
const READ: usize = 2 << 10;

/// A transport on which the upgrade takes place.
pub(crate) struct Upgrading {
    pub(crate) transport: Transport,
    /// The part of the request that was received.
    head: Vec<u8>,
    /// The unwritten part of the answer.
    answer: Vec<u8>,
    written: usize,
    agreed: Option<Agreed>,
    closed: bool,
}

/// An accepted request.
#[derive(Clone, Copy)]
struct Agreed {
    /// Bytes of the request.
    used: usize,
    trusted: bool,
}

/// Why there is no WebSocket.
pub(crate) enum Refused {
    /// The peer has closed the connection.
    Gone(io::Error),
    /// The request was refused and an answer is on its way; the text is for our log.
    Told(String),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Refused {
        Refused::Gone(error)
    }
}

impl Upgrading {
    pub(crate) fn new(transport: Transport) -> Upgrading {
        Upgrading {
            transport,
            head: Vec::new(),
            answer: Vec::new(),
            written: 0,
            agreed: None,
            closed: false,
        }
    }

    /// Ready when the answer of an accepted request is written. Returns whether the request is trusted.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, rules: &Rules) -> Poll<Result<bool, Refused>> {
        let agreed = loop {
            if let Some(agreed) = self.agreed {
                break agreed;
            }
            ready!(self.read(cx))?;
            match upgrade::read(&self.head, rules) {
                Verdict::More => {}
                Verdict::Accept { used, answer, trusted } => {
                    self.answer = answer.into_bytes();
                    self.agreed = Some(Agreed { used, trusted });
                }
                Verdict::Refuse { answer, why } => {
                    self.answer = answer.into_bytes();
                    return Poll::Ready(Err(Refused::Told(why)));
                }
            }
        };
        ready!(self.write(cx))?;
        Poll::Ready(Ok(agreed.trusted))
    }

    /// The transport, and bytes that followed the request.
    pub(crate) fn into_parts(mut self) -> (Transport, Vec<u8>) {
        let used = self.agreed.map_or(0, |agreed| agreed.used.min(self.head.len()));
        let early = self.head.split_off(used);
        (self.transport, early)
    }

    /// After a refusal: writes it and waits for the peer to close. If we closed while the peer is still sending, the peer's
    /// system could discard the answer.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.closed {
            if ready!(self.write(cx)).is_err() || ready!(self.transport.poll_close(cx)).is_err() {
                return Poll::Ready(());
            }
            self.closed = true;
        }
        let mut waste = [0; READ];
        let mut waste = ReadBuf::new(&mut waste);
        let read = ready!(Pin::new(&mut self.transport).poll_read(cx, &mut waste));
        if read.is_err() || waste.filled().is_empty() {
            return Poll::Ready(());
        }
        // The peer may send without end, so let other connections have their turns.
        next_round(cx);
        Poll::Pending
    }

    /// Reads until parsing may succeed: a line has ended, or these are the first bytes, or there are too many. (Parsing after
    /// every byte would take quadratic time.)
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut space = [0; READ];
            let mut space = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut self.transport).poll_read(cx, &mut space))?;
            let read = space.filled();
            if read.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let first = self.head.is_empty();
            self.head.extend_from_slice(read);
            if first || read.contains(&b'\n') || self.head.len() >= upgrade::HEAD_BYTES_MAX {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Ready when the whole answer is written.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let rest = self.answer.get(self.written..).unwrap_or_default();
        self.written += self.transport.write(cx, rest)?;
        if self.written < self.answer.len() {
            return Poll::Pending;
        }
        self.transport.poll_flush(cx)
    }
}
