//! Reads a broker's resources from `/proc`: processor time of all threads of a process and its descendants, in
//! nanoseconds; resident memory; bytes written.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Watches one process and its descendants.
#[derive(Debug)]
pub(crate) struct Meter {
    root: u32,
    /// Run time of each thread at the last sample. A thread that ended keeps its last value.
    threads: HashMap<(u32, u32), u64>,
    /// The sum over all threads ever seen.
    cpu_ns: u64,
}

/// Resources used since the meter was created (processor, bytes) or in use now (memory).
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Usage {
    pub(crate) cpu_ns: u64,
    /// Parts of the processor time in user space and in the kernel, in ticks of 10 ms.
    #[serde(default)]
    pub(crate) user_ns: u64,
    #[serde(default)]
    pub(crate) kernel_ns: u64,
    pub(crate) rss_bytes: u64,
    pub(crate) rss_peak_bytes: u64,
    /// Sent to storage, as counted by the block layer.
    pub(crate) disk_bytes: u64,
    /// Passed to `write` and similar calls, sockets included.
    pub(crate) write_call_bytes: u64,
}

impl Meter {
    pub(crate) fn new(root: u32) -> Self {
        let mut meter = Self {
            root,
            threads: HashMap::new(),
            cpu_ns: 0,
        };
        meter.sample_cpu();
        meter.cpu_ns = 0;
        meter
    }

    /// Adds the run time since the last sample. Call it often: the last run time of a thread that ends between two
    /// samples is missed.
    pub(crate) fn sample_cpu(&mut self) {
        for pid in family(self.root) {
            for thread in numbers_in(&format!("/proc/{pid}/task")) {
                if let Some(ran) = thread_run_ns(pid, thread) {
                    let before = self.threads.insert((pid, thread), ran).unwrap_or_default();
                    self.cpu_ns += ran.saturating_sub(before);
                }
            }
        }
    }

    /// Processor time since the meter was made, as of the last sample.
    pub(crate) fn cpu_ns(&self) -> u64 {
        self.cpu_ns
    }

    /// All values as of now.
    pub(crate) fn read(&mut self) -> Usage {
        self.sample_cpu();
        let mut usage = Usage {
            cpu_ns: self.cpu_ns,
            ..Usage::default()
        };
        for pid in family(self.root) {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let (user, kernel) = ticks_ns(&stat).unwrap_or_default();
            usage.user_ns += user;
            usage.kernel_ns += kernel;
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            usage.rss_bytes += rss_bytes(pid, &status);
            usage.rss_peak_bytes += 1024 * field(&status, "VmHWM:");
            let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
            usage.disk_bytes += field(&io, "write_bytes:");
            usage.write_call_bytes += field(&io, "wchar:");
        }
        usage
    }

    /// Whether the watched process exists.
    pub(crate) fn is_alive(&self) -> bool {
        PathBuf::from(format!("/proc/{}/task", self.root)).exists()
    }
}

impl Usage {
    /// The difference to `before`; memory stays the current value.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            user_ns: self.user_ns.saturating_sub(before.user_ns),
            kernel_ns: self.kernel_ns.saturating_sub(before.kernel_ns),
            disk_bytes: self.disk_bytes.saturating_sub(before.disk_bytes),
            write_call_bytes: self.write_call_bytes.saturating_sub(before.write_call_bytes),
            ..*self
        }
    }
}

/// The process with the most resident memory among `root` and its descendants: the broker, not its start scripts.
pub(crate) fn largest_of_family(root: u32) -> u32 {
    let rss = |pid: &u32| {
        field(
            &fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default(),
            "VmRSS:",
        )
    };
    family(root).into_iter().max_by_key(rss).unwrap_or(root)
}

/// Resident memory, counted page by page where the kernel offers that. The figure in `status` is kept per processor and
/// is wrong by hundreds of KiB.
fn rss_bytes(pid: u32, status: &str) -> u64 {
    let exact = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).map_or(0, |text| field(&text, "Rss:"));
    1024 * if exact > 0 { exact } else { field(status, "VmRSS:") }
}

/// The first process that `root` started.
pub(crate) fn first_child(root: u32) -> Option<u32> {
    family(root).get(1).copied()
}

/// Bytes that a process has sent to storage; 0 if it is gone.
pub(crate) fn disk_bytes(pid: u32) -> u64 {
    field(
        &fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default(),
        "write_bytes:",
    )
}

/// Bytes written to the device under a directory, by any process, with the file system's journal; `None` where the
/// kernel does not report it.
pub(crate) fn device_bytes(directory: &Path) -> Option<u64> {
    let device = fs::metadata(directory).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    sectors_written(&fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?)
        .map(|sectors| 512 * sectors)
}

/// The seventh field of a block device's `stat`: sectors of 512 bytes, whatever the device's sector size.
fn sectors_written(stat: &str) -> Option<u64> {
    stat.split_ascii_whitespace().nth(6)?.parse().ok()
}

/// Resident memory of a process and its descendants, read quickly: exact enough for a curve.
pub(crate) fn resident_bytes(root: u32) -> u64 {
    let status = |pid| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    family(root)
        .into_iter()
        .map(|pid| 1024 * field(&status(pid), "VmRSS:"))
        .sum()
}

/// A process and its descendants.
fn family(root: u32) -> Vec<u32> {
    let mut pids = vec![root];
    let mut next = 0;
    while let Some(&pid) = pids.get(next) {
        next += 1;
        for thread in numbers_in(&format!("/proc/{pid}/task")) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{thread}/children")).unwrap_or_default();
            pids.extend(
                children
                    .split_ascii_whitespace()
                    .filter_map(|child| child.parse::<u32>().ok()),
            );
        }
    }
    pids
}

fn numbers_in(directory: &str) -> Vec<u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// A thread's time on a processor: exact from the scheduler, or in clock ticks where the kernel does not keep that.
fn thread_run_ns(pid: u32, thread: u32) -> Option<u64> {
    let schedstat = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat"));
    if let Some(ran) = schedstat
        .ok()
        .and_then(|text| text.split_ascii_whitespace().next()?.parse().ok())
    {
        return Some(ran);
    }
    let (user, kernel) = ticks_ns(&fs::read_to_string(format!("/proc/{pid}/task/{thread}/stat")).ok()?)?;
    Some(user + kernel)
}

/// utime and stime of a `stat` line. A tick is 10 ms on every Linux that has `/proc`.
fn ticks_ns(stat: &str) -> Option<(u64, u64)> {
    // The name may contain blanks and parentheses; the last parenthesis ends it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let utime: u64 = fields.next()?.parse().ok()?;
    let stime: u64 = fields.next()?.parse().ok()?;
    Some((utime * 10_000_000, stime * 10_000_000))
}

fn field(text: &str, name: &str) -> u64 {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.split_ascii_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_is_seen_to_work() {
        let mut meter = Meter::new(std::process::id());
        let mut state = 1_u64;
        while meter.cpu_ns() < 1_000_000 {
            meter.sample_cpu();
            state = std::hint::black_box(state.wrapping_mul(31));
        }
        let usage = meter.read();
        assert!(usage.rss_bytes > 100_000 && usage.rss_peak_bytes > 100_000, "{usage:?}");
    }

    #[test]
    fn ticks_are_read_behind_a_name_with_parentheses() {
        let stat = "42 (a) b) c) S 1 42 42 0 -1 4194304 100 0 0 0 7 5 0 0 20 0 1 0 100 0 0";
        assert_eq!(ticks_ns(stat), Some((70_000_000, 50_000_000)));
    }

    #[test]
    fn the_sectors_written_are_the_seventh_figure_of_a_device() {
        let stat = "  225366    51420 23397002    68255  5133174  1303821 505205240  1474661        0\n";
        assert_eq!(sectors_written(stat), Some(505_205_240));
        assert_eq!(sectors_written("1 2 3"), None);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let io = "rchar: 1\nwchar: 22\nwrite_bytes: 4096\ncancelled_write_bytes: 1\n";
        assert_eq!(
            (field(io, "wchar:"), field(io, "write_bytes:"), field(io, "none:")),
            (22, 4096, 0)
        );
    }
}
