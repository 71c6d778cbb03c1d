//! One vhost: applies command batches, lends out events.

use crate::command::{Attach, Command, Peer};
use crate::event::{Event, Pressure};
use crate::properties::{Codecs, Name};
use crate::store::{Batch, Loaded, Read, Recovered, Ticket};
use crate::time::{Now, Time};
use std::sync::Arc;

/// A connection at its engine. A stale generation is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    /// Index of its slot.
    pub slot: u32,
    /// Grows each time the slot is reused.
    pub generation: u32,
}

/// Wakes the task that drives a link.
pub trait Wake: Send + Sync {
    /// Called after the engine's lock was released, at most once per link and turn.
    fn wake(&self);
}

/// Links that now have something to take. Fires them when dropped: declare it before the engine's lock guard, so that
/// it is dropped after it.
#[derive(Default)]
pub struct Wakes(Vec<Arc<dyn Wake>>);

impl Wakes {
    /// Adds one.
    pub fn push(&mut self, wake: Arc<dyn Wake>) {
        self.0.push(wake);
    }
    /// Fires all of them now. Not under the engine's lock.
    pub fn fire(&mut self) {
        for wake in self.0.drain(..) {
            wake.wake();
        }
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.fire();
    }
}

/// What a link's socket has room for.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Messages.
    pub messages: usize,
    /// Bytes of message payload.
    pub bytes: usize,
}

/// Limits and defaults of a vhost.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the vhost.
    pub vhost: Name,
    /// Bytes of message memory over which durable bodies leave memory.
    pub cache_bytes_max: usize,
    /// Bytes of message memory over which publishers wait.
    pub memory_bytes_max: usize,
    /// Bytes waiting for the committer over which publishers wait.
    pub log_backlog_bytes_max: usize,
    /// Queues at most.
    pub queues_max: usize,
    /// Messages a transient MQTT session's queue keeps for a slow subscriber before QoS 0 is dropped.
    pub qos0_backlog_max: usize,
    /// Seconds an MQTT session may outlive its connection.
    pub session_expiry_max: Option<u32>,
    /// Exchange that subscriptions by topic filter bind to.
    pub topic_exchange: Name,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            vhost: "/".into(),
            cache_bytes_max: 16 << 20,
            memory_bytes_max: 256 << 20,
            log_backlog_bytes_max: 4 << 20,
            queues_max: 10_000,
            qos0_backlog_max: 10_000,
            session_expiry_max: Some(86_400),
            topic_exchange: "amq.topic".into(),
        }
    }
}

/// One vhost's state machine.
pub struct Engine {
    settings: Settings,
}

impl Engine {
    /// An empty vhost with the predeclared exchanges. `seed` feeds the names it makes up.
    pub fn new(settings: Settings, codecs: Codecs, seed: u64) -> Engine {
        let _ = (codecs, seed);
        Engine { settings }
    }
    /// Takes over what the log remembers. Call once, before anything else.
    pub fn recover(&mut self, now: Now, recovered: Recovered) {
        let _ = (now, recovered, &self.settings);
    }
    /// Binds a connection. `user` is who authenticated.
    pub fn attach(&mut self, now: Now, attach: &Attach, user: Name, peer: Peer, wake: Arc<dyn Wake>) -> Link {
        let _ = (now, attach, user, peer, wake);
        Link { slot: 0, generation: 0 }
    }
    /// Applies commands in order, draining them. Returns `true` if the hold's work limit was reached and commands are
    /// left: unlock, then call again. Commands of a stale link are dropped.
    pub fn apply(&mut self, now: Now, link: Link, commands: &mut Vec<Command>, wakes: &mut Wakes) -> bool {
        let _ = (now, link, wakes);
        commands.clear();
        false
    }
    /// Moves what the link may send now into `events`, deliveries within `room` (one message always fits if
    /// `room.messages > 0`). Returns whether more is ready.
    pub fn take(&mut self, now: Now, link: Link, room: Room, events: &mut Vec<Event>) -> bool {
        let _ = (now, link, room, events);
        false
    }
    /// Hands over what is to be logged and fetched. Call before every unlock; submit the batch (if not empty) to the
    /// log before unlocking, so that batches arrive in ticket order.
    pub fn drain(&mut self, batch: &mut Batch, reads: &mut Vec<Read>) {
        let _ = (batch, reads);
    }
    /// The log reports: the batch `ticket` and all before it are as durable as they asked for.
    pub fn durable(&mut self, now: Now, ticket: Ticket, wakes: &mut Wakes) {
        let _ = (now, ticket, wakes);
    }
    /// The reader reports: these bodies are in memory.
    pub fn loaded(&mut self, now: Now, loaded: Vec<Loaded>, wakes: &mut Wakes) {
        let _ = (now, loaded, wakes);
    }
    /// Expiry, delayed wills, the ack tick.
    pub fn handle_timeout(&mut self, now: Now, wakes: &mut Wakes) {
        let _ = (now, wakes);
    }
    /// When `handle_timeout` is due next.
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }
    /// The node reports pressure from outside the engine (free disk, commits behind), or its end.
    pub fn set_pressure(&mut self, pressure: Option<Pressure>, wakes: &mut Wakes) {
        let _ = (pressure, wakes);
    }
    /// Ends all links with `CloseReason::Shutdown`. Their `Detach` follows from the drivers.
    pub fn shutdown(&mut self, wakes: &mut Wakes) {
        let _ = wakes;
    }
    /// The last words to the log at a clean stop: pending acks. Follow it with `drain`.
    pub fn flush(&mut self) {}
}
