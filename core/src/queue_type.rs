//! What a declared queue's `x-queue-type` changes. Each difference is a named question here that is asked in one place.
//!
//! A quorum queue is a durable queue that stores every message and counts how often each came back from its consumers.
//! There is only one copy: arguments about replicas are accepted and have no effect.

use crate::arguments::type_name;
use crate::fault::{Fault, FaultKind};
use crate::properties::Value;

/// The types a queue can be declared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum QueueType {
    #[default]
    Classic,
    Quorum,
}

/// How often a message may come back before a quorum queue dead-letters it, unless declared otherwise. As in RabbitMQ
/// 4.
const DELIVERY_LIMIT: u64 = 20;

/// A known argument: its name, the queue types that support it, and whether a re-declaration must repeat its value.
struct Known(&'static str, Types, Compared);

/// The queue types that support an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Types {
    All,
    Classic,
    Quorum,
    /// Only streams, which are not implemented.
    Stream,
}

/// Whether a re-declaration must repeat the argument's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compared {
    Yes,
    No,
}

/// In RabbitMQ's order: of several faults in a declaration its first is the one to report.
const KNOWN: [Known; 25] = [
    Known("x-expires", Types::All, Compared::Yes),
    Known("x-message-ttl", Types::All, Compared::Yes),
    Known("x-dead-letter-exchange", Types::All, Compared::Yes),
    Known("x-dead-letter-routing-key", Types::All, Compared::Yes),
    Known("x-dead-letter-strategy", Types::Quorum, Compared::Yes),
    Known("x-max-length", Types::All, Compared::Yes),
    Known("x-max-length-bytes", Types::All, Compared::Yes),
    Known("x-max-in-memory-length", Types::Quorum, Compared::Yes),
    Known("x-max-in-memory-bytes", Types::Quorum, Compared::Yes),
    Known("x-max-priority", Types::Classic, Compared::Yes),
    Known("x-overflow", Types::All, Compared::Yes),
    Known("x-queue-mode", Types::Classic, Compared::Yes),
    Known("x-queue-version", Types::Classic, Compared::Yes),
    Known("x-single-active-consumer", Types::All, Compared::Yes),
    Known("x-queue-type", Types::All, Compared::Yes),
    Known("x-delivery-limit", Types::Quorum, Compared::Yes),
    Known("x-quorum-initial-group-size", Types::Quorum, Compared::Yes),
    Known("x-quorum-target-group-size", Types::Quorum, Compared::Yes),
    Known("x-queue-leader-locator", Types::Quorum, Compared::Yes),
    Known("x-gatepost-durability", Types::All, Compared::Yes),
    Known("x-queue-master-locator", Types::Classic, Compared::No),
    Known("x-max-age", Types::Stream, Compared::No),
    Known("x-stream-max-segment-size-bytes", Types::Stream, Compared::No),
    Known("x-stream-filter-size-bytes", Types::Stream, Compared::No),
    Known("x-initial-cluster-size", Types::Stream, Compared::No),
];

impl QueueType {
    /// The type's name in `x-queue-type`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            QueueType::Classic => "classic",
            QueueType::Quorum => "quorum",
        }
    }

    /// The arguments that a re-declaration must repeat, in the order in which differences are reported. Those that the
    /// type does not support are ignored.
    pub(crate) fn compared(self) -> impl Iterator<Item = &'static str> {
        let compared = move |known: &&Known| known.2 == Compared::Yes && self.supports(known.1);
        KNOWN.iter().filter(compared).map(|known| known.0)
    }

    fn supports(self, types: Types) -> bool {
        match self {
            QueueType::Classic => matches!(types, Types::All | Types::Classic),
            QueueType::Quorum => matches!(types, Types::All | Types::Quorum),
        }
    }

    /// The type that an `x-queue-type` argument names. `queue` names the queue in texts: `queue 'q' in vhost '/'`.
    ///
    /// # Errors
    /// PreconditionFailed for an unknown type, NotImplemented for streams.
    pub(crate) fn parse(value: Option<&Value>, queue: &str) -> Result<QueueType, Fault> {
        let bad = |why: String| {
            let text = format!("invalid arg 'x-queue-type' for {queue}: {why}");
            Err(Fault::new(FaultKind::PreconditionFailed, text))
        };
        let Some(value) = value else {
            return Ok(QueueType::Classic);
        };
        match value.as_str() {
            None => bad(format!("{{unacceptable_type,{}}}", type_name(value))),
            Some("classic") => Ok(QueueType::Classic),
            Some("quorum") => Ok(QueueType::Quorum),
            Some("stream") => {
                let text = format!("queues of type 'stream' are not implemented ({queue})");
                Err(Fault::new(FaultKind::NotImplemented, text))
            }
            Some(other) => bad(format!("\"unsupported queue type '{other}'\"")),
        }
    }

    /// Checks that the type supports the argument `key`. Unknown arguments pass.
    ///
    /// # Errors
    /// PreconditionFailed.
    pub(crate) fn check_argument(self, key: &str, queue: &str) -> Result<(), Fault> {
        let known = KNOWN.iter().find(|known| known.0 == key);
        if known.is_none_or(|known| self.supports(known.1)) {
            return Ok(());
        }
        let text = format!("invalid arg '{key}' for {queue} of queue type {}", self.module());
        Err(Fault::new(FaultKind::PreconditionFailed, text))
    }

    /// Checks the properties of a declaration other than its arguments. `name` is empty if the server is to choose one.
    ///
    /// # Errors
    /// PreconditionFailed.
    pub(crate) fn check_properties(self, declared: Declared<'_>, queue: &str) -> Result<(), Fault> {
        if self == QueueType::Classic {
            return Ok(());
        }
        let wrong = if declared.name.is_empty() {
            let text = format!("Cannot declare a server-named queue for type {}", self.module());
            return Err(Fault::new(FaultKind::PreconditionFailed, text));
        } else if declared.auto_delete {
            "auto-delete"
        } else if declared.exclusive {
            "exclusive-owner"
        } else if !declared.durable {
            "non-durable"
        } else {
            return Ok(());
        };
        let text = format!("invalid property '{wrong}' for {queue}");
        Err(Fault::new(FaultKind::PreconditionFailed, text))
    }

    /// Whether the log also stores messages that were published as transient.
    pub(crate) fn stores_transient(self) -> bool {
        self == QueueType::Quorum
    }

    /// Whether the queue counts how often a message came back from its consumers.
    pub(crate) fn counts_returns(self) -> bool {
        self == QueueType::Quorum
    }

    /// How often a message may come back. `declared`: the value of `x-delivery-limit`. `None`: without limit.
    pub(crate) fn delivery_limit(self, declared: Option<i64>) -> Option<u64> {
        match declared {
            // RabbitMQ: a negative limit means no limit.
            Some(limit) => u64::try_from(limit).ok(),
            None => self.counts_returns().then_some(DELIVERY_LIMIT),
        }
    }

    /// The reason why a delete with conditions is refused, if it is. `queue` names the queue in texts.
    pub(crate) fn refuse_conditional_delete(self, if_empty: bool, if_unused: bool, queue: &str) -> Result<(), Fault> {
        let flag = match (self, if_empty, if_unused) {
            (QueueType::Quorum, _, true) => "if-unused",
            (QueueType::Quorum, true, _) => "if-empty",
            _ => return Ok(()),
        };
        let text = format!(
            "cannot delete {queue}. queue.delete operations with {flag} flag set are not supported by quorum queues"
        );
        Err(Fault::new(FaultKind::NotImplemented, text))
    }

    /// The reason why a consumer is refused on a channel with a global prefetch, if it is.
    pub(crate) fn refuse_global_prefetch(self, queue: &str) -> Result<(), Fault> {
        if self == QueueType::Classic {
            return Ok(());
        }
        let text = format!("{queue} does not support global qos");
        Err(Fault::new(FaultKind::NotImplemented, text))
    }

    /// The reason why a `Get` is refused on a queue with a single active consumer, if it is.
    pub(crate) fn refuse_get_beside_active(self, queue: &str) -> Result<(), Fault> {
        if self == QueueType::Classic {
            return Ok(());
        }
        let text = format!(
            "cannot obtain access to locked {queue}. basic.get operations are not supported by quorum queues with \
             single active consumer"
        );
        Err(Fault::new(FaultKind::ResourceLocked, text))
    }

    /// The type as RabbitMQ's texts name it.
    fn module(self) -> &'static str {
        match self {
            QueueType::Classic => "rabbit_classic_queue",
            QueueType::Quorum => "rabbit_quorum_queue",
        }
    }
}

/// See [`QueueType::check_properties`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Declared<'a> {
    pub(crate) name: &'a str,
    pub(crate) durable: bool,
    pub(crate) exclusive: bool,
    pub(crate) auto_delete: bool,
}
