//! Retained messages: the last value of each topic, found by pattern.
//!
//! They are in one ordered map, whose keys are the topics' levels as octets:
//!
//! ```text
//!   plant ⟂ 1 ⟂ temp ⟂        each level ends in 00; a level's own 00 is 01 01, its own 01 is 01 02
//! ```
//!
//! So topics sort level by level, and all topics below another one are in one range after it. A walk by pattern skips: if a key
//! does not match, it seeks the first key that could match. Its position is a key, so it stays valid whatever is set or
//! cleared between two steps.
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
    /// Those of `topics` whose messages expire.
    deadlines: BTreeSet<(Wall, Key)>,
    /// Dropped by expiry and not yet reported.
    expired: Vec<(Key, Option<Message>)>,
    /// Messages in memory that may leave it, by their numbers, which grow: the batch that the log must have written, and
    /// whose message it is.
    resident: BTreeMap<u64, (u64, Key)>,
    /// Numbers given so far.
    numbered: u64,
    /// Sum over `topics` of what they occupy, without messages that may leave memory.
    bytes: usize,
}

/// Levels as octets: see the module.
pub(crate) type Key = Arc<[u8]>;

/// What is known of a topic's message.
struct Topic {
    /// `None`: it is in the log only.
    message: Option<Message>,
    /// See the module.
    number: u64,
    deadline: Deadline,
    /// Bytes of its payload.
    len: u32,
    /// It stays in memory, and the log does not have it.
    stays: bool,
}

/// When a message expires; [`NEVER`] if it does not.
type Deadline = Wall;
const NEVER: Deadline = Wall(u64::MAX);

/// Where a message is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// In memory, for good.
    InMemory,
    /// In the log, which has it once this batch is written. From then on it may leave memory.
    InLog(u64),
}

/// What [`Retained::set`] changed.
#[derive(Debug)]
pub enum Change {
    /// It is the topic's retained message now.
    Stored,
    /// Its empty body cleared the topic.
    Cleared,
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

/// How a walk goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walked {
    /// There is nothing more.
    End,
    /// There may be more.
    More,
    /// The next message is in the log only: see [`Retained::ahead`].
    Absent,
}

/// A message that a walk wants back in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its topic: see [`Retained::key_of`].
    pub key: Arc<[u8]>,
    /// See the module.
    pub number: u64,
    /// Bytes of its payload.
    pub len: u32,
}

impl Retained {
    /// Makes `message` its topic's retained message, or clears the topic if its body is empty. Returns also the message
    /// before it, if that was in memory and might have left it. The flag
    /// [`Envelope::retain`](crate::message::Envelope::retain) is not looked at.
    pub fn set(&mut self, message: &Message, kept: Kept) -> (Change, Option<Message>) {
        let key: Key = Retained::key_of(message).into();
        if key.is_empty() {
            // MQTT has no such topic, so nobody could ever be told of it, or clear it.
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

    /// Takes note of a message that is in the log, as a start found it. It is kept in memory, too, if `in_memory`.
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
        let (first, _) = self.topics.range::<[u8], _>(from).next()?;
        let found = first.starts_with(&start);
        let next = Some(Bound::Included(start));
        found.then_some(Cursor { pattern, next })
    }

    /// Appends what the next `steps` look-ups find in memory, in order of topics, up to the first message that is not there;
    /// what is left of `steps` stays there. Expired messages are dropped on the way: see [`Retained::take_expired`].
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

    /// The next messages of a walk that are in the log only, the first of them where the walk stopped: at most so many, or
    /// until they have so many bytes, one at least.
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

    /// Goes on with a walk until `take` refuses a topic that matches. Returns whether it did; the walk stands there then.
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
            // That was the end of the map, and the cursor stays without a next place.
        }
        false
    }

    /// Lets the message go that has been in memory for longest, if the log has written its batch. Returns it.
    pub fn evict(&mut self, written: u64) -> Option<Message> {
        let (_, (batch, _)) = self.resident.first_key_value()?;
        if *batch > written {
            return None;
        }
        let (_, (_, key)) = self.resident.pop_first()?;
        self.topics.get_mut(&key)?.message.take()
    }

    /// A message came back from the log. Returns whether it is still its topic's, and in memory from now on.
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

    /// The log does not have a message any more that it had. Returns whether it was still its topic's, which has none now.
    pub fn lost(&mut self, key: &[u8], number: u64) -> bool {
        let is_lost = |topic: &Topic| topic.number == number && topic.message.is_none();
        self.topics.get(key).is_some_and(is_lost) && self.remove(key).is_some()
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
                    if let Some(message) = self.remove(&key) {
                        self.expired.push((key, message));
                    }
                }
                _ => return,
            }
        }
    }

    /// The topics whose messages expiry dropped since the last call, for the log, with those messages that were in memory and
    /// might have left it.
    pub fn take_expired(&mut self) -> Vec<(Arc<[u8]>, Option<Message>)> {
        std::mem::take(&mut self.expired)
    }

    /// Messages that are in memory and may leave it, those of [`Retained::take_expired`] included.
    pub fn in_memory(&self) -> impl Iterator<Item = &Message> {
        let expired = self.expired.iter().filter_map(|(_, message)| message.as_ref());
        let kept = self.topics.values().filter(|topic| !topic.stays);
        kept.filter_map(|topic| topic.message.as_ref()).chain(expired)
    }

    /// The topics behind one, in order: each with its key, its name in the slash dialect, and the bytes of its message. Without
    /// one, all.
    pub fn after(&self, key: Option<&[u8]>) -> impl Iterator<Item = (&[u8], String, u32)> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.topics
            .range::<[u8], _>((from, Bound::Unbounded))
            .map(|(key, topic)| (&**key, spell(levels_of(key), Dialect::Slash), topic.len))
    }

    /// Messages retained.
    pub fn count(&self) -> usize {
        self.topics.len()
    }

    /// Bytes of memory they occupy, without messages that may leave memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes by which [`Retained::set`] with this message would grow what is retained.
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

    /// Returns the message if it was in memory and might have left it; `None` if there was no such topic.
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

/// Look-ups of [`Retained::ahead`].
const AHEAD_STEPS: usize = 256;

fn len_of(message: &Message) -> u32 {
    u32::try_from(message.payload().len()).unwrap_or(u32::MAX)
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
    pattern.matches(&levels_of(key).collect())
}

/// The levels of a topic, escapes decoded.
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

/// Topics stay while what was allocated beside them goes: holes that a few of them keep open. Measured.
const SCATTERED: usize = 96;

/// A topic, its entries in the maps, and what the log's index keeps of it.
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
