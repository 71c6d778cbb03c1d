//! The bodies of the fuzz targets, and a test that runs them over pseudo-random octets and mutated conversations.

mod engine;

use crate::Stomp;
use crate::codec::{Decoder, Step};
use crate::destination::{Destination, push_destination};
use crate::frame::escape::escape;
use crate::frame::{Headers, Verb, Version};
use crate::properties;
use crate::settings::Settings;
use engine::Engine;
use gatepost_core::command::{Command, Peer};
use gatepost_core::message::Dialect;
use gatepost_core::properties::{Codecs, PropertyCodec};
use gatepost_core::session::{Close, Cx, Protocol, ReadInterest, Session};
use gatepost_core::time::{Now, Time, Wall};
use gatepost_core::topic::Levels;
use std::sync::Arc;
use std::time::Duration;

type DecodedFrame = (Verb, String, Vec<(String, String)>, Vec<u8>);

/// Decodes `data` as a client's frames. Its first octet chooses the version, its second the size of the pieces.
///
/// # Panics
/// If the input in pieces decodes differently from the whole input, or if an encoded frame does not decode to the same
/// frame.
pub fn fuzz_codec(data: &[u8]) {
    let [version, chunk, input @ ..] = data else { return };
    let version = [None, Some(Version::V1_0), Some(Version::V1_1), Some(Version::V1_2)][usize::from(version % 4)];
    let whole = decode(version, input, input.len().max(1));
    assert_eq!(
        decode(version, input, usize::from(*chunk).max(1)).0,
        whole.0,
        "pieces and whole differ"
    );
    for (verb, command, headers, body) in &whole.0 {
        check_destination(headers);
        if *verb == Verb::Connect
            || headers
                .iter()
                .any(|(name, value)| name.contains('\0') || value.contains('\0'))
        {
            continue;
        }
        let mut again = Vec::new();
        again.extend_from_slice(command.as_bytes());
        for (name, value) in headers {
            again.push(b'\n');
            escape(name.as_bytes(), Version::V1_2, &mut again);
            again.push(b':');
            escape(value.as_bytes(), Version::V1_2, &mut again);
        }
        again.extend_from_slice(b"\n\n");
        again.extend_from_slice(body);
        again.push(0);
        let (frames, refusal) = decode(Some(Version::V1_2), &again, again.len());
        assert_eq!(refusal, None);
        assert_eq!(frames, [(*verb, command.clone(), headers.clone(), body.clone())]);
        check_properties(headers);
    }
}

/// Drives a session by the steps in `data`: octets from the client, answers and deliveries from a small engine, time.
///
/// # Panics
/// If the session writes anything that is not valid STOMP, or sends the engine an invalid command.
pub fn fuzz_session(data: &[u8]) {
    let mut data = data.iter().copied();
    let mut next = || data.next();
    let Some(choice) = next() else { return };
    let mut run = Run::new(choice & 1 == 1);
    while let Some(step) = next().filter(|_| run.closed.is_none()) {
        let detail = next().unwrap_or(0);
        match step % 8 {
            0..=2 => {
                let octets: Vec<u8> = (0..=detail).map_while(|_| next()).collect();
                run.receive(&octets);
            }
            3..=4 => run.answer(detail),
            5 => run.deliver(detail),
            6 => run.advance(Duration::from_millis(u64::from(detail) * 20)),
            _ => run.pause(detail & 1 == 1),
        }
    }
}

fn decode(version: Option<Version>, input: &[u8], chunk: usize) -> (Vec<DecodedFrame>, Option<String>) {
    let settings = Settings {
        max_message_size: 4096,
        ..Settings::default()
    };
    let mut decoder = Decoder::default();
    if let Some(version) = version {
        decoder.set_version(version);
    }
    let (mut from, mut to, mut frames) = (0, 0, Vec::new());
    loop {
        match decoder.next(&input[from..to], &settings) {
            Ok(Step::Partial { consumed }) => {
                from += consumed;
                assert!(from <= to);
                if to == input.len() {
                    return (frames, None);
                }
                to = (to + chunk).min(input.len());
            }
            Ok(Step::Frame { verb, body, consumed }) => {
                let headers = decoder
                    .headers
                    .iter()
                    .map(|(name, value)| (name.into(), value.into()))
                    .collect();
                frames.push((
                    verb,
                    decoder.headers.command().to_owned(),
                    headers,
                    input[from..][body].to_vec(),
                ));
                assert!(consumed > 0);
                from += consumed;
            }
            Err(refusal) => return (frames, Some(refusal.to_string())),
        }
    }
}

/// A parsed destination, written and parsed again, must be the same destination.
fn check_destination(headers: &[(String, String)]) {
    let Some((_, text)) = headers.iter().find(|(name, _)| name == "destination") else {
        return;
    };
    let written = |exchange: &str, key: &str| {
        let mut out = Vec::new();
        push_destination(&mut out, exchange.as_bytes(), key.as_bytes(), "amq.topic");
        String::from_utf8(out).expect("of UTF-8 comes UTF-8")
    };
    let same = |a: &str, b: &str| assert_eq!(Levels::new(a, Dialect::Dot), Levels::new(b, Dialect::Dot), "{text}");
    match Destination::parse(text) {
        Ok(Destination::Queue(name)) if !name.is_empty() => {
            assert_eq!(Destination::parse(&written("", &name)), Ok(Destination::Queue(name)));
        }
        Ok(Destination::Topic(key)) if !key.is_empty() => match Destination::parse(&written("amq.topic", &key)) {
            Ok(Destination::Topic(again)) => same(&key, &again),
            other => panic!("{text} came back as {other:?}"),
        },
        Ok(Destination::Exchange(exchange, key)) if exchange != "amq.topic" => {
            match Destination::parse(&written(&exchange, &key)) {
                Ok(Destination::Exchange(e, again)) if e == exchange => same(&key, &again),
                other => panic!("{text} came back as {other:?}"),
            }
        }
        _ => {}
    }
}

/// The stored properties must be readable by STOMP and by other protocols.
fn check_properties(headers: &[(String, String)]) {
    let mut copy = Headers::default();
    copy.start("SEND");
    for (name, value) in headers {
        let _ = copy.push::<()>(
            |out| {
                out.push_str(name);
                Ok(())
            },
            |out| {
                out.push_str(value);
                Ok(())
            },
        );
    }
    let mut raw = Vec::new();
    properties::write(&copy, None, None, &mut raw);
    properties::StompProperties.decode(&raw);
    for version in [Version::V1_0, Version::V1_1, Version::V1_2] {
        let mut frame = b"SEND\n".to_vec();
        properties::push_lines(&raw, version, &mut frame);
        frame.extend_from_slice(b"\n\0");
        let (frames, refusal) = decode(Some(version), &frame, frame.len());
        assert_eq!(
            (frames.len(), refusal),
            (1, None),
            "{:?}",
            frame.escape_ascii().to_string()
        );
    }
}

/// A session, its driver, and the state that the checks need.
struct Run {
    session: Box<dyn Session>,
    now: Now,
    input: Vec<u8>,
    commands: Vec<Command>,
    engine: Engine,
    closed: Option<Close>,
    keep_open: bool,
    /// Decodes what the session writes.
    reader: Decoder,
    connected: bool,
    random: u64,
}

impl Run {
    fn new(keep_open: bool) -> Run {
        let now = Now {
            monotonic: Time(1),
            wall: Wall(1_700_000_000_000),
        };
        let settings = Settings {
            keep_open_on_error: keep_open,
            subscriptions_max: 20,
            ..Settings::default()
        };
        let mut reader = Decoder::default();
        reader.set_version(Version::V1_0);
        Run {
            session: Stomp::new(settings).open(now, Peer::on_this_machine()),
            now,
            input: Vec::new(),
            commands: Vec::new(),
            engine: Engine::default(),
            closed: None,
            keep_open,
            reader,
            connected: false,
            random: 1,
        }
    }

    fn receive(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        self.pump();
    }

    fn pump(&mut self) {
        while self.closed.is_none() && !self.input.is_empty() && self.session.read_interest() == ReadInterest::All {
            let input = std::mem::take(&mut self.input);
            let mut consumed = 0;
            self.turn(|session, cx| {
                consumed = session.handle_bytes(cx, &input)?;
                Ok(())
            });
            assert!(consumed <= input.len());
            self.input = input[consumed..].to_vec();
            if self.session.read_interest() == ReadInterest::All {
                return;
            }
        }
    }

    fn answer(&mut self, detail: u8) {
        // The high bits say whether something fails, the low ones how many commands are answered.
        let failing = detail >= 0xe0;
        for _ in 0..=detail % 16 {
            let mut events = self.engine.answer(failing);
            if !events.is_empty() && self.closed.is_none() {
                self.turn(|session, cx| session.handle_events(cx, &mut events));
                self.pump();
            }
        }
    }

    fn deliver(&mut self, detail: u8) {
        let mut events: Vec<_> = self.engine.deliver(detail).into_iter().collect();
        if !events.is_empty() {
            self.turn(|session, cx| session.handle_events(cx, &mut events));
        }
    }

    fn advance(&mut self, by: Duration) {
        let end = self.now.monotonic + by;
        while let Some(due) = self
            .session
            .poll_timeout()
            .filter(|due| *due <= end && self.closed.is_none())
        {
            self.now.monotonic = self.now.monotonic.max(due);
            self.turn(|session, cx| session.handle_timeout(cx));
            let next = self.session.poll_timeout();
            assert!(
                self.closed.is_some() || next.is_none_or(|next| next > self.now.monotonic),
                "time stands still"
            );
        }
        self.now.monotonic = end;
    }

    fn pause(&mut self, paused: bool) {
        self.session.set_paused(self.now, paused);
    }

    fn turn(&mut self, turn: impl FnOnce(&mut dyn Session, &mut Cx<'_>) -> Result<(), Close>) {
        let mut out = Vec::new();
        let codecs = Codecs::new(vec![Arc::new(properties::StompProperties)]);
        let random = &mut self.random;
        let mut random = || {
            *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *random
        };
        let mut cx = Cx {
            now: self.now,
            commands: &mut self.commands,
            out: &mut out,
            codecs: &codecs,
            random: &mut random,
            work: 0,
            complaints: &mut Vec::new(),
            is_memory_short: false,
        };
        let result = turn(&mut *self.session, &mut cx);
        self.check_output(&out, result.is_err());
        self.engine.accept(self.commands.drain(..));
        if let Err(close) = result {
            self.closed = Some(close);
            assert_eq!(self.session.poll_timeout(), None, "a timer after the end");
        }
    }

    /// Checks that the output consists of whole server frames in a possible order.
    fn check_output(&mut self, out: &[u8], closes: bool) {
        let settings = Settings::default();
        let mut rest = out;
        loop {
            match self.reader.next(rest, &settings) {
                Ok(Step::Partial { consumed }) => {
                    assert_eq!(consumed, rest.len(), "half a frame: {}", out.escape_ascii());
                    return;
                }
                Ok(Step::Frame { body, consumed, .. }) => {
                    let headers = std::mem::take(&mut self.reader.headers);
                    self.check_frame(&headers, rest.get(body).unwrap_or_default(), closes);
                    self.reader.headers = headers;
                    rest = &rest[consumed..];
                }
                Err(refusal) => panic!("the session wrote no STOMP: {refusal}: {}", out.escape_ascii()),
            }
        }
    }

    fn check_frame(&mut self, headers: &Headers, body: &[u8], closes: bool) {
        let length = headers.lookup("content-length");
        assert_eq!(length.map_or(0, |length| length.parse().expect("a number")), body.len());
        match headers.command() {
            "CONNECTED" => {
                assert!(!std::mem::replace(&mut self.connected, true), "CONNECTED twice");
                self.reader.set_version(match headers.lookup("version") {
                    Some("1.0") => Version::V1_0,
                    Some("1.1") => Version::V1_1,
                    Some("1.2") => Version::V1_2,
                    other => panic!("version {other:?}"),
                });
            }
            "ERROR" => {
                assert!(closes || self.keep_open, "an ERROR, and the connection goes on");
            }
            "MESSAGE" => {
                assert!(self.connected && headers.lookup("message-id").is_some_and(|id| id.starts_with("T_")));
                assert!(
                    headers
                        .lookup("destination")
                        .is_some_and(|destination| destination.starts_with('/'))
                );
                assert!(matches!(headers.lookup("redelivered"), Some("true" | "false")));
                let forged = headers
                    .iter()
                    .filter(|(name, _)| matches!(*name, "receipt" | "transaction"))
                    .count();
                assert_eq!(forged, 0);
            }
            "RECEIPT" => assert!(self.connected && headers.lookup("receipt-id").is_some()),
            other => panic!("no frame of a server: {other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }
        fn below(&mut self, n: usize) -> usize {
            (self.next() % n as u64) as usize
        }
    }

    const CONNECTS: [&str; 4] = [
        "CONNECT\n\n\0",
        "CONNECT\naccept-version:1.1,1.0\nhost:/\nlogin:me\npasscode:x\nheart-beat:1000,500\n\n\0",
        "STOMP\r\naccept-version:1.2\r\nhost:example.com\r\n\r\n\0\r\n",
        "CONNECT\naccept-version:1.2\nhost:/\nlogin:me\npasscode:a\\b:c\n\n\0",
    ];

    const FRAMES: [&str; 22] = [
        "SEND\ndestination:/queue/q\nreceipt:1\n\nbody\0",
        "SEND\ndestination:/topic/a%2E%25.b%2Fc\npersistent:true\nfoo:b\\car\\\\\\n\ncontent-length:0\n\0\n",
        "SEND\ndestination:/exchange/e/k\nreply-to:/temp-queue/t\ncontent-length:3\n\na\0b\0",
        "SEND\ndestination:/queue/q\ntransaction:t\nreceipt:2\nexpires:1800000000000\n\nx\0",
        "SEND\ndestination:/topic/a\npriority:3\nx-mqtt-retain:true\nexpiration:10\n\n\0",
        "SUBSCRIBE\nid:1\ndestination:/queue/q\nack:client\nreceipt:3\nprefetch-count:2\n\n\0",
        "SUBSCRIBE\nid:2\ndestination:/topic/a.#\nreceipt:4\n\n\0",
        "SUBSCRIBE\nid:3\ndestination:/topic/a\ndurable:true\nauto-delete:false\n\n\0",
        "SUBSCRIBE\ndestination:/amq/queue/z\nack:client-individual\n\n\0",
        "UNSUBSCRIBE\nid:1\nreceipt:5\n\n\0",
        "UNSUBSCRIBE\nid:2\n\n\0",
        "UNSUBSCRIBE\nid:3\ndurable:true\nreceipt:6\n\n\0",
        "ACK\nid:T_@1@1\nmessage-id:T_@1@1\nreceipt:7\n\n\0",
        "ACK\nid:T_@1@2\nmessage-id:T_@1@2\ntransaction:t\n\n\0",
        "NACK\nid:T_@1@1\nmessage-id:T_@1@1\nrequeue:false\n\n\0",
        "ACK\nid:T_@4@1\nmessage-id:T_@4@1\n\n\0",
        "BEGIN\ntransaction:t\nreceipt:8\n\n\0",
        "COMMIT\ntransaction:t\nreceipt:9\n\n\0",
        "ABORT\ntransaction:t\n\n\0",
        "\n\r\n\0\n",
        "DISCONNECT\nreceipt:bye\n\n\0",
        "DISCONNECT\n\n\0",
    ];

    /// Indices into [`FRAMES`] in a sensible order, for a client of STOMP 1.2.
    const TOUR: [usize; 18] = [5, 6, 0, 12, 16, 3, 13, 17, 2, 7, 14, 8, 15, 9, 10, 11, 1, 20];

    /// Steps of [`fuzz_session`] for a conversation. It is valid, except where `damage` mutates it.
    fn conversation(random: &mut Random, damage: bool) -> Vec<u8> {
        let orderly = random.below(2) == 0;
        let mut frames = vec![CONNECTS[if orderly { 2 + random.below(2) } else { random.below(4) }]];
        if orderly {
            frames.extend(
                TOUR.iter()
                    .filter(|_| random.below(12) != 0)
                    .map(|index| FRAMES[*index]),
            );
        } else {
            frames.extend((0..random.below(24)).map(|_| FRAMES[random.below(FRAMES.len())]));
        }
        let mut steps = vec![random.next() as u8];
        for frame in frames {
            // The session's part of an ack id comes from the first random number; see `Run`.
            let mut octets = frame.replace("T_@", &format!("T_{}@", nonce())).into_bytes();
            if damage && random.below(20) == 0 {
                let at = random.below(octets.len());
                match random.below(3) {
                    0 => octets[at] = random.next() as u8,
                    1 => drop(octets.remove(at)),
                    _ => octets.insert(at, b"\n\r\0:\\%/"[random.below(7)]),
                }
            }
            let (one, two) = octets.split_at(random.below(octets.len() + 1));
            for piece in [one, two].into_iter().filter(|piece| !piece.is_empty()) {
                steps.extend_from_slice(&[0, (piece.len() - 1) as u8]);
                steps.extend_from_slice(piece);
            }
            if orderly {
                let answer = if random.below(30) == 0 { 0xef } else { 15 };
                steps.extend_from_slice(&[3, answer, 5, 0, 5, random.next() as u8]);
            }
            for _ in 0..random.below(4) {
                steps.extend_from_slice(&[3 + random.below(5) as u8, random.next() as u8]);
            }
        }
        steps.extend_from_slice(&[3, 15, 5, 1, 3, 15]);
        steps
    }

    fn nonce() -> String {
        use base64::Engine as _;
        let first = 1_u64.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(first.to_be_bytes())
    }

    /// Prints the seed if a test panics.
    struct Seed(u64);
    impl Drop for Seed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("seed {}", self.0);
            }
        }
    }

    #[test]
    fn pseudo_random_octets_break_nothing() {
        for seed in 1..4000 {
            let _seed = Seed(seed);
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let alphabet = b"SENDCKBGI\n\n\n::\0\0\\%/2E5F destination:/queue/\xc3\xbc\r";
            let data: Vec<u8> = (0..random.below(400))
                .map(|_| {
                    if random.below(8) == 0 {
                        random.next() as u8
                    } else {
                        alphabet[random.below(alphabet.len())]
                    }
                })
                .collect();
            fuzz_codec(&data);
            fuzz_session(&data);
        }
    }

    #[test]
    fn conversations_valid_and_mutated_break_nothing() {
        for seed in 1..6000 {
            let _seed = Seed(seed);
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let steps = conversation(&mut random, seed % 3 != 0);
            fuzz_session(&steps);
            let mut octets = vec![seed as u8, random.next() as u8 % 40];
            for _ in 0..3 {
                octets.extend_from_slice(FRAMES[random.below(FRAMES.len())].as_bytes());
            }
            fuzz_codec(&octets);
            let at = random.below(octets.len());
            octets[at] = random.next() as u8;
            fuzz_codec(&octets);
        }
    }
}
