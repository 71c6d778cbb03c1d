//! Bodies of the fuzz targets. They panic when they find a fault. The caller supplies the input.

use crate::codec;
use crate::error::{ErlangBinary, Snippet};
use crate::frame::content::{BasicProperties, ContentHeader};
use crate::frame::{Connection, Frame, HEADER, METHOD, Method};
use crate::properties::AmqpProperties;
use crate::session::AmqpSession;
use crate::settings::Settings;
use gatepost_core::command::{Command, Login};
use gatepost_core::event::{
    CloseReason, Delivery, DeliveryFlags, Event, LoginFailure, LoginRefused, Op, Pressure, QueueSummary,
};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::message::{Dialect, Envelope, Message};
use gatepost_core::properties::{Codecs, Origin, PropertyCodec};
use gatepost_core::session::{Cx, ReadInterest, Session};
use gatepost_core::time::{Now, Time, Wall};
use std::collections::VecDeque;
use std::sync::Arc;

/// Splits `data` into frames and decodes them. A frame that decodes must decode to the same value after it was encoded.
pub fn fuzz_codec(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some((frame, used))) = codec::split(rest, 131_072) {
        decode(frame);
        rest = rest.get(used..).unwrap_or_default();
    }
    // Payloads are decoded without a frame around them too: random data is seldom a valid frame.
    for kind in [METHOD, HEADER] {
        decode(Frame {
            kind,
            channel: 1,
            payload: data,
        });
    }
    let _ = (AmqpProperties.decode(data), AmqpProperties.extra_keys(data));
    let _ = (Snippet(data).to_string(), ErlangBinary(data).to_string());
}

fn decode(frame: Frame<'_>) {
    match frame.kind {
        METHOD => {
            if let Ok(method) = Method::decode(frame.payload) {
                let mut out = Vec::new();
                method.encode(frame.channel, &mut out);
                let again = codec::split(&out, u32::MAX)
                    .expect("a good frame")
                    .expect("all of it")
                    .0;
                // NaN is not equal to itself, so the octets are compared.
                let mut twice = Vec::new();
                Method::decode(again.payload)
                    .expect("a good method")
                    .encode(frame.channel, &mut twice);
                assert_eq!(out, twice, "{method:?}");
            }
        }
        HEADER => {
            let properties = ContentHeader::decode(frame.payload).map(|header| header.properties);
            if let Ok(list) = properties.and_then(BasicProperties::decode) {
                let mut out = Vec::new();
                list.encode(&mut out);
                assert_eq!(BasicProperties::decode(&out), Ok(list));
            }
        }
        _ => {}
    }
}

/// Drives a session by the script that `data` is: octets, events, time-outs, in any order, against an engine that answers
/// at random but never breaks its contract.
pub fn fuzz_session(data: &[u8]) {
    let mut driver = Driver::new();
    let mut script = Script(data);
    while let Some(step) = script.octet() {
        let alive = match step % 8 {
            // Begin logged in: the rest of the script then reaches more of the session.
            0 => driver.log_in(),
            1..=3 => {
                let length = usize::from(script.octet().unwrap_or(0));
                driver.feed(script.octets(length))
            }
            4 | 5 => driver.answer(&mut script),
            6 => driver.event(&mut script),
            _ => {
                driver.now.monotonic.0 += u64::from(script.octet().unwrap_or(0)) * 250;
                driver.time_out()
            }
        };
        if !alive {
            return;
        }
    }
}

struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn octet(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn octets(&mut self, length: usize) -> &'a [u8] {
        let (octets, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        octets
    }
}

struct Driver {
    session: AmqpSession,
    now: Now,
    input: Vec<u8>,
    out: Vec<u8>,
    pushed: Vec<Command>,
    /// Commands not yet answered.
    unanswered: VecDeque<Command>,
    published: u64,
    codecs: Codecs,
}

impl Driver {
    fn new() -> Driver {
        let now = Now {
            monotonic: Time(1),
            wall: Wall(1_700_000_000_000),
        };
        let settings = Settings {
            max_message_size: 1 << 12,
            unfinished_bytes_max: 1 << 13,
            ..Settings::default()
        };
        Driver {
            session: AmqpSession::new(Arc::new(settings), Arc::default(), now, false),
            now,
            input: Vec::new(),
            out: Vec::new(),
            pushed: Vec::new(),
            unanswered: VecDeque::new(),
            published: 0,
            codecs: Codecs::new(vec![Arc::new(AmqpProperties)]),
        }
    }

    fn call(&mut self, f: impl FnOnce(&mut AmqpSession, &mut Cx<'_>, &mut Vec<u8>) -> bool) -> bool {
        let mut seed = 7;
        let mut random = || {
            seed += 1;
            seed
        };
        let mut cx = Cx {
            now: self.now,
            commands: &mut self.pushed,
            out: &mut self.out,
            codecs: &self.codecs,
            random: &mut random,
            work: 0,
            complaints: &mut Vec::new(),
            is_memory_short: false,
        };
        let alive = f(&mut self.session, &mut cx, &mut self.input);
        self.unanswered.extend(self.pushed.drain(..));
        self.check_output();
        let _ = self.session.poll_timeout();
        alive
    }

    /// Checks that the output consists of whole frames within the negotiated limits.
    fn check_output(&mut self) {
        let mut rest = self.out.strip_prefix(&codec::AMQP_0_9_1).unwrap_or(&self.out);
        while !rest.is_empty() {
            let (_, used) = codec::split(rest, u32::MAX).expect("our own frame").expect("all of it");
            rest = rest.get(used..).unwrap_or_default();
        }
        self.out.clear();
    }

    fn feed(&mut self, octets: &[u8]) -> bool {
        self.input.extend_from_slice(octets);
        if self.session.read_interest() == ReadInterest::Nothing {
            return true;
        }
        self.call(|session, cx, input| match session.handle_bytes(cx, input) {
            Ok(used) => {
                input.drain(..used);
                true
            }
            Err(_) => false,
        })
    }

    fn tell(&mut self, event: Event) -> bool {
        self.call(|session, cx, _| session.handle_events(cx, &mut vec![event]).is_ok())
    }

    fn time_out(&mut self) -> bool {
        self.call(|session, cx, _| session.handle_timeout(cx).is_ok())
    }

    fn log_in(&mut self) -> bool {
        let mut octets = codec::AMQP_0_9_1.to_vec();
        let start_ok = Connection::StartOk {
            client_properties: Default::default(),
            mechanism: "PLAIN",
            response: b"\0u\0p",
            locale: "en_US",
        };
        start_ok.encode(0, &mut octets);
        if !self.feed(&octets) || !self.tell(Event::authenticated("u")) {
            return false;
        }
        octets.clear();
        Connection::TuneOk {
            channel_max: 9,
            frame_max: 4096,
            heartbeat: 2,
        }
        .encode(0, &mut octets);
        Connection::Open {
            vhost: "/",
            reserved: "",
            insist: false,
        }
        .encode(0, &mut octets);
        self.feed(&octets) && self.tell(Event::Attached) && self.feed(&[])
    }

    /// Answers the oldest command, with success or with a fault.
    fn answer(&mut self, script: &mut Script<'_>) -> bool {
        let Some(command) = self.unanswered.pop_front() else {
            return true;
        };
        let refuse = script.octet().is_some_and(|octet| octet >= 0xC0);
        let Some(event) = self.answer_to(command, refuse, script) else {
            return true;
        };
        self.tell(event) && self.feed(&[])
    }

    fn answer_to(&mut self, command: Command, refuse: bool, script: &mut Script<'_>) -> Option<Event> {
        let Some((channel, op, reply)) = operation(&command) else {
            return self.answer_other(&command, refuse, script);
        };
        if refuse {
            let fault = fault(script);
            return Some(Event::Failed { channel, op, fault });
        }
        match command {
            _ if !reply => None,
            Command::DeclareQueue(d) => {
                let queue = Box::new(QueueSummary {
                    name: d.name,
                    messages: 1,
                    consumers: 2,
                });
                Some(Event::QueueDeclared { channel, queue })
            }
            Command::DeleteQueue(_) => Some(Event::QueueDeleted { channel, messages: 3 }),
            Command::PurgeQueue(_) => Some(Event::QueuePurged { channel, messages: 4 }),
            Command::Consume(c) => Some(Event::Consuming {
                channel,
                consumer: c.consumer,
            }),
            Command::Get(_) if script.octet().is_some_and(|o| o & 1 == 0) => Some(Event::GetEmpty { channel }),
            Command::Get(_) => Some(Event::Got {
                delivery: delivery(channel, 0, script),
                remaining: 5,
            }),
            _ => Some(done(channel, op, 0)),
        }
    }

    /// Answers a command that is not an operation of a channel.
    fn answer_other(&mut self, command: &Command, refuse: bool, script: &mut Script<'_>) -> Option<Event> {
        match command {
            Command::Authenticate(login) => {
                let user = match &**login {
                    Login::Password { user, .. } | Login::Renewal { user, .. } => user.clone(),
                    _ => "anonymous".into(),
                };
                let why = LoginFailure::BadCredentials;
                Some(match refuse {
                    true => Event::LoginRefused(Box::new(LoginRefused { user, why })),
                    false => Event::authenticated(user),
                })
            }
            Command::Attach(_) if refuse => Some(Event::AttachRefused(fault(script))),
            Command::Attach(_) => Some(Event::Attached),
            Command::Echo { channel, token } => Some(Event::Echo {
                channel: *channel,
                token: *token,
            }),
            Command::CloseChannel { channel, reply } => reply.then(|| done(*channel, Op::CloseChannel, 0)),
            Command::Cancel {
                channel,
                consumer,
                reply,
            } => reply.then(|| done(*channel, Op::Cancel, *consumer)),
            Command::Publish { channel, .. } => {
                self.published += 1;
                let (channel, number) = (*channel, self.published);
                let why = FaultKind::QuotaExceeded;
                Some(match refuse {
                    true => Event::Refused { channel, number, why },
                    false => Event::Confirmed { channel, upto: number },
                })
            }
            _ => None,
        }
    }

    /// Sends an event that answers no command.
    fn event(&mut self, script: &mut Script<'_>) -> bool {
        let channel = u16::from(script.octet().unwrap_or(0)) % 4;
        let consumer = u32::from(script.octet().unwrap_or(0)) % 4;
        let event = match script.octet().unwrap_or(0) % 8 {
            0..=2 => Event::Deliver(delivery(channel, consumer, script)),
            3 => Event::ConsumerGone { channel, consumer },
            4 => Event::Returned {
                channel,
                number: 0,
                message: delivery(channel, 0, script).message,
            },
            5 => Event::Flow(Some(Pressure::Memory)),
            6 => Event::Flow(None),
            _ => Event::Closed(CloseReason::Shutdown),
        };
        self.tell(event)
    }
}

/// Channel and operation of a command that is answered with success or a fault, and whether it wants to be told of
/// success.
fn operation(command: &Command) -> Option<(u16, Op, bool)> {
    Some(match command {
        Command::OpenChannel { channel } => (*channel, Op::OpenChannel, true),
        Command::Settle { channel, .. } | Command::HoldSettle { channel, .. } => (*channel, Op::Settle, false),
        Command::Qos { channel, .. } => (*channel, Op::Qos, true),
        Command::Recover { channel, reply } => (*channel, Op::Recover, *reply),
        Command::DeclareExchange(d) => (d.channel, Op::DeclareExchange, d.reply),
        Command::DeleteExchange(d) => (d.channel, Op::DeleteExchange, d.reply),
        Command::DeclareQueue(d) => (d.channel, Op::DeclareQueue, d.reply),
        Command::DeleteQueue(d) => (d.channel, Op::DeleteQueue, d.reply),
        Command::PurgeQueue(p) => (p.channel, Op::PurgeQueue, p.reply),
        Command::Bind(b) => (b.channel, Op::Bind, b.reply),
        Command::Unbind(b) => (b.channel, Op::Unbind, b.reply),
        Command::Consume(c) => (c.channel, Op::Consume, c.reply),
        Command::Get(g) => (g.channel, Op::Get, true),
        Command::Transaction(t) => (t.channel, Op::Commit, true),
        Command::TryPublish(t) => (t.channel, Op::Publish, false),
        _ => return None,
    })
}

fn done(channel: u16, op: Op, consumer: u32) -> Event {
    Event::Done { channel, op, consumer }
}

fn fault(script: &mut Script<'_>) -> Box<Fault> {
    let kinds = [
        FaultKind::NotFound,
        FaultKind::NotAllowed,
        FaultKind::PreconditionFailed,
        FaultKind::Internal,
    ];
    let kind = kinds[usize::from(script.octet().unwrap_or(0)) % kinds.len()];
    Box::new(Fault::new(kind, "no"))
}

fn delivery(channel: u16, consumer: u32, script: &mut Script<'_>) -> Delivery {
    let flags = script.octet().unwrap_or(0);
    let envelope = Envelope {
        origin: Origin(flags & 1),
        dialect: if flags & 2 == 0 { Dialect::Dot } else { Dialect::Slash },
        extra_keys: flags & 4 != 0,
        ..Envelope::default()
    };
    // An AMQP session has accepted these properties before, so they decode.
    let mut raw = Vec::new();
    BasicProperties::default().encode(&mut raw);
    let body = script.octets(usize::from(flags));
    Delivery {
        channel,
        qos: 0,
        flags: DeliveryFlags(flags & 3),
        consumer,
        number: 1,
        message: Message::new(envelope, "e", "a/b", &raw, body),
        extra: None,
    }
}
