//! Retained messages: the last value of each topic, found by pattern.
//!
//! They are in one ordered map, whose keys are the topics' levels as bytes:
//!
//! ```text
//!   plant ⟂ 1 ⟂ temp ⟂        each level ends in 00; a level's own 00 is 01 01, its own 01 is 01 02
//! ```
//!
//! So topics sort level by level, and all topics below another one are in one range after it. A walk by pattern skips:
//! if a key does not match, it seeks the first key that could match. Its position is a key, so it stays valid whatever
//! is set or cleared between two steps.
//!
//! A topic's message may leave memory once it is in the log, and is loaded when a walk meets it. The topic, the message's
//! deadline and its length stay in memory. Each state of a topic's message has a number. A loaded message is used only
//! if the number has not changed since the request; otherwise the message was replaced or cleared meanwhile.

use crate::ledger;
use crate::message::{Dialect, Message};
use crate::time::Wall;
use crate::topic::{BROKER_LEVEL, Level, Levels, Pattern, spell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// The retained messages of a vhost.
#[derive(Default)]
pub struct Retained {
    topics: BTreeMap<Key, Topic>,
    /// The entries of `topics` whose messages expire.
    deadlines: BTreeSet<(Wall, Key)>,
    /// Topics whose messages expired and were not reported yet.
    expired: Vec<(Key, Option<Message>)>,
    /// Messages in memory that may be evicted, by their numbers, which grow: the batch that must be written first, and
    /// the topic.
    resident: BTreeMap<u64, (u64, Key)>,
    /// The last number given.
    numbered: u64,
    /// Bytes of all `topics`, without messages that may be evicted.
    bytes: usize,
}

/// A topic's levels as bytes: see the module.
pub(crate) type Key = Arc<[u8]>;

/// What is known about a topic's message.
struct Topic {
    /// `None`: it is only in the log.
    message: Option<Message>,
    /// The number of the state that the message is in: see the module.
    number: u64,
    deadline: Deadline,
    /// Bytes of its payload.
    len: u32,
    /// It stays in memory, because the log does not have it.
    stays: bool,
}

/// When a message expires; [`NEVER`] if it does not.
type Deadline = Wall;
const NEVER: Deadline = Wall(u64::MAX);

/// Where a message is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Only in memory.
    InMemory,
    /// In the log, which has it once this batch is written. After that it may be evicted from memory.
    InLog(u64),
}

/// The effect of [`Retained::set`].
#[derive(Debug)]
pub enum Change {
    /// It is the topic's retained message now.
    Stored,
    /// Its empty body cleared the topic.
    Cleared,
    /// There was nothing to clear, or the key is empty, which is no topic.
    Nothing,
}

/// The progress of a walk over the retained messages that match a pattern. Between two steps, messages may be set and
/// cleared: what is ahead of the cursor is found as it is when the cursor gets there.
#[derive(Clone, Debug)]
pub struct Cursor {
    pattern: Pattern,
    /// Where the next look-up starts; `None` at the end.
    next: Option<Bound<Vec<u8>>>,
}

/// How a step of a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walked {
    /// There is nothing more.
    End,
    /// There may be more.
    More,
    /// The next message is only in the log: see [`Retained::ahead`].
    Absent,
}

/// A message that a walk needs read from the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its topic: see [`Retained::key_of`].
    pub key: Arc<[u8]>,
    /// The number of the state that the message is in: see the module.
    pub number: u64,
    /// Bytes of its payload.
    pub len: u32,
}

impl Retained {
    /// Makes `message` its topic's retained message, or clears the topic if its body is empty. Also returns the former
    /// message, if it was in memory and could have been evicted. The flag
    /// [`Envelope::retain`](crate::message::Envelope::retain) is ignored.
    pub fn set(&mut self, message: &Message, kept: Kept) -> (Change, Option<Message>) {
        let key: Key = Retained::key_of(message).into();
        if key.is_empty() {
            // MQTT has no such topic, so no client could ever receive or clear it.
            return (Change::Nothing, None);
        }
        let before = self.remove(&key);
        // MQTT 5 3.3.1.3 [MQTT-3.3.1-6], [MQTT-3.3.1-7]
        if message.body().is_empty() {
            return before.map_or((Change::Nothing, None), |before| (Change::Cleared, before));
        }
        // MQTT 5 3.3.1.3 [MQTT-3.3.1-5]
        let number = self.number();
        if let Kept::InLog(batch) = kept {
            self.resident.insert(number, (batch, Arc::clone(&key)));
        }
        let topic = Topic {
            message: Some(message.clone()),
            number,
            deadline: message.envelope().deadline.unwrap_or(NEVER),
            len: len_of(message),
            stays: kept == Kept::InMemory,
        };
        self.insert(key, topic);
        (Change::Stored, before.flatten())
    }

    /// Adds a message that a start found in the log. It is also kept in memory if `in_memory`.
    pub fn restore(&mut self, message: &Message, in_memory: bool) {
        let key: Key = Retained::key_of(message).into();
        let number = self.number();
        if in_memory {
            self.resident.insert(number, (0, Arc::clone(&key)));
        }
        let topic = Topic {
            message: in_memory.then(|| message.clone()),
            number,
            deadline: message.envelope().deadline.unwrap_or(NEVER),
            len: len_of(message),
            stays: false,
        };
        self.insert(key, topic);
    }

    /// The topic's identity as bytes, the same in both dialects, which is the log's key. Empty for an empty key, which
    /// is not retained.
    pub fn key_of(message: &Message) -> Box<[u8]> {
        let mut octets = Vec::with_capacity(message.key_bytes().len() + 1);
        for level in Levels::new(message.key(), message.envelope().dialect).iter() {
            push_level(&mut octets, level);
        }
        octets.into()
    }

    /// Starts a walk over the messages that match `pattern`. `None` if obviously none matches: most subscriptions begin
    /// with levels that no retained message has.
    pub fn matching(&self, pattern: Pattern) -> Option<Cursor> {
        // All matching topics are behind the pattern's leading literal levels.
        let mut start = Vec::new();
        for level in pattern.levels() {
            let Level::Literal(text) = level else { break };
            push_level(&mut start, text);
        }
        let from = (Bound::Included(&*start), Bound::Unbounded);
        let (first, _) = self.topics.range::<[u8], _>(from).next()?;
        let found = first.starts_with(&start);
        let next = Some(Bound::Included(start));
        found.then_some(Cursor { pattern, next })
    }

    /// Appends messages in memory that the next `steps` look-ups find, in order of topics, up to the first one that is
    /// not in memory. Unused steps remain in `steps`. Expired messages are dropped on the way: see
    /// [`Retained::take_expired`].
    pub fn next_batch(&mut self, cursor: &mut Cursor, now: Wall, steps: &mut usize, out: &mut Vec<Message>) -> Walked {
        let mut outdated = Vec::new();
        let absent = self.walk(cursor, steps, |key, topic| match &topic.message {
            _ if topic.deadline <= now => {
                outdated.push(Arc::clone(key));
                true
            }
            Some(message) => {
                out.push(message.clone());
                true
            }
            None => false,
        });
        for key in outdated {
            if let Some(message) = self.remove(&key) {
                self.expired.push((key, message));
            }
        }
        match (absent, &cursor.next) {
            (true, _) => Walked::Absent,
            (false, Some(_)) => Walked::More,
            (false, None) => Walked::End,
        }
    }

    /// The next messages of a walk that are only in the log, beginning where the walk stopped. Limited by number and
    /// bytes, but at least one.
    pub fn ahead(&self, cursor: &Cursor, now: Wall, count: usize, bytes: usize) -> Vec<Wanted> {
        let mut cursor = cursor.clone();
        let (mut wanted, mut steps, mut sum) = (Vec::new(), AHEAD_STEPS, 0);
        self.walk(&mut cursor, &mut steps, |key, topic| {
            if topic.message.is_none() && topic.deadline > now {
                if wanted.len() >= count || (sum > 0 && sum + topic.len as usize > bytes) {
                    return false;
                }
                sum += topic.len as usize;
                wanted.push(Wanted {
                    key: Arc::clone(key),
                    number: topic.number,
                    len: topic.len,
                });
            }
            true
        });
        wanted
    }

    /// Continues a walk until `take` refuses a matching topic. Returns whether it did; the walk stays at that topic
    /// then.
    fn walk(&self, cursor: &mut Cursor, steps: &mut usize, mut take: impl FnMut(&Key, &Topic) -> bool) -> bool {
        let left = steps;
        'seek: while *left > 0 {
            let Some(start) = cursor.next.take() else { break };
            let mut last = None;
            for (key, topic) in self.topics.range::<[u8], _>((as_slice(&start), Bound::Unbounded)) {
                if *left == 0 {
                    cursor.next = last.map(|key: &Key| Bound::Excluded(key.to_vec()));
                    break 'seek;
                }
                *left = left.saturating_sub(cost(&cursor.pattern, key));
                last = Some(key);
                match step(&cursor.pattern, key) {
                    Step::Match if !take(key, topic) => {
                        cursor.next = Some(Bound::Included(key.to_vec()));
                        return true;
                    }
                    Step::Match | Step::Next => {}
                    Step::Seek(target) => {
                        cursor.next = Some(Bound::Included(target));
                        continue 'seek;
                    }
                    Step::End => break 'seek,
                }
            }
            // That was the end of the map, so the cursor has no next place.
        }
        false
    }

    /// Evicts the message that has been in memory for longest, if its batch is written. Returns it.
    pub fn evict(&mut self, written: u64) -> Option<Message> {
        let (_, (batch, _)) = self.resident.first_key_value()?;
        if *batch > written {
            return None;
        }
        let (_, (_, key)) = self.resident.pop_first()?;
        self.topics.get_mut(&key)?.message.take()
    }

    /// A message was read from the log. Returns whether it is still its topic's message, and in memory from now on.
    pub fn loaded(&mut self, key: &[u8], number: u64, message: &Message) -> bool {
        let next = self.numbered + 1;
        let Some(topic) = self.topics.get_mut(key) else {
            return false;
        };
        if topic.number != number || topic.message.is_some() {
            return false;
        }
        topic.message = Some(message.clone());
        topic.number = next;
        self.numbered = next;
        if let Some((key, _)) = self.topics.get_key_value(key) {
            self.resident.insert(next, (0, Arc::clone(key)));
        }
        true
    }

    /// The log has lost a message. Returns whether it was still its topic's message; the topic has none now.
    pub fn lost(&mut self, key: &[u8], number: u64) -> bool {
        let is_lost = |topic: &Topic| topic.number == number && topic.message.is_none();
        self.topics.get(key).is_some_and(is_lost) && self.remove(key).is_some()
    }

    /// When the next message expires.
    pub fn next_expiry(&self) -> Option<Wall> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Drops at most `max` messages that have expired.
    pub fn expire(&mut self, now: Wall, max: usize) {
        for _ in 0..max {
            match self.deadlines.first() {
                Some((deadline, key)) if *deadline <= now => {
                    let key = Arc::clone(key);
                    if let Some(message) = self.remove(&key) {
                        self.expired.push((key, message));
                    }
                }
                _ => return,
            }
        }
    }

    /// The topics whose messages expired since the last call, for the log; with the messages that were in memory and
    /// could have been evicted.
    pub fn take_expired(&mut self) -> Vec<(Arc<[u8]>, Option<Message>)> {
        std::mem::take(&mut self.expired)
    }

    /// Messages that are in memory and may be evicted, including those of [`Retained::take_expired`].
    pub fn in_memory(&self) -> impl Iterator<Item = &Message> {
        let expired = self.expired.iter().filter_map(|(_, message)| message.as_ref());
        let kept = self.topics.values().filter(|topic| !topic.stays);
        kept.filter_map(|topic| topic.message.as_ref()).chain(expired)
    }

    /// The topics behind `after`, in order: the key, the name in the slash dialect, and the bytes of the message.
    /// Without `after`: all topics.
    pub fn after(&self, key: Option<&[u8]>) -> impl Iterator<Item = (&[u8], String, u32)> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.topics
            .range::<[u8], _>((from, Bound::Unbounded))
            .map(|(key, topic)| (&**key, spell(levels_of(key), Dialect::Slash), topic.len))
    }

    /// The number of retained messages.
    pub fn count(&self) -> usize {
        self.topics.len()
    }

    /// Bytes of memory that they occupy, without messages that may be evicted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes by which [`Retained::set`] with this message would increase [`Retained::bytes`].
    pub fn growth(&self, message: &Message) -> usize {
        let key = Retained::key_of(message);
        if message.body().is_empty() || self.topics.contains_key(&*key) {
            return 0;
        }
        memory(&key, message.envelope().deadline.is_some())
    }

    fn number(&mut self) -> u64 {
        self.numbered += 1;
        self.numbered
    }

    fn insert(&mut self, key: Key, topic: Topic) {
        self.bytes += topic.memory(&key);
        if topic.deadline < NEVER {
            self.deadlines.insert((topic.deadline, Arc::clone(&key)));
        }
        self.topics.insert(key, topic);
    }

    /// Returns the message if it was in memory and could have been evicted; `None` also if there was no such topic.
    fn remove(&mut self, key: &[u8]) -> Option<Option<Message>> {
        let (key, topic) = self.topics.remove_entry(key)?;
        self.bytes -= topic.memory(&key);
        self.resident.remove(&topic.number);
        if topic.deadline < NEVER {
            self.deadlines.remove(&(topic.deadline, key));
        }
        Some(topic.message.filter(|_| !topic.stays))
    }
}

impl Topic {
    fn memory(&self, key: &[u8]) -> usize {
        let stays = self.message.as_ref().filter(|_| self.stays);
        memory(key, self.deadline < NEVER) + stays.map_or(0, Message::memory)
    }
}

/// The most look-ups of [`Retained::ahead`].
const AHEAD_STEPS: usize = 256;

fn len_of(message: &Message) -> u32 {
    u32::try_from(message.payload().len()).unwrap_or(u32::MAX)
}

/// How a walk continues from a key.
#[derive(Debug, PartialEq)]
enum Step {
    /// The key matches; continue with the next one.
    Match,
    /// It does not match; the next one may.
    Next,
    /// It does not match, nor does any key before this one.
    Seek(Vec<u8>),
    /// It does not match, nor does any key behind it.
    End,
}

/// Steps that one look-up costs. Usually one, but a `#` in the middle of a pattern (which only AMQP binding keys have)
/// may compare every level with every level.
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

/// Levels compared for one step.
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
            // A topic above the pattern's topics.
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

/// Continues behind all topics that start with these levels.
fn behind(levels: &[u8]) -> Step {
    let mut target = levels.to_vec();
    match target.last_mut() {
        // They and the topics below them continue with 00; whatever sorts behind them is not less than this.
        Some(last) => {
            *last = TERMINATOR + 1;
            Step::Seek(target)
        }
        None => Step::End,
    }
}

/// Whether a pattern with a `#` in the middle matches.
fn whole(pattern: &Pattern, key: &[u8]) -> bool {
    pattern.matches(&levels_of(key).collect())
}

/// The levels of a topic, with escapes decoded.
fn levels_of(key: &[u8]) -> impl Iterator<Item = String> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let end = level_end(key, at)?;
        let text = level_text(&key[at..end - 1]);
        at = end;
        Some(text)
    })
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

/// The end of the level that starts at `at`, including its terminator.
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

/// Measured: topics stay while allocations next to them are freed, and a few topics keep large holes open.
const SCATTERED: usize = 96;

/// Bytes of a topic, its entries in the maps, and its entry in the log's index.
fn memory(key: &[u8], expires: bool) -> usize {
    let expires = if expires {
        ledger::sorted::<(Wall, Key), ()>()
    } else {
        0
    };
    let entry = ledger::sorted::<Key, Topic>() + expires + ledger::text(key.len());
    entry + ledger::indexed(key.len() + 1) + SCATTERED
}

#[cfg(test)]
mod tests;
