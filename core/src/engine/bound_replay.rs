//! Replays retained messages into a declared queue. In AMQP and STOMP, a binding to the topic exchange with
//! `x-retained` asks for it. Each such bind replays, also one that repeats a binding.
//!
//! The copies are not logged for the queue: the log has the retained messages, and the next bind replays them again.

use super::Engine;
use super::budget::{Budget, Unfinished};
use super::unfinished::BoundReplay;
use crate::binding::Destination;
use crate::command::Bind;
use crate::message::Dialect;
use crate::properties::Value;
use crate::queue::entry::EntryFlags;
use crate::retained::Walked;
use crate::slots::Link;
use crate::topic::Pattern;

/// The most look-ups of a replay in one go.
const REPLAY_STEPS: usize = 256;
/// With this many messages in the queue, no further retained ones are put into it. The bind precedes the consumer, so
/// the replay cannot wait for one, and without a limit each repeated bind would add all retained messages once more.
const REPLAY_BACKLOG_MAX: usize = 100_000;

impl Engine {
    /// Prepares the replay that a bind asks for. `gate`: the batch that its answer waits for.
    pub(crate) fn start_bound_replay(&mut self, link: Link, c: &Bind, to: &Destination, key: &str, gate: Option<u64>) {
        let asked = match c.arguments.lookup("x-retained") {
            Some(Value::Bool(asked)) => *asked,
            Some(value) => value.as_str() == Some("true"),
            None => false,
        };
        let Destination::Queue { slot, .. } = to else {
            return;
        };
        if !asked || *c.source != *self.settings.topic_exchange {
            return;
        }
        let Ok(pattern) = Pattern::parse(key, Dialect::Dot) else {
            return;
        };
        let Some(cursor) = self.retained.matching(pattern) else {
            return;
        };
        let Some(queue) = self.queues.at(*slot) else { return };
        let Some(l) = self.links.get_mut(link) else {
            return;
        };
        l.rare.make().bound_replay = Some(Box::new(BoundReplay {
            queue,
            cursor,
            gate,
            waits: false,
        }));
    }

    /// Whether the link's bind is done except for its replay.
    pub(crate) fn has_bound_replay(&self, link: Link) -> bool {
        let rare = self.links.get(link).and_then(|l| l.rare.get());
        rare.is_some_and(|rare| rare.bound_replay.is_some())
    }

    /// Continues the replay of the link's bind. When it is done, returns the batch that the answer waits for.
    pub(crate) fn go_on_with_bound_replay(
        &mut self,
        link: Link,
        budget: &mut Budget,
    ) -> Result<Option<u64>, Unfinished> {
        loop {
            match self.replay_some(link, budget) {
                Walked::End => {
                    let rare = self.links.get_mut(link).and_then(|l| l.rare.get_mut());
                    let replay = rare.and_then(|rare| rare.bound_replay.take());
                    return Ok(replay.and_then(|replay| replay.gate));
                }
                Walked::More => budget.check()?,
                Walked::Absent => {
                    if let Some(l) = self.links.get_mut(link) {
                        l.waits = true;
                    }
                    return Err(Unfinished);
                }
            }
        }
    }

    /// Puts some of the retained messages that the link's bind asked for into its queue.
    pub(crate) fn replay_some(&mut self, link: Link, budget: &mut Budget) -> Walked {
        let rare = self.links.get_mut(link).and_then(|l| l.rare.get_mut());
        let Some(replay) = rare.and_then(|rare| rare.bound_replay.as_mut()) else {
            return Walked::End;
        };
        if replay.waits {
            return Walked::Absent;
        }
        let most = REPLAY_STEPS.min(budget.left());
        let mut steps = most;
        let mut found = Vec::new();
        let wall = self.now.wall;
        let walked = self
            .retained
            .next_batch(&mut replay.cursor, wall, &mut steps, &mut found);
        let queue = replay.queue;
        // The queue may have been deleted meanwhile, by another link.
        if !self.queues.contains(queue) {
            return Walked::End;
        }
        if walked == Walked::Absent {
            replay.waits = true;
            let cursor = replay.cursor.clone();
            self.load_retained(link, &cursor);
        }
        budget.spend(most - steps + found.len());
        for message in found {
            let Some(q) = self.queues.get_mut(queue) else { break };
            if q.depth() >= REPLAY_BACKLOG_MAX || q.refuses(&message, (0, 0)) {
                self.counters.dropped_full += 1;
                continue;
            }
            q.push_copy(message.clone(), EntryFlags::default(), None);
            self.memory.pin(&message);
            self.counters.enqueued += 1;
            self.trace_replayed(queue, &message);
        }
        self.touch(queue);
        self.enforce_limit(queue);
        walked
    }
}
