//! Memory for objects: what does not fit is refused, one kind leaves room for the others, and everything is freed.

use crate::support::*;
use gatepost_core::command::{Command, Outcome, PublishFlags};
use gatepost_core::engine::ObjectKind;
use gatepost_core::properties::Value;
use gatepost_core::store::StoreSettings;
use gatepost_core::testing::world::{Settings, World};

/// The whole share of the engines in these tests.
const SHARE: usize = 512 << 10;

fn world() -> World {
    let settings = Settings {
        objects_bytes_max: SHARE,
        queues_max: 100_000,
        ..Settings::default()
    };
    World::with(1, settings, StoreSettings::default())
}

fn used(w: &World, kind: ObjectKind) -> usize {
    w.counters().objects_bytes[kind as usize]
}

fn refused(w: &World, kind: ObjectKind) -> usize {
    w.counters().objects_refused[kind as usize]
}

/// The answers that are refusals because memory is short.
fn refusals(heard: &[String]) -> usize {
    heard.iter().filter(|line| line.contains("QuotaExceeded")).count()
}

#[test]
fn a_flood_of_retained_messages_is_refused_and_leaves_room_for_others() {
    // At 256 MiB, 709,000 of them killed the process, and again at every start.
    let mut w = world();
    let c = w.connect("mqtt");
    run(&mut w, c, [clean("flood")]);
    let mut heard = Vec::new();
    for n in 0..3_000 {
        heard.extend(run(&mut w, c, [retain(&format!("t/{n}"), "20 bytes of a value")]));
    }
    assert!(refusals(&heard) > 1_000, "{:?}", heard.last());
    assert_eq!(refusals(&heard), refused(&w, ObjectKind::Retained));
    let kept = w.counters().retained as usize;
    assert_eq!(kept - 1 + refusals(&heard), 3_000, "all that was confirmed is kept");
    assert!(used(&w, ObjectKind::Retained) <= SHARE / 2);
    // Replacing a value needs no more memory, because bodies are evicted to the log. Clearing one frees memory.
    assert_eq!(refusals(&run(&mut w, c, [retain("t/0", "20 bytes of another")])), 0);
    let too_long = padded("a longer value", 4_000);
    assert_eq!(refusals(&run(&mut w, c, [retain("t/0", &too_long)])), 0);
    run(&mut w, c, [retain("t/1", "")]);
    assert_eq!(refusals(&run(&mut w, c, [retain("t/x", "20 bytes of a value")])), 0);
    // Other kinds have their memory.
    let other = w.connect("mqtt");
    assert_eq!(
        run(&mut w, other, [kept_session()]),
        ["open new"],
        "{:?}",
        w.counters().objects_bytes
    );
    let heard = run(&mut w, other, [subscribe(vec![filter("t/x", 1)])]);
    assert_eq!(
        heard,
        ["suback 1 [Ok(1)]", "publish q1 #1 t/x 20 bytes of a value retain"]
    );
    // A restart finds what was confirmed, and needs no more memory than before.
    let before = used(&w, ObjectKind::Retained);
    w.stop_and_start();
    assert_eq!(w.counters().retained as usize, kept);
    assert_eq!(used(&w, ObjectKind::Retained), before);
}

fn kept_session() -> Command {
    kept("other")
}

#[test]
fn a_retained_publish_without_an_error_code_still_reaches_subscribers() {
    let mut w = world();
    let (c, reader) = (w.connect("mqtt"), w.connect("mqtt"));
    run(&mut w, c, [clean("flood")]);
    run(&mut w, reader, [clean("reader")]);
    run(&mut w, reader, [subscribe(vec![filter("last", 1), filter("new", 1)])]);
    run(&mut w, c, [retain("last", "old")]);
    while refused(&w, ObjectKind::Retained) == 0 {
        let n = w.counters().retained;
        run(&mut w, c, [retain(&format!("t/{n}"), "20 bytes of a value")]);
    }
    let before = w.counters().retained;
    hear(&mut w, reader);
    // MQTT 3 cannot report a refusal, so the publish is confirmed.
    for (n, topic) in [(2, "last"), (3, "new")] {
        let patient = Command::Publish {
            channel: 0,
            flags: PublishFlags::CONFIRM | PublishFlags::PATIENT,
            packet_id: 0,
            message: topic_message(topic, &padded("value", 8_000), |e| e.retain = true),
        };
        let heard = run(&mut w, c, [patient]);
        assert!(heard.iter().all(|line| line.starts_with("confirmed")), "{heard:?}");
        assert_eq!(hear(&mut w, reader), [format!("publish q1 #{n} {topic} value")]);
    }
    assert_eq!(w.counters().retained, before);
    w.stop_and_start();
    assert_eq!(w.counters().retained, before);
    let c = w.connect("mqtt");
    run(&mut w, c, [clean("late")]);
    let heard = run(&mut w, c, [subscribe(vec![filter("last", 0), filter("new", 0)])]);
    assert_eq!(heard[1..], ["publish q0 #0 last value retain"]);
}

#[test]
fn subscriptions_over_the_limit_are_refused_one_by_one() {
    let mut w = world();
    let c = w.connect("mqtt");
    run(&mut w, c, [kept("many")]);
    let mut heard = Vec::new();
    for n in 0..100 {
        let filters = (0..20).map(|i| filter(&format!("a/{n}/{i}"), 1)).collect();
        heard.extend(run(&mut w, c, [subscribe(filters)]));
    }
    let granted: usize = heard.iter().map(|line| line.matches("Ok(1)").count()).sum();
    let denied: usize = heard
        .iter()
        .map(|line| line.matches("Err(QuotaExceeded)").count())
        .sum();
    assert_eq!((granted + denied, denied), (2_000, refused(&w, ObjectKind::Routes)));
    assert!(granted > 100 && denied > 100, "{granted} granted, {denied} denied");
    // An existing one may be changed.
    assert_eq!(
        run(&mut w, c, [subscribe(vec![filter("a/0/0", 0)])]),
        ["suback 1 [Ok(0)]"]
    );
    // A start needs no more than before, and everything granted is there.
    let before = w.counters().objects_bytes;
    w.stop_and_start();
    for kind in [ObjectKind::Routes, ObjectKind::Queues, ObjectKind::Sessions] {
        assert_eq!(
            w.counters().objects_bytes[kind as usize],
            before[kind as usize],
            "{kind:?}"
        );
    }
    // Unsubscribing frees memory.
    let c = w.connect("mqtt");
    run(&mut w, c, [kept("many")]);
    // Several, because a filter with levels of its own needs more than one that shares them.
    for n in 0..5 {
        run(&mut w, c, [unsubscribe(&format!("a/0/{n}"), None)]);
    }
    let again = run(&mut w, c, [subscribe(vec![filter("b/0/0", 1)])]);
    assert_eq!(again, ["suback 1 [Ok(1)]"]);
}

#[test]
fn a_subscribe_is_answered_when_only_its_first_filters_are_granted() {
    // The last hold of a long SUBSCRIBE logged nothing, and its answer waited for a batch that never came.
    let mut w = world();
    let c = w.connect("mqtt");
    run(&mut w, c, [kept("many")]);
    let filters = |round: usize| (0..200).map(move |n| filter(&format!("a/{round}/{n}"), 1)).collect();
    let answers = (0..20).map(|round| run(&mut w, c, [subscribe(filters(round))]));
    let answers: Vec<_> = answers.collect();
    assert!(answers.iter().all(|heard| heard.len() == 1), "{answers:?}");
    let is_mixed = |heard: &Vec<String>| heard[0].contains("Ok(1)") && heard[0].contains("QuotaExceeded");
    assert!(answers.iter().any(is_mixed));
    // So did an UNSUBSCRIBE whose last filters did not exist.
    let unsubscribe = Command::Unsubscribe(Box::new(gatepost_core::command::Unsubscribe {
        packet_id: 2,
        filters: (0..2_000).map(|n| (format!("a/0/{n}").into(), None)).collect(),
    }));
    assert_eq!(run(&mut w, c, [unsubscribe]).len(), 1);
}

#[test]
fn queues_bindings_exchanges_and_sessions_are_refused_too() {
    let mut w = world();
    let c = w.connect("amqp");
    let refusals_of = |w: &mut World, make: &dyn Fn(usize) -> Command| {
        let mut all = 0;
        for n in 0..3_000 {
            let heard = run(w, c, [make(n)]);
            if refusals(&heard) > 0 {
                all += 1;
            }
            if all == 3 {
                return n;
            }
        }
        panic!("nothing is refused");
    };
    assert!(refusals_of(&mut w, &|n| transient(&format!("q{n}"))) > 50);
    assert!(refusals_of(&mut w, &|n| exchange(&format!("x{n}"), "direct")) > 50);
    let large = |n: usize| {
        let Command::Bind(mut bind) = bind("amq.headers", "q0", &n.to_string()) else {
            unreachable!()
        };
        bind.arguments.push("h", Value::text(&"v".repeat(4_000)));
        Command::Bind(bind)
    };
    assert!(refusals_of(&mut w, &large) < 50);
    for kind in [ObjectKind::Queues, ObjectKind::Routes] {
        assert!(used(&w, kind) <= SHARE / 2, "{kind:?}");
        assert_eq!(refused(&w, kind) % 3, 0, "{kind:?}");
    }
    // Existing objects can be declared, bound and used again. The last eighth is for clients that come to use them.
    assert_eq!(run(&mut w, c, [transient("q0")]), ["declared q0 0/0"]);
    let user = w.connect("amqp");
    assert_eq!(run(&mut w, user, [consume("q0", 1)]), ["consuming c1"]);
    // Sessions.
    let mut heard = Vec::new();
    for n in 0..2_000 {
        let c = w.connect("mqtt");
        heard = run(&mut w, c, [kept(&format!("c{n}"))]);
        if refusals(&heard) > 0 {
            break;
        }
        w.drop_client(c);
    }
    assert!(heard[0].starts_with("failed OpenSession QuotaExceeded"), "{heard:?}");
}

#[test]
fn all_memory_is_given_back() {
    let mut w = world();
    w.set_audits(false);
    let empty = w.counters().objects_bytes;
    let c = w.connect("mqtt");
    run(&mut w, c, [session("c", |s| s.expiry = Some(0))]);
    run(
        &mut w,
        c,
        [subscribe(vec![
            filter("a/+/b", 1),
            shared("g", "a/#", 1),
            filter("#", 0),
        ])],
    );
    run(&mut w, c, [mqtt("a/x/b", "1", 2, 7), retain("a/r", "value")]);
    let amqp = w.connect("amqp");
    run(
        &mut w,
        amqp,
        [exchange("x", "topic"), exchange("h", "headers"), durable("q")],
    );
    run(
        &mut w,
        amqp,
        [
            bind("x", "q", "a.*.b"),
            bind("x", "q", "#"),
            bind("h", "q", "k"),
            consume("q", 1),
        ],
    );
    let full = w.counters().objects_bytes;
    assert!(full.iter().zip(empty).all(|(full, empty)| *full > empty), "{full:?}");
    run(&mut w, amqp, [delete("q"), delete_exchange("x"), delete_exchange("h")]);
    run(&mut w, c, [retain("a/r", "")]);
    w.drop_client(c);
    w.drop_client(amqp);
    w.catch_up();
    let mut left = w.counters().objects_bytes;
    // Used routes are remembered, up to a limit.
    left[ObjectKind::Routes as usize] = 0;
    let mut empty = empty;
    empty[ObjectKind::Routes as usize] = 0;
    assert_eq!(left, empty);
}

fn delete_exchange(name: &str) -> Command {
    Command::DeleteExchange(Box::new(gatepost_core::command::DeleteExchange {
        channel: CH,
        name: name.into(),
        if_unused: false,
        reply: true,
    }))
}

/// Deliveries that a client has not completed are kept in memory, counted, and freed.
#[test]
fn memory_of_deliveries_in_flight_to_a_session_is_counted() {
    let mut w = world();
    let c = w.connect("mqtt");
    run(
        &mut w,
        c,
        [
            session("c", |s| s.receive_maximum = 2_000),
            subscribe(vec![filter("a", 1)]),
        ],
    );
    let idle = used(&w, ObjectKind::Sessions);
    let p = w.connect("mqtt");
    for _ in 0..4 {
        run(&mut w, p, (0..250).map(|_| mqtt("a", "1", 1, 0)).collect::<Vec<_>>());
    }
    assert_eq!(hear(&mut w, c).len(), 1_000);
    let busy = used(&w, ObjectKind::Sessions) - idle;
    assert!((50_000..200_000).contains(&busy), "{busy} bytes for a thousand");
    run(&mut w, c, (1..=1_000).map(puback).collect::<Vec<_>>());
    assert_eq!(used(&w, ObjectKind::Sessions), idle);
}

/// While a disk was slow, each request of a client was answered in memory behind the first answer that waited, which
/// nothing counted or limited.
#[test]
fn answers_that_wait_for_the_log_are_counted_and_bounded() {
    let mut w = world();
    let c = w.connect("amqp");
    run(&mut w, c, [Command::OpenChannel { channel: CH }]);
    let idle = used(&w, ObjectKind::Connections);
    let questions = [durable("q")].into_iter().chain((0..5_000).map(echo));
    w.send(c, questions.collect());
    assert!(now(&mut w, c).is_empty(), "nothing is synced");
    assert!(w.waits(c), "the rest is not asked yet");
    let waiting = used(&w, ObjectKind::Connections) - idle;
    assert!(
        (60_000..250_000).contains(&waiting),
        "{waiting} bytes for a thousand answers"
    );
    // Commands that only remove something do not wait, and everything is answered in order.
    let heard = hear(&mut w, c);
    assert_eq!(heard.len(), 5_001);
    assert_eq!((&*heard[0], &*heard[5_000]), ("declared q 0/0", "echo 4999"));
    assert!(heard[1..].is_sorted_by_key(|line| line[5..].parse::<u32>().expect("a number")));
    assert_eq!(used(&w, ObjectKind::Connections), idle);
    // A client that leaves while its answers wait leaves nothing.
    w.send(c, [durable("r")].into_iter().chain((0..5_000).map(echo)).collect());
    w.drop_client(c);
    // Its remaining commands are applied first, when the log has caught up.
    hear(&mut w, c);
    let d = w.connect("amqp");
    run(&mut w, d, [Command::OpenChannel { channel: CH }]);
    assert_eq!(used(&w, ObjectKind::Connections), idle);
}

/// How often a message came back is kept in memory. A client that took and returned all of a long queue made that grow
/// without limit.
#[test]
fn memory_of_counts_of_returns_is_counted_limited_and_freed() {
    let mut w = world();
    let c = w.connect("amqp");
    let quorum = declare("q", |d| {
        d.arguments.push("x-queue-type", Value::text("quorum"));
        d.arguments.push("x-delivery-limit", Value::Int(-1, 32));
    });
    run(&mut w, c, [quorum]);
    for _ in 0..30 {
        run(&mut w, c, (0..500).map(|_| put("q", "1")).collect::<Vec<_>>());
    }
    let before = used(&w, ObjectKind::Queues);
    let mut numbered = 0;
    let mut give_back = |w: &mut World, count: u64| {
        let got = run(w, c, (0..count).map(|_| get("q")).collect::<Vec<_>>());
        assert_eq!(got.len() as u64, count);
        numbered += count;
        run(w, c, [settle(numbered, true, Outcome::Requeue)]);
    };
    give_back(&mut w, 100);
    let hundred = used(&w, ObjectKind::Queues) - before;
    assert!((2_400..10_000).contains(&hundred), "{hundred}");
    // The same again needs no more memory.
    give_back(&mut w, 100);
    assert_eq!(used(&w, ObjectKind::Queues) - before, hundred);
    give_back(&mut w, 15_000);
    assert!(used(&w, ObjectKind::Queues) <= SHARE / 2);
    assert!(refused(&w, ObjectKind::Queues) > 0, "some are not counted");
    // No message is lost by that.
    let heard = run(&mut w, c, [consume("q", 1)]);
    assert_eq!(heard.len(), 1 + 15_000);
    run(&mut w, c, [settle(0, true, Outcome::Accept)]);
    assert_eq!(used(&w, ObjectKind::Queues), before);
    // A restart counts what the log knows.
    let again = w.connect("amqp");
    run(&mut w, again, (0..200).map(|_| put("q", "1")).collect::<Vec<_>>());
    run(&mut w, c, [Command::Detach]);
    let got = run(&mut w, again, (0..200).map(|_| get("q")).collect::<Vec<_>>());
    assert_eq!(got.len(), 200);
    run(&mut w, again, [settle(0, true, Outcome::Requeue)]);
    let counted = used(&w, ObjectKind::Queues);
    assert!(counted > before);
    w.stop_and_start();
    // Its arguments may be stored more compactly than before.
    let restarted = used(&w, ObjectKind::Queues);
    assert!(restarted.abs_diff(counted) < 200, "{restarted} after {counted}");
    let last = w.connect("amqp");
    run(&mut w, last, [purge("q")]);
    assert!(used(&w, ObjectKind::Queues).abs_diff(before) < 200);
}
