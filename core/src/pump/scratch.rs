//! Buffers for the duration of a turn: one set per thread, not per connection.

use super::{COPY_MAX, READ_MAX};
use crate::command::Command;
use crate::event::Event;
use crate::properties::Codecs;
use crate::session::{Cx, TURN_WORK};
use crate::time::Now;

/// Buffers larger than this are freed after the turn.
const KEEP_BYTES: usize = 512 << 10;
const KEEP_ITEMS: usize = 8 << 10;

/// A thread's buffers.
pub struct Scratch {
    pub(super) input: Vec<u8>,
    pub(super) commands: Vec<Command>,
    pub(super) events: Vec<Event>,
    pub(super) out: Vec<u8>,
    /// See [`Cx::complain`].
    pub(super) complaints: Vec<String>,
    random: Box<dyn FnMut() -> u64>,
    /// See [`Cx::is_memory_short`].
    pub(super) is_memory_short: bool,
    /// Work units that the turn has spent on parsing.
    pub(super) work: usize,
    /// Bytes of messages that a turn takes, at most, in addition to the limit of the output. For tests: without it, a turn in the
    /// simulated world would never leave messages behind.
    pub room_bytes_max: usize,
}

impl Scratch {
    /// New buffers. `random`: source of identifiers that sessions generate.
    pub fn new(random: Box<dyn FnMut() -> u64>) -> Scratch {
        Scratch {
            input: vec![0; READ_MAX + COPY_MAX],
            commands: Vec::new(),
            events: Vec::new(),
            out: Vec::new(),
            complaints: Vec::new(),
            random,
            is_memory_short: false,
            work: 0,
            room_bytes_max: usize::MAX,
        }
    }

    /// A buffer for bytes that are read and discarded after the session's end.
    pub fn waste(&mut self) -> &mut [u8] {
        &mut self.input
    }

    pub(super) fn clear(&mut self) {
        self.commands.clear();
        self.events.clear();
        self.out.clear();
        self.work = 0;
    }

    /// Whether the turn must stop parsing.
    pub(super) fn is_full(&self) -> bool {
        self.work >= TURN_WORK
    }

    /// Frees memory that a large message or batch needed.
    pub(super) fn trim(&mut self) {
        if self.out.capacity() > KEEP_BYTES {
            self.out = Vec::new();
        }
        if self.commands.capacity() > KEEP_ITEMS {
            self.commands = Vec::new();
        }
        if self.events.capacity() > KEEP_ITEMS {
            self.events = Vec::new();
        }
    }

    /// The context that is lent to a session, and the input.
    pub(super) fn cx<'a>(&'a mut self, now: Now, codecs: &'a Codecs) -> (Cx<'a>, &'a [u8]) {
        let cx = Cx {
            now,
            commands: &mut self.commands,
            out: &mut self.out,
            codecs,
            random: &mut *self.random,
            work: self.work,
            complaints: &mut self.complaints,
            is_memory_short: self.is_memory_short,
        };
        (cx, &self.input)
    }
}
