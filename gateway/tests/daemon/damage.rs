//! A medium that changes bytes: what the daemon and `gatepost check` make of it.

use crate::support::amqp::{Amqp, Incoming};
use crate::support::daemon::{self, Gatepost, http};
use crate::support::raw::eventually;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const COUNT: u64 = 200;

/// Confirmed messages in a queue.
fn fill(gatepost: &Gatepost) {
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.declare_queue("kept", true).expect("a queue");
    amqp.confirm_select().expect("confirms");
    for n in 0..COUNT {
        amqp.publish(
            "",
            "kept",
            true,
            format!("message {n:04} {}", "x".repeat(200)).as_bytes(),
        );
    }
    amqp.flush().expect("sent");
    let mut covered = 0;
    while covered < COUNT {
        match amqp.next().expect("a confirm") {
            Incoming::Ack { tag, .. } => covered = covered.max(tag),
            other => panic!("{other:?}"),
        }
    }
}

/// Changes a byte of the file that holds `text`, in it, and says which file that was.
fn flip(data: &Path, text: &str) -> PathBuf {
    let files = fs::read_dir(data.join("log")).expect("the log");
    for file in files.map(|file| file.expect("a file").path()) {
        let mut bytes = fs::read(&file).expect("its bytes");
        if let Some(at) = bytes.windows(text.len()).position(|window| window == text.as_bytes()) {
            bytes[at] ^= 1;
            fs::write(&file, bytes).expect("written");
            return file;
        }
    }
    panic!("{text} is not in the log");
}

fn check(gatepost: &Gatepost, arguments: &[&str]) -> (Option<i32>, String) {
    let data = gatepost.data();
    let all = ["check", "--data", data.to_str().expect("a path")];
    let output = daemon::run(&[&all, arguments].concat(), &[]);
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), said(&output.stdout) + &said(&output.stderr))
}

/// What a consumer gets of the queue, by number.
fn served(gatepost: &Gatepost, count: usize) -> BTreeSet<u64> {
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.consume("kept", 0, true).expect("a consumer");
    let mut got = BTreeSet::new();
    while got.len() < count {
        if let Incoming::Deliver(delivery) = amqp.next().expect("a delivery") {
            let number = std::str::from_utf8(&delivery.body[8..12]).expect("digits");
            assert!(got.insert(number.parse().expect("a number")));
        }
    }
    got
}

fn metric(gatepost: &Gatepost, name: &str) -> u64 {
    let text = http(gatepost.metrics, "/metrics").expect("metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.expect("the metric").trim().parse().expect("a number")
}

#[test]
fn a_flipped_byte_costs_one_message_and_is_said_everywhere() {
    let mut gatepost = Gatepost::start();
    fill(&gatepost);
    gatepost.kill();
    let file = flip(&gatepost.data(), "message 0100");
    let name = file.file_name().expect("a name").to_str().expect("a name").to_owned();
    let (code, said) = check(&gatepost, &[]);
    assert_eq!(code, Some(65), "{said}");
    assert!(said.contains(&name) && said.contains("DAMAGED"), "{said}");

    gatepost.start_again();
    assert_eq!(
        Amqp::open(gatepost.amqp).depth("kept").expect("the queue"),
        COUNT as u32 - 1
    );
    assert!(metric(&gatepost, "gatepost_store_quarantined_total") >= 1);
    eventually("the log says so", || {
        let log = gatepost.log();
        log.contains(&name) && log.contains(gatepost.data().join("quarantine").to_str().expect("a path"))
    });
    let aside: Vec<PathBuf> = fs::read_dir(gatepost.data().join("quarantine"))
        .expect("a directory")
        .map(|file| file.expect("a file").path())
        .collect();
    let text = |path: &PathBuf| fs::read(path).unwrap_or_default();
    assert!(
        aside
            .iter()
            .any(|path| text(path).windows(4).any(|window| window == b"0100"))
    );
    assert!(
        aside
            .iter()
            .any(|path| String::from_utf8_lossy(&text(path)).contains(&name))
    );
    let all: BTreeSet<u64> = (0..COUNT).filter(|n| *n != 100).collect();
    assert_eq!(served(&gatepost, all.len()), all);
}

#[test]
fn a_repair_is_offline_says_what_it_did_and_leaves_no_damage() {
    let mut gatepost = Gatepost::start();
    fill(&gatepost);
    // Not while it runs.
    let (code, said) = check(&gatepost, &["--repair"]);
    assert_eq!(code, Some(75), "{said}");
    assert!(said.contains(&gatepost.pid().to_string()), "{said}");
    assert!(gatepost.terminate().0.success());
    assert_eq!(check(&gatepost, &[]).0, Some(0));
    assert_eq!(check(&gatepost, &["--repair"]).0, Some(0));

    flip(&gatepost.data(), "message 0007");
    fs::write(gatepost.data().join("checkpoint"), "nonsense").expect("a file");
    assert_eq!(check(&gatepost, &[]).0, Some(65));
    let (code, said) = check(&gatepost, &["--repair"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("quarantine/") && said.contains("repaired: 199 live messages"),
        "{said}"
    );
    assert_eq!(check(&gatepost, &[]).0, Some(0));
    assert_eq!(check(&gatepost, &["--repair"]).0, Some(0));

    gatepost.start_again();
    assert_eq!(metric(&gatepost, "gatepost_store_quarantined_total"), 0);
    let all: BTreeSet<u64> = (0..COUNT).filter(|n| *n != 7).collect();
    assert_eq!(served(&gatepost, all.len()), all);
}

/// One byte of a queue's definition changed, and `check` spoke of bytes that hold no record.
#[test]
fn a_damaged_definition_is_named_with_what_is_known_of_it() {
    let mut gatepost = Gatepost::start();
    fill(&gatepost);
    gatepost.kill();
    gatepost.start_again();
    gatepost.terminate();
    // The definition, and no message: that was written first.
    flip(&gatepost.data(), "kept");
    let (code, said) = check(&gatepost, &[]);
    assert_eq!(code, Some(65), "{said}");
    let line = said
        .lines()
        .find(|line| line.contains("queue 1 of vhost 1 ('kept', classic)"));
    assert!(line.is_some_and(|line| line.contains("second copy")), "{said}");
    gatepost.start_again();
    assert_eq!(
        Amqp::open(gatepost.amqp).depth("kept").expect("the queue"),
        COUNT as u32
    );
}
