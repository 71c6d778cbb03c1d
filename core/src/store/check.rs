//! `gatepost check`: reads everything, changes nothing, and reports what it finds.

use super::checkpoint::{self, Checkpoint, Covered};
use super::directory::{Entries, Listed};
use super::disk::{Disk, DiskFile, Patient, SECTOR};
use super::footer::{Ending, Footer};
use super::key;
use super::missing;
use super::record::{
    BatchHead, Kind, MessageHead, Raw, parse_acks, parse_key, parse_purge, parse_queue, parse_ref, parse_state,
};
use super::scan::{Scanned, Scanner};
use super::segment::{
    BadHeader, COLD_DIR, LOG_DIR, SegmentHeader, SegmentKind, Trailer, VERSION, id_of, path, read_directory,
};
use super::settings::StoreError;
use super::spare::AHEAD;
use crate::message::Position;
use hashbrown::HashMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;

/// One file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Its path in the data directory.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Records that hold.
    pub records: u64,
    /// Its problems, in words; empty if there are none.
    pub problems: Vec<String>,
    /// A torn tail, as a crash leaves it, which is no damage.
    pub torn: bool,
}

/// A damaged keyed record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedKey {
    /// Its key.
    pub key: Box<[u8]>,
    /// The file it is in.
    pub path: String,
    /// The offset in the file.
    pub offset: u32,
    /// What it costs.
    pub loss: Loss,
}

/// What damage to a keyed record costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: a newer record replaced or deleted it.
    None,
    /// Nothing: the checkpoint has its value, or knows that it was a deletion, and the next start writes it again.
    Known(Option<Box<[u8]>>),
    /// Possibly the value: no second copy is known. It costs nothing if a newer record replaced it. A start uses an
    /// older value, if it finds one.
    Unknown,
}

/// The progress of a check.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The file that was just read.
    pub file: &'a Checked,
    /// Files read, and files in all.
    pub files: (usize, usize),
    /// Bytes read, and bytes in all.
    pub bytes: (u64, u64),
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Every file of the log, in order, including missing ones.
    pub files: Vec<Checked>,
    /// Damaged keyed records, as far as their keys are known.
    pub damaged_keys: Vec<DamagedKey>,
    /// Messages on disk, including settled ones.
    pub messages: u64,
    /// Keyed records on disk, including older versions.
    pub keys: u64,
    /// Whether the newest checkpoint is valid; `None` if there is none.
    pub checkpoint: Option<bool>,
    /// The same for the one before.
    pub checkpoint_before: Option<bool>,
    /// Temporary files that a stop left behind. They are no damage, and the next start removes them.
    pub stale: Vec<String>,
    /// Damaged places that were set aside earlier.
    pub quarantined: usize,
}

impl Report {
    /// Whether nothing is damaged.
    pub fn is_clean(&self) -> bool {
        self.checkpoint != Some(false)
            && self.checkpoint_before != Some(false)
            && self.files.iter().all(|file| file.problems.is_empty())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.files {
            let state = if file.torn { ", torn tail" } else { "" };
            writeln!(
                f,
                "{}: {} bytes, {} records{state}",
                file.path, file.bytes, file.records
            )?;
            for problem in &file.problems {
                writeln!(f, "  DAMAGED {problem}")?;
            }
        }
        match self.checkpoint {
            Some(true) => writeln!(f, "checkpoint: good")?,
            Some(false) => writeln!(f, "checkpoint: DAMAGED (the next start is longer)")?,
            None => writeln!(f, "checkpoint: none")?,
        }
        if self.checkpoint_before == Some(false) {
            writeln!(f, "checkpoint.old: DAMAGED (nothing is lost)")?;
        }
        for path in &self.stale {
            writeln!(f, "{path}: left over")?;
        }
        if self.quarantined > 0 {
            writeln!(f, "quarantine: {} notes from earlier", self.quarantined)?;
        }
        let verdict = if self.is_clean() { "no damage" } else { "damage found" };
        write!(f, "{} messages, {} keyed records: {verdict}", self.messages, self.keys)
    }
}

/// Reads every record of a data directory. `progress` is called after each file.
///
/// # Errors
/// A process has the directory; it cannot be listed or something in it not read; or it belongs to another release.
pub fn check<D: Disk>(disk: &D, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Report, StoreError> {
    let lock = disk.lock().map_err(StoreError::Lock)?;
    check_locked(disk, disk.has_run_on(&lock), progress)
}

/// The same for a directory that this process has locked.
pub(super) fn check_locked<D: Disk>(
    disk: &D,
    has_run_on: bool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, StoreError> {
    let mut report = Report::default();
    let mut todo = Vec::new();
    for dir in [COLD_DIR, LOG_DIR] {
        let names = match disk.list(dir) {
            Ok(names) => names,
            // A directory that no store ever opened has no damage.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(source) => {
                let what = format!("list {dir}/");
                return Err(StoreError::Io { what, source });
            }
        };
        let mut ids: Vec<u32> = names.iter().filter_map(|name| id_of(name)).collect();
        ids.sort_unstable();
        todo.extend(ids.into_iter().map(|id| (dir, id)));
        let paths = names.iter().map(|name| format!("{dir}/{name}"));
        report.stale.extend(paths.filter(|path| is_stale(path)));
    }
    let names = disk.list("").unwrap_or_default();
    report.stale.extend(names.into_iter().filter(|path| is_stale(path)));
    let (mut newest, mut older) = (None, None);
    report.checkpoint = read_checkpoint(disk, checkpoint::FILE, &mut newest)?;
    report.checkpoint_before = read_checkpoint(disk, checkpoint::OLD, &mut older)?;
    let is_newest = newest.is_some();
    let mut checker = Checker {
        disk,
        has_run_on,
        checkpoint: newest.or(older),
        report,
        there: Vec::new(),
        log_upto: 0,
        durable: HashMap::new(),
        doubts: Vec::new(),
    };
    // Only for the progress.
    let len = |(dir, id): &(&str, u32)| disk.open(&path(dir, *id)).and_then(|file| file.len()).unwrap_or(0);
    let (mut read, total) = (0, todo.iter().map(len).sum());
    for (n, (dir, id)) in todo.iter().enumerate() {
        let file = checker.file(dir, *id)?;
        read += file.bytes;
        progress(Progress {
            file: &file,
            files: (n + 1, todo.len()),
            bytes: (read, total),
        });
        checker.report.files.push(file);
    }
    checker.judge();
    checker.miss(is_newest, &todo);
    let mut report = checker.report;
    let notes = disk.list(super::quarantine::DIR).unwrap_or_default();
    report.quarantined = notes.iter().filter(|name| name.ends_with(".txt")).count();
    Ok(report)
}

/// Whether a file is a draft that is renamed when it is complete.
fn is_stale(path: &str) -> bool {
    path == AHEAD || path == checkpoint::DRAFT || path.ends_with("/draft")
}

fn read_checkpoint<D: Disk>(
    disk: &D,
    file: &str,
    into: &mut Option<Box<Checkpoint>>,
) -> Result<Option<bool>, StoreError> {
    Ok(match checkpoint::read(disk, file)? {
        checkpoint::Read::Good(found) => {
            *into = Some(found);
            Some(true)
        }
        checkpoint::Read::Damaged => Some(false),
        checkpoint::Read::Missing => None,
    })
}

struct Checker<'d, D> {
    disk: &'d D,
    /// The process died without a power cut, so nothing is torn.
    has_run_on: bool,
    checkpoint: Option<Box<Checkpoint>>,
    report: Report,
    /// Headers of the existing segments.
    there: Vec<SegmentHeader>,
    /// How far the log went, according to the footers.
    log_upto: u64,
    /// By epoch, the highest LSN of the log known to be synced.
    durable: HashMap<u32, u64>,
    doubts: Vec<Doubt>,
}

/// Holes in a segment that nobody sealed: torn, or damaged if they are known to have been synced.
struct Doubt {
    path: String,
    header: SegmentHeader,
    hole: Range<u32>,
    problem: String,
}

impl<D: Disk> Checker<'_, D> {
    fn file(&mut self, dir: &str, id: u32) -> Result<Checked, StoreError> {
        let path = path(dir, id);
        let mut found = Checked {
            path: path.clone(),
            bytes: 0,
            records: 0,
            problems: Vec::new(),
            torn: false,
        };
        let unread = |error| StoreError::unread(&path, error);
        let file = Patient(Arc::new(self.disk.open_patiently(&path).map_err(unread)?));
        found.bytes = file.len().map_err(unread)?;
        let covered = self.checkpoint.as_ref();
        let covered = covered.and_then(|c| c.segments.iter().find(|covered| covered.header.id == id).copied());
        let header = match (SegmentHeader::read(&file).map_err(unread)?, covered) {
            (Ok(header), _) => header,
            (Err(BadHeader::Version(version)), _) => {
                return Err(StoreError::Version {
                    path: path.clone(),
                    found: version,
                    known: VERSION,
                });
            }
            // The checkpoint knows what the file has lost.
            (Err(BadHeader::Damaged), Some(covered)) => covered.header,
            (Err(BadHeader::Damaged), None) => {
                found.problems.push("no copy of the header holds".into());
                return Ok(found);
            }
        };
        if header.id != id || header.kind.dir() != dir {
            let place = super::segment::path(header.kind.dir(), header.id);
            found.problems.push(format!("its header is that of {place}"));
            return Ok(found);
        }
        self.there.push(header);
        if !header.is_whole(&file).map_err(unread)? {
            found.problems.push("a copy of the header does not hold".into());
        }
        let covered = covered.filter(|covered| covered.header == header);
        self.records(&file, &header, covered, &mut found).map_err(unread)?;
        Ok(found)
    }

    fn records(
        &mut self,
        file: &Patient<D::File>,
        header: &SegmentHeader,
        covered: Option<Covered>,
        found: &mut Checked,
    ) -> io::Result<()> {
        let trailer = Trailer::read(file)?.filter(|trailer| trailer.header == *header);
        let sealed = match trailer {
            Some(_) => read_directory(file, header)?,
            None => None,
        };
        let mut scanner = Scanner::new(file, header.base, header.seed());
        let mut read = RecordsRead {
            trailer,
            end: scanner.end(),
            ..RecordsRead::default()
        };
        while let Some(scanned) = scanner.next() {
            match scanned {
                Scanned::Hole { from, to } => {
                    let problem = format!("{} bytes at {from} hold no record", to - from);
                    read.holes.push((from, to, problem));
                }
                Scanned::Record { raw, .. } if raw.kind == Kind::Footer => {
                    read.footer = Footer::parse(raw.head);
                    let log_upto = read.footer.as_ref().map_or(0, |footer| footer.log_upto);
                    self.log_upto = self.log_upto.max(log_upto);
                    break;
                }
                Scanned::Record { offset, len, raw } => {
                    found.records += 1;
                    self.record(header, (offset, len), &raw, &mut read);
                }
            }
        }
        scanner.finish()?;
        // Everything that a checkpoint covers was synced, except copies that compaction abandoned, and what an earlier
        // epoch left torn and no start could seal.
        let epoch = self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.marks.epoch);
        let is_log = header.kind == SegmentKind::Log;
        let covered = covered.filter(|covered| covered.sealed || (is_log && header.epoch == epoch));
        let (footer, directory) = sealed.unzip();
        read.directory = directory;
        self.judge_holes(header, covered, &mut read, found);
        match (trailer, footer, &read.directory) {
            (Some(_), Some(footer), Some(directory)) => {
                if found.problems.is_empty() && !agrees(&footer, directory, read.listed) {
                    let problem = "the footer lists other records than there are";
                    found.problems.push(problem.into());
                }
            }
            _ => self.judge_end(header, covered, &read, found),
        }
        Ok(())
    }

    /// A valid record.
    fn record(&mut self, header: &SegmentHeader, (offset, len): (u32, u32), raw: &Raw<'_>, read: &mut RecordsRead) {
        read.end = offset + len;
        match raw.kind {
            Kind::Message => self.report.messages += 1,
            Kind::Key => self.report.keys += 1,
            Kind::Batch if header.kind == SegmentKind::Log => {
                let synced = BatchHead::parse(raw.head).map_or(0, |head| head.durable);
                let durable = self.durable.entry(header.epoch).or_default();
                *durable = synced.max(*durable);
            }
            _ => {}
        }
        if !is_sound(raw) {
            let problem = format!("the record at {offset} has a good checksum and makes no sense");
            read.holes.push((offset, read.end, problem));
        } else if matches!(raw.kind, Kind::Message | Kind::Key) {
            read.listed.push(offset);
        }
    }

    /// Reports which holes are damage. Holes that were judged when the segment was sealed are what a crash left; later
    /// ones are damage. If that is not known, it depends on what was synced.
    fn judge_holes(
        &mut self,
        header: &SegmentHeader,
        covered: Option<Covered>,
        read: &mut RecordsRead,
        found: &mut Checked,
    ) {
        let (trailer, end) = (read.trailer, read.end);
        let covered_end = covered.map_or(0, |covered| covered.end);
        let ought = trailer.map_or(0, |trailer| trailer.end).max(covered_end);
        if ought > end {
            let problem = format!("{} bytes at its end hold no record", ought - end);
            read.holes.push((end, ought, problem));
        }
        let is_full = trailer.is_some_and(|trailer| trailer.ending != Ending::Cut);
        let footer = read.footer.as_ref();
        for (from, to, problem) in std::mem::take(&mut read.holes) {
            if footer.is_some_and(|footer| footer.has_judged(from, to)) {
                found.torn = true;
            } else if footer.is_some() || is_full || to <= covered_end || (self.has_run_on && trailer.is_none()) {
                found.problems.push(problem);
                self.name_keys(&found.path, header, from..to, read.directory.as_deref());
            } else {
                self.doubt(&found.path, header, from..to, problem);
            }
        }
    }

    /// Reports which keyed records were in a hole: according to the segment's directory, or else to the checkpoint.
    fn name_keys(&mut self, path: &str, header: &SegmentHeader, hole: Range<u32>, directory: Option<&[u8]>) {
        let index = self.checkpoint.as_ref().map(|checkpoint| &checkpoint.index);
        let mut listed: Vec<(u32, Box<[u8]>)> = match (directory, index) {
            (Some(directory), _) => (Entries::new(directory))
                .filter_map(|listed| match listed {
                    Listed::Key { offset, key, .. } => Some((offset, key.into())),
                    Listed::Message { .. } => None,
                })
                .filter(|(offset, _)| hole.contains(offset))
                .collect(),
            (None, Some(index)) => {
                let lie_there = |at: Position| at.segment == header.id && hole.contains(&at.offset);
                let keys = index.keys.iter().filter(|(_, entry)| lie_there(entry.at));
                keys.map(|(key, entry)| (entry.at.offset, key.clone())).collect()
            }
            (None, None) => Vec::new(),
        };
        listed.sort_unstable();
        for (offset, key) in listed {
            let at = Position {
                segment: header.id,
                offset,
            };
            let known = DamagedKey {
                loss: self.loss(&key, at),
                key,
                path: path.to_owned(),
                offset,
            };
            // The hole at the end of a segment may overlap with the last one before it.
            if !self.report.damaged_keys.contains(&known) {
                self.report.damaged_keys.push(known);
            }
        }
    }

    /// What it costs that the record of a key at this position is damaged.
    fn loss(&self, key: &[u8], at: Position) -> Loss {
        let Some(checkpoint) = &self.checkpoint else {
            return Loss::Unknown;
        };
        let covered = checkpoint
            .segments
            .iter()
            .find(|covered| covered.header.id == at.segment);
        let is_covered = covered.is_some_and(|covered| at.offset < covered.end);
        match checkpoint.index.keys.get(key) {
            Some(entry) if entry.at == at && (entry.deleted || entry.value.is_some()) => {
                Loss::Known(entry.value.clone())
            }
            Some(entry) if entry.at == at => Loss::Unknown,
            // The checkpoint knows the newest record of everything that it covers.
            Some(_) if is_covered => Loss::None,
            None if is_covered && !key::is_bulk(key) => Loss::None,
            _ => Loss::Unknown,
        }
    }

    /// The segment is not sealed, or its trailer is damaged. The footer is written before the trailer and synced
    /// together with it, before anything that follows. An unsealed segment ends where the process did.
    fn judge_end(&mut self, header: &SegmentHeader, covered: Option<Covered>, read: &RecordsRead, found: &mut Checked) {
        let problem = match read.trailer {
            Some(_) => "the footer does not hold",
            None if read.footer.is_some() => "the trailer does not hold",
            None => "its end is missing",
        };
        if covered.is_some_and(|covered| covered.sealed) {
            found.problems.push(problem.into());
        } else {
            found.torn = true;
            let end = read.end.next_multiple_of(SECTOR);
            self.doubt(&found.path, header, end..end, problem.into());
        }
    }

    fn doubt(&mut self, path: &str, header: &SegmentHeader, hole: Range<u32>, problem: String) {
        if header.kind == SegmentKind::Log {
            self.doubts.push(Doubt {
                path: path.to_owned(),
                header: *header,
                hole,
                problem,
            });
        }
    }

    /// Tells damage from torn tails, now that all batches have been read.
    fn judge(&mut self) {
        for doubt in std::mem::take(&mut self.doubts) {
            let durable = self.durable.get(&doubt.header.epoch).copied().unwrap_or(0);
            if doubt.header.base + u64::from(doubt.hole.start) < durable
                && let Some(file) = self.report.files.iter_mut().find(|file| file.path == doubt.path)
            {
                file.problems.push(doubt.problem);
                self.name_keys(&doubt.path, &doubt.header, doubt.hole, None);
            }
        }
    }

    fn miss(&mut self, is_newest: bool, files: &[(&str, u32)]) {
        let checkpoint = self.checkpoint.as_deref();
        // Segments in which an older checkpoint has something live may have been recycled since.
        let newest = checkpoint.filter(|_| is_newest);
        let expected = newest.map_or_else(missing::Expected::new, missing::expected);
        let found = missing::Found {
            headers: &self.there,
            log_upto: self.log_upto,
        };
        for gone in missing::find(checkpoint, &expected, &found, |id| {
            files.iter().any(|(_, file)| *file == id)
        }) {
            self.report.files.push(Checked {
                path: gone.path,
                bytes: 0,
                records: 0,
                problems: vec![gone.why],
                torn: false,
            });
        }
    }
}

/// The result of reading the records of a segment.
#[derive(Default)]
struct RecordsRead {
    trailer: Option<Trailer>,
    footer: Option<Footer>,
    directory: Option<Vec<u8>>,
    /// The end of the last record.
    end: u32,
    /// Offsets of the records that a footer lists.
    listed: Vec<u32>,
    /// Holes and invalid records: from, to, and a description.
    holes: Vec<(u32, u32, String)>,
}

/// Whether a footer lists the records that exist. A start leaves records of a torn group out of the directory.
fn agrees(footer: &Footer, directory: &[u8], there: Vec<u32>) -> bool {
    let entries = Entries::new(directory).map(|entry| match entry {
        Listed::Message { offset, .. } | Listed::Key { offset, .. } => offset,
    });
    match footer.ending {
        Ending::Full => entries.eq(there),
        Ending::Cut | Ending::Mended => {
            let mut there = there.into_iter();
            entries.into_iter().all(|offset| there.any(|record| record == offset))
        }
    }
}

/// Whether a record is valid.
fn is_sound(raw: &Raw<'_>) -> bool {
    match raw.kind {
        Kind::Message => MessageHead::parse(raw.head)
            .and_then(|head| head.message(raw.payload))
            .is_some(),
        Kind::Key => parse_key(raw.head).is_some(),
        Kind::Acks => parse_acks(raw.head).is_some(),
        Kind::State => parse_state(raw.head).is_some(),
        Kind::Purge => parse_purge(raw.head).is_some(),
        Kind::QueueDelete => parse_queue(raw.head).is_some(),
        Kind::Ref => parse_ref(raw.head).is_some(),
        Kind::Batch | Kind::Footer => true,
    }
}
