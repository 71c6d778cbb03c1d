//! Deletes queues that nobody has used for a while: `x-expires`, or a policy's `expires`.

use super::Engine;
use super::timers::Timer;
use crate::queue::Queue;
use crate::slots::QueueKey;
use std::time::Duration;

impl Engine {
    /// Schedules the check whether a queue with `x-expires` is unused.
    pub(crate) fn watch_queue_expiry(&mut self, queue: QueueKey) {
        let now = self.now.monotonic;
        let Some(q) = self.queues.get_mut(queue) else { return };
        let Some(expires) = q.arguments.expires_ms else { return };
        // One timer is enough: when it fires, it looks when the queue was last used, and sets the next.
        if q.consumers.is_empty() && q.expiry_timer.is_none() {
            let at = q.used_at.max(now) + Duration::from_millis(expires);
            q.expiry_timer = Some(at);
            self.timers.set(at, Timer::QueueExpiry(queue));
        }
    }

    /// `x-expires` has changed: the time starts now.
    pub(crate) fn watch_queue_expiry_anew(&mut self, queue: QueueKey) {
        if let Some(q) = self.queues.get_mut(queue)
            && let Some(at) = q.expiry_timer.take()
        {
            self.timers.cancel(at, Timer::QueueExpiry(queue));
        }
        self.watch_queue_expiry(queue);
    }

    /// Cancels the timers of a queue that is deleted.
    pub(super) fn cancel_queue_timers(&mut self, queue: QueueKey, q: &Queue) {
        if let Some(at) = q.expiry_timer {
            self.timers.cancel(at, Timer::QueueExpiry(queue));
        }
        if let Some(at) = q.expiry_check {
            self.timers.cancel(at, Timer::Head(queue));
        }
    }

    /// The timer's check: deletes the queue if it was unused for long enough.
    pub(crate) fn expire_queue(&mut self, queue: QueueKey) {
        let now = self.now.monotonic;
        let Some(q) = self.queues.get_mut(queue) else { return };
        q.expiry_timer = None;
        let Some(expires) = q.arguments.expires_ms else { return };
        if !q.consumers.is_empty() {
            return;
        }
        let due = q.used_at + Duration::from_millis(expires);
        if due <= now {
            self.delete_queue(queue);
        } else {
            q.expiry_timer = Some(due);
            self.timers.set(due, Timer::QueueExpiry(queue));
        }
    }
}
