//! One backlog from its first message to its last: fill, stop the broker, start it again, empty and verify.

use super::filling::{DRAIN_STALL, SETTLE, fill, scrape};
use super::reclaim::{self, Shrunk};
use super::scrape::{CACHED_BYTES, SYNC_SECONDS, SYNCS, Scrape};
use super::syncs::sync_times;
use super::way::{Load, Way};
use crate::compare::peer::{Running, tree_disk_bytes};
use crate::meter::{self, Meter};
use crate::plan::Phase;
use crate::progress::Progress;
use crate::report::Report;
use crate::run;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How the broker ends between filling and emptying.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stop {
    /// SIGTERM.
    Clean,
    /// SIGKILL directly after the last confirm.
    Kill,
}

/// The results of one backlog.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Pass {
    pub(crate) way: String,
    pub(crate) size: usize,
    pub(crate) queues: usize,
    pub(crate) stop: Stop,
    pub(crate) filled: Report,
    /// The idle broker, before the first message.
    pub(crate) before: Footprint,
    /// Size of the directory after one message has gone through. Files that the broker creates in advance exist then.
    pub(crate) resting_disk_bytes: u64,
    /// The broker with the whole backlog.
    pub(crate) with_backlog: Footprint,
    /// Syncs during the fill, from the broker's own metrics.
    pub(crate) syncs: Option<Syncs>,
    /// Bytes sent to storage from the first message to the end of the process: some brokers write only when they stop.
    pub(crate) filled_disk_bytes: u64,
    /// Size of the directory when the broker has stopped.
    pub(crate) stopped_disk_bytes: u64,
    /// Time from the signal to the end of the process.
    pub(crate) stop_ms: f64,
    /// Time from the start of the program until every port answers.
    pub(crate) ready_ms: f64,
    /// Memory when every port answers.
    pub(crate) restarted: Footprint,
    /// The emptying. Its first delivery is timed from readiness, with the time to connect. The verdict says which
    /// confirmed messages were there.
    pub(crate) drained: Report,
    /// The broker a moment after all is acknowledged.
    pub(crate) emptied: Footprint,
    /// How long the directory took to shrink to its earlier size.
    pub(crate) reclaimed: Shrunk,
}

/// Memory and disk space of a broker.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Footprint {
    pub(crate) rss_bytes: u64,
    pub(crate) rss_peak_bytes: u64,
    pub(crate) disk_bytes: u64,
    /// Bytes sent to storage since the process started.
    pub(crate) written_bytes: u64,
    /// Bytes of bodies in memory, if the broker reports it.
    pub(crate) cached_bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Syncs {
    pub(crate) count: f64,
    pub(crate) per_second: f64,
    pub(crate) messages_each: f64,
    /// Average duration of a sync, if the broker reports it.
    pub(crate) mean_ms: Option<f64>,
}

/// Fills, stops, starts and empties a broker.
///
/// # Errors
/// The broker does not start or does not confirm all messages. Later losses are in the result.
pub(crate) fn pass(
    way: &Way,
    load: Load,
    stop: Stop,
    directory: &Path,
    progress: &mut Progress,
) -> anyhow::Result<Pass> {
    let broker = way.peer.start(directory)?;
    thread::sleep(SETTLE);
    let before = Footprint::of(&broker, directory)?;
    let resting_disk_bytes = reclaim::rest(way, &broker, load, directory, progress)?;
    let rested_bytes = meter::disk_bytes(broker.pid);
    let scrape = scrape(&broker)?;
    progress.say("filling");
    let filled = fill(way.plan(&broker, load, Phase::Fill)?)?;
    let syncs = Syncs::between(scrape.as_ref(), self::scrape(&broker)?.as_ref(), &filled);
    // A crash does not wait for the broker to settle.
    if stop == Stop::Clean {
        thread::sleep(SETTLE);
    }
    let with_backlog = Footprint::of(&broker, directory)?;
    progress.say("filled, stopping");
    let ended = SystemTime::now();
    let written = match stop {
        Stop::Clean => broker.stop()?,
        Stop::Kill => {
            broker.kill()?;
            0
        }
    };
    let filled_disk_bytes = written.max(with_backlog.written_bytes).saturating_sub(rested_bytes);
    let stopped_disk_bytes = tree_disk_bytes(directory);
    let stop_ms = ended.elapsed().unwrap_or_default().as_secs_f64() * 1000.0;
    progress.say(&format!("stopped in {stop_ms:.0} ms, starting"));
    let broker = way.peer.start(directory)?;
    let mut plan = way.plan(&broker, load, Phase::Drain)?;
    plan.stall = DRAIN_STALL;
    let ready_ms = broker.ready_in.as_secs_f64() * 1000.0;
    progress.say(&format!("ready in {ready_ms:.0} ms, emptying"));
    let drained = run::run(&plan)?;
    let drained_at = Instant::now();
    thread::sleep(SETTLE);
    let emptied = Footprint::of(&broker, directory)?;
    let reclaimed = match stop {
        Stop::Clean => reclaim::shrunk(directory, resting_disk_bytes, drained_at, progress),
        Stop::Kill => Shrunk::default(),
    };
    broker.stop()?;
    Ok(Pass {
        way: way.key.to_owned(),
        size: load.size,
        queues: load.queues,
        stop,
        filled,
        before,
        resting_disk_bytes,
        with_backlog,
        syncs,
        filled_disk_bytes,
        stopped_disk_bytes,
        stop_ms,
        ready_ms,
        restarted: Footprint {
            rss_bytes: drained.broker.map_or(0, |cost| cost.rss_bytes_before),
            ..Footprint::default()
        },
        drained,
        emptied,
        reclaimed,
    })
}

/// Publishes and consumes at once: a message that is settled before it is written need not be written.
///
/// # Errors
/// The broker does not start, or not every message came once, in order and whole.
pub(crate) fn settled_early(way: &Way, load: Load, directory: &Path) -> anyhow::Result<Report> {
    let broker = way.peer.start(directory)?;
    thread::sleep(SETTLE);
    let report = run::run(&way.plan(&broker, load, Phase::Through)?)?;
    broker.stop()?;
    report.ensure_clean()?;
    Ok(report)
}

/// Measures the confirms of a publisher at a fixed rate.
///
/// # Errors
/// The broker does not start or does not confirm all messages.
pub(crate) fn paced(way: &Way, load: Load, rate: f64, span: Duration, directory: &Path) -> anyhow::Result<Report> {
    let broker = way.peer.start(directory)?;
    fill(way.paced(&broker, load, rate, Duration::from_secs(1))?)?;
    let report = fill(way.paced(&broker, load, rate, span)?)?;
    broker.stop()?;
    Ok(report)
}

/// Counts the syncs of a fill with strace. strace slows the broker down, so other figures of this fill are not used.
///
/// # Errors
/// The broker does not start under strace, or does not confirm all messages.
pub(crate) fn traced(way: &Way, load: Load, directory: &Path) -> anyhow::Result<Syncs> {
    fs::create_dir_all(directory)?;
    let log = directory.join("strace.log");
    let mut peer = way.peer.clone();
    peer.settings.syncs_to = Some(log.clone());
    let broker = peer.start(directory)?;
    thread::sleep(SETTLE);
    let plan = way.plan(&broker, load, Phase::Fill)?;
    let from = wall_seconds();
    let filled = fill(plan)?;
    let to = wall_seconds();
    broker.stop()?;
    let text = fs::read_to_string(&log).context("strace wrote nothing")?;
    let count = sync_times(&text).filter(|at| (from..to).contains(at)).count();
    Ok(Syncs::new(count as f64, &filled))
}

fn wall_seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

impl Pass {
    /// Whether each confirmed message came back once, in order and whole.
    pub(crate) fn is_whole(&self) -> bool {
        self.drained.verdict.is_clean() && self.drained.failure.is_none()
    }

    /// Resident memory that the backlog added.
    pub(crate) fn rss_growth(&self) -> f64 {
        self.with_backlog.rss_bytes as f64 - self.before.rss_bytes as f64
    }

    /// Growth of the directory: the larger of running and stopped.
    pub(crate) fn disk_growth(&self) -> f64 {
        let with_backlog = self.with_backlog.disk_bytes.max(self.stopped_disk_bytes);
        with_backlog as f64 - self.resting_disk_bytes as f64
    }

    /// Bytes written per message from its publish to its acknowledgement, with the whole backlog between them.
    pub(crate) fn written_late(&self) -> f64 {
        let drained = self.drained.broker.map_or(0, |cost| cost.usage.disk_bytes);
        (self.filled_disk_bytes + drained) as f64 / self.filled.published.max(1) as f64
    }
}

impl Footprint {
    fn of(broker: &Running, directory: &Path) -> anyhow::Result<Self> {
        let usage = Meter::new(broker.pid).read();
        Ok(Self {
            rss_bytes: usage.rss_bytes,
            rss_peak_bytes: usage.rss_peak_bytes,
            disk_bytes: tree_disk_bytes(directory),
            written_bytes: usage.disk_bytes,
            cached_bytes: scrape(broker)?.map(|scrape| scrape.sum(CACHED_BYTES) as u64),
        })
    }
}

impl Syncs {
    fn new(count: f64, filled: &Report) -> Self {
        let seconds = filled.published as f64 / filled.published_per_second.max(1e-9);
        Self {
            count,
            per_second: count / seconds,
            messages_each: if count > 0.0 {
                filled.published as f64 / count
            } else {
                0.0
            },
            mean_ms: None,
        }
    }

    pub(crate) fn between(before: Option<&Scrape>, after: Option<&Scrape>, filled: &Report) -> Option<Self> {
        let (before, after) = before.zip(after)?;
        let grown = |name| after.sum(name) - before.sum(name);
        let count = grown(SYNCS);
        Some(Self {
            mean_ms: (count > 0.0).then(|| 1000.0 * grown(SYNC_SECONDS) / count),
            ..Self::new(count, filled)
        })
    }
}
