//! Topics and patterns as lists of levels, and the two spellings of them.
//!
//! All matching runs on levels, so that a dot inside an MQTT level and a slash inside an AMQP word are ordinary
//! characters. Where a key crosses dialects, a character that is special in the target is written `%XX` there, and
//! exactly these escapes are decoded again on the way in:
//!
//! | dialect | level separator | escapes |
//! |---|---|---|
//! | dot | `.`; the empty key has no level | `%2E` for `.`, `%25` for `%` |
//! | slash | `/`; empty levels count | `%2F`, `%2B`, `%23` for `/`, `+`, `#`, `%25` for `%` |
//!
//! A `%` that starts none of its dialect's escapes stands for itself, and is written as it is where it cannot be
//! mistaken for one.

use crate::message::{Dialect, KEY_MAX};
use smallvec::SmallVec;
use std::borrow::Cow;

mod pattern;
mod trie;

pub use pattern::{InvalidFilter, Level, Pattern};
pub(crate) use pattern::{check_filter, first_literal};
pub use trie::Trie;

/// Levels of a topic filter at most. Keeps one subscription from growing the trie without measure.
pub const LEVELS_MAX: usize = 200;

/// The levels of a routing key, escapes decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels<'a>(SmallVec<[Cow<'a, str>; 12]>);

impl<'a> Levels<'a> {
    /// Divides `key`.
    pub fn new(key: &'a str, dialect: Dialect) -> Levels<'a> {
        if key.is_empty() && dialect == Dialect::Dot {
            return Levels(SmallVec::new());
        }
        Levels(
            key.split(separator(dialect))
                .map(|level| decode(level, dialect))
                .collect(),
        )
    }

    /// In order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator {
        self.0.iter().map(|level| &**level)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none: the empty key in the dot dialect.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The level at `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        self.0.get(index).map(|level| &**level)
    }

    /// Whether the first level starts with `$`, which hides the topic from leading wildcards of the slash dialect.
    pub fn is_dollar(&self) -> bool {
        // MQTT 5 4.7.2 [MQTT-4.7.2-1]
        self.get(0).is_some_and(|level| level.starts_with('$'))
    }
}

impl FromIterator<String> for Levels<'_> {
    /// Of levels whose escapes are decoded already.
    fn from_iter<I: IntoIterator<Item = String>>(levels: I) -> Self {
        Levels(levels.into_iter().map(Cow::Owned).collect())
    }
}

/// Respells `key` from one dialect in the other, escaping what the target cannot say. `None` if it cannot be said at
/// all there: MQTT has no empty topic, no NUL, and nothing longer than 65,535 bytes.
pub fn translate(key: &str, from: Dialect, to: Dialect) -> Option<Cow<'_, str>> {
    if from == to {
        return Some(Cow::Borrowed(key));
    }
    if to == Dialect::Slash && (key.is_empty() || key.contains('\0')) {
        return None;
    }
    // Nothing to decode and nothing to escape: only the separators change.
    let plain = match to {
        Dialect::Slash => !key.bytes().any(|b| matches!(b, b'/' | b'+' | b'#' | b'%')),
        Dialect::Dot => !key.bytes().any(|b| matches!(b, b'.' | b'%')),
    };
    if plain {
        if !key.contains(separator(from)) {
            return Some(Cow::Borrowed(key));
        }
        return Some(Cow::Owned(key.replace(separator(from), separator_text(to))));
    }
    let mut text = String::with_capacity(key.len() + 8);
    for (index, level) in Levels::new(key, from).iter().enumerate() {
        if index > 0 {
            text.push_str(separator_text(to));
        }
        encode(level, to, &mut text);
    }
    (text.len() <= KEY_MAX).then_some(Cow::Owned(text))
}

fn separator(dialect: Dialect) -> char {
    match dialect {
        Dialect::Dot => '.',
        Dialect::Slash => '/',
    }
}

fn separator_text(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Dot => ".",
        Dialect::Slash => "/",
    }
}

/// The character that the two digits after a `%` stand for, where they are one of the dialect's escapes.
fn escaped(digits: &[u8], dialect: Dialect) -> Option<char> {
    match (dialect, digits) {
        (_, b"25") => Some('%'),
        (Dialect::Dot, b"2E") => Some('.'),
        (Dialect::Slash, b"2F") => Some('/'),
        (Dialect::Slash, b"2B") => Some('+'),
        (Dialect::Slash, b"23") => Some('#'),
        _ => None,
    }
}

fn decode(level: &str, dialect: Dialect) -> Cow<'_, str> {
    if !level.contains('%') {
        return Cow::Borrowed(level);
    }
    let mut text = String::with_capacity(level.len());
    let mut rest = level;
    while let Some(at) = rest.find('%') {
        let (before, from) = rest.split_at(at);
        text.push_str(before);
        match from.as_bytes().get(1..3).and_then(|digits| escaped(digits, dialect)) {
            Some(c) => {
                text.push(c);
                rest = &from[3..];
            }
            None => {
                text.push('%');
                rest = &from[1..];
            }
        }
    }
    text.push_str(rest);
    Cow::Owned(text)
}

fn encode(level: &str, dialect: Dialect, out: &mut String) {
    for (at, c) in level.char_indices() {
        match (dialect, c) {
            (Dialect::Dot, '.') => out.push_str("%2E"),
            (Dialect::Slash, '/') => out.push_str("%2F"),
            (Dialect::Slash, '+') => out.push_str("%2B"),
            (Dialect::Slash, '#') => out.push_str("%23"),
            (_, '%')
                if level
                    .as_bytes()
                    .get(at + 1..at + 3)
                    .and_then(|d| escaped(d, dialect))
                    .is_some() =>
            {
                out.push_str("%25");
            }
            _ => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Dialect::{Dot, Slash};

    fn levels(key: &str, dialect: Dialect) -> Vec<String> {
        Levels::new(key, dialect).iter().map(str::to_owned).collect()
    }

    #[test]
    fn empty_levels_are_levels_and_the_empty_dot_key_has_none() {
        assert_eq!(levels("/lead//dbl/", Slash), ["", "lead", "", "dbl", ""]);
        assert_eq!(levels(".lead..dbl.", Dot), ["", "lead", "", "dbl", ""]);
        assert_eq!(levels("//", Slash).len(), 3);
        assert!(levels("", Dot).is_empty());
        assert_eq!(levels("", Slash), [""]);
        assert_eq!(levels(".", Dot), ["", ""]);
    }

    #[test]
    fn only_the_escapes_of_the_dialect_are_decoded() {
        assert_eq!(levels("v1%2E5.s%2Fx", Dot), ["v1.5", "s%2Fx"]);
        assert_eq!(levels("v1%2E5/s%2Fx%2B%23", Slash), ["v1%2E5", "s/x+#"]);
        assert_eq!(levels("100%.%2e.%252E.%", Dot), ["100%", "%2e", "%2E", "%"]);
        assert_eq!(levels("a%2", Dot), ["a%2"]);
        assert_eq!(levels("%%2E%é", Dot), ["%.%é"]);
    }

    #[test]
    fn translation_escapes_what_the_other_dialect_cannot_say() {
        let cases = [
            ("plant/1/temp", "plant.1.temp"),
            ("v1.5/s.x", "v1%2E5.s%2Ex"),
            ("/lead//dbl/", ".lead..dbl."),
            ("x%2Fy/z", "x/y.z"),
            ("a%2Bb/%23c", "a+b.#c"),
            ("a*b/c", "a*b.c"),
            ("50%/x", "50%.x"),
            ("a%2Eb/c", "a%252Eb.c"),
            ("plain", "plain"),
            ("/", "."),
        ];
        for (slash, dot) in cases {
            assert_eq!(translate(slash, Slash, Dot).as_deref(), Some(dot), "{slash}");
            assert_eq!(translate(dot, Dot, Slash).as_deref(), Some(slash), "{dot}");
        }
        assert!(matches!(translate("plain", Slash, Dot), Some(Cow::Borrowed("plain"))));
        assert!(matches!(translate("a.b%2E", Dot, Dot), Some(Cow::Borrowed("a.b%2E"))));
    }

    #[test]
    fn mqtt_cannot_say_an_empty_key_a_nul_or_a_very_long_one() {
        assert_eq!(translate("", Dot, Slash), None);
        assert_eq!(translate("a\0b", Dot, Slash), None);
        assert_eq!(translate(&"+".repeat(30_000), Dot, Slash), None);
    }

    #[test]
    fn any_key_survives_the_round_trip_as_levels() {
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        let alphabet = ['%', '2', 'E', 'F', '5', '3', 'B', '.', '/', '+', '#', '*', 'a', 'é'];
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..random % 13 + 1 {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                text.push(alphabet[(random >> 33) as usize % alphabet.len()]);
            }
            let dot = translate(&text, Slash, Dot).expect("dot can say all");
            assert_eq!(levels(&text, Slash), levels(&dot, Dot), "{text} as {dot}");
            let back = translate(&dot, Dot, Slash).expect("it came from there");
            assert_eq!(levels(&text, Slash), levels(&back, Slash), "{text} as {dot} as {back}");
            let slash = translate(&text, Dot, Slash).expect("not empty");
            assert!(!slash.contains(['+', '#']), "{slash}");
            assert_eq!(levels(&text, Dot), levels(&slash, Slash), "{text} as {slash}");
        }
    }
}
