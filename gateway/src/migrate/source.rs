//! The lines of a `mosquitto.conf` and of the files it includes.

use std::fs;
use std::path::{Path, PathBuf};

/// `option value`, with its file and line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub place: String,
    pub option: String,
    pub value: String,
}

/// Reads all options in the order in which Mosquitto reads them.
pub(super) fn read(file: &Path) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    let text = text_of(file)?;
    for line in parse(&file.display().to_string(), &text) {
        if line.option != "include_dir" {
            lines.push(line);
            continue;
        }
        for included in included_by(&line)? {
            let nested = parse(&included.display().to_string(), &text_of(&included)?);
            // As in Mosquitto, an included file includes nothing.
            lines.extend(nested.into_iter().filter(|line| line.option != "include_dir"));
        }
    }
    Ok(lines)
}

/// The options of one file.
pub(super) fn parse(file: &str, text: &str) -> Vec<Line> {
    text.lines()
        .enumerate()
        .filter_map(|(number, line)| {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                return None;
            }
            let (option, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            Some(Line {
                place: format!("{file}:{}", number + 1),
                option: option.to_owned(),
                value: value.trim().to_owned(),
            })
        })
        .collect()
}

impl Line {
    /// The first word of the value: all that Mosquitto reads of a number, or of `true` and `false`. What follows, such as a
    /// comment, is no part of it.
    pub(super) fn word(&self) -> &str {
        self.value.split_whitespace().next().unwrap_or("")
    }

    /// `true` or `false`, which Mosquitto also writes `1` and `0`.
    pub(super) fn flag(&self) -> Result<bool, String> {
        match self.word() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            other => Err(format!("{other} is neither true nor false")),
        }
    }
}

/// The files of an `include_dir`, by name.
fn included_by(line: &Line) -> Result<Vec<PathBuf>, String> {
    let directory = Path::new(&line.value);
    let entries = fs::read_dir(directory).map_err(|e| format!("{}: {}: {e}", line.place, line.value))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .collect();
    files.sort();
    Ok(files)
}

fn text_of(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))
}
