//! Offenders that never log in: many connections, or random bytes.

use super::line::{Line, name};
use super::scene::Scene;
use super::spawn;
use crate::plan::Protocol;
use crate::wire::amqp::{self, Amqp};
use crate::wire::mqtt::{Login, Mqtt, Version};
use crate::wire::nats::Nats;
use crate::wire::stomp::Stomp;
use std::thread;
use std::time::{Duration, Instant};

const PROTOCOLS: [Protocol; 3] = [Protocol::Amqp, Protocol::Mqtt, Protocol::Stomp];
const HALF_OPEN_CONNECTIONS: usize = 2000;
const SLOW_CONNECTIONS: usize = 200;
/// A slow connection sends one byte in this time.
const SLOW_BYTE: Duration = Duration::from_secs(1);
const FLOOD_CONNECTIONS_MAX: u64 = 50_000;
const FLOOD_THREADS: u64 = 2;
/// For each protocol.
const GARBAGE_CONNECTIONS_MAX: u64 = 5000;
const GARBAGE_BYTES_MAX: u64 = 4096;
/// A broker that takes random bytes for the beginning of something long may wait for the rest. We wait no longer than
/// this.
const GARBAGE_PATIENCE: Duration = Duration::from_millis(20);
/// How often the state of the connections is checked.
const LOOK: Duration = Duration::from_millis(200);
/// Pause between two attempts of a client that was refused.
const PAUSE: Duration = Duration::from_millis(10);

/// Opens and closes connections as fast as possible.
pub(crate) fn connect_flood(scene: &Scene) {
    scene.set_in_place();
    thread::scope(|scope| {
        for _ in 0..FLOOD_THREADS {
            spawn(scope, || {
                for turn in 0..FLOOD_CONNECTIONS_MAX / FLOOD_THREADS {
                    if scene.is_over() {
                        break;
                    }
                    let protocol = PROTOCOLS[turn as usize % PROTOCOLS.len()];
                    match Line::connect(scene.endpoint(protocol)) {
                        Ok(_) => scene.note(&format!("{}: accepted", name(protocol))),
                        Err(error) => {
                            scene.note(&format!("{}: cannot connect: {}", name(protocol), error.kind()));
                            thread::sleep(PAUSE);
                        }
                    }
                    scene.add_acts(1);
                }
            });
        }
    });
}

/// Sends the beginning of a handshake on many connections and waits.
pub(crate) fn half_open(scene: &Scene) {
    let mut lines = Vec::new();
    for index in 0..HALF_OPEN_CONNECTIONS {
        let protocol = PROTOCOLS[index % PROTOCOLS.len()];
        let Some(mut line) = Line::open(scene, protocol) else {
            thread::sleep(PAUSE);
            continue;
        };
        line.say(
            scene,
            match protocol {
                // Every other connection sends the whole header, so that the broker begins the login.
                Protocol::Amqp if index % 2 == 0 => amqp::PROTOCOL_HEADER,
                Protocol::Amqp => b"AMQP",
                Protocol::Mqtt | Protocol::Mqtt5 => b"\x10\x20\0\x04M",
                Protocol::Stomp => b"CONNECT\naccept-version:1.2\nho",
                Protocol::Nats => b"CONNECT {",
            },
        );
        scene.add_acts(1);
        lines.push(line);
        if scene.is_over() {
            break;
        }
    }
    scene.set_in_place();
    while watch(scene, &mut lines) {
        thread::sleep(LOOK);
    }
    leave(scene, lines);
}

/// Sends handshakes that never end, one byte a second on each connection.
pub(crate) fn slow_loris(scene: &Scene) {
    let opened = (0..SLOW_CONNECTIONS).map(|index| Line::open(scene, PROTOCOLS[index % PROTOCOLS.len()]));
    let mut lines: Vec<Line> = opened.flatten().collect();
    scene.set_in_place();
    let handshakes = PROTOCOLS.map(endless_handshake);
    let (mut sent, mut spoke) = (0, None::<Instant>);
    while watch(scene, &mut lines) {
        if spoke.is_none_or(|spoke| spoke.elapsed() >= SLOW_BYTE) {
            spoke = Some(Instant::now());
            for line in lines.iter_mut().filter(|line| !line.has_ended()) {
                let place = PROTOCOLS.iter().position(|protocol| *protocol == line.protocol());
                let byte = place.and_then(|place| handshakes[place].get(sent..=sent));
                line.say(scene, byte.unwrap_or_default());
                scene.add_acts(1);
            }
            sent += 1;
        }
        thread::sleep(LOOK);
    }
    leave(scene, lines);
}

/// A handshake that would be valid if it were completed.
fn endless_handshake(protocol: Protocol) -> Vec<u8> {
    let name = "x".repeat(60_000);
    let mut bytes = Vec::new();
    match protocol {
        Protocol::Amqp => {
            bytes.extend_from_slice(amqp::PROTOCOL_HEADER);
            Amqp::start_ok(&mut bytes, &name, "");
        }
        Protocol::Mqtt | Protocol::Mqtt5 => connect(&mut bytes, &name),
        Protocol::Stomp => Stomp::connect(&mut bytes, &name, "", "/"),
        Protocol::Nats => Nats::new(&name).connect(&mut bytes, None),
    }
    bytes
}

fn connect(out: &mut Vec<u8>, client_id: &str) {
    let login = Login {
        client_id,
        user: None,
        clean: true,
        keep_alive_s: 60,
    };
    Mqtt::new(Version::V311).connect(out, &login);
}

/// Reads what came on the connections. Returns false if nothing more can come.
fn watch(scene: &Scene, lines: &mut [Line]) -> bool {
    let mut open = 0;
    for line in lines.iter_mut().filter(|line| !line.has_ended()) {
        while line.read() {
            line.digest();
        }
        open += usize::from(!line.has_ended());
    }
    if open == 0 {
        scene.set_settled();
    }
    open > 0 && !scene.is_over()
}

fn leave(scene: &Scene, lines: Vec<Line>) {
    for line in lines {
        line.leave(scene);
    }
}

/// Sends random bytes, and reconnects each time the broker closes.
pub(crate) fn garbage(scene: &Scene) {
    scene.set_in_place();
    thread::scope(|scope| {
        for (place, protocol) in PROTOCOLS.into_iter().enumerate() {
            spawn(scope, move || {
                let mut random = Random(0x9E37_79B9_7F4A_7C15 + place as u64);
                for turn in 0..GARBAGE_CONNECTIONS_MAX {
                    if scene.is_over() {
                        break;
                    }
                    let Some(mut line) = Line::open(scene, protocol) else {
                        thread::sleep(PAUSE);
                        continue;
                    };
                    let mut bytes = Vec::new();
                    if turn % 2 == 1 {
                        put_start(&mut bytes, protocol);
                    }
                    let noise = 1 + random.next() % GARBAGE_BYTES_MAX;
                    bytes.extend((0..noise).map(|_| random.next() as u8));
                    line.say(scene, &bytes);
                    line.hear_out(GARBAGE_PATIENCE);
                    line.leave(scene);
                    scene.add_acts(1);
                }
            });
        }
    });
}

/// A valid start, so that the bytes after it reach the decoder of frames.
fn put_start(out: &mut Vec<u8>, protocol: Protocol) {
    match protocol {
        Protocol::Amqp => {
            out.extend_from_slice(amqp::PROTOCOL_HEADER);
            Amqp::start_ok(out, "guest", "guest");
        }
        Protocol::Mqtt | Protocol::Mqtt5 => connect(out, "gatepost-bench-garbage"),
        Protocol::Stomp => Stomp::connect(out, "guest", "guest", "/"),
        Protocol::Nats => Nats::new("gatepost-bench-garbage").connect(out, None),
    }
}

/// xorshift: the same bytes in every run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }
}
