//! Publishing: from a command to the queues, the log and the confirm.

use super::Engine;
use super::budget::Budget;
use super::confirms::Waiting;
use super::counters::Limit;
use super::enqueuing::{Afterwards, Enqueued, Enqueuing};
use super::flow_counts::Watch;
use super::log_waits::Waiter;
use super::queues::Queues;
use super::reply_address::reply_addressed;
use super::routing::RouteBy;
use super::unfinished::Routing;
use crate::binding::QueueSlot;
use crate::command::{Channel as ChannelNumber, PublishFlags, TryPublish};
use crate::event::{Event, Op, Pressure};
use crate::fault::{Fault, FaultKind};
use crate::ledger::ObjectKind;
use crate::message::Message;
use crate::properties::{Codecs, Name};
use crate::retained::Retained;
use crate::router::{KnownRoute, Target, Walk};
use crate::slots::Link;
use crate::store::{Durability, QueueId, Record, State};
use smallvec::SmallVec;

/// A publish command of a link. See [`crate::command::Command::Publish`].
pub(crate) struct Publish {
    pub(crate) channel: ChannelNumber,
    pub(crate) flags: PublishFlags,
    pub(crate) packet_id: u16,
    pub(crate) message: Message,
}

/// A publish of a link after it got its number.
#[derive(Clone, Copy)]
struct Numbered {
    link: Link,
    channel: ChannelNumber,
    flags: PublishFlags,
    packet_id: u16,
    /// Its number on the channel; 0: it is not to be confirmed.
    number: u64,
}

/// The error for a QoS 2 publish that was sent again.
struct Duplicate;

/// Further keys of a message, and its route if it is remembered.
type Permitted = (Vec<Name>, Option<KnownRoute>);

/// What a publish waits for before it is confirmed.
enum Wait<'a> {
    Nothing,
    /// Its own record. Its consumers may settle it before that is written.
    Message(&'a Message, Durability),
    /// A whole batch.
    Batch(u64, Durability),
}

impl Engine {
    /// Publishes a message for a link. If the hold ends before all its queues are found, the message is returned: other
    /// links are served, and it continues as the first command of the link's next hold. Until then it is in no queue.
    pub(crate) fn publish(&mut self, link: Link, publish: Publish, budget: &mut Budget) -> Result<(), Message> {
        let Publish {
            channel,
            flags,
            packet_id,
            message,
        } = publish;
        let Some(l) = self.links.get_mut(link) else {
            return Ok(());
        };
        let stopped = l.routing.take().and_then(|routing| routing.of(&message));
        if l.awaits_walk && !self.may_walk(link) {
            return Err(message);
        }
        let group = self.staging.group_start();
        let (message, result) = if self.is_incoming(link, packet_id) {
            (message, Ok(Enqueued::default()))
        } else {
            self.find_and_enqueue(link, flags, message, stopped, budget)?
        };
        self.end_walk(link);
        let through = result.as_ref().ok().filter(|enqueued| enqueued.is_through());
        let is_through = through.is_some();
        let Some(number) = self.number_publish(link, channel, flags, &message, through) else {
            return Ok(());
        };
        let publish = Numbered {
            link,
            channel,
            flags,
            packet_id,
            number,
        };
        let mut incoming = None;
        if packet_id != 0 {
            match self.remember_incoming(link, packet_id) {
                Ok(queue) => incoming = queue,
                Err(Duplicate) => {
                    self.confirm_duplicate(publish);
                    return Ok(());
                }
            }
        }
        let enqueued = match result {
            Ok(enqueued) => enqueued,
            Err(fault) if flags.contains(PublishFlags::LENIENT) && fault.kind == FaultKind::NotFound => {
                self.trace_refused(link, &message, &fault.text);
                Enqueued::default()
            }
            Err(fault) => {
                self.trace_refused(link, &message, &fault.text);
                self.publish_failed(publish, fault);
                return Ok(());
            }
        };
        if !is_through {
            self.tell_of_publish(publish, &message, &enqueued);
        }
        incoming = incoming.filter(|_| enqueued.refused.is_none());
        if let Some(queue) = incoming {
            // The QoS 2 id and its message are logged together or not at all. A message without its id would be stored
            // again when its publisher repeats it; an id without its message would make the repeated publish be
            // ignored.
            self.staging.record(Record::State(State::IncomingId {
                queue,
                packet_id,
                held: true,
            }));
            self.staging.group_end(group);
        }
        if flags.contains(PublishFlags::CONFIRM) {
            if enqueued.traced {
                self.traces.await_confirm(link, channel, number);
                self.trace_unreleased(link, packet_id, &enqueued);
            }
            let wait = self.wait_of(&message, &enqueued, incoming.is_some());
            self.confirm(link, channel, number, wait);
        }
        budget.spend(enqueued.offered);
        Ok(())
    }

    /// Counts a publish and numbers it. `through`: some queue took it. Most are through, and their publisher is told no more than the confirm.
    /// Returns the publish's number on its channel; `None`: the link is gone.
    #[inline]
    fn number_publish(
        &mut self,
        link: Link,
        channel: ChannelNumber,
        flags: PublishFlags,
        message: &Message,
        through: Option<&Enqueued>,
    ) -> Option<u64> {
        let l = self.links.get_mut(link)?;
        l.publishes = true;
        let traffic = self.counters.of(l.traffic);
        traffic.published += 1;
        let size = message.body().len();
        traffic.published_bytes += size as u64;
        traffic.note_size(size);
        let confirm = flags.contains(PublishFlags::CONFIRM);
        traffic.published_confirm += u64::from(confirm);
        if let Some(enqueued) = through {
            traffic.routed += 1;
            if let Some(to) = enqueued.sent_to {
                l.note_sent(to, size);
            }
        }
        Some(l.count_publish(channel, confirm))
    }

    /// Fails the channel if the publish would be refused. See [`crate::command::Command::TryPublish`].
    pub(crate) fn try_publish(&mut self, link: Link, c: TryPublish) {
        let message = reply_addressed(&c.message, &self.settings.topic_exchange).unwrap_or(c.message);
        let extra = extra_keys(&self.codecs, &message);
        let refused = self
            .permit_publish(link, &message, &extra, None)
            .and_then(|()| self.router.check_publish(&message));
        if let Err(fault) = refused.and_then(|()| c.refused.map_or(Ok(()), Err)) {
            self.fail(link, c.channel, Op::Publish, fault);
        }
    }

    /// Finds the queues of a link's message and puts it into them. The message is returned if the hold ends before they
    /// are found.
    #[inline]
    fn find_and_enqueue(
        &mut self,
        link: Link,
        flags: PublishFlags,
        message: Message,
        mut stopped: Option<Box<Walk>>,
        budget: &mut Budget,
    ) -> Result<(Message, Result<Enqueued, Fault>), Message> {
        let message = match stopped {
            Some(_) => message,
            None => reply_addressed(&message, &self.settings.topic_exchange).unwrap_or(message),
        };
        let may_refuse = flags.contains(PublishFlags::CONFIRM) && !flags.contains(PublishFlags::PATIENT);
        if may_refuse && !self.can_retain(&message) {
            // The publisher can be told that it was refused, and may repeat it. So none of it is kept.
            let enqueued = Enqueued::refused(self.refuse(ObjectKind::Retained).kind, 0);
            return Ok((message, Ok(enqueued)));
        }
        let route = RouteBy::Steps(&mut stopped, budget);
        match self.route_and_enqueue(link, &message, route, &[]) {
            Ok(Some(enqueued)) => Ok((message, Ok(enqueued))),
            Ok(None) => {
                // No other publish of this link can overtake it: it is the first command of the link's next hold.
                if let Some(walk) = stopped
                    && self.keep_walk(link, walk.memory())
                    && let Some(l) = self.links.get_mut(link)
                {
                    l.routing = Some(Box::new(Routing::new(&message, walk)));
                }
                Err(message)
            }
            Err(fault) => Ok((message, Err(fault))),
        }
    }

    /// Notes that the publisher of a traced message is to release its packet id, if it has one.
    #[cold]
    #[inline(never)]
    fn trace_unreleased(&mut self, link: Link, packet_id: u16, enqueued: &Enqueued) {
        if packet_id != 0
            && enqueued.refused.is_none()
            && let Some(session) = self.links.get(link).and_then(|l| l.session)
        {
            self.traces.await_release(session, packet_id);
        }
    }

    /// Whether that QoS 2 id of the link's client is known, so that its message is stored already.
    fn is_incoming(&mut self, link: Link, packet_id: u16) -> bool {
        packet_id != 0
            && self
                .session_of(link)
                .is_some_and(|(_, s)| s.incoming.contains(&packet_id))
    }

    /// Remembers a QoS 2 id before its PUBREC. If the session is kept, returns the queue whose records contain the id.
    fn remember_incoming(&mut self, link: Link, packet_id: u16) -> Result<Option<QueueId>, Duplicate> {
        let Some((_, session)) = self.session_of(link) else {
            return Ok(None);
        };
        if !session.incoming.insert(packet_id) {
            return Err(Duplicate);
        }
        session.account_ids();
        let queue = session.queue.filter(|_| session.kept());
        Ok(queue.and_then(|queue| self.queues.get(queue)).map(|q| q.id))
    }

    fn forget_incoming(&mut self, link: Link, packet_id: u16) {
        if packet_id != 0
            && let Some((_, session)) = self.session_of(link)
        {
            session.forget_incoming(packet_id);
        }
    }

    /// Confirms a repeated publish without storing it. The first one may have come over an earlier connection, and may
    /// not be logged yet.
    fn confirm_duplicate(&mut self, publish: Numbered) {
        let node = self.staging.durability();
        let wait = self.staging.wait_for_all();
        let wait = wait.map_or(Wait::Nothing, |ticket| Wait::Batch(ticket, node));
        self.confirm(publish.link, publish.channel, publish.number, wait);
    }

    /// Reports a publish that was refused or whose exchange does not exist.
    fn publish_failed(&mut self, publish: Numbered, fault: Fault) {
        let Numbered {
            link,
            channel,
            number,
            packet_id,
            ..
        } = publish;
        self.forget_incoming(link, packet_id);
        if number == 0 || self.session_of(link).is_none() {
            // No confirm: the session closes with an error, and no ack may precede that.
            self.fail(link, channel, Op::Publish, fault);
            return;
        }
        // MQTT reports an error for each publish in its reason code. The id of a refused publish may be used anew. MQTT
        // 5 4.3.3 [MQTT-4.3.3-9]
        let why = fault.kind;
        if let Some(l) = self.links.get_mut(link) {
            l.verdicts.push_back(Event::Refused { channel, number, why });
        }
        self.confirm(link, channel, number, Wait::Nothing);
    }

    /// Counts a publish that no queue took or that one refused, and tells the publisher what has to precede its confirm.
    #[inline(never)]
    fn tell_of_publish(&mut self, publish: Numbered, message: &Message, enqueued: &Enqueued) {
        let Numbered {
            link,
            channel,
            number,
            flags,
            packet_id,
        } = publish;
        let Some(l) = self.links.get_mut(link) else { return };
        if let Some(to) = enqueued.sent_to {
            l.note_sent(to, message.body().len());
        }
        let traffic = self.counters.of(l.traffic);
        if let Some(why) = enqueued.refused {
            traffic.refused += 1;
            if number != 0 {
                l.verdicts.push_back(Event::Refused { channel, number, why });
            }
            self.forget_incoming(link, packet_id);
            if !enqueued.traced {
                self.trace_refused(link, message, "there is no room for it");
            }
        } else if !flags.contains(PublishFlags::MANDATORY) {
            traffic.unroutable_dropped += 1;
            // A queue that is on the route and does not take it (no local, a full QoS 0 backlog) matches, too.
            if enqueued.offered == 0 && flags.contains(PublishFlags::TELL_UNROUTED) {
                l.verdicts.push_back(Event::Unrouted { channel, number });
            }
            if let Some(c) = l.find_channel(channel) {
                c.seldom.make().unroutable_dropped += 1;
            }
        } else {
            traffic.unroutable_returned += 1;
            if let Some(c) = l.find_channel(channel) {
                c.seldom.make().unroutable_returned += 1;
            }
            let message = message.clone();
            l.verdicts.push_back(Event::Returned {
                channel,
                number,
                message,
            });
            if enqueued.traced {
                self.traces.returned(self.now);
            }
        }
    }

    /// What the confirm of a publish waits for. If it is only the message's own record, consumers that settle it
    /// earlier confirm it. If it is something else in the batch, they do not.
    #[inline]
    fn wait_of<'m>(&mut self, message: &'m Message, enqueued: &Enqueued, has_incoming_id: bool) -> Wait<'m> {
        if has_incoming_id || enqueued.retained {
            // Both wait for the node's durability, like definitions.
            let node = self.staging.durability();
            let need = enqueued.logged.map_or(node, |need| need.max(node));
            return Wait::Batch(self.staging.wait_for(need), need);
        }
        match enqueued.logged {
            Some(need) => Wait::Message(message, need),
            None => Wait::Nothing,
        }
    }

    /// Confirms a publish, now or when what it waits for has happened.
    fn confirm(&mut self, link: Link, channel: ChannelNumber, number: u64, wait: Wait<'_>) {
        if number == 0 {
            return;
        }
        let Some(l) = self.links.get_mut(link) else {
            return;
        };
        let (ticket, need, message) = match wait {
            Wait::Nothing => {
                l.channel(channel).publisher.needs_no_wait(number);
                return l.note_confirms(channel);
            }
            Wait::Message(message, need) => (self.staging.wait_for(need), need, Some(message)),
            Wait::Batch(ticket, need) => (ticket, need, None),
        };
        let waiting = Waiting {
            link,
            channel,
            number,
            ticket,
            need,
        };
        let publisher = &mut l.channel(channel).publisher;
        let (key, is_news) = self.confirms.add(publisher, waiting);
        if is_news {
            match need {
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

    /// All consumers settled a message before it was written, so its publisher need not wait for the log.
    pub(crate) fn confirm_cancelled(&mut self, message: &Message) {
        self.counters.cancelled_writes += 1;
        let key = message.log_state().confirm();
        if let Some((link, channel)) = key.and_then(|key| self.confirms.settled_early(key))
            && let Some(l) = self.links.get_mut(link)
        {
            l.note_confirms(channel);
            l.wake(&mut self.wakes);
        }
    }

    /// Confirms publishes on channels of the link whose watermark may have moved.
    pub(crate) fn take_confirms(&mut self, link: Link, events: &mut Vec<Event>) {
        let Some(l) = self.links.get_mut(link) else {
            return;
        };
        let mut dirty = std::mem::take(&mut l.confirm_dirty);
        let traffic = self.counters.of(l.traffic);
        for channel in dirty.drain(..) {
            let Some(c) = l.find_channel(channel) else { continue };
            self.confirms.pass(&mut c.publisher, &self.staging);
            if let Some((upto, more)) = c.publisher.tell() {
                traffic.confirmed += more;
                events.push(Event::Confirmed { channel, upto });
                if self.traces.is_any_awaited() {
                    self.traces.confirmed(self.now, link, channel, upto);
                }
            }
        }
        l.confirm_dirty = dirty;
    }

    /// Finds the message's queues, puts it into them, and stages it for the log. Finding them may take several holds;
    /// `None` is returned if it is not done. Putting it into them is one hold, however many they are: one record has
    /// the sequences in all queues, so that after a crash it is in all of them or in none. Otherwise a repeated QoS 2
    /// message would be there twice. With `queues_max` of 10,000 that takes 0.7 to 1.7 ms, with 100,000 queues 17.
    pub(super) fn route_and_enqueue(
        &mut self,
        link: Link,
        message: &Message,
        route: RouteBy<'_>,
        skip: &[Name],
    ) -> Result<Option<Enqueued>, Fault> {
        let mut known_route = None;
        let targets = match route {
            RouteBy::Targets(targets) => {
                self.router.name_exchange(message.exchange());
                targets
            }
            RouteBy::Steps(stopped, budget) => {
                // A walk that stopped was permitted when it began, and it holds the further keys.
                let (extra, known) = match stopped {
                    Some(_) => (Vec::new(), None),
                    None => match self.permitted_route(link, message)? {
                        Some(route) => route,
                        None => return Ok(None),
                    },
                };
                known_route = known;
                match known {
                    Some(known) => self.router.targets_of(known),
                    None => {
                        let found = budget.route(&mut self.router, message, &extra, stopped);
                        match found.inspect_err(|fault| self.counters.note_unroutable(fault))? {
                            Some(targets) => targets,
                            None => return Ok(None),
                        }
                    }
                }
            }
        };
        let retains = message.envelope().retain && *message.exchange() == *self.settings.topic_exchange;
        let is_full = self.node_pressure == Some(Pressure::Full);
        if is_full && link != Link::NOBODY {
            let is_short = self.memory.bytes_with_entries() > self.settings.memory_bytes_max;
            if is_refused_when_full(&self.queues, message, targets, retains, is_short) {
                return Ok(Some(Enqueued::refused(FaultKind::ResourceError, targets.len())));
            }
        }
        let publisher = self.links.get(link);
        // The node's own topics are never logged: a restart publishes them again.
        let is_of_node = publisher.is_some_and(|l| l.access.is_of_node());
        let enqueuing = Enqueuing {
            queues: &mut self.queues,
            memory: &mut self.memory,
            staging: &mut self.staging,
            counters: &mut self.counters,
            qos0_backlog_max: self.settings.qos0_backlog_max,
            publisher: publisher.and_then(|l| l.session),
            skip,
        };
        let mut after = Afterwards::default();
        let mut enqueued = enqueuing.put(message, targets, &mut after);
        match self.flow.watch() {
            Watch::Flow if !is_of_node => {
                self.flow.note();
                let bytes = message.body().len();
                enqueued.sent_to = Some(match known_route {
                    Some(known) => self.router.note(known, bytes),
                    None if message.exchange_bytes().is_empty() => self.flow.note_by_name(targets, bytes),
                    None => {
                        let queues = slots_of(targets);
                        self.note_walked(message, &queues)
                    }
                });
            }
            Watch::Nothing | Watch::Flow => {}
            Watch::Traces | Watch::TracesAndFlow => {
                let route = match known_route {
                    Some(known) => Ok(known),
                    None => Err(slots_of(targets)),
                };
                self.watch_traced(link, message, route, (skip, is_of_node), &mut enqueued);
            }
        }
        if !is_of_node {
            self.router.count_publish(enqueued.queues);
        }
        if !(after.refused.is_empty() && after.limited.is_empty()) {
            self.see_to_limits(message, after);
        }
        if retains {
            self.retain_published(message, is_of_node, is_full, &mut enqueued);
        }
        Ok(Some(enqueued))
    }

    /// Stores a message as its topic's retained message, if it is to be retained.
    fn retain_published(&mut self, message: &Message, is_of_node: bool, is_full: bool, enqueued: &mut Enqueued) {
        let is_cleared = message.body().is_empty();
        // What there is no memory for is not retained, and traces must not say so.
        let is_traced = enqueued.traced && (is_cleared || self.fits_retained(message));
        // MQTT 5 3.3.1.3: a retained message of QoS 0 may be discarded at any time. Clearing one frees space, so it is
        // always done.
        if is_of_node {
            self.retain_unlogged(message);
        } else if !is_full || is_cleared {
            enqueued.retained = self.retain_or_drop(message);
        } else {
            return;
        }
        if is_traced {
            let topic = (!is_cleared).then(|| Retained::key_of(message));
            self.traces.retained(self.now, topic);
        }
    }

    /// The further keys of a message that its publisher may publish to, and its route if it is remembered. `None`: the
    /// publish waits until an external server has answered.
    #[inline]
    fn permitted_route(&mut self, link: Link, message: &Message) -> Result<Option<Permitted>, Fault> {
        let mut extra = Vec::new();
        if message.envelope().extra_keys {
            extra = extra_keys(&self.codecs, message);
            if link != Link::NOBODY {
                self.check_keys(&extra)?;
            }
        }
        let known = self.router.known_route(message, &extra);
        match self.permit_publish(link, message, &extra, known) {
            Ok(()) => Ok(Some((extra, known))),
            Err(_) if self.awaits_answer(link) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Refuses a message with too many routing keys.
    pub(super) fn check_keys(&mut self, extra: &[Name]) -> Result<(), Fault> {
        let max = self.settings.message_keys_max;
        if extra.len() <= max {
            return Ok(());
        }
        self.counters.refused_by(Limit::MessageKeys);
        let text = format!(
            "message has {} keys in CC and BCC, more than the limit ({max})",
            extra.len()
        );
        Err(Fault::new(FaultKind::PreconditionFailed, text))
    }

    /// Does what queues with limits need after they were given a message. Few queues have limits.
    #[inline(never)]
    fn see_to_limits(&mut self, message: &Message, after: Afterwards) {
        for queue in after.refused {
            self.dead_letter_refused(queue, message);
        }
        for queue in after.limited {
            self.enforce_limit(queue);
        }
    }
}

/// The further routing keys that the message's properties name.
pub(super) fn extra_keys(codecs: &Codecs, message: &Message) -> Vec<Name> {
    let envelope = message.envelope();
    if envelope.extra_keys {
        codecs.extra_keys(envelope.origin, message.properties_raw())
    } else {
        Vec::new()
    }
}

/// The slots of targets, copied because the router is needed for something else.
fn slots_of(targets: &[Target]) -> SmallVec<[QueueSlot; 4]> {
    targets.iter().map(|target| target.queue).collect()
}

/// Whether a message is refused because the disk is full. That concerns what would be logged. A transient message is
/// refused only if memory is short, too, because then it could not be spilled.
fn is_refused_when_full(
    queues: &Queues,
    message: &Message,
    targets: &[Target],
    retains: bool,
    memory_is_short: bool,
) -> bool {
    let envelope = message.envelope();
    let logs = |target: &Target| {
        let queue = queues.at(target.queue).and_then(|queue| queues.get(queue));
        queue.is_some_and(|q| q.logs(envelope, envelope.qos))
    };
    (envelope.durable && retains && !message.body().is_empty())
        || targets.iter().any(logs)
        || (memory_is_short && !targets.is_empty())
}
