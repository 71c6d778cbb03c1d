//! What the log at level `info` says about clients.

use crate::support::Gatepost;
use crate::support::amqp::{Amqp, Args};
use crate::support::mqtt::Mqtt;
use crate::support::raw::{eventually, read_to_end, tcp};
use crate::support::stomp::Stomp;
use std::fs;
use std::io::Write as _;

/// Waits for a line that contains all `parts`.
fn line(gatepost: &Gatepost, parts: &[&str]) {
    eventually(&format!("a line with {parts:?}"), || {
        let log = gatepost.log();
        log.lines().any(|line| parts.iter().all(|part| line.contains(part)))
    });
}

#[test]
fn connection_login_and_close_of_a_client_are_in_the_log() {
    let gatepost = Gatepost::start();
    let mut first = Mqtt::open(gatepost.mqtt, "press-7", true);
    line(
        &gatepost,
        &["INFO", "client connected", "protocol=\"mqtt\"", "listener=\"mqtt\""],
    );
    line(
        &gatepost,
        &[
            "INFO",
            "logged in",
            "protocol=\"MQTT 3.1.1\"",
            "user=\"anonymous\"",
            "vhost=\"/\"",
            "client=\"press-7\"",
        ],
    );
    // The same client again: the first connection is closed.
    let mut second = Mqtt::open(gatepost.mqtt, "press-7", true);
    line(
        &gatepost,
        &[
            "INFO",
            "connection closed",
            "user=\"anonymous\"",
            "client=\"press-7\"",
            "another connection took the session over",
        ],
    );
    drop(first.expect(0xD0));
    second.packet(0xE0, &[]);
    second.flush().expect("sent");
    line(&gatepost, &["INFO", "connection closed", "DISCONNECT"]);
    drop(Mqtt::open(gatepost.mqtt, "press-8", true));
    line(
        &gatepost,
        &["INFO", "connection lost", "user=\"anonymous\"", "client=\"press-8\""],
    );
}

#[test]
fn errors_that_clients_are_told_are_in_the_log() {
    let gatepost = Gatepost::start();
    let mut amqp = Amqp::open(gatepost.amqp);
    // Passive: 404.
    let passive = |name: &str| Args::new().short(0).text(name).octet(1).long(0);
    amqp.call(1, (50, 10), passive("missing"), (50, 11))
        .expect_err("not there");
    line(
        &gatepost,
        &[
            "INFO",
            "told of an error",
            "user=\"guest\"",
            "channel 1 closed: 404 NOT_FOUND",
            "missing",
        ],
    );
    // Another durability: 406.
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.declare_queue("q", true).expect("a queue");
    amqp.declare_queue("q", false).expect_err("another durability");
    line(
        &gatepost,
        &["told of an error", "channel 1 closed: 406 PRECONDITION_FAILED"],
    );
    // A prefetch in bytes is not implemented: 540, and the connection ends.
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.method(1, (60, 10), Args::new().long(1).short(0).octet(0));
    amqp.flush().expect("sent");
    line(
        &gatepost,
        &["INFO", "told of an error", "connection closed: 540 NOT_IMPLEMENTED"],
    );
    // MQTT 3 has only 0x80 for it.
    let mut mqtt = Mqtt::open(gatepost.mqtt, "m", true);
    assert_eq!(mqtt.subscribe(&["+"; 33].join("/"), 0).expect("an answer"), 0x80);
    line(&gatepost, &["told of an error", "1 of 1 subscriptions refused"]);
    let mut stomp = Stomp::try_open(gatepost.stomp).expect("a session");
    stomp.frame("SEND", &[], b"no destination");
    drop(stomp.next());
    line(&gatepost, &["connection closed for an error", "protocol=\"stomp\""]);
}

#[test]
fn a_vhost_that_is_not_there_is_in_the_log() {
    let gatepost = Gatepost::start();
    let mut connect = b"\x10\x23\x00\x04MQTT\x04\xC2\x00\x3c\x00\x01c\x00\x0dnowhere:guest\x00\x05guest".to_vec();
    connect[1] = u8::try_from(connect.len() - 2).expect("a short packet");
    let mut stream = tcp(gatepost.mqtt);
    stream.write_all(&connect).expect("sent");
    assert_eq!(read_to_end(stream).first(), Some(&0x20), "a CONNACK");
    line(&gatepost, &["closed for an error", "user=\"guest\"", "nowhere"]);
    let mut stream = tcp(gatepost.stomp);
    let connect = b"CONNECT\naccept-version:1.2\nhost:/astray\nlogin:guest\npasscode:guest\n\n\0";
    stream.write_all(connect).expect("sent");
    let answer = String::from_utf8_lossy(&read_to_end(stream)).into_owned();
    assert!(answer.starts_with("ERROR"), "{answer}");
    line(
        &gatepost,
        &["closed for an error", "protocol=\"stomp\"", "user=\"guest\"", "astray"],
    );
    // All frames of a handshake at once: the answers do not matter.
    let frame = |payload: &[u8]| {
        let size = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&[1, 0, 0][..], &size, payload, &[0xCE]].concat()
    };
    let open = [
        b"AMQP\x00\x00\x09\x01".to_vec(),
        frame(b"\x00\x0a\x00\x0b\x00\x00\x00\x00\x05PLAIN\x00\x00\x00\x0c\x00guest\x00guest\x05en_US"),
        frame(b"\x00\x0a\x00\x1f\x07\xff\x00\x02\x00\x00\x00\x00"),
        frame(b"\x00\x0a\x00\x28\x07missing\x00\x00"),
    ];
    let mut stream = tcp(gatepost.amqp);
    stream.write_all(&open.concat()).expect("sent");
    line(&gatepost, &["protocol=\"amqp\"", "user=\"guest\"", "missing"]);
}

#[test]
fn a_client_over_its_quota_is_in_the_log_once() {
    let gatepost = Gatepost::with(1, "[protection]\nclient_publishes_per_second = 50\n");
    let mut publisher = Mqtt::open(gatepost.mqtt, "eager", true);
    for id in 1..=150 {
        publisher.publish("t", id, b"x");
    }
    publisher.flush().expect("sent");
    for _ in 0..150 {
        publisher.expect(0x40).expect("a confirm");
    }
    let text = "more than its quota in [protection]";
    line(&gatepost, &["INFO", text, "protocol=\"mqtt\"", "user=\"anonymous\""]);
    assert_eq!(gatepost.log().matches(text).count(), 1, "{}", gatepost.log());
}

#[test]
fn connections_without_a_login_are_in_the_log() {
    let gatepost = Gatepost::start();
    for (port, bytes, parts) in [
        (gatepost.mqtt, &b"GET / HTTP/1.1\r\n\r\n"[..], ["WARN", "speaks HTTP"]),
        (
            gatepost.amqp,
            b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03",
            ["WARN", "speaks TLS"],
        ),
        (gatepost.stomp, b"AMQP\x00\x00\x09\x01", ["WARN", "speaks amqp"]),
        (
            gatepost.mqtt,
            b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n",
            ["WARN", "proxy_protocol is off"],
        ),
        (
            gatepost.amqp,
            b"AMQP\x01\x01\x00\x0a",
            ["INFO", "closed before a login"],
        ),
        (gatepost.mqtt, b"\x30\x03\x00\x01a", ["INFO", "not CONNECT"]),
    ] {
        let mut stream = tcp(port);
        stream.write_all(bytes).expect("sent");
        read_to_end(stream);
        line(&gatepost, &parts);
    }
    let mut wrong = b"\x10\x21\x00\x04MQTT\x04\xC2\x00\x3c\x00\x01c\x00\x05guest\x00\x0cs3cret-wrong".to_vec();
    wrong[1] = u8::try_from(wrong.len() - 2).expect("a short packet");
    let mut stream = tcp(gatepost.mqtt);
    stream.write_all(&wrong).expect("sent");
    read_to_end(stream);
    line(
        &gatepost,
        &["WARN", "login refused", "user=\"guest\"", "the password is wrong"],
    );
    assert!(!gatepost.log().contains("s3cret"), "no password in the log");
}

/// A probe that only checks whether the port is open comes every few seconds.
#[test]
fn a_silent_connection_leaves_no_line() {
    let gatepost = Gatepost::start();
    for _ in 0..5 {
        drop(tcp(gatepost.mqtt));
    }
    drop(Mqtt::open(gatepost.mqtt, "m", true));
    line(&gatepost, &["connection lost"]);
    assert_eq!(
        gatepost.log().matches("client connected").count(),
        1,
        "{}",
        gatepost.log()
    );
    assert_eq!(
        gatepost.log().matches("before a login").count(),
        0,
        "{}",
        gatepost.log()
    );
}

#[test]
fn many_equal_events_leave_few_lines_and_a_count() {
    let gatepost = Gatepost::start();
    let mut amqp = Amqp::open(gatepost.amqp);
    // A channel is closed for an error and opened again, more often than lines are logged.
    for round in 0..200 {
        let passive = Args::new().short(0).text("missing").octet(1).long(0);
        amqp.call(1, (50, 10), passive, (50, 11)).expect_err("not there");
        amqp.method(1, (20, 41), Args::new());
        amqp.call(1, (20, 10), Args::new().octet(0), (20, 11))
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
    line(
        &gatepost,
        &["more lines about errors that clients were told were not logged"],
    );
    let mut left_out = 0;
    let mut written = 0;
    eventually("all are counted", || {
        let log = gatepost.log();
        let counts = log.lines().filter(|line| line.contains("more lines about errors"));
        left_out = counts
            .filter_map(|line| line.rsplit_once("count=")?.1.trim().parse::<usize>().ok())
            .sum();
        written = log.matches("channel 1 closed: 404").count();
        left_out + written == 200
    });
    assert!(left_out > 0 && written < 200);
}

#[test]
fn a_reload_takes_up_the_log_s_file_and_format_and_the_names_and_limits_of_listeners() {
    let mut gatepost = Gatepost::prepare(1, "");
    let before = fs::read_to_string(gatepost.config()).expect("the file");
    gatepost.start_again();
    let path = gatepost.dir.join("moved.log");
    let after = before.replace("[listeners.mqtt]\n", "[listeners.mqtt]\nmax_connections = 1\n");
    let target = format!("[log]\ntarget = {path:?}\nformat = \"json\"\n");
    fs::write(
        gatepost.config(),
        after.replace("[node]\n", "[node]\ncluster_name = \"plant\"\n") + &target,
    )
    .expect("written");
    gatepost.signal("HUP");
    eventually("the new file", || {
        let log = fs::read_to_string(&path).unwrap_or_default();
        log.contains("the configuration is reloaded") && log.starts_with('{')
    });
    let held = Mqtt::open(gatepost.mqtt, "one", true);
    Mqtt::try_open(gatepost.mqtt, "two", true).err().expect("no room");
    drop(held);
    eventually("the line", || {
        fs::read_to_string(&path)
            .unwrap_or_default()
            .contains("listener's max_connections")
    });
    // If the file cannot be opened, the whole reload is refused.
    fs::write(gatepost.config(), before.clone() + "[log]\ntarget = \"/nowhere/log\"\n").expect("written");
    gatepost.signal("HUP");
    eventually("the refusal", || {
        let log = fs::read_to_string(&path).unwrap_or_default();
        log.contains("log.target: /nowhere") && log.contains("the configuration is refused")
    });
    fs::write(gatepost.config(), before).expect("written");
    gatepost.signal("HUP");
    line(&gatepost, &["the configuration is reloaded"]);
    let _room = (
        Mqtt::open(gatepost.mqtt, "one", true),
        Mqtt::open(gatepost.mqtt, "two", true),
    );
}
