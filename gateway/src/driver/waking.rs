//! How the engine, and the answer to a login, wake a connection's task.

use crate::directory::hashing::Answer;
use gatepost_core::engine::Wake;
use gatepost_core::event::Event;
use parking_lot::Mutex;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

/// A flag that says that there is work for the connection, and the task to wake.
pub(super) struct Waking {
    raised: AtomicBool,
    /// Set once: a task's waker is the same in all its turns.
    task: OnceLock<Waker>,
    /// The answer to the login in progress.
    answer: Mutex<Option<Box<Event>>>,
}

impl Waking {
    pub(super) fn new() -> Waking {
        Waking {
            raised: AtomicBool::new(false),
            task: OnceLock::new(),
            answer: Mutex::new(None),
        }
    }

    /// Registers the task; called in its first turn.
    pub(super) fn introduce(&self, task: &Waker) {
        self.task.get_or_init(|| task.clone());
    }

    /// The task, once it is registered.
    pub(super) fn task(&self) -> Option<&Waker> {
        self.task.get()
    }

    /// Clears the flag and returns whether it was set. Call it before asking the engine, else a wake in between is lost.
    pub(super) fn acknowledge(&self) -> bool {
        // A load is cheaper than a swap, and most turns find the flag clear.
        self.raised.load(Ordering::Acquire) && self.raised.swap(false, Ordering::AcqRel)
    }

    pub(super) fn take_answer(&self) -> Option<Event> {
        self.answer.lock().take().map(|answer| *answer)
    }
}

impl Answer for Waking {
    /// Stores the login's answer and wakes the connection, which reads it in its next turn. Callable from any thread.
    fn answer(&self, answer: Event) {
        *self.answer.lock() = Some(Box::new(answer));
        self.wake();
    }
}

impl Wake for Waking {
    fn wake(&self) {
        if !self.raised.swap(true, Ordering::AcqRel)
            && let Some(task) = self.task.get()
        {
            task.wake_by_ref();
        }
    }
}
