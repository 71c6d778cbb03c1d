//! The names that a permission or a policy covers: a regular expression, or one of the simple forms that need none.

use regex_lite::{Regex, RegexBuilder};
use std::fmt;

/// The names that a permission covers.
#[derive(Clone, Debug, Default)]
pub struct NamePattern(Names);

#[derive(Clone, Debug, Default)]
enum Names {
    #[default]
    None,
    All,
    /// `^ops\.`: most patterns are like this, and take no regular expression.
    Prefix(Box<str>),
    /// `^ops$`.
    Exactly(Box<str>),
    Some(Regex),
}

/// The names that `^text`, `^text.*` and `^text$` match, if the text has no other special characters.
fn literal(pattern: &str) -> Option<Names> {
    let rest = pattern.strip_prefix('^')?;
    let (rest, is_whole) = match rest.strip_suffix('$').filter(|rest| !rest.ends_with('\\')) {
        Some(rest) => (rest, true),
        None => (
            rest.strip_suffix(".*")
                .filter(|rest| !rest.ends_with('\\'))
                .unwrap_or(rest),
            false,
        ),
    };
    let mut text = String::new();
    let mut characters = rest.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => text.push(characters.next().filter(char::is_ascii_punctuation)?),
            '.' | '*' | '+' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$' => return None,
            c => text.push(c),
        }
    }
    let text = text.into_boxed_str();
    Some(if is_whole {
        Names::Exactly(text)
    } else {
        Names::Prefix(text)
    })
}

/// The text is no valid pattern of names. Contains the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidNamePattern(Box<str>);

impl fmt::Display for InvalidNamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid permission pattern: {}", self.0)
    }
}

impl std::error::Error for InvalidNamePattern {}

impl NamePattern {
    /// Parses a regular expression. As in RabbitMQ, it need only match a part of a name, and the empty text matches no
    /// name. Look-around and back-references are not supported: every pattern is matched in time linear in the name.
    ///
    /// # Errors
    /// The text is not a regular expression, or is over [`PATTERN_BYTES_MAX`].
    pub fn parse(text: &str) -> Result<NamePattern, InvalidNamePattern> {
        match text {
            "" | "^$" => Ok(NamePattern(Names::None)),
            text => NamePattern::search(text, PATTERN_BYTES_MAX, COMPILED_BYTES_MAX).map_err(InvalidNamePattern),
        }
    }

    /// Parses a regular expression; the empty text matches every name. `text_max`: the most bytes of the text;
    /// `compiled_max`: the most memory of the compiled form.
    ///
    /// # Errors
    /// Why it is not valid.
    pub(crate) fn search(text: &str, text_max: usize, compiled_max: usize) -> Result<NamePattern, Box<str>> {
        Ok(NamePattern(match text {
            "" | ".*" | "^.*$" | "^.*" | ".*$" => Names::All,
            text if text.len() > text_max => return Err(format!("longer than {text_max} bytes").into()),
            text => {
                if let Some(names) = literal(text) {
                    return Ok(NamePattern(names));
                }
                let regex = RegexBuilder::new(text).size_limit(compiled_max).build();
                Names::Some(regex.map_err(|error| Box::from(error.to_string()))?)
            }
        }))
    }

    /// The size of the compiled form, roughly, in powers of two from 512 on; 0: there is none. The time of a match is
    /// at most proportional to it and to the length of the name.
    pub(crate) fn compiled_bytes(&self, max: usize) -> usize {
        let Names::Some(regex) = &self.0 else { return 0 };
        let mut bytes = COMPILED_BYTES_LEAST;
        while bytes < max && RegexBuilder::new(regex.as_str()).size_limit(bytes).build().is_err() {
            bytes *= 2;
        }
        bytes
    }

    /// Every name.
    pub fn all() -> NamePattern {
        NamePattern(Names::All)
    }

    /// Whether `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        match &self.0 {
            Names::None => false,
            Names::All => true,
            Names::Prefix(text) => name.starts_with(&**text),
            Names::Exactly(text) => *name == **text,
            Names::Some(regex) => regex.is_match(name),
        }
    }

    pub(super) fn is_all(&self) -> bool {
        matches!(self.0, Names::All)
    }
}

/// See [`NamePattern::compiled_bytes`].
const COMPILED_BYTES_LEAST: usize = 512;
/// The longest text of a [`NamePattern`].
pub const PATTERN_BYTES_MAX: usize = 4096;
/// The most memory of a compiled pattern. A short text such as `(a{100}){100}` may need much.
const COMPILED_BYTES_MAX: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> NamePattern {
        NamePattern::parse(text).expect("a pattern")
    }

    /// The common forms match as the regular expressions that they are.
    #[test]
    fn literal_patterns_match_what_their_regular_expressions_match() {
        for (pattern, is_literal) in [
            ("^ops", true),
            ("^ops\\.", true),
            ("^ops.*", true),
            ("^ops$", true),
            ("^", true),
            ("^\\^a\\$", true),
            ("^a\\\\", true),
            ("^\u{e9}t\u{e9}", true),
            ("ops", false),
            ("^ops.*$", false),
            ("^o.s", false),
            ("^ops\\d", false),
            ("^a|b", false),
            ("^a\\.*", false),
        ] {
            let found = names(pattern);
            assert_eq!(!matches!(found.0, Names::Some(_)), is_literal, "{pattern}");
            let regex = Regex::new(pattern).expect("a regular expression");
            for name in [
                "",
                "ops",
                "ops.",
                "ops.x",
                "xops",
                "op",
                "opsx",
                "^a$",
                "^a",
                "a\\",
                "a",
                "b",
                "a..",
                "\u{e9}t\u{e9}",
                "ops\n",
            ] {
                assert_eq!(found.matches(name), regex.is_match(name), "{pattern} {name:?}");
            }
        }
    }
}
