//! Resources of the machine: memory, free disk, file descriptors.

use crate::config::{Budget, Size};
use crate::control_group;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// `memory.budget` in bytes.
pub(crate) fn memory_budget(budget: Budget) -> u64 {
    budget_within(budget, memory(), usize::MAX as u64)
}

/// The budget of a process whose addresses end at `addresses`.
///
/// A 32-bit process cannot use all memory of a machine that has 4 or 8 GiB. With a budget larger than its address
/// space, it would not make publishers wait, but end when an allocation fails. So half of the addresses is the maximum:
/// program, stacks, socket buffers and gaps between allocations need some too, and some kernels reserve a quarter.
fn budget_within(budget: Budget, memory: u64, addresses: u64) -> u64 {
    let most = addresses / 2;
    match budget {
        Budget::Fixed(Size(bytes)) => bytes.min(most),
        Budget::Share(share) => (memory.min(most) as f64 * share) as u64,
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
    // If /proc cannot be read, assume the smallest machine that we support.
    let machine = machine.unwrap_or(512 << 20);
    control_group::memory_limit().map_or(machine, |limit| limit.min(machine))
}

/// Bytes free for this process, and all bytes, of the file system that holds `path`.
pub(crate) fn disk_space(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some((
        stat.f_bavail.saturating_mul(stat.f_frsize),
        stat.f_blocks.saturating_mul(stat.f_frsize),
    ))
}

/// Whether `path` is on an SD card or eMMC. `false` if unknown (it does not exist yet, or has no device of its own).
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

/// Makes files and directories that the process creates unreadable for other users (0640 and 0750), because they contain
/// messages. A stricter umask stays.
pub fn keep_files_private() {
    use rustix::fs::Mode;
    let before = rustix::process::umask(Mode::WGRP | Mode::RWXO);
    rustix::process::umask(before | Mode::WGRP | Mode::RWXO);
}

/// Raises the soft limit on open files to the hard limit, and returns it.
pub(crate) fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        // A container may refuse it; then the current limit applies.
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

/// The limit on open files of this process.
pub(crate) fn open_files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Files that connections must not use, because the log, HTTP and other parts need them.
pub(crate) fn files_reserved(log_files: u64) -> u64 {
    FILES_OF_THE_PROCESS
        .saturating_add(log_files_max(log_files))
        .saturating_add(http_connections_max())
        .saturating_add(management_connections_max())
}

/// Files of the process itself: standard streams, listeners, the runtimes' epoll descriptors, and files that the log writes.
const FILES_OF_THE_PROCESS: u64 = 64;

/// Files of the log kept open for reading: as configured, or (0) derived from the limit on open files.
pub(crate) fn log_files_max(set: u64) -> u64 {
    match set {
        0 => (open_files_max() / 8).clamp(8, 64),
        set => set,
    }
}

/// Maximum open HTTP connections.
pub(crate) fn http_connections_max() -> u64 {
    (open_files_max() / 8).clamp(4, 128)
}

/// Maximum open connections to the management API, in addition to those.
pub(crate) fn management_connections_max() -> u64 {
    (open_files_max() / 16).clamp(4, 128)
}

/// Open files of this process.
pub(crate) fn open_files() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64)
}

/// Threads of this process.
pub(crate) fn threads() -> u64 {
    fs::read_dir("/proc/self/task").map_or(0, |dir| dir.count() as u64)
}

/// Resident memory of this process in bytes.
pub(crate) fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0).saturating_mul(rustix::param::page_size() as u64)
}

/// Processor time of this process, of all its threads.
pub(crate) fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_memory_is_less_than_the_memory() {
        assert!(memory_budget(Budget::Share(0.4)) < memory());
        assert_eq!(memory_budget(Budget::Fixed(Size(7))), 7);
    }

    /// The bug: on a Raspberry Pi with 8 GiB and a 32-bit system the budget was 3.2 GiB, more than the address space
    /// has room for, and a larger fixed one was taken for 4 GiB.
    #[test]
    fn a_process_of_32_bits_has_a_budget_that_it_can_address() {
        let (gib, addresses) = (1 << 30, u64::from(u32::MAX));
        assert_eq!(budget_within(Budget::Share(0.4), 8 * gib, addresses), 858_993_458);
        assert_eq!(
            budget_within(Budget::Fixed(Size(6 * gib)), 8 * gib, addresses),
            u64::from(u32::MAX) / 2
        );
        // A small machine is not affected, nor is a 64-bit system.
        assert_eq!(budget_within(Budget::Share(0.5), gib, addresses), gib / 2);
        assert_eq!(budget_within(Budget::Share(0.5), 8 * gib, u64::MAX), 4 * gib);
        assert_eq!(budget_within(Budget::Fixed(Size(6 * gib)), 8 * gib, u64::MAX), 6 * gib);
    }

    #[test]
    fn this_machine_answers() {
        assert!(resident_bytes() > 0);
        assert!(cpu_seconds() > 0.0);
        assert!(open_files() > 0);
        assert!(disk_space(Path::new("/")).is_some_and(|(free, all)| free <= all));
    }
}
