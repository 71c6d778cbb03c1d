//! Messages to the client.

use crate::script::{Script, connect, delivery, message, properties};
use gatepost_core::command::Command;
use gatepost_core::event::{Delivery, DeliveryExtra, DeliveryFlags, Event, Op};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::interop::Field;
use gatepost_core::message::{Dialect, Envelope, Message};
use gatepost_core::properties::{Codecs, Name, Origin, Properties as Neutral, PropertyCodec, Value};
use gatepost_core::session::Protocol as _;
use gatepost_mqtt::frame::{Connect, Packet, Property, Version};
use gatepost_mqtt::{Dropped, ORIGIN, Settings};
use std::sync::Arc;
use std::time::Duration;

fn open_with(list: &[Property<'_>]) -> Script {
    let properties = properties(list);
    let connect = Connect {
        properties: properties.as_properties(),
        ..connect(Version::V5)
    };
    Script::open_with(&connect, Settings::default())
}

fn deliver(script: &mut Script, delivery: Delivery) {
    script.event(Event::Deliver(delivery));
}

fn plain(topic: &str, body: &[u8]) -> Message {
    message(topic, 0, Origin::NONE, b"", body)
}

#[test]
fn golden_bytes_of_a_delivery() {
    for (version, qos0, qos1) in [
        (
            Version::V311,
            &b"\x30\x07\0\x03a/bhi"[..],
            &b"\x32\x09\0\x03a/b\x12\x34hi"[..],
        ),
        (Version::V5, b"\x30\x08\0\x03a/b\0hi", b"\x32\x0a\0\x03a/b\x12\x34\0hi"),
    ] {
        let mut script = Script::open(version);
        deliver(&mut script, delivery(0, 0, plain("a/b", b"hi")));
        assert_eq!(script.sent(), qos0);
        deliver(&mut script, delivery(0x1234, 1, plain("a/b", b"hi")));
        assert_eq!(script.sent(), qos1);
    }
}

#[test]
fn flags_of_the_delivery_become_dup_and_retain() {
    let mut script = Script::open(Version::V311);
    let both = DeliveryFlags::REDELIVERED | DeliveryFlags::RETAIN;
    deliver(
        &mut script,
        Delivery {
            flags: both,
            ..delivery(1, 1, plain("a", b""))
        },
    );
    assert_eq!(script.sent()[0], 0x3B);
    deliver(
        &mut script,
        Delivery {
            flags: both,
            ..delivery(0, 0, plain("a", b""))
        },
    );
    assert_eq!(script.sent()[0], 0x31, "no DUP at QoS 0");
}

#[test]
fn mqtt_5_clients_get_properties_unchanged_and_mqtt_3_clients_none() {
    let properties = properties(&[
        Property::User("k", "1"),
        Property::ContentType("t"),
        Property::User("k", "1"),
    ]);
    let raw = properties.as_properties().raw();
    let mut script = Script::open(Version::V5);
    deliver(&mut script, delivery(0, 0, message("a", 0, ORIGIN, raw, b"x")));
    script.one(|packet| {
        let Packet::Publish(packet) = packet else { panic!() };
        assert_eq!(packet.properties.raw(), raw);
    });
    let mut script = Script::open(Version::V311);
    deliver(&mut script, delivery(0, 0, message("a", 0, ORIGIN, raw, b"x")));
    assert_eq!(script.sent(), b"\x30\x04\0\x01ax");
}

#[test]
fn the_expiry_left_is_rounded_up_and_never_0() {
    let mut script = Script::open(Version::V5);
    for (left_ms, seconds) in [(10_000, 10), (9_001, 10), (9_000, 9), (1, 1), (0, 1)] {
        let deadline = script.now.wall + Duration::from_millis(left_ms);
        let envelope = Envelope {
            dialect: Dialect::Slash,
            deadline: Some(deadline),
            ..Envelope::default()
        };
        deliver(
            &mut script,
            delivery(0, 0, Message::new(envelope, "amq.topic", "a", b"", b"")),
        );
        assert_eq!(script.sent(), [0x30, 9, 0, 1, b'a', 5, 2, 0, 0, 0, seconds]);
    }
}

#[test]
fn subscription_identifiers_are_all_returned() {
    let mut script = Script::open(Version::V5);
    let extra = Some(Box::new(DeliveryExtra {
        subscription_ids: vec![1, 268_435_455, 1],
        ..DeliveryExtra::default()
    }));
    deliver(
        &mut script,
        Delivery {
            extra,
            ..delivery(0, 0, plain("a", b""))
        },
    );
    script.one(|packet| {
        let Packet::Publish(packet) = packet else { panic!() };
        let ids: Vec<_> = packet.properties.iter().collect();
        assert_eq!(ids, [1, 268_435_455, 1].map(Property::SubscriptionId));
    });
}

#[test]
fn aliases_are_given_first_come_first_served_up_to_the_clients_maximum() {
    let mut script = open_with(&[Property::TopicAliasMaximum(2)]);
    let mut topic_and_alias = |topic: &str| {
        deliver(&mut script, delivery(0, 0, plain(topic, b"")));
        script.one(|packet| {
            let Packet::Publish(packet) = packet else { panic!() };
            let alias = packet.properties.iter().find_map(|p| match p {
                Property::TopicAlias(alias) => Some(alias),
                _ => None,
            });
            (packet.topic.to_owned(), alias)
        })
    };
    for (topic, sent, alias) in [
        ("a", "a", Some(1)),
        ("a", "", Some(1)),
        ("b", "b", Some(2)),
        ("c", "c", None),
        ("b", "", Some(2)),
        ("c", "c", None),
    ] {
        assert_eq!(topic_and_alias(topic), (sent.to_owned(), alias));
    }
    let mut script = open_with(&[Property::TopicAliasMaximum(2)]);
    assert_eq!(script.session.kept(), 0);
    deliver(&mut script, delivery(0, 0, plain(&"t".repeat(60_000), b"")));
    let kept = script.session.kept();
    assert!((60_000..61_000).contains(&kept), "{kept}");
}

#[test]
fn a_delivery_over_the_clients_packet_limit_is_dropped_and_settled() {
    let mut script = open_with(&[Property::MaximumPacketSize(64), Property::TopicAliasMaximum(5)]);
    // 2 bytes of header, 4 of topic, 4 of properties with the alias.
    let payload = |size: usize| vec![b'x'; size - 10];
    for (size, alias) in [(63, true), (64, true), (65, false)] {
        let topic = format!("t{}", size % 10);
        deliver(&mut script, delivery(0, 0, plain(&topic, &payload(size))));
        let sent = script.sent();
        // With its alias it does not fit, without it does. Then no alias is registered.
        assert_eq!(
            (sent.len(), sent.contains(&0x23)),
            (if alias { size } else { size - 3 }, alias)
        );
    }
    deliver(&mut script, delivery(7, 1, plain("big", &[0; 64])));
    deliver(&mut script, delivery(8, 2, plain("big", &[0; 64])));
    deliver(&mut script, delivery(0, 0, plain("big", &[0; 64])));
    assert_eq!(script.sent(), []);
    assert_eq!(
        [script.settled(), script.settled(), script.settled()],
        [Some(7), Some(8), None]
    );
    assert_eq!(
        script.protocol.dropped(),
        Dropped {
            oversize: 3,
            untranslatable: 0
        }
    );
    deliver(&mut script, delivery(7, 1, plain("big", b"")));
    assert!(
        script.sent().ends_with(&[0, 7, 3, 0x23, 0, 3]),
        "the alias was still free"
    );
}

#[test]
fn acknowledgements_settle_by_packet_id() {
    let mut script = Script::open(Version::V5);
    for (n, ack) in [&[0x40, 2, 0, 1][..], &[0x40, 3, 0, 2, 0x97], &[0x40, 4, 0, 3, 0x10, 0]]
        .iter()
        .enumerate()
    {
        deliver(&mut script, delivery(n as u64 + 1, 1, plain("a", b"")));
        script.feed(ack);
        assert_eq!(script.settled(), Some(n as u64 + 1));
    }
}

#[test]
fn the_qos_2_handshake_goes_through_the_engine() {
    for version in [Version::V311, Version::V5] {
        let mut script = Script::open(version);
        deliver(&mut script, delivery(300, 2, plain("a", b"")));
        script.sent();
        script.feed(&[0x50, 2, 1, 44]);
        assert!(matches!(script.command(), Some(Command::Received { packet_id: 300 })));
        assert_eq!(script.sent(), []);
        script.event(Event::ReleaseDue {
            packet_id: 300,
            known: true,
        });
        assert_eq!(script.sent(), [0x62, 2, 1, 44]);
        script.feed(&[0x70, 2, 1, 44]);
        assert_eq!(script.settled(), Some(300));
        // The id is free: a QoS 1 message may use it.
        deliver(&mut script, delivery(300, 1, plain("a", b"")));
        script.feed(&[0x40, 2, 1, 44]);
        assert_eq!(script.settled(), Some(300));
    }
}

#[test]
fn a_refused_qos_2_delivery_ends_without_pubrel() {
    let mut script = Script::open(Version::V5);
    deliver(&mut script, delivery(3, 2, plain("a", b"")));
    script.sent();
    script.feed(&[0x50, 3, 0, 3, 0x80]);
    assert_eq!((script.settled(), script.sent()), (Some(3), vec![]));
    // The second time the id is unknown.
    script.feed(&[0x50, 3, 0, 3, 0x80]);
    assert!(matches!(script.command(), Some(Command::Stray { packet_id: 3 })));
    assert_eq!(script.sent(), []);
}

#[test]
fn a_pubrec_for_an_unknown_id_is_answered_in_pubrel() {
    for (version, answer) in [
        (Version::V311, vec![0x62, 2, 0, 3]),
        (Version::V5, vec![0x62, 3, 0, 3, 0x92]),
    ] {
        let mut script = Script::open(version);
        script.feed(&[0x50, 2, 0, 3]);
        assert!(matches!(script.command(), Some(Command::Received { packet_id: 3 })));
        script.event(Event::ReleaseDue {
            packet_id: 3,
            known: false,
        });
        assert_eq!(script.sent(), answer);
        script.feed(&[0x70, 2, 0, 3]);
        assert!(matches!(script.command(), Some(Command::Stray { packet_id: 3 })));
        assert!(script.command().is_none() && script.closed().is_none());
    }
}

#[test]
fn a_resumed_release_is_completed() {
    let mut script = Script::open(Version::V311);
    script.event(Event::ReleaseDue {
        packet_id: 9,
        known: true,
    });
    assert_eq!(script.sent(), [0x62, 2, 0, 9]);
    script.feed(&[0x70, 2, 0, 9]);
    assert_eq!(script.settled(), Some(9));
}

#[test]
fn acknowledgements_of_the_wrong_type_are_protocol_errors() {
    for wrong in [&[0x40, 2, 0, 3][..], &[0x70, 2, 0, 3]] {
        let mut script = Script::open(Version::V5);
        deliver(&mut script, delivery(3, 2, plain("a", b"")));
        script.sent();
        script.feed(wrong);
        script.assert_disconnected(0x82);
    }
}

#[test]
fn acknowledgements_of_qos_2_for_a_message_of_qos_1_are_protocol_errors() {
    // The bug: they were ignored, or answered with PUBREL, and the message stayed in flight for ever.
    for version in [Version::V311, Version::V5] {
        for (wrong, received) in [
            (&[0x50, 2, 0, 3][..], true),
            (&[0x50, 3, 0, 3, 0x80], false),
            (&[0x70, 2, 0, 3], false),
        ] {
            if version != Version::V5 && wrong.len() > 4 {
                continue;
            }
            let mut script = Script::open(version);
            deliver(&mut script, delivery(3, 1, plain("a", b"")));
            script.sent();
            script.feed(wrong);
            match script.command() {
                Some(Command::Received { packet_id: 3 }) => assert!(received),
                Some(Command::Stray { packet_id: 3 }) => assert!(!received),
                other => panic!("{other:?}"),
            }
            script.event(Event::Failed {
                channel: 0,
                op: Op::Settle,
                fault: Box::new(Fault::new(FaultKind::NotAllowed, "the delivery is of QoS 1")),
            });
            if version == Version::V5 {
                script.assert_disconnected(0x82);
            } else {
                script.assert_closed_silently();
            }
        }
    }
}

#[test]
fn everything_else_flows_while_nothing_is_acknowledged() {
    let mut script = Script::open(Version::V5);
    for n in 1..=100 {
        deliver(&mut script, delivery(n, 1, plain("a", b"")));
    }
    script.sent();
    script.feed(&[0xC0, 0]);
    assert_eq!(script.sent(), [0xD0, 0]);
    script.event(Event::Subscribed {
        packet_id: 5,
        results: Box::new([Ok(0)]),
    });
    assert_eq!(script.sent(), [0x90, 4, 0, 5, 0, 0]);
}

/// Another protocol's codec, whose properties are one header.
struct Foreign;

impl PropertyCodec for Foreign {
    fn origin(&self) -> Origin {
        Origin(99)
    }
    fn decode(&self, raw: &[u8]) -> Neutral {
        let mut properties = Neutral {
            content_type: Some(Name::from("text/plain")),
            ..Neutral::default()
        };
        properties.headers.push("sev", Value::Int(raw[0].into(), 32));
        properties
    }
}

#[test]
fn topics_and_properties_of_other_protocols_are_translated() {
    let envelope = Envelope {
        origin: Origin(99),
        durable: true,
        qos: 1,
        ..Envelope::default()
    };
    let message = || Message::new(envelope, "amq.topic", "alarm", &[3], b"x");
    let mut script = Script::open(Version::V5);
    script.codecs = Codecs::new(vec![Arc::new(Foreign)]);
    deliver(&mut script, delivery(1, 1, message()));
    script.one(|packet| {
        let Packet::Publish(packet) = packet else { panic!() };
        assert_eq!((packet.topic, packet.qos, packet.payload), ("alarm", 1, &b"x"[..]));
        let sent: Vec<_> = packet.properties.iter().collect();
        assert_eq!(sent, [Property::ContentType("text/plain"), Property::User("sev", "3")]);
    });
    let mut script = Script::open(Version::V311);
    deliver(&mut script, delivery(1, 1, message()));
    assert_eq!(script.sent(), b"\x32\x0a\0\x05alarm\0\x01x");
}

#[test]
fn properties_that_cannot_be_expressed_are_counted_by_field_and_origin() {
    let mut script = Script::open(Version::V311);
    let own = properties(&[Property::ContentType("text/plain")]);
    let raw = own.as_properties().raw();
    deliver(&mut script, delivery(1, 1, message("a", 1, ORIGIN, raw, b"")));
    deliver(&mut script, delivery(2, 1, message("a", 1, ORIGIN, b"", b"")));
    deliver(&mut script, delivery(3, 1, plain("a", b"")));
    let foreign = Envelope {
        origin: Origin(7),
        ..Envelope::default()
    };
    deliver(
        &mut script,
        delivery(4, 1, Message::new(foreign, "amq.topic", "", b"", b"")),
    );
    let drops = script.protocol.drops().expect("MQTT counts");
    let counted: Vec<_> = drops.all().collect();
    assert_eq!(
        counted,
        [(ORIGIN, Field::Properties, 1), (Origin(7), Field::Topic, 1)],
        "neither a message without properties nor one of MQTT 3 loses any"
    );
}

#[test]
fn a_key_that_is_no_topic_name_is_escaped_or_dropped_and_settled() {
    let dotted = |key: &str| {
        Message::new(
            Envelope {
                qos: 1,
                ..Envelope::default()
            },
            "amq.topic",
            key,
            b"",
            b"",
        )
    };
    let mut script = Script::open(Version::V311);
    for (key, topic) in [
        ("a.b", "a/b"),
        ("x/y.z", "x%2Fy/z"),
        ("a+b.#c", "a%2Bb/%23c"),
        ("v1%2E5.s", "v1.5/s"),
    ] {
        deliver(&mut script, delivery(1, 1, dotted(key)));
        script.one(|packet| {
            let Packet::Publish(packet) = packet else { panic!() };
            assert_eq!(packet.topic, topic);
        });
    }
    for key in ["", "a\0b", "a\u{7}"] {
        deliver(&mut script, delivery(2, 1, dotted(key)));
        assert_eq!((script.sent(), script.settled()), (vec![], Some(2)), "{key:?}");
    }
    assert_eq!(
        script.protocol.dropped(),
        Dropped {
            oversize: 0,
            untranslatable: 3
        }
    );
}
