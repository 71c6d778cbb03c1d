//! Consumers by tag, and direct reply-to.

use super::script::*;
use crate::frame::{Basic, Method};
use crate::settings::Settings;
use gatepost_core::command::Command;
use gatepost_core::event::{Event, Op};

#[test]
fn a_priority_that_is_no_number_406() {
    let mut script = Script::with_channel();
    script.send(1, bad_consume());
    let text =
        "PRECONDITION_FAILED - invalid arg 'x-priority' for queue 'q' in vhost '/': \"expected integer, got longstr\"";
    assert_eq!(script.close(), (1, 406, text.into(), (60, 20)));
}

#[test]
fn a_consumer_gets_a_tag_if_it_has_none() {
    let mut script = Script::with_channel();
    script.send(1, consume("q", "", false));
    let Command::Consume(consume) = script.command() else {
        panic!("no consume");
    };
    assert!(
        consume.tag.starts_with("amq.ctag-") && consume.tag.len() == 31,
        "{}",
        consume.tag
    );
    script.tell(Event::Consuming {
        channel: 1,
        consumer: consume.consumer,
    });
    assert_eq!(
        script.said(),
        [format!("1 Basic(ConsumeOk {{ tag: {:?} }})", &*consume.tag)]
    );
}

#[test]
fn duplicate_consumer_tag_530() {
    let mut script = Script::with_channel();
    script.send(1, consume("q", "t", false));
    script.forget();
    script.send(1, consume("other", "t", false));
    let text = "NOT_ALLOWED - attempt to reuse consumer tag 't'";
    assert_eq!(script.close(), (0, 530, text.into(), (60, 20)));
}

#[test]
fn a_tag_is_free_again_once_it_is_cancelled() {
    let mut script = Script::with_channel();
    script.send(1, consume("q", "t", false));
    script.send(1, Method::Basic(Basic::Cancel { tag: "t", nowait: true }));
    script.send(1, consume("q", "t", false));
    assert_eq!(script.commands().len(), 3);
    script.tell(Event::Consuming {
        channel: 1,
        consumer: 1,
    });
    script.tell(Event::Done {
        channel: 1,
        op: Op::Cancel,
        consumer: 1,
    });
    script.tell(Event::Consuming {
        channel: 1,
        consumer: 2,
    });
    assert_eq!(script.said(), ["1 Basic(ConsumeOk { tag: \"t\" })"; 2]);
}

#[test]
fn cancel_unknown_tag_ok() {
    let mut script = Script::with_channel();
    script.send(
        1,
        Method::Basic(Basic::Cancel {
            tag: "nope",
            nowait: false,
        }),
    );
    let Command::Cancel {
        channel: 1,
        consumer,
        reply: true,
    } = script.command()
    else {
        panic!("no cancel");
    };
    script.tell(Event::Done {
        channel: 1,
        op: Op::Cancel,
        consumer,
    });
    assert_eq!(script.said(), ["1 Basic(CancelOk { tag: \"nope\" })"]);
}

#[test]
fn consumers_of_a_channel_are_limited() {
    let settings = Settings {
        consumers_max: 1,
        ..Settings::default()
    };
    let mut script = Script::running(settings, &[]);
    script.open_channel(1);
    script.send(1, consume("q", "a", false));
    script.send(1, consume("q", "b", false));
    assert_eq!(script.close().1, 530);
}

#[test]
fn direct_reply_to_consumes_from_a_queue_of_its_own() {
    let mut script = Script::with_channel();
    script.send(1, declare("amq.rabbitmq.reply-to", true, false));
    script.echo();
    assert_eq!(
        script.said(),
        ["1 Queue(DeclareOk { queue: \"amq.rabbitmq.reply-to\", messages: 0, consumers: 1 })"]
    );
    script.send(1, consume("amq.rabbitmq.reply-to", "t", true));
    let commands = script.commands();
    let [Command::DeclareQueue(declared), Command::Consume(consumed)] = &*commands else {
        panic!("{commands:?}");
    };
    assert!(declared.name.starts_with("amq.rabbitmq.reply-to.") && declared.channel == 0);
    assert!(declared.exclusive && declared.auto_delete && !declared.reply);
    assert_eq!(consumed.queue, declared.name);

    script.send(1, publish("svc"));
    let request = crate::frame::content::BasicProperties {
        reply_to: Some(b"amq.rabbitmq.reply-to"),
        ..Default::default()
    };
    script.feed(&header(1, 0, &request));
    let Command::Publish { message, .. } = script.command() else {
        panic!("no publish");
    };
    let list = crate::frame::content::BasicProperties::decode(message.properties_raw()).unwrap();
    assert_eq!(list.reply_to, Some(declared.name.as_bytes()));

    script.send(1, consume("amq.rabbitmq.reply-to", "u", true));
    let text = "PRECONDITION_FAILED - reply consumer already set";
    assert_eq!(script.close(), (1, 406, text.into(), (60, 20)));
}

#[test]
fn direct_reply_to_has_rules() {
    let mut script = Script::with_channel();
    script.send(1, consume("amq.rabbitmq.reply-to", "t", false));
    let text = "PRECONDITION_FAILED - reply consumer cannot acknowledge";
    assert_eq!(script.close(), (1, 406, text.into(), (60, 20)));
    script.open_channel(2);
    script.send(2, publish("svc"));
    let request = crate::frame::content::BasicProperties {
        reply_to: Some(b"amq.rabbitmq.reply-to"),
        ..Default::default()
    };
    script.feed(&header(2, 0, &request));
    let refused = script.commands().into_iter().find_map(|command| match command {
        Command::TryPublish(tried) => tried.refused,
        _ => None,
    });
    assert_eq!(
        &*refused.expect("it is refused").text,
        "fast reply consumer does not exist"
    );
}

/// A service declares the reply address, with any flags, to check whether its requester still exists.
#[test]
fn declaring_a_reply_address_asks_for_a_queue_that_may_be_anothers_and_makes_none() {
    let mut script = Script::with_channel();
    for (passive, nowait) in [(true, false), (false, false), (false, true)] {
        script.send(1, declare("amq.rabbitmq.reply-to.token", passive, nowait));
        let Command::DeclareQueue(declared) = script.command() else {
            panic!("no declare");
        };
        assert!(declared.passive && declared.lenient && declared.reply != nowait);
        assert_eq!(&*declared.name, "amq.rabbitmq.reply-to.token");
    }
    script.tell(gatepost_core::event::Event::QueueDeclared {
        channel: 1,
        queue: Box::new(gatepost_core::event::QueueSummary {
            name: "amq.rabbitmq.reply-to.token".into(),
            messages: 7,
            consumers: 1,
        }),
    });
    assert_eq!(
        script.said(),
        ["1 Queue(DeclareOk { queue: \"amq.rabbitmq.reply-to.token\", messages: 0, consumers: 1 })"]
    );
}
