//! The whole broker on one thread: real sessions of all three protocols, the engine, the store on a disk that crashes.
//!
//! ```text
//!   script ─► clients ──octets──► sessions ──► World (engine, store, disk, time)
//!             clients ◄──octets── sessions ◄──
//! ```
//!
//! [`fuzz_broker`] reads a script from its input: who says what, how much each may take, when the log is written, when time
//! passes, when the machine stops. What must hold, whatever the script: the engine's books balance after every turn, what
//! a session writes is its protocol, the same script has the same history, and a durable message that was confirmed is
//! delivered or still there.

mod amqp;
mod book;
mod broker;
mod mqtt;
mod stomp;
mod wire;

use broker::Broker;

/// Runs the script that `data` is.
///
/// # Panics
/// If something does not hold.
pub fn fuzz_broker(data: &[u8]) {
    let trace = run(data);
    // Whatever was drawn at random came from the seed.
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

/// The rest of the script; zeroes without end behind it.
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
