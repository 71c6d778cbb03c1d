//! ACK and NACK.

use super::*;

#[test]
fn client_mode_is_cumulative_within_the_subscription() {
    let mut script = Script::opened("1.2");
    script.subscribed(1, "ack:client\n");
    script.subscribed(2, "ack:client-individual\n");
    for number in 1..=3 {
        script.deliver(1, number);
        script.deliver(2, number);
    }
    let id = script.ack_id(1, 2);
    assert!(script.out().contains(&format!("\nmessage-id:{id}\nack:{id}\n")));
    script.send(&format!("ACK\nid:{id}\n\n\0"));
    script.send(&format!(
        "ACK\nid:{}\n\n\0NACK\nid:{}\n\n\0",
        script.ack_id(2, 2),
        script.ack_id(2, 3)
    ));
    assert_eq!(
        script.commands(),
        ["settle 1: upto 2 Accept", "settle 2: 2 Accept", "settle 2: 3 Requeue"]
    );
}

#[test]
fn older_versions_name_the_message() {
    for version in ["1.0", "1.1"] {
        let mut script = Script::opened(version);
        script.subscribed(1, "ack:client\n");
        script.deliver(1, 1);
        assert!(!script.out().contains("\nack:"));
        script.send(&format!(
            "ACK\nsubscription:1\nmessage-id:{}\n\n\0",
            script.ack_id(1, 1)
        ));
        assert_eq!(script.commands(), ["settle 1: upto 1 Accept"]);
    }
}

#[test]
fn nack_may_dead_letter() {
    let mut script = Script::opened("1.2");
    script.subscribed(1, "ack:client\n");
    script.deliver(1, 1);
    script.send(&format!("NACK\nid:{}\nrequeue:false\n\n\0", script.ack_id(1, 1)));
    assert_eq!(script.commands(), ["settle 1: upto 1 Reject"]);
}

#[test]
fn ack_without_a_valid_id_is_refused() {
    for (header, message, body) in [
        (
            "message-id:1\n",
            "Missing header",
            "\"ACK\" must include the \"id\" header\n",
        ),
        (
            "id:nonsense\n",
            "Invalid header",
            "\"ACK\" must include a valid \"id\" header\n",
        ),
        ("id:T_elsewhere@1@9\n", "Message not found", "unknown delivery tag 9\n"),
    ] {
        let mut script = Script::opened("1.2");
        script.subscribed(1, "ack:client\n");
        script.deliver(1, 1);
        script.out.clear();
        script.send(&format!("ACK\n{header}\n\0"));
        script.refused(message, body);
        assert_eq!(script.commands(), [""; 0]);
    }
}

#[test]
fn ack_of_a_delivery_not_made_or_not_awaiting_one_is_not_found() {
    let mut script = Script::tolerant();
    script.subscribed(1, "ack:client\n");
    script.subscribed(2, "");
    script.deliver(1, 1);
    script.deliver(2, 1);
    script.out.clear();
    for id in [
        script.ack_id(1, 2),
        script.ack_id(1, 0),
        script.ack_id(2, 1),
        script.ack_id(65_537, 1),
    ] {
        script.send(&format!("ACK\nid:{id}\n\n\0"));
        assert_eq!(error(&script.out()).0, "Message not found", "{id}");
    }
    assert_eq!(script.commands(), [""; 0]);
}

#[test]
fn a_receipt_of_an_ack_follows_the_engines_answer() {
    let mut script = Script::opened("1.2");
    script.subscribed(1, "ack:client\n");
    script.deliver(1, 1);
    script.out.clear();
    script.send(&format!("ACK\nid:{}\nreceipt:r\n\n\0", script.ack_id(1, 1)));
    assert_eq!(script.commands(), ["echo 1: 1", "settle 1: upto 1 Accept", "echo 1: 2"]);
    script.event(Event::Echo { channel: 1, token: 1 });
    assert_eq!(script.out(), "");
    script.event(Event::Echo { channel: 1, token: 2 });
    assert_eq!(script.out(), receipt("r"));
}

#[test]
fn a_settled_delivery_is_not_found_and_the_error_replaces_the_receipt() {
    let mut script = Script::tolerant();
    script.subscribed(1, "ack:client-individual\n");
    script.deliver(1, 1);
    let id = script.ack_id(1, 1);
    script.out.clear();
    script.send(&format!("ACK\nid:{id}\n\n\0ACK\nid:{id}\nreceipt:r\n\n\0"));
    let mut commands = script.commands();
    assert_eq!(commands.remove(0), "settle 1: 1 Accept");
    assert_eq!(commands, ["echo 1: 1", "settle 1: 1 Accept", "echo 1: 2"]);
    script.event(Event::Echo { channel: 1, token: 1 });
    script.event(failed(
        1,
        Op::Settle,
        FaultKind::PreconditionFailed,
        "unknown delivery tag 1",
    ));
    script.event(Event::Echo { channel: 1, token: 2 });
    let out = script.out();
    assert!(
        out.starts_with("ERROR\nmessage:Message not found\nreceipt-id:r\n"),
        "{out}"
    );
    assert_eq!(error(&out).1, "unknown delivery tag 1\n");
    assert_eq!(script.closed, None);
}

#[test]
fn deliveries_of_a_cancelled_subscription_can_still_be_settled() {
    let mut script = Script::opened("1.2");
    script.subscribed(1, "ack:client-individual\n");
    script.deliver(1, 1);
    script.deliver(1, 2);
    script.send("UNSUBSCRIBE\nid:1\n\n\0");
    script.event(done(1, Op::Cancel));
    assert_eq!(script.commands(), ["cancel 1: 1"]);
    script.send(&format!("ACK\nid:{}\n\n\0", script.ack_id(1, 2)));
    assert_eq!(script.commands(), ["settle 1: 2 Accept"]);
    script.send(&format!("ACK\nid:{}\n\n\0", script.ack_id(1, 1)));
    assert_eq!(script.commands(), ["settle 1: 1 Accept", "close 1"]);
    script.send(&format!("ACK\nid:{}\n\n\0", script.ack_id(1, 1)));
    script.out.clear();
    assert!(script.closed.is_some());
}

#[test]
fn a_redelivery_is_marked() {
    let mut script = Script::opened("1.2");
    script.subscribed(1, "ack:client\n");
    let message = Message::new(Envelope::default(), "", "q", b"", b"x");
    let flags = DeliveryFlags::REDELIVERED;
    script.event(Event::Deliver(Delivery {
        channel: 1,
        qos: 0,
        flags,
        consumer: 1,
        number: 1,
        message,
        extra: None,
    }));
    assert!(script.out().contains("\nredelivered:true\n"));
}
