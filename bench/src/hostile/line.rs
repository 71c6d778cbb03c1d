//! A connection of an offender: a socket that never blocks, and a description of the broker's answers.

use super::scene::Scene;
use crate::connect::{Connected, Wire};
use crate::plan::{Endpoint, Protocol};
use crate::transport::{Transport, quic};
use crate::wire::{amqp, mqtt, nats, stomp};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// A connection.
#[derive(Debug)]
pub(crate) struct Line {
    stream: Transport,
    protocol: Protocol,
    /// Bytes read and not parsed yet.
    pub(crate) heard: Vec<u8>,
    /// Complete frames parsed.
    frames: usize,
    /// The first answer that refused something.
    refusal: Option<String>,
    ending: Option<Ending>,
    /// The broker did not read for [`HELD_BACK`] while we wanted to write.
    is_held_back: bool,
}

/// How the broker ended a connection.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Closed,
    Reset,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a socket that is not ready is tried again.
const TICK: Duration = Duration::from_millis(1);
/// If a socket accepts nothing for this long, the broker does not read it.
const HELD_BACK: Duration = Duration::from_millis(200);
/// Number of characters by which answers are told apart.
const REFUSAL_CHARS_MAX: usize = 56;
const CONNECTION_CLOSE: amqp::Method = (10, 50);
const CHANNEL_CLOSE: amqp::Method = (20, 40);

impl Line {
    /// Connects and sends nothing. `None`, with a note, if the broker does not accept the connection.
    pub(crate) fn open(scene: &Scene, protocol: Protocol) -> Option<Self> {
        let opened = Self::connect(scene.endpoint(protocol)).and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => Some(Self::new(Transport::plain(stream), protocol)),
            Err(error) => {
                scene.note(&format!("{}: cannot connect: {}", name(protocol), error.kind()));
                None
            }
        }
    }

    /// A socket connected to the listener: TCP, or a stream of QUIC.
    pub(super) fn connect(endpoint: &Endpoint) -> io::Result<TcpStream> {
        if endpoint.carrier.quic {
            return quic::connect(endpoint.address, CONNECT_TIMEOUT).map_err(io::Error::other);
        }
        TcpStream::connect_timeout(&endpoint.address, CONNECT_TIMEOUT)
    }

    /// Continues after a proper login.
    pub(crate) fn logged_in(scene: &Scene, connected: anyhow::Result<Connected>) -> Option<(Self, Wire)> {
        let opened = connected.and_then(|Connected { stream, wire, rest }| {
            stream.set_nonblocking(true)?;
            let protocol = match &wire {
                Wire::Amqp(_) => Protocol::Amqp,
                Wire::Mqtt(_) => Protocol::Mqtt,
                Wire::Stomp(_) => Protocol::Stomp,
                Wire::Nats(_) => Protocol::Nats,
            };
            let mut line = Self::new(stream, protocol);
            line.heard = rest;
            Ok((line, wire))
        });
        opened
            .inspect_err(|error| scene.note(&format!("log-in: {}", plain(&format!("{error:#}")))))
            .ok()
    }

    fn new(stream: Transport, protocol: Protocol) -> Self {
        Self {
            stream,
            protocol,
            heard: Vec::new(),
            frames: 0,
            refusal: None,
            ending: None,
            is_held_back: false,
        }
    }

    /// Writes all of `bytes`, however long that takes. Returns false if the connection or the scene ended first.
    pub(crate) fn say(&mut self, scene: &Scene, mut bytes: &[u8]) -> bool {
        let mut moved = Instant::now();
        while !bytes.is_empty() && self.ending.is_none() && !scene.is_over() {
            match self.stream.write(bytes) {
                Ok(written) => {
                    bytes = &bytes[written..];
                    moved = Instant::now();
                }
                Err(error) if is_patience(error.kind()) => {
                    self.is_held_back |= moved.elapsed() > HELD_BACK;
                    thread::sleep(TICK);
                }
                Err(_) => {
                    // What the broker sent before it closed may still be there.
                    while self.read() {
                        self.digest();
                    }
                    self.ending.get_or_insert(Ending::Reset);
                }
            }
        }
        bytes.is_empty()
    }

    /// Reads once without waiting. Returns whether there was anything.
    pub(crate) fn read(&mut self) -> bool {
        let mut buffer = [0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.ending = Some(Ending::Closed),
            Ok(read) => {
                self.heard.extend_from_slice(&buffer[..read]);
                return true;
            }
            Err(error) if is_patience(error.kind()) => {}
            Err(_) => self.ending = Some(Ending::Reset),
        }
        false
    }

    /// Counts the complete frames read, and keeps the first that refuses something.
    pub(crate) fn digest(&mut self) {
        let mut at = 0;
        loop {
            let rest = &self.heard[at..];
            // AMQP 0-9-1 4.2.2: a server that does not accept our header sends its own and closes.
            if self.protocol == Protocol::Amqp && rest.starts_with(b"AMQP") {
                self.refusal.get_or_insert("protocol header".into());
                at = self.heard.len();
                break;
            }
            match frame_len(self.protocol, rest) {
                Ok(Some(len)) => {
                    self.frames += 1;
                    if self.refusal.is_none() {
                        self.refusal = refusal(self.protocol, &rest[..len]);
                    }
                    at += len;
                }
                Ok(None) => break,
                Err(error) => {
                    self.refusal.get_or_insert(error.to_string());
                    at = self.heard.len();
                    break;
                }
            }
        }
        self.heard.drain(..at);
    }

    /// Reads until `frames` more have come. Returns false if the connection or the scene ended first, or nothing came
    /// for `timeout`.
    pub(crate) fn hear(&mut self, scene: &Scene, frames: usize, timeout: Duration) -> bool {
        let due = self.frames + frames;
        let mut moved = Instant::now();
        while self.frames < due {
            if self.read() {
                self.digest();
                moved = Instant::now();
            } else if self.has_ended() || scene.is_over() || moved.elapsed() > timeout {
                return false;
            } else {
                thread::sleep(TICK);
            }
        }
        true
    }

    /// Reads until the broker has closed the connection or asked to, or until `timeout` is over.
    pub(crate) fn hear_out(&mut self, timeout: Duration) {
        let begun = Instant::now();
        while !self.has_ended() && !self.is_bid_to_close() && begun.elapsed() < timeout {
            if self.read() {
                self.digest();
            } else {
                thread::sleep(TICK);
            }
        }
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ending.is_some()
    }

    /// AMQP 0-9-1 1.4.2.4: after connection.close the broker waits for our close-ok, which it does not get.
    fn is_bid_to_close(&self) -> bool {
        self.protocol == Protocol::Amqp && self.is_refused()
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.refusal.is_some()
    }

    /// Closes, and records how the broker treated the connection.
    pub(crate) fn leave(self, scene: &Scene) {
        let protocol = name(self.protocol);
        self.leave_as(scene, protocol);
    }

    /// Closes, and records it under another name than the protocol's.
    pub(crate) fn leave_as(self, scene: &Scene, who: &str) {
        let held_back = if self.is_held_back { ", held back" } else { "" };
        let answer = match (&self.refusal, self.ending) {
            (Some(words), ending) if ending.is_some() || self.is_bid_to_close() => words.clone(),
            (Some(words), _) => format!("{words}, left open"),
            (None, Some(Ending::Closed)) => "closed".into(),
            (None, Some(Ending::Reset)) => "reset".into(),
            (None, None) => "left open".into(),
        };
        scene.note(&format!("{who}: {answer}{held_back}"));
    }
}

pub(crate) fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Amqp => "AMQP",
        Protocol::Mqtt | Protocol::Mqtt5 => "MQTT",
        Protocol::Stomp => "STOMP",
        Protocol::Nats => "NATS",
    }
}

fn is_patience(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn frame_len(protocol: Protocol, input: &[u8]) -> Result<Option<usize>, crate::wire::WireError> {
    match protocol {
        Protocol::Amqp => amqp::frame_len(input),
        Protocol::Mqtt | Protocol::Mqtt5 => mqtt::packet_len(input),
        Protocol::Stomp => stomp::frame_len(input),
        Protocol::Nats => nats::frame_len(input),
    }
}

/// What a complete frame refuses, if anything.
fn refusal(protocol: Protocol, frame: &[u8]) -> Option<String> {
    match protocol {
        Protocol::Amqp => {
            let (_, payload) = frame.split_at_checked(7)?;
            let (&[1, ..], &[class_high, class, method_high, method, ..]) = (frame, payload) else {
                return None;
            };
            let found = (
                u16::from_be_bytes([class_high, class]),
                u16::from_be_bytes([method_high, method]),
            );
            let what = match found {
                CONNECTION_CLOSE => "connection.close",
                CHANNEL_CLOSE => "channel.close",
                _ => return None,
            };
            let args = &payload[4..];
            let code = u16::from_be_bytes([*args.first()?, *args.get(1)?]);
            let text = args.get(3..3 + usize::from(*args.get(2)?))?;
            let text = String::from_utf8_lossy(text);
            // After the comma come the bytes that were wrong.
            let reason = text.split(',').next().unwrap_or_default();
            Some(format!("{what} {code} {}", plain(reason)))
        }
        Protocol::Mqtt | Protocol::Mqtt5 => match *frame {
            [0x20, _, _, code, ..] if code != 0 => Some(format!("CONNACK {code:#04x}")),
            [0x90, .., code] if code >= 0x80 => Some(format!("SUBACK {code:#04x}")),
            [0xE0, _, reason, ..] => Some(format!("DISCONNECT {reason:#04x}")),
            [0xE0, ..] => Some("DISCONNECT".into()),
            _ => None,
        },
        Protocol::Stomp => {
            let start = frame.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
            let text = String::from_utf8_lossy(frame.get(start..)?);
            let mut lines = text.lines();
            if lines.next()? != "ERROR" {
                return None;
            }
            let message = lines.find_map(|line| line.strip_prefix("message:")).unwrap_or_default();
            Some(format!("ERROR {}", plain(message)))
        }
        Protocol::Nats => Some(plain(std::str::from_utf8(frame).ok()?.strip_prefix("-ERR ")?)),
    }
}

/// An answer without the parts that differ from one act to the next: numbers, and quoted bytes of ours.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for letter in text.chars() {
        if plain.len() >= REFUSAL_CHARS_MAX {
            break;
        }
        match letter {
            '0'..='9' if plain.ends_with('#') => {}
            '0'..='9' => plain.push('#'),
            '|' => plain.push('/'),
            ' '..='~' => plain.push(letter),
            _ if plain.ends_with('?') => {}
            _ => plain.push('?'),
        }
    }
    plain.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_from_answers() {
        let mut close = Vec::new();
        amqp::put_method(&mut close, 0, CONNECTION_CLOSE, |args| {
            args.extend_from_slice(&501_u16.to_be_bytes());
            amqp::put_short(args, "FRAME_ERROR - type 77, all octets = <<>>");
            args.extend_from_slice(&[0; 4]);
        });
        let said = refusal(Protocol::Amqp, &close);
        assert_eq!(said.as_deref(), Some("connection.close 501 FRAME_ERROR - type #"));
        let mut fine = Vec::new();
        amqp::put_method(&mut fine, 1, amqp::CHANNEL_OPEN_OK, |args| {
            args.extend_from_slice(&[0; 4])
        });
        assert_eq!(refusal(Protocol::Amqp, &fine), None);
        assert_eq!(refusal(Protocol::Mqtt, &[0x20, 2, 0, 0]), None);
        assert_eq!(
            refusal(Protocol::Mqtt, &[0x20, 2, 0, 5]).as_deref(),
            Some("CONNACK 0x05")
        );
        assert_eq!(
            refusal(Protocol::Mqtt, &[0x90, 3, 0, 1, 0x97]).as_deref(),
            Some("SUBACK 0x97")
        );
        assert_eq!(refusal(Protocol::Mqtt, &[0xE0, 0]).as_deref(), Some("DISCONNECT"));
        let error = b"\nERROR\ncontent-length:0\nmessage:bad frame\n\n\0";
        assert_eq!(refusal(Protocol::Stomp, error).as_deref(), Some("ERROR bad frame"));
    }

    #[test]
    fn a_refusal_cut_short_is_no_panic() {
        let mut close = Vec::new();
        amqp::put_method(&mut close, 0, CONNECTION_CLOSE, |args| {
            args.extend_from_slice(&[1, 2, 200, 3])
        });
        for len in 0..=close.len() {
            assert_eq!(refusal(Protocol::Amqp, &close[..len]), None, "length {len}");
        }
    }
}
