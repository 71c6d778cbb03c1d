//! Sets and maps of packet ids.
//!
//! An id has 16 bits, and a connection has as many of them as its window allows. Each message of quality of service 2
//! looks its id up several times, so the hash is not one that resists chosen keys: it is the id itself. A peer that
//! chooses its ids cannot make that slow. In a table of 2^k places at most 2^(16-k) ids belong to the same place, and
//! there are at most 2^k ids, so no look-up passes more than 256.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher};

/// A set of packet ids.
pub type PacketIds = HashSet<u16, ById>;

/// A map from packet ids.
pub type ByPacketId<V> = HashMap<u16, V, ById>;

/// Hashes a packet id by its own bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct ById;

/// See [`ById`].
#[derive(Debug)]
pub struct IdHasher(u64);

impl BuildHasher for ById {
    type Hasher = IdHasher;
    #[inline]
    fn build_hasher(&self) -> IdHasher {
        IdHasher(0)
    }
}

impl Hasher for IdHasher {
    #[inline]
    fn write_u16(&mut self, id: u16) {
        // The place comes from the low bits. The table distinguishes ids of one place by the highest seven bits of the
        // hash, so these are the bits of the id that a small table does not use for the place.
        self.0 = u64::from(id) | u64::from(id >> 9) << 57;
    }
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Bytes of a set's memory on the heap.
pub(crate) fn memory(ids: &PacketIds) -> usize {
    // A place takes the id and a byte; seven of eight places are used.
    ids.capacity() * (size_of::<u16>() + 1) * 8 / 7
}

/// The capacity that an empty set keeps after a burst.
const KEPT_PLACES: usize = 256;

/// Removes an id. If the set is empty then, it frees the memory of a burst, because an idle session should be small.
#[inline]
pub(crate) fn remove(ids: &mut PacketIds, id: u16) -> bool {
    let known = ids.remove(&id);
    if ids.is_empty() && ids.capacity() > KEPT_PLACES {
        *ids = PacketIds::default();
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids that all belong to the same place, and all ids there are.
    #[test]
    fn whatever_ids_are_chosen_are_kept_apart() {
        for step in [1, 16, 255, 256, 257, 4096] {
            let chosen: Vec<u16> = (1..=u16::MAX).step_by(step).collect();
            let mut ids = PacketIds::default();
            for id in &chosen {
                assert!(ids.insert(*id) && !ids.insert(*id), "{step} {id}");
            }
            assert_eq!(ids.len(), chosen.len());
            for id in &chosen {
                assert!(remove(&mut ids, *id) && !remove(&mut ids, *id), "{step} {id}");
            }
            assert!(
                memory(&ids) < KEPT_PLACES * 4,
                "an empty set is small: {}",
                memory(&ids)
            );
        }
    }
}
