//! `kill -9`: everything that was confirmed is there when the daemon starts again. The clients record what was
//! confirmed to them.

use crate::support::amqp::{Amqp, Incoming};
use crate::support::mqtt::Mqtt;
use crate::support::{Gatepost, python};
use std::collections::BTreeSet;
use std::io::Result;

#[test]
fn a_hundred_thousand_confirmed_messages_survive_kill_nine() {
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
        // An acknowledgement may be lost with the process. Its message then comes again, in its place.
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

/// A consumer's progress, as numbers that follow the last one.
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
        // A window keeps both directions busy.
        while n + 1 - covered > 4_000 {
            covered = confirm(&mut amqp, &mut confirmed, covered)?;
        }
    }
    while covered < count {
        covered = confirm(&mut amqp, &mut confirmed, covered)?;
    }
    Ok(())
}

/// Reads one confirm. Returns up to which publish all are confirmed now.
pub(crate) fn confirm(amqp: &mut Amqp, beyond: &mut BTreeSet<u64>, mut covered: u64) -> Result<u64> {
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
    // Exactly this many are delivered, because the window is full then.
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
    // An answer after the last acknowledgement shows that it has arrived.
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
fn every_answered_definition_and_handshake_survives_kill_nine() {
    python(&mut Gatepost::start(), "durability.py");
}

#[test]
fn a_queue_reports_its_durability() {
    python(
        &mut Gatepost::with(2, "[store]\ninterval = \"100ms\"\n"),
        "durability_modes.py",
    );
}

#[test]
fn the_first_request_after_a_restart_finds_everything() {
    let mut gatepost = Gatepost::start();
    Amqp::open(gatepost.amqp).declare_queue("work", true).expect("a queue");
    publish_and_wait_for_confirms(gatepost.amqp, "work", 1_000).expect("all confirmed");
    gatepost.kill();
    gatepost.start_again();
    assert_eq!(Amqp::open(gatepost.amqp).depth("work").expect("the queue"), 1_000);
}

pub(crate) fn body(n: u64) -> [u8; 64] {
    let mut body = [b'.'; 64];
    body[..8].copy_from_slice(&n.to_be_bytes());
    body
}

pub(crate) fn number(body: &[u8]) -> u64 {
    u64::from_be_bytes(body[..8].try_into().expect("eight bytes"))
}

pub(crate) fn packet_id(n: u64) -> u16 {
    u16::try_from(n % 65_535 + 1).expect("a packet id")
}
