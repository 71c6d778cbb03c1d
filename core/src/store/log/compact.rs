//! Compaction: one session that never settles must not keep the whole log.
//!
//! The live records of an old, mostly dead segment are copied to `cold/`, messages and keyed records separately, a
//! slice at a time. Deletions are usually not copied, see [`Store::first_in_chain`]. A copy keeps (queue, sequence) or
//! (key, version). It is synced before anything points to it, and the source is recycled like every dead segment, once
//! two checkpoints know the copy. If a crash leaves both, a start merges them.

use super::Store;
use crate::message::Position;
use crate::store::directory::{Entries, Listed};
use crate::store::disk::{Disk, retry_pause};
use crate::store::index::{KeyEntry, KeyRecord, Live, Root};
use crate::store::reader::Chunk;
use crate::store::record::{Kind, MessageHead, ROUTE_MAX, Raw, message_bytes_max, parse_key};
use crate::store::segment::{SegmentHeader, SegmentKind, SegmentWriter, directory_bytes_max, read_directory, size_for};
use crate::store::segment_entry::Segment;
use crate::store::settings::StoreError;
use crate::store::stats::StoreStats;
use crate::store::{Route, Routes, describe, vhost_of};
use crate::time::Time;
use hashbrown::HashMap;
use std::io;

/// A segment being copied.
pub(super) struct Compaction {
    source: u32,
    /// What was live when it began, ascending by offset.
    todo: std::vec::IntoIter<Todo>,
}

/// A source that could not be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unread {
    source: u32,
    failures: u32,
    /// When it is tried again.
    pub(super) retry_at: Time,
}

enum Todo {
    Message { offset: u32, routes: Routes },
    Key { offset: u32, key: Box<[u8]> },
}

/// A copy that is written and that nothing points to yet.
enum Copied {
    Message {
        from: u32,
        to: Position,
        routes: Routes,
    },
    Key {
        key: Box<[u8]>,
        to: Position,
        len: u32,
        version: u64,
        deleted: bool,
    },
}

/// Which records of a segment are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// Messages and values. Deletions stay: what they deleted is usually removed soon, and they with it.
    Lasting,
    /// Deletions, from a segment that only has those.
    Deletions,
    /// Everything, from a cold segment: its deletions must outlive records that stay.
    All,
}

impl What {
    fn of(segment: &Segment) -> What {
        match segment.header.kind {
            SegmentKind::Log => What::Lasting,
            SegmentKind::Messages | SegmentKind::Keys => What::All,
        }
    }
    fn count(self, live: Live) -> u64 {
        match self {
            What::Lasting => live.lasting(),
            What::Deletions => live.deletions,
            What::All => live.routes + live.keys,
        }
    }
    fn takes(self, key: &KeyEntry) -> bool {
        match self {
            What::Lasting => !key.deleted,
            What::Deletions => key.deleted,
            What::All => true,
        }
    }
}

/// Bytes of a segment that are to be copied, and bytes of their directory entries, by their share of its records.
fn bytes_of(segment: &Segment, what: u64) -> (u64, u64) {
    let total = (segment.routes + segment.keys).max(1);
    let share = |bytes: u64| bytes * what.min(total) / total;
    (share(u64::from(segment.end)), share(segment.directory_bytes()))
}

/// Failures in a row after which an unreadable source is left alone until the next start. With the pauses between them
/// that is about half a minute. Nobody waits for a compaction, so the process continues.
const READ_FAILURES_MAX: u32 = 32;
/// The limit of what is live while disk space is short, in percent.
const DISK_SHORT_PERCENT: u8 = 75;
const MESSAGES: usize = 0;
const KEYS: usize = 1;

impl<D: Disk> Store<D> {
    /// Copies a slice. Returns whether there is more to do now.
    pub(super) fn compact(&mut self, now: Time) -> Result<bool, StoreError> {
        if self.unread.is_some_and(|unread| unread.retry_at > now) {
            return Ok(false);
        }
        let Some(mut compaction) = self.compaction.take().or_else(|| self.begin_compaction(now)) else {
            return Ok(false);
        };
        let source = compaction.source;
        match self.copy_slice(&mut compaction) {
            Ok((copied, unread)) => {
                self.point_to(source, copied);
                if let Some(error) = unread {
                    if self.postpone(source, &error, now) {
                        self.compaction = Some(compaction);
                    }
                    return Ok(false);
                }
                self.unread = None;
            }
            Err(error) => {
                tracing::warn!(segment = source, %error, "a compaction failed");
                StoreStats::add(&self.shared.stats.background_failures, 1);
                // A lack of space may end; other failures may not.
                if error.kind() != io::ErrorKind::StorageFull {
                    self.set_stuck(source);
                }
                self.abandon_cold();
                return Ok(false);
            }
        }
        let more = compaction.todo.len() > 0;
        if more {
            self.compaction = Some(compaction);
        }
        Ok(more)
    }

    /// A source could not be read. That is no damage, so it is tried again later. Returns whether it is.
    fn postpone(&mut self, source: u32, error: &io::Error, now: Time) -> bool {
        StoreStats::add(&self.shared.stats.read_errors, 1);
        let before = self.unread.filter(|unread| unread.source == source);
        let failures = before.map_or(0, |unread| unread.failures) + 1;
        let retry_at = now + retry_pause(failures);
        self.unread = Some(Unread {
            source,
            failures,
            retry_at,
        });
        if failures == 1 {
            tracing::warn!(segment = source, %error, "a segment cannot be read for compaction; it is tried again");
        }
        if failures < READ_FAILURES_MAX {
            return true;
        }
        tracing::error!(segment = source, %error, "a segment could not be read for compaction; it stays as it is");
        StoreStats::add(&self.shared.stats.background_failures, 1);
        self.set_stuck(source);
        self.unread = None;
        false
    }

    /// Abandons the files being written. They may contain whole or partial copies that nothing points to. The next
    /// checkpoint covers them as dead, so that no start takes them for messages whose settling it does not see.
    fn abandon_cold(&mut self) {
        for writer in std::mem::take(&mut self.cold).into_iter().flatten() {
            // A later deletion must outlive these copies, too.
            let mut index = self.shared.index.write();
            let id = writer.header.id;
            let is_there = |id| self.segments.contains_key(&id);
            for listed in writer.directory.lock().entries() {
                match listed {
                    Listed::Key { key, .. } => index.key_copied_for_nothing(key, id, is_there),
                    Listed::Message { routes, .. } => {
                        let routes = routes.iter();
                        routes.for_each(|route| index.message_copied(route.queue, id, is_there));
                    }
                }
            }
            drop(index);
            if let Some(segment) = self.segments.get_mut(&writer.header.id) {
                segment.end = writer.position();
            }
        }
        self.checkpoint.dirty = true;
    }

    /// A keyed record that was to be copied is damaged, but its value is known: it is written again.
    fn rescue(&mut self, key: &[u8], segment: u32, offset: u32) -> bool {
        let entry = self.shared.index.read().keys.get(key).cloned();
        let at = Position { segment, offset };
        match entry.filter(|entry| entry.at == at && (entry.deleted || entry.value.is_some())) {
            Some(entry) => {
                tracing::warn!(record = describe(key), "a damaged record is written again");
                self.rescued.push((key.into(), entry.value));
                true
            }
            None => false,
        }
    }

    fn set_stuck(&mut self, segment: u32) {
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.stuck = true;
        }
    }

    /// The segment with the fewest live records, if these are few and it is old enough. Few means few compared with a
    /// full segment and with a full directory: many short segments, as restarts leave them, become one. A segment that
    /// is short because its directory was full does not count as having few: its copy would be as short, and be copied
    /// again for ever.
    fn begin_compaction(&mut self, now: Time) -> Option<Compaction> {
        let (percent, age) = if self.disk_short {
            (DISK_SHORT_PERCENT, 1)
        } else {
            (self.settings.compact_live_percent_max, self.settings.compact_age_min)
        };
        if !self.has_room_to_compact() {
            return None;
        }
        let (full, full_directory) = (
            self.settings.segment_bytes,
            directory_bytes_max(self.settings.segment_bytes),
        );
        let most = |full: u64| full / 100 * u64::from(percent);
        let is_little =
            |(bytes, listed): (u64, u64)| bytes <= most(full.into()) && listed <= most(full_directory as u64);
        let logs = |s: &&Segment| s.header.kind == SegmentKind::Log;
        let newest_first = self.segments.values().rev().filter(logs);
        let youngest = newest_first.map(|s| s.header.id).nth(age as usize)?;
        let index = self.shared.index.read();
        let few = self
            .segments
            .range(..=youngest)
            .filter(|(_, s)| s.sealed && !s.is_dead && !s.stuck)
            .map(|(id, s)| (s, What::of(s), What::of(s).count(index.live(*id))))
            .filter(|(_, _, count)| *count > 0)
            .map(|(s, what, count)| (bytes_of(s, count), s.header.id, what))
            .filter(|(bytes, ..)| is_little(*bytes))
            .min();
        drop(index);
        let (source, what) = match few {
            Some((_, source, what)) => (source, what),
            None => (self.first_in_chain(youngest)?, What::Deletions),
        };
        match self.list(source, what) {
            Ok(Some(todo)) if what == What::Deletions && !self.outlives_what_stays(&todo) => None,
            Ok(Some(todo)) => Some(Compaction {
                source,
                todo: todo.into_iter(),
            }),
            Ok(None) => {
                self.set_stuck(source);
                None
            }
            Err(error) => {
                self.postpone(source, &error, now);
                None
            }
        }
    }

    /// The oldest segment of the log that only has deletions, once after each checkpoint.
    ///
    /// Its other records, though dead, keep the deletions in the next segment, and those the next, and so on. If one of
    /// its deletions must outlive something that stays, everything that was created and deleted since would stay, too.
    /// In that case its deletions are copied, however many they are.
    fn first_in_chain(&mut self, youngest: u32) -> Option<u32> {
        let mut chain = self.segments.range(..=youngest);
        let is_link = |s: &Segment| s.header.kind == SegmentKind::Log && s.outlives && !s.is_dead && !s.stuck;
        let (&first, _) = chain.find(|(_, s)| is_link(s))?;
        (self.examined.replace(first) != Some(first)).then_some(first)
    }

    /// Whether one of these deletions must outlive a segment that is not about to be removed.
    fn outlives_what_stays(&self, deletions: &[Todo]) -> bool {
        let index = self.shared.index.read();
        let stays = |id| {
            self.segments.get(&id).is_some_and(|s| {
                let live = index.live(id);
                !s.sealed || s.stuck || live.lasting() > 0 || (s.header.kind != SegmentKind::Log && live.keys > 0)
            })
        };
        deletions.iter().any(|deletion| match deletion {
            Todo::Key { key, .. } => index.keys.get(key).is_some_and(|entry| entry.older.iter().any(stays)),
            Todo::Message { .. } => false,
        })
    }

    /// What is live in a segment according to its directory; `None` if that is damaged.
    fn list(&self, source: u32, what: What) -> io::Result<Option<Vec<Todo>>> {
        let Some(pinned) = self.shared.pin(source)? else {
            return Ok(None);
        };
        let Some((_, directory)) = read_directory(&*pinned.file, &pinned.header)? else {
            return Ok(None);
        };
        let index = self.shared.index.read();
        let mut joined: HashMap<Root, Vec<Route>> = HashMap::new();
        for (&(queue, seq), moved) in &index.moves {
            if index.lookup(queue, seq) == Some(source) {
                joined.entry(moved.root).or_default().push(Route {
                    queue,
                    seq,
                    flags: moved.flags,
                });
            }
        }
        let mut todo = Vec::new();
        for listed in Entries::new(&directory) {
            match listed {
                Listed::Message { offset, routes, .. } => {
                    let roots = routes.iter().map(|route| Root::Route(route.queue, route.seq));
                    let at = Position {
                        segment: source,
                        offset,
                    };
                    let more: Vec<Route> = roots
                        .chain([Root::At(at)])
                        .filter_map(|root| joined.remove(&root))
                        .flatten()
                        .collect();
                    let mut routes: Routes = routes.into_iter().chain(more).collect();
                    routes.retain(|route| index.lookup(route.queue, route.seq) == Some(source));
                    if !routes.is_empty() {
                        todo.push(Todo::Message { offset, routes });
                    }
                }
                Listed::Key { offset, key, .. } => {
                    let at = Position {
                        segment: source,
                        offset,
                    };
                    if index
                        .keys
                        .get(key)
                        .is_some_and(|entry| entry.at == at && what.takes(entry))
                    {
                        todo.push(Todo::Key {
                            offset,
                            key: key.into(),
                        });
                    }
                }
            }
        }
        Ok(Some(todo))
    }

    /// Copies up to a slice's bytes and syncs them. Stops at a record that could not be read, and returns the error.
    ///
    /// # Errors
    /// A copy could not be written.
    fn copy_slice(&mut self, compaction: &mut Compaction) -> io::Result<(Vec<Copied>, Option<io::Error>)> {
        let source = compaction.source;
        let mut chunk = match self.shared.pin(source) {
            Ok(Some(pinned)) => Chunk::new(pinned),
            Ok(None) => return Ok((Vec::new(), None)),
            Err(error) => return Ok((Vec::new(), Some(error))),
        };
        let (mut copied, mut bytes, mut unread) = (Vec::new(), 0, None);
        while bytes < self.settings.slice_bytes
            && let Some(next) = compaction.todo.as_slice().first()
        {
            let (offset, kind) = match next {
                Todo::Message { offset, .. } => (*offset, Kind::Message),
                Todo::Key { offset, .. } => (*offset, Kind::Key),
            };
            let raw = match chunk.record(offset) {
                Ok(raw) => raw,
                Err(error) => {
                    unread = Some(error);
                    break;
                }
            };
            let Some(todo) = compaction.todo.next() else { break };
            let Some(raw) = raw.filter(|raw| raw.kind == kind) else {
                let sample = chunk.sample(offset);
                self.miss_copy(&todo, chunk.header(), &sample);
                continue;
            };
            bytes += raw.payload.len() + raw.head.len();
            copied.extend(match todo {
                Todo::Message { offset, routes } => self.copy_message(source, offset, routes, &raw)?,
                Todo::Key { offset, key } => self.copy_key(
                    Position {
                        segment: source,
                        offset,
                    },
                    key,
                    &raw,
                )?,
            });
        }
        for kind in [MESSAGES, KEYS] {
            self.sync_cold(kind)?;
        }
        Ok((copied, unread))
    }

    /// A record that was to be copied is damaged.
    fn miss_copy(&mut self, todo: &Todo, header: &SegmentHeader, sample: &[u8]) {
        let offset = match todo {
            Todo::Key { offset, key } if self.rescue(key, header.id, *offset) => return,
            Todo::Message { offset, .. } | Todo::Key { offset, .. } => *offset,
        };
        // Its queue will ask for it and be told. If it has a key, that is as lost here as it was there.
        let why = "a record that was to be copied does not hold";
        self.shared.damaged(header, offset, sample, why);
        self.set_stuck(header.id);
    }

    /// Copies a message for the queues that still have it there.
    fn copy_message(
        &mut self,
        source: u32,
        from: u32,
        mut routes: Routes,
        raw: &Raw<'_>,
    ) -> io::Result<Option<Copied>> {
        {
            let index = self.shared.index.read();
            routes.retain(|route| index.lookup(route.queue, route.seq) == Some(source));
        }
        let Some(head) = MessageHead::parse(raw.head).filter(|_| !routes.is_empty()) else {
            return Ok(None);
        };
        let most = message_bytes_max(raw.payload.len(), routes.len());
        let listed = 32 + routes.len() * ROUTE_MAX;
        let writer = cold(self, MESSAGES, most, listed)?;
        let to = Position {
            segment: writer.header.id,
            offset: writer.put_copy(&head, raw.payload, &routes),
        };
        Ok(Some(Copied::Message { from, to, routes }))
    }

    /// Copies a keyed record, if it is still the newest of its key.
    fn copy_key(&mut self, at: Position, key: Box<[u8]>, raw: &Raw<'_>) -> io::Result<Option<Copied>> {
        let known = self.shared.index.read().keys.get(&key).cloned();
        let Some(entry) = known.filter(|entry| entry.at == at) else {
            return Ok(None);
        };
        if parse_key(raw.head).is_none_or(|(_, found)| found != &*key) {
            return Ok(None);
        }
        let value = (!entry.deleted).then_some(raw.payload);
        let writer = cold(self, KEYS, 96 + key.len() + raw.payload.len(), 40 + key.len())?;
        let (offset, len, version) = writer.put_key(entry.version, &key, value, 0);
        let to = Position {
            segment: writer.header.id,
            offset,
        };
        Ok(Some(Copied::Key {
            key,
            to,
            len,
            version,
            deleted: entry.deleted,
        }))
    }

    fn sync_cold(&mut self, kind: usize) -> io::Result<()> {
        if let Some(Some(writer)) = self.cold.get_mut(kind) {
            let written = writer.write()?;
            if let Some(took) = writer.sync()? {
                self.shared.stats.synced(took);
                self.slice_took += took;
            }
            if written > 0 {
                StoreStats::add(&self.shared.stats.bytes_written, written);
                StoreStats::add(&self.shared.stats.compaction_bytes_written, written);
                self.checkpoint.dirty = true;
                let (id, end) = (writer.header.id, writer.end());
                if let Some(segment) = self.segments.get_mut(&id) {
                    segment.end = end;
                    segment.file_bytes = segment.file_bytes.max(u64::from(end));
                }
            }
        }
        Ok(())
    }

    /// The copies are on the medium: they replace the records.
    fn point_to(&mut self, source: u32, copied: Vec<Copied>) {
        StoreStats::add(&self.shared.stats.records_compacted, copied.len() as u64);
        let moved = copied.iter().filter_map(|copy| match copy {
            Copied::Message { from, to, .. } => Some((*from, *to)),
            Copied::Key { .. } => None,
        });
        self.shared.redirect(source, moved);
        let is_there = |id| self.segments.contains_key(&id);
        let mut index = self.shared.index.write();
        for copy in copied {
            match copy {
                Copied::Message { to, routes, .. } => {
                    for route in routes {
                        index.message_copied(route.queue, to.segment, is_there);
                        index.relocate(route.queue, route.seq, to.segment);
                    }
                }
                Copied::Key {
                    key,
                    to,
                    len,
                    version,
                    deleted,
                } => {
                    let record = KeyRecord {
                        at: to,
                        version,
                        len,
                        deleted,
                        value: None,
                    };
                    if let Some(vhost) = vhost_of(&key) {
                        index.copied(vhost, to.segment, is_there);
                    }
                    index.key(&key, record);
                }
            }
        }
    }

    /// Seals the cold segments.
    pub(super) fn seal_cold(&mut self) {
        for writer in std::mem::take(&mut self.cold).iter_mut().flatten() {
            if let Err(error) = self.seal(writer) {
                tracing::warn!(%error, "a cold segment was not sealed; the next start reads it");
                StoreStats::add(&self.shared.stats.background_failures, 1);
            }
        }
    }
}

/// The writer for cold messages or keys, with space for a record and a write begun.
fn cold<D: Disk>(
    store: &mut Store<D>,
    kind: usize,
    bytes: usize,
    listed: usize,
) -> io::Result<&mut SegmentWriter<D::File>> {
    let full = store
        .cold
        .get(kind)
        .is_some_and(|w| w.as_ref().is_some_and(|w| !w.has_room(bytes, listed)));
    if full {
        store.sync_cold(kind)?;
        if let Some(mut writer) = store.cold.get_mut(kind).and_then(Option::take) {
            store.seal(&mut writer)?;
        }
    }
    if store.cold.get(kind).is_some_and(Option::is_none) {
        let size = size_for(bytes + listed, store.settings.segment_bytes)
            .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let marks = store.marks;
        let header = store.next_header([SegmentKind::Messages, SegmentKind::Keys][kind], size);
        let disk = store.shared.disk.clone();
        let writer = match SegmentWriter::create(&*disk, header, None) {
            Ok(writer) => writer,
            Err(error) => {
                // A gap between segments would look as if one were missing. So the next segment takes the place of one
                // that could not be created, unless that file has got its name already and only the sync of the name
                // failed.
                let name = format!("{:08}.seg", header.id);
                if disk.list(header.kind.dir()).is_ok_and(|names| !names.contains(&name)) {
                    store.marks = marks;
                }
                return Err(error);
            }
        };
        store.add_segment(&writer);
        store.cold[kind] = Some(writer);
    }
    match store.cold.get_mut(kind) {
        Some(Some(writer)) => {
            writer.begin(writer.durable_lsn(), store.marks.wall);
            Ok(writer)
        }
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    }
}
