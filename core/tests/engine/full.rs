//! A disk that fills up: publishers wait, and later are refused in time; consumers always continue, and their settles
//! free space.

use crate::support::*;
use gatepost_core::command::{Command, Outcome, PublishFlags, Will};
use gatepost_core::event::Pressure;
use gatepost_core::message::{Envelope, Message};
use gatepost_core::properties::Value;
use gatepost_core::store::StoreSettings;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{Client, Settings, World};
use gatepost_core::time::Wall;

const KIB: usize = 1 << 10;
const SEGMENT: u64 = 128 << 10;

fn full(w: &mut World, is_full: bool) {
    w.set_pressure(is_full.then_some(Pressure::Full));
}

#[test]
fn a_publish_that_needs_the_log_is_refused_as_a_whole() {
    let mut w = World::new(1);
    let c = w.connect("test");
    let queues = [
        exchange("x", "fanout"),
        durable("d"),
        transient("t"),
        bind("x", "d", ""),
        bind("x", "t", ""),
    ];
    run(&mut w, c, queues);
    run(&mut w, c, [put("d", "before")]);
    full(&mut w, true);
    let both = publish(PublishFlags::CONFIRM, message("x", "", "both", true));
    let heard = run(&mut w, c, [put("d", "1"), both]);
    let expected = [
        "flow Some(Full)",
        "refused 2 ResourceError",
        "refused 3 ResourceError",
        "confirmed 3",
    ];
    assert_eq!(heard, expected);
    // Publishes that need no log are accepted.
    let heard = run(&mut w, c, [put("t", "4"), put_transient("d", "5"), put("nowhere", "6")]);
    assert_eq!(heard, ["confirmed 6"]);
    assert_eq!(run(&mut w, c, [get("t"), get("t")]), ["got #1 4 left 0", "empty"]);
    // Without a confirm, the publisher cannot be told: the message is lost and counted.
    let silent = publish(PublishFlags::default(), message("", "d", "7", true));
    assert!(run(&mut w, c, [silent]).is_empty());
    assert_eq!(w.counters().traffic.refused, 3);
    full(&mut w, false);
    assert_eq!(run(&mut w, c, [put("d", "8")]), ["flow None", "confirmed 7"]);
    let heard = run(&mut w, c, [get("d"), get("d"), get("d"), get("d")]);
    let expected = ["got #2 before left 2", "got #3 5 left 1", "got #4 8 left 0", "empty"];
    assert_eq!(heard, expected);
}

/// Transient messages were written to the log to free memory, and used up the disk space that is reserved for settles.
#[test]
fn transient_messages_stay_out_of_a_full_log_and_are_refused_when_memory_is_short() {
    let settings = Settings {
        cache_bytes_max: 64 * KIB,
        memory_bytes_max: 256 * KIB,
        ..Settings::default()
    };
    let mut w = World::with(1, settings, StoreSettings::default());
    let (c, consumer) = (w.connect("test"), w.connect("test"));
    run(&mut w, c, [durable("d"), transient("t"), put("d", "before")]);
    full(&mut w, true);
    w.advance(ms(1_000));
    w.catch_up();
    let used = w.disk().bytes_used();
    let mut heard = Vec::new();
    for n in 0..600 {
        heard.extend(run(&mut w, c, [put_transient("t", &padded(&n.to_string(), KIB))]));
    }
    let refused = heard.iter().filter(|line| line.starts_with("refused")).count();
    assert!((300..500).contains(&refused), "{refused} of 600 do not fit");
    assert!(w.disk().bytes_used() <= used, "nothing was logged");
    w.send(consumer, vec![consume_with("t", 1, |c| c.no_ack = true)]);
    let got = hear(&mut w, consumer);
    assert_eq!(
        got.iter().filter(|line| line.starts_with("deliver")).count(),
        600 - refused
    );
    // Now there is room for others.
    let heard = run(&mut w, c, [put_transient("t", "more")]);
    assert!(!heard.iter().any(|line| line.starts_with("refused")), "{heard:?}");
}

#[test]
fn consumers_definitions_and_settles_still_work() {
    let mut w = World::new(2);
    let (c, consumer) = (w.connect("test"), w.connect("test"));
    run(&mut w, c, [durable("d"), put("d", "1"), put("d", "2")]);
    full(&mut w, true);
    let heard = run(&mut w, consumer, [consume("d", 1), durable("e")]);
    assert_eq!(
        heard,
        ["consuming c1", "declared e 0/0", "deliver c1 #1 1", "deliver c1 #2 2"]
    );
    run(&mut w, consumer, [ack(1)]);
    w.advance(ms(300));
    w.catch_up();
    w.crash(Crash::Power);
    let c = w.connect("test");
    assert_eq!(run(&mut w, c, [get("d"), get("d")])[1..], ["empty"], "one was settled");
}

#[test]
fn a_transaction_is_refused_as_a_whole() {
    let mut w = World::new(3);
    let c = w.connect("test");
    run(&mut w, c, [durable("d"), transient("t"), put("d", "1"), get("d")]);
    full(&mut w, true);
    let plain = |queue| publish(PublishFlags::default(), message("", queue, "m", true));
    let heard = run(&mut w, c, [transaction(vec![plain("t"), plain("d"), ack(1)])]);
    let refused = "failed Commit PreconditionFailed partial tx completion";
    assert_eq!(heard, ["flow Some(Full)", refused]);
    assert_eq!(run(&mut w, c, [get("t")]), ["empty"]);
    assert_eq!(run(&mut w, c, [transaction(vec![plain("t"), ack(1)])]), ["done Commit"]);
}

#[test]
fn an_mqtt_publish_is_refused_and_its_packet_id_can_be_used_again() {
    let mut w = World::new(4);
    let (device, sensor) = (w.connect("mqtt"), w.connect("mqtt"));
    run(&mut w, device, [kept("device"), subscribe(vec![filter("a/#", 2)])]);
    run(&mut w, sensor, [kept("sensor"), mqtt("a/b", "0", 1, 0)]);
    full(&mut w, true);
    let heard = run(&mut w, sensor, [mqtt("a/b", "1", 1, 0), mqtt("a/b", "2", 2, 7)]);
    let expected = [
        "flow Some(Full)",
        "refused 2 ResourceError",
        "refused 3 ResourceError",
        "confirmed 3",
    ];
    assert_eq!(heard, expected);
    assert_eq!(run(&mut w, sensor, [mqtt("a/b", "3", 0, 0)]), [""; 0]);
    assert_eq!(hear(&mut w, device), ["publish q1 #1 a/b 0", "publish q0 #0 a/b 3"]);
    full(&mut w, false);
    assert_eq!(
        run(&mut w, sensor, [mqtt("a/b", "4", 2, 7)]),
        ["flow None", "confirmed 4"]
    );
    assert_eq!(hear(&mut w, device), ["publish q2 #2 a/b 4"]);
}

#[test]
fn retained_messages_stay_unchanged_and_can_be_cleared() {
    let mut w = World::new(5);
    let c = w.connect("mqtt");
    run(&mut w, c, [clean("c"), retain("a", "old"), retain("b", "old")]);
    full(&mut w, true);
    let at_most_once = topic_message("a", "newer", |e| {
        e.retain = true;
        e.qos = 0;
        e.durable = false;
    });
    let heard = run(
        &mut w,
        c,
        [retain("a", "new"), mqtt_message(at_most_once, 0), retain("b", "")],
    );
    let expected = ["flow Some(Full)", "refused 3 ResourceError", "confirmed 4"];
    assert_eq!(heard, expected);
    let heard = run(&mut w, c, [subscribe(vec![filter("#", 1)])]);
    assert_eq!(heard, ["suback 1 [Ok(1)]", "publish q1 #1 a old retain"]);
}

/// What the gateway does when it checks the disk: publishers wait below four segments, and are refused at the reserve.
fn look(w: &mut World) -> Option<Pressure> {
    let room = w.free_space() + w.reserved();
    let pressure = if room < 3 * SEGMENT {
        Some(Pressure::Full)
    } else {
        (w.free_space() < 4 * SEGMENT).then_some(Pressure::Disk)
    };
    w.set_pressure(pressure);
    pressure
}

fn small(seed: u64) -> World {
    let settings = Settings {
        cache_bytes_max: 64 * KIB,
        ..Settings::default()
    };
    let store = StoreSettings {
        segment_bytes: SEGMENT as u32,
        checkpoint_every: ms(1_000),
        ..StoreSettings::default()
    };
    let mut w = World::with(seed, settings, store);
    w.set_audits(false);
    w
}

/// Publishes numbers from `next` on, whatever the pressure, until one is refused. Returns the number of confirms.
fn fill(w: &mut World, c: Client, next: usize) -> usize {
    for n in next.. {
        let heard = run(w, c, [put("d", &padded(&n.to_string(), KIB))]);
        w.advance(ms(20));
        look(w);
        if heard.iter().any(|line| line.starts_with("refused")) {
            return n;
        }
        assert!(w.is_running(), "it never fails for want of disk");
    }
    next
}

/// Takes and settles everything, and lets a minute pass.
fn drain(w: &mut World, expected: usize) {
    let consumer = w.connect("test");
    let mut heard = run(w, consumer, [consume_with("d", 1, |c| c.prefetch = Some(50))]);
    let mut numbers = Vec::new();
    while numbers.len() < expected {
        let deliveries = heard.iter().filter_map(|l| l.strip_prefix("deliver c1 #"));
        let mut last = 0;
        for line in deliveries {
            let mut words = line.split(' ');
            last = words.next().and_then(|n| n.parse().ok()).expect("a number");
            numbers.push(words.next().and_then(|n| n.parse::<usize>().ok()).expect("a body"));
        }
        heard = run(w, consumer, [ack_upto(last)]);
        w.advance(ms(100));
        assert!(w.is_running(), "draining needs no disk that is not there");
    }
    assert_counted(&numbers, expected);
    w.drop_client(consumer);
    for _ in 0..60 {
        w.advance(ms(1_000));
        w.catch_up();
    }
}

#[test]
fn a_full_disk_refuses_publishes_drains_and_recovers() {
    for how in [None, Some(Crash::Process), Some(Crash::Power)] {
        let mut w = small(6);
        w.disk().set_capacity(Some(20 * SEGMENT));
        let mut c = w.connect("test");
        run(&mut w, c, [durable("d")]);
        let confirmed = fill(&mut w, c, 0);
        assert!(confirmed > 500, "{confirmed} of a mebibyte and a quarter");
        if let Some(how) = how {
            // A start on a full disk also finds everything, and drains.
            w.crash(how);
            look(&mut w);
            c = w.connect("test");
        }
        drain(&mut w, confirmed);
        assert_eq!(look(&mut w), None, "{} bytes free", w.free_space());
        assert!(
            run(&mut w, c, [put("d", "0")])
                .iter()
                .any(|line| line.starts_with("confirmed"))
        );
        w.crash(Crash::Power);
        let c = w.connect("test");
        // A hand-out mark is ahead, so more messages may be marked as redelivered.
        assert_eq!(run(&mut w, c, [get("d")])[0].replace(" again", ""), "got #1 0 left 0");
    }
}

/// Every dead letter is a message of its own in the log. A consumer that rejected everything made the log fail for lack
/// of space, which ended the process, and again after each start.
#[test]
fn dead_letters_wait_while_the_disk_is_full() {
    let mut w = small(1);
    w.disk().set_capacity(Some(20 * SEGMENT));
    let c = w.connect("test");
    let dying = declare("d", |d| {
        d.arguments.push("x-dead-letter-exchange", Value::text(""));
        d.arguments.push("x-dead-letter-routing-key", Value::text("dead"));
    });
    run(&mut w, c, [dying, durable("dead")]);
    let confirmed = fill(&mut w, c, 0);
    let consumer = w.connect("test");
    // The first half is rejected, with a prefetch of 50. The following ones are delivered all the same, and accepted.
    let mut heard = run(&mut w, consumer, [consume_with("d", 1, |c| c.prefetch = Some(50))]);
    let mut number = 0;
    let mut rejected_when_full = 0;
    loop {
        let mut verdicts = Vec::new();
        for line in heard.iter().filter(|line| line.starts_with("deliver")) {
            let body: usize = line.split(' ').nth(3).and_then(|n| n.parse().ok()).expect("a body");
            number += 1;
            assert_eq!(body as u64 + 1, number, "{line}");
            let outcome = if body < confirmed / 2 {
                Outcome::Reject
            } else {
                Outcome::Accept
            };
            verdicts.push(settle(number, false, outcome));
        }
        if verdicts.is_empty() {
            break;
        }
        heard = run(&mut w, consumer, verdicts);
        w.advance(ms(100));
        if look(&mut w) == Some(Pressure::Full) {
            rejected_when_full = number.min(confirmed as u64 / 2);
        }
        assert!(w.is_running(), "after {number} of {confirmed}");
    }
    assert_eq!(number, confirmed as u64);
    assert!(rejected_when_full > 0);
    for _ in 0..1_200 {
        w.advance(ms(50));
        w.catch_up();
        look(&mut w);
    }
    assert!(w.is_running());
    let dead = w.connect("test");
    w.send(dead, vec![consume_with("dead", 1, |c| c.no_ack = true)]);
    let dead: Vec<usize> = hear(&mut w, dead)
        .iter()
        .filter_map(|line| line.strip_prefix("deliver c1 #")?.split(' ').nth(1)?.parse().ok())
        .collect();
    assert_counted(&dead, confirmed / 2);
}

#[test]
fn messages_rejected_on_a_full_disk_return_when_their_channel_closes() {
    let mut w = World::new(8);
    let (c, other) = (w.connect("test"), w.connect("test"));
    let dying = declare("d", |d| {
        d.arguments.push("x-dead-letter-exchange", Value::text(""));
        d.arguments.push("x-dead-letter-routing-key", Value::text("dead"));
    });
    run(&mut w, c, [dying, durable("dead")]);
    run(&mut w, c, (0..4).map(|n| put("d", &n.to_string())).collect::<Vec<_>>());
    full(&mut w, true);
    run(&mut w, c, [consume_with("d", 1, |c| c.prefetch = Some(2))]);
    // Its prefetch is free again.
    let heard = run(&mut w, c, [reject(1), reject(2)]);
    assert_eq!(heard, ["deliver c1 #3 2", "deliver c1 #4 3"]);
    assert!(run(&mut w, c, [reject(1)])[0].starts_with("failed"), "it was settled");
    run(&mut w, c, [ack(3), close_channel()]);
    let heard = run(&mut w, other, [get("d"), get("d"), get("d"), get("d")]);
    assert_eq!(
        heard,
        [
            "got #1 0 again left 2",
            "got #2 1 again left 1",
            "got #3 3 again left 0",
            "empty"
        ]
    );
    run(&mut w, other, [reject(1), ack(2)]);
    assert_eq!(run(&mut w, other, [get("dead")]), ["empty"]);
    full(&mut w, false);
    w.advance(ms(50));
    let heard = run(&mut w, other, [get("dead"), get("d")]);
    assert_eq!(heard, ["got #4 0 left 0", "empty"]);
    run(&mut w, other, [ack(3), ack(4)]);
    for client in [c, other] {
        w.drop_client(client);
    }
    w.assert_idle();
}

#[test]
fn messages_that_expire_on_a_full_disk_wait_and_are_not_delivered() {
    let mut w = World::new(9);
    let c = w.connect("test");
    let dying = declare("d", |d| {
        d.arguments.push("x-dead-letter-exchange", Value::text(""));
        d.arguments.push("x-dead-letter-routing-key", Value::text("dead"));
    });
    let put = |body: &str| {
        let envelope = Envelope {
            durable: true,
            // A world begins in November 2023.
            deadline: Some(Wall(1_700_000_010_000)),
            ..Envelope::default()
        };
        publish(
            PublishFlags::CONFIRM,
            Message::new(envelope, "", "d", &[], body.as_bytes()),
        )
    };
    run(&mut w, c, [dying, durable("dead"), put("1"), put("2")]);
    full(&mut w, true);
    w.advance(ms(20_000));
    assert_eq!(run(&mut w, c, [get("dead"), get("d")])[1..], ["empty", "empty"]);
    assert_eq!(run(&mut w, c, [consume("d", 1)]), ["consuming c1"]);
    full(&mut w, false);
    // They die once the log has a time after their deadline.
    w.catch_up();
    let heard = run(&mut w, c, [get("dead"), get("dead")]);
    assert_eq!(heard.last().map(String::as_str), Some("got #2 2 left 0"), "{heard:?}");
}

/// Durable publishes are refused on a full disk, but wills were written into the reserve for settles.
#[test]
fn a_will_on_a_full_disk_reaches_present_subscribers_and_is_not_logged() {
    let mut w = World::new(10);
    let (near, sensor) = (w.connect("mqtt"), w.connect("mqtt"));
    run(&mut w, near, [kept("near"), subscribe(vec![filter("w/#", 1)])]);
    run(&mut w, near, [retain("w/old", "kept")]);
    let will = |topic: &str, delay: u64| Will {
        message: topic_message(topic, "gone", |e| e.retain = true),
        delay: ms(delay),
        expiry: None,
    };
    run(&mut w, sensor, [session("sensor", |s| s.will = Some(will("w/old", 0)))]);
    let delayed = w.connect("mqtt");
    run(
        &mut w,
        delayed,
        [session("delayed", |s| s.will = Some(will("w/late", 1_000)))],
    );
    full(&mut w, true);
    w.drop_client(sensor);
    w.drop_client(delayed);
    w.advance(ms(2_000));
    let heard = hear(&mut w, near);
    let wills: Vec<_> = heard.iter().filter(|line| line.ends_with("gone")).collect();
    assert_eq!(wills, ["publish q1 #2 w/old gone", "publish q1 #3 w/late gone"]);
    assert_eq!(w.counters().wills_not_logged, 2);
    full(&mut w, false);
    w.crash(Crash::Power);
    let near = w.connect("mqtt");
    let heard = run(
        &mut w,
        near,
        [kept("near"), puback(1), subscribe(vec![filter("w/#", 1)])],
    );
    let messages: Vec<_> = heard.iter().filter(|line| line.starts_with("publish")).collect();
    assert!(messages.iter().all(|line| line.contains("w/old kept")), "{heard:?}");
    assert_eq!(w.counters().wills_not_logged, 0);
}

#[test]
fn a_disk_filled_by_another_program_is_drained_from_the_reserve() {
    for seed in 0..4 {
        let mut w = small(7 + seed);
        let c = w.connect("test");
        run(&mut w, c, [durable("d")]);
        for first in (0..1_200).step_by(20) {
            run(
                &mut w,
                c,
                (first..first + 20)
                    .map(|n| put("d", &padded(&n.to_string(), KIB)))
                    .collect::<Vec<Command>>(),
            );
            w.advance(ms(50));
        }
        assert_eq!(w.reserved(), 2 * SEGMENT);
        // Not a byte is left.
        let used = w.disk().bytes_used();
        w.disk().set_capacity(Some(used));
        assert_eq!(look(&mut w), Some(Pressure::Full));
        assert!(
            run(&mut w, c, [put("d", "refused")])
                .iter()
                .any(|line| line.starts_with("refused"))
        );
        if seed % 2 == 1 {
            w.crash(Crash::Process);
            look(&mut w);
        }
        drain(&mut w, 1_200);
        assert_eq!(look(&mut w), None, "{} bytes free", w.free_space());
    }
}
