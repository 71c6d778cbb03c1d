//! An AMQP client. Channel 1 uses confirms, and only publishes to the safe queue. Channel 2 does everything else, and
//! channel 3 transactions.

use super::book::{Book, SAFE};
use super::wire::Wire;
use std::collections::VecDeque;

pub(crate) struct AmqpClient {
    connection: u64,
    /// The number of publishes on channel 1; `None` once that was closed.
    published: Option<u64>,
    /// All publishes up to this number are confirmed.
    confirmed: u64,
    greeted: bool,
    /// Unsettled deliveries: channel and tag.
    owed: VecDeque<(u8, u64)>,
    /// The channel of the content being received, and the bytes of its body that are missing.
    incoming: Option<(Option<usize>, Vec<u8>)>,
}

impl AmqpClient {
    pub(crate) fn new(connection: u64) -> AmqpClient {
        AmqpClient {
            connection,
            published: Some(0),
            confirmed: 0,
            greeted: false,
            owed: VecDeque::new(),
            incoming: None,
        }
    }
}

impl Wire for AmqpClient {
    fn hello(&mut self, detail: u8) -> Vec<u8> {
        let heartbeat = detail & 1;
        let mut out = b"AMQP\0\0\x09\x01".to_vec();
        // Start-Ok, Tune-Ok and Open, sent without waiting for the answers.
        let login = Args::default()
            .long(0)
            .short("PLAIN")
            .long_text(b"\0guest\0guest")
            .short("en_US");
        out.extend(method(0, 10, 11, login));
        out.extend(method(
            0,
            10,
            31,
            Args::default().word(9).long(131_072).word(heartbeat.into()),
        ));
        out.extend(method(0, 10, 40, Args::default().short("/").short("").octet(0)));
        for channel in 1..=3 {
            out.extend(method(channel, 20, 10, Args::default().short("")));
        }
        out.extend(method(1, 85, 10, Args::default().octet(0)));
        out.extend(method(1, 50, 10, Args::default().word(0).short(SAFE).octet(2).long(0)));
        out.extend(method(3, 90, 10, Args::default()));
        out
    }

    fn phrase(&mut self, index: u8, detail: u8) -> Vec<u8> {
        let queue = &*format!("q{}", detail & 3);
        let (exchange, kind) = EXCHANGES[usize::from(detail >> 2) % EXCHANGES.len()];
        let key = ["t.1", "t.#", "t.*", queue][usize::from(detail >> 5) % 4];
        let flags = detail >> 4;
        let args = Args::default;
        match index % 24 {
            0 => method(2, 50, 10, args().word(0).short(queue).octet(flags & 0x0f).long(0)),
            1 => {
                let table = queue_arguments(detail);
                method(2, 50, 10, args().word(0).short(queue).octet(2).long_text(&table))
            }
            2 => method(
                2,
                40,
                10,
                args().word(0).short(exchange).short(kind).octet(detail & 6).long(0),
            ),
            3 | 4 => {
                let asked: &[u8] = if kind == "headers" { b"\x01hS\0\0\0\x01v" } else { b"" };
                let args = args().word(0).short(queue).short(exchange).short(key);
                method(2, 50, 20, args.octet(0).long_text(asked))
            }
            5..=8 => {
                let (exchange, key) = if index & 1 == 0 { ("", queue) } else { (exchange, "t.1") };
                let size = if detail & 0x40 == 0 { 3 } else { 700 };
                let channel = if index % 24 == 8 { 3 } else { 2 };
                publish(channel, exchange, key, detail >> 7, detail & 0x30, &vec![detail; size])
            }
            9 | 10 => {
                let queue = if detail & 8 == 0 { queue } else { SAFE };
                // Consumers that do not settle use other names, because messages sent to them may be lost on the way.
                let flags = if queue == SAFE { flags & 4 } else { flags & 6 };
                let kind = if flags & 2 != 0 { 'n' } else { 't' };
                let tag = format!("{kind}{}", detail & 7);
                let args = args().word(0).short(queue).short(&tag).octet(flags).long(0);
                method(2, 60, 20, args)
            }
            11 => {
                let tag = format!("{}{}", if flags & 2 != 0 { 'n' } else { 't' }, detail & 7);
                method(2, 60, 30, args().short(&tag).octet(0))
            }
            12 => method(2, 60, 70, args().word(0).short(queue).octet(0)),
            13 => get_on(2),
            14 => method(2, 60, 10, args().long(0).word((detail & 7).into()).octet(flags & 1)),
            15 => {
                self.owed.retain(|(channel, _)| *channel != 2);
                method(2, 60, 110, args().octet(1))
            }
            16 => method(2, 50, 30, args().word(0).short(queue).octet(0)),
            17 => method(2, 50, 40, args().word(0).short(queue).octet(flags & 3)),
            18 => method(2, 40, 20, args().word(0).short(exchange).octet(flags & 1)),
            19 => method(
                2,
                50,
                50,
                args().word(0).short(queue).short(exchange).short(key).long(0),
            ),
            20 => method(3, 90, if detail & 3 == 0 { 30 } else { 20 }, args()),
            21 => {
                let (other, _) = EXCHANGES[usize::from(detail) % EXCHANGES.len()];
                let id = if detail & 0x80 == 0 { 30 } else { 40 };
                method(
                    2,
                    40,
                    id,
                    args().word(0).short(other).short(exchange).short(key).octet(0).long(0),
                )
            }
            22 => {
                self.owed.retain(|(channel, _)| *channel != 2);
                let mut out = method(2, 20, 40, args().word(200).short("").long(0));
                out.extend(method(2, 20, 10, args().short("")));
                out
            }
            _ => method(0, 10, 50, args().word(200).short("").long(0)),
        }
    }

    fn publish_safely(&mut self, book: &mut Book) -> Vec<u8> {
        let Some(published) = &mut self.published else {
            return Vec::new();
        };
        *published += 1;
        let body = book.publish(self.connection, *published);
        publish(1, "", SAFE, 0, 0x10, &body)
    }

    fn settle(&mut self, detail: u8) -> Vec<u8> {
        let Some((channel, tag)) = self.owed.pop_front() else {
            return Vec::new();
        };
        let args = Args::default().long_long(tag);
        match detail % 4 {
            0 => method(channel, 60, 80, args.octet(0)),
            1 => {
                // All up to the newest.
                let newest = self
                    .owed
                    .iter()
                    .rev()
                    .find(|(c, _)| *c == channel)
                    .map_or(tag, |(_, t)| *t);
                self.owed.retain(|(c, _)| *c != channel);
                method(channel, 60, 80, Args::default().long_long(newest).octet(1))
            }
            2 => method(channel, 60, 120, args.octet(2)),
            _ => method(channel, 60, 90, args.octet(0)),
        }
    }

    fn receive(&mut self, octets: &[u8], answer: &mut Vec<u8>, book: &mut Book) -> usize {
        if !self.greeted && octets.starts_with(b"AMQP") {
            return 8;
        }
        let Some((head, rest)) = octets.split_at_checked(7) else {
            assert!(octets.is_empty(), "frames are whole");
            return 0;
        };
        self.greeted = true;
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        assert!(
            size + 8 <= 131_072 && rest.len() > size,
            "frames are whole and in the limits"
        );
        assert_eq!(rest[size], 0xCE, "where a frame ends");
        let (kind, channel, payload) = (head[0], head[2], &rest[..size]);
        match (kind, &mut self.incoming) {
            (1, None) => self.hear_method(channel, payload, answer, book),
            (2, Some((missing, _))) => {
                let size = u64::from_be_bytes(payload[4..12].try_into().expect("eight octets"));
                *missing = Some(size as usize);
            }
            (3, Some((Some(missing), body))) => {
                *missing = missing.checked_sub(payload.len()).expect("no more than was announced");
                body.extend_from_slice(payload);
            }
            (8, _) => assert_eq!((channel, size), (0, 0), "a heartbeat"),
            _ => panic!("a frame of kind {kind} out of turn"),
        }
        if let Some((Some(0), body)) = &self.incoming {
            book.see(body);
            self.incoming = None;
        }
        size + 8
    }
}

impl AmqpClient {
    fn hear_method(&mut self, channel: u8, payload: &[u8], answer: &mut Vec<u8>, book: &mut Book) {
        let number = |at: usize| u64::from_be_bytes(payload[at..at + 8].try_into().expect("eight octets"));
        match (payload[1], payload[3]) {
            (10, 50) => answer.extend(method(0, 10, 51, Args::default())),
            (20, 40) => {
                if channel == 1 {
                    self.published = None;
                }
                self.owed.retain(|(c, _)| *c != channel);
                answer.extend(method(channel, 20, 41, Args::default()));
                answer.extend(method(channel, 20, 10, Args::default().short("")));
            }
            (60, 60) => {
                let tag = usize::from(payload[4]);
                if payload[5] != b'n' {
                    self.owed.push_back((channel, number(5 + tag)));
                }
                self.incoming = Some((None, Vec::new()));
            }
            (60, 71) => {
                self.owed.push_back((channel, number(4)));
                self.incoming = Some((None, Vec::new()));
            }
            (60, 50) => self.incoming = Some((None, Vec::new())),
            (60, id @ (80 | 120)) if channel == 1 => {
                let (upto, multiple) = (number(4), payload[12] & 1 != 0);
                assert!(
                    self.published.is_none_or(|published| upto <= published),
                    "confirms what was published"
                );
                let from = if multiple { self.confirmed + 1 } else { upto };
                for number in from..=upto {
                    if id == 80 {
                        book.confirm(self.connection, number);
                    }
                }
                if multiple {
                    self.confirmed = upto;
                }
            }
            _ => {}
        }
    }
}

/// Fetches a message from the safe queue.
pub(crate) fn get_safely() -> Vec<u8> {
    get_on(1)
}

/// Names and types of exchanges.
const EXCHANGES: [(&str, &str); 8] = [
    ("amq.topic", "topic"),
    ("e1", "topic"),
    ("amq.fanout", "fanout"),
    ("e2", "fanout"),
    ("amq.headers", "headers"),
    ("e3", "headers"),
    ("amq.direct", "direct"),
    ("e4", "direct"),
];

fn get_on(channel: u8) -> Vec<u8> {
    method(channel, 60, 70, Args::default().word(0).short(SAFE).octet(0))
}

fn queue_arguments(detail: u8) -> Vec<u8> {
    let mut out = Vec::new();
    let mut add = |name: &str, value: &[u8]| {
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(value);
    };
    if detail & 4 != 0 {
        add("x-message-ttl", b"I\0\0\0\x64");
    }
    if detail & 8 != 0 {
        add("x-max-length", b"I\0\0\0\x02");
    }
    if detail & 16 != 0 {
        // In a circle: messages that die in q0 go to q1, and so on; from q3 to q0.
        add("x-dead-letter-exchange", b"S\0\0\0\0");
        add(
            "x-dead-letter-routing-key",
            &[b'S', 0, 0, 0, 2, b'q', b'0' + ((detail & 3) + 1) % 4],
        );
    }
    if detail & 32 != 0 {
        add("x-overflow", b"S\0\0\0\x0ereject-publish");
    }
    if detail & 64 != 0 {
        add("x-expires", b"I\0\0\x03\xe8");
    }
    if detail & 128 != 0 {
        add("x-max-length-bytes", b"I\0\0\x04\0");
    }
    out
}

/// Bits of `properties`: 0x10 persistent, 0x20 expires soon. There are always headers, one of which names further keys.
fn publish(channel: u8, exchange: &str, key: &str, mandatory: u8, properties: u8, body: &[u8]) -> Vec<u8> {
    let args = Args::default().word(0).short(exchange).short(key).octet(mandatory);
    let mut out = method(channel, 60, 40, args);
    let expires = properties & 0x20 != 0;
    let flags = 0x3000 | if expires { 0x0100 } else { 0 };
    let mut header = Args::default()
        .word(60)
        .word(0)
        .long_long(body.len() as u64)
        .word(flags);
    header = if channel == 1 {
        header.long_text(b"")
    } else {
        header.long_text(b"\x01hS\0\0\0\x01v\x02CCA\0\0\0\x07S\0\0\0\x02q1")
    };
    header = header.octet(if properties & 0x10 != 0 { 2 } else { 1 });
    if expires {
        header = header.short("50");
    }
    out.extend(frame(2, channel, &header.0));
    if !body.is_empty() {
        out.extend(frame(3, channel, body));
    }
    out
}

fn method(channel: u8, class: u16, id: u16, args: Args) -> Vec<u8> {
    let mut payload = Args::default().word(class).word(id).0;
    payload.extend_from_slice(&args.0);
    frame(1, channel, &payload)
}

fn frame(kind: u8, channel: u8, payload: &[u8]) -> Vec<u8> {
    let size = (payload.len() as u32).to_be_bytes();
    [&[kind, 0, channel], &size[..], payload, &[0xCE]].concat()
}

/// The arguments of a method, in order.
#[derive(Default)]
struct Args(Vec<u8>);

impl Args {
    fn octet(mut self, octet: u8) -> Args {
        self.0.push(octet);
        self
    }
    fn word(mut self, word: u16) -> Args {
        self.0.extend_from_slice(&word.to_be_bytes());
        self
    }
    fn long(mut self, long: u32) -> Args {
        self.0.extend_from_slice(&long.to_be_bytes());
        self
    }
    fn long_long(mut self, long_long: u64) -> Args {
        self.0.extend_from_slice(&long_long.to_be_bytes());
        self
    }
    fn short(mut self, text: &str) -> Args {
        self.0.push(text.len() as u8);
        self.0.extend_from_slice(text.as_bytes());
        self
    }
    /// A long string, or a table with the entries `octets`.
    fn long_text(mut self, octets: &[u8]) -> Args {
        self.0.extend_from_slice(&(octets.len() as u32).to_be_bytes());
        self.0.extend_from_slice(octets);
        self
    }
}
