//! What costs writes to the disk, and what does not.

use crate::support::*;
use gatepost_core::command::PublishFlags;
use gatepost_core::testing::world::{ROOM, World};
use std::time::Duration;

const KIB: usize = 1 << 10;

/// Runs the store's background work until there is none left.
fn settle_down(w: &mut World) {
    w.catch_up();
    w.advance(Duration::from_secs(300));
    w.catch_up();
}

#[test]
fn a_message_of_a_thousand_queues_is_written_once() {
    let mut w = World::new(1);
    w.set_audits(false);
    let c = w.connect("test");
    run(&mut w, c, vec![exchange("all", "fanout")]);
    for n in 0..1000 {
        let name = format!("q{n}");
        run(&mut w, c, vec![durable(&name), bind("all", &name, "")]);
    }
    settle_down(&mut w);
    let before = w.disk().bytes_written();
    let body = padded("one", 8 * KIB);
    let heard = run(
        &mut w,
        c,
        vec![publish(PublishFlags::CONFIRM, message("all", "", &body, true))],
    );
    assert_eq!(heard, ["confirmed 1"]);
    let written = w.disk().bytes_written() - before;
    println!("{written} bytes for 8 KiB to 1,000 queues");
    // The body, six bytes for each route, and the beginning of a new segment.
    assert!(written <= (8 * KIB + 6 * 1000 + 2 * KIB) as u64, "{written} bytes");
}

#[test]
fn transient_messages_consumed_in_time_cost_no_write() {
    let mut w = World::new(2);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        vec![
            durable("work"),
            consume_no_ack("work", 1),
            transient("gone"),
            consume("gone", 2),
        ],
    );
    settle_down(&mut w);
    let changes = w.disk().changes();
    for n in 0..200 {
        let heard = run(&mut w, c, vec![put_transient("work", &padded(&n.to_string(), KIB))]);
        assert!(heard.iter().any(|line| line.starts_with("deliver")), "{heard:?}");
        // A durable message in a transient queue is not durable.
        run(
            &mut w,
            c,
            vec![put("gone", &padded(&n.to_string(), KIB)), ack(2 * n + 2)],
        );
    }
    settle_down(&mut w);
    assert_eq!(w.disk().changes() - changes, 0);
}

#[test]
fn messages_settled_before_the_log_takes_them_are_not_written() {
    let mut w = World::new(3);
    let c = w.connect("test");
    run(&mut w, c, vec![durable("work"), consume("work", 1)]);
    // Hand-out marks are staged ahead; the first one costs a record.
    run(&mut w, c, vec![put("work", "0"), ack(1)]);
    settle_down(&mut w);
    let before = w.disk().bytes_written();
    const COUNT: u64 = 500;
    for n in 0..COUNT {
        w.send(c, vec![put("work", &padded(&n.to_string(), 4 * KIB))]);
        let heard = now(&mut w, c);
        assert!(heard.iter().any(|line| line.starts_with("deliver")), "{heard:?}");
        w.send(c, vec![ack(n + 2)]);
    }
    settle_down(&mut w);
    w.take(c, ROOM);
    let written = w.disk().bytes_written() - before;
    println!("{written} bytes for {COUNT} messages of 4 KiB that were settled early");
    assert!(written <= 16 * KIB as u64, "{written} bytes");
}

#[test]
fn an_idle_gateway_writes_nothing() {
    let mut w = World::new(4);
    let c = w.connect("test");
    let mut commands = vec![durable("work")];
    commands.extend((0..50).map(|n| put("work", &n.to_string())));
    run(&mut w, c, commands);
    let devices: Vec<_> = (0..20).map(|_| w.connect("device")).collect();
    for (n, device) in devices.iter().enumerate() {
        let name = format!("d{n}");
        run(
            &mut w,
            *device,
            vec![kept(&name), subscribe(vec![filter("plant/#", 1)])],
        );
        run(&mut w, *device, vec![retain(&format!("plant/{n}"), "on")]);
    }
    settle_down(&mut w);
    let changes = w.disk().changes();
    for _ in 0..60 {
        w.advance(Duration::from_secs(60));
        w.catch_up();
    }
    assert_eq!(w.disk().changes(), changes, "an hour of nothing");
}
