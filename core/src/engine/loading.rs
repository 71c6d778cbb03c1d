//! Reads bodies and pages of queues back from the log.

use super::Engine;
use super::memory::{LOADING_SHARE, PAGE_ENTRIES, PAGE_MIN, PAGES_MAX, READ_ENTRIES};
use crate::queue::QueueKind;
use crate::queue::entry::Body;
use crate::slots::QueueKey;
use crate::store::{Answer, Loaded, Page, PageRead, Read, Request};
use crate::subscription_ids::ids_of;
use crate::time::Now;

impl Engine {
    /// Requests the bodies at the head of the queue.
    pub(crate) fn load_head(&mut self, queue: QueueKey) {
        self.load_entries(queue, READ_ENTRIES);
    }

    /// Requests the bodies of the first `count` entries of the queue, unless some are being read already, and the next
    /// page if few entries are in memory.
    pub(crate) fn load_entries(&mut self, queue: QueueKey, count: usize) {
        let loading_max = self.loading_max();
        let Engine { queues, memory, .. } = self;
        let Some(q) = queues.get_mut(queue) else {
            return;
        };
        let spare = memory.spare_bytes();
        match q.wanted_page(count.min(PAGE_ENTRIES / 2)) {
            Some(_) if memory.pages >= PAGES_MAX => memory.await_reads(q, queue),
            Some((priority, run)) => {
                q.page_asked(priority);
                memory.pages += 1;
                memory.requests.push(Request::Page(PageRead {
                    queue: q.id,
                    from: run.first,
                    upto: run.last,
                    count: count.clamp(PAGE_MIN, PAGE_ENTRIES),
                }));
            }
            None => {}
        }
        if q.loading > 0 || q.awaits_reads {
            return;
        }
        let (mut room, mut full, mut asked) = (usize::try_from(spare).unwrap_or(usize::MAX), false, 0);
        for entry in q.ready().front_entries().take(count) {
            let Body::Disk { at, body_len } = entry.body else {
                continue;
            };
            if memory.loading >= loading_max {
                full = true;
                break;
            }
            memory.requests.push(Request::Body(Read {
                queue: q.id,
                seq: entry.seq,
                at,
                waited: body_len,
            }));
            asked += 1;
            memory.loading += body_len as usize;
            room = room.saturating_sub(body_len as usize);
            if room == 0 {
                break;
            }
        }
        q.loading += asked;
        if full && q.loading == 0 {
            memory.await_reads(q, queue);
        }
        // Bodies read back may be evicted again.
        if q.loading > 0 && !q.evictable {
            q.evictable = true;
            memory.evictable.push_back(queue);
        }
    }
    fn loading_max(&self) -> usize {
        // Without a cache, bodies are read one after the other.
        (self.settings.cache_bytes_max / LOADING_SHARE).max(1)
    }

    /// Takes the reader's answers: bodies, and pages of entries.
    pub fn loaded(&mut self, now: Now, answers: Vec<Answer>) {
        self.begin(now);
        let mut woken = Vec::new();
        for answer in answers {
            match answer {
                Answer::Body(loaded) => self.body_loaded(loaded, &mut woken),
                Answer::Page(page) => self.page_loaded(page, &mut woken),
                Answer::Key(key) => self.retained_loaded(key),
            }
        }
        self.resume_replays();
        while self.memory.loading < self.loading_max()
            && self.memory.pages < PAGES_MAX
            && let Some(queue) = self.memory.awaiting_reads.pop_front()
        {
            if let Some(q) = self.queues.get_mut(queue) {
                q.awaits_reads = false;
                woken.push(queue);
                if !q.consumers.is_empty() {
                    // Requested here, so that the next queue finds less room.
                    self.load_head(queue);
                }
            }
        }
        for queue in woken {
            self.enforce_limit(queue);
            self.touch(queue);
        }
        self.dispatch_touched();
        self.retry_gets();
        self.dispatch_touched();
        self.relieve_memory();
    }

    /// Answers `Get`s that need not wait any more.
    pub(crate) fn retry_gets(&mut self) {
        let gets = std::mem::take(&mut self.memory.waiting_gets);
        for (queue, link, get) in gets {
            // Continues when the link takes what it has fetched.
            let is_full = self.links.get(link).is_some_and(|l| !l.outbox.may_fetch());
            if is_full
                || self
                    .queues
                    .get_mut(queue)
                    .is_some_and(|q| q.loading > 0 || q.awaits_reads || q.is_paging())
            {
                self.memory.waiting_gets.push((queue, link, get));
            } else {
                self.get_again(link, get);
            }
        }
    }

    fn body_loaded(&mut self, l: Loaded, woken: &mut Vec<QueueKey>) {
        self.memory.loading -= l.waited as usize;
        let Some(queue) = self.queues.numbered(l.queue) else {
            return;
        };
        if let Some(resend) = self.memory.resends.remove(&(l.queue, l.seq)) {
            return self.resend_loaded(resend, queue, l);
        }
        let Some(q) = self.queues.get_mut(queue) else {
            return;
        };
        q.loading = q.loading.saturating_sub(1);
        if q.loading == 0 {
            woken.push(queue);
        }
        let kind = q.kind;
        match l.message {
            Some(message) => {
                if let Some(entry) = q.waiting_mut(l.seq)
                    && let Body::Disk { at, .. } = entry.body
                {
                    message.log_state().written(at);
                    self.memory.pin(&message);
                    entry.body = Body::Memory(message);
                    self.counters.bodies_loaded += 1;
                    if let QueueKind::Session(session) = kind {
                        let subscriptions = self.sessions.get(session).map(|s| &s.subscriptions);
                        entry.subscription_ids = subscriptions.and_then(|s| ids_of(s, entry));
                    }
                }
            }
            None => {
                if let Some(entry) = q.remove_waiting(l.seq) {
                    tracing::warn!(queue = %q.name, seq = entry.seq, "a message's record is damaged: dropped");
                    self.queues.note_ack(queue, entry.seq);
                    self.counters.damaged += 1;
                }
            }
        }
    }

    fn page_loaded(&mut self, page: Page, woken: &mut Vec<QueueKey>) {
        self.memory.pages -= 1;
        let Some(queue) = self.queues.numbered(page.queue) else {
            return;
        };
        let Some(q) = self.queues.get_mut(queue) else {
            return;
        };
        let Some(priority) = q.page_came() else { return };
        woken.push(queue);
        let lost = q.page_in(priority, page.upto, page.entries);
        if lost > 0 {
            tracing::warn!(queue = %q.name, lost, "messages in a damaged part of the log: dropped");
            self.counters.damaged += lost;
        }
    }
}
