//! One vhost's exchanges and bindings: which queues a message goes to.
//!
//! Queues are slot numbers here; what is in them, who may do what, and the log are the engine's business. Declaring,
//! binding and deleting are rare and go by name; routing is the hottest code of the product and goes through a cache
//! of whole routes, so that a repeated address costs one look-up and allocates nothing.

use crate::binding::{Binding, Destination, Grant, QueueSlot, Removed};
use crate::fault::Fault;
use crate::message::Message;
use crate::properties::{Codecs, Name, Table};
use std::sync::Arc;

/// The exchanges and bindings of one vhost.
pub struct Router {
    vhost: Name,
    codecs: Codecs,
}

/// An exchange as people and the log see it.
#[derive(Clone, Debug)]
pub struct ExchangeInfo {
    /// Its name.
    pub name: Name,
    /// `direct`, `fanout`, `topic` or `headers`.
    pub kind: &'static str,
    /// Survives a restart.
    pub durable: bool,
    /// Deleted when its last binding goes.
    pub auto_delete: bool,
    /// Only other exchanges can publish to it.
    pub internal: bool,
    /// As declared.
    pub arguments: Table,
}

/// What [`Router::declare_exchange`] is asked for.
#[derive(Clone, Debug)]
pub struct ExchangeSpec {
    /// Its name.
    pub name: Name,
    /// `direct`, `fanout`, `topic`, `headers`.
    pub kind: Name,
    /// Survives a restart.
    pub durable: bool,
    /// Deleted when its last binding goes.
    pub auto_delete: bool,
    /// Only other exchanges can publish to it.
    pub internal: bool,
    /// Further arguments; `alternate-exchange` is known.
    pub arguments: Table,
}

/// The answer to a declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Whether it is new (and to be logged, if durable).
    pub created: bool,
}

/// A queue a message goes to, once, however many bindings led there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which queue.
    pub queue: QueueSlot,
}

/// How a target takes a message. See [`Target::admission`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission<'a> {
    /// By a plain binding: no cap on its QoS.
    Plain,
    /// By subscriptions, merged.
    Granted(Granted<'a>),
    /// Not at all: only subscriptions with `no_local` led here, and the session published it itself.
    NoLocal,
}

/// The merge of all subscriptions of one queue that match a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted<'a> {
    /// The highest of their QoS.
    pub qos: u8,
    /// Whether any of them keeps the retain flag.
    pub retain_as_published: bool,
    /// All their subscription identifiers, in order of subscription; `None` if none has one.
    pub subscription_ids: Option<&'a Arc<[u32]>>,
}

impl Target {
    /// How the queue takes the message. `own`: the publisher is the session whose queue this is (no-local is judged
    /// per subscription, so some of them may still admit the message).
    pub fn admission(&self, own: bool) -> Admission<'_> {
        let _ = own;
        Admission::Plain
    }
}

impl Router {
    /// A router with the predeclared exchanges. `vhost` is for the texts of faults, `codecs` for headers exchanges.
    pub fn new(vhost: Name, codecs: Codecs) -> Router {
        Router { vhost, codecs }
    }

    /// The checks of a declare that come before permissions: the type is known (unless `passive`), and it is not the
    /// default exchange. [`Router::declare_exchange`] makes them too.
    ///
    /// # Errors
    /// PreconditionFailed for an unknown type, AccessRefused for the default exchange.
    pub fn check_declare(&self, name: &str, kind: &str, passive: bool) -> Result<(), Fault> {
        let _ = (name, kind, passive, &self.vhost, &self.codecs);
        Ok(())
    }

    /// Refuses the default exchange, where an operation is not permitted on it (bind, unbind, declare, delete).
    ///
    /// # Errors
    /// AccessRefused.
    pub fn refuse_default(&self, name: &str) -> Result<(), Fault> {
        let _ = name;
        Ok(())
    }

    /// The exchange of that name.
    pub fn exchange(&self, name: &str) -> Option<ExchangeInfo> {
        let _ = name;
        None
    }

    /// Checks that the exchange exists.
    ///
    /// # Errors
    /// NotFound; AccessRefused for the default exchange.
    pub fn declare_passive(&self, name: &str) -> Result<(), Fault> {
        let _ = name;
        Ok(())
    }

    /// Creates an exchange, or checks that the one that exists is equivalent.
    ///
    /// # Errors
    /// Unknown type, default exchange, inequivalent, reserved name, bad alternate exchange, too many.
    pub fn declare_exchange(&mut self, spec: ExchangeSpec) -> Result<Declared, Fault> {
        let _ = spec;
        Ok(Declared { created: true })
    }

    /// The same at recovery: without the checks on reserved names.
    ///
    /// # Errors
    /// As [`Router::declare_exchange`], but for reserved names.
    pub fn restore_exchange(&mut self, spec: ExchangeSpec) -> Result<Declared, Fault> {
        let _ = spec;
        Ok(Declared { created: true })
    }

    /// Deletes an exchange with its bindings, and auto-delete exchanges whose last binding that was. Deleting one that
    /// does not exist succeeds.
    ///
    /// # Errors
    /// AccessRefused for the default exchange and `amq.*`; PreconditionFailed if `if_unused` and it has bindings.
    pub fn delete_exchange(&mut self, name: &str, if_unused: bool) -> Result<Vec<Removed>, Fault> {
        let _ = (name, if_unused);
        Ok(Vec::new())
    }

    /// Binds by a key in the dot dialect. Returns whether the binding is new; repeating one replaces its grant.
    ///
    /// # Errors
    /// AccessRefused for the default exchange, NotFound for the source, then for a destination exchange;
    /// PreconditionFailed for bad arguments; QuotaExceeded. (Where the source and the destination queue are both
    /// missing the source is the one to report: see [`Router::require_exchange`].)
    pub fn bind(
        &mut self,
        source: &str,
        destination: Destination,
        key: &str,
        arguments: Table,
        grant: Option<Grant>,
    ) -> Result<bool, Fault> {
        let _ = (source, destination, key, arguments, grant);
        Ok(true)
    }

    /// Removes a binding made with [`Router::bind`], and auto-delete exchanges that go with it. One that does not
    /// exist, or whose source does not, is no fault. Of a `Destination::Queue` only the slot counts.
    ///
    /// # Errors
    /// AccessRefused for the default exchange.
    pub fn unbind(
        &mut self,
        source: &str,
        destination: &Destination,
        key: &str,
        arguments: &Table,
    ) -> Result<Vec<Removed>, Fault> {
        let _ = (source, destination, key, arguments);
        Ok(Vec::new())
    }

    /// Binds by an MQTT topic filter. Returns whether the subscription is new; repeating it replaces its grant in
    /// place, without a gap.
    ///
    /// # Errors
    /// As [`Router::bind`]; PreconditionFailed if the filter is not valid.
    pub fn subscribe(
        &mut self,
        exchange: &str,
        destination: Destination,
        filter: &str,
        grant: Grant,
    ) -> Result<bool, Fault> {
        let _ = (exchange, destination, filter, grant);
        Ok(true)
    }

    /// Removes a binding made with [`Router::subscribe`]. Empty if there was none.
    pub fn unsubscribe(&mut self, exchange: &str, queue: QueueSlot, filter: &str) -> Vec<Removed> {
        let _ = (exchange, queue, filter);
        Vec::new()
    }

    /// NotFound unless the exchange exists (the default one does).
    ///
    /// # Errors
    /// `no exchange 'x' in vhost '/'`.
    pub fn require_exchange(&self, name: &str) -> Result<(), Fault> {
        let _ = name;
        Ok(())
    }

    /// Makes a queue reachable through the default exchange. Every queue is added before it is bound.
    pub fn add_queue(&mut self, name: &Name, slot: QueueSlot) {
        let _ = (name, slot);
    }

    /// Forgets a queue: its name, all its bindings, and auto-delete exchanges that go with them.
    pub fn remove_queue(&mut self, slot: QueueSlot) -> Vec<Removed> {
        let _ = slot;
        Vec::new()
    }

    /// The slot of the queue of that name.
    pub fn queue(&self, name: &str) -> Option<QueueSlot> {
        let _ = name;
        None
    }

    /// Where a message goes: each queue once, in ascending order of slots. `extra_keys` are further routing keys (CC,
    /// BCC) in the dot dialect; the message's own key is always used.
    ///
    /// # Errors
    /// NotFound for the exchange, AccessRefused if it is internal.
    pub fn route(&mut self, message: &Message, extra_keys: &[Name]) -> Result<&[Target], Fault> {
        let _ = (message, extra_keys);
        Ok(&[])
    }

    /// All exchanges by name, the default one first.
    pub fn exchanges(&self) -> impl Iterator<Item = ExchangeInfo> + '_ {
        std::iter::empty()
    }

    /// All bindings, in the same order in every run of the same history.
    pub fn bindings(&self) -> impl Iterator<Item = &Binding> + '_ {
        std::iter::empty()
    }

    /// The bindings of one queue, oldest first.
    pub fn bindings_of(&self, queue: QueueSlot) -> impl Iterator<Item = &Binding> + '_ {
        let _ = queue;
        std::iter::empty()
    }
}
