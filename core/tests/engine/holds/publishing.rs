//! Messages whose routing takes many holds.

use super::*;
use gatepost_core::engine::ObjectKind;
use gatepost_core::properties::Value;

#[test]
fn a_publish_that_matches_many_filters_takes_many_holds_and_keeps_its_order() {
    // 262,000 filters of one client cost each publish of any other 0.4 to 1.9 s under the lock.
    let mut w = World::new(1);
    w.set_audits(false);
    let (c, p, q) = (w.connect("mqtt"), w.connect("mqtt"), w.connect("mqtt"));
    run(&mut w, c, [clean("c")]);
    run(&mut w, c, [subscribe(combinations(13))]);
    run(&mut w, p, [clean("p")]);
    run(&mut w, q, [clean("q")]);
    let topic = ["a"; 13].join("/");
    let mut left = vec![mqtt(&topic, "first", 1, 0), mqtt(&topic, "second", 1, 0)];
    let mut holds = 0;
    while w.hold(p, &mut left) {
        holds += 1;
        if left.len() == 2 {
            assert!(now(&mut w, p).is_empty(), "it is in no queue yet");
        }
        // Others have their turn in between.
        let between = run(&mut w, q, [mqtt("elsewhere", "m", 1, 0)]);
        assert_eq!(between, [format!("confirmed {holds}")]);
    }
    assert!(holds > 4, "{holds} holds");
    assert_eq!(hear(&mut w, p), ["confirmed 2"]);
    let messages = hear(&mut w, c);
    let bodies: Vec<_> = messages.iter().filter_map(|line| line.split(' ').nth(4)).collect();
    assert_eq!(bodies, ["first", "second"]);
}

#[test]
fn a_queue_created_or_deleted_during_a_routing_changes_nothing_for_others() {
    let mut w = World::new(1);
    w.set_audits(false);
    let (a, p) = (w.connect("amqp"), w.connect("amqp"));
    run(
        &mut w,
        a,
        [
            exchange("fan", "fanout"),
            transient("gone"),
            transient("stays"),
            transient("late"),
        ],
    );
    bind_often(&mut w, a, "fan", "gone", MANY);
    bind_often(&mut w, a, "fan", "stays", MANY);
    let mut left = vec![fan("", "m")];
    assert!(w.hold(p, &mut left));
    // The slot and the numbers of its bindings go to queues and bindings that have nothing to do with the message.
    let mut deleting = vec![delete("gone")];
    while w.hold(a, &mut deleting) {}
    run(&mut w, a, [transient("new"), exchange("other", "fanout")]);
    bind_often(&mut w, a, "other", "new", MANY);
    bind_often(&mut w, a, "other", "late", 10);
    assert!(holds(&mut w, p, left) > 1);
    assert_eq!(hear(&mut w, p), ["confirmed 1"]);
    let heard = run(
        &mut w,
        a,
        [
            get_no_ack("stays"),
            get_no_ack("stays"),
            get_no_ack("new"),
            get_no_ack("late"),
        ],
    );
    let got: Vec<_> = heard
        .iter()
        .filter(|line| line.starts_with("got") || line.contains("empty"))
        .collect();
    assert_eq!(got.len(), 4, "{heard:?}");
    assert!(
        got[0].contains(" m ") && got[1..].iter().all(|line| line.contains("empty")),
        "{heard:?}"
    );
}

#[test]
fn walks_that_stop_take_limited_memory_and_all_finish() {
    // Each publisher had one, as large as the number of bindings it found, and nothing counted them.
    let settings = gatepost_core::testing::world::Settings {
        objects_bytes_max: 8 << 20,
        hold_units_max: 64,
        ..Default::default()
    };
    let mut w = World::with(1, settings, Default::default());
    w.set_audits(false);
    let a = w.connect("amqp");
    run(&mut w, a, [exchange("fan", "fanout"), transient("q")]);
    bind_often(&mut w, a, "fan", "q", MANY);
    let publishers: Vec<_> = (0..40).map(|_| w.connect("amqp")).collect();
    let objects = |w: &World| w.counters().objects_bytes[ObjectKind::Connections as usize];
    let (before, mut most, mut waited) = (objects(&w), 0, 0);
    let mut left: Vec<Vec<Command>> = publishers.iter().map(|_| vec![fan("", "m")]).collect();
    let mut confirmed = 0;
    for _ in 0..20_000 {
        for (p, left) in publishers.iter().zip(&mut left) {
            if !left.is_empty() {
                w.hold(*p, left);
            }
            waited += usize::from(w.waits(*p));
            most = most.max(objects(&w));
            confirmed += now(&mut w, *p).iter().filter(|line| *line == "confirmed 1").count();
        }
        if confirmed == publishers.len() {
            break;
        }
        w.advance(ms(1));
    }
    assert_eq!(confirmed, publishers.len(), "all are published");
    assert!(waited > 0, "some waited for room");
    // An eighth of the memory for objects, and one walk that continues anyway.
    assert!(
        most - before < (1 << 20) + (512 << 10),
        "{} bytes of walks",
        most - before
    );
    assert_eq!(run(&mut w, a, [purge("q")]), ["purged 40"]);
}

#[test]
fn a_connection_that_ends_while_it_waits_for_a_walk_delays_nobody() {
    let settings = gatepost_core::testing::world::Settings {
        objects_bytes_max: 8 << 20,
        hold_units_max: 64,
        ..Default::default()
    };
    let mut w = World::with(2, settings, Default::default());
    w.set_audits(false);
    let a = w.connect("amqp");
    run(&mut w, a, [exchange("fan", "fanout"), transient("q")]);
    bind_often(&mut w, a, "fan", "q", MANY);
    let publishers: Vec<_> = (0..40).map(|_| w.connect("amqp")).collect();
    let mut left: Vec<Vec<Command>> = publishers.iter().map(|_| vec![fan("", "m")]).collect();
    for _ in 0..60 {
        for (p, left) in publishers.iter().zip(&mut left) {
            if !left.is_empty() {
                w.hold(*p, left);
            }
        }
    }
    assert!(publishers.iter().any(|p| w.waits(*p)));
    for p in &publishers[..39] {
        w.drop_client(*p);
    }
    for _ in 0..2_000 {
        if !left[39].is_empty() {
            w.hold(publishers[39], &mut left[39]);
        }
        now(&mut w, publishers[39]);
        w.advance(ms(1));
    }
    assert!(left[39].is_empty() && !w.waits(publishers[39]));
}

/// Only queues that took the message were counted. A thousand publishes to 10,000 full queues were one hold of a
/// second.
#[test]
fn a_publish_costs_as_much_if_queues_refuse_it() {
    const QUEUES: usize = 2_000;
    let mut w = World::new(1);
    w.set_audits(false);
    let (a, p) = (w.connect("amqp"), w.connect("amqp"));
    run(&mut w, a, [exchange("fan", "fanout")]);
    for part in (0..QUEUES).step_by(500) {
        let queue = |n: usize| {
            let name = format!("q{n}");
            let full = declare(&name, |d| {
                d.durable = false;
                d.arguments.push("x-max-length", Value::Int(1, 64));
                d.arguments.push("x-overflow", Value::text("reject-publish"));
            });
            [full, bind("fan", &name, "")]
        };
        run(&mut w, a, (part..part + 500).flat_map(queue).collect::<Vec<_>>());
    }
    assert_eq!(
        holds(&mut w, p, vec![fan("", "m"); 20]),
        20,
        "each takes more than a hold has"
    );
    assert_eq!(w.counters().dropped_full, 19 * QUEUES as u64);
}
