//! Reads and opens that fail: what was not read is no damage, and nothing else is affected.

use super::behaviour::{ack, at, commit, open_with, publish};
use super::entries;
use super::script::{message, settings};
use crate::store::{Answer, PageRead, QueueId, Read, Request, Store, StoreError, StoreSettings, check, repair};
use crate::testing::disk::{Crash, SimDisk};
use crate::time::Wall;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const LOG: [&str; 3] = ["log/00000001.seg", "log/00000002.seg", "log/00000003.seg"];

/// A store with `count` messages of 1,000 bytes in queue 1, about fourteen to a segment.
fn filled(disk: &SimDisk, count: u64) -> Store<SimDisk> {
    let (mut store, _) = open_with(disk, settings());
    for seq in 0..count {
        commit(&mut store, vec![publish(&message(seq, 1000), 1, seq)], seq);
    }
    store
}

fn bodies_of(store: &Store<SimDisk>, queue: u64) -> Vec<Request> {
    let read = |entry: crate::store::LogEntry| Read {
        queue: QueueId(queue),
        seq: entry.seq,
        at: entry.at,
        waited: entry.body_len,
    };
    let entries = entries(store, QueueId(queue));
    entries.into_iter().map(|entry| Request::Body(read(entry))).collect()
}

fn quarantined(store: &Store<SimDisk>) -> u64 {
    store.stats().quarantined.load(Ordering::Relaxed)
}

fn is_whole(answer: &Answer) -> bool {
    matches!(answer, Answer::Body(loaded) if loaded.message.is_some())
}

/// One failed `pread` dropped 62 intact messages: everything that was to be read in the same batch counted as damaged.
#[test]
fn a_read_that_fails_once_loses_nothing_and_fails_no_neighbour() {
    let disk = SimDisk::new(1);
    let store = filled(&disk, 60);
    let requests = bodies_of(&store, 1);
    let mut reader = store.reader();
    for nth in 0..70 {
        disk.heal_reads();
        disk.fail_reads(None, nth, 1);
        let served = reader.serve(&requests);
        assert!(served.answers.iter().all(is_whole), "read {nth} failed");
        assert!(served.failed.len() <= 1, "read {nth} failed, and {:?}", served.failed);
        assert_eq!(served.answers.len() + served.failed.len(), requests.len());
        let again = reader.serve(&served.failed);
        assert!(again.failed.is_empty() && again.answers.iter().all(is_whole));
    }
    assert!(disk.reads_failed() > 10, "the reads did fail");
    assert_eq!(quarantined(&store), 0);
}

#[test]
fn messages_of_other_files_are_read_while_one_file_is_unreadable() {
    let disk = SimDisk::new(1);
    let store = filled(&disk, 40);
    let requests = bodies_of(&store, 1);
    let (mut reader, mut lister) = (store.reader(), store.reader());
    disk.fail_reads(Some(LOG[1]), 0, u64::MAX);
    let served = reader.serve(&requests);
    let is_there = |request: &Request| matches!(request, Request::Body(read) if read.at.segment == 2);
    assert!(!served.failed.is_empty() && served.failed.iter().all(is_there));
    assert!(served.answers.iter().all(is_whole));
    let others = requests.iter().filter(|request| !is_there(request)).count();
    assert_eq!(served.answers.len(), others);
    // A page is not answered with only its readable part, because the rest would count as lost.
    let page = |from, upto| {
        let (queue, count) = (QueueId(1), 100);
        Request::Page(PageRead {
            queue,
            from,
            upto,
            count,
        })
    };
    let seqs = |segment: u32| -> Vec<u64> {
        let of = |request: &Request| match request {
            Request::Body(read) if read.at.segment == segment => Some(read.seq),
            _ => None,
        };
        requests.iter().filter_map(of).collect()
    };
    let (first, second) = (seqs(1), seqs(2));
    let asked = [page(first[0], second[0]), page(first[0], second[0] - 1)];
    let served = lister.serve(&asked);
    assert_eq!(served.failed, asked[..1]);
    assert!(matches!(&served.answers[..], [Answer::Page(page)] if page.entries.len() == first.len()));
    disk.heal_reads();
    let served = lister.serve(&served.failed);
    assert!(matches!(&served.answers[..], [Answer::Page(page)] if page.entries.len() == first.len() + 1));
    assert_eq!(quarantined(&store), 0);
    assert!(store.stats().read_errors.load(Ordering::Relaxed) > 1);
}

/// A used directory, and what a start finds in it when each of its reads fails in turn.
fn start_with(disk: &SimDisk, fail: impl Fn(&SimDisk)) -> Result<(SimDisk, usize, u64), StoreError> {
    let disk = disk.restart(Crash::Process);
    fail(&disk);
    let (store, recovered) = Store::open(Arc::new(disk.clone()), settings(), Wall(0))?;
    disk.heal_reads();
    let messages = entries(&store, QueueId(1)).len() + recovered.keys.len();
    let damaged = quarantined(&store);
    drop(store);
    Ok((disk, messages, damaged))
}

/// A store that was stopped, in good order or not, with messages, keys and files of all kinds.
fn stopped(clean: bool) -> SimDisk {
    let disk = SimDisk::new(7);
    let (mut store, _) = open_with(&disk, settings());
    for seq in 0..60u64 {
        let mut records = vec![publish(&message(seq, 1000), 1, seq)];
        if seq % 5 > 0 {
            records.push(ack(1, seq, seq));
        }
        let (key, value) = ([7, (seq % 9) as u8].into(), Some(vec![seq as u8; 50].into()));
        records.push(crate::store::Record::Key { key, value });
        store
            .commit(&mut [super::script::batch(records, true)], at(seq * 500))
            .unwrap();
        for _ in 0..3 {
            store.tick(at(seq * 500)).unwrap();
        }
    }
    if clean {
        store.close(at(40_000)).unwrap();
    }
    disk
}

#[test]
fn a_start_succeeds_when_any_read_fails_for_a_while() {
    for disk in [stopped(true), stopped(false)] {
        let (_, whole, damaged) = start_with(&disk, |_| ()).unwrap();
        assert!(whole > 12 && damaged == 0);
        let mut nth = 0;
        loop {
            let (harmed, found, damaged) = start_with(&disk, |disk| disk.fail_reads(None, nth, 3)).unwrap();
            assert_eq!((found, damaged), (whole, 0), "read {nth} failed for a while");
            if harmed.reads_failed() == 0 {
                break;
            }
            nth += 1;
        }
        assert!(nth > 10, "{nth} reads were tried");
    }
}

#[test]
fn a_start_that_cannot_read_a_file_fails_and_does_not_change_it() {
    for disk in [stopped(true), stopped(false)] {
        let (_, whole, _) = start_with(&disk, |_| ()).unwrap();
        for path in disk.paths() {
            let before = disk.read(&path);
            match start_with(&disk, |disk| disk.fail_reads(Some(&path), 0, u64::MAX)) {
                Err(StoreError::Read { path: said, .. }) => assert_eq!(said, path),
                Err(error) => panic!("{path}: {error}"),
                // Nothing in it was needed.
                Ok((_, found, damaged)) => assert_eq!((found, damaged), (whole, 0), "{path}"),
            }
            assert_eq!(disk.read(&path), before, "{path}");
            let fails = |disk: &SimDisk| disk.fail_reads(Some(&path), 0, u64::MAX);
            let harmed = disk.restart(Crash::Process);
            fails(&harmed);
            let is_read = path.ends_with(".seg") || path.starts_with("checkpoint");
            let checked = check(&harmed, &mut |_| {});
            assert_eq!(checked.is_err(), is_read, "{path}: {checked:?}");
            let repaired = repair(Arc::new(harmed.clone()), settings(), at(0), &mut |_| {});
            assert_eq!(repaired.is_err(), is_read, "{path}: {repaired:?}");
            assert!(
                harmed.paths().iter().all(|path| !path.starts_with("quarantine/")),
                "{path}"
            );
        }
    }
}

#[test]
fn a_check_succeeds_when_reads_fail_for_a_while() {
    let disk = stopped(true);
    let whole = check(&disk, &mut |_| {}).unwrap();
    for nth in 0..40 {
        disk.heal_reads();
        disk.fail_reads(None, nth, 3);
        assert_eq!(check(&disk, &mut |_| {}).unwrap(), whole, "read {nth} failed");
    }
    assert!(whole.is_clean() && disk.reads_failed() > 60);
}

/// A segment that could not be read once was never compacted again, and what its copy lacked was set aside as damaged.
#[test]
fn compaction_waits_for_unreadable_records_and_continues() {
    for nth in 0..6 {
        let disk = SimDisk::new(3);
        let (mut store, _) = open_with(&disk, settings());
        for seq in 0..80u64 {
            let mut records = vec![publish(&message(seq, 1000), 1, seq)];
            if seq % 10 > 0 {
                records.push(ack(1, seq, seq));
            }
            commit(&mut store, records, seq);
        }
        let compacted = |store: &Store<SimDisk>| store.stats().records_compacted.load(Ordering::Relaxed);
        disk.fail_reads(None, nth, 5);
        let mut now = 1_000;
        for _ in 0..400 {
            let next = store.tick(at(now)).unwrap();
            now = next.map_or(now + 10_000, |next| next.0.max(now + 1));
        }
        assert_eq!(disk.reads_failed(), 5, "after {nth} reads");
        assert!(compacted(&store) >= 4, "after {nth} reads: {}", compacted(&store));
        assert!(!disk.paths().contains(&LOG[0].to_owned()), "it was recycled");
        assert_eq!(quarantined(&store), 0);
        assert_eq!(entries(&store, QueueId(1)).len(), 8);
        assert!(bodies_of(&store, 1).len() == 8);
    }
}

/// A backlog of 228,500 messages used up 256 descriptors: each segment kept its file open from when it was written.
#[test]
fn a_backlog_of_many_segments_keeps_few_files_open() {
    let disk = SimDisk::new(1);
    let open_files_max = 6;
    let limited = StoreSettings {
        open_files_max,
        ..settings()
    };
    // Files that are written at the same time: a checkpoint, and a spare.
    disk.set_open_files_max(Some(open_files_max as u64 + 6));
    let (mut store, _) = Store::open(Arc::new(disk.clone()), limited.clone(), Wall(0)).unwrap();
    for seq in 0..600u64 {
        commit(
            &mut store,
            vec![publish(&message(seq, 1000), seq % 3, seq / 3)],
            seq * 100,
        );
        store.tick(at(seq * 100)).unwrap();
    }
    assert!(store.segments.len() > 40, "{}", store.segments.len());
    for store in [Some(store), None] {
        let store = store.unwrap_or_else(|| Store::open(Arc::new(disk.clone()), limited.clone(), Wall(0)).unwrap().0);
        // All of it is read back, by three queues in turn.
        for queue in 0..3 {
            let requests = bodies_of(&store, queue);
            let served = store.reader().serve(&requests);
            assert!(served.failed.is_empty() && served.answers.iter().all(is_whole));
            assert_eq!(served.answers.len(), 200);
        }
        let (_, peak) = disk.open_files();
        assert!(peak <= open_files_max as u64 + 6, "{peak} files were open");
        assert_eq!(store.stats().open_files.load(Ordering::Relaxed), open_files_max as u64);
    }
}

/// Sockets have taken all descriptors but a few: files that the reader keeps open are closed before the log fails.
#[test]
fn the_log_takes_descriptors_of_idle_readers() {
    let disk = SimDisk::new(1);
    let mut store = filled(&disk, 60);
    assert!(bodies_of(&store, 1).len() == 60);
    let (open, _) = disk.open_files();
    disk.set_open_files_max(Some(open));
    for seq in 60..120 {
        commit(&mut store, vec![publish(&message(seq, 1000), 1, seq)], seq);
    }
    assert_eq!(entries(&store, QueueId(1)).len(), 120);
}

#[test]
fn short_reads_are_continued() {
    let disk = stopped(false);
    disk.set_short_reads(true);
    let (_, found, damaged) = start_with(&disk, |_| ()).unwrap();
    disk.set_short_reads(false);
    let (_, whole, _) = start_with(&disk, |_| ()).unwrap();
    assert_eq!((found, damaged), (whole, 0));
}
