//! Messages towards the client.

use super::script::*;
use crate::codec;
use crate::frame::content::{BasicProperties, ContentHeader};
use crate::frame::{Basic, Method, table};
use crate::properties::AmqpProperties;
use crate::settings::Settings;
use gatepost_core::command::{Command, Outcome};
use gatepost_core::event::{Delivery, DeliveryFlags, Event, Op};
use gatepost_core::interop::Field;
use gatepost_core::message::{Dialect, Envelope, Message};
use gatepost_core::properties::{Codecs, Origin, Properties, PropertyCodec, Table, Value};
use std::sync::Arc;

/// Channel 1 with consumer 1 under the tag `t`.
fn consuming(capabilities: &[&str]) -> Script {
    let mut script = Script::running(Settings::default(), capabilities);
    script.open_channel(1);
    let consume = Basic::Consume {
        ticket: 0,
        queue: "q",
        tag: "t",
        no_local: false,
        no_ack: false,
        exclusive: false,
        nowait: true,
        arguments: Table::default(),
    };
    script.send(1, Method::Basic(consume));
    script.forget();
    script
}

fn plain(body: &[u8]) -> Message {
    message(&BasicProperties::default(), Envelope::default(), body)
}

/// The properties in the second frame written, which is a content header.
fn written_properties(script: &mut Script) -> Vec<u8> {
    let octets = script.octets();
    let (_, used) = codec::split(&octets, u32::MAX).unwrap().unwrap();
    let (frame, _) = codec::split(&octets[used..], u32::MAX).unwrap().unwrap();
    ContentHeader::decode(frame.payload).unwrap().properties.to_vec()
}

/// The bug: keys over 255 octets were cut, which made them other keys.
#[test]
fn a_message_whose_key_amqp_cannot_express_is_dropped_and_counted() {
    let mut script = consuming(&[]);
    let spoken = |key: &str, dialect| {
        let envelope = Envelope {
            dialect,
            ..Envelope::default()
        };
        Message::new(envelope, "amq.topic", key, b"", b"x")
    };
    let held = |number, message| Delivery {
        qos: 1,
        ..delivery(1, 1, number, message)
    };
    let fits = "k".repeat(255);
    script.tell(Event::Deliver(held(1, spoken(&fits, Dialect::Slash))));
    assert!(script.said()[0].contains(&fits));
    for (number, message) in [
        (2, spoken(&"k".repeat(256), Dialect::Slash)),
        (3, spoken(&"k".repeat(300), Dialect::Dot)),
        // Short enough, but each dot within the level is written as an escape.
        (4, spoken(&".".repeat(100), Dialect::Slash)),
    ] {
        script.tell(Event::Deliver(held(number, message.clone())));
        assert!(script.said().is_empty());
        let settled = Command::Settle {
            channel: 1,
            number,
            multiple: false,
            outcome: Outcome::Accept,
        };
        assert_eq!(format!("{:?}", script.commands()), format!("{:?}", [settled]));
        // A delivery that needs no settling is not settled.
        script.tell(Event::Deliver(delivery(1, 1, number, message)));
        assert!(script.said().is_empty() && script.commands().is_empty());
    }
    script.tell(Event::Got {
        delivery: held(5, spoken(&"k".repeat(256), Dialect::Dot)),
        remaining: 3,
    });
    assert_eq!(script.said(), ["1 Basic(GetEmpty { reserved: \"\" })"]);
    assert_eq!(script.commands().len(), 1);
    assert_eq!(script.session.drops.total(Field::Topic), 7);
}

#[test]
fn a_delivery_copies_the_properties_as_they_came() {
    let mut script = consuming(&[]);
    let properties = BasicProperties {
        content_type: Some(b"text/plain"),
        headers: Some(b"\x01aL\0\0\0\0\0\0\0\x01"),
        cluster_id: Some(b""),
        ..Default::default()
    };
    let message = message(&properties, Envelope::default(), b"hello");
    let raw = message.properties_raw().to_vec();
    script.tell(Event::Deliver(delivery(1, 1, 9, message.clone())));
    let expected = [
        "1 Basic(Deliver { tag: \"t\", number: 9, redelivered: false, exchange: \"e\", key: \"k\" })",
        "1 header 5",
        "1 body hello",
    ];
    assert_eq!(script.said(), expected);
    script.tell(Event::Deliver(delivery(1, 1, 10, message)));
    assert_eq!(written_properties(&mut script), raw);
}

#[test]
fn bodies_are_split_at_frame_max_and_empty_ones_have_no_frame() {
    let mut script = consuming(&[]);
    script.tell(Event::Deliver(delivery(1, 1, 1, plain(&vec![b'x'; 300_000]))));
    let lengths: Vec<usize> = script.said()[2..]
        .iter()
        .map(|said| said.len() - "1 body ".len())
        .collect();
    assert_eq!(lengths, [131_064, 131_064, 300_000 - 2 * 131_064]);
    script.tell(Event::Deliver(delivery(1, 1, 2, plain(b""))));
    assert_eq!(script.said().len(), 2);
}

#[test]
fn redelivered_get_and_return_say_so() {
    let mut script = consuming(&[]);
    let again = Delivery {
        flags: DeliveryFlags::REDELIVERED,
        ..delivery(1, 0, 3, plain(b"x"))
    };
    script.tell(Event::Got {
        delivery: again,
        remaining: 4,
    });
    let message = plain(b"y");
    script.tell(Event::Returned {
        channel: 1,
        number: 1,
        message,
    });
    let expected = [
        "1 Basic(GetOk { number: 3, redelivered: true, exchange: \"e\", key: \"k\", remaining: 4 })",
        "1 header 1",
        "1 body x",
        "1 Basic(Return { code: 312, text: \"NO_ROUTE\", exchange: \"e\", key: \"k\" })",
        "1 header 1",
        "1 body y",
    ];
    assert_eq!(script.said(), expected);
}

#[test]
fn mandatory_return_precedes_ack() {
    let mut script = consuming(&[]);
    let message = plain(b"");
    script.tell_all(vec![
        Event::Returned {
            channel: 1,
            number: 1,
            message,
        },
        Event::Confirmed { channel: 1, upto: 1 },
    ]);
    let said = script.said();
    assert!(said[0].contains("Return") && said[2].contains("Ack"), "{said:?}");
}

#[test]
fn bcc_stripped_cc_kept() {
    let array = |key| Value::Array([Value::text(key)].into());
    let mut content = Vec::new();
    table::put_pair(&mut content, b"CC", &array("a"));
    let mut kept = content.clone();
    table::put_pair(&mut content, b"BCC", &array("b"));
    table::put_pair(&mut content, b"z", &Value::Void);
    table::put_pair(&mut kept, b"z", &Value::Void);
    let properties = BasicProperties {
        headers: Some(&content),
        ..Default::default()
    };
    let envelope = Envelope {
        extra_keys: true,
        ..Envelope::default()
    };
    let mut script = consuming(&[]);
    script.tell(Event::Deliver(delivery(1, 1, 1, message(&properties, envelope, b""))));
    let written = written_properties(&mut script);
    assert_eq!(
        BasicProperties::decode(&written).unwrap().headers,
        Some(kept.as_slice())
    );
}

#[test]
fn no_delivery_after_cancel_ok_and_none_before_it_is_lost() {
    let mut script = consuming(&[]);
    script.send(
        1,
        Method::Basic(Basic::Cancel {
            tag: "t",
            nowait: false,
        }),
    );
    script.tell(Event::Deliver(delivery(1, 1, 1, plain(b""))));
    script.tell(Event::Done {
        channel: 1,
        op: Op::Cancel,
        consumer: 1,
    });
    script.tell(Event::Deliver(delivery(1, 1, 2, plain(b""))));
    let said = script.said();
    assert_eq!(said.len(), 3, "{said:?}");
    assert_eq!(said[2], "1 Basic(CancelOk { tag: \"t\" })");
}

#[test]
fn queue_delete_sends_basic_cancel_to_clients_with_the_capability() {
    let gone = || Event::ConsumerGone {
        channel: 1,
        consumer: 1,
    };
    let mut script = consuming(&["consumer_cancel_notify"]);
    script.tell(gone());
    assert_eq!(script.said(), ["1 Basic(Cancel { tag: \"t\", nowait: true })"]);
    script.send(1, Method::Basic(Basic::CancelOk { tag: "t" }));
    assert!(script.ended.is_none() && script.said().is_empty());

    let mut script = consuming(&[]);
    script.tell(gone());
    assert!(script.said().is_empty());

    let mut script = consuming(&["consumer_cancel_notify"]);
    script.send(
        1,
        Method::Basic(Basic::Cancel {
            tag: "t",
            nowait: false,
        }),
    );
    script.tell(gone());
    assert!(script.said().is_empty(), "its cancel-ok comes");
    script.tell(Event::Done {
        channel: 1,
        op: Op::Cancel,
        consumer: 1,
    });
    assert_eq!(script.said(), ["1 Basic(CancelOk { tag: \"t\" })"]);
}

struct Foreign;

impl PropertyCodec for Foreign {
    fn origin(&self) -> Origin {
        Origin(77)
    }
    fn decode(&self, _: &[u8]) -> Properties {
        Properties {
            content_type: Some("a/b".into()),
            ..Properties::default()
        }
    }
}

#[test]
fn a_message_of_another_protocol_is_translated() {
    let mut script = consuming(&[]);
    script.codecs = Codecs::new(vec![Arc::new(AmqpProperties), Arc::new(Foreign)]);
    let envelope = Envelope {
        origin: Origin(77),
        dialect: Dialect::Slash,
        durable: true,
        ..Envelope::default()
    };
    let message = Message::new(envelope, "amq.topic", "plant/1/v1.5", b"", b"hi");
    script.tell(Event::Deliver(delivery(1, 1, 1, message.clone())));
    let deliver = "1 Basic(Deliver { tag: \"t\", number: 1, redelivered: false, exchange: \"amq.topic\", key: \"plant.1.v1%2E5\" })";
    assert_eq!(script.said()[0], deliver);
    let replayed = Delivery {
        flags: DeliveryFlags::RETAIN,
        ..delivery(1, 1, 2, message)
    };
    script.tell(Event::Deliver(replayed));
    let written = written_properties(&mut script);
    let expected = BasicProperties {
        content_type: Some(b"a/b"),
        headers: Some(b"\x0dx-mqtt-retaint\x01"),
        delivery_mode: Some(2),
        ..Default::default()
    };
    assert_eq!(BasicProperties::decode(&written), Ok(expected));
}
