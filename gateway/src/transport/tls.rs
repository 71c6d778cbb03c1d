//! TLS over TCP: rustls without I/O of its own, fed from the socket.
//!
//! Its buffers are bounded. Incoming: one incomplete record (18 KiB; during the handshake one message, 64 KiB), and
//! decrypted bytes that are not read yet, at most those that one read from the socket completed. Outgoing: one record,
//! because the next one is made only after the socket has accepted the last.

use super::Tcp;
use crate::driver::next_round;
use crate::tls::{Port, Settings};
use gatepost_core::command::Certificate;
use rustls::{IoState, ServerConnection};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::ReadBuf;

/// A connection whose handshake is done.
pub(crate) struct Tls {
    tcp: Tcp,
    session: Box<ServerConnection>,
    /// Bytes that are decrypted and not read yet.
    readable: usize,
    /// Estimated bytes of an incomplete record; rustls does not report them.
    unfinished: usize,
    /// The peer has sent close_notify or closed the socket.
    ended: bool,
    /// It has sent close_notify only, so it may still read our output.
    hears: bool,
    /// An error that came together with data: the data is returned first, and the next read returns this.
    broken: Option<io::Error>,
}

/// Maximum reads from the socket in one read of the connection; rustls reads 4 KiB each time.
const PULLS_PER_READ: usize = 16;
/// Maximum octets in a record (RFC 8446 5.1).
const RECORD: usize = 16 << 10;
/// The same with encryption overhead (RFC 5246 6.2.3, the older and larger).
const RECORD_ON_THE_WIRE: usize = RECORD + 2048 + 5;

impl Tls {
    /// Reads until `buffer` is full or the socket is empty, within bounds.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        for _ in 0..PULLS_PER_READ {
            self.take(buffer)?;
            if buffer.remaining() == 0 || self.ended {
                return Poll::Ready(Ok(()));
            }
            match self.pull(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) if buffer.filled().len() > before => {
                    self.broken = Some(error);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if buffer.filled().len() > before => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.take(buffer)?;
        if buffer.filled().len() == before && !self.ended {
            // Empty records: other connections get their turn before the next ones.
            next_round(cx);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.readable > 0 || self.ended || self.broken.is_some() {
            return Poll::Ready(Ok(()));
        }
        self.tcp.poll_more(cx)
    }

    /// Writes `bytes` a record at a time, the next one only once the socket has accepted the last.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        let taken = self.session.writer().write(&bytes[..bytes.len().min(RECORD)])?;
        match self.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // The socket wakes the task when it takes the rest.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    /// Writes records, alerts and tickets that are not sent yet.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        push(&mut self.session, &mut self.tcp, cx)
    }

    /// Sends `close_notify` (RFC 8446 6.1), then ends the socket's output.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Has an effect only the first time.
        self.session.send_close_notify();
        ready!(self.poll_flush(cx))?;
        self.tcp.poll_close(cx)
    }

    /// Whether the peer still receives although it sends no more. It waits for our `close_notify` then (RFC 8446 6.1).
    pub(super) fn hears(&self) -> bool {
        self.hears
    }

    /// Memory that its buffers hold.
    pub(super) fn buffered(&self) -> usize {
        let unsent = if self.session.wants_write() {
            RECORD_ON_THE_WIRE
        } else {
            0
        };
        self.readable + self.unfinished + unsent
    }

    pub(super) fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.tcp.take_error()
    }

    pub(super) fn keep_alive(&self) -> io::Result<()> {
        self.tcp.keep_alive()
    }

    /// Returns decrypted bytes.
    fn take(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        while self.readable > 0 && buffer.remaining() > 0 {
            let taken = self.session.reader().read(buffer.initialize_unfilled())?;
            if taken == 0 {
                break;
            }
            self.readable = self.readable.saturating_sub(taken);
            buffer.advance(taken);
        }
        Ok(())
    }

    /// Reads from the socket once, and decrypts what is complete.
    fn pull(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (count, state) = ready!(pull(&mut self.session, &mut self.tcp, cx))?;
        let readable = state.plaintext_bytes_to_read();
        // The bytes after a completed record came with this read.
        let unfinished = if readable > self.readable {
            count
        } else {
            self.unfinished + count
        };
        self.unfinished = unfinished.min(RECORD_ON_THE_WIRE);
        self.readable = readable;
        // Many peers close without `close_notify`. Each protocol ends a connection in its own way, so that is accepted.
        self.ended = count == 0 || state.peer_has_closed();
        self.hears = count > 0 && state.peer_has_closed();
        if state.tls_bytes_to_write() > 0 {
            // Sends the answer to a key update. If the socket is full, it wakes the task, which continues in its turn.
            let _ = self.poll_flush(cx)?;
        }
        Poll::Ready(Ok(()))
    }
}

/// A connection whose handshake is in progress.
pub(crate) struct Handshake {
    tcp: Tcp,
    port: Arc<Port>,
    /// Made when the first byte has come: it is large, and a silent peer does not need it.
    session: Option<(Box<ServerConnection>, Settings)>,
}

/// The state after a handshake, and the content of the peer's certificate.
type Agreed = (IoState, Option<Arc<Certificate>>);

/// A connection that is ready, and the content of the peer's certificate.
pub(crate) type Shaken = (Tls, Option<Arc<Certificate>>);

/// Why there is no TLS connection.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The peer has gone.
    Gone(io::Error),
    /// It does not speak TLS. These were its first bytes.
    PlainText(Vec<u8>),
    /// TLS failed for this reason. The peer is told with an alert.
    Tls(rustls::Error),
    /// The time limit has passed.
    TooSlow,
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Refused {
        match error.downcast::<rustls::Error>() {
            Ok(error) => Refused::Tls(error),
            Err(error) => Refused::Gone(error),
        }
    }
}

/// Maximum reads from the socket in one turn. A handshake without a client certificate takes two.
const PULLS_PER_TURN: usize = 4;
/// The first record of TLS is a handshake (RFC 8446 5.1). None of our protocols begins with that byte.
const HANDSHAKE: u8 = 0x16;
/// Bytes that are kept of a peer that does not speak TLS, to guess its protocol.
const FIRST_BYTES: usize = 16;

impl Handshake {
    pub(super) fn new(tcp: Tcp, port: Arc<Port>) -> Handshake {
        Handshake {
            tcp,
            port,
            session: None,
        }
    }

    /// The listener it came to.
    pub(super) fn port(&self) -> &Port {
        &self.port
    }

    /// One turn: a few reads at most, and at most one signature, which is the expensive part.
    pub(super) fn poll(mut self: Box<Self>, cx: &mut Context<'_>) -> Progress {
        match self.advance(cx) {
            Poll::Pending => Progress::Pending(self),
            Poll::Ready(Err(refused)) => Progress::Refused(self, refused),
            Poll::Ready(Ok((state, certificate))) => match self.session {
                Some((session, _)) => Progress::Done((
                    Tls {
                        tcp: self.tcp,
                        session,
                        // The client's first data may have come with the end of its handshake.
                        readable: state.plaintext_bytes_to_read(),
                        unfinished: 0,
                        ended: state.peer_has_closed(),
                        hears: state.peer_has_closed(),
                        broken: None,
                    },
                    certificate,
                )),
                None => Progress::Pending(self),
            },
        }
    }

    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Result<Agreed, Refused>> {
        let Handshake { tcp, port, session } = self;
        let (session, settings) = match session {
            Some(session) => session,
            None => {
                ready!(look(tcp, cx))?;
                let (new, settings) = port.accept().map_err(Refused::Tls)?;
                session.insert((Box::new(new), settings))
            }
        };
        for _ in 0..PULLS_PER_TURN {
            ready!(push(session, tcp, cx))?;
            if !session.is_handshaking() {
                let state = session.process_new_packets().map_err(Refused::Tls)?;
                let certificate = settings.proved(session).map_err(Refused::Tls)?;
                return Poll::Ready(Ok((state, certificate)));
            }
            let (count, _) = ready!(pull(session, tcp, cx))?;
            if count == 0 {
                return Poll::Ready(Err(Refused::Gone(io::ErrorKind::UnexpectedEof.into())));
            }
        }
        next_round(cx);
        Poll::Pending
    }

    /// After a refusal, sends the alert, then ignores input until the peer closes. Closing at once would reset the
    /// connection and could destroy the alert.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some((session, _)) = &mut self.session {
            ready!(push(session, &mut self.tcp, cx))?;
        }
        ready!(self.tcp.poll_close(cx))?;
        let mut waste = [0; 1024];
        for _ in 0..PULLS_PER_TURN {
            let mut buffer = ReadBuf::new(&mut waste);
            ready!(self.tcp.poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        next_round(cx);
        Poll::Pending
    }
}

/// The result of a turn of a handshake.
pub(super) enum Progress {
    Pending(Box<Handshake>),
    Done(Shaken),
    /// With the handshake, for [`Handshake::poll_end`].
    Refused(Box<Handshake>, Refused),
}

/// Whether the peer speaks TLS. Its bytes can be read again.
fn look(tcp: &mut Tcp, cx: &mut Context<'_>) -> Poll<Result<(), Refused>> {
    let mut space = [0; FIRST_BYTES];
    let mut first = ReadBuf::new(&mut space);
    ready!(tcp.poll_peek(cx, &mut first))?;
    Poll::Ready(match first.filled() {
        [] => Err(Refused::Gone(io::ErrorKind::UnexpectedEof.into())),
        [HANDSHAKE, ..] => Ok(()),
        other => Err(Refused::PlainText(other.to_vec())),
    })
}

/// Writes the session's output.
fn push(session: &mut ServerConnection, tcp: &mut Tcp, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    while session.wants_write() {
        match session.write_tls(&mut Wire { tcp, cx }) {
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
    Poll::Ready(Ok(()))
}

/// Reads once from the socket. Returns the number of bytes, and the state after it.
fn pull(session: &mut ServerConnection, tcp: &mut Tcp, cx: &mut Context<'_>) -> Poll<io::Result<(usize, IoState)>> {
    let count = match session.read_tls(&mut Wire { tcp, cx }) {
        Ok(count) => count,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
        Err(error) => return Poll::Ready(Err(error)),
    };
    match session.process_new_packets() {
        Ok(state) => Poll::Ready(Ok((count, state))),
        Err(error) => {
            // The alert tells the peer why. If the socket cannot accept it now, it is lost.
            let _ = push(session, tcp, cx);
            Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)))
        }
    }
}

/// The socket as rustls reads and writes it, during one poll of its task.
struct Wire<'a, 'cx> {
    tcp: &'a mut Tcp,
    cx: &'a mut Context<'cx>,
}

impl Read for Wire<'_, '_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(space);
        match self.tcp.poll_read(self.cx, &mut buffer) {
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            Poll::Ready(read) => read.map(|()| buffer.filled().len()),
        }
    }
}

impl Write for Wire<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.tcp.poll_write(self.cx, bytes) {
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            Poll::Ready(written) => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
