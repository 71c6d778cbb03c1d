//! Plain TCP.

use socket2::{SockRef, TcpKeepalive};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

/// A TCP connection.
pub(crate) struct Tcp {
    stream: TcpStream,
    /// The first bytes of the peer, for the log.
    first: [u8; FIRST],
    /// How many of them are filled.
    first_len: u8,
}

/// Enough to tell TLS, HTTP and our protocols apart.
const FIRST: usize = 10;

/// TCP keep-alive: the first probe comes after this much silence, further ones at this interval; after this many
/// without an answer the peer counts as gone. (Linux probes after two hours by default, too late for the peer's will
/// and its unsettled deliveries.)
const KEEP_ALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10))
    .with_retries(6);

impl Tcp {
    /// Registers the socket with the runtime of this thread.
    pub(super) fn new(socket: std::net::TcpStream) -> io::Result<Tcp> {
        let stream = TcpStream::from_std(socket)?;
        Ok(Tcp {
            stream,
            first: [0; FIRST],
            first_len: 0,
        })
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if self.first_len == 0 {
            let read = buffer.filled().get(before..).unwrap_or_default();
            for (kept, byte) in self.first.iter_mut().zip(read) {
                *kept = *byte;
                self.first_len += 1;
            }
        }
        read
    }

    /// As `poll_read`, but the bytes can be read again.
    pub(super) fn poll_peek(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_peek(cx, buffer).map_ok(|_| ())
    }

    /// The next read counts as the first.
    pub(super) fn forget_first_bytes(&mut self) {
        self.first_len = 0;
    }

    /// The first bytes that the first read returned.
    pub(super) fn first_bytes(&self) -> &[u8] {
        self.first.get(..usize::from(self.first_len)).unwrap_or_default()
    }

    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_read_ready(cx)
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    pub(super) fn poll_write_parts(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    pub(super) fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.stream.take_error()
    }

    pub(super) fn keep_alive(&self) -> io::Result<()> {
        SockRef::from(&self.stream).set_tcp_keepalive(&KEEP_ALIVE)
    }
}
