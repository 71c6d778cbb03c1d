//! Offenders that abuse a transport and not a protocol.

use super::scene::Scene;
use super::spawn;
use crate::connect;
use crate::plan::{Endpoint, Protocol};
use crate::transport::{Transport, quic};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// Connections of one offender.
const CONNECTIONS: usize = 4;
/// Control frames written at once.
const PINGS: usize = 64;
/// QUIC handshakes that are begun and never continued.
const HALF_HANDSHAKES: usize = 5000;
/// Datagrams between two checks of the time.
const DATAGRAMS: usize = 64;
/// The smallest first packet that QUIC allows (RFC 9000 14.1).
const DATAGRAM_BYTES: usize = 1200;
/// Pause while the broker does not read.
const TICK: Duration = Duration::from_millis(1);

/// Sends pings without end, and reads no pong.
pub(crate) fn websocket_pings(scene: &Scene) {
    // A ping of 4 bytes, masked with zeros.
    let ping = [0x89, 0x84, 0, 0, 0, 0, 1, 2, 3, 4].repeat(PINGS);
    flood(scene, "pings", |stream, _| {
        stream.write_unframed(&ping)?;
        Ok(PINGS as u64)
    });
}

/// Sends one message in fragments that never ends; most fragments are empty.
pub(crate) fn websocket_fragments(scene: &Scene) {
    // The CONNECT was a message of its own. This one begins a PUBLISH of 100 bytes and never completes it.
    let mut begin = vec![0x02, 0x82, 0, 0, 0, 0, 0x30, 100];
    begin.extend([0x00, 0x80, 0, 0, 0, 0].repeat(PINGS));
    let more = [0x00, 0x80, 0, 0, 0, 0].repeat(PINGS);
    flood(scene, "fragments", |stream, first| {
        stream.write_unframed(if first { &begin } else { &more })?;
        Ok(PINGS as u64)
    });
}

/// Changes its keys again and again, and requires the broker to change its own each time.
pub(crate) fn key_updates(scene: &Scene) {
    flood(scene, "key updates", |stream, _| {
        stream.update_keys()?;
        stream.flush()?;
        Ok(1)
    });
}

/// Logs in on some connections and repeats `act` on each until the broker closes it or the scene is over. `act` is told
/// whether this is its first call, and returns how many acts it did.
fn flood(scene: &Scene, what: &str, act: impl Fn(&mut Transport, bool) -> std::io::Result<u64> + Sync) {
    scene.set_in_place();
    thread::scope(|scope| {
        for index in 0..CONNECTIONS {
            let act = &act;
            spawn(scope, move || {
                let connected = connect::idle(scene.endpoint(Protocol::Mqtt), index);
                let mut stream = match connected {
                    Ok(connected) => connected.stream,
                    Err(error) => return scene.note(&format!("{what}: {error:#}")),
                };
                let _ = stream.set_nonblocking(true);
                let mut first = true;
                while !scene.is_over() {
                    match act(&mut stream, first) {
                        Ok(done) => {
                            first = false;
                            scene.add_acts(done);
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(TICK),
                        Err(error) => return scene.note(&format!("{what}: {}", error.kind())),
                    }
                    if let Ok(0) = stream.read(&mut [0; 4096]) {
                        return scene.note(&format!("{what}: closed"));
                    }
                }
                scene.note(&format!("{what}: left open"));
            });
        }
    });
}

/// Begins QUIC handshakes and never continues them.
pub(crate) fn half_handshakes(scene: &Scene) {
    over_quic(scene, |address, over, acts| {
        quic::half_handshakes(address, HALF_HANDSHAKES, over, acts).map(|()| None)
    });
}

/// Opens further streams beside the session's, as fast as they are refused.
pub(crate) fn streams(scene: &Scene) {
    over_quic(scene, quic::open_streams);
}

type Told = Box<dyn Fn() + Send + Sync>;
type Over = Box<dyn Fn() -> bool + Send + Sync>;

/// Runs `offend` with QUIC's thread, until the scene is over.
fn over_quic(scene: &Scene, offend: impl FnOnce(SocketAddr, Over, Told) -> anyhow::Result<Option<String>> + Send) {
    let Endpoint { address, .. } = *scene.endpoint(Protocol::Mqtt);
    let over = Arc::new(AtomicBool::new(false));
    let acts = Arc::new(AtomicU64::new(0));
    scene.set_in_place();
    thread::scope(|scope| {
        let offending = scope.spawn({
            let (over, acts) = (Arc::clone(&over), Arc::clone(&acts));
            move || {
                let is_over: Over = Box::new(move || over.load(Relaxed));
                let told: Told = Box::new(move || {
                    acts.fetch_add(1, Relaxed);
                });
                offend(address, is_over, told)
            }
        });
        while !scene.is_over() && !offending.is_finished() {
            thread::sleep(TICK);
        }
        over.store(true, Relaxed);
        match offending.join() {
            Ok(Ok(None)) => scene.note("left open"),
            Ok(Ok(Some(why))) => scene.note(&why),
            Ok(Err(error)) => scene.note(&format!("{error:#}")),
            Err(_) => scene.note("the offender failed"),
        }
    });
    scene.add_acts(acts.load(Relaxed));
}

/// Sends datagrams that resemble first packets of QUIC, packets of connections, or neither.
pub(crate) fn datagrams(scene: &Scene) {
    let Endpoint { address, .. } = *scene.endpoint(Protocol::Mqtt);
    scene.set_in_place();
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) else {
        return scene.note("no socket");
    };
    let mut noise = super::crowd::Random::new();
    let mut datagram = [0; DATAGRAM_BYTES];
    let mut answers = 0u64;
    let _ = socket.set_nonblocking(true);
    while !scene.is_over() {
        for turn in 0..DATAGRAMS {
            datagram.chunks_mut(8).for_each(|part| {
                let bytes = noise.next().to_le_bytes();
                part.copy_from_slice(&bytes[..part.len()]);
            });
            let size = match turn % 4 {
                // A long header of version 1: an Initial with a connection id of 8 bytes and no token.
                0 => {
                    datagram[..6].copy_from_slice(&[0xC0, 0, 0, 0, 1, 8]);
                    datagram[14] = 0;
                    datagram[15] = 0;
                    datagram[16..18].copy_from_slice(&[0x44, 0x9E]);
                    DATAGRAM_BYTES
                }
                // A version that nobody implements.
                1 => {
                    datagram[0] |= 0x80;
                    DATAGRAM_BYTES
                }
                // A short header for an unknown connection.
                2 => {
                    datagram[0] = 0x40 | (datagram[0] & 0x3F);
                    100
                }
                _ => 1 + (noise.next() as usize % DATAGRAM_BYTES),
            };
            if socket.send_to(&datagram[..size], address).is_err() {
                thread::sleep(TICK);
            }
        }
        scene.add_acts(DATAGRAMS as u64);
        while socket.recv(&mut [0; 2048]).is_ok() {
            answers += 1;
        }
    }
    scene.note(&format!("{answers} datagrams in answer"));
}
