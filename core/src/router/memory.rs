//! How much memory bindings and exchanges occupy.

use super::edge::Edge;
use super::{ExchangeSpec, Router};
use crate::exchange::{BindingId, Exchange, headers_binding_bytes};
use crate::ledger::{allocation, hashed, indexed, sorted, text};
use crate::properties::Table;
use crate::topic::trie::pattern_bytes;
use std::mem::size_of;

impl Router {
    /// Bytes of memory that exchanges and bindings occupy. Remembered routes are not included; they have a limit of
    /// their own.
    pub(crate) fn memory(&self) -> usize {
        self.bytes
    }
    /// Limits the memory of remembered routes, in bytes.
    pub(crate) fn set_cache_bytes_max(&mut self, bytes_max: usize) {
        self.cache.set_bytes_max(bytes_max);
    }
}

/// Bytes that a binding occupies: its entry, its key, and its places in the table of identities, in the lists of both
/// ends and in its exchange. The levels of its pattern are not included, as bindings share them.
pub(super) fn binding_bytes(kind: &str, key: &str, arguments: &Table, logged: bool) -> usize {
    let entry = size_of::<Edge>() * 5 / 4 + text(key.len());
    let lists = hashed::<BindingId>() + 2 * sorted::<BindingId, ()>();
    let (arguments_table, arguments) = (arguments, arguments.memory());
    let own = match kind {
        // Its place at the last node of its pattern.
        "topic" => allocation(4 * size_of::<BindingId>()),
        "direct" => hashed::<[usize; 5]>() + allocation(key.len()),
        // The table of a headers exchange has a copy of the arguments, and an index entry for each pair in them.
        "headers" => arguments + headers_binding_bytes(arguments_table.0.len()),
        _ => 0,
    };
    let log = if logged { indexed(64 + key.len() + arguments) } else { 0 };
    entry + lists + arguments + own + log
}

/// An upper bound for the bytes that a binding with that key would occupy.
pub(crate) fn binding_bytes_max(key: &str, arguments: &Table) -> usize {
    let levels = 1 + key.bytes().filter(|b| matches!(b, b'/' | b'.')).count();
    let levels = levels.min(crate::topic::LEVELS_MAX);
    binding_bytes("headers", key, arguments, true) + pattern_bytes(key, levels)
}

/// Bytes that an exchange occupies without its bindings.
pub(crate) fn exchange_bytes(spec: &ExchangeSpec) -> usize {
    let names = text(spec.name.len()) + text(spec.kind.len());
    let log = if spec.durable { indexed(1 + spec.name.len()) } else { 0 };
    // A new topic exchange has two root nodes already.
    size_of::<Exchange>() * 5 / 4 + sorted::<usize, usize>() + 512 + names + spec.arguments.memory() + log
}
