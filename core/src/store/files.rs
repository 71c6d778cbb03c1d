//! The segments on disk as committer and readers share them: who is open, who is being read, and what moved where.
//!
//! The table's mutex is a leaf and is held for look-ups and for opening a file, never while reading or writing. A read
//! holds the file's `Arc`; a segment is recycled only when nobody else does.

use super::directory::Directory;
use super::disk::Disk;
use super::index::Index;
use super::quarantine;
use super::segment::{SegmentHeader, path};
use super::stats::StoreStats;
use crate::message::Position;
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;

/// Files kept open for reading, besides those being read.
const OPEN_FILES_MAX: usize = 64;

/// What committer and readers share.
pub(crate) struct Shared<D: Disk> {
    pub(crate) disk: Arc<D>,
    pub(crate) stats: Arc<StoreStats>,
    /// What is live, and where. The committer's; readers look pages up in it. A leaf, never held while reading or
    /// writing a file.
    pub(crate) index: Mutex<Index>,
    table: Mutex<Table<D::File>>,
}

struct Table<F> {
    sites: HashMap<u32, Site<F>>,
    /// Where the survivors of a segment went: ascending by old offset. They outlive the segment, because the engine
    /// remembers positions, and go when the segment they point to goes.
    moved: HashMap<u32, Vec<(u32, Position)>>,
    /// Grows with each look-up, to find the file that was not used longest.
    clock: u64,
}

struct Site<F> {
    header: SegmentHeader,
    file: Option<Arc<F>>,
    /// What its footer will list, as long as it has none.
    directory: Option<Arc<Mutex<Directory>>>,
    used: u64,
}

/// A record's place, pinned: its segment stays as long as this lives.
pub(crate) struct Pinned<F> {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<F>,
    pub(crate) directory: Option<Arc<Mutex<Directory>>>,
}

impl<D: Disk> Shared<D> {
    pub(crate) fn new(disk: Arc<D>, stats: Arc<StoreStats>) -> Self {
        let table = Table {
            sites: HashMap::new(),
            moved: HashMap::new(),
            clock: 0,
        };
        Shared {
            disk,
            stats,
            index: Mutex::new(Index::default()),
            table: Mutex::new(table),
        }
    }
    /// A segment exists from here on, and is being written if it has a directory.
    pub(crate) fn add(
        &self,
        header: SegmentHeader,
        file: Option<Arc<D::File>>,
        directory: Option<Arc<Mutex<Directory>>>,
    ) {
        let site = Site {
            header,
            file,
            directory,
            used: 0,
        };
        self.table.lock().sites.insert(header.id, site);
    }
    /// A segment has its footer.
    pub(crate) fn sealed(&self, segment: u32) {
        if let Some(site) = self.table.lock().sites.get_mut(&segment) {
            site.directory = None;
        }
    }
    /// Where a record lies now.
    pub(crate) fn resolve(&self, at: Position) -> Position {
        self.table.lock().resolve(at)
    }
    /// Opens and pins a segment; `Ok(None)` if it is gone.
    pub(crate) fn pin(&self, segment: u32) -> io::Result<Option<Pinned<D::File>>> {
        let mut table = self.table.lock();
        table.clock += 1;
        let used = table.clock;
        let Some(site) = table.sites.get_mut(&segment) else {
            return Ok(None);
        };
        site.used = used;
        let header = site.header;
        let directory = site.directory.clone();
        if let Some(file) = &site.file {
            return Ok(Some(Pinned {
                header,
                file: file.clone(),
                directory,
            }));
        }
        let file = Arc::new(self.disk.open(&path(header.kind.dir(), segment))?);
        site.file = Some(file.clone());
        table.close_some();
        Ok(Some(Pinned {
            header,
            file,
            directory,
        }))
    }
    /// Takes a segment out, unless it is being read. Readers do not find it from here on.
    pub(crate) fn take_out(&self, segment: u32) -> bool {
        let mut table = self.table.lock();
        let pinned = |site: &Site<D::File>| site.file.as_ref().is_some_and(|file| Arc::strong_count(file) > 1);
        if table.sites.get(&segment).is_some_and(pinned) {
            return false;
        }
        table.sites.remove(&segment);
        table.moved.retain(|_, moved| {
            moved.retain(|(_, to)| to.segment != segment);
            !moved.is_empty()
        });
        true
    }
    /// Records of a segment were copied.
    pub(crate) fn redirect(&self, from: u32, moved: impl Iterator<Item = (u32, Position)>) {
        let mut table = self.table.lock();
        let table = &mut *table;
        let known = table.moved.entry(from).or_default();
        known.extend(moved);
        known.sort_unstable_by_key(|(offset, _)| *offset);
        // What led to the source leads on: the source's own table goes with the last position that names it, but a
        // record that moved twice is still remembered by its first.
        let known = known.clone();
        for (_, to) in table.moved.values_mut().flatten().filter(|(_, to)| to.segment == from) {
            if let Ok(found) = known.binary_search_by_key(&to.offset, |(offset, _)| *offset)
                && let Some((_, next)) = known.get(found)
            {
                *to = *next;
            }
        }
    }
    /// Sets a record aside that does not hold.
    pub(crate) fn damaged(&self, header: &SegmentHeader, offset: u32, bytes: &[u8], why: &str) {
        let file = path(header.kind.dir(), header.id);
        quarantine::set_aside(&*self.disk, &self.stats, &file, header.id, offset, bytes, why);
    }
}

impl<F> Table<F> {
    fn resolve(&self, mut at: Position) -> Position {
        // Each step leads to a younger segment, so this ends.
        while let Some(moved) = self.moved.get(&at.segment)
            && let Ok(found) = moved.binary_search_by_key(&at.offset, |(offset, _)| *offset)
            && let Some((_, to)) = moved.get(found)
        {
            at = *to;
        }
        at
    }
    fn close_some(&mut self) {
        let idle = |site: &Site<F>| site.file.as_ref().is_some_and(|file| Arc::strong_count(file) == 1);
        let open = self.sites.values().filter(|site| site.file.is_some()).count();
        if open > OPEN_FILES_MAX
            && let Some(site) = self
                .sites
                .values_mut()
                .filter(|site| idle(site))
                .min_by_key(|site| site.used)
        {
            site.file = None;
        }
    }
}
