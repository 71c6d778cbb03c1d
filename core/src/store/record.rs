//! The format of one record of the log.
//!
//! ```text
//!   0        4        8                16   17    18       20       24           24+head          len
//!   ├────────┼────────┼────────────────┼────┼─────┼────────┼────────┼─────────────┼────────────────┤ 0..7 bytes to a
//!   │ crc32c │  len   │      lsn       │kind│flags│   0    │  head  │    head     │    payload     │ multiple of 8
//!   └────────┴────────┴────────────────┴────┴─────┴────────┴────────┴─────────────┴────────────────┘
//! ```
//!
//! - All fixed numbers are little-endian; in the head they are varints.
//! - `crc32c` covers everything behind it up to `len`, and starts from the segment's seed (epoch, id and salt), so that
//!   bytes of a recycled segment, or a body that imitates a record, never validate.
//! - `lsn` is the record's address in the whole log: the segment's base LSN plus its offset. A misdirected read or write
//!   therefore shows, and a record that cannot be read still has a known LSN.
//! - `head` is the length of the head; the payload is what is stored verbatim.
//!
//! Heads:
//!
//! ```text
//!   BATCH   durable lsn, wall, end of the write before (offset),      opens every write
//!           term, index (0: the log is not replicated)
//!   MSG     envelope bits, more bits, origin, [priority], received, [deadline], [user len, user],
//!           exchange len, key len, properties len,
//!           route count, (queue, seq, flags)*                         payload: Message::payload
//!   ACKS    queue count, (queue, run count, (gap, length - 1)*)*
//!   STATE   verb, fields
//!   KEY     version (0: its own lsn), key len, key                    payload: the value; flag DELETED: none
//!   PURGE   queue, upto
//!   QDEL    queue
//!   REF     segment, offset, route count, (queue, seq, flags)*        new routes to a payload that is in the log
//!   FOOTER  see `footer`                                              payload: the directory
//! ```
//!
//! A queue is two varints: its vhost's number, and its number among the vhost's.
//!
//! Records that count together carry GROUP, the first also FIRST, the last also LAST; they are neighbours in one
//! segment.

use super::varint::{Input, put_varint};
use super::{QueueAcks, QueueId, Route, Routes, State, VhostId};
use crate::message::{Dialect, Envelope, Message, PayloadLengths, Position};
use crate::properties::Origin;
use crate::time::Wall;

/// Bytes before the head.
pub(crate) const HEADER_BYTES: usize = 24;
/// Records begin at multiples of this.
pub(crate) const ALIGN: usize = 8;
/// The most bytes of a record.
pub(crate) const RECORD_BYTES_MAX: usize = 1 << 30;

/// What a record is. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Batch = 1,
    Message = 2,
    Acks = 3,
    State = 4,
    Key = 5,
    Purge = 6,
    QueueDelete = 7,
    Ref = 8,
    Footer = 9,
}

impl Kind {
    fn from_u8(kind: u8) -> Option<Kind> {
        Some(match kind {
            1 => Kind::Batch,
            2 => Kind::Message,
            3 => Kind::Acks,
            4 => Kind::State,
            5 => Kind::Key,
            6 => Kind::Purge,
            7 => Kind::QueueDelete,
            8 => Kind::Ref,
            9 => Kind::Footer,
            _ => return None,
        })
    }
}

/// The record is part of a group.
pub(crate) const GROUP: u8 = 1;
/// It is the first of its group.
pub(crate) const FIRST: u8 = 2;
/// It is the last of its group.
pub(crate) const LAST: u8 = 4;
/// A keyed record without a value.
pub(crate) const DELETED: u8 = 8;

/// A record with valid header, checksum and LSN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw<'a> {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) head: &'a [u8],
    pub(crate) payload: &'a [u8],
}

/// The record's length according to its header, before the checksum was checked: enough to read the rest.
pub(crate) fn peek(header: &[u8], lsn: u64) -> Option<usize> {
    let mut input = Input(header.get(4..)?);
    let len = input.u32()? as usize;
    if input.u64()? != lsn {
        return None;
    }
    Kind::from_u8(input.u8()?)?;
    (HEADER_BYTES..=RECORD_BYTES_MAX).contains(&len).then_some(len)
}

/// Checks and opens the record at the start of `bytes`.
pub(crate) fn open(bytes: &[u8], lsn: u64, seed: u32) -> Option<Raw<'_>> {
    let len = peek(bytes, lsn)?;
    let bytes = bytes.get(..len)?;
    let mut input = Input(bytes);
    if input.u32()? != crc32c::crc32c_append(seed, input.0) {
        return None;
    }
    input.bytes(12)?;
    let kind = Kind::from_u8(input.u8()?)?;
    let flags = input.u8()?;
    input.bytes(2)?;
    let head_len = input.u32()? as usize;
    let head = input.bytes(head_len)?;
    Some(Raw {
        kind,
        flags,
        head,
        payload: input.0,
    })
}

/// A keyed record with a wrong checksum and a readable header.
pub(crate) struct LegibleKey {
    pub(crate) flags: u8,
    pub(crate) head: Vec<u8>,
    /// The record's length without padding.
    pub(crate) len: usize,
}

/// Reads the key of a damaged record, whose value may be lost. Its LSN and length must be right. A single flipped bit
/// elsewhere is found by the checksum and corrected in the returned copy, so that it cannot turn one key into another.
pub(crate) fn legible_key(bytes: &[u8], lsn: u64, seed: u32) -> Option<LegibleKey> {
    let mut input = Input(bytes.get(4..)?);
    let len = input.u32()? as usize;
    // A damaged message may be large and is not needed here. Its kind differs from a key's by more than one bit.
    let is_maybe_key = |kind: u8| (kind ^ Kind::Key as u8).count_ones() <= 1;
    if input.u64()? != lsn || !(HEADER_BYTES..=RECORD_BYTES_MAX).contains(&len) || !is_maybe_key(input.u8()?) {
        return None;
    }
    let mut bytes = bytes.get(..len)?.to_vec();
    if let Some(bit) = flipped_bit(&bytes, seed) {
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    let mut input = Input(&bytes);
    input.bytes(16)?;
    let kind = Kind::from_u8(input.u8()?)?;
    let flags = input.u8()?;
    input.bytes(2)?;
    let head_len = input.u32()? as usize;
    let head = input.bytes(head_len)?.to_vec();
    (kind == Kind::Key).then_some(LegibleKey { flags, head, len })
}

/// The bit of a record, counted from its start, that was flipped, if it was only one. `None` if one flipped bit does
/// not explain the checksum.
fn flipped_bit(bytes: &[u8], seed: u32) -> Option<usize> {
    /// CRC-32C's polynomial, lowest bit first.
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    let mut input = Input(bytes);
    let difference = input.u32()? ^ crc32c::crc32c_append(seed, input.0);
    // The checksum itself was hit.
    if difference.count_ones() == 1 {
        return Some(difference.trailing_zeros() as usize);
    }
    // The change of the checksum by a flip of the last bit. Each step towards the start shifts it once more.
    let mut change = POLYNOMIAL;
    for bit in (32..bytes.len() * 8).rev() {
        if change == difference {
            return Some(bit);
        }
        change = (change >> 1) ^ (POLYNOMIAL & (change & 1).wrapping_neg());
    }
    None
}

/// A record that is being encoded at the end of a buffer. `out.len()` must be a multiple of 8.
pub(crate) struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    seed: u32,
}

impl<'a> Encoder<'a> {
    pub(crate) fn begin(out: &'a mut Vec<u8>, lsn: u64, seed: u32, kind: Kind, flags: u8) -> Self {
        let start = out.len();
        debug_assert!(start.is_multiple_of(ALIGN));
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&lsn.to_le_bytes());
        out.extend_from_slice(&[kind as u8, flags, 0, 0, 0, 0, 0, 0]);
        Encoder { out, start, seed }
    }
    /// The buffer that the head is appended to.
    pub(crate) fn head(&mut self) -> &mut Vec<u8> {
        self.out
    }
    /// Ends the head, and appends the payload, the checksum and the padding.
    ///
    /// # Panics
    /// If the record is longer than 4 GiB. The protocols' limits are far below.
    pub(crate) fn finish(mut self, payload: &[u8]) {
        self.end_head(payload.len());
        let Encoder { out, start, seed } = self;
        out.extend_from_slice(payload);
        let crc = crc32c::crc32c_append(seed, &out[start + 4..]);
        out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        out.resize(out.len().next_multiple_of(ALIGN), 0);
    }
    /// Ends the head of a record whose payload is written behind it without being copied. Returns the record's length
    /// without padding.
    ///
    /// # Panics
    /// As [`Encoder::finish`].
    pub(crate) fn finish_before<'p>(mut self, payload: impl Iterator<Item = &'p [u8]> + Clone) -> usize {
        let len = self.end_head(payload.clone().map(<[u8]>::len).sum());
        let Encoder { out, start, seed } = self;
        let crc = crc32c::crc32c_append(seed, &out[start + 4..]);
        let crc = payload.fold(crc, crc32c::crc32c_append);
        out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        len
    }
    /// Fills in the lengths. Returns the record's length.
    fn end_head(&mut self, payload: usize) -> usize {
        let Encoder { out, start, .. } = self;
        let head = out.len() - *start - HEADER_BYTES;
        let len = out.len() - *start + payload;
        let (Ok(len32), Ok(head32)) = (u32::try_from(len), u32::try_from(head)) else {
            panic!("a protocol let an oversized message through");
        };
        out[*start + 4..*start + 8].copy_from_slice(&len32.to_le_bytes());
        out[*start + 20..*start + 24].copy_from_slice(&head32.to_le_bytes());
        len
    }
}

// Heads: one pair of functions for each kind.

/// The head of a BATCH, which opens every write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHead {
    /// Everything below was synced when this was written.
    pub(crate) durable: u64,
    pub(crate) wall: Wall,
    /// Where the write before ended in this segment. The bytes between are padding; other bytes are a hole.
    pub(crate) previous_end: u32,
    /// Reserved for a replicated log: of two batches with the same index, the one with the higher term counts. 0 and 0
    /// today.
    pub(crate) term: u64,
    pub(crate) index: u64,
}

impl BatchHead {
    pub(crate) fn put(self, out: &mut Vec<u8>) {
        put_varint(out, self.durable);
        put_varint(out, self.wall.0);
        put_varint(out, u64::from(self.previous_end));
        put_varint(out, self.term);
        put_varint(out, self.index);
    }
    pub(crate) fn parse(head: &[u8]) -> Option<Self> {
        let mut input = Input(head);
        Some(BatchHead {
            durable: input.varint()?,
            wall: Wall(input.varint()?),
            previous_end: input.number()?,
            term: input.varint()?,
            index: input.varint()?,
        })
    }
}

/// A message's head.
#[derive(Clone, Debug)]
pub(crate) struct MessageHead {
    pub(crate) envelope: Envelope,
    /// The user who published it, if that is stored.
    pub(crate) user: Option<Box<[u8]>>,
    pub(crate) lengths: PayloadLengths,
    pub(crate) routes: Routes,
}

mod bit {
    pub(super) const DURABLE: u8 = 1;
    pub(super) const RETAIN: u8 = 2;
    pub(super) const EXTRA_KEYS: u8 = 4;
    pub(super) const SLASH: u8 = 8;
    pub(super) const PRIORITY: u8 = 16;
    pub(super) const DEADLINE: u8 = 32;
    pub(super) const QOS_SHIFT: u8 = 6;
    /// Bits of the second byte.
    pub(super) const USER: u8 = 1;
}

/// The most bytes of a message's head without its routes.
const MESSAGE_HEAD_MAX: usize = 4 + 10 + 10 + 2 + USER_MAX + 2 + 3 + 5 + 10;
/// The most bytes of a user's name.
const USER_MAX: usize = 255;
/// The most bytes of one route.
pub(crate) const ROUTE_MAX: usize = 22;

impl MessageHead {
    pub(crate) fn put(
        envelope: &Envelope,
        user: Option<&[u8]>,
        lengths: PayloadLengths,
        routes: &[Route],
        out: &mut Vec<u8>,
    ) {
        let user = user.filter(|user| user.len() <= USER_MAX);
        let mut bits = envelope.qos.min(2) << bit::QOS_SHIFT;
        for (set, mask) in [
            (envelope.durable, bit::DURABLE),
            (envelope.retain, bit::RETAIN),
            (envelope.extra_keys, bit::EXTRA_KEYS),
            (envelope.dialect == Dialect::Slash, bit::SLASH),
            (envelope.priority.is_some(), bit::PRIORITY),
            (envelope.deadline.is_some(), bit::DEADLINE),
        ] {
            if set {
                bits |= mask;
            }
        }
        let more = if user.is_some() { bit::USER } else { 0 };
        out.extend_from_slice(&[bits, more, envelope.origin.0]);
        out.extend(envelope.priority);
        put_varint(out, envelope.received.0);
        if let Some(deadline) = envelope.deadline {
            put_varint(out, deadline.0);
        }
        if let Some(user) = user {
            put_varint(out, user.len() as u64);
            out.extend_from_slice(user);
        }
        put_varint(out, u64::from(lengths.exchange));
        put_varint(out, u64::from(lengths.key));
        put_varint(out, u64::from(lengths.properties));
        put_routes(routes, out);
    }
    pub(crate) fn parse(head: &[u8]) -> Option<Self> {
        let mut input = Input(head);
        let (bits, more) = (input.u8()?, input.u8()?);
        // An unknown bit may stand for further bytes, which this release would misread.
        if more & !bit::USER != 0 {
            return None;
        }
        let origin = Origin(input.u8()?);
        let priority = if bits & bit::PRIORITY != 0 {
            Some(input.u8()?)
        } else {
            None
        };
        let received = Wall(input.varint()?);
        let deadline = if bits & bit::DEADLINE != 0 {
            Some(Wall(input.varint()?))
        } else {
            None
        };
        let user = if more & bit::USER != 0 {
            let len: usize = input.number()?;
            Some(input.bytes(len)?.into())
        } else {
            None
        };
        let lengths = PayloadLengths {
            exchange: input.number()?,
            key: input.number()?,
            properties: input.number()?,
        };
        let envelope = Envelope {
            origin,
            dialect: if bits & bit::SLASH != 0 {
                Dialect::Slash
            } else {
                Dialect::Dot
            },
            durable: bits & bit::DURABLE != 0,
            qos: bits >> bit::QOS_SHIFT,
            retain: bits & bit::RETAIN != 0,
            extra_keys: bits & bit::EXTRA_KEYS != 0,
            priority,
            deadline,
            received,
        };
        Some(MessageHead {
            envelope,
            user,
            lengths,
            routes: parse_routes(&mut input)?,
        })
    }
    /// Bytes of the body in a payload of `payload` bytes.
    pub(crate) fn body_len(&self, payload: usize) -> u32 {
        let names = usize::from(self.lengths.exchange) + usize::from(self.lengths.key);
        u32::try_from(
            payload
                .saturating_sub(names)
                .saturating_sub(self.lengths.properties as usize),
        )
        .unwrap_or(u32::MAX)
    }
    pub(crate) fn message(&self, payload: &[u8]) -> Option<Message> {
        Message::from_payload(self.envelope, self.lengths, payload)
    }
}

/// The most bytes of the record of such a message.
pub(crate) fn message_bytes_max(payload: usize, routes: usize) -> usize {
    HEADER_BYTES + MESSAGE_HEAD_MAX + routes * ROUTE_MAX + payload + ALIGN
}

pub(crate) fn put_queue(queue: QueueId, out: &mut Vec<u8>) {
    put_varint(out, u64::from(queue.vhost().0));
    put_varint(out, queue.number());
}

/// A queue's number.
pub(crate) fn parse_queue_id(input: &mut Input<'_>) -> Option<QueueId> {
    QueueId::new(VhostId(input.number()?), input.varint()?)
}

pub(crate) fn put_routes(routes: &[Route], out: &mut Vec<u8>) {
    put_varint(out, routes.len() as u64);
    for route in routes {
        put_queue(route.queue, out);
        put_varint(out, route.seq);
        out.push(route.flags);
    }
}

pub(crate) fn parse_routes(input: &mut Input<'_>) -> Option<Routes> {
    let count = input.count(4)?;
    let mut routes = Routes::with_capacity(count);
    for _ in 0..count {
        routes.push(Route {
            queue: parse_queue_id(input)?,
            seq: input.varint()?,
            flags: input.u8()?,
        });
    }
    Some(routes)
}

pub(crate) fn put_acks(acks: &[QueueAcks], out: &mut Vec<u8>) {
    put_varint(out, acks.len() as u64);
    for queue in acks {
        put_queue(queue.queue, out);
        put_runs(queue.settled.iter().copied(), queue.settled.len(), out);
    }
}

pub(crate) fn parse_acks(head: &[u8]) -> Option<Vec<QueueAcks>> {
    let mut input = Input(head);
    let count = input.count(3)?;
    let mut acks = Vec::with_capacity(count);
    for _ in 0..count {
        acks.push(QueueAcks {
            queue: parse_queue_id(&mut input)?,
            settled: parse_runs(&mut input)?,
        });
    }
    Some(acks)
}

/// Ascending inclusive runs, each as its gap to the run before and its length minus one.
pub(crate) fn put_runs(runs: impl Iterator<Item = (u64, u64)>, count: usize, out: &mut Vec<u8>) {
    put_varint(out, count as u64);
    let mut next = 0;
    for run in runs {
        next = put_run(next, run, out);
    }
}

/// One of these runs. `next` is the first sequence behind the run before. Returns the same for this run.
pub(crate) fn put_run(next: u64, (first, last): (u64, u64), out: &mut Vec<u8>) -> u64 {
    debug_assert!(first >= next && last >= first, "runs ascend");
    put_varint(out, first.wrapping_sub(next));
    put_varint(out, last.wrapping_sub(first));
    last.wrapping_add(1)
}

pub(crate) fn parse_runs(input: &mut Input<'_>) -> Option<Vec<(u64, u64)>> {
    let count = input.count(2)?;
    let mut runs = Vec::with_capacity(count);
    let mut next = 0u64;
    for _ in 0..count {
        // Wrapping mirrors the encoder. A run that would end before it begins is refused.
        let first = next.wrapping_add(input.varint()?);
        let last = first.checked_add(input.varint()?)?;
        runs.push((first, last));
        next = last.wrapping_add(1);
    }
    Some(runs)
}

pub(crate) fn put_state(state: &State, out: &mut Vec<u8>) {
    let (verb, queue, fields): (u8, QueueId, &[u64]) = match *state {
        State::HandedOut { queue, upto } => (1, queue, &[upto]),
        State::PacketId { queue, seq, packet_id } => (2, queue, &[seq, u64::from(packet_id)]),
        State::PacketIdReleased { queue, seq, packet_id } => (3, queue, &[seq, u64::from(packet_id)]),
        State::IncomingId { queue, packet_id, held } => (4, queue, &[u64::from(packet_id), u64::from(held)]),
        State::DeadLettered { from, from_seq, to } => {
            let (vhost, number) = (u64::from(to.queue.vhost().0), to.queue.number());
            (5, from, &[from_seq, vhost, number, to.seq, u64::from(to.flags)])
        }
        State::Returned { queue, seq, count } => (6, queue, &[seq, u64::from(count)]),
    };
    out.push(verb);
    put_queue(queue, out);
    for &field in fields {
        put_varint(out, field);
    }
}

pub(crate) fn parse_state(head: &[u8]) -> Option<State> {
    let mut input = Input(head);
    let verb = input.u8()?;
    let queue = parse_queue_id(&mut input)?;
    Some(match verb {
        1 => State::HandedOut {
            queue,
            upto: input.varint()?,
        },
        2 => State::PacketId {
            queue,
            seq: input.varint()?,
            packet_id: input.number()?,
        },
        3 => State::PacketIdReleased {
            queue,
            seq: input.varint()?,
            packet_id: input.number()?,
        },
        4 => State::IncomingId {
            queue,
            packet_id: input.number()?,
            held: input.varint()? != 0,
        },
        5 => State::DeadLettered {
            from: queue,
            from_seq: input.varint()?,
            to: Route {
                queue: parse_queue_id(&mut input)?,
                seq: input.varint()?,
                flags: input.number()?,
            },
        },
        6 => State::Returned {
            queue,
            seq: input.varint()?,
            count: input.number()?,
        },
        _ => return None,
    })
}

pub(crate) fn put_key(version: u64, key: &[u8], out: &mut Vec<u8>) {
    put_varint(out, version);
    put_varint(out, key.len() as u64);
    out.extend_from_slice(key);
}

/// The version (0: the record's own LSN) and the key.
pub(crate) fn parse_key(head: &[u8]) -> Option<(u64, &[u8])> {
    let mut input = Input(head);
    let version = input.varint()?;
    let len = input.number()?;
    Some((version, input.bytes(len)?))
}

/// The position of the payload, and the queues that it is added to.
pub(crate) fn put_ref(at: Position, routes: &[Route], out: &mut Vec<u8>) {
    put_varint(out, u64::from(at.segment));
    put_varint(out, u64::from(at.offset));
    put_routes(routes, out);
}

pub(crate) fn parse_ref(head: &[u8]) -> Option<(Position, Routes)> {
    let mut input = Input(head);
    let at = Position {
        segment: input.number()?,
        offset: input.number()?,
    };
    Some((at, parse_routes(&mut input)?))
}

pub(crate) fn put_purge(queue: QueueId, upto: u64, out: &mut Vec<u8>) {
    put_queue(queue, out);
    put_varint(out, upto);
}

pub(crate) fn parse_purge(head: &[u8]) -> Option<(QueueId, u64)> {
    let mut input = Input(head);
    Some((parse_queue_id(&mut input)?, input.varint()?))
}

pub(crate) fn parse_queue(head: &[u8]) -> Option<QueueId> {
    parse_queue_id(&mut Input(head))
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallvec::smallvec;

    fn encode(kind: Kind, head: impl FnOnce(&mut Vec<u8>), payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = Encoder::begin(&mut out, 4096, 7, kind, 0);
        head(encoder.head());
        encoder.finish(payload);
        out
    }

    #[test]
    fn a_message_is_decoded_as_it_was_encoded() {
        let envelope = Envelope {
            origin: Origin(3),
            dialect: Dialect::Slash,
            durable: true,
            qos: 2,
            retain: true,
            extra_keys: false,
            priority: Some(9),
            deadline: Some(Wall(1_800_000_000_000)),
            received: Wall(1_700_000_000_000),
        };
        let message = Message::new(envelope, "amq.topic", "plant/1/temp", b"props", b"21.5");
        let routes: Routes = smallvec![
            Route {
                queue: QueueId(1),
                seq: 5,
                flags: 1
            },
            Route {
                queue: QueueId(u64::MAX),
                seq: u64::MAX,
                flags: 255
            },
        ];
        let bytes = encode(
            Kind::Message,
            |out| MessageHead::put(&envelope, Some(b"operator"), message.lengths(), &routes, out),
            message.payload(),
        );
        assert!(bytes.len() <= message_bytes_max(message.payload().len(), routes.len()));
        let raw = open(&bytes, 4096, 7).unwrap();
        let head = MessageHead::parse(raw.head).unwrap();
        assert_eq!(
            (head.envelope, head.lengths, &head.routes),
            (envelope, message.lengths(), &routes)
        );
        assert_eq!(head.user.as_deref(), Some(b"operator".as_slice()));
        assert_eq!(head.body_len(raw.payload.len()), 4);
        assert_eq!(head.message(raw.payload).unwrap().body(), b"21.5");
    }

    #[test]
    fn any_flipped_bit_another_seed_or_another_place_is_seen() {
        let bytes = encode(Kind::Purge, |out| put_purge(QueueId(9), 77, out), &[]);
        let len = peek(&bytes, 4096).unwrap();
        assert!(open(&bytes, 4096, 8).is_none());
        assert!(open(&bytes, 4104, 7).is_none());
        for bit in 0..len * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&flipped, 4096, 7).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn every_small_record_survives_the_round_trip() {
        let acks = vec![
            QueueAcks {
                queue: QueueId(4),
                settled: vec![(0, 0), (2, 9), (100, u64::MAX)],
            },
            QueueAcks {
                queue: QueueId(5),
                settled: vec![],
            },
        ];
        let mut out = Vec::new();
        put_acks(&acks, &mut out);
        assert_eq!(parse_acks(&out), Some(acks));
        let mut out = Vec::new();
        put_key(12, b"k", &mut out);
        assert_eq!(parse_key(&out), Some((12, b"k".as_slice())));
        let mut out = Vec::new();
        let at = Position {
            segment: 3,
            offset: 4608,
        };
        put_ref(
            at,
            &[Route {
                queue: QueueId(1),
                seq: 2,
                flags: 3,
            }],
            &mut out,
        );
        assert_eq!(parse_ref(&out).unwrap().0, at);
        let head = BatchHead {
            durable: 1,
            wall: Wall(2),
            previous_end: 3,
            term: 4,
            index: 5,
        };
        let mut out = Vec::new();
        head.put(&mut out);
        assert_eq!(BatchHead::parse(&out), Some(head));
    }

    #[test]
    fn every_state_survives_the_round_trip() {
        for state in [
            State::HandedOut {
                queue: QueueId(1),
                upto: 1024,
            },
            State::PacketId {
                queue: QueueId(1),
                seq: 7,
                packet_id: 65535,
            },
            State::PacketIdReleased {
                queue: QueueId(1),
                seq: 7,
                packet_id: 1,
            },
            State::IncomingId {
                queue: QueueId(2),
                packet_id: 3,
                held: true,
            },
            State::Returned {
                queue: QueueId(2),
                seq: u64::MAX,
                count: u32::MAX,
            },
            State::DeadLettered {
                from: QueueId(1),
                from_seq: 2,
                to: Route {
                    queue: QueueId(3),
                    seq: 4,
                    flags: 200,
                },
            },
            State::Returned {
                queue: QueueId::new(VhostId(9), 1 << 39).unwrap(),
                seq: 8,
                count: 20,
            },
        ] {
            let mut out = Vec::new();
            put_state(&state, &mut out);
            assert_eq!(parse_state(&out), Some(state));
        }
    }
}
