//! State that the threads of one offender share: where the broker is, when to stop, and what it answered.

use crate::plan::{Endpoint, Protocol};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// One offender at work.
#[derive(Debug)]
pub(crate) struct Scene {
    endpoints: [Endpoint; 3],
    /// How long the well-behaved pair runs. Offenders that send a fixed number of messages spread them over it.
    pub(crate) span: Duration,
    begun: Instant,
    stopped: AtomicBool,
    in_place: AtomicBool,
    settled: AtomicBool,
    acts: AtomicU64,
    answers: Mutex<BTreeMap<String, u64>>,
}

/// What an offender did, and the broker's reactions.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) acts: u64,
    /// The broker's answers and closes, with their counts.
    pub(crate) answers: BTreeMap<String, u64>,
}

/// An offender ends by itself this long after its span: the pair's run may stall behind it, but gives up sooner.
const OVERTIME: Duration = Duration::from_secs(40);
/// How often waiting threads check again.
const TICK: Duration = Duration::from_millis(5);
/// Maximum number of distinct answers. Answers to random bytes can be as varied as those bytes.
const ANSWERS_MAX: usize = 40;
/// Further answers are counted under this name.
const OTHER_ANSWER: &str = "other";

impl Scene {
    /// `endpoints` are those of AMQP, MQTT and STOMP.
    pub(crate) fn new(endpoints: [Endpoint; 3], span: Duration) -> Self {
        Self {
            endpoints,
            span,
            begun: Instant::now(),
            stopped: AtomicBool::new(false),
            in_place: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            acts: AtomicU64::new(0),
            answers: Mutex::new(BTreeMap::new()),
        }
    }

    pub(crate) fn endpoint(&self, protocol: Protocol) -> &Endpoint {
        let place = match protocol {
            Protocol::Amqp => 0,
            Protocol::Mqtt | Protocol::Mqtt5 => 1,
            // Not used: Gatepost does not speak NATS, and no offender does.
            Protocol::Stomp | Protocol::Nats => 2,
        };
        &self.endpoints[place]
    }

    /// Whether the offender must stop.
    pub(crate) fn is_over(&self) -> bool {
        self.stopped.load(Relaxed) || self.begun.elapsed() > self.span + OVERTIME
    }

    /// Tells the offender to stop.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, SeqCst);
    }

    /// The offender has reached its state, so the measurement may begin.
    pub(crate) fn set_in_place(&self) {
        self.in_place.store(true, SeqCst);
    }

    pub(crate) fn await_in_place(&self, timeout: Duration) {
        await_set(&self.in_place, timeout);
    }

    /// Nothing more will happen on the offender's connections.
    pub(crate) fn set_settled(&self) {
        self.settled.store(true, SeqCst);
    }

    pub(crate) fn await_settled(&self, timeout: Duration) {
        await_set(&self.settled, timeout);
    }

    /// Counts acts of the offender.
    pub(crate) fn add_acts(&self, count: u64) {
        self.acts.fetch_add(count, Relaxed);
    }

    pub(crate) fn acts(&self) -> u64 {
        self.acts.load(Relaxed)
    }

    /// Records how the broker treated one connection.
    pub(crate) fn note(&self, answer: &str) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = answers.contains_key(answer) || answers.len() < ANSWERS_MAX;
        let answer = if known { answer } else { OTHER_ANSWER };
        *answers.entry(answer.to_owned()).or_default() += 1;
    }

    pub(crate) fn outcome(self) -> Outcome {
        Outcome {
            acts: self.acts(),
            answers: self.answers.into_inner().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

fn await_set(flag: &AtomicBool, timeout: Duration) {
    let begun = Instant::now();
    while !flag.load(SeqCst) && begun.elapsed() < timeout {
        thread::sleep(TICK);
    }
}
