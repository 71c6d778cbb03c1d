//! The end of a connection: its last output, and how the engine is told.

use super::writing::Stalled;
use super::{Broker, LAST_TURNS, Output, Pump, Scratch, Stream};
use crate::command::Command;
use crate::engine::Applied;
use crate::event::{CloseReason, Event};
use crate::properties::Codecs;
use crate::session::Close;
use crate::time::Now;
use std::io;

/// How a connection ended.
#[derive(Debug)]
pub struct Ended {
    /// For our log.
    pub why: String,
    /// The peer misbehaved or vanished instead of closing properly.
    pub abnormal: bool,
    /// The stream is broken. Otherwise the last output must still be written: see [`Pump::flush`].
    pub broken: bool,
    /// It was ended because the peer did not read its output.
    pub stalled: bool,
    /// The peer is to close the stream first.
    pub peer_closes: bool,
}

/// Why a connection ends.
pub(super) enum End {
    /// The session ended it, and has told the peer.
    Closed(Close),
    /// The stream is broken.
    Broken(io::Error),
}

impl From<Close> for End {
    fn from(close: Close) -> End {
        End::Closed(close)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Broken(error)
    }
}

impl<V> Pump<V> {
    /// Ends the connection because the caller found the stream broken. The engine is told in the following turns.
    pub fn break_off(&mut self, error: &io::Error) -> Ended {
        self.leave(&mut Vec::new());
        Ended {
            why: error.to_string(),
            abnormal: true,
            broken: true,
            stalled: false,
            peer_closes: false,
        }
    }

    /// Stops writing, because the caller found that the stream takes no more output. What has arrived by now is read and applied
    /// in the following turns, and then the connection ends. So a DISCONNECT that was sent before the stream broke still counts.
    pub fn stop_writing(&mut self, error: io::Error) {
        self.output = Output::default();
        self.last_turns.get_or_insert(LAST_TURNS);
        self.broken.get_or_insert(error);
    }

    /// Ends the connection at once, because its thread ends, and tells the engine. Waiting output is dropped.
    pub fn abandon<B: Broker<Vhost = V>>(&mut self, now: Now, broker: &mut B) {
        if !self.ended {
            self.leave(&mut Vec::new());
        }
        while !self.is_over() {
            if self.detach(now, broker) == Applied::Waits {
                // The session may belong to another connection now, so only `Detach` is still applied.
                self.left.retain(|command| matches!(command, Command::Detach));
            }
        }
    }

    /// Reads and applies what has arrived, after another connection of the same client took the session over or the stream
    /// stopped taking output. The peer may have sent a DISCONNECT or an acknowledgement before, which must count. Then the
    /// session is told of its end.
    pub(super) fn take_last_turn(
        &mut self,
        now: Now,
        s: &mut Scratch,
        codecs: &Codecs,
        again: &mut bool,
    ) -> Result<(), End> {
        let Some(turns) = &mut self.last_turns else {
            return Ok(());
        };
        *turns = turns.saturating_sub(1);
        let out_of_turns = *turns == 0;
        let has_read_all = !self.wants_input() || (self.read_dry && !self.declined);
        if out_of_turns || (has_read_all && self.left.is_empty()) {
            if let Some(error) = self.broken.take() {
                return Err(End::Broken(error));
            }
            s.events.push(Event::Closed(CloseReason::TakenOver));
            let mut events = std::mem::take(&mut s.events);
            let result = self.session.handle_events(&mut s.cx(now, codecs).0, &mut events);
            self.last_turns = None;
            self.left.append(&mut s.commands);
            return Ok(result?);
        }
        *again = true;
        Ok(())
    }

    /// Ends the session: applies its remaining commands, tells the engine, and writes the remaining output.
    pub(super) fn end<S: Stream>(&mut self, now: Now, s: &mut Scratch, stream: &mut S, end: End) -> Ended {
        let written = self.write(now, &mut s.out, stream);
        match end {
            End::Closed(close) => Ended {
                why: close.why,
                abnormal: close.abnormal,
                broken: written.is_err(),
                stalled: false,
                peer_closes: close.peer_closes,
            },
            End::Broken(error) => Ended {
                why: error.to_string(),
                abnormal: true,
                broken: true,
                stalled: error.get_ref().is_some_and(|error| error.is::<Stalled>()),
                peer_closes: false,
            },
        }
    }

    /// Queues all remaining commands and, exactly once, `Detach`.
    pub(super) fn leave(&mut self, commands: &mut Vec<Command>) {
        self.ended = true;
        self.more = false;
        if self.bound.is_some() {
            self.parking.set_pressure(None);
            self.parking.release(&mut self.left);
            self.left.append(commands);
            self.left.push(Command::Detach);
        }
    }

    /// Applies some of the remaining commands after the session's end.
    pub(super) fn detach<B: Broker<Vhost = V>>(&mut self, now: Now, broker: &mut B) -> Applied {
        let (Some(bound), true) = (&self.bound, self.ended) else {
            return Applied::All;
        };
        // The remaining commands may be waiting for a wake.
        broker.acknowledge();
        let (link, left) = (bound.link, &mut self.left);
        let carried = std::mem::take(&mut self.carried);
        let mut asked = None;
        let applied = broker.enter(&bound.vhost, |engine| {
            engine.note_carried(link, carried);
            let applied = engine.apply(now, link, left);
            if applied == Applied::Waits {
                asked = engine.take_question(link);
            }
            applied
        });
        if let Some(asked) = asked {
            broker.ask(&bound.vhost, link, *asked);
        }
        if applied == Applied::All {
            self.bound = None;
        }
        applied
    }
}
