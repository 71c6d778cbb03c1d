//! Connections that have not logged in yet. Over a bound, the oldest that has nothing to say gives way to a new one.
//!
//! A client that behaves is through in a few round trips. One that has sent what we have not looked at yet keeps its place:
//! it waits for us, not we for it.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Waker;

/// All of them, oldest first.
#[derive(Default)]
pub(crate) struct HalfOpen {
    entrants: Mutex<VecDeque<Weak<Entrant>>>,
    count: Arc<AtomicUsize>,
}

/// One of them; it counts for as long as it exists.
pub(crate) struct Entrant {
    /// Its place is given to another.
    is_cut: AtomicBool,
    /// A task's waker is the same in all its turns.
    task: OnceLock<Waker>,
    count: Arc<AtomicUsize>,
}

impl HalfOpen {
    /// One more, and the oldest ones over `max` have to go if they do not go on by themselves.
    pub(crate) fn enter(&self, max: usize) -> Arc<Entrant> {
        let entrant = Arc::new(Entrant {
            is_cut: AtomicBool::new(false),
            task: OnceLock::new(),
            count: Arc::clone(&self.count),
        });
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut oldest = None;
        {
            let mut entrants = self.entrants.lock();
            entrants.push_back(Arc::downgrade(&entrant));
            if self.count() > max {
                while oldest.is_none()
                    && let Some(first) = entrants.pop_front()
                {
                    oldest = first.upgrade();
                }
            } else if entrants.len() > 2 * (self.count() + SPARE) {
                entrants.retain(|entrant| entrant.strong_count() > 0);
            }
        }
        if let Some(oldest) = oldest {
            oldest.is_cut.store(true, Ordering::Release);
            if let Some(task) = oldest.task.get() {
                task.wake_by_ref();
            }
        }
        entrant
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// Entries of connections that are through, which are kept until a clean-up is worth its while.
const SPARE: usize = 64;

impl Entrant {
    /// The task makes itself known, in its first turn.
    pub(crate) fn introduce(&self, task: &Waker) {
        self.task.get_or_init(|| task.clone());
    }

    /// Whether it has to go, if it cannot go on now.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }
}

impl Drop for Entrant {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way_and_who_is_through_does_not_count() {
        let half_open = HalfOpen::default();
        let first: Vec<_> = (0..3).map(|_| half_open.enter(3)).collect();
        assert!(first.iter().all(|entrant| !entrant.is_cut()));
        let fourth = half_open.enter(3);
        assert_eq!(
            first.iter().map(|entrant| entrant.is_cut()).collect::<Vec<_>>(),
            [true, false, false]
        );
        drop(first);
        assert_eq!(half_open.count(), 1);
        // Thousands come and go, and leave nothing behind.
        for _ in 0..5_000 {
            drop(half_open.enter(3));
        }
        assert!(!fourth.is_cut());
        assert!(half_open.entrants.lock().len() <= 2 * (1 + SPARE) + 1);
    }
}
