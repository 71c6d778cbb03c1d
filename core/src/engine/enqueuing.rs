//! Putting one message into the queues that a route leads to: numbers, hand-out marks, and one record for the log.

use super::counters::Counters;
use super::memory::Memory;
use super::queues::Queues;
use super::staging::Staging;
use crate::fault::FaultKind;
use crate::message::{Envelope, Message};
use crate::overflow::Overflow;
use crate::properties::Name;
use crate::queue::Room;
use crate::queue::entry::{Body, Entry, EntryFlags};
use crate::router::{Admission, Target};
use crate::slots::{QueueKey, SessionKey};
use crate::store::{Durability, Record, Route, Routes};
use crate::tally::Source;
use smallvec::SmallVec;
use std::sync::Arc;

/// What happened to a message at its queues.
#[derive(Default)]
pub(super) struct Enqueued {
    /// The number of queues that took it.
    pub(super) queues: usize,
    /// The number of queues that were tried. Each cost work, even if it was full.
    pub(super) offered: usize,
    /// A queue refused it, or the log has no room for it.
    pub(super) refused: Option<FaultKind>,
    /// It is staged for the log. This is the highest durability that one of its queues needs.
    pub(super) logged: Option<Durability>,
    /// It was stored as its topic's retained message, and that is logged.
    pub(super) retained: bool,
    /// The source under which the flow map shows it.
    pub(super) sent_to: Option<Source>,
    /// Whether a trace follows it.
    pub(super) traced: bool,
}

impl Enqueued {
    /// Whether some queue took it, and none refused it.
    #[inline]
    pub(super) fn is_through(&self) -> bool {
        self.refused.is_none() && self.queues > 0
    }

    /// No queue has taken any of it. `offered`: the number of queues on its route.
    pub(super) fn refused(why: FaultKind, offered: usize) -> Enqueued {
        Enqueued {
            refused: Some(why),
            offered,
            ..Enqueued::default()
        }
    }
}

/// Work at the queues that follows once all of them were given the message.
#[derive(Default)]
pub(super) struct Afterwards {
    /// Queues that refused the message and dead-letter refused messages.
    pub(super) refused: SmallVec<[QueueKey; 4]>,
    /// Queues that took the message and have limits.
    pub(super) limited: SmallVec<[QueueKey; 4]>,
}

/// The parts of the engine that enqueuing needs.
pub(super) struct Enqueuing<'e> {
    pub(super) queues: &'e mut Queues,
    pub(super) memory: &'e mut Memory,
    pub(super) staging: &'e mut Staging,
    pub(super) counters: &'e mut Counters,
    /// Messages in the queue of an MQTT session or group from which further QoS 0 messages are dropped.
    pub(super) qos0_backlog_max: usize,
    /// The session that published the message.
    pub(super) publisher: Option<SessionKey>,
    /// Queues that the message must not return to.
    pub(super) skip: &'e [Name],
}

impl Enqueuing<'_> {
    /// Puts the message into the queues. If one of several queues refuses it, the others still get it.
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
            let Some((mut flags, subscription_ids)) = admitted(target, queue.belongs_to(self.publisher), envelope)
            else {
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
            self.memory.note_evictable(queue, key);
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

/// The flags and subscription identifiers with which the queue takes the message; `None` if it does not. `is_own`: the
/// session that owns the queue published it.
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
