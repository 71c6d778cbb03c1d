//! SUBSCRIBE, UNSUBSCRIBE and their answers.

use crate::script::{Script, connect, properties};
use gatepost_core::command::{Command, RetainHandling, Subscribe};
use gatepost_core::event::Event;
use gatepost_core::fault::FaultKind;
use gatepost_mqtt::Settings;
use gatepost_mqtt::frame::{self, Connect, Filter, Packet, Properties, Property, Version};

fn subscribe(script: &mut Script, filters: &[Filter<'_>]) -> Option<Subscribe> {
    let packet = frame::Subscribe {
        packet_id: 5,
        properties: Properties::EMPTY,
        filters: filters.to_vec(),
    };
    script.packet(&Packet::Subscribe(packet));
    match script.command() {
        Some(Command::Subscribe(subscribe)) => Some(*subscribe),
        None => None,
        other => panic!("{other:?}"),
    }
}

fn filter(text: &str) -> Filter<'_> {
    Filter {
        text,
        ..Filter::default()
    }
}

#[test]
fn options_and_identifier_reach_the_engine() {
    let mut script = Script::open(Version::V5);
    let properties = properties(&[Property::SubscriptionId(77)]);
    let filters = vec![
        Filter {
            text: "a/+",
            qos: 2,
            no_local: true,
            retain_as_published: true,
            retain_handling: RetainHandling::IfNew,
        },
        Filter {
            text: "$share/g//b",
            qos: 1,
            retain_handling: RetainHandling::Never,
            ..Filter::default()
        },
    ];
    let packet = frame::Subscribe {
        packet_id: 9,
        properties: properties.as_properties(),
        filters,
    };
    script.packet(&Packet::Subscribe(packet));
    let Some(Command::Subscribe(asked)) = script.command() else {
        panic!()
    };
    assert_eq!((asked.packet_id, asked.subscription_id), (9, Some(77)));
    let [Ok(plain), Ok(shared)] = &asked.filters[..] else {
        panic!("{asked:?}")
    };
    assert_eq!((&*plain.filter, plain.share.as_deref(), plain.qos), ("a/+", None, 2));
    assert!(plain.no_local && plain.retain_as_published && plain.retain_handling == RetainHandling::IfNew);
    assert_eq!(
        (&*shared.filter, shared.share.as_deref(), shared.qos),
        ("/b", Some("g"), 1)
    );
    assert!(!shared.no_local && !shared.retain_as_published && shared.retain_handling == RetainHandling::Never);
}

#[test]
fn codes_come_in_the_order_of_the_filters() {
    let results = || -> Box<[Result<u8, FaultKind>]> {
        Box::new([
            Ok(0),
            Ok(1),
            Ok(2),
            Err(FaultKind::AccessRefused),
            Err(FaultKind::QuotaExceeded),
            Err(FaultKind::PreconditionFailed),
            Err(FaultKind::NotAllowed),
            Err(FaultKind::Internal),
        ])
    };
    for (version, answer) in [
        (
            Version::V5,
            vec![0x90, 11, 0, 5, 0, 0, 1, 2, 0x87, 0x97, 0x8F, 0x83, 0x80],
        ),
        (
            Version::V311,
            vec![0x90, 10, 0, 5, 0, 1, 2, 0x80, 0x80, 0x80, 0x80, 0x80],
        ),
    ] {
        let mut script = Script::open(version);
        script.event(Event::Subscribed {
            packet_id: 5,
            results: results(),
        });
        assert_eq!(script.sent(), answer);
    }
}

/// MQTT 5 3.9.3: 0x80 is for a server that "does not wish to reveal the reason". Paho's suites for MQTT 5 and 3.1.1
/// expect that code for a denied filter.
#[test]
fn missing_rights_are_not_revealed_if_the_operator_does_not_want_it() {
    for version in [Version::V5, Version::V311] {
        let settings = Settings {
            reveal_denied: false,
            ..Settings::default()
        };
        let mut script = Script::open_with(&connect(version), settings);
        script.event(Event::Subscribed {
            packet_id: 5,
            results: Box::new([Ok(1), Err(FaultKind::AccessRefused), Err(FaultKind::QuotaExceeded)]),
        });
        let answer = match version {
            Version::V5 => vec![0x90, 6, 0, 5, 0, 1, 0x80, 0x97],
            _ => vec![0x90, 5, 0, 5, 1, 0x80, 0x80],
        };
        assert_eq!(script.sent(), answer, "{version:?}");
    }
}

#[test]
fn a_refused_filter_ends_the_connection_of_mqtt_3_1_unless_it_is_not_authorized() {
    // The bug: it was granted, but no messages came. MQTT 3.1 demands that only for a missing authorization.
    let answer = |result| {
        let mut script = Script::open(Version::V31);
        script.event(Event::Subscribed {
            packet_id: 5,
            results: Box::new([Ok(1), result]),
        });
        script
    };
    assert_eq!(answer(Err(FaultKind::AccessRefused)).sent(), [0x90, 4, 0, 5, 1, 0]);
    for why in [
        FaultKind::PreconditionFailed,
        FaultKind::QuotaExceeded,
        FaultKind::Internal,
    ] {
        answer(Err(why)).assert_closed_silently();
    }
}

#[test]
fn filters_refused_by_the_session_keep_their_place() {
    let deep = "/".repeat(200);
    for version in [Version::V311, Version::V5] {
        let mut script = Script::open(version);
        let texts = [
            "a",
            "$share/g",
            "$share//a",
            "$share/+/a",
            "$share/g/",
            "$share",
            &deep,
            "$share/g/b",
        ];
        let asked = subscribe(&mut script, &texts.map(filter)).unwrap();
        let good: Vec<_> = asked.filters.iter().map(Result::is_ok).collect();
        assert_eq!(good, [true, false, false, false, false, false, false, true]);
        assert!(
            asked
                .filters
                .iter()
                .flat_map(|f| f.as_ref().err())
                .all(|e| *e == FaultKind::PreconditionFailed)
        );
    }
}

#[test]
fn broken_filters_end_the_connection() {
    for bad in ["a#", "a/#/b", "a+", "", "\u{1}"] {
        let mut script = Script::open(Version::V5);
        assert!(subscribe(&mut script, &[filter(bad)]).is_none());
        script.assert_disconnected(0x81);
    }
    let mut script = Script::open(Version::V311);
    assert!(subscribe(&mut script, &[filter("a#")]).is_none());
    script.assert_closed_silently();
}

#[test]
fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    let mut script = Script::open(Version::V5);
    assert!(
        subscribe(
            &mut script,
            &[Filter {
                no_local: true,
                ..filter("$share/g/a")
            }]
        )
        .is_none()
    );
    script.assert_disconnected(0x82);
}

#[test]
fn nothing_is_granted_above_the_maximum_qos() {
    let settings = Settings {
        maximum_qos: 1,
        ..Settings::default()
    };
    let mut script = Script::open_with(&connect(Version::V5), settings);
    let asked = subscribe(&mut script, &[Filter { qos: 2, ..filter("a") }, filter("b")]).unwrap();
    let granted: Vec<_> = asked.filters.iter().flatten().map(|s| s.qos).collect();
    assert_eq!(granted, [1, 0]);
}

#[test]
fn a_bridge_does_not_get_its_own_messages_and_sees_retain_flags() {
    let bridge = Connect {
        bridge: true,
        ..connect(Version::V311)
    };
    let mut script = Script::open_with(&bridge, Settings::default());
    let asked = subscribe(&mut script, &[filter("a"), filter("$share/g/a")]).unwrap();
    let flags: Vec<_> = asked
        .filters
        .iter()
        .flatten()
        .map(|s| (s.no_local, s.retain_as_published))
        .collect();
    assert_eq!(flags, [(true, true), (false, true)]);
}

#[test]
fn unsubscribing_names_filter_and_group_as_subscribed() {
    let mut script = Script::open(Version::V5);
    let filters = vec!["a/+", "$share/g/a", "$share/g"];
    script.packet(&Packet::Unsubscribe(frame::Unsubscribe {
        packet_id: 3,
        properties: Properties::EMPTY,
        filters,
    }));
    let Some(Command::Unsubscribe(asked)) = script.command() else {
        panic!()
    };
    let asked: Vec<_> = asked.filters.iter().map(|(f, s)| (&**f, s.as_deref())).collect();
    assert_eq!(asked, [("a/+", None), ("a", Some("g")), ("$share/g", None)]);
    script.event(Event::Unsubscribed {
        packet_id: 3,
        existed: Box::new([true, false, false]),
    });
    assert_eq!(script.sent(), [0xB0, 6, 0, 3, 0, 0, 0x11, 0x11]);
    let mut script = Script::open(Version::V311);
    script.event(Event::Unsubscribed {
        packet_id: 3,
        existed: Box::new([true, false]),
    });
    assert_eq!(script.sent(), [0xB0, 2, 0, 3]);
}

#[test]
fn an_answer_over_the_clients_packet_limit_ends_the_connection() {
    // The bug: the answer was left out, and the client waited for it.
    let properties = properties(&[Property::MaximumPacketSize(16)]);
    let connect = Connect {
        properties: properties.as_properties(),
        ..connect(Version::V5)
    };
    let subscribed = |count| Event::Subscribed {
        packet_id: 5,
        results: vec![Ok(0); count].into(),
    };
    let unsubscribed = |count| Event::Unsubscribed {
        packet_id: 5,
        existed: vec![true; count].into(),
    };
    for answer in [subscribed as fn(usize) -> Event, unsubscribed] {
        let mut script = Script::open_with(&connect, Settings::default());
        script.event(answer(11));
        assert_eq!(script.sent().len(), 16);
        script.event(answer(12));
        assert_eq!(script.sent(), [0xE0, 1, 0x95]);
        assert!(script.closed().is_some());
    }
}
