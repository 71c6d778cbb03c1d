//! Consuming: which consumer is next, what it may have unsettled, and where a returned message goes.

use crate::support::*;
use gatepost_core::command::{Command, Outcome};
use gatepost_core::testing::world::{NO_ROOM, Room, World};

fn bodies(queue: &str, upto: u32) -> Vec<Command> {
    (1..=upto).map(|n| put(queue, &n.to_string())).collect()
}

#[test]
fn consumers_of_a_queue_take_turns() {
    let mut w = World::new(1);
    let (a, b) = (w.connect("test"), w.connect("test"));
    run(&mut w, a, [transient("q"), consume_no_ack("q", 1)]);
    run(&mut w, b, [consume_no_ack("q", 2)]);
    w.send(a, bodies("q", 4));
    assert_eq!(now(&mut w, a), ["confirmed 4", "deliver c1 #1 1", "deliver c1 #2 3"]);
    assert_eq!(now(&mut w, b), ["deliver c2 #1 2", "deliver c2 #2 4"]);
}

#[test]
fn a_consumer_of_higher_priority_is_served_first_and_others_while_it_has_no_credit() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [
            transient("q"),
            consume("q", 1),
            consume_with("q", 2, |c| {
                c.priority = 5;
                c.prefetch = Some(2);
            }),
        ],
    );
    w.send(c, bodies("q", 3));
    assert_eq!(
        now(&mut w, c),
        ["confirmed 3", "deliver c2 #1 1", "deliver c2 #2 2", "deliver c1 #3 3"]
    );
}

#[test]
fn prefetch_counts_for_each_consumer_started_afterwards() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [transient("q"), prefetch(2, false), consume("q", 1), consume("q", 2)],
    );
    let heard = run(&mut w, c, bodies("q", 6));
    assert_eq!(heard.iter().filter(|l| l.starts_with("deliver")).count(), 4);
    assert_eq!(run(&mut w, c, [ack(1)]), ["deliver c1 #5 5"]);
}

#[test]
fn prefetch_for_the_channel_is_one_window_for_all_its_consumers() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [
            transient("p"),
            transient("q"),
            prefetch(3, true),
            consume("p", 1),
            consume("q", 2),
        ],
    );
    run(&mut w, c, bodies("p", 3));
    assert_eq!(run(&mut w, c, [put("q", "other")]), ["confirmed 4"]);
    assert_eq!(
        run(&mut w, c, [ack(1)]),
        ["deliver c2 #4 other"],
        "the credit is the other consumer's, too"
    );
}

#[test]
fn credit_of_the_channel_comes_back_from_a_cancelled_consumer() {
    // The channel's count was only lowered through the consumer, so the credit of a cancelled one was never returned.
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [transient("q"), prefetch(2, true), consume("q", 1)]);
    run(&mut w, c, bodies("q", 5));
    assert_eq!(
        run(&mut w, c, [cancel(1), consume("q", 2)]),
        ["done Cancel c1", "consuming c2"]
    );
    assert_eq!(run(&mut w, c, [ack_upto(2)]), ["deliver c2 #3 3", "deliver c2 #4 4"]);
}

#[test]
fn no_prefetch_limits_a_consumer_that_does_not_settle() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [
            transient("q"),
            prefetch(1, false),
            prefetch(1, true),
            consume_no_ack("q", 1),
        ],
    );
    assert_eq!(run(&mut w, c, bodies("q", 5)).len(), 6);
    assert_eq!(w.counters().messages_unsettled, 0);
}

#[test]
fn requeued_messages_return_to_their_place_marked_as_redelivered() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [durable("q"), consume_with("q", 1, |c| c.prefetch = Some(3))],
    );
    assert_eq!(run(&mut w, c, bodies("q", 5)).len(), 4);
    run(&mut w, c, [cancel(1)]);
    run(&mut w, c, [requeue(3), requeue(1)]);
    let heard = run(&mut w, c, [consume("q", 2)]);
    let order: Vec<_> = heard
        .iter()
        .map(|l| l.split(' ').nth(3).unwrap_or("").to_owned())
        .collect();
    assert_eq!(heard[1], "deliver c2 #4 1 again");
    assert_eq!(order[1..], ["1", "3", "4", "5"]);
    assert_eq!(heard[3], "deliver c2 #6 4");
}

#[test]
fn a_settle_of_several_ends_at_its_number_which_must_be_unsettled() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [transient("q"), consume("q", 1)]);
    run(&mut w, c, bodies("q", 4));
    assert!(run(&mut w, c, [ack(2)]).is_empty());
    assert_eq!(
        run(&mut w, c, [ack_upto(2)]),
        ["failed Settle PreconditionFailed unknown delivery tag 2"]
    );
    assert!(run(&mut w, c, [ack_upto(3)]).is_empty());
    assert_eq!(w.counters().messages_unsettled, 1);
    assert!(
        run(&mut w, c, [ack_upto(0), ack_upto(0)]).is_empty(),
        "0 is all there are, if any"
    );
    assert_eq!(
        run(&mut w, c, [ack(0)]),
        ["failed Settle PreconditionFailed unknown delivery tag 0"]
    );
    assert_eq!(
        run(&mut w, c, [ack(99)]),
        ["failed Settle PreconditionFailed unknown delivery tag 99"]
    );
}

#[test]
fn get_takes_one_message_and_reports_how_many_are_left() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [transient("q"), put("q", "1"), put("q", "2")]);
    assert_eq!(run(&mut w, c, [get("q")]), ["got #1 1 left 1"]);
    assert_eq!(run(&mut w, c, [get_no_ack("q")]), ["got #2 2 left 0"]);
    assert_eq!(run(&mut w, c, [get("q")]), ["empty"]);
    assert_eq!(run(&mut w, c, [requeue(1), get("q")]), ["got #3 1 again left 0"]);
}

#[test]
fn the_answer_to_consume_precedes_the_first_delivery() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [transient("q"), put("q", "m")]);
    w.send(c, vec![durable("slow"), consume("q", 1)]);
    assert!(
        now(&mut w, c).is_empty(),
        "the declaration waits for the log, the rest for it"
    );
    assert_eq!(
        hear(&mut w, c),
        ["declared slow 0/0", "consuming c1", "deliver c1 #1 m"]
    );
}

#[test]
fn nothing_is_delivered_after_the_answer_to_a_cancel_and_reservations_return() {
    let mut w = World::new(1);
    let (a, b) = (w.connect("test"), w.connect("test"));
    run(&mut w, a, [transient("q"), consume("q", 1)]);
    w.send(b, bodies("q", 2));
    w.send(a, vec![cancel(1)]);
    assert_eq!(now(&mut w, a), ["done Cancel c1"]);
    assert_eq!(
        run(&mut w, a, [cancel(1)]),
        ["done Cancel c1"],
        "an unknown one is answered, too"
    );
    assert_eq!(run(&mut w, b, [get("q")]), ["got #1 1 left 1", "confirmed 2"]);
}

#[test]
fn a_link_without_room_gives_its_reservations_to_others() {
    // They were returned, but the queue was not dispatched until the next command of any client.
    let mut w = World::new(1);
    let (p, a, b) = (w.connect("test"), w.connect("test"), w.connect("test"));
    run(&mut w, a, [transient("q"), consume("q", 1)]);
    run(&mut w, b, [consume("q", 2)]);
    w.send(p, bodies("q", 4));
    assert_eq!(now(&mut w, b), ["deliver c2 #1 2", "deliver c2 #2 4"]);
    assert!(w.take(a, NO_ROOM).is_empty());
    assert!(w.is_due(b), "it is woken for what the other cannot take");
    assert_eq!(now(&mut w, b), ["deliver c2 #3 1", "deliver c2 #4 3"]);
    assert!(now(&mut w, a).is_empty());
    w.send(p, bodies("q", 2));
    assert!(w.is_due(a), "it has room again");
}

#[test]
fn a_link_that_got_room_again_is_served_in_order() {
    let mut w = World::new(1);
    let (p, a) = (w.connect("test"), w.connect("test"));
    run(&mut w, a, [transient("q"), consume("q", 1)]);
    w.take(a, NO_ROOM);
    w.send(p, bodies("q", 3));
    let one = Room {
        messages: 1,
        bytes: 1,
        large: true,
    };
    let mut heard = Vec::new();
    for _ in 0..3 {
        heard.extend(w.take(a, one).iter().map(line));
        w.take(a, NO_ROOM);
    }
    assert_eq!(heard, ["deliver c1 #1 1", "deliver c1 #2 2", "deliver c1 #3 3"]);
}

#[test]
fn one_message_always_fits_an_empty_output_and_a_second_only_if_it_does() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [transient("q"), consume("q", 1)]);
    w.send(c, vec![put("q", &padded("1", 5_000)), put("q", &padded("2", 5_000))]);
    let heard: Vec<_> = w
        .take(
            c,
            Room {
                messages: 10,
                bytes: 100,
                large: true,
            },
        )
        .iter()
        .map(line)
        .collect();
    assert_eq!(heard, ["confirmed 2", "deliver c1 #1 1"]);
    assert!(w.is_due(c));
}

#[test]
fn an_exclusive_consumer_is_alone_on_its_queue() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [transient("q"), consume_with("q", 1, |c| c.exclusive = true)],
    );
    let text = "failed Consume AccessRefused queue 'q' in vhost '/' in exclusive use";
    assert_eq!(run(&mut w, c, [consume("q", 2)]), [text]);
    run(&mut w, c, [cancel(1), consume("q", 2)]);
    assert_eq!(run(&mut w, c, [consume_with("q", 3, |c| c.exclusive = true)]), [text]);
}

#[test]
fn the_next_consumer_takes_over_when_the_single_active_one_leaves() {
    let mut w = World::new(1);
    let c = w.connect("test");
    let single = declare("q", |d| {
        d.arguments
            .push("x-single-active-consumer", gatepost_core::properties::Value::Bool(true));
    });
    run(
        &mut w,
        c,
        [single, consume_with("q", 1, |c| c.prefetch = Some(1)), consume("q", 2)],
    );
    assert_eq!(run(&mut w, c, bodies("q", 2)), ["confirmed 2", "deliver c1 #1 1"]);
    assert_eq!(run(&mut w, c, [cancel(1)]), ["done Cancel c1", "deliver c2 #2 2"]);
}

fn single_active(queue_type: &str) -> Command {
    declare("q", |d| {
        let on = gatepost_core::properties::Value::Bool(true);
        d.arguments.push("x-single-active-consumer", on);
        let queue_type = gatepost_core::properties::Value::text(queue_type);
        d.arguments.push("x-queue-type", queue_type);
    })
}

/// RabbitMQ's `single_active_consumer_SUITE` has this for both types of queues: the successor of a consumer that was cancelled
/// gets what is there, and does not wait for what the other one has not settled. That comes back to its old place, and to the
/// successor.
#[test]
fn the_successor_of_a_cancelled_active_consumer_does_not_wait_for_what_that_one_has() {
    for queue_type in ["classic", "quorum"] {
        let mut w = World::new(1);
        let (c, p) = (w.connect("test"), w.connect("test"));
        run(&mut w, c, [single_active(queue_type), consume("q", 1)]);
        run(
            &mut w,
            c,
            [consume_with("q", 2, |c| c.prefetch = Some(2)), consume("q", 3)],
        );
        run(&mut w, p, [put("q", "1"), put("q", "2")]);
        assert_eq!(hear(&mut w, c), ["deliver c1 #1 1", "deliver c1 #2 2"]);
        assert_eq!(run(&mut w, c, [cancel(1)]), ["done Cancel c1"]);
        run(&mut w, p, [put("q", "3"), put("q", "4"), put("q", "5")]);
        assert_eq!(hear(&mut w, c), ["deliver c2 #3 3", "deliver c2 #4 4"], "{queue_type}");
        // Each is settled by its number, as before.
        run(&mut w, c, [ack(1), settle(2, false, Outcome::Requeue)]);
        let heard = run(&mut w, c, [ack(3), ack(4)]);
        assert_eq!(heard, ["deliver c2 #5 2 again", "deliver c2 #6 5"], "{queue_type}");
        run(&mut w, c, [ack(5), ack(6)]);
        assert_eq!(w.counters().messages_ready, 0);
    }
}

/// A later consumer of a higher priority took over from the active one of a classic queue, which had messages unsettled.
#[test]
fn the_active_consumer_of_a_classic_queue_stays_and_the_highest_priority_follows() {
    let mut w = World::new(1);
    let (c, p) = (w.connect("test"), w.connect("test"));
    run(&mut w, c, [single_active("classic"), consume("q", 1), consume("q", 2)]);
    let higher = |token, priority| consume_with("q", token, |c| c.priority = priority);
    run(&mut w, c, [higher(3, 5), higher(4, 10), higher(5, 10)]);
    let next = |w: &mut World, expected: &str, body: &str| {
        run(w, p, [put("q", body)]);
        let heard = hear(w, c);
        assert!(heard.len() == 1 && heard[0].starts_with(expected), "{heard:?}");
    };
    next(&mut w, "deliver c1", "1");
    for (gone, follower) in [
        (1, "deliver c4"),
        (4, "deliver c5"),
        (5, "deliver c3"),
        (3, "deliver c2"),
    ] {
        run(&mut w, c, [cancel(gone)]);
        next(&mut w, follower, "m");
    }
}

#[test]
fn closing_a_channel_or_recovering_returns_unsettled_deliveries() {
    let mut w = World::new(1);
    let (a, b) = (w.connect("test"), w.connect("test"));
    run(
        &mut w,
        a,
        [transient("q"), put("q", "1"), put("q", "2"), get("q"), get("q")],
    );
    let recover = Command::Recover {
        channel: CH,
        reply: true,
    };
    assert_eq!(run(&mut w, a, [recover]), ["done Recover"]);
    assert_eq!(run(&mut w, a, [get("q")]), ["got #3 1 again left 1"]);
    assert_eq!(run(&mut w, a, [close_channel()]), ["done CloseChannel"]);
    assert_eq!(w.counters().channels, 0, "the answer does not open the channel again");
    assert_eq!(run(&mut w, b, [get("q")]), ["got #1 1 again left 1"]);
}

#[test]
fn a_rejected_message_is_gone() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [durable("q"), put("q", "1"), get("q")]);
    run(&mut w, c, [settle(1, false, Outcome::Reject)]);
    assert_eq!(run(&mut w, c, [get("q")]), ["empty"]);
    assert_eq!(w.counters().memory_bytes, 0);
}

#[test]
fn the_head_expires_with_and_without_consumers_and_for_get() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [with_arguments("q", &[("x-message-ttl", 100)])]);
    let put_now = |w: &World, body: &str| {
        let envelope = gatepost_core::message::Envelope {
            received: w.now().wall,
            ..Default::default()
        };
        let m = gatepost_core::message::Message::new(envelope, "", "q", &[], body.as_bytes());
        publish(Default::default(), m)
    };
    let m = put_now(&w, "1");
    run(&mut w, c, [m]);
    w.advance(ms(50));
    let m = put_now(&w, "2");
    run(&mut w, c, [m]);
    w.advance(ms(60));
    assert_eq!(w.counters().messages_ready, 1);
    assert_eq!(run(&mut w, c, [get("q")]), ["got #1 2 left 0"]);
    w.advance(ms(1_000));
    assert_eq!(run(&mut w, c, [requeue(1), get("q")]), ["empty"]);
    assert_eq!((w.counters().expired, w.counters().memory_bytes), (2, 0));
}

/// It was dropped a moment later, so a client that asked at once saw more messages than the limit allows.
#[test]
fn what_is_requeued_into_a_full_queue_is_not_seen() {
    let mut w = World::new(1);
    let c = w.connect("test");
    let queue = || with_arguments("q", &[("x-max-length", 1)]);
    run(&mut w, c, [queue(), put("q", "1"), get("q"), put("q", "2")]);
    assert_eq!(
        run(&mut w, c, [requeue(1), get("q"), get("q")]),
        ["got #2 2 left 0", "empty"]
    );
    run(&mut w, c, [put("q", "3")]);
    let heard = run(&mut w, c, [requeue(2), queue()]);
    assert_eq!(heard, ["declared q 1/0"]);
}

/// `get-ok` counted messages that had expired behind the one it fetched.
#[test]
fn a_get_does_not_count_what_has_expired_behind_its_message() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [transient("q")]);
    let expiring = |w: &World, body: &str, after: u64| {
        let envelope = gatepost_core::message::Envelope {
            received: w.now().wall,
            deadline: Some(w.now().wall + ms(after)),
            ..Default::default()
        };
        let m = gatepost_core::message::Message::new(envelope, "", "q", &[], body.as_bytes());
        publish(Default::default(), m)
    };
    let (first, second) = (expiring(&w, "2", 100), expiring(&w, "3", 100));
    let later = [put_transient("q", "1"), first, second, put_transient("q", "4")];
    run(&mut w, c, later);
    w.advance(ms(200));
    assert_eq!(w.counters().expired, 0, "they are not at the head");
    assert_eq!(run(&mut w, c, [get("q")]), ["got #1 1 left 1"]);
    assert_eq!(w.counters().expired, 2);
}

#[test]
fn thousands_that_expire_together_are_dropped_in_several_turns() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [declare("q", |d| {
            d.durable = false;
            d.arguments
                .push("x-message-ttl", gatepost_core::properties::Value::Int(100, 32));
        })],
    );
    w.set_audits(false);
    let received = w.now().wall;
    let many: Vec<Command> = (0..5_000)
        .map(|_| {
            let envelope = gatepost_core::message::Envelope {
                received,
                ..Default::default()
            };
            publish(
                Default::default(),
                gatepost_core::message::Message::new(envelope, "", "q", &[], b"m"),
            )
        })
        .collect();
    run(&mut w, c, many);
    w.advance(ms(101));
    let left = w.counters().messages_ready;
    assert!(left < 5_000);
    w.advance(ms(10));
    assert_eq!(w.counters().messages_ready, 0);
}

#[test]
fn unsettled_deliveries_cost_no_more_than_their_own_memory() {
    let mut w = World::new(1);
    let c = w.connect("test");
    w.set_audits(false);
    run(&mut w, c, [transient("q"), consume("q", 1), put("q", "stuck")]);
    for n in 2..2_000 {
        run(&mut w, c, [put("q", "m")]);
        run(&mut w, c, [ack(n)]);
    }
    assert_eq!(w.counters().messages_unsettled, 1);
    assert!(run(&mut w, c, [ack_upto(1)]).is_empty());
}

#[test]
fn a_fetched_message_is_numbered_when_it_is_handed_out() {
    // It was numbered when it was requested. While its answer waited for the log, a delivery with a higher number
    // overtook it, and a consumer that settled all up to that one settled a message it had not received.
    let mut w = World::new(1);
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [
            durable("d"),
            transient("t"),
            put("d", "1"),
            put("d", "2"),
            consume("t", 1),
        ],
    );
    w.send(c, vec![put("t", "overtakes"), get("d")]);
    assert_eq!(now(&mut w, c), ["confirmed 3", "deliver c1 #1 overtakes"]);
    w.send(c, vec![ack_upto(1)]);
    assert_eq!(hear(&mut w, c), ["got #2 1 left 1"]);
    w.send(c, vec![get("d"), get("d"), close_channel()]);
    w.drop_client(c);
    let c = w.connect("test");
    w.send(c, vec![get("d")]);
    w.drop_client(c);
    let c = w.connect("test");
    assert_eq!(
        run(&mut w, c, [get("d"), get("d")]),
        ["got #1 1 again left 1", "got #2 2 left 0"]
    );
}

#[test]
fn messages_on_disk_expire_without_consumers() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [durable("d"), put("d", "stays")]);
    let envelope = gatepost_core::message::Envelope {
        durable: true,
        received: w.now().wall,
        deadline: Some(w.now().wall + ms(1_000)),
        ..Default::default()
    };
    let expiring = |queue, body: &str| {
        let m = gatepost_core::message::Message::new(envelope, "", queue, &[], body.as_bytes());
        publish(gatepost_core::command::PublishFlags::CONFIRM, m)
    };
    run(
        &mut w,
        c,
        [durable("e"), expiring("e", "1"), expiring("e", "2"), put("e", "3")],
    );
    w.crash(gatepost_core::testing::disk::Crash::Process);
    w.catch_up();
    assert_eq!(
        w.counters().bodies_loaded,
        2,
        "the head of each queue tells when it expires"
    );
    w.advance(ms(1_001));
    w.catch_up();
    w.advance(ms(10));
    assert_eq!((w.counters().messages_ready, w.counters().expired), (2, 2));
}

#[test]
fn an_opened_channel_ends_at_its_first_failure() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [Command::OpenChannel { channel: CH }, transient("q")]);
    let heard = run(&mut w, c, [get("no"), put("q", "m"), get("q")]);
    assert_eq!(heard, ["failed Get NotFound no queue 'no' in vhost '/'"]);
    assert_eq!(
        run(&mut w, c, [close_channel(), get("q")]),
        ["done CloseChannel", "empty"]
    );
}

#[test]
fn priorities_are_served_from_the_highest_also_after_a_requeue_and_a_restart() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [with_arguments("q", &[("x-max-priority", 5)])]);
    let prioritized = |body: &str, priority| {
        let envelope = gatepost_core::message::Envelope {
            durable: true,
            priority,
            ..Default::default()
        };
        let m = gatepost_core::message::Message::new(envelope, "", "q", &[], body.as_bytes());
        publish(gatepost_core::command::PublishFlags::CONFIRM, m)
    };
    let all = [
        prioritized("none", None),
        prioritized("one", Some(1)),
        prioritized("most", Some(9)),
        prioritized("five", Some(5)),
    ];
    run(&mut w, c, all);
    assert_eq!(
        run(&mut w, c, [get("q"), get("q")]),
        ["got #1 most left 3", "got #2 five left 2"]
    );
    run(&mut w, c, [requeue(2), requeue(1)]);
    assert_eq!(run(&mut w, c, [get("q")]), ["got #3 most again left 3"]);
    w.crash(gatepost_core::testing::disk::Crash::Power);
    let c = w.connect("test");
    let bodies: Vec<_> = run(&mut w, c, [consume("q", 1)])[1..]
        .iter()
        .map(|l| l.split(' ').nth(3).unwrap().to_owned())
        .collect();
    assert_eq!(bodies, ["most", "five", "one", "none"]);
}

/// One queue had all of a channel's window until it was empty, and the others of the channel waited.
#[test]
fn queues_share_the_window_of_their_channel_by_turns() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [transient("a"), transient("b"), transient("d")]);
    for queue in ["a", "b", "d"] {
        run(
            &mut w,
            c,
            (1..=10)
                .map(|n| put_transient(queue, &format!("{queue}{n}")))
                .collect::<Vec<_>>(),
        );
    }
    let mut heard = run(
        &mut w,
        c,
        [prefetch(1, true), consume("a", 1), consume("b", 2), consume("d", 3)],
    );
    for n in 1..=8 {
        heard.extend(run(&mut w, c, [ack(n)]));
    }
    let of = |queue: char| heard.iter().filter(|line| line.contains(&format!(" {queue}"))).count();
    assert!(['a', 'b', 'd'].iter().all(|queue| of(*queue) >= 2), "{heard:?}");
}

/// As RabbitMQ has it: the channel's window is for all its consumers, also for those that settle nothing.
#[test]
fn a_consumer_that_does_not_settle_waits_while_others_have_all_of_the_channels_window() {
    let mut w = World::new(1);
    let c = w.connect("test");
    let begin = [
        transient("q"),
        transient("n"),
        prefetch(1, true),
        consume("q", 1),
        consume_no_ack("n", 2),
        put_transient("q", "first"),
    ];
    run(&mut w, c, begin);
    let heard = run(&mut w, c, [put_transient("n", "second")]);
    assert!(heard.iter().all(|line| !line.contains("second")), "{heard:?}");
    let heard = run(&mut w, c, [ack(1)]);
    assert!(heard.iter().any(|line| line.contains("second")), "{heard:?}");
}
