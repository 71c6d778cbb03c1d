//! Where a setting comes from, and problems with their places.

use std::fmt;
use std::ops::Range;

/// The prefix of environment variables that are settings.
pub(super) const PREFIX: &str = "GATEPOST__";

/// One layer of configuration.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A file: its name as the operator wrote it, and its text.
    File { name: String, text: String },
    /// An environment variable; the text is the equivalent line of TOML.
    Environment { name: String, text: String },
}

impl Source {
    pub(super) fn text(&self) -> &str {
        match self {
            Source::File { text, .. } | Source::Environment { text, .. } => text,
        }
    }

    /// `gatepost.toml:41:1`, or the variable's name.
    pub(super) fn at(&self, span: &Range<usize>) -> String {
        match self {
            Source::Environment { name, .. } => name.clone(),
            Source::File { name, text } => {
                let before = text.get(..span.start.min(text.len())).unwrap_or("");
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
                format!("{name}:{line}:{column}")
            }
        }
    }
}

/// A problem in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `file:line:column`, a variable's name, or empty if it is about settings together.
    pub at: String,
    /// Dotted path of the key; empty if it is about the file as a whole.
    pub key: String,
    /// What is wrong, what was expected, what to do.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.at, &self.key] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.what)
    }
}

/// All problems in a configuration, in the order of the layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
