//! All connections: the gateway's pump under each, with a script in place of sockets and threads.

use super::Script;
use super::amqp::{AmqpClient, get_safely};
use super::book::Book;
use super::mqtt::MqttClient;
use super::stomp::StompClient;
use super::wire::Wire;
use gatepost_amqp::Amqp;
use gatepost_core::engine;
use gatepost_core::event::{Event, Pressure};
use gatepost_core::properties::Codecs;
use gatepost_core::session::Protocol;
use gatepost_core::store::StoreSettings;
use gatepost_core::testing::disk::{Crash, Fault, Rng};
use gatepost_core::testing::pipe::Pipe;
use gatepost_core::testing::world::World;
use gatepost_mqtt::Mqtt;
use gatepost_stomp::Stomp;
use std::collections::VecDeque;
use std::time::Duration;

/// The number of connections at a time.
const SLOTS: usize = 4;
/// Bytes of messages that a turn has room for: everything, or nothing.
const ROOM: usize = usize::MAX;
const NO_ROOM: usize = 0;

/// All connections, and the world that they are in.
pub(crate) struct Broker {
    world: World,
    protocols: [Box<dyn Protocol>; 3],
    slots: [Option<Connection>; SLOTS],
    connections: u64,
    book: Book,
    /// A fault of the disk is still to come, so a stop in good order would fail.
    faulty: bool,
}

/// A client, and its end of the connection.
struct Connection {
    wire: Box<dyn Wire>,
    pipe: Pipe,
    /// Received bytes that are not a whole frame yet.
    received: Vec<u8>,
}

impl Broker {
    /// `choice` is the seed, and makes memory or segments scarce.
    pub(crate) fn new(choice: u8) -> Broker {
        let mut settings = engine::Settings::default();
        if choice & 1 != 0 {
            settings.cache_bytes_max = 1 << 10;
        }
        if choice & 2 != 0 {
            settings.memory_bytes_max = 32 << 10;
        }
        let store_settings = StoreSettings {
            segment_bytes: if choice & 4 != 0 { 16 << 10 } else { 128 << 10 },
            compact_age_min: 1,
            compact_live_percent_max: 90,
            slice_bytes: 4 << 10,
            checkpoint_every: Duration::from_secs(1),
            ..StoreSettings::default()
        };
        let protocols: [Box<dyn Protocol>; 3] = [
            Box::new(Amqp::new(gatepost_amqp::Settings::default())),
            Box::new(Mqtt::default()),
            Box::new(Stomp::new(gatepost_stomp::Settings::default())),
        ];
        let codecs = Codecs::new(protocols.iter().map(|protocol| protocol.codec()).collect());
        let mut broker = Broker {
            world: World::speaking(u64::from(choice), settings, store_settings, codecs),
            protocols,
            slots: [const { None }; SLOTS],
            connections: 0,
            book: Book::default(),
            faulty: false,
        };
        broker.connect(0, 0, 0);
        broker.until_quiet();
        let first = broker.slots[0].as_ref();
        assert!(
            first.is_some_and(|connection| broker.world.is_attached(connection.pipe)),
            "an AMQP client is let in"
        );
        broker
    }

    /// Does what the next bytes of the script say.
    pub(crate) fn step(&mut self, script: &mut Script<'_>) {
        let step = script.octet();
        let slot = usize::from(step) % SLOTS;
        match step >> 2 & 15 {
            0..=4 => {
                let (index, detail) = (script.octet(), script.octet());
                self.say(slot, |wire, _| wire.phrase(index, detail));
            }
            5 => self.say(slot, |wire, book| wire.publish_safely(book)),
            6 | 7 => {
                let detail = script.octet();
                self.say(slot, |wire, _| wire.settle(detail));
            }
            8 => {
                let detail = script.octet();
                if self.slots[slot].is_none() {
                    self.connect(slot, usize::from(detail) % 3, detail / 3);
                }
                self.turn(slot, ROOM);
            }
            9 => match script.octet() {
                detail @ 0..=15 => {
                    let length = usize::from(script.octet()).max(usize::from(detail));
                    let octets = script.octets(length);
                    self.book.wild = true;
                    self.say(slot, |_, _| octets.to_vec());
                }
                _ => self.hang_up(slot),
            },
            10 => {
                let detail = script.octet();
                let room = match detail {
                    0..=63 => usize::from(detail) * 8,
                    _ => ROOM,
                };
                self.turn(slot, room);
            }
            11 | 12 => self.log(script.octet()),
            13 => self.advance(Duration::from_millis(u64::from(script.octet()).pow(2))),
            14 => self.until_quiet(),
            _ => self.disturb(script.octet()),
        }
        if !self.world.is_running() {
            self.crash(Crash::Power);
        }
    }

    /// All clients disconnect; confirmed messages that nobody has received are fetched; then nothing of the clients may
    /// be left.
    pub(crate) fn finish(mut self) -> u64 {
        self.until_quiet();
        for slot in 0..SLOTS {
            self.hang_up(slot);
        }
        self.world.set_pressure(None);
        // A command may have to wait for the log, and the end comes after it.
        self.world.settle();
        if self.world.is_running() {
            self.world.assert_idle();
            // This also removes faults of the disk that are still to come.
            self.crash(Crash::Process);
        } else {
            self.crash(Crash::Power);
        }
        if self.book.len() > 0 {
            self.connect(0, 0, 0);
            self.until_quiet();
            // Some were received more than once: redelivered, or again after a crash.
            for _ in 0..=self.book.len() {
                self.say(0, |_, _| get_safely());
                self.until_quiet();
            }
            self.hang_up(0);
            self.world.catch_up();
            self.book.check();
        }
        self.world.assert_idle();
        self.world.trace()
    }

    fn connect(&mut self, slot: usize, protocol: usize, detail: u8) {
        self.connections += 1;
        let mut wire = client(protocol, self.connections);
        let pipe = self.world.open(&*self.protocols[protocol]);
        self.world.feed(pipe, &wire.hello(detail));
        self.slots[slot] = Some(Connection {
            wire,
            pipe,
            received: Vec::new(),
        });
    }

    fn say(&mut self, slot: usize, what: impl FnOnce(&mut dyn Wire, &mut Book) -> Vec<u8>) {
        if let Some(connection) = &mut self.slots[slot] {
            let octets = what(&mut *connection.wire, &mut self.book);
            self.world.feed(connection.pipe, &octets);
            self.turn(slot, NO_ROOM);
        }
    }

    /// The client vanishes.
    fn hang_up(&mut self, slot: usize) {
        if let Some(connection) = self.slots[slot].take() {
            self.world.break_pipe(connection.pipe);
        }
    }

    /// One turn of a connection, and its client's answers.
    fn turn(&mut self, slot: usize, room: usize) {
        let Some(connection) = &mut self.slots[slot] else {
            return;
        };
        let pipe = connection.pipe;
        self.world.turn_of(pipe, room);
        self.world.answer_logins(|_| Event::authenticated("guest"));
        connection.received.append(&mut self.world.drain(pipe));
        let mut answer = Vec::new();
        loop {
            let used = connection
                .wire
                .receive(&connection.received, &mut answer, &mut self.book);
            if used == 0 {
                break;
            }
            connection.received.drain(..used);
        }
        self.world.feed(pipe, &answer);
        if self.world.ended(pipe).is_some() {
            assert!(connection.received.is_empty(), "the last words are whole");
            self.slots[slot] = None;
            self.world.break_pipe(pipe);
        }
    }

    /// The log and the reader do some of their work.
    fn log(&mut self, detail: u8) {
        if detail & 1 != 0 && !self.world.commit() {
            return;
        }
        if detail & 2 != 0 {
            self.world.report();
        }
        if detail & 4 != 0 {
            self.world.fetch();
        }
        if detail & 8 != 0 {
            self.world.bring();
        }
    }

    fn advance(&mut self, by: Duration) {
        self.world.advance(by);
        for slot in 0..SLOTS {
            self.turn(slot, NO_ROOM);
        }
    }

    /// All clients take everything and the log catches up, until nothing is left to do.
    fn until_quiet(&mut self) {
        let mut order: VecDeque<usize> = (0..SLOTS).collect();
        for _ in 0..64 {
            self.world.catch_up();
            if !self.world.is_running() {
                self.crash(Crash::Power);
            }
            let busy = order.iter().copied().find(|slot| {
                let connection = self.slots[*slot].as_ref();
                connection.is_some_and(|connection| self.world.is_ready(connection.pipe))
            });
            let Some(busy) = busy else { return };
            self.turn(busy, ROOM);
            order.rotate_left(1);
        }
    }

    fn disturb(&mut self, detail: u8) {
        let nth = u64::from(detail >> 4);
        self.faulty |= matches!(detail & 15, 4..=7);
        match detail & 15 {
            3 if !self.faulty => {
                for slot in 0..SLOTS {
                    self.hang_up(slot);
                }
                self.world.stop_and_start();
            }
            0 | 1 | 3 => self.crash(Crash::Power),
            2 => self.crash(Crash::Process),
            4 | 5 => self.world.disk().crash_after(nth),
            6 => self.world.disk().fail_after(nth, Fault::Io),
            7 => self.world.disk().fail_after(nth, Fault::NoSpace),
            8 => self.world.disk().write_back(),
            9 => self.world.set_pressure(Some(Pressure::Memory)),
            10 => self.world.set_pressure(None),
            11 => self.world.disk().hinder(&mut Rng::new(nth)),
            12 => self.world.disk().relieve(),
            _ => self.world.tick(),
        }
    }

    /// The machine stops and starts; all connections are gone.
    fn crash(&mut self, how: Crash) {
        self.slots = [const { None }; SLOTS];
        self.faulty = false;
        self.world.crash(how);
    }
}

/// A client of the protocol with that index in [`Broker::protocols`]. `connection` is unique.
fn client(protocol: usize, connection: u64) -> Box<dyn Wire> {
    match protocol {
        0 => Box::new(AmqpClient::new(connection)),
        1 => Box::new(MqttClient::default()),
        _ => Box::new(StompClient::default()),
    }
}
