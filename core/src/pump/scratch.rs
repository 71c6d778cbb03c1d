//! Buffers that a turn needs and a connection does not keep: one set per thread.

use super::{COPY_MAX, READ_MAX};
use crate::command::Command;
use crate::event::Event;
use crate::properties::Codecs;
use crate::session::{Cx, TURN_WORK};
use crate::time::Now;

/// Over this a buffer is given back after the turn that needed it.
const KEEP_BYTES: usize = 512 << 10;
const KEEP_ITEMS: usize = 8 << 10;

/// See the module.
pub struct Scratch {
    pub(super) input: Vec<u8>,
    pub(super) commands: Vec<Command>,
    pub(super) events: Vec<Event>,
    pub(super) out: Vec<u8>,
    /// See [`Cx::complain`].
    pub(super) complaints: Vec<String>,
    random: Box<dyn FnMut() -> u64>,
    /// What the turn has parsed, in work units.
    pub(super) work: usize,
    /// Bytes of messages that a turn takes at most, beside the room the output has. For tests: without it, the simulated
    /// world would never see a turn that has to leave messages behind.
    pub room_bytes_max: usize,
}

impl Scratch {
    /// `random` is the sessions' source of identifiers they make up.
    pub fn new(random: Box<dyn FnMut() -> u64>) -> Scratch {
        Scratch {
            input: vec![0; READ_MAX + COPY_MAX],
            commands: Vec::new(),
            events: Vec::new(),
            out: Vec::new(),
            complaints: Vec::new(),
            random,
            work: 0,
            room_bytes_max: usize::MAX,
        }
    }

    /// Room for what a read without a session brings, which nobody looks at.
    pub fn waste(&mut self) -> &mut [u8] {
        &mut self.input
    }

    pub(super) fn clear(&mut self) {
        self.commands.clear();
        self.events.clear();
        self.out.clear();
        self.work = 0;
    }

    /// Whether the turn has parsed enough.
    pub(super) fn is_full(&self) -> bool {
        self.work >= TURN_WORK
    }

    /// Gives back what one large message or batch needed.
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

    /// What a session is lent, beside the input.
    pub(super) fn cx<'a>(&'a mut self, now: Now, codecs: &'a Codecs) -> (Cx<'a>, &'a [u8]) {
        let cx = Cx {
            now,
            commands: &mut self.commands,
            out: &mut self.out,
            codecs,
            random: &mut *self.random,
            work: self.work,
            complaints: &mut self.complaints,
        };
        (cx, &self.input)
    }
}
