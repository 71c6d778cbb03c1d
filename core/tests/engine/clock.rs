//! A clock that jumps, ahead while the gateway runs and back while it does not.

use crate::support::*;
use gatepost_core::command::PublishFlags;
use gatepost_core::message::{Envelope, Message};
use gatepost_core::testing::disk::{Crash, Rng};
use gatepost_core::testing::world::World;
use gatepost_core::time::Wall;

const YEAR_MS: u64 = 365 * 86_400_000;
const COUNT: usize = 4;

fn put(body: &str, deadline: Wall) -> gatepost_core::command::Command {
    let envelope = Envelope {
        durable: true,
        deadline: Some(deadline),
        ..Envelope::default()
    };
    publish(
        PublishFlags::CONFIRM,
        Message::new(envelope, "", "q", &[], body.as_bytes()),
    )
}

/// A message that expired while the clock was far ahead came back after `kill -9`, because the log knew neither that it
/// had expired nor how late it had been.
#[test]
fn expired_messages_never_come_back_whatever_the_clock_says() {
    let mut expired_in_all = 0;
    for seed in 0..80 {
        println!("seed {seed}");
        let mut w = World::new(seed);
        let mut rng = Rng::new(seed);
        let c = w.connect("test");
        run(&mut w, c, [durable("q")]);
        let start = w.now().wall;
        for n in 0..COUNT {
            let deadline = start + ms(1 + rng.below(5_000));
            run(&mut w, c, [put(&n.to_string(), deadline)]);
        }
        if rng.chance(1, 2) {
            w.stop_and_start();
        }
        let c = w.connect("test");
        // The log does not keep up: the machine stops at any point.
        for _ in 0..6 + rng.below(24) {
            match rng.below(6) {
                0 => w.set_clock(w.now().wall + ms(rng.below(40 * YEAR_MS))),
                1 => w.send(c, vec![get("q")]),
                2 => _ = w.commit(),
                3 => w.report(),
                4 => {
                    w.fetch();
                    w.bring();
                }
                _ => w.advance(ms(rng.below(2_000))),
            }
        }
        let expired = w.counters().expired as usize;
        expired_in_all += expired;
        // The clock is set back, to long before any of this.
        w.set_clock(Wall(start.0 - 40 * YEAR_MS));
        w.crash(if rng.chance(1, 2) { Crash::Process } else { Crash::Power });
        let c = w.connect("test");
        let got = run(&mut w, c, (0..COUNT).map(|_| get("q")).collect::<Vec<_>>());
        let back = got.iter().filter(|heard| heard.starts_with("got")).count();
        assert!(
            back + expired <= COUNT,
            "seed {seed}: {expired} had expired, and then {got:?}"
        );
        // Confirmed messages that have not expired are there.
        let gone = expired + w.counters().expired as usize;
        assert!(back + gone >= COUNT, "seed {seed}: {gone} expired, and then {got:?}");
    }
    assert!(expired_in_all > 20, "{expired_in_all} messages expired");
}

/// Timers run by the monotonic clock. After a jump of the wall clock, expired messages were dropped hours later, or
/// when somebody asked for them.
#[test]
fn a_jump_of_the_clock_expires_messages_at_once() {
    const HOUR: u64 = 3_600_000;
    let mut w = World::new(5);
    let (c, m) = (w.connect("amqp"), w.connect("mqtt"));
    run(&mut w, c, [durable("q"), transient("r")]);
    run(&mut w, m, [session("gone", |s| s.expiry = Some(3_000))]);
    w.drop_client(m);
    let start = w.now().wall;
    run(&mut w, c, [put("x", start + ms(HOUR))]);
    let expiring = topic_message("t", "retained", |e| {
        e.retain = true;
        e.deadline = Some(start + ms(HOUR));
    });
    run(&mut w, c, [mqtt_message(expiring, 0)]);
    let there = |w: &World| {
        let c = w.counters();
        (c.messages_ready, c.sessions, c.expired)
    };
    // A step back is not followed, and nothing becomes due by it.
    w.set_clock(Wall(start.0 - YEAR_MS));
    let settle = |w: &mut World| {
        for _ in 0..5 {
            w.advance(ms(10));
            w.catch_up();
        }
    };
    settle(&mut w);
    assert_eq!(there(&w), (1, 1, 0));
    w.set_clock(start + ms(HOUR / 2));
    settle(&mut w);
    assert_eq!(there(&w), (1, 1, 0));
    let late = w.connect("mqtt");
    run(&mut w, late, [clean("late")]);
    assert!(run(&mut w, late, [subscribe(vec![filter("t", 0)])])[1].contains("retained"));
    w.drop_client(late);
    w.set_clock(start + ms(HOUR + 1_000));
    settle(&mut w);
    assert_eq!(there(&w), (0, 0, 1));
    assert_eq!(w.counters().retained, 1, "the version that the broker shows is left");
}

/// Ten thousand of them take more than one hold.
#[test]
fn a_jump_of_the_clock_is_followed_in_bounded_holds() {
    let settings = gatepost_core::testing::world::Settings {
        hold_units_max: 16,
        ..Default::default()
    };
    let mut w = World::with(6, settings, Default::default());
    w.set_audits(false);
    let c = w.connect("amqp");
    let start = w.now().wall;
    for n in 0..200 {
        let envelope = Envelope {
            deadline: Some(start + ms(60_000)),
            ..Envelope::default()
        };
        let queue = format!("q{n}");
        let m = Message::new(envelope, "", &queue, &[], b"x");
        run(&mut w, c, [transient(&queue), publish(PublishFlags::default(), m)]);
    }
    w.set_clock(start + ms(61_000));
    for _ in 0..100 {
        w.advance(ms(5));
    }
    assert_eq!(w.counters().expired, 200);
    assert!(
        w.counters().longest_hold_units < 200,
        "{}",
        w.counters().longest_hold_units
    );
}
