//! A binding: the rule that routes messages from an exchange to a queue or another exchange.

use crate::message::Dialect;
use crate::properties::{Name, Table};

/// The router's number for a queue: the engine's slot. Reused by the engine only after [`Router::remove_queue`].
///
/// [`Router::remove_queue`]: crate::router::Router::remove_queue
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueSlot(pub u32);

/// What a binding leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A queue. Only the slot identifies it; the rest is for the log and for people.
    Queue {
        /// Its slot.
        slot: QueueSlot,
        /// Its name.
        name: Name,
        /// Whether it survives a restart.
        durable: bool,
    },
    /// An exchange.
    Exchange(Name),
}

/// What an MQTT subscription grants its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Maximum QoS, 0 to 2.
    pub qos: u8,
    /// Exclude messages that this session publishes itself.
    pub no_local: bool,
    /// Keep the retain flag of live messages.
    pub retain_as_published: bool,
    /// Returned with each matching message.
    pub subscription_id: Option<u32>,
}

/// A binding, with everything needed to create it again.
///
/// Its identity is source, destination, key, dialect and arguments (in any order); the grant is not part of it.
#[derive(Clone, Debug)]
pub struct Binding {
    /// Name of the exchange messages come from.
    pub source: Name,
    /// Where they go.
    pub destination: Destination,
    /// Binding key or topic filter.
    pub key: Name,
    /// How the key spells its levels: `Slash` for MQTT subscriptions, else `Dot`.
    pub dialect: Dialect,
    /// Further arguments.
    pub arguments: Table,
    /// The options, if it is an MQTT subscription.
    pub grant: Option<Grant>,
    /// Survives a restart, because both its ends do.
    pub durable: bool,
}

/// What an operation removed, for the log, in this order.
#[derive(Clone, Debug)]
pub enum Removed {
    /// An exchange.
    Exchange {
        /// Its name.
        name: Name,
        /// Whether it would have survived a restart.
        durable: bool,
    },
    /// A binding.
    Binding(Binding),
}
