//! AMQP 0-9-1, client side, on one channel.

use super::confirms::Confirms;
use super::{AckMode, PublishStyle, Sink, WireError, u16_at, u32_at, u64_at};

/// One connection with its channel 1.
#[derive(Debug)]
pub(crate) struct Amqp {
    ack: AckMode,
    /// Maximum payload of a frame: its size without the eight bytes of header and end.
    payload_max: usize,
    confirms: Option<Confirms>,
    /// Method and header frames of a publish, for each destination; empty for a consumer.
    publish_heads: Vec<Vec<u8>>,
    /// Index of the next destination.
    next_head: usize,
    delivery: Delivery,
    /// The last delivery that is not acknowledged yet, in [`AckMode::Multiple`].
    unacked: Option<u64>,
}

/// A delivery consists of frames of three kinds.
///
/// ```text
/// Idle -- basic.deliver --> Header -- content header --> Body -- content body (last) --> Idle
///                              `-- content header of an empty body ----------------------^
/// ```
#[derive(Debug)]
enum Delivery {
    Idle,
    Header { tag: u64 },
    Body { tag: u64, missing: u64, gathered: Vec<u8> },
}

/// The protocol header that opens a connection. AMQP 0-9-1 4.2.2
pub(crate) const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\0\0\x09\x01";
const FRAME_METHOD: u8 = 1;
pub(crate) const FRAME_HEADER: u8 = 2;
pub(crate) const FRAME_BODY: u8 = 3;
const FRAME_HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xCE;
/// Bytes of a frame's header and end.
const FRAME_OVERHEAD: usize = 8;
/// Maximum body that is assembled; a larger one cannot come from this generator.
const BODY_BYTES_MAX: u64 = 1 << 30;

/// Class and method.
pub(crate) type Method = (u16, u16);
pub(crate) const CONNECTION_START: Method = (10, 10);
pub(crate) const CONNECTION_TUNE: Method = (10, 30);
pub(crate) const CONNECTION_OPEN_OK: Method = (10, 41);
const CONNECTION_CLOSE: Method = (10, 50);
pub(crate) const CONNECTION_CLOSE_OK: Method = (10, 51);
pub(crate) const CHANNEL_OPEN_OK: Method = (20, 11);
const CHANNEL_CLOSE: Method = (20, 40);
pub(crate) const QUEUE_DECLARE_OK: Method = (50, 11);
pub(crate) const QUEUE_BIND_OK: Method = (50, 21);
pub(crate) const QUEUE_PURGE_OK: Method = (50, 31);
pub(crate) const QUEUE_DELETE_OK: Method = (50, 41);
pub(crate) const BASIC_QOS_OK: Method = (60, 11);
pub(crate) const BASIC_CONSUME_OK: Method = (60, 21);
const BASIC_CANCEL: Method = (60, 30);
const BASIC_RETURN: Method = (60, 50);
const BASIC_DELIVER: Method = (60, 60);
const BASIC_ACK: Method = (60, 80);
const BASIC_NACK: Method = (60, 120);
pub(crate) const CONFIRM_SELECT_OK: Method = (85, 11);

impl Amqp {
    pub(crate) fn new(ack: AckMode) -> Self {
        let payload_max = 4096 - FRAME_OVERHEAD;
        Self {
            ack,
            payload_max,
            confirms: None,
            publish_heads: Vec::new(),
            next_head: 0,
            delivery: Delivery::Idle,
            unacked: None,
        }
    }

    /// connection.start-ok.
    pub(crate) fn start_ok(out: &mut Vec<u8>, user: &str, password: &str) {
        put_method(out, 0, (10, 11), |args| {
            let mut properties = Vec::new();
            put_short(&mut properties, "product");
            properties.push(b'S');
            put_long(&mut properties, b"gatepost-bench");
            put_long(args, &properties);
            put_short(args, "PLAIN");
            put_long(args, format!("\0{user}\0{password}").as_bytes());
            put_short(args, "en_US");
        });
    }

    /// Parses connection.tune and answers it, with heartbeats off.
    pub(crate) fn tune_ok(&mut self, out: &mut Vec<u8>, tune: &[u8]) -> Result<(), WireError> {
        let cut = || WireError::Malformed("connection.tune");
        let channel_max = u16_at(tune, 0).ok_or_else(cut)?;
        let offered = u32_at(tune, 2).ok_or_else(cut)?;
        let frame_max = if offered == 0 {
            FRAME_MAX
        } else {
            offered.min(FRAME_MAX)
        };
        self.payload_max = (frame_max as usize).saturating_sub(FRAME_OVERHEAD).max(1);
        put_method(out, 0, (10, 31), |args| {
            args.extend_from_slice(&channel_max.to_be_bytes());
            args.extend_from_slice(&frame_max.to_be_bytes());
            args.extend_from_slice(&[0, 0]);
        });
        Ok(())
    }

    /// connection.open.
    pub(crate) fn open(out: &mut Vec<u8>, vhost: &str) {
        put_method(out, 0, (10, 40), |args| {
            put_short(args, vhost);
            args.extend_from_slice(&[0, 0]);
        });
    }

    /// connection.close.
    pub(crate) fn close(out: &mut Vec<u8>) {
        put_method(out, 0, CONNECTION_CLOSE, |args| {
            args.extend_from_slice(&200_u16.to_be_bytes());
            put_short(args, "done");
            args.extend_from_slice(&[0; 4]);
        });
    }

    /// channel.open.
    pub(crate) fn channel_open(out: &mut Vec<u8>) {
        put_method(out, 1, (20, 10), |args| args.push(0));
    }

    /// queue.declare.
    pub(crate) fn queue_declare(out: &mut Vec<u8>, queue: &str, durable: bool) {
        put_method(out, 1, (50, 10), |args| {
            args.extend_from_slice(&[0, 0]);
            put_short(args, queue);
            args.push(if durable { 0x02 } else { 0 });
            args.extend_from_slice(&[0; 4]);
        });
    }

    /// queue.bind.
    pub(crate) fn queue_bind(out: &mut Vec<u8>, queue: &str, exchange: &str, key: &str) {
        put_method(out, 1, (50, 20), |args| {
            args.extend_from_slice(&[0, 0]);
            put_short(args, queue);
            put_short(args, exchange);
            put_short(args, key);
            args.extend_from_slice(&[0; 5]);
        });
    }

    /// queue.delete.
    pub(crate) fn queue_delete(out: &mut Vec<u8>, queue: &str) {
        put_method(out, 1, (50, 40), |args| {
            args.extend_from_slice(&[0, 0]);
            put_short(args, queue);
            args.push(0);
        });
    }

    /// queue.purge.
    pub(crate) fn queue_purge(out: &mut Vec<u8>, queue: &str) {
        put_method(out, 1, (50, 30), |args| {
            args.extend_from_slice(&[0, 0]);
            put_short(args, queue);
            args.push(0);
        });
    }

    /// basic.qos.
    pub(crate) fn qos(out: &mut Vec<u8>, prefetch: u16) {
        put_method(out, 1, (60, 10), |args| {
            args.extend_from_slice(&[0; 4]);
            args.extend_from_slice(&prefetch.to_be_bytes());
            args.push(0);
        });
    }

    /// basic.consume.
    pub(crate) fn consume(&self, out: &mut Vec<u8>, queue: &str) {
        put_method(out, 1, (60, 20), |args| {
            args.extend_from_slice(&[0, 0]);
            put_short(args, queue);
            put_short(args, "");
            args.push(if self.ack == AckMode::None { 0x02 } else { 0 });
            args.extend_from_slice(&[0; 4]);
        });
    }

    /// confirm.select: after its answer the broker confirms each publish.
    pub(crate) fn confirm_select(&mut self, out: &mut Vec<u8>) {
        put_method(out, 1, (85, 10), |args| args.push(0));
        self.confirms = Some(Confirms::default());
    }

    /// Prepares to publish bodies of `body_bytes` bytes.
    pub(crate) fn prepare(&mut self, style: &PublishStyle, body_bytes: usize) {
        let addresses = std::iter::once(&style.address).chain(&style.further);
        self.publish_heads = addresses
            .map(|address| {
                let (exchange, key) = address.amqp();
                let mut head = Vec::new();
                put_method(&mut head, 1, (60, 40), |args| {
                    args.extend_from_slice(&[0, 0]);
                    put_short(args, exchange);
                    put_short(args, &key);
                    args.push(0);
                });
                put_frame(&mut head, FRAME_HEADER, 1, |header| {
                    header.extend_from_slice(&[0, 60, 0, 0]);
                    header.extend_from_slice(&(body_bytes as u64).to_be_bytes());
                    // Only the delivery mode is present.
                    header.extend_from_slice(&[0x10, 0x00, if style.durable { 2 } else { 1 }]);
                });
                head
            })
            .collect();
        self.next_head = 0;
    }

    /// basic.publish.
    #[inline]
    pub(crate) fn publish(&mut self, out: &mut Vec<u8>, body: &[u8]) {
        if let Some(head) = self.publish_heads.get(self.next_head) {
            out.extend_from_slice(head);
            self.next_head = (self.next_head + 1) % self.publish_heads.len();
        }
        for piece in body.chunks(self.payload_max) {
            out.extend_from_slice(&[FRAME_BODY, 0, 1]);
            out.extend_from_slice(&(piece.len() as u32).to_be_bytes());
            out.extend_from_slice(piece);
            out.push(FRAME_END);
        }
        if let Some(confirms) = &mut self.confirms {
            confirms.published();
        }
    }

    /// Parses all complete frames, passes messages and confirms to `sink`, and writes the acknowledgements. Returns the
    /// bytes consumed.
    pub(crate) fn parse(&mut self, input: &[u8], out: &mut Vec<u8>, sink: &mut impl Sink) -> Result<usize, WireError> {
        let mut at = 0;
        while let Some(len) = frame_len(&input[at..])? {
            let frame = &input[at..at + len];
            at += len;
            self.frame(frame[0], &frame[7..len - 1], out, sink)?;
        }
        if let Some(tag) = self.unacked.take() {
            put_ack(out, tag, true);
        }
        Ok(at)
    }

    #[inline]
    fn frame(&mut self, kind: u8, payload: &[u8], out: &mut Vec<u8>, sink: &mut impl Sink) -> Result<(), WireError> {
        match (kind, &mut self.delivery) {
            (FRAME_BODY, Delivery::Body { tag, missing, gathered }) => {
                let tag = *tag;
                *missing = missing
                    .checked_sub(payload.len() as u64)
                    .ok_or(WireError::Malformed("more body than the content header said"))?;
                if *missing == 0 && gathered.is_empty() {
                    sink.message(payload);
                } else {
                    gathered.extend_from_slice(payload);
                    if *missing > 0 {
                        return Ok(());
                    }
                    sink.message(gathered);
                }
                self.delivered(tag, out);
            }
            (FRAME_HEADER, Delivery::Header { tag }) => {
                let tag = *tag;
                let missing = u64_at(payload, 4).ok_or(WireError::Malformed("content header"))?;
                if missing > BODY_BYTES_MAX {
                    return Err(WireError::Malformed("body size"));
                }
                if missing == 0 {
                    sink.message(&[]);
                    self.delivered(tag, out);
                } else {
                    self.delivery = Delivery::Body {
                        tag,
                        missing,
                        gathered: Vec::new(),
                    };
                }
            }
            (FRAME_METHOD, Delivery::Idle) => self.method(payload, out, sink)?,
            (FRAME_HEARTBEAT, _) => {}
            _ => return Err(WireError::Malformed("frame out of turn")),
        }
        Ok(())
    }

    fn method(&mut self, payload: &[u8], out: &mut Vec<u8>, sink: &mut impl Sink) -> Result<(), WireError> {
        let (method, args) = split_method(payload)?;
        let cut = || WireError::Malformed("method cut short");
        match method {
            BASIC_DELIVER => {
                let consumer = usize::from(*args.first().ok_or_else(cut)?);
                self.delivery = Delivery::Header {
                    tag: u64_at(args, 1 + consumer).ok_or_else(cut)?,
                };
            }
            BASIC_ACK | BASIC_NACK => {
                let tag = u64_at(args, 0).ok_or_else(cut)?;
                let multiple = args.get(8).ok_or_else(cut)? & 1 == 1;
                let count = self.confirms.as_mut().map_or(0, |confirms| {
                    if multiple {
                        confirms.settle_upto(tag)
                    } else {
                        confirms.settle(tag)
                    }
                });
                if method == BASIC_ACK {
                    sink.confirmed(count)
                } else {
                    sink.refused(count)
                }
            }
            CONNECTION_CLOSE => {
                put_method(out, 0, CONNECTION_CLOSE_OK, |_| {});
                return Err(closed(args));
            }
            CHANNEL_CLOSE => return Err(closed(args)),
            BASIC_CANCEL => return Err(WireError::Refused("the consumer was cancelled".into())),
            BASIC_RETURN => return Err(WireError::Refused("a message was returned as unroutable".into())),
            _ => {}
        }
        Ok(())
    }

    #[inline]
    fn delivered(&mut self, tag: u64, out: &mut Vec<u8>) {
        self.delivery = Delivery::Idle;
        match self.ack {
            AckMode::None => {}
            AckMode::Each => put_ack(out, tag, false),
            AckMode::Multiple => self.unacked = Some(tag),
        }
    }
}

/// The largest frame we ask for, which is RabbitMQ's default.
const FRAME_MAX: u32 = 131_072;

/// The length of the first frame of `input`; `None` while it is not complete.
pub(crate) fn frame_len(input: &[u8]) -> Result<Option<usize>, WireError> {
    let Some(payload) = u32_at(input, 3) else {
        return Ok(None);
    };
    let len = payload as usize + FRAME_OVERHEAD;
    match input.get(len - 1) {
        Some(&FRAME_END) => Ok(Some(len)),
        Some(_) => Err(WireError::Malformed("frame end")),
        None if payload > 2 * FRAME_MAX => Err(WireError::Malformed("frame size")),
        None => Ok(None),
    }
}

/// Whether a complete frame is part of a delivery.
pub(crate) fn is_delivery(frame: &[u8]) -> bool {
    match frame.split_first() {
        Some((&FRAME_METHOD, rest)) => rest.get(6..10) == Some(&[0, 60, 0, 60]),
        Some((kind, _)) => matches!(*kind, FRAME_HEADER | FRAME_BODY),
        None => false,
    }
}

/// The arguments of a complete method frame, which must be `due`.
pub(crate) fn expect_method(frame: &[u8], due: Method) -> Result<&[u8], WireError> {
    let payload = frame
        .get(7..frame.len().saturating_sub(1))
        .ok_or(WireError::Malformed("frame"))?;
    match split_method(payload)? {
        (method, args) if method == due => Ok(args),
        (CONNECTION_CLOSE | CHANNEL_CLOSE, args) => Err(closed(args)),
        ((class, method), _) => Err(WireError::Refused(format!(
            "method {class}.{method} where {}.{} was due",
            due.0, due.1
        ))),
    }
}

fn split_method(payload: &[u8]) -> Result<(Method, &[u8]), WireError> {
    let cut = || WireError::Malformed("method");
    let method = (u16_at(payload, 0).ok_or_else(cut)?, u16_at(payload, 2).ok_or_else(cut)?);
    Ok((method, &payload[4..]))
}

fn closed(args: &[u8]) -> WireError {
    let code = u16_at(args, 0).unwrap_or_default();
    let len = args.get(2).map_or(0, |len| usize::from(*len));
    let text = args.get(3..3 + len).unwrap_or_default();
    WireError::Refused(format!("{code} {}", String::from_utf8_lossy(text)))
}

#[inline]
fn put_ack(out: &mut Vec<u8>, tag: u64, multiple: bool) {
    out.extend_from_slice(&[FRAME_METHOD, 0, 1, 0, 0, 0, 13, 0, 60, 0, 80]);
    out.extend_from_slice(&tag.to_be_bytes());
    out.extend_from_slice(&[u8::from(multiple), FRAME_END]);
}

pub(crate) fn put_method(out: &mut Vec<u8>, channel: u16, method: Method, args: impl FnOnce(&mut Vec<u8>)) {
    put_frame(out, FRAME_METHOD, channel, |payload| {
        payload.extend_from_slice(&method.0.to_be_bytes());
        payload.extend_from_slice(&method.1.to_be_bytes());
        args(payload);
    });
}

pub(crate) fn put_frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = Vec::new();
    payload(&mut bytes);
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(&bytes);
    out.push(FRAME_END);
}

pub(crate) fn put_short(out: &mut Vec<u8>, text: &str) {
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn put_long(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::super::{Address, Heard};
    use super::*;

    const DELIVER: &[u8] =
        b"\x01\x00\x01\x00\x00\x00\x13\x00\x3C\x00\x3C\x02ct\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x01q\xCE";
    const HEADER_3: &[u8] =
        b"\x02\x00\x01\x00\x00\x00\x0F\x00\x3C\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x10\x00\x01\xCE";
    const BODY_XYZ: &[u8] = b"\x03\x00\x01\x00\x00\x00\x03xyz\xCE";

    fn hear(amqp: &mut Amqp, input: &[u8]) -> (Heard, Vec<u8>, usize) {
        let (mut heard, mut out) = (Heard::default(), Vec::new());
        let used = amqp.parse(input, &mut out, &mut heard).unwrap();
        (heard, out, used)
    }

    fn style(durable: bool) -> PublishStyle {
        PublishStyle {
            address: Address::Queue("q".into()),
            further: Vec::new(),
            qos: 0,
            retain: false,
            durable,
            confirm: false,
        }
    }

    #[test]
    fn publishes_take_turns_over_their_queues() {
        let mut amqp = Amqp::new(AckMode::None);
        let further = vec![Address::Queue("r".into())];
        amqp.prepare(&PublishStyle { further, ..style(true) }, 0);
        let mut out = Vec::new();
        for _ in 0..3 {
            amqp.publish(&mut out, b"");
        }
        let keys: Vec<u8> = out.iter().copied().filter(|byte| b"qr".contains(byte)).collect();
        assert_eq!(keys, b"qrq");
    }

    #[test]
    fn the_frames_of_a_delivery_are_told_from_answers() {
        for frame in [DELIVER, HEADER_3, BODY_XYZ] {
            assert!(is_delivery(frame), "{frame:?}");
        }
        let consume_ok = b"\x01\x00\x01\x00\x00\x00\x07\x00\x3C\x00\x15\x02ct\xCE";
        assert!(!is_delivery(consume_ok) && !is_delivery(b"") && !is_delivery(b"\x01"));
    }

    #[test]
    fn publish_is_as_the_specification_draws_it() {
        let mut amqp = Amqp::new(AckMode::None);
        amqp.prepare(&style(true), 3);
        let mut out = Vec::new();
        amqp.publish(&mut out, b"xyz");
        let golden = [
            b"\x01\x00\x01\x00\x00\x00\x0A\x00\x3C\x00\x28\x00\x00\x00\x01q\x00\xCE".as_slice(),
            b"\x02\x00\x01\x00\x00\x00\x0F\x00\x3C\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x10\x00\x02\xCE",
            BODY_XYZ,
        ];
        assert_eq!(out, golden.concat());
    }

    #[test]
    fn a_body_larger_than_a_frame_is_split() {
        let mut amqp = Amqp::new(AckMode::None);
        amqp.prepare(&style(false), 5000);
        let mut out = Vec::new();
        amqp.publish(&mut out, &[7; 5000]);
        let mut sizes = Vec::new();
        let mut at = 0;
        while let Some(len) = frame_len(&out[at..]).unwrap() {
            sizes.push((out[at], len - FRAME_OVERHEAD));
            at += len;
        }
        assert_eq!(sizes[2..], [(FRAME_BODY, 4088), (FRAME_BODY, 912)]);
        assert_eq!(at, out.len());
    }

    #[test]
    fn a_delivery_is_heard_and_acknowledged_as_asked() {
        let input = [DELIVER, HEADER_3, BODY_XYZ].concat();
        let ack = b"\x01\x00\x01\x00\x00\x00\x0D\x00\x3C\x00\x50\x00\x00\x00\x00\x00\x00\x00\x05".to_vec();
        for (mode, end) in [
            (AckMode::None, None),
            (AckMode::Each, Some(0)),
            (AckMode::Multiple, Some(1)),
        ] {
            let (heard, out, used) = hear(&mut Amqp::new(mode), &input);
            assert_eq!(heard.bodies, [b"xyz"]);
            assert_eq!(used, input.len());
            assert_eq!(
                out,
                end.map_or(Vec::new(), |end| [ack.as_slice(), &[end, FRAME_END]].concat())
            );
        }
    }

    #[test]
    fn a_body_in_two_frames_is_gathered() {
        let amqp = &mut Amqp::new(AckMode::None);
        let input = [
            DELIVER,
            HEADER_3,
            b"\x03\x00\x01\x00\x00\x00\x02xy\xCE",
            b"\x03\x00\x01\x00\x00\x00\x01z\xCE",
        ]
        .concat();
        let (mut bodies, mut at) = (Vec::new(), 0);
        for end in 0..=input.len() {
            let (heard, _, used) = hear(amqp, &input[at..end]);
            bodies.extend(heard.bodies);
            at += used;
        }
        assert_eq!(bodies, [b"xyz"]);
    }

    #[test]
    fn a_close_carries_the_brokers_words() {
        let close = b"\x01\x00\x01\x00\x00\x00\x10\x00\x14\x00\x28\x01\x94\x05GONE!\x00\x00\x00\x00\xCE";
        let error = Amqp::new(AckMode::None)
            .parse(close, &mut Vec::new(), &mut Heard::default())
            .unwrap_err();
        assert_eq!(error.to_string(), "the broker refused: 404 GONE!");
        assert!(expect_method(close, QUEUE_DECLARE_OK).is_err());
    }

    #[test]
    fn a_frame_without_its_end_or_out_of_turn_is_an_error() {
        let mut broken = BODY_XYZ.to_vec();
        *broken.last_mut().unwrap() = 0;
        for input in [broken.as_slice(), BODY_XYZ, HEADER_3] {
            assert!(
                Amqp::new(AckMode::None)
                    .parse(input, &mut Vec::new(), &mut Heard::default())
                    .is_err()
            );
        }
    }
}
