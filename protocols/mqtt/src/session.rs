//! The state machine of one connection.
//!
//! ```text
//!            CONNECT            Authenticated         Attached           SessionOpened
//!   Fresh ─────────► LoggingIn ─────────► Attaching ───────► Opening ─────────► Open
//!     │ not MQTT,        │ LoginRefused       │ AttachRefused    │ Failed         │ DISCONNECT, an error, silence,
//!     │ too late         │ (CONNACK >= 80)    │                  │                │ takeover, shutdown
//!     └──────────────────┴────────────────────┴──────► Closed ◄──┴────────────────┘
//! ```
//!
//! Between CONNECT and CONNACK nothing is parsed. Packets that a client sends early wait in the driver, and are
//! discarded if the answer is a refusal [MQTT-3.1.4-6]. The exception is the answer to a challenge of an authentication
//! method: `LoggingIn` becomes `Challenged`, and AUTH leads back to it (`authenticating.rs`).

mod authenticating;
mod connect;
mod delivering;
mod open;
mod publishing;
mod subscribing;
mod terms;

use crate::Shared;
use crate::session::connect::Opening;
use crate::session::open::Open;
use gatepost_core::event::{CloseReason, Event, Op};
use gatepost_core::session::{Close, Cx, ReadInterest, Session};
use gatepost_core::time::{Now, Time};
use std::sync::Arc;

/// A connection.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    state: State,
}

enum State {
    /// CONNECT is not complete.
    Fresh { deadline: Time },
    /// The directory checks the credentials.
    LoggingIn(Box<Opening>),
    /// The client must answer a challenge of its authentication method.
    Challenged(Box<Opening>),
    /// The directory checks the vhost.
    Attaching(Box<Opening>),
    /// The engine opens the session.
    Opening(Box<Opening>),
    /// CONNACK was sent.
    Open(Box<Open>),
    /// The connection has ended: all input and events are ignored.
    Closed,
}

impl Connection {
    pub(crate) fn new(shared: Arc<Shared>, now: Now) -> Connection {
        let deadline = now.monotonic + shared.settings.connect_timeout;
        Connection {
            shared,
            state: State::Fresh { deadline },
        }
    }

    fn bytes(&mut self, cx: &mut Cx<'_>, input: &[u8]) -> Result<usize, Close> {
        match &mut self.state {
            State::Fresh { .. } => match connect::begin(&self.shared, cx, input)? {
                Some((opening, used)) => {
                    self.state = State::LoggingIn(opening);
                    Ok(used)
                }
                None => Ok(0),
            },
            State::Challenged(opening) => {
                let Some(used) = opening.respond(&self.shared, cx, input)? else {
                    return Ok(0);
                };
                if let State::Challenged(opening) = std::mem::replace(&mut self.state, State::Closed) {
                    self.state = State::LoggingIn(opening);
                }
                Ok(used)
            }
            State::Open(open) => open.bytes(&self.shared, cx, input),
            _ => Ok(0),
        }
    }

    /// Handles an event before the session is open.
    fn login(&mut self, cx: &mut Cx<'_>, event: Event) -> Result<(), Close> {
        // Before MQTT 5, CONNACK has codes but no reason text, and a session that never began need not be closed.
        let event = match event {
            Event::ClosedBecause(_) => Event::Closed(CloseReason::Forced),
            event => event,
        };
        self.state = match (std::mem::replace(&mut self.state, State::Closed), event) {
            (State::LoggingIn(mut opening), Event::Authenticated { data, .. }) => {
                opening.attach(cx, data);
                State::Attaching(opening)
            }
            (State::LoggingIn(mut opening), Event::Challenge(data)) => {
                opening.challenge(cx, &data)?;
                State::Challenged(opening)
            }
            (State::LoggingIn(opening), Event::LoginRefused(refused)) => {
                return Err(opening.login_refused(cx, &refused));
            }
            (State::Attaching(mut opening), Event::Attached) => {
                opening.open_session(cx);
                State::Opening(opening)
            }
            (State::Attaching(opening), Event::AttachRefused(fault))
            | (
                State::Opening(opening),
                Event::Failed {
                    op: Op::OpenSession,
                    fault,
                    ..
                },
            ) => {
                return Err(opening.failed(cx, &fault));
            }
            (State::Opening(opening), Event::SessionOpened { present }) => {
                State::Open(Box::new(opening.accept(&self.shared, cx, present)?))
            }
            (
                State::LoggingIn(opening)
                | State::Challenged(opening)
                | State::Attaching(opening)
                | State::Opening(opening),
                Event::Closed(why),
            ) => {
                return Err(opening.closed(cx, why));
            }
            (_, Event::Closed(why)) => return Err(Close::normal(closed(why))),
            (state, _) => state,
        };
        Ok(())
    }

    /// After an error nothing is sent or read any more.
    fn checked<T>(&mut self, result: Result<T, Close>) -> Result<T, Close> {
        if result.is_err() {
            self.state = State::Closed;
        }
        result
    }
}

/// Why the engine ends a connection: for the log, and as reason string.
fn closed(why: CloseReason) -> &'static str {
    match why {
        CloseReason::Shutdown => "the gateway is stopping",
        CloseReason::TakenOver => "another connection took the session over",
        CloseReason::Forced => "closed by an operator",
        CloseReason::VhostDeleted => "the vhost is deleted",
        CloseReason::UserDeleted => "the user is deleted",
        CloseReason::CredentialsExpired => "the credentials have expired",
    }
}

impl Session for Connection {
    fn handle_bytes(&mut self, cx: &mut Cx<'_>, input: &[u8]) -> Result<usize, Close> {
        let result = self.bytes(cx, input);
        self.checked(result)
    }

    fn handle_events(&mut self, cx: &mut Cx<'_>, events: &mut Vec<Event>) -> Result<(), Close> {
        for event in events.drain(..) {
            let result = match &mut self.state {
                State::Open(open) => open.event(&self.shared, cx, event),
                State::Closed => Ok(()),
                _ => self.login(cx, event),
            };
            self.checked(result)?;
        }
        Ok(())
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_>) -> Result<(), Close> {
        let now = cx.now.monotonic;
        if self.poll_timeout().is_none_or(|due| now < due) {
            return Ok(());
        }
        let result = match &mut self.state {
            State::Fresh { .. } => Err(Close::abnormal("no CONNECT in time")),
            State::LoggingIn(opening)
            | State::Challenged(opening)
            | State::Attaching(opening)
            | State::Opening(opening) => Err(opening.too_slow(cx)),
            State::Open(open) => Err(open.silent(cx)),
            State::Closed => Ok(()),
        };
        self.checked(result)
    }

    fn poll_timeout(&self) -> Option<Time> {
        match &self.state {
            State::Fresh { deadline } => Some(*deadline),
            State::LoggingIn(opening)
            | State::Challenged(opening)
            | State::Attaching(opening)
            | State::Opening(opening) => Some(opening.deadline()),
            State::Open(open) => open.deadline(),
            State::Closed => None,
        }
    }

    fn kept(&self) -> usize {
        match &self.state {
            State::Open(open) => open.alias_bytes(),
            State::LoggingIn(opening)
            | State::Challenged(opening)
            | State::Attaching(opening)
            | State::Opening(opening) => opening.bytes,
            State::Fresh { .. } | State::Closed => 0,
        }
    }

    fn read_interest(&self) -> ReadInterest {
        match &self.state {
            State::Fresh { .. } | State::Challenged(_) => ReadInterest::All,
            State::Open(open) if open.reads() => ReadInterest::All,
            _ => ReadInterest::Nothing,
        }
    }

    fn set_paused(&mut self, now: Now, paused: bool) {
        if let State::Open(open) = &mut self.state {
            open.set_paused(now, paused);
        }
    }
}
