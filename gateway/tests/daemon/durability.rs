//! `kill -9`: what was promised is there when the daemon comes back. The clients here keep the book of what they were
//! promised, and nothing else counts.

use crate::support::amqp::{Amqp, Incoming};
use crate::support::mqtt::Mqtt;
use crate::support::{Gatepost, python};
use std::collections::BTreeSet;
use std::io::Result;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[test]
fn a_hundred_thousand_confirmed_messages_outlive_kill_nine() {
    const COUNT: u64 = 100_000;
    let mut gatepost = Gatepost::start();
    let (amqp, mqtt) = (gatepost.amqp, gatepost.mqtt);
    Amqp::open(amqp).declare_queue("work", true).expect("a queue");
    Mqtt::open(mqtt, "device", false)
        .subscribe("work/#", 1)
        .expect("a subscription");

    let (of_queue, of_session) = std::thread::scope(|scope| {
        let queue = scope.spawn(|| {
            publish_and_wait_for_confirms(amqp, "work", COUNT).expect("all confirmed");
            consume_and_ack(amqp, "work", COUNT / 2, COUNT / 2 - 100).expect("half of it")
        });
        let session = scope.spawn(|| {
            publish_and_wait_for_pubacks(mqtt, "work/x", COUNT).expect("all acknowledged");
            receive_and_ack(mqtt, "device", COUNT / 2, COUNT / 2 - 10).expect("half of it")
        });
        (
            queue.join().expect("the AMQP side"),
            session.join().expect("the MQTT side"),
        )
    });
    gatepost.kill();
    gatepost.start_again();
    println!("ready again {:?} after the spawn", gatepost.ready_after);

    let mut consumer = Amqp::open(amqp);
    consumer.consume("work", 0, true).expect("a consumer");
    let mut expected = of_queue.acked;
    while expected < COUNT {
        let Incoming::Deliver(delivery) = consumer.next().expect("a delivery") else {
            continue;
        };
        let n = number(&delivery.body);
        // An acknowledgement may be lost with the process; its message then comes again, in its place.
        if n < of_queue.acked {
            assert!(delivery.redelivered, "{n} was acknowledged and comes again unmarked");
            continue;
        }
        assert_eq!(n, expected, "in order, none missing");
        assert!(
            n >= of_queue.handed_out || delivery.redelivered,
            "{n} was handed out before and is not marked"
        );
        expected += 1;
    }

    let mut device = Mqtt::open(mqtt, "device", false);
    assert!(device.present, "the session is there");
    let mut expected = of_session.acked;
    while expected < COUNT {
        let publish = device.next().expect("a packet").into_publish().expect("a PUBLISH");
        let n = number(&publish.payload);
        device.ack(publish.id);
        if n < of_session.acked {
            continue;
        }
        assert_eq!(n, expected, "in order, none missing");
        expected += 1;
    }
}

/// How far a consumer came, as numbers that follow the last one.
struct Progress {
    handed_out: u64,
    acked: u64,
}

fn publish_and_wait_for_confirms(port: u16, queue: &str, count: u64) -> Result<()> {
    let mut amqp = Amqp::open(port);
    amqp.confirm_select()?;
    let mut confirmed = BTreeSet::new();
    let mut covered = 0;
    for n in 0..count {
        amqp.publish("", queue, true, &body(n));
        // A window keeps both directions going.
        while n + 1 - covered > 4_000 {
            covered = confirm(&mut amqp, &mut confirmed, covered)?;
        }
    }
    while covered < count {
        covered = confirm(&mut amqp, &mut confirmed, covered)?;
    }
    Ok(())
}

/// Reads one confirm, and returns up to which publish all are confirmed now.
fn confirm(amqp: &mut Amqp, beyond: &mut BTreeSet<u64>, mut covered: u64) -> Result<u64> {
    match amqp.next()? {
        Incoming::Ack { tag, multiple: true } => covered = covered.max(tag),
        Incoming::Ack { tag, multiple: false } => _ = beyond.insert(tag),
        other => panic!("expected a confirm and got {other:?}"),
    }
    while beyond.first().is_some_and(|&tag| tag <= covered + 1) {
        covered = covered.max(beyond.pop_first().expect("just seen"));
    }
    Ok(covered)
}

fn consume_and_ack(port: u16, queue: &str, handed_out: u64, acked: u64) -> Result<Progress> {
    let mut amqp = Amqp::open(port);
    // So that exactly this many are handed out: the window closes behind them.
    let window = u16::try_from(handed_out - acked).expect("a window");
    amqp.consume(queue, window, false)?;
    for n in 0..handed_out {
        let Incoming::Deliver(delivery) = amqp.next()? else {
            panic!("not a delivery")
        };
        assert_eq!((number(&delivery.body), delivery.redelivered), (n, false));
        if n < acked && (n % 50 == 49 || n + 1 == acked) {
            amqp.ack(delivery.tag, true);
        }
    }
    // An answer after the last acknowledgement says that it has arrived.
    amqp.depth(queue)?;
    Ok(Progress { handed_out, acked })
}

fn publish_and_wait_for_pubacks(port: u16, topic: &str, count: u64) -> Result<()> {
    let mut mqtt = Mqtt::open(port, "sensor", true);
    let (mut sent, mut acked) = (0, 0);
    while acked < count {
        while sent < count && sent - acked < 500 {
            mqtt.publish(topic, packet_id(sent), &body(sent));
            sent += 1;
        }
        assert_eq!(
            mqtt.expect(0x40)?,
            packet_id(acked).to_be_bytes(),
            "PUBACKs come in order"
        );
        acked += 1;
    }
    Ok(())
}

fn receive_and_ack(port: u16, client_id: &str, handed_out: u64, acked: u64) -> Result<Progress> {
    let mut device = Mqtt::open(port, client_id, false);
    assert!(device.present);
    for n in 0..handed_out {
        let publish = device.next()?.into_publish().expect("a PUBLISH");
        assert_eq!((number(&publish.payload), publish.dup), (n, false));
        if n < acked {
            device.ack(publish.id);
        }
    }
    device.flush()?;
    Ok(Progress { handed_out, acked })
}

#[test]
fn twenty_kills_under_load_lose_nothing_that_was_promised() {
    const ROUNDS: u64 = 20;
    let mut gatepost = Gatepost::with(2, "");
    let (amqp, mqtt) = (gatepost.amqp, gatepost.mqtt);
    Amqp::open(amqp).declare_queue("work", true).expect("a queue");
    Mqtt::open(mqtt, "device", false)
        .subscribe("work/#", 1)
        .expect("a subscription");
    let book = Book::default();
    let began = Instant::now();
    for round in 0..ROUNDS {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| book.publish_by_amqp(amqp));
            scope.spawn(|| book.publish_by_mqtt(mqtt));
            scope.spawn(|| book.consume_by_amqp(amqp, &stop));
            scope.spawn(|| book.receive_by_mqtt(mqtt, &stop));
            scope.spawn(|| book.declare(amqp, mqtt, round));
            // From the first moments to well into it; a different point each time.
            std::thread::sleep(Duration::from_millis(60 + (round * 67) % 400));
            gatepost.kill();
            stop.store(true, Ordering::Relaxed);
        });
        gatepost.start_again();
        book.check_definitions(amqp, mqtt);
        assert!(
            began.elapsed() < Duration::from_secs(100),
            "{round} rounds took {:?}",
            began.elapsed()
        );
    }
    book.check_that_the_rest_arrives(amqp, mqtt);
    println!("{ROUNDS} rounds in {:?}: {}", began.elapsed(), book.summary());
}

/// What the daemon promised, by the number in the body.
#[derive(Default)]
struct Book {
    queue: Ledger,
    session: Ledger,
    /// Durable queues whose declare-ok and bind-ok came.
    queues: Mutex<Vec<String>>,
    /// Kept sessions whose SUBACK came.
    sessions: Mutex<Vec<String>>,
}

/// One durable destination.
#[derive(Default)]
struct Ledger {
    /// The next number to publish. One that was not confirmed in its round is not published again: it may be there.
    next: AtomicU64,
    confirmed: Mutex<BTreeSet<u64>>,
    /// Received by a consumer, in whichever round.
    seen: Mutex<BTreeSet<u64>>,
}

impl Ledger {
    fn confirm(&self, numbers: impl IntoIterator<Item = u64>) {
        self.confirmed.lock().expect("the book").extend(numbers);
    }

    /// Notes a delivery, and checks what one round must keep: numbers only go up, and what came before is marked.
    fn receive(&self, n: u64, last: &mut Option<u64>, marked: Option<bool>) {
        assert!(last.is_none_or(|last| last < n), "{n} after {last:?}: out of order");
        *last = Some(n);
        let new = self.seen.lock().expect("the book").insert(n);
        assert!(
            new || marked.unwrap_or(true),
            "{n} was handed out before and is not marked"
        );
    }

    /// Confirmed numbers that nobody received.
    fn missing(&self) -> Vec<u64> {
        let seen = self.seen.lock().expect("the book");
        self.confirmed
            .lock()
            .expect("the book")
            .difference(&seen)
            .copied()
            .collect()
    }
}

// Each of these runs until the connection breaks, because the process is gone. What breaks before that is found by the
// checks: it would leave nothing to check.
impl Book {
    fn publish_by_amqp(&self, port: u16) {
        let publish = || -> Result<()> {
            let mut amqp = Amqp::try_open(port)?;
            amqp.confirm_select()?;
            let first = self.queue.next.load(Ordering::Relaxed);
            let mut beyond = BTreeSet::new();
            let mut covered = 0;
            for sent in 0.. {
                let n = first + sent;
                self.queue.next.store(n + 1, Ordering::Relaxed);
                amqp.publish("", "work", true, &body(n));
                while sent + 1 - covered >= 200 {
                    let before = covered;
                    covered = confirm(&mut amqp, &mut beyond, covered)?;
                    self.queue.confirm(first + before..first + covered);
                }
            }
            Ok(())
        };
        publish().expect_err("it ends with the process");
    }

    fn publish_by_mqtt(&self, port: u16) {
        let publish = || -> Result<()> {
            let mut mqtt = Mqtt::try_open(port, "sensor", true)?;
            let mut acked = self.session.next.load(Ordering::Relaxed);
            for n in acked.. {
                self.session.next.store(n + 1, Ordering::Relaxed);
                mqtt.publish("work/x", packet_id(n), &body(n));
                while n + 1 - acked >= 100 {
                    assert_eq!(
                        mqtt.expect(0x40)?,
                        packet_id(acked).to_be_bytes(),
                        "PUBACKs come in order"
                    );
                    self.session.confirm([acked]);
                    acked += 1;
                }
            }
            Ok(())
        };
        publish().expect_err("it ends with the process");
    }

    fn consume_by_amqp(&self, port: u16, stop: &AtomicBool) {
        let consume = || -> Result<()> {
            let mut amqp = Amqp::try_open(port)?;
            amqp.consume("work", 100, false)?;
            let mut last = None;
            while !stop.load(Ordering::Relaxed) {
                if let Incoming::Deliver(delivery) = amqp.next()? {
                    self.queue
                        .receive(number(&delivery.body), &mut last, Some(delivery.redelivered));
                    amqp.ack(delivery.tag, false);
                }
            }
            Ok(())
        };
        let _ = consume();
    }

    fn receive_by_mqtt(&self, port: u16, stop: &AtomicBool) {
        let receive = || -> Result<()> {
            let mut device = Mqtt::try_open(port, "device", false)?;
            assert!(device.present, "the session is there");
            let mut last = None;
            while !stop.load(Ordering::Relaxed) {
                if let Some(publish) = device.next()?.into_publish() {
                    // DUP marks the same packet id sent again; a message handed out before may come under a new one.
                    self.session.receive(number(&publish.payload), &mut last, None);
                    device.ack(publish.id);
                }
            }
            Ok(())
        };
        let _ = receive();
    }

    fn declare(&self, amqp: u16, mqtt: u16, round: u64) {
        let declare = || -> Result<()> {
            let mut channel = Amqp::try_open(amqp)?;
            for n in 0.. {
                let name = format!("queue-{round}-{n}");
                channel.declare_queue(&name, true)?;
                channel.bind(&name, "amq.topic", &format!("bound.{name}"))?;
                self.queues.lock().expect("the book").push(name);
                let name = format!("session-{round}-{n}");
                Mqtt::try_open(mqtt, &name, false)?.subscribe(&format!("bound/{name}"), 1)?;
                self.sessions.lock().expect("the book").push(name);
            }
            Ok(())
        };
        declare().expect_err("it ends with the process");
    }

    fn check_definitions(&self, amqp: u16, mqtt: u16) {
        let mut channel = Amqp::open(amqp);
        channel.confirm_select().expect("confirms");
        for name in self.queues.lock().expect("the book").drain(..) {
            let ready = channel
                .depth(&name)
                .unwrap_or_else(|e| panic!("queue {name} was answered: {e}"));
            channel.publish("amq.topic", &format!("bound.{name}"), false, b"x");
            assert!(matches!(channel.next(), Ok(Incoming::Ack { .. })));
            let now = channel.depth(&name).expect("still there");
            assert_eq!((ready, now), (0, 1), "the binding of {name} was answered");
            channel.delete_queue(&name).expect("deleted");
        }
        for name in self.sessions.lock().expect("the book").drain(..) {
            let mut device = Mqtt::open(mqtt, &name, false);
            assert!(device.present, "session {name} was answered");
            device.publish(&format!("bound/{name}"), 0, b"x");
            let publish = device.next().expect("a packet").into_publish().expect("a PUBLISH");
            assert_eq!(
                publish.topic,
                format!("bound/{name}"),
                "the subscription of {name} was answered"
            );
            drop(device);
            // Clean, so that it is gone.
            Mqtt::open(mqtt, &name, true);
        }
    }

    fn check_that_the_rest_arrives(&self, amqp: u16, mqtt: u16) {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut channel = Amqp::open(amqp);
                let ready = channel.depth("work").expect("the queue is there");
                channel.consume("work", 0, true).expect("a consumer");
                let mut last = None;
                for _ in 0..ready {
                    let Ok(Incoming::Deliver(delivery)) = channel.next() else {
                        panic!("not a delivery")
                    };
                    self.queue
                        .receive(number(&delivery.body), &mut last, Some(delivery.redelivered));
                }
            });
            scope.spawn(|| self.receive_by_mqtt(mqtt, &stop));
            let began = Instant::now();
            while !(self.queue.missing().is_empty() && self.session.missing().is_empty()) {
                let (queue, session) = (self.queue.missing(), self.session.missing());
                assert!(
                    began.elapsed() < Duration::from_secs(30),
                    "confirmed and never delivered: {} of the queue {:?}, {} of the session {:?}",
                    queue.len(),
                    &queue[..queue.len().min(20)],
                    session.len(),
                    &session[..session.len().min(20)],
                );
                std::thread::sleep(Duration::from_millis(20));
            }
            stop.store(true, Ordering::Relaxed);
            // One more message lets the receiver see the flag.
            let mut nudge = Mqtt::open(mqtt, "nudge", true);
            nudge.publish("work/x", 1, &body(u64::MAX));
            nudge.expect(0x40).expect("a PUBACK");
        });
    }

    fn summary(&self) -> String {
        let count = |ledger: &Ledger| {
            let (confirmed, seen) = (&ledger.confirmed, &ledger.seen);
            (
                confirmed.lock().expect("the book").len(),
                seen.lock().expect("the book").len(),
            )
        };
        format!(
            "(confirmed, delivered) of the queue {:?}, of the session {:?}",
            count(&self.queue),
            count(&self.session)
        )
    }
}

#[test]
fn every_definition_and_handshake_that_was_answered_outlives_kill_nine() {
    python(&mut Gatepost::start(), "durability.py");
}

#[test]
fn the_first_question_after_a_restart_finds_everything() {
    let mut gatepost = Gatepost::start();
    Amqp::open(gatepost.amqp).declare_queue("work", true).expect("a queue");
    publish_and_wait_for_confirms(gatepost.amqp, "work", 1_000).expect("all confirmed");
    gatepost.kill();
    gatepost.start_again();
    assert_eq!(Amqp::open(gatepost.amqp).depth("work").expect("the queue"), 1_000);
}

fn body(n: u64) -> [u8; 64] {
    let mut body = [b'.'; 64];
    body[..8].copy_from_slice(&n.to_be_bytes());
    body
}

fn number(body: &[u8]) -> u64 {
    u64::from_be_bytes(body[..8].try_into().expect("eight bytes"))
}

fn packet_id(n: u64) -> u16 {
    u16::try_from(n % 65_535 + 1).expect("a packet id")
}
