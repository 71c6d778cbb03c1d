//! The state machine of one connection.

use crate::operation::{Connect, Operation, parse};
use crate::properties::{NatsProperties, ORIGIN};
use crate::settings::Settings;
use crate::subject;
use gatepost_core::command::{
    Attach, Bind, BindTarget, Channel, Command, Consume, ConsumerToken, DeclareQueue, Login, Peer, PublishFlags, Said,
};
use gatepost_core::event::{Delivery, Event};
use gatepost_core::keys::Values;
use gatepost_core::message::{Dialect, Envelope, Message};
use gatepost_core::properties::{Codecs, Name, Origin, PropertyCodec, ReplyTo, Table};
use gatepost_core::session::{Close, Cx, Protocol, ReadInterest, Session};
use gatepost_core::time::{Now, Time};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The protocol: makes a session for each connection.
pub struct Nats {
    /// Settings of new sessions; a reload replaces them.
    settings: RwLock<Arc<Settings>>,
}

impl Nats {
    /// NATS with these settings.
    pub fn new(settings: Settings) -> Nats {
        Nats {
            settings: RwLock::new(Arc::new(settings)),
        }
    }
}

impl Protocol for Nats {
    fn name(&self) -> &'static str {
        crate::NAME
    }

    fn codec(&self) -> Arc<dyn PropertyCodec> {
        Arc::new(NatsProperties)
    }

    fn open(&self, now: Now, _: Peer) -> Box<dyn Session> {
        let settings = Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner));
        Box::new(NatsSession::new(settings, now))
    }

    fn configure(&self, values: &Values) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Settings::read(values));
    }
}

/// ```text
///   AwaitingConnect ──CONNECT──► LoggingIn ──Authenticated, Attached──► Ready
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    AwaitingConnect,
    /// Operations pipelined after CONNECT wait.
    LoggingIn,
    Ready,
}

/// A NATS connection.
struct NatsSession {
    settings: Arc<Settings>,
    state: State,
    /// When it was accepted.
    opened: Time,
    /// INFO was sent. The server speaks first, so it is sent on the first turn.
    greeted: bool,
    /// Each operation is answered with `+OK`.
    verbose: bool,
    client_name: Option<Name>,
    /// By the client's names (`sid`).
    subscriptions: BTreeMap<Box<str>, Subscription>,
    /// The client's names by the engine's consumer numbers. A number is never used again in this connection.
    sids: BTreeMap<ConsumerToken, Box<str>>,
    last_token: ConsumerToken,
    /// When input last came, or when the last PING was sent.
    quiet_since: Time,
    /// PINGs sent since input last came.
    unanswered: u32,
    /// The driver does not read, so silence of the client proves nothing.
    paused: bool,
}

#[derive(Debug)]
struct Subscription {
    channel: Channel,
    token: ConsumerToken,
    delivered: u64,
    /// The subscription ends after this many messages; 0: never.
    max: u64,
}

/// How many PINGs a client may leave unanswered.
const UNANSWERED_MAX: u32 = 2;
/// Maximum bytes of a queue group and its subject together, since they name a queue.
const GROUP_MAX: usize = 200;
/// The channel of all publishes. Subscriptions have channels from 1.
const PUBLISHING: Channel = 0;

impl NatsSession {
    fn new(settings: Arc<Settings>, now: Now) -> NatsSession {
        NatsSession {
            settings,
            state: State::AwaitingConnect,
            opened: now.monotonic,
            greeted: false,
            verbose: true,
            client_name: None,
            subscriptions: BTreeMap::new(),
            sids: BTreeMap::new(),
            last_token: 0,
            quiet_since: now.monotonic,
            unanswered: 0,
            paused: false,
        }
    }

    fn greet(&mut self, cx: &mut Cx<'_>) {
        if !std::mem::replace(&mut self.greeted, true) {
            let info = serde_json::json!({
                "server_id": format!("{:016X}", (cx.random)()),
                "server_name": &*self.settings.server_name,
                "version": env!("CARGO_PKG_VERSION"),
                "proto": 1,
                "headers": false,
                "max_payload": self.settings.max_payload,
            });
            cx.out.extend_from_slice(format!("INFO {info}\r\n").as_bytes());
        }
    }

    fn handle(&mut self, cx: &mut Cx<'_>, operation: &Operation<'_>) -> Result<(), Close> {
        match operation {
            Operation::Ping if self.state == State::AwaitingConnect => cx.out.extend_from_slice(b"PONG\r\n"),
            // PONG is sent when the engine has applied everything sent before: clients use PING for that.
            Operation::Ping => cx.commands.push(Command::Echo {
                channel: PUBLISHING,
                token: 0,
            }),
            Operation::Pong => {}
            Operation::Connect(connect) if self.state == State::AwaitingConnect => self.connect(cx, connect)?,
            // Clients may send CONNECT again to change their options.
            Operation::Connect(connect) => {
                self.verbose = connect.verbose;
                self.ok(cx);
            }
            _ if self.state == State::AwaitingConnect => return refuse(cx, "Authorization Violation"),
            Operation::Publish { subject, reply, body } => self.publish(cx, subject, *reply, body),
            Operation::Subscribe { subject, group, sid } => self.subscribe(cx, subject, *group, sid)?,
            Operation::Unsubscribe { sid, max } => {
                let delivered = self.subscriptions.get_mut(*sid).map(|subscription| {
                    subscription.max = *max;
                    subscription.delivered
                });
                if delivered.is_some_and(|delivered| delivered >= *max) {
                    self.unsubscribe(cx, sid);
                }
                self.ok(cx);
            }
        }
        Ok(())
    }

    fn connect(&mut self, cx: &mut Cx<'_>, connect: &Connect) -> Result<(), Close> {
        if !connect.echo {
            return refuse(cx, "echo: false is not supported");
        }
        self.verbose = connect.verbose;
        self.client_name = connect.name.as_deref().map(Name::from);
        let login = match &connect.user {
            Some(user) => Login::Password {
                user: user.as_str().into(),
                password: connect.pass.as_deref().unwrap_or_default().as_bytes().into(),
                said: Said::default(),
            },
            None => Login::Anonymous,
        };
        cx.commands.push(Command::Authenticate(Box::new(login)));
        self.state = State::LoggingIn;
        Ok(())
    }

    fn publish(&mut self, cx: &mut Cx<'_>, subject: &str, reply: Option<&str>, body: &[u8]) {
        let reply = reply.map(subject::key);
        let (Some(key), false) = (subject::key(subject), reply == Some(None)) else {
            error(cx.out, "Invalid Publish Subject");
            return;
        };
        let raw = reply.flatten().unwrap_or_default();
        let envelope = Envelope {
            origin: if raw.is_empty() { Origin::NONE } else { ORIGIN },
            dialect: Dialect::Dot,
            received: cx.now.wall,
            ..Envelope::default()
        };
        cx.commands.push(Command::Publish {
            channel: PUBLISHING,
            // At most once: nothing is confirmed, and a missing exchange is not an error.
            flags: PublishFlags::LENIENT,
            packet_id: 0,
            message: Message::new(envelope, &self.settings.exchange, &key, raw.as_bytes(), body),
        });
        self.ok(cx);
    }

    fn subscribe(&mut self, cx: &mut Cx<'_>, subject: &str, group: Option<&str>, sid: &str) -> Result<(), Close> {
        let group_is_long = group.is_some_and(|group| group.len() + subject.len() > GROUP_MAX);
        let (Some(key), false) = (subject::binding(subject), group_is_long) else {
            error(cx.out, "Invalid Subject");
            return Ok(());
        };
        if self.subscriptions.contains_key(sid) {
            self.ok(cx);
            return Ok(());
        }
        if self.subscriptions.len() >= self.settings.subscriptions_max {
            return refuse(cx, "maximum subscriptions exceeded");
        }
        let taken: Vec<Channel> = self.subscriptions.values().map(|s| s.channel).collect();
        let Some(channel) = (1..=Channel::MAX).find(|channel| !taken.contains(channel)) else {
            return refuse(cx, "maximum subscriptions exceeded");
        };
        self.last_token += 1;
        let token = self.last_token;
        let queue: Name = match group {
            Some(group) => format!("nats-group.{group}.{subject}").into(),
            None => format!("nats-{:016x}{:016x}", (cx.random)(), (cx.random)()).into(),
        };
        cx.commands.push(Command::DeclareQueue(Box::new(DeclareQueue {
            channel,
            name: queue.clone(),
            passive: false,
            durable: false,
            exclusive: group.is_none(),
            auto_delete: true,
            lenient: true,
            arguments: Table::default(),
            reply: false,
        })));
        cx.commands.push(Command::Bind(Box::new(Bind {
            channel,
            source: self.settings.exchange.clone(),
            target: BindTarget::Queue(queue.clone()),
            key: key.into(),
            arguments: Table::default(),
            reply: false,
        })));
        cx.commands.push(Command::Consume(Box::new(Consume {
            channel,
            consumer: token,
            queue,
            tag: sid.into(),
            no_ack: true,
            exclusive: false,
            priority: 0,
            prefetch: None,
            arguments: Table::default(),
            reply: false,
        })));
        self.sids.insert(token, sid.into());
        let subscription = Subscription {
            channel,
            token,
            delivered: 0,
            max: 0,
        };
        self.subscriptions.insert(sid.into(), subscription);
        self.ok(cx);
        Ok(())
    }

    /// Ends a subscription. The queue is deleted with its last consumer. Deliveries already on their way carry a number
    /// that is no longer known, and are dropped.
    fn unsubscribe(&mut self, cx: &mut Cx<'_>, sid: &str) {
        if let Some(subscription) = self.subscriptions.remove(sid) {
            self.sids.remove(&subscription.token);
            cx.commands.push(Command::CloseChannel {
                channel: subscription.channel,
                reply: false,
            });
        }
    }

    fn deliver(&mut self, cx: &mut Cx<'_>, delivery: &Delivery) {
        let Some(sid) = self.sids.get(&delivery.consumer).cloned() else {
            return;
        };
        let Some(subject) = subject::subject_of(&delivery.message) else {
            return;
        };
        let body = delivery.message.body();
        let reply = reply_of(&delivery.message, cx.codecs).map_or(String::new(), |reply| format!("{reply} "));
        let head = format!("MSG {subject} {sid} {reply}{}\r\n", body.len());
        cx.out.extend_from_slice(head.as_bytes());
        cx.out.extend_from_slice(body);
        cx.out.extend_from_slice(b"\r\n");
        if let Some(subscription) = self.subscriptions.get_mut(&sid) {
            subscription.delivered += 1;
            if subscription.delivered == subscription.max {
                self.unsubscribe(cx, &sid);
            }
        }
    }

    fn answer(&mut self, cx: &mut Cx<'_>, event: Event) -> Result<(), Close> {
        match event {
            Event::Deliver(delivery) => self.deliver(cx, &delivery),
            Event::Echo { .. } => cx.out.extend_from_slice(b"PONG\r\n"),
            Event::Authenticated { .. } => cx.commands.push(Command::Attach(Box::new(Attach {
                vhost: self.settings.vhost.clone(),
                protocol: "NATS",
                client_name: self.client_name.clone(),
                ..Attach::default()
            }))),
            Event::Attached => {
                self.state = State::Ready;
                self.quiet_since = cx.now.monotonic;
                self.ok(cx);
            }
            Event::LoginRefused(_) | Event::AttachRefused(_) => return refuse(cx, "Authorization Violation"),
            Event::Failed { channel, fault, .. } => self.failed(cx, channel, &fault.text),
            Event::ConsumerGone { consumer, .. } => {
                if let Some(sid) = self.sids.get(&consumer).cloned() {
                    self.unsubscribe(cx, &sid);
                }
            }
            Event::Closed(_) | Event::ClosedBecause(_) => {
                error(cx.out, "Server Shutdown");
                return Err(Close::normal("the engine closes the connection"));
            }
            // Answers to nothing that this session asks.
            _ => {}
        }
        Ok(())
    }

    /// A subscription could not be made. Its later commands fail too; only the first failure is reported.
    fn failed(&mut self, cx: &mut Cx<'_>, channel: Channel, why: &str) {
        let found = self.subscriptions.iter().find(|(_, s)| s.channel == channel);
        if let Some(sid) = found.map(|(sid, _)| sid.clone()) {
            error(cx.out, why);
            self.unsubscribe(cx, &sid);
        }
    }

    fn ok(&self, cx: &mut Cx<'_>) {
        if self.verbose {
            cx.out.extend_from_slice(b"+OK\r\n");
        }
    }

    /// When the next PING is due.
    fn ping_due(&self) -> Option<Time> {
        let interval = self.settings.ping_interval;
        (self.state == State::Ready && !self.paused && !interval.is_zero()).then(|| self.quiet_since + interval)
    }

    fn login_due(&self) -> Option<Time> {
        (self.state != State::Ready).then(|| self.opened + self.settings.login_timeout)
    }
}

impl Session for NatsSession {
    fn handle_bytes(&mut self, cx: &mut Cx<'_>, input: &[u8]) -> Result<usize, Close> {
        self.greet(cx);
        (self.quiet_since, self.unanswered) = (cx.now.monotonic, 0);
        let mut at = 0;
        while self.read_interest() == ReadInterest::All && !cx.is_full() {
            cx.work += 1;
            // Before the login no payload is accepted.
            let payload_max = if self.state == State::Ready {
                self.settings.max_payload
            } else {
                0
            };
            match parse(input.get(at..).unwrap_or_default(), payload_max) {
                Ok(None) => break,
                Ok(Some((operation, used))) => {
                    self.handle(cx, &operation)?;
                    at += used;
                }
                Err(wrong) => refuse(cx, wrong.text())?,
            }
        }
        Ok(at)
    }

    fn handle_events(&mut self, cx: &mut Cx<'_>, events: &mut Vec<Event>) -> Result<(), Close> {
        events.drain(..).try_for_each(|event| self.answer(cx, event))
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_>) -> Result<(), Close> {
        self.greet(cx);
        let now = cx.now.monotonic;
        if self.login_due().is_some_and(|due| now >= due) {
            return refuse(cx, "Authentication Timeout");
        }
        if self.ping_due().is_some_and(|due| now >= due) {
            if self.unanswered == UNANSWERED_MAX {
                return refuse(cx, "Stale Connection");
            }
            cx.out.extend_from_slice(b"PING\r\n");
            self.unanswered += 1;
            self.quiet_since = now;
        }
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Time> {
        let greeting = (!self.greeted).then_some(self.opened);
        greeting.or_else(|| self.login_due()).or_else(|| self.ping_due())
    }

    fn read_interest(&self) -> ReadInterest {
        match self.state {
            State::LoggingIn => ReadInterest::Nothing,
            State::AwaitingConnect | State::Ready => ReadInterest::All,
        }
    }

    fn set_paused(&mut self, now: Now, paused: bool) {
        self.paused = paused;
        self.quiet_since = now.monotonic;
    }
}

/// The subject that replies go to. `None` if there is none, or none that NATS can express.
fn reply_of(message: &Message, codecs: &Codecs) -> Option<String> {
    if message.properties_raw().is_empty() {
        return None;
    }
    match message.properties(codecs).reply_to? {
        ReplyTo::Topic(key) => subject::subject(&key),
        ReplyTo::Queue(_) | ReplyTo::Exchange(..) => None,
    }
}

fn error(out: &mut Vec<u8>, text: &str) {
    let text = text.replace(['\'', '\r', '\n'], " ");
    out.extend_from_slice(format!("-ERR '{text}'\r\n").as_bytes());
}

/// Sends an error and closes the connection.
fn refuse(cx: &mut Cx<'_>, text: &str) -> Result<(), Close> {
    error(cx.out, text);
    Err(Close::abnormal(text))
}

#[cfg(test)]
mod tests;
