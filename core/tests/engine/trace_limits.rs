//! Traces end, are forgotten and limited; and they change nothing for others.

use crate::support::*;
use crate::traces::*;
use gatepost_core::engine::trace::*;
use gatepost_core::engine::{Settings, Share};
use gatepost_core::event::Event;
use gatepost_core::store::StoreSettings;
use gatepost_core::testing::world::{ROOM, World};
use std::time::Duration;

#[test]
fn a_trace_ends_with_its_messages_or_its_time_and_is_forgotten_later() {
    let (mut w, app, worker) = world();
    let id = start(
        &mut w,
        TraceRequest {
            messages: 2,
            ..request("plant/+")
        },
    );
    assert_eq!(state(&mut w, id), Some(TraceState::Catching));
    run(
        &mut w,
        app,
        [
            topic("plant.1", false),
            topic("plant.2", false),
            topic("plant.3", false),
        ],
    );
    assert_eq!(state(&mut w, id), Some(TraceState::Following));
    assert_eq!(traced(&mut w, id).len(), 2);
    run(&mut w, worker, [consume("q", 1)]);
    run(&mut w, worker, [ack_upto(3)]);
    assert_eq!(state(&mut w, id), Some(TraceState::Ended));
    let slow = start(&mut w, request("plant/+"));
    run(&mut w, worker, [cancel(1)]);
    run(&mut w, app, [topic("plant.4", false)]);
    w.advance(Duration::from_secs(599));
    assert_eq!(state(&mut w, slow), Some(TraceState::Catching));
    w.advance(Duration::from_secs(2));
    assert_eq!(state(&mut w, slow), Some(TraceState::Ended));
    // Later events are not reported.
    run(&mut w, worker, [get_no_ack("q")]);
    assert_eq!(only(&mut w, slow).last().map(String::as_str), Some("0 confirmed"));
    w.advance(TRACE_KEPT);
    assert!(info(&mut w, id).is_none() && info(&mut w, slow).is_none());
    assert!(traced(&mut w, slow).is_empty());
}

#[test]
fn traces_are_limited_and_free_their_memory() {
    let (mut w, app, worker) = world();
    w.set_audits(false);
    run(&mut w, worker, [consume_no_ack("q", 1)]);
    run(&mut w, app, [topic("plant.1", false)]);
    hear(&mut w, worker);
    let queues = |w: &World| w.counters().objects_bytes[2];
    let before = queues(&w);
    let ids: Vec<u64> = (0..TRACES_MAX)
        .map(|_| {
            start(
                &mut w,
                TraceRequest {
                    messages: 1_000_000,
                    lasts: Duration::from_secs(1 << 40),
                    ..request("plant/+")
                },
            )
        })
        .collect();
    let now_ = w.now();
    let refused = w.turn(|engine| engine.start_trace(now_, request("#")));
    assert!(refused.is_err_and(|fault| fault.text.contains("16 active traces")));
    for n in 0..4000 {
        w.send(app, vec![topic(&format!("plant.{n}"), n % 2 == 0)]);
        if n % 100 == 0 {
            hear(&mut w, worker);
        }
    }
    hear(&mut w, worker);
    let used = queues(&w) - before;
    assert!(used > 1 << 20 && used < 9 << 20, "{used}");
    let infos = w.turn(|engine| engine.traces(now_));
    assert!(infos.iter().all(|info| info.caught <= TRACED_MESSAGES_MAX));
    assert!(infos.iter().any(|info| info.missed > 0), "{infos:?}");
    // A message that goes round in a circle.
    for id in &ids[1..] {
        assert!(w.turn(|engine| engine.remove_trace(*id)));
    }
    assert!(!w.turn(|engine| engine.remove_trace(ids[1])), "it is gone");
    let id = start(
        &mut w,
        TraceRequest {
            messages: 1,
            ..request("plant/round")
        },
    );
    run(&mut w, worker, [cancel(1)]);
    run(&mut w, app, [topic("plant.round", false)]);
    for _ in 0..200 {
        w.send(worker, vec![get("q")]);
        w.catch_up();
        let taken = w.take(worker, ROOM);
        let number = taken.iter().find_map(|event| match event {
            Event::Got { delivery, .. } => Some(delivery.number),
            _ => None,
        });
        run(&mut w, worker, [requeue(number.expect("a message"))]);
    }
    let messages = traced(&mut w, id);
    assert_eq!(messages[0].hops.len(), HOPS_MAX);
    assert_eq!(messages[0].left_out, 4 + 400 - HOPS_MAX as u64);
    for id in [ids[0], id] {
        assert!(w.turn(|engine| engine.remove_trace(id)));
    }
    run(&mut w, worker, [get_no_ack("q")]);
    assert_eq!(queues(&w), before);
}

/// If all places are taken, a new trace replaces one that has ended.
#[test]
fn an_ended_trace_makes_room_for_a_new_one() {
    let (mut w, ..) = world();
    let short = TraceRequest {
        lasts: Duration::from_secs(5),
        ..request("#")
    };
    let first = start(&mut w, short);
    for _ in 1..TRACES_MAX {
        start(&mut w, request("#"));
    }
    w.advance(Duration::from_secs(6));
    start(&mut w, request("#"));
    assert!(info(&mut w, first).is_none());
}

/// Without memory for it a message is missed, and that is reported and counted.
#[test]
fn a_message_is_missed_when_memory_for_objects_is_used_up() {
    let (mut w, app, _) = world();
    let id = start(&mut w, request("plant/+"));
    let settings = Settings::default();
    w.turn(|engine| {
        engine.set_share(Share {
            cache_bytes_max: settings.cache_bytes_max,
            memory_bytes_max: settings.memory_bytes_max,
            unsettled_bytes_max: settings.unsettled_bytes_max,
            objects_bytes_max: 1 << 10,
        });
    });
    run(&mut w, app, [topic("plant.1", false)]);
    let info = info(&mut w, id).expect("a trace");
    assert_eq!((info.caught, info.missed), (0, 1));
    assert!(w.counters().objects_refused.iter().sum::<usize>() > 0);
}

/// The flow map counts the same whether messages are traced or not.
#[test]
fn the_flow_map_counts_on_while_messages_are_traced() {
    use gatepost_core::engine::flow::{FlowCursor, Flowed};
    for traced in [false, true] {
        let settings = Settings {
            flow: true,
            ..Settings::default()
        };
        let mut w = World::with(1, settings, StoreSettings::default());
        let (app, worker) = (w.connect("app"), w.connect("worker"));
        run(
            &mut w,
            worker,
            [durable("q"), bind("amq.topic", "q", "plant.#"), consume_no_ack("q", 1)],
        );
        if traced {
            start(&mut w, request("nothing/like/it"));
        }
        for _ in 0..3 {
            run(&mut w, app, [topic("plant.1", false), put_transient("q", "m")]);
        }
        hear(&mut w, worker);
        let mut look = FlowCursor::default();
        let (mut routed, mut published, mut delivered) = (0, 0, 0);
        while !look.is_done() {
            for flowed in w.turn(|engine| engine.flow(&mut look, 1000)) {
                match flowed {
                    Flowed::Routed { tally, .. } => routed += tally.messages,
                    Flowed::Published { to, .. } => {
                        published += to.iter().map(|(_, tally)| tally.messages).sum::<u64>()
                    }
                    Flowed::Delivered { messages, .. } => delivered += messages,
                    _ => {}
                }
            }
        }
        assert_eq!((routed, published, delivered), (6, 6, 6), "traced: {traced}");
    }
}
