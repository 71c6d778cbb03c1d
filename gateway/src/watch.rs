//! Looks after what changes around the process: the system's clock, free disk, a log that falls behind.

use crate::machine;
use crate::node::Node;
use crate::store;
use gatepost_core::event::Pressure;
use std::sync::atomic::Ordering;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(1);
/// Commits that are further behind than this hold publishers back.
const BEHIND: Duration = Duration::from_secs(2);
/// The alarm ends only this much above the limit, in percent, so that it does not flutter.
const CLEAR_PERCENT: u64 = 105;

/// Looks every second, for ever.
pub(crate) async fn run(node: &Node) {
    let mut held: Option<Pressure> = None;
    loop {
        node.clock.follow_system();
        let pressure = look(node);
        if pressure != held {
            for vhost in &node.vhosts {
                vhost.enter(|engine, wakes| engine.set_pressure(pressure, wakes));
            }
            held = pressure;
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn look(node: &Node) -> Option<Pressure> {
    let health = &node.health;
    if let Some((free, all)) = machine::disk_space(&node.config.node.data_dir) {
        let limit = disk_limit(node, all);
        health.disk_free.store(free, Ordering::Relaxed);
        health.disk_limit.store(limit, Ordering::Relaxed);
        let was = health.disk_alarm.load(Ordering::Relaxed);
        let alarm = if was {
            free < limit / 100 * CLEAR_PERCENT
        } else {
            free < limit
        };
        if alarm != was {
            health.disk_alarm.store(alarm, Ordering::Relaxed);
            if alarm {
                tracing::warn!(free, limit, "free disk is under its limit: publishers wait");
            } else {
                tracing::info!(free, limit, "free disk is over its limit again");
            }
        }
        if alarm {
            return Some(Pressure::Disk);
        }
    }
    (node.log.backlog().1 >= BEHIND).then_some(Pressure::Backlog)
}

/// The largest of the setting, 5 %, and 4 segments.
fn disk_limit(node: &Node, all: u64) -> u64 {
    let segment = store::segment_bytes(&node.config);
    node.config.disk.free_limit.0.max(all / 20).max(4 * segment)
}
