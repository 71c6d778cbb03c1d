//! What users may not do: each access check of the engine, with a user who has few rights.
//!
//! The world's `guest` may do everything; it creates the objects that others have no access to.

use crate::support::*;
use gatepost_core::access::{NamePattern, Rights, TopicPattern};
use gatepost_core::command::*;
use gatepost_core::engine::Limit;
use gatepost_core::event::CloseReason;
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::message::Dialect;
use gatepost_core::properties::Value;
use gatepost_core::quota::{Quota, VhostLimits};
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{Client, World};
use std::sync::Arc;
use std::time::Duration;

fn names(text: &str) -> NamePattern {
    NamePattern::parse(text).expect("a pattern")
}

fn rights(configure: &str, write: &str, read: &str) -> Rights {
    Rights::new(names(configure), names(write), names(read))
}

fn topics(texts: &[&str]) -> Vec<TopicPattern> {
    let parse = |text: &&str| TopicPattern::parse(text, Dialect::Slash).expect("a filter");
    texts.iter().map(parse).collect()
}

std::thread_local! {
    /// Whether the engine has to ask for the rights of `u`.
    static IS_ASKED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Each check gives the same result if the engine does not know the rights, and has to ask an external server.
#[test]
fn an_external_answer_is_as_good_as_a_right() {
    let tests: &[fn()] = &[
        each_command_needs_its_own_right_and_no_other,
        keys_of_a_topic_exchange_are_limited_for_all_protocols,
        a_cached_route_does_not_permit_other_users,
        a_reply_is_checked_at_its_destination,
        a_reply_in_a_transaction_goes_where_its_address_leads,
        a_retained_message_is_set_and_cleared_only_with_the_right_to_write,
        an_mqtt_publish_is_refused_by_number_and_its_packet_id_is_free_again,
        a_filter_must_lie_inside_the_grant,
        a_subscription_needs_its_queue_and_the_exchange,
        client_ids_in_rules_are_those_of_sessions,
        a_transaction_with_one_refused_publish_is_refused_as_a_whole,
        dead_letters_are_not_checked,
    ];
    for test in tests {
        IS_ASKED.set(true);
        test();
    }
}

/// A world in which `u` has these rights, and a connection of `u`.
fn world(rights: Rights) -> (World, Client) {
    let mut w = World::new(1);
    if IS_ASKED.get() {
        w.set_asked_rights("u", rights);
    } else {
        w.set_rights("u", rights);
    }
    let u = w.connect_as("u", "amqp");
    (w, u)
}

fn refused(op: &str, permission: &str, on: &str) -> Vec<String> {
    vec![format!(
        "failed {op} AccessRefused {permission} access to {on} in vhost '/' refused for user 'u'"
    )]
}

#[test]
fn a_publish_that_is_tried_needs_the_right_to_write_before_all_else() {
    let (mut w, u) = world(rights("", "^open$", ""));
    let tried = |exchange: &str| {
        Command::TryPublish(Box::new(TryPublish {
            channel: CH,
            message: message(exchange, "k", "m", true),
            refused: Some(Fault::new(FaultKind::PreconditionFailed, "bad property")),
        }))
    };
    assert_eq!(
        run(&mut w, u, [tried("closed")]),
        refused("Publish", "write", "exchange 'closed'")
    );
    let u = w.connect_as("u", "amqp");
    let missing = ["failed Publish NotFound no exchange 'open' in vhost '/'"];
    assert_eq!(run(&mut w, u, [tried("open")]), missing);
}

#[test]
fn a_user_without_rights_may_do_nothing() {
    let mut w = World::new(1);
    let u = w.connect_as("u", "amqp");
    let guest = w.connect("amqp");
    run(&mut w, guest, [durable("q"), exchange("x", "topic")]);
    for (command, op, permission, on) in [
        (durable("new"), "DeclareQueue", "configure", "queue 'new'"),
        (durable("q"), "DeclareQueue", "configure", "queue 'q'"),
        (
            declare("q", |d| d.passive = true),
            "DeclareQueue",
            "configure",
            "queue 'q'",
        ),
        (
            declare("q", |d| d.lenient = true),
            "DeclareQueue",
            "configure",
            "queue 'q'",
        ),
        (delete("q"), "DeleteQueue", "configure", "queue 'q'"),
        (delete("missing"), "DeleteQueue", "configure", "queue 'missing'"),
        (purge("q"), "PurgeQueue", "read", "queue 'q'"),
        (get("q"), "Get", "read", "queue 'q'"),
        (consume("q", 1), "Consume", "read", "queue 'q'"),
        (consume("missing", 1), "Consume", "read", "queue 'missing'"),
        (
            exchange("new", "direct"),
            "DeclareExchange",
            "configure",
            "exchange 'new'",
        ),
        (exchange("x", "topic"), "DeclareExchange", "configure", "exchange 'x'"),
        (delete_exchange("x"), "DeleteExchange", "configure", "exchange 'x'"),
        (bind("x", "q", "k"), "Bind", "write", "queue 'q'"),
        (unbind("x", "q", "k"), "Unbind", "write", "queue 'q'"),
        (put("q", "1"), "Publish", "write", "exchange 'amq.default'"),
        (
            publish(PublishFlags::default(), message("x", "k", "1", false)),
            "Publish",
            "write",
            "exchange 'x'",
        ),
        // The right is checked first: a user who may not write does not learn what exists.
        (
            publish(PublishFlags::LENIENT, message("missing", "k", "1", false)),
            "Publish",
            "write",
            "exchange 'missing'",
        ),
        (
            transaction(vec![put("q", "1")]),
            "Commit",
            "write",
            "exchange 'amq.default'",
        ),
    ] {
        assert_eq!(run(&mut w, u, [command]), refused(op, permission, on), "{op} {on}");
    }
    let made_up = run(&mut w, u, [declare("", |_| {})]);
    assert!(
        made_up[0].contains("configure access to queue 'amq.gen-"),
        "{made_up:?}"
    );
    assert_eq!(w.counters().access_refused, 20);
    assert_eq!(run(&mut w, guest, [get("q")]), ["empty"]);
}

fn delete_exchange(name: &str) -> Command {
    Command::DeleteExchange(Box::new(DeleteExchange {
        channel: CH,
        name: name.into(),
        if_unused: false,
        reply: true,
    }))
}

fn unbind(source: &str, queue: &str, key: &str) -> Command {
    match bind(source, queue, key) {
        Command::Bind(c) => Command::Unbind(c),
        other => other,
    }
}

#[test]
fn each_command_needs_its_own_right_and_no_other() {
    let (mut w, u) = world(rights("^c-", "^(w-|amq.default)", "^r-"));
    let guest = w.connect("amqp");
    run(
        &mut w,
        guest,
        [
            durable("r-q"),
            durable("w-q"),
            exchange("r-x", "direct"),
            exchange("w-x", "fanout"),
        ],
    );
    assert_eq!(run(&mut w, u, [durable("c-q")]), ["declared c-q 0/0"]);
    assert_eq!(run(&mut w, u, [exchange("c-x", "direct")]), ["done DeclareExchange"]);
    assert_eq!(run(&mut w, u, [put("r-q", "1")]), ["confirmed 1"]);
    assert_eq!(
        run(&mut w, u, [get("r-q"), purge("r-q")]),
        ["got #1 1 left 0", "purged 0"]
    );
    assert_eq!(run(&mut w, u, [bind("r-x", "w-q", "k")]), ["done Bind"]);
    assert_eq!(run(&mut w, u, [unbind("r-x", "w-q", "k")]), ["done Unbind"]);
    assert_eq!(
        run(&mut w, u, [bind("w-x", "w-q", "k")]),
        refused("Bind", "read", "exchange 'w-x'")
    );
    assert_eq!(
        run(&mut w, u, [bind("r-x", "r-q", "k")]),
        refused("Bind", "write", "queue 'r-q'")
    );
    assert_eq!(
        run(&mut w, u, [bind("missing", "w-q", "k")]),
        refused("Bind", "read", "exchange 'missing'")
    );
    assert_eq!(run(&mut w, u, [get("c-q")]), refused("Get", "read", "queue 'c-q'"));
    // Any right is enough to learn that it exists.
    assert_eq!(
        run(&mut w, u, [declare("w-q", |d| d.passive = true)]),
        ["declared w-q 0/0"]
    );
    assert_eq!(run(&mut w, u, [delete("c-q")]), ["deleted 0"]);
    assert_eq!(run(&mut w, u, [delete_exchange("c-x")]), ["done DeleteExchange"]);
}

/// Declaring a queue that dead-letters to an exchange would be a way to write to it, or to read the queue.
#[test]
fn messages_are_forwarded_only_where_their_owner_may_write() {
    let (mut w, u) = world(rights("", "^w-", "^(r-|rw-)"));
    w.set_rights("u", rights("-[qx]$", "^w-", "^r-"));
    let with = |queue: &str, exchange: &str| {
        declare(queue, |d| {
            d.arguments.push("x-dead-letter-exchange", Value::text(exchange))
        })
    };
    assert_eq!(run(&mut w, u, [with("r-q", "w-dead")]), ["declared r-q 0/0"]);
    assert_eq!(
        run(&mut w, u, [with("r2-q", "w-dead")]),
        refused("DeclareQueue", "read", "queue 'r2-q'")
    );
    assert_eq!(
        run(&mut w, u, [with("r-2-q", "dead")]),
        refused("DeclareQueue", "write", "exchange 'dead'")
    );
    let alternate = |name: &str, other: &str| match exchange(name, "direct") {
        Command::DeclareExchange(mut c) => {
            c.arguments.push("alternate-exchange", Value::text(other));
            Command::DeclareExchange(c)
        }
        other => other,
    };
    assert_eq!(run(&mut w, u, [alternate("r-x", "w-other")]), ["done DeclareExchange"]);
    assert_eq!(
        run(&mut w, u, [alternate("y-x", "w-other")]),
        refused("DeclareExchange", "read", "exchange 'y-x'")
    );
    assert_eq!(
        run(&mut w, u, [alternate("r-2-x", "other")]),
        refused("DeclareExchange", "write", "exchange 'other'")
    );
}

/// Write and read limited to `a/#` in the topic exchange.
fn topic_rights() -> Rights {
    Rights::all().with_topics("amq.topic", topics(&["a/#"]), topics(&["a/#"]))
}

#[test]
fn keys_of_a_topic_exchange_are_limited_for_all_protocols() {
    let (mut w, u) = world(topic_rights());
    run(&mut w, u, [durable("q")]);
    let text = |what: &str, key: &str| format!("{what} access to topic '{key}' in exchange 'amq.topic'");
    assert_eq!(run(&mut w, u, [bind("amq.topic", "q", "a.*")]), ["done Bind"]);
    assert_eq!(
        run(&mut w, u, [bind("amq.topic", "q", "*.b")]),
        refused_topic("Bind", &text("read", "*.b"))
    );
    assert_eq!(
        run(&mut w, u, [bind("amq.topic", "q", "#")]),
        refused_topic("Bind", &text("read", "#"))
    );
    // An exchange without rules is not limited.
    assert_eq!(run(&mut w, u, [exchange("t", "topic"), bind("t", "q", "#")]).len(), 2);
    let to = |key: &str| publish(PublishFlags::CONFIRM, message("amq.topic", key, "1", false));
    assert_eq!(run(&mut w, u, [to("a.b")]), ["confirmed 1"]);
    assert_eq!(run(&mut w, u, [to("b")]), refused_topic("Publish", &text("write", "b")));
    // Also in a dialect in which a dot is no separator.
    let slash = |topic: &str| mqtt_message(topic_message(topic, "1", |_| {}), 0);
    assert_eq!(
        run(&mut w, u, [slash("a.b/c")]),
        refused_topic("Publish", &text("write", "a%2Eb.c"))
    );
}

fn refused_topic(op: &str, text: &str) -> Vec<String> {
    vec![format!(
        "failed {op} AccessRefused {text} in vhost '/' refused for user 'u'"
    )]
}

/// A cached route is the same for all users; the decision about it is not.
#[test]
fn a_cached_route_does_not_permit_other_users() {
    let (mut w, u) = world(topic_rights());
    let guest = w.connect("amqp");
    run(&mut w, guest, [durable("q"), bind("amq.topic", "q", "#")]);
    let to = |key: &str| publish(PublishFlags::CONFIRM, message("amq.topic", key, "1", false));
    for n in 1..=3 {
        assert_eq!(
            run(&mut w, guest, [to("b"), to("a.x")]),
            [format!("confirmed {}", 2 * n)]
        );
        assert_eq!(run(&mut w, u, [to("a.x")]), [format!("confirmed {}", n * 2 - 1)]);
        let b = run(&mut w, u, [to("b")]);
        assert_eq!(
            b,
            refused_topic("Publish", "write access to topic 'b' in exchange 'amq.topic'")
        );
    }
}

#[test]
fn a_revoked_right_refuses_the_next_publish_and_nothing_else() {
    let (mut w, u) = world(Rights::all());
    run(&mut w, u, [durable("q"), bind("amq.topic", "q", "k"), consume("q", 7)]);
    let to = || publish(PublishFlags::CONFIRM, message("amq.topic", "k", "1", true));
    assert_eq!(run(&mut w, u, [to()]), ["confirmed 1", "deliver c7 #1 1"]);
    w.set_rights("u", rights(".*", "", ""));
    assert_eq!(
        run(&mut w, u, [to()]),
        refused("Publish", "write", "exchange 'amq.topic'")
    );
    // The existing consumer still gets what others publish, and settles it.
    let guest = w.connect("amqp");
    run(&mut w, guest, [to()]);
    assert_eq!(hear(&mut w, u), ["deliver c7 #2 1"]);
    assert_eq!(run(&mut w, u, [ack_upto(2), cancel(7)]), ["done Cancel c7"]);
    assert_eq!(
        run(&mut w, u, [consume("q", 8)]),
        refused("Consume", "read", "queue 'q'")
    );
    w.set_rights("u", Rights::all());
    assert_eq!(run(&mut w, u, [to()]), ["confirmed 3"]);
}

/// `$queue/q` and `$exchange/x/k` are addresses of queues and exchanges, not topics.
#[test]
fn a_reply_is_checked_at_its_destination() {
    let topics_only = rights("", "^amq\\.topic$", "");
    let (mut w, u) = world(topics_only);
    let guest = w.connect("amqp");
    run(
        &mut w,
        guest,
        [durable("q"), exchange("x", "fanout"), bind("x", "q", "")],
    );
    let to = |topic: &str| mqtt(topic, "1", 0, 0);
    assert_eq!(
        run(&mut w, u, [to("$queue/q")]),
        refused("Publish", "write", "exchange 'amq.default'")
    );
    assert_eq!(
        run(&mut w, u, [to("$exchange/x/k")]),
        refused("Publish", "write", "exchange 'x'")
    );
    let dotted = publish(PublishFlags::default(), message("", "amq.gatepost.x.x/k", "1", false));
    assert_eq!(run(&mut w, u, [dotted]), refused("Publish", "write", "exchange 'x'"));
    assert_eq!(run(&mut w, guest, [get("q")]), ["empty"]);
}

/// In a transaction, a reply was published to its address as a topic, which nobody subscribes to, and checked as a
/// topic.
#[test]
fn a_reply_in_a_transaction_goes_where_its_address_leads() {
    let (mut w, u) = world(rights("", "^amq\\.(topic|default)$", ""));
    let guest = w.connect("amqp");
    run(
        &mut w,
        guest,
        [durable("q"), exchange("x", "fanout"), bind("x", "q", "")],
    );
    let dotted = |key: &str| publish(PublishFlags::default(), message("", key, key, false));
    let said = run(
        &mut w,
        u,
        [transaction(vec![dotted("q"), dotted("amq.gatepost.x.x/k")])],
    );
    assert_eq!(said, refused("Commit", "write", "exchange 'x'"));
    assert_eq!(run(&mut w, guest, [get("q")]), ["empty"]);
    let said = run(
        &mut w,
        guest,
        [transaction(vec![
            mqtt("$queue/q", "1", 0, 0),
            dotted("amq.gatepost.x.x/k"),
        ])],
    );
    assert_eq!(said, ["done Commit"]);
    assert_eq!(
        run(&mut w, guest, [get("q"), get("q")]),
        ["got #1 1 left 1", "got #2 amq left 0"]
    );
}

#[test]
fn a_retained_message_is_set_and_cleared_only_with_the_right_to_write() {
    let (mut w, u) = world(topic_rights());
    let guest = w.connect("mqtt");
    run(&mut w, guest, [clean("guest"), retain("b", "kept")]);
    run(&mut w, u, [clean("c")]);
    for body in ["other", ""] {
        assert_eq!(
            run(&mut w, u, [retain("b", body)]),
            ["refused 1 AccessRefused", "confirmed 1"].map(|line| {
                if body.is_empty() {
                    line.replace('1', "2")
                } else {
                    line.to_owned()
                }
            })
        );
    }
    assert_eq!(
        run(&mut w, guest, [subscribe(vec![filter("b", 1)])]),
        ["suback 1 [Ok(1)]", "publish q1 #1 b kept retain"]
    );
}

#[test]
fn an_mqtt_publish_is_refused_by_number_and_its_packet_id_is_free_again() {
    let (mut w, u) = world(topic_rights());
    run(&mut w, u, [kept("c")]);
    assert_eq!(
        run(&mut w, u, [mqtt("b", "1", 2, 9)]),
        ["refused 1 AccessRefused", "confirmed 1"]
    );
    assert_eq!(run(&mut w, u, [mqtt("a", "1", 2, 9)]), ["confirmed 2"]);
    assert_eq!(run(&mut w, u, [pubrel(9)]), ["pubcomp 9"]);
    // At QoS 0 a publish cannot be refused by number.
    assert_eq!(
        run(&mut w, u, [mqtt("b", "1", 0, 0)]),
        refused_topic("Publish", "write access to topic 'b' in exchange 'amq.topic'")
    );
}

#[test]
fn a_filter_must_lie_inside_the_grant() {
    let (mut w, u) = world(topic_rights());
    run(&mut w, u, [kept("c")]);
    let asked = ["a/#", "a/+/x", "#", "+/x", "b", "a"].map(|f| filter(f, 1));
    let heard = run(&mut w, u, [subscribe(asked.into())]);
    let no = "Err(AccessRefused)";
    assert_eq!(heard, [format!("suback 1 [Ok(1), Ok(1), {no}, {no}, {no}, Ok(1)]")]);
    let shared = run(&mut w, u, [subscribe(vec![shared("g", "#", 1), shared("g", "a/b", 1)])]);
    assert_eq!(shared, [format!("suback 1 [{no}, Ok(1)]")]);
    // Refused filters deliver nothing.
    let guest = w.connect("mqtt");
    run(
        &mut w,
        guest,
        [clean("guest"), mqtt("b", "1", 1, 0), mqtt("c/x", "1", 1, 0)],
    );
    assert_eq!(hear(&mut w, u), Vec::<String>::new());
}

#[test]
fn a_subscription_needs_its_queue_and_the_exchange() {
    for (rights, granted) in [
        (rights("^mqtt-", "^mqtt-", "^(mqtt-|amq.topic)"), true),
        (rights("", "^mqtt-", "^(mqtt-|amq.topic)"), false),
        (rights("^mqtt-", "", "^(mqtt-|amq.topic)"), false),
        (rights("^mqtt-", "^mqtt-", "^amq.topic"), false),
        (rights("^mqtt-", "^mqtt-", "^mqtt-"), false),
    ] {
        let (mut w, u) = world(rights);
        run(&mut w, u, [kept("c")]);
        let heard = run(&mut w, u, [subscribe(vec![filter("a", 1)])]);
        let result = if granted { "Ok(1)" } else { "Err(AccessRefused)" };
        assert_eq!(heard, [format!("suback 1 [{result}]")]);
    }
}

fn with_will(client_id: &str, topic: &str, delay: u64) -> Command {
    session(client_id, |s| {
        s.will = Some(Will {
            message: topic_message(topic, "gone", |_| {}),
            delay: Duration::from_secs(delay),
            expiry: None,
        });
    })
}

#[test]
fn a_will_is_checked_when_its_session_opens_and_when_it_is_published() {
    let (mut w, u) = world(topic_rights());
    let watcher = w.connect("mqtt");
    run(&mut w, watcher, [clean("watcher"), subscribe(vec![filter("#", 1)])]);
    assert_eq!(
        run(&mut w, u, [with_will("c", "b", 0)]),
        refused_topic("OpenSession", "write access to topic 'b' in exchange 'amq.topic'")
    );
    for (revoked, delay) in [(false, 0), (true, 0), (false, 5), (true, 5)] {
        let client = w.connect_as("u", "mqtt");
        assert_eq!(run(&mut w, client, [with_will("c", "a/w", delay)]).len(), 1);
        if revoked {
            w.set_rights("u", rights(".*", "^x$", ".*"));
        }
        run(&mut w, client, [Command::Detach]);
        w.advance(Duration::from_secs(6));
        let heard = hear(&mut w, watcher);
        assert_eq!(heard.len(), usize::from(!revoked), "{heard:?} {delay}");
        w.set_rights("u", topic_rights());
    }
}

/// Knowing a client's id must not be enough to get its messages, or to end its session, as another user.
#[test]
fn a_session_belongs_to_its_user() {
    let (mut w, u) = world(Rights::all());
    run(&mut w, u, [kept("c"), subscribe(vec![filter("a", 1)])]);
    w.set_rights("other", Rights::all());
    let other = w.connect_as("other", "mqtt");
    let text = "failed OpenSession AccessRefused the session is another user's";
    assert_eq!(run(&mut w, other, [kept("c")]), [text]);
    assert_eq!(run(&mut w, other, [clean("c")]), [text]);
    assert_eq!(hear(&mut w, u), Vec::<String>::new(), "it is not taken over");
    w.crash(Crash::Process);
    let other = w.connect_as("other", "mqtt");
    assert_eq!(run(&mut w, other, [kept("c")]), [text], "the log knows whose it is");
    let again = w.connect_as("u", "mqtt");
    assert_eq!(run(&mut w, again, [kept("c")]), ["open present"]);
    run(&mut w, again, [Command::Detach]);
    // A session of a deleted user does not keep others out for ever, and nobody gets its messages.
    w.remove_rights("u");
    assert_eq!(run(&mut w, other, [kept("c")]), ["open new"]);
}

#[test]
fn client_ids_in_rules_are_those_of_sessions() {
    let rules = Rights::all().with_topics(
        "amq.topic",
        topics(&["dev/{client_id}/#"]),
        topics(&["dev/{client_id}/#"]),
    );
    let (mut w, u) = world(rules);
    // It has none yet.
    assert_eq!(run(&mut w, u, [mqtt("dev/c/up", "1", 0, 0)]).len(), 1);
    run(&mut w, u, [kept("c")]);
    assert_eq!(run(&mut w, u, [mqtt("dev/c/up", "1", 1, 0)]), ["confirmed 1"]);
    assert_eq!(
        run(&mut w, u, [mqtt("dev/d/up", "1", 1, 0)]),
        ["refused 2 AccessRefused", "confirmed 2"]
    );
    let heard = run(
        &mut w,
        u,
        [subscribe(vec![filter("dev/c/+", 1), filter("dev/+/up", 1)])],
    );
    assert_eq!(heard, ["suback 1 [Ok(1), Err(AccessRefused)]"]);
}

#[test]
fn a_transaction_with_one_refused_publish_is_refused_as_a_whole() {
    let (mut w, u) = world(topic_rights());
    run(&mut w, u, [durable("q"), bind("amq.topic", "q", "a")]);
    let to = |key: &str| publish(PublishFlags::default(), message("amq.topic", key, "1", true));
    assert_eq!(
        run(&mut w, u, [transaction(vec![to("a"), to("b")])]),
        refused_topic("Commit", "write access to topic 'b' in exchange 'amq.topic'")
    );
    assert_eq!(run(&mut w, u, [get("q")]), ["empty"]);
    assert_eq!(run(&mut w, u, [transaction(vec![to("a")])]), ["done Commit"]);
}

/// Messages that the broker itself moves are no user's command.
#[test]
fn dead_letters_are_not_checked() {
    let (mut w, u) = world(rights("", "", "^q$"));
    let guest = w.connect("amqp");
    let with = declare("q", |d| {
        d.arguments.push("x-dead-letter-exchange", Value::text("amq.topic"))
    });
    run(
        &mut w,
        guest,
        [with, durable("dead"), bind("amq.topic", "dead", "q"), put("q", "1")],
    );
    assert_eq!(run(&mut w, u, [get("q")]), ["got #1 1 left 0"]);
    run(&mut w, u, [reject(1)]);
    assert_eq!(run(&mut w, guest, [get("dead")]), ["got #1 1 left 0"]);
}

/// Routes through a headers exchange are not cached: each publish is checked completely.
#[test]
fn a_route_that_is_not_cached_is_checked_each_time() {
    let (mut w, u) = world(rights("", "^h$", ""));
    let guest = w.connect("amqp");
    run(&mut w, guest, [exchange("h", "headers"), exchange("h2", "headers")]);
    let to = |name: &str| publish(PublishFlags::CONFIRM, message(name, "k", "1", false));
    assert_eq!(run(&mut w, u, [to("h"), to("h")]), ["confirmed 2"]);
    assert_eq!(run(&mut w, u, [to("h2")]), refused("Publish", "write", "exchange 'h2'"));
    w.set_rights("u", rights("", "^h2$", ""));
    assert_eq!(run(&mut w, u, [to("h")]), refused("Publish", "write", "exchange 'h'"));
}

/// Each limit is reported in RabbitMQ's words, and existing objects stay.
#[test]
fn vhosts_and_users_have_limits() {
    let mut w = World::new(1);
    let guest = w.connect("amqp");
    run(&mut w, guest, [durable("a")]);
    let admit = |w: &mut World, user: &str| {
        let refused = w.turn(|engine| engine.admit_link(user)).err();
        refused.map(|fault| (fault.kind, fault.text.to_string()))
    };
    let nobody = "access to vhost '/' refused for user 'nobody'".to_owned();
    assert_eq!(admit(&mut w, "nobody"), Some((FaultKind::AccessRefused, nobody)));
    assert_eq!(admit(&mut w, "guest"), None);

    let limits = VhostLimits {
        connections_max: Some(1),
        queues_max: Some(1),
    };
    w.turn(|engine| engine.set_vhost_limits(limits));
    let text = "access to vhost '/' refused for user 'guest': connection limit (1) is reached".to_owned();
    assert_eq!(admit(&mut w, "guest"), Some((FaultKind::QuotaExceeded, text)));
    let text = "cannot declare queue 'b': queue limit in vhost '/' (1) is reached";
    assert_eq!(
        run(&mut w, guest, [durable("b"), durable("a")]),
        [
            format!("failed DeclareQueue PreconditionFailed {text}"),
            "declared a 0/0".to_owned()
        ]
    );
    w.turn(|engine| engine.set_vhost_limits(VhostLimits::default()));
    assert_eq!(run(&mut w, guest, [durable("b")]), ["declared b 0/0"]);

    let quota = Arc::new(Quota::default());
    quota.set_limits(None, Some(2));
    w.turn(|engine| engine.set_quota("guest".into(), Arc::clone(&quota)));
    let open = |channel| Command::OpenChannel { channel };
    assert_eq!(run(&mut w, guest, [open(2), open(3)]), ["done OpenChannel"; 2]);
    let text = "number of channels opened for user 'guest' has reached the maximum allowed user limit of (2)";
    let refused = format!("failed OpenChannel NotAllowed {text}");
    assert_eq!(run(&mut w, guest, [open(4)]), [refused.as_str()]);
    // Channels of another connection count, too; closed ones do not.
    let other = w.connect("amqp");
    assert_eq!(run(&mut w, other, [open(2)]), [refused]);
    let close = Command::CloseChannel {
        channel: 2,
        reply: false,
    };
    assert!(run(&mut w, guest, [close]).is_empty());
    assert_eq!(run(&mut w, other, [open(2)]), ["done OpenChannel"]);
    assert_eq!(quota.channels(), 2);
    run(&mut w, guest, [Command::Detach]);
    assert_eq!(quota.channels(), 1);
    let counted = w.counters().limit_refusals;
    let counted = [Limit::VhostConnections, Limit::VhostQueues, Limit::UserChannels].map(|l| counted[l as usize]);
    assert_eq!(counted, [1, 1, 2]);
}

/// The directory ends them when it deletes the user.
#[test]
fn the_connections_of_a_deleted_user_end() {
    let (mut w, u) = world(Rights::all());
    let (second, guest) = (w.connect_as("u", "mqtt"), w.connect("amqp"));
    w.remove_rights("u");
    w.turn(|engine| engine.end_user("u", CloseReason::UserDeleted));
    assert_eq!(hear(&mut w, u), ["closed UserDeleted"]);
    assert_eq!(hear(&mut w, second), ["closed UserDeleted"]);
    assert!(hear(&mut w, guest).is_empty());
}

/// A granted topic can be denied again. A filter is checked only once, so a filter that is wider than the denied topic
/// is either refused or granted with it, as the rules say.
#[test]
fn topics_can_be_denied() {
    let everything = |refuses_wider| {
        let all = topics(&["#"]);
        let rights = Rights::all().with_topics("amq.topic", all.clone(), all);
        let denied = topics(&["plant/{username}/secret"]);
        rights.without_topics("amq.topic", denied.clone(), denied, refuses_wider)
    };
    let (mut w, u) = world(everything(false));
    let publish = |topic: &str| mqtt_message(topic_message(topic, "1", |_| {}), 0);
    assert_eq!(run(&mut w, u, [publish("plant/a/secret")]), ["confirmed 1"]);
    let refused = run(&mut w, u, [publish("plant/u/secret")]);
    assert!(refused.iter().any(|told| told.contains("AccessRefused")), "{refused:?}");
    let device = w.connect_as("u", "mqtt");
    run(&mut w, device, [clean("c")]);
    let told = |w: &mut World| {
        let filters = ["plant/u/secret", "plant/+/secret", "#", "plant/u/temp"];
        run(w, device, [subscribe(filters.map(|f| filter(f, 1)).into())])
    };
    let no = "Err(AccessRefused)";
    assert_eq!(told(&mut w), [format!("suback 1 [{no}, Ok(1), Ok(1), Ok(1)]")]);
    w.set_rights("u", everything(true));
    assert_eq!(told(&mut w), [format!("suback 1 [{no}, {no}, {no}, Ok(1)]")]);
}
