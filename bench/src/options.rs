//! The command line of `run`.

use crate::plan::{Endpoint, Phase, Plan, Protocol};
use crate::wire::AckMode;
use anyhow::ensure;
use std::path::PathBuf;
use std::time::Duration;

/// Loads a broker with verified messages and reports its cost.
#[derive(Debug, clap::Args)]
pub(crate) struct RunOptions {
    /// Where to publish, as `amqp|mqtt|mqtt5|stomp|nats://[user[:password]@]host[:port][/vhost]`; instead of --protocol, --host, --port
    #[arg(long)]
    uri: Option<String>,
    /// Where to consume, if it differs
    #[arg(long)]
    consumer_uri: Option<String>,
    /// Protocol of the publishers
    #[arg(long, value_enum, default_value = "mqtt")]
    protocol: Protocol,
    /// Protocol of the consumers, if it differs
    #[arg(long, value_enum)]
    consumer_protocol: Option<Protocol>,
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port of the publishers; the protocol's default if left out
    #[arg(long)]
    port: Option<u16>,
    /// Port of the consumers, if it differs
    #[arg(long)]
    consumer_port: Option<u16>,
    /// Bytes of a body, 24 at least
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Messages of all publishers together; 100000 unless --seconds is given
    #[arg(long)]
    count: Option<u64>,
    /// Seconds to publish
    #[arg(long)]
    seconds: Option<f64>,
    #[arg(long, default_value_t = 1)]
    publishers: usize,
    #[arg(long, default_value_t = 1)]
    consumers: usize,
    /// Every consumer gets every message; otherwise the consumers share them
    #[arg(long)]
    fanout: bool,
    /// This many publishers, each with a consumer and a topic of its own; instead of --publishers and --consumers; MQTT
    /// only
    #[arg(long, conflicts_with_all = ["publishers", "consumers", "fanout", "queues"])]
    pairs: Option<usize>,
    /// Spread the messages in turn over this many queues; AMQP only
    #[arg(long, default_value_t = 1)]
    queues: usize,
    /// MQTT's quality of service, of publishers and consumers
    #[arg(long, default_value_t = 0)]
    qos: u8,
    /// Durable queues and persistent messages; for MQTT a session that is kept
    #[arg(long)]
    durable: bool,
    /// Ask for confirms (AMQP) or receipts (STOMP)
    #[arg(long)]
    confirm: bool,
    /// How AMQP and STOMP consumers acknowledge
    #[arg(long, value_enum, default_value = "none", num_args = 0..=1, default_missing_value = "each")]
    ack: AckMode,
    /// Maximum unacknowledged messages of a consumer; 0 for no limit
    #[arg(long, default_value_t = 0)]
    prefetch: u16,
    /// Maximum unconfirmed messages of a publisher
    #[arg(long, default_value_t = 100)]
    window: u64,
    /// How far publishers may be ahead of the slowest consumer; 0 for no limit
    #[arg(long, default_value_t = 10_000)]
    ahead: u64,
    /// Messages a second of all publishers; latency then counts from when each was meant to leave
    #[arg(long)]
    rate: Option<f64>,
    /// Only publish, into queues or sessions that keep the messages
    #[arg(long, conflicts_with = "drain")]
    fill: bool,
    /// Only consume what --fill with the same --name, --count and --publishers left behind
    #[arg(long)]
    drain: bool,
    /// Also keep this many idle connections open, and report their memory; with --count 0 do nothing else
    #[arg(long, default_value_t = 0)]
    connections: usize,
    /// Process id of the broker, to report its cost
    #[arg(long)]
    pid: Option<u32>,
    /// Name of queues, sessions and topics
    #[arg(long)]
    name: Option<String>,
    /// Threads of the generator
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Keep the generator's threads on this processor and the following ones
    #[arg(long)]
    pin: Option<usize>,
    /// MQTT's keep-alive, in seconds
    #[arg(long, default_value_t = 60)]
    keep_alive: u16,
    /// Give up after this many seconds without progress
    #[arg(long, default_value_t = 10)]
    stall: u64,
    /// Write the report (JSON) to this file too
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Default name and run number of fills and drains: both must use the same.
const BACKLOG: (&str, u16) = ("gatepost-bench-backlog", 1);

impl RunOptions {
    pub(crate) fn json(&self) -> Option<&PathBuf> {
        self.json.as_ref()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections
    }

    pub(crate) fn plan(&self) -> anyhow::Result<Plan> {
        let publish_to = match &self.uri {
            Some(uri) => Endpoint::parse(uri)?,
            None => Endpoint::new(self.protocol, &self.host, self.port)?,
        };
        let consume_from = match (&self.consumer_uri, self.consumer_protocol) {
            (Some(uri), _) => Endpoint::parse(uri)?,
            (None, Some(protocol)) if protocol != publish_to.protocol => {
                let host = publish_to.address.ip().to_string();
                let elsewhere = Endpoint::new(protocol, &host, self.consumer_port)?;
                Endpoint {
                    user: publish_to.user.clone(),
                    vhost: publish_to.vhost.clone(),
                    ..elsewhere
                }
            }
            (None, _) => {
                let mut endpoint = publish_to.clone();
                if let Some(port) = self.consumer_port {
                    endpoint.address.set_port(port);
                }
                endpoint
            }
        };
        ensure!(self.seconds.is_none_or(|seconds| seconds > 0.0), "--seconds is above 0");
        let phase = match (self.fill, self.drain) {
            (true, _) => Phase::Fill,
            (_, true) => Phase::Drain,
            _ => Phase::Through,
        };
        let fresh = Plan::new(publish_to, consume_from);
        let (name, run) = if phase == Phase::Through {
            (fresh.name.as_str(), fresh.run)
        } else {
            BACKLOG
        };
        let mut plan = Plan {
            phase,
            name: self.name.clone().unwrap_or_else(|| name.into()),
            run,
            size: self.size,
            count: self
                .count
                .unwrap_or(if self.seconds.is_some() { u64::MAX } else { 100_000 }),
            duration: self.seconds.map(Duration::from_secs_f64),
            publishers: self.pairs.unwrap_or(self.publishers),
            consumers: self.pairs.unwrap_or(self.consumers),
            pairs: self.pairs.is_some(),
            fanout: self.fanout,
            queues: self.queues,
            qos: self.qos,
            durable: self.durable || phase != Phase::Through,
            confirm: self.confirm,
            ack: self.ack,
            prefetch: self.prefetch,
            window: self.window,
            ahead: self.ahead,
            rate: self.rate,
            threads: self.threads,
            pin: self.pin,
            keep_alive_s: self.keep_alive,
            stall: Duration::from_secs(self.stall),
            pid: self.pid,
            progress: true,
            ..fresh
        };
        plan.choose_address();
        Ok(plan)
    }
}
