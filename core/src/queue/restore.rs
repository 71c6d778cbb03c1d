//! Restores a queue from the log at a start.

use super::entry::{Body, Entry, EntryFlags};
use super::marks::HandOutMarks;
use super::ready::Run;
use super::{Queue, QueueKind};
use crate::store::{LogEntry, RecoveredQueue};
use std::collections::BTreeMap;

/// A delivery that had a packet id when the process ended.
pub(crate) struct InFlightBefore {
    pub(crate) packet_id: u16,
    /// Whether its PUBREC had arrived.
    pub(crate) released: bool,
    pub(crate) entry: Entry,
}

impl Queue {
    /// Restores the queue's numbers, marks and messages. Of the messages only counts are read. Returns the deliveries
    /// that were in flight; they do not wait in the queue.
    pub(crate) fn restore(&mut self, found: &mut RecoveredQueue) -> Vec<InFlightBefore> {
        self.next_seq = found.next_seq.max(found.handed_out);
        self.seldom.first_seq = self.next_seq;
        self.marks = HandOutMarks::restored(found.handed_out);
        self.returned = std::mem::take(&mut found.returned);
        self.redelivered_below = found.handed_out;
        let has_priorities = self.arguments.priority_max > 0;
        for (flags, messages) in &found.messages {
            let priority = if has_priorities {
                EntryFlags(*flags).split_priority().0
            } else {
                0
            };
            let run = Run {
                first: messages.first,
                last: messages.last,
                count: messages.count,
                bytes: messages.bytes,
            };
            self.ready.restore_run(priority, run);
        }
        let packet_ids: BTreeMap<u64, (u16, bool)> = (found.packet_ids.iter())
            .map(|(seq, id, released)| (*seq, (*id, *released)))
            .collect();
        let mut outgoing = Vec::new();
        for e in &found.in_flight {
            match packet_ids.get(&e.seq) {
                // The log does not say which member of the group had the packet id. One that it has received must not
                // go to another member; one that it may not have received must.
                Some((_, true)) if self.kind == QueueKind::Shared => {
                    self.note_ack(e.seq);
                    self.absent.push(e.seq);
                }
                Some((packet_id, released)) if self.kind != QueueKind::Shared => {
                    self.absent.push(e.seq);
                    outgoing.push(InFlightBefore {
                        packet_id: *packet_id,
                        released: *released,
                        entry: entry_of(e, found.handed_out),
                    });
                }
                _ => {
                    let run = Run {
                        first: e.seq,
                        last: e.seq,
                        count: 1,
                        bytes: u64::from(e.body_len),
                    };
                    self.ready.restore_run(0, run);
                }
            }
        }
        self.absent.sort_unstable();
        self.unsettled = outgoing.len();
        self.unsettled_bytes = outgoing.iter().map(|before| before.entry.body.len() as u64).sum();
        outgoing
    }
}

/// The entry for a record. Sequences below `handed_out` may have been handed out before.
fn entry_of(e: &LogEntry, handed_out: u64) -> Entry {
    let mut flags = EntryFlags(e.flags);
    flags.set(EntryFlags::LOGGED);
    if e.seq < handed_out {
        flags.set(EntryFlags::REDELIVERED);
    }
    Entry {
        priority: 0,
        seq: e.seq,
        body: Body::Disk {
            at: e.at,
            body_len: e.body_len,
        },
        flags,
        subscription_ids: None,
    }
}
