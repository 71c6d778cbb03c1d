//! What is wrong with a text that is no TOML, in words for people who have not heard of TOML before.

use std::ops::Range;

/// Quotation marks of word processors and web pages.
const TYPOGRAPHIC: [char; 6] = ['“', '”', '„', '‘', '’', '«'];

/// The parser's message for the place `span` of `text`, as an operator needs it.
pub(super) fn explained(text: &str, span: &Range<usize>, message: &str) -> String {
    let start = span.start.min(text.len());
    let before = text.get(..start).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    let line = text.get(line_start..).unwrap_or_default();
    let line = line.lines().next().unwrap_or_default();
    if message.starts_with("string values must be quoted") {
        let value = text.get(start..).unwrap_or_default().lines().next().unwrap_or_default();
        let value = value.split('#').next().unwrap_or_default().trim();
        if value.contains(TYPOGRAPHIC) {
            let straight: String = value.chars().filter(|c| !TYPOGRAPHIC.contains(c)).collect();
            return format!("these quotation marks are typographic; straight ones are meant: \"{straight}\"");
        }
        if !value.is_empty() && !value.contains(['"', '\\']) {
            return format!("a text stands in quotation marks: \"{value}\"");
        }
    }
    if message == "duplicate key" {
        return match line.trim_start().starts_with('[') {
            true => "this section is there already, above: its keys belong together".to_owned(),
            false => {
                let key = text.get(start..span.end.min(text.len())).unwrap_or_default().trim();
                format!("{key} is set already, above")
            }
        };
    }
    message.replace('\n', ", ")
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
