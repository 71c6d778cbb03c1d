//! Policies: they apply to existing queues and exchanges, stop applying when they are cleared, and survive a crash.

use crate::support::*;
use gatepost_core::access::Rights;
use gatepost_core::command::{Command, DeclareExchange, PublishFlags};
use gatepost_core::engine::inspect::{Cursor, Item, Kind};
use gatepost_core::message::{Envelope, Message};
use gatepost_core::policy::PolicyKind;
use gatepost_core::properties::{Table, Value};
use gatepost_core::store::StoreSettings;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{Client, Settings, World};

const SET: &str = "done SetPolicies";

fn int(n: i64) -> Value {
    Value::Int(n, 64)
}

/// Removes and returns the messages that wait in the queue.
fn drained(w: &mut World, queue: &str) -> Vec<String> {
    let c = w.connect("test");
    let mut bodies = Vec::new();
    while let [got] = &run(w, c, [get_no_ack(queue)])[..]
        && let Some(rest) = got.strip_prefix("got #")
    {
        bodies.push(rest.split(' ').nth(1).unwrap_or_default().to_owned());
    }
    w.drop_client(c);
    bodies
}

fn depth(w: &mut World, queue: &str) -> String {
    let c = w.connect("test");
    let heard = run(w, c, [declare(queue, |d| d.passive = true)]);
    w.drop_client(c);
    let words = heard[0].split(' ').nth(2).unwrap_or_default().to_owned();
    words.split('/').next().unwrap_or_default().to_owned()
}

/// Lets the engine continue its deferred work.
fn settle_down(w: &mut World) {
    for _ in 0..50 {
        w.advance(ms(2));
        w.catch_up();
    }
}

fn put_many(w: &mut World, c: Client, queue: &str, count: usize) {
    for first in (0..count).step_by(100) {
        let some = (first..count.min(first + 100)).map(|n| put(queue, &n.to_string()));
        run(w, c, some.collect::<Vec<_>>());
    }
}

#[test]
fn a_length_limit_applies_to_existing_and_new_queues() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [durable("ops.a"), durable("other")]);
    for queue in ["ops.a", "other"] {
        put_many(&mut w, c, queue, 5);
    }
    let limit = policy("limit", "^ops\\.", "queues", &[("max-length", int(2))]);
    assert_eq!(run(&mut w, c, [limit]), [SET]);
    settle_down(&mut w);
    run(&mut w, c, [durable("ops.b")]);
    put_many(&mut w, c, "ops.b", 4);
    assert_eq!(
        (depth(&mut w, "ops.b"), depth(&mut w, "other")),
        ("2".into(), "5".into())
    );
    assert_eq!(drained(&mut w, "ops.a"), ["3", "4"]);
    // The policy is cleared, and so is the limit.
    assert_eq!(run(&mut w, c, [clear_policy("limit")]), [SET]);
    put_many(&mut w, c, "ops.b", 4);
    assert_eq!(depth(&mut w, "ops.b"), "6");
    let again = run(&mut w, c, [clear_policy("limit")]);
    assert_eq!(again, ["failed SetPolicies NotFound no policy 'limit' in vhost '/'"]);
}

#[test]
fn a_time_to_live_applies_to_waiting_messages() {
    let mut w = World::new(2);
    let c = w.connect("test");
    run(&mut w, c, [durable("q")]);
    let message = |w: &World, body: &str| {
        let envelope = Envelope {
            durable: true,
            qos: 1,
            received: w.now().wall,
            ..Envelope::default()
        };
        publish(
            PublishFlags::CONFIRM,
            Message::new(envelope, "", "q", &[], body.as_bytes()),
        )
    };
    let old = message(&w, "old");
    run(&mut w, c, [old]);
    w.advance(ms(500));
    let young = message(&w, "young");
    run(&mut w, c, [young]);
    run(&mut w, c, [policy("ttl", "", "queues", &[("message-ttl", int(300))])]);
    settle_down(&mut w);
    assert_eq!(depth(&mut w, "q"), "1");
    w.advance(ms(300));
    settle_down(&mut w);
    assert_eq!(depth(&mut w, "q"), "0");
    run(&mut w, c, [clear_policy("ttl")]);
    let kept = message(&w, "kept");
    run(&mut w, c, [kept]);
    w.advance(ms(60_000));
    assert_eq!(drained(&mut w, "q"), ["kept"]);
}

#[test]
fn messages_above_a_limit_go_to_the_policys_dead_letter_exchange() {
    let mut w = World::new(3);
    let c = w.connect("test");
    run(&mut w, c, [durable("q"), durable("dead")]);
    put_many(&mut w, c, "q", 300);
    let definition = [
        ("max-length", int(10)),
        ("dead-letter-exchange", Value::text("")),
        ("dead-letter-routing-key", Value::text("dead")),
    ];
    assert_eq!(run(&mut w, c, [policy("p", "^q$", "queues", &definition)]), [SET]);
    settle_down(&mut w);
    assert_eq!((depth(&mut w, "q"), depth(&mut w, "dead")), ("10".into(), "290".into()));
    // A rejected one goes there, too.
    let heard = run(&mut w, c, [get("q")]);
    assert_eq!(heard, ["got #1 290 left 9"]);
    run(&mut w, c, [reject(1)]);
    let dead: Vec<String> = (0..=290).map(|n| n.to_string()).collect();
    assert_eq!(drained(&mut w, "dead"), dead);
}

#[test]
fn an_unused_queue_expires_by_policy_and_stays_without_it() {
    let mut w = World::new(4);
    let c = w.connect("test");
    let declared = with_arguments("declared", &[("x-expires", 10_000)]);
    run(&mut w, c, [durable("a"), declared]);
    let expires = |after| policy("expires", "", "queues", &[("expires", int(after))]);
    run(&mut w, c, [expires(60_000)]);
    w.advance(ms(5_000));
    // Shorter from now on.
    run(&mut w, c, [expires(2_000)]);
    w.advance(ms(1_900));
    assert_eq!(w.counters().queues, 2);
    w.advance(ms(200));
    assert_eq!(w.counters().queues, 0);
    run(&mut w, c, [durable("b"), clear_policy("expires")]);
    w.advance(ms(600_000));
    assert_eq!(w.counters().queues, 1);
}

#[test]
fn an_overflow_policy_refuses_publishes() {
    let mut w = World::new(5);
    let c = w.connect("test");
    let definition = [("max-length", int(1)), ("overflow", Value::text("reject-publish"))];
    run(&mut w, c, [durable("q"), put("q", "1"), put("q", "2")]);
    run(&mut w, c, [policy("p", "", "queues", &definition)]);
    settle_down(&mut w);
    // Confirmed messages stay.
    assert_eq!(depth(&mut w, "q"), "2");
    let heard = run(&mut w, c, [put("q", "3")]);
    assert_eq!(heard, ["refused 3 QuotaExceeded", "confirmed 3"]);
    // The same limit, and the oldest message is dropped.
    run(&mut w, c, [policy("p", "", "queues", &definition[..1])]);
    settle_down(&mut w);
    assert_eq!(drained(&mut w, "q"), ["2"]);
}

#[test]
fn the_lowest_limit_and_the_policy_of_highest_priority_apply() {
    let mut w = World::new(6);
    let c = w.connect("test");
    run(&mut w, c, [with_arguments("q", &[("x-max-length", 8)])]);
    let length = |name, priority, max| {
        let record = policy_record("^q", "all", priority, &[("max-length", int(max))]);
        change(PolicyKind::User, name, Some(record))
    };
    run(&mut w, c, [policies(vec![length("low", 1, 2), length("high", 2, 9)])]);
    put_many(&mut w, c, "q", 20);
    assert_eq!(depth(&mut w, "q"), "8", "the argument is lower");
    run(&mut w, c, [operator_policy("op", "^q", &[("max-length", int(5))])]);
    settle_down(&mut w);
    assert_eq!(depth(&mut w, "q"), "5", "the operator is");
    run(&mut w, c, [clear_policy("high")]);
    settle_down(&mut w);
    assert_eq!(depth(&mut w, "q"), "2", "the next one is");
    let items = w.inspect(&mut Cursor::new(Kind::Queues), 10);
    let [
        Item::Queue {
            policy: Some(applied), ..
        },
    ] = &items[..]
    else {
        panic!("{items:?}");
    };
    assert_eq!(
        (applied.policy.as_deref(), applied.operator.as_deref()),
        (Some("low"), Some("op"))
    );
    assert_eq!(applied.definition.0.lookup("max-length"), Some(&int(2)));
}

#[test]
fn an_alternate_exchange_by_policy_applies_to_remembered_routes() {
    let mut w = World::new(7);
    let c = w.connect("test");
    let declared = Command::DeclareExchange(Box::new(DeclareExchange {
        channel: CH,
        name: "own".into(),
        kind: "direct".into(),
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Table(vec![("alternate-exchange".into(), Value::text("amq.fanout"))]),
        reply: true,
    }));
    run(&mut w, c, [exchange("x", "direct"), exchange("ae", "fanout"), declared]);
    run(
        &mut w,
        c,
        [
            durable("q"),
            bind("ae", "q", ""),
            durable("f"),
            bind("amq.fanout", "f", ""),
        ],
    );
    let mandatory = || publish(PublishFlags::MANDATORY, message("x", "k", "m", false));
    assert_eq!(run(&mut w, c, [mandatory()]), ["returned 0 m"]);
    let definition = [("alternate-exchange", Value::text("ae"))];
    run(&mut w, c, [policy("p", "", "exchanges", &definition)]);
    assert!(run(&mut w, c, [mandatory()]).is_empty());
    // The declared argument wins.
    assert!(
        run(
            &mut w,
            c,
            [publish(PublishFlags::MANDATORY, message("own", "k", "own", false))]
        )
        .is_empty()
    );
    assert_eq!(
        (drained(&mut w, "q"), drained(&mut w, "f")),
        (vec!["m".to_owned()], vec!["own".to_owned()])
    );
    w.crash(Crash::Power);
    let c = w.connect("test");
    assert!(run(&mut w, c, [mandatory()]).is_empty());
    run(&mut w, c, [clear_policy("p")]);
    assert_eq!(run(&mut w, c, [mandatory()]), ["returned 0 m"]);
}

#[test]
fn a_session_s_queue_is_limited_and_does_not_expire_before_its_session() {
    let mut w = World::new(8);
    let (s, c) = (w.connect("mqtt"), w.connect("mqtt"));
    run(&mut w, s, [kept("s"), subscribe(vec![filter("t", 1)])]);
    run(&mut w, c, [clean("c")]);
    w.drop_client(s);
    let definition = [("max-length", int(2)), ("expires", int(1_000))];
    run(&mut w, c, [policy("p", "^mqtt-subscription-", "queues", &definition)]);
    for body in ["1", "2", "3"] {
        run(&mut w, c, [mqtt("t", body, 1, 0)]);
    }
    w.advance(ms(5_000));
    let s = w.connect("mqtt");
    let heard = run(&mut w, s, [kept("s")]);
    assert_eq!(heard, ["open present", "publish q1 #1 t 2", "publish q1 #2 t 3"]);
    // A queue that refuses tells its publishers.
    w.drop_client(s);
    let refusing = [&definition[..], &[("overflow", Value::text("reject-publish"))]].concat();
    run(&mut w, c, [policy("p", "^mqtt-subscription-", "queues", &refusing)]);
    let three = ["4", "5", "6"].map(|body| mqtt("t", body, 1, 0));
    let heard = run(&mut w, c, three);
    assert_eq!(heard, ["refused 6 QuotaExceeded", "confirmed 6"]);
}

#[test]
fn a_delivery_limit_by_policy_applies_to_quorum_queues() {
    let mut w = World::new(9);
    let c = w.connect("test");
    let quorum = declare("quorum", |d| d.arguments.push("x-queue-type", Value::text("quorum")));
    run(&mut w, c, [quorum, durable("classic")]);
    run(&mut w, c, [policy("p", "", "queues", &[("delivery-limit", int(1))])]);
    for queue in ["quorum", "classic"] {
        run(&mut w, c, [put(queue, "m")]);
    }
    for number in [1, 3] {
        run(&mut w, c, [get("quorum"), get("classic")]);
        run(&mut w, c, [requeue(number), requeue(number + 1)]);
    }
    assert_eq!(
        (depth(&mut w, "quorum"), depth(&mut w, "classic")),
        ("0".into(), "1".into())
    );
}

#[test]
fn an_invalid_policy_and_one_of_a_user_without_rights_change_nothing() {
    let mut w = World::new(10);
    let c = w.connect("test");
    let good = change(
        PolicyKind::User,
        "good",
        Some(policy_record("", "queues", 0, &[("max-length", int(1))])),
    );
    let bad = change(
        PolicyKind::User,
        "bad",
        Some(policy_record("(", "queues", 0, &[("max-length", int(1))])),
    );
    let heard = run(&mut w, c, [policies(vec![good, bad])]);
    assert!(
        heard[0].starts_with("failed SetPolicies PreconditionFailed Validation failed"),
        "{heard:?}"
    );
    run(&mut w, c, [durable("q"), put("q", "1"), put("q", "2")]);
    assert_eq!(depth(&mut w, "q"), "2");
    w.set_rights("app", Rights::default());
    let app = w.connect_as("app", "test");
    let heard = run(&mut w, app, [policy("p", "", "queues", &[("max-length", int(1))])]);
    assert_eq!(
        heard,
        ["failed SetPolicies AccessRefused policies of vhost '/' refused for user 'app'"]
    );
}

/// One policy for very many queues, each above its limit, is applied in many holds, and other commands come in between.
#[test]
fn a_change_for_many_queues_takes_many_holds() {
    let mut w = World::with(
        11,
        Settings {
            hold_units_max: 64,
            ..Settings::default()
        },
        StoreSettings::default(),
    );
    w.set_audits(false);
    let c = w.connect("test");
    for n in 0..400 {
        let queue = format!("q{n}");
        run(
            &mut w,
            c,
            [durable(&queue), put(&queue, "1"), put(&queue, "2"), put(&queue, "3")],
        );
    }
    let before = w.counters().longest_hold_units;
    let mut left = vec![policy("p", "", "all", &[("max-length", int(1))])];
    let mut holds = 1;
    while w.hold(c, &mut left) {
        holds += 1;
    }
    assert!(holds > 20, "{holds}");
    assert_eq!(hear(&mut w, c), [SET]);
    settle_down(&mut w);
    let counters = w.counters();
    assert_eq!(counters.messages_ready, 400);
    assert!(
        counters.longest_hold_units <= before.max(64 * 4),
        "{}",
        counters.longest_hold_units
    );
    // The deletions may not be logged yet: they are repeated.
    w.crash(Crash::Power);
    settle_down(&mut w);
    assert_eq!(w.counters().messages_ready, 400);
}

/// A name was matched with 512 slow patterns in one hold, which took about a second.
#[test]
fn slow_patterns_are_limited_together() {
    let mut w = World::new(13);
    let c = w.connect("test");
    run(&mut w, c, [durable("q")]);
    let slow = |n: usize| policy(&format!("p{n}"), "(.{1,40}a){3}", "all", &[("max-length", int(9))]);
    let mut set = 0;
    let refused = loop {
        let heard = run(&mut w, c, [slow(set)]);
        if heard != [SET] {
            break heard;
        }
        set += 1;
        assert!(set < 100, "there is a limit");
    };
    assert!(set > 2, "{set}");
    assert!(
        refused[0].starts_with(
            "failed SetPolicies QuotaExceeded policy limit in vhost '/' is reached: all patterns together"
        ),
        "{refused:?}"
    );
    // An existing policy may be set again, made cheaper and removed, and patterns that cost nothing may be added.
    assert_eq!(run(&mut w, c, [slow(0)]), [SET]);
    assert_eq!(
        run(
            &mut w,
            c,
            [policy("plain", "^ops\\.", "all", &[("max-length", int(9))])]
        ),
        [SET]
    );
    for n in 0..20 {
        run(&mut w, c, [durable(&format!("{}{n}", "a".repeat(240)))]);
    }
    let most = w.counters().longest_hold_units;
    assert!(most < 2 * 1024, "{most}");
    assert_eq!(run(&mut w, c, [clear_policy("p1")]), [SET]);
    assert_eq!(run(&mut w, c, [slow(set)]), [SET]);
}

/// The link that set it ends before it is applied everywhere.
#[test]
fn a_change_is_completed_without_the_link_that_asked_for_it() {
    let mut w = World::with(
        12,
        Settings {
            hold_units_max: 16,
            ..Settings::default()
        },
        StoreSettings::default(),
    );
    let c = w.connect("test");
    for n in 0..40 {
        let queue = format!("q{n}");
        run(&mut w, c, [durable(&queue), put(&queue, "1"), put(&queue, "2")]);
    }
    assert!(w.hold(c, &mut vec![policy("p", "", "all", &[("max-length", int(1))])]));
    w.drop_client(c);
    settle_down(&mut w);
    assert_eq!(w.counters().messages_ready, 40);
}

fn small(seed: u64) -> World {
    let settings = Settings {
        cache_bytes_max: 16 << 10,
        memory_bytes_max: 1 << 20,
        log_backlog_bytes_max: 1 << 20,
        ..Settings::default()
    };
    let store = StoreSettings {
        segment_bytes: 64 << 10,
        checkpoint_every: ms(300),
        ..StoreSettings::default()
    };
    let mut w = World::with(seed, settings, store);
    w.set_audits(false);
    w
}

/// Without a dead-letter exchange, the part of a long queue that is only in the log is dropped without being read.
#[test]
fn the_middle_of_a_long_queue_is_dropped_without_being_read() {
    let mut w = small(13);
    let c = w.connect("test");
    run(&mut w, c, [durable("q")]);
    for first in (0..5_000).step_by(50) {
        let some = (first..first + 50).map(|n| put("q", &padded(&n.to_string(), 100)));
        run(&mut w, c, some.collect::<Vec<_>>());
    }
    assert!(w.counters().messages_paged > 4_800, "{:?}", w.counters());
    let stays = 5_000 - w.counters().messages_paged;
    let loaded = w.counters().bodies_loaded;
    w.set_audits(true);
    run(
        &mut w,
        c,
        [policy("p", "", "queues", &[("max-length", int(stays as i64 / 2))])],
    );
    settle_down(&mut w);
    assert_eq!(w.counters().messages_ready, stays / 2);
    assert!(w.counters().bodies_loaded - loaded < 300, "it was read to be dropped");
    let kept: Vec<String> = (5_000 - stays / 2..5_000).map(|n| n.to_string()).collect();
    w.crash(Crash::Power);
    settle_down(&mut w);
    assert_eq!(w.counters().messages_ready, stays / 2);
    assert_eq!(drained(&mut w, "q"), kept);
}

/// The bodies of deliveries were evicted because their queue had no dead-letter exchange. A policy set one, and their
/// consumer rejected them: they were dropped.
#[test]
fn deliveries_rejected_after_a_new_policy_are_not_lost() {
    let mut w = small(14);
    let c = w.connect("test");
    run(&mut w, c, [durable("q"), durable("dead"), consume("q", 1)]);
    for n in 0..20 {
        run(&mut w, c, [put("q", &padded(&n.to_string(), 4_000))]);
    }
    w.advance(ms(10));
    w.catch_up();
    assert!(w.counters().bodies_evicted > 0, "{:?}", w.counters());
    let definition = [
        ("dead-letter-exchange", Value::text("")),
        ("dead-letter-routing-key", Value::text("dead")),
    ];
    run(&mut w, c, [policy("p", "^q$", "queues", &definition)]);
    let mut numbers: Vec<u64> = (1..=20).collect();
    while let Some(number) = numbers.pop() {
        let heard = run(&mut w, c, [reject(number)]);
        let delivered = heard.iter().filter_map(|line| line.strip_prefix("deliver c1 #"));
        numbers.extend(delivered.map(|line| {
            line.split(' ')
                .next()
                .and_then(|n| n.parse::<u64>().ok())
                .expect("a number")
        }));
    }
    let mut dead: Vec<usize> = drained(&mut w, "dead")
        .iter()
        .map(|n| n.parse().expect("a number"))
        .collect();
    dead.sort_unstable();
    assert_counted(&dead, 20);
}

/// A limit is lowered, and the machine stops in the middle of any of the writes that this causes. Afterwards every
/// answer holds: the policy exists or not, and each message is where it belongs, once.
#[test]
fn a_crash_at_any_point_of_a_change_leaves_all_of_it_or_none() {
    let mut finished = false;
    for nth in 0..200 {
        for dead_letters in [false, true] {
            finished |= crashed_at(nth, dead_letters);
        }
        if finished && nth > 20 {
            return;
        }
    }
    panic!("it never finished");
}

/// Returns whether the change was answered.
fn crashed_at(nth: u64, dead_letters: bool) -> bool {
    let mut w = World::with(
        nth,
        Settings {
            hold_units_max: 8,
            ..Settings::default()
        },
        StoreSettings::default(),
    );
    let c = w.connect("test");
    run(&mut w, c, [durable("q"), durable("dead")]);
    put_many(&mut w, c, "q", 40);
    let mut definition = vec![("max-length", int(3))];
    if dead_letters {
        definition.push(("dead-letter-exchange", Value::text("")));
        definition.push(("dead-letter-routing-key", Value::text("dead")));
    }
    w.disk().crash_after(nth);
    let heard = run(&mut w, c, [policy("p", "^q$", "queues", &definition)]);
    let answered = heard == [SET];
    settle_down(&mut w);
    let finished = w.is_running();
    w.crash(if nth.is_multiple_of(2) {
        Crash::Power
    } else {
        Crash::Process
    });
    settle_down(&mut w);
    let left: Vec<usize> = drained(&mut w, "q")
        .iter()
        .map(|n| n.parse().expect("a number"))
        .collect();
    let mut dead: Vec<usize> = drained(&mut w, "dead")
        .iter()
        .map(|n| n.parse().expect("a number"))
        .collect();
    let is_set = w.turn(|engine| engine.policy(PolicyKind::User, "p").is_some());
    assert!(is_set || !answered, "write {nth}: it was answered, and is gone");
    let stays = if is_set { 3 } else { 40 };
    assert_eq!(left, (40 - stays..40).collect::<Vec<_>>(), "write {nth}");
    if is_set && dead_letters {
        dead.sort_unstable();
        dead.dedup();
        assert_counted(&dead, 37);
    } else {
        assert!(dead.is_empty(), "write {nth}: {dead:?}");
    }
    finished
}
