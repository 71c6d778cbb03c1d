//! The store's counters: plain atomics that metrics read at scrape.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets of [`StoreStats::sync_latency`], in microseconds; the last bucket has none.
pub const SYNC_BUCKETS_US: [u64; 12] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_000_000,
];

/// Counters and gauges of one store.
#[derive(Debug, Default)]
pub struct StoreStats {
    /// Bytes written to the log's files, including footers, zeroing ahead and checkpoints.
    pub bytes_written: AtomicU64,
    /// Of these, bytes of records.
    pub record_bytes_written: AtomicU64,
    /// Of these, bytes of checkpoints.
    pub checkpoint_bytes_written: AtomicU64,
    /// Of these, bytes copied by compaction.
    pub compaction_bytes_written: AtomicU64,
    /// Messages written.
    pub messages_written: AtomicU64,
    /// Messages settled by all their consumers before they were written, and so never written.
    pub messages_skipped: AtomicU64,
    /// Syncs of the log.
    pub syncs: AtomicU64,
    /// Syncs by how long they took: see [`SYNC_BUCKETS_US`].
    pub sync_latency: [AtomicU64; SYNC_BUCKETS_US.len() + 1],
    /// Microseconds in syncs.
    pub sync_us_total: AtomicU64,
    /// Checkpoints written.
    pub checkpoints: AtomicU64,
    /// Checkpoints, zeroing or compactions that failed. The log itself continues.
    pub background_failures: AtomicU64,
    /// Segments on disk.
    pub segments: AtomicU64,
    /// Bytes of these segments.
    pub segment_bytes: AtomicU64,
    /// Reads and opens that failed, whether or not a later attempt succeeded.
    pub read_errors: AtomicU64,
    /// Files of segments that are open for reading.
    pub open_files: AtomicU64,
    /// Damaged places set aside since the start.
    pub quarantined: AtomicU64,
    /// Live messages, counted once per queue.
    pub live_messages: AtomicU64,
    /// Live keyed records.
    pub live_keys: AtomicU64,
    /// Records copied by compaction.
    pub records_compacted: AtomicU64,
    /// A write or a sync failed: nothing is confirmed any more.
    pub poisoned: AtomicBool,
}

impl StoreStats {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
    pub(crate) fn set(gauge: &AtomicU64, value: u64) {
        gauge.store(value, Ordering::Relaxed);
    }
    pub(crate) fn synced(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = SYNC_BUCKETS_US.partition_point(|bound| *bound < us);
        Self::add(&self.syncs, 1);
        Self::add(&self.sync_us_total, us);
        if let Some(bucket) = self.sync_latency.get(bucket) {
            Self::add(bucket, 1);
        }
    }
}
