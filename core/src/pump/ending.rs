//! How a connection ends: what it still says, and how the engine is told.

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
    /// The peer misbehaved or vanished, as opposed to a goodbye.
    pub abnormal: bool,
    /// The stream is of no more use; otherwise the last words are still to be written: see [`Pump::flush`].
    pub broken: bool,
    /// It was ended because the peer did not take its output.
    pub stalled: bool,
}

/// Why a connection ends.
pub(super) enum End {
    /// The session says so, and has said so to the peer.
    Closed(Close),
    /// The stream is no more use.
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
    /// The stream is of no more use, as somebody else has found out. The engine is told in the turns that follow.
    pub fn break_off(&mut self, error: &io::Error) -> Ended {
        self.leave(&mut Vec::new());
        Ended {
            why: error.to_string(),
            abnormal: true,
            broken: true,
            stalled: false,
        }
    }

    /// The stream takes no more output, as somebody else has found out. What it has brought by now is read and applied in the
    /// turns that follow, and then the connection ends: a goodbye that was sent before the stream broke still counts.
    pub fn stop_writing(&mut self, error: io::Error) {
        self.output = Output::default();
        self.last_turns.get_or_insert(LAST_TURNS);
        self.broken.get_or_insert(error);
    }

    /// Ends the connection at once, whatever it still had to say: its thread goes away. The engine is told.
    pub fn abandon<B: Broker<Vhost = V>>(&mut self, now: Now, broker: &mut B) {
        if !self.ended {
            self.leave(&mut Vec::new());
        }
        while !self.is_over() {
            if self.detach(now, broker) == Applied::Waits {
                // For a session that another connection has, whose thread may be the one that goes away.
                self.left.retain(|command| matches!(command, Command::Detach));
            }
        }
    }

    /// Another connection of the same client takes the session over, or the stream takes no more output. A goodbye, or an
    /// acknowledgement, that this stream has brought already was sent earlier, so it is read and applied first; then the
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

    /// The session is over: what it asked for before is still done, then the engine is told, then the rest is written.
    pub(super) fn end<S: Stream>(&mut self, now: Now, s: &mut Scratch, stream: &mut S, end: End) -> Ended {
        let written = self.write(now, &mut s.out, stream);
        match end {
            End::Closed(close) => Ended {
                why: close.why,
                abnormal: close.abnormal,
                broken: written.is_err(),
                stalled: false,
            },
            End::Broken(error) => Ended {
                why: error.to_string(),
                abnormal: true,
                broken: true,
                stalled: error.get_ref().is_some_and(|error| error.is::<Stalled>()),
            },
        }
    }

    /// Leaves the engine what is left of all commands, and `Detach`, exactly once.
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

    /// After the session: applies some of that.
    pub(super) fn detach<B: Broker<Vhost = V>>(&mut self, now: Now, broker: &mut B) -> Applied {
        let (Some(bound), true) = (&self.bound, self.ended) else {
            return Applied::All;
        };
        // What is left may wait for a call.
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
