//! Measures how clients that misbehave affect a well-behaved pair: a publisher at a steady rate and its consumer run in
//! turns with an offender and without, each time against a freshly started Gatepost.
//!
//! ```text
//! for each offender, for each round:   with, without
//!   start -> offender in place -> warm up -> paced run (p50, p99) -> stop the offender -> does it still answer? -> stop
//!            `---------------- resident memory, sampled until the end ------------------'
//! ```
//!
//! Latencies count from when a message was scheduled to leave, and every message is verified, as in `run`. Offenders
//! run in threads of lower priority: measured is the work they cause in the broker, not the processor time they use
//! themselves.

mod carried;
mod client;
mod crowd;
mod line;
mod matching;
mod offender;
mod outcome;
mod scene;

use crate::compare::machine;
use crate::compare::peer::{Kind, Peer, Running, Settings};
use crate::connect;
use crate::meter;
use crate::plan::{Plan, Protocol};
use crate::progress::Progress;
use crate::report::Report;
use crate::run;
use crate::transport::Carrier;
use crate::wire::AckMode;
use anyhow::{Context, ensure};
use offender::Offender;
use outcome::{Hostility, Row};
use scene::{Outcome, Scene};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

/// Starts Gatepost again and again, and prints the table (Markdown) on standard output.
#[derive(Debug, clap::Args)]
pub(crate) struct HostileOptions {
    /// Path of Gatepost's program; if left out, the one in the search path or beside this program
    #[arg(long)]
    gatepost: Option<PathBuf>,
    /// Gatepost's I/O threads
    #[arg(long, default_value_t = 1)]
    io_threads: usize,
    /// Run only these offenders; all if left out
    #[arg(long, value_delimiter = ',', value_enum)]
    offenders: Vec<Offender>,
    /// Protocol of the well-behaved pair: MQTT of QoS 1, AMQP and STOMP confirmed and acknowledged
    #[arg(long, value_enum, default_value = "mqtt")]
    protocol: Protocol,
    /// Transport of the pair and of the offenders that log in: tcp, tls, ws, wss or quic (MQTT only; the others use
    /// TCP). Offenders that do not log in use TCP, or a stream of QUIC, to the same ports
    #[arg(long, value_parser = Carrier::parse, default_value = "tcp")]
    over: Carrier,
    /// The pair's queue is durable and its messages persistent
    #[arg(long)]
    durable: bool,
    /// The pair's messages a second
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// Bytes of the pair's bodies
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// How often the pair runs with each offender, and as often without
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// How long the pair publishes in each run
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Directory for the broker's data while it runs
    #[arg(long)]
    data: Option<PathBuf>,
    /// Write the figures (JSON) to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the table (Markdown) to this file too
    #[arg(long)]
    markdown: Option<PathBuf>,
}

/// The pair runs this long before it is measured.
const WARM_UP: Duration = Duration::from_millis(500);
/// After this long the measurement begins, even if the offender has not reached its state.
const IN_PLACE_TIMEOUT: Duration = Duration::from_secs(5);
/// In the last round: how long to wait for the broker to disconnect clients that make it wait.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often resident memory is read.
const RSS_TICK: Duration = Duration::from_millis(20);
/// Maximum unacknowledged deliveries and unconfirmed publishes of the pair.
const WINDOW: u16 = 100;
/// The niceness of an offender's threads.
const OFFENDER_NICE: i32 = 10;

/// One run of the pair.
#[derive(Debug)]
pub(crate) struct Observed {
    report: Report,
    rss_peak_bytes: u64,
    offence: Outcome,
}

/// Runs the measurement. Returns whether the pair lost nothing and the broker survived every offender.
///
/// # Errors
/// The options contradict each other, or a file cannot be written. A broker that fails is reported in the table.
pub(crate) fn hostile(options: &HostileOptions) -> anyhow::Result<bool> {
    ensure!(
        options.seconds > 0.0 && options.rounds > 0 && options.rate > 0.0,
        "--seconds, --rounds and --rate are above 0"
    );
    ensure!(options.protocol != Protocol::Nats, "Gatepost does not speak NATS");
    ensure!(
        !options.over.quic || options.protocol.is_mqtt(),
        "QUIC carries MQTT only"
    );
    let kind = Kind::Gatepost {
        io_threads: options.io_threads,
    };
    let program = kind.find(options.gatepost.as_deref())?;
    let settings = Settings {
        carrier: options.over,
        ..Settings::default()
    };
    let peer = Peer {
        kind,
        program,
        settings,
    };
    ensure!(peer.program.is_some(), "there is no gatepost; give --gatepost");
    let base = options.data.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::Builder::new().prefix("gatepost-bench-").tempdir_in(base)?;
    let mut hostility = Hostility::new(machine(), &peer, options);
    let progress = Progress::new();
    let all = <Offender as clap::ValueEnum>::value_variants();
    let chosen = if options.offenders.is_empty() {
        all
    } else {
        &options.offenders
    };
    for offender in chosen.iter().filter(|offender| offender.is_possible_over(options.over)) {
        let mut row = Row::new(*offender);
        for round in 1..=options.rounds {
            progress.say(&format!("{}, round {round} of {}", offender.name(), options.rounds));
            let is_last = round == options.rounds;
            for with in [Some(*offender), None] {
                let observed = observe(options, &peer, directory.path(), with, is_last);
                row.add(with.is_some(), observed);
            }
        }
        progress.say(&row.line());
        hostility.rows.push(row);
    }
    progress.done();
    let markdown = hostility.markdown();
    print!("{markdown}");
    if let Some(path) = &options.markdown {
        std::fs::write(path, &markdown).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&hostility)? + "\n";
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(hostility.rows.iter().all(|row| row.failures.is_empty()))
}

/// One run of the pair against a fresh broker, with an offender or without.
fn observe(
    options: &HostileOptions,
    peer: &Peer,
    base: &Path,
    offender: Option<Offender>,
    is_last: bool,
) -> anyhow::Result<Observed> {
    let directory = tempfile::tempdir_in(base)?;
    let broker = peer.start(directory.path())?;
    let endpoints = [
        broker.endpoint(Protocol::Amqp)?,
        broker.endpoint(Protocol::Mqtt)?,
        broker.endpoint(Protocol::Stomp)?,
    ];
    let seconds = Duration::from_secs_f64(options.seconds);
    let scene = Scene::new(endpoints, WARM_UP + seconds);
    let done = AtomicBool::new(false);
    let (report, rss_peak_bytes) = thread::scope(|scope| {
        let rss = scope.spawn(|| rss_peak_bytes(broker.pid, &done));
        let offence = offender.map(|offender| {
            spawn(scope, {
                let scene = &scene;
                move || offender.offend(scene)
            })
        });
        if offence.is_some() {
            scene.await_in_place(IN_PLACE_TIMEOUT);
        }
        let report = run_pair(options, &broker, WARM_UP).and_then(|_| run_pair(options, &broker, seconds));
        if is_last && report.is_ok() && offender.is_some_and(Offender::waits) {
            scene.await_settled(PATIENCE);
        }
        scene.stop();
        let offended = offence.is_none_or(|offence| offence.join().is_ok());
        let alive = connect::idle(scene.endpoint(Protocol::Mqtt), 0);
        done.store(true, SeqCst);
        let rss = rss.join().unwrap_or_default();
        let report = report?;
        alive.context("the broker does not answer any more")?.close();
        ensure!(offended, "the offender failed");
        Ok((report, rss))
    })?;
    broker.stop()?;
    Ok(Observed {
        report,
        rss_peak_bytes,
        offence: scene.outcome(),
    })
}

/// Runs the well-behaved pair. Fails unless every message came once, in order and whole.
fn run_pair(options: &HostileOptions, broker: &Running, duration: Duration) -> anyhow::Result<Report> {
    let endpoint = broker.endpoint(options.protocol)?;
    let mut plan = Plan::new(endpoint.clone(), endpoint);
    plan.size = options.size;
    plan.count = u64::MAX;
    plan.duration = Some(duration);
    plan.rate = Some(options.rate);
    plan.qos = 1;
    (plan.confirm, plan.ack, plan.prefetch) = (true, AckMode::Each, WINDOW);
    plan.window = u64::from(WINDOW);
    plan.durable = options.durable;
    plan.pid = Some(broker.pid);
    let report = run::run(&plan)?;
    report.ensure_clean()?;
    Ok(report)
}

/// Runs an offender in a thread of lower priority.
fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() + Send + 'scope,
) -> ScopedJoinHandle<'scope, ()> {
    scope.spawn(|| {
        // On Linux, niceness belongs to a thread, and the threads it starts inherit it. If it cannot be changed, it
        // stays.
        let _ = rustix::process::setpriority_process(None, OFFENDER_NICE);
        work();
    })
}

/// Samples the resident memory of a process until `done`. Returns the maximum.
fn rss_peak_bytes(pid: u32, done: &AtomicBool) -> u64 {
    let mut peak = 0;
    while !done.load(SeqCst) {
        peak = meter::resident_bytes(pid).max(peak);
        thread::sleep(RSS_TICK);
    }
    peak
}
