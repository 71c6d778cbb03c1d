//! The machine stops at every point, also during a start.

use super::behaviour::{ack, at, publish};
use super::entries;
use super::script::{Script, batch, message, runs, seeds, settings};
use crate::store::disk::{Disk, DiskFile};
use crate::store::segment::Trailer;
use crate::store::{Durability, QueueId, Record, Store, StoreError, check};
use crate::testing::disk::{Crash, Fault, Rng, SimDisk};
use crate::time::Wall;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Works, crashes and starts again, `lives` times. Each life stops at a change chosen by the seed.
fn live_and_die(seed: u64, lives: u64) {
    live_and_die_with(seed, lives, |_| ());
}

/// The same, where `harm` makes each life's disk fail in addition.
fn live_and_die_with(seed: u64, lives: u64, mut harm: impl FnMut(&SimDisk)) {
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
        harm(&script.disk);
        // The start itself may crash.
        if script.open().is_ok() {
            harm(&script.disk);
            let commits = 1 + script.rng.below(30);
            if script.work(commits).is_ok() && script.rng.chance(1, 3) {
                let now = script.now;
                // A clean stop confirms everything.
                if script.store.take().is_some_and(|store| store.close(now).is_ok()) {
                    script.book_all_confirmed();
                }
            }
        }
        script.store = None;
        script.disk = script.disk.restart(crash);
        script.disk.relieve();
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

#[test]
fn nothing_confirmed_is_lost_when_reads_and_opens_fail() {
    let mut failed = 0;
    for seed in seeds(120) {
        let mut rng = Rng::new(!seed);
        let mut disks = Vec::new();
        live_and_die_with(10_000_000 + seed, 6, |disk| {
            disk.harm(&mut rng);
            disks.push(disk.clone());
        });
        failed += disks.iter().map(SimDisk::reads_failed).sum::<u64>();
    }
    assert!(failed > 0, "no read failed");
}

/// The file of a new cold segment had its name, and the sync of that name failed. Its number was given to the next
/// segment as well, whose content could not be read after a crash.
#[test]
fn a_segment_whose_creation_failed_last_keeps_its_number() {
    for seed in [881, 6_807, 7_077] {
        live_and_die(seed, 6);
    }
}

/// A message was dead-lettered and its old queue purged in one write that was torn: the purge was found, the move was
/// not, and the message was in neither queue.
#[test]
fn a_purge_behind_a_torn_move_does_not_count() {
    for seed in [4_283, 9_505] {
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
            // If the background work crashes, only the next commit notices.
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

/// A process was killed while it sealed a segment: the footer was in the page cache and not on the medium. The next start
/// took the segment for sealed and said so in its checkpoint, and a power cut took the footer away.
#[test]
fn a_power_cut_after_a_process_died_is_survived() {
    for seed in 0..runs(400).div_ceil(400) {
        let killed = |at: Option<u64>| {
            let mut script = Script::new(8_000_000 + seed);
            if let Some(at) = at {
                script.disk.crash_after(at);
            }
            let _ = script.open().and_then(|()| script.work(25));
            script
        };
        let whole = killed(None).disk.changes();
        for at in 0..whole {
            let mut script = killed(Some(at));
            script.store = None;
            script.disk = script.disk.restart(Crash::Process);
            script
                .open()
                .and_then(|()| script.work(1 + at % 5))
                .unwrap_or_else(|error| panic!("seed {seed} at {at}: {error}"));
            script.store = None;
            script.disk = script.disk.restart(Crash::Power);
            let report = check(&script.disk, &mut |_| {}).unwrap();
            assert!(report.is_clean(), "seed {seed} at {at}: {report}");
            script
                .open()
                .unwrap_or_else(|error| panic!("seed {seed} at {at}: {error}"));
        }
    }
}

/// Works until segments are recycled. The `plan` says which call fails, and at which the machine stops. Returns the
/// calls that recycled a segment.
fn recycle(disk: &SimDisk, plan: Option<(u64, u64)>) -> Vec<Range<u64>> {
    let mut recycled = Vec::new();
    let mut work = || -> Result<(), StoreError> {
        if let Some((fail, stop)) = plan {
            disk.fail_after(fail, Fault::Io);
            disk.crash_after(stop);
        }
        let (mut store, _) = Store::open(Arc::new(disk.clone()), settings(), Wall(0))?;
        for seq in 0..40 {
            let now = at(seq * 100);
            let records = vec![publish(&message(seq, 1000), 1, seq), ack(1, seq, seq)];
            store.commit(&mut [batch(records, true)], now)?;
            let (changes, paths) = (disk.changes(), disk.paths());
            store.tick(now)?;
            let renamed = |path: &String| disk.paths().contains(&path.replace(".seg", ".free"));
            if paths.iter().any(|path| path.ends_with(".seg") && renamed(path)) {
                recycled.push(changes..disk.changes());
            }
        }
        Ok(())
    };
    let done = work();
    assert!(plan.is_some() || done.is_ok());
    recycled
}

/// A segment was recycled, and the sync of its new name failed. The file became the next segment all the same, and a
/// power cut restored its old name: the file then had the header of another segment.
#[test]
fn a_recycled_file_is_not_written_while_a_power_cut_may_restore_its_old_name() {
    let recycled = recycle(&SimDisk::new(0), None);
    assert!(recycled.len() > 2);
    for fail in recycled.into_iter().take(2).flatten() {
        for stop in fail + 1..fail + 40 {
            let disk = SimDisk::new(stop);
            recycle(&disk, Some((fail, stop)));
            let disk = disk.restart(Crash::Power);
            let report = check(&disk, &mut |_| {}).unwrap();
            assert!(report.is_clean(), "failed at {fail}, stopped at {stop}: {report}");
            let (store, _) = Store::open(Arc::new(disk), settings(), Wall(0)).unwrap();
            assert_eq!(store.stats().quarantined.load(Ordering::Relaxed), 0);
        }
    }
}

/// The same if the process died before the sync: its successor found the new name.
#[test]
fn a_recycled_file_is_not_written_before_the_next_start_syncs_its_name() {
    let recycled = recycle(&SimDisk::new(0), None);
    for killed in recycled.into_iter().take(2).flatten() {
        for stop in 0..40 {
            let disk = SimDisk::new(stop);
            recycle(&disk, Some((u64::MAX, killed)));
            let disk = disk.restart(Crash::Process);
            recycle(&disk, Some((u64::MAX, stop)));
            let disk = disk.restart(Crash::Power);
            let report = check(&disk, &mut |_| {}).unwrap();
            assert!(report.is_clean(), "killed at {killed}, stopped at {stop}: {report}");
        }
    }
}

/// A power cut left the trailer of a segment but not its footer, and the start could not write that again. When the
/// first page of a queue was requested, the missing directory was taken for damage.
#[test]
fn a_footer_that_a_start_cannot_write_again_is_no_damage() {
    let disk = SimDisk::new(1);
    let (mut store, _) = Store::open(Arc::new(disk.clone()), settings(), Wall(0)).unwrap();
    let records = (0..3).map(|seq| publish(&message(seq, 100), 1, seq)).collect();
    store.commit(&mut [batch(records, true)], at(0)).unwrap();
    store.close(at(0)).unwrap();
    disk.remove("checkpoint").unwrap();
    disk.sync_dir("").unwrap();
    let segment = "log/00000001.seg";
    let file = disk.open(segment).unwrap();
    let (trailer, len) = (Trailer::read(&file).unwrap().unwrap(), file.len().unwrap() as usize);
    disk.damage(segment, |bytes| bytes[trailer.footer as usize..len - 512].fill(0));
    let changes = |nth: Option<u64>| {
        let disk = disk.restart(Crash::Power);
        if let Some(nth) = nth {
            disk.fail_after(nth, Fault::Io);
        }
        let open = || Store::open(Arc::new(disk.clone()), settings(), Wall(0));
        // If the sync of what was read fails, the start fails; the next one succeeds.
        let (store, _) = open().or_else(|_| open()).unwrap();
        assert_eq!(entries(&store, QueueId(1)).len(), 3, "{nth:?} failed");
        assert_eq!(store.stats().quarantined.load(Ordering::Relaxed), 0, "{nth:?} failed");
        disk.changes()
    };
    let whole = changes(None);
    assert!(whole > 3, "it was written again");
    (0..whole).for_each(|nth| _ = changes(Some(nth)));
}

/// A power cut took only zeros from the end of a record. The start took it for torn, and made it valid by writing the
/// footer: then there were bytes behind the end that the footer recorded.
#[test]
fn a_record_that_lost_only_zeros_is_valid_from_the_start() {
    let disk = SimDisk::new(1);
    let (mut store, _) = Store::open(Arc::new(disk.clone()), settings(), Wall(0)).unwrap();
    let value = Some(vec![0; 1000].into());
    let key = [7, 1].into();
    store
        .commit(&mut [batch(vec![Record::Key { key, value }], true)], at(0))
        .unwrap();
    drop(store);
    let segment = "log/00000001.seg";
    for lost in 1..900 {
        let disk = disk.restart(Crash::Power);
        disk.damage(segment, |bytes| bytes.truncate(bytes.len() - lost));
        let is_clean = |disk: &SimDisk| check(disk, &mut |_| {}).is_ok_and(|report| report.is_clean());
        assert!(is_clean(&disk), "{lost} bytes");
        let (store, recovered) = Store::open(Arc::new(disk.clone()), settings(), Wall(0)).unwrap();
        assert_eq!(store.stats().quarantined.load(Ordering::Relaxed), 0, "{lost} bytes");
        assert_eq!(recovered.keys.len(), 1, "{lost} bytes");
        drop(store);
        assert!(is_clean(&disk), "{lost} bytes, after a start");
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
            // A crash during the tidying may go unnoticed.
            let _ = script.open();
            script.store = None;
            script.disk = script.disk.restart(Crash::Power);
            script
                .open()
                .unwrap_or_else(|error| panic!("seed {seed} at {at}: {error}"));
        }
    }
}
