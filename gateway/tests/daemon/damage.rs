//! A medium that changes bytes: how the daemon and `gatepost check` handle it.

use crate::control::{control, open};
use crate::support::amqp::{Amqp, Incoming};
use crate::support::daemon::{self, Gatepost, http};
use crate::support::mqtt::Mqtt;
use crate::support::raw::eventually;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const COUNT: u64 = 200;

/// Confirmed messages in a queue.
pub(crate) fn fill(gatepost: &Gatepost) {
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

/// Changes a byte within `text` in the file that contains it. Returns the file.
pub(crate) fn flip(data: &Path, text: &str) -> PathBuf {
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

/// The messages that a consumer of the queue gets, by number.
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
fn a_flipped_byte_costs_one_message_and_is_reported_everywhere() {
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
fn a_repair_is_offline_reports_its_changes_and_leaves_no_damage() {
    let mut gatepost = Gatepost::start();
    fill(&gatepost);
    // Refused while it runs.
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

/// The bug: one byte of a queue's definition changed, and `check` reported bytes that hold no record.
#[test]
fn a_damaged_definition_is_reported_with_its_known_parts() {
    let mut gatepost = Gatepost::start();
    fill(&gatepost);
    gatepost.kill();
    gatepost.start_again();
    gatepost.terminate();
    // The definition and not a message, because it was written first.
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

/// Changes the last byte of `text` in every record that has it, in segments that are not finished by a footer.
fn flip_all(data: &Path, text: &str) {
    let mut flipped = 0;
    for file in fs::read_dir(data.join("log")).expect("the log") {
        let file = file.expect("a file").path();
        let mut bytes = fs::read(&file).expect("its bytes");
        let found = |bytes: &[u8]| bytes.windows(text.len()).position(|window| window == text.as_bytes());
        while let Some(at) = found(&bytes) {
            bytes[at + text.len() - 1] ^= 1;
            flipped += 1;
        }
        fs::write(&file, bytes).expect("written");
    }
    assert!(flipped > 0, "{text:?} is not in the log");
}

/// Prefixes of the keys of a user, and of a user's permission in the first vhost.
const USER: &str = "\0\0\0\x02";
const PERMISSION: &str = "\0\0\0\x03\0\0\0\x01";

/// Creates Ann and Bob, who may do everything in the first vhost.
fn with_users() -> Gatepost {
    let gatepost = Gatepost::start();
    for user in ["ann", "bob"] {
        control(&gatepost, &["user", "add", user], "s3cret\n");
        control(&gatepost, &["permission", "set", user, ".*", ".*", ".*"], "");
    }
    gatepost
}

/// Logs in, and publishes a message that is confirmed.
fn publishes(gatepost: &Gatepost, user: &str) -> std::io::Result<()> {
    let mut mqtt = open(gatepost, user, user, "s3cret")?;
    mqtt.publish("plant/1", 1, b"hello");
    mqtt.expect(0x40).map(drop)
}

/// Small and important records are in the checkpoint too.
#[test]
fn a_user_and_a_permission_whose_records_are_damaged_come_back_from_the_checkpoint() {
    let mut gatepost = with_users();
    gatepost.terminate();
    flip(&gatepost.data(), &format!("{USER}ann"));
    flip(&gatepost.data(), &format!("{PERMISSION}bob"));
    let (code, said) = check(&gatepost, &[]);
    assert_eq!(code, Some(65), "{said}");
    for what in ["user 'ann'", "permission of user 'bob' in vhost 1"] {
        let line = said.lines().find(|line| line.contains(what));
        assert!(line.is_some_and(|line| line.contains("second copy")), "{what}: {said}");
    }
    // They are written again, so that the next start has them even without the checkpoint.
    for _ in 0..2 {
        gatepost.start_again();
        for user in ["ann", "bob"] {
            publishes(&gatepost, user).unwrap_or_else(|error| panic!("{user}: {error}"));
        }
        gatepost.terminate();
        for file in ["checkpoint", "checkpoint.old"] {
            let _ = fs::remove_file(gatepost.data().join(file));
        }
    }
    let log = gatepost.log();
    assert!(log.contains("user 'ann'"), "{log}");
}

/// Without another copy, a user is lost, and a permission is not granted. Others are not affected.
#[test]
fn a_damaged_user_or_permission_affects_no_other() {
    let mut gatepost = with_users();
    control(&gatepost, &["user", "add", "eve"], "s3cret\n");
    control(&gatepost, &["permission", "set", "eve", ".*", ".*", ".*"], "");
    gatepost.kill();
    flip_all(&gatepost.data(), &format!("{USER}ann"));
    flip_all(&gatepost.data(), &format!("{PERMISSION}bob"));
    gatepost.start_again();
    assert!(metric(&gatepost, "gatepost_store_quarantined_total") >= 2);
    assert!(publishes(&gatepost, "ann").is_err(), "she is not known");
    assert!(publishes(&gatepost, "bob").is_err(), "he may do nothing");
    publishes(&gatepost, "eve").expect("she is served");
    Mqtt::open(gatepost.mqtt, "nameless", true).ping().expect("as before");
    // What was lost can be created again.
    control(&gatepost, &["user", "add", "ann"], "s3cret\n");
    control(&gatepost, &["permission", "set", "ann", ".*", ".*", ".*"], "");
    control(&gatepost, &["permission", "set", "bob", ".*", ".*", ".*"], "");
    for _ in 0..2 {
        for user in ["ann", "bob", "eve"] {
            publishes(&gatepost, user).unwrap_or_else(|error| panic!("{user}: {error}"));
        }
        gatepost.kill();
        gatepost.start_again();
    }
}

/// A session whose record is damaged is rebuilt from its subscriptions, with its messages. A damaged subscription is
/// lost; its session and the other subscriptions are as before.
#[test]
fn a_damaged_session_or_subscription_costs_no_message_of_others() {
    let mut gatepost = Gatepost::start();
    for (client, filters) in [("boiler", &["plant/+"][..]), ("meter", &["plant/+", "office/+"])] {
        let mut mqtt = Mqtt::open(gatepost.mqtt, client, false);
        for filter in filters {
            assert_eq!(mqtt.subscribe(filter, 1).expect("subscribed"), 1);
        }
    }
    let publish = |gatepost: &Gatepost, topic: &str, body: &str| {
        let mut mqtt = Mqtt::open(gatepost.mqtt, "sensor", true);
        mqtt.publish(topic, 1, body.as_bytes());
        mqtt.expect(0x40).expect("confirmed");
    };
    publish(&gatepost, "plant/1", "waits");
    gatepost.kill();
    flip_all(&gatepost.data(), "\0\0\x01\x40boiler");
    flip_all(&gatepost.data(), "\0\0\x01\x41meter\0office");
    gatepost.start_again();
    assert!(metric(&gatepost, "gatepost_store_quarantined_total") >= 2);
    // Nobody is subscribed to the second one now.
    publish(&gatepost, "plant/2", "live");
    publish(&gatepost, "office/1", "nobody's");
    publish(&gatepost, "plant/3", "last");
    for restarts in [false, true] {
        if restarts {
            gatepost.kill();
            gatepost.start_again();
        }
        for client in ["boiler", "meter"] {
            let mut mqtt = Mqtt::open(gatepost.mqtt, client, false);
            assert!(mqtt.present, "{client} has its session");
            for expected in ["waits", "live", "last"] {
                let packet = mqtt.next().expect("a packet").into_publish().expect("a publish");
                assert_eq!(String::from_utf8_lossy(&packet.payload), expected, "{client}");
                if restarts {
                    mqtt.ack(packet.id);
                }
            }
            mqtt.flush().expect("sent");
        }
    }
}
