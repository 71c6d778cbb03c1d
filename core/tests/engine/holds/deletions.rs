//! Deletions and purges.

use super::*;
use gatepost_core::command::{BindTarget, Outcome};
use gatepost_core::testing::disk::Crash;

#[test]
fn a_queue_and_an_exchange_with_many_bindings_are_deleted_in_many_holds() {
    let mut w = World::new(1);
    w.set_audits(false);
    let (a, b) = (w.connect("amqp"), w.connect("amqp"));
    run(&mut w, a, [exchange("fan", "fanout"), durable("q"), transient("other")]);
    bind_often(&mut w, a, "fan", "q", MANY);
    let mut deleting = vec![delete("q"), echo(1)];
    assert!(w.hold(a, &mut deleting));
    // Nothing can be bound to it any more, and declaring it again creates a new one.
    let refused = run(&mut w, b, [bind("fan", "q", "more")]);
    assert!(refused[0].starts_with("failed Bind"), "{refused:?}");
    assert!(holds(&mut w, a, deleting) > 10);
    assert_eq!(hear(&mut w, a).last().map(String::as_str), Some("echo 1"));
    assert!(run(&mut w, a, [get("q")])[0].starts_with("failed"));

    let b = w.connect("amqp");
    bind_often(&mut w, b, "fan", "other", MANY);
    let mut deleting = vec![delete_exchange("fan"), echo(2)];
    assert!(w.hold(b, &mut deleting));
    assert!(holds(&mut w, b, deleting) > 10);
    assert_eq!(hear(&mut w, b), ["done DeleteExchange", "echo 2"]);
    run(&mut w, b, [exchange("fan", "fanout"), fan("", "m")]);
    assert_eq!(run(&mut w, b, [get("other")]), ["empty"]);
}

#[test]
fn a_deletion_continues_without_its_connection() {
    let mut w = World::new(1);
    w.set_audits(false);
    let (a, b) = (w.connect("amqp"), w.connect("amqp"));
    run(
        &mut w,
        a,
        [exchange("fan", "fanout"), exchange("fan2", "fanout"), durable("q")],
    );
    run(
        &mut w,
        a,
        [declare("auto", |d| d.auto_delete = true), consume("auto", 1)],
    );
    for queue in ["q", "auto"] {
        bind_often(&mut w, a, "fan", queue, MANY);
    }
    bind_often(&mut w, a, "fan2", "q", MANY);
    run(&mut w, a, [cancel(1)]);
    let mut deleting = vec![delete("q")];
    assert!(w.hold(a, &mut deleting));
    w.drop_client(a);
    let mut deleting = vec![delete_exchange("fan2")];
    assert!(w.hold(b, &mut deleting));
    w.drop_client(b);
    for _ in 0..2_000 {
        w.advance(ms(1));
    }
    w.catch_up();
    let c = w.connect("amqp");
    for name in ["q", "auto"] {
        assert!(run(&mut w, c, [get(name)])[0].starts_with("failed Get"), "{name}");
    }
}

/// The command looked its queue up by name in each hold. So it continued with the queue, or the exchange, that another
/// client had declared meanwhile, and deleted that, too.
#[test]
fn a_deletion_does_not_delete_what_was_declared_meanwhile() {
    let mut w = World::new(1);
    w.set_audits(false);
    let (a, b) = (w.connect("amqp"), w.connect("amqp"));
    run(&mut w, a, [exchange("fan", "fanout"), durable("q"), put("q", "old")]);
    bind_often(&mut w, a, "fan", "q", MANY);
    let mut deleting = vec![delete("q"), echo(1)];
    assert!(w.hold(a, &mut deleting));
    run(&mut w, b, [durable("q"), put("q", "new"), put("q", "newer")]);
    holds(&mut w, a, deleting);
    assert_eq!(hear(&mut w, a), ["deleted 1", "echo 1"]);
    assert_eq!(run(&mut w, b, [purge("q")]), ["purged 2"]);

    bind_often(&mut w, a, "fan", "q", MANY);
    let mut deleting = vec![delete_exchange("fan"), echo(2)];
    assert!(w.hold(a, &mut deleting));
    run(&mut w, b, [exchange("fan", "fanout"), bind("fan", "q", "")]);
    holds(&mut w, a, deleting);
    assert_eq!(hear(&mut w, a), ["done DeleteExchange", "echo 2"]);
    run(&mut w, b, [fan("", "m")]);
    assert_eq!(run(&mut w, b, [purge("q")]), ["purged 1"]);
}

/// Deletions that nobody waits for are listed by key, but their bindings were found by slot: those of the queue that
/// had the slot by then were removed, all but a few.
#[test]
fn a_finished_deletion_keeps_the_bindings_of_the_next_queue() {
    let mut w = World::new(1);
    let a = w.connect("amqp");
    let auto_delete = declare("auto", |d| d.auto_delete = true);
    run(&mut w, a, [exchange("x", "direct"), auto_delete, consume("auto", 1)]);
    bind_often(&mut w, a, "x", "auto", 100);
    run(&mut w, a, [cancel(1)]);
    // The declaration finishes the old queue's deletion; its entry in the list of deletions stays for the timer.
    run(&mut w, a, [durable("auto")]);
    bind_often(&mut w, a, "x", "auto", 100);
    for _ in 0..100 {
        w.advance(ms(1));
    }
    let publishes = (0..100).map(|n| publish(Default::default(), message("x", &format!("k{n}"), "m", true)));
    run(&mut w, a, publishes.collect::<Vec<_>>());
    assert_eq!(run(&mut w, a, [purge("auto")]), ["purged 100"]);
}

/// A queue of 1,500 messages, of which 1,000 are unsettled at a consumer.
fn held_and_waiting(w: &mut World, a: Client, c: Client) {
    run(w, a, [durable("q")]);
    for first in (0..1_500).step_by(100) {
        let some: Vec<_> = (first..first + 100).map(|n| put("q", &n.to_string())).collect();
        run(w, a, some);
    }
    let heard = run(w, c, [consume_with("q", 1, |c| c.prefetch = Some(1_000))]);
    assert_eq!(delivered(&heard), (0..1_000).collect::<Vec<_>>());
}

#[test]
fn a_purge_of_a_queue_with_unsettled_messages_takes_many_holds_and_keeps_them() {
    // It searched all unsettled deliveries of all clients in one hold: two million, if clients want.
    let mut w = small_holds();
    let (a, c) = (w.connect("amqp"), w.connect("amqp"));
    held_and_waiting(&mut w, a, c);
    let mut left = vec![purge("q"), echo(1)];
    let mut holds = 1;
    while w.hold(a, &mut left) {
        holds += 1;
        if holds == 2 {
            // Unsettled messages move meanwhile: back to the queue and out again, and away.
            run(
                &mut w,
                c,
                [requeue(1), ack(2), reject(3), settle(700, false, Outcome::Requeue)],
            );
            run(&mut w, c, [put("q", "5000")]);
        }
    }
    assert!(holds > 3, "{holds} holds");
    assert_eq!(hear(&mut w, a), ["purged 500", "echo 1"]);
    w.crash(Crash::Power);
    let c = w.connect("amqp");
    let heard = run(&mut w, c, [consume("q", 1)]);
    let mut expected: Vec<_> = (0..1_000).filter(|n| ![1, 2].contains(n)).collect();
    expected.push(5_000);
    assert_eq!(delivered(&heard), expected);
}

#[test]
fn a_purge_continues_without_its_connection() {
    let mut w = small_holds();
    let (a, b, c) = (w.connect("amqp"), w.connect("amqp"), w.connect("amqp"));
    held_and_waiting(&mut w, a, c);
    let mut left = vec![purge("q")];
    assert!(w.hold(a, &mut left) && w.hold(a, &mut left));
    w.drop_client(a);
    // Another purge meanwhile waits for its end.
    run(&mut w, b, [put("q", "6000")]);
    assert_eq!(run(&mut w, b, [purge("q")]), ["purged 1"]);
    for _ in 0..100 {
        w.advance(ms(1));
    }
    w.catch_up();
    w.crash(Crash::Power);
    let c = w.connect("amqp");
    let heard = run(&mut w, c, [consume("q", 1)]);
    assert_eq!(delivered(&heard), (0..1_000).collect::<Vec<_>>());
    assert_eq!(run(&mut w, c, [purge("q")]), ["purged 0"]);
}

#[test]
fn a_chain_of_auto_delete_exchanges_is_deleted_in_steps() {
    // When its last binding was removed, all of it was deleted in one hold.
    const CHAIN: usize = 2_000;
    let mut w = World::new(1);
    w.set_audits(false);
    let a = w.connect("amqp");
    let auto = |n: usize| {
        let mut declare = exchange(&format!("x{n}"), "fanout");
        if let Command::DeclareExchange(d) = &mut declare {
            d.auto_delete = true;
        }
        declare
    };
    let lead = |n: usize| {
        let mut lead = bind(&format!("x{n}"), "", "");
        if let Command::Bind(lead) = &mut lead {
            lead.target = BindTarget::Exchange(format!("x{}", n + 1).into());
        }
        lead
    };
    run(&mut w, a, [transient("q")]);
    for part in (0..CHAIN).step_by(500) {
        run(&mut w, a, (part..part + 500).map(auto).collect::<Vec<_>>());
    }
    for part in (0..CHAIN - 1).step_by(500) {
        let to = (CHAIN - 1).min(part + 500);
        run(&mut w, a, (part..to).map(lead).collect::<Vec<_>>());
    }
    run(&mut w, a, [bind(&format!("x{}", CHAIN - 1), "q", "")]);
    let Command::Bind(last) = bind(&format!("x{}", CHAIN - 1), "q", "") else {
        unreachable!()
    };
    let there = || publish(Default::default(), message("x0", "", "m", false));
    let heard = run(&mut w, a, [Command::Unbind(last), there()]);
    assert_eq!(heard, ["done Unbind"], "the far end is still there");
    for _ in 0..200 {
        w.advance(ms(1));
    }
    let heard = run(&mut w, a, [there(), exchange("x0", "direct")]);
    assert!(
        heard[0].contains("no exchange 'x0'") && heard[1] == "done DeclareExchange",
        "{heard:?}"
    );
}

/// Each queue that was deleted had a whole hold's time to cancel its consumers: a client that deleted a hundred queues of
/// some hundred consumers each kept the engine's lock a hundred times as long as others.
#[test]
fn the_consumers_of_many_deleted_queues_are_cancelled_in_many_holds() {
    const QUEUES: u32 = 30;
    const EACH: u32 = 100;
    let mut w = World::new(1);
    w.set_audits(false);
    let (a, b) = (w.connect("amqp"), w.connect("amqp"));
    for n in 0..QUEUES {
        let name = format!("q{n}");
        run(&mut w, a, [transient(&name)]);
        run(
            &mut w,
            b,
            (0..EACH).map(|m| consume(&name, 1 + n * EACH + m)).collect::<Vec<_>>(),
        );
    }
    let mut deleting: Vec<Command> = (0..QUEUES).map(|n| delete(&format!("q{n}"))).collect();
    assert!(!w.hold(a, &mut deleting), "all are deleted in one hold");
    let gone = |w: &mut World| {
        let heard = now(w, b);
        heard.iter().filter(|line| line.starts_with("gone")).count()
    };
    let at_once = gone(&mut w);
    assert!((1..1_000).contains(&at_once), "{at_once} at once");
    w.advance(ms(1));
    assert_eq!(at_once + gone(&mut w), (QUEUES * EACH) as usize);
    assert_eq!(w.counters().consumers, 0);
}
