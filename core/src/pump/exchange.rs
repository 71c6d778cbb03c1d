//! What session and engine say to each other in a turn.

use super::ending::End;
use super::{Broker, LAST_TURNS, OUTPUT_HIGH_WATER, Pump, Scratch};
use crate::buffers::{Buffers, FREE_BYTES};
use crate::engine::{Applied, Room, Visited};
use crate::event::{CloseReason, Event};
use crate::properties::Codecs;
use crate::time::Now;
use std::sync::Arc;

/// Messages taken in one turn: more than one read can bring, so that queues drain faster than they fill.
const TAKE_MESSAGES: usize = 2048;
/// Exchanges with the engine in one turn.
const ROUNDS: usize = 8;

impl<V> Pump<V> {
    /// Commands to the engine, events from it, until neither has anything to say to the other.
    pub(super) fn exchange<B>(&mut self, now: Now, s: &mut Scratch, broker: &mut B, again: &mut bool) -> Result<(), End>
    where
        B: Broker<Vhost = V>,
    {
        let mut taken = false;
        for _ in 0..ROUNDS {
            let called = broker.acknowledge();
            self.log_in(now, s, broker);
            let room = self.room(s, broker.buffers());
            // Without room the engine is still asked when it calls: it gives to others what we cannot take.
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
                // What is new keeps its place behind what is left.
                self.left.append(&mut s.commands);
                return Ok(());
            }
        }
        // A turn has an end, also with a session that always has another command.
        self.left.append(&mut s.commands);
        *again = true;
        Ok(())
    }

    /// One hold of the engine's lock: apply what there is, take what there is room for.
    fn visit_engine<B>(&mut self, now: Now, s: &mut Scratch, broker: &mut B, room: Room, again: &mut bool)
    where
        B: Broker<Vhost = V>,
    {
        let Some(bound) = &self.bound else { return };
        let (link, commands, events) = (bound.link, &mut s.commands, &mut s.events);
        let carried = std::mem::take(&mut self.carried);
        let mut asked = None;
        let Visited { applied, more } = broker.enter(&bound.vhost, |engine| {
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
        // Without room it was asked all the same: what was reserved to this link went back, and a close gets through.
        self.more = more || room.messages == 0;
        self.waits = applied == Applied::Waits;
        if applied != Applied::All {
            // The rest of a long batch waits until others have had the lock, and this thread.
            std::mem::swap(&mut s.commands, &mut self.left);
        }
        *again |= applied == Applied::Some || (more && room.messages > 0);
    }

    /// What may be taken without the output growing past its mark.
    fn room(&self, s: &Scratch, buffers: Option<&Arc<Buffers>>) -> Room {
        let full = buffers.is_some_and(|buffers| buffers.are_full());
        let output_max = if full { FREE_BYTES } else { OUTPUT_HIGH_WATER };
        let bytes = output_max
            .saturating_sub(self.output.len() + s.out.len())
            .min(s.room_bytes_max);
        Room {
            messages: if bytes > 0 { TAKE_MESSAGES } else { 0 },
            bytes,
        }
    }

    /// Lets the session encode its events.
    fn hand_over_events(&mut self, now: Now, s: &mut Scratch, codecs: &Codecs) -> Result<(), End> {
        if let Some(Event::Closed(CloseReason::TakenOver)) = s.events.last() {
            // What the peer sent before it opened the other connection counts first: see `take_last_turn`.
            s.events.pop();
            self.last_turns.get_or_insert(LAST_TURNS);
        }
        if s.events.is_empty() {
            return Ok(());
        }
        for event in &s.events {
            if let Event::Flow(pressure) = event {
                self.parking.set_pressure(*pressure);
                // What the engine has not applied yet meets the pressure too.
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
