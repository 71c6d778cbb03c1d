//! Keyed records: the newest of each key, and how long a deletion is needed.

use super::{Index, Segments};
use crate::message::Position;
use crate::store::key;

/// A keyed record.
#[derive(Clone, Debug)]
pub(crate) struct KeyRecord {
    pub(crate) at: Position,
    /// See [`KeyEntry::version`].
    pub(crate) version: u64,
    pub(crate) len: u32,
    pub(crate) deleted: bool,
    /// Its value, if checkpoints repeat it.
    pub(crate) value: Option<Box<[u8]>>,
}

/// The newest record of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyEntry {
    pub(crate) at: Position,
    /// The LSN of the record that first had this value. Copies keep it.
    pub(crate) version: u64,
    /// Bytes of the record.
    pub(crate) len: u32,
    /// Its value, if checkpoints repeat it.
    pub(crate) value: Option<Box<[u8]>>,
    /// Other segments on disk with older records of this key.
    pub(crate) older: Segments,
    /// The newest record is a deletion. It is needed as long as another segment has an older record of the key. Older
    /// records in its own segment disappear together with it.
    pub(crate) deleted: bool,
}

/// See [`ListedBytes`]. Changes of `older` do not count, so that the same number is added and subtracted.
fn listed_bytes(key: &[u8], entry: &KeyEntry) -> u64 {
    const FIXED: usize = 16;
    if !entry.deleted && key::is_bulk(key) {
        return 0;
    }
    let value = entry.value.as_ref().map_or(0, |value| value.len());
    (FIXED + key.len() + value) as u64
}

impl Index {
    /// A keyed record was written or copied.
    pub(crate) fn key(&mut self, key: &[u8], record: KeyRecord) {
        self.found_key(key, record);
        self.drop_needless_deletion(key);
    }
    /// A deletion was written that also deletes records of other keys. It must outlive those `segments`, too.
    pub(crate) fn deletion_of_more(&mut self, key: &[u8], record: KeyRecord, segments: impl Iterator<Item = u32>) {
        let own = record.at.segment;
        self.found_key(key, record);
        self.outlives(key, segments.filter(|segment| *segment != own));
        self.drop_needless_deletion(key);
    }
    /// A deletion must outlive these segments.
    pub(crate) fn outlives(&mut self, key: &[u8], segments: impl Iterator<Item = u32>) {
        if let Some(entry) = self.keys.get_mut(key) {
            let mut all: Vec<u32> = entry.older.iter().collect();
            for segment in segments {
                all.push(segment);
                self.outlived.entry(segment).or_default().push(key.into());
            }
            all.sort_unstable();
            all.dedup();
            entry.older = Segments::from_sorted(all);
        }
    }
    /// A keyed record was found at the start. Deletions are kept until all records were seen, because an older copy may
    /// follow.
    pub(crate) fn found_key(&mut self, key: &[u8], record: KeyRecord) {
        let KeyRecord {
            at, version, deleted, ..
        } = record;
        let mut entry = KeyEntry {
            at,
            version,
            len: record.len,
            value: record.value,
            older: Segments::default(),
            deleted,
        };
        match self.keys.get_mut(key) {
            Some(newest) if newest.version > version => {
                if newest.at.segment != at.segment {
                    newest.older.insert(at.segment);
                }
            }
            Some(newest) => {
                let before = (newest.at.segment, newest.deleted, listed_bytes(key, newest));
                entry.older = std::mem::take(&mut newest.older);
                // A copy of the same record.
                if newest.version == version && entry.value.is_none() {
                    entry.value = newest.value.take();
                }
                entry.older.insert(newest.at.segment);
                entry.older.retain(|segment| segment != at.segment);
                let bytes = listed_bytes(key, &entry);
                *newest = entry;
                self.count_key(at.segment, deleted, bytes);
                self.discount_key(before);
            }
            None => {
                self.count_key(at.segment, deleted, listed_bytes(key, &entry));
                self.keys.insert(key.into(), entry);
            }
        }
    }
    fn count_key(&mut self, segment: u32, deleted: bool, bytes: u64) {
        let live = self.count(segment);
        live.keys += 1;
        if deleted {
            live.deletions += 1;
            self.listed.deletions += bytes;
        } else {
            self.listed.values += bytes;
        }
    }
    fn discount_key(&mut self, (segment, deleted, bytes): (u32, bool, u64)) {
        let live = self.count(segment);
        live.keys -= 1;
        if deleted {
            live.deletions -= 1;
            self.listed.deletions -= bytes;
        } else {
            self.listed.values -= bytes;
        }
    }
    /// Removes a key's newest record from the counts, because it is lost or not needed.
    pub(crate) fn take_key(&mut self, key: &[u8]) -> Option<KeyEntry> {
        let entry = self.keys.remove(key)?;
        self.gone_key(key, &entry);
        Some(entry)
    }
    /// The newest record of a key does not count any more.
    pub(super) fn gone_key(&mut self, key: &[u8], entry: &KeyEntry) {
        self.discount_key((entry.at.segment, entry.deleted, listed_bytes(key, entry)));
    }
    /// A copy of a key's newest record was written, and nothing will point to it.
    pub(crate) fn key_copied_for_nothing(&mut self, key: &[u8], segment: u32, is_there: impl Fn(u32) -> bool) {
        if let Some(vhost) = key::vhost_of(key) {
            self.copied(vhost, segment, is_there);
        }
        if let Some(entry) = self.keys.get_mut(key)
            && entry.at.segment != segment
        {
            entry.older.insert(segment);
        }
    }
    /// All records were seen, and only these segments exist.
    pub(crate) fn drop_needless_deletions(&mut self, is_there: impl Fn(u32) -> bool) {
        for (_, entry) in self.keys.iter_mut() {
            entry.older.retain(&is_there);
        }
        let needless = self
            .keys
            .iter()
            .filter(|(_, entry)| entry.deleted && entry.older.is_empty());
        for key in needless.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.take_key(&key);
        }
    }
    /// A segment with a record of this key no longer exists.
    pub(crate) fn key_copy_gone(&mut self, key: &[u8], segment: u32) {
        if let Some(entry) = self.keys.get_mut(key) {
            entry.older.retain(|other| other != segment);
            self.drop_needless_deletion(key);
        }
    }
    /// A segment no longer exists: see `outlived`.
    pub(crate) fn segment_gone(&mut self, segment: u32) {
        for key in self.outlived.remove(&segment).unwrap_or_default() {
            self.key_copy_gone(&key, segment);
        }
    }
    /// A segment no longer exists, and its keys are not known.
    pub(crate) fn all_copies_gone(&mut self, segment: u32) {
        self.drop_needless_deletions(|other| other != segment);
    }
    /// Drops a deletion once no other segment has an older record of its key.
    fn drop_needless_deletion(&mut self, key: &[u8]) {
        if self
            .keys
            .get(key)
            .is_some_and(|entry| entry.deleted && entry.older.is_empty())
        {
            self.take_key(key);
        }
    }
    /// Adds a key from a checkpoint.
    pub(crate) fn restore_key(&mut self, key: Box<[u8]>, entry: KeyEntry) {
        self.count_key(entry.at.segment, entry.deleted, listed_bytes(&key, &entry));
        if entry.deleted && (key::as_queue(&key).is_some() || key::as_vhost(&key).is_some()) {
            for segment in entry.older.iter() {
                self.outlived.entry(segment).or_default().push(key.clone());
            }
        }
        self.keys.insert(key, entry);
    }
}
