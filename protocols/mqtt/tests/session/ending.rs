//! How a connection ends: DISCONNECT, errors, closes by the engine.

use crate::script::{Script, connect, properties};
use gatepost_core::command::Command;
use gatepost_core::event::{CloseReason, Event, Op};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::session::ReadInterest;
use gatepost_mqtt::Settings;
use gatepost_mqtt::frame::{Connect, Property, Version};

#[test]
fn a_plain_disconnect_drops_the_will_and_later_packets_are_ignored() {
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut script = Script::open(version);
        script.feed(b"\xe0\0\x30\x04\0\x01t\0");
        assert!(matches!(script.command(), Some(Command::DropWill)));
        assert!(script.command().is_none());
        assert!(script.closed().is_some_and(|close| !close.abnormal));
        assert_eq!(
            (script.sent(), script.session.read_interest()),
            (vec![], ReadInterest::Nothing)
        );
        assert_eq!(script.session.poll_timeout(), None);
    }
}

#[test]
fn a_disconnect_with_another_code_keeps_the_will() {
    for code in [0x04, 0x80, 0x83, 0x98, 0x89] {
        let mut script = Script::open(Version::V5);
        script.feed(&[0xE0, 1, code]);
        assert!(script.command().is_none() && script.closed().is_some());
        assert_eq!(script.sent(), []);
    }
}

#[test]
fn a_disconnect_may_change_the_expiry_but_not_from_zero() {
    let open = |expiry| {
        let properties = properties(&[Property::SessionExpiry(expiry)]);
        let connect = Connect {
            properties: properties.as_properties(),
            ..connect(Version::V5)
        };
        Script::open_with(&connect, Settings::default())
    };
    for (before, after, command) in [
        (10, [0, 0, 0, 5], Some(5)),
        (10, [0xFF; 4], Some(86_400)),
        (10, [0; 4], Some(0)),
        (0, [0; 4], Some(0)),
    ] {
        let mut script = open(before);
        script.feed(&[&[0xE0, 7, 0, 5, 0x11][..], &after].concat());
        match script.command() {
            Some(Command::SessionExpiry(seconds)) => assert_eq!(seconds, command),
            other => panic!("{other:?}"),
        }
        assert!(matches!(script.command(), Some(Command::DropWill)));
    }
    let mut script = open(0);
    script.feed(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 1]);
    script.assert_disconnected(0x82);
}

#[test]
fn the_engine_ends_a_connection_with_its_reason() {
    for (why, code) in [
        (CloseReason::TakenOver, 0x8E),
        (CloseReason::Shutdown, 0x8B),
        (CloseReason::Forced, 0x98),
    ] {
        let mut script = Script::open(Version::V5);
        script.event(Event::Closed(why));
        script.assert_disconnected(code);
        let mut script = Script::open(Version::V311);
        script.event(Event::Closed(why));
        script.assert_closed_silently();
    }
}

#[test]
fn packets_out_of_order_are_protocol_errors() {
    let second = b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x01c";
    let auth = b"\xf0\x01\x18";
    for bytes in [
        &second[..],
        auth,
        b"\x20\x03\0\0\0",
        b"\x90\x04\0\x01\0\0",
        b"\xb0\x04\0\x01\0\0",
        b"\xd0\0",
    ] {
        let mut script = Script::open(Version::V5);
        script.feed(bytes);
        script.assert_disconnected(0x82);
    }
    let mut script = Script::open(Version::V311);
    script.feed(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c");
    script.assert_closed_silently();
}

#[test]
fn each_kind_of_malformed_packet_has_its_code() {
    for (bytes, code) in [
        (&b"\x00\0"[..], 0x81),
        (b"\x36\x06\0\x01t\0\x01\0", 0x81),               // QoS 3
        (b"\x38\x04\0\x01t\0", 0x81),                     // DUP at QoS 0
        (b"\x30\x80\x00", 0x81),                          // padded length
        (b"\x30\xff\xff\xff\xff\x01", 0x81),              // five bytes of length
        (b"\x30\x06\0\x03\xed\xa0\x80\0", 0x81),          // a surrogate
        (b"\x30\x04\0\x01\0\0", 0x81),                    // a null character
        (b"\x30\x06\0\x03a/+\0", 0x81),                   // a wildcard
        (b"\x32\x06\0\x01t\0\0\0", 0x82),                 // packet id 0
        (b"\x30\x0a\0\x01t\x06\x01\0\x01\0\x01\0", 0x82), // a property twice
        (b"\x30\x06\0\x01t\x02\x0b\x01", 0x82),           // a subscription identifier
        (b"\x30\x06\0\x01t\x02\x11\x01", 0x81),           // a property of another packet
        (b"\x60\x02\0\x01", 0x81),
        (b"\x80\x07\0\x01\0\0\x01a\0", 0x81),
        (b"\xa0\x06\0\x01\0\0\x01a", 0x81),
        (b"\xe1\0", 0x81),
        (b"\xf1\0", 0x81),
        (b"\x82\x03\0\x01\0", 0x82), // no filter
        (b"\xa2\x03\0\x01\0", 0x82),
        (b"\x82\x07\0\x00\0\0\x01a\0", 0x82),   // packet id 0
        (b"\x82\x07\0\x01\0\0\x01a\x40", 0x81), // reserved options
        (b"\x82\x07\0\x01\0\0\x01a\x30", 0x82), // retain handling 3
        (b"\x40\x03\0\x01\x01", 0x82),          // code that PUBACK does not have
        (b"\xe0\x01\x01", 0x82),
        (b"\xf0\x01\x00", 0x82),
        (b"\xc0\x01\0", 0x81),
    ] {
        let mut script = Script::open(Version::V5);
        script.feed(bytes);
        assert!(script.closed().is_some_and(|close| close.abnormal), "{bytes:02x?}");
        script.assert_disconnected(code);
    }
}

#[test]
fn reasons_are_explained_where_the_client_has_room() {
    for (maximum, explained) in [(16, false), (200, true)] {
        let properties = properties(&[Property::MaximumPacketSize(maximum)]);
        let connect = Connect {
            properties: properties.as_properties(),
            ..connect(Version::V5)
        };
        let mut script = Script::open_with(&connect, Settings::default());
        script.feed(b"\x38\x04\0\x01t\0");
        let sent = script.sent();
        assert_eq!((sent[0], sent[2], sent.len() > 3), (0xE0, 0x81, explained));
        assert!(sent.len() <= maximum as usize);
    }
}

#[test]
fn a_subscribe_that_the_engine_cannot_answer_ends_the_connection() {
    let mut script = Script::open(Version::V5);
    let fault = Box::new(Fault::new(FaultKind::Internal, "oops"));
    script.event(Event::Failed {
        channel: 0,
        op: Op::Subscribe,
        fault,
    });
    script.assert_disconnected(0x80);
}
