//! The gauges among the counters: what there is now.

use super::{Counters, Engine};
use crate::binding::QueueSlot;

/// Where a walk of [`Engine::count`] is, and what it has added up.
#[derive(Default)]
pub struct Counting {
    table: Table,
    /// The next slot of the table.
    slot: u32,
    sums: Counters,
}

#[derive(Clone, Copy, Default)]
enum Table {
    #[default]
    Links,
    Queues,
    Consumers,
    Sessions,
}

impl Engine {
    /// All counters and gauges, in one hold. It walks all queues, connections, consumers and sessions: where there may be
    /// many, [`Engine::count`] them.
    pub fn counters(&self) -> Counters {
        let mut counting = Counting::default();
        loop {
            if let Some(counters) = self.count(&mut counting, u32::MAX) {
                return counters;
            }
        }
    }

    /// Goes on with counting: looks at `slots_max` places of queues, connections, consumers and sessions. Returns all counters
    /// and gauges once it has seen all. What comes or goes between two holds may be counted or not.
    pub fn count(&self, counting: &mut Counting, slots_max: u32) -> Option<Counters> {
        let mut left = slots_max;
        loop {
            let end = match counting.table {
                Table::Links => self.links.slots_end(),
                Table::Queues => self.queues.slots_end(),
                Table::Consumers => self.consumers.slots_end(),
                Table::Sessions => self.sessions.slots_end(),
            };
            let to = counting.slot.saturating_add(left).min(end);
            for slot in counting.slot..to {
                self.count_slot(counting.table, slot, &mut counting.sums);
            }
            left -= to.saturating_sub(counting.slot);
            counting.slot = to;
            if to < end {
                return None;
            }
            counting.slot = 0;
            counting.table = match counting.table {
                Table::Links => Table::Queues,
                Table::Queues => Table::Consumers,
                Table::Consumers => Table::Sessions,
                Table::Sessions => return Some(self.with_sums(&counting.sums)),
            };
        }
    }

    fn count_slot(&self, table: Table, slot: u32, sums: &mut Counters) {
        match table {
            Table::Links => sums.channels += self.links.at(slot).map_or(0, |l| l.channel_count() as u64),
            Table::Queues => {
                let Some(q) = self.queues.at(QueueSlot(slot)).and_then(|key| self.queues.get(key)) else {
                    return;
                };
                sums.messages_ready += q.depth() as u64;
                sums.messages_ready_bytes += q.ready().bytes();
                sums.messages_paged += q.ready().paged() as u64;
                sums.messages_unsettled += q.unsettled() as u64;
            }
            Table::Consumers => {
                let consumer = self.consumers.key_at(slot).and_then(|key| self.consumers.get(key));
                sums.consumers_held_back += u64::from(consumer.is_some_and(|c| c.throttled));
            }
            Table::Sessions => {
                let Some(s) = self.sessions.at(slot) else { return };
                sums.sessions_connected += u64::from(s.link.is_some());
                sums.subscriptions += s.subscriptions.len() as u64;
            }
        }
    }

    /// What is counted all the time, and the sums of a walk.
    fn with_sums(&self, sums: &Counters) -> Counters {
        let mut c = self.counters.clone();
        c.traffic = c.by_protocol.iter().map(|(_, traffic)| *traffic).sum();
        c.channels = sums.channels;
        c.messages_ready = sums.messages_ready;
        c.messages_ready_bytes = sums.messages_ready_bytes;
        c.messages_paged = sums.messages_paged;
        c.messages_unsettled = sums.messages_unsettled;
        c.consumers_held_back = sums.consumers_held_back;
        c.sessions_connected = sums.sessions_connected;
        c.subscriptions = sums.subscriptions;
        c.consumers = self.consumers.len() as u64;
        c.queues = self.queues.len() as u64;
        c.unsettled_bytes = self.throttling.bytes() as u64;
        c.sessions = self.sessions.len() as u64;
        c.retained = self.retained.count() as u64;
        c.retained_bytes = self.retained.bytes() as u64;
        c.objects_bytes = self.objects();
        c.objects_bytes_max = self.settings.objects_bytes_max as u64;
        c.memory_bytes = self.memory.bytes() as u64;
        c.log_backlog_bytes = self.staging.backlog_bytes() as u64;
        c.publishers_blocked = self.pressure.is_some();
        c
    }
}
