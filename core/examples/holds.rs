//! How long the longest hold of the engine's lock takes while a client makes very much of one kind, and takes it away again.
//!
//! ```console
//! cargo run --release -p gatepost-core --example holds 1000000
//! ```
//!
//! What is measured is the processor's time of this thread, so that a busy machine changes little. The log is always done at
//! once.

use gatepost_core::access::Rights;
use gatepost_core::command::{
    Attach, Bind, BindTarget, Command, Consume, DeclareQueue, DeleteQueue, OpenSession, Peer, PublishFlags, PurgeQueue,
    RetainHandling, Subscribe, Subscription,
};
use gatepost_core::engine::{Engine, Link, Room, Settings, Wake, Wakes};
use gatepost_core::event::Event;
use gatepost_core::message::{Dialect, Envelope, Message};
use gatepost_core::properties::{Codecs, Table};
use gatepost_core::store::Batch;
use gatepost_core::time::{Now, Time, Wall};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::Duration;

struct Silent;

impl Wake for Silent {
    fn wake(&self) {}
}

/// Time that the processor has spent on this thread.
fn spent() -> Duration {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), u32::try_from(spent.tv_nsec).unwrap_or(0))
}

/// An engine without limits, and one client.
struct Client {
    engine: Engine,
    link: Link,
    events: Vec<Event>,
    monotonic: u64,
    longest: (Duration, usize),
    sum: Duration,
    holds: usize,
}

impl Client {
    fn new() -> Client {
        let settings = Settings {
            session_filters_max: usize::MAX,
            queues_max: usize::MAX,
            objects_bytes_max: 64 << 30,
            memory_bytes_max: 64 << 30,
            cache_bytes_max: 64 << 30,
            ..Settings::default()
        };
        let mut engine = Engine::new(settings, Codecs::default(), 1);
        engine.set_rights("app".into(), Rights::all().into());
        let attach = Attach {
            vhost: "/".into(),
            protocol: "example",
            ..Attach::default()
        };
        let peer = Peer::on_this_machine();
        let link = engine.attach(Now::default(), &attach, "app".into(), peer, Arc::new(Silent));
        Client {
            engine,
            link,
            events: Vec::new(),
            monotonic: 1,
            longest: Default::default(),
            sum: Duration::ZERO,
            holds: 0,
        }
    }

    fn now(&mut self) -> Now {
        self.monotonic += 1_000_000;
        Now {
            monotonic: Time(self.monotonic),
            wall: Wall(1_700_000_000_000 + self.monotonic / 1_000_000),
        }
    }

    /// One hold.
    fn hold(&mut self, hold: impl FnOnce(&mut Engine, Now, Link, &mut Vec<Event>)) {
        let now = self.now();
        self.events.clear();
        let (mut batch, mut requests, mut wakes) = (Batch::default(), Vec::new(), Wakes::default());
        let began = spent();
        hold(&mut self.engine, now, self.link, &mut self.events);
        self.engine.drain(&mut batch, &mut requests, &mut wakes);
        let took = spent() - began;
        self.sum += took;
        self.holds += 1;
        if took > self.longest.0 {
            self.longest = (took, self.holds);
        }
        if !batch.is_empty() {
            self.engine.durable(now, batch.ticket);
        }
    }

    /// Commands, in as many holds as it takes, and what is due by then.
    fn apply(&mut self, mut commands: Vec<Command>) {
        let room = Room {
            messages: 256,
            bytes: 1 << 20,
            large: true,
        };
        while !commands.is_empty() {
            self.hold(|engine, now, link, events| {
                engine.visit(now, link, &mut commands, room, events);
            });
        }
        self.pass_time();
    }

    fn pass_time(&mut self) {
        while self.engine.poll_timeout().is_some_and(|due| due.0 <= self.monotonic) {
            self.hold(|engine, now, _, _| engine.handle_timeout(now));
        }
    }

    fn report(&mut self, what: &str) {
        let (longest, number) = std::mem::take(&mut self.longest);
        let (sum, holds) = (std::mem::take(&mut self.sum), std::mem::take(&mut self.holds));
        let mean = sum / u32::try_from(holds.max(1)).unwrap_or(u32::MAX);
        println!("{what:32} {holds:7} holds, mean {mean:9.1?}, longest {longest:9.1?} (hold {number})");
    }
}

/// All numbers below `count`, a thousand at a time.
fn thousands(count: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..count)
        .step_by(1_000)
        .map(move |first| first..(first + 1_000).min(count))
}

fn session(clean_start: bool) -> Command {
    Command::OpenSession(Box::new(OpenSession {
        client_id: "app".into(),
        clean_start,
        expiry: None,
        receive_maximum: 1000,
        will: None,
    }))
}

fn subscribe(numbers: std::ops::Range<usize>) -> Command {
    let filters = numbers.map(|n| {
        Ok(Subscription {
            filter: format!("plant/{n}/+").as_str().into(),
            share: None,
            qos: 1,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Never,
        })
    });
    Command::Subscribe(Box::new(Subscribe {
        packet_id: 1,
        filters: filters.collect(),
        subscription_id: None,
    }))
}

fn publish(exchange: &str, key: &str, body: &[u8], retain: bool) -> Command {
    let envelope = Envelope {
        dialect: if retain { Dialect::Slash } else { Dialect::Dot },
        retain,
        ..Envelope::default()
    };
    Command::Publish {
        channel: 0,
        flags: PublishFlags::default(),
        packet_id: 0,
        message: Message::new(envelope, exchange, key, b"", body),
    }
}

fn declare(name: &str) -> Command {
    Command::DeclareQueue(Box::new(DeclareQueue {
        durable: false,
        reply: false,
        ..DeclareQueue::durable(1, name)
    }))
}

fn delete(name: &str) -> Command {
    Command::DeleteQueue(Box::new(DeleteQueue {
        channel: 1,
        name: name.into(),
        if_unused: false,
        if_empty: false,
        reply: false,
    }))
}

fn bind(exchange: &str, key: &str) -> Command {
    Command::Bind(Box::new(Bind {
        channel: 1,
        source: exchange.into(),
        target: BindTarget::Queue("q".into()),
        key: key.into(),
        arguments: Table::default(),
        reply: false,
    }))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = std::env::args().nth(1).ok_or("usage: holds COUNT")?.parse()?;

    let mut c = Client::new();
    c.apply(vec![session(true)]);
    thousands(count).for_each(|some| c.apply(vec![subscribe(some)]));
    c.report("subscriptions are made");
    c.apply(vec![Command::Detach]);
    let attach = Attach::default();
    let peer = Peer::on_this_machine();
    c.link = c
        .engine
        .attach(Now::default(), &attach, "app".into(), peer, Arc::new(Silent));
    c.apply(vec![session(true)]);
    c.report("the session begins anew");

    let mut c = Client::new();
    for (body, what) in [("m", "topics are retained"), ("", "topics are cleared")] {
        for some in thousands(count) {
            let all = some.map(|n| publish("amq.topic", &format!("plant/{}/{n}", n % 100), body.as_bytes(), true));
            c.apply(all.collect());
        }
        c.report(what);
    }

    let mut c = Client::new();
    thousands(count).for_each(|some| c.apply(some.map(|n| declare(&format!("q{n}"))).collect()));
    c.report("queues are declared");
    thousands(count).for_each(|some| c.apply(some.map(|n| delete(&format!("q{n}"))).collect()));
    c.report("queues are deleted");

    for exchange in ["amq.direct", "amq.topic"] {
        let mut c = Client::new();
        c.apply(vec![declare("q")]);
        thousands(count).for_each(|some| c.apply(some.map(|n| bind(exchange, &format!("a.{n}"))).collect()));
        c.report(&format!("{exchange} is bound"));
        c.apply(vec![delete("q")]);
        c.report("the queue is deleted");
    }

    let mut c = Client::new();
    c.apply(vec![declare("q")]);
    thousands(count).for_each(|some| c.apply(some.map(|_| publish("", "q", b"m", false)).collect()));
    c.report("messages are queued");
    c.apply(vec![Command::PurgeQueue(Box::new(PurgeQueue {
        channel: 1,
        name: "q".into(),
        reply: false,
    }))]);
    c.report("the queue is purged");

    let mut c = Client::new();
    c.apply(vec![declare("q")]);
    for some in thousands(count) {
        let consume = |n: usize| Consume {
            reply: false,
            ..Consume::settling(1, n as u32, "q")
        };
        c.apply(some.map(|n| Command::Consume(Box::new(consume(n)))).collect());
    }
    c.report("consumers are started");
    c.apply(vec![delete("q")]);
    c.report("their queue is deleted");
    Ok(())
}
