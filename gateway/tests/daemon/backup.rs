//! `gatepost backup` and `gatepost restore`.

use crate::control::{control, open};
use crate::damage::{fill, flip};
use crate::durability::{body, confirm, number, packet_id};
use crate::support::Gatepost;
use crate::support::amqp::{Amqp, Incoming};
use crate::support::daemon::run;
use crate::support::mqtt::Mqtt;
use crate::support::raw::{eventually, read_to_end};
use crate::support::stomp::Stomp;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Result, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// All messages below these numbers are confirmed.
#[derive(Default)]
struct Confirmed {
    amqp: AtomicU64,
    mqtt: AtomicU64,
    stomp: AtomicU64,
}

impl Confirmed {
    fn now(&self) -> [u64; 3] {
        [&self.amqp, &self.mqtt, &self.stomp].map(|count| count.load(Ordering::Relaxed))
    }

    fn by_amqp(&self, port: u16) -> Result<()> {
        let mut amqp = Amqp::try_open(port)?;
        amqp.confirm_select()?;
        let (mut beyond, mut covered) = (BTreeSet::new(), 0);
        for n in 0.. {
            amqp.publish("", "by-amqp", true, &body(n));
            while n + 1 - covered >= 50 {
                covered = confirm(&mut amqp, &mut beyond, covered)?;
                self.amqp.store(covered, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn by_mqtt(&self, port: u16) -> Result<()> {
        let mut mqtt = Mqtt::try_open(port, "sensor", true)?;
        for n in 0.. {
            mqtt.publish("by/mqtt", packet_id(n), &body(n));
            mqtt.expect(0x40)?;
            self.mqtt.store(n + 1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn by_stomp(&self, port: u16) -> Result<()> {
        let mut stomp = Stomp::try_open(port)?;
        for n in 0.. {
            let headers = [
                ("destination", "/amq/queue/by-stomp"),
                ("persistent", "true"),
                ("receipt", "r"),
            ];
            stomp.frame("SEND", &headers, &body(n));
            stomp.next()?;
            self.stomp.store(n + 1, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path")
}

/// How the command ended, and its output.
fn ended(output: &Output) -> (Option<i32>, String) {
    let said = [&*output.stdout, &*output.stderr].concat();
    (output.status.code(), String::from_utf8(said).expect("text"))
}

fn backup(gatepost: &Gatepost, file: &Path) -> (Option<i32>, String) {
    ended(&run(&["backup", "--config", text(&gatepost.config()), text(file)], &[]))
}

fn restore(file: &Path, data: &Path) -> (Option<i32>, String) {
    ended(&run(&["restore", text(file), "--data", text(data)], &[]))
}

/// The names in a directory.
fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).expect("a directory");
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
    entries
        .map(|entry| name(entry).into_string().expect("a name"))
        .collect()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

/// How many numbers, from 0 on without a gap and each once, are in the queue.
fn first_numbers(port: u16, queue: &str) -> u64 {
    let mut amqp = Amqp::open(port);
    let ready = amqp.depth(queue).expect("the queue is there");
    amqp.consume(queue, 0, true).expect("a consumer");
    let mut next = 0;
    for _ in 0..ready {
        let Ok(Incoming::Deliver(delivery)) = amqp.next() else {
            panic!("not a delivery");
        };
        assert_eq!(number(&delivery.body), next, "in order, none missing, none twice");
        next += 1;
    }
    next
}

#[test]
fn a_backup_under_load_restores_what_was_confirmed_before_it_began() {
    let mut original = Gatepost::with(2, "[store]\nsegment_size = \"64KiB\"\n");
    let (amqp, mqtt, stomp) = (original.amqp, original.mqtt, original.stomp);
    for queue in ["by-amqp", "by-mqtt", "by-stomp"] {
        Amqp::open(amqp).declare_queue(queue, true).expect("a queue");
    }
    Amqp::open(amqp)
        .bind("by-mqtt", "amq.topic", "by.mqtt")
        .expect("a binding");
    control(&original, &["user", "add", "ann", "--tag", "monitoring"], "s3cret\n");
    control(&original, &["permission", "set", "ann", ".*", ".*", ".*"], "");
    let file = original.dir.join("backup.tar");
    let confirmed = Confirmed::default();
    let before = std::thread::scope(|scope| {
        scope.spawn(|| confirmed.by_amqp(amqp).expect_err("it ends with the process"));
        scope.spawn(|| confirmed.by_mqtt(mqtt).expect_err("it ends with the process"));
        scope.spawn(|| confirmed.by_stomp(stomp).expect_err("it ends with the process"));
        eventually("load", || confirmed.now().iter().all(|count| *count > 100));
        let before = confirmed.now();
        let (code, said) = backup(&original, &file);
        // Ends the publishers, whatever the result.
        original.kill();
        assert_eq!(code, Some(0), "{said}");
        before
    });
    assert_eq!(mode(&file), 0o600, "it has password hashes and messages");
    assert!(!names(&original.dir).iter().any(|name| name.ends_with(".part")));

    let mut copy = Gatepost::prepare(2, "");
    let data = copy.data();
    assert_eq!(restore(&file, &data), (Some(0), String::new()));
    let in_place = ["checkpoint", "checkpoint.old", "cold", "log"].map(str::to_owned);
    assert!(names(&data).is_subset(&in_place.into()), "{:?}", names(&data));
    assert_eq!((mode(&data), mode(&data.join("log"))), (0o700, 0o700));
    for segment in names(&data.join("log")) {
        assert_eq!(mode(&data.join("log").join(segment)), 0o600);
    }
    let (code, said) = ended(&run(&["check", "--data", text(&data)], &[]));
    assert_eq!(code, Some(0), "{said}");
    copy.start_again();
    for (queue, before) in ["by-amqp", "by-mqtt", "by-stomp"].iter().zip(before) {
        let there = first_numbers(copy.amqp, queue);
        assert!(there >= before, "{queue}: {before} were confirmed, {there} are there");
    }
    assert!(open(&copy, "desk", "ann", "wrong").is_err());
    assert!(open(&copy, "desk", "ann", "s3cret").is_ok(), "users are restored");
    assert!(!copy.log().contains("ERROR"), "it starts clean: {}", copy.log());
}

#[test]
fn an_incomplete_backup_is_refused_with_the_reason_and_leaves_nothing() {
    let mut gatepost = Gatepost::start();
    fill(&gatepost);
    gatepost.terminate();
    let file = gatepost.dir.join("stopped.tar");
    let (code, said) = backup(&gatepost, &file);
    assert_eq!(code, Some(0), "one that is stopped is copied too: {said}");
    let (code, said) = backup(&gatepost, &file);
    assert_eq!(code, Some(64), "it is not written over: {said}");

    let bytes = std::fs::read(&file).expect("the file");
    let (bad, target) = (gatepost.dir.join("bad.tar"), gatepost.dir.join("restored"));
    let in_message = bytes.windows(12).position(|window| window == b"message 0100");
    let flipped = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        bytes
    };
    // The end without the checksums before it: such an archive was not written by a gateway.
    let sums = bytes
        .windows(10)
        .position(|window| window == b"SHA256SUMS")
        .expect("they are there");
    let without_sums = [&bytes[..sums], &[0; 1024]].concat();
    for (content, why) in [
        (bytes[..bytes.len() - 700].to_vec(), "cut short"),
        (bytes[..bytes.len() / 2].to_vec(), "cut short"),
        (Vec::new(), "cut short"),
        (flipped(in_message.expect("it is there")), "log/"),
        (flipped(1), "not a file that `gatepost backup` wrote"),
        (without_sums, "its checksums are missing"),
        (b"[node]\n".repeat(100), "not a file that `gatepost backup` wrote"),
    ] {
        std::fs::write(&bad, content).expect("written");
        let (code, said) = restore(&bad, &target);
        assert_eq!(code, Some(65), "{why}: {said}");
        assert!(said.contains(why) && said.contains(text(&bad)), "{why}: {said}");
        assert!(!target.exists(), "{why}");
    }
    let (code, said) = restore(&gatepost.dir.join("missing.tar"), &target);
    assert_eq!(code, Some(64), "{said}");

    // In use, and not empty.
    let (code, said) = restore(&file, &gatepost.data());
    assert_eq!(code, Some(64), "{said}");
    // A file system of its own, as container volumes are: it cannot be renamed, and is not quite empty.
    std::fs::create_dir_all(target.join("lost+found")).expect("made");
    let (code, said) = restore(&bad, &target);
    assert_eq!(code, Some(65), "{said}");
    assert_eq!(names(&target), ["lost+found".to_owned()].into());
    let (code, said) = restore(&file, &target);
    assert_eq!(code, Some(0), "{said}");
    assert!(target.join("checkpoint").exists());
}

/// A copy of a damaged directory is needed even more.
#[test]
fn a_damaged_original_is_restored_with_its_damage_reported() {
    let mut gatepost = Gatepost::start();
    fill(&gatepost);
    gatepost.terminate();
    flip(&gatepost.data(), "message 0100");
    let (file, target) = (gatepost.dir.join("backup.tar"), gatepost.dir.join("restored"));
    let (code, said) = backup(&gatepost, &file);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = restore(&file, &target);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("DAMAGED") && said.contains("damaged already"), "{said}");
    assert!(target.join("checkpoint").exists());
}

#[test]
fn a_stalled_reader_blocks_other_backups_and_nothing_else() {
    let gatepost = Gatepost::start();
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.declare_queue("kept", true).expect("a queue");
    amqp.confirm_select().expect("confirms");
    // More than fits into buffers between the gateway and the reader.
    let publish = |amqp: &mut Amqp| {
        amqp.publish("", "kept", true, &[b'x'; 100_000]);
        while !matches!(amqp.next().expect("a confirm"), Incoming::Ack { .. }) {}
    };
    for _ in 0..48 {
        publish(&mut amqp);
    }
    let ask = || {
        let mut stream = UnixStream::connect(gatepost.data().join("control.sock")).expect("connected");
        let request = b"GET /api/gatepost/backup HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).expect("sent");
        let mut status = [0; 12];
        stream.read_exact(&mut status).expect("an answer");
        assert_eq!(&status, b"HTTP/1.1 200");
        stream
    };
    let stalled = ask();
    let file = gatepost.dir.join("backup.tar");
    let (code, said) = backup(&gatepost, &file);
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("another backup is being made"), "{said}");
    assert!(!file.exists());
    publish(&mut amqp);
    drop(stalled);
    eventually("it is noticed that the reader is gone", || {
        backup(&gatepost, &file).0 == Some(0)
    });
    // A stop does not wait for a reader either.
    let _stalled = ask();
    let mut gatepost = gatepost;
    assert!(gatepost.terminate().0.success());
}

/// The bug: Ctrl-C left `FILE.PID.part`.
#[test]
fn an_interrupted_backup_leaves_no_file() {
    let gatepost = Gatepost::prepare(1, "");
    fs::create_dir_all(gatepost.data()).expect("a directory");
    // A gateway that sends the beginning of an archive, and then nothing.
    let listener = UnixListener::bind(gatepost.data().join("control.sock")).expect("a socket");
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let child = Command::new(env!("CARGO_BIN_EXE_gatepost"))
            .args(["backup", "--config", text(&gatepost.config())])
            .arg(gatepost.dir.join("cut.tar"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a request");
            request.extend(byte);
        }
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
        stream.write_all(head).expect("sent");
        let drafts = || {
            names(&gatepost.dir)
                .into_iter()
                .filter(|name| name.starts_with("cut.tar"))
        };
        eventually("a draft", || drafts().count() == 1);
        let kill = format!("kill -{signal} {}", child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .expect("a shell")
                .success()
        );
        let (ended, said) = ended(&child.wait_with_output().expect("output"));
        assert_eq!((ended, said.as_str()), (Some(code), "interrupted\n"), "{signal}");
        assert_eq!(drafts().collect::<Vec<_>>(), Vec::<String>::new(), "{signal}");
    }
}

#[test]
fn a_receiver_without_room_leaves_no_file() {
    let gatepost = Gatepost::start();
    fill(&gatepost);
    let file = gatepost.dir.join("backup.tar");
    // A limit on the size of files simulates a full disk.
    let script = format!(
        "trap '' XFSZ; ulimit -f 4; exec {:?} backup --config {:?} {:?}",
        env!("CARGO_BIN_EXE_gatepost"),
        gatepost.config(),
        file
    );
    let output = Command::new("sh").args(["-c", &script]).output().expect("a shell");
    let (code, said) = ended(&output);
    assert_eq!(code, Some(73), "{said}");
    assert!(said.contains(text(&file)), "{said}");
    assert!(!names(&gatepost.dir).iter().any(|name| name.starts_with("backup.tar")));
    eventually("the next one has room", || backup(&gatepost, &file).0 == Some(0));
}

/// `gatepost backup - | ssh …`, and the way back.
#[test]
fn an_archive_works_through_pipes_and_is_a_valid_tar_file() {
    let gatepost = Gatepost::start();
    fill(&gatepost);
    let restored = gatepost.dir.join("restored");
    let script = format!(
        "set -e; cd {dir:?}; {gatepost} backup --config gatepost.toml - > piped; \
         {gatepost} restore - --data-dir restored < piped; \
         mkdir looked-into; cd looked-into; tar xf ../piped; sha256sum --quiet -c SHA256SUMS",
        dir = gatepost.dir,
        gatepost = env!("CARGO_BIN_EXE_gatepost"),
    );
    let (code, said) = ended(&Command::new("sh").args(["-c", &script]).output().expect("a shell"));
    assert_eq!((code, &*said), (Some(0), ""));
    assert!(restored.join("log").exists());
}

/// It contains password hashes and messages, so no user of the API gets it, whatever the tags.
#[test]
fn the_network_has_no_way_to_a_backup() {
    let gatepost = Gatepost::start();
    let mut stream = TcpStream::connect(("127.0.0.1", gatepost.management)).expect("connected");
    let request = b"GET /api/gatepost/backup HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
        Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\r\n";
    stream.write_all(request).expect("sent");
    let answer = String::from_utf8(read_to_end(stream)).expect("text");
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(answer.contains("control socket only"), "{answer}");
}
