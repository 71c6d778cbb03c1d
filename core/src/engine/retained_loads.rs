//! Reads retained messages back from the log for replays.
//!
//! ```text
//!   replay ── the next one is not in memory ──► requested, with some that follow it ──► reader
//!      ▲                                                                              │
//!      └────── continues in the same hold, before anything can be evicted again ◄─────┘
//! ```
//!
//! So each message that was read brings at least one replay further, however little memory there is. A replay that
//! continues sends what is retained then: a message that was replaced meanwhile is in memory, and one that was cleared
//! is skipped.

use super::Engine;
use super::budget::Budget;
use crate::catalog;
use crate::message::Message;
use crate::retained::{Cursor, Key};
use crate::slots::Link;
use crate::store::{FoundKey, KeyRead, LoadedKey, Record, Request};
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::mem::size_of;

/// Retained messages that are being read, and the links that wait for them.
#[derive(Default)]
pub(crate) struct RetainedLoads {
    /// By the message's number: see [`crate::retained`].
    under_way: HashMap<u64, Load>,
    /// Bytes of the messages in `under_way`.
    bytes: usize,
    /// Links whose next message has been read, or could not be requested.
    called: VecDeque<Link>,
    /// Links that wait for others' reads to finish before their own message can be requested.
    awaiting_room: VecDeque<Link>,
}

struct Load {
    key: Key,
    waiting: Vec<Link>,
}

/// How many messages a replay requests at once.
const AT_ONCE: usize = 128;
/// Retained messages being read may occupy one part in `SHARE` of the cache, and one message more.
const SHARE: usize = 8;

impl RetainedLoads {
    /// Bytes that it occupies, without the messages.
    pub(crate) fn memory(&self) -> usize {
        const LOAD: usize = size_of::<(u64, Load)>() + 64;
        self.under_way.len() * LOAD + (self.called.len() + self.awaiting_room.len()) * size_of::<Link>()
    }
    #[cfg(feature = "testing")]
    pub(crate) fn is_empty(&self) -> bool {
        self.under_way.is_empty() && self.called.is_empty() && self.awaiting_room.is_empty() && self.bytes == 0
    }
}

impl Engine {
    /// Requests the message at which a replay of the link has stopped, and some that follow it.
    pub(crate) fn load_retained(&mut self, link: Link, cursor: &Cursor) {
        let most = (self.settings.cache_bytes_max / SHARE).max(1);
        let vhost = self.settings.number;
        let loads = &mut self.retained_loads;
        let wanted = self.retained.ahead(cursor, self.now.wall, AT_ONCE, most);
        for (n, wanted) in wanted.into_iter().enumerate() {
            let waiting = if n == 0 { Some(link) } else { None };
            if let Some(load) = loads.under_way.get_mut(&wanted.number) {
                load.waiting.extend(waiting);
                continue;
            }
            if loads.bytes > 0 && loads.bytes + wanted.len as usize > most {
                loads.awaiting_room.extend(waiting);
                return;
            }
            loads.bytes += wanted.len as usize;
            self.memory.requests.push(Request::Key(KeyRead {
                key: catalog::retained_key(vhost, &wanted.key).into(),
                number: wanted.number,
                waited: wanted.len,
            }));
            let load = Load {
                key: wanted.key,
                waiting: waiting.into_iter().collect(),
            };
            loads.under_way.insert(wanted.number, load);
        }
    }

    /// A message was read, or does not exist. Links that wait for it continue in [`Engine::resume_replays`].
    pub(crate) fn retained_loaded(&mut self, loaded: LoadedKey) {
        let LoadedKey { number, waited, found } = loaded;
        let Some(load) = self.retained_loads.under_way.remove(&number) else {
            return;
        };
        self.retained_loads.bytes -= waited as usize;
        self.retained_loads.called.extend(load.waiting);
        let message = match found {
            FoundKey::Value(value) => catalog::decode_retained(&value),
            FoundKey::Newer => return,
            FoundKey::Nothing => None,
        };
        match message {
            Some(message) => self.retained_came(&load.key, number, &message),
            None => self.retained_is_lost(&load.key, number),
        }
    }

    fn retained_came(&mut self, key: &Key, number: u64, message: &Message) {
        if self.retained.loaded(key, number, message) {
            self.memory.keep(message);
            self.counters.bodies_loaded += 1;
        }
    }

    /// The record is damaged: its topic has no retained message any more, and that is logged.
    fn retained_is_lost(&mut self, topic: &Key, number: u64) {
        if !self.retained.lost(topic, number) {
            return;
        }
        let key = catalog::retained_key(self.settings.number, topic);
        let what = crate::store::describe(&key);
        tracing::warn!(vhost = %self.settings.vhost, what, "its record is damaged: dropped");
        self.counters.damaged += 1;
        self.staging.record(Record::Key { key, value: None });
    }

    /// Continues replays whose messages were read, as far as this hold has room. Others continue with their link's next
    /// take.
    pub(crate) fn resume_replays(&mut self) {
        let mut budget = Budget::of_hold(&self.settings);
        // A replay that continues may have to wait again.
        for _ in 0..self.retained_loads.called.len() {
            if let Some(link) = self.retained_loads.called.pop_front() {
                self.resume_replay(link, &mut budget);
            }
        }
        for _ in 0..self.retained_loads.awaiting_room.len() {
            let most = (self.settings.cache_bytes_max / SHARE).max(1);
            if self.retained_loads.bytes >= most {
                return;
            }
            if let Some(link) = self.retained_loads.awaiting_room.pop_front() {
                self.resume_replay(link, &mut budget);
            }
        }
    }

    fn resume_replay(&mut self, link: Link, budget: &mut Budget) {
        let Some(l) = self.links.get_mut(link) else { return };
        let bound = l.rare.get_mut().and_then(|rare| rare.bound_replay.as_mut());
        let is_bind = bound.is_some_and(|replay| std::mem::take(&mut replay.waits));
        let is_session = l
            .replays
            .as_mut()
            .is_some_and(|replays| std::mem::take(&mut replays.waits));
        let has_room = l.has_room();
        if is_bind && !budget.is_spent() {
            self.replay_some(link, budget);
        }
        if is_session && has_room && !budget.is_spent() {
            self.replay_retained(link, budget);
        }
        if let Some(l) = self.links.get_mut(link) {
            l.call(&mut self.wakes);
        }
    }
}
