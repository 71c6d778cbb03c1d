//! Lists as people read them, or as JSON.

use serde_json::Value;

/// With a line of headings and aligned columns; `as_json`: everything there is, as one array.
pub(super) fn print(columns: &[String], list: &Value, as_json: bool) -> String {
    if as_json {
        return format!("{list:#}\n");
    }
    let rows = list.as_array().into_iter().flatten();
    let rows = rows.map(|row| columns.iter().map(|column| cell(row.get(column.as_str()))).collect());
    let rows: Vec<Vec<String>> = std::iter::once(columns.to_vec()).chain(rows).collect();
    let width = |at: usize| {
        rows.iter()
            .filter_map(|row| row.get(at))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns.len()).map(|at| width(at).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        // Names may hold what moves the cursor; nobody's table is to be rewritten by them.
        Some(Value::String(text)) => text.escape_debug().to_string(),
        Some(Value::Array(items)) => items.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join(","),
        Some(Value::Object(members)) => {
            let members = members
                .iter()
                .map(|(name, value)| format!("{name}={}", cell(Some(value))));
            members.collect::<Vec<_>>().join(",")
        }
        Some(other) => other.to_string(),
    }
}
