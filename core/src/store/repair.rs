//! `gatepost check --repair`: turns a damaged directory into one without damage, losing no more than is lost already.
//!
//! A start does most of it: it sets damaged records aside, cuts torn tails, seals segments without footers, and forgets
//! missing records. What it leaves, because it need not read every byte, is done here: headers, footers and trailers
//! are written again from the records, and a checkpoint from everything. Damaged records stay where they are, listed as
//! holes, in addition to their copies in `quarantine/`: only derived bytes are changed.

use super::check::{Progress, Report, check, check_locked};
use super::directory::Directory;
use super::disk::{Disk, DiskFile, Patient};
use super::footer::Ending;
use super::log::Store;
use super::record::{FIRST, GROUP, Kind, LAST};
use super::recovery::{Op, list};
use super::scan::{Scanned, Scanner};
use super::segment::{SegmentWriter, Trailer, path};
use super::settings::{StoreError, StoreSettings};
use super::{QueueId, RecoveredQueue, quarantine};
use crate::time::Now;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::Arc;

/// What a repair found and did.
#[derive(Clone, Debug)]
pub struct Repaired {
    /// What was found.
    pub before: Report,
    /// What was done, in words, with paths in the data directory.
    pub done: Vec<String>,
    /// The state afterwards; `None` if there was nothing to do.
    pub after: Option<Report>,
    /// Live messages, counted once per queue; and queues that have or had any.
    pub messages: u64,
    /// See `messages`.
    pub queues: u64,
}

impl Repaired {
    /// Whether the directory is free of damage now.
    pub fn is_clean(&self) -> bool {
        self.after.as_ref().unwrap_or(&self.before).is_clean()
    }
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.before)?;
        let Some(after) = &self.after else {
            return write!(f, "\nnothing to repair");
        };
        for done in &self.done {
            write!(f, "\n  {done}")?;
        }
        if after.is_clean() {
            let (messages, queues) = (self.messages, self.queues);
            write!(f, "\nrepaired: {messages} live messages in {queues} queues")
        } else {
            write!(f, "\nNOT REPAIRED, what is left:\n{after}")
        }
    }
}

/// Repairs a data directory. Does nothing if it has no damage and no left-over files. `progress` is called after each
/// file read, twice for each file.
///
/// # Errors
/// A process has the directory; it cannot be listed or something in it not read; or it belongs to another release.
pub fn repair<D: Disk>(
    disk: Arc<D>,
    settings: StoreSettings,
    now: Now,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Repaired, StoreError> {
    let before = check(&*disk, progress)?;
    let mut repaired = Repaired {
        before,
        done: Vec::new(),
        after: None,
        messages: 0,
        queues: 0,
    };
    if repaired.before.is_clean() && repaired.before.stale.is_empty() {
        return Ok(repaired);
    }
    let known: BTreeSet<String> = notes(&*disk);
    // A start removes them.
    let removed = repaired.before.stale.iter().map(|path| format!("removed {path}"));
    repaired.done.extend(removed);
    let (mut store, recovered) = Store::open_thoroughly(disk.clone(), settings, now.wall)?;
    repaired.queues = recovered.queues.keys().filter(|queue| **queue != QueueId(0)).count() as u64;
    let counted = |queue: &RecoveredQueue| queue.messages.values().map(|counted| counted.count).sum::<u64>();
    let live = recovered
        .queues
        .values()
        .map(|queue| counted(queue) + queue.in_flight.len() as u64);
    repaired.messages = live.sum();
    drop(recovered);
    for name in notes(&*disk).difference(&known) {
        let note = read_text(&*disk, &format!("{}/{name}", quarantine::DIR)).unwrap_or_default();
        let done = format!("set aside: {} ({}/{name})", note.trim_end(), quarantine::DIR);
        repaired.done.push(done);
    }
    let harmed = repaired.before.files.iter().filter(|file| !file.problems.is_empty());
    let harmed: BTreeSet<&str> = harmed.map(|file| file.path.as_str()).collect();
    let ids: Vec<u32> = store.segments.keys().copied().collect();
    for id in ids {
        store.mend(id, &harmed, &mut repaired.done)?;
    }
    let rescued = store.write_rescued()?;
    if rescued > 0 {
        let what = "keyed records, from the checkpoint or older copies, or their deletions";
        repaired.done.push(format!("wrote {rescued} {what}"));
    }
    if !repaired.before.is_clean() {
        store.write_checkpoint(now)?;
        repaired.done.push("wrote a new checkpoint".into());
    }
    repaired.after = Some(check_locked(&*disk, false, progress)?);
    Ok(repaired)
}

impl<D: Disk> Store<D> {
    /// Writes derived parts of a segment again, if it is one of the `harmed`.
    fn mend(&mut self, id: u32, harmed: &BTreeSet<&str>, done: &mut Vec<String>) -> Result<(), StoreError> {
        let Some(segment) = self.segments.get(&id) else {
            return Ok(());
        };
        let (header, end, covered) = (segment.header, segment.end, segment.covered);
        let path = path(header.kind.dir(), id);
        if !harmed.contains(path.as_str()) {
            return Ok(());
        }
        let failed = |source: io::Error| StoreError::Io {
            what: format!("mend {path}"),
            source,
        };
        let unread = |error| StoreError::unread(&path, error);
        let file = Arc::new(self.shared.disk.open_patiently(&path).map_err(unread)?);
        let patient = Patient(file.clone());
        if !header.is_whole(&patient).map_err(unread)? {
            header.write(&*file).map_err(failed)?;
            file.sync_data().map_err(failed)?;
            done.push(format!("{path}: wrote the header again"));
        }
        let ending = match Trailer::read(&patient).map_err(unread)?.map(|trailer| trailer.ending) {
            Some(Ending::Cut) => Ending::Cut,
            // If a start left its end open, the rest of an incomplete group counts.
            Some(Ending::Full | Ending::Mended) | None => Ending::Mended,
        };
        // Everything that a checkpoint covered was valid when it was written.
        let groups_from = if ending == Ending::Cut { covered } else { u32::MAX };
        let (directory, holes) = records_of(&patient, &header, end, groups_from).map_err(unread)?;
        let count = holes.len();
        let mut writer = SegmentWriter::resume(header, file, end, Arc::new(Mutex::new(directory)));
        self.seal_as(&mut writer, ending, 0, holes).map_err(failed)?;
        done.push(format!("{path}: wrote the footer again, with {count} holes"));
        Ok(())
    }
}

/// What a segment's footer should say: its messages and keys, and its holes. From `groups_from` on, incomplete groups
/// do not count.
fn records_of<F: DiskFile>(
    file: &F,
    header: &super::segment::SegmentHeader,
    end: u32,
    groups_from: u32,
) -> io::Result<(Directory, Vec<(u32, u32)>)> {
    let (mut directory, mut holes) = (Directory::default(), Vec::new());
    let (mut group, mut begun) = (Vec::new(), false);
    let mut scanner = Scanner::new(file, header.base, header.seed());
    let mut upto = scanner.end();
    while let Some(scanned) = scanner.next() {
        match scanned {
            Scanned::Hole { from, to } => {
                holes.push((from, to));
                group.clear();
                begun = false;
            }
            Scanned::Record { raw, .. } if raw.kind == Kind::Footer => break,
            Scanned::Record { offset, len, raw } => {
                upto = offset + len;
                if raw.kind == Kind::Batch {
                    group.clear();
                    begun = false;
                    continue;
                }
                let Some(op) = Op::parse(&raw, offset, len, header.base + u64::from(offset)) else {
                    holes.push((offset, upto));
                    continue;
                };
                let in_group = raw.flags & GROUP != 0 && offset >= groups_from;
                if !in_group || raw.flags & FIRST != 0 {
                    group.clear();
                    begun = in_group;
                }
                group.push(op);
                let is_last = raw.flags & LAST != 0;
                if !in_group || (is_last && begun) {
                    group.drain(..).for_each(|op| list(&mut directory, &op));
                } else if is_last {
                    group.clear();
                }
            }
        }
    }
    scanner.finish()?;
    if upto < end {
        holes.push((upto, end));
    }
    Ok((directory, holes))
}

fn notes<D: Disk>(disk: &D) -> BTreeSet<String> {
    let names = disk.list(quarantine::DIR).unwrap_or_default();
    names.into_iter().filter(|name| name.ends_with(".txt")).collect()
}

fn read_text<D: Disk>(disk: &D, path: &str) -> io::Result<String> {
    const MOST: usize = 4096;
    let mut bytes = vec![0; MOST];
    let got = disk.open(path)?.read_at(&mut bytes, 0)?;
    bytes.truncate(got);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
