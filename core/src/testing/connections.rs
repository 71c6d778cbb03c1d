//! Connections of the simulated world: a session on the pump that the gateway runs, with a script in place of the socket.
//!
//! ```text
//!   the test ──feed──► incoming ──┐                   ┌── Engine of the World
//!                                 ├── Pump (a turn) ──┤
//!   the test ◄─drain── outgoing ◄─┘                   └── logins that wait for `answer_logins`
//! ```
//!
//! The test decides when a connection has a turn. [`World::is_ready`] says whether the gateway would give it one: if its
//! stream, the engine, the answer of a login or its timer calls it, or if its last turn asked for another. So a missing
//! wake shows: [`World`] fails as soon as the engine has something for a connection that nothing will call.

use super::pipe::{Connection, Mailbox, Pipe, Script};
use super::world::World;
use crate::buffers::Buffers;
use crate::command::{Attach, Login, Peer};
use crate::engine::{Engine, Wake};
use crate::event::Event;
use crate::fault::{Fault, FaultKind};
use crate::properties::{Codecs, Name};
use crate::pump::{Broker, Ended, Pump, Turn};
use crate::session::Protocol;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The broker that one connection's turn sees.
struct Visitor<'a> {
    world: &'a mut World,
    codecs: Codecs,
    mailbox: Arc<Mailbox>,
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
        self.mailbox.clone()
    }
    fn acknowledge(&mut self) -> bool {
        self.mailbox.called.swap(false, Ordering::Relaxed)
    }
    fn log_in(&mut self, login: Login, _: &Peer) {
        *self.mailbox.asked.lock() = Some(login);
    }
    fn login_answer(&mut self, _: &Peer) -> Option<Event> {
        self.mailbox.answer.lock().take()
    }
    fn codecs(&self) -> &Codecs {
        &self.codecs
    }
    fn buffers(&self) -> Option<&Arc<Buffers>> {
        self.world.piped.buffers.as_ref()
    }
}

/// The most bytes of publishes that a connection parks.
const PARKED_BYTES_MAX: usize = 64 << 10;

impl World {
    /// Limits the buffers of all connections together.
    pub fn limit_buffers(&mut self, bytes_max: usize) -> Arc<Buffers> {
        let buffers = Arc::new(Buffers::new(bytes_max));
        self.piped.buffers = Some(Arc::clone(&buffers));
        buffers
    }
    /// Opens a connection from this machine that speaks `protocol`. Nothing is parsed before its first turn.
    pub fn open(&mut self, protocol: &dyn Protocol) -> Pipe {
        let peer = Peer::on_this_machine();
        let connection = Connection {
            pump: Pump::new(protocol.open(self.now(), peer.clone()), peer, PARKED_BYTES_MAX),
            stream: Script::new(),
            mailbox: Arc::default(),
            again: false,
            ended: None,
        };
        self.piped.pipes.push(Some(Box::new(connection)));
        Pipe(self.piped.pipes.len() - 1)
    }
    /// Bytes from the client arrive.
    pub fn feed(&mut self, pipe: Pipe, bytes: &[u8]) {
        if let Some(c) = self.pipe_mut(pipe) {
            c.stream.incoming.extend_from_slice(bytes);
        }
    }
    /// The client closes its end after what it has sent.
    pub fn close(&mut self, pipe: Pipe) {
        if let Some(c) = self.pipe_mut(pipe) {
            c.stream.closed = true;
        }
    }
    /// The bytes that the client has received since the last call.
    pub fn drain(&mut self, pipe: Pipe) -> Vec<u8> {
        self.pipe_mut(pipe)
            .map_or_else(Vec::new, |c| std::mem::take(&mut c.stream.outgoing))
    }
    /// From now on every write fails. What has arrived can still be read.
    pub fn break_output(&mut self, pipe: Pipe) {
        if let Some(c) = self.pipe_mut(pipe) {
            c.stream.is_output_broken = true;
        }
    }
    /// The client accepts this many bytes, and no more until the next call.
    pub fn set_room(&mut self, pipe: Pipe, bytes: usize) {
        if let Some(c) = self.pipe_mut(pipe) {
            c.stream.room = bytes;
        }
    }
    /// Whether the gateway would give the connection a turn now.
    pub fn is_ready(&self, pipe: Pipe) -> bool {
        let now = self.now().monotonic;
        self.pipe(pipe).is_some_and(|c| {
            let writable = c.stream.wants_room && (c.stream.room > 0 || c.stream.is_output_broken);
            let readable = c.pump.wants_input() && (!c.stream.incoming.is_empty() || c.stream.closed);
            let due = c.pump.poll_timeout().is_some_and(|due| due <= now);
            c.is_called() || writable || (c.ended.is_none() && (readable || due))
        })
    }
    /// Gives the connection one turn, whether or not it is called. `room_bytes_max`: the most bytes of messages that it
    /// takes; 0: none.
    pub fn turn_of(&mut self, pipe: Pipe, room_bytes_max: usize) {
        let Some(mut c) = self.piped.pipes.get_mut(pipe.0).and_then(Option::take) else {
            return;
        };
        let mut scratch = self.piped.scratch.take().expect("no turn within a turn");
        scratch.room_bytes_max = room_bytes_max;
        let now = self.now();
        let mut broker = Visitor {
            codecs: self.codecs().clone(),
            mailbox: c.mailbox.clone(),
            world: self,
        };
        c.stream.wants_room = false;
        let Turn { again, ended } = c.pump.turn(now, &mut scratch, &mut broker, &mut c.stream);
        c.again = again;
        if c.ended.is_none() {
            c.ended = ended;
        }
        if c.ended.as_ref().is_some_and(|ended| !ended.broken) && c.pump.flush(now, &mut c.stream).is_err() {
            unreachable!("a script can be written to, unless the connection is broken");
        }
        self.piped.scratch = Some(scratch);
        self.piped.pipes[pipe.0] = Some(c);
        self.check_pipes();
    }
    /// How the connection ended; `None`: it has not.
    pub fn ended(&self, pipe: Pipe) -> Option<&Ended> {
        self.pipe(pipe).and_then(|c| c.ended.as_ref())
    }
    /// Whether the connection is attached to the vhost.
    pub fn is_attached(&self, pipe: Pipe) -> bool {
        self.pipe(pipe).is_some_and(|c| c.pump.link().is_some())
    }
    /// Bytes that the connection's buffers occupy.
    pub fn buffered_bytes(&self, pipe: Pipe) -> usize {
        self.pipe(pipe).map_or(0, |c| c.pump.buffered_bytes())
    }
    /// Breaks the connection: bytes in flight are lost. The engine is told at once or, if a command of the connection waits
    /// for another connection, after that.
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
    /// Answers the logins that wait, with what `check` returns.
    pub fn answer_logins(&mut self, mut check: impl FnMut(&Login) -> Event) {
        for c in self.piped.pipes.iter().flatten() {
            if let Some(login) = c.mailbox.asked.lock().take() {
                *c.mailbox.answer.lock() = Some(check(&login));
                c.mailbox.wake();
            }
        }
    }
    /// Accepts every login, gives a turn to every connection that is called, and lets the log catch up, until no
    /// connection is called.
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
        panic!("connections wake each other without end");
    }
    /// All open connections.
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
    /// Asserts that every connection that the engine has something for will have a turn.
    pub(super) fn check_pipes(&self) {
        for (n, c) in self.piped.pipes.iter().enumerate() {
            let Some(c) = c else { continue };
            let Some(link) = c.pump.link() else { continue };
            let told = c.is_called() || c.stream.wants_room || c.ended.is_some() || c.pump.awaits_memory();
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

/// Rounds of turns after which connections are assumed to wake each other without end.
const SETTLED_AFTER: usize = 10_000;
