//! Compares the 3.1.1 codec with mqttbytes 0.6.
//!
//! Both must decode valid packets to the same values, and encode them to the same bytes. Of damaged packets, mqttbytes
//! must accept every packet that this crate accepts, and encode it the same. The other way round does not hold. Known
//! differences of mqttbytes are not tested:
//!
//! - it does not check the flags of the fixed header, the reserved connect flag, DUP at QoS 0, wildcards and control
//!   characters in topics, empty topics and filters, packet ids of 0 in acknowledgements, left-over bytes, padded
//!   lengths, or an empty SUBSCRIBE;
//! - it decodes a password as text, and takes an empty user name or password for an absent one;
//! - it has no MQTT 3.1 (and no bridge bit), and reports `InsufficientBytes` for a frame that it has consumed.

use bytes::BytesMut;
use gatepost_mqtt::Reason;
use gatepost_mqtt::codec::{Limits, decode};
use gatepost_mqtt::frame::{
    Ack, ConnAck, Connect, Disconnect, Filter, LastWill, Packet, Properties, Publish, Sender, SubAck, Subscribe,
    UnsubAck, Unsubscribe, Version,
};
use mqttbytes::v4;

/// xorshift64*: the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8
    }
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len() as u64) as usize]
    }
    fn id(&mut self) -> u16 {
        1 + self.below(65_535) as u16
    }
}

const TOPICS: [&str; 6] = ["a", "/", "a/b", "$SYS/x", "\u{e9}/\u{1f600}", "a b//c"];
const FILTERS: [&str; 6] = ["#", "+", "a/+/b", "$share/g/#", "/+", "\u{e9}"];

const NONE: Properties<'static> = Properties::EMPTY;

fn connect<'a>(random: &mut Random, payload: &'a [u8]) -> Connect<'a> {
    let will = LastWill {
        topic: random.pick(&TOPICS),
        payload: &payload[..payload.len().min(60_000)],
        qos: random.below(3) as u8,
        retain: random.coin(),
        properties: NONE,
    };
    let user = random.coin().then_some("user");
    Connect {
        version: Version::V311,
        bridge: false,
        clean_start: random.coin(),
        keep_alive: random.next() as u16,
        properties: NONE,
        client_id: random.pick(&["", "c", "\u{e9}"]),
        will: random.coin().then_some(will),
        user,
        password: user.filter(|_| random.coin()).map(|_| &b"password"[..]),
    }
}

fn publish<'a>(random: &mut Random, packet_id: u16, payload: &'a [u8]) -> Publish<'a> {
    let qos = random.below(3) as u8;
    Publish {
        dup: qos > 0 && random.coin(),
        qos,
        retain: random.coin(),
        topic: random.pick(&TOPICS),
        packet_id: if qos > 0 { packet_id } else { 0 },
        properties: NONE,
        payload,
    }
}

/// Makes a valid packet, and passes it to `check` with its sender.
fn valid(random: &mut Random, payload: &[u8], check: impl FnOnce(&Packet<'_>, Sender)) {
    let packet_id = random.id();
    let ack = Ack {
        packet_id,
        reason: Reason::SUCCESS,
        properties: NONE,
    };
    let (packet, sender) = match random.below(14) {
        0 => (Packet::Connect(connect(random, payload)), Sender::Client),
        1 => {
            let code = random.below(6) as u8;
            let session_present = code == 0 && random.coin();
            (
                Packet::ConnAck(ConnAck {
                    session_present,
                    reason: Reason(code),
                    properties: NONE,
                }),
                Sender::Server,
            )
        }
        2..=4 => (Packet::Publish(publish(random, packet_id, payload)), Sender::Client),
        5 => (Packet::PubAck(ack), Sender::Client),
        6 => (Packet::PubRec(ack), Sender::Client),
        7 => (Packet::PubRel(ack), Sender::Client),
        8 => (Packet::PubComp(ack), Sender::Client),
        9 => {
            let filters = (0..=random.below(4))
                .map(|_| Filter {
                    text: random.pick(&FILTERS),
                    qos: random.below(3) as u8,
                    ..Filter::default()
                })
                .collect();
            (
                Packet::Subscribe(Subscribe {
                    packet_id,
                    properties: NONE,
                    filters,
                }),
                Sender::Client,
            )
        }
        10 => {
            let codes = random.pick(&[&[0u8][..], &[1, 2, 0x80], &[2; 200]]);
            (
                Packet::SubAck(SubAck {
                    packet_id,
                    properties: NONE,
                    codes,
                }),
                Sender::Server,
            )
        }
        11 => {
            let filters = (0..=random.below(4)).map(|_| random.pick(&FILTERS)).collect();
            (
                Packet::Unsubscribe(Unsubscribe {
                    packet_id,
                    properties: NONE,
                    filters,
                }),
                Sender::Client,
            )
        }
        12 => (
            Packet::UnsubAck(UnsubAck {
                packet_id,
                properties: NONE,
                codes: &[],
            }),
            Sender::Server,
        ),
        _ => match random.below(3) {
            0 => (Packet::PingReq, Sender::Client),
            1 => (Packet::PingResp, Sender::Server),
            _ => (Packet::Disconnect(Disconnect::default()), Sender::Client),
        },
    };
    check(&packet, sender);
}

fn ours(packet: &Packet<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    packet.encode(Version::V311, &mut out).unwrap();
    out
}

/// Decodes one packet with mqttbytes.
fn theirs(bytes: &[u8]) -> Result<v4::Packet, mqttbytes::Error> {
    v4::read(&mut BytesMut::from(bytes), usize::MAX)
}

fn written_by_theirs(packet: &v4::Packet) -> Vec<u8> {
    let mut out = BytesMut::new();
    let written = match packet {
        v4::Packet::Connect(p) => p.write(&mut out),
        v4::Packet::ConnAck(p) => p.write(&mut out),
        v4::Packet::Publish(p) => p.write(&mut out),
        v4::Packet::PubAck(p) => p.write(&mut out),
        v4::Packet::PubRec(p) => p.write(&mut out),
        v4::Packet::PubRel(p) => p.write(&mut out),
        v4::Packet::PubComp(p) => p.write(&mut out),
        v4::Packet::Subscribe(p) => p.write(&mut out),
        v4::Packet::SubAck(p) => p.write(&mut out),
        v4::Packet::Unsubscribe(p) => p.write(&mut out),
        v4::Packet::UnsubAck(p) => p.write(&mut out),
        v4::Packet::PingReq => v4::PingReq.write(&mut out),
        v4::Packet::PingResp => v4::PingResp.write(&mut out),
        v4::Packet::Disconnect => v4::Disconnect.write(&mut out),
    };
    written.unwrap();
    out.to_vec()
}

/// Whether mqttbytes decoded the packet correctly, judged by the fields that encoding it again could hide.
fn means_the_same(ours: &Packet<'_>, theirs: &v4::Packet) -> bool {
    match (ours, theirs) {
        (Packet::Connect(a), v4::Packet::Connect(b)) => {
            let login = b.login.as_ref().map(|l| (&*l.username, l.password.as_bytes()));
            a.client_id == b.client_id
                && a.keep_alive == b.keep_alive
                && a.clean_start == b.clean_session
                && login == a.user.map(|user| (user, a.password.unwrap_or_default()))
                && a.will.is_some() == b.last_will.is_some()
                && a.will.iter().zip(&b.last_will).all(|(a, b)| {
                    (a.topic, a.payload, a.qos, a.retain) == (&*b.topic, &b.message[..], b.qos as u8, b.retain)
                })
        }
        (Packet::Publish(a), v4::Packet::Publish(b)) => {
            (a.topic, a.payload, a.packet_id) == (&*b.topic, &b.payload[..], b.pkid)
                && (a.dup, a.qos, a.retain) == (b.dup, b.qos as u8, b.retain)
        }
        (Packet::Subscribe(a), v4::Packet::Subscribe(b)) => {
            a.packet_id == b.pkid
                && a.filters
                    .iter()
                    .map(|f| (f.text, f.qos))
                    .eq(b.filters.iter().map(|f| (&*f.path, f.qos as u8)))
        }
        (Packet::Unsubscribe(a), v4::Packet::Unsubscribe(b)) => a.packet_id == b.pkid && a.filters == b.topics,
        // The other packets have no fields that encoding could hide.
        _ => true,
    }
}

#[test]
fn both_codecs_decode_and_encode_valid_packets_the_same() {
    let mut random = Random(11);
    for round in 0..3_000 {
        let payload = vec![round as u8; [0, 1, 100, 127, 128, 20_000][round % 6]];
        valid(&mut random, &payload, |packet, sender| {
            let bytes = ours(packet);
            let decoded = decode(&bytes, Version::V311, sender, &Limits::WIRE);
            assert_eq!(decoded, Ok(Some((packet.clone(), bytes.len()))));
            let read = theirs(&bytes).unwrap_or_else(|e| panic!("{e:?} {packet:?}"));
            assert!(means_the_same(packet, &read), "{packet:?} {read:?}");
            assert_eq!(written_by_theirs(&read), bytes, "{packet:?}");
        });
    }
}

#[test]
fn mqttbytes_accepts_every_damaged_packet_that_this_codec_accepts() {
    let mut random = Random(12);
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut bytes = Vec::new();
        let mut from = Sender::Client;
        valid(&mut random, b"payload", |packet, sender| {
            bytes = ours(packet);
            from = sender;
        });
        for _ in 0..=random.below(2) {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
        }
        let Ok(Some((packet, used))) = decode(&bytes, Version::V311, from, &Limits::WIRE) else {
            continue;
        };
        let asked = match &packet {
            Packet::Connect(connect) => {
                let text = connect
                    .password
                    .is_none_or(|p| !p.is_empty() && std::str::from_utf8(p).is_ok());
                connect.version == Version::V311 && !connect.bridge && text && connect.user != Some("")
            }
            Packet::Auth(_) => false,
            _ => true,
        };
        if asked {
            let read = theirs(&bytes[..used]).unwrap_or_else(|e| panic!("{e:?} {packet:?}"));
            assert!(means_the_same(&packet, &read), "{packet:?} {read:?}");
            assert_eq!(written_by_theirs(&read), ours(&packet), "{packet:?}");
            accepted += 1;
        }
    }
    assert!(accepted > 1_000, "{accepted}");
}
