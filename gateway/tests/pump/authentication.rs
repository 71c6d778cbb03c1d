//! Logins of several rounds: before a connection has an engine, and again during its session.

use crate::{client, packet, publish, text, world};
use gatepost_core::command::Login;
use gatepost_core::event::{Event, Pressure};
use gatepost_core::testing::pipe::Pipe;
use gatepost_core::testing::world::World;
use gatepost_mqtt::Mqtt;

const CONTINUE: u8 = 0x18;
const AGAIN: u8 = 0x19;

/// CONNECT with the authentication method `M`.
fn connect() -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x05\x02\x00\x00".to_vec();
    body.extend(b"\x08\x15\x00\x01M\x16\x00\x011");
    body.extend(text("c"));
    packet(0x10, &body)
}

fn auth(reason: u8, data: u8) -> Vec<u8> {
    packet(0xF0, &[reason, 8, 0x15, 0, 1, b'M', 0x16, 0, 1, data])
}

/// Runs turns until the connection waits for something else.
fn turns(w: &mut World, pipe: Pipe) {
    while w.is_ready(pipe) {
        w.turn_of(pipe, usize::MAX);
    }
}

/// Answers the client's message with `answer`. Returns the message.
fn answer(w: &mut World, pipe: Pipe, answer: Event) -> String {
    turns(w, pipe);
    let (mut said, mut answer) = (String::new(), Some(answer));
    w.answer_logins(|login| {
        let (Login::Mechanism { data, .. } | Login::Response { data }) = login else {
            panic!("{login:?}")
        };
        said = String::from_utf8_lossy(data).into_owned();
        answer.take().expect("one login")
    });
    turns(w, pipe);
    said
}

fn accepted(user: &str) -> Event {
    let data = b"v".as_slice().into();
    Event::Authenticated {
        user: user.into(),
        data,
        impersonates: false,
    }
}

fn challenge(data: u8) -> Event {
    Event::Challenge([data].into())
}

/// A client that has logged in as `guest` after one round.
fn logged_in(w: &mut World, mqtt: &Mqtt) -> Pipe {
    let pipe = w.open(mqtt);
    w.feed(pipe, &connect());
    assert_eq!(answer(w, pipe, challenge(b'2')), "1");
    assert_eq!(w.drain(pipe), auth(CONTINUE, b'2'));
    assert!(!w.is_attached(pipe));
    w.feed(pipe, &auth(CONTINUE, b'3'));
    assert_eq!(answer(w, pipe, accepted("guest")), "3");
    w.settle();
    let connack = w.drain(pipe);
    assert_eq!((connack[0], connack[3]), (0x20, 0));
    assert!(connack.ends_with(b"\x15\x00\x01M\x16\x00\x01v"));
    pipe
}

#[test]
fn a_client_is_asked_before_it_gets_an_engine() {
    let mqtt = Mqtt::default();
    let mut w = world(1, &mqtt);
    let pipe = logged_in(&mut w, &mqtt);
    assert!(w.is_attached(pipe));
}

#[test]
fn a_client_that_disconnects_during_a_login_leaves_nothing() {
    let mqtt = Mqtt::default();
    let mut w = world(1, &mqtt);
    let pipe = w.open(&mqtt);
    w.feed(pipe, &connect());
    answer(&mut w, pipe, challenge(b'2'));
    w.feed(pipe, b"\xe0\x00");
    turns(&mut w, pipe);
    assert!(w.ended(pipe).is_some_and(|ended| !ended.abnormal));
    assert_eq!(w.drain(pipe), auth(CONTINUE, b'2'));
}

#[test]
fn messages_flow_during_re_authentication() {
    let mqtt = Mqtt::default();
    let mut w = world(1, &mqtt);
    let other = client(&mut w, &mqtt, "other", false);
    let pipe = logged_in(&mut w, &mqtt);
    for (pipe, filter) in [(pipe, "to"), (other, "from")] {
        let with_properties = if filter == "to" { &[0, 1, 0][..] } else { &[0, 1] };
        let body = [with_properties, &text(filter), &[0]].concat();
        w.feed(pipe, &packet(0x82, &body));
    }
    w.settle();
    w.drain(pipe);
    w.drain(other);
    // A message before it has to wait for the disk; the login does not wait.
    w.set_pressure(Some(Pressure::Backlog));
    w.feed(pipe, b"\x32\x0a\x00\x04from\x00\x07\x001");
    w.feed(pipe, &auth(AGAIN, b'1'));
    assert_eq!(answer(&mut w, pipe, challenge(b'2')), "1");
    assert_eq!(w.drain(pipe), auth(CONTINUE, b'2'));
    w.set_pressure(None);
    w.settle();
    w.feed(pipe, b"\x30\x08\x00\x04from\x002");
    w.feed(other, &publish("to", 0, "3"));
    w.settle();
    assert_eq!(
        w.drain(other),
        [publish("from", 0, "1"), publish("from", 0, "2")].concat()
    );
    let received = w.drain(pipe);
    assert!(received.ends_with(b"\x30\x06\x00\x02to\x003") || received.starts_with(b"\x30\x06\x00\x02to\x003"));
    w.feed(pipe, &auth(CONTINUE, b'3'));
    assert_eq!(answer(&mut w, pipe, accepted("guest")), "3");
    assert_eq!(w.drain(pipe), auth(0, b'v'));
    w.feed(other, &publish("to", 0, "4"));
    w.settle();
    assert_eq!(w.drain(pipe), b"\x30\x06\x00\x02to\x004");
}

#[test]
fn a_link_cannot_become_another_users() {
    // Rights belong to a link's user. Otherwise whoever took over its connection could continue with another user's
    // rights.
    let mqtt = Mqtt::default();
    let mut w = world(1, &mqtt);
    let pipe = logged_in(&mut w, &mqtt);
    w.feed(pipe, &auth(AGAIN, b'1'));
    answer(&mut w, pipe, accepted("bob"));
    w.settle();
    let goodbye = w.drain(pipe);
    assert_eq!((goodbye[0], goodbye[2]), (0xE0, 0x87));
    assert!(w.ended(pipe).is_some());
}
