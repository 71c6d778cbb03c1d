//! Measures what access checks cost a message: the engine alone, with a publisher and a subscriber to `#`, and messages
//! to changing topics.
//!
//! ```console
//! cargo build --release -p gatepost-core --example access
//! valgrind --tool=callgrind target/release/examples/access rules 50000 200000    # RIGHTS TOPICS MESSAGES
//! target/release/examples/access rules 50000 2000000                             # also says nanoseconds a message
//! ```
//!
//! RIGHTS: `all` (nothing is checked), `names` (regular expressions, no rules about topics), `rules` (and 1,000 topic
//! patterns), or `templates` (and 1,000 with `{username}`, of which the last one matches). To get the cost of a
//! message, run twice with different numbers of messages, and divide the difference of the counts by the difference of
//! these numbers.
#![expect(clippy::disallowed_methods, reason = "a program has clocks of its own")]

use driver::Driver;
use gatepost_core::access::{NamePattern, Rights, TopicPattern};
use gatepost_core::command::{Command, PublishFlags};
use gatepost_core::message::{Dialect, Envelope, Message};
use std::time::Instant;

mod driver;

/// The number of topic patterns of a user.
const RULES: usize = 1_000;
/// The number of messages in a turn.
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

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = "usage: access all|names|rules|templates TOPICS MESSAGES";
    let [name, topics, messages] = &*arguments else {
        panic!("{usage}");
    };
    let (topics, messages): (usize, usize) = (topics.parse().expect(usage), messages.parse().expect(usage));
    let mut driver = Driver::new([("app", rights(name).expect(usage)), ("subscriber", Rights::all())]);
    let (publisher, subscriber) = (driver.attach("app"), driver.attach("subscriber"));
    driver.open_session(subscriber, "subscriber");
    driver.subscribe(subscriber, "#", 0);
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
        driver.turn(publisher, &mut commands);
        driver.turn(subscriber, &mut Vec::new());
    }
    let ns = began.elapsed().as_nanos() as f64 / messages as f64;
    println!(
        "{name}: {ns:.0} ns a message; {} refused",
        driver.engine.counters().access_refused
    );
}
