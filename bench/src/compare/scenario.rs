//! The scenarios that are measured.

use super::peer::{Kind, Peer, Running};
use crate::plan::{Phase, Plan, Protocol};
use crate::wire::AckMode;
use std::time::Duration;

/// One kind of load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) title: &'static str,
    publish: Protocol,
    consume: Protocol,
    size: usize,
    qos: u8,
    /// Durable, confirmed and acknowledged, as far as AMQP and STOMP offer it.
    careful: bool,
    /// Publishers and consumers. With more than one consumer, each gets every message.
    clients: (usize, usize),
}

const fn mqtt(title: &'static str, qos: u8, size: usize) -> Scenario {
    Scenario {
        title,
        publish: Protocol::Mqtt,
        consume: Protocol::Mqtt,
        size,
        qos,
        careful: false,
        clients: (1, 1),
    }
}

const fn other(title: &'static str, publish: Protocol, consume: Protocol, qos: u8, careful: bool) -> Scenario {
    Scenario {
        title,
        publish,
        consume,
        size: 64,
        qos,
        careful,
        clients: (1, 1),
    }
}

/// Scenarios at the highest rate of the broker.
pub(crate) const THROUGHPUT: &[Scenario] = &[
    mqtt("MQTT QoS 0, 64 B", 0, 64),
    mqtt("MQTT QoS 0, 1 KiB", 0, 1024),
    mqtt("MQTT QoS 1, 64 B", 1, 64),
    mqtt("MQTT QoS 1, 1 KiB", 1, 1024),
    mqtt("MQTT QoS 2, 64 B", 2, 64),
    mqtt("MQTT QoS 2, 1 KiB", 2, 1024),
    Scenario {
        clients: (2, 5),
        ..mqtt("MQTT QoS 0, 2 publishers to 5 subscribers", 0, 64)
    },
    other("AMQP transient", Protocol::Amqp, Protocol::Amqp, 0, false),
    other(
        "AMQP durable, confirmed, acknowledged",
        Protocol::Amqp,
        Protocol::Amqp,
        0,
        true,
    ),
    other("STOMP queue", Protocol::Stomp, Protocol::Stomp, 0, false),
    other(
        "MQTT QoS 1 to AMQP acknowledged",
        Protocol::Mqtt,
        Protocol::Amqp,
        1,
        true,
    ),
];

/// Scenarios at a rate that every broker sustains.
pub(crate) const LATENCY: &[Scenario] = &[
    mqtt("MQTT QoS 1", 1, 64),
    other(
        "AMQP durable, confirmed, acknowledged",
        Protocol::Amqp,
        Protocol::Amqp,
        0,
        true,
    ),
];

/// Messages per second in the latency scenarios.
pub(crate) const LATENCY_RATE: f64 = 2000.0;
/// The backlog: number of messages, and bytes of each.
pub(crate) const BACKLOG: (u64, usize) = (200_000, 1024);
/// Maximum unacknowledged deliveries and unconfirmed publishes, the same for all.
const WINDOW: u16 = 100;
/// How far publishers may be ahead of the consumers: enough to keep a broker busy, too little to fill its memory.
const AHEAD_MESSAGES: u64 = 10_000;
const AHEAD_BYTES: u64 = 8 << 20;

impl Scenario {
    /// Whether a broker supports this scenario.
    pub(crate) fn suits(&self, peer: &Peer) -> bool {
        // RabbitMQ delivers messages that were published with QoS 2 with QoS 1.
        let downgraded = peer.kind == Kind::RabbitMq && self.qos == 2;
        peer.speaks(self.publish) && peer.speaks(self.consume) && !downgraded
    }

    /// A run of this duration against a broker.
    pub(crate) fn plan(&self, broker: &Running, duration: Duration) -> anyhow::Result<Plan> {
        let mut plan = Plan::new(broker.endpoint(self.publish)?, broker.endpoint(self.consume)?);
        plan.size = self.size;
        plan.count = u64::MAX;
        plan.duration = Some(duration);
        (plan.publishers, plan.consumers) = self.clients;
        plan.fanout = self.clients.1 > 1;
        plan.qos = self.qos;
        plan.window = u64::from(WINDOW);
        plan.ahead = AHEAD_MESSAGES.min(AHEAD_BYTES / self.size as u64);
        plan.pid = Some(broker.pid);
        if self.careful {
            (plan.durable, plan.confirm, plan.ack, plan.prefetch) = (true, true, AckMode::Each, WINDOW);
        }
        plan.choose_address();
        Ok(plan)
    }
}

/// The plan for a backlog: in a durable AMQP queue, or in a kept MQTT session if the broker has no AMQP.
pub(crate) fn backlog(peer: &Peer, broker: &Running, phase: Phase) -> anyhow::Result<Plan> {
    let protocol = if peer.speaks(Protocol::Amqp) {
        Protocol::Amqp
    } else {
        Protocol::Mqtt
    };
    durable(broker, protocol, BACKLOG, phase)
}

/// A plan that sends messages through a durable queue or a kept session, confirmed and acknowledged.
pub(crate) fn durable(
    broker: &Running,
    protocol: Protocol,
    (count, size): (u64, usize),
    phase: Phase,
) -> anyhow::Result<Plan> {
    let mut plan = Plan::new(broker.endpoint(protocol)?, broker.endpoint(protocol)?);
    plan.phase = phase;
    // Fill and drain must use the same names and run number.
    (plan.name, plan.run) = ("backlog".into(), 1);
    (plan.count, plan.size) = (count, size);
    (plan.qos, plan.durable, plan.confirm, plan.ack) = (1, true, true, AckMode::Each);
    (plan.window, plan.prefetch) = (u64::from(WINDOW), WINDOW);
    plan.ahead = AHEAD_MESSAGES.min(AHEAD_BYTES / size.max(1) as u64);
    plan.pid = Some(broker.pid);
    plan.choose_address();
    Ok(plan)
}
