//! One run: connects everything, lets the threads work, watches them and the broker, and evaluates the results.

use crate::connect::{self, Connected};
use crate::latency::{Pace, Recorder};
use crate::meter::{Meter, Usage};
use crate::plan::{Phase, Plan};
use crate::progress::Progress;
use crate::report::{BrokerCost, Report};
use crate::shared::Shared;
use crate::verify::{Ledger, Verdict};
use crate::worker::{Consumer, Publisher, Role, Worker};
use anyhow::Context;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;
use std::time::{Duration, Instant};

/// How often the run is checked.
const TICK: Duration = Duration::from_millis(10);
/// How long the broker may continue after the last message: for acknowledgements on their way, and for duplicates to
/// arrive.
const LINGER: Duration = Duration::from_millis(100);
/// From the last connection to the first paced message.
const PACED_START_NS: u64 = 20_000_000;

/// Runs a plan.
///
/// # Errors
/// Nothing could be measured: the broker is not reachable or refuses. Later failures are in the report.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Report> {
    run_watched(plan, &mut |_| {})
}

/// Runs a plan and calls `look` at every tick.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_watched(plan: &Plan, look: &mut dyn FnMut(&Shared)) -> anyhow::Result<Report> {
    plan.check()?;
    if plan.phase == Phase::Fill {
        connect::prepare_backlog(plan)?;
    }
    let (publishers, consumers) = match plan.phase {
        Phase::Through => (plan.publishers, plan.consumers),
        Phase::Fill => (plan.publishers, 0),
        Phase::Drain => (0, plan.consumers),
    };
    let shared = Shared::new(plan, publishers, consumers)?;
    // In a drain the first message may arrive with the first subscription, so its time begins here.
    let mut watch = Watch::start(plan, &shared);
    let mut workers = (0..plan.threads)
        .map(|thread| Worker::new(&shared, thread, plan.size))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for index in 0..consumers {
        let connected = connect::consumer(plan, index).with_context(|| format!("consumer {index}"))?;
        let ledger = Ledger::new(plan.run, plan.publishers * plan.queues);
        let role = Role::Consumer(Consumer {
            index,
            ledger,
            latencies: Recorder::new(),
            now_ns: 0,
        });
        workers[index % plan.threads].add(connected, role, plan.keep_alive_s)?;
    }
    let ready: Vec<Connected> = (0..publishers)
        .map(|index| connect::publisher(plan, index).with_context(|| format!("publisher {index}")))
        .collect::<anyhow::Result<_>>()?;
    if publishers > 0 {
        watch = Watch::start(plan, &shared);
    }
    for (index, connected) in ready.into_iter().enumerate() {
        let role = Role::Publisher(publisher(plan, index, watch.start_ns));
        // Publishers are assigned after the consumers, so that with two threads each side has its own.
        workers[(index + consumers) % plan.threads].add(connected, role, plan.keep_alive_s)?;
    }
    let roles = thread::scope(|scope| {
        let handles: Vec<_> = workers
            .into_iter()
            .enumerate()
            .map(|(thread, worker)| {
                scope.spawn(move || {
                    pin(plan.pin.map(|first| first + thread));
                    worker.run()
                })
            })
            .collect();
        watch.until_done(plan, &shared, look);
        shared.stop.store(true, SeqCst);
        handles
            .into_iter()
            .flat_map(|handle| handle.join().unwrap_or_default())
            .collect::<Vec<_>>()
    });
    let report = watch.report(plan, &shared, roles);
    if plan.phase != Phase::Fill && !plan.keep {
        connect::clean_up(plan).context("cannot clean up")?;
    }
    Ok(report)
}

/// Keeps the calling thread on one processor.
pub(crate) fn pin(processor: Option<usize>) {
    if let Some(processor) = processor {
        let mut set = rustix::thread::CpuSet::new();
        set.set(processor % rustix::thread::CpuSet::MAX_CPU);
        // If the processor does not exist, the thread stays where it is.
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
}

fn publisher(plan: &Plan, index: usize, start_ns: u64) -> Publisher {
    let deadline_ns = plan
        .duration
        .map_or(u64::MAX, |duration| start_ns + duration.as_nanos() as u64);
    let pace = plan.rate.map_or(Pace::Free, |rate| {
        let per_second = rate / plan.publishers as f64;
        // Publishers take turns.
        let turn_ns = (index as f64 * 1e9 / rate) as u64;
        Pace::Every {
            start_ns: start_ns + PACED_START_NS + turn_ns,
            per_second,
        }
    });
    Publisher {
        index,
        run: plan.run,
        sent: 0,
        end: plan.share(index),
        deadline_ns,
        pace,
        confirmed: plan.is_confirmed(),
        window: if plan.is_confirmed() { plan.window } else { u64::MAX },
        settled: 0,
        refused: 0,
        timed: 0,
        queues: plan.queues as u64,
        body: Publisher::blank(plan.size),
    }
}

/// Watches a run from outside.
#[derive(Debug)]
struct Watch {
    start_ns: u64,
    broker: Option<(Meter, Usage)>,
    own: Meter,
}

impl Watch {
    fn start(plan: &Plan, shared: &Shared) -> Self {
        let measured = |pid| {
            let mut meter = Meter::new(pid);
            let before = meter.read();
            (meter, before)
        };
        Self {
            broker: plan.pid.map(measured),
            own: Meter::new(std::process::id()),
            start_ns: shared.now_ns(),
        }
    }

    /// Returns when all has arrived, or when nothing more can be expected.
    fn until_done(&mut self, plan: &Plan, shared: &Shared, look: &mut dyn FnMut(&Shared)) {
        let mut progress = Progress::new();
        let (mut moved, mut moved_at) = ((0, 0), Instant::now());
        let mut sampled_at = Instant::now();
        loop {
            thread::sleep(TICK);
            look(shared);
            let finished = shared.publishers.iter().all(|count| count.finished.load(SeqCst));
            let due = if plan.phase == Phase::Drain {
                plan.count
            } else {
                shared.published()
            };
            let arrived = if plan.phase == Phase::Fill {
                due
            } else {
                shared.arrived()
            };
            if finished && arrived >= due {
                break;
            }
            if shared.failure().is_some() {
                break;
            }
            let confirmed = shared.confirmed();
            if (shared.published() + confirmed, shared.received()) != moved {
                moved = (shared.published() + confirmed, shared.received());
                moved_at = Instant::now();
            }
            if moved_at.elapsed() > plan.stall {
                let waited = plan.stall.as_secs();
                let what = format!(
                    "{} published, {confirmed} confirmed, {arrived} arrived",
                    shared.published()
                );
                shared.fail(format!("nothing moved for {waited} s: {what}"));
                break;
            }
            if let Some((meter, _)) = &mut self.broker
                && sampled_at.elapsed() > Duration::from_millis(250)
            {
                sampled_at = Instant::now();
                meter.sample_cpu();
                if !meter.is_alive() {
                    shared.fail("the broker's process ended".into());
                    break;
                }
            }
            if plan.progress {
                let shown = if plan.phase == Phase::Fill {
                    shared.published()
                } else {
                    shared.received()
                };
                let copies = if plan.fanout && plan.phase != Phase::Fill {
                    plan.consumers as u64
                } else {
                    1
                };
                let total = plan.duration.is_none().then(|| plan.count.saturating_mul(copies));
                progress.show(shown, total, &self.broker_now());
            }
        }
        progress.done();
        thread::sleep(LINGER);
        // While the threads that did the work still exist.
        self.own.sample_cpu();
    }

    fn broker_now(&mut self) -> String {
        self.broker.as_mut().map_or(String::new(), |(meter, _)| {
            format!(
                "; broker RSS {:.1} MiB",
                meter.read().rss_bytes as f64 / crate::report::MIB
            )
        })
    }

    fn report(mut self, plan: &Plan, shared: &Shared, roles: Vec<(Role, Connected)>) -> Report {
        let broker = self.broker.as_mut().map(|(meter, before)| (meter.read(), *before));
        let own_cpu_ns = self.own.cpu_ns();
        let sent: Vec<u64> = match plan.phase {
            Phase::Drain => (0..plan.publishers).map(|index| plan.share(index)).collect(),
            _ => shared
                .publishers
                .iter()
                .map(|count| count.published.load(Relaxed))
                .collect(),
        };
        let mut ledgers = Vec::new();
        let mut latencies = Recorder::new();
        for (role, connected) in roles {
            if let Role::Consumer(mut consumer) = role {
                latencies.merge(&mut consumer.latencies);
                ledgers.push(consumer.ledger);
            }
            connected.close();
        }
        let verdict = close_books(ledgers, &plan.track_lengths(&sent), plan);
        let published = shared.published();
        let count = |of: fn(&crate::shared::PublisherCount) -> u64| shared.publishers.iter().map(of).sum::<u64>();
        let confirmed = shared.confirmed();
        let refused = count(|publisher| publisher.refused.load(Relaxed));
        let finished_ns = shared
            .publishers
            .iter()
            .map(|count| count.finished_ns.load(Relaxed))
            .max();
        let first_ns = shared
            .consumers
            .iter()
            .map(|count| count.first_ns.load(Relaxed))
            .filter(|first_ns| *first_ns > 0)
            .min();
        let last_ns = shared.consumers.iter().map(|count| count.last_ns.load(Relaxed)).max();
        let per_second = |messages: u64, end_ns: Option<u64>| {
            let seconds = end_ns.unwrap_or_default().saturating_sub(self.start_ns) as f64 / 1e9;
            if seconds > 0.0 { messages as f64 / seconds } else { 0.0 }
        };
        let messages = if plan.phase == Phase::Drain {
            verdict.received
        } else {
            published
        };
        let unwritten = shared.unwritten_bytes.load(Relaxed);
        let failure = shared.failure().map(|why| match unwritten {
            0 => why,
            bytes => format!("{why}; the broker has stopped reading, {bytes} bytes wait for it"),
        });
        let complete = !plan.is_confirmed() || plan.phase == Phase::Drain || (confirmed == published && refused == 0);
        Report {
            publish_protocol: plan.publish_to.protocol,
            consume_protocol: plan.consume_from.protocol,
            phase: plan.phase,
            size_bytes: plan.size.max(crate::body::BODY_BYTES_MIN),
            publishers: plan.publishers,
            consumers: plan.consumers,
            published,
            confirmed,
            refused,
            published_per_second: per_second(published, finished_ns),
            delivered_per_second: per_second(verdict.received, last_ns),
            clean: failure.is_none() && complete && verdict.is_clean(),
            latency: (plan.phase == Phase::Through && verdict.received > 0).then(|| latencies.percentiles()),
            confirm_latency: shared.confirm_latencies().map(|mut latencies| latencies.percentiles()),
            first_delivery_ms: first_ns.map(|first_ns| first_ns.saturating_sub(self.start_ns) as f64 / 1e6),
            broker: broker.map(|(after, before)| BrokerCost::new(after, before, messages, verdict.received)),
            generator_cpu_us_per_message: per_message(own_cpu_ns as f64 / 1000.0, messages),
            verdict,
            failure,
        }
    }
}

impl BrokerCost {
    pub(crate) fn new(after: Usage, before: Usage, messages: u64, deliveries: u64) -> Self {
        let usage = after.since(&before);
        let cpu_us = usage.cpu_ns as f64 / 1000.0;
        Self {
            cpu_us_per_message: per_message(cpu_us, messages),
            cpu_us_per_delivery: per_message(cpu_us, deliveries),
            rss_bytes_before: before.rss_bytes,
            disk_bytes_per_message: per_message(usage.disk_bytes as f64, messages),
            write_call_bytes_per_message: per_message(usage.write_call_bytes as f64, messages),
            usage,
            rss_bytes_per_idle_connection: None,
        }
    }
}

fn per_message(amount: f64, messages: u64) -> f64 {
    if messages == 0 { 0.0 } else { amount / messages as f64 }
}

/// Competing consumers share one ledger, others have one each.
fn close_books(ledgers: Vec<Ledger>, sent: &[u64], plan: &Plan) -> Verdict {
    let mut verdict = Verdict::default();
    if plan.phase == Phase::Fill {
        return verdict;
    }
    if plan.fanout {
        for ledger in ledgers {
            verdict.add(&ledger.close(sent));
        }
        return verdict;
    }
    let merged = ledgers.into_iter().reduce(|mut all, ledger| {
        all.merge(&ledger);
        all
    });
    merged.map_or(verdict, |ledger| ledger.close(sent))
}
