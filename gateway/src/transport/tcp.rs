//! Plain TCP.

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

/// See the module.
pub(crate) struct Tcp(TcpStream);

/// A silent peer is asked after this long, then this often; after so many questions without an answer it is gone. (Linux
/// asks after two hours by default: too late for whoever waits for a will, or for the deliveries it holds.)
const KEEP_ALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10))
    .with_retries(6);

impl Tcp {
    /// Registers the socket with the runtime of this thread.
    pub(super) fn new(socket: std::net::TcpStream) -> io::Result<Tcp> {
        TcpStream::from_std(socket).map(Tcp)
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }

    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_ready(cx)
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    pub(super) fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.0.take_error()
    }

    pub(super) fn keep_alive(&self) -> io::Result<()> {
        SockRef::from(&self.0).set_tcp_keepalive(&KEEP_ALIVE)
    }
}
