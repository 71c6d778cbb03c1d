//! What limits refuse, and how refusals are counted.

use super::*;
use gatepost_core::engine::Limit;
use gatepost_core::message::{Envelope, Message};
use gatepost_core::properties::{Codecs, Name, Origin, Properties, PropertyCodec, Value};
use gatepost_core::topic::LEVELS_MAX;

#[test]
fn filters_above_limits_are_refused_with_the_reason() {
    let settings = gatepost_core::testing::world::Settings {
        filter_wildcards_max: 2,
        session_filters_max: 3,
        message_headers_max: 2,
        ..Default::default()
    };
    let mut w = World::with(1, settings, Default::default());
    let (c, a) = (w.connect("mqtt"), w.connect("amqp"));
    run(&mut w, c, [clean("c")]);
    let filters = ["+/+/#", "a/+/#", "b", "a/b+", "c", "d"].map(|f| filter(f, 0)).into();
    let answer = run(&mut w, c, [subscribe(filters)]);
    assert_eq!(
        answer,
        ["suback 1 [Err(QuotaExceeded), Ok(0), Ok(0), Err(PreconditionFailed), Ok(0), Err(QuotaExceeded)]"]
    );
    // Repeating an existing one adds none.
    assert_eq!(run(&mut w, c, [subscribe(vec![filter("b", 1)])]), ["suback 1 [Ok(1)]"]);
    run(&mut w, a, [transient("q")]);
    let refused = run(&mut w, a, [bind("amq.topic", "q", "#.*.#")]);
    assert!(
        refused[0].contains("filter has 3 wildcards, more than the limit (2)"),
        "{refused:?}"
    );
    let deep = vec!["l"; LEVELS_MAX + 1].join(".");
    let refused = run(&mut w, a, [bind("amq.topic", "q", &deep)]);
    assert!(refused[0].contains("levels, more than the limit"), "{refused:?}");
    let mut asks = bind("h", "q", "");
    if let Command::Bind(asks) = &mut asks {
        for name in ["a", "b", "c"] {
            asks.arguments.push(name, Value::Bool(true));
        }
    }
    let refused = run(&mut w, a, [exchange("h", "headers"), asks]);
    assert!(refused[1].contains("binding asks for 3 headers"), "{refused:?}");
    let counted = Limit::ALL.map(|limit| (limit.name(), w.counters().limit_refusals[limit as usize]));
    let expected = [
        ("message_headers_max", 1),
        ("message_keys_max", 0),
        ("filter_wildcards_max", 2),
        ("session_filters_max", 1),
        ("transaction_deliveries_max", 0),
        ("topic_levels_max", 1),
        ("vhost_max_connections", 0),
        ("vhost_max_queues", 0),
        ("user_max_channels", 0),
    ];
    assert_eq!(counted, expected);
}

/// A protocol whose messages all have three headers, and three further keys.
struct ThreeHeaders;

impl PropertyCodec for ThreeHeaders {
    fn origin(&self) -> Origin {
        Origin(77)
    }
    fn decode(&self, _: &[u8]) -> Properties {
        let mut properties = Properties::default();
        for name in ["a", "b", "c"] {
            properties.headers.push(name, Value::Bool(true));
        }
        properties
    }
    fn extra_keys(&self, _: &[u8]) -> Vec<Name> {
        ["a", "b", "c"].map(Name::from).into()
    }
}

#[test]
fn a_message_of_too_many_headers_is_counted_where_it_is_refused() {
    let settings = gatepost_core::testing::world::Settings {
        message_headers_max: 2,
        ..Default::default()
    };
    let codecs = Codecs::new(vec![std::sync::Arc::new(ThreeHeaders)]);
    let mut w = World::speaking(1, settings, Default::default(), codecs);
    let a = w.connect("amqp");
    let envelope = Envelope {
        origin: ThreeHeaders.origin(),
        ..Envelope::default()
    };
    let m = || publish(Default::default(), Message::new(envelope, "amq.headers", "", b"", b"m"));
    let heard = run(&mut w, a, [m()]);
    assert!(heard[0].contains("headers"), "{heard:?}");
    assert!(run(&mut w, a, [transaction(vec![m()])])[0].starts_with("failed Commit"));
    assert_eq!(w.counters().limit_refusals[Limit::MessageHeaders as usize], 2);
}

/// A message may name as many keys as fit into its headers: 20,000 were decoded, compared with its publisher's rights
/// and looked up in every exchange, in one hold.
#[test]
fn a_message_of_too_many_keys_is_refused_and_counted() {
    for (max, is_refused) in [(2, true), (3, false)] {
        let settings = gatepost_core::testing::world::Settings {
            message_keys_max: max,
            ..Default::default()
        };
        let codecs = Codecs::new(vec![std::sync::Arc::new(ThreeHeaders)]);
        let mut w = World::speaking(1, settings, Default::default(), codecs);
        let a = w.connect("amqp");
        let envelope = Envelope {
            origin: ThreeHeaders.origin(),
            extra_keys: true,
            ..Envelope::default()
        };
        run(&mut w, a, [transient("a"), transient("c"), transient("own")]);
        let m = || publish(Default::default(), Message::new(envelope, "", "own", b"", b"m"));
        let heard = run(&mut w, a, [m(), transaction(vec![m()])]);
        if is_refused {
            let why = "message has 3 keys in CC and BCC, more than the limit (2)";
            assert!(heard[0].contains(why) && heard[1].contains(why), "{heard:?}");
        }
        for queue in ["a", "c", "own"] {
            let heard = run(&mut w, a, [get_no_ack(queue), get_no_ack(queue), get_no_ack(queue)]);
            let got = heard.iter().filter(|line| line.starts_with("got")).count();
            assert_eq!(got, if is_refused { 0 } else { 2 }, "{heard:?}");
        }
        let refused = if is_refused { 2 } else { 0 };
        assert_eq!(w.counters().limit_refusals[Limit::MessageKeys as usize], refused);
    }
}
