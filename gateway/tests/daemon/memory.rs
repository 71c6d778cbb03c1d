//! Floods of every kind of object that a client can create: they are refused in the protocol's words, others are served
//! meanwhile, and neither the process nor its next start exceeds the budget.
//!
//! ```console
//! GATEPOST_MEMORY_BUDGET=100MiB cargo test -p gatepost --test daemon memory -- --nocapture   # prints what it measured
//! ```
//!
//! The bounds are wide: allocators keep freed memory, and a debug build is large.

use crate::support::Gatepost;
use crate::support::amqp::{Amqp, Args, Incoming, close_reason};
use crate::support::daemon::http;
use crate::support::mqtt::Mqtt;
use crate::support::raw::eventually;
use crate::support::stomp::Stomp;
use std::fmt::Write as _;
use std::io::{Result, Write as _};

/// Small, so that the test is short. A larger one makes the figures more exact.
fn budget() -> (String, u64) {
    let text = std::env::var("GATEPOST_MEMORY_BUDGET").unwrap_or_else(|_| "12MiB".to_owned());
    let mib = text.strip_suffix("MiB").and_then(|n| n.parse::<u64>().ok());
    (text.clone(), mib.expect("a number of MiB") << 20)
}

fn metric(gatepost: &Gatepost, name: &str) -> u64 {
    let text = http(gatepost.metrics, "/metrics").expect("metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    let value: Option<f64> = line.and_then(|n| n.parse().ok());
    value.unwrap_or_else(|| panic!("{name} in:\n{text}")) as u64
}

fn used(gatepost: &Gatepost, kind: &str) -> u64 {
    metric(gatepost, &format!("gatepost_objects_bytes{{kind=\"{kind}\"}}"))
}

fn refused(gatepost: &Gatepost, kind: &str) -> u64 {
    metric(gatepost, &format!("gatepost_objects_refused_total{{kind=\"{kind}\"}}"))
}

/// Maximum resident memory of the process since it started.
fn peak(gatepost: &Gatepost) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gatepost.pid())).expect("a status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("VmHWM");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("kilobytes")
}

/// An MQTT 5 client with a session that is kept for an hour.
fn open_v5(port: u16, client_id: &str) -> Mqtt {
    try_open_v5(port, client_id).unwrap_or_else(|e| panic!("MQTT 5: {e}"))
}

fn try_open_v5(port: u16, client_id: &str) -> Result<Mqtt> {
    let mut body = b"\x00\x04MQTT\x05\x00\x00\x00\x05\x11\x00\x00\x0E\x10".to_vec();
    body.extend((client_id.len() as u16).to_be_bytes());
    body.extend(client_id.as_bytes());
    Mqtt::try_speak(port, &body)
}

/// Publishes retained messages until one is refused. Returns how many were accepted.
fn retain_until_refused(mqtt: &mut Mqtt) -> u64 {
    const WINDOW: usize = 500;
    let mut kept = 0;
    for round in 0.. {
        for n in 0..WINDOW {
            let topic = format!("flood/{round}/{n}");
            let mut body = (topic.len() as u16).to_be_bytes().to_vec();
            body.extend(topic.as_bytes());
            body.extend((n as u16 + 1).to_be_bytes());
            body.push(0);
            body.extend(b"a value of 20 octets");
            mqtt.packet(0x33, &body);
        }
        let mut over = false;
        for _ in 0..WINDOW {
            let ack = mqtt.expect(0x40).expect("a PUBACK");
            match ack.get(2).copied().unwrap_or(0) {
                0x97 => over = true,
                0 | 0x10 => kept += 1,
                other => panic!("PUBACK {other:02X}"),
            }
        }
        if over {
            return kept;
        }
    }
    unreachable!("it is refused some time")
}

/// Subscribes until a filter is refused with `code`. Returns how many were granted.
fn subscribe_until_refused(mqtt: &mut Mqtt, version: u8, code: u8) -> u64 {
    let mut granted = 0;
    for round in 0.. {
        let mut body = vec![0, 1];
        if version == 5 {
            body.push(0);
        }
        for n in 0..200 {
            let filter = format!("device/{round}/{n}/+");
            body.extend((filter.len() as u16).to_be_bytes());
            body.extend(filter.as_bytes());
            body.push(1);
        }
        mqtt.packet(0x82, &body);
        let ack = mqtt
            .expect(0x90)
            .unwrap_or_else(|e| panic!("a SUBACK for {round}: {e}"));
        let codes = &ack[ack.len() - 200..];
        granted += codes.iter().filter(|c| **c == 1).count() as u64;
        if let Some(refusal) = codes.iter().find(|c| **c != 1) {
            assert_eq!(*refusal, code);
            return granted;
        }
    }
    unreachable!("it is refused some time")
}

/// Calls until the channel is closed. Returns the code, and how many calls succeeded.
fn call_until_refused(amqp: &mut Amqp, id: (u16, u16), args: impl Fn(u64) -> Args) -> (u16, u64) {
    for n in 0.. {
        amqp.method(1, id, args(n));
        match amqp.next().expect("an answer") {
            Incoming::Method(class, method, _) if (class, method) == (id.0, id.1 + 1) => {}
            Incoming::Method(20, 40, reason) => return (close_reason(&reason).0, n),
            other => panic!("{other:?}"),
        }
    }
    unreachable!("it is refused some time")
}

/// Checks that messages go from one client to another.
fn serves(gatepost: &Gatepost, subscriber: &mut Mqtt) -> Result<()> {
    let mut publisher = Mqtt::try_open(gatepost.mqtt, "", true)?;
    publisher.publish("alive", 1, b"yes");
    publisher.expect(0x40)?;
    let publish = subscriber.next()?.into_publish().expect("a PUBLISH");
    assert_eq!((publish.topic.as_str(), &*publish.payload), ("alive", &b"yes"[..]));
    subscriber.ack(publish.id);
    subscriber.ping()
}

/// Small, so that the memory of logins does not matter in the measurement.
const HASHING: &str = "[auth]\nhashing_memory = \"1MiB\"\nargon2_memory = \"64KiB\"\n";

/// A daemon with the budget, and a report for the figures.
fn start() -> (Gatepost, Report) {
    let (text, _) = budget();
    let memory = format!("[memory]\nbudget = \"{text}\"\n{HASHING}");
    let limits = "[limits]\nmax_queues = 1000000\nsession_filters_max = 1000000\n[mqtt]\nreceive_maximum = 65535\n";
    let gatepost = Gatepost::with(1, &(memory + limits));
    let empty = gatepost.resident();
    let report = Report {
        text: String::new(),
        empty,
        at: empty,
    };
    (gatepost, report)
}

/// The figures, for people.
struct Report {
    text: String,
    /// Resident memory before the first client.
    empty: u64,
    at: u64,
}

impl Report {
    fn line(&mut self, gatepost: &Gatepost, what: &str, count: u64, counted: u64) {
        let resident = gatepost.resident();
        let grown = resident.saturating_sub(self.at);
        self.at = resident;
        let ratio = counted as f64 / grown.max(1) as f64;
        let _ = writeln!(
            self.text,
            "{what:>14}: {count:>7} taken, counted {:>6} KiB, process grew {:>6} KiB to {:>6} KiB: {ratio:.2}",
            counted >> 10,
            grown >> 10,
            resident >> 10
        );
        // Memory that is allocated once, for the first object of a kind, is a large part of a small budget.
        let right = if budget().1 < 64 << 20 { 0.5..1.7 } else { 0.85..1.15 };
        assert!(right.contains(&ratio), "{}", self.text);
    }
}

#[test]
fn floods_are_refused_in_the_protocol_s_words_and_a_start_needs_no_more_than_before() {
    let (gatepost, mut report) = start();
    let mut subscriber = Mqtt::open(gatepost.mqtt, "subscriber", true);
    assert_eq!(subscriber.subscribe("alive", 1).expect("a SUBACK"), 1);

    let mut retains = open_v5(gatepost.mqtt, "retains");
    let retained = retain_until_refused(&mut retains);
    // Such small bodies stay in memory as long as there is room.
    let counted = used(&gatepost, "retained") + metric(&gatepost, "gatepost_message_memory_bytes");
    report.line(&gatepost, "retained", retained, counted);
    assert!(refused(&gatepost, "retained") > 0);
    serves(&gatepost, &mut subscriber).expect("served");

    let before = used(&gatepost, "routes") + used(&gatepost, "sessions");
    let mut mqtt = open_v5(gatepost.mqtt, "subscribes");
    let subscriptions = subscribe_until_refused(&mut mqtt, 5, 0x97);
    let counted = used(&gatepost, "routes") + used(&gatepost, "sessions") - before;
    report.line(&gatepost, "subscriptions", subscriptions, counted);
    let mut old = Mqtt::open(gatepost.mqtt, "old", true);
    subscribe_until_refused(&mut old, 4, 0x80);
    serves(&gatepost, &mut subscriber).expect("served");
    drop((subscriber, retains, mqtt, old));
    start_again(gatepost, report);
}

#[test]
fn queues_bindings_and_sessions_are_refused_too() {
    let (gatepost, mut report) = start();
    let mut subscriber = Mqtt::open(gatepost.mqtt, "subscriber", true);
    assert_eq!(subscriber.subscribe("alive", 1).expect("a SUBACK"), 1);

    let mut amqp = Amqp::open(gatepost.amqp);
    let before = used(&gatepost, "queues");
    let queue = |n: u64| Args::new().short(0).text(&format!("queue-{n}")).octet(2).bytes(b"");
    let (code, queues) = call_until_refused(&mut amqp, (50, 10), queue);
    assert_eq!(code, 406);
    report.line(&gatepost, "queues", queues, used(&gatepost, "queues") - before);
    serves(&gatepost, &mut subscriber).expect("served");

    let mut amqp = Amqp::open(gatepost.amqp);
    let before = used(&gatepost, "routes");
    let bind = |n: u64| {
        let mut table = b"\x06headerS\x00\x00\x00\x40".to_vec();
        table.extend([b'v'; 64]);
        let key = format!("key-{n}");
        Args::new()
            .short(0)
            .text("queue-0")
            .text("amq.headers")
            .text(&key)
            .octet(0)
            .bytes(&table)
    };
    let (code, bindings) = call_until_refused(&mut amqp, (50, 20), bind);
    assert_eq!(code, 406);
    report.line(&gatepost, "bindings", bindings, used(&gatepost, "routes") - before);
    serves(&gatepost, &mut subscriber).expect("served");
    drop(subscriber);
    start_again(gatepost, report);
}

#[test]
fn kept_sessions_are_refused_with_connack() {
    let (gatepost, mut report) = start();
    let mut subscriber = Mqtt::open(gatepost.mqtt, "subscriber", true);
    assert_eq!(subscriber.subscribe("alive", 1).expect("a SUBACK"), 1);
    let counted = || used(&gatepost, "sessions") + used(&gatepost, "queues");
    let before = counted();
    let refused = |n: u64| {
        let refusal = Mqtt::try_open(gatepost.mqtt, &format!("device-{n}"), false).err()?;
        Some((n, refusal.to_string()))
    };
    let (sessions, refusal) = (0..).find_map(refused).expect("it is refused some time");
    assert_eq!(refusal, "refused with 3");
    report.line(&gatepost, "sessions", sessions, counted() - before);
    // In version 5 the code names the reason.
    let refused = |n| try_open_v5(gatepost.mqtt, &format!("device-v5-{n}")).err();
    let refusal = (0..100).find_map(refused).expect("it is refused, too");
    assert_eq!(refusal.to_string(), "refused with 151");
    serves(&gatepost, &mut subscriber).expect("served");
    drop(subscriber);
    start_again(gatepost, report);
}

/// What was accepted is there after a kill, and neither the process nor its next start exceeds the budget.
fn start_again(mut gatepost: Gatepost, mut report: Report) {
    let (_, budget) = budget();
    let empty = report.empty;
    let (resident, running) = (gatepost.resident(), peak(&gatepost));
    let objects = ["retained", "routes", "queues", "sessions", "connections"];
    let counted: u64 = objects.iter().map(|kind| used(&gatepost, kind)).sum();
    let max = metric(&gatepost, "gatepost_objects_bytes_max");
    assert!(counted <= max, "{counted} of {max}");
    assert!(resident - empty <= budget, "grew by {} of {budget}", resident - empty);
    let _ = writeln!(
        report.text,
        "{:>14}: {} KiB counted of {} KiB; empty {} KiB, now {} KiB, at most {} KiB",
        "all",
        counted >> 10,
        max >> 10,
        empty >> 10,
        resident >> 10,
        running >> 10
    );

    let kept = [
        "gatepost_retained_messages",
        "rabbitmq_queues",
        "gatepost_mqtt_sessions{state=\"kept\"}",
    ];
    eventually("all clients are away", || {
        metric(&gatepost, "gatepost_mqtt_sessions{state=\"connected\"}") == 0
    });
    let taken: Vec<u64> = kept.iter().map(|name| metric(&gatepost, name)).collect();
    gatepost.kill();
    gatepost.start_again();
    let starting = peak(&gatepost);
    let _ = writeln!(report.text, "{:>14}: at most {} KiB", "start", starting >> 10);
    println!("{}", report.text);
    let found: Vec<u64> = kept.iter().map(|name| metric(&gatepost, name)).collect();
    assert_eq!(found, taken, "{kept:?}");
    assert!(
        starting - empty <= budget,
        "a start takes {} of {budget}",
        starting - empty
    );
    let mut subscriber = Mqtt::open(gatepost.mqtt, "subscriber", true);
    assert_eq!(subscriber.subscribe("alive", 1).expect("a SUBACK"), 1);
    serves(&gatepost, &mut subscriber).expect("served after the start");
}

#[test]
fn half_sent_packets_delay_nobody_and_fit_in_the_budget() {
    // The bug: 60 of 15 MiB took 846 MiB with a budget of 64.
    let (gatepost, report) = start();
    let (_, budget) = budget();
    let mut subscriber = Mqtt::open(gatepost.mqtt, "subscriber", true);
    assert_eq!(subscriber.subscribe("alive", 1).expect("a SUBACK"), 1);
    const SIZE: usize = 3 << 20;
    let topic = b"\x00\x05large\x00\x01";
    let mut packet = vec![0x32];
    let mut length = SIZE + topic.len();
    while length >= 128 {
        packet.push((length % 128) as u8 | 0x80);
        length /= 128;
    }
    packet.push(length as u8);
    packet.extend(topic);
    packet.resize(packet.len() + SIZE, b'x');
    let mut halves: Vec<Mqtt> = (0..20)
        .map(|n| Mqtt::open(gatepost.mqtt, &format!("half-{n}"), true))
        .collect();
    for mqtt in &mut halves {
        // As much as the gateway accepts: it stops reading when there is no more memory.
        let stream = &mut mqtt.stream;
        stream.set_nonblocking(true).expect("non-blocking");
        let _ = stream.write(&packet[..SIZE / 4]);
    }
    eventually("memory for packets is used up", || {
        metric(&gatepost, "gatepost_buffers_held_back_total") > 0
    });
    serves(&gatepost, &mut subscriber).expect("served");
    let grown = peak(&gatepost) - report.empty;
    assert!(grown <= budget, "grew by {grown} of {budget}");
    println!(
        "{} packets of {SIZE} bytes half sent: grew by {} KiB, {} KiB of {} KiB in buffers",
        halves.len(),
        grown >> 10,
        metric(&gatepost, "gatepost_buffers_bytes") >> 10,
        metric(&gatepost, "gatepost_buffers_bytes_max") >> 10
    );
    // They disconnect, and large packets that are sent at once complete, one after the other.
    drop(halves);
    eventually("the memory is given back", || {
        metric(&gatepost, "gatepost_buffers_bytes") == 0
    });
    let large: Vec<_> = (0..6)
        .map(|n| {
            let (mqtt, packet) = (gatepost.mqtt, packet.clone());
            std::thread::spawn(move || {
                let mut mqtt = Mqtt::open(mqtt, &format!("large-{n}"), true);
                mqtt.stream.write_all(&packet).expect("written");
                mqtt.expect(0x40).expect("a PUBACK");
            })
        })
        .collect();
    for thread in large {
        thread.join().expect("all of them are taken");
    }
    serves(&gatepost, &mut subscriber).expect("served");
}

/// The bug: memory besides objects was not counted: unfinished small packets, deliveries in flight to sessions, counts
/// of returned messages. Ten thousand connections with 15 KiB each, or one packet id that is never acknowledged, went
/// far beyond the budget.
#[test]
fn small_buffers_and_deliveries_in_flight_fit_in_the_budget() {
    let (gatepost, report) = start();
    let (_, budget) = budget();
    let mut subscriber = Mqtt::open(gatepost.mqtt, "subscriber", true);
    assert_eq!(subscriber.subscribe("alive", 1).expect("a SUBACK"), 1);

    // A hundred times the pool for packets, in pieces that are too small to be counted one by one.
    let input_max = metric(&gatepost, "gatepost_buffers_bytes_max");
    let topic = b"\x00\x05small\x00\x01";
    let half: Vec<u8> = [&[0x32, 0xFF, 0x7F][..], topic, &[b'x'; 15_000]].concat();
    let crowd: Vec<Mqtt> = (0..200)
        .map(|n| {
            let mut mqtt = Mqtt::open(gatepost.mqtt, &format!("half-{n}"), true);
            // The rest never comes. If the connection is not read, as much is sent as fits into the socket.
            mqtt.stream.write_all(&half).expect("sent");
            mqtt
        })
        .collect();
    eventually("they are counted", || {
        metric(&gatepost, "gatepost_buffers_bytes") > input_max
    });
    serves(&gatepost, &mut subscriber).expect("served");
    let buffered = metric(&gatepost, "gatepost_buffers_bytes");
    // Each may have read one more small piece.
    assert!(buffered < input_max + 200 * (4 << 10), "{buffered} of {input_max}");
    drop(crowd);

    // A thousand deliveries that are not acknowledged, to each of some sessions.
    let before = used(&gatepost, "sessions");
    let mut sessions: Vec<Mqtt> = (0..4)
        .map(|n| {
            let mut mqtt = open_v5(gatepost.mqtt, &format!("busy-{n}"));
            let filter = [&[0, 1, 0, 0, 4][..], b"busy", &[1]].concat();
            mqtt.packet(0x82, &filter);
            mqtt.expect(0x90).expect("a SUBACK");
            mqtt
        })
        .collect();
    let mut publisher = Mqtt::open(gatepost.mqtt, "publisher", true);
    for n in 1..=1_000u16 {
        publisher.publish("busy", n, b"1");
    }
    for _ in 1..=1_000 {
        publisher.expect(0x40).expect("a PUBACK");
    }
    for session in &mut sessions {
        for _ in 0..1_000 {
            let packet = session.next().expect("a packet");
            assert_eq!(packet.byte & 0xF0, 0x30);
        }
    }
    let counted = used(&gatepost, "sessions") - before;
    assert!(counted > 4 * 1_000 * 40, "{counted}");

    // All messages of a quorum queue are returned, again and again.
    let mut amqp = Amqp::open(gatepost.amqp);
    let table = b"\x0cx-queue-typeS\x00\x00\x00\x06quorum\x10x-delivery-limitI\xFF\xFF\xFF\xFF";
    let args = Args::new().short(0).text("back").octet(2).bytes(table);
    amqp.call(1, (50, 10), args, (50, 11)).expect("declared");
    for _ in 0..5_000 {
        amqp.publish("", "back", true, b"1");
    }
    let before = used(&gatepost, "queues");
    amqp.depth("back").expect("published");
    let args = Args::new().short(0).text("back").text("c").octet(0).bytes(b"");
    amqp.call(1, (60, 20), args, (60, 21)).expect("consuming");
    for n in 1..=5_000u64 {
        match amqp.next().expect("a delivery") {
            Incoming::Deliver(delivery) => assert_eq!(delivery.tag, n),
            other => panic!("{other:?}"),
        }
    }
    // basic.nack with requeue for all of them.
    amqp.method(1, (60, 120), Args::new().longlong(5_000).octet(3));
    amqp.flush().expect("sent");
    eventually("counts of returns", || used(&gatepost, "queues") > before + 5_000 * 24);
    let (resident, empty) = (gatepost.resident(), report.empty);
    assert!(resident - empty <= budget, "grew by {} of {budget}", resident - empty);
    serves(&gatepost, &mut subscriber).expect("served");
}

/// STOMP has only ERROR, which ends the connection.
#[test]
fn stomp_is_refused_with_an_error() {
    let (gatepost, _) = start();
    let mut retains = open_v5(gatepost.mqtt, "retains");
    retain_until_refused(&mut retains);
    let mut amqp = Amqp::open(gatepost.amqp);
    let queue = |n: u64| Args::new().short(0).text(&format!("queue-{n}")).octet(2).bytes(b"");
    call_until_refused(&mut amqp, (50, 10), queue);
    let refused = (0..1_000).find_map(|n| {
        let mut stomp = Stomp::try_open(gatepost.stomp).ok()?;
        let destination = format!("/queue/stomp-{n}");
        stomp.frame(
            "SUBSCRIBE",
            &[("id", "1"), ("destination", &destination), ("receipt", "r")],
            b"",
        );
        let frame = stomp.next().expect("an answer");
        (frame.command == "ERROR").then_some(frame)
    });
    let refused = refused.expect("it is refused some time");
    assert!(refused.header("message").is_some());
    let text = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(text.contains("no memory left for queues"), "{text}");
}

/// Topics of the following test, with bodies of 64 KiB: four times the budget.
const BULK: u32 = 4 * 16 * 16;

fn bulk_body(n: u32) -> Vec<u8> {
    format!("{n:07}\n").repeat(8 << 10).into_bytes()
}

/// Checks that all retained messages come, each once and complete.
fn reads_bulk(gatepost: &Gatepost, client: &str) -> Mqtt {
    let mut mqtt = Mqtt::open(gatepost.mqtt, client, true);
    assert_eq!(mqtt.subscribe("bulk/+", 0).expect("a SUBACK"), 0);
    for n in 0..BULK {
        let publish = mqtt.next().expect("a packet").into_publish().expect("a PUBLISH");
        assert_eq!(publish.topic, format!("bulk/{n:04}"));
        assert!(publish.payload == bulk_body(n), "the body of {}", publish.topic);
    }
    mqtt.ping().expect("and nothing more");
    mqtt
}

/// The bug: retained messages stayed in memory for ever, whatever the budget.
#[test]
fn retained_messages_of_several_times_the_budget_are_served_from_the_log() {
    let budget: u64 = 16 << 20;
    let settings = format!("[memory]\nbudget = \"16MiB\"\n{HASHING}");
    let mut gatepost = Gatepost::with(1, &settings);
    let empty = gatepost.resident();
    let mut publisher = Mqtt::open(gatepost.mqtt, "publisher", true);
    for n in 0..BULK {
        let topic = format!("bulk/{n:04}");
        let mut body = (topic.len() as u16).to_be_bytes().to_vec();
        body.extend(topic.as_bytes());
        body.extend([0, 1]);
        body.extend(bulk_body(n));
        publisher.packet(0x33, &body);
        publisher.expect(0x40).expect("a PUBACK");
    }
    for restart in [false, true] {
        if restart {
            gatepost.kill();
            gatepost.start_again();
        }
        assert_eq!(
            metric(&gatepost, "gatepost_objects_refused_total{kind=\"retained\"}"),
            0
        );
        let mut first = reads_bulk(&gatepost, "first");
        reads_bulk(&gatepost, "second");
        let grown = gatepost.resident().saturating_sub(empty);
        // The allocator keeps some freed memory.
        assert!(
            grown <= budget / 2 * 3,
            "grew by {grown} of {budget}, with restart: {restart}"
        );
        let mut publisher = Mqtt::open(gatepost.mqtt, "publisher", true);
        publisher.publish("bulk/0007", 1, b"live");
        publisher.expect(0x40).expect("a PUBACK");
        let live = first.next().expect("a packet").into_publish().expect("a PUBLISH");
        assert_eq!((&*live.topic, &*live.payload), ("bulk/0007", b"live".as_slice()));
    }
}
