//! What carries a connection's bytes: TCP, TLS, Unix socket, WebSocket, QUIC. An enum, matched once per read and once per write
//! of a turn. Nothing here is called per message.
//!
//! A new transport is a new variant. Each variant answers:
//!
//! - `poll_more`: whether a read would return something now. Bytes that are already decrypted or unframed count. Only without
//!   any is the socket polled, which then wakes the task.
//! - `poll_flush`: writes the transport's own output (a TLS alert, a pong, a close frame), which no session knows of.
//! - `poll_close`: tells the peer that nothing follows, in the transport's own way.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod http;
mod opening;
pub(crate) mod proxy;
pub(crate) mod quic;
mod tcp;
mod tls;
mod unix;
mod websocket;

pub(crate) use http::HttpStream;
pub(crate) use opening::{Door, Opened, Opening, Socket};
pub(crate) use websocket::upgrade::Rules as UpgradeRules;

use gatepost_core::time::Time;
use quic::Quic;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tcp::Tcp;
use tls::Tls;
use tokio::io::{AsyncRead, ReadBuf};
use unix::Unix;
use websocket::WebSocket;

/// The transport of one connection.
pub(crate) enum Transport {
    Tcp(Tcp),
    Tls(Tls),
    Unix(Unix),
    Quic(Box<Quic>),
    /// Over one of the other variants.
    WebSocket(Box<WebSocket>),
}

impl Transport {
    pub(crate) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Transport::Tcp(tcp) => tcp.poll_more(cx),
            Transport::Tls(tls) => tls.poll_more(cx),
            Transport::Unix(unix) => unix.poll_more(cx),
            Transport::Quic(quic) => quic.poll_more(cx),
            Transport::WebSocket(websocket) => websocket.poll_more(cx),
        }
    }

    /// Writes until the transport takes no more. Returns the bytes it took; if those are not all, it wakes the task.
    pub(crate) fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Tcp(tcp) => write_all(bytes, |rest| tcp.poll_write(cx, rest)),
            Transport::Tls(tls) => write_all(bytes, |rest| tls.poll_write(cx, rest)),
            Transport::Unix(unix) => write_all(bytes, |rest| unix.poll_write(cx, rest)),
            Transport::Quic(quic) => write_all(bytes, |rest| quic.poll_write(cx, rest)),
            Transport::WebSocket(websocket) => websocket.write(cx, bytes),
        }
    }

    /// As [`Transport::write`], `head` before `bytes`, in one system call where the transport can. Returns how many bytes
    /// of both it took.
    fn write_parts(&mut self, cx: &mut Context<'_>, head: &[u8], bytes: &[u8]) -> io::Result<usize> {
        let first = match self {
            _ if head.is_empty() => Poll::Ready(Ok(0)),
            Transport::Tcp(tcp) => tcp.poll_write_parts(cx, &[IoSlice::new(head), IoSlice::new(bytes)]),
            Transport::Unix(unix) => unix.poll_write_parts(cx, &[IoSlice::new(head), IoSlice::new(bytes)]),
            Transport::Tls(_) | Transport::Quic(_) | Transport::WebSocket(_) => Poll::Ready(Ok(0)),
        };
        let mut taken = match first {
            Poll::Pending => return Ok(0),
            Poll::Ready(taken) => taken?,
        };
        if let Some(rest) = head.get(taken..).filter(|rest| !rest.is_empty()) {
            taken += self.write(cx, rest)?;
        }
        match taken.checked_sub(head.len()) {
            Some(at) => Ok(taken + self.write(cx, bytes.get(at..).unwrap_or_default())?),
            None => Ok(taken),
        }
    }

    /// Also called once a turn, to send what an earlier write left in a buffer.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            // Nothing is buffered here: the kernel or quinn has it all.
            Transport::Tcp(_) | Transport::Unix(_) | Transport::Quic(_) => Poll::Ready(Ok(())),
            Transport::Tls(tls) => tls.poll_flush(cx),
            Transport::WebSocket(websocket) => websocket.poll_flush(cx),
        }
    }

    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Transport::Tcp(tcp) => tcp.poll_close(cx),
            Transport::Tls(tls) => tls.poll_close(cx),
            Transport::Unix(unix) => unix.poll_close(cx),
            Transport::Quic(quic) => quic.poll_close(),
            Transport::WebSocket(websocket) => websocket.poll_close(cx),
        }
    }

    /// Tells the transport that the session is over; `broken`: a read or a write has failed, or the peer has closed. Returns
    /// whether the peer can still receive what is written.
    pub(crate) fn end(&mut self, abnormal: bool, broken: bool) -> bool {
        match self {
            Transport::Tcp(_) | Transport::Unix(_) => !broken,
            Transport::Tls(tls) => !broken || tls.hears(),
            Transport::Quic(quic) => {
                if abnormal {
                    quic.ends_abnormally();
                }
                !broken
            }
            Transport::WebSocket(websocket) => {
                if abnormal {
                    websocket.ends_abnormally();
                }
                !broken || websocket.hears()
            }
        }
    }

    /// How long the peer may take to close after our last byte.
    pub(crate) fn linger(&self) -> Duration {
        match self {
            Transport::Tcp(_) | Transport::Tls(_) | Transport::Unix(_) | Transport::WebSocket(_) => {
                Duration::from_secs(1)
            }
            // Longer: the last packet may have to be retransmitted.
            Transport::Quic(_) => Duration::from_secs(2),
        }
    }

    /// When [`Transport::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        match self {
            Transport::Tcp(_) | Transport::Tls(_) | Transport::Unix(_) | Transport::Quic(_) => None,
            Transport::WebSocket(websocket) => websocket.poll_timeout(),
        }
    }

    /// Runs the transport's timers. `reading`: the session reads at present; if not, the peer's silence proves nothing, because we
    /// read no answer of it.
    ///
    /// # Errors
    /// The peer has vanished.
    pub(crate) fn handle_timeout(&mut self, cx: &mut Context<'_>, now: Time, reading: bool) -> io::Result<()> {
        match self {
            Transport::Tcp(_) | Transport::Tls(_) | Transport::Unix(_) | Transport::Quic(_) => Ok(()),
            Transport::WebSocket(websocket) => websocket.handle_timeout(cx, now, reading),
        }
    }

    /// Bytes of memory in the transport's own buffers.
    pub(crate) fn buffered(&self) -> usize {
        match self {
            Transport::Tcp(_) | Transport::Unix(_) => 0,
            Transport::Tls(tls) => tls.buffered(),
            Transport::Quic(quic) => quic.buffered(),
            Transport::WebSocket(websocket) => websocket.buffered(),
        }
    }

    /// What broke the socket, if something has. Resets are reported only to readers, so a connection that is not read
    /// has to ask.
    pub(crate) fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Transport::Tcp(tcp) => tcp.take_error(),
            Transport::Tls(tls) => tls.take_error(),
            Transport::Unix(unix) => unix.take_error(),
            Transport::Quic(quic) => Ok(quic.take_error()),
            Transport::WebSocket(websocket) => websocket.under().take_error(),
        }
    }

    /// The bytes read so far were the proxy's, not the client's.
    fn forget_first_bytes(&mut self) {
        if let Transport::Tcp(tcp) = self {
            tcp.forget_first_bytes();
        }
    }

    /// The first bytes of the peer on a plain socket, for the log.
    pub(crate) fn first_bytes(&self) -> &[u8] {
        match self {
            Transport::Tcp(tcp) => tcp.first_bytes(),
            Transport::Tls(_) | Transport::Unix(_) | Transport::Quic(_) | Transport::WebSocket(_) => &[],
        }
    }

    /// Whether the peer began with TLS on a plain-text listener.
    pub(crate) fn began_with_tls(&self) -> bool {
        matches!(self.first_bytes(), [0x16] | [0x16, 0x03, ..])
    }

    /// Turns on TCP keep-alive, for a session without heart-beats: otherwise nothing notices that the peer has
    /// vanished.
    pub(crate) fn keep_alive(&self) -> io::Result<()> {
        match self {
            Transport::Tcp(tcp) => tcp.keep_alive(),
            Transport::Tls(tls) => tls.keep_alive(),
            // The peer is a process on this machine; the kernel closes the socket when the process ends.
            Transport::Unix(_) => Ok(()),
            // QUIC pings from the start: `limits.quic_ping`.
            Transport::Quic(_) => Ok(()),
            Transport::WebSocket(websocket) => websocket.under().keep_alive(),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Tcp(tcp) => tcp.poll_read(cx, buffer),
            Transport::Tls(tls) => tls.poll_read(cx, buffer),
            Transport::Unix(unix) => unix.poll_read(cx, buffer),
            Transport::Quic(quic) => quic.poll_read(cx, buffer),
            Transport::WebSocket(websocket) => websocket.poll_read(cx, buffer),
        }
    }
}

fn write_all(bytes: &[u8], mut write: impl FnMut(&[u8]) -> Poll<io::Result<usize>>) -> io::Result<usize> {
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match write(rest) {
            Poll::Pending => break,
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => at += n,
            Poll::Ready(Err(error)) => return Err(error),
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_goes_on_until_the_socket_is_full() {
        let (mut room, mut got) = (4, Vec::new());
        let taken = write_all(b"abcdef", |rest| {
            let n = rest.len().min(room).min(3);
            if n == 0 {
                return Poll::Pending;
            }
            room -= n;
            got.extend_from_slice(&rest[..n]);
            Poll::Ready(Ok(n))
        });
        assert_eq!((taken.expect("written"), &got[..]), (4, &b"abcd"[..]));
    }
}
