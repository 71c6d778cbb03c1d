//! Counts of messages on their way, for the flow map; and what traces have noted of addresses.

use crate::message::{Dialect, route_hash};
use std::num::NonZeroU64;

/// Messages and the bytes of their bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages.
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

impl Tally {
    /// Counts one message.
    #[inline]
    pub(crate) fn count(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }

    /// Adds another tally.
    pub fn add(&mut self, other: Tally) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }

    /// Whether nothing is counted.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }
}

/// A topic or an exchange that clients publish to, as a number: the hash of its address. Differs from process to process. Two of the same number would be shown as one, with a chance of 1 in 2^64 for each pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(pub(crate) NonZeroU64);

impl Source {
    /// One topic. `route_hash`: of a message to it.
    #[inline]
    pub(crate) fn topic(route_hash: u64) -> Source {
        Source(NonZeroU64::new(route_hash).unwrap_or(NonZeroU64::MIN))
    }

    /// A whole exchange.
    pub fn exchange(name: &str) -> Source {
        Source::topic(route_hash(name.as_bytes(), b"", Dialect::Dot))
    }
}

/// What traces have noted of an address: see `engine/asked.rs`. The default says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark(pub(crate) u32);
