//! The model of MQTT sessions: one publisher and two subscribers, all with sessions that survive disconnects and
//! crashes.

use super::{Deed as AnyDeed, Stage};
use crate::support::*;
use gatepost_core::command::Command;
use gatepost_core::event::{CloseReason, DeliveryFlags, Event};
use gatepost_core::testing::world::Client;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Clone, Debug)]
pub(crate) enum Deed {
    /// A publish that the engine will confirm.
    Publish(usize),
}

#[derive(Debug)]
struct Sent {
    qos: u8,
    confirmed: bool,
    /// It was repeated after a reconnect, so its order and, at QoS 1, the number of its copies are open.
    again: bool,
    /// Its packet id (QoS 2), until that is released.
    packet_id: Option<u16>,
    /// The copies that each subscriber has counted.
    copies: [u32; 2],
}

struct Subscriber {
    name: &'static str,
    qos: u8,
    client: Option<Client>,
    opened: bool,
    /// QoS 2 ids received, whose release has not arrived.
    incoming: BTreeSet<u16>,
    /// Packet ids to answer, with PUBACK or PUBREC.
    owes: VecDeque<(u16, bool)>,
    /// The highest message received for the first time, by QoS.
    heard: [Option<usize>; 3],
}

pub(super) struct Sessions {
    sent: Vec<Sent>,
    publisher: Option<Client>,
    /// The publisher's session is open.
    opened: bool,
    /// Publishes in the order of their numbers on this connection.
    numbered: Vec<usize>,
    confirmed_upto: usize,
    /// Unfinished, in order: messages without their confirm, and packet ids without their release.
    unfinished: BTreeSet<usize>,
    released: BTreeMap<u16, usize>,
    next_packet_id: u16,
    subscribers: [Subscriber; 2],
    /// Connections that will end because the same client has another one.
    leaving: Vec<Client>,
    finishing: bool,
}

impl Sessions {
    pub(super) fn new(stage: &mut Stage) -> Sessions {
        let subscriber = |name, qos| Subscriber {
            name,
            qos,
            client: None,
            opened: false,
            incoming: BTreeSet::new(),
            owes: VecDeque::new(),
            heard: [None; 3],
        };
        let mut sessions = Sessions {
            sent: Vec::new(),
            publisher: None,
            opened: true,
            numbered: Vec::new(),
            confirmed_upto: 0,
            unfinished: BTreeSet::new(),
            released: BTreeMap::new(),
            next_packet_id: 0,
            subscribers: [subscriber("a", 2), subscriber("b", 1)],
            leaving: Vec::new(),
            finishing: false,
        };
        for s in &mut sessions.subscribers {
            let c = stage.world.connect("mqtt");
            let heard = run(
                &mut stage.world,
                c,
                [kept(s.name), subscribe(vec![filter("m/#", s.qos)])],
            );
            assert_eq!(heard, ["open new".to_owned(), format!("suback 1 [Ok({})]", s.qos)]);
            s.client = Some(c);
            s.opened = true;
        }
        let p = stage.world.connect("mqtt");
        run(&mut stage.world, p, [kept("p")]);
        sessions.publisher = Some(p);
        sessions
    }

    pub(super) fn clients(&self) -> impl Iterator<Item = Client> {
        let present = self.subscribers.iter().filter_map(|s| s.client).chain(self.publisher);
        present.chain(self.leaving.iter().copied())
    }

    pub(super) fn act(&mut self, stage: &mut Stage) {
        match stage.below(12) {
            0..=4 => {
                if let Some(p) = self.publisher {
                    for _ in 0..=stage.below(6) {
                        self.publish(stage, p);
                    }
                }
            }
            5 | 6 => {
                let n = stage.below(2);
                if let Some(c) = self.subscribers[n].client {
                    self.pay(stage, n, c);
                }
            }
            7 => {
                // A connection ends.
                let who = stage.below(3);
                let opened = self.subscribers.get(who).map_or(self.opened, |s| s.opened);
                let client = match self.subscribers.get_mut(who) {
                    Some(s) => s.client.take(),
                    None => self.publisher.take(),
                };
                if let Some(c) = client {
                    if opened && stage.chance(30) {
                        // Its client reconnects before that is noticed. What it has sent is still on its way.
                        self.leaving.push(c);
                        self.reconnect(stage);
                        return;
                    }
                    // What it has not sent yet is never sent.
                    stage.world.drop_client(c);
                    stage.said.remove(&c);
                }
            }
            8 | 9 => self.reconnect(stage),
            // Retained messages come in the same take that looks for them: at QoS 0, no later command of the subscriber
            // makes the engine look again.
            10 => {
                if let Some(p) = self.publisher {
                    stage.say(p, retained(stage.clock), AnyDeed::Nothing);
                }
            }
            _ => {
                let n = stage.below(2);
                if let Some(c) = self.subscribers[n].client {
                    stage.say(c, subscribe(vec![filter("retained/#", 0)]), AnyDeed::Nothing);
                }
            }
        }
    }

    fn publish(&mut self, stage: &mut Stage, p: Client) {
        let qos = stage.below(3) as u8;
        let id = self.sent.len();
        let mut packet_id = None;
        if qos == 2 {
            self.next_packet_id = self.next_packet_id % 500 + 1;
            if self.released.contains_key(&self.next_packet_id) {
                return;
            }
            packet_id = Some(self.next_packet_id);
            self.released.insert(self.next_packet_id, id);
        }
        self.sent.push(Sent {
            qos,
            confirmed: false,
            again: false,
            packet_id,
            copies: [0; 2],
        });
        if qos > 0 {
            self.unfinished.insert(id);
        }
        let size = [10, 300, 5_000][stage.below(3)];
        self.say_publish(stage, p, id, size);
    }

    fn say_publish(&mut self, stage: &mut Stage, p: Client, id: usize, size: usize) {
        let s = &self.sent[id];
        let body = padded(&id.to_string(), size);
        let command = mqtt(&format!("m/{}", id % 3), &body, s.qos, s.packet_id.unwrap_or(0));
        let deed = if s.qos > 0 {
            AnyDeed::Session(Deed::Publish(id))
        } else {
            AnyDeed::Nothing
        };
        stage.say(p, command, deed);
    }

    pub(super) fn done(&mut self, client: Client, deed: Deed) {
        let Deed::Publish(id) = deed;
        if self.publisher == Some(client) {
            self.numbered.push(id);
        }
    }

    pub(super) fn gone(&mut self, client: Client) {
        self.leaving.retain(|c| *c != client);
        if self.publisher == Some(client) {
            self.publisher = None;
        }
        for s in &mut self.subscribers {
            if s.client == Some(client) {
                s.client = None;
            }
        }
    }

    /// All absent clients reconnect.
    fn reconnect(&mut self, stage: &mut Stage) {
        for s in self.subscribers.iter_mut().filter(|s| s.client.is_none()) {
            let c = stage.world.connect("mqtt");
            stage.say(c, kept(s.name), AnyDeed::Nothing);
            s.client = Some(c);
            s.opened = false;
            s.owes.clear();
        }
        if self.publisher.is_some() {
            return;
        }
        let p = stage.world.connect("mqtt");
        self.publisher = Some(p);
        self.opened = false;
        self.numbered.clear();
        self.confirmed_upto = 0;
        stage.say(p, kept("p"), AnyDeed::Nothing);
        // MQTT 5 4.4: unacknowledged messages are sent again, in order.
        for id in self.unfinished.clone() {
            match (self.sent[id].confirmed, self.sent[id].packet_id) {
                (false, _) => {
                    self.sent[id].again = true;
                    self.say_publish(stage, p, id, 10);
                }
                (true, Some(packet_id)) => stage.say(p, pubrel(packet_id), AnyDeed::Nothing),
                (true, None) => {}
            }
        }
    }

    pub(super) fn hear(&mut self, stage: &mut Stage, client: Client, event: &Event) {
        if self.leaving.contains(&client) {
            if let Event::Closed(why) = event {
                assert_eq!(*why, CloseReason::TakenOver);
                stage.say(client, Command::Detach, AnyDeed::Detach);
            }
        } else if self.publisher == Some(client) {
            self.publisher_hears(stage, client, event);
        } else if let Some(n) = self.subscribers.iter().position(|s| s.client == Some(client)) {
            self.subscriber_hears(stage, n, client, event);
        }
    }

    fn publisher_hears(&mut self, stage: &mut Stage, p: Client, event: &Event) {
        match event {
            Event::SessionOpened { present } => {
                assert!(*present, "the publisher's session is kept");
                self.opened = true;
            }
            Event::Confirmed { upto, .. } => {
                while self.confirmed_upto < *upto as usize {
                    let id = self.numbered[self.confirmed_upto];
                    self.confirmed_upto += 1;
                    let s = &mut self.sent[id];
                    s.confirmed = true;
                    match s.packet_id {
                        Some(packet_id) => stage.say(p, pubrel(packet_id), AnyDeed::Nothing),
                        None => _ = self.unfinished.remove(&id),
                    }
                }
            }
            Event::Released { packet_id, .. } => {
                if let Some(id) = self.released.remove(packet_id) {
                    self.unfinished.remove(&id);
                    self.sent[id].packet_id = None;
                }
            }
            _ => {}
        }
    }

    fn subscriber_hears(&mut self, stage: &mut Stage, n: usize, client: Client, event: &Event) {
        let s = &mut self.subscribers[n];
        match event {
            Event::SessionOpened { present } => {
                assert!(*present, "the subscriber's session is kept");
                assert!(!std::mem::replace(&mut s.opened, true), "it is opened once");
            }
            Event::Deliver(d) if d.message.key().starts_with("retained/") => {
                assert!(s.opened, "nothing comes before the session is open");
                assert_eq!(d.qos, 0);
            }
            Event::Deliver(d) => {
                assert!(s.opened, "nothing comes before the session is open");
                let body = String::from_utf8_lossy(d.message.body()).into_owned();
                let id: usize = body
                    .split('.')
                    .next()
                    .and_then(|id| id.parse().ok())
                    .unwrap_or(usize::MAX);
                let sent = &mut self.sent[id];
                assert_eq!(d.qos, sent.qos.min(s.qos));
                let packet_id = d.number as u16;
                let known = d.qos == 2 && !s.incoming.insert(packet_id);
                if known {
                    assert!(
                        d.flags.contains(DeliveryFlags::REDELIVERED),
                        "packet id {packet_id} is in use"
                    );
                } else {
                    sent.copies[n] += 1;
                    if sent.copies[n] == 1 && !sent.again {
                        let heard = &mut s.heard[usize::from(sent.qos)];
                        assert!(*heard < Some(id), "message {id} after {heard:?} at QoS {}", sent.qos);
                        *heard = Some(id);
                    }
                }
                if d.qos > 0 {
                    s.owes.push_back((packet_id, d.qos == 2));
                    if stage.chance(60) || self.finishing {
                        self.pay(stage, n, client);
                    }
                }
            }
            Event::ReleaseDue { packet_id, known } => {
                assert!(known);
                s.incoming.remove(packet_id);
                stage.say(client, puback(*packet_id), AnyDeed::Nothing);
            }
            _ => {}
        }
    }

    /// A subscriber answers its oldest unanswered delivery.
    fn pay(&mut self, stage: &mut Stage, n: usize, client: Client) {
        if let Some((packet_id, received)) = self.subscribers[n].owes.pop_front() {
            let command = if received { pubrec(packet_id) } else { puback(packet_id) };
            stage.say(client, command, AnyDeed::Nothing);
        }
    }

    pub(super) fn crashed(&mut self, stage: &mut Stage) {
        self.publisher = None;
        self.leaving.clear();
        for s in &mut self.subscribers {
            s.client = None;
        }
        // A power cut may keep a later message and lose an earlier one, if neither was confirmed.
        for id in &self.unfinished {
            if !self.sent[*id].confirmed {
                self.sent[*id].again = true;
            }
        }
        if stage.chance(70) {
            self.reconnect(stage);
        }
    }

    pub(super) fn finish(&mut self, stage: &mut Stage) {
        self.finishing = true;
        self.reconnect(stage);
    }

    /// Sends the answers that are owed. Returns whether there were none.
    pub(super) fn keep_going(&mut self, stage: &mut Stage) -> bool {
        let mut done = true;
        for n in 0..2 {
            let Some(c) = self.subscribers[n].client else { continue };
            while !self.subscribers[n].owes.is_empty() {
                done = false;
                self.pay(stage, n, c);
            }
        }
        done
    }

    pub(super) fn close(&self) {
        assert!(
            self.unfinished.is_empty(),
            "unfinished publishes: {:?}",
            self.unfinished
        );
        for (id, sent) in self.sent.iter().enumerate() {
            for (s, copies) in self.subscribers.iter().zip(sent.copies) {
                let exact = sent.qos.min(s.qos) == 2;
                match sent.qos {
                    0 => assert!(copies <= 1, "message {id} at QoS 0 came {copies} times"),
                    _ if exact => assert_eq!(copies, 1, "message {id} at QoS 2 for '{}': {sent:?}", s.name),
                    _ => assert!(copies >= 1, "message {id} for '{}' is lost: {sent:?}", s.name),
                }
            }
        }
        for s in &self.subscribers {
            assert!(s.incoming.is_empty(), "ids never released: {:?}", s.incoming);
        }
    }
}

/// A retained publish at QoS 0, to one of a few topics outside the book.
fn retained(n: u64) -> Command {
    let message = topic_message(&format!("retained/{}", n % 4), "m", |e| {
        e.retain = true;
        e.qos = 0;
        e.durable = false;
    });
    mqtt_message(message, 0)
}
