//! Fills a broker, and the waits that all measurements of a backlog have in common.

use super::scrape::Scrape;
use crate::compare::peer::Running;
use crate::plan::Plan;
use crate::report::Report;
use crate::run;
use std::time::Duration;

/// Pause after a start or a fill before memory is read, so that the broker has finished its work.
pub(crate) const SETTLE: Duration = Duration::from_secs(2);
/// A drain ends when nothing has arrived for this long, because lost messages never arrive.
pub(crate) const DRAIN_STALL: Duration = Duration::from_secs(15);
/// A fill may make no progress for this long: brokers write snapshots, and block publishers while they page.
const FILL_STALL: Duration = Duration::from_secs(60);

/// Runs a plan that publishes.
///
/// # Errors
/// The broker did not take and confirm every message.
pub(crate) fn fill(mut plan: Plan) -> anyhow::Result<Report> {
    plan.stall = FILL_STALL;
    let report = run::run(&plan)?;
    report.ensure_clean()?;
    Ok(report)
}

/// The broker's metrics now; `None`: it has none.
pub(crate) fn scrape(broker: &Running) -> anyhow::Result<Option<Scrape>> {
    broker.metrics.map(Scrape::of).transpose()
}
