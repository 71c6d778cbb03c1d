//! Reads one layer of settings over the current values, and collects problems instead of stopping at the first one.
//!
//! serde would stop at the first mistake and cannot tell which known key an unknown one resembles. So this walks the parser's
//! tree, which has the position of everything, and looks each key up in the table.

use super::schema::{Schema, Takes};
use super::source::{PREFIX, Problem, Source};
use super::units::Period;
use super::{syntax, value};
use crate::migrate::Foreign;
use gatepost_core::keys::Values;
use std::collections::BTreeSet;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// Reads `source` over `values`. Returns the problems in the order of the text.
pub(super) fn layer(schema: &mut Schema, values: &mut Values, source: &Source) -> Vec<Problem> {
    let (table, errors) = DeTable::parse_recoverable(source.text());
    let mut reader = Reader {
        schema,
        values,
        source,
        problems: Vec::new(),
    };
    let mut last_line = None;
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        // What follows in the same line follows from the first.
        let before = source.text().get(..span.start).unwrap_or_default();
        if last_line.replace(before.matches('\n').count()) == Some(before.matches('\n').count()) {
            continue;
        }
        let what = syntax::explained(source.text(), &span, error.message());
        reader.problem(&span, "", what);
    }
    // After a syntax error the tree is unreliable, and errors about unknown keys would be noise.
    if errors.is_empty() {
        reader.table("", table.get_ref());
    }
    if !reader.problems.is_empty()
        && let Source::File { name, text } = source
    {
        // Another broker's file, or one in another format, would cause an error for every line, so give advice instead.
        let foreign = Foreign::recognise(text).map(|foreign| foreign.advice(name));
        let other = || syntax::other_format(text).filter(|_| !errors.is_empty());
        if let Some(what) = foreign.or_else(other) {
            let (at, key) = (name.clone(), String::new());
            return vec![Problem { at, key, what }];
        }
    }
    reader.problems.sort_by_key(|(start, _)| *start);
    reader.problems.into_iter().map(|(_, problem)| problem).collect()
}

struct Reader<'a> {
    schema: &'a mut Schema,
    values: &'a mut Values,
    source: &'a Source,
    /// Problems with their byte offsets, by which they are sorted.
    problems: Vec<(usize, Problem)>,
}

impl Reader<'_> {
    fn table(&mut self, section: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let name = match section {
                "" => key.get_ref().to_string(),
                _ => format!("{section}.{}", key.get_ref()),
            };
            let inner = value.get_ref();
            if let Some(takes) = self.schema.row(&name).map(|row| row.takes) {
                self.key(&name, takes, value.span(), inner);
            } else if self.schema.is_section(&name) {
                match inner.as_table() {
                    Some(table) => self.table(&name, table),
                    None => self.problem(
                        &value.span(),
                        &name,
                        format!("expected a table, found {}", found(inner)),
                    ),
                }
            } else if let Some(table) = inner.as_table().filter(|table| self.is_new_listener(section, table)) {
                self.schema.add_listener(&name[section.len() + 1..]);
                self.values.complete(&self.schema.defaults());
                self.table(&name, table);
            } else {
                self.unknown(section, key.get_ref(), &name, &key.span());
            }
        }
    }

    /// Whether a section declares a new listener: it must set `protocol`. Otherwise the name is probably a typing mistake.
    fn is_new_listener(&self, section: &str, table: &DeTable<'_>) -> bool {
        self.schema.takes_new_sections(section) && table.get("protocol").is_some()
    }

    fn key(&mut self, name: &str, takes: Takes, span: Range<usize>, value: &DeValue<'_>) {
        match takes {
            Takes::A(kind, _) => match value::parse(&kind, value) {
                Ok(value) => self.values.insert(name, value),
                Err(expected) => self.problem(&span, name, format!("expected {expected}, found {}", found(value))),
            },
            Takes::Only(allowed) => {
                if !allowed.iter().any(|text| is_same(text, value)) {
                    let only = allowed.join(" or ");
                    let what = format!("not supported yet: the only value is {only}, so leave the key out");
                    self.problem(&span, name, what);
                }
            }
        }
    }

    fn unknown(&mut self, section: &str, key: &str, name: &str, span: &Range<usize>) {
        let known = self.schema.names_in(section);
        let elsewhere = self.elsewhere(name, key);
        let mut what = match nearest(key, &known) {
            Some(known) => format!("unknown key, did you mean {known}?"),
            None if !elsewhere.is_empty() => format!("unknown key here, did you mean {}?", elsewhere.join(" or ")),
            None => format!("unknown key; known here: {}", known.join(", ")),
        };
        if self.schema.takes_new_sections(section) {
            what.push_str(&format!(
                "; a listener of your own, {key}, says what is spoken there: protocol = \"mqtt\""
            ));
        }
        self.problem(span, name, what);
    }

    /// Keys of that name in other sections, those of listeners once; and the key that one writes with `.` instead of `_`.
    fn elsewhere(&self, name: &str, key: &str) -> Vec<String> {
        let mut found = BTreeSet::new();
        for (at, _) in name.match_indices('_') {
            let dotted = format!("{}.{}", &name[..at], &name[at + 1..]);
            if self.schema.row(&dotted).is_some() {
                found.insert(dotted);
            }
        }
        for row in self.schema.rows().filter(|row| matches!(row.takes, Takes::A(..))) {
            let (section, last) = row.name.rsplit_once('.').unwrap_or(("", &row.name));
            if last == key {
                let mut parts: Vec<&str> = section.split('.').collect();
                if let [listeners, name, ..] = parts.as_mut_slice()
                    && self.schema.takes_new_sections(listeners)
                {
                    *name = "NAME";
                }
                found.insert(format!("{}.{last}", parts.join(".")));
            }
        }
        let variable = |key: String| match self.source {
            Source::Environment { .. } => format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "__")),
            Source::File { .. } => key,
        };
        found.into_iter().take(3).map(variable).collect()
    }

    fn problem(&mut self, span: &Range<usize>, key: &str, what: String) {
        let problem = Problem {
            at: self.source.at(span),
            key: key.to_owned(),
            what,
        };
        self.problems.push((span.start, problem));
    }
}

/// Whether `value` equals the value in `text`; durations may be spelled differently.
fn is_same(text: &str, value: &DeValue<'_>) -> bool {
    DeValue::parse(text).is_ok_and(|other| {
        let period = |value: &DeValue<'_>| value.as_str().and_then(Period::parse);
        let same_period = period(value).zip(period(other.get_ref()));
        same_period.is_some_and(|(a, b)| a == b) || plain(value) == plain(other.get_ref())
    })
}

/// A value for an error message, cut if long, with its type where that is not obvious.
fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Table(_) => "a table".to_owned(),
        DeValue::Array(_) => {
            let text = plain(value);
            if text.len() > 60 { "a list".to_owned() } else { text }
        }
        _ => {
            let mut text = plain(value);
            if text.chars().count() > 60 {
                text = text.chars().take(57).chain("...".chars()).collect();
            }
            text
        }
    }
}

/// A value as TOML, without positions.
fn plain(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(s) => format!("{:?}", &**s),
        DeValue::Integer(i) => i.to_string(),
        DeValue::Float(f) => f.to_string(),
        DeValue::Boolean(b) => b.to_string(),
        DeValue::Datetime(d) => d.to_string(),
        DeValue::Array(a) => format!(
            "[{}]",
            a.iter().map(|v| plain(v.get_ref())).collect::<Vec<_>>().join(", ")
        ),
        DeValue::Table(t) => {
            let pairs: Vec<_> = t
                .iter()
                .map(|(k, v)| format!("{} = {}", k.get_ref(), plain(v.get_ref())))
                .collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

/// The known key that was most likely meant: at most a third of its letters differ, or it begins like that.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let letters = |name: &str| name.replace('_', "");
    let begins = |known: &&&str| name.len() >= BEGINNING_LEAST && letters(known).starts_with(&letters(&name));
    if let Some(known) = known.iter().find(begins) {
        return Some(known);
    }
    known
        .iter()
        .map(|k| (distance(&name, k), *k))
        .filter(|(d, k)| *d <= (k.len() / 3).max(1))
        .min()
        .map(|(_, k)| k)
}

/// Letters of a name whose further ones may be missing.
const BEGINNING_LEAST: usize = 5;

/// The edit distance: letters to insert, delete, replace or swap with their neighbour.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            if i == 0 || j == 0 {
                rows[i][j] = i + j;
                continue;
            }
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}
