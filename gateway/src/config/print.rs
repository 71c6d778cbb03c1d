//! The table for people: the values in effect, a sample file, and a reference.

use super::schema::{Row, Schema, Takes};
use super::value;
use gatepost_core::keys::{Applies, Kind, Values};
use std::fmt::Write as _;

/// The values, as a file that reads back to them.
pub(super) fn values(schema: &Schema, values: &Values) -> String {
    let mut text = String::new();
    for (section, rows) in schema.sections() {
        let _ = writeln!(text, "{}[{section}]", if text.is_empty() { "" } else { "\n" });
        for row in rows {
            if let Some(value) = values.value(&row.name) {
                let _ = writeln!(text, "{} = {}", key_of(row), value::show(value));
            }
        }
    }
    text
}

/// A file with all keys, their meaning and their defaults. It sets nothing.
pub(super) fn sample(schema: &Schema) -> String {
    let mut text = "# All keys of Gatepost's configuration with their defaults. Every key is optional.\n".to_owned();
    for (section, rows) in schema.sections() {
        let _ = writeln!(text, "\n[{section}]");
        for row in rows {
            for line in row.text.lines() {
                let _ = writeln!(text, "# {}", line.trim());
            }
            let _ = writeln!(text, "# Takes {}. {}", takes(row), applies(row));
            let _ = writeln!(text, "#{} = {}", key_of(row), row.default);
        }
    }
    text
}

/// A page of Markdown with all keys.
pub(super) fn reference(schema: &Schema) -> String {
    let mut text = "# Configuration\n\n".to_owned();
    for (section, rows) in schema.sections() {
        let _ = writeln!(
            text,
            "## `[{section}]`\n\n| key | default | takes | a change applies | |\n|---|---|---|---|---|"
        );
        for row in rows {
            let cells = [
                format!("`{}`", key_of(row)),
                format!("`{}`", row.default),
                takes(row),
                applies(row).to_owned(),
                row.text.split_whitespace().collect::<Vec<_>>().join(" "),
            ];
            let cells = cells.map(|cell| cell.replace('|', "\\|"));
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        text.push('\n');
    }
    text
}

fn key_of(row: &Row) -> &str {
    row.name.rsplit_once('.').map_or(&row.name, |(_, key)| key)
}

fn takes(row: &Row) -> String {
    match &row.takes {
        Takes::A(Kind::File, _) => "the path of a file that can be read, or \"\"".to_owned(),
        Takes::A(kind, _) => value::expected(kind),
        Takes::Only(values) => values.join(" or "),
    }
}

fn applies(row: &Row) -> &'static str {
    match row.takes {
        Takes::A(_, Applies::Now) => "A reload applies it at once.",
        Takes::A(_, Applies::NewConnections) => "A reload applies it to new connections.",
        Takes::A(_, Applies::Restart) => "A change needs a restart.",
        Takes::Only(_) => "",
    }
}
