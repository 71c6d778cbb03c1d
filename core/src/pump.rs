//! The turn of one connection: bytes in, session, one visit to the engine, bytes out.
//!
//! ```text
//!            ┌──────────── a turn ───────────────────────────────────────────────────────────┐
//!   stream ──► read ──► handle_bytes ──► [lock] apply, take, drain [unlock] ──► handle_events ──► write ──► stream
//!            └───────────────────────────────▲───────────────────────────────────────────────┘
//!                          woken by the stream, by the engine, by a login's answer, or by time
//! ```
//!
//! There is one pump for everybody: the gateway gives it a socket and its threads' engines, the simulated world a script
//! and virtual time. The pump does no I/O of its own, waits for nothing and reads no clock. It keeps what a connection
//! keeps between two turns: an unfinished frame, output that the peer has not taken, commands over the limit of one hold,
//! publishes that have to wait (`parking.rs`), and where its login stands.
//!
//! A turn is bounded: it reads at most once, takes at most once and writes at most once. What it parses and what it has
//! the engine do is bounded by work units too. Expensive work (the end of a session with thousands of subscriptions)
//! takes more turns, not longer ones, so that other connections get theirs.
//!
//! ```
//! use gatepost_core::pump::{Pump, Scratch, Stream};
//! use gatepost_core::session::{Close, Cx, ReadInterest, Session};
//! # use gatepost_core::command::{Attach, Login, Peer};
//! # use gatepost_core::engine::{Engine, Wake};
//! # use gatepost_core::event::Event;
//! # use gatepost_core::fault::{Fault, FaultKind};
//! # use gatepost_core::properties::Codecs;
//! # use gatepost_core::pump::Broker;
//! # use gatepost_core::time::{Now, Time};
//! # use std::{io, sync::Arc};
//!
//! /// A protocol that answers every byte with itself.
//! struct Echo;
//! impl Session for Echo {
//!     fn handle_bytes(&mut self, cx: &mut Cx<'_>, input: &[u8]) -> Result<usize, Close> {
//!         cx.out.extend_from_slice(input);
//!         Ok(input.len())
//!     }
//! #   fn handle_events(&mut self, _: &mut Cx<'_>, events: &mut Vec<Event>) -> Result<(), Close> {
//! #       events.clear();
//! #       Ok(())
//! #   }
//! #   fn handle_timeout(&mut self, _: &mut Cx<'_>) -> Result<(), Close> { Ok(()) }
//! #   fn poll_timeout(&self) -> Option<Time> { None }
//! #   fn read_interest(&self) -> ReadInterest { ReadInterest::All }
//! #   fn set_paused(&mut self, _: Now, _: bool) {}
//!     // ...
//! }
//!
//! /// A socket would be a stream; this one is in memory.
//! struct Wire { input: Vec<u8>, output: Vec<u8> }
//! impl Stream for Wire {
//!     fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
//!         self.output.extend_from_slice(bytes);
//!         Ok(bytes.len())
//!     }
//! #   fn read(&mut self, space: &mut [u8]) -> io::Result<Option<usize>> {
//! #       let n = self.input.len().min(space.len());
//! #       space[..n].copy_from_slice(&self.input[..n]);
//! #       self.input.drain(..n);
//! #       Ok((n > 0).then_some(n))
//! #   }
//! #   fn read_onto(&mut self, onto: &mut Vec<u8>, bytes_max: usize) -> io::Result<Option<usize>> {
//! #       let n = self.input.len().min(bytes_max);
//! #       onto.extend(self.input.drain(..n));
//! #       Ok((n > 0).then_some(n))
//! #   }
//! #   fn has_more(&mut self) -> io::Result<bool> { Ok(!self.input.is_empty()) }
//!     // ...
//! }
//!
//! # struct Nobody(Codecs);
//! # impl Wake for Nobody { fn wake(&self) {} }
//! # impl Broker for Nobody {
//! #   type Vhost = Engine;
//! #   fn enter<T>(&mut self, _: &Engine, _: impl FnOnce(&mut Engine) -> T) -> T { unreachable!("nobody logs in") }
//! #   fn vhost(&mut self, _: &Attach, _: &Arc<str>) -> Result<Engine, Fault> { Err(Fault::new(FaultKind::NotFound, "none")) }
//! #   fn waker(&mut self) -> Arc<dyn Wake> { Arc::new(Nobody(Codecs::default())) }
//! #   fn acknowledge(&mut self) -> bool { false }
//! #   fn log_in(&mut self, _: Login, _: &Peer) {}
//! #   fn login_answer(&mut self, _: &Peer) -> Option<Event> { None }
//! #   fn codecs(&self) -> &Codecs { &self.0 }
//! # }
//! # let mut broker = Nobody(Codecs::default());
//! # let mut scratch = Scratch::new(Box::new(|| 4));
//! let mut wire = Wire { input: b"hello".to_vec(), output: Vec::new() };
//! let mut pump = Pump::new(Box::new(Echo), Peer::on_this_machine(), 64 << 10);
//! let turn = pump.turn(Now::default(), &mut scratch, &mut broker, &mut wire);
//! assert!(turn.ended.is_none());
//! assert_eq!(wire.output, b"hello");
//! ```

mod meter;
mod output;
mod parking;
mod scratch;

pub use meter::Published;
pub use scratch::Scratch;

use crate::buffers::{Buffers, FREE_BYTES, Part};
use crate::command::{Attach, Command, Login, Peer};
use crate::engine::{Applied, Carried, Engine, Link, Room, Visited, Wake};
use crate::event::{CloseReason, Event};
use crate::fault::{Fault, FaultKind};
use crate::properties::{Codecs, Name};
use crate::session::{Close, ReadInterest, Session};
use crate::time::{Now, Time};
use meter::Meter;
use output::Output;
use parking::Parking;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of one read, at most.
pub const READ_MAX: usize = 64 << 10;
/// Output that is not written yet, over which a connection is neither read nor given more to say.
pub const OUTPUT_HIGH_WATER: usize = 256 << 10;
/// A peer that takes as good as none of its output for this long is gone, unless [`Pump::set_stall`] says otherwise.
pub const STALL: Duration = Duration::from_secs(30);
/// Messages taken in one turn: more than one read can bring, so that queues drain faster than they fill.
const TAKE_MESSAGES: usize = 2048;
/// An unfinished frame up to this size is copied in front of the next read; a larger one grows in place.
const COPY_MAX: usize = 4 << 10;
/// Bytes of one read while there is no memory for buffers: enough for small packets.
const SMALL_READ: usize = 2 << 10;
/// Exchanges with the engine in one turn.
const ROUNDS: usize = 8;
/// Turns in which a connection that loses its session, or whose stream takes no more output, still reads what had arrived by
/// then. With a peer that never stops sending, it would go on for ever otherwise.
const LAST_TURNS: u16 = 256;

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

/// The broker as one connection sees it: who logs it in, and how it reaches the engine of its vhost.
pub trait Broker {
    /// What leads to a vhost's engine.
    type Vhost;

    /// Visits the engine: under its lock, and then hands over what is to be logged and fetched, and fires the wakes.
    fn enter<T>(&mut self, vhost: &Self::Vhost, visit: impl FnOnce(&mut Engine) -> T) -> T;

    /// Finds the vhost that `user` asks for.
    ///
    /// # Errors
    /// The fault the peer is told: no such vhost, no access, the node is stopping.
    fn vhost(&mut self, attach: &Attach, user: &Name) -> Result<Self::Vhost, Fault>;

    /// What the engine calls when the connection has something to take. The next turn sees the call in
    /// [`Broker::acknowledge`].
    fn waker(&mut self) -> Arc<dyn Wake>;

    /// Whether the connection was called since this was last asked.
    fn acknowledge(&mut self) -> bool;

    /// Starts a login, or goes on with one after a challenge. It may take its time (hashing, a network look-up), and does
    /// that elsewhere: the answer comes by a wake, and [`Broker::login_answer`] returns it in the turn that follows.
    fn log_in(&mut self, login: Login, peer: &Peer);

    /// The answer to the last [`Broker::log_in`], once it is there.
    fn login_answer(&mut self, peer: &Peer) -> Option<Event>;

    /// For sessions that translate messages of other protocols.
    fn codecs(&self) -> &Codecs;

    /// How many messages the connection may publish now; `None`: any number. Asked once a turn. If it is `None`, it is not told
    /// what was published.
    fn may_publish(&mut self, _now: Time) -> Option<usize> {
        None
    }

    /// What the connection has published in a turn. Returns the time before which it is not read.
    fn published(&mut self, _now: Time, _published: Published) -> Option<Time> {
        None
    }

    /// The memory that this connection's buffers share with all others'; `None`: there is no limit.
    fn buffers(&self) -> Option<&Arc<Buffers>> {
        None
    }
}

/// One connection between two turns. `V` is the broker's [`Broker::Vhost`].
pub struct Pump<V> {
    session: Box<dyn Session>,
    /// Set from `Attached` until the one `Detach` is applied.
    bound: Option<Bound<V>>,
    /// Who logged in.
    user: Option<Name>,
    /// The engine has it, too.
    peer: Arc<Peer>,
    /// An unfinished frame, or what the session did not want yet.
    input: Vec<u8>,
    /// What the buffers have of the node's memory, if they are large.
    part: Option<Box<Part>>,
    /// What is counted of the buffers without a part.
    small: u32,
    /// A large packet is not complete. Without memory for the rest, it is not read.
    unfinished: bool,
    /// It was not read for that reason in this turn.
    held_back: bool,
    /// It is the latter, or the turn had parsed enough: whole frames that do not wait for more bytes.
    declined: bool,
    /// What the stream did not take yet.
    output: Output,
    /// Commands over the work limit of the last turn.
    left: Vec<Command>,
    parking: Parking,
    meter: Meter,
    /// See [`STALL`].
    stall: Duration,
    /// A login is with the broker. Nothing is read meanwhile.
    logging_in: bool,
    /// The engine has more for us than the last `take` had room for.
    more: bool,
    /// We do not read although the session would like to.
    paused: bool,
    /// The last read brought nothing.
    read_dry: bool,
    /// What is left waits for a call of the engine's.
    waits: bool,
    /// Another connection takes the session over, or the stream takes no more output: turns that are left for what had arrived
    /// by then.
    last_turns: Option<u16>,
    /// Why the stream takes no more output.
    broken: Option<io::Error>,
    /// The session is over, or the stream is.
    ended: bool,
    /// What the stream has carried that the engine has not heard of.
    carried: Carried,
}

struct Bound<V> {
    vhost: V,
    link: Link,
}

/// What a turn came to.
#[derive(Debug)]
pub struct Turn {
    /// There is more to do at once: the next turn should follow when others have had theirs.
    pub again: bool,
    /// The connection ended in this turn. Said once.
    pub ended: Option<Ended>,
}

/// How a connection ended.
#[derive(Debug)]
pub struct Ended {
    /// For our log.
    pub why: String,
    /// The peer misbehaved or vanished, as opposed to a goodbye.
    pub abnormal: bool,
    /// The stream is of no more use; otherwise the last words are still to be written: see [`Pump::flush`].
    pub broken: bool,
    /// It was ended because the peer did not take its output.
    pub stalled: bool,
}

/// The peer does not take its output.
#[derive(Debug, thiserror::Error)]
#[error("the peer takes no output")]
struct Stalled;

/// Why a connection ends.
enum End {
    /// The session says so, and has said so to the peer.
    Closed(Close),
    /// The stream is no more use.
    Broken(io::Error),
}

impl From<Close> for End {
    fn from(close: Close) -> End {
        End::Closed(close)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Broken(error)
    }
}

impl<V> Pump<V> {
    /// For a connection from `peer` that speaks through `session`. `parked_bytes_max`: publishes that may wait here while
    /// the connection goes on being read.
    pub fn new(session: Box<dyn Session>, peer: Peer, parked_bytes_max: usize) -> Pump<V> {
        Pump {
            session,
            bound: None,
            user: None,
            peer: Arc::new(peer),
            input: Vec::new(),
            part: None,
            small: 0,
            unfinished: false,
            held_back: false,
            declined: false,
            output: Output::default(),
            left: Vec::new(),
            parking: Parking::new(parked_bytes_max),
            meter: Meter::default(),
            stall: STALL,
            logging_in: false,
            more: false,
            paused: false,
            read_dry: false,
            waits: false,
            last_turns: None,
            broken: None,
            ended: false,
            carried: Carried::default(),
        }
    }

    /// A peer that takes as good as none of its output for this long is gone.
    pub fn set_stall(&mut self, stall: Duration) {
        self.stall = stall;
    }

    /// Everything that can be done without waiting, once.
    pub fn turn<B, S>(&mut self, now: Now, s: &mut Scratch, broker: &mut B, stream: &mut S) -> Turn
    where
        B: Broker<Vhost = V>,
        S: Stream,
    {
        let mut again = false;
        let mut ended = None;
        s.clear();
        s.work = self.meter.begin(now.monotonic, broker.may_publish(now.monotonic));
        if !self.ended
            && let Err(end) = self.run(now, s, broker, stream, &mut again)
        {
            self.leave(&mut s.commands);
            // Before the last words leave: a client that has read them finds its exclusive queues gone.
            again |= self.detach(now, broker) == Applied::Some;
            ended = Some(self.end(now, s, stream, end));
        } else {
            again |= self.detach(now, broker) == Applied::Some;
        }
        if let Some(published) = self.meter.published() {
            self.meter.wait(broker.published(now.monotonic, published));
        }
        self.account(now, broker, stream.buffered());
        s.trim();
        Turn { again, ended }
    }

    /// The stream is of no more use, as somebody else has found out. The engine is told in the turns that follow.
    pub fn break_off(&mut self, error: &io::Error) -> Ended {
        self.leave(&mut Vec::new());
        Ended {
            why: error.to_string(),
            abnormal: true,
            broken: true,
            stalled: false,
        }
    }

    /// The stream takes no more output, as somebody else has found out. What it has brought by now is read and applied in the
    /// turns that follow, and then the connection ends: a goodbye that was sent before the stream broke still counts.
    pub fn stop_writing(&mut self, error: io::Error) {
        self.output = Output::default();
        self.last_turns.get_or_insert(LAST_TURNS);
        self.broken.get_or_insert(error);
    }

    /// Writes what waits, as far as the stream takes it.
    ///
    /// # Errors
    /// The stream is broken.
    pub fn flush<S: Stream>(&mut self, now: Now, stream: &mut S) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let taken = stream.write(self.output.waiting())?;
        self.note_written(taken);
        self.output.took(taken, now.monotonic);
        Ok(())
    }

    /// When the next turn is due at the latest, though nothing else happens.
    pub fn poll_timeout(&self) -> Option<Time> {
        let stalled = self.output.stalled_since().map(|since| since + self.stall);
        let stopped = self.part.as_ref().map(|part| part.due());
        self.session
            .poll_timeout()
            .into_iter()
            .chain(stalled)
            .chain(stopped)
            .chain(self.meter.until())
            .min()
    }

    /// Whether the next turn reads.
    pub fn wants_input(&self) -> bool {
        self.session.read_interest() == ReadInterest::All && !self.logging_in && self.has_room_for_input()
    }

    /// Everything that is to be said is written.
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// The session is over, and the engine knows.
    pub fn is_over(&self) -> bool {
        self.ended && self.bound.is_none()
    }

    /// Who logged in.
    pub fn user(&self) -> Option<&Name> {
        self.user.as_ref()
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The link, from `Attached` until the end.
    pub fn link(&self) -> Option<Link> {
        self.bound.as_ref().map(|bound| bound.link)
    }

    /// Memory that the connection's buffers use: unfinished packets, publishes that wait, and output.
    pub fn buffered_bytes(&self) -> usize {
        self.input.capacity() + self.output.memory() + self.parking.bytes()
    }

    /// Ends the connection at once, whatever it still had to say: its thread goes away. The engine is told.
    pub fn abandon<B: Broker<Vhost = V>>(&mut self, now: Now, broker: &mut B) {
        if !self.ended {
            self.leave(&mut Vec::new());
        }
        while !self.is_over() {
            if self.detach(now, broker) == Applied::Waits {
                // For a session that another connection has, whose thread may be the one that goes away.
                self.left.retain(|command| matches!(command, Command::Detach));
            }
        }
    }

    fn run<B, S>(
        &mut self,
        now: Now,
        s: &mut Scratch,
        broker: &mut B,
        stream: &mut S,
        again: &mut bool,
    ) -> Result<(), End>
    where
        B: Broker<Vhost = V>,
        S: Stream,
    {
        let flushed = self.flush(now, stream);
        if let Err(error) = flushed.and_then(|()| self.check_stall(now)) {
            self.stop_writing(error);
        }
        self.check_part(now, stream)?;
        self.held_back = false;
        if (self.left.is_empty() || self.waits) && self.session.poll_timeout().is_some_and(|at| now.monotonic >= at) {
            self.session.handle_timeout(&mut s.cx(now, broker.codecs()).0)?;
        }
        if self.left.is_empty() {
            if self.wants_input() {
                if self.declined {
                    self.offer(now, s, broker.codecs())?;
                } else if self.may_read(broker, stream)? {
                    let full = broker.buffers().is_some_and(|buffers| buffers.are_full());
                    let portion = if full { SMALL_READ } else { READ_MAX };
                    self.read(now, s, broker.codecs(), stream, portion)?;
                }
            }
            self.parking.sort(&mut s.commands);
        } else {
            // They were sorted when they were new, and come before all that is new now.
            let mut commands = std::mem::take(&mut self.left);
            commands.append(&mut s.commands);
            s.commands = commands;
        }
        self.exchange(now, s, broker, again)?;
        self.take_last_turn(now, s, broker.codecs(), again)?;
        if let Err(error) = self.write(now, &mut s.out, stream) {
            self.stop_writing(error);
            *again = true;
        }
        let is_held = !self.has_room_for_input() || self.held_back || self.waits;
        let held = self.session.read_interest() == ReadInterest::All && is_held;
        if held != self.paused {
            self.paused = held;
            self.session.set_paused(now, held);
        }
        if self.left.is_empty() && self.wants_input() {
            // Either there is more already, or the stream will say so.
            *again |= self.declined || (!self.held_back && stream.has_more()?);
        }
        // With an empty output, room is back: what did not fit before is taken next turn.
        *again |= self.more && self.output.is_empty();
        Ok(())
    }

    fn has_room_for_input(&self) -> bool {
        self.output.len() < OUTPUT_HIGH_WATER && !self.parking.is_full() && self.meter.until().is_none()
    }

    fn check_stall(&self, now: Now) -> io::Result<()> {
        if self
            .output
            .stalled_since()
            .is_some_and(|since| now.monotonic >= since + self.stall)
        {
            return Err(io::Error::new(io::ErrorKind::TimedOut, Stalled));
        }
        Ok(())
    }

    /// A peer that has stopped in the middle of a large packet keeps memory from others: when that is short, it has to go.
    fn check_part<S: Stream>(&mut self, now: Now, stream: &mut S) -> io::Result<()> {
        let Some(part) = self.part.as_mut().filter(|part| now.monotonic >= part.due()) else {
            return Ok(());
        };
        let waits_for_us = !self.unfinished || self.held_back || stream.has_more()?;
        if part.has_stalled(now.monotonic, waits_for_us) {
            let text = "the peer has stopped in the middle of a large packet, and others need the memory";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        Ok(())
    }

    /// Whether there is memory for what a read brings: always, but in the middle of a large packet.
    fn may_read<B, S>(&mut self, broker: &mut B, stream: &mut S) -> io::Result<bool>
    where
        B: Broker<Vhost = V>,
        S: Stream,
    {
        let Some(part) = self.part.as_mut().filter(|_| self.unfinished) else {
            return Ok(true);
        };
        if !part.is_short() {
            return Ok(true);
        }
        if !stream.has_more()? {
            part.pass();
            return Ok(false);
        }
        self.held_back = !part.may_grow(|| broker.waker());
        Ok(!self.held_back)
    }

    /// Counts what the connection buffers.
    fn account<B: Broker<Vhost = V>>(&mut self, now: Now, broker: &mut B, stream_bytes: usize) {
        let Some(buffers) = broker.buffers() else { return };
        if self.ended {
            self.part = None;
            buffers.count_small(self.small as usize, 0);
            self.small = 0;
            return;
        }
        let packets = self.input.capacity() + self.session.buffered();
        let bytes = packets + self.output.memory() + self.parking.bytes() + stream_bytes;
        let free = buffers.free_bytes();
        self.unfinished = packets > free && !self.declined;
        let small = if bytes <= free { bytes } else { 0 };
        if small != self.small as usize {
            buffers.count_small(self.small as usize, small);
            self.small = small as u32;
        }
        if bytes <= free {
            self.part = None;
            return;
        }
        if self.part.is_none() {
            self.part = broker.buffers().map(|buffers| Box::new(buffers.part(now.monotonic)));
        }
        if let Some(part) = &mut self.part {
            part.set(bytes);
        }
    }

    /// Reads once, and lets the session parse it together with what was left of the last frame.
    fn read<S: Stream>(
        &mut self,
        now: Now,
        s: &mut Scratch,
        codecs: &Codecs,
        stream: &mut S,
        portion: usize,
    ) -> Result<(), End> {
        if self.input.len() > COPY_MAX {
            // Grown in place: copying a large frame for each read would cost its square.
            self.input.reserve(READ_MAX);
            let read = stream.read_onto(&mut self.input, READ_MAX)?;
            if self.note_read(read)?.is_some() {
                self.offer(now, s, codecs)?;
            }
            return Ok(());
        }
        let kept = self.input.len();
        let Some((head, space)) = s.input.split_at_mut_checked(kept) else {
            return Ok(());
        };
        head.copy_from_slice(&self.input);
        let space = space.get_mut(..portion).unwrap_or_default();
        let Some(read) = self.note_read(stream.read(space)?)? else {
            return Ok(());
        };
        let before = s.commands.len();
        let (mut cx, bytes) = s.cx(now, codecs);
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
        self.meter.count(s.commands.get(before..).unwrap_or_default());
        self.note_declined(s);
        Ok(())
    }

    fn note_read(&mut self, read: Option<usize>) -> io::Result<Option<usize>> {
        self.read_dry = read.is_none();
        match read {
            Some(0) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the peer closed the connection",
            )),
            read => {
                if let Some(part) = &mut self.part {
                    part.note_read(read.unwrap_or(0));
                }
                self.carried.bytes_in += read.unwrap_or(0) as u64;
                self.carried.reads += u64::from(read.is_some());
                Ok(read)
            }
        }
    }

    fn note_written(&mut self, bytes: usize) {
        self.carried.bytes_out += bytes as u64;
        self.carried.writes += u64::from(bytes > 0);
    }

    /// Lets the session parse what is kept.
    fn offer(&mut self, now: Now, s: &mut Scratch, codecs: &Codecs) -> Result<(), End> {
        let before = s.commands.len();
        let (mut cx, _) = s.cx(now, codecs);
        let used = self.session.handle_bytes(&mut cx, &self.input)?;
        s.work = cx.work;
        self.meter.count(s.commands.get(before..).unwrap_or_default());
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

    /// Commands to the engine, events from it, until neither has anything to say to the other.
    fn exchange<B>(&mut self, now: Now, s: &mut Scratch, broker: &mut B, again: &mut bool) -> Result<(), End>
    where
        B: Broker<Vhost = V>,
    {
        let mut taken = false;
        for _ in 0..ROUNDS {
            let called = broker.acknowledge();
            self.log_in(now, s, broker);
            let room = self.room(s, broker.buffers());
            // Without room the engine is still asked when it calls: it gives to others what we cannot take.
            let worth_taking = called || (self.more && !taken && room.messages > 0);
            if self.bound.is_some() && (worth_taking || !s.commands.is_empty()) {
                self.visit_engine(now, s, broker, room, again);
                taken = true;
            }
            self.hand_over_events(now, s, broker.codecs())?;
            if self.declined && !s.is_full() && self.left.is_empty() && self.wants_input() {
                self.offer(now, s, broker.codecs())?;
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
    fn visit_engine<B>(&mut self, now: Now, s: &mut Scratch, broker: &mut B, room: Room, again: &mut bool)
    where
        B: Broker<Vhost = V>,
    {
        let Some(bound) = &self.bound else { return };
        let (link, commands, events) = (bound.link, &mut s.commands, &mut s.events);
        let carried = std::mem::take(&mut self.carried);
        let Visited { applied, more } = broker.enter(&bound.vhost, |engine| {
            engine.note_carried(link, carried);
            engine.visit(now, link, commands, room, events)
        });
        // Without room it was asked all the same: what was reserved to this link went back, and a close gets through.
        self.more = more || room.messages == 0;
        self.waits = applied == Applied::Waits;
        if applied != Applied::All {
            // The rest of a long batch waits until others have had the lock, and this thread.
            std::mem::swap(&mut s.commands, &mut self.left);
        }
        *again |= applied == Applied::Some || (more && room.messages > 0);
    }

    /// What may be taken without the output growing past its mark.
    fn room(&self, s: &Scratch, buffers: Option<&Arc<Buffers>>) -> Room {
        let full = buffers.is_some_and(|buffers| buffers.are_full());
        let output_max = if full { FREE_BYTES } else { OUTPUT_HIGH_WATER };
        let bytes = output_max
            .saturating_sub(self.output.len() + s.out.len())
            .min(s.room_bytes_max);
        Room {
            messages: if bytes > 0 { TAKE_MESSAGES } else { 0 },
            bytes,
        }
    }

    /// Lets the session encode its events.
    fn hand_over_events(&mut self, now: Now, s: &mut Scratch, codecs: &Codecs) -> Result<(), End> {
        if let Some(Event::Closed(CloseReason::TakenOver)) = s.events.last() {
            // What the peer sent before it opened the other connection counts first: see `take_last_turn`.
            s.events.pop();
            self.last_turns.get_or_insert(LAST_TURNS);
        }
        if s.events.is_empty() {
            return Ok(());
        }
        for event in &s.events {
            if let Event::Flow(pressure) = event {
                self.parking.set_pressure(*pressure);
                // What the engine has not applied yet meets the pressure too.
                self.parking.sort(&mut self.left);
            }
        }
        let mut events = std::mem::take(&mut s.events);
        let result = self.session.handle_events(&mut s.cx(now, codecs).0, &mut events);
        events.clear();
        s.events = events;
        Ok(result?)
    }

    /// Another connection of the same client takes the session over, or the stream takes no more output. A goodbye, or an
    /// acknowledgement, that this stream has brought already was sent earlier, so it is read and applied first; then the
    /// session is told of its end.
    fn take_last_turn(&mut self, now: Now, s: &mut Scratch, codecs: &Codecs, again: &mut bool) -> Result<(), End> {
        let Some(turns) = &mut self.last_turns else {
            return Ok(());
        };
        *turns = turns.saturating_sub(1);
        let out_of_turns = *turns == 0;
        let has_read_all = !self.wants_input() || (self.read_dry && !self.declined);
        if out_of_turns || (has_read_all && self.left.is_empty()) {
            if let Some(error) = self.broken.take() {
                return Err(End::Broken(error));
            }
            s.events.push(Event::Closed(CloseReason::TakenOver));
            let mut events = std::mem::take(&mut s.events);
            let result = self.session.handle_events(&mut s.cx(now, codecs).0, &mut events);
            self.last_turns = None;
            self.left.append(&mut s.commands);
            return Ok(result?);
        }
        *again = true;
        Ok(())
    }

    /// Logins go to the broker; and before the connection is bound to a vhost, so does everything else.
    fn log_in<B: Broker<Vhost = V>>(&mut self, now: Now, s: &mut Scratch, broker: &mut B) {
        if self.logging_in
            && let Some(answer) = broker.login_answer(&self.peer)
        {
            self.logging_in = false;
            if let Event::Authenticated { user } = &answer {
                self.user = Some(user.clone());
            }
            s.events.push(answer);
        }
        if self.bound.is_some() {
            // A later login (another secret, say). The session reads nothing until it is answered, so it is the last.
            if let Some(Command::Authenticate(login)) = s.commands.pop_if(|c| matches!(c, Command::Authenticate(_))) {
                self.logging_in = true;
                broker.log_in(*login, &self.peer);
            }
            return;
        }
        if s.commands.is_empty() {
            return;
        }
        let mut commands = std::mem::take(&mut s.commands).into_iter();
        while self.bound.is_none()
            && let Some(command) = commands.next()
        {
            match command {
                Command::Authenticate(login) => {
                    self.logging_in = true;
                    broker.log_in(*login, &self.peer);
                }
                Command::Attach(attach) => {
                    let answer = match self.attach(now, &attach, broker) {
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

    fn attach<B>(&mut self, now: Now, attach: &Attach, broker: &mut B) -> Result<Bound<V>, Fault>
    where
        B: Broker<Vhost = V>,
    {
        let Some(user) = self.user.clone() else {
            return Err(Fault::new(FaultKind::AccessRefused, "not logged in"));
        };
        let vhost = broker.vhost(attach, &user)?;
        let (peer, wake) = (Arc::clone(&self.peer), broker.waker());
        let link = broker.enter(&vhost, |engine| {
            engine.admit_link(&user)?;
            Ok(engine.attach(now, attach, user, peer, wake))
        })?;
        Ok(Bound { vhost, link })
    }

    fn write<S: Stream>(&mut self, now: Now, fresh: &mut Vec<u8>, stream: &mut S) -> io::Result<()> {
        if self.broken.is_some() {
            fresh.clear();
        }
        if fresh.is_empty() {
            return Ok(());
        }
        // What waits was offered at the start of the turn; nothing may overtake it.
        let taken = if self.output.is_empty() {
            stream.write(fresh)?
        } else {
            0
        };
        self.note_written(taken);
        self.output.keep(fresh, taken, now.monotonic);
        Ok(())
    }

    /// The session is over: what it asked for before is still done, then the engine is told, then the rest is written.
    fn end<S: Stream>(&mut self, now: Now, s: &mut Scratch, stream: &mut S, end: End) -> Ended {
        let written = self.write(now, &mut s.out, stream);
        match end {
            End::Closed(close) => Ended {
                why: close.why,
                abnormal: close.abnormal,
                broken: written.is_err(),
                stalled: false,
            },
            End::Broken(error) => Ended {
                why: error.to_string(),
                abnormal: true,
                broken: true,
                stalled: error.get_ref().is_some_and(|error| error.is::<Stalled>()),
            },
        }
    }

    /// Leaves the engine what is left of all commands, and `Detach`, exactly once.
    fn leave(&mut self, commands: &mut Vec<Command>) {
        self.ended = true;
        self.more = false;
        if self.bound.is_some() {
            self.parking.set_pressure(None);
            self.parking.release(&mut self.left);
            self.left.append(commands);
            self.left.push(Command::Detach);
        }
    }

    /// After the session: applies some of that.
    fn detach<B: Broker<Vhost = V>>(&mut self, now: Now, broker: &mut B) -> Applied {
        let (Some(bound), true) = (&self.bound, self.ended) else {
            return Applied::All;
        };
        // What is left may wait for a call.
        broker.acknowledge();
        let (link, left) = (bound.link, &mut self.left);
        let carried = std::mem::take(&mut self.carried);
        let applied = broker.enter(&bound.vhost, |engine| {
            engine.note_carried(link, carried);
            engine.apply(now, link, left)
        });
        if applied == Applied::All {
            self.bound = None;
        }
        applied
    }
}
