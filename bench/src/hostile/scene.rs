//! What the threads of one offence share: where the broker is, when to stop, and what it answered.

use crate::plan::{Endpoint, Protocol};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// One offence under way.
#[derive(Debug)]
pub(crate) struct Scene {
    endpoints: [Endpoint; 3],
    /// For how long the well-behaved pair runs: offences that send a number of messages spread them over it.
    pub(crate) span: Duration,
    begun: Instant,
    stopped: AtomicBool,
    in_place: AtomicBool,
    settled: AtomicBool,
    acts: AtomicU64,
    answers: Mutex<BTreeMap<String, u64>>,
}

/// What an offender did and what came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) acts: u64,
    /// What the broker answered or closed with, and how often.
    pub(crate) answers: BTreeMap<String, u64>,
}

/// An offence ends by itself after its span and this: the pair's run may stall behind it, and then gives up sooner.
const OVERTIME: Duration = Duration::from_secs(40);
/// How often those who wait look again.
const TICK: Duration = Duration::from_millis(5);
/// Answers that are told apart; what a broker says to random bytes may be as manifold as they.
const ANSWERS_MAX: usize = 40;
/// What the others are counted as.
const OTHER_ANSWER: &str = "other";

impl Scene {
    /// `endpoints` are of AMQP, MQTT and STOMP.
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
            // Gatepost does not speak NATS, and no offender does.
            Protocol::Stomp | Protocol::Nats => 2,
        };
        &self.endpoints[place]
    }

    /// Whether the offender is to go.
    pub(crate) fn is_over(&self) -> bool {
        self.stopped.load(Relaxed) || self.begun.elapsed() > self.span + OVERTIME
    }

    /// Tells the offender to go.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, SeqCst);
    }

    /// The offender is where it wants to be: the measurement may begin.
    pub(crate) fn set_in_place(&self) {
        self.in_place.store(true, SeqCst);
    }

    pub(crate) fn await_in_place(&self, timeout: Duration) {
        await_set(&self.in_place, timeout);
    }

    /// Nothing more can come of the offence.
    pub(crate) fn set_settled(&self) {
        self.settled.store(true, SeqCst);
    }

    pub(crate) fn await_settled(&self, timeout: Duration) {
        await_set(&self.settled, timeout);
    }

    /// Counts what the offender did.
    pub(crate) fn add_acts(&self, count: u64) {
        self.acts.fetch_add(count, Relaxed);
    }

    pub(crate) fn acts(&self) -> u64 {
        self.acts.load(Relaxed)
    }

    /// Notes what the broker made of one connection.
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
