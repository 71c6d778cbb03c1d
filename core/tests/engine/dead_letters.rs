//! Dead letters: their history, their routing keys, and cycles that must end.

use crate::support::*;
use gatepost_core::command::{Command, PublishFlags};
use gatepost_core::event::Event;
use gatepost_core::message::{Envelope, Message};
use gatepost_core::properties::{Codecs, Name, Origin, Properties, PropertyCodec, Table, Value};
use gatepost_core::testing::world::{Client, ROOM, World};
use std::sync::Arc;

/// A protocol whose properties are the neutral ones with hidden keys, in postcard's encoding.
struct Plain;

const PLAIN: Origin = Origin(77);

impl PropertyCodec for Plain {
    fn origin(&self) -> Origin {
        PLAIN
    }
    fn decode(&self, raw: &[u8]) -> Properties {
        postcard::from_bytes(raw).unwrap_or_default()
    }
    fn extra_keys(&self, raw: &[u8]) -> Vec<Name> {
        let (properties, hidden): (Properties, Vec<Name>) = postcard::from_bytes(raw).unwrap_or_default();
        let mut keys = Vec::new();
        if let Some(Value::Array(cc)) = properties.headers.lookup("CC") {
            keys.extend(cc.iter().filter_map(|key| key.as_str().map(Name::from)));
        }
        keys.extend(hidden);
        keys
    }
}

fn codecs() -> Codecs {
    Codecs::new(vec![Arc::new(Plain)])
}

fn world() -> World {
    World::speaking(1, Default::default(), Default::default(), codecs())
}

fn published(key: &str, headers: &Table, hidden: &[&str]) -> Command {
    let properties = Properties {
        headers: headers.clone(),
        ..Properties::default()
    };
    let hidden: Vec<Name> = hidden.iter().map(|key| Name::from(*key)).collect();
    let extra_keys = headers.lookup("CC").is_some() || !hidden.is_empty();
    let raw = postcard::to_allocvec(&(properties, hidden)).expect("plain data");
    let envelope = Envelope {
        origin: PLAIN,
        extra_keys,
        ..Envelope::default()
    };
    publish(PublishFlags::default(), Message::new(envelope, "", key, &raw, b"m"))
}

fn dying(name: &str, exchange: &str, key: Option<&str>, ttl: Option<i64>) -> Command {
    declare(name, |d| {
        d.durable = false;
        d.arguments.push("x-dead-letter-exchange", Value::text(exchange));
        if let Some(key) = key {
            d.arguments.push("x-dead-letter-routing-key", Value::text(key));
        }
        if let Some(ttl) = ttl {
            d.arguments.push("x-message-ttl", Value::Int(ttl, 32));
        }
    })
}

/// Fetches the next message of `queue`: its number and its headers.
fn fetch(w: &mut World, c: Client, queue: &str) -> Option<(u64, Table)> {
    w.send(c, vec![get(queue)]);
    w.catch_up();
    let got = w.take(c, ROOM).into_iter().find_map(|event| match event {
        Event::Got { delivery, .. } => Some(delivery),
        _ => None,
    })?;
    Some((got.number, got.message.properties(&codecs()).headers))
}

/// `reason queue count keys` of each entry of `x-death`.
fn history(headers: &Table) -> Vec<String> {
    let Some(Value::Array(deaths)) = headers.lookup("x-death") else {
        return Vec::new();
    };
    let entry = |death: &Value| {
        let Value::Table(table) = death else {
            panic!("{death:?}")
        };
        let text = |key| table.lookup(key).and_then(Value::as_str).unwrap_or("-").to_owned();
        let count = table.lookup("count").and_then(Value::as_int).unwrap_or(-1);
        let keys: Vec<&str> = match table.lookup("routing-keys") {
            Some(Value::Array(keys)) => keys.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        format!("{} {} {count} {}", text("reason"), text("queue"), keys.join(","))
    };
    deaths.iter().map(entry).collect()
}

fn death(queue: &str, reason: &str, count: Value) -> Value {
    let mut table = Table::default();
    table.push("queue", Value::text(queue));
    table.push("reason", Value::text(reason));
    table.push("count", count);
    Value::Table(table)
}

fn one(name: &str, value: Value) -> Table {
    Table(vec![(name.into(), value)])
}

/// Retry frameworks publish a received message with its headers to a queue that returns it after a while, and count the
/// rounds in `x-death`. The count started again in each round.
#[test]
fn a_history_that_a_client_publishes_again_is_continued_newest_first() {
    let mut w = world();
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [
            dying("work", "", Some("retry"), None),
            dying("retry", "", Some("work"), Some(50)),
            published("work", &Table::default(), &[]),
        ],
    );
    let (number, headers) = fetch(&mut w, c, "work").expect("the message");
    assert!(history(&headers).is_empty());
    run(&mut w, c, [reject(number)]);
    w.advance(ms(51));
    let (number, mut headers) = fetch(&mut w, c, "work").expect("its first retry");
    assert_eq!(history(&headers), ["expired retry 1 retry", "rejected work 1 work"]);
    run(&mut w, c, [ack(number)]);
    for round in 2..5 {
        run(&mut w, c, [published("retry", &headers, &[])]);
        w.advance(ms(51));
        let (number, next) = fetch(&mut w, c, "work").expect("the next retry");
        let expected = [
            format!("expired retry {round} retry"),
            "rejected work 1 work".to_owned(),
        ];
        assert_eq!(history(&next), expected);
        assert_eq!(
            next.lookup("x-first-death-reason").and_then(Value::as_str),
            Some("rejected")
        );
        run(&mut w, c, [ack(number)]);
        headers = next;
    }
}

#[test]
fn the_valid_part_of_a_malformed_or_forged_history_is_kept() {
    let long = |n: usize| (0..n).map(|i| death(&format!("q{i}"), "expired", Value::Int(1, 64)));
    let array = |deaths: Vec<Value>| Value::Array(deaths.into());
    let int = |n| Value::Int(n, 64);
    let cases: Vec<(Value, Vec<String>)> = vec![
        (Value::text("text"), vec!["rejected d 1 d".into()]),
        (Value::Table(one("a", Value::Void)), vec!["rejected d 1 d".into()]),
        (array(vec![]), vec!["rejected d 1 d".into()]),
        (array(vec![int(1), Value::Void]), vec!["rejected d 1 d".into()]),
        (
            array(vec![death("d", "rejected", Value::text("many"))]),
            vec!["rejected d 1 ".into()],
        ),
        (
            array(vec![death("d", "rejected", int(-7))]),
            vec!["rejected d 1 ".into()],
        ),
        (
            array(vec![death("d", "rejected", int(i64::MAX))]),
            vec![format!("rejected d {} ", i64::MAX)],
        ),
        (
            array(vec![
                death("d", "rejected", int(3)),
                death("d", "rejected", int(8)),
                death("o", "bogus", int(9)),
            ]),
            vec!["rejected d 4 ".into(), "bogus o 9 ".into()],
        ),
    ];
    for (forged, expected) in cases {
        let mut w = world();
        let c = w.connect("test");
        let headers = one("x-death", forged.clone());
        run(
            &mut w,
            c,
            [
                dying("d", "", Some("park"), None),
                transient("park"),
                published("d", &headers, &[]),
            ],
        );
        let (number, _) = fetch(&mut w, c, "d").expect("the message");
        run(&mut w, c, [reject(number)]);
        let (_, headers) = fetch(&mut w, c, "park").expect("the dead letter");
        assert_eq!(history(&headers), expected, "{forged:?}");
    }
    // If there are too many, the oldest are dropped.
    let mut w = world();
    let c = w.connect("test");
    let headers = one("x-death", array(long(5_000).collect()));
    run(
        &mut w,
        c,
        [
            dying("d", "", Some("park"), None),
            transient("park"),
            published("d", &headers, &[]),
        ],
    );
    let (number, _) = fetch(&mut w, c, "d").expect("the message");
    run(&mut w, c, [reject(number)]);
    let (_, headers) = fetch(&mut w, c, "park").expect("the dead letter");
    let history = history(&headers);
    assert_eq!(
        (history.len(), &*history[0], &*history[255]),
        (256, "rejected d 1 d", "expired q254 1 ")
    );
}

/// A rejection anywhere in the history ended the search for cycles, and a client can write that history.
#[test]
fn a_cycle_without_rejections_ends_whatever_the_history_says() {
    for forged in [
        Table::default(),
        one(
            "x-death",
            Value::Array(Box::from([death("zz", "rejected", Value::Int(1, 64))])),
        ),
        one(
            "x-death",
            Value::Array(Box::from([death("a", "rejected", Value::Int(1, 64))])),
        ),
    ] {
        let mut w = world();
        let c = w.connect("test");
        run(
            &mut w,
            c,
            [
                dying("a", "", Some("b"), Some(10)),
                dying("b", "", Some("a"), Some(10)),
                dying("start", "", Some("a"), None),
                published("start", &forged, &[]),
            ],
        );
        // One real rejection, too.
        let (number, _) = fetch(&mut w, c, "start").expect("the message");
        run(&mut w, c, [reject(number)]);
        for _ in 0..10 {
            w.advance(ms(11));
            w.catch_up();
        }
        assert_eq!(w.counters().messages_ready, 0, "{forged:?}");
        assert_eq!(w.counters().dead_lettered_expired, 2, "{forged:?}");
    }
}

/// A client that has received the message interrupts the cycle, whether it rejects the message or publishes it again.
#[test]
fn a_cycle_through_a_client_continues() {
    let mut w = world();
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [
            dying("a", "", Some("b"), Some(10)),
            dying("b", "", Some("a"), None),
            published("a", &Table::default(), &[]),
        ],
    );
    for round in 1..5 {
        w.advance(ms(11));
        let (number, headers) = fetch(&mut w, c, "b").expect("a round");
        assert_eq!(history(&headers)[0], format!("expired a {round} a"));
        if round % 2 == 0 {
            run(&mut w, c, [ack(number), published("a", &headers, &[])]);
        } else {
            run(&mut w, c, [reject(number)]);
        }
    }
}

#[test]
fn a_dead_letter_goes_to_all_keys_of_its_message_unless_its_queue_names_one() {
    let mut w = world();
    let c = w.connect("test");
    run(&mut w, c, [exchange("dlx", "direct"), exchange("again", "direct")]);
    for queue in ["k", "cc", "bcc", "own"] {
        run(&mut w, c, [transient(queue), bind("dlx", queue, queue)]);
    }
    // A message that dies a second time still has its hidden keys.
    run(
        &mut w,
        c,
        [dying("second", "again", None, None), bind("dlx", "second", "k")],
    );
    for queue in ["k", "cc", "bcc"] {
        run(&mut w, c, [bind("again", queue, queue)]);
    }
    run(
        &mut w,
        c,
        [dying("d", "dlx", None, None), dying("keyed", "dlx", Some("own"), None)],
    );
    let mut headers = one("CC", Value::Array(Box::from([Value::text("cc")])));
    headers.push("x", Value::text("1"));

    run(&mut w, c, [published("d", &headers, &["bcc"])]);
    // The default exchange has queues with those names as well.
    for queue in ["cc", "bcc"] {
        run(&mut w, c, [purge(queue)]);
    }
    let (number, _) = fetch(&mut w, c, "d").expect("the message");
    run(
        &mut w,
        c,
        [bind("dlx", "k", "d"), bind("dlx", "second", "d"), reject(number)],
    );
    for queue in ["k", "cc", "bcc"] {
        let (number, headers) = fetch(&mut w, c, queue).unwrap_or_else(|| panic!("nothing in {queue}"));
        assert_eq!(history(&headers), ["rejected d 1 d,cc"], "hidden keys are not shown");
        assert!(headers.lookup("CC").is_some() && headers.lookup("BCC").is_none());
        run(&mut w, c, [ack(number)]);
    }
    let (number, _) = fetch(&mut w, c, "second").expect("the copy that dies again");
    run(&mut w, c, [bind("again", "k", "d"), reject(number)]);
    for queue in ["k", "cc", "bcc"] {
        let (_, headers) = fetch(&mut w, c, queue).unwrap_or_else(|| panic!("nothing in {queue}"));
        assert_eq!(history(&headers), ["rejected second 1 d,cc", "rejected d 1 d,cc"]);
    }

    run(&mut w, c, [published("keyed", &headers, &["bcc"])]);
    for queue in ["cc", "bcc"] {
        run(&mut w, c, [purge(queue)]);
    }
    let (number, _) = fetch(&mut w, c, "keyed").expect("the message");
    run(&mut w, c, [reject(number)]);
    let (_, headers) = fetch(&mut w, c, "own").expect("the dead letter");
    assert_eq!(history(&headers), ["rejected keyed 1 keyed,cc"]);
    assert!(headers.lookup("CC").is_none() && headers.lookup("x").is_some());
    for queue in ["k", "cc", "bcc"] {
        assert!(fetch(&mut w, c, queue).is_none(), "{queue}");
    }
}
