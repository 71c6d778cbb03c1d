//! Retained messages: the last value of each topic, found by pattern.

use crate::message::Message;
use crate::time::Wall;
use crate::topic::Pattern;

/// The retained messages of a vhost.
#[derive(Default)]
pub struct Retained {}

/// What [`Retained::set`] changed.
#[derive(Debug)]
pub enum Change {
    /// It is the topic's retained message now; the one it replaced, if any.
    Stored(Option<Message>),
    /// Its empty body cleared this one.
    Cleared(Message),
    /// Nothing was there to clear, or its topic cannot be retained (an empty key).
    Nothing,
}

/// A place in a walk over the retained messages that match a pattern. Sets and clears between two steps are harmless:
/// what is in front of the cursor is found as it is when the cursor comes there.
#[derive(Clone, Debug)]
pub struct Cursor {
    pattern: Pattern,
}

impl Retained {
    /// Makes `message` its topic's retained message, or clears the topic if its body is empty. The flag
    /// [`Envelope::retain`](crate::message::Envelope::retain) is not looked at.
    pub fn set(&mut self, message: &Message) -> Change {
        let _ = message;
        Change::Nothing
    }

    /// The topic's identity as octets, the same in both dialects: the key for the log.
    pub fn key_of(message: &Message) -> Box<[u8]> {
        let _ = message;
        Box::default()
    }

    /// Starts a walk over what matches `pattern`.
    pub fn matching(&self, pattern: Pattern) -> Cursor {
        Cursor { pattern }
    }

    /// Appends what the next `steps` look-ups find, in order of topics, and returns whether there may be more. Expired
    /// messages are dropped on the way: see [`Retained::take_expired`].
    pub fn next_batch(&mut self, cursor: &mut Cursor, now: Wall, steps: usize, out: &mut Vec<Message>) -> bool {
        let _ = (&cursor.pattern, now, steps, out);
        false
    }

    /// When the first message expires.
    pub fn next_expiry(&self) -> Option<Wall> {
        None
    }

    /// Drops at most `max` messages that have expired.
    pub fn expire(&mut self, now: Wall, max: usize) {
        let _ = (now, max);
    }

    /// The messages that expiry dropped since the last call, for the log.
    pub fn take_expired(&mut self) -> Vec<Message> {
        Vec::new()
    }

    /// Messages retained.
    pub fn count(&self) -> usize {
        0
    }

    /// Bytes of memory they occupy.
    pub fn bytes(&self) -> usize {
        0
    }
}
