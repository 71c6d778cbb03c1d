//! Heartbeats, closes, and lost framing.

use super::script::*;
use crate::frame::{Basic, Channel, Connection, Method, put_heartbeat};
use crate::settings::Settings;
use gatepost_core::command::Command;
use gatepost_core::event::{CloseReason, Event, Op, Pressure};
use gatepost_core::fault::FaultKind;
use gatepost_core::session::Session;

fn close() -> Method<'static> {
    Method::Connection(Connection::Close {
        code: 200,
        text: "bye",
        class: 0,
        method: 0,
    })
}

fn with_heartbeat(seconds: u16) -> Script {
    let mut script = Script::new(Settings::default());
    script.log_in(&[]);
    script.tell(Event::authenticated("guest"));
    script.send(0, tune_ok(10, 4096, seconds));
    script.send(0, open("/"));
    script.tell(Event::Attached);
    script.forget();
    script
}

#[test]
fn heartbeats_fill_half_an_interval_of_silence() {
    let mut script = with_heartbeat(10);
    script.pass(4_999);
    assert!(script.said().is_empty());
    script.pass(1);
    assert_eq!(script.said(), ["heartbeat"]);
}

#[test]
fn silent_peer_dropped_after_two_to_three_intervals() {
    let mut script = with_heartbeat(10);
    script.pass(20_000);
    assert!(script.ended.is_none());
    script.pass(10_000);
    assert!(script.ended.as_ref().unwrap().abnormal);
    assert!(
        script.said().iter().all(|said| said == "heartbeat"),
        "no close: nobody would answer"
    );
}

#[test]
fn any_octets_count_as_a_sign_of_life() {
    let mut script = with_heartbeat(10);
    let mut heartbeat = Vec::new();
    put_heartbeat(&mut heartbeat);
    for octet in heartbeat.into_iter().cycle().take(40) {
        script.pass(20_000);
        script.feed(&[octet]);
        assert!(script.ended.is_none());
    }
}

#[test]
fn a_peer_we_do_not_read_from_is_not_silent() {
    let mut script = with_heartbeat(10);
    let now = script.now;
    script.session.set_paused(now, true);
    script.pass(100_000);
    assert!(script.ended.is_none());
    let now = script.now;
    script.session.set_paused(now, false);
    script.pass(20_000);
    assert!(script.ended.is_none());
    script.pass(10_000);
    assert!(script.ended.is_some());
}

/// While `channel.open` is unanswered the session parses nothing, heartbeats included.
#[test]
fn a_peer_that_waits_for_an_open_ok_is_not_silent() {
    let mut script = with_heartbeat(10);
    script.send(1, Method::Channel(Channel::Open { reserved: "" }));
    script.pass(100_000);
    assert!(script.ended.is_none());
    script.tell(done(1, Op::OpenChannel));
    script.pass(20_000);
    assert!(script.ended.is_none());
    script.pass(10_000);
    assert!(script.ended.is_some());
}

#[test]
fn heartbeat_zero_disables() {
    let mut script = with_heartbeat(0);
    assert_eq!(script.session.poll_timeout(), None);
    script.pass(1_000_000);
    assert!(script.said().is_empty() && script.ended.is_none());
}

#[test]
fn heartbeats_are_empty_and_on_channel_0() {
    let mut script = Script::with_channel();
    script.feed(&[8, 0, 1, 0, 0, 0, 0, 0xCE]);
    assert_eq!(
        script.close(),
        (0, 505, "UNEXPECTED_FRAME - type 8, all octets = <<>>".into(), (0, 0))
    );
    let mut script = Script::with_channel();
    script.feed(&[8, 0, 0, 0, 0, 0, 1, b'x', 0xCE]);
    let text = "FRAME_ERROR - type 8, all octets = <<\"x\">>: unknown_frame";
    assert_eq!(script.close(), (0, 501, text.into(), (0, 0)));
}

#[test]
fn exclusive_queue_gone_when_close_ok_arrives() {
    let mut script = Script::with_channel();
    script.send(0, close());
    assert!(matches!(
        script.command(),
        Command::CloseChannel {
            channel: 1,
            reply: true
        }
    ));
    assert!(script.said().is_empty());
    script.tell(done(1, Op::CloseChannel));
    // A turn's commands are applied before its output is written.
    assert!(matches!(script.command(), Command::Detach));
    assert_eq!(script.said(), ["0 Connection(CloseOk)"]);
    assert!(!script.ended.unwrap().abnormal);
}

#[test]
fn requests_before_a_close_are_answered_before_close_ok() {
    let mut script = Script::with_channel();
    script.open_channel(2);
    script.send(
        1,
        Method::Basic(Basic::Qos {
            size: 0,
            count: 1,
            global: false,
        }),
    );
    script.send(0, close());
    script.send(
        1,
        Method::Basic(Basic::Qos {
            size: 0,
            count: 1,
            global: false,
        }),
    );
    assert_eq!(script.commands().len(), 3, "frames after a close are ignored");
    script.tell(done(1, Op::Qos));
    script.tell(Event::Confirmed { channel: 2, upto: 1 });
    script.tell(done(1, Op::CloseChannel));
    assert!(script.ended.is_none());
    script.tell(failed(2, Op::Publish, FaultKind::NotFound, "nobody listens"));
    script.tell(done(2, Op::CloseChannel));
    let said = script.said();
    assert_eq!(said[0], "1 Basic(QosOk)");
    assert_eq!(said[1], "2 Basic(Ack { number: 1, multiple: false })");
    assert_eq!(said.last().unwrap(), "0 Connection(CloseOk)");
    assert!(!script.ended.unwrap().abnormal);
}

#[test]
fn a_close_that_the_engine_does_not_answer_ends_too() {
    let mut script = Script::with_channel();
    script.send(0, close());
    script.pass(30_000);
    assert!(script.ended.is_some());
}

#[test]
fn after_our_close_only_close_and_close_ok_are_handled() {
    let mut script = Script::with_channel();
    script.feed(&[9, 0, 0, 0, 0, 0, 0, 0xCE]);
    let (_, code, text, _) = script.close();
    assert_eq!(
        (code, text.as_str()),
        (501, "FRAME_ERROR - type 9, all octets = <<>>: unknown_frame")
    );
    assert!(matches!(script.command(), Command::Detach));
    script.send(
        1,
        Method::Basic(Basic::Ack {
            number: 1,
            multiple: false,
        }),
    );
    script.send(2, Method::Channel(Channel::Open { reserved: "" }));
    script.tell(Event::Flow(Some(Pressure::Memory)));
    assert!(script.said().is_empty() && script.commands().is_empty());
    script.send(0, close());
    assert_eq!(script.said(), ["0 Connection(CloseOk)"]);
    assert!(script.ended.is_none(), "double_close_from_both_sides_is_clean");
    script.send(0, close_ok());
    assert!(script.ended.is_some());
}

#[test]
fn a_close_without_an_answer_ends_after_thirty_seconds() {
    let mut script = Script::with_channel();
    script.tell(Event::Closed(CloseReason::Shutdown));
    let text = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'";
    assert_eq!(script.close(), (0, 320, text.into(), (0, 0)));
    script.pass(29_999);
    assert!(script.ended.is_none());
    script.pass(1);
    assert!(
        !script.ended.unwrap().abnormal,
        "the server closes it, the peer did nothing wrong"
    );
}

#[test]
fn after_a_framing_fault_nothing_is_parsed() {
    for bad in [
        [1, 0, 1, 0, 0xff, 0, 0].as_slice(),
        &[1, 0, 1, 0, 0, 0, 4, 0, 20, 0, 40, 0xCC],
    ] {
        let mut script = Script::with_channel();
        script.feed(bad);
        assert_eq!(script.close().1, 501);
        script.forget();
        script.send(1, Method::Channel(Channel::CloseOk {}));
        script.send(0, close());
        assert!(script.said().is_empty() && script.commands().is_empty());
        script.send(0, close_ok());
        assert!(script.ended.is_some());
    }
}

#[test]
fn unsolicited_close_ok_504() {
    let mut script = Script::with_channel();
    script.send(0, close_ok());
    let text = "CHANNEL_ERROR - unexpected method in connection state running";
    assert_eq!(script.close(), (0, 504, text.into(), (10, 51)));
}

#[test]
fn blocked_only_with_capability_and_only_to_publishers() {
    let publish = Method::Basic(Basic::Publish {
        ticket: 0,
        exchange: "",
        key: "k",
        mandatory: false,
        immediate: false,
    });
    let mut script = Script::with_channel();
    script.tell(Event::Flow(Some(Pressure::Backlog)));
    script.tell(Event::Flow(None));
    script.tell(Event::Flow(Some(Pressure::Memory)));
    assert!(script.said().is_empty(), "it has not published");
    script.send(1, publish.clone());
    assert_eq!(script.said(), ["0 Connection(Blocked { reason: \"low on memory\" })"]);
    script.tell(Event::Flow(Some(Pressure::Disk)));
    assert!(script.said().is_empty(), "it knows");
    script.tell(Event::Flow(None));
    assert_eq!(script.said(), ["0 Connection(Unblocked)"]);
    script.tell(Event::Flow(Some(Pressure::Disk)));
    assert_eq!(script.said(), ["0 Connection(Blocked { reason: \"low on disk\" })"]);

    let mut script = Script::running(Settings::default(), &[]);
    script.open_channel(1);
    script.send(1, publish);
    script.tell(Event::Flow(Some(Pressure::Memory)));
    script.tell(Event::Flow(None));
    assert!(script.said().is_empty());
}

#[test]
fn a_conversation_may_arrive_octet_by_octet() {
    let mut octets = Vec::new();
    Channel::Open { reserved: "" }.encode(7, &mut octets);
    Basic::Ack {
        number: 1,
        multiple: true,
    }
    .encode(7, &mut octets);
    let mut script = Script::with_channel();
    for octet in octets {
        script.feed(&[octet]);
    }
    script.tell(done(7, Op::OpenChannel));
    assert_eq!(script.said(), ["7 Channel(OpenOk { reserved: [] })"]);
    assert_eq!(script.commands().len(), 2);
}
