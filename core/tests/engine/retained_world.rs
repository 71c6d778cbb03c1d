//! Random histories of retained messages: topics are set and cleared while subscribers come, wait for reads, take
//! little or much, and leave, on a disk whose reads fail now and then, with room for few messages, compaction and
//! crashes.
//!
//! What must hold for every seed:
//! - a subscriber gets each retained message that stays unchanged once, and none twice;
//! - each message was its topic's value at some moment since the subscription;
//! - of each topic, no older value comes after a newer one, and the newest comes in the end;
//! - a restart finds what was confirmed, or a later value; a cleared topic does not come back.
//!
//! `GATEPOST_SIM_RUNS=1000` runs more seeds, `GATEPOST_SIM_SEED=17` one of them.

use crate::support::*;
use gatepost_core::event::{DeliveryFlags, Event};
use gatepost_core::store::StoreSettings;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{Client, NO_ROOM, ROOM, Room, Settings, World};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

const TOPICS: usize = 9;
const FILTERS: [&str; 4] = ["r/#", "r/+", "r/3", "#"];

/// A topic's message from some moment on; `None`: it had none.
type History = Vec<(u64, Option<u64>)>;

struct Subscriber {
    client: Client,
    filter: &'static str,
    /// When it subscribed.
    began: u64,
    /// The newest value received of each topic.
    heard: BTreeMap<usize, u64>,
    /// Retained copies of each topic.
    copies: BTreeMap<usize, u32>,
    owes: Vec<u16>,
}

struct Run {
    world: World,
    /// Grows with every step.
    clock: u64,
    topics: Vec<History>,
    publisher: Client,
    /// Topics that this publisher has set or cleared, in order, with the indices in their histories.
    said: Vec<(usize, usize)>,
    confirmed: usize,
    subscribers: Vec<Subscriber>,
    /// Of earlier lives: failed reads, and bodies that were evicted and read back.
    totals: [u64; 3],
}

fn matches(filter: &str, topic: usize) -> bool {
    filter != "r/3" || topic == 3
}

impl Run {
    fn new(seed: u64) -> Run {
        let settings = Settings {
            cache_bytes_max: [8, 0, 30, 2][seed as usize % 4] << 10,
            hold_units_max: [1024, 1, 5, 40][seed as usize / 4 % 4],
            ..Settings::default()
        };
        let store = StoreSettings {
            segment_bytes: 64 << 10,
            checkpoint_every: ms(300),
            checkpoint_cost_percent_max: 400,
            compact_live_percent_max: 60,
            compact_age_min: 1,
            slice_bytes: 4 << 10,
            ..StoreSettings::default()
        };
        let mut world = World::with(seed, settings, store);
        let publisher = world.connect("mqtt");
        world.send(publisher, vec![clean("p")]);
        Run {
            world,
            clock: 0,
            topics: vec![vec![(0, None)]; TOPICS],
            publisher,
            said: Vec::new(),
            confirmed: 0,
            subscribers: Vec::new(),
            totals: [0; 3],
        }
    }
    fn below(&mut self, limit: usize) -> usize {
        self.world.random().below(limit as u64) as usize
    }

    fn step(&mut self) {
        self.clock += 1;
        match self.below(200) {
            0..44 => self.publish(),
            44..60 => self.subscribe(),
            60..66 => self.leave(),
            66..110 => self.take(),
            110..130 => _ = self.world.commit(),
            130..145 => self.world.report(),
            145..160 => self.world.fetch(),
            160..176 => self.world.bring(),
            176..190 => {
                let by = 1 + self.below(120) as u64;
                self.world.advance(ms(by));
            }
            190..194 => {
                let disk = self.world.disk().clone();
                disk.hinder(self.world.random());
            }
            194..198 => self.world.disk().relieve(),
            198 => self.check_settled(),
            _ => self.crash(),
        }
        if !self.world.is_running() {
            self.crash();
        }
    }

    fn publish(&mut self) {
        let topic = self.below(TOPICS);
        let value = (self.below(6) > 0).then_some(self.clock);
        let size = [5, 200, 1_500, 5_000][self.below(4)];
        let body = value.map_or(String::new(), |value| padded(&value.to_string(), size));
        self.topics[topic].push((self.clock, value));
        self.said.push((topic, self.topics[topic].len() - 1));
        self.world
            .send(self.publisher, vec![retain(&format!("r/{topic}"), &body)]);
    }

    fn subscribe(&mut self) {
        if self.subscribers.len() >= 6 {
            return;
        }
        let (filter_text, qos) = (FILTERS[self.below(4)], self.below(2) as u8);
        let client = self.world.connect("mqtt");
        let name = format!("s{}", self.clock);
        self.world
            .send(client, vec![clean(&name), subscribe(vec![filter(filter_text, qos)])]);
        self.subscribers.push(Subscriber {
            client,
            filter: filter_text,
            began: self.clock,
            heard: BTreeMap::new(),
            copies: BTreeMap::new(),
            owes: Vec::new(),
        });
    }

    fn leave(&mut self) {
        if !self.subscribers.is_empty() {
            let nth = self.below(self.subscribers.len());
            let gone = self.subscribers.swap_remove(nth);
            self.world.drop_client(gone.client);
        }
    }

    fn take(&mut self) {
        if self.subscribers.is_empty() {
            return;
        }
        let nth = self.below(self.subscribers.len());
        let room = match self.below(6) {
            0 => NO_ROOM,
            1..4 => ROOM,
            _ => Room {
                messages: 1 + self.below(3),
                bytes: 1 + self.below(4_000),
                large: true,
            },
        };
        self.hear(nth, room);
        if self.below(2) == 0 {
            self.pay(nth);
        }
    }

    /// Returns whether anything was received.
    fn hear(&mut self, nth: usize, room: Room) -> bool {
        let events = self.world.take(self.subscribers[nth].client, room);
        let now = self.clock;
        let s = &mut self.subscribers[nth];
        for event in &events {
            let Event::Deliver(d) = event else { continue };
            let Some(topic) = d.message.key().strip_prefix("r/") else {
                continue;
            };
            let topic: usize = topic.parse().expect("a topic");
            if d.qos > 0 {
                s.owes.push(d.number as u16);
            }
            let body = String::from_utf8_lossy(d.message.body());
            let Ok(value) = body.split('.').next().unwrap_or("").parse::<u64>() else {
                continue;
            };
            let history = &self.topics[topic];
            let at = history.iter().position(|(_, known)| *known == Some(value));
            let at = at.unwrap_or_else(|| panic!("r/{topic} never was {value}"));
            let newest = s.heard.entry(topic).or_insert(value);
            assert!(*newest <= value, "r/{topic} was {newest}, and {value} comes");
            *newest = value;
            if d.flags.contains(DeliveryFlags::RETAIN) {
                let until = history.get(at + 1).map_or(u64::MAX, |(until, _)| *until);
                assert!(
                    until >= s.began,
                    "r/{topic} was {value} until {until}, before {}",
                    s.began
                );
                assert!(history[at].0 <= now);
                let copies = s.copies.entry(topic).or_default();
                *copies += 1;
                assert_eq!(*copies, 1, "r/{topic} comes twice");
            }
        }
        !events.is_empty()
    }

    fn pay(&mut self, nth: usize) {
        let s = &mut self.subscribers[nth];
        let acks: Vec<_> = s.owes.drain(..).map(puback).collect();
        if !acks.is_empty() {
            self.world.send(s.client, acks);
        }
    }

    fn hear_confirms(&mut self) {
        for event in self.world.take(self.publisher, ROOM) {
            if let Event::Confirmed { upto, .. } = event {
                self.confirmed = upto as usize;
            }
        }
    }

    /// All subscribers take everything.
    fn settle(&mut self) {
        self.world.disk().relieve();
        for round in 0.. {
            assert!(round < 1_000, "it never ends");
            self.world.catch_up();
            if !self.world.is_running() {
                return self.crash();
            }
            self.hear_confirms();
            let mut quiet = true;
            for nth in 0..self.subscribers.len() {
                quiet &= !self.hear(nth, ROOM);
                self.pay(nth);
                quiet &= !self.world.is_due(self.subscribers[nth].client);
            }
            if quiet && self.world.is_caught_up() {
                return;
            }
        }
    }

    fn check_settled(&mut self) {
        self.settle();
        for s in &self.subscribers {
            for (topic, history) in self.topics.iter().enumerate().filter(|(t, _)| matches(s.filter, *t)) {
                let (since, value) = *history.last().expect("at least one");
                let Some(value) = value else { continue };
                let what = format!("r/{topic} for '{}' since {}", s.filter, s.began);
                assert_eq!(s.heard.get(&topic), Some(&value), "{what}");
                if since < s.began {
                    assert_eq!(s.copies.get(&topic), Some(&1), "{what}");
                }
            }
        }
    }

    fn crash(&mut self) {
        self.hear_confirms();
        self.note_totals();
        let how = [Crash::Power, Crash::Process][self.below(2)];
        let is_clean = self.world.is_running() && self.below(4) == 0;
        if is_clean {
            self.world.disk().relieve();
            self.world.catch_up();
        }
        if is_clean && self.world.is_running() {
            self.world.stop_and_start();
            self.confirmed = self.said.len();
        } else {
            self.world.crash(how);
        }
        self.subscribers.clear();
        self.clock += 1;
        self.adopt();
        self.publisher = self.world.connect("mqtt");
        self.world.send(self.publisher, vec![clean("p")]);
        self.said.clear();
        self.confirmed = 0;
    }

    /// A restart has what was confirmed last, or something later.
    fn adopt(&mut self) {
        self.world.disk().relieve();
        let c = self.world.connect("mqtt");
        let mut found: BTreeMap<usize, u64> = BTreeMap::new();
        self.world
            .send(c, vec![clean("reader"), subscribe(vec![filter("r/#", 0)])]);
        for _ in 0..1_000 {
            for event in self.world.take(c, ROOM) {
                if let Event::Deliver(d) = event {
                    let topic = d.message.key().trim_start_matches("r/").parse().expect("a topic");
                    let body = String::from_utf8_lossy(d.message.body()).into_owned();
                    let value = body.split('.').next().and_then(|value| value.parse().ok());
                    let before = found.insert(topic, value.expect("a value"));
                    assert_eq!(before, None, "r/{topic} comes twice");
                }
            }
            if self.world.is_caught_up() && !self.world.is_due(c) {
                break;
            }
            self.world.catch_up();
        }
        self.world.drop_client(c);
        for (topic, history) in self.topics.iter_mut().enumerate() {
            let sure = self.said[..self.confirmed].iter().filter(|(t, _)| *t == topic);
            let sure = sure.map(|(_, at)| *at).max().unwrap_or(0);
            let value = found.get(&topic).copied();
            let allowed = history[sure..].iter().any(|(_, known)| *known == value);
            assert!(
                allowed,
                "r/{topic} is {value:?}, and {:?} was confirmed: {history:?}",
                history[sure]
            );
            *history = vec![(self.clock, value)];
        }
    }

    fn note_totals(&mut self) {
        let counters = self.world.counters();
        self.totals[0] += self.world.disk().reads_failed();
        self.totals[1] += counters.bodies_evicted;
        self.totals[2] += counters.bodies_loaded;
    }

    fn finish(mut self) -> [u64; 3] {
        self.check_settled();
        for s in std::mem::take(&mut self.subscribers) {
            self.world.drop_client(s.client);
        }
        self.world.drop_client(self.publisher);
        self.world.advance(ms(300));
        self.world.catch_up();
        self.world.assert_idle();
        self.note_totals();
        self.totals
    }
}

#[test]
fn subscribers_get_each_retained_message_once_and_no_outdated_one() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = match number("GATEPOST_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("GATEPOST_SIM_RUNS").unwrap_or(40),
    };
    let runs = seeds.end - seeds.start;
    let mut totals = [0; 3];
    for seed in seeds {
        let run = AssertUnwindSafe(|| {
            let mut run = Run::new(seed);
            for _ in 0..1_200 {
                run.step();
            }
            run.finish()
        });
        match catch_unwind(run) {
            Ok(counts) => totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count),
            Err(panic) => {
                eprintln!("this was GATEPOST_SIM_SEED={seed}");
                resume_unwind(panic);
            }
        }
    }
    let [failed, left, came_back] = totals;
    assert!(failed > 0 || runs < 20, "no read has failed");
    assert!(
        (left > 0 && came_back > 0) || runs < 20,
        "{left} left memory, {came_back} came back"
    );
}
