//! Checks the machine for problems that make a gateway slow, lose data or run out of resources, and gives advice. Most
//! checks are about small boards such as a Raspberry Pi.

use crate::exit::Failure;
use crate::machine;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Good,
    /// It works, but could be better.
    Warn,
    /// It will cause failures.
    Bad,
}

/// One check and its result.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    name: &'static str,
    state: State,
    /// What was found.
    found: String,
    /// What to do; empty: nothing.
    advice: &'static str,
}

/// Checks this machine and the data directory `data`. Writes and removes one small file there.
///
/// # Errors
/// A check found a cause of failures; the text names it. Warnings are not errors.
pub fn doctor(data: &Path) -> Result<String, Failure> {
    let mut findings = of_machine(Path::new("/"), rustix::param::page_size());
    findings.extend(medium(machine::is_on_sd_card(data), sync_time(data)));
    let text = print(&findings);
    if findings.iter().any(|finding| finding.state == State::Bad) {
        return Err(Failure::Unavailable(text.trim_end().to_owned()));
    }
    Ok(text)
}

/// Checks the files in `root`/proc and `root`/sys. A check whose file does not exist is left out.
fn of_machine(root: &Path, page_bytes: usize) -> Vec<Finding> {
    let checks = [
        Some(pages(page_bytes)),
        memory_cgroup(root),
        clock(root),
        voltage(root),
        files(root),
    ];
    checks.into_iter().flatten().collect()
}

fn finding(name: &'static str, state: State, found: String, advice: &'static str) -> Finding {
    let advice = if state == State::Good { "" } else { advice };
    Finding {
        name,
        state,
        found,
        advice,
    }
}

fn pages(bytes: usize) -> Finding {
    // Only a note: the gateway uses the system's allocator, which works with any page size.
    let found = format!("pages of {} KiB", bytes / 1024);
    finding("page size", State::Good, found, "")
}

fn memory_cgroup(root: &Path) -> Option<Finding> {
    let controllers = fs::read_to_string(root.join("sys/fs/cgroup/cgroup.controllers")).ok()?;
    let is_on = controllers.split_whitespace().any(|controller| controller == "memory");
    let (state, found) = match is_on {
        true => (State::Good, "on"),
        false => (
            State::Warn,
            "off: no limit on memory holds, and containers are not measured",
        ),
    };
    let advice = "append cgroup_enable=memory to the one line of /boot/firmware/cmdline.txt and restart the machine";
    Some(finding("memory cgroup", state, found.to_owned(), advice))
}

fn clock(root: &Path) -> Option<Finding> {
    let class = root.join("sys/class");
    if !class.is_dir() {
        return None;
    }
    let has_clock = fs::read_dir(class.join("rtc")).is_ok_and(|mut clocks| clocks.next().is_some());
    let (state, found) = match has_clock {
        true => (State::Good, "there is one"),
        false => (
            State::Warn,
            "none: after a power cut the time is wrong until the network sets it",
        ),
    };
    let advice =
        "add one, or have the service start after time-sync.target: certificates and tokens are held against the time";
    Some(finding("real-time clock", state, found.to_owned(), advice))
}

fn voltage(root: &Path) -> Option<Finding> {
    let sensors = fs::read_dir(root.join("sys/class/hwmon")).ok()?;
    let volt = sensors.filter_map(|entry| Some(entry.ok()?.path())).find(|path| {
        let name = fs::read_to_string(path.join("name")).unwrap_or_default();
        name.trim() == "rpi_volt"
    })?;
    let alarm = fs::read_to_string(volt.join("in0_lcrit_alarm")).ok()?;
    let (state, found) = match alarm.trim() {
        "0" => (State::Good, "enough"),
        _ => (
            State::Bad,
            "too low: the machine slows down, and may write nonsense to its medium",
        ),
    };
    let advice = "use the power supply made for the board, and a short cable";
    Some(finding("supply voltage", state, found.to_owned(), advice))
}

fn files(root: &Path) -> Option<Finding> {
    let limits = fs::read_to_string(root.join("proc/self/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    // The gateway raises its soft limit to the hard one at the start.
    let hard: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    let state = if hard < FILES_MIN { State::Warn } else { State::Good };
    let advice = "each client is a file: set LimitNOFILE=65536 in the service, or raise `ulimit -n`";
    Some(finding("file descriptors", state, format!("at most {hard}"), advice))
}

/// Fewer open files than this are a warning.
const FILES_MIN: u64 = 4096;

/// Checks the medium of the data directory. `sync`: duration of a sync; `None`: the directory cannot be written.
fn medium(is_sd_card: bool, sync: Option<Duration>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (state, found) = match is_sd_card {
        true => (State::Warn, "an SD card or eMMC, which wears out by writing"),
        false => (State::Good, "no SD card"),
    };
    let advice = "keep messages on an SSD, or set store.min_sync_gap = \"25ms\"; gatepost_store_bytes_written_total shows the wear";
    findings.push(finding("medium", state, found.to_owned(), advice));
    let (state, found) = match sync {
        None => (State::Bad, "the data directory cannot be written".to_owned()),
        Some(time) if time > SYNC_SLOW => (State::Warn, format!("{:.1} ms for a sync", time.as_secs_f64() * 1e3)),
        Some(time) => (State::Good, format!("{:.1} ms for a sync", time.as_secs_f64() * 1e3)),
    };
    let advice = "each confirm waits for one: see store.durability, and whether the directory is there and belongs to the gateway's user";
    findings.push(finding("sync", state, found, advice));
    findings
}

/// A sync that takes longer is a warning: publishers notice the delay of their confirms.
const SYNC_SLOW: Duration = Duration::from_millis(50);

/// The median of a few syncs of 4 KiB.
fn sync_time(data: &Path) -> Option<Duration> {
    let path = data.join(format!(".doctor-{}", std::process::id()));
    let times = (|| {
        let mut file = File::create(&path)?;
        let mut times = Vec::new();
        for _ in 0..9 {
            file.write_all(&[0x5A; 4096])?;
            let began = Instant::now();
            file.sync_data()?;
            times.push(began.elapsed());
        }
        Ok::<_, std::io::Error>(times)
    })();
    // If this fails, a small file stays behind; the next check uses another name.
    let _ = fs::remove_file(&path);
    let mut times = times.ok()?;
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

fn print(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let word = match finding.state {
            State::Good => "ok  ",
            State::Warn => "warn",
            State::Bad => "BAD ",
        };
        let _ = writeln!(text, "{word}  {:16}  {}", finding.name, finding.found);
        if !finding.advice.is_empty() {
            let _ = writeln!(text, "      {:16}  -> {}", "", finding.advice);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, text).expect("written");
        }
        root
    }

    fn states(findings: &[Finding]) -> Vec<(&'static str, State)> {
        findings.iter().map(|finding| (finding.name, finding.state)).collect()
    }

    #[test]
    fn the_traps_of_a_pi_are_found_and_each_has_an_advice() {
        let pi = root(&[
            ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n"),
            ("sys/class/hwmon/hwmon0/name", "cpu_thermal\n"),
            ("sys/class/hwmon/hwmon1/name", "rpi_volt\n"),
            ("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n"),
            (
                "proc/self/limits",
                "Max open files            1024                 1024                 files     \n",
            ),
        ]);
        let findings = of_machine(pi.path(), 16384);
        let expected = [
            ("page size", State::Good),
            ("memory cgroup", State::Warn),
            ("real-time clock", State::Warn),
            ("supply voltage", State::Bad),
            ("file descriptors", State::Warn),
        ];
        assert_eq!(states(&findings), expected);
        assert_eq!(findings[0].found, "pages of 16 KiB");
        for finding in findings.iter().filter(|finding| finding.state != State::Good) {
            assert!(
                print(&findings).contains(finding.advice) && !finding.advice.is_empty(),
                "{finding:?}"
            );
        }
        assert!(
            print(&findings).contains("BAD   supply voltage"),
            "{}",
            print(&findings)
        );
    }

    #[test]
    fn a_machine_that_is_well_is_said_to_be_and_what_is_not_known_is_left_out() {
        let server = root(&[
            ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n"),
            ("sys/class/rtc/rtc0/name", "rtc_cmos\n"),
            (
                "proc/self/limits",
                "Max open files            1024                 1048576              files     \n",
            ),
        ]);
        let findings = of_machine(server.path(), 4096);
        assert!(
            findings.iter().all(|finding| finding.state == State::Good),
            "{findings:?}"
        );
        assert_eq!(findings.len(), 4, "no sensor of voltage");
        assert_eq!(
            of_machine(root(&[]).path(), 4096).len(),
            1,
            "nothing but the size of pages"
        );
    }

    #[test]
    fn the_medium_is_measured_and_a_directory_that_cannot_be_written_is_bad() {
        let data = root(&[]);
        assert!(sync_time(data.path()).is_some());
        assert_eq!(
            fs::read_dir(data.path()).expect("a directory").count(),
            0,
            "nothing is left"
        );
        assert_eq!(sync_time(&data.path().join("nowhere")), None);
        assert_eq!(
            states(&medium(false, None)),
            [("medium", State::Good), ("sync", State::Bad)]
        );
        let slow = Some(Duration::from_millis(80));
        assert_eq!(
            states(&medium(true, slow)),
            [("medium", State::Warn), ("sync", State::Warn)]
        );
        let fast = Some(Duration::from_millis(2));
        assert_eq!(
            states(&medium(false, fast)),
            [("medium", State::Good), ("sync", State::Good)]
        );
    }
}
