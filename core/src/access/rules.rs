//! Topic patterns, indexed: whether one of them matches a topic.
//!
//! Where each device has its own topics there are many patterns, and every message whose route is not remembered is asked. So
//! a pattern is found by the levels that it begins with:
//!
//! ```text
//!   plant/app/17/+        begins with  plant app 17   and goes on with one level
//!   plant/{username}/#    begins with  plant          and is then compared as a whole
//!   #                     begins with  nothing
//! ```
//!
//! A topic is looked up once for each number of levels that some pattern begins with. It costs the same with ten patterns and
//! with ten thousand, but for those that begin alike and are compared as a whole. Nothing is allocated.

use super::{PLACEHOLDERS, TopicPattern, Who};
use crate::topic::{Level, Levels};
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

/// See the module.
#[derive(Default)]
pub(super) struct Rules {
    patterns: Vec<TopicPattern>,
    beginnings: Vec<Beginning>,
    /// Indices into `beginnings`. Never iterated.
    table: HashTable<u32>,
    /// Bit `n`: some pattern begins with `n` levels.
    depths: u64,
    hasher: RandomState,
}

/// The literal levels that some patterns begin with.
struct Beginning {
    hash: u64,
    levels: Box<[Box<str>]>,
    rests: Vec<Rest>,
}

/// How a pattern goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Not at all.
    Nothing,
    /// With any one level.
    One,
    /// With any number of levels.
    Many,
    /// In another way: the pattern of that number is compared as a whole.
    Pattern(u32),
}

/// Levels of a beginning at most: there is a bit for each number.
const DEPTH_MAX: usize = 63;

impl Rules {
    pub(super) fn new(patterns: Vec<TopicPattern>) -> Rules {
        let mut rules = Rules::default();
        for (number, pattern) in patterns.iter().enumerate() {
            rules.add(pattern, number as u32);
        }
        rules.patterns = patterns;
        rules
    }

    pub(super) fn patterns(&self) -> &[TopicPattern] {
        &self.patterns
    }

    fn add(&mut self, pattern: &TopicPattern, number: u32) {
        let all = pattern.pattern.levels();
        let literal = |level: &Level| match level {
            Level::Literal(text) if !PLACEHOLDERS.iter().any(|p| text.contains(p)) => Some(text.clone()),
            _ => None,
        };
        let levels: Box<[Box<str>]> = all.iter().map_while(literal).take(DEPTH_MAX).collect();
        let rest = match all.get(levels.len()..).unwrap_or_default() {
            // It does not match topics that begin with `$`, which is seen from the whole.
            _ if pattern.pattern.hides_dollar() => Rest::Pattern(number),
            [] => Rest::Nothing,
            [Level::One] => Rest::One,
            [Level::Many] => Rest::Many,
            _ => Rest::Pattern(number),
        };
        let hash = levels.iter().fold(0, |hash, level| self.step(hash, level));
        self.depths |= 1 << levels.len();
        let same = |&index: &u32| self.beginnings[index as usize].levels == levels;
        let index = match self.table.find(hash, same) {
            Some(index) => *index as usize,
            None => {
                let index = self.beginnings.len();
                self.beginnings.push(Beginning {
                    hash,
                    levels,
                    rests: Vec::new(),
                });
                let Rules { table, beginnings, .. } = self;
                table.insert_unique(hash, index as u32, |&index| beginnings[index as usize].hash);
                index
            }
        };
        let rests = &mut self.beginnings[index].rests;
        if !rests.contains(&rest) {
            rests.push(rest);
        }
    }

    /// The hash of a beginning with one more level.
    #[inline]
    fn step(&self, hash: u64, level: &str) -> u64 {
        const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
        (hash.rotate_left(23) ^ self.hasher.hash_one(level)).wrapping_mul(ODD)
    }

    /// Whether a pattern matches the topic, for one connection.
    pub(super) fn match_topic(&self, topic: &Levels<'_>, who: Who<'_>) -> bool {
        let mut hash = 0;
        for (depth, level) in topic.iter().map(Some).chain([None]).enumerate() {
            let left = self.depths.checked_shr(depth as u32).unwrap_or(0);
            if left == 0 {
                return false;
            }
            if left & 1 == 1 && self.match_rest(hash, depth, topic, who) {
                return true;
            }
            if let Some(level) = level {
                hash = self.step(hash, level);
            }
        }
        false
    }

    /// Whether a pattern does that begins with the first `depth` levels of the topic.
    fn match_rest(&self, hash: u64, depth: usize, topic: &Levels<'_>, who: Who<'_>) -> bool {
        let same = |&index: &u32| {
            let beginning = &self.beginnings[index as usize];
            let mut levels = beginning.levels.iter().zip(topic.iter());
            beginning.hash == hash && beginning.levels.len() == depth && levels.all(|(a, b)| **a == *b)
        };
        let Some(index) = self.table.find(hash, same) else {
            return false;
        };
        self.beginnings[*index as usize].rests.iter().any(|rest| match *rest {
            Rest::Nothing => topic.len() == depth,
            Rest::One => topic.len() == depth + 1,
            Rest::Many => true,
            Rest::Pattern(number) => self.patterns[number as usize].matches(topic, who),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Dialect;

    /// Against each pattern by itself, over all short texts of a small alphabet.
    #[test]
    fn a_topic_is_matched_as_by_each_pattern_alone() {
        let levels = ["a", "b", "", "{username}", "x{client_id}", "+", "*", "$s"];
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
        topics.extend(["u/a".into(), "a/u".into(), "a/xc/b".into(), "u".into(), "xc".into()]);
        let who = Who {
            user: "u",
            client_id: Some("c"),
            vhost: "/",
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
                    let topic = Levels::new(&topic, dialect);
                    let alone = some.iter().any(|pattern| pattern.matches(&topic, who));
                    assert_eq!(rules.match_topic(&topic, who), alone, "{some:?} {topic:?}");
                }
            }
        }
    }

    /// One bit for each number of levels: a pattern may have more of them.
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
                let topic = Levels::new(&topic, Dialect::Slash);
                assert_eq!(rules.match_topic(&topic, who), matches, "{levels} {other}");
            }
        }
        assert!(!Rules::default().match_topic(&Levels::new("a", Dialect::Slash), who));
    }
}
