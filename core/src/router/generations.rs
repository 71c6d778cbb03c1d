//! Which routes a change can have touched.
//!
//! Each exchange, and each part of one (a first level, a direct key), counts its changes in one of a fixed number of
//! cells. A cached route remembers the sum of the cells it depends on: counts only grow, so the sum is the same if and
//! only if none of them changed. Parts that share a cell cost each other a needless recomputation, never a wrong route.

use crate::exchange::Scope;
use foldhash::fast::RandomState;
use std::hash::{BuildHasher, Hasher};

/// The cells, and how many changes there were in all.
pub(super) struct Generations {
    cells: Box<[u64; CELLS]>,
    version: u64,
    hasher: RandomState,
}

/// Number of a cell.
pub(super) type Cell = u16;

const CELLS: usize = 1024;

impl Generations {
    pub(super) fn new() -> Generations {
        Generations {
            cells: Box::new([0; CELLS]),
            version: 0,
            hasher: RandomState::default(),
        }
    }

    /// Counts all changes; a route that was valid at this version still is.
    #[inline]
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Something in this scope of the exchange `name` changes. `Scope::Whole` also stands for its existence.
    pub(super) fn bump(&mut self, name: &str, scope: Scope<'_>) {
        let cell = self.cell(name, scope);
        self.cells[usize::from(cell)] += 1;
        self.version += 1;
    }

    /// The cell of a scope of the exchange `name`, which need not exist.
    pub(super) fn cell(&self, name: &str, scope: Scope<'_>) -> Cell {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(name.as_bytes());
        if let Scope::Part(part) = scope {
            hasher.write_u8(1);
            hasher.write(part.as_bytes());
        }
        (hasher.finish() % CELLS as u64) as Cell
    }

    /// The sum of the cells' counts.
    pub(super) fn sum(&self, cells: &[Cell]) -> u64 {
        cells.iter().map(|&cell| self.cells[usize::from(cell)]).sum()
    }
}
