//! What is told to all connections, or to all queues, is told in many holds.

use super::*;
use gatepost_core::event::{CloseReason, Pressure};
use gatepost_core::properties::Value;

/// More than are told in one of [`small_holds`].
const CLIENTS: usize = 60;

/// Connections that have published and rest.
fn publishers(w: &mut World) -> Vec<Client> {
    let clients: Vec<Client> = (0..CLIENTS).map(|_| w.connect("amqp")).collect();
    for client in &clients {
        run(w, *client, [put_transient("nowhere", "m")]);
    }
    clients
}

fn due(w: &World, clients: &[Client]) -> usize {
    clients.iter().filter(|client| w.is_due(**client)).count()
}

/// All publishers were told of pressure in the hold in which it began, and again in the one in which it ended.
#[test]
fn very_many_publishers_are_told_of_pressure_in_many_holds() {
    let mut w = small_holds();
    let clients = publishers(&mut w);
    for (pressure, heard) in [(Some(Pressure::Disk), "flow Some(Disk)"), (None, "flow None")] {
        assert_eq!(due(&w, &clients), 0);
        w.set_pressure(pressure);
        let first = due(&w, &clients);
        assert!((1..CLIENTS / 2).contains(&first), "{first} were told at once");
        w.advance(ms(1));
        assert_eq!(due(&w, &clients), CLIENTS);
        for client in &clients {
            assert_eq!(now(&mut w, *client), [heard]);
        }
    }
}

/// Pressure ends while some are still to be told of it: they hear of nothing, or of both, and nobody is forgotten.
#[test]
fn pressure_that_ends_while_it_is_told_is_told_to_those_who_know_of_it() {
    let mut w = small_holds();
    let clients = publishers(&mut w);
    w.set_pressure(Some(Pressure::Disk));
    let told: Vec<Client> = clients.iter().copied().filter(|client| w.is_due(*client)).collect();
    for client in &told {
        assert_eq!(now(&mut w, *client), ["flow Some(Disk)"]);
    }
    w.set_pressure(None);
    w.advance(ms(1));
    for client in &clients {
        let heard = now(&mut w, *client);
        let expected: &[&str] = if told.contains(client) { &["flow None"] } else { &[] };
        assert_eq!(heard, expected);
    }
}

#[test]
fn the_connections_of_a_user_end_in_many_holds_and_later_ones_stay() {
    let mut w = small_holds();
    let clients: Vec<Client> = (0..CLIENTS).map(|_| w.connect("amqp")).collect();
    w.turn(|engine| engine.end_user("guest", CloseReason::UserDeleted));
    assert!((1..CLIENTS / 2).contains(&due(&w, &clients)));
    w.advance(ms(1));
    for client in &clients {
        assert_eq!(now(&mut w, *client), ["closed UserDeleted"]);
    }
    let later = w.connect("amqp");
    w.advance(ms(1));
    assert!(now(&mut w, later).is_empty());
}

#[test]
fn all_connections_end_in_many_holds() {
    let mut w = small_holds();
    let clients: Vec<Client> = (0..CLIENTS).map(|_| w.connect("amqp")).collect();
    let mut holds = 1;
    while w.turn(|engine| engine.end(CloseReason::Shutdown)) {
        holds += 1;
        assert!(due(&w, &clients) <= 8 * holds);
    }
    assert_eq!(holds, CLIENTS.div_ceil(8));
    for client in &clients {
        assert_eq!(now(&mut w, *client), ["closed Shutdown"]);
    }
    // Who comes now is told at once.
    let late = w.connect("amqp");
    assert_eq!(hear(&mut w, late), ["closed Shutdown"]);
}

/// A durable queue whose dead letters go to another one.
fn mortal(name: &str) -> Command {
    declare(name, |d| {
        d.arguments.push("x-dead-letter-exchange", Value::text(""));
        d.arguments.push("x-dead-letter-routing-key", Value::text("dead"));
    })
}

/// A durable message that expires in a minute.
fn put_expiring(w: &World, queue: &str, body: &str) -> Command {
    let envelope = gatepost_core::message::Envelope {
        durable: true,
        deadline: Some(w.now().wall + ms(60_000)),
        ..Default::default()
    };
    let message = gatepost_core::message::Message::new(envelope, "", queue, &[], body.as_bytes());
    publish(gatepost_core::command::PublishFlags::CONFIRM, message)
}

/// While the disk was short, expired messages stayed in their queues. All queues were dispatched in the hold in which the disk
/// had room again.
#[test]
fn what_queues_postponed_for_want_of_disk_goes_on_in_many_holds() {
    const QUEUES: usize = 100;
    let mut w = small_holds();
    let c = w.connect("amqp");
    run(&mut w, c, [durable("dead")]);
    for n in 0..QUEUES {
        let name = format!("q{n}");
        let put = put_expiring(&w, &name, "m");
        run(&mut w, c, [mortal(&name), put]);
    }
    // The log knows of a later time, so that nothing but the disk keeps them.
    let deadline = w.now().wall + ms(90_000);
    let retained = topic_message("t", "m", |e| {
        e.retain = true;
        e.deadline = Some(deadline);
    });
    run(&mut w, c, [mqtt_message(retained, 0)]);
    w.set_pressure(Some(Pressure::Disk));
    for _ in 0..5 {
        w.advance(ms(30_700));
        w.catch_up();
    }
    assert_eq!(w.counters().retained, 1, "all but the broker's own has expired");
    let dead = |w: &World| w.counters().dead_lettered_expired as usize;
    assert_eq!(dead(&w), 0);
    w.set_pressure(None);
    assert!(dead(&w) < QUEUES / 2, "{} at once", dead(&w));
    for _ in 0..10 {
        w.advance(ms(30_700));
        w.catch_up();
    }
    assert_eq!(dead(&w), QUEUES);
}

/// Each channel that closed was looked for among all others that have something postponed.
#[test]
fn channels_with_postponed_rejections_close_one_by_one() {
    let mut w = World::new(1);
    let c = w.connect("amqp");
    let puts = [put_expiring(&w, "q", "1"), put_expiring(&w, "q", "2")];
    run(&mut w, c, [durable("dead"), mortal("q")]);
    run(&mut w, c, puts);
    let heard = run(&mut w, c, [consume("q", 1)]);
    assert_eq!(heard.iter().filter(|line| line.starts_with("deliver")).count(), 2);
    w.set_pressure(Some(Pressure::Disk));
    run(&mut w, c, [reject(1), reject(2)]);
    run(&mut w, c, [close_channel()]);
    w.set_pressure(None);
    for _ in 0..5 {
        w.advance(ms(30_700));
        w.catch_up();
    }
    let c = w.counters();
    assert_eq!(
        (c.dead_lettered_expired, c.messages_ready),
        (2, 2),
        "they came back, and expired"
    );
}

/// What waited for a batch went on in the hold in which the log reported it: for thousands of connections at once.
#[test]
fn very_many_that_wait_for_the_same_batch_go_on_in_many_holds() {
    let mut w = small_holds();
    let clients: Vec<Client> = (0..CLIENTS).map(|_| w.connect("amqp")).collect();
    run(&mut w, clients[0], [durable("q")]);
    for (n, client) in clients.iter().enumerate() {
        // An answer that waits, and a confirm.
        w.send(*client, vec![durable(&format!("q{n}")), put("q", "m")]);
        assert!(now(&mut w, *client).is_empty());
    }
    assert!(w.commit());
    w.report();
    let first = due(&w, &clients);
    assert!((1..CLIENTS / 2).contains(&first), "{first} went on at once");
    // What is asked meanwhile is answered behind what waits.
    let last = clients[CLIENTS - 1];
    w.send(last, vec![echo(7)]);
    assert!(now(&mut w, last).is_empty());
    w.advance(ms(1));
    for (n, client) in clients.iter().enumerate() {
        let mut expected = vec![format!("declared q{n} 0/0"), "confirmed 1".into()];
        if *client == last {
            expected.insert(1, "echo 7".into());
        }
        assert_eq!(hear(&mut w, *client), expected);
    }
    assert!(
        w.counters().longest_hold_units < 100,
        "{}",
        w.counters().longest_hold_units
    );
}

/// The same for sessions that open: each sends again what was in flight.
#[test]
fn very_many_sessions_that_open_with_one_batch_do_so_in_many_holds() {
    let mut w = small_holds();
    let clients: Vec<Client> = (0..CLIENTS).map(|_| w.connect("mqtt")).collect();
    for (n, client) in clients.iter().enumerate() {
        w.send(*client, vec![kept(&format!("c{n}")), subscribe(vec![filter("t", 1)])]);
        assert!(now(&mut w, *client).is_empty());
    }
    assert!(w.commit());
    w.report();
    let first = due(&w, &clients);
    assert!((1..CLIENTS / 2).contains(&first), "{first} opened at once");
    w.advance(ms(1));
    for client in &clients {
        let heard = hear(&mut w, *client);
        assert_eq!(heard, ["open new", "suback 1 [Ok(1)]"]);
    }
    run(&mut w, clients[0], [mqtt("t", "m", 1, 0)]);
    for client in &clients[1..] {
        assert_eq!(hear(&mut w, *client), ["publish q1 #1 t m"]);
    }
}
