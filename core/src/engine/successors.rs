//! Links that wait for a session which another link still has: see `takeover.rs`.

use crate::properties::Name;
use crate::slots::Link;
use std::collections::{HashMap, VecDeque};

/// Links that wait for a session, by client id, in order of arrival.
#[derive(Default)]
pub(crate) struct Successors(HashMap<Name, VecDeque<Successor>>);

#[derive(Clone, Copy)]
pub(super) struct Successor {
    pub(super) link: Link,
    pub(super) clean_start: bool,
}

impl Successors {
    pub(super) fn first(&self, client_id: &str) -> Option<Successor> {
        self.0.get(client_id)?.front().copied()
    }

    pub(super) fn add(&mut self, client_id: &Name, successor: Successor) {
        self.0.entry(client_id.clone()).or_default().push_back(successor);
    }

    pub(super) fn remove(&mut self, client_id: &Name, link: Link) {
        if let Some(waiting) = self.0.get_mut(client_id) {
            waiting.retain(|s| s.link != link);
            if waiting.is_empty() {
                self.0.remove(client_id);
            }
        }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
