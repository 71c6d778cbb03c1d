//! A medium whose reads fail: nothing is lost, and operators can see it.
//!
//! A read fails without help from the system: a directory takes the place of a segment's file, so that opening it
//! fails, but differently from a missing file.

use crate::support::amqp::{Amqp, Incoming};
use crate::support::daemon::{Gatepost, http, http_status};
use crate::support::raw::eventually;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Messages of each of two queues, in alternation.
const COUNT: u32 = 150;
/// Few open files, so that the others are opened for each read, and a small cache, so that they are read.
const SETTINGS: &str = "[store]\nsegment_size = \"64KiB\"\nopen_files = 1\ncache = \"64KiB\"\n";

fn fill(gatepost: &Gatepost) {
    let mut amqp = Amqp::open(gatepost.amqp);
    for queue in ["waits", "goes"] {
        amqp.declare_queue(queue, true).expect("a queue");
    }
    amqp.confirm_select().expect("confirms");
    for queue in ["waits", "goes"] {
        for n in 0..COUNT {
            let body = format!("{n:04}{}", "x".repeat(4_000));
            amqp.publish("", queue, true, body.as_bytes());
        }
    }
    amqp.flush().expect("sent");
    let mut covered = 0;
    while covered < 2 * u64::from(COUNT) {
        match amqp.next().expect("a confirm") {
            Incoming::Ack { tag, .. } => covered = covered.max(tag),
            other => panic!("{other:?}"),
        }
    }
}

/// The next `count` messages, which must be those from `first` on.
fn expect(amqp: &mut Amqp, first: u32, count: u32) {
    for n in first..first + count {
        match amqp.next().expect("a delivery") {
            Incoming::Deliver(delivery) => {
                assert_eq!(std::str::from_utf8(&delivery.body[..4]), Ok(&*format!("{n:04}")));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A file that cannot be read.
struct Unreadable {
    file: PathBuf,
    aside: PathBuf,
}

impl Unreadable {
    /// A segment in the middle of the first queue.
    fn segment(data: &Path) -> Unreadable {
        let file = data.join("log/00000004.seg");
        let aside = data.join("aside");
        fs::rename(&file, &aside).expect("the segment is there");
        fs::create_dir(&file).expect("a directory in its place");
        Unreadable { file, aside }
    }
    fn heal(&self) {
        fs::remove_dir(&self.file).expect("the directory is there");
        fs::rename(&self.aside, &self.file).expect("the segment is back");
    }
}

fn metric(gatepost: &Gatepost, name: &str) -> u64 {
    let text = http(gatepost.metrics, "/metrics").expect("metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.expect("the metric").trim().parse().expect("a number")
}

/// The bug: one EIO dropped 62 intact messages, reads that failed for 3 seconds 984, and the health endpoint reported
/// no failure.
#[test]
fn a_queue_waits_for_what_cannot_be_read_and_nothing_is_lost() {
    let gatepost = Gatepost::with(1, SETTINGS);
    fill(&gatepost);
    let unreadable = Unreadable::segment(&gatepost.data());
    let mut waits = Amqp::open(gatepost.amqp);
    waits.consume("waits", 0, true).expect("a consumer");
    eventually("the health endpoint says so", || {
        http_status(gatepost.metrics, "/readyz") == Some(503)
    });
    assert_eq!(http_status(gatepost.metrics, "/healthz"), Some(200));
    assert!(metric(&gatepost, "gatepost_log_reads_failing") >= 1);
    assert!(metric(&gatepost, "gatepost_store_read_errors_total") >= 1);
    // The other queue is served meanwhile.
    let mut goes = Amqp::open(gatepost.amqp);
    goes.consume("goes", 0, true).expect("a consumer");
    expect(&mut goes, 0, COUNT);
    assert_eq!(http_status(gatepost.metrics, "/readyz"), Some(503));
    unreadable.heal();
    expect(&mut waits, 0, COUNT);
    eventually("the health endpoint is green again", || {
        http_status(gatepost.metrics, "/readyz") == Some(200)
    });
    assert_eq!(metric(&gatepost, "gatepost_store_quarantined_total"), 0);
    println!(
        "a segment could not be read for a while: {COUNT} of {COUNT} messages delivered, in order, after {} failed reads; \
         {COUNT} of another queue meanwhile",
        metric(&gatepost, "gatepost_store_read_errors_total")
    );
}

#[test]
fn reads_that_fail_for_long_end_the_process_and_lose_nothing() {
    let settings = format!("{SETTINGS}read_timeout = \"500ms\"\n");
    let mut gatepost = Gatepost::with(1, &settings);
    fill(&gatepost);
    let unreadable = Unreadable::segment(&gatepost.data());
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.consume("waits", 0, true).expect("a consumer");
    let (status, _) = gatepost.wait_for_end(Duration::from_secs(60));
    let log = gatepost.log();
    assert_eq!(status.code(), Some(74), "{log}");
    assert!(log.contains("store.read_timeout"), "{log}");
    unreadable.heal();
    gatepost.start_again();
    let mut amqp = Amqp::open(gatepost.amqp);
    assert_eq!(amqp.depth("waits").expect("the queue"), COUNT);
    amqp.consume("waits", 0, true).expect("a consumer");
    expect(&mut amqp, 0, COUNT);
    assert_eq!(metric(&gatepost, "gatepost_store_quarantined_total"), 0);
}
