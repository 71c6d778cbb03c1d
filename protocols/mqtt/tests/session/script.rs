//! A script that plays the client and the engine against one session.

use gatepost_core::command::{Attach, Command, Login, OpenSession, Peer, PublishFlags};
use gatepost_core::event::{Delivery, DeliveryFlags, Event};
use gatepost_core::message::{Dialect, Envelope, Message};
use gatepost_core::properties::{Codecs, Origin};
use gatepost_core::session::{Close, Cx, Protocol, ReadInterest, Session};
use gatepost_core::time::{Now, Time, Wall};
use gatepost_mqtt::codec::{Limits, decode};
use gatepost_mqtt::frame::{Connect, Packet, Properties, Property, PropertyBuf, Sender, Version};
use gatepost_mqtt::{Mqtt, Settings};
use std::time::Duration;

pub(crate) struct Script {
    pub(crate) session: Box<dyn Session>,
    pub(crate) protocol: Mqtt,
    pub(crate) version: Version,
    pub(crate) now: Now,
    pub(crate) codecs: Codecs,
    input: Vec<u8>,
    commands: Vec<Command>,
    out: Vec<u8>,
    closed: Option<Close>,
    random: u64,
}

/// The CONNECT that scripts start from.
pub(crate) fn connect(version: Version) -> Connect<'static> {
    Connect {
        version,
        bridge: false,
        clean_start: true,
        keep_alive: 0,
        properties: Properties::EMPTY,
        client_id: "c",
        will: None,
        user: None,
        password: None,
    }
}

pub(crate) fn properties(list: &[Property<'_>]) -> PropertyBuf {
    list.iter().copied().collect()
}

/// A message in the form that the engine keeps.
pub(crate) fn message(topic: &str, qos: u8, origin: Origin, properties: &[u8], body: &[u8]) -> Message {
    let envelope = Envelope {
        origin,
        dialect: Dialect::Slash,
        qos,
        ..Envelope::default()
    };
    Message::new(envelope, "amq.topic", topic, properties, body)
}

pub(crate) fn delivery(number: u64, qos: u8, message: Message) -> Delivery {
    Delivery {
        channel: 0,
        qos,
        flags: DeliveryFlags::default(),
        consumer: 0,
        number,
        message,
        extra: None,
    }
}

impl Script {
    pub(crate) fn new(version: Version, settings: Settings) -> Script {
        let now = Now {
            monotonic: Time(5_000),
            wall: Wall(1_700_000_000_000),
        };
        let protocol = Mqtt::new(settings);
        Script {
            session: protocol.open(now, Peer::on_this_machine()),
            protocol,
            version,
            now,
            codecs: Codecs::default(),
            input: Vec::new(),
            commands: Vec::new(),
            out: Vec::new(),
            closed: None,
            random: 0,
        }
    }

    /// An open session. CONNACK has been taken.
    pub(crate) fn open(version: Version) -> Script {
        Script::open_with(&connect(version), Settings::default())
    }

    pub(crate) fn open_with(connect: &Connect<'_>, settings: Settings) -> Script {
        let mut script = Script::new(connect.version, settings);
        script.login(connect);
        script.event(Event::SessionOpened { present: false });
        let sent = script.sent();
        assert_eq!(sent.first(), Some(&0x20), "CONNACK");
        script
    }

    /// Logs in up to the point where the engine is asked to open the session.
    pub(crate) fn login(&mut self, connect: &Connect<'_>) -> Asked {
        let mut bytes = Vec::new();
        connect.encode(&mut bytes).unwrap();
        self.feed(&bytes);
        let Some(Command::Authenticate(login)) = self.command() else {
            panic!("no Authenticate")
        };
        self.event(Event::authenticated("u"));
        let Some(Command::Attach(attach)) = self.command() else {
            panic!("no Attach")
        };
        self.event(Event::Attached);
        let Some(Command::OpenSession(open)) = self.command() else {
            panic!("no OpenSession")
        };
        assert!(self.commands.is_empty() && self.out.is_empty());
        Asked {
            login: *login,
            attach: *attach,
            open: *open,
        }
    }

    /// Passes bytes of the client to the session, as the driver would.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.read();
    }

    pub(crate) fn read(&mut self) {
        while self.closed.is_none() && self.session.read_interest() == ReadInterest::All {
            let input = std::mem::take(&mut self.input);
            let used = self.with_cx(|session, cx| session.handle_bytes(cx, &input));
            self.input = input;
            match used {
                Some(used) if used > 0 => drop(self.input.drain(..used)),
                _ => return,
            }
        }
    }

    pub(crate) fn packet(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode(self.version, &mut bytes).unwrap();
        self.feed(&bytes);
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.events(vec![event]);
    }

    pub(crate) fn events(&mut self, mut events: Vec<Event>) {
        self.with_cx(|session, cx| session.handle_events(cx, &mut events));
        self.read();
    }

    pub(crate) fn advance(&mut self, time: Duration) {
        self.now.monotonic = self.now.monotonic + time;
        self.now.wall = self.now.wall + time;
        if self.session.poll_timeout().is_some_and(|due| due <= self.now.monotonic) {
            self.with_cx(|session, cx| session.handle_timeout(cx));
        }
    }

    fn with_cx<T>(&mut self, f: impl FnOnce(&mut dyn Session, &mut Cx<'_>) -> Result<T, Close>) -> Option<T> {
        assert_eq!(self.closed, None, "the script goes on after the end");
        let mut random = || {
            self.random += 1;
            self.random
        };
        let mut cx = Cx {
            now: self.now,
            commands: &mut self.commands,
            out: &mut self.out,
            codecs: &self.codecs,
            random: &mut random,
            work: 0,
            complaints: &mut Vec::new(),
            is_memory_short: false,
        };
        f(&mut *self.session, &mut cx)
            .map_err(|close| self.closed = Some(close))
            .ok()
    }

    /// The next command, if any.
    pub(crate) fn command(&mut self) -> Option<Command> {
        if self.commands.is_empty() {
            None
        } else {
            Some(self.commands.remove(0))
        }
    }

    /// The next command, which must be a publish: its message, its QoS 2 packet id, and whether it is to be confirmed.
    pub(crate) fn published(&mut self) -> (Message, u16, bool) {
        match self.command() {
            Some(Command::Publish {
                message,
                packet_id,
                flags,
                ..
            }) => (message, packet_id, flags.contains(PublishFlags::CONFIRM)),
            other => panic!("{other:?}"),
        }
    }

    /// The next command, which must settle: the packet id.
    pub(crate) fn settled(&mut self) -> Option<u64> {
        match self.command()? {
            Command::Settle { number, .. } => Some(number),
            other => panic!("{other:?}"),
        }
    }

    /// The bytes sent since the last call.
    pub(crate) fn sent(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Runs `check` over the one packet that was sent.
    pub(crate) fn one<T>(&mut self, check: impl FnOnce(Packet<'_>) -> T) -> T {
        let sent = self.sent();
        let (packet, used) = decode(&sent, self.version, Sender::Server, &Limits::WIRE)
            .unwrap()
            .unwrap();
        assert_eq!(used, sent.len(), "one packet");
        check(packet)
    }

    pub(crate) fn closed(&self) -> Option<&Close> {
        self.closed.as_ref()
    }

    /// Asserts that the connection ended with a DISCONNECT of this reason and nothing else.
    #[track_caller]
    pub(crate) fn assert_disconnected(&mut self, reason: u8) {
        assert!(self.closed.is_some(), "the connection goes on");
        let sent = self.sent();
        match decode(&sent, self.version, Sender::Server, &Limits::WIRE) {
            Ok(Some((Packet::Disconnect(packet), used))) => {
                assert_eq!((packet.reason.0, used), (reason, sent.len()), "{packet:?}");
            }
            other => panic!("{other:?}"),
        }
        assert!(self.commands.is_empty(), "{:?}", self.commands);
    }

    /// Asserts that the connection ended without any answer.
    #[track_caller]
    pub(crate) fn assert_closed_silently(&mut self) {
        assert!(self.closed.is_some(), "the connection goes on");
        assert_eq!(self.sent(), []);
    }
}

/// The commands of a login.
pub(crate) struct Asked {
    pub(crate) login: Login,
    pub(crate) attach: Attach,
    pub(crate) open: OpenSession,
}
