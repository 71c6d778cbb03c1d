//! Numbers nobody can guess, for names the gateway makes up, salts and seeds.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

/// The next one: SipHash, under a key the system chose for this thread, of a counter.
pub(crate) fn random() -> u64 {
    thread_local! {
        static STATE: (RandomState, Cell<u64>) = (RandomState::new(), Cell::new(0));
    }
    STATE.with(|(key, counter)| {
        counter.set(counter.get().wrapping_add(1));
        key.hash_one(counter.get())
    })
}
