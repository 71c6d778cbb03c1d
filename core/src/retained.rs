//! Retained messages: the last value of each topic, found by pattern.
//!
//! They lie in one ordered map, under their levels as octets:
//!
//! ```text
//!   plant ⟂ 1 ⟂ temp ⟂        each level ends in 00; a level's own 00 is 01 01, its own 01 is 01 02
//! ```
//!
//! So topics sort level by level, and all below a topic lie in one range behind it. A walk by pattern leaps: where a key
//! does not match it seeks the first one that could, and its place is just a key, which stays good whatever is set or
//! cleared between two steps.

use crate::ledger;
use crate::message::Message;
use crate::time::Wall;
use crate::topic::{BROKER_LEVEL, Level, Levels, Pattern};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// The retained messages of a vhost.
#[derive(Default)]
pub struct Retained {
    messages: BTreeMap<Key, Message>,
    /// Those of `messages` that expire.
    deadlines: BTreeSet<(Wall, Key)>,
    /// Dropped by expiry and not yet reported.
    expired: Vec<Message>,
    /// Sum over `messages` of what they occupy.
    bytes: usize,
}

/// Levels as octets: see the module.
type Key = Arc<[u8]>;

/// What [`Retained::set`] changed.
#[derive(Debug)]
pub enum Change {
    /// It is the topic's retained message now; the one it replaced, if any.
    Stored(Option<Message>),
    /// Its empty body cleared this one.
    Cleared(Message),
    /// Nothing was there to clear, or it has no topic (an empty key).
    Nothing,
}

/// A place in a walk over the retained messages that match a pattern. Sets and clears between two steps are harmless:
/// what is in front of the cursor is found as it is when the cursor comes there.
#[derive(Clone, Debug)]
pub struct Cursor {
    pattern: Pattern,
    /// Where the next look-up starts; `None` at the end.
    next: Option<Bound<Vec<u8>>>,
}

impl Retained {
    /// Makes `message` its topic's retained message, or clears the topic if its body is empty. The flag
    /// [`Envelope::retain`](crate::message::Envelope::retain) is not looked at.
    pub fn set(&mut self, message: &Message) -> Change {
        let key: Key = Retained::key_of(message).into();
        if key.is_empty() {
            // MQTT has no such topic, so nobody could ever be told of it, or clear it.
            return Change::Nothing;
        }
        let before = self.remove(&key);
        // MQTT 5 3.3.1.3 [MQTT-3.3.1-6], [MQTT-3.3.1-7]
        if message.body().is_empty() {
            return before.map_or(Change::Nothing, Change::Cleared);
        }
        // MQTT 5 3.3.1.3 [MQTT-3.3.1-5]
        self.bytes += memory(&key, message);
        if let Some(deadline) = message.envelope().deadline {
            self.deadlines.insert((deadline, Arc::clone(&key)));
        }
        self.messages.insert(key, message.clone());
        Change::Stored(before)
    }

    /// The topic's identity as octets, the same in both dialects: the key for the log. Empty for an empty key, which
    /// is not retained.
    pub fn key_of(message: &Message) -> Box<[u8]> {
        let mut octets = Vec::with_capacity(message.key_bytes().len() + 1);
        for level in Levels::new(message.key(), message.envelope().dialect).iter() {
            push_level(&mut octets, level);
        }
        octets.into()
    }

    /// Starts a walk over what matches `pattern`. `None` if it is plain that nothing does: most subscriptions begin with
    /// levels that no retained message has.
    pub fn matching(&self, pattern: Pattern) -> Option<Cursor> {
        // All that matches lies behind the literal levels it starts with.
        let mut start = Vec::new();
        for level in pattern.levels() {
            let Level::Literal(text) = level else { break };
            push_level(&mut start, text);
        }
        let from = (Bound::Included(&*start), Bound::Unbounded);
        let (first, _) = self.messages.range::<[u8], _>(from).next()?;
        let found = first.starts_with(&start);
        let next = Some(Bound::Included(start));
        found.then_some(Cursor { pattern, next })
    }

    /// Appends what the next `steps` look-ups find, in order of topics, and returns whether there may be more; what is
    /// left of `steps` stays there. Expired messages are dropped on the way: see [`Retained::take_expired`].
    pub fn next_batch(&mut self, cursor: &mut Cursor, now: Wall, steps: &mut usize, out: &mut Vec<Message>) -> bool {
        let mut outdated = Vec::new();
        let left = steps;
        'seek: while *left > 0 {
            let Some(start) = cursor.next.take() else { break };
            let mut last = None;
            for (key, message) in self.messages.range::<[u8], _>((as_slice(&start), Bound::Unbounded)) {
                if *left == 0 {
                    cursor.next = last.map(|key: &Key| Bound::Excluded(key.to_vec()));
                    break 'seek;
                }
                *left = left.saturating_sub(cost(&cursor.pattern, key));
                last = Some(key);
                match step(&cursor.pattern, key) {
                    Step::Match if message.envelope().deadline.is_some_and(|deadline| deadline <= now) => {
                        outdated.push(Arc::clone(key));
                    }
                    Step::Match => out.push(message.clone()),
                    Step::Next => {}
                    Step::Seek(target) => {
                        cursor.next = Some(Bound::Included(target));
                        continue 'seek;
                    }
                    Step::End => break 'seek,
                }
            }
            // That was the end of the map, and the cursor stays without a next place.
        }
        for key in outdated {
            let message = self.remove(&key);
            self.expired.extend(message);
        }
        cursor.next.is_some()
    }

    /// When the first message expires.
    pub fn next_expiry(&self) -> Option<Wall> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Drops at most `max` messages that have expired.
    pub fn expire(&mut self, now: Wall, max: usize) {
        for _ in 0..max {
            match self.deadlines.first() {
                Some((deadline, key)) if *deadline <= now => {
                    let key = Arc::clone(key);
                    let message = self.remove(&key);
                    self.expired.extend(message);
                }
                _ => return,
            }
        }
    }

    /// The messages that expiry dropped since the last call, for the log.
    pub fn take_expired(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.expired)
    }

    /// All of them, in order of topics, expired ones not yet dropped included.
    pub fn iter(&self) -> impl Iterator<Item = &Message> {
        self.messages.values()
    }

    /// Those whose topics come behind one, in order: see [`Retained::key_of`]. Without one, all.
    pub fn after(&self, key: Option<&[u8]>) -> impl Iterator<Item = &Message> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.messages
            .range::<[u8], _>((from, Bound::Unbounded))
            .map(|(_, message)| message)
    }

    /// Messages retained.
    pub fn count(&self) -> usize {
        self.messages.len()
    }

    /// Bytes of memory they occupy.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes by which [`Retained::set`] with this message would grow what is retained.
    pub fn growth(&self, message: &Message) -> usize {
        if message.body().is_empty() {
            return 0;
        }
        let key = Retained::key_of(message);
        let before = self.messages.get(&*key).map_or(0, |old| memory(&key, old));
        memory(&key, message).saturating_sub(before)
    }

    fn remove(&mut self, key: &Key) -> Option<Message> {
        let message = self.messages.remove(key)?;
        self.bytes -= memory(key, &message);
        if let Some(deadline) = message.envelope().deadline {
            self.deadlines.remove(&(deadline, Arc::clone(key)));
        }
        Some(message)
    }
}

/// How a walk goes on from a key.
#[derive(Debug, PartialEq)]
enum Step {
    /// It matches; the one behind it is next.
    Match,
    /// It does not; the one behind it may.
    Next,
    /// It does not, nor does any before this one.
    Seek(Vec<u8>),
    /// It does not, nor does any behind it.
    End,
}

/// Steps that one look-up costs: one, but a `#` in the midst of a pattern (which only AMQP's binding keys have) may compare
/// every level with every level.
fn cost(pattern: &Pattern, key: &[u8]) -> usize {
    let levels = pattern.levels();
    let before_last = levels.len().saturating_sub(1);
    if !levels
        .iter()
        .take(before_last)
        .any(|level| matches!(level, Level::Many))
    {
        return 1;
    }
    let of_key = key.iter().filter(|byte| **byte == TERMINATOR).count();
    1 + levels.len() * of_key / COMPARED_PER_STEP
}

/// Levels that are compared for the cost of a step.
const COMPARED_PER_STEP: usize = 8;

/// Compares `key` with a pattern, level by level.
fn step(pattern: &Pattern, key: &[u8]) -> Step {
    // MQTT 5 4.7.2 [MQTT-4.7.2-1]
    if pattern.hides_dollar() && key.first() == Some(&b'$') {
        return Step::Seek(vec![b'$' + 1]);
    }
    if matches!(pattern.levels().first(), Some(Level::One | Level::Many))
        && key.starts_with(BROKER_LEVEL.as_bytes())
        && level_end(key, 0) == Some(BROKER_LEVEL.len() + 1)
    {
        return behind(&key[..=BROKER_LEVEL.len()]);
    }
    let mut at = 0;
    let mut levels = pattern.levels().iter();
    while let Some(level) = levels.next() {
        let text = match level {
            Level::Many if levels.as_slice().is_empty() || whole(pattern, key) => return Step::Match,
            Level::Many => return Step::Next,
            Level::One => None,
            Level::Literal(text) => Some(text),
        };
        let Some(end) = level_end(key, at) else {
            // A topic above what the pattern asks for.
            return Step::Next;
        };
        if let Some(text) = text {
            let mut wanted = key[..at].to_vec();
            push_level(&mut wanted, text);
            match key[..end].cmp(&wanted) {
                std::cmp::Ordering::Less => return Step::Seek(wanted),
                std::cmp::Ordering::Greater => return behind(&key[..at]),
                std::cmp::Ordering::Equal => {}
            }
        }
        at = end;
    }
    if at == key.len() {
        Step::Match
    } else {
        behind(&key[..at])
    }
}

/// Goes on behind all topics that start with these levels.
fn behind(levels: &[u8]) -> Step {
    let mut target = levels.to_vec();
    match target.last_mut() {
        // Its own and those below go on with 00; whatever sorts behind them is at least this.
        Some(last) => {
            *last = TERMINATOR + 1;
            Step::Seek(target)
        }
        None => Step::End,
    }
}

/// Whether a pattern with a `#` in its midst matches.
fn whole(pattern: &Pattern, key: &[u8]) -> bool {
    let mut levels = Vec::new();
    let mut at = 0;
    while let Some(end) = level_end(key, at) {
        levels.push(level_text(&key[at..end - 1]));
        at = end;
    }
    pattern.matches(&levels.into_iter().collect())
}

const TERMINATOR: u8 = 0;
const ESCAPE: u8 = 1;

fn push_level(octets: &mut Vec<u8>, level: &str) {
    for byte in level.bytes() {
        match byte {
            TERMINATOR => octets.extend([ESCAPE, 1]),
            ESCAPE => octets.extend([ESCAPE, 2]),
            _ => octets.push(byte),
        }
    }
    octets.push(TERMINATOR);
}

fn level_text(octets: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(octets.len());
    let mut rest = octets.iter();
    while let Some(&byte) = rest.next() {
        bytes.push(if byte == ESCAPE {
            rest.next().map_or(0, |code| code - 1)
        } else {
            byte
        });
    }
    // It was made from text.
    String::from_utf8(bytes).unwrap_or_default()
}

/// Where the level that starts at `at` ends, its terminator included.
fn level_end(key: &[u8], at: usize) -> Option<usize> {
    key.get(at..)?
        .iter()
        .position(|&byte| byte == TERMINATOR)
        .map(|length| at + length + 1)
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

/// Retained messages stay while what was allocated beside them goes: holes that a few of them keep open. Measured.
const SCATTERED: usize = 96;

/// A message, its entries in the maps, and what the log's index keeps of it.
fn memory(key: &[u8], message: &Message) -> usize {
    let expires = message
        .envelope()
        .deadline
        .map_or(0, |_| ledger::sorted::<(Wall, Key), ()>());
    let entry = ledger::sorted::<Key, Message>() + expires + ledger::text(key.len());
    message.memory() + entry + ledger::indexed(key.len() + 1) + SCATTERED
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Dialect, Envelope};
    use Dialect::{Dot, Slash};

    fn message(key: &str, dialect: Dialect, body: &str) -> Message {
        Message::new(
            Envelope {
                dialect,
                ..Envelope::default()
            },
            "amq.topic",
            key,
            b"",
            body.as_bytes(),
        )
    }

    fn expiring(key: &str, deadline: u64) -> Message {
        let envelope = Envelope {
            dialect: Slash,
            deadline: Some(Wall(deadline)),
            ..Envelope::default()
        };
        Message::new(envelope, "amq.topic", key, b"", b"x")
    }

    fn filled(topics: &[&str]) -> Retained {
        let mut retained = Retained::default();
        for topic in topics {
            assert!(matches!(
                retained.set(&message(topic, Slash, topic)),
                Change::Stored(None)
            ));
        }
        retained
    }

    fn all(retained: &mut Retained, text: &str, dialect: Dialect, now: u64) -> Vec<String> {
        let mut out = Vec::new();
        if let Some(mut cursor) = retained.matching(Pattern::parse(text, dialect).expect("valid")) {
            while retained.next_batch(&mut cursor, Wall(now), &mut 1, &mut out) {}
        }
        out.iter().map(|m| m.key().to_owned()).collect()
    }

    #[test]
    fn a_look_up_costs_what_it_compares() {
        let deep: Vec<String> = (0..10).map(|n| format!("{n}{}", "/a".repeat(99))).collect();
        let mut retained = filled(&deep.iter().map(String::as_str).collect::<Vec<_>>());
        let mut spent = |text: &str| {
            let mut cursor = retained
                .matching(Pattern::parse(text, Dot).expect("valid"))
                .expect("something may match");
            let (mut left, mut out) = (1_000_000, Vec::new());
            assert!(!retained.next_batch(&mut cursor, Wall(0), &mut left, &mut out));
            1_000_000 - left
        };
        assert_eq!(spent("#"), 10);
        // 40 levels against 100, ten times.
        let midst = format!("#.{}b", "a.".repeat(38));
        assert!(spent(&midst) > 10 * 40 * 100 / 10, "{}", spent(&midst));
    }

    #[test]
    fn a_topic_keeps_its_last_message_and_an_empty_one_clears_it() {
        let mut retained = Retained::default();
        assert!(matches!(
            retained.set(&message("a/b", Slash, "1")),
            Change::Stored(None)
        ));
        // The same topic in the other dialect.
        assert!(matches!(retained.set(&message("a.b", Dot, "2")), Change::Stored(Some(old)) if old.body() == b"1"));
        assert_eq!(retained.count(), 1);
        assert!(retained.bytes() > 0);
        assert!(matches!(retained.set(&message("a/c", Slash, "")), Change::Nothing));
        assert!(matches!(retained.set(&message("a/b", Slash, "")), Change::Cleared(old) if old.body() == b"2"));
        assert_eq!((retained.count(), retained.bytes()), (0, 0));
        assert!(matches!(retained.set(&message("", Dot, "1")), Change::Nothing));
        assert_eq!(
            Retained::key_of(&message("v1%2E5.s", Dot, "")),
            Retained::key_of(&message("v1.5/s", Slash, ""))
        );
    }

    #[test]
    fn patterns_find_what_they_match_in_order_of_topics() {
        let mut retained = filled(&[
            "sport",
            "sport/",
            "sport/a/b",
            "sports",
            "/finance",
            "$SYS/a",
            "$SYS",
            "a/$x",
            "//",
            "sport/a",
        ]);
        let mut find = |filter| all(&mut retained, filter, Slash, 0);
        assert_eq!(find("sport/#"), ["sport", "sport/", "sport/a", "sport/a/b"]);
        assert_eq!(find("sport/+"), ["sport/", "sport/a"]);
        assert_eq!(find("+/+"), ["/finance", "a/$x", "sport/", "sport/a"]);
        assert_eq!(find("+"), ["sport", "sports"]);
        assert_eq!(find("+/+/+"), ["//", "sport/a/b"]);
        assert_eq!(find("$SYS/#"), ["$SYS", "$SYS/a"]);
        assert_eq!(find("$SYS/+"), ["$SYS/a"]);
        assert_eq!(find("sport/a"), ["sport/a"]);
        assert_eq!(find("missing"), Vec::<String>::new());
        assert_eq!(find("#").len(), 8);
        assert_eq!(all(&mut retained, "#", Dot, 0).len(), 8, "all but the broker's own");
        assert_eq!(all(&mut retained, "#.a.#", Dot, 0), ["a/$x", "sport/a", "sport/a/b"]);
        assert_eq!(all(&mut retained, "$SYS.#", Dot, 0), ["$SYS", "$SYS/a"]);
        assert_eq!(all(&mut retained, "*.a", Dot, 0), ["sport/a"]);
    }

    #[test]
    fn expired_messages_are_dropped_when_read_or_swept() {
        let mut retained = filled(&["a/0"]);
        for n in 1..=4 {
            retained.set(&expiring(&format!("a/{n}"), 100 * n));
        }
        assert_eq!(retained.next_expiry(), Some(Wall(100)));
        assert_eq!(all(&mut retained, "a/+", Slash, 99).len(), 5);
        assert_eq!(all(&mut retained, "a/1", Slash, 100), Vec::<String>::new());
        assert_eq!(
            retained.take_expired().iter().map(Message::key).collect::<Vec<_>>(),
            ["a/1"]
        );
        retained.expire(Wall(350), 1);
        retained.expire(Wall(250), 10);
        assert_eq!(retained.next_expiry(), Some(Wall(300)));
        // Replacing one takes its deadline away.
        retained.set(&message("a/3", Slash, "for ever"));
        retained.expire(Wall(1000), 10);
        assert_eq!(retained.take_expired().len(), 2);
        assert_eq!(retained.next_expiry(), None);
        assert_eq!(all(&mut retained, "#", Slash, 1000), ["a/0", "a/3"]);
    }

    #[test]
    fn a_walk_goes_on_where_it_was_while_topics_come_and_go() {
        let mut retained = filled(&["a/1", "a/2", "a/3", "a/4"]);
        let mut cursor = retained
            .matching(Pattern::parse("a/+", Slash).expect("valid"))
            .expect("something");
        let mut out = Vec::new();
        assert!(retained.next_batch(&mut cursor, Wall(0), &mut 2, &mut out));
        retained.set(&message("a/2", Slash, ""));
        retained.set(&message("a/3", Slash, ""));
        retained.set(&message("a/0", Slash, "behind the cursor"));
        retained.set(&message("a/5", Slash, "in front of it"));
        while retained.next_batch(&mut cursor, Wall(0), &mut 2, &mut out) {}
        assert_eq!(
            out.iter().map(Message::key).collect::<Vec<_>>(),
            ["a/1", "a/2", "a/4", "a/5"]
        );
    }

    #[test]
    fn a_sparse_pattern_leaps_instead_of_reading_everything() {
        let mut retained = Retained::default();
        for room in 0..10 {
            for n in 0..1000 {
                retained.set(&message(&format!("{room}/{n:03}"), Slash, "x"));
            }
        }
        let mut cursor = retained
            .matching(Pattern::parse("+/500", Slash).expect("valid"))
            .expect("something");
        let mut out = Vec::new();
        retained.next_batch(&mut cursor, Wall(0), &mut 40, &mut out);
        assert_eq!(out.len(), 10);
    }

    #[test]
    fn a_walk_finds_what_matching_one_by_one_finds() {
        let mut random = 1_u64;
        let mut below = |n: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % n
        };
        let words = ["a", "b", "", "$x", "\u{1}", "\0", "é", "a\0", "a\u{1}"];
        for _ in 0..300 {
            let mut retained = Retained::default();
            let mut topics = std::collections::BTreeSet::new();
            for _ in 0..40 {
                let topic = (0..=below(4))
                    .map(|_| words[below(words.len())])
                    .collect::<Vec<_>>()
                    .join(".");
                if !topic.is_empty() {
                    retained.set(&message(&topic, Dot, "x"));
                    topics.insert(topic);
                }
            }
            assert_eq!(retained.count(), topics.len());
            for dialect in [Dot, Slash] {
                let (separator, one) = if dialect == Dot { (".", "*") } else { ("/", "+") };
                let mut levels: Vec<&str> = (0..=below(4))
                    .map(|_| [one, one, "a", "b", "", "$x", "é"][below(7)])
                    .collect();
                if dialect == Dot {
                    levels.insert(below(levels.len() + 1), "#");
                } else if below(2) == 0 {
                    levels.push("#");
                }
                let text = levels.join(separator);
                let Ok(pattern) = Pattern::parse(&text, dialect) else {
                    continue;
                };
                let mut found = all(&mut retained, &text, dialect, 0);
                found.sort();
                let expected: Vec<_> = topics
                    .iter()
                    .filter(|topic| pattern.matches(&Levels::new(topic, Dot)))
                    .cloned()
                    .collect();
                assert_eq!(found, expected, "{text} in {dialect:?}");
            }
        }
    }
}
