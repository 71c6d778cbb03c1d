//! The counters and gauges that have rates, and samples of all of them.

use crate::node::Node;
use gatepost_core::engine::{ChannelCounts, Counters, QueueCounts, Traffic};
use gatepost_core::in_process;
use gatepost_core::router::ExchangeCounts;
use std::sync::atomic::Ordering;

/// A counter or gauge. Those of queues come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Figure {
    Publish,
    Deliver,
    DeliverNoAck,
    Get,
    GetNoAck,
    GetEmpty,
    Ack,
    Redeliver,
    Ready,
    Unacknowledged,
    Confirm,
    DropUnroutable,
    ReturnUnroutable,
    DiskReads,
    DiskWrites,
    ReceivedBytes,
    SentBytes,
    ConnectionCreated,
    ConnectionClosed,
    ChannelCreated,
    ChannelClosed,
    QueueDeclared,
    QueueCreated,
    QueueDeleted,
    MemoryUsed,
    FilesUsed,
    SocketsUsed,
    DiskFree,
}

pub(in crate::api) const OF_QUEUE: usize = Figure::Unacknowledged as usize + 1;
pub(in crate::api) const OF_CHANNEL: usize = Figure::ReturnUnroutable as usize + 1;
pub(in crate::api) const OF_EXCHANGE: usize = 2;
pub(in crate::api) const OF_NODE: usize = Figure::DiskFree as usize + 1;

/// All values at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) struct Sample<const N: usize>([u64; N]);

/// The values of a queue.
pub(in crate::api) type QueueSample = Sample<OF_QUEUE>;
/// The values of a channel.
pub(in crate::api) type ChannelSample = Sample<OF_CHANNEL>;
/// The values of an exchange.
pub(in crate::api) type ExchangeSample = Sample<OF_EXCHANGE>;
/// The values of a vhost or the node.
pub(in crate::api) type NodeSample = Sample<OF_NODE>;

impl<const N: usize> Default for Sample<N> {
    fn default() -> Self {
        Sample([0; N])
    }
}

impl<const N: usize> Sample<N> {
    pub(in crate::api) fn of(&self, figure: Figure) -> u64 {
        self.0.get(figure as usize).copied().unwrap_or_default()
    }

    pub(in crate::api) fn messages(&self) -> u64 {
        self.of(Figure::Ready) + self.of(Figure::Unacknowledged)
    }

    pub(in crate::api) fn deliver_get(&self) -> u64 {
        let all = [Figure::Deliver, Figure::DeliverNoAck, Figure::Get, Figure::GetNoAck];
        all.into_iter().map(|figure| self.of(figure)).sum()
    }

    pub(in crate::api) fn set(&mut self, figure: Figure, value: u64) {
        if let Some(place) = self.0.get_mut(figure as usize) {
            *place = value;
        }
    }

    pub(in crate::api) fn add(&mut self, other: &Self) {
        for (value, more) in self.0.iter_mut().zip(other.0) {
            *value = value.saturating_add(more);
        }
    }
}

impl QueueSample {
    pub(in crate::api) fn new(counts: &QueueCounts, ready: u64, unsettled: u64) -> QueueSample {
        let mut sample = QueueSample::default();
        for (figure, value) in [
            (Figure::Publish, counts.published),
            (Figure::Deliver, counts.delivered),
            (Figure::DeliverNoAck, counts.delivered_no_ack),
            (Figure::Get, counts.got),
            (Figure::GetNoAck, counts.got_no_ack),
            (Figure::GetEmpty, counts.get_empty),
            (Figure::Ack, counts.acknowledged),
            (Figure::Redeliver, counts.redelivered),
            (Figure::Ready, ready),
            (Figure::Unacknowledged, unsettled),
        ] {
            sample.set(figure, value);
        }
        sample
    }
}

impl ChannelSample {
    pub(in crate::api) fn new(counts: &ChannelCounts, unsettled: u64) -> ChannelSample {
        let mut sample = ChannelSample::default();
        for (figure, value) in [
            (Figure::Publish, counts.published),
            (Figure::Confirm, counts.confirmed),
            (Figure::DropUnroutable, counts.unroutable_dropped),
            (Figure::ReturnUnroutable, counts.unroutable_returned),
            (Figure::Deliver, counts.delivered),
            (Figure::DeliverNoAck, counts.delivered_no_ack),
            (Figure::Get, counts.got),
            (Figure::GetNoAck, counts.got_no_ack),
            (Figure::GetEmpty, counts.get_empty),
            (Figure::Ack, counts.acknowledged),
            (Figure::Redeliver, counts.redelivered),
            (Figure::Unacknowledged, unsettled),
        ] {
            sample.set(figure, value);
        }
        sample
    }
}

impl ExchangeSample {
    pub(in crate::api) fn new(counts: &ExchangeCounts) -> ExchangeSample {
        Sample([counts.published_in, counts.published_out])
    }

    pub(in crate::api) fn published_in(&self) -> u64 {
        let [published_in, _] = self.0;
        published_in
    }

    pub(in crate::api) fn published_out(&self) -> u64 {
        let [_, published_out] = self.0;
        published_out
    }
}

impl NodeSample {
    /// The sample of a vhost.
    pub(in crate::api) fn new(counters: &Counters) -> NodeSample {
        let traffic = clients(counters);
        let mut sample = NodeSample::default();
        for (figure, value) in [
            (Figure::Publish, traffic.published),
            (Figure::Confirm, traffic.confirmed),
            (Figure::Deliver, traffic.delivered),
            (Figure::DeliverNoAck, traffic.delivered_no_ack),
            (Figure::Get, traffic.got.saturating_sub(traffic.got_no_ack)),
            (Figure::GetNoAck, traffic.got_no_ack),
            (Figure::GetEmpty, traffic.get_empty),
            (Figure::Ack, traffic.acknowledged),
            (Figure::Redeliver, traffic.redelivered),
            (Figure::DropUnroutable, traffic.unroutable_dropped),
            (Figure::ReturnUnroutable, traffic.unroutable_returned),
            (Figure::ReceivedBytes, traffic.bytes_in),
            (Figure::SentBytes, traffic.bytes_out),
            (Figure::DiskReads, counters.bodies_loaded),
            (Figure::ChannelCreated, counters.channels_opened),
            (Figure::ChannelClosed, counters.channels_closed),
            (Figure::QueueDeclared, counters.queues_declared),
            (Figure::QueueCreated, counters.queues_created),
            (Figure::QueueDeleted, counters.queues_deleted),
            (Figure::Ready, counters.messages_ready),
            (Figure::Unacknowledged, counters.messages_unsettled),
        ] {
            sample.set(figure, value);
        }
        sample
    }

    /// Adds the values that only the node knows.
    pub(in crate::api) fn of_node(mut self, node: &Node) -> NodeSample {
        let sum = |of: fn(&crate::node::ConnectionCounts) -> u64| node.connections.iter().map(of).sum::<u64>();
        let open = node.connections_open();
        for (figure, value) in [
            (
                Figure::DiskWrites,
                node.store_stats.messages_written.load(Ordering::Relaxed),
            ),
            (
                Figure::ConnectionCreated,
                sum(|counts| counts.opened.load(Ordering::Relaxed)),
            ),
            (
                Figure::ConnectionClosed,
                sum(|counts| counts.closed.load(Ordering::Relaxed)),
            ),
            (Figure::MemoryUsed, crate::machine::resident_bytes()),
            (Figure::FilesUsed, crate::machine::open_files()),
            (Figure::SocketsUsed, open),
            (Figure::DiskFree, node.health.disk_free.load(Ordering::Relaxed)),
        ] {
            self.set(figure, value);
        }
        self
    }
}

/// The clients' traffic, without the gateway's own publishes for `$SYS`.
pub(in crate::api) fn clients(counters: &Counters) -> Traffic {
    let clients = counters
        .by_protocol
        .iter()
        .filter(|(name, _)| *name != in_process::PROTOCOL);
    clients.map(|(_, traffic)| *traffic).sum()
}
