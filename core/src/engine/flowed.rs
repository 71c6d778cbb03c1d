//! What a look at the flow map finds: see `flow.rs`.

use crate::command::Peer;
use crate::properties::Name;
use crate::slots::{ConsumerKey, Link};
use crate::tally::{Source, Tally};
use std::sync::Arc;

/// Who publishes or receives.
#[derive(Clone, Debug)]
pub struct Party {
    /// Its connection.
    pub link: Link,
    /// For example `MQTT 5.0`.
    pub protocol: &'static str,
    /// Who logged in.
    pub user: Name,
    /// What it calls itself.
    pub name: Option<Name>,
    /// Who is at the other end.
    pub peer: Arc<Peer>,
}

/// A consumer, as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConsumerId(pub(crate) ConsumerKey);

/// A part of what has flowed since the last look.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Flowed {
    /// A client has published.
    Published {
        /// It.
        party: Party,
        /// Where to. See [`Flowed::Routed`] for what they are.
        to: Vec<(Source, Tally)>,
        /// To further topics or exchanges, which are too many to be counted one by one.
        others: Tally,
    },
    /// Messages went from a topic or exchange into queues.
    Routed {
        /// It, by number.
        source: Source,
        /// The exchange; empty: the default one.
        exchange: Name,
        /// The topic, in the slash dialect; `None`: the exchange as a whole.
        topic: Option<Name>,
        /// As much to each of the queues.
        tally: Tally,
        /// The queues.
        queues: Vec<Name>,
        /// Further queues.
        more: usize,
    },
    /// A client was given messages of a queue.
    Delivered {
        /// It.
        party: Party,
        /// As whom; `None`: it has fetched them one by one.
        consumer: Option<ConsumerId>,
        /// The queue.
        queue: Name,
        /// So many.
        messages: u64,
    },
    /// How long some of the deliveries have waited, from when they were received, in milliseconds.
    Waited(Vec<(ConsumerId, u32)>),
}
