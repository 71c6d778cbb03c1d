//! The traces of an engine: the messages that they have caught, and where these are now.
//!
//! A message does not know that it is traced. There is a list of places instead, each with its traced messages:
//!
//! | a traced message is | place |
//! |---|---|
//! | in a queue, or delivered to a consumer | queue and sequence, which stay the same on disk, when it is read back, and when it is sent again |
//! | being published to another exchange | the dead letter itself, until it is published |
//! | being written to the log | the batch |
//! | not confirmed yet | link, channel and number of the publish |
//! | confirmed, and not released by its publisher | session and packet id |
//! | its topic's retained message | topic |
//!
//! Places are looked up only while some message is followed. A message without a place has reached its end.

use super::asked::{Asked, AskedAddresses};
use super::flowed::Party;
use super::traced::{Hop, HopKind, Origin, TraceInfo, TraceRequest, TraceState, TracedMessage};
use crate::command::Channel as ChannelNumber;
use crate::ledger::{Charge, allocation, hashed, text};
use crate::message::Message;
use crate::properties::Codecs;
use crate::slots::{Link, QueueKey, SessionKey};
use crate::tally::Mark;
use crate::time::{Now, Time, Wall};
use crate::topic::{Levels, is_broker_topic};
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::mem::size_of;
use std::time::Duration;

/// The most traces of a vhost, including ended ones.
pub const TRACES_MAX: usize = 16;
/// The most messages of a trace.
pub const TRACED_MESSAGES_MAX: usize = 1000;
/// The longest time of a trace.
pub const TRACE_LASTS_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long an ended trace is kept.
pub const TRACE_KEPT: Duration = Duration::from_secs(3600);
/// The most hops of a message.
pub const HOPS_MAX: usize = 128;
/// The most queues in which a message is followed.
pub(crate) const QUEUES_MAX: usize = 32;
/// The most bytes of all traces of a vhost.
const BYTES_MAX: usize = 8 << 20;
/// The most unpublished dead letters and wills whose origin is kept.
const UNDERWAY_MAX: usize = 1024;

/// A message of a trace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Of {
    trace: u64,
    message: u32,
}

/// The same message in several traces.
pub(crate) type Ofs = SmallVec<[Of; 1]>;

/// Bytes of a followed entry of a queue.
const PLACE_BYTES: usize = hashed::<((QueueKey, u64), Place)>();
/// What a message costs beside its names and hops.
const MESSAGE_BYTES: usize =
    size_of::<TracedMessage>() + size_of::<Awaited>() + size_of::<Logged>() + size_of::<Unreleased>();
/// What a hop costs, with who did it. Most names are shared with whom they belong to.
const HOP_BYTES: usize = size_of::<Hop>() + allocation(size_of::<Party>());

struct Trace {
    id: u64,
    request: TraceRequest,
    began: Wall,
    until: Now,
    /// When it ended, if it has.
    ended: Option<Time>,
    messages: Vec<TracedMessage>,
    missed: u64,
    /// Places of its messages.
    places: usize,
    /// Its share of the memory budget.
    bytes: usize,
}

impl Trace {
    fn state(&self) -> TraceState {
        match self.ended {
            Some(_) => TraceState::Ended,
            None if self.messages.len() >= self.request.messages => TraceState::Following,
            None => TraceState::Catching,
        }
    }
}

/// A followed entry of a queue.
struct Place {
    of: Ofs,
    /// A consumer has it unsettled.
    is_out: bool,
}

/// A publish that waits for its confirm.
struct Awaited {
    link: Link,
    channel: ChannelNumber,
    number: u64,
    of: Ofs,
}

/// A publish whose packet id its publisher has not released.
struct Unreleased {
    session: SessionKey,
    packet_id: u16,
    of: Ofs,
}

/// A message on its way to the log.
struct Logged {
    ticket: u64,
    /// Whether its batch is not written yet.
    message: Option<Message>,
    of: Ofs,
}

/// A dead letter or a will that is not published yet.
struct Underway {
    message: Message,
    of: Ofs,
    origin: Origin,
}

/// The traces of an engine.
#[derive(Default)]
pub(crate) struct Traces {
    list: Vec<Trace>,
    entries: HashMap<(QueueKey, u64), Place>,
    underway: VecDeque<Underway>,
    logged: VecDeque<Logged>,
    awaited: Vec<Awaited>,
    unreleased: Vec<Unreleased>,
    /// Retained messages, by the key of their topic: see [`Retained::key_of`].
    ///
    /// [`Retained::key_of`]: crate::retained::Retained::key_of
    retained: HashMap<Box<[u8]>, Ofs>,
    /// Those of the publish that is under way.
    current: Ofs,
    /// Notes about which addresses no trace asks for.
    addresses: AskedAddresses,
    /// Some trace may have nothing left to follow.
    may_end: bool,
    charge: Charge,
}

impl Traces {
    pub(crate) fn set_charge(&mut self, charge: Charge) {
        self.charge = charge;
    }

    /// Whether any trace is active.
    pub(crate) fn is_any_active(&self) -> bool {
        self.list.iter().any(|trace| trace.ended.is_none())
    }

    /// Whether there is room for another trace.
    pub(crate) fn has_room(&self) -> bool {
        self.list.len() < TRACES_MAX
    }

    /// The trace that ended first.
    pub(crate) fn first_ended(&self) -> Option<u64> {
        let ended = self.list.iter().filter_map(|trace| Some((trace.ended?, trace.id)));
        ended.min().map(|(_, id)| id)
    }

    pub(crate) fn start(&mut self, id: u64, request: TraceRequest, now: Now) {
        let until = Now {
            monotonic: now.monotonic + request.lasts,
            wall: now.wall + request.lasts,
        };
        let mut trace = Trace {
            id,
            request,
            began: now.wall,
            until,
            ended: None,
            messages: Vec::new(),
            missed: 0,
            places: 0,
            bytes: 0,
        };
        let names = [
            &trace.request.exchange,
            &trace.request.topic.as_ref().map(|topic| topic.text.clone()),
        ]
        .into_iter()
        .flatten()
        .map(|name| text(name.len()))
        .sum::<usize>();
        let value = trace
            .request
            .property
            .as_ref()
            .map_or(0, |(_, value)| text(value.len()));
        spend(&mut self.charge, &mut trace, size_of::<Trace>() + names * 2 + value * 2);
        self.list.push(trace);
        self.note_change();
    }

    /// The traces that catch messages have changed.
    fn note_change(&mut self) {
        let any = self.is_any_active();
        self.addresses.change(any, &mut self.charge);
    }

    /// Forgets a trace. Returns whether it existed.
    pub(crate) fn remove(&mut self, id: u64) -> bool {
        self.end(id, Time::default());
        let Some(at) = self.list.iter().position(|trace| trace.id == id) else {
            return false;
        };
        let trace = self.list.remove(at);
        self.charge.shrink(trace.bytes);
        true
    }

    /// Ends a trace: what it has stays, and its messages are not followed any more.
    fn end(&mut self, id: u64, now: Time) {
        let Some(trace) = self.find(id) else { return };
        if trace.ended.is_some() {
            return;
        }
        trace.ended = Some(now);
        let forget = |of: &mut Ofs| {
            of.retain(|of| of.trace != id);
            !of.is_empty()
        };
        let before = self.entries.len();
        self.entries.retain(|_, place| forget(&mut place.of));
        self.charge.shrink((before - self.entries.len()) * PLACE_BYTES);
        self.logged.retain_mut(|logged| forget(&mut logged.of));
        self.awaited.retain_mut(|awaited| forget(&mut awaited.of));
        self.unreleased.retain_mut(|unreleased| forget(&mut unreleased.of));
        let mut freed = 0;
        self.retained.retain(|topic, of| {
            let stays = forget(of);
            freed += if stays { 0 } else { retained_bytes(topic) };
            stays
        });
        self.charge.shrink(freed);
        self.underway
            .iter_mut()
            .for_each(|underway| _ = forget(&mut underway.of));
        forget(&mut self.current);
        if !self.is_any_active() {
            self.underway.clear();
        }
        self.note_change();
    }

    /// Checks a trace that is due: it ends, or is forgotten.
    pub(crate) fn look(&mut self, id: u64, now: Time) {
        let Some(trace) = self.find(id) else { return };
        match trace.ended {
            Some(ended) if ended + TRACE_KEPT <= now => _ = self.remove(id),
            None if trace.until.monotonic <= now => self.end(id, now),
            _ => {}
        }
    }

    /// Ends one trace that has all its messages, if these have reached their ends. Returns its number, and when it
    /// would have been due.
    pub(crate) fn end_one_done(&mut self, now: Time) -> Option<(u64, Time)> {
        self.may_end = false;
        let is_done = |trace: &&Trace| trace.state() == TraceState::Following && trace.places == 0;
        let done = self.list.iter().find(is_done)?;
        let (id, until) = (done.id, done.until.monotonic);
        self.end(id, now);
        Some((id, until))
    }

    /// When a trace is to be checked next.
    pub(crate) fn due(&self, id: u64) -> Option<Time> {
        let trace = self.list.iter().find(|trace| trace.id == id)?;
        Some(trace.ended.map_or(trace.until.monotonic, |ended| ended + TRACE_KEPT))
    }

    pub(crate) fn infos(&self) -> impl Iterator<Item = TraceInfo> + '_ {
        self.list.iter().map(|trace| TraceInfo {
            id: trace.id,
            request: trace.request.clone(),
            state: trace.state(),
            began: trace.began,
            until: trace.until.wall,
            caught: trace.messages.len(),
            missed: trace.missed,
        })
    }

    pub(crate) fn messages(&self, id: u64) -> &[TracedMessage] {
        let trace = self.list.iter().find(|trace| trace.id == id);
        trace.map_or(&[], |trace| &trace.messages)
    }

    fn find(&mut self, id: u64) -> Option<&mut Trace> {
        self.list.iter_mut().find(|trace| trace.id == id)
    }

    /// Whether the publish that begins may come from a traced message, as a dead letter or a will.
    #[inline]
    pub(crate) fn is_any_underway(&self) -> bool {
        !self.underway.is_empty()
    }

    /// Whether any followed message is in a queue or at a consumer.
    #[inline]
    pub(crate) fn is_any_followed(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Whether any followed message waits for its confirm.
    #[inline]
    pub(crate) fn is_any_awaited(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// Whether to ask [`Traces::end_one_done`].
    #[inline]
    pub(crate) fn may_end(&self) -> bool {
        self.may_end
    }

    /// A publish begins that is not traced.
    #[inline]
    pub(crate) fn pass(&mut self) {
        self.current.clear();
    }

    /// What is noted about the message's address here.
    #[inline]
    pub(crate) fn mark(&self, message: &Message) -> Mark {
        self.addresses.find(message)
    }

    /// Notes something about the message's address.
    pub(crate) fn set_mark(&mut self, message: &Message, mark: Mark) {
        self.addresses.note(message, mark);
    }

    /// Whether the message has to be compared with the traces, according to what is noted about its address. `None`:
    /// nothing is.
    #[inline]
    pub(crate) fn may_want(&self, mark: Mark, message: &Message, codecs: &Codecs) -> Option<bool> {
        Some(match self.addresses.read(mark)? {
            Asked::Nothing => false,
            Asked::Properties => self.may_want_properties(message, codecs),
            Asked::All => true,
        })
    }

    #[inline(never)]
    fn may_want_properties(&self, message: &Message, codecs: &Codecs) -> bool {
        let catching = self.list.iter().filter(|trace| trace.state() == TraceState::Catching);
        let mut asked = catching.filter_map(|trace| trace.request.property.as_ref());
        asked.any(|(name, value)| name.may_be(value, message, codecs))
    }

    /// What the active traces ask of messages with this message's address.
    #[cold]
    #[inline(never)]
    pub(crate) fn look_at_address(&self, message: &Message) -> Mark {
        let dialect = message.envelope().dialect;
        let mut asked = Asked::Nothing;
        // Topics that the node itself publishes are not traced.
        if !is_broker_topic(message.key(), dialect) {
            let levels = Levels::new(message.key(), dialect);
            let catching = self.list.iter().filter(|trace| trace.state() == TraceState::Catching);
            for trace in catching.filter(|trace| trace.request.asks_for_address(message, &levels)) {
                match trace.request.property {
                    Some(_) if asked == Asked::Nothing => asked = Asked::Properties,
                    Some(_) => {}
                    None => asked = Asked::All,
                }
            }
        }
        self.addresses.mark(asked)
    }

    /// Whether any trace asks for the message.
    pub(crate) fn wants(&self, message: &Message, codecs: &Codecs) -> bool {
        let levels = Levels::new(message.key(), message.envelope().dialect);
        let mut catching = self.list.iter().filter(|trace| trace.state() == TraceState::Catching);
        catching.any(|trace| trace.request.matches(message, &levels, codecs))
    }

    /// A message is published. Each trace that asks for it follows it from here on. `origin`: its publisher.
    /// `has_room`: there is memory for it.
    pub(crate) fn catch(&mut self, now: Now, message: &Message, codecs: &Codecs, origin: &Origin, has_room: bool) {
        let levels = Levels::new(message.key(), message.envelope().dialect);
        let mut is_any_full = false;
        for trace in &mut self.list {
            // A trace that follows it already, from the queue in which it died, does not catch it again.
            let has_it = self.current.iter().any(|of| of.trace == trace.id);
            if has_it || trace.state() != TraceState::Catching || !trace.request.matches(message, &levels, codecs) {
                continue;
            }
            let names = text(message.exchange().len()) + text(message.key().len());
            let bytes = MESSAGE_BYTES + names + HOP_BYTES;
            if !has_room || self.charge.bytes() + bytes > BYTES_MAX {
                trace.missed += 1;
                continue;
            }
            let envelope = message.envelope();
            let number = trace.messages.len();
            trace.messages.push(TracedMessage {
                number,
                at: now,
                origin: origin.clone(),
                exchange: message.exchange().into(),
                key: message.key().into(),
                dialect: envelope.dialect,
                bytes: message.body().len(),
                qos: envelope.qos,
                durable: envelope.durable,
                retain: envelope.retain,
                hops: Vec::new(),
                left_out: 0,
            });
            spend(&mut self.charge, trace, bytes - HOP_BYTES);
            self.current.push(Of {
                trace: trace.id,
                message: number as u32,
            });
            is_any_full |= trace.state() != TraceState::Catching;
        }
        if is_any_full {
            self.may_end = true;
            self.note_change();
        }
        let party = match origin {
            Origin::Client(party) => Some(Box::new(party.clone())),
            _ => None,
        };
        // A message from another queue was published before.
        let new: Ofs = self.current.iter().copied().filter(|of| self.is_new(*of)).collect();
        let hop = Hop {
            party,
            ..Hop::new(HopKind::Published)
        };
        self.add(now, &new, hop);
    }

    fn is_new(&self, of: Of) -> bool {
        let messages = self.messages(of.trace);
        messages.get(of.message as usize).is_some_and(|m| m.hops.is_empty())
    }

    /// The publish that is under way is its topic's retained message. `topic`: its key; `None`: it was cleared.
    #[cold]
    #[inline(never)]
    pub(crate) fn retained(&mut self, now: Now, topic: Option<Box<[u8]>>) {
        self.note_current(now, Hop::new(HopKind::Retained));
        let Some(topic) = topic else { return };
        let bytes = retained_bytes(&topic);
        if self.charge.bytes() + bytes <= BYTES_MAX {
            self.charge.grow(bytes);
            let of = self.current.clone();
            self.count(&of, 1);
            self.retained.insert(topic, of);
        }
    }

    /// Whether some traced message is retained.
    #[inline]
    pub(crate) fn is_any_retained(&self) -> bool {
        !self.retained.is_empty()
    }

    /// The topic has another retained message, or none.
    pub(crate) fn forget_retained(&mut self, now: Now, topic: &[u8]) {
        if let Some(of) = self.retained.remove(topic) {
            self.charge.shrink(retained_bytes(topic));
            self.count(&of, -1);
            self.add(now, &of, Hop::new(HopKind::NotRetained));
        }
    }

    /// A queue has a copy of the topic's retained message.
    pub(crate) fn replayed(&mut self, now: Now, topic: &[u8], queue: QueueKey, seq: u64, hop: Hop) {
        let Some(of) = self.retained.get(topic).cloned() else {
            return;
        };
        self.add(now, &of, hop);
        self.follow(queue, seq, of);
    }

    /// A publish begins: of no trace, or of those that follow the dead letter that it is. Returns its origin, if that
    /// is known.
    pub(crate) fn begin(&mut self, message: &Message) -> Option<Origin> {
        self.current.clear();
        let at = self
            .underway
            .iter()
            .position(|underway| underway.message.is_same(message))?;
        let Underway { of, origin, .. } = self.underway.remove(at)?;
        self.count(&of, -1);
        self.current = of;
        Some(origin)
    }

    /// Whether any trace follows the current publish.
    pub(crate) fn has_current(&self) -> bool {
        !self.current.is_empty()
    }

    /// Adds a hop to the current publish.
    pub(crate) fn note_current(&mut self, now: Now, hop: Hop) {
        let current = std::mem::take(&mut self.current);
        self.add(now, &current, hop);
        self.current = current;
    }

    /// A queue took the current publish.
    pub(crate) fn queued(&mut self, now: Now, queue: QueueKey, seq: u64, hop: Hop) {
        self.note_current(now, hop);
        self.follow(queue, seq, self.current.clone());
    }

    fn follow(&mut self, queue: QueueKey, seq: u64, of: Ofs) {
        if self.charge.bytes() + PLACE_BYTES <= BYTES_MAX {
            self.charge.grow(PLACE_BYTES);
            self.count(&of, 1);
            self.entries.insert((queue, seq), Place { of, is_out: false });
        }
    }

    /// The publisher of the publish that is under way is to release its packet id.
    #[cold]
    #[inline(never)]
    pub(crate) fn await_release(&mut self, session: SessionKey, packet_id: u16) {
        let of = self.current.clone();
        self.count(&of, 1);
        self.unreleased.push(Unreleased { session, packet_id, of });
    }

    /// Whether some message that is followed is to be released.
    pub(crate) fn is_any_unreleased(&self) -> bool {
        !self.unreleased.is_empty()
    }

    /// A publisher has released a packet id: `hop` says so. Without it, the session ends, and nobody will.
    pub(crate) fn released(&mut self, now: Now, session: SessionKey, packet_id: Option<u16>, hop: Option<Hop>) {
        let is_it = |u: &mut Unreleased| u.session == session && packet_id.is_none_or(|id| id == u.packet_id);
        let released: Vec<Unreleased> = self.unreleased.extract_if(.., is_it).collect();
        for Unreleased { of, .. } in released {
            self.count(&of, -1);
            if let Some(hop) = &hop {
                self.add(now, &of, hop.clone());
            }
        }
    }

    /// The current publish is staged for the log, in that batch.
    pub(crate) fn await_log(&mut self, ticket: u64, message: &Message) {
        let of = self.current.clone();
        self.count(&of, 1);
        self.logged.push_back(Logged {
            ticket,
            message: Some(message.clone()),
            of,
        });
    }

    /// The current publish is returned to its publisher.
    #[cold]
    #[inline(never)]
    pub(crate) fn returned(&mut self, now: Now) {
        let hop = Hop::new(HopKind::Refused).because("it goes back to its publisher");
        self.note_current(now, hop);
    }

    /// The current publish waits for its confirm.
    #[cold]
    #[inline(never)]
    pub(crate) fn await_confirm(&mut self, link: Link, channel: ChannelNumber, number: u64) {
        let of = self.current.clone();
        self.count(&of, 1);
        self.awaited.push(Awaited {
            link,
            channel,
            number,
            of,
        });
    }

    /// A publisher was sent the confirm of all publishes up to that number.
    #[cold]
    #[inline(never)]
    pub(crate) fn confirmed(&mut self, now: Now, link: Link, channel: ChannelNumber, upto: u64) {
        let is_it = |a: &mut Awaited| a.link == link && a.channel == channel && a.number <= upto;
        let told: Vec<Awaited> = self.awaited.extract_if(.., is_it).collect();
        for awaited in told {
            self.count(&awaited.of, -1);
            self.add(now, &awaited.of, Hop::new(HopKind::Confirmed));
        }
    }

    /// A link ended, so no confirm follows.
    pub(crate) fn forget_link(&mut self, link: Link) {
        let gone: Vec<Awaited> = self.awaited.extract_if(.., |a| a.link == link).collect();
        gone.iter().for_each(|awaited| self.count(&awaited.of, -1));
    }

    /// These batches are written.
    #[cold]
    #[inline(never)]
    pub(crate) fn written(&mut self, now: Now, ticket: u64) {
        let mut told = Vec::new();
        for logged in &mut self.logged {
            if logged.ticket <= ticket
                && let Some(message) = logged.message.take()
            {
                let is_there = message.position().is_some();
                told.push((logged.of.clone(), is_there));
                if !is_there {
                    // If so, nothing is stored.
                    logged.ticket = 0;
                }
            }
        }
        for (of, is_there) in told {
            let kind = if is_there { HopKind::Written } else { HopKind::NotStored };
            self.add(now, &of, Hop::new(kind));
        }
        self.forget_logged(|logged| logged.ticket == 0);
    }

    /// These batches are as durable as they need to be.
    pub(crate) fn durable(&mut self, now: Now, ticket: u64) {
        self.written(now, ticket);
        for of in self.forget_logged(|logged| logged.ticket <= ticket) {
            self.add(now, &of, Hop::new(HopKind::Stored));
        }
    }

    fn forget_logged(&mut self, is_over: impl Fn(&Logged) -> bool) -> Vec<Ofs> {
        let mut over = Vec::new();
        self.logged.retain(|logged| {
            let is_over = is_over(logged);
            if is_over {
                over.push(logged.of.clone());
            }
            !is_over
        });
        over.iter().for_each(|of| self.count(of, -1));
        over
    }

    /// Adds a hop to an entry of a queue.
    pub(crate) fn note(&mut self, now: Now, queue: QueueKey, seq: u64, hop: impl FnOnce() -> Hop) {
        let Some(place) = self.entries.get_mut(&(queue, seq)) else {
            return;
        };
        let hop = hop();
        match hop.kind {
            HopKind::Delivered | HopKind::Fetched | HopKind::SentAgain => place.is_out = true,
            HopKind::Requeued => place.is_out = false,
            _ => {}
        }
        let of = place.of.clone();
        self.add(now, &of, hop);
    }

    /// The entry left its queue.
    pub(crate) fn forget(&mut self, queue: QueueKey, seq: u64) -> Ofs {
        let Some(Place { of, .. }) = self.entries.remove(&(queue, seq)) else {
            return Ofs::new();
        };
        self.charge.shrink(PLACE_BYTES);
        self.count(&of, -1);
        of
    }

    /// Followed entries of a queue: those that wait and, if `out`, also those at consumers.
    pub(crate) fn entries_of(&self, queue: QueueKey, out: bool) -> Vec<u64> {
        let of_queue = self.entries.iter().filter(|((of, _), _)| *of == queue);
        let wanted = of_queue.filter(|(_, place)| out || !place.is_out);
        let mut found: Vec<u64> = wanted.map(|((_, seq), _)| *seq).collect();
        found.sort_unstable();
        found
    }

    /// The traced messages of the current publish.
    pub(crate) fn current(&self) -> Ofs {
        self.current.clone()
    }

    /// The current publish was refused, and will be dead-lettered.
    pub(crate) fn postpone(&mut self, message: &Message) {
        if self.has_current() {
            self.send_on(message, self.current(), Origin::Gateway);
        }
    }

    /// A dead letter or a will is to be published.
    pub(crate) fn send_on(&mut self, message: &Message, of: Ofs, origin: Origin) {
        if self.underway.len() < UNDERWAY_MAX {
            self.count(&of, 1);
            let message = message.clone();
            self.underway.push_back(Underway { message, of, origin });
        }
    }

    /// Adds a hop to messages.
    pub(crate) fn add(&mut self, now: Now, of: &[Of], hop: Hop) {
        let names = hop.reason.as_ref().map_or(0, |reason| text(reason.len()));
        let to = hop.to.as_ref().map_or(0, |(a, b)| text(a.len()) + text(b.len()));
        let bytes = HOP_BYTES + names + to;
        for of in of {
            let has_room = self.charge.bytes() + bytes <= BYTES_MAX;
            let Some(trace) = self.list.iter_mut().find(|trace| trace.id == of.trace) else {
                continue;
            };
            let Some(message) = trace.messages.get_mut(of.message as usize) else {
                continue;
            };
            if !has_room || message.hops.len() >= HOPS_MAX {
                message.left_out += 1;
                continue;
            }
            message.hops.push(Hop {
                at: now.monotonic,
                ..hop.clone()
            });
            spend(&mut self.charge, trace, bytes);
        }
    }

    /// Counts the places of messages.
    fn count(&mut self, of: &[Of], more: isize) {
        for of in of {
            if let Some(trace) = self.find(of.trace) {
                trace.places = trace.places.saturating_add_signed(more);
                let has_none = trace.places == 0;
                self.may_end |= has_none;
            }
        }
    }
}

/// What a retained message costs that is followed.
fn retained_bytes(topic: &[u8]) -> usize {
    hashed::<(Box<[u8]>, Ofs)>() + allocation(topic.len())
}

/// The trace grows by so many bytes.
fn spend(charge: &mut Charge, trace: &mut Trace, bytes: usize) {
    charge.grow(bytes);
    trace.bytes += bytes;
}
