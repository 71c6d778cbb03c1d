//! Publishing: from a command to the queues, the log, and the confirm.
//!
//! A confirm is a watermark per publisher. A publish that must wait for the log joins the publisher's *confirm entry* of
//! the open batch; the entry is over when the batch is durable, or as soon as every one of its messages was settled by
//! all its consumers before it was written.

use super::Engine;
use super::budget::Budget;
use super::log_waits::Waiter;
use super::routing::{RouteBy, Routing, Source};
use super::staging::Staging;
use crate::catalog;
use crate::command::{Channel as ChannelNumber, PublishFlags};
use crate::durable_session::INCOMING_ID_BYTES;
use crate::event::{Event, Op, Pressure};
use crate::fault::{Fault, FaultKind};
use crate::ledger::ObjectKind;
use crate::message::{Dialect, EXCHANGE_NAME_MAX, Message};
use crate::properties::{Codecs, Name};
use crate::queue::arguments::Overflow;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::queue::ready::Head;
use crate::queue::{HAND_OUT_AHEAD, Queue, QueueKind};
use crate::retained::{Change, Retained};
use crate::router::{Admission, Target};
use crate::slots::{Link, QueueKey};
use crate::store::{Durability, Record, Route, Routes, State};
use slab::Slab;
use smallvec::SmallVec;

/// The confirm entries of all publishers.
#[derive(Default)]
pub(crate) struct Confirms {
    entries: Slab<ConfirmEntry>,
    /// Entries whose publisher is gone, freed when their batch is over: until then messages may still name them.
    orphans: Vec<(u64, u32)>,
}

/// The publishes of one channel in one batch that wait for it.
struct ConfirmEntry {
    link: Link,
    channel: ChannelNumber,
    ticket: u64,
    /// The most that one of them waits for.
    need: Durability,
    /// Messages that are neither written nor settled by all.
    outstanding: u32,
}

impl Confirms {
    /// Nobody waits for the entry any more. `durable`: the last batch the log has reported.
    pub(crate) fn orphan(&mut self, key: u32, durable: u64) {
        match self.entries.get(key as usize) {
            // Its batch is over: no report will come that frees it, and no message names it any more.
            Some(e) if e.ticket <= durable => drop(self.entries.remove(key as usize)),
            Some(e) => self.orphans.push((e.ticket, key)),
            None => {}
        }
    }
    /// Whether what the entry waits for has come, or is not needed any more.
    fn is_over(&self, key: u32, staging: &Staging) -> bool {
        let entry = self.entries.get(key as usize);
        entry.is_none_or(|e| e.outstanding == 0 || e.ticket <= staging.reached(e.need))
    }
    /// Publishers' batches that are waited for.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
    #[cfg(feature = "testing")]
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.orphans.is_empty()
    }
    pub(crate) fn free_orphans(&mut self, durable: u64) {
        self.orphans.retain(|&(ticket, key)| {
            if ticket <= durable {
                self.entries.try_remove(key as usize);
            }
            ticket > durable
        });
    }
}

/// What became of a message at its queues.
#[derive(Default)]
pub(super) struct Enqueued {
    /// Queues that took it.
    pub(super) queues: usize,
    /// A queue refused it, or the log has no room for it.
    pub(super) refused: Option<FaultKind>,
    /// It is staged for the log, and the neediest of its queues needs this.
    pub(super) logged: Option<Durability>,
    /// It is its topic's retained message, and the log is told.
    pub(super) retained: bool,
}

/// Who publishes wills and dead letters.
pub(super) const NOBODY: Link = Link {
    slot: u32::MAX,
    generation: 0,
};

/// A publish of a link. See [`crate::command::Command::Publish`].
pub(crate) struct Publish {
    pub(crate) channel: ChannelNumber,
    pub(crate) flags: PublishFlags,
    pub(crate) packet_id: u16,
    pub(crate) message: Message,
}

/// What a publish waits for.
enum Wait<'a> {
    Nothing,
    /// The message's own record: its consumers may be faster than the log.
    Message(&'a Message, Durability),
    /// A batch.
    Batch(u64, Durability),
}

impl Engine {
    /// Publishes a message for a link. It comes back if the hold ends before all its queues are found: others take their turn,
    /// and it goes on as the first command of the link's next hold. Until then nothing of it is in any queue.
    pub(crate) fn publish(&mut self, link: Link, publish: Publish, budget: &mut Budget) -> Result<(), Message> {
        let Publish {
            channel,
            flags,
            packet_id,
            message,
        } = publish;
        let confirm = flags.contains(PublishFlags::CONFIRM);
        let Some(l) = self.links.get_mut(link) else {
            return Ok(());
        };
        let mut stopped = l.routing.take().and_then(|routing| routing.of(&message));
        let known_id = packet_id != 0
            && self
                .session_of(link)
                .is_some_and(|(_, s)| s.incoming.contains(&packet_id));
        let group = self.staging.group_start();
        let message = match stopped {
            Some(_) => message,
            None => reply_addressed(&message, &self.settings.topic_exchange).unwrap_or(message),
        };
        let result = if known_id {
            Ok(Enqueued::default())
        } else if confirm && !flags.contains(PublishFlags::PATIENT) && !self.can_retain(&message) {
            // Its publisher can be told, and so decides: nothing of it is kept.
            Ok(Enqueued {
                refused: Some(self.refuse(ObjectKind::Retained).kind),
                ..Enqueued::default()
            })
        } else {
            let route = RouteBy::Steps(&mut stopped, budget);
            match self.route_and_enqueue(link, &message, route, &[]) {
                Ok(Some(enqueued)) => Ok(enqueued),
                Ok(None) => {
                    // Nothing else of this publisher comes before it: it is the first command of its next hold.
                    if let (Some(l), Some(walk)) = (self.links.get_mut(link), stopped) {
                        l.routing = Some(Box::new(Routing::new(&message, walk)));
                    }
                    return Err(message);
                }
                Err(fault) => Err(fault),
            }
        };
        self.counters.published += 1;
        let Some(l) = self.links.get_mut(link) else {
            return Ok(());
        };
        l.publishes = true;
        let mut number = 0;
        if confirm {
            let publisher = &mut l.channel(channel).publisher;
            publisher.numbered += 1;
            number = publisher.numbered;
            self.counters.published_confirm += 1;
        }
        // An incoming QoS 2 id is remembered before its PUBREC; the duplicate of a known one is only confirmed.
        let mut incoming = None;
        if packet_id != 0
            && let Some((_, session)) = self.session_of(link)
        {
            if !session.incoming.insert(packet_id) {
                // The first one may have come over an earlier connection, and still be on its way to the log.
                let node = self.staging.durability();
                let wait = self.staging.wait_for_all();
                let wait = wait.map_or(Wait::Nothing, |ticket| Wait::Batch(ticket, node));
                self.confirm(link, channel, number, wait);
                return Ok(());
            }
            session.charge.grow(INCOMING_ID_BYTES);
            let queue = session.queue.filter(|_| session.kept);
            incoming = queue.and_then(|queue| self.queues.get(queue)).map(|q| q.id);
        }
        let enqueued = match result {
            Ok(enqueued) => enqueued,
            Err(fault) => {
                if flags.contains(PublishFlags::LENIENT) && fault.kind == FaultKind::NotFound {
                    Enqueued::default()
                } else {
                    let why = fault.kind;
                    self.forget_incoming(link, packet_id);
                    if !confirm || self.session_of(link).is_none() {
                        // No confirm: the session answers with an error of its own, which must not come after an ack.
                        self.fail(link, channel, Op::Publish, fault);
                        return Ok(());
                    }
                    // An MQTT client is told by reason code, publish by publish; a refused id is new the next time.
                    // MQTT 5 4.3.3 [MQTT-4.3.3-9]
                    if let Some(l) = self.links.get_mut(link) {
                        l.verdicts.push_back(Event::Refused { channel, number, why });
                    }
                    self.confirm(link, channel, number, Wait::Nothing);
                    return Ok(());
                }
            }
        };
        if let Some(why) = enqueued.refused {
            self.counters.refused += 1;
            self.forget_incoming(link, packet_id);
            incoming = None;
            if confirm && let Some(l) = self.links.get_mut(link) {
                l.verdicts.push_back(Event::Refused { channel, number, why });
            }
        } else if enqueued.queues == 0 {
            if flags.contains(PublishFlags::MANDATORY) {
                self.counters.unroutable_returned += 1;
                if let Some(l) = self.links.get_mut(link) {
                    l.verdicts.push_back(Event::Returned {
                        channel,
                        number,
                        message: message.clone(),
                    });
                }
            } else {
                self.counters.unroutable_dropped += 1;
            }
        } else {
            self.counters.routed += 1;
        }
        if let Some(queue) = incoming {
            // The id and its message are there together or not at all: a message without it would be stored again when
            // its publisher sends it again, an id without its message would keep it out.
            self.staging.record(Record::State(State::IncomingId {
                queue,
                packet_id,
                held: true,
            }));
            self.staging.group_end(group);
        }
        // A message that only waits for its own record may be confirmed early by its consumers; one that waits for
        // something else in the batch may not.
        let wait = if !confirm {
            Wait::Nothing
        } else if incoming.is_some() || enqueued.retained {
            // Both are the node's, like the definitions.
            let node = self.staging.durability();
            let need = enqueued.logged.map_or(node, |need| need.max(node));
            Wait::Batch(self.staging.wait_for(need), need)
        } else if let Some(need) = enqueued.logged {
            Wait::Message(&message, need)
        } else {
            Wait::Nothing
        };
        self.confirm(link, channel, number, wait);
        budget.spend(enqueued.queues);
        Ok(())
    }

    fn forget_incoming(&mut self, link: Link, packet_id: u16) {
        if packet_id != 0
            && let Some((_, session)) = self.session_of(link)
            && session.incoming.remove(&packet_id)
        {
            session.charge.shrink(INCOMING_ID_BYTES);
        }
    }

    /// Numbers a publish as waiting (for its message's record, or for the whole batch) or as ready.
    fn confirm(&mut self, link: Link, channel: ChannelNumber, number: u64, wait: Wait<'_>) {
        if number == 0 {
            return;
        }
        let Some(l) = self.links.get_mut(link) else {
            return;
        };
        let publisher = &mut l.channel(channel).publisher;
        let (awaited, message) = match wait {
            Wait::Nothing => (None, None),
            Wait::Message(message, need) => (Some((self.staging.wait_for(need), need)), Some(message)),
            Wait::Batch(ticket, need) => (Some((ticket, need)), None),
        };
        let Some((ticket, need)) = awaited else {
            match publisher.pending.back_mut() {
                // Behind one that waits: it is passed together with that one.
                Some((upto, _)) => *upto = number,
                None => publisher.ready = number,
            }
            l.note_confirms(channel);
            return;
        };
        let (key, known) = match publisher.pending.back_mut() {
            Some((upto, key))
                if self
                    .confirms
                    .entries
                    .get(*key as usize)
                    .is_some_and(|e| e.ticket == ticket) =>
            {
                *upto = number;
                (*key, true)
            }
            _ => {
                let entry = ConfirmEntry {
                    link,
                    channel,
                    ticket,
                    need,
                    outstanding: 0,
                };
                let key = self.confirms.entries.insert(entry) as u32;
                publisher.pending.push_back((number, key));
                (key, false)
            }
        };
        if let Some(entry) = self.confirms.entries.get_mut(key as usize) {
            entry.outstanding += 1;
            let need = entry.need.max(need);
            let known = known && entry.need == need;
            entry.need = need;
            match need {
                _ if known => {}
                Durability::Os => self.waits.for_written(ticket, Waiter::Channel(link, channel)),
                Durability::Interval | Durability::Always => {
                    self.waits.for_durable(ticket, Waiter::Channel(link, channel));
                }
            }
        }
        if let Some(message) = message {
            message.log_state().set_confirm(Some(key));
        }
    }

    /// A message was settled by all before it was written: its publisher need not wait for it.
    pub(crate) fn confirm_cancelled(&mut self, message: &Message) {
        self.counters.cancelled_writes += 1;
        let Some(key) = message.log_state().confirm() else {
            return;
        };
        let Some(entry) = self.confirms.entries.get_mut(key as usize) else {
            return;
        };
        entry.outstanding = entry.outstanding.saturating_sub(1);
        if entry.outstanding == 0 {
            let (link, channel) = (entry.link, entry.channel);
            if let Some(l) = self.links.get_mut(link) {
                l.note_confirms(channel);
                l.wake(&mut self.wakes);
            }
        }
    }

    /// Whether the oldest publish the channel waits with is through.
    #[cfg(feature = "testing")]
    pub(crate) fn is_confirm_over(&self, publisher: &super::link::Publisher) -> bool {
        let over = |key: u32| self.confirms.is_over(key, &self.staging);
        publisher.pending.front().is_some_and(|(_, key)| over(*key))
    }

    /// Derives the confirms of the link's channels whose watermark may have moved.
    pub(crate) fn take_confirms(&mut self, link: Link, events: &mut Vec<Event>) {
        let Some(l) = self.links.get_mut(link) else {
            return;
        };
        let mut dirty = std::mem::take(&mut l.confirm_dirty);
        for channel in dirty.drain(..) {
            let Some(c) = l.find_channel(channel) else { continue };
            let publisher = &mut c.publisher;
            while let Some(&(upto, key)) = publisher.pending.front() {
                if !self.confirms.is_over(key, &self.staging) {
                    break;
                }
                publisher.ready = upto;
                publisher.pending.pop_front();
                self.confirms.entries.try_remove(key as usize);
            }
            if publisher.ready > publisher.told {
                self.counters.confirmed += publisher.ready - publisher.told;
                publisher.told = publisher.ready;
                events.push(Event::Confirmed {
                    channel,
                    upto: publisher.ready,
                });
            }
        }
        l.confirm_dirty = dirty;
    }

    /// Finds the message's queues, puts it into them, and stages it for the log. Finding them may take several holds; `None`
    /// is returned before the last. Putting it into them is one hold, whatever their number: it is one record with the
    /// sequences of all. With `queues_max` of 10,000 that is 0.7 to 1.7 ms, with 100,000 queues 17.
    pub(super) fn route_and_enqueue(
        &mut self,
        link: Link,
        message: &Message,
        route: RouteBy<'_>,
        skip: &[Name],
    ) -> Result<Option<Enqueued>, Fault> {
        let envelope = *message.envelope();
        let own_session = self.links.get_mut(link).and_then(|l| l.session);
        let targets = match route {
            RouteBy::Targets(targets) => targets,
            RouteBy::Steps(stopped, budget) => {
                let extra = match stopped {
                    Some(_) => Vec::new(),
                    None => extra_keys(&self.codecs, message),
                };
                let known = match stopped {
                    // It was permitted when it began.
                    Some(_) => None,
                    None => {
                        let known = self.router.known_route(message, &extra);
                        self.permit_publish(link, message, &extra, known.map(|known| known.id))?;
                        known
                    }
                };
                match known {
                    Some(known) => self.router.targets_of(known),
                    None => match budget.route(&mut self.router, message, &extra, stopped)? {
                        Some(targets) => targets,
                        None => return Ok(None),
                    },
                }
            }
        };
        let mut enqueued = Enqueued::default();
        let retains = envelope.retain && *message.exchange() == *self.settings.topic_exchange;
        let full = self.node_pressure == Some(Pressure::Full);
        if full && link != NOBODY {
            let logged = |target: &Target| {
                let queue = self.queues.at(target.queue);
                queue
                    .and_then(|queue| self.queues.get(queue))
                    .is_some_and(|q| q.logs(&envelope, envelope.qos))
            };
            if (envelope.durable && retains && !message.body().is_empty()) || targets.iter().any(logged) {
                enqueued.refused = Some(FaultKind::ResourceError);
                return Ok(Some(enqueued));
            }
        }
        // What needs no log has nowhere else to go when memory is short, too.
        let short = full && self.memory.bytes_with_entries() > self.settings.memory_bytes_max;
        if short && link != NOBODY && !targets.is_empty() {
            enqueued.refused = Some(FaultKind::ResourceError);
            return Ok(Some(enqueued));
        }
        let mut routes = Routes::new();
        let mut limited: SmallVec<[QueueKey; 4]> = SmallVec::new();
        let mut refused: SmallVec<[QueueKey; 4]> = SmallVec::new();
        // With more than one queue, a refusal by one must not keep the others' copies from being made.
        for target in targets {
            let Some((key, queue)) = self.queues.at_mut(target.queue) else {
                debug_assert!(false, "the router forgets a queue before its slot is reused");
                continue;
            };
            if !skip.is_empty() && skip.contains(&queue.name) {
                continue;
            }
            let own = matches!((queue.kind, own_session), (QueueKind::Session(s), Some(o)) if s == o);
            let mut flags = EntryFlags::new(envelope.qos);
            let mut ids = None;
            match target.admission(own) {
                Admission::Plain => {}
                Admission::NoLocal => continue,
                Admission::Granted(granted) => {
                    flags = EntryFlags::new(envelope.qos.min(granted.qos));
                    if envelope.retain && granted.retain_as_published {
                        flags.set(EntryFlags::RETAIN);
                    }
                    ids = granted.subscription_ids.cloned();
                }
            }
            if queue.kind != QueueKind::Plain && flags.qos() == 0 {
                // At most once: a subscriber that is away or too slow does without. Others are not held up by it.
                if queue.ready.len() >= self.settings.qos0_backlog_max || queue.consumers.is_empty() {
                    self.counters.dropped_full += 1;
                    continue;
                }
            } else if queue.kind == QueueKind::Plain && refuses(queue, message, (0, 0)) {
                enqueued.refused = Some(FaultKind::QuotaExceeded);
                self.counters.dropped_full += 1;
                if queue.arguments.overflow == Overflow::RejectPublishDeadLetter {
                    refused.push(key);
                }
                continue;
            }
            let priority = envelope.priority.unwrap_or(0).min(queue.arguments.priority_max);
            let seq = queue.next_seq;
            queue.next_seq += 1;
            if queue.logs(&envelope, flags.qos()) {
                flags.set(EntryFlags::LOGGED);
                let need = queue.arguments.durability.unwrap_or(self.staging.durability());
                enqueued.logged = enqueued.logged.max(Some(need));
                if !queue.consumers.is_empty() && seq + HAND_OUT_AHEAD / 2 >= queue.marks.staged {
                    queue
                        .marks
                        .stage_at_publish(seq, self.staging.open_ticket(), self.staging.written_ticket());
                    let mark = State::HandedOut {
                        queue: queue.id,
                        upto: queue.marks.staged,
                    };
                    self.staging.record(Record::State(mark));
                }
                routes.push(Route {
                    queue: queue.id,
                    seq,
                    flags: if queue.arguments.priority_max > 0 {
                        flags.with_priority(priority).0
                    } else {
                        flags.0
                    },
                });
            }
            self.memory.pin(message);
            queue.ready.push_back(Entry {
                priority,
                seq,
                body: Body::Memory(message.clone()),
                flags,
                subscription_ids: ids,
            });
            enqueued.queues += 1;
            if queue.arguments.length_max.is_some() || queue.arguments.bytes_max.is_some() {
                limited.push(key);
            }
            self.memory.note_deep(queue, key);
            self.queues.touch(key);
        }
        self.counters.enqueued += enqueued.queues as u64;
        if !routes.is_empty() {
            message.log_state().stage(routes.len() as u32);
            message.log_state().set_confirm(None);
            self.staging.message(message.clone(), routes);
        }
        for queue in refused {
            // Its publisher hears that it was refused.
            let _ = self.dead_letter(queue, message, super::consuming::Death::MaxLength, Source::Nothing);
        }
        for queue in limited {
            self.enforce_limit(queue);
        }
        // MQTT 5 3.3.1.3: a retained message of QoS 0 may be discarded at any time. Clearing one frees room.
        if retains && (!full || message.body().is_empty()) {
            enqueued.retained = if self.fits_retained(message) {
                self.retain(message)
            } else {
                self.refuse(ObjectKind::Retained);
                self.drop_retained(message)
            };
        }
        Ok(Some(enqueued))
    }

    /// Whether there is memory for what is to be retained of the message, if anything is.
    fn can_retain(&self, message: &Message) -> bool {
        let retains = message.envelope().retain && *message.exchange() == *self.settings.topic_exchange;
        !retains || self.fits_retained(message)
    }

    /// Keeps the message as its topic's last value, in memory and in the log. Returns whether that must be waited for.
    fn retain(&mut self, message: &Message) -> bool {
        let key = catalog::retained_key(self.settings.number, &Retained::key_of(message));
        match self.retained.set(message) {
            Change::Stored(_) => {
                let value = catalog::encode_retained(message);
                self.staging.record(Record::Key {
                    key,
                    value: Some(value),
                });
                if let Some(deadline) = message.envelope().deadline {
                    let at = self.now.monotonic + (deadline - self.now.wall);
                    self.timers.set_retained(at);
                }
            }
            Change::Cleared(_) => self.staging.record(Record::Key { key, value: None }),
            Change::Nothing => return false,
        }
        message.envelope().durable
    }

    /// There is no memory for a new last value, and nobody who could be told (QoS 0, MQTT 3, a will): subscribers get the
    /// message, and the topic has no retained one. An outdated one would be worse than none.
    fn drop_retained(&mut self, message: &Message) -> bool {
        let envelope = *message.envelope();
        let empty = Message::new(envelope, message.exchange(), message.key(), &[], &[]);
        self.retain(&empty)
    }

    /// Makes room in a queue that is over its limit, oldest first.
    pub(crate) fn enforce_limit(&mut self, queue: QueueKey) {
        let over = |q: &Queue| {
            q.arguments.length_max.is_some_and(|max| q.ready.len() as u64 > max)
                || q.arguments.bytes_max.is_some_and(|max| q.ready.bytes() > max)
        };
        // One that refuses may be over its limit by what came back to it: that was confirmed, and stays.
        let drops = |q: &Queue| q.arguments.overflow == Overflow::DropHead && over(q);
        if !self.queues.get_mut(queue).is_some_and(|q| drops(q)) {
            return;
        }
        // A limit of nothing still lets a message pass straight to a consumer.
        self.dispatch(queue);
        let (dead_letters, short) = (self.has_dead_letters(queue), self.is_disk_short());
        while let Some(q) = self.queues.get_mut(queue)
            && over(q)
        {
            if let Head::Entry(front) = q.ready.head()
                && short
                && dead_letters
            {
                let body = front.body.clone();
                if self.dies_later(queue, &body) {
                    // Goes on when the disk has room.
                    return;
                }
            }
            let Some(q) = self.queues.get_mut(queue) else { return };
            let is_here = match q.ready.head() {
                // What dies is published elsewhere: its body is needed.
                Head::Entry(front) => !dead_letters || matches!(front.body, Body::Memory(_)),
                Head::Paged | Head::Empty => false,
            };
            if !is_here {
                // Goes on when it is.
                self.load_head(queue);
                return;
            }
            let Some(entry) = q.ready.pop_front() else { return };
            self.counters.dropped_full += 1;
            self.drop_entry(queue, entry, super::consuming::Death::MaxLength);
        }
    }
}

/// Keys of the default exchange under which a reply reaches a topic or an exchange of another dialect.
const REPLY_TO_TOPIC: &str = "amq.gatepost.topic.";
const REPLY_TO_EXCHANGE: &str = "amq.gatepost.x.";
/// Topics under which a reply reaches a queue or an exchange.
const REPLY_TO_QUEUE: &str = "$queue/";
const REPLY_VIA_EXCHANGE: &str = "$exchange/";

/// A reply to an address of another dialect, as that dialect's publishers would have addressed it.
///
/// A request's reply address crosses protocols as one of these names, so that a stock client of the other protocol can
/// answer by publishing to it as it always does.
fn reply_addressed(message: &Message, topic_exchange: &str) -> Option<Message> {
    let key = message.key_bytes();
    let (exchange, key) = match (message.envelope().dialect, key.first()?) {
        (Dialect::Dot, b'a') if message.exchange_bytes().is_empty() => {
            let key = message.key();
            match key.strip_prefix(REPLY_TO_TOPIC) {
                Some(topic) => (topic_exchange, topic),
                None => key.strip_prefix(REPLY_TO_EXCHANGE)?.split_once('/')?,
            }
        }
        (Dialect::Slash, b'$') => {
            let key = message.key();
            match key.strip_prefix(REPLY_TO_QUEUE) {
                Some(queue) => ("", queue),
                None => key.strip_prefix(REPLY_VIA_EXCHANGE)?.split_once('/')?,
            }
        }
        _ => return None,
    };
    // No exchange has so long a name: the message goes where its own address leads, which is nowhere.
    if exchange.len() > EXCHANGE_NAME_MAX {
        return None;
    }
    let mut envelope = *message.envelope();
    envelope.dialect = Dialect::Dot;
    envelope.retain = false;
    Some(message.readdressed(envelope, exchange, key, message.properties_raw()))
}

/// Further routing keys the message's properties name.
pub(super) fn extra_keys(codecs: &Codecs, message: &Message) -> Vec<Name> {
    let envelope = message.envelope();
    if envelope.extra_keys {
        codecs.extra_keys(envelope.origin, message.properties_raw())
    } else {
        Vec::new()
    }
}

/// Whether a full queue turns the message away, if `ahead` (messages, bytes) are put into it before.
pub(crate) fn refuses(queue: &Queue, message: &Message, ahead: (u64, u64)) -> bool {
    let a = &queue.arguments;
    if a.overflow == Overflow::DropHead {
        return false;
    }
    let bytes = queue.ready.bytes() + ahead.1 + message.body().len() as u64;
    a.length_max
        .is_some_and(|max| queue.ready.len() as u64 + ahead.0 >= max)
        || a.bytes_max.is_some_and(|max| bytes > max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Envelope;

    /// A peer that published to `$exchange/` and 300 octets more ended the process: a message holds no such name.
    #[test]
    fn a_reply_to_an_exchange_no_name_can_have_stays_where_it_is_addressed() {
        let slash = Envelope {
            dialect: Dialect::Slash,
            ..Envelope::default()
        };
        let addressed = |name: usize| {
            let topic = format!("$exchange/{}/k", "x".repeat(name));
            reply_addressed(&Message::new(slash, "amq.topic", &topic, b"", b""), "amq.topic")
        };
        assert_eq!(addressed(255).map(|m| m.key().to_owned()).as_deref(), Some("k"));
        assert!(addressed(256).is_none());
        let key = format!("amq.gatepost.x.{}/k", "x".repeat(300));
        let reply = Message::new(Envelope::default(), "", &key, b"", b"");
        assert!(reply_addressed(&reply, "amq.topic").is_none());
    }
}
