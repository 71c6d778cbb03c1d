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
    /// Never two `Many` in a row, as one matches the same.
    levels: Box<[Level]>,
    dialect: Dialect,
}

/// The text is no topic filter: it is empty or too long, contains a NUL, a wildcard inside a level or a `#` before its
/// end, or has too many levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidFilter;

impl fmt::Display for InvalidFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid topic filter")
    }
}

impl std::error::Error for InvalidFilter {}

impl Pattern {
    /// Parses a pattern. In the dot dialect every text is a pattern: `a*` is a literal word there, and `#` may be any
    /// level.
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

    /// Its levels in order.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// Whether it matches no topic that starts with `$`, because it begins with a wildcard of the slash dialect.
    pub fn hides_dollar(&self) -> bool {
        // MQTT 5 4.7.2 [MQTT-4.7.2-1]; AMQP and STOMP wildcards have no such rule.
        self.dialect == Dialect::Slash && matches!(self.levels.first(), Some(Level::One | Level::Many))
    }

    /// Whether this pattern matches every key that `other` matches.
    pub fn covers(&self, other: &Pattern) -> bool {
        if self.hides_dollar() && other.can_match_dollar() {
            return false;
        }
        let levels = &*other.levels;
        // `reach[n]`: the levels of this pattern handled so far can match the first `n` levels of the other pattern.
        let mut reach = vec![false; levels.len() + 1];
        reach[0] = true;
        let mut at = 0;
        while at < self.levels.len() {
            if let Level::Literal(text) = &self.levels[at] {
                let is_it = |level: &Level| matches!(level, Level::Literal(other) if other == text);
                for n in (1..reach.len()).rev() {
                    reach[n] = reach[n - 1] && is_it(&levels[n - 1]);
                }
                reach[0] = false;
                at += 1;
                continue;
            }
            // A run of wildcards matches a number of levels, or that number and more. The order within the run does not
            // matter.
            let run = self.levels[at..]
                .iter()
                .take_while(|level| !matches!(level, Level::Literal(_)));
            let (mut ones, mut open) = (0, false);
            for level in run {
                at += 1;
                match level {
                    Level::Many => open = true,
                    _ => ones += 1,
                }
            }
            reach = run_reach(&reach, levels, ones, open);
        }
        reach[levels.len()]
    }

    /// Whether a key can exist that both patterns match.
    pub fn overlaps(&self, other: &Pattern) -> bool {
        let begins_with_dollar =
            |p: &Pattern| matches!(p.levels.first(), Some(Level::Literal(text)) if text.starts_with('$'));
        if (self.hides_dollar() && begins_with_dollar(other)) || (other.hides_dollar() && begins_with_dollar(self)) {
            return false;
        }
        // `row[m]`: level `n` and all after it of this pattern overlap with level `m` and all after it of the other.
        let (mine, theirs) = (&*self.levels, &*other.levels);
        let mut row = vec![false; theirs.len() + 1];
        for n in (0..=mine.len()).rev() {
            let below = std::mem::replace(&mut row, vec![false; theirs.len() + 1]);
            for m in (0..=theirs.len()).rev() {
                row[m] = match (mine.get(n), theirs.get(m)) {
                    (None, None) => true,
                    (Some(Level::Many), Some(_)) => below[m] || row[m + 1],
                    (Some(Level::Many), None) => below[m],
                    (Some(_), Some(Level::Many)) => below[m] || row[m + 1],
                    (None, Some(Level::Many)) => row[m + 1],
                    (Some(Level::Literal(a)), Some(Level::Literal(b))) => a == b && below[m + 1],
                    (Some(_), Some(_)) => below[m + 1],
                    (None, Some(_)) | (Some(_), None) => false,
                };
            }
        }
        row[0]
    }

    /// Whether it can match a topic that starts with `$`.
    fn can_match_dollar(&self) -> bool {
        match self.levels.first() {
            Some(Level::Literal(text)) => text.starts_with('$'),
            Some(Level::One | Level::Many) => self.dialect != Dialect::Slash,
            None => false,
        }
    }

    /// The pattern with each literal level replaced by what `replace` returns. Wildcards and separators in that text
    /// are ordinary characters. `None` if `replace` returns `None` for any level.
    pub(crate) fn replaced(&self, mut replace: impl FnMut(&str) -> Option<Box<str>>) -> Option<Pattern> {
        let levels = self.levels.iter().map(|level| match level {
            Level::Literal(text) => replace(text).map(Level::Literal),
            wildcard => Some(wildcard.clone()),
        });
        Some(Pattern {
            levels: levels.collect::<Option<_>>()?,
            dialect: self.dialect,
        })
    }

    /// Whether the pattern matches a key.
    pub fn matches(&self, key: &Levels<'_>) -> bool {
        self.matches_by(key, |text, found| text == found)
    }

    /// Whether the pattern matches a key, where `same` decides whether a literal level matches a level of the key.
    pub(crate) fn matches_by(&self, key: &Levels<'_>, same: impl Fn(&str, &str) -> bool) -> bool {
        if self.hides_dollar() && key.is_dollar() {
            return false;
        }
        // As with file globs, backtracking to the last `Many` is enough: if an earlier one could match more levels, the
        // last one can match them instead. So the work is bounded by the product of the lengths.
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
                (Some(Level::Literal(text)), Some(found)) if same(text, found) => {
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

/// Which places of `levels` a run of wildcards reaches from the places in `from`: exactly `ones` levels further, or
/// also any place behind that if `open`.
fn run_reach(from: &[bool], levels: &[Level], ones: usize, open: bool) -> Vec<bool> {
    let mut reach = vec![false; from.len()];
    // `fixed[n]`: the number of levels before `n` that every key has, and of `Many` among them.
    let fixed: Vec<usize> = std::iter::once(0)
        .chain(levels.iter().scan(0, |sum, level| {
            *sum += usize::from(*level != Level::Many);
            Some(*sum)
        }))
        .collect();
    if open {
        // Starting at the earliest place leaves the most levels.
        let Some(start) = from.iter().position(|reached| *reached) else {
            return reach;
        };
        for n in start..reach.len() {
            reach[n] = fixed[n] - fixed[start] >= ones;
        }
        return reach;
    }
    for (start, _) in from.iter().enumerate().filter(|(_, reached)| **reached) {
        // A `Many` of the other pattern matches any number of levels, but this run a fixed number only.
        let end = start + ones;
        if end < reach.len() && fixed[end] - fixed[start] == ones {
            reach[end] = true;
        }
    }
    reach
}

/// Checks an MQTT topic filter without parsing it into a pattern.
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
        // A wildcard must be a level by itself, and `#` the last one.
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

/// The number of wildcards in a pattern's text.
pub(crate) fn wildcards(text: &str, dialect: Dialect) -> usize {
    let one = if dialect == Dialect::Slash { "+" } else { "*" };
    let levels = text.split(separator(dialect));
    levels.filter(|level| *level == one || *level == "#").count()
}

/// The number of levels in a pattern's text.
pub(crate) fn count_levels(text: &str, dialect: Dialect) -> usize {
    if text.is_empty() {
        0
    } else {
        text.split(separator(dialect)).count()
    }
}

/// The first level of a pattern's text; `None` if there is none or it is a wildcard.
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
    fn mqtt_filters_match_as_specified() {
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
    fn amqp_patterns_match_as_specified() {
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
        // AMQP has no rule for `$`.
        assert!(dot("#", "$SYS.x") && dot("*.x", "$SYS.x"));
    }

    fn covers(grant: &str, filter: &str) -> bool {
        let parse = |text| Pattern::parse(text, Slash).expect("valid");
        parse(grant).covers(&parse(filter))
    }

    #[test]
    fn a_filter_covers_narrower_filters() {
        for (grant, filter) in [
            ("a/b", "a/b"),
            ("a/+", "a/b"),
            ("a/+", "a/+"),
            ("a/#", "a"),
            ("a/#", "a/+/c/#"),
            ("a/#", "a/#"),
            ("+/#", "+"),
            ("+/#", "a/#"),
            ("#", "#"),
            ("#", "+/+"),
            ("+/b/#", "+/b/c"),
            ("$SYS/#", "$SYS/broker/#"),
        ] {
            assert!(covers(grant, filter), "{grant} covers {filter}");
        }
        for (grant, filter) in [
            ("a/b", "a/+"),
            ("a/b", "a/#"),
            ("a/+", "a/#"),
            ("a/+", "a"),
            ("a/+", "a/b/c"),
            ("a/#", "#"),
            ("a/#", "+/b"),
            ("+/+", "#"),
            ("+/b/#", "+/+/c"),
            // MQTT 5 4.7.2: `#` does not match `$SYS`.
            ("#", "$SYS/#"),
            ("+/x", "$SYS/x"),
        ] {
            assert!(!covers(grant, filter), "{grant} does not cover {filter}");
        }
    }

    /// A covering pattern matches every key that the covered one matches. For a pattern that is not covered, some key
    /// shows it.
    #[test]
    fn covering_agrees_with_matching() {
        let words = ["a", "b", "*", "#"];
        let mut patterns = vec![String::new()];
        let mut keys = vec![String::new()];
        for length in 1..=4 {
            let longer = |of: &[String], words: &[&str]| -> Vec<String> {
                let shorter = of
                    .iter()
                    .filter(|p| p.split('.').filter(|w| !w.is_empty()).count() == length - 1);
                let joined = |p: &String, w: &str| if p.is_empty() { w.to_owned() } else { format!("{p}.{w}") };
                shorter.flat_map(|p| words.iter().map(move |w| joined(p, w))).collect()
            };
            if length <= 3 {
                let more = longer(&patterns, &words);
                patterns.extend(more);
            }
            let more = longer(&keys, &["a", "b", "x"]);
            keys.extend(more);
        }
        let patterns: Vec<Pattern> = patterns
            .iter()
            .map(|p| Pattern::parse(p, Dot).expect("valid"))
            .collect();
        let keys: Vec<Levels<'_>> = keys.iter().map(|key| Levels::new(key, Dot)).collect();
        for grant in &patterns {
            for inner in &patterns {
                let within = keys.iter().all(|key| !inner.matches(key) || grant.matches(key));
                assert_eq!(grant.covers(inner), within, "{grant:?} and {inner:?}");
            }
        }
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

    #[test]
    fn patterns_overlap_where_one_key_matches_both() {
        for (a, b, expected) in [
            ("a/b", "a/b", true),
            ("a/+", "+/b", true),
            ("a/#", "+/b/c", true),
            ("a/#", "a", true),
            ("#", "a/b", true),
            ("#", "$SYS/a", false),
            ("+/a", "$SYS/a", false),
            ("$SYS/#", "$SYS/+/a", true),
            ("a/+", "a", false),
            ("a/+/c", "a/b/d", false),
            ("a/b/#", "a/c/#", false),
            ("plant/+/temp", "plant/secret/#", true),
        ] {
            let (one, other) = (Pattern::parse(a, Slash).expect(a), Pattern::parse(b, Slash).expect(b));
            assert_eq!(one.overlaps(&other), expected, "{a} {b}");
            assert_eq!(other.overlaps(&one), expected, "{b} {a}");
        }
        // AMQP permits `#` in the middle.
        for (a, b, expected) in [
            ("a.#.z", "#.m.#", true),
            ("a.#.z", "a.z", true),
            ("a.#.z", "*.y", false),
        ] {
            let (one, other) = (Pattern::parse(a, Dot).expect(a), Pattern::parse(b, Dot).expect(b));
            assert_eq!(one.overlaps(&other), expected, "{a} {b}");
            assert_eq!(other.overlaps(&one), expected, "{b} {a}");
        }
    }
}
