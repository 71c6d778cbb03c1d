//! An index of topic patterns, which tells whether one of them matches a topic.
//!
//! If each device has its own topics there are many patterns, and each message whose route is not cached is checked. So
//! a pattern is found by its leading literal levels:
//!
//! ```text
//!   plant/app/17/+        begins with  plant app 17   and continues with one level
//!   plant/{username}/#    begins with  plant          and continues with a user's name and any number of levels
//!   #                     begins with  nothing
//! ```
//!
//! A topic is looked up once for each number of leading levels that occurs. Each beginning is in the table in the spelling of both
//! dialects. A topic with a `%`, which may be an escape, is looked up level by level. The cost does not depend on the number of
//! patterns, except for patterns with the same beginning that must be compared as a whole. Nothing is allocated.

use super::topics::{CLIENT_ID, PLACEHOLDERS, TopicPattern, USERNAME, VHOST, Who};
use crate::message::Dialect;
use crate::topic::{Level, Levels, each_separator, separator_text};
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;
use std::hash::{BuildHasher, Hasher};

/// The index.
#[derive(Default)]
pub(super) struct Rules {
    patterns: Vec<TopicPattern>,
    /// How each pattern continues; `None`: it is compared as a whole.
    tails: Vec<Option<Tail>>,
    beginnings: Vec<Beginning>,
    /// Each beginning in each dialect. Never iterated.
    table: HashTable<Entry>,
    /// Bit `n`: some pattern begins with `n` levels.
    depths: u64,
    hasher: RandomState,
}

/// The literal levels that some patterns begin with.
struct Beginning {
    levels: Box<[Box<str>]>,
    /// The levels joined by the separator of each of [`DIALECTS`]. A topic without escapes begins with these levels if its text
    /// and its number of levels are the same up to here: a separator within a level would change the number.
    texts: [Box<str>; 2],
    rests: Vec<Rest>,
}

const DIALECTS: [Dialect; 2] = [Dialect::Dot, Dialect::Slash];

/// A beginning in the spelling of one dialect.
struct Entry {
    hash: u64,
    /// Index in `Rules::beginnings`.
    index: u32,
    /// Index in [`DIALECTS`].
    dialect: u8,
}

/// How a pattern continues behind its beginning.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// It ends.
    Nothing,
    /// With any one level.
    One,
    /// With any number of levels.
    Many,
    /// Otherwise: like the pattern with that number.
    Pattern(u32),
}

/// How a pattern continues, level by level.
struct Tail {
    steps: Box<[Step]>,
    /// Any number of levels may follow.
    is_open: bool,
}

/// What one level must be.
enum Step {
    Any,
    /// These texts, one after the other.
    Text(Box<[Part]>),
}

/// A part of a level.
enum Part {
    Text(Box<str>),
    Username,
    ClientId,
    Vhost,
}

impl Tail {
    /// `None` if a `#` is between other levels, because that needs backtracking.
    fn new(levels: &[Level]) -> Option<Tail> {
        let (levels, is_open) = match levels {
            [levels @ .., Level::Many] => (levels, true),
            levels => (levels, false),
        };
        let step = |level: &Level| match level {
            Level::One => Some(Step::Any),
            Level::Literal(text) => Some(Step::Text(parts(text))),
            Level::Many => None,
        };
        let steps = levels.iter().map(step).collect::<Option<_>>()?;
        Some(Tail { steps, is_open })
    }

    /// Whether the levels behind the first `depth` match. `ends`: the ends of the levels of `key`, which has no
    /// escapes.
    fn matches(&self, key: &[u8], ends: &[u32], depth: usize, who: Who<'_>) -> bool {
        let levels = depth + self.steps.len();
        if ends.len() < levels || (ends.len() > levels && !self.is_open) {
            return false;
        }
        let mut from = depth.checked_sub(1).map_or(0, |last| ends[last] as usize + 1);
        self.steps.iter().zip(&ends[depth..]).all(|(step, end)| {
            let level = &key[from..*end as usize];
            from = *end as usize + 1;
            match step {
                Step::Any => true,
                Step::Text(parts) => {
                    let rest = parts.iter().try_fold(level, |rest, part| part.strip(rest, who));
                    rest.is_some_and(<[u8]>::is_empty)
                }
            }
        })
    }
}

impl Part {
    /// The rest of a level behind this part.
    fn strip<'l>(&self, level: &'l [u8], who: Who<'_>) -> Option<&'l [u8]> {
        let text = match self {
            Part::Text(text) => text,
            Part::Username => who.user,
            Part::ClientId => who.client_id?,
            Part::Vhost => who.vhost,
        };
        level.strip_prefix(text.as_bytes())
    }
}

/// A level of a pattern, split into text and placeholders.
fn parts(level: &str) -> Box<[Part]> {
    let mut parts = Vec::new();
    let (mut from, mut at) = (0, 0);
    while let Some(found) = level[at..].find('{') {
        at += found;
        let known = [
            (USERNAME, Part::Username),
            (CLIENT_ID, Part::ClientId),
            (VHOST, Part::Vhost),
        ];
        let Some((name, part)) = known.into_iter().find(|(name, _)| level[at..].starts_with(name)) else {
            at += 1;
            continue;
        };
        if from < at {
            parts.push(Part::Text(level[from..at].into()));
        }
        parts.push(part);
        at += name.len();
        from = at;
    }
    if from < level.len() {
        parts.push(Part::Text(level[from..].into()));
    }
    parts.into()
}

/// The most levels of a beginning, because there is one bit for each number.
const DEPTH_MAX: usize = 63;

impl Rules {
    pub(super) fn new(patterns: Vec<TopicPattern>) -> Rules {
        let mut rules = Rules::default();
        for (number, pattern) in patterns.iter().enumerate() {
            let depth = rules.add(pattern, number as u32);
            // A leading wildcard does not match topics that begin with `$`, so it must be compared as a whole.
            let tail = (!pattern.pattern.hides_dollar()).then(|| Tail::new(&pattern.pattern.levels()[depth..]));
            rules.tails.push(tail.flatten());
        }
        rules.patterns = patterns;
        rules
    }

    pub(super) fn patterns(&self) -> &[TopicPattern] {
        &self.patterns
    }

    /// Adds a pattern, and returns the number of levels by which it is found.
    fn add(&mut self, pattern: &TopicPattern, number: u32) -> usize {
        let all = pattern.pattern.levels();
        let literal = |level: &Level| match level {
            Level::Literal(text) if !PLACEHOLDERS.iter().any(|p| text.contains(p)) => Some(text.clone()),
            _ => None,
        };
        let levels: Box<[Box<str>]> = all.iter().map_while(literal).take(DEPTH_MAX).collect();
        let rest = match all.get(levels.len()..).unwrap_or_default() {
            _ if pattern.pattern.hides_dollar() => Rest::Pattern(number),
            [] => Rest::Nothing,
            [Level::One] => Rest::One,
            [Level::Many] => Rest::Many,
            _ => Rest::Pattern(number),
        };
        let depth = levels.len();
        self.depths |= 1 << depth;
        let texts = DIALECTS.map(|dialect| levels.join(separator_text(dialect)).into_boxed_str());
        let hash = self.hash(texts[0].as_bytes());
        let same = |entry: &Entry| entry.dialect == 0 && self.beginnings[entry.index as usize].levels == levels;
        let index = match self.table.find(hash, same) {
            Some(entry) => entry.index as usize,
            None => {
                let index = self.beginnings.len();
                for (dialect, text) in texts.iter().enumerate() {
                    let entry = Entry {
                        hash: self.hash(text.as_bytes()),
                        index: index as u32,
                        dialect: dialect as u8,
                    };
                    self.table.insert_unique(entry.hash, entry, |entry| entry.hash);
                }
                self.beginnings.push(Beginning {
                    levels,
                    texts,
                    rests: Vec::new(),
                });
                index
            }
        };
        let rests = &mut self.beginnings[index].rests;
        if !rests.contains(&rest) {
            rests.push(rest);
        }
        depth
    }

    fn hash(&self, text: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(text);
        hasher.finish()
    }

    /// Whether a pattern matches the topic `key`, for one connection.
    pub(super) fn match_topic(&self, key: &[u8], dialect: Dialect, who: Who<'_>) -> bool {
        if self.depths == 0 {
            return false;
        }
        // The byte offsets at which levels end.
        let mut ends: SmallVec<[u32; 16]> = SmallVec::new();
        let has_escapes = each_separator(key, dialect, |at| ends.push(at as u32));
        if !key.is_empty() || dialect == Dialect::Slash {
            ends.push(key.len() as u32);
        }
        if has_escapes {
            return self.match_escaped(key, dialect, who);
        }
        let place = u8::from(dialect == Dialect::Slash);
        let mut depths = self.depths;
        // The longest beginning first, because the rest is usually cheap to compare.
        while depths != 0 {
            let depth = depths.ilog2() as usize;
            depths &= !(1 << depth);
            let end = match depth.checked_sub(1).map(|last| ends.get(last)) {
                None => 0,
                Some(Some(end)) => *end as usize,
                Some(None) => continue,
            };
            let text = &key[..end];
            let same = |entry: &Entry| {
                let beginning = &self.beginnings[entry.index as usize];
                entry.dialect == place
                    && beginning.levels.len() == depth
                    && beginning.texts[usize::from(place)].as_bytes() == text
            };
            let whole = |number: usize| match &self.tails[number] {
                Some(tail) => tail.matches(key, &ends, depth, who),
                None => self.patterns[number].matches(&topic(key, dialect), who),
            };
            if let Some(entry) = self.table.find(self.hash(text), same)
                && self.match_rest(entry.index, depth, ends.len(), whole)
            {
                return true;
            }
        }
        false
    }

    /// The same for a topic with a `%`: its levels contain escapes, so they are decoded and compared one by one.
    #[cold]
    fn match_escaped(&self, key: &[u8], dialect: Dialect, who: Who<'_>) -> bool {
        let levels = topic(key, dialect);
        let mut text = String::new();
        for (depth, level) in levels.iter().map(Some).chain([None]).enumerate() {
            let left = self.depths.checked_shr(depth as u32).unwrap_or(0);
            if left == 0 {
                return false;
            }
            let same = |entry: &Entry| {
                let beginning = &self.beginnings[entry.index as usize];
                let mut pairs = beginning.levels.iter().zip(levels.iter());
                entry.dialect == 0 && beginning.levels.len() == depth && pairs.all(|(a, b)| **a == *b)
            };
            if left & 1 == 1
                && let Some(entry) = self.table.find(self.hash(text.as_bytes()), same)
                && self.match_rest(entry.index, depth, levels.len(), |number| {
                    self.patterns[number].matches(&levels, who)
                })
            {
                return true;
            }
            if let Some(level) = level {
                if depth > 0 {
                    text.push_str(separator_text(DIALECTS[0]));
                }
                text.push_str(level);
            }
        }
        false
    }

    /// Whether a pattern that shares the first `depth` levels with the topic also matches the rest. `matches`: whether
    /// the pattern with a number does.
    #[inline]
    fn match_rest(&self, beginning: u32, depth: usize, levels: usize, matches: impl Fn(usize) -> bool) -> bool {
        let rests = &self.beginnings[beginning as usize].rests;
        rests.iter().any(|rest| match *rest {
            Rest::Nothing => levels == depth,
            Rest::One => levels == depth + 1,
            Rest::Many => true,
            Rest::Pattern(number) => matches(number as usize),
        })
    }
}

/// The levels of a key. Keys are UTF-8: see `Message::key`.
fn topic(key: &[u8], dialect: Dialect) -> Levels<'_> {
    Levels::new(std::str::from_utf8(key).unwrap_or_default(), dialect)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compared with matching each pattern alone, over all short texts of a small alphabet.
    #[test]
    fn a_topic_is_matched_as_by_each_pattern_alone() {
        let levels = [
            "a",
            "b",
            "",
            "{username}",
            "x{client_id}",
            "{client_id}{{username}{vhost}",
            "+",
            "*",
            "$s",
            "a%2Fb",
            "b%2Ea",
            "a%25",
        ];
        let mut texts: Vec<String> = vec!["#".into()];
        let mut topics: Vec<String> = vec!["".into()];
        for a in levels {
            texts.extend([a.into(), format!("{a}/#")]);
            topics.push(a.into());
            for b in levels {
                texts.extend([format!("{a}/{b}"), format!("{a}/{b}/#"), format!("{a}/#/{b}")]);
                topics.extend([format!("{a}/{b}"), format!("{a}/{b}/a"), format!("{a}/b/{b}/u")]);
            }
        }
        topics.extend([
            "a.b/a".into(),
            "a/b.a".into(),
            "u/a".into(),
            "a/u".into(),
            "a/xc/b".into(),
            "u".into(),
            "xc".into(),
            "c{u/".into(),
            "a/c{uv".into(),
        ]);
        let who = Who {
            user: "u",
            client_id: Some("c"),
            vhost: "v",
        };
        let mut state = 5u64;
        for dialect in [Dialect::Slash, Dialect::Dot] {
            let spelled = |text: &String| match dialect {
                Dialect::Slash => text.clone(),
                Dialect::Dot => text.replace('/', "."),
            };
            let parse = |text: &String| TopicPattern::parse(&spelled(text), dialect).ok();
            let patterns: Vec<TopicPattern> = texts.iter().filter_map(parse).collect();
            for _ in 0..200 {
                let some: Vec<TopicPattern> = (0..1 + state as usize % 9)
                    .map(|_| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        patterns[(state >> 33) as usize % patterns.len()].clone()
                    })
                    .collect();
                let rules = Rules::new(some.clone());
                for topic in &topics {
                    let topic = spelled(topic);
                    let levels = Levels::new(&topic, dialect);
                    let alone = some.iter().any(|pattern| pattern.matches(&levels, who));
                    let found = rules.match_topic(topic.as_bytes(), dialect, who);
                    assert_eq!(found, alone, "{some:?} {topic:?}");
                }
            }
        }
    }

    /// There is one bit for each number of levels, and a pattern may have more levels.
    #[test]
    fn a_pattern_may_begin_with_more_levels_than_there_are_bits() {
        let who = Who {
            user: "u",
            client_id: None,
            vhost: "/",
        };
        for levels in [DEPTH_MAX - 1, DEPTH_MAX, DEPTH_MAX + 1, 199] {
            let text = vec!["a"; levels].join("/");
            let rules = Rules::new(vec![TopicPattern::parse(&text, Dialect::Slash).unwrap()]);
            for (other, matches) in [(levels - 1, false), (levels, true), (levels + 1, false)] {
                let topic = vec!["a"; other].join("/");
                let found = rules.match_topic(topic.as_bytes(), Dialect::Slash, who);
                assert_eq!(found, matches, "{levels} {other}");
            }
        }
        assert!(!Rules::default().match_topic(b"a", Dialect::Slash, who));
    }
}
