//! Messages that die: dead letters, expired messages, messages displaced by limits.

use super::*;
use gatepost_core::command::Outcome;
use gatepost_core::message::{Envelope, Message};
use gatepost_core::properties::Value;
use gatepost_core::testing::disk::Crash;

#[test]
fn a_dead_letter_that_matches_many_bindings_continues_in_later_turns() {
    let mut w = World::new(1);
    w.set_audits(false);
    let (a, p) = (w.connect("amqp"), w.connect("amqp"));
    let mut source = declare("source", |d| d.durable = false);
    if let Command::DeclareQueue(d) = &mut source {
        d.arguments
            .push("x-dead-letter-exchange", gatepost_core::properties::Value::text("fan"));
    }
    run(&mut w, a, [exchange("fan", "fanout"), transient("dead"), source]);
    bind_often(&mut w, a, "fan", "dead", 2 * MANY);
    run(&mut w, p, [put_transient("source", "1"), put_transient("source", "2")]);
    run(&mut w, a, [get("source"), get("source")]);
    run(&mut w, a, [reject(1), reject(2)]);
    for _ in 0..20 {
        w.advance(ms(1));
    }
    let heard = run(&mut w, p, [get_no_ack("dead"), get_no_ack("dead"), get_no_ack("dead")]);
    assert!(
        heard[0].contains(" 1 ") && heard[1].contains(" 2 ") && heard[2] == "empty",
        "{heard:?}"
    );
}

#[test]
fn a_crash_between_the_holds_of_a_dead_letter_loses_nothing() {
    // The settle of its source could be logged before the dead letter was in a queue.
    let mut places = [0, 0];
    for turns in [0, 1, 2, 4, 6, 9, 60] {
        let mut w = small_holds();
        let (a, p) = (w.connect("amqp"), w.connect("amqp"));
        let mut source = declare("source", |_| {});
        if let Command::DeclareQueue(d) = &mut source {
            d.arguments
                .push("x-dead-letter-exchange", gatepost_core::properties::Value::text("fan"));
        }
        run(
            &mut w,
            a,
            [exchange("fan", "fanout"), durable("dead"), durable("other"), source],
        );
        bind_often(&mut w, a, "fan", "dead", 1_500);
        run(&mut w, p, [put("source", "1"), put("source", "2")]);
        assert!(run(&mut w, a, [get("source")])[0].starts_with("got"));
        w.send(a, vec![reject(1)]);
        // A purge removes waiting messages, not those that have died there.
        w.send(p, vec![purge("source")]);
        for n in 0..turns {
            // Settles known by then are logged with it.
            w.send(p, vec![put("other", &n.to_string())]);
        }
        w.commit();
        w.crash(Crash::Power);
        for _ in 0..20 {
            w.advance(ms(1));
        }
        w.catch_up();
        let c = w.connect("amqp");
        let heard = run(&mut w, c, [get("source"), get("source"), get("dead"), get("dead")]);
        let bodies = |at: usize| heard[at].split(' ').nth(2).unwrap_or("").to_owned();
        let found = [bodies(0), bodies(1), bodies(2), bodies(3)];
        let died = match found.each_ref().map(String::as_str) {
            ["1", "", "", ""] => false,
            ["", "", "1", ""] => true,
            _ => panic!("after {turns} turns: {heard:?}"),
        };
        places[usize::from(died)] += 1;
    }
    assert!(
        places[0] > 2 && places[1] > 0,
        "crashes before and after it was logged: {places:?}"
    );
}

#[test]
fn messages_that_expire_together_take_many_holds() {
    let mut w = World::new(1);
    w.set_audits(false);
    let (a, p) = (w.connect("amqp"), w.connect("amqp"));
    let with_dead_letters = declare("source", |d| {
        d.durable = false;
        d.arguments.push("x-dead-letter-exchange", Value::text(""));
        d.arguments.push("x-dead-letter-routing-key", Value::text("dead"));
    });
    run(&mut w, a, [transient("dead"), with_dead_letters, transient("plain")]);
    let deadline = w.now().wall + ms(1_000);
    for queue in ["source", "plain"] {
        for _ in 0..MANY / 500 {
            let envelope = Envelope {
                deadline: Some(deadline),
                ..Envelope::default()
            };
            let some = (0..500).map(|_| publish(Default::default(), Message::new(envelope, "", queue, &[], b"m")));
            w.send(p, some.collect());
        }
    }
    w.advance(ms(999));
    assert_eq!(w.counters().expired, 0);
    w.advance(ms(1));
    // A get finds the rest of them, and still finishes.
    w.send(p, vec![get("source"), get("plain")]);
    for _ in 0..200 {
        w.advance(ms(1));
    }
    assert_eq!(w.counters().expired, 2 * MANY as u64);
    assert_eq!(now(&mut w, p), ["empty", "empty"]);
    assert_eq!(run(&mut w, a, [purge("dead")]), [format!("purged {MANY}")]);
    let longest = w.counters().longest_hold_units;
    assert!(longest < LONGEST_UNITS, "{longest} units");
}

#[test]
fn one_message_that_displaces_thousands_takes_many_holds() {
    let mut w = World::new(1);
    w.set_audits(false);
    let (a, p) = (w.connect("amqp"), w.connect("amqp"));
    let limited = declare("q", |d| {
        d.durable = false;
        d.arguments.push("x-max-length-bytes", Value::Int(MANY as i64, 64));
        d.arguments.push("x-dead-letter-exchange", Value::text(""));
        d.arguments.push("x-dead-letter-routing-key", Value::text("dead"));
    });
    run(&mut w, a, [transient("dead"), limited]);
    for _ in 0..MANY / 500 {
        run(&mut w, p, (0..500).map(|_| put_transient("q", "m")).collect::<Vec<_>>());
    }
    assert_eq!(w.counters().messages_ready, MANY as u64);
    assert_eq!(run(&mut w, p, [put_transient("q", &"x".repeat(MANY))]).len(), 1);
    assert!(w.counters().messages_ready > 2, "not all at once");
    for _ in 0..200 {
        w.advance(ms(1));
    }
    assert_eq!(
        run(&mut w, a, [purge("q"), purge("dead")]),
        ["purged 1".to_owned(), format!("purged {MANY}")]
    );
    let longest = w.counters().longest_hold_units;
    assert!(longest < LONGEST_UNITS, "{longest} units");
}

#[test]
fn rejects_wait_while_many_dead_letters_wait() {
    // A consumer that rejected faster than dead letters were published filled the memory with them.
    let settings = gatepost_core::testing::world::Settings {
        memory_bytes_max: 8 << 20,
        cache_bytes_max: 8 << 20,
        hold_units_max: 256,
        ..Default::default()
    };
    let mut w = World::with(1, settings, Default::default());
    w.set_audits(false);
    let (a, c, p) = (w.connect("amqp"), w.connect("amqp"), w.connect("amqp"));
    let source = declare("source", |d| {
        d.durable = false;
        d.arguments.push("x-dead-letter-exchange", Value::text("fan"));
    });
    run(&mut w, a, [exchange("fan", "fanout"), transient("dead"), source]);
    bind_often(&mut w, a, "fan", "dead", 500);
    let body = padded("m", 1 << 10);
    for _ in 0..30 {
        run(
            &mut w,
            p,
            (0..100).map(|_| put_transient("source", &body)).collect::<Vec<_>>(),
        );
        hear(&mut w, c);
    }
    run(&mut w, c, [consume("source", 1)]);
    let before = w.counters().memory_bytes;
    let (mut left, mut most, mut holds) = (vec![settle(0, true, Outcome::Reject), echo(1)], 0, 1);
    while w.hold(c, &mut left) {
        holds += 1;
        let dead = w.counters().dead_lettered_rejected as usize;
        let routed = w.counters().messages_ready as usize;
        most = most.max(dead - routed);
    }
    // An eighth of the memory, at about 1.3 KiB each.
    assert!(
        most < 1_200 && holds > 10,
        "{most} at most in {holds} holds; {before} bytes before"
    );
    for _ in 0..2_000 {
        w.advance(ms(1));
    }
    assert_eq!(hear(&mut w, c).last().map(String::as_str), Some("echo 1"));
    assert_eq!(run(&mut w, a, [purge("dead")]), ["purged 3000"]);
}

/// Each queue that refuses a message creates a dead letter with a copy of the body. All were created in the hold of the
/// publish: 10,000 queues and one large message used all the memory there was.
#[test]
fn dead_letters_of_a_message_refused_by_many_queues_are_made_in_steps() {
    const QUEUES: usize = 200;
    let settings = gatepost_core::testing::world::Settings {
        memory_bytes_max: 1 << 20,
        ..Default::default()
    };
    let mut w = World::with(1, settings, Default::default());
    let (a, p) = (w.connect("amqp"), w.connect("amqp"));
    let dead = declare("dead", |d| {
        d.durable = false;
        d.arguments.push("x-max-length", Value::Int(4, 64));
    });
    let fans = [exchange("fan", "fanout"), exchange("dlx", "fanout")];
    run(
        &mut w,
        a,
        fans.into_iter()
            .chain([dead, bind("dlx", "dead", "")])
            .collect::<Vec<_>>(),
    );
    for n in 0..QUEUES {
        let name = format!("q{n}");
        let full = declare(&name, |d| {
            d.durable = false;
            d.arguments.push("x-max-length", Value::Int(1, 64));
            d.arguments.push("x-overflow", Value::text("reject-publish-dlx"));
            d.arguments.push("x-dead-letter-exchange", Value::text("dlx"));
        });
        run(&mut w, a, [full, bind("fan", &name, "")]);
    }
    // The routing of each dead letter takes more than a hold; until then it is in memory.
    bind_often(&mut w, a, "dlx", "dead", MANY);
    run(&mut w, p, [fan("", "small")]);
    w.send(p, vec![fan("", &padded("large", 64 << 10))]);
    let mut most = 0;
    for _ in 0..1_000 {
        most = most.max(w.turn(|engine| engine.usage().messages));
        w.advance(ms(1));
    }
    assert!(most < 1 << 20, "{most} bytes");
    assert_eq!(w.counters().dead_lettered_maxlen, QUEUES as u64);
    assert_eq!(run(&mut w, a, [purge("dead")]), ["purged 4"]);
    let longest = w.counters().longest_hold_units;
    assert!(longest < LONGEST_UNITS, "{longest} units");
}
