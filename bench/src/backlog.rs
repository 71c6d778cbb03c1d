//! Measures what a deep queue costs in Gatepost and other brokers. One broker runs at a time, with a data directory of
//! its own that is deleted afterwards.
//!
//! ```text
//! backlog    start -> fill -> SIGTERM or SIGKILL -> start -> empty and verify        once for each size and way to end
//! early      start -> publish and consume at once                                    what is settled before it is written
//! syncs      start under strace -> fill a little                                     where no metrics tell
//! latency    start -> fill at 1,000 a second                                         for each durability mode
//! slow       start -> publisher at a fixed rate, consumer slow, stuck, resuming      drawn over time
//! reclaim    start -> fill -> purge, empty or delete -> watch the directory          where asked for
//! retained   start -> update retained messages at 1,000 a second                     where asked for
//! ```
//!
//! Bodies are computed from their number, and each is verified as in `run`: the generator keeps one bit per message,
//! not the message.

mod figures;
mod filling;
mod pass;
pub(crate) mod plot;
mod reclaim;
mod retained;
mod scrape;
mod slow;
mod syncs;
mod way;

use crate::compare::peer::Kind;
use crate::compare::{machine, write_to};
use crate::progress::Progress;
use anyhow::{Context, ensure};
use figures::Figures;
use pass::Stop;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use way::{DURABILITIES, Load, Way};

/// Measures deep queues in Gatepost and its peers, and prints the tables (Markdown) on standard output.
#[derive(Debug, clap::Args)]
pub(crate) struct BacklogOptions {
    /// Path of Gatepost's program; if left out, the one in the search path or beside this program
    #[arg(long)]
    gatepost: Option<PathBuf>,
    #[arg(long)]
    rabbitmq: Option<PathBuf>,
    #[arg(long)]
    mosquitto: Option<PathBuf>,
    #[arg(long)]
    nats: Option<PathBuf>,
    /// Measure only those whose name begins so: gatepost-amqp, gatepost-mqtt, rabbitmq-amqp, rabbitmq-mqtt, mosquitto,
    /// nats
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Measure only these parts. Parts `reclaim` and `retained` run only if named
    #[arg(
        long,
        value_delimiter = ',',
        value_enum,
        default_value = "backlog,early,syncs,latency,slow"
    )]
    parts: Vec<Part>,
    /// Messages of a backlog
    #[arg(long, default_value_t = 200_000)]
    messages: u64,
    /// Bytes of a body, 24 at least
    #[arg(long, value_delimiter = ',', default_value = "100,1024")]
    sizes: Vec<usize>,
    /// Spread the backlog evenly over this many queues; AMQP only
    #[arg(long, default_value_t = 1)]
    queues: usize,
    /// How the broker ends between filling and emptying
    #[arg(long, value_delimiter = ',', value_enum, default_value = "clean,kill")]
    stops: Vec<Stop>,
    /// Maximum unconfirmed messages of the publisher
    #[arg(long, default_value_t = 1000)]
    window: u64,
    /// Gatepost's I/O threads
    #[arg(long, default_value_t = 1)]
    io_threads: usize,
    /// Threads of the generator
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Messages a second while the latency of confirms is measured
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// Seconds that this measurement takes
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Topics whose retained messages are updated in turn
    #[arg(long, default_value_t = 1000)]
    retained_topics: usize,
    /// Updates of retained messages a second
    #[arg(long, default_value_t = 1000.0)]
    retained_rate: f64,
    /// Seconds that this measurement takes
    #[arg(long, default_value_t = 60.0)]
    retained_seconds: f64,
    /// Messages of 1 KiB a second in the slow-consumer experiment
    #[arg(long, default_value_t = 3000.0)]
    slow_rate: f64,
    /// Seconds that each of its four phases takes
    #[arg(long, default_value_t = 10.0)]
    slow_seconds: f64,
    /// Where brokers keep their data while they run: a directory on the disk that is to be measured
    #[arg(long)]
    data: Option<PathBuf>,
    /// Write the figures (JSON) to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the tables (Markdown) to this file too
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Write the drawing of the slow-consumer experiment (SVG) to this file
    #[arg(long)]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Part {
    Backlog,
    Early,
    Syncs,
    Latency,
    Slow,
    /// Retained messages that are updated again and again
    Retained,
    /// The directory after a purge, the last acknowledgement, a delete
    Reclaim,
}

/// Disk space of a message besides its body: a constant, and a share of the body. RabbitMQ's for an MQTT message is the
/// largest.
const DISK_BYTES_BESIDES: u64 = 450;
const DISK_SHARE_BESIDES: f64 = 0.4;
/// Messages of the fill under strace, where each sync is counted.
const TRACED_MESSAGES: u64 = 20_000;
/// Size of bodies where only time is measured.
const LATENCY_BODY_BYTES: usize = 100;
const SLOW_BODY_BYTES: usize = 1024;

/// Runs the measurement. Returns whether Gatepost kept every confirmed message, and the other brokers kept theirs where
/// they did not crash.
///
/// # Errors
/// The options contradict each other, or a file cannot be written. A broker that fails is reported in the tables.
pub(crate) fn backlog(options: &BacklogOptions) -> anyhow::Result<bool> {
    let positive = [
        options.rate,
        options.seconds,
        options.slow_rate,
        options.slow_seconds,
        options.retained_rate,
        options.retained_seconds,
    ];
    let counts = options.messages.min(options.queues as u64);
    ensure!(
        positive.iter().all(|value| *value > 0.0) && counts.min(options.retained_topics as u64) > 0,
        "counts, rates and times are above 0"
    );
    let ways = options.ways()?;
    ensure!(!ways.is_empty(), "--only names nothing that can do this");
    let base = options.data.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::Builder::new().prefix("gatepost-bench-").tempdir_in(base)?;
    options.ensure_room(directory.path())?;
    let mut bench = Bench {
        options,
        directory: directory.path(),
        figures: Figures::new(machine(), &ways, options.messages, options.queues),
        progress: Progress::new(),
        begun: Instant::now(),
        ways: ways.len(),
    };
    for (place, way) in ways.iter().enumerate() {
        if way.peer.program.is_some() {
            bench.measure(place, way);
            bench.figures.measured += 1;
        }
    }
    bench.progress.done();
    print!("{}", bench.write_down()?);
    Ok(bench.figures.failures.is_empty())
}

/// Measurements in progress.
#[derive(Debug)]
struct Bench<'a> {
    options: &'a BacklogOptions,
    directory: &'a Path,
    figures: Figures,
    progress: Progress,
    begun: Instant,
    /// Number of ways.
    ways: usize,
}

impl Bench<'_> {
    /// Writes the results so far to the files asked for, so that an interrupted run leaves its figures. Returns the
    /// tables.
    fn write_down(&mut self) -> anyhow::Result<String> {
        self.figures.close();
        let markdown = self.figures.markdown();
        write_to(self.options.markdown.as_deref(), || Ok(markdown.clone()))?;
        write_to(self.options.json.as_deref(), || {
            Ok(serde_json::to_string_pretty(&self.figures)? + "\n")
        })?;
        write_to(self.options.svg.as_deref(), || Ok(slow::plot(&self.figures.slow).svg()))?;
        Ok(markdown)
    }

    /// Runs all measurements of one way.
    fn measure(&mut self, place: usize, way: &Way) {
        let parts = &self.options.parts;
        for size in &self.options.sizes {
            let load = self.load(*size);
            if parts.contains(&Part::Backlog) {
                self.backlogs(place, way, load);
            }
            if parts.contains(&Part::Early) {
                self.settled_early(place, way, load);
            }
            if parts.contains(&Part::Reclaim) {
                self.reclaims(place, way, load);
            }
            if parts.contains(&Part::Retained) && retained::suits(way) {
                self.retained(place, way, load);
            }
        }
        if parts.contains(&Part::Syncs) && !way.is_gatepost() {
            self.syncs(place, way);
        }
        if parts.contains(&Part::Latency) {
            self.latencies(place, way);
        }
        // Both protocols use the same queue, so one experiment is enough.
        if parts.contains(&Part::Slow) && way.protocol == crate::plan::Protocol::Amqp {
            let load = Load {
                queues: 1,
                ..self.load(SLOW_BODY_BYTES)
            };
            let (rate, phase_s) = (self.options.slow_rate, self.options.slow_seconds);
            let seen = self.within(place, way, "slow consumer", |directory, progress| {
                slow::slow(way, load, rate, phase_s, directory, progress)
            });
            if let Some(seen) = seen {
                self.figures.add_slow(way, seen);
            }
        }
    }

    fn backlogs(&mut self, place: usize, way: &Way, load: Load) {
        for stop in &self.options.stops {
            let what = format!("backlog of {} B, {stop:?} stop", load.size);
            let pass = self.within(place, way, &what, |directory, progress| {
                pass::pass(way, load, *stop, directory, progress)
            });
            if let Some(pass) = pass {
                self.figures.add_pass(place, way, pass);
            }
        }
    }

    fn settled_early(&mut self, place: usize, way: &Way, load: Load) {
        let what = format!("{} B settled early", load.size);
        let early = self.within(place, way, &what, |directory, _| {
            pass::settled_early(way, load, directory)
        });
        if let Some(report) = early {
            self.figures.add_settled_early(place, report);
        }
    }

    fn reclaims(&mut self, place: usize, way: &Way, load: Load) {
        for deed in reclaim::Deed::ALL.into_iter().filter(|deed| deed.suits(way)) {
            let what = format!("backlog of {} B, to be {}", load.size, deed.name());
            let reclaimed = self.within(place, way, &what, |directory, progress| {
                reclaim::reclaim(way, load, deed, directory, progress)
            });
            if let Some(reclaimed) = reclaimed {
                self.figures.add_reclaim(place, reclaimed);
            }
        }
    }

    fn retained(&mut self, place: usize, way: &Way, load: Load) {
        let updates = retained::Updates {
            topics: self.options.retained_topics,
            per_second: self.options.retained_rate,
            span: Duration::from_secs_f64(self.options.retained_seconds),
        };
        let what = format!("retained messages of {} B", load.size);
        let retained = self.within(place, way, &what, |directory, progress| {
            retained::retained(way, load, updates, directory, progress)
        });
        if let Some(retained) = retained {
            self.figures.add_retained(place, way, retained);
        }
    }

    fn syncs(&mut self, place: usize, way: &Way) {
        for size in &self.options.sizes {
            let load = self.load(*size);
            let load = Load {
                messages: load.messages.min(TRACED_MESSAGES),
                ..load
            };
            let what = format!("syncs with {size} B");
            if let Some(syncs) = self.within(place, way, &what, |directory, _| pass::traced(way, load, directory)) {
                self.figures.add_syncs(place, *size, syncs);
            }
        }
    }

    fn latencies(&mut self, place: usize, way: &Way) {
        let load = Load {
            queues: 1,
            ..self.load(LATENCY_BODY_BYTES)
        };
        // Durability is a property of the queue, not of the protocol, so one way measures all modes.
        let modes = if way.key == "gatepost-amqp" {
            DURABILITIES.len()
        } else {
            1
        };
        for (name, durability) in &DURABILITIES[..modes] {
            let mut way = way.clone();
            way.peer.settings.durability = Some(*durability).filter(|_| way.is_gatepost());
            let span = Duration::from_secs_f64(self.options.seconds);
            let rate = self.options.rate;
            let what = format!("confirms, {name}");
            let report = self.within(place, &way, &what, |directory, _| {
                pass::paced(&way, load, rate, span, directory)
            });
            if let Some(latency) = report.and_then(|report| report.confirm_latency) {
                self.figures.add_latency(place, name, rate, latency);
            }
        }
    }

    /// Runs a measurement in a fresh directory. A failure is reported in the tables.
    fn within<T>(
        &mut self,
        place: usize,
        way: &Way,
        what: &str,
        work: impl FnOnce(&Path, &mut Progress) -> anyhow::Result<T>,
    ) -> Option<T> {
        let minutes = self.begun.elapsed().as_secs_f64() / 60.0;
        let subject = format!("[{}/{}, {minutes:.1} min] {}: ", place + 1, self.ways, way.name);
        self.progress.about(subject);
        self.progress.say(what);
        if let Err(error) = self.write_down() {
            self.figures.failures.push(format!("{error:#}"));
        }
        let directory = tempfile::tempdir_in(self.directory).context("no directory");
        let done = directory.and_then(|directory| work(directory.path(), &mut self.progress));
        done.inspect_err(|error| {
            let failure = format!("{}, {what}: {error:#}", way.name);
            self.progress.done();
            eprintln!("FAILED {failure}");
            self.figures.failures.push(failure);
        })
        .ok()
    }

    fn load(&self, size: usize) -> Load {
        Load {
            messages: self.options.messages,
            size,
            queues: self.options.queues,
            window: self.options.window,
            threads: self.options.threads,
        }
    }
}

impl BacklogOptions {
    fn ways(&self) -> anyhow::Result<Vec<Way>> {
        let mut ways = Way::all(self.io_threads, |kind| {
            let asked = match kind {
                Kind::Gatepost { .. } => &self.gatepost,
                Kind::RabbitMq => &self.rabbitmq,
                Kind::Mosquitto => &self.mosquitto,
                Kind::Nats => &self.nats,
                Kind::Rumqttd => &None,
            };
            kind.find(asked.as_deref())
        })?;
        for only in &self.only {
            ensure!(
                ways.iter().any(|way| way.key.starts_with(only.as_str())),
                "{only} is no broker that is known here"
            );
        }
        ways.retain(|way| {
            let asked = self.only.is_empty() || self.only.iter().any(|only| way.key.starts_with(only.as_str()));
            // Only AMQP messages can be spread over several queues.
            asked && (self.queues == 1 || way.protocol == crate::plan::Protocol::Amqp)
        });
        Ok(ways)
    }

    /// Checks for free disk space: better to fail now than when the disk is full in an hour.
    fn ensure_room(&self, directory: &Path) -> anyhow::Result<()> {
        let largest = self.sizes.iter().max().context("--sizes names none")?;
        let bytes_each = (*largest as f64 * (1.0 + DISK_SHARE_BESIDES)) as u64 + DISK_BYTES_BESIDES;
        let needed = self.messages.saturating_mul(bytes_each);
        let disk = rustix::fs::statvfs(directory)?;
        let free = disk.f_bavail * disk.f_frsize;
        ensure!(
            !self.parts.contains(&Part::Backlog) || free > needed,
            "{} has {} MiB free, and up to {} MiB are needed: --data names another disk",
            directory.display(),
            free >> 20,
            needed >> 20
        );
        Ok(())
    }
}
