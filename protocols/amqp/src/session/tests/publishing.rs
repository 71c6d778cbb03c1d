//! Content, whole and in pieces; properties; confirms.

use super::script::*;
use crate::frame::content::BasicProperties;
use crate::frame::{Basic, Confirm, Method, table};
use crate::settings::Settings;
use gatepost_core::command::{Command, PublishFlags};
use gatepost_core::event::{Event, Op};
use gatepost_core::fault::FaultKind;
use gatepost_core::message::Message;
use gatepost_core::properties::{PropertyCodec, Value};
use gatepost_core::time::Wall;

fn published(script: &mut Script) -> Message {
    match script.command() {
        Command::Publish { message, .. } => message,
        other => panic!("{other:?}"),
    }
}

/// Publishes to `amq.topic` in one piece of input.
fn publish_whole(script: &mut Script, properties: &BasicProperties<'_>, octets: &[u8]) {
    let mut input = Vec::new();
    let method = Basic::Publish {
        ticket: 0,
        exchange: "amq.topic",
        key: "a.b",
        mandatory: true,
        immediate: false,
    };
    method.encode(1, &mut input);
    input.extend(header(1, octets.len() as u64, properties));
    for part in octets.chunks(4088) {
        input.extend(body(1, part));
    }
    script.feed(&input);
}

#[test]
fn a_whole_publish_becomes_a_message() {
    let mut script = Script::with_channel();
    let properties = BasicProperties {
        delivery_mode: Some(2),
        priority: Some(7),
        expiration: Some(b"60000"),
        user_id: Some(b"guest"),
        ..Default::default()
    };
    publish_whole(&mut script, &properties, b"hello");
    let Command::Publish {
        channel: 1,
        flags,
        packet_id: 0,
        message,
    } = script.command()
    else {
        panic!("no publish");
    };
    assert_eq!(flags, PublishFlags::MANDATORY);
    assert_eq!(
        (message.exchange(), message.key(), message.body()),
        ("amq.topic", "a.b", b"hello".as_slice())
    );
    let envelope = message.envelope();
    assert!(envelope.durable && envelope.qos == 1 && !envelope.retain && !envelope.extra_keys);
    assert_eq!(envelope.priority, Some(7));
    assert_eq!(envelope.deadline, Some(Wall(script.now.wall.0 + 60_000)));
    let mut raw = Vec::new();
    properties.encode(&mut raw);
    assert_eq!(message.properties_raw(), raw);
}

#[test]
fn zero_length_body_needs_no_body_frame() {
    let mut script = Script::with_channel();
    publish_whole(&mut script, &BasicProperties::default(), b"");
    let message = published(&mut script);
    assert!(message.body().is_empty() && !message.envelope().durable);
}

#[test]
fn body_split_over_frames_reassembled() {
    let mut script = Script::with_channel();
    let octets: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
    publish_whole(&mut script, &BasicProperties::default(), &octets);
    assert_eq!(published(&mut script).body(), octets);
    assert_eq!(script.session.unfinished_bytes, 0);
}

#[test]
fn content_may_arrive_in_any_pieces_and_channels_interleave() {
    let mut script = Script::with_channel();
    script.open_channel(2);
    script.send(1, publish("one"));
    script.send(2, publish("two"));
    script.feed(&header(2, 2, &Default::default()));
    script.feed(&header(1, 3, &Default::default()));
    script.feed(&body(1, b"a"));
    script.feed(&body(2, b""));
    script.feed(&body(2, b"xy"));
    let message = published(&mut script);
    assert_eq!((message.key(), message.body()), ("two", b"xy".as_slice()));
    for octet in body(1, b"bc") {
        script.feed(&[octet]);
    }
    let message = published(&mut script);
    assert_eq!((message.key(), message.body()), ("one", b"abc".as_slice()));
}

#[test]
fn faults_of_content() {
    let publish_header = |size| {
        let mut octets = Vec::new();
        publish("k").encode(1, &mut octets);
        octets.extend(header(1, size, &Default::default()));
        octets
    };
    let mut method = Vec::new();
    publish("k").encode(1, &mut method);
    let mut other_class = header(1, 0, &Default::default());
    other_class[8] = 50;
    let mut weighty = header(1, 0, &Default::default());
    weighty[10] = 1;
    let header_due = "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead";
    let body_due = "UNEXPECTED_FRAME - expected content body, got non content body frame instead";
    let no_method = "UNEXPECTED_FRAME - expected method frame, got non method frame instead";
    let wrong_class = "UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 instead";
    let too_much = "FRAME_ERROR - content body frame exceeds remaining content size";
    let too_large = "FRAME_ERROR - content body size 536870913 exceeds maximum allowed size 536870912";
    for (octets, code, text) in [
        (header(1, 0, &Default::default()), 505, no_method),
        (body(1, b"a"), 505, no_method),
        ([method.clone(), body(1, b"a")].concat(), 505, header_due),
        ([method.clone(), method.clone()].concat(), 505, header_due),
        ([method.clone(), other_class].concat(), 505, wrong_class),
        ([method.clone(), weighty].concat(), 505, header_due),
        (
            [publish_header(2), header(1, 2, &Default::default())].concat(),
            505,
            body_due,
        ),
        ([publish_header(2), method.clone()].concat(), 505, body_due),
        ([publish_header(2), body(1, b"abc")].concat(), 501, too_much),
        (publish_header(536_870_913), 501, too_large),
    ] {
        let mut script = Script::with_channel();
        script.feed(&octets);
        let (channel, said, said_text, _) = script.close();
        assert_eq!((channel, said, said_text.as_str()), (0, code, text));
    }
}

#[test]
fn malformed_properties_501() {
    let mut script = Script::with_channel();
    script.send(1, publish("k"));
    let bad_headers = BasicProperties {
        headers: Some(b"\x01aZ"),
        ..Default::default()
    };
    script.feed(&header(1, 0, &bad_headers));
    let (channel, code, text, ids) = script.close();
    assert_eq!((channel, code, ids), (0, 501, (60, 40)));
    assert!(text.starts_with("FRAME_ERROR - cannot decode <<32,0"), "{text}");
}

#[test]
fn a_message_over_the_limit_is_read_and_costs_its_channel() {
    let settings = Settings {
        max_message_size: 10,
        ..Settings::default()
    };
    let mut script = Script::running(settings, &[]);
    script.open_channel(1);
    script.send(1, publish("k"));
    script.feed(&header(1, 11, &Default::default()));
    script.feed(&body(1, b"0123456789"));
    assert!(script.said().is_empty() && script.session.unfinished_bytes == 0);
    script.feed(&body(1, b"x"));
    let text = "PRECONDITION_FAILED - message size 11 is larger than configured max size 10";
    assert_eq!(script.close(), (1, 406, text.into(), (60, 40)));
    script.forget();
    // The same in one piece.
    script.open_channel(2);
    let mut octets = Vec::new();
    publish("k").encode(2, &mut octets);
    octets.extend(header(2, 11, &Default::default()));
    octets.extend(body(2, b"0123456789x"));
    publish("k").encode(2, &mut octets);
    script.feed(&octets);
    assert_eq!(script.close(), (2, 406, text.into(), (60, 40)));
}

#[test]
fn unfinished_bodies_are_bounded() {
    let settings = Settings {
        unfinished_bytes_max: 100,
        ..Settings::default()
    };
    let mut script = Script::running(settings, &[]);
    for channel in 1..=2 {
        script.open_channel(channel);
        script.send(channel, publish("k"));
        script.feed(&header(channel, 1000, &Default::default()));
        script.feed(&body(channel, &[0; 60]));
    }
    let (channel, code, ..) = script.close();
    assert_eq!((channel, code), (0, 506));
}

#[test]
fn a_closed_channel_releases_its_unfinished_bytes() {
    let mut script = Script::with_channel();
    script.send(1, publish("k"));
    script.feed(&header(1, 1000, &Default::default()));
    script.feed(&body(1, &[0; 60]));
    assert_eq!(script.session.unfinished_bytes, 60);
    script.tell(failed(
        1,
        gatepost_core::event::Op::Settle,
        FaultKind::PreconditionFailed,
        "x",
    ));
    assert_eq!(script.session.unfinished_bytes, 0);
}

#[test]
fn immediate_540() {
    let mut script = Script::with_channel();
    let method = Basic::Publish {
        ticket: 0,
        exchange: "",
        key: "k",
        mandatory: false,
        immediate: true,
    };
    script.send(1, Method::Basic(method));
    script.feed(&header(1, 0, &Default::default()));
    assert_eq!(
        script.close(),
        (0, 540, "NOT_IMPLEMENTED - immediate=true".into(), (60, 40))
    );
}

#[test]
fn an_impersonator_may_name_another_user() {
    let mut script = Script::new(Settings::default());
    script.log_in(&[]);
    script.tell(Event::Authenticated {
        user: "guest".into(),
        data: Box::default(),
        impersonates: true,
    });
    let (channel_max, frame_max) = (script.session.channel_max, script.session.settings.frame_max);
    script.send(0, tune_ok(channel_max, frame_max, 60));
    script.send(0, open("/"));
    script.tell(Event::Attached);
    script.forget();
    script.open_channel(1);
    let bob = BasicProperties {
        user_id: Some(b"bob"),
        ..Default::default()
    };
    publish_whole(&mut script, &bob, b"x");
    assert!(matches!(script.command(), Command::Publish { .. }));
}

#[test]
fn properties_that_are_refused_406_once_the_engine_has_looked_at_the_exchange() {
    let mut cc = Vec::new();
    table::put_pair(&mut cc, b"CC", &Value::text("k"));
    let cases = [
        (
            BasicProperties {
                expiration: Some(b"abc"),
                ..Default::default()
            },
            "invalid expiration 'abc': no_integer",
        ),
        (
            BasicProperties {
                user_id: Some(b"bob"),
                ..Default::default()
            },
            "user_id property set to 'bob' but authenticated user was 'guest'",
        ),
        (
            BasicProperties {
                headers: Some(&cc),
                ..Default::default()
            },
            "invalid message: {unacceptable_type_in_header,\"CC\",longstr}",
        ),
    ];
    for (properties, text) in cases {
        let mut script = Script::with_channel();
        publish_whole(&mut script, &properties, b"x");
        let Command::TryPublish(tried) = script.command() else {
            panic!("published");
        };
        assert!(script.said().is_empty(), "the engine says it");
        let fault = tried.refused.expect("it is refused");
        script.tell(Event::Failed {
            channel: tried.channel,
            op: Op::Publish,
            fault: Box::new(fault),
        });
        assert_eq!(
            script.close(),
            (1, 406, format!("PRECONDITION_FAILED - {text}"), (60, 40))
        );
        assert!(script.ended.is_none());
    }
}

#[test]
fn headers_that_become_part_of_the_envelope() {
    let mut script = Script::with_channel();
    let mut content = Vec::new();
    table::put_pair(&mut content, b"BCC", &Value::Array([Value::text("x")].into()));
    table::put_pair(&mut content, b"x-mqtt-retain", &Value::Bool(true));
    let properties = BasicProperties {
        headers: Some(&content),
        ..Default::default()
    };
    publish_whole(&mut script, &properties, b"");
    let message = published(&mut script);
    assert!(message.envelope().extra_keys && message.envelope().retain);
    let keys = crate::properties::AmqpProperties.extra_keys(message.properties_raw());
    assert_eq!(keys, ["x".into()]);
}

#[test]
fn confirm_multiple_flag_covers_lower() {
    let mut script = Script::with_channel();
    script.send(1, Method::Confirm(Confirm::Select { nowait: true }));
    publish_whole(&mut script, &BasicProperties::default(), b"x");
    assert!(matches!(script.command(), Command::Publish { flags, .. } if flags.contains(PublishFlags::CONFIRM)));
    for upto in [1, 3, 3] {
        script.tell(Event::Confirmed { channel: 1, upto });
    }
    let expected = [
        "1 Basic(Ack { number: 1, multiple: false })",
        "1 Basic(Ack { number: 3, multiple: true })",
    ];
    assert_eq!(script.said(), expected);
}

#[test]
fn a_refused_publish_is_nacked_in_its_place() {
    let mut script = Script::with_channel();
    let refused = |number| Event::Refused {
        channel: 1,
        number,
        why: FaultKind::QuotaExceeded,
    };
    script.tell_all(vec![refused(4), refused(3), Event::Confirmed { channel: 1, upto: 6 }]);
    let expected = [
        "1 Basic(Ack { number: 2, multiple: true })",
        "1 Basic(Nack { number: 3, multiple: false, requeue: false })",
        "1 Basic(Nack { number: 4, multiple: false, requeue: false })",
        "1 Basic(Ack { number: 6, multiple: true })",
    ];
    assert_eq!(script.said(), expected);
    script.tell_all(vec![refused(7), Event::Confirmed { channel: 1, upto: 7 }]);
    assert_eq!(
        script.said(),
        ["1 Basic(Nack { number: 7, multiple: false, requeue: false })"]
    );
}
