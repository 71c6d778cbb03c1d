//! MQTT sessions: open, take over, offline, in flight both ways, expiry.

use crate::support::*;
use gatepost_core::command::{Bind, BindTarget, Command, PublishFlags};
use gatepost_core::message::Message;
use gatepost_core::properties::Table;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{Client, NO_ROOM, World};
use std::time::Duration;

#[test]
fn a_session_is_present_when_its_client_reconnects_without_clean_start() {
    let mut w = World::new(1);
    let c = w.connect("mqtt");
    assert_eq!(run(&mut w, c, [kept("a")]), ["open new"]);
    w.drop_client(c);
    let c = w.connect("mqtt");
    assert_eq!(run(&mut w, c, [kept("a")]), ["open present"]);
    w.drop_client(c);
    let c = w.connect("mqtt");
    assert_eq!(run(&mut w, c, [session("a", |s| s.clean_start = true)]), ["open new"]);
    w.drop_client(c);
    let c = w.connect("mqtt");
    assert_eq!(run(&mut w, c, [clean("b")]), ["open new"]);
    w.drop_client(c);
    let c = w.connect("mqtt");
    assert_eq!(
        run(&mut w, c, [session("b", |s| s.expiry = Some(0))]),
        ["open new"],
        "its expiry was 0"
    );
}

#[test]
fn a_durable_session_opens_when_it_is_logged_and_nothing_precedes_that() {
    // A SUBSCRIBE sent together with the CONNECT was answered before the session was open, and messages came even
    // earlier.
    let mut w = World::new(1);
    let p = open(&mut w, "p");
    let c = w.connect("mqtt");
    w.send(c, vec![kept("c"), subscribe(vec![filter("t", 1)])]);
    w.send(p, vec![mqtt("t", "m", 0, 0), mqtt("t", "n", 1, 0)]);
    assert!(now(&mut w, c).is_empty());
    assert_eq!(hear(&mut w, c), ["open new", "suback 1 [Ok(1)]", "publish q1 #1 t n"]);
}

#[test]
fn another_connection_takes_the_session_over() {
    let mut w = World::new(1);
    let a = subscriber(&mut w, "c", "t", 1);
    let b = w.connect("mqtt");
    w.send(b, vec![kept("c")]);
    assert_eq!(now(&mut w, a), ["closed TakenOver"]);
    assert!(hear(&mut w, b).is_empty(), "the old connection has it still");
    w.drop_client(a);
    assert!(now(&mut w, b).is_empty(), "the log does not know yet");
    assert_eq!(hear(&mut w, b), ["open present"]);
    assert_eq!(
        run(&mut w, b, [mqtt("t", "m", 1, 0)]),
        ["confirmed 1", "publish q1 #1 t m"]
    );
}

#[test]
fn commands_of_the_old_connection_are_applied_before_a_takeover() {
    // They were ignored: the will of a client that had sent DISCONNECT was published if the client reconnected quickly.
    let mut w = World::new(1);
    let p = open(&mut w, "p");
    let watch = subscriber(&mut w, "watch", "#", 0);
    let a = w.connect("mqtt");
    let c = session("c", |s| {
        s.will = Some(will("gone", 0));
        s.expiry = Some(600);
    });
    run(&mut w, a, [c, subscribe(vec![filter("t", 2)])]);
    run(
        &mut w,
        p,
        (1..=3).map(|n| mqtt("t", &n.to_string(), 1, 0)).collect::<Vec<_>>(),
    );
    assert_eq!(hear(&mut w, a).len(), 3);
    hear(&mut w, watch);
    let b = w.connect("mqtt");
    w.send(b, vec![kept("c"), subscribe(vec![filter("u", 0)])]);
    assert_eq!(now(&mut w, a), ["closed TakenOver"]);
    // It gets nothing more, not even what it asks for.
    run(&mut w, p, [mqtt("t", "4", 1, 0)]);
    w.send(
        a,
        vec![puback(2), subscribe(vec![filter("v", 1)]), mqtt("said", "m", 0, 0)],
    );
    assert!(hear(&mut w, a).is_empty());
    assert!(hear(&mut w, b).is_empty());
    w.send(a, vec![Command::DropWill, Command::Detach]);
    assert_eq!(
        hear(&mut w, b),
        [
            "open present",
            "suback 1 [Ok(0)]",
            "publish q1 #1 t 1 dup",
            "publish q1 #3 t 3 dup",
            "publish q1 #4 t 4"
        ]
    );
    assert_eq!(run(&mut w, b, [unsubscribe("v", None)]), ["unsuback 2 [true]"]);
    let watched = hear(&mut w, watch);
    assert_eq!(watched, ["publish q0 #0 t 4", "publish q0 #0 said m"], "no will");
}

#[test]
fn a_connection_without_room_is_told_that_it_loses_its_session() {
    // A peer that reads nothing is a common reason to reconnect. Without room, a link is not woken for messages.
    let mut w = World::new(1);
    let a = subscriber(&mut w, "c", "t", 1);
    w.take(a, NO_ROOM);
    assert!(!w.is_due(a));
    let b = w.connect("mqtt");
    w.send(b, vec![kept("c")]);
    assert!(w.is_due(a));
    let told: Vec<_> = w.take(a, NO_ROOM).iter().map(line).collect();
    assert_eq!(told, ["closed TakenOver"]);
    w.drop_client(a);
    assert_eq!(hear(&mut w, b), ["open present"]);
}

#[test]
fn many_connections_of_one_client_get_its_session_in_order_of_arrival() {
    let mut w = World::new(1);
    let watch = subscriber(&mut w, "watch", "#", 0);
    let first = open(&mut w, "c");
    let later: Vec<_> = (1..=4)
        .map(|n| {
            let c = w.connect("mqtt");
            let who = session("c", |s| s.clean_start = n == 3);
            w.send(c, vec![who, mqtt("said", &n.to_string(), 0, 0)]);
            c
        })
        .collect();
    // The client closes one that waits. Its commands are still applied when its turn comes.
    w.drop_client(later[1]);
    assert_eq!(now(&mut w, first), ["closed TakenOver"]);
    w.drop_client(first);
    for (n, c) in (1..).zip(&later[..3]) {
        let heard = hear(&mut w, *c);
        assert!(later[n..].iter().all(|c| w.waits(*c)));
        if n != 2 {
            assert_eq!(heard[0], if n == 3 { "open new" } else { "open present" });
            // The next one tries.
            assert!(hear(&mut w, later[n]).is_empty());
            assert_eq!(now(&mut w, *c), ["closed TakenOver"]);
            w.drop_client(*c);
        }
    }
    assert_eq!(hear(&mut w, later[3]), ["open present"]);
    let said = ["1", "2", "3", "4"].map(|n| format!("publish q0 #0 said {n}"));
    assert_eq!(hear(&mut w, watch), said);
    w.drop_client(later[3]);
    w.drop_client(watch);
    w.assert_idle();
}

#[test]
fn messages_for_an_absent_client_wait_for_it_and_survive_a_crash() {
    let mut w = World::new(1);
    let p = open(&mut w, "p");
    let c = subscriber(&mut w, "c", "t/+", 1);
    w.drop_client(c);
    run(
        &mut w,
        p,
        [mqtt("t/1", "a", 1, 0), mqtt("t/2", "b", 0, 0), mqtt("t/3", "c", 2, 1)],
    );
    w.crash(Crash::Power);
    let c = w.connect("mqtt");
    assert_eq!(
        run(&mut w, c, [kept("c")]),
        ["open present", "publish q1 #1 t/1 a", "publish q1 #2 t/3 c"]
    );
    run(&mut w, c, [puback(1), puback(2)]);
    w.drop_client(c);
    let c = w.connect("mqtt");
    assert_eq!(run(&mut w, c, [kept("c")]), ["open present"]);
}

#[test]
fn deliveries_in_flight_are_sent_again_in_order_before_new_ones() {
    let mut w = World::new(1);
    let p = open(&mut w, "p");
    let c = subscriber(&mut w, "c", "t", 2);
    run(
        &mut w,
        p,
        [
            mqtt("t", "1", 1, 0),
            mqtt("t", "2", 2, 5),
            mqtt("t", "3", 2, 6),
            mqtt("t", "4", 1, 0),
        ],
    );
    assert_eq!(
        hear(&mut w, c),
        [
            "publish q1 #1 t 1",
            "publish q1 #4 t 4",
            "publish q2 #2 t 2",
            "publish q2 #3 t 3"
        ]
    );
    assert_eq!(run(&mut w, c, [pubrec(2), puback(1)]), ["pubrel 2"]);
    w.drop_client(c);
    run(&mut w, p, [mqtt("t", "5", 1, 0)]);
    let c = w.connect("mqtt");
    assert_eq!(
        run(&mut w, c, [kept("c")]),
        [
            "open present",
            "pubrel 2",
            "publish q2 #3 t 3 dup",
            "publish q1 #4 t 4 dup",
            "publish q1 #5 t 5"
        ]
    );
}

#[test]
fn the_receive_maximum_limits_deliveries_and_an_old_pubrel_does_not_count() {
    // Messages released before a reconnect were not counted, but returned credit when they were completed: too much was
    // sent.
    let mut w = World::new(1);
    let p = open(&mut w, "p");
    let two = |s: &mut gatepost_core::command::OpenSession| s.receive_maximum = 2;
    let c = w.connect("mqtt");
    run(&mut w, c, [session("c", two), subscribe(vec![filter("t", 2)])]);
    run(
        &mut w,
        p,
        (1..=6).map(|n| mqtt("t", &n.to_string(), 2, n)).collect::<Vec<_>>(),
    );
    assert_eq!(hear(&mut w, c), ["publish q2 #1 t 1", "publish q2 #2 t 2"]);
    assert_eq!(run(&mut w, c, [pubrec(1), pubrec(2)]), ["pubrel 1", "pubrel 2"]);
    w.drop_client(c);
    let c = w.connect("mqtt");
    let heard = run(&mut w, c, [session("c", two)]);
    assert_eq!(
        heard,
        [
            "open present",
            "pubrel 1",
            "pubrel 2",
            "publish q2 #3 t 3",
            "publish q2 #4 t 4"
        ]
    );
    assert!(run(&mut w, c, [puback(1), puback(2)]).is_empty());
    assert_eq!(
        run(&mut w, c, [pubrec(3), puback(3)]),
        ["pubrel 3", "publish q2 #5 t 5"]
    );
}

#[test]
fn qos_0_passes_where_the_receive_maximum_holds_back() {
    let mut w = World::new(1);
    let p = open(&mut w, "p");
    let c = w.connect("mqtt");
    run(
        &mut w,
        c,
        [session("c", |s| s.receive_maximum = 1), subscribe(vec![filter("t", 1)])],
    );
    run(&mut w, p, [mqtt("t", "0", 0, 0), mqtt("t", "1", 1, 0)]);
    assert_eq!(hear(&mut w, c), ["publish q0 #0 t 0", "publish q1 #1 t 1"]);
}

#[test]
fn a_publishers_qos_2_id_is_remembered_until_it_is_released_also_over_a_crash() {
    let mut w = World::new(1);
    let c = subscriber(&mut w, "c", "t", 2);
    w.drop_client(c);
    let p = open(&mut w, "p");
    w.send(p, vec![mqtt("t", "m", 2, 9)]);
    assert!(now(&mut w, p).is_empty());
    assert_eq!(hear(&mut w, p), ["confirmed 1"]);
    assert_eq!(run(&mut w, p, [mqtt("t", "m", 2, 9)]), ["confirmed 2"]);
    w.crash(Crash::Power);
    let p = open(&mut w, "p");
    assert_eq!(run(&mut w, p, [mqtt("t", "m", 2, 9)]), ["confirmed 1"]);
    assert_eq!(run(&mut w, p, [pubrel(9)]), ["pubcomp 9"]);
    assert_eq!(run(&mut w, p, [pubrel(9)]), ["pubcomp 9 unknown"]);
    run(&mut w, p, [mqtt("t", "n", 2, 9)]);
    w.crash(Crash::Power);
    let c = w.connect("mqtt");
    assert_eq!(
        run(&mut w, c, [kept("c")]),
        ["open present", "publish q2 #1 t m", "publish q2 #2 t n"]
    );
}

#[test]
fn a_duplicate_on_a_new_connection_waits_for_the_log_like_the_first_publish() {
    // It was confirmed at once, although the message that it repeats was not logged yet.
    let mut w = World::new(1);
    let c = subscriber(&mut w, "c", "t", 2);
    w.drop_client(c);
    let mut p = open(&mut w, "p");
    w.send(p, vec![mqtt("t", "m", 2, 9)]);
    let old = std::mem::replace(&mut p, w.connect("mqtt"));
    w.send(p, vec![kept("p"), mqtt("t", "m", 2, 9)]);
    w.drop_client(old);
    assert!(now(&mut w, p).is_empty());
    assert_eq!(hear(&mut w, p), ["open present", "confirmed 1"]);
    assert_eq!(w.counters().messages_ready, 1);
}

#[test]
fn an_outgoing_qos_2_id_is_logged_before_it_is_used_and_so_is_its_release() {
    let mut w = World::new(1);
    let p = open(&mut w, "p");
    let c = subscriber(&mut w, "c", "t", 2);
    run(&mut w, p, [mqtt("t", "m", 2, 1)]);
    assert!(now(&mut w, c).is_empty(), "its id is not in the log");
    w.catch_up();
    assert_eq!(now(&mut w, c), ["publish q2 #1 t m"]);
    w.send(c, vec![pubrec(1)]);
    // PUBREL was sent at once: after a power cut the message was sent again to a client that had forgotten the id.
    assert!(now(&mut w, c).is_empty());
    assert_eq!(hear(&mut w, c), ["pubrel 1"]);
    w.crash(Crash::Power);
    let c = w.connect("mqtt");
    assert_eq!(run(&mut w, c, [kept("c")]), ["open present", "pubrel 1"]);
    assert!(run(&mut w, c, [puback(1)]).is_empty());
    assert_eq!(run(&mut w, c, [pubrec(77)]), ["pubrel 77 unknown"]);
}

#[test]
fn bodies_in_flight_are_read_from_disk_some_at_a_time() {
    // All of them were read and sent at once.
    let settings = gatepost_core::testing::world::Settings {
        cache_bytes_max: 32 << 10,
        ..Default::default()
    };
    let mut w = World::with(1, settings, Default::default());
    let many = |s: &mut gatepost_core::command::OpenSession| s.receive_maximum = 2_000;
    let (p, c) = (open(&mut w, "p"), w.connect("mqtt"));
    w.set_audits(false);
    run(&mut w, c, [session("c", many), subscribe(vec![filter("t", 1)])]);
    for n in 0..1_000 {
        run(&mut w, p, [mqtt("t", &padded(&n.to_string(), 1_000), 1, 0)]);
        assert_eq!(hear(&mut w, c).len(), 1);
    }
    w.set_audits(true);
    w.drop_client(c);
    let c = w.connect("mqtt");
    w.send(c, vec![session("c", many)]);
    w.catch_up();
    assert!(
        w.counters().memory_bytes < 400_000,
        "{} bytes",
        w.counters().memory_bytes
    );
    let heard = hear(&mut w, c);
    assert_eq!(heard.len(), 1_001);
    for (n, l) in heard[1..].iter().enumerate() {
        assert_eq!(*l, format!("publish q1 #{} t {n} dup", n + 1));
    }
}

/// Five messages of QoS 1 and one of QoS 2 are in flight, and the client reconnects with another receive maximum.
fn back_with(w: &mut World, receive_maximum: u16) -> Client {
    let p = open(w, "p");
    let c = w.connect("mqtt");
    run(
        w,
        c,
        [
            session("c", |s| s.receive_maximum = 10),
            subscribe(vec![filter("t", 2)]),
        ],
    );
    run(
        w,
        p,
        (1..=6)
            .map(|n| mqtt("t", &n.to_string(), 1 + n / 6, u16::from(n)))
            .collect::<Vec<_>>(),
    );
    assert_eq!(hear(w, c).len(), 6);
    w.drop_client(c);
    run(w, p, [mqtt("t", "new", 1, 0)]);
    w.drop_client(p);
    let c = w.connect("mqtt");
    w.send(c, vec![session("c", |s| s.receive_maximum = receive_maximum)]);
    c
}

#[test]
fn resends_wait_for_the_receive_maximum_and_delay_nothing_else() {
    // All of them were sent at once.
    let mut w = World::new(1);
    let c = back_with(&mut w, 2);
    assert_eq!(
        hear(&mut w, c),
        ["open present", "publish q1 #1 t 1 dup", "publish q1 #2 t 2 dup"]
    );
    assert_eq!(run(&mut w, c, [subscribe(vec![filter("u", 0)])]), ["suback 1 [Ok(0)]"]);
    // One that waits may be acknowledged, too; then it is not sent again.
    assert!(run(&mut w, c, [puback(3)]).is_empty());
    assert_eq!(run(&mut w, c, [puback(2)]), ["publish q1 #4 t 4 dup"]);
    assert_eq!(run(&mut w, c, [puback(1)]), ["publish q1 #5 t 5 dup"]);
    assert_eq!(run(&mut w, c, [puback(5)]), ["publish q2 #6 t 6 dup"]);
    // MQTT 5 4.9: PUBCOMP returns credit, PUBREC does not.
    assert_eq!(run(&mut w, c, [pubrec(6)]), ["pubrel 6"]);
    assert_eq!(run(&mut w, c, [puback(6)]), ["publish q1 #7 t new"]);
    assert!(run(&mut w, c, [puback(4), puback(7)]).is_empty());
    assert_eq!(w.counters().messages_unsettled, 0);
}

#[test]
fn a_pubrel_from_an_earlier_connection_needs_no_credit() {
    let mut w = World::new(1);
    let c = back_with(&mut w, 10);
    assert_eq!(hear(&mut w, c).len(), 8);
    run(&mut w, c, [pubrec(6), puback(7)]);
    w.drop_client(c);
    let c = w.connect("mqtt");
    let heard = run(&mut w, c, [session("c", |s| s.receive_maximum = 5)]);
    assert_eq!(heard.len(), 7);
    assert_eq!(heard[6], "pubrel 6");
    w.drop_client(c);
    // Behind deliveries that wait it waits, but no longer than they do.
    let c = w.connect("mqtt");
    assert_eq!(run(&mut w, c, [session("c", |s| s.receive_maximum = 4)]).len(), 5);
    assert_eq!(run(&mut w, c, [puback(1)]), ["publish q1 #5 t 5 dup", "pubrel 6"]);
}

#[test]
fn resends_from_disk_wait_for_the_receive_maximum() {
    let mut w = World::new(1);
    let (p, c) = (open(&mut w, "p"), w.connect("mqtt"));
    run(
        &mut w,
        c,
        [
            session("c", |s| s.receive_maximum = 10),
            subscribe(vec![filter("t", 2)]),
        ],
    );
    run(
        &mut w,
        p,
        (1..=5).map(|n| mqtt("t", &n.to_string(), 2, n)).collect::<Vec<_>>(),
    );
    assert_eq!(hear(&mut w, c).len(), 5);
    w.crash(Crash::Power);
    let c = w.connect("mqtt");
    let heard = run(&mut w, c, [session("c", |s| s.receive_maximum = 1)]);
    assert_eq!(heard, ["open present", "publish q2 #1 t 1 dup"]);
    for n in 1..=5 {
        assert_eq!(run(&mut w, c, [pubrec(n)]), [format!("pubrel {n}")]);
        let next = run(&mut w, c, [puback(n)]);
        let expected = (n < 5).then(|| format!("publish q2 #{} t {} dup", n + 1, n + 1));
        assert_eq!(next, Vec::from_iter(expected));
    }
}

#[test]
fn acknowledgements_of_qos_2_for_a_message_of_qos_1_fail() {
    let mut w = World::new(1);
    let p = open(&mut w, "p");
    let c = subscriber(&mut w, "c", "t", 2);
    run(&mut w, p, [mqtt("t", "1", 1, 0), mqtt("t", "2", 2, 7)]);
    hear(&mut w, c);
    let failed = "failed Settle NotAllowed the delivery is of QoS 1";
    assert_eq!(run(&mut w, c, [pubrec(1)]), [failed]);
    assert_eq!(run(&mut w, c, [Command::Stray { packet_id: 1 }]), [failed]);
    for packet_id in [2, 77] {
        assert!(run(&mut w, c, [Command::Stray { packet_id }]).is_empty());
    }
    // It is in flight as before.
    assert_eq!(w.counters().messages_unsettled, 2);
}

#[test]
fn subscriptions_overlap_in_one_copy_with_all_their_ids_and_the_highest_qos() {
    let mut w = World::new(1);
    let p = open(&mut w, "p");
    let c = open(&mut w, "c");
    run(
        &mut w,
        c,
        [
            subscribe_as(vec![filter("a/+", 0)], Some(7)),
            subscribe_as(vec![filter("a/#", 1)], Some(9)),
            subscribe(vec![filter("b", 1)]),
        ],
    );
    run(&mut w, p, [mqtt("a/x", "m", 1, 0)]);
    assert_eq!(hear(&mut w, c), ["publish q1 #1 a/x m ids 7,9"]);
    assert_eq!(
        run(&mut w, c, [unsubscribe("a/#", None), unsubscribe("no", None)]),
        ["unsuback 2 [true]", "unsuback 2 [false]"]
    );
    run(&mut w, p, [mqtt("a/x", "n", 1, 0)]);
    assert_eq!(hear(&mut w, c), ["publish q0 #0 a/x n ids 7"]);
}

#[test]
fn no_local_keeps_a_clients_own_messages_from_it() {
    let mut w = World::new(1);
    let (p, c) = (open(&mut w, "p"), open(&mut w, "c"));
    let mut f = filter("t", 1);
    f.no_local = true;
    run(&mut w, c, [subscribe(vec![f])]);
    assert_eq!(run(&mut w, c, [mqtt("t", "own", 1, 0)]), ["confirmed 1"]);
    run(&mut w, p, [mqtt("t", "other", 1, 0)]);
    assert_eq!(hear(&mut w, c), ["publish q1 #1 t other"]);
}

#[test]
fn retain_as_published_keeps_the_flag_of_live_messages() {
    let mut w = World::new(1);
    let (p, c) = (open(&mut w, "p"), open(&mut w, "c"));
    let mut f = filter("t", 0);
    f.retain_as_published = true;
    run(&mut w, c, [subscribe(vec![f])]);
    run(&mut w, p, [retain("t", "m"), mqtt("t", "n", 0, 0)]);
    assert_eq!(hear(&mut w, c), ["publish q0 #0 t m retain", "publish q0 #0 t n"]);
}

#[test]
fn a_session_expires_with_everything_it_had_unless_its_client_returns() {
    let mut w = World::new(1);
    let p = open(&mut w, "p");
    let connect = |w: &mut World| {
        let c = w.connect("mqtt");
        let heard = run(
            w,
            c,
            [session("c", |s| s.expiry = Some(10)), subscribe(vec![filter("t", 1)])],
        );
        (c, heard[0].clone())
    };
    let (c, _) = connect(&mut w);
    w.drop_client(c);
    w.advance(Duration::from_secs(9));
    let (c, present) = connect(&mut w);
    assert_eq!(present, "open present");
    w.advance(Duration::from_secs(30));
    w.drop_client(c);
    run(&mut w, p, [mqtt("t", "m", 1, 0)]);
    w.advance(Duration::from_millis(10_001));
    assert_eq!((w.counters().sessions, w.counters().messages_ready), (1, 0));
    assert_eq!(connect(&mut w).1, "open new");
}

#[test]
fn a_session_expires_at_its_time_even_if_no_timer_has_run() {
    // After a start, its client could reconnect before the first tick.
    let mut w = World::new(1);
    let c = w.connect("mqtt");
    run(&mut w, c, [kept("c"), subscribe(vec![filter("t", 1)])]);
    w.drop_client(c);
    let c = w.connect("mqtt");
    let without = session("c", |s| s.expiry = Some(0));
    assert_eq!(run(&mut w, c, [without]), ["open present"]);
    w.crash(Crash::Power);
    let c = w.connect("mqtt");
    assert_eq!(run(&mut w, c, [kept("c")]), ["open new"]);
}

#[test]
fn sessions_opened_again_and_again_do_not_accumulate_timers() {
    // Each disconnect added a timer for the session's whole expiry.
    let mut w = World::new(1);
    for _ in 0..100 {
        let c = w.connect("mqtt");
        run(&mut w, c, [session("c", |s| s.will = Some(will("gone", 600)))]);
        w.drop_client(c);
        w.advance(ms(10));
    }
    w.catch_up();
    w.assert_idle();
}

#[test]
fn an_expiry_is_counted_once_over_restarts() {
    // A session that was connected at a crash started its expiry again at every start.
    let mut w = World::new(1);
    let c = w.connect("mqtt");
    run(&mut w, c, [session("c", |s| s.expiry = Some(100))]);
    w.crash(Crash::Power);
    w.catch_up();
    for _ in 0..3 {
        w.advance(Duration::from_secs(40));
        w.stop_and_start();
    }
    assert_eq!(w.counters().sessions, 0);
}

#[test]
fn a_message_expires_while_it_waits_but_not_in_flight() {
    let mut w = World::new(1);
    let p = open(&mut w, "p");
    let c = w.connect("mqtt");
    run(
        &mut w,
        c,
        [session("c", |s| s.receive_maximum = 1), subscribe(vec![filter("t", 1)])],
    );
    let deadline = Some(w.now().wall + ms(100));
    let expiring = |body| mqtt_message(topic_message("t", body, |e| e.deadline = deadline), 0);
    run(&mut w, p, [expiring("1"), expiring("2"), mqtt("t", "3", 1, 0)]);
    assert_eq!(hear(&mut w, c), ["publish q1 #1 t 1"]);
    w.advance(ms(150));
    w.drop_client(c);
    let c = w.connect("mqtt");
    assert_eq!(
        run(&mut w, c, [session("c", |s| s.receive_maximum = 5)]),
        ["open present", "publish q1 #1 t 1 dup", "publish q1 #2 t 3"]
    );
}

#[test]
fn a_slow_subscriber_loses_qos_0_and_nothing_else() {
    let settings = gatepost_core::testing::world::Settings {
        qos0_backlog_max: 5,
        ..Default::default()
    };
    let mut w = World::with(1, settings, Default::default());
    let p = open(&mut w, "p");
    let c = subscriber(&mut w, "c", "t", 1);
    w.take(c, gatepost_core::testing::world::NO_ROOM);
    run(
        &mut w,
        p,
        (0..10).map(|n| mqtt("t", &n.to_string(), 0, 0)).collect::<Vec<_>>(),
    );
    run(&mut w, p, [mqtt("t", "last", 1, 0)]);
    let heard = hear(&mut w, c);
    assert_eq!(heard.len(), 6);
    assert_eq!(heard[5], "publish q1 #1 t last");
    assert_eq!(w.counters().dropped_full, 5);
}

/// MQTT 5 3.4.2.1: a publisher could not tell a topic that nobody subscribes to from others.
#[test]
fn a_publisher_is_told_that_no_subscription_matches() {
    let mut w = World::new(1);
    let (a, p) = (w.connect("amqp"), w.connect("p"));
    let (own, away, member) = (w.connect("own"), w.connect("away"), w.connect("member"));
    let tell = |message: Message, packet_id: u16| Command::Publish {
        channel: 0,
        flags: PublishFlags::CONFIRM | PublishFlags::TELL_UNROUTED,
        packet_id,
        message,
    };
    let put = |topic: &str, qos: u8| topic_message(topic, "m", |e| (e.qos, e.durable) = (qos, true));
    run(&mut w, own, [kept("own"), subscribe(vec![filter("own/#", 1)])]);
    let mut no_local = filter("mine", 1);
    no_local.no_local = true;
    run(&mut w, own, [subscribe(vec![no_local])]);
    run(&mut w, away, [kept("away"), subscribe(vec![filter("away", 0)])]);
    run(
        &mut w,
        member,
        [kept("member"), subscribe(vec![shared("g", "shared", 1)])],
    );
    for gone in [away, member] {
        w.drop_client(gone);
    }
    run(
        &mut w,
        a,
        [durable("q"), bind("amq.topic", "q", "amqp"), exchange("x", "fanout")],
    );
    let onwards = Bind {
        channel: CH,
        source: "amq.topic".into(),
        target: BindTarget::Exchange("x".into()),
        key: "onwards".into(),
        arguments: Table::default(),
        reply: true,
    };
    run(&mut w, a, [Command::Bind(Box::new(onwards))]);
    run(&mut w, p, [kept("p")]);

    let mut number = 0;
    // The last one is retained, and nobody subscribes to it either.
    for (message, is_matched) in [
        (put("nobody", 1), false),
        (put("own/1", 1), true),
        (put("away", 1), true),
        (put("shared", 1), true),
        (put("amqp", 1), true),
        (put("onwards", 1), false),
        (topic_message("kept", "m", |e| e.retain = true), false),
    ] {
        number += 1;
        let topic = message.key().to_owned();
        let heard = run(&mut w, p, [tell(message, 0)]);
        let confirmed = format!("confirmed {number}");
        let expected = match is_matched {
            true => vec![confirmed],
            false => vec![format!("unrouted {number}"), confirmed],
        };
        assert_eq!(heard, expected, "{topic}");
    }
    // Who does not want to hear the own messages is a subscriber nevertheless.
    assert_eq!(hear(&mut w, own), ["publish q1 #1 own/1 m"]);
    assert_eq!(run(&mut w, own, [tell(put("mine", 1), 0)]), ["confirmed 1"]);
    // A QoS 2 message that is sent again is not looked up again.
    assert_eq!(
        run(&mut w, p, [tell(put("nobody", 2), 9)]),
        ["unrouted 8", "confirmed 8"]
    );
    assert_eq!(run(&mut w, p, [tell(put("nobody", 2), 9)]), ["confirmed 9"]);
    // Others are not told.
    assert_eq!(run(&mut w, p, [mqtt("nobody", "m", 1, 0)]), ["confirmed 10"]);
}
