//! Deleted objects cost nothing for long, and never come back.

use super::behaviour::{at, open_with, publish};
use super::script::{batch, message, runs, settings};
use crate::store::disk::Disk;
use crate::store::{Record, Store, StoreError, StoreSettings};
use crate::testing::disk::{Crash, Fault, Rng, SimDisk};
use crate::time::{Time, Wall};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn record(key: &[u8], value: Option<&[u8]>) -> Record {
    Record::Key {
        key: key.into(),
        value: value.map(Into::into),
    }
}

/// Lets time pass, calling the store whenever it asks to be called.
fn rest(store: &mut Store<SimDisk>, from: u64, until: u64) {
    let mut now = from;
    while let Some(Time(next)) = store.tick(at(now)).unwrap() {
        now = next.max(now + 1);
        if now > until {
            break;
        }
    }
}

/// 568,000 queues were declared and deleted under 100 names: 568,000 live keys and 177 MB of disk stayed for ever. Each
/// deletion was kept because an older copy of its key was on disk, in the same segment that the deletion kept there.
#[test]
fn declaring_and_deleting_leaves_nothing_on_disk() {
    let disk = SimDisk::new(1);
    let settings = StoreSettings {
        segment_bytes: 64 << 10,
        salt: 0x5eed,
        ..StoreSettings::default()
    };
    let (mut store, _) = open_with(&disk, settings.clone());
    let stats = store.stats();
    // A lasting one in the oldest segment.
    store
        .commit(&mut [batch(vec![record(b"\x07stays", Some(b"v"))], true)], at(0))
        .unwrap();
    let (mut now, mut files_max) = (0, 0);
    for round in 0..400u64 {
        let mut records = Vec::new();
        for name in 0..100u64 {
            // A queue has a new number each time, its binding the same name.
            let queue = [b"\x01q".as_slice(), &(round * 100 + name).to_be_bytes()].concat();
            let binding = format!("\x01b{name}").into_bytes();
            records.push(record(&queue, Some(&[1; 60])));
            records.push(record(&binding, Some(&[1; 20])));
            // Half of them exist until the next round, so that many are deleted in another segment.
            let (queue, binding) = match (name % 2, round.checked_sub(1)) {
                (0, _) => (queue, binding),
                (_, Some(before)) => (
                    [b"\x01q".as_slice(), &(before * 100 + name).to_be_bytes()].concat(),
                    binding,
                ),
                (_, None) => continue,
            };
            records.push(record(&queue, None));
            records.push(record(&binding, None));
        }
        store.commit(&mut [batch(records, true)], at(now)).unwrap();
        now += 1_000;
        rest(&mut store, now - 999, now);
        files_max = files_max.max(disk.paths().len());
    }
    assert!(
        disk.bytes_written() > 4 << 20,
        "{} bytes were written",
        disk.bytes_written()
    );
    assert!(files_max <= 24, "{files_max} files at worst");
    // The last of them.
    let records =
        (0..100u64).map(|name| record(&[b"\x01q".as_slice(), &(399 * 100 + name).to_be_bytes()].concat(), None));
    store.commit(&mut [batch(records.collect(), true)], at(now)).unwrap();
    rest(&mut store, now + 5_000, now + 120_000);
    let live = stats.live_keys.load(Ordering::Relaxed);
    assert!(
        live <= 1 + 100,
        "{live} live keys: one, and what the active segment deletes"
    );
    let paths = disk.paths();
    // The active segment, the one before it, two spares, the lasting record's segment, two checkpoints.
    assert!(paths.len() <= 9, "{} files: {paths:?}", paths.len());
    store.close(at(now + 120_000)).unwrap();
    let (mut store, recovered) = open_with(&disk, settings);
    assert_eq!(recovered.keys.len(), 1);
    rest(&mut store, now + 130_000, now + 300_000);
    assert!(disk.paths().len() <= 9, "{:?}", disk.paths());
}

/// The history of each key: the commits, and the values that they set.
type Book = BTreeMap<Vec<u8>, Vec<(u64, Option<Vec<u8>>)>>;

struct Life {
    disk: SimDisk,
    book: Book,
    confirmed: u64,
}

/// Sets and deletes keys, some of them again and again, with messages that keep segments, until the machine stops.
fn live(seed: u64, crash_at: Option<u64>, fail_at: Option<u64>) -> Life {
    let mut life = Life {
        disk: SimDisk::new(seed),
        book: Book::new(),
        confirmed: 0,
    };
    if let Some(at) = crash_at {
        life.disk.crash_after(at);
    }
    if let Some(nth) = fail_at {
        life.disk.fail_after(nth, Fault::Io);
    }
    let _ = work(seed, &mut life);
    life
}

fn work(seed: u64, life: &mut Life) -> Result<(), StoreError> {
    let mut rng = Rng::new(seed);
    let (mut store, _) = Store::open(Arc::new(life.disk.clone()), settings(), Wall(0))?;
    for commit in 1..=80u64 {
        let mut records = Vec::new();
        for _ in 0..1 + rng.below(8) {
            // Few names that are created and deleted often, and some that are created once.
            let name = if rng.chance(1, 2) { rng.below(12) } else { 100 + commit };
            let key = [b"\x01".as_slice(), &name.to_be_bytes()].concat();
            let value = rng.chance(1, 2).then(|| vec![commit as u8; rng.below(500) as usize]);
            records.push(record(&key, value.as_deref()));
            life.book.entry(key).or_default().push((commit, value));
        }
        if rng.chance(1, 6) {
            records.push(publish(&message(commit, 900), 1, commit));
        }
        store.commit(&mut [batch(records, true)], at(commit * 3_000))?;
        life.confirmed = commit;
        for _ in 0..rng.below(5) {
            store.tick(at(commit * 3_000 + 1_000))?;
        }
    }
    Ok(())
}

/// Every key has its last confirmed value, or a later one.
fn check(life: &Life, disk: &SimDisk, what: &str) {
    let (_, recovered) = Store::open(Arc::new(disk.clone()), settings(), Wall(0)).unwrap();
    for (key, versions) in &life.book {
        let found = recovered.keys.get(key.as_slice()).map(|value| value.to_vec());
        let sure = versions.iter().rposition(|(commit, _)| *commit <= life.confirmed);
        let is_allowed = versions[sure.unwrap_or(0)..].iter().any(|(_, value)| *value == found)
            || (sure.is_none() && found.is_none());
        assert!(
            is_allowed,
            "{what}: {key:?} is {found:?}, confirmed {}: {versions:?}",
            life.confirmed
        );
    }
    assert!(recovered.keys.keys().all(|key| life.book.contains_key(&**key)));
}

/// A disk without checkpoints: everything is found from the records alone.
fn without_checkpoints(disk: &SimDisk) -> SimDisk {
    let disk = disk.restart(Crash::Process);
    for file in ["checkpoint", "checkpoint.old"] {
        let _ = disk.remove(file);
    }
    disk.sync_dir("").unwrap();
    disk
}

#[test]
fn a_deleted_key_never_comes_back_wherever_the_machine_stops() {
    for seed in 0..runs(400).div_ceil(200) {
        let whole = live(seed, None, None);
        let changes = whole.disk.changes();
        assert!(changes > 200);
        check(&whole, &without_checkpoints(&whole.disk), "at the end");
        for at in (0..changes).step_by(if seed == 0 { 2 } else { 11 }) {
            let life = live(seed, Some(at), None);
            let (disk, bare) = (life.disk.restart(Crash::Power), life.disk.restart(Crash::Power));
            check(&life, &disk, &format!("seed {seed} at {at}"));
            check(
                &life,
                &without_checkpoints(&bare),
                &format!("seed {seed} at {at}, no checkpoint"),
            );
        }
    }
}

/// The file of a segment with deleted records could not be removed, or its removal was not synced.
#[test]
fn a_deleted_key_never_comes_back_whatever_fails() {
    for seed in 0..runs(400).div_ceil(200) {
        let changes = live(seed, None, None).disk.changes();
        for at in (0..changes).step_by(7) {
            let life = live(seed, None, Some(at));
            let disk = life.disk.restart(Crash::Power);
            check(&life, &without_checkpoints(&disk), &format!("seed {seed}, {at} failed"));
        }
    }
}

/// The segment with the deletions is lost and the checkpoint knows them. They are written again: another start, without
/// a checkpoint, must not find only the older copies.
#[test]
fn losing_the_segment_with_a_deletion_brings_nothing_back() {
    let disk = SimDisk::new(3);
    let (mut store, _) = open_with(&disk, settings());
    let say = |store: &mut Store<SimDisk>, ms, records| {
        store.commit(&mut [batch(records, true)], at(ms)).unwrap();
    };
    // A lasting message keeps the segment with the value.
    say(
        &mut store,
        0,
        vec![record(b"\x01k", Some(b"v")), publish(&message(1, 14_000), 1, 0)],
    );
    say(
        &mut store,
        1,
        vec![record(b"\x01k", None), publish(&message(2, 14_000), 1, 1)],
    );
    store.close(at(2)).unwrap();
    let lost = disk.paths().into_iter().rfind(|path| path.ends_with(".seg")).unwrap();
    disk.remove(&lost).unwrap();
    disk.sync_dir("log").unwrap();
    let (mut store, recovered) = open_with(&disk, settings());
    assert!(recovered.keys.is_empty());
    assert!(
        store.stats().quarantined.load(Ordering::Relaxed) > 0,
        "the loss is reported"
    );
    say(&mut store, 3, vec![record(b"\x01other", Some(b"w"))]);
    store.close(at(4)).unwrap();
    let (_, recovered) = open_with(&without_checkpoints(&disk), settings());
    assert_eq!(
        recovered.keys.keys().map(|key| &key[1..]).collect::<Vec<_>>(),
        [b"other"]
    );
}
