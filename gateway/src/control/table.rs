//! Output of a verb, for people, scripts and programs.

use super::target::Format;
use serde_json::{Map, Value};

/// The output of a verb.
#[derive(Debug)]
pub(super) enum Output {
    Nothing,
    /// Rows, and the columns of them to show. `is_chosen`: the user named the columns, so JSON has only these too.
    List {
        columns: Vec<String>,
        rows: Value,
        is_chosen: bool,
    },
    /// Values about one object, in this order.
    Facts(Vec<(&'static str, Value)>),
    /// Text that is printed unchanged.
    Text(String),
    /// The result of a check: an exit code, a line for people, and the same for programs.
    Verdict {
        code: u8,
        line: String,
        json: Value,
    },
}

impl Output {
    /// The text on standard output.
    pub(super) fn text(&self, format: Format, headings: bool) -> String {
        match self {
            Output::Nothing => String::new(),
            Output::Text(text) => text.clone(),
            Output::Verdict { line, json, .. } => match format {
                Format::Json => format!("{json:#}\n"),
                _ => format!("{line}\n"),
            },
            Output::Facts(facts) => match format {
                Format::Json => {
                    let members = facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
                    format!("{:#}\n", Value::Object(members.collect()))
                }
                _ => list(
                    &["name".to_owned(), "value".to_owned()],
                    &fact_rows(facts),
                    format,
                    headings,
                ),
            },
            Output::List {
                columns,
                rows,
                is_chosen,
            } => match format {
                Format::Json if *is_chosen => {
                    let all = rows.as_array().into_iter().flatten();
                    let rows = all.map(|row| Value::Object(chosen(row, columns)));
                    format!("{:#}\n", Value::Array(rows.collect()))
                }
                Format::Json => format!("{rows:#}\n"),
                _ => {
                    let all = rows.as_array().into_iter().flatten();
                    let shown = |value: Option<&Value>| match (format, value) {
                        // As `rabbitmqctl` prints it, since its scripts read this format.
                        (Format::Table, Some(Value::Array(items))) => {
                            let items = items.iter().map(|item| cell(Some(item)));
                            format!("[{}]", items.collect::<Vec<_>>().join(", "))
                        }
                        (Format::Table, Some(Value::Object(members))) if members.is_empty() => "[]".to_owned(),
                        (Format::Table | Format::Csv, Some(object @ Value::Object(_))) => json_cell(object),
                        _ => cell(value),
                    };
                    let rows = all.map(|row| columns.iter().map(|column| shown(field(row, column))).collect());
                    list(columns, &rows.collect::<Vec<_>>(), format, headings)
                }
            },
        }
    }
}

/// A value that is a list has a line for each item.
fn fact_rows(facts: &[(&'static str, Value)]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for (name, value) in facts {
        match value {
            Value::Array(items) => rows.extend(items.iter().map(|item| vec![(*name).to_owned(), cell(Some(item))])),
            value => rows.push(vec![(*name).to_owned(), cell(Some(value))]),
        }
    }
    rows
}

fn chosen(row: &Value, columns: &[String]) -> Map<String, Value> {
    let members = columns
        .iter()
        .map(|name| (name.clone(), field(row, name).cloned().unwrap_or(Value::Null)));
    members.collect()
}

/// The value at `a`, or at `a.b`. A field's own name may contain a dot.
pub(super) fn field<'a>(row: &'a Value, name: &str) -> Option<&'a Value> {
    row.get(name).or_else(|| {
        let (outer, inner) = name.split_once('.')?;
        field(row.get(outer)?, inner)
    })
}

fn list(columns: &[String], rows: &[Vec<String>], format: Format, headings: bool) -> String {
    let heading = headings.then(|| columns.to_vec());
    let rows: Vec<&[String]> = heading
        .iter()
        .map(Vec::as_slice)
        .chain(rows.iter().map(Vec::as_slice))
        .collect();
    match format {
        Format::Table => rows.iter().map(|row| row.join("\t") + "\n").collect(),
        Format::Csv => rows
            .iter()
            .map(|row| row.iter().map(|cell| quoted(cell)).collect::<Vec<_>>().join(",") + "\r\n")
            .collect(),
        Format::Columns | Format::Json => aligned(&rows, columns.len()),
    }
}

fn aligned(rows: &[&[String]], columns: usize) -> String {
    let width = |at: usize| {
        rows.iter()
            .filter_map(|row| row.get(at))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// RFC 4180.
fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

/// A value on one line.
pub(super) fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        // Names may contain control characters, which could overwrite other parts of the table.
        Some(Value::String(text)) => printable(text),
        Some(Value::Array(items)) => items.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join(","),
        Some(Value::Object(members)) => {
            let members = members
                .iter()
                .map(|(name, value)| format!("{}={}", printable(name), cell(Some(value))));
            members.collect::<Vec<_>>().join(",")
        }
        Some(other) => other.to_string(),
    }
}

/// JSON in one line, in which no character moves the cursor.
fn json_cell(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        match c {
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// The text with escapes for control characters. Quotes stay, because nothing is quoted here.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn output(is_chosen: bool) -> Output {
        Output::List {
            columns: vec!["name".to_owned(), "a.b".to_owned()],
            rows: json!([
                { "name": "q,1", "a": { "b": 5 }, "more": true },
                { "name": "tab\there \u{1b}[2J \"x\"", "a": {} },
            ]),
            is_chosen,
        }
    }

    #[test]
    fn each_format_has_one_line_for_each_row_whatever_names_hold() {
        let text = |format, headings| output(true).text(format, headings);
        assert_eq!(
            text(Format::Columns, true),
            "name                     a.b\nq,1                      5\ntab\\there \\u{1b}[2J \"x\"\n"
        );
        assert_eq!(text(Format::Table, false), "q,1\t5\ntab\\there \\u{1b}[2J \"x\"\t\n");
        assert_eq!(
            text(Format::Csv, true),
            "name,a.b\r\n\"q,1\",5\r\n\"tab\\there \\u{1b}[2J \"\"x\"\"\",\r\n"
        );
    }

    /// Scripts that read `rabbitmqctl list_policies` parse the definition.
    #[test]
    fn objects_in_a_table_are_json_as_rabbitmqctl_prints_them() {
        let output = Output::List {
            columns: vec!["definition".to_owned(), "arguments".to_owned()],
            rows: json!([{ "definition": { "max-length": 5, "x": "\u{9b}2J\u{1b}\"" }, "arguments": {} }]),
            is_chosen: true,
        };
        assert_eq!(
            output.text(Format::Table, false),
            "{\"max-length\":5,\"x\":\"\\u009b2J\\u001b\\\"\"}\t[]\n"
        );
        assert!(output.text(Format::Columns, false).starts_with("max-length=5,x="));
    }

    #[test]
    fn json_has_what_was_chosen_or_everything() {
        let parsed = |is_chosen| -> Value {
            serde_json::from_str(&output(is_chosen).text(Format::Json, true)).expect("JSON and nothing else")
        };
        assert_eq!(parsed(true)[0], json!({ "name": "q,1", "a.b": 5 }));
        assert_eq!(parsed(false)[0]["more"], json!(true));
    }

    #[test]
    fn facts_that_are_lists_have_a_line_for_each_item() {
        let facts = Output::Facts(vec![("version", json!("1")), ("listener", json!(["mqtt 1", "amqp 2"]))]);
        assert_eq!(
            facts.text(Format::Table, false),
            "version\t1\nlistener\tmqtt 1\nlistener\tamqp 2\n"
        );
        let parsed: Value = serde_json::from_str(&facts.text(Format::Json, true)).expect("JSON");
        assert_eq!(parsed, json!({ "version": "1", "listener": ["mqtt 1", "amqp 2"] }));
    }
}
