//! What a link will take, in order: answers, and messages reserved for its consumers.

use crate::command::Channel as ChannelNumber;
use crate::event::Event;
use crate::queue::entry::Entry;
use crate::slots::{ConsumerKey, QueueKey};
use std::collections::VecDeque;

/// The most deliveries reserved for a link that it has not taken yet.
const RESERVED_MESSAGES_MAX: u32 = 1024;
/// The most bytes of these. One message always fits.
const RESERVED_BYTES_MAX: u32 = 256 << 10;

/// An empty list with at most this capacity is freed.
const FEW_PLACES: usize = 8;

/// One item that a link will take.
pub(crate) enum Out {
    /// An answer.
    Event(Event),
    /// A message reserved for one of its consumers. It is numbered when it is taken.
    Reserved {
        consumer: ConsumerKey,
        queue: QueueKey,
        entry: Entry,
    },
    /// A delivery of the link's MQTT session that is sent again, by its packet id.
    Resend(u16),
    /// The answer to a `Get`. Its message is numbered when it is taken.
    Got(Box<Fetched>),
    /// Keeps the place of an answer whose message is being read. Only among a channel's gated answers.
    Awaited,
}

/// A message that a `Get` has taken from its queue.
pub(crate) struct Fetched {
    pub(crate) channel: ChannelNumber,
    pub(crate) queue: QueueKey,
    pub(crate) entry: Entry,
    /// It counts as settled when it is taken.
    pub(crate) no_ack: bool,
    /// The number of messages left in the queue.
    pub(crate) remaining: u32,
}

/// A message that was reserved for a link and not taken.
pub(crate) struct Reservation {
    pub(crate) consumer: ConsumerKey,
    pub(crate) queue: QueueKey,
    pub(crate) entry: Entry,
}

/// What a link will take, in order, and sums of what is reserved.
#[derive(Default)]
pub(crate) struct Outbox {
    list: VecDeque<Out>,
    reserved_messages: u32,
    reserved_bytes: u32,
    /// Bytes of messages that `Get`s have taken from their queues.
    fetched_bytes: usize,
}

/// The bytes of its body. A message has at most 1 GiB, and beside a large one nothing is reserved, so sums fit into 32 bits.
fn size(entry: &Entry) -> u32 {
    u32::try_from(entry.body.len()).unwrap_or(u32::MAX)
}

impl Outbox {
    /// Adds an answer, or a delivery to be sent again.
    pub(crate) fn push(&mut self, out: Out) {
        debug_assert!(!matches!(out, Out::Reserved { .. }), "reservations are counted");
        if let Out::Got(fetched) = &out {
            self.fetched_bytes += fetched.entry.body.len();
        }
        self.list.push_back(out);
    }
    /// Reserves a message for a consumer.
    pub(crate) fn reserve(&mut self, consumer: ConsumerKey, queue: QueueKey, entry: Entry) {
        self.reserved_messages += 1;
        self.reserved_bytes += size(&entry);
        self.list.push_back(Out::Reserved { consumer, queue, entry });
    }
    /// Whether another message may be reserved.
    pub(crate) fn has_room(&self) -> bool {
        self.reserved_messages < RESERVED_MESSAGES_MAX
            && (self.reserved_bytes < RESERVED_BYTES_MAX || self.reserved_messages == 0)
    }
    /// Whether another message may be fetched.
    pub(crate) fn may_fetch(&self) -> bool {
        self.fetched_bytes < RESERVED_BYTES_MAX as usize
    }
    pub(crate) fn has_reservations(&self) -> bool {
        self.reserved_messages > 0
    }
    /// Messages and bytes that are reserved.
    #[cfg(feature = "testing")]
    pub(crate) fn reserved(&self) -> (usize, usize) {
        (self.reserved_messages as usize, self.reserved_bytes as usize)
    }
    pub(crate) fn front(&self) -> Option<&Out> {
        self.list.front()
    }
    pub(crate) fn pop(&mut self) -> Option<Out> {
        let out = self.list.pop_front();
        match &out {
            Some(Out::Reserved { entry, .. }) => {
                self.reserved_messages -= 1;
                self.reserved_bytes -= size(entry);
            }
            Some(Out::Got(fetched)) => self.fetched_bytes -= fetched.entry.body.len(),
            _ => {}
        }
        out
    }
    /// Removes all reservations, newest first, so that each can be put back in front of later ones.
    pub(crate) fn give_back_all(&mut self) -> Vec<Reservation> {
        self.give_back(|_| true)
    }
    /// Removes one consumer's reservations, newest first.
    pub(crate) fn give_back_of(&mut self, key: ConsumerKey) -> Vec<Reservation> {
        self.give_back(|consumer| consumer == key)
    }
    fn give_back(&mut self, is_its: impl Fn(ConsumerKey) -> bool) -> Vec<Reservation> {
        let mut returned = Vec::new();
        if !self.has_reservations() {
            return returned;
        }
        let mut kept = VecDeque::with_capacity(self.list.len());
        for out in std::mem::take(&mut self.list) {
            match out {
                Out::Reserved { consumer, queue, entry } if is_its(consumer) => {
                    self.reserved_messages -= 1;
                    self.reserved_bytes -= size(&entry);
                    returned.push(Reservation { consumer, queue, entry });
                }
                other => kept.push_back(other),
            }
        }
        self.list = kept;
        returned.reverse();
        returned
    }
    /// Removes at most `most` messages that a channel has fetched, newest first.
    pub(crate) fn take_fetched(&mut self, channel: ChannelNumber, most: usize) -> Vec<Fetched> {
        let is_its = |out: &Out| matches!(out, Out::Got(got) if got.channel == channel);
        let mut fetched = Vec::new();
        if !self.list.iter().any(is_its) {
            return fetched;
        }
        let mut kept = VecDeque::with_capacity(self.list.len());
        for out in std::mem::take(&mut self.list).into_iter().rev() {
            match out {
                Out::Got(got) if got.channel == channel && fetched.len() < most => {
                    self.fetched_bytes -= got.entry.body.len();
                    fetched.push(*got);
                }
                other => kept.push_front(other),
            }
        }
        self.list = kept;
        fetched
    }
    /// Drops what a link that is gone will not take. Its reservations were returned; fetched messages return with their
    /// channels.
    pub(crate) fn forget_answers(&mut self) {
        debug_assert_eq!(self.reserved_messages, 0);
        self.list.retain(|out| matches!(out, Out::Got(_)));
    }
    /// Moves the events at the front into `events`.
    #[inline]
    pub(crate) fn take_events(&mut self, events: &mut Vec<Event>) {
        let mut may_free = false;
        while let Some(Out::Event(event)) = self.list.pop_front_if(|out| matches!(out, Out::Event(_))) {
            may_free |= !matches!(event, Event::Deliver(_));
            events.push(event);
        }
        // Most connections ask for a few things at first and are idle then, so their list is freed. A link with a
        // steady stream of answers or deliveries keeps its list, because a new one would grow by doubling in every
        // turn.
        if may_free && self.list.is_empty() && self.list.capacity() <= FEW_PLACES {
            self.list = VecDeque::new();
        }
    }
    /// Takes the message of a `Get`, if it is at the front.
    #[inline]
    pub(crate) fn take_got(&mut self) -> Option<Box<Fetched>> {
        match self.list.pop_front_if(|out| matches!(out, Out::Got(_))) {
            Some(Out::Got(fetched)) => {
                self.fetched_bytes -= fetched.entry.body.len();
                Some(fetched)
            }
            _ => None,
        }
    }
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Out> {
        self.list.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With QoS 2, each message has an answer. The list was freed in each turn, and grew again by doubling.
    #[test]
    fn a_stream_of_answers_keeps_its_room_and_a_few_answers_give_it_back() {
        let answer = |n: u16| {
            Out::Event(Event::Released {
                packet_id: n,
                known: true,
            })
        };
        let mut outbox = Outbox::default();
        let mut events = Vec::new();
        for (answers, keeps) in [(1, false), (4, false), (100, true), (1, true)] {
            events.clear();
            (0..answers).for_each(|n| outbox.push(answer(n)));
            outbox.push(Out::Resend(7));
            outbox.take_events(&mut events);
            assert_eq!((events.len(), outbox.len()), (usize::from(answers), 1));
            assert!(outbox.take_got().is_none() && matches!(outbox.pop(), Some(Out::Resend(7))));
            outbox.push(answer(0));
            outbox.take_events(&mut events);
            assert_eq!(outbox.list.capacity() > 0, keeps, "{answers}");
        }
    }
}
