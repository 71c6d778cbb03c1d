//! The gauges among the counters: what there is now.

use super::{Counters, Engine};

impl Engine {
    /// All counters and gauges; walks queues and links once.
    pub fn counters(&self) -> Counters {
        let mut c = self.counters.clone();
        for l in self.links.iter() {
            *c.links_by_protocol.entry(l.protocol).or_default() += 1;
            c.channels += l.channel_count() as u64;
        }
        c.consumers = self.consumers.len() as u64;
        c.queues = self.queues.len() as u64;
        for (_, q) in self.queues.iter() {
            c.messages_ready += q.depth() as u64;
            c.messages_paged += q.ready().paged() as u64;
            c.messages_unsettled += q.unsettled() as u64;
        }
        c.unsettled_bytes = self.throttling.bytes() as u64;
        c.consumers_held_back = self.consumers.iter().filter(|(_, c)| c.throttled).count() as u64;
        c.sessions = self.sessions.len() as u64;
        c.sessions_connected = self.sessions.iter().filter(|(_, s)| s.link.is_some()).count() as u64;
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
