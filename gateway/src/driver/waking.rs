//! How the engine, and the answer to a login, reach a connection's task.

use crate::directory::hashing::Answer;
use gatepost_core::engine::Wake;
use gatepost_core::event::Event;
use parking_lot::Mutex;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

/// The flag that is raised, and the task that looks at it.
pub(super) struct Waking {
    raised: AtomicBool,
    /// A task's waker is the same in all its turns.
    task: OnceLock<Waker>,
    /// The answer to the login that is under way.
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

    /// The task makes itself known, in its first turn.
    pub(super) fn introduce(&self, task: &Waker) {
        self.task.get_or_init(|| task.clone());
    }

    /// The task, once it has made itself known.
    pub(super) fn task(&self) -> Option<&Waker> {
        self.task.get()
    }

    /// Whether the flag was raised; lowers it. Must come before the engine is asked.
    pub(super) fn acknowledge(&self) -> bool {
        // A load first, which is cheaper than a swap: most turns find the flag lowered.
        self.raised.load(Ordering::Acquire) && self.raised.swap(false, Ordering::AcqRel)
    }

    pub(super) fn take_answer(&self) -> Option<Event> {
        self.answer.lock().take().map(|answer| *answer)
    }
}

impl Answer for Waking {
    /// The login is decided, on whichever thread. The connection hears of it in its next turn.
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
