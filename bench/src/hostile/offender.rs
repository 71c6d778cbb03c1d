//! The kinds of clients that misbehave.

use super::scene::Scene;
use super::{carried, client, crowd, matching};
use crate::transport::Carrier;

/// A way to misbehave. Each is limited in number and in time.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Offender {
    /// MQTT subscribers of QoS 0 and 1 stop reading while 100,000 messages of 1 KiB come for them
    StalledSubscriber,
    /// An AMQP publisher never reads the confirms of 200,000 messages
    UnreadConfirms,
    /// An AMQP publisher never reads the 100,000 messages of 1 KiB that come back to it as unroutable
    UnreadReturns,
    /// Connections are opened and closed as fast as possible, 50,000 at most
    ConnectFlood,
    /// 2,000 connections send half of a handshake and wait
    HalfOpen,
    /// Random bytes on every protocol's port, alone and after a proper start
    Garbage,
    /// 2,000 AMQP channels are opened and closed, again and again
    ManyChannels,
    /// 10,000 MQTT subscriptions are made and removed, again and again
    ManySubscriptions,
    /// Queues are declared with field tables of 120 KiB, which fit into a frame, and of 1 MiB, which do not
    BigTable,
    /// 200 connections send one byte of a handshake a second
    SlowLoris,
    /// 8,192 MQTT filters, every combination of a level and a wildcard, all match each of 500 messages
    WideFilters,
    /// 400 bindings of 200 headers all match each of 500 messages of 900 headers
    HeaderBindings,
    /// Four WebSockets send pings and read no pong (ws, wss)
    WebsocketPings,
    /// Four WebSockets send a message in empty fragments that never end (ws, wss)
    WebsocketFragments,
    /// Four connections change their keys without end (tls)
    KeyUpdates,
    /// 5,000 QUIC handshakes are begun and never continued (quic)
    HalfHandshakes,
    /// One connection opens further streams as fast as they are refused (quic)
    Streams,
    /// Datagrams that are no valid packets (quic)
    Datagrams,
}

impl Offender {
    /// Whether it can be done over this transport.
    pub(crate) fn is_possible_over(self, carrier: Carrier) -> bool {
        match self {
            Self::WebsocketPings | Self::WebsocketFragments => carrier.websocket,
            Self::KeyUpdates => carrier.tls && !carrier.websocket && !carrier.quic,
            Self::HalfHandshakes | Self::Streams | Self::Datagrams => carrier.quic,
            _ => true,
        }
    }

    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self);
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What its acts are counted in.
    pub(crate) fn acts(self) -> &'static str {
        match self {
            Self::StalledSubscriber
            | Self::UnreadConfirms
            | Self::UnreadReturns
            | Self::WideFilters
            | Self::HeaderBindings => "messages",
            Self::ConnectFlood | Self::HalfOpen | Self::Garbage => "connections",
            Self::ManyChannels => "channels",
            Self::ManySubscriptions => "subscriptions",
            Self::BigTable => "declares",
            Self::SlowLoris => "bytes",
            Self::WebsocketPings => "pings",
            Self::WebsocketFragments => "fragments",
            Self::KeyUpdates => "key updates",
            Self::HalfHandshakes => "handshakes",
            Self::Streams => "streams",
            Self::Datagrams => "datagrams",
        }
    }

    /// Whether its answer comes only after a time-out of the broker.
    pub(crate) fn waits(self) -> bool {
        matches!(self, Self::HalfOpen | Self::SlowLoris)
    }

    /// Misbehaves until the scene is over.
    pub(crate) fn offend(self, scene: &Scene) {
        match self {
            Self::StalledSubscriber => client::stalled_subscriber(scene),
            Self::UnreadConfirms => client::unread_confirms(scene),
            Self::UnreadReturns => client::unread_returns(scene),
            Self::ConnectFlood => crowd::connect_flood(scene),
            Self::HalfOpen => crowd::half_open(scene),
            Self::Garbage => crowd::garbage(scene),
            Self::ManyChannels => client::many_channels(scene),
            Self::ManySubscriptions => client::many_subscriptions(scene),
            Self::BigTable => client::big_table(scene),
            Self::SlowLoris => crowd::slow_loris(scene),
            Self::WideFilters => matching::wide_filters(scene),
            Self::HeaderBindings => matching::header_bindings(scene),
            Self::WebsocketPings => carried::websocket_pings(scene),
            Self::WebsocketFragments => carried::websocket_fragments(scene),
            Self::KeyUpdates => carried::key_updates(scene),
            Self::HalfHandshakes => carried::half_handshakes(scene),
            Self::Streams => carried::streams(scene),
            Self::Datagrams => carried::datagrams(scene),
        }
    }
}
