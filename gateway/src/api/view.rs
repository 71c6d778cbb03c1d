//! How a list is shown: columns, order, page, and how far back samples go.

use super::fields::{Columns, Fields, object};
use super::query::Query;
use super::rates::Spans;
use super::{Answer, JSON, NO_CACHE, Refusal};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::IntoResponse as _;
use regex_lite::{Regex, RegexBuilder};
use serde_json::Value;
use std::cmp::Ordering;

/// A row of a list.
pub(super) trait Row {
    /// The text that a search examines.
    fn name(&self) -> &str;
    /// Other names of it, which a search finds too. RabbitMQ's search does not.
    fn other_names(&self) -> [&str; 2] {
        [""; 2]
    }
    fn write(&self, fields: &mut Fields<'_>, spans: &Spans);
}

/// The parameters of a request for a list.
pub(super) struct View {
    columns: Columns,
    sort: Option<String>,
    is_reversed: bool,
    page: Option<Page>,
    /// How far back rates have samples.
    pub(super) spans: Spans,
}

struct Page {
    number: usize,
    size: usize,
    name: Search,
}

/// A text or a regular expression that names are searched for.
enum Search {
    Anything,
    /// In lower case.
    Text(String),
    Regex(Regex),
}

const PAGE_SIZE: usize = 100;
const PAGE_SIZE_MAX: usize = 500;
/// Maximum bytes of a regular expression.
const REGEX_MAX: usize = 1024;
/// Maximum bytes of its compiled form. It is matched outside of any lock, in time linear in the name.
const REGEX_COMPILED_MAX: usize = 64 << 10;

impl View {
    pub(super) fn of(query: &Query) -> Result<View, Refusal> {
        Ok(View {
            columns: Columns::parse(query.get("columns").unwrap_or_default()),
            sort: query.get("sort").filter(|path| !path.is_empty()).map(str::to_owned),
            is_reversed: query.is_true("sort_reverse"),
            page: Page::of(query)?,
            spans: Spans::of(query),
        })
    }

    /// The whole list, or a page of it if `pages` are supported. `rows`: in their default order.
    pub(super) fn list<R: Row>(&self, mut rows: Vec<R>, pages: Pages) -> Answer {
        let page = self.page.as_ref().filter(|_| pages == Pages::Known);
        let total = rows.len();
        if let Some(page) = page {
            rows.retain(|row| {
                page.name.finds(row.name()) || row.other_names().iter().any(|name| page.name.finds_other(name))
            });
        }
        self.order(&mut rows);
        let Some(page) = page else {
            return Ok(sent(self.rows(&rows)));
        };
        let filtered = rows.len();
        let first = (page.number - 1).saturating_mul(page.size);
        if first > filtered {
            let (number, size) = (page.number, page.size);
            let reason = format!("Page out of range, page: {number} page size: {size}, len: {filtered}");
            return Err(Refusal::bad("page_out_of_range", reason));
        }
        let end = first.saturating_add(page.size).min(filtered);
        let items = rows.get(first..end).unwrap_or_default();
        let mut out = String::new();
        out.push_str(&format!(
            "{{\"filtered_count\":{filtered},\"item_count\":{},\"items\":{},\"page\":{},\"page_count\":{},\"page_size\":{},\"total_count\":{total}}}",
            items.len(),
            self.rows(items),
            page.number,
            filtered.div_ceil(page.size),
            page.size,
        ));
        Ok(sent(out))
    }

    /// Whether rows need that member.
    pub(super) fn wants(&self, member: &str) -> bool {
        self.columns.within(member).is_some()
    }

    /// Whether a page is requested and not the whole list.
    pub(super) fn has_page(&self) -> bool {
        self.page.is_some()
    }

    /// One object.
    pub(super) fn one(&self, row: &impl Row) -> Answer {
        self.object(|fields| row.write(fields, &self.spans))
    }

    /// One object that is not a row.
    pub(super) fn object(&self, write: impl FnOnce(&mut Fields<'_>)) -> Answer {
        let mut out = String::new();
        object(&mut out, &self.columns, write);
        Ok(sent(out))
    }

    fn rows<R: Row>(&self, rows: &[R]) -> String {
        let mut out = String::with_capacity(rows.len() * 64);
        out.push('[');
        for (n, row) in rows.iter().enumerate() {
            if n > 0 {
                out.push(',');
            }
            object(&mut out, &self.columns, |fields| row.write(fields, &self.spans));
        }
        out.push(']');
        out
    }

    fn order<R: Row>(&self, rows: &mut [R]) {
        if let Some(path) = &self.sort {
            let columns = Columns::only(path);
            let mut out = String::new();
            rows.sort_by_cached_key(|row| {
                out.clear();
                object(&mut out, &columns, |fields| row.write(fields, &Spans::default()));
                Key::of(&out, path)
            });
        }
        if self.is_reversed {
            rows.reverse();
        }
    }
}

/// Whether a list has pages. Some lists, for example bindings, have none and are always complete, as in RabbitMQ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pages {
    Known,
    None,
}

impl Page {
    fn of(query: &Query) -> Result<Option<Page>, Refusal> {
        let Some(number) = query.get("page") else {
            return Ok(None);
        };
        let wrong = || Refusal::bad("bad_request", "Pagination parameters are invalid");
        let number: i64 = number.parse().map_err(|_| wrong())?;
        let size = query.get("page_size").map(str::parse::<i64>).transpose();
        let size = size.map_err(|_| wrong())?;
        let usable = |value: i64, max: usize| usize::try_from(value).ok().filter(|value| (1..=max).contains(value));
        let (Some(number), Some(size)) = (
            usable(number, usize::MAX),
            size.map_or(Some(PAGE_SIZE), |size| usable(size, PAGE_SIZE_MAX)),
        ) else {
            let size = size.map_or("undefined".to_owned(), |size| size.to_string());
            let reason = format!("Invalid pagination parameters: page number {number}, page size {size}");
            return Err(Refusal::bad("invalid_pagination_parameters", reason));
        };
        Ok(Some(Page {
            number,
            size,
            name: Search::of(query).ok_or_else(wrong)?,
        }))
    }
}

impl Search {
    /// `None`: it is not a valid regular expression.
    fn of(query: &Query) -> Option<Search> {
        let name = query.get("name").unwrap_or_default();
        if name.is_empty() {
            return Some(Search::Anything);
        }
        if !query.is_true("use_regex") {
            return Some(Search::Text(name.to_lowercase()));
        }
        if name.len() > REGEX_MAX {
            return None;
        }
        let regex = RegexBuilder::new(name)
            .case_insensitive(true)
            .size_limit(REGEX_COMPILED_MAX)
            .build();
        regex.ok().map(Search::Regex)
    }

    /// As [`Search::finds`], for a name that may be absent.
    fn finds_other(&self, name: &str) -> bool {
        !name.is_empty() && self.finds(name)
    }

    fn finds(&self, name: &str) -> bool {
        match self {
            Search::Anything => true,
            Search::Text(text) => name.to_lowercase().contains(text),
            Search::Regex(regex) => regex.is_match(name),
        }
    }
}

/// The sort key of a row: numbers come before texts, and an absent value counts as 0.
#[derive(Debug, PartialEq)]
enum Key {
    Number(f64),
    Text(String),
}

impl Key {
    fn of(row: &str, path: &str) -> Key {
        let row: Value = serde_json::from_str(row).unwrap_or_default();
        let value = path.split('.').try_fold(&row, |value, part| value.get(part));
        match value {
            Some(Value::Number(number)) => Key::Number(number.as_f64().unwrap_or_default()),
            Some(Value::Bool(flag)) => Key::Number(f64::from(u8::from(*flag))),
            Some(Value::String(text)) => Key::Text(text.clone()),
            _ => Key::Number(0.0),
        }
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        match (self, other) {
            (Key::Number(a), Key::Number(b)) => a.total_cmp(b),
            (Key::Text(a), Key::Text(b)) => a.cmp(b),
            (Key::Number(_), Key::Text(_)) => Ordering::Less,
            (Key::Text(_), Key::Number(_)) => Ordering::Greater,
        }
    }
}

fn sent(json: String) -> axum::response::Response {
    ([JSON, NO_CACHE], json).into_response()
}

impl<S: Send + Sync> FromRequestParts<S> for View {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<View, Refusal> {
        View::of(&Query::parse(parts.uri.query().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named(&'static str, u64);

    impl Row for Named {
        fn name(&self) -> &str {
            self.0
        }
        fn write(&self, fields: &mut Fields<'_>, _: &Spans) {
            fields.text("name", self.0);
            fields.object("of", |fields| fields.count("n", self.1));
        }
    }

    async fn listed(query: &str) -> Result<Value, String> {
        let rows = vec![Named("b", 2), Named("a", 3), Named("Ops.q", 1)];
        let answer = View::of(&Query::parse(query)).and_then(|view| view.list(rows, Pages::Known));
        match answer {
            Ok(answer) => {
                let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.expect("a body");
                Ok(serde_json::from_slice(&body).expect("JSON"))
            }
            Err(refusal) => Err(format!("{}: {}", refusal.error, refusal.reason)),
        }
    }

    async fn names(query: &str) -> String {
        let list = listed(query).await.expect("a list");
        let items = list.get("items").unwrap_or(&list);
        let names = items
            .as_array()
            .expect("items")
            .iter()
            .map(|row| row["name"].as_str().expect("a name"));
        names.collect::<Vec<_>>().join(" ")
    }

    #[tokio::test]
    async fn lists_are_sorted_by_any_column_and_filtered_by_name_within_pages() {
        assert_eq!(names("").await, "b a Ops.q");
        assert_eq!(names("sort=of.n").await, "Ops.q b a");
        assert_eq!(names("sort=of.n&sort_reverse=true").await, "a b Ops.q");
        assert_eq!(names("sort=nothing").await, "b a Ops.q");
        assert_eq!(names("page=1&name=OPS").await, "Ops.q");
        assert_eq!(names("page=1&name=^o.*q$&use_regex=true").await, "Ops.q");
        assert_eq!(names("name=ops").await, "b a Ops.q", "only with a page");
        assert_eq!(names("page_size=1").await, "b a Ops.q", "only with a page");
        assert_eq!(names("page=2&page_size=2").await, "Ops.q");
    }

    #[tokio::test]
    async fn the_envelope_counts_and_pages_out_of_range_are_refused() {
        let page = listed("page=1&page_size=2&name=a&columns=name").await.expect("a page");
        let expected = serde_json::json!({
            "filtered_count": 1, "item_count": 1, "items": [{ "name": "a" }],
            "page": 1, "page_count": 1, "page_size": 2, "total_count": 3,
        });
        assert_eq!(page, expected);
        for (query, why) in [
            (
                "page=9",
                "page_out_of_range: Page out of range, page: 9 page size: 100, len: 3",
            ),
            ("page=x", "bad_request: Pagination parameters are invalid"),
            (
                "page=1&name=(&use_regex=true",
                "bad_request: Pagination parameters are invalid",
            ),
            (
                "page=0",
                "invalid_pagination_parameters: Invalid pagination parameters: page number 0, page size undefined",
            ),
            (
                "page=1&page_size=501",
                "invalid_pagination_parameters: Invalid pagination parameters: page number 1, page size 501",
            ),
        ] {
            assert_eq!(listed(query).await, Err(why.to_owned()), "{query}");
        }
        assert_eq!(listed("page=1&name=zzz").await.expect("a page")["page_count"], 0);
    }
}
