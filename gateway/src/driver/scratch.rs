//! Buffers that a turn needs and a connection does not keep: one set per thread.

use gatepost_core::command::Command;
use gatepost_core::event::Event;
use gatepost_core::session::TURN_WORK;
use std::cell::RefCell;

/// Bytes of one read.
pub(super) const READ_MAX: usize = 64 << 10;
/// Over this a buffer is given back after the turn that needed it.
const KEEP_BYTES: usize = 512 << 10;
const KEEP_ITEMS: usize = 8 << 10;

/// See the module.
pub(super) struct Scratch {
    pub(super) input: Vec<u8>,
    pub(super) commands: Vec<Command>,
    pub(super) events: Vec<Event>,
    pub(super) out: Vec<u8>,
    pub(super) random: fn() -> u64,
    /// What the turn has parsed, in work units.
    pub(super) work: usize,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        input: vec![0; READ_MAX + super::COPY_MAX],
        commands: Vec::new(),
        events: Vec::new(),
        out: Vec::new(),
        random: super::made_up,
        work: 0,
    });
}

/// Runs a turn with this thread's buffers.
pub(super) fn with<T>(turn: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(turn)
}

impl Scratch {
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
}
