//! What a link takes: answers, confirms, and its consumers' messages. Messages are numbered and handed out only here.

use super::Engine;
use super::Room;
use super::budget::Budget;
use super::outbox::{Out, Reservation};
use crate::event::Event;
use crate::queue::entry::{Entry, EntryFlags};
use crate::slots::{ConsumerKey, Link, QueueKey};
use crate::time::Now;

/// Bytes of a delivery's frames without the body, roughly, for counting room.
const DELIVERY_OVERHEAD: usize = 64;

/// What a link has taken in this visit, and may still take.
pub(super) struct Taking {
    room: Room,
    messages: usize,
    bytes: usize,
    /// No message was taken, because the first one needs a larger room.
    pub(super) wants_large: bool,
}

impl Taking {
    pub(super) fn of(room: Room) -> Taking {
        Taking {
            room,
            messages: 0,
            bytes: 0,
            wants_large: false,
        }
    }
    /// Whether nothing can be taken.
    fn is_stalled(&self) -> bool {
        self.room.messages == 0 || self.room.bytes == 0
    }
    /// Whether a message of `size` bytes may be taken.
    #[inline]
    fn fits(&mut self, size: usize) -> bool {
        if self.messages >= self.room.messages {
            return false;
        }
        if self.bytes + size <= self.room.bytes {
            return true;
        }
        self.wants_large = self.messages == 0 && !self.room.large;
        self.messages == 0 && self.room.large
    }
    #[inline]
    fn count(&mut self, size: usize) {
        self.messages += 1;
        self.bytes += size + DELIVERY_OVERHEAD;
    }
}

impl Engine {
    /// Moves what the link may send now into `events`: deliveries within `room`. Returns whether more is ready. The link is
    /// not woken for what becomes ready during the call; `true` says so.
    pub fn take(&mut self, now: Now, link: Link, room: Room, events: &mut Vec<Event>) -> bool {
        self.take_within(now, link, &mut Taking::of(room), events)
    }

    /// The same, with the room in a form that says afterwards whether it was too small.
    pub(super) fn take_within(&mut self, now: Now, link: Link, taking: &mut Taking, events: &mut Vec<Event>) -> bool {
        self.begin(now);
        let Some(l) = self.links.get_mut(link) else {
            return false;
        };
        l.taking(taking.is_stalled());
        let more = self.take_ready(link, taking, events);
        self.relieve_after_take();
        let pressure = self.pressure;
        let late = self.links.get_mut(link).is_some_and(|l| l.taken(pressure));
        more || late
    }

    fn take_ready(&mut self, link: Link, taking: &mut Taking, events: &mut Vec<Event>) -> bool {
        let told = self.pressure;
        let Some(l) = self.links.get_mut(link) else {
            return false;
        };
        if let Some(reason) = l.closed.take() {
            events.push(match l.rare.get_mut().and_then(|rare| rare.closed_because.take()) {
                Some(why) => Event::ClosedBecause(why),
                None => Event::Closed(reason),
            });
            return false;
        }
        if l.taken_over {
            return false;
        }
        if l.publishes && l.told != told {
            l.told = told;
            l.met = told;
            events.push(Event::Flow(told));
        }
        events.extend(l.verdicts.drain(..));
        // Answers that are ready precede confirms of messages published after the question.
        while self.take_answers(link, taking, events) {}
        if self.links.get(link).is_some_and(|l| !l.confirm_dirty.is_empty()) {
            self.take_confirms(link, events);
        }
        if self.links.get(link).is_some_and(|l| l.stalled) {
            self.give_back_reservations(link);
        }
        let more = self.take_outbox(link, taking, events);
        // Reservations returned to their queues are offered to others, and new dead letters are published.
        self.dispatch_touched();
        more
    }

    /// Takes the answers at the front of the outbox. Returns whether there may be more. A fetched message is taken only if
    /// there is room for it, like a delivery: a client may ask for a thousand large ones at once and read none.
    fn take_answers(&mut self, link: Link, taking: &mut Taking, events: &mut Vec<Event>) -> bool {
        let Some(l) = self.links.get_mut(link) else {
            return false;
        };
        l.outbox.take_events(events);
        let Some(Out::Got(fetched)) = l.outbox.front() else {
            return false;
        };
        let size = fetched.entry.body.len();
        if !taking.fits(size) {
            return false;
        }
        let Some(fetched) = l.outbox.take_got() else {
            return false;
        };
        taking.count(size);
        self.get_on(link);
        self.hand_out_fetched(link, *fetched, events);
        true
    }

    fn take_outbox(&mut self, link: Link, taking: &mut Taking, events: &mut Vec<Event>) -> bool {
        let stalled = taking.is_stalled();
        let mut budget = Budget::of_hold(&self.settings);
        loop {
            let Some(l) = self.links.get_mut(link) else {
                return false;
            };
            match l.outbox.front() {
                None => {
                    if stalled {
                        return false;
                    }
                    if self.feed_starved(link, &mut budget) {
                        continue;
                    }
                    if budget.is_spent() {
                        return true;
                    }
                    if !self.replay_retained(link, &mut budget) {
                        return false;
                    }
                }
                Some(Out::Got(fetched)) if !taking.fits(fetched.entry.body.len()) => return !stalled,
                Some(Out::Event(_) | Out::Got(_)) => _ = self.take_answers(link, taking, events),
                Some(&Out::Resend(packet_id)) => match self.resend_size(link, packet_id) {
                    Some(size) if !taking.fits(size) => return !stalled,
                    Some(size) => {
                        taking.count(size);
                        self.resend(link, packet_id, events);
                    }
                    // The link is woken when the body has been read.
                    None => return false,
                },
                Some(Out::Reserved { entry, .. }) => {
                    let size = entry.body.len();
                    if !taking.fits(size) {
                        return !stalled;
                    }
                    taking.count(size);
                    if let Some(Out::Reserved { consumer, queue, entry }) = l.outbox.pop() {
                        self.hand_out(link, consumer, queue, entry, events);
                    }
                }
                Some(Out::Awaited) => {
                    debug_assert!(false, "an awaited answer keeps its place among the gated ones");
                    l.outbox.pop();
                }
            }
        }
    }

    /// The link has no room: its reservations are returned in order, so that others can have them.
    pub(crate) fn give_back_reservations(&mut self, link: Link) {
        let Some(l) = self.links.get_mut(link) else {
            return;
        };
        for Reservation { consumer, queue, entry } in l.outbox.give_back_all() {
            self.release_reservation(consumer, queue, entry);
        }
    }

    /// Returns a reserved entry to its queue, as if it had not been reserved.
    pub(crate) fn release_reservation(&mut self, consumer: ConsumerKey, queue: QueueKey, entry: Entry) {
        self.uncount(consumer, entry.flags);
        if self.put_back(queue, entry)
            && let Some(c) = self.consumers.get_mut(consumer)
            && !c.starved
        {
            c.starved = true;
            let link = c.link;
            if let Some(l) = self.links.get_mut(link) {
                l.starved.push_back(consumer);
            }
        }
    }

    /// Uncounts a reservation from its consumer's credit.
    fn uncount(&mut self, key: ConsumerKey, flags: EntryFlags) {
        let Some(c) = self.consumers.get_mut(key) else {
            return;
        };
        if !c.counts(flags) {
            return;
        }
        match c.session {
            Some((session, _)) => self.free_session_credit(session),
            None => {
                c.credit.release();
                let (link, channel) = (c.link, c.channel);
                self.free_channel_credit(link, channel);
            }
        }
    }
}
