//! Rounds over all connections, or over all queues: something is to be told to each of them.
//!
//! How many there are is for clients to choose, so a round goes on in as many holds of the lock as it takes. It remembers a
//! slot. Who comes while it lasts has nothing to be told.

use super::Engine;
use super::budget::Budget;
use super::dispatch::DISPATCH_LEAST;
use super::timers::Timer;
use crate::binding::QueueSlot;
use crate::event::CloseReason;
use crate::properties::Name;
use crate::time::Wall;
use std::collections::VecDeque;

/// The rounds that are under way.
#[derive(Default)]
pub(crate) struct Rounds {
    /// Of pressure: publishers that wait for nothing else are woken to be told.
    pressure: Circle,
    /// Of the room that the disk has again: what the queue postponed goes on.
    postponed: Circle,
    /// Users whose links end, one after the other.
    users: VecDeque<EndingUser>,
    /// The slot at which [`Engine::end`] goes on.
    ending: u32,
}

/// A round that may be called for again before it is over. It does not begin at its first slot then: those behind would
/// wait for ever while it is called for again and again.
#[derive(Clone, Copy, Default)]
struct Circle {
    next: u32,
    left: u32,
}

/// Whose links end.
struct EndingUser {
    user: Name,
    reason: CloseReason,
    /// Links that came later stay.
    since: Wall,
    next: u32,
}

/// Links or queues that are passed for the cost of a work unit.
const PASSED_PER_UNIT: u32 = 4;
/// Work units of a link that is woken, and of a queue that is dispatched.
const WAKE_WORK: usize = 1;
const DISPATCH_WORK: usize = DISPATCH_LEAST;

impl Circle {
    /// Begins a round over so many slots.
    fn begin(&mut self, slots: u32) {
        self.left = slots;
    }
    fn is_over(&self) -> bool {
        self.left == 0
    }
    /// The next slot of so many.
    fn next(&mut self, slots: u32) -> Option<u32> {
        self.left = self.left.checked_sub(1)?;
        if self.next >= slots {
            self.next = 0;
        }
        let slot = self.next;
        self.next += 1;
        Some(slot)
    }
}

impl Rounds {
    /// Whether some publishers are still to be told of pressure.
    #[cfg(feature = "testing")]
    pub(crate) fn tells_of_pressure(&self) -> bool {
        !self.pressure.is_over()
    }
    fn are_over(&self) -> bool {
        self.pressure.is_over() && self.postponed.is_over() && self.users.is_empty()
    }
}

impl Engine {
    /// Publishers are told of pressure, or of its end.
    pub(crate) fn tell_of_pressure(&mut self) {
        self.rounds.pressure.begin(self.links.slots_end());
        self.begin_round();
    }

    /// Queues with dead letters are dispatched: some may have waited for room on the disk.
    pub(crate) fn dispatch_postponed(&mut self) {
        self.rounds.postponed.begin(self.queues.slots_end());
        self.begin_round();
    }

    /// Ends the links of a user that are there now, for that reason. Their `Detach` follows from the drivers.
    pub fn end_user(&mut self, user: &str, reason: CloseReason) {
        self.rounds.users.push_back(EndingUser {
            user: user.into(),
            reason,
            since: self.now.wall,
            next: 0,
        });
        self.renew_budgets();
        self.begin_round();
        self.note_hold(&Budget::default());
    }

    /// Ends links, and those to come, for that reason. Their `Detach` follows from the drivers. Returns whether there are
    /// more: then call it again, in a hold of its own.
    #[must_use]
    pub fn end(&mut self, reason: CloseReason) -> bool {
        if self.ended.replace(reason) != Some(reason) {
            self.rounds.ending = 0;
        }
        let mut budget = Budget::of_hold(&self.settings);
        while self.rounds.ending < self.links.slots_end() {
            if budget.is_spent() {
                return true;
            }
            budget.spend(WAKE_WORK);
            if let Some(l) = self.links.at_mut(self.rounds.ending) {
                l.closed = Some(reason);
                l.wake(&mut self.wakes);
            }
            self.rounds.ending += 1;
        }
        false
    }

    /// What there is for it is done at once.
    fn begin_round(&mut self) {
        let mut budget = std::mem::take(&mut self.side_budget);
        self.go_on_with_rounds(&mut budget);
        self.side_budget = budget;
    }

    /// Goes on with all rounds.
    pub(crate) fn go_on_with_rounds(&mut self, budget: &mut Budget) {
        let mut passed = 0;
        while !budget.is_spent() {
            let units = if let Some(slot) = self.rounds.pressure.next(self.links.slots_end()) {
                self.tell_link(slot)
            } else if let Some(slot) = self.rounds.postponed.next(self.queues.slots_end()) {
                self.dispatch_slot(slot)
            } else if let Some(user) = self.rounds.users.pop_front() {
                self.end_of_user(user)
            } else {
                return;
            };
            passed += 1;
            if units > 0 || passed % PASSED_PER_UNIT == 0 {
                budget.spend(units.max(1));
            }
        }
        if !self.rounds.are_over() {
            self.timers.set(self.now.monotonic, Timer::Rounds);
        }
    }

    fn tell_link(&mut self, slot: u32) -> usize {
        let pressure = self.pressure;
        match self.links.at_mut(slot) {
            Some(l) if l.publishes && l.told != pressure => l.wake(&mut self.wakes),
            _ => return 0,
        }
        WAKE_WORK
    }

    fn dispatch_slot(&mut self, slot: u32) -> usize {
        let Some(queue) = self.queues.at(QueueSlot(slot)) else {
            return 0;
        };
        if !self.has_dead_letters(queue) {
            return 0;
        }
        self.touch(queue);
        DISPATCH_WORK
    }

    fn end_of_user(&mut self, mut ending: EndingUser) -> usize {
        if ending.next >= self.links.slots_end() {
            return 0;
        }
        let mut units = 0;
        if let Some(l) = self.links.at_mut(ending.next)
            && *l.access.user == *ending.user
            && l.connected_at <= ending.since
        {
            l.closed = Some(ending.reason);
            l.wake(&mut self.wakes);
            units = WAKE_WORK;
        }
        ending.next += 1;
        self.rounds.users.push_front(ending);
        units
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pressure that comes and goes must not keep links in high slots from being told.
    #[test]
    fn a_round_that_begins_again_passes_every_slot() {
        let mut circle = Circle::default();
        let mut passed = Vec::new();
        for _ in 0..4 {
            circle.begin(10);
            passed.extend((0..3).filter_map(|_| circle.next(10)));
        }
        assert_eq!(passed, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
        assert_eq!(std::iter::from_fn(|| circle.next(10)).count(), 7);
        assert!(circle.is_over());
        // Fewer slots than when it began.
        circle.begin(10);
        assert_eq!(
            (circle.next(2), circle.next(2), circle.next(2)),
            (Some(0), Some(1), Some(0))
        );
    }
}
