//! A set of numbers. Most are small; one that a client makes large stays cheap to change.

use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::ops::Bound;

/// A set of numbers, visited in ascending order.
#[derive(Debug)]
pub(crate) enum Ids {
    /// A sorted list.
    Few(SmallVec<[u32; 4]>),
    /// The set has had more than [`FEW_MAX`] numbers. Removing one from a long list would move all behind it.
    #[expect(
        clippy::box_collection,
        reason = "a node of the trie must stay small, and few have this many"
    )]
    Many(Box<BTreeSet<u32>>),
}

/// The most numbers that are kept in a list.
const FEW_MAX: usize = 64;

impl Default for Ids {
    fn default() -> Ids {
        Ids::Few(SmallVec::new())
    }
}

impl Ids {
    /// Adds a number. Returns whether it is new.
    pub(crate) fn insert(&mut self, id: u32) -> bool {
        match self {
            Ids::Few(few) => {
                let Err(at) = few.binary_search(&id) else {
                    return false;
                };
                if few.len() < FEW_MAX {
                    few.insert(at, id);
                } else {
                    let mut many: BTreeSet<u32> = few.drain(..).collect();
                    many.insert(id);
                    *self = Ids::Many(Box::new(many));
                }
                true
            }
            Ids::Many(many) => many.insert(id),
        }
    }

    /// Removes a number. Returns whether it was there.
    pub(crate) fn remove(&mut self, id: u32) -> bool {
        match self {
            Ids::Few(few) => match few.binary_search(&id) {
                Ok(at) => {
                    few.remove(at);
                    if few.is_empty() {
                        *few = SmallVec::new();
                    }
                    true
                }
                Err(_) => false,
            },
            Ids::Many(many) => {
                let there = many.remove(&id);
                if many.is_empty() {
                    *self = Ids::default();
                }
                there
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Ids::Few(few) => few.len(),
            Ids::Many(many) => many.len(),
        }
    }

    /// Calls `found` for the numbers above `cursor` in ascending order, and moves the cursor. Each number costs a step.
    /// Returns whether there may be more.
    pub(crate) fn visit(&self, cursor: &mut Option<u32>, steps: &mut usize, mut found: impl FnMut(u32)) -> bool {
        let after = *cursor;
        let mut one = |id: u32| {
            if *steps == 0 {
                return false;
            }
            *steps -= 1;
            *cursor = Some(id);
            found(id);
            true
        };
        let complete = match self {
            Ids::Few(few) => {
                let start = after.map_or(0, |after| few.partition_point(|id| *id <= after));
                few.iter().skip(start).all(|id| one(*id))
            }
            Ids::Many(many) => {
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                many.range((from, Bound::Unbounded)).all(|id| one(*id))
            }
        };
        !complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_the_same_in_any_size_and_is_visited_in_pieces() {
        let mut ids = Ids::default();
        let mut model = BTreeSet::new();
        for n in 0..1_000_u32 {
            let id = n * 7919 % 211;
            if n % 3 < 2 {
                assert_eq!(ids.insert(id), model.insert(id));
            } else {
                assert_eq!(ids.remove(id), model.remove(&id));
            }
            assert_eq!((ids.len(), ids.is_empty()), (model.len(), model.is_empty()));
            let (mut cursor, mut found) = (None, Vec::new());
            while ids.visit(&mut cursor, &mut 10, |id| found.push(id)) {}
            assert!(found.iter().eq(&model), "after {n}");
        }
        for id in model {
            assert!(ids.remove(id));
        }
        assert!(ids.is_empty() && !ids.visit(&mut None, &mut 1, |_| ()));
    }
}
