//! Traces: messages are followed from their publish to their end.

use crate::support::*;
use gatepost_core::command::{Command, PublishFlags, Will};
use gatepost_core::engine::Settings;
use gatepost_core::engine::trace::*;
use gatepost_core::message::{Dialect, Envelope, Message};
use gatepost_core::properties::{Name, Origin as Encoding, Properties, Table, Value, neutral};
use gatepost_core::store::StoreSettings;
use gatepost_core::testing::world::{Client, World};
use std::time::Duration;

pub(crate) fn request(topic: &str) -> TraceRequest {
    TraceRequest {
        exchange: None,
        topic: Some(TopicFilter::parse(topic, Dialect::Slash).expect("a filter")),
        property: None,
        messages: 100,
        lasts: Duration::from_secs(600),
    }
}

pub(crate) fn start(w: &mut World, request: TraceRequest) -> u64 {
    let now = w.now();
    w.turn(|engine| engine.start_trace(now, request)).expect("a trace")
}

pub(crate) fn info(w: &mut World, id: u64) -> Option<TraceInfo> {
    let now = w.now();
    let infos = w.turn(|engine| engine.traces(now));
    infos.into_iter().find(|info| info.id == id)
}

pub(crate) fn state(w: &mut World, id: u64) -> Option<TraceState> {
    info(w, id).map(|info| info.state)
}

pub(crate) fn traced(w: &mut World, id: u64) -> Vec<TracedMessage> {
    w.turn(|engine| engine.traced(id, 0, 1000))
}

/// For example `5 delivered readings to store`: milliseconds since the publish, what happened, where, and by or to
/// whom.
pub(crate) fn hops(message: &TracedMessage) -> Vec<String> {
    message.hops.iter().map(|hop| line(message, hop)).collect()
}

fn line(message: &TracedMessage, hop: &Hop) -> String {
    let after = (hop.at - message.at.monotonic).as_millis();
    let mut line = format!("{after} {}", hop.kind.word());
    if let Some(queue) = &hop.queue {
        line += &format!(" {queue}");
    }
    if let Some(number) = hop.number {
        line += &format!(" #{number}");
    }
    if let Some(party) = &hop.party {
        line += &format!(" {}", party.protocol);
    }
    if let Some(source) = &hop.source {
        line += &format!(" by {source}");
    }
    if let Some((exchange, key)) = &hop.to {
        line += &format!(" to {exchange}/{key}");
    }
    if hop.redelivered {
        line += " again";
    }
    if hop.no_ack {
        line += " no_ack";
    }
    if let Some(reason) = &hop.reason {
        line += &format!(" ({reason})");
    }
    line
}

/// The hops of the only message of a trace.
pub(crate) fn only(w: &mut World, id: u64) -> Vec<String> {
    let messages = traced(w, id);
    assert_eq!(messages.len(), 1, "{messages:?}");
    hops(&messages[0])
}

pub(crate) fn world() -> (World, Client, Client) {
    let mut w = World::new(1);
    let (app, worker) = (w.connect("app"), w.connect("worker"));
    run(&mut w, worker, [durable("q"), bind("amq.topic", "q", "plant.#")]);
    (w, app, worker)
}

pub(crate) fn topic(key: &str, durable: bool) -> Command {
    publish(PublishFlags::CONFIRM, message("amq.topic", key, "m", durable))
}

/// A queue that dead-letters to queue `dead`.
fn dying(name: &str, more: &[(&str, i64)]) -> Command {
    declare(name, |d| {
        d.arguments.push("x-dead-letter-exchange", Value::text(""));
        d.arguments.push("x-dead-letter-routing-key", Value::text("dead"));
        for (key, value) in more {
            d.arguments.push(*key, Value::Int(*value, 64));
        }
    })
}

#[test]
fn a_stored_message_is_followed_to_its_acknowledgement_each_step_with_its_time() {
    let (mut w, app, worker) = world();
    let id = start(&mut w, request("plant/+"));
    w.send(app, vec![topic("plant.1", true), topic("other", true)]);
    w.advance(ms(5));
    assert!(w.commit(), "a batch");
    w.advance(ms(7));
    w.catch_up();
    now(&mut w, app);
    w.advance(ms(30));
    run(&mut w, worker, [consume("q", 1)]);
    w.advance(ms(100));
    run(&mut w, worker, [ack(1)]);
    let messages = traced(&mut w, id);
    let m = &messages[0];
    assert_eq!(
        (messages.len(), &*m.exchange, &*m.key, m.bytes),
        (1, "amq.topic", "plant.1", 1)
    );
    assert!(m.durable && matches!(&m.origin, Origin::Client(party) if party.protocol == "app"));
    let expected = [
        "0 published app",
        "0 routed #1",
        "0 queued q #0",
        "12 written",
        "12 stored",
        "12 confirmed",
        "42 delivered q worker",
        "142 acknowledged q worker",
    ];
    assert_eq!(hops(m), expected);
}

/// A message that is acknowledged before its batch is written is never logged.
#[test]
fn a_message_settled_before_it_is_logged_is_reported_as_not_stored() {
    let (mut w, app, worker) = world();
    run(&mut w, worker, [consume("q", 1)]);
    // The first message's hand-out mark is logged after it.
    run(&mut w, app, [topic("plant.1", true)]);
    run(&mut w, worker, [ack(1)]);
    let id = start(&mut w, request("plant/+"));
    w.send(app, vec![topic("plant.2", true)]);
    now(&mut w, worker);
    w.send(worker, vec![ack(2)]);
    hear(&mut w, app);
    let expected = [
        "0 published app",
        "0 routed #1",
        "0 queued q #0",
        "0 delivered q worker",
        "0 acknowledged q worker",
        "0 confirmed",
        "0 not_stored",
    ];
    let mut found = only(&mut w, id);
    found.sort();
    let mut expected = expected.map(str::to_owned);
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn every_return_of_a_message_is_reported() {
    let (mut w, app, worker) = world();
    let id = start(&mut w, request("plant/+"));
    w.send(
        app,
        vec![publish(
            PublishFlags::default(),
            message("amq.topic", "plant.1", "m", false),
        )],
    );
    run(&mut w, worker, [consume("q", 1)]);
    run(&mut w, worker, [requeue(1)]);
    run(&mut w, worker, [cancel(1), close_channel()]);
    run(&mut w, worker, [get("q")]);
    run(&mut w, worker, [ack(1), consume_no_ack("q", 2)]);
    let expected = [
        "0 published app",
        "0 routed #1",
        "0 queued q #0",
        "0 delivered q worker",
        "0 requeued q worker",
        "0 delivered q worker again",
        "0 requeued q worker",
        "0 fetched q worker again",
        "0 acknowledged q worker",
    ];
    assert_eq!(only(&mut w, id), expected);
}

#[test]
fn a_rejected_message_is_followed_to_where_dead_letters_go() {
    let (mut w, app, worker) = world();
    run(&mut w, worker, [durable("dead"), dying("work", &[])]);
    let id = start(&mut w, request("work"));
    run(&mut w, app, [put("work", "m")]);
    run(&mut w, worker, [consume("work", 1)]);
    w.advance(ms(3));
    run(&mut w, worker, [reject(1)]);
    w.advance(ms(4));
    run(&mut w, worker, [get_no_ack("dead")]);
    let found = only(&mut w, id);
    let expected = [
        "0 published app",
        "0 routed #1",
        "0 queued work #0",
        "0 written",
        "0 stored",
        "0 confirmed",
        "0 delivered work worker",
        "3 rejected work worker",
        "3 dead_lettered work to /dead",
        "3 routed #1",
        "3 queued dead #0",
        "3 written",
        "3 stored",
        "7 fetched dead worker no_ack",
    ];
    assert_eq!(found, expected);
}

/// A dead letter that a trace asks for is caught, even if the original message was not traced.
#[test]
fn a_dead_letter_and_a_will_are_reported_with_their_origin() {
    let (mut w, app, worker) = world();
    run(&mut w, worker, [durable("dead"), dying("work", &[])]);
    run(&mut w, app, [put("work", "m")]);
    let id = start(&mut w, request("dead"));
    let wills = start(&mut w, request("plant/gone"));
    run(&mut w, worker, [consume("work", 1)]);
    run(&mut w, worker, [reject(1)]);
    let messages = traced(&mut w, id);
    assert!(
        matches!(&messages[0].origin, Origin::DeadLetter(queue) if **queue == *"work"),
        "{messages:?}"
    );
    let sensor = w.connect("sensor");
    let will = Will {
        message: topic_message("plant/gone", "bye", |_| {}),
        delay: Duration::ZERO,
        expiry: None,
    };
    let open = session("sensor-1", |s| {
        s.clean_start = true;
        s.expiry = Some(0);
        s.will = Some(will);
    });
    run(&mut w, sensor, [open]);
    w.send(sensor, vec![Command::Detach]);
    w.catch_up();
    let messages = traced(&mut w, wills);
    assert!(
        matches!(&messages[0].origin, Origin::Will(client) if **client == *"sensor-1"),
        "{messages:?}"
    );
    assert_eq!(hops(&messages[0])[..3], ["0 published", "0 routed #1", "0 queued q #0"]);
}

#[test]
fn expiry_limits_and_full_queues_are_reported() {
    let (mut w, app, worker) = world();
    let refuses = declare("strict", |d| {
        d.arguments.push("x-max-length", Value::Int(1, 64));
        d.arguments.push("x-overflow", Value::text("reject-publish"));
    });
    let setup = [
        durable("dead"),
        dying("short", &[("x-message-ttl", 50)]),
        with_arguments("small", &[("x-max-length", 1)]),
        dying("returns", &[("x-delivery-limit", 1)]),
        refuses,
    ];
    run(&mut w, worker, setup);
    let ids = ["short", "small", "strict"].map(|name| start(&mut w, request(name)));
    let envelope = Envelope {
        received: w.now().wall,
        durable: true,
        ..Envelope::default()
    };
    let short = Message::new(envelope, "", "short", &[], b"m");
    let short = publish(PublishFlags::CONFIRM, short);
    run(
        &mut w,
        app,
        [
            short,
            put("small", "1"),
            put("small", "2"),
            put("strict", "1"),
            put("strict", "2"),
        ],
    );
    w.advance(ms(50));
    w.catch_up();
    let mut short = only(&mut w, ids[0]);
    short.retain(|line| !line.contains("written") && !line.contains("stored"));
    let expected = [
        "0 published app",
        "0 routed #1",
        "0 queued short #0",
        "0 confirmed",
        "50 expired short",
        "50 dead_lettered short to /dead",
        "50 routed #1",
        "50 queued dead #0",
    ];
    assert_eq!(short, expected);
    let small = traced(&mut w, ids[1]);
    assert!(
        hops(&small[0]).contains(&"0 dropped small (the queue is full)".to_owned()),
        "{small:?}"
    );
    assert!(
        !hops(&small[1]).iter().any(|line| line.contains("dropped")),
        "{small:?}"
    );
    let strict = traced(&mut w, ids[2]);
    assert_eq!(
        hops(&strict[1]),
        [
            "0 published app",
            "0 routed #1",
            "0 not_queued strict (the queue is full)",
            "0 confirmed"
        ]
    );
}

#[test]
fn a_message_above_its_delivery_limit_is_reported() {
    let (mut w, app, worker) = world();
    let quorum = declare("returns", |d| {
        d.arguments.push("x-queue-type", Value::text("quorum"));
        d.arguments.push("x-delivery-limit", Value::Int(1, 64));
    });
    run(&mut w, worker, [quorum]);
    let id = start(&mut w, request("returns"));
    run(&mut w, app, [put("returns", "m")]);
    run(&mut w, worker, [consume("returns", 1)]);
    run(&mut w, worker, [requeue(1)]);
    run(&mut w, worker, [requeue(2)]);
    let found = only(&mut w, id);
    assert_eq!(
        found.last().map(String::as_str),
        Some("0 dropped returns (it came back too often)"),
        "{found:?}"
    );
}

#[test]
fn unroutable_and_refused_messages_are_reported_with_the_reason() {
    let (mut w, app, worker) = world();
    let id = start(&mut w, request("#"));
    let mandatory = publish(PublishFlags::MANDATORY, message("amq.direct", "nobody", "m", false));
    let nowhere = publish(PublishFlags::default(), message("amq.direct", "nowhere", "m", false));
    run(&mut w, app, [mandatory, nowhere]);
    run(
        &mut w,
        worker,
        [publish(PublishFlags::default(), message("no-such", "k", "m", false))],
    );
    let messages = traced(&mut w, id);
    let lines: Vec<_> = messages.iter().map(hops).collect();
    assert_eq!(
        lines[0],
        [
            "0 published app",
            "0 unroutable",
            "0 refused (it goes back to its publisher)"
        ]
    );
    assert_eq!(lines[1], ["0 published app", "0 unroutable"]);
    assert_eq!(
        lines[2],
        ["0 published worker", "0 refused (no exchange 'no-such' in vhost '/')"]
    );
}

#[test]
fn purged_and_deleted_queues_are_reported() {
    let (mut w, app, worker) = world();
    let id = start(&mut w, request("plant/+"));
    run(
        &mut w,
        app,
        [
            topic("plant.1", false),
            topic("plant.2", false),
            topic("plant.3", false),
        ],
    );
    run(&mut w, worker, [get("q"), purge("q")]);
    run(&mut w, app, [topic("plant.4", false)]);
    run(&mut w, worker, [delete("q")]);
    let messages = traced(&mut w, id);
    let last: Vec<_> = messages
        .iter()
        .map(|m| hops(m).last().cloned().unwrap_or_default())
        .collect();
    assert_eq!(
        last,
        ["0 queue_deleted q", "0 purged q", "0 purged q", "0 queue_deleted q"]
    );
}

#[test]
fn mqtt_subscribers_acknowledge_leave_and_return() {
    let (mut w, app, _) = world();
    let panel = w.connect("panel");
    run(&mut w, panel, [kept("p"), subscribe(vec![filter("plant/+", 1)])]);
    let quick = w.connect("quick");
    run(&mut w, quick, [clean("s"), subscribe(vec![filter("plant/+", 0)])]);
    let id = start(&mut w, request("plant/+"));
    run(&mut w, app, [clean("a"), mqtt("plant/1", "m", 1, 0)]);
    hear(&mut w, panel);
    hear(&mut w, quick);
    // It disconnects without an acknowledgement, and reconnects.
    run(&mut w, panel, [Command::Detach]);
    w.advance(ms(9));
    let panel = w.connect("panel");
    run(&mut w, panel, [kept("p")]);
    run(&mut w, panel, [puback(1)]);
    let found = only(&mut w, id);
    let of = |queue: &str| -> Vec<&String> { found.iter().filter(|line| line.contains(queue)).collect() };
    assert_eq!(found[..2], ["0 published app", "0 routed #3"]);
    let own = of(" mqtt-subscription-p");
    assert_eq!(own.len(), 4, "{found:?}");
    assert!(
        own[0].starts_with("0 queued") && own[1].starts_with("0 delivered"),
        "{own:?}"
    );
    assert!(
        own[2].starts_with("9 sent_again") && own[2].ends_with("#1 panel again"),
        "{own:?}"
    );
    assert!(own[3].starts_with("9 acknowledged"), "{own:?}");
    let quick = of(" mqtt-subscription-s");
    assert_eq!(quick.len(), 2, "{found:?}");
    assert!(quick[1].ends_with("quick no_ack"), "{quick:?}");
}

#[test]
fn messages_dropped_for_a_subscriber_are_reported_with_the_reason() {
    let (mut w, app, _) = world();
    let away = w.connect("away");
    run(&mut w, away, [kept("w"), subscribe(vec![filter("plant/+", 1)])]);
    run(&mut w, away, [Command::Detach]);
    let mut own = filter("plant/+", 1);
    own.no_local = true;
    run(&mut w, app, [clean("a"), subscribe(vec![own])]);
    let id = start(&mut w, request("plant/+"));
    run(&mut w, app, [mqtt("plant/1", "m", 0, 0)]);
    let found = only(&mut w, id);
    let why = |queue: &str| {
        found
            .iter()
            .find(|line| line.contains(queue))
            .cloned()
            .unwrap_or_default()
    };
    assert!(
        why("subscription-w").ends_with("(the subscriber is away or slow, and gets it at most once)"),
        "{found:?}"
    );
    assert!(
        why("subscription-a").ends_with("(the subscription is not for its own client's messages)"),
        "{found:?}"
    );
}

/// Most of a long queue is in the log, and a message read back is another object in memory.
#[test]
fn a_traced_message_is_recognised_when_it_is_read_from_the_log() {
    let settings = Settings {
        cache_bytes_max: 16 << 10,
        ..Settings::default()
    };
    let mut w = World::with(1, settings, StoreSettings::default());
    w.set_audits(false);
    let (app, worker) = (w.connect("app"), w.connect("worker"));
    run(&mut w, worker, [durable("q")]);
    let mut wanted = request("q");
    wanted.messages = 3;
    for _ in 0..2000 {
        w.send(app, vec![put("q", &padded("before", 100))]);
    }
    hear(&mut w, app);
    let id = start(&mut w, wanted);
    for _ in 0..3 {
        run(&mut w, app, [put("q", &padded("wanted", 100))]);
    }
    for _ in 0..2000 {
        w.send(app, vec![put("q", &padded("behind", 100))]);
    }
    hear(&mut w, app);
    assert!(w.counters().messages_paged > 3_000, "{:?}", w.counters());
    assert_eq!(state(&mut w, id), Some(TraceState::Following));
    w.advance(ms(1000));
    run(&mut w, worker, [consume_no_ack("q", 1)]);
    for message in traced(&mut w, id) {
        let hops = hops(&message);
        assert_eq!(
            hops.last().map(String::as_str),
            Some("1000 delivered q worker no_ack"),
            "{hops:?}"
        );
    }
    assert_eq!(
        state(&mut w, id),
        Some(TraceState::Ended),
        "all that it was to follow has ended"
    );
}

/// The middle of a long queue, which is only in the log, is dropped in one step.
#[test]
fn messages_dropped_with_the_middle_of_a_long_queue_are_reported() {
    let settings = Settings {
        cache_bytes_max: 16 << 10,
        ..Settings::default()
    };
    let mut w = World::with(1, settings, StoreSettings::default());
    w.set_audits(false);
    let (app, worker) = (w.connect("app"), w.connect("worker"));
    run(&mut w, worker, [durable("q")]);
    let id = start(
        &mut w,
        TraceRequest {
            messages: 1000,
            ..request("q")
        },
    );
    for _ in 0..1000 {
        w.send(app, vec![put("q", &padded("m", 100))]);
    }
    hear(&mut w, app);
    run(
        &mut w,
        worker,
        [policy("p", "^q$", "queues", &[("max-length", Value::Int(2, 64))])],
    );
    w.advance(ms(10));
    hear(&mut w, worker);
    let messages = traced(&mut w, id);
    let dropped = messages.iter().filter(|m| {
        hops(m)
            .iter()
            .any(|line| line.contains("dropped q (the queue is full)"))
    });
    assert_eq!(dropped.count(), 998);
}

fn with_properties(properties: &Properties) -> Command {
    let envelope = Envelope {
        origin: Encoding::NEUTRAL,
        ..Envelope::default()
    };
    let raw = neutral(properties, Vec::new());
    publish(PublishFlags::default(), Message::new(envelope, "", "q", &raw, b"m"))
}

#[test]
fn messages_are_found_by_properties_headers_and_exchange() {
    let (mut w, app, _) = world();
    let by = |property: &str, value: &str| TraceRequest {
        topic: None,
        property: Some((PropertyName::parse(property).expect("a property"), value.into())),
        ..request("#")
    };
    let asked = [
        ("message-id", "m-1"),
        ("correlation-id", "c-1"),
        ("content-type", "text/plain"),
        ("type", "order"),
        ("app-id", "shop"),
        ("user-id", "mia"),
        ("header:colour", "red"),
        ("header:size", "7"),
        ("header:fragile", "true"),
        ("header:colour", "blue"),
        ("message-id", "m-2"),
    ];
    let ids = asked.map(|(name, value)| start(&mut w, by(name, value)));
    let name = |text: &str| Some(Name::from(text));
    let mut headers = Table::default();
    headers.push("colour", Value::text("red"));
    headers.push("size", Value::Int(7, 32));
    headers.push("fragile", Value::Bool(true));
    let properties = Properties {
        message_id: name("m-1"),
        correlation: Some(b"c-1".as_slice().into()),
        content_type: name("text/plain"),
        kind: name("order"),
        app_id: name("shop"),
        user_id: name("mia"),
        headers,
        ..Properties::default()
    };
    run(
        &mut w,
        app,
        [with_properties(&properties), with_properties(&Properties::default())],
    );
    let found = ids.map(|id| traced(&mut w, id).len());
    assert_eq!(found, [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
    for id in ids {
        w.turn(|engine| engine.remove_trace(id));
    }
    let by_exchange = |exchange: &str| TraceRequest {
        exchange: Some(exchange.into()),
        ..request("#")
    };
    let (default, topics) = (start(&mut w, by_exchange("")), start(&mut w, by_exchange("amq.topic")));
    run(
        &mut w,
        app,
        [put("q", "m"), topic("plant.1", false), topic("plant.2", false)],
    );
    assert_eq!((traced(&mut w, default).len(), traced(&mut w, topics).len()), (1, 2));
    assert!(PropertyName::parse("header:").is_none() && PropertyName::parse("colour").is_none());
}

/// The same key in both spellings, and filters in both.
#[test]
fn a_filter_finds_keys_of_either_dialect() {
    let (mut w, app, _) = world();
    let slash = start(&mut w, request("plant/+"));
    let dot = TraceRequest {
        topic: Some(TopicFilter::parse("plant.*", Dialect::Dot).expect("a filter")),
        ..request("#")
    };
    let dot = start(&mut w, dot);
    run(
        &mut w,
        app,
        [
            clean("a"),
            mqtt("plant/1", "m", 0, 0),
            topic("plant.2", false),
            topic("plant.2.3", false),
        ],
    );
    assert_eq!((traced(&mut w, slash).len(), traced(&mut w, dot).len()), (2, 2));
}

#[test]
fn a_transaction_is_traced_like_other_publishes() {
    let (mut w, app, worker) = world();
    let id = start(&mut w, request("plant/+"));
    run(
        &mut w,
        app,
        [transaction(vec![publish(
            PublishFlags::default(),
            message("amq.topic", "plant.1", "m", true),
        )])],
    );
    run(&mut w, worker, [get_no_ack("q")]);
    let expected = [
        "0 published app",
        "0 routed #1",
        "0 queued q #0",
        "0 written",
        "0 stored",
        "0 fetched q worker no_ack",
    ];
    assert_eq!(only(&mut w, id), expected);
}

#[test]
fn a_retained_message_is_reported() {
    let (mut w, app, _) = world();
    let id = start(&mut w, request("state"));
    run(&mut w, app, [clean("a"), retain("state", "on")]);
    assert_eq!(only(&mut w, id)[..3], ["0 published app", "0 unroutable", "0 retained"]);
}

/// A message may be refused by many full queues, which dead-letter it. What a hold has no time for comes later, during
/// another publish.
#[test]
fn messages_that_full_queues_refuse_are_followed_to_their_dead_letters() {
    let settings = Settings {
        hold_units_max: 16,
        ..Settings::default()
    };
    let mut w = World::with(1, settings, StoreSettings::default());
    let (app, worker) = (w.connect("app"), w.connect("worker"));
    run(&mut w, worker, [durable("dead")]);
    for n in 0..6 {
        let name = format!("full{n}");
        let full = declare(&name, |d| {
            d.arguments.push("x-max-length", Value::Int(0, 64));
            d.arguments.push("x-overflow", Value::text("reject-publish-dlx"));
            d.arguments.push("x-dead-letter-exchange", Value::text(""));
            d.arguments.push("x-dead-letter-routing-key", Value::text("dead"));
        });
        run(&mut w, worker, [full, bind("amq.fanout", &name, "")]);
    }
    let id = start(&mut w, request("wanted"));
    let send = |key: &str| publish(PublishFlags::default(), message("amq.fanout", key, "m", true));
    w.send(app, vec![send("wanted"), send("other")]);
    hear(&mut w, app);
    w.advance(ms(100));
    hear(&mut w, app);
    let found = only(&mut w, id);
    let count = |what: &str| found.iter().filter(|line| line.contains(what)).count();
    assert_eq!(
        (count("not_queued full"), count("to /dead"), count("queued dead")),
        (6, 6, 6),
        "{found:?}"
    );
    assert!(
        found.iter().any(|line| line.contains("dead_lettered full5")),
        "{found:?}"
    );
}
