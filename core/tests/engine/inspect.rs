//! Listings of what there is, in bounded holds, while it changes.

use crate::support::*;
use gatepost_core::command::Command;
use gatepost_core::engine::inspect::{Cursor, Item, Kind};
use gatepost_core::testing::world::World;

fn line_of(item: Item) -> String {
    match item {
        Item::Connection {
            user,
            protocol,
            channels,
            ..
        } => format!("{user} {protocol} {channels}"),
        Item::Channel { number, consumers, .. } => format!("channel {number} {consumers}"),
        Item::Consumer { queue, consumer, .. } => format!("c{consumer} {queue}"),
        Item::Queue {
            name, ready, unsettled, ..
        } => format!("{name} {ready} {unsettled}"),
        Item::Exchange(exchange) => exchange.name.to_string(),
        Item::Binding(binding) => format!("{} {}", binding.source, binding.key),
        Item::Session {
            client_id,
            user,
            subscriptions,
            ..
        } => format!("{client_id} {user} {subscriptions}"),
        Item::Subscription { client_id, filter, .. } => format!("{client_id} {filter}"),
        other => format!("{other:?}"),
    }
}

fn list(w: &World, kind: Kind, budget: usize) -> Vec<String> {
    let mut cursor = Cursor::new(kind);
    let mut lines = Vec::new();
    for _ in 0..1_000 {
        let found = w.inspect(&mut cursor, budget);
        assert!(found.len() <= budget, "{kind:?}: {} over {budget}", found.len());
        lines.extend(found.into_iter().map(line_of));
        if cursor.is_done() {
            lines.sort();
            return lines;
        }
    }
    panic!("{kind:?} goes on for ever with {budget} a time");
}

fn world() -> World {
    let mut w = World::new(1);
    let amqp = w.connect("AMQP 0-9-1");
    run(
        &mut w,
        amqp,
        [
            durable("a"),
            durable("b"),
            bind("amq.topic", "a", "k"),
            put("a", "1"),
            consume("b", 7),
        ],
    );
    run(&mut w, amqp, [get("a")]);
    for id in ["c", "d", "e"] {
        let mqtt = w.connect("MQTT 5.0");
        let filters = ["x", "y", "z"].map(|f| filter(f, 1));
        run(&mut w, mqtt, [kept(id), subscribe(filters.into())]);
        if id == "d" {
            run(&mut w, mqtt, [Command::Detach]);
        }
    }
    w
}

#[test]
fn everything_is_listed_once_whatever_a_hold_may_do() {
    let w = world();
    for budget in [1, 2, 3, 5, 1_000] {
        let all = |kind| list(&w, kind, budget);
        assert_eq!(
            all(Kind::Connections),
            ["guest AMQP 0-9-1 1", "guest MQTT 5.0 1", "guest MQTT 5.0 1"]
        );
        assert_eq!(all(Kind::Channels), ["channel 0 0", "channel 0 0", "channel 1 1"]);
        assert_eq!(all(Kind::Consumers).len(), 3, "of `b`, and of two sessions");
        let queues = all(Kind::Queues);
        assert_eq!(queues[..2], ["a 0 1", "b 0 0"]);
        assert_eq!(queues.len(), 5);
        let exchanges = all(Kind::Exchanges);
        assert_eq!((exchanges.len(), &*exchanges[0]), (7, ""));
        assert_eq!(all(Kind::Bindings).len(), 10);
        assert_eq!(all(Kind::Sessions), ["c guest 3", "d guest 3", "e guest 3"]);
        let subscriptions = all(Kind::Subscriptions);
        assert_eq!(
            subscriptions,
            ["c x", "c y", "c z", "d x", "d y", "d z", "e x", "e y", "e z"]
        );
    }
}

#[test]
fn a_listing_survives_what_comes_and_goes_meanwhile() {
    let mut w = world();
    let guest = w.connect("AMQP 0-9-1");
    for kind in [Kind::Queues, Kind::Subscriptions, Kind::Bindings, Kind::Connections] {
        let mut cursor = Cursor::new(kind);
        let mut seen = Vec::new();
        let mut turn = 0;
        while !cursor.is_done() {
            seen.extend(w.inspect(&mut cursor, 1).into_iter().map(line_of));
            turn += 1;
            let name = format!("new{turn}");
            run(
                &mut w,
                guest,
                [
                    durable(&name),
                    bind("amq.topic", &name, "k"),
                    delete(&format!("new{}", turn - 1)),
                ],
            );
            assert!(turn < 1_000);
        }
        let before = seen.len();
        seen.sort();
        let constant = |line: &&String| !line.contains("new") && **line != "amq.topic k";
        let mut once: Vec<&String> = seen.iter().filter(constant).collect();
        let listed = once.len();
        once.dedup();
        let same_lines = matches!(kind, Kind::Connections | Kind::Bindings);
        assert!(same_lines || once.len() == listed, "{seen:?}");
        assert!(before >= 4, "{kind:?} {seen:?}");
    }
}
