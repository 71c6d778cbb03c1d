//! Writes JSON answers, member by member. Only the requested members are computed.

use super::table::json_of;
use gatepost_core::properties::Table;
use std::fmt::Write as _;

/// The requested members of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Columns {
    All,
    /// Only these, each with the requested members within it.
    Only(Vec<(String, Columns)>),
}

static ALL: Columns = Columns::All;

impl Columns {
    /// Parses a list of names separated by commas; `a.b` is the member `b` of the object `a`. An empty list means all.
    pub(super) fn parse(text: &str) -> Columns {
        let mut root = Columns::Only(Vec::new());
        for path in text.split(',').filter(|path| !path.is_empty()) {
            root.add(path);
        }
        match root {
            Columns::Only(none) if none.is_empty() => Columns::All,
            columns => columns,
        }
    }

    /// A single path.
    pub(super) fn only(path: &str) -> Columns {
        let mut columns = Columns::Only(Vec::new());
        columns.add(path);
        columns
    }

    fn add(&mut self, path: &str) {
        let Columns::Only(members) = self else { return };
        let (first, rest) = path
            .split_once('.')
            .map_or((path, None), |(first, rest)| (first, Some(rest)));
        let at = members.iter().position(|(name, _)| name == first).unwrap_or_else(|| {
            members.push((first.to_owned(), Columns::Only(Vec::new())));
            members.len() - 1
        });
        let Some((_, within)) = members.get_mut(at) else { return };
        match rest {
            Some(rest) => within.add(rest),
            None => *within = Columns::All,
        }
    }

    /// The requested members within this member. `None`: it was not requested.
    pub(super) fn within(&self, key: &str) -> Option<&Columns> {
        match self {
            Columns::All => Some(&ALL),
            Columns::Only(members) => members.iter().find(|(name, _)| name == key).map(|(_, within)| within),
        }
    }
}

/// Writes the members of one object.
pub(super) struct Fields<'a> {
    out: &'a mut String,
    columns: &'a Columns,
    is_first: bool,
}

/// Appends an object.
pub(super) fn object(out: &mut String, columns: &Columns, write: impl FnOnce(&mut Fields<'_>)) {
    out.push('{');
    write(&mut Fields {
        out,
        columns,
        is_first: true,
    });
    out.push('}');
}

impl Fields<'_> {
    /// Begins a member if it was requested. Returns the requested members within it.
    fn begin(&mut self, key: &str) -> Option<&Columns> {
        let within = self.columns.within(key)?;
        if !std::mem::take(&mut self.is_first) {
            self.out.push(',');
        }
        quote(self.out, key);
        self.out.push(':');
        Some(within)
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        if self.begin(key).is_some() {
            quote(self.out, value);
        }
    }

    pub(super) fn optional(&mut self, key: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(key, value),
            None => self.null(key),
        }
    }

    pub(super) fn count(&mut self, key: &str, value: impl TryInto<u64>) {
        if self.begin(key).is_some() {
            let _ = write!(self.out, "{}", value.try_into().unwrap_or(u64::MAX));
        }
    }

    pub(super) fn float(&mut self, key: &str, value: f64) {
        if self.begin(key).is_some() {
            // Always with a decimal point, as in RabbitMQ.
            let _ = write!(self.out, "{:?}", if value.is_finite() { value } else { 0.0 });
        }
    }

    pub(super) fn flag(&mut self, key: &str, value: bool) {
        if self.begin(key).is_some() {
            self.out.push_str(if value { "true" } else { "false" });
        }
    }

    pub(super) fn null(&mut self, key: &str) {
        if self.begin(key).is_some() {
            self.out.push_str("null");
        }
    }

    /// A member with a complete value: either all of it was requested, or nothing.
    pub(super) fn value(&mut self, key: &str, value: &serde_json::Value) {
        if self.begin(key).is_some() {
            let _ = write!(self.out, "{value}");
        }
    }

    /// A table, for example arguments.
    pub(super) fn table(&mut self, key: &str, table: &Table) {
        self.object(key, |fields| {
            for (name, value) in &table.0 {
                fields.value(name, &json_of(value));
            }
        });
    }

    pub(super) fn object(&mut self, key: &str, write: impl FnOnce(&mut Fields<'_>)) {
        let Some(within) = self.columns.within(key) else {
            return;
        };
        self.begin(key);
        object(self.out, within, write);
    }

    /// A list of objects.
    pub(super) fn list<T>(
        &mut self,
        key: &str,
        items: impl IntoIterator<Item = T>,
        write: impl Fn(&mut Fields<'_>, T),
    ) {
        let Some(within) = self.columns.within(key) else {
            return;
        };
        self.begin(key);
        self.out.push('[');
        for (n, item) in items.into_iter().enumerate() {
            if n > 0 {
                self.out.push(',');
            }
            object(self.out, within, |fields| write(fields, item));
        }
        self.out.push(']');
    }
}

/// Appends a JSON text.
fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn written(columns: &str) -> String {
        let mut out = String::new();
        object(&mut out, &Columns::parse(columns), |f| {
            f.text("name", "a\"\\\n\u{1}é");
            f.count("n", 5u64);
            f.object("stats", |f| {
                f.count("publish", 7u64);
                f.object("publish_details", |f| f.float("rate", 0.0));
            });
            f.list("all", [1u64, 2], |f, n| f.count("n", n));
            f.null("nothing");
        });
        out
    }

    #[test]
    fn all_members_are_json() {
        let all: serde_json::Value = serde_json::from_str(&written("")).expect("JSON");
        assert_eq!(all["name"], "a\"\\\n\u{1}é");
        assert_eq!(all["all"], json!([{"n": 1}, {"n": 2}]));
        assert!(written("").contains("\"rate\":0.0"), "rates have a point");
    }

    #[test]
    fn columns_lead_into_objects_and_lists() {
        assert_eq!(
            written("n,stats.publish_details.rate,all.n,stats.none"),
            r#"{"n":5,"stats":{"publish_details":{"rate":0.0}},"all":[{"n":1},{"n":2}]}"#
        );
        assert_eq!(
            written("stats.publish,stats"),
            r#"{"stats":{"publish":7,"publish_details":{"rate":0.0}}}"#
        );
        assert_eq!(written("unknown"), "{}");
    }
}
