//! CONNECT, the login, CONNACK.

use crate::script::{Script, connect, properties};
use gatepost_core::command::{Command, Login};
use gatepost_core::event::{CloseReason, Event, LoginFailure, LoginRefused, Op};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::properties::Origin;
use gatepost_core::session::ReadInterest;
use gatepost_mqtt::codec::{Limits, decode};
use gatepost_mqtt::frame::{Connect, LastWill, Packet, Property, Sender, Version};
use gatepost_mqtt::{ORIGIN, Settings};
use std::time::Duration;

fn bytes(connect: &Connect<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    connect.encode(&mut out).unwrap();
    out
}

/// Sends a CONNECT that is refused at once, and returns the answer.
fn refused(settings: Settings, bytes: &[u8]) -> Vec<u8> {
    let mut script = Script::new(Version::V5, settings);
    script.feed(bytes);
    assert!(script.closed().is_some());
    assert!(script.command().is_none());
    script.sent()
}

fn code(answer: &[u8]) -> Option<u8> {
    answer.get(3).copied()
}

#[test]
fn a_first_packet_other_than_connect_is_not_answered() {
    for first in (2..=15u8).map(|kind| kind << 4).chain([0]) {
        assert_eq!(refused(Settings::default(), &[first]), [], "{first:02x}");
    }
    assert_eq!(
        refused(Settings::default(), b"\x10\x0d\0\x04MQTX\x04\x02\0\0\0\x01c"),
        []
    );
    // Too large, which its header shows, and not MQTT.
    let garbage = [0x10, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 1, 2, 3, 4, 5, 6, 7];
    assert_eq!(refused(Settings::default(), &garbage), []);
}

#[test]
fn an_unknown_version_is_answered_in_a_form_its_client_can_read() {
    assert_eq!(
        refused(Settings::default(), b"\x10\x0e\0\x04MQTT\x06\x02\0\0\0\0\x01c"),
        [0x20, 3, 0, 0x84, 0]
    );
    assert_eq!(
        refused(Settings::default(), b"\x10\x0d\0\x04MQTT\x03\x02\0\0\0\x01c"),
        [0x20, 2, 0, 1]
    );
    assert_eq!(
        refused(Settings::default(), b"\x10\x0f\0\x06MQIsdp\x09\x02\0\0\0\x01c"),
        [0x20, 2, 0, 1]
    );
}

#[test]
fn a_malformed_connect_is_refused_in_mqtt_5_and_closed_in_mqtt_3() {
    // The reserved flag is set.
    assert_eq!(
        refused(Settings::default(), b"\x10\x0e\0\x04MQTT\x05\x03\0\0\0\0\x01c"),
        [0x20, 3, 0, 0x81, 0]
    );
    assert_eq!(
        refused(Settings::default(), b"\x10\x0d\0\x04MQTT\x04\x03\0\0\0\x01c"),
        []
    );
    // A receive maximum of 0.
    let answer = refused(
        Settings::default(),
        b"\x10\x11\0\x04MQTT\x05\x02\0\0\x03\x21\0\0\0\x01c",
    );
    assert_eq!(answer, [0x20, 3, 0, 0x82, 0]);
    // A control character in the client id.
    assert_eq!(
        code(&refused(
            Settings::default(),
            b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x01\x01"
        )),
        Some(0x85)
    );
    assert_eq!(
        refused(Settings::default(), b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01\x01"),
        [0x20, 2, 0, 2]
    );
}

#[test]
fn nothing_is_read_during_the_steps_of_the_login() {
    let mut script = Script::new(Version::V5, Settings::default());
    let mut early = bytes(&connect(Version::V5));
    early.extend_from_slice(&[0xC0, 0]);
    for byte in early {
        script.feed(&[byte]);
    }
    assert!(matches!(script.command(), Some(Command::Authenticate(_))));
    assert_eq!(script.session.read_interest(), ReadInterest::Nothing);
    script.event(Event::authenticated("u"));
    let Some(Command::Attach(attach)) = script.command() else {
        panic!()
    };
    assert_eq!(
        (&*attach.vhost, attach.protocol, attach.client_name.as_deref()),
        ("/", "MQTT 5.0", Some("c"))
    );
    script.event(Event::Attached);
    assert!(matches!(script.command(), Some(Command::OpenSession(_))));
    assert_eq!(
        (script.session.read_interest(), script.sent()),
        (ReadInterest::Nothing, vec![])
    );
    script.event(Event::SessionOpened { present: true });
    let sent = script.sent();
    let (packet, used) = decode(&sent, Version::V5, Sender::Server, &Limits::WIRE)
        .unwrap()
        .unwrap();
    let Packet::ConnAck(packet) = packet else { panic!() };
    assert!(packet.session_present && packet.reason.0 == 0);
    assert_eq!(
        packet.properties.iter().collect::<Vec<_>>(),
        [
            Property::ReceiveMaximum(1024),
            Property::MaximumPacketSize((16 << 20) + (128 << 10)),
            Property::TopicAliasMaximum(16)
        ]
    );
    assert_eq!(&sent[used..], [0xD0, 0], "the early PINGREQ is answered after CONNACK");
}

#[test]
fn connack_of_mqtt_3_has_two_bytes() {
    for (version, present, answer) in [
        (Version::V31, true, [0x20, 2, 0, 0]),
        (Version::V311, true, [0x20, 2, 1, 0]),
        (Version::V311, false, [0x20, 2, 0, 0]),
    ] {
        let mut script = Script::new(version, Settings::default());
        script.login(&Connect {
            clean_start: false,
            ..connect(version)
        });
        script.event(Event::SessionOpened { present });
        assert_eq!(script.sent(), answer);
    }
}

#[test]
fn packets_after_a_refused_connect_are_discarded() {
    let mut script = Script::new(Version::V5, Settings::default());
    script.feed(&[&bytes(&connect(Version::V5))[..], b"\x30\x04\0\x01t\0"].concat());
    script.command();
    script.event(Event::LoginRefused(Box::new(LoginRefused {
        user: "u".into(),
        why: LoginFailure::BadCredentials,
    })));
    assert_eq!(code(&script.sent()), Some(0x86));
    assert!(script.closed().is_some() && script.command().is_none());
}

#[test]
fn every_refusal_has_its_code_in_both_forms() {
    let login = |why| Event::LoginRefused(Box::new(LoginRefused { user: "u".into(), why }));
    let fault = |kind| Box::new(Fault::new(kind, "no"));
    let session = |kind| Event::Failed {
        channel: 0,
        op: Op::OpenSession,
        fault: fault(kind),
    };
    let cases: Vec<(usize, Event, u8, Option<u8>)> = vec![
        (0, login(LoginFailure::BadCredentials), 0x86, Some(4)),
        (0, login(LoginFailure::LoopbackOnly), 0x87, Some(5)),
        (0, login(LoginFailure::AnonymousRefused), 0x87, Some(5)),
        (0, Event::Closed(CloseReason::Shutdown), 0x88, Some(3)),
        (1, Event::AttachRefused(fault(FaultKind::NotFound)), 0x87, Some(5)),
        (1, Event::AttachRefused(fault(FaultKind::AccessRefused)), 0x87, Some(5)),
        (1, Event::AttachRefused(fault(FaultKind::QuotaExceeded)), 0x97, Some(3)),
        (2, session(FaultKind::AccessRefused), 0x87, Some(5)),
        (2, session(FaultKind::QuotaExceeded), 0x97, Some(3)),
        (2, session(FaultKind::ResourceError), 0x88, Some(3)),
        (2, session(FaultKind::Internal), 0x80, Some(3)),
        (2, session(FaultKind::PreconditionFailed), 0x83, None),
        (2, Event::Closed(CloseReason::TakenOver), 0x89, Some(3)),
    ];
    for (step, event, code5, code3) in cases {
        let text = format!("{event:?}");
        for version in [Version::V311, Version::V5] {
            let mut script = Script::new(version, Settings::default());
            script.feed(&bytes(&connect(version)));
            for answer in [Event::authenticated("u"), Event::Attached].into_iter().take(step) {
                script.event(answer);
            }
            // Events cannot be cloned.
            let event = match &event {
                Event::LoginRefused(refused) => Event::LoginRefused(refused.clone()),
                Event::AttachRefused(fault) => Event::AttachRefused(fault.clone()),
                Event::Failed { channel, op, fault } => Event::Failed {
                    channel: *channel,
                    op: *op,
                    fault: fault.clone(),
                },
                Event::Closed(why) => Event::Closed(*why),
                _ => unreachable!(),
            };
            script.event(event);
            assert!(script.closed().is_some(), "{text}");
            let sent = script.sent();
            if version == Version::V5 {
                assert_eq!((sent[0], sent[2], sent[3]), (0x20, 0, code5), "{text}");
            } else {
                assert_eq!(sent, code3.map_or(vec![], |code| vec![0x20, 2, 0, code]), "{text}");
            }
        }
    }
}

#[test]
fn a_refusal_says_why_only_where_the_client_has_room_for_it() {
    for (maximum, explained) in [(None, true), (Some(40), true), (Some(20), false), (Some(5), false)] {
        let list: Vec<_> = maximum.map(Property::MaximumPacketSize).into_iter().collect();
        let properties = properties(&list);
        let mut script = Script::new(Version::V5, Settings::default());
        script.feed(&bytes(&Connect {
            properties: properties.as_properties(),
            ..connect(Version::V5)
        }));
        script.command();
        let why = LoginFailure::BadCredentials;
        script.event(Event::LoginRefused(Box::new(LoginRefused { user: "u".into(), why })));
        assert_eq!(script.sent().len() > 5, explained, "{maximum:?}");
    }
}

#[test]
fn a_connack_that_does_not_fit_the_client_leaves_out_optional_properties() {
    let open = |maximum, client_id| {
        let properties = properties(&[Property::MaximumPacketSize(maximum)]);
        let connect = Connect {
            properties: properties.as_properties(),
            client_id,
            ..connect(Version::V5)
        };
        let mut script = Script::new(Version::V5, Settings::default());
        script.login(&connect);
        script.event(Event::SessionOpened { present: false });
        (script.sent(), script.closed().is_some())
    };
    assert_eq!(open(16, "c").0.len(), 16);
    let (sent, closed) = open(10, "c");
    assert_eq!((&sent[..], closed), (&[0x20, 6, 0, 0, 3, 0x21, 4, 0][..], false));
    // The assigned client id cannot be left out.
    assert_eq!(open(20, ""), (vec![0x20, 3, 0, 0x95, 0], true));
}

#[test]
fn an_empty_client_id_is_assigned_or_refused_by_version() {
    let empty = |version, clean_start| Connect {
        client_id: "",
        clean_start,
        ..connect(version)
    };
    assert_eq!(
        refused(Settings::default(), &bytes(&empty(Version::V31, true))),
        [0x20, 2, 0, 2]
    );
    assert_eq!(
        refused(Settings::default(), &bytes(&empty(Version::V311, false))),
        [0x20, 2, 0, 2]
    );
    let mut ids = Vec::new();
    for (version, clean_start) in [(Version::V311, true), (Version::V5, true), (Version::V5, false)] {
        let mut script = Script::new(version, Settings::default());
        let asked = script.login(&empty(version, clean_start));
        script.event(Event::SessionOpened { present: false });
        if version == Version::V5 {
            script.one(|packet| {
                let Packet::ConnAck(packet) = packet else { panic!() };
                assert!(
                    packet
                        .properties
                        .iter()
                        .any(|p| p == Property::AssignedClientId(&asked.open.client_id))
                );
            });
        }
        ids.push(asked.open.client_id);
    }
    assert!(ids.iter().all(|id| id.len() == 37));
}

#[test]
fn session_expiry_is_capped_and_the_cap_is_told() {
    let v5 = |asked: Option<u32>, most| {
        let list: Vec<_> = asked.map(Property::SessionExpiry).into_iter().collect();
        let properties = properties(&list);
        let settings = Settings {
            session_expiry_max: most,
            ..Settings::default()
        };
        let mut script = Script::new(Version::V5, settings);
        let asked = script.login(&Connect {
            properties: properties.as_properties(),
            ..connect(Version::V5)
        });
        script.event(Event::SessionOpened { present: false });
        let told = script.one(|packet| match packet {
            Packet::ConnAck(packet) => packet.properties.iter().find_map(|p| match p {
                Property::SessionExpiry(seconds) => Some(seconds),
                _ => None,
            }),
            _ => panic!(),
        });
        (asked.open.expiry, told)
    };
    assert_eq!(v5(None, Some(100)), (Some(0), None));
    assert_eq!(v5(Some(30), Some(100)), (Some(30), None));
    assert_eq!(v5(Some(300), Some(100)), (Some(100), Some(100)));
    assert_eq!(v5(Some(u32::MAX), Some(100)), (Some(100), Some(100)));
    assert_eq!(v5(Some(u32::MAX), None), (None, None));
    for (clean_start, expiry) in [(true, Some(0)), (false, Some(86_400))] {
        let mut script = Script::new(Version::V311, Settings::default());
        let asked = script.login(&Connect {
            clean_start,
            ..connect(Version::V311)
        });
        assert_eq!((asked.open.clean_start, asked.open.expiry), (clean_start, expiry));
    }
}

#[test]
fn the_window_is_the_smaller_of_the_two_limits() {
    for (version, theirs, window) in [
        (Version::V31, None, 64),
        (Version::V311, None, 64),
        (Version::V5, None, 1024),
        (Version::V5, Some(3), 3),
    ] {
        let list: Vec<_> = theirs.map(Property::ReceiveMaximum).into_iter().collect();
        let properties = properties(&list);
        let mut script = Script::new(version, Settings::default());
        let asked = script.login(&Connect {
            properties: properties.as_properties(),
            ..connect(version)
        });
        assert_eq!(asked.open.receive_maximum, window);
    }
}

#[test]
fn the_user_name_may_name_the_vhost() {
    let login = |user, password, settings| {
        let connect = Connect {
            user,
            password,
            ..connect(Version::V5)
        };
        let asked = Script::new(Version::V5, settings).login(&connect);
        let login = match asked.login {
            Login::Password { user, password, .. } => Some((user.to_string(), password.to_vec())),
            _ => None,
        };
        (asked.attach.vhost.to_string(), login)
    };
    let given = |user: &str, password: &[u8]| Some((user.to_owned(), password.to_vec()));
    let defaults = Settings::default;
    assert_eq!(login(None, None, defaults()), ("/".into(), None));
    // Clients whose settings were left empty send this.
    assert_eq!(login(Some(""), None, defaults()), ("/".into(), None));
    assert_eq!(login(Some(""), Some(b""), defaults()), ("/".into(), None));
    assert_eq!(login(Some("v:"), None, defaults()), ("v".into(), None));
    assert_eq!(login(Some("u"), None, defaults()), ("/".into(), given("u", b"")));
    assert_eq!(login(None, Some(b"p"), defaults()), ("/".into(), given("", b"p")));
    assert_eq!(
        login(Some("/a:b:u"), Some(b"p"), defaults()),
        ("/a:b".into(), given("u", b"p"))
    );
    let plain = Settings {
        vhost_in_username: false,
        ..defaults()
    };
    assert_eq!(login(Some("a:u"), None, plain), ("/".into(), given("a:u", b"")));
}

#[test]
fn the_will_reaches_the_engine_unchanged() {
    let list = [
        Property::WillDelay(5),
        Property::MessageExpiry(9),
        Property::User("k", "1"),
        Property::User("k", "2"),
        Property::User("k", "1"),
    ];
    let will_properties = properties(&list);
    let will = LastWill {
        topic: "w/t",
        payload: b"gone",
        qos: 1,
        retain: true,
        properties: will_properties.as_properties(),
    };
    let asked = Script::new(Version::V5, Settings::default()).login(&Connect {
        will: Some(will),
        ..connect(Version::V5)
    });
    let will = asked.open.will.unwrap();
    assert_eq!(
        (will.delay, will.expiry),
        (Duration::from_secs(5), Some(Duration::from_secs(9)))
    );
    let message = will.message;
    assert_eq!(
        (message.exchange(), message.key(), message.body()),
        ("amq.topic", "w/t", &b"gone"[..])
    );
    let envelope = message.envelope();
    assert!(envelope.durable && envelope.retain && envelope.qos == 1 && envelope.deadline.is_none());
    assert_eq!(
        (envelope.origin, message.properties_raw()),
        (ORIGIN, properties(&list[2..]).as_properties().raw())
    );

    let plain = LastWill {
        topic: "w",
        payload: b"",
        qos: 0,
        retain: false,
        properties: Default::default(),
    };
    let asked = Script::new(Version::V311, Settings::default()).login(&Connect {
        will: Some(plain),
        ..connect(Version::V311)
    });
    let will = asked.open.will.unwrap();
    assert_eq!(
        (will.message.envelope().origin, will.delay, will.expiry),
        (Origin::NONE, Duration::ZERO, None)
    );
}

#[test]
fn a_will_that_needs_an_unavailable_feature_is_refused() {
    let with = |topic, qos, retain| {
        let will = LastWill {
            topic,
            payload: b"x",
            qos,
            retain,
            properties: Default::default(),
        };
        bytes(&Connect {
            will: Some(will),
            ..connect(Version::V5)
        })
    };
    let limited = || Settings {
        maximum_qos: 1,
        retain_available: false,
        ..Settings::default()
    };
    assert_eq!(code(&refused(limited(), &with("w", 2, false))), Some(0x9B));
    assert_eq!(code(&refused(limited(), &with("w", 0, true))), Some(0x9A));
    let small = Settings {
        max_message_size: 0,
        ..Settings::default()
    };
    assert_eq!(code(&refused(small, &with("w", 0, false))), Some(0x95));
    assert_eq!(code(&refused(limited(), &with(&"/".repeat(300), 0, false))), Some(0x90));
    let mut script = Script::new(Version::V5, limited());
    script.login(&connect(Version::V5));
    script.event(Event::SessionOpened { present: false });
    script.one(|packet| {
        let Packet::ConnAck(packet) = packet else { panic!() };
        let told: Vec<_> = packet.properties.iter().collect();
        assert!(told.contains(&Property::MaximumQos(1)) && told.contains(&Property::RetainAvailable(false)));
    });
}

#[test]
fn a_will_to_a_bridges_state_is_kept_and_one_to_a_reserved_topic_dropped() {
    // The bug: both were refused, and Mosquitto's bridge could not connect.
    for version in [Version::V31, Version::V311, Version::V5] {
        for (topic, taken) in [
            ("$SYS/broker/connection/host.bridge/state", true),
            ("$SYS/broker/load", false),
            ("$share/g/a", false),
        ] {
            let will = LastWill {
                topic,
                payload: b"0",
                qos: 1,
                retain: true,
                properties: Default::default(),
            };
            let asked = Script::new(version, Settings::default()).login(&Connect {
                bridge: version != Version::V5,
                will: Some(will),
                ..connect(version)
            });
            assert_eq!(
                asked.open.will.map(|will| will.message.key().to_owned()).as_deref(),
                taken.then_some(topic)
            );
        }
    }
}

#[test]
fn a_bridge_of_mqtt_3_gets_no_more_at_once_than_it_takes() {
    // It was sent 64 messages of QoS 2, closed the connection at the 21st, and was sent them again when it was back.
    for (max_inflight, at_once) in [(64, 20), (7, 7)] {
        let settings = Settings {
            max_inflight,
            ..Settings::default()
        };
        let bridge = Connect {
            bridge: true,
            ..connect(Version::V311)
        };
        let asked = Script::new(Version::V311, settings).login(&bridge);
        assert_eq!(asked.open.receive_maximum, at_once);
    }
}

#[test]
fn a_connect_with_the_largest_will_is_accepted_and_a_larger_packet_refused() {
    let long = "t".repeat(65_535);
    let will = LastWill {
        topic: &long,
        payload: long.as_bytes(),
        qos: 1,
        retain: false,
        properties: Default::default(),
    };
    let asked = Script::new(Version::V311, Settings::default()).login(&Connect {
        will: Some(will.clone()),
        ..connect(Version::V311)
    });
    assert_eq!(asked.open.will.unwrap().message.body().len(), 65_535);
    let with = |version, password: &'static [u8]| {
        let connect = Connect {
            will: Some(will.clone()),
            user: Some("u"),
            password: Some(password),
            ..connect(version)
        };
        bytes(&connect)
    };
    // It is refused as soon as its version is known; the rest is not waited for.
    let most = || Settings {
        connect_bytes_max: with(Version::V5, &[1; 10]).len(),
        ..Settings::default()
    };
    let mut script = Script::new(Version::V5, most());
    script.feed(&with(Version::V5, &[1; 10]));
    assert!(matches!(script.command(), Some(Command::Authenticate(_))));
    let mut script = Script::new(Version::V5, most());
    let sent = with(Version::V5, &[1; 11]);
    script.feed(&sent[..12]);
    assert!(script.closed().is_none() && script.sent().is_empty());
    script.feed(&sent[12..13]);
    assert_eq!(
        (script.sent(), script.closed().is_some()),
        (vec![0x20, 3, 0, 0x95, 0], true)
    );
    // MQTT 3 has no code for it.
    for version in [Version::V31, Version::V311] {
        assert_eq!(refused(most(), &with(version, &[1; 100])), []);
    }
    assert_eq!(refused(most(), b"\x10\xff\xff\x7f\0\x09NOT MQTT!\x05"), []);
}

#[test]
fn a_client_whose_limit_excludes_connack_gets_none() {
    for (maximum, refusal, greeting) in [
        (1, false, false),
        (4, false, false),
        (5, true, false),
        (7, true, false),
        (8, true, true),
    ] {
        let properties = properties(&[Property::MaximumPacketSize(maximum)]);
        let connect = Connect {
            properties: properties.as_properties(),
            ..connect(Version::V5)
        };
        let mut script = Script::new(Version::V5, Settings::default());
        script.login(&connect);
        script.event(Event::SessionOpened { present: false });
        let sent = script.sent();
        assert!(sent.len() <= maximum as usize, "{maximum}: {sent:02x?}");
        assert_eq!(
            (sent.is_empty(), script.closed().is_none()),
            (!refusal, greeting),
            "{maximum}"
        );
        let mut script = Script::new(Version::V5, Settings::default());
        script.feed(&bytes(&connect));
        let why = LoginFailure::BadCredentials;
        script.event(Event::LoginRefused(Box::new(LoginRefused { user: "u".into(), why })));
        assert_eq!(script.sent().len(), if refusal { 5 } else { 0 }, "{maximum}");
    }
}

#[test]
fn response_information_is_given_when_asked_for() {
    for (asked, prefix, told) in [
        (true, Some("r"), Some("r/c")),
        (false, Some("r"), None),
        (true, None, None),
    ] {
        let properties = properties(&[Property::RequestResponseInformation(asked)]);
        let settings = Settings {
            response_prefix: prefix.map(Into::into),
            ..Settings::default()
        };
        let mut script = Script::new(Version::V5, settings);
        script.login(&Connect {
            properties: properties.as_properties(),
            ..connect(Version::V5)
        });
        script.event(Event::SessionOpened { present: false });
        let information = script.one(|packet| match packet {
            Packet::ConnAck(packet) => packet.properties.iter().find_map(|p| match p {
                Property::ResponseInformation(text) => Some(text.to_owned()),
                _ => None,
            }),
            _ => panic!(),
        });
        assert_eq!(information.as_deref(), told);
    }
}

#[test]
fn a_client_that_never_finishes_its_connect_is_dropped() {
    let mut script = Script::new(Version::V5, Settings::default());
    script.feed(&bytes(&connect(Version::V5))[..5]);
    script.advance(Duration::from_millis(9_999));
    assert!(script.closed().is_none());
    script.advance(Duration::from_millis(1));
    script.assert_closed_silently();
}

#[test]
fn a_login_that_takes_too_long_is_refused() {
    let mut script = Script::new(Version::V5, Settings::default());
    script.advance(Duration::from_secs(9));
    script.feed(&bytes(&connect(Version::V5)));
    script.command();
    script.advance(Duration::from_secs(9));
    assert!(script.closed().is_none(), "the time starts again");
    script.advance(Duration::from_secs(1));
    assert_eq!(code(&script.sent()), Some(0x88));
}
