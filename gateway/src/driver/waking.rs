//! How the engine reaches a connection's task.

use crate::threads::Shared;
use gatepost_core::engine::Wake;
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

impl Wake for Waking {
    fn wake(&self) {
        if !self.raised.swap(true, Ordering::AcqRel)
            && let Some(task) = self.task.get()
        {
            self.thread.wake(task);
        }
    }
}
