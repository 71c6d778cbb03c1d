//! Connections inside the process: an engine with its log, and no socket.

use crate::support::*;
use gatepost_core::access::Rights;
use gatepost_core::command::*;
use gatepost_core::engine::Settings;
use gatepost_core::in_process::{InProcess, Local};
use gatepost_core::testing::disk::{Crash, SimDisk};
use gatepost_core::time::{Now, Time, Wall};
use std::sync::Arc;

const NOW: Now = Now {
    monotonic: Time(1_000),
    wall: Wall(1_700_000_000_000),
};

fn open(disk: &SimDisk) -> Local<SimDisk> {
    let users = [("app".into(), Arc::new(Rights::all())), ("none".into(), Arc::default())];
    Local::open(Arc::new(disk.clone()), Settings::default(), users, 1, NOW).expect("the log opens")
}

fn attach(broker: &mut Local<SimDisk>, user: &str) -> InProcess {
    let attached = broker.run(NOW, |engine| InProcess::attach(engine, NOW, user, "test"));
    attached.expect("the log works").expect("there is room")
}

fn say(broker: &mut Local<SimDisk>, app: &mut InProcess, commands: impl Into<Vec<Command>>) -> Vec<String> {
    for command in commands.into() {
        app.send(command);
    }
    broker.visit(NOW, app).expect("the log works");
    std::iter::from_fn(|| app.poll()).map(|event| line(&event)).collect()
}

#[test]
fn a_program_publishes_consumes_and_settles_without_a_socket() {
    let disk = SimDisk::new(1);
    let mut broker = open(&disk);
    let mut app = attach(&mut broker, "app");
    assert_eq!(
        say(
            &mut broker,
            &mut app,
            [durable("jobs"), put("jobs", "1"), put("jobs", "2")]
        ),
        ["declared jobs 0/0", "confirmed 2"]
    );
    // Confirmed data is on the medium.
    drop(broker);
    let disk = disk.restart(Crash::Power);
    let mut broker = open(&disk);
    let mut app = attach(&mut broker, "app");
    assert_eq!(
        say(&mut broker, &mut app, [consume("jobs", 7)]),
        ["consuming c7", "deliver c7 #1 1", "deliver c7 #2 2"]
    );
    assert!(say(&mut broker, &mut app, [ack_upto(2)]).is_empty());
    broker.close(NOW).expect("closed");
    let mut broker = open(&disk);
    let mut app = attach(&mut broker, "app");
    assert_eq!(say(&mut broker, &mut app, [get("jobs")]), ["empty"]);
}

/// The delivery of a message that was just published waits for the log twice: for the message, and for its hand-out
/// mark. One visit must return everything.
#[test]
fn one_visit_returns_a_delivery_that_waits_for_the_log_twice() {
    let mut broker = open(&SimDisk::new(1));
    let mut app = attach(&mut broker, "app");
    let mut heard = say(
        &mut broker,
        &mut app,
        [durable("jobs"), put("jobs", "1"), consume("jobs", 7)],
    );
    heard.sort();
    assert_eq!(
        heard,
        ["confirmed 1", "consuming c7", "declared jobs 0/0", "deliver c7 #1 1"]
    );
}

#[test]
fn a_program_is_checked_like_every_client() {
    let mut broker = open(&SimDisk::new(1));
    let mut app = attach(&mut broker, "none");
    let heard = say(&mut broker, &mut app, [durable("jobs")]);
    assert_eq!(
        heard,
        ["failed DeclareQueue AccessRefused configure access to queue 'jobs' in vhost '/' refused for user 'none'"]
    );
}

#[test]
fn unsettled_deliveries_of_a_program_return_when_it_detaches() {
    let mut broker = open(&SimDisk::new(1));
    let mut first = attach(&mut broker, "app");
    say(
        &mut broker,
        &mut first,
        [durable("jobs"), put("jobs", "1"), get("jobs")],
    );
    first.detach();
    assert!(say(&mut broker, &mut first, []).is_empty());
    let mut second = attach(&mut broker, "app");
    assert_eq!(say(&mut broker, &mut second, [get("jobs")]), ["got #1 1 again left 0"]);
}

/// The node's own topics are retained, and readable with the right to read. They are not logged, match no wildcard that
/// does not name `$SYS`, and need no user's rights to be published.
#[test]
fn the_nodes_own_topics_are_retained_in_memory_for_users_with_the_right_to_read() {
    let disk = SimDisk::new(1);
    let mut broker = open(&disk);
    let mut app = attach(&mut broker, "app");
    say(
        &mut broker,
        &mut app,
        [durable("all"), bind("amq.topic", "all", "#"), clean("m")],
    );
    assert_eq!(
        say(&mut broker, &mut app, [subscribe(vec![filter("#", 0)])]),
        ["suback 1 [Ok(0)]"],
        "a version, hidden from `#`"
    );
    let figure = |body: &str| {
        mqtt_message(
            topic_message("$SYS/broker/uptime", body, |e| {
                (e.retain, e.durable, e.qos) = (true, false, 0)
            }),
            0,
        )
    };
    let mut node = broker
        .run(NOW, |engine| InProcess::attach_as_node(engine, NOW, "$SYS"))
        .expect("the log works")
        .expect("there is room");
    assert!(say(&mut broker, &mut node, [figure("7")]).is_empty());
    assert_eq!(
        say(
            &mut broker,
            &mut app,
            [get("all"), subscribe(vec![filter("$SYS/broker/+", 0)])]
        )[..2],
        ["empty", "suback 1 [Ok(0)]"]
    );
    let counted = |broker: &mut Local<SimDisk>| broker.run(NOW, |engine| engine.exchange_counts("amq.topic"));
    let before = counted(&mut broker).expect("the log works");
    assert_eq!(
        say(&mut broker, &mut node, [figure("8"), Command::Detach]),
        [] as [&str; 0]
    );
    let after = counted(&mut broker).expect("the log works");
    assert_eq!(after, before, "what the node says is nothing that clients do");
    assert_eq!(say(&mut broker, &mut app, []), ["publish q0 #0 $SYS/broker/uptime 8"]);
    // Rights count, not names: a user without any may not even subscribe.
    let mut none = attach(&mut broker, "none");
    let heard = say(
        &mut broker,
        &mut none,
        [clean("n"), subscribe(vec![filter("$SYS/#", 0)])],
    );
    assert_eq!(heard, ["open new", "suback 1 [Err(AccessRefused)]"]);
    broker.close(NOW).expect("closed");
    // Only the version is there again, because the others are not logged.
    let mut broker = open(&disk);
    let mut app = attach(&mut broker, "app");
    let heard = say(
        &mut broker,
        &mut app,
        [clean("m"), subscribe(vec![filter("$SYS/#", 0)])],
    );
    assert_eq!(heard.len(), 3, "{heard:?}");
    assert!(heard[2].contains("broker/version"), "{heard:?}");
}
