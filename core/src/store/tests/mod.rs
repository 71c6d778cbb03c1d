//! Tests of the store as a whole, on the simulated disk.

mod backup;
mod behaviour;
mod churn;
mod crash;
mod damage;
mod deletions;
mod reading;
mod repair;
mod script;
mod upkeep;
mod vhosts;

use super::disk::Disk;
use super::{Loaded, LogEntry, PageRead, QueueId, Read, Store};
use crate::testing::disk::Rng;

/// Everything that the log has of a queue, page by page.
pub(super) fn entries<D: Disk>(store: &Store<D>, queue: QueueId) -> Vec<LogEntry> {
    let mut reader = store.reader();
    let (mut entries, mut from) = (Vec::new(), 0);
    loop {
        let asked = PageRead {
            queue,
            from,
            upto: u64::MAX - 1,
            count: 1 + entries.len() % 5,
        };
        let page = again(|| reader.pages(&[asked]).pop().expect("as many answers as questions"));
        let (empty, upto) = (page.entries.is_empty(), page.upto);
        assert!(page.entries.iter().all(|e| (from..=upto).contains(&e.seq)));
        entries.extend(page.entries);
        if upto == asked.upto {
            return entries;
        }
        assert!(!empty || upto >= from, "a page moves on");
        from = upto + 1;
    }
}

/// Reads messages, in the order requested. Failed reads are repeated, as in the gateway.
pub(super) fn bodies<D: Disk>(store: &Store<D>, reads: &[Read]) -> Vec<Loaded> {
    let reader = store.reader();
    let first = reader.read(reads).into_iter().zip(reads);
    let asked_again = |read: &Read| again(|| reader.read(&[*read]).pop().expect("as many answers as questions"));
    first
        .map(|(loaded, read)| loaded.unwrap_or_else(|_| asked_again(read)))
        .collect()
}

/// Repeats `attempt` until it succeeds, a thousand times at most.
fn again<T>(mut attempt: impl FnMut() -> std::io::Result<T>) -> T {
    let tries = (0..1000).find_map(|_| attempt().ok());
    tries.expect("the disk reads at last")
}

/// Files of a used store, unchanged and with bytes changed: where fuzzing starts.
pub(super) fn corpus() -> Vec<Vec<u8>> {
    let mut corpus = vec![Vec::new(), vec![0xff; 64]];
    for seed in 0..script::runs(400) / 40 {
        let mut script = script::Script::new(seed);
        script
            .open()
            .and_then(|()| script.work(12))
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let mut rng = Rng::new(seed);
        for path in script.disk.paths() {
            let mut bytes = script.disk.read(&path).unwrap_or_default();
            corpus.push(bytes.clone());
            for _ in 0..4 {
                let at = rng.below(bytes.len() as u64) as usize;
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = rng.word() as u8;
                }
            }
            // Also from the middle, where heads and directories are.
            let from = rng.below(bytes.len() as u64 + 1) as usize;
            corpus.push(bytes.split_off(from.min(bytes.len())));
            corpus.push(bytes);
        }
    }
    corpus
}
