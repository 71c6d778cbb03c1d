//! The cost of updating retained messages again and again, compared with as many messages of the same size for an
//! offline session at the same rate. A broker that logs each update writes about the same amount in both; one that
//! rewrites its retained messages writes all of them each time.
//!
//! ```text
//! retained   start -> each topic updated in turn: many times unpaced, then paced -> SIGKILL -> start -> subscribe, verify each
//! queued     start -> a session subscribes and goes -> the same messages, not retained
//! ```

use super::filling::{SETTLE, fill, scrape};
use super::pass::Syncs;
use super::scrape::Scrape;
use super::way::{Load, Way};
use crate::body::Stamp;
use crate::compare::peer::{Kind, Running, tree_disk_bytes};
use crate::connect::{self, Connected};
use crate::latency::Percentiles;
use crate::meter::{Meter, device_bytes};
use crate::plan::{Phase, Plan};
use crate::progress::Progress;
use crate::run;
use crate::wire::Sink;
use anyhow::{Context, bail, ensure};
use serde::Serialize;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How many updates, and how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Updates {
    pub(crate) topics: usize,
    pub(crate) per_second: f64,
    pub(crate) span: Duration,
}

/// The cost of both ways to publish.
#[derive(Debug, Serialize)]
pub(crate) struct Retained {
    pub(crate) way: &'static str,
    pub(crate) size: usize,
    pub(crate) topics: usize,
    pub(crate) per_second: f64,
    pub(crate) retained: Wear,
    pub(crate) queued: Wear,
    /// Topics whose retained message, after a `kill -9`, was the last confirmed one.
    pub(crate) kept: usize,
}

/// The cost of the paced messages.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Wear {
    pub(crate) messages: u64,
    /// Bytes sent to storage for each message, as the kernel counts for the process: whole dirty pages, which may be
    /// many KiB each.
    pub(crate) written_bytes: f64,
    /// Bytes the device wrote for each message. They are the broker's only if nothing else writes to the device.
    pub(crate) device_bytes: Option<f64>,
    pub(crate) cpu_us: f64,
    pub(crate) confirm: Option<Percentiles>,
    /// Size before the first paced message; the maximum while they came; a moment after the last.
    pub(crate) disk_bytes_before: u64,
    pub(crate) disk_bytes_max: u64,
    pub(crate) disk_bytes_after: u64,
    /// Only if the broker reports it.
    pub(crate) log: Option<LogWear>,
}

/// What a store reports to have written, per message.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct LogWear {
    pub(crate) record_bytes: f64,
    pub(crate) checkpoint_bytes: f64,
    pub(crate) compaction_bytes: f64,
    /// In total.
    pub(crate) checkpoints: f64,
    pub(crate) syncs_per_second: f64,
}

/// Published without pace before anything is counted, so that there is something to reclaim and compact.
const PRIMING_BYTES: u64 = 128 << 20;
/// How often the directory's size is read.
const SAMPLE: Duration = Duration::from_millis(250);
/// Run number of the counted messages, which tells them from the earlier ones.
const COUNTED_RUN: u16 = 2;
/// After this long without a message, the missing ones count as lost.
const SILENCE: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 64 * 1024;

/// Whether a broker can be compared. RabbitMQ keeps retained messages in a table beside its log, and a wildcard does
/// not find them.
pub(crate) fn suits(way: &Way) -> bool {
    way.protocol.is_mqtt() && way.peer.kind != Kind::RabbitMq
}

/// Runs both measurements.
///
/// # Errors
/// The broker does not start or does not confirm all messages. Lost retained messages are in the figures.
pub(crate) fn retained(
    way: &Way,
    load: Load,
    updates: Updates,
    directory: &Path,
    progress: &mut Progress,
) -> anyhow::Result<Retained> {
    progress.say("retained updates");
    let home = directory.join("retained");
    let broker = way.peer.start(&home)?;
    let mut plan = updates.plan(way, &broker, load)?;
    plan.retain = true;
    // Without subscribers.
    plan.consumers = 0;
    let retained = updates.wear(plan.clone(), &broker, &home)?;
    progress.say("killed, starting: are they retained?");
    broker.kill()?;
    let broker = way.peer.start(&home)?;
    plan.consume_from = updates.plan(way, &broker, load)?.consume_from;
    let kept = updates.count_kept(plan)?;
    broker.stop()?;
    progress.say("as many messages for an offline session");
    let home = directory.join("queued");
    let broker = way.peer.start(&home)?;
    let queued = updates.wear(updates.plan(way, &broker, load)?, &broker, &home)?;
    broker.stop()?;
    Ok(Retained {
        way: way.key,
        size: load.size,
        topics: updates.topics,
        per_second: updates.per_second,
        retained,
        queued,
        kept,
    })
}

impl Updates {
    fn plan(&self, way: &Way, broker: &Running, load: Load) -> anyhow::Result<Plan> {
        let messages = (PRIMING_BYTES / load.size.max(1) as u64).max(self.topics as u64);
        let load = Load {
            messages,
            queues: self.topics,
            ..load
        };
        way.plan(broker, load, Phase::Fill)
    }

    /// Number of counted messages: at least one for each topic.
    fn messages(&self) -> u64 {
        ((self.per_second * self.span.as_secs_f64()) as u64).max(self.topics as u64)
    }

    fn wear(&self, plan: Plan, broker: &Running, directory: &Path) -> anyhow::Result<Wear> {
        fill(plan.clone())?;
        thread::sleep(SETTLE);
        let disk_bytes_before = tree_disk_bytes(directory);
        let (mut disk_bytes_max, mut looked) = (disk_bytes_before, Instant::now());
        let told = scrape(broker)?;
        let mut meter = Meter::new(broker.pid);
        let (before, device_before) = (meter.read(), device_bytes(directory));
        let paced = Plan {
            run: COUNTED_RUN,
            count: self.messages(),
            rate: Some(self.per_second),
            // The session already exists.
            consumers: 0,
            ..plan
        };
        let report = run::run_watched(&paced, &mut |_| {
            if looked.elapsed() > SAMPLE {
                looked = Instant::now();
                disk_bytes_max = disk_bytes_max.max(tree_disk_bytes(directory));
            }
        })?;
        ensure!(report.clean, "{}", report.failure.as_deref().unwrap_or("not clean"));
        // Data written a little later belongs to it too.
        thread::sleep(SETTLE);
        let used = meter.read().since(&before);
        let device = device_bytes(directory).zip(device_before);
        let log = LogWear::between(told.as_ref(), scrape(broker)?.as_ref(), &report);
        let disk_bytes_after = tree_disk_bytes(directory);
        let each = report.published.max(1) as f64;
        Ok(Wear {
            messages: report.published,
            written_bytes: used.disk_bytes as f64 / each,
            device_bytes: device.map(|(after, before)| after.saturating_sub(before) as f64 / each),
            cpu_us: used.cpu_ns as f64 / 1000.0 / each,
            confirm: report.confirm_latency,
            disk_bytes_before,
            disk_bytes_max: disk_bytes_max.max(disk_bytes_after),
            disk_bytes_after,
            log,
        })
    }

    /// Counts the topics that have the last counted message.
    fn count_kept(&self, mut plan: Plan) -> anyhow::Result<usize> {
        (plan.phase, plan.consumers, plan.durable) = (Phase::Through, 1, false);
        let lengths = plan.track_lengths(&[self.messages()]);
        let mut last = Last::new(lengths);
        let Connected {
            mut stream,
            mut wire,
            rest: mut input,
        } = connect::consumer(&plan, 0)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let (mut buffer, mut answers) = (vec![0; READ_BYTES], Vec::new());
        loop {
            input.drain(..wire.parse(&input, &mut answers, &mut last)?);
            stream.write_all(&answers).context("cannot acknowledge")?;
            answers.clear();
            if last.kept == self.topics {
                break;
            }
            match stream.read(&mut buffer) {
                Ok(0) => bail!("the broker closed the subscriber's connection"),
                Ok(read) => input.extend_from_slice(&buffer[..read]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) => return Err(error).context("the subscriber's connection broke"),
            }
        }
        Connected {
            stream,
            wire,
            rest: input,
        }
        .close();
        Ok(last.kept)
    }
}

/// Counts the tracks whose last message came.
struct Last {
    /// For each track the number of its last message; `None` once it came.
    due: Vec<Option<u64>>,
    kept: usize,
}

impl Last {
    fn new(lengths: Vec<u64>) -> Self {
        Self {
            due: lengths.into_iter().map(|length| length.checked_sub(1)).collect(),
            kept: 0,
        }
    }
}

impl Sink for Last {
    fn message(&mut self, body: &[u8]) {
        let Some(stamp) = Stamp::read(body).filter(|stamp| stamp.run == COUNTED_RUN) else {
            return;
        };
        if let Some(due) = self.due.get_mut(usize::from(stamp.publisher))
            && *due == Some(stamp.sequence)
        {
            *due = None;
            self.kept += 1;
        }
    }

    fn confirmed(&mut self, _: u64) {}

    fn refused(&mut self, _: u64) {}
}

impl Retained {
    /// How many times as many bytes an update writes as a queued message: on the device, or if that is unknown, by the
    /// process.
    pub(crate) fn times(&self) -> f64 {
        let bytes = |wear: &Wear| wear.device_bytes.unwrap_or(wear.written_bytes);
        bytes(&self.retained) / bytes(&self.queued).max(1.0)
    }
}

impl LogWear {
    fn between(before: Option<&Scrape>, after: Option<&Scrape>, report: &crate::report::Report) -> Option<Self> {
        let (told, tells) = before.zip(after)?;
        let grown = |name| tells.sum(name) - told.sum(name);
        let each = report.published.max(1) as f64;
        Some(Self {
            record_bytes: grown("gatepost_store_record_bytes_written_total") / each,
            checkpoint_bytes: grown("gatepost_store_checkpoint_bytes_written_total") / each,
            compaction_bytes: grown("gatepost_store_compaction_bytes_written_total") / each,
            checkpoints: grown("gatepost_store_checkpoints_total"),
            syncs_per_second: Syncs::between(before, after, report)?.per_second,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_kept_when_its_last_counted_message_comes() {
        let mut last = Last::new(vec![3, 2, 2]);
        let mut send = |publisher, sequence, run| {
            let mut body = vec![0; 24];
            Stamp {
                run,
                publisher,
                sequence,
                sent_ns: 0,
            }
            .write(&mut body);
            last.message(&body);
        };
        send(0, 2, COUNTED_RUN);
        send(0, 2, COUNTED_RUN);
        send(1, 0, COUNTED_RUN);
        send(2, 1, 1);
        send(9, 1, COUNTED_RUN);
        assert_eq!(last.kept, 1, "the others are older, of the priming, or nobody's");
    }
}
