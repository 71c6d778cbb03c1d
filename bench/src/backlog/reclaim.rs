//! How long a broker takes to free disk space: a queue is filled, then purged, emptied or deleted, and the directory is
//! watched until it has its earlier size.
//!
//! ```text
//! start -> one message through -> fill -> purge | empty | delete -> watch
//!                             ^ resting: files made ahead for what comes next are there, messages are not
//! ```

use super::filling::{DRAIN_STALL, SETTLE, fill};
use super::way::{Load, Way};
use crate::compare::peer::{Running, tree_disk_bytes};
use crate::connect;
use crate::meter::disk_bytes;
use crate::plan::{Phase, Protocol};
use crate::progress::Progress;
use crate::report::MIB;
use crate::run;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How a backlog is removed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Deed {
    /// `queue.purge`; AMQP only.
    Purge,
    /// Every message is delivered and acknowledged.
    Empty,
    /// `queue.delete`, or the end of the MQTT session or the stream.
    Delete,
}

/// Disk usage after a removal.
#[derive(Debug, Serialize)]
pub(crate) struct Reclaim {
    pub(crate) way: &'static str,
    pub(crate) deed: Deed,
    pub(crate) messages: u64,
    pub(crate) size: usize,
    /// Size of the directory after one message had gone through.
    pub(crate) resting_disk_bytes: u64,
    pub(crate) filled_disk_bytes: u64,
    pub(crate) deed_ms: f64,
    /// Bytes sent to storage since the removal began.
    pub(crate) written_bytes: u64,
    pub(crate) shrunk: Shrunk,
}

/// How a directory shrank.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Shrunk {
    /// Time until the directory had its earlier size, or until the wait ended.
    pub(crate) seconds: f64,
    pub(crate) disk_bytes: u64,
    /// Whether it has its earlier size.
    pub(crate) back: bool,
}

/// An emptied directory may be this much larger than before: one file may still hold something small, and the largest
/// files are Gatepost's segments of 32 MiB.
const SLACK_BYTES: u64 = 33 << 20;
/// Maximum wait for the disk space, and how long nothing may change before the wait ends.
const TIMEOUT: Duration = Duration::from_secs(120);
const STILL: Duration = Duration::from_secs(65);
const TICK: Duration = Duration::from_millis(100);

impl Deed {
    pub(crate) const ALL: [Deed; 3] = [Deed::Purge, Deed::Empty, Deed::Delete];

    /// The name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Purge => "purged",
            Self::Empty => "emptied",
            Self::Delete => "deleted",
        }
    }

    pub(crate) fn suits(self, way: &Way) -> bool {
        self != Self::Purge || way.protocol == Protocol::Amqp
    }
}

/// Fills a queue, removes the backlog, and watches the directory.
///
/// # Errors
/// The broker does not start, does not confirm all messages, or loses some.
pub(crate) fn reclaim(
    way: &Way,
    load: Load,
    deed: Deed,
    directory: &Path,
    progress: &mut Progress,
) -> anyhow::Result<Reclaim> {
    let broker = way.peer.start(directory)?;
    let resting_disk_bytes = rest(way, &broker, load, directory, progress)?;
    fill(way.plan(&broker, load, Phase::Fill)?)?;
    thread::sleep(SETTLE);
    let filled_disk_bytes = tree_disk_bytes(directory);
    let written_before = disk_bytes(broker.pid);
    let mut plan = way.plan(&broker, load, Phase::Drain)?;
    // Measures the disk space freed by acknowledgements, not by deleting the queue.
    plan.keep = true;
    plan.stall = DRAIN_STALL;
    let begun = Instant::now();
    match deed {
        Deed::Purge => connect::purge(&plan)?,
        Deed::Empty => run::run(&plan)?.ensure_clean()?,
        Deed::Delete => connect::clean_up(&plan)?,
    }
    let deed_ms = begun.elapsed().as_secs_f64() * 1000.0;
    let shrunk = shrunk(directory, resting_disk_bytes, Instant::now(), progress);
    let written_bytes = disk_bytes(broker.pid).saturating_sub(written_before);
    broker.stop()?;
    Ok(Reclaim {
        way: way.key,
        deed,
        messages: load.messages,
        size: load.size,
        resting_disk_bytes,
        filled_disk_bytes,
        deed_ms,
        written_bytes,
        shrunk,
    })
}

/// Sends one message through, so that the broker has created its files. Returns the size of the directory then.
pub(crate) fn rest(
    way: &Way,
    broker: &Running,
    load: Load,
    directory: &Path,
    progress: &mut Progress,
) -> anyhow::Result<u64> {
    progress.say("one message goes through");
    let one = Load {
        messages: 1,
        queues: 1,
        ..load
    };
    let mut plan = way.plan(broker, one, Phase::Through)?;
    plan.name = "rest".into();
    plan.choose_address();
    run::run(&plan)?.ensure_clean()?;
    thread::sleep(SETTLE);
    Ok(tree_disk_bytes(directory))
}

/// Waits until the directory has its earlier size, measured from `since`, or until that seems impossible.
pub(crate) fn shrunk(directory: &Path, resting_bytes: u64, since: Instant, progress: &mut Progress) -> Shrunk {
    let mut seen = (tree_disk_bytes(directory), Instant::now());
    loop {
        let occupied = tree_disk_bytes(directory);
        if occupied != seen.0 {
            seen = (occupied, Instant::now());
        }
        let back = occupied <= resting_bytes + SLACK_BYTES;
        let waited = since.elapsed();
        if back || waited > TIMEOUT || seen.1.elapsed() > STILL {
            return Shrunk {
                seconds: waited.as_secs_f64(),
                disk_bytes: occupied,
                back,
            };
        }
        progress.wait(|| {
            format!(
                "the directory has {:.0} MiB, waiting for {:.0} MiB, {:.0} s by now",
                occupied as f64 / MIB,
                (resting_bytes + SLACK_BYTES) as f64 / MIB,
                waited.as_secs_f64()
            )
        });
        thread::sleep(TICK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_what_it_was_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("segment"), vec![1; 100_000]).unwrap();
        let now = shrunk(directory.path(), 0, Instant::now(), &mut Progress::new());
        assert!(now.back && now.disk_bytes >= 100_000, "{now:?}");
    }
}
