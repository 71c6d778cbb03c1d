//! What one hold of the engine's lock may cost.
//!
//! Clients choose how much work their commands are. So all work spends units, and a hold ends when they are spent.
//! `gatepost_longest_hold_units` shows the longest hold.
//!
//! | what | what bounds it in one hold |
//! |---|---|
//! | publish, transaction, dead letter, will | finding the queues stops and continues, by steps that `headers.rs` and `topic/` count |
//! | a message put into its queues | one hold: 0.07 to 0.17 us for each queue; `max_queues`, and sessions as many as objects may |
//! | further routing keys of a message (CC, BCC) | `message_keys_max` |
//! | transaction | `transaction_deliveries_max`: messages times queues, and deliveries settled |
//! | memory of walks that stopped | an eighth of the memory for objects, and one walk more (`walks.rs`) |
//! | settle, recover, close, detach | a unit for each delivery, taken or not; rejects wait while many dead letters are under way (`routing.rs`) |
//! | consume, cancel, prefetch | a unit for 16 consumers in the lists searched |
//! | get | at most 64 of a connection wait for the disk |
//! | purge | waiting messages are removed at once; outstanding ones are searched in steps (`purging.rs`) |
//! | declare, bind, unbind, delete | units for each binding; chains of exchanges are deleted over several holds |
//! | queues that refuse a message | a unit each; their dead letters are made over several holds (`queue_limits.rs`) |
//! | subscribe, unsubscribe, end of a session | units for each filter |
//! | replay of retained messages | a unit for each look-up |
//! | expiry, length limits, consumers passed over | a budget of their own, and 32 units for each queue after that |
//! | eviction, deferred drops | steps of their own (`memory.rs`) |
//! | what waits for a batch of the log | a unit for each, and for 8 answers; 32 for a queue (`release_waits`) |
//! | groups of a session that comes back | 32 units for each (`joining.rs`) |
//! | a jump of the clock | a unit for each queue and session |
//! | pressure, connections that are ended, room on the disk again | rounds: a unit for each connection, 32 for each queue (`rounds.rs`) |
//! | queues that wait for the same | 32 of them are dispatched in a turn, the others later (`touch_some`) |
//! | growth of tables | the entries of a segment, some hundred (`segmented.rs`) |

use super::Settings;
use crate::fault::Fault;
use crate::message::Message;
use crate::properties::Name;
use crate::router::{Router, Target, Walk};

/// The rest of a hold's work units. The last piece of work may cost more than is left; the hold ends with it.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    left: usize,
    spent: usize,
}

/// Steps of a walk over bindings that cost one work unit.
const STEPS_PER_UNIT: usize = 4;
/// Steps that a walk may take at the end of a hold. Most are done by then, and need not be kept for the next hold.
const STEPS_MIN: usize = 256;

/// The hold is over before the command is done; it continues in the next one. No extra state is kept for that: a
/// command works on objects that still exist, and removes them as it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished;

impl Budget {
    /// The budget of a new hold: at least one unit, so that every hold makes progress.
    pub(crate) fn of_hold(settings: &Settings) -> Budget {
        Budget::of(settings.hold_units_max.max(1))
    }
    fn of(units: usize) -> Budget {
        Budget { left: units, spent: 0 }
    }
    /// A budget for work that must be done in one hold.
    pub(crate) fn whole() -> Budget {
        Budget::of(usize::MAX)
    }
    /// Whether the work must be done in one hold.
    pub(crate) fn is_whole(&self) -> bool {
        self.left > usize::MAX / 2
    }
    pub(crate) fn spend(&mut self, units: usize) {
        self.left = self.left.saturating_sub(units);
        self.spent = self.spent.saturating_add(units);
    }
    pub(crate) fn is_spent(&self) -> bool {
        self.left == 0
    }
    /// Units spent. They may be more than the budget had: the last piece of work may cost more than was left.
    pub(crate) fn spent(&self) -> usize {
        self.spent
    }
    /// To be called before each piece of work that may wait for the next hold.
    pub(crate) fn check(&self) -> Result<(), Unfinished> {
        if self.is_spent() { Err(Unfinished) } else { Ok(()) }
    }
    /// The units left, but at least `least`, for work that progresses a little in every hold.
    pub(crate) fn left_or(&self, least: usize) -> usize {
        self.left.max(least)
    }
    /// The units left.
    pub(crate) fn left(&self) -> usize {
        self.left
    }
    /// Continues to find the queues of a message. `None` if the hold ends first.
    pub(crate) fn route<'r>(
        &mut self,
        router: &'r mut Router,
        message: &Message,
        extra_keys: &[Name],
        stopped: &mut Option<Box<Walk>>,
    ) -> Result<Option<&'r [Target]>, Fault> {
        let most = self.left.saturating_mul(STEPS_PER_UNIT).max(STEPS_MIN);
        let mut steps = most;
        let routed = router.route_some(message, extra_keys, stopped, &mut steps);
        self.spend((most - steps) / STEPS_PER_UNIT);
        routed
    }
}
