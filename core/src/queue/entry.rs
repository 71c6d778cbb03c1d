//! One message in one queue.

use crate::event::{DeliveryExtra, DeliveryFlags};
use crate::message::{Message, Position};
use std::sync::Arc;

/// A queue's view of a message: its place, and where its body is.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Place in the queue; kept over requeues and restarts.
    pub(crate) seq: u64,
    pub(crate) body: Body,
    pub(crate) flags: EntryFlags,
    /// Higher goes first; 0 in queues without priorities.
    pub(crate) priority: u8,
    /// Subscription identifiers of the MQTT subscriptions it matched.
    pub(crate) subscription_ids: Option<Arc<[u32]>>,
}

impl Entry {
    /// What only some deliveries have. Most have none, and allocate nothing.
    #[inline]
    pub(crate) fn delivery_extra(&self) -> Option<Box<DeliveryExtra>> {
        let ids = self.subscription_ids.as_ref()?;
        Some(Box::new(DeliveryExtra {
            subscription_ids: ids.to_vec(),
            ..DeliveryExtra::default()
        }))
    }
}

/// Where an entry's message is.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// In memory.
    Memory(Message),
    /// In the log only.
    Disk {
        /// Its record.
        at: Position,
        /// Bytes of body, for limits and statistics.
        body_len: u32,
    },
}

impl Body {
    /// Bytes of the message's body.
    pub(crate) fn len(&self) -> usize {
        match self {
            Body::Memory(m) => m.body().len(),
            Body::Disk { body_len, .. } => *body_len as usize,
        }
    }
}

/// QoS and flags of an entry in one octet; stored with its route in the log.
///
/// ```text
///   bit 7..6  5       4      3           2      1..0
///       -     SPILLED LOGGED REDELIVERED RETAIN QoS       a session's or group's queue
///       ----  SPILLED LOGGED REDELIVERED ------------     a declared queue: bits 7..6 and 2..0 are the priority
/// ```
///
/// A declared queue has no use for QoS and RETAIN. Priorities over 31 count as 31 after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EntryFlags(pub(crate) u8);

impl EntryFlags {
    const QOS: u8 = 0b11;
    const PRIORITY: u8 = 0b1100_0111;
    /// Delivered with the retain flag.
    pub(crate) const RETAIN: u8 = 1 << 2;
    /// May have been handed out before.
    pub(crate) const REDELIVERED: u8 = 1 << 3;
    /// The log has it for this queue (or will): its settling must be logged.
    pub(crate) const LOGGED: u8 = 1 << 4;
    /// Logged only to free memory: a restart drops it.
    pub(crate) const SPILLED: u8 = 1 << 5;

    pub(crate) fn new(qos: u8) -> EntryFlags {
        EntryFlags(qos & Self::QOS)
    }
    pub(crate) fn qos(self) -> u8 {
        self.0 & Self::QOS
    }
    pub(crate) fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
    pub(crate) fn set(&mut self, bit: u8) {
        self.0 |= bit;
    }
    /// As the log keeps them for a declared queue with priorities.
    pub(crate) fn with_priority(self, priority: u8) -> EntryFlags {
        let p = priority.min(31);
        EntryFlags(self.0 & !Self::PRIORITY | (p & 0b111) | (p >> 3) << 6)
    }
    /// The priority, and the flags without it.
    pub(crate) fn split_priority(self) -> (u8, EntryFlags) {
        (
            (self.0 & 0b111) | (self.0 >> 6) << 3,
            EntryFlags(self.0 & !Self::PRIORITY),
        )
    }
    /// As a delivery tells them.
    pub(crate) fn delivery(self) -> DeliveryFlags {
        let mut flags = DeliveryFlags::default();
        if self.has(Self::REDELIVERED) {
            flags = flags | DeliveryFlags::REDELIVERED;
        }
        if self.has(Self::RETAIN) {
            flags = flags | DeliveryFlags::RETAIN;
        }
        flags
    }
}

#[cfg(test)]
impl Entry {
    /// For tests: an entry whose body, of so many bytes, is in the log only.
    pub(crate) fn on_disk(seq: u64, body_len: u32) -> Entry {
        let at = Position { segment: 1, offset: 0 };
        Entry {
            seq,
            body: Body::Disk { at, body_len },
            flags: EntryFlags::default(),
            subscription_ids: None,
            priority: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_priority_survives_the_log_beside_the_other_flags() {
        for priority in 0..=40 {
            let flags = EntryFlags(EntryFlags::LOGGED | EntryFlags::REDELIVERED);
            assert_eq!(
                flags.with_priority(priority).split_priority(),
                (priority.min(31), flags)
            );
        }
    }
}
