//! Fills a broker. Also the waits that all backlog measurements share.

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
/// A fill fails after this long without progress: brokers write snapshots, and block publishers while they page.
const FILL_STALL: Duration = Duration::from_secs(60);

/// Runs a plan that only publishes.
///
/// # Errors
/// The broker did not accept and confirm every message.
pub(crate) fn fill(mut plan: Plan) -> anyhow::Result<Report> {
    plan.stall = FILL_STALL;
    let report = run::run(&plan)?;
    report.ensure_clean()?;
    Ok(report)
}

/// The broker's current metrics; `None` if it has none.
pub(crate) fn scrape(broker: &Running) -> anyhow::Result<Option<Scrape>> {
    broker.metrics.map(Scrape::of).transpose()
}
