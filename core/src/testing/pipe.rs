//! The parts of a connection of the simulated world: a pump, a script in place of the socket, and the place where wakes and
//! the answers of logins arrive. [`World`](super::world::World) drives them: see `connections.rs`.

use super::disk::Rng;
use crate::buffers::Buffers;
use crate::command::Login;
use crate::engine::Wake;
use crate::event::Event;
use crate::pump::{Ended, Pump, Scratch, Stream};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A connection of the world that has a session, numbered in the order of opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pipe(pub usize);

/// All connections, and the buffers that an I/O thread would lend them.
pub(super) struct Piped {
    pub(super) pipes: Vec<Option<Box<Connection>>>,
    /// `None` during a turn.
    pub(super) scratch: Option<Scratch>,
    /// The limit on the buffers of all connections; `None`: no limit.
    pub(super) buffers: Option<Arc<Buffers>>,
}

pub(super) struct Connection {
    pub(super) pump: Pump<()>,
    pub(super) stream: Script,
    pub(super) mailbox: Arc<Mailbox>,
    /// Its last turn asked for another one.
    pub(super) again: bool,
    pub(super) ended: Option<Ended>,
}

/// The stream of a connection, which a test fills and drains.
pub(super) struct Script {
    pub(super) incoming: Vec<u8>,
    /// The client has closed its end: nothing follows `incoming`.
    pub(super) closed: bool,
    pub(super) outgoing: Vec<u8>,
    /// Bytes that it accepts until the test makes more room.
    pub(super) room: usize,
    /// A write was cut short: the connection has a turn when there is room again.
    pub(super) wants_room: bool,
    /// Every write fails.
    pub(super) is_output_broken: bool,
}

/// Receives the engine's wakes and the answer of a login, until the connection's next turn.
#[derive(Default)]
pub(super) struct Mailbox {
    pub(super) called: AtomicBool,
    /// The login that waits for an answer.
    pub(super) asked: parking_lot::Mutex<Option<Login>>,
    pub(super) answer: parking_lot::Mutex<Option<Event>>,
}

impl Wake for Mailbox {
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
        if self.is_output_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let size = bytes.len().min(self.room);
        self.outgoing.extend_from_slice(&bytes[..size]);
        self.room -= size;
        self.wants_room = size < bytes.len();
        Ok(size)
    }
}

impl Script {
    pub(super) fn new() -> Script {
        Script {
            incoming: Vec::new(),
            closed: false,
            outgoing: Vec::new(),
            room: usize::MAX,
            wants_room: false,
            is_output_broken: false,
        }
    }
}

impl Piped {
    pub(super) fn new(seed: u64) -> Piped {
        let mut random = Rng::new(seed);
        Piped {
            pipes: Vec::new(),
            scratch: Some(Scratch::new(Box::new(move || random.word()))),
            buffers: None,
        }
    }
}

impl Connection {
    /// Whether it will have a turn by itself: it asked for one, or was woken.
    pub(super) fn is_called(&self) -> bool {
        self.again || self.mailbox.called.load(Ordering::Relaxed)
    }
}
