//! A pattern: a list of levels, some of which are wildcards.

use super::{LEVELS_MAX, Levels, decode, separator};
use crate::message::{Dialect, KEY_MAX};
use std::borrow::Cow;
use std::fmt;

/// One level of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Exactly this level, escapes decoded.
    Literal(Box<str>),
    /// Any one level: `+` or `*`.
    One,
    /// Any number of levels, none included: `#`.
    Many,
}

/// A topic filter or a topic exchange's binding key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// Never two `Many` in a row: one says the same.
    levels: Box<[Level]>,
    dialect: Dialect,
}

/// The text is not a topic filter: it is empty, has a wildcard inside a level, a `#` before its end, a NUL, or too many
/// levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidFilter;

impl fmt::Display for InvalidFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid topic filter")
    }
}

impl std::error::Error for InvalidFilter {}

impl Pattern {
    /// Reads a pattern. In the dot dialect every text is one: `a*` is a literal word there, and `#` may stand anywhere.
    ///
    /// # Errors
    /// [`InvalidFilter`], in the slash dialect only.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Pattern, InvalidFilter> {
        if dialect == Dialect::Slash {
            check_filter(text)?;
        } else if text.is_empty() {
            return Ok(Pattern {
                levels: Box::default(),
                dialect,
            });
        }
        let mut levels = Vec::new();
        for level in text.split(separator(dialect)) {
            let level = match (level, dialect) {
                ("+", Dialect::Slash) | ("*", Dialect::Dot) => Level::One,
                ("#", _) => Level::Many,
                _ => Level::Literal(decode(level, dialect).into()),
            };
            if level != Level::Many || levels.last() != Some(&Level::Many) {
                levels.push(level);
            }
        }
        Ok(Pattern {
            levels: levels.into(),
            dialect,
        })
    }

    /// Its levels.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// Whether topics that start with `$` are hidden from it: a leading wildcard in the slash dialect.
    pub fn hides_dollar(&self) -> bool {
        // MQTT 5 4.7.2 [MQTT-4.7.2-1]; AMQP and STOMP wildcards have no such rule.
        self.dialect == Dialect::Slash && matches!(self.levels.first(), Some(Level::One | Level::Many))
    }

    /// Whether it matches a key.
    pub fn matches(&self, key: &Levels<'_>) -> bool {
        if self.hides_dollar() && key.is_dollar() {
            return false;
        }
        // As with file globs, it is enough to go back to the last `Many` seen: what an earlier one could take more of,
        // the last one can too. So the work is bounded by the product of the lengths.
        let (mut at, mut level, mut retry) = (0, 0, None);
        loop {
            match (self.levels.get(level), key.get(at)) {
                (Some(Level::Many), _) => {
                    retry = Some((level + 1, at));
                    level += 1;
                    continue;
                }
                (None, None) => return true,
                (Some(Level::One), Some(_)) => {
                    (at, level) = (at + 1, level + 1);
                    continue;
                }
                (Some(Level::Literal(text)), Some(found)) if **text == *found => {
                    (at, level) = (at + 1, level + 1);
                    continue;
                }
                _ => {}
            }
            match retry {
                Some((after, start)) if start < key.len() => {
                    retry = Some((after, start + 1));
                    (at, level) = (start + 1, after);
                }
                _ => return false,
            }
        }
    }
}

/// Checks an MQTT topic filter without reading it into a pattern.
///
/// # Errors
/// [`InvalidFilter`].
pub(crate) fn check_filter(text: &str) -> Result<(), InvalidFilter> {
    // MQTT 5 4.7.1, 4.7.3
    if text.is_empty() || text.len() > KEY_MAX {
        return Err(InvalidFilter);
    }
    let bytes = text.as_bytes();
    let mut levels = 1;
    for (at, byte) in bytes.iter().enumerate() {
        // A wildcard is a level by itself, and `#` the last one.
        let starts = || at == 0 || bytes.get(at - 1) == Some(&b'/');
        let next = || bytes.get(at + 1);
        match byte {
            0 => return Err(InvalidFilter),
            b'/' => levels += 1,
            b'+' if !starts() || next().is_some_and(|next| *next != b'/') => return Err(InvalidFilter),
            b'#' if !starts() || next().is_some() => return Err(InvalidFilter),
            _ => {}
        }
    }
    if levels > LEVELS_MAX {
        return Err(InvalidFilter);
    }
    Ok(())
}

/// Wildcards of a pattern's text.
pub(crate) fn wildcards(text: &str, dialect: Dialect) -> usize {
    let one = if dialect == Dialect::Slash { "+" } else { "*" };
    let levels = text.split(separator(dialect));
    levels.filter(|level| *level == one || *level == "#").count()
}

/// Levels of a pattern's text.
pub(crate) fn count_levels(text: &str, dialect: Dialect) -> usize {
    if text.is_empty() {
        0
    } else {
        text.split(separator(dialect)).count()
    }
}

/// The first level of a pattern's text, if it is neither a wildcard nor missing.
pub(crate) fn first_literal(text: &str, dialect: Dialect) -> Option<Cow<'_, str>> {
    let first = text.split(separator(dialect)).next()?;
    match (first, dialect) {
        ("", Dialect::Dot) if text.is_empty() => None,
        ("+", Dialect::Slash) | ("*", Dialect::Dot) | ("#", _) => None,
        _ => Some(decode(first, dialect)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Dialect::{Dot, Slash};

    fn slash(filter: &str, topic: &str) -> bool {
        Pattern::parse(filter, Slash)
            .expect(filter)
            .matches(&Levels::new(topic, Slash))
    }

    fn dot(binding: &str, key: &str) -> bool {
        Pattern::parse(binding, Dot)
            .expect(binding)
            .matches(&Levels::new(key, Dot))
    }

    #[test]
    fn the_mqtt_table_of_the_reference() {
        let yes: [(&str, &[&str]); 13] = [
            ("sport/#", &["sport", "sport/", "sport/a/b"]),
            ("sport/+", &["sport/", "sport/a"]),
            ("+/+", &["/finance"]),
            ("/+", &["/finance"]),
            ("/", &["/"]),
            ("//", &["//"]),
            ("+/+/+", &["//"]),
            ("+/#", &["a", "a/b", "/"]),
            ("#", &["a", "/", "a/$x"]),
            ("$SYS/#", &["$SYS", "$SYS/a"]),
            ("a/+", &["a/$x"]),
            ("a/#", &["a/$x"]),
            ("+", &["a"]),
        ];
        for (filter, topics) in yes {
            for topic in topics {
                assert!(slash(filter, topic), "{filter} should match {topic}");
            }
        }
        let no: [(&str, &[&str]); 8] = [
            ("sport/#", &["sports"]),
            ("sport/+", &["sport", "sport/a/b"]),
            ("+", &["/finance", "$SYS"]),
            ("//", &["/"]),
            ("+/#", &["$SYS", "$SYS/x"]),
            ("#", &["$SYS/x", "$"]),
            ("$SYS/#", &["$sys/a"]),
            ("+/x", &["$SYS/x"]),
        ];
        for (filter, topics) in no {
            for topic in topics {
                assert!(!slash(filter, topic), "{filter} should not match {topic}");
            }
        }
    }

    #[test]
    fn invalid_filters_are_refused() {
        for filter in ["a#", "a/#/b", "a+", "a/b+", "", "#/", "+a/b", "a\0", "##", "++"] {
            assert_eq!(Pattern::parse(filter, Slash), Err(InvalidFilter), "{filter:?}");
        }
        assert!(Pattern::parse(&"/".repeat(LEVELS_MAX - 1), Slash).is_ok());
        assert!(Pattern::parse(&"/".repeat(LEVELS_MAX), Slash).is_err());
    }

    #[test]
    fn the_amqp_table_of_the_reference() {
        for key in ["", "a", ".", "a.b.c"] {
            assert!(dot("#", key) && dot("#.#", key), "{key:?}");
        }
        assert!(!dot("*", "") && dot("*", "a") && !dot("*", "a.b"));
        for binding in ["*.#", "#.*"] {
            assert!(!dot(binding, "") && dot(binding, ".") && dot(binding, "a") && dot(binding, "a.b"));
        }
        assert!(dot("a.#", "a") && dot("a.#", "a.") && dot("a.#", "a.b") && !dot("a.#", "b"));
        assert!(dot("a.*.b", "a..b") && !dot("a.*.b", "a.b"));
        assert!(dot("", "") && !dot("", ".") && !dot("", "a"));
        assert!(dot("a*", "a*") && !dot("a*", "ab"));
        assert!(dot("#.a.#.b.#", "x.a.y.z.b") && !dot("#.a.#.b.#", "b.a"));
        // No `$` rule here.
        assert!(dot("#", "$SYS.x") && dot("*.x", "$SYS.x"));
    }

    #[test]
    fn patterns_match_across_dialects_by_level() {
        let filter = Pattern::parse("v1.5/+", Slash).expect("valid");
        assert!(filter.matches(&Levels::new("v1%2E5.s", Dot)));
        assert!(!filter.matches(&Levels::new("v1.5.s", Dot)));
        let binding = Pattern::parse("v1%2E5.*", Dot).expect("valid");
        assert!(binding.matches(&Levels::new("v1.5/s", Slash)));
        let plus = Pattern::parse("%2B/a", Slash).expect("valid");
        assert!(plus.matches(&Levels::new("+.a", Dot)) && !plus.matches(&Levels::new("x.a", Dot)));
    }
}
