//! `kill -9` again and again under load of all protocols, with many queues and compaction running: everything that was
//! confirmed is there when the daemon starts again.
//!
//! `GATEPOST_KILL_ROUNDS=200 cargo test --release -p gatepost --test daemon kills -- --nocapture` runs two hundred rounds.

use crate::durability::{body, confirm, number, packet_id};
use crate::support::Gatepost;
use crate::support::amqp::{Amqp, Incoming};
use crate::support::daemon::http;
use crate::support::mqtt::Mqtt;
use crate::support::stomp::Stomp;
use std::collections::BTreeSet;
use std::io::Result;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Rounds, unless `GATEPOST_KILL_ROUNDS` is set.
const ROUNDS: u64 = 20;
/// Queues that a publisher uses in turn. The first is not consumed before the end: its messages are scattered over all
/// segments, and compaction has to move them before segments can be recycled.
const MANY: u64 = 40;

#[test]
fn kills_under_load_lose_nothing_that_was_confirmed() {
    let rounds = std::env::var("GATEPOST_KILL_ROUNDS").map_or(ROUNDS, |n| n.parse().expect("a number of rounds"));
    let settings = "[store]\nsegment_size = \"64KiB\"\n";
    let mut gatepost = Gatepost::with(2, settings);
    let (amqp, mqtt, stomp, metrics) = (gatepost.amqp, gatepost.mqtt, gatepost.stomp, gatepost.metrics);
    Amqp::open(amqp).declare_queue("work", true).expect("a queue");
    Amqp::open(amqp).declare_queue("page", true).expect("a queue");
    for n in 0..MANY {
        Amqp::open(amqp).declare_queue(&many(n), true).expect("a queue");
    }
    Mqtt::open(mqtt, "device", false)
        .subscribe("work/#", 1)
        .expect("a subscription");
    let book = Book::new();
    let began = Instant::now();
    let mut compacted = 0;
    for round in 0..rounds {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| book.publish_by_amqp(amqp));
            scope.spawn(|| book.publish_by_mqtt(mqtt));
            scope.spawn(|| book.consume_by_amqp(amqp, &stop));
            scope.spawn(|| book.receive_by_mqtt(mqtt, &stop));
            scope.spawn(|| book.declare(amqp, mqtt, round));
            scope.spawn(|| book.publish_by_stomp(stomp));
            scope.spawn(|| book.consume_by_stomp(stomp, &stop));
            scope.spawn(|| book.publish_to_many(amqp));
            scope.spawn(|| book.consume_many(amqp, &stop));
            // From the first moments to well into the load; a different time in each round.
            std::thread::sleep(Duration::from_millis(60 + (round * 67) % 400));
            compacted += records_compacted(metrics);
            gatepost.kill();
            stop.store(true, Ordering::Relaxed);
        });
        gatepost.start_again();
        book.check_definitions(amqp, mqtt);
        assert!(
            began.elapsed() < Duration::from_secs(10 * rounds),
            "it hangs: {round} rounds took {:?}",
            began.elapsed()
        );
    }
    book.check_that_the_rest_arrives(amqp, mqtt);
    book.check_the_rest_by_amqp(amqp, "page", &book.page);
    for n in 0..MANY {
        book.check_the_rest_by_amqp(amqp, &many(n), &book.many[n as usize]);
    }
    assert!(compacted > 0, "compaction ran");
    println!(
        "{rounds} rounds in {:?}, {compacted} records compacted; (confirmed, delivered) {}",
        began.elapsed(),
        book.summary()
    );
}

fn many(n: u64) -> String {
    format!("many-{n}")
}

/// A value of `/metrics`; 0 if it does not answer.
fn records_compacted(port: u16) -> u64 {
    let text = http(port, "/metrics").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("gatepost_store_records_compacted_total "));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// What the daemon has confirmed, by the number in the body.
struct Book {
    queue: Ledger,
    session: Ledger,
    /// The queue that STOMP clients use.
    page: Ledger,
    /// By queue. The numbers are those of the first, which counts for all.
    many: Vec<Ledger>,
    /// Durable queues whose declare-ok and bind-ok came.
    queues: Mutex<Vec<String>>,
    /// Kept sessions whose SUBACK came.
    sessions: Mutex<Vec<String>>,
}

/// One durable destination.
#[derive(Default)]
struct Ledger {
    /// The next number to publish. A number that was not confirmed in its round is not published again, because it may
    /// be in the queue.
    next: AtomicU64,
    confirmed: Mutex<BTreeSet<u64>>,
    /// Numbers received by a consumer in any round.
    seen: Mutex<BTreeSet<u64>>,
}

impl Ledger {
    fn confirm(&self, numbers: impl IntoIterator<Item = u64>) {
        self.confirmed.lock().expect("the book").extend(numbers);
    }

    /// Records a delivery, and checks the rules within a round: numbers increase, and redelivered messages are marked.
    fn receive(&self, n: u64, last: &mut Option<u64>, marked: Option<bool>) {
        assert!(last.is_none_or(|last| last < n), "{n} after {last:?}: out of order");
        *last = Some(n);
        let new = self.seen.lock().expect("the book").insert(n);
        assert!(
            new || marked.unwrap_or(true),
            "{n} was handed out before and is not marked"
        );
    }

    /// Confirmed numbers that were not received.
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

// Each of these runs until the connection breaks because the process was killed. If it breaks earlier, the checks at
// the end find too few messages.
impl Book {
    fn new() -> Book {
        Book {
            queue: Ledger::default(),
            session: Ledger::default(),
            page: Ledger::default(),
            many: (0..MANY).map(|_| Ledger::default()).collect(),
            queues: Mutex::default(),
            sessions: Mutex::default(),
        }
    }

    fn publish_by_stomp(&self, port: u16) {
        let publish = || -> Result<()> {
            let mut stomp = Stomp::try_open(port)?;
            let mut confirmed = self.page.next.load(Ordering::Relaxed);
            for n in confirmed.. {
                self.page.next.store(n + 1, Ordering::Relaxed);
                let receipt = n.to_string();
                let headers = [
                    ("destination", "/amq/queue/page"),
                    ("persistent", "true"),
                    ("receipt", &receipt),
                ];
                stomp.frame("SEND", &headers, &body(n));
                while n + 1 - confirmed >= 50 {
                    let frame = stomp.next()?;
                    assert_eq!(frame.command, "RECEIPT", "{frame:?}");
                    assert_eq!(
                        frame.header("receipt-id"),
                        Some(&*confirmed.to_string()),
                        "receipts come in order"
                    );
                    self.page.confirm([confirmed]);
                    confirmed += 1;
                }
            }
            Ok(())
        };
        publish().expect_err("it ends with the process");
    }

    fn consume_by_stomp(&self, port: u16, stop: &AtomicBool) {
        let consume = || -> Result<()> {
            let mut stomp = Stomp::try_open(port)?;
            let headers = [
                ("destination", "/amq/queue/page"),
                ("id", "1"),
                ("ack", "client-individual"),
                ("prefetch-count", "50"),
            ];
            stomp.frame("SUBSCRIBE", &headers, b"");
            let mut last = None;
            while !stop.load(Ordering::Relaxed) {
                let frame = stomp.next()?;
                assert_eq!(frame.command, "MESSAGE", "{frame:?}");
                let marked = frame.header("redelivered") == Some("true");
                self.page.receive(number(&frame.body), &mut last, Some(marked));
                let id = frame.header("ack").expect("an id to settle by");
                stomp.frame("ACK", &[("id", id)], b"");
            }
            Ok(())
        };
        let _ = consume();
    }

    /// Publishes to the queues in turn, and waits for confirms.
    fn publish_to_many(&self, port: u16) {
        let publish = || -> Result<()> {
            let mut amqp = Amqp::try_open(port)?;
            amqp.confirm_select()?;
            let first = self.many[0].next.load(Ordering::Relaxed);
            let mut beyond = BTreeSet::new();
            let mut covered = 0;
            for sent in 0.. {
                let n = first + sent;
                self.many[0].next.store(n + 1, Ordering::Relaxed);
                amqp.publish("", &many(n % MANY), true, &body(n));
                while sent + 1 - covered >= 200 {
                    let before = covered;
                    covered = confirm(&mut amqp, &mut beyond, covered)?;
                    for n in first + before..first + covered {
                        self.many[(n % MANY) as usize].confirm([n]);
                    }
                }
            }
            Ok(())
        };
        publish().expect_err("it ends with the process");
    }

    fn consume_many(&self, port: u16, stop: &AtomicBool) {
        let consume = || -> Result<()> {
            let mut amqp = Amqp::try_open(port)?;
            for n in 1..MANY {
                amqp.consume(&many(n), 20, false)?;
            }
            let mut last = vec![None; MANY as usize];
            while !stop.load(Ordering::Relaxed) {
                if let Incoming::Deliver(delivery) = amqp.next()? {
                    let n = number(&delivery.body);
                    let queue = (n % MANY) as usize;
                    self.many[queue].receive(n, &mut last[queue], Some(delivery.redelivered));
                    amqp.ack(delivery.tag, false);
                }
            }
            Ok(())
        };
        let _ = consume();
    }

    fn check_the_rest_by_amqp(&self, port: u16, queue: &str, ledger: &Ledger) {
        let mut channel = Amqp::open(port);
        let ready = channel.depth(queue).expect("the queue is there");
        channel.consume(queue, 0, true).expect("a consumer");
        let mut last = None;
        for _ in 0..ready {
            let Ok(Incoming::Deliver(delivery)) = channel.next() else {
                panic!("not a delivery")
            };
            ledger.receive(number(&delivery.body), &mut last, Some(delivery.redelivered));
        }
        let missing = ledger.missing();
        let some = &missing[..missing.len().min(20)];
        assert!(
            missing.is_empty(),
            "{} confirmed and never delivered by {queue}: {some:?}",
            missing.len()
        );
    }

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
                    // DUP marks the same packet id sent again. A message that was delivered before may come with a new
                    // id.
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
            // A clean session, so that it is deleted.
            Mqtt::open(mqtt, &name, true);
        }
    }

    fn check_that_the_rest_arrives(&self, amqp: u16, mqtt: u16) {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| self.check_the_rest_by_amqp(amqp, "work", &self.queue));
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
        let many = self.many.iter().map(count).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let (queue, session, page) = (count(&self.queue), count(&self.session), count(&self.page));
        format!("AMQP {queue:?}, MQTT {session:?}, STOMP {page:?}, {MANY} queues {many:?}")
    }
}
