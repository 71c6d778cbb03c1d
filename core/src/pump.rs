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
//! A turn is bounded. It reads at most once and visits the engine at most eight times: usually once, and again only if events
//! made the session send further commands. What it parses and what it makes the engine do is limited in work units, too.
//! Expensive work (the end of a session with thousands of subscriptions) takes more turns, not longer ones, so that other
//! connections get theirs.
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

mod broker;
mod ending;
mod exchange;
mod login;
mod memory;
mod meter;
mod output;
mod parking;
mod reading;
mod scratch;
mod stream;
mod writing;

pub use broker::Broker;
pub use ending::Ended;
pub use meter::Published;
pub use scratch::Scratch;
pub use stream::Stream;

use crate::buffers::Part;
use crate::command::{Attach, Command, Peer};
use crate::engine::{Applied, Carried, Link};
use crate::properties::Name;
use crate::session::{ReadInterest, Session};
use crate::time::{Now, Time};
use ending::End;
use login::Bound;
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
/// An unfinished frame up to this size is copied in front of the next read; a larger one grows in place.
const COPY_MAX: usize = 4 << 10;
/// Bytes of one read while there is no memory for buffers: enough for small packets.
const SMALL_READ: usize = 2 << 10;
/// Turns in which a connection that loses its session, or whose stream takes no more output, still reads what had arrived by
/// then. With a peer that never stops sending, it would continue for ever otherwise.
const LAST_TURNS: u16 = 256;

/// One connection between two turns. `V` is the broker's [`Broker::Vhost`].
pub struct Pump<V> {
    session: Box<dyn Session>,
    /// The link to the engine: set from `Attached` until `Detach` is applied.
    bound: Option<Bound<V>>,
    /// The user that logged in.
    user: Option<Name>,
    /// The peer's addresses and certificate; the engine shares it.
    peer: Arc<Peer>,
    /// An unfinished frame, or bytes that the session does not want yet.
    input: Vec<u8>,
    /// The part of the node's memory, if the buffers are large.
    part: Option<Box<Part>>,
    /// Bytes counted for buffers without a part.
    small: u32,
    /// A large packet is incomplete. Its rest is read only if there is memory for it.
    unfinished: bool,
    /// The connection was not read in this turn for lack of memory.
    held_back: bool,
    /// `input` may contain whole frames: the session did not want bytes, or the turn had parsed enough.
    declined: bool,
    /// Output that the stream has not taken yet.
    output: Output,
    /// Commands over the work limit of the last turn.
    left: Vec<Command>,
    parking: Parking,
    meter: Meter,
    /// See [`STALL`].
    stall: Duration,
    /// A login is in progress. Nothing is read meanwhile.
    logging_in: bool,
    /// The requested vhost, while the broker decides whether the user may use it. Nothing is read meanwhile.
    attaching: Option<Box<Attach>>,
    /// The engine has more for us than the last `take` had room for.
    more: bool,
    /// The next message is large, and there was no memory for it.
    wants_large: bool,
    /// We do not read although the session wants bytes.
    paused: bool,
    /// The last read returned nothing.
    read_dry: bool,
    /// The commands in `left` wait for a wake by the engine.
    waits: bool,
    /// Remaining turns in which input that has arrived is still read, after a takeover or when the stream takes no more
    /// output.
    last_turns: Option<u16>,
    /// Why the stream takes no more output.
    broken: Option<io::Error>,
    /// The session has ended, or the stream is broken.
    ended: bool,
    /// Bytes read and written that the engine has not counted yet.
    carried: Carried,
}

/// The result of a turn.
#[derive(Debug)]
pub struct Turn {
    /// There is more to do: the next turn should follow when other connections have had theirs.
    pub again: bool,
    /// How the connection ended, if it ended in this turn. Reported once.
    pub ended: Option<Ended>,
}

impl<V> Pump<V> {
    /// A pump for a connection from `peer` with this session. `parked_bytes_max`: bytes of publishes that may wait while
    /// the connection is read.
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
            attaching: None,
            more: false,
            wants_large: false,
            paused: false,
            read_dry: false,
            waits: false,
            last_turns: None,
            broken: None,
            ended: false,
            carried: Carried::default(),
        }
    }

    /// Sets the time after which a peer that does not read its output is closed.
    pub fn set_stall(&mut self, stall: Duration) {
        self.stall = stall;
    }

    /// Does everything that can be done without waiting, once.
    pub fn turn<B, S>(&mut self, now: Now, s: &mut Scratch, broker: &mut B, stream: &mut S) -> Turn
    where
        B: Broker<Vhost = V>,
        S: Stream,
    {
        let mut again = false;
        let mut ended = None;
        s.clear();
        s.is_memory_short = broker.buffers().is_some_and(|buffers| buffers.are_full());
        s.work = self.meter.begin(now.monotonic, broker.may_publish(now.monotonic));
        if !self.ended
            && let Err(end) = self.run(now, s, broker, stream, &mut again)
        {
            self.leave(&mut s.commands);
            // Before the last output is written, so that a client that has read it finds its exclusive queues deleted.
            again |= self.detach(now, broker) == Applied::Some;
            ended = Some(self.end(now, s, stream, end));
        } else {
            again |= self.detach(now, broker) == Applied::Some;
        }
        if let Some(published) = self.meter.published() {
            self.meter.wait(broker.published(now.monotonic, published));
        }
        if !s.complaints.is_empty() {
            broker.complained(&self.peer, self.user.as_ref(), &mut s.complaints);
            s.complaints.clear();
        }
        self.account(now, broker, stream.buffered());
        s.trim();
        Turn { again, ended }
    }

    /// When the next turn is due, even if nothing happens.
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
        self.session.read_interest() == ReadInterest::All && !self.is_coming_in() && self.has_room_for_input()
    }

    /// Whether the broker is deciding about a login or the vhost.
    fn is_coming_in(&self) -> bool {
        self.logging_in || self.attaching.is_some()
    }

    /// Whether the next message is large, and there was no memory for it. The connection is woken when there is.
    pub fn awaits_memory(&self) -> bool {
        self.wants_large
    }

    /// Whether all output is written.
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// Whether the session has ended and the engine was told.
    pub fn is_over(&self) -> bool {
        self.ended && self.bound.is_none()
    }

    /// The user who logged in.
    pub fn user(&self) -> Option<&Name> {
        self.user.as_ref()
    }

    /// The other end of the connection.
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
            // They were checked for parking when they were new, and come before new commands.
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
            // If there is nothing more now, the stream wakes the connection later.
            *again |= self.declined || (!self.held_back && stream.has_more()?);
        }
        // The output is empty again, so the next turn can take what did not fit. For a large message it may have to wait.
        *again |= self.more && self.output.is_empty() && !self.wants_large;
        Ok(())
    }
}
