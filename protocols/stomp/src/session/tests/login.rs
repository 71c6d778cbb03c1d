//! CONNECT, versions, virtual hosts, and frames before CONNECT.

use super::*;
use gatepost_core::event::{LoginFailure, LoginRefused};

fn not_found() -> Event {
    Event::AttachRefused(Box::new(Fault::new(FaultKind::NotFound, "no vhost")))
}

#[test]
fn connect_or_stomp_picks_the_highest_common_version() {
    for (command, offered, chosen) in [
        ("CONNECT", "1.0,1.1,1.2", "1.2"),
        ("STOMP", "1.1,1.0", "1.1"),
        ("STOMP", "3.0, 1.0", "1.0"),
    ] {
        let mut script = Script::new();
        script.send(&format!(
            "{command}\naccept-version:{offered}\nhost:/\nlogin:me\npasscode:x\n\n\0"
        ));
        assert_eq!(script.commands(), ["login me x"]);
        assert_eq!(script.out(), "");
        script.event(Event::authenticated("me"));
        assert_eq!(script.commands(), [format!("attach / STOMP {chosen}")]);
        script.event(Event::Attached);
        let out = script.out();
        assert!(
            out.starts_with(&format!(
                "CONNECTED\nversion:{chosen}\nheart-beat:0,0\nsession:session-"
            )),
            "{out}"
        );
    }
}

#[test]
fn connect_without_accept_version_is_1_0() {
    let mut script = Script::new();
    script.send("CONNECT\n\n\0");
    assert_eq!(script.commands(), ["login"]);
    script.event(Event::authenticated("guest"));
    assert_eq!(script.commands(), ["attach / STOMP 1.0"]);
    script.event(Event::Attached);
    assert!(script.out().starts_with("CONNECTED\nversion:1.0\nheart-beat:0,0\n"));
}

#[test]
fn an_unsupported_version_is_refused_with_a_list_of_versions() {
    let mut script = Script::new();
    script.send("CONNECT\naccept-version:2.0\nreceipt:never\n\n\0");
    script.refused("Version mismatch", "Supported versions are 1.0,1.1,1.2\n");
}

#[test]
fn refused_logins_have_rabbitmqs_words() {
    for (why, body) in [
        (LoginFailure::BadCredentials, "Access refused for user 'me'"),
        (LoginFailure::AnonymousRefused, "Access refused for user 'me'"),
        (LoginFailure::LoopbackOnly, "non-loopback access denied"),
    ] {
        let mut script = Script::new();
        script.send("CONNECT\nlogin:me\npasscode:x\n\n\0");
        script.event(Event::LoginRefused(Box::new(LoginRefused { user: "me".into(), why })));
        script.refused("Bad CONNECT", body);
    }
}

#[test]
fn a_password_may_hold_a_backslash_and_a_colon() {
    let mut script = Script::new();
    script.send("CONNECT\naccept-version:1.2\nhost:/\nlogin:me\npasscode:a\\b:c\n\n\0");
    assert_eq!(script.commands(), ["login me a\\b:c"]);
}

#[test]
fn a_host_that_names_no_vhost_means_the_default_one() {
    let mut script = Script::new();
    script.send("CONNECT\naccept-version:1.2\nhost:broker.example.com\nlogin:me\n\n\0");
    script.event(Event::authenticated("me"));
    assert_eq!(script.commands(), ["login me ", "attach broker.example.com STOMP 1.2"]);
    script.event(not_found());
    assert_eq!(script.commands(), ["attach / STOMP 1.2"]);
    script.event(Event::Attached);
    assert!(script.out().starts_with("CONNECTED\n"));
}

#[test]
fn a_vhost_with_a_slash_must_exist() {
    let mut script = Script::new();
    script.send("CONNECT\naccept-version:1.2\nhost:/other\nlogin:me\n\n\0");
    script.event(Event::authenticated("me"));
    script.event(not_found());
    script.refused("Bad CONNECT", "Virtual host '/other' access denied");
}

#[test]
fn a_full_vhost_says_so() {
    let mut script = Script::new();
    script.send("CONNECT\nlogin:me\n\n\0");
    script.event(Event::authenticated("me"));
    let fault = Fault::new(FaultKind::QuotaExceeded, "vhost connection limit reached");
    script.event(Event::AttachRefused(Box::new(fault)));
    script.refused("Bad CONNECT", "Connection refused: vhost connection limit reached");
}

#[test]
fn frames_pipelined_after_connect_wait_for_it() {
    let mut script = Script::new();
    script.send("CONNECT\naccept-version:1.2\nhost:/\n\n\0SEND\ndestination:/queue/q\nkey:a\\cb\n\nx\0");
    assert_eq!(script.commands(), ["login"]);
    script.event(Event::authenticated("me"));
    assert_eq!(script.commands(), ["attach / STOMP 1.2"]);
    script.event(Event::Attached);
    assert_eq!(
        script.commands(),
        ["declare 0: 'q' durable lenient", "publish |q|key:a\\cb\n|x"]
    );
}

#[test]
fn any_frame_before_connect_is_an_illegal_command() {
    for text in ["SEND\ndestination:/queue/q\n\nx\0", "FOO\n\n\0", "GET / HTTP/1.1\r\n"] {
        let mut script = Script::new();
        script.send(text);
        script.refused("Illegal command", "You must log in using CONNECT first");
    }
}

#[test]
fn a_second_connect_ends_the_connection() {
    let mut script = Script::opened("1.2");
    script.send("CONNECT\naccept-version:1.2\nhost:/\n\n\0");
    script.refused("Already connected", "CONNECT is allowed once\n");
}

#[test]
fn tls_on_the_plain_port_is_closed_without_an_answer() {
    let mut script = Script::new();
    script.send("\x16\x03\x01");
    assert_eq!(script.out(), "");
    assert!(script.closed.is_some());
}

#[test]
fn an_unauthenticated_frame_over_64_kib_is_refused() {
    let mut script = Script::new();
    script.send("CONNECT\n");
    for n in 0..100 {
        script.send(&format!("h{n}:{}\n", "x".repeat(1000)));
    }
    script.refused("Malformed frame", "Frame too large before login\n");
}
