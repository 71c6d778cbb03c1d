//! Values of keyed records, as a start hands them out: read from the log one after the other when they are needed.
//!
//! There may be millions of sessions, subscriptions and retained messages. For each only its position is kept here, and
//! only until the engines have what they need of it.

use super::directory::{Entries, Listed};
use super::disk::{Disk, Patient};
use super::files::Shared;
use super::key::{self, KeyKind, VhostId};
use super::reader::Chunk;
use super::record::{Kind, parse_key};
use super::segment::read_directory;
use super::settings::StoreError;
use super::stats::StoreStats;
use crate::message::Position;
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// The source of values for a start. See [`super::Recovered::each`].
pub(crate) trait Values: fmt::Debug + Send + Sync {
    /// Calls `take` with each key of that kind, without its prefix, and its value. Values that could not be read for
    /// too long are reported by [`super::Store::check_start`].
    fn each(&self, vhost: VhostId, kind: KeyKind, take: &mut dyn FnMut(&[u8], &[u8]));
    /// The vhosts that have any.
    fn vhosts(&self) -> BTreeSet<VhostId>;
}

/// All live keyed records of a log.
pub(super) struct LiveKeys<D: Disk> {
    shared: Arc<Shared<D>>,
    /// By the first bytes of their keys, and then by position.
    order: Vec<(Group, Position)>,
    /// Segments with keyed records.
    segments: Vec<u32>,
    /// Damaged records met so far: their keys, and values known from elsewhere.
    met: Mutex<BTreeMap<Position, Known>>,
}

/// The vhost and the kind of a key: its first bytes.
type Group = u32;
type Known = (Box<[u8]>, Option<Box<[u8]>>);
/// Values of keys.
type Copies = HashMap<Box<[u8]>, Box<[u8]>>;

/// A damaged keyed record.
struct Damaged {
    at: Position,
    /// What is at its position now; `None` if the segment no longer exists.
    sample: Option<Vec<u8>>,
}

impl<D: Disk> fmt::Debug for LiveKeys<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveKeys")
            .field("keys", &self.order.len())
            .finish_non_exhaustive()
    }
}

/// Keys other than those of sessions, subscriptions and retained messages are few, and needed more than once.
fn is_read_at_once(key: &[u8]) -> bool {
    !matches!(
        key::parse(key),
        Some((_, KeyKind::Session | KeyKind::Subscription | KeyKind::Retained, _))
    )
}

fn group_of(key: &[u8]) -> Group {
    let first = key.first_chunk().copied().unwrap_or_default();
    u32::from_be_bytes(first)
}

impl<D: Disk> LiveKeys<D> {
    /// The keys of the index, which is complete. `segments`: those with keyed records.
    pub(super) fn of(shared: &Arc<Shared<D>>, segments: Vec<u32>) -> LiveKeys<D> {
        let index = shared.index.read();
        let live = index
            .keys
            .iter()
            .filter(|(key, entry)| !entry.deleted && !is_read_at_once(key));
        let mut order: Vec<(Group, Position)> = live.map(|(key, entry)| (group_of(key), entry.at)).collect();
        drop(index);
        order.sort_unstable();
        LiveKeys {
            shared: shared.clone(),
            order,
            segments,
            met: Mutex::default(),
        }
    }

    /// Reads the values that are read at once.
    pub(super) fn read_at_once(&self, into: &mut BTreeMap<Box<[u8]>, Box<[u8]>>) -> Result<(), StoreError> {
        let index = self.shared.index.read();
        let live = index
            .keys
            .iter()
            .filter(|(key, entry)| !entry.deleted && is_read_at_once(key));
        let mut order: Vec<Position> = live.map(|(_, entry)| entry.at).collect();
        drop(index);
        order.sort_unstable();
        self.read(order.into_iter(), &mut |key, value| {
            _ = into.insert(key.into(), value.into())
        })
    }

    /// Calls `take` with the keys and values at these positions, or with what is known of damaged ones.
    fn read(
        &self,
        order: impl Iterator<Item = Position>,
        take: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), StoreError> {
        let mut damaged: BTreeMap<Position, Option<Vec<u8>>> = BTreeMap::new();
        let mut chunk: Option<Chunk<Patient<D::File>>> = None;
        for at in order {
            if chunk.as_ref().is_none_or(|chunk| chunk.header().id != at.segment) {
                chunk = self.shared.pin_patiently(at.segment)?.map(Chunk::new);
            }
            let found = match &mut chunk {
                Some(chunk) => chunk
                    .record(at.offset)
                    .map_err(|error| StoreError::unread(&self.shared.path_of(at.segment), error))?,
                None => None,
            };
            match found
                .filter(|raw| raw.kind == Kind::Key)
                .and_then(|raw| Some((parse_key(raw.head)?.1, raw.payload)))
            {
                Some((key, value)) => take(key, value),
                None => _ = damaged.insert(at, chunk.as_mut().map(|chunk| chunk.sample(at.offset))),
            }
        }
        if damaged.is_empty() {
            return Ok(());
        }
        let places: Vec<Position> = damaged.keys().copied().collect();
        self.meet(damaged)?;
        let met = self.met.lock();
        for (key, value) in places.iter().filter_map(|at| met.get(at)) {
            if let Some(value) = value {
                take(key, value);
            }
        }
        Ok(())
    }

    /// Handles damaged records. A value that the checkpoint or an older copy has is written again; a key without any is
    /// forgotten. A retained message is deleted by a record instead: its older records are outdated, and would come
    /// back at the first start that does not find the damaged one.
    fn meet(&self, mut places: BTreeMap<Position, Option<Vec<u8>>>) -> Result<(), StoreError> {
        {
            let met = self.met.lock();
            places.retain(|at, _| !met.contains_key(at));
        }
        let mut damaged: BTreeMap<Box<[u8]>, Damaged> = BTreeMap::new();
        for (key, entry) in self.shared.index.read().keys.iter() {
            if let Some(sample) = places.remove(&entry.at).filter(|_| !entry.deleted) {
                damaged.insert(key.clone(), Damaged { at: entry.at, sample });
            }
        }
        let older = self.older_copies(&damaged)?;
        for (key, Damaged { at, sample }) in damaged {
            let mut index = self.shared.index.write();
            let known = index.keys.get(&key).and_then(|entry| entry.value.clone());
            let (value, how) = match (known, older.get(&key)) {
                (Some(value), _) => (Some(value), "it is known from the checkpoint, and written again"),
                (None, Some(value)) => (Some(value.clone()), "an older copy is used, and written again"),
                (None, None) => (None, "it is lost"),
            };
            let is_rescued = value.is_some() || key::is_bulk(&key);
            if !is_rescued {
                index.take_key(&key);
            }
            drop(index);
            let why = format!("the record of {} does not hold: {how}", key::describe(&key));
            match (sample, self.shared.pin_patiently(at.segment)?) {
                (Some(sample), Some(pinned)) => self.shared.damaged(&pinned.header, at.offset, &sample, &why),
                _ => {
                    tracing::error!(segment = at.segment, why, "a keyed record is gone with its segment");
                    StoreStats::add(&self.shared.stats.quarantined, 1);
                }
            }
            if is_rescued {
                self.shared.start.lock().rescued.push((key.clone(), value.clone()));
            }
            self.met.lock().insert(at, (key, value));
        }
        Ok(())
    }

    /// The newest older values of keys, if they are valid and not deletions.
    fn older_copies(&self, of: &BTreeMap<Box<[u8]>, Damaged>) -> Result<Copies, StoreError> {
        let unread = |id, error| StoreError::unread(&self.shared.path_of(id), error);
        let mut copies: HashMap<&[u8], Vec<(u64, Position, bool)>> = HashMap::new();
        for &id in &self.segments {
            let Some(pinned) = self.shared.pin_patiently(id)? else {
                continue;
            };
            let directory = read_directory(&*pinned.file, &pinned.header).map_err(|error| unread(id, error))?;
            let Some((_, directory)) = directory else { continue };
            for listed in Entries::new(&directory) {
                if let Listed::Key {
                    offset,
                    version,
                    deleted,
                    key,
                    ..
                } = listed
                    && let Some((key, damaged)) = of.get_key_value(key).filter(|_| !key::is_bulk(key))
                {
                    let at = Position { segment: id, offset };
                    if at != damaged.at {
                        copies.entry(key).or_default().push((version, at, deleted));
                    }
                }
            }
        }
        let mut found = HashMap::new();
        for (key, mut copies) in copies {
            copies.sort_unstable();
            // Values before a deletion do not count as copies.
            for (_, at, _) in copies.into_iter().rev().take_while(|(_, _, deleted)| !deleted) {
                let Some(mut chunk) = self.shared.pin_patiently(at.segment)?.map(Chunk::new) else {
                    continue;
                };
                let raw = chunk.record(at.offset).map_err(|error| unread(at.segment, error))?;
                if let Some(raw) = raw
                    && raw.kind == Kind::Key
                    && parse_key(raw.head).is_some_and(|(_, found)| *found == *key)
                {
                    found.insert(key.into(), raw.payload.into());
                    break;
                }
            }
        }
        Ok(found)
    }
}

impl<D: Disk> Values for LiveKeys<D> {
    fn each(&self, vhost: VhostId, kind: KeyKind, take: &mut dyn FnMut(&[u8], &[u8])) {
        let prefix = key::key(vhost, kind, &[]);
        let group = group_of(&prefix);
        let from = self.order.partition_point(|(other, _)| *other < group);
        let order = self.order.iter().skip(from).take_while(|(other, _)| *other == group);
        let read = self.read(order.map(|(_, at)| *at), &mut |key, value| {
            take(key.strip_prefix(&*prefix).unwrap_or_default(), value);
        });
        if let Err(error) = read {
            self.shared.start.lock().failed.get_or_insert(error);
        }
    }
    fn vhosts(&self) -> BTreeSet<VhostId> {
        let mut vhosts = BTreeSet::new();
        let mut from = 0;
        while let Some((group, _)) = self.order.get(from) {
            let vhost = VhostId(group >> 8);
            vhosts.insert(vhost);
            from = self.order.partition_point(|(other, _)| other >> 8 <= vhost.0);
        }
        vhosts
    }
}
