//! When a will is published: at the end of its connection, after its delay, at the end of its session, or never.

use crate::support::*;
use gatepost_core::command::Command;
use gatepost_core::store::StoreSettings;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{Settings, World};
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

/// The bug: after a power cut, a clean session's will was lost, and the retained "online" of a device that never came back
/// stayed for ever.
#[test]
fn a_power_cut_publishes_the_wills_of_clean_sessions_too() {
    let opened = |w: &mut World, id: &str, retain: bool| {
        let c = w.connect("mqtt");
        let mut last = will(id, 0);
        last.message = topic_message(id, "gone", |e| (e.qos, e.durable, e.retain) = (0, false, retain));
        run(
            w,
            c,
            [session(id, |s| {
                (s.clean_start, s.expiry, s.will) = (true, Some(0), Some(last));
            })],
        );
        c
    };
    let sync = |w: &mut World| {
        let c = w.connect("mqtt");
        run(w, c, [kept("sync")]);
    };
    let mut w = World::new(1);
    opened(&mut w, "device", true);
    opened(&mut w, "unretained", false);
    let polite = opened(&mut w, "polite", true);
    w.send(polite, vec![Command::DropWill]);
    w.drop_client(polite);
    sync(&mut w);
    w.crash(Crash::Power);
    w.advance(ms(1));
    let late = w.connect("mqtt");
    let mut heard = run(&mut w, late, [clean("late"), subscribe(vec![filter("#", 0)])]);
    heard.retain(|line| line.starts_with("publish"));
    assert_eq!(heard, ["publish q0 #0 device gone retain"]);
    // The record is gone as well: the second start publishes nothing, and has the kept session only.
    sync(&mut w);
    w.crash(Crash::Power);
    w.advance(ms(1));
    assert_eq!(w.counters().sessions, 1);
}

#[test]
fn a_client_with_a_will_waits_for_the_log_only_when_the_log_is_behind() {
    for (backlog, at_once) in [(4 << 20, true), (0, false)] {
        let settings = Settings {
            log_backlog_bytes_max: backlog,
            ..Settings::default()
        };
        let mut w = World::with(1, settings, StoreSettings::default());
        let c = w.connect("mqtt");
        w.send(
            c,
            vec![session("c", |s| {
                (s.clean_start, s.expiry, s.will) = (true, Some(0), Some(will("gone", 0)));
                if let Some(last) = &mut s.will {
                    last.message = topic_message("gone", "will", |e| e.retain = true);
                }
            })],
        );
        assert_eq!(now(&mut w, c) == ["open new"], at_once, "{backlog}");
        let heard = hear(&mut w, c);
        assert_eq!(heard == ["open new"], !at_once, "{heard:?}");
    }
}
