//! The exchange of commands and events between session and engine in a turn.

use super::ending::End;
use super::{Broker, LAST_TURNS, OUTPUT_HIGH_WATER, Pump, Scratch};
use crate::buffers::FREE_BYTES;
use crate::engine::{Applied, Room, Visited};
use crate::event::{CloseReason, Event};
use crate::properties::Codecs;
use crate::time::Now;

/// Messages taken in one turn: more than one read can bring, so that queues drain faster than they fill.
const TAKE_MESSAGES: usize = 2048;
/// Exchanges with the engine in one turn.
const ROUNDS: usize = 8;

impl<V> Pump<V> {
    /// Passes commands to the engine and events to the session until there are no more.
    pub(super) fn exchange<B>(&mut self, now: Now, s: &mut Scratch, broker: &mut B, again: &mut bool) -> Result<(), End>
    where
        B: Broker<Vhost = V>,
    {
        let mut taken = false;
        for _ in 0..ROUNDS {
            let called = broker.acknowledge();
            self.log_in(now, s, broker);
            let room = self.room(now, s, broker);
            // After a wake the engine is visited even without room, so that it can offer what we cannot take to others.
            let worth_taking = called || (self.more && !taken && room.messages > 0);
            if self.bound.is_some() && (worth_taking || !s.commands.is_empty()) {
                self.visit_engine(now, s, broker, room, again);
                taken = true;
            }
            self.hand_over_events(now, s, broker.codecs())?;
            if self.declined && !s.is_full() && self.left.is_empty() && self.wants_input() {
                self.offer(now, s, broker.codecs())?;
            }
            self.parking.sort(&mut s.commands);
            self.parking.release(&mut s.commands);
            if s.commands.is_empty() || !self.left.is_empty() {
                // New commands stay behind remaining ones.
                self.left.append(&mut s.commands);
                return Ok(());
            }
        }
        // A turn ends even if the session always has another command.
        self.left.append(&mut s.commands);
        *again = true;
        Ok(())
    }

    /// One hold of the engine's lock: applies commands and takes events as far as there is room.
    fn visit_engine<B>(&mut self, now: Now, s: &mut Scratch, broker: &mut B, room: Room, again: &mut bool)
    where
        B: Broker<Vhost = V>,
    {
        let Some(bound) = &self.bound else { return };
        let (link, commands, events) = (bound.link, &mut s.commands, &mut s.events);
        let carried = std::mem::take(&mut self.carried);
        let mut asked = None;
        let Visited {
            applied,
            more,
            wants_large,
        } = broker.enter(&bound.vhost, |engine| {
            engine.note_carried(link, carried);
            let visited = engine.visit(now, link, commands, room, events);
            if visited.applied == Applied::Waits {
                asked = engine.take_question(link);
            }
            visited
        });
        if let Some(asked) = asked {
            broker.ask(&bound.vhost, link, *asked);
        }
        // Without room the visit gave back what was reserved for this link; a close is received all the same.
        self.more = more || room.messages == 0;
        self.wants_large = wants_large;
        self.waits = applied == Applied::Waits;
        if applied != Applied::All {
            // The rest of a long batch waits until other connections have had their turns.
            std::mem::swap(&mut s.commands, &mut self.left);
        }
        // A large message waits for memory, unless that is granted at once.
        let may_take = room.messages > 0 && (!wants_large || self.may_send_large(now, broker));
        *again |= applied == Applied::Some || (more && may_take);
    }

    /// What may be taken without the output exceeding its limit. While memory is short, large messages are taken by one
    /// connection at a time: each of a thousand slow subscribers would have its own copy of the same message.
    fn room<B: Broker<Vhost = V>>(&mut self, now: Now, s: &Scratch, broker: &mut B) -> Room {
        let full = broker.buffers().is_some_and(|buffers| buffers.are_full());
        let output_max = if full { FREE_BYTES } else { OUTPUT_HIGH_WATER };
        let bytes = output_max
            .saturating_sub(self.output.len() + s.out.len())
            .min(s.room_bytes_max);
        Room {
            messages: if bytes > 0 { TAKE_MESSAGES } else { 0 },
            bytes,
            large: !full || (self.wants_large && bytes > 0 && self.may_send_large(now, broker)),
        }
    }

    /// Lets the session encode its events.
    fn hand_over_events(&mut self, now: Now, s: &mut Scratch, codecs: &Codecs) -> Result<(), End> {
        if let Some(Event::Closed(CloseReason::TakenOver)) = s.events.last() {
            // The end is postponed until what the peer has sent earlier was applied: see `take_last_turn`.
            s.events.pop();
            self.last_turns.get_or_insert(LAST_TURNS);
        }
        if s.events.is_empty() {
            return Ok(());
        }
        for event in &s.events {
            if let Event::Flow(pressure) = event {
                self.parking.set_pressure(*pressure);
                // Commands that are not applied yet are parked, too.
                self.parking.sort(&mut self.left);
            }
        }
        let mut events = std::mem::take(&mut s.events);
        let result = self.session.handle_events(&mut s.cx(now, codecs).0, &mut events);
        events.clear();
        s.events = events;
        Ok(result?)
    }
}
