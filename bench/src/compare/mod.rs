//! Compares Gatepost with other brokers: one at a time on the same machine, in rounds, so that a machine that slows
//! down affects all of them. Each message is verified.

pub(crate) mod chart;
pub(crate) mod peer;
pub(crate) mod scenario;
pub(crate) mod table;

use crate::idle::Idle;
use crate::latency::Percentiles;
use crate::meter::Meter;
use crate::plan::{Phase, Plan, Protocol};
use crate::progress::Progress;
use crate::report::{MIB, Report};
use crate::run;
use anyhow::{Context, ensure};
use peer::{Kind, Peer, Running, Settings};
use scenario::{BACKLOG, LATENCY, LATENCY_RATE, Scenario, THROUGHPUT};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;
use table::{Broker, Cell, Comparison, Machine, Table};

/// Starts each broker on private ports and directories, measures it, and prints the table (Markdown) on standard output.
#[derive(Debug, clap::Args)]
pub(crate) struct CompareOptions {
    /// Path of Gatepost's program; if left out, the one in the search path or beside this program
    #[arg(long)]
    gatepost: Option<PathBuf>,
    #[arg(long)]
    rabbitmq: Option<PathBuf>,
    #[arg(long)]
    mosquitto: Option<PathBuf>,
    /// From `cargo install rumqttd --version 0.20.0`
    #[arg(long)]
    rumqttd: Option<PathBuf>,
    /// Measure only these: gatepost1, gatepost2, gatepost4, rabbitmq, mosquitto, rumqttd
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "gatepost1,gatepost2,rabbitmq,mosquitto,rumqttd"
    )]
    brokers: Vec<String>,
    /// Measure only this part
    #[arg(
        long,
        value_delimiter = ',',
        value_enum,
        default_value = "throughput,latency,memory,backlog"
    )]
    parts: Vec<Part>,
    /// Only scenarios whose name contains this text
    #[arg(long, default_value = "")]
    only: String,
    /// How often everything is measured; memory and backlog are measured once
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds that each measurement publishes
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Idle connections for measuring the memory of one
    #[arg(long, default_value_t = 5000)]
    connections: usize,
    /// Threads of the generator
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Keep the generator on the last processor and the brokers off it
    #[arg(long)]
    pin: bool,
    /// Where brokers keep their data while they run: a directory on the disk that is to be measured
    #[arg(long)]
    data: Option<PathBuf>,
    /// Write the figures (JSON) to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the table (Markdown) to this file too
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Write the drawing (SVG) to this file
    #[arg(long)]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Part {
    Throughput,
    Latency,
    Memory,
    Backlog,
}

/// Indices of the tables of a comparison.
const RATES: usize = 0;
const COSTS: usize = 1;
const LATENCIES: usize = 2;
const MEMORY: usize = 3;
const DISK: usize = 4;

/// A broker runs this long before it is measured.
const WARM_UP: Duration = Duration::from_millis(500);
/// Pause after a start before memory is read.
const SETTLE: Duration = Duration::from_secs(2);
/// Minimum duration of a latency measurement: otherwise the highest percentile rests on too few messages.
const LATENCY_SECONDS_MIN: f64 = 5.0;

/// Runs the comparison. Returns whether every message of every broker came once, in order and whole.
///
/// # Errors
/// The options contradict each other, or a file cannot be written. A broker that fails is reported in the table.
pub(crate) fn compare(options: &CompareOptions) -> anyhow::Result<bool> {
    ensure!(
        options.seconds > 0.0 && options.rounds > 0,
        "--seconds and --rounds are above 0"
    );
    let peers = options.peers()?;
    let base = options.data.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::Builder::new().prefix("gatepost-bench-").tempdir_in(base)?;
    let generator_on = options.pin.then(stay_off_last_processor);
    let mut bench = Bench {
        options,
        directory: directory.path(),
        comparison: Comparison {
            machine: machine(),
            rounds: options.rounds,
            seconds: options.seconds,
            brokers: peers.iter().map(broker).collect(),
            tables: tables(),
            failures: Vec::new(),
        },
        progress: Progress::new(),
        starts: 0,
        generator_on,
    };
    for round in 1..=options.rounds {
        for (place, peer) in peers.iter().enumerate() {
            bench.measure(place, peer, round);
        }
    }
    bench.finish()
}

/// A comparison in progress.
#[derive(Debug)]
struct Bench<'a> {
    options: &'a CompareOptions,
    directory: &'a Path,
    comparison: Comparison,
    progress: Progress,
    /// Numbers the brokers' directories.
    starts: usize,
    /// The processor of the generator. Brokers do not run on it.
    generator_on: Option<usize>,
}

impl Bench<'_> {
    /// Measures one broker in one round.
    fn measure(&mut self, place: usize, peer: &Peer, round: usize) {
        if peer.program.is_none() {
            self.note_all(place, "not installed");
            return;
        }
        let parts = self.options.parts.clone();
        if round == 1 && parts.contains(&Part::Memory) {
            let measured = self.memory(place, peer);
            self.catch(peer, "memory", measured);
        }
        if parts.contains(&Part::Throughput) || parts.contains(&Part::Latency) {
            let measured = self.loads(place, peer, round);
            self.catch(peer, "load", measured);
        }
        if round == 1 && parts.contains(&Part::Backlog) {
            let measured = self.backlog(place, peer);
            self.catch(peer, "backlog", measured);
        }
    }

    /// Memory when idle, and per idle connection, each in a fresh broker.
    fn memory(&mut self, place: usize, peer: &Peer) -> anyhow::Result<()> {
        if let Some(bytes) = peer.program_bytes() {
            self.cell(MEMORY, "Program, MiB", place).add(bytes as f64 / MIB);
        }
        let count = self.options.connections;
        for (protocol, row) in [
            (Protocol::Mqtt, "RSS of an idle MQTT connection, KiB"),
            (Protocol::Amqp, "RSS of an idle AMQP connection, KiB"),
        ] {
            if !peer.speaks(protocol) {
                continue;
            }
            self.say(peer, row);
            let directory = self.fresh_directory();
            let broker = peer.start(&directory)?;
            thread::sleep(SETTLE);
            if protocol == Protocol::Mqtt {
                let rss = Meter::new(broker.pid).read().rss_bytes;
                self.cell(MEMORY, "Idle RSS, MiB", place).add(rss as f64 / MIB);
            }
            let idle = Idle::open(&broker.endpoint(protocol)?, count, Some(broker.pid))?;
            if let Some(bytes) = idle.rss_bytes_each {
                self.cell(MEMORY, row, place).add(bytes / 1024.0);
            }
            drop(idle);
            self.stop(peer, broker);
        }
        Ok(())
    }

    fn loads(&mut self, place: usize, peer: &Peer, round: usize) -> anyhow::Result<()> {
        let mut broker = None;
        let tasks = [(Part::Throughput, THROUGHPUT), (Part::Latency, LATENCY)];
        for (part, scenarios) in tasks.into_iter().filter(|(part, _)| self.options.parts.contains(part)) {
            for scenario in scenarios
                .iter()
                .filter(|scenario| scenario.title.contains(&self.options.only))
            {
                if !scenario.suits(peer) {
                    continue;
                }
                self.say(peer, &format!("{}, round {round}", scenario.title));
                // A broker that failed is started again, so that one failure affects one cell.
                let running = match broker.take() {
                    Some(running) => running,
                    None => peer.start(&self.fresh_directory())?,
                };
                let measured = match part {
                    Part::Latency => self.latency(scenario, place, &running),
                    _ => self.throughput(scenario, place, &running),
                };
                let failed = measured.is_err();
                self.catch(peer, scenario.title, measured);
                if failed {
                    drop(running);
                } else {
                    broker = Some(running);
                }
            }
        }
        if let Some(running) = broker {
            self.stop(peer, running);
        }
        Ok(())
    }

    fn throughput(&mut self, scenario: &Scenario, place: usize, broker: &Running) -> anyhow::Result<()> {
        self.run(scenario.plan(broker, WARM_UP)?)?;
        let plan = scenario.plan(broker, Duration::from_secs_f64(self.options.seconds))?;
        let report = self.run(plan)?;
        self.cell(RATES, scenario.title, place).add(report.delivered_per_second);
        if let Some(cost) = &report.broker {
            self.cell(COSTS, scenario.title, place).add(cost.cpu_us_per_message);
        }
        Ok(())
    }

    fn latency(&mut self, scenario: &Scenario, place: usize, broker: &Running) -> anyhow::Result<()> {
        self.run(scenario.plan(broker, WARM_UP)?)?;
        let seconds = self.options.seconds.max(LATENCY_SECONDS_MIN);
        let mut plan = scenario.plan(broker, Duration::from_secs_f64(seconds))?;
        plan.rate = Some(LATENCY_RATE);
        let report = self.run(plan)?;
        let latency = report.latency.context("no latencies")?;
        for (row, value) in latency_rows(scenario, &latency) {
            self.cell(LATENCIES, &row, place).add(value);
        }
        Ok(())
    }

    /// Fills a durable queue, restarts the broker, and empties it.
    fn backlog(&mut self, place: usize, peer: &Peer) -> anyhow::Result<()> {
        self.say(peer, "backlog");
        let directory = self.fresh_directory();
        let broker = peer.start(&directory)?;
        let mut meter = Meter::new(broker.pid);
        let filled = self.run(scenario::backlog(peer, &broker, Phase::Fill)?)?;
        let cost = filled.broker.context("no process to measure")?;
        self.cell(MEMORY, &backlog_title("RSS with", "MiB"), place)
            .add(meter.read().rss_bytes as f64 / MIB);
        self.cell(RATES, &backlog_title("Queueing of", "1/s"), place)
            .add(filled.published_per_second);
        let written = self.cell(DISK, "Bytes written for a queued message of 1 KiB", place);
        written.add(cost.disk_bytes_per_message);
        if cost.disk_bytes_per_message == 0.0 {
            written.note("in memory only");
        }
        self.stop(peer, broker);
        let broker = peer.start(&directory)?;
        let restart_ms = broker.ready_in.as_secs_f64() * 1000.0;
        let mut plan = scenario::backlog(peer, &broker, Phase::Drain)?;
        plan.stall = Duration::from_secs(5);
        let drained = run::run(&self.settings(plan))?;
        let lost = (!drained.clean).then(|| format!("lost {}", table::figure(drained.verdict.lost as f64)));
        let restart = self.cell(DISK, &backlog_title("Restart with", "ms"), place);
        restart.add(restart_ms);
        restart.note.clone_from(&lost);
        let emptying = self.cell(RATES, &backlog_title("Emptying of", "1/s"), place);
        match lost {
            Some(lost) => emptying.note(&lost),
            None => emptying.add(drained.delivered_per_second),
        }
        self.stop(peer, broker);
        Ok(())
    }

    /// Runs a plan. Fails unless every message came once, in order and whole.
    fn run(&mut self, plan: Plan) -> anyhow::Result<Report> {
        let report = run::run(&self.settings(plan))?;
        report.ensure_clean()?;
        Ok(report)
    }

    fn settings(&self, mut plan: Plan) -> Plan {
        plan.threads = self.options.threads;
        plan.pin = self.generator_on;
        plan
    }

    fn cell(&mut self, table: usize, row: &str, place: usize) -> &mut Cell {
        let brokers = self.comparison.brokers.len();
        self.comparison.tables[table].cell(row, place, brokers)
    }

    /// Adds the note to every cell of a broker that exists so far.
    fn note_all(&mut self, place: usize, note: &str) {
        for row in self.comparison.tables.iter_mut().flat_map(|table| &mut table.rows) {
            row.cells[place].note(note);
        }
    }

    fn catch(&mut self, peer: &Peer, what: &str, measured: anyhow::Result<()>) {
        if let Err(error) = measured {
            let failure = format!("{}, {what}: {error:#}", peer.name());
            self.progress.done();
            eprintln!("FAILED {failure}");
            self.comparison.failures.push(failure);
        }
    }

    fn stop(&mut self, peer: &Peer, broker: Running) {
        let stopped = broker.stop().map(|_| ());
        self.catch(peer, "stop", stopped);
    }

    fn say(&self, peer: &Peer, what: &str) {
        self.progress.say(&format!("{}: {what}", peer.name()));
    }

    fn fresh_directory(&mut self) -> PathBuf {
        self.starts += 1;
        self.directory.join(self.starts.to_string())
    }

    fn finish(mut self) -> anyhow::Result<bool> {
        for place in 0..self.comparison.brokers.len() {
            if !self.comparison.brokers[place].installed {
                self.note_all(place, "not installed");
            }
        }
        self.progress.done();
        let markdown = self.comparison.markdown();
        print!("{markdown}");
        write_to(self.options.markdown.as_deref(), || Ok(markdown.clone()))?;
        write_to(self.options.json.as_deref(), || {
            Ok(serde_json::to_string_pretty(&self.comparison)? + "\n")
        })?;
        write_to(self.options.svg.as_deref(), || Ok(chart::svg(&self.comparison)))?;
        Ok(self.comparison.failures.is_empty())
    }
}

impl CompareOptions {
    fn peers(&self) -> anyhow::Result<Vec<Peer>> {
        let peer = |name: &String| {
            let (kind, asked) = match name.as_str() {
                "rabbitmq" => (Kind::RabbitMq, &self.rabbitmq),
                "mosquitto" => (Kind::Mosquitto, &self.mosquitto),
                "rumqttd" => (Kind::Rumqttd, &self.rumqttd),
                _ => {
                    let threads = name.strip_prefix("gatepost").and_then(|threads| threads.parse().ok());
                    let io_threads = threads.with_context(|| format!("{name} is no broker that is known here"))?;
                    (Kind::Gatepost { io_threads }, &self.gatepost)
                }
            };
            Ok(Peer {
                kind,
                program: kind.find(asked.as_deref())?,
                settings: Settings::default(),
            })
        };
        self.brokers.iter().map(peer).collect()
    }
}

/// Writes a file, if its path was given.
pub(crate) fn write_to(path: Option<&Path>, text: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<()> {
    match path {
        Some(path) => std::fs::write(path, text()?).with_context(|| format!("cannot write {}", path.display())),
        None => Ok(()),
    }
}

fn tables() -> Vec<Table> {
    let table = |title, lower_is_better| Table {
        title,
        lower_is_better,
        rows: Vec::new(),
    };
    vec![
        table("Messages per second", false),
        table("Processor time of the broker, µs a published message", true),
        table("Latency at 2,000 messages a second, µs", true),
        table("Memory and size", true),
        table("Disk and restart", true),
    ]
}

fn latency_rows(scenario: &Scenario, latency: &Percentiles) -> [(String, f64); 3] {
    [
        ("p50", latency.p50_us),
        ("p99", latency.p99_us),
        ("p99.9", latency.p999_us),
    ]
    .map(|(name, value)| (format!("{}, {name}", scenario.title), value))
}

fn backlog_title(what: &str, unit: &str) -> String {
    format!(
        "{what} {} durable messages of 1 KiB, {unit}",
        table::figure(BACKLOG.0 as f64)
    )
}

pub(crate) fn broker(peer: &Peer) -> Broker {
    Broker {
        name: peer.name(),
        version: peer.version(),
        installed: peer.program.is_some(),
    }
}

pub(crate) fn machine() -> Machine {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find(|line| line.starts_with("model name") || line.starts_with("Model"));
    let processor = model
        .and_then(|line| line.split_once(':'))
        .map_or("unknown processor", |(_, name)| name.trim());
    Machine {
        processor: processor.to_owned(),
        processors: thread::available_parallelism().map_or(1, usize::from),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
    }
}

/// Keeps this process off the last processor and returns that processor's number. Programs started from here inherit
/// this.
fn stay_off_last_processor() -> usize {
    let last = thread::available_parallelism().map_or(0, |count| count.get() - 1);
    let mut set = rustix::thread::CpuSet::new();
    for processor in 0..last.max(1) {
        set.set(processor);
    }
    // Where this is not permitted, the threads run on any processor.
    let _ = rustix::thread::sched_setaffinity(None, &set);
    last
}
