//! The results of a run, for people and for programs.

use crate::latency::Percentiles;
use crate::meter::Usage;
use crate::plan::{Phase, Protocol};
use crate::verify::Verdict;
use anyhow::ensure;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The outcome of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) publish_protocol: Protocol,
    pub(crate) consume_protocol: Protocol,
    pub(crate) phase: Phase,
    pub(crate) size_bytes: usize,
    pub(crate) publishers: usize,
    pub(crate) consumers: usize,
    pub(crate) published: u64,
    pub(crate) confirmed: u64,
    pub(crate) refused: u64,
    pub(crate) published_per_second: f64,
    /// Deliveries of all consumers together.
    pub(crate) delivered_per_second: f64,
    pub(crate) verdict: Verdict,
    /// Whether every message was published, confirmed if required, and came once, in order and whole.
    pub(crate) clean: bool,
    /// From the scheduled send time to the consumer's read; absent if the messages were in a backlog.
    pub(crate) latency: Option<Percentiles>,
    /// From the scheduled send time to the broker's confirm; only for paced publishers.
    pub(crate) confirm_latency: Option<Percentiles>,
    /// From the start of the run, for a drain from the first connection, to the first delivery.
    pub(crate) first_delivery_ms: Option<f64>,
    pub(crate) broker: Option<BrokerCost>,
    /// Processor time of the generator per published message. If it is high, the generator was measured and not the
    /// broker.
    pub(crate) generator_cpu_us_per_message: f64,
    pub(crate) failure: Option<String>,
}

/// The cost to the broker's process and its descendants.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct BrokerCost {
    /// Per published message, or per consumed one in a drain.
    pub(crate) cpu_us_per_message: f64,
    pub(crate) cpu_us_per_delivery: f64,
    pub(crate) rss_bytes_before: u64,
    pub(crate) disk_bytes_per_message: f64,
    pub(crate) write_call_bytes_per_message: f64,
    pub(crate) usage: Usage,
    /// Resident memory per idle connection of this run.
    pub(crate) rss_bytes_per_idle_connection: Option<f64>,
}

impl Report {
    /// Checks that every message was confirmed and came once, in order and whole, as the plan demands. Figures of other
    /// runs must not be used.
    ///
    /// # Errors
    /// What was wrong.
    pub(crate) fn ensure_clean(&self) -> anyhow::Result<()> {
        ensure!(
            self.clean,
            "{}; {}; {} published, {} confirmed, {} refused",
            self.failure.as_deref().unwrap_or("not clean"),
            self.verdict,
            self.published,
            self.confirmed,
            self.refused
        );
        Ok(())
    }
}

impl BrokerCost {
    /// Processor time per message spent in user space.
    pub(crate) fn user_us_per_message(&self) -> f64 {
        self.cpu_us_per_message - self.kernel_us_per_message()
    }
    /// Processor time per message spent in the kernel: the exact total, divided in the proportion of the ticks.
    pub(crate) fn kernel_us_per_message(&self) -> f64 {
        let ticks = self.usage.user_ns + self.usage.kernel_ns;
        if ticks == 0 {
            return 0.0;
        }
        self.cpu_us_per_message * self.usage.kernel_ns as f64 / ticks as f64
    }
}

pub(crate) const MIB: f64 = 1024.0 * 1024.0;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.published > 0 {
            write!(
                f,
                "published  {} messages of {} bytes, ",
                self.published, self.size_bytes
            )?;
            writeln!(f, "{:.0}/s, {} confirmed", self.published_per_second, self.confirmed)?;
        }
        if self.phase != Phase::Fill && self.verdict != Verdict::default() {
            writeln!(f, "delivered  {:.0}/s; {}", self.delivered_per_second, self.verdict)?;
        }
        if let Some(latency) = &self.latency {
            writeln!(
                f,
                "latency    p50 {:.0} µs, p90 {:.0}, p99 {:.0}, p99.9 {:.0}, max {:.0}",
                latency.p50_us, latency.p90_us, latency.p99_us, latency.p999_us, latency.max_us
            )?;
        }
        if let Some(latency) = &self.confirm_latency {
            writeln!(
                f,
                "confirms   p50 {:.0} µs, p90 {:.0}, p99 {:.0}, p99.9 {:.0}, max {:.0}",
                latency.p50_us, latency.p90_us, latency.p99_us, latency.p999_us, latency.max_us
            )?;
        }
        if let Some(cost) = &self.broker {
            writeln!(
                f,
                "broker     {:.3} µs of processor a message ({:.3} user, {:.3} kernel); RSS {:.1} MiB (peak {:.1}); written {:.0} bytes a message",
                cost.cpu_us_per_message,
                cost.user_us_per_message(),
                cost.kernel_us_per_message(),
                cost.usage.rss_bytes as f64 / MIB,
                cost.usage.rss_peak_bytes as f64 / MIB,
                cost.disk_bytes_per_message
            )?;
            if let Some(bytes) = cost.rss_bytes_per_idle_connection {
                writeln!(f, "idle       {bytes:.0} bytes of RSS a connection")?;
            }
        }
        if self.published > 0 || self.verdict.received > 0 {
            writeln!(
                f,
                "generator  {:.3} µs of processor a message",
                self.generator_cpu_us_per_message
            )?;
        }
        match &self.failure {
            Some(failure) => write!(f, "FAILED     {failure}"),
            None if self.clean => write!(f, "OK"),
            None => write!(f, "FAILED     not every message came once, in order and whole"),
        }
    }
}
