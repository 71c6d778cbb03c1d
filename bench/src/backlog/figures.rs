//! The figures of all backlogs, and their output as tables.

use super::pass::{Pass, Stop, Syncs};
use super::reclaim::{Reclaim, Shrunk};
use super::retained::{Retained, Wear};
use super::slow::Slow;
use super::way::Way;
use crate::compare::broker;
use crate::compare::table::{Broker, Cell, Machine, Table, draw_tables, figure, list_brokers, list_failures};
use crate::latency::Percentiles;
use crate::report::{MIB, Report};
use serde::Serialize;
use std::fmt::Write;

/// All results.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    machine: Machine,
    messages: u64,
    queues: usize,
    /// How many brokers are measured so far, which shows whether a run was interrupted.
    pub(crate) measured: usize,
    brokers: Vec<Broker>,
    tables: Vec<Table>,
    passes: Vec<Pass>,
    settled_early: Vec<Report>,
    reclaims: Vec<Reclaim>,
    retained: Vec<Retained>,
    pub(crate) slow: Vec<Slow>,
    pub(crate) failures: Vec<String>,
}

/// Indices of the tables.
const RATES: usize = 0;
const COSTS: usize = 1;
const BYTES: usize = 2;
const MEMORY: usize = 3;
const SYNCS: usize = 4;
const RESTARTS: usize = 5;
const KEPT: usize = 6;
const LATENCIES: usize = 7;
const RECLAIMED: usize = 8;
const DEEDS: usize = 9;
const RETAINED: usize = 10;

impl Figures {
    pub(crate) fn new(machine: Machine, ways: &[Way], messages: u64, queues: usize) -> Self {
        let table = |title, lower_is_better| Table {
            title,
            lower_is_better,
            rows: Vec::new(),
        };
        let brokers = ways.iter().map(|way| Broker {
            name: way.name.to_owned(),
            ..broker(&way.peer)
        });
        Self {
            machine,
            messages,
            queues,
            measured: 0,
            brokers: brokers.collect(),
            tables: vec![
                table("Messages per second", false),
                table("Processor time of the broker, µs a message", true),
                table("Bytes of a queued message", true),
                table("Memory, MiB", true),
                table("Syncs while filling", true),
                table("Stop and start with the backlog, ms", true),
                table("Confirmed messages that are still there", false),
                table("From publish to confirm, µs", true),
                table("The directory when all is acknowledged", true),
                table("The directory after a purge, the last acknowledgement, a delete", true),
                table("Retained messages, updated again and again", true),
            ],
            passes: Vec::new(),
            settled_early: Vec::new(),
            reclaims: Vec::new(),
            retained: Vec::new(),
            slow: Vec::new(),
            failures: Vec::new(),
        }
    }

    fn cell(&mut self, table: usize, row: &str, place: usize) -> &mut Cell {
        let brokers = self.brokers.len();
        self.tables[table].cell(row, place, brokers)
    }

    pub(crate) fn add_pass(&mut self, place: usize, way: &Way, pass: Pass) {
        let size = bytes(pass.size);
        match pass.stop {
            Stop::Clean => self.add_backlog(place, &pass),
            Stop::Kill => self.add_start(place, &pass, "`kill -9`"),
        }
        let verdict = &pass.drained.verdict;
        let came = pass.filled.confirmed.min(verdict.received);
        let row = match pass.stop {
            Stop::Clean => format!("{size}, over a clean stop"),
            Stop::Kill => format!("{size}, over `kill -9`"),
        };
        let kept = self.cell(KEPT, &row, place);
        kept.add(came as f64);
        if !verdict.is_clean() {
            kept.note(&verdict.to_string());
        }
        // A loss of another broker in a crash is a result. Any other missing or altered message is a failure; for
        // Gatepost a crash is no excuse.
        let is_figure = pass.stop == Stop::Kill && !way.is_gatepost() && verdict.corrupted + verdict.foreign == 0;
        if !pass.is_whole() && !is_figure {
            let why = pass.drained.failure.as_deref().unwrap_or("not whole");
            self.failures.push(format!("{}, {row}: {why}; {verdict}", way.name));
        }
        self.passes.push(pass);
    }

    fn add_backlog(&mut self, place: usize, pass: &Pass) {
        let size = bytes(pass.size);
        let messages = pass.filled.published.max(1) as f64;
        self.cell(RATES, &format!("{size}, filling"), place)
            .add(pass.filled.published_per_second);
        if let Some(cost) = &pass.filled.broker {
            self.cell(COSTS, &format!("{size}, filling"), place)
                .add(cost.cpu_us_per_message);
        }
        if pass.drained.verdict.received > 0 {
            self.cell(RATES, &format!("{size}, emptying after a start"), place)
                .add(pass.drained.delivered_per_second);
            if let Some(cost) = &pass.drained.broker {
                self.cell(COSTS, &format!("{size}, emptying"), place)
                    .add(cost.cpu_us_per_message);
            }
        }
        for (row, value) in [
            ("resident memory grown", pass.rss_growth() / messages),
            ("directory grown", pass.disk_growth() / messages),
            ("written, settled late", pass.written_late()),
        ] {
            self.cell(BYTES, &format!("{size}, {row}"), place).add(value);
        }
        for (row, value) in [
            ("idle", pass.before.rss_bytes),
            ("with the backlog", pass.with_backlog.rss_bytes),
            ("peak while filling", pass.with_backlog.rss_peak_bytes),
            ("started with the backlog", pass.restarted.rss_bytes),
            ("peak of starting and emptying", pass.emptied.rss_peak_bytes),
        ] {
            self.cell(MEMORY, &format!("{size}, {row}"), place)
                .add(value as f64 / MIB);
        }
        if let Some(cached) = pass.with_backlog.cached_bytes {
            let beyond = pass.rss_growth() - cached as f64;
            self.cell(MEMORY, &format!("{size}, grown beyond the bodies it holds"), place)
                .add(beyond / MIB);
        }
        if let Some(syncs) = pass.syncs {
            self.add_syncs(place, pass.size, syncs);
        }
        for (row, value) in [
            ("MiB when one message had gone through", pass.resting_disk_bytes as f64),
            ("MiB with the backlog", pass.with_backlog.disk_bytes as f64),
            ("MiB in the end", pass.reclaimed.disk_bytes as f64),
        ] {
            self.cell(RECLAIMED, &format!("{size}, {row}"), place).add(value / MIB);
        }
        self.add_shrunk(RECLAIMED, format!("{size}, seconds until then"), place, pass.reclaimed);
        self.cell(RESTARTS, &format!("{size}, stopping"), place)
            .add(pass.stop_ms);
        self.add_start(place, pass, "clean stop");
    }

    fn add_start(&mut self, place: usize, pass: &Pass, after: &str) {
        let size = bytes(pass.size);
        self.cell(RESTARTS, &format!("{size}, ready after a {after}"), place)
            .add(pass.ready_ms);
        let first = self.cell(
            RESTARTS,
            &format!("{size}, from there to the first message, after a {after}"),
            place,
        );
        match pass.drained.first_delivery_ms {
            Some(first_ms) => first.add(first_ms),
            None => first.note("nothing came"),
        }
    }

    pub(crate) fn add_settled_early(&mut self, place: usize, report: Report) {
        let size = bytes(report.size_bytes);
        self.cell(RATES, &format!("{size}, publishing and consuming at once"), place)
            .add(report.delivered_per_second);
        if let Some(cost) = &report.broker {
            self.cell(COSTS, &format!("{size}, publishing and consuming at once"), place)
                .add(cost.cpu_us_per_message);
            self.cell(BYTES, &format!("{size}, written, settled early"), place)
                .add(cost.disk_bytes_per_message);
        }
        self.settled_early.push(report);
    }

    pub(crate) fn add_syncs(&mut self, place: usize, size: usize, syncs: Syncs) {
        let size = bytes(size);
        self.cell(SYNCS, &format!("{size}, a second"), place)
            .add(syncs.per_second);
        let each = self.cell(SYNCS, &format!("{size}, messages for each"), place);
        if syncs.count > 0.0 {
            each.add(syncs.messages_each);
        } else {
            each.note("never synced");
        }
        if let Some(mean_ms) = syncs.mean_ms {
            self.cell(SYNCS, &format!("{size}, ms each"), place).add(mean_ms);
        }
    }

    pub(crate) fn add_latency(&mut self, place: usize, mode: &str, rate: f64, latency: Percentiles) {
        for (name, value) in [
            ("p50", latency.p50_us),
            ("p99", latency.p99_us),
            ("p99.9", latency.p999_us),
        ] {
            let row = format!("{mode}, {}/s, {name}", figure(rate));
            self.cell(LATENCIES, &row, place).add(value);
        }
    }

    /// Adds the time until the directory shrank. If it never did, the cell says so.
    fn add_shrunk(&mut self, table: usize, row: String, place: usize, shrunk: Shrunk) {
        let cell = self.cell(table, &row, place);
        cell.add(shrunk.seconds);
        if !shrunk.back {
            cell.note("and larger than before");
        }
    }

    pub(crate) fn add_reclaim(&mut self, place: usize, reclaim: Reclaim) {
        let deed = format!("{}, {}", bytes(reclaim.size), reclaim.deed.name());
        for (row, value) in [
            ("MiB before the backlog", reclaim.resting_disk_bytes as f64 / MIB),
            ("MiB with the backlog", reclaim.filled_disk_bytes as f64 / MIB),
            ("ms until that was done", reclaim.deed_ms),
            ("MiB in the end", reclaim.shrunk.disk_bytes as f64 / MIB),
            ("MiB written meanwhile", reclaim.written_bytes as f64 / MIB),
        ] {
            self.cell(DEEDS, &format!("{deed}: {row}"), place).add(value);
        }
        self.add_shrunk(DEEDS, format!("{deed}: seconds until the end"), place, reclaim.shrunk);
        self.reclaims.push(reclaim);
    }

    pub(crate) fn add_retained(&mut self, place: usize, way: &Way, retained: Retained) {
        let size = bytes(retained.size);
        let mut wears = |of: &str, wear: &Wear| {
            for (row, value) in [
                ("bytes written for each, the process's", wear.written_bytes),
                ("µs of processor for each", wear.cpu_us),
                ("MiB of the directory before", wear.disk_bytes_before as f64 / MIB),
                ("MiB at most", wear.disk_bytes_max as f64 / MIB),
                ("MiB after", wear.disk_bytes_after as f64 / MIB),
            ] {
                self.cell(RETAINED, &format!("{size}, {of}: {row}"), place).add(value);
            }
            if let Some(device_bytes) = wear.device_bytes {
                let row = format!("{size}, {of}: bytes written for each, the device's");
                self.cell(RETAINED, &row, place).add(device_bytes);
            }
            let Some(log) = wear.log else { return };
            for (row, value) in [
                ("bytes of records for each", log.record_bytes),
                ("bytes of checkpoints for each", log.checkpoint_bytes),
                ("bytes of compaction for each", log.compaction_bytes),
                ("checkpoints", log.checkpoints),
                ("syncs a second", log.syncs_per_second),
            ] {
                self.cell(RETAINED, &format!("{size}, {of}: {row}"), place).add(value);
            }
        };
        wears("retained", &retained.retained);
        wears("to an offline session", &retained.queued);
        self.cell(
            RETAINED,
            &format!("{size}, retained: times the bytes of the other"),
            place,
        )
        .add(retained.times());
        let kept = self.cell(RETAINED, &format!("{size}, topics lost over `kill -9`"), place);
        let lost = retained.topics - retained.kept;
        kept.add(lost as f64);
        if lost > 0 && way.is_gatepost() {
            self.failures.push(format!(
                "{}, {size}: {lost} topics lost their last retained message",
                way.name
            ));
        }
        self.retained.push(retained);
    }

    pub(crate) fn add_slow(&mut self, way: &Way, slow: Slow) {
        if !slow.whole {
            self.failures
                .push(format!("{}, slow consumer: {}", way.name, slow.verdict));
        }
        self.slow.push(slow);
    }

    /// Marks each broker that is not installed.
    pub(crate) fn close(&mut self) {
        let absent = |(place, broker): (usize, &Broker)| (!broker.installed).then_some(place);
        for place in self.brokers.iter().enumerate().filter_map(absent) {
            for row in self.tables.iter_mut().flat_map(|table| &mut table.rows) {
                row.cells[place].note("not installed");
            }
        }
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("{}\n", self.machine);
        let _ = writeln!(
            text,
            "{} messages in {}, confirmed and acknowledged one by one.\n",
            figure(self.messages as f64),
            match self.queues {
                1 => "one durable queue or kept session".to_owned(),
                queues => format!("{} durable queues", figure(queues as f64)),
            }
        );
        let present = self.brokers.iter().filter(|broker| broker.installed).count();
        if self.measured < present {
            let _ = writeln!(text, "Not over: {} of {present} are measured.\n", self.measured);
        }
        list_brokers(&mut text, &self.brokers);
        draw_tables(&mut text, &self.brokers, &self.tables);
        self.list_slow(&mut text);
        list_failures(&mut text, &self.failures);
        text
    }

    fn list_slow(&self, text: &mut String) {
        let Some(first) = self.slow.first() else { return };
        let _ = write!(
            text,
            "\n### A slow consumer, then a stuck one, beside a publisher of {} messages a second of {}\n\n\
             |  | consumer | confirmed/s | p50 µs | p99 µs | max µs | RSS max, MiB | directory, MiB |\n\
             |---|---|---:|---:|---:|---:|---:|---:|\n",
            figure(first.rate),
            bytes(first.size)
        );
        for slow in &self.slow {
            for stretch in &slow.phases {
                let cells = [
                    stretch.published_per_second,
                    stretch.confirm.p50_us,
                    stretch.confirm.p99_us,
                    stretch.confirm.max_us,
                    stretch.rss_max_bytes as f64 / MIB,
                    stretch.disk_bytes_at_end as f64 / MIB,
                ]
                .map(figure);
                let _ = writeln!(
                    text,
                    "| {} | {} | {} |",
                    slow.name,
                    stretch.band.name,
                    cells.join(" | ")
                );
            }
            let _ = writeln!(
                text,
                "| {} | {}, {:.1} s after the publisher | | | | | | |",
                slow.name, slow.verdict, slow.caught_up_after_s
            );
        }
    }
}

/// A size as rows name it.
fn bytes(size: usize) -> String {
    if size >= 1024 && size.is_multiple_of(1024) {
        format!("{} KiB", size / 1024)
    } else {
        format!("{size} B")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::peer::Kind;

    fn machine() -> Machine {
        Machine {
            processor: "a processor".into(),
            processors: 2,
            kernel: "6".into(),
        }
    }

    /// Three backlogs that were measured once and then edited: Gatepost's complete after a clean stop, Gatepost's with
    /// one message missing after `kill -9`, and Mosquitto's with all of them missing.
    #[test]
    fn measured_backlogs_become_the_golden_tables_and_what_ours_lost_is_a_failure() {
        let mut ways = Way::all(1, |_: Kind| Ok(Some("/nowhere/broker".into()))).unwrap();
        ways.retain(|way| ["gatepost-amqp", "mosquitto"].contains(&way.key));
        let mut figures = Figures::new(machine(), &ways, 200_000, 1);
        let passes: Vec<Pass> = serde_json::from_str(include_str!("../../fixtures/passes.json")).unwrap();
        for pass in passes {
            let place = ways.iter().position(|way| way.key == pass.way).unwrap();
            figures.add_pass(place, &ways[place], pass);
        }
        figures.close();
        assert_eq!(figures.failures.len(), 1, "{:?}", figures.failures);
        assert!(figures.failures[0].starts_with("Gatepost, AMQP, 1 KiB, over `kill -9`"));
        let golden = include_str!("../../fixtures/passes.md");
        assert_eq!(figures.markdown(), golden, "the tables were:\n{}", figures.markdown());
    }

    #[test]
    fn a_directory_that_stays_larger_is_noted_and_a_lost_retained_message_is_a_failure_of_ours() {
        let mut ways = Way::all(1, |_: Kind| Ok(Some("/nowhere/broker".into()))).unwrap();
        ways.retain(|way| ["gatepost-mqtt", "mosquitto"].contains(&way.key));
        let mut figures = Figures::new(machine(), &ways, 200_000, 1);
        figures.measured = 2;
        let wear = |written_bytes| Wear {
            messages: 60_000,
            written_bytes: 2.0 * written_bytes,
            device_bytes: Some(written_bytes),
            cpu_us: 50.0,
            confirm: None,
            disk_bytes_before: 1 << 20,
            disk_bytes_max: 3 << 20,
            disk_bytes_after: 2 << 20,
            log: None,
        };
        for (place, way) in ways.iter().enumerate() {
            let retained = Retained {
                way: way.key,
                size: 1024,
                topics: 1000,
                per_second: 1000.0,
                retained: wear(6000.0),
                queued: wear(4000.0),
                kept: 999,
            };
            figures.add_retained(place, way, retained);
        }
        let reclaim = Reclaim {
            way: ways[0].key,
            deed: super::super::reclaim::Deed::Delete,
            messages: 200_000,
            size: 1024,
            resting_disk_bytes: 96 << 20,
            filled_disk_bytes: 300 << 20,
            deed_ms: 12.0,
            written_bytes: 1 << 20,
            shrunk: Shrunk {
                seconds: 120.0,
                disk_bytes: 200 << 20,
                back: false,
            },
        };
        figures.add_reclaim(0, reclaim);
        let markdown = figures.markdown();
        for row in [
            "| 1 KiB, retained: times the bytes of the other | 1.50 | 1.50 |",
            "| 1 KiB, topics lost over `kill -9` | 1.00 | 1.00 |",
            "| 1 KiB, deleted: MiB in the end | 200 | – |",
            "| 1 KiB, deleted: seconds until the end | 120 (and larger than before) | – |",
        ] {
            assert!(markdown.contains(row), "{row} is not in\n{markdown}");
        }
        assert_eq!(figures.failures.len(), 1, "{:?}", figures.failures);
        assert!(!markdown.contains("Not over"), "{markdown}");
    }

    #[test]
    fn what_is_not_installed_is_named_so_in_every_row() {
        let mut ways = Way::all(1, |_: Kind| Ok(None)).unwrap();
        ways.truncate(1);
        let mut figures = Figures::new(machine(), &ways, 1, 1);
        figures.cell(RATES, "a row", 0);
        figures.close();
        assert!(figures.markdown().contains("| a row | not installed |"));
    }
}
