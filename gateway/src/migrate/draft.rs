//! A Gatepost configuration that is being assembled.

use std::fmt::Write as _;

/// Sections with their keys, in the order in which they were set, and what has no counterpart.
#[derive(Debug, Default)]
pub(super) struct Draft {
    sections: Vec<(String, Vec<(String, String)>)>,
    /// Texts about settings without a counterpart, with the line numbers by which they are sorted.
    left: Vec<(usize, String)>,
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

    /// Adds a text to a key that is a list, unless the list has it already.
    pub(super) fn push(&mut self, section: &str, key: &str, text: &str) {
        let (keys, text) = (self.section(section), quoted(text));
        match keys.iter_mut().find(|(known, _)| known == key) {
            Some((_, list)) if list.contains(&text) => {}
            Some((_, list)) => {
                let before = list.trim_end_matches(']');
                let comma = if before.ends_with('[') { "" } else { ", " };
                *list = format!("{before}{comma}{text}]");
            }
            None => keys.push((key.to_owned(), format!("[{text}]"))),
        }
    }

    /// Whether a key is set.
    pub(super) fn has(&self, section: &str, key: &str) -> bool {
        let mut sections = self.sections.iter().filter(|(known, _)| known == section);
        sections.any(|(_, keys)| keys.iter().any(|(known, _)| known == key))
    }

    /// Records a setting without a counterpart. `line`: its line; `usize::MAX` if it does not come from a single line.
    pub(super) fn leave(&mut self, line: usize, text: String) {
        self.left.push((line, text));
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
        let mut text = format!(
            "# Made of {from} by `gatepost import`. AMQP, MQTT, STOMP, both over WebSocket, metrics and, for this machine, management\n\
             # listen at their own ports unless a section says otherwise; `bind = []` turns one off.\n"
        );
        if !self.left.is_empty() {
            text.push_str("#\n# Not taken over:\n");
            let mut left: Vec<&(usize, String)> = self.left.iter().collect();
            left.sort_by_key(|(line, _)| *line);
            for (_, what) in left {
                let _ = writeln!(text, "#   {what}");
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
