//! A log that cannot be written: confirms stop at once, health fails, the process ends with the reason, and the next
//! start has everything that was confirmed.

use crate::durability::{body, confirm, number};
use crate::support::Gatepost;
use crate::support::amqp::{Amqp, Incoming};
use crate::support::daemon::http_status;
use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[test]
fn a_failed_write_stops_confirms_turns_health_red_and_ends_the_process() {
    let mut gatepost = Gatepost::with(2, "[store]\nsegment_size = \"8MiB\"\n");
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.declare_queue("work", true).expect("a queue");
    drop(amqp);
    gatepost.kill();
    // Spare files were allocated before the limit that follows. They are removed, so that the failure comes early.
    for file in fs::read_dir(gatepost.data().join("log")).expect("the log") {
        let path = file.expect("a file").path();
        if path.extension().is_some_and(|extension| extension == "free") {
            fs::remove_file(path).expect("a spare to remove");
        }
    }
    // No file larger than 1 or 2 MiB: shells count differently.
    gatepost.start_under(&["sh", "-c", "ulimit -f 2048; exec \"$0\" \"$@\""]);
    let (metrics, red) = (gatepost.metrics, AtomicBool::new(false));
    let confirmed = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Until nobody answers any more.
            while let Some(status) = http_status(metrics, "/healthz") {
                red.fetch_or(status == 503, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let confirmed = publish_until_it_fails(gatepost.amqp);
        let (status, _) = gatepost.wait_for_end(Duration::from_secs(30));
        assert_eq!(status.code(), Some(74), "{}", gatepost.log());
        confirmed
    });
    assert!(red.load(Ordering::Relaxed), "health turned red before the end");
    let log = gatepost.log();
    assert!(log.contains("nothing more is confirmed"), "{log}");
    assert!(log.contains("File too large"), "the cause in:\n{log}");
    assert!(confirmed > 100, "{confirmed} were confirmed before");

    gatepost.start_again();
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.consume("work", 0, true).expect("a consumer");
    for n in 0..confirmed {
        let Ok(Incoming::Deliver(delivery)) = amqp.next() else {
            panic!("not a delivery")
        };
        assert_eq!(number(&delivery.body), n);
    }
}

/// Returns how many were confirmed: those are the first.
fn publish_until_it_fails(port: u16) -> u64 {
    let mut amqp = Amqp::open(port);
    amqp.confirm_select().expect("confirms");
    let (mut covered, mut beyond) = (0, BTreeSet::new());
    for n in 0.. {
        amqp.publish("", "work", true, &[&body(n)[..], &[b'.'; 960]].concat());
        while n + 1 - covered >= 100 {
            match amqp.next() {
                Ok(Incoming::Ack { tag, multiple }) => {
                    covered = noted(&mut beyond, covered, tag, multiple);
                }
                Ok(Incoming::Method(10, 50, args)) => {
                    let (code, text) = crate::support::amqp::close_reason(&args);
                    assert_eq!(code, 320, "{text}");
                    return covered;
                }
                Ok(other) => panic!("expected a confirm and got {other:?}"),
                Err(_) => return covered,
            }
        }
    }
    covered
}

fn noted(beyond: &mut BTreeSet<u64>, mut covered: u64, tag: u64, multiple: bool) -> u64 {
    if multiple {
        covered = covered.max(tag);
    } else {
        beyond.insert(tag);
    }
    while beyond.first().is_some_and(|&tag| tag <= covered + 1) {
        covered = covered.max(beyond.pop_first().expect("just seen"));
    }
    covered
}

#[test]
fn a_start_that_cannot_write_ends_with_the_reason() {
    let mut gatepost = Gatepost::with(1, "[store]\nsegment_size = \"8MiB\"\n");
    gatepost.kill();
    // Enough to start: nothing is written before there is a record.
    gatepost.start_under(&["sh", "-c", "ulimit -f 32; exec \"$0\" \"$@\""]);
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.confirm_select().expect("confirms");
    let mut declared = 0;
    while declared < 1_000 && amqp.declare_queue(&format!("queue-{declared}"), true).is_ok() {
        declared += 1;
    }
    assert!(declared < 1_000, "32 KiB do not hold a thousand queues");
    let (status, _) = gatepost.wait_for_end(Duration::from_secs(30));
    assert_eq!(status.code(), Some(74), "{}", gatepost.log());
    gatepost.start_again();
    let mut amqp = Amqp::open(gatepost.amqp);
    for n in 0..declared {
        assert_eq!(amqp.depth(&format!("queue-{n}")).expect("it was answered"), 0);
    }
    let mut covered = 0;
    amqp.confirm_select().expect("confirms");
    amqp.publish("", "queue-0", true, b"x");
    covered = confirm(&mut amqp, &mut BTreeSet::new(), covered).expect("a confirm");
    assert_eq!(covered, 1);
}
