//! Shared subscriptions: a group's queue, its members, and what happens to the messages of a member that leaves.

use crate::support::*;
use gatepost_core::engine::Settings;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{Client, World};

fn member(w: &mut World, id: &str, group: &str, name: &str, qos: u8) -> Client {
    let c = w.connect("mqtt");
    run(w, c, [kept(id), subscribe(vec![shared(group, name, qos)])]);
    c
}
fn publisher(w: &mut World) -> Client {
    let p = w.connect("mqtt");
    run(w, p, [clean("p")]);
    p
}

#[test]
fn a_group_gets_one_copy_in_turn_and_other_subscriptions_their_own() {
    let mut w = World::new(1);
    let p = publisher(&mut w);
    let (a, b) = (member(&mut w, "a", "g", "t", 1), member(&mut w, "b", "g", "t", 1));
    run(&mut w, b, [subscribe(vec![filter("t", 0)])]);
    run(&mut w, p, [mqtt("t", "1", 1, 0), mqtt("t", "2", 1, 0)]);
    assert_eq!(hear(&mut w, a), ["publish q1 #1 t 1"]);
    let mut heard = hear(&mut w, b);
    heard.sort();
    assert_eq!(heard, ["publish q0 #0 t 1", "publish q0 #0 t 2", "publish q1 #1 t 2"]);
}

#[test]
fn groups_with_similar_names_and_filters_are_different() {
    // `$share/a-b/c` and `$share/a/b-c` had the same queue.
    let mut w = World::new(1);
    let p = publisher(&mut w);
    let (a, b) = (member(&mut w, "a", "a-b", "c", 1), member(&mut w, "b", "a", "b-c", 1));
    run(&mut w, p, [mqtt("c", "1", 1, 0), mqtt("b-c", "2", 1, 0)]);
    assert_eq!(hear(&mut w, a), ["publish q1 #1 c 1"]);
    assert_eq!(hear(&mut w, b), ["publish q1 #1 b-c 2"]);
}

#[test]
fn a_declared_queue_with_the_name_of_a_groups_queue_is_not_used() {
    let mut w = World::new(1);
    let c = w.connect("test");
    run(&mut w, c, [durable("mqtt-share-g/t")]);
    let a = w.connect("mqtt");
    let heard = run(&mut w, a, [kept("a"), subscribe(vec![shared("g", "t", 1)])]);
    assert_eq!(heard, ["open new", "suback 1 [Err(AccessRefused)]"]);
}

#[test]
fn a_member_has_one_credit_for_all_its_groups() {
    // A settle dispatched the queue that the message came from and the member's own, but not its other groups' queues.
    let mut w = World::new(1);
    let p = publisher(&mut w);
    let a = w.connect("mqtt");
    run(
        &mut w,
        a,
        [
            session("a", |s| s.receive_maximum = 1),
            subscribe(vec![shared("g", "t", 1), shared("h", "u", 1)]),
        ],
    );
    run(&mut w, p, [mqtt("t", "1", 1, 0), mqtt("u", "2", 1, 0)]);
    let mut heard = hear(&mut w, a);
    heard.extend(run(&mut w, a, [puback(1)]));
    heard.sort();
    assert_eq!(heard, ["publish q1 #1 u 2", "publish q1 #2 t 1"]);
}

#[test]
fn unsettled_deliveries_of_a_member_go_to_another_when_its_session_ends() {
    let mut w = World::new(1);
    let p = publisher(&mut w);
    let (a, b) = (member(&mut w, "a", "g", "t", 2), member(&mut w, "b", "g", "t", 2));
    run(
        &mut w,
        p,
        [mqtt("t", "1", 1, 0), mqtt("t", "2", 1, 0), mqtt("t", "3", 2, 1)],
    );
    assert_eq!(hear(&mut w, a), ["publish q1 #1 t 1", "publish q2 #2 t 3"]);
    assert_eq!(hear(&mut w, b), ["publish q1 #1 t 2"]);
    w.drop_client(a);
    assert!(hear(&mut w, b).is_empty());
    let a = w.connect("mqtt");
    assert_eq!(
        run(&mut w, a, [kept("a")]),
        ["open present", "publish q1 #1 t 1 dup", "publish q2 #2 t 3 dup"]
    );
    w.drop_client(a);
    let a = w.connect("mqtt");
    run(&mut w, a, [session("a", |s| s.clean_start = true)]);
    // MQTT 5 4.8.2: except deliveries in flight at QoS 2.
    assert_eq!(hear(&mut w, b), ["publish q1 #2 t 1"]);
}

#[test]
fn resends_to_a_member_are_read_from_disk() {
    // They were read under the group's number, were not recognised, and the session never opened.
    let settings = gatepost_core::testing::world::Settings {
        cache_bytes_max: 4 << 10,
        ..Default::default()
    };
    let mut w = World::with(1, settings, Default::default());
    let p = publisher(&mut w);
    let a = member(&mut w, "a", "g", "t", 1);
    for n in 0..20 {
        run(&mut w, p, [mqtt("t", &padded(&n.to_string(), 1_000), 1, 0)]);
        hear(&mut w, a);
    }
    w.drop_client(a);
    let a = w.connect("mqtt");
    let heard = run(&mut w, a, [kept("a")]);
    assert_eq!(heard.len(), 21, "{heard:?}");
    assert!(w.counters().bodies_loaded > 0);
}

#[test]
fn a_group_ends_with_its_last_member() {
    let mut w = World::new(1);
    let p = publisher(&mut w);
    let (a, b) = (member(&mut w, "a", "g", "t", 1), member(&mut w, "b", "g", "t", 1));
    w.drop_client(b);
    assert_eq!(run(&mut w, a, [unsubscribe("t", Some("g"))]), ["unsuback 2 [true]"]);
    run(&mut w, p, [mqtt("t", "kept", 1, 0)]);
    let b = w.connect("mqtt");
    assert_eq!(run(&mut w, b, [kept("b")]), ["open present", "publish q1 #1 t kept"]);
    run(&mut w, b, [unsubscribe("t", Some("g"))]);
    assert_eq!(w.counters().queues, 2, "the two sessions' own");
}

#[test]
fn a_group_survives_a_restart_with_those_of_its_members_that_do() {
    // The first member decided: if its session ended with its connection, the others' subscription was lost.
    let mut w = World::new(1);
    let p = publisher(&mut w);
    let x = w.connect("mqtt");
    run(&mut w, x, [clean("x"), subscribe(vec![shared("g", "t", 1)])]);
    let a = member(&mut w, "a", "g", "t", 1);
    w.drop_client(a);
    w.drop_client(x);
    run(&mut w, p, [mqtt("t", "m", 1, 0)]);
    w.crash(Crash::Power);
    let a = w.connect("mqtt");
    assert_eq!(run(&mut w, a, [kept("a")]), ["open present", "publish q1 #1 t m"]);
}

#[test]
fn a_group_whose_members_did_not_survive_is_gone_after_a_restart() {
    let mut w = World::new(1);
    let a = member(&mut w, "a", "g", "t", 1);
    let x = w.connect("mqtt");
    run(&mut w, x, [clean("x"), subscribe(vec![shared("g", "t", 1)])]);
    run(&mut w, a, [unsubscribe("t", Some("g"))]);
    w.crash(Crash::Power);
    assert_eq!(w.counters().queues, 1, "a's own");
    w.catch_up();
    w.crash(Crash::Power);
    assert_eq!(w.counters().queues, 1);
}

#[test]
fn qos_2_deliveries_of_a_group_in_flight_survive_a_crash() {
    // It was neither returned nor given to its session, whose name the log does not know.
    let mut w = World::new(1);
    let p = publisher(&mut w);
    let a = member(&mut w, "a", "g", "t", 2);
    run(&mut w, p, [mqtt("t", "1", 2, 1), mqtt("t", "2", 2, 2)]);
    assert_eq!(hear(&mut w, a).len(), 2);
    assert_eq!(run(&mut w, a, [pubrec(1)]), ["pubrel 1"]);
    w.crash(Crash::Power);
    let a = w.connect("mqtt");
    let heard = run(&mut w, a, [kept("a")]);
    assert_eq!(
        heard,
        ["open present", "publish q2 #1 t 2"],
        "and what was received does not come twice"
    );
    w.drop_client(a);
}

#[test]
fn a_member_that_subscribes_with_another_qos_keeps_its_credit() {
    // Reservations were counted with the old QoS and uncounted with the new one.
    let mut w = World::new(1);
    let p = publisher(&mut w);
    let a = member(&mut w, "a", "g", "t", 1);
    w.send(p, vec![mqtt("t", "1", 1, 0), mqtt("t", "2", 1, 0)]);
    let heard = run(&mut w, a, [subscribe(vec![shared("g", "t", 0)])]);
    assert_eq!(heard, ["publish q0 #0 t 1", "publish q0 #0 t 2", "suback 1 [Ok(0)]"]);
}

fn member_as(w: &mut World, id: &str, subscription_id: Option<u32>) -> Client {
    let c = w.connect("mqtt");
    run(
        w,
        c,
        [kept(id), subscribe_as(vec![shared("g", "t", 1)], subscription_id)],
    );
    c
}

#[test]
fn each_member_gets_the_identifier_of_its_own_subscription() {
    // The group's queue had one identifier: that of the last subscriber.
    let mut w = World::new(1);
    let p = publisher(&mut w);
    let (a, b, c) = (
        member_as(&mut w, "a", Some(7)),
        member_as(&mut w, "b", Some(8)),
        member_as(&mut w, "c", None),
    );
    run(
        &mut w,
        p,
        (1..=3).map(|n| mqtt("t", &n.to_string(), 1, 0)).collect::<Vec<_>>(),
    );
    assert_eq!(hear(&mut w, a), ["publish q1 #1 t 1 ids 7"]);
    assert_eq!(hear(&mut w, b), ["publish q1 #1 t 2 ids 8"]);
    assert_eq!(hear(&mut w, c), ["publish q1 #1 t 3"]);
    run(&mut w, b, [subscribe_as(vec![shared("g", "t", 1)], Some(9))]);
    // Deliveries of a member that leaves go to another one with that member's identifier.
    w.drop_client(c);
    let again = w.connect("mqtt");
    run(&mut w, again, [session("c", |s| s.clean_start = true)]);
    w.drop_client(a);
    assert_eq!(hear(&mut w, b), ["publish q1 #2 t 3 ids 9"]);
    // Sent again, it still has the identifier.
    w.drop_client(b);
    let b = w.connect("mqtt");
    assert_eq!(
        run(&mut w, b, [kept("b")]),
        [
            "open present",
            "publish q1 #1 t 2 dup ids 8",
            "publish q1 #2 t 3 dup ids 9"
        ]
    );
}

#[test]
fn a_members_identifier_survives_a_restart_and_paging() {
    let settings = gatepost_core::testing::world::Settings {
        cache_bytes_max: 8 << 10,
        ..Default::default()
    };
    let mut w = World::with(1, settings, Default::default());
    let p = publisher(&mut w);
    let a = member_as(&mut w, "a", Some(7));
    w.drop_client(a);
    for n in 0..100 {
        run(&mut w, p, [mqtt("t", &padded(&n.to_string(), 1_000), 1, 0)]);
    }
    for life in 0..2 {
        let a = w.connect("mqtt");
        let heard = run(&mut w, a, [session("a", |s| s.receive_maximum = 1_000)]);
        assert_eq!(heard.len(), 101);
        assert!(
            heard[1..].iter().all(|line| line.ends_with("ids 7")),
            "life {life}: {:?}",
            &heard[..3]
        );
        w.crash(Crash::Power);
    }
}

/// Such a delivery was requested from the log, which had forgotten it with the group's queue. The client's outbox
/// waited for ever, and nothing else reached the client.
#[test]
fn a_delivery_of_an_ended_group_is_not_sent_again_and_delays_nothing() {
    // Without a cache, a message is evicted as soon as it is handed out.
    let settings = Settings {
        cache_bytes_max: 0,
        ..Settings::default()
    };
    let mut w = World::with(1, settings, Default::default());
    let p = publisher(&mut w);
    let c = member(&mut w, "c", "g", "t", 1);
    w.drop_client(c);
    run(&mut w, p, [1, 2, 3].map(|n| mqtt("t", &n.to_string(), 1, 0)));
    let c = w.connect("mqtt");
    assert_eq!(run(&mut w, c, [kept("c")]).len(), 4);
    w.drop_client(c);
    let c = w.connect("mqtt");
    let heard = run(&mut w, c, [session("c", |s| s.receive_maximum = 1)]);
    assert_eq!(heard, ["open present", "publish q1 #1 t 1 dup"]);
    run(&mut w, c, [unsubscribe("t", Some("g"))]);
    assert!(run(&mut w, c, [puback(1)]).is_empty());
    assert_eq!(run(&mut w, c, [subscribe(vec![filter("u", 0)])]), ["suback 1 [Ok(0)]"]);
    run(&mut w, p, [mqtt("u", "live", 0, 0)]);
    assert_eq!(hear(&mut w, c), ["publish q0 #0 u live"]);
    assert_eq!(w.counters().messages_unsettled, 0);
}

/// Whenever the receive maximum had room again, the session's own queue had it, as long as it had messages. What its group
/// had waited until that queue was empty.
#[test]
fn the_receive_maximum_is_shared_between_the_own_queue_and_the_groups() {
    let mut w = World::new(1);
    let (c, p) = (w.connect("mqtt"), w.connect("mqtt"));
    run(&mut w, p, [clean("p")]);
    run(&mut w, c, [session("c", |s| s.receive_maximum = 1)]);
    run(
        &mut w,
        c,
        [subscribe(vec![
            filter("own", 1),
            shared("g", "one", 1),
            shared("g", "two", 1),
        ])],
    );
    for _ in 0..30 {
        run(
            &mut w,
            p,
            [mqtt("own", "m", 1, 0), mqtt("one", "m", 1, 0), mqtt("two", "m", 1, 0)],
        );
    }
    let mut counts = std::collections::BTreeMap::new();
    for n in 0..30u16 {
        let heard = hear(&mut w, c);
        let line = heard
            .iter()
            .find(|line| line.starts_with("publish"))
            .expect("a message");
        let topic = line.split(' ').nth(3).expect("a topic").to_owned();
        *counts.entry(topic).or_insert(0) += 1;
        run(&mut w, c, Vec::new());
        w.send(c, vec![puback(n + 1)]);
    }
    assert_eq!(counts.len(), 3, "{counts:?}");
    assert!(counts.values().all(|count| *count >= 5), "{counts:?}");
}
