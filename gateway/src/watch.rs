//! Watches the system's clock, free disk, and whether the log falls behind.
//!
//! ```text
//!   free disk  ── limit: publishers wait ── reserve: durable publishes are refused ── 0
//! ```

use crate::machine;
use crate::node::Node;
use crate::store;
use gatepost_core::event::Pressure;
use gatepost_core::time::Now;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(1);
/// A step of the wall clock after which timers are computed again.
const JUMP: Duration = Duration::from_secs(1);
/// An alarm ends at this percentage of its limit, so that it does not switch on and off all the time.
const CLEAR_PERCENT: u64 = 105;
/// Publishers wait if less than this many segments of disk are free.
const LIMIT_SEGMENTS: u64 = 4;
/// Segments reserved for settlements and definitions.
const RESERVE_SEGMENTS: u64 = 2;

/// Checks every second, and whenever the log has grown. Never returns.
pub(crate) async fn run(node: &Node) {
    let mut held: Option<Pressure> = None;
    let mut told = node.vhosts.list();
    let mut ahead = ahead(node.clock.now());
    loop {
        node.clock.follow_system();
        follow_clock(node, &mut ahead);
        let pressure = look(node);
        let vhosts = node.vhosts.list();
        // New vhosts have not been told yet.
        if pressure != held || !Arc::ptr_eq(&vhosts, &told) {
            for vhost in vhosts.iter() {
                vhost.enter(|engine| engine.set_pressure(pressure));
            }
            held = pressure;
            told = vhosts;
        }
        // After a timeout and after a notification, the same check follows.
        let _ = tokio::time::timeout(EVERY, node.look.notified()).await;
    }
}

/// By how much the wall clock is ahead of the monotonic clock.
fn ahead(now: Now) -> Duration {
    Duration::from_millis(now.wall.0.saturating_sub(now.monotonic.0))
}

/// Tells the engines that the wall clock has jumped ahead: deadlines in wall-clock time are due earlier than their timers say.
fn follow_clock(node: &Node, before: &mut Duration) {
    let ahead = ahead(node.clock.now());
    // A smaller difference is drift of the clocks. It adds up until it reaches the threshold.
    if ahead.saturating_sub(*before) < JUMP {
        return;
    }
    *before = ahead;
    for vhost in node.vhosts.list().iter() {
        vhost.enter(|engine| engine.follow_clock(node.clock.now()));
    }
}

/// Bytes of growth of the log after which free disk is checked.
pub(crate) fn worth_a_look(node: &Node) -> u64 {
    store::segment_bytes(&node.config()) / 8
}

fn look(node: &Node) -> Option<Pressure> {
    let health = &node.health;
    if let Some((free, all)) = machine::disk_space(&node.config().node.data_dir) {
        let limit = disk_limit(node, all);
        health.disk_free.store(free, Ordering::Relaxed);
        health.disk_limit.store(limit, Ordering::Relaxed);
        let alarm = is_under(&health.disk_alarm, free, limit);
        if let Some(alarm) = alarm.changed {
            if alarm {
                tracing::warn!(free, limit, "free disk is under its limit: publishers wait");
            } else {
                tracing::info!(free, limit, "free disk is over its limit again");
            }
        }
        let reserved = health.log_reserved.load(Ordering::Relaxed);
        let (room, reserve) = (free.saturating_add(reserved), disk_reserve(node));
        let full = is_under(&health.disk_full, room, reserve);
        if let Some(full) = full.changed {
            if full {
                tracing::error!(room, reserve, "the disk is full: durable publishes are refused");
            } else {
                tracing::info!(room, reserve, "the disk is no longer full");
            }
        }
        if full.now {
            return Some(Pressure::Full);
        }
        if alarm.now {
            return Some(Pressure::Disk);
        }
    }
    (node.log.backlog().1 >= node.config().store.backlog_time.0).then_some(Pressure::Backlog)
}

struct Alarm {
    now: bool,
    /// The new state, if it changed.
    changed: Option<bool>,
}

fn is_under(alarm: &AtomicBool, value: u64, limit: u64) -> Alarm {
    let was = alarm.load(Ordering::Relaxed);
    let over = if was {
        limit.saturating_add(limit / 100 * (CLEAR_PERCENT - 100))
    } else {
        limit
    };
    let now = value < over;
    alarm.store(now, Ordering::Relaxed);
    Alarm {
        now,
        changed: (now != was).then_some(now),
    }
}

/// The largest of the setting, 5 %, and 4 segments.
fn disk_limit(node: &Node, all: u64) -> u64 {
    let segment = store::segment_bytes(&node.config());
    let limit = node.config().disk.free_limit.0.max(all / 20);
    limit.max(LIMIT_SEGMENTS.saturating_mul(segment))
}

/// The larger of the setting and 2 segments, plus data on its way to the log, which must not use the reserve.
fn disk_reserve(node: &Node) -> u64 {
    let segment = store::segment_bytes(&node.config());
    let reserve = node
        .config()
        .disk
        .reserve
        .0
        .max(RESERVE_SEGMENTS.saturating_mul(segment));
    reserve.saturating_add(node.config().store.backlog.0.min(segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_ends_a_little_above_where_it_began() {
        let alarm = AtomicBool::new(false);
        let look = |value| {
            let Alarm { now, changed } = is_under(&alarm, value, 1_000);
            (now, changed)
        };
        assert_eq!(look(1_000), (false, None));
        assert_eq!(look(999), (true, Some(true)));
        assert_eq!(look(1_040), (true, None));
        assert_eq!(look(1_050), (false, Some(false)));
        assert_eq!(look(1_040), (false, None));
    }
}
