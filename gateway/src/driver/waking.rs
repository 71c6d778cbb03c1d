//! How the engine reaches a connection's task.

use crate::threads::Shared;
use gatepost_core::engine::Wake;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

/// The flag the engine raises, and the task that looks at it.
pub(super) struct Waking {
    raised: AtomicBool,
    /// A task's waker is the same in all its turns.
    task: OnceLock<Waker>,
    thread: Arc<Shared>,
}

impl Waking {
    pub(super) fn new(thread: Arc<Shared>) -> Waking {
        Waking {
            raised: AtomicBool::new(false),
            task: OnceLock::new(),
            thread,
        }
    }

    /// The task makes itself known, in its first turn.
    pub(super) fn introduce(&self, task: &Waker) {
        self.task.get_or_init(|| task.clone());
    }

    /// Whether the flag was raised; lowers it. Must come before the engine is asked.
    pub(super) fn acknowledge(&self) -> bool {
        // The plain look first: most turns find it lowered.
        self.raised.load(Ordering::Acquire) && self.raised.swap(false, Ordering::AcqRel)
    }
}

thread_local! {
    /// The connection that is with the engine right now, by address; 0: none.
    static VISITING: Cell<usize> = const { Cell::new(0) };
}

impl Waking {
    /// Runs a visit to the engine that applies and then takes. What it applies may wake the connection itself, for what
    /// it takes a moment later; that call is not worth another turn. Calls from other threads are heard as ever.
    pub(super) fn during<T>(&self, visit: impl FnOnce() -> T) -> T {
        VISITING.set(self.address());
        let result = visit();
        VISITING.set(0);
        result
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

impl Wake for Waking {
    fn wake(&self) {
        if VISITING.get() == self.address() {
            return;
        }
        if !self.raised.swap(true, Ordering::AcqRel)
            && let Some(task) = self.task.get()
        {
            self.thread.wake(task);
        }
    }
}
