//! What a run does: the command line is turned into a plan, and the comparison makes plans itself.

use crate::transport::Carrier;
use crate::wire::{AckMode, Address};
use anyhow::{Context, bail, ensure};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Protocol {
    /// AMQP 0-9-1.
    Amqp,
    /// MQTT 3.1.1.
    Mqtt,
    /// MQTT 5.
    Mqtt5,
    /// STOMP 1.2.
    Stomp,
    /// NATS with a JetStream work queue.
    Nats,
}

/// Where a broker listens, and the login.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
    /// Without a user, MQTT logs in anonymously and the others as guest.
    pub(crate) user: Option<(String, String)>,
    pub(crate) vhost: String,
    /// The transport of the protocol.
    pub(crate) carrier: Carrier,
    /// Whether connections resume TLS sessions of earlier ones.
    pub(crate) resumes: bool,
}

/// One measurement.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) publish_to: Endpoint,
    pub(crate) consume_from: Endpoint,
    pub(crate) phase: Phase,
    /// Name of queues, sessions and topics.
    pub(crate) name: String,
    /// Part of every message; see [`crate::body::Stamp::run`].
    pub(crate) run: u16,
    pub(crate) address: Address,
    /// Number of queues that the messages are spread over in turn; for an MQTT fill, of topics below the address.
    pub(crate) queues: usize,
    /// Messages are retained; MQTT only.
    pub(crate) retain: bool,
    pub(crate) size: usize,
    /// Messages of all publishers together.
    pub(crate) count: u64,
    /// Publishing ends after this long, unless the count is reached first.
    pub(crate) duration: Option<Duration>,
    pub(crate) publishers: usize,
    pub(crate) consumers: usize,
    /// Each publisher has a consumer and a topic of its own.
    pub(crate) pairs: bool,
    /// Every consumer gets every message; otherwise they share them.
    pub(crate) fanout: bool,
    pub(crate) qos: u8,
    pub(crate) durable: bool,
    pub(crate) confirm: bool,
    pub(crate) ack: AckMode,
    pub(crate) prefetch: u16,
    /// Maximum unconfirmed messages of one publisher.
    pub(crate) window: u64,
    /// How many messages all publishers may be ahead of the slowest consumer; 0 for no limit.
    pub(crate) ahead: u64,
    /// Messages per second of all publishers together.
    pub(crate) rate: Option<f64>,
    pub(crate) threads: usize,
    /// The processor of the generator's first thread; the others use the following ones.
    pub(crate) pin: Option<usize>,
    pub(crate) keep_alive_s: u16,
    /// Give up after this long without an arrival.
    pub(crate) stall: Duration,
    /// The broker's process.
    pub(crate) pid: Option<u32>,
    /// Keep queues and sessions at the end.
    pub(crate) keep: bool,
    /// Show progress on standard error.
    pub(crate) progress: bool,
}

/// Which parts of a message's way a run covers.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Publish and consume at once.
    Through,
    /// Only publish, into queues or sessions that keep the messages.
    Fill,
    /// Only consume what a fill published.
    Drain,
}

impl Protocol {
    pub(crate) fn is_mqtt(self) -> bool {
        matches!(self, Self::Mqtt | Self::Mqtt5)
    }

    fn port(self) -> u16 {
        match self {
            Self::Amqp => 5672,
            Self::Mqtt | Self::Mqtt5 => 1883,
            Self::Stomp => 61613,
            Self::Nats => 4222,
        }
    }
}

impl Protocol {
    /// Gatepost's and RabbitMQ's ports.
    fn port_over(self, carrier: Carrier) -> u16 {
        match (self, carrier.tls, carrier.websocket) {
            (Self::Mqtt | Self::Mqtt5, ..) if carrier.quic => 14567,
            (_, false, false) => self.port(),
            (Self::Amqp, true, _) => 5671,
            (Self::Mqtt | Self::Mqtt5, true, false) => 8883,
            (Self::Mqtt | Self::Mqtt5, false, _) => 15675,
            (Self::Mqtt | Self::Mqtt5, true, true) => 15676,
            (Self::Stomp, true, false) => 61614,
            (Self::Stomp, false, _) => 15674,
            (Self::Stomp, true, true) => 15673,
            (Self::Nats | Self::Amqp, ..) => self.port(),
        }
    }

    /// Path and subprotocol for WebSocket.
    pub(crate) fn websocket(self) -> (&'static str, &'static str) {
        match self {
            Self::Mqtt | Self::Mqtt5 => ("/mqtt", "mqtt"),
            Self::Stomp => ("/ws", "v12.stomp"),
            Self::Amqp => ("/ws", "amqp"),
            Self::Nats => ("/", "nats"),
        }
    }
}

/// Splits a scheme into the protocol's name and the transport.
fn carrier_of(scheme: &str) -> (&str, Carrier) {
    let carrier = |tls, websocket| Carrier {
        tls,
        websocket,
        quic: false,
    };
    if let Some(scheme) = scheme.strip_suffix("+quic") {
        return (scheme, Carrier::QUIC);
    }
    if let Some(scheme) = scheme.strip_suffix("+wss") {
        return (scheme, carrier(true, true));
    }
    if let Some(scheme) = scheme.strip_suffix("+ws") {
        return (scheme, carrier(false, true));
    }
    match scheme {
        // Its own name ends with an s.
        "nats" => (scheme, Carrier::default()),
        _ => match scheme.strip_suffix('s') {
            Some(scheme) => (scheme, carrier(true, false)),
            None => (scheme, Carrier::default()),
        },
    }
}

impl Endpoint {
    /// On this machine, with the default login.
    pub(crate) fn local(protocol: Protocol, port: u16) -> Self {
        Self {
            protocol,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            user: None,
            vhost: "/".into(),
            carrier: Carrier::default(),
            resumes: false,
        }
    }

    pub(crate) fn new(protocol: Protocol, host: &str, port: Option<u16>) -> anyhow::Result<Self> {
        let port = port.unwrap_or_else(|| protocol.port());
        let address = (host, port).to_socket_addrs().ok().and_then(|mut found| found.next());
        let address = address.with_context(|| format!("{host}:{port} is no address"))?;
        Ok(Self {
            protocol,
            address,
            user: None,
            vhost: "/".into(),
            carrier: Carrier::default(),
            resumes: false,
        })
    }

    /// Parses `scheme://[user[:password]@]host[:port][/vhost]`. The scheme is amqp, mqtt, mqtt5, stomp or nats,
    /// followed by `s` for TLS, `+ws` or `+wss` for WebSocket, or `+quic`.
    pub(crate) fn parse(uri: &str) -> anyhow::Result<Self> {
        let (scheme, rest) = uri.split_once("://").with_context(|| format!("{uri} has no scheme"))?;
        let (scheme, carrier) = carrier_of(scheme);
        let protocol = match scheme {
            "amqp" => Protocol::Amqp,
            "mqtt" => Protocol::Mqtt,
            "mqtt5" => Protocol::Mqtt5,
            "stomp" => Protocol::Stomp,
            "nats" => Protocol::Nats,
            _ => bail!(
                "{uri}: the scheme is amqp, mqtt, mqtt5, stomp or nats, alone or with s, +ws, +wss or +quic behind it"
            ),
        };
        let (authority, vhost) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, place) = authority
            .rsplit_once('@')
            .map_or((None, authority), |(login, place)| (Some(login), place));
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (
                host,
                Some(port.parse().with_context(|| format!("{uri}: the port is a number"))?),
            ),
            _ => (place, None),
        };
        let port = port.unwrap_or_else(|| protocol.port_over(carrier));
        let mut endpoint = Self::new(protocol, host.trim_matches(['[', ']']), Some(port))?;
        endpoint.carrier = carrier;
        endpoint.user = login.map(|login| {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            (percent_decode(user), percent_decode(password))
        });
        if !vhost.is_empty() {
            endpoint.vhost = percent_decode(vhost);
        }
        Ok(endpoint)
    }

    /// User and password for protocols that require them.
    pub(crate) fn login(&self) -> (&str, &str) {
        self.user
            .as_ref()
            .map_or(("guest", "guest"), |(user, password)| (user, password))
    }
}

impl Plan {
    /// A small run through one endpoint, for the caller to change.
    pub(crate) fn new(publish_to: Endpoint, consume_from: Endpoint) -> Self {
        let run = fresh_run();
        let mut plan = Self {
            name: format!("gatepost-bench-{run}"),
            run,
            publish_to,
            consume_from,
            phase: Phase::Through,
            address: Address::Queue(String::new()),
            queues: 1,
            retain: false,
            size: 64,
            count: 100_000,
            duration: None,
            publishers: 1,
            consumers: 1,
            pairs: false,
            fanout: false,
            qos: 0,
            durable: false,
            confirm: false,
            ack: AckMode::None,
            prefetch: 0,
            window: 100,
            ahead: 10_000,
            rate: None,
            threads: 1,
            pin: None,
            keep_alive_s: 60,
            stall: Duration::from_secs(10),
            pid: None,
            keep: false,
            progress: false,
        };
        plan.choose_address();
        plan
    }

    /// Uses a queue if both ends support queues, otherwise a topic.
    pub(crate) fn choose_address(&mut self) {
        let topic = self.fanout || self.publish_to.protocol.is_mqtt() || self.consume_from.protocol.is_mqtt();
        self.address = if topic {
            Address::Topic(vec!["bench".into(), self.name.clone()])
        } else {
            Address::Queue(self.name.clone())
        };
    }

    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.publishers > 0 && self.publishers <= usize::from(u16::MAX),
            "1 to 65535 publishers"
        );
        ensure!(self.qos <= 2, "the quality of service is 0, 1 or 2");
        ensure!(self.window > 0, "a window of 0 lets nothing through");
        ensure!(self.rate.is_none_or(|rate| rate > 0.0), "the rate is above 0");
        ensure!(self.threads > 0, "at least one thread");
        ensure!(self.size <= 64 << 20, "bodies of up to 64 MiB");
        let fill_or_drain = self.phase != Phase::Through;
        ensure!(
            self.consumers > 0 || self.phase == Phase::Fill,
            "at least one consumer, unless to fill"
        );
        ensure!(
            !fill_or_drain || self.duration.is_none(),
            "fill and drain go by --count"
        );
        ensure!(
            !fill_or_drain || self.rate.is_none() || self.phase == Phase::Fill,
            "a drain cannot be paced"
        );
        let stomp_topic = self.consume_from.protocol == Protocol::Stomp && matches!(self.address, Address::Topic(_));
        ensure!(!(fill_or_drain && stomp_topic), "a STOMP topic keeps nothing for later");
        ensure!(
            !(stomp_topic && self.consumers > 1 && !self.fanout),
            "STOMP consumers of a topic each get all messages: use --fanout"
        );
        let mqtt = self.publish_to.protocol.is_mqtt() && self.consume_from.protocol.is_mqtt();
        ensure!(
            !self.pairs || (mqtt && self.publishers == self.consumers && !self.fanout && self.phase == Phase::Through),
            "pairs are of MQTT clients, and go the whole way"
        );
        let nats = [self.publish_to.protocol, self.consume_from.protocol].map(|protocol| protocol == Protocol::Nats);
        ensure!(nats[0] == nats[1], "NATS messages cross into no other protocol");
        ensure!(
            !nats[0] || (!self.fanout && self.consumers == 1 && self.ack == AckMode::Each),
            "a JetStream work queue has one consumer that acknowledges each message: --ack each"
        );
        let amqp = [self.publish_to.protocol, self.consume_from.protocol] == [Protocol::Amqp; 2];
        let topics = self.phase == Phase::Fill && self.publish_to.protocol.is_mqtt();
        ensure!(
            self.queues == 1 || (self.queues > 1 && (amqp || topics) && !self.fanout),
            "only AMQP messages spread over several queues, and MQTT's over topics where they fill"
        );
        ensure!(
            !self.retain || self.publish_to.protocol.is_mqtt(),
            "only MQTT messages are retained"
        );
        ensure!(
            self.publishers * self.queues <= usize::from(u16::MAX),
            "publishers times queues are at most 65535"
        );
        let mqtt_kept = self.consume_from.protocol.is_mqtt() && (fill_or_drain || self.durable);
        ensure!(!mqtt_kept || self.qos > 0, "an MQTT session keeps nothing of QoS 0");
        Ok(())
    }

    /// How many messages publisher `index` sends, if all together send `count`.
    pub(crate) fn share(&self, index: usize) -> u64 {
        let publishers = self.publishers as u64;
        self.count / publishers + u64::from((index as u64) < self.count % publishers)
    }

    /// The number of messages on each track, if the publishers sent `sent`. A track is one publisher's messages in one
    /// queue; their order is kept.
    pub(crate) fn track_lengths(&self, sent: &[u64]) -> Vec<u64> {
        let queues = self.queues as u64;
        let spread = |sent: &u64| {
            let sent = *sent;
            (0..queues).map(move |queue| sent / queues + u64::from(queue < sent % queues))
        };
        sent.iter().flat_map(spread).collect()
    }

    /// The destinations, which messages use in turn.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        match &self.address {
            Address::Queue(name) if self.queues > 1 => {
                let queue = |number| Address::Queue(format!("{name}-{number}"));
                (0..self.queues).map(queue).collect()
            }
            Address::Topic(levels) if self.queues > 1 => {
                let below = |number: usize| levels.iter().cloned().chain([number.to_string()]);
                (0..self.queues)
                    .map(|number| Address::Topic(below(number).collect()))
                    .collect()
            }
            address => vec![address.clone()],
        }
    }

    /// The plan of one pair, if clients come in pairs: it has a topic of its own.
    pub(crate) fn of_pair(&self, index: usize) -> Self {
        let mut plan = self.clone();
        if let (true, Address::Topic(levels)) = (self.pairs, &mut plan.address) {
            levels.push(index.to_string());
            plan.consumers = 1;
        }
        plan
    }

    /// Whether the broker confirms publishes.
    pub(crate) fn is_confirmed(&self) -> bool {
        if self.publish_to.protocol.is_mqtt() {
            self.qos > 0
        } else {
            self.confirm
        }
    }
}

/// Differs between runs close in time, so that messages of an earlier run are recognised.
fn fresh_run() -> u16 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    (now.as_millis() as u16).wrapping_add(std::process::id() as u16)
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escape = after
            .get(..2)
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match escape {
            Some(decoded) if byte == b'%' => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_all_and_with_none_of_their_parts() {
        let full = Endpoint::parse("amqp://me:p%40ss@127.0.0.1:7000/%2fprod").unwrap();
        assert_eq!(full.address, SocketAddr::from(([127, 0, 0, 1], 7000)));
        assert_eq!((full.login(), full.vhost.as_str()), (("me", "p@ss"), "/prod"));
        let bare = Endpoint::parse("mqtt5://127.0.0.1").unwrap();
        assert_eq!(
            (bare.protocol, bare.address.port(), bare.vhost.as_str()),
            (Protocol::Mqtt5, 1883, "/")
        );
        assert!(bare.user.is_none());
        assert_eq!(
            Endpoint::parse("stomp://[::1]:61614").unwrap().address.to_string(),
            "[::1]:61614"
        );
        for wrong in ["127.0.0.1", "http://127.0.0.1", "amqp://127.0.0.1:x"] {
            assert!(Endpoint::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn messages_take_turns_over_the_queues() {
        let endpoint = Endpoint::local(Protocol::Amqp, 1);
        let mut plan = Plan::new(endpoint.clone(), endpoint);
        assert_eq!(plan.track_lengths(&[7, 2]), [7, 2]);
        plan.queues = 3;
        assert_eq!(plan.track_lengths(&[7, 2]), [3, 2, 2, 1, 1, 0]);
        assert_eq!(plan.addresses().len(), 3);
        assert_eq!(plan.addresses()[2], Address::Queue(format!("{}-2", plan.name)));
        plan.address = Address::Topic(vec!["a".into()]);
        assert_eq!(plan.addresses()[2], Address::Topic(vec!["a".into(), "2".into()]));
    }

    #[test]
    fn each_pair_has_a_topic_of_its_own() {
        let endpoint = Endpoint::local(Protocol::Mqtt, 1);
        let mut plan = Plan::new(endpoint.clone(), endpoint);
        assert_eq!(plan.of_pair(7).address, plan.address);
        (plan.pairs, plan.publishers, plan.consumers) = (true, 10, 10);
        plan.check().unwrap();
        assert_ne!(plan.of_pair(7).address, plan.of_pair(8).address);
        plan.fanout = true;
        assert!(plan.check().is_err());
    }

    #[test]
    fn the_publishers_shares_add_up() {
        let endpoint = Endpoint::local(Protocol::Amqp, 1);
        let plan = Plan {
            count: 11,
            publishers: 3,
            ..Plan::new(endpoint.clone(), endpoint)
        };
        assert_eq!((0..3).map(|index| plan.share(index)).collect::<Vec<_>>(), [4, 4, 3]);
    }
}
