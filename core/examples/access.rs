//! What access costs a message: the engine alone, a publisher and a subscriber to `#`, messages over rotating topics.
//!
//! ```console
//! cargo build --release -p gatepost-core --example access
//! valgrind --tool=callgrind target/release/examples/access rules 50000 200000    # RIGHTS TOPICS MESSAGES
//! target/release/examples/access rules 50000 2000000                             # also says nanoseconds a message
//! ```
//!
//! RIGHTS: `all` (nothing is asked), `names` (regular expressions, no rule about topics), `rules` (and 1,000 topic patterns), or
//! `templates` (and 1,000 with `{username}`, of which the last one matches). Two runs of different length tell what a message costs:
//! the difference of their counts, by the difference of their messages.
#![expect(clippy::disallowed_methods, reason = "a program has clocks of its own")]

use gatepost_core::access::{NamePattern, Rights, TopicPattern};
use gatepost_core::command::{
    Attach, Command, OpenSession, Peer, PublishFlags, RetainHandling, Subscribe, Subscription,
};
use gatepost_core::engine::{Engine, Link, Room, Settings, Wake, Wakes};
use gatepost_core::message::{Dialect, Envelope, Message};
use gatepost_core::properties::Codecs;
use gatepost_core::store::Batch;
use gatepost_core::time::{Now, Time, Wall};
use std::sync::Arc;
use std::time::Instant;

struct Silent;

impl Wake for Silent {
    fn wake(&self) {}
}

/// Topic patterns of a user.
const RULES: usize = 1_000;
/// Messages of a turn.
const AT_ONCE: usize = 32;

fn rights(name: &str) -> Option<Rights> {
    let names = |text: &str| NamePattern::parse(text).expect("a regular expression");
    let limited = || {
        Rights::new(
            names("^mqtt-"),
            names("^(mqtt-|amq\\.topic$)"),
            names("^(mqtt-|amq\\.topic$)"),
        )
    };
    let topics = |level: &dyn Fn(usize) -> String| {
        let rule = |n: usize| TopicPattern::parse(&level(n), Dialect::Slash).expect("a filter");
        let mut rules: Vec<TopicPattern> = (0..RULES - 1).map(rule).collect();
        rules.push(TopicPattern::parse("plant/{username}/#", Dialect::Slash).expect("a filter"));
        rules
    };
    Some(match name {
        "all" => Rights::all(),
        "names" => limited(),
        "rules" => {
            let rules = topics(&|n| format!("plant/app/{n}/+"));
            limited().with_topics("amq.topic", rules.clone(), rules)
        }
        "templates" => {
            let rules = topics(&|n| format!("other/{{username}}/{n}/#"));
            limited().with_topics("amq.topic", rules.clone(), rules)
        }
        _ => return None,
    })
}

struct Bench {
    engine: Engine,
    monotonic: u64,
}

impl Bench {
    fn attach(&mut self, user: &str) -> Link {
        let attach = Attach {
            vhost: "/".into(),
            protocol: "example",
            client_name: None,
            ..Attach::default()
        };
        let peer = Peer::on_this_machine();
        self.engine
            .attach(Now::default(), &attach, user.into(), peer, Arc::new(Silent))
    }

    fn turn(&mut self, link: Link, commands: &mut Vec<Command>) {
        self.monotonic += 1000;
        let now = Now {
            monotonic: Time(self.monotonic),
            wall: Wall(1_700_000_000_000 + self.monotonic / 1_000_000),
        };
        let room = Room {
            messages: 256,
            bytes: 1 << 20,
        };
        let mut events = Vec::new();
        loop {
            self.engine.visit(now, link, commands, room, &mut events);
            if commands.is_empty() {
                break;
            }
        }
        let (mut batch, mut requests, mut wakes) = (Batch::default(), Vec::new(), Wakes::default());
        self.engine.drain(&mut batch, &mut requests, &mut wakes);
        if !batch.is_empty() {
            self.engine.durable(now, batch.ticket);
        }
    }

    fn subscribe(&mut self, link: Link) {
        let session = OpenSession {
            client_id: "subscriber".into(),
            clean_start: true,
            expiry: Some(0),
            receive_maximum: 100,
            will: None,
        };
        let filter = Subscription {
            filter: "#".into(),
            share: None,
            qos: 0,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Never,
        };
        let subscribe = Subscribe {
            packet_id: 1,
            filters: vec![Ok(filter)],
            subscription_id: None,
        };
        let mut commands = vec![
            Command::OpenSession(Box::new(session)),
            Command::Subscribe(Box::new(subscribe)),
        ];
        self.turn(link, &mut commands);
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = "usage: access all|names|rules|templates TOPICS MESSAGES";
    let [name, topics, messages] = &*arguments else {
        panic!("{usage}");
    };
    let (topics, messages): (usize, usize) = (topics.parse().expect(usage), messages.parse().expect(usage));
    let engine = Engine::new(Settings::default(), Codecs::new(Vec::new()), 1);
    let mut bench = Bench { engine, monotonic: 0 };
    bench.engine.set_rights("app".into(), rights(name).expect(usage).into());
    bench.engine.set_rights("subscriber".into(), Rights::all().into());
    let (publisher, subscriber) = (bench.attach("app"), bench.attach("subscriber"));
    bench.subscribe(subscriber);
    let names: Vec<String> = (0..topics)
        .map(|n| format!("plant/app/{}/temp-{n}", n % 2_000))
        .collect();
    let began = Instant::now();
    for first in (0..messages).step_by(AT_ONCE) {
        let publish = |n: usize| {
            let envelope = Envelope {
                dialect: Dialect::Slash,
                ..Envelope::default()
            };
            Command::Publish {
                channel: 0,
                flags: PublishFlags::default(),
                packet_id: 0,
                message: Message::new(envelope, "amq.topic", &names[n % topics], b"", &[7; 64]),
            }
        };
        let mut commands: Vec<Command> = (first..first + AT_ONCE).map(publish).collect();
        bench.turn(publisher, &mut commands);
        bench.turn(subscriber, &mut Vec::new());
    }
    let ns = began.elapsed().as_nanos() as f64 / messages as f64;
    println!(
        "{name}: {ns:.0} ns a message; {} refused",
        bench.engine.counters().access_refused
    );
}
