//! SEND, receipts, DISCONNECT, temporary queues.

use super::*;

#[test]
fn a_queue_is_declared_once_per_connection() {
    let mut script = Script::opened("1.2");
    script.send(
        "SEND\ndestination:/queue/a%2Fb\nfoo:bar\n\none\0SEND\ndestination:/queue/a%2Fb\npersistent:true\n\ntwo\0",
    );
    assert_eq!(
        script.commands(),
        [
            "declare 0: 'a/b' durable lenient",
            "publish |a/b|foo:bar\n|one",
            "publish |a/b|persistent:true\n|two durable",
        ]
    );
    assert_eq!(script.out(), "");
}

#[test]
fn a_send_with_queue_headers_declares_exactly() {
    let mut script = Script::opened("1.2");
    script.send("SEND\ndestination:/queue/a\nauto-delete:true\ndurable:false\nx-message-ttl:5\n\n\0");
    let commands = script.commands();
    assert_eq!(commands[0], "declare 0: 'a' auto-delete x-message-ttl=5");
}

#[test]
fn each_destination_has_its_exchange() {
    let mut script = Script::opened("1.2");
    for (destination, expected) in [
        ("/topic/v1%2E5.s", "publish amq.topic|v1%2E5.s||"),
        ("/exchange/amq.direct/k", "publish amq.direct|k||"),
        ("/exchange/logs", "publish logs|||"),
        ("/amq/queue/q", "publish |q||"),
        ("/reply-queue/amq.gen-1/x", "publish |amq.gen-1/x||"),
    ] {
        script.send(&format!("SEND\ndestination:{destination}\n\n\0"));
        assert_eq!(script.commands(), [expected]);
    }
}

#[test]
fn only_a_topic_retains() {
    let mut script = Script::opened("1.2");
    script.send("SEND\ndestination:/topic/a\nx-mqtt-retain:true\n\nx\0");
    script.send("SEND\ndestination:/amq/queue/a\nx-mqtt-retain:true\n\nx\0");
    assert_eq!(script.commands(), ["publish amq.topic|a||x retain", "publish |a||x"]);
}

#[test]
fn a_receipt_waits_for_its_confirm_and_only_for_its_own() {
    let mut script = Script::opened("1.2");
    script.send("SEND\ndestination:/topic/a\nreceipt:1\n\n\0SEND\ndestination:/topic/a\n\n\0");
    script.send("SEND\ndestination:/topic/a\nreceipt:2\n\n\0SEND\ndestination:/topic/a\nreceipt:3\n\n\0");
    let confirmed = |command: &String| command.ends_with("confirm");
    assert_eq!(
        script.commands().iter().map(confirmed).collect::<Vec<_>>(),
        [true, false, true, true]
    );
    assert_eq!(script.out(), "");
    script.event(Event::Confirmed { channel: 0, upto: 2 });
    assert_eq!(script.out(), receipt("1") + &receipt("2"));
    script.event(Event::Confirmed { channel: 0, upto: 3 });
    assert_eq!(script.out(), receipt("3"));
}

#[test]
fn a_refused_message_is_an_error_with_its_receipt_id() {
    let mut script = Script::tolerant();
    script.send("SEND\ndestination:/topic/a\nreceipt:1\n\n\0SEND\ndestination:/topic/a\nreceipt:2\n\n\0");
    script.event(Event::Refused {
        channel: 0,
        number: 1,
        why: FaultKind::QuotaExceeded,
    });
    script.event(Event::Confirmed { channel: 0, upto: 2 });
    let out = script.out();
    assert!(
        out.starts_with("ERROR\nmessage:resource_error\nreceipt-id:1\n"),
        "{out}"
    );
    assert!(out.ends_with(&receipt("2")) && !out.contains(&receipt("1")), "{out}");
}

#[test]
fn bad_sends_have_rabbitmqs_words() {
    for (headers, message, body) in [
        (
            "",
            "Missing destination",
            "\"SEND\" must include a 'destination' header\n",
        ),
        (
            "destination:/x\n",
            "Unknown destination",
            "'/x' is not a valid destination.\nValid destination types are: /temp-queue, /exchange, /topic, /queue, \
             /amq/queue, /reply-queue/.\n",
        ),
        (
            "destination:/queue/bah/baz\n",
            "Invalid destination",
            "'/bah/baz' is not a valid queue destination\n",
        ),
        (
            "destination:/temp-queue/foo\n",
            "Invalid destination",
            "'/temp-queue/foo' is not a valid destination for 'SEND'\n",
        ),
        ("destination:\n", "Invalid destination", "Destination cannot be blank"),
        (
            "destination:/queue/a\nmessage-id:1\n",
            "Invalid header",
            "'message-id' is not allowed on 'SEND'.\n",
        ),
    ] {
        let mut script = Script::opened("1.2");
        script.send(&format!("SEND\n{headers}\nx\0"));
        script.refused(message, body);
        assert_eq!(script.commands(), [""; 0]);
    }
}

#[test]
fn an_unknown_command_is_named() {
    let mut script = Script::opened("1.1");
    script.send("FOO\nreceipt:r\n\n\0");
    let out = script.out();
    assert!(out.starts_with("ERROR\nmessage:Bad command\nreceipt-id:r\n"), "{out}");
    assert!(out.ends_with("\n\nCould not interpret command \"FOO\"\n\0\n"), "{out}");
    assert!(script.closed.is_some());
}

#[test]
fn a_missing_exchange_is_not_found_and_closes() {
    let mut script = Script::tolerant();
    script.send("SEND\ndestination:/exchange/x/k\nreceipt:r\n\n\0");
    script.event(failed(
        0,
        Op::Publish,
        FaultKind::NotFound,
        "no exchange 'x' in vhost '/'",
    ));
    let out = script.out();
    assert!(out.starts_with("ERROR\nmessage:not_found\nreceipt-id:r\n"), "{out}");
    assert_eq!(error(&out).1, "no exchange 'x' in vhost '/'\n");
    assert!(script.closed.is_some());
}

#[test]
fn a_fault_comes_before_the_confirms_that_pass_it() {
    let mut script = Script::opened("1.2");
    script.send("SEND\ndestination:/exchange/x\nreceipt:r\n\n\0");
    let fault = failed(0, Op::Publish, FaultKind::NotFound, "no exchange 'x' in vhost '/'");
    script.events(vec![Event::Confirmed { channel: 0, upto: 1 }, fault]);
    let out = script.out();
    assert!(
        out.starts_with("ERROR\nmessage:not_found\nreceipt-id:r\n") && !out.contains("RECEIPT"),
        "{out}"
    );
}

#[test]
fn a_refused_permission_is_access_refused() {
    let mut script = Script::opened("1.2");
    script.send("SEND\ndestination:/topic/a\n\n\0");
    script.event(failed(
        0,
        Op::Publish,
        FaultKind::AccessRefused,
        "access to topic 'a' refused",
    ));
    script.refused("access_refused", "access to topic 'a' refused\n");
}

#[test]
fn an_error_may_leave_the_connection_open_if_so_configured() {
    let mut script = Script::tolerant();
    script.send("SEND\n\n\0SEND\ndestination:/topic/a\n\n\0");
    assert!(script.out().starts_with("ERROR\nmessage:Missing destination\n"));
    assert_eq!(script.commands(), ["publish amq.topic|a||"]);
    // A malformed frame always closes it: where the next frame starts is unknown.
    script.send("SEND\nnocolon\n\n\0");
    script.refused("Malformed frame", "Header without colon\n");
}

#[test]
fn a_disconnect_without_receipt_ends_at_once() {
    let mut script = Script::opened("1.2");
    script.send("SEND\ndestination:/topic/a\n\n\0DISCONNECT\n\n\0");
    assert_eq!(script.closed, Some(Close::normal("DISCONNECT")));
    assert_eq!(script.commands(), ["publish amq.topic|a||"]);
}

#[test]
fn a_disconnect_with_receipt_waits_for_all_other_receipts() {
    let mut script = Script::opened("1.2");
    script.send("SEND\ndestination:/topic/a\nreceipt:1\n\n\0");
    script.send("DISCONNECT\nreceipt:bye\n\n\0SEND\ndestination:/topic/ignored\n\n\0garbage");
    assert_eq!(script.commands(), ["publish amq.topic|a|| confirm", "echo 0: 1"]);
    script.event(Event::Echo { channel: 0, token: 1 });
    assert_eq!((script.out().as_str(), &script.closed), ("", &None));
    script.event(Event::Confirmed { channel: 0, upto: 1 });
    assert_eq!(script.out(), receipt("1") + &receipt("bye"));
    assert_eq!(script.closed, Some(Close::normal("DISCONNECT")));
}

#[test]
fn a_temporary_queue_is_made_once_and_holds_its_send_until_it_has_a_name() {
    let mut script = Script::opened("1.2");
    let send = "SEND\ndestination:/topic/rpc\nreply-to:/temp-queue/foo\n\nhelp\0";
    script.send(send);
    script.send("SEND\ndestination:/topic/later\n\n\0");
    assert_eq!(
        script.commands(),
        [
            "declare 1: '' exclusive auto-delete reply",
            "consume 1: 1 '' as T_/temp-queue/foo no-ack",
        ]
    );
    assert_eq!(script.session.read_interest(), ReadInterest::Nothing);
    script.event(queue_declared(1, "amq.gen-x"));
    script.event(Event::Consuming {
        channel: 1,
        consumer: 1,
    });
    script.send(send);
    let asked = "publish amq.topic|rpc|reply-to:/reply-queue/amq.gen-x\n|help";
    assert_eq!(script.commands(), [asked, "publish amq.topic|later||", asked]);

    script.event(delivery(
        1,
        1,
        Message::new(Envelope::default(), "", "amq.gen-x", b"", b"answer"),
    ));
    let out = script.out();
    assert!(
        out.starts_with("MESSAGE\nsubscription:/temp-queue/foo\ndestination:/queue/amq.gen-x\n"),
        "{out}"
    );

    script.send("UNSUBSCRIBE\nid:/temp-queue/foo\n\n\0");
    script.refused("Invalid id", "UNSUBSCRIBE 'id' may not start with /temp-queue/\n");
}

#[test]
fn the_engine_may_end_the_connection() {
    let mut script = Script::opened("1.2");
    script.event(Event::Closed(gatepost_core::event::CloseReason::Shutdown));
    script.refused("Connection closed", "The server is shutting down\n");
}

/// The bug: a receipt waits for the log with its publish, and it may be long. A client sent small messages with
/// receipts of 100 KiB while the disk was slow. The receipts were counted nowhere and took gigabytes.
#[test]
fn a_client_with_many_pending_receipts_is_not_read() {
    let mut script = Script::opened("1.2");
    let name = "r".repeat(1000);
    let mut sent = 0;
    for n in 0..2_000 {
        script.send(&format!("SEND\ndestination:/topic/a\nreceipt:{name}{n:04}\n\nm\0"));
        sent += script.commands().len();
    }
    assert!((900..1_100).contains(&sent), "{sent}");
    assert!(script.session.kept() > 1 << 20);
    assert_eq!(script.session.read_interest(), ReadInterest::Nothing);
    let mut confirmed = 0;
    while confirmed < sent {
        confirmed = sent;
        let upto = confirmed as u64;
        script.event(Event::Confirmed { channel: 0, upto });
        sent += script.commands().len();
    }
    assert_eq!(confirmed, 2_000);
    assert_eq!(script.out().matches("RECEIPT").count(), 2_000);
    assert_eq!(script.session.kept(), 0);
}

#[test]
fn names_that_a_session_keeps_are_short() {
    let long = "x".repeat(1_025);
    for frame in [
        format!("SEND\ndestination:/topic/a\nreceipt:{long}\n\n\0"),
        format!("SUBSCRIBE\ndestination:/topic/a\nid:{long}\n\n\0"),
        format!("BEGIN\ntransaction:{long}\n\n\0"),
    ] {
        let mut script = Script::opened("1.2");
        script.send(&frame);
        script.refused("Malformed frame", "Identifier too long\n");
    }
    // In a message it may be long: the session does not keep it.
    let mut script = Script::opened("1.2");
    script.send(&format!("SEND\ndestination:/topic/a\nid:{long}\n\n\0"));
    assert_eq!((script.closed.is_none(), script.commands().len()), (true, 1));
}

#[test]
fn memory_of_queues_and_subscriptions_is_counted() {
    let mut script = Script::opened("1.2");
    assert_eq!(script.session.kept(), 0);
    for n in 0..100 {
        script.send(&format!("SEND\ndestination:/queue/orders-{n}\n\n\0"));
    }
    let declared = script.session.kept();
    assert!((1_000..10_000).contains(&declared), "{declared}");
    script.send("SUBSCRIBE\ndestination:/topic/a\nid:s\n\n\0");
    assert!(script.session.kept() > declared + 100);
    // Its channel is channel 1, which is free when the engine has closed it.
    script.event(done(1, Op::CloseChannel));
    assert_eq!(script.session.kept(), declared);
}
