//! SUBSCRIBE, UNSUBSCRIBE, and deliveries.

use super::*;

#[test]
fn a_queue_is_declared_then_consumed_from() {
    let mut script = Script::opened("1.2");
    script.send("SUBSCRIBE\nid:s\ndestination:/queue/q\nreceipt:r\n\n\0");
    assert_eq!(
        script.commands(),
        ["declare 1: 'q' durable lenient reply", "consume 1: 1 'q' as T_s no-ack"]
    );
    assert_eq!(script.out(), "");
    script.event(Event::Consuming {
        channel: 1,
        consumer: 1,
    });
    script.deliver(1, 1);
    let out = script.out();
    let message = out
        .strip_prefix(&receipt("r"))
        .expect("the receipt comes before the first message");
    assert!(
        message.starts_with("MESSAGE\nsubscription:s\ndestination:/queue/q\nmessage-id:T_"),
        "{message}"
    );
    assert!(!message.contains("\nack:"), "{message}");
}

#[test]
fn queue_headers_make_the_declaration_exact() {
    let mut script = Script::opened("1.2");
    script.send(
        "SUBSCRIBE\nid:s\ndestination:/queue/q\nack:client\nprefetch-count:5\nx-priority:3\ndurable:false\n\
         auto-delete:true\nx-max-length:9\nx-queue-type:classic\n\n\0",
    );
    assert_eq!(
        script.commands(),
        [
            "declare 1: 'q' auto-delete x-max-length=9 x-queue-type=classic",
            "consume 1: 1 'q' as T_s priority 3 prefetch 5",
        ]
    );
    script.event(failed(
        1,
        Op::DeclareQueue,
        FaultKind::PreconditionFailed,
        "inequivalent arg 'durable'",
    ));
    script.refused("precondition_failed", "inequivalent arg 'durable'\n");
}

#[test]
fn a_topic_gets_a_queue_of_its_own() {
    let mut script = Script::opened("1.2");
    script.send("SUBSCRIBE\nid:1\ndestination:/topic/a.*.#\n\n\0SUBSCRIBE\nid:2\ndestination:/exchange/e\n\n\0");
    let commands = script.commands();
    let name = |line: &str| line.split('\'').nth(1).unwrap_or_default().to_owned();
    let (one, two) = (name(&commands[0]), name(&commands[3]));
    assert!(one.starts_with("stomp-subscription-") && one != two, "{one} {two}");
    assert_eq!(
        commands,
        [
            format!("declare 1: '{one}' exclusive auto-delete"),
            format!("bind 1: 'amq.topic' -'a.*.#'-> '{one}'"),
            format!("consume 1: 1 '{one}' as T_1 no-ack"),
            format!("declare 2: '{two}' exclusive auto-delete"),
            format!("bind 2: 'e' -''-> '{two}'"),
            format!("consume 2: 2 '{two}' as T_2 no-ack"),
        ]
    );
}

#[test]
fn a_retained_replay_is_asked_for_with_the_binding() {
    let mut script = Script::opened("1.2");
    script.send("SUBSCRIBE\nid:1\ndestination:/topic/a\nx-retained:true\nx-queue-name:mine\n\n\0");
    assert_eq!(
        script.commands()[1],
        "bind 1: 'amq.topic' -'a'-> 'mine' x-retained=Bool(true)"
    );
}

#[test]
fn existing_queues_are_only_consumed_from() {
    let mut script = Script::opened("1.2");
    script.send("SUBSCRIBE\nid:1\ndestination:/amq/queue/q\nreceipt:r\n\n\0");
    assert_eq!(script.commands(), ["consume 1: 1 'q' as T_1 no-ack"]);
    script.event(failed(1, Op::Consume, FaultKind::NotFound, "no queue 'q' in vhost '/'"));
    let out = script.out();
    assert!(out.starts_with("ERROR\nmessage:not_found\nreceipt-id:r\n"), "{out}");
    assert!(script.closed.is_some());
}

#[test]
fn some_activemq_headers_are_supported() {
    let mut script = Script::opened("1.2");
    script.send(
        "SUBSCRIBE\nid:1\ndestination:/amq/queue/q\nack:client\nactivemq.prefetchSize:7\nactivemq.priority:2\n\
         activemq.exclusive:true\nactivemq.dispatchAsync:true\n\n\0",
    );
    assert_eq!(
        script.commands(),
        ["consume 1: 1 'q' as T_1 exclusive priority 2 prefetch 7"]
    );
    script.send("SUBSCRIBE\nid:2\ndestination:/queue/q\nselector:a = 1\n\n\0");
    script.refused("Unsupported header", "'selector' is not supported\n");
}

#[test]
fn a_temporary_queue_cannot_be_subscribed_to() {
    let mut script = Script::opened("1.2");
    script.send("SUBSCRIBE\nid:1\ndestination:/temp-queue/foo\n\n\0");
    script.refused(
        "Invalid destination",
        "'/temp-queue/foo' is not a valid destination for 'SUBSCRIBE'\n",
    );
}

#[test]
fn a_duplicate_id_closes_even_a_tolerant_connection() {
    let mut script = Script::tolerant();
    script.subscribed(1, "");
    script.send("SUBSCRIBE\nid:1\ndestination:/queue/other\n\n\0");
    script.refused(
        "Duplicated subscription identifier",
        "A subscription identified by 'T_1' already exists.",
    );
}

#[test]
fn a_subscription_without_id_is_known_by_its_destination() {
    let mut script = Script::opened("1.0");
    script.send("SUBSCRIBE\ndestination:/queue/q\n\n\0");
    assert_eq!(script.commands()[1], "consume 1: 1 'q' as Q_/queue/q no-ack");
    script.event(Event::Consuming {
        channel: 1,
        consumer: 1,
    });
    script.deliver(1, 1);
    assert!(script.out().starts_with("MESSAGE\ndestination:/queue/q\nmessage-id:T_"));
    script.send("UNSUBSCRIBE\ndestination:/queue/q\nreceipt:u\n\n\0");
    assert_eq!(script.commands(), ["cancel 1: 1"]);
    script.event(done(1, Op::Cancel));
    assert_eq!(script.out(), receipt("u"));
}

#[test]
fn unsubscribe_is_receipted_when_the_consumer_is_gone() {
    let mut script = Script::opened("1.2");
    script.subscribed(1, "");
    script.send("UNSUBSCRIBE\nid:1\nreceipt:u\n\n\0");
    assert_eq!(script.commands(), ["cancel 1: 1"]);
    script.deliver(1, 1);
    assert!(
        script.out().starts_with("MESSAGE\nsubscription:1\n"),
        "a delivery on its way still arrives"
    );
    script.event(done(1, Op::Cancel));
    assert_eq!(script.out(), receipt("u"));
    assert_eq!(script.commands(), ["close 1"]);
}

#[test]
fn unsubscribe_must_name_a_subscription() {
    for (header, message, body) in [
        (
            "",
            "Missing destination or id",
            "UNSUBSCRIBE must include a 'destination' or 'id' header",
        ),
        (
            "id:77\n",
            "No subscription found",
            "UNSUBSCRIBE must refer to an existing subscription.\nSubscription to \"id='77'\" not found.\n",
        ),
        (
            "destination:/queue/x\n",
            "No subscription found",
            "UNSUBSCRIBE must refer to an existing subscription.\nSubscription to \"destination='/queue/x'\" not \
             found.\n",
        ),
    ] {
        let mut script = Script::opened("1.2");
        script.send(&format!("UNSUBSCRIBE\n{header}\n\0"));
        script.refused(message, body);
    }
}

#[test]
fn a_closed_channel_is_used_again_under_another_token() {
    let mut script = Script::opened("1.2");
    script.subscribed(1, "");
    script.send("UNSUBSCRIBE\nid:1\n\n\0SUBSCRIBE\nid:1\ndestination:/queue/q\n\n\0");
    assert_eq!(script.commands()[2], "consume 2: 2 'q' as T_1 no-ack");
    script.event(done(1, Op::Cancel));
    script.event(done(1, Op::CloseChannel));
    script.commands.clear();
    script.send("SUBSCRIBE\nid:3\ndestination:/queue/q\n\n\0");
    let token = (1 << 16) + 1;
    assert_eq!(script.commands()[1], format!("consume 1: {token} 'q' as T_3 no-ack"));
}

#[test]
fn subscriptions_are_limited() {
    let mut script = Script::opened_with(
        Settings {
            subscriptions_max: 1,
            ..Settings::default()
        },
        "1.2",
    );
    script.subscribed(1, "");
    script.send("SUBSCRIBE\nid:2\ndestination:/queue/q\n\n\0");
    script.refused("Subscription limit exceeded", "Too many subscriptions (limit 1)");
}

#[test]
fn a_durable_subscription_keeps_its_queue_until_it_is_deleted() {
    let subscribe = "SUBSCRIBE\nid:d\ndestination:/topic/a\ndurable:true\nauto-delete:false\n\n\0";
    let mut script = Script::opened("1.2");
    script.send(subscribe);
    let commands = script.commands();
    let queue = commands[0].split('\'').nth(1).expect("a name").to_owned();
    assert!(queue.starts_with("stomp-subscription-"), "{queue}");
    assert_eq!(commands[0], format!("declare 1: '{queue}' durable"));
    assert_eq!(commands[1], format!("bind 1: 'amq.topic' -'a'-> '{queue}'"));

    // Another connection of the same user uses the same queue.
    let mut other = Script::opened("1.1");
    other.send(subscribe);
    assert_eq!(other.commands()[0], commands[0]);

    script.send("UNSUBSCRIBE\nid:d\n\n\0");
    assert_eq!(script.commands(), ["cancel 1: 1"]);

    other.send("UNSUBSCRIBE\nid:d\ndurable:true\nreceipt:u\n\n\0");
    assert_eq!(other.commands(), [format!("delete 1: '{queue}'"), "cancel 1: 1".into()]);
    other.event(Event::ConsumerGone {
        channel: 1,
        consumer: 1,
    });
    assert_eq!(other.out(), "", "the client asked for it, so it is not reported");
    other.event(done(1, Op::Cancel));
    assert_eq!(other.out(), receipt("u"));
}

#[test]
fn a_durable_subscription_needs_an_id() {
    let mut script = Script::opened("1.2");
    script.send("SUBSCRIBE\ndestination:/topic/a\ndurable:true\nauto-delete:false\n\n\0");
    script.refused("Missing Header", "Header 'id' is required for durable subscriptions");
}

#[test]
fn a_queue_deleted_under_a_subscription_is_an_error_and_the_close() {
    let mut script = Script::opened("1.2");
    script.subscribed(1, "");
    script.event(Event::ConsumerGone {
        channel: 1,
        consumer: 1,
    });
    let out = script.out();
    assert!(
        out.starts_with("ERROR\nmessage:Server cancelled subscription\nsubscription:1\n"),
        "{out}"
    );
    assert_eq!(
        error(&out).1,
        "The server has canceled a subscription.\nNo more messages will be delivered for \"id='1'\".\n"
    );
    assert!(script.closed.is_some(), "STOMP 1.2 ERROR: the close follows");
}

#[test]
fn with_keep_open_on_error_the_name_of_a_cancelled_subscription_is_free_again() {
    let mut script = Script::tolerant();
    script.subscribed(1, "");
    script.event(Event::ConsumerGone {
        channel: 1,
        consumer: 1,
    });
    assert!(
        script
            .out()
            .starts_with("ERROR\nmessage:Server cancelled subscription\n")
    );
    // SEND declares the queue again.
    script.commands.clear();
    script.send("SEND\ndestination:/queue/q\n\n\0SUBSCRIBE\nid:1\ndestination:/queue/q\n\n\0");
    assert_eq!(script.commands()[0], "declare 0: 'q' durable lenient");
    assert_eq!(script.closed, None);
}

#[test]
fn user_headers_and_binary_bodies_come_through() {
    let mut script = Script::opened("1.1");
    script.subscribed(1, "");
    script.send("SEND\ndestination:/topic/a\nx:y\\cz\\n\ncontent-length:3\n\na\0b\0");
    let Some(Command::Publish { message, .. }) = script.commands.pop() else {
        panic!("no publish")
    };
    script.event(delivery(1, 1, message));
    let out = script.out();
    assert!(out.contains("\nx:y\\cz\\n\n"), "{out}");
    assert!(out.ends_with("\n\na\0b\0\n"), "{out}");
}
