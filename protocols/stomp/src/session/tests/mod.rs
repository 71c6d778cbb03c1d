//! The session against scripts, on virtual time: the client's octets and the engine's events go in, commands and octets
//! come out.

mod login;
mod publish;
mod settle;
mod subscribe;
mod timers;
mod transactions;

use super::StompSession;
use crate::settings::Settings;
use gatepost_core::command::{BindTarget, Command, Login, PublishFlags};
use gatepost_core::event::{Delivery, DeliveryFlags, Event, Op, QueueSummary};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::message::{Envelope, Message};
use gatepost_core::properties::{Codecs, Table, Value};
use gatepost_core::session::{Close, Cx, ReadInterest, Session};
use gatepost_core::time::{Now, Time, Wall};
use std::fmt::Write as _;
use std::sync::Arc;

/// One connection and its driver. The test plays the engine.
struct Script {
    session: StompSession,
    now: Now,
    /// Sent by the client and not consumed yet.
    input: Vec<u8>,
    commands: Vec<Command>,
    out: Vec<u8>,
    randoms: u64,
    /// See [`Cx::is_memory_short`].
    is_memory_short: bool,
    closed: Option<Close>,
}

impl Script {
    fn with(settings: Settings) -> Script {
        let now = Now {
            monotonic: Time(1_000),
            wall: Wall(1_700_000_000_000),
        };
        Script {
            session: StompSession::new(Arc::new(settings), Arc::default(), now),
            now,
            input: Vec::new(),
            commands: Vec::new(),
            out: Vec::new(),
            randoms: 0,
            is_memory_short: false,
            closed: None,
        }
    }

    fn new() -> Script {
        Script::with(Settings::default())
    }

    /// Logged in as `me`, speaking `version`.
    fn opened_with(settings: Settings, version: &str) -> Script {
        let mut script = Script::with(settings);
        script.send(&format!(
            "CONNECT\naccept-version:{version}\nhost:/\nlogin:me\npasscode:secret\n\n\0"
        ));
        script.event(Event::authenticated("me"));
        script.event(Event::Attached);
        assert!(script.out().starts_with(&format!("CONNECTED\nversion:{version}\n")));
        script.commands.clear();
        script
    }

    fn opened(version: &str) -> Script {
        Script::opened_with(Settings::default(), version)
    }

    fn tolerant() -> Script {
        Script::opened_with(
            Settings {
                keep_open_on_error: true,
                ..Settings::default()
            },
            "1.2",
        )
    }

    fn send(&mut self, text: &str) {
        self.input.extend_from_slice(text.as_bytes());
        self.pump();
    }

    fn event(&mut self, event: Event) {
        self.events(vec![event]);
    }

    fn events(&mut self, mut events: Vec<Event>) {
        assert_eq!(self.closed, None, "an event after the end");
        let result = self.call(|session, cx| session.handle_events(cx, &mut events));
        self.closed = result.err();
        self.pump();
    }

    /// Does what the driver does: offers the input for as long as the session reads.
    fn pump(&mut self) {
        while self.closed.is_none() && !self.input.is_empty() && self.session.read_interest() == ReadInterest::All {
            let input = std::mem::take(&mut self.input);
            match self.call(|session, cx| session.handle_bytes(cx, &input)) {
                Ok(consumed) => {
                    self.input = input[consumed..].to_vec();
                    if consumed == 0 || self.session.read_interest() == ReadInterest::All {
                        return;
                    }
                }
                Err(close) => self.closed = Some(close),
            }
        }
    }

    /// Lets time pass and fires each timer when it is due.
    fn advance(&mut self, ms: u64) {
        let end = Time(self.now.monotonic.0 + ms);
        while let Some(due) = self.session.poll_timeout().filter(|due| *due <= end) {
            self.now.monotonic = due.max(self.now.monotonic);
            if let Err(close) = self.call(|session, cx| session.handle_timeout(cx)) {
                self.closed = Some(close);
                return;
            }
            // The driver would flush at once; the output is kept for the test.
            assert_ne!(self.session.poll_timeout(), Some(due), "a timer that stands still");
        }
        self.now.monotonic = end;
    }

    fn call<R>(&mut self, turn: impl FnOnce(&mut StompSession, &mut Cx<'_>) -> R) -> R {
        let codecs = Codecs::default();
        let mut out = Vec::new();
        let randoms = &mut self.randoms;
        let mut random = || {
            *randoms += 1;
            *randoms
        };
        let mut cx = Cx {
            now: self.now,
            commands: &mut self.commands,
            out: &mut out,
            codecs: &codecs,
            random: &mut random,
            work: 0,
            complaints: &mut Vec::new(),
            is_memory_short: self.is_memory_short,
        };
        let result = turn(&mut self.session, &mut cx);
        self.out.extend_from_slice(&out);
        result
    }

    /// What was written since the last call.
    fn out(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.out)).expect("this test's output is text")
    }

    /// The commands sent since the last call, one line each.
    fn commands(&mut self) -> Vec<String> {
        self.commands.drain(..).map(|command| describe(&command)).collect()
    }

    /// Asserts that an ERROR was sent and the connection closed.
    #[track_caller]
    fn refused(&mut self, message: &str, body: &str) {
        assert_eq!(error(&self.out()), (message.to_owned(), body.to_owned()));
        assert!(self.closed.as_ref().is_some_and(|close| close.abnormal), "still open");
    }

    /// Opens a subscription to `/queue/q` on `channel` and clears its commands and output.
    fn subscribed(&mut self, channel: u16, headers: &str) {
        self.send(&format!("SUBSCRIBE\nid:{channel}\ndestination:/queue/q\n{headers}\n\0"));
        self.event(Event::Consuming {
            channel,
            consumer: u32::from(channel),
        });
        self.commands.clear();
        self.out.clear();
    }

    fn deliver(&mut self, channel: u16, number: u64) {
        self.event(delivery(
            channel,
            number,
            Message::new(Envelope::default(), "", "q", b"", b"x"),
        ));
    }

    /// The ack id of a delivery.
    fn ack_id(&self, subscription: u32, number: u64) -> String {
        format!("T_{}@{subscription}@{number}", self.session.nonce)
    }
}

fn delivery(channel: u16, number: u64, message: Message) -> Event {
    let (qos, flags, consumer) = (0, DeliveryFlags::default(), u32::from(channel));
    Event::Deliver(Delivery {
        channel,
        qos,
        flags,
        consumer,
        number,
        message,
        extra: None,
    })
}

fn failed(channel: u16, op: Op, kind: FaultKind, text: &str) -> Event {
    Event::Failed {
        channel,
        op,
        fault: Box::new(Fault::new(kind, text)),
    }
}

fn done(channel: u16, op: Op) -> Event {
    Event::Done {
        channel,
        op,
        consumer: 0,
    }
}

fn queue_declared(channel: u16, name: &str) -> Event {
    Event::QueueDeclared {
        channel,
        queue: Box::new(QueueSummary {
            name: name.into(),
            messages: 0,
            consumers: 0,
        }),
    }
}

/// `message` and body of the one ERROR frame in `out`.
fn error(out: &str) -> (String, String) {
    let rest = out
        .strip_prefix("ERROR\nmessage:")
        .unwrap_or_else(|| panic!("no ERROR: {out:?}"));
    let (head, body) = rest.split_once("\n\n").expect("headers end");
    let message = head.split('\n').next().expect("message comes first");
    (
        message.to_owned(),
        body.strip_suffix("\0\n").expect("frames end").to_owned(),
    )
}

fn receipt(id: &str) -> String {
    format!("RECEIPT\nreceipt-id:{id}\n\n\0\n")
}

fn describe(command: &Command) -> String {
    match command {
        Command::Publish {
            channel,
            flags,
            message,
            ..
        } => {
            assert_eq!(*channel, 0);
            let envelope = message.envelope();
            let mut text = format!("publish {}|{}|", message.exchange(), message.key());
            text += &String::from_utf8_lossy(message.properties_raw().get(1..).unwrap_or(b""));
            let _ = write!(text, "|{}", String::from_utf8_lossy(message.body()));
            text + &said([
                (flags.contains(PublishFlags::CONFIRM), " confirm"),
                (envelope.durable && envelope.qos == 1, " durable"),
                (envelope.retain, " retain"),
            ])
        }
        Command::Settle {
            channel,
            number,
            multiple,
            outcome,
        } => {
            let upto = if *multiple { "upto " } else { "" };
            format!("settle {channel}: {upto}{number} {outcome:?}")
        }
        Command::Echo { channel, token } => format!("echo {channel}: {token}"),
        Command::Cancel {
            channel,
            consumer,
            reply: true,
        } => format!("cancel {channel}: {consumer}"),
        Command::CloseChannel { channel, reply: true } => format!("close {channel}"),
        Command::DeclareQueue(d) => {
            let flags = said([
                (d.durable, " durable"),
                (d.exclusive, " exclusive"),
                (d.auto_delete, " auto-delete"),
                (d.lenient, " lenient"),
                (d.reply, " reply"),
            ]);
            format!("declare {}: '{}'{flags}{}", d.channel, d.name, arguments(&d.arguments))
        }
        Command::DeleteQueue(d) => format!("delete {}: '{}'", d.channel, d.name),
        Command::Bind(b) => {
            let BindTarget::Queue(queue) = &b.target else {
                panic!("bound to an exchange")
            };
            format!(
                "bind {}: '{}' -'{}'-> '{queue}'{}",
                b.channel,
                b.source,
                b.key,
                arguments(&b.arguments)
            )
        }
        Command::Consume(c) => {
            assert!(c.reply);
            let mut text = format!("consume {}: {} '{}' as {}", c.channel, c.consumer, c.queue, c.tag);
            text += &said([(c.no_ack, " no-ack"), (c.exclusive, " exclusive")]);
            if c.priority != 0 {
                let _ = write!(text, " priority {}", c.priority);
            }
            if let Some(prefetch) = c.prefetch {
                let _ = write!(text, " prefetch {prefetch}");
            }
            text + &arguments(&c.arguments)
        }
        Command::Transaction(t) => {
            let inner: Vec<_> = t.commands.iter().map(describe).collect();
            format!("transaction {}: {}", t.channel, inner.join("; "))
        }
        Command::Authenticate(login) => describe_login(login),
        Command::Attach(a) => format!("attach {} {}", a.vhost, a.protocol),
        other => panic!("{other:?} is nothing a STOMP session says"),
    }
}

fn describe_login(login: &Login) -> String {
    match login {
        Login::Password { user, password, .. } => format!("login {user} {}", String::from_utf8_lossy(password)),
        Login::Anonymous => "login".into(),
        Login::Certificate { .. } => "login by certificate".into(),
        Login::Renewal { .. } | Login::Mechanism { .. } | Login::Response { .. } => panic!("STOMP logs in once"),
    }
}

/// Joins the words whose flag is set.
fn said<const N: usize>(words: [(bool, &str); N]) -> String {
    words.into_iter().filter(|(on, _)| *on).map(|(_, word)| word).collect()
}

fn arguments(table: &Table) -> String {
    table.0.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = match value {
            Value::Text(octets) => write!(text, " {name}={}", String::from_utf8_lossy(octets)),
            Value::Int(int, _) => write!(text, " {name}={int}"),
            other => write!(text, " {name}={other:?}"),
        };
        text
    })
}
