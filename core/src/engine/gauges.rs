//! The gauges among the counters: what exists at present.

use super::{Counters, Engine};
use crate::binding::QueueSlot;

/// The progress of [`Engine::count`], and the sums so far.
#[derive(Default)]
pub struct Counting {
    table: Table,
    /// The next slot of the table.
    slot: u32,
    sums: Counters,
    /// Publishers and consumers by the index of their protocol's counters.
    by_place: Vec<(u64, u64)>,
}

impl Counting {
    fn of(&mut self, place: u8) -> &mut (u64, u64) {
        let place = usize::from(place);
        if place >= self.by_place.len() {
            self.by_place.resize(place + 1, (0, 0));
        }
        &mut self.by_place[place]
    }
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
    /// All counters and gauges, in one hold. It walks all queues, connections, consumers and sessions; where there may
    /// be many, use [`Engine::count`].
    pub fn counters(&self) -> Counters {
        let mut counting = Counting::default();
        loop {
            if let Some(counters) = self.count(&mut counting, u32::MAX) {
                return counters;
            }
        }
    }

    /// Continues counting: looks at `slots_max` slots of queues, connections, consumers and sessions. Returns all
    /// counters and gauges when it has seen all. Objects that are created or removed between two holds may be counted
    /// or not.
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
                self.count_slot(slot, counting);
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
                Table::Sessions => return Some(self.with_sums(counting)),
            };
        }
    }

    fn count_slot(&self, slot: u32, counting: &mut Counting) {
        let sums = &mut counting.sums;
        match counting.table {
            Table::Links => {
                let Some(l) = self.links.at(slot) else { return };
                sums.channels += l.channel_count() as u64;
                if l.publishes {
                    counting.of(l.traffic).0 += 1;
                }
            }
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
                let Some(c) = consumer else { return };
                sums.consumers_held_back += u64::from(c.throttled);
                if let Some(l) = self.links.get(c.link) {
                    counting.of(l.traffic).1 += 1;
                }
            }
            Table::Sessions => {
                let Some(s) = self.sessions.at(slot) else { return };
                sums.sessions_connected += u64::from(s.link.is_some());
                sums.subscriptions += s.subscriptions.len() as u64;
            }
        }
    }

    /// The counters that are kept all the time, combined with the sums of a walk.
    fn with_sums(&self, counting: &Counting) -> Counters {
        let sums = &counting.sums;
        let mut c = self.counters.clone();
        for ((_, traffic), (publishers, consumers)) in c.by_protocol.iter_mut().zip(&counting.by_place) {
            (traffic.publishers, traffic.consumers) = (*publishers, *consumers);
        }
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
        c.publishers_wait_for = self.pressure;
        c
    }
}
