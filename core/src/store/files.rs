//! The segments on disk as committer and readers share them: which are open, which are being read, and where records
//! moved.
//!
//! The table's mutex is a leaf, and is held for look-ups and for opening a file, never while reading or writing. A read
//! keeps the file's `Arc`; a segment is recycled only when no one else has it.
//!
//! Files are opened when they are needed, and at most [`StoreSettings::open_files_max`] stay open, whatever the number
//! of segments: a backlog must not use up the descriptors that connections need.
//!
//! [`StoreSettings::open_files_max`]: super::StoreSettings::open_files_max

use super::directory::Directory;
use super::disk::{Disk, DiskFile, Patient, is_out_of_descriptors};
use super::index::Index;
use super::quarantine;
use super::segment::{SegmentHeader, SegmentKind, path};
use super::settings::StoreError;
use super::stats::StoreStats;
use crate::message::Position;
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What committer and readers share.
pub(crate) struct Shared<D: Disk> {
    pub(crate) disk: Arc<D>,
    pub(crate) stats: Arc<StoreStats>,
    /// What is live, and where. Only the committer changes it; readers look pages up in it. The lock is a leaf. It is never
    /// held for writing during file I/O, so nobody waits for the disk here.
    pub(crate) index: RwLock<Index>,
    /// Everything in the log below this LSN is written. The index knows keyed records slightly earlier than that.
    pub(crate) written: AtomicU64,
    /// Work that a start leaves. The lock is a leaf.
    pub(crate) start: Mutex<Start>,
    table: Mutex<Table<D::File>>,
}

/// The results of reading values during a start, and the work that it leaves.
#[derive(Debug, Default)]
pub(crate) struct Start {
    /// Keys whose newest record is lost and whose value is known.
    pub(crate) rescued: Vec<Rescued>,
    /// Why something could not be read.
    pub(crate) failed: Option<StoreError>,
}

/// A key and the value to be written for it again; `None`: its deletion.
pub(crate) type Rescued = (Box<[u8]>, Option<Box<[u8]>>);

struct Table<F> {
    sites: HashMap<u32, Site<F>>,
    /// Where records of a segment were copied to: ascending by former offset. These entries outlive the segment, because
    /// the engine remembers positions. They are removed with the segment they point to.
    moved: HashMap<u32, Vec<(u32, Position)>>,
    /// Segments with open files, in no order. At most `open_max`, not counting pinned ones.
    open: Vec<u32>,
    open_max: usize,
    /// The place in `open` that is checked first when a file has to be closed.
    hand: usize,
}

struct Site<F> {
    header: SegmentHeader,
    file: Option<Arc<F>>,
    /// What its footer will list, as long as it has none.
    directory: Option<Arc<Mutex<Directory>>>,
    /// It was used since the last round of closing passed it.
    recent: bool,
}

/// A record's segment, pinned: it is not recycled as long as this exists.
pub(crate) struct Pinned<F> {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<F>,
    pub(crate) directory: Option<Arc<Mutex<Directory>>>,
}

impl<D: Disk> Shared<D> {
    pub(crate) fn new(disk: Arc<D>, stats: Arc<StoreStats>, open_max: usize) -> Self {
        let table = Table {
            sites: HashMap::new(),
            moved: HashMap::new(),
            open: Vec::new(),
            open_max: open_max.max(1),
            hand: 0,
        };
        Shared {
            disk,
            stats,
            index: RwLock::new(Index::default()),
            written: AtomicU64::new(0),
            start: Mutex::default(),
            table: Mutex::new(table),
        }
    }
    /// Adds a segment. If it has a directory, it is being written.
    pub(crate) fn add(
        &self,
        header: SegmentHeader,
        file: Option<Arc<D::File>>,
        directory: Option<Arc<Mutex<Directory>>>,
    ) {
        let mut table = self.table.lock();
        table.close_file(header.id);
        if file.is_some() {
            table.make_room();
            table.open.push(header.id);
        }
        let site = Site {
            header,
            file,
            directory,
            recent: true,
        };
        table.sites.insert(header.id, site);
        StoreStats::set(&self.stats.open_files, table.open.len() as u64);
    }
    /// A segment has got its footer.
    pub(crate) fn sealed(&self, segment: u32) {
        if let Some(site) = self.table.lock().sites.get_mut(&segment) {
            site.directory = None;
        }
    }
    /// Whether a record that the index knows is in its file, too.
    pub(crate) fn is_written(&self, at: Position) -> bool {
        let header = self.table.lock().sites.get(&at.segment).map(|site| site.header);
        // Copies are in the index only once they are synced.
        header.is_none_or(|header| {
            header.kind != SegmentKind::Log || header.base + u64::from(at.offset) < self.written.load(Ordering::Acquire)
        })
    }
    /// The present position of a record.
    pub(crate) fn resolve(&self, at: Position) -> Position {
        self.table.lock().resolve(at)
    }
    /// Opens and pins a segment; `Ok(None)` if it no longer exists.
    ///
    /// # Errors
    /// It cannot be opened now, which says nothing about its content.
    pub(crate) fn pin(&self, segment: u32) -> io::Result<Option<Pinned<D::File>>> {
        let mut table = self.table.lock();
        let table = &mut *table;
        let Some(site) = table.sites.get_mut(&segment) else {
            return Ok(None);
        };
        site.recent = true;
        let pinned = |site: &Site<D::File>, file: &Arc<D::File>| Pinned {
            header: site.header,
            file: file.clone(),
            directory: site.directory.clone(),
        };
        if let Some(file) = &site.file {
            return Ok(Some(pinned(site, file)));
        }
        let name = path(site.header.kind.dir(), segment);
        table.make_room();
        let file = match self.disk.open(&name) {
            Err(error) if is_out_of_descriptors(&error) && table.close_idle() => self.disk.open(&name),
            opened => opened,
        };
        let file = match file {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::error!(file = name, "a file of the log was removed by somebody else");
                StoreStats::add(&self.stats.quarantined, 1);
                return Ok(None);
            }
            opened => Arc::new(opened?),
        };
        table.open.push(segment);
        StoreStats::set(&self.stats.open_files, table.open.len() as u64);
        Ok(table.sites.get_mut(&segment).map(|site| {
            let pinned = pinned(site, &file);
            site.file = Some(file);
            pinned
        }))
    }
    /// The same for a start, which cannot continue without the file.
    ///
    /// # Errors
    /// [`StoreError::Read`] if it cannot be opened for too long.
    pub(crate) fn pin_patiently(&self, segment: u32) -> Result<Option<Pinned<Patient<D::File>>>, StoreError> {
        let mut failures = 0;
        loop {
            match self.pin(segment) {
                Ok(pinned) => return Ok(pinned.map(Pinned::patient)),
                Err(error) => {
                    failures += 1;
                    if !self.disk.wait_to_retry(failures, &error) {
                        return Err(StoreError::unread(&self.path_of(segment), error));
                    }
                }
            }
        }
    }
    /// The path of a segment's file, for messages.
    pub(crate) fn path_of(&self, segment: u32) -> String {
        let table = self.table.lock();
        let dir = table.sites.get(&segment).map_or("log", |site| site.header.kind.dir());
        path(dir, segment)
    }
    /// Closes unused open files, because something else needs the descriptors. Returns whether there were any.
    pub(crate) fn close_idle(&self) -> bool {
        self.table.lock().close_idle()
    }
    /// Removes a segment, unless it is being read. Readers do not find it from then on.
    pub(crate) fn take_out(&self, segment: u32) -> bool {
        let mut table = self.table.lock();
        if table.sites.get(&segment).is_some_and(Site::is_pinned) {
            return false;
        }
        table.close_file(segment);
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
        // Positions that led to the source now lead to the copy. The source's own table is removed with the last
        // position that refers to it, but a record that moved twice is still remembered by its first position.
        let known = known.clone();
        for (_, to) in table.moved.values_mut().flatten().filter(|(_, to)| to.segment == from) {
            if let Ok(found) = known.binary_search_by_key(&to.offset, |(offset, _)| *offset)
                && let Some((_, next)) = known.get(found)
            {
                *to = *next;
            }
        }
    }
    /// Sets a damaged record aside.
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
    /// Closes files until there is room for one more (CLOCK algorithm). A file that was used since the last round is
    /// skipped once. Each step, except over pinned files, which are few, undoes one use or one opening. So a step is
    /// paid for by one of those, however many files are open.
    fn make_room(&mut self) {
        let mut steps = 2 * self.open.len();
        while self.open.len() >= self.open_max && steps > 0 {
            steps -= 1;
            self.hand = if self.hand < self.open.len() { self.hand } else { 0 };
            let Some(&segment) = self.open.get(self.hand) else {
                return;
            };
            match self.sites.get_mut(&segment) {
                Some(site) if site.recent || site.is_pinned() => {
                    site.recent = false;
                    self.hand += 1;
                }
                Some(site) => {
                    site.file = None;
                    self.open.swap_remove(self.hand);
                }
                None => _ = self.open.swap_remove(self.hand),
            }
        }
    }
    fn close_idle(&mut self) -> bool {
        let before = self.open.len();
        let sites = &mut self.sites;
        self.open.retain(|segment| match sites.get_mut(segment) {
            Some(site) if site.is_pinned() => true,
            Some(site) => {
                site.file = None;
                false
            }
            None => false,
        });
        self.open.len() < before
    }
    fn close_file(&mut self, segment: u32) {
        if self
            .sites
            .get_mut(&segment)
            .is_some_and(|site| site.file.take().is_some())
            && let Some(at) = self.open.iter().position(|open| *open == segment)
        {
            self.open.swap_remove(at);
        }
    }
}

impl<F> Site<F> {
    /// It is being read or written.
    fn is_pinned(&self) -> bool {
        self.file.as_ref().is_some_and(|file| Arc::strong_count(file) > 1)
    }
}

impl<F: DiskFile> Pinned<F> {
    fn patient(self) -> Pinned<Patient<F>> {
        Pinned {
            header: self.header,
            file: Arc::new(Patient(self.file)),
            directory: self.directory,
        }
    }
}
