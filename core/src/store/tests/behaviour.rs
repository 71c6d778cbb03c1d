//! What the store does, one behaviour at a time.

use super::script::{batch, message, route, settings};
use super::{bodies, entries};
use crate::message::{Message, Position};
use crate::store::disk::{Disk, RealDisk};
use crate::store::{
    Batch, Durability, Lsn, QueueAcks, QueueId, Read, Record, Recovered, Route, Routes, State, Store, StoreError,
    StoreSettings, VhostId, check,
};
use crate::testing::disk::{Crash, Fault, SimDisk};
use crate::time::{Now, Time, Wall};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(super) fn at(ms: u64) -> Now {
    Now {
        monotonic: Time(ms),
        wall: Wall(1_000_000 + ms),
    }
}

fn open(disk: &SimDisk) -> (Store<SimDisk>, Recovered) {
    open_with(disk, settings())
}

pub(super) fn open_with(disk: &SimDisk, settings: StoreSettings) -> (Store<SimDisk>, Recovered) {
    Store::open(Arc::new(disk.clone()), settings, Wall(0)).unwrap()
}

pub(super) fn publish(message: &Message, queue: u64, seq: u64) -> Record {
    message.log_state().stage(1);
    Record::Message {
        message: message.clone(),
        routes: Routes::from_iter([route(queue, seq)]),
    }
}

pub(super) fn ack(queue: u64, lo: u64, hi: u64) -> Record {
    Record::Acks(
        [QueueAcks {
            queue: QueueId(queue),
            settled: vec![(lo, hi)],
        }]
        .into(),
    )
}

pub(super) fn commit(store: &mut Store<SimDisk>, records: Vec<Record>, ms: u64) {
    let must = store.commit(&mut [batch(records, true)], at(ms)).unwrap();
    assert!(store.durable() >= must);
}

/// Fills segments with messages that are settled at once, and runs the background work.
fn churn(store: &mut Store<SimDisk>, from: u64, count: u64) {
    for seq in from..from + count {
        commit(store, vec![publish(&message(seq, 1000), 99, seq)], seq * 1000);
        commit(store, vec![ack(99, seq, seq)], seq * 1000);
        for _ in 0..4 {
            store.tick(at(seq * 1000)).unwrap();
        }
    }
}

fn read(store: &Store<SimDisk>, queue: u64, seq: u64, at: Position) -> Option<Message> {
    let read = Read {
        queue: QueueId(queue),
        seq,
        at,
        waited: 0,
    };
    bodies(store, &[read]).pop().unwrap().message
}

#[test]
fn a_commit_of_many_batches_is_one_write_and_one_sync() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk);
    commit(&mut store, vec![publish(&message(1, 10), 1, 0)], 0);
    let (changes, syncs) = (disk.changes(), disk.syncs());
    let mut batches: Vec<Batch> = (1..9)
        .map(|seq| batch(vec![publish(&message(seq, 100), 1, seq)], seq % 2 == 0))
        .collect();
    store.commit(&mut batches, at(1)).unwrap();
    assert_eq!((disk.changes() - changes, disk.syncs() - syncs), (2, 1));
    assert!(batches.iter().all(Batch::is_empty));
}

#[test]
fn a_batch_without_sync_is_written_and_not_synced() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk);
    commit(&mut store, vec![publish(&message(1, 10), 1, 0)], 0);
    let (changes, syncs) = (disk.changes(), disk.syncs());
    store.commit(&mut [batch(vec![ack(1, 0, 0)], false)], at(1)).unwrap();
    assert_eq!((disk.changes() - changes, disk.syncs() - syncs), (1, 0));
}

#[test]
fn messages_settled_before_they_are_written_cost_nothing() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk);
    let changes = disk.changes();
    let gone = message(1, 100);
    let record = publish(&gone, 1, 0);
    gone.log_state().settle();
    store.commit(&mut [batch(vec![record], true)], at(0)).unwrap();
    assert_eq!(disk.changes(), changes);
    assert_eq!(gone.position(), None);
    assert_eq!(store.stats().messages_skipped.load(Ordering::Relaxed), 1);
}

#[test]
fn an_idle_store_writes_nothing() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk);
    churn(&mut store, 0, 60);
    for minute in 0..10 {
        store.tick(at(1_000_000 + minute * 60_000)).unwrap();
    }
    let changes = disk.changes();
    for minute in 10..100 {
        assert_eq!(store.tick(at(1_000_000 + minute * 60_000)).unwrap(), None);
    }
    assert_eq!(disk.changes(), changes);
    // Nor does one that is only opened and closed.
    let disk = SimDisk::new(1);
    let (store, _) = open(&disk);
    let changes = disk.changes();
    store.close(at(0)).unwrap();
    assert_eq!(disk.changes(), changes);
}

#[test]
fn a_log_that_drains_frees_its_disk_space() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk);
    churn(&mut store, 0, 400);
    for tick in 0..100 {
        store.tick(at(1_000_000 + tick * 10_000)).unwrap();
    }
    assert!(disk.paths().len() <= 8, "{:?}", disk.paths());
}

#[test]
fn one_unsettled_message_does_not_keep_the_log_and_stays_readable() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk);
    let stuck = message(7, 50);
    commit(&mut store, vec![publish(&stuck, 5, 3)], 0);
    let key = || Record::Key {
        key: b"\x01definition".as_slice().into(),
        value: Some(b"v".as_slice().into()),
    };
    commit(&mut store, vec![key()], 0);
    let remembered = stuck.position().unwrap();
    for round in 0..3 {
        churn(&mut store, round * 200, 200);
        let name = format!("log/{:08}.seg", remembered.segment);
        assert!(!disk.paths().contains(&name), "round {round}: {:?}", disk.paths());
        assert!(disk.paths().len() < 20, "round {round}: {:?}", disk.paths());
        assert_eq!(read(&store, 5, 3, remembered).unwrap().payload(), stuck.payload());
    }
    assert!(store.stats().records_compacted.load(Ordering::Relaxed) >= 2);
    drop(store);
    let (store, recovered) = open(&disk.restart(Crash::Power));
    let entry = entries(&store, QueueId(5))[0];
    assert_eq!((entry.seq, recovered.keys.len()), (3, 1));
    assert_eq!(read(&store, 5, 3, entry.at).unwrap().payload(), stuck.payload());
}

#[test]
fn a_record_larger_than_a_segment_gets_one_of_its_size() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk);
    let big = message(1, 200_000);
    commit(
        &mut store,
        vec![
            publish(&message(2, 10), 1, 0),
            publish(&big, 1, 1),
            publish(&message(3, 10), 1, 2),
        ],
        0,
    );
    assert_eq!(read(&store, 1, 1, big.position().unwrap()).unwrap().body(), big.body());
    drop(store);
    let (store, _) = open(&disk.restart(Crash::Power));
    let entries = entries(&store, QueueId(1));
    assert_eq!(
        entries.iter().map(|entry| entry.body_len).collect::<Vec<_>>(),
        [10, 200_000, 10]
    );
    assert_eq!(read(&store, 1, 1, entries[1].at).unwrap().body(), big.body());
}

#[test]
fn a_message_that_is_routed_again_is_not_written_again() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk);
    let shared = message(1, 3000);
    commit(&mut store, vec![publish(&shared, 1, 0)], 0);
    let written = disk.bytes_written();
    let routes = Routes::from_iter([route(2, 9)]);
    commit(
        &mut store,
        vec![
            Record::Message {
                message: shared.clone(),
                routes,
            },
            ack(1, 0, 0),
        ],
        0,
    );
    assert!(disk.bytes_written() - written <= 1024);
    drop(store);
    let (store, _) = open(&disk.restart(Crash::Power));
    let entry = entries(&store, QueueId(2))[0];
    assert_eq!((entry.seq, entry.flags, entry.body_len), (9, 2, 3000));
    assert_eq!(read(&store, 2, 9, entry.at).unwrap().body(), shared.body());
}

#[test]
fn a_failed_sync_poisons_the_store_for_good() {
    for (nth, fault) in [(0, Fault::Io), (0, Fault::NoSpace), (1, Fault::Io)] {
        let disk = SimDisk::new(1);
        let (mut store, _) = open(&disk);
        commit(&mut store, vec![publish(&message(1, 10), 1, 0)], 0);
        disk.fail_after(nth, fault);
        let late = message(2, 10);
        let failed = store.commit(&mut [batch(vec![publish(&late, 1, 1)], true)], at(1));
        assert!(matches!(failed, Err(StoreError::Poisoned(_))));
        assert_eq!(late.position(), None);
        assert!(store.stats().poisoned.load(Ordering::Relaxed));
        let again = store.commit(&mut [batch(vec![publish(&message(3, 10), 1, 2)], true)], at(2));
        assert!(matches!(again, Err(StoreError::Poisoned(_))));
        assert!(matches!(store.tick(at(3)), Err(StoreError::Poisoned(_))));
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_is_tried_again_and_harms_nothing() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk);
    commit(&mut store, vec![publish(&message(1, 10), 1, 0)], 0);
    disk.fail_after(0, Fault::NoSpace);
    store.tick(at(6_000)).unwrap();
    assert_eq!(store.stats().background_failures.load(Ordering::Relaxed), 1);
    commit(&mut store, vec![publish(&message(2, 10), 1, 1)], 6_001);
    store.tick(at(12_000)).unwrap();
    assert_eq!(store.stats().checkpoints.load(Ordering::Relaxed), 1);
}

/// A store with an interval of 200 ms, and a commit at 1,000 ms with one batch for each durability.
fn commit_needing(confirm_written: bool, needs: &[Option<Durability>]) -> (SimDisk, Store<SimDisk>, Lsn) {
    let disk = SimDisk::new(1);
    let settings = StoreSettings {
        interval: Duration::from_millis(200),
        confirm_written,
        ..settings()
    };
    let (mut store, _) = open_with(&disk, settings);
    // The first commit creates the file and syncs it.
    commit(&mut store, vec![publish(&message(0, 10), 1, 0)], 0);
    while store.tick(at(0)).unwrap().is_some_and(|due| due <= Time(100)) {}
    let batches = (1u64..).zip(needs).map(|(seq, need)| Batch {
        need: *need,
        ..batch(vec![publish(&message(seq, 10), 1, seq)], false)
    });
    let before = disk.syncs();
    let must = store.commit(&mut batches.collect::<Vec<_>>(), at(1_000)).unwrap();
    let at_once = needs.contains(&Some(Durability::Always));
    assert_eq!(disk.syncs() - before, u64::from(at_once), "{needs:?}");
    (disk, store, must)
}

#[test]
fn a_commit_syncs_as_its_strictest_batch_needs() {
    const NOBODY: Option<Durability> = None;
    let [os, interval, always] = [Durability::Os, Durability::Interval, Durability::Always].map(Some);
    for needs in [vec![NOBODY], vec![os], vec![NOBODY, os]] {
        let (disk, mut store, must) = commit_needing(false, &needs);
        assert!(store.durable() >= must, "{needs:?}: written is enough");
        let before = disk.syncs();
        store.tick(at(2_000)).unwrap();
        assert_eq!(disk.syncs(), before, "{needs:?}: never synced for it");
    }
    for needs in [
        vec![always],
        vec![os, always],
        vec![always, interval, NOBODY],
        vec![interval, always],
    ] {
        let (_, store, must) = commit_needing(false, &needs);
        assert!(must > Lsn(0) && store.durable() >= must, "{needs:?}");
    }
    for needs in [vec![interval], vec![os, interval], vec![interval, os, NOBODY]] {
        let (_, mut store, must) = commit_needing(false, &needs);
        assert!(store.durable() < must, "{needs:?}");
        assert_eq!(store.tick(at(1_100)).unwrap(), Some(Time(1_200)), "{needs:?}");
        assert!(store.durable() < must, "{needs:?}");
        store.tick(at(1_200)).unwrap();
        assert!(store.durable() >= must, "{needs:?}");
    }
}

#[test]
fn an_interval_that_confirms_written_data_still_syncs() {
    let (disk, mut store, must) = commit_needing(true, &[Some(Durability::Interval)]);
    assert!(store.durable() >= must, "nothing waits for the sync");
    let before = disk.syncs();
    store.tick(at(1_199)).unwrap();
    assert_eq!(disk.syncs(), before);
    store.tick(at(1_200)).unwrap();
    assert_eq!(disk.syncs(), before + 1);
}

#[test]
fn a_start_does_not_read_the_bodies_that_a_checkpoint_covers() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open_with(
        &disk,
        StoreSettings {
            segment_bytes: 256 << 10,
            ..settings()
        },
    );
    for seq in 0..2000 {
        commit(&mut store, vec![publish(&message(seq, 1000), 1, seq)], seq);
        store.tick(at(seq)).unwrap();
    }
    store.close(at(2000)).unwrap();
    let disk = disk.restart(Crash::Power);
    let (store, recovered) = open_with(
        &disk,
        StoreSettings {
            segment_bytes: 256 << 10,
            ..settings()
        },
    );
    let counted = recovered.queues[&QueueId(1)].messages.values();
    assert_eq!(counted.map(|counted| counted.count).sum::<u64>(), 2000);
    assert!(disk.bytes_read() < 100_000, "{} bytes read", disk.bytes_read());
    drop(store);
}

#[test]
fn a_segment_is_not_recycled_while_it_is_read() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk);
    let first = message(1, 100);
    commit(&mut store, vec![publish(&first, 1, 0)], 0);
    let segment = first.position().unwrap().segment;
    let name = format!("log/{segment:08}.seg");
    let pinned = store.shared.pin(segment).unwrap();
    commit(&mut store, vec![ack(1, 0, 0)], 0);
    churn(&mut store, 0, 100);
    assert!(disk.paths().contains(&name));
    drop(pinned);
    churn(&mut store, 100, 2);
    assert!(!disk.paths().contains(&name));
    // Later requests are answered that it is gone, which is no damage.
    assert!(read(&store, 1, 0, first.position().unwrap()).is_none());
    assert_eq!(store.stats().quarantined.load(Ordering::Relaxed), 0);
}

#[test]
fn a_damaged_record_is_set_aside_once_and_the_rest_is_served() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk);
    let (bad, good) = (message(1, 100), message(2, 100));
    commit(&mut store, vec![publish(&bad, 1, 0), publish(&good, 1, 1)], 0);
    let place = bad.position().unwrap();
    disk.damage(&format!("log/{:08}.seg", place.segment), |bytes| {
        bytes[place.offset as usize + 90] ^= 4
    });
    assert!(read(&store, 1, 0, place).is_none() && read(&store, 1, 0, place).is_none());
    assert!(read(&store, 1, 1, good.position().unwrap()).is_some());
    assert_eq!(store.stats().quarantined.load(Ordering::Relaxed), 2);
    assert_eq!(
        disk.paths()
            .iter()
            .filter(|path| path.starts_with("quarantine/"))
            .count(),
        2
    );
}

#[test]
fn a_format_of_another_release_is_refused_by_name() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk);
    commit(&mut store, vec![publish(&message(1, 100), 1, 0)], 0);
    drop(store);
    disk.damage("log/00000001.seg", |bytes| {
        for header in [0, 4096] {
            bytes[header + 12] = 9;
            let crc = crc32c::crc32c(&bytes[header + 12..header + 56]);
            bytes[header + 8..header + 12].copy_from_slice(&crc.to_le_bytes());
        }
    });
    let refused = Store::open(Arc::new(disk.clone()), settings(), Wall(0)).map(|_| ());
    let Err(StoreError::Version {
        path,
        found: 9,
        known: 3,
    }) = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!(path, "log/00000001.seg");
}

#[test]
fn session_state_and_dead_letters_survive_in_the_log() {
    session_state_survives(drop);
}

#[test]
fn session_state_and_dead_letters_survive_in_the_checkpoint() {
    session_state_survives(|store| store.close(at(78)).unwrap());
}

/// What a session's queue records about its packet ids, a dead letter that moved to `to`, and returns.
fn session_state(queue: QueueId, to: Route) -> Vec<Record> {
    let outgoing = State::PacketId {
        queue,
        seq: 1,
        packet_id: 40,
    };
    let released = State::PacketIdReleased {
        queue,
        seq: 1,
        packet_id: 40,
    };
    let incoming = |packet_id, held| State::IncomingId { queue, packet_id, held };
    let returned = |seq, count| State::Returned { queue, seq, count };
    let moved = State::DeadLettered {
        from: queue,
        from_seq: 0,
        to,
    };
    let ids = [
        outgoing,
        released,
        incoming(7, true),
        incoming(8, true),
        incoming(7, false),
        moved,
    ];
    // The newer of two counts, the count of a settled message, and that of a message that is not in the log.
    let counts = [returned(2, 1), returned(2, 2), returned(0, 9), returned(700, 9)];
    let mut records = vec![
        publish(&message(1, 100), 1, 0),
        publish(&message(2, 100), 1, 1),
        Record::State(State::HandedOut { queue, upto: 1024 }),
    ];
    records.extend(ids.map(Record::State));
    records.push(publish(&message(3, 100), 1, 2));
    records.extend(counts.map(Record::State));
    records.push(ack(1, 0, 0));
    records
}

fn session_state_survives(stop: impl FnOnce(Store<SimDisk>)) {
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk);
    let queue = QueueId(1);
    let to = route(2, 0);
    commit(&mut store, session_state(queue, to), 77);
    stop(store);
    let (store, recovered) = open(&disk.restart(Crash::Power));
    let found = &recovered.queues[&queue];
    assert_eq!((found.next_seq, found.handed_out), (1024, 1024));
    assert_eq!(
        (&found.incoming_ids[..], &found.packet_ids[..]),
        (&[8][..], &[(1, 40, true)][..])
    );
    assert_eq!(found.in_flight.len(), 1);
    assert_eq!(entries(&store, queue).len(), 2);
    assert_eq!(found.returned.iter().collect::<Vec<_>>(), [(&2, &2)]);
    let moved = entries(&store, QueueId(2))[0];
    assert_eq!((moved.seq, moved.flags), (0, to.flags));
    assert_eq!(
        read(&store, 2, 0, moved.at).unwrap().payload(),
        message(1, 100).payload()
    );
    assert!(recovered.wall >= Wall(1_000_077) && recovered.queue_max[&VhostId::NODE] == 2);
}

#[test]
fn a_real_directory_works_and_is_locked_by_pid() {
    let root = std::env::temp_dir().join(format!("gatepost-store-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&root);
    let disk = Arc::new(RealDisk::new(&root).unwrap());
    assert!(disk.free_space().unwrap() > 0);
    let body = message(1, 100_000);
    let (mut store, _) = Store::open(disk.clone(), settings(), Wall(0)).unwrap();
    let Err(StoreError::Lock(error)) = Store::open(disk.clone(), settings(), Wall(0)) else {
        panic!("locked twice")
    };
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    for seq in 0..20 {
        store
            .commit(&mut [batch(vec![publish(&message(seq, 1000), 1, seq)], true)], at(seq))
            .unwrap();
        store.tick(at(seq)).unwrap();
    }
    store
        .commit(&mut [batch(vec![publish(&body, 1, 20)], true)], at(30))
        .unwrap();
    store.close(at(40)).unwrap();
    assert!(check(&*disk, &mut |_| {}).unwrap().is_clean());
    let (store, _) = Store::open(disk.clone(), settings(), Wall(0)).unwrap();
    let entries = entries(&store, QueueId(1));
    assert_eq!(entries.len(), 21);
    let reads: Vec<Read> = entries
        .iter()
        .map(|e| Read {
            queue: QueueId(1),
            seq: e.seq,
            at: e.at,
            waited: 0,
        })
        .collect();
    assert!(bodies(&store, &reads).iter().all(|loaded| loaded.message.is_some()));
    drop(store);
    std::fs::remove_dir_all(&root).unwrap();
}

#[test]
fn a_checkpoint_of_another_release_is_refused_by_name() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk);
    commit(&mut store, vec![publish(&message(1, 100), 1, 0)], 0);
    store.close(at(1)).unwrap();
    disk.damage("checkpoint", |bytes| {
        bytes[12] = 9;
        let crc = crc32c::crc32c(&bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    });
    let Err(refused) = Store::open(Arc::new(disk.clone()), settings(), Wall(0)).map(|_| ()) else {
        panic!("another release's checkpoint was read")
    };
    let text = refused.to_string();
    assert!(
        text.starts_with("checkpoint has format 9; this release reads format 4."),
        "{text}"
    );
}

/// The disk is full except for the two spares: settles are logged in them, segments become empty, and space is freed.
#[test]
fn a_store_on_a_full_disk_works_from_its_reserve() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk);
    for seq in 0..60 {
        commit(&mut store, vec![publish(&message(seq, 1_000), 1, seq)], seq);
        store.tick(at(seq)).unwrap();
    }
    assert_eq!(store.reserved(), 2 * u64::from(settings().segment_bytes));
    disk.set_capacity(Some(disk.bytes_used()));
    store.set_disk_short(true);
    let used = disk.bytes_used();
    for seq in 0..60 {
        let ms = 100 + seq * 1_000;
        commit(&mut store, vec![ack(1, seq, seq)], ms);
        for _ in 0..10 {
            store.tick(at(ms)).unwrap();
        }
    }
    assert!(disk.bytes_used() < used / 2, "{} of {used} bytes", disk.bytes_used());
    assert_eq!(store.reserved(), 2 * u64::from(settings().segment_bytes));
    drop(store);
    let (_, recovered) = open(&disk.restart(Crash::Power));
    assert!(
        recovered
            .queues
            .get(&QueueId(1))
            .is_none_or(|queue| queue.messages.is_empty())
    );
}
