//! The slow-consumer experiment: a publisher at a fixed rate into a durable queue, and a consumer that first keeps up,
//! then is slow, then stuck, then resumes. Meanwhile the publisher's rate, its confirms, and the broker's memory must
//! not change.
//!
//! ```text
//! publisher   |===================== fixed rate =====================|
//! consumer    | keeps up  | a tenth   |  stuck    |  as fast as it can ... until all is there
//! samples     ''''''''''''''''''''''''''''''''''''''''''''''''''''''''''''''' every 250 ms
//! ```

use super::plot::{Line, Panel, Phase as Band, Plot};
use super::way::{Load, Way};
use crate::compare::peer::{Running, tree_disk_bytes};
use crate::connect::{self, Connected};
use crate::latency::{Percentiles, Recorder};
use crate::meter::resident_bytes;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::report::MIB;
use crate::run;
use crate::shared::Shared;
use crate::verify::{Ledger, Verdict};
use crate::wire::Sink;
use anyhow::{Context, bail};
use serde::Serialize;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// The results of one broker.
#[derive(Debug, Serialize)]
pub(crate) struct Slow {
    pub(crate) name: &'static str,
    pub(crate) rate: f64,
    pub(crate) size: usize,
    pub(crate) phases: Vec<Stretch>,
    /// From the publisher's last message to the consumer's.
    pub(crate) caught_up_after_s: f64,
    pub(crate) verdict: Verdict,
    /// Whether all messages were confirmed and arrived.
    pub(crate) whole: bool,
    pub(crate) samples: Vec<Sample>,
}

/// One phase of the consumer.
#[derive(Debug, Serialize)]
pub(crate) struct Stretch {
    #[serde(flatten)]
    pub(crate) band: Band,
    pub(crate) published_per_second: f64,
    pub(crate) received_per_second: f64,
    pub(crate) confirm: Percentiles,
    pub(crate) rss_max_bytes: u64,
    pub(crate) disk_bytes_at_end: u64,
}

/// The values of one interval of 250 ms.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) at_s: f64,
    /// Confirmed messages a second.
    pub(crate) published_per_second: f64,
    pub(crate) received_per_second: f64,
    /// Messages that are confirmed and not consumed.
    pub(crate) waiting: u64,
    /// p99 of the interval's confirms; `None` if there were none.
    pub(crate) confirm_p99_us: Option<f64>,
    pub(crate) rss_bytes: u64,
    pub(crate) disk_bytes: u64,
}

/// The consumer's speed in a phase.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gait {
    Free,
    /// This many messages a second.
    Paced(f64),
    Stuck,
}

impl Gait {
    fn at(at_s: f64, phase_s: f64, rate: f64) -> Self {
        match (at_s / phase_s) as usize {
            1 => Self::Paced(rate / 10.0),
            2 => Self::Stuck,
            _ => Self::Free,
        }
    }
}

const PHASES: [&str; 4] = ["keeps up", "a tenth of the rate", "stuck", "resumes"];
const SAMPLE: Duration = Duration::from_millis(250);
/// How often the consumer checks for its next phase.
const TICK: Duration = Duration::from_millis(20);
/// After this long without a message, the missing ones count as lost.
const CATCH_UP_STALL: Duration = Duration::from_secs(20);
/// Bytes that a fast consumer reads at once, and that a slow one reads in addition to one body.
const READ_BYTES: usize = 256 * 1024;
const FRAMES_BYTES: usize = 128;
/// A publisher that the broker does not read for longer than this is stuck.
const HELD_BACK: Duration = Duration::from_secs(60);

/// Runs the experiment.
///
/// # Errors
/// The broker does not start, closes a connection, or does not confirm. Missing messages are in the verdict.
pub(crate) fn slow(
    way: &Way,
    load: Load,
    rate: f64,
    phase_s: f64,
    directory: &Path,
    progress: &mut Progress,
) -> anyhow::Result<Slow> {
    let broker = way.peer.start(directory)?;
    let span = Duration::from_secs_f64(phase_s * PHASES.len() as f64);
    let mut plan = way.paced(&broker, load, rate, span)?;
    plan.stall = HELD_BACK;
    let stage = Stage {
        phase_s,
        rate,
        begun: OnceLock::new(),
        received: AtomicU64::new(0),
        over: AtomicBool::new(false),
    };
    let mut watch = Watch::new(&stage, &broker, directory);
    let (report, consumed) = thread::scope(|scope| {
        let consumer = scope.spawn(|| consume(&plan, &stage));
        let report = run::run_watched(&plan, &mut |shared| watch.look(shared));
        let due = report.as_ref().map_or(0, |report| report.published);
        watch.catch_up(due, || consumer.is_finished(), progress);
        stage.over.store(true, Relaxed);
        (report, consumer.join())
    });
    let report = report?;
    let Ok(ledger) = consumed else {
        bail!("the consumer failed")
    };
    let verdict = ledger?.close(&[report.published]);
    broker.stop()?;
    let confirmed = report.failure.is_none() && report.confirmed == report.published;
    Ok(Slow {
        name: way.name,
        rate,
        size: load.size,
        phases: stretches(&watch.samples, phase_s, &mut watch.confirms),
        caught_up_after_s: watch.caught_up_after_s,
        whole: confirmed && verdict.is_clean(),
        verdict,
        samples: watch.samples,
    })
}

/// State shared by publisher, consumer and watch.
#[derive(Debug)]
struct Stage {
    phase_s: f64,
    rate: f64,
    /// Set when the publisher has begun.
    begun: OnceLock<Instant>,
    received: AtomicU64,
    over: AtomicBool,
}

impl Stage {
    fn at_s(&self) -> f64 {
        self.begun.get().map_or(0.0, |begun| begun.elapsed().as_secs_f64())
    }

    fn gait(&self) -> Gait {
        Gait::at(self.at_s(), self.phase_s, self.rate)
    }
}

/// The consumer. It blocks, because it is meant to be slow.
fn consume(plan: &Plan, stage: &Stage) -> anyhow::Result<Ledger> {
    // The queue exists once the publisher does.
    while stage.begun.get().is_none() {
        if stage.over.load(Relaxed) {
            bail!("the publisher never began");
        }
        thread::sleep(TICK);
    }
    let mut tally = Tally {
        ledger: Ledger::new(plan.run, plan.publishers),
    };
    let Connected {
        mut stream,
        mut wire,
        rest: mut input,
    } = connect::consumer(plan, 0)?;
    stream.set_read_timeout(Some(TICK))?;
    let mut buffer = vec![0; READ_BYTES];
    let mut answers = Vec::new();
    // When a paced consumer may take its next message.
    let mut next = Instant::now();
    while !stage.over.load(Relaxed) {
        let gait = stage.gait();
        if gait == Gait::Stuck || (gait != Gait::Free && next > Instant::now()) {
            thread::sleep(TICK.min(Duration::from_millis(1)));
            continue;
        }
        let room = if gait == Gait::Free {
            READ_BYTES
        } else {
            plan.size + FRAMES_BYTES
        };
        match stream.read(&mut buffer[..room.min(READ_BYTES)]) {
            Ok(0) => bail!("the broker closed the consumer's connection"),
            Ok(read) => input.extend_from_slice(&buffer[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("the consumer's connection broke"),
        }
        let before = tally.ledger.received();
        input.drain(..wire.parse(&input, &mut answers, &mut tally)?);
        stream.write_all(&answers).context("cannot acknowledge")?;
        answers.clear();
        stage.received.store(tally.ledger.received(), Relaxed);
        if let Gait::Paced(rate) = gait {
            let taken = tally.ledger.received() - before;
            next = next.max(Instant::now() - TICK) + Duration::from_secs_f64(taken as f64 / rate);
        }
    }
    Connected {
        stream,
        wire,
        rest: input,
    }
    .close();
    Ok(tally.ledger)
}

struct Tally {
    ledger: Ledger,
}

impl Sink for Tally {
    fn message(&mut self, body: &[u8]) {
        self.ledger.enter(body);
    }

    fn confirmed(&mut self, _: u64) {}

    fn refused(&mut self, _: u64) {}
}

/// Takes the samples.
struct Watch<'a> {
    stage: &'a Stage,
    pid: u32,
    directory: &'a Path,
    samples: Vec<Sample>,
    /// Time, published and received counts at the last sample.
    before: (f64, u64, u64),
    /// Confirms of each phase.
    confirms: Vec<Recorder>,
    caught_up_after_s: f64,
}

impl<'a> Watch<'a> {
    fn new(stage: &'a Stage, broker: &Running, directory: &'a Path) -> Self {
        Self {
            stage,
            pid: broker.pid,
            directory,
            samples: Vec::new(),
            before: (0.0, 0, 0),
            confirms: PHASES.iter().map(|_| Recorder::new()).collect(),
            caught_up_after_s: 0.0,
        }
    }

    fn look(&mut self, shared: &Shared) {
        if shared.published() > 0 {
            self.stage.begun.get_or_init(Instant::now);
            self.sample(shared.confirmed(), Some(shared));
        }
    }

    /// Takes further samples after the publisher is done.
    fn catch_up(&mut self, published: u64, is_over: impl Fn() -> bool, progress: &mut Progress) {
        let begun = Instant::now();
        let (mut moved, mut moved_at) = (0, begun);
        loop {
            let received = self.stage.received.load(Relaxed);
            if received != moved {
                (moved, moved_at) = (received, Instant::now());
            }
            self.sample(published, None);
            if received >= published || moved_at.elapsed() > CATCH_UP_STALL || is_over() {
                break;
            }
            progress.wait(|| format!("the consumer catches up, {} to go", published.saturating_sub(received)));
            thread::sleep(TICK);
        }
        self.caught_up_after_s = begun.elapsed().as_secs_f64();
    }

    fn sample(&mut self, published: u64, shared: Option<&Shared>) {
        let at_s = self.stage.at_s();
        let span_s = at_s - self.before.0;
        if span_s < SAMPLE.as_secs_f64() {
            return;
        }
        let received = self.stage.received.load(Relaxed);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / span_s;
        let mut part = Recorder::new();
        if let Some(mut latencies) = shared.and_then(Shared::confirm_latencies) {
            std::mem::swap(&mut part, &mut latencies);
        }
        let phase = ((at_s / self.stage.phase_s) as usize).min(PHASES.len() - 1);
        let confirm_p99_us = (!part.is_empty()).then(|| part.percentiles().p99_us);
        self.confirms[phase].merge(&mut part);
        self.samples.push(Sample {
            at_s,
            published_per_second: rate(published, self.before.1),
            received_per_second: rate(received, self.before.2),
            waiting: published.saturating_sub(received),
            confirm_p99_us,
            rss_bytes: resident_bytes(self.pid),
            disk_bytes: tree_disk_bytes(self.directory),
        });
        self.before = (at_s, published, received);
    }
}

/// Groups the samples by phase. The last phase lasts until the consumer has caught up; the publisher's rate counts
/// until the publisher ends.
fn stretches(samples: &[Sample], phase_s: f64, confirms: &mut [Recorder]) -> Vec<Stretch> {
    let end_s = samples.last().map_or(0.0, |sample| sample.at_s);
    let mut stretches = Vec::new();
    for (place, (name, confirms)) in PHASES.iter().zip(confirms).enumerate() {
        let from_s = place as f64 * phase_s;
        let published_to_s = from_s + phase_s;
        let is_last = place + 1 == PHASES.len();
        let within: Vec<&Sample> = samples
            .iter()
            .filter(|sample| sample.at_s >= from_s && (is_last || sample.at_s < published_to_s))
            .collect();
        let mean = |of: fn(&Sample) -> f64, to_s: f64| {
            let values = within.iter().filter(|sample| sample.at_s <= to_s);
            let values: Vec<f64> = values.map(|sample| of(sample)).collect();
            values.iter().sum::<f64>() / values.len().max(1) as f64
        };
        let to_s = if is_last {
            end_s.max(published_to_s)
        } else {
            published_to_s
        };
        stretches.push(Stretch {
            band: Band {
                name: (*name).to_owned(),
                from_s,
                to_s,
            },
            published_per_second: mean(|sample| sample.published_per_second, published_to_s),
            received_per_second: mean(|sample| sample.received_per_second, to_s),
            confirm: confirms.percentiles(),
            rss_max_bytes: within.iter().map(|sample| sample.rss_bytes).max().unwrap_or_default(),
            disk_bytes_at_end: within.last().map_or(0, |sample| sample.disk_bytes),
        });
    }
    stretches
}

/// All brokers' experiments on one page.
pub(crate) fn plot(runs: &[Slow]) -> Plot {
    let panel = |title: &str, of: fn(&Sample) -> Option<f64>| Panel {
        title: title.to_owned(),
        lines: runs
            .iter()
            .enumerate()
            .map(|(who, run)| Line {
                who,
                points: run.samples.iter().map(|sample| (sample.at_s, of(sample))).collect(),
            })
            .collect(),
    };
    let first = runs.first();
    let rate = first.map_or(0.0, |run| run.rate);
    let size = first.map_or(0, |run| run.size);
    let longest = runs.iter().max_by(|one, other| {
        let end = |run: &Slow| run.phases.last().map_or(0.0, |stretch| stretch.band.to_s);
        end(one).total_cmp(&end(other))
    });
    Plot {
        title: format!(
            "A consumer that is slow, then stuck, beside a publisher of {rate:.0} messages/s of {size} bytes"
        ),
        axis: "seconds",
        phases: longest.map_or_else(Vec::new, |run| {
            run.phases.iter().map(|stretch| stretch.band.clone()).collect()
        }),
        legend: runs.iter().map(|run| run.name.to_owned()).collect(),
        panels: vec![
            panel("Confirmed publishes, messages/s", |sample| {
                Some(sample.published_per_second)
            }),
            panel("Waiting in the queue, messages", |sample| Some(sample.waiting as f64)),
            panel("Publish to confirm, p99 of each 250 ms, ms", |sample| {
                Some(sample.confirm_p99_us? / 1000.0)
            }),
            panel("Resident memory, MiB", |sample| Some(sample.rss_bytes as f64 / MIB)),
            panel("Directory, MiB", |sample| Some(sample.disk_bytes as f64 / MIB)),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_consumer_slows_down_gets_stuck_and_resumes_for_good() {
        let gaits = [0.0, 9.9, 10.0, 20.0, 29.9, 30.0, 99.0].map(|at_s| Gait::at(at_s, 10.0, 3000.0));
        let (free, slow, stuck) = (Gait::Free, Gait::Paced(300.0), Gait::Stuck);
        assert_eq!(gaits, [free, free, slow, stuck, stuck, free, free]);
    }

    #[test]
    fn samples_fall_into_their_phases_and_the_last_one_lasts_until_all_is_there() {
        let sample = |at_s: f64, published: f64, rss_bytes: u64| Sample {
            at_s,
            published_per_second: published,
            received_per_second: 2.0 * published,
            waiting: 0,
            confirm_p99_us: None,
            rss_bytes,
            disk_bytes: 10 * rss_bytes,
        };
        let samples = [
            sample(0.5, 100.0, 1),
            sample(1.5, 200.0, 3),
            sample(1.9, 400.0, 2),
            sample(3.5, 80.0, 7),
            sample(6.0, 0.0, 5),
        ];
        let mut confirms: Vec<Recorder> = PHASES.iter().map(|_| Recorder::new()).collect();
        confirms[1].record(2_000_000);
        let seen = stretches(&samples, 1.0, &mut confirms);
        let published: Vec<f64> = seen.iter().map(|stretch| stretch.published_per_second).collect();
        assert_eq!(published, [100.0, 300.0, 0.0, 80.0]);
        let memory: Vec<u64> = seen.iter().map(|stretch| stretch.rss_max_bytes).collect();
        assert_eq!(memory, [1, 3, 0, 7]);
        assert_eq!((seen[1].disk_bytes_at_end, seen[3].disk_bytes_at_end), (20, 50));
        assert_eq!((seen[3].band.from_s, seen[3].band.to_s), (3.0, 6.0));
        assert!((seen[1].confirm.p99_us - 2000.0).abs() < 5.0);
    }
}
