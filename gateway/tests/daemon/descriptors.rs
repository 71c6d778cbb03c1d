//! A process with few file descriptors: backlogs use a bounded number, the log always gets its own, and connections get
//! the rest.
//!
//! `GATEPOST_BACKLOG_SEGMENTS` sets how many segments the backlog fills, for a longer run by hand.

use crate::support::amqp::{Amqp, Incoming};
use crate::support::daemon::{Gatepost, http, http_status};
use crate::support::raw::eventually;
use std::fs;
use std::net::TcpStream;

const LIMIT: u64 = 256;
const SEGMENT_BYTES: u64 = 64 << 10;
const BODY: usize = 8_000;

fn segments() -> u64 {
    let set = std::env::var("GATEPOST_BACKLOG_SEGMENTS").ok();
    set.map_or(400, |set| set.parse().expect("GATEPOST_BACKLOG_SEGMENTS is a number"))
}

fn start() -> Gatepost {
    // More connections than there are descriptors: the log takes precedence.
    let settings = "[store]\nsegment_size = \"64KiB\"\n[limits]\nmax_connections = 1000\n\
                    [protection]\nhalf_open_max = 1000\n";
    let mut gatepost = Gatepost::prepare(1, settings);
    gatepost.start_under(&["sh", "-c", "ulimit -n 256; exec \"$0\" \"$@\""]);
    gatepost
}

fn open_files(gatepost: &Gatepost) -> u64 {
    let open = fs::read_dir(format!("/proc/{}/fd", gatepost.pid())).expect("the process");
    open.count() as u64
}

/// Publishes confirmed messages until they fill this many segments.
fn fill(gatepost: &Gatepost, segments: u64) -> u64 {
    let count = segments * SEGMENT_BYTES / BODY as u64;
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.declare_queue("backlog", true).expect("a queue");
    amqp.confirm_select().expect("confirms");
    let mut covered = 0;
    for n in 0..count {
        amqp.publish("", "backlog", true, format!("{n:08}{}", "x".repeat(BODY)).as_bytes());
        if n % 64 == 63 || n + 1 == count {
            amqp.flush().expect("sent");
            while covered <= n {
                match amqp.next().expect("a confirm") {
                    Incoming::Ack { tag, .. } => covered = covered.max(tag),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    count
}

fn metric(gatepost: &Gatepost, name: &str) -> u64 {
    let text = http(gatepost.metrics, "/metrics").expect("metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.expect("the metric").trim().parse().expect("a number")
}

/// The bug: with 256 descriptors the process ended with exit code 74 after 228,500 messages, since each segment of the
/// backlog kept one.
#[test]
fn a_backlog_of_more_segments_than_descriptors_is_kept_and_served() {
    let gatepost = start();
    let before = open_files(&gatepost);
    let count = fill(&gatepost, segments());
    let on_disk = metric(&gatepost, "gatepost_store_segments");
    let (filled, of_the_log) = (open_files(&gatepost), metric(&gatepost, "gatepost_store_open_files"));
    assert!(on_disk > LIMIT, "{on_disk} segments are more than descriptors");
    assert!(of_the_log <= LIMIT / 8, "{of_the_log}");
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.consume("backlog", 0, true).expect("a consumer");
    for n in 0..count {
        match amqp.next().expect("a delivery") {
            Incoming::Deliver(delivery) => {
                assert_eq!(std::str::from_utf8(&delivery.body[..8]), Ok(&*format!("{n:08}")));
            }
            other => panic!("{other:?}"),
        }
    }
    println!(
        "limit {LIMIT}: {before} descriptors at the start, {filled} with a backlog of {count} messages in {on_disk} \
         segments, of which {of_the_log} are open; {} after it was read",
        open_files(&gatepost)
    );
}

#[test]
fn connections_are_refused_before_the_log_lacks_a_descriptor() {
    let mut gatepost = start();
    let clients: Vec<TcpStream> = (0..400)
        .filter_map(|_| TcpStream::connect(("127.0.0.1", gatepost.mqtt)).ok())
        .collect();
    eventually("some are refused", || {
        metric(&gatepost, "gatepost_connections_refused_total{protocol=\"mqtt\"}") >= clients.len() as u64 - LIMIT
    });
    let open = open_files(&gatepost);
    assert!(open < LIMIT - 32, "{open} are open");
    // Neither HTTP nor the log is affected. One connection is closed, so that the publisher can connect.
    assert_eq!(http_status(gatepost.metrics, "/readyz"), Some(200));
    drop(clients);
    eventually("there is room again", || open_files(&gatepost) < open / 2);
    fill(&gatepost, 40);
    assert!(gatepost.is_running());
}
