//! Tracing: messages are followed from their publish to their end, each step with its time.
//!
//! A client of the management API asks for messages by exchange, topic or property ([`TraceRequest`]). The next ones
//! that are published are caught, and what happens to them is noted. Without an active trace a message costs a few
//! comparisons: publishes and deliveries test whether they are watched at all, for the flow map, and traces share that
//! test. Settles have a test of their own. With active traces, a publish costs a look-up of what is noted about its
//! address (`asked.rs`), and deliveries and settles cost nothing until a message is followed.
//!
//! Bodies are not kept. What is kept is limited by number, time and bytes, and charged like queues. It is in memory
//! only: a restart forgets it.

use super::Engine;
use super::death::Death;
use super::enqueuing::Enqueued;
use super::flow::party;
use super::internal::Source;
use super::link::LinkState;
use super::timers::Timer;
pub use super::traced::{
    Hop, HopKind, Origin, PropertyName, TopicFilter, TraceInfo, TraceRequest, TraceState, TracedMessage,
};
pub use super::traces::{HOPS_MAX, TRACE_KEPT, TRACE_LASTS_MAX, TRACED_MESSAGES_MAX, TRACES_MAX};
use super::traces::{QUEUES_MAX, Traces};
use crate::binding::QueueSlot;
use crate::command::Outcome;
use crate::fault::{Fault, FaultKind};
use crate::ledger::ObjectKind;
use crate::message::Message;
use crate::properties::Name;
use crate::queue::Queue;
use crate::queue::consumers::Consumer;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::retained::Retained;
use crate::router::{KnownRoute, passes, source_of_queue};
use crate::slots::{Link, QueueKey};
use crate::time::Now;
use crate::topic::is_broker_topic;
use smallvec::SmallVec;

/// Bytes of a traced message, roughly.
const TRACED_BYTES: usize = 4 << 10;

impl Engine {
    /// Begins a trace. A request beyond the limits is reduced to them. Returns the trace's number.
    ///
    /// # Errors
    /// QuotaExceeded: the limit on active traces is reached, or there is no memory for another one.
    pub fn start_trace(&mut self, now: Now, mut request: TraceRequest) -> Result<u64, Fault> {
        self.begin(now);
        request.messages = request.messages.clamp(1, TRACED_MESSAGES_MAX);
        request.lasts = request.lasts.min(TRACE_LASTS_MAX);
        self.end_traces();
        if !self.traces.has_room()
            && let Some(id) = self.traces.first_ended()
        {
            self.remove_trace(id);
        }
        if !self.traces.has_room() {
            let text = format!(
                "vhost '{}' has {TRACES_MAX} active traces: delete one",
                self.settings.vhost
            );
            return Err(Fault::new(FaultKind::QuotaExceeded, text));
        }
        self.admit(ObjectKind::Queues, TRACED_BYTES)?;
        // Not 1, 2, 3, because numbers from before a restart must not be used again. The number fits into a JSON
        // number.
        let id = self.random() >> 12;
        self.traces.start(id, request, now);
        self.watch_trace(id);
        self.flow.turn_traces(true);
        Ok(id)
    }

    /// All traces, including ended ones.
    pub fn traces(&mut self, now: Now) -> Vec<TraceInfo> {
        self.begin(now);
        self.end_traces();
        self.traces.infos().collect()
    }

    /// At most `count` messages of a trace, from number `from` on.
    pub fn traced(&self, id: u64, from: usize, count: usize) -> Vec<TracedMessage> {
        let messages = self.traces.messages(id).iter();
        messages.skip(from).take(count).cloned().collect()
    }

    /// Ends and forgets a trace. Returns whether it existed.
    pub fn remove_trace(&mut self, id: u64) -> bool {
        if let Some(due) = self.traces.due(id) {
            self.timers.cancel(due, Timer::Trace(id));
        }
        let removed = self.traces.remove(id);
        self.flow.turn_traces(self.traces.is_any_active());
        removed
    }

    /// Ends traces that have nothing left to follow.
    fn end_traces(&mut self) {
        while let Some((id, until)) = self.traces.end_one_done(self.now.monotonic) {
            self.timers.cancel(until, Timer::Trace(id));
            self.watch_trace(id);
        }
        self.flow.turn_traces(self.traces.is_any_active());
    }

    /// Ends or forgets a trace, if its time is over.
    pub(super) fn look_at_trace(&mut self, id: u64) {
        self.traces.look(id, self.now.monotonic);
        self.watch_trace(id);
        self.flow.turn_traces(self.traces.is_any_active());
    }

    /// Schedules the next check of a trace.
    fn watch_trace(&mut self, id: u64) {
        if let Some(due) = self.traces.due(id) {
            self.timers.set(due, Timer::Trace(id));
        }
    }

    /// The publisher, as far as it is known.
    fn origin(&self, link: Link) -> Origin {
        match self.links.get(link) {
            Some(l) => Origin::Client(party(l)),
            None => Origin::Gateway,
        }
    }

    /// Called when a message is in its queues and messages are traced. Most messages concern no trace, and should cost
    /// little more than without one. `route`: the remembered route, or the queues. `of`: queues that the message must
    /// not return to, and whether the node itself publishes it.
    #[inline(never)]
    pub(super) fn watch_traced(
        &mut self,
        link: Link,
        message: &Message,
        route: Result<KnownRoute, SmallVec<[QueueSlot; 4]>>,
        (skip, is_of_node): (&[Name], bool),
        enqueued: &mut Enqueued,
    ) {
        let known = route.as_ref().ok().copied();
        if self.flow.is_on() && !is_of_node {
            let route = route.as_ref().map(|known| *known).map_err(|queues| &**queues);
            enqueued.sent_to = Some(self.note_flowed(message, route));
        }
        if self.traces.may_end() {
            self.end_traces();
        }
        if !self.may_be_caught(message, known) {
            self.traces.pass();
            return;
        }
        let queues = match route {
            Ok(known) => self
                .router
                .targets_of(known)
                .iter()
                .map(|target| target.queue)
                .collect(),
            Err(queues) => queues,
        };
        self.trace_routed(link, message, (&queues, known), skip, enqueued);
    }

    /// Whether a message has to be compared with the traces: not if it is noted that none asks for its address, or if
    /// it cannot have a requested property.
    #[inline]
    fn may_be_caught(&mut self, message: &Message, known: Option<KnownRoute>) -> bool {
        let mark = match known {
            Some(known) => self.router.mark(known),
            None => self.traces.mark(message),
        };
        if self.traces.is_any_underway() {
            return true;
        }
        if let Some(may_want) = self.traces.may_want(mark, message, &self.codecs) {
            return may_want;
        }
        let mark = self.traces.look_at_address(message);
        match known {
            Some(known) => self.router.set_mark(known, mark),
            None => self.traces.set_mark(message, mark),
        }
        self.traces.may_want(mark, message, &self.codecs).unwrap_or(true)
    }

    /// A message is in its queues: traces that ask for it follow it from here on. It was put into some of `queues`.
    #[cold]
    #[inline(never)]
    fn trace_routed(
        &mut self,
        link: Link,
        message: &Message,
        (queues, known): (&[QueueSlot], Option<KnownRoute>),
        skip: &[Name],
        enqueued: &mut Enqueued,
    ) {
        self.catch(link, message);
        if !self.traces.has_current() {
            return;
        }
        enqueued.traced = true;
        let now = self.now;
        let hop = match queues.len() {
            0 => Hop::new(HopKind::Unroutable),
            number => Hop {
                number: Some(number as u64),
                ..Hop::new(HopKind::Routed)
            },
        };
        let path = self.router.path_taken(message, known).unwrap_or_default();
        for (source, to) in passes(&path, message.exchange()) {
            let pass = Hop {
                source: Some(source),
                to: Some((to, message.key().into())),
                ..Hop::new(HopKind::PassedOn)
            };
            self.traces.note_current(now, pass);
        }
        self.traces.note_current(now, hop);
        for slot in queues.iter().take(QUEUES_MAX) {
            let source = source_of_queue(&path, *slot);
            self.trace_into(link, message, (*slot, source), skip);
        }
        if enqueued.logged.is_some() {
            self.traces.await_log(self.staging.open_ticket(), message);
        }
    }

    /// Notes that a queue has just taken the message, or why not.
    fn trace_into(&mut self, link: Link, message: &Message, (slot, source): (QueueSlot, Option<Name>), skip: &[Name]) {
        let now = self.now;
        let publisher = self.links.get(link).and_then(|l| l.session);
        let Some(key) = self.queues.at(slot) else { return };
        let Some(q) = self.queues.get_mut(key) else { return };
        let last = q.next_seq().checked_sub(1);
        let is_it = |entry: &Entry| matches!(&entry.body, Body::Memory(m) if m.is_same(message));
        if let Some(seq) = last
            && q.waiting_mut(seq).is_some_and(|entry| is_it(entry))
        {
            let hop = Hop {
                number: Some(q.depth() as u64 - 1),
                source,
                ..Hop::at_queue(HopKind::Queued, &q.name)
            };
            return self.traces.queued(now, key, seq, hop);
        }
        let why = if skip.contains(&q.name) {
            "it has died there before"
        } else if q.belongs_to(publisher) {
            "the subscription is not for its own client's messages"
        } else if q.refuses(message, (0, 0)) {
            "the queue is full"
        } else {
            "the subscriber is away or slow, and gets it at most once"
        };
        let hop = Hop {
            source,
            ..Hop::at_queue(HopKind::NotQueued, &q.name).because(why)
        };
        self.traces.note_current(now, hop);
    }

    /// A message is published: finds the traces that follow it or ask for it.
    fn catch(&mut self, link: Link, message: &Message) {
        self.end_traces();
        let from = self.traces.begin(message);
        // Topics that the node itself publishes are not traced.
        let is_news = is_broker_topic(message.key(), message.envelope().dialect);
        if !is_news && self.traces.wants(message, &self.codecs) {
            let origin = from.unwrap_or_else(|| self.origin(link));
            let has_room = self.admit(ObjectKind::Queues, TRACED_BYTES).is_ok();
            self.traces.catch(self.now, message, &self.codecs, &origin, has_room);
        }
    }

    /// A publish is refused or unroutable.
    #[cold]
    #[inline(never)]
    pub(super) fn trace_refused(&mut self, link: Link, message: &Message, why: &str) {
        if !self.flow.is_tracing() {
            return;
        }
        self.catch(link, message);
        if self.traces.has_current() {
            let hop = Hop::new(HopKind::Refused).because(why);
            self.traces.note_current(self.now, hop);
        }
    }

    /// Whether any message is followed. Tested for every delivery and settle.
    #[inline]
    pub(super) fn is_any_followed(&self) -> bool {
        self.flow.is_tracing() && self.traces.is_any_followed()
    }

    /// The topic of the message is to have another retained one, or none.
    #[inline]
    pub(super) fn trace_not_retained(&mut self, topic: impl FnOnce() -> Box<[u8]>) {
        if self.traces.is_any_retained() {
            self.traces.forget_retained(self.now, &topic());
        }
    }

    /// A queue was given a copy of a retained message, as its last.
    #[inline]
    pub(super) fn trace_replayed(&mut self, queue: QueueKey, message: &Message) {
        if !self.traces.is_any_retained() {
            return;
        }
        let Some(q) = self.queues.get(queue) else { return };
        let Some(seq) = q.next_seq().checked_sub(1) else { return };
        let hop = Hop {
            number: Some(q.depth() as u64 - 1),
            ..Hop::at_queue(HopKind::Queued, &q.name).because("it is retained, and was asked for")
        };
        let topic = Retained::key_of(message);
        self.traces.replayed(self.now, &topic, queue, seq, hop);
    }

    /// A session's client has received a delivery, and is to acknowledge it once more.
    #[cold]
    #[inline(never)]
    pub(super) fn trace_received(&mut self, link: Link, queue: QueueKey, seq: u64) {
        let Engine {
            traces, links, queues, ..
        } = self;
        if let (Some(l), Some(q)) = (links.get(link), queues.get(queue)) {
            traces.note(self.now, queue, seq, || Hop {
                party: Some(Box::new(party(l))),
                ..Hop::at_queue(HopKind::Received, &q.name)
            });
        }
    }

    /// A publisher releases the packet id of its message.
    pub(super) fn trace_released(&mut self, link: Link, packet_id: u16) {
        if !self.traces.is_any_unreleased() {
            return;
        }
        if let Some(l) = self.links.get(link)
            && let Some(session) = l.session
        {
            let hop = Hop {
                party: Some(Box::new(party(l))),
                ..Hop::new(HopKind::Released)
            };
            self.traces.released(self.now, session, Some(packet_id), Some(hop));
            self.end_traces();
        }
    }

    /// The log has stored what is in these batches.
    #[cold]
    #[inline(never)]
    pub(super) fn trace_stored(&mut self, ticket: u64) {
        self.traces.durable(self.now, ticket);
        self.end_traces();
    }

    #[cold]
    #[inline(never)]
    pub(super) fn trace_fetched(&mut self, link: Link, queue: QueueKey, entry: &Entry, no_ack: bool) {
        let Engine {
            traces, links, queues, ..
        } = self;
        let (Some(l), Some(q)) = (links.get(link), queues.get(queue)) else {
            return;
        };
        traces.note(self.now, queue, entry.seq, || Hop {
            party: Some(Box::new(party(l))),
            redelivered: entry.flags.has(EntryFlags::REDELIVERED),
            no_ack,
            ..Hop::at_queue(HopKind::Fetched, &q.name)
        });
        if no_ack {
            traces.forget(queue, entry.seq);
        }
    }

    /// A delivery is settled.
    #[cold]
    #[inline(never)]
    pub(super) fn trace_settled(&mut self, link: Link, queue: QueueKey, seq: u64, outcome: Outcome) {
        let Engine {
            traces, links, queues, ..
        } = self;
        let kind = match outcome {
            Outcome::Accept => HopKind::Acknowledged,
            Outcome::Requeue => HopKind::Requeued,
            Outcome::Reject => HopKind::Rejected,
        };
        if let Some(q) = queues.get(queue) {
            traces.note(self.now, queue, seq, || Hop {
                party: links.get(link).map(|l| Box::new(party(l))),
                ..Hop::at_queue(kind, &q.name)
            });
        }
        if outcome == Outcome::Accept {
            traces.forget(queue, seq);
            self.end_traces();
        }
    }

    /// An entry leaves its queue without being accepted by a consumer.
    #[cold]
    #[inline(never)]
    pub(super) fn trace_death(&mut self, queue: QueueKey, seq: u64, death: Death) {
        let kind = match death {
            // The settle was noted already.
            Death::Rejected => return,
            Death::Expired => HopKind::Expired,
            Death::MaxLength | Death::DeliveryLimit => HopKind::Dropped,
        };
        if let Some(q) = self.queues.get(queue) {
            self.traces.note(self.now, queue, seq, || {
                let hop = Hop::at_queue(kind, &q.name);
                match death {
                    Death::MaxLength => hop.because("the queue is full"),
                    Death::DeliveryLimit => hop.because("it came back too often"),
                    Death::Rejected | Death::Expired => hop,
                }
            });
        }
    }

    /// A message that died in the queue is being published to another exchange.
    #[cold]
    #[inline(never)]
    pub(super) fn trace_dead_letter(&mut self, queue: &Name, dead: &Message, source: &Source) {
        let of = match source {
            Source::Entry { queue, seq, .. } => self.traces.forget(*queue, *seq),
            // A full queue refused it, so it never had an entry there.
            Source::Nothing | Source::Will(_) => self.traces.current(),
        };
        let hop = Hop {
            to: Some((dead.exchange().into(), dead.key().into())),
            ..Hop::at_queue(HopKind::DeadLettered, queue)
        };
        self.traces.add(self.now, &of, hop);
        self.traces.send_on(dead, of, Origin::DeadLetter(queue.clone()));
    }

    /// All waiting messages of a queue are removed. If the queue is deleted, so are deliveries that consumers have.
    pub(super) fn trace_gone(&mut self, queue: QueueKey, kind: HopKind) {
        if !self.flow.is_tracing() {
            return;
        }
        let Some(name) = self.queues.get(queue).map(|q| q.name.clone()) else {
            return;
        };
        for seq in self.traces.entries_of(queue, kind == HopKind::QueueDeleted) {
            // Reserved messages are not purged.
            let waits = |q: &mut Queue| q.waiting_mut(seq).is_some() || q.ready().may_be_paged(seq);
            if kind == HopKind::Purged && !self.queues.get_mut(queue).is_some_and(waits) {
                continue;
            }
            self.traces.note(self.now, queue, seq, || Hop::at_queue(kind, &name));
            self.traces.forget(queue, seq);
        }
    }

    /// The session of a client that has not settled the delivery ends. `dropped`: no other client gets it.
    #[cold]
    #[inline(never)]
    pub(super) fn trace_session_end(&mut self, queue: QueueKey, seq: u64, dropped: bool) {
        let Some(name) = self.queues.get(queue).map(|q| q.name.clone()) else {
            return;
        };
        let kind = if dropped { HopKind::Dropped } else { HopKind::Requeued };
        let hop = || Hop::at_queue(kind, &name).because("its session has ended");
        self.traces.note(self.now, queue, seq, hop);
        if dropped {
            self.traces.forget(queue, seq);
        }
    }
}

/// A consumer is given an entry of a queue.
#[cold]
#[inline(never)]
pub(super) fn delivered(traces: &mut Traces, now: Now, to: (&LinkState, &Consumer), queue: &Queue, entry: &Entry) {
    let (l, c) = to;
    let no_ack = !c.counts(entry.flags);
    traces.note(now, c.queue, entry.seq, || Hop {
        party: Some(Box::new(party(l))),
        consumer: c.described.as_ref().map(|described| described.tag.clone()),
        redelivered: entry.flags.has(EntryFlags::REDELIVERED),
        no_ack,
        ..Hop::at_queue(HopKind::Delivered, &queue.name)
    });
    if no_ack {
        traces.forget(c.queue, entry.seq);
    }
}
