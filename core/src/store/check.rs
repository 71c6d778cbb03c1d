//! `gatepost check`: reads everything, changes nothing, says what it finds.

use super::checkpoint;
use super::directory::{Entries, Listed};
use super::disk::{Disk, DiskFile};
use super::record::{Kind, MessageHead, parse_acks, parse_key, parse_purge, parse_queue, parse_ref, parse_state};
use super::scan::{Scanned, Scanner};
use super::segment::{BadHeader, COLD_DIR, LOG_DIR, SegmentHeader, Trailer, VERSION, id_of, path, read_directory};
use super::settings::StoreError;
use std::fmt;
use std::io::ErrorKind;

/// One file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Its path in the data directory.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Records that hold.
    pub records: u64,
    /// What does not, in words; empty if all is well.
    pub problems: Vec<String>,
    /// A torn tail, as a crash leaves it: no damage.
    pub torn: bool,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Every file of the log, in order.
    pub files: Vec<Checked>,
    /// Messages on disk, settled ones included.
    pub messages: u64,
    /// Keyed records on disk, older versions included.
    pub keys: u64,
    /// Whether the newest checkpoint can be used; `None` if there is none.
    pub checkpoint: Option<bool>,
    /// Damaged places that were set aside earlier.
    pub quarantined: usize,
}

impl Report {
    /// Whether nothing is damaged.
    pub fn is_clean(&self) -> bool {
        self.checkpoint != Some(false) && self.files.iter().all(|file| file.problems.is_empty())
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
        if self.quarantined > 0 {
            writeln!(f, "quarantine: {} notes from earlier", self.quarantined)?;
        }
        let verdict = if self.is_clean() { "no damage" } else { "damage found" };
        write!(f, "{} messages, {} keyed records: {verdict}", self.messages, self.keys)
    }
}

/// Reads every record of a data directory. `progress` is called after each file, with it.
///
/// # Errors
/// If a process has the directory, if it cannot be listed, or if it is another release's.
pub fn check<D: Disk>(disk: &D, progress: &mut dyn FnMut(&Checked)) -> Result<Report, StoreError> {
    let _lock = disk.lock().map_err(StoreError::Lock)?;
    let mut report = Report::default();
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
        for id in ids {
            let file = check_file(disk, dir, id, &mut report)?;
            progress(&file);
            report.files.push(file);
        }
    }
    report.checkpoint = match checkpoint::read(disk, checkpoint::FILE)? {
        checkpoint::Read::Good(_) => Some(true),
        checkpoint::Read::Damaged => Some(false),
        checkpoint::Read::Missing => None,
    };
    let notes = disk.list(super::quarantine::DIR).unwrap_or_default();
    report.quarantined = notes.iter().filter(|name| name.ends_with(".txt")).count();
    Ok(report)
}

fn check_file<D: Disk>(disk: &D, dir: &str, id: u32, report: &mut Report) -> Result<Checked, StoreError> {
    let path = path(dir, id);
    let mut found = Checked {
        path: path.clone(),
        bytes: 0,
        records: 0,
        problems: Vec::new(),
        torn: false,
    };
    let file = match disk.open(&path) {
        Ok(file) => file,
        Err(error) => {
            found.problems.push(format!("cannot be opened: {error}"));
            return Ok(found);
        }
    };
    found.bytes = file.len().unwrap_or(0);
    let header = match SegmentHeader::read(&file) {
        Ok(header) => header,
        Err(BadHeader::Version(version)) => {
            return Err(StoreError::Version {
                path,
                found: version,
                known: VERSION,
            });
        }
        Err(BadHeader::Damaged) => {
            found.problems.push("no copy of the header holds".into());
            return Ok(found);
        }
    };
    if header.id != id {
        found
            .problems
            .push(format!("its header is that of segment {}", header.id));
    }
    let trailer = Trailer::read(&file).filter(|trailer| trailer.header == header);
    let mut scanner = Scanner::new(&file, header.base, header.seed());
    let mut listed = Vec::new();
    let (mut footer, mut end) = (false, scanner.end());
    while let Some(scanned) = scanner.next() {
        match scanned {
            // In a segment that a start sealed after a crash, a hole is what the crash left.
            Scanned::Hole { .. } if trailer.is_some_and(|trailer| trailer.cut) => found.torn = true,
            Scanned::Hole { from, to } => found
                .problems
                .push(format!("{} bytes at {from} hold no record", to - from)),
            Scanned::Record { offset, len, raw } => {
                if raw.kind == Kind::Footer {
                    footer = true;
                    break;
                }
                end = offset + len;
                found.records += 1;
                let sound = match raw.kind {
                    Kind::Message => {
                        report.messages += 1;
                        listed.push(offset);
                        MessageHead::parse(raw.head)
                            .and_then(|head| head.message(raw.payload))
                            .is_some()
                    }
                    Kind::Key => {
                        report.keys += 1;
                        listed.push(offset);
                        parse_key(raw.head).is_some()
                    }
                    Kind::Acks => parse_acks(raw.head).is_some(),
                    Kind::State => parse_state(raw.head).is_some(),
                    Kind::Purge => parse_purge(raw.head).is_some(),
                    Kind::QueueDelete => parse_queue(raw.head).is_some(),
                    Kind::Ref => parse_ref(raw.head).is_some(),
                    Kind::Batch | Kind::Footer => true,
                };
                if !sound {
                    found
                        .problems
                        .push(format!("the record at {offset} has a good checksum and makes no sense"));
                }
            }
        }
    }
    if scanner.has_read_errors() {
        found.problems.push("some of it cannot be read".into());
    }
    match trailer {
        Some(trailer) if trailer.end > end => {
            found
                .problems
                .push(format!("{} bytes at its end hold no record", trailer.end - end));
        }
        Some(_) => match read_directory(&file, &header) {
            None => found.problems.push("the footer does not hold".into()),
            Some((trailer, directory)) if !trailer.cut => {
                let offsets = Entries::new(&directory).map(|entry| match entry {
                    Listed::Message { offset, .. } | Listed::Key { offset, .. } => offset,
                });
                if found.problems.is_empty() && !offsets.eq(listed) {
                    found
                        .problems
                        .push("the footer lists other records than there are".into());
                }
            }
            Some(_) => {}
        },
        None if footer => found.problems.push("the trailer does not hold".into()),
        // An unsealed segment ends where the process did.
        None => found.torn = true,
    }
    Ok(found)
}
