//! When a will is published: at the end of its connection, after its delay, at the end of its session, or never.

use crate::support::*;
use gatepost_core::command::Command;
use gatepost_core::testing::world::World;
use std::time::Duration;

#[test]
fn a_will_is_published_when_the_connection_ends_unless_it_is_dropped() {
    let mut w = World::new(1);
    let watch = subscriber(&mut w, "watch", "#", 0);
    for said_goodbye in [false, true] {
        let c = w.connect("mqtt");
        run(&mut w, c, [session("c", |s| s.will = Some(will("gone", 0)))]);
        if said_goodbye {
            w.send(c, vec![Command::DropWill]);
        }
        w.drop_client(c);
        let expected: &[&str] = if said_goodbye {
            &[]
        } else {
            &["publish q0 #0 gone will"]
        };
        assert_eq!(now(&mut w, watch), expected);
    }
}

#[test]
fn a_delayed_will_waits_and_is_cancelled_by_a_return_but_not_beyond_the_session() {
    let mut w = World::new(1);
    let watch = subscriber(&mut w, "watch", "#", 0);
    let connect = |w: &mut World, delay, expiry| {
        let c = w.connect("mqtt");
        run(
            w,
            c,
            [session("c", |s| {
                s.will = Some(will("gone", delay));
                s.expiry = Some(expiry);
            })],
        );
        c
    };
    let c = connect(&mut w, 10, 60);
    w.drop_client(c);
    w.advance(Duration::from_secs(9));
    let c = connect(&mut w, 10, 60);
    w.advance(Duration::from_secs(20));
    assert!(now(&mut w, watch).is_empty(), "it came back in time");
    w.drop_client(c);
    w.advance(Duration::from_millis(10_001));
    assert_eq!(now(&mut w, watch), ["publish q0 #0 gone will"]);
    let c = connect(&mut w, 100, 5);
    w.drop_client(c);
    w.advance(Duration::from_millis(5_001));
    assert_eq!(
        now(&mut w, watch),
        ["publish q0 #0 gone will"],
        "the session ended before the delay"
    );
}

#[test]
fn a_takeover_publishes_the_will_without_delay_and_cancels_the_delayed_one() {
    let mut w = World::new(1);
    let watch = subscriber(&mut w, "watch", "#", 0);
    for (delay, clean, heard) in [(0, false, true), (10, false, false), (10, true, true)] {
        let a = w.connect("mqtt");
        run(&mut w, a, [session("c", |s| s.will = Some(will("gone", delay)))]);
        let b = w.connect("mqtt");
        w.send(b, vec![session("c", |s| s.clean_start = clean)]);
        assert!(
            now(&mut w, watch).is_empty(),
            "the old connection may still say goodbye"
        );
        w.drop_client(a);
        hear(&mut w, b);
        assert_eq!(
            now(&mut w, watch).len(),
            usize::from(heard),
            "delay {delay}, clean start {clean}"
        );
        w.drop_client(b);
    }
}

#[test]
fn a_takeover_of_a_session_without_expiry_publishes_its_delayed_will() {
    // The client was assumed to have reconnected before the delay was over, but its session had ended.
    let mut w = World::new(1);
    let watch = subscriber(&mut w, "watch", "#", 0);
    for (expiry, heard) in [(0, true), (60, false)] {
        let a = w.connect("mqtt");
        let c = session("c", |s| {
            s.will = Some(will("gone", 10));
            s.expiry = Some(expiry);
        });
        run(&mut w, a, [c]);
        let b = w.connect("mqtt");
        w.send(b, vec![session("c", |s| s.expiry = Some(60))]);
        w.drop_client(a);
        let present = hear(&mut w, b);
        assert_eq!(present, [if heard { "open new" } else { "open present" }]);
        assert_eq!(now(&mut w, watch).len(), usize::from(heard), "expiry {expiry}");
        w.drop_client(b);
        let c = w.connect("mqtt");
        run(&mut w, c, [clean("c")]);
        w.drop_client(c);
    }
}

#[test]
fn the_will_and_the_messages_of_a_clean_session_go_with_it() {
    let mut w = World::new(1);
    let (p, c) = (open(&mut w, "p"), w.connect("mqtt"));
    run(&mut w, c, [clean("c"), subscribe(vec![filter("t", 2)])]);
    run(&mut w, p, (0..5).map(|_| mqtt("t", "m", 1, 0)).collect::<Vec<_>>());
    hear(&mut w, c);
    w.drop_client(c);
    assert_eq!(
        (w.counters().sessions, w.counters().queues, w.counters().memory_bytes),
        (1, 1, 0)
    );
}
