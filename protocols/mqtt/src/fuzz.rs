//! The bodies of the fuzz targets, and tests that run them over pseudo-random inputs.

use crate::codec::{Limits, decode};
use crate::error::Reason;
use crate::frame::{Auth, Connect, Header, Kind, Packet, Sender, Version};
use crate::{Mqtt, Settings};
use gatepost_core::command::{Command, Login, Peer, PublishFlags};
use gatepost_core::event::{
    CloseReason, Delivery, DeliveryExtra, DeliveryFlags, Event, LoginFailure, LoginRefused, Op,
};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::message::{Dialect, Envelope, Message};
use gatepost_core::properties::{Codecs, Origin};
use gatepost_core::session::{Close, Cx, Protocol, ReadInterest, Session};
use gatepost_core::time::{Now, Time, Wall};
use std::collections::VecDeque;
use std::time::Duration;

/// Decodes `data` packet by packet; its first two bytes choose version and direction. A decoded packet must encode, and
/// decode to the same packet again.
///
/// # Panics
/// If such a packet does not encode, or decodes differently.
pub fn fuzz_codec(data: &[u8]) {
    let Some((&choice, mut rest)) = data.split_first() else {
        return;
    };
    let version = [Version::V31, Version::V311, Version::V5][usize::from(choice & 0x7F) % 3];
    let sender = if choice & 0x80 == 0 {
        Sender::Client
    } else {
        Sender::Server
    };
    while let Ok(Some((packet, used))) = decode(rest, version, sender, &Limits::WIRE) {
        let mut again = Vec::new();
        packet
            .encode(version, &mut again)
            .expect("what came from the wire fits on it");
        let version = if let Packet::Connect(connect) = &packet {
            connect.version
        } else {
            version
        };
        let decoded = decode(&again, version, sender, &Limits::WIRE);
        assert_eq!(decoded, Ok(Some((packet, again.len()))), "{again:02x?}");
        rest = rest.get(used..).unwrap_or_default();
    }
}

/// Runs a connection through the steps in `data`: bytes from the client, answers and deliveries from a tiny engine,
/// time. Whatever happens, the session must send well-formed MQTT in an order that MQTT allows.
///
/// # Panics
/// If it does not.
pub fn fuzz_session(data: &[u8]) {
    let mut data = Bytes(data);
    let mut run = Run::new(data.next());
    while !data.0.is_empty() && run.closed.is_none() {
        match data.next() % 8 {
            0..=2 => {
                let len = usize::from(data.next()) + 1;
                let (chunk, rest) = data.0.split_at(len.min(data.0.len()));
                data = Bytes(rest);
                run.input.extend_from_slice(chunk);
                run.read();
            }
            3 | 4 => run.answer(data.next()),
            5 => run.deliver(data.next(), data.next()),
            6 => run.wait(u64::from(data.next()) * 100),
            _ => run.disturb(data.next()),
        }
    }
    run.check_output();
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        let (&first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        first
    }
}

/// A connection, its driver, and an engine that accepts, refuses or does not answer.
struct Run {
    session: Box<dyn Session>,
    now: Now,
    input: Vec<u8>,
    commands: Vec<Command>,
    out: Vec<u8>,
    /// Answers that the engine has not sent yet.
    pending: VecDeque<Event>,
    published: u64,
    random: u64,
    version: Option<Version>,
    closed: Option<Close>,
}

impl Run {
    fn new(choice: u8) -> Run {
        let settings = Settings {
            receive_maximum: 4,
            enforce_receive_maximum: choice & 1 == 0,
            keep_alive_max: (choice & 2 != 0).then_some(3),
            maximum_qos: if choice & 4 != 0 { 1 } else { 2 },
            retain_available: choice & 8 == 0,
            response_prefix: Some("r".into()),
            ..Settings::default()
        };
        let now = Now {
            monotonic: Time(1_000),
            wall: Wall(1_700_000_000_000),
        };
        Run {
            session: Mqtt::new(settings).open(now, Peer::on_this_machine()),
            now,
            input: Vec::new(),
            commands: Vec::new(),
            out: Vec::new(),
            pending: VecDeque::new(),
            published: 0,
            random: 1,
            version: None,
            closed: None,
        }
    }

    fn with_cx<T>(&mut self, f: impl FnOnce(&mut dyn Session, &mut Cx<'_>, &[u8]) -> Result<T, Close>) -> Option<T> {
        let codecs = Codecs::default();
        let mut random = || {
            self.random += 1;
            self.random
        };
        let mut cx = Cx {
            now: self.now,
            commands: &mut self.commands,
            out: &mut self.out,
            codecs: &codecs,
            random: &mut random,
            work: 0,
            complaints: &mut Vec::new(),
            is_memory_short: false,
        };
        let result = f(&mut *self.session, &mut cx, &self.input);
        self.collect();
        match result {
            Ok(value) => Some(value),
            Err(close) => {
                self.closed = Some(close);
                None
            }
        }
    }

    fn read(&mut self) {
        while self.closed.is_none() && self.session.read_interest() == ReadInterest::All {
            if self.version.is_none() {
                self.version = Header::read(&self.input, Version::V5)
                    .ok()
                    .flatten()
                    .filter(|header| header.kind == Kind::Connect)
                    .and_then(|header| Connect::announced(self.input.get(header.len..header.size())?));
            }
            let Some(used) = self.with_cx(|session, cx, input| session.handle_bytes(cx, input)) else {
                return;
            };
            assert!(used <= self.input.len());
            self.input.drain(..used);
            if used == 0 {
                return;
            }
        }
    }

    /// Queues the answers of an engine that accepts every command.
    fn collect(&mut self) {
        for command in self.commands.drain(..) {
            self.pending.extend(match command {
                // The authentication method has one round, or none if its name is empty.
                Command::Authenticate(login) => Some(match *login {
                    Login::Mechanism { name, data } if !name.is_empty() => Event::Challenge(data),
                    Login::Response { data } => Event::Authenticated {
                        user: "u".into(),
                        data,
                        impersonates: false,
                    },
                    _ => Event::authenticated("u"),
                }),
                Command::Attach(_) => Some(Event::Attached),
                Command::OpenSession(open) => {
                    assert!(!open.client_id.is_empty());
                    Some(Event::SessionOpened {
                        present: !open.clean_start,
                    })
                }
                Command::Publish {
                    channel,
                    flags,
                    message,
                    ..
                } => {
                    assert!(!message.key().is_empty() && !message.key().contains(['+', '#', '\0']));
                    flags.contains(PublishFlags::CONFIRM).then(|| {
                        self.published += 1;
                        Event::Confirmed {
                            channel,
                            upto: self.published,
                        }
                    })
                }
                Command::Subscribe(subscribe) => {
                    let results = subscribe
                        .filters
                        .into_iter()
                        .map(|filter| filter.map(|f| f.qos))
                        .collect();
                    Some(Event::Subscribed {
                        packet_id: subscribe.packet_id,
                        results,
                    })
                }
                Command::Unsubscribe(unsubscribe) => {
                    let existed = unsubscribe.filters.iter().map(|(_, share)| share.is_none()).collect();
                    Some(Event::Unsubscribed {
                        packet_id: unsubscribe.packet_id,
                        existed,
                    })
                }
                Command::Release { packet_id } => Some(Event::Released {
                    packet_id,
                    known: packet_id % 2 == 0,
                }),
                Command::Received { packet_id } => Some(Event::ReleaseDue {
                    packet_id,
                    known: packet_id % 2 == 0,
                }),
                _ => None,
            });
        }
    }

    fn events(&mut self, mut events: Vec<Event>) {
        self.with_cx(|session, cx, _| session.handle_events(cx, &mut events));
        self.read();
    }

    /// Sends a few answers, or turns the first one into a refusal.
    fn answer(&mut self, choice: u8) {
        let count = usize::from(choice >> 4) + 1;
        let mut events: Vec<Event> = self.pending.drain(..count.min(self.pending.len())).collect();
        if choice & 7 == 0
            && let Some(first) = events.first_mut()
        {
            let fault = || Box::new(Fault::new(FaultKind::QuotaExceeded, "no"));
            match first {
                Event::Confirmed { channel, upto } => {
                    let (channel, number) = (*channel, *upto);
                    let why = FaultKind::ResourceError;
                    let verdict = match choice & 8 {
                        0 => Event::Refused { channel, number, why },
                        _ => Event::Unrouted { channel, number },
                    };
                    events.insert(0, verdict);
                }
                Event::SessionOpened { .. } => {
                    *first = Event::Failed {
                        channel: 0,
                        op: Op::OpenSession,
                        fault: fault(),
                    };
                }
                Event::Attached => *first = Event::AttachRefused(fault()),
                Event::Authenticated { user, .. } => {
                    let (user, why) = (user.clone(), LoginFailure::BadCredentials);
                    *first = Event::LoginRefused(Box::new(LoginRefused { user, why }));
                }
                _ => {}
            }
        }
        self.events(events);
    }

    fn deliver(&mut self, shape: u8, id: u8) {
        let qos = shape % 3;
        let envelope = Envelope {
            origin: if shape & 4 == 0 { Origin::NONE } else { crate::ORIGIN },
            dialect: Dialect::Slash,
            qos,
            deadline: (shape & 8 != 0).then_some(self.now.wall + Duration::from_secs(id.into())),
            ..Envelope::default()
        };
        let properties: &[u8] = if shape & 4 == 0 {
            &[]
        } else {
            b"\x01\x01\x26\0\x01k\0\x01v"
        };
        let topic = format!("t/{}", id % 20);
        let extra = DeliveryExtra {
            subscription_ids: vec![u32::from(id) + 1, 7],
            ..DeliveryExtra::default()
        };
        let delivery = Delivery {
            channel: 0,
            qos,
            flags: DeliveryFlags(shape >> 4 & 3),
            consumer: 0,
            number: if qos == 0 { 0 } else { u64::from(id) + 1 },
            message: Message::new(envelope, "amq.topic", &topic, properties, &vec![id; id.into()]),
            extra: (shape & 64 != 0).then(|| Box::new(extra)),
        };
        self.events(vec![Event::Deliver(delivery)]);
    }

    fn wait(&mut self, ms: u64) {
        self.now.monotonic = self.now.monotonic + Duration::from_millis(ms);
        self.now.wall = self.now.wall + Duration::from_millis(ms);
        if self.session.poll_timeout().is_some_and(|due| due <= self.now.monotonic) {
            self.with_cx(|session, cx, _| session.handle_timeout(cx));
            assert!(self.closed.is_some(), "what is due is an end, so far");
        }
    }

    fn disturb(&mut self, choice: u8) {
        match choice % 8 {
            0 => self.events(vec![Event::Closed(CloseReason::TakenOver)]),
            1 => self.events(vec![Event::Closed(CloseReason::Shutdown)]),
            2 | 3 => self.session.set_paused(self.now, true),
            4 | 5 => self.session.set_paused(self.now, false),
            6 => self.events(vec![Event::ReleaseDue {
                packet_id: 2,
                known: true,
            }]),
            _ => {
                let fault = Box::new(Fault::new(FaultKind::AccessRefused, "no"));
                self.events(vec![Event::Failed {
                    channel: 0,
                    op: Op::Publish,
                    fault,
                }]);
            }
        }
    }

    fn check_output(&self) {
        let version = self.version.unwrap_or(Version::V311);
        let mut rest = &self.out[..];
        let mut first = true;
        while !rest.is_empty() {
            // An unsupported version is answered in the form that such a client can read.
            let (packet, used) = [version, Version::V5, Version::V311]
                .into_iter()
                .find_map(|version| decode(rest, version, Sender::Server, &Limits::WIRE).ok().flatten())
                .unwrap_or_else(|| panic!("{version:?} {rest:02x?}"));
            let in_turn = match packet {
                Packet::ConnAck(_) => first,
                // Rounds of authentication may come before CONNACK.
                Packet::Auth(Auth { reason, .. }) if first => reason == Reason::CONTINUE_AUTHENTICATION,
                Packet::Disconnect(_) => !first && used == rest.len(),
                _ => !first,
            };
            assert!(in_turn, "{packet:?}");
            first &= matches!(packet, Packet::Auth(_));
            rest = &rest[used..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// xorshift64*: random enough for inputs, and the same on every machine.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
        }
        fn below(&mut self, bound: usize) -> usize {
            (self.next() >> 33) as usize % bound
        }
        fn bytes(&mut self, most: usize) -> Vec<u8> {
            (0..self.below(most)).map(|_| self.next() as u8).collect()
        }
        /// Flips, removes, doubles or inserts a few bytes.
        fn mutated(&mut self, bytes: &[u8]) -> Vec<u8> {
            let mut bytes = bytes.to_vec();
            for _ in 0..=self.below(4) {
                let at = self.below(bytes.len().max(1));
                match (self.below(4), bytes.get(at).copied()) {
                    (0, Some(byte)) => bytes[at] = byte ^ 1 << self.below(8),
                    (1, Some(_)) => drop(bytes.remove(at)),
                    (2, Some(byte)) => bytes.insert(at, byte),
                    _ => bytes.insert(at, self.next() as u8),
                }
            }
            bytes
        }
    }

    /// Conversations of valid clients: one per version, and one with enhanced authentication.
    const CONVERSATIONS: [&[&[u8]]; 4] = [
        &[
            b"\x10\x1f\0\x06MQIsdp\x03\xee\0\x03\0\x01c\0\x03w/t\0\x02ww\0\x01u\0\x02pw",
            b"\x82\x06\0\x01\0\x01#\x02",
            b"\x34\x07\0\x03a/b\0\x02",
            b"\x6a\x02\0\x02",
            b"\xe0\0",
        ],
        &[
            b"\x10\x0d\0\x04MQTT\x04\x02\0\x05\0\x01c",
            b"\x82\x0a\0\x01\0\x01#\x01\0\x01a\0",
            b"\x32\x09\0\x03a/b\0\x03hi",
            b"\x40\x02\0\x02\xc0\0",
            b"\xa2\x05\0\x04\0\x01#",
            b"\xe0\0",
        ],
        &[
            b"\x10\x27\0\x04MQTT\x05\xc6\0\x02\x0d\x11\0\0\0\x09\x21\0\x02\x22\0\x05\x19\x01\0\0\0\0\x01w\0\x01x\0\x01u\0\x01p",
            b"\x82\x12\0\x01\x02\x0b\x05\0\x0a$share/g/x\x02",
            b"\x32\x18\0\x03a/b\0\x01\x0e\x23\0\x01\x02\0\0\0\x05\x26\0\x01k\0\0hi",
            b"\x34\x09\0\0\0\x02\x03\x23\0\x01x",
            b"\x62\x02\0\x02\x40\x03\0\x01\0\x50\x03\0\x02\x10\x70\x02\0\x02\xc0\0",
            b"\xa2\x06\0\x04\0\0\x01#",
            b"\xe0\x07\x04\x05\x11\0\0\0\x05",
        ],
        &[
            b"\x10\x16\0\x04MQTT\x05\x02\0\0\x08\x15\0\x01M\x16\0\x011\0\x01c",
            b"\xf0\x0a\x18\x08\x15\0\x01M\x16\0\x012",
            b"\x30\x05\0\x01t\0x",
            b"\xf0\x0a\x19\x08\x15\0\x01M\x16\0\x013",
            b"\xf0\x0a\x18\x08\x15\0\x01M\x16\0\x014\xc0\0",
            b"\xe0\0",
        ],
    ];

    /// A script in the form that `fuzz_session` reads: chunks, with answers, deliveries and short waits between them.
    fn script(random: &mut Random, packets: &[&[u8]]) -> Vec<u8> {
        let mut script = vec![random.next() as u8 & 2];
        for packet in packets {
            script.extend_from_slice(&[0, packet.len() as u8 - 1]);
            script.extend_from_slice(packet);
            for _ in 0..3 {
                script.extend_from_slice(&[3, 0xF1]);
            }
            if random.below(2) == 0 {
                script.extend_from_slice(&[5, random.next() as u8, random.next() as u8]);
            }
        }
        script
    }

    #[test]
    fn the_conversations_are_valid_to_their_end() {
        let mut random = Random(7);
        for (packets, version) in CONVERSATIONS
            .iter()
            .zip([Version::V31, Version::V311, Version::V5, Version::V5])
        {
            for packet in *packets {
                let mut rest = *packet;
                while !rest.is_empty() {
                    let (_, used) = decode(rest, version, Sender::Client, &Limits::WIRE).unwrap().unwrap();
                    rest = &rest[used..];
                }
            }
            fuzz_session(&script(&mut random, packets));
        }
    }

    #[test]
    fn no_input_makes_the_codec_panic_or_disagree_with_itself() {
        let mut random = Random(1);
        for _ in 0..4_000 {
            fuzz_codec(&random.bytes(64));
            for (choice, packets) in CONVERSATIONS.iter().enumerate() {
                let mut data = vec![choice.min(2) as u8 | random.next() as u8 & 0x80];
                data.extend_from_slice(&random.mutated(&packets.concat()));
                fuzz_codec(&data);
                for packet in *packets {
                    let mut data = vec![choice.min(2) as u8];
                    data.extend_from_slice(&random.mutated(packet));
                    fuzz_codec(&data);
                }
            }
        }
    }

    #[test]
    fn no_script_makes_the_session_panic_or_send_invalid_packets() {
        let mut random = Random(2);
        for _ in 0..4_000 {
            fuzz_session(&random.bytes(200));
            for packets in CONVERSATIONS {
                let valid = script(&mut random, packets);
                fuzz_session(&random.mutated(&valid));
                // The same packets, without the steps between them.
                let mut packets: Vec<Vec<u8>> = packets.iter().map(|packet| packet.to_vec()).collect();
                let at = random.below(packets.len());
                packets[at] = random.mutated(&packets[at]);
                let packets: Vec<&[u8]> = packets.iter().filter(|p| !p.is_empty()).map(|p| &p[..]).collect();
                fuzz_session(&script(&mut random, &packets));
            }
        }
    }
}
