//! The one pump between a socket and a session.
//!
//! ```text
//!            ┌──────────── a turn ───────────────────────────────────────────────────────────┐
//!   socket ──► read ──► handle_bytes ──► [lock] apply, take, drain [unlock] ──► handle_events ──► write ──► socket
//!            └───────────────────────────────▲───────────────────────────────────────────────┘
//!                             woken by the engine, or by time
//! ```
//!
//! A connection is one task, and a turn is one synchronous pass over it with the thread's [`Scratch`]: it reads at most
//! once, takes at most once, writes at most once, and then lets the thread's other connections have theirs. What it parses
//! and what it has the engine do is bounded by work units too, so that what is dear (a filter to subscribe to, the end of a
//! session with thousands of them) takes more turns and not longer ones. Nothing is awaited half-way, so an idle
//! connection holds its session, its socket and a few words besides.

mod output;
mod parking;
mod place;
mod scratch;
mod serving;
mod waking;

#[cfg(test)]
mod tests;

pub(crate) use serving::Serving;

use crate::random::random;
use crate::vhost::Vhost;
use gatepost_core::command::{Attach, Command, Peer};
use gatepost_core::engine::{Link, Room, Visited, Wake};
use gatepost_core::event::Event;
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::properties::Name;
use gatepost_core::session::{Close, Cx, ReadInterest, Session};
use gatepost_core::time::{Now, Time};
use output::Output;
use parking::Parking;
use place::Place;
use scratch::{READ_MAX, Scratch};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use waking::Waking;

/// Output that is not written yet, over which a connection is neither read nor given more to say.
const OUTPUT_HIGH_WATER: usize = 256 << 10;
/// Messages taken in one turn: more than one read can bring, so that queues drain faster than they fill.
const TAKE_MESSAGES: usize = 2048;
/// A peer that takes none of its output for this long is gone.
const STALL: Duration = Duration::from_secs(30);
/// A connection that is not read is looked at this often: the kernel tells who reads, and nobody else, of a reset.
const LOOK: Duration = Duration::from_secs(5);
/// What is left to say after the end may take this long.
const FLUSH: Duration = Duration::from_secs(5);
/// After our last word the peer may still be sending: closing at once would reset the connection and could destroy what
/// we said before the peer reads it. So it is listened to, and ignored, for a moment.
const LINGER: Duration = Duration::from_secs(1);
/// An unfinished frame up to this size is copied in front of the next read; a larger one grows in place.
const COPY_MAX: usize = 4 << 10;
/// Exchanges with the engine in one turn: a login takes three.
const ROUNDS: usize = 8;

/// A connection between two turns.
struct Connection {
    stream: TcpStream,
    session: Box<dyn Session>,
    waking: Arc<Waking>,
    /// Set from `Attached` until the one `Detach`.
    bound: Option<Bound>,
    /// Who logged in.
    user: Option<Name>,
    /// An unfinished frame, or what the session did not want yet.
    input: Vec<u8>,
    /// It is the latter, or the turn had parsed enough: whole frames that do not wait for more bytes.
    declined: bool,
    /// What the socket did not take yet.
    output: Output,
    /// Commands over the work limit of the last turn.
    left: Vec<Command>,
    parking: Parking,
    /// The engine has more for us than the last `take` had room for.
    more: bool,
    /// We do not read although the session would like to.
    paused: bool,
    phase: Phase,
    /// When the timer will wake us, at the latest. Set anew only for an earlier time: most turns move deadlines later.
    armed: Option<Time>,
    peer: Peer,
    place: Place,
}

struct Bound {
    vhost: Arc<Vhost>,
    link: Link,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The session is over; its last words are being written.
    Flushing {
        until: Time,
    },
    /// They are written; the peer closes.
    Lingering {
        until: Time,
    },
    Done,
}

/// Why a connection ends.
enum End {
    /// The session says so, and has said so to the peer.
    Closed(Close),
    /// The socket is no more use.
    Gone(io::Error),
}

impl From<Close> for End {
    fn from(close: Close) -> End {
        End::Closed(close)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Gone(error)
    }
}

impl Connection {
    /// Within the runtime of the thread that will drive it. `None` if that is shutting down.
    fn open(place: Place, stream: std::net::TcpStream, address: SocketAddr) -> Option<Connection> {
        let peer = Peer { address: Some(address) };
        let session = place.protocol()?.open(place.node.clock.now(), peer);
        Some(Connection {
            stream: TcpStream::from_std(stream).ok()?,
            session,
            waking: Arc::new(Waking::new(Arc::clone(&place.thread))),
            bound: None,
            user: None,
            input: Vec::new(),
            declined: false,
            output: Output::default(),
            left: Vec::new(),
            parking: Parking::new(place.node.config().memory.per_connection_buffer.bytes()),
            more: false,
            paused: false,
            phase: Phase::Open,
            armed: None,
            peer,
            place,
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, timer: Pin<&mut Sleep>) -> Poll<()> {
        self.waking.introduce(cx.waker());
        self.place.thread.turns.fetch_add(1, Ordering::Relaxed);
        let now = self.place.node.clock.now();
        self.armed = self.armed.filter(|at| now.monotonic < *at);
        scratch.clear();
        let mut again = false;
        if self.phase == Phase::Open
            && let Err(end) = self.turn(cx, scratch, now, &mut again)
        {
            self.end(cx, scratch, now, end);
        }
        again |= self.detach(now);
        again |= self.wind_up(cx, scratch, now);
        if self.phase == Phase::Done && self.bound.is_none() {
            return Poll::Ready(());
        }
        again |= self.arm(cx, timer);
        scratch.trim();
        if again {
            next_round(cx);
        }
        Poll::Pending
    }

    /// Everything that can be done without waiting, once. Sets `again` if there is more of it.
    fn turn(&mut self, cx: &mut Context<'_>, s: &mut Scratch, now: Now, again: &mut bool) -> Result<(), End> {
        self.flush(cx, now)?;
        if self.left.is_empty() {
            if self.session.poll_timeout().is_some_and(|at| now.monotonic >= at) {
                self.session.handle_timeout(&mut s.cx(now, &self.place.node.codecs).0)?;
            }
            if self.wants_input() && self.declined {
                self.offer(s, now)?;
            } else if self.wants_input() {
                self.read(cx, s, now)?;
            } else if self.armed.is_none()
                && let Some(error) = self.stream.take_error()?
            {
                // A peer that is not read must not vanish unseen.
                return Err(End::Gone(error));
            }
            self.parking.sort(&mut s.commands);
        } else {
            // They were sorted when they were new, and come before all that is new now.
            s.commands = std::mem::take(&mut self.left);
        }
        self.exchange(s, now, again)?;
        self.write(cx, &mut s.out, now)?;
        let held = self.session.read_interest() == ReadInterest::All && !self.has_room_for_input();
        if held != self.paused {
            self.paused = held;
            self.session.set_paused(now, held);
        }
        if self.left.is_empty() && self.wants_input() {
            // Either there is more already, or the socket will wake us.
            *again |= self.declined || self.stream.poll_read_ready(cx)?.is_ready();
        }
        // With an empty output, room is back: what did not fit before is taken next turn.
        *again |= self.more && self.output.is_empty();
        Ok(())
    }

    fn wants_input(&self) -> bool {
        self.session.read_interest() == ReadInterest::All && self.has_room_for_input()
    }

    fn has_room_for_input(&self) -> bool {
        self.output.len() < OUTPUT_HIGH_WATER && !self.parking.is_full()
    }

    /// Reads once, and lets the session parse it together with what was left of the last frame.
    fn read(&mut self, cx: &mut Context<'_>, s: &mut Scratch, now: Now) -> Result<(), End> {
        if self.input.len() > COPY_MAX {
            return self.read_in_place(cx, s, now);
        }
        let kept = self.input.len();
        let Some((head, space)) = s.input.split_at_mut_checked(kept) else {
            return Ok(());
        };
        head.copy_from_slice(&self.input);
        let mut buffer = ReadBuf::new(space);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => return Ok(()),
            Poll::Ready(result) => result?,
        }
        let read = buffer.filled().len();
        self.count_in(read)?;
        let (mut cx, bytes) = s.cx(now, &self.place.node.codecs);
        let bytes = bytes.get(..kept + read).unwrap_or_default();
        let used = self.session.handle_bytes(&mut cx, bytes)?;
        let work = cx.work;
        let rest = bytes.get(used..).unwrap_or_default();
        if rest.is_empty() {
            // Freed, not cleared: an idle connection keeps no buffer.
            self.input = Vec::new();
        } else {
            self.input.clear();
            self.input.extend_from_slice(rest);
        }
        s.work = work;
        self.note_declined(s);
        Ok(())
    }

    /// Appends to a large unfinished frame: copying it for each read would cost its square.
    fn read_in_place(&mut self, cx: &mut Context<'_>, s: &mut Scratch, now: Now) -> Result<(), End> {
        self.input.reserve(READ_MAX);
        let poll = {
            let mut limited = (&mut self.stream).take(READ_MAX as u64);
            pin!(limited.read_buf(&mut self.input)).poll(cx)
        };
        match poll {
            Poll::Pending => Ok(()),
            Poll::Ready(result) => {
                self.count_in(result?)?;
                self.offer(s, now)
            }
        }
    }

    /// Lets the session parse what is kept.
    fn offer(&mut self, s: &mut Scratch, now: Now) -> Result<(), End> {
        let (mut cx, _) = s.cx(now, &self.place.node.codecs);
        let used = self.session.handle_bytes(&mut cx, &self.input)?;
        s.work = cx.work;
        if used >= self.input.len() {
            self.input = Vec::new();
        } else if used > 0 {
            self.input.drain(..used);
            if self.input.capacity() > 4 * self.input.len().max(COPY_MAX) {
                self.input.shrink_to_fit();
            }
        }
        self.note_declined(s);
        Ok(())
    }

    fn note_declined(&mut self, s: &Scratch) {
        let declines = s.is_full() || self.session.read_interest() == ReadInterest::Nothing;
        self.declined = declines && !self.input.is_empty();
    }

    fn count_in(&self, read: usize) -> io::Result<()> {
        self.place.thread.bytes_in.fetch_add(read as u64, Ordering::Relaxed);
        if read == 0 {
            Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the peer closed the connection",
            ))
        } else {
            Ok(())
        }
    }

    /// Commands to the engine, events from it, until neither has anything to say to the other.
    fn exchange(&mut self, s: &mut Scratch, now: Now, again: &mut bool) -> Result<(), End> {
        let mut taken = false;
        for _ in 0..ROUNDS {
            self.log_in(s, now);
            let room = self.room(s);
            // Without room the engine is still asked when it calls: it gives to others what we cannot take.
            let worth_taking = self.waking.acknowledge() || (self.more && !taken && room.messages > 0);
            if self.bound.is_some() && (worth_taking || !s.commands.is_empty()) {
                self.visit_engine(s, now, room, again);
                taken = true;
            }
            self.hand_over_events(s, now)?;
            if self.declined && !s.is_full() && self.left.is_empty() && self.wants_input() {
                self.offer(s, now)?;
            }
            self.parking.sort(&mut s.commands);
            self.parking.release(&mut s.commands);
            if s.commands.is_empty() || !self.left.is_empty() {
                // What is new keeps its place behind what is left.
                self.left.append(&mut s.commands);
                return Ok(());
            }
        }
        // A turn has an end, also with a session that always has another command.
        self.left.append(&mut s.commands);
        *again = true;
        Ok(())
    }

    /// One hold of the engine's lock: apply what there is, take what there is room for.
    fn visit_engine(&mut self, s: &mut Scratch, now: Now, room: Room, again: &mut bool) {
        let Some(bound) = &self.bound else { return };
        let (commands, events) = (&mut s.commands, &mut s.events);
        let Visited { unfinished, more } = bound
            .vhost
            .enter(|engine, wakes| engine.visit(now, bound.link, commands, room, events, wakes));
        // Without room it was asked all the same: what was reserved to this link went back, and a close gets through.
        let more = more || room.messages == 0;
        self.more = more;
        if unfinished {
            // The rest of a long batch waits until others have had the lock, and this thread.
            std::mem::swap(&mut s.commands, &mut self.left);
        }
        *again |= unfinished || (more && room.messages > 0);
    }

    /// What may be taken without the output growing past its mark.
    fn room(&self, s: &Scratch) -> Room {
        let bytes = OUTPUT_HIGH_WATER.saturating_sub(self.output.len() + s.out.len());
        Room {
            messages: if bytes > 0 { TAKE_MESSAGES } else { 0 },
            bytes,
        }
    }

    /// Lets the session encode its events.
    fn hand_over_events(&mut self, s: &mut Scratch, now: Now) -> Result<(), End> {
        if s.events.is_empty() {
            return Ok(());
        }
        for event in &s.events {
            if let Event::Flow(pressure) = event {
                self.parking.set_pressure(*pressure);
            }
        }
        let mut events = std::mem::take(&mut s.events);
        let result = self
            .session
            .handle_events(&mut s.cx(now, &self.place.node.codecs).0, &mut events);
        events.clear();
        s.events = events;
        Ok(result?)
    }

    /// Before the link is bound its commands are the directory's.
    fn log_in(&mut self, s: &mut Scratch, now: Now) {
        if self.bound.is_some() || s.commands.is_empty() {
            return;
        }
        let mut commands = std::mem::take(&mut s.commands).into_iter();
        while self.bound.is_none()
            && let Some(command) = commands.next()
        {
            match command {
                Command::Authenticate(login) => {
                    let answer = self
                        .place
                        .node
                        .directory
                        .authenticate(self.protocol_name(), self.peer, *login);
                    self.note_login(&answer);
                    s.events.push(answer);
                }
                Command::Attach(attach) => {
                    let answer = match self.attach(&attach, now) {
                        Ok(bound) => {
                            self.bound = Some(bound);
                            Event::Attached
                        }
                        Err(fault) => Event::AttachRefused(Box::new(fault)),
                    };
                    s.events.push(answer);
                }
                // A goodbye before the login is done has nothing to undo.
                _ => {}
            }
        }
        s.commands.extend(commands);
    }

    fn note_login(&mut self, answer: &Event) {
        match answer {
            Event::Authenticated { user } => {
                self.user = Some(user.clone());
                self.place.logged_in(true);
            }
            Event::LoginRefused(refused) => {
                self.place.logged_in(false);
                if let Some(left_out) = self.place.node.throttle.admit() {
                    let (user, why) = (&*refused.user, refused.why);
                    let protocol = self.protocol_name();
                    tracing::warn!(peer = %self.address(), protocol, user, ?why, left_out, "login refused");
                }
            }
            _ => {}
        }
    }

    fn attach(&mut self, attach: &Attach, now: Now) -> Result<Bound, Fault> {
        let Some(user) = self.user.clone() else {
            return Err(Fault::new(FaultKind::AccessRefused, "not logged in"));
        };
        if self.place.node.is_stopping() {
            return Err(Fault::new(FaultKind::NotAllowed, "the gateway is stopping"));
        }
        let Some(vhost) = self.place.node.vhost(&attach.vhost).map(Arc::clone) else {
            return Err(Fault::new(
                FaultKind::NotFound,
                format!("vhost {} not found", attach.vhost),
            ));
        };
        let wake: Arc<dyn Wake> = Arc::clone(&self.waking) as Arc<dyn Wake>;
        let link = vhost.enter(|engine, _| engine.attach(now, attach, user, self.peer, wake));
        self.place.attached();
        Ok(Bound { vhost, link })
    }

    fn flush(&mut self, cx: &mut Context<'_>, now: Now) -> Result<(), End> {
        let written = self.output.flush(cx, Pin::new(&mut self.stream), now.monotonic)?;
        self.place.thread.bytes_out.fetch_add(written as u64, Ordering::Relaxed);
        if self
            .output
            .stalled_since()
            .is_some_and(|since| now.monotonic >= since + STALL)
        {
            return Err(End::Gone(io::Error::new(
                io::ErrorKind::TimedOut,
                "the peer takes no output",
            )));
        }
        Ok(())
    }

    fn write(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>, now: Now) -> Result<(), End> {
        let written = self.output.send(cx, Pin::new(&mut self.stream), out, now.monotonic)?;
        self.place.thread.bytes_out.fetch_add(written as u64, Ordering::Relaxed);
        Ok(())
    }

    /// The session is over: what it asked for before is still done, then the engine is told, then the rest is written.
    fn end(&mut self, cx: &mut Context<'_>, s: &mut Scratch, now: Now, end: End) {
        self.leave(&mut s.commands);
        let written = self.write(cx, &mut s.out, now);
        let (phase, why, abnormal) = match (end, written) {
            (End::Closed(close), Ok(())) => (
                Phase::Flushing {
                    until: now.monotonic + FLUSH,
                },
                close.why,
                close.abnormal,
            ),
            (End::Closed(close), Err(_)) => (Phase::Done, close.why, close.abnormal),
            (End::Gone(error), _) => (Phase::Done, error.to_string(), true),
        };
        self.phase = phase;
        self.note_end(&why, abnormal);
    }

    fn note_end(&self, why: &str, abnormal: bool) {
        let (peer, protocol) = (self.address(), self.protocol_name());
        // A port scan or a probe that never logs in is no news.
        if abnormal && self.user.is_some() {
            if let Some(left_out) = self.place.node.throttle.admit() {
                let user = self.user.as_deref().unwrap_or_default();
                tracing::info!(%peer, protocol, user, why, left_out, "connection lost");
            }
        } else {
            tracing::debug!(%peer, protocol, why, "connection closed");
        }
    }

    /// Leaves the engine what is left of all commands, and `Detach`, exactly once.
    fn leave(&mut self, commands: &mut Vec<Command>) {
        self.more = false;
        if self.bound.is_some() {
            self.parking.set_pressure(None);
            self.parking.release(&mut self.left);
            self.left.append(commands);
            self.left.push(Command::Detach);
        }
    }

    /// After the session: applies some of that. Returns whether there is more of it.
    fn detach(&mut self, now: Now) -> bool {
        let (Some(bound), false) = (&self.bound, self.phase == Phase::Open) else {
            return false;
        };
        let left = &mut self.left;
        let more = bound
            .vhost
            .enter(|engine, wakes| engine.apply(now, bound.link, left, wakes));
        if !more {
            self.bound = None;
        }
        more
    }

    /// After the session: write the rest, say that nothing follows, wait for the peer to close. Returns whether to go on
    /// at once.
    fn wind_up(&mut self, cx: &mut Context<'_>, s: &mut Scratch, now: Now) -> bool {
        if let Phase::Flushing { until } = self.phase {
            if self.flush(cx, now).is_err() || now.monotonic >= until {
                self.phase = Phase::Done;
            } else if self.output.is_empty() {
                let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
                let until = now.monotonic + LINGER;
                self.phase = if matches!(shut, Poll::Ready(Ok(()))) {
                    Phase::Lingering { until }
                } else {
                    Phase::Done
                };
            }
        }
        if let Phase::Lingering { until } = self.phase {
            let mut buffer = ReadBuf::new(&mut s.input);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                _ if now.monotonic >= until => self.phase = Phase::Done,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => return true,
                Poll::Ready(_) => self.phase = Phase::Done,
                Poll::Pending => {}
            }
        }
        false
    }

    /// Sees to it that we are woken in time. Returns whether that time has come already.
    fn arm(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> bool {
        let due = match self.phase {
            Phase::Open => {
                let stalled = self.output.stalled_since().map(|since| since + STALL);
                let unread = (!self.wants_input()).then(|| self.place.node.clock.now().monotonic + LOOK);
                self.session
                    .poll_timeout()
                    .into_iter()
                    .chain(stalled)
                    .chain(unread)
                    .min()
            }
            Phase::Flushing { until } | Phase::Lingering { until } => Some(until),
            Phase::Done => None,
        };
        let Some(due) = due.filter(|due| self.armed.is_none_or(|armed| *due < armed)) else {
            return false;
        };
        self.armed = Some(due);
        timer.as_mut().reset(self.place.node.clock.instant(due));
        // Polled once, to leave our waker with it; it is the same one in every turn.
        timer.poll(cx).is_ready()
    }

    fn protocol_name(&self) -> &'static str {
        self.place.protocol().map_or("", |p| p.name())
    }

    fn address(&self) -> String {
        self.peer.address.map_or_else(|| "local".to_owned(), |a| a.to_string())
    }
}

impl Drop for Connection {
    /// Still bound only where the thread ends under the task.
    fn drop(&mut self) {
        let now = self.place.node.clock.now();
        if self.phase == Phase::Open {
            self.leave(&mut Vec::new());
            self.phase = Phase::Done;
        }
        while self.detach(now) {}
    }
}

/// Has the task run again, behind all others that are ready and after the thread has looked at its sockets and timers.
///
/// Waking it outright would put it into the run queue, and the runtime looks at the sockets only when that is empty or
/// after some sixty tasks: beside one connection that always has more to do, all others would be heard after sixty of
/// its turns.
fn next_round(cx: &mut Context<'_>) {
    // Its first poll is what leaves the waker with the runtime.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

/// Sessions' source of made-up identifiers.
fn made_up() -> u64 {
    random()
}

impl Scratch {
    /// What a session is lent, beside the input.
    fn cx<'a>(&'a mut self, now: Now, codecs: &'a gatepost_core::properties::Codecs) -> (Cx<'a>, &'a [u8]) {
        let cx = Cx {
            now,
            commands: &mut self.commands,
            out: &mut self.out,
            codecs,
            random: &mut self.random,
            work: self.work,
        };
        (cx, &self.input)
    }
}
