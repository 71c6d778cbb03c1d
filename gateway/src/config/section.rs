//! Reads one table of a layer into settings, and remembers what is wrong instead of stopping at it.
//!
//! serde would stop at the first error and cannot say which known key an unknown one resembles; so the tables are
//! walked by hand, key by key, over the parser's spanned tree. Every key that is asked for is thereby known.

use super::source::{Problem, Source};
use super::units::{Budget, Period, Size};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use toml::de::{DeTable, DeValue};

/// What is collected while a layer is read.
pub(super) struct Reader<'a> {
    source: &'a Source,
    /// With the byte they are at, for their order.
    problems: RefCell<Vec<(usize, Problem)>>,
    /// Dotted paths of all keys that were asked for.
    known: RefCell<BTreeSet<String>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a Source) -> Self {
        Reader {
            source,
            problems: RefCell::default(),
            known: RefCell::default(),
        }
    }

    pub(super) fn problem(&self, span: &Range<usize>, key: &str, what: String) {
        let problem = Problem {
            at: self.source.at(span),
            key: key.to_owned(),
            what,
        };
        self.problems.borrow_mut().push((span.start, problem));
    }

    /// What was wrong, in the order of the text, and the keys there could have been.
    pub(super) fn finish(self) -> (Vec<Problem>, BTreeSet<String>) {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|(start, _)| *start);
        (
            problems.into_iter().map(|(_, problem)| problem).collect(),
            self.known.into_inner(),
        )
    }
}

/// One table, or the place where none is.
pub(super) struct Section<'a, 'i> {
    reader: &'a Reader<'a>,
    path: String,
    table: Option<&'a DeTable<'i>>,
    asked: Vec<&'static str>,
}

impl<'a, 'i> Section<'a, 'i> {
    pub(super) fn root(reader: &'a Reader<'a>, table: &'a DeTable<'i>) -> Self {
        Section {
            reader,
            path: String::new(),
            table: Some(table),
            asked: Vec::new(),
        }
    }

    /// Reads a table within this one.
    pub(super) fn section(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'a, 'i>)) {
        let path = self.path_of(key);
        self.asked.push(key);
        let mut table = None;
        if let Some((span, value)) = self.lookup(key) {
            table = value.as_table();
            if table.is_none() {
                self.reader
                    .problem(&span, &path, format!("expected a table, found {}", found(value)));
            }
        }
        let mut section = Section {
            reader: self.reader,
            path,
            table,
            asked: Vec::new(),
        };
        read(&mut section);
        section.refuse_unknown();
    }

    /// Reads a setting of a type that knows its own form. Absent: left as it is.
    pub(super) fn read<T: Setting>(&mut self, key: &'static str, slot: &mut T) {
        self.read_with(key, slot, |value| T::parse(value).ok_or_else(|| T::EXPECTED.to_owned()));
    }

    /// Reads a setting that is one of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, slot: &mut T, words: &[(&str, T)]) {
        self.read_with(key, slot, |value| {
            let found = value
                .as_str()
                .and_then(|text| words.iter().find(|(word, _)| *word == text));
            found.map(|(_, choice)| *choice).ok_or_else(|| {
                let words: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
                format!("one of {}", words.join(", "))
            })
        });
    }

    /// Reads a setting that must lie within bounds, which `bounds` spells for people.
    pub(super) fn within<T: Setting + PartialOrd>(
        &mut self,
        key: &'static str,
        slot: &mut T,
        range: std::ops::RangeInclusive<T>,
        bounds: &str,
    ) {
        self.read_with(key, slot, |value| {
            T::parse(value)
                .filter(|v| range.contains(v))
                .ok_or_else(|| format!("{} {bounds}", T::EXPECTED))
        });
    }

    /// Reads a setting; `parse` says what it expected if it finds something else.
    pub(super) fn read_with<T>(
        &mut self,
        key: &'static str,
        slot: &mut T,
        parse: impl FnOnce(&DeValue<'i>) -> Result<T, String>,
    ) {
        self.know(key);
        let Some((span, value)) = self.lookup(key) else { return };
        match parse(value) {
            Ok(parsed) => *slot = parsed,
            Err(expected) => {
                self.reader.problem(
                    &span,
                    &self.path_of(key),
                    format!("expected {expected}, found {}", found(value)),
                );
            }
        }
    }

    /// A key of the documented configuration whose feature is not built. Only its default is accepted: a setting that
    /// is read and then ignored is worse than one that is refused.
    pub(super) fn later(&mut self, key: &'static str, defaults: &[&str]) {
        self.know(key);
        let Some((span, value)) = self.lookup(key) else { return };
        let is_default = defaults.iter().any(|text| {
            DeValue::parse(text).is_ok_and(|default| {
                let same_period = value
                    .as_str()
                    .and_then(Period::parse)
                    .zip(default.get_ref().as_str().and_then(Period::parse));
                same_period.is_some_and(|(a, b)| a == b) || plain(value) == plain(default.get_ref())
            })
        });
        if !is_default {
            let only = defaults.join(" or ");
            self.reader.problem(
                &span,
                &self.path_of(key),
                format!("not supported yet: the only value is {only}, so leave the key out"),
            );
        }
    }

    /// Reports keys nobody asked for.
    pub(super) fn refuse_unknown(&mut self) {
        for (key, _) in self.table.into_iter().flatten() {
            let name: &str = key.get_ref();
            if self.asked.contains(&name) {
                continue;
            }
            let what = match nearest(name, &self.asked) {
                Some(known) => format!("unknown key, did you mean {known}?"),
                None => {
                    let mut known = self.asked.clone();
                    known.sort_unstable();
                    format!("unknown key; known here: {}", known.join(", "))
                }
            };
            self.reader.problem(&key.span(), &self.path_of(name), what);
        }
    }

    fn know(&mut self, key: &'static str) {
        self.asked.push(key);
        self.reader.known.borrow_mut().insert(self.path_of(key));
    }

    fn lookup(&self, key: &str) -> Option<(Range<usize>, &'a DeValue<'i>)> {
        self.table?.get(key).map(|value| (value.span(), value.get_ref()))
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }
}

/// A type of setting.
pub(super) trait Setting: Sized {
    /// Its form, for people.
    const EXPECTED: &'static str;
    fn parse(value: &DeValue<'_>) -> Option<Self>;
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        value.as_bool()
    }
}

impl Setting for String {
    const EXPECTED: &'static str = "a string";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "a path";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        value.as_str().filter(|s| !s.is_empty()).map(PathBuf::from)
    }
}

impl Setting for Vec<String> {
    const EXPECTED: &'static str = "a list of strings";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        value.as_array()?.iter().map(|v| String::parse(v.get_ref())).collect()
    }
}

impl Setting for u64 {
    const EXPECTED: &'static str = "a whole number";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        let integer = value.as_integer()?;
        u64::from_str_radix(integer.as_str(), integer.radix()).ok()
    }
}

impl Setting for u32 {
    const EXPECTED: &'static str = u64::EXPECTED;
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        u64::parse(value)?.try_into().ok()
    }
}

impl Setting for u16 {
    const EXPECTED: &'static str = u64::EXPECTED;
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        u64::parse(value)?.try_into().ok()
    }
}

impl Setting for usize {
    const EXPECTED: &'static str = u64::EXPECTED;
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        u64::parse(value)?.try_into().ok()
    }
}

impl Setting for Period {
    const EXPECTED: &'static str = "a duration such as \"30s\" or a number of seconds";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        match value.as_str() {
            Some(text) => Period::parse(text),
            None => u64::parse(value)
                .filter(|secs| *secs < u64::MAX / 1000)
                .map(Period::secs),
        }
    }
}

impl Setting for Size {
    const EXPECTED: &'static str = "a size such as \"16MiB\" or a number of bytes";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        match value.as_str() {
            Some(text) => Size::parse(text),
            None => u64::parse(value).map(Size),
        }
    }
}

impl Setting for Option<Size> {
    const EXPECTED: &'static str = "\"auto\" or a size such as \"32MiB\"";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        if value.as_str() == Some("auto") {
            Some(None)
        } else {
            Size::parse_setting(value).map(Some)
        }
    }
}

impl Size {
    fn parse_setting(value: &DeValue<'_>) -> Option<Size> {
        <Size as Setting>::parse(value)
    }
}

impl Setting for Budget {
    const EXPECTED: &'static str =
        "a share of the memory over 0 and up to 1, such as 0.4, or a size such as \"256MiB\"";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        let share = value.as_float().and_then(|f| f.as_str().parse::<f64>().ok());
        match share.or_else(|| (u64::parse(value) == Some(1)).then_some(1.0)) {
            Some(share) => (share > 0.0 && share <= 1.0).then_some(Budget::Share(share)),
            None => Size::parse_setting(value).filter(|size| size.0 > 0).map(Budget::Fixed),
        }
    }
}

/// A value for people, cut short, with its kind where that is not plain.
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

/// A value without its positions.
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

/// The known key a person most likely meant: at most a third of its letters away.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    known
        .iter()
        .map(|k| (distance(&name, k), *k))
        .filter(|(d, k)| *d <= (k.len() / 3).max(1))
        .min()
        .map(|(_, k)| k)
}

/// Letters to insert, delete, replace or swap with their neighbour to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
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
