//! WebSocket (RFC 6455): a layer over another transport that carries a session's stream of bytes in messages.
//!
//! ```text
//!   socket ──► decoder (unmasks in place) ──► session
//!   socket ◄── head and bytes, one write ◄─── session's output of a turn: one message
//!                  ▲ pong, ping, close: between messages
//! ```
//!
//! Messages are not collected and need no allocation: bytes are decoded in the read buffer. The output of a turn is one
//! message, so a message ends where one of the session's frames ends. permessage-deflate is not offered: a few bytes
//! could expand to very many, and devices send little text.

pub(super) mod frame;
mod sender;
pub(super) mod upgrade;
pub(super) mod upgrading;
mod utf8;

#[cfg(test)]
mod tests;

use super::Transport;
use crate::driver::next_round;
use frame::{Decoder, End};
use gatepost_core::session;
use gatepost_core::time::Time;
use sender::Sender;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead as _, ReadBuf};

/// A WebSocket over another transport.
pub(crate) struct WebSocket {
    under: Transport,
    decoder: Decoder,
    sender: Sender,
    /// Bytes that were read together with the upgrade request and follow it.
    early: Vec<u8>,
    keep_alive: KeepAlive,
}

/// Limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Payload of one message, at most.
    pub message_max: u64,
    /// A ping is sent after this much silence; zero: never.
    pub ping_after: Duration,
}

/// Sends a ping when the peer was silent for an interval, and ends the connection when it is silent for another one.
struct KeepAlive {
    interval: Duration,
    due: Option<Time>,
    /// The peer has sent something since `due` was set.
    heard: bool,
    asked: bool,
}

/// Maximum reads without payload in one turn. Otherwise a peer that sends only control frames would delay other
/// connections.
const READS: usize = 16;
/// Maximum bytes of such reads in one turn: some thousand pings.
const SILENT_BYTES: usize = 16 * 1024;

impl WebSocket {
    /// Memory of its buffers and those of the transport below.
    pub(super) fn buffered(&self) -> usize {
        self.under.buffered() + self.early.capacity()
    }

    /// A WebSocket over `under`. `answer` is the answer to the upgrade request, still to be written; `early` are bytes that
    /// followed the request.
    pub(super) fn new(
        under: Transport,
        protocol: &session::WebSocket,
        limits: Limits,
        early: &[u8],
        now: Time,
    ) -> WebSocket {
        WebSocket {
            under,
            decoder: Decoder::new(protocol.text, limits.message_max),
            sender: Sender::new(protocol.text),
            early: early.to_vec(),
            keep_alive: KeepAlive {
                interval: limits.ping_after,
                due: (!limits.ping_after.is_zero()).then_some(now + limits.ping_after),
                heard: false,
                asked: false,
            },
        }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut silent = 0;
        for _ in 0..READS {
            match self.decoder.end() {
                None => {}
                Some(End::Fault(fault)) if !self.sender.has_closed() => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault.text)));
                }
                // After a fault the bytes are not decoded; the driver reads them until the peer closes.
                Some(End::Fault(_)) => return Pin::new(&mut self.under).poll_read(cx, buffer),
                Some(End::Closed(_)) => return Poll::Ready(Ok(())),
            }
            let space = buffer.initialize_unfilled();
            let size = ready!(read_under(&mut self.under, &mut self.early, cx, space))?;
            if size == 0 {
                return Poll::Ready(Ok(()));
            }
            self.keep_alive.heard = true;
            let payload = self.decoder.decode(space.get_mut(..size).unwrap_or_default());
            // A write error also shows at the next read.
            let _ = self.write_control(cx);
            if payload > 0 {
                buffer.advance(payload);
                return Poll::Ready(Ok(()));
            }
            silent += size;
            if silent >= SILENT_BYTES {
                break;
            }
        }
        // Let other connections have their turns.
        next_round(cx);
        Poll::Pending
    }

    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.decoder.end().is_some() || !self.early.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.under.poll_more(cx)
    }

    pub(super) fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<usize> {
        let WebSocket {
            under, decoder, sender, ..
        } = self;
        sender.write(decoder, bytes, |head, bytes| under.write_parts(cx, head, bytes))
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.write_control(cx)? {
            return Poll::Pending;
        }
        self.under.poll_flush(cx)
    }

    /// Sends a close frame, or answers the peer's (RFC 6455 5.5.1).
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sender.close(self.decoder.end());
        ready!(self.poll_flush(cx))?;
        self.under.poll_close(cx)
    }

    /// Notes that the session ended because of an error, for the close code.
    pub(super) fn ends_abnormally(&mut self) {
        self.sender.ends_abnormally();
    }

    /// Whether the peer still receives although decoding has ended. The session reads no more then, but output must
    /// reach the peer: it is closing, or must be told its mistake.
    pub(super) fn hears(&self) -> bool {
        self.decoder.end().is_some()
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.keep_alive.due
    }

    /// Handles the keep-alive. `reading`: whether the session reads; while it does not, the peer's silence means nothing.
    pub(super) fn handle_timeout(&mut self, cx: &mut Context<'_>, now: Time, reading: bool) -> io::Result<()> {
        let keep_alive = &mut self.keep_alive;
        if keep_alive.due.is_none_or(|due| now < due) {
            return Ok(());
        }
        keep_alive.due = Some(now + keep_alive.interval);
        if std::mem::take(&mut keep_alive.heard) || !reading {
            keep_alive.asked = false;
            return Ok(());
        }
        if std::mem::replace(&mut keep_alive.asked, true) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer answers no ping"));
        }
        self.sender.ping();
        self.write_control(cx).map(drop)
    }

    pub(super) fn under(&self) -> &Transport {
        &self.under
    }

    /// Writes waiting control frames. Returns whether all are written.
    fn write_control(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let WebSocket {
            under, decoder, sender, ..
        } = self;
        sender.write_control(decoder, |bytes| under.write(cx, bytes))
    }
}

fn read_under(
    under: &mut Transport,
    early: &mut Vec<u8>,
    cx: &mut Context<'_>,
    space: &mut [u8],
) -> Poll<io::Result<usize>> {
    if early.is_empty() {
        let mut raw = ReadBuf::new(space);
        ready!(Pin::new(under).poll_read(cx, &mut raw))?;
        return Poll::Ready(Ok(raw.filled().len()));
    }
    let size = early.len().min(space.len());
    for (to, from) in space.iter_mut().zip(early.drain(..size)) {
        *to = from;
    }
    if early.is_empty() {
        // Frees the memory of the opening.
        *early = Vec::new();
    }
    Poll::Ready(Ok(size))
}
