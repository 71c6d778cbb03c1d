//! Objects are created and deleted: afterwards, what is left on disk and in memory is limited by what exists.

use super::behaviour::{ack, at, open_with, publish};
use super::script::{batch, message};
use crate::store::segment::directory_bytes_max;
use crate::store::{KeyKind, QueueId, Record, Route, Store, StoreSettings, VhostId, key, queue_key, vhost_key};
use crate::testing::disk::{Crash, SimDisk};
use crate::time::Time;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;

/// Default settings except for small segments.
fn shipped() -> StoreSettings {
    StoreSettings {
        segment_bytes: 64 << 10,
        salt: 0x5eed,
        ..StoreSettings::default()
    }
}

fn set(key: &[u8], value: &[u8]) -> Record {
    Record::Key {
        key: key.into(),
        value: Some(value.into()),
    }
}

fn delete(key: &[u8]) -> Record {
    Record::Key {
        key: key.into(),
        value: None,
    }
}

fn queue(number: u64) -> QueueId {
    QueueId::new(VhostId(1), number).expect("a number that fits")
}

/// The records that create the object with this number, and those that delete it.
type Kind = fn(u64) -> (Vec<Record>, Vec<Record>);

/// A queue under one of 100 names, with a binding and a message.
fn queues(n: u64) -> (Vec<Record>, Vec<Record>) {
    let queue = queue(1000 + n);
    let binding = key(VhostId(1), KeyKind::Binding, &[b"amq.direct key ", &n.to_be_bytes()]);
    let mut made = vec![set(&queue_key(queue), &[1; 40]), set(&binding, &[1; 12])];
    let mut ended = vec![delete(&binding), delete(&queue_key(queue))];
    if n.is_multiple_of(3) {
        made.push(publish(&message(n, 30), queue.0, 0));
        ended.push(Record::QueueDelete { queue });
    }
    (made, ended)
}

/// A session of one of 100 clients, with its queue and a subscription.
fn sessions(n: u64) -> (Vec<Record>, Vec<Record>) {
    let (client, queue) = (format!("client-{}", n % 100), queue(1000 + n));
    let session = key(VhostId(1), KeyKind::Session, &[client.as_bytes()]);
    let filter = key(VhostId(1), KeyKind::Subscription, &[client.as_bytes(), b"\0plant/+\0"]);
    let made = vec![
        set(&queue_key(queue), &[1; 40]),
        set(&session, &[2; 20]),
        set(&filter, &[3; 12]),
        publish(&message(n, 30), queue.0, 0),
    ];
    let ended = vec![
        delete(&filter),
        delete(&session),
        delete(&queue_key(queue)),
        Record::QueueDelete { queue },
    ];
    (made, ended)
}

/// A retained message on one of 100 topics.
fn retained(n: u64) -> (Vec<Record>, Vec<Record>) {
    let key = key(
        VhostId(1),
        KeyKind::Retained,
        &[format!("churn/{}", n % 100).as_bytes()],
    );
    (vec![set(&key, &[4; 60])], vec![delete(&key)])
}

/// A message of one long-lived queue.
fn messages(n: u64) -> (Vec<Record>, Vec<Record>) {
    (
        vec![publish(&message(n, 100), queue(2).0, n)],
        vec![ack(queue(2).0, n, n)],
    )
}

/// A vhost with a queue and a message.
fn vhosts(n: u64) -> (Vec<Record>, Vec<Record>) {
    let vhost = VhostId(2 + n as u32);
    let queue = QueueId::new(vhost, 1).expect("a number that fits");
    let made = vec![
        set(&vhost_key(vhost), &[5; 20]),
        set(&queue_key(queue), &[1; 40]),
        publish(&message(n, 30), queue.0, 0),
    ];
    (made, vec![delete(&vhost_key(vhost))])
}

/// Calls the store whenever it asks to be called.
fn rest(store: &mut Store<SimDisk>, from: u64, until: u64) {
    // A commit calls it a little later.
    let mut now = from + 5_000;
    while now <= until {
        let next = store.tick(at(now)).unwrap();
        now = next.map_or(now + 5_000, |Time(next)| next.clamp(now + 1, now + 5_000));
    }
}

/// The number of files allowed: the active segment and the one before it, two spares, cold segments for messages and
/// keys being written and one of each filled before, the checkpoints.
const FILES_MAX: usize = 10;

/// Objects that exist throughout: a key and a message, in the oldest segment at first.
fn settle_in(store: &mut Store<SimDisk>) {
    let stays = key(VhostId(1), KeyKind::Exchange, &[b"stays"]);
    let records = vec![set(&stays, b"v"), publish(&message(7, 50), queue(1).0, 0)];
    store.commit(&mut [batch(records, true)], at(0)).unwrap();
}

/// Creates and deletes objects, and then lets a minute pass. `keys`: the number of keys of each.
fn churn(what: &str, kind: Kind, things: u64, keys: usize, stays: fn(u64) -> bool) {
    let disk = SimDisk::new(1);
    let (mut store, _) = open_with(&disk, shipped());
    let stats = store.stats();
    settle_in(&mut store);
    // Each exists for a while, so that it is often deleted in another segment.
    const ALIVE: usize = 150;
    let (mut alive, mut now, mut files, mut stayed) = (VecDeque::new(), 0, 0, 0);
    for n in 0..things {
        let (mut records, end) = kind(n);
        if stays(n) {
            stayed += 1;
        } else {
            alive.push_back(end);
        }
        if alive.len() > ALIVE {
            records.extend(alive.pop_front().expect("more than none"));
        }
        store.commit(&mut [batch(records, n % 20 == 0)], at(now)).unwrap();
        now += 1;
        if store.is_due() || n % 5_000 == 0 {
            store.tick(at(now)).unwrap();
        }
        files = files.max(disk.paths().len());
    }
    let last: Vec<Record> = alive.into_iter().flatten().collect();
    store.commit(&mut [batch(last, true)], at(now)).unwrap();
    let logged = stats.record_bytes_written.load(Ordering::Relaxed);
    let checkpoints = stats.checkpoint_bytes_written.load(Ordering::Relaxed);
    rest(&mut store, now, now + 60_000);
    println!(
        "{what}: {logged} bytes logged, {checkpoints} of checkpoints, {} of compaction, {} of checkpoints afterwards; \
         {files} files at most, {} a minute later, {} live keys",
        stats.compaction_bytes_written.load(Ordering::Relaxed),
        stats.checkpoint_bytes_written.load(Ordering::Relaxed) - checkpoints,
        disk.paths().len(),
        stats.live_keys.load(Ordering::Relaxed)
    );
    assert!(checkpoints <= logged, "{what}");
    // An object takes 500 bytes at most, and the live ones take at least a sixth of their segments.
    let files_max = FILES_MAX + 1 + stayed * 500 / (64 << 10) * 7;
    assert_small(what, &store, &disk, files_max, stayed, keys);
    // After that, nothing is written.
    let changes = disk.changes();
    rest(&mut store, now + 60_000, now + 6_000_000);
    assert_eq!(disk.changes(), changes, "{what}");
    store.close(at(now + 60_000)).unwrap();
    let (mut store, recovered) = open_with(&disk, shipped());
    assert_eq!(recovered.keys.len(), 1 + stayed * keys, "{what}");
    rest(&mut store, 0, 60_000);
    assert_small(what, &store, &disk, files_max, stayed, keys);
}

fn assert_small(what: &str, store: &Store<SimDisk>, disk: &SimDisk, files_max: usize, stayed: usize, keys: usize) {
    let paths = disk.paths();
    assert!(paths.len() <= files_max, "{what}: {} files: {paths:?}", paths.len());
    let index = store.shared.index.read();
    let (live, live_keys) = index.live_total();
    let (live, live_keys) = (live as usize, live_keys as usize);
    assert!(live <= 1 + stayed, "{what}: {live} live messages");
    // The active segment may have deletions of earlier objects, and others may outlive what is next to the lasting
    // objects.
    let exist = 1 + stayed * keys;
    assert!(live_keys <= exist + exist + 4 * 150, "{what}: {live_keys} live keys");
    // Tables shrink as they become empty.
    let (keys, queues, vhosts) = (index.keys.len(), index.queues.len(), index.vhosts.len());
    assert!(
        keys == live_keys && queues <= 2 + stayed && vhosts <= 3 + stayed,
        "{what}: {keys} keys and {queues} queues, {vhosts} vhosts"
    );
    let bytes = disk.read("checkpoint").map_or(0, |bytes| bytes.len());
    assert!(
        bytes <= (64 << 10) + exist * 200,
        "{what}: a checkpoint of {bytes} bytes"
    );
}

fn nothing(_: u64) -> bool {
    false
}

/// 100,000 queues that were declared and deleted left 213 of 1,600 segments for ever. A queue's deletion outlives all
/// segments that may have its messages, and did not learn that they no longer existed if none of them had the queue's
/// record. Each of these deletions kept its segment, and that the deletions in the next one.
#[test]
fn deleted_objects_are_gone_from_the_disk_a_minute_later() {
    churn("queues", queues, 60_000, 2, nothing);
    churn("sessions", sessions, 40_000, 3, nothing);
    churn("retained messages", retained, 100_000, 1, nothing);
    churn("messages", messages, 100_000, 0, nothing);
    churn("vhosts", vhosts, 40_000, 2, nothing);
}

/// Segments half full of lasting objects keep the deletions of objects next to them, and these kept the following
/// segment, with everything created and deleted since.
#[test]
fn lasting_objects_keep_nothing_that_was_deleted_later() {
    let first: fn(u64) -> bool = |n| n < 400 && n % 2 == 0;
    let one_in_50: fn(u64) -> bool = |n| n % 50 == 0;
    for (when, stays) in [("first", first), ("one in 50", one_in_50)] {
        churn(&format!("queues, {when} stay"), queues, 30_000, 2, stays);
        churn(&format!("vhosts, {when} stay"), vhosts, 20_000, 2, stays);
    }
}

/// Two million queues that were created and deleted left 56 MB in memory, and 9 MB after a restart. The directory of a
/// segment of small keyed records was a third of it, and was copied into one buffer when the segment was sealed; the
/// heap never shrank again. So it was with a checkpoint, which is as long as what exists.
#[test]
fn no_buffer_grows_with_what_a_segment_or_a_checkpoint_lists() {
    const SEGMENT_BYTES: u32 = 4 << 20;
    let settings = StoreSettings {
        segment_bytes: SEGMENT_BYTES,
        // Compaction writes a slice at once.
        slice_bytes: 64 << 10,
        ..shipped()
    };
    let most = directory_bytes_max(SEGMENT_BYTES);
    let disk = SimDisk::new(1);
    let (mut store, _) = open_with(&disk, settings.clone());
    let (mut longest, stay) = (0, 20_000);
    for n in 0..60_000 {
        let (mut records, end) = queues(n);
        if n >= stay {
            records.extend(end);
        }
        store.commit(&mut [batch(records, n % 100 == 0)], at(n)).unwrap();
        let directory = store.active.as_ref().map_or(0, |active| active.directory.lock().len());
        longest = longest.max(directory);
        if store.is_due() || n % 5_000 == 0 {
            store.tick(at(n)).unwrap();
        }
    }
    rest(&mut store, 60_000, 120_000);
    let checkpoint = disk.read("checkpoint").map_or(0, |bytes| bytes.len());
    let (written, _) = disk.largest();
    println!("{longest} bytes of directory, {checkpoint} of checkpoint, {written} written at once");
    assert!(longest > most / 2 && longest <= most, "{longest} bytes of {most}");
    assert!(checkpoint > 256 << 10, "{checkpoint}");
    assert!(written <= 96 << 10, "{written} bytes were written at once");
    store.close(at(120_000)).unwrap();
    let (_, recovered) = open_with(&disk, settings);
    assert_eq!(recovered.keys.len() as u64, 2 * stay);
}

/// One message may have a longer entry than a directory may be: it gets a segment of its own.
#[test]
fn a_message_for_more_queues_than_a_directory_lists_is_stored() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open_with(&disk, shipped());
    let routes = (0..20_000).map(|n| Route {
        queue: queue(1_000_000 + n),
        seq: 0,
        flags: 0,
    });
    let wide = message(1, 10);
    wide.log_state().stage(20_000);
    let record = Record::Message {
        message: wide,
        routes: routes.collect(),
    };
    let narrow = |n| publish(&message(n, 10), queue(1).0, n);
    store
        .commit(&mut [batch(vec![narrow(0), record, narrow(1)], true)], at(0))
        .unwrap();
    assert_eq!(
        store.stats().live_messages.load(Ordering::Relaxed),
        0,
        "counted by the next tick"
    );
    store.tick(at(10_000)).unwrap();
    assert_eq!(store.stats().live_messages.load(Ordering::Relaxed), 20_002);
    drop(store);
    let disk = disk.restart(Crash::Power);
    let (_, recovered) = open_with(&disk, shipped());
    let messages = recovered.queues.values().flat_map(|queue| queue.messages.values());
    assert_eq!(messages.map(|counted| counted.count).sum::<u64>(), 20_002);
}

/// A segment that is short because its directory was full, with everything in it live, counted as one with little in
/// it: it was copied, and so was the copy, for ever.
#[test]
fn segments_with_full_directories_are_not_copied_again_and_again() {
    let settings = StoreSettings {
        segment_bytes: 4 << 20,
        ..shipped()
    };
    let disk = SimDisk::new(1);
    let (mut store, _) = open_with(&disk, settings.clone());
    let small = |n: u64| {
        set(
            &key(
                VhostId(1),
                KeyKind::Retained,
                &[b"a topic of a device ", &n.to_be_bytes()],
            ),
            b"on",
        )
    };
    for n in (0..80_000).step_by(100) {
        let records = (n..n + 100).map(small).collect();
        store.commit(&mut [batch(records, n % 5_000 == 0)], at(n)).unwrap();
        store.tick(at(n)).unwrap();
    }
    let segments = store.segments.len();
    assert!(segments > 8, "their directories are full: {segments}");
    let copied = |store: &Store<SimDisk>| store.stats().compaction_bytes_written.load(Ordering::Relaxed);
    for hour in 0..20 {
        rest(
            &mut store,
            100_000 + hour * 3_600_000,
            100_000 + hour * 3_600_000 + 600_000,
        );
    }
    assert_eq!(copied(&store), 0, "all of it is live");
    // What was overwritten leaves little in each: that is copied, once.
    for n in (0..80_000).step_by(100) {
        let records = (n..n + 100).filter(|n| n % 20 != 0).map(small).collect();
        store
            .commit(&mut [batch(records, n % 5_000 == 0)], at(90_000_000 + n))
            .unwrap();
    }
    for hour in 0..20 {
        rest(
            &mut store,
            100_000_000 + hour * 3_600_000,
            100_000_000 + hour * 3_600_000 + 600_000,
        );
    }
    let once = copied(&store);
    assert!(once > 0, "little is copied");
    let before = disk.bytes_written();
    for hour in 20..40 {
        rest(
            &mut store,
            100_000_000 + hour * 3_600_000,
            100_000_000 + hour * 3_600_000 + 600_000,
        );
    }
    assert_eq!((copied(&store), disk.bytes_written()), (once, before), "once");
    drop(store);
    let (_, recovered) = open_with(&disk, settings);
    assert_eq!(recovered.keys.len(), 80_000);
}
