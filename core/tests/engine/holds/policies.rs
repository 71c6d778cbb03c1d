//! Many policies and many queues: each queue is compared with each pattern until one matches.

use super::*;
use gatepost_core::policy::{POLICIES_MAX, PolicyKind};
use gatepost_core::properties::Value;

/// The most policies, none of which matches any of the queues but the last.
fn many_policies() -> Vec<gatepost_core::command::PolicyChange> {
    let changes = (1..POLICIES_MAX).map(|n| {
        let definition = [("max-length", Value::Int(10, 64))];
        let record = policy_record(
            &format!("^plant\\.(a|b)+\\.line{n}\\.[0-9]+$"),
            "queues",
            n as i64,
            &definition,
        );
        change(PolicyKind::User, &format!("p{n}"), Some(record))
    });
    let all = policy_record("", "queues", 0, &[("max-length", Value::Int(7, 64))]);
    changes.chain([change(PolicyKind::User, "all", Some(all))]).collect()
}

/// 512 patterns and 10,000 queues are five million comparisons, which took one hold of the lock when nothing counted
/// them.
#[test]
fn many_policies_are_applied_to_many_queues_in_many_holds() {
    const QUEUES: usize = 10_000;
    let mut w = World::new(1);
    w.set_audits(false);
    let c = w.connect("test");
    for part in 0..QUEUES / 500 {
        let queues = part * 500..(part + 1) * 500;
        run(
            &mut w,
            c,
            queues.map(|n| transient(&format!("plant.ab.q{n}"))).collect::<Vec<_>>(),
        );
    }
    let before = w.counters().longest_hold_units;
    let took = holds(&mut w, c, vec![policies(many_policies())]);
    let matches = QUEUES * POLICIES_MAX;
    assert!(
        took > matches / (1024 * 16) && took > 100,
        "{took} holds for {matches} matches"
    );
    let longest = w.counters().longest_hold_units;
    assert!(longest <= LONGEST_UNITS.max(before), "{longest} units");
    assert_eq!(hear(&mut w, c), ["done SetPolicies"]);
    for n in [0, 5_000, QUEUES - 1] {
        let name = format!("plant.ab.q{n}");
        let bodies: Vec<Command> = (0..9).map(|n| put_transient(&name, &n.to_string())).collect();
        run(&mut w, c, bodies);
        let (_, ready, _) = w.turn(|engine| engine.queue_counts(&name)).expect("the queue");
        assert_eq!(ready, 7, "{name}");
    }
}

/// A declaration counted as one unit, however many patterns the new queue's name was compared with. A thousand of them,
/// half a million comparisons, were one hold.
#[test]
fn queues_made_under_many_policies_take_many_holds() {
    const QUEUES: usize = 2_000;
    let mut w = World::new(1);
    w.set_audits(false);
    let c = w.connect("test");
    run(&mut w, c, [policies(many_policies())]);
    let declarations: Vec<Command> = (0..QUEUES).map(|n| transient(&format!("plant.ab.q{n}"))).collect();
    let took = holds(&mut w, c, declarations);
    assert!(took > QUEUES * POLICIES_MAX / (1024 * 16) / 2, "{took} holds");
    assert_eq!(w.counters().queues, QUEUES as u64);
    let longest = w.counters().longest_hold_units;
    assert!(longest <= LONGEST_UNITS, "{longest} units");
    // An existing queue is compared with none of them.
    hear(&mut w, c);
    let again: Vec<Command> = (0..500).map(|n| transient(&format!("plant.ab.q{n}"))).collect();
    let took = holds(&mut w, c, again);
    assert!(took < 5, "{took} holds");
}
