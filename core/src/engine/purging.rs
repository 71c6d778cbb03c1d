//! Purges. Waiting messages are removed at once. If nothing of the queue is outstanding (reserved, unsettled, or a dead
//! letter that waits to be published), one record tells the log. Otherwise the log is told all sequences but the
//! outstanding ones. Clients decide how many those are, so finding them takes as many holds of the lock as needed.
//!
//! Deliveries may move during the search: back to the queue, or on to a dead-letter exchange. Each move is noted
//! ([`Engine::keep_from_purge`]), so the search misses none.

use super::Engine;
use super::budget::{Budget, Unfinished};
use super::link::LinkState;
use super::outbox::Out;
use super::traced::HopKind;
use super::unfinished::Deleting;
use crate::access::Permission;
use crate::command::PurgeQueue;
use crate::event::{Event, Op};
use crate::queue::purging::{Place, Purged, Stage};
use crate::slots::{Link, QueueKey};
use crate::store::Record;

/// Outstanding deliveries looked at for one work unit.
const LOOKED_AT_PER_UNIT: usize = 64;

impl Engine {
    /// Continues a purge that a client asked for.
    pub(crate) fn purge_queue(&mut self, link: Link, c: &PurgeQueue, budget: &mut Budget) -> Result<(), Unfinished> {
        let channel = c.channel;
        let (queue, messages, logged) = match self.take_deleting(link) {
            Some(Deleting::Messages {
                queue,
                messages,
                logged,
            }) => (queue, messages, logged),
            _ => {
                let queue = match self.find_queue(link, channel, &c.name, Permission::Read) {
                    Ok(queue) => queue,
                    Err(fault) => {
                        self.fail(link, channel, Op::PurgeQueue, fault);
                        return Ok(());
                    }
                };
                // A purge that another link has begun is finished first.
                self.go_on_purging(queue, budget)?;
                let (messages, logged) = self.start_purging(queue);
                (queue, messages, logged)
            }
        };
        if let Err(unfinished) = self.go_on_purging(queue, budget) {
            let begun = Deleting::Messages {
                queue,
                messages,
                logged,
            };
            self.note_deleting(link, begun);
            return Err(unfinished);
        }
        if c.reply {
            let gate = if logged { self.staging.wait_for_all() } else { None };
            self.answer(link, channel, Event::QueuePurged { channel, messages }, gate);
        }
        Ok(())
    }

    /// Removes the waiting messages. Returns their number, and whether the log had records of some.
    fn start_purging(&mut self, queue: QueueKey) -> (u32, bool) {
        self.trace_gone(queue, HopKind::Purged);
        // A message that died here and is not published yet is only in this queue's records.
        let dying: Vec<u64> = self
            .internal
            .iter()
            .filter_map(|waiting| waiting.died_in(queue))
            .collect();
        let Some(q) = self.queues.get_mut(queue).filter(|q| q.depth() > 0) else {
            return (0, false);
        };
        let messages = q.reported_depth();
        let (id, upto, has_outstanding) = (q.id, q.next_seq(), q.unsettled() > 0 || !dying.is_empty());
        let Purged { ready, logged } = q.purge(has_outstanding);
        for seq in dying {
            q.keep_outstanding(seq);
        }
        if logged && !has_outstanding {
            self.staging.record(Record::Purge { queue: id, upto });
        }
        self.memory.drop_later(ready);
        (messages, logged)
    }

    /// Continues the purge of a queue, if there is one.
    pub(crate) fn go_on_purging(&mut self, queue: QueueKey, budget: &mut Budget) -> Result<(), Unfinished> {
        while let Some(purging) = self.queues.get(queue).and_then(|q| q.purging.as_ref()) {
            budget.check()?;
            match purging.stage {
                Stage::Looking(place) => self.look_for_outstanding(queue, place, budget),
                Stage::Telling(from) => self.tell_purged(queue, from, budget),
                Stage::Forgetting => self.forget_counts(queue, budget),
            }
        }
        Ok(())
    }

    /// Notes that an outstanding message has moved: if the queue is being purged, the message stays.
    #[inline]
    pub(crate) fn keep_from_purge(&mut self, queue: QueueKey, seq: u64) {
        if let Some(q) = self.queues.get_mut(queue) {
            q.keep_outstanding(seq);
        }
    }

    /// Searches some of one link's deliveries.
    fn look_for_outstanding(&mut self, queue: QueueKey, place: Place, budget: &mut Budget) {
        let mut found = Vec::new();
        let mut note = |of: QueueKey, seq: u64| {
            if of == queue {
                found.push(seq);
            }
        };
        let at = self.links.at(place.slot);
        let next = match at {
            None if place.slot < self.links.slots_end() => Some(Place::of_slot(place.slot + 1)),
            None => None,
            Some(l) if place.link != Some(l.id) => {
                let looked_at = look_at_outbox(l, &mut note);
                budget.spend(looked_at / LOOKED_AT_PER_UNIT);
                Some(Place {
                    link: Some(l.id),
                    ..Place::of_slot(place.slot)
                })
            }
            Some(l) => {
                let most = LOOKED_AT_PER_UNIT * LOOKED_AT_PER_UNIT.min(budget.left());
                let mut steps = most;
                let next = look_at_channel(l, place, &mut steps, &mut note);
                budget.spend((most - steps) / LOOKED_AT_PER_UNIT);
                Some(next)
            }
        };
        budget.spend(1);
        for seq in found {
            self.keep_from_purge(queue, seq);
        }
        if let Some(purging) = self.queues.get_mut(queue).and_then(|q| q.purging.as_mut()) {
            purging.stage = next.map_or(Stage::Telling(0), Stage::Looking);
        }
    }

    /// Tells the log some of the purged sequences.
    fn tell_purged(&mut self, queue: QueueKey, from: u64, budget: &mut Budget) {
        let Some(q) = self.queues.get_mut(queue) else { return };
        let Some(mut purging) = q.purging.take() else { return };
        let mut next = Some(from);
        let mut any = false;
        while let Some(from) = next
            && !budget.is_spent()
        {
            next = None;
            if let Some(((first, last), behind)) = purging.next_gone(from) {
                q.note_acks(first, last);
                any = true;
                next = Some(behind);
            }
            budget.spend(1);
        }
        purging.stage = next.map_or(Stage::Forgetting, Stage::Telling);
        q.purging = Some(purging);
        if any {
            self.queues.has_unlogged_acks(queue);
            self.stage_acks();
        }
    }

    /// Forgets some of the counts of purged messages, and finally the purge itself.
    fn forget_counts(&mut self, queue: QueueKey, budget: &mut Budget) {
        let Some(q) = self.queues.get_mut(queue) else { return };
        let Some(purging) = &mut q.purging else { return };
        while !budget.is_spent() {
            if purging.counted.pop_first().is_none() {
                q.purging = None;
                return;
            }
            budget.spend(1);
        }
    }
}

impl Place {
    fn of_slot(slot: u32) -> Place {
        Place {
            slot,
            ..Place::default()
        }
    }
}

/// Searches the deliveries reserved for the link or fetched by it. Returns how many there were.
fn look_at_outbox(l: &LinkState, note: &mut impl FnMut(QueueKey, u64)) -> usize {
    let mut looked_at = 0;
    let answers = l.channels().flat_map(|c| c.gated().iter().map(|(_, out)| out));
    for out in l.outbox.iter().chain(answers) {
        looked_at += 1;
        match out {
            Out::Reserved { queue, entry, .. } => note(*queue, entry.seq),
            Out::Got(fetched) => note(fetched.queue, fetched.entry.seq),
            _ => {}
        }
    }
    looked_at + l.channel_count()
}

/// Searches some of a channel's unsettled deliveries. Returns where to continue.
fn look_at_channel(l: &LinkState, place: Place, steps: &mut usize, note: &mut impl FnMut(QueueKey, u64)) -> Place {
    // Channels may be opened and closed meanwhile. Deliveries of a closed one return to their queues, which is noted.
    let Some(c) = l.channel_from(place.channel) else {
        return Place::of_slot(place.slot + 1);
    };
    let channel = usize::from(c.number);
    let is_same = channel == place.channel;
    let (postponed, number) = if is_same {
        (place.postponed, place.number)
    } else {
        (false, 0)
    };
    let outstanding = match (postponed, &c.postponed) {
        (false, _) => Some(&c.unsettled),
        (true, postponed) => postponed.as_ref().map(|postponed| &postponed.rejected),
    };
    match outstanding.and_then(|unsettled| unsettled.look_from(number, steps, note)) {
        Some(number) => Place {
            channel,
            postponed,
            number,
            ..place
        },
        None if !postponed => Place {
            channel,
            postponed: true,
            number: 0,
            ..place
        },
        None => Place {
            channel: channel + 1,
            postponed: false,
            number: 0,
            ..place
        },
    }
}
