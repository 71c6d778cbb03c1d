//! Runs the whole broker on one thread and virtual time, over the corpus of the fuzz target `sim` and over random
//! scripts. The seeds are fixed, so a failure repeats.

#[path = "../../fuzz/sim/lib.rs"]
pub mod sim;

use gatepost_core::testing::corpus::replay;
use gatepost_core::testing::disk::Rng;

#[test]
fn the_corpus_of_the_simulator_breaks_nothing() {
    replay("sim", sim::fuzz_broker);
}

#[test]
fn random_scripts_break_nothing() {
    for seed in 0..100 {
        println!("seed {seed}");
        let mut random = Rng::new(seed);
        let length = random.below(2_000);
        let script: Vec<u8> = (0..length).map(|_| random.word() as u8).collect();
        sim::fuzz_broker(&script);
    }
}
