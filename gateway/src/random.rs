//! Unpredictable numbers for generated names, and seeds.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

/// The next number: SipHash of a counter, with a random key per thread.
pub(crate) fn random() -> u64 {
    thread_local! {
        static STATE: (RandomState, Cell<u64>) = (RandomState::new(), Cell::new(0));
    }
    STATE.with(|(key, counter)| {
        counter.set(counter.get().wrapping_add(1));
        key.hash_one(counter.get())
    })
}
