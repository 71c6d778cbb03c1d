//! State shared by the generator's threads: counters with one writer each, and how to wake other threads.

use crate::latency::Recorder;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Shared by the threads of one run.
#[derive(Debug)]
pub(crate) struct Shared {
    clock: Instant,
    pub(crate) publishers: Vec<PublisherCount>,
    pub(crate) consumers: Vec<ConsumerCount>,
    pub(crate) bells: Vec<Bell>,
    /// Every consumer gets every message.
    fanout: bool,
    /// See [`crate::plan::Plan::ahead`].
    ahead: u64,
    pub(crate) stop: AtomicBool,
    /// Bytes that the broker had not read when the run was over.
    pub(crate) unwritten_bytes: AtomicU64,
    /// From when a paced message was scheduled to leave to its confirm.
    confirm_latencies: Option<Mutex<Recorder>>,
    failure: Mutex<Option<String>>,
}

/// On a cache line of its own, since it is written after every batch.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct PublisherCount {
    pub(crate) published: AtomicU64,
    pub(crate) confirmed: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// All messages are sent, and confirmed if required.
    pub(crate) finished: AtomicBool,
    pub(crate) finished_ns: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ConsumerCount {
    /// Good messages, each counted once.
    pub(crate) received: AtomicU64,
    /// When the first of them came; 0 before.
    pub(crate) first_ns: AtomicU64,
    pub(crate) last_ns: AtomicU64,
}

/// Wakes a thread whose publishers wait for consumers of another thread.
#[derive(Debug)]
pub(crate) struct Bell {
    pub(crate) waits: AtomicBool,
    pub(crate) event: OwnedFd,
}

impl Shared {
    pub(crate) fn new(plan: &crate::plan::Plan, publishers: usize, consumers: usize) -> anyhow::Result<Self> {
        let bell = || eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let bells = (0..plan.threads)
            .map(|_| {
                Ok(Bell {
                    waits: AtomicBool::new(false),
                    event: bell()?,
                })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Self {
            clock: Instant::now(),
            publishers: (0..publishers).map(|_| PublisherCount::default()).collect(),
            consumers: (0..consumers).map(|_| ConsumerCount::default()).collect(),
            bells,
            fanout: plan.fanout,
            ahead: if consumers == 0 { 0 } else { plan.ahead },
            stop: AtomicBool::new(false),
            unwritten_bytes: AtomicU64::new(0),
            confirm_latencies: (plan.rate.is_some() && plan.is_confirmed()).then(|| Mutex::new(Recorder::new())),
            failure: Mutex::new(None),
        })
    }

    /// Nanoseconds since the run's clock began.
    #[inline]
    pub(crate) fn now_ns(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    pub(crate) fn published(&self) -> u64 {
        self.publishers.iter().map(|count| count.published.load(Relaxed)).sum()
    }

    pub(crate) fn confirmed(&self) -> u64 {
        self.publishers.iter().map(|count| count.confirmed.load(Relaxed)).sum()
    }

    /// Deliveries to all consumers.
    pub(crate) fn received(&self) -> u64 {
        self.consumers.iter().map(|count| count.received.load(Relaxed)).sum()
    }

    /// How many published messages have arrived at all their consumers.
    pub(crate) fn arrived(&self) -> u64 {
        if self.fanout {
            self.consumers
                .iter()
                .map(|count| count.received.load(Relaxed))
                .min()
                .unwrap_or_default()
        } else {
            self.received()
        }
    }

    /// How many more messages may leave before consumers must catch up.
    pub(crate) fn room(&self) -> u64 {
        if self.ahead == 0 {
            return u64::MAX;
        }
        self.ahead
            .saturating_sub(self.published().saturating_sub(self.arrived()))
    }

    /// Wakes every thread but `from` that waits for consumers.
    pub(crate) fn wake_waiting(&self, from: usize) {
        for (thread, bell) in self.bells.iter().enumerate() {
            if thread != from && bell.waits.swap(false, SeqCst) {
                // If the counter is full, the thread is being woken already.
                let _ = rustix::io::write(&bell.event, &1_u64.to_ne_bytes());
            }
        }
    }

    /// The recorder of confirm latencies, if the run has one. It is locked once a batch.
    pub(crate) fn confirm_latencies(&self) -> Option<MutexGuard<'_, Recorder>> {
        let recorder = self.confirm_latencies.as_ref()?;
        Some(recorder.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records why the run failed; the first reason is kept.
    pub(crate) fn fail(&self, why: String) {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(why);
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
