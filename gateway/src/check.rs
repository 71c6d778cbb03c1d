//! `gatepost check`: reads a data directory that no gateway uses, reports damage, and repairs it if asked.
//!
//! The report goes to standard output. Progress goes to standard error, if it takes longer than a second.

use crate::clock::Clock;
use crate::exit::Failure;
use crate::store::failure;
use gatepost_core::catalog;
use gatepost_core::store::disk::RealDisk;
use gatepost_core::store::{self, DamagedKey, Loss, Progress, Report, StoreError, StoreSettings};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Reads all of a data directory and prints what it finds. With `repair`, rewrites what can be derived, moves unusable files
/// to quarantine, and reads everything once more.
///
/// # Errors
/// There is damage; or there was, and it is repaired; or the directory cannot be used.
pub fn check(data: &Path, repair: bool) -> Result<(), Failure> {
    let (is_clean, was_clean) = if repair {
        let disk = disk(data)?;
        let mut progress = Lines::new();
        let now = Clock::start().now();
        let repaired = store::repair(Arc::new(disk), StoreSettings::default(), now, &mut |at| {
            progress.say(&at)
        });
        let repaired = repaired.map_err(|error| failure(data, error))?;
        println!("{repaired}");
        print!("{}", lost_definitions(&repaired.before));
        (repaired.is_clean(), repaired.before.is_clean())
    } else {
        let report = read(data)?;
        print!("{}", text(&report));
        (report.is_clean(), report.is_clean())
    };
    match (is_clean, was_clean) {
        (true, true) => Ok(()),
        (true, false) => Err(Failure::DataRepaired(format!(
            "{} was damaged and is repaired",
            data.display()
        ))),
        (false, _) if repair => Err(Failure::DataDamaged(format!("{} is still damaged", data.display()))),
        (false, _) => Err(Failure::DataDamaged(format!(
            "{} is damaged; --repair makes the best of it",
            data.display()
        ))),
    }
}

/// Reads all of a data directory that no process uses.
///
/// # Errors
/// It cannot be used. Damage is in the report.
pub(crate) fn read(data: &Path) -> Result<Report, Failure> {
    let disk = disk(data)?;
    let mut progress = Lines::new();
    store::check(&disk, &mut |at| progress.say(&at)).map_err(|error| failure(data, error))
}

/// The findings as text for the operator.
pub(crate) fn text(report: &Report) -> String {
    format!("{report}\n{}", lost_definitions(report))
}

fn disk(data: &Path) -> Result<RealDisk, Failure> {
    if !data.is_dir() {
        return Err(Failure::DataUnwritable(format!(
            "{} is not a directory",
            data.display()
        )));
    }
    RealDisk::new(data).map_err(|source| failure(data, StoreError::Lock(source)))
}

/// Describes the damaged keyed records: what they are, what is known of them, and what is lost with them.
fn lost_definitions(report: &Report) -> String {
    let mut text = String::new();
    for damaged in &report.damaged_keys {
        let DamagedKey {
            key,
            path,
            offset,
            loss,
        } = damaged;
        let (value, costs) = match loss {
            Loss::None => (None, "nothing is lost, a newer record counts"),
            Loss::Known(value) => (
                value.as_deref(),
                "nothing is lost, the checkpoint has a second copy, which the next start writes to the log",
            ),
            Loss::Unknown => (
                None,
                "no second copy is known; if no other record of it is there, it is lost, and what belongs to it lives on",
            ),
        };
        let what = catalog::words(key, value);
        let _ = writeln!(text, "{path} at {offset}: {what}: {costs}");
    }
    text
}

/// Prints progress every second. Prints nothing if the work takes less than a second.
struct Lines {
    last: Instant,
}

impl Lines {
    fn new() -> Lines {
        Lines { last: Instant::now() }
    }

    fn say(&mut self, at: &Progress<'_>) {
        if self.last.elapsed() < Duration::from_secs(1) {
            return;
        }
        self.last = Instant::now();
        let (files, of_files) = at.files;
        let (bytes, of_bytes) = at.bytes;
        eprintln!(
            "{files} of {of_files} files, {} of {} MiB read, up to {}",
            bytes >> 20,
            of_bytes >> 20,
            at.file.path
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let missing = dir.path().join("missing");
        assert!(check(&missing, false).is_err() && check(&missing, true).is_err());
        assert!(!missing.exists());
    }
}
