//! The memory of walks that stopped: publishes and transactions whose queues were not all found when their hold ended.
//!
//! Clients decide how much a walk keeps, and each connection may have one. All of them together may occupy an eighth of
//! the memory for objects. Above that, one walk continues and the others are dropped: their publishers wait until there
//! is room, and begin again.

use super::Engine;
use crate::slots::Link;
use std::collections::VecDeque;
use std::time::Duration;

/// The walks of a vhost.
#[derive(Default)]
pub(crate) struct Walks {
    bytes: usize,
    /// The link whose walk may grow although there is no room.
    growing: Option<Link>,
    /// Links that wait for room.
    waiting: VecDeque<Link>,
}

/// Walks may occupy one part in this many of the memory for objects.
const PART: usize = 8;
/// The number of links woken at once when there is room. Waking more is useless, because the first ones use it up.
const CALLED_AT_ONCE: usize = 8;
/// A woken link may not return, because its publish has to wait for something else now. After this time others are
/// woken.
const CALL_AGAIN: Duration = Duration::from_millis(10);

impl Walks {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Engine {
    fn has_room_for_walks(&self) -> bool {
        self.walks.bytes <= self.settings.objects_bytes_max / PART
    }

    /// The link's first command asks for a walk again after it had to wait. If it has to wait longer, the link is woken
    /// later.
    pub(crate) fn may_walk(&mut self, link: Link) -> bool {
        let may = self.has_room_for_walks() || self.walks.growing.is_none_or(|growing| growing == link);
        if may {
            self.stop_waiting_to_walk(link);
        } else {
            self.wait_to_walk(link);
        }
        may
    }

    /// The link's walk stopped and occupies this many bytes. Returns whether it may be kept; if not, it begins again
    /// when the link is woken.
    pub(crate) fn keep_walk(&mut self, link: Link, bytes: usize) -> bool {
        let Some(l) = self.links.get_mut(link) else {
            return false;
        };
        self.walks.bytes += bytes;
        self.walks.bytes -= std::mem::replace(&mut l.rare.make().walk_bytes, bytes);
        if self.has_room_for_walks() {
            return true;
        }
        if *self.walks.growing.get_or_insert(link) == link {
            return true;
        }
        self.end_walk(link);
        self.wait_to_walk(link);
        false
    }

    /// The link's walk is done or dropped, if it has one.
    #[inline]
    pub(crate) fn end_walk(&mut self, link: Link) {
        if self.walks.bytes > 0 {
            self.drop_walk(link);
        }
    }

    fn drop_walk(&mut self, link: Link) {
        let rare = self.links.get_mut(link).and_then(|l| l.rare.get_mut());
        let Some(rare) = rare.filter(|rare| rare.walk_bytes > 0) else {
            return;
        };
        self.walks.bytes -= std::mem::take(&mut rare.walk_bytes);
        self.walks.growing.take_if(|growing| *growing == link);
        if !self.walks.waiting.is_empty() {
            self.call_walkers();
        }
    }

    /// The first command of the hold is ignored, so it does not continue where it stopped.
    pub(crate) fn forget_unfinished(&mut self, link: Link) {
        let Some(l) = self.links.get_mut(link) else { return };
        l.routing = None;
        if let Some(asking) = l.access.asking() {
            asking.go_on();
        }
        if let Some(rare) = l.rare.get_mut() {
            rare.committing = None;
            self.delete_without(link);
        }
        let Some(l) = self.links.get_mut(link) else { return };
        if l.awaits_walk {
            self.stop_waiting_to_walk(link);
        }
        self.end_walk(link);
    }

    fn wait_to_walk(&mut self, link: Link) {
        let Some(l) = self.links.get_mut(link) else { return };
        l.waits = true;
        l.awaits_walk = true;
        if !self.walks.waiting.contains(&link) {
            self.walks.waiting.push_back(link);
        }
        self.timers
            .set(self.now.monotonic + CALL_AGAIN, super::timers::Timer::Walks);
    }

    fn stop_waiting_to_walk(&mut self, link: Link) {
        if let Some(l) = self.links.get_mut(link) {
            l.awaits_walk = false;
        }
        self.walks.waiting.retain(|waiting| *waiting != link);
    }

    /// Wakes some of the links that wait for room, if there may be room.
    pub(crate) fn call_walkers(&mut self) {
        if !self.has_room_for_walks() && self.walks.growing.is_some() {
            if !self.walks.waiting.is_empty() {
                self.timers
                    .set(self.now.monotonic + CALL_AGAIN, super::timers::Timer::Walks);
            }
            return;
        }
        for _ in 0..CALLED_AT_ONCE {
            let Some(link) = self.walks.waiting.pop_front() else {
                return;
            };
            if let Some(l) = self.links.get_mut(link) {
                l.call(&mut self.wakes);
            }
        }
        if !self.walks.waiting.is_empty() {
            self.timers
                .set(self.now.monotonic + CALL_AGAIN, super::timers::Timer::Walks);
        }
    }
}
