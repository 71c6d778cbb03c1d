//! Replays of retained messages that new subscriptions asked for.

use crate::properties::Name;
use crate::retained::Cursor;
use std::collections::BTreeMap;

/// The retained messages that a new subscription is still to be sent.
pub(crate) struct Replay {
    pub(super) filter: Name,
    pub(super) cursor: Cursor,
    pub(super) qos: u8,
    pub(super) subscription_id: Option<u32>,
}

/// The replays of a link, in the order in which they were asked for. At most one for each of its subscriptions:
/// otherwise a client that subscribes faster than it is served would make the list grow without end.
#[derive(Default)]
pub(crate) struct Replays {
    waiting: BTreeMap<u64, Replay>,
    by_filter: BTreeMap<Name, u64>,
    asked: u64,
    /// The first replay waits for a retained message that is being read from the log.
    pub(super) waits: bool,
}

impl Replays {
    /// Adds a replay. One for the same filter is replaced, as both would send the same messages.
    pub(super) fn add(&mut self, replay: Replay) {
        self.cancel(&replay.filter);
        self.asked += 1;
        self.by_filter.insert(replay.filter.clone(), self.asked);
        self.waiting.insert(self.asked, replay);
    }
    pub(super) fn cancel(&mut self, filter: &str) {
        if let Some(number) = self.by_filter.remove(filter) {
            self.waiting.remove(&number);
        }
    }
    pub(super) fn first(&mut self) -> Option<&mut Replay> {
        self.waiting.values_mut().next()
    }
    /// Removes the first replay. Returns whether it was the last one.
    pub(super) fn finish(&mut self) -> bool {
        if let Some((_, replay)) = self.waiting.pop_first() {
            self.by_filter.remove(&replay.filter);
        }
        self.waiting.is_empty()
    }
}
