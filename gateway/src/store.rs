//! Stands in for the log until the engine's crate offers it.

use gatepost_core::store::{Batch, Loaded, Read, Recovered};
use gatepost_core::time::{Now, Time, Wall};
use std::path::Path;
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct StoreError(#[from] std::io::Error);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lsn(pub u64);

#[derive(Debug, Default)]
pub(crate) struct StoreStats;

pub(crate) struct Store;
pub(crate) struct Reader;

impl Store {
    pub(crate) fn open(root: &Path, _wall: Wall) -> Result<(Store, Recovered), StoreError> {
        std::fs::create_dir_all(root)?;
        Ok((Store, Recovered::default()))
    }
    pub(crate) fn commit(&mut self, batches: &mut [Batch], _now: Now) -> Result<Lsn, StoreError> {
        let _ = batches;
        Ok(Lsn(0))
    }
    pub(crate) fn confirmed(&self) -> Lsn {
        Lsn(0)
    }
    pub(crate) fn tick(&mut self, _now: Now) -> Result<Option<Time>, StoreError> {
        Ok(None)
    }
    pub(crate) fn close(self, _now: Now) -> Result<(), StoreError> {
        Ok(())
    }
    pub(crate) fn reader(&self) -> Reader {
        Reader
    }
    pub(crate) fn stats(&self) -> Arc<StoreStats> {
        Arc::default()
    }
}

impl Reader {
    pub(crate) fn read(&self, reads: &[Read]) -> Vec<Loaded> {
        reads
            .iter()
            .map(|r| Loaded {
                queue: r.queue,
                seq: r.seq,
                message: None,
            })
            .collect()
    }
}
