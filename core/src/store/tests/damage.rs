//! Bytes change on the medium: the start succeeds, and everything intact is served.

use super::behaviour::{ack, at, commit, open_with, publish};
use super::script::{Script, message, runs, settings};
use super::{bodies, entries};
use crate::store::disk::Disk;
use crate::store::{KeyKind, Read, Record, Recovered, Store, VhostId, check, key, repair};
use crate::testing::disk::{Crash, Rng, SimDisk};
use crate::time::Wall;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A data directory left by a random run.
pub(super) fn lived(seed: u64) -> Script {
    let mut script = Script::new(seed);
    script.is_plain = true;
    script.open().unwrap();
    let commits = 10 + script.rng.below(60);
    script.work(commits).unwrap();
    if script.rng.chance(1, 2) {
        let now = script.now;
        script.store.take().unwrap().close(now).unwrap();
    }
    script.store = None;
    script.disk = script.disk.restart(Crash::Process);
    script
}

/// Flips, cuts, zeroes, scrambles or removes a part of a file.
pub(super) fn damage(disk: &SimDisk, path: &str, rng: &mut Rng) {
    disk.damage(path, |bytes| {
        let len = bytes.len() as u64;
        let at = rng.below(len) as usize;
        let run = (1 + rng.below(6000) as usize).min(bytes.len() - at.min(bytes.len()));
        match rng.below(6) {
            0 if len > 0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes.truncate(at),
            2 => bytes[at..at + run].fill(0),
            3 => bytes[at..at + run].iter_mut().for_each(|byte| *byte = rng.word() as u8),
            4 => bytes.clear(),
            // A misdirected write: valid bytes in the wrong place.
            _ => {
                let from = rng.below(len - run as u64 + 1) as usize;
                bytes.copy_within(from..from + run, at);
            }
        }
    });
}

pub(super) type Content = BTreeMap<(u64, u64), u64>;

/// What is served, and what is listed and lost. A body that is served equals the one published.
pub(super) fn contents(
    script: &Script,
    store: &Store<SimDisk>,
    recovered: &Recovered,
) -> (Content, BTreeSet<(u64, u64)>) {
    let (mut served, mut lost) = (BTreeMap::new(), BTreeSet::new());
    for queue in recovered.queues.keys() {
        let reads: Vec<Read> = entries(store, *queue)
            .iter()
            .map(|entry| Read {
                queue: *queue,
                seq: entry.seq,
                at: entry.at,
                waited: 0,
            })
            .collect();
        for loaded in bodies(store, &reads) {
            let at = (queue.0, loaded.seq);
            let Some(got) = loaded.message else {
                lost.insert(at);
                continue;
            };
            let (content, len) = script
                .content(at)
                .unwrap_or_else(|| panic!("seed {}: {at:?}", script.seed));
            assert_eq!(
                got.payload(),
                message(content, len).payload(),
                "seed {}: {at:?} is another",
                script.seed
            );
            served.insert(at, content);
        }
    }
    (served, lost)
}

#[test]
fn a_damaged_file_never_stops_the_start_and_affects_nothing_else() {
    for seed in 0..runs(400) {
        let script = lived(3_000_000 + seed);
        let mut rng = Rng::new(seed);
        // What an undamaged copy serves, and from where.
        let copy = script.disk.restart(Crash::Process);
        let (store, whole) = Store::open(Arc::new(copy), script.settings.clone(), Wall(0)).unwrap();
        let (expected, lost) = contents(&script, &store, &whole);
        let listed: Vec<_> = whole
            .queues
            .keys()
            .map(|queue| (*queue, entries(&store, *queue)))
            .collect();
        assert!(lost.is_empty(), "seed {seed}");
        let harmed = script.disk.restart(Crash::Process);
        let files = harmed.paths();
        let path = &files[rng.below(files.len() as u64) as usize];
        let before = harmed.read(path);
        damage(&harmed, path, &mut rng);
        let is_harmed = harmed.read(path) != before;
        let report = check(&harmed, &mut |_| {}).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(is_harmed || report.is_clean(), "seed {seed}: {report}");

        // Reads that fail for a while do not change what counts as damaged. Two such periods may follow each other.
        harmed.set_patience(12);
        for _ in 0..seed % 3 {
            harmed.fail_reads(None, rng.below(60), 1 + rng.below(5));
        }
        let (store, recovered) = Store::open(Arc::new(harmed.clone()), script.settings.clone(), Wall(0))
            .unwrap_or_else(|error| panic!("seed {seed}, {path}: {error}"));
        let (served, _) = contents(&script, &store, &recovered);
        for (queue, entries) in &listed {
            for entry in entries {
                let at = (queue.0, entry.seq);
                let elsewhere = !path.contains(&format!("{:08}.seg", entry.at.segment));
                let is_served = served.contains_key(&at);
                assert!(
                    !elsewhere || is_served,
                    "seed {seed}: {at:?} of {entry:?} was lost with {path}"
                );
            }
        }
        assert!(expected.len() >= served.len() || is_harmed);
        for (key, value) in &recovered.keys {
            assert!(
                script.ever_had(key, value),
                "seed {seed}: key {key:?} has a value that it never had"
            );
        }
        // It continues, and starts again.
        drop(store);
        let again = harmed.restart(Crash::Power);
        let (store, recovered) = Store::open(Arc::new(again), script.settings.clone(), Wall(0))
            .unwrap_or_else(|error| panic!("seed {seed}, {path}, again: {error}"));
        let (served_again, _) = contents(&script, &store, &recovered);
        assert_eq!(served, served_again, "seed {seed}: {path}");
    }
}

#[test]
fn many_damaged_files_never_stop_the_start() {
    for seed in 0..runs(400) / 2 {
        let mut script = lived(4_000_000 + seed);
        let mut rng = Rng::new(seed);
        for path in script.disk.paths() {
            if rng.chance(1, 2) {
                damage(&script.disk, &path, &mut rng);
            }
        }
        let disk = script.disk.restart(Crash::Process);
        let (store, recovered) = Store::open(Arc::new(disk.clone()), script.settings.clone(), Wall(0))
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        contents(&script, &store, &recovered);
        // The store continues with what is left.
        script.adopt(&store, &recovered);
        script.store = Some(store);
        script.disk = disk;
        script.work(30).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

/// A segment and all checkpoints were missing, and neither a start nor `check` reported it.
#[test]
fn a_segment_that_is_missing_together_with_all_checkpoints_is_noticed() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open_with(&disk, settings());
    for seq in 0..80 {
        commit(&mut store, vec![publish(&message(seq, 1000), 1, seq)], seq);
    }
    store.close(at(100)).unwrap();
    let segments = disk.paths().iter().filter(|path| path.ends_with(".seg")).count() as u32;
    assert!(segments > 4);
    let without = |gone: Range<u32>| {
        let disk = disk.restart(Crash::Process);
        for path in disk.paths() {
            let is_gone = gone.clone().any(|id| path.contains(&format!("{id:08}.seg")));
            if is_gone || path.starts_with("checkpoint") {
                disk.remove(&path).unwrap();
            }
        }
        disk
    };
    assert!(
        check(&without(0..0), &mut |_| {}).unwrap().is_clean(),
        "all segments are there"
    );
    // One segment, and the newest ones.
    let one = (1..=segments).map(|id| id..id + 1);
    let newest = (2..segments).map(|id| id..segments + 1);
    for lost in one.chain(newest) {
        let gone = lost.start;
        let disk = without(lost);
        let report = check(&disk, &mut |_| {}).unwrap();
        assert!(!report.is_clean(), "{gone}: {report}");
        assert!(
            report.to_string().contains(&format!("log/{gone:08}.seg")),
            "{gone}: {report}"
        );
        let (store, _) = open_with(&disk, settings());
        assert_eq!(store.stats().quarantined.load(Ordering::Relaxed), 1, "{gone}");
        store.close(at(200)).unwrap();
        let repaired = repair(Arc::new(disk.clone()), settings(), at(300), &mut |_| {}).unwrap();
        assert!(repaired.is_clean(), "{gone}: {repaired}");
        // Once a checkpoint knows what exists, it is not reported again.
        let (store, _) = open_with(&disk, settings());
        assert_eq!(store.stats().quarantined.load(Ordering::Relaxed), 0, "{gone}");
    }
}

/// The newest segments were missing, and the checkpoint was older and named none of them.
#[test]
fn newest_segments_that_no_checkpoint_names_are_noticed() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open_with(&disk, settings());
    commit(&mut store, vec![publish(&message(0, 100), 1, 0)], 0);
    store.close(at(100)).unwrap();
    let (mut store, _) = open_with(&disk, settings());
    for seq in 1..80 {
        commit(&mut store, vec![publish(&message(seq, 1000), 1, seq)], 100 + seq);
    }
    drop(store);
    let disk = disk.restart(Crash::Process);
    let segments: Vec<String> = disk.paths().into_iter().filter(|path| path.ends_with(".seg")).collect();
    assert!(segments.len() > 4);
    assert!(check(&disk, &mut |_| {}).unwrap().is_clean());
    // At least one of this run is left.
    for left in 2..segments.len() {
        let disk = disk.restart(Crash::Process);
        segments[left..].iter().for_each(|path| disk.remove(path).unwrap());
        let report = check(&disk, &mut |_| {}).unwrap();
        assert!(report.to_string().contains(&segments[left]), "{left}: {report}");
        let (store, _) = open_with(&disk, settings());
        assert_eq!(store.stats().quarantined.load(Ordering::Relaxed), 1, "{left}");
    }
}

/// A checkpoint named the segment that was being written, in which nothing was live then. It went missing, with
/// everything written to it later.
#[test]
fn a_missing_segment_that_was_being_written_is_noticed() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open_with(&disk, settings());
    commit(&mut store, vec![publish(&message(0, 100), 1, 0), ack(1, 0, 0)], 0);
    store.write_checkpoint(at(0)).unwrap();
    commit(&mut store, vec![publish(&message(1, 100), 1, 1)], 1);
    drop(store);
    let segment = disk.paths().into_iter().find(|path| path.ends_with(".seg")).unwrap();
    disk.remove(&segment).unwrap();
    let report = check(&disk, &mut |_| {}).unwrap();
    assert!(report.to_string().contains(&segment), "{report}");
    let (store, _) = open_with(&disk, settings());
    assert_eq!(store.stats().quarantined.load(Ordering::Relaxed), 1);
}

/// The newest value of a retained message was damaged. A start had no message for that topic. A repair, after which the
/// damaged record is no longer listed, brought the outdated value back.
#[test]
fn an_outdated_retained_message_does_not_come_back_where_the_newest_is_damaged() {
    let topic = key(VhostId(1), KeyKind::Retained, &[b"state\0"]);
    let set = |value: &[u8]| Record::Key {
        key: topic.clone(),
        value: Some(value.into()),
    };
    let disk = SimDisk::new(1);
    for (n, value) in [b"outdated".as_slice(), b"the newest"].into_iter().enumerate() {
        let n = n as u64;
        let (mut store, _) = open_with(&disk, settings());
        commit(&mut store, vec![publish(&message(n, 100), 1, n), set(value)], 200 * n);
        store.close(at(200 * n + 100)).unwrap();
    }
    let damaged = disk.restart(Crash::Process);
    let newest = |path: &String| damaged.read(path).is_some_and(|bytes| place(&bytes).is_some());
    let path = damaged.paths().into_iter().find(newest).unwrap();
    damaged.damage(&path, |bytes| {
        let at = place(bytes).unwrap();
        bytes[at] ^= 1;
    });
    let repaired = damaged.restart(Crash::Process);
    let started = damaged.restart(Crash::Process);
    // The checkpoint does not list retained messages, so it makes no difference.
    let without = damaged.restart(Crash::Process);
    for file in ["checkpoint", "checkpoint.old"] {
        without.remove(file).unwrap();
    }
    let report = repair(Arc::new(repaired.clone()), settings(), at(400), &mut |_| {}).unwrap();
    assert!(report.is_clean(), "{report}");
    for disk in [started, without, repaired] {
        // A start, what it writes, and a start that finds that.
        for n in 0..2 {
            let (mut store, recovered) = open_with(&disk, settings());
            assert!(!recovered.keys.contains_key(&topic), "start {n}");
            commit(&mut store, vec![publish(&message(2 + n, 100), 1, 2 + n)], 500 + n);
            store.close(at(600 + n)).unwrap();
        }
        let report = repair(Arc::new(disk.clone()), settings(), at(700), &mut |_| {}).unwrap();
        assert!(report.is_clean(), "{report}");
        let (_, recovered) = open_with(&disk, settings());
        assert!(!recovered.keys.contains_key(&topic), "{:?}", recovered.keys);
    }
}

/// The same in a segment that a crash left without a footer, so that nothing lists its records. Whichever bit of the
/// key or the value is flipped, a start has the newest value or none.
#[test]
fn an_outdated_retained_message_does_not_come_back_from_a_segment_without_a_footer() {
    let topic = key(VhostId(1), KeyKind::Retained, &[b"state\0"]);
    let other = key(VhostId(1), KeyKind::Retained, &[b"statf\0"]);
    let set = |key: &[u8], value: &[u8]| Record::Key {
        key: key.into(),
        value: Some(value.into()),
    };
    for same_segment in [false, true] {
        let disk = SimDisk::new(1);
        let (mut store, _) = open_with(&disk, settings());
        commit(
            &mut store,
            vec![publish(&message(0, 100), 1, 0), set(&topic, b"outdated")],
            0,
        );
        if !same_segment {
            store.close(at(100)).unwrap();
            store = open_with(&disk, settings()).0;
        }
        commit(&mut store, vec![set(&other, b"its neighbour")], 150);
        commit(&mut store, vec![set(&topic, b"the newest")], 200);
        // It says that the write before was synced.
        commit(&mut store, vec![publish(&message(1, 100), 1, 1)], 300);
        drop(store);
        let disk = disk.restart(Crash::Process);
        let newest = |path: &String| disk.read(path).is_some_and(|bytes| place(&bytes).is_some());
        let path = disk.paths().into_iter().find(newest).unwrap();
        let value = place(&disk.read(&path).unwrap()).unwrap();
        // The kind, the flags and the head's length; the version and the key with its length; the value.
        let kind = value - topic.len() - 2 - 8;
        for bit in kind * 8..(value + 10) * 8 {
            let damaged = disk.restart(Crash::Process);
            damaged.damage(&path, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            let (started, repaired) = (damaged.restart(Crash::Process), damaged.restart(Crash::Process));
            repair(Arc::new(repaired.clone()), settings(), at(400), &mut |_| {}).unwrap();
            for mut disk in [started, repaired] {
                for n in 0..3 {
                    let (store, recovered) = open_with(&disk, settings());
                    let why = format!("{same_segment} {bit} {n}");
                    assert!(!recovered.keys.contains_key(&topic), "{why}");
                    assert!(recovered.keys.contains_key(&other), "{why}: a neighbour");
                    // The first start ends in a crash: the next one has to judge the same damage again.
                    if n > 0 {
                        store.close(at(600 + n)).unwrap();
                    }
                    disk = disk.restart(Crash::Process);
                }
            }
        }
    }
}

fn place(bytes: &[u8]) -> Option<usize> {
    bytes.windows(10).position(|part| part == b"the newest")
}
