//! A Gatepost configuration that is being assembled.

use std::fmt::Write as _;

/// Sections with their keys, in the order in which they were set, and what has no counterpart.
#[derive(Debug, Default)]
pub(super) struct Draft {
    sections: Vec<(String, Vec<(String, String)>)>,
    left: Vec<String>,
}

impl Draft {
    /// Sets a key to a value in TOML. A later value replaces an earlier one.
    pub(super) fn set(&mut self, section: &str, key: &str, value: impl Into<String>) {
        let value = value.into();
        let keys = self.section(section);
        match keys.iter_mut().find(|(known, _)| known == key) {
            Some((_, before)) => *before = value,
            None => keys.push((key.to_owned(), value)),
        }
    }

    /// Adds a text to a key that is a list.
    pub(super) fn push(&mut self, section: &str, key: &str, text: &str) {
        let keys = self.section(section);
        match keys.iter_mut().find(|(known, _)| known == key) {
            Some((_, list)) => {
                let before = list.trim_end_matches(']');
                let comma = if before.ends_with('[') { "" } else { ", " };
                *list = format!("{before}{comma}{}]", quoted(text));
            }
            None => keys.push((key.to_owned(), format!("[{}]", quoted(text)))),
        }
    }

    /// Notes a line that has no counterpart here.
    pub(super) fn leave(&mut self, line: &str) {
        self.left.push(line.to_owned());
    }

    fn section(&mut self, section: &str) -> &mut Vec<(String, String)> {
        let at = self.sections.iter().position(|(known, _)| known == section);
        let at = at.unwrap_or_else(|| {
            self.sections.push((section.to_owned(), Vec::new()));
            self.sections.len() - 1
        });
        &mut self.sections[at].1
    }

    /// The configuration file as text.
    pub(super) fn print(&self, from: &str) -> String {
        let mut text = format!("# Made from {from} by `gatepost import`. Please read it before you use it.\n");
        if !self.left.is_empty() {
            text.push_str("#\n# These lines have no counterpart, or do not need one:\n");
            for line in &self.left {
                let _ = writeln!(text, "#   {line}");
            }
        }
        for (section, keys) in &self.sections {
            let _ = writeln!(text, "\n[{section}]");
            for (key, value) in keys {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        text
    }
}

/// A string in TOML.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
