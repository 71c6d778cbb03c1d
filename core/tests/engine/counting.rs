//! Counts for listings of queues, channels and exchanges.

use crate::support::*;
use gatepost_core::command::{Bind, BindTarget, Command, DeclareQueue, PublishFlags};
use gatepost_core::engine::ChannelCounts;
use gatepost_core::engine::inspect::{Cursor, Item, Kind};
use gatepost_core::properties::{Table, Value};
use gatepost_core::testing::world::World;

/// Declarations of existing queues were not counted, and a start counted all queues in the log as new.
#[test]
fn every_declaration_counts_and_only_a_new_queue_is_created() {
    let mut w = World::new(1);
    let c = w.connect("test");
    let passive = DeclareQueue {
        passive: true,
        ..DeclareQueue::durable(CH, "a")
    };
    let passive = Command::DeclareQueue(Box::new(passive));
    run(&mut w, c, [durable("a"), durable("a"), durable("b"), passive]);
    // A refused one does not count.
    run(&mut w, c, [transient("a")]);
    let mqtt = w.connect("MQTT 5.0");
    run(&mut w, mqtt, [kept("m"), subscribe(vec![filter("x", 1)])]);
    let counts = |w: &World| {
        let c = w.counters();
        (c.queues_declared, c.queues_created, c.queues_deleted)
    };
    assert_eq!(counts(&w), (4, 3, 0), "`a` twice, `b`, and the session's");
    w.stop_and_start();
    assert_eq!((w.counters().queues, counts(&w)), (3, (0, 0, 0)));
}

#[test]
fn a_redelivery_counts_however_it_is_settled() {
    let mut w = World::new(1);
    let (c, second) = (w.connect("test"), w.connect("test"));
    run(&mut w, c, [durable("q"), put("q", "1"), put("q", "2"), consume("q", 1)]);
    run(&mut w, c, [cancel(1), requeue(1), requeue(2), get_no_ack("q")]);
    run(&mut w, second, [consume_no_ack("q", 1)]);
    let (counts, ..) = w.turn(|engine| engine.queue_counts("q")).expect("the queue");
    assert_eq!(
        (counts.delivered, counts.delivered_no_ack, counts.got_no_ack),
        (2, 1, 1)
    );
    assert_eq!(counts.redelivered, 2, "the fetched one, and the one settled when taken");
    assert_eq!(w.counters().traffic.redelivered, 2);
}

#[test]
fn resends_to_a_session_count_as_redelivered() {
    let mut w = World::new(1);
    let first = w.connect("MQTT 5.0");
    run(&mut w, first, [kept("m"), subscribe(vec![filter("t", 1)])]);
    run(&mut w, first, [mqtt("t", "1", 1, 0)]);
    w.drop_client(first);
    let second = w.connect("MQTT 5.0");
    assert_eq!(run(&mut w, second, [kept("m")])[1..], ["publish q1 #1 t 1 dup"]);
    let name = "mqtt-subscription-m";
    let (counts, ..) = w.turn(|engine| engine.queue_counts(name)).expect("the queue");
    assert_eq!((counts.delivered, counts.redelivered), (2, 1));
    assert_eq!(w.counters().traffic.redelivered, 1);
}

/// `publish_in` and `publish_out` of an exchange.
fn exchange_counts(w: &mut World, name: &str) -> (u64, u64) {
    let counts = w.turn(|engine| engine.exchange_counts(name));
    let counts = counts.unwrap_or_else(|| panic!("exchange '{name}'"));
    (counts.published_in, counts.published_out)
}

#[test]
fn a_publish_counts_for_the_exchange_that_it_names_with_the_queues_it_reached() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [
            durable("a"),
            durable("b"),
            exchange("x", "fanout"),
            exchange("h", "headers"),
            exchange("y", "direct"),
            bind("x", "a", ""),
            bind("x", "b", ""),
            bind("h", "a", ""),
            Command::Bind(Box::new(Bind {
                channel: CH,
                source: "x".into(),
                target: BindTarget::Exchange("y".into()),
                key: "".into(),
                arguments: Table::default(),
                reply: true,
            })),
        ],
    );
    let to = |exchange: &str, key: &str| publish(PublishFlags::CONFIRM, message(exchange, key, "m", true));
    // The first is routed by a walk, the second by the remembered route; each one to a headers exchange by a walk.
    run(&mut w, c, [to("x", "k"), to("x", "k"), to("h", "k"), to("h", "k")]);
    assert_eq!(exchange_counts(&mut w, "x"), (2, 4));
    assert_eq!(exchange_counts(&mut w, "h"), (2, 2));
    assert_eq!(exchange_counts(&mut w, "y"), (0, 0), "nobody publishes to it");
    // To the default exchange; to no queue; in a transaction; to an exchange that does not exist.
    run(&mut w, c, [put("a", "1"), put("nobody", "2"), to("y", "k")]);
    run(&mut w, c, [transaction(vec![to("x", "k"), put("b", "3")])]);
    run(&mut w, c, [to("nowhere", "k"), close_channel()]);
    assert_eq!(exchange_counts(&mut w, ""), (3, 2));
    assert_eq!(exchange_counts(&mut w, "y"), (1, 0));
    assert_eq!(exchange_counts(&mut w, "x"), (3, 6));
    // A new exchange with the same name, perhaps in the same slot, starts at 0.
    run(
        &mut w,
        c,
        [delete_exchange("x"), exchange("x", "fanout"), exchange("z", "fanout")],
    );
    assert_eq!(exchange_counts(&mut w, "x"), (0, 0));
    run(&mut w, c, [to("x", "k"), to("z", "k"), to("z", "k")]);
    assert_eq!(
        (exchange_counts(&mut w, "x"), exchange_counts(&mut w, "z")),
        ((1, 0), (2, 0))
    );
}

#[test]
fn publishes_of_a_session_and_dead_letters_count_for_their_exchange() {
    let mut w = World::new(1);
    let mqtt_client = w.connect("MQTT 5.0");
    run(&mut w, mqtt_client, [kept("m"), subscribe(vec![filter("t/#", 1)])]);
    let (before, out) = exchange_counts(&mut w, "amq.topic");
    run(
        &mut w,
        mqtt_client,
        [mqtt("t/1", "1", 0, 0), mqtt("t/1", "2", 1, 0), mqtt("else", "3", 0, 0)],
    );
    assert_eq!(exchange_counts(&mut w, "amq.topic"), (before + 3, out + 2));
    let c = w.connect("test");
    let dying = declare("dying", |d| {
        d.arguments.push("x-dead-letter-exchange", Value::text("amq.fanout"));
    });
    run(&mut w, c, [dying, durable("dead"), bind("amq.fanout", "dead", "")]);
    run(&mut w, c, [put("dying", "1"), get("dying")]);
    run(&mut w, c, [reject(1)]);
    assert_eq!(exchange_counts(&mut w, "amq.fanout"), (1, 1));
}

#[test]
fn a_channel_counts_what_it_publishes_and_gets_by_the_way_it_is_settled() {
    let mut w = World::new(1);
    let (a, b) = (w.connect("test"), w.connect("test"));
    run(&mut w, a, [durable("q"), put("q", "1"), put("nobody", "2")]);
    let plain = |flags, key: &str| publish(flags, message("", key, "m", false));
    run(
        &mut w,
        a,
        [
            plain(PublishFlags::default(), "q"),
            plain(PublishFlags::MANDATORY, "nobody"),
        ],
    );
    run(
        &mut w,
        a,
        [transaction(vec![
            put("q", "3"),
            plain(PublishFlags::default(), "nobody"),
        ])],
    );
    // Another connection takes them: one settled, one returned and taken again, one fetched, and one settled when
    // taken.
    run(&mut w, b, [prefetch(2, false), consume("q", 1)]);
    run(&mut w, b, [cancel(1), ack(1), requeue(2)]);
    run(&mut w, b, [get("q"), get_no_ack("q"), get("q")]);
    run(&mut w, a, [put("q", "4")]);
    run(&mut w, b, [consume_no_ack("q", 2)]);
    let listed = w.inspect(&mut Cursor::new(Kind::Channels), 10).into_iter();
    let mut listed = listed.map(|item| match item {
        Item::Channel {
            link, number, counts, ..
        } => (link, number, counts),
        other => panic!("{other:?}"),
    });
    let mut counts = || {
        let (link, number, counts) = listed.next().expect("a channel");
        let (same, unsettled) = w
            .turn(|engine| engine.channel_counts(link, number))
            .expect("the channel");
        assert_eq!(same, counts);
        (counts, unsettled)
    };
    let published = ChannelCounts {
        published: 7,
        confirmed: 3,
        unroutable_dropped: 2,
        unroutable_returned: 1,
        ..ChannelCounts::default()
    };
    assert_eq!(counts(), (published, 0));
    let consumed = ChannelCounts {
        delivered: 2,
        delivered_no_ack: 1,
        got: 1,
        got_no_ack: 1,
        get_empty: 1,
        acknowledged: 1,
        redelivered: 1,
        ..ChannelCounts::default()
    };
    assert_eq!(counts(), (consumed, 1));
}

/// Its deliveries were not counted, because those of a session are counted at its queue.
#[test]
fn a_session_s_channel_counts_its_deliveries() {
    let mut w = World::new(1);
    let (a, b) = (w.connect("MQTT 5.0"), w.connect("test"));
    run(&mut w, a, [kept("m"), subscribe(vec![filter("t/#", 1)])]);
    run(&mut w, b, [mqtt("t/1", "1", 0, 0), mqtt("t/1", "2", 1, 0)]);
    hear(&mut w, a);
    let listed = w.inspect(&mut Cursor::new(Kind::Channels), 10);
    let found = listed.iter().find_map(|item| match item {
        Item::Channel {
            link,
            number,
            consumers,
            counts,
            unsettled,
            ..
        } if *unsettled == 1 => Some((*link, *number, *consumers, *counts, *unsettled)),
        _ => None,
    });
    let (link, number, consumers, counts, unsettled) = found.expect("the session's channel");
    assert_eq!(consumers, 1);
    assert_eq!((counts.delivered, counts.delivered_no_ack, unsettled), (1, 1, 1));
    assert_eq!(
        w.turn(|engine| engine.channel_counts(link, number)),
        Some((counts, unsettled))
    );
}

/// The console said 0/s of devices that publish at QoS 0, and of STOMP clients that ask for no receipts.
#[test]
fn publishes_without_confirms_are_counted_where_a_client_has_no_channel() {
    let mut w = World::new(1);
    let a = w.connect("MQTT 5.0");
    let quiet = || mqtt("t", "m", 0, 0);
    run(&mut w, a, [clean("m"), quiet(), quiet()]);
    let listed = |w: &mut World| {
        let mut cursor = Cursor::new(Kind::Channels);
        let mut found = Vec::new();
        while !cursor.is_done() {
            for item in w.inspect(&mut cursor, 1) {
                let Item::Channel {
                    link, number, counts, ..
                } = item
                else {
                    panic!("{item:?}")
                };
                let known = w.turn(|engine| engine.channel_counts(link, number));
                assert_eq!(known.map(|(counts, _)| counts), Some(counts));
                found.push((number, counts.published));
            }
        }
        found
    };
    assert_eq!(listed(&mut w), [(0, 2)]);
    // A confirm gives it a channel; earlier publishes still count.
    run(&mut w, a, [mqtt("t", "m", 1, 1)]);
    assert_eq!(listed(&mut w).iter().map(|(_, published)| published).sum::<u64>(), 3);
    // Without a session, and with a subscription on another channel.
    let mut w = World::new(1);
    let b = w.connect("STOMP 1.2");
    run(&mut w, b, [quiet(), durable("q"), consume("q", 1)]);
    assert_eq!(listed(&mut w), [(0, 1), (CH, 0)]);
}

/// They were always 0. The audit compares them with what connections have, in every test of the engine.
#[test]
fn bytes_of_unsettled_messages_are_those_that_consumers_have() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [durable("q"), put("q", "four"), put("q", "sixsix"), consume("q", 1)],
    );
    let bytes = |w: &mut World| match w.turn(|engine| engine.inspect_queue("q")) {
        Some(Item::Queue {
            ready_bytes,
            unsettled_bytes,
            ..
        }) => (ready_bytes, unsettled_bytes),
        other => panic!("{other:?}"),
    };
    assert_eq!(bytes(&mut w), (0, 10));
    run(&mut w, c, [cancel(1), ack(1)]);
    assert_eq!(bytes(&mut w), (0, 6));
    run(&mut w, c, [requeue(2)]);
    assert_eq!(bytes(&mut w), (6, 0));
    run(&mut w, c, [get("q")]);
    assert_eq!(bytes(&mut w), (0, 6));
}
