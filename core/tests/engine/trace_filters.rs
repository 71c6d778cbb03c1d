//! Which messages a trace catches, whatever was noted about their addresses for earlier traces.
//!
//! What traces ask about an address is noted with its remembered route, and in a small table if no route is remembered.

use crate::support::*;
use crate::traces::*;
use gatepost_core::command::{Command, PublishFlags};
use gatepost_core::engine::trace::*;
use gatepost_core::message::{Dialect, Envelope, Message};
use gatepost_core::properties::{Name, Origin as Encoding, Properties, Table, Value, neutral};
use gatepost_core::testing::world::{Client, World};

fn caught(w: &mut World, id: u64) -> usize {
    traced(w, id).len()
}

fn end(w: &mut World, id: u64) {
    assert!(w.turn(|engine| engine.remove_trace(id)));
}

/// A trace that matches nothing. While it is active, notes about addresses are made.
fn idle(w: &mut World) -> u64 {
    start(w, request("nobody/publishes/here"))
}

fn coloured(colour: &str) -> Properties {
    let mut headers = Table::default();
    headers.push("colour", Value::text(colour));
    headers.push("size", Value::Int(7, 32));
    Properties {
        correlation: Some(colour.as_bytes().into()),
        headers,
        ..Properties::default()
    }
}

fn with(exchange: &str, key: &str, properties: &Properties) -> Command {
    let envelope = Envelope {
        origin: Encoding::NEUTRAL,
        ..Envelope::default()
    };
    let raw = neutral(properties, Vec::new());
    publish(
        PublishFlags::default(),
        Message::new(envelope, exchange, key, &raw, b"m"),
    )
}

fn asks(exchange: Option<&str>, filter: Option<&str>, property: Option<(&str, &str)>) -> TraceRequest {
    TraceRequest {
        exchange: exchange.map(Name::from),
        topic: filter.map(|filter| TopicFilter::parse(filter, Dialect::Dot).expect("a filter")),
        property: property.map(|(name, value)| (PropertyName::parse(name).expect("a property"), value.into())),
        ..request("#")
    }
}

/// Publishes on a remembered route, by a queue's name, and on a route that cannot be remembered.
fn publish_all(w: &mut World, app: Client) {
    let headers = Properties::default();
    run(
        w,
        app,
        [topic("plant.1", false), put("q", "m"), with("h", "plant.1", &headers)],
    );
}

#[test]
fn a_new_trace_catches_messages_that_none_asked_for_before() {
    let (mut w, app, worker) = world();
    run(&mut w, worker, [exchange("h", "headers"), bind("h", "q", "")]);
    let idle = idle(&mut w);
    publish_all(&mut w, app);
    let all = start(&mut w, asks(None, None, None));
    publish_all(&mut w, app);
    assert_eq!((caught(&mut w, idle), caught(&mut w, all)), (0, 3));
    let some = start(&mut w, asks(None, Some("plant.*"), None));
    publish_all(&mut w, app);
    assert_eq!((caught(&mut w, all), caught(&mut w, some)), (6, 2));
    end(&mut w, all);
    publish_all(&mut w, app);
    assert_eq!(caught(&mut w, some), 4);
    end(&mut w, some);
    publish_all(&mut w, app);
    let again = start(&mut w, asks(Some(""), None, None));
    publish_all(&mut w, app);
    assert_eq!((caught(&mut w, idle), caught(&mut w, again)), (0, 1));
}

/// A full trace asks for nothing more. The others do.
#[test]
fn a_full_trace_does_not_prevent_others_from_catching() {
    let (mut w, app, _) = world();
    let few = TraceRequest {
        messages: 2,
        ..asks(None, Some("plant.*"), None)
    };
    let (few, many) = (start(&mut w, few), start(&mut w, asks(None, Some("plant.1"), None)));
    for _ in 0..4 {
        run(&mut w, app, [topic("plant.1", false), topic("plant.2", false)]);
    }
    assert_eq!((caught(&mut w, few), caught(&mut w, many)), (2, 4));
    assert_eq!(state(&mut w, many), Some(TraceState::Catching));
    end(&mut w, many);
    let new = start(&mut w, asks(None, Some("plant.2"), None));
    run(&mut w, app, [topic("plant.1", false), topic("plant.2", false)]);
    assert_eq!(caught(&mut w, new), 1);
}

/// The table of routes is full, so a new route replaces another; and a binding makes all routes be computed again.
#[test]
fn routes_that_are_forgotten_or_computed_again_are_compared_again() {
    let (mut w, app, worker) = world();
    let idle = idle(&mut w);
    let id = start(&mut w, asks(None, Some("plant.*"), None));
    let mut expected = 0;
    for round in 0..9 {
        let others = (0..2000).map(|n| {
            publish(
                PublishFlags::default(),
                message("amq.topic", &format!("r{round}.{n}"), "m", false),
            )
        });
        run(&mut w, app, others.collect::<Vec<_>>());
        run(&mut w, app, [topic("plant.1", false), topic("plant.2", false)]);
        if round == 4 {
            run(&mut w, worker, [durable("q2"), bind("amq.topic", "q2", "plant.*")]);
            run(&mut w, app, [topic("plant.1", false)]);
            expected += 1;
        }
        expected += 2;
        assert_eq!(caught(&mut w, id), expected, "round {round}");
    }
    let last = traced(&mut w, id).pop().expect("a message");
    assert_eq!(hops(&last)[1], "0 routed #2");
    assert_eq!(caught(&mut w, idle), 0);
}

/// Messages to a requested address with other properties, or none, are not caught; and another trace may ask for them.
#[test]
fn exchange_topic_and_property_must_all_match() {
    let (mut w, app, _) = world();
    let requests = [
        asks(Some("amq.topic"), Some("plant.*"), Some(("header:colour", "red"))),
        asks(Some("amq.topic"), Some("plant.1"), Some(("correlation-id", "blue"))),
        asks(Some(""), None, Some(("header:colour", "red"))),
        asks(None, None, Some(("header:size", "7"))),
        asks(None, None, Some(("header:size", "8"))),
        asks(None, None, Some(("header:weight", "7"))),
        asks(Some("amq.topic"), Some("plant.2"), None),
    ];
    let ids = requests.map(|request| start(&mut w, request));
    let found = |w: &mut World| ids.map(|id| caught(w, id));
    let (red, blue, none) = (coloured("red"), coloured("blue"), Properties::default());
    for round in 1..=2 {
        for (exchange, key) in [("amq.topic", "plant.1"), ("amq.topic", "plant.2"), ("", "q")] {
            for properties in [&none, &red, &blue] {
                run(&mut w, app, [with(exchange, key, properties)]);
            }
            // Without any bytes of properties.
            run(
                &mut w,
                app,
                [publish(PublishFlags::default(), message(exchange, key, "m", false))],
            );
        }
        assert_eq!(found(&mut w), [2, 1, 1, 6, 0, 0, 4].map(|n| n * round), "round {round}");
    }
    end(&mut w, ids[6]);
    run(
        &mut w,
        app,
        [with("amq.topic", "plant.2", &red), with("amq.topic", "plant.2", &none)],
    );
    assert_eq!(caught(&mut w, ids[0]), 5);
}

/// A dead letter is followed even if no trace asks for its new address.
#[test]
fn a_dead_letter_is_followed_to_an_address_that_no_trace_asks_for() {
    let (mut w, app, worker) = world();
    let dying = declare("dying", |d| {
        d.arguments.push("x-dead-letter-exchange", Value::text(""));
        d.arguments.push("x-dead-letter-routing-key", Value::text("q"));
    });
    run(&mut w, worker, [dying]);
    run(
        &mut w,
        worker,
        [bind("amq.topic", "dying", "plant.1"), consume("dying", 1)],
    );
    let id = start(&mut w, asks(Some("amq.topic"), Some("plant.1"), None));
    for n in 1..=2 {
        // It is noted that no trace asks for the dead letter's address.
        run(&mut w, app, [put("q", "m")]);
        run(&mut w, app, [topic("plant.1", false)]);
        hear(&mut w, worker);
        run(&mut w, worker, [reject(n)]);
        let messages = traced(&mut w, id);
        assert_eq!(messages.len(), n as usize);
        let kinds: Vec<_> = messages[n as usize - 1].hops.iter().map(|hop| hop.kind).collect();
        let at = kinds
            .iter()
            .position(|kind| *kind == HopKind::DeadLettered)
            .expect("it died");
        assert!(kinds[at..].contains(&HopKind::Queued), "{kinds:?}");
    }
}
