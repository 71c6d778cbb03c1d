//! The whole broker on one thread: real sessions of all three protocols, the engine, and the store on a disk that
//! crashes.
//!
//! ```text
//!   script ─► clients ──octets──► sessions ──► World (engine, store, disk, time)
//!             clients ◄──octets── sessions ◄──
//! ```
//!
//! [`fuzz_broker`] reads a script from its input: who sends what, how much each may take, when the log is written, when
//! time passes, when the machine stops. For every script this must hold: the engine's counts are right after every
//! turn, sessions only write what their protocol permits, the same script gives the same history, and a durable message
//! that was confirmed is delivered or still stored.

mod amqp;
mod book;
mod broker;
mod mqtt;
mod stomp;
mod wire;

use broker::Broker;

/// Runs the script in `data`.
///
/// # Panics
/// If one of these does not hold.
pub fn fuzz_broker(data: &[u8]) {
    let trace = run(data);
    // All random choices came from the seed.
    if data.first().is_some_and(|seed| seed % 8 == 7) {
        assert_eq!(trace, run(data), "the same script had another history");
    }
}

fn run(data: &[u8]) -> u64 {
    let mut script = Script(data);
    let mut broker = Broker::new(script.octet());
    while !script.is_empty() {
        broker.step(&mut script);
    }
    broker.finish()
}

/// The rest of the script, followed by endless zeros.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn octet(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn octets(&mut self, length: usize) -> &'a [u8] {
        let (octets, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        octets
    }
}
