//! Connections that have not logged in yet. Over a limit, the oldest one that has sent nothing new is closed for a new one.
//!
//! A normal client logs in within a few round trips. A connection with bytes that we have not read yet is not closed,
//! because it waits for us.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Waker;

/// The connections that have not logged in, oldest first.
#[derive(Default)]
pub(crate) struct HalfOpen {
    entrants: Mutex<VecDeque<Weak<Entrant>>>,
    count: Arc<AtomicUsize>,
}

/// A connection that has not logged in. It is counted until this is dropped.
pub(crate) struct Entrant {
    /// It must close as soon as it has nothing to read.
    is_cut: AtomicBool,
    /// The connection's waker, which is the same in all its turns.
    task: OnceLock<Waker>,
    count: Arc<AtomicUsize>,
}

impl HalfOpen {
    /// Adds a connection. If there are more than `max`, tells the oldest one to close.
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

    /// Number of connections that have not logged in.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// Entries of connections that have logged in or closed are removed when there are this many more than live ones.
const SPARE: usize = 64;

impl Entrant {
    /// Stores the connection's waker. Called in its first turn.
    pub(crate) fn introduce(&self, task: &Waker) {
        self.task.get_or_init(|| task.clone());
    }

    /// Whether the connection must close unless it has something to read.
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
        // Connections that come and go leave no entries behind.
        for _ in 0..5_000 {
            drop(half_open.enter(3));
        }
        assert!(!fourth.is_cut());
        assert!(half_open.entrants.lock().len() <= 2 * (1 + SPARE) + 1);
    }
}
