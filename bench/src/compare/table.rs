//! The figures of a comparison, and their output.

use serde::Serialize;
use std::fmt::{self, Write};

/// All results of a comparison.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) machine: Machine,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) brokers: Vec<Broker>,
    pub(crate) tables: Vec<Table>,
    /// What failed, by broker and scenario.
    pub(crate) failures: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) kernel: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Broker {
    pub(crate) name: String,
    pub(crate) version: Option<String>,
    pub(crate) installed: bool,
}

/// The rows of one quantity.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    pub(crate) title: &'static str,
    /// Whether lower figures are better.
    pub(crate) lower_is_better: bool,
    pub(crate) rows: Vec<Row>,
}

/// The figures of one scenario, a cell for each broker.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) title: String,
    pub(crate) cells: Vec<Cell>,
}

/// The figures of one broker, one for each round.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Cell {
    pub(crate) values: Vec<f64>,
    /// The median of `values`.
    pub(crate) median: Option<f64>,
    /// Why there is no figure, or a remark about it.
    pub(crate) note: Option<String>,
}

impl Table {
    /// The cell of a row and a broker. A new row is added.
    pub(crate) fn cell(&mut self, row: &str, broker: usize, brokers: usize) -> &mut Cell {
        let place = match self.rows.iter().position(|known| known.title == row) {
            Some(place) => place,
            None => {
                self.rows.push(Row {
                    title: row.to_owned(),
                    cells: vec![Cell::default(); brokers],
                });
                self.rows.len() - 1
            }
        };
        &mut self.rows[place].cells[broker]
    }
}

impl Cell {
    pub(crate) fn add(&mut self, value: f64) {
        self.values.push(value);
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        self.median = Some(median);
    }

    pub(crate) fn note(&mut self, note: &str) {
        self.note = Some(note.to_owned());
    }

    /// The text in a table.
    pub(crate) fn text(&self) -> String {
        match (self.median, &self.note) {
            (Some(median), None) => figure(median),
            (Some(median), Some(note)) => format!("{} ({note})", figure(median)),
            (None, Some(note)) => note.clone(),
            (None, None) => "–".into(),
        }
    }
}

impl Comparison {
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        let machine = &self.machine;
        let _ = writeln!(text, "{machine}");
        let _ = writeln!(
            text,
            "Medians of {} round(s) of {} s each.\n",
            self.rounds, self.seconds
        );
        list_brokers(&mut text, &self.brokers);
        draw_tables(&mut text, &self.brokers, &self.tables);
        list_failures(&mut text, &self.failures);
        text
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} processors, Linux {}.",
            self.processor, self.processors, self.kernel
        )
    }
}

/// The measured brokers as a list.
pub(crate) fn list_brokers(text: &mut String, brokers: &[Broker]) {
    for broker in brokers {
        let version = broker.version.as_deref().unwrap_or("version unknown");
        let _ = writeln!(
            text,
            "- {}: {}",
            broker.name,
            if broker.installed { version } else { "not installed" }
        );
    }
}

/// The tables that have figures, with a column for each broker.
pub(crate) fn draw_tables(text: &mut String, brokers: &[Broker], tables: &[Table]) {
    for table in tables.iter().filter(|table| !table.rows.is_empty()) {
        let better = if table.lower_is_better {
            "lower is better"
        } else {
            "higher is better"
        };
        let _ = write!(text, "\n### {} ({better})\n\n|  |", table.title);
        for broker in brokers {
            let _ = write!(text, " {} |", broker.name);
        }
        let _ = write!(text, "\n|---|{}\n", "---:|".repeat(brokers.len()));
        for row in &table.rows {
            let cells: Vec<String> = row.cells.iter().map(Cell::text).collect();
            let _ = writeln!(text, "| {} | {} |", row.title, cells.join(" | "));
        }
    }
}

/// The failures, if there are any.
pub(crate) fn list_failures(text: &mut String, failures: &[String]) {
    if !failures.is_empty() {
        text.push_str("\n### Failures\n\n");
        for failure in failures {
            let _ = writeln!(text, "- {}", failure.replace('\n', " "));
        }
    }
}

/// A number with three significant digits and separated thousands.
pub(crate) fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        0.0 => 0,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 && whole.as_bytes()[at - 1].is_ascii_digit() {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_digits_that_count() {
        for (value, text) in [
            (0.0, "0"),
            (0.254, "0.25"),
            (9.876, "9.88"),
            (12.34, "12.3"),
            (999.6, "1,000"),
            (1234567.0, "1,234,567"),
        ] {
            assert_eq!(figure(value), text);
        }
    }

    #[test]
    fn a_cell_shows_the_median_of_its_rounds() {
        let mut cell = Cell::default();
        assert_eq!(cell.text(), "–");
        for value in [5.0, 1.0, 3.0] {
            cell.add(value);
        }
        assert_eq!(cell.text(), "3.00");
        cell.add(4.0);
        assert_eq!(cell.text(), "3.50");
    }

    #[test]
    fn the_table_names_what_is_not_installed() {
        let mut table = Table {
            title: "Messages per second",
            lower_is_better: false,
            rows: Vec::new(),
        };
        table.cell("a", 0, 2).add(10.0);
        table.cell("a", 1, 2).note("not installed");
        let broker = |name: &str, installed| Broker {
            name: name.into(),
            version: None,
            installed,
        };
        let comparison = Comparison {
            machine: Machine {
                processor: "p".into(),
                processors: 2,
                kernel: "6".into(),
            },
            rounds: 1,
            seconds: 1.0,
            brokers: vec![broker("x", true), broker("y", false)],
            tables: vec![table],
            failures: Vec::new(),
        };
        let text = comparison.markdown();
        assert!(
            text.contains("|  | x | y |\n|---|---:|---:|\n| a | 10.0 | not installed |\n"),
            "{text}"
        );
        assert!(text.contains("- y: not installed"), "{text}");
    }
}
