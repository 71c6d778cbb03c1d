//! MQTT 3.1.1 and 5, client side.

use super::{Address, PublishStyle, Sink, WireError, u16_at};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Version {
    V311,
    V5,
}

/// A connection's packet identifiers, and the packets that it sends repeatedly.
#[derive(Debug)]
pub(crate) struct Mqtt {
    version: Version,
    qos: u8,
    /// The part of a PUBLISH before the packet identifier, for each topic; empty for a consumer.
    publish_heads: Vec<Vec<u8>>,
    /// Index of the next topic.
    next_head: usize,
    /// Publishes that wait for PUBACK or PUBCOMP, by identifier.
    unconfirmed: Identifiers,
    /// Maximum unconfirmed publishes, from CONNACK.
    receive_max: u16,
}

/// Parameters of the login.
#[derive(Debug)]
pub(crate) struct Login<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) user: Option<(&'a str, &'a str)>,
    /// The broker keeps no session of this client.
    pub(crate) clean: bool,
    pub(crate) keep_alive_s: u16,
}

impl Mqtt {
    pub(crate) fn new(version: Version) -> Self {
        Self {
            version,
            qos: 0,
            publish_heads: Vec::new(),
            next_head: 0,
            unconfirmed: Identifiers::new(),
            receive_max: u16::MAX,
        }
    }

    /// CONNECT.
    pub(crate) fn connect(&self, out: &mut Vec<u8>, login: &Login<'_>) {
        let mut flags = 0;
        if login.clean {
            flags |= 0x02;
        }
        if login.user.is_some() {
            flags |= 0xC0;
        }
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', self.level(), flags];
        body.extend_from_slice(&login.keep_alive_s.to_be_bytes());
        if self.version == Version::V5 {
            if login.clean {
                body.push(0);
            } else {
                // MQTT 5 3.1.2.11.2: a session expiry interval of all ones never expires.
                body.extend_from_slice(&[5, 0x11, 0xFF, 0xFF, 0xFF, 0xFF]);
            }
        }
        put_text(&mut body, login.client_id);
        if let Some((user, password)) = login.user {
            put_text(&mut body, user);
            put_text(&mut body, password);
        }
        put_packet(out, 0x10, &body);
    }

    /// Parses a CONNACK.
    pub(crate) fn connack(&mut self, packet: &[u8]) -> Result<(), WireError> {
        let body = body_of(packet, 0x20)?;
        match body.get(1) {
            Some(0) => {}
            Some(code) => return Err(WireError::Refused(format!("CONNACK with code {code:#04x}"))),
            None => return Err(WireError::Malformed("CONNACK")),
        }
        if self.version == Version::V5 {
            let limits = ConnackLimits::read(&body[2..]).ok_or(WireError::Malformed("CONNACK properties"))?;
            self.receive_max = limits.receive_max;
        }
        Ok(())
    }

    /// SUBSCRIBE to one filter with packet identifier 1.
    pub(crate) fn subscribe(&self, out: &mut Vec<u8>, filter: &str, qos: u8) {
        let mut body = vec![0, 1];
        self.put_no_properties(&mut body);
        put_text(&mut body, filter);
        body.push(qos);
        put_packet(out, 0x82, &body);
    }

    /// Parses a SUBACK. A lower QoS than requested counts as a refusal, since something else would be measured.
    pub(crate) fn suback(&self, packet: &[u8], qos: u8) -> Result<(), WireError> {
        match body_of(packet, 0x90)?.last() {
            Some(granted) if *granted == qos => Ok(()),
            Some(granted) => Err(WireError::Refused(format!(
                "SUBACK {granted:#04x} where QoS {qos} was asked for"
            ))),
            None => Err(WireError::Malformed("SUBACK")),
        }
    }

    /// Prepares to publish bodies of `body_bytes` bytes.
    pub(crate) fn prepare(&mut self, style: &PublishStyle, body_bytes: usize) {
        let identifier = if style.qos > 0 { 2 } else { 0 };
        let properties = usize::from(self.version == Version::V5);
        self.qos = style.qos;
        let head = |address: &Address| {
            let topic = address.mqtt();
            let mut head = vec![0x30 | style.qos << 1 | u8::from(style.retain)];
            put_length(&mut head, 2 + topic.len() + identifier + properties + body_bytes);
            put_text(&mut head, &topic);
            head
        };
        self.publish_heads = std::iter::once(&style.address)
            .chain(&style.further)
            .map(head)
            .collect();
    }

    /// PUBLISH. Returns false if every packet identifier that the broker allows is in use.
    #[inline]
    pub(crate) fn publish(&mut self, out: &mut Vec<u8>, body: &[u8]) -> bool {
        let id = if self.qos == 0 {
            None
        } else if self.unconfirmed.count >= self.receive_max {
            return false;
        } else if let Some(id) = self.unconfirmed.take() {
            Some(id)
        } else {
            return false;
        };
        if let Some(head) = self.publish_heads.get(self.next_head) {
            out.extend_from_slice(head);
            self.next_head = (self.next_head + 1) % self.publish_heads.len();
        }
        if let Some(id) = id {
            out.extend_from_slice(&id.to_be_bytes());
        }
        if self.version == Version::V5 {
            out.push(0);
        }
        out.extend_from_slice(body);
        true
    }

    /// Parses all complete packets, passes messages and confirms to `sink`, and writes the acknowledgements. Returns
    /// the bytes consumed.
    pub(crate) fn parse(&mut self, input: &[u8], out: &mut Vec<u8>, sink: &mut impl Sink) -> Result<usize, WireError> {
        let mut at = 0;
        while let Some(len) = packet_len(&input[at..])? {
            let packet = &input[at..at + len];
            at += len;
            self.packet(packet, out, sink)?;
        }
        Ok(at)
    }

    #[inline]
    fn packet(&mut self, packet: &[u8], out: &mut Vec<u8>, sink: &mut impl Sink) -> Result<(), WireError> {
        let first = packet[0];
        let body = body_of(packet, first)?;
        let id = || u16_at(body, 0).ok_or(WireError::Malformed("packet identifier"));
        // MQTT 5 3.4.2.1: an absent reason code means success.
        let failed = body.get(2).is_some_and(|reason| *reason >= 0x80);
        match first >> 4 {
            3 => {
                let qos = (first >> 1) & 3;
                sink.message(self.payload(body, qos, out)?);
            }
            4 => self.settle(id()?, failed, sink),
            5 if failed => self.settle(id()?, true, sink),
            5 => out.extend_from_slice(&[0x62, 2, body[0], body.get(1).copied().unwrap_or_default()]),
            6 => {
                let [high, low] = id()?.to_be_bytes();
                out.extend_from_slice(&[0x70, 2, high, low]);
            }
            7 => self.settle(id()?, failed, sink),
            9 | 11 | 13 => {}
            14 => {
                let reason = body.first().copied().unwrap_or_default();
                return Err(WireError::Refused(format!("DISCONNECT with reason {reason:#04x}")));
            }
            _ => return Err(WireError::Malformed("packet type")),
        }
        Ok(())
    }

    #[inline]
    fn payload<'a>(&self, body: &'a [u8], qos: u8, out: &mut Vec<u8>) -> Result<&'a [u8], WireError> {
        let cut = || WireError::Malformed("PUBLISH cut short");
        let mut at = 2 + usize::from(u16_at(body, 0).ok_or_else(cut)?);
        if qos > 0 {
            let [high, low] = u16_at(body, at).ok_or_else(cut)?.to_be_bytes();
            at += 2;
            out.extend_from_slice(&[if qos == 1 { 0x40 } else { 0x50 }, 2, high, low]);
        }
        if self.version == Version::V5 {
            let (len, used) = length_at(body.get(at..).ok_or_else(cut)?)?.ok_or_else(cut)?;
            at += used + len;
        }
        body.get(at..).ok_or_else(cut)
    }

    fn settle(&mut self, id: u16, failed: bool, sink: &mut impl Sink) {
        // An unknown identifier confirms nothing; if it counted, a broker would look faster than it is.
        if self.unconfirmed.give(id) {
            if failed { sink.refused(1) } else { sink.confirmed(1) }
        }
    }

    /// PINGREQ.
    pub(crate) fn ping(out: &mut Vec<u8>) {
        out.extend_from_slice(&[0xC0, 0]);
    }

    /// DISCONNECT.
    pub(crate) fn disconnect(out: &mut Vec<u8>) {
        out.extend_from_slice(&[0xE0, 0]);
    }

    fn level(&self) -> u8 {
        match self.version {
            Version::V311 => 4,
            Version::V5 => 5,
        }
    }

    fn put_no_properties(&self, body: &mut Vec<u8>) {
        if self.version == Version::V5 {
            body.push(0);
        }
    }
}

/// The length of the first packet of `input`; `None` while it is not complete.
pub(crate) fn packet_len(input: &[u8]) -> Result<Option<usize>, WireError> {
    let Some(rest) = input.get(1..) else { return Ok(None) };
    Ok(length_at(rest)?
        .map(|(len, used)| 1 + used + len)
        .filter(|len| *len <= input.len()))
}

/// A variable byte integer and its length in bytes; `None` while it is not complete.
#[inline]
fn length_at(input: &[u8]) -> Result<Option<(usize, usize)>, WireError> {
    let mut len = 0;
    for (used, byte) in input.iter().take(4).enumerate() {
        len |= usize::from(byte & 0x7F) << (7 * used);
        if byte & 0x80 == 0 {
            return Ok(Some((len, used + 1)));
        }
    }
    if input.len() >= 4 {
        Err(WireError::Malformed("remaining length"))
    } else {
        Ok(None)
    }
}

/// The body of a complete packet that must begin with `first`.
fn body_of(packet: &[u8], first: u8) -> Result<&[u8], WireError> {
    let (found, rest) = packet.split_first().ok_or(WireError::Malformed("empty packet"))?;
    if *found != first {
        return Err(WireError::Refused(format!(
            "packet {found:#04x} where {first:#04x} was due"
        )));
    }
    let (_, used) = length_at(rest)?.ok_or(WireError::Malformed("remaining length"))?;
    Ok(&rest[used..])
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_length(out: &mut Vec<u8>, mut len: usize) {
    loop {
        let byte = (len & 0x7F) as u8;
        len >>= 7;
        if len == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

pub(crate) fn put_packet(out: &mut Vec<u8>, first: u8, body: &[u8]) {
    out.push(first);
    put_length(out, body.len());
    out.extend_from_slice(body);
}

/// The only property of an MQTT 5 CONNACK that affects publishing.
struct ConnackLimits {
    receive_max: u16,
}

impl ConnackLimits {
    fn read(input: &[u8]) -> Option<Self> {
        let (len, used) = length_at(input).ok()??;
        let mut rest = input.get(used..used + len)?;
        let mut limits = Self { receive_max: u16::MAX };
        while let Some((&id, value)) = rest.split_first() {
            let bytes = match id {
                0x24 | 0x25 | 0x28 | 0x29 | 0x2A => 1,
                0x13 | 0x22 => 2,
                0x21 => {
                    limits.receive_max = u16_at(value, 0)?;
                    2
                }
                0x11 | 0x27 => 4,
                0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => 2 + usize::from(u16_at(value, 0)?),
                0x26 => {
                    let key = 2 + usize::from(u16_at(value, 0)?);
                    key + 2 + usize::from(u16_at(value, key)?)
                }
                _ => return None,
            };
            rest = value.get(bytes..)?;
        }
        Some(limits)
    }
}

/// Packet identifiers in use, assigned in turn from 1.
#[derive(Debug)]
struct Identifiers {
    used: Box<[u64]>,
    /// Number of bits set in `used`.
    count: u16,
    last: u16,
}

impl Identifiers {
    fn new() -> Self {
        Self {
            used: vec![0; 1024].into(),
            count: 0,
            last: 0,
        }
    }

    #[inline]
    fn take(&mut self) -> Option<u16> {
        let id = self.last.checked_add(1).unwrap_or(1);
        let (word, bit) = (usize::from(id / 64), 1 << (id % 64));
        if self.used[word] & bit != 0 {
            return None;
        }
        self.used[word] |= bit;
        self.count += 1;
        self.last = id;
        Some(id)
    }

    #[inline]
    fn give(&mut self, id: u16) -> bool {
        let (word, bit) = (usize::from(id / 64), 1 << (id % 64));
        let was = self.used[word] & bit != 0;
        if was {
            self.used[word] &= !bit;
            self.count -= 1;
        }
        was
    }
}

#[cfg(test)]
mod tests {
    use super::super::Heard;
    use super::*;

    fn style(qos: u8) -> PublishStyle {
        PublishStyle {
            address: Address::Topic(vec!["a".into(), "b".into()]),
            further: Vec::new(),
            qos,
            retain: false,
            durable: false,
            confirm: false,
        }
    }

    fn publisher(version: Version, qos: u8) -> Mqtt {
        let mut mqtt = Mqtt::new(version);
        mqtt.prepare(&style(qos), 3);
        mqtt
    }

    fn hear(mqtt: &mut Mqtt, input: &[u8]) -> (Heard, Vec<u8>, usize) {
        let (mut heard, mut out) = (Heard::default(), Vec::new());
        let used = mqtt.parse(input, &mut out, &mut heard).unwrap();
        (heard, out, used)
    }

    #[test]
    fn connect_is_as_the_specifications_draw_it() {
        let login = Login {
            client_id: "me",
            user: Some(("u", "p")),
            clean: true,
            keep_alive_s: 60,
        };
        let mut out = Vec::new();
        Mqtt::new(Version::V311).connect(&mut out, &login);
        assert_eq!(out, b"\x10\x14\x00\x04MQTT\x04\xC2\x00\x3C\x00\x02me\x00\x01u\x00\x01p");
        out.clear();
        Mqtt::new(Version::V5).connect(
            &mut out,
            &Login {
                user: None,
                clean: false,
                ..login
            },
        );
        assert_eq!(
            out,
            b"\x10\x14\x00\x04MQTT\x05\x00\x00\x3C\x05\x11\xFF\xFF\xFF\xFF\x00\x02me"
        );
    }

    #[test]
    fn publish_is_as_the_specifications_draw_it() {
        let mut out = Vec::new();
        assert!(publisher(Version::V311, 0).publish(&mut out, b"xyz"));
        assert!(publisher(Version::V311, 1).publish(&mut out, b"xyz"));
        assert!(publisher(Version::V5, 2).publish(&mut out, b"xyz"));
        assert_eq!(
            out,
            b"\x30\x08\x00\x03a/bxyz\x32\x0A\x00\x03a/b\x00\x01xyz\x34\x0B\x00\x03a/b\x00\x01\x00xyz".as_slice()
        );
    }

    #[test]
    fn retained_publishes_take_turns_over_their_topics() {
        let mut mqtt = Mqtt::new(Version::V311);
        let further = vec![Address::Topic(vec!["c".into()])];
        let retained = PublishStyle {
            further,
            retain: true,
            ..style(1)
        };
        mqtt.prepare(&retained, 1);
        let mut out = Vec::new();
        for body in [b"x", b"y", b"z"] {
            assert!(mqtt.publish(&mut out, body));
        }
        assert_eq!(
            out,
            b"\x33\x08\x00\x03a/b\x00\x01x\x33\x06\x00\x01c\x00\x02y\x33\x08\x00\x03a/b\x00\x03z".as_slice()
        );
    }

    #[test]
    fn a_delivery_is_heard_and_acknowledged_by_its_quality() {
        let mut mqtt = Mqtt::new(Version::V311);
        let (heard, out, used) = hear(
            &mut mqtt,
            b"\x30\x06\x00\x03a/bx\x32\x08\x00\x03a/b\x01\x02y\x34\x08\x00\x03a/b\x00\x07z",
        );
        assert_eq!(heard.bodies, [b"x", b"y", b"z"]);
        assert_eq!(out, b"\x40\x02\x01\x02\x50\x02\x00\x07");
        assert_eq!(used, 28);
        let (_, out, _) = hear(&mut mqtt, b"\x62\x02\x00\x07");
        assert_eq!(out, b"\x70\x02\x00\x07");
        // MQTT 5: a content type stands between the identifier and the payload.
        let (heard, ..) = hear(&mut Mqtt::new(Version::V5), b"\x30\x0A\x00\x01a\x04\x03\x00\x01ixy");
        assert_eq!(heard.bodies, [b"xy"]);
    }

    #[test]
    fn only_what_was_published_is_confirmed_and_only_once() {
        let mut mqtt = publisher(Version::V5, 1);
        let mut out = Vec::new();
        for _ in 0..3 {
            assert!(mqtt.publish(&mut out, b"xyz"));
        }
        let (heard, ..) = hear(
            &mut mqtt,
            b"\x40\x02\x00\x01\x40\x02\x00\x01\x40\x02\x00\x09\x40\x03\x00\x02\x97",
        );
        assert_eq!((heard.confirmed, heard.refused), (1, 1));
    }

    #[test]
    fn exactly_once_takes_the_four_steps() {
        let mut mqtt = publisher(Version::V311, 2);
        mqtt.publish(&mut Vec::new(), b"xyz");
        let (heard, out, _) = hear(&mut mqtt, b"\x50\x02\x00\x01");
        assert_eq!((heard.confirmed, out.as_slice()), (0, b"\x62\x02\x00\x01".as_slice()));
        assert_eq!(hear(&mut mqtt, b"\x70\x02\x00\x01").0.confirmed, 1);
    }

    #[test]
    fn the_receive_maximum_of_the_connack_holds_the_publisher() {
        let mut mqtt = publisher(Version::V5, 1);
        mqtt.connack(b"\x20\x08\x00\x00\x05\x24\x01\x21\x00\x02").unwrap();
        let mut out = Vec::new();
        assert!(mqtt.publish(&mut out, b"xyz") && mqtt.publish(&mut out, b"xyz"));
        assert!(!mqtt.publish(&mut out, b"xyz"));
        hear(&mut mqtt, b"\x40\x02\x00\x02");
        assert!(mqtt.publish(&mut out, b"xyz"));
    }

    #[test]
    fn identifiers_wrap_past_zero_and_wait_for_those_in_use() {
        let mut ids = Identifiers::new();
        for id in 1..=u16::MAX {
            assert_eq!(ids.take(), Some(id));
        }
        assert_eq!(ids.take(), None);
        assert!(ids.give(1));
        assert_eq!(ids.take(), Some(1));
    }

    #[test]
    fn a_packet_in_pieces_waits_and_a_wrong_length_is_an_error() {
        let whole = b"\x32\x08\x00\x03a/b\x01\x02y";
        for len in 0..whole.len() {
            assert_eq!(hear(&mut Mqtt::new(Version::V311), &whole[..len]).2, 0);
        }
        let mut heard = Heard::default();
        assert!(
            Mqtt::new(Version::V311)
                .parse(b"\x30\xFF\xFF\xFF\xFF\x01", &mut Vec::new(), &mut heard)
                .is_err()
        );
        assert!(
            Mqtt::new(Version::V311)
                .parse(b"\x32\x03\x00\x09a", &mut Vec::new(), &mut heard)
                .is_err()
        );
    }

    #[test]
    fn a_refused_connect_or_a_downgraded_subscription_is_reported() {
        let mut mqtt = Mqtt::new(Version::V311);
        assert!(mqtt.connack(b"\x20\x02\x00\x00").is_ok());
        assert!(mqtt.connack(b"\x20\x02\x00\x05").is_err());
        assert!(mqtt.suback(b"\x90\x03\x00\x01\x02", 2).is_ok());
        assert!(mqtt.suback(b"\x90\x03\x00\x01\x01", 2).is_err());
        assert!(mqtt.suback(b"\x90\x03\x00\x01\x80", 0).is_err());
    }
}
