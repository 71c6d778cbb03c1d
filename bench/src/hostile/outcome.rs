//! The figures of the runs with and without each offender, and their output.

use super::line::name;
use super::offender::Offender;
use super::{HostileOptions, Observed};
use crate::compare::peer::Peer;
use crate::compare::table::{Cell, Machine, figure};
use crate::plan::Protocol;
use crate::report::MIB;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// All results.
#[derive(Debug, Serialize)]
pub(crate) struct Hostility {
    machine: Machine,
    broker: String,
    version: Option<String>,
    /// The protocol of the well-behaved pair.
    protocol: Protocol,
    durable: bool,
    rate: f64,
    size_bytes: usize,
    rounds: usize,
    seconds: f64,
    pub(crate) rows: Vec<Row>,
}

/// The results of one offender and of the pair beside it.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    offender: Offender,
    with: Figures,
    without: Figures,
    /// Acts of the offender in all rounds.
    acts: u64,
    answers: BTreeMap<String, u64>,
    /// Runs that lost something, or that the broker did not survive.
    pub(crate) failures: Vec<String>,
}

/// The figures of runs of one kind, one value for each run.
#[derive(Debug, Default, Serialize)]
struct Figures {
    p50_us: Cell,
    p99_us: Cell,
    rss_peak_mib: Cell,
    /// Maximum over all runs.
    rss_max_mib: f64,
}

/// Maximum number of answers in the table, the most frequent first. The JSON has all of them.
const ANSWERS_SHOWN: usize = 5;

impl Hostility {
    pub(crate) fn new(machine: Machine, peer: &Peer, options: &HostileOptions) -> Self {
        Self {
            machine,
            broker: peer.name(),
            version: peer.version(),
            protocol: options.protocol,
            durable: options.durable,
            rate: options.rate,
            size_bytes: options.size,
            rounds: options.rounds,
            seconds: options.seconds,
            rows: Vec::new(),
        }
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        let machine = &self.machine;
        let _ = writeln!(
            text,
            "{} {}; {}, {} processors, Linux {}.",
            self.broker,
            self.version.as_deref().unwrap_or("of unknown version"),
            machine.processor,
            machine.processors,
            machine.kernel
        );
        let _ = writeln!(
            text,
            "{} pair{}, {} messages a second of {} bytes; medians of {} runs with and {} without, in turns, of {} s each.\n",
            name(self.protocol),
            if self.durable { ", durable" } else { "" },
            figure(self.rate),
            self.size_bytes,
            self.rounds,
            self.rounds,
            self.seconds
        );
        text.push_str(
            "| Offender | p50 without, µs | with | p99 without, µs | with | ratio | RSS max without, MiB | with | \
             It did, a run | It was answered |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---|\n",
        );
        for row in &self.rows {
            let _ = writeln!(text, "{}", row.markdown(self.rounds));
        }
        let failures: Vec<String> = self
            .rows
            .iter()
            .flat_map(|row| {
                row.failures
                    .iter()
                    .map(|why| format!("- {}: {why}", row.offender.name()))
            })
            .collect();
        if !failures.is_empty() {
            let _ = writeln!(text, "\n### Failures\n\n{}", failures.join("\n"));
        }
        text
    }
}

impl Row {
    pub(crate) fn new(offender: Offender) -> Self {
        Self {
            offender,
            with: Figures::default(),
            without: Figures::default(),
            acts: 0,
            answers: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    /// Adds a run with the offender or without.
    pub(crate) fn add(&mut self, with: bool, observed: anyhow::Result<Observed>) {
        let figures = if with { &mut self.with } else { &mut self.without };
        match observed {
            Ok(observed) => {
                figures.add(&observed);
                self.acts += observed.offence.acts;
                for (answer, count) in observed.offence.answers {
                    *self.answers.entry(answer).or_default() += count;
                }
            }
            Err(error) => {
                let which = if with { "with" } else { "without" };
                self.failures.push(format!("{which}: {error:#}").replace('\n', " "));
            }
        }
    }

    /// A short summary.
    pub(crate) fn line(&self) -> String {
        format!(
            "{}: p99 {} µs without, {} with; {} failures",
            self.offender.name(),
            self.without.p99_us.text(),
            self.with.p99_us.text(),
            self.failures.len()
        )
    }

    fn markdown(&self, rounds: usize) -> String {
        let (with, without) = (&self.with, &self.without);
        let ratio = with.p99_us.median.zip(without.p99_us.median);
        let mut cells = vec![
            self.offender.name(),
            without.p50_us.text(),
            with.p50_us.text(),
            without.p99_us.text(),
            with.p99_us.text(),
            ratio.map_or("–".into(), |(with, without)| figure(with / without)),
            figure(without.rss_max_mib),
            figure(with.rss_max_mib),
            format!("{} {}", whole(self.acts / rounds as u64), self.offender.acts()),
            self.answers(),
        ];
        if !self.failures.is_empty() {
            let failed = format!(" ({} runs FAILED)", self.failures.len());
            cells[0].push_str(&failed);
        }
        format!("| {} |", cells.join(" | "))
    }

    fn answers(&self) -> String {
        let mut answers: Vec<(&String, &u64)> = self.answers.iter().collect();
        answers.sort_by_key(|(answer, count)| (std::cmp::Reverse(**count), *answer));
        let hidden = answers.len().saturating_sub(ANSWERS_SHOWN);
        let shown = answers.iter().take(ANSWERS_SHOWN);
        let mut parts: Vec<String> = shown
            .map(|(answer, count)| format!("{answer} × {}", whole(**count)))
            .collect();
        if hidden > 0 {
            parts.push(format!("{hidden} more"));
        }
        parts.join("; ")
    }
}

impl Figures {
    fn add(&mut self, observed: &Observed) {
        if let Some(latency) = &observed.report.latency {
            self.p50_us.add(latency.p50_us);
            self.p99_us.add(latency.p99_us);
        }
        let rss_mib = observed.rss_peak_bytes as f64 / MIB;
        self.rss_peak_mib.add(rss_mib);
        self.rss_max_mib = self.rss_max_mib.max(rss_mib);
    }
}

/// A number with separated thousands.
fn whole(count: u64) -> String {
    if count < 100 {
        count.to_string()
    } else {
        figure(count as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_the_ratio_and_the_most_frequent_answers() {
        let mut row = Row::new(Offender::Garbage);
        for (with, without) in [(300.0, 100.0), (900.0, 120.0), (360.0, 140.0)] {
            row.with.p99_us.add(with);
            row.without.p99_us.add(without);
        }
        row.acts = 30;
        for (count, answer) in ["f", "e", "d", "c", "b", "a"].into_iter().enumerate() {
            row.answers.insert(answer.into(), 1 + count as u64);
        }
        let text = row.markdown(3);
        assert!(text.contains("| 120 | 360 | 3.00 |"), "{text}");
        assert!(
            text.ends_with("| 10 connections | a × 6; b × 5; c × 4; d × 3; e × 2; 1 more |"),
            "{text}"
        );
        row.add(true, Err(anyhow::anyhow!("it\ndied")));
        assert_eq!(row.failures, ["with: it died"]);
        assert!(row.markdown(3).starts_with("| garbage (1 runs FAILED) |"));
    }
}
