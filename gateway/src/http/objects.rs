//! Metrics of single queues, channels, connections, exchanges and vhosts, for `/metrics/per-object` and `/metrics/detailed`. At most
//! `metrics.per_object_limit` of each are shown: otherwise the page of a large broker would have megabytes, and its
//! labels would fill Prometheus.

use super::page::{Label, Page};
use crate::node::Node;
use crate::vhost::Vhost;
use gatepost_core::command::Peer;
use gatepost_core::engine::inspect::{Cursor, Item, Kind};
use gatepost_core::engine::{Carried, ChannelCounts, Link, QueueCounts};
use std::collections::HashMap;
use std::sync::Arc;

/// A family of one kind of object.
struct Family<T> {
    /// RabbitMQ's names of the groups it is in, which `/metrics/detailed?family=` asks for.
    groups: &'static [&'static str],
    name: &'static str,
    help: &'static str,
    of: fn(&T) -> u64,
}

const fn family<T>(
    groups: &'static [&'static str],
    name: &'static str,
    help: &'static str,
    of: fn(&T) -> u64,
) -> Family<T> {
    Family { groups, name, help, of }
}

/// Groups that are on `/metrics/per-object`. The others are for who asks for them: the page would be twice as long.
const ON_PAGE: [&str; 6] = [
    "queue_coarse_metrics",
    "queue_consumer_count",
    "queue_metrics",
    "connection_coarse_metrics",
    "connection_metrics",
    "channel_metrics",
];

struct Queue {
    ready: u64,
    unsettled: u64,
    consumers: u64,
    ready_bytes: u64,
    unsettled_bytes: u64,
    in_memory: u64,
    is_durable: bool,
    counts: QueueCounts,
}

struct Channel {
    consumers: u64,
    unsettled: u64,
    unconfirmed: u64,
    prefetch_each: u64,
    prefetch_all: u64,
    counts: ChannelCounts,
}

struct Connection {
    channels: u64,
    carried: Carried,
}

const COARSE: &[&str] = &["queue_coarse_metrics"];
const QUEUE: &[&str] = &["queue_metrics"];
const DELIVERY: &[&str] = &["queue_delivery_metrics"];

const QUEUES: &[Family<Queue>] = &[
    family(
        COARSE,
        "rabbitmq_queue_messages_ready",
        "Messages ready for consumers.",
        |q| q.ready,
    ),
    family(
        COARSE,
        "rabbitmq_queue_messages_unacked",
        "Messages with consumers.",
        |q| q.unsettled,
    ),
    family(
        &["queue_coarse_metrics", "queue_metrics"],
        "rabbitmq_queue_messages",
        "Messages in the queue, ready and with consumers.",
        |q| q.ready + q.unsettled,
    ),
    family(
        &["queue_consumer_count", "queue_metrics"],
        "rabbitmq_queue_consumers",
        "Consumers of the queue.",
        |q| q.consumers,
    ),
    family(
        QUEUE,
        "rabbitmq_queue_messages_bytes",
        "Bytes of the bodies of its messages.",
        |q| q.ready_bytes + q.unsettled_bytes,
    ),
    family(
        QUEUE,
        "rabbitmq_queue_messages_ready_bytes",
        "Bytes of the bodies of messages ready for consumers.",
        |q| q.ready_bytes,
    ),
    family(
        QUEUE,
        "rabbitmq_queue_messages_unacked_bytes",
        "Bytes of the bodies of messages with consumers.",
        |q| q.unsettled_bytes,
    ),
    family(
        QUEUE,
        "rabbitmq_queue_messages_ram",
        "Messages whose places are in memory.",
        |q| q.in_memory + q.unsettled,
    ),
    family(
        QUEUE,
        "rabbitmq_queue_messages_persistent",
        "Messages of a durable queue.",
        |q| if q.is_durable { q.ready + q.unsettled } else { 0 },
    ),
    family(
        QUEUE,
        "rabbitmq_queue_consumer_utilisation",
        "1 if nothing waits for the queue's consumers, 0 if something does or there are none.",
        |q| u64::from(q.consumers > 0 && q.ready == 0),
    ),
    family(
        QUEUE,
        "rabbitmq_queue_consumer_capacity",
        "The same as queue_consumer_utilisation.",
        |q| u64::from(q.consumers > 0 && q.ready == 0),
    ),
    family(
        DELIVERY,
        "rabbitmq_queue_messages_published_total",
        "Messages put into the queue.",
        |q| q.counts.published,
    ),
    family(
        DELIVERY,
        "rabbitmq_queue_get_ack_total",
        "Messages fetched one by one, to be settled.",
        |q| q.counts.got,
    ),
    family(
        DELIVERY,
        "rabbitmq_queue_get_total",
        "Messages fetched one by one, settled when sent.",
        |q| q.counts.got_no_ack,
    ),
    family(
        DELIVERY,
        "rabbitmq_queue_get_empty_total",
        "Fetches that found the queue empty.",
        |q| q.counts.get_empty,
    ),
    family(
        DELIVERY,
        "rabbitmq_queue_messages_delivered_ack_total",
        "Deliveries to be settled.",
        |q| q.counts.delivered,
    ),
    family(
        DELIVERY,
        "rabbitmq_queue_messages_delivered_total",
        "Deliveries settled when sent.",
        |q| q.counts.delivered_no_ack,
    ),
    family(
        DELIVERY,
        "rabbitmq_queue_messages_redelivered_total",
        "Deliveries of messages handed out before.",
        |q| q.counts.redelivered,
    ),
    family(
        DELIVERY,
        "rabbitmq_queue_messages_acked_total",
        "Deliveries settled.",
        |q| q.counts.acknowledged,
    ),
];

const CHANNEL: &[&str] = &["channel_metrics"];
const PUBLISHED: &[&str] = &["channel_exchange_metrics"];
const CONSUMED: &[&str] = &["channel_queue_metrics"];

const CHANNELS: &[Family<Channel>] = &[
    family(
        CHANNEL,
        "rabbitmq_channel_consumers",
        "Consumers on the channel.",
        |c| c.consumers,
    ),
    family(
        CHANNEL,
        "rabbitmq_channel_messages_unacked",
        "Deliveries on the channel that are not settled.",
        |c| c.unsettled,
    ),
    family(
        CHANNEL,
        "rabbitmq_channel_messages_unconfirmed",
        "Publishes on the channel that are not confirmed.",
        |c| c.unconfirmed,
    ),
    family(
        CHANNEL,
        "rabbitmq_consumer_prefetch",
        "Prefetch of each consumer that the channel starts from now on; 0: no limit.",
        |c| c.prefetch_each,
    ),
    family(
        CHANNEL,
        "rabbitmq_channel_prefetch",
        "Prefetch of the channel as a whole; 0: no limit.",
        |c| c.prefetch_all,
    ),
    family(
        PUBLISHED,
        "rabbitmq_channel_messages_published_total",
        "Messages published on the channel.",
        |c| c.counts.published,
    ),
    family(
        PUBLISHED,
        "rabbitmq_channel_messages_confirmed_total",
        "Publishes on the channel that were confirmed.",
        |c| c.counts.confirmed,
    ),
    family(
        PUBLISHED,
        "rabbitmq_channel_messages_unroutable_returned_total",
        "Publishes on the channel that reached no queue and were returned.",
        |c| c.counts.unroutable_returned,
    ),
    family(
        PUBLISHED,
        "rabbitmq_channel_messages_unroutable_dropped_total",
        "Publishes on the channel that reached no queue and were dropped.",
        |c| c.counts.unroutable_dropped,
    ),
    family(
        CONSUMED,
        "rabbitmq_channel_get_ack_total",
        "Messages fetched one by one, to be settled.",
        |c| c.counts.got,
    ),
    family(
        CONSUMED,
        "rabbitmq_channel_get_total",
        "Messages fetched one by one, settled when sent.",
        |c| c.counts.got_no_ack,
    ),
    family(
        CONSUMED,
        "rabbitmq_channel_get_empty_total",
        "Fetches from an empty queue.",
        |c| c.counts.get_empty,
    ),
    family(
        CONSUMED,
        "rabbitmq_channel_messages_delivered_ack_total",
        "Deliveries to be settled.",
        |c| c.counts.delivered,
    ),
    family(
        CONSUMED,
        "rabbitmq_channel_messages_delivered_total",
        "Deliveries settled when sent.",
        |c| c.counts.delivered_no_ack,
    ),
    family(
        CONSUMED,
        "rabbitmq_channel_messages_redelivered_total",
        "Deliveries of messages handed out before.",
        |c| c.counts.redelivered,
    ),
    family(
        CONSUMED,
        "rabbitmq_channel_messages_acked_total",
        "Deliveries settled.",
        |c| c.counts.acknowledged,
    ),
];

const BYTES: &[&str] = &["connection_coarse_metrics"];
const CONNECTION: &[&str] = &["connection_metrics"];

const CONNECTIONS: &[Family<Connection>] = &[
    family(
        BYTES,
        "rabbitmq_connection_incoming_bytes_total",
        "Bytes read from the connection.",
        |c| c.carried.bytes_in,
    ),
    family(
        BYTES,
        "rabbitmq_connection_outgoing_bytes_total",
        "Bytes written to the connection.",
        |c| c.carried.bytes_out,
    ),
    family(
        CONNECTION,
        "rabbitmq_connection_incoming_packets_total",
        "Reads from the connection that brought something.",
        |c| c.carried.reads,
    ),
    family(
        CONNECTION,
        "rabbitmq_connection_outgoing_packets_total",
        "Writes to the connection.",
        |c| c.carried.writes,
    ),
    family(
        CONNECTION,
        "rabbitmq_connection_channels",
        "Channels of the connection.",
        |c| c.channels,
    ),
];

/// What there is of exchanges and vhosts.
const EXCHANGES: &str = "exchange_metrics";
const EXCHANGE_NAMES: &str = "exchange_names";
const VHOST_STATUS: &str = "vhost_status";

/// The help of a family of single objects.
pub(super) fn help(name: &str) -> Option<&'static str> {
    fn find<T>(families: &[Family<T>], name: &str) -> Option<&'static str> {
        let found = families.iter().find(|family| family.name == name);
        found.map(|family| family.help)
    }
    find(QUEUES, name)
        .or_else(|| find(CHANNELS, name))
        .or_else(|| find(CONNECTIONS, name))
}

/// Whether `/metrics/per-object` shows the family one by one.
pub(super) fn is_on_page(name: &str) -> bool {
    fn is_in<T>(families: &[Family<T>], name: &str) -> bool {
        let mut shown = families.iter().filter(|family| is_wanted(family.groups, &ON_PAGE));
        shown.any(|family| family.name == name)
    }
    is_in(QUEUES, name) || is_in(CHANNELS, name) || is_in(CONNECTIONS, name)
}

fn is_wanted(groups: &[&str], wanted: &[&str]) -> bool {
    groups.iter().any(|group| wanted.contains(group))
}

/// Items read in one hold of an engine's lock, which takes about 50 µs.
const ITEMS_PER_HOLD: usize = 256;

/// What `/metrics/per-object` shows, of all vhosts.
pub(super) fn all(page: &mut Page, node: &Node) {
    write(page, node, &ON_PAGE, &node.vhosts.list());
}

/// The families of these groups, of these vhosts or of all.
pub(super) fn some(page: &mut Page, node: &Node, groups: &[String], vhosts: &[String]) {
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    let list = node.vhosts.list();
    let wanted = list
        .iter()
        .filter(|vhost| vhosts.is_empty() || vhosts.iter().any(|name| **name == *vhost.name));
    let wanted: Vec<Arc<Vhost>> = wanted.cloned().collect();
    write(page, node, &groups, &wanted);
}

fn write(page: &mut Page, node: &Node, groups: &[&str], vhosts: &[Arc<Vhost>]) {
    fn chosen<T>(all: &'static [Family<T>], groups: &[&str]) -> Vec<&'static Family<T>> {
        all.iter().filter(|family| is_wanted(family.groups, groups)).collect()
    }
    let limit = node.config().metrics.per_object_limit;
    let mut objects = Objects {
        page,
        queues: chosen(QUEUES, groups),
        channels: chosen(CHANNELS, groups),
        of_connections: chosen(CONNECTIONS, groups),
        exchanges: [EXCHANGES, EXCHANGE_NAMES].map(|group| groups.contains(&group)),
        connections: HashMap::new(),
    };
    if !objects.queues.is_empty() {
        let left_out = objects.list(vhosts, Kind::Queues, limit, Objects::queue);
        objects.truncated("queue", left_out);
    }
    let has_channels = !objects.channels.is_empty();
    if has_channels || !objects.of_connections.is_empty() {
        let left_out = objects.list(vhosts, Kind::Connections, limit, Objects::connection);
        objects.truncated("connection", left_out);
    }
    if has_channels {
        let left_out = objects.list(vhosts, Kind::Channels, limit, Objects::channel);
        objects.truncated("channel", left_out);
    }
    if objects.exchanges.contains(&true) {
        let left_out = objects.list(vhosts, Kind::Exchanges, limit, Objects::exchange);
        objects.truncated("exchange", left_out);
    }
    if groups.contains(&VHOST_STATUS) {
        for vhost in vhosts.iter().take(limit) {
            page.gauge("rabbitmq_cluster_vhost_status", &[("vhost", &vhost.name)], 1.0);
        }
    }
}

struct Objects<'a> {
    page: &'a mut Page,
    queues: Vec<&'static Family<Queue>>,
    channels: Vec<&'static Family<Channel>>,
    of_connections: Vec<&'static Family<Connection>>,
    /// Their counters, and their names.
    exchanges: [bool; 2],
    /// Names of the connections shown, by vhost and link. The names of their channels contain them.
    connections: HashMap<(usize, Link), String>,
}

impl Objects<'_> {
    /// Shows at most `limit` items. Returns how many more there are.
    fn list(
        &mut self,
        vhosts: &[Arc<Vhost>],
        kind: Kind,
        limit: usize,
        show: fn(&mut Self, usize, &str, &Item),
    ) -> usize {
        let (mut shown, mut left_out) = (0, 0);
        for (number, vhost) in vhosts.iter().enumerate() {
            let mut cursor = Cursor::new(kind);
            while !cursor.is_done() {
                for item in vhost.enter(|engine| engine.inspect(&mut cursor, ITEMS_PER_HOLD)) {
                    if shown < limit {
                        shown += 1;
                        show(self, number, &vhost.name, &item);
                    } else {
                        left_out += 1;
                    }
                }
            }
        }
        left_out
    }

    fn truncated(&mut self, kind: &str, count: usize) {
        self.page
            .gauge("gatepost_metrics_objects_truncated", &[("kind", kind)], count as f64);
    }

    fn queue(&mut self, _: usize, vhost: &str, item: &Item) {
        let Item::Queue {
            name,
            durable,
            ready,
            unsettled,
            consumers,
            ready_bytes,
            unsettled_bytes,
            ready_in_memory,
            counts,
            ..
        } = item
        else {
            return;
        };
        let queue = Queue {
            ready: *ready as u64,
            unsettled: *unsettled as u64,
            consumers: *consumers as u64,
            ready_bytes: *ready_bytes,
            unsettled_bytes: *unsettled_bytes,
            in_memory: *ready_in_memory as u64,
            is_durable: *durable,
            counts: *counts,
        };
        put(self.page, &self.queues, &[("vhost", vhost), ("queue", &**name)], &queue);
    }

    fn connection(&mut self, vhost: usize, _: &str, item: &Item) {
        let Item::Connection {
            link,
            peer,
            channels,
            carried,
            ..
        } = item
        else {
            return;
        };
        let name = name_of(peer, *link);
        let connection = Connection {
            channels: *channels as u64,
            carried: *carried,
        };
        put(self.page, &self.of_connections, &[("connection", &*name)], &connection);
        self.connections.insert((vhost, *link), name);
    }

    fn channel(&mut self, vhost: usize, _: &str, item: &Item) {
        let Item::Channel {
            link,
            number,
            consumers,
            unsettled,
            unconfirmed,
            prefetch_each,
            prefetch_all,
            counts,
            ..
        } = item
        else {
            return;
        };
        // The channel's connection is over the limit, or has just closed.
        let Some(connection) = self.connections.get(&(vhost, *link)) else {
            return;
        };
        let name = format!("{connection} ({number})");
        let channel = Channel {
            consumers: *consumers as u64,
            unsettled: *unsettled as u64,
            unconfirmed: *unconfirmed,
            prefetch_each: u64::from(*prefetch_each),
            prefetch_all: u64::from(*prefetch_all),
            counts: *counts,
        };
        put(self.page, &self.channels, &[("channel", &*name)], &channel);
    }

    fn exchange(&mut self, _: usize, vhost: &str, item: &Item) {
        let Item::Exchange(info) = item else { return };
        let [counters, names] = self.exchanges;
        let labels = [("vhost", vhost), ("exchange", &*info.name), ("type", info.kind)];
        if counters {
            let published = "rabbitmq_exchange_messages_published_total";
            self.page.counter(published, &labels[..2], info.counts.published_in);
        }
        if names {
            self.page.gauge("rabbitmq_cluster_exchange_name", &labels, 1.0);
        }
    }
}

/// Writes the families of one object.
fn put<T>(page: &mut Page, families: &[&Family<T>], labels: &[Label<'_>], object: &T) {
    for family in families {
        let value = (family.of)(object);
        if family.name.ends_with("_total") {
            page.counter(family.name, labels, value);
        } else {
            page.gauge(family.name, labels, value as f64);
        }
    }
}

/// `127.0.0.1:40000 -> 127.0.0.1:5672`, as RabbitMQ names connections. Connections by Unix socket have no addresses.
fn name_of(peer: &Peer, link: Link) -> String {
    match (peer.address, peer.local_address) {
        (Some(from), Some(to)) => format!("{from} -> {to}"),
        (Some(from), None) => from.to_string(),
        _ => format!("local {link:?}"),
    }
}
