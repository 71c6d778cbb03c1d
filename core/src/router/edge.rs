//! A binding as the router keeps it: with the numbers of the two ends that it connects.

use super::End;
use crate::arguments;
use crate::binding::Binding;
use crate::message::Dialect;
use crate::properties::Table;
use foldhash::fast::RandomState;
use std::hash::BuildHasher;

/// A binding, and the numbers of its two ends.
pub(super) struct Edge {
    pub(super) binding: Binding,
    /// Number of the source exchange.
    pub(super) source: u32,
    pub(super) end: End,
    /// Tells it from an earlier binding with the same number.
    pub(super) serial: u64,
}

impl Edge {
    /// The hash of the binding's identity.
    pub(super) fn identity_hash(&self, hasher: &RandomState) -> u64 {
        let Binding {
            key,
            dialect,
            arguments,
            ..
        } = &self.binding;
        identity_hash(hasher, self.source, self.end, key, *dialect, arguments)
    }
}

/// The hash of everything that identifies a binding.
pub(super) fn identity_hash(
    hasher: &RandomState,
    source: u32,
    end: End,
    key: &str,
    dialect: Dialect,
    arguments: &Table,
) -> u64 {
    hasher.hash_one((source, end, key, dialect, arguments::hash_table(arguments, hasher)))
}
