//! Transactions are applied as a whole, or refused.

use super::*;
use gatepost_core::engine::Limit;

#[test]
fn a_transaction_that_matches_many_bindings_takes_many_holds_and_is_atomic() {
    let mut w = World::new(1);
    w.set_audits(false);
    let (a, p) = (w.connect("amqp"), w.connect("amqp"));
    run(
        &mut w,
        a,
        [exchange("fan", "fanout"), transient("gone"), transient("stays")],
    );
    bind_often(&mut w, a, "fan", "gone", MANY);
    bind_often(&mut w, a, "fan", "stays", MANY);
    let unconfirmed = |n: usize| publish(Default::default(), message("fan", "", &n.to_string(), false));
    let mut left = vec![transaction((0..5).map(unconfirmed).collect())];
    assert!(w.hold(p, &mut left));
    assert_eq!(run(&mut w, a, [get_no_ack("stays")]), ["empty"]);
    let mut deleting = vec![delete("gone")];
    while w.hold(a, &mut deleting) {}
    run(&mut w, a, [transient("new")]);
    assert!(holds(&mut w, p, left) > 1);
    assert_eq!(hear(&mut w, p), ["done Commit"]);
    let heard = run(&mut w, a, (0..6).map(|_| get_no_ack("stays")).collect::<Vec<_>>());
    for n in 0..5 {
        assert!(
            heard
                .iter()
                .any(|line| line.starts_with(&format!("got #{} {n} ", n + 2)) || line.contains(&format!(" {n} left"))),
            "{heard:?}"
        );
    }
    assert_eq!(run(&mut w, a, [get("new")]), ["empty"]);
}

#[test]
fn a_transaction_of_too_many_deliveries_is_refused_whole() {
    let settings = gatepost_core::testing::world::Settings {
        transaction_deliveries_max: 5,
        ..Default::default()
    };
    let mut w = World::with(1, settings, Default::default());
    let (a, p) = (w.connect("amqp"), w.connect("amqp"));
    run(&mut w, a, [exchange("fan", "fanout"), transient("x"), transient("y")]);
    run(&mut w, a, [bind("fan", "x", ""), bind("fan", "y", "")]);
    let put = |_| publish(Default::default(), message("fan", "", "m", false));
    let puts = |count: usize| transaction((0..count).map(put).collect());
    assert_eq!(run(&mut w, p, [puts(2)]), ["done Commit"]);
    let refused = run(&mut w, p, [puts(3)]);
    assert!(refused[0].contains("limit of 5"), "{refused:?}");
    assert_eq!(w.counters().limit_refusals[Limit::TransactionDeliveries as usize], 1);
    assert_eq!(run(&mut w, a, [purge("x")]), ["purged 2"]);
}

#[test]
fn a_transaction_that_settles_too_much_is_refused_whole() {
    let settings = gatepost_core::testing::world::Settings {
        transaction_deliveries_max: 5,
        ..Default::default()
    };
    let mut w = World::with(1, settings, Default::default());
    let (a, c) = (w.connect("amqp"), w.connect("amqp"));
    run(&mut w, a, [transient("q")]);
    run(
        &mut w,
        a,
        (0..6).map(|n| put_transient("q", &n.to_string())).collect::<Vec<_>>(),
    );
    run(&mut w, c, [consume("q", 1)]);
    let refused = run(&mut w, c, [transaction(vec![ack_upto(6)])]);
    assert!(refused[0].contains("limit of 5"), "{refused:?}");
    assert_eq!(run(&mut w, c, [transaction(vec![ack_upto(5)])]), ["done Commit"]);
    assert_eq!(run(&mut w, c, [transaction(vec![ack(6)])]), ["done Commit"]);
}
