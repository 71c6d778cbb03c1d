//! Memory for objects: whether another one may be created, and the share of memory that the node gives this engine.
//!
//! Messages can be evicted to the log, and their publishers can wait. Objects can do neither, so what does not fit is
//! refused, in the words of the client's protocol. Two rules keep one client's flood from shutting out the others:
//!
//! - one kind of object takes at most half of the share, so a flood of retained messages leaves room for subscriptions;
//! - the last eighth is reserved for connections, channels and consumers, so that clients can still connect and empty
//!   their queues.
//!
//! Engines never ask the node or each other. Each reports its use after every visit, and the node sets new shares.

use super::counters::Limit;
use super::{Engine, Settings};
use crate::fault::{Fault, FaultKind};
use crate::ledger::{ObjectKind, PerKind};
use crate::queue::consumers::Consumer;
use std::mem::size_of;

/// The share of the node's memory that this engine may use. See the fields of the same names in
/// [`Settings`](super::Settings).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the settings that they change")]
pub struct Share {
    pub cache_bytes_max: usize,
    pub memory_bytes_max: usize,
    pub unsettled_bytes_max: usize,
    pub objects_bytes_max: usize,
}

/// How much of its share an engine uses, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Queued messages in memory.
    pub messages: usize,
    /// Deliveries that consumers have not settled.
    pub unsettled: usize,
    /// Everything else that clients have created.
    pub objects: usize,
}

/// Bytes for remembered routes: a sixteenth of what objects may occupy, and in addition to that. If they do not fit,
/// routes are forgotten and nothing is refused.
pub(crate) fn route_cache_bytes_max(objects_bytes_max: usize) -> usize {
    (objects_bytes_max / 16).max(64 << 10)
}

/// Bytes of a consumer: its entry, its places in lists, and what an idle one allocates.
pub(crate) const CONSUMER_BYTES: usize = size_of::<Consumer>() * 5 / 4 + 96;
/// Bytes of the record that a queue or a channel keeps of publishes that wait for the log.
const CONFIRM_BYTES: usize = 96;

impl Engine {
    /// Changes what the engine may use. If it uses more already, nothing is removed, but nothing is added until it uses
    /// less.
    pub fn set_share(&mut self, share: Share) {
        let Share {
            cache_bytes_max,
            memory_bytes_max,
            unsettled_bytes_max,
            objects_bytes_max,
        } = share;
        self.settings.cache_bytes_max = cache_bytes_max;
        self.settings.memory_bytes_max = memory_bytes_max;
        self.settings.unsettled_bytes_max = unsettled_bytes_max;
        self.settings.objects_bytes_max = objects_bytes_max;
        self.router
            .set_cache_bytes_max(route_cache_bytes_max(objects_bytes_max));
        self.dispatch_touched();
        self.relieve_memory();
    }

    /// Puts changed limits and defaults into effect. What exists stays, even beyond a limit; promises already made are
    /// kept. The vhost, its number, its topic exchange and its share of memory do not change here.
    pub fn reconfigure(&mut self, next: Settings) {
        let now = std::mem::take(&mut self.settings);
        self.staging.set_durability(next.durability);
        self.router.set_headers_max(next.message_headers_max);
        self.settings = Settings {
            vhost: now.vhost,
            number: now.number,
            topic_exchange: now.topic_exchange,
            cache_bytes_max: now.cache_bytes_max,
            memory_bytes_max: now.memory_bytes_max,
            unsettled_bytes_max: now.unsettled_bytes_max,
            objects_bytes_max: now.objects_bytes_max,
            hold_units_max: now.hold_units_max,
            ..next
        };
        // If more may wait for the log now, publishers can continue.
        self.relieve_memory();
    }

    /// What the engine uses now. Cheap, because it is called after every visit.
    pub fn usage(&self) -> Usage {
        Usage {
            messages: self.memory.bytes_with_entries(),
            unsettled: self.throttling.bytes(),
            objects: self.objects().iter().sum(),
        }
    }

    /// Bytes that each kind of object occupies.
    pub(crate) fn objects(&self) -> PerKind {
        let mut used = self.ledger.used();
        used[ObjectKind::Retained as usize] += self.retained.bytes() + self.retained_loads.memory();
        used[ObjectKind::Routes as usize] += self.router.memory();
        used[ObjectKind::Queues as usize] += self.flow.memory();
        used[ObjectKind::Connections as usize] += self.consumers.len() * CONSUMER_BYTES
            + (self.confirms.len() + self.waits.len()) * CONFIRM_BYTES
            + self.walks.bytes();
        used
    }

    /// Whether `bytes` more of that kind fit.
    fn fits(&self, kind: ObjectKind, bytes: usize) -> bool {
        let (used, max) = (self.objects(), self.settings.objects_bytes_max);
        let total = used.iter().sum::<usize>().saturating_add(bytes);
        if kind == ObjectKind::Connections {
            return total <= max;
        }
        total <= max / 8 * 7 && used[kind as usize].saturating_add(bytes) <= max / 2
    }

    /// Refuses an object that does not fit.
    pub(crate) fn admit(&mut self, kind: ObjectKind, bytes: usize) -> Result<(), Fault> {
        if self.fits(kind, bytes) {
            return Ok(());
        }
        Err(self.refuse(kind))
    }

    /// Counts the refusal and logs it once a minute, so that a flood of objects does not flood the log.
    pub(crate) fn refuse(&mut self, kind: ObjectKind) -> Fault {
        self.counters.objects_refused[kind as usize] += 1;
        let (used, max) = (self.objects()[kind as usize], self.settings.objects_bytes_max);
        if self.refusal_log_after.is_none_or(|at| self.now.monotonic >= at) {
            self.refusal_log_after = Some(self.now.monotonic + REFUSALS_SILENT);
            let (vhost, kind) = (&self.settings.vhost, kind.name());
            tracing::warn!(%vhost, kind, used, max, "memory for objects (memory.objects) is used up: refused");
        }
        let text = format!("no memory left for {} in vhost '{}'", kind.name(), self.settings.vhost);
        Fault::new(FaultKind::QuotaExceeded, text)
    }

    /// Checks that another connection of the node itself fits into memory.
    ///
    /// # Errors
    /// QuotaExceeded: memory for objects is used up.
    pub(crate) fn admit_node_link(&mut self) -> Result<(), Fault> {
        self.admit(ObjectKind::Connections, super::link::LINK_BYTES)
    }

    /// Checks that a connection of `user` may be attached. To be called before [`Engine::attach`].
    ///
    /// # Errors
    /// AccessRefused: the user has no rights in this vhost. QuotaExceeded: the vhost has as many connections as it may, or
    /// memory for objects is used up.
    pub fn admit_link(&mut self, user: &str) -> Result<(), Fault> {
        let vhost = &self.settings.vhost;
        if self.rights.of(user).is_none() {
            self.counters.access_refused += 1;
            let text = format!("access to vhost '{vhost}' refused for user '{user}'");
            return Err(Fault::new(FaultKind::AccessRefused, text));
        }
        if let Some(max) = self.vhost_limits.connections_max
            && self.links.len() >= max
        {
            self.counters.refused_by(Limit::VhostConnections);
            let text =
                format!("access to vhost '{vhost}' refused for user '{user}': connection limit ({max}) is reached");
            return Err(Fault::new(FaultKind::QuotaExceeded, text));
        }
        self.admit(ObjectKind::Connections, super::link::LINK_BYTES)
    }

    /// Whether the retained message fits in place of its topic's present one.
    pub(crate) fn fits_retained(&self, message: &crate::message::Message) -> bool {
        let more = self.retained.growth(message);
        more == 0 || self.fits(ObjectKind::Retained, more)
    }
}

const REFUSALS_SILENT: std::time::Duration = std::time::Duration::from_secs(60);
