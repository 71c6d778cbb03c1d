//! Wills under random histories: clients connect, take over, disconnect in order or not, and the machine loses power. A
//! model knows which wills must be published by now, and a subscriber must get exactly those. Reads and opens fail now
//! and then.
//!
//! `GATEPOST_SIM_RUNS=1000` runs more seeds, `GATEPOST_SIM_SEED=17` one of them.

use crate::support::*;
use gatepost_core::command::{Command, Will};
use gatepost_core::store::StoreSettings;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{Client, Settings, World};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A session as its client knows it.
#[derive(Debug, Default)]
struct Session {
    client: Option<Client>,
    /// Seconds.
    expiry: u64,
    /// Whether it was ever opened to outlive its connection, so that it is logged.
    kept: bool,
    /// Number and delay of the will of the present connection.
    will: Option<(usize, u64)>,
    /// The will that waits for its delay, and when that ends.
    pending: Option<(usize, u64)>,
    ends_at: Option<u64>,
}

struct Book {
    world: World,
    watcher: Client,
    sessions: BTreeMap<u64, Session>,
    wills: usize,
    /// Wills that must have been received by now.
    fired: BTreeSet<usize>,
    heard: BTreeSet<usize>,
    /// Seconds.
    now: u64,
}

impl Book {
    fn new(seed: u64) -> Book {
        let settings = Settings {
            hold_units_max: [1024, 1, 5, 40][seed as usize % 4],
            cache_bytes_max: [64 << 10, 100, 1 << 10][seed as usize % 3],
            ..Settings::default()
        };
        let store = StoreSettings {
            segment_bytes: 16 << 10,
            checkpoint_every: ms(300),
            compact_live_percent_max: 50,
            compact_age_min: 1,
            ..StoreSettings::default()
        };
        let mut world = World::with(seed, settings, store);
        let watcher = world.connect("mqtt");
        run(
            &mut world,
            watcher,
            [kept("watcher"), subscribe(vec![filter("w/#", 1)])],
        );
        Book {
            world,
            watcher,
            sessions: BTreeMap::new(),
            wills: 0,
            fired: BTreeSet::new(),
            heard: BTreeSet::new(),
            now: 0,
        }
    }

    fn pick(&mut self, from: &[u64]) -> u64 {
        from[self.world.random().below(from.len() as u64) as usize]
    }

    /// The connection of a session ends without DISCONNECT. `ends`: the session ends with it.
    fn lose(&mut self, id: u64, ends: bool) {
        let Some(s) = self.sessions.get_mut(&id) else { return };
        s.client = None;
        let ends = ends || s.expiry == 0;
        match s.will.take() {
            Some((will, delay)) if ends || delay == 0 => _ = self.fired.insert(will),
            Some((will, delay)) => s.pending = Some((will, self.now + delay.min(s.expiry))),
            None => {}
        }
        s.ends_at = Some(self.now + s.expiry);
        if ends {
            self.end(id);
        }
    }

    fn end(&mut self, id: u64) {
        if let Some(Session {
            pending: Some((will, _)),
            ..
        }) = self.sessions.remove(&id)
        {
            self.fired.insert(will);
        }
    }

    fn connect(&mut self, id: u64) {
        let clean = self.world.random().chance(25, 100);
        let expiry = self.pick(&[0, 0, 2, 5, 20]);
        let will = self.world.random().chance(80, 100).then_some(self.wills);
        let delay = self.pick(&[0, 1, 3, 10]);
        self.wills += 1;
        let old = self.sessions.get(&id).and_then(|s| s.client);
        // It may have sent a DISCONNECT, or changed the session's expiry, which was not processed yet.
        let said = old.map_or_else(Vec::new, |_| self.last_words(id));
        // MQTT 5 3.1.3.2.2: the old connection's will is published unless the client reconnects in time and the session
        // continues.
        if let Some(s) = self.sessions.get(&id) {
            let delayed = s.will.is_some_and(|(_, delay)| delay > 0);
            let goes_on = !clean && s.expiry > 0;
            if s.client.is_some() && goes_on && delayed {
                self.sessions.get_mut(&id).expect("it is there").will = None;
            }
            if s_is_connected(&self.sessions, id) {
                self.lose(id, clean);
            }
            if clean {
                self.end(id);
            } else if let Some(s) = self.sessions.get_mut(&id) {
                s.pending = None;
            }
        }
        let c = self.world.connect("mqtt");
        self.world.send(
            c,
            vec![session(&format!("c{id}"), |s| {
                s.clean_start = clean;
                s.expiry = Some(expiry as u32);
                s.will = will.map(|n| Will {
                    message: topic_message("w/x", &n.to_string(), |e| {
                        e.qos = 1;
                        e.durable = true;
                    }),
                    delay: Duration::from_secs(delay),
                    expiry: None,
                });
            })],
        );
        if let Some(old) = old {
            assert_eq!(hear(&mut self.world, old), ["closed TakenOver"]);
            assert!(
                hear(&mut self.world, c).is_empty(),
                "the old connection has the session"
            );
            self.world.send(old, said);
            self.world.drop_client(old);
        }
        let heard = hear(&mut self.world, c);
        let present = self.sessions.contains_key(&id);
        assert_eq!(
            heard,
            [if present { "open present" } else { "open new" }],
            "client {id}"
        );
        let s = self.sessions.entry(id).or_default();
        s.client = Some(c);
        s.expiry = expiry;
        s.kept |= expiry > 0;
        s.will = will.map(|n| (n, delay));
        s.ends_at = None;
    }

    /// DISCONNECT, with or without the will, perhaps with another expiry.
    fn goodbye(&mut self, id: u64) {
        let Some(client) = self.sessions.get(&id).and_then(|s| s.client) else {
            return;
        };
        let commands = self.last_words(id);
        self.world.send(client, commands);
        self.world.drop_client(client);
        self.lose(id, false);
    }

    /// The content of a DISCONNECT, or of none.
    fn last_words(&mut self, id: u64) -> Vec<Command> {
        let expiry = self.sessions.get(&id).map_or(0, |s| s.expiry);
        let mut commands = Vec::new();
        let changed = self.pick(&[0, 3, expiry, expiry]);
        if expiry > 0 && changed != expiry {
            commands.push(Command::SessionExpiry(Some(changed as u32)));
            self.sessions.get_mut(&id).expect("it is there").expiry = changed;
        }
        if self.world.random().chance(50, 100) {
            commands.push(Command::DropWill);
            self.sessions.get_mut(&id).expect("it is there").will = None;
        }
        commands
    }

    fn cut(&mut self, id: u64) {
        if let Some(client) = self.sessions.get(&id).and_then(|s| s.client) {
            self.world.drop_client(client);
            self.lose(id, false);
        }
    }

    fn wait(&mut self) {
        let seconds = self.pick(&[1, 1, 2, 4]);
        self.world.advance(Duration::from_secs(seconds));
        self.now += seconds;
        self.pass();
    }

    /// Updates the model for the time that has passed.
    fn pass(&mut self) {
        for id in self.sessions.keys().copied().collect::<Vec<_>>() {
            let s = self.sessions.get_mut(&id).expect("it is there");
            if let Some((will, _)) = s.pending.take_if(|(_, due)| *due <= self.now) {
                self.fired.insert(will);
            }
            if s.ends_at.is_some_and(|at| at <= self.now) {
                self.end(id);
            }
        }
    }

    fn crash(&mut self) {
        self.hear();
        // Nobody waits for the record of a lost connection: without it, the times of the session and of the will start
        // again. An answer that waits for the log comes after it.
        let c = self.world.connect("mqtt");
        run(&mut self.world, c, [kept("sync")]);
        self.world.crash(Crash::Power);
        // Sessions that end with their connections are only logged for their wills. The connections count as lost now.
        self.sessions.retain(|_, s| s.kept || s.will.is_some());
        for id in self.sessions.keys().copied().collect::<Vec<_>>() {
            if s_is_connected(&self.sessions, id) {
                self.lose(id, false);
            }
        }
        self.watcher = self.world.connect("mqtt");
        self.world.send(self.watcher, vec![kept("watcher")]);
        // A timer that is due after a start fires with the first tick.
        self.world.advance(ms(1));
        self.pass();
    }

    fn hear(&mut self) {
        // A timer that is due at once fires with the next tick.
        self.world.advance(Duration::ZERO);
        self.world.catch_up();
        for line in hear(&mut self.world, self.watcher) {
            let Some(rest) = line.strip_prefix("publish q1 #") else {
                continue;
            };
            let mut words = rest.split(' ');
            let (id, will) = (words.next().expect("an id"), words.nth(1).expect("a body"));
            self.heard.insert(will.parse().expect("a will"));
            run(&mut self.world, self.watcher, [puback(id.parse().expect("an id"))]);
        }
    }

    fn check(&mut self, did: &str) {
        self.hear();
        let wrong: Vec<_> = self.heard.symmetric_difference(&self.fired).collect();
        assert!(
            wrong.is_empty(),
            "after {did} at {} s, of {wrong:?} {} was heard and {} should have been",
            self.now,
            self.heard.len(),
            self.fired.len()
        );
    }
}

fn s_is_connected(sessions: &BTreeMap<u64, Session>, id: u64) -> bool {
    sessions.get(&id).is_some_and(|s| s.client.is_some())
}

#[test]
fn every_will_is_published_once_its_session_or_its_delay_is_over_and_no_other() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = match number("GATEPOST_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("GATEPOST_SIM_RUNS").unwrap_or(20),
    };
    for seed in seeds {
        println!("GATEPOST_SIM_SEED={seed}");
        let mut book = Book::new(seed);
        for _ in 0..120 {
            if book.world.random().chance(1, 12) {
                let disk = book.world.disk().clone();
                disk.hinder(book.world.random());
            }
            let id = book.pick(&[1, 2, 3]);
            let did = match book.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]) {
                0..=4 => {
                    book.connect(id);
                    format!("connect {id}")
                }
                5 => {
                    book.goodbye(id);
                    format!("goodbye {id}")
                }
                6 | 7 => {
                    book.cut(id);
                    format!("cut {id}")
                }
                8 if book.pick(&[0, 1, 2]) == 0 => {
                    book.crash();
                    "a power cut".to_owned()
                }
                _ => {
                    book.wait();
                    "waiting".to_owned()
                }
            };
            book.check(&did);
        }
    }
}
