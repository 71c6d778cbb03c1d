//! Applies records to what was found so far.

use super::Recovery;
use crate::message::Position;
use crate::store::directory::Directory;
use crate::store::disk::Disk;
use crate::store::index::{KeyRecord, Move, Root, forget_returned};
use crate::store::key::{self, KeyKind};
use crate::store::record::{
    DELETED, Kind, MessageHead, Raw, parse_acks, parse_key, parse_purge, parse_queue, parse_ref, parse_state,
};
use crate::store::segment::{SegmentHeader, SegmentKind};
use crate::store::{LogEntry, QueueAcks, QueueId, Routes, State};
use crate::time::Wall;

/// A record in owned form, until its group is complete.
pub(in crate::store) enum Op {
    Message {
        offset: u32,
        body_len: u32,
        routes: Routes,
        received: Wall,
    },
    Acks(Vec<QueueAcks>),
    State(State),
    Key {
        offset: u32,
        len: u32,
        version: u64,
        deleted: bool,
        key: Box<[u8]>,
        /// If checkpoints repeat it.
        value: Option<Box<[u8]>>,
    },
    Purge(QueueId, u64),
    Delete(QueueId),
    Ref(Position, Routes),
}

impl Op {
    /// `None` if the record is invalid although its checksum is right.
    pub(in crate::store) fn parse(raw: &Raw<'_>, offset: u32, len: u32, lsn: u64) -> Option<Op> {
        Some(match raw.kind {
            Kind::Message => {
                let head = MessageHead::parse(raw.head)?;
                let body_len = head.body_len(raw.payload.len());
                Op::Message {
                    offset,
                    body_len,
                    received: head.envelope.received,
                    routes: head.routes,
                }
            }
            Kind::Acks => Op::Acks(parse_acks(raw.head)?),
            Kind::State => Op::State(parse_state(raw.head)?),
            Kind::Key => {
                let (version, key) = parse_key(raw.head)?;
                let version = if version == 0 { lsn } else { version };
                Op::Key {
                    offset,
                    len,
                    version,
                    deleted: raw.flags & DELETED != 0,
                    value: (key::is_precious(key)
                        && raw.flags & DELETED == 0
                        && raw.payload.len() <= key::PRECIOUS_BYTES_MAX)
                        .then(|| raw.payload.into()),
                    key: key.into(),
                }
            }
            Kind::Purge => {
                let (queue, upto) = parse_purge(raw.head)?;
                Op::Purge(queue, upto)
            }
            Kind::QueueDelete => Op::Delete(parse_queue(raw.head)?),
            Kind::Ref => {
                let (at, routes) = parse_ref(raw.head)?;
                Op::Ref(at, routes)
            }
            Kind::Batch | Kind::Footer => return None,
        })
    }
}

impl<D: Disk> Recovery<D> {
    /// Notes facts that hold even if the record does not count.
    pub(super) fn note(&mut self, header: &SegmentHeader, may_be_torn: bool, op: &Op) {
        let message_at = match op {
            Op::Message { offset, .. } => Some((*header, *offset)),
            _ => None,
        };
        let is_copy = header.kind != SegmentKind::Log;
        let mut saw = |queue: QueueId, next: u64| {
            self.index.saw_number(queue, header.id);
            if is_copy {
                self.index.copied(queue.vhost(), header.id, |_| true);
            }
            let queue = self.queues.entry(queue).or_default();
            queue.next_seq = queue.next_seq.max(next);
            if queue.first_segment == 0 || queue.first_segment > header.id {
                queue.first_segment = header.id;
            }
            if is_copy {
                queue.copies.insert(header.id);
            }
            queue.first_message = queue.first_message.or(message_at);
            queue.is_sure |= message_at.is_some() && !may_be_torn;
        };
        match op {
            Op::Message { routes, received, .. } => {
                routes
                    .iter()
                    .for_each(|route| saw(route.queue, route.seq.saturating_add(1)));
                self.marks.wall = self.marks.wall.max(*received);
            }
            Op::Ref(_, routes) => routes
                .iter()
                .for_each(|route| saw(route.queue, route.seq.saturating_add(1))),
            Op::Acks(acks) => acks.iter().for_each(|queue| {
                saw(
                    queue.queue,
                    queue.settled.last().map_or(0, |(_, hi)| hi.saturating_add(1)),
                );
            }),
            Op::State(State::HandedOut { queue, upto }) => saw(*queue, *upto),
            Op::State(
                State::PacketId { queue, seq, .. }
                | State::PacketIdReleased { queue, seq, .. }
                | State::Returned { queue, seq, .. },
            ) => {
                saw(*queue, seq.saturating_add(1));
            }
            Op::State(State::IncomingId { queue, .. }) => saw(*queue, 0),
            Op::State(State::DeadLettered { from, from_seq, to }) => {
                saw(*from, from_seq.saturating_add(1));
                saw(to.queue, to.seq.saturating_add(1));
            }
            Op::Purge(queue, upto) => saw(*queue, *upto),
            Op::Delete(queue) => saw(*queue, 0),
            Op::Key {
                key, deleted, offset, ..
            } => {
                let names_others = matches!(
                    key::parse(key),
                    Some((_, KeyKind::Queue | KeyKind::Binding | KeyKind::Subscription, _))
                );
                if may_be_torn && !deleted && names_others {
                    self.unsure.push((*header, *offset, key.clone()));
                }
                self.index.saw_key(key, header.id);
                if let Some(vhost) = key::vhost_of(key).filter(|_| is_copy) {
                    self.index.copied(vhost, header.id, |_| true);
                }
                let vhost = key::as_vhost(key).unwrap_or_default();
                self.marks.vhost_max = self.marks.vhost_max.max(vhost);
            }
        }
    }

    pub(super) fn apply(&mut self, header: &SegmentHeader, op: Op) {
        match op {
            Op::Message {
                offset,
                body_len,
                routes,
                ..
            } => {
                let at = Position {
                    segment: header.id,
                    offset,
                };
                self.found_root(at, body_len, &routes);
                for route in routes {
                    let entry = LogEntry {
                        seq: route.seq,
                        at,
                        body_len,
                        flags: route.flags,
                    };
                    self.queues.entry(route.queue).or_default().entries.push(entry);
                }
            }
            Op::Acks(acks) => {
                for queue in acks {
                    for (lo, hi) in queue.settled {
                        self.settled(queue.queue, lo, hi);
                    }
                }
            }
            Op::State(state) => self.state(&state),
            Op::Key {
                offset,
                len,
                version,
                deleted,
                key,
                value,
            } => {
                let at = Position {
                    segment: header.id,
                    offset,
                };
                let record = KeyRecord {
                    at,
                    version,
                    len,
                    deleted,
                    value,
                };
                self.index.found_key(&key, record);
            }
            Op::Purge(queue, upto) => {
                if let Some(last) = upto.checked_sub(1) {
                    self.settled(queue, 0, last);
                }
            }
            Op::Delete(queue) => self.queues.entry(queue).or_default().deleted = true,
            Op::Ref(at, routes) => {
                for route in routes {
                    let moved = Move {
                        root: Root::At(at),
                        flags: route.flags,
                        body_len: 0,
                    };
                    self.moves.insert((route.queue, route.seq), moved);
                }
            }
        }
    }

    fn settled(&mut self, queue: QueueId, lo: u64, hi: u64) {
        let queue = self.queues.entry(queue).or_default();
        queue.settled.insert(lo, hi);
        queue.packet_ids.retain(|(seq, ..)| !(lo..=hi).contains(seq));
        forget_returned(&mut queue.returned, lo, hi);
    }

    fn state(&mut self, state: &State) {
        match *state {
            State::HandedOut { queue, upto } => {
                let queue = self.queues.entry(queue).or_default();
                queue.handed_out = queue.handed_out.max(upto);
            }
            State::PacketId { queue, seq, packet_id } => {
                let queue = self.queues.entry(queue).or_default();
                queue.packet_ids.retain(|(other, ..)| *other != seq);
                queue.packet_ids.push((seq, packet_id, false));
            }
            State::PacketIdReleased { queue, seq, packet_id } => {
                let queue = self.queues.entry(queue).or_default();
                match queue.packet_ids.iter_mut().find(|(other, ..)| *other == seq) {
                    Some(held) => *held = (seq, packet_id, true),
                    None => queue.packet_ids.push((seq, packet_id, true)),
                }
            }
            State::IncomingId { queue, packet_id, held } => {
                let queue = self.queues.entry(queue).or_default();
                queue.incoming_ids.retain(|other| *other != packet_id);
                if held {
                    queue.incoming_ids.push(packet_id);
                }
            }
            State::Returned { queue, seq, count } => {
                self.queues.entry(queue).or_default().returned.insert(seq, count);
            }
            State::DeadLettered { from, from_seq, to } => {
                let root = self
                    .moves
                    .get(&(from, from_seq))
                    .map_or(Root::Route(from, from_seq), |before| before.root);
                self.moves.insert(
                    (to.queue, to.seq),
                    Move {
                        root,
                        flags: to.flags,
                        body_len: 0,
                    },
                );
            }
        }
    }
}

pub(in crate::store) fn list(directory: &mut Directory, op: &Op) {
    match op {
        Op::Message {
            offset,
            body_len,
            routes,
            ..
        } => directory.message(*offset, *body_len, routes),
        Op::Key {
            offset,
            len,
            version,
            deleted,
            key,
            ..
        } => directory.key(*offset, *len, *version, *deleted, key),
        _ => {}
    }
}
