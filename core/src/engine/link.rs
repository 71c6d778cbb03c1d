//! A connection at its engine: its channels, its outbox, and what it waits for.

use super::Wake;
use super::confirms::Publisher;
use super::fetching::GETS_WAITING_MAX;
use super::flow_counts::Sent;
use super::held::Held;
use super::outbox::{Fetched, Out, Outbox};
use super::replays::Replays;
use super::staging::{Gate, Reached};
use super::unfinished::{Answered, BoundReplay, Committing, Deleting, Routing};
use crate::access::Access;
use crate::command::{Attach, Channel as ChannelNumber, ChannelMode, Command, Handshake, Peer, Will};
use crate::event::{CloseReason, Event, Pressure};
use crate::ledger::{Charge, allocation};
use crate::properties::Name;
use crate::queue::credit::Credit;
use crate::queue::unsettled::Unsettled;
use crate::quota::Seat;
use crate::seldom::Seldom;
use crate::slots::{ConsumerKey, Link, QueueKey, SessionKey};
use crate::tally::Source;
use crate::time::Wall;
use std::collections::VecDeque;
use std::mem::size_of;
use std::sync::Arc;

/// Bytes of a connection: its state here, and about 1 KiB outside the engine (session, socket, task, events).
pub(crate) const LINK_BYTES: usize = allocation(size_of::<LinkState>()) + (1 << 10);
/// Bytes of a channel and its place in the link's list.
const CHANNEL_BYTES: usize = allocation(size_of::<Channel>()) + allocation(size_of::<SeldomCounts>()) + 16;

/// With this many answers of a connection waiting for the log, its next command waits, too. Otherwise a client that
/// keeps asking while the disk is slow would make the list of answers grow without limit.
pub(crate) const GATED_ANSWERS_MAX: usize = 1024;
/// Bytes of a gated answer and what it may have allocated, roughly.
const GATED_BYTES: usize = size_of::<(Gate, Out)>() + 64;
/// Gated answers are charged in steps of this many, because with QoS 2 each delivery is one.
const GATED_STEP: usize = 32;

/// Bytes of a will.
pub(crate) fn will_bytes(will: &Will) -> usize {
    allocation(size_of::<Will>()) + will.message.memory()
}

/// One attached connection.
///
/// Fields are in this order so that those a turn touches lie together: cold cache lines are most of the cost of a turn.
#[repr(C)]
pub(crate) struct LinkState {
    /// No wake is to be sent. Either one was sent already; or the link is taking right now, and the end of that take
    /// says whether there is more; or it has no room and returns when it has.
    woken: bool,
    /// The socket had no room at the last take. Nothing is reserved for the link until it has.
    pub(crate) stalled: bool,
    /// Its session goes to another link once it has detached. It is told so, and gets nothing else.
    pub(crate) taken_over: bool,
    /// It has published. Only such links are told about pressure.
    pub(crate) publishes: bool,
    /// Some channel failed and is not closed yet.
    pub(crate) failures: bool,
    /// The outbox waits for bodies to be sent again, which are being read.
    pub(crate) resend_loading: bool,
    /// Its first command waits, and the link will be woken: for a session that another link has, for memory for its
    /// walk, or for messages that it asked for.
    pub(crate) waits: bool,
    /// Its first command waits for memory for a walk.
    pub(crate) awaits_walk: bool,
    /// The index of its protocol's counters.
    pub(crate) traffic: u8,
    /// The pressure that it was told last.
    pub(crate) told: Option<Pressure>,
    /// The pressure that its publishes have run into: it was told about it, or will be by its next take.
    pub(crate) met: Option<Pressure>,
    pub(crate) closed: Option<CloseReason>,
    /// The MQTT session that it drives.
    pub(crate) session: Option<SessionKey>,
    wake: Arc<dyn Wake>,
    /// Sorted by number; most links have one or two.
    #[expect(
        clippy::vec_box,
        reason = "a vector grows by doubling: of pointers, not of channels nobody has"
    )]
    channels: Vec<Box<Channel>>,
    /// Channels whose confirm watermark may have moved.
    pub(crate) confirm_dirty: Vec<ChannelNumber>,
    pub(crate) outbox: Outbox,
    /// Its first command is a publish whose queues are not all found yet.
    pub(crate) routing: Option<Box<Routing>>,
    /// Retained messages that new subscriptions asked for.
    pub(crate) replays: Option<Box<Replays>>,
    /// What it has published, for the flow map.
    pub(crate) sent: Option<Box<Sent>>,
    /// Answers of all its channels that wait for the log, or behind one that does.
    gated: u32,
    /// Agreed seconds of silence; 0: none. It is here because it fills a gap in the layout.
    pub(crate) heartbeat_s: u16,
    /// Publishes that were counted at no channel, because it has none for them.
    pub(crate) published_aside: u64,
    /// What its socket has carried, as of its last visit.
    pub(crate) carried: Carried,
    /// Bytes of what its channels have unsettled or fetched.
    pub(crate) unsettled_bytes: usize,
    pub(crate) rare: Seldom<Rare>,
    /// Consumers that were passed over because this link had no room.
    pub(crate) starved: VecDeque<ConsumerKey>,
    /// `Returned`, `Unrouted` and `Refused`, which precede the confirms.
    pub(crate) verdicts: VecDeque<Event>,
    /// Its user, and what was found out about its rights.
    pub(crate) access: Access,
    // Rarely used fields follow.
    pub(crate) id: Link,
    /// The memory of the link, with its channels and its will.
    charge: Charge,
    pub(crate) protocol: &'static str,
    /// The name that the client gives itself.
    pub(crate) client_name: Option<Name>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) connected_at: Wall,
    pub(crate) handshake: Option<Box<Handshake>>,
    /// To be published if the connection ends without DISCONNECT.
    pub(crate) will: Option<Box<Will>>,
}

/// State that most links never have.
#[derive(Default)]
pub(crate) struct Rare {
    /// Throttled consumers: they are offered nothing until something is settled.
    pub(crate) throttled: Vec<ConsumerKey>,
    pub(crate) exclusive_queues: Vec<QueueKey>,
    /// The reason that an operator gave for closing it.
    pub(crate) closed_because: Option<Name>,
    /// The client whose session it waits for, from its first attempt until it has the session.
    pub(crate) succeeds: Option<Name>,
    /// Its first command is a transaction whose queues are not all found yet.
    pub(crate) committing: Option<Box<Committing>>,
    /// Bytes of `routing` and `committing`.
    pub(crate) walk_bytes: usize,
    /// The number of its `Get`s whose messages are being read.
    pub(crate) waiting_gets: usize,
    /// Its first command is a deletion or a purge that has begun, and that is finished even if the link goes.
    pub(crate) deleting: Option<Deleting>,
    /// The results so far of a SUBSCRIBE or UNSUBSCRIBE that takes more than one hold.
    pub(crate) answered: Option<Box<Answered>>,
    /// The retained messages that its unfinished bind still has to replay.
    pub(crate) bound_replay: Option<Box<BoundReplay>>,
}

/// An idle client costs this, a session, and what the gateway keeps for it. Field by field, this had once grown to 560
/// bytes. The allocator gives out 448 bytes, 8 of them its own.
const _: () = assert!(size_of::<LinkState>() <= 440);

/// What a connection's socket has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// Reads that returned bytes.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

impl Carried {
    /// Adds the counts of `more`.
    pub fn add(&mut self, more: Carried) {
        self.bytes_in += more.bytes_in;
        self.bytes_out += more.bytes_out;
        self.reads += more.reads;
        self.writes += more.writes;
    }
}

/// One channel of a link.
///
/// Fields are in this order so that those a turn touches lie together: cold cache lines are most of the cost of a turn.
#[repr(C)]
pub(crate) struct Channel {
    pub(crate) number: ChannelNumber,
    /// Its first failure closes it.
    pub(crate) strict: bool,
    /// It failed: its commands are ignored until it is closed.
    pub(crate) failed: bool,
    /// Prefetch of consumers started from now on.
    pub(crate) prefetch_each: u32,
    /// Limits the deliveries of all its consumers together, whether reserved or unsettled.
    pub(crate) credit: Credit,
    /// All deliveries up to that number are being returned to their queues, which takes more than one hold.
    pub(crate) recovering: Option<u64>,
    /// The number of deliveries so far.
    pub(crate) delivered: u64,
    /// Of these, deliveries to consumers that do not settle.
    pub(crate) delivered_no_ack: u64,
    /// Messages published.
    pub(crate) published: u64,
    /// Deliveries settled as accepted.
    pub(crate) acknowledged: u64,
    /// Answers that wait for the log, and those that must follow them.
    gated: VecDeque<(Gate, Out)>,
    pub(crate) publisher: Publisher,
    /// Its number on the engine's list of channels with bodies in memory; 0: it is not listed.
    pub(crate) listed: u64,
    pub(crate) unsettled: Unsettled,
    // Rarely used fields follow.
    /// Rejected deliveries whose dead-lettering is postponed until the disk has space.
    pub(crate) postponed: Option<Box<Postponed>>,
    /// Settles that wait for a commit.
    pub(crate) held: Seldom<Held>,
    pub(crate) consumers: Vec<ConsumerKey>,
    pub(crate) last_queue: Option<Name>,
    pub(crate) seldom: Seldom<SeldomCounts>,
    /// Counts it among its user's channels as long as it exists.
    pub(crate) seat: Option<Seat>,
    pub(crate) mode: ChannelMode,
}

/// Counts of a channel, for listings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelCounts {
    /// Messages published.
    pub published: u64,
    /// Publishes confirmed.
    pub confirmed: u64,
    /// Publishes that reached no queue and were dropped.
    pub unroutable_dropped: u64,
    /// Publishes that reached no queue and were returned.
    pub unroutable_returned: u64,
    /// Deliveries to consumers that settle them.
    pub delivered: u64,
    /// Deliveries that were settled when taken.
    pub delivered_no_ack: u64,
    /// Messages fetched by `Get`, to be settled.
    pub got: u64,
    /// Messages fetched by `Get`, settled when taken.
    pub got_no_ack: u64,
    /// `Get`s on an empty queue.
    pub get_empty: u64,
    /// Deliveries settled as accepted.
    pub acknowledged: u64,
    /// Deliveries of messages that were handed out before.
    pub redelivered: u64,
}

/// The part of [`ChannelCounts`] that stays zero for most channels.
#[derive(Clone, Copy, Default)]
pub(crate) struct SeldomCounts {
    pub(crate) unroutable_dropped: u64,
    pub(crate) unroutable_returned: u64,
    pub(crate) got: u64,
    pub(crate) got_no_ack: u64,
    pub(crate) get_empty: u64,
    pub(crate) redelivered: u64,
}

/// See [`Channel::postponed`].
#[derive(Default)]
pub(crate) struct Postponed {
    /// In the order of their rejection.
    pub(crate) rejected: Unsettled,
    /// The number of deliveries rejected so far.
    pub(crate) numbered: u64,
}

impl Channel {
    /// Answers that wait for the log, and those that must follow them.
    pub(crate) fn gated(&self) -> &VecDeque<(Gate, Out)> {
        &self.gated
    }
    /// Its counts so far.
    pub(crate) fn counts(&self) -> ChannelCounts {
        let seldom = self.seldom.get().copied().unwrap_or_default();
        ChannelCounts {
            published: self.published,
            confirmed: self.publisher.numbered() - self.publisher.unconfirmed(),
            unroutable_dropped: seldom.unroutable_dropped,
            unroutable_returned: seldom.unroutable_returned,
            // `delivered` counts all deliveries, also those without settling and those fetched.
            delivered: self.delivered - self.delivered_no_ack - seldom.got - seldom.got_no_ack,
            delivered_no_ack: self.delivered_no_ack,
            got: seldom.got,
            got_no_ack: seldom.got_no_ack,
            get_empty: seldom.get_empty,
            acknowledged: self.acknowledged,
            redelivered: seldom.redelivered,
        }
    }
    fn new(number: ChannelNumber) -> Channel {
        Channel {
            number,
            delivered: 0,
            delivered_no_ack: 0,
            published: 0,
            acknowledged: 0,
            seldom: Seldom::default(),
            unsettled: Unsettled::default(),
            postponed: None,
            listed: 0,
            consumers: Vec::new(),
            prefetch_each: 0,
            credit: Credit::UNLIMITED,
            publisher: Publisher::default(),
            gated: VecDeque::new(),
            last_queue: None,
            recovering: None,
            held: Seldom::default(),
            strict: false,
            failed: false,
            seat: None,
            mode: ChannelMode::Plain,
        }
    }
}

impl LinkState {
    pub(crate) fn new(
        id: Link,
        wake: Arc<dyn Wake>,
        attach: &Attach,
        access: Access,
        peer: Arc<Peer>,
        mut charge: Charge,
    ) -> LinkState {
        if let Some(handshake) = &attach.handshake {
            charge.grow(allocation(size_of::<Handshake>()) + handshake.client_properties.memory());
        }
        LinkState {
            id,
            wake,
            charge,
            woken: false,
            protocol: attach.protocol,
            traffic: 0,
            heartbeat_s: attach.heartbeat_s,
            handshake: attach.handshake.clone(),
            connected_at: Wall::default(),
            carried: Carried::default(),
            published_aside: 0,
            access,
            client_name: attach.client_name.clone(),
            peer,
            channels: Vec::new(),
            outbox: Outbox::default(),
            verdicts: VecDeque::new(),
            confirm_dirty: Vec::new(),
            stalled: false,
            starved: VecDeque::new(),
            gated: 0,
            unsettled_bytes: 0,
            session: None,
            will: None,
            told: None,
            met: None,
            publishes: false,
            closed: None,
            failures: false,
            taken_over: false,
            waits: false,
            resend_loading: false,
            replays: None,
            sent: None,
            routing: None,
            awaits_walk: false,
            rare: Seldom::default(),
        }
    }

    /// Counts a published message for the flow map.
    #[inline]
    pub(crate) fn note_sent(&mut self, to: Source, bytes: usize) {
        let Some(sent) = &mut self.sent else {
            return self.note_first_sent(to, bytes);
        };
        if !sent.passes(bytes) {
            sent.count(to);
        }
    }

    #[cold]
    fn note_first_sent(&mut self, to: Source, bytes: usize) {
        self.charge.grow(allocation(size_of::<Sent>()));
        let sent = self.sent.get_or_insert_default();
        if !sent.passes(bytes) {
            sent.count(to);
        }
    }

    /// Whether a command is returned because it is the first publish since pressure began.
    ///
    /// The link does not know about the pressure yet, because only links that publish are told. The publish goes back
    /// to the connection, which is told and parks it. If it were applied now it could be refused, and its protocol may
    /// have no way to say so. This happens once for each pressure, so that the remaining commands of a link that is
    /// gone are not returned for ever.
    #[inline]
    pub(crate) fn meets(&mut self, pressure: Option<Pressure>, command: &Command) -> bool {
        let publishes = || match command {
            Command::Publish { .. } => true,
            Command::Transaction(transaction) => transaction.publishes(),
            _ => false,
        };
        if self.met == pressure || pressure.is_none() || !publishes() {
            return false;
        }
        self.publishes = true;
        self.met = pressure;
        true
    }
    /// Whether a command is ignored because its channel failed and is not closed yet.
    #[inline]
    pub(crate) fn ignores(&mut self, command: &Command) -> bool {
        self.failures
            && !matches!(command, Command::CloseChannel { .. })
            && command
                .channel()
                .is_some_and(|channel| self.find_channel(channel).is_some_and(|c| c.failed))
    }

    /// Wakes the link's task, unless it was woken already since its last take.
    pub(crate) fn wake(&mut self, wakes: &mut Vec<Arc<dyn Wake>>) {
        if !self.woken {
            self.woken = true;
            wakes.push(self.wake.clone());
        }
    }
    /// Wakes the link's task even if it has no room, because it has to do something other than take messages.
    pub(crate) fn call(&mut self, wakes: &mut Vec<Arc<dyn Wake>>) {
        self.woken = false;
        self.wake(wakes);
    }
    /// The link visits the engine and will take before the lock is released. Until [`LinkState::taken`] it needs no
    /// wake, because that take sees everything.
    pub(crate) fn visits(&mut self) {
        self.woken = true;
    }
    /// The link takes now. `stalled`: it has no room, and returns by itself when it has. A link that loses its session
    /// never has room again.
    pub(crate) fn taking(&mut self, stalled: bool) {
        self.woken = true;
        self.stalled = stalled || self.taken_over;
    }
    /// The take is over: from now on the link is woken again, unless it returns by itself. Returns whether there is
    /// something to take already (`pressure`: what publishers are to be told). No wake was sent for that, so the caller
    /// must not ignore it.
    pub(crate) fn taken(&mut self, pressure: Option<Pressure>) -> bool {
        self.woken = self.stalled;
        !self.stalled
            && (self.has_more()
                || self.closed.is_some()
                || !self.verdicts.is_empty()
                || !self.confirm_dirty.is_empty()
                || (self.publishes && self.told != pressure))
    }
    /// Whether the outbox has something for which the link does not return by itself.
    pub(crate) fn has_more(&self) -> bool {
        !self.outbox.is_empty() && !self.resend_loading
    }
    pub(crate) fn has_room(&self) -> bool {
        !self.stalled && self.outbox.has_room()
    }

    /// The channel, which is created if it does not exist.
    pub(crate) fn channel(&mut self, number: ChannelNumber) -> &mut Channel {
        // Most links use one channel.
        if self.channels.first().is_some_and(|c| c.number == number) {
            return &mut self.channels[0];
        }
        let at = match self.channels.binary_search_by_key(&number, |c| c.number) {
            Ok(at) => at,
            Err(at) => {
                self.charge.grow(CHANNEL_BYTES);
                self.channels.insert(at, Box::new(Channel::new(number)));
                at
            }
        };
        &mut self.channels[at]
    }
    pub(crate) fn find_channel(&mut self, number: ChannelNumber) -> Option<&mut Channel> {
        // Most links use one channel.
        if self.channels.first().is_some_and(|c| c.number == number) {
            return self.channels.first_mut().map(|c| &mut **c);
        }
        let at = self.channels.binary_search_by_key(&number, |c| c.number).ok()?;
        Some(&mut self.channels[at])
    }
    /// Counts a publish on a channel. Returns its number if it is to be confirmed, else 0.
    #[inline]
    pub(crate) fn count_publish(&mut self, channel: ChannelNumber, confirm: bool) -> u64 {
        if confirm {
            let c = self.channel(channel);
            c.published += 1;
            return c.publisher.next_number();
        }
        // A client without channels (MQTT at QoS 0) does not get one for this.
        match self.find_channel(channel) {
            Some(c) => c.published += 1,
            None => self.published_aside += 1,
        }
        0
    }
    /// Removes the channel. Its answers that still wait for the log stay, because commands before the close are
    /// answered before it. Returns its publishing side.
    pub(crate) fn close_channel(&mut self, number: ChannelNumber) -> Publisher {
        self.confirm_dirty.retain(|c| *c != number);
        let Ok(at) = self.channels.binary_search_by_key(&number, |c| c.number) else {
            return Publisher::default();
        };
        let mut closed = if self.channels[at].gated.is_empty() {
            self.charge.shrink(CHANNEL_BYTES);
            self.channels.remove(at)
        } else {
            let gated = std::mem::take(&mut self.channels[at].gated);
            let successor = Box::new(Channel {
                gated,
                ..Channel::new(number)
            });
            std::mem::replace(&mut self.channels[at], successor)
        };
        std::mem::take(&mut closed.publisher)
    }
    /// Sets the will of its session's client.
    pub(crate) fn set_will(&mut self, will: Option<Will>) {
        // It is charged as long as the connection lives, after which it is dropped or published.
        self.charge.grow(will.as_ref().map_or(0, will_bytes));
        self.will = will.map(Box::new);
    }
    /// The number of any of its channels.
    pub(crate) fn some_channel(&self) -> Option<ChannelNumber> {
        self.channels.last().map(|c| c.number)
    }
    /// Drops what the link, which is gone, will not take any more. Its reservations were returned; fetched messages
    /// return with their channels.
    pub(crate) fn forget_answers(&mut self) {
        self.outbox.forget_answers();
        for channel in &mut self.channels {
            channel.gated.retain(|(_, out)| matches!(out, Out::Got(_)));
        }
        self.count_gated(self.channels.iter().map(|channel| channel.gated.len()).sum());
    }
    pub(crate) fn channel_count(&self) -> usize {
        self.channels.len()
    }
    /// The first channel with that number or a higher one.
    pub(crate) fn channel_from(&self, number: usize) -> Option<&Channel> {
        let at = self.channels.partition_point(|c| usize::from(c.number) < number);
        self.channels.get(at).map(|c| &**c)
    }
    pub(crate) fn channels(&self) -> impl Iterator<Item = &Channel> {
        self.channels.iter().map(|c| &**c)
    }

    /// Queues an answer behind those that its channel already waits for. `gate`: what it waits for itself.
    pub(crate) fn push(&mut self, number: ChannelNumber, out: Out, gate: Gate, log: Reached) {
        if !log.opens(gate) {
            return self.gate(number, gate, out);
        }
        // The channel may be closed: an answer must not create it again.
        match self.find_channel(number) {
            Some(channel) if !channel.gated.is_empty() => self.gate(number, Gate::Open, out),
            _ => self.outbox.push(out),
        }
    }
    /// Makes an answer wait.
    pub(crate) fn gate(&mut self, number: ChannelNumber, gate: Gate, out: Out) {
        self.channel(number).gated.push_back((gate, out));
        self.count_gated(self.gated as usize + 1);
    }
    fn count_gated(&mut self, gated: usize) {
        let bytes = |gated: usize| (gated.next_multiple_of(GATED_STEP) * GATED_BYTES) as u32;
        let (before, now) = (bytes(self.gated as usize), bytes(gated));
        self.gated = gated as u32;
        if now != before {
            self.charge.exchange(before, now);
        }
    }
    /// Whether so many of its answers wait that its next command waits, too. The link is woken when they are released.
    pub(crate) fn is_backed_up(&self) -> bool {
        self.gated as usize >= GATED_ANSWERS_MAX
    }
    /// The number of its `Get`s whose messages are being read.
    pub(crate) fn waiting_gets(&self) -> usize {
        self.rare.get().map_or(0, |rare| rare.waiting_gets)
    }
    /// Notes that some of them were answered, or that nobody waits for them any more.
    /// Whether a `Get` may be tried now.
    pub(crate) fn may_get(&self) -> bool {
        self.waiting_gets() < GETS_WAITING_MAX && self.outbox.may_fetch()
    }
    pub(crate) fn forget_waiting_gets(&mut self, answered: usize) {
        if let Some(rare) = self.rare.get_mut() {
            rare.waiting_gets = rare.waiting_gets.saturating_sub(answered);
        }
    }
    /// The number of gated answers, for the audit.
    #[cfg(feature = "testing")]
    pub(crate) fn gated_answers(&self) -> usize {
        self.gated as usize
    }
    /// Puts an answer into the place kept for the channel's oldest awaited answer.
    pub(crate) fn fill_awaited(&mut self, number: ChannelNumber, answer: Out, gate: Gate, log: Reached) {
        let Some(channel) = self.find_channel(number) else {
            return;
        };
        if let Some(place) = channel.gated.iter_mut().find(|(_, out)| matches!(out, Out::Awaited)) {
            *place = (gate, answer);
        }
        self.release_gated(number, log);
    }
    /// Removes at most `most` fetched messages that the channel has not taken, newest first, and the places of answers
    /// that are awaited.
    pub(crate) fn take_fetched(&mut self, number: ChannelNumber, most: usize) -> Vec<Fetched> {
        let mut fetched = Vec::new();
        let mut keep = |out: Out| match out {
            Out::Got(got) if got.channel == number && fetched.len() < most => {
                fetched.push(*got);
                None
            }
            Out::Awaited => None,
            out => Some(out),
        };
        if let Ok(at) = self.channels.binary_search_by_key(&number, |c| c.number) {
            let gated = std::mem::take(&mut self.channels[at].gated);
            let before = gated.len();
            let mut left = VecDeque::new();
            for (gate, out) in gated.into_iter().rev() {
                if let Some(out) = keep(out) {
                    left.push_front((gate, out));
                }
            }
            let gated = left;
            let gone = before - gated.len();
            self.channels[at].gated = gated;
            self.count_gated(self.gated as usize - gone);
        }
        // Messages behind a gate were fetched later than those in the outbox.
        let most = most - fetched.len();
        fetched.extend(self.outbox.take_fetched(number, most));
        fetched
    }
    /// Makes the next take look at the channel's confirms.
    pub(crate) fn note_confirms(&mut self, channel: ChannelNumber) {
        if !self.confirm_dirty.contains(&channel) {
            self.confirm_dirty.push(channel);
        }
    }
    /// Moves answers to the outbox that no longer wait. Returns their number.
    pub(crate) fn release_gated(&mut self, number: ChannelNumber, log: Reached) -> usize {
        let Ok(at) = self.channels.binary_search_by_key(&number, |c| c.number) else {
            return 0;
        };
        let gated = &mut self.channels[at].gated;
        let before = gated.len();
        while let Some((gate, _)) = gated.front()
            && log.opens(*gate)
        {
            if let Some((_, out)) = gated.pop_front() {
                self.outbox.push(out);
            }
        }
        let gone = before - gated.len();
        if gone > 0 {
            self.count_gated(self.gated as usize - gone);
        }
        gone
    }
}

/// Whether the answer to a command may have to wait for the log. Commands that only remove or end something never wait.
pub(crate) fn may_be_answered(command: &Command) -> bool {
    !matches!(
        command,
        Command::Publish { .. }
            | Command::Settle { .. }
            | Command::CloseChannel { .. }
            | Command::SetMode { .. }
            | Command::DropWill
            | Command::Detach
    )
}
