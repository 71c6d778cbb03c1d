//! Lists the vhost's objects in bounded holds.
//!
//! A listing takes several holds and keeps its place in a [`Cursor`]. An object that exists throughout is listed once;
//! one that is created or deleted meanwhile may be listed or not.

use super::link::{Channel, LinkState};
use super::{Carried, ChannelCounts, Engine};
use crate::command::{ChannelMode, Handshake, Peer};
use crate::durable_session::CHANNEL;
use crate::policy::Applied;
use crate::properties::{Name, Table};
use crate::queue::{QueueCounts, QueueKind};
use crate::router::{ExchangeCounts, ExchangeInfo};
use crate::slots::{ConsumerKey, Link};
use crate::time::Wall;
use std::ops::Bound;
use std::sync::Arc;

/// A kind of objects to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Attached connections.
    Connections,
    /// Their channels.
    Channels,
    /// Consumers, those of MQTT sessions included.
    Consumers,
    /// Queues, those of MQTT sessions included.
    Queues,
    /// Exchanges.
    Exchanges,
    /// Bindings, including those of MQTT subscriptions, without the implied ones of the default exchange.
    Bindings,
    /// MQTT sessions.
    Sessions,
    /// Their subscriptions.
    Subscriptions,
    /// Retained messages.
    Retained,
}

/// The progress of a listing.
#[derive(Clone, Debug)]
pub struct Cursor {
    kind: Kind,
    /// The next slot.
    slot: u32,
    /// What was listed last, within the slot or instead of it.
    after: After,
    done: bool,
}

#[derive(Clone, Debug)]
enum After {
    Nothing,
    Number(u16),
    Name(Name),
    Filter((Name, Option<Name>)),
    /// See [`Retained::key_of`](crate::retained::Retained::key_of).
    Topic(Box<[u8]>),
}

impl Cursor {
    /// A cursor at the beginning.
    pub fn new(kind: Kind) -> Cursor {
        Cursor {
            kind,
            slot: 0,
            after: After::Nothing,
            done: false,
        }
    }

    /// Whether everything is listed.
    pub fn is_done(&self) -> bool {
        self.done
    }
}

/// One listed object.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Item {
    /// A connection.
    Connection {
        /// Identifies it while it is attached.
        link: Link,
        /// The user who logged in.
        user: Name,
        /// Protocol and version, for example `MQTT 5.0`.
        protocol: &'static str,
        /// The name that the client gives itself.
        client_name: Option<Name>,
        /// The other end of the connection.
        peer: Peer,
        /// The number of open channels.
        channels: usize,
        /// When it was attached.
        connected_at: Wall,
        /// The agreed seconds of silence; 0: none.
        heartbeat_s: u16,
        /// Further results of the handshake.
        handshake: Option<Box<Handshake>>,
        /// What its socket has carried, as of its last visit to the engine.
        carried: Carried,
        /// Whether it has published, and publishers have to wait.
        blocked: bool,
    },
    /// A channel.
    Channel {
        /// Its connection.
        link: Link,
        /// Its number on that connection.
        number: u16,
        /// The number of its consumers.
        consumers: usize,
        /// Its counts so far.
        counts: ChannelCounts,
        /// The number of publishes that wait for their confirm.
        unconfirmed: u64,
        /// The number of unsettled deliveries.
        unsettled: usize,
        /// Prefetch of consumers started from now on; 0: no limit.
        prefetch_each: u32,
        /// Prefetch of the channel as a whole; 0: none.
        prefetch_all: u32,
        /// Whether it uses confirms or transactions.
        mode: ChannelMode,
    },
    /// A consumer.
    Consumer {
        /// Its connection.
        link: Link,
        /// Its channel on that connection.
        channel: u16,
        /// The session's number for it.
        consumer: u32,
        /// Its queue.
        queue: Name,
        /// Whether deliveries count as settled when they are taken.
        no_ack: bool,
        /// Whether no other consumer is permitted on the queue.
        exclusive: bool,
        /// The number of deliveries that are reserved or unsettled.
        in_flight: u32,
        /// The most of these; 0: no limit.
        prefetch: u32,
        /// The client's tag for it; empty for consumers of MQTT sessions.
        tag: Name,
        /// Its arguments.
        arguments: Table,
        /// Consumers of higher priority are served first.
        priority: i32,
        /// Whether it is offered messages; false while it waits behind a single active consumer.
        active: bool,
    },
    /// A queue.
    Queue {
        /// Its name.
        name: Name,
        /// Whether it survives a restart.
        durable: bool,
        /// The connection that owns it, and with which it is deleted.
        exclusive: Option<Link>,
        /// Whether it is deleted when its last consumer is cancelled.
        auto_delete: bool,
        /// The number of waiting messages.
        ready: usize,
        /// The number of messages that are reserved or unsettled.
        unsettled: usize,
        /// The number of consumers.
        consumers: usize,
        /// The policies that apply to it.
        policy: Option<Arc<Applied>>,
        /// Arguments as declared.
        arguments: Table,
        /// Whether a client declared it; false for queues of MQTT sessions and groups.
        is_declared: bool,
        /// `classic` or `quorum`.
        queue_type: &'static str,
        /// Bytes of the bodies of waiting messages.
        ready_bytes: u64,
        /// Bytes of the bodies of messages that are reserved or unsettled.
        unsettled_bytes: u64,
        /// The number of waiting messages with an entry in memory.
        ready_in_memory: usize,
        /// Counts since the process started.
        counts: QueueCounts,
        /// The tag of the first consumer, if that is exclusive.
        exclusive_consumer: Option<Name>,
        /// The tag of the first consumer, if only that is served.
        single_active_consumer: Option<Name>,
    },
    /// An exchange.
    Exchange(ExchangeInfo),
    /// A binding.
    Binding(crate::binding::Binding),
    /// An MQTT session.
    Session {
        /// The client.
        client_id: Name,
        /// The client's user.
        user: Name,
        /// The connection that drives it.
        link: Option<Link>,
        /// The number of subscriptions.
        subscriptions: usize,
        /// The number of deliveries that its client has not completed.
        in_flight: usize,
        /// The number of waiting messages.
        waiting: usize,
        /// Seconds that it outlives its connection; `None`: without limit.
        expiry_s: Option<u32>,
        /// When it ends; set while its client is away.
        expires_at: Option<Wall>,
    },
    /// An MQTT subscription.
    Subscription {
        /// Its session's client.
        client_id: Name,
        /// Its filter.
        filter: Name,
        /// Its `$share` group.
        share: Option<Name>,
        /// Maximum QoS.
        qos: u8,
    },
    /// A retained message. It may be in the log only.
    Retained {
        /// Its topic, in the slash dialect.
        topic: Name,
        /// Bytes of its exchange's name, topic, properties and body.
        bytes: u32,
    },
}

impl Engine {
    /// Lists some objects: at most `budget` items, with about as much work. Call it until [`Cursor::is_done`]; an empty
    /// list does not mean that.
    pub fn inspect(&self, cursor: &mut Cursor, budget: usize) -> Vec<Item> {
        let mut items = Vec::new();
        if cursor.done || budget == 0 {
            return items;
        }
        match cursor.kind {
            Kind::Exchanges => self.inspect_exchanges(cursor, budget, &mut items),
            Kind::Bindings => {
                let (next, found) = self.router.bindings_from(cursor.slot, budget);
                items.extend(found.into_iter().map(Item::Binding));
                cursor.at(next);
            }
            Kind::Queues => {
                let end = self.queues.slots_end();
                let to = cursor.window(budget, end);
                for slot in to.clone() {
                    let queue = self.queues.at(crate::binding::QueueSlot(slot));
                    items.extend(queue.and_then(|key| self.queues.get(key)).map(|q| self.queue_item(q)));
                }
                cursor.at((to.end < end).then_some(to.end));
            }
            Kind::Consumers => {
                let end = self.consumers.slots_end();
                let to = cursor.window(budget, end);
                let keys = to.clone().filter_map(|slot| self.consumers.key_at(slot));
                items.extend(keys.filter_map(|key| self.consumer_item(key)));
                cursor.at((to.end < end).then_some(to.end));
            }
            Kind::Connections => {
                let end = self.links.slots_end();
                let to = cursor.window(budget, end);
                let blocked = self.pressure.is_some();
                let links = to.clone().filter_map(|slot| self.links.at(slot));
                items.extend(links.map(|l| connection_item(l, blocked)));
                cursor.at((to.end < end).then_some(to.end));
            }
            Kind::Sessions => {
                let end = self.sessions.slots_end();
                let to = cursor.window(budget, end);
                let sessions = to.clone().filter_map(|slot| self.sessions.at(slot));
                items.extend(sessions.map(|s| self.session_item(s)));
                cursor.at((to.end < end).then_some(to.end));
            }
            Kind::Channels => self.inspect_channels(cursor, budget, &mut items),
            Kind::Subscriptions => self.inspect_subscriptions(cursor, budget, &mut items),
            Kind::Retained => {
                let after = match &cursor.after {
                    After::Topic(key) => Some(&**key),
                    _ => None,
                };
                let mut last: Option<Box<[u8]>> = None;
                for (key, topic, bytes) in self.retained.after(after).take(budget) {
                    let topic = topic.into();
                    items.push(Item::Retained { topic, bytes });
                    last = Some(key.into());
                }
                match last {
                    Some(last) if items.len() == budget => cursor.after = After::Topic(last),
                    _ => cursor.done = true,
                }
            }
        }
        items
    }

    /// The queue with that name, as [`Kind::Queues`] lists it.
    pub fn inspect_queue(&self, name: &str) -> Option<Item> {
        let queue = self.queues.get(self.queue_named(name)?)?;
        Some(self.queue_item(queue))
    }

    /// The counts of the queue with that name, and the numbers of its waiting and of its reserved or unsettled
    /// messages.
    pub fn queue_counts(&self, name: &str) -> Option<(QueueCounts, usize, usize)> {
        let queue = self.queues.get(self.queue_named(name)?)?;
        Some((queue.counts(), queue.depth(), queue.unsettled()))
    }

    /// The counts of a channel of a connection, and the number of its unsettled deliveries.
    pub fn channel_counts(&self, link: Link, number: u16) -> Option<(ChannelCounts, usize)> {
        let l = self.links.get(link)?;
        let found = l.channel_from(usize::from(number)).filter(|c| c.number == number);
        if found.is_none() && !(number == CHANNEL && has_aside(l)) {
            return None;
        }
        Some(self.counts_of(l, number, found))
    }

    /// The counts of a channel, and the number of its unsettled deliveries. Deliveries to an MQTT session are only
    /// counted at its queue: this adds that queue's counts since the session began, or since the process started if
    /// that was later.
    fn counts_of(&self, l: &LinkState, number: u16, c: Option<&Channel>) -> (ChannelCounts, usize) {
        let mut counts = c.map(Channel::counts).unwrap_or_default();
        let mut unsettled = c.map_or(0, |c| c.unsettled.len());
        if number == CHANNEL {
            counts.published += l.published_aside;
        }
        let session = l.session.filter(|_| number == CHANNEL);
        if let Some(s) = session.and_then(|key| self.sessions.get(key)) {
            unsettled += s.in_flight.len();
            if let Some(q) = s.queue.and_then(|key| self.queues.get(key)) {
                let of_queue = q.counts();
                counts.delivered += of_queue.delivered;
                counts.delivered_no_ack += of_queue.delivered_no_ack;
                counts.acknowledged += of_queue.acknowledged;
                counts.redelivered += of_queue.redelivered;
            }
        }
        (counts, unsettled)
    }

    /// The item of a channel; `None`: of one that the client uses without a state of its own (`has_aside`).
    fn channel_item(&self, l: &LinkState, c: Option<&Channel>) -> Item {
        let number = c.map_or(CHANNEL, |c| c.number);
        let session = l.session.filter(|_| number == CHANNEL);
        let queue = session.and_then(|key| self.queues.get(self.sessions.get(key)?.queue?));
        let (counts, unsettled) = self.counts_of(l, number, c);
        Item::Channel {
            link: l.id,
            number,
            consumers: c.map_or(0, |c| c.consumers.len()) + queue.map_or(0, |q| q.consumers.len()),
            counts,
            unconfirmed: c.map_or(0, |c| c.publisher.unconfirmed()),
            unsettled,
            prefetch_each: c.map_or(0, |c| c.prefetch_each),
            prefetch_all: c.map_or(0, |c| c.credit.size()),
            mode: c.map_or_else(ChannelMode::default, |c| c.mode),
        }
    }

    /// The exchange with that name, as [`Kind::Exchanges`] lists it.
    pub fn inspect_exchange(&self, name: &str) -> Option<ExchangeInfo> {
        self.router.exchange(name)
    }

    /// Counts since the process started of the exchange with that name.
    pub fn exchange_counts(&self, name: &str) -> Option<ExchangeCounts> {
        self.router.exchange_counts(name)
    }

    fn queue_item(&self, q: &crate::queue::Queue) -> Item {
        let first = q.consumers.first().and_then(|key| self.consumers.get(key));
        let tag = first.map(|c| c.described.as_deref().map_or_else(Name::default, |d| d.tag.clone()));
        Item::Queue {
            name: q.name.clone(),
            durable: q.durable,
            exclusive: q.exclusive,
            auto_delete: q.auto_delete,
            ready: q.depth(),
            unsettled: q.unsettled(),
            consumers: q.consumers.len(),
            policy: q.policy.clone(),
            arguments: q.arguments.declared.clone(),
            is_declared: q.kind == QueueKind::Plain,
            queue_type: q.arguments.queue_type.name(),
            ready_bytes: q.ready().bytes(),
            unsettled_bytes: q.unsettled_bytes(),
            ready_in_memory: q.ready().in_memory(),
            counts: q.counts(),
            exclusive_consumer: tag.clone().filter(|_| first.is_some_and(|c| c.exclusive)),
            single_active_consumer: tag.filter(|_| q.arguments.single_active),
        }
    }

    fn session_item(&self, s: &crate::durable_session::DurableSession) -> Item {
        let queue = s.queue.and_then(|queue| self.queues.get(queue));
        Item::Session {
            client_id: s.client_id.clone(),
            user: s.owner.clone(),
            link: s.link,
            subscriptions: s.subscriptions.len(),
            in_flight: s.in_flight.len(),
            waiting: queue.map_or(0, |queue| queue.depth()),
            expiry_s: s.expiry,
            expires_at: s.expires_at,
        }
    }

    fn inspect_exchanges(&self, cursor: &mut Cursor, budget: usize, items: &mut Vec<Item>) {
        let after = match &cursor.after {
            After::Name(name) => Some(&**name),
            _ => None,
        };
        items.extend(self.router.exchanges_after(after).take(budget).map(Item::Exchange));
        match items.last() {
            Some(Item::Exchange(last)) if items.len() == budget => cursor.after = After::Name(last.name.clone()),
            _ => cursor.done = true,
        }
    }

    fn inspect_channels(&self, cursor: &mut Cursor, budget: usize, items: &mut Vec<Item>) {
        let end = self.links.slots_end();
        // A slot costs as much as an item; otherwise many empty slots would be passed in one hold.
        let mut slots = 0;
        while cursor.slot < end && items.len() < budget && slots < budget {
            let after = match cursor.after {
                After::Number(number) => Some(number),
                _ => None,
            };
            if let Some(l) = self.links.at(cursor.slot) {
                // It comes first, as the channel of the lowest number.
                if has_aside(l) && l.channels().next().is_none_or(|c| c.number != CHANNEL) && after.is_none() {
                    items.push(self.channel_item(l, None));
                }
                let left = budget - items.len();
                let later = l.channels().filter(|c| after.is_none_or(|after| c.number > after));
                items.extend(later.take(left).map(|c| self.channel_item(l, Some(c))));
                if let (Some(Item::Channel { number, .. }), true) = (items.last(), items.len() == budget) {
                    cursor.after = After::Number(*number);
                    break;
                }
            }
            slots += 1;
            cursor.at(Some(cursor.slot + 1));
        }
        cursor.done = cursor.slot >= end;
    }

    fn inspect_subscriptions(&self, cursor: &mut Cursor, budget: usize, items: &mut Vec<Item>) {
        let end = self.sessions.slots_end();
        let mut slots = 0;
        while cursor.slot < end && items.len() < budget && slots < budget {
            let from = match &cursor.after {
                After::Filter(filter) => Bound::Excluded(filter.clone()),
                _ => Bound::Unbounded,
            };
            let left = budget - items.len();
            if let Some(s) = self.sessions.at(cursor.slot) {
                let later = s.subscriptions.range((from, Bound::Unbounded));
                items.extend(later.take(left).map(|((filter, share), options)| Item::Subscription {
                    client_id: s.client_id.clone(),
                    filter: filter.clone(),
                    share: share.clone(),
                    qos: options.qos,
                }));
                if let (Some(Item::Subscription { filter, share, .. }), true) = (items.last(), items.len() == budget) {
                    cursor.after = After::Filter((filter.clone(), share.clone()));
                    break;
                }
            }
            slots += 1;
            cursor.at(Some(cursor.slot + 1));
        }
        cursor.done = cursor.slot >= end;
    }

    fn consumer_item(&self, key: ConsumerKey) -> Option<Item> {
        let c = self.consumers.get(key)?;
        let q = self.queues.get(c.queue)?;
        let described = c.described.as_deref();
        Some(Item::Consumer {
            tag: described.map_or_else(Name::default, |d| d.tag.clone()),
            arguments: described.map_or_else(Table::default, |d| d.arguments.clone()),
            priority: described.map_or(0, |d| d.priority),
            active: !q.arguments.single_active || q.consumers.first() == Some(key),
            link: c.link,
            channel: c.channel,
            consumer: c.token,
            queue: q.name.clone(),
            no_ack: c.no_ack,
            exclusive: c.exclusive,
            in_flight: c.credit.used(),
            prefetch: c.credit.size(),
        })
    }
}

impl Cursor {
    /// The slots to look at in this hold.
    fn window(&self, budget: usize, end: u32) -> std::ops::Range<u32> {
        let most = u32::try_from(budget).unwrap_or(u32::MAX);
        self.slot.min(end)..self.slot.saturating_add(most).min(end)
    }
    /// Moves to the beginning of a slot; `None`: there is none left.
    fn at(&mut self, slot: Option<u32>) {
        self.after = After::Nothing;
        match slot {
            Some(slot) => self.slot = slot,
            None => self.done = true,
        }
    }
}

/// Whether the link's client uses channel 0 without opening channels, as MQTT and STOMP do: it has a session, or has
/// published there. Publishes without confirms give it no state.
fn has_aside(l: &LinkState) -> bool {
    l.session.is_some() || l.published_aside > 0
}

fn connection_item(l: &super::link::LinkState, blocked: bool) -> Item {
    Item::Connection {
        connected_at: l.connected_at,
        heartbeat_s: l.heartbeat_s,
        handshake: l.handshake.clone(),
        carried: l.carried,
        blocked: blocked && l.publishes,
        link: l.id,
        user: l.access.user.clone(),
        protocol: l.protocol,
        client_name: l.client_name.clone(),
        peer: Peer::clone(&l.peer),
        channels: l.channel_count(),
    }
}
