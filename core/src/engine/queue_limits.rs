//! Length limits of queues: what is over them goes, oldest first.

use super::Engine;
use super::death::Death;
use crate::queue::Queue;
use crate::queue::entry::Body;
use crate::queue::ready::Head;
use crate::slots::QueueKey;

impl Engine {
    /// Makes room in a queue that is over its limit, oldest first.
    pub(crate) fn enforce_limit(&mut self, queue: QueueKey) {
        if !self.queues.get(queue).is_some_and(Queue::drops_head) {
            return;
        }
        // A limit of nothing still lets a message pass straight to a consumer.
        self.dispatch(queue);
        let (dead_letters, short) = (self.has_dead_letters(queue), self.is_disk_short());
        while let Some(q) = self.queues.get_mut(queue)
            && q.is_over_limit()
        {
            if let Head::Entry(front) = q.head()
                && short
                && dead_letters
            {
                let body = front.body.clone();
                if self.dies_later(queue, &body) {
                    // Goes on when the disk has room.
                    return;
                }
            }
            let Some(q) = self.queues.get_mut(queue) else { return };
            let is_here = match q.head() {
                // What dies is published elsewhere: its body is needed.
                Head::Entry(front) => !dead_letters || matches!(front.body, Body::Memory(_)),
                Head::Paged | Head::Empty => false,
            };
            if !is_here {
                // Goes on when it is.
                self.load_head(queue);
                return;
            }
            let Some(entry) = q.drop_head() else { return };
            self.counters.dropped_full += 1;
            self.drop_entry(queue, entry, Death::MaxLength);
        }
    }
}
