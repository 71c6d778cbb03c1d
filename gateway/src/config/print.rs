//! Prints the table of keys: the values in effect, a sample file, a Markdown page, help for terminals, and a manual page. All
//! are generated from the table, so none can be out of date.

use super::schema::{Row, Schema, Takes};
use super::value;
use gatepost_core::keys::{Applies, Kind, Values};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The values as a configuration file. Each key is explained, and marked if it differs from its default.
pub(super) fn values(schema: &Schema, values: &Values) -> String {
    let mut body = String::new();
    let (mut all, mut differing) = (0, 0);
    let mut explained = Explained::default();
    for (section, rows) in schema.sections() {
        let _ = writeln!(body, "\n[{section}]");
        for row in rows {
            let (Some(value), Takes::A(kind, _)) = (values.value(&row.name), &row.takes) else {
                continue;
            };
            all += 1;
            let is_default = *value == value::default(kind, &row.default);
            let mark = if is_default {
                String::new()
            } else {
                differing += 1;
                format!("  # {CHANGED}{}", row.default)
            };
            if explained.of(row).is_none() {
                for line in row.text.lines() {
                    let _ = writeln!(body, "# {}", line.trim());
                }
            }
            let _ = writeln!(body, "{} = {}{mark}", key_of(row), value::show(value));
        }
    }
    format!(
        "# The configuration in effect. {differing} of {all} keys differ from their defaults; these end with \"{CHANGED}...\".\n{body}"
    )
}

const CHANGED: &str = "changed; the default is ";

/// The keys that all listeners have, with the defaults for which the first listener explained them.
#[derive(Default)]
struct Explained(BTreeMap<String, String>);

impl Explained {
    /// The default for which the key was explained already. `None`: it must be explained here.
    fn of(&mut self, row: &Row) -> Option<String> {
        let (_, key) = row.name.strip_prefix(LISTENERS)?.split_once('.')?;
        let before = self.0.get(key).cloned();
        if before.is_none() {
            self.0.insert(key.to_owned(), row.default.clone());
        }
        before
    }
}

/// Prefix of listeners' sections.
const LISTENERS: &str = "listeners.";

/// A file with all keys, their meaning and their defaults, commented out. Keys that all listeners have are explained
/// with the first listener; the others show only what differs.
pub(super) fn sample(schema: &Schema) -> String {
    let mut text = "# All keys of Gatepost's configuration with their defaults. Every key is optional.\n".to_owned();
    let mut explained = Explained::default();
    for (section, rows) in schema.sections() {
        let mut body = String::new();
        for row in rows {
            match explained.of(row) {
                Some(before) if before == row.default => continue,
                Some(_) => {}
                None => {
                    for line in row.text.lines() {
                        let _ = writeln!(body, "# {}", line.trim());
                    }
                    let _ = writeln!(body, "# Takes {}. {}", takes(row), applies(row));
                }
            }
            let _ = writeln!(body, "#{} = {}", key_of(row), row.default);
        }
        if body.is_empty() {
            continue;
        }
        let is_explained = !body.starts_with("# ");
        let note = if is_explained { ALIKE } else { "" };
        let _ = write!(text, "\n[{section}]\n{note}{body}");
    }
    text
}

const ALIKE: &str = "# It has all keys of the listener above. These defaults are its own:\n";

/// A page of Markdown with all keys.
pub(super) fn reference(schema: &Schema) -> String {
    let mut text = format!("# Configuration\n\n{GENERATED}\n\n{LAYERS}\n\n");
    for (section, rows) in documented(schema) {
        let _ = writeln!(text, "## `[{section}]`\n");
        if let Some(note) = note(section) {
            let _ = writeln!(text, "{note}\n");
        }
        if section == LISTENER {
            text.push_str("| listener | protocol | `bind` | `tls_bind` |\n|---|---|---|---|\n");
            for [name, protocol, bind, tls_bind] in ready_made(schema) {
                let _ = writeln!(text, "| `{name}` | {protocol} | `{bind}` | `{tls_bind}` |");
            }
            text.push('\n');
        }
        text.push_str("| key | default | takes | a change applies | meaning |\n|---|---|---|---|---|\n");
        for row in rows {
            let cells = [
                format!("`{}`", key_of(row)),
                format!("`{}`", row.default),
                takes(row),
                applies(row).to_owned(),
                meaning(row),
            ];
            let cells = cells.map(|cell| cell.replace('|', "\\|").replace('<', "&lt;"));
            // In Markdown code only the table's bars must be escaped.
            let [key, default, rest @ ..] = cells;
            let default = default.replace("&lt;", "<");
            let _ = writeln!(text, "| {key} | {default} | {} |", rest.join(" | "));
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// All keys as text for a terminal; with `wanted`, only the section or the key of that name.
pub(super) fn help(schema: &Schema, wanted: Option<&str>) -> String {
    let mut text = String::new();
    for (section, rows) in documented(schema) {
        let is_wanted = |row: &Row| {
            wanted.is_none_or(|wanted| {
                let of_listener = wanted.strip_prefix("listeners.").and_then(|rest| rest.split_once('.'));
                let wanted = match of_listener {
                    Some((_, key)) if section.starts_with(LISTENER) => format!("{LISTENER}.{key}"),
                    _ => wanted.to_owned(),
                };
                row.name == wanted || section == wanted || row.name.starts_with(&format!("{wanted}."))
            })
        };
        let rows: Vec<&&Row> = rows.iter().filter(|row| is_wanted(row)).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{}[{section}]", if text.is_empty() { "" } else { "\n" });
        for row in rows {
            let _ = writeln!(text, "  {} = {}", key_of(row), row.default);
            for line in wrapped(&format!("{} Takes {}. {}", meaning(row), takes(row), applies(row)), 92) {
                let _ = writeln!(text, "      {line}");
            }
        }
    }
    text
}

/// The manual page of the configuration file, in roff.
pub(super) fn manual(schema: &Schema) -> String {
    let mut text = format!(
        ".TH gatepost.toml 5 \"\" \"Gatepost {}\"\n.SH NAME\ngatepost.toml \\- configuration of the Gatepost message gateway\n.SH DESCRIPTION\n{}\n",
        env!("CARGO_PKG_VERSION"),
        roff(LAYERS).replace('`', "")
    );
    for (section, rows) in documented(schema) {
        let _ = writeln!(
            text,
            ".SH \"[{}]\"",
            roff(section).to_uppercase().replace("NAME", "name")
        );
        if let Some(note) = note(section) {
            let _ = writeln!(text, "{}", roff(note).replace('`', ""));
        }
        for row in rows {
            let _ = writeln!(text, ".TP\n.B {} = {}", roff(key_of(row)), roff(&row.default));
            let words = format!("{} Takes {}. {}", meaning(row), takes(row), applies(row));
            let _ = writeln!(text, "{}", roff(&words));
        }
    }
    text.push_str(".SH SEE ALSO\n.BR gatepost (1)\n");
    text
}

const GENERATED: &str = "<!-- Made by `gatepost --config-reference` from gateway/src/config/table.rs. A test fails when it is out of date. -->";
const LAYERS: &str = "Every key is optional. Later layers go before earlier ones: the defaults, `gatepost.toml`, \
     `conf.d/*.toml` beside it in order of name, environment variables such as `GATEPOST__LIMITS__MAX_CONNECTIONS=500`, \
     and the command line. A variable that ends with `_FILE` names a file that holds the value. Where a file is meant, \
     the bare name of a credential that systemd passes (`LoadCredential=`) may stand. `gatepost help config` \
     prints this page, and `gatepost --print-config` what is in effect.";

/// The section that stands for all listeners.
const LISTENER: &str = "listeners.NAME";

/// The sections, with `listeners.NAME` in place of the sections of all listeners, which have the same keys.
fn documented(schema: &Schema) -> Vec<(&str, Vec<&Row>)> {
    let (generic, mut others): (Vec<_>, Vec<_>) = schema
        .sections()
        .into_iter()
        .partition(|(section, _)| section.starts_with(LISTENER));
    let at = others.iter().position(|(section, _)| section.starts_with("listeners."));
    others.retain(|(section, _)| !section.starts_with("listeners."));
    others.splice(at.unwrap_or(0)..at.unwrap_or(0), generic);
    others
}

/// Name, protocol and addresses of the default listeners.
fn ready_made(schema: &Schema) -> impl Iterator<Item = [String; 4]> {
    let names = schema.listeners().iter().filter(|name| *name != "NAME");
    names.map(|name| {
        let default = |key: &str| {
            let row = schema.row(&format!("listeners.{name}.{key}"));
            row.map_or(String::new(), |row| row.default.clone())
        };
        let protocol = default("protocol").replace('"', "");
        let over = if default("websocket") == "true" {
            " over WebSocket"
        } else {
            ""
        };
        [name.clone(), protocol + over, default("bind"), default("tls_bind")]
    })
}

fn note(section: &str) -> Option<&'static str> {
    match section {
        LISTENER => Some(
            "One section for each listener. Those of the first table are there without any configuration; `bind = []` turns \
             one off. One with a name of its own has to say its `protocol`.",
        ),
        "listeners.NAME.tls" => Some("TLS of one listener: what is set here goes before `[tls]`."),
        _ => None,
    }
}

fn key_of(row: &Row) -> &str {
    row.name.rsplit_once('.').map_or(&row.name, |(_, key)| key)
}

fn meaning(row: &Row) -> String {
    row.text.split_whitespace().collect::<Vec<_>>().join(" ")
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

/// Wraps text into lines of at most `width` characters; longer words are not split.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Escapes text for roff.
pub(crate) fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.strip_prefix(['.', '\'']) {
        Some(_) => format!("\\&{text}"),
        None => text,
    }
}
