//! The message log on a real disk: opens it as configured, and explains the error if it cannot.

use crate::archive;
use crate::config::{Config, Confirm};
use crate::exit::Failure;
use crate::machine;
use crate::node::Node;
use crate::service_manager::ServiceManager;
use gatepost_core::event::CloseReason;
use gatepost_core::store::disk::RealDisk;
use gatepost_core::store::{self, Opening, Recovered, StoreError, StoreSettings};
use gatepost_core::time::Wall;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The log.
pub(crate) type Store = store::Store<RealDisk>;
/// The log's reader.
pub(crate) type Reader = store::Reader<RealDisk>;

/// Locks the data directory and reads the log.
///
/// # Errors
/// Another process uses the directory, it cannot be written, or another release wrote it.
pub(crate) fn open(config: &Config, wall: Wall) -> Result<(Store, Recovered), Failure> {
    open_for(config, wall, &ServiceManager::default())
}

/// Like [`open`], and reports progress to the service manager.
pub(crate) fn open_for(config: &Config, wall: Wall, manager: &ServiceManager) -> Result<(Store, Recovered), Failure> {
    let data = &config.node.data_dir;
    let store = &config.store;
    check_restored(data)?;
    let disk = RealDisk::new(data).map_err(|source| failure(data, StoreError::Lock(source)))?;
    let disk = disk.with_read_timeout(store.read_timeout.0);
    let settings = StoreSettings {
        segment_bytes: u32::try_from(segment_bytes(config)).unwrap_or(u32::MAX),
        interval: store.interval.0,
        confirm_written: store.confirm == Confirm::Written,
        open_files_max: usize::try_from(machine::log_files_max(store.open_files)).unwrap_or(usize::MAX),
        ..StoreSettings::default()
    };
    let mut said = Instant::now();
    let mut progress = |at: Opening| {
        if said.elapsed() < PROGRESS_EVERY {
            return;
        }
        said = Instant::now();
        let status = match at {
            Opening::Read { files, of } => format!("starting: {files} of {of} files of the log read"),
            Opening::Counted { files, of } => format!("starting: messages of {files} of {of} files counted"),
        };
        tracing::info!("{status}");
        manager.starting(&status, PATIENCE);
    };
    let opened = Store::open_watched(Arc::new(disk), settings, wall, &mut progress);
    let (store, recovered) = opened.map_err(|error| failure(data, error))?;
    Ok((store, recovered))
}

/// Refuses a directory in which a restore was interrupted: it has only a part of the log, which must not be taken for
/// all of it.
fn check_restored(data: &Path) -> Result<(), Failure> {
    if data.join(archive::UNFINISHED).exists() {
        return Err(Failure::DataDamaged(format!(
            "a restore into {} is being made, or was not finished. If none is running, empty the directory and restore again",
            data.display()
        )));
    }
    Ok(())
}

/// Checks the log after the engines have taken over its state. Logs what is damaged.
///
/// # Errors
/// Something could not be read.
pub(crate) fn check_start(store: &Store, config: &Config) -> Result<(), Failure> {
    let data = &config.node.data_dir;
    store.check_start().map_err(|error| failure(data, error))?;
    let damaged = store.stats().quarantined.load(Ordering::Relaxed);
    if damaged > 0 {
        let quarantine = data.join("quarantine");
        tracing::error!(damaged, quarantine = %quarantine.display(), "the log is damaged; what is intact is served");
    }
    Ok(())
}

/// While reading the log makes progress, the service manager is asked to wait this much longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a long start reports its progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Size of a segment in bytes: as configured, or depending on the medium.
pub(crate) fn segment_bytes(config: &Config) -> u64 {
    match config.store.segment_size {
        Some(size) => size.0,
        // Small segments on SD cards, so that compaction of a segment moves little data.
        None if machine::is_on_sd_card(&config.node.data_dir) => 8 << 20,
        None => 32 << 20,
    }
}

/// Explains an error to the operator.
pub(crate) fn failure(data: &Path, error: StoreError) -> Failure {
    match error {
        // The error names the directory and the process.
        StoreError::Lock(source) if source.kind() == ErrorKind::WouldBlock => Failure::DataInUse(source.to_string()),
        StoreError::Lock(source) => {
            let hint = match source.kind() {
                ErrorKind::PermissionDenied => "; it must belong to the user the gateway runs as",
                ErrorKind::ReadOnlyFilesystem => "; its file system is read-only",
                ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
                    "; something that is no directory is in its place"
                }
                _ => "",
            };
            Failure::DataUnwritable(format!(
                "cannot use the data directory {}: {source}{hint}",
                data.display()
            ))
        }
        StoreError::Version { .. } => Failure::DataDamaged(format!("{}: {error}", data.display())),
        StoreError::Poisoned(_) | StoreError::Read { .. } => {
            Failure::StoreFailed(format!("{}: {error}", data.display()))
        }
        _ => Failure::DataUnwritable(format!("cannot use the data directory {}: {error}", data.display())),
    }
}

/// Handles a failure of the log: tells clients, confirms nothing more, and ends the process.
pub(crate) fn log_failed(node: &Node, why: &dyn fmt::Display) {
    node.health.poisoned.store(true, Ordering::Relaxed);
    for vhost in node.vhosts.list().iter() {
        vhost.end_links(CloseReason::Shutdown);
    }
    node.vhosts.log().close();
    let config = node.config();
    let data = config.node.data_dir.display();
    node.fail(Failure::StoreFailed(format!(
        "the message log in {data} failed, nothing more is confirmed: {why}"
    )));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(data: &Path) -> Config {
        let mut config = Config::default();
        config.node.data_dir = data.to_owned();
        config
    }

    #[test]
    fn a_directory_in_use_is_refused_with_the_holder_s_pid() {
        let dir = tempfile::tempdir().expect("a directory");
        let held = open(&config(dir.path()), Wall(1)).expect("open");
        let error = open(&config(dir.path()), Wall(1)).err().expect("in use");
        assert!(matches!(error, Failure::DataInUse(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains(&std::process::id().to_string()), "{text}");
        assert!(text.contains(&dir.path().display().to_string()), "{text}");
        drop(held);
        open(&config(dir.path()), Wall(1)).expect("free again");
    }

    #[test]
    fn a_directory_that_was_restored_in_part_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let part = dir.path().join(archive::UNFINISHED);
        std::fs::create_dir(&part).expect("made");
        let error = open(&config(dir.path()), Wall(1)).err().expect("not whole");
        assert!(matches!(error, Failure::DataDamaged(_)), "{error}");
        std::fs::remove_dir(&part).expect("removed");
        open(&config(dir.path()), Wall(1)).expect("emptied");
    }

    #[test]
    fn a_file_in_the_directory_s_place_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let error = open(&config(file.path()), Wall(1)).err().expect("no directory");
        assert!(matches!(error, Failure::DataUnwritable(_)), "{error}");
    }
}
