//! Topics and patterns as lists of levels, and the two dialects that spell them.
//!
//! All matching compares levels, so that a dot inside an MQTT level and a slash inside an AMQP word are ordinary
//! characters. A key that goes from one dialect to the other has its levels respelled, one to one ([`Spelling`]):
//!
//! | dialect | level separator | escapes |
//! |---|---|---|
//! | dot | `.`; the empty key has no level | `%2E` for `.` |
//! | slash | `/`; empty levels count | `%2F`, `%2B`, `%23` for `/`, `+`, `#` |
//!
//! To write text that looks like one of these escapes, another `25` goes behind its `%`: the level `%2E` is spelled
//! `%252E` in the dot dialect. In the slash dialect it is spelled `%2E`, which is no escape there. Every other `%`
//! stands for itself: `a%b` and `a%25b` are two topics in every dialect.

use crate::message::{Dialect, KEY_MAX};
use smallvec::SmallVec;
use std::borrow::Cow;

mod ids;
mod pattern;
mod spelling;
pub(crate) mod trie;

pub(crate) use ids::Ids;
pub use pattern::{InvalidFilter, Level, Pattern};
pub(crate) use pattern::{check_filter, count_levels, first_literal, wildcards};
pub use spelling::Spelling;
pub(crate) use trie::{Trie, Walk};

/// The first level of topics that the broker publishes about itself. No wildcard matches it, in any dialect: an AMQP
/// queue bound with `#` wants what applications publish, not dozens of statistics every few seconds.
pub const BROKER_LEVEL: &str = "$SYS";

/// Whether this is a topic that the broker publishes about itself.
pub(crate) fn is_broker_topic(topic: &str, dialect: Dialect) -> bool {
    // Compare the first byte before the rest: this runs for every topic whose route is not remembered.
    dialect == Dialect::Slash
        && topic.as_bytes().first() == Some(&b'$')
        && topic
            .strip_prefix(BROKER_LEVEL)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The most levels in a topic filter. It limits how many nodes one subscription adds to the trie.
pub const LEVELS_MAX: usize = 200;

/// The levels of a routing key, escapes decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels<'a>(SmallVec<[Cow<'a, str>; 12]>);

impl<'a> Levels<'a> {
    /// Splits `key` into levels.
    pub fn new(key: &'a str, dialect: Dialect) -> Levels<'a> {
        if key.is_empty() && dialect == Dialect::Dot {
            return Levels(SmallVec::new());
        }
        let mut levels = SmallVec::new();
        let mut from = 0;
        let has_escapes = each_separator(key.as_bytes(), dialect, |at| {
            levels.push(Cow::Borrowed(&key[from..at]));
            from = at + 1;
        });
        levels.push(Cow::Borrowed(&key[from..]));
        if has_escapes {
            for level in &mut levels {
                if let Cow::Borrowed(text) = *level {
                    *level = decode(text, dialect);
                }
            }
        }
        Levels(levels)
    }

    /// The levels in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator {
        self.0.iter().map(|level| &**level)
    }

    /// The number of levels.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no levels. Only the empty key of the dot dialect has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The level at `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        self.0.get(index).map(|level| &**level)
    }

    /// Whether the first level starts with `$`. Leading wildcards of the slash dialect do not match such topics.
    pub fn is_dollar(&self) -> bool {
        // MQTT 5 4.7.2 [MQTT-4.7.2-1]
        self.get(0).is_some_and(|level| level.starts_with('$'))
    }
}

impl FromIterator<String> for Levels<'_> {
    /// From levels whose escapes are decoded already.
    fn from_iter<I: IntoIterator<Item = String>>(levels: I) -> Self {
        Levels(levels.into_iter().map(Cow::Owned).collect())
    }
}

/// Calls `found` with the place of each separator of `key`, in order. Returns whether there is a `%`, which may begin
/// an escape. Levels are short, so a search for each next separator would cost more than it skips: this one compares
/// eight bytes at a time.
#[inline]
pub(crate) fn each_separator(key: &[u8], dialect: Dialect, mut found: impl FnMut(usize)) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const LOW: u64 = 0x7F * ONES;
    // Sets the high bit of each byte of `word` that equals `octet`.
    let equal = |word: u64, octet: u8| {
        let differs = word ^ (u64::from(octet) * ONES);
        !(((differs & LOW) + LOW) | differs | LOW)
    };
    let separator = separator(dialect) as u8;
    let mut has_percent = false;
    let (words, rest) = key.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        has_percent |= equal(word, b'%') != 0;
        let mut separators = equal(word, separator);
        while separators != 0 {
            found(index * 8 + separators.trailing_zeros() as usize / 8);
            separators &= separators - 1;
        }
    }
    for (at, octet) in rest.iter().enumerate() {
        has_percent |= *octet == b'%';
        if *octet == separator {
            found(words.len() * 8 + at);
        }
    }
    has_percent
}

/// Respells `key` from one dialect in the other. What the target cannot write within a level is escaped. `None` if the
/// target has no such name: an MQTT topic is never empty, has no NUL and at most 65,535 bytes.
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
    // The empty key of the dot dialect has no level and the slash dialect no such topic; both were handled above.
    let text = Spelling::of(from).respell(key, Spelling::of(to));
    (text.len() <= KEY_MAX).then_some(Cow::Owned(text))
}

/// Spells levels, whose escapes are decoded, as one name.
pub(crate) fn spell(levels: impl Iterator<Item = String>, dialect: Dialect) -> String {
    let mut name = String::new();
    for (index, level) in levels.enumerate() {
        if index > 0 {
            name.push(separator(dialect));
        }
        Spelling::of(dialect).write(&level, &mut name);
    }
    name
}

fn separator(dialect: Dialect) -> char {
    match dialect {
        Dialect::Dot => '.',
        Dialect::Slash => '/',
    }
}

pub(crate) fn separator_text(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Dot => ".",
        Dialect::Slash => "/",
    }
}

fn decode(level: &str, dialect: Dialect) -> Cow<'_, str> {
    if !level.contains('%') {
        return Cow::Borrowed(level);
    }
    Spelling::of(dialect).read(level)
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
    fn separators_are_found_at_every_place_and_no_other_byte_is() {
        // Bytes next to the separators and to `%`, and bytes with the high bit set.
        let others = ["a", "-", "0", ",", "$", "&", "\u{0}", "\u{7f}", "é", "\u{ffff}"];
        for length in 0..40 {
            for at in 0..length {
                for other in others {
                    let mut octets: Vec<u8> = other.bytes().cycle().take(length).collect();
                    octets[at] = b'/';
                    let seen = |octets: &[u8]| {
                        let mut seen = Vec::new();
                        let has_percent = each_separator(octets, Slash, |at| seen.push(at));
                        (seen, has_percent)
                    };
                    assert_eq!(seen(&octets), (vec![at], false), "{other:?}");
                    octets[length - 1] = b'/';
                    let mut both = vec![at, length - 1];
                    both.dedup();
                    assert_eq!(seen(&octets), (both, false), "{other:?}");
                    octets[at] = b'%';
                    assert!(seen(&octets).1);
                }
            }
        }
    }

    #[test]
    fn only_the_escapes_of_the_dialect_are_decoded() {
        assert_eq!(levels("v1%2E5.s%2Fx", Dot), ["v1.5", "s%2Fx"]);
        assert_eq!(levels("v1%2E5/s%2Fx%2B%23", Slash), ["v1%2E5", "s/x+#"]);
        assert_eq!(levels("100%.%2e.%252E.%", Dot), ["100%", "%2e", "%2E", "%"]);
        assert_eq!(levels("a%2", Dot), ["a%2"]);
        assert_eq!(levels("%%2E%é", Dot), ["%.%é"]);
        // `%25` alone escapes nothing. An earlier version read both as `a%b`.
        assert_eq!(levels("a%25b.a%b", Dot), ["a%25b", "a%b"]);
        assert_eq!(levels("a%25b/a%b", Slash), ["a%25b", "a%b"]);
        assert_eq!(levels("%25252E%2E.%2525", Dot), ["%252E.", "%2525"]);
        assert_eq!(levels("%25%2E", Dot), ["%25."]);
    }

    #[test]
    fn translation_escapes_characters_that_are_special_in_the_other_dialect() {
        let cases = [
            ("plant/1/temp", "plant.1.temp"),
            ("v1.5/s.x", "v1%2E5.s%2Ex"),
            ("/lead//dbl/", ".lead..dbl."),
            ("x%2Fy/z", "x/y.z"),
            ("a%2Bb/%23c", "a+b.#c"),
            ("a*b/c", "a*b.c"),
            ("50%/x", "50%.x"),
            ("a%2Eb/c", "a%252Eb.c"),
            ("a%252Eb/c", "a%25252Eb.c"),
            ("a%252Fb", "a%2Fb"),
            ("a%25b", "a%25b"),
            ("a%b", "a%b"),
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
    fn mqtt_has_no_topic_for_an_empty_key_a_nul_or_a_very_long_key() {
        assert_eq!(translate("", Dot, Slash), None);
        assert_eq!(translate("a\0b", Dot, Slash), None);
        assert_eq!(translate(&"+".repeat(30_000), Dot, Slash), None);
    }

    /// Names made of up to three pieces that could be mistaken for something else.
    fn names() -> Vec<String> {
        let pieces = [
            "%", "25", "2E", "2F", "2B", "23", "2e", "%25", "%2E", "%2F", "%2B", "%23", ".", "/", "+", "#", "*", "a",
            "é",
        ];
        let mut names: Vec<String> = pieces.iter().map(|piece| (*piece).to_owned()).collect();
        for first in pieces {
            for second in pieces {
                names.push(format!("{first}{second}"));
                names.extend(pieces.iter().map(|third| format!("{first}{second}{third}")));
            }
        }
        names.sort();
        names.dedup();
        names
    }

    #[test]
    fn different_names_of_a_dialect_have_different_levels() {
        for dialect in [Dot, Slash] {
            // In the slash dialect the name of a topic contains no wildcard.
            let names = names()
                .into_iter()
                .filter(|name| dialect == Dot || !name.contains(['+', '#']));
            let mut read: Vec<Vec<String>> = names.map(|name| levels(&name, dialect)).collect();
            let before = read.len();
            read.sort();
            read.dedup();
            assert_eq!(read.len(), before, "{dialect:?}");
        }
    }

    #[test]
    fn every_name_survives_every_round_trip_letter_by_letter() {
        for name in names() {
            let dot = translate(&name, Slash, Dot).expect("the dot dialect can spell every name");
            assert_eq!(levels(&name, Slash), levels(&dot, Dot), "{name} as {dot}");
            // A name that MQTT permits comes back unchanged.
            if !name.contains(['+', '#']) {
                assert_eq!(translate(&dot, Dot, Slash).as_deref(), Some(&*name), "{name} as {dot}");
            }
            let slash = translate(&name, Dot, Slash).expect("not empty");
            assert!(!slash.contains(['+', '#']), "{slash}");
            assert_eq!(levels(&name, Dot), levels(&slash, Slash), "{name} as {slash}");
            assert_eq!(
                translate(&slash, Slash, Dot).as_deref(),
                Some(&*name),
                "{name} as {slash}"
            );
        }
    }

    #[test]
    fn a_pattern_without_wildcards_matches_its_own_name_only() {
        let names: Vec<String> = names().into_iter().step_by(29).collect();
        for dialect in [Dot, Slash] {
            let wild = |name: &str| name.split(['.', '/']).any(|level| matches!(level, "+" | "*" | "#"));
            for text in names.iter().filter(|name| !wild(name)) {
                let Ok(pattern) = Pattern::parse(text, dialect) else {
                    continue;
                };
                for key in names.iter().filter(|key| dialect == Dot || !key.contains(['+', '#'])) {
                    assert_eq!(
                        pattern.matches(&Levels::new(key, dialect)),
                        text == key,
                        "{text} and {key}"
                    );
                    let other = if dialect == Dot { Slash } else { Dot };
                    if let Some(crossed) = translate(key, dialect, other) {
                        let found = pattern.matches(&Levels::new(&crossed, other));
                        assert_eq!(found, text == key, "{text} and {crossed}");
                    }
                }
            }
        }
    }
}
