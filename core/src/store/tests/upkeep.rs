//! The store's background work, and what it costs.

use super::behaviour::{ack, at, commit, open_with, publish};
use super::script::{batch, message, settings};
use crate::store::{Record, Store, StoreSettings};
use crate::testing::disk::{Rng, SimDisk};
use crate::time::Time;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Default settings except for small segments.
fn shipped(segment_bytes: u32) -> StoreSettings {
    StoreSettings {
        segment_bytes,
        salt: 0x5eed,
        ..StoreSettings::default()
    }
}

fn key(n: u64, value: &[u8]) -> Record {
    Record::Key {
        key: format!("\x07plant/{n:06}/temperature").into_bytes().into(),
        value: Some(value.into()),
    }
}

/// Lets time pass, calling the store whenever it asks to be called. Returns for how long it did.
fn rest(store: &mut Store<SimDisk>, from: u64, until: u64) -> u64 {
    let mut now = from;
    while let Some(Time(next)) = store.tick(at(now)).unwrap() {
        let next = next.max(now + 1);
        if next > until {
            break;
        }
        now = next;
    }
    now
}

#[test]
fn a_checkpoint_of_many_keys_is_not_written_over_and_over() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open_with(&disk, shipped(1 << 20));
    let stats = store.stats();
    let checkpoints = || stats.checkpoint_bytes_written.load(Ordering::Relaxed);
    for first in (0..10_000).step_by(100) {
        commit(
            &mut store,
            (first..first + 100).map(|n| key(n, &[1; 100])).collect(),
            first,
        );
    }
    rest(&mut store, 10_000, 200_000);
    let (logged, before) = (disk.bytes_written(), checkpoints());
    // A few changes a minute, for two hours.
    for minute in 0..120 {
        let now = 200_000 + minute * 60_000;
        commit(
            &mut store,
            (0..5).map(|n| key(minute * 5 + n, &[2; 100])).collect(),
            now,
        );
        rest(&mut store, now, now + 59_000);
    }
    let (logged, written) = (disk.bytes_written() - logged, checkpoints() - before);
    println!("{written} bytes of checkpoints among {logged}");
    assert!(
        written <= before,
        "at most once more in all: {written} bytes, {before} before"
    );
}

/// Bytes written per record in the long run, for records of 200 bytes at 1,000 a second. The first 30 seconds do not
/// count.
fn bytes_per_record(mut records: impl FnMut(u64) -> Vec<Record>) -> f64 {
    let disk = SimDisk::new(1);
    let (mut store, _) = open_with(&disk, shipped(256 << 10));
    let mut before = 0;
    for tenth in 0..900 {
        let now = tenth * 100;
        commit(&mut store, records(tenth), now);
        rest(&mut store, now, now + 99);
        if tenth == 300 {
            before = disk.bytes_written();
        }
    }
    let stats = store.stats();
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "of all {}: {} records, {} checkpoints, {} compaction; {} files",
        count(&stats.bytes_written),
        count(&stats.record_bytes_written),
        count(&stats.checkpoint_bytes_written),
        count(&stats.compaction_bytes_written),
        disk.paths().len()
    );
    (disk.bytes_written() - before) as f64 / 60_000.0
}

/// Retained messages are keyed records: an update costs its size, and what compaction and checkpoints add.
#[test]
fn updates_of_keys_at_random_cost_at_most_half_more_than_messages() {
    let messages = bytes_per_record(|tenth| {
        let seqs = tenth * 100..tenth * 100 + 100;
        let mut records: Vec<Record> = seqs.map(|seq| publish(&message(seq, 200), 1, seq)).collect();
        // Settled a little later, one by one.
        let settled = (tenth * 100)
            .checked_sub(300)
            .into_iter()
            .flat_map(|from| from..from + 100);
        records.extend(settled.map(|seq| ack(1, seq, seq)));
        records
    });
    println!("{messages:.0} bytes a message");
    for keys in [100, 1_000, 20_000] {
        let mut rng = Rng::new(keys);
        let written = bytes_per_record(|_| (0..100).map(|_| key(rng.below(keys), &[3; 200])).collect());
        println!("{written:.0} bytes an update of one of {keys} keys");
        assert!(
            written <= messages * 1.5,
            "{keys} keys: {written} bytes, a message {messages}"
        );
    }
}

#[test]
fn after_a_purge_the_directory_shrinks_within_a_minute() {
    for is_drained in [false, true] {
        let disk = SimDisk::new(1);
        let (mut store, _) = open_with(&disk, shipped(64 << 10));
        // A lasting message in the oldest segment, and a key.
        commit(&mut store, vec![publish(&message(7, 50), 5, 0), key(1, b"v")], 0);
        let mut now = 0;
        for seq in 0..4_000 {
            commit(&mut store, vec![publish(&message(seq, 1000), 1, seq)], now);
            now += 1;
            if store.is_due() {
                store.tick(at(now)).unwrap();
            }
        }
        let full = disk.paths().len();
        assert!(full > 60);
        // It is idle, and asks to be called after a long time.
        let mut next = store.tick(at(now)).unwrap();
        while next.is_some_and(|Time(next)| next < now + 30_000) {
            now = now.max(next.map_or(0, |Time(next)| next));
            next = store.tick(at(now)).unwrap();
        }
        now += 1;
        let purged = now;
        if is_drained {
            for seq in (0..4_000).step_by(100) {
                commit(&mut store, vec![ack(1, seq, seq + 99)], now);
                now += 10;
            }
        } else {
            let queue = crate::store::QueueId(1);
            commit(&mut store, vec![Record::Purge { queue, upto: 4_000 }], now);
        }
        // As the committer does.
        let Time(wake) = next.map_or(store.due_after(Time(now)), |next| next.min(store.due_after(Time(now))));
        rest(&mut store, wake, purged + 60_000);
        let paths = disk.paths();
        // The active segment, two spares, the segment with the lasting records, two checkpoints.
        assert!(paths.len() <= 9, "{} of {full} files are left: {paths:?}", paths.len());
        // After that, nothing is written.
        let quiet = rest(&mut store, now + 60_000, now + 600_000);
        let changes = disk.changes();
        rest(&mut store, quiet, now + 6_000_000);
        assert_eq!(disk.changes(), changes);
    }
}

#[test]
fn compaction_leaves_a_slow_medium_most_of_its_time() {
    let disk = SimDisk::new(1);
    disk.set_sync_time(Duration::from_millis(100));
    let (mut store, _) = open_with(&disk, settings());
    for seq in 0..200 {
        commit(&mut store, vec![publish(&message(seq, 1000), 1, seq)], seq);
    }
    // All but every tenth are settled: each segment has little left.
    let acks = (0..20).map(|n| ack(1, n * 10 + 1, n * 10 + 9)).collect();
    commit(&mut store, acks, 200);
    let stats = store.stats();
    let (mut now, mut slices) = (200, 0);
    for _ in 0..100 {
        let before = stats.compaction_bytes_written.load(Ordering::Relaxed);
        let Some(Time(next)) = store.tick(at(now)).unwrap() else {
            break;
        };
        if stats.compaction_bytes_written.load(Ordering::Relaxed) > before {
            slices += 1;
            assert!(
                next >= now + 300,
                "a slice of 100 ms and the next after {} ms",
                next - now
            );
        }
        now = next.max(now + 1);
    }
    assert!(slices >= 3, "{slices} slices");
    // None of this delays a commit in between.
    store.commit(&mut [batch(vec![ack(1, 0, 0)], true)], at(now)).unwrap();
}
