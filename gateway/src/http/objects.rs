//! Metrics of single queues, channels and connections, for `/metrics/per-object` and `/metrics/detailed`. At most
//! `metrics.per_object_limit` of each: the page of a large broker would have megabytes, and its labels would fill Prometheus.

use super::page::Page;
use crate::node::Node;
use crate::vhost::Vhost;
use gatepost_core::command::Peer;
use gatepost_core::engine::Link;
use gatepost_core::engine::inspect::{Cursor, Item, Kind};
use std::collections::HashMap;
use std::sync::Arc;

/// RabbitMQ's names of the groups that `/metrics/detailed?family=` accepts, and their families.
pub(super) const FAMILIES: &[(&str, &[&str])] = &[
    (
        "queue_coarse_metrics",
        &[
            "rabbitmq_queue_messages_ready",
            "rabbitmq_queue_messages_unacked",
            "rabbitmq_queue_messages",
        ],
    ),
    ("queue_consumer_count", &["rabbitmq_queue_consumers"]),
    (
        "queue_metrics",
        &["rabbitmq_queue_consumers", "rabbitmq_queue_messages"],
    ),
    (
        "connection_coarse_metrics",
        &[
            "rabbitmq_connection_incoming_bytes_total",
            "rabbitmq_connection_outgoing_bytes_total",
        ],
    ),
    ("connection_metrics", &["rabbitmq_connection_channels"]),
    (
        "channel_metrics",
        &[
            "rabbitmq_channel_consumers",
            "rabbitmq_channel_messages_unacked",
            "rabbitmq_channel_messages_unconfirmed",
            "rabbitmq_channel_prefetch",
        ],
    ),
];

/// Items read in one hold of an engine's lock, which takes about 50 µs.
const ITEMS_PER_HOLD: usize = 256;

/// All families of all vhosts.
pub(super) fn all(page: &mut Page, node: &Node) {
    let families: Vec<&str> = FAMILIES
        .iter()
        .flat_map(|(_, families)| families.iter().copied())
        .collect();
    write(page, node, &families, &node.vhosts.list());
}

/// The families of these groups, of these vhosts or of all.
pub(super) fn some(page: &mut Page, node: &Node, groups: &[String], vhosts: &[String]) {
    let groups = FAMILIES
        .iter()
        .filter(|(group, _)| groups.iter().any(|wanted| wanted == group));
    let families: Vec<&str> = groups.flat_map(|(_, families)| families.iter().copied()).collect();
    if families.is_empty() {
        return;
    }
    let list = node.vhosts.list();
    let wanted = list
        .iter()
        .filter(|vhost| vhosts.is_empty() || vhosts.iter().any(|name| **name == *vhost.name));
    let wanted: Vec<Arc<Vhost>> = wanted.cloned().collect();
    write(page, node, &families, &wanted);
}

fn write(page: &mut Page, node: &Node, families: &[&str], vhosts: &[Arc<Vhost>]) {
    let limit = node.config().metrics.per_object_limit;
    let wants = |prefix: &str| families.iter().any(|family| family.starts_with(prefix));
    let mut objects = Objects {
        page,
        families,
        connections: HashMap::new(),
    };
    if wants("rabbitmq_queue_") {
        let left_out = objects.list(vhosts, Kind::Queues, limit, Objects::queue);
        objects.truncated("queue", left_out);
    }
    if wants("rabbitmq_connection_") || wants("rabbitmq_channel_") {
        let left_out = objects.list(vhosts, Kind::Connections, limit, Objects::connection);
        objects.truncated("connection", left_out);
    }
    if wants("rabbitmq_channel_") {
        let left_out = objects.list(vhosts, Kind::Channels, limit, Objects::channel);
        objects.truncated("channel", left_out);
    }
}

struct Objects<'a> {
    page: &'a mut Page,
    families: &'a [&'a str],
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
            ready,
            unsettled,
            consumers,
            ..
        } = item
        else {
            return;
        };
        let labels = [("vhost", vhost), ("queue", &**name)];
        for (family, value) in [
            ("rabbitmq_queue_messages_ready", *ready),
            ("rabbitmq_queue_messages_unacked", *unsettled),
            ("rabbitmq_queue_messages", ready + unsettled),
            ("rabbitmq_queue_consumers", *consumers),
        ] {
            self.gauge(family, &labels, value);
        }
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
        let labels = [("connection", &*name)];
        for (family, value) in [
            ("rabbitmq_connection_incoming_bytes_total", carried.bytes_in),
            ("rabbitmq_connection_outgoing_bytes_total", carried.bytes_out),
        ] {
            if self.families.contains(&family) {
                self.page.counter(family, &labels, value);
            }
        }
        self.gauge("rabbitmq_connection_channels", &labels, *channels);
        self.connections.insert((vhost, *link), name);
    }

    fn channel(&mut self, vhost: usize, _: &str, item: &Item) {
        let Item::Channel {
            link,
            number,
            consumers,
            unsettled,
            unconfirmed,
            prefetch_all,
            ..
        } = item
        else {
            return;
        };
        // The channel's connection is over the limit, or has just closed.
        let Some(connection) = self.connections.get(&(vhost, *link)) else {
            return;
        };
        let channel = format!("{connection} ({number})");
        let labels = [("channel", &*channel)];
        for (family, value) in [
            ("rabbitmq_channel_consumers", *consumers),
            ("rabbitmq_channel_messages_unacked", *unsettled),
            (
                "rabbitmq_channel_messages_unconfirmed",
                usize::try_from(*unconfirmed).unwrap_or(usize::MAX),
            ),
            ("rabbitmq_channel_prefetch", *prefetch_all as usize),
        ] {
            self.gauge(family, &labels, value);
        }
    }

    fn gauge(&mut self, family: &str, labels: &[(&str, &str)], value: usize) {
        if self.families.contains(&family) {
            self.page.gauge(family, labels, value as f64);
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
