//! Listings of objects in bounded holds, while these change.

use crate::support::*;
use gatepost_core::access::Rights;
use gatepost_core::command::{ChannelMode, Command, PublishFlags};
use gatepost_core::engine::inspect::{Cursor, Item, Kind};
use gatepost_core::testing::world::World;
use std::collections::BTreeMap;

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
        Item::Retained { topic, .. } => topic.to_string(),
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
fn everything_is_listed_once_whatever_the_size_of_a_hold() {
    let w = world();
    for budget in [1, 2, 3, 5, 1_000] {
        let all = |kind| list(&w, kind, budget);
        assert_eq!(
            all(Kind::Connections),
            ["guest AMQP 0-9-1 1", "guest MQTT 5.0 1", "guest MQTT 5.0 1"]
        );
        assert_eq!(all(Kind::Channels), ["channel 0 1", "channel 0 1", "channel 1 1"]);
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
fn a_listing_survives_concurrent_changes() {
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

/// What a management interface shows of a connection, its channel and its consumer.
#[test]
fn listings_show_settled_and_unsettled_deliveries() {
    let mut w = World::new(1);
    let c = w.connect("AMQP 0-9-1");
    let consumer = consume_with("q", 7, |c| {
        c.tag = "ctag7".into();
        c.priority = 3;
        c.arguments
            .push("x-priority", gatepost_core::properties::Value::Int(3, 32));
    });
    let mode = ChannelMode::Confirm;
    let set_mode = Command::SetMode { channel: CH, mode };
    run(
        &mut w,
        c,
        [
            durable("q"),
            prefetch(5, false),
            set_mode,
            consumer,
            put("q", "1"),
            put("q", "2"),
        ],
    );
    let all = |kind| w.inspect(&mut Cursor::new(kind), 10);
    let [
        Item::Channel {
            unsettled,
            unconfirmed,
            prefetch_each,
            mode,
            ..
        },
    ] = all(Kind::Channels)[..]
    else {
        panic!("one channel")
    };
    assert_eq!(
        (unsettled, unconfirmed, prefetch_each, mode),
        (2, 0, 5, ChannelMode::Confirm)
    );
    let consumers = all(Kind::Consumers);
    let [
        Item::Consumer {
            tag,
            arguments,
            priority,
            active,
            prefetch,
            in_flight,
            ..
        },
    ] = &consumers[..]
    else {
        panic!("one consumer")
    };
    assert_eq!(
        (&**tag, *priority, *active, *prefetch, *in_flight),
        ("ctag7", 3, true, 5, 2)
    );
    assert_eq!(arguments.0.len(), 1);
}

#[test]
fn only_the_first_consumer_of_a_single_active_queue_is_shown_as_active() {
    let mut w = World::new(1);
    let c = w.connect("AMQP 0-9-1");
    let single = declare("q", |d| {
        d.arguments
            .push("x-single-active-consumer", gatepost_core::properties::Value::Bool(true))
    });
    run(&mut w, c, [single, consume("q", 1), consume("q", 2)]);
    let active = |item| match item {
        Item::Consumer { consumer, active, .. } => (consumer, active),
        other => panic!("{other:?}"),
    };
    let mut consumers: Vec<(u32, bool)> = w
        .inspect(&mut Cursor::new(Kind::Consumers), 10)
        .into_iter()
        .map(active)
        .collect();
    consumers.sort_unstable();
    assert_eq!(consumers, [(1, true), (2, false)]);
}

/// A line that identifies the item, the same in every listing.
fn name_of(item: Item) -> String {
    match item {
        Item::Connection { user, .. } => user.to_string(),
        Item::Channel { number, .. } => format!("channel {number}"),
        Item::Consumer { consumer, .. } => format!("c{consumer}"),
        Item::Queue { name, .. } => name.to_string(),
        Item::Exchange(exchange) => exchange.name.to_string(),
        Item::Binding(binding) => binding.key.to_string(),
        Item::Session { client_id, .. } => client_id.to_string(),
        Item::Subscription { client_id, filter, .. } => format!("{client_id} {filter}"),
        Item::Retained { topic, .. } => topic.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Creates `n` lasting objects of each kind. Returns their names as they are listed.
fn population(w: &mut World, n: u32) -> BTreeMap<&'static str, Vec<String>> {
    let mut names: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    let mut note = |kind: Kind, name: String| names.entry(label(kind)).or_default().push(name);
    for i in 0..n {
        let user = format!("stays{i}");
        w.set_rights(&user, Rights::all());
        let c = w.connect_as(&user, "AMQP 0-9-1");
        let channel = 1000 + i as u16;
        let queue = format!("q{i}");
        let (mut started, token) = (consume(&queue, 5000 + i), 5000 + i);
        if let Command::Consume(c) = &mut started {
            c.channel = channel;
        }
        let key = format!("key{i}");
        run(
            w,
            c,
            [
                durable(&queue),
                exchange(&format!("x{i}"), "direct"),
                bind("amq.topic", &queue, &key),
                started,
            ],
        );
        let id = format!("s{i}");
        let m = w.connect("MQTT 5.0");
        let topic = format!("t/{i}");
        run(
            w,
            m,
            [
                kept(&id),
                subscribe(vec![filter("f", 1), filter("g", 1)]),
                retain(&topic, "1"),
            ],
        );
        note(Kind::Connections, user);
        note(Kind::Channels, format!("channel {channel}"));
        note(Kind::Consumers, format!("c{token}"));
        note(Kind::Queues, queue);
        note(Kind::Exchanges, format!("x{i}"));
        note(Kind::Bindings, key);
        note(Kind::Subscriptions, format!("{id} f"));
        note(Kind::Subscriptions, format!("{id} g"));
        note(Kind::Sessions, id);
        note(Kind::Retained, topic);
    }
    names
}

fn label(kind: Kind) -> &'static str {
    KINDS.iter().find(|(known, _)| *known == kind).expect("known").1
}

const KINDS: [(Kind, &str); 9] = [
    (Kind::Connections, "connections"),
    (Kind::Channels, "channels"),
    (Kind::Consumers, "consumers"),
    (Kind::Queues, "queues"),
    (Kind::Exchanges, "exchanges"),
    (Kind::Bindings, "bindings"),
    (Kind::Sessions, "sessions"),
    (Kind::Subscriptions, "subscriptions"),
    (Kind::Retained, "retained"),
];

/// Creates or deletes an object of any kind, by a client that does nothing else.
fn disturb(w: &mut World, n: u64) {
    let what = w.random().below(8);
    let name = format!("n{}", w.random().below(6));
    let c = w.connect("AMQP 0-9-1");
    let commands = match what {
        0 => vec![durable(&name), bind("amq.topic", &name, &format!("nk{n}"))],
        1 => vec![delete(&name)],
        2 => vec![exchange(&name, "fanout")],
        3 => vec![delete_exchange(&name)],
        4 => vec![
            kept(&name),
            subscribe(vec![filter("a", 0), filter(&name, 1), filter("z", 0)]),
        ],
        5 => vec![session(&name, |s| {
            s.clean_start = true;
            s.expiry = Some(0);
        })],
        6 => vec![retain(&name, "x"), retain(&format!("t/{name}"), "y")],
        _ => vec![
            retain(&name, ""),
            retain(&format!("t/{name}"), ""),
            durable(&name),
            consume(&name, n as u32),
        ],
    };
    run(w, c, commands);
    if w.random().chance(70, 100) {
        w.drop_client(c);
        w.catch_up();
    }
}

/// Whatever is created and deleted during a listing, and however small a hold is: objects that exist throughout are
/// listed once, and the listing ends.
#[test]
fn objects_that_exist_throughout_are_listed_once_whatever_else_changes() {
    for seed in 1..=24 {
        let mut w = World::new(seed);
        for n in 0..5 {
            disturb(&mut w, n);
        }
        let stays = population(&mut w, 5);
        for (kind, label) in KINDS {
            let mut cursor = Cursor::new(kind);
            let mut seen: BTreeMap<String, u32> = BTreeMap::new();
            let mut turns = 0;
            while !cursor.is_done() {
                let budget = 1 + w.random().below(4) as usize;
                let found = w.inspect(&mut cursor, budget);
                assert!(found.len() <= budget, "seed {seed}: {kind:?}");
                for item in found {
                    *seen.entry(name_of(item)).or_default() += 1;
                }
                // Less often as it continues, or a listing that follows new objects would never end.
                if w.random().below(10 + turns) < 8 {
                    disturb(&mut w, 100 + turns);
                }
                turns += 1;
                assert!(turns < 2_000, "seed {seed}: {kind:?} does not end");
            }
            for name in &stays[label] {
                assert_eq!(seen.get(name), Some(&1), "seed {seed}: {kind:?} {name}");
            }
        }
    }
}

/// A scrape must not hold the lock while it looks at everything.
#[test]
fn counting_in_small_holds_gives_the_same_result() {
    let w = world();
    let whole = w.counters();
    for slots in [1, 3, 1_000] {
        let mut counting = gatepost_core::engine::Counting::default();
        let counted = (0..1_000).find_map(|_| w.count(&mut counting, slots)).expect("it ends");
        assert_eq!(format!("{counted:?}"), format!("{whole:?}"), "{slots} at once");
    }
    assert_eq!(
        (whole.channels, whole.subscriptions, whole.sessions_connected),
        (3, 9, 2)
    );
    assert_eq!((whole.messages_ready, whole.messages_unsettled), (0, 1));
}

#[test]
fn activity_of_connections_is_counted_by_protocol() {
    let mut w = World::new(1);
    let amqp = w.connect("AMQP 0-9-1");
    let mqtt = w.connect("MQTT 5.0");
    run(
        &mut w,
        amqp,
        [
            durable("q"),
            bind("amq.topic", "q", "a"),
            consume("q", 1),
            put("q", "12345"),
        ],
    );
    let news = mqtt_message(topic_message("a", "123", |_| {}), 0);
    run(&mut w, mqtt, [clean("m"), subscribe(vec![filter("a", 1)]), news]);
    hear(&mut w, amqp);
    run(&mut w, mqtt, [puback(1)]);
    let nowhere = publish(PublishFlags::MANDATORY, message("", "nowhere", "1", false));
    run(&mut w, amqp, [ack(1), get("q"), nowhere]);
    w.drop_client(mqtt);
    w.catch_up();
    let counters = w.counters();
    let of = |protocol| {
        counters
            .by_protocol
            .iter()
            .find(|(name, _)| *name == protocol)
            .expect("known")
            .1
    };
    let a = of("AMQP 0-9-1");
    assert_eq!(
        (a.published, a.published_confirm, a.confirmed, a.published_bytes),
        (2, 1, 1, 6)
    );
    assert_eq!(
        (a.delivered, a.delivered_bytes, a.acknowledged, a.get_empty),
        (2, 8, 1, 1)
    );
    assert_eq!((a.routed, a.unroutable_returned, a.links()), (1, 1, 1));
    let m = of("MQTT 5.0");
    assert_eq!((m.published, m.confirmed, m.routed, m.published_bytes), (1, 1, 1, 3));
    assert_eq!(
        (m.delivered, m.delivered_bytes, m.acknowledged, m.links()),
        (1, 3, 1, 0)
    );
    assert_eq!(counters.traffic.published, 3);
}

/// A queue's counts distinguish how a message was delivered, and start at 0 with the process.
#[test]
fn a_queue_counts_messages_in_and_out() {
    let mut w = World::new(1);
    let c = w.connect("AMQP 0-9-1");
    run(&mut w, c, [durable("q"), get("q")]);
    run(&mut w, c, ["1", "2", "3", "4"].map(|body| put("q", body)));
    run(&mut w, c, [get("q"), get_no_ack("q")]);
    run(&mut w, c, [ack(1)]);
    run(&mut w, c, [consume("q", 7)]);
    run(&mut w, c, [ack(3), requeue(4)]);
    run(&mut w, c, [cancel(7), consume_no_ack("q", 8)]);
    let counts = |w: &World| {
        let mut cursor = Cursor::new(Kind::Queues);
        match w.inspect(&mut cursor, 10).pop() {
            Some(Item::Queue { counts, queue_type, .. }) => (counts, queue_type),
            other => panic!("{other:?}"),
        }
    };
    let (found, queue_type) = counts(&w);
    assert_eq!(queue_type, "classic");
    assert_eq!((found.published, found.get_empty), (4, 1));
    assert_eq!((found.got, found.got_no_ack), (1, 1));
    // Numbers 3 and 4, and 4 again: to the same consumer, which leaves before it settles, or to the next one.
    assert_eq!(found.delivered + found.delivered_no_ack, 3, "{found:?}");
    assert_eq!((found.acknowledged, found.redelivered), (2, 1), "{found:?}");
    w.stop_and_start();
    assert_eq!(counts(&w).0, Default::default());
}
