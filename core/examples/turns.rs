//! The engine alone, turn by turn, for a profiler that counts: no socket, no log, no clock.
//!
//! ```console
//! cargo build --release -p gatepost-core --example turns
//! valgrind --tool=callgrind --cache-sim=yes target/release/examples/turns amqp 16000
//! ```
//!
//! Two runs of different length tell what a message costs: the difference of their counts, by the difference of their
//! messages. `qos0`, `qos1`, `amqp` and `durable` publish 32 messages a turn for one consumer. `pairs` and `pairs-qos0` are a
//! thousand pairs of a publisher and a consumer with one message a turn each: what a turn touches is never in the cache.

use gatepost_core::access::Rights;
use gatepost_core::command::{
    Attach, Command, Consume, DeclareQueue, OpenSession, Outcome, Peer, PublishFlags, Subscribe, Subscription,
};
use gatepost_core::engine::{Engine, Link, Room, Settings, Wake, Wakes};
use gatepost_core::event::Event;
use gatepost_core::message::{Dialect, Envelope, Message};
use gatepost_core::properties::Codecs;
use gatepost_core::store::Batch;
use gatepost_core::time::{Now, Time, Wall};
use std::sync::Arc;

struct Silent;

impl Wake for Silent {
    fn wake(&self) {}
}

/// What is measured.
struct Scenario {
    pairs: usize,
    /// Messages that a publisher sends in a turn.
    at_once: usize,
    mqtt: bool,
    qos: u8,
    durable: bool,
}

impl Scenario {
    fn named(name: &str) -> Option<Scenario> {
        let one = Scenario {
            pairs: 1,
            at_once: 32,
            mqtt: true,
            qos: 0,
            durable: false,
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
                durable: false,
            },
            "pairs-qos0" => Scenario {
                pairs: 1000,
                at_once: 1,
                ..one
            },
            _ => return None,
        })
    }

    /// A publish for the consumer whose queue or topic has that name.
    fn publish(&self, name: &str) -> Command {
        let (exchange, dialect) = if self.mqtt {
            ("amq.topic", Dialect::Slash)
        } else {
            ("", Dialect::Dot)
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

struct Turns {
    engine: Engine,
    monotonic: u64,
    events: Vec<Event>,
}

impl Turns {
    fn attach(&mut self) -> Link {
        let attach = Attach {
            vhost: "/".into(),
            protocol: "example",
            client_name: None,
            ..Attach::default()
        };
        let peer = Peer::on_this_machine();
        self.engine
            .attach(Now::default(), &attach, "app".into(), peer, Arc::new(Silent))
    }

    /// A turn of the link: its commands, and what it takes. The log is always done at once.
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
        self.events.clear();
        loop {
            self.engine.visit(now, link, commands, room, &mut self.events);
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

    /// A publisher and a consumer, and where the one reaches the other.
    fn pair(&mut self, number: usize, scenario: &Scenario) -> (Link, Link, String) {
        let (publisher, consumer) = (self.attach(), self.attach());
        if !scenario.mqtt {
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
            self.turn(consumer, &mut commands);
            return (publisher, consumer, queue);
        }
        for (link, role) in [(publisher, "p"), (consumer, "c")] {
            let open = OpenSession {
                client_id: format!("{role}{number}").as_str().into(),
                clean_start: true,
                expiry: Some(0),
                receive_maximum: 1000,
                will: None,
            };
            self.turn(link, &mut vec![Command::OpenSession(Box::new(open))]);
        }
        let topic = format!("a/{number}");
        let subscription = Subscription {
            filter: topic.as_str().into(),
            share: None,
            qos: scenario.qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: Default::default(),
        };
        let subscribe = Subscribe {
            packet_id: 1,
            filters: vec![Ok(subscription)],
            subscription_id: None,
        };
        self.turn(consumer, &mut vec![Command::Subscribe(Box::new(subscribe))]);
        (publisher, consumer, topic)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let usage = "usage: turns qos0|qos1|amqp|durable|pairs|pairs-qos0 MESSAGES";
    let (name, messages) = (std::env::args().nth(1), std::env::args().nth(2));
    let scenario = name.and_then(|name| Scenario::named(&name)).ok_or(usage)?;
    let messages: usize = messages.ok_or(usage)?.parse()?;
    let mut turns = Turns {
        engine: Engine::new(Settings::default(), Codecs::default(), 1),
        monotonic: 1,
        events: Vec::new(),
    };
    turns.engine.set_rights("app".into(), Rights::all().into());
    let pairs: Vec<_> = (0..scenario.pairs)
        .map(|number| turns.pair(number, &scenario))
        .collect();
    let (mut commands, mut settles, mut delivered) = (Vec::new(), Vec::new(), 0);
    for n in 0..messages / scenario.at_once {
        // In an order that no prefetcher knows.
        let (publisher, consumer, name) = &pairs[n * 389 % pairs.len()];
        commands.extend((0..scenario.at_once).map(|_| scenario.publish(name)));
        turns.turn(*publisher, &mut commands);
        turns.turn(*consumer, &mut settles);
        for event in &turns.events {
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
            turns.turn(*consumer, &mut settles);
        }
    }
    println!("{delivered} of {messages} messages delivered");
    Ok(())
}
