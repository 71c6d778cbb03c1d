//! One vhost's engine behind its lock, and the one way in.
//!
//! Whoever enters leaves in order: what is to be logged or fetched is handed over while the lock is still held, so that
//! batches reach the log in ticket order (lock order: engine, log); links that have something to take are woken after
//! the lock is gone.

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
use parking_lot::{Mutex, MutexGuard};
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
    /// What the log keeps of it.
    pub record: VhostRecord,
    inner: Mutex<Inner>,
    log: Arc<LogQueue>,
    reads: Arc<ReadQueue>,
    /// When the timer task will call `handle_timeout`, so that it is disturbed only by an earlier deadline.
    timer_at: AtomicU64,
    timer: Notify,
    short_of_memory: Arc<Notify>,
    /// How the lock is used.
    pub lock: LockTimes,
}

/// What the lock guards: the engine, and room for what it hands over.
struct Inner {
    engine: Engine,
    batch: Batch,
    reads: Vec<Request>,
    /// Entries so far; every 64th is timed.
    entries: u64,
    share: Option<Share>,
    /// The vhost is deleted: what its engine still says is not logged.
    is_ended: bool,
    /// With more than this, the node is to look at the shares.
    ask_above: Usage,
}

/// How long callers waited for the lock, and held it.
#[derive(Debug, Default)]
pub(crate) struct LockTimes {
    /// Of those who had to wait.
    pub waited: Histogram,
    /// Of one in 64.
    pub held: Histogram,
}

/// Queues, connections, consumers and sessions looked at in one hold: at most some 50 us, if none is in the cache.
const COUNTED_PER_HOLD: u32 = 512;
const SAMPLE_EVERY: u64 = 64;
const NO_TIMER: u64 = u64::MAX;

impl Vhost {
    /// Puts a lock around `engine`.
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
            record,
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

    /// Runs `turn` under the lock, hands over what it left to log and to fetch, and then wakes whom it woke.
    pub(crate) fn enter<T>(&self, turn: impl FnOnce(&mut Engine) -> T) -> T {
        // Declared first, dropped last: wakes fire without the lock.
        let mut wakes = Wakes::default();
        let mut inner = self.lock();
        // After a panic half-way the engine's state cannot be trusted. The process ends; the next start reads the log.
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
            // The record of its deletion is behind all that it logged before.
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
            // Once, until there is an answer.
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

    /// What the engine counted, added up in holds of bounded length.
    pub(crate) fn counters(&self) -> Counters {
        let mut counting = Counting::default();
        loop {
            if let Some(counters) = self.enter(|engine| engine.count(&mut counting, COUNTED_PER_HOLD)) {
                return counters;
            }
        }
    }

    /// Ends the vhost for good: its connections are told, and nothing of it is logged any more.
    pub(crate) fn end(&self, reason: CloseReason) {
        self.lock().is_ended = true;
        self.enter(|engine| engine.end(reason));
        self.timer.notify_one();
    }

    /// What the engine uses of its share of memory.
    pub(crate) fn usage(&self) -> Usage {
        self.lock().engine.usage()
    }

    /// Gives the engine a share of the node's memory, now that it uses so much.
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

    /// Drives the engine's timers, until the vhost is deleted. One task per vhost.
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
        // A load first: `fetch_min` would make every turn write to a cache line that all threads share.
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
        // Only reached by unwinding: the orderly way forgets the guard.
        std::process::abort();
    }
}
