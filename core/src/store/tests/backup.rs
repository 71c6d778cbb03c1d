//! A copy of the log while it is in use.

use super::behaviour::{ack, at, commit, open_with, publish};
use super::entries;
use super::script::{Script, message, runs, settings};
use crate::store::disk::{Disk, DiskFile};
use crate::store::{Cut, CutError, QueueId, check};
use crate::testing::disk::{Crash, SimDisk};
use std::io;

/// Copies a cut to another disk, in small pieces. `between` is called after each.
fn copy(cut: &Cut<SimDisk>, seed: u64, between: &mut dyn FnMut()) -> io::Result<SimDisk> {
    let disk = SimDisk::new(seed);
    for dir in ["log", "cold"] {
        disk.make_dir(dir)?;
    }
    for (nth, (path, len)) in cut.files().enumerate() {
        let to = disk.create(path)?;
        let mut at = 0;
        while at < len {
            let mut piece = vec![0; (len - at).min(8 << 10) as usize];
            cut.read(nth, at, &mut piece)?;
            to.write_at(&piece, at)?;
            at += piece.len() as u64;
            between();
        }
        to.sync_data()?;
    }
    for dir in ["log", "cold", ""] {
        disk.sync_dir(dir)?;
    }
    Ok(disk)
}

/// The log continues, seals, recycles and compacts while it is copied. The copy has what the log had at the cut, passes
/// the check, and opens; and the log keeps what it has.
#[test]
fn a_copy_of_a_log_in_use_equals_the_log_at_the_cut() {
    for seed in 0..runs(60) {
        let mut script = Script::new(seed);
        script.open().expect("a new log");
        // Young logs without a checkpoint, and old ones with cold segments.
        let commits = seed % 4 * 20 + 1;
        script.work(commits).expect("work");
        let cut = script.store.as_mut().expect("a store").cut().expect("a cut");
        let was_confirmed = script.book.clone();
        script.book_all_confirmed();
        let book = script.book.clone();
        script.book = was_confirmed;
        let copied = copy(&cut, seed, &mut || script.work(2).expect("the log goes on")).expect("a copy");
        drop(cut);
        let report = check(&copied, &mut |_| {}).expect("a report");
        assert!(report.is_clean(), "seed {seed}: {report}");
        let mut restored = Script::new(seed + 1);
        (restored.disk, restored.book) = (copied, book);
        restored.open().expect("the copy opens");
        restored.work(5).expect("and is used");
        script.work(10).expect("the log goes on");
        script.store = None;
        script.disk = script.disk.restart(Crash::Process);
        script.open().expect("the log opens");
    }
}

/// Publishers wait for the log's thread. For a cut it does nothing that a slow medium could delay, and nothing that a
/// power cut could tear.
#[test]
fn a_cut_writes_and_syncs_nothing() {
    for seed in 0..runs(40) {
        let mut script = Script::new(seed);
        script.open().expect("a new log");
        script.work(30).expect("work");
        let before = (script.disk.changes(), script.disk.syncs());
        let cut = script.store.as_mut().expect("a store").cut();
        assert!(cut.is_ok());
        assert_eq!((script.disk.changes(), script.disk.syncs()), before, "seed {seed}");
    }
}

/// Dead segments accumulate while a copy is made. Wherever the machine stops meanwhile, the next start finds what was
/// confirmed, and takes none of the dead ones for live.
#[test]
fn every_crash_point_of_a_copy_is_survived() {
    for seed in 0..runs(400).div_ceil(400) {
        let work = |crash_at: Option<u64>| {
            let mut script = Script::new(9_000_000 + seed);
            script.open().expect("a new log");
            script.work(30).expect("work");
            let begun = script.disk.changes();
            if let Some(at) = crash_at {
                script.disk.crash_after(at);
            }
            let cut = script.store.as_mut().expect("a store").cut().expect("a cut");
            // It fails where the machine stops; the model knows what was confirmed by then.
            let _ = copy(&cut, seed, &mut || _ = script.work(1));
            drop(cut);
            let _ = script.work(10);
            let changes = script.disk.changes() - begun;
            (script, changes)
        };
        let (_, whole) = work(None);
        assert!(whole > 100, "the log is used meanwhile");
        for at in 0..whole {
            let (mut script, _) = work(Some(at));
            script.store = None;
            script.disk = script.disk.restart(Crash::Power);
            let report = check(&script.disk, &mut |_| {}).expect("a report");
            assert!(report.is_clean(), "seed {seed} at {at}: {report}");
            script
                .open()
                .unwrap_or_else(|error| panic!("seed {seed} at {at}: {error}"));
        }
    }
}

/// A copy that takes long must not fill the disk.
#[test]
fn segments_are_kept_for_a_cut_until_the_disk_is_short() {
    let disk = SimDisk::new(3);
    let (mut store, _) = open_with(&disk, settings());
    let churn = |store: &mut _, from: u64| {
        for seq in from..from + 300 {
            commit(store, vec![publish(&message(seq, 1000), 99, seq)], seq * 1000);
            commit(store, vec![ack(99, seq, seq)], seq * 1000);
            store.tick(at(seq * 1000)).expect("a tick");
        }
    };
    churn(&mut store, 0);
    let before = disk.bytes_used();
    let cut = store.cut().expect("a cut");
    assert!(matches!(store.cut(), Err(CutError::Taken)));
    churn(&mut store, 300);
    let mut header = [0; 512];
    cut.read(0, 0, &mut header).expect("it is there");
    assert!(disk.bytes_used() > before + 250_000, "segments are kept");
    store.set_disk_short(true);
    churn(&mut store, 600);
    cut.read(0, 0, &mut header).expect_err("it may be another segment");
    assert!(disk.bytes_used() < before + 250_000, "and given back");
    assert!(matches!(store.cut(), Err(CutError::DiskShort)));
    drop(cut);
    store.set_disk_short(false);
    drop(store.cut().expect("another cut"));
    store.cut().expect("and another one");
}

/// A segment must not be read beyond the cut: those bytes may be half of a record.
#[test]
fn nothing_behind_the_cut_is_read() {
    let disk = SimDisk::new(5);
    let (mut store, _) = open_with(&disk, settings());
    commit(&mut store, vec![publish(&message(1, 100), 99, 1)], 1000);
    let cut = store.cut().expect("a cut");
    let (path, len) = cut
        .files()
        .next()
        .map(|(path, len)| (path.to_owned(), len))
        .expect("a segment");
    commit(&mut store, vec![publish(&message(2, 100), 99, 2)], 2000);
    assert!(disk.open(&path).and_then(|file| file.len()).expect("a length") > len);
    cut.read(0, len - 8, &mut [0; 8]).expect("the last bytes");
    cut.read(0, len - 8, &mut [0; 16]).expect_err("and none behind them");
    let restored = copy(&cut, 6, &mut || {}).expect("a copy");
    drop((cut, store));
    let (restored, _) = open_with(&restored, settings());
    assert_eq!(entries(&restored, QueueId(99)).len(), 1);
}
