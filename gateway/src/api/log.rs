//! `/api/gatepost/log`: the newest lines of the log. For monitors: lines name clients of every vhost.

use super::caller::Caller;
use super::query::Query;
use super::{Answer, Refusal, answer};
use crate::logging::tail;
use crate::node::Node;
use axum::Router;
use axum::routing::get;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::UNIX_EPOCH;
use tracing::Level;

pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new().route("/api/gatepost/log", get(newest))
}

/// Lists lines, newest first. Parameters: `level` (error, warn, info) and `limit`.
async fn newest(caller: Caller, query: Query) -> Answer {
    caller.monitors()?;
    let level = query.get("level").unwrap_or("info");
    let level: Level = level
        .parse()
        .map_err(|_| Refusal::bad_request("level: expected error, warn or info"))?;
    let limit = query.get("limit").map_or(Ok(usize::MAX), str::parse);
    let limit = limit.map_err(|_| Refusal::bad_request("limit: expected a number"))?;
    let lines: Vec<Value> = tail::newest(level, limit)
        .into_iter()
        .map(|line| {
            let since = line.time.duration_since(UNIX_EPOCH).unwrap_or_default();
            json!({
                "timestamp": u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
                "level": line.level.as_str(),
                "text": line.text,
            })
        })
        .collect();
    answer(&json!({ "lines": lines }))
}
