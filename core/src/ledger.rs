//! Accounts the memory of clients' objects: queues, sessions, subscriptions, connections, wills.
//!
//! Each object has a [`Charge`], which is counted when the object is made and subtracted when it is dropped. So no
//! path that ends an object can forget to subtract it. Messages are counted elsewhere (`engine/memory.rs`): there are too many
//! for a charge each, and their bodies can leave memory for the log, which these objects cannot.
//!
//! Costs include the allocator's overhead and tables. The daemon's tests compare them with the memory that a real process uses.

use std::mem::size_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Kinds of objects that are limited and reported separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ObjectKind {
    /// Retained messages: index and topic. Their bodies are counted with those of queues, and leave memory like them.
    Retained,
    /// Bindings, MQTT subscriptions, exchanges.
    Routes,
    /// Queues, those of MQTT sessions included.
    Queues,
    /// MQTT sessions and their wills.
    Sessions,
    /// Connections, channels, consumers.
    Connections,
}

impl ObjectKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [ObjectKind; 5] = [
        ObjectKind::Retained,
        ObjectKind::Routes,
        ObjectKind::Queues,
        ObjectKind::Sessions,
        ObjectKind::Connections,
    ];
    /// Its label in metrics, and its name in texts.
    pub fn name(self) -> &'static str {
        match self {
            ObjectKind::Retained => "retained",
            ObjectKind::Routes => "routes",
            ObjectKind::Queues => "queues",
            ObjectKind::Sessions => "sessions",
            ObjectKind::Connections => "connections",
        }
    }
}

/// One number for each kind of object.
pub type PerKind = [usize; ObjectKind::ALL.len()];

/// Sums of the charges of one engine.
#[derive(Debug, Default)]
pub(crate) struct Ledger([AtomicUsize; ObjectKind::ALL.len()]);

impl Ledger {
    pub(crate) fn used(&self) -> PerKind {
        std::array::from_fn(|kind| self.0[kind].load(Ordering::Relaxed))
    }
    /// A charge of `bytes`.
    pub(crate) fn charge(self: &Arc<Self>, kind: ObjectKind, bytes: usize) -> Charge {
        let mut charge = Charge {
            ledger: Some(Arc::clone(self)),
            kind,
            bytes: 0,
        };
        charge.grow(bytes);
        charge
    }
}

/// The memory of one object, subtracted from the ledger when it is dropped. The default belongs to no ledger and counts nothing.
pub(crate) struct Charge {
    ledger: Option<Arc<Ledger>>,
    kind: ObjectKind,
    bytes: u32,
}

impl Charge {
    /// The bytes that it counts.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes as usize
    }
    pub(crate) fn grow(&mut self, bytes: usize) {
        // An object of 4 GiB cannot exist, because all its parts come from frames.
        let more = u32::try_from(bytes).unwrap_or(u32::MAX).min(u32::MAX - self.bytes);
        self.bytes += more;
        if let Some(ledger) = &self.ledger {
            ledger.0[self.kind as usize].fetch_add(more as usize, Ordering::Relaxed);
        }
    }
    /// Changes the cost of a part of the object from `before` to `now`.
    pub(crate) fn exchange(&mut self, before: u32, now: u32) {
        if now >= before {
            self.grow((now - before) as usize);
        } else {
            self.shrink((before - now) as usize);
        }
    }
    pub(crate) fn shrink(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.bytes as usize, "more is given back than was charged");
        let less = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes);
        self.bytes -= less;
        if let Some(ledger) = &self.ledger {
            ledger.0[self.kind as usize].fetch_sub(less as usize, Ordering::Relaxed);
        }
    }
}

impl Default for Charge {
    fn default() -> Charge {
        Charge {
            ledger: None,
            kind: ObjectKind::Connections,
            bytes: 0,
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink(self.bytes as usize);
    }
}

/// Bytes that the allocator really uses for an allocation of `bytes`: a header of 8, rounded up to 16, at least 32.
pub(crate) const fn allocation(bytes: usize) -> usize {
    let rounded = (bytes + 8 + 15) & !15;
    if rounded < 32 { 32 } else { rounded }
}

/// Bytes of an `Arc<str>` or the like: two counters precede the text.
pub(crate) const fn text(bytes: usize) -> usize {
    allocation(16 + bytes)
}

/// Bytes of an entry of a hash table, which is between 7/16 and 7/8 full: on average half as much again as it needs.
pub(crate) const fn hashed<T>() -> usize {
    (size_of::<T>() + 1) * 3 / 2
}

/// Bytes of an entry of a B-tree, whose nodes are two thirds full on average.
pub(crate) const fn sorted<K, V>() -> usize {
    (size_of::<K>() + size_of::<V>()) * 3 / 2 + 4
}

/// Bytes that the log's index keeps for a definition with a key of this length: the key, and the position of its
/// record.
pub(crate) const fn indexed(key: usize) -> usize {
    hashed::<(Box<[u8]>, [u64; 4])>() + allocation(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_is_given_back_when_its_object_goes() {
        let ledger = Arc::new(Ledger::default());
        let mut a = ledger.charge(ObjectKind::Queues, 100);
        let b = ledger.charge(ObjectKind::Sessions, 7);
        a.grow(20);
        assert_eq!(ledger.used(), [0, 0, 120, 7, 0]);
        a.shrink(50);
        assert_eq!(ledger.used(), [0, 0, 70, 7, 0]);
        a.exchange(20, 40);
        a.exchange(40, 20);
        assert_eq!(ledger.used(), [0, 0, 70, 7, 0]);
        drop(a);
        drop(b);
        assert_eq!(ledger.used(), [0; 5]);
    }
}
