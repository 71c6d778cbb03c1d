//! One connection's state machine. Bytes, events and time come in; commands and bytes go out.
//!
//! Split by what the client does: [`login`], [`publish`], [`subscribe`], [`settle`], [`transactions`]; [`answers`]
//! handles the engine's events.

mod answers;
mod heart_beat;
mod login;
mod publish;
mod settle;
mod subscribe;
mod subscriptions;
#[cfg(test)]
mod tests;
mod transactions;

use crate::codec::{Decoder, Step};
use crate::error::Refusal;
use crate::frame::error::push_error;
use crate::frame::{Frame, Verb, Version};
use crate::settings::Settings;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gatepost_core::command::{Channel, Command};
use gatepost_core::event::Event;
use gatepost_core::interop::Drops;
use gatepost_core::properties::Name;
use gatepost_core::session::{Close, Cx, ReadInterest, Session};
use gatepost_core::time::{Now, Time};
use std::collections::BTreeMap;
use std::sync::Arc;

/// ```text
///   AwaitingConnect ──CONNECT──► Authenticating ──Authenticated──► Attaching ──Attached──► Ready ◄───────────────┐
///                                                                   │    ▲                 │ │ │                 │
///                                                                   └────┘                 │ │ └─SEND──► NamingTempQueue
///                                                         AttachRefused: default vhost     │ │       (QueueDeclared)
///                                                                                          │ │
///   Closed ◄──all is answered── Draining ◄──DISCONNECT with receipt────────────────────────┘ │
///      ▲                                                                                     │
///      └──DISCONNECT, ERROR, silence (from anywhere)─────────────────────────────────────────┘
/// ```
#[derive(Debug)]
enum State {
    AwaitingConnect,
    /// The directory checks the credentials; frames pipelined after CONNECT wait.
    Authenticating(Box<login::Connecting>),
    /// The directory checks the vhost.
    Attaching(Box<login::Connecting>),
    Ready,
    /// A SEND waits until the engine has named its reply queue. It stays in the input and is parsed again.
    NamingTempQueue,
    /// DISCONNECT came. Its receipt follows all others; further frames are ignored.
    Draining {
        receipt: Box<str>,
    },
    Closed,
}

/// The result of handling a frame.
#[derive(Debug, PartialEq, Eq)]
enum Handled {
    Done,
    /// The frame is parsed again when [`Session::read_interest`] allows reading again.
    Later,
    /// DISCONNECT without a receipt: the connection is closed without an answer.
    Disconnected,
}

/// The purpose of an echo.
#[derive(Debug)]
enum Awaited {
    /// From here on, a fault on this channel belongs to the settlement with this receipt,
    SettleBegins { receipt: Box<str> },
    /// up to here. Then the receipt is due.
    SettleEnds { receipt: Box<str> },
    /// Everything the client sent before its DISCONNECT has been applied.
    Drained,
}

/// Maximum bytes of receipts that wait for the engine. At this size the connection is not read until some are answered.
const OWED_BYTES_MAX: usize = 1 << 20;

/// A STOMP connection.
pub(crate) struct StompSession {
    settings: Arc<Settings>,
    drops: Arc<Drops>,
    state: State,
    decoder: Decoder,
    /// The version of frames that we write. 1.0, the simplest, until CONNECT names one.
    version: Version,
    /// CONNECTED must be sent by then.
    login_deadline: Option<Time>,
    heart_beat: heart_beat::HeartBeat,
    /// The driver does not read.
    paused: bool,
    /// Unconsumed octets that the decoder was offered last time. More than that means that the client has sent
    /// something.
    offered: usize,
    /// Makes this session's ack ids differ from all others'. Empty until the first octet came.
    nonce: Box<str>,
    user: Name,
    /// Its messages may name another user.
    impersonates: bool,
    client_id: Option<Box<str>>,
    publisher: publish::Publisher,
    subscriptions: subscriptions::Subscriptions,
    transactions: transactions::Transactions,
    /// Echoes on their way, by token.
    echoes: BTreeMap<u64, Awaited>,
    echo_token: u64,
    /// Settlements with receipts that the engine is applying, by channel.
    settling: BTreeMap<Channel, Box<str>>,
}

impl StompSession {
    /// A connection accepted at `now`.
    pub(crate) fn new(settings: Arc<Settings>, drops: Arc<Drops>, now: Now) -> StompSession {
        StompSession {
            login_deadline: Some(now.monotonic + settings.login_timeout),
            settings,
            drops,
            state: State::AwaitingConnect,
            decoder: Decoder::default(),
            version: Version::V1_0,
            heart_beat: heart_beat::HeartBeat::default(),
            paused: false,
            offered: 0,
            nonce: Box::default(),
            user: "".into(),
            impersonates: false,
            client_id: None,
            publisher: publish::Publisher::default(),
            subscriptions: subscriptions::Subscriptions::default(),
            transactions: transactions::Transactions::default(),
            echoes: BTreeMap::new(),
            echo_token: 0,
            settling: BTreeMap::new(),
        }
    }

    fn read(&mut self, cx: &mut Cx<'_>, input: &[u8]) -> Result<usize, Close> {
        // A TLS ClientHello begins with content type 22, which no frame does. The client would not understand an ERROR.
        if matches!(self.state, State::AwaitingConnect)
            && self.decoder.is_between_frames()
            && input.first() == Some(&22)
        {
            self.close();
            return Err(Close::abnormal("TLS on a plain port"));
        }
        let mut at = 0;
        while self.read_interest() == ReadInterest::All && !cx.is_full() {
            cx.work += 1;
            // STOMP 1.2 DISCONNECT: frames sent after it are ignored.
            if matches!(self.state, State::Draining { .. } | State::Closed) {
                return Ok(input.len());
            }
            let rest = input.get(at..).unwrap_or(&[]);
            match self.decoder.next(rest, &self.settings) {
                Ok(Step::Partial { consumed }) => return Ok(at + consumed),
                Ok(Step::Frame { verb, body, consumed }) => {
                    // Taken out and put back below, so that the handlers can borrow the rest of the session.
                    let headers = std::mem::take(&mut self.decoder.headers);
                    let frame = Frame {
                        verb,
                        headers: &headers,
                        body: rest.get(body).unwrap_or(&[]),
                    };
                    let handled = self.handle_frame(cx, &frame);
                    if handled == Ok(Handled::Later) {
                        self.decoder.rewind();
                    } else {
                        at += consumed;
                    }
                    let outcome = match handled {
                        Ok(Handled::Done | Handled::Later) => Ok(()),
                        Ok(Handled::Disconnected) => {
                            self.close();
                            Err(Close::normal("DISCONNECT"))
                        }
                        // A receipt on CONNECT is not answered.
                        Err(refusal) if verb == Verb::Connect => self.refuse(cx, &refusal, None, None),
                        Err(refusal) => self.refuse(cx, &refusal, headers.lookup("receipt"), None),
                    };
                    self.decoder.headers = headers;
                    outcome?;
                }
                Err(refusal) => {
                    let headers = std::mem::take(&mut self.decoder.headers);
                    self.refuse(cx, &refusal, headers.lookup("receipt"), None)?;
                }
            }
        }
        Ok(at)
    }

    fn handle_frame(&mut self, cx: &mut Cx<'_>, frame: &Frame<'_>) -> Result<Handled, Refusal> {
        match frame.verb {
            Verb::Connect => self.connect(cx, frame),
            _ if matches!(self.state, State::AwaitingConnect) => Err(Refusal::illegal_command()),
            Verb::Send => self.send(cx, frame),
            Verb::Ack | Verb::Nack => self.ack(cx, frame),
            Verb::Subscribe => self.subscribe(cx, frame),
            Verb::Unsubscribe => self.unsubscribe(cx, frame),
            Verb::Begin | Verb::Commit | Verb::Abort => self.transaction(cx, frame),
            Verb::Disconnect => Ok(self.disconnect(cx, frame)),
            Verb::Unknown => Err(Refusal::bad_command(frame.headers.command())),
        }
    }

    fn disconnect(&mut self, cx: &mut Cx<'_>, frame: &Frame<'_>) -> Handled {
        let Some(receipt) = frame.headers.lookup("receipt") else {
            return Handled::Disconnected;
        };
        self.echo(cx, 0, Awaited::Drained);
        self.state = State::Draining {
            receipt: receipt.into(),
        };
        Handled::Done
    }

    /// Asks the engine for an echo once it has applied everything sent so far on `channel`.
    fn echo(&mut self, cx: &mut Cx<'_>, channel: Channel, awaited: Awaited) {
        self.echo_token += 1;
        self.echoes.insert(self.echo_token, awaited);
        cx.commands.push(Command::Echo {
            channel,
            token: self.echo_token,
        });
    }

    /// Sends an ERROR. STOMP 1.2 ERROR: the connection MUST be closed after it; `keep_open_on_error` may override that.
    fn refuse(
        &mut self,
        cx: &mut Cx<'_>,
        refusal: &Refusal,
        receipt: Option<&str>,
        subscription: Option<&str>,
    ) -> Result<(), Close> {
        push_error(cx.out, self.version, refusal, receipt, subscription);
        if !refusal.fatal && self.settings.keep_open_on_error {
            cx.complain(|| refusal.to_string());
            return Ok(());
        }
        self.close();
        Err(Close::abnormal(refusal.to_string()))
    }

    /// Whether so many receipts wait for the log that the client is not read.
    fn has_many_pending_receipts(&self) -> bool {
        self.publisher.confirms.bytes() + self.transactions.owed_bytes() > OWED_BYTES_MAX
    }

    fn close(&mut self) {
        self.state = State::Closed;
        // Freed now: the connection stays until the client has read the ERROR.
        self.transactions = transactions::Transactions::default();
        self.login_deadline = None;
        self.heart_beat.stop();
    }

    /// Runs at the end of every turn.
    fn settle_timers(&mut self, now: Time, wrote: bool) {
        if wrote {
            self.heart_beat.sent(now);
        }
        self.heart_beat
            .suspend(now, self.paused || self.read_interest() == ReadInterest::Nothing);
    }
}

impl Session for StompSession {
    fn handle_bytes(&mut self, cx: &mut Cx<'_>, input: &[u8]) -> Result<usize, Close> {
        let (now, written) = (cx.now.monotonic, cx.out.len());
        if self.nonce.is_empty() {
            self.nonce = URL_SAFE_NO_PAD.encode((cx.random)().to_be_bytes()).into();
        }
        if input.len() > self.offered {
            self.heart_beat.received(now);
        }
        let result = self.read(cx, input);
        self.offered = input.len() - result.as_ref().map_or(0, |consumed| *consumed);
        self.settle_timers(now, cx.out.len() > written);
        result
    }

    fn handle_events(&mut self, cx: &mut Cx<'_>, events: &mut Vec<Event>) -> Result<(), Close> {
        let (now, written) = (cx.now.monotonic, cx.out.len());
        self.put_failure_first(events);
        let result = events
            .drain(..)
            .try_for_each(|event| self.answer(cx, event))
            .and_then(|()| self.drained(cx));
        self.settle_timers(now, cx.out.len() > written);
        result
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_>) -> Result<(), Close> {
        let now = cx.now.monotonic;
        if self.login_deadline.is_some_and(|deadline| now >= deadline) {
            self.close();
            return Err(Close::abnormal("login timeout"));
        }
        if self.heart_beat.is_lost(now) {
            self.close();
            return Err(Close::abnormal("no heart-beat"));
        }
        if self.heart_beat.is_due(now) {
            // Unsent output shows the client as much as a line feed after it would.
            if cx.out.is_empty() {
                cx.out.push(b'\n');
            }
            self.heart_beat.sent(now);
        }
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Time> {
        [self.login_deadline, self.heart_beat.next()]
            .into_iter()
            .flatten()
            .min()
    }

    fn buffered(&self) -> usize {
        self.transactions.bytes()
    }

    fn kept(&self) -> usize {
        let owed = self.publisher.confirms.bytes() + self.transactions.owed_bytes();
        owed + self.publisher.declared.memory() + self.subscriptions.memory()
    }

    fn read_interest(&self) -> ReadInterest {
        match self.state {
            State::Authenticating(_) | State::Attaching(_) | State::NamingTempQueue => ReadInterest::Nothing,
            State::Ready if self.has_many_pending_receipts() => ReadInterest::Nothing,
            State::AwaitingConnect | State::Ready | State::Draining { .. } | State::Closed => ReadInterest::All,
        }
    }

    fn set_paused(&mut self, now: Now, paused: bool) {
        self.paused = paused;
        self.settle_timers(now.monotonic, false);
    }
}
