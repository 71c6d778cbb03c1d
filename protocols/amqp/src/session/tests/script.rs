//! A script that plays the client and the engine against one session.

use crate::codec;
use crate::frame::content::{BasicProperties, ContentHeader, put_header};
use crate::frame::{BODY, Basic, Channel, Connection, HEADER, HEARTBEAT, METHOD, Method, Queue, put_frame};
use crate::properties::AmqpProperties;
use crate::session::AmqpSession;
use crate::settings::Settings;
use gatepost_core::command::{ChannelMode, Command};
use gatepost_core::event::{Delivery, DeliveryFlags, Event, Op};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::message::{Envelope, Message};
use gatepost_core::properties::{Codecs, Table, Value};
use gatepost_core::session::{Close, Cx, ReadInterest, Session};
use gatepost_core::time::{Now, Time, Wall};
use std::sync::Arc;

pub(super) struct Script {
    pub(super) session: AmqpSession,
    pub(super) now: Now,
    /// How the session ended, if it did.
    pub(super) ended: Option<Close>,
    pub(super) codecs: Codecs,
    input: Vec<u8>,
    commands: Vec<Command>,
    out: Vec<u8>,
    random: u64,
    /// See [`Cx::is_memory_short`].
    pub(super) is_memory_short: bool,
}

impl Script {
    pub(super) fn new(settings: Settings) -> Script {
        Script::with_certificate(settings, false)
    }

    /// A connection whose client has shown a certificate, or not.
    pub(super) fn with_certificate(settings: Settings, has_certificate: bool) -> Script {
        let now = Now {
            monotonic: Time(1000),
            wall: Wall(1_700_000_000_000),
        };
        Script {
            session: AmqpSession::new(Arc::new(settings), Arc::default(), now, has_certificate),
            now,
            ended: None,
            codecs: Codecs::new(vec![Arc::new(AmqpProperties)]),
            input: Vec::new(),
            commands: Vec::new(),
            out: Vec::new(),
            random: 0,
            is_memory_short: false,
        }
    }

    /// A connection past `open-ok`, with these capabilities.
    pub(super) fn running(settings: Settings, capabilities: &[&str]) -> Script {
        let mut script = Script::new(settings);
        script.log_in(capabilities);
        script.tell(Event::authenticated("guest"));
        let (channel_max, frame_max) = (script.session.channel_max, script.session.settings.frame_max);
        script.send(0, tune_ok(channel_max, frame_max, 60));
        script.send(0, open("/"));
        script.tell(Event::Attached);
        script.forget();
        script
    }

    /// A connection with channel 1 open.
    pub(super) fn with_channel() -> Script {
        let mut script = Script::running(Settings::default(), ALL_CAPABILITIES);
        script.open_channel(1);
        script
    }

    pub(super) fn open_channel(&mut self, channel: u16) {
        self.send(channel, Method::Channel(Channel::Open { reserved: "" }));
        assert!(self.said().is_empty(), "the engine has not said yet whether it may");
        self.tell(done(channel, Op::OpenChannel));
        assert_eq!(self.said(), [format!("{channel} Channel(OpenOk {{ reserved: [] }})")]);
        self.forget();
    }

    /// Protocol header and `start-ok`.
    pub(super) fn log_in(&mut self, capabilities: &[&str]) {
        self.feed(&codec::AMQP_0_9_1);
        self.send(0, start_ok("PLAIN", b"\0guest\0secret", capabilities));
    }

    pub(super) fn feed(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        self.turn(|session, cx, input| {
            if session.read_interest() == ReadInterest::Nothing {
                return Ok(());
            }
            let used = session.handle_bytes(cx, input)?;
            input.drain(..used);
            Ok(())
        });
    }

    pub(super) fn send(&mut self, channel: u16, method: Method<'_>) {
        let mut octets = Vec::new();
        method.encode(channel, &mut octets);
        self.feed(&octets);
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.tell_all(vec![event]);
    }

    pub(super) fn tell_all(&mut self, mut events: Vec<Event>) {
        self.turn(|session, cx, _| session.handle_events(cx, &mut events));
        self.feed(&[]);
    }

    /// Lets time pass, firing every time-out on the way.
    pub(super) fn pass(&mut self, ms: u64) {
        let until = Time(self.now.monotonic.0 + ms);
        while let Some(at) = self
            .session
            .poll_timeout()
            .filter(|at| *at <= until && self.ended.is_none())
        {
            self.now.monotonic = at.max(self.now.monotonic);
            self.turn(|session, cx, _| session.handle_timeout(cx));
        }
        self.now.monotonic = until;
    }

    fn turn(&mut self, f: impl FnOnce(&mut AmqpSession, &mut Cx<'_>, &mut Vec<u8>) -> Result<(), Close>) {
        if self.ended.is_some() {
            return;
        }
        let counter = &mut self.random;
        let mut random = || {
            *counter += 1;
            *counter
        };
        let mut cx = Cx {
            now: self.now,
            commands: &mut self.commands,
            out: &mut self.out,
            codecs: &self.codecs,
            random: &mut random,
            work: 0,
            complaints: &mut Vec::new(),
            is_memory_short: self.is_memory_short,
        };
        self.ended = f(&mut self.session, &mut cx, &mut self.input).err();
    }

    /// The frames written since the last call, one text each.
    pub(super) fn said(&mut self) -> Vec<String> {
        let out = std::mem::take(&mut self.out);
        let mut rest = out.as_slice();
        let mut said = Vec::new();
        while let Some((frame, used)) = codec::split(rest, u32::MAX).unwrap() {
            let channel = frame.channel;
            said.push(match frame.kind {
                METHOD => format!("{channel} {:?}", Method::decode(frame.payload).unwrap()),
                HEADER => {
                    let header = ContentHeader::decode(frame.payload).unwrap();
                    BasicProperties::decode(header.properties).unwrap();
                    format!("{channel} header {}", header.size)
                }
                BODY => format!("{channel} body {}", String::from_utf8_lossy(frame.payload)),
                HEARTBEAT => "heartbeat".into(),
                kind => panic!("frame type {kind}"),
            });
            rest = &rest[used..];
        }
        assert!(rest.is_empty(), "half a frame: {rest:?}");
        said
    }

    /// The octets written since the last call.
    pub(super) fn octets(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// The commands pushed since the last call, without changes of a channel's mode: `modes` returns those.
    pub(super) fn commands(&mut self) -> Vec<Command> {
        self.commands
            .retain(|command| !matches!(command, Command::SetMode { .. }));
        std::mem::take(&mut self.commands)
    }

    /// The channel modes told to the engine since the last call.
    pub(super) fn modes(&mut self) -> Vec<(u16, ChannelMode)> {
        let commands = std::mem::take(&mut self.commands);
        let mode = |command| match command {
            Command::SetMode { channel, mode } => Some((channel, mode)),
            _ => None,
        };
        commands.into_iter().filter_map(mode).collect()
    }

    /// The single command pushed since the last call.
    pub(super) fn command(&mut self) -> Command {
        let mut commands = self.commands();
        assert_eq!(commands.len(), 1, "{commands:?}");
        commands.remove(0)
    }

    /// Answers all echoes requested since the last call.
    pub(super) fn echo(&mut self) {
        for command in self.commands() {
            match command {
                Command::Echo { channel, token } => self.tell(Event::Echo { channel, token }),
                other => panic!("{other:?}"),
            }
        }
    }

    pub(super) fn forget_output(&mut self) {
        self.out.clear();
    }

    pub(super) fn forget(&mut self) {
        self.out.clear();
        self.commands.clear();
    }

    /// The close method that was written, alone: channel, code, text, class and method.
    pub(super) fn close(&mut self) -> (u16, u16, String, (u16, u16)) {
        let octets = self.octets();
        let (frame, used) = codec::split(&octets, u32::MAX).unwrap().expect("a close");
        assert_eq!(used, octets.len(), "more than a close");
        match Method::decode(frame.payload).unwrap() {
            Method::Connection(Connection::Close {
                code,
                text,
                class,
                method,
            })
            | Method::Channel(Channel::Close {
                code,
                text,
                class,
                method,
            }) => (frame.channel, code, text.into(), (class, method)),
            other => panic!("{other:?}"),
        }
    }
}

pub(super) const ALL_CAPABILITIES: &[&str] = &[
    "consumer_cancel_notify",
    "connection.blocked",
    "authentication_failure_close",
];

pub(super) fn start_ok<'a>(mechanism: &'a str, response: &'a [u8], capabilities: &[&str]) -> Method<'a> {
    let mut table = Table::default();
    for name in capabilities {
        table.push(*name, Value::Bool(true));
    }
    let mut client_properties = Table::default();
    client_properties.push("capabilities", Value::Table(table));
    client_properties.push("connection_name", Value::text("tester"));
    Method::Connection(Connection::StartOk {
        client_properties,
        mechanism,
        response,
        locale: "xx",
    })
}

pub(super) fn tune_ok(channel_max: u16, frame_max: u32, heartbeat: u16) -> Method<'static> {
    Method::Connection(Connection::TuneOk {
        channel_max,
        frame_max,
        heartbeat,
    })
}

pub(super) fn open(vhost: &str) -> Method<'_> {
    Method::Connection(Connection::Open {
        vhost,
        reserved: "",
        insist: false,
    })
}

pub(super) fn declare(queue: &str, passive: bool, nowait: bool) -> Method<'_> {
    Method::Queue(Queue::Declare {
        ticket: 0,
        queue,
        passive,
        durable: true,
        exclusive: false,
        auto_delete: false,
        nowait,
        arguments: Table::default(),
    })
}

pub(super) fn consume<'a>(queue: &'a str, tag: &'a str, no_ack: bool) -> Method<'a> {
    Method::Basic(Basic::Consume {
        ticket: 0,
        queue,
        tag,
        no_local: false,
        no_ack,
        exclusive: false,
        nowait: false,
        arguments: Table::default(),
    })
}

pub(super) fn publish(key: &str) -> Method<'_> {
    Method::Basic(Basic::Publish {
        ticket: 0,
        exchange: "",
        key,
        mandatory: false,
        immediate: false,
    })
}

pub(super) fn bad_consume() -> Method<'static> {
    let mut arguments = Table::default();
    arguments.push("x-priority", Value::text("high"));
    Method::Basic(Basic::Consume {
        ticket: 0,
        queue: "q",
        tag: "",
        no_local: false,
        no_ack: false,
        exclusive: false,
        nowait: false,
        arguments,
    })
}

pub(super) fn close_ok() -> Method<'static> {
    Method::Connection(Connection::CloseOk {})
}

pub(super) fn header(channel: u16, size: u64, properties: &BasicProperties<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    put_header(&mut out, channel, size, |out| properties.encode(out));
    out
}

pub(super) fn body(channel: u16, octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_frame(&mut out, BODY, channel, |out| out.extend_from_slice(octets));
    out
}

pub(super) fn done(channel: u16, op: Op) -> Event {
    Event::Done {
        channel,
        op,
        consumer: 0,
    }
}

pub(super) fn failed(channel: u16, op: Op, kind: FaultKind, text: &str) -> Event {
    Event::Failed {
        channel,
        op,
        fault: Box::new(Fault::new(kind, text)),
    }
}

/// A message as AMQP clients publish it.
pub(super) fn message(properties: &BasicProperties<'_>, envelope: Envelope, body: &[u8]) -> Message {
    let mut raw = Vec::new();
    properties.encode(&mut raw);
    let envelope = Envelope {
        origin: crate::properties::ORIGIN,
        ..envelope
    };
    Message::new(envelope, "e", "k", &raw, body)
}

pub(super) fn delivery(channel: u16, consumer: u32, number: u64, message: Message) -> Delivery {
    Delivery {
        channel,
        qos: 0,
        flags: DeliveryFlags::default(),
        consumer,
        number,
        message,
        extra: None,
    }
}
