//! Errors that only several I/O threads can make. Further threads help while turns queue; the queue of turns has tests
//! of its own in `gateway/src/threads/tests.rs`.

use crate::support::Gatepost;
use crate::support::amqp::{Amqp, Args, Incoming};
use crate::support::daemon::http;
use crate::support::mqtt::Mqtt;
use crate::support::raw::{eventually, tcp};
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

#[test]
fn each_of_many_publishers_keeps_its_order_to_each_of_many_consumers() {
    const EACH: u32 = 3_000;
    let gatepost = Gatepost::with(3, "");
    let (amqp, mqtt) = (gatepost.amqp, gatepost.mqtt);
    let mut consumers: Vec<Amqp> = (0..3)
        .map(|n| {
            let mut consumer = Amqp::open(amqp);
            let queue = format!("q{n}");
            consumer.declare_queue(&queue, true).expect("a queue");
            consumer.bind(&queue, "amq.topic", "plant.#").expect("a binding");
            consumer.consume(&queue, 0, true).expect("a consumer");
            consumer
        })
        .collect();
    let mut subscribers: Vec<Mqtt> = (0..3)
        .map(|n| {
            let mut subscriber = Mqtt::open(mqtt, &format!("subscriber-{n}"), true);
            subscriber.subscribe("plant/#", 0).expect("a subscription");
            subscriber
        })
        .collect();
    thread::scope(|scope| {
        for publisher in 0..3_u32 {
            scope.spawn(move || {
                let mut mqtt = Mqtt::open(mqtt, &format!("publisher-{publisher}"), true);
                for n in 0..EACH {
                    mqtt.publish(
                        &format!("plant/{publisher}"),
                        1 + (n % 60_000) as u16,
                        &body(publisher, n),
                    );
                    // In groups of a hundred: the receive maximum is a thousand.
                    if n % 100 == 99 {
                        (0..100).for_each(|_| drop(mqtt.expect(0x40).expect("a PUBACK")));
                    }
                }
            });
        }
        for consumer in &mut consumers {
            scope.spawn(move || {
                in_order(EACH, || match consumer.next().expect("a delivery") {
                    Incoming::Deliver(delivery) => delivery.body,
                    other => panic!("{other:?}"),
                });
            });
        }
        for subscriber in &mut subscribers {
            scope.spawn(move || {
                in_order(EACH, || {
                    subscriber
                        .next()
                        .expect("a packet")
                        .into_publish()
                        .expect("a PUBLISH")
                        .payload
                });
            });
        }
    });

    fn body(publisher: u32, n: u32) -> Vec<u8> {
        [publisher.to_be_bytes(), n.to_be_bytes()].concat()
    }

    fn in_order(each: u32, mut next: impl FnMut() -> Vec<u8>) {
        let mut expected = [0_u32; 3];
        while expected.iter().any(|&n| n < each) {
            let body = next();
            let publisher = body[3] as usize;
            let n = u32::from_be_bytes(body[4..8].try_into().expect("four bytes"));
            assert_eq!(n, expected[publisher], "of publisher {publisher}");
            expected[publisher] += 1;
        }
    }
}

#[test]
fn a_session_taken_over_again_and_again_ends_with_one_owner_and_all_its_messages() {
    const MESSAGES: u16 = 300;
    let gatepost = Gatepost::with(3, "");
    let port = gatepost.mqtt;
    Mqtt::open(port, "device", false)
        .subscribe("to/device", 1)
        .expect("a subscription");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // Another client may take it over before its CONNACK, or at any time after.
                    if let Ok(mut device) = Mqtt::try_open(port, "device", false) {
                        assert!(device.present, "the session is never forgotten");
                        let _ = device.ping();
                    }
                }
            });
        }
        let mut sender = Mqtt::open(port, "sender", true);
        for n in 1..=MESSAGES {
            sender.publish("to/device", n, &n.to_be_bytes());
            sender.expect(0x40).expect("a PUBACK");
        }
        done.store(true, Ordering::Relaxed);
    });
    let mut device = Mqtt::open(port, "device", false);
    let mut expected = 1;
    while expected <= MESSAGES {
        let publish = device.next().expect("a packet").into_publish().expect("a PUBLISH");
        device.ack(publish.id);
        assert_eq!(
            publish.payload,
            expected.to_be_bytes(),
            "in order, none missing, none twice"
        );
        expected += 1;
    }
    device.ping().expect("nothing else");
}

#[test]
fn deleting_a_queue_under_its_publisher_and_consumer_hangs_nobody() {
    let gatepost = Gatepost::with(3, "");
    let port = gatepost.amqp;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut publisher = Amqp::open(port);
            publisher.confirm_select().expect("confirms");
            let (mut sent, mut confirmed) = (0, 0);
            while !done.load(Ordering::Relaxed) || confirmed < sent {
                if !done.load(Ordering::Relaxed) {
                    for _ in 0..10 {
                        publisher.publish("", "q", sent % 2 == 0, b"x");
                        sent += 1;
                    }
                }
                while confirmed < sent {
                    match publisher.next().expect("a confirm") {
                        Incoming::Ack { tag, .. } => confirmed = confirmed.max(tag),
                        other => panic!("{other:?}"),
                    }
                }
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let mut consumer = Amqp::open(port);
                // The queue may not exist, or be deleted at any time: then 404 or a cancel must come, but never
                // silence.
                if consumer.consume("q", 10, false).is_ok() {
                    while !matches!(consumer.next(), Ok(Incoming::Method(60, 30, _)) | Err(_)) {}
                }
            }
        });
        let mut owner = Amqp::open(port);
        for _ in 0..300 {
            owner.declare_queue("q", true).expect("declared");
            owner.depth("q").expect("there");
            owner.delete_queue("q").expect("deleted");
        }
        done.store(true, Ordering::Relaxed);
        // Releases a consumer that waits for a cancel of the last queue.
        owner.declare_queue("q", true).expect("declared");
        owner.delete_queue("q").expect("deleted");
    });
}

#[test]
fn an_exclusive_queue_is_gone_for_other_threads_when_its_connection_is() {
    let gatepost = Gatepost::with(3, "");
    let mut other = Amqp::open(gatepost.amqp);
    for n in 0..50 {
        let name = format!("mine-{n}");
        let mut owner = Amqp::open(gatepost.amqp);
        let exclusive = Args::new().short(0).text(&name).octet(4).bytes(b"");
        owner.call(1, (50, 10), exclusive, (50, 11)).expect("declared");
        owner
            .call(0, (10, 50), Args::new().short(200).text("bye").long(0), (10, 51))
            .expect("closed");
        // Any connection may use the name: not locked, and with other properties.
        other.declare_queue(&name, true).expect("declared by another");
        other.delete_queue(&name).expect("deleted");
    }
}

/// Forty connections have work at once, more than one thread handles in a round.
#[test]
fn a_helping_thread_keeps_the_order_and_loses_nothing() {
    const CLIENTS: usize = 40;
    const MESSAGES: u32 = 4_000;
    let gatepost = Gatepost::with(2, "");
    let mut clients: Vec<Mqtt> = (0..CLIENTS)
        .map(|n| {
            let mut client = Mqtt::open(gatepost.mqtt, &format!("client-{n}"), true);
            client.subscribe(&format!("to/{n}"), 0).expect("a subscription");
            client
        })
        .collect();
    // The second thread helps from the second long round on, so one attempt may not be enough.
    for round in 0..100 {
        // Stopped, so that all of it is there when the process continues.
        gatepost.signal("STOP");
        for (n, client) in clients.iter_mut().enumerate() {
            // In a circle, so that each wakes another one.
            let topic = format!("to/{}", (n + 1) % CLIENTS);
            (0..MESSAGES).for_each(|number| client.publish(&topic, 0, &number.to_be_bytes()));
            client.flush().expect("sent");
        }
        gatepost.signal("CONT");
        for client in &mut clients {
            for number in 0..MESSAGES {
                let publish = client.next().expect("a packet").into_publish().expect("a PUBLISH");
                assert_eq!(publish.payload, number.to_be_bytes());
            }
        }
        if turns_of_the_second_thread(&gatepost) > 0 {
            return;
        }
        println!("round {round} was carried by one thread");
    }
    panic!("nobody helped");
}

fn turns_of_the_second_thread(gatepost: &Gatepost) -> u64 {
    let text = http(gatepost.metrics, "/metrics").expect("metrics");
    let turns = text
        .lines()
        .find_map(|line| line.strip_prefix("gatepost_io_turns_total{thread=\"1\"} "));
    turns.and_then(|n| n.parse().ok()).expect("the second thread's turns")
}

/// Connections come in crowds: after a power cut all devices of a plant reconnect within a second, and some give up
/// half-way. Clients at work must lose nothing and keep their order, and the abandoned connections must leave nothing
/// behind.
#[test]
fn storms_of_connects_and_handshakes_cost_no_message() {
    const CROWD: usize = 300;
    let gatepost = Gatepost::with(2, "");
    let (amqp, mqtt) = (gatepost.amqp, gatepost.mqtt);
    let mut subscriber = Mqtt::open(mqtt, "subscriber", true);
    subscriber.subscribe("work", 1).expect("a subscription");
    let over = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut publisher = Mqtt::open(mqtt, "publisher", true);
            let mut sent = 0u32;
            while !over.load(Ordering::Relaxed) {
                publisher.publish("work", 1, &sent.to_be_bytes());
                assert_eq!(publisher.expect(0x40).expect("a PUBACK"), [0, 1]);
                sent += 1;
            }
            sent
        });
        for round in 0..3 {
            // Connections that send nothing, a byte, half a CONNECT, and a whole one whose answer is not awaited.
            let half: Vec<TcpStream> = (0..CROWD)
                .map(|n| {
                    let mut stream = tcp(if n % 2 == 0 { mqtt } else { amqp });
                    let bytes: &[u8] = match n % 8 {
                        0 | 1 => b"",
                        2 => b"\x10",
                        3 => b"AMQP",
                        4 => b"\x10\x0d\x00\x04MQTT\x04",
                        5 => b"AMQP\x00\x00\x09\x01",
                        6 => b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01x",
                        _ => b"AMQP\x00\x00\x09\x01\x01\x00\x00\x00",
                    };
                    stream.write_all(bytes).expect("sent");
                    stream
                })
                .collect();
            let crowd: Vec<_> = (0..4)
                .map(|part| {
                    scope.spawn(move || {
                        for n in 0..CROWD / 4 {
                            if n % 2 == 0 {
                                drop(Mqtt::open(mqtt, &format!("crowd-{round}-{part}-{n}"), true));
                            } else {
                                drop(Amqp::open(amqp));
                            }
                        }
                    })
                })
                .collect();
            for part in crowd {
                part.join().expect("all of them get in");
            }
            drop(half);
        }
        over.store(true, Ordering::Relaxed);
        publisher.join().expect("it is served")
    });
    for number in 0..sent {
        let publish = subscriber.next().expect("a packet").into_publish().expect("a PUBLISH");
        assert_eq!(publish.payload, number.to_be_bytes());
        subscriber.ack(publish.id);
    }
    subscriber.ping().expect("no more than that");
    eventually("all of the crowd is gone", || {
        let metrics = http(gatepost.metrics, "/metrics").unwrap_or_default();
        let open = |line: &&str| {
            line.starts_with("gatepost_connections{") || line.starts_with("gatepost_connections_attached{")
        };
        let sum: u32 = metrics
            .lines()
            .filter(open)
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok())
            .sum();
        // The subscriber, counted by the listener and by the vhost.
        sum == 2
    });
}
