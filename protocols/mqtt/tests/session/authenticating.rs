//! Enhanced authentication (MQTT 5 4.12): rounds before CONNACK, and again while the session is open.

use crate::script::{Script, connect, delivery, message, properties};
use gatepost_core::command::{Command, Login};
use gatepost_core::event::{Event, LoginFailure, LoginRefused};
use gatepost_core::properties::Origin;
use gatepost_core::session::ReadInterest;
use gatepost_mqtt::Settings;
use gatepost_mqtt::frame::{Connect, Packet, Property, Version};
use std::time::Duration;

/// CONNECT with the method `M` and the data `1`.
const CONNECT: &[u8] = b"\x10\x16\0\x04MQTT\x05\x02\0\0\x08\x15\0\x01M\x16\0\x011\0\x01c";
/// AUTH with that method and data, for either direction.
const fn auth(reason: u8, data: u8) -> [u8; 12] {
    [0xF0, 10, reason, 8, 0x15, 0, 1, b'M', 0x16, 0, 1, data]
}
const CONTINUE: u8 = 0x18;
const AGAIN: u8 = 0x19;

/// The data that the node was asked to check, as `name data` or `data`.
#[track_caller]
fn asked(script: &mut Script) -> String {
    let Some(Command::Authenticate(login)) = script.command() else {
        panic!("no Authenticate")
    };
    match *login {
        Login::Mechanism { name, data } => format!("{name} {}", String::from_utf8_lossy(&data)),
        Login::Response { data } => String::from_utf8_lossy(&data).into_owned(),
        other => panic!("{other:?}"),
    }
}

fn challenge(data: &[u8]) -> Event {
    Event::Challenge(data.into())
}

fn accepted(data: &[u8]) -> Event {
    Event::Authenticated {
        user: "u".into(),
        data: data.into(),
        impersonates: false,
    }
}

fn refused(why: LoginFailure) -> Event {
    Event::LoginRefused(Box::new(LoginRefused { user: "u".into(), why }))
}

/// A connection that has been sent its first challenge.
fn challenged() -> Script {
    let mut script = Script::new(Version::V5, Settings::default());
    script.feed(CONNECT);
    assert_eq!(asked(&mut script), "M 1");
    script.event(challenge(b"2"));
    assert_eq!(script.sent(), auth(CONTINUE, b'2'));
    script
}

/// An open session whose client named the method. CONNACK has been taken.
fn open() -> Script {
    let mut script = Script::new(Version::V5, Settings::default());
    script.feed(CONNECT);
    asked(&mut script);
    accept(&mut script, b"");
    script.sent();
    script
}

fn accept(script: &mut Script, data: &[u8]) {
    script.event(accepted(data));
    assert!(matches!(script.command(), Some(Command::Attach(_))));
    script.event(Event::Attached);
    assert!(matches!(script.command(), Some(Command::OpenSession(_))));
    script.event(Event::SessionOpened { present: false });
}

/// Asserts that CONNACK refused the login with that code, and that nothing else was sent.
#[track_caller]
fn assert_refused(script: &mut Script, code: u8) {
    let sent = script.sent();
    assert_eq!((sent[0], usize::from(sent[1]) + 2, sent[3]), (0x20, sent.len(), code));
    assert!(script.closed().is_some());
    assert!(script.command().is_none());
}

#[test]
fn rounds_lead_to_connack_with_the_final_data() {
    let mut script = challenged();
    assert_eq!(script.session.read_interest(), ReadInterest::All);
    for byte in auth(CONTINUE, b'3') {
        script.feed(&[byte]);
    }
    assert_eq!(asked(&mut script), "3");
    assert_eq!(script.session.read_interest(), ReadInterest::Nothing);
    script.event(challenge(b"4"));
    assert_eq!(script.sent(), auth(CONTINUE, b'4'));
    // A round without data.
    script.feed(b"\xf0\x06\x18\x04\x15\0\x01M");
    assert_eq!(asked(&mut script), "");
    accept(&mut script, b"5");
    script.one(|packet| {
        let Packet::ConnAck(packet) = packet else {
            panic!("{packet:?}")
        };
        assert_eq!(packet.reason.0, 0);
        let all: Vec<_> = packet.properties.iter().collect();
        let expected = [Property::AuthenticationMethod("M"), Property::AuthenticationData(b"5")];
        assert_eq!(all[all.len() - 2..], expected);
    });
}

#[test]
fn a_method_may_need_no_round() {
    let mut script = Script::new(Version::V5, Settings::default());
    script.feed(CONNECT);
    assert_eq!(asked(&mut script), "M 1");
    accept(&mut script, b"");
    script.one(|packet| {
        let Packet::ConnAck(packet) = packet else {
            panic!("{packet:?}")
        };
        assert_eq!(
            packet.properties.iter().last(),
            Some(Property::AuthenticationMethod("M"))
        );
    });
}

#[test]
fn with_a_method_the_user_name_only_names_the_vhost() {
    let properties = properties(&[Property::AuthenticationMethod("M")]);
    let mut script = Script::new(Version::V5, Settings::default());
    let asked = script.login(&Connect {
        properties: properties.as_properties(),
        user: Some("floor:somebody"),
        password: Some(b"secret"),
        ..connect(Version::V5)
    });
    assert!(matches!(asked.login, Login::Mechanism { data, .. } if data.is_empty()));
    assert_eq!(&*asked.attach.vhost, "floor");
}

#[test]
fn a_failed_authentication_is_reported_in_connack() {
    for (why, code) in [
        (LoginFailure::UnknownMechanism, 0x8C),
        (LoginFailure::BadCredentials, 0x87),
        (LoginFailure::LoopbackOnly, 0x87),
        (LoginFailure::Banned, 0x8A),
        (LoginFailure::Busy, 0x89),
    ] {
        let mut script = Script::new(Version::V5, Settings::default());
        script.feed(CONNECT);
        asked(&mut script);
        script.event(refused(why));
        assert_refused(&mut script, code);
        let mut script = challenged();
        script.feed(&auth(CONTINUE, b'3'));
        asked(&mut script);
        script.event(refused(why));
        assert_refused(&mut script, code);
    }
}

#[test]
fn before_connack_a_client_may_send_auth_and_disconnect_only() {
    let another_method = b"\xf0\x06\x18\x04\x15\0\x01N";
    let twice_the_method = b"\xf0\x0a\x18\x08\x15\0\x01M\x15\0\x01M";
    let cases: [(&[u8], u8); 12] = [
        // Refused on its first byte: the rest of a large packet is not waited for.
        (b"\x30", 0x82),
        (b"\xc0\0", 0x82),
        (b"\x82", 0x82),
        (CONNECT, 0x82),
        (b"\x20", 0x82),
        (&auth(AGAIN, b'3'), 0x82),
        (another_method, 0x82),
        (twice_the_method, 0x82),
        (b"\xf0\x01\x18", 0x82),
        (b"\xf0\0", 0x82),
        (b"\xf1\x01\x18", 0x81),
        // An answer of more than 64 KiB.
        (b"\xf0\x80\x80\x04", 0x95),
    ];
    for (bytes, code) in cases {
        let mut script = challenged();
        script.feed(bytes);
        let sent = script.sent();
        assert_eq!((sent[0], sent[3]), (0x20, code), "{bytes:02x?}");
        assert!(script.closed().is_some() && script.command().is_none());
    }
    let mut script = challenged();
    script.feed(b"\xe0\0");
    script.assert_closed_silently();
    assert!(!script.closed().unwrap().abnormal);
}

#[test]
fn the_handshake_timeout_holds_over_all_rounds() {
    let mut script = challenged();
    script.advance(Duration::from_secs(9));
    script.feed(&auth(CONTINUE, b'3'));
    asked(&mut script);
    script.event(challenge(b"4"));
    script.sent();
    script.advance(Duration::from_secs(1));
    assert_refused(&mut script, 0x88);
}

#[test]
fn a_challenge_that_does_not_fit_the_client_is_not_sent() {
    let properties = properties(&[Property::MaximumPacketSize(40), Property::AuthenticationMethod("M")]);
    let connect = Connect {
        properties: properties.as_properties(),
        ..connect(Version::V5)
    };
    let mut script = Script::new(Version::V5, Settings::default());
    script.packet(&Packet::Connect(connect));
    asked(&mut script);
    script.event(challenge(&[b'x'; 40]));
    assert_refused(&mut script, 0x95);
}

#[test]
fn messages_flow_during_re_authentication() {
    let mut script = open();
    script.feed(&[&auth(AGAIN, b'6')[..], b"\xc0\0"].concat());
    assert_eq!(asked(&mut script), "M 6");
    // The login is the last command of its turn: further packets wait until it is answered.
    assert_eq!(
        (script.session.read_interest(), script.sent()),
        (ReadInterest::Nothing, vec![])
    );
    script.event(Event::Deliver(delivery(0, 0, message("t", 0, Origin::NONE, b"", b"x"))));
    assert_eq!(script.sent(), b"\x30\x05\0\x01t\0x");
    script.event(challenge(b"7"));
    let expected = [&auth(CONTINUE, b'7')[..], b"\xd0\0"].concat();
    assert_eq!(script.sent(), expected);
    // While the client prepares its answer, messages flow in both directions.
    script.feed(b"\x30\x05\0\x01t\0y");
    assert_eq!(script.published().0.body(), b"y");
    script.event(Event::Deliver(delivery(0, 0, message("t", 0, Origin::NONE, b"", b"z"))));
    assert_eq!(script.sent(), b"\x30\x05\0\x01t\0z");
    script.feed(&auth(CONTINUE, b'8'));
    assert_eq!(asked(&mut script), "8");
    script.event(accepted(b"9"));
    assert_eq!(script.sent(), auth(0, b'9'));
    // Authenticates once more, without a round.
    script.feed(&auth(AGAIN, b'6'));
    assert_eq!(asked(&mut script), "M 6");
    script.event(accepted(b""));
    assert_eq!(script.sent(), b"\xf0\x06\0\x04\x15\0\x01M");
    assert!(script.closed().is_none());
}

#[test]
fn a_failed_re_authentication_disconnects() {
    for (why, code) in [
        (LoginFailure::BadCredentials, 0x87),
        (LoginFailure::UnknownMechanism, 0x87),
        (LoginFailure::Banned, 0x87),
        (LoginFailure::Busy, 0x89),
    ] {
        let mut script = open();
        script.feed(&auth(AGAIN, b'6'));
        asked(&mut script);
        script.event(refused(why));
        script.assert_disconnected(code);
    }
}

#[test]
fn auth_out_of_order_is_a_protocol_error() {
    // AUTH of another method, without a method, or continuing a finished authentication.
    for bytes in [
        &b"\xf0\x06\x19\x04\x15\0\x01N"[..],
        b"\xf0\x01\x19",
        b"\xf0\0",
        &auth(CONTINUE, b'3'),
    ] {
        let mut script = open();
        script.feed(bytes);
        script.assert_disconnected(0x82);
    }
    // Starts again in the middle.
    let mut script = open();
    script.feed(&auth(AGAIN, b'6'));
    asked(&mut script);
    script.event(challenge(b"7"));
    script.sent();
    script.feed(&auth(AGAIN, b'6'));
    script.assert_disconnected(0x82);
    // Without a method in CONNECT.
    let mut script = Script::open(Version::V5);
    script.feed(&auth(AGAIN, b'6'));
    script.assert_disconnected(0x82);
}

#[test]
fn waiting_for_the_node_does_not_count_as_silence() {
    let properties = properties(&[Property::AuthenticationMethod("M")]);
    let connect = Connect {
        keep_alive: 10,
        properties: properties.as_properties(),
        ..connect(Version::V5)
    };
    let mut script = Script::open_with(&connect, Settings::default());
    script.feed(b"\xf0\x06\x19\x04\x15\0\x01M");
    asked(&mut script);
    script.advance(Duration::from_secs(60));
    script.event(accepted(b""));
    script.advance(Duration::from_secs(14));
    assert!(script.closed().is_none());
    script.sent();
    script.advance(Duration::from_secs(1));
    script.assert_disconnected(0x8D);
}
