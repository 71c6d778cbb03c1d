//! A vhost's engine behind its lock. [`Vhost::enter`] is the only way to use the engine.
//!
//! At the end of each hold, batches and read requests are handed over while the lock is still held, so that
//! batches reach the log in ticket order (lock order: engine, log). Links that have something to take are woken after
//! the lock is released.

use crate::accountant::ask_above;
use crate::committer::LogQueue;
use crate::histogram::Histogram;
use crate::reader::ReadQueue;
use gatepost_core::catalog::VhostRecord;
use gatepost_core::engine::{Counters, Counting, Engine, Share, Usage, Wakes};
use gatepost_core::event::CloseReason;
use gatepost_core::properties::Name;
use gatepost_core::store::{Batch, Request, VhostId};
use gatepost_core::time::Time;
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::Notify;

/// A vhost.
pub(crate) struct Vhost {
    /// Its name.
    pub name: Name,
    /// Its number in the log, by which the log's threads find it.
    pub number: VhostId,
    /// The vhost's record in the log.
    record: RwLock<VhostRecord>,
    inner: Mutex<Inner>,
    log: Arc<LogQueue>,
    reads: Arc<ReadQueue>,
    /// When the timer task will call `handle_timeout`. Only an earlier deadline wakes it.
    timer_at: AtomicU64,
    timer: Notify,
    short_of_memory: Arc<Notify>,
    /// Wait and hold times of the lock.
    pub lock: LockTimes,
}

/// The state behind the lock: the engine, and buffers for what it hands over.
struct Inner {
    engine: Engine,
    batch: Batch,
    reads: Vec<Request>,
    /// Number of holds so far; every 64th is timed.
    entries: u64,
    share: Option<Share>,
    /// The vhost is deleted, so batches of its engine are dropped.
    is_ended: bool,
    /// Above this use, the accountant is asked for a new share.
    ask_above: Usage,
}

/// Histograms of how long callers waited for the lock, and held it.
#[derive(Debug, Default)]
pub(crate) struct LockTimes {
    /// Waits of callers that did not get the lock at once.
    pub waited: Histogram,
    /// Durations of one hold in 64.
    pub held: Histogram,
}

/// Queues, connections, consumers and sessions counted in one hold: about 50 µs at most, if none is in the processor's cache.
const COUNTED_PER_HOLD: u32 = 512;
const SAMPLE_EVERY: u64 = 64;
const NO_TIMER: u64 = u64::MAX;

impl Vhost {
    /// A vhost with its engine.
    pub(crate) fn new(
        record: VhostRecord,
        number: VhostId,
        engine: Engine,
        log: Arc<LogQueue>,
        reads: Arc<ReadQueue>,
        short_of_memory: Arc<Notify>,
    ) -> Vhost {
        Vhost {
            name: record.name.clone(),
            number,
            record: RwLock::new(record),
            inner: Mutex::new(Inner {
                engine,
                batch: Batch::default(),
                reads: Vec::new(),
                entries: 0,
                share: None,
                is_ended: false,
                ask_above: NEVER,
            }),
            log,
            reads,
            timer_at: AtomicU64::new(NO_TIMER),
            timer: Notify::new(),
            short_of_memory,
            lock: LockTimes::default(),
        }
    }

    /// The vhost's record in the log.
    pub(crate) fn record(&self) -> VhostRecord {
        self.record.read().clone()
    }

    /// Replaces the record by another one with the same name, which the log has already.
    pub(crate) fn set_record(&self, record: VhostRecord) {
        debug_assert_eq!(self.name, record.name, "a vhost keeps its name");
        *self.record.write() = record;
    }

    /// Runs `turn` under the lock, hands over batches and read requests, and wakes links after releasing the lock.
    pub(crate) fn enter<T>(&self, turn: impl FnOnce(&mut Engine) -> T) -> T {
        // Declared first so that it is dropped last: wakes fire without the lock.
        let mut wakes = Wakes::default();
        let mut inner = self.lock();
        // After a panic the engine's state may be inconsistent, so the process ends. The next start reads the log.
        let abort = AbortOnPanic;
        inner.entries += 1;
        let began = inner.entries.is_multiple_of(SAMPLE_EVERY).then(Instant::now);
        let result = turn(&mut inner.engine);
        let Inner {
            engine,
            batch,
            reads,
            ask_above,
            is_ended,
            ..
        } = &mut *inner;
        engine.drain(batch, reads, &mut wakes);
        if *is_ended {
            // Nothing may follow the record of the vhost's deletion in the log.
            *batch = Batch::default();
            reads.clear();
        }
        if !batch.is_empty() {
            self.log.submit(self.number, std::mem::take(batch));
        }
        if !reads.is_empty() {
            self.reads.submit(self.number, reads);
        }
        if is_above(engine.usage(), *ask_above) {
            // Ask once, until a new share arrives.
            *ask_above = NEVER;
            self.short_of_memory.notify_one();
        }
        let timer = engine.poll_timeout();
        std::mem::forget(abort);
        drop(inner);
        if let Some(began) = began {
            self.lock.held.record(began.elapsed());
        }
        if let Some(at) = timer {
            self.expect_timer(at);
        }
        result
    }

    /// The engine's counters, added up in several bounded holds.
    pub(crate) fn counters(&self) -> Counters {
        let mut counting = Counting::default();
        loop {
            if let Some(counters) = self.enter(|engine| engine.count(&mut counting, COUNTED_PER_HOLD)) {
                return counters;
            }
        }
    }

    /// Ends a deleted vhost: tells its connections, and stops logging.
    pub(crate) fn end(&self, reason: CloseReason) {
        self.lock().is_ended = true;
        self.end_links(reason);
        self.timer.notify_one();
    }

    /// Tells all connections that they end, in as many holds as it takes.
    pub(crate) fn end_links(&self, reason: CloseReason) {
        while self.enter(|engine| engine.end(reason)) {}
    }

    /// The engine's use of memory.
    pub(crate) fn usage(&self) -> Usage {
        self.lock().engine.usage()
    }

    /// Gives the engine a share of the node's memory. `usage`: the use that the share was computed from.
    pub(crate) fn set_share(&self, share: Share, usage: Usage) {
        {
            let mut inner = self.lock();
            inner.ask_above = ask_above(&share, &usage);
            if inner.share.replace(share) == Some(share) {
                return;
            }
        }
        self.enter(|engine| engine.set_share(share));
    }

    /// Runs the engine's timers until the vhost is deleted. One task per vhost.
    pub(crate) async fn drive_timers(&self, clock: &crate::clock::Clock) {
        while !self.lock().is_ended {
            let at = self.timer_at.load(Ordering::Acquire);
            let due = async {
                match at {
                    NO_TIMER => std::future::pending().await,
                    at => tokio::time::sleep_until(clock.instant(Time(at))).await,
                }
            };
            tokio::select! {
                () = self.timer.notified() => continue,
                () = due => {}
            }
            self.timer_at.store(NO_TIMER, Ordering::Release);
            let now = clock.now();
            self.enter(|engine| engine.handle_timeout(now));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        if let Some(guard) = self.inner.try_lock() {
            return guard;
        }
        let began = Instant::now();
        let guard = self.inner.lock();
        self.lock.waited.record(began.elapsed());
        guard
    }

    fn expect_timer(&self, at: Time) {
        // Load first: `fetch_min` alone would write to a shared cache line in every turn.
        if at.0 < self.timer_at.load(Ordering::Acquire) && at.0 < self.timer_at.fetch_min(at.0, Ordering::AcqRel) {
            self.timer.notify_one();
        }
    }
}

fn is_above(usage: Usage, limit: Usage) -> bool {
    usage.messages > limit.messages || usage.unsettled > limit.unsettled || usage.objects > limit.objects
}

const NEVER: Usage = Usage {
    messages: usize::MAX,
    unsettled: usize::MAX,
    objects: usize::MAX,
};

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        // Reached only by unwinding; otherwise the guard is forgotten.
        std::process::abort();
    }
}
