//! One connection: its states, frames and time-outs. Channels and the handshake have files of their own.
//!
//! ```text
//!            header         start-ok           Authenticated       tune-ok        open             Attached
//!   Header ─────────► Starting ──────► LoggingIn ─────────► Tuning ──────► Opening ───► Attaching ─────────► Running
//!     │ other             │ malformed      │ refused          │ out of bounds             │ refused             │ our
//!     ▼ header            ▼                ▼                  ▼                           ▼                     ▼ close
//!   (dropped)           Silent ◄───── (no capability)      Closing ◄──────────────────────┴─────────────────────┘
//! ```
//!
//! In `LoggingIn` and `Attaching` nothing is parsed: the rest of the input waits for the directory's answer. In
//! `Running`, frames after `channel.open` wait for the engine's answer, unless they are `channel.open` too. The answer
//! to any other frame, above all to a close of the connection, would overtake the `open-ok`. In `Closing` all frames
//! but `close` and `close-ok` are discarded; in `Silent` all. A client's own `close` leads from `Running` to `Leaving`:
//! earlier requests are still answered there, and `close-ok` is the last frame sent.

mod answering;
mod channel;
mod channels;
mod content;
mod deferred;
mod delivering;
mod env;
mod handshake;
mod heartbeat;
mod known;
mod publishing;
#[cfg(test)]
mod tests;
mod transaction;

use crate::codec::{self, AMQP_0_9, AMQP_0_9_1, PROTOCOL_HEADER};
use crate::error::{Code, ErlangOctets, Error, Reply, Snippet};
use crate::frame::field::Flaw;
use crate::frame::{self, BODY, Connection, Frame, HEADER, HEARTBEAT, METHOD, Method};
use crate::map;
use crate::settings::{FRAME_MIN, Settings};
use channels::Channels;
use env::Env;

use gatepost_core::command::{ClientProperties, Command, Login};
use gatepost_core::event::{Event, Op, Pressure};
use gatepost_core::interop::Drops;
use gatepost_core::properties::Name;
use gatepost_core::session::{Close, Cx, ReadInterest, Session};
use gatepost_core::time::{Now, Time};
use heartbeat::Heartbeat;
use known::KnownPublish;
use std::sync::Arc;
use std::time::Duration;

/// A connection's state machine.
pub(crate) struct AmqpSession {
    settings: Arc<Settings>,
    /// Counts properties that could not be expressed in AMQP; shared by all sessions.
    drops: Arc<Drops>,
    state: State,
    client: Client,
    channels: Channels,
    heartbeat: Heartbeat,
    /// The handshake must be finished by then.
    handshake_until: Time,
    /// Negotiated in `tune-ok`; before, the minimum that the protocol guarantees.
    frame_max: u32,
    channel_max: u16,
    /// Octets of unfinished bodies and uncommitted transactions, over all channels.
    unfinished_bytes: usize,
}

/// See the drawing at the top of this file.
#[derive(Debug)]
enum State {
    Header,
    Starting,
    LoggingIn,
    Tuning,
    Opening,
    Attaching,
    Running,
    /// The client sent `close`. `close-ok` follows when its channels are closed.
    Leaving {
        until: Time,
    },
    /// We sent `close` and wait for `close-ok`.
    Closing(Closing),
    /// The login failed and the client gets no answer for a while, so that guessing passwords is slow.
    Silent {
        until: Time,
    },
}

/// See [`State::Closing`].
#[derive(Debug)]
struct Closing {
    /// The socket is closed then, even without `close-ok`.
    until: Time,
    /// Where frames start is unknown: only a `close-ok` at the very end of the input is recognised.
    framing_lost: bool,
    why: Close,
}

/// What is known of the client.
#[derive(Debug)]
pub(super) struct Client {
    user: Name,
    /// Its messages may name another user.
    impersonates: bool,
    vhost: Name,
    /// `connection_name` of its client properties.
    name: Option<Name>,
    /// Its other client properties, until they are passed to the engine.
    properties: ClientProperties,
    /// The SASL mechanism it chose.
    mechanism: &'static str,
    /// The transport has verified a client certificate.
    has_certificate: bool,
    /// It wants `basic.cancel` when a queue it consumes from is deleted.
    cancel_notify: bool,
    /// It wants `connection.blocked`.
    blocked_notify: bool,
    /// It wants `connection.close` after a failed login.
    login_failure_close: bool,
    /// It has published on this connection.
    publishes: bool,
    /// What it probably publishes next.
    known: Option<Box<KnownPublish>>,
    /// Why publishers have to wait, while they do.
    pressure: Option<Pressure>,
    /// `connection.blocked` was sent, and `connection.unblocked` not yet.
    told_blocked: bool,
    /// The connection is registered at a vhost's engine.
    attached: bool,
}

impl Client {
    /// Sends `connection.blocked`, once, to a client that publishes and asked for it.
    fn tell_blocked(&mut self, out: &mut Vec<u8>) {
        if let Some(reason) = self.pressure.and_then(map::blocked)
            && self.blocked_notify
            && self.publishes
            && !self.told_blocked
        {
            self.told_blocked = true;
            Connection::Blocked { reason }.encode(0, out);
        }
    }

    fn set_pressure(&mut self, pressure: Option<Pressure>, out: &mut Vec<u8>) {
        self.pressure = pressure;
        self.tell_blocked(out);
        if pressure.and_then(map::blocked).is_none() && self.told_blocked {
            self.told_blocked = false;
            Connection::Unblocked {}.encode(0, out);
        }
    }
}

impl AmqpSession {
    pub(crate) fn new(settings: Arc<Settings>, drops: Arc<Drops>, now: Now, has_certificate: bool) -> AmqpSession {
        AmqpSession {
            handshake_until: now.monotonic + settings.handshake_timeout,
            channel_max: settings.channel_max.max(1),
            frame_max: FRAME_MIN,
            settings,
            drops,
            state: State::Header,
            client: Client {
                user: "".into(),
                impersonates: false,
                vhost: "".into(),
                name: None,
                properties: ClientProperties::default(),
                mechanism: "",
                has_certificate,
                cancel_notify: false,
                blocked_notify: false,
                login_failure_close: false,
                publishes: false,
                known: None,
                pressure: None,
                told_blocked: false,
                attached: false,
            },
            channels: Channels::default(),
            heartbeat: Heartbeat::new(now.monotonic),
            unfinished_bytes: 0,
        }
    }

    fn consume(&mut self, cx: &mut Cx<'_>, input: &[u8]) -> Result<usize, Close> {
        let mut at = 0;
        while let Some(rest) = input.get(at..).filter(|rest| !rest.is_empty() && !cx.is_full()) {
            cx.work += 1;
            match &self.state {
                State::LoggingIn | State::Attaching => break,
                State::Silent { .. } | State::Leaving { .. } => return Ok(input.len()),
                State::Closing(closing) if closing.framing_lost => {
                    let mut close_ok = Vec::new();
                    Connection::CloseOk {}.encode(0, &mut close_ok);
                    return if input.ends_with(&close_ok) {
                        Err(closing.why.clone())
                    } else {
                        Ok(input.len())
                    };
                }
                State::Header => {
                    let Some(header) = rest.get(..PROTOCOL_HEADER) else {
                        break;
                    };
                    at += PROTOCOL_HEADER;
                    if header != AMQP_0_9_1 && header != AMQP_0_9 {
                        // AMQP 0-9-1 4.2.2: answer with the header that we support, then close.
                        cx.out.extend_from_slice(&AMQP_0_9_1);
                        return Err(Close::abnormal("not an AMQP 0-9-1 client"));
                    }
                    self.start(cx);
                }
                _ => {
                    let next = codec::split(rest, self.frame_max);
                    if self.channels.are_opening() && !matches!(next, Ok(Some((frame, _))) if self.opens_another(frame))
                    {
                        break;
                    }
                    match next {
                        Ok(None) => break,
                        Ok(Some((frame, used))) => {
                            at += used;
                            let rest = input.get(at..).unwrap_or_default();
                            match self.handle_frame(cx, frame, rest) {
                                Ok(more) => at += more,
                                Err(error) => self.fail(cx, frame.channel, error)?,
                            }
                        }
                        Err(reply) => {
                            self.fail(cx, 0, Error::FramingLost(reply))?;
                        }
                    }
                }
            }
        }
        Ok(at)
    }

    /// Handles one frame. `rest` is the input after it; returns how many octets of `rest` were used too.
    fn handle_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>, rest: &[u8]) -> Result<usize, Error> {
        if let State::Closing(closing) = &self.state {
            // AMQP 0-9-1 1.4.2.9: after close, only close and close-ok mean anything.
            return match (frame.kind, frame.channel, frame.payload) {
                (METHOD, 0, [0, 10, 0, 50, ..]) => {
                    Connection::CloseOk {}.encode(0, cx.out);
                    Ok(0)
                }
                (METHOD, 0, [0, 10, 0, 51, ..]) => Err(Error::Closed(closing.why.clone())),
                _ => Ok(0),
            };
        }
        match (frame.kind, frame.channel) {
            (HEARTBEAT, 0) if frame.payload.is_empty() => Ok(0),
            (HEARTBEAT, _) if frame.payload.is_empty() => Err(unexpected(frame)),
            (METHOD, 0) => {
                let method = decode(frame.payload)?;
                self.connection_method(cx, method).map(|()| 0)
            }
            (METHOD | HEADER | BODY, channel) if channel != 0 && matches!(self.state, State::Running) => {
                self.channel_frame(cx, frame, rest)
            }
            (METHOD | HEADER | BODY, _) => Err(unexpected(frame)),
            (kind, _) => {
                let detail = format!("type {kind}, {}: unknown_frame", Snippet(frame.payload));
                Err(Reply::frame(Code::FrameError, detail).into())
            }
        }
    }

    /// A method on channel 0.
    fn connection_method(&mut self, cx: &mut Cx<'_>, method: Method<'_>) -> Result<(), Error> {
        let ids = method.ids();
        let Method::Connection(method) = method else {
            return Err(self.unexpected_method(ids));
        };
        match (&self.state, method) {
            (
                State::Starting,
                Connection::StartOk {
                    client_properties,
                    mechanism,
                    response,
                    ..
                },
            ) => self.start_ok(cx, &client_properties, mechanism, response),
            (
                State::Tuning,
                Connection::TuneOk {
                    channel_max,
                    frame_max,
                    heartbeat,
                },
            ) => self.tune_ok(cx.now.monotonic, channel_max, frame_max, heartbeat),
            (State::Opening, Connection::Open { vhost, .. }) => {
                self.open(cx, vhost);
                Ok(())
            }
            (State::Running, Connection::Close { .. }) => {
                self.channels.close_all(cx, &mut self.unfinished_bytes);
                self.state = State::Leaving {
                    until: cx.now.monotonic + CLOSE_TIMEOUT,
                };
                self.leave(cx)
            }
            // RabbitMQ treats a close before open as an error. Here it just ends the connection.
            (_, Connection::Close { .. }) => Err(self.finish_close(cx)),
            // Nothing more is read until the directory has answered: see `login_event`.
            (State::Running, Connection::UpdateSecret { secret, .. }) => {
                cx.commands.push(Command::Authenticate(Box::new(Login::Renewal {
                    user: self.client.user.clone(),
                    secret: secret.into(),
                })));
                Ok(())
            }
            _ => Err(self.unexpected_method(ids)),
        }
    }

    fn unexpected_method(&self, ids: (u16, u16)) -> Error {
        let state = match self.state {
            State::Header | State::Starting | State::LoggingIn => "starting",
            State::Tuning => "tuning",
            State::Opening | State::Attaching => "opening",
            State::Running => "running",
            State::Leaving { .. } | State::Closing(_) | State::Silent { .. } => "closing",
        };
        Error::new(
            Code::ChannelError,
            format!("unexpected method in connection state {state}"),
            ids,
        )
    }

    /// Closes the channel or the connection after an error that a frame or event of `channel` caused.
    fn fail(&mut self, cx: &mut Cx<'_>, channel: u16, error: Error) -> Result<(), Close> {
        match error {
            // A channel error needs a channel. On channel 0 it closes the connection.
            Error::Channel(reply) if channel != 0 => {
                cx.complain(|| format!("channel {channel} closed: {} {reply}", reply.code as u16));
                self.channels.fail(cx, channel, &reply, &mut self.unfinished_bytes);
            }
            Error::Channel(reply) | Error::Connection(reply) => self.close(cx, &reply, false),
            Error::FramingLost(reply) => self.close(cx, &reply, true),
            Error::Closed(close) => return Err(close),
        }
        Ok(())
    }

    /// Sends `connection.close`: releases everything the connection has, then waits for `close-ok`.
    fn close(&mut self, cx: &mut Cx<'_>, reply: &Reply, framing_lost: bool) {
        let normal = reply.code == Code::ConnectionForced;
        if !normal {
            // The client may disconnect without an answer; then only this line says why.
            cx.complain(|| format!("connection closed: {} {reply}", reply.code as u16));
        }
        self.release(cx);
        let text = reply.to_string();
        let (class, method) = reply.method;
        Connection::Close {
            code: reply.code as u16,
            text: &text,
            class,
            method,
        }
        .encode(0, cx.out);
        let patience = match self.heartbeat.interval() {
            _ if framing_lost => self.settings.refusal_delay,
            Some(interval) => interval.min(CLOSE_TIMEOUT),
            None => CLOSE_TIMEOUT,
        };
        let why = if normal {
            Close::normal(text)
        } else {
            Close::abnormal(format!("{} {text}", reply.code as u16))
        };
        self.state = State::Closing(Closing {
            until: cx.now.monotonic + patience,
            framing_lost,
            why,
        });
    }

    /// Releases everything the connection has in the engine. This happens in the same batch, so before the client reads
    /// `close-ok`: clients rely on their exclusive queues being gone by then.
    fn release(&mut self, cx: &mut Cx<'_>) {
        self.channels = Channels::default();
        self.unfinished_bytes = 0;
        if self.client.attached {
            self.client.attached = false;
            cx.commands.push(Command::Detach);
        }
    }

    /// Answers the client's `close` once all channels are closed.
    fn leave(&mut self, cx: &mut Cx<'_>) -> Result<(), Error> {
        if self.channels.are_closing() {
            Ok(())
        } else {
            Err(self.finish_close(cx))
        }
    }

    fn finish_close(&mut self, cx: &mut Cx<'_>) -> Error {
        self.release(cx);
        Connection::CloseOk {}.encode(0, cx.out);
        // AMQP 0-9-1 2.2.4: who asked for the close closes the socket when it has the answer. Some clients report an error if
        // they read the end of the stream before that.
        Error::Closed(Close::by_peer("closed by the client"))
    }

    fn handle_event(&mut self, cx: &mut Cx<'_>, event: Event) -> Result<(), Close> {
        let failed = match (&self.state, event) {
            (State::Running, Event::Flow(pressure)) => {
                self.client.set_pressure(pressure, cx.out);
                Ok(())
            }
            (State::Closing(_) | State::Silent { .. }, _) => Ok(()),
            (State::Header, Event::Closed(_) | Event::ClosedBecause(_)) => return Err(Close::normal("shutdown")),
            (State::Leaving { .. }, Event::Closed(_) | Event::ClosedBecause(_)) => Err((0, self.finish_close(cx))),
            (State::Leaving { .. }, event) => {
                let may_be_last = matches!(
                    event,
                    Event::Done {
                        op: Op::CloseChannel,
                        ..
                    }
                );
                // The client has closed the connection, so errors are not reported to it any more.
                let _ = self.channel_event(cx, event);
                if may_be_last {
                    self.leave(cx).map_err(|error| (0, error))
                } else {
                    Ok(())
                }
            }
            (_, Event::Closed(reason)) => Err((0, map::forced(reason, &self.client.user, &self.client.vhost).into())),
            (_, Event::ClosedBecause(why)) => Err((0, Reply::frame(Code::ConnectionForced, why.to_string()).into())),
            (State::Running, event @ (Event::Authenticated { .. } | Event::LoginRefused(_))) => {
                self.secret_event(cx, event).map_err(|error| (0, error))
            }
            (State::Running, event) => self.channel_event(cx, event),
            (_, event) => self.login_event(cx, event).map_err(|error| (0, error)),
        };
        match failed {
            Ok(()) => Ok(()),
            Err((channel, error)) => self.fail(cx, channel, error),
        }
    }

    /// Borrows the channels, and apart from them what a channel needs of its connection.
    fn split<'e, 'c>(&'e mut self, cx: &'e mut Cx<'c>, number: u16) -> (&'e mut Channels, Env<'e, 'c>) {
        let env = Env {
            cx,
            number,
            settings: &self.settings,
            drops: &self.drops,
            client: &mut self.client,
            frame_max: self.frame_max,
            unfinished_bytes: &mut self.unfinished_bytes,
        };
        (&mut self.channels, env)
    }
}

/// How long we wait for `close-ok`.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

fn decode(payload: &[u8]) -> Result<Method<'_>, Reply> {
    Method::decode(payload).map_err(|(flaw, ids)| match flaw {
        Flaw::UnknownMethod => Reply::new(Code::CommandInvalid, "unimplemented method", ids),
        Flaw::Utf8 => Reply::new(Code::FrameError, "Malformed UTF-8 in shortstr", ids),
        Flaw::Syntax => {
            let fields = payload.get(4..).unwrap_or_default();
            Reply::new(Code::FrameError, format!("cannot decode {}", ErlangOctets(fields)), ids)
        }
    })
}

fn unexpected(frame: Frame<'_>) -> Error {
    let detail = format!("type {}, {}", frame.kind, Snippet(frame.payload));
    Reply::frame(Code::UnexpectedFrame, detail).into()
}

impl Session for AmqpSession {
    fn handle_bytes(&mut self, cx: &mut Cx<'_>, input: &[u8]) -> Result<usize, Close> {
        if !input.is_empty() {
            self.heartbeat.received(cx.now.monotonic);
        }
        let before = cx.out.len();
        let result = self.consume(cx, input);
        if cx.out.len() != before {
            self.heartbeat.sent(cx.now.monotonic);
        }
        self.heartbeat
            .set_waiting(cx.now.monotonic, self.channels.are_opening());
        result
    }

    fn handle_events(&mut self, cx: &mut Cx<'_>, events: &mut Vec<Event>) -> Result<(), Close> {
        let before = cx.out.len();
        let result = events.drain(..).try_for_each(|event| self.handle_event(cx, event));
        if cx.out.len() != before {
            self.heartbeat.sent(cx.now.monotonic);
        }
        self.heartbeat
            .set_waiting(cx.now.monotonic, self.channels.are_opening());
        result
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_>) -> Result<(), Close> {
        let now = cx.now.monotonic;
        match &self.state {
            State::Running => {}
            State::Closing(closing) if now >= closing.until => return Err(closing.why.clone()),
            State::Silent { until } if now >= *until => return Err(Close::abnormal("login refused")),
            State::Leaving { until } if now >= *until => return Err(Close::abnormal("closing took too long")),
            State::Leaving { .. } | State::Closing(_) | State::Silent { .. } => return Ok(()),
            _ if now >= self.handshake_until => return Err(Close::abnormal("handshake timed out")),
            _ => {}
        }
        if self.heartbeat.is_dead(now) {
            // 4.2.7: the socket is closed without the close handshake, since nobody would answer.
            return Err(Close::abnormal("missed heartbeats from client"));
        }
        if self.heartbeat.is_due(now) {
            frame::put_heartbeat(cx.out);
            self.heartbeat.sent(now);
        }
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Time> {
        match &self.state {
            State::Running => self.heartbeat.next(),
            State::Closing(closing) => Some(closing.until),
            State::Silent { until } | State::Leaving { until } => Some(*until),
            _ => Some(
                self.heartbeat
                    .next()
                    .map_or(self.handshake_until, |at| at.min(self.handshake_until)),
            ),
        }
    }

    fn buffered(&self) -> usize {
        self.unfinished_bytes
    }

    fn kept(&self) -> usize {
        self.client.known.as_ref().map_or(0, |known| known.memory())
    }

    fn read_interest(&self) -> ReadInterest {
        match self.state {
            State::LoggingIn | State::Attaching => ReadInterest::Nothing,
            State::Running if self.channels.are_opening() => ReadInterest::Nothing,
            _ => ReadInterest::All,
        }
    }

    fn set_paused(&mut self, now: Now, paused: bool) {
        self.heartbeat.set_paused(now.monotonic, paused);
    }
}
