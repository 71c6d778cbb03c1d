//! The router as the engine uses it.

use super::*;
use crate::binding::{Destination, Grant};
use crate::message::{Envelope, Message};
use crate::properties::{Origin, Properties, PropertyCodec};
use Dialect::{Dot, Slash};

mod cache;

/// Reads each byte of the properties as one header: the byte is its name, and its value is always `1`.
struct OneHeaderPerByte;

impl PropertyCodec for OneHeaderPerByte {
    fn origin(&self) -> Origin {
        Origin(77)
    }
    fn decode(&self, raw: &[u8]) -> Properties {
        let headers = raw
            .iter()
            .map(|b| (Name::from(char::from(*b).to_string()), Value::Int(1, 32)))
            .collect();
        Properties {
            headers: Table(headers),
            ..Properties::default()
        }
    }
}

fn router() -> Router {
    Router::new("/".into(), Codecs::new(vec![std::sync::Arc::new(OneHeaderPerByte)]))
}

fn message(exchange: &str, key: &str, dialect: Dialect) -> Message {
    Message::new(
        Envelope {
            dialect,
            ..Envelope::default()
        },
        exchange,
        key,
        b"",
        b"x",
    )
}

fn queue(n: u32) -> Destination {
    Destination::Queue {
        slot: QueueSlot(n),
        name: format!("q{n}").into(),
        durable: true,
    }
}

fn other(name: &str) -> Destination {
    Destination::Exchange(name.into())
}

fn spec(name: &str, kind: &str) -> ExchangeSpec {
    ExchangeSpec {
        name: name.into(),
        kind: kind.into(),
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Table::default(),
    }
}

fn with_alternate(name: &str, kind: &str, alternate: &str) -> ExchangeSpec {
    let mut spec = spec(name, kind);
    spec.arguments.push(ALTERNATE, Value::text(alternate));
    spec
}

fn auto_delete(name: &str) -> ExchangeSpec {
    ExchangeSpec {
        auto_delete: true,
        ..spec(name, "fanout")
    }
}

impl Router {
    fn make(&mut self, spec: ExchangeSpec) {
        assert!(self.declare_exchange(spec).expect("declared").created);
    }
    fn tie(&mut self, source: &str, destination: Destination, key: &str) -> bool {
        self.bind(source, destination, key, Table::default(), None)
            .expect("bound")
    }
    fn untie(&mut self, source: &str, destination: &Destination, key: &str) -> Vec<Removed> {
        self.unbind(source, destination, key, &Table::default())
            .expect("unbound")
    }
    fn slots(&mut self, exchange: &str, key: &str) -> Vec<u32> {
        self.slots_of(&message(exchange, key, Dot))
    }
    fn slots_of(&mut self, message: &Message) -> Vec<u32> {
        self.route(message, &[])
            .expect("routed")
            .iter()
            .map(|target| target.queue.0)
            .collect()
    }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Fault>) -> (FaultKind, String) {
    let fault = result.expect_err("refused");
    (fault.kind, fault.text.into_string())
}

fn names(removed: &[Removed]) -> Vec<String> {
    removed
        .iter()
        .map(|removed| match removed {
            Removed::Exchange { name, .. } => format!("exchange {name}"),
            Removed::Binding(binding) => match &binding.destination {
                Destination::Queue { name, .. } => format!("{} -> queue {name}", binding.source),
                Destination::Exchange(name) => format!("{} -> {name}", binding.source),
            },
        })
        .collect()
}

#[test]
fn the_predeclared_exchanges_are_there_and_durable() {
    let router = router();
    let found: Vec<_> = router
        .exchanges()
        .map(|e| (e.name.to_string(), e.kind, e.durable, e.internal))
        .collect();
    let expected = [
        ("", "direct", false),
        ("amq.direct", "direct", false),
        ("amq.fanout", "fanout", false),
        ("amq.headers", "headers", false),
        ("amq.match", "headers", false),
        ("amq.rabbitmq.trace", "topic", true),
        ("amq.topic", "topic", false),
    ];
    assert_eq!(
        found,
        expected.map(|(name, kind, internal)| (name.to_owned(), kind, true, internal))
    );
}

#[test]
fn a_declare_is_checked_in_the_order_clients_expect() {
    use FaultKind::{AccessRefused, NotFound, PreconditionFailed};
    let mut router = router();
    let refuse = |router: &mut Router, spec| refusal(router.declare_exchange(spec));
    assert_eq!(
        refuse(&mut router, spec("", "nosuch")),
        (PreconditionFailed, "unknown exchange type 'nosuch'".into())
    );
    assert_eq!(
        refuse(&mut router, spec("x", "")),
        (PreconditionFailed, "invalid exchange type ''".into())
    );
    assert_eq!(
        refuse(&mut router, spec("", "direct")),
        (AccessRefused, "operation not permitted on the default exchange".into())
    );
    assert_eq!(refusal(router.declare_passive("")).0, AccessRefused);
    assert_eq!(
        refusal(router.declare_passive("x")),
        (NotFound, "no exchange 'x' in vhost '/'".into())
    );
    assert_eq!(
        refuse(&mut router, spec("amq.foo", "direct")),
        (
            AccessRefused,
            "exchange name 'amq.foo' contains reserved prefix 'amq.*'".into()
        )
    );
    // An equivalent declare of an existing reserved name succeeds.
    assert_eq!(
        router.declare_exchange(spec("amq.direct", "direct")),
        Ok(Declared { created: false })
    );
    let mut bad = spec("x", "direct");
    bad.arguments.push(ALTERNATE, Value::Int(5, 32));
    assert_eq!(
        refuse(&mut router, bad),
        (
            PreconditionFailed,
            "invalid type 'signedint' for arg 'alternate-exchange' in exchange 'x' in vhost '/'".into()
        )
    );
    assert!(router.check_declare("x", "nosuch", true).is_ok());
}

#[test]
fn a_repeated_declare_must_be_equivalent() {
    let mut router = router();
    router.make(spec("x", "direct"));
    let mut ignored = spec("x", "direct");
    ignored.arguments.push("x-whatever", Value::Void);
    assert_eq!(router.declare_exchange(ignored), Ok(Declared { created: false }));
    let text = |router: &mut Router, spec| refusal(router.declare_exchange(spec)).1;
    assert_eq!(
        text(&mut router, spec("x", "fanout")),
        "inequivalent arg 'type' for exchange 'x' in vhost '/': received 'fanout' but current is 'direct'"
    );
    assert_eq!(
        text(
            &mut router,
            ExchangeSpec {
                durable: false,
                ..spec("x", "direct")
            }
        ),
        "inequivalent arg 'durable' for exchange 'x' in vhost '/': received 'false' but current is 'true'"
    );
    assert_eq!(
        text(
            &mut router,
            ExchangeSpec {
                auto_delete: true,
                ..spec("x", "direct")
            }
        ),
        "inequivalent arg 'auto_delete' for exchange 'x' in vhost '/': received 'true' but current is 'false'"
    );
    assert_eq!(
        text(
            &mut router,
            ExchangeSpec {
                internal: true,
                ..spec("x", "direct")
            }
        ),
        "inequivalent arg 'internal' for exchange 'x' in vhost '/': received 'true' but current is 'false'"
    );
    assert_eq!(
        text(&mut router, with_alternate("x", "direct", "ae")),
        "inequivalent arg 'alternate-exchange' for exchange 'x' in vhost '/': received the value 'ae' of type \
         'longstr' but current is none"
    );
}

#[test]
fn deleting_refuses_system_exchanges_and_those_in_use() {
    let mut router = router();
    router.make(spec("x", "direct"));
    router.tie("x", queue(1), "k");
    assert_eq!(
        refusal(router.delete_exchange("amq.direct", false)),
        (
            FaultKind::AccessRefused,
            "deletion of system exchange 'amq.direct' in vhost '/' not allowed".into()
        )
    );
    assert_eq!(refusal(router.delete_exchange("", false)).0, FaultKind::AccessRefused);
    assert_eq!(
        refusal(router.delete_exchange("x", true)),
        (FaultKind::PreconditionFailed, "exchange 'x' in vhost '/' in use".into())
    );
    assert!(router.delete_exchange("missing", true).expect("fine").is_empty());
    assert_eq!(
        names(&router.delete_exchange("x", false).expect("deleted")),
        ["x -> queue q1", "exchange x"]
    );
    assert_eq!(router.bindings().count(), 0);
    assert_eq!(
        refusal(router.route(&message("x", "k", Dot), &[])),
        (FaultKind::NotFound, "no exchange 'x' in vhost '/'".into())
    );
}

#[test]
fn binding_twice_makes_one_binding_and_unbinding_a_missing_one_succeeds() {
    let mut router = router();
    let mut arguments = Table::default();
    arguments.push("a", Value::Int(1, 32));
    arguments.push("b", Value::Int(2, 32));
    let reversed = Table(arguments.0.iter().rev().cloned().collect());
    assert!(router.tie("amq.direct", queue(1), "k"));
    assert!(!router.tie("amq.direct", queue(1), "k"));
    assert!(
        router
            .bind("amq.direct", queue(1), "k", arguments.clone(), None)
            .expect("bound")
    );
    assert!(
        !router
            .bind("amq.direct", queue(1), "k", reversed.clone(), None)
            .expect("bound")
    );
    assert_eq!(router.slots("amq.direct", "k"), [1]);
    assert_eq!(router.untie("amq.direct", &queue(1), "k").len(), 1);
    assert_eq!(router.slots("amq.direct", "k"), [1]);
    assert_eq!(
        router
            .unbind("amq.direct", &queue(1), "k", &reversed)
            .expect("unbound")
            .len(),
        1
    );
    assert!(router.slots("amq.direct", "k").is_empty());
    assert!(router.untie("amq.direct", &queue(1), "k").is_empty());
    assert!(router.untie("missing", &queue(1), "k").is_empty());
    assert!(router.untie("amq.direct", &other("missing"), "k").is_empty());
    assert_eq!(
        refusal(router.bind("", queue(1), "k", Table::default(), None)).0,
        FaultKind::AccessRefused
    );
    assert_eq!(
        refusal(router.unbind("", &queue(1), "k", &Table::default())).0,
        FaultKind::AccessRefused
    );
    assert_eq!(
        refusal(router.bind("amq.direct", other(""), "k", Table::default(), None)).0,
        FaultKind::AccessRefused
    );
    assert_eq!(
        refusal(router.bind("no", other("no2"), "", Table::default(), None)).1,
        "no exchange 'no' in vhost '/'"
    );
    assert_eq!(
        refusal(router.bind("amq.direct", other("no2"), "", Table::default(), None)).1,
        "no exchange 'no2' in vhost '/'"
    );
}

#[test]
fn the_default_exchange_routes_to_the_queue_of_that_name() {
    let mut router = router();
    router.add_queue(&"jobs.new".into(), QueueSlot(7));
    assert_eq!(router.slots("", "jobs.new"), [7]);
    assert!(router.slots("", "jobs").is_empty() && router.slots("", "").is_empty());
    assert_eq!(router.slots_of(&message("", "jobs/new", Slash)), [7]);
    assert_eq!(router.queue("jobs.new"), Some(QueueSlot(7)));
    let copies = [Name::from("jobs.new"), Name::from("second")];
    router.add_queue(&"second".into(), QueueSlot(3));
    let found = router.route(&message("", "jobs.new", Dot), &copies).expect("routed");
    assert_eq!(found.iter().map(|t| t.queue.0).collect::<Vec<_>>(), [3, 7]);
    router.remove_queue(QueueSlot(7));
    assert!(router.slots("", "jobs.new").is_empty());
    assert_eq!(router.queue("jobs.new"), None);
    router.add_queue(&"jobs.new".into(), QueueSlot(9));
    assert_eq!(router.slots("", "jobs.new"), [9]);
}

#[test]
fn publishing_to_an_internal_exchange_is_refused_but_bindings_reach_it() {
    let mut router = router();
    router.make(ExchangeSpec {
        internal: true,
        ..spec("inside", "fanout")
    });
    router.tie("inside", queue(1), "");
    assert_eq!(
        refusal(router.route(&message("inside", "k", Dot), &[])),
        (
            FaultKind::AccessRefused,
            "cannot publish to internal exchange 'inside' in vhost '/'".into()
        )
    );
    router.tie("amq.fanout", other("inside"), "");
    assert_eq!(router.slots("amq.fanout", "k"), [1]);
}

#[test]
fn both_dialects_meet_in_the_topic_exchange() {
    let mut router = router();
    let plain = Grant::default();
    router.tie("amq.topic", queue(1), "v1%2E5.*");
    router.tie("amq.topic", queue(2), "#");
    router.tie("amq.topic", queue(2), "*.s");
    router.tie("amq.topic", queue(5), "$SYS.#");
    router
        .subscribe("amq.topic", queue(3), "v1.5/+", plain)
        .expect("subscribed");
    router
        .subscribe("amq.topic", queue(4), "+/s", plain)
        .expect("subscribed");
    for _ in 0..2 {
        assert_eq!(router.slots_of(&message("amq.topic", "v1.5/s", Slash)), [1, 2, 3, 4]);
        assert_eq!(router.slots("amq.topic", "v1%2E5.s"), [1, 2, 3, 4]);
        assert_eq!(router.slots("amq.topic", "v1.5.s"), [2]);
        // AMQP wildcards match `$` topics, leading MQTT ones do not. The broker's own topics need a pattern that names
        // `$SYS`.
        assert_eq!(router.slots_of(&message("amq.topic", "$x/s", Slash)), [2]);
        assert_eq!(router.slots_of(&message("amq.topic", "$SYS/s", Slash)), [5]);
        assert_eq!(router.slots_of(&message("amq.topic", "$SYSTEM/s", Slash)), [2]);
        assert_eq!(router.slots("amq.topic", ""), [2]);
    }
    assert_eq!(
        refusal(router.subscribe("amq.topic", queue(1), "a/#/b", plain)).0,
        FaultKind::PreconditionFailed
    );
}

#[test]
fn extra_keys_reach_further_queues_and_no_queue_twice() {
    let mut router = router();
    router.tie("amq.topic", queue(1), "*.x");
    router.tie("amq.topic", queue(2), "b.#");
    router.tie("amq.topic", queue(3), "c");
    let copies = [Name::from("b.x"), Name::from("c")];
    for _ in 0..2 {
        let found = router
            .route(&message("amq.topic", "a.x", Dot), &copies)
            .expect("routed");
        assert_eq!(found, [1, 2, 3].map(|n| Target::plain(QueueSlot(n))));
        // The routes found with extra keys are not remembered for the address alone.
        assert_eq!(router.slots("amq.topic", "a.x"), [1]);
    }
}

#[test]
fn many_headers_bindings_that_differ_in_arguments_only_stay_cheap() {
    let mut router = router();
    for n in 0..20_000 {
        let mut arguments = Table::default();
        arguments.push("kind", Value::Int(n, 64));
        assert!(
            router
                .bind("amq.headers", queue(1), "", arguments, None)
                .expect("bound")
        );
    }
    assert_eq!(router.remove_queue(QueueSlot(1)).len(), 20_000);
}

#[test]
fn a_direct_exchange_compares_keys_in_the_dot_dialect() {
    let mut router = router();
    router.make(spec("d", "direct"));
    router.tie("amq.topic", other("d"), "#");
    router.tie("d", queue(1), "a.b");
    assert_eq!(router.slots_of(&message("amq.topic", "a/b", Slash)), [1]);
    assert_eq!(router.slots("d", "a.b"), [1]);
}

#[test]
fn routes_through_a_headers_exchange_are_not_cached() {
    let mut router = router();
    let mut arguments = Table::default();
    arguments.push("a", Value::Int(1, 64));
    router
        .bind("amq.headers", queue(1), "", arguments.clone(), None)
        .expect("bound");
    router.tie("amq.fanout", other("amq.headers"), "");
    let envelope = Envelope {
        origin: Origin(77),
        ..Envelope::default()
    };
    for exchange in ["amq.headers", "amq.fanout"] {
        assert_eq!(router.slots_of(&Message::new(envelope, exchange, "k", b"ab", b"")), [1]);
        assert!(
            router
                .slots_of(&Message::new(envelope, exchange, "k", b"b", b""))
                .is_empty()
        );
        assert_eq!(router.slots_of(&Message::new(envelope, exchange, "k", b"a", b"")), [1]);
    }
    arguments.push("x-match", Value::text("some"));
    assert_eq!(
        refusal(router.bind("amq.headers", queue(1), "", arguments, None)).1,
        "Invalid x-match field value <<\"some\">>; expected all, any, all-with-x, or any-with-x"
    );
}

#[test]
fn exchanges_bound_in_a_circle_give_each_queue_one_copy() {
    let mut router = router();
    for name in ["a", "b", "c"] {
        router.make(spec(name, "fanout"));
        router.tie(name, queue(1), "");
    }
    router.tie("a", other("b"), "");
    router.tie("b", other("c"), "");
    router.tie("c", other("a"), "");
    router.tie("c", other("c"), "");
    router.tie("c", queue(2), "");
    assert_eq!(router.slots("a", "k"), [1, 2]);
    let removed = names(&router.delete_exchange("c", false).expect("deleted"));
    assert_eq!(removed.last().map(String::as_str), Some("exchange c"));
    assert_eq!(removed.len(), 6);
    assert_eq!(router.slots("a", "k"), [1]);
}

#[test]
fn the_alternate_exchange_gets_unmatched_messages() {
    let mut router = router();
    router.make(with_alternate("x", "direct", "ae"));
    router.tie("x", queue(1), "known");
    // A missing alternate exchange is ignored until it is declared.
    assert!(router.slots("x", "unknown").is_empty());
    router.make(spec("ae", "fanout"));
    assert!(router.slots("x", "unknown").is_empty());
    router.tie("ae", queue(2), "");
    assert_eq!(router.slots("x", "unknown"), [2]);
    assert_eq!(router.slots("x", "known"), [1]);
    // A match counts even if no queue is reached through it.
    router.make(spec("nowhere", "fanout"));
    router.tie("x", other("nowhere"), "lost");
    assert!(router.slots("x", "lost").is_empty());
    router.delete_exchange("ae", false).expect("deleted");
    assert!(router.slots("x", "unknown").is_empty());
    // An alternate of an alternate, back to where it started.
    router.make(with_alternate("ae", "direct", "x"));
    assert!(router.slots("x", "unknown").is_empty());
}

#[test]
fn the_default_exchange_can_be_the_alternate() {
    let mut router = router();
    router.make(with_alternate("x", "direct", ""));
    assert!(router.slots("x", "q5").is_empty());
    router.add_queue(&"q5".into(), QueueSlot(5));
    assert_eq!(router.slots("x", "q5"), [5]);
}

#[test]
fn auto_delete_exchanges_go_with_their_last_binding_as_source_and_so_on() {
    let mut router = router();
    for name in ["a", "b", "c"] {
        router.make(auto_delete(name));
    }
    // Never before its first binding, and never because of bindings that lead to it.
    router.tie("a", other("b"), "");
    router.tie("amq.fanout", other("a"), "");
    router.untie("amq.fanout", &other("a"), "");
    assert!(router.exchange("a").is_some() && router.exchange("b").is_some());
    router.tie("b", other("c"), "");
    router.tie("c", queue(1), "1");
    router.tie("c", queue(2), "2");
    assert_eq!(names(&router.remove_queue(QueueSlot(2))), ["c -> queue q2"]);
    assert_eq!(
        names(&router.untie("c", &queue(1), "1")),
        [
            "c -> queue q1",
            "b -> c",
            "exchange c",
            "a -> b",
            "exchange b",
            "exchange a"
        ]
    );
    assert_eq!(router.bindings().count(), 0);
}

#[test]
fn overlapping_subscriptions_of_one_queue_merge() {
    let mut router = router();
    let grant = |qos, no_local, retain_as_published, subscription_id| Grant {
        qos,
        no_local,
        retain_as_published,
        subscription_id,
    };
    let subscribe = |router: &mut Router, n, filter, grant| {
        router
            .subscribe("amq.topic", queue(n), filter, grant)
            .expect("subscribed")
    };
    subscribe(&mut router, 1, "a/#", grant(0, false, true, Some(10)));
    subscribe(&mut router, 1, "a/+", grant(2, true, false, Some(20)));
    subscribe(&mut router, 1, "+/b", grant(1, false, false, None));
    subscribe(&mut router, 2, "a/b", grant(1, true, false, None));
    subscribe(&mut router, 3, "a/b", grant(1, true, true, Some(30)));
    router.tie("amq.topic", queue(3), "a.b");
    router.tie("amq.topic", queue(4), "a.b");
    subscribe(&mut router, 5, "a/b", grant(1, false, true, None));
    let topic = message("amq.topic", "a/b", Slash);
    let targets = router.route(&topic, &[]).expect("routed").to_vec();
    let show = |admission: Admission<'_>| match admission {
        Admission::Plain => "plain".to_owned(),
        Admission::NoLocal => "no-local".to_owned(),
        Admission::Granted(g) => {
            format!(
                "{} {} {:?}",
                g.qos,
                g.retain_as_published,
                g.subscription_ids.map(|ids| ids.to_vec())
            )
        }
    };
    let shown: Vec<_> = targets
        .iter()
        .map(|t| (t.queue.0, show(t.admission(false)), show(t.admission(true))))
        .collect();
    let expected = [
        (1, "2 true Some([10, 20])", "1 true Some([10])"),
        (2, "1 false None", "no-local"),
        (3, "1 true Some([30])", "plain"),
        (4, "plain", "plain"),
        (5, "1 true None", "1 true None"),
    ];
    assert_eq!(
        shown,
        expected.map(|(slot, any, own)| (slot, any.to_owned(), own.to_owned()))
    );

    // Subscribing again replaces the grant.
    assert!(!subscribe(&mut router, 2, "a/b", grant(2, false, false, Some(7))));
    let second = router.route(&topic, &[]).expect("routed")[1].clone();
    assert_eq!(show(second.admission(true)), "2 false Some([7])");
    assert_eq!(router.unsubscribe("amq.topic", QueueSlot(2), "a/b").len(), 1);
    assert!(router.unsubscribe("amq.topic", QueueSlot(2), "a/b").is_empty());
    assert_eq!(router.slots_of(&topic), [1, 3, 4, 5]);
}

#[test]
fn bindings_can_be_restored_from_the_routers_list() {
    let mut router = router();
    router.make(ExchangeSpec {
        durable: false,
        ..with_alternate("x", "topic", "amq.fanout")
    });
    router.tie("x", queue(1), "a.#");
    router
        .subscribe(
            "amq.topic",
            queue(1),
            "a/#",
            Grant {
                qos: 1,
                ..Grant::default()
            },
        )
        .expect("subscribed");
    let listed: Vec<_> = router.bindings().cloned().collect();
    assert_eq!(
        listed
            .iter()
            .map(|b| (&*b.key, b.dialect, b.durable))
            .collect::<Vec<_>>(),
        [("a.#", Dot, false), ("a/#", Slash, true)]
    );
    assert_eq!(router.bindings_of(QueueSlot(1)).count(), 2);
    let mut again = self::router();
    for exchange in router.exchanges().filter(|e| !e.name.is_empty()) {
        let spec = ExchangeSpec {
            name: exchange.name,
            kind: exchange.kind.into(),
            durable: exchange.durable,
            auto_delete: exchange.auto_delete,
            internal: exchange.internal,
            arguments: exchange.arguments,
        };
        again.restore_exchange(spec).expect("restored");
    }
    for b in listed {
        match (b.dialect, b.grant) {
            (Slash, Some(grant)) => again.subscribe(&b.source, b.destination, &b.key, grant),
            (_, grant) => again.bind(&b.source, b.destination, &b.key, b.arguments, grant),
        }
        .expect("bound again");
    }
    for key in ["a", "a.b", "b"] {
        assert_eq!(router.slots("x", key), again.slots("x", key));
        assert_eq!(router.slots("amq.topic", key), again.slots("amq.topic", key));
    }
}

#[test]
fn a_headers_exchange_refuses_a_message_with_more_headers_than_it_takes() {
    let mut router = router();
    router.set_headers_max(3);
    router.tie("amq.headers", queue(1), "");
    router.tie("amq.fanout", queue(1), "");
    let with = |exchange: &str, headers: &[u8]| {
        let envelope = Envelope {
            origin: Origin(77),
            ..Envelope::default()
        };
        Message::new(envelope, exchange, "", headers, b"x")
    };
    assert_eq!(router.slots_of(&with("amq.headers", b"abc")), [1]);
    assert_eq!(router.slots_of(&with("amq.fanout", b"abcd")), [1]);
    let fault = router.route(&with("amq.headers", b"abcd"), &[]).expect_err("too many");
    assert_eq!(fault.kind, FaultKind::PreconditionFailed);
    assert_eq!(
        &*fault.text,
        "message has 4 headers, more than a headers exchange takes (3)"
    );
}
