//! Putting one message into the queues that a route leads to: numbers, hand-out marks, and one record for the log.

use super::counters::Counters;
use super::memory::Memory;
use super::queues::Queues;
use super::staging::Staging;
use crate::fault::FaultKind;
use crate::message::{Envelope, Message};
use crate::properties::Name;
use crate::queue::Room;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::queue::overflow::Overflow;
use crate::router::{Admission, Target};
use crate::slots::{QueueKey, SessionKey};
use crate::store::{Durability, Record, Route, Routes};
use crate::tally::Source;
use smallvec::SmallVec;
use std::sync::Arc;

/// What became of a message at its queues.
#[derive(Default)]
pub(super) struct Enqueued {
    /// Queues that took it.
    pub(super) queues: usize,
    /// Queues that were offered it: each of them cost work, also if it was full.
    pub(super) offered: usize,
    /// A queue refused it, or the log has no room for it.
    pub(super) refused: Option<FaultKind>,
    /// It is staged for the log, and the neediest of its queues needs this.
    pub(super) logged: Option<Durability>,
    /// It is its topic's retained message, and the log is told.
    pub(super) retained: bool,
    /// Where the flow map says that its publisher has sent it.
    pub(super) sent_to: Option<Source>,
    /// Some trace has it.
    pub(super) traced: bool,
}

impl Enqueued {
    /// Nothing of it is in any queue. `offered`: queues that it would have gone to.
    pub(super) fn refused(why: FaultKind, offered: usize) -> Enqueued {
        Enqueued {
            refused: Some(why),
            offered,
            ..Enqueued::default()
        }
    }
}

/// What the queues still have to do once all have been given the message.
#[derive(Default)]
pub(super) struct Afterwards {
    /// They have refused it, and dead-letter what they refuse.
    pub(super) refused: SmallVec<[QueueKey; 4]>,
    /// They have taken it, and have limits.
    pub(super) limited: SmallVec<[QueueKey; 4]>,
}

/// What it takes of the engine.
pub(super) struct Enqueuing<'e> {
    pub(super) queues: &'e mut Queues,
    pub(super) memory: &'e mut Memory,
    pub(super) staging: &'e mut Staging,
    pub(super) counters: &'e mut Counters,
    /// Messages that a session's queue keeps for a slow subscriber before QoS 0 is dropped.
    pub(super) qos0_backlog_max: usize,
    /// The session that publishes it.
    pub(super) publisher: Option<SessionKey>,
    /// Queues that it must not come back to.
    pub(super) skip: &'e [Name],
}

impl Enqueuing<'_> {
    /// Puts the message into the queues. With more than one queue, a refusal by one does not keep the others' copies from
    /// being made.
    #[inline]
    pub(super) fn put(self, message: &Message, targets: &[Target], after: &mut Afterwards) -> Enqueued {
        let envelope = message.envelope();
        let mut enqueued = Enqueued {
            offered: targets.len(),
            ..Enqueued::default()
        };
        let mut routes = Routes::new();
        for target in targets {
            let Some((key, queue, touched)) = self.queues.at_mut(target.queue) else {
                debug_assert!(false, "the router forgets a queue before its slot is reused");
                continue;
            };
            if !self.skip.is_empty() && self.skip.contains(&queue.name) {
                continue;
            }
            let Some((mut flags, subscription_ids)) = admitted(target, queue.is_of(self.publisher), envelope) else {
                continue;
            };
            match queue.room_for(message, flags.qos(), self.qos0_backlog_max) {
                Room::Yes => {}
                Room::Dropped => {
                    self.counters.dropped_full += 1;
                    continue;
                }
                Room::Refused => {
                    enqueued.refused = Some(FaultKind::QuotaExceeded);
                    self.counters.dropped_full += 1;
                    if queue.arguments.overflow == Overflow::RejectPublishDeadLetter {
                        after.refused.push(key);
                    }
                    continue;
                }
            }
            let priority = queue.priority_of(envelope);
            let seq = queue.next_number();
            if queue.logs(envelope, flags.qos()) {
                flags.set(EntryFlags::LOGGED);
                let need = queue.arguments.durability.unwrap_or(self.staging.durability());
                enqueued.logged = enqueued.logged.max(Some(need));
                if queue.needs_mark(seq) {
                    let (open, written) = (self.staging.open_ticket(), self.staging.written_ticket());
                    let mark = queue.mark_at_publish(seq, open, written);
                    self.staging.record(Record::State(mark));
                }
                routes.push(Route {
                    queue: queue.id,
                    seq,
                    flags: queue.logged_flags(flags, priority),
                });
            }
            self.memory.pin(message);
            queue.push(Entry {
                priority,
                seq,
                body: Body::Memory(message.clone()),
                flags,
                subscription_ids,
            });
            enqueued.queues += 1;
            if queue.is_limited() {
                after.limited.push(key);
            }
            self.memory.note_deep(queue, key);
            touched.add(key, queue);
        }
        self.counters.enqueued += enqueued.queues as u64;
        if !routes.is_empty() {
            message.log_state().stage(routes.len() as u32);
            message.log_state().set_confirm(None);
            self.staging.message(message.clone(), routes);
        }
        enqueued
    }
}

/// As what the queue takes the message, with the subscription identifiers it has there. `is_own`: its own session publishes it.
#[inline]
fn admitted(target: &Target, is_own: bool, envelope: &Envelope) -> Option<(EntryFlags, Option<Arc<[u32]>>)> {
    match target.admission(is_own) {
        Admission::Plain => Some((EntryFlags::new(envelope.qos), None)),
        Admission::NoLocal => None,
        Admission::Granted(granted) => {
            let mut flags = EntryFlags::new(envelope.qos.min(granted.qos));
            if envelope.retain && granted.retain_as_published {
                flags.set(EntryFlags::RETAIN);
            }
            Some((flags, granted.subscription_ids.cloned()))
        }
    }
}
