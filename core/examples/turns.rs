//! Runs the engine alone, turn by turn, for a profiler that counts: no socket, no log, no clock.
//!
//! ```console
//! cargo build --release -p gatepost-core --example turns
//! valgrind --tool=callgrind --cache-sim=yes target/release/examples/turns amqp 16000
//! ```
//!
//! To get the cost of a message, run twice with different numbers of messages, and divide the difference of the counts
//! by the difference of these numbers. `qos0`, `qos1`, `amqp` and `durable` publish 32 messages a turn for one
//! consumer. `pairs` and `pairs-qos0` are a thousand pairs of a publisher and a consumer with one message a turn each:
//! what a turn touches is never in the cache. `many` and `many-amqp` are such pairs with ten topics each; in `rotate`
//! every publisher publishes to all ten thousand topics in turn.
//!
//! With `flow` after the number of messages, the flow map counts, and is read every 50,000 messages. With `trace`, a
//! trace is active that asks for a topic nobody publishes to.

use driver::Driver;
use gatepost_core::access::Rights;
use gatepost_core::command::{Bind, BindTarget, Command, Consume, DeclareQueue, Outcome, PublishFlags};
use gatepost_core::engine::Link;
use gatepost_core::engine::flow::FlowCursor;
use gatepost_core::engine::trace::{TRACE_LASTS_MAX, TopicFilter, TraceRequest};
use gatepost_core::event::Event;
use gatepost_core::message::{Dialect, Envelope, Message};
use gatepost_core::properties::Table;
use gatepost_core::time::Now;

mod driver;

/// What is measured.
struct Scenario {
    pairs: usize,
    /// The number of messages that a publisher sends in a turn.
    at_once: usize,
    mqtt: bool,
    qos: u8,
    durable: bool,
    /// The number of topics of each pair; 0: the pair has one address.
    topics: usize,
    /// Publishers publish to the topics of all pairs.
    rotate: bool,
}

impl Scenario {
    fn named(name: &str) -> Option<Scenario> {
        let one = Scenario {
            pairs: 1,
            at_once: 32,
            mqtt: true,
            qos: 0,
            durable: false,
            topics: 0,
            rotate: false,
        };
        let many = Scenario {
            pairs: 1000,
            at_once: 1,
            topics: 10,
            ..one
        };
        Some(match name {
            "qos0" => one,
            "qos1" => Scenario { qos: 1, ..one },
            "amqp" => Scenario {
                mqtt: false,
                qos: 1,
                ..one
            },
            "durable" => Scenario {
                mqtt: false,
                qos: 1,
                durable: true,
                ..one
            },
            "pairs" => Scenario {
                pairs: 1000,
                at_once: 1,
                mqtt: false,
                qos: 1,
                ..one
            },
            "pairs-qos0" => Scenario {
                pairs: 1000,
                at_once: 1,
                ..one
            },
            "many" => many,
            "many-amqp" => Scenario {
                mqtt: false,
                qos: 1,
                ..many
            },
            "rotate" => Scenario { rotate: true, ..many },
            _ => return None,
        })
    }

    /// A publish to the consumer whose queue or topic has that name.
    fn publish(&self, name: &str) -> Command {
        let (exchange, dialect) = match (self.mqtt, self.topics) {
            (true, _) => ("amq.topic", Dialect::Slash),
            (false, 0) => ("", Dialect::Dot),
            (false, _) => ("amq.topic", Dialect::Dot),
        };
        let envelope = Envelope {
            dialect,
            durable: self.durable,
            qos: self.qos,
            ..Envelope::default()
        };
        let is_confirmed = self.durable || (self.mqtt && self.qos > 0);
        Command::Publish {
            channel: u16::from(!self.mqtt),
            flags: if is_confirmed {
                PublishFlags::CONFIRM
            } else {
                PublishFlags::default()
            },
            packet_id: 0,
            message: Message::new(envelope, exchange, name, b"", &[7; 64]),
        }
    }
}

/// A publisher and a consumer, and the address between them.
fn pair(driver: &mut Driver, number: usize, scenario: &Scenario) -> (Link, Link, String) {
    let (publisher, consumer) = (driver.attach("app"), driver.attach("app"));
    if scenario.mqtt {
        driver.open_session(publisher, &format!("p{number}"));
        driver.open_session(consumer, &format!("c{number}"));
        let topic = format!("a/{number}");
        let filter = if scenario.topics > 0 {
            format!("{topic}/+")
        } else {
            topic.clone()
        };
        driver.subscribe(consumer, &filter, scenario.qos);
        return (publisher, consumer, topic);
    }
    let queue = format!("q{number}");
    let declare = DeclareQueue {
        durable: scenario.durable,
        ..DeclareQueue::durable(1, queue.as_str())
    };
    let consume = Consume {
        prefetch: Some(500),
        ..Consume::settling(1, 1, queue.as_str())
    };
    let mut commands = vec![
        Command::DeclareQueue(Box::new(declare)),
        Command::Consume(Box::new(consume)),
    ];
    if scenario.topics > 0 {
        let bind = Bind {
            channel: 1,
            source: "amq.topic".into(),
            target: BindTarget::Queue(queue.as_str().into()),
            key: format!("{queue}.*").as_str().into(),
            arguments: Table::default(),
            reply: true,
        };
        commands.insert(1, Command::Bind(Box::new(bind)));
    }
    driver.turn(consumer, &mut commands);
    (publisher, consumer, queue)
}

/// Reads all counts of the flow map, as the gateway does every few seconds.
fn look(driver: &mut Driver) -> usize {
    let (mut look, mut seen) = (FlowCursor::default(), 0);
    while !look.is_done() {
        seen += driver.engine.flow(&mut look, 256).len();
    }
    seen
}

/// The number of messages between two readings: 10,000 a second for five seconds.
const LOOK_EVERY: usize = 50_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let usage = "usage: turns qos0|qos1|amqp|durable|pairs|pairs-qos0|many|many-amqp|rotate MESSAGES [flow] [trace]";
    let (name, messages) = (std::env::args().nth(1), std::env::args().nth(2));
    let scenario = name.and_then(|name| Scenario::named(&name)).ok_or(usage)?;
    let messages: usize = messages.ok_or(usage)?.parse()?;
    let has = |word: &str| std::env::args().skip(3).any(|argument| argument == word);
    let counts_flow = has("flow");
    let mut driver = Driver::new([("app", Rights::all())]);
    driver.engine.set_flow(counts_flow);
    let pairs: Vec<_> = (0..scenario.pairs)
        .map(|number| pair(&mut driver, number, &scenario))
        .collect();
    if has("trace") {
        let request = TraceRequest {
            exchange: None,
            topic: Some(TopicFilter::parse("nobody/publishes/+", Dialect::Slash)?),
            property: None,
            messages: 1,
            lasts: TRACE_LASTS_MAX,
        };
        driver.engine.start_trace(Now::default(), request)?;
    }
    let (mut commands, mut settles, mut delivered, mut seen) = (Vec::new(), Vec::new(), 0, 0);
    for n in 0..messages / scenario.at_once {
        // In an order that a prefetcher cannot predict.
        let (publisher, consumer, name) = &pairs[n * 389 % pairs.len()];
        let round = n / pairs.len();
        let (publisher, name) = match (scenario.topics, scenario.rotate) {
            (0, _) => (publisher, name.clone()),
            (_, is_rotated) => {
                let shift = if is_rotated { round / scenario.topics } else { 0 };
                let (publisher, ..) = &pairs[(n * 389 + shift) % pairs.len()];
                let separator = if scenario.mqtt { '/' } else { '.' };
                (publisher, format!("{name}{separator}{}", round % scenario.topics))
            }
        };
        commands.extend((0..scenario.at_once).map(|_| scenario.publish(&name)));
        driver.turn(*publisher, &mut commands);
        driver.turn(*consumer, &mut settles);
        for event in &driver.events {
            let Event::Deliver(delivery) = event else { continue };
            delivered += 1;
            if delivery.qos > 0 {
                settles.push(Command::Settle {
                    channel: delivery.channel,
                    number: delivery.number,
                    multiple: false,
                    outcome: Outcome::Accept,
                });
            }
        }
        if !settles.is_empty() {
            driver.turn(*consumer, &mut settles);
        }
        if counts_flow && n % LOOK_EVERY == LOOK_EVERY - 1 {
            seen += look(&mut driver);
        }
    }
    println!("{delivered} of {messages} messages delivered, {seen} parts of the flow map seen");
    Ok(())
}
