//! Connections of the simulated world: a session on the pump that the gateway runs, with a script in place of the socket.
//!
//! ```text
//!   the test ──feed──► incoming ──┐                   ┌── Engine of the World
//!                                 ├── Pump (a turn) ──┤
//!   the test ◄─drain── outgoing ◄─┘                   └── logins that wait for `answer_logins`
//! ```
//!
//! A turn happens where the test says so. [`World::is_ready`] says what the gateway would do: a connection has a turn only
//! if its stream, the engine, a login's answer or its timer calls it, or if its last turn asked for another. Whatever is
//! forgotten by all of them is forgotten here too, and [`World`] fails as soon as the engine has something for a connection
//! that nobody will call.

use super::disk::Rng;
use super::world::World;
use crate::command::{Attach, Login, Peer};
use crate::engine::{Engine, Wake};
use crate::event::Event;
use crate::fault::{Fault, FaultKind};
use crate::properties::{Codecs, Name};
use crate::pump::{Broker, Ended, Pump, Scratch, Stream, Turn};
use crate::session::Protocol;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A connection of a [`World`] that has a session, by the order of opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pipe(pub usize);

/// All of them, and what their thread would lend them.
pub(super) struct Piped {
    pipes: Vec<Option<Box<Connection>>>,
    /// `None` during a turn.
    scratch: Option<Scratch>,
}

struct Connection {
    pump: Pump<()>,
    stream: Script,
    desk: Arc<Desk>,
    /// Its last turn asked for another.
    again: bool,
    ended: Option<Ended>,
}

/// The stream.
struct Script {
    incoming: Vec<u8>,
    /// Nothing follows what is in `incoming`.
    closed: bool,
    outgoing: Vec<u8>,
    /// Bytes it takes until the test makes more room.
    room: usize,
    /// A write or a read came to nothing: the next turn comes when it would not.
    wants_room: bool,
    /// Each write fails.
    is_deaf: bool,
}

/// Where the engine and the login leave word for the connection.
#[derive(Default)]
struct Desk {
    called: AtomicBool,
    /// The login that is under way.
    asked: parking_lot::Mutex<Option<Login>>,
    answer: parking_lot::Mutex<Option<Event>>,
}

impl Wake for Desk {
    fn wake(&self) {
        self.called.store(true, Ordering::Relaxed);
    }
}

impl Stream for Script {
    fn read(&mut self, space: &mut [u8]) -> io::Result<Option<usize>> {
        let size = self.incoming.len().min(space.len());
        if size == 0 {
            return Ok(self.closed.then_some(0));
        }
        space[..size].copy_from_slice(&self.incoming[..size]);
        self.incoming.drain(..size);
        Ok(Some(size))
    }
    fn read_onto(&mut self, onto: &mut Vec<u8>, bytes_max: usize) -> io::Result<Option<usize>> {
        let size = self.incoming.len().min(bytes_max);
        if size == 0 {
            return Ok(self.closed.then_some(0));
        }
        onto.extend(self.incoming.drain(..size));
        Ok(Some(size))
    }
    fn has_more(&mut self) -> io::Result<bool> {
        Ok(!self.incoming.is_empty() || self.closed)
    }
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_deaf {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let size = bytes.len().min(self.room);
        self.outgoing.extend_from_slice(&bytes[..size]);
        self.room -= size;
        self.wants_room = size < bytes.len();
        Ok(size)
    }
}

/// The broker of one connection's turn.
struct Visitor<'a> {
    world: &'a mut World,
    codecs: Codecs,
    desk: Arc<Desk>,
}

impl Broker for Visitor<'_> {
    type Vhost = ();
    fn enter<T>(&mut self, (): &(), visit: impl FnOnce(&mut Engine) -> T) -> T {
        self.world.turn(visit)
    }
    fn vhost(&mut self, attach: &Attach, _: &Name) -> Result<(), Fault> {
        if attach.vhost == *self.world.vhost_name() {
            Ok(())
        } else {
            Err(Fault::new(FaultKind::NotFound, "no such vhost"))
        }
    }
    fn waker(&mut self) -> Arc<dyn Wake> {
        self.desk.clone()
    }
    fn acknowledge(&mut self) -> bool {
        self.desk.called.swap(false, Ordering::Relaxed)
    }
    fn log_in(&mut self, login: Login, _: &Peer) {
        *self.desk.asked.lock() = Some(login);
    }
    fn login_answer(&mut self, _: &Peer) -> Option<Event> {
        self.desk.answer.lock().take()
    }
    fn codecs(&self) -> &Codecs {
        &self.codecs
    }
}

impl Piped {
    pub(super) fn new(seed: u64) -> Piped {
        let mut random = Rng::new(seed);
        Piped {
            pipes: Vec::new(),
            scratch: Some(Scratch::new(Box::new(move || random.word()))),
        }
    }
}

/// Publishes that wait at a connection of this world, in bytes.
const PARKED_BYTES_MAX: usize = 64 << 10;

impl World {
    /// A connection from this machine, that speaks `protocol`. Nothing is parsed before its first turn.
    pub fn open(&mut self, protocol: &dyn Protocol) -> Pipe {
        let peer = Peer::on_this_machine();
        let connection = Connection {
            pump: Pump::new(protocol.open(self.now(), peer.clone()), peer, PARKED_BYTES_MAX),
            stream: Script {
                incoming: Vec::new(),
                closed: false,
                outgoing: Vec::new(),
                room: usize::MAX,
                wants_room: false,
                is_deaf: false,
            },
            desk: Arc::default(),
            again: false,
            ended: None,
        };
        self.piped.pipes.push(Some(Box::new(connection)));
        Pipe(self.piped.pipes.len() - 1)
    }
    /// The client sends; the bytes arrive.
    pub fn feed(&mut self, pipe: Pipe, bytes: &[u8]) {
        if let Some(c) = self.pipe_mut(pipe) {
            c.stream.incoming.extend_from_slice(bytes);
        }
    }
    /// The client closes its end, behind what it sent.
    pub fn close(&mut self, pipe: Pipe) {
        if let Some(c) = self.pipe_mut(pipe) {
            c.stream.closed = true;
        }
    }
    /// What the client has received since this was last asked.
    pub fn drain(&mut self, pipe: Pipe) -> Vec<u8> {
        self.pipe_mut(pipe)
            .map_or_else(Vec::new, |c| std::mem::take(&mut c.stream.outgoing))
    }
    /// The stream takes no more output: from here on each write fails. What has arrived can still be read.
    pub fn break_output(&mut self, pipe: Pipe) {
        if let Some(c) = self.pipe_mut(pipe) {
            c.stream.is_deaf = true;
        }
    }
    /// The client takes so many bytes, and no more until this is called again.
    pub fn set_room(&mut self, pipe: Pipe, bytes: usize) {
        if let Some(c) = self.pipe_mut(pipe) {
            c.stream.room = bytes;
        }
    }
    /// Whether something calls the connection to a turn.
    pub fn is_ready(&self, pipe: Pipe) -> bool {
        let now = self.now().monotonic;
        self.pipe(pipe).is_some_and(|c| {
            let writable = c.stream.wants_room && (c.stream.room > 0 || c.stream.is_deaf);
            let readable = c.pump.wants_input() && (!c.stream.incoming.is_empty() || c.stream.closed);
            let due = c.pump.poll_timeout().is_some_and(|due| due <= now);
            c.is_called() || writable || (c.ended.is_none() && (readable || due))
        })
    }
    /// One turn of the connection, whether or not it is called. `room_bytes_max`: messages it takes at most, in bytes; with
    /// 0 it has no room.
    pub fn turn_of(&mut self, pipe: Pipe, room_bytes_max: usize) {
        let Some(mut c) = self.piped.pipes.get_mut(pipe.0).and_then(Option::take) else {
            return;
        };
        let mut scratch = self.piped.scratch.take().expect("no turn within a turn");
        scratch.room_bytes_max = room_bytes_max;
        let now = self.now();
        let mut broker = Visitor {
            codecs: self.codecs().clone(),
            desk: c.desk.clone(),
            world: self,
        };
        c.stream.wants_room = false;
        let Turn { again, ended } = c.pump.turn(now, &mut scratch, &mut broker, &mut c.stream);
        c.again = again;
        if c.ended.is_none() {
            c.ended = ended;
        }
        if c.ended.as_ref().is_some_and(|ended| !ended.broken) && c.pump.flush(now, &mut c.stream).is_err() {
            unreachable!("a script does not break");
        }
        self.piped.scratch = Some(scratch);
        self.piped.pipes[pipe.0] = Some(c);
        self.check_pipes();
    }
    /// How the connection ended, if it has.
    pub fn ended(&self, pipe: Pipe) -> Option<&Ended> {
        self.pipe(pipe).and_then(|c| c.ended.as_ref())
    }
    /// Whether the connection is bound to the vhost.
    pub fn is_attached(&self, pipe: Pipe) -> bool {
        self.pipe(pipe).is_some_and(|c| c.pump.link().is_some())
    }
    /// Memory of the connection's buffers.
    pub fn buffered_bytes(&self, pipe: Pipe) -> usize {
        self.pipe(pipe).map_or(0, |c| c.pump.buffered_bytes())
    }
    /// The connection breaks: what was on its way is lost, and the engine is told at once; or, if what the connection has
    /// asked for waits for another one, after that.
    pub fn break_pipe(&mut self, pipe: Pipe) {
        let error = io::Error::from(io::ErrorKind::ConnectionReset);
        if let Some(c) = self.pipe_mut(pipe).filter(|c| c.ended.is_none()) {
            c.ended = Some(c.pump.break_off(&error));
        }
        self.turn_of(pipe, 0);
        while self.pipe(pipe).is_some_and(|c| !c.pump.is_over() && c.is_called()) {
            self.turn_of(pipe, 0);
        }
        if let Some(slot) = self.piped.pipes.get_mut(pipe.0)
            && slot.as_ref().is_some_and(|c| c.pump.is_over())
        {
            *slot = None;
        }
    }
    /// Answers the logins that are under way, with what `check` says of them.
    pub fn answer_logins(&mut self, mut check: impl FnMut(&Login) -> Event) {
        for c in self.piped.pipes.iter().flatten() {
            if let Some(login) = c.desk.asked.lock().take() {
                *c.desk.answer.lock() = Some(check(&login));
                c.desk.wake();
            }
        }
    }
    /// Everybody may come in, everybody who is called has a turn, and the log catches up, until nobody is called.
    pub fn settle(&mut self) {
        for _ in 0..SETTLED_AFTER {
            self.answer_logins(|login| {
                let user = match login {
                    Login::Password { user, .. } | Login::Renewal { user, .. } => user.clone(),
                    _ => "guest".into(),
                };
                Event::authenticated(user)
            });
            self.catch_up();
            let ready: Vec<Pipe> = self.pipes().filter(|pipe| self.is_ready(*pipe)).collect();
            if ready.is_empty() && self.is_caught_up() {
                return;
            }
            for pipe in ready {
                self.turn_of(pipe, usize::MAX);
            }
        }
        panic!("connections call each other for ever");
    }
    /// All connections that are there.
    pub fn pipes(&self) -> impl Iterator<Item = Pipe> + use<> {
        let open = self.piped.pipes.iter().enumerate().filter(|(_, c)| c.is_some());
        open.map(|(n, _)| Pipe(n)).collect::<Vec<_>>().into_iter()
    }

    pub(super) fn forget_pipes(&mut self) {
        self.piped.pipes.iter_mut().for_each(|c| *c = None);
    }
    pub(super) fn break_pipes(&mut self) {
        while self.pipes().next().is_some() {
            for pipe in self.pipes() {
                self.break_pipe(pipe);
            }
        }
    }
    /// Nobody whom the engine has something for may be forgotten.
    pub(super) fn check_pipes(&self) {
        for (n, c) in self.piped.pipes.iter().enumerate() {
            let Some(c) = c else { continue };
            let Some(link) = c.pump.link() else { continue };
            let told = c.is_called() || c.stream.wants_room || c.ended.is_some();
            assert!(told || !self.has_work(link), "connection {n} was not woken");
        }
    }

    fn pipe(&self, pipe: Pipe) -> Option<&Connection> {
        self.piped.pipes.get(pipe.0)?.as_deref()
    }
    fn pipe_mut(&mut self, pipe: Pipe) -> Option<&mut Connection> {
        self.piped.pipes.get_mut(pipe.0)?.as_deref_mut()
    }
}

impl Connection {
    /// Its own thread, or somebody's wake, will give it a turn.
    fn is_called(&self) -> bool {
        self.again || self.desk.called.load(Ordering::Relaxed)
    }
}

/// Rounds of turns after which the world does not believe that it will ever be quiet.
const SETTLED_AFTER: usize = 10_000;
