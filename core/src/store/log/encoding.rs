//! Encodes the records of a batch into the active segment, and tells the index.

use super::Store;
use crate::message::{Message, Position};
use crate::store::disk::Disk;
use crate::store::index::{KeyRecord, Root, Segments};
use crate::store::record::{self, FIRST, GROUP, Kind, LAST, message_bytes_max};
use crate::store::segment::WRITE_BUFFER_KEPT;
use crate::store::settings::StoreError;
use crate::store::stats::StoreStats;
use crate::store::{Batch, QueueId, Record, State, key};
use smallvec::SmallVec;

/// Encoded records are written when they reach this size, even in the middle of a batch, because a buffer of this size
/// is kept anyway.
const WRITE_BYTES: usize = WRITE_BUFFER_KEPT;

/// How to write a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Write,
    /// The log has the payload already; only the routes are new.
    Again(Position),
    Skip,
}

impl<D: Disk> Store<D> {
    /// Encodes a batch. Returns whether anything of it is to be written.
    pub(super) fn stage(&mut self, batch: &Batch) -> Result<bool, StoreError> {
        let mut wrote = false;
        let mut groups = batch.groups.iter().filter(|(start, end)| end > start).peekable();
        let mut at = 0;
        while at < batch.records.len() {
            let end = match groups.peek() {
                Some(&&(start, end)) if start <= at => {
                    groups.next();
                    end.clamp(at + 1, batch.records.len())
                }
                _ => at + 1,
            };
            wrote |= self.stage_unit(batch.records.get(at..end).unwrap_or_default())?;
            at = end;
        }
        Ok(wrote)
    }

    /// Encodes records of one group.
    pub(super) fn stage_unit(&mut self, unit: &[Record]) -> Result<bool, StoreError> {
        let plans: SmallVec<[Plan; 4]> = unit.iter().map(|record| self.plan(record)).collect();
        let (mut bytes, mut listed, mut count) = (0, 0, 0);
        for (record, plan) in unit.iter().zip(&plans).filter(|(_, plan)| **plan != Plan::Skip) {
            let size = size_max(record, *plan);
            bytes += size.0;
            listed += size.1;
            count += 1;
        }
        if count == 0 {
            return Ok(false);
        }
        self.make_room(bytes, listed)?;
        let planned = unit.iter().zip(plans).filter(|(_, plan)| *plan != Plan::Skip);
        for (nth, (record, plan)) in planned.enumerate() {
            let mut flags = if count > 1 { GROUP } else { 0 };
            if count > 1 && nth == 0 {
                flags |= FIRST;
            }
            if count > 1 && nth + 1 == count {
                flags |= LAST;
            }
            self.put(record, plan, flags);
        }
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.pending() >= WRITE_BYTES)
        {
            self.write()?;
        }
        Ok(true)
    }

    fn plan(&self, record: &Record) -> Plan {
        let Record::Message { message, .. } = record else {
            return Plan::Write;
        };
        // A message taken in this same commit has no position yet.
        let again = message.log_state().is_taken() || message.position().is_some();
        if !message.log_state().take() {
            StoreStats::add(&self.shared.stats.messages_skipped, 1);
            return Plan::Skip;
        }
        if !again {
            return Plan::Write;
        }
        let same = |placed: &&(Message, Position)| std::ptr::eq(placed.0.payload(), message.payload());
        let at = match message.position() {
            Some(at) => Some(self.shared.resolve(at)),
            None => self.placed.iter().rev().find(same).map(|placed| placed.1),
        };
        // Its segment may be about to be recycled, if all who had the message have settled it.
        match at.filter(|at| self.segments.get(&at.segment).is_some_and(|segment| !segment.is_dead)) {
            Some(at) => Plan::Again(at),
            None => Plan::Write,
        }
    }

    fn put(&mut self, record: &Record, plan: Plan, flags: u8) {
        let Some(active) = &mut self.active else { return };
        active.begin(self.durable, self.marks.wall);
        if let Record::Key { key, value } = record {
            return self.put_key(key, value.as_deref(), flags);
        }
        let segment = active.header.id;
        let index = &mut *self.shared.index.write();
        match record {
            Record::Message { message, routes } => {
                routes.iter().for_each(|route| index.saw_queue(route.queue, segment));
                if let Plan::Again(at) = plan {
                    active.put(Kind::Ref, flags, &[], |out| record::put_ref(at, routes, out));
                    for route in routes {
                        index.join(*route, Root::At(at), at.segment, body_len(message));
                    }
                    return;
                }
                let offset = active.put_message(message, routes, flags);
                for route in routes {
                    index.insert(route.queue, route.seq, segment);
                }
                self.placed.push((message.clone(), Position { segment, offset }));
                StoreStats::add(&self.shared.stats.messages_written, 1);
            }
            Record::Acks(acks) => {
                active.put(Kind::Acks, flags, &[], |out| record::put_acks(acks, out));
                for queue in acks {
                    index.saw_queue(queue.queue, segment);
                    for &(lo, hi) in &queue.settled {
                        index.settle(queue.queue, lo, hi);
                    }
                }
            }
            Record::State(state) => {
                active.put(Kind::State, flags, &[], |out| record::put_state(state, out));
                index.saw_queue(queue_of(state), segment);
                if let State::DeadLettered { to, .. } = state {
                    index.saw_queue(to.queue, segment);
                }
                index.state(state);
            }
            // The write that was begun for the time contains it.
            Record::Key { .. } | Record::Time => {}
            Record::Purge { queue, upto } => {
                active.put(Kind::Purge, flags, &[], |out| record::put_purge(*queue, *upto, out));
                index.saw_queue(*queue, segment);
                index.purge(*queue, *upto);
            }
            Record::QueueDelete { queue } => {
                active.put(Kind::QueueDelete, flags, &[], |out| record::put_queue(*queue, out));
                index.saw_queue(*queue, segment);
                index.delete(*queue);
            }
        }
    }

    /// Appends a keyed record to the write.
    fn put_key(&mut self, key: &[u8], value: Option<&[u8]>, flags: u8) {
        let Some(active) = &mut self.active else { return };
        let segment = active.header.id;
        let (offset, len, version) = active.put_key(0, key, value, flags);
        let index = &mut *self.shared.index.write();
        let is_kept = |len: usize| key::is_precious(key) && len <= key::PRECIOUS_BYTES_MAX;
        let record = KeyRecord {
            at: Position { segment, offset },
            version,
            len,
            deleted: value.is_none(),
            value: value.filter(|value| is_kept(value.len())).map(Into::into),
        };
        index.saw_key(key, segment);
        if let Some(vhost) = key::as_vhost(key) {
            self.marks.vhost_max = self.marks.vhost_max.max(vhost);
        }
        // Segments with records that the deletion deletes in addition to those of its own key.
        let more = match (value, key::as_vhost(key), key::as_queue(key)) {
            (None, Some(vhost), _) => {
                let known = index.vhosts.get(&vhost).cloned().unwrap_or_default();
                index.delete_vhost(vhost);
                Some((known.first_segment, known.copies))
            }
            (None, _, Some(queue)) => {
                let known = index.queues.get(&queue);
                Some(known.map_or_else(
                    || (segment, Segments::default()),
                    |known| (known.first_segment, known.copies.clone()),
                ))
            }
            _ => None,
        };
        match more {
            Some((first, copies)) => {
                let may_have = self.segments.values().filter(|s| s.may_have(first, &copies));
                index.deletion_of_more(key, record, may_have.map(|s| s.header.id));
            }
            None => index.key(key, record),
        }
    }
}

fn body_len(message: &Message) -> u32 {
    u32::try_from(message.body().len()).unwrap_or(u32::MAX)
}

/// The queue that a change of state is about.
fn queue_of(state: &State) -> QueueId {
    match *state {
        State::HandedOut { queue, .. }
        | State::PacketId { queue, .. }
        | State::PacketIdReleased { queue, .. }
        | State::IncomingId { queue, .. }
        | State::Returned { queue, .. } => queue,
        State::DeadLettered { from, .. } => from,
    }
}

/// The most bytes of a record, and of its entry in the directory.
fn size_max(record: &Record, plan: Plan) -> (usize, usize) {
    const FIXED: usize = 96;
    match record {
        Record::Message { routes, .. } if plan != Plan::Write => (FIXED + routes.len() * record::ROUTE_MAX, 0),
        Record::Message { message, routes } => (
            message_bytes_max(message.payload().len(), routes.len()),
            32 + routes.len() * record::ROUTE_MAX,
        ),
        Record::Acks(acks) => (
            FIXED + acks.iter().map(|queue| 20 + queue.settled.len() * 20).sum::<usize>(),
            0,
        ),
        Record::Key { key, value } => (
            FIXED + key.len() + value.as_ref().map_or(0, |v| v.len()),
            40 + key.len(),
        ),
        Record::State(_) | Record::Time | Record::Purge { .. } | Record::QueueDelete { .. } => (FIXED, 0),
    }
}
