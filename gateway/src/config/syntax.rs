//! What is wrong with a text that is no TOML, in words for people who have not heard of TOML before.

use std::ops::Range;

/// Quotation marks of word processors and web pages.
const TYPOGRAPHIC: [char; 6] = ['“', '”', '„', '‘', '’', '«'];

/// The parser's message for the place `span` of `text`, as an operator needs it.
pub(super) fn explained(text: &str, span: &Range<usize>, message: &str) -> String {
    let start = span.start.min(text.len());
    let before = text.get(..start).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    let first_line = |from: usize| {
        text.get(from..)
            .and_then(|rest| rest.lines().next())
            .unwrap_or_default()
    };
    let line = first_line(line_start).trim();
    if message == "duplicate key" {
        let key = text.get(start..span.end.min(text.len())).unwrap_or_default().trim();
        return match line.starts_with('[') {
            true => "this section is there already, above: its keys belong together".to_owned(),
            false => format!("{key} is set already, above"),
        };
    }
    if line.starts_with("//") || line.starts_with(';') {
        return "a comment begins with #".to_owned();
    }
    if message.starts_with("missing escaped value") {
        return "a backslash begins an escape; in single quotation marks it stands for itself: 'C:\\data'".to_owned();
    }
    let (key, value) = line.split_once('=').unwrap_or((line, ""));
    let is_of_key = ["invalid unquoted key", "invalid key", "key with no value"]
        .iter()
        .any(|begin| message.starts_with(begin));
    if let Some((name, value)) = key.split_once(':').filter(|_| is_of_key && value.is_empty()) {
        return format!(
            "a value stands behind =, and not behind a colon: {} = {}",
            name.trim(),
            value.trim()
        );
    }
    if message.starts_with("key with no value") {
        return format!("{line}: a value stands behind =");
    }
    // In a list of several lines the value is all of the line.
    let value = if line.contains('=') {
        value
    } else {
        line.trim_end_matches(',')
    };
    let value = value.split('#').next().unwrap_or_default().trim();
    if matches!(value.to_ascii_lowercase().as_str(), "true" | "false") {
        return format!("this is written {}", value.to_ascii_lowercase());
    }
    let is_of_value = message.starts_with("string values must be quoted") || message.starts_with("invalid ");
    let told = unquoted(value).filter(|_| is_of_value && !is_of_key);
    told.unwrap_or_else(|| message.replace('\n', ", "))
}

/// What is said of a value that should have quotation marks, or other ones.
fn unquoted(value: &str) -> Option<String> {
    if value.contains(TYPOGRAPHIC) {
        let straight: String = value.chars().filter(|c| !TYPOGRAPHIC.contains(c)).collect();
        return Some(format!(
            "these quotation marks are typographic; straight ones are meant: \"{straight}\""
        ));
    }
    let is_list = value.starts_with('[');
    let inner = value.trim_start_matches('[').trim_end_matches(']').trim();
    if inner.is_empty() || inner.contains(['"', '\'', '\\', '[', ']', '{', '}']) {
        return None;
    }
    let items: Vec<String> = inner.split(',').map(|item| format!("\"{}\"", item.trim())).collect();
    let right = match is_list {
        true => format!("[{}]", items.join(", ")),
        false => format!("\"{inner}\""),
    };
    Some(format!("a text stands in quotation marks: {right}"))
}

/// What a file is that is clearly no TOML, and where to find one that is.
pub(super) fn other_format(text: &str) -> Option<String> {
    let lines = || {
        let lines = text.lines().map(str::trim_end);
        lines.filter(|line| !line.trim_start().is_empty() && !line.trim_start().starts_with('#'))
    };
    let first = lines().next().unwrap_or_default().trim_start();
    let name_before = |end: char| {
        move |line: &&str| {
            let name = line.trim_start().split(end).next().unwrap_or_default();
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            line.contains(end) && !name.is_empty() && name.chars().all(is_name)
        }
    };
    let format = if first.starts_with('{') {
        "JSON"
    } else if first.starts_with('<') {
        "XML"
    } else if lines().any(|line| line.ends_with('{')) {
        "a format with braces"
    } else if lines().filter(name_before(':')).count() * 2 > lines().count() {
        "YAML"
    } else {
        return None;
    };
    Some(format!(
        "this is {format}, and the configuration is TOML: `gatepost --sample-config` prints one with all keys"
    ))
}

/// What is wrong with a file whose bytes are no UTF-8.
pub(super) fn no_text(bytes: &[u8]) -> &'static str {
    match bytes {
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => "is UTF-16, as some editors on Windows write it; save it as UTF-8",
        _ => "is no text in UTF-8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_told_what_to_write() {
        for (line, told) in [
            ("name = edge # ours", "a text stands in quotation marks: \"edge\""),
            (
                "bind = [0.0.0.0:1883, ::1]",
                "a text stands in quotation marks: [\"0.0.0.0:1883\", \"::1\"]",
            ),
            (
                "bind = 127.0.0.1:1883",
                "a text stands in quotation marks: \"127.0.0.1:1883\"",
            ),
            (
                "bind = [\n  127.0.0.1:1883,\n]",
                "a text stands in quotation marks: \"127.0.0.1:1883\"",
            ),
            ("heartbeat = 1m", "a text stands in quotation marks: \"1m\""),
            ("ui = True", "this is written true"),
            ("// a comment", "a comment begins with #"),
            ("; a comment", "a comment begins with #"),
            (
                "name: \"edge\"",
                "a value stands behind =, and not behind a colon: name = \"edge\"",
            ),
            ("name", "name: a value stands behind ="),
            (
                "data = \"C:\\data\"",
                "a backslash begins an escape; in single quotation marks it stands for itself: 'C:\\data'",
            ),
        ] {
            let (_, errors) = toml::de::DeTable::parse_recoverable(line);
            let error = errors.first().unwrap_or_else(|| panic!("{line} is good"));
            assert_eq!(
                explained(line, &error.span().unwrap_or(0..0), error.message()),
                told,
                "{line}"
            );
        }
    }

    #[test]
    fn other_formats_are_named_and_toml_is_none_of_them() {
        for (text, format) in [
            ("{\"mqtt\": {}}", "JSON"),
            ("# ours\n<?xml version=\"1.0\"?>\n", "XML"),
            ("listeners.tcp.default {\n  bind = \"0.0.0.0:1883\"\n}\n", "braces"),
            ("# comment\nlisteners:\n  mqtt:\n    bind: 1883\n", "YAML"),
        ] {
            let told = other_format(text).unwrap_or_else(|| panic!("{text}"));
            assert!(told.contains(format) && told.contains("--sample-config"), "{told}");
        }
        for ours in [
            "",
            "[mqtt]\nmax_inflight = \n",
            "bind = [\n  \"[::]:1883\",\n]\n",
            "a = { b = 1 }\n",
            "x = \"a:b\"\n",
        ] {
            assert_eq!(other_format(ours), None, "{ours}");
        }
    }
}
