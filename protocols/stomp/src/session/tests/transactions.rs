//! BEGIN, COMMIT, ABORT.

use super::*;

#[test]
fn a_commit_applies_all_at_once_and_its_receipt_comes_last() {
    let mut script = Script::opened("1.2");
    script.subscribed(1, "ack:client-individual\n");
    script.deliver(1, 1);
    script.out.clear();
    script.send("BEGIN\ntransaction:t\nreceipt:b\n\n\0");
    assert_eq!(script.out(), receipt("b"));
    script.send("SEND\ndestination:/topic/a\ntransaction:t\nreceipt:s\n\none\0");
    script.send(&format!(
        "ACK\nid:{}\ntransaction:t\nreceipt:a\n\n\0",
        script.ack_id(1, 1)
    ));
    script.send("SEND\ndestination:/topic/beside\n\n\0");
    assert_eq!(script.commands(), ["publish amq.topic|beside||"]);
    assert_eq!(script.out(), "");
    script.send("COMMIT\ntransaction:t\nreceipt:c\n\n\0");
    assert_eq!(
        script.commands(),
        ["transaction 0: publish amq.topic|a||one; settle 1: 1 Accept"]
    );
    assert_eq!(script.out(), "");
    script.event(done(0, Op::Commit));
    assert_eq!(script.out(), receipt("s") + &receipt("a") + &receipt("c"));
}

#[test]
fn an_abort_leaves_everything_as_it_was() {
    let mut script = Script::opened("1.2");
    script.subscribed(1, "ack:client-individual\n");
    script.deliver(1, 1);
    script.out.clear();
    let ack = format!("ACK\nid:{}\n", script.ack_id(1, 1));
    script.send(&format!(
        "BEGIN\ntransaction:t\n\n\0{ack}transaction:t\n\n\0ABORT\ntransaction:t\nreceipt:a\n\n\0"
    ));
    assert_eq!(script.out(), receipt("a"));
    assert_eq!(script.commands(), [""; 0]);
    script.send(&format!("{ack}\n\0"));
    assert_eq!(script.commands(), ["settle 1: 1 Accept"]);
}

#[test]
fn an_empty_commit_needs_no_engine() {
    let mut script = Script::opened("1.2");
    script.send("BEGIN\ntransaction:t\n\n\0COMMIT\ntransaction:t\nreceipt:c\n\n\0");
    assert_eq!((script.out(), script.commands()), (receipt("c"), vec![]));
}

#[test]
fn a_failed_commit_is_an_error_with_its_receipt_id() {
    let mut script = Script::opened("1.2");
    script.send("BEGIN\ntransaction:t\n\n\0SEND\ndestination:/exchange/x\ntransaction:t\n\n\0");
    script.send("COMMIT\ntransaction:t\nreceipt:c\n\n\0");
    script.event(failed(
        0,
        Op::Commit,
        FaultKind::NotFound,
        "no exchange 'x' in vhost '/'",
    ));
    let out = script.out();
    assert!(out.starts_with("ERROR\nmessage:not_found\nreceipt-id:c\n"), "{out}");
}

#[test]
fn transactions_must_exist_and_be_new() {
    for (text, message, body) in [
        (
            "BEGIN\n\n\0",
            "Missing transaction",
            "\"BEGIN\" must include a 'transaction' header\n",
        ),
        (
            "COMMIT\ntransaction:zz\n\n\0",
            "Bad transaction",
            "Invalid transaction identifier: \"zz\"\n",
        ),
        (
            "ABORT\ntransaction:zz\n\n\0",
            "Bad transaction",
            "Invalid transaction identifier: \"zz\"\n",
        ),
        (
            "SEND\ndestination:/queue/q\ntransaction:zz\n\n\0",
            "Bad transaction",
            "Invalid transaction identifier: \"zz\"\n",
        ),
        (
            "BEGIN\ntransaction:t\n\n\0BEGIN\ntransaction:t\n\n\0",
            "Bad transaction",
            "Transaction already begun: \"t\"\n",
        ),
    ] {
        let mut script = Script::opened("1.2");
        script.send(text);
        script.refused(message, body);
        assert_eq!(script.commands(), [""; 0]);
    }
}

#[test]
fn transactions_are_limited_in_number_length_and_bytes() {
    let settings = || Settings {
        transactions_max: 2,
        transaction_actions_max: 2,
        transaction_bytes_max: 2000,
        ..Settings::default()
    };
    let mut script = Script::opened_with(settings(), "1.2");
    script.send("BEGIN\ntransaction:1\n\n\0BEGIN\ntransaction:2\n\n\0BEGIN\ntransaction:3\n\n\0");
    script.refused(
        "Transaction limit exceeded",
        "Too many concurrent transactions (limit 2)",
    );

    let mut script = Script::opened_with(settings(), "1.2");
    script.send("BEGIN\ntransaction:1\n\n\0");
    for _ in 0..3 {
        script.send("SEND\ndestination:/topic/a\ntransaction:1\n\n\0");
    }
    script.refused("Transaction too large", "Too many actions in transaction (limit 2)");

    let mut script = Script::opened_with(settings(), "1.2");
    script.send("BEGIN\ntransaction:1\n\n\0BEGIN\ntransaction:2\n\n\0");
    let body = "x".repeat(900);
    script.send(&format!("SEND\ndestination:/topic/a\ntransaction:1\n\n{body}\0"));
    // An aborted transaction releases its bytes.
    script.send("ABORT\ntransaction:1\n\n\0");
    script.send(&format!("SEND\ndestination:/topic/a\ntransaction:2\n\n{body}\0"));
    assert_eq!(script.closed, None);
    script.send(&format!("SEND\ndestination:/topic/a\ntransaction:2\n\n{body}{body}\0"));
    script.refused("Transaction too large", "Too many bytes in transactions (limit 2000)");

    // Receipts count too: nothing else of an acknowledgement can be large.
    let mut script = Script::opened_with(settings(), "1.2");
    script.subscribed(1, "ack:client-individual\n");
    script.deliver(1, 1);
    script.out.clear();
    let name = "r".repeat(1_001);
    let ack = format!("ACK\nid:{}\ntransaction:1\nreceipt:{name}\n\n\0", script.ack_id(1, 1));
    script.send(&format!("BEGIN\ntransaction:1\n\n\0{ack}"));
    assert_eq!((script.closed.is_none(), script.session.buffered()), (true, 1_001));
    script.send(&ack);
    let (message, body) = error(&script.out());
    assert_eq!(message, "Transaction too large");
    assert_eq!(body, "Too many bytes in transactions (limit 2000)");
}

/// Each connection could hold 64 MiB in open transactions, whatever memory there was.
#[test]
fn transactions_do_not_grow_while_memory_is_short() {
    let mut script = Script::opened("1.2");
    let body = "x".repeat(40 << 10);
    let send = format!("SEND\ndestination:/topic/a\ntransaction:t\n\n{body}\0");
    script.send("BEGIN\ntransaction:t\n\n\0");
    script.send(&send);
    script.send(&send);
    script.is_memory_short = true;
    script.send("ABORT\ntransaction:t\n\n\0BEGIN\ntransaction:t\n\n\0");
    script.send(&send);
    assert_eq!(
        (script.out(), script.closed.is_none()),
        (String::new(), true),
        "a small one fits"
    );
    script.send(&send);
    script.refused(
        "Transaction too large",
        "no memory left for transactions (memory.input)",
    );
    assert_eq!(script.session.buffered(), 0, "nothing is kept");
}

#[test]
fn receipts_of_plain_sends_do_not_wait_for_transactions() {
    let mut script = Script::opened("1.2");
    script.send("BEGIN\ntransaction:t\n\n\0");
    for n in 0..50 {
        let transaction = if n % 2 == 0 { "transaction:t\n" } else { "" };
        script.send(&format!("SEND\ndestination:/topic/a\nreceipt:{n}\n{transaction}\n\0"));
    }
    script.event(Event::Confirmed { channel: 0, upto: 25 });
    assert_eq!(
        script.out(),
        (0..50)
            .filter(|n| n % 2 == 1)
            .map(|n| receipt(&n.to_string()))
            .collect::<String>()
    );
    script.send("COMMIT\ntransaction:t\nreceipt:c\n\n\0DISCONNECT\nreceipt:d\n\n\0");
    script.event(done(0, Op::Commit));
    let even: String = (0..50)
        .filter(|n| n % 2 == 0)
        .map(|n| receipt(&n.to_string()))
        .collect();
    assert_eq!(script.out(), even + &receipt("c"));
    script.event(Event::Echo { channel: 0, token: 1 });
    assert_eq!(script.out(), receipt("d"));
}
