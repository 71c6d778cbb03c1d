//! Moves bytes between a connection's transport and its pump. What a turn does is decided in `gatepost_core::pump`.
//!
//! A connection is one task. Its socket, the engine, a login's answer or its timer wakes it, and each wake is one turn. A turn
//! borrows the buffers of its thread and never waits in the middle. So an idle connection keeps only its session, its socket
//! and a few words.

mod began;
mod desk;
mod place;
mod serving;
mod waking;

#[cfg(test)]
mod tests;

pub(crate) use serving::Serving;

use crate::logging::lines::LineKind;
use crate::logging::shown;
use crate::threads::with_figures;
use crate::transport::{Opened, Transport};
use crate::vhost::Vhost;
use began::Began;
use desk::Desk;
use gatepost_core::command::Peer;
use gatepost_core::pump::{Ended, Pump, Scratch, Stream, Turn};
use gatepost_core::time::{Now, Time};
use place::Place;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, ReadBuf};
use tokio::time::Sleep;
use waking::Waking;

/// While a connection is not read, its socket is checked for errors this often: the kernel reports resets only to
/// readers.
const LOOK: Duration = Duration::from_secs(5);
/// After a session ends, its remaining output may take this long to be written.
const FLUSH: Duration = Duration::from_secs(5);

/// A connection between two turns.
struct Connection {
    pump: Pump<Arc<Vhost>>,
    transport: Transport,
    waking: Arc<Waking>,
    phase: Phase,
    /// When the timer fires. It is reset only to an earlier time: most turns move the deadline later, and resetting costs.
    armed: Option<Time>,
    /// TCP keep-alive is on: the system checks whether the peer is still there.
    keeps_alive: bool,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The session is over, and the peer is to close first. Until then the end of our output is not signalled.
    Awaiting {
        until: Time,
    },
    /// The session is over; the rest of its output is being written.
    Flushing {
        until: Time,
    },
    /// All output is written, and the peer should close. It may still be sending: closing now would reset the
    /// connection, and the peer could lose our last bytes. So for a moment its bytes are read and dropped.
    Lingering {
        until: Time,
    },
    Done,
}

impl Connection {
    /// Must be called within the runtime that owns the sockets.
    fn open(mut place: Place, opened: Opened) -> Option<Connection> {
        let Opened {
            transport,
            peer,
            protocol,
            since,
        } = opened;
        place.speaks(protocol);
        let session = place.protocol()?.open(since, peer.clone());
        let config = place.node.config();
        let mut pump = Pump::new(session, peer, config.memory.per_connection_buffer.bytes());
        pump.set_stall(config.protection.slow_reader_timeout.0);
        Some(Connection {
            pump,
            transport,
            waking: Arc::new(Waking::new()),
            phase: Phase::Open,
            armed: None,
            keeps_alive: false,
            place,
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, timer: Pin<&mut Sleep>) -> Poll<()> {
        self.waking.introduce(cx.waker());
        with_figures(|figures| figures.turns.fetch_add(1, Ordering::Relaxed));
        let now = self.place.node.clock.now();
        self.armed = self.armed.filter(|at| now.monotonic < *at);
        if self.phase == Phase::Open
            && self.armed.is_none()
            && !self.pump.wants_input()
            && let Some(error) = self.transport.take_error().unwrap_or_else(Some)
        {
            // While reads are paused, a reset is noticed only if we ask the socket.
            self.pump.stop_writing(error);
        }
        if self.phase == Phase::Open {
            // An error here comes back at the next read or write.
            let _ = self.transport.poll_flush(cx);
        }
        self.keep_alive(cx, now);
        let mut again = self.turn(cx, scratch, now);
        again |= self.wind_up(cx, scratch, now);
        if self.phase == Phase::Done && self.pump.is_over() {
            return Poll::Ready(());
        }
        again |= self.arm(cx, timer);
        if !again && self.phase == Phase::Open && self.place.gives_way() {
            self.phase = Phase::Done;
            self.pump.break_off(&io::ErrorKind::TimedOut.into());
            return Poll::Ready(());
        }
        if again {
            next_round(cx);
        }
        Poll::Pending
    }

    /// Runs the transport's timers. A peer that does not answer counts as vanished, and the session ends.
    fn keep_alive(&mut self, cx: &mut Context<'_>, now: Now) {
        if self.phase != Phase::Open || self.transport.poll_timeout().is_none_or(|due| now.monotonic < due) {
            return;
        }
        let reading = self.pump.wants_input();
        if let Err(error) = self.transport.handle_timeout(cx, now.monotonic, reading) {
            let ended = self.pump.break_off(&error);
            self.end(now, &ended);
        }
    }

    /// A turn of the pump. Returns whether there is more to do at once.
    fn turn(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, now: Now) -> bool {
        let Connection {
            pump,
            transport,
            waking,
            place,
            ..
        } = self;
        let mut stream = Wired::new(cx, transport);
        let Turn { again, ended } = pump.turn(now, scratch, &mut Desk { place, waking }, &mut stream);
        stream.count();
        if stream.bytes_in > 0 && !self.place.heard {
            self.heard();
        }
        if let Some(ended) = ended {
            self.end(now, &ended);
        }
        again
    }

    /// The peer has sent its first bytes.
    fn heard(&mut self) {
        self.place.heard = true;
        if self.place.node.lines.admit(LineKind::Connected) {
            let (peer, protocol) = (peer_text(self.pump.peer()), self.place.protocol_name());
            let listener = &*self.place.terms.name;
            tracing::info!(peer, protocol, listener, "client connected");
        }
    }

    /// The session is over.
    fn end(&mut self, now: Now, ended: &Ended) {
        self.phase = if !self.transport.end(ended.abnormal, ended.broken) {
            Phase::Done
        } else if ended.peer_closes && !ended.broken {
            Phase::Awaiting {
                until: now.monotonic + self.transport.linger(),
            }
        } else {
            Phase::Flushing {
                until: now.monotonic + FLUSH,
            }
        };
        let (peer, protocol) = (peer_text(self.pump.peer()), self.place.protocol_name());
        let why = &*shown(&ended.why);
        if ended.stalled {
            self.place
                .node
                .protection
                .counts
                .slow_readers
                .fetch_add(1, Ordering::Relaxed);
        }
        let lines = &self.place.node.lines;
        let client = self.place.client.as_deref().map(shown);
        let client = client.as_deref();
        match self.pump.user() {
            Some(user) if ended.abnormal => {
                if lines.admit(LineKind::Lost) {
                    let (user, what) = (&*shown(user), if ended.broken { "lost" } else { "closed for an error" });
                    tracing::info!(peer, protocol, user, client, why, "connection {what}");
                }
            }
            Some(user) => {
                if lines.admit(LineKind::Closed) {
                    tracing::info!(peer, protocol, user = &*shown(user), client, why, "connection closed");
                }
            }
            // Port scans and health probes would fill the log at `info`.
            None if !self.place.heard => tracing::debug!(peer, protocol, why, "connection closed"),
            None => self.no_login(&peer, protocol, why),
        }
    }

    /// Logs a connection that never logged in. Its first bytes often show why.
    fn no_login(&self, peer: &str, protocol: &str, why: &str) {
        let lines = &self.place.node.lines;
        let listener = &*self.place.terms.name;
        match Began::with(self.transport.first_bytes(), protocol) {
            Some(began) => {
                if lines.admit(LineKind::WrongProtocol) {
                    tracing::warn!(peer, listener, protocol, "{}", began.text());
                }
            }
            None => {
                if lines.admit(LineKind::NoLogin) {
                    tracing::info!(peer, protocol, why, "connection closed before a login");
                }
            }
        }
    }

    /// Ends a connection after its session: writes the rest, signals the end of output, waits for the peer to close. Returns
    /// whether to run again at once.
    fn wind_up(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, now: Now) -> bool {
        if let Phase::Awaiting { until } = self.phase {
            let broken = matches!(self.flush(cx, now), Poll::Ready(Err(_)));
            let mut buffer = ReadBuf::new(scratch.waste());
            match Pin::new(&mut self.transport).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && now.monotonic < until => return true,
                Poll::Pending if !broken && now.monotonic < until => {}
                _ => {
                    self.phase = Phase::Flushing {
                        until: now.monotonic + FLUSH,
                    }
                }
            }
        }
        if let Phase::Flushing { until } = self.phase {
            let closed = match self.flush(cx, now) {
                Poll::Ready(Ok(())) => self.transport.poll_close(cx),
                other => other,
            };
            self.phase = match closed {
                _ if now.monotonic >= until => Phase::Done,
                Poll::Pending => self.phase,
                Poll::Ready(Err(_)) => Phase::Done,
                Poll::Ready(Ok(())) => Phase::Lingering {
                    until: now.monotonic + self.transport.linger(),
                },
            };
        }
        if let Phase::Lingering { until } = self.phase {
            let mut buffer = ReadBuf::new(scratch.waste());
            match Pin::new(&mut self.transport).poll_read(cx, &mut buffer) {
                _ if now.monotonic >= until => self.phase = Phase::Done,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => return true,
                Poll::Ready(_) => self.phase = Phase::Done,
                Poll::Pending => {}
            }
        }
        false
    }

    /// Writes the rest of the session's output, then the transport's.
    fn flush(&mut self, cx: &mut Context<'_>, now: Now) -> Poll<io::Result<()>> {
        let mut stream = Wired::new(cx, &mut self.transport);
        let flushed = self.pump.flush(now, &mut stream);
        stream.count();
        flushed?;
        if !self.pump.is_flushed() {
            return Poll::Pending;
        }
        self.transport.poll_flush(cx)
    }

    /// Sets the timer for the next deadline. Returns whether that deadline has passed already.
    fn arm(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> bool {
        let due = match self.phase {
            Phase::Open => {
                let unread = (!self.pump.wants_input()).then(|| self.place.node.clock.now().monotonic + LOOK);
                let timeout = self.pump.poll_timeout();
                if timeout.is_none() && !self.keeps_alive && self.pump.link().is_some() {
                    // A session without a deadline has no heart-beats, so only TCP keep-alive can notice that the peer has
                    // vanished. If the system cannot turn it on, the connection goes on without.
                    self.keeps_alive = true;
                    let _ = self.transport.keep_alive();
                }
                let transport = self.transport.poll_timeout();
                timeout.into_iter().chain(unread).chain(transport).min()
            }
            Phase::Awaiting { until } | Phase::Flushing { until } | Phase::Lingering { until } => Some(until),
            Phase::Done => None,
        };
        let Some(due) = due.filter(|due| self.armed.is_none_or(|armed| *due < armed)) else {
            return false;
        };
        self.armed = Some(due);
        timer.as_mut().reset(self.place.node.clock.instant(due));
        // One poll registers our waker, which is the same in every turn.
        timer.poll(cx).is_ready()
    }
}

impl Drop for Connection {
    /// The connection is still open here only if the gateway's threads end before the task does.
    fn drop(&mut self) {
        if self.pump.is_over() {
            return;
        }
        let now = self.place.node.clock.now();
        let Connection {
            pump, waking, place, ..
        } = self;
        pump.abandon(now, &mut Desk { place, waking });
    }
}

/// A transport during one poll of its task.
struct Wired<'a, 'cx, 'w> {
    cx: &'a mut Context<'cx>,
    transport: &'w mut Transport,
    bytes_in: u64,
    bytes_out: u64,
}

impl<'a, 'cx, 'w> Wired<'a, 'cx, 'w> {
    fn new(cx: &'a mut Context<'cx>, transport: &'w mut Transport) -> Wired<'a, 'cx, 'w> {
        Wired {
            cx,
            transport,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// Adds what was read and written to this thread's figures.
    fn count(&self) {
        if self.bytes_in > 0 {
            with_figures(|figures| figures.bytes_in.fetch_add(self.bytes_in, Ordering::Relaxed));
        }
        if self.bytes_out > 0 {
            with_figures(|figures| figures.bytes_out.fetch_add(self.bytes_out, Ordering::Relaxed));
        }
    }

    fn count_in(&mut self, read: Poll<io::Result<usize>>) -> io::Result<Option<usize>> {
        match read {
            Poll::Pending => Ok(None),
            Poll::Ready(read) => {
                let read = read?;
                self.bytes_in += read as u64;
                Ok(Some(read))
            }
        }
    }
}

impl Stream for Wired<'_, '_, '_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<Option<usize>> {
        let mut buffer = ReadBuf::new(space);
        let read = Pin::new(&mut *self.transport).poll_read(self.cx, &mut buffer);
        let size = buffer.filled().len();
        self.count_in(read.map_ok(|()| size))
    }

    fn read_onto(&mut self, onto: &mut Vec<u8>, bytes_max: usize) -> io::Result<Option<usize>> {
        let read = {
            let mut limited = (&mut *self.transport).take(bytes_max as u64);
            pin!(limited.read_buf(onto)).poll(self.cx)
        };
        self.count_in(read)
    }

    fn has_more(&mut self) -> io::Result<bool> {
        match self.transport.poll_more(self.cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(ready) => ready.map(|()| true),
        }
    }

    fn buffered(&self) -> usize {
        self.transport.buffered()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.transport.write(self.cx, bytes)?;
        self.bytes_out += taken as u64;
        Ok(taken)
    }
}

/// Yields: the task runs again after all other ready tasks, and after its thread has polled sockets and timers.
///
/// The queue of turns guarantees this order for a task that is woken during its own turn.
pub(crate) fn next_round(cx: &Context<'_>) {
    cx.waker().wake_by_ref();
}

fn peer_text(peer: &Peer) -> String {
    peer.address.map_or_else(|| "local".to_owned(), |a| a.to_string())
}
