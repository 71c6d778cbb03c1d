//! What a reading of the flow map's counts returns: see `flow.rs`.

use crate::command::Peer;
use crate::properties::Name;
use crate::slots::{ConsumerKey, Link};
use crate::tally::{Source, Tally};
use std::sync::Arc;

/// A client that publishes or receives.
#[derive(Clone, Debug)]
pub struct Party {
    /// Its connection.
    pub link: Link,
    /// The protocol and its version, for example `MQTT 5.0`.
    pub protocol: &'static str,
    /// The user who logged in.
    pub user: Name,
    /// The name that the client gives itself.
    pub name: Option<Name>,
    /// The other end of the connection.
    pub peer: Arc<Peer>,
}

/// Identifies a consumer as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConsumerId(pub(crate) ConsumerKey);

/// One item of what was counted since the last reading.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Flowed {
    /// A client has published.
    Published {
        /// The client.
        party: Party,
        /// How much to each topic or exchange. [`Flowed::Routed`] says what a source stands for.
        to: Vec<(Source, Tally)>,
        /// To further topics or exchanges, which are too many to count one by one.
        others: Tally,
    },
    /// Messages went from a topic or exchange into queues.
    Routed {
        /// The source that stands for the topic or exchange.
        source: Source,
        /// The exchange; empty: the default one.
        exchange: Name,
        /// The topic, in the slash dialect; `None`: the exchange as a whole.
        topic: Option<Name>,
        /// How much each of the queues got.
        tally: Tally,
        /// The queues.
        queues: Vec<Name>,
        /// Exchanges that it has passed them on to, by a binding or as its alternate exchange.
        exchanges: Vec<Name>,
        /// The number of further queues.
        more: usize,
    },
    /// A queue has sent dead letters on.
    DeadLettered {
        /// The queue.
        queue: Name,
        /// Where they went: a topic that [`Flowed::Routed`] describes, unless the exchange is named.
        to: Source,
        /// The exchange, if the map shows it as a whole.
        exchange: Option<Name>,
        /// How many, and their bytes.
        tally: Tally,
    },
    /// A client was given messages of a queue.
    Delivered {
        /// The client.
        party: Party,
        /// The consumer; `None`: the messages were fetched by `Get`.
        consumer: Option<ConsumerId>,
        /// The queue.
        queue: Name,
        /// The number of messages.
        messages: u64,
    },
    /// How long some of the deliveries have waited since their messages were received, in milliseconds.
    Waited(Vec<(ConsumerId, u32)>),
}
