//! A connection remembers the last publish and its properties. Whatever comes between, each message is as if nothing were known.

use super::script::*;
use crate::frame::content::BasicProperties;
use crate::frame::{Basic, table};
use gatepost_core::command::{Command, PublishFlags};
use gatepost_core::message::Message;
use gatepost_core::properties::Value;
use gatepost_core::time::Wall;

/// The octets of a whole publish on channel 1.
fn whole(address: (&str, &str), mandatory: bool, properties: &BasicProperties<'_>) -> Vec<u8> {
    let mut octets = Vec::new();
    let method = Basic::Publish {
        ticket: 0,
        exchange: address.0,
        key: address.1,
        mandatory,
        immediate: false,
    };
    method.encode(1, &mut octets);
    octets.extend(header(1, 1, properties));
    octets.extend(body(1, b"m"));
    octets
}

fn publish(
    script: &mut Script,
    address: (&str, &str),
    mandatory: bool,
    properties: &BasicProperties<'_>,
) -> (Message, bool) {
    script.feed(&whole(address, mandatory, properties));
    match script.command() {
        Command::Publish { message, flags, .. } => (message, flags.contains(PublishFlags::MANDATORY)),
        other => panic!("{other:?}"),
    }
}

/// What the first publish of a connection says.
fn alone(address: (&str, &str), mandatory: bool, properties: &BasicProperties<'_>) -> (Message, bool) {
    publish(&mut Script::with_channel(), address, mandatory, properties)
}

fn assert_same(known: &(Message, bool), alone: &(Message, bool)) {
    let of = |(m, mandatory): &(Message, bool)| {
        let names = (m.exchange().to_owned(), m.key().to_owned(), m.lengths());
        (names, *m.envelope(), m.payload().to_vec(), m.route_hash(), *mandatory)
    };
    assert_eq!(of(known), of(alone));
}

#[test]
fn each_message_is_as_if_nothing_were_known() {
    let mut keys = Vec::new();
    table::put_pair(&mut keys, b"CC", &Value::Array([Value::text("x")].into()));
    let lists = [
        BasicProperties::default(),
        BasicProperties {
            delivery_mode: Some(2),
            priority: Some(7),
            ..Default::default()
        },
        BasicProperties {
            message_id: Some(b"m-1"),
            ..Default::default()
        },
        BasicProperties {
            headers: Some(&keys),
            ..Default::default()
        },
    ];
    // Exchange and key have the same octets in two of them.
    let addresses = [
        ("amq.topic", "a.b"),
        ("amq.topica", ".b"),
        ("", "q"),
        ("amq.topic", "a.c"),
    ];
    let mut script = Script::with_channel();
    for n in 0..600 {
        // The same for a while, then in turn.
        let (a, l) = if n % 100 < 60 {
            (n / 100 % 4, n / 20 % 4)
        } else {
            (n % 4, n / 3 % 4)
        };
        let mandatory = n % 7 == 0;
        let message = publish(&mut script, addresses[a], mandatory, &lists[l]);
        assert_same(&message, &alone(addresses[a], mandatory, &lists[l]));
    }
}

/// The time of a message is its own, and so is when it expires.
#[test]
fn what_is_known_has_no_time() {
    let mut script = Script::with_channel();
    let list = BasicProperties {
        expiration: Some(b"60000"),
        ..Default::default()
    };
    for properties in [&BasicProperties::default(), &list, &BasicProperties::default(), &list] {
        for _ in 0..3 {
            script.pass(10);
            let (message, _) = publish(&mut script, ("amq.topic", "a"), false, properties);
            let now = script.now.wall;
            assert_eq!(message.envelope().received, now);
            let deadline = properties.expiration.map(|_| Wall(now.0 + 60_000));
            assert_eq!(message.envelope().deadline, deadline);
        }
    }
}

#[test]
fn a_forged_user_is_refused_however_often_the_method_came() {
    let mut script = Script::with_channel();
    for user in [&b"guest"[..], b"guest", b"guest"] {
        let list = BasicProperties {
            user_id: Some(user),
            ..Default::default()
        };
        publish(&mut script, ("amq.topic", "a"), false, &list);
    }
    let forged = BasicProperties {
        user_id: Some(b"bob"),
        ..Default::default()
    };
    script.feed(&whole(("amq.topic", "a"), false, &forged));
    match script.command() {
        Command::TryPublish(tried) => {
            let text = "user_id property set to 'bob' but authenticated user was 'guest'";
            assert_eq!(tried.refused.map(|fault| fault.text.to_string()).as_deref(), Some(text));
        }
        other => panic!("{other:?}"),
    }
}

/// A message in pieces, and one cut by the end of the input, go another way.
#[test]
fn a_known_publish_may_come_in_pieces() {
    let mut script = Script::with_channel();
    let list = BasicProperties::default();
    let octets = whole(("amq.topic", "a.b"), false, &list);
    let expected = alone(("amq.topic", "a.b"), false, &list);
    for end in (1..octets.len()).chain([octets.len()]) {
        script.feed(&octets[..end]);
        script.feed(&octets[end..]);
        match script.command() {
            Command::Publish { message, flags, .. } => {
                assert_same(&(message, flags.contains(PublishFlags::MANDATORY)), &expected);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn replies_are_asked_for_from_the_connections_own_queue_each_time() {
    let mut script = Script::with_channel();
    script.send(1, consume("amq.rabbitmq.reply-to", "t", true));
    let declared = script.commands().into_iter().find_map(|command| match command {
        Command::DeclareQueue(declare) => Some(declare.name),
        _ => None,
    });
    let queue = declared.expect("a queue for replies");
    let list = BasicProperties {
        reply_to: Some(b"amq.rabbitmq.reply-to"),
        ..Default::default()
    };
    for _ in 0..40 {
        let (message, _) = publish(&mut script, ("", "rpc"), false, &list);
        let known = BasicProperties::decode(message.properties_raw()).expect("properties");
        assert_eq!(known.reply_to, Some(queue.as_bytes()));
    }
}

/// What is remembered is counted, and long methods and lists are not remembered.
#[test]
fn what_is_remembered_is_counted_and_bounded() {
    use gatepost_core::session::Session as _;
    let mut script = Script::with_channel();
    assert_eq!(script.session.kept(), 0);
    publish(&mut script, ("amq.topic", "a"), false, &BasicProperties::default());
    let few = script.session.kept();
    assert!(few > 0);
    let (key, id) = ("k".repeat(255), "i".repeat(255));
    let list = BasicProperties {
        message_id: Some(id.as_bytes()),
        ..Default::default()
    };
    for _ in 0..40 {
        publish(&mut script, ("amq.topic", &key), false, &list);
    }
    assert_eq!(script.session.kept(), few);
}
