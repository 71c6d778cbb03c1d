//! Retained messages, as a new subscription gets them.

use crate::support::*;
use gatepost_core::command::RetainHandling;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::World;

#[test]
fn retained_messages_are_replayed_as_the_subscription_asks() {
    let mut w = World::new(1);
    let p = open(&mut w, "p");
    run(&mut w, p, [retain("a/1", "x"), retain("a/2", "y"), retain("a/1", "z")]);
    let c = open(&mut w, "c");
    let as_asked = |handling| {
        let mut f = filter("a/+", 1);
        f.retain_handling = handling;
        subscribe(vec![f])
    };
    let mut heard = run(&mut w, c, [as_asked(RetainHandling::IfNew)]);
    heard.sort();
    assert_eq!(
        heard,
        [
            "publish q1 #1 a/1 z retain",
            "publish q1 #2 a/2 y retain",
            "suback 1 [Ok(1)]"
        ]
    );
    assert_eq!(run(&mut w, c, [as_asked(RetainHandling::IfNew)]), ["suback 1 [Ok(1)]"]);
    assert_eq!(run(&mut w, c, [as_asked(RetainHandling::Never)]), ["suback 1 [Ok(1)]"]);
    assert_eq!(run(&mut w, c, [as_asked(RetainHandling::Always)]).len(), 3);
    run(&mut w, p, [retain("a/1", "")]);
    w.crash(Crash::Power);
    let c = open(&mut w, "d");
    assert_eq!(
        run(&mut w, c, [subscribe(vec![filter("#", 0)])]),
        ["suback 1 [Ok(0)]", "publish q0 #0 a/2 y retain"]
    );
}

#[test]
fn live_messages_follow_a_retained_one() {
    // The replay happens inside the take that asks for it. It woke its own link; the driver dropped that wake, the
    // engine assumed that it was still to be handled, and no live message ever woke the link again.
    let mut w = World::new(1);
    let p = open(&mut w, "p");
    run(&mut w, p, [retain("t", "kept")]);
    let c = open(&mut w, "c");
    let heard = run(&mut w, c, [subscribe(vec![filter("t", 0)])]);
    assert_eq!(heard, ["suback 1 [Ok(0)]", "publish q0 #0 t kept retain"]);
    assert!(!w.is_due(c), "it has taken everything and was told so");
    w.send(p, vec![mqtt("t", "live", 0, 0)]);
    assert!(w.is_due(c), "it was not woken");
    assert_eq!(now(&mut w, c), ["publish q0 #0 t live"]);
}

#[test]
fn a_retained_message_is_confirmed_when_it_is_logged_even_if_it_was_settled_before() {
    // The settle of its only subscriber confirmed it: a power cut then lost the retained message.
    let mut w = World::new(1);
    let p = open(&mut w, "p");
    let c = subscriber(&mut w, "c", "t", 1);
    w.send(p, vec![retain("t", "m")]);
    assert_eq!(now(&mut w, c), ["publish q1 #1 t m"]);
    w.send(c, vec![puback(1)]);
    assert!(now(&mut w, p).is_empty());
    assert_eq!(hear(&mut w, p), ["confirmed 1"]);
}

#[test]
fn many_retained_messages_are_replayed_as_the_client_takes_them() {
    // All of them were put into its queue at once.
    let mut w = World::new(1);
    let p = open(&mut w, "p");
    w.set_audits(false);
    for n in 0..2_000 {
        run(&mut w, p, [retain(&format!("t/{n}"), "m")]);
    }
    let c = w.connect("mqtt");
    run(&mut w, c, [session("c", |s| s.receive_maximum = 10)]);
    w.send(c, vec![subscribe(vec![filter("t/#", 1)])]);
    w.catch_up();
    let mut heard = hear(&mut w, c);
    assert!(
        w.counters().messages_ready < 1_000,
        "{} in its queue",
        w.counters().messages_ready
    );
    let mut seen = 0;
    while let Some(l) = heard.pop() {
        if l.starts_with("publish") {
            seen += 1;
            let id: u16 = l.split(' ').nth(2).unwrap()[1..].parse().unwrap();
            heard.extend(run(&mut w, c, [puback(id)]));
        }
    }
    assert_eq!(seen, 2_000);
}
