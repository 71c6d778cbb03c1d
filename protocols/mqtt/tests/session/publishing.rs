//! Messages from the client.

use crate::script::{Script, connect, properties};
use gatepost_core::command::{Command, PublishFlags};
use gatepost_core::engine::Limit;
use gatepost_core::event::{Event, Op};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::message::{Dialect, route_hash};
use gatepost_core::properties::Origin;
use gatepost_core::session::Protocol as _;
use gatepost_core::session::ReadInterest;
use gatepost_mqtt::frame::{Packet, Property, Publish, Version};
use gatepost_mqtt::{ORIGIN, Settings};
use std::time::Duration;

fn publish(topic: &str, qos: u8, packet_id: u16) -> Publish<'_> {
    Publish {
        topic,
        qos,
        packet_id,
        payload: b"x",
        ..Publish::default()
    }
}

fn send(script: &mut Script, publish: Publish<'_>) {
    script.packet(&Packet::Publish(publish));
}

fn confirmed(upto: u64) -> Event {
    Event::Confirmed { channel: 0, upto }
}

fn unrouted(number: u64) -> Event {
    Event::Unrouted { channel: 0, number }
}

fn refused(number: u64, why: FaultKind) -> Event {
    Event::Refused {
        channel: 0,
        number,
        why,
    }
}

#[test]
fn qos_0_is_published_without_a_confirm() {
    let mut script = Script::open(Version::V311);
    send(
        &mut script,
        Publish {
            retain: true,
            ..publish("a/b", 0, 0)
        },
    );
    let (message, packet_id, confirm) = script.published();
    assert_eq!(
        (message.exchange(), message.key(), message.body()),
        ("amq.topic", "a/b", &b"x"[..])
    );
    assert_eq!((packet_id, confirm), (0, false));
    let envelope = message.envelope();
    assert_eq!((envelope.dialect, envelope.origin), (Dialect::Slash, Origin::NONE));
    assert!(!envelope.durable && envelope.retain && envelope.qos == 0);
    assert_eq!(envelope.received, script.now.wall);
    assert_eq!(script.sent(), []);
}

#[test]
fn acknowledgements_leave_in_the_order_the_messages_came() {
    let mut script = Script::open(Version::V311);
    send(&mut script, publish("a", 1, 10));
    send(&mut script, publish("a", 2, 11));
    send(&mut script, publish("a", 1, 12));
    for (id, durable) in [(0, true), (11, true), (0, true)] {
        let (message, packet_id, confirm) = script.published();
        assert_eq!((packet_id, confirm, message.envelope().durable), (id, true, durable));
    }
    script.event(confirmed(2));
    assert_eq!(script.sent(), [0x40, 2, 0, 10, 0x50, 2, 0, 11]);
    script.event(confirmed(2));
    assert_eq!(script.sent(), []);
    script.event(confirmed(3));
    assert_eq!(script.sent(), [0x40, 2, 0, 12]);
}

#[test]
fn qos_2_is_released_by_the_engine() {
    for (version, unknown) in [
        (Version::V311, vec![0x70, 2, 0, 8]),
        (Version::V5, vec![0x70, 3, 0, 8, 0x92]),
    ] {
        let mut script = Script::open(version);
        script.feed(&[0x62, 2, 0, 7]);
        assert!(matches!(script.command(), Some(Command::Release { packet_id: 7 })));
        assert_eq!(script.sent(), []);
        script.event(Event::Released {
            packet_id: 7,
            known: true,
        });
        assert_eq!(script.sent(), [0x70, 2, 0, 7]);
        script.event(Event::Released {
            packet_id: 8,
            known: false,
        });
        assert_eq!(script.sent(), unknown);
    }
}

#[test]
fn only_mqtt_5_reports_a_refusal() {
    for (version, patient) in [(Version::V31, true), (Version::V311, true), (Version::V5, false)] {
        let mut script = Script::open(version);
        for qos in [1, 2] {
            send(&mut script, publish("a", qos, 7));
            let Some(Command::Publish { flags, .. }) = script.command() else {
                panic!("a publish")
            };
            assert!(flags.contains(PublishFlags::CONFIRM));
            assert_eq!(flags.contains(PublishFlags::PATIENT), patient, "{version:?}");
            let tells = flags.contains(PublishFlags::TELL_UNROUTED);
            assert_eq!(tells, !patient, "{version:?}");
        }
    }
}

#[test]
fn a_refusal_keeps_its_place_and_says_why_in_mqtt_5() {
    for (why, code) in [
        (FaultKind::AccessRefused, 0x87),
        (FaultKind::QuotaExceeded, 0x97),
        (FaultKind::NotAllowed, 0x83),
        // A full disk: MQTT 5 4.13.2 and 3.4.2.1, "an implementation or administrative imposed limit".
        (FaultKind::ResourceError, 0x97),
        (FaultKind::Internal, 0x80),
    ] {
        let mut script = Script::open(Version::V5);
        for (qos, id) in [(1, 1), (1, 2), (2, 3)] {
            send(&mut script, publish("a", qos, id));
        }
        script.events(vec![refused(2, why), refused(3, why)]);
        assert_eq!(script.sent(), []);
        script.event(confirmed(3));
        assert_eq!(script.sent(), [0x40, 2, 0, 1, 0x40, 3, 0, 2, code, 0x50, 3, 0, 3, code]);
    }
}

/// MQTT 5 3.4.2.1 and 3.5.2.1: 0x10, "No matching subscribers". It is no error, so a QoS 2 message is released as always.
#[test]
fn a_message_without_subscribers_is_accepted_with_a_reason_of_its_own() {
    let mut script = Script::open(Version::V5);
    for (topic, qos, id) in [("a", 1, 1), ("b", 1, 2), ("$share/g/a", 1, 3), ("c", 2, 4)] {
        send(&mut script, publish(topic, qos, id));
    }
    // The third was refused without the engine, and waits for the second.
    script.events(vec![unrouted(2), unrouted(3), confirmed(2)]);
    assert_eq!(script.sent(), [0x40, 2, 0, 1, 0x40, 3, 0, 2, 0x10, 0x40, 3, 0, 3, 0x87]);
    script.event(confirmed(3));
    assert_eq!(script.sent(), [0x50, 3, 0, 4, 0x10]);
    script.feed(&[0x62, 2, 0, 4]);
    let mut commands = std::iter::from_fn(|| script.command());
    assert!(commands.any(|c| matches!(c, Command::Release { packet_id: 4 })));
    script.event(Event::Released {
        packet_id: 4,
        known: true,
    });
    assert_eq!(script.sent(), [0x70, 2, 0, 4]);
}

/// MQTT 5 3.4.2.1 and 3.5.2.1.
#[test]
fn a_refusal_does_not_say_that_rights_are_missing_if_the_operator_does_not_want_it() {
    let settings = Settings {
        reveal_denied: false,
        ..Settings::default()
    };
    let mut script = Script::open_with(&connect(Version::V5), settings);
    for (topic, qos, id) in [("a", 1, 1), ("a", 2, 2), ("$share/g/a", 1, 3), ("a", 1, 4)] {
        send(&mut script, publish(topic, qos, id));
    }
    script.events(vec![
        refused(1, FaultKind::AccessRefused),
        refused(2, FaultKind::AccessRefused),
        refused(3, FaultKind::QuotaExceeded),
        confirmed(3),
    ]);
    let answers = [
        [0x40, 3, 0, 1, 0x80],
        [0x50, 3, 0, 2, 0x80],
        [0x40, 3, 0, 3, 0x80],
        [0x40, 3, 0, 4, 0x97],
    ];
    assert_eq!(script.sent(), answers.concat());
}

#[test]
fn a_refused_message_closes_an_mqtt_3_connection_and_is_not_acknowledged() {
    // The bug: a publish that a full queue refused (`reject-publish`) was answered with PUBACK.
    for version in [Version::V31, Version::V311] {
        for why in [
            FaultKind::QuotaExceeded,
            FaultKind::AccessRefused,
            FaultKind::NotFound,
            FaultKind::ResourceError,
            FaultKind::Internal,
        ] {
            for qos in [1, 2] {
                let mut script = Script::open(version);
                send(&mut script, publish("a", qos, 1));
                script.published();
                script.events(vec![refused(1, why), confirmed(1)]);
                script.assert_closed_silently();
            }
        }
    }
}

#[test]
fn a_refused_qos_0_message_is_dropped() {
    let mut script = Script::open(Version::V5);
    send(&mut script, publish("a", 0, 0));
    let fault = Box::new(Fault::new(FaultKind::AccessRefused, "no"));
    script.event(Event::Failed {
        channel: 0,
        op: Op::Publish,
        fault,
    });
    assert_eq!((script.sent(), script.closed().is_some()), (vec![], false));
}

#[test]
fn refusals_of_reserved_topics_keep_the_order_of_acknowledgements() {
    for topic in ["$share/g/a", "$share"] {
        let mut script = Script::open(Version::V5);
        send(&mut script, publish(topic, 0, 0));
        send(&mut script, publish(topic, 1, 1));
        assert_eq!(script.sent(), [0x40, 3, 0, 1, 0x87], "nothing is before it");
        send(&mut script, publish("a", 1, 2));
        send(&mut script, publish(topic, 2, 3));
        assert_eq!(script.published().0.key(), "a");
        assert_eq!(script.sent(), []);
        script.event(confirmed(1));
        assert_eq!(script.sent(), [0x40, 2, 0, 2, 0x50, 3, 0, 3, 0x87]);
        assert!(script.command().is_none() && script.closed().is_none());
    }
    let mut script = Script::open(Version::V311);
    send(&mut script, publish("$share/g/a", 0, 0));
    assert!(script.command().is_none() && script.closed().is_none());
    send(&mut script, publish("$share/g/a", 1, 1));
    script.assert_closed_silently();
}

#[test]
fn messages_to_the_brokers_own_topics_are_dropped() {
    // The bug in MQTT 3: they were refused, which ended the connection of Mosquitto's bridges. In MQTT 5: a PUBACK said yes to
    // a message that was dropped. Mosquitto's test 03-publish-dollar-v5 found it.
    for version in [Version::V31, Version::V311, Version::V5] {
        for topic in [
            "$SYS",
            "$SYS/x",
            "$SYS/broker/connection/state",
            "$SYS/broker/connection/b",
            "$SYS/broker/connection//state",
        ] {
            let mut script = Script::open(version);
            send(&mut script, publish("a", 1, 1));
            assert_eq!(script.published().0.key(), "a");
            send(&mut script, publish(topic, 0, 0));
            send(&mut script, publish(topic, 1, 2));
            send(&mut script, publish(topic, 2, 3));
            assert_eq!(script.sent(), [], "in its turn");
            script.event(confirmed(1));
            if version == Version::V5 {
                assert_eq!(script.sent(), [0x40, 2, 0, 1, 0x40, 3, 0, 2, 0x87, 0x50, 3, 0, 3, 0x87]);
            } else {
                assert_eq!(script.sent(), [0x40, 2, 0, 1, 0x40, 2, 0, 2, 0x50, 2, 0, 3]);
            }
            assert!(script.command().is_none() && script.closed().is_none());
            // The engine does not know the id, which is no fault in MQTT 3.
            script.feed(&[0x62, 2, 0, 3]);
            assert!(matches!(script.command(), Some(Command::Release { packet_id: 3 })));
        }
    }
}

#[test]
fn a_bridges_state_and_other_topics_with_a_dollar_are_published() {
    let mut script = Script::open(Version::V311);
    for topic in [
        "$SYS/broker/connection/host.bridge/state",
        "$SYSTEM",
        "$SYSx/broker",
        "$other/x",
        "a/$SYS",
    ] {
        send(&mut script, publish(topic, 0, 0));
        assert_eq!(script.published().0.key(), topic);
    }
}

#[test]
fn a_topic_of_too_many_levels_is_refused() {
    let mut script = Script::open(Version::V5);
    send(&mut script, publish(&"/".repeat(199), 1, 1));
    script.published();
    script.event(confirmed(1));
    assert_eq!(script.sent(), [0x40, 2, 0, 1]);
    send(&mut script, publish(&"/".repeat(200), 1, 2));
    assert_eq!(script.sent(), [0x40, 3, 0, 2, 0x90]);
    send(&mut script, publish(&"/".repeat(200), 2, 3));
    assert_eq!(script.sent(), [0x50, 3, 0, 3, 0x90]);
    assert!(script.command().is_none());
    send(&mut script, publish(&"/".repeat(200), 0, 0));
    script.assert_disconnected(0x90);
    // The bug: it was acknowledged and dropped.
    for qos in 0..=2 {
        let mut script = Script::open(Version::V311);
        send(&mut script, publish(&"/".repeat(200), qos, u16::from(qos)));
        script.assert_closed_silently();
    }
    let settings = Settings {
        topic_levels_max: 3,
        ..Settings::default()
    };
    let mut script = Script::open_with(&connect(Version::V5), settings);
    send(&mut script, publish("a/b/c", 0, 0));
    script.published();
    send(&mut script, publish("a/b/c/d", 1, 1));
    assert_eq!(script.sent(), [0x40, 3, 0, 1, 0x90]);
    let refusals = |limit| script.protocol.limit_refusals(limit);
    assert_eq!((refusals(Limit::TopicLevels), refusals(Limit::SessionFilters)), (1, 0));
}

#[test]
fn the_limit_of_a_message_is_of_its_payload() {
    let settings = || Settings {
        max_message_size: 1000,
        ..Settings::default()
    };
    let text = "t".repeat(65_535);
    let list = properties(&[Property::CorrelationData(&[7; 60_000])]);
    for version in [Version::V311, Version::V5] {
        let with = |payload| Publish {
            payload,
            properties: match version {
                Version::V5 => list.as_properties(),
                _ => Default::default(),
            },
            ..publish(&text, 1, 1)
        };
        let mut script = Script::open_with(&connect(version), settings());
        send(&mut script, with(&[0; 1000]));
        assert_eq!(script.published().0.body().len(), 1000);
        send(&mut script, with(&[0; 1001]));
        if version == Version::V5 {
            script.assert_disconnected(0x95);
        } else {
            script.assert_closed_silently();
        }
    }
}

#[test]
fn properties_are_stored_without_those_of_the_hop() {
    let list = [
        Property::User("k", "1"),
        Property::MessageExpiry(30),
        Property::PayloadFormat(true),
        Property::TopicAlias(1),
        Property::User("k", "1"),
        Property::CorrelationData(&[0, 255]),
    ];
    let kept = [list[0], list[2], list[4], list[5]];
    let (sent, kept) = (properties(&list), properties(&kept));
    let mut script = Script::open(Version::V5);
    send(
        &mut script,
        Publish {
            properties: sent.as_properties(),
            ..publish("a", 0, 0)
        },
    );
    let (message, ..) = script.published();
    assert_eq!(
        (message.envelope().origin, message.properties_raw()),
        (ORIGIN, kept.as_properties().raw())
    );
    assert_eq!(
        message.envelope().deadline,
        Some(script.now.wall + Duration::from_secs(30))
    );
    // With nothing to leave out, the properties are stored unchanged; with nothing left, none are stored.
    send(
        &mut script,
        Publish {
            properties: kept.as_properties(),
            ..publish("a", 0, 0)
        },
    );
    assert_eq!(script.published().0.properties_raw(), kept.as_properties().raw());
    let hop = properties(&[Property::TopicAlias(1)]);
    send(
        &mut script,
        Publish {
            properties: hop.as_properties(),
            ..publish("a", 0, 0)
        },
    );
    assert_eq!(script.published().0.envelope().origin, Origin::NONE);
}

#[test]
fn aliases_stand_for_the_last_topic_sent_with_them() {
    let mut script = Script::open(Version::V5);
    let mut send_with = |topic, alias| {
        let properties = properties(&[Property::TopicAlias(alias)]);
        send(
            &mut script,
            Publish {
                properties: properties.as_properties(),
                ..publish(topic, 0, 0)
            },
        );
        script.command().map(|command| match command {
            Command::Publish { message, .. } => message.key().to_owned(),
            other => panic!("{other:?}"),
        })
    };
    for (topic, alias, key) in [
        ("a", 1, "a"),
        ("b", 16, "b"),
        ("", 1, "a"),
        ("", 16, "b"),
        ("c", 1, "c"),
        ("", 1, "c"),
        ("", 16, "b"),
    ] {
        assert_eq!(send_with(topic, alias).as_deref(), Some(key));
    }
    // A topic may have 64 KiB, and is kept for as long as the connection lasts.
    let topic = "t".repeat(60_000);
    send_with(&topic, 2);
    let kept = script.session.kept();
    assert!((60_000..61_000).contains(&kept), "{kept}");
}

#[test]
fn aliases_out_of_range_or_without_a_topic_end_the_connection() {
    for (topic, alias, maximum, code) in [
        ("a", 0, 16, 0x94),
        ("a", 17, 16, 0x94),
        ("a", 1, 0, 0x94),
        ("", 1, 16, 0x82),
        ("", 17, 16, 0x94),
    ] {
        let settings = Settings {
            topic_alias_maximum: maximum,
            ..Settings::default()
        };
        let mut script = Script::open_with(&connect(Version::V5), settings);
        let properties = properties(&[Property::TopicAlias(alias)]);
        send(
            &mut script,
            Publish {
                properties: properties.as_properties(),
                ..publish(topic, 0, 0)
            },
        );
        script.assert_disconnected(code);
    }
    let mut script = Script::open(Version::V5);
    script.feed(b"\x30\x03\0\0\0");
    script.assert_disconnected(0x82);
}

#[test]
fn an_mqtt_5_client_over_the_receive_maximum_is_disconnected() {
    let settings = || Settings {
        receive_maximum: 3,
        ..Settings::default()
    };
    let mut script = Script::open_with(&connect(Version::V5), settings());
    for (qos, id) in [(2, 1), (1, 2), (2, 3)] {
        send(&mut script, publish("a", qos, id));
        script.published();
    }
    // The same QoS 2 message again does not count twice.
    script.event(confirmed(2));
    send(
        &mut script,
        Publish {
            dup: true,
            ..publish("a", 2, 1)
        },
    );
    script.published();
    // PUBREC does not free a place, PUBACK (of 2) did.
    script.event(confirmed(4));
    send(&mut script, publish("a", 1, 4));
    script.published();
    script.event(confirmed(5));
    // PUBCOMP frees a place.
    script.event(Event::Released {
        packet_id: 1,
        known: true,
    });
    send(&mut script, publish("a", 2, 5));
    script.published();
    script.sent();
    send(&mut script, publish("a", 0, 0));
    script.published();
    send(&mut script, publish("a", 2, 6));
    script.published();
    send(&mut script, publish("a", 1, 7));
    script.assert_disconnected(0x93);

    let mut script = Script::open_with(&connect(Version::V5), settings());
    for _ in 0..3 {
        send(&mut script, publish("a", 2, 1));
        script.published();
    }
    send(&mut script, publish("a", 2, 1));
    script.assert_disconnected(0x93);
}

#[test]
fn a_refused_qos_2_message_makes_room_at_its_pubrec() {
    let settings = Settings {
        receive_maximum: 1,
        ..Settings::default()
    };
    let mut script = Script::open_with(&connect(Version::V5), settings);
    for n in 1..5 {
        send(&mut script, publish("a", 2, 9));
        script.published();
        script.events(vec![refused(n, FaultKind::AccessRefused), confirmed(n)]);
        assert_eq!(script.sent(), [0x50, 3, 0, 9, 0x87]);
    }
}

#[test]
fn an_mqtt_3_client_over_the_receive_maximum_is_not_read_until_it_is_below() {
    let strict = Settings {
        receive_maximum: 2,
        ..Settings::default()
    };
    let lenient = Settings {
        enforce_receive_maximum: false,
        ..strict.clone()
    };
    for (version, settings) in [(Version::V311, strict), (Version::V5, lenient)] {
        let mut script = Script::open_with(&connect(version), settings);
        for id in 1..=3 {
            send(&mut script, publish("a", 1 + id as u8 % 2, id));
        }
        assert_eq!(script.session.read_interest(), ReadInterest::Nothing);
        script.published();
        script.published();
        assert!(script.command().is_none(), "the third waits");
        script.event(confirmed(1));
        script.published();
        assert_eq!(script.session.read_interest(), ReadInterest::Nothing);
        script.event(confirmed(3));
        assert_eq!(script.session.read_interest(), ReadInterest::All);
        assert_eq!(script.sent(), [0x50, 2, 0, 1, 0x40, 2, 0, 2, 0x50, 2, 0, 3]);
    }
}

#[test]
fn features_that_are_not_available_are_refused() {
    let settings = || Settings {
        maximum_qos: 1,
        retain_available: false,
        ..Settings::default()
    };
    let mut script = Script::open_with(&connect(Version::V5), settings());
    send(&mut script, publish("a", 2, 1));
    script.assert_disconnected(0x9B);
    let mut script = Script::open_with(&connect(Version::V5), settings());
    send(
        &mut script,
        Publish {
            retain: true,
            ..publish("a", 0, 0)
        },
    );
    script.assert_disconnected(0x9A);
}

#[test]
fn a_packet_over_the_maximum_is_refused_on_its_header() {
    let settings = || Settings {
        max_message_size: 1000,
        ..Settings::default()
    };
    let most = 1000 + (128 << 10);
    let mut script = Script::open_with(&connect(Version::V5), settings());
    // Four bytes of header.
    let remaining = most - 4;
    let header = |remaining: usize| {
        [
            0x30,
            remaining as u8 & 0x7F | 0x80,
            (remaining >> 7) as u8 & 0x7F | 0x80,
            (remaining >> 14) as u8,
        ]
    };
    script.feed(&header(remaining));
    assert!(script.closed().is_none());
    let mut script = Script::open_with(&connect(Version::V5), settings());
    script.feed(&header(remaining + 1));
    script.assert_disconnected(0x95);
    let mut script = Script::open_with(&connect(Version::V311), settings());
    script.feed(&header(remaining + 1));
    script.assert_closed_silently();
}

#[test]
fn packets_may_come_in_any_pieces() {
    let mut bytes = Vec::new();
    for id in 1..=20 {
        let payload = vec![id as u8; usize::from(id) * 20];
        publish("topic", 1, id).encode(Version::V5, &mut bytes).unwrap();
        Publish {
            payload: &payload,
            ..publish("t", 0, 0)
        }
        .encode(Version::V5, &mut bytes)
        .unwrap();
    }
    for piece in [1, 2, 3, 7, 64, 1000, bytes.len()] {
        let mut script = Script::open(Version::V5);
        for chunk in bytes.chunks(piece) {
            script.feed(chunk);
        }
        for id in 1..=20usize {
            assert_eq!(script.published().0.key(), "topic");
            assert_eq!(script.published().0.body().len(), id * 20);
        }
        assert!(script.command().is_none());
    }
}

/// The last topic is remembered with its hash. Whatever comes between, each message is as if nothing were known.
#[test]
fn each_message_has_its_own_topic_whatever_topic_is_known() {
    let settings = Settings::default();
    let topics = ["a/b", "a/c", "a/bc", "$SYS/broker/connection/b/state", "a/\u{e4}"];
    let long = "l".repeat(300);
    for version in [Version::V311, Version::V5] {
        let mut script = Script::open(version);
        for n in 0..400 {
            // The same for a while, then in turn.
            let topic = match n % 100 {
                0..60 => topics[n / 100],
                99 => &*long,
                _ => topics[n % 5],
            };
            if n % 10 == 9 {
                send(&mut script, publish("$SYS/x", 0, 0));
            }
            send(&mut script, publish(topic, 0, 0));
            let (message, ..) = script.published();
            assert_eq!(
                (message.exchange(), message.key(), message.body()),
                (&*settings.exchange, topic, &b"x"[..])
            );
            let hash = route_hash(settings.exchange.as_bytes(), topic.as_bytes(), Dialect::Slash);
            assert_eq!(
                (message.route_hash(), message.envelope().dialect),
                (hash, Dialect::Slash)
            );
            assert!(script.command().is_none());
        }
        script.feed(b"\x30\x06\0\x03a/+x");
        assert!(script.closed().is_some(), "a topic with a wildcard");
    }
}
