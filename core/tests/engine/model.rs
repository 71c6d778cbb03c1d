//! Random operations on one queue, compared with a reference queue that is a plain list: publishes with and without
//! expiry, gets, settles, requeues, rejects, purges, limits of length and bytes that are declared or set by a policy
//! that changes, time, restarts and crashes, on a disk whose reads fail now and then, with room for few bodies. After
//! each operation both must agree on the content, and at the end on what was dead-lettered.
//!
//! `GATEPOST_SIM_RUNS=10000` runs more seeds, `GATEPOST_SIM_SEED=17` one of them.

use crate::support::*;
use gatepost_core::command::{Command, Outcome, PublishFlags};
use gatepost_core::message::{Envelope, Message};
use gatepost_core::properties::Value;
use gatepost_core::store::StoreSettings;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{Client, Settings, World};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// A message in the reference queue.
#[derive(Clone, Debug)]
struct Entry {
    /// Its place in the queue, which is also its name.
    id: u64,
    bytes: usize,
    /// In milliseconds of the wall clock.
    received: u64,
    /// When it expires by its own expiry.
    deadline: Option<u64>,
    /// It was handed out before. After a restart, others may be reported as redelivered, too.
    redelivered: Option<bool>,
}

/// The queue's arguments, or what a policy sets.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    length: Option<usize>,
    bytes: Option<usize>,
    refuses: bool,
    ttl_ms: Option<u64>,
}

impl Limits {
    fn random(w: &mut World) -> Limits {
        let random = w.random();
        Limits {
            length: random.chance(1, 2).then(|| 1 + random.below(40) as usize),
            bytes: random.chance(1, 3).then(|| 7_000 + random.below(60_000) as usize),
            refuses: random.chance(1, 3),
            ttl_ms: random.chance(1, 3).then(|| random.below(100) * 10 + 5),
        }
    }

    /// Combines them with a policy: of two limits the lower.
    fn under(self, policy: Limits) -> Limits {
        let lower = |a: Option<usize>, b: Option<usize>| [a, b].into_iter().flatten().min();
        Limits {
            length: lower(self.length, policy.length),
            bytes: lower(self.bytes, policy.bytes),
            refuses: self.refuses || policy.refuses,
            ttl_ms: [self.ttl_ms, policy.ttl_ms].into_iter().flatten().min(),
        }
    }

    /// The same with that prefix on each key.
    fn pairs(self, prefix: &str) -> Vec<(String, Value)> {
        let count = |n: Option<usize>| n.map(|n| Value::Int(n as i64, 64));
        let all = [
            ("max-length", count(self.length)),
            ("max-length-bytes", count(self.bytes)),
            ("message-ttl", count(self.ttl_ms.map(|ttl| ttl as usize))),
            ("overflow", self.refuses.then(|| Value::text("reject-publish-dlx"))),
        ];
        let set = all
            .into_iter()
            .filter_map(|(key, value)| Some((format!("{prefix}{key}"), value?)));
        set.collect()
    }
}

/// The reference queue.
#[derive(Default)]
struct Model {
    declared: Limits,
    is_policy_set: bool,
    /// The arguments and policy that apply.
    limits: Limits,
    /// In order.
    ready: Vec<Entry>,
    /// By delivery number.
    held: BTreeMap<u64, Entry>,
    dead: Vec<u64>,
}

impl Model {
    fn bytes(&self) -> usize {
        self.ready.iter().map(|entry| entry.bytes).sum()
    }
    fn is_over(&self) -> bool {
        self.limits.length.is_some_and(|most| self.ready.len() > most)
            || self.limits.bytes.is_some_and(|most| self.bytes() > most)
    }
    /// Drops expired messages at the head. Those behind others stay.
    fn expire(&mut self, now: u64) {
        let ttl = self.limits.ttl_ms;
        let deadline = |e: &Entry| {
            [e.deadline, ttl.map(|ttl| e.received + ttl)]
                .into_iter()
                .flatten()
                .min()
        };
        while self.ready.first().and_then(deadline).is_some_and(|at| at <= now) {
            self.dead.push(self.ready.remove(0).id);
        }
    }
    fn publish(&mut self, entry: Entry, now: u64) -> bool {
        self.expire(now);
        if self.limits.refuses {
            self.ready.push(entry);
            let is_over = self.is_over();
            if is_over && let Some(refused) = self.ready.pop() {
                self.dead.push(refused.id);
            }
            return !is_over;
        }
        self.ready.push(entry);
        while self.drop_head() {}
        true
    }
    /// Drops the oldest if there are too many. Returned messages may exceed the limit until the next publish.
    fn drop_head(&mut self) -> bool {
        let drops = !self.limits.refuses && self.is_over();
        if drops {
            self.dead.push(self.ready.remove(0).id);
        }
        drops
    }
    fn put_back(&mut self, mut entry: Entry) {
        entry.redelivered = Some(true);
        let at = self.ready.partition_point(|other| other.id < entry.id);
        self.ready.insert(at, entry);
    }
    /// All deliveries return, and it is unknown which were handed out.
    fn restart(&mut self) {
        for (_, entry) in std::mem::take(&mut self.held) {
            self.put_back(entry);
        }
        for entry in &mut self.ready {
            entry.redelivered = entry.redelivered.filter(|again| *again);
        }
    }
}

struct Run {
    world: World,
    client: Client,
    model: Model,
    next: u64,
    /// Counted in earlier lives.
    reads_failed: u64,
}

impl Run {
    fn new(seed: u64) -> Run {
        let settings = Settings {
            cache_bytes_max: [16, 2, 64, 6][seed as usize % 4] << 10,
            memory_bytes_max: 4 << 20,
            log_backlog_bytes_max: 4 << 20,
            ..Settings::default()
        };
        let store = StoreSettings {
            segment_bytes: 64 << 10,
            checkpoint_every: ms(300),
            checkpoint_cost_percent_max: 400,
            compact_live_percent_max: 50,
            compact_age_min: 1,
            ..StoreSettings::default()
        };
        let mut world = World::with(seed, settings, store);
        let client = world.connect("test");
        let declared = Limits::random(&mut world);
        let model = Model {
            declared,
            limits: declared,
            ..Model::default()
        };
        let mut run = Run {
            world,
            client,
            model,
            next: 0,
            reads_failed: 0,
        };
        run.say([durable("dead"), run.declaration()]);
        run
    }
    fn declaration(&self) -> Command {
        declare("work", |d| {
            for (key, value) in self.model.declared.pairs("x-") {
                d.arguments.push(key, value);
            }
            d.arguments.push("x-dead-letter-exchange", Value::text(""));
            d.arguments.push("x-dead-letter-routing-key", Value::text("dead"));
        })
    }
    fn say(&mut self, commands: impl Into<Vec<Command>>) -> Vec<String> {
        run(&mut self.world, self.client, commands)
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.world.random().below(limit)
    }
    fn wall(&self) -> u64 {
        self.world.now().wall.0
    }

    fn step(&mut self) {
        match self.below(100) {
            0..45 => self.publish(),
            45..65 => self.get(),
            65..85 => self.settle(),
            85..93 => {
                let by = self.below(30) * 10;
                self.world.advance(ms(by));
            }
            93 => {
                self.model.expire(self.wall());
                let purged = self.model.ready.len();
                assert_eq!(self.say([purge("work")]), [format!("purged {purged}")]);
                self.model.ready.clear();
            }
            94..97 => self.restart(),
            // Reads and opens fail for a while.
            97 => {
                let disk = self.world.disk().clone();
                disk.hinder(self.world.random());
            }
            98 => self.set_policy(),
            _ => {}
        }
        self.compare();
    }

    /// A policy is set, changed, or cleared.
    fn set_policy(&mut self) {
        self.compare();
        let limits = if self.below(4) == 0 {
            Limits::default()
        } else {
            Limits::random(&mut self.world)
        };
        let pairs = limits.pairs("");
        let command = if !pairs.is_empty() {
            let pairs: Vec<(&str, Value)> = pairs.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
            policy("p", "^work$", "queues", &pairs)
        } else if self.model.is_policy_set {
            clear_policy("p")
        } else {
            return;
        };
        assert_eq!(self.say([command]), ["done SetPolicies"]);
        self.model.is_policy_set = !pairs.is_empty();
        self.model.limits = self.model.declared.under(limits);
        self.model.expire(self.wall());
        while self.model.drop_head() {}
    }

    /// Both have the same number of messages. A message on disk must be read to find that it has expired, and then the
    /// next one, so the engine may need some time.
    fn compare(&mut self) {
        for moment in 0.. {
            self.model.expire(self.wall());
            let heard = self.say([declare("work", |d| d.passive = true)]);
            let depth = heard[0].strip_prefix("declared work ");
            let depth = depth.and_then(|rest| rest.strip_suffix("/0")?.parse().ok());
            let depth: usize = depth.expect("a depth");
            while depth < self.model.ready.len() && self.model.drop_head() {}
            if depth == self.model.ready.len() {
                return;
            }
            assert!(
                moment < 100,
                "{depth} messages: {:?}, {:?}",
                self.model.limits,
                self.model.ready
            );
            self.world.advance(ms(10));
        }
    }

    fn publish(&mut self) {
        let bytes = [10, 200, 2_000, 6_000][self.below(4) as usize];
        // Between two ticks of the clock, so that nothing is just about to expire.
        let own = (self.below(4) == 0).then(|| self.below(60) * 10 + 5);
        let now = self.wall();
        let id = self.next;
        self.next += 1;
        let body = padded(&id.to_string(), bytes);
        let entry = Entry {
            id,
            bytes: body.len(),
            received: now,
            deadline: own.map(|own| now + own),
            redelivered: Some(false),
        };
        let envelope = Envelope {
            durable: true,
            qos: 1,
            received: self.world.now().wall,
            deadline: own.map(|own| self.world.now().wall + ms(own)),
            ..Envelope::default()
        };
        let message = Message::new(envelope, "", "work", &[], body.as_bytes());
        let heard = self.say([publish(PublishFlags::CONFIRM, message)]);
        let taken = self.model.publish(entry, now);
        let refused = heard.iter().any(|line| line.starts_with("refused"));
        assert_eq!(refused, !taken, "message {id}: {heard:?}, {:?}", self.model.limits);
    }

    fn get(&mut self) {
        let heard = self.say([get("work")]);
        self.model.expire(self.wall());
        if self.model.ready.is_empty() {
            assert_eq!(heard, ["empty"]);
            return;
        }
        assert_ne!(heard, ["empty"], "{:?}: {:?}", self.model.limits, self.model.ready);
        let words: Vec<&str> = heard[0].split(' ').collect();
        while words[2] != self.model.ready[0].id.to_string() && self.model.drop_head() {}
        let entry = self.model.ready.remove(0);
        assert_eq!(
            (words[0], words[2]),
            ("got", entry.id.to_string().as_str()),
            "{heard:?}"
        );
        let again = words[3] == "again";
        assert_eq!(again, entry.redelivered.unwrap_or(again), "{heard:?}: {entry:?}");
        let number = words[1].trim_start_matches('#').parse().expect("a number");
        self.model.held.insert(number, entry);
    }

    fn settle(&mut self) {
        let numbers: Vec<u64> = self.model.held.keys().copied().collect();
        if numbers.is_empty() {
            return;
        }
        let number = numbers[self.below(numbers.len() as u64) as usize];
        let multiple = self.below(6) == 0;
        let outcome = [Outcome::Accept, Outcome::Accept, Outcome::Requeue, Outcome::Reject][self.below(4) as usize];
        self.say([settle(number, multiple, outcome)]);
        let mut settled = self.model.held.split_off(&(number + 1));
        std::mem::swap(&mut settled, &mut self.model.held);
        if !multiple {
            let last = settled.split_off(&number);
            self.model.held.append(&mut settled);
            settled = last;
        }
        for (_, entry) in settled {
            match outcome {
                Outcome::Requeue => self.model.put_back(entry),
                Outcome::Reject => self.model.dead.push(entry.id),
                _ => {}
            }
        }
    }

    fn restart(&mut self) {
        // Settles are written, and synced with the publishes that follow them.
        self.world.advance(ms(250));
        // No expired message is hidden behind returned ones.
        self.compare();
        let sync = [durable("sync"), put("sync", "m"), purge("sync")];
        self.say(sync);
        self.reads_failed += self.world.disk().reads_failed();
        match self.below(3) {
            0 => self.world.stop_and_start(),
            1 => self.world.crash(Crash::Process),
            _ => self.world.crash(Crash::Power),
        }
        self.model.expire(self.wall());
        self.model.restart();
        self.client = self.world.connect("test");
        self.compare();
    }

    /// Everything dropped, expired, rejected or refused is in the other queue, once each.
    fn close(mut self) {
        self.compare();
        let heard = self.say([consume_no_ack("dead", 1)]);
        let delivered = heard.iter().filter_map(|line| line.strip_prefix("deliver c1 #"));
        let mut dead: Vec<u64> = delivered
            .map(|line| line.split(' ').nth(1).and_then(|id| id.parse().ok()).expect("a number"))
            .collect();
        dead.sort_unstable();
        self.model.dead.sort_unstable();
        assert_eq!(dead, self.model.dead, "{:?}", self.model.limits);
    }
}

#[test]
fn a_queue_agrees_with_a_plain_list_whatever_is_done_to_it() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = match number("GATEPOST_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("GATEPOST_SIM_RUNS").unwrap_or(60),
    };
    let (mut failed, mut runs) = (0, 0);
    for seed in seeds {
        let run = AssertUnwindSafe(|| {
            let mut run = Run::new(seed);
            for _ in 0..250 {
                run.step();
            }
            run.reads_failed += run.world.disk().reads_failed();
            let failed = run.reads_failed;
            run.close();
            failed
        });
        match catch_unwind(run) {
            Ok(reads) => failed += reads,
            Err(panic) => {
                eprintln!("this was GATEPOST_SIM_SEED={seed}");
                resume_unwind(panic);
            }
        }
        runs += 1;
    }
    assert!(failed > 0 || runs < 30, "no read has failed");
}
