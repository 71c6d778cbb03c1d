//! Hops of retained messages, of QoS 2, and over several exchanges.

use crate::support::*;
use crate::traces::*;
use gatepost_core::command::{Command, PublishFlags};
use gatepost_core::engine::trace::*;
use gatepost_core::testing::world::World;

/// A trace of one message, which is over once that message has ended.
fn one(topic: &str) -> TraceRequest {
    TraceRequest {
        messages: 1,
        ..request(topic)
    }
}

/// What is told of a queue, without times.
fn at(found: &[String], queue: &str) -> Vec<String> {
    let lines = found.iter().filter(|line| line.contains(queue));
    let kinds = lines.map(|line| line.split(' ').skip(1).take(1).collect::<String>());
    kinds.collect()
}

fn kinds(found: &[String]) -> Vec<&str> {
    found.iter().filter_map(|line| line.split(' ').nth(1)).collect()
}

/// Those who subscribe later are given it as well, and acknowledge it.
#[test]
fn a_retained_message_is_followed_to_who_subscribes_later() {
    let (mut w, app, worker) = world();
    let id = start(&mut w, one("state"));
    run(&mut w, app, [clean("a"), retain("state", "on")]);
    assert_eq!(state(&mut w, id), Some(TraceState::Following));
    let panel = w.connect("panel");
    w.advance(ms(5));
    run(&mut w, panel, [clean("p"), subscribe(vec![filter("state", 1)])]);
    let found = only(&mut w, id);
    let own = at(&found, "mqtt-subscription-p");
    assert_eq!(own, ["queued", "delivered"], "{found:?}");
    assert!(
        found
            .iter()
            .any(|line| line.starts_with("5 queued") && line.ends_with("(it is retained, and was asked for)"))
    );
    // Another one takes its place: who comes then gets that.
    run(&mut w, app, [retain("state", "off")]);
    let late = w.connect("late");
    run(&mut w, late, [clean("l"), subscribe(vec![filter("state", 0)])]);
    let found = only(&mut w, id);
    assert_eq!(
        found.last().map(|line| line.ends_with("not_retained")),
        Some(true),
        "{found:?}"
    );
    assert_eq!(at(&found, "mqtt-subscription-l"), Vec::<String>::new());
    run(&mut w, worker, [purge("q")]);
    run(&mut w, panel, [puback(1)]);
    assert_eq!(state(&mut w, id), Some(TraceState::Ended), "{:?}", only(&mut w, id));
}

#[test]
fn what_is_cleared_is_retained_no_longer() {
    let (mut w, app, _) = world();
    let id = start(&mut w, request("state"));
    run(&mut w, app, [clean("a"), retain("state", "on"), retain("state", "")]);
    let messages = traced(&mut w, id);
    assert_eq!(messages.len(), 2);
    let is_told = messages[0].hops.iter().any(|hop| hop.kind == HopKind::NotRetained);
    assert!(is_told, "{:?}", hops(&messages[0]));
    let panel = w.connect("panel");
    let heard = run(&mut w, panel, [clean("p"), subscribe(vec![filter("state", 1)])]);
    assert!(!heard.iter().any(|line| line.starts_with("publish")), "{heard:?}");
    let hops = traced(&mut w, id).iter().map(|m| m.hops.len()).collect::<Vec<_>>();
    assert_eq!(hops, messages.iter().map(|m| m.hops.len()).collect::<Vec<_>>());
}

/// What a trace knows of retained messages goes with it.
#[test]
fn a_removed_trace_gives_back_what_it_knew_of_retained_messages() {
    let (mut w, app, _) = world();
    run(&mut w, app, [clean("a")]);
    let queues = |w: &World| w.counters().objects_bytes[2];
    let before = queues(&w);
    let id = start(&mut w, request("s/+"));
    for n in 0..20 {
        run(&mut w, app, [retain(&format!("s/{n}"), "on")]);
    }
    assert!(queues(&w) > before);
    assert!(w.turn(|engine| engine.remove_trace(id)));
    assert_eq!(queues(&w), before);
}

/// Between the packets of QoS 2 there may be a reconnection, after which only the release is sent again.
#[test]
fn each_packet_of_qos_2_is_told() {
    let (mut w, app, _) = world();
    let panel = w.connect("panel");
    run(&mut w, panel, [kept("p"), subscribe(vec![filter("plant/+", 2)])]);
    let id = start(&mut w, one("plant/+"));
    run(&mut w, app, [kept("a"), mqtt("plant/1", "m", 2, 7)]);
    hear(&mut w, panel);
    run(&mut w, panel, [pubrec(1)]);
    run(&mut w, panel, [Command::Detach]);
    let panel = w.connect("panel");
    run(&mut w, panel, [kept("p")]);
    run(&mut w, app, [pubrel(7)]);
    run(&mut w, panel, [puback(1)]);
    let found = only(&mut w, id);
    let own = at(&found, "mqtt-subscription-p");
    assert_eq!(
        own,
        ["queued", "delivered", "received", "sent_again", "acknowledged"],
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .any(|line| line.contains("told again to forget the packet id")),
        "{found:?}"
    );
    let told = kinds(&found);
    let confirmed = told.iter().position(|kind| *kind == "confirmed");
    let released = told.iter().position(|kind| *kind == "released");
    assert!(confirmed.is_some() && confirmed < released, "{found:?}");
}

/// A publisher that never releases keeps its trace going no longer than its session.
#[test]
fn a_session_that_ends_releases_nothing_more() {
    let mut w = World::new(1);
    let app = w.connect("app");
    let id = start(&mut w, one("plant/+"));
    run(&mut w, app, [clean("a"), mqtt("plant/1", "m", 2, 7)]);
    assert_eq!(state(&mut w, id), Some(TraceState::Following));
    run(&mut w, app, [Command::Detach]);
    assert_eq!(state(&mut w, id), Some(TraceState::Ended));
    assert!(!kinds(&only(&mut w, id)).contains(&"released"));
}

/// What a trace says of exchanges: the hops that name one, without times.
fn ways(message: &TracedMessage) -> Vec<String> {
    let found = hops(message);
    let lines = found.iter().filter(|line| line.contains(" by "));
    lines
        .map(|line| line.split(' ').skip(1).collect::<Vec<_>>().join(" "))
        .collect()
}

/// A trace said that a message was in a queue, and not how it came there from the exchange that it was published to.
#[test]
fn exchanges_that_pass_a_message_on_are_named() {
    let (mut w, app, _) = world();
    run(
        &mut w,
        app,
        [
            exchange("z", "fanout"),
            exchange("a", "fanout"),
            exchange("h", "headers"),
        ],
    );
    run(
        &mut w,
        app,
        [with_alternate("strict", "z"), durable("first"), durable("last")],
    );
    // The way is z -> a, against the order of the names. A circle ends where it began.
    run(
        &mut w,
        app,
        [pass_on("z", "a", ""), pass_on("a", "z", ""), pass_on("h", "a", "")],
    );
    run(&mut w, app, [bind("z", "first", ""), bind("a", "last", "")]);
    run(&mut w, app, [pass_on("amq.topic", "z", "floor.#")]);
    let id = start(&mut w, request("floor/+"));
    let send = |exchange: &str, key: &str| publish(PublishFlags::default(), message(exchange, key, "m", false));
    let to = |from: &str, key: &str| {
        [
            format!("passed_on by {from} to z/{key}"),
            format!("passed_on by z to a/{key}"),
            format!("passed_on by a to z/{key}"),
            "queued first #N by z".to_owned(),
            "queued last #N by a".to_owned(),
        ]
    };
    // The first on a route, a later one, one from a device, and one in a transaction.
    for _ in 0..2 {
        run(&mut w, app, [send("amq.topic", "floor.1")]);
    }
    let device = w.connect("device");
    run(&mut w, device, [clean("d"), mqtt("floor/1", "m", 0, 0)]);
    run(&mut w, app, [transaction(vec![send("amq.topic", "floor.1")])]);
    // An alternate exchange, and one whose routes are not remembered.
    run(&mut w, app, [send("strict", "floor.1"), send("h", "floor.1")]);
    let messages = traced(&mut w, id);
    let numbered = |(n, message): (usize, &TracedMessage)| -> Vec<String> {
        ways(message)
            .iter()
            .map(|line| line.replace(&format!("#{n}"), "#N"))
            .collect()
    };
    let found: Vec<Vec<String>> = messages.iter().enumerate().map(numbered).collect();
    assert_eq!(found[0], to("amq.topic", "floor.1"));
    assert_eq!(found[1], found[0]);
    assert_eq!(found[2], to("amq.topic", "floor/1"));
    assert_eq!(found[3], found[0]);
    assert_eq!(found[4], to("strict", "floor.1"));
    let alone = [
        "passed_on by h to a/floor.1",
        "passed_on by a to z/floor.1",
        "passed_on by z to a/floor.1",
    ];
    assert_eq!(found[5][..3], alone);
}

/// The way of one message must not be told of another, which was not walked.
#[test]
fn a_message_by_the_name_of_its_queue_has_passed_no_exchange() {
    let (mut w, app, _) = world();
    run(&mut w, app, [exchange("h", "headers"), exchange("a", "fanout")]);
    run(&mut w, app, [pass_on("h", "a", ""), bind("a", "q", "")]);
    let id = start(&mut w, request("q"));
    let send = |exchange: &str| publish(PublishFlags::default(), message(exchange, "q", "m", false));
    run(&mut w, app, [send("h"), send("")]);
    let messages = traced(&mut w, id);
    assert_eq!(ways(&messages[0]).len(), 2, "{messages:?}");
    assert_eq!(ways(&messages[1]), Vec::<String>::new());
}
