//! A user with few rights, with a real session of each protocol: the refusal in the protocol's own words, and what
//! happens to the connection.
//!
//! The user `u` may do nothing; `part` may configure, write to and read from names that begin with `part`, and from
//! `amq.topic` the topics below `ok`.

use gatepost_amqp::Amqp;
use gatepost_core::access::{NamePattern, Rights, TopicPattern};
use gatepost_core::message::Dialect;
use gatepost_core::properties::Codecs;
use gatepost_core::session::Protocol;
use gatepost_core::testing::pipe::Pipe;
use gatepost_core::testing::world::{Settings, World};
use gatepost_mqtt::Mqtt;
use gatepost_stomp::Stomp;

fn world(protocols: &[&dyn Protocol]) -> World {
    let codecs = Codecs::new(protocols.iter().map(|protocol| protocol.codec()).collect());
    let mut w = World::speaking(1, Settings::default(), Default::default(), codecs);
    w.set_rights("u", Rights::default());
    let names = NamePattern::parse("^(part.*|amq\\.topic|mqtt-subscription-.*)$").expect("a pattern");
    let topics = || vec![TopicPattern::parse("ok/#", Dialect::Slash).expect("a filter")];
    let part = Rights::new(names.clone(), names.clone(), names).with_topics("amq.topic", topics(), topics());
    w.set_rights("part", part);
    w
}

/// Sends the bytes. Returns the answer, once nothing more happens.
fn say(w: &mut World, pipe: Pipe, bytes: &[u8]) -> Vec<u8> {
    w.feed(pipe, bytes);
    w.settle();
    w.drain(pipe)
}

mod amqp {
    use super::*;

    const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

    fn short(text: &str) -> Vec<u8> {
        [&[u8::try_from(text.len()).expect("a short string")], text.as_bytes()].concat()
    }

    fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).expect("a frame");
        [
            &[kind],
            &channel.to_be_bytes()[..],
            &size.to_be_bytes(),
            payload,
            &[0xCE],
        ]
        .concat()
    }

    /// A method: class, number, arguments.
    fn method(channel: u16, class: u8, number: u8, arguments: &[&[u8]]) -> Vec<u8> {
        frame(1, channel, &[&[0, class, 0, number][..], &arguments.concat()].concat())
    }

    const EMPTY: &[u8] = &[0, 0, 0, 0];
    const TICKET: &[u8] = &[0, 0];

    fn open(w: &mut World, amqp: &Amqp, user: &str) -> Pipe {
        let pipe = w.open(amqp);
        say(w, pipe, HEADER);
        let response = [&[0][..], user.as_bytes(), b"\0x"].concat();
        let size = (response.len() as u32).to_be_bytes();
        let start_ok = method(0, 10, 11, &[EMPTY, &short("PLAIN"), &size, &response, &short("en_US")]);
        say(w, pipe, &start_ok);
        let mut rest = method(0, 10, 31, &[&2047u16.to_be_bytes(), &131_072u32.to_be_bytes(), &[0, 0]]);
        rest.extend(method(0, 10, 40, &[&short("/"), &[0, 0]]));
        let heard = say(w, pipe, &rest);
        assert_eq!(heard[7..11], [0, 10, 0, 41], "connection.open-ok");
        pipe
    }

    fn open_channel(w: &mut World, pipe: Pipe, channel: u16) {
        let heard = say(w, pipe, &method(channel, 20, 10, &[&[0]]));
        assert_eq!(heard[7..11], [0, 20, 0, 11], "channel.open-ok");
    }

    /// Text and method of the only frame received, a `channel.close`.
    fn refusal(heard: &[u8], channel: u16) -> (String, (u16, u16)) {
        assert_eq!(heard[..3], [&[1][..], &channel.to_be_bytes()].concat(), "{heard:?}");
        assert_eq!(heard[7..13], [0, 20, 0, 40, 1, 147], "channel.close 403: {heard:?}");
        let size = usize::from(heard[13]);
        let text = String::from_utf8(heard[14..14 + size].to_vec()).expect("text");
        let ids = &heard[14 + size..];
        assert_eq!(ids.len(), 5, "one frame: {heard:?}");
        (
            text,
            (
                u16::from_be_bytes([ids[0], ids[1]]),
                u16::from_be_bytes([ids[2], ids[3]]),
            ),
        )
    }

    fn publish(channel: u16, exchange: &str, key: &str) -> Vec<u8> {
        let mut bytes = method(channel, 60, 40, &[TICKET, &short(exchange), &short(key), &[0]]);
        bytes.extend(frame(
            2,
            channel,
            &[&[0, 60, 0, 0][..], &1u64.to_be_bytes(), &[0, 0]].concat(),
        ));
        bytes.extend(frame(3, channel, b"m"));
        bytes
    }

    fn declare_queue(channel: u16, queue: &str, flags: u8) -> Vec<u8> {
        method(channel, 50, 10, &[TICKET, &short(queue), &[flags], EMPTY])
    }

    fn declare_exchange(channel: u16, exchange: &str, flags: u8) -> Vec<u8> {
        method(
            channel,
            40,
            10,
            &[TICKET, &short(exchange), &short("direct"), &[flags], EMPTY],
        )
    }

    fn bind(channel: u16, queue: &str, exchange: &str, key: &str) -> Vec<u8> {
        let arguments: [&[u8]; 6] = [TICKET, &short(queue), &short(exchange), &short(key), &[0], EMPTY];
        method(channel, 50, 20, &arguments)
    }

    const PASSIVE: u8 = 1;
    const DURABLE: u8 = 2;

    /// A commit with a publish that is not permitted.
    fn refused_transaction(w: &mut World, u: Pipe) {
        let transaction = [method(1, 90, 10, &[]), publish(1, "x", "k"), method(1, 90, 20, &[])];
        open_channel(w, u, 1);
        let heard = say(w, u, &transaction.concat());
        assert_eq!(heard[7..11], [0, 90, 0, 11], "tx.select-ok");
        let (text, _) = refusal(&heard[12..], 1);
        assert_eq!(
            text,
            "ACCESS_REFUSED - write access to exchange 'x' in vhost '/' refused for user 'u'"
        );
    }

    /// RabbitMQ's texts. Each is a channel error, and the connection stays open.
    #[test]
    fn every_refused_method_is_answered_with_403_on_its_channel() {
        let amqp = Amqp::new(Default::default());
        let mut w = world(&[&amqp]);
        let guest = open(&mut w, &amqp, "guest");
        open_channel(&mut w, guest, 1);
        for made in [declare_queue(1, "q", DURABLE), declare_exchange(1, "x", DURABLE)] {
            say(&mut w, guest, &made);
        }
        let u = open(&mut w, &amqp, "u");
        let queue = |number: u8, rest: &[&[u8]]| {
            let name = short("q");
            let mut arguments = vec![TICKET, &name[..]];
            arguments.extend(rest);
            method(1, 50, number, &arguments)
        };
        let basic = |number: u8, rest: &[&[u8]]| {
            let name = short("q");
            let mut arguments = vec![TICKET, &name[..]];
            arguments.extend(rest);
            method(1, 60, number, &arguments)
        };
        let unbind = method(1, 50, 50, &[TICKET, &short("q"), &short("x"), &short("k"), EMPTY]);
        let bind_exchange = method(1, 40, 30, &[TICKET, &short("y"), &short("x"), &short("k"), &[0], EMPTY]);
        let doors: [(Vec<u8>, &str, (u16, u16)); 14] = [
            (
                declare_queue(1, "new", DURABLE),
                "configure access to queue 'new'",
                (50, 10),
            ),
            (
                declare_queue(1, "q", PASSIVE),
                "configure access to queue 'q'",
                (50, 10),
            ),
            (queue(40, &[&[0]]), "configure access to queue 'q'", (50, 40)),
            (queue(30, &[&[0]]), "read access to queue 'q'", (50, 30)),
            (bind(1, "q", "x", "k"), "write access to queue 'q'", (50, 20)),
            (unbind, "write access to queue 'q'", (50, 50)),
            (
                declare_exchange(1, "new", DURABLE),
                "configure access to exchange 'new'",
                (40, 10),
            ),
            (
                declare_exchange(1, "x", PASSIVE),
                "configure access to exchange 'x'",
                (40, 10),
            ),
            (
                method(1, 40, 20, &[TICKET, &short("x"), &[0]]),
                "configure access to exchange 'x'",
                (40, 20),
            ),
            (bind_exchange, "write access to exchange 'y'", (40, 30)),
            (publish(1, "x", "k"), "write access to exchange 'x'", (60, 40)),
            (publish(1, "", "q"), "write access to exchange 'amq.default'", (60, 40)),
            (
                basic(20, &[&short("c"), &[0], EMPTY]),
                "read access to queue 'q'",
                (60, 20),
            ),
            (basic(70, &[&[0]]), "read access to queue 'q'", (60, 70)),
        ];
        for (bytes, door, ids) in doors {
            open_channel(&mut w, u, 1);
            let heard = say(&mut w, u, &bytes);
            let text = format!("ACCESS_REFUSED - {door} in vhost '/' refused for user 'u'");
            assert_eq!(refusal(&heard, 1), (text, ids));
            say(&mut w, u, &method(1, 20, 41, &[]));
        }
        refused_transaction(&mut w, u);
        assert!(w.ended(u).is_none(), "the connection goes on");
        // Nothing was done, and a user with rights still can.
        let heard = say(&mut w, guest, &declare_queue(1, "q", PASSIVE));
        assert_eq!(heard[7..11], [0, 50, 0, 11], "the queue is there, and empty");
        assert_eq!(heard[13..17], [0, 0, 0, 0]);
    }

    #[test]
    fn a_topic_outside_of_the_grant_is_refused_by_its_key() {
        let amqp = Amqp::new(Default::default());
        let mut w = world(&[&amqp]);
        let part = open(&mut w, &amqp, "part");
        open_channel(&mut w, part, 1);
        say(&mut w, part, &declare_queue(1, "part", DURABLE));
        let heard = say(&mut w, part, &bind(1, "part", "amq.topic", "ok.#"));
        assert_eq!(heard[7..11], [0, 50, 0, 21], "bind-ok");
        assert!(say(&mut w, part, &publish(1, "amq.topic", "ok.1")).is_empty());
        for (bytes, what) in [
            (bind(1, "part", "amq.topic", "#"), "read access to topic '#'"),
            (publish(1, "amq.topic", "no.1"), "write access to topic 'no.1'"),
        ] {
            let text = format!("ACCESS_REFUSED - {what} in exchange 'amq.topic' in vhost '/' refused for user 'part'");
            let heard = say(&mut w, part, &bytes);
            assert_eq!(refusal(&heard, 1).0, text);
            say(&mut w, part, &method(1, 20, 41, &[]));
            open_channel(&mut w, part, 1);
        }
    }
}

mod mqtt {
    use super::*;

    fn packet(byte: u8, body: &[u8]) -> Vec<u8> {
        let length = u8::try_from(body.len()).expect("a short packet");
        assert!(length < 128);
        [&[byte, length], body].concat()
    }

    fn text(text: &str) -> Vec<u8> {
        let length = u16::try_from(text.len()).expect("a short text");
        [&length.to_be_bytes()[..], text.as_bytes()].concat()
    }

    /// A CONNECT of a clean session, with a will to that topic.
    fn connect(version: u8, user: &str, will: Option<&str>) -> Vec<u8> {
        let mut body = b"\x00\x04MQTT".to_vec();
        body.extend([version, if will.is_some() { 0xC6 } else { 0xC2 }, 0, 0]);
        let properties: &[u8] = if version == 5 { &[0] } else { &[] };
        body.extend(properties);
        body.extend(text(user));
        if let Some(topic) = will {
            body.extend(properties);
            body.extend(text(topic));
            body.extend(text("gone"));
        }
        body.extend(text(user));
        body.extend(text("x"));
        packet(0x10, &body)
    }

    fn open(w: &mut World, mqtt: &Mqtt, version: u8, user: &str) -> Pipe {
        let pipe = w.open(mqtt);
        let heard = say(w, pipe, &connect(version, user, None));
        assert_eq!((heard[0], heard[3]), (0x20, 0), "{heard:?}");
        pipe
    }

    fn publish(version: u8, topic: &str, qos: u8, id: u8) -> Vec<u8> {
        let mut body = text(topic);
        if qos > 0 {
            body.extend([0, id]);
        }
        if version == 5 {
            body.push(0);
        }
        body.push(b'm');
        packet(0x30 | qos << 1, &body)
    }

    fn subscribe(version: u8, filters: &[&str]) -> Vec<u8> {
        let mut body = vec![0, 1];
        if version == 5 {
            body.push(0);
        }
        for filter in filters {
            body.extend(text(filter));
            body.push(1);
        }
        packet(0x82, &body)
    }

    #[test]
    fn a_filter_outside_of_the_grant_is_refused_and_the_next_one_is_not() {
        let mqtt = Mqtt::default();
        let mut w = world(&[&mqtt]);
        for (version, refused) in [(4, 0x80), (5, 0x87)] {
            let pipe = open(&mut w, &mqtt, version, "part");
            let heard = say(&mut w, pipe, &subscribe(version, &["#", "ok/+", "no/1"]));
            let codes = &heard[heard.len() - 3..];
            assert_eq!((heard[0], codes), (0x90, &[refused, 1, refused][..]), "{heard:?}");
            // The refused filters get no messages, the other one does.
            let guest = open(&mut w, &mqtt, 4, "guest");
            say(
                &mut w,
                guest,
                &[publish(4, "no/1", 0, 0), publish(4, "ok/1", 0, 0)].concat(),
            );
            assert_eq!(w.drain(pipe), publish(version, "ok/1", 0, 0));
            let nobody = open(&mut w, &mqtt, version, "u");
            let heard = say(&mut w, nobody, &subscribe(version, &["ok/1"]));
            assert_eq!(heard.last(), Some(&refused), "{heard:?}");
            for pipe in [pipe, guest, nobody] {
                w.close(pipe);
            }
            w.settle();
        }
    }

    /// MQTT 5 has a code for it, and the connection stays open. MQTT 3 has none, so it is closed, as in RabbitMQ. A QoS
    /// 0 message has no answer in either version.
    #[test]
    fn a_publish_outside_of_the_grant_is_refused_by_reason_or_by_the_end_of_the_connection() {
        let mqtt = Mqtt::default();
        let mut w = world(&[&mqtt]);
        for user in ["part", "u"] {
            let five = open(&mut w, &mqtt, 5, user);
            let heard = say(&mut w, five, &publish(5, "no/1", 1, 7));
            assert_eq!(heard[..5], [0x40, heard[1], 0, 7, 0x87], "PUBACK");
            let heard = say(&mut w, five, &publish(5, "no/1", 2, 8));
            assert_eq!(heard[..5], [0x50, heard[1], 0, 8, 0x87], "PUBREC");
            assert!(say(&mut w, five, &publish(5, "no/1", 0, 0)).is_empty());
            assert_eq!(say(&mut w, five, &[0xC0, 0]), [0xD0, 0], "it goes on");
            for qos in [1, 2] {
                let three = open(&mut w, &mqtt, 4, user);
                assert!(say(&mut w, three, &publish(4, "no/1", 0, 0)).is_empty());
                assert_eq!(say(&mut w, three, &[0xC0, 0]), [0xD0, 0], "QoS 0 is not answered");
                assert!(say(&mut w, three, &publish(4, "no/1", qos, 7)).is_empty());
                assert!(w.ended(three).is_some(), "QoS {qos}");
            }
        }
        let allowed = open(&mut w, &mqtt, 5, "part");
        // 0x10: no subscribers.
        let heard = say(&mut w, allowed, &publish(5, "ok/1", 1, 7));
        assert!(
            matches!(heard[..], [0x40, 2, 0, 7] | [0x40, _, 0, 7, 0x10, ..]),
            "{heard:?}"
        );
    }

    #[test]
    fn a_will_outside_of_the_grant_is_refused_with_its_connection() {
        let mqtt = Mqtt::default();
        let mut w = world(&[&mqtt]);
        let five = w.open(&mqtt);
        let heard = say(&mut w, five, &connect(5, "part", Some("no/w")));
        assert_eq!((heard[0], heard[2], heard[3]), (0x20, 0, 0x87), "{heard:?}");
        assert!(w.ended(five).is_some());
        let three = w.open(&mqtt);
        let heard = say(&mut w, three, &connect(4, "part", Some("no/w")));
        assert_eq!(heard, [0x20, 2, 0, 5]);
        assert!(w.ended(three).is_some());
        let good = w.open(&mqtt);
        let heard = say(&mut w, good, &connect(4, "part", Some("ok/w")));
        assert_eq!(heard, [0x20, 2, 0, 0]);
    }
}

mod stomp {
    use super::*;

    fn open(w: &mut World, stomp: &Stomp, user: &str) -> Pipe {
        let pipe = w.open(stomp);
        let connect = format!("CONNECT\naccept-version:1.2\nhost:/\nlogin:{user}\npasscode:x\n\n\0");
        let heard = say(w, pipe, connect.as_bytes());
        assert!(heard.starts_with(b"CONNECTED\n"), "{}", String::from_utf8_lossy(&heard));
        pipe
    }

    /// Each gets an ERROR with the text of the fault, and the connection is closed: STOMP has no smaller refusal.
    #[test]
    fn every_refused_frame_is_answered_with_an_error_and_the_close() {
        let stomp = Stomp::new(Default::default());
        let mut w = world(&[&stomp]);
        let guest = open(&mut w, &stomp, "guest");
        say(&mut w, guest, b"SEND\ndestination:/queue/q\n\nm\0");
        for (user, frames, what) in [
            (
                "u",
                "SEND\ndestination:/queue/q\n\nm\0",
                "configure access to queue 'q'",
            ),
            (
                "u",
                "SEND\ndestination:/amq/queue/q\n\nm\0",
                "write access to exchange 'amq.default'",
            ),
            (
                "u",
                "SEND\ndestination:/topic/a\n\nm\0",
                "write access to exchange 'amq.topic'",
            ),
            (
                "u",
                "SEND\ndestination:/exchange/amq.direct/k\n\nm\0",
                "write access to exchange 'amq.direct'",
            ),
            (
                "u",
                "SUBSCRIBE\nid:1\ndestination:/queue/q\n\n\0",
                "configure access to queue 'q'",
            ),
            (
                "u",
                "SUBSCRIBE\nid:1\ndestination:/amq/queue/q\n\n\0",
                "read access to queue 'q'",
            ),
            (
                "u",
                "BEGIN\ntransaction:t\n\n\0SEND\ntransaction:t\ndestination:/topic/a\n\nm\0COMMIT\ntransaction:t\n\n\0",
                "write access to exchange 'amq.topic'",
            ),
            (
                "part",
                "SEND\ndestination:/topic/no.1\n\nm\0",
                "write access to topic 'no.1' in exchange 'amq.topic'",
            ),
        ] {
            let pipe = open(&mut w, &stomp, user);
            let heard = String::from_utf8(say(&mut w, pipe, frames.as_bytes())).expect("text");
            let text = format!("{what} in vhost '/' refused for user '{user}'");
            assert!(
                heard.starts_with("ERROR\n") && heard.contains("message:access_refused\n"),
                "{heard}"
            );
            assert!(heard.contains(&text), "{text}: {heard}");
            assert!(w.ended(pipe).is_some());
        }
        let heard = say(
            &mut w,
            guest,
            b"SUBSCRIBE\nid:1\ndestination:/queue/q\nack:client\n\n\0",
        );
        let heard = String::from_utf8(heard).expect("text");
        assert_eq!(heard.matches("MESSAGE\n").count(), 1, "it is the only one: {heard}");
    }
}
