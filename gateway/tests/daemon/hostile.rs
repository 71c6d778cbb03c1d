//! Clients that are broken, hostile, or just slow. The offender gets its protocol's error or is disconnected;
//! well-behaved clients are not affected.

use crate::support::Gatepost;
use crate::support::amqp::{self, Amqp, Args, Incoming};
use crate::support::daemon::http;
use crate::support::mqtt::Mqtt;
use crate::support::raw::{eventually, read_to_end, tcp, try_tcp};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// A well-behaved pair: a device that publishes at QoS 1 and a backend that consumes, during the whole test.
struct Bystanders {
    done: Arc<AtomicBool>,
    round_trips: Arc<AtomicU32>,
    /// Returns the slowest round trip.
    pair: JoinHandle<Duration>,
}

/// Longer than anything takes on any machine, unless it is stuck.
const HANG: Duration = Duration::from_secs(60);

impl Bystanders {
    fn beside(gatepost: &Gatepost) -> Self {
        let (done, round_trips) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let mut backend = Amqp::open(gatepost.amqp);
        backend.declare_queue("bystander", true).expect("a queue");
        backend.bind("bystander", "amq.topic", "by.stander").expect("a binding");
        backend.consume("bystander", 10, false).expect("a consumer");
        let mut device = Mqtt::open(gatepost.mqtt, "bystander", true);
        let (until, counter) = (Arc::clone(&done), Arc::clone(&round_trips));
        let pair = thread::spawn(move || {
            let mut slowest = Duration::ZERO;
            while !until.load(Ordering::Relaxed) {
                let n = counter.load(Ordering::Relaxed);
                let began = Instant::now();
                device.publish("by/stander", 1, &n.to_be_bytes());
                device.expect(0x40).expect("a PUBACK for the bystander");
                let Incoming::Deliver(delivery) = backend.next().expect("a delivery for the bystander") else {
                    panic!("not a delivery");
                };
                assert_eq!(delivery.body, n.to_be_bytes());
                backend.ack(delivery.tag, false);
                slowest = slowest.max(began.elapsed());
                counter.store(n + 1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
            slowest
        });
        Bystanders {
            done,
            round_trips,
            pair,
        }
    }

    /// Ends the pair after a few more round trips, and checks that it never waited long.
    fn were_served(self) {
        let during = self.round_trips.load(Ordering::Relaxed);
        while self.round_trips.load(Ordering::Relaxed) < during + 20 && !self.pair.is_finished() {
            thread::sleep(Duration::from_millis(2));
        }
        self.done.store(true, Ordering::Relaxed);
        let slowest = self.pair.join().expect("the bystanders were served");
        println!("{during} round trips beside it, the slowest {slowest:?}");
        assert!(slowest < HANG, "a round trip beside it took {slowest:?}");
    }
}

#[test]
fn garbage_on_every_port_is_answered_and_closed() {
    let gatepost = Gatepost::start();
    let bystanders = Bystanders::beside(&gatepost);
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut noise = |length: usize| -> Vec<u8> {
        (0..length)
            .map(|_| {
                // xorshift64
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random as u8
            })
            .collect()
    };
    for port in [gatepost.amqp, gatepost.mqtt, gatepost.stomp, gatepost.metrics] {
        for length in [1, 8, 100, 5_000, 100_000] {
            let mut stream = tcp(port);
            // It may close before it has read everything.
            let _ = stream.write_all(&noise(length));
            let _ = stream.shutdown(Shutdown::Write);
            read_to_end(stream);
        }
        // All protocols on the wrong port, with a TLS hello among them.
        let others: [&[u8]; 5] = [
            b"GET / HTTP/1.1\r\n\r\n",
            b"AMQP\x00\x00\x09\x01",
            b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c",
            b"CONNECT\naccept-version:1.2\nhost:/\n\n\0",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ];
        for bytes in others {
            let mut stream = tcp(port);
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(Shutdown::Write);
            read_to_end(stream);
        }
    }
    let mut stream = tcp(gatepost.amqp);
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    assert_eq!(read_to_end(stream), amqp::HEADER, "the answer to what is not AMQP");
    bystanders.were_served();
}

#[test]
fn noise_after_a_good_handshake_is_answered_and_closed() {
    let gatepost = Gatepost::start();
    let bystanders = Bystanders::beside(&gatepost);
    for byte in [0x00, 0x2F, 0x41, 0xCE, 0xFF] {
        let noise = vec![byte; 4_000];
        let mut amqp = Amqp::open(gatepost.amqp);
        let _ = amqp.stream.write_all(&noise);
        match amqp.next() {
            Ok(Incoming::Method(10, 50, args)) => assert!((500..=599).contains(&amqp::close_reason(&args).0)),
            Ok(other) => panic!("{other:?}"),
            Err(_) => {}
        }
        let mut mqtt = Mqtt::open(gatepost.mqtt, "noisy", true);
        let _ = mqtt.stream.write_all(&noise);
        let _ = mqtt.stream.shutdown(Shutdown::Write);
        read_to_end(mqtt.stream);
    }
    bystanders.were_served();
}

#[test]
fn half_open_and_slow_handshakes_are_given_up_after_their_time() {
    let gatepost = Gatepost::with(2, "[limits]\nhandshake_timeout = \"1s\"\n");
    let bystanders = Bystanders::beside(&gatepost);
    let ports = [gatepost.amqp, gatepost.mqtt, gatepost.stomp];
    let silent: Vec<TcpStream> = (0..300).map(|n| tcp(ports[n % 3])).collect();
    let half: Vec<TcpStream> = ports
        .iter()
        .zip([&b"AMQP"[..], b"\x10\x20\x00\x04MQ", b"CONNECT\naccept-version:1."])
        .map(|(&port, start)| {
            let mut stream = tcp(port);
            stream.write_all(start).expect("sent");
            stream
        })
        .collect();
    // One byte from time to time does not extend the handshake.
    let dribble: Vec<_> = ports
        .into_iter()
        .map(|port| {
            thread::spawn(move || {
                let mut stream = tcp(port);
                let began = Instant::now();
                while stream.write_all(b"C").is_ok() && began.elapsed() < HANG {
                    thread::sleep(Duration::from_millis(100));
                }
                began.elapsed()
            })
        })
        .collect();
    for stream in silent.into_iter().chain(half) {
        read_to_end(stream);
    }
    for thread in dribble {
        let lasted = thread.join().expect("the dribble");
        assert!(lasted < HANG, "a dribble lasted {lasted:?}");
    }
    bystanders.were_served();
}

#[test]
fn wrong_passwords_in_a_row_do_not_affect_others() {
    let gatepost = Gatepost::start();
    let bystanders = Bystanders::beside(&gatepost);
    let mqtt = b"\x10\x1b\x00\x04MQTT\x04\xc2\x00\x00\x00\x01c\x00\x05guest\x00\x05wrong";
    let stomp = b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:wrong\n\n\0";
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let mut stream = tcp(gatepost.mqtt);
                    stream.write_all(mqtt).expect("sent");
                    let answer = read_to_end(stream);
                    assert!(matches!(answer[..], [0x20, 2, 0, 4 | 5]), "{answer:?}");
                    let mut stream = tcp(gatepost.stomp);
                    stream.write_all(stomp).expect("sent");
                    let answer = String::from_utf8_lossy(&read_to_end(stream)).into_owned();
                    assert!(answer.contains("message:Bad CONNECT"), "{answer}");
                }
            });
        }
    });
    bystanders.were_served();
}

/// A daemon whose memory is full long before a flood is over, however fast the log is. The budget limits the memory,
/// and publishers wait for the log.
fn with_little_memory() -> Gatepost {
    Gatepost::with(2, "[memory]\nbudget = \"48MiB\"\n")
}

/// Publishes a hundred thousand messages of a kilobyte for a client that has stopped reading.
fn past_a_stopped_reader(gatepost: &Gatepost, stopped: &TcpStream) {
    const COUNT: u32 = 100_000;
    let bystanders = Bystanders::beside(gatepost);
    let before = gatepost.resident();
    let mut publisher = Mqtt::open(gatepost.mqtt, "publisher", true);
    let mut highest = before;
    let body = [b'x'; 1024];
    for n in 0..COUNT {
        publisher.publish("flood/x", 0, &body);
        if n % 1_000 == 999 {
            publisher.ping().expect("the publisher is served");
            highest = highest.max(gatepost.resident());
        }
    }
    println!("{} MiB before, {} MiB at most", before / MIB, highest / MIB);
    assert!(
        highest - before < 80 * MIB,
        "it grew from {} to {} MiB",
        before / MIB,
        highest / MIB
    );
    let _ = stopped.shutdown(Shutdown::Both);
    bystanders.were_served();
}

#[test]
fn a_subscriber_that_stops_reading_costs_bounded_memory() {
    let gatepost = with_little_memory();
    let mut stopped = Mqtt::open(gatepost.mqtt, "stopped", true);
    stopped.subscribe("flood/#", 0).expect("a subscription");
    past_a_stopped_reader(&gatepost, &stopped.stream);
}

#[test]
fn a_consumer_that_stops_reading_costs_bounded_memory() {
    let gatepost = with_little_memory();
    let mut stopped = Amqp::open(gatepost.amqp);
    stopped.declare_queue("flood", true).expect("a queue");
    stopped.bind("flood", "amq.topic", "flood.#").expect("a binding");
    stopped.consume("flood", 0, true).expect("a consumer");
    past_a_stopped_reader(&gatepost, &stopped.stream);
}

#[test]
fn a_page_that_stops_reading_costs_bounded_memory() {
    let gatepost = with_little_memory();
    let mut stopped = tcp(gatepost.stomp);
    let connect = b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0";
    let subscribe = b"SUBSCRIBE\nid:1\ndestination:/topic/flood.#\nreceipt:r\n\n\0";
    stopped.write_all(&[&connect[..], subscribe].concat()).expect("sent");
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("RECEIPT") {
        let mut some = [0; 1024];
        let n = stopped.read(&mut some).expect("an answer");
        assert!(n > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend(&some[..n]);
    }
    past_a_stopped_reader(&gatepost, &stopped);
}

#[test]
fn a_slow_reader_gets_everything_in_order() {
    const COUNT: u32 = 20_000;
    let gatepost = Gatepost::with(3, "");
    let mut slow = Amqp::open(gatepost.amqp);
    slow.declare_queue("slow", true).expect("a queue");
    slow.consume("slow", 0, true).expect("a consumer");
    let mut publisher = Amqp::open(gatepost.amqp);
    publisher.confirm_select().expect("confirms");
    let mut body = [b'x'; 512];
    let mut confirmed = 0;
    for n in 0..COUNT {
        body[..4].copy_from_slice(&n.to_be_bytes());
        publisher.publish("", "slow", n % 2 == 0, &body);
        if n % 1_000 == 999 {
            while confirmed <= u64::from(n) {
                match publisher.next().expect("a confirm") {
                    Incoming::Ack { tag, .. } => confirmed = confirmed.max(tag),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    for n in 0..COUNT {
        if n % 2_000 == 0 {
            thread::sleep(Duration::from_millis(50));
        }
        let Incoming::Deliver(delivery) = slow.next().expect("a delivery") else {
            panic!("not a delivery")
        };
        assert_eq!(delivery.body[..4], n.to_be_bytes());
    }
}

#[test]
fn ten_thousand_channels_are_refused_at_the_limit() {
    let gatepost = Gatepost::start();
    let bystanders = Bystanders::beside(&gatepost);
    let mut greedy = Amqp::logged_in(gatepost.amqp).expect("a connection");
    for n in 1..=10_000 {
        greedy.method(n, (20, 10), Args::new().text(""));
    }
    let mut opened = 0;
    let reason = loop {
        match greedy.next().expect("an answer") {
            Incoming::Method(20, 11, _) => opened += 1,
            Incoming::Method(10, 50, args) => break amqp::close_reason(&args),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((opened, reason.0), (2047, 530), "{}", reason.1);
    assert!(reason.1.contains("channel_max (2047)"), "{}", reason.1);
    bystanders.were_served();
}

#[test]
fn ten_thousand_subscriptions_of_one_client_are_served() {
    let gatepost = Gatepost::start();
    let bystanders = Bystanders::beside(&gatepost);
    let mut greedy = Mqtt::open(gatepost.mqtt, "greedy", true);
    for n in 0..10_000_u32 {
        let filter = match n % 3 {
            0 => format!("many/{n}"),
            1 => format!("many/+/{n}"),
            _ => format!("many/{n}/#"),
        };
        assert_eq!(greedy.subscribe(&filter, 0).expect("a SUBACK"), 0);
    }
    let mut sender = Mqtt::open(gatepost.mqtt, "sender", true);
    for topic in ["many/9999", "many/x/9997", "many/9998/a/b"] {
        sender.publish(topic, 1, b"x");
        sender.expect(0x40).expect("a PUBACK");
        assert_eq!(
            greedy
                .next()
                .expect("a packet")
                .into_publish()
                .expect("a PUBLISH")
                .topic,
            topic
        );
    }
    bystanders.were_served();
}

/// What `gatepost-bench hostile` measures as p99, counted here as the work of one hold of the lock. The bug: one
/// message delayed everybody for seconds.
#[test]
fn filters_and_bindings_that_all_match_do_not_lengthen_a_hold() {
    const LEVELS: usize = 11;
    const BINDINGS: u32 = 100;
    const KEYS: u32 = 200;
    let gatepost = Gatepost::start();
    let bystanders = Bystanders::beside(&gatepost);
    // Every combination of `a` and `+`.
    let mut wide = Mqtt::open(gatepost.mqtt, "wide", true);
    for first in (0..1 << LEVELS).step_by(256) {
        let mut filters = vec![0, 1];
        for bits in first..first + 256 {
            let levels = (0..LEVELS).map(|level| if bits >> level & 1 == 1 { "+/" } else { "a/" });
            let filter = levels.collect::<String>() + "#";
            filters.extend((filter.len() as u16).to_be_bytes());
            filters.extend(filter.as_bytes());
            filters.push(0);
        }
        wide.packet(0x82, &filters);
        wide.expect(0x90).expect("a SUBACK");
    }
    let headers = |count: u32| {
        (0..count).fold(Vec::new(), |mut table, n| {
            let name = format!("k{n}");
            table.push(name.len() as u8);
            table.extend(name.as_bytes());
            table.push(b'I');
            table.extend(n.to_be_bytes());
            table
        })
    };
    let mut binder = Amqp::open(gatepost.amqp);
    binder.declare_queue("headers", false).expect("a queue");
    for n in 0..BINDINGS {
        let table = [headers(KEYS), b"\x07x-matchS\0\0\0\x03any".to_vec()].concat();
        let args = Args::new()
            .short(0)
            .text("headers")
            .text("amq.headers")
            .text(&n.to_string());
        binder
            .call(1, (50, 20), args.octet(0).bytes(&table), (50, 21))
            .expect("a binding");
    }
    binder.confirm_select().expect("confirms");
    let mut sender = Mqtt::open(gatepost.mqtt, "wide sender", true);
    let table = headers(900);
    let mut head = [&[0, 60, 0, 0][..], &0_u64.to_be_bytes(), &[0x20, 0]].concat();
    head.extend((table.len() as u32).to_be_bytes());
    head.extend(table);
    for n in 0..20_u16 {
        sender.publish(&format!("{}{n}", "a/".repeat(LEVELS)), n + 1, b"x");
        let args = Args::new().short(0).text("amq.headers").text("").octet(0);
        binder.method(1, (60, 40), args);
        binder.frame(2, 1, &head);
    }
    for _ in 0..20 {
        sender.expect(0x40).expect("a PUBACK");
        assert!(wide.next().expect("a packet").into_publish().is_some());
    }
    let mut confirmed = 0;
    while confirmed < 20 {
        match binder.next().expect("a confirm") {
            Incoming::Ack { tag, .. } => confirmed = confirmed.max(tag),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(binder.depth("headers").expect("the depth"), 20);
    bystanders.were_served();
    let units = metric(&gatepost, "gatepost_longest_hold_units");
    assert!((256..4_096).contains(&units), "{units} work units in one hold");
}

fn metric(gatepost: &Gatepost, name: &str) -> u64 {
    let text = http(gatepost.metrics, "/metrics").expect("metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.expect("the metric").trim().parse().expect("a number")
}

#[test]
fn tables_too_big_or_too_deep_end_their_connection_and_nothing_else() {
    let gatepost = Gatepost::start();
    let bystanders = Bystanders::beside(&gatepost);
    let declare = |table: &[u8]| {
        let mut amqp = Amqp::open(gatepost.amqp);
        amqp.method(1, (50, 10), Args::new().short(0).text("q").octet(8).bytes(table));
        // It may close before it has read everything.
        match amqp.next() {
            Ok(Incoming::Method(50, 11, _)) => None,
            Ok(Incoming::Method(10, 50, args)) => Some(amqp::close_reason(&args)),
            Ok(other) => panic!("{other:?}"),
            Err(_) => Some((501, String::new())),
        }
    };
    // A mebibyte in one frame exceeds the frame limit.
    let (code, _) = declare(&vec![0; 1 << 20]).expect("refused");
    assert_eq!(code, 501);
    // A length of four gigabytes.
    assert_eq!(declare(b"\x01kS\xff\xff\xff\xff").expect("refused").0, 501);
    // Ten thousand nested tables in less than a frame: refused, without deep recursion.
    let mut nested = Vec::new();
    for _ in 0..10_000 {
        let length = u32::try_from(nested.len()).expect("a length").to_be_bytes();
        nested = [b"\x01kF".as_slice(), &length, &nested].concat();
    }
    assert!(nested.len() < 131_000);
    assert_eq!(declare(&nested).expect("refused").0, 501);
    // A hundred thousand void entries delay nobody.
    let void: Vec<u8> = b"\x01kV".repeat(40_000);
    declare(&void);
    bystanders.were_served();
}

#[test]
fn a_flood_of_connections_does_not_lock_others_out() {
    let gatepost = Gatepost::with(2, "[limits]\nmax_connections = 100\n");
    let bystanders = Bystanders::beside(&gatepost);
    let ports = [gatepost.amqp, gatepost.mqtt, gatepost.stomp];
    for n in 0..3_000 {
        drop(try_tcp(ports[n % 3]));
    }
    // Connections that do not log in are closed for one that does.
    let crowd: Vec<_> = (0..300).map(|_| try_tcp(gatepost.mqtt)).collect();
    eventually("a connection past the crowd", || {
        Mqtt::try_open(gatepost.mqtt, "in a hurry", true).is_ok()
    });
    drop(crowd);
    // Over the limit, connections are refused, and accepted again when there is room.
    let mut crowd = Vec::new();
    while let Ok(client) = Mqtt::try_open(gatepost.mqtt, &format!("crowd {}", crowd.len()), true) {
        crowd.push(client);
        assert!(crowd.len() < 100, "the limit holds");
    }
    drop(crowd);
    eventually("a connection after the crowd has left", || {
        Mqtt::try_open(gatepost.mqtt, "patient", true).is_ok()
    });
    bystanders.were_served();
}

#[test]
fn ten_thousand_queues_declared_in_one_go_are_all_there_or_refused_by_name() {
    let gatepost = Gatepost::start();
    let mut greedy = Amqp::open(gatepost.amqp);
    let mut declared = 0;
    for n in 0..10_050 {
        let args = Args::new().short(0).text(&format!("q{n}")).octet(2).bytes(b"");
        greedy.method(1, (50, 10), args);
    }
    let refused = loop {
        match greedy.next().expect("an answer") {
            Incoming::Method(50, 11, _) => declared += 1,
            Incoming::Method(20, 40, args) => break amqp::close_reason(&args),
            other => panic!("{other:?}"),
        }
    };
    // limits.max_queues is 10,000.
    assert_eq!((declared, refused.0), (10_000, 406), "{}", refused.1);
}
