//! HTTP for probes and Prometheus: `/healthz` and `/readyz` for everybody, who learns no more than that; `/metrics` at
//! addresses of this machine, unless the configuration opens it.

pub(crate) mod bounded;
mod families;
pub(crate) mod metrics;

use crate::node::Node;
use crate::threads::IoThreads;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use bounded::AtLoopback;
use metrics::Exporter;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// For a whole request head of a probe, and from one request of a connection to the next.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

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
        .with_state(Http {
            node: Arc::clone(&node),
            threads,
            exporter,
        })
        .merge(health(node))
}

/// The routes of probes.
pub(crate) fn health(node: Arc<Node>) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .with_state(node)
}

async fn scrape(State(http): State<Http>, Extension(AtLoopback(here)): Extension<AtLoopback>) -> Response {
    if http.node.config().metrics.loopback_only && !here {
        return (StatusCode::FORBIDDEN, NOT_HERE).into_response();
    }
    let text = http.exporter.scrape(&http.node, &http.threads);
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, text).into_response()
}

const NOT_HERE: &str =
    "/metrics is answered at 127.0.0.1 and ::1 only; metrics.loopback_only = false answers it at all addresses\n";

/// Whether the process does its work: red only once it no longer can, and ends.
async fn alive(State(node): State<Arc<Node>>) -> impl IntoResponse {
    if node.health.poisoned.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, LOG_FAILED)
    } else {
        (StatusCode::OK, "ok\n")
    }
}

const LOG_FAILED: &str = "the message log failed; nothing is confirmed any more\n";

const READS_FAIL: &str = "reads of the message log fail and are tried again; queues wait for them\n";

const DISK_FULL: &str = "the disk is full: durable publishes are refused\n";

/// Whether to send clients here. An alarm that only makes publishers wait leaves it green.
async fn ready(State(node): State<Arc<Node>>) -> impl IntoResponse {
    let health = &node.health;
    let checks = [
        (health.poisoned.load(Ordering::Relaxed), LOG_FAILED),
        (health.reads_failing.load(Ordering::Relaxed) > 0, READS_FAIL),
        (health.stopping.load(Ordering::Relaxed), "stopping\n"),
        (health.disk_full.load(Ordering::Relaxed), DISK_FULL),
        (!health.listening.load(Ordering::Relaxed), "not listening yet\n"),
    ];
    match checks.into_iter().find(|(bad, _)| *bad) {
        Some((_, why)) => (StatusCode::SERVICE_UNAVAILABLE, why),
        None => (StatusCode::OK, "ready\n"),
    }
}
