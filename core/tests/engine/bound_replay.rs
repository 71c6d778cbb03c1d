//! A binding to the topic exchange with `x-retained` replays retained messages into its queue.

use crate::support::*;
use gatepost_core::command::{Bind, BindTarget, Command};
use gatepost_core::engine::Settings;
use gatepost_core::event::{DeliveryFlags, Event};
use gatepost_core::properties::{Table, Value};
use gatepost_core::testing::world::{Client, ROOM, World};

fn bind_retained(queue: &str, key: &str, asked: Value) -> Command {
    let mut arguments = Table::default();
    arguments.push("x-retained", asked);
    Command::Bind(Box::new(Bind {
        channel: CH,
        source: "amq.topic".into(),
        target: BindTarget::Queue(queue.into()),
        key: key.into(),
        arguments,
        reply: true,
    }))
}

/// All waiting messages of the queue: body, and whether it is marked as retained.
fn drain(w: &mut World, c: Client, queue: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    loop {
        w.send(c, vec![get_no_ack(queue)]);
        w.catch_up();
        let mut got = false;
        for event in w.take(c, ROOM) {
            if let Event::Got { delivery, .. } = event {
                got = true;
                let body = String::from_utf8_lossy(delivery.message.body()).into_owned();
                found.push((body, delivery.flags.contains(DeliveryFlags::RETAIN)));
            }
        }
        if !got {
            return found;
        }
    }
}

#[test]
fn each_bind_with_x_retained_replays_matching_messages_before_its_answer() {
    let mut w = World::new(1);
    let device = w.connect("mqtt");
    run(
        &mut w,
        device,
        [
            clean("d"),
            retain("plant/1", "one"),
            retain("plant/2", "two"),
            retain("other", "no"),
        ],
    );
    let c = w.connect("test");
    run(
        &mut w,
        c,
        [durable("q"), bind_retained("q", "plant.*", Value::Bool(true))],
    );
    let both = [("one".to_owned(), true), ("two".to_owned(), true)];
    assert_eq!(drain(&mut w, c, "q"), both);
    // Live messages follow. A repeated bind replays again, others do not.
    run(&mut w, device, [mqtt("plant/1", "live", 1, 0)]);
    assert_eq!(drain(&mut w, c, "q"), [("live".to_owned(), false)]);
    run(&mut w, c, [bind_retained("q", "plant.*", Value::text("true"))]);
    assert_eq!(drain(&mut w, c, "q"), both);
    run(
        &mut w,
        c,
        [
            bind_retained("q", "plant.*", Value::Bool(false)),
            bind("amq.topic", "q", "plant.*"),
        ],
    );
    assert_eq!(drain(&mut w, c, "q"), []);
}

#[test]
fn a_replay_takes_many_holds_and_respects_the_queues_limits() {
    let settings = Settings {
        hold_units_max: 16,
        ..Settings::default()
    };
    let mut w = World::with(1, settings, Default::default());
    let device = w.connect("mqtt");
    run(&mut w, device, [clean("d")]);
    let retained: Vec<Command> = (0..1_000)
        .map(|i| retain(&format!("t/{i:04}"), &format!("{i:04}")))
        .collect();
    run(&mut w, device, retained);
    let c = w.connect("test");
    let heard = run(
        &mut w,
        c,
        [
            durable("all"),
            with_arguments("few", &[("x-max-length", 3)]),
            bind_retained("all", "t.#", Value::Bool(true)),
            bind_retained("few", "t.#", Value::Bool(true)),
            echo(1),
        ],
    );
    assert_eq!(heard[2..], ["done Bind", "done Bind", "echo 1"]);
    let bodies: Vec<usize> = drain(&mut w, c, "all")
        .iter()
        .map(|(body, _)| body.parse().expect("a number"))
        .collect();
    assert_counted(&bodies, 1_000);
    let few: Vec<String> = drain(&mut w, c, "few").into_iter().map(|(body, _)| body).collect();
    assert_eq!(few, ["0997", "0998", "0999"]);
}
