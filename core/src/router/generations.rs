//! Finds out which remembered routes a change may have made invalid.
//!
//! Each exchange, and each part of one (a first level, a direct key), counts its changes in one of a fixed number of
//! cells. A remembered route keeps the sum of the cells it depends on. Counts only grow, so the sum is unchanged if and
//! only if no cell has changed. Two parts may share a cell: a change to one then also recomputes routes of the other,
//! but never leaves a wrong route.

use crate::exchange::Scope;
use foldhash::fast::RandomState;
use std::hash::{BuildHasher, Hasher};

/// The cells, and the number of changes so far.
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

    /// The number of changes so far. A route that was valid at this version still is while the version stays the same.
    #[inline]
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Counts a change to this scope of the exchange `name`. Creation and deletion of the exchange count as
    /// `Scope::Whole`.
    pub(super) fn bump(&mut self, name: &str, scope: Scope<'_>) {
        let cell = self.cell(name, scope);
        self.cells[usize::from(cell)] += 1;
        self.version += 1;
    }

    /// The cell for a scope of the exchange `name`. The exchange need not exist.
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
