//! The machine stops at every point, also while it starts.

use super::script::{Script, runs, seeds};
use crate::store::{Durability, check};
use crate::testing::disk::{Crash, Fault};

/// Works, crashes, starts, as often as `lives`; each life stops at a change that the seed picks.
fn live_and_die(seed: u64, lives: u64) {
    let mut script = Script::new(seed);
    if seed % 4 == 3 {
        script.need = Durability::Interval;
    }
    for _ in 0..lives {
        let stop = script.rng.below(120);
        script.disk.crash_after(stop);
        // Sometimes the medium fails first, and the process with it.
        if script.rng.chance(1, 5) {
            let nth = script.rng.below(100);
            let fault = if script.rng.chance(1, 2) {
                Fault::Io
            } else {
                Fault::NoSpace
            };
            script.disk.fail_after(nth, fault);
        }
        let crash = if script.rng.chance(1, 4) {
            Crash::Process
        } else {
            Crash::Power
        };
        // A start may be what crashes.
        if script.open().is_ok() {
            let commits = 1 + script.rng.below(30);
            if script.work(commits).is_ok() && script.rng.chance(1, 3) {
                let now = script.now;
                // A clean stop: everything is confirmed.
                if script.store.take().is_some_and(|store| store.close(now).is_ok()) {
                    script.book_all_confirmed();
                }
            }
        }
        script.store = None;
        script.disk = script.disk.restart(crash);
        let report = check(&script.disk, &mut |_| {}).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(report.is_clean(), "seed {seed}: a crash was taken for damage: {report}");
    }
    script.open().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
}

#[test]
fn nothing_confirmed_is_lost_over_many_lives() {
    for seed in seeds(400) {
        live_and_die(seed, 6);
    }
}

/// The file of a new cold segment had its name, and the sync of that name failed. Its number was given to the next
/// segment as well, and what was in that one could not be read after a crash.
#[test]
fn a_segment_that_failed_at_the_last_moment_keeps_its_number() {
    live_and_die(1542, 6);
}

/// A message was dead-lettered and its old queue purged in one write that was torn: the purge was found, the move was
/// not, and the message was in neither queue.
#[test]
fn a_purge_behind_a_torn_move_does_not_count() {
    for seed in [31_415, 185_186, 132_339] {
        live_and_die(seed, 6);
    }
}

#[test]
fn every_crash_point_of_a_run_is_survived() {
    for seed in 0..runs(400).div_ceil(400) {
        let work = |crash_at: Option<u64>| {
            let mut script = Script::new(1_000_000 + seed);
            if let Some(at) = crash_at {
                script.disk.crash_after(at);
            }
            // Where the background crashes, only the next commit notices.
            let _ = script.open().and_then(|()| script.work(60));
            script
        };
        let whole = work(None).disk.changes();
        for at in 0..whole {
            let mut script = work(Some(at));
            script.store = None;
            script.disk = script.disk.restart(Crash::Power);
            script
                .open()
                .unwrap_or_else(|error| panic!("seed {seed} at {at}: {error}"));
        }
    }
}

#[test]
fn every_crash_point_of_a_start_is_survived() {
    for seed in 0..runs(400) / 40 {
        let crashed = || {
            let mut script = Script::new(2_000_000 + seed);
            script.open().unwrap();
            script.work(40).unwrap();
            script.store = None;
            script.disk = script.disk.restart(Crash::Power);
            script
        };
        let mut script = crashed();
        script.open().unwrap();
        for at in 0..script.disk.changes() {
            let mut script = crashed();
            script.disk.crash_after(at);
            // A crash while it tidies up may go unnoticed.
            let _ = script.open();
            script.store = None;
            script.disk = script.disk.restart(Crash::Power);
            script
                .open()
                .unwrap_or_else(|error| panic!("seed {seed} at {at}: {error}"));
        }
    }
}
