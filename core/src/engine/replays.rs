//! Replays of retained messages that new subscriptions asked for.

use crate::properties::Name;
use crate::retained::Cursor;
use std::collections::BTreeMap;

/// Retained messages still to be sent for a new subscription.
pub(crate) struct Replay {
    pub(super) filter: Name,
    pub(super) cursor: Cursor,
    pub(super) qos: u8,
    pub(super) subscription_id: Option<u32>,
}

/// The replays of a link, in the order they were asked for: at most one for each of its subscriptions, or a client that
/// subscribes faster than it is served would pile them up.
#[derive(Default)]
pub(crate) struct Replays {
    waiting: BTreeMap<u64, Replay>,
    by_filter: BTreeMap<Name, u64>,
    asked: u64,
    /// The first waits for a retained message that is on its way from the log.
    pub(super) waits: bool,
}

impl Replays {
    /// Takes the place of one for the same filter, which would say the same again.
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
    /// Removes the first. Returns whether it was the last one.
    pub(super) fn finish(&mut self) -> bool {
        if let Some((_, replay)) = self.waiting.pop_first() {
            self.by_filter.remove(&replay.filter);
        }
        self.waiting.is_empty()
    }
}
