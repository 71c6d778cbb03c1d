//! Who talks to whom, as counted from the traffic: from clients to topics or exchanges, from there to queues, and from
//! queues to clients.
//!
//! The engine counts (`flow_counts.rs`), and the flow map reads the counts every few seconds ([`Engine::flow`]). A
//! reading takes away what was counted since the last one, in bounded holds. So nothing grows with time; the reader
//! keeps the totals.

use super::Engine;
use super::flow_counts::{Dead, Sent};
pub use super::flowed::{ConsumerId, Flowed, Party};
use super::link::LinkState;
use crate::binding::QueueSlot;
use crate::message::Message;
use crate::properties::Name;
use crate::router::{Hop, KnownRoute, RouteTally};
use crate::slots::{ConsumerKey, Link};
pub use crate::tally::{Source, Tally};
use std::sync::Arc;

/// The progress of a reading of the counts.
#[derive(Debug, Default)]
pub struct FlowCursor {
    stage: Stage,
    /// The index at which the stage continues.
    place: u32,
    /// The counts date from before counting was turned off, and are dropped.
    forgets: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Begin,
    Routes,
    Names,
    Rest,
    Links,
    Consumers,
    Done,
}

impl FlowCursor {
    /// Whether everything was read.
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// The next indices for a hold to read. Moves the cursor behind them, or to the `next` stage if they are the last.
    fn window(&mut self, count: usize, end: u32, next: Stage) -> std::ops::Range<u32> {
        let from = self.place.min(end);
        let to = from.saturating_add(u32::try_from(count).unwrap_or(u32::MAX)).min(end);
        if to < end {
            self.place = to;
        } else {
            self.go(next);
        }
        from..to
    }

    fn go(&mut self, next: Stage) {
        self.stage = next;
        self.place = 0;
    }
}

/// The most queues of a remembered route that are listed.
const QUEUES_MAX: usize = 64;

impl Engine {
    /// Turns counting for the flow map on or off. The next reading drops what was counted before.
    pub fn set_flow(&mut self, on: bool) {
        self.flow.turn(on);
    }

    /// Continues a reading: returns what about `budget` places and queues have counted since the last reading. Call it
    /// until [`FlowCursor::is_done`]; an empty list does not mean that. Topics and exchanges are listed before the
    /// clients that publish to them.
    pub fn flow(&mut self, look: &mut FlowCursor, budget: usize) -> Vec<Flowed> {
        let mut flowed = Vec::new();
        match look.stage {
            Stage::Begin => {
                look.forgets = self.flow.take_stale();
                // In an idle vhost there is nothing to read, so its connections are not walked.
                let is_idle = !self.flow.take_any() && !look.forgets;
                look.go(if is_idle { Stage::Done } else { Stage::Routes });
            }
            Stage::Done => {}
            Stage::Routes => {
                // Each route costs one unit, and each of its queues one more.
                let end = self.router.tally_places() as u32;
                let mut left = budget.max(1);
                while look.place < end && left > 0 {
                    let found = self.router.take_tally(look.place as usize, QUEUES_MAX);
                    let before = flowed.len();
                    if let Some(route) = found {
                        self.routed(route, &mut flowed);
                    }
                    left = left.saturating_sub(1 + flowed.iter().skip(before).map(places).sum::<usize>());
                    look.place += 1;
                }
                if look.place >= end {
                    look.go(Stage::Names);
                }
            }
            Stage::Names => {
                for slot in look.window(budget.max(1), self.flow.names_end(), Stage::Rest) {
                    let tally = self.flow.take_by_name(slot);
                    if !tally.is_empty() {
                        flowed.push(self.routed_by("".into(), &[Hop::Queue(QueueSlot(slot))], tally));
                    }
                }
            }
            Stage::Rest => {
                self.take_rest(&mut flowed);
                look.go(Stage::Links);
            }
            Stage::Links => {
                for slot in look.window(budget.max(1), self.links.slots_end(), Stage::Consumers) {
                    let link = self.links.at_mut(slot);
                    flowed.extend(link.and_then(published));
                }
            }
            Stage::Consumers => {
                for slot in look.window(budget.max(1), self.consumers.slots_end(), Stage::Done) {
                    if let Some(key) = self.consumers.key_at(slot) {
                        flowed.extend(self.take_delivered(key));
                    }
                }
                if look.is_done() {
                    let waits = self.flow.take_waits().into_iter();
                    flowed.push(Flowed::Waited(waits.map(|(key, ms)| (ConsumerId(key), ms)).collect()));
                }
            }
        }
        if look.forgets {
            flowed.clear();
        }
        flowed
    }

    /// The topic that a source stands for. Needed because a client may publish to a new topic after the reading has
    /// listed the topics and before it lists the client.
    pub fn topic_of(&self, source: Source) -> Option<Name> {
        self.router.topic_of(source)
    }

    /// Reads the counts whose number is bounded, in one hold.
    fn take_rest(&mut self, flowed: &mut Vec<Flowed>) {
        for (exchange, to) in self.flow.take_walked() {
            // List the exchange even if no queue got anything: clients are listed as publishing to it.
            flowed.push(self.routed_by(exchange.clone(), &[], Tally::default()));
            for (hop, tally) in to {
                flowed.push(self.routed_by(exchange.clone(), &[hop], tally));
            }
        }
        for ((queue, to), Dead { exchange, tally }) in self.flow.take_dead() {
            flowed.push(Flowed::DeadLettered {
                queue,
                to,
                exchange,
                tally,
            });
        }
        for ((link, queue), messages) in self.flow.take_got() {
            if let (Some(l), Some(q)) = (self.links.get(link), self.queues.get(queue)) {
                flowed.push(Flowed::Delivered {
                    party: party(l),
                    consumer: None,
                    queue: q.name.clone(),
                    messages,
                });
            }
        }
        flowed.append(&mut self.flow.take_gone());
    }

    fn routed(&self, route: RouteTally, flowed: &mut Vec<Flowed>) {
        let (queues, exchanges) = self.names_of(&route.to);
        flowed.push(Flowed::Routed {
            source: route.source,
            exchange: route.exchange,
            topic: route.topic,
            tally: route.tally,
            queues,
            exchanges,
            more: route.more,
        });
        let further = route.further.into_iter();
        flowed.extend(further.map(|(exchange, to)| self.routed_by(exchange, &to, route.tally)));
    }

    fn routed_by(&self, exchange: Name, to: &[Hop], tally: Tally) -> Flowed {
        let (queues, exchanges) = self.names_of(to);
        Flowed::Routed {
            source: Source::exchange(&exchange),
            exchange,
            topic: None,
            tally,
            queues,
            exchanges,
            more: 0,
        }
    }

    /// Queues and exchanges.
    fn names_of(&self, to: &[Hop]) -> (Vec<Name>, Vec<Name>) {
        let (mut queues, mut exchanges) = (Vec::new(), Vec::new());
        for hop in to {
            match hop {
                Hop::Exchange(name) => exchanges.push(name.clone()),
                Hop::Queue(slot) => {
                    let queue = self.queues.at(*slot).and_then(|key| self.queues.get(key));
                    queues.extend(queue.map(|queue| queue.name.clone()));
                }
            }
        }
        (queues, exchanges)
    }

    /// What a consumer was given since the last reading.
    fn take_delivered(&mut self, key: ConsumerKey) -> Option<Flowed> {
        let c = self.consumers.get_mut(key)?;
        let messages = std::mem::take(&mut c.flowed);
        if messages == 0 {
            return None;
        }
        let c = self.consumers.get(key)?;
        Some(Flowed::Delivered {
            party: party(self.links.get(c.link)?),
            consumer: Some(ConsumerId(key)),
            queue: self.queues.get(c.queue)?.name.clone(),
            messages: messages.into(),
        })
    }

    /// A consumer is removed: its counts are kept for the next reading.
    pub(super) fn note_consumer_gone(&mut self, key: ConsumerKey) {
        if let Some(last) = self.take_delivered(key) {
            self.flow.keep(last);
        }
    }

    /// A link is removed: its counts are kept for the next reading.
    pub(super) fn note_link_gone(&mut self, link: Link) {
        self.traces.forget_link(link);
        if let Some(last) = self.links.get_mut(link).and_then(published) {
            self.flow.keep(last);
        }
    }

    /// Counts a message while messages are traced.
    #[inline]
    pub(super) fn note_flowed(&mut self, message: &Message, route: Result<KnownRoute, &[QueueSlot]>) -> Source {
        self.flow.note();
        let bytes = message.body().len();
        match route {
            Ok(known) => self.router.note(known, bytes),
            Err(queues) if message.exchange_bytes().is_empty() => self.flow.note_by_slots(queues, bytes),
            Err(queues) => self.note_walked(message, queues),
        }
    }

    /// Counts a message that followed no remembered route: with the route that is remembered now, or else by its
    /// exchange.
    #[inline(never)]
    pub(super) fn note_walked(&mut self, message: &Message, queues: &[QueueSlot]) -> Source {
        let bytes = message.body().len();
        if !message.envelope().extra_keys
            && let Some(known) = self.router.known_route(message, &[])
        {
            return self.router.note(known, bytes);
        }
        let path = self.router.last_path();
        self.flow
            .note_walked(message.exchange(), path.as_deref(), queues, bytes)
    }

    /// Counts a dead letter of a queue.
    pub(super) fn note_dead_letter(&mut self, queue: &Name, exchange: &Name, dead: &Message) {
        if self.flow.is_on() {
            let to = self.router.source_of(dead);
            self.flow.note_dead(queue, exchange, to, dead.body().len());
        }
    }
}

/// About what it costs to tell of it.
fn places(flowed: &Flowed) -> usize {
    match flowed {
        Flowed::Routed { queues, exchanges, .. } => queues.len() + exchanges.len(),
        _ => 0,
    }
}

/// What a link has published since the last reading.
fn published(l: &mut LinkState) -> Option<Flowed> {
    let (to, others) = l.sent.as_mut().map(|sent| Sent::take(sent))?;
    let party = party(l);
    (!(to.is_empty() && others.is_empty())).then_some(Flowed::Published { party, to, others })
}

pub(super) fn party(l: &LinkState) -> Party {
    Party {
        link: l.id,
        protocol: l.protocol,
        user: l.access.user.clone(),
        name: l.client_name.clone(),
        peer: Arc::clone(&l.peer),
    }
}
