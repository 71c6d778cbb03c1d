//! From the protocol header to `open-ok`, and the errors on the way.

use super::script::*;
use crate::codec;
use crate::error::Code;
use crate::frame::{Connection, Method, table};
use crate::settings::Settings;
use gatepost_core::command::{Command, Login};
use gatepost_core::event::{Event, LoginFailure, LoginRefused, Op};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::properties::{Table, Value};
use gatepost_core::session::{ReadInterest, Session};

fn refused() -> Event {
    Event::LoginRefused(Box::new(LoginRefused {
        user: "guest".into(),
        why: LoginFailure::BadCredentials,
    }))
}

#[test]
fn bad_header_gets_supported_header_and_close() {
    for header in [b"AMQP\0\0\x09\x02".as_slice(), b"AMQP\0\x01\0\0", b"GET / HTTP/1.1\r\n"] {
        let mut script = Script::new(Settings::default());
        script.feed(header);
        assert_eq!(script.octets(), codec::AMQP_0_9_1);
        assert!(script.ended.unwrap().abnormal);
    }
}

#[test]
fn start_lists_capabilities_and_product() {
    for header in [codec::AMQP_0_9_1, codec::AMQP_0_9] {
        let mut script = Script::new(Settings::default());
        script.feed(&header);
        let octets = script.octets();
        let (frame, _) = codec::split(&octets, 4096).unwrap().unwrap();
        let Ok(Method::Connection(Connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties,
            mechanisms: b"PLAIN AMQPLAIN",
            locales: b"en_US",
        })) = Method::decode(frame.payload)
        else {
            panic!("{frame:?}");
        };
        assert_eq!(server_properties.lookup("product"), Some(&Value::text("Gatepost")));
        let Some(Value::Table(capabilities)) = server_properties.lookup("capabilities") else {
            panic!("no capabilities");
        };
        assert_eq!(capabilities.0.len(), 9);
        assert!(capabilities.0.iter().all(|(_, value)| *value == Value::Bool(true)));
    }
}

/// The mechanisms that `connection.start` offers.
fn mechanisms(script: &mut Script) -> String {
    script.feed(&codec::AMQP_0_9_1);
    let octets = script.octets();
    let (frame, _) = codec::split(&octets, 4096).unwrap().unwrap();
    match Method::decode(frame.payload) {
        Ok(Method::Connection(Connection::Start { mechanisms, .. })) => String::from_utf8(mechanisms.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn external_is_for_peers_with_a_certificate() {
    let mut script = Script::with_certificate(Settings::default(), true);
    assert_eq!(mechanisms(&mut script), "PLAIN AMQPLAIN EXTERNAL");
    script.send(0, start_ok("EXTERNAL", b"", &[]));
    let Command::Authenticate(login) = script.command() else {
        panic!("no login");
    };
    assert!(matches!(*login, Login::Certificate { user: None }), "{login:?}");

    // Without a certificate EXTERNAL is neither offered nor accepted.
    let mut script = Script::new(Settings::default());
    assert_eq!(mechanisms(&mut script), "PLAIN AMQPLAIN");
    script.send(0, start_ok("EXTERNAL", b"", &[]));
    assert!(script.commands().is_empty());
}

#[test]
fn plain_login_opens_a_vhost() {
    let mut script = Script::new(Settings::default());
    script.log_in(&[]);
    script.forget_output();
    let Command::Authenticate(login) = script.command() else {
        panic!("no login");
    };
    let Login::Password { user, password, .. } = *login else {
        panic!("{login:?}");
    };
    assert_eq!((&*user, &*password), ("guest", b"secret".as_slice()));
    assert_eq!(script.session.read_interest(), ReadInterest::Nothing);

    script.tell(Event::authenticated("guest"));
    let tune = "0 Connection(Tune { channel_max: 2047, frame_max: 131072, heartbeat: 60 })";
    assert_eq!(script.said(), [tune]);
    script.send(0, tune_ok(2047, 131_072, 60));
    script.send(0, open("/v"));
    let Command::Attach(attach) = script.command() else {
        panic!("no attach");
    };
    assert_eq!((&*attach.vhost, attach.client_name.as_deref()), ("/v", Some("tester")));
    assert_eq!(attach.heartbeat_s, 60);
    let settled = attach.handshake.expect("AMQP negotiates more");
    assert_eq!(
        (settled.mechanism, settled.channel_max, settled.frame_max),
        ("PLAIN", 2047, 131_072)
    );
    assert_eq!(settled.client_properties.lookup("connection_name"), Some("tester"));
    script.tell(Event::Attached);
    assert_eq!(script.said(), ["0 Connection(OpenOk { reserved: \"\" })"]);
}

#[test]
fn frames_sent_before_open_ok_wait_for_it() {
    let mut script = Script::new(Settings::default());
    script.log_in(&[]);
    script.tell(Event::authenticated("guest"));
    script.send(0, tune_ok(10, 4096, 0));
    script.send(0, open("/"));
    script.forget();
    script.send(1, Method::Channel(crate::frame::Channel::Open { reserved: "" }));
    assert!(script.said().is_empty());
    script.tell(Event::Attached);
    assert_eq!(script.said(), ["0 Connection(OpenOk { reserved: \"\" })"]);
    script.tell(done(1, Op::OpenChannel));
    assert_eq!(script.said(), ["1 Channel(OpenOk { reserved: [] })"]);
}

#[test]
fn amqplain_without_length_prefix_accepted() {
    let mut response = Vec::new();
    table::put_pair(&mut response, b"LOGIN", &Value::text("u"));
    table::put_pair(&mut response, b"PASSWORD", &Value::text("p"));
    let mut script = Script::new(Settings::default());
    script.feed(&codec::AMQP_0_9_1);
    script.send(0, start_ok("AMQPLAIN", &response, &[]));
    let Command::Authenticate(login) = script.command() else {
        panic!("no login");
    };
    assert!(matches!(*login, Login::Password { user, .. } if &*user == "u"));
}

#[test]
fn malformed_responses_and_unknown_mechanisms_get_no_answer() {
    let responses: [(&str, &[u8]); 7] = [
        ("PLAIN", b"guest\0guest\0guest"),
        ("PLAIN", b"\0guest"),
        ("PLAIN", b"\0a\0b\0c"),
        ("PLAIN", b"\0\xff\0p"),
        ("AMQPLAIN", b"\0\0\0\0"),
        ("ANONYMOUS", b""),
        ("EXTERNAL", b""),
    ];
    for (mechanism, response) in responses {
        let mut script = Script::new(Settings::default());
        script.feed(&codec::AMQP_0_9_1);
        script.forget();
        script.send(0, start_ok(mechanism, response, ALL_CAPABILITIES));
        assert!(script.commands().is_empty());
        script.pass(2999);
        assert!(script.ended.is_none());
        script.pass(1);
        assert!(script.ended.is_some() && script.said().is_empty(), "{mechanism}");
    }
}

#[test]
fn anonymous_where_it_is_offered() {
    let mut script = Script::new(Settings {
        mechanisms: vec!["EXTERNAL".into(), "ANONYMOUS".into()],
        ..Settings::default()
    });
    script.feed(&codec::AMQP_0_9_1);
    script.send(0, start_ok("ANONYMOUS", b"trace", &[]));
    let Command::Authenticate(login) = script.command() else {
        panic!("no login");
    };
    assert!(matches!(*login, Login::Anonymous));
}

#[test]
fn bad_password_403_only_with_capability() {
    let mut script = Script::new(Settings::default());
    script.log_in(&["authentication_failure_close"]);
    script.forget();
    script.tell(refused());
    let text =
        "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.";
    assert_eq!(script.close(), (0, 403, text.into(), (0, 0)));
    script.send(0, close_ok());
    assert!(script.ended.is_some());
}

#[test]
fn bad_password_silent_drop_without_capability() {
    let mut script = Script::new(Settings::default());
    script.log_in(&[]);
    script.forget();
    script.tell(refused());
    script.pass(2999);
    assert!(script.ended.is_none());
    script.pass(1);
    assert!(script.ended.is_some() && script.said().is_empty());
}

#[test]
fn unknown_vhost_and_refused_vhost_530() {
    for (kind, text) in [
        (FaultKind::NotFound, "vhost nope not found"),
        (
            FaultKind::AccessRefused,
            "access to vhost 'nope' refused for user 'guest'",
        ),
    ] {
        let mut script = Script::new(Settings::default());
        script.log_in(&[]);
        script.tell(Event::authenticated("guest"));
        script.send(0, tune_ok(10, 4096, 0));
        script.send(0, open("nope"));
        script.forget();
        script.tell(Event::AttachRefused(Box::new(Fault::new(kind, text))));
        assert_eq!(script.close(), (0, 530, format!("NOT_ALLOWED - {text}"), (10, 40)));
        assert!(script.commands().is_empty(), "nothing to detach from");
    }
}

#[test]
fn tune_ok_out_of_bounds_refused() {
    for (channel_max, frame_max, what) in [
        (
            2047,
            200_000,
            "frame_max = 200000 is higher than the maximum allowed value (131072)",
        ),
        (
            2047,
            100,
            "frame_max = 100 is lower than the minimum allowed value (4096)",
        ),
        (
            2047,
            0,
            "frame_max = 0 (no limit) is higher than the maximum allowed value (131072)",
        ),
        (
            0,
            131_072,
            "channel_max = 0 (no limit) is higher than the maximum allowed value (2047)",
        ),
        (
            2048,
            131_072,
            "channel_max = 2048 is higher than the maximum allowed value (2047)",
        ),
    ] {
        let mut script = Script::new(Settings::default());
        script.log_in(&[]);
        script.tell(Event::authenticated("guest"));
        script.forget();
        script.send(0, tune_ok(channel_max, frame_max, 60));
        let (channel, code, text, _) = script.close();
        assert_eq!((channel, code), (0, Code::NotAllowed as u16));
        assert_eq!(text, format!("NOT_ALLOWED - negotiated {what}"));
    }
}

#[test]
fn frames_before_tune_ok_are_held_to_the_minimum() {
    let mut script = Script::new(Settings::default());
    script.feed(&codec::AMQP_0_9_1);
    script.forget();
    script.feed(&[1, 0, 0, 0, 0, 0x10, 1]);
    let (_, code, text, _) = script.close();
    assert_eq!(
        (code, text.as_str()),
        (
            501,
            "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,4097,4088}"
        )
    );
}

#[test]
fn channel_method_before_open_505() {
    let mut script = Script::new(Settings::default());
    script.feed(&codec::AMQP_0_9_1);
    script.forget();
    script.send(1, Method::Channel(crate::frame::Channel::Open { reserved: "" }));
    let (_, code, text, _) = script.close();
    assert_eq!(
        (code, text.as_str()),
        (505, "UNEXPECTED_FRAME - type 1, all octets = <<0,20,0,10,0>>")
    );
}

#[test]
fn a_close_before_open_is_answered() {
    let mut script = Script::new(Settings::default());
    script.feed(&codec::AMQP_0_9_1);
    script.forget();
    script.send(
        0,
        Method::Connection(Connection::Close {
            code: 200,
            text: "",
            class: 0,
            method: 0,
        }),
    );
    assert_eq!(script.said(), ["0 Connection(CloseOk)"]);
    assert!(!script.ended.unwrap().abnormal);
}

#[test]
fn the_handshake_has_ten_seconds() {
    let mut script = Script::new(Settings::default());
    script.pass(9_999);
    script.log_in(&[]);
    assert!(script.ended.is_none());
    script.pass(1);
    assert!(script.ended.unwrap().abnormal);
}

/// A client replaces an expiring token with `update-secret`.
#[test]
fn a_new_secret_is_checked_and_must_be_the_same_user_s() {
    for (answer, expected) in [
        (Event::authenticated("guest"), "0 Connection(UpdateSecretOk)"),
        (Event::authenticated("other"), "NOT_ALLOWED - New secret was refused"),
        (refused(), "NOT_ALLOWED - New secret was refused"),
    ] {
        let mut script = Script::with_channel();
        script.send(
            0,
            Method::Connection(Connection::UpdateSecret {
                secret: b"new",
                reason: "expired",
            }),
        );
        let Command::Authenticate(login) = script.command() else {
            panic!("no login");
        };
        assert!(matches!(*login, Login::Renewal { user, secret } if &*user == "guest" && *secret == *b"new"));
        script.tell(answer);
        let said = script.said();
        assert!(said[0].contains(expected), "{said:?}");
    }
}

#[test]
fn a_table_is_not_needed_for_capabilities() {
    let mut script = Script::new(Settings::default());
    script.feed(&codec::AMQP_0_9_1);
    let method = Method::Connection(Connection::StartOk {
        client_properties: Table::default(),
        mechanism: "PLAIN",
        response: b"\0a\0b",
        locale: "",
    });
    script.send(0, method);
    assert!(matches!(script.command(), Command::Authenticate(_)));
}
