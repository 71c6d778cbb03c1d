//! Every place of every file of a recorded directory is damaged, one at a time: what is lost, what is reported, and
//! what a repair makes of it.

use super::damage::{Content, contents, lived};
use super::entries;
use super::script::{Script, runs};
use crate::message::Position;
use crate::store::disk::SECTOR;
use crate::store::record::{HEADER_BYTES, peek};
use crate::store::segment::{RECORDS_AT, SegmentHeader, path};
use crate::store::{Recovered, Repaired, Store, check, repair};
use crate::testing::disk::{Crash, SimDisk};
use crate::time::{Now, Wall};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A kind of damage to a file.
#[derive(Clone, Debug)]
enum Harm {
    Flip(usize),
    Truncate(usize),
    Zero(Range<usize>),
    Remove,
}

impl Harm {
    fn apply(&self, disk: &SimDisk, path: &str) {
        match self {
            Harm::Remove => crate::store::disk::Disk::remove(disk, path).unwrap(),
            Harm::Flip(at) => disk.damage(path, |bytes| bytes[*at] ^= 0x10),
            Harm::Truncate(len) => disk.damage(path, |bytes| bytes.truncate(*len)),
            Harm::Zero(range) => disk.damage(path, |bytes| bytes[range.clone()].fill(0)),
        }
    }
    fn range(&self) -> Range<usize> {
        match self {
            Harm::Flip(at) => *at..at + 1,
            Harm::Truncate(len) => *len..usize::MAX,
            Harm::Zero(range) => range.clone(),
            Harm::Remove => 0..usize::MAX,
        }
    }
}

/// Every byte of the files' descriptions, and samples of the rest.
fn harms(bytes: &[u8], stride: usize) -> Vec<Harm> {
    let len = bytes.len();
    let (sector, records) = (SECTOR as usize, RECORDS_AT as usize);
    let mut at: BTreeSet<usize> = (0..len).step_by(stride).collect();
    at.extend((0..56).chain(records - sector..records - sector + 56));
    at.extend(len.saturating_sub(sector)..len.saturating_sub(sector) + 84);
    let mut harms: Vec<Harm> = at.into_iter().filter(|at| *at < len).map(Harm::Flip).collect();
    let cuts = (0..12)
        .map(|n| len * n / 12)
        .chain([1, sector, records, records + 1, len - 1, len - sector.min(len)]);
    harms.extend(cuts.filter(|cut| *cut < len).map(Harm::Truncate));
    let zeros = (0..len).step_by(sector).step_by(stride.div_ceil(sector).max(1));
    harms.extend(zeros.map(|at| Harm::Zero(at..(at + sector).min(len))));
    harms.push(Harm::Remove);
    harms
}

/// An undamaged directory: where its messages and keys are, and their content.
struct Whole {
    script: Script,
    served: Content,
    places: BTreeMap<(u64, u64), (String, Range<usize>)>,
    keys: BTreeMap<Box<[u8]>, Box<[u8]>>,
    key_places: BTreeMap<Box<[u8]>, (String, Range<usize>)>,
    /// Files that nobody sealed: damage to their ends may go unnoticed.
    open_ended: BTreeSet<String>,
}

impl Whole {
    fn of(script: Script) -> Whole {
        let disk = script.disk.restart(Crash::Process);
        let report = check(&disk, &mut |_| {}).unwrap();
        assert!(report.is_clean(), "{report}");
        let (store, recovered) = Store::open(Arc::new(disk), script.settings.clone(), Wall(0)).unwrap();
        let (served, lost) = contents(&script, &store, &recovered);
        assert!(lost.is_empty());
        let record = |at: Position| {
            let dir = store.segments[&at.segment].header.kind.dir();
            let file = path(dir, at.segment);
            let bytes = script.disk.read(&file).unwrap();
            let header = SegmentHeader::decode(&bytes).unwrap();
            let start = at.offset as usize;
            let head = &bytes[start..start + HEADER_BYTES];
            let len = peek(head, header.base + u64::from(at.offset)).unwrap();
            (file, start..start + len)
        };
        let queues = recovered.queues.keys();
        let listed = queues.flat_map(|queue| entries(&store, *queue).into_iter().map(|e| (*queue, e)));
        let places = listed.map(|(queue, e)| ((queue.0, e.seq), record(e.at))).collect();
        let index = store.shared.index.read();
        let keys = index.keys.iter().filter(|(_, entry)| !entry.deleted);
        let key_places = keys.map(|(key, entry)| (key.clone(), record(entry.at))).collect();
        let torn = report.files.iter().filter(|file| file.torn);
        Whole {
            served,
            places,
            keys: recovered.keys,
            key_places,
            open_ended: torn.map(|file| file.path.clone()).collect(),
            script,
        }
    }
    fn is_hit(&self, place: &(String, Range<usize>), path: &str, harm: &Harm) -> bool {
        let hit = harm.range();
        place.0 == path && place.1.start < hit.end && hit.start < place.1.end
    }
    /// Everything missing was hit, or was in a transaction with something that was. Returns how much is missing.
    fn compare(&self, now: &Content, keys: &BTreeMap<Box<[u8]>, Box<[u8]>>, path: &str, harm: &Harm) -> usize {
        let mut missing = 0;
        for at in self.served.keys().filter(|at| !now.contains_key(at)) {
            missing += 1;
            let group = self.script.group_of(*at);
            let is_hit = |at: &(u64, u64)| self.places.get(at).is_some_and(|place| self.is_hit(place, path, harm));
            // The records between the two of a transaction belong to it.
            let spoilt = self.open_ended.contains(path) && group.len() > 1;
            assert!(
                is_hit(at) || spoilt,
                "{at:?} at {:?} was lost with {harm:?} of {path}",
                self.places[at]
            );
        }
        for (key, value) in &self.keys {
            if keys.get(key) == Some(value) {
                continue;
            }
            missing += 1;
            let spoilt = self.open_ended.contains(path);
            assert!(
                self.is_hit(&self.key_places[key], path, harm) || spoilt,
                "key {key:?} was lost with {harm:?} of {path}"
            );
            let old = keys.get(key).is_none_or(|old| self.script.ever_had(key, old));
            assert!(old, "key {key:?} has a value it never had, with {harm:?} of {path}");
        }
        missing
    }
    fn copy(&self, path: &str, harm: &Harm) -> SimDisk {
        let disk = self.script.disk.restart(Crash::Process);
        harm.apply(&disk, path);
        disk
    }
    fn open(&self, disk: &SimDisk, what: &str) -> (Store<SimDisk>, Recovered) {
        Store::open(Arc::new(disk.clone()), self.script.settings.clone(), Wall(0))
            .unwrap_or_else(|error| panic!("{what}: {error}"))
    }
    fn repair(&self, disk: &SimDisk, what: &str) -> Repaired {
        repair(
            Arc::new(disk.clone()),
            self.script.settings.clone(),
            Now::default(),
            &mut |_| {},
        )
        .unwrap_or_else(|error| panic!("{what}: {error}"))
    }
}

/// One of this many damaged places is also repaired.
const REPAIR_EACH: u64 = 5;

fn harm_everything(whole: &Whole, stride: usize) {
    for path in whole.script.disk.paths() {
        let bytes = whole.script.disk.read(&path).unwrap();
        for (n, harm) in harms(&bytes, stride).into_iter().enumerate() {
            let what = format!("{harm:?} of {path}");
            let disk = whole.copy(&path, &harm);
            let report = check(&disk, &mut |_| {}).unwrap_or_else(|error| panic!("{what}: {error}"));
            let (store, recovered) = whole.open(&disk, &what);
            let (served, unreadable) = contents(&whole.script, &store, &recovered);
            let missing = whole.compare(&served, &recovered.keys, &path, &harm);
            // Damage may only go unnoticed if a crash could have left the same.
            let is_counted = store.stats().quarantined.load(Ordering::Relaxed) > 0;
            let is_noted = disk.paths().iter().any(|path| path.starts_with("quarantine/"));
            let unnoticed = whole.open_ended.contains(&path);
            assert!(
                missing == 0 || (is_counted && is_noted) || unnoticed,
                "{what} costs {missing} and is not counted"
            );
            assert!(
                missing == 0 || !report.is_clean() || unnoticed,
                "{what} costs {missing} and is not found: {report}"
            );
            drop(store);
            // A repair reads everything three times.
            if n % REPAIR_EACH as usize != 0 {
                continue;
            }
            let disk = whole.copy(&path, &harm);
            let repaired = whole.repair(&disk, &what);
            assert!(repaired.is_clean(), "{what}: {repaired}");
            assert_eq!(repaired.before, report, "{what}");
            let report = check(&disk, &mut |_| {}).unwrap();
            assert!(report.is_clean() && report.stale.is_empty(), "{what}: {report}");
            let paths = disk.paths();
            assert!(whole.repair(&disk, &what).after.is_none(), "{what}: repaired twice");
            assert_eq!(disk.paths(), paths, "{what}");
            let (store, recovered) = whole.open(&disk, &what);
            let (again, left) = contents(&whole.script, &store, &recovered);
            assert!(
                left.is_empty(),
                "{what}: {left:?} are listed and cannot be read, {unreadable:?} before"
            );
            assert_eq!(served, again, "{what}: a repair changes what is served: {repaired}");
        }
    }
}

/// A directory with everything that there can be in one.
fn recorded(is_closed: bool) -> Whole {
    let rich = |script: &Script| {
        let paths = script.disk.paths();
        let count = |start: &str, end: &str| {
            paths
                .iter()
                .filter(|p| p.starts_with(start) && p.ends_with(end))
                .count()
        };
        let whole = count("log/", ".seg") >= 3 && count("cold/", ".seg") >= 2 && count("checkpoint", "") == 2;
        let is_open = check(&script.disk.restart(Crash::Process), &mut |_| {})
            .unwrap()
            .files
            .iter()
            .any(|file| file.torn);
        whole && is_open != is_closed
    };
    let mut seeds = 5_000_000..5_001_000;
    let script = seeds
        .find_map(|seed| Some(lived(seed)).filter(rich))
        .expect("such a seed");
    let whole = Whole::of(script);
    assert!(whole.keys.len() >= 3 && whole.served.len() >= 10);
    whole
}

fn stride() -> usize {
    (240_000 / runs(400)).max(1) as usize
}

#[test]
fn every_place_of_a_closed_directory_may_be_damaged() {
    harm_everything(&recorded(true), stride());
}

#[test]
fn every_place_of_a_directory_that_was_left_by_a_crash_may_be_damaged() {
    harm_everything(&recorded(false), stride());
}

#[test]
fn a_repair_of_much_damage_leaves_none_and_the_store_works() {
    for seed in 0..runs(400) / 4 {
        let mut script = lived(6_000_000 + seed);
        let mut rng = crate::testing::disk::Rng::new(seed);
        for path in script.disk.paths() {
            if rng.chance(1, 2) {
                super::damage::damage(&script.disk, &path, &mut rng);
            }
        }
        let disk = script.disk.restart(Crash::Process);
        let repaired = repair(Arc::new(disk.clone()), script.settings.clone(), script.now, &mut |_| {})
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(repaired.is_clean(), "seed {seed}: {repaired}");
        let (store, recovered) = Store::open(Arc::new(disk.clone()), script.settings.clone(), Wall(0)).unwrap();
        assert_eq!(store.stats().quarantined.load(Ordering::Relaxed), 0, "seed {seed}");
        let (_, lost) = contents(&script, &store, &recovered);
        assert!(lost.is_empty(), "seed {seed}: {lost:?}");
        script.adopt(&store, &recovered);
        script.store = Some(store);
        script.disk = disk;
        script.work(30).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

#[test]
fn a_directory_in_use_is_neither_checked_nor_repaired() {
    let script = lived(7_000_000);
    let (_store, _) = Store::open(Arc::new(script.disk.clone()), script.settings.clone(), Wall(0)).unwrap();
    let refused = repair(
        Arc::new(script.disk.clone()),
        script.settings.clone(),
        script.now,
        &mut |_| {},
    );
    assert!(matches!(refused, Err(crate::store::StoreError::Lock(_))));
}

#[test]
fn files_left_by_a_stop_are_no_damage_and_are_removed() {
    let script = lived(7_000_001);
    for path in ["log/draft", "cold/draft", "log/ahead", "checkpoint.draft"] {
        crate::store::disk::Disk::create(&script.disk, path).unwrap();
    }
    let disk = script.disk.restart(Crash::Process);
    let report = check(&disk, &mut |_| {}).unwrap();
    assert!(report.is_clean() && report.stale.len() == 4, "{report}");
    let repaired = repair(Arc::new(disk.clone()), script.settings.clone(), script.now, &mut |_| {}).unwrap();
    assert!(repaired.is_clean() && repaired.done.len() == 4, "{repaired}");
    assert_eq!(check(&disk, &mut |_| {}).unwrap().stale.len(), 0);
}
