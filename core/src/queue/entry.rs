//! One message in one queue.

use crate::event::{DeliveryExtra, DeliveryFlags};
use crate::message::{Message, Position};
use std::sync::Arc;

/// A message's entry in a queue: its place, and where its body is.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its place in the queue. It stays the same when the entry is requeued and after a restart.
    pub(crate) seq: u64,
    pub(crate) body: Body,
    pub(crate) flags: EntryFlags,
    /// Entries of higher priority go first. 0 in queues without priorities.
    pub(crate) priority: u8,
    /// Identifiers of the MQTT subscriptions that the message matched.
    pub(crate) subscription_ids: Option<Arc<[u32]>>,
}

impl Entry {
    /// The parts that only some deliveries have. `None` for most, so that they need no allocation.
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
        /// Bytes of the body, for limits and statistics.
        body_len: u32,
    },
}

impl Body {
    /// The message, if it is in memory.
    #[inline]
    pub(crate) fn message(&self) -> Option<&Message> {
        match self {
            Body::Memory(message) => Some(message),
            Body::Disk { .. } => None,
        }
    }
    /// Bytes of the message's body.
    pub(crate) fn len(&self) -> usize {
        match self {
            Body::Memory(m) => m.body().len(),
            Body::Disk { body_len, .. } => *body_len as usize,
        }
    }
}

/// QoS and flags of an entry in one byte, which the log stores with its route.
///
/// ```text
///   bit 7..6  5       4      3           2      1..0
///       -     SPILLED LOGGED REDELIVERED RETAIN QoS       a session's or group's queue
///       ----  SPILLED LOGGED REDELIVERED ------------     a declared queue: bits 7..6 and 2..0 are the priority
/// ```
///
/// A declared queue does not use QoS and RETAIN. Priorities above 31 become 31 after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EntryFlags(pub(crate) u8);

impl EntryFlags {
    const QOS: u8 = 0b11;
    const PRIORITY: u8 = 0b1100_0111;
    /// It is delivered with the retain flag.
    pub(crate) const RETAIN: u8 = 1 << 2;
    /// It may have been handed out before.
    pub(crate) const REDELIVERED: u8 = 1 << 3;
    /// The log has or will have a record of it for this queue, so its settling must be logged.
    pub(crate) const LOGGED: u8 = 1 << 4;
    /// It was only logged to free memory. After a restart it is dropped.
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
    /// The flags as the log has them for a declared queue with priorities.
    pub(crate) fn with_priority(self, priority: u8) -> EntryFlags {
        let p = priority.min(31);
        EntryFlags(self.0 & !Self::PRIORITY | (p & 0b111) | (p >> 3) << 6)
    }
    /// The inverse of `with_priority`: the priority, and the flags without it.
    pub(crate) fn split_priority(self) -> (u8, EntryFlags) {
        (
            (self.0 & 0b111) | (self.0 >> 6) << 3,
            EntryFlags(self.0 & !Self::PRIORITY),
        )
    }
    /// The flags that a delivery reports.
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
    /// For tests: an entry whose body is in the log only.
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
