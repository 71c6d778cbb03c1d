//! HTTP for probes and Prometheus: `/metrics`, `/healthz`, `/readyz`.

pub(crate) mod bounded;
mod families;
pub(crate) mod metrics;

use crate::node::Node;
use crate::threads::IoThreads;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics::Exporter;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[derive(Clone)]
struct Http {
    node: Arc<Node>,
    threads: Arc<IoThreads>,
    exporter: Arc<Exporter>,
}

/// The routes of the metrics port.
pub(crate) fn router(node: Arc<Node>, threads: Arc<IoThreads>) -> Router {
    let exporter = Arc::new(Exporter::new(&node));
    Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .with_state(Http {
            node,
            threads,
            exporter,
        })
}

async fn scrape(State(http): State<Http>) -> impl IntoResponse {
    let text = http.exporter.scrape(&http.node, &http.threads);
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
}

/// Whether the process does its work: red only once it no longer can, and ends.
async fn alive(State(http): State<Http>) -> impl IntoResponse {
    if http.node.health.poisoned.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, LOG_FAILED)
    } else {
        (StatusCode::OK, "ok\n")
    }
}

const LOG_FAILED: &str = "the message log failed; nothing is confirmed any more\n";

const READS_FAIL: &str = "reads of the message log fail and are tried again; queues wait for them\n";

/// Whether to send clients here: never red for an alarm, which only makes publishers wait.
async fn ready(State(http): State<Http>) -> impl IntoResponse {
    let health = &http.node.health;
    let checks = [
        (health.poisoned.load(Ordering::Relaxed), LOG_FAILED),
        (health.reads_failing.load(Ordering::Relaxed) > 0, READS_FAIL),
        (health.stopping.load(Ordering::Relaxed), "stopping\n"),
        (!health.listening.load(Ordering::Relaxed), "not listening yet\n"),
    ];
    match checks.into_iter().find(|(bad, _)| *bad) {
        Some((_, why)) => (StatusCode::SERVICE_UNAVAILABLE, why),
        None => (StatusCode::OK, "ready\n"),
    }
}
