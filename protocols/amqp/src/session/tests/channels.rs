//! Opening and closing channels, and the methods that become commands.

use super::script::*;
use crate::frame::{Access, Basic, Channel, Confirm, Exchange, Method, Queue, Tx};
use crate::settings::Settings;
use gatepost_core::command::{BindTarget, ChannelMode, Command, Outcome, PublishFlags};
use gatepost_core::event::{Event, Op, QueueSummary};
use gatepost_core::fault::FaultKind;
use gatepost_core::properties::Table;

fn open_channel() -> Method<'static> {
    Method::Channel(Channel::Open { reserved: "" })
}

fn close_channel() -> Method<'static> {
    Method::Channel(Channel::Close {
        code: 200,
        text: "",
        class: 0,
        method: 0,
    })
}

fn channel_close_ok() -> Method<'static> {
    Method::Channel(Channel::CloseOk {})
}

fn not_found(script: &mut Script, channel: u16) {
    script.tell(failed(
        channel,
        Op::DeclareQueue,
        FaultKind::NotFound,
        "no queue 'q' in vhost '/'",
    ));
    let text = "NOT_FOUND - no queue 'q' in vhost '/'";
    assert_eq!(script.close(), (channel, 404, text.into(), (50, 10)));
    assert!(matches!(script.command(), Command::CloseChannel { reply: true, .. }));
}

#[test]
fn a_client_close_is_answered_when_the_engine_is_done() {
    let mut script = Script::with_channel();
    script.send(1, close_channel());
    assert!(matches!(
        script.command(),
        Command::CloseChannel {
            channel: 1,
            reply: true
        }
    ));
    script.tell(Event::Deliver(delivery(
        1,
        1,
        1,
        message(&Default::default(), Default::default(), b"late"),
    )));
    assert!(script.said().is_empty());
    script.tell(done(1, Op::CloseChannel));
    assert_eq!(script.said(), ["1 Channel(CloseOk)"]);
    script.open_channel(1);
}

#[test]
fn a_failure_before_a_client_close_is_reported_and_the_close_answered() {
    let mut script = Script::with_channel();
    script.send(1, declare("q", true, false));
    script.send(
        1,
        Method::Basic(Basic::Get {
            ticket: 0,
            queue: "",
            no_ack: true,
        }),
    );
    script.send(1, close_channel());
    script.forget();
    script.tell(Event::GetEmpty { channel: 1 });
    script.tell(failed(1, Op::DeclareQueue, FaultKind::NotFound, "no"));
    let said = script.said();
    assert_eq!(said[0], "1 Basic(GetEmpty { reserved: \"\" })");
    assert!(said[1].starts_with("1 Channel(Close { code: 404"), "{said:?}");
    assert_eq!(said[2], "1 Channel(CloseOk)");
    script.send(1, channel_close_ok());
    script.send(1, open_channel());
    script.tell(done(1, Op::CloseChannel));
    assert!(script.said().is_empty());
    script.tell(done(1, Op::OpenChannel));
    assert_eq!(script.said(), ["1 Channel(OpenOk { reserved: [] })"]);
    script.tell(Event::GetEmpty { channel: 1 });
    assert_eq!(script.said().len(), 1);
}

#[test]
fn channel_number_reused_right_after_close_ok() {
    let mut script = Script::with_channel();
    not_found(&mut script, 1);
    script.send(1, channel_close_ok());
    script.send(1, open_channel());
    script.send(1, declare("q", false, false));
    // This answer was for the earlier channel of the same number.
    script.tell(Event::GetEmpty { channel: 1 });
    script.tell(failed(
        1,
        Op::Settle,
        FaultKind::PreconditionFailed,
        "unknown delivery tag 1",
    ));
    assert!(script.said().is_empty());
    script.tell(done(1, Op::CloseChannel));
    assert!(script.said().is_empty());
    script.tell(done(1, Op::OpenChannel));
    assert_eq!(script.said(), ["1 Channel(OpenOk { reserved: [] })"]);
    let queue = Box::new(QueueSummary {
        name: "q".into(),
        messages: 1,
        consumers: 2,
    });
    script.tell(Event::QueueDeclared { channel: 1, queue });
    assert_eq!(
        script.said(),
        ["1 Queue(DeclareOk { queue: \"q\", messages: 1, consumers: 2 })"]
    );
}

#[test]
fn a_channel_number_can_fail_many_times() {
    let mut script = Script::with_channel();
    for _ in 0..3 {
        // An unacceptable priority: an error that the session itself finds.
        script.send(1, bad_consume());
        assert_eq!(script.close().1, 406);
        script.send(1, channel_close_ok());
        script.send(1, open_channel());
        script.forget();
        // This answer was for the earlier channel of the same number.
        script.tell(Event::GetEmpty { channel: 1 });
        script.tell(done(1, Op::CloseChannel));
        assert!(script.said().is_empty());
        script.tell(done(1, Op::OpenChannel));
        assert_eq!(script.said(), ["1 Channel(OpenOk { reserved: [] })"]);
    }
    script.tell(Event::GetEmpty { channel: 1 });
    assert_eq!(script.said(), ["1 Basic(GetEmpty { reserved: \"\" })"]);
}

#[test]
fn double_close_from_both_sides_of_a_channel_is_clean() {
    let mut script = Script::with_channel();
    not_found(&mut script, 1);
    script.send(1, close_channel());
    assert_eq!(script.said(), ["1 Channel(CloseOk)"]);
    script.send(1, channel_close_ok());
    script.tell(done(1, Op::CloseChannel));
    script.open_channel(1);
}

#[test]
fn content_after_channel_error_discarded() {
    let mut script = Script::with_channel();
    not_found(&mut script, 1);
    for _ in 0..2 {
        script.send(1, declare("q", false, false));
        script.send(1, publish("k"));
        script.feed(&header(1, 3, &Default::default()));
        script.feed(&body(1, b"abc"));
        script.feed(&body(1, b"stray"));
    }
    assert!(script.said().is_empty() && script.commands().is_empty() && script.ended.is_none());
}

#[test]
fn channel_error_spares_other_channels() {
    let mut script = Script::with_channel();
    script.open_channel(2);
    not_found(&mut script, 1);
    script.tell(Event::GetEmpty { channel: 2 });
    assert_eq!(script.said(), ["2 Basic(GetEmpty { reserved: \"\" })"]);
}

#[test]
fn channel_max_counts_channels() {
    let mut script = Script::running(
        Settings {
            channel_max: 2,
            ..Settings::default()
        },
        &[],
    );
    script.open_channel(50);
    script.open_channel(60_000);
    script.send(1, open_channel());
    let text = "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)";
    assert_eq!(script.close(), (0, 530, text.into(), (20, 10)));
}

/// The bug: the client was told `open-ok`, and then that it may have no more channels.
#[test]
fn a_channel_that_the_user_may_not_have_is_never_opened() {
    let mut script = Script::with_channel();
    script.send(2, open_channel());
    assert!(matches!(script.command(), Command::OpenChannel { channel: 2 }));
    script.send(2, declare("q", false, false));
    assert!(script.said().is_empty() && script.commands().is_empty());
    let text = "number of channels opened for user 'guest' has reached the maximum allowed user limit of (1)";
    script.tell(failed(2, Op::OpenChannel, FaultKind::NotAllowed, text));
    assert_eq!(script.close(), (0, 530, format!("NOT_ALLOWED - {text}"), (20, 10)));
}

#[test]
fn a_channel_that_is_closed_ahead_of_its_open_ok_is_opened_and_closed() {
    let mut script = Script::with_channel();
    script.send(2, open_channel());
    script.send(2, close_channel());
    script.tell(done(2, Op::OpenChannel));
    assert_eq!(script.said(), ["2 Channel(OpenOk { reserved: [] })"]);
    script.tell(done(2, Op::CloseChannel));
    assert_eq!(script.said(), ["2 Channel(CloseOk)"]);
    script.open_channel(2);
}

#[test]
fn channels_may_be_opened_without_waiting_for_the_one_before() {
    let mut script = Script::with_channel();
    let mut octets = Vec::new();
    for channel in 2..5 {
        open_channel().encode(channel, &mut octets);
    }
    script.feed(&octets);
    assert_eq!(script.commands().len(), 3);
    script.send(3, declare("q", false, false));
    script.tell_all(vec![done(2, Op::OpenChannel), done(3, Op::OpenChannel)]);
    assert!(script.commands().is_empty());
    script.tell(done(4, Op::OpenChannel));
    assert_eq!(
        script.said(),
        [2, 3, 4].map(|channel| format!("{channel} Channel(OpenOk {{ reserved: [] }})"))
    );
    assert!(matches!(script.command(), Command::DeclareQueue(_)));
}

/// The bug: a client that sees a close without the `open-ok` it waits for cannot tell what failed.
#[test]
fn nothing_overtakes_an_open_ok() {
    let method = |channel, method: Method<'_>| {
        let mut octets = Vec::new();
        method.encode(channel, &mut octets);
        octets
    };
    let mut without_its_end = method(3, open_channel());
    *without_its_end.last_mut().unwrap() = 0;
    let connection_close = Method::Connection(crate::frame::Connection::Close {
        code: 200,
        text: "",
        class: 0,
        method: 0,
    });
    for (octets, said) in [
        (method(4, open_channel()), "0 Connection(Close { code: 530"),
        (method(2, open_channel()), "0 Connection(Close { code: 504"),
        (method(3, declare("q", false, false)), "0 Connection(Close { code: 504"),
        (method(2, Method::Tx(Tx::Commit {})), "2 Channel(Close { code: 406"),
        (body(2, b"stray"), "0 Connection(Close { code: 505"),
        (without_its_end, "0 Connection(Close { code: 501"),
        (method(0, connection_close), "0 Connection(CloseOk"),
    ] {
        let settings = Settings {
            channel_max: 3,
            ..Settings::default()
        };
        let mut script = Script::running(settings, ALL_CAPABILITIES);
        script.open_channel(1);
        script.open_channel(7);
        script.send(2, open_channel());
        script.feed(&octets);
        assert!(script.said().is_empty(), "{said}");
        script.tell(done(2, Op::OpenChannel));
        for channel in [1, 2, 7] {
            script.tell(done(channel, Op::CloseChannel));
        }
        let found = script.said();
        assert_eq!(found[0], "2 Channel(OpenOk { reserved: [] })");
        assert!(found.len() == 2 && found[1].starts_with(said), "{said}: {found:?}");
    }
}

#[test]
fn second_channel_open_504() {
    let mut script = Script::with_channel();
    script.send(1, open_channel());
    assert_eq!(
        script.close(),
        (0, 504, "CHANNEL_ERROR - second 'channel.open' seen".into(), (20, 10))
    );
}

#[test]
fn method_on_unopened_channel_504() {
    let mut script = Script::with_channel();
    script.send(2, declare("q", false, false));
    assert_eq!(
        script.close(),
        (0, 504, "CHANNEL_ERROR - expected 'channel.open'".into(), (50, 10))
    );
}

#[test]
fn methods_that_only_a_server_may_send_503() {
    for (method, ids) in [
        (channel_close_ok(), (20, 41)),
        (Method::Basic(Basic::QosOk {}), (60, 11)),
        (Method::Connection(crate::frame::Connection::CloseOk {}), (10, 51)),
    ] {
        let mut script = Script::with_channel();
        script.send(1, method);
        assert_eq!(
            script.close(),
            (0, 503, "COMMAND_INVALID - unimplemented method".into(), ids)
        );
    }
}

#[test]
fn undecodable_methods_501() {
    let mut script = Script::with_channel();
    script.feed(&[1, 0, 1, 0, 0, 0, 6, 0, 50, 0, 10, 0, 0, 0xCE]);
    assert_eq!(
        script.close(),
        (0, 501, "FRAME_ERROR - cannot decode <<0,0>>".into(), (50, 10))
    );
    let mut script = Script::with_channel();
    script.feed(&[1, 0, 1, 0, 0, 0, 9, 0, 60, 0, 30, 3, 0xff, b'a', b'b', 0, 0xCE]);
    assert_eq!(
        script.close(),
        (0, 501, "FRAME_ERROR - Malformed UTF-8 in shortstr".into(), (60, 30))
    );
    let mut script = Script::with_channel();
    script.feed(&[1, 0, 1, 0, 0, 0, 4, 0, 60, 0, 99, 0xCE]);
    assert_eq!(
        script.close(),
        (0, 503, "COMMAND_INVALID - unimplemented method".into(), (60, 99))
    );
}

#[test]
fn answers_that_need_no_engine_keep_their_place() {
    let mut script = Script::with_channel();
    script.send(1, Method::Channel(Channel::Flow { active: true }));
    script.send(1, Method::Confirm(Confirm::Select { nowait: false }));
    script.send(1, Method::Confirm(Confirm::Select { nowait: true }));
    script.send(
        1,
        Method::Access(Access::Request {
            realm: "/data",
            exclusive: false,
            passive: false,
            active: true,
            write: true,
            read: true,
        }),
    );
    assert!(script.said().is_empty());
    script.echo();
    let expected = [
        "1 Channel(FlowOk { active: true })",
        "1 Confirm(SelectOk)",
        "1 Access(RequestOk { ticket: 1 })",
    ];
    assert_eq!(script.said(), expected);
}

#[test]
fn methods_that_are_not_implemented_540() {
    for (method, text, ids) in [
        (
            Method::Channel(Channel::Flow { active: false }),
            "active=false",
            (20, 20),
        ),
        (
            Method::Basic(Basic::Recover { requeue: false }),
            "requeue=false",
            (60, 110),
        ),
        (
            Method::Basic(Basic::Qos {
                size: 10,
                count: 1,
                global: false,
            }),
            "prefetch_size!=0 (10)",
            (60, 10),
        ),
    ] {
        let mut script = Script::with_channel();
        script.send(1, method);
        assert_eq!(script.close(), (0, 540, format!("NOT_IMPLEMENTED - {text}"), ids));
    }
}

#[test]
fn names_lose_their_line_ends() {
    let mut script = Script::with_channel();
    script.send(1, declare("a\r\nb", false, true));
    let Command::DeclareQueue(declared) = script.command() else {
        panic!("no declare");
    };
    assert_eq!((&*declared.name, declared.reply, declared.durable), ("ab", false, true));
}

#[test]
fn binds_to_queues_and_exchanges_are_answered_each_in_its_class() {
    let mut script = Script::with_channel();
    let arguments = Table::default();
    script.send(
        1,
        Method::Exchange(Exchange::Bind {
            ticket: 0,
            destination: "d",
            source: "s",
            key: "k",
            nowait: false,
            arguments: arguments.clone(),
        }),
    );
    let Command::Bind(bind) = script.command() else {
        panic!("no bind");
    };
    assert_eq!((&*bind.source, &bind.target), ("s", &BindTarget::Exchange("d".into())));
    script.send(
        1,
        Method::Queue(Queue::Bind {
            ticket: 0,
            queue: "",
            exchange: "s",
            key: "",
            nowait: false,
            arguments: arguments.clone(),
        }),
    );
    script.send(
        1,
        Method::Exchange(Exchange::Unbind {
            ticket: 0,
            destination: "d",
            source: "s",
            key: "k",
            nowait: false,
            arguments: arguments.clone(),
        }),
    );
    script.send(
        1,
        Method::Queue(Queue::Unbind {
            ticket: 0,
            queue: "q",
            exchange: "s",
            key: "k",
            arguments,
        }),
    );
    for op in [Op::Bind, Op::Bind, Op::Unbind] {
        script.tell(done(1, op));
    }
    assert_eq!(
        script.said(),
        ["1 Exchange(BindOk)", "1 Queue(BindOk)", "1 Exchange(UnbindOk)"]
    );
    script.forget();
    script.tell(failed(1, Op::Unbind, FaultKind::AccessRefused, "no"));
    assert_eq!(script.close(), (1, 403, "ACCESS_REFUSED - no".into(), (50, 50)));
}

#[test]
fn each_answer_of_the_engine_becomes_its_method() {
    let mut script = Script::with_channel();
    script.tell_all(vec![
        done(1, Op::DeclareExchange),
        done(1, Op::DeleteExchange),
        Event::QueueDeleted {
            channel: 1,
            messages: 3,
        },
        Event::QueuePurged {
            channel: 1,
            messages: 4,
        },
        done(1, Op::Qos),
        done(1, Op::Recover),
    ]);
    let expected = [
        "1 Exchange(DeclareOk)",
        "1 Exchange(DeleteOk)",
        "1 Queue(DeleteOk { messages: 3 })",
        "1 Queue(PurgeOk { messages: 4 })",
        "1 Basic(QosOk)",
        "1 Basic(RecoverOk)",
    ];
    assert_eq!(script.said(), expected);
}

#[test]
fn hard_faults_close_the_connection() {
    for (kind, code) in [
        (FaultKind::NotAllowed, 530),
        (FaultKind::NotImplemented, 540),
        (FaultKind::ResourceError, 506),
        (FaultKind::Internal, 541),
    ] {
        let mut script = Script::with_channel();
        script.tell(failed(1, Op::Consume, kind, "why"));
        let (channel, said, _, ids) = script.close();
        assert_eq!((channel, said, ids), (0, code, (60, 20)));
        assert!(matches!(script.command(), Command::Detach));
    }
}

#[test]
fn settling_names_the_method_that_failed() {
    let mut script = Script::with_channel();
    script.send(
        1,
        Method::Basic(Basic::Reject {
            number: 5,
            requeue: true,
        }),
    );
    assert!(matches!(
        script.command(),
        Command::Settle {
            channel: 1,
            number: 5,
            multiple: false,
            outcome: Outcome::Requeue
        }
    ));
    script.tell(failed(
        1,
        Op::Settle,
        FaultKind::PreconditionFailed,
        "unknown delivery tag 5",
    ));
    let text = "PRECONDITION_FAILED - unknown delivery tag 5";
    assert_eq!(script.close(), (1, 406, text.into(), (60, 90)));
}

#[test]
fn tx_confirm_mix_406() {
    let mut script = Script::with_channel();
    script.send(1, Method::Confirm(Confirm::Select { nowait: true }));
    script.send(1, Method::Tx(Tx::Select {}));
    let text = "PRECONDITION_FAILED - cannot switch from confirm to tx mode";
    assert_eq!(script.close(), (1, 406, text.into(), (90, 10)));
    script.open_channel(2);
    script.send(2, Method::Tx(Tx::Select {}));
    script.send(2, Method::Confirm(Confirm::Select { nowait: true }));
    let text = "PRECONDITION_FAILED - cannot switch from tx to confirm mode";
    assert_eq!(script.close(), (2, 406, text.into(), (85, 10)));
    script.open_channel(3);
    script.send(3, Method::Tx(Tx::Commit {}));
    let text = "PRECONDITION_FAILED - channel is not transactional";
    assert_eq!(script.close(), (3, 406, text.into(), (90, 20)));
}

/// How many publishes were tried and how many settles are held, and nothing else, since the last look.
fn tried_and_held(script: &mut Script) -> (usize, usize) {
    let commands = script.commands();
    let is_tried = |c: &&Command| matches!(c, Command::TryPublish(tried) if tried.refused.is_none());
    let is_held = |c: &&Command| matches!(c, Command::HoldSettle { channel: 1, .. });
    let counts = (
        commands.iter().filter(is_tried).count(),
        commands.iter().filter(is_held).count(),
    );
    assert_eq!(commands.len(), counts.0 + counts.1, "{commands:?}");
    counts
}

#[test]
fn a_commit_applies_commands_and_a_rollback_drops_them() {
    let mut script = Script::with_channel();
    script.send(1, Method::Tx(Tx::Select {}));
    script.echo();
    for _ in 0..2 {
        script.send(1, publish("k"));
        script.feed(&header(1, 0, &Default::default()));
        script.send(
            1,
            Method::Basic(Basic::Ack {
                number: 1,
                multiple: false,
            }),
        );
        assert_eq!(
            tried_and_held(&mut script),
            (1, 1),
            "they wait, but their faults are told"
        );
        script.send(1, Method::Tx(Tx::Rollback {}));
        let commands = script.commands();
        let [Command::ForgetHeld { channel: 1 }, Command::Echo { channel, token }] = commands[..] else {
            panic!("{commands:?}");
        };
        script.tell(Event::Echo { channel, token });
    }
    script.send(1, Method::Tx(Tx::Commit {}));
    script.echo();
    let said = script.said();
    let expected = [
        "1 Tx(SelectOk)",
        "1 Tx(RollbackOk)",
        "1 Tx(RollbackOk)",
        "1 Tx(CommitOk)",
    ];
    assert_eq!(said, expected, "nothing to commit: no transaction");

    script.send(
        1,
        Method::Basic(Basic::Ack {
            number: 1,
            multiple: false,
        }),
    );
    script.send(1, publish("k"));
    script.feed(&header(1, 0, &Default::default()));
    assert_eq!(tried_and_held(&mut script), (1, 1));
    script.send(1, Method::Tx(Tx::Commit {}));
    let Command::Transaction(transaction) = script.command() else {
        panic!("no transaction");
    };
    assert_eq!((transaction.channel, transaction.commands.len()), (1, 1));
    // If its exchange is gone at the commit, the rest is committed.
    let lenient = |c: &Command| matches!(c, Command::Publish { flags, .. } if flags.contains(PublishFlags::LENIENT));
    assert!(transaction.commands.iter().all(lenient));
    script.tell(done(1, Op::Commit));
    assert_eq!(script.said(), ["1 Tx(CommitOk)"]);

    // Settles alone are committed too, and nothing is left for the next one.
    for settles in [true, false] {
        if settles {
            script.send(1, ack_all());
            assert_eq!(tried_and_held(&mut script), (0, 1));
        }
        script.send(1, Method::Tx(Tx::Commit {}));
        match script.command() {
            Command::Transaction(c) if settles && c.commands.is_empty() => script.tell(done(1, Op::Commit)),
            Command::Echo { channel, token } if !settles => script.tell(Event::Echo { channel, token }),
            other => panic!("{other:?}"),
        }
        assert_eq!(script.said(), ["1 Tx(CommitOk)"]);
    }
}

fn ack_all() -> Method<'static> {
    Method::Basic(Basic::Ack {
        number: 0,
        multiple: true,
    })
}

#[test]
fn uncommitted_messages_are_bounded() {
    let mut script = Script::running(
        Settings {
            unfinished_bytes_max: 10_000,
            ..Settings::default()
        },
        &[],
    );
    script.open_channel(1);
    script.send(1, Method::Tx(Tx::Select {}));
    script.forget();
    for _ in 0..200 {
        script.send(1, publish("k"));
        script.feed(&header(1, 0, &Default::default()));
    }
    let (channel, code, ..) = script.close();
    assert_eq!((channel, code), (0, 506));
}

/// Each connection could hold 64 MiB in open transactions, whatever memory there was.
#[test]
fn transactions_do_not_grow_while_memory_is_short() {
    let mut script = Script::running(Settings::default(), &[]);
    script.open_channel(1);
    script.send(1, Method::Tx(Tx::Select {}));
    script.forget();
    let publish_some = |script: &mut Script| {
        for _ in 0..100 {
            script.send(1, publish("k"));
            script.feed(&header(1, 0, &Default::default()));
        }
    };
    publish_some(&mut script);
    script.is_memory_short = true;
    script.send(1, Method::Tx(Tx::Rollback {}));
    publish_some(&mut script);
    assert_eq!(script.said(), [""; 0], "a small one fits");
    publish_some(&mut script);
    let (channel, code, text, ..) = script.close();
    assert_eq!((channel, code), (1, 406));
    assert!(text.contains("no memory left for transactions"), "{text}");
}

/// Lists of channels show the mode.
#[test]
fn the_engine_is_told_of_confirms_and_transactions() {
    let mut script = Script::with_channel();
    script.send(1, Method::Confirm(Confirm::Select { nowait: false }));
    assert_eq!(script.modes(), [(1, ChannelMode::Confirm)]);
    let mut script = Script::with_channel();
    script.send(1, Method::Tx(Tx::Select {}));
    assert_eq!(script.modes(), [(1, ChannelMode::Transactional)]);
}
