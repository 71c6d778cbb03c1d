//! Users whose rights an external server knows: which commands wait for an answer, in which order, and how long it is
//! valid. `access::an_external_answer_is_as_good_as_a_right` tests that each check gives the same result as with
//! internal rights.

use crate::support::*;
use gatepost_core::access::{Permission, Rights, Subject, TopicPattern};
use gatepost_core::command::*;
use gatepost_core::message::Dialect;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{ANSWER_LIFE, Client, World};
use std::time::Duration;

fn topics(texts: &[&str]) -> Vec<TopicPattern> {
    let parse = |text: &&str| TopicPattern::parse(text, Dialect::Slash).expect("a filter");
    texts.iter().map(parse).collect()
}

/// A world in which `u` may do everything except with topics that begin with `no`, and a connection of `u`.
fn world(protocol: &'static str) -> (World, Client) {
    let mut w = World::new(1);
    let rights = Rights::all().with_topics("amq.topic", topics(&["a/#", "b/#"]), topics(&["a/#", "b/#"]));
    w.set_asked_rights("u", rights);
    let u = w.connect_as("u", protocol);
    (w, u)
}

/// Answers until there are no more questions.
fn answer_all(w: &mut World, u: Client) -> Vec<String> {
    let mut heard = Vec::new();
    while w.answer().is_some() {
        heard.extend(hear(w, u));
    }
    heard
}

#[test]
fn a_command_that_waits_for_an_answer_delays_only_its_own_link() {
    let (mut w, u) = world("amqp");
    let guest = w.connect("amqp");
    run(&mut w, guest, [durable("q"), durable("p")]);
    run(&mut w, u, [put("q", "0")]);
    w.hold_answers();
    // The right on the default exchange is known, the one on `amq.fanout` is not. Later commands wait, known or not.
    let unknown = publish(PublishFlags::default(), message("amq.fanout", "k", "1", false));
    assert_eq!(
        run(
            &mut w,
            u,
            [put("q", "1"), unknown, put("q", "2"), declare("new", |_| {})]
        ),
        ["confirmed 2"]
    );
    assert!(w.waits(u));
    assert_eq!(run(&mut w, guest, [put("p", "x")]), ["confirmed 1"]);
    assert_eq!(
        run(&mut w, guest, [get("p"), get("q"), get("q"), get("q")]),
        ["got #1 x left 0", "got #2 0 left 1", "got #3 1 left 0", "empty"]
    );
    // Trying the command again asks no question twice.
    w.send(u, Vec::new());
    let asked = w.answer().expect("a question");
    assert_eq!(
        (asked.question.permission, asked.question.subject, &*asked.question.name),
        (Permission::Write, Subject::Exchange, "amq.fanout")
    );
    assert_eq!(hear(&mut w, u), ["confirmed 3"]);
    assert_eq!(run(&mut w, guest, [get("q")]), ["got #4 2 left 0"]);
    let asked = w.answer().expect("another one");
    assert_eq!((asked.question.subject, &*asked.question.name), (Subject::Queue, "new"));
    assert_eq!(hear(&mut w, u), ["declared new 0/0"]);
    assert!(!w.waits(u) && w.answer().is_none());
}

#[test]
fn an_answer_is_valid_for_its_time_and_then_asked_for_again() {
    let (mut w, u) = world("mqtt");
    run(&mut w, u, [clean("c")]);
    for _ in 0..3 {
        assert_eq!(run(&mut w, u, [mqtt("a/1", "1", 1, 0)]).len(), 1);
    }
    // One for the exchange, one for the topic.
    assert_eq!(w.questions(), 2);
    run(&mut w, u, [mqtt("a/2", "1", 1, 0)]);
    assert_eq!(w.questions(), 3);
    w.set_asked_rights("u", Rights::default());
    assert_eq!(
        run(&mut w, u, [mqtt("a/1", "1", 1, 0)]),
        ["confirmed 5"],
        "what is known still counts"
    );
    w.advance(ANSWER_LIFE);
    assert_eq!(
        run(&mut w, u, [mqtt("a/1", "1", 1, 0)]),
        ["refused 6 AccessRefused", "confirmed 6"]
    );
}

#[test]
fn a_subscribe_keeps_its_place_between_its_filters() {
    let (mut w, u) = world("mqtt");
    run(&mut w, u, [kept("c")]);
    w.hold_answers();
    let filters = ["a/1", "no/1", "b/+", "#"].map(|f| filter(f, 1));
    assert_eq!(
        run(&mut w, u, [subscribe(filters.into()), mqtt("a/1", "1", 1, 0)]),
        Vec::<String>::new()
    );
    let no = "Err(AccessRefused)";
    let heard = answer_all(&mut w, u);
    assert_eq!(heard[0], format!("suback 1 [Ok(1), {no}, Ok(1), {no}]"));
    assert_eq!(heard.len(), 3, "{heard:?}");
    // Configure, write and read of the queue, read of the exchange, each filter; write of the exchange, and the topic.
    assert_eq!(w.questions(), 4 + 4 + 2);
}

#[test]
fn a_transaction_is_asked_for_publish_by_publish_and_done_as_a_whole() {
    let (mut w, u) = world("amqp");
    let guest = w.connect("amqp");
    run(&mut w, guest, [durable("q"), bind("amq.topic", "q", "#")]);
    w.hold_answers();
    let to = |key: &str| publish(PublishFlags::default(), message("amq.topic", key, key, false));
    let many: Vec<Command> = (0..200).map(|n| to(&format!("a.{n}"))).collect();
    run(&mut w, u, [transaction(many)]);
    assert_eq!(run(&mut w, guest, [get("q")]), ["empty"]);
    assert_eq!(answer_all(&mut w, u), ["done Commit"]);
    assert_eq!(run(&mut w, guest, [get("q")]), ["got #1 a left 199"]);
    run(&mut w, guest, [purge("q")]);
    run(&mut w, u, [transaction(vec![to("a.x"), to("no.x")])]);
    let heard = answer_all(&mut w, u);
    assert!(heard[0].contains("failed Commit AccessRefused"), "{heard:?}");
    assert_eq!(run(&mut w, guest, [get("q")]), ["empty"]);
}

/// A message may name thousands of further keys. Each would be a request to the external server.
#[test]
fn a_message_with_too_many_questions_is_refused() {
    let mut w = World::new(1);
    w.set_asked_rights("u", Rights::all());
    let u = w.connect_as("u", "mqtt");
    run(&mut w, u, [clean("c")]);
    let long = "x".repeat(5_000);
    assert_eq!(
        run(&mut w, u, [mqtt(&long, "1", 1, 0)]),
        ["refused 1 AccessRefused", "confirmed 1"]
    );
    let before = w.questions();
    for n in 0..2_000 {
        run(&mut w, u, [mqtt(&format!("{n}"), "1", 0, 0)]);
    }
    assert_eq!(w.questions(), before + 2_000);
}

fn with_will(client_id: &str, topic: &str, delay: u64) -> Command {
    session(client_id, |s| {
        s.expiry = Some(3_600);
        s.will = Some(Will {
            message: topic_message(topic, "will", |_| {}),
            delay: Duration::from_secs(delay),
            expiry: None,
        });
    })
}

/// Nobody can wait when a will is published, and its user may no longer be known.
#[test]
fn a_will_uses_the_answer_given_when_its_session_was_opened() {
    let (mut w, u) = world("mqtt");
    let heard = run(&mut w, u, [with_will("other", "no/w", 0)]);
    assert!(heard[0].contains("failed OpenSession AccessRefused"), "{heard:?}");
    let late = w.connect_as("u", "mqtt");
    assert_eq!(run(&mut w, late, [with_will("late", "a/late", 60)]).len(), 1);
    let crashed = w.connect_as("u", "mqtt");
    assert_eq!(run(&mut w, crashed, [with_will("crashed", "a/crashed", 0)]).len(), 1);
    w.drop_client(late);
    w.remove_rights("u");
    let guest = w.connect("mqtt");
    run(&mut w, guest, [kept("guest"), subscribe(vec![filter("a/#", 1)])]);
    w.advance(Duration::from_secs(61));
    assert_eq!(hear(&mut w, guest), ["publish q1 #1 a/late will"]);
    w.crash(Crash::Power);
    let guest = w.connect("mqtt");
    run(&mut w, guest, [kept("guest")]);
    w.advance(Duration::from_secs(1));
    let heard = hear(&mut w, guest);
    assert!(heard.iter().any(|line| line.contains("a/crashed will")), "{heard:?}");
}

#[test]
fn commands_that_wait_are_still_applied_when_their_connection_ends() {
    let (mut w, u) = world("amqp");
    let guest = w.connect("amqp");
    run(&mut w, guest, [durable("q")]);
    w.hold_answers();
    run(&mut w, u, [put("q", "last")]);
    w.drop_client(u);
    assert_eq!(run(&mut w, guest, [get("q")]), ["empty"]);
    w.answer().expect("a question");
    w.send(u, Vec::new());
    assert_eq!(run(&mut w, guest, [get("q")]), ["got #1 last left 0"]);
}
