//! What the machine offers: memory, free disk, file descriptors.

use crate::config::{Budget, Size};
use crate::control_group;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Bytes the budget allows.
pub(crate) fn memory_budget(budget: Budget) -> u64 {
    match budget {
        Budget::Fixed(Size(bytes)) => bytes,
        Budget::Share(share) => (memory() as f64 * share) as u64,
    }
}

/// The smaller of the machine's memory and the control group's limit.
pub(crate) fn memory() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<u64>()
            .ok()
            .map(|kb| kb << 10)
    });
    // Unreadable /proc: a guess that suits the smallest machine we aim at.
    let machine = machine.unwrap_or(512 << 20);
    control_group::memory_limit().map_or(machine, |limit| limit.min(machine))
}

/// Free bytes for us, and all bytes, of the file system that holds `path`.
pub(crate) fn disk_space(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some((
        stat.f_bavail.saturating_mul(stat.f_frsize),
        stat.f_blocks.saturating_mul(stat.f_frsize),
    ))
}

/// Whether `path` lies on an SD card or eMMC. Unknown (not there yet, no device of its own) is no.
pub(crate) fn is_on_sd_card(path: &Path) -> bool {
    let nearest = path
        .ancestors()
        .find_map(|dir| fs::metadata(if dir == Path::new("") { Path::new(".") } else { dir }).ok());
    let Some(device) = nearest.map(|metadata| metadata.dev()) else {
        return false;
    };
    let block = format!(
        "/sys/dev/block/{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    );
    fs::canonicalize(block).is_ok_and(|device| device.to_string_lossy().contains("/mmcblk"))
}

/// Makes what the process creates from here on unreadable for other users: directories 0750, files 0640. They hold
/// messages. A stricter mask stays.
pub fn keep_files_private() {
    use rustix::fs::Mode;
    let before = rustix::process::umask(Mode::WGRP | Mode::RWXO);
    rustix::process::umask(before | Mode::WGRP | Mode::RWXO);
}

/// Raises the limit on open files as far as it goes, and returns it.
pub(crate) fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        // Refused (a container's rule): what there is has to do.
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        );
    }
    open_files_max()
}

/// Files this process may have open.
pub(crate) fn open_files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Files that connections leave for the log, HTTP and everything else.
pub(crate) fn files_reserved(log_files: u64) -> u64 {
    FILES_OF_THE_PROCESS
        .saturating_add(log_files_max(log_files))
        .saturating_add(http_connections_max())
        .saturating_add(management_connections_max())
}

/// Standard streams, listeners, what runtimes wait with, and what the log writes to or keeps for that.
const FILES_OF_THE_PROCESS: u64 = 64;

/// Files of the log that stay open for reading: as set, or (0) by how many the process may have.
pub(crate) fn log_files_max(set: u64) -> u64 {
    match set {
        0 => (open_files_max() / 8).clamp(8, 64),
        set => set,
    }
}

/// Connections to HTTP at the same time.
pub(crate) fn http_connections_max() -> u64 {
    (open_files_max() / 8).clamp(4, 128)
}

/// Connections to the management API at the same time, beside those.
pub(crate) fn management_connections_max() -> u64 {
    (open_files_max() / 16).clamp(4, 128)
}

/// Files this process has open.
pub(crate) fn open_files() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64)
}

/// Bytes of memory this process occupies.
pub(crate) fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0).saturating_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_memory_is_less_than_the_memory() {
        assert!(memory_budget(Budget::Share(0.4)) < memory());
        assert_eq!(memory_budget(Budget::Fixed(Size(7))), 7);
    }

    #[test]
    fn this_machine_answers() {
        assert!(resident_bytes() > 0);
        assert!(open_files() > 0);
        assert!(disk_space(Path::new("/")).is_some_and(|(free, all)| free <= all));
    }
}
