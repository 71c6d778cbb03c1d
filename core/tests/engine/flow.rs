//! Who talks to whom, as the engine counts it between two readings.

use crate::support::*;
use gatepost_core::command::{Command, PublishFlags};
use gatepost_core::engine::Settings;
use gatepost_core::engine::flow::{FlowCursor, Flowed, Source, Tally};
use gatepost_core::message::{Envelope, Message};
use gatepost_core::properties::Value;
use gatepost_core::store::StoreSettings;
use gatepost_core::testing::world::{Client, World};
use std::collections::BTreeMap;

fn world() -> World {
    let settings = Settings {
        flow: true,
        ..Settings::default()
    };
    World::with(1, settings, StoreSettings::default())
}

/// One reading, in holds of this many places: `from -> to` and the number of messages. Clients are named by their
/// protocol.
fn look(w: &mut World, budget: usize) -> BTreeMap<String, u64> {
    let mut sources: BTreeMap<Source, String> = BTreeMap::new();
    let mut edges = BTreeMap::new();
    let mut add =
        |from: &str, to: &str, messages: u64| *edges.entry(format!("{from} -> {to}")).or_insert(0) += messages;
    let mut look = FlowCursor::default();
    for _ in 0..100_000 {
        if look.is_done() {
            return edges;
        }
        for flowed in w.turn(|engine| engine.flow(&mut look, budget)) {
            match flowed {
                Flowed::Routed {
                    source,
                    exchange,
                    topic,
                    tally,
                    queues,
                    exchanges,
                    ..
                } => {
                    let name = topic.map_or_else(|| format!("[{exchange}]"), |topic| topic.to_string());
                    for exchange in exchanges {
                        add(&name, &format!("[{exchange}]"), tally.messages);
                    }
                    for queue in queues {
                        let queue = if queue.starts_with("mqtt-") { "session" } else { &*queue };
                        add(&name, queue, tally.messages);
                    }
                    sources.insert(source, name);
                }
                Flowed::Published { party, to, others } => {
                    for (source, tally) in to {
                        let known = sources.get(&source).cloned();
                        let name = known.or_else(|| w.turn(|engine| engine.topic_of(source)).map(|t| t.to_string()));
                        add(party.protocol, name.as_deref().unwrap_or("[]"), tally.messages);
                    }
                    if !others.is_empty() {
                        add(party.protocol, "others", others.messages);
                    }
                }
                Flowed::DeadLettered {
                    queue,
                    to,
                    exchange,
                    tally,
                } => {
                    let whole = exchange.map(|exchange| format!("[{exchange}]"));
                    let known = whole.or_else(|| sources.get(&to).cloned());
                    let name = known.or_else(|| w.turn(|engine| engine.topic_of(to)).map(|t| t.to_string()));
                    add(&queue, name.as_deref().unwrap_or("others"), tally.messages);
                }
                Flowed::Delivered {
                    party, queue, messages, ..
                } => {
                    let queue = if queue.starts_with("mqtt-") { "session" } else { &*queue };
                    add(queue, party.protocol, messages);
                }
                _ => {}
            }
        }
    }
    panic!("a look that never ends, {budget} places a time");
}

fn edges(expected: &[(&str, u64)]) -> BTreeMap<String, u64> {
    expected.iter().map(|(edge, n)| ((*edge).to_owned(), *n)).collect()
}

/// An MQTT client that publishes, an AMQP client with a queue of the same topic, and an MQTT subscriber.
fn clients(w: &mut World) -> (Client, Client, Client) {
    let (sensor, store, panel) = (w.connect("sensor"), w.connect("store"), w.connect("panel"));
    run(w, sensor, [clean("s")]);
    run(
        w,
        store,
        [durable("readings"), bind("amq.topic", "readings", "plant.#")],
    );
    run(w, store, [consume_no_ack("readings", 1)]);
    run(w, panel, [clean("p"), subscribe(vec![filter("plant/+", 0)])]);
    (sensor, store, panel)
}

#[test]
fn messages_are_counted_from_client_to_topic_queues_and_clients() {
    for budget in [1, 2, 7, 10_000] {
        let mut w = world();
        let (sensor, store, panel) = clients(&mut w);
        for body in ["1", "2", "3"] {
            run(&mut w, sensor, [mqtt("plant/1", body, 0, 0)]);
        }
        // The same topic, spelled by AMQP.
        run(
            &mut w,
            store,
            [publish(
                PublishFlags::default(),
                message("amq.topic", "plant.1", "4", false),
            )],
        );
        hear(&mut w, store);
        hear(&mut w, panel);
        let expected = edges(&[
            ("sensor -> plant/1", 3),
            ("store -> plant/1", 1),
            ("plant/1 -> readings", 4),
            ("plant/1 -> session", 4),
            ("readings -> store", 4),
            ("session -> panel", 4),
        ]);
        assert_eq!(look(&mut w, budget), expected, "{budget}");
        assert!(look(&mut w, budget).is_empty(), "nothing is told twice");
        run(&mut w, sensor, [mqtt("plant/1", "5", 0, 0)]);
        assert_eq!(look(&mut w, budget)["sensor -> plant/1"], 1);
    }
}

#[test]
fn other_exchanges_are_shown_as_a_whole() {
    let mut w = world();
    let (app, worker) = (w.connect("app"), w.connect("worker"));
    run(&mut w, app, [exchange("logs", "direct"), exchange("h", "headers")]);
    for queue in ["a", "b"] {
        run(
            &mut w,
            worker,
            [durable(queue), bind("logs", queue, queue), bind("h", queue, "")],
        );
    }
    let send = |exchange: &str, key: &str| publish(PublishFlags::default(), message(exchange, key, "x", false));
    // The first message on a route counts like later ones.
    for _ in 0..2 {
        run(
            &mut w,
            app,
            [send("logs", "a"), send("logs", "b"), send("logs", "nowhere")],
        );
    }
    run(&mut w, app, [send("", "a"), send("", "a"), send("h", "")]);
    let expected = edges(&[
        ("app -> [logs]", 6),
        ("[logs] -> a", 2),
        ("[logs] -> b", 2),
        ("app -> []", 2),
        ("[] -> a", 2),
        ("app -> [h]", 1),
        ("[h] -> a", 1),
        ("[h] -> b", 1),
    ]);
    assert_eq!(look(&mut w, 3), expected);
    // Fetched, and in a transaction.
    run(&mut w, worker, [get("a"), get_no_ack("a")]);
    run(&mut w, app, [transaction(vec![send("logs", "b"), send("logs", "a")])]);
    let expected = edges(&[
        ("a -> worker", 2),
        ("app -> [logs]", 2),
        ("[logs] -> a", 1),
        ("[logs] -> b", 1),
    ]);
    assert_eq!(look(&mut w, 100), expected);
}

/// A route is computed again when a binding of its exchange changes. What was counted on the old one is not lost.
#[test]
fn counts_outlive_a_change_of_bindings() {
    let mut w = world();
    let (sensor, store, _) = clients(&mut w);
    for n in 0..10 {
        run(&mut w, sensor, [mqtt("plant/1", "x", 0, 0), mqtt("plant/2", "x", 0, 0)]);
        let queue = format!("more{n}");
        run(&mut w, store, [durable(&queue), bind("amq.topic", &queue, "plant.*")]);
    }
    run(&mut w, sensor, [mqtt("plant/1", "x", 0, 0), mqtt("plant/2", "x", 0, 0)]);
    let found = look(&mut w, 5);
    for edge in ["sensor -> plant/1", "sensor -> plant/2", "plant/1 -> readings"] {
        assert_eq!(found.get(edge), Some(&11), "{edge} in {found:?}");
    }
    assert!(!found.contains_key("sensor -> others"), "{found:?}");
}

/// `mosquitto_pub` in a cron job connects, publishes once and is gone: a map of the clients that are connected now
/// would never show it.
#[test]
fn clients_that_left_between_two_readings_are_reported() {
    let mut w = world();
    let (_, store, panel) = clients(&mut w);
    let cron = w.connect("cron");
    run(&mut w, cron, [clean("c"), mqtt("plant/9", "x", 0, 0)]);
    run(&mut w, cron, [Command::Detach]);
    hear(&mut w, panel);
    hear(&mut w, store);
    run(&mut w, store, [cancel(1)]);
    run(&mut w, panel, [Command::Detach]);
    let expected = edges(&[
        ("cron -> plant/9", 1),
        ("plant/9 -> readings", 1),
        ("readings -> store", 1),
        ("session -> panel", 1),
    ]);
    assert_eq!(
        look(&mut w, 10)
            .into_iter()
            .filter(|(edge, _)| edge != "plant/9 -> session")
            .collect::<BTreeMap<_, _>>(),
        expected
    );
}

#[test]
fn a_client_of_very_many_topics_is_counted_and_nothing_is_lost() {
    let mut w = world();
    w.set_audits(false);
    let (sensor, ..) = clients(&mut w);
    let before = w.counters().objects_bytes[4];
    for n in 0..1000 {
        w.send(sensor, vec![mqtt(&format!("plant/{n}"), "x", 0, 0)]);
    }
    let found = look(&mut w, 100);
    let sent = found.iter().filter(|(edge, _)| edge.starts_with("sensor -> "));
    let (known, others): (Vec<_>, Vec<_>) = sent.partition(|(edge, _)| !edge.ends_with("others"));
    assert_eq!(known.len(), 16, "{known:?}");
    let sum = |edges: &[(&String, &u64)]| edges.iter().map(|(_, messages)| **messages).sum::<u64>();
    assert_eq!(sum(&others) + sum(&known), 1000);
    let routed = found.keys().filter(|edge| edge.ends_with("-> readings")).count();
    assert_eq!(routed, 1000, "every topic leads to its queue");
    let charged = w.counters().objects_bytes[4] - before;
    assert!((200..1000).contains(&charged), "{charged} bytes");
}

#[test]
fn waiting_times_are_sampled() {
    let mut w = world();
    let app = w.connect("app");
    run(&mut w, app, [durable("q")]);
    for n in 0..10 {
        let envelope = Envelope {
            received: w.now().wall,
            ..Envelope::default()
        };
        let body = n.to_string();
        let message = Message::new(envelope, "", "q", &[], body.as_bytes());
        run(&mut w, app, [publish(PublishFlags::default(), message)]);
        w.advance(ms(100));
    }
    run(&mut w, app, [consume_no_ack("q", 1)]);
    let (mut at, mut waits, mut consumers) = (FlowCursor::default(), Vec::new(), Vec::new());
    while !at.is_done() {
        for flowed in w.turn(|engine| engine.flow(&mut at, 10)) {
            match flowed {
                Flowed::Waited(samples) => waits.extend(samples),
                Flowed::Delivered { consumer, messages, .. } => consumers.extend(consumer.map(|id| (id, messages))),
                _ => {}
            }
        }
    }
    assert_eq!(consumers.len(), 1);
    assert_eq!(consumers[0].1, 10);
    assert!(waits.iter().all(|(consumer, _)| *consumer == consumers[0].0));
    let ms: Vec<u32> = waits.into_iter().map(|(_, ms)| ms).collect();
    assert_eq!(ms, [1000, 900, 800, 700], "of the first few of each look");
}

#[test]
fn counting_can_be_off_and_turning_it_off_drops_counts() {
    let mut w = world();
    let (sensor, ..) = clients(&mut w);
    run(&mut w, sensor, [mqtt("plant/1", "x", 0, 0)]);
    w.turn(|engine| engine.set_flow(false));
    run(&mut w, sensor, [mqtt("plant/1", "x", 0, 0)]);
    assert!(look(&mut w, 10).is_empty());
    w.turn(|engine| engine.set_flow(true));
    assert!(look(&mut w, 10).is_empty());
    run(&mut w, sensor, [mqtt("plant/1", "x", 0, 0)]);
    assert_eq!(look(&mut w, 10)["plant/1 -> readings"], 1, "and not what came before");
}

/// A route has more queues than are listed; the others are counted.
#[test]
fn a_wide_fan_out_is_listed_in_part() {
    let mut w = world();
    w.set_audits(false);
    let app = w.connect("app");
    let queues: Vec<Command> = (0..200)
        .flat_map(|n| [durable(&format!("q{n}")), bind("amq.fanout", &format!("q{n}"), "")])
        .collect();
    run(&mut w, app, queues);
    for _ in 0..3 {
        run(
            &mut w,
            app,
            [publish(PublishFlags::default(), message("amq.fanout", "", "x", false))],
        );
    }
    let (mut at, mut found) = (FlowCursor::default(), Vec::new());
    while !at.is_done() {
        found.extend(w.turn(|engine| engine.flow(&mut at, 10)));
    }
    let routed = found.iter().find_map(|flowed| match flowed {
        Flowed::Routed {
            tally, queues, more, ..
        } if !queues.is_empty() => Some((*tally, queues.len(), *more)),
        _ => None,
    });
    let tally = Tally { messages: 3, bytes: 3 };
    assert_eq!(routed, Some((tally, 64, 136)));
}

fn send(exchange: &str, key: &str) -> Command {
    publish(PublishFlags::default(), message(exchange, key, "x", false))
}

/// The map showed an exchange to lead straight to the queues of the exchanges that are bound to it, which were not on it.
#[test]
fn exchanges_that_pass_messages_on_are_shown_one_after_the_other() {
    let mut w = world();
    let (app, sensor) = (w.connect("app"), w.connect("sensor"));
    run(
        &mut w,
        app,
        [
            exchange("in", "fanout"),
            exchange("all", "fanout"),
            exchange("h", "headers"),
        ],
    );
    run(&mut w, app, [durable("direct"), durable("archive"), durable("lost")]);
    run(
        &mut w,
        app,
        [
            bind("in", "direct", ""),
            pass_on("in", "all", ""),
            pass_on("h", "all", ""),
            bind("all", "archive", ""),
        ],
    );
    // A circle ends where it began.
    run(
        &mut w,
        app,
        [pass_on("amq.topic", "all", "plant.#"), pass_on("all", "in", "")],
    );
    for budget in [1, 100] {
        // The first along a route, a later one, and one that is found anew each time because headers count.
        run(&mut w, app, [send("in", "a"), send("in", "a"), send("h", "")]);
        let expected = edges(&[
            ("app -> [in]", 2),
            ("app -> [h]", 1),
            ("[h] -> [all]", 1),
            ("[in] -> direct", 3),
            ("[in] -> [all]", 3),
            ("[all] -> [in]", 3),
            ("[all] -> archive", 3),
        ]);
        assert_eq!(look(&mut w, budget), expected, "{budget}");
    }
    run(&mut w, sensor, [clean("s"), mqtt("plant/1", "x", 0, 0)]);
    let found = look(&mut w, 100);
    for edge in [
        "sensor -> plant/1",
        "plant/1 -> [all]",
        "[all] -> archive",
        "[all] -> [in]",
        "[in] -> direct",
    ] {
        assert_eq!(found.get(edge), Some(&1), "{edge} in {found:?}");
    }
    assert!(!found.contains_key("plant/1 -> archive"), "{found:?}");
    // In a transaction the queues are found before: by then another message has been on its way.
    run(&mut w, app, [exchange("h2", "headers"), bind("h2", "direct", "")]);
    let both = vec![send("h2", ""), send("h", "")];
    run(&mut w, app, [transaction(both)]);
    let expected = edges(&[("app -> [h]", 1), ("app -> [h2]", 1), ("[h2] -> direct", 1)]);
    let found = look(&mut w, 100);
    for edge in expected.keys() {
        assert_eq!(found.get(edge), Some(&1), "{edge} in {found:?}");
    }
    assert!(!found.keys().any(|edge| edge.starts_with("[all]")), "{found:?}");
}

#[test]
fn an_alternate_exchange_is_shown_where_messages_take_it() {
    let mut w = world();
    let app = w.connect("app");
    run(
        &mut w,
        app,
        [
            exchange("rest", "fanout"),
            with_alternate("orders", "rest"),
            with_alternate("jobs", ""),
        ],
    );
    run(
        &mut w,
        app,
        [
            durable("eu"),
            durable("others"),
            bind("orders", "eu", "eu"),
            bind("rest", "others", ""),
        ],
    );
    for _ in 0..2 {
        run(
            &mut w,
            app,
            [send("orders", "eu"), send("orders", "us"), send("jobs", "eu")],
        );
    }
    let expected = edges(&[
        ("app -> [orders]", 4),
        ("[orders] -> eu", 2),
        ("[orders] -> [rest]", 2),
        ("[rest] -> others", 2),
        ("app -> [jobs]", 2),
        ("[jobs] -> []", 2),
        ("[] -> eu", 2),
    ]);
    assert_eq!(look(&mut w, 1), expected);
}

/// A queue whose messages went on to another by a dead-letter exchange looked like a dead end.
#[test]
fn dead_letters_are_followed_from_their_queue() {
    let dead_letters = |queue: &str, exchange: &str, key: Option<&str>| {
        declare(queue, |d| {
            d.arguments.push("x-dead-letter-exchange", Value::text(exchange));
            if let Some(key) = key {
                d.arguments.push("x-dead-letter-routing-key", Value::text(key));
            }
        })
    };
    let mut w = world();
    let app = w.connect("app");
    run(
        &mut w,
        app,
        [
            exchange("dlx", "fanout"),
            durable("dead"),
            bind("dlx", "dead", ""),
            bind("amq.topic", "dead", "failed.#"),
        ],
    );
    let declared = [
        dead_letters("work", "dlx", None),
        dead_letters("by-name", "", Some("dead")),
        dead_letters("by-topic", "amq.topic", Some("failed.1")),
    ];
    run(&mut w, app, declared);
    run(&mut w, app, [dead_letters("nowhere", "gone", None)]);
    let mut number = 0;
    for queue in ["work", "work", "by-name", "by-topic", "nowhere"] {
        number += 1;
        run(&mut w, app, [send("", queue), get(queue)]);
        run(&mut w, app, [reject(number)]);
    }
    w.catch_up();
    let found: BTreeMap<String, u64> = look(&mut w, 3)
        .into_iter()
        .filter(|(edge, _)| !edge.starts_with("app") && !edge.starts_with("[] -> ") && !edge.ends_with("app"))
        .collect();
    let expected = edges(&[
        ("work -> [dlx]", 2),
        ("[dlx] -> dead", 2),
        ("by-name -> []", 1),
        ("by-topic -> failed/1", 1),
        ("failed/1 -> dead", 1),
        ("nowhere -> [gone]", 1),
    ]);
    assert_eq!(found, expected);
    assert!(look(&mut w, 3).is_empty());
    // Counting is off: nothing is kept.
    w.turn(|engine| engine.set_flow(false));
    run(&mut w, app, [send("", "work"), get("work")]);
    run(&mut w, app, [reject(number + 1)]);
    w.turn(|engine| engine.set_flow(true));
    assert!(look(&mut w, 3).is_empty());
}
