//! A way to have a backlog: a broker, and the protocol that fills and empties it.

use crate::compare::peer::{Kind, Peer, Running, Settings};
use crate::compare::scenario;
use crate::plan::{Phase, Plan, Protocol};
use std::path::PathBuf;
use std::time::Duration;

/// A broker, a protocol, and the names in the tables.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// The name for `--only`.
    pub(crate) key: &'static str,
    pub(crate) name: &'static str,
    pub(crate) protocol: Protocol,
    pub(crate) peer: Peer,
}

/// The amount of messages, and how they are published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) messages: u64,
    pub(crate) size: usize,
    pub(crate) queues: usize,
    pub(crate) window: u64,
    pub(crate) threads: usize,
}

/// Settings of a node's durability, and the name of each in a row.
pub(crate) const DURABILITIES: [(&str, &str); 4] = [
    ("`always`, or as the broker does", "durability = \"always\""),
    ("`interval` of 1 s, confirmed when synced", "durability = \"interval\""),
    (
        "`interval` of 1 s, confirmed when written",
        "durability = \"interval\"\nconfirm = \"written\"",
    ),
    ("`os`", "durability = \"os\""),
];

/// Maximum unacknowledged deliveries of a consumer of many queues, over all its queues.
const UNSETTLED: usize = 10_000;
/// Maximum unconfirmed publishes of a paced publisher: enough for a broker that confirms once a second.
const PACED_WINDOW: u64 = 20_000;

impl Way {
    /// All ways, whether their brokers are installed or not.
    pub(crate) fn all(
        io_threads: usize,
        find: impl Fn(Kind) -> anyhow::Result<Option<PathBuf>>,
    ) -> anyhow::Result<Vec<Self>> {
        let ways = [
            (
                "gatepost-amqp",
                "Gatepost, AMQP",
                Protocol::Amqp,
                Kind::Gatepost { io_threads },
            ),
            (
                "gatepost-mqtt",
                "Gatepost, MQTT",
                Protocol::Mqtt,
                Kind::Gatepost { io_threads },
            ),
            ("rabbitmq-amqp", "RabbitMQ lazy, AMQP", Protocol::Amqp, Kind::RabbitMq),
            ("rabbitmq-mqtt", "RabbitMQ lazy, MQTT", Protocol::Mqtt, Kind::RabbitMq),
            ("mosquitto", "Mosquitto, MQTT", Protocol::Mqtt, Kind::Mosquitto),
            ("nats", "NATS JetStream", Protocol::Nats, Kind::Nats),
        ];
        let way = |(key, name, protocol, kind)| {
            let settings = Settings {
                disk_first: true,
                metrics: matches!(kind, Kind::Gatepost { .. }),
                ..Settings::default()
            };
            let program = find(kind)?;
            Ok(Self {
                key,
                name,
                protocol,
                peer: Peer {
                    kind,
                    program,
                    settings,
                },
            })
        };
        ways.into_iter().map(way).collect()
    }

    pub(crate) fn is_gatepost(&self) -> bool {
        matches!(self.peer.kind, Kind::Gatepost { .. })
    }

    pub(crate) fn plan(&self, broker: &Running, load: Load, phase: Phase) -> anyhow::Result<Plan> {
        let mut plan = scenario::durable(broker, self.protocol, (load.messages, load.size), phase)?;
        plan.queues = load.queues;
        plan.window = load.window;
        plan.threads = load.threads;
        if load.queues > 1 {
            plan.prefetch = (UNSETTLED / load.queues).clamp(1, usize::from(plan.prefetch)) as u16;
        }
        plan.progress = true;
        Ok(plan)
    }

    /// A fill at a fixed rate.
    pub(crate) fn paced(&self, broker: &Running, load: Load, rate: f64, span: Duration) -> anyhow::Result<Plan> {
        let messages = (rate * span.as_secs_f64()) as u64;
        let mut plan = self.plan(broker, Load { messages, ..load }, Phase::Fill)?;
        plan.rate = Some(rate);
        plan.window = PACED_WINDOW;
        Ok(plan)
    }
}
