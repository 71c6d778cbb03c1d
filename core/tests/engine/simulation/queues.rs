//! The model of queues: where each message is, as far as clients can know.

use super::{Deed as AnyDeed, Stage};
use crate::support::*;
use gatepost_core::command::{Outcome, PublishFlags};
use gatepost_core::event::{Delivery, DeliveryFlags, Event};
use gatepost_core::properties::Value;
use gatepost_core::testing::disk::Crash;
use gatepost_core::testing::world::{Client, ROOM};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const NAMES: [&str; 6] = ["solo", "solo-transient", "many", "many-transient", "left", "right"];
const SOLO: usize = 0;
const SOLO_TRANSIENT: usize = 1;
const MANY: usize = 2;
const MANY_TRANSIENT: usize = 3;
/// Transactions put one message into each of these two. Nobody consumes them.
const LEFT: usize = 4;
const RIGHT: usize = 5;

fn survives(queue: usize) -> bool {
    queue != SOLO_TRANSIENT && queue != MANY_TRANSIENT
}

/// What a command changes in the model when the engine has applied it.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    Publish(usize),
    Transaction(usize, usize),
    Settle {
        number: u64,
        multiple: bool,
        outcome: Outcome,
    },
    CloseChannel,
    Purge(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The engine does not have it yet, or never will.
    Unsaid,
    Ready,
    Held(Client, u64),
    /// At that time.
    Settled(u64),
}

#[derive(Debug)]
struct Entry {
    queue: usize,
    durable: bool,
    /// Its place in the queue: the order of publishing.
    order: u64,
    place: Place,
    confirmed: bool,
    /// It need not exist: it was purged while it may have been reserved, or not confirmed when the machine stopped.
    optional: bool,
    /// When and in which life it was last delivered.
    delivered: Option<(u64, u32)>,
    /// Life it was published in.
    born: u32,
    /// The other message of its transaction.
    twin: Option<usize>,
}

struct Peer {
    client: Client,
    /// Publishes with confirms, in the order of their numbers.
    numbered: Vec<usize>,
    /// Transactions without an answer.
    transactions: VecDeque<[usize; 2]>,
    /// Deliveries by number, as the engine has them.
    held: BTreeMap<u64, usize>,
    /// Deliveries that the client has not decided about.
    owes: BTreeSet<u64>,
    /// Consumers by token: their queues.
    consumers: BTreeMap<u32, usize>,
    /// It has sent that its channel or connection ends.
    leaving: bool,
    tokens: u32,
}

pub(super) struct Queues {
    entries: Vec<Entry>,
    /// Only the first client consumes the solo queues.
    peers: Vec<Peer>,
    published: u64,
    /// By solo queue: the last message delivered for the first time in this life.
    fresh: [Option<u64>; 2],
}

impl Peer {
    fn new(stage: &mut Stage) -> Peer {
        Peer {
            client: stage.world.connect("test"),
            numbered: Vec::new(),
            transactions: VecDeque::new(),
            held: BTreeMap::new(),
            owes: BTreeSet::new(),
            consumers: BTreeMap::new(),
            leaving: false,
            tokens: 0,
        }
    }
}

impl Queues {
    pub(super) fn new(stage: &mut Stage) -> Queues {
        let peers = (0..4).map(|_| Peer::new(stage)).collect::<Vec<_>>();
        for (n, name) in NAMES.iter().enumerate() {
            let command = match n {
                // Their confirms wait for a later sync, with the same guarantee.
                MANY | RIGHT => declare(name, |d| {
                    d.arguments.push("x-gatepost-durability", Value::text("interval"))
                }),
                _ if survives(n) => durable(name),
                _ => transient(name),
            };
            run(&mut stage.world, peers[0].client, [command]);
        }
        Queues {
            entries: Vec::new(),
            peers,
            published: 0,
            fresh: [None; 2],
        }
    }

    pub(super) fn clients(&self) -> impl Iterator<Item = Client> {
        self.peers.iter().map(|p| p.client)
    }

    /// One client does something.
    pub(super) fn act(&mut self, stage: &mut Stage) {
        let who = stage.below(self.peers.len());
        if self.peers[who].leaving {
            return;
        }
        let client = self.peers[who].client;
        match stage.below(20) {
            0..=8 => {
                for _ in 0..=stage.below(12) {
                    let queue = stage.below(4);
                    let durable = stage.chance(80);
                    let id = self.entry(stage, queue, durable);
                    let size = [10, 10, 400, 3_000, 20_000][stage.below(5)];
                    let m = message("", NAMES[queue], &padded(&id.to_string(), size), durable);
                    let deed = AnyDeed::Queue(Deed::Publish(id));
                    stage.say(client, publish(PublishFlags::CONFIRM, m), deed);
                }
            }
            9 => {
                let (left, right) = (self.entry(stage, LEFT, true), self.entry(stage, RIGHT, true));
                self.entries[left].twin = Some(right);
                self.entries[right].twin = Some(left);
                let of = |id: usize, queue: usize| {
                    publish(
                        PublishFlags::default(),
                        message("", NAMES[queue], &id.to_string(), true),
                    )
                };
                let command = transaction(vec![of(left, LEFT), of(right, RIGHT)]);
                stage.say(client, command, AnyDeed::Queue(Deed::Transaction(left, right)));
            }
            10..=12 => {
                let queue = if who == 0 {
                    stage.below(2)
                } else {
                    MANY + stage.below(2)
                };
                let p = &mut self.peers[who];
                if p.consumers.len() < 3 && (who > 0 || p.consumers.values().all(|q| *q != queue)) {
                    p.tokens += 1;
                    let token = p.tokens;
                    let no_ack = stage.chance(15);
                    self.peers[who].consumers.insert(token, queue);
                    let prefetch = stage.below(8) as u32;
                    let command = consume_with(NAMES[queue], token, |c| {
                        c.no_ack = no_ack;
                        c.prefetch = Some(prefetch);
                    });
                    stage.say(client, command, AnyDeed::Nothing);
                }
            }
            13 => {
                if let Some((&token, _)) = self.peers[who].consumers.first_key_value() {
                    self.peers[who].consumers.remove(&token);
                    stage.say(client, cancel(token), AnyDeed::Nothing);
                }
            }
            14 if who > 0 => stage.say(client, get(NAMES[MANY + stage.clock as usize % 2]), AnyDeed::Nothing),
            15 => stage.say(client, prefetch(stage.clock as u32 % 7, true), AnyDeed::Nothing),
            16 | 17 => {
                let owes: Vec<u64> = self.peers[who].owes.iter().copied().collect();
                if !owes.is_empty() {
                    let number = owes[stage.below(owes.len())];
                    self.decide(stage, who, number);
                }
            }
            18 if stage.chance(30) => {
                let leaves = stage.chance(50);
                self.peers[who].leaving = true;
                if leaves {
                    stage.say(client, gatepost_core::command::Command::Detach, AnyDeed::Detach);
                } else {
                    stage.say(client, close_channel(), AnyDeed::Queue(Deed::CloseChannel));
                }
            }
            19 if stage.chance(15) => {
                let queue = stage.below(4);
                stage.say(client, purge(NAMES[queue]), AnyDeed::Queue(Deed::Purge(queue)));
            }
            _ => {}
        }
    }

    fn entry(&mut self, stage: &Stage, queue: usize, durable: bool) -> usize {
        self.entries.push(Entry {
            queue,
            durable,
            order: 0,
            place: Place::Unsaid,
            confirmed: false,
            optional: false,
            delivered: None,
            born: stage.life,
            twin: None,
        });
        self.entries.len() - 1
    }

    /// The client decides about a delivery.
    fn decide(&mut self, stage: &mut Stage, who: usize, number: u64) {
        let p = &mut self.peers[who];
        let multiple = stage.chance(15);
        let outcome = match stage.below(10) {
            0..=6 => Outcome::Accept,
            7 | 8 => Outcome::Requeue,
            _ => Outcome::Reject,
        };
        if multiple {
            p.owes.retain(|n| *n > number);
        } else {
            p.owes.remove(&number);
        }
        let deed = Deed::Settle {
            number,
            multiple,
            outcome,
        };
        stage.say(p.client, settle(number, multiple, outcome), AnyDeed::Queue(deed));
    }

    pub(super) fn done(&mut self, stage: &Stage, client: Client, deed: Deed) {
        let Some(who) = self.peers.iter().position(|p| p.client == client) else {
            return;
        };
        match deed {
            Deed::Publish(id) => {
                self.peers[who].numbered.push(id);
                self.said(id);
            }
            Deed::Transaction(left, right) => {
                self.peers[who].transactions.push_back([left, right]);
                self.said(left);
                self.said(right);
            }
            Deed::Settle {
                number,
                multiple,
                outcome,
            } => {
                let held = &mut self.peers[who].held;
                let settled: Vec<usize> = if multiple {
                    let later = held.split_off(&(number + 1));
                    std::mem::replace(held, later).into_values().collect()
                } else {
                    held.remove(&number).into_iter().collect()
                };
                assert!(
                    !settled.is_empty(),
                    "peer {who} settles {number} ({multiple}) but holds {:?}",
                    self.peers[who].held
                );
                for id in settled {
                    self.entries[id].place = match outcome {
                        Outcome::Requeue => Place::Ready,
                        _ => Place::Settled(stage.clock),
                    };
                }
            }
            Deed::CloseChannel => {
                self.put_back(who);
                let p = &mut self.peers[who];
                p.numbered.clear();
                p.transactions.clear();
                p.leaving = false;
            }
            Deed::Purge(queue) => {
                // Reservations of a client that has not taken them stay.
                for e in self
                    .entries
                    .iter_mut()
                    .filter(|e| e.queue == queue && e.place == Place::Ready)
                {
                    e.optional = true;
                }
            }
        }
    }

    fn said(&mut self, id: usize) {
        self.published += 1;
        self.entries[id].order = self.published;
        self.entries[id].place = Place::Ready;
    }

    fn put_back(&mut self, who: usize) {
        let p = &mut self.peers[who];
        for id in std::mem::take(&mut p.held).into_values() {
            self.entries[id].place = Place::Ready;
        }
        p.owes.clear();
        p.consumers.clear();
    }

    /// The connection ended; another one replaces it.
    pub(super) fn gone(&mut self, stage: &mut Stage, client: Client) {
        if let Some(who) = self.peers.iter().position(|p| p.client == client) {
            self.put_back(who);
            self.peers[who] = Peer::new(stage);
        }
    }

    /// Returns whether the client is one of these.
    pub(super) fn hear(&mut self, stage: &mut Stage, client: Client, event: &Event) -> bool {
        let Some(who) = self.peers.iter().position(|p| p.client == client) else {
            return false;
        };
        match event {
            Event::Confirmed { upto, .. } => {
                for id in &self.peers[who].numbered[..*upto as usize] {
                    self.entries[*id].confirmed = true;
                }
            }
            Event::Done {
                op: gatepost_core::event::Op::Commit,
                ..
            } => {
                for id in self.peers[who].transactions.pop_front().into_iter().flatten() {
                    self.entries[id].confirmed = true;
                }
            }
            Event::Deliver(d) => {
                // A delivery that needs no settle has QoS 0.
                self.delivered(stage, who, d, d.qos > 0);
            }
            Event::Got { delivery, .. } => self.delivered(stage, who, delivery, true),
            Event::Refused { .. } | Event::Returned { .. } => panic!("nothing is refused or unroutable here"),
            _ => {}
        }
        true
    }

    fn delivered(&mut self, stage: &mut Stage, who: usize, d: &Delivery, settles: bool) {
        let id = id_of(d);
        let e = &mut self.entries[id];
        assert_eq!(e.place, Place::Ready, "message {id} is delivered: {e:?}");
        check_flag(stage, id, e, d);
        let first = e.delivered.is_none_or(|(_, life)| life < stage.life);
        if first && let Some(fresh) = self.fresh.get_mut(e.queue) {
            assert!(
                *fresh < Some(e.order),
                "message {id} out of order: {e:?} after {fresh:?}"
            );
            *fresh = Some(e.order);
        }
        e.delivered = Some((stage.clock, stage.life));
        let p = &mut self.peers[who];
        if !settles {
            e.place = Place::Settled(stage.clock);
            return;
        }
        e.place = Place::Held(p.client, d.number);
        p.held.insert(d.number, id);
        if !p.leaving {
            p.owes.insert(d.number);
            if stage.chance(70) {
                self.decide(stage, who, d.number);
            }
        }
    }

    pub(super) fn crashed(&mut self, stage: &mut Stage, how: Crash, safe: u64) {
        for e in &mut self.entries {
            let gone = !(e.durable && survives(e.queue));
            match e.place {
                Place::Unsaid => e.optional = true,
                Place::Settled(at) if gone || at < safe => {}
                // Its settle may not have been written.
                Place::Settled(_) => (e.place, e.optional) = (Place::Ready, true),
                Place::Ready | Place::Held(..) if gone => e.place = Place::Settled(0),
                Place::Ready | Place::Held(..) => {
                    e.place = Place::Ready;
                    e.optional |= !e.confirmed;
                }
            }
            // Messages handed out are known by the mark, if that is on the medium.
            if how == Crash::Power && e.delivered.is_some_and(|(at, _)| at >= safe) {
                e.delivered = None;
            }
        }
        self.fresh = [None; 2];
        for p in &mut self.peers {
            *p = Peer::new(stage);
        }
        for name in [SOLO_TRANSIENT, MANY_TRANSIENT] {
            run(&mut stage.world, self.peers[0].client, [transient(NAMES[name])]);
        }
        for name in [SOLO, MANY, LEFT, RIGHT] {
            let heard = run(
                &mut stage.world,
                self.peers[0].client,
                [declare(NAMES[name], |d| d.passive = true)],
            );
            assert!(
                heard[0].starts_with("declared"),
                "an answered declaration is there: {heard:?}"
            );
        }
    }

    /// All clients leave, and one looks at what is there.
    pub(super) fn close(&mut self, stage: &mut Stage) {
        for who in 0..self.peers.len() {
            stage.world.drop_client(self.peers[who].client);
            self.put_back(who);
        }
        let c = stage.world.connect("test");
        let mut twins = BTreeSet::new();
        for (queue, name) in NAMES.iter().enumerate() {
            stage.world.send(c, vec![consume_no_ack(name, queue as u32 + 1)]);
            let mut last = 0;
            loop {
                stage.world.catch_up();
                for event in stage.world.take(c, ROOM) {
                    let Event::Deliver(d) = event else { continue };
                    let id = id_of(&d);
                    let e = &mut self.entries[id];
                    assert_eq!(
                        (e.queue, e.place),
                        (queue, Place::Ready),
                        "message {id} is there: {e:?}"
                    );
                    assert!(
                        e.order > last || e.order == 0,
                        "message {id} out of order: {e:?} after {last}"
                    );
                    check_flag(stage, id, e, &d);
                    last = e.order;
                    e.place = Place::Settled(stage.clock);
                    if e.twin.is_some() {
                        twins.insert(id);
                    }
                }
                if stage.world.is_caught_up() && !stage.world.is_due(c) {
                    break;
                }
            }
        }
        for (id, e) in self.entries.iter().enumerate() {
            let missing = e.place == Place::Ready && !e.optional;
            assert!(!missing, "message {id} is lost: {e:?}");
        }
        for id in &twins {
            let twin = self.entries[*id].twin.unwrap_or(*id);
            assert!(twins.contains(&twin), "half a transaction: {id} without {twin}");
        }
        stage.world.drop_client(c);
    }
}

fn id_of(d: &Delivery) -> usize {
    let body = String::from_utf8_lossy(d.message.body());
    body.split('.')
        .next()
        .and_then(|id| id.parse().ok())
        .unwrap_or(usize::MAX)
}

fn check_flag(stage: &Stage, id: usize, e: &Entry, d: &Delivery) {
    let again = d.flags.contains(DeliveryFlags::REDELIVERED);
    if e.delivered.is_some() {
        assert!(again, "message {id} was handed out before and does not say so: {e:?}");
    } else if again {
        // Marks are ahead, so this is permitted after a crash.
        assert!(
            e.born < stage.life,
            "message {id} was never handed out and says so: {e:?}"
        );
    }
}
